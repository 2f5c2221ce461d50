/* vm.c: opens and closes the Lua state of a worker. */
#include "workers/texts.h"
#include "workers/vm/vm_private.h"

#include <lualib.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

lua_State *tp_vm_enter(tp_vm *vm, lua_State *L)
{
    lua_State *before = vm->L;
    vm->L = L;
    return before;
}

lua_State *tp_vm_state(const tp_vm *vm)
{
    return vm->main;
}

bool tp_vm_runs_on(const tp_vm *vm, const lua_State *L)
{
    return vm->L == L;
}

/* The functions of worker.lua that are called from here, and the fields for their references. */
static const struct {
    const char *name;
    size_t at; /* of an int in tp_vm */
} called[] = {
    { "set_up", offsetof(tp_vm, set_up) },
    { "take_back", offsetof(tp_vm, take_back) },
    { "describe", offsetof(tp_vm, describe) },
    { "specialise", offsetof(tp_vm, specialise) },
    { "read_integer", offsetof(tp_vm, read_integer) },
    { "broken_promise", offsetof(tp_vm, broken_promise) },
    { "store", offsetof(tp_vm, store) },
    { "run_batch", offsetof(tp_vm, run_batch) },
    { "finish_kept", offsetof(tp_vm, finish_kept) },
    { "leave", offsetof(tp_vm, leave) },
    { "begin", offsetof(tp_vm, begin) },
    { "turn", offsetof(tp_vm, turn) },
};

/* (vm): opens everything that a worker's state needs before it runs users' code. */
static int open_state(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    run on_stack;
    lua_gc(L, LUA_GCSTOP, 0); /* there is nothing to collect yet */
    tp_state_open_libraries(L);
    /* LuaJIT allocates when it meets the first light userdata of an address region; this is done
     * here, since tp_vm_run may not raise */
    lua_pushlightuserdata(L, &on_stack);
    lua_pop(L, 1);
    vm->worker->type->open_state(L, vm->worker);
    lua_getglobal(L, "package");
    vm->package = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidepool.engine.worker");
    lua_call(L, 1, 1);                        // worker
    tp_vm_wrap_loaders(vm, L);
    tp_texts_open(L);
    tp_codec_open(L); /* after worker.lua has replaced some standard functions by its own */
    vm->standard = tp_codec_standard(L);
    vm->standard->is_workers = true;
    lua_getfield(L, -1, "marks");
    vm->marks = (int32_t *)(uintptr_t)lua_topointer(L, -1);
    luaL_ref(L, LUA_REGISTRYINDEX);
    lua_getglobal(L, "debug");
    lua_getfield(L, -1, "sethook");
    vm->set_hook = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pop(L, 1);
    for (size_t i = 0; i < sizeof called / sizeof *called; i++) {
        lua_getfield(L, -1, called[i].name);
        *(int *)((char *)vm + called[i].at) = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_createtable(L, 2, 0);
    vm->box = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_add_traceback);
    vm->add_traceback = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, vm);
    lua_pushcclosure(L, tp_vm_on_error, 1);
    vm->on_error = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_encode_failure);
    vm->encode_failure = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_run_items);
    vm->run_items = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_begin_item);
    vm->begin_item = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_keep_values);
    vm->keep = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_reset_libraries);
    vm->reset = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_take_back_protected);
    vm->restore = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_collect_now);
    vm->collect = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_pause_protected);
    vm->pause = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, tp_vm_resume_protected);
    vm->resume = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_gc(L, LUA_GCRESTART, -1);
    return 0;
}

int tp_vm_open(tp_worker *worker, tp_error *err)
{
    tp_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return tp_error_oom(err, "worker state");
    vm->worker = worker;
    vm->main = vm->L = tp_state_new();
    if (!vm->main) {
        free(vm);
        return tp_error_oom(err, "worker state");
    }
    int status = lua_cpcall(vm->main, open_state, vm);
    if (status) {
        const char *why = lua_tostring(vm->main, -1);
        tp_error_set(err, tp_codec_is_memory_error(vm->main, status) ? TP_EMEMORY : TP_ESYS,
                     "cannot open a worker's Lua state: %s", why ? why : "unknown error");
        tp_vm_close(vm);
        return -1;
    }
    worker->vm = vm;
    return 0;
}

void tp_vm_leave(tp_vm *vm)
{
    if (!vm->worker->will_leave)
        return;
    vm->worker->will_leave = false;
    tp_vm_call_protected(vm, vm->main, vm->leave, 0, 0);
}

void tp_vm_close(tp_vm *vm)
{
    if (!vm)
        return;
    vm->worker->vm = NULL;
    tp_vm_limit(vm, 0, 0, NULL, NULL);
    for (unsigned i = 0; i < vm->n_cached; i++)
        tp_ref_drop(vm->cache[i].image);
    tp_state_close(vm->main);
    free(vm);
}
