/* codec.c: what the codec knows in a Lua state: builtins, modules, classes, host references.
 * Messages are made in encode/ and read in decode.c; their format is in message.h. */
#include "codec/codec_state.h"

#include "base/invariant.h"
#include "base/lua_modules.h"
#include "codec/bytecode.h"
#include "codec/message.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

/* references in the registry that are made when the codec is opened, with some to spare */
enum { REFERENCES = 40 };
/* strings for the names of the standard libraries' builtins and of most of our own */
enum { NAMES_ROOM = 750 };
/* the index in `names` at which the table of cdata.lua's functions lies */
enum { FFI_FUNCTIONS = 0 };

static const char codec_key, work_key; /* their addresses are the keys in the registry */

/* ---- known objects ---- */

int tp_codec_add_known(struct codec *c, const void *object, enum kind kind, int index)
{
    if (c->nknown * 2 >= c->known_size) {
        uint32_t size = c->known_size ? c->known_size * 2 : 512;
        struct known *table = calloc(size, sizeof *table);
        if (!table)
            return -1;
        c->nknown = 0;
        for (uint32_t i = 0; i < c->known_size; i++) {
            if (c->known[i].object && c->known[i].kind != GONE) {
                *tp_codec_known_slot(table, size, c->known[i].object) = c->known[i];
                c->nknown++;
            }
        }
        free(c->known);
        c->known = table;
        c->known_size = size;
    }
    struct known *k = tp_codec_known_slot(c->known, c->known_size, object);
    c->nknown += !k->object;
    *k = (struct known){ object, kind, index };
    return 0;
}

/* ---- the state's codec and work ---- */

static void push_key(lua_State *L, const char *key)
{
    lua_pushlightuserdata(L, (void *)(uintptr_t)key);
}

