/* encode.c: Lua values to bytes.
 *
 * One pass over the values with the encoder on the C stack. What is refused is named by its path, which is put together from the inside to
 * the outside on the way back. Some refusals are restarts: a module that was found to be new may be in what is written already. */
#include "bytecode.h"
#include "codec_state.h"
#include "message.h"

#include <lauxlib.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TYPE_CDATA = 10 }; /* lua_type of LuaJIT's cdata; lua.h has no name for it */
enum { RUN_AFTER = 4 };   /* numbers in a row after which the rest of an array is packed */

/* One message in the making. On the C stack: an error that jumps over it must leave nothing behind that only it knows. */
typedef struct encoder {
    lua_State *L;
    struct work *w;  /* NULL until something needs it, which a number does not */
    struct codec *c; /* the same */
    tp_buf *out;
    uint8_t *base;   /* where the message starts: out->data + out->len, which stays as it was until the end */
    uint8_t *p, *end;
    uint32_t nrefs; /* of out, at the start */
    unsigned flags, depth;
    uint32_t found; /* by see() */

    struct encoder *outer; /* the message that needs this definition of a class */
    int defining;          /* that class; -1: an ordinary message */
    bool is_partial;       /* refers to a class whose definition is further out */
    bool scanned;          /* package.loaded has been looked through for this message */
    bool restart;          /* what was found there may be in what is written already */
    bool has_paths;

    /* ---- what is refused; set from the inside to the outside ---- */
    tp_code code;
    bool is_cut, is_deep;
    int failed; /* which value, from 0 */
    size_t npath;
    char path[160], why[200];
} encoder;

static int put_value(encoder *e);
static int encode(encoder *e, int first, int n);

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

/* Puts a step of the path before those that are there. A path that gets too long loses its inner end. */
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
    return len > 0 && len <= 50 && strlen(s) == len && strchr(first, s[0]) && strspn(s, rest) == len;
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
    if (++w->stamp == 0) { /* 2^32 messages later: no place may look used */
        if (w->seen)
            memset(w->seen, 0, w->seen_size * sizeof *w->seen);
        w->stamp = 1;
    }
}

/* Gets scratch when it is first needed: at the first table, function or long string, which is the value on top of the
 * outermost frame. The scratch is kept on the stack below it. */
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
        return refuse(e, TP_ECODEC, "a message over the limit of %u bytes cannot travel", (unsigned)UINT32_MAX);
    uint8_t *base = tp_buf_reserve(b, used + n);
    if (!base)
        return refuse_memory(e);
    e->base = base;
    e->p = base + used;
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

/* Was the object met before in this message? 1: yes, at e->found; 0: no, what is written next is it; -1: refused. */
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

/* Refers to what see() found. */
static int put_back(encoder *e, uint8_t tag)
{
    e->base[e->found] |= SHARED;
    return put_tag_u32(e, tag, e->found);
}

static inline int put_number(encoder *e, double x)
{
    if (room(e, 9) < 0)
        return -1;
    if (x >= INT32_MIN && x <= INT32_MAX) {
        int32_t i = (int32_t)x;
        if ((double)i == x && !(i == 0 && signbit(x))) {
            if (i >= 0 && i < T_SHORT) {
                *e->p++ = (uint8_t)(T_INT + i);
            } else if (i >= INT8_MIN && i <= INT8_MAX) {
                *e->p++ = T_INT8;
                *e->p++ = (uint8_t)i;
            } else {
                *e->p++ = T_INT32;
                memcpy(e->p, &i, sizeof i);
                e->p += sizeof i;
            }
            return 0;
        }
    }
    *e->p++ = T_DOUBLE;
    memcpy(e->p, &x, sizeof x);
    e->p += sizeof x;
    return 0;
}

