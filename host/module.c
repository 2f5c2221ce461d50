/* module.c: what `require "tidepool"` finds in a program that knows nothing of us: stock luajit, Neovim.
 *
 * The module is one file, with its Lua half inside. It is not linked to LuaJIT: the program has one. Its host lives as long as the program's Lua
 * state, which owns it. */
#include "host.h"
#include "lua_core.h"

#include <lauxlib.h>
#include <lua.h>
#include <luajit.h>
#include <stdio.h>

/* tp_config.write: what workers print. One call is one fwrite, so lines stay whole. */
static void write_line(void *user, int fd, const char *bytes, size_t len)
{
    (void)user;
    FILE *to = fd == 2 ? stderr : stdout;
    fwrite(bytes, 1, len, to);
    fflush(to);
}

/* The host's owner is the first userdata that the module makes, so that it is the last to be finalized when the state is closed. */
static int close_host(lua_State *L)
{
    tp_host **owner = lua_touserdata(L, 1);
    tp_host_close(*owner);
    *owner = NULL;
    return 0;
}

/* Opens a host that L owns. Raises. */
static tp_host *open_host(lua_State *L)
{
    tp_config config = { .size = sizeof config, .write = write_line };
    tp_error err = { 0 };
    tp_host **owner = lua_newuserdata(L, sizeof *owner);
    *owner = NULL;
    lua_newtable(L);
    lua_pushcfunction(L, close_host);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    luaL_ref(L, LUA_REGISTRYINDEX);
    if (tp_host_open(owner, &config, &err))
        luaL_error(L, "tidepool: %s", err.message);
    return *owner;
}

/* The symbols of the Lua API are weak here (see the Makefile): of a Lua that is not LuaJIT those that only LuaJIT has are missing. What is
 * called before that is known, all versions of Lua have. */
TP_API int luaopen_tidepool(lua_State *L);

int luaopen_tidepool(lua_State *L)
{
    int (*volatile set_mode)(lua_State *, int, int) = luaJIT_setmode;
    if (!set_mode)
        return luaL_error(L, "tidepool needs LuaJIT 2.1, and this is another Lua");
    lua_getglobal(L, "jit");
    lua_getfield(L, -1, "version_num");
    if (lua_tointeger(L, -1) < 20100)
        return luaL_error(L, "tidepool needs LuaJIT 2.1, and this is %d", (int)lua_tointeger(L, -1));
    tp_error err = { 0 };
    if (tp_lua_core_open_protected(L, open_host(L), &err))
        return luaL_error(L, "tidepool: %s", err.message);
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "preload");
    lua_getfield(L, -1, "tidepool");
    lua_pushliteral(L, "tidepool");
    lua_call(L, 1, 1);
    return 1;
}
