/* codec.c: Lua values to bytes and back.
 *
 * A message is a count and that many values, each a tag byte and what the tag asks for (enum tag). What can be met
 * twice (tables, functions, long strings, ...) is referred to by its offset from the message's start; only when that
 * happens is the first occurrence's tag patched to its "shared" variant, so that decoding registers only those.
 *
 * Per Lua state there is one struct codec (what is known by name: builtins, modules, classes) and one struct work (scratch
 * of the message that is being made or read). Both are userdata in the registry, so that an error that jumps out of here
 * leaks nothing: a work that stays marked busy is simply replaced by the next message's. The same covers nested use: a work
 * in use is anchored on the Lua stack of its user.
 *
 * Numbers are in the machine's byte order. Whoever sends messages to another machine compares that first. */
#include "codec.h"

#include <lauxlib.h>
#include <lua.h>

#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define countof(a) (sizeof(a) / sizeof *(a))

/* Kept out of the functions that call themselves, 10,000 deep on a stack of 8 MiB: those need small frames. */
#define APART __attribute__((noinline))

enum tag {
    T_INT = 0x00,    /* 0x00 .. 0x7f: the integers 0 to 127 */
    T_SHORT = 0x80,  /* 0x80 .. 0x9f: strings of 0 to 31 bytes, which follow */
    T_NIL = 0xa0,
    T_FALSE,
    T_TRUE,
    T_INT8,          /* one byte, signed */
    T_INT32,
    T_DOUBLE,
    T_INT64,         /* cdata */
    T_UINT64,
    T_COMPLEX,       /* cdata: two doubles */
    T_RUN,           /* in a table's array part only: u32 count, so many doubles */
    T_BACK,          /* u32 offset of something shared */
    T_UPBACK,        /* in a function only: u32 offset of a shared upvalue */
    T_ARRAY,         /* u32 index of a reference: the memory; u8 type, u64 offset in bytes, u64 elements */

    /* From here on: even tags, and tag | SHARED where a T_BACK or T_UPBACK refers to it. */
    T_STRING = 0xb0, /* u32 length, bytes */
    T_TABLE = 0xb2,  /* u32 array items, u32 pairs, the items, the pairs */
    T_OBJECT = 0xb4, /* as T_TABLE, with the metatable (a value) before the items */
    T_FUNC = 0xb6,   /* bytecode (a string), environment (nil, T_ENV or T_BACK; then u32 pairs of globals), u8 upvalues */
    T_UPVAL = 0xb8,  /* in a function only: a value */
    T_ENV = 0xba,    /* in a function only: an environment of its own */
    T_BUILTIN = 0xbc, /* name */
    T_MODULE = 0xbe,  /* u8 of MODULE_*, then path and cpath, the module's name, the field's name */
    T_CLASS = 0xc0,   /* name: a class that the other side must know */
    T_BLOB = 0xc2,    /* u32 index of a reference: a class with its definition */
    T_DEFINED = 0xc4, /* name: a class whose definition is being read further out */
    T_REF = 0xc6      /* u32 index of a reference: a host object */
};

enum { SHARED = 1, SHORT_MAX = 32 };
enum { MODULE_FIELD = 1, MODULE_PATHS = 2 };
enum { TYPE_CDATA = 10 }; /* lua_type of LuaJIT's cdata; lua.h has no name for it */
enum { STACK_NEED = 16 }; /* Lua stack slots that one level of nesting may use */
enum { RUN_AFTER = 4 };   /* numbers in a row after which the rest of an array is packed */

/* A class's definition as a message of one table. Immutable, shared by states and threads. */
typedef struct class_blob {
    tp_ref ref;
    tp_buf message;
    bool is_partial; /* of use only inside of the definition that it was made for: see put_defined */
    char name[];     /* the class's */
} class_blob;

enum kind { GONE, BUILTIN, MODULE, FIELD, CLASS };

/* A Lua object that travels by name. MODULE and FIELD do not keep it alive: they are compared with what is in
 * package.loaded before each use, and become GONE when it isn't there any more. */
struct known {
    const void *object; /* its address; NULL: an empty place of the hash table */
    enum kind kind;
    int index; /* of the name in `names` (FIELD: module and field); CLASS: in codec.classes */
};

enum { BY_NAME, BY_VALUE, FOREIGN };

struct class {
    const void *mt;   /* anchored by the table `classes` at index + 1 */
    char *name;       /* owned */
    class_blob *blob; /* one reference: its definition of `epoch`, or the one that was decoded. NULL: none yet */
    unsigned epoch;
    int origin; /* BY_NAME, BY_VALUE: registered in this state; FOREIGN: its definition came in a message */
};

/* What the codec knows in one Lua state. A userdata in the registry, under &codec_key. */
struct codec {
    struct known *known; /* open addressing, a power of two of places, at most half full */
    uint32_t nknown, known_size;
    struct class *classes;
    int nclasses, class_room;
    unsigned epoch, scanned_epoch; /* the second: when package.loaded was last looked through */
    int asize_at; /* offset of a table's array size inside of it; 0: not found (probe_asize) */
    uint8_t op_gget, op_gset;

    /* Lua tables and functions: indexes in the registry. */
    int names;    /* array of names that known.index counts in */
    int by_name;  /* name -> builtin */
    int mts;      /* array of the classes' metatables */
    int dumps;    /* Lua function -> { bytecode, reads or writes globals, names of globals read... }; weak keys */
    int env_mt;   /* metatable of decoded functions' environments: __index = the state's globals */
    int loaded;   /* package.loaded */
    int require;  /* the function, or nil */
    int cdata_of; /* see cdata_helper; nil without ffi */
    int cdata_new;
    int array_of; /* see tp_codec_set_arrays; nil until it was called */
    int array_new;
};

struct seen {
    const void *object;
    uint32_t stamp, offset;
};

/* Scratch of one message. A userdata in the registry, under &work_key. */
struct work {
    struct codec *codec;
    bool busy;

    /* Encoding: objects met so far. A place whose stamp is not the message's is empty. */
    struct seen *seen;
    uint32_t nseen, seen_size, stamp;
    int anchors; /* registry index of a table that keeps temporary values alive, or LUA_NOREF */

    /* Decoding: shared objects so far, by rising offset. Number i is at i + 1 in the decoder's Lua table. */
    struct shared {
        uint32_t offset;
        uint32_t upvalue; /* 0: a value; else it is this upvalue of the function, or IS_ENV */
    } *shared;
    uint32_t nshared, shared_room;
};

enum { IS_ENV = 0xffff };

static const char codec_key, work_key; /* their addresses are the keys in the registry */

/* ---- buffers ---- */

uint8_t *tp_buf_reserve(tp_buf *b, size_t n)
{
    if (b->cap - b->len >= n && b->data)
        return b->data + b->len;
    if (n > SIZE_MAX / 2 - b->len)
        return NULL;
    size_t cap = b->cap * 2 > 128 ? b->cap * 2 : 128;
    if (cap < b->len + n)
        cap = b->len + n;
    uint8_t *data = realloc(b->data, cap);
    if (!data)
        return NULL;
    b->data = data;
    b->cap = cap;
    return data + b->len;
}

static void drop_refs(tp_buf *b, uint32_t keep)
{
    while (b->nrefs > keep)
        tp_ref_drop(b->refs[--b->nrefs]);
}

void tp_buf_clear(tp_buf *b)
{
    drop_refs(b, 0);
    b->len = 0;
}

void tp_buf_free(tp_buf *b)
{
    drop_refs(b, 0);
    free(b->refs);
    free(b->data);
    *b = (tp_buf){ 0 };
}

/* Appends r and takes over the caller's reference to it; -1 when out of memory, with the reference still the caller's. */
static int add_ref(tp_buf *b, tp_ref *r)
{
    if (b->nrefs == b->refcap) {
        uint32_t cap = b->refcap ? b->refcap * 2 : 4;
        tp_ref **refs = realloc(b->refs, cap * sizeof *refs);
        if (!refs)
            return -1;
        b->refs = refs;
        b->refcap = cap;
    }
    b->refs[b->nrefs++] = r;
    return 0;
}

