/* core_lines.c: lines of files, and records of CSV, as inputs of a job; for tidepool.lines.
 *
 * Files are read in chunks. A block of inputs is the bytes of its lines, copied once, and a scalar
 * for each line that says where in them it lies; no line becomes a Lua string before a worker calls
 * the function with it. A line that is cut by the end of a chunk waits for the next one. Since the
 * owner reads, data takes the same way as all scalars, and a line's number is its index, which
 * workers that read ranges of a file themselves could not know. */
#include "lua/core_private.h"

#include "codec/codec.h"

#include <errno.h>
#include <fcntl.h>
#include <lauxlib.h>
#include <lualib.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define LINES "tidepool.lines"

enum {
    CHUNK = 256 << 10,      /* bytes that are read at once */
    FILL_BYTES = 1 << 20,   /* a fill ends after so many bytes, so that results are looked for */
    FILE_NS = 1000 * 1000,  /* the same for a Lua file, where reading any line may block */
    SEPARATOR_MAX = 16,
    /* numbers with up to so many digits are printed exactly as they were written (tostring has
     * 14) */
    DIGITS_MAX = 14,
    NUMBER_MAX = 24,        /* bytes of the longest text that is taken for a number */
    /* the most fields that a function can be called with: LuaJIT's C stack has 8,000 slots */
    FIELDS_MAX = 7000
};

/* A part of `bytes`. */
typedef struct span {
    uint32_t at, length;
} span;

/* A line, or a record of CSV: where it lies in `bytes`, where it ends there with its separator, and
 * which of `fields` are its. */
typedef struct record {
    uint32_t at, end, first, n;
} record;

/* Where lines come from. Belongs to its Lua state; the environment keeps the list of paths, or the
 * Lua file, alive. */
typedef struct lines {
    int fd;        /* of the path that is being read; -1: none */
    bool is_owned; /* it is to be closed */
    bool is_regular; /* reading it never blocks */
    FILE **file;   /* a Lua file that is read; NULL: paths are read */
    /* the number of the path that is being read, from 1; 0: none was opened yet */
    int path, n_paths;
    bool at_end;   /* all of the file has been read */
    bool is_over;  /* nothing is left to read or to hand out */
    uint64_t line; /* the number in this file of the next line, from 1 */

    char *bytes;   /* what was read and not handed out yet lies from `at` to `used` */
    size_t at, used, room;
    size_t looked; /* no separator begins before this position */

    char separator[SEPARATOR_MAX], column[SEPARATOR_MAX];
    size_t separator_len, column_len; /* column_len 0: lines are not cut into fields */
    size_t limit;  /* the most bytes that a line may have */
    bool is_list;  /* a record is one argument, a list of its fields */
    /* index in the environment of the function that says whether a text is a number; 0: texts stay
     * texts */
    int to_number;

    record *records;
    span *fields; /* while they are cut, lengths are doubled, and odd for a field in quotes */
    uint32_t n_records, records_room, n_fields, fields_room;
} lines;

static void close_fd(lines *l)
{
    if (l->fd >= 0 && l->is_owned)
        close(l->fd);
    l->fd = -1;
}

/* lines:__gc */
static int l_gc(lua_State *L)
{
    lines *l = luaL_checkudata(L, 1, LINES);
    close_fd(l);
    free(l->bytes);
    free(l->records);
    free(l->fields);
    *l = (lines){ .fd = -1, .is_over = true };
    return 0;
}

static size_t get_separator(lua_State *L, int index, char *to)
{
    size_t len;
    const char *text = luaL_optlstring(L, index, "", &len);
    luaL_argcheck(L, len <= SEPARATOR_MAX, index, "too long");
    memcpy(to, text, len);
    return len;
}

/* core.lines.open(source, separator, columns or nil, limit, is_list, to_number or nil) -> lines.
 * The source is a list of paths, a Lua file, or the number of a descriptor. With `columns` (the
 * separator of fields) lines are records of CSV. is_list: a record is one argument, a list.
 * to_number(text) -> number or nil says which texts are numbers. */
