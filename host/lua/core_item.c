/* core_item.c: items that wait beside each other, as coroutines of engine/loop.lua; for workers'
 * states only. An item goes by its work (tp_work), as a light userdata. */
#include "lua/core_private.h"

#include "codec/codec.h"
#include "codec/standard.h"
#include "lua/core.h"
#include "workers/vm.h"

#include <lauxlib.h>

static tp_vm *get_vm(lua_State *L)
{
    return get_context(L)->agent->worker.vm;
}

/* core.item.enter(work, values of core.item.leave): the item goes on. Raises out of memory; then it
 * must be called again without values. */
static int l_item_enter(lua_State *L)
{
    tp_work *w = lua_touserdata(L, 1);
    if (lua_gettop(L) == 3)
        tp_standard_resume(L, tp_codec_standard(L));
    tp_vm_enter_item(get_vm(L), w);
    return 0;
}

/* core.item.leave(work) -> values for core.item.enter: the item waits. Raises out of memory, when
 * it has left. */
static int l_item_leave(lua_State *L)
{
    return tp_vm_leave_item(get_vm(L), L, lua_touserdata(L, 1));
}

/* core.item.keep(work, captured tables of its function, whether it was fine, results or error): the
 * item is over. Does nothing when it has a result already. */
static int l_item_keep(lua_State *L)
{
    tp_work *w = lua_touserdata(L, 1);
    if (w->at < tp_work_end(w))
        tp_vm_keep_item(get_vm(L), L, w, 2, 3);
    return 0;
}

/* core.item.close(work): its work is over. There is no such work any more. */
static int l_item_close(lua_State *L)
{
    tp_vm_end_item(get_vm(L), lua_touserdata(L, 1));
    return 0;
}

/* core.item.wait_for(job): the running item, or a callback, waits for the job */
static int l_item_wait_for(lua_State *L)
{
    tp_slice_wait_for(get_context(L)->agent, tp_lua_core_to_job(L, 1));
    return 0;
}

/* core.item.give_way(work, is_lent, endless), core.item.come_back(work) -> boolean: see
 * tp_slice_give_way */
static int l_item_give_way(lua_State *L)
{
    tp_work *w = lua_touserdata(L, 1);
    w->sink->give_way(w, lua_toboolean(L, 2), lua_toboolean(L, 3));
    return 0;
}

static int l_item_come_back(lua_State *L)
{
    tp_work *w = lua_touserdata(L, 1);
    lua_pushboolean(L, w->sink->come_back(w));
    return 1;
}

/* core.item.sees_cancels() -> see tp_agent_sees_cancels */
static int l_item_sees_cancels(lua_State *L)
{
    lua_pushboolean(L, tp_agent_sees_cancels(get_context(L)->agent));
    return 1;
}

/* core.item.is_unwanted(work) -> was its job cancelled? */
static int l_item_is_unwanted(lua_State *L)
{
    lua_pushboolean(L, tp_work_tell_cancelled(lua_touserdata(L, 1)));
    return 1;
}

/* core.item.note_blocking(work) -> true, for the first item of its function; and its
 * index, the function's name and the worker's number: see tp_slice_note_blocking */
static int l_item_note_blocking(lua_State *L)
{
    tp_work *w = lua_touserdata(L, 1);
    if (!w->sink->note_blocking(w))
        return 0;
    lua_pushboolean(L, true);
    lua_pushnumber(L, (double)(w->terms->base + w->block->first) + tp_work_running(w) + 1);
    lua_pushstring(L, w->terms->name);
    lua_pushinteger(L, w->worker->index);
    return 4;
}

static const luaL_Reg item_functions[] = {
    { "enter", l_item_enter },
    { "leave", l_item_leave },
    { "keep", l_item_keep },
    { "close", l_item_close },
    { "wait_for", l_item_wait_for },
    { "give_way", l_item_give_way },
    { "come_back", l_item_come_back },
    { "sees_cancels", l_item_sees_cancels },
    { "is_unwanted", l_item_is_unwanted },
    { "note_blocking", l_item_note_blocking },
    { NULL, NULL },
};

void tp_core_register_item(lua_State *L)
{
    if (get_context(L)->agent)
        tp_core_register(L, "item", item_functions);
}
