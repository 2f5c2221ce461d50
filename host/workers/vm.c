/* vm.c: the Lua state of a worker.
 *
 * Work is run by one protected call. Columns go through a specialised loop, which is made for each
 * function in Lua (engine/specialise.lua) and compiled: it reads and writes the blocks' memory, so
 * that an item costs no call into C. All other items are decoded, called and encoded here, one by
 * one. An error ends the protected call; the item that raised it gets a failure and the rest runs
 * in another protected call, so that only failures cost extra. */
#include "workers/vm.h"

#include "base/lua_modules.h"
#include "codec/captured.h"
#include "codec/scalar.h"
#include "codec/standard.h"
#include "workers/lines.h"
#include "workers/state.h"
#include "workers/texts.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

enum {
    CACHED_MAX = 64,
    TEXT_MIN = 4096,
    TEXT_OF_ITEM = 32,
    SMALL_HEAP_KIB = 4096
};

/* The results that a function is expected to have, judging by earlier ones: one number each, up to
 * so many scalars each, or anything. */
enum { SHAPE_NUMBER = 0, SHAPE_ANY = TP_COLUMNS_MAX + 1 };

enum { RUNS_NOTHING = UINT32_MAX };

_Static_assert(4 * CACHED_MAX <= TP_STATE_REFERENCES, "a loaded function has up to four");

/* A function that the state has loaded. */
typedef struct loaded {
    tp_image *image; /* held */
    /* reference in the registry; LUA_NOREF: it could not be loaded, and the reference `error` says
     * why */
    int fn;
    int error;
    /* reference: its specialised loops by signature, see push_specialised; LUA_NOREF: none yet */
    int specialised;
    /* reference: what must be run before its first item; LUA_REFNIL: nothing, or it has been */
    int setups;
    /* reference: changes to standard libraries that apply while it runs (standard.h); LUA_REFNIL:
     * none */
    int changes;
    int captured;    /* reference: the captured tables of its image, a tp_captured */
    /* it may change standard libraries, so that they are checked after each of its items */
    bool may_change;
    unsigned shape;   /* SHAPE_*; from 1 on: the number of columns of scalars */
    unsigned text;    /* average bytes of strings per item in the last block of scalars */
    uint64_t used;    /* tick of the last use */
} loaded;

struct tp_vm {
    tp_worker *worker;
    lua_State *main; /* owned */
    lua_State *L;    /* where items run: main, or the coroutine that waits */
    int pause, resume, restore, run_items, on_error, add_traceback, box, encode_failure, describe,
        specialise, read_integer, broken_promise, store, run_batch, finish_kept, leave, begin_item,
        begin, keep, reset, turn, package, collect; /* registry references */
    loaded cache[CACHED_MAX];
    unsigned n_cached;
    uint64_t tick;
    tp_standard *standard; /* the record of changes to the state's standard libraries */
    /* points into a cdata that the state keeps alive; not 0 when worker.lua has something to undo
     * after the item */
    int32_t *marks;
    int take_back;     /* reference: worker.lua's function that does that */
    int set_hook;      /* reference: debug.sethook */
    int set_up;        /* reference: worker.lua's function that runs setups */
    bool is_running;   /* an item is running */
    const tp_work *beginning; /* the work whose item is being begun as a coroutine; NULL: none */
    bool wants_collection; /* memory ran out: collect before the next item */
    tp_limit limit;    /* `bytes` is 0 when there is no limit */
    int collected_kib; /* memory in use after the last forced collection, see restart_collector */
    /* while tracing: when the running coroutine item was resumed (uv_hrtime), and the thread's
     * processor time then; 0: none runs */
    uint64_t step_ns, step_processor_ns;
};

/* Work that is being run in the state. */
typedef struct run {
    tp_vm *vm;
    tp_work *work;
    uint32_t end; /* offset behind the last item, in the input block */
    /* of the function, kept alive by run_items on the stack; NULL: it captures no tables */
    tp_captured *captured;
    /* offset of the first of the items that are being run in one go, see `begin`; RUNS_NOTHING:
     * none */
    uint32_t begun;
    /* its item is a coroutine (`concurrent_inputs`), which engine/loop.lua resumes */
    bool is_beside;
    bool only_numbers, only_scalars; /* each result encoded so far was one number; was scalars */
} run;