/* ---- hashing addresses ---- */

static inline uint32_t slot_of(const void *object, uint32_t size)
{
    return (uint32_t)(((uint64_t)(uintptr_t)object >> 3) * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (size - 1);
}

/* The place of the object, or the empty place where it belongs. */
static struct known *known_slot(struct known *table, uint32_t size, const void *object)
{
    uint32_t i = slot_of(object, size);
    while (table[i].object && table[i].object != object)
        i = (i + 1) & (size - 1);
    return &table[i];
}

/* What is known about an object; NULL if nothing. */
static inline struct known *find_known(const struct codec *c, const void *object)
{
    if (!c->known_size)
        return NULL;
    struct known *k = known_slot(c->known, c->known_size, object);
    return k->object && k->kind != GONE ? k : NULL;
}

/* Makes an object known, in place of what was known about it. -1: out of memory. */
static int add_known(struct codec *c, const void *object, enum kind kind, int index)
{
    if (c->nknown * 2 >= c->known_size) {
        uint32_t size = c->known_size ? c->known_size * 2 : 512;
        struct known *table = calloc(size, sizeof *table);
        if (!table)
            return -1;
        c->nknown = 0;
        for (uint32_t i = 0; i < c->known_size; i++) {
            if (c->known[i].object && c->known[i].kind != GONE) {
                *known_slot(table, size, c->known[i].object) = c->known[i];
                c->nknown++;
            }
        }
        free(c->known);
        c->known = table;
        c->known_size = size;
    }
    struct known *k = known_slot(c->known, c->known_size, object);
    c->nknown += !k->object;
    *k = (struct known){ object, kind, index };
    return 0;
}

static int grow_seen(struct work *w)
{
    uint32_t size = w->seen_size ? w->seen_size * 2 : 64;
    struct seen *table = calloc(size, sizeof *table);
    if (!table)
        return -1;
    for (uint32_t i = 0; i < w->seen_size; i++) {
        if (w->seen[i].stamp == w->stamp) {
            uint32_t k = slot_of(w->seen[i].object, size);
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

/* ---- the state's codec and work ---- */

static void push_key(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
}

static struct codec *codec_of(lua_State *L)
{
    push_key(L, &codec_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    struct codec *c = lua_touserdata(L, -1);
    lua_pop(L, 1); /* the registry keeps it */
    if (!c)
        luaL_error(L, "the codec is not open in this Lua state");
    return c;
}

static int work_gc(lua_State *L)
{
    struct work *w = lua_touserdata(L, 1);
    free(w->seen);
    free(w->shared);
    w->seen = NULL;
    w->shared = NULL;
    w->seen_size = w->shared_room = 0;
    return 0;
}

/* Pushes a userdata of n zero bytes whose __gc is the function. */
static void *push_owner(lua_State *L, size_t n, const char *name, lua_CFunction gc)
{
    void *u = lua_newuserdata(L, n);       /* u */
    memset(u, 0, n);
    luaL_newmetatable(L, name);            /* u mt */
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);               /* u */
    return u;
}

/* Pushes scratch that nobody uses and marks it busy. It is the caller's until busy is false again, as long as the caller
 * leaves it on the stack. */
static struct work *push_work(lua_State *L)
{
    push_key(L, &work_key);
    lua_rawget(L, LUA_REGISTRYINDEX); /* w */
    struct work *w = lua_touserdata(L, -1);
    if (!w || w->busy) {
        lua_pop(L, 1);
        struct codec *c = codec_of(L);
        w = push_owner(L, sizeof *w, "tidepool.codec.work", work_gc); /* w */
        w->codec = c;
        w->anchors = LUA_NOREF;
        push_key(L, &work_key);
        lua_pushvalue(L, -2);
        lua_rawset(L, LUA_REGISTRYINDEX);
    }
    w->busy = true;
    return w;
}

/* ---- host references ---- */

static int ref_gc(lua_State *L)
{
    tp_ref **box = lua_touserdata(L, 1);
    if (box && lua_objlen(L, 1) == sizeof *box) {
        tp_ref *r = *box;
        *box = NULL;
        tp_ref_drop(r);
    }
    return 0;
}

static int ref_eq(lua_State *L)
{
    tp_ref **a = lua_touserdata(L, 1), **b = lua_touserdata(L, 2);
    bool are_boxes = a && b && lua_objlen(L, 1) == sizeof *a && lua_objlen(L, 2) == sizeof *b;
    lua_pushboolean(L, are_boxes && *a == *b);
    return 1;
}

void tp_codec_ref_type(lua_State *L, const tp_ref_type *type)
{
    if (!luaL_newmetatable(L, type->metatable)) {
        lua_getfield(L, -1, "__gc");
        bool done = !lua_isnil(L, -1);
        lua_pop(L, 1);
        if (done)
            return;
    }
    lua_pushcfunction(L, ref_eq);
    lua_setfield(L, -2, "__eq");
    lua_pushcfunction(L, ref_gc); /* last: it says that the metatable is complete */
    lua_setfield(L, -2, "__gc");
}

/* Pushes an empty box for a reference of that type. */
static tp_ref **push_box(lua_State *L, const tp_ref_type *type)
{
    tp_ref **box = lua_newuserdata(L, sizeof *box);
    *box = NULL;
    tp_codec_ref_type(L, type);
    lua_setmetatable(L, -2);
    return box;
}

void tp_codec_push_ref(lua_State *L, tp_ref *r)
{
    tp_ref **box = push_box(L, r->type);
    *box = tp_ref_hold(r);
}

void *tp_codec_to_ref(lua_State *L, int index, const tp_ref_type *type)
{
    tp_ref **box = lua_touserdata(L, index);
    if (!box || lua_objlen(L, index) != sizeof *box || !lua_getmetatable(L, index))
        return NULL;
    luaL_getmetatable(L, type->metatable);
    bool fits = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return fits ? *box : NULL;
}

/* The host object of the userdata on top, of whatever type; NULL if it has none. Nobody but tp_codec_ref_type gives
 * ref_gc to a metatable, and the size guards against a proxy that was given ours. */
static tp_ref *any_ref(lua_State *L)
{
    tp_ref **box = lua_touserdata(L, -1);
    if (lua_objlen(L, -1) != sizeof *box || !lua_getmetatable(L, -1))
        return NULL;
    lua_pushliteral(L, "__gc");
    lua_rawget(L, -2);
    bool is_ours = lua_tocfunction(L, -1) == ref_gc;
    lua_pop(L, 2);
    return is_ours ? *box : NULL;
}

static void free_blob(tp_ref *r)
{
    class_blob *blob = (class_blob *)r;
    tp_buf_free(&blob->message);
    free(blob);
}

static const tp_ref_type class_blob_type = { "tidepool.codec.class", free_blob };

/* ---- classes ---- */

static struct class *find_class(const struct codec *c, const char *name, size_t len)
{
    for (int i = 0; i < c->nclasses; i++) {
        if (strlen(c->classes[i].name) == len && memcmp(c->classes[i].name, name, len) == 0)
            return &c->classes[i];
    }
    return NULL;
}

/* Adds a class without a metatable; NULL when out of memory. */
static struct class *new_class(struct codec *c, const char *name, size_t len)
{
    if (c->nclasses == c->class_room) {
        int room = c->class_room ? c->class_room * 2 : 8;
        struct class *classes = realloc(c->classes, (size_t)room * sizeof *classes);
        if (!classes)
            return NULL;
        c->classes = classes;
        c->class_room = room;
    }
    char *copy = malloc(len + 1);
    if (!copy)
        return NULL;
    memcpy(copy, name, len);
    copy[len] = '\0';
    struct class *k = &c->classes[c->nclasses++];
    *k = (struct class){ .name = copy };
    return k;
}

/* Makes the table on top the metatable of the class of that name, which is added when it is new. Raises on out of memory. */
static struct class *set_class(lua_State *L, struct codec *c, const char *name, size_t len, int origin)
{
    struct class *k = find_class(c, name, len);
    bool is_new = !k;
    int index = is_new ? c->nclasses : (int)(k - c->classes);
    const void *mt = lua_topointer(L, -1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->mts);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, index + 1); /* first: from here on nothing of Lua's can fail */
    lua_pop(L, 1);
    if (is_new && !(k = new_class(c, name, len)))
        luaL_error(L, "not enough memory");
    if (add_known(c, mt, CLASS, index) < 0) {
        if (is_new)
            free(c->classes[--c->nclasses].name);
        luaL_error(L, "not enough memory");
    }
    struct known *old = k->mt && k->mt != mt ? find_known(c, k->mt) : NULL;
    if (old && old->kind == CLASS && old->index == index)
        old->kind = GONE; /* its name has been given to another one */
    k->mt = mt;
    k->origin = origin;
    tp_ref_drop(k->blob);
    k->blob = NULL;
    return k;
}

void tp_codec_add_class(lua_State *L, const char *name, int index, bool by_value)
{
    lua_pushvalue(L, index);
    set_class(L, codec_of(L), name, strlen(name), by_value ? BY_VALUE : BY_NAME);
    lua_pop(L, 1);
}

void tp_codec_new_epoch(lua_State *L)
{
    codec_of(L)->epoch++;
}

/* ---- builtins ---- */

/* Makes the object on top known as the name below it; both are popped. */
static void add_builtin(lua_State *L, struct codec *c)
{
    const void *object = lua_topointer(L, -1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->by_name);
    lua_pushvalue(L, -3);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);                              /* name object by_name */
    struct known *k = find_known(c, object);
    if (!k || k->kind != BUILTIN) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);
        int index = (int)lua_objlen(L, -1) + 1;
        lua_pushvalue(L, -4);
        lua_rawseti(L, -2, index);
        lua_pop(L, 1);
        if ((!k || k->kind != CLASS) && add_known(c, object, BUILTIN, index) < 0)
            luaL_error(L, "not enough memory");
    }
    lua_pop(L, 3);
}

