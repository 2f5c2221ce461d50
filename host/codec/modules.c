/* modules.c: functions that a script has added to modules, or replaced in them. */
#include "codec/modules.h"

#include "codec/codec_state.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* the list has a name, the module, and a list that keeps the module's functions alive, so that
     * no other function gets one's address */
    STRIDE = 3
};

void tp_modules_open(lua_State *L, tp_modules *m)
{
    lua_newtable(L);
    m->list = luaL_ref(L, LUA_REGISTRYINDEX);
}

void tp_modules_close(tp_modules *m)
{
    tp_snapshot_free(&m->loaded);
    for (int i = 0; i < m->n; i++)
        tp_snapshot_free(&m->seen[i]);
    free(m->seen);
    free(m->is_changed);
    m->seen = NULL;
    m->is_changed = NULL;
    m->n = m->room = 0;
}

/* Is the source name one that require gives the module's file: "@dir/a/b.lua" or
 * "@dir/a/b/init.lua" for "a.b"? */
static bool is_file_of(const char *source, size_t len, const char *name, size_t name_len)
{
    static const char *const ends[] = { ".lua", "/init.lua" };
    for (int k = 0; k < 2; k++) {
        size_t end = strlen(ends[k]);
        if (len < name_len + end + 1 || memcmp(source + len - end, ends[k], end) != 0)
            continue;
        const char *at = source + len - end - name_len;
        bool is_same = at[-1] == '/' || at[-1] == '@';
        for (size_t i = 0; is_same && i < name_len; i++)
            is_same = at[i] == name[i] || (name[i] == '.' && at[i] == '/');
        if (is_same)
            return true;
    }
    return false;
}

bool tp_modules_is_scripts(lua_State *L, const struct codec *c)
{
    lua_Debug ar;
    lua_pushvalue(L, -1);
    lua_getinfo(L, ">S", &ar);
    if (*ar.what == 'C')
        return false;
    if (*ar.source != '@')
        return strcmp(ar.source, "=stdin") == 0 || strcmp(ar.source, "=(command line)") == 0;
    size_t len = strlen(ar.source), name_len;
    int top = lua_gettop(L);
    bool is_module = false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    lua_pushnil(L);
    while (!is_module && lua_next(L, top + 1)) {
        if (lua_type(L, -2) == LUA_TSTRING) {
            const char *other = lua_tolstring(L, -2, &name_len);
            is_module = is_file_of(ar.source, len, other, name_len);
        }
        lua_pop(L, 1);
    }
    lua_settop(L, top);
    return !is_module;
}

static bool is_own(const char *name)
{
    return strncmp(name, "tidepool", 8) == 0 && (name[8] == '\0' || name[8] == '.');
}

/* Is it a standard library that belongs to one state (package, ffi, jit), so that standard.c does
 * not send its changes? Functions that the script adds to such a library travel all the same. */