/* ---- the state's memory ---- */

uint64_t tp_vm_used(const tp_vm *vm)
{
    return tp_state_used(vm->main);
}

void tp_vm_limit(tp_vm *vm, uint64_t bytes, uint64_t shown, _Atomic uint32_t *refused,
                 const _Atomic int32_t *item)
{
    vm->wants_collection |= vm->limit.has_refused;
    tp_limit_end(&vm->limit);
    if (bytes)
        tp_limit_begin(&vm->limit, vm->main, bytes, shown, refused, item);
}

static int collect(lua_State *L)
{
    lua_gc(L, LUA_GCCOLLECT, 0);
    return 0;
}

void tp_vm_collect(tp_vm *vm)
{
    if (lua_cpcall(vm->main, collect, NULL))
        lua_pop(vm->main, 1);
}

/* Has memory run out since this was last asked? Then what the items have left is to be collected,
 * or it would count against the next ones. An item may have caught that error, or been told of it
 * by a coroutine as of any other. */
static bool should_collect(tp_vm *vm)
{
    bool should = vm->wants_collection || vm->limit.has_refused;
    vm->wants_collection = vm->limit.has_refused = false;
    return should;
}

/* ---- results ---- */

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

/* Stores the values first.. of L as the item's results. Raises out of memory. */
static int keep_results(run *r, lua_State *L, int first, int n, tp_error *err)
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

/* ---- failures ---- */

/* () -> the traceback of the code that raised, without this function and the message handler */
static int add_traceback(lua_State *L)
{
    luaL_traceback(L, L, NULL, 2);
    return 1;
}

/* Message handler: (error value) -> the state's box { value, traceback }. The box exists
 * beforehand, and without memory the traceback is left out, so that the raised value is never lost
 * here. */
static int on_error(lua_State *L)
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

/* Pushes the captured tables of an image that the state has loaded; NULL if it has none. */
static tp_captured *push_captured(tp_vm *vm, lua_State *L, const tp_image *image)
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
    char why[160] = TP_NO_MEMORY;
    if (r->vm->limit.shown)
        snprintf(why, sizeof why,
                 TP_NO_MEMORY ": the option `memory` lets a worker of this function have %.4g MiB",
                 (double)r->vm->limit.shown / (1 << 20));
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

/* (failing, is raised, value, traceback): describes the error and encodes it into the block. */
static int encode_failure(lua_State *L)
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
    tp_captured *captured = push_captured(vm, L, f->run->work->terms->image);
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

/* Pops the error value at the top of L and makes it the failure of item work->at, which is over
 * then (tp_work_fail). */
static void fail_item(run *r, lua_State *L, tp_failure_kind kind)
{
    tp_block *b = describe_failure(r, L, kind);
    tp_work_fail(r->work, b);
}

/* ---- functions ---- */

static void forget(tp_vm *vm, loaded *f)
{
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->fn);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->error);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->specialised);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->changes);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->setups);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->captured);
    tp_ref_drop(f->image);
}

/* A free entry of the cache, if need be that of the function that was used longest ago. */
static loaded *make_room(tp_vm *vm)
{
    if (vm->n_cached < CACHED_MAX)
        return &vm->cache[vm->n_cached++];
    loaded *oldest = &vm->cache[0];
    for (loaded *f = vm->cache; f < vm->cache + CACHED_MAX; f++)
        if (f->used < oldest->used)
            oldest = f;
    forget(vm, oldest);
    return oldest;
}

/* Pops package.cpath and package.path, which are the caller's, and sets them. */
static void set_paths(tp_vm *vm, lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->package); // path cpath package
    lua_insert(L, -3);                              // package path cpath
    lua_setfield(L, -3, "cpath");
    lua_setfield(L, -2, "path");
    lua_pop(L, 1);
}

/* Undoes what items have changed in the state apart from their results: the hook, standard
 * libraries, and what worker.lua has noted. Raises out of memory; then it may be called again. */
