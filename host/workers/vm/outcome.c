/* outcome.c: what becomes of an item: its results or its failure. */
#include "base/amount.h"
#include "codec/scalar.h"
#include "workers/vm/vm_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The block to which the running item's result is added; NULL when out of memory. */
static tp_block *open_values(run *r)
{
    tp_work *w = r->work;
    if (w->values && w->values->bytes.len <= TP_BLOCK_BYTES_MAX)
        return w->values;
    tp_block *b = w->terms->discards ? tp_block_new_empty(TP_BLOCK_DONE, 0, 0)
                                     : tp_block_new_values(TP_BLOCK_VALUES);
    if (b && w->sink->home)
        b->bytes.home = w->sink->home(w);
    if (b)
        tp_work_open_values(w, b);
    return b;
}

int tp_vm_keep_results(run *r, lua_State *L, int first, int n, tp_error *err)
{
    tp_block *b = open_values(r);
    const tp_sink *sink = r->work->sink;
    if (b && r->work->terms->discards) {
        b->n++;
        return sink->publish ? sink->publish(r->work, err) : 0;
    }
    if (!b || tp_block_reserve(b))
        return tp_error_oom(err, "results");
    r->only_numbers &= n == 1 && lua_type(L, first) == LUA_TNUMBER;
    r->only_scalars &= r->only_numbers ||
                       (n <= TP_COLUMNS_MAX && tp_scalar_measure(L, first, n) >= 0);
    static const char *const names[] = { "result 1", "result 2", "result 3",
                                         "result 4", "result 5", "result 6" };
    if (tp_encode_with(L, first, n, n <= 6 ? names : NULL, sink->encoding, r->captured, &b->bytes,
                       err))
        return -1;
    tp_block_add(b);
    return sink->publish ? sink->publish(r->work, err) : 0;
}

int tp_vm_add_traceback(lua_State *L)
{
    luaL_traceback(L, L, NULL, 2);
    return 1;
}

int tp_vm_on_error(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, lua_upvalueindex(1));
    lua_settop(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->box);           // value box
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->add_traceback); // value box add_traceback
    if (lua_pcall(L, 0, 1, 0)) {
        lua_pop(L, 1);
        lua_pushnil(L);
    }                                                     // value box traceback
    lua_rawseti(L, 2, 2);                                 // value box
    lua_pushvalue(L, 1);
    lua_rawseti(L, 2, 1);                                 // value box
    return 1;
}

/* Replaces the error at the top of L, which is the box or a text of the host's, by three values:
 * whether it was the box, which is emptied; the error value; and the traceback or nil. */
static void open_error(lua_State *L)
{
    bool is_raised = lua_type(L, -1) == LUA_TTABLE;
    int error = lua_gettop(L);
    if (is_raised) {
        lua_rawgeti(L, error, 1);
        lua_rawgeti(L, error, 2);
        for (int i = 1; i <= 2; i++) {
            lua_pushnil(L);
            lua_rawseti(L, error, i);
        }
    } else {
        lua_pushvalue(L, error);
        lua_pushnil(L);
    }
    lua_pushboolean(L, is_raised);
    lua_replace(L, error);
}

/* An error that is being encoded into a block. */
typedef struct failing {
    run *run;
    tp_block *block;
    tp_failure_kind kind;
    bool collects; /* memory may have run out while it was described */
} failing;

tp_captured *tp_vm_push_captured(tp_vm *vm, lua_State *L, const tp_image *image)
{
    int ref = LUA_NOREF;
    for (unsigned i = 0; i < vm->n_cached; i++)
        if (vm->cache[i].image == image)
            ref = vm->cache[i].captured;
    lua_rawgeti(L, LUA_REGISTRYINDEX, ref);
    return tp_captured_at(L, -1);
}

/* Pushes the fields of a failure without an error value and a traceback. */
static void push_failure(const run *r, lua_State *L, tp_failure_kind kind, const char *message)
{
    lua_pushstring(L, tp_failure_kind_name(kind));
    lua_pushstring(L, message);
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushinteger(L, (lua_Integer)r->work->attempt);
    lua_pushinteger(L, r->vm->worker->index);
}

/* Pushes the fields of the failure of an item for which there was no memory. */
static void push_no_memory(const run *r, lua_State *L)
{
    char why[160] = TP_NO_MEMORY, amount[TP_AMOUNT_TEXT];
    if (r->vm->limit.shown)
        snprintf(why, sizeof why,
                 TP_NO_MEMORY ": the option `memory` lets a worker of this function have %s",
                 tp_amount_of_bytes(amount, r->vm->limit.shown));
    push_failure(r, L, TP_KIND_MEMORY, why);
}

