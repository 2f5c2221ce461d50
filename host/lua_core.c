/* lua_core.c: every C function that Lua can call: the module "tidepool.core", which lua/tidepool/ is written against.
 *
 * Nothing here is for users: arguments come from our own Lua code, so that the checks are there to catch our mistakes and to keep
 * memory safe. What a user may do wrong comes back as nil and a message. */
#include "lua_core.h"

#include "device.h"
#include "exec_opencl.h"
#include "lua_modules.h"
#include "scalar.h"
#include "value.h"
#include "vm.h"

#include <dlfcn.h>
#include <errno.h>
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <math.h>
#include <stdio.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/wait.h>
#include <unistd.h>

/* What the owner's state lends to blocks (strings of TP_SCALAR_LENT): a reference in its registry each, which may be let go by any thread, and then waits in
 * a list until the owner's thread is here again. */
typedef struct lender {
    tp_ref ref;
    _Atomic(struct loan *) returned;
} lender;

typedef struct loan {
    tp_ref ref;
    lender *from;      /* held until it is returned */
    struct loan *next; /* in from->returned */
    int anchor;        /* registry reference */
} loan;

/* What the functions of one state share: a userdata in its registry, and their first upvalue. */
typedef struct context {
    tp_host *host;
    tp_agent *agent; /* the worker whose state this is, NULL in the owner's */
    lua_State *main; /* the state's main thread */
    tp_buf scratch;  /* of image */
    lender *lender;  /* one reference; NULL until something was lent */
} context;

#define JOB "tidepool.job"

/* A job with what its owner is filling and reading. */
typedef struct job_box {
    tp_job *job;        /* NULL once closed */
    tp_block *building; /* inputs that are not pushed yet */
    tp_block *reading;  /* results that are given out item by item */
    uint32_t seen;      /* news when results were looked for last */
    tp_agent *waits_on; /* the agent that runs items while this job is waited for; NULL: the host's loop is run */
} job_box;

static context *get_context(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

static job_box *check_job(lua_State *L, int index)
{
    job_box *box = luaL_checkudata(L, index, JOB);
    if (!box->job)
        luaL_argerror(L, index, "the job is closed");
    return box;
}

static int push_message(lua_State *L, const tp_error *err)
{
    lua_pushnil(L);
    lua_pushstring(L, err->message);
    return 2;
}

/* ---- functions ---- */

/* core.func(name, limit) -> func */
static int l_func(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    unsigned limit = (unsigned)luaL_optinteger(L, 2, 0);
    tp_ref **box = tp_codec_push_box(L, &tp_func_type);
    tp_func *f = tp_func_new(name, limit);
    if (!f)
        return luaL_error(L, "not enough memory");
    *box = &f->ref;
    return 1;
}

static tp_func *check_func(lua_State *L, int index)
{
    tp_func *f = tp_codec_to_ref(L, index, &tp_func_type);
    if (!f)
        luaL_typerror(L, index, "tidepool.func");
    return f;
}

/* core.stats(func) -> queued, running, done, failed */
static int l_stats(lua_State *L)
{
    tp_func *f = check_func(L, 1);
    uv_mutex_t *lock = tp_engine_lock(get_context(L)->host->engine);
    uv_mutex_lock(lock);
    double counts[4] = { (double)f->queued, (double)f->active, (double)f->done, (double)f->failed };
    uv_mutex_unlock(lock);
    for (int i = 0; i < 4; i++)
        lua_pushnumber(L, counts[i]);
    return 4;
}

/* core.image(fn, package.path, package.cpath, name, last image or nil) -> image, or nil and a message: what the function captures that cannot
 * travel */
static int l_image(lua_State *L)
{
    context *ctx = get_context(L);
    luaL_checktype(L, 1, LUA_TFUNCTION);
    tp_error err = { 0 };
    tp_codec_new_epoch(L);
    if (tp_image_encode(L, 1, luaL_checkstring(L, 4), &ctx->scratch, &err) < 0)
        return push_message(L, &err);
    tp_image *last = lua_isnoneornil(L, 5) ? NULL : tp_codec_to_ref(L, 5, &tp_image_type);
    if (last && tp_image_is(last, &ctx->scratch)) {
        lua_pushvalue(L, 5);
        return 1;
    }
    tp_ref **box = tp_codec_push_box(L, &tp_image_type);
    tp_image *image = tp_image_new(&ctx->scratch);
    if (!image)
        return luaL_error(L, "not enough memory");
    *box = &image->ref;
    return 1;
}

/* ---- jobs: opening and closing ---- */

/* The last owner of a loan: any thread. */
static void return_loan(tp_ref *r)
{
    loan *l = (loan *)r;
    lender *from = l->from;
    l->next = atomic_load_explicit(&from->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&from->returned, &l->next, l, memory_order_acq_rel, memory_order_relaxed))
        ;
    tp_ref_drop(from);
}

static const tp_ref_type loan_type = { "tidepool.loan", return_loan };

static void free_lender(tp_ref *r)
{
    lender *from = (lender *)r;
    for (loan *l = atomic_load_explicit(&from->returned, memory_order_acquire), *next; l; l = next) {
        next = l->next;
        free(l);
    }
    free(from);
}

static const tp_ref_type lender_type = { "tidepool.lender", free_lender };

/* Lets go of what was returned. */
static void take_back(lua_State *L, context *ctx)
{
    if (!ctx->lender || !atomic_load_explicit(&ctx->lender->returned, memory_order_relaxed))
        return;
    for (loan *l = atomic_exchange_explicit(&ctx->lender->returned, NULL, memory_order_acquire), *next; l; l = next) {
        next = l->next;
        luaL_unref(L, LUA_REGISTRYINDEX, l->anchor);
        free(l);
    }
}

/* Keeps the table on top alive for as long as the block lives, and pops it. Raises out of memory. */
static void lend(lua_State *L, context *ctx, tp_block *b)
{
    if (!ctx->lender) {
        lender *made = malloc(sizeof *made);
        if (!made)
            luaL_error(L, "not enough memory");
        tp_ref_init(&made->ref, &lender_type);
        atomic_init(&made->returned, NULL);
        ctx->lender = made;
    }
    int anchor = luaL_ref(L, LUA_REGISTRYINDEX);
    loan *l = malloc(sizeof *l);
    if (!l || tp_block_give(b, &l->ref)) {
        free(l);
        luaL_unref(L, LUA_REGISTRYINDEX, anchor);
        luaL_error(L, "not enough memory");
        return;
    }
    tp_ref_init(&l->ref, &loan_type);
    l->from = tp_ref_hold(ctx->lender);
    l->anchor = anchor;
}

static void release(job_box *box)
{
    tp_block_free(box->building);
    tp_block_free(box->reading);
    box->building = box->reading = NULL;
    tp_job *job = box->job;
    box->job = NULL;
    if (job)
        tp_job_close(job);
}

/* job:__gc, core.close(job): cancels what is not finished. */
static int l_close(lua_State *L)
{
    release(luaL_checkudata(L, 1, JOB));
    if (!lua_isnone(L, lua_upvalueindex(1)))
        take_back(L, get_context(L));
    return 0;
}

static bool get_boolean(lua_State *L, int t, const char *key)
{
    lua_getfield(L, t, key);
    bool value = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return value;
}

static double get_number(lua_State *L, int t, const char *key, double otherwise)
{
    lua_getfield(L, t, key);
    double value = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return value;
}

static tp_retries get_retries(lua_State *L, int t)
{
    tp_retries r = { 0 };
    lua_getfield(L, t, "retries");
    if (lua_istable(L, -1)) {
        int at = lua_gettop(L);
        r.max = (unsigned)get_number(L, at, "max", 0);
        r.initial_delay_s = get_number(L, at, "initial_delay", 0);
        r.backoff = get_number(L, at, "backoff", 1);
        r.max_delay_s = get_number(L, at, "max_delay", INFINITY);
        r.jitter = get_number(L, at, "jitter", 0);
        lua_getfield(L, at, "on");
        r.notify = !lua_isnil(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return r;
}

/* The argument is the `memory` field of an array, a void * of FFI: a cdata, of which the address is behind what lua_topointer gives. */
static tp_array *check_memory(lua_State *L, int index)
{
    tp_array *a = lua_type(L, index) == LUA_TLIGHTUSERDATA ? lua_touserdata(L, index) : NULL;
    if (!a && lua_topointer(L, index))
        memcpy(&a, lua_topointer(L, index), sizeof a);
    luaL_argcheck(L, a && a->ref.type == &tp_array_type, index, "an array's memory expected");
    return a;
}

/* Option `returns`: { columns = { type number, ... }, memory = { memory, ... } or nil } */
static tp_returns get_returns(lua_State *L, int t)
{
    tp_returns r = { 0 };
    lua_getfield(L, t, "returns");
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
                r.array[c] = check_memory(L, lua_gettop(L));
                lua_pop(L, 1);
            }
        }
        lua_pop(L, 2);
    }
    lua_pop(L, 1);
    return r;
}

