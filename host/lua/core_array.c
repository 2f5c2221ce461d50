/* core_array.c: the memory of typed arrays (lua/tidepool/array.lua), which states and devices
 * share. */
#include "lua/core_private.h"

#include "base/array.h"
#include "base/atomic.h"
#include "base/sort.h"
#include "codec/codec.h"

#include <lauxlib.h>
#include <string.h>

/* A pointer of the FFI is a cdata: lua_topointer gives the address of the cdata's contents, the
 * pointer. */
tp_array *tp_core_check_memory(lua_State *L, int index)
{
    tp_array *a = lua_type(L, index) == LUA_TLIGHTUSERDATA ? lua_touserdata(L, index) : NULL;
    if (!a && lua_topointer(L, index))
        memcpy(&a, lua_topointer(L, index), sizeof a);
    luaL_argcheck(L, a && a->ref.type == &tp_array_type, index, "an array's memory expected");
    return a;
}

/* The array at index, made by lua/tidepool/array.lua. It has its finalizer already, so memory given
 * to it is freed whatever is raised later. */
static tp_array_view *check_view(lua_State *L, int index)
{
    union {
        const void *read;
        tp_array_view *view;
    } p = { lua_topointer(L, index) }; /* lua_touserdata knows no cdata */
    luaL_argcheck(L, p.view, index, "an array expected");
    return p.view;
}

/* core.array.new(array, bytes, zeroed) -> whether the array, which had no memory, has some now;
 * false when there is none left */
static int l_array_new(lua_State *L)
{
    tp_array_view *view = check_view(L, 1);
    double size = luaL_checknumber(L, 2);
    tp_array *a = size >= 0 && size < 0x1p46 ? tp_array_new(get_context(L)->host->arrays,
                                                            (size_t)size, lua_toboolean(L, 3))
                                             : NULL;
    if (a) {
        view->memory = a;
        view->data = a->data;
    }
    lua_pushboolean(L, a != NULL);
    return 1;
}

/* core.array.bytes() -> the size of all arrays that are in use, in all states */
static int l_array_bytes(lua_State *L)
{
    lua_pushnumber(L, (double)tp_array_pool_live(get_context(L)->host->arrays));
    return 1;
}

/* core.array.hold(array, memory or another array, offset): makes the array, which had no memory, a
 * view of that memory, `offset` bytes from where it begins */
static int l_array_hold(lua_State *L)
{
    tp_array_view *view = check_view(L, 1);
    tp_array *a = lua_islightuserdata(L, 2) ? tp_core_check_memory(L, 2) : check_view(L, 2)->memory;
    char *start = lua_islightuserdata(L, 2) ? a->data : check_view(L, 2)->data;
    view->data = start + (size_t)luaL_checknumber(L, 3);
    view->memory = tp_ref_hold(a);
    return 0;
}

/* core.array.drop(array): the array's finalizer. In C, since reading `memory` in Lua would make a
 * cdata, for which there may be no memory. */
static int l_array_drop(lua_State *L)
{
    tp_array_view *view = check_view(L, 1);
    tp_ref_drop(view->memory);
    view->memory = NULL;
    return 0;
}

/* core.array.memory(memory) -> the memory as light userdata, and the address where it begins */
static int l_array_memory(lua_State *L)
{
    tp_array *a = tp_core_check_memory(L, 1);
    lua_pushlightuserdata(L, a);
    lua_pushlightuserdata(L, a->data);
    return 2;
}

/* core.array.share(): there will be worker processes; see tp_array_pool_share */
static int l_array_share(lua_State *L)
{
    tp_array_pool_share(get_context(L)->host->arrays);
    return 0;
}

/* core.array.set_arrays(of, make): see tp_codec_set_arrays */
static int l_array_set_arrays(lua_State *L)
{
    tp_codec_set_arrays(L, 1, 2);
    return 0;
}

/* core.array.sort(array, number of its type) -> whether there was memory to sort it */
static int l_array_sort(lua_State *L)
{
    tp_array_view *view = check_view(L, 1);
    lua_pushboolean(
        L, tp_sort(view->data, (size_t)view->length, (tp_type)luaL_checkinteger(L, 2)) == 0);
    tp_array_touch(view->memory);
    return 1;
}

/* core.array.atomics(number of an element type) -> pointer to its functions, in the order of
 * tp_atomic; nil for a type without any */
static int l_array_atomics(lua_State *L)
{
    int type = (int)luaL_checkinteger(L, 1);
    luaL_argcheck(L, type >= 0 && type < TP_TYPES, 1, "an element type expected");
    const tp_atomic_function *of = tp_atomic_functions((tp_type)type);
    if (of)
        lua_pushlightuserdata(L, (void *)(uintptr_t)of);
    else
        lua_pushnil(L);
    return 1;
}

static const luaL_Reg array_functions[] = {
    { "new", l_array_new },
    { "atomics", l_array_atomics },
    { "bytes", l_array_bytes },
    { "hold", l_array_hold },
    { "drop", l_array_drop },
    { "memory", l_array_memory },
    { "share", l_array_share },
    { "set_arrays", l_array_set_arrays },
    { "sort", l_array_sort },
    { NULL, NULL },
};

void tp_core_register_array(lua_State *L)
{
    tp_core_register(L, "array", array_functions);
}