static bool is_states(const char *name)
{
    static const char *const names[] = { "ffi", "jit", "package" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

/* Makes room for one more module. Raises when there is none. */
static void reserve(lua_State *L, tp_modules *m)
{
    if (m->n < m->room)
        return;
    int room = m->room ? 2 * m->room : 16;
    tp_snapshot *seen = realloc(m->seen, (size_t)room * sizeof *seen);
    if (seen)
        m->seen = seen;
    bool *is_changed = realloc(m->is_changed, (size_t)room * sizeof *is_changed);
    if (is_changed)
        m->is_changed = is_changed;
    if (!seen || !is_changed)
        tp_codec_raise_memory(L);
    m->room = room;
}

/* Lists the modules of package.loaded. */
static void list_modules(lua_State *L, struct codec *c)
{
    tp_modules *m = &c->modules;
    int top = lua_gettop(L);
    for (int i = 0; i < m->n; i++)
        tp_snapshot_free(&m->seen[i]);
    m->n = 0;
    lua_newtable(L);                                  // list
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);     // list loaded
    lua_pushnil(L);
    while (lua_next(L, top + 2)) {                    // list loaded name module
        const struct known *k = lua_istable(L, -1) ? tp_codec_find_known(c, lua_topointer(L, -1))
                                                   : NULL;
        bool is_one = lua_istable(L, -1) && lua_type(L, -2) == LUA_TSTRING &&
                      (!k || k->kind != BUILTIN || is_states(lua_tostring(L, -2)));
        if (is_one && !is_own(lua_tostring(L, -2))) {
            reserve(L, m);
            lua_pushvalue(L, -2);
            lua_rawseti(L, top + 1, STRIDE * m->n + 1);
            lua_pushvalue(L, -1);
            lua_rawseti(L, top + 1, STRIDE * m->n + 2);
            m->seen[m->n] = (tp_snapshot){ 0 };
            m->is_changed[m->n++] = false;
        }
        lua_pop(L, 1);
    }
    lua_pushvalue(L, top + 1);
    lua_rawseti(L, LUA_REGISTRYINDEX, m->list);
    tp_snapshot_take(&m->loaded, &c->layout, lua_topointer(L, top + 2));
    lua_settop(L, top);
}

/* Stack: name module -> name module functions, a list of the module's functions. True when one of
 * them is the script's. */
static bool has_some(lua_State *L, const struct codec *c)
{
    int module = lua_gettop(L), n = 0;
    bool has = false;
    lua_newtable(L);                                  // name module functions
    lua_pushnil(L);
    while (lua_next(L, module)) {                     // name module functions key value
        if (!lua_isfunction(L, -1)) {
            lua_pop(L, 1);
            continue;
        }
        has = has || (lua_type(L, -2) == LUA_TSTRING && tp_modules_is_scripts(L, c));
        lua_rawseti(L, module + 1, ++n);
    }
    return has;
}

bool tp_modules_look(lua_State *L, struct codec *c)
{
    tp_modules *m = &c->modules;
    int top = lua_gettop(L);
    bool has = false;
    luaL_checkstack(L, STACK_NEED, "modules");
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->loaded);
    if (!tp_snapshot_holds(&m->loaded, &c->layout, lua_topointer(L, -1)))
        list_modules(L, c);
    lua_rawgeti(L, LUA_REGISTRYINDEX, m->list);
    int list = lua_gettop(L);
    for (int i = 0; i < m->n; i++) {
        lua_rawgeti(L, list, STRIDE * i + 1);
        lua_rawgeti(L, list, STRIDE * i + 2);         // name module
        const void *module = lua_topointer(L, -1);
        if (!tp_snapshot_holds(&m->seen[i], &c->layout, module)) {
            m->is_changed[i] = has_some(L, c);
            lua_rawseti(L, list, STRIDE * i + 3);
            tp_snapshot_take(&m->seen[i], &c->layout, module);
        }
        has |= m->is_changed[i];
        lua_settop(L, list);
    }
    lua_settop(L, top);
    return has;
}

bool tp_modules_next(lua_State *L, const struct codec *c, int *i)
{
    while (*i < c->modules.n && !c->modules.is_changed[*i])
        ++*i;
    if (*i == c->modules.n)
        return false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->modules.list);
    lua_rawgeti(L, -1, STRIDE * *i + 1);
    lua_rawgeti(L, -2, STRIDE * *i + 2);              // list name module
    lua_remove(L, -3);
    ++*i;
    return true;
}

void tp_modules_add(lua_State *L, const struct codec *c, int list)
{
    int module = lua_gettop(L), n = (int)lua_objlen(L, list);
    int number = tp_standard_number(&c->standard, lua_topointer(L, module));
    luaL_checkstack(L, STACK_NEED, "modules");
    int where = module + 1;
    if (number >= 0)
        lua_pushinteger(L, number);
    else
        lua_pushvalue(L, module);
    lua_pushnil(L);
    while (lua_next(L, module)) {                     // name module where key value
        if (lua_type(L, -2) == LUA_TSTRING && lua_isfunction(L, -1) &&
            tp_modules_is_scripts(L, c) &&
            !tp_standard_has(L, &c->standard, where, lua_gettop(L) - 1))
            for (int i = 0; i < 3; i++) {
                lua_pushvalue(L, where + i);
                lua_rawseti(L, list, ++n);
            }
        lua_pop(L, 1);
    }
    lua_settop(L, module - 2);
}
