/* encode.c: Lua values to bytes.
 *
 * One pass over the values, with the encoder on the C stack. A refusal names its path, which is put
 * together from the inside to the outside on the way back. Some refusals only restart the message:
 * a module that was just found may have been written already as a plain table. */
#include "base/array.h"
#include "base/blake2b.h"
#include "codec/bytecode.h"
#include "codec/captured.h"
#include "codec/codec_state.h"
#include "codec/identity.h"
#include "codec/message.h"

#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RUN_AFTER = 4 };   /* numbers in a row after which the rest of an array is packed */

/* A message in the making. On the C stack: an error that jumps over it must not leak anything, so
 * it owns nothing. */
typedef struct encoder {
    lua_State *L;
    struct work *w;  /* NULL until it is needed, which numbers do not do */
    struct codec *c; /* the same */
    tp_buf *out;
    uint8_t *base; /* where the message starts: out->data + out->len, which stays as it was until
                      the end */
    uint8_t *p, *end;
    uint32_t nrefs; /* of out, at the start */
    unsigned flags, depth;
    uint32_t found; /* the offset of what see() found */

    /* the message in which this definition of a class is needed; NULL: this is no definition */
    struct encoder *outer;
    int defining;          /* the class that is being defined; -1: none */
    bool is_partial;       /* refers to a class whose definition is being made around this one */
    bool scanned;          /* package.loaded has been looked through for this message */
    bool restart; /* something that is now known by name may have been written by value already */
    bool has_paths;
    unsigned ranking; /* how deep calls of rank_of are nested (tables as keys of tables) */

    /* of an image: the tables that it is expected to have, or gets; otherwise the tables that both
     * sides have, or NULL */
    tp_captured *captured;

    /* ---- of an image ---- */
    bool is_image;
    /* its tables are not the expected ones: `captured` is new, and they are added to it */
    bool adds_tables;
    uint32_t ntables;     /* how many captured tables were met so far */
    unsigned inside;      /* how many captured tables the encoder is inside of */
    /* of an outline (tp_encode_outline): tables that are written as their numbers */
    const tp_captured *outline;
    bool reaches_globals; /* its functions may reach globals that they do not name */
    /* that was found out, so all globals are taken along, and functions get the state's own
     * environment */
    bool wants_globals;
    /* something that may not be needed cannot travel: each such value is tried before it is
     * written */
    bool is_careful;
    bool has_library;     /* a standard library is in it as a value */
    unsigned uses;        /* USES_* of its functions together */

    /* ---- what is refused; set from the inside to the outside ---- */
    tp_code code;
    bool is_cut, is_deep;
    int failed; /* the number of the value that was refused, from 0 */
    size_t npath;
    char path[160], why[200];
} encoder;

static int put_value(encoder *e);
static int encode(encoder *e, int first, int n);

static bool is_identity(const encoder *e)
{
    return e->flags & TP_ENCODE_IDENTITY;
}

__attribute__((format(printf, 3, 4)))
static int refuse(encoder *e, tp_code code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(e->why, sizeof e->why, format, args);
    va_end(args);
    e->code = code;
    e->npath = 0;
    e->is_cut = e->is_deep = false;
    return -1;
}

static int refuse_memory(encoder *e)
{
    return refuse(e, TP_EMEMORY, "out of memory: message");
}

APART static int refuse_type(encoder *e, const char *what)
{
    return refuse(e, TP_ECODEC, "%s cannot travel to a worker", what);
}

/* Puts a step in front of the path. A path that gets too long loses its inner end. */
static int at(encoder *e, const char *step, size_t n)
{
    if (e->restart)
        return -1;
    if (n > sizeof e->path)
        n = sizeof e->path;
    if (e->npath > sizeof e->path - n) {
        e->npath = sizeof e->path - n;
        e->is_cut = true;
    }
    memmove(e->path + n, e->path, e->npath);
    memcpy(e->path, step, n);
    e->npath += n;
    return -1;
}

APART static int at_name(encoder *e, const char *what, const char *name)
{
    char step[80];
    snprintf(step, sizeof step, ": %s \"%.50s\"", what, name);
    return at(e, step, strlen(step));
}

APART static int at_index(encoder *e, size_t i)
{
    char step[32];
    snprintf(step, sizeof step, "[%zu]", i);
    return at(e, step, strlen(step));
}

static bool is_identifier(const char *s, size_t len)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
    return len > 0 && len <= 50 && strlen(s) == len && strchr(first, s[0]) &&
           strspn(s, rest) == len;
}

/* Adds the step `["..."]` for a string key that is not an identifier. */
static int at_odd_key(encoder *e, const char *s, size_t len)
{
    char step[128];
    size_t n = 2;
    memcpy(step, "[\"", 2);
    for (size_t i = 0; i < len && n < sizeof step - 12; i++) {
        unsigned char c = (unsigned char)s[i];
        if (i == 40) {
            n += (size_t)sprintf(step + n, "...");
            break;
        }
        if (c < 32 || c == 127)
            n += (size_t)sprintf(step + n, "\\%03d", c);
        else if (c == '"' || c == '\\')
            n += (size_t)sprintf(step + n, "\\%c", c);
        else
            step[n++] = (char)c;
    }
    memcpy(step + n, "\"]", 2);
    return at(e, step, n + 2);
}

/* Adds the step for the key at index. */
APART static int at_key(encoder *e, int index)
{
    lua_State *L = e->L;
    char step[64];
    size_t len;
    const char *s;
    switch (lua_type(L, index)) {
    case LUA_TSTRING:
        s = lua_tolstring(L, index, &len);
        if (!is_identifier(s, len))
            return at_odd_key(e, s, len);
        snprintf(step, sizeof step, ".%s", s);
        break;
    case LUA_TNUMBER:
        snprintf(step, sizeof step, "[%.14g]", lua_tonumber(L, index));
        break;
    case LUA_TBOOLEAN:
        snprintf(step, sizeof step, "[%s]", lua_toboolean(L, index) ? "true" : "false");
        break;
    default:
        snprintf(step, sizeof step, "[%s]", lua_typename(L, lua_type(L, index)));
    }
    return at(e, step, strlen(step));
}

static int grow_seen(struct work *w)
{
    uint32_t size = w->seen_size ? w->seen_size * 2 : 64;
    struct seen *table = calloc(size, sizeof *table);
    if (!table)
        return -1;
    for (uint32_t i = 0; i < w->seen_size; i++) {
        if (w->seen[i].stamp == w->stamp) {
            uint32_t k = tp_codec_slot(w->seen[i].object, size);
            while (table[k].stamp)
                k = (k + 1) & (size - 1);
            table[k] = w->seen[i];
        }
    }
    free(w->seen);
    w->seen = table;
    w->seen_size = size;
    return 0;
}

/* Forgets the objects of the message before. */
static void start_seen(struct work *w)
{
    w->nseen = 0;
    if (++w->stamp == 0) { /* after 2^32 messages the count starts anew: no entry may look used */
        if (w->seen)
            memset(w->seen, 0, w->seen_size * sizeof *w->seen);
        w->stamp = 1;
    }
}

/* Gets scratch memory when it is first needed: at the first table, function or long string, which
 * is the value on top of the outermost frame. The scratch stays on the stack below it. */
static void acquire(encoder *e)
{
    e->w = tp_codec_push_work(e->L);
    lua_insert(e->L, -2);
    e->c = e->w->codec;
    start_seen(e->w);
}

/* Room for n more bytes at e->p, the slow way. */
static int grow(encoder *e, size_t n)
{
    tp_buf *b = e->out;
    size_t used = (size_t)(e->p - e->base);
    if (used + n > UINT32_MAX - b->len) /* offsets are 32 bits */
        return refuse(e, TP_ECODEC, "a message over the limit of %u bytes cannot travel",
                      (unsigned)UINT32_MAX);
    b->len += used; /* for this call: what was written is kept */
    uint8_t *p = tp_buf_reserve(b, n);
    b->len -= used;
    if (!p)
        return refuse_memory(e);
    e->base = p - used;
    e->p = p;
    e->end = b->data + b->cap;
    return 0;
}

static inline int room(encoder *e, size_t n)
{
    return (size_t)(e->end - e->p) >= n ? 0 : grow(e, n);
}

static inline void write_u32(uint8_t *p, uint32_t n)
{
    memcpy(p, &n, sizeof n);
}

static inline uint32_t offset(const encoder *e)
{
    return (uint32_t)(e->p - e->base);
}

static int put_tag(encoder *e, uint8_t tag)
{
    if (room(e, 1) < 0)
        return -1;
    *e->p++ = tag;
    return 0;
}

static int put_tag_u32(encoder *e, uint8_t tag, uint32_t n)
{
    if (room(e, 5) < 0)
        return -1;
    e->p[0] = tag;
    write_u32(e->p + 1, n);
    e->p += 5;
    return 0;
}

/* A length and bytes, without a tag. */
static int put_bytes(encoder *e, const char *s, size_t len)
{
    if (room(e, len + 4) < 0)
        return -1;
    write_u32(e->p, (uint32_t)len);
    memcpy(e->p + 4, s, len);
    e->p += 4 + len;
    return 0;
}

/* Was the object met before in this message? 1: yes, at e->found; 0: no, and it is written next;
 * -1: refused. */
static int see(encoder *e, const void *object)
{
    struct work *w = e->w;
    if (w->nseen * 2 >= w->seen_size && grow_seen(w) < 0)
        return refuse_memory(e);
    uint32_t i = tp_codec_slot(object, w->seen_size);
    while (w->seen[i].stamp == w->stamp) {
        if (w->seen[i].object == object) {
            e->found = w->seen[i].offset;
            return 1;
        }
        i = (i + 1) & (w->seen_size - 1);
    }
    w->seen[i] = (struct seen){ object, w->stamp, offset(e) };
    w->nseen++;
    return 0;
}

/* Writes a reference to what see() found. */
static int put_back(encoder *e, uint8_t tag)
{
    e->base[e->found] |= SHARED;
    return put_tag_u32(e, tag, e->found);
}

static inline int put_number(encoder *e, double x)
{
    if (room(e, 9) < 0)
        return -1;
    e->p = tp_write_number(e->p, isnan(x) && is_identity(e) ? (double)NAN : x);
    return 0;
}