static int l_lines_open(lua_State *L)
{
    lua_settop(L, 6);
    lines *l = lua_newuserdata(L, sizeof *l);
    *l = (lines){ .fd = -1, .line = 1 };
    luaL_getmetatable(L, LINES);
    lua_setmetatable(L, -2);
    if (lua_istable(L, 1)) {
        l->n_paths = (int)lua_objlen(L, 1);
    } else if (lua_isnumber(L, 1)) {
        l->fd = (int)lua_tointeger(L, 1);
    } else {
        l->file = luaL_checkudata(L, 1, LUA_FILEHANDLE);
    }
    l->separator_len = get_separator(L, 2, l->separator);
    l->column_len = get_separator(L, 3, l->column);
    luaL_argcheck(L, l->separator_len > 0, 2, "empty");
    l->limit = (size_t)luaL_checknumber(L, 4);
    l->is_list = lua_toboolean(L, 5);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    if (!lua_isnil(L, 6)) {
        lua_pushvalue(L, 6);
        lua_rawseti(L, -2, 2);
        l->to_number = 2;
    }
    lua_setfenv(L, -2);
    return 1;
}

/* ---- reading ---- */

/* Pushes the name, for messages, of what is being read; `line`: with the number of the next line.
 * The pushed value keeps it alive. */
static const char *push_name(lua_State *L, int index, const lines *l, bool line)
{
    lua_getfenv(L, index);
    lua_rawgeti(L, -1, 1);
    if (lua_istable(L, -1))
        lua_rawgeti(L, -1, l->path);
    const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                       : l->file                      ? "the file"
                                                      : "standard input";
    if (line) {
        char number[32];
        snprintf(number, sizeof number, "%llu", (unsigned long long)l->line);
        return lua_pushfstring(L, "%s: line %s", name, number);
    }
    return name;
}

/* Pushes nil and why the lines cannot be read. */
static void push_errno(lua_State *L, int index, const lines *l, int error)
{
    const char *name = push_name(L, index, l, false);
    lua_pushnil(L);
    lua_pushfstring(L, "cannot read %s: %s", name, strerror(error));
}

/* Makes room for a chunk. The buffer is doubled when a long line fills it, but not much beyond the
 * limit: it is moved a few times only, however few bytes each read brings. */
static int make_room(lines *l)
{
    if (l->room - l->used >= CHUNK)
        return 0;
    size_t open = l->used - l->at;
    if (open > 0)
        memmove(l->bytes, l->bytes + l->at, open);
    l->looked -= l->at < l->looked ? l->at : l->looked;
    l->at = 0;
    l->used = open;
    if (l->room - open >= CHUNK)
        return 0;
    size_t left = open < l->limit ? l->limit - open + l->separator_len + 1 : 0;
    size_t more = open < left ? open : left;
    size_t room = open + (more > CHUNK ? more : CHUNK);
    char *bytes = realloc(l->bytes, room);
    if (!bytes)
        return -1;
    l->bytes = bytes;
    l->room = room;
    return 0;
}

typedef enum got { READ, NOTHING_NOW, FILE_ENDS, FAILED } got;

/* Reads from a Lua file: the whole lines in its buffer, until that takes long. */
static got read_file(lines *l, int *error)
{
    FILE *f = *l->file;
    if (!f) {
        *error = EBADF;
        return FAILED;
    }
    char last = l->separator[l->separator_len - 1];
    uint64_t until = uv_hrtime() + FILE_NS;
    size_t before = l->used;
    int c = 0;
    flockfile(f);
    for (unsigned n = 1; l->used < l->room && l->used - before < CHUNK; n++) {
        while (l->used < l->room && (c = getc_unlocked(f)) != EOF) {
            l->bytes[l->used++] = (char)c;
            if ((char)c == last)
                break;
        }
        if (c == EOF || ((n < 64 || n % 16 == 0) && uv_hrtime() > until))
            break;
    }
    bool has_failed = c == EOF && ferror(f);
    *error = has_failed ? errno : 0;
    funlockfile(f);
    if (has_failed)
        return FAILED;
    return l->used > before ? READ : FILE_ENDS;
}