static void take_back(tp_vm *vm, lua_State *L)
{
    if (lua_gethookmask(L)) {
        lua_sethook(L, NULL, 0, 0); /* first, so that the hook does not run in the code below */
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->set_hook);
        lua_call(L, 0, 0);
    }
    if (tp_standard_is_changed(vm->standard))
        tp_standard_restore(L, vm->standard);
    if (*vm->marks) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->take_back);
        lua_call(L, 0, 0);
    }
}

static bool is_as_expected(tp_vm *vm, lua_State *L)
{
    return !lua_gethookmask(L) && !*vm->marks && !tp_standard_is_changed(vm->standard);
}

/* Every loader of a module is called through this function: what a module changes in standard
 * libraries while it loads is kept. Upvalues: vm, the loader. */
static int load_module(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, lua_upvalueindex(1));
    int n = lua_gettop(L);
    /* NULL: the state is being opened */
    bool is_watched = vm->standard && !tp_standard_is_changed(vm->standard);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    if (is_watched && tp_standard_is_changed(vm->standard))
        tp_standard_adopt(L, vm->standard);
    return lua_gettop(L);
}

/* Takes the place of a function in package.loaders: returns what that one returns, with the loader
 * wrapped by load_module. Upvalues: vm, the function. */
static int find_module(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, 1, LUA_MULTRET);
    if (lua_isfunction(L, 1)) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushvalue(L, 1);
        lua_pushcclosure(L, load_module, 2);
        lua_replace(L, 1);
    }
    return lua_gettop(L);
}

static void wrap_loaders(tp_vm *vm, lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = 1, n = (int)lua_objlen(L, -1); i <= n; i++) {
        lua_pushlightuserdata(L, vm);
        lua_rawgeti(L, -2, i);
        lua_pushcclosure(L, find_module, 2);
        lua_rawseti(L, -2, i);
    }
    lua_pop(L, 2);
}

/* Decodes the function of an image. What modules that it needs change in standard libraries is
 * kept. */