struct codec *tp_codec_of(lua_State *L)
{
    push_key(L, &codec_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    struct codec *c = lua_touserdata(L, -1);
    lua_pop(L, 1); /* the registry keeps it */
    if (!c)
        luaL_error(L, "the codec is not open in this Lua state");
    return c;
}

tp_standard *tp_codec_standard(lua_State *L)
{
    return &tp_codec_of(L)->standard;
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

struct work *tp_codec_push_work(lua_State *L)
{
    push_key(L, &work_key);
    lua_rawget(L, LUA_REGISTRYINDEX); /* w */
    struct work *w = lua_touserdata(L, -1);
    if (!w || w->busy) {
        lua_pop(L, 1);
        struct codec *c = tp_codec_of(L);
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
    lua_pushlightuserdata(L, (void *)type); /* tp_codec_to_ref reads it */
    lua_rawseti(L, -2, 1);
    lua_pushcfunction(L, ref_eq);
    lua_setfield(L, -2, "__eq");
    lua_pushcfunction(L, ref_gc); /* last: it says that the metatable is complete */
    lua_setfield(L, -2, "__gc");
}

tp_ref **tp_codec_push_box(lua_State *L, const tp_ref_type *type)
{
    tp_ref **box = lua_newuserdata(L, sizeof *box);
    *box = NULL;
    tp_codec_ref_type(L, type);
    lua_setmetatable(L, -2);
    return box;
}

void tp_codec_push_ref(lua_State *L, tp_ref *r)
{
    tp_ref **box = tp_codec_push_box(L, r->type);
    *box = tp_ref_hold(r);
}

void *tp_codec_to_ref(lua_State *L, int index, const tp_ref_type *type)
{
    tp_ref **box = lua_touserdata(L, index);
    if (!box || lua_objlen(L, index) != sizeof *box || !lua_getmetatable(L, index))
        return NULL;
    /* item 1, since looking for the metatable by its name takes twice as long as all of this */
    lua_rawgeti(L, -1, 1);
    bool fits = lua_touserdata(L, -1) == (const void *)type;
    lua_pop(L, 2);
    return fits ? *box : NULL;
}

/* Nobody but tp_codec_ref_type gives
 * ref_gc to a metatable, and the size guards against a proxy that was given ours. */
tp_ref *tp_codec_any_ref(lua_State *L)
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

const tp_ref_type tp_class_blob_type = { "tidepool.codec.class", free_blob };

const char *tp_class_blob_read(const tp_ref *r, const tp_buf **message, bool *is_partial)
{
    const class_blob *blob = (const class_blob *)r;
    *message = &blob->message;
    *is_partial = blob->is_partial;
    return blob->name;
}

tp_ref *tp_class_blob_new(const char *name, tp_buf *message, bool is_partial)
{
    class_blob *blob = calloc(1, sizeof *blob + strlen(name) + 1);
    if (!blob)
        return NULL;
    strcpy(blob->name, name);
    tp_ref_init(&blob->ref, &tp_class_blob_type);
    blob->message = *message;
    blob->is_partial = is_partial;
    *message = (tp_buf){ 0 };
    return &blob->ref;
}

/* ---- what is refused where it is used ---- */

static const char refused_name[] = "tidepool.refused";

/* Each metamethod of a refused value: raises its text. */
static int refused(lua_State *L)
{
    for (int i = 1; i <= 2; i++) {
        size_t len;
        lua_pushvalue(L, i);
        const char *text = lua_type(L, -1) == LUA_TUSERDATA ? tp_codec_refused(L, &len) : NULL;
        if (text)
            return luaL_error(L, "%s", text);
        lua_pop(L, 1);
    }
    return luaL_error(L, "this cannot travel to a worker");
}

void tp_codec_push_refused(lua_State *L, const char *text, size_t len)
{
    static const char *const events[] = {
        "__index", "__newindex", "__call", "__tostring", "__add", "__sub", "__mul", "__div",
        "__mod",   "__pow",      "__unm",  "__concat",   "__len", "__lt",  "__le",
    };
    char *copy = lua_newuserdata(L, len + 1);
    memcpy(copy, text, len);
    copy[len] = '\0';
    if (luaL_newmetatable(L, refused_name)) {
        for (size_t i = 0; i < countof(events); i++) {
            lua_pushcfunction(L, refused);
            lua_setfield(L, -2, events[i]);
        }
    }
    lua_setmetatable(L, -2);
}

const char *tp_codec_refused(lua_State *L, size_t *len)
{
    if (!lua_getmetatable(L, -1))
        return NULL;
    luaL_getmetatable(L, refused_name);
    bool is = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    if (!is)
        return NULL;
    *len = lua_objlen(L, -1) - 1;
    return lua_touserdata(L, -1);
}

/* ---- classes ---- */

struct class *tp_codec_find_class(const struct codec *c, const char *name, size_t len)
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

struct class *tp_codec_set_class(lua_State *L, struct codec *c, const char *name, size_t len,
                                 int origin)
{
    struct class *k = tp_codec_find_class(c, name, len);
    bool is_new = !k;
    int index = is_new ? c->nclasses : (int)(k - c->classes);
    const void *mt = lua_topointer(L, -1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->mts);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, index + 1); /* before the rest: from here on no call of Lua's can fail */
    lua_pop(L, 1);
    if (is_new && !(k = new_class(c, name, len)))
        tp_codec_raise_memory(L);
    if (tp_codec_add_known(c, mt, CLASS, index) < 0) {
        if (is_new)
            free(c->classes[--c->nclasses].name);
        tp_codec_raise_memory(L);
    }
    struct known *old = k->mt && k->mt != mt ? tp_codec_find_known(c, k->mt) : NULL;
    if (old && old->kind == CLASS && old->index == index)
        old->kind = GONE; /* another object has its name now */
    k->mt = mt;
    k->origin = origin;
    tp_ref_drop(k->blob);
    k->blob = NULL;
    return k;
}

void tp_codec_add_class(lua_State *L, const char *name, int index, bool by_value)
{
    lua_pushvalue(L, index);
    tp_codec_set_class(L, tp_codec_of(L), name, strlen(name), by_value ? BY_VALUE : BY_NAME);
    lua_pop(L, 1);
}

bool tp_codec_has_fields(lua_State *L, struct codec *c)
{
    struct known *k = tp_codec_find_known(c, lua_topointer(L, -1));
    lua_pushliteral(L, "__fields");
    lua_rawget(L, -2);
    bool has = lua_toboolean(L, -1) && k && k->kind == CLASS;
    lua_pop(L, 1);
    return has;
}

void tp_codec_new_epoch(lua_State *L)
{
    tp_codec_of(L)->epoch++;
}

/* ---- builtins ---- */

/* The slot of a hash table like codec.by_name where the index of the builtin of that name is, or
 * where it belongs. LuaJIT interns strings, so their addresses are compared. */
static uint32_t *name_slot(lua_State *L, uint32_t *table, uint32_t size, int names,
                           const char *prefix, const char *rest)
{
    uintptr_t both = (uintptr_t)prefix + 31 * (uintptr_t)rest;
    uint32_t i = tp_codec_slot((const void *)both, size);
    for (; table[i]; i = (i + 1) & (size - 1)) {
        lua_rawgeti(L, names, (int)table[i]);
        lua_rawgeti(L, names, (int)table[i] + 1);
        bool is_it = lua_tostring(L, -2) == prefix && lua_tostring(L, -1) == rest;
        lua_pop(L, 2);
        if (is_it)
            break;
    }
    return &table[i];
}

/* Is the object at an index the builtin of that index in `names`? */
static bool is_builtin(lua_State *L, int names, uint32_t index, int object)
{
    if (!index)
        return false;
    lua_rawgeti(L, names, (int)index + 2);
    bool is = lua_rawequal(L, -1, object);
    lua_pop(L, 1);
    return is;
}

/* Makes room in by_name for one more builtin. */
static void reserve_name(lua_State *L, struct codec *c, int names)
{
    if ((c->nnamed + 1) * 2 <= c->named_size)
        return;
    uint32_t size = c->named_size ? 2 * c->named_size : 512;
    uint32_t *table = calloc(size, sizeof *table);
    if (!table)
        tp_codec_raise_memory(L);
    for (uint32_t i = 0; i < c->named_size; i++) {
        if (!c->by_name[i])
            continue;
        lua_rawgeti(L, names, (int)c->by_name[i]);
        lua_rawgeti(L, names, (int)c->by_name[i] + 1);
        *name_slot(L, table, size, names, lua_tostring(L, -2), lua_tostring(L, -1)) =
            c->by_name[i];
        lua_pop(L, 2);
    }
    free(c->by_name);
    c->by_name = table;
    c->named_size = size;
}

/* Stack: rest object, and the prefix of the name at an index. Makes the object known by that name;
 * pops both. It is kept alive, also when another one gets its name (a module that is loaded again):
 * what is known is known by its address. */
static void add_builtin(lua_State *L, struct codec *c, int prefix)
{
    const void *object = tp_codec_identity(L, -1);
    struct known *k = tp_codec_find_known(c, object);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);       // rest object names
    int names = lua_gettop(L);
    reserve_name(L, c, names);
    uint32_t *slot = name_slot(L, c->by_name, c->named_size, names, lua_tostring(L, prefix),
                               lua_tostring(L, names - 2));
    if (!is_builtin(L, names, *slot, names - 1)) {
        int index = c->nnames + 1;
        c->nnames += 3;
        lua_pushvalue(L, prefix);
        lua_rawseti(L, names, index);
        lua_pushvalue(L, names - 2);
        lua_rawseti(L, names, index + 1);
        lua_pushvalue(L, names - 1);
        lua_rawseti(L, names, index + 2);
        c->nnamed += !*slot;
        *slot = (uint32_t)index;
    }
    if ((!k || (k->kind != BUILTIN && k->kind != CLASS)) &&
        tp_codec_add_known(c, object, BUILTIN, (int)*slot) < 0)
        tp_codec_raise_memory(L);
    lua_settop(L, names - 3);
}

bool tp_codec_push_builtin(lua_State *L, const struct codec *c, const char *name, size_t dot,
                           size_t len)
{
    if (!c->named_size)
        return false;
    int top = lua_gettop(L);
    lua_pushlstring(L, name, dot);
    lua_pushlstring(L, name + dot, len - dot);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);       // prefix rest names
    uint32_t index = *name_slot(L, c->by_name, c->named_size, top + 3, lua_tostring(L, top + 1),
                                lua_tostring(L, top + 2));
    if (index)
        lua_rawgeti(L, top + 3, (int)index + 2);
    lua_replace(L, top + 1);
    lua_settop(L, index ? top + 1 : top);
    return index != 0;
}