/* The string at index, which is the top or holds still while scratch is acquired (a long string as a key does not come first). */
APART static int put_long_string(encoder *e, const char *s, size_t len)
{
    if (len > TP_STRING_MAX)
        return refuse(e, TP_ECODEC, "a string of %zu bytes is over the limit of %d", len, TP_STRING_MAX);
    if (!e->w)
        acquire(e);
    int seen = see(e, s);
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

/* The cdata at the stack's index `top`: 1 when it was a typed array and has been written, 0 when it is none, -1 on failure. */
static int put_array(encoder *e, const struct codec *c, int top)
{
    lua_State *L = e->L;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_of);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushvalue(L, top);
    lua_call(L, 1, 4); /* memory, type, offset, elements */
    tp_ref *r = lua_touserdata(L, -4);
    if (!r)
        return 0;
    uint64_t numbers[2] = { (uint64_t)lua_tonumber(L, -2), (uint64_t)lua_tonumber(L, -1) };
    if (room(e, 5 + 1 + sizeof numbers) < 0)
        return -1;
    if (tp_buf_add_ref(e->out, tp_ref_hold(r)) < 0) {
        tp_ref_drop(r);
        return refuse_memory(e);
    }
    if (put_tag_u32(e, T_ARRAY, e->out->nrefs - 1) < 0)
        return -1;
    *e->p++ = (uint8_t)lua_tointeger(L, -3);
    memcpy(e->p, numbers, sizeof numbers);
    e->p += sizeof numbers;
    return 1;
}

APART static int put_cdata(encoder *e)
{
    lua_State *L = e->L;
    struct codec *c = e->c ? e->c : tp_codec_of(L);
    int top = lua_gettop(L), rc = -1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->cdata_of);
    if (lua_isnil(L, -1)) {
        lua_settop(L, top);
        return refuse_type(e, "a cdata");
    }
    lua_pushvalue(L, top);
    lua_call(L, 1, 3); /* kind, value or re, im */
    int kind = (int)lua_tointeger(L, top + 1);
    int array = kind == 0 ? put_array(e, c, top) : 0;
    if (array != 0) {
        rc = array < 0 ? -1 : 0;
    } else if (kind == 0) {
        char what[120];
        snprintf(what, sizeof what, "a %.110s", lua_tostring(L, top + 2));
        rc = refuse_type(e, what);
    } else if (room(e, 17) == 0) {
        double parts[2] = { lua_tonumber(L, top + 2), lua_tonumber(L, top + 3) };
        *e->p = (uint8_t)(T_INT64 + kind - 1);
        memcpy(e->p + 1, kind == 3 ? (const void *)parts : lua_topointer(L, top + 2), kind == 3 ? 16 : 8);
        e->p += kind == 3 ? 17 : 9;
        rc = 0;
    }
    lua_settop(L, top);
    return rc;
}

/* ---- modules ---- */

/* Adds what is in package.loaded and is not known yet. Restarts the message when that is new, since it may already have
 * been written as a plain value. This takes about 10 ns a module; it is done once in an epoch, and once in a message that has a
 * function or something unknown. So a plain table that became a module within an epoch may travel by value. */
static int scan_modules(encoder *e)
{
    lua_State *L = e->L;
    struct codec *c = e->c;
    if (e->scanned)
        return 0;
    e->scanned = true;
    c->scanned_epoch = c->epoch;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* loaded name module */
        const void *object = tp_codec_is_object(L, -1) ? tp_codec_identity(L, -1) : NULL;
        if (object && lua_type(L, -2) == LUA_TSTRING && !tp_codec_find_known(c, object)) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, c->names); /* loaded name module names */
            int index = ++c->nnames;
            lua_pushvalue(L, -3);
            lua_rawseti(L, -2, index);
            lua_pop(L, 1);
            if (tp_codec_add_known(c, object, MODULE, index) < 0) {
                lua_pop(L, 3);
                return refuse_memory(e);
            }
            e->restart = true;
        }
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return e->restart ? -1 : 0;
}

