/* core_job.c: jobs: opening and closing, inputs, results, and waiting for them. */
#include "lua/core_private.h"

#include "cluster/exec_cluster.h"
#include "codec/captured.h"
#include "codec/codec.h"
#include "codec/identity.h"
#include "codec/scalar.h"
#include "journal/journal.h"
#include "lua/core.h"
#include "opencl/exec_opencl.h"
#include "opencl/slices.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JOB "tidepool.job"

/* A job with the blocks that its owner is filling and reading. */
typedef struct job_box {
    tp_job *job;        /* NULL once closed */
    tp_job_counts counts; /* those at the end, of a closed one */
    tp_block *building; /* the block of inputs that is not pushed yet */
    tp_block *reading;  /* the block of results that is handed out item by item */
    uint32_t seen;      /* the eventcount when results were last looked for */
    /* the tables of its image, kept alive by the environment; NULL: it has none */
    tp_captured *captured;
    tp_journal_map *journal; /* held by the job; NULL: nothing is recorded */
    unsigned encoding;  /* flags of tp_encode for its inputs */
    uint32_t tags_room; /* how many tags the block that is being built has room for */
    /* the agent that runs items while this job is waited for; NULL: the host's loop runs
     * meanwhile */
    tp_agent *waits_on;
    /* Of a job whose results may stay on devices; the job's own. NULL: they do not. */
    tp_kernels *kernels;
    bool is_staying; /* the owner wants them to stay there: see l_job_stay */
    bool has_missed; /* the owner was told of results that a device has lost, and goes on */
} job_box;

static job_box *check_job(lua_State *L, int index)
{
    /* as luaL_checkudata, without looking for the name: it is called some twenty times in a map */
    job_box *box = lua_touserdata(L, index);
    bool is_job = box && lua_getmetatable(L, index);
    if (is_job) {
        is_job = lua_topointer(L, -1) == get_context(L)->job_metatable;
        lua_pop(L, 1);
    }
    if (!is_job)
        luaL_typerror(L, index, JOB);
    if (!box->job)
        luaL_argerror(L, index, "the job is closed");
    return box;
}

/* ---- opening and closing ---- */

static void release(job_box *box)
{
    tp_block_free(box->building);
    tp_block_free(box->reading);
    box->building = box->reading = NULL;
    tp_job *job = box->job;
    box->job = NULL;
    if (!job)
        return;
    tp_job_get_counts(job, &box->counts);
    tp_job_close(job);
}

/* What a job on devices runs, held; NULL for another job. */
static tp_kernels *hold_kernels(const job_box *box)
{
    tp_ref *data = box->job ? tp_job_executor_data(box->job) : NULL;
    return data && data->type == &tp_kernels_type ? tp_ref_hold(data) : NULL;
}

/* A job that the owner itself runs was cancelled: its items that wait beside each other end now,
 * since the owner may not wait again. */
static void end_waits(const context *ctx, const job_box *box)
{
    if (!ctx->agent && box->waits_on && box->waits_on->worker.n_waiting > 0)
        tp_vm_turn(box->waits_on->worker.vm, 0);
}

/* The job is about to be closed, and its owner knows which results it did not get: their arrays are
 * as they are. */
static void forget_missed(const tp_job *job)
{
    const tp_returns *returns = &tp_job_terms(job)->returns;
    for (uint32_t c = 0; c < returns->columns; c++)
        if (returns->array[c])
            tp_copies_forget_array(returns->array[c]);
}

/* Cancels the job. What it has written to arrays on devices comes home with the slices that still
 * run; where none does it comes now. */
static void cancel(const job_box *box)
{
    tp_kernels *kernels = hold_kernels(box);
    tp_job_cancel(box->job);
    if (kernels && tp_job_is_settled(box->job))
        tp_kernels_end(kernels);
    tp_ref_drop(kernels);
}

/* job:__gc, core.job.close(job): cancels what is not finished. Gives nil and a message when a
 * device cannot give what the job has written to arrays; and whether somebody was told before, by
 * an input that failed of it, say. */
static int l_job_close(lua_State *L)
{
    job_box *box = luaL_checkudata(L, 1, JOB);
    bool is_finalizer = lua_isnone(L, lua_upvalueindex(1));
    tp_kernels *kernels = is_finalizer ? NULL : hold_kernels(box);
    /* a finalizer has no context */
    if (box->job && box->has_missed && tp_host_is_usable(box->kernels->host))
        forget_missed(box->job);
    release(box);
    tp_error err = { 0 };
    bool was_told = kernels && tp_kernels_have_told(kernels);
    bool is_lost = kernels && tp_host_is_usable(get_context(L)->host) &&
                   tp_kernels_bring_home(kernels, &err);
    tp_ref_drop(kernels);
    if (box->captured) {
        box->captured = NULL;
        lua_pushvalue(L, LUA_GLOBALSINDEX);
        lua_setfenv(L, 1);
    }
    if (!is_finalizer) {
        end_waits(get_context(L), box);
        tp_core_take_back(L, get_context(L));
    }
    if (!is_lost)
        return 0;
    tp_core_push_message(L, &err);
    lua_pushboolean(L, was_told);
    return 3;
}

static int l_job_tostring(lua_State *L)
{
    job_box *box = luaL_checkudata(L, 1, JOB);
    lua_pushfstring(L, "tidepool.job: %s", box->job ? tp_job_func(box->job)->name : "closed");
    return 1;
}

/* The options of core.job.open. Their names are strings in a table, so that they need not be looked
 * for among all strings of the state at each map and call. */
#define OPTIONS(X)                                                                               \
    X(fallback) X(journal) X(ordered) X(keep_going) X(discard) X(is_cheap) X(window) X(bytes)    \
    X(total) X(retries) X(crash_retries) X(batch) X(splits) X(streams) X(recycle) X(memory)      \
    X(stays) X(timeout) X(returns) X(leased) X(reducer) X(is_inner) X(captured) X(concurrent)   \
    X(kernel) X(apart) X(devices) X(times)

enum {
#define NUMBER(name) OPTION_##name,
    OPTIONS(NUMBER)
#undef NUMBER
};

/* its address is the key of the table of names in the registry */
static const char options_key = 0;

