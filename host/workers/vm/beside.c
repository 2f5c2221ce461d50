/* beside.c: items that wait beside each other as coroutines; engine/loop.lua resumes them. */
#include "workers/lines.h"
#include "workers/vm/vm_private.h"

#include <time.h>
#include <uv.h>

int tp_vm_begin_item(lua_State *L)
{
    run *r = lua_touserdata(L, 1);
    tp_work *w = r->work;
    tp_vm_prepare(r, L);
    tp_work_begin_item(w);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->begin);
    lua_pushlightuserdata(L, w);
    r->captured = tp_vm_push_captured(r->vm, L, w->terms->image);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->on_error);
    lua_rawgeti(L, LUA_REGISTRYINDEX, tp_vm_load(r->vm, L, w->terms->image)->fn);
    int n = tp_vm_push_arguments(r, L, w->at); // begin work captured on_error fn args
    r->is_beside = true;
    tp_vm_note_begin(r, w->at, 1);
    tp_work_leave(w);
    lua_call(L, 4 + n, 0);
    return 0;
}

bool tp_vm_begin(tp_vm *vm, tp_work *w)
{
    lua_State *L = vm->L;
    run r = tp_vm_run_of(vm, w);
    if (w->block->kind == TP_BLOCK_FAILURE)
        tp_work_pass_failure(w);
    if (w->at >= r.end || tp_work_is_asked_to_stop(w))
        return false;
    scope s = tp_vm_open_scope(vm, L);
    vm->beginning = w;
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->on_error);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->begin_item);
    lua_pushlightuserdata(L, &r);
    int status = lua_pcall(L, 1, 0, s.top + 1);
    bool has_begun = vm->beginning == NULL; /* then the work may be over, and gone */
    vm->beginning = NULL;
    if (!has_begun) {
        if (vm->worker->current != w)
            tp_work_enter(w);
        tp_vm_end_in_error(&r, L, status);
        tp_lines_end(vm->worker, w);
    }
    lua_settop(L, s.top);
    if (!has_begun && !s.is_nested)
        tp_codec_forget_loading(L, 0);
    if (!tp_vm_is_as_expected(vm, L))
        tp_vm_call_protected(vm, L, vm->restore, 0, 0);
    tp_vm_close_scope(vm, L, &s);
    return has_begun;
}

void tp_vm_turn(tp_vm *vm, uint64_t deadline_ns)
{
    enum { NO_MEMORY_MS = 1 };
    lua_State *L = vm->L;
    scope s = tp_vm_open_scope(vm, L);
    uint64_t now = uv_hrtime();
    if (tp_vm_should_collect(vm))
        tp_vm_call_protected(vm, L, vm->collect, 0, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->turn);
    if (deadline_ns == UINT64_MAX)
        lua_pushnil(L);
    else
        lua_pushnumber(L, deadline_ns > now ? (double)(deadline_ns - now) * 1e-9 : 0);
    if (lua_pcall(L, 1, 0, 0)) {
        vm->wants_collection = true;
        uv_sleep(NO_MEMORY_MS);
    }
    lua_settop(L, s.top);
    tp_vm_close_scope(vm, L, &s);
}

static uint64_t on_processor_ns(void)
{
    struct timespec t = { 0 };
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* An item that waits beside others goes on, or waits: notes how long it has kept the worker. */
static void note_step(tp_vm *vm, tp_work *w, bool begins)
{
    if (!tp_trace_is_on(vm->worker->trace)) {
        vm->step_ns = 0;
        return;
    }
    uint64_t now = uv_hrtime(), on_processor = on_processor_ns();
    if (!begins && vm->step_ns && now - vm->step_ns >= TP_STEP_MIN_NS)
        w->sink->note_step(
            w, tp_trace_step(now - vm->step_ns, on_processor - vm->step_processor_ns));
    vm->step_ns = begins ? now : 0;
    vm->step_processor_ns = on_processor;
}

void tp_vm_enter_item(tp_vm *vm, tp_work *w)
{
    note_step(vm, w, true);
    if (vm->beginning == w) {
        vm->beginning = NULL;
        vm->worker->n_waiting++;
    }
    tp_work_enter(w);
}

int tp_vm_leave_item(tp_vm *vm, lua_State *L, tp_work *w)
{
    note_step(vm, w, false);
    tp_work_leave(w);
    if (!vm->standard->applied && tp_vm_is_as_expected(vm, L))
        return 0;
    tp_standard_pause(L, vm->standard);
    tp_vm_take_back(vm, L);
    return 2;
}

int tp_vm_keep_values(lua_State *L)
{
    tp_vm_store_item(lua_touserdata(L, 1), L, 2, lua_gettop(L) - 1);
    return 0;
}

int tp_vm_reset_libraries(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    /* first, since undoing the list of changes declares what is left as expected */
    tp_vm_take_back(vm, L);
    lua_pushnil(L);
    tp_standard_apply(L, vm->standard);
    return 0;
}

void tp_vm_keep_item(tp_vm *vm, lua_State *L, tp_work *w, int captured, int fine)
{
    run r = tp_vm_run_of(vm, w);
    int status = 0;
    r.captured = tp_captured_at(L, captured);
    r.begun = w->at;
    r.is_beside = true;
    note_step(vm, w, false);
    tp_vm_note_end(&r, w->at + 1);
    if (lua_toboolean(L, fine)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->keep);
        lua_insert(L, fine + 1);
        lua_pushlightuserdata(L, &r);
        lua_insert(L, fine + 2);                      // .. fine keep run values
        status = lua_pcall(L, lua_gettop(L) - fine - 1, 0, 0);
    } else {
        lua_settop(L, fine + 1);
        /* an error that is not in the box was not raised by user code: memory or the stack ran
         * out */
        vm->wants_collection |= lua_type(L, -1) == LUA_TSTRING;
    }
    vm->wants_collection |= status == LUA_ERRMEM;
    if (status || !lua_toboolean(L, fine))
        tp_vm_fail_item(&r, L, status == LUA_ERRMEM ? TP_KIND_MEMORY : TP_KIND_ERROR);
    if (vm->standard->applied || !tp_vm_is_as_expected(vm, L))
        tp_vm_call_protected(vm, L, vm->reset, 0, 0);
    /* here, since other coroutine items run before the next item begins */
    if (tp_vm_should_collect(vm))
        tp_vm_call_protected(vm, L, vm->collect, 0, 0);
}

void tp_vm_end_item(tp_vm *vm, tp_work *w)
{
    tp_lines_end(vm->worker, w);
    vm->worker->n_waiting--;
    vm->worker->type->end(vm->worker, w);
}
