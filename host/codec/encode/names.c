/* names.c: writes what both sides have under a name: builtins, modules, what modules have in their
 * fields. */
#include "codec/encode/encoder.h"
#include "codec/modules.h"

#include <string.h>

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

int tp_encoder_scan_modules(encoder *e)
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
                return tp_encoder_refuse_memory(e);
            }
            e->restart = true;
        }
        lua_pop(L, 1);
    }
    lua_settop(L, top);
    tp_snapshot_take(&c->seen_loaded, &c->layout, loaded);
    return e->restart ? -1 : 0;
}

struct known *tp_encoder_find_field(encoder *e, const void *object)
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

int tp_encoder_push_aliases(encoder *e)
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
    int index = k->index, n = is_field ? 1 : tp_encoder_push_aliases(e); // [names]
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

int tp_encoder_take_by_name(encoder *e)
{
    if (e->restart || e->code != TP_ECODEC ||
        (lua_isfunction(e->L, -1) && tp_modules_is_scripts(e->L, e->c)))
        return -1;
    struct known *k = tp_encoder_find_field(e, tp_codec_identity(e->L, -1));
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

bool tp_encoder_is_reaching(const struct codec *c, const struct known *k)
{
    for (int i = 0; i < c->nreaching; i++)
        if (c->reaching[i] == k->index)
            return true;
    return false;
}

int tp_encoder_put_known(encoder *e, struct known *k)
{
    if (k->kind == CLASS)
        return tp_encoder_put_class(e, k->index);
    if (k->kind != BUILTIN)
        return put_module(e, k);
    e->reaches_globals |= tp_encoder_is_reaching(e->c, k);
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