/* Opens the next path. */
static got open_next(lua_State *L, int index, lines *l, int *error)
{
    lua_getfenv(L, index);
    lua_rawgeti(L, -1, 1);
    lua_rawgeti(L, -1, l->path + 1);
    const char *path = lua_tostring(L, -1);
    l->fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    *error = errno;
    lua_pop(L, 3);
    struct stat st;
    l->is_owned = true;
    l->is_regular = l->fd >= 0 && fstat(l->fd, &st) == 0 && S_ISREG(st.st_mode);
    l->line = 1;
    l->path++;
    return l->fd < 0 ? FAILED : READ;
}

/* Reads more, or opens the next file. Waits at most wait_ms for something to read. */
static got read_more(lua_State *L, int index, lines *l, int wait_ms, int *error)
{
    if (make_room(l)) {
        *error = ENOMEM;
        return FAILED;
    }
    if (l->file)
        return read_file(l, error);
    if (l->fd < 0)
        return open_next(L, index, l, error);
    if (!l->is_regular) {
        struct pollfd p = { .fd = l->fd, .events = POLLIN };
        if (poll(&p, 1, wait_ms) <= 0)
            return NOTHING_NOW;
    }
    ssize_t n = read(l->fd, l->bytes + l->used, l->room - l->used);
    if (n < 0 && errno == EINTR)
        return NOTHING_NOW;
    *error = errno;
    if (n < 0)
        return FAILED;
    l->used += (size_t)n;
    return n > 0 ? READ : FILE_ENDS;
}

/* ---- cutting ---- */

/* The list, grown to twice its room when n elements fill it; NULL when out of memory, with the list
 * as it was. */
static void *with_room(void *list, uint32_t n, uint32_t *room, size_t size)
{
    uint32_t more = *room ? 2 * *room : 4096;
    if (n < *room)
        return list;
    list = realloc(list, more * size);
    *room = list ? more : *room;
    return list;
}

static int add_field(lines *l, uint32_t at, uint32_t length)
{
    span *fields = with_room(l->fields, l->n_fields, &l->fields_room, sizeof *fields);
    if (!fields)
        return -1;
    l->fields = fields;
    l->fields[l->n_fields++] = (span){ at, length };
    return 0;
}

static int add_record(lines *l, uint32_t at, uint32_t end, uint32_t first)
{
    record *records = with_room(l->records, l->n_records, &l->records_room, sizeof *records);
    if (!records)
        return -1;
    l->records = records;
    l->records[l->n_records++] = (record){ at, end, first, l->n_fields - first };
    return 0;
}

/* Does the text begin at p? */
static bool begins(const char *p, const char *end, const char *text, size_t len)
{
    return p < end && *p == *text && (size_t)(end - p) >= len &&
           (len == 1 || memcmp(p, text, len) == 0);
}

/* Cuts the line that begins at l->at, as one field; *end is behind its separator. 1; 0 when its end
 * was not read yet; -1 when out of memory. */
static int cut_line(lines *l, bool is_last, size_t *end)
{
    size_t from = l->looked > l->at ? l->looked : l->at, left = l->used - from;
    const char *p = l->separator_len == 1
                        ? memchr(l->bytes + from, *l->separator, left)
                        : memmem(l->bytes + from, left, l->separator, l->separator_len);
    size_t content = p ? (size_t)(p - l->bytes) : l->used;
    if (!p && (!is_last || l->at == l->used)) {
        l->looked = left >= l->separator_len ? l->used - l->separator_len + 1 : from;
        return 0;
    }
    *end = content + (p ? l->separator_len : 0);
    return add_field(l, (uint32_t)l->at, (uint32_t)(content - l->at) << 1) ? -1 : 1;
}

