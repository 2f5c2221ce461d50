/* codec_memory.c: raising that there is no memory, and recognising it. See codec.h. */
#include "base/lua_modules.h"
#include "codec/codec.h"

#include <lauxlib.h>
#include <lua.h>
#include <string.h>

int tp_codec_raise_memory(lua_State *L)
{
    lua_pushliteral(L, TP_NO_MEMORY);
    lua_error(L);
    __builtin_unreachable();
}

int tp_codec_raise(lua_State *L, const tp_error *err)
{
    if (err->code == TP_EMEMORY)
        tp_codec_raise_memory(L);
    luaL_error(L, "%s", err->message);
    __builtin_unreachable();
}

bool tp_codec_is_memory_error(lua_State *L, int status)
{
    static const char after_place[] = ": " TP_NO_MEMORY;
    size_t len;
    if (status == LUA_ERRMEM)
        return true;
    const char *why = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &len) : NULL;
    if (!why || strcmp(why, TP_NO_MEMORY) == 0)
        return why != NULL;
    /* the FFI puts its caller's position before the text: here a line of ours */
    return strncmp(why, TP_LUA_CHUNKS, sizeof TP_LUA_CHUNKS - 1) == 0 &&
           len >= sizeof after_place &&
           strcmp(why + len - (sizeof after_place - 1), after_place) == 0;
}