static loaded decode_image(tp_vm *vm, lua_State *L, tp_image *image)
{
    loaded made = { .fn = LUA_NOREF,
                    .error = LUA_NOREF,
                    .specialised = LUA_NOREF,
                    .changes = LUA_REFNIL,
                    .setups = LUA_REFNIL,
                    .captured = LUA_NOREF,
                    .used = ++vm->tick };
    tp_error err = { 0 };
    const tp_buf *m = &image->message;
    take_back(vm, L);
    /* While modules are loaded, random numbers are the same in every state, and not those of the
     * item that happens to be the state's first. */
    tp_work *w = vm->worker->current;
    tp_draws before = w->draws;
    tp_draws_seed(&w->draws, tp_work_running(w), 0);
    tp_captured *captured = tp_captured_push(L);
    int at = lua_gettop(L);
    if (tp_decode_image(L, m->data, m->len, m->refs, m->nrefs, captured, &err) == TP_IMAGE_VALUES) {
        made.may_change = lua_toboolean(L, -1); // fn path cpath setups changes may_change
        lua_pop(L, 1);
        made.changes = luaL_ref(L, LUA_REGISTRYINDEX);
        made.setups = luaL_ref(L, LUA_REGISTRYINDEX);
        set_paths(vm, L);
        made.fn = luaL_ref(L, LUA_REGISTRYINDEX);
    } else if (err.code == TP_EMEMORY) {
        tp_codec_raise_memory(L);
    } else {
        lua_pushstring(L, err.message);
        made.error = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_settop(L, at);
    if (made.fn >= 0 && tp_captured_count(captured) > 0)
        made.captured = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_settop(L, at - 1);
    w->draws = before;
    if (tp_standard_is_changed(vm->standard))
        tp_standard_adopt(L, vm->standard);
    return made;
}

/* Finds the function of the image in the cache, or loads it. Raises only out of memory. */
static loaded *load(tp_vm *vm, lua_State *L, tp_image *image)
{
    for (unsigned i = 0; i < vm->n_cached; i++)
        if (vm->cache[i].image == image) {
            vm->cache[i].used = ++vm->tick;
            return &vm->cache[i];
        }
    loaded made = decode_image(vm, L, image);
    made.image = tp_ref_hold(image);
    loaded *f = make_room(vm);
    *f = made;
    return f;
}

/* Runs what must be run before the first item of an image's function. Its changes to standard
 * libraries are kept. Raises what it raises. */
static void set_up(tp_vm *vm, lua_State *L, tp_image *image)
{
    int setups = load(vm, L, image)->setups;
    if (setups == LUA_REFNIL)
        return;
    tp_work *w = vm->worker->current;
    tp_draws before = w->draws; /* as in decode_image */
    tp_draws_seed(&w->draws, tp_work_running(w), 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, vm->set_up);
    lua_rawgeti(L, LUA_REGISTRYINDEX, setups);
    lua_call(L, 1, 0);
    w->draws = before;
    if (tp_standard_is_changed(vm->standard))
        tp_standard_adopt(L, vm->standard);
    /* again, since nested items may have pushed it out of the cache */
    loaded *f = load(vm, L, image);
    luaL_unref(vm->main, LUA_REGISTRYINDEX, f->setups);
    f->setups = LUA_REFNIL;
}

/* Where a specialised loop stores results, see new_output. */
typedef struct outputs {
    uint32_t columns;
    const uint8_t *type; /* tp_type or TP_MIXED */
    bool is_kept, is_promised;
} outputs;

static outputs outputs_of(const tp_terms *terms, const loaded *f)
{
    static const uint8_t one_double[] = { TP_DOUBLE };
    static const uint8_t scalars[TP_COLUMNS_MAX] = {
        TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED, TP_MIXED,
    };
    const tp_returns *returns = &terms->returns;
    if (terms->discards)
        return (outputs){ .is_promised = returns->columns > 0 };
    if (returns->columns)
        return (outputs){ returns->columns, returns->type, .is_kept = true, .is_promised = true };
    if (f->shape == SHAPE_NUMBER)
        return (outputs){ 1, one_double, .is_kept = true };
    return (outputs){ f->shape, scalars, .is_kept = true };
}

/* Pushes the specialised loop of f for inputs like those in `in` and these results. A function may
 * have several, by their signatures (block.h): for lists of doubles, for float arrays, ... Raises
 * out of memory. */
static void push_specialised(tp_vm *vm, lua_State *L, loaded *f, const char *name,
                             const tp_block *in, const outputs *out)
{
    char signature[2 * TP_COLUMNS_MAX + 2], *p = signature;
    bool is_foreign = in->capacity == 0; /* the inputs lie in typed arrays of users */
    for (uint32_t c = 0; c < in->columns; c++)
        *p++ = (char)((is_foreign ? TP_SIGN_FOREIGN : TP_SIGN_OWN) + in->type[c]);
    *p++ = out->is_kept ? TP_SIGN_KEPT : TP_SIGN_DROPPED;
    for (uint32_t c = 0; c < out->columns; c++)
        *p++ = (char)(TP_SIGN_OWN + out->type[c]);
    size_t len = (size_t)(p - signature);
    if (f->specialised == LUA_NOREF) {
        lua_newtable(L);
        f->specialised = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->specialised);            // loops
    lua_pushlstring(L, signature, len);
    lua_rawget(L, -2);                                            // loops loop
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->specialise);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->fn);
        lua_pushstring(L, name);
        lua_pushlstring(L, signature, len);
        lua_call(L, 3, 1);                                        // loops loop
        lua_pushlstring(L, signature, len);
        lua_pushvalue(L, -2);
        lua_rawset(L, -4);
    }
    lua_remove(L, -2);                                            // loop
}

/* ---- running ---- */

/* Notes that up to `count` items from that offset on are run in one go. */
static void begin(run *r, uint32_t offset, uint32_t count)
{
    r->begun = offset;
    tp_work_note(r->work, r->is_beside ? TP_EVENT_ITEM : TP_EVENT_BEGIN, offset, count);
}