/* The end of the field that begins at p, as it is written in the file. *quoted: it begins with a
 * quote. NULL when its end was not read yet; if nothing more can be read, its quote is not
 * closed. */
static const char *find_field(const lines *l, const char *p, const char *end, bool is_last,
                              bool *quoted)
{
    *quoted = p < end && *p == '"';
    if (*quoted) {
        for (p++;; p += 2) {
            p = memchr(p, '"', (size_t)(end - p));
            if (!p || (p + 1 == end && !is_last))
                return NULL;
            if (p + 1 == end || p[1] != '"')
                break;
        }
        p++;
    }
    while (p < end && !begins(p, end, l->column, l->column_len) &&
           !begins(p, end, l->separator, l->separator_len))
        p++;
    return p < end || is_last ? p : NULL;
}

/* Removes the quotes of a field from p to end, which begins with one, in place. Returns its new
 * length. What follows the closing quote belongs to the field. */
static size_t unquote(char *p, const char *end)
{
    char *to = p;
    const char *from = p + 1;
    while (from < end && (*from != '"' || (from + 1 < end && from[1] == '"'))) {
        if (*from == '"')
            from++;
        *to++ = *from++;
    }
    for (from++; from < end; from++)
        *to++ = *from;
    return (size_t)(to - p);
}

enum { UNCLOSED = 2 };

/* Cuts the record that begins at l->at into fields; returns as cut_line, or UNCLOSED. */
static int cut_record(lines *l, bool is_last, size_t *end_at)
{
    const char *end = l->bytes + l->used, *p = l->bytes + l->at;
    if (p == end)
        return 0;
    for (;;) {
        bool quoted;
        const char *field = p;
        p = find_field(l, p, end, is_last, &quoted);
        if (!p)
            return is_last ? UNCLOSED : 0;
        bool goes_on = begins(p, end, l->column, l->column_len);
        size_t length = (size_t)(p - field);
        if (!goes_on && *l->separator == '\n' && length > 0 && field[length - 1] == '\r')
            length--;
        if (add_field(l, (uint32_t)(field - l->bytes), (uint32_t)length << 1 | quoted))
            return -1;
        if (!goes_on) {
            *end_at = (size_t)(p - l->bytes) + (p < end ? l->separator_len : 0);
            return 1;
        }
        p += l->column_len;
    }
}

/* Cuts up to `most` records out of what was read. -1 with a format in *why: there is no memory, a
 * line is too long, or the last one has an open quote. */
static int cut(lines *l, uint64_t most, bool is_last, const char **why)
{
    l->n_records = l->n_fields = 0;
    while (l->n_records < most) {
        uint32_t first = l->n_fields;
        size_t end = l->used;
        int rc = l->column_len ? cut_record(l, is_last, &end) : cut_line(l, is_last, &end);
        bool is_long = end - l->at > l->limit + l->separator_len,
             is_wrong = is_long || rc == UNCLOSED;
        if (rc > 0 && !is_wrong)
            rc = add_record(l, (uint32_t)l->at, (uint32_t)end, first) ? -1 : 1;
        *why = rc < 0          ? TP_NO_MEMORY
             : !is_long      ? "%s has a quote that is not closed"
             : l->column_len ? "%s is longer than the limit of %s bytes (is a quote not closed?)"
                             : "%s is longer than the limit of %s bytes";
        if (rc < 0 || (is_wrong && l->n_records == 0))
            return -1;
        if (rc == 0 || is_wrong) { /* hand out the records before it first */
            l->n_fields = first;
            return 0;
        }
        for (span *f = l->fields + first; f < l->fields + l->n_fields; f++) {
            bool quoted = f->length & 1;
            f->length >>= 1;
            if (quoted)
                f->length = (uint32_t)unquote(l->bytes + f->at, l->bytes + f->at + f->length);
        }
        l->at = l->looked = end;
        l->line++;
    }
    return 0;
}