/* Option `lent`: a list of the numbers of devices, or nil. */
static bool get_devices(lua_State *L, int t, uint64_t *devices)
{
    lua_getfield(L, t, "lent");
    bool is_given = lua_istable(L, -1);
    for (int i = 1, n = is_given ? (int)lua_objlen(L, -1) : 0; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        *devices |= (uint64_t)1 << ((unsigned)lua_tointeger(L, -1) - 1) % TP_DEVICES_MAX;
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return is_given;
}

/* ---- devices ---- */

/* core.program(device number, source, options, kernel name) -> program, or nil, a message, and the compiler's log */
static int l_program(lua_State *L)
{
    tp_executor *ex = tp_host_executor(get_context(L)->host, tp_exec_opencl.name);
    tp_error err = { 0 };
    char *log = NULL;
    if (!tp_host_is_usable(get_context(L)->host)) {
        tp_error_set(&err, TP_EUSAGE, "Tidepool is not usable after fork, in the child");
        return push_message(L, &err);
    }
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    const char *source = luaL_checkstring(L, 2), *options = luaL_checkstring(L, 3), *name = luaL_checkstring(L, 4);
    tp_ref **box = tp_codec_push_box(L, &tp_program_type);
    tp_program *p = tp_program_open(ex, device, source, options, name, &log, &err);
    if (p) {
        *box = &p->ref;
        return 1;
    }
    push_message(L, &err);
    lua_pushstring(L, log); // nil message log; raises only when memory is out
    free(log);
    return 3;
}

static const char *get_text(lua_State *L, int t, const char *key)
{
    lua_getfield(L, t, key);
    const char *text = lua_tostring(L, -1); /* the table keeps it */
    lua_pop(L, 1);
    return text;
}

static void get_argument(lua_State *L, int t, tp_argument *a)
{
    a->kind = (tp_argument_kind)get_number(L, t, "kind", 0);
    a->type = (tp_type)get_number(L, t, "type", 0);
    a->index = (unsigned)get_number(L, t, "index", 1) - 1;
    a->size = a->kind == TP_ARG_ARRAY ? (size_t)get_number(L, t, "bytes", 1) : tp_type_size(a->type);
    double value = get_number(L, t, "value", 0);
    if (a->type == TP_DOUBLE)
        a->value.f64 = value;
    else if (a->type == TP_FLOAT)
        a->value.f32 = (float)value;
    else
        a->value.i64 = (int64_t)value; /* little endian: its first bytes are the narrower integer */
    if (a->kind == TP_ARG_ARRAY) {
        lua_getfield(L, t, "memory");
        a->array = tp_ref_hold(check_memory(L, lua_gettop(L)));
        a->data = (char *)a->array->data + (size_t)get_number(L, t, "offset", 0);
        a->is_written = get_boolean(L, t, "is_written");
        lua_pop(L, 1);
    }
}

/* Reads a list of types at field key; gives how many. */
static unsigned get_types(lua_State *L, int t, const char *key, tp_type *types)
{
    lua_getfield(L, t, key);
    unsigned n = (unsigned)lua_objlen(L, -1);
    luaL_argcheck(L, n <= TP_COLUMNS_MAX, 1, "too many columns");
    for (unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, -1, (int)i + 1);
        types[i] = (tp_type)lua_tointeger(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    return n;
}

static char *copy_of(lua_State *L, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        luaL_error(L, "not enough memory");
    return copy;
}

static void get_failures(lua_State *L, int t, tp_kernel *k)
{
    lua_getfield(L, t, "failures");
    unsigned n = (unsigned)lua_objlen(L, -1);
    luaL_argcheck(L, n <= TP_FAILURES_MAX, 1, "too many failures");
    for (unsigned i = 0; i < n; i++) {
        tp_device_failure *f = &k->failures[i];
        lua_rawgeti(L, -1, (int)i + 1);
        int at = lua_gettop(L);
        k->n_failures = i + 1;
        f->plain = copy_of(L, get_text(L, at, "plain"));
        f->before = copy_of(L, get_text(L, at, "before"));
        f->after = copy_of(L, get_text(L, at, "after"));
        f->n = get_number(L, at, "n", 0);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* core.kernel { programs = { { device =, lanes =, program = }, ... }, arguments = { { kind =, type =, ... }, ... }, inputs =, outputs = lists of types,
 * booleans = { [output] = true }, failures = { { plain =, before =, after =, n = }, ... }, detail =, group =, has_rows =, is_foreign = } -> kernel: see
 * tp_kernel */
static int l_kernel(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    tp_ref **box = tp_codec_push_box(L, &tp_kernel_type);
    tp_kernel *k = tp_kernel_new();
    if (!k)
        return luaL_error(L, "not enough memory");
    *box = &k->ref; /* owns it when something below raises */
    lua_getfield(L, 1, "programs");
    for (int i = 1, n = (int)lua_objlen(L, -1); i <= n; i++) {
        lua_rawgeti(L, -1, i);                          // kernel programs one
        int at = lua_gettop(L);
        lua_getfield(L, at, "program");                 // kernel programs one program
        tp_program *p = tp_codec_to_ref(L, -1, &tp_program_type);
        luaL_argcheck(L, p && !k->programs[p->device], 1, "a program for each device expected");
        k->programs[p->device] = tp_ref_hold(p);
        k->lanes[p->device] = (unsigned)get_number(L, at, "lanes", 1);
        k->devices |= (uint64_t)1 << p->device;
        lua_pop(L, 2);
    }
    lua_getfield(L, 1, "arguments");
    int n = (int)lua_objlen(L, -1);
    luaL_argcheck(L, n <= TP_ARGUMENTS_MAX, 1, "too many arguments");
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, -1, i);
        get_argument(L, lua_gettop(L), &k->arguments[i - 1]);
        k->n_arguments = (unsigned)i;
        k->is_writer |= k->arguments[i - 1].is_written;
        lua_pop(L, 1);
    }
    k->n_inputs = get_types(L, 1, "inputs", k->input_type);
    k->n_outputs = get_types(L, 1, "outputs", k->output_type);
    lua_getfield(L, 1, "booleans");
    for (unsigned c = 0; c < k->n_outputs; c++) {
        lua_rawgeti(L, -1, (int)c + 1);
        k->is_boolean[c] = lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    get_failures(L, 1, k);
    k->detail = (int)get_number(L, 1, "detail", 0) - 1;
    k->group = (unsigned)get_number(L, 1, "group", 1);
    k->has_rows = get_boolean(L, 1, "has_rows");
    k->is_foreign = get_boolean(L, 1, "is_foreign");
    lua_settop(L, 2);
    return 1;
}

/* ---- devices by hand: see device.h ---- */

static void *check_ref(lua_State *L, int index, const tp_ref_type *type)
{
    void *r = tp_codec_to_ref(L, index, type);
    if (!r)
        luaL_typerror(L, index, type->metatable);
    return r;
}

/* In a forked child a driver's threads are gone: waiting for them would have no end. */
static tp_queue *check_queue(lua_State *L, int index)
{
    if (!tp_host_is_usable(get_context(L)->host)) {
        lua_pushliteral(L, "Tidepool is not usable after fork, in the child");
        lua_error(L);
    }
    return check_ref(L, index, &tp_queue_type);
}

static int push_true_or(lua_State *L, int rc, const tp_error *err)
{
    if (rc)
        return push_message(L, err);
    lua_pushboolean(L, 1);
    return 1;
}

/* core.queue(device number) -> queue, or nil and a message */
static int l_queue(lua_State *L)
{
    context *ctx = get_context(L);
    tp_executor *ex = tp_host_executor(ctx->host, tp_exec_opencl.name);
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    tp_error err = { 0 };
    tp_queue *q;
    if (!tp_host_is_usable(ctx->host))
        tp_error_set(&err, TP_EUSAGE, "Tidepool is not usable after fork, in the child");
    else if (tp_queue_open(&q, ex, device, &err) == 0) {
        tp_codec_push_ref(L, &q->ref);
        tp_ref_drop(q);
        return 1;
    }
    return push_message(L, &err);
}

/* core.finish_queue(queue) -> true, or nil and a message */
static int l_finish_queue(lua_State *L)
{
    tp_error err = { 0 };
    int rc = tp_queue_finish(check_queue(L, 1), &err);
    return push_true_or(L, rc, &err);
}

/* core.buffer(queue, bytes, memory, offset) -> buffer and whether the memory is its own, or nil and a message: filled with what is there, or, without
 * memory, with zeros */
static int l_buffer(lua_State *L)
{
    tp_queue *q = check_queue(L, 1);
    tp_array *a = lua_isnoneornil(L, 3) ? NULL : check_memory(L, 3);
    size_t size = (size_t)luaL_checknumber(L, 2), offset = (size_t)luaL_optnumber(L, 4, 0);
    luaL_argcheck(L, !a || (offset <= a->size && size <= a->size - offset), 2, "more bytes than the memory has");
    tp_error err = { 0 };
    tp_buffer *b;
    if (tp_buffer_open(&b, q, size, a, a ? (char *)a->data + offset : NULL, &err))
        return push_message(L, &err);
    tp_codec_push_ref(L, &b->ref);
    lua_pushboolean(L, b->array != NULL);
    tp_ref_drop(b);
    return 2;
}

/* (queue, buffer, memory, offset, bytes): what is read and written */
static char *check_transfer(lua_State *L, size_t *size)
{
    tp_buffer *b = check_ref(L, 2, &tp_buffer_type);
    tp_array *a = check_memory(L, 3);
    size_t offset = (size_t)luaL_checknumber(L, 4);
    *size = (size_t)luaL_checknumber(L, 5);
    luaL_argcheck(L, offset <= a->size && *size <= a->size - offset && *size <= b->size, 5, "more bytes than there are");
    return (char *)a->data + offset;
}

/* core.read_buffer(queue, buffer, memory, offset, bytes, type) -> true, or nil and a message */
static int l_read_buffer(lua_State *L)
{
    size_t size;
    char *to = check_transfer(L, &size);
    tp_error err = { 0 };
    int rc = tp_buffer_read(check_queue(L, 1), check_ref(L, 2, &tp_buffer_type), to, size, (tp_type)luaL_checkinteger(L, 6), &err);
    return push_true_or(L, rc, &err);
}

/* core.write_buffer(queue, buffer, memory, offset, bytes) -> true, or nil and a message */
static int l_write_buffer(lua_State *L)
{
    size_t size;
    const char *from = check_transfer(L, &size);
    tp_error err = { 0 };
    int rc = tp_buffer_write(check_queue(L, 1), check_ref(L, 2, &tp_buffer_type), from, size, &err);
    return push_true_or(L, rc, &err);
}

/* core.kernels(program) -> the names of its kernels with ";" between them, or nil and a message */
static int l_kernels(lua_State *L)
{
    char names[4096];
    tp_error err = { 0 };
    if (tp_program_kernels(check_ref(L, 1, &tp_program_type), names, sizeof names, &err))
        return push_message(L, &err);
    lua_pushstring(L, names);
    return 1;
}

/* core.launcher(program, name) -> launcher, parameters, its largest group, and the group that its source requires (a list, or nil); or nil and a message.
 * A parameter is { type, name, space }, or false when the compiler has not kept it. */
static int l_launcher(lua_State *L)
{
    tp_program *p = check_ref(L, 1, &tp_program_type);
    tp_error err = { 0 };
    tp_launcher *l;
    if (tp_launcher_open(&l, p, luaL_checkstring(L, 2), &err))
        return push_message(L, &err);
    tp_codec_push_ref(L, &l->ref); /* owns it */
    tp_ref_drop(l);
    lua_createtable(L, (int)l->n_parameters, 0);         // launcher parameters
    for (unsigned i = 0; i < l->n_parameters; i++) {
        tp_parameter parameter;
        if (tp_launcher_parameter(l, i, &parameter)) {
            lua_createtable(L, 3, 0);                    // launcher parameters one
            lua_pushstring(L, parameter.type);
            lua_rawseti(L, -2, 1);
            lua_pushstring(L, parameter.name);
            lua_rawseti(L, -2, 2);
            lua_pushstring(L, parameter.space == CL_KERNEL_ARG_ADDRESS_GLOBAL ? "global" :
                              parameter.space == CL_KERNEL_ARG_ADDRESS_CONSTANT ? "constant" :
                              parameter.space == CL_KERNEL_ARG_ADDRESS_LOCAL ? "local" : "private");
            lua_rawseti(L, -2, 3);
        } else {
            lua_pushboolean(L, 0);
        }
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_pushnumber(L, (double)l->local_max);
    if (l->local[0] == 0) {
        lua_pushnil(L);
        return 4;
    }
    lua_createtable(L, 3, 0);                            // launcher parameters largest required
    for (int i = 0; i < 3; i++) {
        lua_pushnumber(L, (double)l->local[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 4;
}

/* Reads up to three sizes from the list at index t; gives how many. */
static unsigned get_sizes(lua_State *L, int t, size_t *sizes)
{
    unsigned n = (unsigned)lua_objlen(L, t);
    luaL_argcheck(L, n >= 1 && n <= 3, t, "one to three sizes expected");
    for (unsigned i = 0; i < n; i++) {
        lua_rawgeti(L, t, (int)i + 1);
        sizes[i] = (size_t)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    return n;
}

/* core.launch(queue, launcher, global sizes, local sizes, arguments) -> true, or nil and a message. An argument is a buffer, a string of the value's bytes, or
 * a number: so many bytes of local memory. */
static int l_launch(lua_State *L)
{
    tp_queue *q = check_queue(L, 1);
    tp_launcher *l = check_ref(L, 2, &tp_launcher_type);
    size_t global[3], local[3];
    unsigned dimensions = get_sizes(L, 3, global);
    luaL_argcheck(L, get_sizes(L, 4, local) == dimensions, 4, "as many sizes as the global ones expected");
    luaL_checktype(L, 5, LUA_TTABLE);
    luaL_argcheck(L, lua_objlen(L, 5) == l->n_parameters, 5, "an argument for each parameter expected");
    tp_launch_argument *arguments = lua_newuserdata(L, (l->n_parameters + 1) * sizeof *arguments);
    for (unsigned i = 0; i < l->n_parameters; i++) {
        tp_launch_argument *a = &arguments[i];
        *a = (tp_launch_argument){ 0 };
        lua_rawgeti(L, 5, (int)i + 1);                   // ... argument; the table keeps it
        if (lua_type(L, -1) == LUA_TSTRING)
            a->bytes = lua_tolstring(L, -1, &a->size);
        else if (lua_type(L, -1) == LUA_TNUMBER)
            a->size = (size_t)lua_tonumber(L, -1);
        else
            a->buffer = check_ref(L, lua_gettop(L), &tp_buffer_type);
        lua_pop(L, 1);
    }
    tp_error err = { 0 };
    if (tp_launch(q, l, dimensions, global, local, arguments, &err))
        return push_message(L, &err);
    if (tp_program_is_new(l->program)) {
        if (tp_queue_finish(q, &err))
            return push_message(L, &err);
        tp_program_keep(tp_host_executor(get_context(L)->host, tp_exec_opencl.name), l->program);
    }
    lua_pushboolean(L, 1);
    return 1;
}

/* core.lent() -> the worker, and the numbers of the devices that the function that runs may drive: its option gpu; nothing when it has none */
static int l_lent(lua_State *L)
{
    const tp_agent *agent = get_context(L)->agent;
    uint64_t devices;
    if (!agent || !agent->current || !tp_job_lends(agent->current->job, &devices))
        return 0;
    lua_pushinteger(L, agent->index);
    lua_newtable(L);
    for (int i = 0, n = 0; i < TP_DEVICES_MAX; i++)
        if (devices >> i & 1) {
            lua_pushinteger(L, i + 1);
            lua_rawseti(L, -2, ++n);
        }
    return 2;
}

/* core.job(func, image or kernel, executor name, options) -> job, or nil and a message. Options: total, window, ordered, keep_going,
 * discard, is_cheap, retries, returns, lent (a list of device numbers, or nil); as in tp_job_config; fallback: an image that threads run when no device can;
 * reducer: see tp_job_set_reducer. */
static int l_job(lua_State *L)
{
    context *ctx = get_context(L);
    tp_error err = { 0 };
    tp_image *image = tp_codec_to_ref(L, 2, &tp_image_type);
    tp_kernel *kernel = tp_codec_to_ref(L, 2, &tp_kernel_type);
    luaL_argcheck(L, image || kernel, 2, "image or kernel expected");
    const char *name = luaL_checkstring(L, 3);
    luaL_checktype(L, 4, LUA_TTABLE);
    if (!image) {
        lua_getfield(L, 4, "fallback");
        image = lua_isnil(L, -1) ? NULL : tp_codec_to_ref(L, -1, &tp_image_type); /* the options keep it */
        lua_pop(L, 1);
    }
    tp_executor *ex = tp_host_executor(ctx->host, name);
    luaL_argcheck(L, ex, 3, "no such executor");
    if (!tp_host_is_usable(ctx->host)) {
        lua_pushnil(L);
        lua_pushliteral(L, "Tidepool is not usable after fork, in the child");
        return 2;
    }
    job_box *box = lua_newuserdata(L, sizeof *box);
    *box = (job_box){ 0 };
    luaL_getmetatable(L, JOB);
    lua_setmetatable(L, -2);
    box->waits_on = ctx->agent;
    if (!box->waits_on && ex->type == &tp_exec_inline) {
        box->waits_on = tp_host_agent(ctx->host, &err);
        if (!box->waits_on)
            return push_message(L, &err);
    }
    uint64_t lent = 0;
    bool lends = get_devices(L, 4, &lent);
    tp_job_config config = {
        .func = check_func(L, 1),
        .image = image,
        .kernel = kernel,
        .devices = kernel ? kernel->devices : 0,
        .executor = ex,
        .fallback = kernel && image ? tp_host_executor(ctx->host, tp_exec_threads.name) : NULL,
        .waiter = box->waits_on ? &box->waits_on->waiter : &ctx->host->waiter,
        .owner = ctx->agent,
        .ordered = get_boolean(L, 4, "ordered"),
        .keep_going = get_boolean(L, 4, "keep_going"),
        .discard = get_boolean(L, 4, "discard"),
        .is_cheap = get_boolean(L, 4, "is_cheap"),
        .window = (uint64_t)fmin(get_number(L, 4, "window", 0), 0x1p62),
        .total = (int64_t)get_number(L, 4, "total", -1),
        .retries = get_retries(L, 4),
        .returns = get_returns(L, 4),
        .lends = lends,
        .lent = lent,
    };
    if (tp_job_open(&box->job, ctx->host->engine, &config, &err))
        return push_message(L, &err);
    lua_getfield(L, 4, "reducer");
    tp_kernel *reducer = lua_isnil(L, -1) ? NULL : tp_codec_to_ref(L, -1, &tp_kernel_type);
    lua_pop(L, 1);
    if (reducer)
        tp_job_set_reducer(box->job, reducer);
    return 1;
}

/* core.set_reducer(job, kernel): see tp_job_set_reducer */
static int l_set_reducer(lua_State *L)
{
    tp_job *job = check_job(L, 1)->job;
    tp_kernel *k = tp_codec_to_ref(L, 2, &tp_kernel_type);
    luaL_argcheck(L, k && k->group == TP_GROUP, 2, "a reducer expected");
    tp_job_set_reducer(job, k);
    return 0;
}

/* core.hold_back(job, held_back): see tp_job_hold_back */
static int l_hold_back(lua_State *L)
{
    tp_job_hold_back(check_job(L, 1)->job, lua_toboolean(L, 2));
    return 0;
}

/* ---- jobs: inputs ---- */

/* core.room(job) -> how many inputs may be pushed now */
static int l_room(lua_State *L)
{
    lua_pushnumber(L, (double)tp_job_room(check_job(L, 1)->job));
    return 1;
}

/* Starts a block of inputs. Raises out of memory. */
static tp_block *build_columns(lua_State *L, job_box *box, uint32_t capacity, uint32_t columns, const uint8_t *types, uint32_t text)
{
    luaL_argcheck(L, columns >= 1 && columns <= TP_COLUMNS_MAX, 3, "too many columns");
    tp_block_free(box->building);
    box->building = tp_block_new_columns(capacity, columns, types, text);
    if (!box->building)
        luaL_error(L, "not enough memory");
    return box->building;
}

/* core.numbers(job, capacity, columns) -> pointer: where the doubles of up to `capacity` items go, column after column; to be pushed by
 * core.push_columns */
static int l_numbers(lua_State *L)
{
    job_box *box = check_job(L, 1);
    uint32_t capacity = (uint32_t)luaL_checkinteger(L, 2), columns = (uint32_t)luaL_checkinteger(L, 3);
    lua_pushlightuserdata(L, build_columns(L, box, capacity, columns, NULL, 0)->column[0]);
    return 1;
}

/* core.columns(job, capacity, kinds, text) -> pointer to the columns' pointers, and to their tp_text of `text` bytes: where up to `capacity` items go,
 * a column for each letter of kinds, "d" for doubles and "m" for scalars of any kind; to be pushed by core.push_columns */
static int l_columns(lua_State *L)
{
    job_box *box = check_job(L, 1);
    uint8_t types[TP_COLUMNS_MAX];
    size_t columns;
    uint32_t capacity = (uint32_t)luaL_checkinteger(L, 2), text = (uint32_t)luaL_checkinteger(L, 4);
    const char *kinds = luaL_checklstring(L, 3, &columns);
    for (size_t c = 0; c < columns && c < TP_COLUMNS_MAX; c++)
        types[c] = kinds[c] == 'm' ? TP_MIXED : TP_DOUBLE;
    tp_block *b = build_columns(L, box, capacity, (uint32_t)columns, types, text);
    lua_pushlightuserdata(L, b->column);
    lua_pushlightuserdata(L, &b->text);
    return 2;
}

/* core.push_columns(job, n, lent): the first n items of what core.numbers or core.columns gave are inputs; none when n is 0. `lent` is a list of the strings
 * that their scalars refer to, or nil */
static int l_push_columns(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = box->building;
    uint32_t n = (uint32_t)luaL_checkinteger(L, 2);
    if (!b || b->kind != TP_BLOCK_COLUMNS || n > b->capacity)
        return luaL_argerror(L, 2, "no such columns");
    b->n = n;
    if (lua_istable(L, 3)) {
        lua_settop(L, 3);
        lend(L, get_context(L), b);
    }
    box->building = NULL;
    return tp_job_push(box->job, b) ? luaL_error(L, "not enough memory") : 0;
}

/* core.push_arrays(job, n, memory, type, pointer, ...): n inputs whose columns lie in typed arrays, which are not copied */
static int l_push_arrays(lua_State *L)
{
    job_box *box = check_job(L, 1);
    int columns = (lua_gettop(L) - 2) / 3;
    luaL_argcheck(L, columns >= 1 && columns <= TP_COLUMNS_MAX, 3, "too many columns");
    for (int c = 0; c < columns; c++) {
        check_memory(L, 3 + 3 * c);
        luaL_checkinteger(L, 4 + 3 * c);
        luaL_argcheck(L, lua_topointer(L, 5 + 3 * c), 5 + 3 * c, "a pointer expected");
    }
    tp_block *b = tp_block_new_borrowed(0, (uint32_t)luaL_checknumber(L, 2), (uint32_t)columns);
    if (!b)
        return luaL_error(L, "not enough memory");
    for (int c = 0; c < columns; c++) {
        if (tp_block_own(b, &check_memory(L, 3 + 3 * c)->ref)) {
            tp_block_free(b);
            return luaL_error(L, "not enough memory");
        }
        b->type[c] = (uint8_t)lua_tointeger(L, 4 + 3 * c);
        const void *pointer = lua_topointer(L, 5 + 3 * c); /* a pointer of FFI */
        memcpy(&b->column[c], pointer, sizeof b->column[c]);
    }
    return tp_job_push(box->job, b) ? luaL_error(L, "not enough memory") : 0;
}

/* core.array(bytes, zeroed) -> memory, pointer: memory for a typed array, which the caller owns: see core.drop; nil when there is none left */
static int l_array(lua_State *L)
{
    double size = luaL_checknumber(L, 1);
    tp_array *a = size >= 0 && size < 0x1p46 ? tp_array_new(get_context(L)->host->arrays, (size_t)size, lua_toboolean(L, 2)) : NULL;
    if (!a)
        return 0;
    lua_pushlightuserdata(L, a);
    lua_pushlightuserdata(L, a->data);
    return 2;
}

/* core.array_bytes() -> bytes of the arrays that somebody holds, in all states */
static int l_array_bytes(lua_State *L)
{
    lua_pushnumber(L, (double)tp_array_pool_live(get_context(L)->host->arrays));
    return 1;
}

/* core.hold(memory) -> pointer: one more owner of a typed array's memory */
static int l_hold(lua_State *L)
{
    tp_array *a = check_memory(L, 1);
    tp_ref_hold(a);
    lua_pushlightuserdata(L, a->data);
    return 1;
}

/* core.memory(memory) -> the memory as light userdata, and where it begins */
static int l_memory(lua_State *L)
{
    tp_array *a = check_memory(L, 1);
    lua_pushlightuserdata(L, a);
    lua_pushlightuserdata(L, a->data);
    return 2;
}

/* What core.drop points to: void drop(void *memory), for FFI. */
static void drop_memory(void *memory)
{
    tp_ref_drop(memory);
}

/* core.set_arrays(of, make): see tp_codec_set_arrays */
static int l_set_arrays(lua_State *L)
{
    tp_codec_set_arrays(L, 1, 2);
    return 0;
}

/* Encodes n stack values from `first` as one more item of the block that is being built. 0, or -1 with err set. */
static int add_item(lua_State *L, job_box *box, int first, int n, tp_error *err)
{
    static const char *const names[] = { "argument 1", "argument 2", "argument 3",
                                         "argument 4", "argument 5", "argument 6" };
    if (!box->building)
        box->building = tp_block_new_values(TP_BLOCK_VALUES);
    tp_block *b = box->building;
    if (!b || tp_block_reserve(b))
        return tp_error_oom(err, "inputs");
    if (tp_encode(L, first, n, n <= 6 ? names : NULL, 0, &b->bytes, err))
        return -1;
    tp_block_add(b);
    return 0;
}

static bool is_full(const job_box *box)
{
    return box->building && box->building->bytes.len > TP_BLOCK_BYTES_MAX;
}

/* core.add(job, ...) -> whether the block has room for more, or nil and a message: one more input, with these arguments */
static int l_add(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_error err;
    tp_error_clear(&err);
    if (add_item(L, box, 2, lua_gettop(L) - 1, &err))
        return push_message(L, &err);
    lua_pushboolean(L, !is_full(box));
    return 1;
}

/* core.add_list(job, list, from, to) -> the index of the first that was not added, or nil, a message and the index of the item that cannot
 * travel: list[from..to] become inputs of one argument each, until the block is full */
static int l_add_list(lua_State *L)
{
    job_box *box = check_job(L, 1);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_Integer i = luaL_checkinteger(L, 3), to = luaL_checkinteger(L, 4);
    tp_error err;
    tp_error_clear(&err);
    lua_settop(L, 4);
    for (; i <= to && !is_full(box); i++) {
        lua_rawgeti(L, 2, (int)i);
        if (add_item(L, box, 5, 1, &err)) {
            push_message(L, &err);
            lua_pushinteger(L, i);
            return 3;
        }
        lua_settop(L, 4);
    }
    lua_pushinteger(L, i);
    return 1;
}

/* core.push(job): what was added since the last time is pushed */
static int l_push(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = box->building;
    box->building = NULL;
    return b && tp_job_push(box->job, b) ? luaL_error(L, "not enough memory") : 0;
}

/* core.push_failure(job, kind, message): an input that failed before it could be begun: its failure is its result */
static int l_push_failure(lua_State *L)
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
        return luaL_error(L, "%s", err.message);
    return l_push(L);
}

/* core.finish(job): there are no more inputs */
static int l_finish(lua_State *L)
{
    tp_job_end(check_job(L, 1)->job);
    return 0;
}

/* ---- jobs: results ---- */

/* core.next(job) -> kind, first, n, columns, mixed, text: the next block of results, which core.item and core.fill read until the next call.
 * Kinds are those of tp_block_kind; first counts from 1. Of COLUMNS: a pointer to their pointers; how many columns of scalars, 0 when they are of
 * numbers; a pointer to their text. Nothing when none is ready. */
static int l_next(lua_State *L)
{
    job_box *box = check_job(L, 1);
    bool no_memory;
    box->seen = tp_job_news(box->job);
    take_back(L, get_context(L));
    tp_block_free(box->reading);
    box->reading = tp_job_next(box->job, &no_memory);
    if (no_memory)
        return luaL_error(L, "not enough memory");
    tp_block *b = box->reading;
    if (!b)
        return 0;
    lua_pushinteger(L, b->kind);
    lua_pushnumber(L, (double)b->first + 1);
    lua_pushinteger(L, b->n);
    lua_pushlightuserdata(L, b->column);
    lua_pushinteger(L, b->columns > 0 && b->type[0] == TP_MIXED ? (lua_Integer)b->columns : 0);
    lua_pushlightuserdata(L, &b->text);
    return 6;
}

static int decode_item(lua_State *L, const tp_block *b, uint32_t k)
{
    size_t len;
    const uint8_t *message = tp_block_message(b, k, &len);
    tp_error err;
    tp_error_clear(&err);
    int n = tp_decode(L, message, len, b->bytes.refs, b->bytes.nrefs, TP_DECODE_TRUSTED, NULL, &err);
    if (n < 0)
        luaL_error(L, "%s", err.message);
    return n;
}

/* Pushes the values of item k of columns of scalars; gives how many. */
static int push_scalars(lua_State *L, const tp_block *b, uint32_t k)
{
    uint32_t n = 0;
    for (; n < b->columns; n++) {
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
    if (!b || (!b->ends && (b->columns == 0 || b->type[0] != TP_MIXED)))
        luaL_error(L, "no block of values is being read");
    return b;
}

/* core.item(job, k) -> the values of item k (from 0) of the block */
static int l_item(lua_State *L)
{
    job_box *box = check_job(L, 1);
    tp_block *b = check_reading(L, box);
    lua_Integer k = luaL_checkinteger(L, 2);
    luaL_argcheck(L, k >= 0 && k < b->n, 2, "no such item");
    return b->ends ? decode_item(L, b, (uint32_t)k) : push_scalars(L, b, (uint32_t)k);
}

/* core.fill(job, lists, base, from): of messages, item k's j-th value becomes lists[j][base + k], k from `from` (0: the first); missing lists are made */
static int l_fill(lua_State *L)
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
        int n = decode_item(L, b, k);                // job lists list1 v1 .. vn
        for (int j = n; j >= 1; j--) {
            if (j == 1 && known >= 1) {
                lua_rawseti(L, 3, (int)(base + k));
                continue;
            }
            if (j > known) { /* the lists between are there, if empty */
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

static uint64_t deadline_after(lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? UINT64_MAX : uv_hrtime() + (uint64_t)(luaL_checknumber(L, index) * 1e9);
}

/* Raises "interrupted" in the owner's state after tp_host_interrupt. */
static void check_interrupt(lua_State *L, context *ctx)
{
    if (!ctx->agent && tp_host_take_interrupt(ctx->host))
        luaL_error(L, "interrupted");
}

/* An agent runs items of the jobs while it waits for them. */
static bool help(lua_State *L, context *ctx, tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t deadline)
{
    /* The owner's own state is not the inline agent's: its items run in the agent's. */
    bool is_inside = agent == ctx->agent;
    lua_State *before = is_inside ? tp_vm_enter(agent->vm, L) : NULL;
    bool has_run = tp_exec_wait(agent, jobs, seen, n, deadline);
    if (is_inside)
        tp_vm_enter(agent->vm, before);
    return has_run;
}

/* core.wait(job, seconds or nil): waits until there may be results, room or the end, since the last core.next, or until so many seconds
 * have passed; runs the loop, or, in a worker, items of the job. Raises "interrupted" after tp_host_interrupt. */
static int l_wait(lua_State *L)
{
    context *ctx = get_context(L);
    job_box *box = check_job(L, 1);
    uint64_t deadline = deadline_after(L, 2);
    luaL_checkstack(L, LUA_MINSTACK * 2, "nested map");
    if (!box->waits_on)
        tp_host_wait(ctx->host, box->job, box->seen, deadline);
    else if (tp_job_news(box->job) == box->seen)
        help(L, ctx, box->waits_on, &box->job, &box->seen, 1, deadline);
    check_interrupt(L, ctx);
    return 0;
}

/* core.help(jobs, seconds or nil) -> whether any item was run: waits as core.wait does for the first news of any job in the list, which all have
 * the caller's own thread to run or help them */
static int l_help(lua_State *L)
{
    context *ctx = get_context(L);
    luaL_checktype(L, 1, LUA_TTABLE);
    uint64_t deadline = deadline_after(L, 2);
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
    check_interrupt(L, ctx);
    return 1;
}

/* core.turn(seconds or nil, spins): see tp_host_turn */
static int l_turn(lua_State *L)
{
    context *ctx = get_context(L);
    tp_host_turn(ctx->host, deadline_after(L, 1), lua_toboolean(L, 2));
    check_interrupt(L, ctx);
    return 0;
}

/* core.key(job) -> what core.collect calls it, and whether the caller's own thread runs or helps it (then it is not collected) */
static int l_key(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushlightuserdata(L, box->job);
    lua_pushboolean(L, box->waits_on != NULL);
    return 2;
}

/* core.await(job) -> false when there are news since the last core.next or core.look; else core.collect will give the job once there are */
static int l_await(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_await(box->job, box->seen));
    return 1;
}

static int l_unawait(lua_State *L)
{
    tp_job_unawait(check_job(L, 1)->job);
    return 0;
}

/* core.has_news(job) -> are there news since the last core.next or core.look? */
static int l_has_news(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_news(box->job) != box->seen);
    return 1;
}

/* core.look(job): what news there are have been seen */
static int l_look(lua_State *L)
{
    job_box *box = check_job(L, 1);
    box->seen = tp_job_news(box->job);
    return 0;
}

/* core.is_idle(job) -> is there nothing left that the job does before it is read or given inputs? */
static int l_is_idle(lua_State *L)
{
    lua_pushboolean(L, tp_job_is_idle(check_job(L, 1)->job));
    return 1;
}

/* core.collect() -> the key of an awaited job that has news; nil when there is none */
static int l_collect(lua_State *L)
{
    context *ctx = get_context(L);
    tp_job *job = tp_job_collect(ctx->host->engine, &ctx->host->waiter);
    if (!job)
        return 0;
    lua_pushlightuserdata(L, job);
    return 1;
}

/* core.is_alive() -> is there anything on the loop besides what is the host's own? */
static int l_is_alive(lua_State *L)
{
    lua_pushboolean(L, tp_host_is_alive(get_context(L)->host));
    return 1;
}

/* core.is_running() -> are we inside of the loop, so that it cannot be run? */
static int l_is_running(lua_State *L)
{
    lua_pushboolean(L, get_context(L)->host->is_running);
    return 1;
}

/* core.stop(): the loop does not wait in this turn. A callback of a timer, which is called before the loop waits, may have made a task ready. */
static int l_stop(lua_State *L)
{
    uv_stop(&get_context(L)->host->loop);
    return 0;
}

/* core.sleep(seconds): blocks a worker; raises when its item is cancelled meanwhile */
static int l_sleep(lua_State *L)
{
    enum { STEP_NS = 50 * 1000000 };
    context *ctx = get_context(L);
    uint64_t deadline = deadline_after(L, 1);
    tp_slice *s = ctx->agent ? ctx->agent->current : NULL;
    uv_mutex_t *lock = tp_engine_lock(ctx->host->engine);
    for (uint64_t now; (now = uv_hrtime()) < deadline;) {
        uv_mutex_lock(lock);
        bool is_cancelled = s && tp_slice_is_cancelled(s);
        uv_mutex_unlock(lock);
        if (is_cancelled)
            return luaL_error(L, "cancelled");
        uint64_t ns = deadline - now < STEP_NS ? deadline - now : STEP_NS;
        nanosleep(&(struct timespec){ .tv_nsec = (long)ns }, NULL);
    }
    return 0;
}

/* core.is_over(job) -> all results have been given out */
static int l_is_over(lua_State *L)
{
    lua_pushboolean(L, tp_job_is_over(check_job(L, 1)->job));
    return 1;
}

/* core.is_cancelled(job) -> boolean, and the kind and the reason when it was not asked for: the executor cannot run anything, or memory ran out */
static int l_is_cancelled(lua_State *L)
{
    job_box *box = check_job(L, 1);
    lua_pushboolean(L, tp_job_is_cancelled(box->job));
    tp_executor *ex = tp_job_executor(box->job);
    uv_mutex_t *lock = tp_engine_lock(get_context(L)->host->engine);
    uv_mutex_lock(lock);
    tp_error err = ex->broken;
    uv_mutex_unlock(lock);
    if (err.code == TP_OK && !tp_job_is_starved(box->job))
        return 1;
    lua_pushstring(L, err.code == TP_OK ? "memory" : "resource");
    lua_pushstring(L, err.code == TP_OK ? "not enough memory" : err.message);
    return 3;
}

/* core.set_reading(job, boolean): results are read one by one by a loop of the user's */
static int l_set_reading(lua_State *L)
{
    tp_job_set_reading(check_job(L, 1)->job, lua_toboolean(L, 2));
    return 0;
}

static int l_cancel(lua_State *L)
{
    tp_job_cancel(check_job(L, 1)->job);
    return 0;
}

/* core.counts(job) -> pushed, finished, failed, delivered, retried, whether pushed is all, how many of the finished were not run */
static int l_counts(lua_State *L)
{
    tp_job_counts c;
    tp_job_get_counts(check_job(L, 1)->job, &c);
    lua_pushnumber(L, (double)c.pushed);
    lua_pushnumber(L, (double)c.finished);
    lua_pushnumber(L, (double)c.failed);
    lua_pushnumber(L, (double)c.delivered);
    lua_pushnumber(L, (double)c.retried);
    lua_pushboolean(L, c.closed);
    lua_pushnumber(L, (double)c.skipped);
    return 7;
}

/* core.busy(job) -> how many workers of the job's executor run items now, of any job */
static int l_busy(lua_State *L)
{
    tp_executor *ex = tp_job_executor(check_job(L, 1)->job);
    lua_pushinteger(L, tp_engine_busy(get_context(L)->host->engine, ex));
    return 1;
}

/* core.keep(): the item that runs has spawned something, which worker.finish_kept is to be called for at the end of its slice; gives what names the
 * slice, nothing outside of an item. */
static int l_keep(lua_State *L)
{
    context *ctx = get_context(L);
    tp_slice *slice = ctx->agent ? ctx->agent->current : NULL;
    if (!slice)
        return 0;
    slice->has_kept = true;
    lua_pushlightuserdata(L, slice);
    return 1;
}

/* ---- luv ---- */

static const char callback_key[] = "tidepool.core.callback", closer_key[] = "tidepool.core.closer";

/* core.set_callback(fn, closer): fn(callback, ...) is how luv's callbacks are called, nothing when fn is nil; closer lives as long as the state */
static int l_set_callback(lua_State *L)
{
    lua_settop(L, 2);
    lua_setfield(L, LUA_REGISTRYINDEX, closer_key);
    lua_setfield(L, LUA_REGISTRYINDEX, callback_key);
    return 0;
}

/* core.run_out(): runs the loop until no handle is left */
static int l_run_out(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    uv_run(&host->loop, UV_RUN_DEFAULT);
    host->wake_up.data = host->timer.data = NULL;
    return 0;
}

/* luv calls this in place of lua_pcall, with a callback and its arguments on the stack. Its own way would end the process at an error. */
static int call_back(lua_State *L, int nargs, int nresults, int flags)
{
    (void)flags;
    lua_getfield(L, LUA_REGISTRYINDEX, callback_key); // callback args fn
    if (lua_isnil(L, -1)) {
        lua_pop(L, nargs + 2);
        return 0;
    }
    lua_insert(L, -nargs - 2);                        // fn callback args
    int before = lua_gettop(L) - nargs - 2;
    if (lua_pcall(L, nargs + 1, nresults, 0)) {
        lua_pop(L, 1);
        return -1;
    }
    return lua_gettop(L) - before;
}

/* luv's walk takes all of the loop's handles for its own. What it finds at ours is what its own have there, as far as it looks, and makes it
 * call this instead of the user's function. */
typedef struct luv_context {
    uv_loop_t *loop;
    lua_State *L;
    int (*call)(lua_State *L, int nargs, int nresults, int flags);
} luv_context;

typedef struct luv_handle {
    int ref, callbacks[2];
    const luv_context *ctx;
    void *rest[4];
} luv_handle;

static int skip_handle(lua_State *L, int nargs, int nresults, int flags)
{
    (void)nresults, (void)flags;
    lua_pop(L, nargs + 1);
    return 0;
}

static const luv_context not_luvs = { .call = skip_handle };
static const luv_handle not_luvs_handle = { LUA_REFNIL, { LUA_NOREF, LUA_NOREF }, &not_luvs, { NULL } };

/* Tells the library at path, which is loaded, which loop to use. False when it is too old to be told. */
static bool share_loop(const char *path, context *ctx)
{
    void *lib = dlopen(path, RTLD_NOW);
    void (*set_loop)(lua_State *, uv_loop_t *) = NULL;
    void (*set_callback)(lua_State *, int (*)(lua_State *, int, int, int)) = NULL;
    if (!lib)
        return false;
    *(void **)&set_loop = dlsym(lib, "luv_set_loop");
    *(void **)&set_callback = dlsym(lib, "luv_set_callback");
    if (set_loop && set_callback) {
        set_loop(ctx->main, &ctx->host->loop);
        set_callback(ctx->main, call_back);
        ctx->host->wake_up.data = ctx->host->timer.data = (void *)&not_luvs_handle;
    }
    dlclose(lib); /* package.loadlib has it */
    return set_loop && set_callback;
}

/* Opens luv on the host's loop. Upvalue 2 is its path. */
static int open_luv(lua_State *L)
{
    context *ctx = get_context(L);
    const char *path = lua_tostring(L, lua_upvalueindex(2));
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "loadlib");
    lua_pushstring(L, path);
    lua_pushliteral(L, "luaopen_luv");
    lua_call(L, 2, 2);                            // fn, or nil message
    if (lua_isnil(L, -2))
        return lua_error(L);
    lua_pop(L, 1);                                // fn
    bool is_shared = share_loop(path, ctx);
    lua_pushliteral(L, "luv");
    lua_call(L, 1, 1);                            // luv
    if (is_shared) {
        lua_getglobal(L, "require");
        lua_pushliteral(L, "tidepool.loop");
        lua_call(L, 1, 1);
        lua_getfield(L, -1, "share");             // luv loop share
        lua_pushvalue(L, -3);
        lua_call(L, 1, 0);
        lua_pop(L, 1);                            // luv
    }
    return 1;
}

/* In package.loaders, before the loader of C modules, whose place it takes for "luv". */
static int find_luv(lua_State *L)
{
    if (strcmp(luaL_checkstring(L, 1), "luv") != 0)
        return 0;
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "searchpath");
    lua_pushliteral(L, "luv");
    lua_getfield(L, -3, "cpath");
    lua_call(L, 2, 1);
    if (lua_isnil(L, -1))
        return 0;
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, -2);
    lua_pushcclosure(L, open_luv, 2);
    return 1;
}

/* ---- the rest ---- */

/* core.current() -> index, attempt, function name, worker, executor name of the item that runs; nothing outside of one */
static int l_current(lua_State *L)
{
    context *ctx = get_context(L);
    tp_slice *s = ctx->agent ? ctx->agent->current : NULL;
    if (!s)
        return 0;
    int32_t at = atomic_load_explicit(&s->ctl[0], memory_order_relaxed);
    lua_pushnumber(L, (double)s->block->first + at + 1);
    lua_pushinteger(L, (lua_Integer)s->attempt);
    lua_pushstring(L, tp_job_func(s->job)->name);
    lua_pushinteger(L, ctx->agent->index);
    lua_pushstring(L, ctx->agent->executor->type->name);
    return 5;
}

/* core.fd() -> a descriptor that is readable when the loop should be turned: see tp_host_fd */
static int l_fd(lua_State *L)
{
    lua_pushinteger(L, tp_host_fd(get_context(L)->host));
    return 1;
}

/* core.now() -> seconds on the monotonic clock */
static int l_now(lua_State *L)
{
    lua_pushnumber(L, (double)uv_hrtime() * 1e-9);
    return 1;
}

/* core.workers() -> worker threads at most */
static int l_workers(lua_State *L)
{
    lua_pushinteger(L, get_context(L)->host->config.workers);
    return 1;
}

static void set_text(lua_State *L, const char *key, const char *text)
{
    lua_pushstring(L, text);
    lua_setfield(L, -2, key);
}

static void set_number(lua_State *L, const char *key, double value)
{
    lua_pushnumber(L, value);
    lua_setfield(L, -2, key);
}

static void set_boolean(lua_State *L, const char *key, bool value)
{
    lua_pushboolean(L, value);
    lua_setfield(L, -2, key);
}

/* core.devices() -> list of tables in the order of OpenCL, or nil and why there are none */
static int l_devices(lua_State *L)
{
    tp_error err = { 0 };
    const tp_cl *cl = tp_host_opencl(get_context(L)->host, &err);
    if (!cl)
        return push_message(L, &err);
    lua_createtable(L, (int)cl->n, 0);
    for (unsigned i = 0; i < cl->n; i++) {
        const tp_cl_device *d = &cl->devices[i];
        lua_newtable(L);                            // devices device
        set_text(L, "name", d->name);
        set_text(L, "platform", d->platform);
        set_text(L, "vendor", d->vendor);
        set_text(L, "version", d->version);
        set_text(L, "driver", d->driver);
        set_text(L, "type", d->type & CL_DEVICE_TYPE_GPU ? "gpu" : d->type & CL_DEVICE_TYPE_CPU ? "cpu" : "accelerator");
        set_number(L, "compute_units", d->units);
        set_number(L, "memory", (double)d->memory);
        set_number(L, "max_buffer", (double)d->max_alloc);
        set_number(L, "lanes_double", d->lanes_double);
        set_number(L, "lanes_float", d->lanes_float);
        set_boolean(L, "fp64", d->has_double);
        set_boolean(L, "unified", d->is_unified);
        lua_rawseti(L, -2, (int)i + 1);             // devices
    }
    return 1;
}

/* core.print(...): Lua's print, as one whole line through the host */
static int l_print(lua_State *L)
{
    int n = lua_gettop(L);
    luaL_Buffer line;
    lua_getglobal(L, "tostring");              // ... tostring
    for (int i = 1; i <= n; i++) {
        lua_pushvalue(L, n + 1);
        lua_pushvalue(L, i);
        lua_call(L, 1, 1);
        if (!lua_isstring(L, -1))
            return luaL_error(L, "'tostring' must return a string to 'print'");
        lua_replace(L, i);
    }
    luaL_buffinit(L, &line);
    for (int i = 1; i <= n; i++) {
        if (i > 1)
            luaL_addchar(&line, '\t');
        lua_pushvalue(L, i);
        luaL_addvalue(&line);
    }
    luaL_addchar(&line, '\n');
    luaL_pushresult(&line);
    size_t len;
    const char *bytes = lua_tolstring(L, -1, &len);
    const context *ctx = get_context(L);
    tp_lines_write(ctx->host, ctx->agent, 1, bytes, len);
    return 0;
}

/* file:write(...), or io.write(...), of a worker. Upvalues: the context, the stock function, and io.output for io.write. What goes to standard
 * output or error goes through the host, as what is printed does. */
static int l_write(lua_State *L)
{
    const context *ctx = get_context(L);
    const bool is_method = lua_isnil(L, lua_upvalueindex(3));
    const int n = lua_gettop(L), first = is_method ? 2 : 1;
    if (!is_method) {
        lua_pushvalue(L, lua_upvalueindex(3));
        lua_call(L, 0, 1);                          // texts file
    }
    FILE **file = luaL_checkudata(L, is_method ? 1 : n + 1, LUA_FILEHANDLE);
    const int fd = *file ? fileno(*file) : -1; /* NULL: it is closed */
    lua_settop(L, n);
    if (fd == STDOUT_FILENO || fd == STDERR_FILENO) {
        luaL_Buffer text;
        size_t len;
        for (int i = first; i <= n; i++)
            luaL_checklstring(L, i, NULL);
        luaL_buffinit(L, &text);
        for (int i = first; i <= n; i++) {
            lua_pushvalue(L, i);
            luaL_addvalue(&text);
        }
        luaL_pushresult(&text);
        const char *bytes = lua_tolstring(L, -1, &len);
        tp_lines_write(ctx->host, ctx->agent, fd, bytes, len);
        lua_settop(L, first - 1); /* what is left for the stock function: to give what it gives */
    }
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_insert(L, 1);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    return lua_gettop(L);
}

/* core.writer(stock function, io.output or nil) -> the function that takes its place */
static int l_writer(lua_State *L)
{
    lua_settop(L, 2);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushcclosure(L, l_write, 3);
    return 1;
}

/* core.execute(command) -> status: os.execute for workers. C's system() makes the whole process ignore SIGINT while it waits, so that Ctrl-C
 * during a map of commands would end the commands only. */
static int l_execute(lua_State *L)
{
    const char *command = luaL_optstring(L, 1, NULL);
    char *const words[] = { "sh", "-c", (char *)command, NULL };
    pid_t pid;
    int status = -1;
    if (!command)
        status = access("/bin/sh", X_OK) == 0;
    else if (posix_spawn(&pid, "/bin/sh", NULL, NULL, words, environ) == 0)
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    lua_pushinteger(L, status);
    return 1;
}

/* core.warn(text): a line for stderr through the host */
static int l_warn(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    tp_host_print(get_context(L)->host, 2, bytes, len);
    return 0;
}

/* core.add_builtins(name, table), core.add_class(name, metatable, by_value): see codec.h */
static int l_add_builtins(lua_State *L)
{
    tp_codec_add_builtins(L, luaL_checkstring(L, 1), 2);
    return 0;
}

static int l_add_class(lua_State *L)
{
    tp_codec_add_class(L, luaL_checkstring(L, 1), 2, lua_toboolean(L, 3));
    return 0;
}

/* core.executor(name) -> whether there is one, and its capabilities as a list of words */
static int l_has_executor(lua_State *L)
{
    lua_pushboolean(L, tp_host_executor(get_context(L)->host, luaL_checkstring(L, 1)) != NULL);
    return 1;
}

static int l_job_tostring(lua_State *L)
{
    job_box *box = luaL_checkudata(L, 1, JOB);
    lua_pushfstring(L, "tidepool.job: %s", box->job ? tp_job_func(box->job)->name : "closed");
    return 1;
}

static const luaL_Reg core_functions[] = {
    { "func", l_func },
    { "stats", l_stats },
    { "image", l_image },
    { "job", l_job },
    { "close", l_close },
    { "room", l_room },
    { "numbers", l_numbers },
    { "columns", l_columns },
    { "push_columns", l_push_columns },
    { "push_arrays", l_push_arrays },
    { "array", l_array },
    { "array_bytes", l_array_bytes },
    { "hold", l_hold },
    { "memory", l_memory },
    { "set_arrays", l_set_arrays },
    { "add", l_add },
    { "add_list", l_add_list },
    { "push", l_push },
    { "push_failure", l_push_failure },
    { "finish", l_finish },
    { "next", l_next },
    { "item", l_item },
    { "fill", l_fill },
    { "wait", l_wait },
    { "help", l_help },
    { "turn", l_turn },
    { "key", l_key },
    { "await", l_await },
    { "unawait", l_unawait },
    { "has_news", l_has_news },
    { "look", l_look },
    { "is_idle", l_is_idle },
    { "collect", l_collect },
    { "is_alive", l_is_alive },
    { "is_running", l_is_running },
    { "stop", l_stop },
    { "sleep", l_sleep },
    { "set_callback", l_set_callback },
    { "run_out", l_run_out },
    { "is_over", l_is_over },
    { "is_cancelled", l_is_cancelled },
    { "set_reading", l_set_reading },
    { "cancel", l_cancel },
    { "counts", l_counts },
    { "busy", l_busy },
    { "keep", l_keep },
    { "current", l_current },
    { "workers", l_workers },
    { "fd", l_fd },
    { "now", l_now },
    { "devices", l_devices },
    { "program", l_program },
    { "kernel", l_kernel },
    { "set_reducer", l_set_reducer },
    { "hold_back", l_hold_back },
    { "queue", l_queue },
    { "finish_queue", l_finish_queue },
    { "buffer", l_buffer },
    { "read_buffer", l_read_buffer },
    { "write_buffer", l_write_buffer },
    { "kernels", l_kernels },
    { "launcher", l_launcher },
    { "launch", l_launch },
    { "lent", l_lent },
    { "print", l_print },
    { "writer", l_writer },
    { "warn", l_warn },
    { "execute", l_execute },
    { "add_builtins", l_add_builtins },
    { "add_class", l_add_class },
    { "has_executor", l_has_executor },
    { NULL, NULL },
};

/* package.preload["tidepool.core"]: upvalue 1 is the context */
static int open_core(lua_State *L)
{
    tp_codec_ref_type(L, &tp_func_type);
    tp_codec_ref_type(L, &tp_image_type);
    tp_codec_ref_type(L, &tp_callee_type);
    tp_codec_ref_type(L, &tp_program_type);
    tp_codec_ref_type(L, &tp_kernel_type);
    tp_codec_ref_type(L, &tp_queue_type);
    tp_codec_ref_type(L, &tp_buffer_type);
    tp_codec_ref_type(L, &tp_launcher_type);
    if (luaL_newmetatable(L, JOB)) {
        lua_pushcfunction(L, l_close);
        lua_setfield(L, -2, "__gc");
        lua_pushcfunction(L, l_job_tostring);
        lua_setfield(L, -2, "__tostring");
    }
    lua_createtable(L, 0, sizeof core_functions / sizeof *core_functions + 8);
    for (const luaL_Reg *f = core_functions; f->name; f++) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
    tp_value_push_invoke(L);
    lua_setfield(L, -2, "invoke");
    lua_pushstring(L, TP_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushboolean(L, get_context(L)->agent != NULL);
    lua_setfield(L, -2, "is_worker");
    lua_pushstring(L, get_context(L)->host->config.executor);
    lua_setfield(L, -2, "executor");
    lua_pushlightuserdata(L, (void *)(uintptr_t)drop_memory);
    lua_setfield(L, -2, "drop");
    return 1;
}

/* A module whose loading ended in an error (no memory, Ctrl-C) must not stay half loaded: `require` would refuse it for ever. Raises the error at
 * the top. */
static int forget_module(lua_State *L, const char *name)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED"); // error loaded
    lua_pushnil(L);                                // error loaded nil
    lua_setfield(L, -2, name);                     // error loaded
    lua_pop(L, 1);                                 // error
    return lua_error(L);
}

/* package.preload of an embedded module: upvalue 1 is its tp_lua_module */
static int open_module(lua_State *L)
{
    const tp_lua_module *m = lua_touserdata(L, lua_upvalueindex(1));
    char chunkname[64] = "=";
    strncat(chunkname, m->name, sizeof chunkname - 2);
    if (luaL_loadbuffer(L, (const char *)m->bytes, m->len, chunkname))
        return forget_module(L, m->name);
    /* Collecting would cost a third of the time that loading takes, and find nothing. */
    bool was_collecting = lua_gc(L, LUA_GCISRUNNING, 0);
    if (was_collecting)
        lua_gc(L, LUA_GCSTOP, 0);
    lua_pushstring(L, m->name);
    int status = lua_pcall(L, 1, 1, 0);
    if (was_collecting)
        lua_gc(L, LUA_GCRESTART, -1);
    return status ? forget_module(L, m->name) : 1;
}

static int free_context(lua_State *L)
{
    context *ctx = lua_touserdata(L, 1);
    tp_buf_free(&ctx->scratch);
    tp_ref_drop(ctx->lender);
    ctx->lender = NULL;
    return 0;
}

/* Pops the context and puts find_luv before the third of package.loaders. */
static void insert_loader(lua_State *L, int package)
{
    lua_getfield(L, package, "loaders");             // ctx loaders
    for (int i = (int)lua_objlen(L, -1); i >= 3; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_insert(L, -2);                               // loaders ctx
    lua_pushcclosure(L, find_luv, 1);
    lua_rawseti(L, -2, 3);
    lua_pop(L, 1);
}

void tp_lua_core_open(struct lua_State *L, tp_host *host, tp_agent *agent)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "package");
    lua_getfield(L, -1, "preload");              // loaded package preload
    context *ctx = lua_newuserdata(L, sizeof *ctx);
    *ctx = (context){ .host = host, .agent = agent, .main = L };
    lua_newtable(L);
    lua_pushcfunction(L, free_context);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);                     // loaded package preload ctx
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, open_core, 1);
    lua_setfield(L, -3, "tidepool.core");            // loaded package preload ctx
    if (agent)
        lua_pop(L, 1); /* workers have no loop to share */
    else
        insert_loader(L, -3);                    // loaded package preload
    for (const tp_lua_module *m = tp_lua_modules; m->name; m++) {
        lua_pushlightuserdata(L, (void *)m);
        lua_pushcclosure(L, open_module, 1);
        lua_setfield(L, -2, m->name);
    }
    lua_pop(L, 3);
}


tp_job *tp_lua_core_to_job(struct lua_State *L, int index)
{
    return lua_isnoneornil(L, index) ? NULL : ((job_box *)luaL_checkudata(L, index, JOB))->job;
}

static int open_protected(lua_State *L)
{
    tp_codec_open(L);
    tp_lua_core_open(L, lua_touserdata(L, 1), NULL);
    return 0;
}

int tp_lua_core_open_protected(struct lua_State *L, tp_host *host, tp_error *err)
{
    if (lua_cpcall(L, open_protected, host) == 0)
        return 0;
    const char *why = lua_tostring(L, -1);
    tp_error_set(err, TP_ESYS, "cannot open the Lua side: %s", why ? why : "unknown error");
    lua_pop(L, 1);
    return -1;
}
