/* image.c: writes what an image has after its values: all globals where a function may reach them,
 * and what the script has changed in standard libraries and modules. */
#include "codec/bytecode.h"
#include "codec/encode/encoder.h"
#include "codec/modules.h"
#include "codec/standard.h"

#include <lauxlib.h>
#include <string.h>

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
    if (tp_encoder_push_aliases(e) > 0) { // name where names
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
        int refused = is_gone ? 0 : tp_encoder_try_value(e, name);
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

int tp_encoder_put_changes(encoder *e, int n)
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
        tp_encoder_anchor(e);
    if (put_value(e) < 0)
        return tp_encoder_be_careful(e);
    lua_settop(L, top);
    if (e->reaches_globals && !e->wants_globals) {
        e->wants_globals = e->restart = true;
        return -1;
    }
    bool may_change = (e->uses & SETS_LIBRARY) || ((e->uses & SETS_UPVALUE) && e->has_library);
    return put_tag(e, may_change ? T_TRUE : T_FALSE);
}