/* Notes that the items before that offset are over, if any were begun. */
static void end(run *r, uint32_t until)
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

/* Pushes the arguments of the item at that offset; gives how many. */
static int push_arguments(run *r, lua_State *L, uint32_t at)
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

/* The loop could not store the results of item w->at, which are the n values from `first` on.
 * Either they break the promise of `returns`, or they are encoded, as are those of the rest of the
 * work. */
static void keep_held(run *r, lua_State *L, int first, int n, bool is_promised)
{
    tp_work *w = r->work;
    tp_error err = { 0 };
    if (is_promised) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->broken_promise);
        lua_rawgeti(L, LUA_REGISTRYINDEX, load(r->vm, L, w->terms->image)->fn);
        lua_pushvalue(L, first - 1);
        lua_pushlightuserdata(L, (void *)w->terms->returns.type);
        lua_pushinteger(L, (lua_Integer)w->terms->returns.columns);
        lua_call(L, 4, 1);
        fail_item(r, L, TP_KIND_ERROR);
    } else if (keep_results(r, L, first, n, &err)) {
        lua_pushstring(L, err.message);
        fail_item(r, L, tp_failure_kind_of(err.code, TP_KIND_CODEC));
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
        loaded *f = load(r->vm, L, w->terms->image);
        if (held >= 0 && f->shape < (unsigned)held)
            f->shape = (unsigned)held;
        if (held >= 0 && f->shape == SHAPE_NUMBER)
            f->shape = 1;
        outputs out = outputs_of(w->terms, f);
        open_output(r, L, f, &out, top + 2, held, text);
        uint32_t from = w->at + (held >= 0);
        /* the item whose results wait is done */
        atomic_store_explicit(&w->ctl[0], (int32_t)from, memory_order_relaxed);
        lua_settop(L, top);
        push_specialised(r->vm, L, f, w->terms->name, in, &out);
        lua_pushlightuserdata(L, (void *)w->ctl);
        lua_pushlightuserdata(L, in->column);
        lua_pushlightuserdata(L, &in->text);
        lua_pushlightuserdata(L, w->numbers->column);
        lua_pushlightuserdata(L, &w->numbers->text);
        lua_pushnumber(L, w->at);
        lua_pushnumber(L, from);
        lua_pushnumber(L, r->end);
        begin(r, from, r->end - from);
        tp_work_expose(w);
        lua_call(L, 8, 2); // next results
        tp_work_cover(w);
        tp_block *b = w->numbers;
        uint32_t next = (uint32_t)lua_tonumber(L, -2);
        end(r, next + !lua_isnil(L, -1));
        tp_work_close_numbers(w, next);
        bool is_mixed = out.columns > 0 && out.type[0] == TP_MIXED && w->at > w->numbers_at;
        if (is_mixed || !lua_isnil(L, -1))
            f = load(r->vm, L, w->terms->image);
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
            f = load(r->vm, L, w->terms->image);
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
    lua_rawgeti(L, LUA_REGISTRYINDEX, load(r->vm, L, w->terms->image)->fn);
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

/* Item w->at has returned the n values at first.. of L. They are stored, or the reason why they
 * cannot be is its failure. Raises out of memory. */
static void keep_item(run *r, lua_State *L, int first, int n)
{
    tp_work *w = r->work;
    tp_error err;
    tp_error_clear(&err);
    if (w->terms->returns.columns > 0 && !w->terms->discards) {
        if (store_results(r, L, first, n))
            fail_item(r, L, TP_KIND_ERROR);
    } else if (keep_results(r, L, first, n, &err)) {
        lua_pushstring(L, err.message);
        fail_item(r, L, tp_failure_kind_of(err.code, TP_KIND_CODEC));
    } else {
        w->at++;
    }
}

/* (i) -> the arguments of the i-th item of the batch that begins at w->at. Upvalue: the run. Raises
 * when they cannot be decoded. */
static int read_item(lua_State *L)
{
    run *r = lua_touserdata(L, lua_upvalueindex(1));
    return push_arguments(r, L, r->work->at + (uint32_t)luaL_checkinteger(L, 1) - 1);
}

/* Runs the items of a batch, or all that are left: worker.lua calls the function at `fn` with lists
 * of their arguments, and returns the result or failure of each. Raises out of memory. */
static void run_batch(run *r, lua_State *L, int fn)
{
    tp_work *w = r->work;
    uint32_t n = r->end - w->at < w->terms->batch ? r->end - w->at : w->terms->batch;
    begin(r, w->at, n);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->run_batch);
    lua_pushvalue(L, fn);
    lua_pushstring(L, w->terms->name);
    lua_pushnumber(L, n);
    lua_pushlightuserdata(L, r);
    lua_pushcclosure(L, read_item, 1);
    lua_pushboolean(L, w->terms->splits);
    lua_call(L, 5, 2);                               // results failures
    end(r, w->at + n);
    int failures = lua_gettop(L), results = failures - 1;
    uint32_t until = w->at + n, at = w->at;
    /* when there is no memory for a failure, the item stays the next one */
    for (int i = 1; at < until && w->at == at; i++, at++) {
        tp_work_begin_item(w);
        lua_rawgeti(L, failures, i);                 // failure or nil
        if (!lua_isnil(L, -1)) {
            fail_item(r, L, TP_KIND_ERROR);
            continue;
        }
        lua_rawgeti(L, results, i);                  // nil values
        lua_getfield(L, -1, "n");
        int count = (int)lua_tointeger(L, -1), first = failures + 3;
        lua_pop(L, 1);
        luaL_checkstack(L, count + 10, "too many results");
        for (int k = 1; k <= count; k++)
            lua_rawgeti(L, failures + 2, k);
        keep_item(r, L, first, count);
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

/* Makes the state ready for the function of the run's work: loads it, applies its changes to
 * standard libraries, runs what is to run before it. Raises when that cannot be done. */
static loaded *prepare(run *r, lua_State *L)
{
    tp_work *w = r->work;
    /* again, since an error may have left `load` */
    tp_draws_open(&w->draws, w->terms->draws, w->block->first);
    restart_collector(r->vm, L);
    if (should_collect(r->vm))
        lua_gc(L, LUA_GCCOLLECT, 0);
    set_pause(L);
    loaded *f = load(r->vm, L, w->terms->image);
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->changes);
    tp_standard_apply(L, r->vm->standard);
    if (f->fn < 0) {
        tp_work_begin_item(r->work);
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->error);
        forget(r->vm, f); /* so that the next item tries again: a module may load then */
        *f = r->vm->cache[--r->vm->n_cached];
        lua_error(L);
    }
    if (f->setups != LUA_REFNIL) {
        tp_work_begin_item(r->work);
        set_up(r->vm, L, w->terms->image);
        f = load(r->vm, L, w->terms->image);
    }
    return f;
}

