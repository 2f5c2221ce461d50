/* scalar.c: elements of mixed columns to Lua and back. */
#include "codec/scalar.h"

#include <lua.h>
#include <string.h>

int64_t tp_scalar_measure(lua_State *L, int first, int n)
{
    size_t text = 0;
    for (int i = first; i < first + n; i++) {
        int type = lua_type(L, i);
        if (type == LUA_TSTRING) {
            size_t len = lua_objlen(L, i);
            if (len > TP_TEXT_STRING_MAX)
                return -1;
            text += len;
        } else if (type != LUA_TNUMBER && type != LUA_TBOOLEAN && type != LUA_TNIL) {
            return -1;
        }
    }
    return (int64_t)text;
}

void tp_scalar_store(lua_State *L, int index, tp_block *b, tp_scalar *to)
{
    size_t len;
    const char *bytes;
    switch (lua_type(L, index)) {
    case LUA_TNUMBER:
        to->kind = TP_SCALAR_NUMBER;
        to->as.number = lua_tonumber(L, index);
        break;
    case LUA_TBOOLEAN:
        to->kind = lua_toboolean(L, index) ? TP_SCALAR_TRUE : TP_SCALAR_FALSE;
        break;
    case LUA_TSTRING:
        bytes = lua_tolstring(L, index, &len);
        to->kind = TP_SCALAR_STRING;
        to->as.string.at = b->text.used;
        to->as.string.length = (uint32_t)len;
        memcpy(b->text.bytes + b->text.used, bytes, len);
        b->text.used += (uint32_t)len;
        break;
    default:
        to->kind = TP_SCALAR_NIL;
    }
}

void tp_scalar_push(lua_State *L, const tp_block *b, const tp_scalar *from)
{
    switch (from->kind) {
    case TP_SCALAR_NUMBER:
        lua_pushnumber(L, from->as.number);
        break;
    case TP_SCALAR_STRING:
        lua_pushlstring(L, b->text.bytes + from->as.string.at, from->as.string.length);
        break;
    case TP_SCALAR_PINNED:
        lua_pushlstring(L, from->as.pinned, from->pinned_length);
        break;
    case TP_SCALAR_SHARED: /* see there */
        lua_pushlstring(L, from->as.pinned, from->pinned_length);
        lua_pushlstring(L, lua_tostring(L, -1), from->pinned_length);
        lua_remove(L, -2);
        break;
    case TP_SCALAR_FALSE:
    case TP_SCALAR_TRUE:
        lua_pushboolean(L, from->kind == TP_SCALAR_TRUE);
        break;
    default:
        lua_pushnil(L);
    }
}
