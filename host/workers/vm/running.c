/* running.c: runs work in the state, in one protected call until an item raises. */
#include "codec/scalar.h"
#include "workers/lines.h"
#include "workers/vm/vm_private.h"

#include <string.h>

void tp_vm_note_begin(run *r, uint32_t offset, uint32_t count)
{
    r->begun = offset;
    tp_work_note(r->work, r->is_beside ? TP_EVENT_ITEM : TP_EVENT_BEGIN, offset, count);
}

void tp_vm_note_end(run *r, uint32_t until)
{
    if (r->begun != RUNS_NOTHING)
        tp_work_note(r->work, r->is_beside ? TP_EVENT_ITEM_END : TP_EVENT_END, r->begun,
                     until - r->begun);
    r->begun = RUNS_NOTHING;
}

/* Pushes an element of a column. lua_pushnumber makes a NaN's bits canonical. */
static void push_element(tp_vm *vm, lua_State *L, const tp_block *b, uint32_t c, uint32_t at)
{
    const void *column = b->column[c];
    switch (b->type[c]) {
    case TP_MIXED: tp_scalar_push(L, b, &((const tp_scalar *)column)[at]); break;
    default: lua_pushnumber(L, tp_element_load((tp_type)b->type[c], column, at)); break;
    case TP_INT64: /* a cdata, which only Lua code can make */
    case TP_UINT64:
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->read_integer);
        lua_pushlightuserdata(L, (void *)column);
        lua_pushnumber(L, at);
        lua_pushboolean(L, b->type[c] == TP_INT64);
        lua_call(L, 3, 1);
    }
}

int tp_vm_push_arguments(run *r, lua_State *L, uint32_t at)
{
    const tp_block *b = r->work->block;
    if (b->kind == TP_BLOCK_COLUMNS) {
        luaL_checkstack(L, (int)b->columns, "too many arguments");
        for (uint32_t c = 0; c < b->columns; c++)
            push_element(r->vm, L, b, c, at);
        return (int)b->columns;
    }
    tp_error err;
    tp_error_clear(&err);
    size_t len;
    const uint8_t *message = tp_block_message(b, at, &len);
    int n = tp_decode_with(L, message, len, b->bytes.refs, b->bytes.nrefs, TP_DECODE_TRUSTED,
                           r->captured, &err);
    if (n < 0)
        tp_codec_raise(L, &err);
    return n;
}

/* Makes the block for the results of the items from w->at to `end`: in the arrays of `returns`, in
 * columns of its own, or for a job without results a block that only counts. */
static tp_block *new_output(const run *r, const outputs *out, uint32_t end, uint32_t text)
{
    const tp_work *w = r->work;
    const tp_returns *returns = &w->terms->returns;
    bool has_columns = out->is_kept && (!out->is_promised || !returns->array[0]);
    if (w->sink->new_columns)
        return w->sink->new_columns(r->work, end - w->at, out->is_kept ? out->columns : 0,
                                    out->type, text);
    if (!out->is_kept)
        return tp_block_new_empty(TP_BLOCK_DONE, 0, 0);
    if (has_columns)
        return tp_block_new_columns(end - w->at, out->columns, out->type, text);
    return tp_returns_block(returns, w->block->first + w->at, 0);
}

/* The item's results could not be encoded: it fails with the reason, behind the place of its
 * function, since no line of it has raised anything. */