/* (run): runs items until the work is over or one raises. */
static int run_items(lua_State *L)
{
    run *r = lua_touserdata(L, 1);
    tp_work *w = r->work;
    loaded *f = prepare(r, L);
    bool is_promised = w->terms->returns.columns > 0;
    bool may_change = f->may_change;
    r->captured = push_captured(r->vm, L, w->terms->image); /* stays on the stack, and so alive */
    bool is_driven = w->block->kind == TP_BLOCK_COLUMNS && !w->terms->batch && !w->terms->streams &&
                     !may_change;
    if (is_driven && (is_promised || w->terms->discards || f->shape != SHAPE_ANY) &&
        run_columns(r, L))
        return 0;
    f = load(r->vm, L, w->terms->image);
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
            begin(r, w->at, 1);
            lua_pushvalue(L, fn);
            int n = push_arguments(r, L, w->at);
            tp_work_expose(w);
            lua_call(L, n, LUA_MULTRET);
            tp_work_cover(w);
            end(r, w->at + 1);
            keep_item(r, L, fn + 1, lua_gettop(L) - fn);
            tp_lines_end(r->vm->worker, w);
        }
        lua_settop(L, fn);
        if (may_change)
            take_back(r->vm, L);
    }
    if (r->only_scalars && r->end - w->offset >= 16)
        load(r->vm, L, w->terms->image)->shape = r->only_numbers ? SHAPE_NUMBER : 1;
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