/* The file is at its end and all of it was handed out: the next one follows, if there is any. */
static void leave_file(lines *l)
{
    close_fd(l);
    l->at_end = false;
    l->is_over = l->path == l->n_paths;
    if (!l->is_over)
        return;
    free(l->bytes);
    l->bytes = NULL;
    l->at = l->used = l->room = l->looked = 0;
}

/* Cuts up to `most` records, reading as much as it takes to have one. n_records 0: none is there
 * yet or, when l->is_over, none will come. Returns 0; or 2, with nil and a message pushed. */
static int advance(lua_State *L, int index, lines *l, uint64_t most, int wait_ms)
{
    const char *why;
    int error = 0;
    l->n_records = 0;
    while (!l->is_over) {
        if (l->used > l->at && cut(l, most, l->at_end, &why)) {
            char limit[32];
            snprintf(limit, sizeof limit, "%zu", l->limit);
            const char *name = push_name(L, index, l, true);
            lua_pushnil(L);
            lua_pushfstring(L, why, name, limit);
            return 2;
        }
        if (l->n_records > 0)
            return 0;
        if (l->at_end || (l->fd < 0 && !l->file && l->path == l->n_paths)) {
            leave_file(l);
            continue;
        }
        got g = read_more(L, index, l, wait_ms, &error);
        if (g == FAILED) {
            push_errno(L, index, l, error);
            /* go back one path, so that the next call gets the error again */
            l->path -= l->fd < 0 && l->path > 0;
            return 2;
        }
        if (g == NOTHING_NOW)
            return 0;
        l->at_end = g == FILE_ENDS;
    }
    return 0;
}

/* ---- giving out ---- */

/* Is the text a whole or decimal number in its canonical form, so that the number would be printed
 * the same way again? Only numbers of few digits, which doubles keep. When it is not, *maybe says
 * whether to_number may still take it for a number. */
static bool is_plain_number(const char *p, size_t n, double *number, bool *maybe)
{
    static const double powers[] = { 1,   1e1, 1e2,  1e3,  1e4,  1e5,  1e6, 1e7,
                                     1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14 };
    const char *end = p + n;
    bool is_negative = p < end && *p == '-';
    p += is_negative;
    *maybe = p < end && *p >= '0' && *p <= '9' && n <= NUMBER_MAX;
    for (const char *q = p; *maybe && q < end; q++)
        *maybe = (*q >= '0' && *q <= '9') || *q == '.' || *q == 'e' || *q == '+' || *q == '-';
    if (!*maybe || n > DIGITS_MAX || (*p == '0' && n > 1 && p[1] != '.') ||
        (*p == '0' && is_negative))
        return false; /* not canonical: a leading zero with more digits behind it, or -0 */
    double mantissa = 0;
    unsigned behind = 0;
    bool has_point = false;
    for (; p < end; p++) {
        if (*p == '.' && !has_point) {
            has_point = true;
        } else if (*p >= '0' && *p <= '9') {
            mantissa = mantissa * 10 + (*p - '0');
            behind += has_point;
        } else {
            return false;
        }
    }
    if (has_point && (behind == 0 || end[-1] == '0' || mantissa < powers[behind] / 1000))
        return false;
    *number = (is_negative ? -mantissa : mantissa) / powers[behind];
    return true;
}

/* Is the text a number? Calls to_number when the text is not a plain one. */
static bool is_number(lua_State *L, int index, const lines *l, const char *text, size_t n,
                      double *number)
{
    bool maybe;
    if (is_plain_number(text, n, number, &maybe))
        return true;
    if (!maybe)
        return false;
    lua_getfenv(L, index);
    lua_rawgeti(L, -1, l->to_number);
    lua_pushlstring(L, text, n);
    lua_call(L, 1, 1);
    bool is_one = lua_isnumber(L, -1);
    *number = lua_tonumber(L, -1);
    lua_pop(L, 2);
    return is_one;
}