/* Writes a string that is on top, or that stays alive otherwise while scratch is acquired (a long
 * string that is a key is not the first object). */
APART static int put_long_string(encoder *e, const char *s, size_t len)
{
    if (len > TP_STRING_MAX)
        return refuse(e, TP_ECODEC, "a string of %zu bytes is over the limit of %d", len,
                      TP_STRING_MAX);
    if (!e->w)
        acquire(e);
    /* an identity has no references: identity.c writes strings so, too */
    int seen = is_identity(e) ? 0 : see(e, s);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    return put_tag(e, T_STRING) < 0 ? -1 : put_bytes(e, s, len);
}

static inline int put_string(encoder *e, int index)
{
    size_t len;
    const char *s = lua_tolstring(e->L, index, &len);
    if (len >= SHORT_MAX)
        return put_long_string(e, s, len);
    if (room(e, SHORT_MAX) < 0)
        return -1;
    *e->p++ = (uint8_t)(T_SHORT + len);
    memcpy(e->p, s, len);
    e->p += len;
    return 0;
}

/* Writes a typed array's tag, type, length and shape, and makes room for `elements` more
 * bytes. */
static int put_shape(encoder *e, uint8_t tag, tp_type type, const uint64_t numbers[3],
                     size_t elements)
{
    if (room(e, 2 + 2 * sizeof numbers[1] + elements) < 0)
        return -1;
    *e->p++ = tag;
    *e->p++ = (uint8_t)type;
    memcpy(e->p, &numbers[1], 2 * sizeof numbers[1]);
    e->p += 2 * sizeof numbers[1];
    return 0;
}

/* For an identity: a typed array's shape and a hash of its elements. */
static int put_elements(encoder *e, const tp_array *memory, tp_type type, const uint64_t numbers[3])
{
    if (put_shape(e, T_ARRAY, type, numbers, TP_IDENTITY) < 0)
        return -1;
    tp_blake2b_hash(e->p, TP_IDENTITY, (const char *)memory->data + numbers[0],
                    numbers[1] * tp_type_size(type));
    e->p += TP_IDENTITY;
    return 0;
}

/* Writes a reference to a host object, reusing one of the message's last few. */
static int put_memory(encoder *e, tp_ref *r)
{
    tp_buf *b = e->out;
    for (uint32_t i = b->nrefs; i > 0 && b->nrefs - i < LATELY; i--)
        if (b->refs[i - 1] == r)
            return put_tag_u32(e, T_ARRAY, i - 1);
    if (tp_buf_hold_ref(b, r) < 0)
        return refuse_memory(e);
    return put_tag_u32(e, T_ARRAY, b->nrefs - 1);
}

/* Writes a copy of the array at the stack's index `top`. */
static int put_copy(encoder *e, const tp_array *memory, tp_type type, const uint64_t numbers[3],
                    int top)
{
    uint64_t size = numbers[1] * tp_type_size(type);
    int seen = see(e, lua_topointer(e->L, top));
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    if (size > UINT32_MAX)
        return refuse(e, TP_ECODEC,
                      "a typed array of %.0f bytes cannot be copied to a worker: 4 GiB is the most",
                      (double)size);
    if (put_shape(e, T_ELEMENTS, type, numbers, size) < 0)
        return -1;
    if (size)
        memcpy(e->p, (const char *)memory->data + numbers[0], size);
    e->p += size;
    return 0;
}

static int write_array(encoder *e, const struct lately *a)
{
    uint64_t numbers[3] = { a->offset, a->elements, a->shape };
    if (room(e, 5 + 1 + sizeof numbers) < 0 || put_memory(e, a->memory) < 0)
        return -1;
    *e->p++ = a->type;
    memcpy(e->p, numbers, sizeof numbers);
    e->p += sizeof numbers;
    return 0;
}

/* The entry for the cdata on top if it is an array that was written lately; else NULL. */
static const struct lately *find_sent(lua_State *L, const struct codec *c)
{
    const void *object = lua_topointer(L, -1);
    for (int i = 0; i < LATELY; i++) {
        if (c->sent[i].object != object)
            continue;
        tp_codec_push_lately(L);
        lua_rawgeti(L, -1, i + 1); /* nil when the object is gone and another one has its address */
        bool is = lua_rawequal(L, -1, -3);
        lua_pop(L, 2);
        if (is)
            return &c->sent[i];
    }
    return NULL;
}

/* Writes the cdata at the stack's index `top` if it is a typed array: 1 when written, 0 when it is
 * none, -1 on failure. */
static int put_array(encoder *e, struct codec *c, int top)
{
    lua_State *L = e->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_of);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushvalue(L, top);
    lua_call(L, 1, 6); /* memory, type, offset, elements, columns, planes */
    tp_ref *r = lua_touserdata(L, -6);
    if (!r)
        return 0;
    tp_type type = (tp_type)lua_tointeger(L, -5);
    uint64_t numbers[3] = { (uint64_t)lua_tonumber(L, -4), (uint64_t)lua_tonumber(L, -3),
                            pack_shape(lua_tonumber(L, -2), lua_tonumber(L, -1)) };
    if (is_identity(e))
        return put_elements(e, (const tp_array *)r, type, numbers) < 0 ? -1 : 1;
    if (e->flags & TP_ENCODE_COPIES &&
        (e->flags & TP_ENCODE_ELEMENTS || !tp_array_share((tp_array *)r)))
        return put_copy(e, (const tp_array *)r, type, numbers, top) < 0 ? -1 : 1;
    int at = (int)(c->next_sent++ % LATELY);
    struct lately *a = &c->sent[at];
    *a = (struct lately){
        lua_topointer(L, top), r, (uint8_t)type, numbers[0], numbers[1], numbers[2]
    };
    tp_codec_push_lately(L);
    lua_pushvalue(L, top);
    lua_rawseti(L, -2, at + 1);
    return write_array(e, a) < 0 ? -1 : 1;
}

/* Stack: text of a C type, its metatable or nil, bytes. Writes the cdata below them as a copy. */
static int put_cdata_bytes(encoder *e, int top, int kind)
{
    lua_State *L = e->L;
    size_t size = kind == T_BYTES ? (size_t)lua_tonumber(L, top + 4) : 0;
    int seen = see(e, lua_topointer(L, top));
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    if (put_tag(e, (uint8_t)kind) < 0 || put_string(e, top + 2) < 0)
        return -1;
    lua_pushvalue(L, top + 3);
    if (put_value(e) < 0)
        return -1;
    return kind == T_BYTES ? put_bytes(e, lua_topointer(L, top), size) : 0;
}

APART static int put_cdata(encoder *e)
{
    lua_State *L = e->L;
    if (!e->w)
        acquire(e);
    luaL_checkstack(L, STACK_NEED, "message");
    struct codec *c = e->c;
    int top = lua_gettop(L), rc = -1;
    const struct lately *array = is_identity(e) ? NULL : find_sent(L, c);
    if (array && !(e->flags & TP_ENCODE_ELEMENTS) &&
        (!(e->flags & TP_ENCODE_COPIES) || ((const tp_array *)array->memory)->at >= 0))
        return write_array(e, array);
    tp_codec_push_ffi(L, c, "kind_of");
    if (lua_isnil(L, -1)) {
        lua_settop(L, top);
        return refuse_type(e, "a cdata");
    }
    lua_pushvalue(L, top);
    lua_call(L, 1,
             4); /* kind (a tag; 0: none), value or re or text, im or metatable or library, bytes */
    int kind = (int)lua_tointeger(L, top + 1);
    int is_array = kind == 0 ? put_array(e, c, top) : 0;
    if (is_array != 0) {
        rc = is_array < 0 ? -1 : 0;
    } else if (kind == 0) {
        rc = refuse(e, TP_ECODEC, "a %.80s cannot travel to a worker (%s)",
                    lua_tostring(L, top + 2), lua_tostring(L, top + 3));
    } else if (kind == T_BYTES && e->flags & TP_ENCODE_NO_CODE) {
        rc = refuse(e, TP_ECODEC,
                    "a cdata<%.80s> cannot travel from a worker process (give what is in it, as "
                    "numbers, strings or tables)",
                    lua_tostring(L, top + 2));
    } else if ((kind == T_CTYPE || kind == T_SYMBOL) && e->flags & TP_ENCODE_NO_CODE) {
        rc = refuse(e, TP_ECODEC,
                    "a ctype or symbol of the FFI cannot travel from a worker process");
    } else if (kind == T_CTYPE || kind == T_BYTES || kind == T_SYMBOL) {
        rc = put_cdata_bytes(e, top, kind);
    } else if (room(e, 17) == 0) {
        double parts[2] = { lua_tonumber(L, top + 2), lua_tonumber(L, top + 3) };
        bool is_complex = kind == T_COMPLEX;
        *e->p = (uint8_t)kind;
        memcpy(e->p + 1, is_complex ? (const void *)parts : lua_topointer(L, top + 2),
               is_complex ? 16 : 8);
        e->p += is_complex ? 17 : 9;
        rc = 0;
    }
    lua_settop(L, top);
    return rc;
}

/* ---- modules ---- */

/* Does the name `a` come before `b`? Shorter names come first: of "md5" and "md5.core" the shorter
 * is the whole rather than a part. */
static bool is_before(lua_State *L, int a, int b)
{
    size_t la, lb;
    const char *x = lua_tolstring(L, a, &la), *y = lua_tolstring(L, b, &lb);
    return la != lb ? la < lb : memcmp(x, y, la) < 0;
}

/* Stack: name object. Inserts the name into the object's list of names, in the order of
 * is_before. */
static void add_alias(lua_State *L, const struct codec *c)
{
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->aliases);
    lua_pushvalue(L, top);
    lua_rawget(L, -2);                 /* name object aliases names */
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_createtable(L, 1, 0);
        lua_pushvalue(L, top);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    int n = (int)lua_objlen(L, -1), i = 1;
    for (; i <= n; i++) {
        lua_rawgeti(L, top + 2, i);
        bool is_there = lua_rawequal(L, -1, top - 1), is_place = is_before(L, top - 1, -1);
        lua_pop(L, 1);
        if (is_there) {
            lua_settop(L, top);
            return;
        }
        if (is_place)
            break;
    }
    for (int k = n; k >= i; k--) {
        lua_rawgeti(L, top + 2, k);
        lua_rawseti(L, top + 2, k + 1);
    }
    lua_pushvalue(L, top - 1);
    lua_rawseti(L, top + 2, i);
    lua_settop(L, top);
}

