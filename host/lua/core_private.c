/* core_private.c: what all files of the module "tidepool.core" use: registering functions, and
 * reading arguments and fields. */
#include "lua/core_private.h"

#include "base/deadline.h"
#include "base/lua_modules.h"
#include "codec/codec.h"
#include "lua/core.h"

#include <lauxlib.h>
#include <stdint.h>
#include <string.h>

tp_work *tp_core_work(const context *ctx)
{
    return ctx->agent ? ctx->agent->worker.current : NULL;
}

static void set_functions(lua_State *L, const luaL_Reg *functions)
{
    for (const luaL_Reg *f = functions; f->name; f++) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
}

void tp_core_register(lua_State *L, const char *name, const luaL_Reg *functions)
{
    if (!name) {
        set_functions(L, functions);
        return;
    }
    int n = 0;
    while (functions[n].name)
        n++;
    lua_pushstring(L, name);
    lua_rawget(L, -2);
    bool is_new = lua_isnil(L, -1);
    if (is_new) {
        lua_pop(L, 1);
        lua_createtable(L, 0, n);
    }
    set_functions(L, functions);
    /* last: when memory runs out before this, the field stays unset and is made again at its next
     * read */
    if (is_new)
        lua_setfield(L, -2, name);
    else
        lua_pop(L, 1);
}

int tp_core_push_message(lua_State *L, const tp_error *err)
{
    lua_pushnil(L);
    lua_pushstring(L, err->message);
    return 2;
}

bool tp_core_is_usable(const tp_host *host, tp_error *err)
{
    if (tp_host_is_usable(host))
        return true;
    tp_error_set(err, TP_EUSAGE, "Tidepool is not usable after fork, in the child");
    return false;
}

int tp_core_push_true_or(lua_State *L, int rc, const tp_error *err)
{
    if (rc)
        return tp_core_push_message(L, err);
    lua_pushboolean(L, 1);
    return 1;
}

int tp_core_push_refusal(lua_State *L, const tp_error *err, tp_failure_kind otherwise)
{
    tp_core_push_message(L, err);
    lua_pushstring(L, tp_failure_kind_name(tp_failure_kind_of(err->code, otherwise)));
    return 3;
}

bool tp_core_get_boolean(lua_State *L, int t, const char *key)
{
    lua_getfield(L, t, key);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

double tp_core_get_number(lua_State *L, int t, const char *key, double otherwise)
{
    lua_getfield(L, t, key);
    double value = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return value;
}

void tp_core_push_address(lua_State *L, const void *p)
{
    lua_pushnumber(L, (double)(uintptr_t)p);
}

void *tp_core_check_ref(lua_State *L, int index, const tp_ref_type *type)
{
    void *r = tp_codec_to_ref(L, index, type);
    if (!r)
        luaL_typerror(L, index, type->metatable);
    return r;
}

uint64_t tp_core_deadline_after(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? UINT64_MAX : tp_deadline_after(luaL_checknumber(L, index));
}

void tp_core_push_place(lua_State *L)
{
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (*ar.what == 'C' || tp_lua_is_ours(ar.source))
            continue;
        if (ar.currentline > 0)
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
        else
            lua_pushfstring(L, "%s: ", ar.short_src);
        return;
    }
    lua_pushliteral(L, "");
}

/* its address is the key in the registry of the value that the last interrupt raised */
static const char interrupt_key = 0;

void tp_lua_core_raise_interrupt(lua_State *L)
{
    lua_pushlightuserdata(L, (void *)&interrupt_key);
    tp_core_push_place(L);
    lua_pushliteral(L, "interrupted");
    lua_concat(L, 2);
    lua_pushvalue(L, -1);
    lua_insert(L, -3);
    lua_rawset(L, LUA_REGISTRYINDEX);
    lua_error(L);
}

void tp_core_check_interrupt(lua_State *L, context *ctx)
{
    if (!ctx->agent && tp_host_take_interrupt(ctx->host))
        tp_lua_core_raise_interrupt(L);
}

bool tp_core_is_interrupt(lua_State *L, int index)
{
    lua_pushvalue(L, index);
    lua_pushlightuserdata(L, (void *)&interrupt_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    bool is = lua_type(L, -1) == LUA_TSTRING && lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return is;
}