/* Makes the table on top known as `name`, and its fields as `prefix` (which ends with a dot) and
 * their names: all fields that are objects, or only functions. */
static void add_library(lua_State *L, struct codec *c, const char *name, const char *prefix,
                        bool functions_only)
{
    luaL_checkstack(L, STACK_NEED, "builtins");
    int table = lua_gettop(L);
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    lua_pushlstring(L, name, (size_t)(last - name));
    lua_pushstring(L, last);
    lua_pushvalue(L, table);
    add_builtin(L, c, table + 1);
    lua_settop(L, table);
    lua_pushstring(L, prefix);
    lua_pushnil(L);
    while (lua_next(L, table)) { /* table prefix key value */
        bool wanted = functions_only ? lua_type(L, -1) == LUA_TFUNCTION : tp_codec_is_object(L, -1);
        if (wanted && lua_type(L, -2) == LUA_TSTRING) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);   /* table prefix key key value */
            add_builtin(L, c, table + 1);
        } else {
            lua_pop(L, 1);
        }
    }
    lua_settop(L, table);
}

void tp_codec_add_builtins(lua_State *L, const char *name, int index)
{
    lua_pushfstring(L, "%s.", name);       /* prefix */
    lua_pushvalue(L, index < 0 ? index - 1 : index);
    add_library(L, tp_codec_of(L), name, lua_tostring(L, -2), false);
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
    free(c->by_name);
    tp_snapshot_free(&c->seen_loaded);
    tp_standard_close(&c->standard);
    tp_modules_close(&c->modules);
    c->classes = NULL; /* finalizers of other objects in a closing state may still use the codec */
    c->known = NULL;
    c->by_name = NULL;
    c->nnamed = c->named_size = 0;
    c->nclasses = c->class_room = 0;
    c->nknown = c->known_size = 0;
    return 0;
}