/* Looks through the fields of all modules for the object (a C function or a metatable). Makes it known when it is there.
 * Globals do not count: what the program put into _G is not in a worker's. */
static struct known *find_field(encoder *e, const void *object)
{
    lua_State *L = e->L;
    struct codec *c = e->c;
    int top = lua_gettop(L);
    struct known *found = NULL;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushnil(L);
    while (!found && lua_next(L, top + 1)) {  /* loaded name module */
        bool is_library = lua_istable(L, -1) && lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), "_G") != 0;
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

/* Is the object still where its name says? */
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

/* The object on top is a module or in one. */
static int put_module(encoder *e, struct known *k)
{
    if (!is_in_place(e, k)) {
        k->kind = GONE;
        e->scanned = false;
        e->restart = true;
        return -1;
    }
    lua_State *L = e->L;
    bool is_field = k->kind == FIELD;
    int index = k->index;
    if (room(e, 2) < 0)
        return -1;
    *e->p++ = T_MODULE;
    *e->p++ = (uint8_t)((is_field ? MODULE_FIELD : 0) | (e->has_paths ? 0 : MODULE_PATHS));
    if (!e->has_paths) {
        e->has_paths = true;
        push_path(e, "path");
        if (put_text(e) < 0)
            return -1;
        push_path(e, "cpath");
        if (put_text(e) < 0)
            return -1;
    }
    for (int i = 0; i < (is_field ? 2 : 1); i++) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
        lua_rawgeti(L, -1, index + i);
        lua_remove(L, -2);
        if (put_text(e) < 0)
            return -1;
    }
    return 0;
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
    if (tp_buf_add_ref(e->out, tp_ref_hold(r)) < 0) {
        tp_ref_drop(r);
        return refuse_memory(e);
    }
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
    e->defining = -1;
    e->is_partial = e->scanned = e->is_cut = e->is_deep = false;
    e->npath = 0;
    e->failed = 0;
}

/* Pushes a box that owns a new definition of the class, made of its metatable as it is now. On failure e is refused, and
 * nothing is pushed. */
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
    start(&in, L, &blob->message, 0);
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

/* A class that travels with its definition. One whose definition is in the making further out is only named: its table is
 * there when the other side reads this. Such a definition is of use only inside of that one, and not kept. */
static int put_defined(encoder *e, int index)
{
    struct codec *c = e->c;
    struct class *k = &c->classes[index];
    if (k->blob && !k->blob->is_partial && (k->origin == FOREIGN || k->epoch == c->epoch))
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
    k = &c->classes[index]; /* they may have moved */
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

/* The object on top by its name. */
APART static int put_known(encoder *e, struct known *k)
{
    if (k->kind == CLASS) {
        struct class *class = &e->c->classes[k->index];
        return class->origin == BY_NAME ? put_name(e, T_CLASS, class->name) : put_defined(e, k->index);
    }
    if (k->kind != BUILTIN)
        return put_module(e, k);
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

/* The metatable on top of its table. 1: written; 0: to be dropped; -1: refused. */
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
        return refuse(e, TP_ECODEC, "a table with an unknown metatable cannot travel to a worker "
                                    "(make it known with tidepool.class)");
    }
    return put_value(e) < 0 ? -1 : 1;
}

/* Packs numbers from item i on, until one is not a number. Gives the next item's index, or 0 when refused. */
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
            i--; /* the loop counts it up */
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