static void refuse_results(run *r, lua_State *L, const tp_error *err)
{
    const tp_terms *terms = r->work->terms;
    tp_failure_kind kind = tp_failure_kind_of(err->code, TP_KIND_CODEC);
    if (kind == TP_KIND_CODEC) {
        lua_Debug ar;
        lua_rawgeti(L, LUA_REGISTRYINDEX, tp_vm_load(r->vm, L, terms->image)->fn);
        lua_getinfo(L, ">S", &ar);
        if (ar.linedefined > 0) /* it is no C function */
            lua_pushfstring(L, "%s:%d", ar.short_src, ar.linedefined);
        else
            lua_pushliteral(L, "");
        const char *place = lua_tostring(L, -1); /* the name of a function without one, too */
        bool is_named = strcmp(place, terms->name) != 0;
        lua_pushfstring(L, "%s%s%s: %s", place, *place && is_named ? ": " : "",
                        is_named ? terms->name : "", err->message);
        lua_remove(L, -2);
    } else {
        lua_pushstring(L, err->message);
    }
    tp_vm_fail_item(r, L, kind);
}

/* The loop could not store the results of item w->at, which are the n values from `first` on.
 * Either they break the promise of `returns`, or they are encoded, as are those of the rest of the
 * work. */
static void keep_held(run *r, lua_State *L, int first, int n, bool is_promised)
{
    tp_work *w = r->work;
    tp_error err = { 0 };
    if (is_promised) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->broken_promise);
        lua_rawgeti(L, LUA_REGISTRYINDEX, tp_vm_load(r->vm, L, w->terms->image)->fn);
        lua_pushvalue(L, first - 1);
        lua_pushlightuserdata(L, (void *)w->terms->returns.type);
        lua_pushinteger(L, (lua_Integer)w->terms->returns.columns);
        lua_call(L, 4, 1);
        tp_vm_fail_item(r, L, TP_KIND_ERROR);
    } else if (tp_vm_keep_results(r, L, first, n, &err)) {
        refuse_results(r, L, &err);
    } else {
        w->at++;
    }
}

/* The last block of scalars is full or done. The size of its strings predicts that of the next
 * block; if its one column has only numbers, the function is expected to return numbers. */
static void learn_shape(loaded *f, const tp_block *b)
{
    f->text = b->text.used / b->n;
    const tp_scalar *x = b->column[0];
    if (b->columns > 1 || x[b->n - 1].kind != TP_SCALAR_NUMBER)
        return;
    for (uint32_t i = 0; i < b->n; i++)
        if (x[i].kind != TP_SCALAR_NUMBER)
            return;
    f->shape = SHAPE_NUMBER;
}

/* Makes a block for the results from item w->at on, which becomes the work's `numbers`. If n is not
 * negative, the item's own n results, from `first` on, are stored in it first. Raises out of
 * memory. */
static void open_output(run *r, lua_State *L, const loaded *f, const outputs *out, int first, int n,
                        uint32_t text)
{
    tp_work *w = r->work;
    uint32_t items = r->end - w->at;
    uint64_t most = (uint64_t)items * (f->text + f->text / 4 + TEXT_OF_ITEM) + TEXT_MIN + text;
    bool has_text = out->columns > 0 && out->type[0] == TP_MIXED;
    tp_block *b = new_output(r, out, r->end,
                             !has_text                   ? 0
                             : most < TP_BLOCK_BYTES_MAX ? (uint32_t)most
                                                         : TP_BLOCK_BYTES_MAX);
    if (!b)
        tp_codec_raise_memory(L);
    for (int c = 0; n >= 0 && c < (int)out->columns; c++) {
        tp_scalar *to = b->column[c];
        to->kind = TP_SCALAR_ABSENT;
        if (c < n)
            tp_scalar_store(L, first + c, b, to);
    }
    tp_work_begin_item(r->work);
    w->numbers_at = w->at;
    w->numbers = b;
}

/* Makes the item at `at`, if there is one, the running one. False when it must be left for others,
 * or there is none. See `ctl`: that is asked once the others may know which one runs. */
static bool begin_next(tp_work *w)
{
    if (w->at >= tp_work_end(w))
        return false;
    tp_work_begin_item(w);
    return !tp_work_is_asked_to_stop(w);
}

/* Runs items through specialised loops. True when the work is over; false when an item's results
 * were not scalars (they have been stored) and the rest must be run one by one. */