/* Makes known what is new in package.loaded, with all names that it has there, and restarts the
 * message, which may already have the new module as a plain value. Takes about 20 ns a module when
 * package.loaded has changed. It is called once in an epoch, and once in a message that has a
 * function or an unknown object; so a plain table that became a module within an epoch may still
 * travel by value. */
static int scan_modules(encoder *e)
{
    lua_State *L = e->L;
    struct codec *c = e->c;
    if (e->scanned)
        return 0;
    e->scanned = true;
    c->scanned_epoch = c->epoch;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    const void *loaded = lua_topointer(L, -1);
    if (tp_snapshot_holds(&c->seen_loaded, &c->layout, loaded)) {
        lua_settop(L, top);
        return 0;
    }
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* loaded name module */
        const void *object = tp_codec_is_object(L, -1) ? tp_codec_identity(L, -1) : NULL;
        const struct known *k = object ? tp_codec_find_known(c, object) : NULL;
        if (object && lua_type(L, -2) == LUA_TSTRING && (!k || k->kind == MODULE))
            add_alias(L, c);
        if (object && lua_type(L, -2) == LUA_TSTRING && !k) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, c->names); /* loaded name module names */
            int index = ++c->nnames;
            lua_pushvalue(L, -3);
            lua_rawseti(L, -2, index);
            lua_pop(L, 1);
            if (tp_codec_add_known(c, object, MODULE, index) < 0) {
                lua_settop(L, top);
                return refuse_memory(e);
            }
            e->restart = true;
        }
        lua_pop(L, 1);
    }
    lua_settop(L, top);
    tp_snapshot_take(&c->seen_loaded, &c->layout, loaded);
    return e->restart ? -1 : 0;
}

/* Looks through the fields of all modules for the object (a C function or a metatable) and makes it
 * known when it is there. Globals do not count: a worker's _G does not have what the program put
 * there. */
static struct known *find_field(encoder *e, const void *object)
{
    lua_State *L = e->L;
    struct codec *c = e->c;
    int top = lua_gettop(L);
    struct known *found = NULL;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushnil(L);
    while (!found && lua_next(L, top + 1)) {  /* loaded name module */
        bool is_library = lua_istable(L, -1) && lua_type(L, -2) == LUA_TSTRING &&
                          strcmp(lua_tostring(L, -2), "_G") != 0;
        if (is_library)
            lua_pushnil(L);
        while (is_library && !found && lua_next(L, top + 3)) { /* loaded name module field value */
            if (tp_codec_identity(L, -1) == object && lua_type(L, -2) == LUA_TSTRING) {
                lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);
                int index = c->nnames + 1;
                c->nnames += 2;
                lua_pushvalue(L, top + 2);
                lua_rawseti(L, -2, index);
                lua_pushvalue(L, top + 4);
                lua_rawseti(L, -2, index + 1);
                if (tp_codec_add_known(c, object, FIELD, index) == 0)
                    found = tp_codec_find_known(c, object);
            }
            lua_settop(L, found ? top : top + 4);
        }
        lua_settop(L, found ? top : top + 2);
    }
    lua_settop(L, top);
    return found;
}

/* Pushes package[field] if it is a string, else "". */
static void push_path(encoder *e, const char *field)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->loaded);
    lua_pushliteral(L, "package");
    lua_rawget(L, -2);
    if (lua_istable(L, -1)) {
        lua_pushstring(L, field);
        lua_rawget(L, -2);
    }
    if (lua_type(L, -1) != LUA_TSTRING)
        lua_pushliteral(L, "");
    lua_replace(L, top + 1);
    lua_settop(L, top + 1);
}

static int put_text(encoder *e)
{
    size_t len;
    const char *s = lua_tolstring(e->L, -1, &len);
    int rc = put_bytes(e, s, len);
    lua_pop(e->L, 1);
    return rc;
}

/* Does the object's name still lead to it? */
static bool is_in_place(encoder *e, const struct known *k)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);      /* names */
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->loaded);     /* names loaded */
    lua_rawgeti(L, top + 1, k->index);
    lua_rawget(L, -2);                                   /* names loaded module */
    if (k->kind == FIELD && lua_istable(L, -1)) {
        lua_rawgeti(L, top + 1, k->index + 1);
        lua_rawget(L, -2);                               /* names loaded module field */
    }
    bool is = lua_rawequal(L, -1, top);
    lua_settop(L, top);
    return is;
}

/* Stack: module -> module names. Gives how many names the module has in package.loaded now. */
static int push_aliases(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L), count = 0;
    lua_newtable(L);                                        /* module names */
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->loaded);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->aliases);
    lua_pushvalue(L, top);
    lua_rawget(L, -2);                                      /* module names loaded aliases all */
    int n = (int)lua_objlen(L, -1);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, top + 4, i);
        lua_pushvalue(L, -1);
        lua_rawget(L, top + 2);                             /* ... name module */
        bool is_here = lua_rawequal(L, -1, top);
        lua_pop(L, 1);
        if (is_here)
            lua_rawseti(L, top + 1, ++count);
        else
            lua_pop(L, 1);
    }
    lua_settop(L, top + 1);
    return count;
}

/* Stack: names. Writes the first of n names, and when there are more their number and the names.
 * Pops the table. */
static int put_aliases(encoder *e, int n)
{
    lua_State *L = e->L;
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        if (put_text(e) < 0)
            return -1;
        if (i == 1 && n > 1) {
            if (room(e, 4) < 0)
                return -1;
            write_u32(e->p, (uint32_t)n - 1);
            e->p += 4;
        }
    }
    lua_pop(L, 1);
    return 0;
}

/* Writes the object on top, which is a module or a field of one. */
static int put_module(encoder *e, struct known *k)
{
    if (!is_in_place(e, k)) {
        k->kind = GONE;
        e->c->seen_loaded.table = NULL;
        e->scanned = false;
        e->restart = true;
        return -1;
    }
    lua_State *L = e->L;
    bool is_field = k->kind == FIELD;
    int index = k->index, n = is_field ? 1 : push_aliases(e); // [names]
    e->has_paths |= is_identity(e); /* the paths say where the module lies, not what it is */
    if (room(e, 2) < 0)
        return -1;
    *e->p++ = T_MODULE;
    *e->p++ = (uint8_t)((is_field ? MODULE_FIELD : 0) | (e->has_paths ? 0 : MODULE_PATHS) |
                        (n > 1 ? MODULE_ALIASES : 0));
    if (!e->has_paths) {
        e->has_paths = true;
        push_path(e, "path");
        if (put_text(e) < 0)
            return -1;
        push_path(e, "cpath");
        if (put_text(e) < 0)
            return -1;
    }
    for (int i = 0; i < 2 && is_field; i++) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
        lua_rawgeti(L, -1, index + i);
        lua_remove(L, -2);
        if (put_text(e) < 0)
            return -1;
    }
    return is_field ? 0 : put_aliases(e, n);
}

/* ---- classes ---- */

static bool is_same_blob(const class_blob *a, const class_blob *b);

static bool is_same_ref(const tp_ref *a, const tp_ref *b)
{
    return a == b || (a->type == &tp_class_blob_type && b->type == &tp_class_blob_type &&
                      is_same_blob((const class_blob *)a, (const class_blob *)b));
}

static bool is_same_blob(const class_blob *a, const class_blob *b)
{
    const tp_buf *x = &a->message, *y = &b->message;
    if (strcmp(a->name, b->name) != 0 || x->len != y->len || x->nrefs != y->nrefs ||
        memcmp(x->data, y->data, x->len) != 0)
        return false;
    for (uint32_t i = 0; i < x->nrefs; i++) {
        if (!is_same_ref(x->refs[i], y->refs[i]))
            return false;
    }
    return true;
}

static int put_name(encoder *e, uint8_t tag, const char *name)
{
    return put_tag(e, tag) < 0 ? -1 : put_bytes(e, name, strlen(name));
}

static int put_ref(encoder *e, tp_ref *r)
{
    if (is_identity(e)) /* for an identity a host object is known by its kind alone */
        return put_tag(e, T_REF) < 0 ? -1
                                     : put_bytes(e, r->type->metatable, strlen(r->type->metatable));
    if (tp_buf_hold_ref(e->out, r) < 0)
        return refuse_memory(e);
    return put_tag_u32(e, r->type == &tp_class_blob_type ? T_BLOB : T_REF, e->out->nrefs - 1);
}

static void start(encoder *e, lua_State *L, tp_buf *out, unsigned flags)
{
    e->L = L;
    e->out = out;
    e->flags = flags;
    e->nrefs = out->nrefs;
    e->code = TP_OK;
    e->outer = NULL;
    e->captured = NULL;
    e->outline = NULL;
    e->defining = -1;
    e->is_partial = e->scanned = e->is_cut = e->is_deep = false;
    e->adds_tables = false;
    e->is_image = e->reaches_globals = e->wants_globals = e->is_careful = e->has_library = false;
    e->uses = 0;
    e->npath = 0;
    e->failed = 0;
    e->ranking = 0;
}

/* Pushes a userdata that owns a new definition of the class, made of its metatable as it is now. On
 * failure e is refused, and nothing is pushed. */
static class_blob *push_definition(encoder *e, int index)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    tp_ref **box = tp_codec_push_box(L, &tp_class_blob_type);
    const char *name = e->c->classes[index].name;
    class_blob *blob = calloc(1, sizeof *blob + strlen(name) + 1);
    if (!blob) {
        lua_settop(L, top);
        refuse_memory(e);
        return NULL;
    }
    strcpy(blob->name, name);
    tp_ref_init(&blob->ref, &tp_class_blob_type);
    *box = &blob->ref;

    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->mts);
    lua_rawgeti(L, -1, index + 1);             /* box mts mt */
    encoder in;
    start(&in, L, &blob->message, e->flags & TP_ENCODE_IDENTITY);
    in.outer = e;
    in.defining = index;
    int rc = encode(&in, lua_gettop(L), 1);
    lua_settop(L, rc < 0 ? top : top + 1);
    if (rc < 0) {
        refuse(e, in.code, "%s", in.why);
        memcpy(e->path, in.path, in.npath);
        e->npath = in.npath;
        e->is_cut = in.is_cut;
        e->is_deep = in.is_deep;
        at_name(e, "class", e->c->classes[index].name);
        return NULL;
    }
    blob->is_partial = in.is_partial;
    return blob;
}