/* Writes all of the table on top but the items 1 to n, which are written. Gives the count of pairs, or -1. */
static int64_t put_pairs(encoder *e, const void *table, size_t n)
{
    lua_State *L = e->L;
    int64_t count = 0;
    uint32_t asize = 0;
    if (e->c->asize_at)
        memcpy(&asize, (const char *)table + e->c->asize_at, sizeof asize);
    bool can_skip = n > 0 && n < asize; /* then all items are in the array part, which comes first */
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

/* The table on top, by value. */
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
    if (lua_getmetatable(L, -1)) {
        int rc = put_metatable(e);
        lua_pop(L, 1);
        if (rc < 0)
            return -1;
        if (rc > 0)
            e->base[head] = (uint8_t)(T_OBJECT | (e->base[head] & SHARED));
    }
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
    if (++e->depth <= TP_DEPTH_MAX)
        return 0;
    refuse(e, TP_ECODEC, "nested deeper than %d", TP_DEPTH_MAX);
    e->is_deep = true;
    return -1;
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
    int rc = put_contents(e, table);
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

/* Adds the names of the globals that one function of a dump reads to the record on top. True if it reads or writes any. */
static bool add_globals(lua_State *L, const struct codec *c, struct proto *pt)
{
    bool has_globals = false;
    for (uint32_t i = 0; i < pt->ncode; i++) {
        uint32_t ins;
        memcpy(&ins, pt->code + i * 4, sizeof ins);
        uint8_t op = ins & 0xff;
        has_globals |= op == c->op_gget || op == c->op_gset;
        uint32_t from_end = ins >> 16; /* constants are numbered from the last one */
        if (op != c->op_gget || from_end >= pt->nconstants)
            continue;
        struct bytecode in = pt->constants;
        const uint8_t *name = NULL;
        size_t len = 0;
        for (uint32_t k = 0; k < pt->nconstants - from_end; k++)
            name = tp_bytecode_constant(&in, &len);
        if (name && !in.is_broken)
            add_name(L, name, len);
    }
    return has_globals;
}

/* Pushes the record of the Lua function on top: { bytecode, uses globals, names of globals that it reads... }. */
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
    lua_pushboolean(L, false);
    lua_rawseti(L, -2, 2);
    struct bytecode b;
    struct proto pt;
    bool stripped, has_globals = false;
    if (tp_bytecode_open(&b, text, len, &stripped)) {
        while (tp_bytecode_next(&b, stripped, &pt))
            has_globals |= add_globals(L, c, &pt);
    }
    lua_pushboolean(L, has_globals);
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

/* Keeps the value on top alive until the message is made: only so does its address mean it. */
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

/* Stack: env name -> env name value: what the environment has under that name. Raw, along __index tables; only an __index
 * function (a sandbox's) is called, and one that raises (as `strict` modules do) has nothing. */
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

/* Stack: name value. Has every state that value under that name anyway? */
static bool is_standard(encoder *e)
{
    lua_State *L = e->L;
    if (!tp_codec_is_object(L, -1))
        return false;
    const struct known *k = tp_codec_find_known(e->c, tp_codec_identity(L, -1));
    if (!k || k->kind != BUILTIN || k->index > e->c->nstandard)
        return false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(L, -1, k->index);
    lua_rawgeti(L, -2, k->index + 1);
    bool is = lua_objlen(L, -2) == 0 && lua_rawequal(L, -1, -5); /* no prefix, and that name */
    lua_pop(L, 3);
    return is;
}

/* Stack: fn record. The function's environment: its identity, and the values of the globals that the function reads. */
static int put_globals(encoder *e)
{
    lua_State *L = e->L;
    lua_rawgeti(L, -1, 2);
    bool has_globals = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (!has_globals)
        return put_tag(e, T_NIL);
    lua_getfenv(L, -2); /* fn record env */
    /* The same table may also be met as a value, which is something else. Hence the other address. */
    int seen = see(e, (const char *)lua_topointer(L, -1) + 1);
    if (seen < 0 || (seen ? put_back(e, T_BACK) : put_tag(e, T_ENV)) < 0 || room(e, 4) < 0)
        return -1;
    uint32_t head = offset(e), count = 0;
    e->p += 4;
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

static int put_lua_function(encoder *e)
{
    lua_State *L = e->L;
    if (put_tag(e, T_FUNC) < 0)
        return -1;
    push_record(L, e->c);                         /* fn record */
    lua_rawgeti(L, -1, 1);                        /* fn record bytecode */
    if (put_string(e, -1) < 0)
        return -1;
    lua_pop(L, 1);
    if (put_globals(e) < 0)
        return -1;
    lua_pop(L, 1);                                /* fn */
    return put_upvalues(e);
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
            return refuse_type(e, "a C function that no loaded module has");
    }
    if (k)
        return put_known(e, k);
    if (deeper(e) < 0)
        return -1;
    int rc = put_lua_function(e);
    e->depth--;
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
    struct known *k = tp_codec_find_known(e->c, object);
    if (!k && scan_modules(e) < 0)
        return -1;
    return k ? put_known(e, k) : refuse_type(e, "a userdata");
}

/* ---- values ---- */

APART static int put_in_frame(lua_State *L)
{
    encoder *e = lua_touserdata(L, 1);
    put_value(e); /* a refusal is in e */
    return 0;
}

/* The value on top, which may nest further. */
static int put_nested(encoder *e, int type)
{
    lua_State *L = e->L;
    if (!e->w)
        acquire(e);
    if (!lua_checkstack(L, STACK_NEED)) { /* a C function has 8,000 slots at most: go on in another one */
        lua_pushcfunction(L, put_in_frame);
        lua_pushlightuserdata(L, e);
        lua_pushvalue(L, -3);
        lua_call(L, 2, 0);
        return e->code == TP_OK && !e->restart ? 0 : -1;
    }
    int top = lua_gettop(L);
    int rc = type == LUA_TTABLE ? put_table(e) : type == LUA_TFUNCTION ? put_function(e) : put_userdata(e);
    if (rc < 0)
        lua_settop(L, top);
    return rc;
}

/* The value on top. -1 when it is refused. The stack is as it was either way. */
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
    default:
        return refuse_type(e, "a light userdata");
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
    if (put_count(e, n) < 0)
        return -1;
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

/* Makes the message of the values first, first + 1, ... at the end of e->out. On failure e says why. */
static int encode(encoder *e, int first, int n)
{
    tp_buf *out = e->out;
    int top = lua_gettop(e->L), rc = 0;
    do {
        e->restart = e->has_paths = false;
        e->depth = 0;
        e->w = NULL;
        e->c = NULL;
        e->base = e->p = out->data ? out->data + out->len : NULL;
        e->end = out->data ? out->data + out->cap : NULL;
        rc = put_values(e, first, n);
        release(e);
        lua_settop(e->L, top);
        if (rc < 0)
            tp_buf_drop_refs(out, e->nrefs);
    } while (e->restart);
    if (rc == 0)
        out->len += offset(e);
    return rc;
}

static int report(const encoder *e, const char *const *root, tp_error *err)
{
    char unnamed[32];
    snprintf(unnamed, sizeof unnamed, "value %d", e->failed + 1);
    const char *name = root && root[e->failed] ? root[e->failed] : unnamed;
    if (e->code == TP_EMEMORY)
        return tp_error_set(err, e->code, "%s", e->why);
    if (e->is_deep)
        return tp_error_set(err, e->code, "%.200s: %s at %.*s...", name, e->why, (int)(e->npath < 40 ? e->npath : 40),
                            e->path);
    return tp_error_set(err, e->code, "%.100s%.*s%s: %s", name, (int)e->npath, e->path, e->is_cut ? "..." : "", e->why);
}

int tp_encode(lua_State *L, int first, int n, const char *const *root, unsigned flags, tp_buf *out, tp_error *err)
{
    if (!lua_checkstack(L, 2 * STACK_NEED))
        return tp_error_set(err, TP_ECODEC, "too many values at once to travel to a worker");
    encoder e;
    start(&e, L, out, flags);
    if (first < 0)
        first += lua_gettop(L) + 1;
    return encode(&e, first, n) < 0 ? report(&e, root, err) : 0;
}