static bool run_columns(run *r, lua_State *L)
{
    tp_work *w = r->work;
    tp_block *in = w->block;
    /* results of the loop that wait for a block, at top + 2..; -1: none */
    int top = lua_gettop(L), held = -1;
    uint32_t text = 0;
    while (w->at < r->end && (held >= 0 || !tp_work_is_asked_to_stop(r->work))) {
        /* again, since nested items may have pushed it out of the cache */
        loaded *f = tp_vm_load(r->vm, L, w->terms->image);
        if (held >= 0 && f->shape < (unsigned)held)
            f->shape = (unsigned)held;
        if (held >= 0 && f->shape == SHAPE_NUMBER)
            f->shape = 1;
        outputs out = tp_vm_outputs_of(w->terms, f);
        open_output(r, L, f, &out, top + 2, held, text);
        uint32_t from = w->at + (held >= 0);
        /* the item whose results wait is done */
        atomic_store_explicit(&w->ctl[0], (int32_t)from, memory_order_relaxed);
        lua_settop(L, top);
        tp_vm_push_specialised(r->vm, L, f, w->terms->name, in, &out);
        lua_pushlightuserdata(L, (void *)w->ctl);
        lua_pushlightuserdata(L, in->column);
        lua_pushlightuserdata(L, &in->text);
        lua_pushlightuserdata(L, w->numbers->column);
        lua_pushlightuserdata(L, &w->numbers->text);
        lua_pushnumber(L, w->at);
        lua_pushnumber(L, from);
        lua_pushnumber(L, r->end);
        tp_vm_note_begin(r, from, r->end - from);
        tp_work_expose(w);
        lua_call(L, 8, 2); // next results
        tp_work_cover(w);
        tp_block *b = w->numbers;
        uint32_t next = (uint32_t)lua_tonumber(L, -2);
        tp_vm_note_end(r, next + !lua_isnil(L, -1));
        tp_work_close_numbers(w, next);
        bool is_mixed = out.columns > 0 && out.type[0] == TP_MIXED && w->at > w->numbers_at;
        if (is_mixed || !lua_isnil(L, -1))
            f = tp_vm_load(r->vm, L, w->terms->image);
        if (is_mixed)
            learn_shape(f, b);
        if (lua_isnil(L, -1))
            return true;
        tp_work_begin_item(r->work);
        lua_replace(L, top + 1);                     // results
        lua_settop(L, top + 1);
        lua_getfield(L, -1, "n");
        int n = (int)lua_tointeger(L, -1);
        lua_pop(L, 1);
        luaL_checkstack(L, n + 10, "too many results");
        for (int i = 1; i <= n; i++)
            lua_rawgeti(L, top + 1, i);              // results v1 .. vn
        int64_t size = out.is_promised || n > TP_COLUMNS_MAX ? -1
                                                             : tp_scalar_measure(L, top + 2, n);
        held = -1;
        if (size >= 0) {
            held = n;
            text = (uint32_t)size;
            continue;
        }
        keep_held(r, L, top + 2, n, out.is_promised);
        if (!out.is_promised) {
            f = tp_vm_load(r->vm, L, w->terms->image);
            f->shape = SHAPE_ANY;
            return !begin_next(w);
        }
        lua_settop(L, top);
    }
    return true;
}

/* Stores the results of an item of a function that has promised what it returns, when it is run one
 * by one: the n values at first.. become the numbers of a block of one item, which is then over. -1
 * with the error value pushed when they are not what was promised. Raises out of memory. */