static int take_back_protected(lua_State *L)
{
    take_back(lua_touserdata(L, 1), L);
    return 0;
}

static int pause_protected(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    tp_standard_pause(L, vm->standard);
    take_back(vm, L);
    return 2;
}

static int resume_protected(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    tp_standard_resume(L, vm->standard);
    return 0;
}

/* Calls a function with the vm and the n values on top. It leaves `results` values, or none when
 * memory ran out. Raises nothing. */
static void call_protected(tp_vm *vm, lua_State *L, int fn, int n, int results)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, fn);
    lua_pushlightuserdata(L, vm);
    for (int i = 0; i < n; i++)
        lua_pushvalue(L, -n - 2);
    if (lua_pcall(L, 1 + n, results, 0))
        lua_pop(L, 1);
}

/* Pops the error at the top of L, with which a protected call has ended, and makes it the failure
 * of the item that ran, or of the first one when none was begun. An error after the last item (no
 * memory to note what was learnt) is dropped: all items have their results. */
static void end_in_error(run *r, lua_State *L, int status)
{
    tp_work *w = r->work;
    tp_vm *vm = r->vm;
    tp_work_cover(w);
    if (w->numbers)
        tp_work_close_numbers(w, (uint32_t)tp_work_running(w));
    end(r, w->at + 1);
    vm->wants_collection |= status == LUA_ERRMEM;
    if (!is_as_expected(vm, L))
        call_protected(vm, L, vm->restore, 0, 0);
    if (w->at < r->end)
        fail_item(r, L, status == LUA_ERRMEM ? TP_KIND_MEMORY : TP_KIND_ERROR);
    else
        lua_pop(L, 1);
}

/* What the state was doing when it is to run something else. */
typedef struct scope {
    int outside, top;
    bool is_nested;
} scope;

/* Raises nothing, nor does the next one. */
static scope open_scope(tp_vm *vm, lua_State *L)
{
    scope s = { .outside = lua_gettop(L), .is_nested = vm->is_running };
    if (s.is_nested && (vm->standard->applied || !is_as_expected(vm, L)))
        call_protected(vm, L, vm->pause, 0, 2);
    s.top = lua_gettop(L);
    vm->is_running = true;
    return s;
}

static void close_scope(tp_vm *vm, lua_State *L, const scope *s)
{
    vm->is_running = s->is_nested;
    if (s->top > s->outside)
        call_protected(vm, L, vm->resume, 2, 0);
    lua_settop(L, s->outside);
}

static run run_of(tp_vm *vm, tp_work *w)
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
    run r = run_of(vm, w);
    scope s = open_scope(vm, L);
    if (w->block->kind == TP_BLOCK_FAILURE)
        tp_work_pass_failure(w);
    while (begin_next(w)) {
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->on_error);
        lua_rawgeti(L, LUA_REGISTRYINDEX, vm->run_items);
        lua_pushlightuserdata(L, &r);
        int status = lua_pcall(L, 1, 0, s.top + 1);
        if (status == 0)
            break;
        end_in_error(&r, L, status);
        lua_settop(L, s.top);
        if (!s.is_nested) /* so that no module is being loaded now */
            tp_codec_forget_loading(L, 0);
    }
    lua_settop(L, s.top);
    if (!is_as_expected(vm, L))
        call_protected(vm, L, vm->restore, 0, 0);
    if (w->has_kept)
        finish_kept(vm, L);
    close_scope(vm, L, &s);
    tp_lines_end(vm->worker, w);
}

/* ---- items that wait beside each other: engine/loop.lua resumes them ---- */