static void push_field(lua_State *L, int index, const lines *l, uint32_t i)
{
    const span *f = &l->fields[i];
    double number;
    if (l->to_number && is_number(L, index, l, l->bytes + f->at, f->length, &number))
        lua_pushnumber(L, number);
    else
        lua_pushlstring(L, l->bytes + f->at, f->length);
}

/* Pushes the record's arguments; returns their number. */
static int push_record(lua_State *L, int index, const lines *l, const record *r)
{
    if (!l->is_list) {
        for (uint32_t i = 0; i < r->n; i++)
            push_field(L, index, l, r->first + i);
        return (int)r->n;
    }
    lua_createtable(L, (int)r->n, 0);
    for (uint32_t i = 0; i < r->n; i++) {
        push_field(L, index, l, r->first + i);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

/* Makes a block of the records from..to, which have the same number of fields. Raises out of
 * memory. */
static tp_block *make_block(lua_State *L, const lines *l, uint32_t from, uint32_t to)
{
    static const uint8_t types[TP_COLUMNS_MAX] = { TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED,
                                                   TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED };
    const record *first = &l->records[from];
    uint32_t begin = first->at, length = l->records[to - 1].end - begin, n = to - from;
    tp_block *b = tp_block_new_columns(n, first->n, types, length);
    if (!b)
        tp_codec_raise_memory(L);
    memcpy(b->text.bytes, l->bytes + begin, length);
    b->text.used = length;
    b->n = n;
    for (uint32_t c = 0; c < first->n; c++) {
        tp_scalar *x = b->column[c];
        const span *f = l->fields + first->first + c;
        for (uint32_t k = 0; k < n; k++, f += first->n)
            x[k] =
                (tp_scalar){ .as.string = { f->at - begin, f->length }, .kind = TP_SCALAR_STRING };
    }
    return b;
}

/* Makes numbers of those scalars of the block that are taken for numbers. */
static void find_numbers(lua_State *L, int index, const lines *l, tp_block *b)
{
    for (uint32_t c = 0; c < b->columns; c++) {
        tp_scalar *x = b->column[c];
        double number;
        for (uint32_t k = 0; k < b->n; k++)
            if (is_number(L, index, l, b->text.bytes + x[k].as.string.at, x[k].as.string.length,
                          &number))
                x[k] = (tp_scalar){ .as.number = number, .kind = TP_SCALAR_NUMBER };
    }
}

/* Pushes the records from..to, which fit into columns, to the job. */
static void push_columns(lua_State *L, int index, const lines *l, int job, uint32_t from,
                         uint32_t to)
{
    tp_block *b = make_block(L, l, from, to);
    tp_core_build(L, job, b);
    if (l->to_number)
        find_numbers(L, index, l, b); /* may raise: the job owns the block */
    tp_core_push_built(L, job);
}

/* Is there room on the stack for the record's fields? */
static bool has_stack(lua_State *L, const lines *l, const record *r)
{
    return l->is_list || (r->n <= FIELDS_MAX && lua_checkstack(L, (int)r->n + LUA_MINSTACK));
}

static void push_too_many(lua_State *L, const record *r)
{
    lua_pushfstring(L, "a line has %d fields; %d are possible", (int)r->n, FIELDS_MAX);
}

/* The same for records of any kind, encoded one by one. Returns 0; or 2, with nil and a message
 * pushed. */
static int push_values(lua_State *L, int index, const lines *l, int job, uint32_t from, uint32_t to)
{
    tp_error err = { 0 };
    int top = lua_gettop(L);
    for (uint32_t k = from; k < to; k++) {
        const record *r = &l->records[k];
        if (!has_stack(L, l, r)) {
            lua_pushnil(L);
            push_too_many(L, r);
            return 2;
        }
        int n = push_record(L, index, l, r);
        if (tp_core_add(L, job, top + 1, n, &err))
            return tp_core_push_message(L, &err);
        lua_settop(L, top);
    }
    tp_core_push_built(L, job);
    return 0;
}

/* Pushes all records to the job, in blocks of records with the same number of fields. Returns 0; or
 * 2, with nil and a message pushed. */
static int push_records(lua_State *L, int index, const lines *l, int job)
{
    for (uint32_t from = 0, to; from < l->n_records; from = to) {
        uint32_t n = l->records[from].n;
        bool fits = !l->is_list && n <= TP_COLUMNS_MAX;
        for (to = from + 1;
             to < l->n_records &&
             (fits ? l->records[to].n == n : l->is_list || l->records[to].n > TP_COLUMNS_MAX);)
            to++;
        if (fits)
            push_columns(L, index, l, job, from, to);
        else if (push_values(L, index, l, job, from, to))
            return 2;
    }
    return 0;
}

/* core.lines.check(path) -> nil, or why the file cannot be read */
static int l_lines_check(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct stat st;
    int error = stat(path, &st)       ? errno
                : S_ISDIR(st.st_mode) ? EISDIR
                : access(path, R_OK)  ? errno
                                      : 0;
    if (!error)
        return 0;
    lua_pushstring(L, strerror(error));
    return 1;
}

/* core.lines.fill(lines, job, room, milliseconds) -> how many inputs were pushed, and whether there
 * are no more; or nil and why they cannot be read. Waits at most so long (-1: for ever) for the
 * first. */
static int l_lines_fill(lua_State *L)
{
    lines *l = luaL_checkudata(L, 1, LINES);
    uint64_t room = (uint64_t)luaL_checknumber(L, 3), n = 0;
    int wait_ms = (int)luaL_checkinteger(L, 4);
    size_t bytes = 0;
    luaL_argcheck(L, room > 0, 3, "there is no room");
    do {
        if (advance(L, 1, l, room - n, n > 0 ? 0 : wait_ms)) {
            if (n == 0)
                return 2;
            break; /* the same error comes again at the next call */
        }
        if (l->n_records == 0)
            break;
        if (push_records(L, 1, l, 2))
            return 2;
        n += l->n_records;
        bytes += l->records[l->n_records - 1].end - l->records[0].at;
    } while (n < room && bytes < FILL_BYTES && !l->file);
    lua_pushnumber(L, (double)n);
    lua_pushboolean(L, l->is_over);
    return 2;
}

/* core.lines.take(lines, milliseconds) -> the arguments for the next line; or nil, whether there
 * are no more, and, if they cannot be read, why. Waits at most so long (-1: for ever). */
static int l_lines_take(lua_State *L)
{
    lines *l = luaL_checkudata(L, 1, LINES);
    if (advance(L, 1, l, 1, (int)luaL_checkinteger(L, 2))) {
        lua_pushboolean(L, 0);
        lua_insert(L, -2);
        return 3;
    }
    if (l->n_records > 0) {
        if (has_stack(L, l, l->records))
            return push_record(L, 1, l, l->records);
        lua_pushnil(L);
        lua_pushboolean(L, 0);
        push_too_many(L, l->records);
        return 3;
    }
    lua_pushnil(L);
    lua_pushboolean(L, l->is_over);
    return 2;
}

static const luaL_Reg lines_functions[] = {
    { "open", l_lines_open },
    { "check", l_lines_check },
    { "fill", l_lines_fill },
    { "take", l_lines_take },
    { NULL, NULL },
};

void tp_core_register_lines(lua_State *L)
{
    if (luaL_newmetatable(L, LINES)) {
        lua_pushcfunction(L, l_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    tp_core_register(L, "lines", lines_functions);
}