static bool is_object(lua_State *L, int index)
{
    int type = lua_type(L, index);
    return type == LUA_TTABLE || type == LUA_TFUNCTION || type == LUA_TUSERDATA;
}

/* Makes the table on top and its fields known: all fields that are objects, or the functions only. The fields' names start
 * with `prefix`, a dot included. */
static void add_library(lua_State *L, struct codec *c, const char *name, const char *prefix, bool functions_only)
{
    luaL_checkstack(L, STACK_NEED, "builtins");
    lua_pushstring(L, name);
    lua_pushvalue(L, -2);
    add_builtin(L, c);
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* table key value */
        bool wanted = functions_only ? lua_type(L, -1) == LUA_TFUNCTION : is_object(L, -1);
        if (wanted && lua_type(L, -2) == LUA_TSTRING) {
            lua_pushstring(L, prefix);
            lua_pushvalue(L, -3);
            lua_concat(L, 2);
            lua_pushvalue(L, -2);
            add_builtin(L, c);
        }
        lua_pop(L, 1);
    }
}

void tp_codec_add_builtins(lua_State *L, const char *name, int index)
{
    lua_pushvalue(L, index);               /* table */
    lua_pushfstring(L, "%s.", name);       /* table prefix */
    lua_insert(L, -2);                     /* prefix table */
    add_library(L, codec_of(L), name, lua_tostring(L, -2), false);
    lua_pop(L, 2);
}

/* ---- opening ---- */

static int codec_gc(lua_State *L)
{
    struct codec *c = lua_touserdata(L, 1);
    for (int i = 0; i < c->nclasses; i++) {
        tp_ref_drop(c->classes[i].blob);
        free(c->classes[i].name);
    }
    free(c->classes);
    free(c->known);
    c->classes = NULL; /* other finalizers of a closing state may still come here */
    c->known = NULL;
    c->nclasses = c->class_room = 0;
    c->nknown = c->known_size = 0;
    return 0;
}

/* Says what a cdata is: 1 and a fresh int64_t (read through lua_topointer), 2 and a uint64_t, 3 and a complex's two numbers;
 * 0 and its type for all others. A ctype passes istype as its own instance; its text tells it apart. The other function makes them. */
static const char cdata_helper[] =
    "local ffi = require 'ffi'\n"
    "local istype, typeof, new, tostring, pcall = ffi.istype, ffi.typeof, ffi.new, tostring, pcall\n"
    "local find, gsub = string.find, string.gsub\n"
    "local int64, uint64, complex = typeof 'int64_t', typeof 'uint64_t', typeof 'complex'\n"
    "local function parts(v) return v.re, v.im end\n"
    "local function is(ct, v) return istype(ct, v) and not find(tostring(v), '^ctype') end\n"
    "return function(v)\n"
    "  if is(int64, v) then return 1, int64(v) end\n"
    "  if is(uint64, v) then return 2, uint64(v) end\n"
    "  if istype(complex, v) then\n"
    "    local ok, re, im = pcall(parts, v)\n"
    "    if ok then return 3, re, im end\n"
    "  end\n"
    "  return 0, (gsub(tostring(typeof(v)), '^ctype', 'cdata'))\n"
    "end, function(kind, re, im)\n"
    "  if kind == 3 then return complex(re, im) end\n"
    "  return new(kind == 1 and int64 or uint64)\n"
    "end\n";

/* Finds where a table keeps the size of its array part, so that encoding can skip that part when it goes through the hash part
 * (a fifth of the time of a list of numbers is lua_next). 0 when it isn't found, which costs speed only. Reads nothing but the
 * table's own 64 bytes. */
static int probe_asize(lua_State *L)
{
    static const int sizes[] = { 0, 37, 1000, 3 };
    int found = 0;
    for (int at = 8; sizeof(void *) == 8 && at < 64 && !found; at += 4) {
        bool fits = true;
        for (size_t i = 0; i < countof(sizes) && fits; i++) {
            lua_createtable(L, sizes[i], 0);
            uint32_t asize;
            memcpy(&asize, (const char *)lua_topointer(L, -1) + at, sizeof asize);
            fits = asize == (sizes[i] ? (uint32_t)sizes[i] + 1 : 0);
            lua_pop(L, 1);
        }
        if (fits)
            found = at;
    }
    return found;
}

static int append(lua_State *L, const void *p, size_t n, void *ud)
{
    (void)L;
    tp_buf *b = ud;
    uint8_t *to = tp_buf_reserve(b, n);
    if (!to)
        return -1;
    memcpy(to, p, n);
    b->len += n;
    return 0;
}

static int buf_gc(lua_State *L)
{
    tp_buf_free(lua_touserdata(L, 1));
    return 0;
}

/* Replaces the Lua function on top by its bytecode with debug information. */
static void dump(lua_State *L)
{
    tp_buf *b = push_owner(L, sizeof *b, "tidepool.codec.dump", buf_gc); /* fn b */
    lua_insert(L, -2);                                                   /* b fn */
    if (lua_dump(L, append, b))
        luaL_error(L, "not enough memory");
    lua_pushlstring(L, (const char *)b->data, b->len);                   /* b fn bytecode */
    tp_buf_free(b);
    lua_replace(L, -3);
    lua_pop(L, 1);                                                       /* bytecode */
}

/* Bytecode as lua_dump writes it (LuaJIT's lj_bcdump.h): what is needed to find the globals. */
struct bytecode {
    const uint8_t *p, *end;
    bool is_broken;
};

