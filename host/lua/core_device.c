/* core_device.c: OpenCL devices: listing them, the programs and kernels of maps, and devices that
 * scripts drive by hand. */
#include "lua/core_private.h"

#include "lua/core.h"

#include "base/array.h"
#include "codec/codec.h"
#include "opencl/device.h"
#include "opencl/exec_opencl.h"
#include "opencl/match.h"
#include "opencl/plan.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>

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

/* core.device.list() -> list of tables in the order of OpenCL, or nil and why there are none */
static int l_device_list(lua_State *L)
{
    tp_error err = { 0 };
    const tp_cl *cl = tp_host_opencl(get_context(L)->host, &err);
    if (!cl)
        return tp_core_push_message(L, &err);
    lua_createtable(L, (int)cl->n, 0);
    for (unsigned i = 0; i < cl->n; i++) {
        const tp_cl_device *d = &cl->devices[i];
        lua_newtable(L);                            // devices device
        set_text(L, "name", d->name);
        set_text(L, "platform", d->platform);
        set_text(L, "vendor", d->vendor);
        set_text(L, "version", d->version);
        set_text(L, "driver", d->driver);
        set_text(L, "type", tp_cl_type_name(d));
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

/* core.device.begin() -> see tp_host_begin_opencl; true in a forked child, where list says why
 * not */
static int l_device_begin(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    lua_pushboolean(L, !tp_host_is_usable(host) || tp_host_begin_opencl(host));
    return 1;
}

static const char *get_text(lua_State *L, int t, const char *key)
{
    lua_getfield(L, t, key);
    const char *text = lua_tostring(L, -1); /* the string stays alive in the table */
    lua_pop(L, 1);
    return text;
}

/* The rows at index 1, as core.device.list gives them; pushes what keeps them. */
static tp_seen_device *get_devices(lua_State *L, unsigned *n)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    *n = (unsigned)lua_objlen(L, 1);
    tp_seen_device *devices = lua_newuserdata(L, (*n + 1) * sizeof *devices);
    for (unsigned i = 0; i < *n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        int at = lua_gettop(L);
        const char *platform = get_text(L, at, "platform"), *vendor = get_text(L, at, "vendor");
        devices[i] = (tp_seen_device){ .name = get_text(L, at, "name"),
                                       .platform = platform ? platform : "",
                                       .vendor = vendor ? vendor : "",
                                       .type = get_text(L, at, "type"),
                                       .is_unified = tp_core_get_boolean(L, at, "unified"),
                                       .number = i };
        devices[i].units = (unsigned)tp_core_get_number(L, at, "compute_units", 0);
        luaL_argcheck(L, devices[i].name && devices[i].type, 1, "devices expected");
        lua_pop(L, 1);
    }
    return devices;
}

static int compare(const void *a, const void *b)
{
    return tp_device_is_before(a, b) ? -1 : 1;
}

/* core.device.order(devices) -> the positions in that list, those of the best devices first */
static int l_device_order(lua_State *L)
{
    unsigned n;
    tp_seen_device *devices = get_devices(L, &n);
    qsort(devices, n, sizeof *devices, compare);
    lua_createtable(L, (int)n, 0);
    for (unsigned i = 0; i < n; i++) {
        lua_pushinteger(L, (int)devices[i].number + 1);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

/* core.device.match(devices, word) -> the positions of those that this word of an option `gpu`
 * selects, and how many it wants */
static int l_device_match(lua_State *L)
{
    unsigned n;
    size_t len;
    const char *text = luaL_checklstring(L, 2, &len);
    const tp_seen_device *devices = get_devices(L, &n);
    unsigned *found = lua_newuserdata(L, (n + 1) * sizeof *found);
    const tp_device_word word = tp_device_word_read(text, (unsigned)len);
    bool is_whole = tp_device_word_is_whole(&word, devices, n);
    unsigned count = tp_device_match(&word, is_whole, devices, n, found);
    lua_createtable(L, (int)count, 0);
    for (unsigned i = 0; i < count; i++) {
        lua_pushinteger(L, (int)found[i] + 1);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_pushinteger(L, (int)word.wanted);
    return 2;
}

/* core.device.leased() -> the worker, and the numbers of the devices that the running function may
 * use (its option gpu); nothing when it has none */
static int l_device_leased(lua_State *L)
{
    const context *ctx = get_context(L);
    const tp_work *w = tp_core_work(ctx);
    if (!w || !w->terms->has_leases)
        return 0;
    lua_pushinteger(L, ctx->agent->worker.index);
    lua_newtable(L);
    for (int i = 0, n = 0; i < TP_DEVICES_MAX; i++)
        if (w->terms->leases >> i & 1) {
            lua_pushinteger(L, i + 1);
            lua_rawseti(L, -2, ++n);
        }
    return 2;
}

/* core.device.has(device number, name) -> see tp_cl_has */
static int l_device_has(lua_State *L)
{
    tp_error err = { 0 };
    const tp_cl *cl = tp_host_opencl(get_context(L)->host, &err);
    lua_Integer number = luaL_checkinteger(L, 1);
    const char *name = luaL_checkstring(L, 2);
    lua_pushboolean(L, cl && number >= 1 && number <= (lua_Integer)cl->n &&
                           tp_cl_has(cl, &cl->devices[number - 1], name));
    return 1;
}

/* core.device.is_stuck(device number, seconds) -> see tp_opencl_is_stuck; false in a forked
 * child */
static int l_device_is_stuck(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    tp_executor *ex = tp_host_executor(host, tp_exec_opencl.name);
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    uint64_t patience_ns = (uint64_t)(luaL_checknumber(L, 2) * 1e9);
    lua_pushboolean(L,
                    tp_host_is_usable(host) && tp_opencl_is_stuck(ex, device, patience_ns));
    return 1;
}

/* core.device.free_up(device number) -> true, or nil and a message: see tp_opencl_free_up */
static int l_device_free_up(lua_State *L)
{
    tp_executor *ex = tp_host_executor(get_context(L)->host, tp_exec_opencl.name);
    tp_error err = { 0 };
    if (tp_opencl_free_up(ex, (unsigned)luaL_checkinteger(L, 1) - 1, &err))
        return tp_core_push_message(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* core.device.shortages() -> how often devices were so short of memory that somebody had to wait
 * for it, so far */
static int l_device_shortages(lua_State *L)
{
    tp_executor *ex = tp_host_executor(get_context(L)->host, tp_exec_opencl.name);
    lua_pushnumber(L, (lua_Number)tp_copies_shortages(tp_opencl_copies(ex)));
    return 1;
}

/* ---- programs and kernels of maps ---- */

static void push_how(lua_State *L, int how)
{
    lua_pushstring(L, how == TP_BUILD_READ ? "read" : "compiled");
}

/* core.program.new(device number, source, options, kernel name, function's name) -> program and,
 * where it was not there before, "compiled" or "read" (from what is kept) and the seconds that this
 * took; or nil, a message, and the compiler's log */
static int l_program_new(lua_State *L)
{
    tp_executor *ex = tp_host_executor(get_context(L)->host, tp_exec_opencl.name);
    tp_error err = { 0 };
    char *log = NULL;
    if (!tp_core_is_usable(get_context(L)->host, &err))
        return tp_core_push_message(L, &err);
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    const char *source = luaL_checkstring(L, 2), *options = luaL_checkstring(L, 3),
               *name = luaL_checkstring(L, 4);
    tp_ref **box = tp_codec_push_box(L, &tp_program_type);
    const context *ctx = get_context(L);
    tp_built built = { 0 };
    const tp_build_for who = { .function = luaL_checkstring(L, 5),
                               .worker = ctx->agent ? ctx->agent->worker.id : 0,
                               .built = &built };
    tp_program *p = tp_opencl_open_program(ex, device, source, options, name, who, &log, &err);
    if (p) {
        *box = &p->ref;
        if (!built.ns)
            return 1;
        tp_slice *inside = ctx->agent ? tp_slice_of(ctx->agent->worker.current) : NULL;
        if (inside) {
            tp_job_build b = { .ns = built.ns, .how = built.how, .site = device + 1 };
            snprintf(b.name, sizeof b.name, "%.*s", (int)sizeof b.name - 1, p->open.device->name);
            tp_slice_note_build(inside, &b);
        }
        push_how(L, built.how);
        lua_pushnumber(L, (lua_Number)built.ns * 1e-9);
        return 3;
    }
    tp_core_push_message(L, &err);
    lua_pushstring(L, log); // nil message log; raises only when memory is out
    free(log);
    return 3;
}

/* core.program.promise(device number, source, options, kernel name, function's name) -> program,
 * which is made later if it is not there (tp_opencl_promise_program); or nil and a message */
static int l_program_promise(lua_State *L)
{
    tp_executor *ex = tp_host_executor(get_context(L)->host, tp_exec_opencl.name);
    tp_error err = { 0 };
    if (!tp_core_is_usable(get_context(L)->host, &err))
        return tp_core_push_message(L, &err);
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    const char *source = luaL_checkstring(L, 2), *options = luaL_checkstring(L, 3),
               *name = luaL_checkstring(L, 4), *function = luaL_checkstring(L, 5);
    tp_ref **box = tp_codec_push_box(L, &tp_program_type);
    tp_program *p = tp_opencl_promise_program(ex, device, source, options, name, function, &err);
    if (!p)
        return tp_core_push_message(L, &err);
    *box = &p->ref;
    return 1;
}

/* core.program.built(program) -> "compiled" or "read", and the seconds that this has taken, of one
 * that was promised, once it is made; nothing before that, and when this was told already */
static int l_program_built(lua_State *L)
{
    tp_program *p = tp_core_check_ref(L, 1, &tp_program_type);
    uint64_t ns = atomic_exchange_explicit(&p->untold_ns, 0, memory_order_acq_rel);
    if (ns == 0)
        return 0;
    push_how(L, atomic_load_explicit(&p->untold_how, memory_order_relaxed));
    lua_pushnumber(L, (lua_Number)ns * 1e-9);
    return 2;
}

/* core.program.has_failed(program) -> was it promised, and could not be made? */
static int l_program_has_failed(lua_State *L)
{
    const tp_program *p = tp_core_check_ref(L, 1, &tp_program_type);
    lua_pushboolean(L, tp_program_state_of(p) == TP_PROGRAM_FAILED);
    return 1;
}

static void get_argument(lua_State *L, int t, tp_argument *a)
{
    a->kind = (tp_argument_kind)tp_core_get_number(L, t, "kind", 0);
    a->type = (tp_type)tp_core_get_number(L, t, "type", 0);
    unsigned index = (unsigned)tp_core_get_number(L, t, "index", 1);
    a->index = a->kind == TP_ARG_DETAILS ? index : index - 1;
    a->size = a->kind == TP_ARG_ARRAY ? (size_t)tp_core_get_number(L, t, "bytes", 1)
                                      : tp_type_size(a->type);
    double value = tp_core_get_number(L, t, "value", 0);
    if (a->type == TP_DOUBLE)
        a->value.f64 = value;
    else if (a->type == TP_FLOAT)
        a->value.f32 = (float)value;
    else
        /* little endian: the first bytes are those of a narrower integer. `high`: the upper half
         * of a 64-bit integer, which is no number in Lua */
        a->value.i64 = (int64_t)value +
                       (int64_t)((uint64_t)tp_core_get_number(L, t, "high", 0) << 32);
    if (a->kind == TP_ARG_ARRAY) {
        lua_getfield(L, t, "memory");
        a->array = tp_ref_hold(tp_core_check_memory(L, lua_gettop(L)));
        a->data = (char *)a->array->data + (size_t)tp_core_get_number(L, t, "offset", 0);
        tp_array_look(a->array);
        a->is_written = tp_core_get_boolean(L, t, "is_written");
        lua_pop(L, 1);
    }
}

/* Reads the list of types in the field `key`; returns their number. */
static unsigned get_types(lua_State *L, int t, const char *key, tp_type *types)
{
    lua_getfield(L, t, key);
    unsigned n = (unsigned)lua_objlen(L, -1);
    luaL_argcheck(L, n <= TP_KERNEL_COLUMNS_MAX, 1, "too many columns");
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
        tp_codec_raise_memory(L);
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
        f->format = copy_of(L, get_text(L, at, "format"));
        f->inside = copy_of(L, get_text(L, at, "inside"));
        f->n = tp_core_get_number(L, at, "n", 0);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* The booleans of the list in that field. */
static void get_booleans(lua_State *L, int index, const char *field, bool *to, unsigned n)
{
    lua_getfield(L, index, field);
    for (unsigned c = 0; c < n; c++) {
        lua_rawgeti(L, -1, (int)c + 1);
        to[c] = lua_toboolean(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
}

/* core.program.kernel { programs = { { device =, lanes =, program = }, ... }, arguments = { { kind
 * =, type =, ... }, ... }, inputs =, outputs = lists of types, boolean_inputs =, booleans = lists:
 * true for an input or output that is a boolean, failures = { { format =, inside =, n = }, ... },
 * detail =, group =, has_rows =, is_foreign = } -> kernel: see tp_kernel */
static int l_program_kernel(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    tp_ref **box = tp_codec_push_box(L, &tp_kernel_type);
    tp_kernel *k = tp_kernel_new();
    if (!k)
        return tp_codec_raise_memory(L);
    *box = &k->ref; /* the userdata owns it when something below raises */
    lua_getfield(L, 1, "programs");
    for (int i = 1, n = (int)lua_objlen(L, -1); i <= n; i++) {
        lua_rawgeti(L, -1, i);                          // kernel programs one
        int at = lua_gettop(L);
        lua_getfield(L, at, "program");                 // kernel programs one program
        tp_program *p = tp_codec_to_ref(L, -1, &tp_program_type);
        unsigned device = p ? p->open.index : 0;
        luaL_argcheck(L, p && !k->programs[device], 1, "a program for each device expected");
        k->programs[device] = tp_ref_hold(p);
        k->lanes[device] = (unsigned)tp_core_get_number(L, at, "lanes", 1);
        k->devices |= (uint64_t)1 << device;
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
        if (k->arguments[i - 1].kind == TP_ARG_DETAILS) {
            k->details = k->arguments[i - 1].type;
            k->n_details = k->arguments[i - 1].index;
            luaL_argcheck(L, k->n_details <= TP_DETAILS_MAX, 1, "too many details");
        }
        lua_pop(L, 1);
    }
    k->n_inputs = get_types(L, 1, "inputs", k->input_type);
    k->n_outputs = get_types(L, 1, "outputs", k->output_type);
    get_booleans(L, 1, "booleans", k->is_boolean, k->n_outputs);
    get_booleans(L, 1, "boolean_inputs", k->takes_boolean, k->n_inputs);
    get_failures(L, 1, k);
    k->detail = (int)tp_core_get_number(L, 1, "detail", 0) - 1;
    k->group = (unsigned)tp_core_get_number(L, 1, "group", 1);
    k->has_rows = tp_core_get_boolean(L, 1, "has_rows");
    k->is_foreign = tp_core_get_boolean(L, 1, "is_foreign");
    lua_getfield(L, 1, "where");
    if (lua_isstring(L, -1) && !(k->where = strdup(lua_tostring(L, -1))))
        tp_codec_raise_memory(L);
    lua_pop(L, 1);
    lua_settop(L, 2);
    return 1;
}

/* core.program.plan(kernel, { devices =, name =, source =, options =, entry =, needs_double = }) ->
 * an image for devices of other machines: see tp_plan */
static int l_program_plan(lua_State *L)
{
    tp_plan plan = { .kernel = tp_core_check_ref(L, 1, &tp_kernel_type) };
    tp_buf bytes = { 0 };
    tp_error err = { 0 };
    luaL_checktype(L, 2, LUA_TTABLE);
    plan.devices = get_text(L, 2, "devices");
    plan.name = get_text(L, 2, "name");
    plan.source = get_text(L, 2, "source");
    plan.options = get_text(L, 2, "options");
    plan.entry = get_text(L, 2, "entry");
    luaL_argcheck(L, plan.devices && plan.name && plan.source && plan.options && plan.entry, 2,
                  "a plan expected");
    plan.needs_double = tp_core_get_boolean(L, 2, "needs_double");
    tp_ref **box = tp_codec_push_box(L, &tp_image_type);
    tp_image *image = tp_plan_put(&plan, &bytes, &err) ? NULL : tp_image_new(&bytes);
    tp_buf_free(&bytes);
    if (!image)
        return tp_codec_raise_memory(L);
    *box = &image->ref;
    return 1;
}

/* core.program.is_over(program) -> was it made in a life of the device (life.h) that is over? */
static int l_program_is_over(lua_State *L)
{
    const tp_program *p = tp_core_check_ref(L, 1, &tp_program_type);
    lua_pushboolean(L, tp_life_is_over(p->open.life));
    return 1;
}

/* core.launcher.close(launcher): gives it back now, since the collector may be kept from it, by
 * compiled Lua for one. It cannot be used any more. */
static int l_launcher_close(lua_State *L)
{
    tp_ref **box = lua_touserdata(L, 1), *ref = tp_codec_to_ref(L, 1, &tp_launcher_type);
    if (ref)
        *box = NULL;
    tp_ref_drop(ref);
    return 0;
}

/* ---- by hand: see device.h ---- */

tp_queue *tp_core_check_queue(lua_State *L, int index)
{
    tp_error err;
    tp_error_clear(&err);
    if (!tp_core_is_usable(get_context(L)->host, &err)) {
        lua_pushstring(L, err.message);
        lua_error(L);
    }
    return tp_core_check_ref(L, index, &tp_queue_type);
}

/* tp_queue.is_given_up and tp_mover.is_given_up: after Ctrl-C, which is taken here, so that the
 * error is what the caller says; or because the map in whose item a worker waits was cancelled. */
static bool is_given_up(void *user)
{
    const context *ctx = user;
    tp_work *w = tp_core_work(ctx);
    if (ctx->agent)
        return w && tp_work_tell_cancelled(w);
    return tp_host_take_interrupt(ctx->host);
}

tp_mover tp_core_mover(context *ctx)
{
    return (tp_mover){ .is_given_up = is_given_up, .user = ctx };
}

int tp_core_push_given_up(lua_State *L, const tp_error *err)
{
    if (!get_context(L)->agent)
        tp_lua_core_raise_interrupt(L);
    return tp_core_push_message(L, err);
}

/* core.queue.new(device number) -> queue, or nil and a message */
static int l_queue_new(lua_State *L)
{
    context *ctx = get_context(L);
    tp_executor *ex = tp_host_executor(ctx->host, tp_exec_opencl.name);
    unsigned device = (unsigned)luaL_checkinteger(L, 1) - 1;
    tp_error err = { 0 };
    tp_queue *q;
    if (tp_core_is_usable(ctx->host, &err) && tp_queue_open(&q, ex, device, &err) == 0) {
        /* the context lives as long as the state, which owns the queue */
        q->is_given_up = is_given_up;
        q->user = ctx;
        tp_codec_push_ref(L, &q->ref);
        tp_ref_drop(q);
        return 1;
    }
    return tp_core_push_message(L, &err);
}

/* core.queue.is_over(queue) -> does a new one have to take its place? */
static int l_queue_is_over(lua_State *L)
{
    lua_pushboolean(L, tp_queue_is_over(tp_core_check_ref(L, 1, &tp_queue_type)));
    return 1;
}

/* core.queue.is_lost(queue) -> does it still run a launch that was given up? */
static int l_queue_is_lost(lua_State *L)
{
    lua_pushboolean(L, tp_queue_is_lost(tp_core_check_ref(L, 1, &tp_queue_type)));
    return 1;
}

/* core.queue.finish(queue) -> true, or nil and a message */
static int l_queue_finish(lua_State *L)
{
    tp_error err = { 0 };
    int rc = tp_queue_finish(tp_core_check_queue(L, 1), &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.queue.follow(queue, other) -> true, or nil and a message: see tp_queue_follow */
static int l_queue_follow(lua_State *L)
{
    tp_error err = { 0 };
    int rc = tp_queue_follow(tp_core_check_queue(L, 1), tp_core_check_queue(L, 2), &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.new(queue, bytes, memory, offset) -> buffer, and whether it has memory of its own, or
 * nil and a message. The buffer has the contents of the memory; without memory, zeros. */
static int l_buffer_new(lua_State *L)
{
    tp_queue *q = tp_core_check_queue(L, 1);
    tp_array *a = lua_isnoneornil(L, 3) ? NULL : tp_core_check_memory(L, 3);
    size_t size = (size_t)luaL_checknumber(L, 2), offset = (size_t)luaL_optnumber(L, 4, 0);
    luaL_argcheck(L, !a || (offset <= a->size && size <= a->size - offset), 2,
                  "more bytes than the memory has");
    tp_error err = { 0 };
    tp_buffer *b;
    if (tp_buffer_open(&b, q, size, a, a ? (char *)a->data + offset : NULL, &err))
        return tp_core_push_message(L, &err);
    if (b->array)
        tp_array_expose(a); /* kernels may write to it at any time */
    tp_codec_push_ref(L, &b->ref);
    lua_pushboolean(L, b->array != NULL);
    tp_ref_drop(b);
    return 2;
}

/* core.buffer.of_array(queue, memory) -> buffer, or nil and a message: see tp_buffer_of_array */
static int l_buffer_of_array(lua_State *L)
{
    tp_buffer *b;
    tp_error err = { 0 };
    if (tp_buffer_of_array(&b, tp_core_check_queue(L, 1), tp_core_check_memory(L, 2), &err))
        return tp_core_push_message(L, &err);
    tp_codec_push_ref(L, &b->ref);
    tp_ref_drop(b);
    return 1;
}

/* core.buffer.present(queue, buffer, memory, type) -> true, or nil and a message: see
 * tp_buffer_present */
static int l_buffer_present(lua_State *L)
{
    tp_error err = { 0 };
    int rc = tp_buffer_present(tp_core_check_queue(L, 1), tp_core_check_ref(L, 2, &tp_buffer_type),
                               tp_core_check_memory(L, 3), (tp_type)luaL_checkinteger(L, 4), &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.bring_home(memory) -> true, or nil and a message: the array's elements are in host
 * memory */
static int l_buffer_bring_home(lua_State *L)
{
    tp_error err = { 0 };
    const tp_mover me = tp_core_mover(get_context(L));
    int rc = tp_copies_bring_array_home(tp_core_check_memory(L, 1), &me, &err);
    if (rc && err.code == TP_ETIMEOUT)
        return tp_core_push_given_up(L, &err);
    return tp_core_push_true_or(L, rc, &err);
}

static size_t check_size(lua_State *L, int index)
{
    lua_Number x = luaL_checknumber(L, index);
    luaL_argcheck(L, x >= 0 && x < 9e15, index, "a size expected");
    return (size_t)x;
}

/* The buffer at `index`, and at `index` + 1 the offset of `size` bytes, which must be inside the
 * buffer. */
static tp_buffer *check_place(lua_State *L, int index, size_t size, size_t *at)
{
    tp_buffer *b = tp_core_check_ref(L, index, &tp_buffer_type);
    *at = check_size(L, index + 1);
    luaL_argcheck(L, *at <= b->size && size <= b->size - *at, index + 1,
                  "more bytes than there are");
    return b;
}

/* The arguments (queue, buffer, at, memory, offset, bytes) of reading and writing. */
static char *check_transfer(lua_State *L, tp_buffer **b, size_t *at, size_t *size)
{
    tp_array *a = tp_core_check_memory(L, 4);
    size_t offset = check_size(L, 5);
    *size = check_size(L, 6);
    *b = check_place(L, 2, *size, at);
    luaL_argcheck(L, offset <= a->size && *size <= a->size - offset, 6,
                  "more bytes than there are");
    return (char *)a->data + offset;
}

/* core.buffer.read(queue, buffer, at, memory, offset, bytes, type) -> true, or nil and a message */
static int l_buffer_read(lua_State *L)
{
    size_t size, at;
    tp_buffer *b;
    char *to = check_transfer(L, &b, &at, &size);
    tp_error err = { 0 };
    int rc = tp_buffer_read(tp_core_check_queue(L, 1), b, at, to, size,
                            (tp_type)luaL_checkinteger(L, 7), &err);
    tp_array_touch(tp_core_check_memory(L, 4));
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.write(queue, buffer, at, memory, offset, bytes) -> true, or nil and a message */
static int l_buffer_write(lua_State *L)
{
    size_t size, at;
    tp_buffer *b;
    const char *from = check_transfer(L, &b, &at, &size);
    tp_error err = { 0 };
    int rc = tp_buffer_write(tp_core_check_queue(L, 1), b, at, from, size, &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.copy(queue, to, at, from, offset in from, bytes) -> true, or nil and a message */
static int l_buffer_copy(lua_State *L)
{
    size_t size = check_size(L, 6), at, from_at;
    tp_buffer *to = check_place(L, 2, size, &at), *from = check_place(L, 4, size, &from_at);
    tp_error err = { 0 };
    int rc = tp_buffer_copy(tp_core_check_queue(L, 1), to, at, from, from_at, size, &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.fill(queue, buffer, at, bytes, the bytes of one element) -> true, or nil and a
 * message */
static int l_buffer_fill(lua_State *L)
{
    size_t size = check_size(L, 4), at, pattern_size;
    tp_buffer *b = check_place(L, 2, size, &at);
    const char *pattern = luaL_checklstring(L, 5, &pattern_size);
    tp_error err = { 0 };
    int rc = tp_buffer_fill(tp_core_check_queue(L, 1), b, at, size, pattern, pattern_size, &err);
    return tp_core_push_true_or(L, rc, &err);
}

/* core.buffer.slice(buffer, at, bytes) -> buffer, or nil and a message */
static int l_buffer_slice(lua_State *L)
{
    size_t size = check_size(L, 3), at;
    tp_buffer *b = check_place(L, 1, size, &at), *slice;
    tp_error err = { 0 };
    if (tp_buffer_slice(&slice, b, at, size, &err))
        return tp_core_push_message(L, &err);
    tp_codec_push_ref(L, &slice->ref);
    tp_ref_drop(slice);
    return 1;
}

/* core.launcher.is_over(launcher) -> does a new one have to take its place? */
static int l_launcher_is_over(lua_State *L)
{
    const tp_launcher *l = tp_codec_to_ref(L, 1, &tp_launcher_type);
    lua_pushboolean(L, !l || tp_launcher_is_over(l));
    return 1;
}

/* core.launcher.time(queue, launcher) -> seconds that its last launch took, or nil and a message */
static int l_launcher_time(lua_State *L)
{
    double seconds;
    tp_error err = { 0 };
    if (tp_launcher_time(tp_core_check_queue(L, 1), tp_core_check_ref(L, 2, &tp_launcher_type),
                         &seconds, &err))
        return tp_core_push_message(L, &err);
    lua_pushnumber(L, seconds);
    return 1;
}

/* core.program.kernels(program) -> the names of its kernels with ";" between them, or nil and a
 * message */
static int l_program_kernels(lua_State *L)
{
    char names[4096];
    tp_error err = { 0 };
    if (tp_program_kernels(tp_core_check_ref(L, 1, &tp_program_type), names, sizeof names, &err))
        return tp_core_push_message(L, &err);
    lua_pushstring(L, names);
    return 1;
}

/* core.launcher.new(program, name) -> launcher, parameters, the largest group, and the group that
 * the source requires (a list, or nil); or nil and a message. A parameter is { type, name, space },
 * or false when the compiler keeps no information about it. */
static int l_launcher_new(lua_State *L)
{
    tp_program *p = tp_core_check_ref(L, 1, &tp_program_type);
    tp_error err = { 0 };
    tp_launcher *l;
    if (tp_launcher_open(&l, p, luaL_checkstring(L, 2), &err))
        return tp_core_push_message(L, &err);
    tp_codec_push_ref(L, &l->ref); /* the userdata owns it */
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

/* Reads up to three sizes from the list at index t; returns their number. */
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

/* core.launcher.launch(queue, launcher, global sizes, local sizes, arguments, offsets or nil) ->
 * true; or nil, a message, and whether it was started all the same. An argument is a buffer, a
 * string with the bytes of a value, or a number of bytes of local memory. */
static int l_launcher_launch(lua_State *L)
{
    tp_queue *q = tp_core_check_queue(L, 1);
    tp_launcher *l = tp_core_check_ref(L, 2, &tp_launcher_type);
    tp_launch_range range = { 0 };
    range.dimensions = get_sizes(L, 3, range.global);
    luaL_argcheck(L, get_sizes(L, 4, range.local) == range.dimensions, 4,
                  "as many sizes as the global ones expected");
    if (!lua_isnoneornil(L, 6))
        luaL_argcheck(L, get_sizes(L, 6, range.offset) == range.dimensions, 6,
                      "as many offsets as sizes expected");
    luaL_checktype(L, 5, LUA_TTABLE);
    luaL_argcheck(L, lua_objlen(L, 5) == l->n_parameters, 5,
                  "an argument for each parameter expected");
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
            a->buffer = tp_core_check_ref(L, lua_gettop(L), &tp_buffer_type);
        lua_pop(L, 1);
    }
    tp_error err = { 0 };
    int rc = tp_launch(q, l, &range, arguments, &err);
    if (rc) {
        tp_core_push_message(L, &err);
        lua_pushboolean(L, rc == TP_LAUNCH_WROTE);
        return 3;
    }
    lua_pushboolean(L, 1);
    return 1;
}

static const luaL_Reg device_functions[] = {
    { "list", l_device_list },
    { "begin", l_device_begin },
    { "order", l_device_order },
    { "match", l_device_match },
    { "leased", l_device_leased },
    { "has", l_device_has },
    { "is_stuck", l_device_is_stuck },
    { "free_up", l_device_free_up },
    { "shortages", l_device_shortages },
    { NULL, NULL },
};

static const luaL_Reg program_functions[] = {
    { "new", l_program_new },
    { "promise", l_program_promise },
    { "built", l_program_built },
    { "has_failed", l_program_has_failed },
    { "kernel", l_program_kernel },
    { "plan", l_program_plan },
    { "is_over", l_program_is_over },
    { "kernels", l_program_kernels },
    { NULL, NULL },
};

static const luaL_Reg queue_functions[] = {
    { "new", l_queue_new },
    { "is_over", l_queue_is_over },
    { "is_lost", l_queue_is_lost },
    { "finish", l_queue_finish },
    { "follow", l_queue_follow },
    { NULL, NULL },
};

static const luaL_Reg buffer_functions[] = {
    { "new", l_buffer_new },
    { "of_array", l_buffer_of_array },
    { "present", l_buffer_present },
    { "bring_home", l_buffer_bring_home },
    { "read", l_buffer_read },
    { "write", l_buffer_write },
    { "copy", l_buffer_copy },
    { "fill", l_buffer_fill },
    { "slice", l_buffer_slice },
    { NULL, NULL },
};

static const luaL_Reg launcher_functions[] = {
    { "time", l_launcher_time },
    { "is_over", l_launcher_is_over },
    { "close", l_launcher_close },
    { "new", l_launcher_new },
    { "launch", l_launcher_launch },
    { NULL, NULL },
};

void tp_core_register_device(lua_State *L)
{
    tp_codec_ref_type(L, &tp_program_type);
    tp_codec_ref_type(L, &tp_kernel_type);
    tp_codec_ref_type(L, &tp_queue_type);
    tp_codec_ref_type(L, &tp_buffer_type);
    tp_codec_ref_type(L, &tp_launcher_type);
    lua_pop(L, 5); /* the metatables, which the registry keeps */
    tp_core_register(L, "device", device_functions);
    tp_core_register(L, "program", program_functions);
    tp_core_register(L, "queue", queue_functions);
    tp_core_register(L, "buffer", buffer_functions);
    tp_core_register(L, "launcher", launcher_functions);
}