static void register_options(lua_State *L)
{
    static const char *const names[] = {
#define NAME(name) #name,
        OPTIONS(NAME)
#undef NAME
    };
    lua_pushlightuserdata(L, (void *)&options_key);
    lua_createtable(L, sizeof names / sizeof *names, 0);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        lua_pushstring(L, names[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_rawset(L, LUA_REGISTRYINDEX);
}

/* Stack of core.job.open: its four arguments, the table of names. */
enum { ARGUMENT_OPTIONS = 4, OPTION_NAMES };

static void push_option(lua_State *L, int option)
{
    lua_rawgeti(L, OPTION_NAMES, option + 1);
    lua_rawget(L, ARGUMENT_OPTIONS);
}

static bool get_flag(lua_State *L, int option)
{
    push_option(L, option);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static double get_number(lua_State *L, int option, double otherwise)
{
    push_option(L, option);
    double value = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return value;
}

static tp_retries get_retries(lua_State *L)
{
    tp_retries r = { .crashes = (unsigned)get_number(L, OPTION_crash_retries, 0) };
    push_option(L, OPTION_retries);
    if (lua_istable(L, -1)) {
        int at = lua_gettop(L);
        r.max = (unsigned)tp_core_get_number(L, at, "max", 0);
        r.initial_delay_s = tp_core_get_number(L, at, "initial_delay", 0);
        r.backoff = tp_core_get_number(L, at, "backoff", 1);
        r.max_delay_s = tp_core_get_number(L, at, "max_delay", INFINITY);
        r.jitter = tp_core_get_number(L, at, "jitter", 0);
        lua_getfield(L, at, "on");
        r.notify = !lua_isnil(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return r;
}

/* Option `returns`: { columns = { type number, ... }, memory = { memory, ... } or nil } */
static tp_returns get_returns(lua_State *L)
{
    tp_returns r = { 0 };
    push_option(L, OPTION_returns);
    if (lua_istable(L, -1)) {
        lua_getfield(L, -1, "columns");              // returns columns
        lua_getfield(L, -2, "memory");               // returns columns memory
        r.columns = (uint32_t)lua_objlen(L, -2);
        for (int c = 0; c < (int)r.columns && c < TP_COLUMNS_MAX; c++) {
            lua_rawgeti(L, -2, c + 1);
            r.type[c] = (uint8_t)lua_tointeger(L, -1);
            lua_pop(L, 1);
            if (lua_istable(L, -1)) {
                lua_rawgeti(L, -1, c + 1);
                r.array[c] = tp_core_check_memory(L, lua_gettop(L));
                lua_pop(L, 1);
            }
        }
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return r;
}

/* Option `leased`: a list of the numbers of devices, or nil. */
static bool get_devices(lua_State *L, uint64_t *devices)
{
    push_option(L, OPTION_leased);
    bool is_given = lua_istable(L, -1);
    for (int i = 1, n = is_given ? (int)lua_objlen(L, -1) : 0; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        *devices |= (uint64_t)1 << ((unsigned)lua_tointeger(L, -1) - 1) % TP_DEVICES_MAX;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return is_given;
}

/* Option `devices`, of other machines: where the job may run (tp_cluster_site); 0: it has none. -1
 * with err set: there can be no such site. */
static int get_far_site(lua_State *L, tp_executor *ex, uint64_t *site, tp_error *err)
{
    push_option(L, OPTION_devices);
    const char *devices = lua_tostring(L, -1); /* the options keep it alive */
    lua_pop(L, 1);
    *site = devices ? tp_cluster_site(ex, devices, err) : 0;
    return devices && !*site ? -1 : 0;
}

/* Pushes nil, a message and a kind of failure, for a job that could not be opened. */
static int push_refusal(lua_State *L, const tp_error *err)
{
    return tp_core_push_refusal(L, err, err->code == TP_ESYS ? TP_KIND_RESOURCE : TP_KIND_USAGE);
}

/* Stack: box. Stores the option `captured`. */
static void keep_captured(lua_State *L, job_box *box)
{
    push_option(L, OPTION_captured);
    box->captured = tp_captured_at(L, -1);
    if (box->captured) {
        lua_createtable(L, 1, 0);
        lua_insert(L, -2);
        lua_rawseti(L, -2, 1);
        lua_setfenv(L, -2);
    } else {
        lua_pop(L, 1);
    }
}

/* Option `kernel`; NULL: none. The options keep it alive. */
static tp_kernel *get_kernel(lua_State *L)
{
    push_option(L, OPTION_kernel);
    tp_kernel *kernel = lua_toboolean(L, -1) ? tp_codec_to_ref(L, -1, &tp_kernel_type) : NULL;
    lua_pop(L, 1);
    return kernel;
}

/* The devices that may run the kernel: those whose programs could be made, as far as is known. */
static uint64_t devices_of(const tp_kernel *kernel)
{
    uint64_t devices = kernel->devices;
    for (unsigned d = 0; d < TP_DEVICES_MAX; d++)
        if (kernel->programs[d] && tp_program_state_of(kernel->programs[d]) == TP_PROGRAM_FAILED)
            devices &= ~((uint64_t)1 << d);
    return devices;
}

/* What it takes to make a program, with all that a driver does at its first launch: something like
 * this; from a binary on disk, or by compiling (PoCL 3.1: 5 to 40 ms, 0.5 to 1.2 s). So a function
 * has taken that on threads before anything is compiled for it, and whether that pays or not, in
 * the end it has cost little more than twice what the better choice would have. */
static const uint64_t READ_NS = 10 * 1000 * 1000, COMPILE_NS = 1000 * 1000 * 1000;

/* Who runs the kernel beside worker threads. */
static tp_beside open_beside(tp_host *host, const tp_kernel *kernel)
{
    unsigned workers = host->config.workers > 0 ? (unsigned)host->config.workers : 1;
    tp_executor *ex = tp_host_executor_that(host, TP_RUNS_KERNELS);
    bool is_exclusive = tp_opencl_shares_processors(ex, kernel->devices, workers);
    tp_beside b = { .executor = ex, .workers = workers, .is_exclusive = is_exclusive };
    for (unsigned d = 0; d < TP_DEVICES_MAX; d++) {
        const tp_program *p = kernel->programs[d];
        if (!p || tp_program_state_of(p) != TP_PROGRAM_PROMISED)
            continue;
        b.promised |= (uint64_t)1 << d;
        if (b.make_ns < (p->is_stored ? READ_NS : COMPILE_NS))
            b.make_ns = p->is_stored ? READ_NS : COMPILE_NS;
    }
    return b;
}

/* core.job.open(func, image or kernel, executor name, options) -> job, or nil, a message and a
 * kind of failure. Options as in tp_job_config: total, window, bytes, ordered, keep_going,
 * discard, is_cheap, retries, crash_retries, timeout (in seconds), recycle, memory (in bytes),
 * batch, splits, streams, concurrent, returns, leased (a list of device numbers, or nil), apart
 * (tp_terms.is_apart).
 * Others: devices, the words of a function's option `gpu` with line ends between them, when the
 * image is a plan for devices of other machines (core.program.plan); fallback, an image that runs
 * when no device can; captured, what core.func.image returned with the image; kernel, one that runs
 * the image's items on devices, beside it; reducer, see tp_kernels_set_reducer; journal, from
 * core.journal.map, or nil; is_inner, it is not the user's map and draws no random numbers; stays,
 * results may be left on devices (tp_kernels). */
static int l_job_open(lua_State *L)
{
    context *ctx = get_context(L);
    tp_error err = { 0 };
    tp_image *image = tp_codec_to_ref(L, 2, &tp_image_type);
    tp_kernel *kernel = tp_codec_to_ref(L, 2, &tp_kernel_type);
    luaL_argcheck(L, image || kernel, 2, "image or kernel expected");
    const char *name = luaL_checkstring(L, 3);
    luaL_checktype(L, ARGUMENT_OPTIONS, LUA_TTABLE);
    lua_settop(L, ARGUMENT_OPTIONS);
    lua_pushlightuserdata(L, (void *)&options_key);
    lua_rawget(L, LUA_REGISTRYINDEX);
    if (!image) {
        push_option(L, OPTION_fallback);
        /* the options keep it alive */
        image = lua_isnil(L, -1) ? NULL : tp_codec_to_ref(L, -1, &tp_image_type);
        lua_pop(L, 1);
    }
    tp_executor *ex = tp_host_executor(ctx->host, name);
    luaL_argcheck(L, ex, 3, "no such executor");
    tp_beside beside = { 0 };
    if (!kernel && (kernel = get_kernel(L)))
        beside = open_beside(ctx->host, kernel);
    if (!tp_core_is_usable(ctx->host, &err))
        return push_refusal(L, &err);
    job_box *box = lua_newuserdata(L, sizeof *box);
    unsigned abilities = tp_host_capabilities(ctx->host, ex->type);
    bool is_apart = get_flag(L, OPTION_apart), shares = abilities & TP_SHARES_MEMORY && !is_apart;
    *box = (job_box){ .encoding = shares               ? 0
                                  : abilities & TP_FAR ? TP_ENCODE_COPIES | TP_ENCODE_ELEMENTS
                                                       : TP_ENCODE_COPIES };
    luaL_getmetatable(L, JOB);
    lua_setmetatable(L, -2);
    box->waits_on = ctx->agent;
    if (!box->waits_on && ex->type->capabilities & TP_BY_OWNER) {
        box->waits_on = tp_host_agent(ctx->host, &err);
        if (!box->waits_on)
            return push_refusal(L, &err);
    }
    push_option(L, OPTION_journal);
    /* the options keep it alive until the job does */
    box->journal = lua_isnil(L, -1) ? NULL : tp_core_check_ref(L, -1, &tp_journal_map_type);
    lua_pop(L, 1);
    uint64_t leases = 0, far_site;
    if (get_far_site(L, ex, &far_site, &err))
        return push_refusal(L, &err);
    bool has_leases = get_devices(L, &leases);
    tp_job_config config = {
        .func = tp_core_check_ref(L, 1, &tp_func_type),
        .image = image,
        .sites = kernel ? devices_of(kernel) : far_site,
        .executor = ex,
        .beside = beside,
        .fallback = kernel && image && !beside.executor
                        ? tp_host_executor_that(ctx->host, TP_RUNS_LUA)
                        : NULL,
        .waiter = box->waits_on ? &box->waits_on->waiter : &ctx->listener->waiter,
        .owner = ctx->agent,
        .ordered = get_flag(L, OPTION_ordered),
        .keep_going = get_flag(L, OPTION_keep_going),
        .discard = get_flag(L, OPTION_discard),
        .is_timed = get_flag(L, OPTION_times),
        .is_cheap = get_flag(L, OPTION_is_cheap),
        .window = (uint64_t)fmin(get_number(L, OPTION_window, 0), 0x1p62),
        .bytes = (size_t)get_number(L, OPTION_bytes, 0),
        .total = (int64_t)get_number(L, OPTION_total, -1),
        .retries = get_retries(L),
        .batch = (uint32_t)get_number(L, OPTION_batch, 0),
        .splits = get_flag(L, OPTION_splits),
        .streams = get_flag(L, OPTION_streams),
        .concurrent = (uint32_t)get_number(L, OPTION_concurrent, 0),
        .recycle = (uint64_t)fmin(get_number(L, OPTION_recycle, 0), 0x1p62),
        .memory = (uint64_t)fmin(get_number(L, OPTION_memory, 0), 0x1p62),
        .timeout_ns = (uint64_t)ceil(fmin(get_number(L, OPTION_timeout, 0), 1e9) * 1e9),
        .is_apart = is_apart,
        .returns = get_returns(L),
        .recorder = box->journal ? tp_journal_map_recorder(box->journal) : NULL,
        .has_leases = has_leases,
        .leases = leases,
    };
    push_option(L, OPTION_reducer);
    tp_kernel *reducer = lua_isnil(L, -1) ? NULL : tp_codec_to_ref(L, -1, &tp_kernel_type);
    lua_pop(L, 1);
    if (!get_flag(L, OPTION_is_inner))
        config.draws = tp_source_next(tp_core_source(ctx), false);
    tp_kernels *kernels = NULL;
    if (kernel)
        kernels = tp_kernels_new(ctx->host, config.func, kernel, tp_opencl_keeps);
    if (kernel && !kernels)
        return tp_codec_raise_memory(L);
    if (kernels && reducer)
        tp_kernels_set_reducer(kernels, reducer);
    if (kernels && get_flag(L, OPTION_stays)) {
        atomic_store_explicit(&kernels->stays, true, memory_order_relaxed);
        box->kernels = kernels; /* the job holds them */
    }
    config.executor_data = (tp_ref *)kernels;
    int rc = tp_job_open(&box->job, ctx->host->engine, &config, &err);
    tp_ref_drop(kernels);
    if (rc)
        return push_refusal(L, &err);
    keep_captured(L, box);
    return 1;
}

/* core.job.go_beside(job, kernel): devices run it too, from here on, see tp_job_go_beside */
static int l_job_go_beside(lua_State *L)
{
    context *ctx = get_context(L);
    tp_job *job = check_job(L, 1)->job;
    tp_kernel *kernel = tp_codec_to_ref(L, 2, &tp_kernel_type);
    luaL_argcheck(L, kernel, 2, "kernel expected");
    luaL_argcheck(L, !tp_job_executor_data(job), 1, "a job that only workers run expected");
    tp_beside beside = open_beside(ctx->host, kernel);
    tp_kernels *kernels = tp_kernels_new(ctx->host, tp_job_func(job), kernel, tp_opencl_keeps);
    if (!kernels)
        return tp_codec_raise_memory(L);
    tp_job_go_beside(job, &beside, devices_of(kernel), (tp_ref *)kernels);
    tp_engine_wake_beside(ctx->host->engine);
    tp_ref_drop(kernels);
    return 0;
}

/* core.job.set_reducer(job, kernel): see tp_kernels_set_reducer */
static int l_job_set_reducer(lua_State *L)
{
    tp_ref *data = tp_job_executor_data(check_job(L, 1)->job);
    luaL_argcheck(L, data && data->type == &tp_kernels_type, 1, "a job of devices expected");
    tp_kernel *k = tp_codec_to_ref(L, 2, &tp_kernel_type);
    luaL_argcheck(L, k && k->group == TP_GROUP, 2, "a reducer expected");
    tp_kernels_set_reducer((tp_kernels *)data, k);
    return 0;
}

/* core.job.reduce(job, "sum", "min" or "max"): see tp_job_reduce */
static int l_job_reduce(lua_State *L)
{
    static const char *const names[] = { "sum", "min", "max", NULL };
    static const tp_reduction reductions[] = { TP_SUM, TP_LEAST, TP_GREATEST };
    tp_job *job = check_job(L, 1)->job;
    tp_job_reduce(job, reductions[luaL_checkoption(L, 2, NULL, names)]);
    return 0;
}

/* core.job.hold_back(job, held_back): see tp_job_hold_back */
static int l_job_hold_back(lua_State *L)
{
    tp_job_hold_back(check_job(L, 1)->job, lua_toboolean(L, 2));
    return 0;
}

/* core.job.has_begun(job) -> has a device begun to run it? For a job of devices. */
static int l_job_has_begun(lua_State *L)
{
    tp_ref *data = tp_job_executor_data(check_job(L, 1)->job);
    luaL_argcheck(L, data && data->type == &tp_kernels_type, 1, "a job of devices expected");
    tp_kernels *k = (tp_kernels *)data;
    lua_pushboolean(L, atomic_load_explicit(&k->has_begun, memory_order_relaxed));
    return 1;
}

tp_job *tp_lua_core_to_job(struct lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? NULL : ((job_box *)luaL_checkudata(L, index, JOB))->job;
}

/* ---- inputs ---- */

/* core.job.room(job) -> how many inputs may be pushed now */
static int l_job_room(lua_State *L)
{
    lua_pushnumber(L, (double)tp_job_room(check_job(L, 1)->job));
    return 1;
}

/* Pushes a block of inputs, which the job then owns. Inputs whose results are in the journal get
 * those without being run. When the journal cannot be read the job ends with that error, as when it
 * cannot be written. Raises out of memory. */
static int push_block(lua_State *L, job_box *box, tp_block *b)
{
    tp_block *known = NULL;
    tp_error err = { 0 };
    if (box->journal && tp_journal_map_recall(box->journal, box->job, b, &known, &err)) {
        tp_block_free(b);
        tp_job_give_up(box->job, &err);
        return 0;
    }
    if (tp_job_push_known(box->job, b, known))
        return tp_codec_raise_memory(L);
    if (!box->waits_on)
        tp_host_assist(box->job);
    return 0;
}

/* Begins a block of inputs. Raises out of memory. */
static tp_block *build_columns(lua_State *L, job_box *box, uint32_t capacity, uint32_t columns,
                               const uint8_t *types, uint32_t text)
{
    luaL_argcheck(L, columns >= 1 && columns <= TP_COLUMNS_MAX, 3, "too many columns");
    tp_block_free(box->building);
    box->building = tp_block_new_columns(capacity, columns, types, text);
    if (!box->building)
        tp_codec_raise_memory(L);
    return box->building;
}

/* core.job.numbers(job, capacity, columns) -> the address of memory for the doubles of up to
 * `capacity` items, column after column; core.job.push_columns pushes them */
static int l_job_numbers(lua_State *L)
{
    job_box *box = check_job(L, 1);
    uint32_t capacity = (uint32_t)luaL_checkinteger(L, 2),
             columns = (uint32_t)luaL_checkinteger(L, 3);
    tp_core_push_address(L, build_columns(L, box, capacity, columns, NULL, 0)->column[0]);
    return 1;
}

/* core.job.columns(job, capacity, kinds, text) -> the addresses of the columns' pointers, and of
 * their tp_text of `text` bytes. There is room for up to `capacity` items, with a column for each
 * letter of `kinds` (TP_COLUMN_DOUBLES or TP_COLUMN_SCALARS); core.job.push_columns pushes them. */
static int l_job_columns(lua_State *L)
{
    job_box *box = check_job(L, 1);
    uint8_t types[TP_COLUMNS_MAX] = { 0 };
    size_t columns;
    uint32_t capacity = (uint32_t)luaL_checkinteger(L, 2), text = (uint32_t)luaL_checkinteger(L, 4);
    const char *kinds = luaL_checklstring(L, 3, &columns);
    for (size_t c = 0; c < columns && c < TP_COLUMNS_MAX; c++)
        types[c] = kinds[c] == TP_COLUMN_SCALARS ? TP_MIXED : TP_DOUBLE;
    tp_block *b = build_columns(L, box, capacity, (uint32_t)columns, types, text);
    tp_core_push_address(L, b->column);
    tp_core_push_address(L, &b->text);
    return 2;
}

/* core.job.push_columns(job, n, pinned): the first n items in the columns of core.job.numbers or
 * core.job.columns become inputs (n 0: none). `pinned` is a list of the strings that their scalars
 * point into, or nil. */
static int l_job_push_columns(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = box->building;
    uint32_t n = (uint32_t)luaL_checkinteger(L, 2);
    if (!b || b->kind != TP_BLOCK_COLUMNS || n > b->capacity)
        return luaL_argerror(L, 2, "no such columns");
    b->n = n;
    if (lua_istable(L, 3)) {
        lua_settop(L, 3);
        tp_core_pin(L, get_context(L), b);
    }
    box->building = NULL;
    return push_block(L, box, b);
}

/* core.job.push_arrays(job, n, memory, type, pointer, ...): n inputs whose columns lie in typed
 * arrays, which are not copied */
static int l_job_push_arrays(lua_State *L)
{
    job_box *box = check_job(L, 1);
    int columns = (lua_gettop(L) - 2) / 3;
    luaL_argcheck(L, columns <= TP_COLUMNS_MAX, 3, "too many columns");
    for (int c = 0; c < columns; c++) {
        tp_core_check_memory(L, 3 + 3 * c);
        luaL_checkinteger(L, 4 + 3 * c);
        luaL_argcheck(L, lua_topointer(L, 5 + 3 * c), 5 + 3 * c, "a pointer expected");
    }
    tp_block *b = tp_block_new_borrowed(0, (uint32_t)luaL_checknumber(L, 2), (uint32_t)columns);
    if (!b)
        return tp_codec_raise_memory(L);
    for (int c = 0; c < columns; c++) {
        tp_array *memory = tp_core_check_memory(L, 3 + 3 * c);
        tp_array_look(memory);
        if (box->encoding & TP_ENCODE_COPIES && !(box->encoding & TP_ENCODE_ELEMENTS))
            tp_array_share(memory); /* else its elements are copied */
        if (tp_block_own(b, &memory->ref)) {
            tp_block_free(b);
            return tp_codec_raise_memory(L);
        }
        b->type[c] = (uint8_t)lua_tointeger(L, 4 + 3 * c);
        const void *pointer = lua_topointer(L, 5 + 3 * c); /* a pointer of the FFI */
        memcpy(&b->column[c], pointer, sizeof b->column[c]);
    }
    return push_block(L, box, b);
}

/* Finds the identity of the item that is about to be added. 0, or -1 with err set. */
static int tag_item(lua_State *L, job_box *box, int first, int n, const char *const *names,
                    tp_error *err)
{
    tp_block *b = box->building;
    if (!b->tags || b->n == box->tags_room) {
        uint32_t room = b->tags ? 2 * box->tags_room : 4;
        tp_tag *tags = realloc(b->tags, room * sizeof *tags);
        if (!tags)
            return tp_error_oom(err, "inputs");
        b->tags = tags;
        box->tags_room = room;
    }
    b->tags[b->n].attempts = 0;
    return tp_identity_of_values(L, first, n, names, &get_context(L)->scratch,
                                 b->tags[b->n].identity, err);
}

/* Encodes n stack values from `first` as one more item of the block that is being built. 0, or -1
 * with err set. */
static int add_item(lua_State *L, job_box *box, int first, int n, tp_error *err)
{
    static const char *const names[] = { "argument 1", "argument 2", "argument 3",
                                         "argument 4", "argument 5", "argument 6" };
    if (!box->building)
        box->building = tp_block_new_values(TP_BLOCK_VALUES);
    tp_block *b = box->building;
    if (!b || tp_block_reserve(b))
        return tp_error_oom(err, "inputs");
    if (tp_encode_with(L, first, n, n <= 6 ? names : NULL, box->encoding, box->captured, &b->bytes,
                       err))
        return -1;
    if (box->journal && b->kind == TP_BLOCK_VALUES &&
        tag_item(L, box, first, n, n <= 6 ? names : NULL, err)) {
        b->bytes.len = b->n ? b->ends[b->n - 1] : 0;
        return -1;
    }
    tp_block_add(b);
    return 0;
}

enum { LIST_NS = 4 * 1000 * 1000, LOOK_BYTES = 16 * 1024, REFS_MAX = 64 };

/* A worker process is lent everything that any item of a block refers to, so blocks with many
 * references are kept short. */
static bool is_full(const job_box *box)
{
    return box->building && (box->building->bytes.len > TP_BLOCK_BYTES_MAX ||
                             box->building->bytes.nrefs >= REFS_MAX);
}

/* core.job.add(job, ...) -> adds an input with these arguments: whether the block has room for
 * more; or nil, a message and the kind of failure */
static int l_job_add(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_error err;
    tp_error_clear(&err);
    if (add_item(L, box, 2, lua_gettop(L) - 1, &err))
        return tp_core_push_refusal(L, &err, TP_KIND_CODEC);
    lua_pushboolean(L, !is_full(box));
    return 1;
}

/* core.job.add_list(job, list, from, to): list[from..to] become inputs of one argument each, until
 * the block is full, or until large ones have taken some milliseconds -> the index of the first
 * that was not added; or nil, a message, the kind of failure and the index of the item that cannot
 * travel */
static int l_job_add_list(lua_State *L)
{
    job_box *box = check_job(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer i = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    tp_error err;
    tp_error_clear(&err);
    lua_settop(L, 4);
    /* bytes in the block when the clock was last looked at; to look after each small item costs too
     * much */
    size_t looked = 0;
    uint64_t until = uv_hrtime() + LIST_NS;
    for (; i <= to && !is_full(box); i++) {
        size_t bytes = box->building ? box->building->bytes.len : 0;
        if (bytes > looked + LOOK_BYTES) {
            looked = bytes;
            if (uv_hrtime() > until)
                break;
        }
        lua_rawgeti(L, 2, (int)i);
        if (add_item(L, box, 5, 1, &err)) {
            tp_core_push_refusal(L, &err, TP_KIND_CODEC);
            lua_pushinteger(L, i);
            return 4;
        }
        lua_settop(L, 4);
    }
    lua_pushinteger(L, i);
    return 1;
}

void tp_core_build(lua_State *L, int job, tp_block *b)
{
    job_box *box = check_job(L, job);
    tp_block_free(box->building);
    box->building = b;
}

int tp_core_add(lua_State *L, int job, int first, int n, tp_error *err)
{
    return add_item(L, check_job(L, job), first, n, err);
}

void tp_core_push_built(lua_State *L, int job)
{
    job_box *box = check_job(L, job);
    tp_block *b = box->building;
    box->building = NULL;
    if (b)
        push_block(L, box, b);
}

/* core.job.push(job): pushes what was added */
static int l_job_push(lua_State *L)
{
    tp_core_push_built(L, 1);
    return 0;
}

/* core.job.push_failure(job, kind, message): an input that could not be made: this failure is its
 * result */
static int l_job_push_failure(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_error err = { 0 };
    luaL_checkstring(L, 2);
    luaL_checkstring(L, 3);
    lua_settop(L, 3);
    lua_pushnil(L);        // value
    lua_pushnil(L);        // traceback
    lua_pushinteger(L, 0); // attempts
    tp_block_free(box->building);
    box->building = tp_block_new_values(TP_BLOCK_FAILURE);
    if (add_item(L, box, 2, 5, &err))
        return tp_codec_raise(L, &err);
    return l_job_push(L);
}

/* core.job.finish(job): there are no more inputs */
static int l_job_finish(lua_State *L)
{
    tp_job_end(check_job(L, 1)->job);
    return 0;
}

/* ---- results ---- */

/* Some device cannot give all results that lie in arrays. -1 with err set when those of the block
 * are among them. */
static int bring_block_home(const job_box *box, const tp_block *b, tp_error *err)
{
    const tp_returns *returns = &tp_job_terms(box->job)->returns;
    if (b->kind != TP_BLOCK_COLUMNS)
        return 0;
    for (uint32_t c = 0; c < returns->columns; c++)
        if (returns->array[c] &&
            tp_copies_bring_part_home(returns->array[c], b->column[c],
                                      b->n * tp_type_size(returns->type[c]), NULL, err))
            return -1;
    return 0;
}

/* core.job.next(job) -> kind, first, n, columns, mixed, text: the next block of results, which
 * core.job.item and core.job.fill read until the next call; nothing when none is ready. Kinds are
 * those of tp_block_kind; first counts from 1. For COLUMNS: the address of the columns' pointers;
 * the number of columns of scalars, 0 when they are of numbers; the address of their text. Or nil
 * and a message: a device cannot give results that it has, or the wait for it was given up; and,
 * where the next block is of such as are lost, its first and n, with which the owner may go on. */
static int l_job_next(lua_State *L)
{
    job_box *box = check_job(L, 1);
    const tp_mover me = tp_core_mover(get_context(L));
    bool wants_them = box->kernels && !box->is_staying;
    tp_error err = { 0 };
    box->seen = tp_job_eventcount(box->job);
    tp_core_take_back(L, get_context(L));
    /* before a block is taken, since the owner may give up to wait for a device */
    if (wants_them &&
        tp_kernels_want_results(box->kernels, &tp_job_terms(box->job)->returns, &me, &err) &&
        err.code == TP_ETIMEOUT)
        return tp_core_push_given_up(L, &err);
    tp_error_clear(&err);
    tp_block_free(box->reading);
    box->reading = tp_job_next(box->job);
    tp_block *b = box->reading;
    if (wants_them && tp_kernels_want_results(box->kernels, &tp_job_terms(box->job)->returns, NULL,
                                              &err)) {
        if (!b && box->has_missed)
            return 0;
        if (!b)
            return tp_core_push_message(L, &err);
        tp_error_clear(&err);
        if (bring_block_home(box, b, &err)) {
            box->has_missed = true;
            tp_core_push_message(L, &err);
            lua_pushnumber(L, (lua_Number)b->first + 1);
            lua_pushinteger(L, b->n);
            return 4;
        }
    }
    if (!b)
        return 0;
    lua_pushinteger(L, b->kind);
    lua_pushnumber(L, (double)b->first + 1);
    lua_pushinteger(L, b->n);
    tp_core_push_address(L, b->column);
    lua_pushinteger(L, b->columns > 0 && b->type[0] == TP_MIXED ? (lua_Integer)b->columns : 0);
    tp_core_push_address(L, &b->text);
    return 6;
}

/* core.job.stay(job): results that are read from now on may stay where they are: arrays have them
 * when they were brought home (core.buffer.bring_home) */
static int l_job_stay(lua_State *L)
{
    check_job(L, 1)->is_staying = true;
    return 0;
}

/* core.job.ran(job) -> how the items of the block that is being read were run: when their inputs
 * were handed over and when the first of them was begun (in seconds of os.time's clock), seconds
 * for each, the worker's number, attempts (0: they were not run), the device's number (0: none),
 * that of the device which did not come back from them before, and seconds that their device waited
 * for its driver to compile. The next item follows each after its time. */
static int l_job_ran(lua_State *L)
{
    job_box *box = check_job(L, 1);
    if (!box->reading)
        return luaL_error(L, "no block is being read");
    const tp_ran *ran = &box->reading->ran;
    uv_timeval64_t now;
    uv_gettimeofday(&now);
    double seconds = (double)now.tv_sec + now.tv_usec * 1e-6;
    uint64_t clock = uv_hrtime();
    lua_pushnumber(L, seconds - (double)(clock - ran->queued_ns) * 1e-9);
    lua_pushnumber(L, seconds - (double)(clock - ran->started_ns) * 1e-9);
    lua_pushnumber(L, ran->ns_per_item * 1e-9);
    lua_pushinteger(L, ran->worker);
    lua_pushinteger(L, ran->attempt);
    lua_pushinteger(L, ran->site);
    lua_pushinteger(L, ran->lost_at);
    lua_pushnumber(L, (lua_Number)ran->compiled_ns * 1e-9);
    return 8;
}

/* core.job.build(job) -> of the next program that was made inside of its items: the device's number
 * (0: another machine's) and name, that machine's ("": this one), how it came to be, as in
 * results:times(), and the seconds; or nothing */
static int l_job_build(lua_State *L)
{
    static const char *const how[] = { [TP_BUILD_KEPT] = "compiled",
                                       [TP_BUILD_NOT_KEPT] = "compiled",
                                       [TP_BUILD_READ] = "read",
                                       [TP_BUILD_LAUNCHED] = "launched" };
    tp_job_build b;
    job_box *box = check_job(L, 1);
    if (!box->job || !tp_job_take_build(box->job, &b))
        return 0;
    lua_pushinteger(L, (lua_Integer)b.site);
    lua_pushstring(L, b.name);
    lua_pushstring(L, b.host);
    lua_pushstring(L, how[b.how]);
    lua_pushnumber(L, (lua_Number)b.ns * 1e-9);
    return 5;
}

static int decode_item(lua_State *L, const job_box *box, const tp_block *b, uint32_t k)
{
    size_t len;
    const uint8_t *message = tp_block_message(b, k, &len);
    tp_error err;
    tp_error_clear(&err);
    int n = tp_decode_with(L, message, len, b->bytes.refs, b->bytes.nrefs,
                           b->is_foreign ? 0 : TP_DECODE_TRUSTED, box->captured, &err);
    if (n < 0)
        tp_codec_raise(L, &err);
    return n;
}

/* Pushes the values of item k of columns of scalars or doubles; gives how many. */
static int push_scalars(lua_State *L, const tp_block *b, uint32_t k)
{
    uint32_t n = 0;
    for (; n < b->columns; n++) {
        if (b->type[n] == TP_DOUBLE) {
            lua_pushnumber(L, ((const double *)b->column[n])[k]);
            continue;
        }
        const tp_scalar *x = (const tp_scalar *)b->column[n] + k;
        if (x->kind == TP_SCALAR_ABSENT)
            break;
        tp_scalar_push(L, b, x);
    }
    return (int)n;
}

static tp_block *check_reading(lua_State *L, job_box *box)
{
    tp_block *b = box->reading;
    if (!b ||
        (!b->ends && (b->columns == 0 || (b->type[0] != TP_MIXED && b->type[0] != TP_DOUBLE))))
        luaL_error(L, "no block of values is being read");
    return b;
}

/* core.job.item(job, k) -> the values of item k (from 0) of the block */
static int l_job_item(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = check_reading(L, box);
    lua_Integer k = luaL_checkinteger(L, 2);
    luaL_argcheck(L, k >= 0 && k < b->n, 2, "no such item");
    return b->ends ? decode_item(L, box, b, (uint32_t)k) : push_scalars(L, b, (uint32_t)k);
}

/* core.job.input(job) -> for the failure that is being read: whether the item's arguments are
 * known, and the arguments. Raises when they cannot be decoded. */
static int l_job_input(lua_State *L)
{
    job_box *box = check_job(L, 1);
    const tp_buf *m = &check_reading(L, box)->input;
    tp_error err = { 0 };
    lua_pushboolean(L, m->len > 0);
    if (m->len == 0)
        return 1;
    int n = tp_decode_with(L, m->data, m->len, m->refs, m->nrefs, TP_DECODE_TRUSTED, box->captured,
                           &err);
    return n < 0 ? tp_codec_raise(L, &err) : 1 + n;
}

/* core.job.fill(job, lists, base, from): for a block of messages: value j of item k becomes
 * lists[j][base + k], for k from `from` (0: the first); missing lists are made */
static int l_job_fill(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = check_reading(L, box);
    luaL_argcheck(L, b->ends, 1, "no block of messages is being read");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer base = luaL_checkinteger(L, 3), from = luaL_checkinteger(L, 4);
    lua_settop(L, 2);
    int known = (int)lua_objlen(L, 2);
    lua_rawgeti(L, 2, 1);                            // job lists list1
    for (uint32_t k = (uint32_t)from; k < b->n; k++) {
        int n = decode_item(L, box, b, k);                // job lists list1 v1 .. vn
        for (int j = n; j >= 1; j--) {
            if (j == 1 && known >= 1) {
                lua_rawseti(L, 3, (int)(base + k));
                continue;
            }
            if (j > known) { /* lists in between exist already, if empty */
                for (int m = known + 1; m <= j; m++) {
                    lua_newtable(L);
                    lua_rawseti(L, 2, m);
                }
                known = j;
                lua_rawgeti(L, 2, 1);
                lua_replace(L, 3);
            }
            lua_rawgeti(L, 2, j);
            lua_insert(L, -2);
            lua_rawseti(L, -2, (int)(base + k));
            lua_pop(L, 1);
        }
    }
    return 0;
}

/* ---- waiting ---- */

/* The agent waits for the jobs and runs items meanwhile. */
static bool help(lua_State *L, context *ctx, tp_agent *agent, tp_job *const *jobs,
                 const uint32_t *seen, unsigned n, uint64_t deadline)
{
    /* In the owner's own state the agent is not the state's: it runs items in a state of its
     * own. */
    bool is_inside = agent == ctx->agent;
    lua_State *before = is_inside ? tp_vm_enter(agent->worker.vm, L) : NULL;
    bool has_run = tp_exec_wait(agent, jobs, seen, n, deadline);
    if (is_inside)
        tp_vm_enter(agent->worker.vm, before);
    return has_run;
}

/* core.job.wait(job, seconds or nil, is_endless): waits until there may be results, room or the end
 * that were not there at the last core.job.next, or until so many seconds have passed. Runs the
 * loop meanwhile or, in a worker, items of the job. Raises "interrupted" after
 * tp_host_interrupt. */
static int l_job_wait(lua_State *L)
{
    context *ctx = get_context(L);
    job_box *box = check_job(L, 1);
    uint64_t deadline = tp_core_deadline_after(L, 2);
    luaL_checkstack(L, LUA_MINSTACK * 2, "nested map");
    bool is_endless = lua_toboolean(L, 3);
    if (!box->waits_on) {
        if (is_endless)
            tp_engine_set_waiting(ctx->host->engine, true);
        tp_host_wait(ctx->host, box->job, box->seen, deadline);
        if (is_endless)
            tp_engine_set_waiting(ctx->host->engine, false);
    } else if (tp_job_eventcount(box->job) == box->seen)
        help(L, ctx, box->waits_on, &box->job, &box->seen, 1, deadline);
    tp_core_check_interrupt(L, ctx);
    return 0;
}

/* core.job.help(jobs, seconds or nil) -> whether an item was run. Waits as core.job.wait does, for
 * the first news of any job in the list. All of them must be jobs that the caller's own thread runs
 * or helps with. */
static int l_job_help(lua_State *L)
{
    context *ctx = get_context(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    uint64_t deadline = tp_core_deadline_after(L, 2);
    unsigned n = (unsigned)lua_objlen(L, 1);
    luaL_checkstack(L, LUA_MINSTACK * 2, "nested map");
    tp_job **jobs = lua_newuserdata(L, (n + 1) * sizeof *jobs);
    uint32_t *seen = lua_newuserdata(L, (n + 1) * sizeof *seen);
    tp_agent *agent = ctx->agent;
    for (unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        job_box *box = check_job(L, -1);
        jobs[i] = box->job;
        seen[i] = box->seen;
        agent = box->waits_on;
        lua_pop(L, 1);
    }
    luaL_argcheck(L, agent, 1, "the jobs are run by workers");
    lua_pushboolean(L, help(L, ctx, agent, jobs, seen, n, deadline));
    tp_core_check_interrupt(L, ctx);
    return 1;
}

/* core.job.key(job) -> the key that core.job.collect returns for it, and whether the caller's own
 * thread runs or helps with it (then it is not collected) */
static int l_job_key(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushlightuserdata(L, box->job);
    lua_pushboolean(L, box->waits_on != NULL);
    return 2;
}

/* core.job.await(job) -> false when there are news since the last core.job.next or core.job.look;
 * otherwise core.job.collect will return the job once there are */
static int l_job_await(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_await(box->job, box->seen));
    return 1;
}

static int l_job_unawait(lua_State *L)
{
    tp_job_unawait(check_job(L, 1)->job);
    return 0;
}

/* core.job.has_news(job) -> are there news since the last core.job.next or core.job.look? */
static int l_job_has_news(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_eventcount(box->job) != box->seen);
    return 1;
}

/* core.job.look(job): marks the news that there are as seen */
static int l_job_look(lua_State *L)
{
    job_box *box = check_job(L, 1);
    box->seen = tp_job_eventcount(box->job);
    return 0;
}

/* core.job.is_idle(job) -> see tp_job_is_idle */
static int l_job_is_idle(lua_State *L)
{
    lua_pushboolean(L, tp_job_is_idle(check_job(L, 1)->job));
    return 1;
}

/* core.job.collect() -> the key of a job with news that was awaited; nil when there is none */
static int l_job_collect(lua_State *L)
{
    context *ctx = get_context(L);
    tp_waiter *waiter = ctx->agent ? &ctx->agent->waiter : &ctx->listener->waiter;
    tp_job *job = tp_job_collect(ctx->host->engine, waiter);
    if (!job)
        return 0;
    lua_pushlightuserdata(L, job);
    return 1;
}

/* ---- counts and states ---- */

/* core.job.is_over(job) -> have all results been handed out? */
static int l_job_is_over(lua_State *L)
{
    lua_pushboolean(L, tp_job_is_over(check_job(L, 1)->job));
    return 1;
}

/* core.job.is_cancelled(job) -> boolean; and when nobody asked for it, the kind of failure and the
 * reason: the executor cannot run anything, or memory ran out */
static int l_job_is_cancelled(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_is_cancelled(box->job));
    const tp_error *lost = tp_job_lost(box->job);
    if (!lost && !tp_job_is_starved(box->job))
        return 1;
    lua_pushstring(L, tp_failure_kind_name(lost ? tp_failure_kind_of(lost->code, TP_KIND_RESOURCE)
                                                : TP_KIND_MEMORY));
    lua_pushstring(L, lost ? lost->message : TP_NO_MEMORY);
    return 3;
}

/* core.job.set_reading(job, boolean): does a loop of the user's read results one by one? */
static int l_job_set_reading(lua_State *L)
{
    tp_job_set_reading(check_job(L, 1)->job, lua_toboolean(L, 2));
    return 0;
}

/* core.job.leave(job): see tp_job_leave */
static int l_job_leave(lua_State *L)
{
    tp_job_leave(check_job(L, 1)->job);
    return 0;
}

/* core.job.stop(job): see tp_job_stop */
static int l_job_stop(lua_State *L)
{
    tp_job_stop(check_job(L, 1)->job);
    return 0;
}

static int l_job_cancel(lua_State *L)
{
    const job_box *box = check_job(L, 1);
    cancel(box);
    end_waits(get_context(L), box);
    return 0;
}

static void set_count(lua_State *L, const char *name, uint64_t n)
{
    lua_pushnumber(L, (double)n);
    lua_setfield(L, -2, name);
}

/* core.job.counts(job) -> a table of counts of inputs: pushed, finished, skipped (finished without
 * being run), failed, delivered, retried; and has_all: no more will come. Of a closed job those
 * that it had then. */
static int l_job_counts(lua_State *L)
{
    job_box *box = luaL_checkudata(L, 1, JOB);
    tp_job_counts c = box->counts;
    if (box->job)
        tp_job_get_counts(box->job, &c);
    lua_createtable(L, 0, 7);
    set_count(L, "pushed", c.pushed);
    set_count(L, "finished", c.finished);
    set_count(L, "skipped", c.skipped);
    set_count(L, "failed", c.failed);
    set_count(L, "delivered", c.delivered);
    set_count(L, "retried", c.retried);
    lua_pushboolean(L, c.closed);
    lua_setfield(L, -2, "has_all");
    return 1;
}

static const char *name_of_reason(tp_reason reason)
{
    switch (reason) {
    case TP_REASON_INPUTS: return "inputs";
    case TP_REASON_READER: return "reader";
    case TP_REASON_ORDER: return "order";
    case TP_REASON_LIMIT: return "limit";
    case TP_REASON_RETRY: return "retry";
    case TP_REASON_WORKERS:
    case TP_REASON_NONE: break;
    }
    return NULL;
}

/* core.job.state(job) -> why nothing of it is begun ("inputs", "reader", "order", "limit", "retry")
 * or nil; its function's limit or nil; the index of the item that has been running for longest or
 * nil, and for how many seconds; how many maps are open in its items, and of those of one function
 * its name, how many inputs are done and of how many; the function whose items keep all workers,
 * though their maps were given up, or nil; whether items wait for a compiler on another machine */
static int l_job_state(lua_State *L)
{
    tp_job_state s;
    tp_job_get_state(check_job(L, 1)->job, &s);
    lua_pushstring(L, name_of_reason(s.reason)); /* nil for NULL */
    lua_pushnil(L);
    lua_pushnil(L);
    lua_pushnil(L);
    if (s.limit) {
        lua_pushinteger(L, (lua_Integer)s.limit);
        lua_replace(L, -4);
    }
    if (s.since_ns) {
        lua_pushnumber(L, (double)s.oldest + 1);
        lua_replace(L, -3);
        lua_pushnumber(L, (double)(uv_hrtime() - s.since_ns) * 1e-9);
        lua_replace(L, -2);
    }
    lua_pushinteger(L, (lua_Integer)s.maps);
    lua_pushstring(L, s.inside);
    lua_pushnumber(L, (double)s.inside_done);
    lua_pushnumber(L, (double)s.inside_total);
    lua_pushstring(L, *s.given_up ? s.given_up : NULL);
    lua_pushboolean(L, s.compiling > 0);
    return 10;
}

/* core.job.lost(job) -> see tp_job_lost_items: how many, and the device's number */
static int l_job_lost(lua_State *L)
{
    int site = 0;
    lua_pushnumber(L, (lua_Number)tp_job_lost_items(check_job(L, 1)->job, &site));
    lua_pushinteger(L, site + 1);
    return 2;
}

/* core.job.is_settled(job) -> do all inputs that were pushed so far have their results? */
static int l_job_is_settled(lua_State *L)
{
    tp_job_counts c;
    tp_job_get_counts(check_job(L, 1)->job, &c);
    lua_pushboolean(L, c.finished == c.pushed);
    return 1;
}

/* core.job.busy(job) -> how many workers of the job's executor are running items, of any job */
static int l_job_busy(lua_State *L)
{
    tp_executor *ex = tp_job_executor(check_job(L, 1)->job);
    lua_pushinteger(L, tp_engine_busy(get_context(L)->host->engine, ex));
    return 1;
}

/* Raises an error at the place that has called coroutine.yield, which is Lua of ours here. */
static int refuse_emit(lua_State *L, const char *why)
{
    luaL_where(L, 2);
    lua_pushstring(L, why);
    lua_concat(L, 2);
    return lua_error(L);
}

/* core.job.emit(...) -> true when the running item streams: then these were given as values of it,
 * once there was room for them. Raises when they cannot travel, or when nobody wants any more. */
static int l_job_emit(lua_State *L)
{
    context *ctx = get_context(L);
    tp_work *w = ctx->agent ? tp_core_work(ctx) : NULL;
    if (!w || !w->terms->streams || !tp_vm_runs_on(ctx->agent->worker.vm, L))
        return 0;
    static const char *const names[] = { "value 1", "value 2", "value 3",
                                         "value 4", "value 5", "value 6" };
    tp_error err = { 0 };
    int n = lua_gettop(L);
    tp_block_free(ctx->emitting);
    tp_block *b = ctx->emitting = tp_block_new_values(TP_BLOCK_PART); /* the encoder may raise */
    if (!b || tp_block_reserve(b))
        return tp_codec_raise_memory(L);
    if (w->sink->home)
        b->bytes.home = w->sink->home(w);
    if (tp_encode_with(L, 1, n, n <= 6 ? names : NULL, w->sink->encoding, NULL, &b->bytes, &err))
        return err.code == TP_EMEMORY ? tp_codec_raise_memory(L) : refuse_emit(L, err.message);
    tp_block_add(b);
    ctx->emitting = NULL;
    if (w->sink->emit(w, b))
        return refuse_emit(L, "nobody reads these values any more");
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg job_functions[] = {
    { "open", l_job_open },
    { "go_beside", l_job_go_beside },
    { "set_reducer", l_job_set_reducer },
    { "reduce", l_job_reduce },
    { "hold_back", l_job_hold_back },
    { "has_begun", l_job_has_begun },
    { "close", l_job_close },
    { "room", l_job_room },
    { "numbers", l_job_numbers },
    { "columns", l_job_columns },
    { "push_columns", l_job_push_columns },
    { "push_arrays", l_job_push_arrays },
    { "add", l_job_add },
    { "add_list", l_job_add_list },
    { "push", l_job_push },
    { "push_failure", l_job_push_failure },
    { "finish", l_job_finish },
    { "next", l_job_next },
    { "stay", l_job_stay },
    { "ran", l_job_ran },
    { "build", l_job_build },
    { "item", l_job_item },
    { "input", l_job_input },
    { "fill", l_job_fill },
    { "wait", l_job_wait },
    { "help", l_job_help },
    { "key", l_job_key },
    { "await", l_job_await },
    { "unawait", l_job_unawait },
    { "has_news", l_job_has_news },
    { "look", l_job_look },
    { "is_idle", l_job_is_idle },
    { "collect", l_job_collect },
    { "is_over", l_job_is_over },
    { "is_cancelled", l_job_is_cancelled },
    { "set_reading", l_job_set_reading },
    { "leave", l_job_leave },
    { "stop", l_job_stop },
    { "cancel", l_job_cancel },
    { "counts", l_job_counts },
    { "state", l_job_state },
    { "lost", l_job_lost },
    { "is_settled", l_job_is_settled },
    { "busy", l_job_busy },
    { "emit", l_job_emit },
    { NULL, NULL },
};

void tp_core_register_job(lua_State *L)
{
    /* the metatable may exist already: when memory runs out here, all of this is done again */
    luaL_newmetatable(L, JOB);
    lua_pushcfunction(L, l_job_close);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, l_job_tostring);
    lua_setfield(L, -2, "__tostring");
    get_context(L)->job_metatable = lua_topointer(L, -1);
    lua_pop(L, 1);
    register_options(L);
    tp_core_register(L, "job", job_functions);
}