static uint32_t bc_number(struct bytecode *b)
{
    uint32_t n = 0;
    for (int shift = 0; b->p < b->end && shift < 35; shift += 7) {
        uint8_t byte = *b->p++;
        n |= (uint32_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return n;
    }
    b->is_broken = true;
    return 0;
}

static const uint8_t *bc_skip(struct bytecode *b, size_t n)
{
    const uint8_t *at = b->p;
    if (b->is_broken || (size_t)(b->end - b->p) < n) {
        b->is_broken = true;
        n = 0;
    }
    b->p += n;
    return at;
}

static void bc_table_item(struct bytecode *b)
{
    uint32_t type = bc_number(b);
    if (type >= 5) {
        bc_skip(b, type - 5);
    } else if (type >= 3) {
        bc_number(b);
        if (type == 4)
            bc_number(b);
    }
}

/* Reads past one constant; gives its text when it is a string. */
static const uint8_t *bc_constant(struct bytecode *b, size_t *len)
{
    enum { CHILD, TABLE, INT64, UINT64, COMPLEX, STRING };
    uint32_t type = bc_number(b);
    if (type >= STRING) {
        *len = type - STRING;
        return bc_skip(b, *len);
    }
    int numbers = type == COMPLEX ? 4 : type == INT64 || type == UINT64 ? 2 : 0;
    for (int i = 0; i < numbers; i++)
        bc_number(b);
    if (type == TABLE) {
        uint64_t items = bc_number(b);
        items += 2 * (uint64_t)bc_number(b);
        while (items-- && !b->is_broken)
            bc_table_item(b);
    }
    return NULL;
}

/* One function of a dump: its instructions, and where its constants start. */
struct proto {
    struct bytecode constants;
    uint32_t nconstants, ncode;
    const uint8_t *code; /* 4 bytes each */
};

static const uint8_t FLAG_STRIPPED = 2;

/* Opens a dump; false if it isn't of the version that we read. */
static bool bc_open(struct bytecode *b, const char *text, size_t len, bool *stripped)
{
    *b = (struct bytecode){ (const uint8_t *)text, (const uint8_t *)text + len, false };
    const uint8_t *head = bc_skip(b, 4);
    if (b->is_broken || memcmp(head, "\033LJ\002", 4) != 0)
        return false;
    *stripped = bc_number(b) & FLAG_STRIPPED;
    if (!*stripped)
        bc_skip(b, bc_number(b));
    return !b->is_broken;
}

/* The next function of a dump (nested ones come first); false at the end. */
static bool bc_next(struct bytecode *b, bool stripped, struct proto *pt)
{
    uint32_t len = bc_number(b);
    if (len == 0 || b->is_broken)
        return false;
    struct bytecode in = { b->p, b->p, false };
    bc_skip(b, len);
    in.end = b->p;
    bc_skip(&in, 3);
    const uint8_t *nupvalues = bc_skip(&in, 1);
    pt->nconstants = bc_number(&in);
    bc_number(&in);
    pt->ncode = bc_number(&in);
    if (!stripped && bc_number(&in)) {
        bc_number(&in);
        bc_number(&in);
    }
    pt->code = bc_skip(&in, (size_t)pt->ncode * 4);
    if (!in.is_broken)
        bc_skip(&in, (size_t)*nupvalues * 2);
    pt->constants = in;
    b->is_broken |= in.is_broken;
    return !b->is_broken;
}

/* Finds the numbers of the instructions that read and write a global, by looking at a function that does so. */
static void probe_opcodes(lua_State *L, struct codec *c)
{
    static const char source[] = "a = b";
    if (luaL_loadbuffer(L, source, sizeof source - 1, "=codec"))
        lua_error(L);
    dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    struct bytecode b;
    struct proto pt;
    bool stripped;
    if (!bc_open(&b, text, len, &stripped) || !bc_next(&b, stripped, &pt) || pt.ncode < 2)
        luaL_error(L, "tidepool does not know the bytecode of this version of LuaJIT");
    bool is_little = *(const uint8_t *)&(uint16_t){ 1 };
    c->op_gget = pt.code[is_little ? 0 : 3];
    c->op_gset = pt.code[is_little ? 4 : 7];
    lua_pop(L, 1);
}

static int new_table_ref(lua_State *L)
{
    lua_newtable(L);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void open_tables(lua_State *L, struct codec *c)
{
    c->names = new_table_ref(L);
    c->by_name = new_table_ref(L);
    c->mts = new_table_ref(L);

    lua_newtable(L);                                /* dumps */
    lua_createtable(L, 0, 1);                       /* dumps mt */
    lua_pushliteral(L, "k");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    c->dumps = luaL_ref(L, LUA_REGISTRYINDEX);

    lua_createtable(L, 0, 1);                       /* mt */
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_setfield(L, -2, "__index");
    c->env_mt = luaL_ref(L, LUA_REGISTRYINDEX);

    luaL_findtable(L, LUA_REGISTRYINDEX, "_LOADED", 16);
    c->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "require");
    c->require = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Pushes the library of that name, loading it where it comes with LuaJIT but isn't loaded yet; false if there is none. */
static bool push_library(lua_State *L, const struct codec *c, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    if (lua_isnil(L, -1) && (strcmp(name, "ffi") == 0 || strcmp(name, "jit.util") == 0)) {
        lua_pop(L, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, c->require);
        lua_pushstring(L, name);
        if (lua_pcall(L, 1, 1, 0) == LUA_ERRMEM)
            lua_error(L);
    }
    if (lua_istable(L, -1))
        return true;
    lua_pop(L, 1);
    return false;
}

static void open_builtins(lua_State *L, struct codec *c)
{
    static const char *const libraries[] = {
        "string", "table", "math", "io", "os", "coroutine", "debug", "bit", "jit", "jit.util", "jit.opt", "package", "ffi",
    };
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    add_library(L, c, "_G", "", true);
    lua_pop(L, 1);
    for (size_t i = 0; i < countof(libraries); i++) {
        if (push_library(L, c, libraries[i])) {        /* library */
            lua_pushfstring(L, "%s.", libraries[i]);
            lua_insert(L, -2);                         /* prefix library */
            add_library(L, c, libraries[i], lua_tostring(L, -2), true);
            lua_pop(L, 2);
        }
    }
}

static void open_cdata(lua_State *L, struct codec *c)
{
    c->cdata_of = c->cdata_new = c->array_of = c->array_new = LUA_REFNIL;
    if (!push_library(L, c, "ffi"))
        return;
    lua_pop(L, 1);
    if (luaL_loadbuffer(L, cdata_helper, sizeof cdata_helper - 1, "=tidepool.codec"))
        lua_error(L);
    lua_call(L, 0, 2);
    c->cdata_new = luaL_ref(L, LUA_REGISTRYINDEX);
    c->cdata_of = luaL_ref(L, LUA_REGISTRYINDEX);
}

void tp_codec_open(lua_State *L)
{
    luaL_checkstack(L, STACK_NEED, "codec");
    push_key(L, &codec_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool is_open = lua_touserdata(L, -1);
    lua_pop(L, 1);
    if (is_open)
        return;
    struct codec *c = push_owner(L, sizeof *c, "tidepool.codec", codec_gc); /* codec */
    open_tables(L, c);
    open_builtins(L, c);
    open_cdata(L, c);
    probe_opcodes(L, c);
    c->asize_at = probe_asize(L);
    c->epoch = 1;
    push_key(L, &codec_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX); /* last: now it is open */
}

/* ======== encoding ======== */

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
    e->w = push_work(e->L);
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
    uint32_t i = slot_of(object, w->seen_size);
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
    if (add_ref(e->out, tp_ref_hold(r)) < 0) {
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
    struct codec *c = e->c ? e->c : codec_of(L);
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
        const void *object = is_object(L, -1) ? lua_topointer(L, -1) : NULL;
        if (object && lua_type(L, -2) == LUA_TSTRING && !find_known(c, object)) {
            lua_rawgeti(L, LUA_REGISTRYINDEX, c->names); /* loaded name module names */
            int index = (int)lua_objlen(L, -1) + 1;
            lua_pushvalue(L, -3);
            lua_rawseti(L, -2, index);
            lua_pop(L, 1);
            if (add_known(c, object, MODULE, index) < 0) {
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
            if (lua_topointer(L, -1) == object && lua_type(L, -2) == LUA_TSTRING) {
                lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);
                int index = (int)lua_objlen(L, -1) + 1;
                lua_pushvalue(L, top + 2);
                lua_rawseti(L, -2, index);
                lua_pushvalue(L, top + 4);
                lua_rawseti(L, -2, index + 1);
                if (add_known(c, object, FIELD, index) == 0)
                    found = find_known(c, object);
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
    return a == b || (a->type == &class_blob_type && b->type == &class_blob_type &&
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
    if (add_ref(e->out, tp_ref_hold(r)) < 0) {
        tp_ref_drop(r);
        return refuse_memory(e);
    }
    return put_tag_u32(e, r->type == &class_blob_type ? T_BLOB : T_REF, e->out->nrefs - 1);
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
    tp_ref **box = push_box(L, &class_blob_type);
    const char *name = e->c->classes[index].name;
    class_blob *blob = calloc(1, sizeof *blob + strlen(name) + 1);
    if (!blob) {
        lua_settop(L, top);
        refuse_memory(e);
        return NULL;
    }
    strcpy(blob->name, name);
    tp_ref_init(&blob->ref, &class_blob_type);
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
    struct known *k = find_known(e->c, mt);
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
    struct known *k = is_definition ? NULL : find_known(e->c, table);
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
            name = bc_constant(&in, &len);
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
    dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    lua_rawseti(L, -2, 1);
    lua_pushboolean(L, false);
    lua_rawseti(L, -2, 2);
    struct bytecode b;
    struct proto pt;
    bool stripped, has_globals = false;
    if (bc_open(&b, text, len, &stripped)) {
        while (bc_next(&b, stripped, &pt))
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
        e->w->anchors = new_table_ref(L);
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
    if (!is_object(L, -1))
        return false;
    const struct known *k = find_known(e->c, lua_topointer(L, -1));
    if (!k || k->kind != BUILTIN)
        return false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, e->c->names);
    lua_rawgeti(L, -1, k->index);
    bool is = lua_rawequal(L, -1, -4);
    lua_pop(L, 2);
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
    struct known *k = find_known(e->c, fn);
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
    const void *object = lua_touserdata(e->L, -1);
    int seen = see(e, object);
    if (seen)
        return seen < 0 ? -1 : put_back(e, T_BACK);
    tp_ref *r = any_ref(e->L);
    if (r)
        return put_ref(e, r);
    struct known *k = find_known(e->c, object);
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
            drop_refs(out, e->nrefs);
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

/* ======== decoding ======== */

/* One message that is being read. On the C stack, as the encoder. */
typedef struct decoder {
    lua_State *L;
    struct work *w;  /* NULL until something shared is met */
    struct codec *c; /* NULL until it is needed */
    const uint8_t *base, *p, *end;
    tp_ref *const *refs;
    uint32_t nrefs;
    unsigned flags, depth;

    /* Values that the tables further out have announced and that were not read yet. Each takes a byte at least, so a message
     * cannot announce more than it has bytes left, all levels together; this bounds what is allocated on its word. */
    int64_t owed;

    int bottom;    /* the stack index below the first value */
    int shared;    /* the stack index, in this frame, of the table of shared objects */
    int root;      /* the stack index of the table that the first table is read into; 0: none */
    const uint8_t *paths; /* where the message has package.path and cpath; NULL: nowhere yet */
    tp_error *err;
} decoder;

static int get_value(decoder *d);
static int decode(decoder *d);

APART static int malformed(decoder *d, const char *what)
{
    return tp_error_set(d->err, TP_ECODEC, "malformed message: %s at byte %zu of %zu", what, (size_t)(d->p - d->base),
                        (size_t)(d->end - d->base));
}

static struct codec *decoder_codec(decoder *d)
{
    if (!d->c)
        d->c = codec_of(d->L);
    return d->c;
}

static inline size_t left(const decoder *d)
{
    return (size_t)(d->end - d->p);
}

static inline uint32_t read_u32(decoder *d)
{
    uint32_t n;
    memcpy(&n, d->p, sizeof n);
    d->p += sizeof n;
    return n;
}

static inline double read_double(decoder *d)
{
    double x;
    memcpy(&x, d->p, sizeof x);
    d->p += sizeof x;
    return x; /* any NaN: lua_pushnumber makes it canonical */
}

/* A length and bytes; NULL when malformed. */
static const char *get_bytes(decoder *d, size_t *len)
{
    if (left(d) >= 4) {
        *len = read_u32(d);
        if (*len <= left(d) && *len <= TP_STRING_MAX) {
            const char *s = (const char *)d->p;
            d->p += *len;
            return s;
        }
    }
    malformed(d, "a string that is longer than the message");
    return NULL;
}

/* ---- shared objects ---- */

/* Makes room for scratch and for the table of shared objects at the bottom of the stack. */
static void acquire_shared(decoder *d)
{
    if (d->w)
        return;
    d->w = push_work(d->L);
    d->w->nshared = 0;
    d->c = d->w->codec;
    lua_insert(d->L, d->bottom + 1);
    lua_newtable(d->L);
    lua_insert(d->L, d->bottom + 2);
    d->shared = d->bottom + 2;
}

/* The object on top was met at that tag, which something further on refers to. */
APART static int share(decoder *d, const uint8_t *tag, uint32_t upvalue)
{
    acquire_shared(d);
    struct work *w = d->w;
    if (w->nshared == w->shared_room) {
        uint32_t n = w->shared_room ? w->shared_room * 2 : 32;
        struct shared *shared = realloc(w->shared, n * sizeof *shared);
        if (!shared)
            return tp_error_oom(d->err, "message");
        w->shared = shared;
        w->shared_room = n;
    }
    w->shared[w->nshared++] = (struct shared){ (uint32_t)(tag - d->base), upvalue };
    lua_pushvalue(d->L, -1);
    lua_rawseti(d->L, d->shared, (int)w->nshared);
    return 0;
}

/* Pushes the shared object at the offset that comes next, and gives its `upvalue`; -1 when malformed. */
static int64_t get_shared(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no offset");
    uint32_t offset = read_u32(d);
    uint32_t low = 0, high = d->w ? d->w->nshared : 0;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (d->w->shared[middle].offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    if (!d->w || low == d->w->nshared || d->w->shared[low].offset != offset)
        return malformed(d, "a reference to nothing");
    lua_rawgeti(d->L, d->shared, (int)low + 1);
    return d->w->shared[low].upvalue;
}

APART static int get_back(decoder *d)
{
    int64_t upvalue = get_shared(d);
    return upvalue == 0 ? 0 : upvalue < 0 ? -1 : malformed(d, "a reference to something that is not a value");
}

/* ---- modules and names ---- */

/* Sets package.path and cpath to those of the message, where they differ. */
static void set_paths(decoder *d)
{
    static const char *const fields[] = { "path", "cpath" };
    lua_State *L = d->L;
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, d->c->loaded);
    lua_pushliteral(L, "package");
    lua_rawget(L, -2);
    const uint8_t *here = d->p;
    d->p = d->paths;
    for (size_t i = 0; i < countof(fields) && lua_istable(L, top + 2); i++) {
        size_t len = 0;
        const char *s = get_bytes(d, &len); /* was read before: it is well formed */
        lua_pushstring(L, fields[i]);
        lua_pushlstring(L, s, len);
        lua_rawset(L, top + 2);
    }
    d->p = here;
    lua_settop(L, top);
}

/* Pushes the module of that name, loading it where the message is trusted. -1: there is none; the error says so with `what`, the
 * reason it is wanted for (NULL: for itself). */
static int push_module(decoder *d, const char *name, size_t len)
{
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushlstring(L, name, len);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (is_object(L, -1))
        return 0;
    lua_pop(L, 1);
    if (!(d->flags & TP_DECODE_TRUSTED))
        return tp_error_set(d->err, TP_ECODEC, "module \"%.*s\" is not loaded here", (int)(len < 100 ? len : 100), name);
    if (d->paths)
        set_paths(d);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->require);
    lua_pushlstring(L, name, len);
    int rc = lua_pcall(L, 1, 1, 0);
    if (rc == LUA_ERRMEM)
        lua_error(L);
    if (rc == 0 && !lua_isnil(L, -1))
        return 0;
    const char *why = rc == 0 ? "it gives nothing" : lua_tostring(L, -1);
    tp_error_set(d->err, TP_ECODEC, "cannot load module \"%.*s\" in a worker: %s", (int)(len < 100 ? len : 100), name,
                 why ? why : "(an error that is not a string)");
    lua_pop(L, 1);
    return -1;
}

/* Replaces the table on top by its field of that name, raw; false when it isn't a table or has none. */
static bool index_by(lua_State *L, const char *field, size_t len)
{
    if (!lua_istable(L, -1))
        return false;
    lua_pushlstring(L, field, len);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    return !lua_isnil(L, -1);
}

/* Pushes what require of the part of the name before the last dot gives, indexed by the part after it. */
static int push_by_require(decoder *d, const char *name, size_t len)
{
    size_t dot = len;
    while (dot > 0 && name[dot - 1] != '.')
        dot--;
    if (dot != 1 && (d->flags & TP_DECODE_TRUSTED)) {
        tp_error ignored = { 0 };
        tp_error *err = d->err;
        d->err = &ignored;
        int rc = push_module(d, name, dot ? dot - 1 : len); /* without a dot it is a module itself */
        d->err = err;
        if (rc == 0) {
            if (dot == 0 || index_by(d->L, name + dot, len - dot))
                return 0;
            lua_pop(d->L, 1);
        }
    }
    return -1;
}

APART static int get_module(decoder *d)
{
    if (left(d) < 1)
        return malformed(d, "no module");
    uint8_t flags = *d->p++;
    size_t len, field_len;
    if (flags & MODULE_PATHS) {
        d->paths = d->p;
        if (!get_bytes(d, &len) || !get_bytes(d, &len))
            return -1;
    }
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    const char *field = NULL;
    if ((flags & MODULE_FIELD) && !(field = get_bytes(d, &field_len)))
        return -1;
    if (push_module(d, name, len) < 0)
        return -1;
    if (field && !index_by(d->L, field, field_len)) {
        lua_pop(d->L, 1);
        return tp_error_set(d->err, TP_ECODEC, "module \"%.*s\" has no \"%.*s\" in a worker", (int)(len < 100 ? len : 100),
                            name, (int)(field_len < 100 ? field_len : 100), field);
    }
    return 0;
}

APART static int get_builtin(decoder *d)
{
    lua_State *L = d->L;
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, decoder_codec(d)->by_name);
    lua_pushlstring(L, name, len);
    lua_rawget(L, -2);
    lua_remove(L, -2);
    if (!lua_isnil(L, -1))
        return 0;
    lua_pop(L, 1);
    if (push_by_require(d, name, len) == 0)
        return 0;
    return tp_error_set(d->err, TP_ECODEC, "nothing is known as \"%.*s\" in a worker", (int)(len < 100 ? len : 100), name);
}

/* ---- classes ---- */

static void push_class(decoder *d, const struct class *k)
{
    lua_rawgeti(d->L, LUA_REGISTRYINDEX, d->c->mts);
    lua_rawgeti(d->L, -1, (int)(k - d->c->classes) + 1);
    lua_remove(d->L, -2);
}

/* A class by name: one of this state, or of a module that is loaded for it, or a field of such a module. */
APART static int get_class(decoder *d)
{
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    const struct codec *c = decoder_codec(d);
    struct class *k = find_class(c, name, len);
    if (!k && push_by_require(d, name, len) == 0) {
        k = find_class(c, name, len);
        if (!k && lua_istable(d->L, -1))
            return 0;
        lua_pop(d->L, 1);
    }
    if (!k)
        k = find_class(c, name, len);
    if (!k)
        return tp_error_set(d->err, TP_ECODEC, "class \"%.*s\" is not known in a worker", (int)(len < 100 ? len : 100),
                            name);
    push_class(d, k);
    return 0;
}

/* A class whose definition is being read further out. */
APART static int get_defined(decoder *d)
{
    size_t len;
    const char *name = get_bytes(d, &len);
    if (!name)
        return -1;
    struct class *k = find_class(decoder_codec(d), name, len);
    if (!k)
        return malformed(d, "a class without its definition");
    push_class(d, k);
    return 0;
}

static void clear_table(lua_State *L)
{
    lua_pushnil(L);
    while (lua_next(L, -2)) { /* table key value */
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_pushnil(L);
        lua_rawset(L, -4);    /* table key */
    }
    lua_pushnil(L);
    lua_setmetatable(L, -2);
}

/* A class with its definition, which is read once per state and version. A newer version is read into the same table, so that
 * all objects of the class in this state go on sharing one metatable. In the state where the class was registered, and where one
 * of that name was, it is that one. */
APART static int get_blob(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no reference");
    uint32_t i = read_u32(d);
    if (i >= d->nrefs || d->refs[i]->type != &class_blob_type)
        return malformed(d, "a reference to a class that is none");
    class_blob *blob = (class_blob *)d->refs[i];
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    struct class *k = find_class(c, blob->name, strlen(blob->name));
    if (k && (k->blob == blob || k->origin != FOREIGN)) {
        push_class(d, k);
        return 0;
    }
    if (k) {
        push_class(d, k);
        tp_ref_drop(k->blob);
        k->blob = NULL;
        clear_table(L);
    } else {
        lua_newtable(L);
        k = set_class(L, c, blob->name, strlen(blob->name), FOREIGN);
    }
    int index = (int)(k - c->classes);
    decoder in = {
        .L = L, .c = c, .base = blob->message.data, .p = blob->message.data,
        .end = blob->message.data + blob->message.len, .refs = blob->message.refs, .nrefs = blob->message.nrefs,
        .flags = TP_DECODE_TRUSTED, .depth = d->depth, .root = lua_gettop(L), .bottom = lua_gettop(L), .err = d->err,
    };
    if (decode(&in) < 0) {
        lua_pop(L, 1);
        return -1;
    }
    lua_pop(L, 1); /* the table, once more */
    k = &c->classes[index];
    if (k->origin == FOREIGN) {
        tp_ref_drop(k->blob);
        k->blob = tp_ref_hold(blob);
    }
    return 0;
}

APART static int get_ref(decoder *d)
{
    if (left(d) < 4)
        return malformed(d, "no reference");
    uint32_t i = read_u32(d);
    if (i >= d->nrefs || d->refs[i]->type == &class_blob_type)
        return malformed(d, "a reference to an object that is none");
    tp_codec_push_ref(d->L, d->refs[i]);
    return 0;
}

/* ---- tables ---- */

/* Reads a run of doubles into the table on top, from item i on; at most n of them. Gives how many, or 0 when malformed. */
APART static uint32_t get_run(decoder *d, uint32_t i, uint32_t n)
{
    lua_State *L = d->L;
    uint32_t count = left(d) < 4 ? 0 : read_u32(d);
    if (count == 0 || count > n || (uint64_t)count * 8 > left(d)) {
        malformed(d, "a run of numbers that is too long");
        return 0;
    }
    for (uint32_t k = 0; k < count; k++) {
        lua_pushnumber(L, read_double(d));
        lua_rawseti(L, -2, (int)(i + k));
    }
    return count;
}

static int get_items(decoder *d, uint32_t n)
{
    lua_State *L = d->L;
    for (uint32_t i = 1; i <= n;) {
        if (left(d) > 0 && *d->p == T_RUN) {
            d->p++;
            uint32_t count = get_run(d, i, n - i + 1);
            if (count == 0)
                return -1;
            d->owed -= count;
            i += count;
            continue;
        }
        d->owed--;
        if (get_value(d) < 0)
            return -1;
        lua_rawseti(L, -2, (int)i++);
    }
    return 0;
}

static int get_pairs(decoder *d, uint32_t n)
{
    lua_State *L = d->L;
    for (uint32_t i = 0; i < n; i++) {
        d->owed -= 2;
        if (get_value(d) < 0)
            return -1;
        bool is_key = lua_type(L, -1) == LUA_TNUMBER ? !isnan(lua_tonumber(L, -1)) : !lua_isnil(L, -1);
        if (!is_key)
            return malformed(d, "a key that cannot be one");
        if (get_value(d) < 0)
            return -1;
        lua_rawset(L, -3);
    }
    return 0;
}

/* The metatable of the table on top. Bytes from outside name metatables; only our own may bring some along. */
APART static int get_metatable(decoder *d)
{
    uint8_t tag = left(d) ? *d->p & ~SHARED : T_NIL;
    bool is_named = tag == T_BUILTIN || tag == T_MODULE || tag == T_CLASS || tag == T_BLOB || tag == T_DEFINED ||
                    (left(d) && *d->p == T_BACK);
    if (!is_named && !(d->flags & TP_DECODE_TRUSTED))
        return malformed(d, "a metatable");
    if (get_value(d) < 0)
        return -1;
    if (!lua_istable(d->L, -1))
        return malformed(d, "a metatable that is not a table");
    lua_setmetatable(d->L, -2);
    return 0;
}

static int get_table(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p - 1;
    if (left(d) < 8)
        return malformed(d, "no table");
    uint32_t items = read_u32(d), pairs = read_u32(d);
    int64_t announced = (int64_t)items + 2 * (int64_t)pairs;
    if (announced > (int64_t)left(d) - d->owed || items > INT_MAX)
        return malformed(d, "a table of more values than the message has");
    if (++d->depth > TP_DEPTH_MAX)
        return tp_error_set(d->err, TP_ECODEC, "malformed message: nested deeper than %d", TP_DEPTH_MAX);
    d->owed += announced;
    if (d->root) {
        lua_pushvalue(L, d->root);
        d->root = 0;
    } else {
        /* A place for a pair costs 24 to 48 bytes, on the word of two: believe the half of it. */
        bool is_trusted = d->flags & TP_DECODE_TRUSTED;
        lua_createtable(L, (int)items, (int)(is_trusted ? pairs : pairs / 2));
    }
    if ((tag & SHARED) && share(d, at, 0) < 0)
        return -1;
    if ((tag & ~SHARED) == T_OBJECT && get_metatable(d) < 0)
        return -1;
    if (get_items(d, items) < 0 || get_pairs(d, pairs) < 0)
        return -1;
    d->depth--;
    return 0;
}

/* ---- functions ---- */

/* The environment of the function on top. */
static int get_globals(decoder *d)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p;
    uint8_t tag = left(d) ? *d->p++ : 0xff;
    if (tag == T_NIL)
        return 0;
    if ((tag & ~SHARED) == T_ENV) {
        lua_newtable(L);                                               /* fn env */
        lua_rawgeti(L, LUA_REGISTRYINDEX, decoder_codec(d)->env_mt);
        lua_setmetatable(L, -2);
        if ((tag & SHARED) && share(d, at, IS_ENV) < 0)
            return -1;
    } else if (tag != T_BACK || get_shared(d) != IS_ENV) {
        return malformed(d, "no environment");
    }
    if (left(d) < 4)
        return malformed(d, "no globals");
    for (uint32_t n = read_u32(d); n > 0; n--) {
        if (get_value(d) < 0)
            return -1;
        if (lua_type(L, -1) != LUA_TSTRING)
            return malformed(d, "a global without a name");
        if (get_value(d) < 0)
            return -1;
        lua_rawset(L, -3);
    }
    lua_setfenv(L, -2);
    return 0;
}

/* Upvalue i of the function on top. */
static int get_upvalue(decoder *d, int i)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p;
    uint8_t tag = left(d) ? *d->p++ : 0xff;
    if (tag == T_UPBACK) {
        int64_t n = get_shared(d);
        if (n <= 0 || n == IS_ENV)
            return malformed(d, "a reference to an upvalue that is none");
        lua_upvaluejoin(L, -2, i, -1, (int)n);
        lua_pop(L, 1);
        return 0;
    }
    if ((tag & ~SHARED) != T_UPVAL)
        return malformed(d, "no upvalue");
    if ((tag & SHARED) && share(d, at, (uint32_t)i) < 0)
        return -1;
    if (get_value(d) < 0)
        return -1;
    lua_setupvalue(L, -2, i);
    return 0;
}

APART static int get_function(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    const uint8_t *at = d->p - 1;
    if (!(d->flags & TP_DECODE_TRUSTED))
        return malformed(d, "a function, in bytes from outside,");
    if (++d->depth > TP_DEPTH_MAX)
        return tp_error_set(d->err, TP_ECODEC, "malformed message: nested deeper than %d", TP_DEPTH_MAX);
    if (get_value(d) < 0)
        return -1;
    size_t len;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    int rc = text ? luaL_loadbufferx(L, text, len, "=function", "b") : LUA_ERRSYNTAX;
    if (rc == LUA_ERRMEM)
        lua_error(L);
    if (rc)
        return malformed(d, "bytecode that cannot be loaded");
    lua_remove(L, -2);                                   /* fn */
    if ((tag & SHARED) && share(d, at, 0) < 0)
        return -1;
    if (get_globals(d) < 0)
        return -1;
    int n = left(d) ? *d->p++ : 0;
    for (int i = 1; i <= n; i++) {
        if (!lua_getupvalue(L, -1, i))
            return malformed(d, "more upvalues than the function has");
        lua_pop(L, 1);
        if (get_upvalue(d, i) < 0)
            return -1;
    }
    d->depth--;
    return 0;
}

/* ---- values ---- */

APART static int get_cdata(decoder *d, int kind)
{
    lua_State *L = d->L;
    size_t size = kind == 3 ? 16 : 8;
    if (left(d) < size)
        return malformed(d, "no number");
    lua_rawgeti(L, LUA_REGISTRYINDEX, decoder_codec(d)->cdata_new);
    if (lua_isnil(L, -1))
        return tp_error_set(d->err, TP_ECODEC, "a cdata cannot be made here: there is no ffi library");
    lua_pushinteger(L, kind);
    if (kind == 3) {
        lua_pushnumber(L, read_double(d));
        lua_pushnumber(L, read_double(d));
        lua_call(L, 3, 1);
    } else {
        lua_call(L, 1, 1);
        memcpy((void *)(uintptr_t)lua_topointer(L, -1), d->p, size);
        d->p += size;
    }
    return 0;
}

APART static int get_array(decoder *d)
{
    lua_State *L = d->L;
    struct codec *c = decoder_codec(d);
    uint64_t numbers[2];
    if (left(d) < 5 + sizeof numbers)
        return malformed(d, "no array");
    uint32_t index = read_u32(d);
    int type = *d->p++;
    memcpy(numbers, d->p, sizeof numbers);
    d->p += sizeof numbers;
    if (!(d->flags & TP_DECODE_TRUSTED) || index >= d->nrefs)
        return malformed(d, "an array of nothing");
    if (c->array_new == LUA_REFNIL) {
        if (push_module(d, "tidepool.array", strlen("tidepool.array")) < 0)
            return -1;
        lua_pop(L, 1);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->array_new);
    lua_pushlightuserdata(L, d->refs[index]);
    lua_pushinteger(L, type);
    lua_pushnumber(L, (double)numbers[0]);
    lua_pushnumber(L, (double)numbers[1]);
    lua_call(L, 4, 1);
    return 0;
}

void tp_codec_set_arrays(lua_State *L, int of, int make)
{
    struct codec *c = codec_of(L);
    lua_pushvalue(L, of);
    lua_pushvalue(L, make);
    c->array_new = luaL_ref(L, LUA_REGISTRYINDEX);
    c->array_of = luaL_ref(L, LUA_REGISTRYINDEX);
}

static int get_in_frame(lua_State *L)
{
    decoder *d = lua_touserdata(L, 1);
    int shared = d->shared;
    d->shared = 2;
    bool failed = get_value(d) < 0;
    d->shared = shared;
    if (failed)
        return 0;
    return 1;
}

/* A value with a tag that can be shared. Most of them nest. */
static int get_nested(decoder *d, uint8_t tag)
{
    lua_State *L = d->L;
    if (!lua_checkstack(L, STACK_NEED)) { /* go on in a frame with room of its own */
        d->p--;
        acquire_shared(d);
        int top = lua_gettop(L);
        lua_pushcfunction(L, get_in_frame);
        lua_pushlightuserdata(L, d);
        lua_pushvalue(L, d->shared);
        lua_call(L, 2, LUA_MULTRET);
        return lua_gettop(L) > top ? 0 : -1;
    }
    const uint8_t *at = d->p - 1;
    int rc;
    size_t len;
    const char *s;
    switch (tag & ~SHARED) {
    case T_TABLE:
    case T_OBJECT:
        return get_table(d, tag);
    case T_FUNC:
        return get_function(d, tag);
    case T_STRING:
        s = get_bytes(d, &len);
        rc = s ? 0 : -1;
        if (s)
            lua_pushlstring(L, s, len);
        break;
    case T_BUILTIN:
        rc = get_builtin(d);
        break;
    case T_MODULE:
        rc = get_module(d);
        break;
    case T_CLASS:
        rc = get_class(d);
        break;
    case T_BLOB:
        rc = get_blob(d);
        break;
    case T_DEFINED:
        rc = get_defined(d);
        break;
    case T_REF:
        rc = get_ref(d);
        break;
    default:
        return malformed(d, "an unknown tag");
    }
    return rc == 0 && (tag & SHARED) ? share(d, at, 0) : rc;
}

/* Pushes the value that comes next. -1 when malformed, with anything on the stack. */
static int get_value(decoder *d)
{
    lua_State *L = d->L;
    if (left(d) == 0)
        return malformed(d, "no value");
    uint8_t tag = *d->p++;
    if (tag < T_SHORT) {
        lua_pushnumber(L, tag - T_INT);
        return 0;
    }
    if (tag < T_NIL) {
        size_t len = tag - T_SHORT;
        if (left(d) < len)
            return malformed(d, "a string that is longer than the message");
        lua_pushlstring(L, (const char *)d->p, len);
        d->p += len;
        return 0;
    }
    int32_t i;
    switch (tag) {
    case T_NIL:
        lua_pushnil(L);
        return 0;
    case T_FALSE:
    case T_TRUE:
        lua_pushboolean(L, tag == T_TRUE);
        return 0;
    case T_INT8:
        if (left(d) < 1)
            return malformed(d, "no number");
        lua_pushnumber(L, (int8_t)*d->p++);
        return 0;
    case T_INT32:
        if (left(d) < 4)
            return malformed(d, "no number");
        memcpy(&i, d->p, sizeof i);
        d->p += sizeof i;
        lua_pushnumber(L, i);
        return 0;
    case T_DOUBLE:
        if (left(d) < 8)
            return malformed(d, "no number");
        lua_pushnumber(L, read_double(d));
        return 0;
    case T_INT64:
    case T_UINT64:
    case T_COMPLEX:
        return get_cdata(d, tag - T_INT64 + 1);
    case T_ARRAY:
        return get_array(d);
    case T_BACK:
        return get_back(d);
    default:
        return get_nested(d, tag);
    }
}

/* ---- messages ---- */

/* Pushes the values of the message above d->bottom; gives how many, or -1 with the stack as it was. */
static int decode(decoder *d)
{
    lua_State *L = d->L;
    uint32_t n = left(d) ? *d->p++ : 0;
    int rc = 0;
    if (d->p == d->base)
        rc = malformed(d, "nothing");
    else if (n == 255)
        rc = left(d) < 4 ? malformed(d, "no count") : (n = read_u32(d), 0);
    if (rc == 0 && n > left(d))
        rc = malformed(d, "more values than the message has");
    if (rc == 0 && (n > INT_MAX - 64 || !lua_checkstack(L, (int)n + STACK_NEED / 2)))
        rc = malformed(d, "too many values at once");
    d->owed = n;
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        d->owed--;
        rc = get_value(d);
    }
    if (d->w)
        d->w->busy = false;
    if (rc < 0) {
        lua_settop(L, d->bottom);
        return -1;
    }
    if (d->w) {
        lua_remove(L, d->bottom + 2);
        lua_remove(L, d->bottom + 1);
    }
    return (int)n;
}

int tp_decode(lua_State *L, const uint8_t *bytes, size_t len, tp_ref *const *refs, uint32_t nrefs, unsigned flags,
              size_t *used, tp_error *err)
{
    decoder d = {
        .L = L, .base = bytes, .p = bytes, .end = bytes + len, .refs = refs, .nrefs = nrefs, .flags = flags,
        .bottom = lua_gettop(L), .err = err,
    };
    int n = decode(&d);
    if (n >= 0 && used)
        *used = (size_t)(d.p - bytes);
    return n;
}

/* ======== without a Lua state ======== */

static uint8_t *add_double(uint8_t *p, double x)
{
    *p++ = T_DOUBLE;
    memcpy(p, &x, sizeof x);
    return p + sizeof x;
}

int tp_encode_numbers(tp_buf *out, const double *values, const bool *is_boolean, unsigned n)
{
    uint8_t *begin = tp_buf_reserve(out, 1 + 9 * (size_t)n), *p = begin;
    if (!p)
        return -1;
    *p++ = (uint8_t)n;
    for (unsigned i = 0; i < n; i++)
        if (is_boolean[i])
            *p++ = values[i] != 0 ? T_TRUE : T_FALSE;
        else
            p = add_double(p, values[i]);
    out->len += (size_t)(p - begin);
    return 0;
}

static uint8_t *add_text(uint8_t *p, const char *text, size_t len)
{
    *p++ = T_STRING;
    uint32_t n = (uint32_t)len;
    memcpy(p, &n, sizeof n);
    memcpy(p + sizeof n, text, len);
    return p + sizeof n + len;
}

int tp_encode_failure(tp_buf *out, const char *kind, const char *message, unsigned attempt, int worker)
{
    size_t kind_len = strlen(kind), len = strlen(message);
    uint8_t *begin = tp_buf_reserve(out, 64 + kind_len + 2 * len), *p = begin;
    if (!p)
        return -1;
    *p++ = 6; /* kind, message, value, traceback, attempts, worker */
    p = add_text(p, kind, kind_len);
    p = add_text(p, message, len);
    if (strcmp(kind, "error") == 0)
        p = add_text(p, message, len);
    else
        *p++ = T_NIL;
    *p++ = T_NIL;
    p = add_double(p, attempt);
    p = add_double(p, worker);
    out->len += (size_t)(p - begin);
    return 0;
}

unsigned tp_decode_numbers(const uint8_t *p, size_t len, double *to, unsigned n, const char **other)
{
    const uint8_t *end = p + len;
    uint32_t count = len ? *p++ : 0;
    if (count == 255) {
        memcpy(&count, p, sizeof count);
        p += sizeof count;
    }
    for (unsigned i = 0; i < n; i++) {
        if (i >= count || p >= end)
            return i;
        uint8_t tag = *p++;
        if (tag < T_SHORT) {
            to[i] = tag;
        } else if (tag == T_INT8) {
            to[i] = (int8_t)*p++;
        } else if (tag == T_INT32) {
            int32_t x;
            memcpy(&x, p, sizeof x);
            p += sizeof x;
            to[i] = x;
        } else if (tag == T_DOUBLE) {
            memcpy(&to[i], p, sizeof to[i]);
            p += sizeof to[i];
        } else {
            *other = tag == T_NIL ? "nil" : tag == T_FALSE || tag == T_TRUE ? "a boolean"
                     : tag < T_NIL || (tag & ~SHARED) == T_STRING ? "a string"
                     : tag == T_INT64 || tag == T_UINT64 ? "a 64-bit integer"
                     : (tag & ~SHARED) == T_TABLE || (tag & ~SHARED) == T_OBJECT ? "a table"
                     : (tag & ~SHARED) == T_FUNC ? "a function" : "something else";
            return i;
        }
    }
    return n;
}