/* (run): begins the item of the run's work as a coroutine. */
static int begin_item(lua_State *L)
{
    run *r = lua_touserdata(L, 1);
    tp_work *w = r->work;
    prepare(r, L);
    tp_work_begin_item(w);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->begin);
    lua_pushlightuserdata(L, w);
    r->captured = push_captured(r->vm, L, w->terms->image);
    lua_rawgeti(L, LUA_REGISTRYINDEX, r->vm->on_error);
    lua_rawgeti(L, LUA_REGISTRYINDEX, load(r->vm, L, w->terms->image)->fn);
    int n = push_arguments(r, L, w->at); // begin work captured on_error fn args
    r->is_beside = true;
    begin(r, w->at, 1);
    tp_work_leave(w);
    lua_call(L, 4 + n, 0);
    return 0;
}

bool tp_vm_begin(tp_vm *vm, tp_work *w)
{
    lua_State *L = vm->L;
    run r = run_of(vm, w);
    if (w->block->kind == TP_BLOCK_FAILURE)
        tp_work_pass_failure(w);
    if (w->at >= r.end || tp_work_is_asked_to_stop(w))
        return false;
    scope s = open_scope(vm, L);
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
        end_in_error(&r, L, status);
        tp_lines_end(vm->worker, w);
    }
    lua_settop(L, s.top);
    if (!has_begun && !s.is_nested)
        tp_codec_forget_loading(L, 0);
    if (!is_as_expected(vm, L))
        call_protected(vm, L, vm->restore, 0, 0);
    close_scope(vm, L, &s);
    return has_begun;
}

void tp_vm_turn(tp_vm *vm, uint64_t deadline_ns)
{
    enum { NO_MEMORY_MS = 1 };
    lua_State *L = vm->L;
    scope s = open_scope(vm, L);
    uint64_t now = uv_hrtime();
    if (should_collect(vm))
        call_protected(vm, L, vm->collect, 0, 0);
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
    close_scope(vm, L, &s);
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
    if (!vm->standard->applied && is_as_expected(vm, L))
        return 0;
    tp_standard_pause(L, vm->standard);
    take_back(vm, L);
    return 2;
}

/* (run, ...): stores the results of its item */
static int keep_values(lua_State *L)
{
    keep_item(lua_touserdata(L, 1), L, 2, lua_gettop(L) - 1);
    return 0;
}

/* (vm): the item that ran is over */
static int reset_libraries(lua_State *L)
{
    tp_vm *vm = lua_touserdata(L, 1);
    /* first, since undoing the list of changes declares what is left as expected */
    take_back(vm, L);
    lua_pushnil(L);
    tp_standard_apply(L, vm->standard);
    return 0;
}

void tp_vm_keep_item(tp_vm *vm, lua_State *L, tp_work *w, int captured, int fine)
{
    run r = run_of(vm, w);
    int status = 0;
    r.captured = tp_captured_at(L, captured);
    r.begun = w->at;
    r.is_beside = true;
    note_step(vm, w, false);
    end(&r, w->at + 1);
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
        fail_item(&r, L, status == LUA_ERRMEM ? TP_KIND_MEMORY : TP_KIND_ERROR);
    if (vm->standard->applied || !is_as_expected(vm, L))
        call_protected(vm, L, vm->reset, 0, 0);
    if (should_collect(vm)) /* here, since other coroutine items run before the next item begins */
        call_protected(vm, L, vm->collect, 0, 0);
}

void tp_vm_end_item(tp_vm *vm, tp_work *w)
{
    tp_lines_end(vm->worker, w);
    vm->worker->n_waiting--;
    vm->worker->type->end(vm->worker, w);
}

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

/* ---- opening ---- */

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
    wrap_loaders(vm, L);
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
    lua_pushcfunction(L, add_traceback);
    vm->add_traceback = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushlightuserdata(L, vm);
    lua_pushcclosure(L, on_error, 1);
    vm->on_error = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, encode_failure);
    vm->encode_failure = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, run_items);
    vm->run_items = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, begin_item);
    vm->begin_item = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, keep_values);
    vm->keep = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, reset_libraries);
    vm->reset = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, take_back_protected);
    vm->restore = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, collect);
    vm->collect = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, pause_protected);
    vm->pause = luaL_ref(L, LUA_REGISTRYINDEX);
    lua_pushcfunction(L, resume_protected);
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
    call_protected(vm, vm->main, vm->leave, 0, 0);
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