/* Writes a class that travels with its definition. Inside the making of that definition the class
 * is only named: its table is there when the other side reads this. A definition that names classes
 * so can be used only inside theirs, and is not kept. */
static int put_defined(encoder *e, int index)
{
    struct codec *c = e->c;
    struct class *k = &c->classes[index];
    if (!is_identity(e) && k->blob && !k->blob->is_partial &&
        (k->origin == FOREIGN || k->epoch == c->epoch))
        return put_ref(e, &k->blob->ref);
    encoder *out = e;
    while (out && out->defining != index)
        out = out->outer;
    if (out) {
        for (encoder *p = e; p != out; p = p->outer)
            p->is_partial = true;
        return put_name(e, T_DEFINED, k->name);
    }
    class_blob *blob = push_definition(e, index); /* box */
    if (!blob)
        return -1;
    k = &c->classes[index]; /* the array may have moved */
    if (is_identity(e)) {
        int written = put_name(e, T_BLOB, k->name) < 0
                          ? -1
                          : put_bytes(e, (const char *)blob->message.data, blob->message.len);
        lua_pop(e->L, 1);
        return written;
    }
    if (!blob->is_partial) {
        if (!k->blob || !is_same_blob(k->blob, blob)) {
            tp_ref_drop(k->blob);
            k->blob = tp_ref_hold(blob);
        }
        k->epoch = c->epoch;
        blob = k->blob;
    }
    int rc = put_ref(e, &blob->ref);
    lua_pop(e->L, 1);
    return rc;
}

/* Can a function reach all globals through this builtin? */
static bool is_reaching(const struct codec *c, const struct known *k)
{
    for (int i = 0; i < c->nreaching; i++)
        if (c->reaching[i] == k->index)
            return true;
    return false;
}