/* Stack: value traceback. Pushes the fields of the failure that a function has raised. */
static void push_raised(const run *r, lua_State *L, tp_failure_kind kind)
{
    int top = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->describe);
    lua_pushstring(L, tp_failure_kind_name(kind));
    lua_pushvalue(L, top - 1);
    lua_pushvalue(L, top);
    lua_pushinteger(L, (lua_Integer)r->work->attempt);
    lua_pushinteger(L, r->vm->worker->index);
    lua_call(L, 5, LUA_MULTRET);
    if (lua_gettop(L) == top)
        push_no_memory(r, L);
}

/* Stack: value traceback. Pushes the fields of a failure that no function has raised: the value is
 * a text of LuaJIT's or of ours. */
static void push_hosts(const run *r, lua_State *L, tp_failure_kind kind)
{
    lua_pushvalue(L, -2);
    bool is_memory = tp_codec_is_memory_error(L, 0);
    lua_pop(L, 1);
    const char *text = lua_tostring(L, -2);
    if (is_memory)
        push_no_memory(r, L);
    else
        push_failure(r, L, kind, text ? text : "unknown error");
}

int tp_vm_encode_failure(lua_State *L)
{
    failing *f = lua_touserdata(L, 1);
    tp_vm *vm = f->run->vm;
    tp_error err = { 0 };
    if (f->collects)
        lua_gc(L, LUA_GCCOLLECT, 0);
    bool is_raised = lua_toboolean(L, 2);
    lua_remove(L, 2);                                // f value traceback
    if (is_raised)
        push_raised(f->run, L, f->kind);
    else
        push_hosts(f->run, L, f->kind);
    lua_remove(L, 2);
    lua_remove(L, 2);                    // f kind message value traceback attempt worker
    f->block->may_retry = tp_failure_kind_may_retry(tp_failure_kind_named(lua_tostring(L, 2)));
    int n = lua_gettop(L) - 1;
    tp_captured *captured = tp_vm_push_captured(vm, L, f->run->work->terms->image);
    if (tp_encode_with(L, 2, n, NULL, TP_ENCODE_ERROR_VALUE | f->run->work->sink->encoding,
                       captured, &f->block->bytes, &err) &&
        err.code != TP_EMEMORY) {
        lua_pushnil(L);
        lua_replace(L, 4);                           // the value cannot travel: the message stays
        err = (tp_error){ 0 };
        tp_encode_with(L, 2, n, NULL, TP_ENCODE_ERROR_VALUE | f->run->work->sink->encoding,
                       captured, &f->block->bytes, &err);
    }
    if (err.code != TP_OK)
        return tp_codec_raise(L, &err);
    tp_block_add(f->block);
    return 0;
}

/* Encodes the three values of open_error at the top of L. NULL with the reason pushed, or nil when
 * there is no memory for a block. Raises nothing, and allocates only inside a protected call. */
static tp_block *try_to_describe(failing *f, lua_State *L)
{
    int raised = lua_gettop(L) - 2;
    f->block = tp_block_new_empty_failure();
    if (!f->block) {
        lua_pushnil(L);
        return NULL;
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->run->vm->encode_failure);
    lua_pushlightuserdata(L, f);
    for (int i = 0; i < 3; i++)
        lua_pushvalue(L, raised + i);
    if (lua_pcall(L, 4, 0, 0) == 0)
        return f->block;
    tp_block_free(f->block);
    return NULL;
}

/* Makes the failure of item work->at from the error at the top of L, which is popped. Tries twice,
 * since there may be memory the second time; an error that cannot be described (the stack is full)
 * fails with the reason for that instead. NULL when there is no memory. */
static tp_block *describe_failure(run *r, lua_State *L, tp_failure_kind kind)
{
    int top = lua_gettop(L) - 1;
    failing f = { .run = r, .kind = kind };
    open_error(L);
    tp_block *b = try_to_describe(&f, L);
    if (!b) {
        lua_pop(L, 1);
        f.collects = true;
        b = try_to_describe(&f, L);
    }
    if (!b) {
        const char *message = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1)
                                                             : "error in error handling";
        tp_failure_kind shown = tp_codec_is_memory_error(L, 0) ? TP_KIND_MEMORY : kind;
        b = tp_block_new_failure(shown, message, r->work->attempt, r->vm->worker->index);
        if (b)
            b->may_retry = tp_failure_kind_may_retry(shown);
    }
    lua_settop(L, top);
    return b;
}

void tp_vm_fail_item(run *r, lua_State *L, tp_failure_kind kind)
{
    tp_block *b = describe_failure(r, L, kind);
    tp_work_fail(r->work, b);
}