static int store_results(run *r, lua_State *L, int first, int n)
{
    tp_work *w = r->work;
    const tp_returns *returns = &w->terms->returns;
    outputs out = { returns->columns, returns->type, .is_kept = true, .is_promised = true };
    tp_block *b = new_output(r, &out, w->at + 1, 0);
    if (!b)
        tp_codec_raise_memory(L);
    w->numbers = b; /* the work owns the block; ctl[0] says that the item is not over */
    w->numbers_at = w->at;
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->store);
    lua_rawgeti(L, LUA_REGISTRYINDEX, tp_vm_load(r->vm, L, w->terms->image)->fn);
    lua_pushlightuserdata(L, b->column);
    lua_pushlightuserdata(L, (void *)returns->type);
    lua_pushinteger(L, (lua_Integer)returns->columns);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, first + i);
    lua_call(L, 4 + n, 1); // nil, or the error value
    bool is_stored = lua_isnil(L, -1);
    tp_work_close_numbers(w, w->at + is_stored);
    return is_stored ? 0 : -1;
}

void tp_vm_store_item(run *r, lua_State *L, int first, int n)
{
    tp_work *w = r->work;
    tp_error err;
    tp_error_clear(&err);
    if (w->terms->returns.columns > 0 && !w->terms->discards) {
        if (store_results(r, L, first, n))
            tp_vm_fail_item(r, L, TP_KIND_ERROR);
    } else if (tp_vm_keep_results(r, L, first, n, &err)) {
        refuse_results(r, L, &err);
    } else {
        w->at++;
    }
}

/* (i) -> the arguments of the i-th item of the batch that begins at w->at. Upvalue: the run. Raises
 * when they cannot be decoded. */
static int read_item(lua_State *L)
{
    run *r = lua_touserdata(L, lua_upvalueindex(1));
    return tp_vm_push_arguments(r, L, r->work->at + (uint32_t)luaL_checkinteger(L, 1) - 1);
}

/* Runs the items of a batch, or all that are left: worker.lua calls the function at `fn` with lists
 * of their arguments, and returns the result or failure of each. Raises out of memory. */
static void run_batch(run *r, lua_State *L, int fn)
{
    tp_work *w = r->work;
    uint32_t n = r->end - w->at < w->terms->batch ? r->end - w->at : w->terms->batch;
    tp_vm_note_begin(r, w->at, n);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->run_batch);
    lua_pushvalue(L, fn);
    lua_pushstring(L, w->terms->name);
    lua_pushnumber(L, n);
    lua_pushlightuserdata(L, r);
    lua_pushcclosure(L, read_item, 1);
    lua_pushboolean(L, w->terms->splits);
    lua_call(L, 5, 2);                               // results failures
    tp_vm_note_end(r, w->at + n);
    int failures = lua_gettop(L), results = failures - 1;
    uint32_t until = w->at + n, at = w->at;
    /* when there is no memory for a failure, the item stays the next one */
    for (int i = 1; at < until && w->at == at; i++, at++) {
        tp_work_begin_item(w);
        lua_rawgeti(L, failures, i);                 // failure or nil
        if (!lua_isnil(L, -1)) {
            tp_vm_fail_item(r, L, TP_KIND_ERROR);
            continue;
        }
        lua_rawgeti(L, results, i);                  // nil values
        lua_getfield(L, -1, "n");
        int count = (int)lua_tointeger(L, -1), first = failures + 3;
        lua_pop(L, 1);
        luaL_checkstack(L, count + 10, "too many results");
        for (int k = 1; k <= count; k++)
            lua_rawgeti(L, failures + 2, k);
        tp_vm_store_item(r, L, first, count);
        lua_settop(L, failures);
    }
    tp_lines_end(r->vm->worker, w);
}

/* Starts the collector again if an item has stopped it; each item of the next work may stop it
 * again before it does anything else. Raises out of memory. */
static void restart_collector(tp_vm *vm, lua_State *L)
{
    if (lua_gc(L, LUA_GCISRUNNING, 0))
        return;
    lua_gc(L, LUA_GCRESTART, -1);
    if (lua_gc(L, LUA_GCCOUNT, 0) > 2 * vm->collected_kib + 4096) {
        lua_gc(L, LUA_GCCOLLECT, 0);
        vm->collected_kib = lua_gc(L, LUA_GCCOUNT, 0);
    }
}