/* Writes the object on top by its name. */
APART static int put_known(encoder *e, struct known *k)
{
    if (k->kind == CLASS) {
        struct class *class = &e->c->classes[k->index];
        return class->origin == BY_NAME ? put_name(e, T_CLASS, class->name)
                                        : put_defined(e, k->index);
    }
    if (k->kind != BUILTIN)
        return put_module(e, k);
    e->reaches_globals |= is_reaching(e->c, k);
    e->has_library |= lua_istable(e->L, -1);
    lua_rawgeti(e->L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(e->L, -1, k->index);
    lua_rawgeti(e->L, -2, k->index + 1);
    lua_concat(e->L, 2);
    lua_remove(e->L, -2);
    if (put_tag(e, T_BUILTIN) < 0) {
        lua_pop(e->L, 1);
        return -1;
    }
    return put_text(e);
}

/* ---- tables ---- */

/* Pushes the field `__travels` of a metatable: a text says why its objects cannot travel; false:
 * they travel without their contents. */
static int push_travels(lua_State *L, int mt)
{
    lua_pushvalue(L, mt);
    lua_pushliteral(L, "__travels");
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return lua_type(L, -1);
}

/* Stack: object metatable, of a class that is not known. Refuses the object, with the name that the
 * class gives itself, if any. */
static int refuse_class(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    static const char *const fields[] = { "__name", "_NAME",       "_name",
                                          "name",   "__classname", "classname" };
    const char *name = NULL;
    for (size_t i = 0; !name && i < countof(fields); i++) {
        lua_pushstring(L, fields[i]);
        lua_rawget(L, top);
        name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    }
    char which[60] = "";
    if (name)
        snprintf(which, sizeof which, " of class %.48s", name);
    refuse(e, TP_ECODEC,
           "a table with an unknown metatable%s cannot travel to a worker "
           "(make it known with tidepool.class, or let a module have the class in a field)",
           which);
    lua_settop(L, top);
    return -1;
}

/* The object on top has been refused. If it is a field of a module, it is known by that name from
 * now on, and the message restarts. (A field of a standard library that is not known was put there
 * by the script, as were functions of the script in modules.) */
static int take_by_name(encoder *e)
{
    if (e->restart || e->code != TP_ECODEC ||
        (lua_isfunction(e->L, -1) && tp_modules_is_scripts(e->L, e->c)))
        return -1;
    struct known *k = find_field(e, tp_codec_identity(e->L, -1));
    if (!k)
        return -1;
    lua_rawgeti(e->L, LUA_REGISTRYINDEX, e->c->loaded);
    lua_rawgeti(e->L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(e->L, -1, k->index);
    lua_rawget(e->L, -3);
    const struct known *module = tp_codec_find_known(e->c, tp_codec_identity(e->L, -1));
    lua_pop(e->L, 3);
    if (module && module->kind == BUILTIN) {
        k->kind = GONE;
        return -1;
    }
    e->restart = true;
    e->code = TP_OK;
    return -1;
}

/* Stack: table metatable. 1: the metatable was written; 0: it is to be dropped; -1: refused. */
APART static int put_metatable(encoder *e)
{
    const void *mt = lua_topointer(e->L, -1);
    struct known *k = tp_codec_find_known(e->c, mt);
    if (!k) {
        if (scan_modules(e) < 0)
            return -1;
        k = find_field(e, mt);
    }
    if (!k && e->defining < 0) { /* a definition takes along what its classes inherit from */
        if (e->flags & TP_ENCODE_ERROR_VALUE)
            return 0;
        return refuse_class(e);
    }
    return put_value(e) < 0 ? -1 : 1;
}

/* Packs numbers from item i on, up to the first that is no number. Gives the next item's index; 0
 * when refused. */
APART static size_t put_run(encoder *e, size_t i, size_t n)
{
    lua_State *L = e->L;
    uint32_t head = offset(e);
    if (put_tag_u32(e, T_RUN, 0) < 0)
        return 0;
    size_t first = i;
    for (; i <= n; i++) {
        if (room(e, 8) < 0)
            return 0;
        lua_rawgeti(L, -1, (int)i);
        bool is_number = lua_type(L, -1) == LUA_TNUMBER;
        double x = lua_tonumber(L, -1);
        lua_pop(L, 1);
        if (!is_number)
            break;
        if (isnan(x) && is_identity(e))
            x = NAN;
        memcpy(e->p, &x, sizeof x);
        e->p += sizeof x;
    }
    write_u32(e->base + head + 1, (uint32_t)(i - first));
    return i;
}

static int put_items(encoder *e, size_t n)
{
    lua_State *L = e->L;
    size_t row = 0;
    for (size_t i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, (int)i);
        if (lua_type(L, -1) != LUA_TNUMBER) {
            row = 0;
        } else if (++row > RUN_AFTER && n - i >= RUN_AFTER) {
            lua_pop(L, 1);
            i = put_run(e, i, n);
            if (i == 0)
                return -1;
            i--; /* because the loop increments it */
            row = 0;
            continue;
        }
        if (put_value(e) < 0)
            return at_index(e, i);
        lua_pop(L, 1);
    }
    return 0;
}

static int put_pair(encoder *e)
{
    lua_State *L = e->L; /* key value */
    if (lua_type(L, -2) == LUA_TSTRING) {
        if (put_string(e, -2) < 0)
            return at_key(e, -2);
    } else {
        lua_pushvalue(L, -2);
        if (put_value(e) < 0) {
            lua_pop(L, 1);
            at(e, " (key)", 6);
            return at_key(e, -2);
        }
        lua_pop(L, 1);
    }
    return put_value(e) < 0 ? at_key(e, -2) : 0;
}

static bool is_item(lua_State *L, int index, size_t n)
{
    if (n == 0 || lua_type(L, index) != LUA_TNUMBER)
        return false;
    double x = lua_tonumber(L, index);
    return x >= 1 && x <= (double)n && x == floor(x);
}

/* ---- pairs in a fixed order, for identities ---- */

/* What orders the keys of a table: numbers, then strings, then other keys by their identities. */
struct rank {
    int type, key; /* the Lua type, and the key's place in the list of all */
    double number;
    const char *bytes; /* of a string, which the table keeps alive */
    size_t len;
    uint8_t identity[TP_IDENTITY]; /* of other keys */
};

enum { RANKING_MAX = 4 };

static int compare_ranks(const void *a, const void *b)
{
    const struct rank *x = a, *y = b;
    if (x->type != y->type)
        return x->type < y->type ? -1 : 1;
    if (x->type == LUA_TNUMBER)
        return (x->number > y->number) - (x->number < y->number);
    if (x->type != LUA_TSTRING)
        return memcmp(x->identity, y->identity, sizeof x->identity);
    int order = memcmp(x->bytes, y->bytes, x->len < y->len ? x->len : y->len);
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* Fills in the rank of the key on top. A table or a function is ranked by its own identity. */
static int rank_of(encoder *e, struct rank *to)
{
    lua_State *L = e->L;
    to->type = lua_type(L, -1);
    if (to->type == LUA_TNUMBER) {
        to->number = lua_tonumber(L, -1);
    } else if (to->type == LUA_TSTRING) {
        to->bytes = lua_tolstring(L, -1, &to->len);
    } else {
        if (e->ranking == RANKING_MAX)
            return refuse(
                e, TP_ECODEC,
                "a table whose keys are tables with such keys, %d deep, cannot be compared",
                RANKING_MAX);
        int top = lua_gettop(L);
        encoder in;
        start(&in, L, tp_codec_push_buf(L), TP_ENCODE_IDENTITY);
        in.ranking = e->ranking + 1;
        in.depth = e->depth;
        lua_pushvalue(L, top);
        int rc = encode(&in, top + 2, 1);
        if (rc == 0)
            tp_blake2b_hash(to->identity, TP_IDENTITY, in.out->data, in.out->len);
        tp_buf_free(in.out);
        lua_settop(L, top);
        if (rc < 0)
            return refuse(e, in.code, "%s", in.why);
    }
    return 0;
}

/* put_pairs for an identity. */
APART static int64_t put_ranked_pairs(encoder *e, size_t n)
{
    lua_State *L = e->L;
    int table = lua_gettop(L), count = 0;
    lua_newtable(L);                                /* table keys */
    lua_pushnil(L);
    while (lua_next(L, table)) {                    /* table keys key value */
        lua_pop(L, 1);
        if (is_item(L, -1, n))
            continue;
        lua_pushvalue(L, -1);
        lua_rawseti(L, table + 1, ++count);
    }
    struct rank *ranks =
        lua_newuserdata(L, (size_t)(count + 1) * sizeof *ranks); /* table keys ranks */
    memset(ranks, 0, (size_t)(count + 1) * sizeof *ranks);
    for (int i = 0; i < count; i++) {
        ranks[i].key = i + 1;
        lua_rawgeti(L, table + 1, i + 1);
        if (rank_of(e, &ranks[i]) < 0)
            return at(e, " (key)", 6);
        lua_pop(L, 1);
    }
    qsort(ranks, (size_t)count, sizeof *ranks, compare_ranks);
    for (int i = 0; i < count; i++) {
        lua_rawgeti(L, table + 1, ranks[i].key);
        lua_pushvalue(L, -1);
        lua_rawget(L, table);                       /* table keys ranks key value */
        if (put_pair(e) < 0)
            return -1;
        lua_pop(L, 2);
    }
    lua_settop(L, table);
    return count;
}

/* Writes the table on top without its items 1 to n, which are written already. Gives the number of
 * pairs, or -1. */
static int64_t put_pairs(encoder *e, const void *table, size_t n)
{
    if (is_identity(e))
        return put_ranked_pairs(e, n);
    lua_State *L = e->L;
    int64_t count = 0;
    uint32_t asize = 0;
    if (e->c->layout.asize)
        memcpy(&asize, (const char *)table + e->c->layout.asize, sizeof asize);
    bool can_skip = n > 0 && n < asize; /* then lua_next gives all items before the pairs */
    if (can_skip) {
        lua_pushnumber(L, 0);
        lua_rawgeti(L, -2, 0); /* the array part starts with [0] */
        if (!lua_isnil(L, -1)) {
            if (put_pair(e) < 0)
                return -1;
            count++;
        }
        lua_pop(L, 2);
        lua_pushnumber(L, (double)n);
    } else {
        lua_pushnil(L);
    }
    while (lua_next(L, -2)) {
        if (can_skip || !is_item(L, -2, n)) {
            if (put_pair(e) < 0)
                return -1;
            count++;
        }
        lua_pop(L, 1);
    }
    return count;
}

/* For the identity of an object whose metatable names, in its field __identity, the one field that
 * makes up the identity: writes that field. 1: written; 0: the metatable names none. */
APART static int put_part(encoder *e)
{
    lua_State *L = e->L;
    int table = lua_gettop(L), rc = 0;
    if (lua_getmetatable(L, -1)) {
        lua_pushliteral(L, "__identity");
        lua_rawget(L, -2);                          /* table metatable name */
        if (lua_type(L, -1) == LUA_TSTRING) {
            lua_rawget(L, table);
            rc = put_value(e) < 0 ? -1 : 1;
        }
    }
    lua_settop(L, table);
    return rc;
}

/* Writes the table on top by value. */
static int put_contents(encoder *e, const void *table)
{
    lua_State *L = e->L;
    if (room(e, 9) < 0)
        return -1;
    uint32_t head = offset(e);
    size_t n = lua_objlen(L, -1);
    if (n > INT_MAX)
        return refuse(e, TP_ECODEC, "a table of %zu items is too long", n);
    e->p[0] = T_TABLE;
    write_u32(e->p + 1, (uint32_t)n);
    e->p += 9;
    int top = lua_gettop(L);
    if (lua_getmetatable(L, -1)) {
        int travels = e->defining < 0 ? push_travels(L, top + 1) : LUA_TNIL;
        bool is_empty = travels == LUA_TBOOLEAN && !lua_toboolean(L, -1);
        if (travels == LUA_TSTRING) {
            refuse(e, TP_ECODEC, "%s", lua_tostring(L, -1));
            return -1;
        }
        lua_settop(L, top + 1);
        int rc = put_metatable(e);
        lua_settop(L, top);
        if (rc < 0)
            return e->npath == 0 ? take_by_name(e) : -1;
        if (rc > 0)
            e->base[head] = (uint8_t)(T_OBJECT | (e->base[head] & SHARED));
        if (rc > 0 && is_empty) {
            write_u32(e->base + head + 1, 0);
            write_u32(e->base + head + 5, 0);
            return 0;
        }
    }
    write_u32(e->base + head + 5, 0); /* an identity that is a part has no pairs */
    int part = is_identity(e) ? put_part(e) : 0;
    if (part != 0)
        return part < 0 ? -1 : 0;
    if (n > 0 && put_items(e, n) < 0)
        return -1;
    int64_t pairs = put_pairs(e, table, n);
    if (pairs < 0)
        return -1;
    write_u32(e->base + head + 5, (uint32_t)pairs);
    return 0;
}

static int deeper(encoder *e)
{
    if (++e->depth > TP_DEPTH_MAX)
        refuse(e, TP_ECODEC, "nested deeper than %d", TP_DEPTH_MAX);
    else if (e->depth > SHALLOW && !tp_stack_has(&e->c->stack, C_STACK_NEED))
        refuse(e, TP_ECODEC, "nested too deep for this thread's stack");
    else
        return 0;
    e->is_deep = true;
    return -1;
}

/* Writes the table on top where both sides have numbered tables. One that has been written to since
 * travels by value, with what is in it. */
static int put_captured(encoder *e, const void *table)
{
    tp_captured *all = e->captured;
    uint32_t number = tp_captured_find(all, table);
    if (number && tp_captured_is_unchanged(e->L, all, number))
        return put_tag_u32(e, T_CAPTURED, number);
    if (number)
        e->captured = NULL;
    int rc = put_contents(e, table);
    e->captured = all;
    return rc;
}

/* Writes the table on top in an image, where it gets the next number. */
static int put_numbered(encoder *e, const void *table)
{
    e->ntables++;
    if (e->adds_tables) {
        if (tp_captured_add(e->L, e->captured, e->inside == 0) < 0)
            return refuse_memory(e);
    } else if (!e->captured || !tp_captured_is(e->captured, e->ntables, table)) {
        e->adds_tables = e->restart = true;
        return -1;
    }
    e->inside++;
    int rc = put_contents(e, table);
    e->inside--;
    return rc;
}

/* Writes the table on top in an outline. */
static int put_outlined(encoder *e, const void *table)
{
    uint32_t number = tp_captured_find_plain(e->outline, table);
    return number ? put_tag_u32(e, T_CAPTURED, number) : put_contents(e, table);
}

static int put_table(encoder *e)
{
    const void *table = lua_topointer(e->L, -1);
    int seen = see(e, table);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    bool is_definition = e->defining >= 0 && e->depth == 0;
    struct known *k = is_definition ? NULL : tp_codec_find_known(e->c, table);
    if (k)
        return put_known(e, k);
    if (e->c->scanned_epoch != e->c->epoch && scan_modules(e) < 0)
        return -1;
    if (deeper(e) < 0)
        return -1;
    int rc = e->outline    ? put_outlined(e, table)
             : e->is_image ? put_numbered(e, table)
             : e->captured ? put_captured(e, table)
                           : put_contents(e, table);
    e->depth--;
    return rc;
}

/* ---- functions ---- */

static void add_name(lua_State *L, const uint8_t *name, size_t len)
{
    int n = (int)lua_objlen(L, -1);
    lua_pushlstring(L, (const char *)name, len); /* record name */
    bool is_new = true;
    for (int i = 3; i <= n && is_new; i++) {
        lua_rawgeti(L, -2, i);
        is_new = !lua_rawequal(L, -1, -2);
        lua_pop(L, 1);
    }
    if (is_new)
        lua_rawseti(L, -2, n + 1);
    else
        lua_pop(L, 1);
}

/* The string that is constant number `from_end` of the function, counted from the last one as
 * instructions do; NULL when that is no string. */
static const uint8_t *string_constant(const struct proto *pt, uint32_t from_end, size_t *len)
{
    if (from_end >= pt->nconstants)
        return NULL;
    struct bytecode in = pt->constants;
    const uint8_t *s = NULL;
    for (uint32_t k = 0; k < pt->nconstants - from_end; k++)
        s = tp_bytecode_constant(&in, len);
    return in.is_broken ? NULL : s;
}

static bool is_one_of(const uint8_t *s, size_t len, const char *const *list)
{
    for (; s && *list; list++)
        if (strlen(*list) == len && memcmp(s, *list, len) == 0)
            return true;
    return false;
}

/* Is one of these strings among the function's constants? */
static bool has_string(const struct proto *pt, const char *const *list)
{
    struct bytecode in = pt->constants;
    for (uint32_t k = 0; k < pt->nconstants && !in.is_broken; k++) {
        size_t len;
        const uint8_t *s = tp_bytecode_constant(&in, &len);
        if (!in.is_broken && is_one_of(s, len, list))
            return true;
    }
    return false;
}

static uint32_t instruction(const struct proto *pt, uint32_t i)
{
    uint32_t ins;
    memcpy(&ins, pt->code + (size_t)i * 4, sizeof ins);
    return ins;
}

/* What instruction i, which writes a field of the table in a register, may change, judging by the
 * instruction that loaded the table. */
static unsigned uses_of_store(const struct codec *c, const struct proto *pt, uint32_t i)
{
    static const char *const libraries[] = {
        "_G",        "string", "table", "math", "io",      "os",
        "coroutine", "debug",  "bit",   "jit",  "package", NULL,
    };
    uint32_t table = instruction(pt, i) >> 24;
    while (i-- > 0) {
        uint32_t ins = instruction(pt, i);
        if ((ins >> 8 & 0xff) != table)
            continue;
        uint8_t op = ins & 0xff;
        size_t len = 0;
        if (op == c->op.uget)
            return SETS_UPVALUE;
        const uint8_t *name = op == c->op.gget ? string_constant(pt, ins >> 16, &len) : NULL;
        return is_one_of(name, len, libraries) ? SETS_LIBRARY : 0;
    }
    return 0;
}

/* Adds the names of the globals that one function of a dump reads to the record on top. Gives its
 * USES_*. */
static unsigned add_globals(lua_State *L, const struct codec *c, struct proto *pt)
{
    static const char *const globals[] = { "_G", "getfenv", NULL };
    static const char *const io[] = { "io", NULL }, *const defaults[] = { "output", "input", NULL };
    static const char *const changing[] = { "sethook",    "setlocale",  "setpause",
                                            "setstepmul", "randomseed", NULL };
    unsigned uses = has_string(pt, changing) || (has_string(pt, io) && has_string(pt, defaults))
                        ? SETS_LIBRARY
                        : 0;
    if (has_string(pt, globals))
        uses |= NAMES_GLOBALS;
    for (uint32_t i = 0; i < pt->ncode; i++) {
        uint32_t ins = instruction(pt, i);
        uint8_t op = ins & 0xff;
        if (op == c->op.tsets || op == c->op.tsetv || op == c->op.tsetb)
            uses |= uses_of_store(c, pt, i);
        if (op == c->op.gget || op == c->op.gset)
            uses |= USES_GLOBALS;
        size_t len = 0;
        const uint8_t *name = op == c->op.gget ? string_constant(pt, ins >> 16, &len) : NULL;
        if (name)
            add_name(L, name, len);
    }
    return uses;
}

/* Pushes the record of the Lua function on top: { bytecode, USES_*, names of globals that it
 * reads... }. */
static void push_record(lua_State *L, const struct codec *c)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->dumps); /* fn dumps */
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);                           /* fn dumps record */
    if (lua_istable(L, -1)) {
        lua_remove(L, -2);
        return;
    }
    lua_pop(L, 1);
    lua_createtable(L, 4, 0);                    /* fn dumps record */
    lua_pushvalue(L, -3);
    tp_codec_dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    lua_rawseti(L, -2, 1);
    lua_pushinteger(L, 0);
    lua_rawseti(L, -2, 2);
    struct bytecode b;
    struct proto pt;
    bool stripped;
    unsigned uses = 0;
    if (tp_bytecode_open(&b, text, len, &stripped)) {
        while (tp_bytecode_next(&b, stripped, &pt))
            uses |= add_globals(L, c, &pt);
    }
    lua_pushinteger(L, (lua_Integer)uses);
    lua_rawseti(L, -2, 2);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -2);
    lua_rawset(L, -4);
    lua_remove(L, -2);                           /* fn record */
}