static int append(lua_State *L, const void *p, size_t n, void *ud)
{
    (void)L;
    return tp_buf_add(ud, p, n);
}

static int buf_gc(lua_State *L)
{
    tp_buf_free(lua_touserdata(L, 1));
    return 0;
}

tp_buf *tp_codec_push_buf(lua_State *L)
{
    return push_owner(L, sizeof(tp_buf), "tidepool.codec.buffer", buf_gc);
}

void tp_codec_dump(lua_State *L)
{
    tp_buf *b = tp_codec_push_buf(L);                                    /* fn b */
    lua_insert(L, -2);                                                   /* b fn */
    if (lua_dump(L, append, b))
        tp_codec_raise_memory(L);
    lua_pushlstring(L, (const char *)b->data, b->len);                   /* b fn bytecode */
    tp_buf_free(b);
    lua_replace(L, -3);
    lua_pop(L, 1);                                                       /* bytecode */
}

/* The opcode of an instruction, from a dump's bytes. */
static uint8_t opcode(lua_State *L, const struct proto *pt, uint32_t at)
{
    if (pt->ncode <= at)
        luaL_error(L, "tidepool does not know the bytecode of this version of LuaJIT");
    bool is_little = *(const uint8_t *)&(uint16_t){ 1 };
    return pt->code[at * 4 + (is_little ? 0 : 3)];
}

/* Finds the opcodes that the encoder looks for in a chunk that has all of them, compiled here. */
static void probe_opcodes(lua_State *L, struct codec *c)
{
    static const char source[] =
        "local a, b, c "                          /*  0 KNIL */
        "a.x = b a[b] = c a[1] = b d = e "        /*  1 TSETS TSETV TSETB GGET GSET */
        "for k in pairs(a) do end "               /*  6 GGET MOV CALL ISNEXT ITERN ITERL */
        "for k in a, b, c do end "                /* 12 MOV MOV MOV JMP ITERC ITERL */
        "return function() return a end";         /* the inner function comes first in a dump */
    if (luaL_loadbuffer(L, source, sizeof source - 1, "=codec"))
        lua_error(L);
    tp_codec_dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    struct bytecode b;
    struct proto inner, outer;
    bool stripped;
    if (!tp_bytecode_open(&b, text, len, &stripped) || !tp_bytecode_next(&b, stripped, &inner) ||
        !tp_bytecode_next(&b, stripped, &outer))
        luaL_error(L, "tidepool does not know the bytecode of this version of LuaJIT");
    c->op.uget = opcode(L, &inner, 0);
    c->op.tsets = opcode(L, &outer, 1);
    c->op.tsetv = opcode(L, &outer, 2);
    c->op.tsetb = opcode(L, &outer, 3);
    c->op.gget = opcode(L, &outer, 4);
    c->op.gset = opcode(L, &outer, 5);
    c->patches.isnext = opcode(L, &outer, 9);
    c->patches.itern = opcode(L, &outer, 10);
    c->patches.jmp = opcode(L, &outer, 15);
    c->patches.iterc = opcode(L, &outer, 16);
    lua_pop(L, 1);
}

