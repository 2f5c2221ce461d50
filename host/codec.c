/* codec.c: what the codec knows in a Lua state: builtins, modules, classes, host references. Messages are made in encode.c and read in
 * decode.c; their format is in message.h. */
#include "codec_state.h"

#include "bytecode.h"
#include "lua_modules.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

enum { NAMES_ROOM = 750 }; /* of the standard libraries and our own */

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
    luaL_getmetatable(L, type->metatable);
    bool fits = lua_rawequal(L, -1, -2);
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

struct class *tp_codec_set_class(lua_State *L, struct codec *c, const char *name, size_t len, int origin)
{
    struct class *k = tp_codec_find_class(c, name, len);
    bool is_new = !k;
    int index = is_new ? c->nclasses : (int)(k - c->classes);
    const void *mt = lua_topointer(L, -1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->mts);
    lua_pushvalue(L, -2);
    lua_rawseti(L, -2, index + 1); /* first: from here on nothing of Lua's can fail */
    lua_pop(L, 1);
    if (is_new && !(k = new_class(c, name, len)))
        luaL_error(L, "not enough memory");
    if (tp_codec_add_known(c, mt, CLASS, index) < 0) {
        if (is_new)
            free(c->classes[--c->nclasses].name);
        luaL_error(L, "not enough memory");
    }
    struct known *old = k->mt && k->mt != mt ? tp_codec_find_known(c, k->mt) : NULL;
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
    tp_codec_set_class(L, tp_codec_of(L), name, strlen(name), by_value ? BY_VALUE : BY_NAME);
    lua_pop(L, 1);
}

void tp_codec_new_epoch(lua_State *L)
{
    tp_codec_of(L)->epoch++;
}

/* ---- builtins ---- */

/* Pushes the table of what is known by a name that starts with the prefix on top. */
static void push_named(lua_State *L, const struct codec *c)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->by_prefix);   // prefix all
    lua_pushvalue(L, -2);
    lua_rawget(L, -2);                                 // prefix all named
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -3);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_remove(L, -2);                                 // prefix named
}

/* Makes the object on top known by the prefix at that index, whose table is behind it, and the name below the object. Pops the name and the object. */
static void add_builtin(lua_State *L, struct codec *c, int prefix)
{
    const void *object = tp_codec_identity(L, -1);
    struct known *k = tp_codec_find_known(c, object);
    if (!k || k->kind != BUILTIN) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, c->names);   // name object names
        int index = c->nnames + 1;
        c->nnames += 2;
        lua_pushvalue(L, prefix);
        lua_rawseti(L, -2, index);
        lua_pushvalue(L, -3);
        lua_rawseti(L, -2, index + 1);
        lua_pop(L, 1);
        if ((!k || k->kind != CLASS) && tp_codec_add_known(c, object, BUILTIN, index) < 0)
            luaL_error(L, "not enough memory");
    }
    lua_rawset(L, prefix + 1);
}

/* Makes the table on top known as `name`, and its fields as `prefix` (a dot included) and their names: all fields that are objects, or the functions
 * only. */
static void add_library(lua_State *L, struct codec *c, const char *name, const char *prefix, bool functions_only)
{
    luaL_checkstack(L, STACK_NEED, "builtins");
    int table = lua_gettop(L);
    const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
    lua_pushlstring(L, name, (size_t)(last - name));
    push_named(L, c);
    lua_pushstring(L, last);
    lua_pushvalue(L, table);
    add_builtin(L, c, table + 1);
    lua_settop(L, table);
    lua_pushstring(L, prefix);
    push_named(L, c);
    lua_pushnil(L);
    while (lua_next(L, table)) { /* table prefix named key value */
        bool wanted = functions_only ? lua_type(L, -1) == LUA_TFUNCTION : tp_codec_is_object(L, -1);
        if (wanted && lua_type(L, -2) == LUA_TSTRING) {
            lua_pushvalue(L, -2);
            lua_insert(L, -2);   /* table prefix named key key value */
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
    c->classes = NULL; /* other finalizers of a closing state may still come here */
    c->known = NULL;
    c->nclasses = c->class_room = 0;
    c->nknown = c->known_size = 0;
    return 0;
}

/* Finds where a table keeps the size of its array part, so that encoding can skip that part when it goes through the hash part
 * (a fifth of the time of a list of numbers is lua_next). 0 when it isn't found, which costs speed only. Reads nothing but the
 * table's own 64 bytes. */
static int probe_asize(lua_State *L)
{
    static const int sizes[] = { 0, 37, 1000, 3 };
    int found = 0;
    for (int at = 60; sizeof(void *) == 8 && at >= 8 && !found; at -= 4) { /* from the end: what is before it is not all initialised */
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

void tp_codec_dump(lua_State *L)
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

/* Finds the numbers of the instructions that read and write a global, by looking at a function that does so. */
static void probe_opcodes(lua_State *L, struct codec *c)
{
    static const char source[] = "a = b";
    if (luaL_loadbuffer(L, source, sizeof source - 1, "=codec"))
        lua_error(L);
    tp_codec_dump(L);
    size_t len;
    const char *text = lua_tolstring(L, -1, &len);
    struct bytecode b;
    struct proto pt;
    bool stripped;
    if (!tp_bytecode_open(&b, text, len, &stripped) || !tp_bytecode_next(&b, stripped, &pt) || pt.ncode < 2)
        luaL_error(L, "tidepool does not know the bytecode of this version of LuaJIT");
    bool is_little = *(const uint8_t *)&(uint16_t){ 1 };
    c->op_gget = pt.code[is_little ? 0 : 3];
    c->op_gset = pt.code[is_little ? 4 : 7];
    lua_pop(L, 1);
}

int tp_codec_new_table(lua_State *L)
{
    lua_newtable(L);
    return luaL_ref(L, LUA_REGISTRYINDEX);
}

static void open_tables(lua_State *L, struct codec *c)
{
    lua_createtable(L, NAMES_ROOM, 0);
    c->names = luaL_ref(L, LUA_REGISTRYINDEX);
    c->by_prefix = tp_codec_new_table(L);
    c->mts = tp_codec_new_table(L);

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
    const tp_lua_module *m = tp_lua_modules;
    while (strcmp(m->name, "tidepool.cdata") != 0)
        m++;
    if (luaL_loadbuffer(L, m->bytes, m->len, "=tidepool.cdata"))
        lua_error(L);
    lua_call(L, 0, 1);                                 // { kind_of, make }
    lua_getfield(L, -1, "make");
    c->cdata_new = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getfield(L, -1, "kind_of");
    c->cdata_of = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 1);
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
    c->nstandard = c->nnames;
    open_cdata(L, c);
    probe_opcodes(L, c);
    c->asize_at = probe_asize(L);
    c->epoch = 1;
    push_key(L, &codec_key);
    lua_insert(L, -2);
    lua_rawset(L, LUA_REGISTRYINDEX); /* last: now it is open */
}

void tp_codec_set_arrays(lua_State *L, int of, int make)
{
    struct codec *c = tp_codec_of(L);
    lua_pushvalue(L, of);
    lua_pushvalue(L, make);
    c->array_new = luaL_ref(L, LUA_REGISTRYINDEX);
    c->array_of = luaL_ref(L, LUA_REGISTRYINDEX);
}