static int get_field(lua_State *L)
{
    lua_gettable(L, 1);
    return 1;
}

/* Keeps the value on top alive until the message is made: until then its address must not be
 * reused. */
static void anchor(encoder *e)
{
    lua_State *L = e->L;
    if (e->w->anchors == LUA_NOREF)
        e->w->anchors = tp_codec_new_table(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->w->anchors);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
    lua_pop(L, 1);
}

/* Stack: env name -> env name value: the environment's value for the name. Raw, along tables in
 * __index; a function in __index (a sandbox's) is called, and when it raises (as `strict` modules
 * do) the value is nil. */
static void push_global(encoder *e)
{
    lua_State *L = e->L;
    int env = lua_gettop(L) - 1, name = env + 1;
    lua_pushvalue(L, env);                       /* ... table */
    for (int hops = 0; hops < 100 && lua_istable(L, -1); hops++) {
        lua_pushvalue(L, name);
        lua_rawget(L, -2);                       /* ... table value */
        if (!lua_isnil(L, -1) || !lua_getmetatable(L, -2)) {
            lua_replace(L, name + 1);
            return;
        }
        lua_pushliteral(L, "__index");
        lua_rawget(L, -2);
        lua_replace(L, name + 1);
        lua_settop(L, name + 1);                 /* ... __index */
    }
    if (lua_isfunction(L, -1)) {
        lua_pushcfunction(L, get_field);
        lua_pushvalue(L, env);
        lua_pushvalue(L, name);
        int rc = lua_pcall(L, 2, 1, 0);
        if (rc == LUA_ERRMEM)
            lua_error(L);
        if (rc == 0) {
            anchor(e);
            lua_replace(L, name + 1);
            return;
        }
    }
    lua_settop(L, name);
    lua_pushnil(L);
}

/* Stack: name value. Do all states have that value under that name? */
static bool is_standard(encoder *e)
{
    lua_State *L = e->L;
    if (!tp_codec_is_object(L, -1))
        return false;
    const struct known *k = tp_codec_find_known(e->c, tp_codec_identity(L, -1));
    if (!k || k->kind != BUILTIN || k->index > e->c->nstandard)
        return false;
    e->reaches_globals |= is_reaching(e->c, k);
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(L, -1, k->index);
    lua_rawgeti(L, -2, k->index + 1);
    /* a name without a prefix, and this one */
    bool is = lua_objlen(L, -2) == 0 && lua_rawequal(L, -1, -5);
    lua_pop(L, 3);
    return is;
}

static int put_all_globals(encoder *e, uint32_t *count);

/* Stack: fn record. The function's environment: its identity, and the values of the globals that
 * the function reads. */
static int put_globals(encoder *e)
{
    lua_State *L = e->L;
    lua_rawgeti(L, -1, 2);
    unsigned uses = (unsigned)lua_tointeger(L, -1);
    lua_pop(L, 1);
    e->uses |= uses;
    e->reaches_globals |= (uses & NAMES_GLOBALS) != 0;
    if (!(uses & USES_GLOBALS))
        return put_tag(e, T_NIL);
    lua_getfenv(L, -2); /* fn record env */
    bool is_states = lua_rawequal(L, -1, LUA_GLOBALSINDEX), has_reached = e->reaches_globals;
    if (is_states && e->wants_globals) {
        lua_pop(L, 1);
        return put_tag(e, T_NIL);
    }
    /* the same table may also be met as a value, which is written differently; hence another
     * address */
    int seen = see(e, (const char *)lua_topointer(L, -1) + 1);
    if (seen < 0 || (seen ? put_back(e, T_BACK) : put_tag(e, T_ENV)) < 0 || room(e, 4) < 0)
        return -1;
    uint32_t head = offset(e), count = 0;
    e->p += 4;
    e->reaches_globals = false;
    int n = (int)lua_objlen(L, -2);
    for (int i = 3; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        push_global(e); /* fn record env name value */
        if (!lua_isnil(L, -1) && !is_standard(e)) {
            if (put_string(e, -2) < 0)
                return -1;
            if (put_value(e) < 0)
                return at_name(e, "global", lua_tostring(L, -2));
            count++;
        }
        lua_pop(L, 2);
    }
    if (e->reaches_globals && !is_states && !is_identity(e) && put_all_globals(e, &count) < 0)
        return -1;
    e->reaches_globals |= has_reached;
    write_u32(e->base + head, count);
    lua_pop(L, 1);
    return 0;
}

/* The upvalues of the function on top. */
static int put_upvalues(encoder *e)
{
    lua_State *L = e->L;
    uint32_t head = offset(e);
    if (put_tag(e, 0) < 0)
        return -1;
    int n = 0;
    const char *name;
    for (; (name = lua_getupvalue(L, -1, n + 1)) != NULL; n++) { /* fn value */
        int seen = see(e, lua_upvalueid(L, -2, n + 1));
        if (seen < 0)
            return -1;
        if (seen) {
            if (put_back(e, T_UPBACK) < 0)
                return -1;
        } else if (put_tag(e, T_UPVAL) < 0 || put_value(e) < 0) {
            return at_name(e, "upvalue", name);
        }
        lua_pop(L, 1);
    }
    e->base[head] = (uint8_t)n;
    return 0;
}

/* For an identity: what the bytecode on top does. */
APART static int put_code(encoder *e)
{
    lua_State *L = e->L;
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    uint8_t *bytes = lua_newuserdata(L, len + 1);
    struct bytecode_pair *sorting = lua_newuserdata(L, (len / 2 + 1) * sizeof *sorting);
    size_t n = tp_bytecode_write_identity(text, len, &e->c->patches, bytes, sorting);
    int rc = n ? put_bytes(e, (const char *)bytes, n) : put_bytes(e, text, len);
    lua_pop(L, 2);
    return rc;
}

static int put_lua_function(encoder *e)
{
    lua_State *L = e->L;
    if (put_tag(e, T_FUNC) < 0)
        return -1;
    push_record(L, e->c);                         /* fn record */
    lua_rawgeti(L, -1, 1);                        /* fn record bytecode */
    if ((is_identity(e) ? put_code(e) : put_string(e, -1)) < 0)
        return -1;
    lua_pop(L, 1);
    if (put_globals(e) < 0)
        return -1;
    lua_pop(L, 1);                                /* fn */
    return put_upvalues(e);
}

/* Something in the Lua function at index `top` is refused. If it is a library's function it travels
 * by its name instead. */
APART static int refuse_function(encoder *e, int top)
{
    lua_settop(e->L, top);
    return take_by_name(e);
}

/* Is the C function on the top one that coroutine.wrap has made? Its coroutine is its only upvalue.
 */
static bool is_wrap(lua_State *L)
{
    if (!lua_getupvalue(L, -1, 1))
        return false;
    bool is_thread = lua_isthread(L, -1);
    lua_pop(L, 1);
    return is_thread;
}

APART static int put_function(encoder *e)
{
    const void *fn = lua_topointer(e->L, -1);
    int seen = see(e, fn);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    struct known *k = tp_codec_find_known(e->c, fn);
    if (!k && scan_modules(e) < 0)
        return -1;
    if (!k && lua_iscfunction(e->L, -1)) {
        k = find_field(e, fn);
        if (!k)
            return refuse_type(e, is_wrap(e->L) ? "a coroutine (of coroutine.wrap)"
                                                : "a C function that no loaded module has");
    }
    if (k)
        return put_known(e, k);
    if (e->flags & TP_ENCODE_NO_CODE)
        return refuse(e, TP_ECODEC, "a function cannot travel from a worker process");
    if (deeper(e) < 0)
        return -1;
    int top = lua_gettop(e->L), rc = put_lua_function(e);
    e->depth--;
    return rc < 0 ? refuse_function(e, top) : 0;
}

/* Refuses the userdata on top, with the name of its type where that is known, and says what to do
 * instead. */
