/* texts.c: stores the source texts of chunks that Lua code, the command line and the C API load.
 *
 * Code may load chunks without end, so what `load` gets is stored in two generations: when the
 * young one is full it becomes the old one, and the old one is dropped. */
#include "workers/texts.h"

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <string.h>

enum {
    GENERATION_BYTES = 4 << 20,
    OVERHEAD = 200, /* per text: a list and its entry */
    LASTING = 1, YOUNG, OLD /* indexes in the list of tables */
};

static const char texts_key[] = "tidepool.texts", used_key[] = "tidepool.texts.used";

/* Pushes the list of tables, and makes it first if it does not exist. */
static void push_tables(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, texts_key);
    if (lua_istable(L, -1))
        return;
    lua_pop(L, 1);
    lua_createtable(L, OLD, 0);
    for (int i = LASTING; i <= OLD; i++) {
        lua_newtable(L);
        lua_rawseti(L, -2, i);
    }
    lua_pushvalue(L, -1);
    lua_setfield(L, LUA_REGISTRYINDEX, texts_key);
}

/* Stack: tables. Adds `bytes` to the size of the young generation, which becomes the old one when
 * it is full. */
static void make_room(lua_State *L, size_t bytes)
{
    lua_getfield(L, LUA_REGISTRYINDEX, used_key);       // tables used
    size_t used = (size_t)lua_tonumber(L, -1) + bytes;
    lua_pop(L, 1);                                      // tables
    if (used > GENERATION_BYTES) {
        lua_rawgeti(L, -1, YOUNG);
        lua_rawseti(L, -2, OLD);
        lua_newtable(L);
        lua_rawseti(L, -2, YOUNG);
        used = bytes;
    }
    lua_pushnumber(L, (lua_Number)used);
    lua_setfield(L, LUA_REGISTRYINDEX, used_key);
}

/* Adds the text on top, which stays there, to the list of its name. It is also a key in that list,
 * so that it is there once. */
static void keep(lua_State *L, const char *name, int table)
{
    push_tables(L);                                     // text tables
    if (table == YOUNG)
        make_room(L, lua_objlen(L, -2) + OVERHEAD);
    lua_rawgeti(L, -1, table);
    lua_replace(L, -2);                                 // text named
    lua_getfield(L, -1, name);                          // text named list
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, name);
    }
    lua_pushvalue(L, -3);
    lua_rawget(L, -2);                                  // text named list is_there
    bool is_there = lua_toboolean(L, -1);
    lua_pop(L, 1);                                      // text named list
    if (!is_there) {
        lua_pushvalue(L, -3);
        lua_rawseti(L, -2, (int)lua_objlen(L, -2) + 1);
        lua_pushvalue(L, -3);
        lua_pushboolean(L, true);
        lua_rawset(L, -3);
    }
    lua_pop(L, 2);                                      // text
}

void tp_texts_keep(lua_State *L, const char *name)
{
    keep(L, name, LASTING);
}

/* The reader that `load` gets in place of the user's, which is upvalue 1: adds what that one
 * returns to the list in upvalue 2. */
static int l_read(lua_State *L)
{
    lua_settop(L, 0);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_call(L, 0, 1);
    if (lua_isstring(L, 1)) {
        lua_pushvalue(L, 1);
        lua_rawseti(L, lua_upvalueindex(2), (int)lua_objlen(L, lua_upvalueindex(2)) + 1);
    }
    return 1;
}

/* Pushes the strings of the list at that index, joined. */
static void push_joined(lua_State *L, int list)
{
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (int i = 1, n = (int)lua_objlen(L, list); i <= n; i++) {
        lua_rawgeti(L, list, i);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
}

/* load(text or reader, name, ...) and loadstring; upvalue 1 is the stock function. */
static int l_load(lua_State *L)
{
    /* a userdata is a string.buffer, whose text is not stored */
    const bool is_reader = !lua_isstring(L, 1) && !lua_isuserdata(L, 1);
    const int n = lua_gettop(L);
    if (is_reader)
        /* the same check as the stock function's, but with a name in the message */
        luaL_checktype(L, 1, LUA_TFUNCTION);
    const char *name = luaL_optstring(L, 2, is_reader ? "=(load)" : NULL);
    lua_pushvalue(L, lua_upvalueindex(1));              // args load
    if (is_reader) {
        lua_newtable(L);                                // args load pieces
        lua_insert(L, 1);
        lua_pushvalue(L, 2);
        lua_pushvalue(L, 1);
        lua_pushcclosure(L, l_read, 2);                 // pieces args load reader
    } else {
        lua_pushvalue(L, 1);
        lua_insert(L, 1);
        lua_pushvalue(L, 1);                            // text args load text
    }
    for (int i = 2; i <= n; i++)
        lua_pushvalue(L, i + 1);
    lua_call(L, n > 0 ? n : 1, LUA_MULTRET);            // text-or-pieces args results
    const int first = n + 2;
    if (name && lua_isfunction(L, first) && lua_type(L, 1) != LUA_TUSERDATA) {
        if (is_reader)
            push_joined(L, 1);
        else
            lua_pushvalue(L, 1);
        size_t len;
        const char *text = lua_tolstring(L, -1, &len);
        bool has_name = strcmp(name, text) != 0; /* otherwise the text is its own name */
        if (has_name && text[0] != LUA_SIGNATURE[0] && len <= GENERATION_BYTES - OVERHEAD)
            keep(L, name, YOUNG);
        lua_pop(L, 1);
    }
    return lua_gettop(L) - first + 1;
}

void tp_texts_open(lua_State *L)
{
    static const char *const names[] = { "load", "loadstring" };
    for (int i = 0; i < 2; i++) {
        lua_getglobal(L, names[i]);
        lua_pushcclosure(L, l_load, 1);
        lua_setglobal(L, names[i]);
    }
}