/* A collection of a small heap costs what marking the libraries' objects costs, so such a heap may
 * grow to 2.5 times its size before the next one; a large one to twice its size, which is LuaJIT's
 * default. Not to more: what is dead and not yet swept makes the table of strings outgrow the
 * processor's caches, and its chains long (with 4 times, a function that makes many short strings
 * took twice as long). The steps are five times LuaJIT's, so that a collection is soon over, while
 * what it touches is in the caches. bench/garbage.lua compares. An item may have changed both. */
static void set_pause(lua_State *L)
{
    lua_gc(L, LUA_GCSETPAUSE, lua_gc(L, LUA_GCCOUNT, 0) < SMALL_HEAP_KIB ? 250 : 200);
    lua_gc(L, LUA_GCSETSTEPMUL, 1000);
}

loaded *tp_vm_prepare(run *r, lua_State *L)
{
    tp_work *w = r->work;
    /* again, since an error may have left `load` */
    tp_draws_open(&w->draws, w->terms->draws, w->block->first);
    restart_collector(r->vm, L);
    if (tp_vm_should_collect(r->vm))
        lua_gc(L, LUA_GCCOLLECT, 0);
    set_pause(L);
    loaded *f = tp_vm_load(r->vm, L, w->terms->image);
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->changes);
    tp_standard_apply(L, r->vm->standard);
    if (f->fn < 0) {
        tp_work_begin_item(r->work);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->error);
        tp_vm_forget(r->vm, f); /* so that the next item tries again: a module may load then */
        *f = r->vm->cache[--r->vm->n_cached];
        lua_error(L);
    }
    if (f->setups != LUA_REFNIL) {
        tp_work_begin_item(r->work);
        tp_vm_set_up(r->vm, L, w->terms->image);
        f = tp_vm_load(r->vm, L, w->terms->image);
    }
    return f;
}

int tp_vm_run_items(lua_State *L)
{
    run *r = lua_touserdata(L, 1);
    tp_work *w = r->work;
    loaded *f = tp_vm_prepare(r, L);
    bool is_promised = w->terms->returns.columns > 0;
    bool may_change = f->may_change;
    r->captured =
        tp_vm_push_captured(r->vm, L, w->terms->image); /* stays on the stack, and so alive */
    bool is_driven = w->block->kind == TP_BLOCK_COLUMNS && !w->terms->batch && !w->terms->streams &&
                     !may_change;
    if (is_driven && (is_promised || w->terms->discards || f->shape != SHAPE_ANY) &&
        run_columns(r, L))
        return 0;
    f = tp_vm_load(r->vm, L, w->terms->image);
    /* stays on the stack, since nested items may push f out of the cache */
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn);
    int fn = lua_gettop(L);
    /* an item for whose failure there is no memory is not over, but the work is asked to stop */
    for (bool is_first = true; w->at < r->end; is_first = false) {
        tp_work_begin_item(w);
        if (!is_first && tp_work_is_asked_to_stop(w))
            break;
        if (w->terms->batch) {
            run_batch(r, L, fn);
        } else {
            tp_vm_note_begin(r, w->at, 1);
            lua_pushvalue(L, fn);
            int n = tp_vm_push_arguments(r, L, w->at);
            tp_work_expose(w);
            lua_call(L, n, LUA_MULTRET);
            tp_work_cover(w);
            tp_vm_note_end(r, w->at + 1);
            tp_vm_store_item(r, L, fn + 1, lua_gettop(L) - fn);
            tp_lines_end(r->vm->worker, w);
        }
        lua_settop(L, fn);
        if (may_change)
            tp_vm_take_back(r->vm, L);
    }
    if (r->only_scalars && r->end - w->offset >= 16)
        tp_vm_load(r->vm, L, w->terms->image)->shape = r->only_numbers ? SHAPE_NUMBER : 1;
    return 0;
}