static int refuse_userdata(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    char which[60] = "";
    if (lua_getmetatable(L, -1)) {
        int mt = lua_gettop(L);
        if (push_travels(L, mt) == LUA_TSTRING) {
            refuse(e, TP_ECODEC, "%s", lua_tostring(L, -1));
            lua_settop(L, top);
            return -1;
        }
        lua_pushnil(L);
        while (!which[0] && lua_next(L, LUA_REGISTRYINDEX)) {
            if (lua_type(L, -2) == LUA_TSTRING && lua_rawequal(L, -1, mt))
                snprintf(which, sizeof which, "%.48s: ", lua_tostring(L, -2));
            else
                lua_pop(L, 1);
        }
    }
    lua_settop(L, top);
    return refuse(
        e, TP_ECODEC,
        "a userdata cannot travel to a worker (%smake it inside of the function, or in app:setup)",
        which);
}

/* Writes the userdata on top if ffi.load made it: 1 when written; 0 when it is something else; -1
 * on failure. */
static int put_library(encoder *e)
{
    lua_State *L = e->L;
    int top = lua_gettop(L), rc = 0;
    tp_codec_push_ffi(L, e->c, "library_of");
    if (!lua_isnil(L, -1)) {
        lua_pushvalue(L, top);
        lua_call(L, 1, 2); // name is_global
        if (!lua_isnil(L, -2) && e->flags & TP_ENCODE_NO_CODE) {
            rc = refuse(e, TP_ECODEC, "a library of the FFI cannot travel from a worker process");
        } else if (!lua_isnil(L, -2)) {
            rc = put_tag(e, T_LIBRARY) < 0 || put_string(e, -2) < 0 || put_value(e) < 0 ? -1 : 1;
        }
    }
    lua_settop(L, top);
    return rc;
}

APART static int put_userdata(encoder *e)
{
    const void *object = tp_codec_identity(e->L, -1);
    int seen = see(e, object);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    tp_ref *r = tp_codec_any_ref(e->L);
    if (r)
        return put_ref(e, r);
    size_t len;
    const char *text = tp_codec_refused(e->L, &len);
    if (text && !e->is_image && !e->is_careful &&
        e->defining < 0) /* it is a value of the user's: an argument, a result */
        return refuse(e, TP_ECODEC, "%s", text);
    if (text)
        return put_tag(e, T_REFUSED) < 0 ? -1 : put_bytes(e, text, len);
    struct known *k = tp_codec_find_known(e->c, object);
    if (!k && scan_modules(e) < 0)
        return -1;
    int library = k ? 0 : put_library(e);
    if (library)
        return library < 0 ? -1 : 0;
    if (!k)
        k = find_field(e, object);
    return k ? put_known(e, k) : refuse_userdata(e);
}

/* ---- values ---- */

APART static int put_in_frame(lua_State *L)
{
    encoder *e = lua_touserdata(L, 1);
    put_value(e); /* e has the refusal, if any */
    return 0;
}

/* Writes the value on top, which may nest. */
static int put_nested(encoder *e, int type)
{
    lua_State *L = e->L;
    if (!e->w)
        acquire(e);
    /* a C function has 8,000 stack slots at most: the rest goes on in another one */
    if (!lua_checkstack(L, STACK_NEED)) {
        lua_pushcfunction(L, put_in_frame);
        lua_pushlightuserdata(L, e);
        lua_pushvalue(L, -3);
        lua_call(L, 2, 0);
        return e->code == TP_OK && !e->restart ? 0 : -1;
    }
    int top = lua_gettop(L);
    int rc = type == LUA_TTABLE      ? put_table(e)
             : type == LUA_TFUNCTION ? put_function(e)
                                     : put_userdata(e);
    if (rc < 0)
        lua_settop(L, top);
    return rc;
}

/* Writes the value on top, and leaves the stack as it was. -1 when refused. */
static int put_value(encoder *e)
{
    lua_State *L = e->L;
    int type = lua_type(L, -1);
    switch (type) {
    case LUA_TNUMBER:
        return put_number(e, lua_tonumber(L, -1));
    case LUA_TSTRING:
        return put_string(e, -1);
    case LUA_TNIL:
        return put_tag(e, T_NIL);
    case LUA_TBOOLEAN:
        return put_tag(e, lua_toboolean(L, -1) ? T_TRUE : T_FALSE);
    case LUA_TTABLE:
    case LUA_TFUNCTION:
    case LUA_TUSERDATA:
        return put_nested(e, type);
    case TYPE_CDATA:
        return put_cdata(e);
    case LUA_TTHREAD:
        return refuse_type(e, "a coroutine");
    case LUA_TLIGHTUSERDATA: /* NULL is the same everywhere, and JSON libraries use it for null */
        if (!lua_touserdata(L, -1))
            return put_tag(e, T_NULL);
        return refuse_type(e, "a light userdata");
    default:
        return refuse_type(e, "a value of an unknown type");
    }
}

/* ---- messages ---- */

static int put_count(encoder *e, int n)
{
    if (room(e, 5) < 0)
        return -1;
    if (n < 255) {
        *e->p++ = (uint8_t)n;
        return 0;
    }
    return put_tag_u32(e, 255, (uint32_t)n);
}

static int put_values(encoder *e, int first, int n)
{
    if (put_count(e, e->is_image ? n + 3 : n) < 0)
        return -1;
    if (e->is_image) {
        tp_codec_push_ffi(e->L, tp_codec_of(e->L), "declarations");
        if (!lua_isnil(e->L, -1))
            lua_call(e->L, 0, 1);
        if (put_value(e) < 0)
            return -1;
        lua_settop(e->L, lua_gettop(e->L) - 1);
    }
    for (int i = 0; i < n; i++) {
        lua_pushvalue(e->L, first + i);
        if (put_value(e) < 0) {
            e->failed = i;
            return -1;
        }
        lua_pop(e->L, 1);
    }
    return 0;
}

/* The value on top may not be needed. If it cannot travel, replaces it by a stand-in that raises
 * the reason when it is used, and gives 1. `name` is the index of a string that says what the value
 * is. */
static int try_value(encoder *e, int name)
{
    lua_State *L = e->L;
    int top = lua_gettop(L);
    luaL_checkstack(L, STACK_NEED, "message");
    encoder in;
    start(&in, L, tp_codec_push_buf(L), 0);
    in.wants_globals = e->wants_globals;
    in.is_careful = true;
    in.outline = e->outline;
    lua_pushvalue(L, top);
    int rc = encode(&in, lua_gettop(L), 1);
    tp_buf_free(in.out);
    lua_settop(L, top);
    if (rc == 0)
        return 0;
    if (in.code == TP_EMEMORY)
        return refuse_memory(e);
    size_t colon = in.npath > 2 && in.path[0] == ':' ? 2 : 0;
    lua_pushfstring(L, "%s cannot be used here: ", lua_tostring(L, name));
    lua_pushlstring(L, in.path + colon, in.npath - colon);
    lua_pushfstring(L, "%s%s", in.npath ? ": " : "", in.why);
    lua_concat(L, 3);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    tp_codec_push_refused(L, text, len);
    lua_replace(L, top);
    lua_settop(L, top);
    return 1;
}

/* A value that may not be needed was refused: restarts the message with e->is_careful, so that such
 * values are tried first. */
static int be_careful(encoder *e)
{
    if (!e->restart && e->code == TP_ECODEC && !e->is_careful) {
        e->is_careful = e->restart = true;
        e->code = TP_OK;
    }
    return -1;
}

/* Stack: env. Adds all of the environment's own fields. It is not the state's global table. */
static int put_all_globals(encoder *e, uint32_t *count)
{
    lua_State *L = e->L;
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* env name value */
        if (lua_type(L, -2) == LUA_TSTRING && !is_standard(e)) {
            if (e->is_careful) {
                lua_pushfstring(L, "global \"%s\"", lua_tostring(L, -2));
                lua_insert(L, -2);
                int rc = try_value(e, lua_gettop(L) - 1);
                lua_remove(L, -2);
                if (rc < 0)
                    return -1;
            }
            if (put_string(e, -2) < 0)
                return -1;
            if (put_value(e) < 0)
                return be_careful(e);
            ++*count;
        }
        lua_pop(L, 1);
    }
    return 0;
}

/* Does the string at the index occur in what is written so far? Names of fields that functions use
 * do. */
static bool is_written(const encoder *e, int index)
{
    size_t len;
    const char *name = lua_type(e->L, index) == LUA_TSTRING ? lua_tolstring(e->L, index, &len)
                                                            : NULL;
    return !name || memmem(e->base, offset(e), name, len) != NULL;
}

/* Does the string at the index occur in the message as a whole string: a constant of a function, or
 * a string value with its length before it? */
static bool is_named(const encoder *e, int index)
{
    size_t len;
    const char *name = lua_tolstring(e->L, index, &len);
    const uint8_t *p = e->base, *end = e->base + offset(e);
    for (; (p = memmem(p, (size_t)(end - p), name, len)) != NULL; p++) {
        uint32_t before = 0;
        if (p - e->base >= 4)
            memcpy(&before, p - 4, sizeof before);
        if (before == len || (p > e->base && p[-1] == len + TP_BYTECODE_STRING))
            return true;
    }
    return false;
}

/* Stack: list key -> list key text: a name for what is changed. `where` is the index of what the
 * key is in. */
static void push_change_name(encoder *e, int where, int key)
{
    lua_State *L = e->L;
    tp_standard_push_name(L, where, key);
    if (!lua_istable(L, where))
        return;
    lua_pushvalue(L, where);
    if (push_aliases(e) > 0) {                       // name where names
        lua_rawgeti(L, -1, 1);
        lua_pushliteral(L, ".");
        lua_pushvalue(L, -5);
        lua_concat(L, 3);
        lua_replace(L, -4);
    }
    lua_pop(L, 2);
}

/* Stack: list -> the list without changes that cannot travel. Such a change becomes an error where
 * it is used. It is left out when workers have what it replaces and no function of the message
 * mentions the key: then it probably serves the rest of the script (a test's spies, a profiler). */