int tp_codec_new_table(lua_State *L)
{
    lua_newtable(L);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Pushes a new table with weak keys ("k") or values ("v"). */
static void push_weak_table(lua_State *L, const char *mode)
{
    lua_newtable(L);                                /* table */
    lua_createtable(L, 0, 1);                       /* table mt */
    lua_pushstring(L, mode);
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
}

static void open_tables(lua_State *L, struct codec *c)
{
    lua_createtable(L, NAMES_ROOM, 0);
    c->names = luaL_ref(L, LUA_REGISTRYINDEX);
    c->mts = tp_codec_new_table(L);

    push_weak_table(L, "k");
    c->dumps = luaL_ref(L, LUA_REGISTRYINDEX);
    push_weak_table(L, "k");
    c->aliases = luaL_ref(L, LUA_REGISTRYINDEX);

    lua_createtable(L, 0, 1);                       /* mt */
    lua_pushvalue(L, LUA_GLOBALSINDEX);
    lua_setfield(L, -2, "__index");
    c->env_mt = luaL_ref(L, LUA_REGISTRYINDEX);

    luaL_findtable(L, LUA_REGISTRYINDEX, "_LOADED", 16);
    c->loaded = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "require");
    c->require = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* ---- modules that are being loaded ---- */

/* Is the value at index the mark that LuaJIT's require (lib_package.c) leaves in package.loaded
 * while it loads a module? LuaJIT stores a raw pointer there, which reads as a number with these
 * bits. */
static bool is_mark(lua_State *L, int index)
{
    static const uint64_t mark = UINT64_C(0x8000000000000000) | 's';
    if (lua_type(L, index) != LUA_TNUMBER)
        return false;
    double x = lua_tonumber(L, index);
    return memcmp(&x, &mark, sizeof x) == 0;
}

void tp_codec_push_loading(lua_State *L)
{
    lua_pushnil(L);                                  /* marked */
    lua_rawgeti(L, LUA_REGISTRYINDEX, tp_codec_of(L)->loaded);
    lua_pushnil(L);
    while (lua_next(L, -2)) {                        /* marked loaded name value */
        if (is_mark(L, -1)) {
            if (lua_isnil(L, -4)) {
                lua_newtable(L);
                lua_replace(L, -5);
            }
            lua_pushvalue(L, -2);
            lua_insert(L, -2);
            lua_rawset(L, -5);                       /* marked loaded name */
        } else {
            lua_pop(L, 1);
        }
    }
    lua_pop(L, 1);
}

/* Is the name at the top a key of the table at index `names`? False when that is no table. */
static bool is_among(lua_State *L, int names)
{
    if (!names || !lua_istable(L, names))
        return false;
    lua_pushvalue(L, -1);
    lua_rawget(L, names);
    bool is = !lua_isnil(L, -1);
    lua_pop(L, 1);
    return is;
}

void tp_codec_forget_loading(lua_State *L, int before)
{
    if (before < 0)
        before += lua_gettop(L) + 1;
    lua_rawgeti(L, LUA_REGISTRYINDEX, tp_codec_of(L)->loaded);
    lua_pushnil(L);
    while (lua_next(L, -2)) {                        /* loaded name value */
        bool is_left = is_mark(L, -1);
        lua_pop(L, 1);
        if (is_left && !is_among(L, before)) {
            lua_pushvalue(L, -1);
            lua_pushnil(L);
            lua_rawset(L, -4); /* assigning to an existing field is allowed during lua_next */
        }
    }
    lua_pop(L, 1);
}

/* ---- libraries ---- */

/* Removes require's mark for the module of that name. Allocates nothing: the field exists. */
static void forget_mark(lua_State *L, const struct codec *c, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_getfield(L, -1, name);
    if (is_mark(L, -1)) {
        lua_pushnil(L);
        lua_setfield(L, -3, name);
    }
    lua_pop(L, 2);
}

/* Pushes the library of that name, loading it where it comes with LuaJIT but isn't loaded yet;
 * false if there is none. When there is no memory to load it, its mark is removed, so that the next
 * codec that is opened here can try again. */
static bool push_library(lua_State *L, const struct codec *c, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_getfield(L, -1, name);
    lua_remove(L, -2);
    if (lua_isnil(L, -1) && (strcmp(name, "ffi") == 0 || strcmp(name, "jit.util") == 0)) {
        lua_pop(L, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, c->require);
        lua_pushstring(L, name);
        int rc = lua_pcall(L, 1, 1, 0);
        if (rc)
            forget_mark(L, c, name);
        if (rc == LUA_ERRMEM)
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
        "string", "table", "math",     "io",      "os",      "coroutine", "debug",
        "bit",    "jit",   "jit.util", "jit.opt", "package", "ffi",
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

/* Fills in codec.reaching: builtins through which a function can reach globals that it does not
 * name. */
static void find_reaching(lua_State *L, struct codec *c)
{
    static const char *const names[] = {
        "_G", "getfenv", "loadstring", "load", "loadfile", "dofile"
    };
    for (size_t i = 0; i < countof(names); i++) {
        lua_getfield(L, LUA_GLOBALSINDEX, names[i]);
        const struct known *k =
            tp_codec_is_object(L, -1) ? tp_codec_find_known(c, tp_codec_identity(L, -1)) : NULL;
        if (k)
            c->reaching[c->nreaching++] = k->index;
        lua_pop(L, 1);
    }
}

/* (name, metatable): see tp_codec_add_class */
static int add_class(lua_State *L)
{
    tp_codec_add_class(L, luaL_checkstring(L, 1), 2, true);
    return 0;
}

void tp_codec_push_ffi(lua_State *L, const struct codec *c, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);
    lua_rawgeti(L, -1, FFI_FUNCTIONS);
    if (lua_istable(L, -1))
        lua_getfield(L, -1, name);
    lua_insert(L, -3);
    lua_pop(L, 2);
}

/* Pushes the chunk of one of our modules. */
static void load_ours(lua_State *L, const char *name, const char *chunkname)
{
    const tp_lua_module *m = tp_lua_modules;
    while (strcmp(m->name, name) != 0)
        m++;
    if (luaL_loadbuffer(L, m->bytes, m->len, chunkname))
        lua_error(L);
}

/* () -> the chunk of cdata_values.lua */
static int load_values(lua_State *L)
{
    load_ours(L, "tidepool.base.cdata_values", "=tidepool.base.cdata_values");
    return 1;
}

/* Must run before the libraries' functions are noted: it replaces some of them by its own. */
static void open_cdata(lua_State *L, struct codec *c)
{
    c->array_of = c->array_new = LUA_REFNIL;
    if (!push_library(L, c, "ffi"))
        return;
    lua_pop(L, 1);
    load_ours(L, "tidepool.base.cdata", "=tidepool.base.cdata");
    static const int kinds[] = { T_INT64, T_UINT64, T_COMPLEX, T_CTYPE, T_BYTES, T_SYMBOL, 0 };
    lua_pushcfunction(L, add_class);
    lua_pushcfunction(L, load_values);
    for (size_t i = 0; i < countof(kinds); i++)
        lua_pushinteger(L, kinds[i]);
    lua_pushliteral(L, "=" TP_LUA_CHUNKS);
    lua_call(L, 3 + countof(kinds), 1);                // functions
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, FFI_FUNCTIONS); /* here, since the registry must not grow */
    lua_pop(L, 2);
}

void tp_codec_reserve_references(lua_State *L, int n)
{
    int refs[TP_REFERENCES_MAX];
    TP_ASSERT(n <= TP_REFERENCES_MAX);
    for (int i = 0; i < n; i++) {
        lua_pushboolean(L, 1);
        refs[i] = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    for (int i = n - 1; i >= 0; i--)
        luaL_unref(L, LUA_REGISTRYINDEX, refs[i]);
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
    tp_codec_reserve_references(L, REFERENCES); /* before they are made */
    struct codec *c = push_owner(L, sizeof *c, "tidepool.codec", codec_gc); /* codec */
    push_weak_table(L, "v");
    lua_setfenv(L, -2);
    open_tables(L, c);
    tp_layout_find(L, &c->layout);
    open_cdata(L, c);
    open_builtins(L, c);
    c->nstandard = c->nnames;
    find_reaching(L, c);
    tp_standard_open(L, &c->standard, &c->layout, c->loaded);
    tp_modules_open(L, &c->modules);
    probe_opcodes(L, c);
    c->epoch = 1;
    push_key(L, &codec_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX); /* last: from here on the codec is open */
}

void tp_codec_push_lately(lua_State *L)
{
    push_key(L, &codec_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    lua_getfenv(L, -1);
    lua_remove(L, -2);
}

void tp_codec_set_arrays(lua_State *L, int of, int make)
{
    struct codec *c = tp_codec_of(L);
    lua_pushvalue(L, of);
    lua_pushvalue(L, make);
    c->array_new = luaL_ref(L, LUA_REGISTRYINDEX);
    c->array_of = luaL_ref(L, LUA_REGISTRYINDEX);
}