/* (worker): waits for the calls that items of its work have spawned */
static int call_finish_kept(lua_State *L)
{
    const tp_worker *worker = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, worker->vm->finish_kept);
    lua_pushlightuserdata(L, worker->current);
    lua_call(L, 1, 0);
    return 0;
}

static void finish_kept(tp_vm *vm, lua_State *L)
{
    if (lua_cpcall(L, call_finish_kept, vm->worker))
        lua_pop(L, 1); /* no memory to wait: the spawned calls are collected, and so cancelled */
}

int tp_vm_take_back_protected(lua_State *L)
{
    tp_vm_take_back(lua_touserdata(L, 1), L);
    return 0;
}

int tp_vm_pause_protected(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    tp_standard_pause(L, vm->standard);
    tp_vm_take_back(vm, L);
    return 2;
}

int tp_vm_resume_protected(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    tp_standard_resume(L, vm->standard);
    return 0;
}

void tp_vm_call_protected(tp_vm *vm, lua_State *L, int fn, int n, int results)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, fn);
    lua_pushlightuserdata(L, vm);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, -n - 2);
    if (lua_pcall(L, 1 + n, results, 0))
        lua_pop(L, 1);
}

void tp_vm_end_in_error(run *r, lua_State *L, int status)
{
    tp_work *w = r->work;
    tp_vm *vm = r->vm;
    tp_work_cover(w);
    if (w->numbers)
        tp_work_close_numbers(w, (uint32_t)tp_work_running(w));
    tp_vm_note_end(r, w->at + 1);
    vm->wants_collection |= status == LUA_ERRMEM;
    if (!tp_vm_is_as_expected(vm, L))
        tp_vm_call_protected(vm, L, vm->restore, 0, 0);
    if (w->at < r->end)
        tp_vm_fail_item(r, L, status == LUA_ERRMEM ? TP_KIND_MEMORY : TP_KIND_ERROR);
    else
        lua_pop(L, 1);
}

scope tp_vm_open_scope(tp_vm *vm, lua_State *L)
{
    scope s = { .outside = lua_gettop(L), .is_nested = vm->is_running };
    if (s.is_nested && (vm->standard->applied || !tp_vm_is_as_expected(vm, L)))
        tp_vm_call_protected(vm, L, vm->pause, 0, 2);
    s.top = lua_gettop(L);
    vm->is_running = true;
    return s;
}

void tp_vm_close_scope(tp_vm *vm, lua_State *L, const scope *s)
{
    vm->is_running = s->is_nested;
    if (s->top > s->outside)
        tp_vm_call_protected(vm, L, vm->resume, 2, 0);
    lua_settop(L, s->outside);
}

run tp_vm_run_of(tp_vm *vm, tp_work *w)
{
    return (run){ .vm = vm,
                  .work = w,
                  .end = tp_work_end(w),
                  .begun = RUNS_NOTHING,
                  .only_numbers = true,
                  .only_scalars = true };
}

void tp_vm_run(tp_vm *vm, tp_work *w)
{
    lua_State *L = vm->L;
    run r = tp_vm_run_of(vm, w);
    scope s = tp_vm_open_scope(vm, L);
    if (w->block->kind == TP_BLOCK_FAILURE)
        tp_work_pass_failure(w);
    while (begin_next(w)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->on_error);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->run_items);
        lua_pushlightuserdata(L, &r);
        int status = lua_pcall(L, 1, 0, s.top + 1);
        if (status == 0)
            break;
        tp_vm_end_in_error(&r, L, status);
        lua_settop(L, s.top);
        if (!s.is_nested) /* so that no module is being loaded now */
            tp_codec_forget_loading(L, 0);
    }
    lua_settop(L, s.top);
    if (!tp_vm_is_as_expected(vm, L))
        tp_vm_call_protected(vm, L, vm->restore, 0, 0);
    if (w->has_kept)
        finish_kept(vm, L);
    tp_vm_close_scope(vm, L, &s);
    tp_lines_end(vm->worker, w);
}