static int try_changes(encoder *e)
{
    lua_State *L = e->L;
    int list = lua_gettop(L), n = (int)lua_objlen(L, list), count = 0;
    lua_createtable(L, n, 0);
    int to = list + 1, where = list + 2, key = list + 3, name = list + 4, value = list + 5;
    for (int i = 3; i <= n; i += 3) {
        lua_rawgeti(L, list, i - 2);
        lua_rawgeti(L, list, i - 1);
        push_change_name(e, where, key);
        if (lua_type(L, where) != LUA_TNUMBER || lua_tonumber(L, where) != 0) {
            lua_pushliteral(L, ", which is defined in the script,");
            lua_concat(L, 2);
        }
        lua_rawgeti(L, list, i);             /* list to where key name value */
        bool is_gone = lua_rawequal(L, value, list);
        int refused = is_gone ? 0 : try_value(e, name);
        if (refused < 0)
            return -1;
        if (!refused || is_written(e, key) || !tp_standard_has(L, &e->c->standard, where, key)) {
            if (is_gone) {
                lua_pushvalue(L, to);
                lua_replace(L, value);
            }
            lua_rawseti(L, to, count + 3);
            lua_pop(L, 1);
            lua_rawseti(L, to, count + 2);
            lua_rawseti(L, to, count + 1);
            count += 3;
        }
        lua_settop(L, to);
    }
    lua_remove(L, list);
    if (count == 0) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }
    return 0;
}

/* Stack: list -> a copy of it; a new list for nil. */
static void copy_list(lua_State *L)
{
    int n = lua_istable(L, -1) ? (int)lua_objlen(L, -1) : 0;
    lua_createtable(L, n, 0);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -2, i);
        if (lua_rawequal(L, -1, -3)) {
            lua_pop(L, 1);
            lua_pushvalue(L, -1);
        }
        lua_rawseti(L, -2, i);
    }
    lua_remove(L, -2);
}

/* Stack: list -> the list, with the changes that the script has made in modules which the message
 * names. */
static void add_module_changes(encoder *e)
{
    lua_State *L = e->L;
    bool is_copied = false;
    if (!tp_modules_look(L, e->c))
        return;
    for (int i = 0; tp_modules_next(L, e->c, &i);) { // list name module
        if (!is_named(e, -2)) {
            lua_pop(L, 2);
            continue;
        }
        if (!is_copied) {
            lua_pushvalue(L, -3);
            copy_list(L);
            lua_replace(L, -4);
        }
        is_copied = true;
        tp_modules_add(L, e->c, lua_gettop(L) - 2);  // list
    }
}

/* Writes what an image has after its values, see tp_encode_image. May restart the message because
 * all globals are wanted. */
static int put_changes(encoder *e, int n)
{
    lua_State *L = e->L;
    e->failed = n - 1;
    if (e->reaches_globals && !e->wants_globals) {
        e->wants_globals = e->restart = true;
        return -1;
    }
    int top = lua_gettop(L);
    luaL_checkstack(L, STACK_NEED, "message");
    tp_standard_push_changes(L, &e->c->standard);
    if (e->wants_globals) {
        copy_list(L);
        tp_standard_add_globals(L, &e->c->standard);
    }
    add_module_changes(e);
    if (e->is_careful && lua_istable(L, -1) && try_changes(e) < 0)
        return -1;
    if (lua_istable(L, -1))
        anchor(e);
    if (put_value(e) < 0)
        return be_careful(e);
    lua_settop(L, top);
    if (e->reaches_globals && !e->wants_globals) {
        e->wants_globals = e->restart = true;
        return -1;
    }
    bool may_change = (e->uses & SETS_LIBRARY) || ((e->uses & SETS_UPVALUE) && e->has_library);
    return put_tag(e, may_change ? T_TRUE : T_FALSE);
}

static void release(encoder *e)
{
    if (!e->w)
        return;
    if (e->w->anchors != LUA_NOREF) {
        luaL_unref(e->L, LUA_REGISTRYINDEX, e->w->anchors);
        e->w->anchors = LUA_NOREF;
    }
    e->w->busy = false;
}

/* Writes the message of the values first, first + 1, ... at the end of e->out. On failure e says
 * why. `tables`: for an image, the stack index of its captured tables; 0: no image. */
static int encode_with_tables(encoder *e, int first, int n, int tables)
{
    tp_buf *out = e->out;
    int top = lua_gettop(e->L), rc = 0;
    do {
        e->restart = e->has_paths = false;
        e->depth = e->inside = 0;
        e->w = NULL;
        e->c = NULL;
        e->base = e->p = out->data ? out->data + out->len : NULL;
        e->end = out->data ? out->data + out->cap : NULL;
        e->ntables = 0;
        if (e->adds_tables) {
            e->captured = tp_captured_push(e->L);
            lua_replace(e->L, tables);
        }
        rc = put_values(e, first, n);
        if (rc == 0 && e->is_image)
            rc = put_changes(e, n);
        if (rc == 0 && e->is_image && !e->adds_tables && e->ntables > 0 &&
            e->ntables < tp_captured_count(e->captured)) {
            e->adds_tables = e->restart = true;
            rc = -1;
        }
        release(e);
        lua_settop(e->L, top);
        if (rc < 0)
            tp_buf_drop_refs(out, e->nrefs);
    } while (e->restart);
    if (rc == 0)
        out->len += offset(e);
    return rc;
}

static int encode(encoder *e, int first, int n)
{
    return encode_with_tables(e, first, n, 0);
}

static int report(const encoder *e, const char *const *root, tp_error *err)
{
    char unnamed[32];
    snprintf(unnamed, sizeof unnamed, "value %d", e->failed + 1);
    const char *name = root && root[e->failed] ? root[e->failed] : unnamed;
    if (e->code == TP_EMEMORY)
        return tp_error_set(err, e->code, "%s", e->why);
    if (e->is_deep)
        return tp_error_set(err, e->code, "%.200s: %s at %.*s...", name, e->why,
                            (int)(e->npath < 40 ? e->npath : 40), e->path);
    return tp_error_set(err, e->code, "%.100s%.*s%s: %s", name, (int)e->npath, e->path,
                        e->is_cut ? "..." : "", e->why);
}

int tp_encode_with(lua_State *L, int first, int n, const char *const *root, unsigned flags,
                   tp_captured *captured, tp_buf *out, tp_error *err)
{
    if (!lua_checkstack(L, 2 * STACK_NEED))
        return tp_error_set(err, TP_ECODEC, "too many values at once to travel to a worker");
    encoder e;
    start(&e, L, out, flags);
    e.captured = captured;
    if (captured)
        tp_captured_start(captured);
    if (first < 0)
        first += lua_gettop(L) + 1;
    return encode(&e, first, n) < 0 ? report(&e, root, err) : 0;
}

int tp_encode(lua_State *L, int first, int n, const char *const *root, unsigned flags, tp_buf *out,
              tp_error *err)
{
    return tp_encode_with(L, first, n, root, flags, NULL, out, err);
}

int tp_encode_image(lua_State *L, int first, int n, const char *const *root, int tables,
                    unsigned flags, tp_buf *out, tp_error *err)
{
    if (!lua_checkstack(L, 2 * STACK_NEED))
        return tp_error_set(err, TP_ECODEC, "too many values at once to travel to a worker");
    encoder e;
    start(&e, L, out, flags);
    e.is_image = true;
    e.captured = tp_captured_at(L, tables);
    if (encode_with_tables(&e, first, n, tables) < 0)
        return report(&e, root, err);
    if (e.adds_tables)
        tp_captured_seal(L, e.captured);
    if (e.ntables == 0) {
        lua_pushnil(L);
        lua_replace(L, tables);
    }
    return e.adds_tables || e.ntables == 0;
}

bool tp_encode_watch(lua_State *L, int tables)
{
    tp_captured *captured = tp_captured_at(L, tables);
    return captured && tp_captured_watch(L, captured, &tp_codec_of(L)->layout) > 0;
}

bool tp_encode_outline(lua_State *L, int first, int n, int tables, unsigned flags, tp_buf *out)
{
    const tp_captured *captured = tp_captured_at(L, tables);
    if (!captured || !lua_checkstack(L, 2 * STACK_NEED) ||
        !tp_captured_holds(captured, &tp_codec_of(L)->layout))
        return false;
    encoder e;
    start(&e, L, out, flags);
    e.is_image = true;
    e.outline = captured;
    return encode(&e, first, n) == 0;
}

/* Pushes a list of the strings that are constants in a dump. */
static void push_strings(lua_State *L, const char *text, size_t len)
{
    struct bytecode b;
    struct proto pt;
    bool stripped;
    int count = 0;
    lua_newtable(L);
    if (!tp_bytecode_open(&b, text, len, &stripped))
        return;
    while (tp_bytecode_next(&b, stripped, &pt)) {
        struct bytecode in = pt.constants;
        for (uint32_t k = 0; k < pt.nconstants && !in.is_broken; k++) {
            size_t n;
            const uint8_t *s = tp_bytecode_constant(&in, &n);
            if (!s || in.is_broken)
                continue;
            lua_pushlstring(L, (const char *)s, n);
            lua_rawseti(L, -2, ++count);
        }
    }
}

void tp_codec_inspect(lua_State *L, int index, tp_buf *code)
{
    struct codec *c = tp_codec_of(L);
    int top = lua_gettop(L);
    tp_buf_clear(code);
    lua_pushvalue(L, index);
    push_record(L, c);                              /* fn record */
    lua_rawgeti(L, top + 2, 1);                     /* fn record bytecode */
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    uint8_t *to = tp_buf_reserve(code, len + 1);
    struct bytecode_pair *sorting = lua_newuserdata(L, (len / 2 + 1) * sizeof *sorting);
    if (!to)
        tp_codec_raise_memory(L);
    code->len = tp_bytecode_write_identity(text, len, &c->patches, to, sorting);
    if (code->len == 0) {
        memcpy(to, text, len);
        code->len = len;
    }
    int n = (int)lua_objlen(L, top + 2);
    lua_createtable(L, n, 0);                       /* fn record bytecode sorting globals */
    for (int i = 3; i <= n; i++) {
        lua_rawgeti(L, top + 2, i);
        lua_rawseti(L, -2, i - 2);
    }
    lua_replace(L, top + 1);
    push_strings(L, text, len);
    lua_replace(L, top + 2);
    lua_settop(L, top + 2);                         /* globals strings */
}
