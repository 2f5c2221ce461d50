/* api.c: the C API above a Lua state: functions, maps, results, failures.
 *
 * A map from C is a map from Lua (tidepool.embed calls Function and Results), so that it means
 * exactly the same. The state is made when it is first needed, and is entered by `enter` only:
 * protected, never twice at once, on the owner's thread. Comments of C functions that Lua calls
 * begin with their arguments and results, as in `(map, i) -> arguments`. */
#include "embed/api.h"

#include "base/deadline.h"
#include "base/error.h"
#include "codec/standard.h"
#include "lua/core.h"
#include "lua/value.h"
#include "workers/state.h"
#include "workers/texts.h"

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    PATIENCE_NS = 5 * 1000 * 1000, /* how long the callbacks of one step may take together */
    /* closed handles of each kind that are remembered, so that using one is an error and not a
     * crash */
    CLOSED_MAX = 64
};

/* The first member of tp_function and tp_map. The owner's. */
typedef struct handle {
    tp_api *api;
    struct handle *next_closed; /* once it is closed: the next one in the api's list */
    bool is_closed;
} handle;

/* The handles that were closed last, in the order in which they were closed. */
typedef struct closed_list {
    handle *first, **last;
    int n;
} closed_list;

struct tp_function {
    handle base;
    tp_function *next, *prev;
    int ref; /* of the Function in the registry */
};

/* All of it is the owner's. */
struct tp_map {
    handle base;
    tp_map *next, *prev;
    int ref;                    /* of the Results in the registry */
    bool is_over;               /* its end or its failure has been handed out */
    bool is_inline;             /* its function runs only while somebody waits for results */

    /* The inputs. They stay the caller's memory. */
    size_t width;
    const double *columns[TP_COLUMNS_MAX];
    const tp_span *spans;
    const tp_value *values;

    /* The last result, or what ended the map. */
    tp_arena arena;
    tp_result result;
    tp_failure item_failure, failure;
    bool has_failed;

    tp_map_callback callback;   /* NULL while results are read by tp_map_next */
    void *user;
    tp_job *job;                /* with a callback, until the map is over; owned by the Results */
    uint32_t seen;              /* the job's eventcount when it was last looked at */
    bool is_due;                /* look at it in any case, even without news */
};

struct tp_api {
    tp_host *host;
    lua_State *L;
    int embed; /* reference: the module tidepool.embed */
    tp_function *functions;
    tp_map *maps, *cursor;   /* cursor: the map whose turn is next in dispatch */
    closed_list closed_functions, closed_maps;
    tp_map *current;         /* the map whose callback runs; NULL when the callback has closed it */
    unsigned n_callbacks;    /* maps with a callback that are not over */
    bool is_inside;          /* Lua code of this state is running */
    uint64_t due_ns; /* when the next step is due; UINT64_MAX: only when something happens */

    tp_arena values;         /* what tp_host_call returned last */
    tp_arena failure_arena;
    tp_failure failure;
    bool has_failed;
};

/* ---- entering Lua ---- */

/* One call into the state: embed.lua's function `fn` is called with what `push` pushes, and `take`
 * reads its results. The frame begins the caller's own struct, which both get as `frame`. */
typedef struct frame {
    tp_api *api;
    const char *fn;
    void (*push)(lua_State *L, void *frame);  /* pushes the arguments of fn; may be NULL */
    void (*take)(lua_State *L, void *frame);  /* reads its results, from index 1; may be NULL */
    tp_arena *arena;                          /* memory for the failure */
    tp_failure *failure;
    int status;                               /* what lua_pcall returned */
    bool is_described;                        /* *failure has been filled in */
} frame;

static const char no_memory[] = TP_NO_MEMORY;

/* The string at index, copied into the arena; "" when it is no string; no_memory when there is no
 * room. */
static const char *copy_text(lua_State *L, int index, tp_arena *arena)
{
    size_t len = 0;
    const char *text = lua_isstring(L, index) ? lua_tolstring(L, index, &len) : "";
    const char *copy = tp_arena_copy(arena, text, len);
    return copy ? copy : no_memory;
}

/* Calls embed.explain for the error at the top: fills in *to. Raises. */
static void read_failure(lua_State *L, tp_api *api, tp_failure *to, tp_arena *arena)
{
    int error = lua_gettop(L);
    lua_rawgeti(L, LUA_REGISTRYINDEX, api->embed);
    lua_getfield(L, -1, "explain");
    lua_pushvalue(L, error);
    lua_call(L, 1, 7); // kind message traceback text index attempts value
    const char *why;
    int first = error + 2;
    tp_failure_kind kind = tp_failure_kind_named(lua_tostring(L, first));
    to->message = copy_text(L, first + 1, arena);
    to->traceback = copy_text(L, first + 2, arena);
    to->text = copy_text(L, first + 3, arena);
    if (to->message == no_memory || to->traceback == no_memory || to->text == no_memory)
        kind = TP_KIND_MEMORY;
    to->kind = tp_failure_kind_name(kind);
    to->index = lua_isnumber(L, first + 4) ? (size_t)lua_tonumber(L, first + 4) - 1 : TP_NO_INDEX;
    to->attempts = (unsigned)lua_tonumber(L, first + 5);
    if (tp_value_read(L, first + 6, &to->value, arena, &why))
        to->value = tp_nil();
    lua_settop(L, error);
}

/* (frame): calls embed.lua's function for it. */
static int call_body(lua_State *L)
{
    frame *f = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->api->embed);
    lua_getfield(L, -1, f->fn);
    lua_remove(L, 1);                       // fn
    if (f->push)
        f->push(L, f);
    lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
    if (f->take)
        f->take(L, f);
    return 0;
}

static int call_described(lua_State *L)
{
    frame *f = lua_touserdata(L, 1);
    lua_pushcfunction(L, call_body);
    lua_pushvalue(L, 1);
    f->status = lua_pcall(L, 1, 0, 0);
    if (f->status && f->status != LUA_ERRMEM) {
        tp_arena_reset(f->arena);
        read_failure(L, f->api, f->failure, f->arena);
        f->is_described = true;
    }
    return 0;
}

static tp_code code_of(const char *kind)
{
    switch (tp_failure_kind_named(kind)) {
    case TP_KIND_MEMORY: return TP_EMEMORY;
    case TP_KIND_RESOURCE: return TP_ESYS;
    case TP_KIND_USAGE: return TP_EUSAGE;
    default: return TP_ELUA;
    }
}

/* Sets err from the failure; returns -1. The text of a usage error names its input itself, so that
 * no "input 3: " is put before it. */
static int describe(tp_error *err, const tp_failure *failure)
{
    const tp_code code = code_of(failure->kind);
    if (failure->index != TP_NO_INDEX && code != TP_EUSAGE)
        return tp_error_set(err, code, "input %zu: %s", failure->index + 1, failure->message);
    return tp_error_set(err, code, "%s", failure->message);
}

/* Called after code that may have started something on the host's loop: makes the caller's loop
 * look at it. */
static void note_activity(tp_host *host)
{
    if (host->is_driven)
        uv_async_send(&host->wake_up);
}

static int check_inside(tp_api *api, tp_error *err)
{
    if (tp_host_check_owner(api->host, err))
        return -1;
    if (api->is_inside)
        return tp_error_set(
            err, TP_EBUSY,
            "called from inside Lua code, or a C function, that the host is running");
    return 0;
}

/* Runs f. On failure err is set, and *f->failure filled in. */
static int enter(frame *f, tp_error *err)
{
    tp_api *api = f->api;
    if (check_inside(api, err))
        return -1;
    api->is_inside = true;
    int status = lua_cpcall(api->L, call_described, f);
    if (status)
        lua_pop(api->L, 1);
    api->is_inside = false;
    if (status == 0 && f->status == 0)
        return 0;
    if (!f->is_described) { /* memory ran out, perhaps while the failure was being described */
        *f->failure = (tp_failure){ tp_failure_kind_name(TP_KIND_MEMORY),
                                    TP_NO_MEMORY,
                                    "",
                                    TP_NO_MEMORY,
                                    TP_NO_INDEX,
                                    0,
                                    tp_nil() };
        return tp_error_oom(err, f->fn);
    }
    return describe(err, f->failure);
}

/* The same for functions that take the host: the failure is kept for tp_host_failure. */
static int enter_host(frame *f, tp_error *err)
{
    tp_api *api = f->api;
    if (check_inside(api, err))
        return -1;
    f->arena = &api->failure_arena;
    f->failure = &api->failure;
    int rc = enter(f, err);
    api->has_failed = rc && f->status;
    note_activity(api->host);
    return rc;
}

/* Closes the handle: from now on using it is an error. */
static void retire(closed_list *list, handle *h)
{
    h->is_closed = true;
    h->next_closed = NULL;
    *(list->first ? list->last : &list->first) = h;
    list->last = &h->next_closed;
    list->n++;
}

/* Frees closed handles, the oldest first, until `kept` of them are left. */
static void forget_closed(closed_list *list, int kept)
{
    while (list->n > kept) {
        handle *h = list->first;
        list->first = h->next_closed;
        list->n--;
        free(h);
    }
}

static void free_function(tp_function *function)
{
    tp_api *api = function->base.api;
    luaL_unref(api->L, LUA_REGISTRYINDEX, function->ref);
    *(function->prev ? &function->prev->next : &api->functions) = function->next;
    if (function->next)
        function->next->prev = function->prev;
    retire(&api->closed_functions, &function->base);
    forget_closed(&api->closed_functions, CLOSED_MAX);
}

/* Ends the map: its job is not looked at any more. */
static void end_map(tp_map *map)
{
    tp_api *api = map->base.api;
    map->is_over = true;
    map->job = NULL;
    if (map->callback) {
        map->callback = NULL;
        if (--api->n_callbacks == 0)
            tp_host_hold_loop(api->host, false);
    }
}

static void free_map(tp_map *map)
{
    tp_api *api = map->base.api;
    end_map(map);
    luaL_unref(api->L, LUA_REGISTRYINDEX, map->ref);
    *(map->prev ? &map->prev->next : &api->maps) = map->next;
    if (map->next)
        map->next->prev = map->prev;
    if (api->cursor == map)
        api->cursor = map->next;
    if (api->current == map)
        api->current = NULL;
    tp_arena_free(&map->arena);
    retire(&api->closed_maps, &map->base);
    forget_closed(&api->closed_maps, CLOSED_MAX);
}

/* (api): opens what the state needs. */
static int open_state(lua_State *L)
{
    tp_api *api = lua_touserdata(L, 1);
    tp_state_open_libraries(L);
    tp_texts_open(L);
    tp_codec_open(L);
    tp_lua_core_open(L, api->host, NULL);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidepool");
    lua_call(L, 1, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "tidepool.host.embed");
    lua_call(L, 1, 1);
    api->embed = luaL_ref(L, LUA_REGISTRYINDEX);
    tp_standard_settle(L, tp_codec_standard(L));
    return 0;
}

/* The host's api, opened at its first use; NULL with err set. */
static tp_api *get_api(tp_host *host, const char *function, tp_error *err)
{
    if (tp_error_check_given(host, function, "host", err) || tp_host_check_owner(host, err))
        return NULL;
    if (host->api)
        return host->api;
    tp_api *api = calloc(1, sizeof *api);
    if (!api) {
        tp_error_oom(err, "the host's Lua state");
        return NULL;
    }
    api->host = host;
    api->due_ns = UINT64_MAX;
    api->L = tp_state_new();
    int status = api->L ? lua_cpcall(api->L, open_state, api) : LUA_ERRMEM;
    if (status) {
        const char *why = api->L && lua_isstring(api->L, -1) ? lua_tostring(api->L, -1)
                                                             : TP_NO_MEMORY;
        tp_error_set(err,
                     !api->L || tp_codec_is_memory_error(api->L, status) ? TP_EMEMORY : TP_ESYS,
                     "cannot open the host's Lua state: %s", why);
        tp_api_close(api);
        return NULL;
    }
    host->api = api;
    return api;
}

void tp_api_close(tp_api *api)
{
    if (!api)
        return;
    while (api->maps)
        free_map(api->maps);
    while (api->functions)
        free_function(api->functions);
    forget_closed(&api->closed_maps, 0);
    forget_closed(&api->closed_functions, 0);
    if (api->L)
        tp_state_close(api->L);
    tp_arena_free(&api->values);
    tp_arena_free(&api->failure_arena);
    free(api);
}

const char *tp_version(void)
{
    return TP_VERSION;
}

const tp_failure *tp_host_failure(tp_host *host)
{
    if (!host || tp_host_check_owner(host, NULL))
        return NULL;
    return host->api && host->api->has_failed ? &host->api->failure : NULL;
}

/* ---- Lua code on the owner's thread ---- */

typedef struct run_frame {
    frame base;
    const char *code, *name;
    size_t len;
    const tp_value *args;
    tp_values results;
} run_frame;

static void push_file(lua_State *L, void *user)
{
    lua_pushstring(L, ((run_frame *)user)->name);
}

static void push_code(lua_State *L, void *user)
{
    run_frame *f = user;
    lua_pushlstring(L, f->code, f->len);
    lua_pushstring(L, f->name);
}

int tp_host_run_file(tp_host *host, const char *path, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(path, __func__, "path", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    run_frame f = { .base = { .api = api, .fn = "run_file", .push = push_file }, .name = path };
    return api ? enter_host(&f.base, err) : -1;
}

int tp_host_run_string(tp_host *host, const char *code, size_t len, const char *name, tp_error *err)
{
    tp_error_begin(err);
    if (len && tp_error_check_given(code, __func__, "code", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    run_frame f = { .base = { .api = api, .fn = "run_string", .push = push_code },
                    .code = code,
                    .len = len,
                    .name = name };
    return api ? enter_host(&f.base, err) : -1;
}

static void push_call(lua_State *L, void *user)
{
    run_frame *f = user;
    luaL_checkstack(L, f->len < 1000000 ? (int)f->len + 4 : 1000000, "too many arguments");
    lua_pushstring(L, f->name);
    for (size_t i = 0; i < f->len; i++)
        tp_value_push(L, &f->args[i], "args", i);
}

/* Reads the stack values from `first` on as results. When one does not reach C it gives NULL, with
 * a message as the only value on the stack. Raises out of memory. */
static tp_value *try_values(lua_State *L, int first, size_t *n, tp_arena *arena)
{
    int count = lua_gettop(L) - first + 1;
    tp_value *values = tp_arena_take(arena, (size_t)count * sizeof *values);
    if (!values)
        tp_codec_raise_memory(L);
    for (int i = 0; i < count; i++) {
        const char *why;
        if (tp_value_read(L, first + i, &values[i], arena, &why) == 0)
            continue;
        lua_settop(L, 0);
        if (!why)
            tp_codec_raise_memory(L);
        lua_pushfstring(L, "result %d: %s does not reach C", i + 1, why);
        return NULL;
    }
    *n = (size_t)count;
    return values;
}

/* The same; raises the message. */
static tp_value *read_values(lua_State *L, int first, size_t *n, tp_arena *arena)
{
    tp_value *values = try_values(L, first, n, arena);
    if (!values)
        lua_error(L);
    return values;
}

static void take_values(lua_State *L, void *user)
{
    run_frame *f = user;
    tp_arena *arena = &f->base.api->values;
    tp_arena_reset(arena);
    f->results.items = read_values(L, 1, &f->results.n, arena);
}

int tp_host_call(tp_values *out, tp_host *host, const char *name, const tp_value *args, size_t n,
                 tp_error *err)
{
    tp_error_begin(err);
    if (out)
        *out = (tp_values){ NULL, 0 };
    if (n && tp_error_check_given(args, __func__, "args", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    run_frame f = {
        .base = { .api = api, .fn = "call", .push = push_call, .take = out ? take_values : NULL },
        .name = name,
        .args = args,
        .len = n
    };
    int rc = api ? enter_host(&f.base, err) : -1;
    if (out && rc == 0)
        *out = f.results;
    return rc;
}

/* ---- functions ---- */

typedef struct function_frame {
    frame base;
    const char *name, *source;
    tp_callee *callee; /* owned by the caller */
    const tp_value *options;
    int ref;
} function_frame;

static void push_options(lua_State *L, const tp_value *options)
{
    if (!options)
        lua_pushnil(L);
    else if (options->kind == TP_TABLE && options->n > TP_OPTIONS_MAX && !options->as.pairs)
        luaL_error(L, "there are %d options, and room for %d", (int)options->n,
                   (int)TP_OPTIONS_MAX);
    else if (options->kind != TP_TABLE && !(options->kind == TP_LIST && options->n == 0))
        luaL_error(L, "options must be a table value, with names as its keys");
    else
        tp_value_push(L, options, NULL, 0);
}

static void push_function(lua_State *L, void *user)
{
    function_frame *f = user;
    lua_pushstring(L, f->name);
    if (f->source)
        lua_pushstring(L, f->source);
    if (f->callee)
        tp_codec_push_ref(L, &f->callee->ref);
    if (f->source || f->callee)
        push_options(L, f->options);
}

static void push_known(lua_State *L, void *user)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ((function_frame *)user)->ref);
}

static void take_function(lua_State *L, void *user)
{
    ((function_frame *)user)->ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Makes the handle of the function that f finds. The handle is allocated first, so that a failure
 * leaves nothing to undo. */
static int open_function(tp_function **out, tp_api *api, function_frame *f, tp_error *err)
{
    *out = NULL;
    tp_function *made = calloc(1, sizeof *made);
    if (!made)
        return tp_error_oom(err, "function");
    f->base.api = api;
    f->base.push = push_function;
    f->base.take = take_function;
    if (enter_host(&f->base, err)) {
        free(made);
        return -1;
    }
    made->base.api = api;
    made->ref = f->ref;
    made->next = api->functions;
    if (made->next)
        made->next->prev = made;
    api->functions = made;
    *out = made;
    return 0;
}

int tp_function_from_lua(tp_function **out, tp_host *host, const char *name, const char *source,
                         const tp_value *options, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    if (tp_error_check_given(name, __func__, "name", err) ||
        tp_error_check_given(source, __func__, "source", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    function_frame f = {
        .base = { .fn = "from_lua" }, .name = name, .source = source, .options = options
    };
    return api ? open_function(out, api, &f, err) : -1;
}

int tp_function_find(tp_function **out, tp_host *host, const char *name, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    if (tp_error_check_given(name, __func__, "name", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    function_frame f = { .base = { .fn = "find" }, .name = name };
    return api ? open_function(out, api, &f, err) : -1;
}

int tp_function_from_c(tp_function **out, tp_host *host, const char *name, tp_c_function fn,
                       void *user, const tp_value *options, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    if (tp_error_check_given(name, __func__, "name", err) ||
        tp_error_check_given(fn ? name : NULL, __func__, "fn", err))
        return -1;
    tp_api *api = get_api(host, __func__, err);
    if (!api)
        return -1;
    function_frame f = { .base = { .fn = "from_c" },
                         .name = name,
                         .options = options,
                         .callee = tp_callee_new(name, fn, user) };
    if (!f.callee)
        return tp_error_oom(err, "function");
    int rc = open_function(out, api, &f, err);
    tp_ref_drop(f.callee);
    return rc;
}

void tp_function_close(tp_function *function)
{
    if (!function || check_inside(function->base.api, NULL) || function->base.is_closed)
        return;
    function_frame f = { .base = { .api = function->base.api,
                                   .fn = "forget",
                                   .push = push_known,
                                   .arena = &function->base.api->failure_arena },
                         .ref = function->ref };
    tp_failure unused;
    f.base.failure = &unused;
    enter(&f.base, NULL);
    free_function(function);
}

/* ---- maps: inputs ---- */

/* (address, map, first, count): copies `count` inputs from input `first` on to the memory that
 * core.job.numbers gave, column after column. NaNs are made canonical, since LuaJIT reads NaNs with
 * other bits as values of other types. */
static int copy_doubles(lua_State *L)
{
    double *to = (double *)(uintptr_t)lua_tonumber(L, 1);
    const tp_map *map = lua_touserdata(L, 2);
    size_t first = (size_t)lua_tonumber(L, 3), count = (size_t)lua_tonumber(L, 4);
    for (size_t c = 0; c < map->width; c++) {
        const double *from = map->columns[c] + first;
        for (size_t i = 0; i < count; i++)
            *to++ = isnan(from[i]) ? (double)NAN : from[i];
    }
    return 0;
}

/* (map, i) -> the arguments of input i, from 0 */
static int push_input(lua_State *L)
{
    const tp_map *map = lua_touserdata(L, 1);
    size_t i = (size_t)lua_tonumber(L, 2);
    if (map->spans) {
        if (map->spans[i].len && !map->spans[i].bytes)
            return luaL_error(L, "tp_map_bytes: inputs[%d].bytes is NULL, with len %f", (int)i,
                              (double)map->spans[i].len);
        lua_pushlstring(L, map->spans[i].len ? map->spans[i].bytes : "", map->spans[i].len);
        return 1;
    }
    luaL_checkstack(L, map->width < 1000000 ? (int)map->width : 1000000, "too many arguments");
    for (size_t k = 0; k < map->width; k++)
        tp_value_push(L, &map->values[i * map->width + k], "tp_map_values: values",
                      i * map->width + k);
    return (int)map->width;
}

typedef struct map_frame {
    frame base;
    tp_map *map;
    int function; /* reference to the function */
    size_t n;
    bool is_doubles;
    const tp_value *options;
    int status;   /* what embed.step returned */
    double seconds; /* for how long to wait; negative: until there is a result */
    double *out;
    tp_progress progress;
} map_frame;

static void push_map(lua_State *L, void *user)
{
    map_frame *f = user;
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->function);
    lua_pushlightuserdata(L, f->map);
    lua_pushcfunction(L, f->is_doubles ? copy_doubles : push_input);
    if (f->is_doubles)
        lua_pushnumber(L, (double)f->map->width);
    else
        lua_pushnil(L);
    lua_pushnumber(L, (double)f->n);
    push_options(L, f->options);
}

static void take_map(lua_State *L, void *user)
{
    map_frame *f = user;
    f->map->is_inline = lua_toboolean(L, 2);
    lua_settop(L, 1);
    f->map->ref = luaL_ref(L, LUA_REGISTRYINDEX);
}

/* Opens a map: *inputs has the fields of its inputs, the rest is filled in here. */
static int open_map(tp_map **out, const char *caller, tp_function *function, const tp_map *inputs,
                    size_t n, bool is_doubles, const tp_value *options, tp_error *err)
{
    tp_api *api = function->base.api;
    if (check_inside(api, err))
        return -1;
    if (function->base.is_closed)
        return tp_error_set(err, TP_EUSAGE, "%s: the function has been closed", caller);
    tp_map *map = malloc(sizeof *map);
    if (!map)
        return tp_error_oom(err, "map");
    *map = *inputs;
    map->base.api = api;
    map_frame f = { .base = { .api = api, .fn = "map", .push = push_map, .take = take_map },
                    .map = map,
                    .function = function->ref,
                    .n = n,
                    .is_doubles = is_doubles,
                    .options = options };
    if (enter_host(&f.base, err)) {
        free(map);
        return -1;
    }
    map->next = api->maps;
    if (map->next)
        map->next->prev = map;
    api->maps = map;
    *out = map;
    return 0;
}

int tp_map_doubles(tp_map **out, tp_function *function, const double *const *columns, size_t width,
                   size_t n, const tp_value *options, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    tp_map inputs = { .width = width };
    if (width < 1 || width > TP_COLUMNS_MAX)
        return tp_error_set(err, TP_EUSAGE, "tp_map_doubles: width is %zu: it must be 1 to %d",
                            width, TP_COLUMNS_MAX);
    if (tp_error_check_given(function, __func__, "function", err) ||
        tp_error_check_given(columns, __func__, "columns", err))
        return -1;
    memcpy(inputs.columns, columns, width * sizeof *columns);
    for (size_t c = 0; n > 0 && c < width; c++)
        if (!columns[c])
            return tp_error_set(err, TP_EUSAGE, "tp_map_doubles: columns[%zu] is NULL", c);
    return open_map(out, __func__, function, &inputs, n, true, options, err);
}

int tp_map_bytes(tp_map **out, tp_function *function, const tp_span *inputs, size_t n,
                 const tp_value *options, tp_error *err)
{
    tp_error_begin(err);
    static const tp_span none = { "", 0 };
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    if (tp_error_check_given(function, __func__, "function", err) ||
        (n && tp_error_check_given(inputs, __func__, "inputs", err)))
        return -1;
    tp_map map = { .width = 1, .spans = inputs ? inputs : &none };
    return open_map(out, __func__, function, &map, n, false, options, err);
}

int tp_map_values(tp_map **out, tp_function *function, const tp_value *values, size_t width,
                  size_t n, const tp_value *options, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    if (tp_error_check_given(function, __func__, "function", err) ||
        (n && width && tp_error_check_given(values, __func__, "values", err)))
        return -1;
    tp_map map = { .width = width, .values = values };
    return open_map(out, __func__, function, &map, n, false, options, err);
}

/* ---- maps: results ---- */

static void push_results(lua_State *L, void *user)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, ((map_frame *)user)->map->ref);
}

static void push_step(lua_State *L, void *user)
{
    push_results(L, user);
    if (((map_frame *)user)->seconds >= 0)
        lua_pushnumber(L, ((map_frame *)user)->seconds);
    else
        lua_pushnil(L);
}

static void take_step(lua_State *L, void *user)
{
    map_frame *f = user;
    tp_map *map = f->map;
    f->status = (int)lua_tointeger(L, 1);
    if (f->status != TP_STEP_RESULT && f->status != TP_STEP_FAILURE)
        return;
    tp_arena_reset(&map->arena);
    double index = lua_tonumber(L, 2);
    map->result = (tp_result){ .index = (size_t)index - 1 };
    if (f->status == TP_STEP_RESULT) {
        map->result.values = try_values(L, 3, &map->result.n, &map->arena);
        if (map->result.values)
            return;
        lua_rawgeti(L, LUA_REGISTRYINDEX, f->base.api->embed);
        lua_getfield(L, -1, "refuse");                     // message embed refuse
        push_results(L, user);
        lua_pushnumber(L, index);
        lua_pushvalue(L, 1);
        lua_call(L, 3, 1);                                 // message embed failure
    }
    read_failure(L, f->base.api, &map->item_failure, &map->arena);
    map->result.failure = &map->item_failure;
}

/* The map has failed and is over. After an interrupt its Results are still open, and are closed
 * here. */
static void fail_map(tp_map *map)
{
    tp_failure unused;
    map->has_failed = true;
    map->is_over = true;
    map_frame f = { .base = { .api = map->base.api,
                              .fn = "close",
                              .push = push_results,
                              .arena = &map->base.api->failure_arena,
                              .failure = &unused },
                    .map = map };
    enter(&f.base, NULL);
}

/* One step: TP_STEP_RESULT, TP_STEP_END, TP_STEP_LATER (the time has passed; with negative
 * `seconds` there is no time limit), or -1 with err set. */
static int step(tp_map *map, double seconds, tp_error *err)
{
    map_frame f = { .base = { .api = map->base.api,
                              .fn = "step",
                              .push = push_step,
                              .take = take_step,
                              .arena = &map->arena,
                              .failure = &map->failure },
                    .map = map,
                    .seconds = seconds };
    if (check_inside(map->base.api, err))
        return -1;
    if (map->is_over)
        return map->has_failed ? describe(err, &map->failure) : TP_STEP_END;
    if (enter(&f.base, err)) {
        fail_map(map);
        return -1;
    }
    if (f.status == TP_STEP_END)
        map->is_over = true;
    return f.status == TP_STEP_FAILURE ? TP_STEP_RESULT : f.status;
}

/* May the map be used now? 0 or -1. */
static int check_map(const tp_map *map, const char *function, tp_error *err)
{
    if (tp_error_check_given(map, function, "map", err) || check_inside(map->base.api, err))
        return -1;
    return map->base.is_closed
               ? tp_error_set(err, TP_EUSAGE, "%s: the map has been closed", function)
               : 0;
}

/* May the owner read the map's results itself? 0 or -1. */
static int check_readable(const tp_map *map, const char *function, tp_error *err)
{
    if (check_map(map, function, err))
        return -1;
    return map->callback
               ? tp_error_set(err, TP_EUSAGE, "%s: the map's results go to its callback", function)
               : 0;
}

static tp_next next(tp_map *map, const char *function, tp_result *out, double seconds,
                    tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, function, "out", err))
        return TP_NEXT_REFUSED;
    *out = (tp_result){ .index = TP_NO_INDEX };
    if (check_readable(map, function, err))
        return TP_NEXT_REFUSED;
    switch (step(map, seconds, err)) {
    case TP_STEP_RESULT:
        *out = map->result;
        return TP_NEXT_RESULT;
    case TP_STEP_END:
        return TP_NEXT_END;
    case TP_STEP_LATER:
        tp_error_set(err, TP_ETIMEOUT, "there was no result within %.0f ms", seconds * 1000);
        return TP_NEXT_TIMEOUT;
    default:
        return TP_NEXT_FAILED;
    }
}

tp_next tp_map_next(tp_map *map, tp_result *out, tp_error *err)
{
    return next(map, __func__, out, -1, err);
}

tp_next tp_map_next_timeout(tp_map *map, tp_result *out, unsigned timeout_ms, tp_error *err)
{
    return next(map, __func__, out, timeout_ms / 1000.0, err);
}

static void push_read(lua_State *L, void *user)
{
    map_frame *f = user;
    push_results(L, user);
    lua_pushlightuserdata(L, f->out);
    lua_pushnumber(L, (double)f->n);
}

tp_next tp_map_read_doubles(tp_map *map, double *out, size_t n, tp_error *err)
{
    tp_error_begin(err);
    if (check_readable(map, __func__, err) ||
        (n && tp_error_check_given(out, __func__, "out", err)))
        return TP_NEXT_REFUSED;
    if (map->is_over)
        return step(map, -1, err) == TP_STEP_END ? TP_NEXT_END : TP_NEXT_FAILED;
    map_frame f = { .base = { .api = map->base.api,
                              .fn = "read_doubles",
                              .push = push_read,
                              .arena = &map->arena,
                              .failure = &map->failure },
                    .map = map,
                    .out = out,
                    .n = n };
    if (enter(&f.base, err)) {
        fail_map(map);
        return TP_NEXT_FAILED;
    }
    map->is_over = true;
    return TP_NEXT_END;
}

const tp_failure *tp_map_failure(const tp_map *map)
{
    return map && tp_host_check_owner(map->base.api->host, NULL) == 0 && !map->base.is_closed &&
                   map->has_failed
               ? &map->failure
               : NULL;
}

int tp_map_cancel(tp_map *map, tp_error *err)
{
    tp_error_begin(err);
    if (check_map(map, __func__, err))
        return -1;
    map_frame f = { .base = { .api = map->base.api, .fn = "cancel", .push = push_results },
                    .map = map };
    if (enter_host(&f.base, err))
        return -1;
    map->is_due = true;
    uv_async_send(&map->base.api->host->wake_up);
    return 0;
}

static void take_progress(lua_State *L, void *user)
{
    tp_progress *p = &((map_frame *)user)->progress;
    *p = (tp_progress){
        .total = (uint64_t)lua_tonumber(L, 1),
        .done = (uint64_t)lua_tonumber(L, 2),
        .failed = (uint64_t)lua_tonumber(L, 3),
        .taken = (uint64_t)lua_tonumber(L, 4),
        .retried = (uint64_t)lua_tonumber(L, 5),
    };
}

int tp_map_progress(tp_map *map, tp_progress *out, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = (tp_progress){ 0 };
    if (check_map(map, __func__, err))
        return -1;
    map_frame f = { .base = { .api = map->base.api,
                              .fn = "progress",
                              .push = push_results,
                              .take = take_progress },
                    .map = map };
    if (enter_host(&f.base, err))
        return -1;
    *out = f.progress;
    return 0;
}

void tp_map_close(tp_map *map)
{
    if (check_map(map, __func__, NULL))
        return;
    map_frame f = { .base = { .api = map->base.api,
                              .fn = "close",
                              .push = push_results,
                              .arena = &map->arena,
                              .failure = &map->failure },
                    .map = map };
    if (!map->is_over)
        enter(&f.base, NULL);
    free_map(map);
}

/* ---- callbacks ---- */

static void take_job(lua_State *L, void *user)
{
    map_frame *f = user;
    f->map->job = tp_lua_core_to_job(L, 1);
}

int tp_map_on_result(tp_map *map, tp_map_callback callback, void *user, tp_error *err)
{
    tp_error_begin(err);
    if (check_map(map, __func__, err) ||
        tp_error_check_given((const void *)(uintptr_t)callback, __func__, "callback", err))
        return -1;
    tp_api *api = map->base.api;
    map_frame f = { .base = { .api = api, .fn = "job", .push = push_results, .take = take_job },
                    .map = map };
    if (enter_host(&f.base, err))
        return -1;
    if (!map->callback && api->n_callbacks++ == 0)
        tp_host_hold_loop(api->host, true);
    map->callback = callback;
    map->user = user;
    map->is_due = true;
    uv_async_send(&api->host->wake_up);
    return 0;
}

/* A scope around the calls of a map's callback, so that end_giving runs even when one throws. */
typedef struct giving {
    tp_api *api;
    bool is_done; /* still false at the end of the scope: a callback has thrown */
} giving;

static void end_giving(giving *g)
{
    tp_map *map = g->api->current;
    g->api->current = NULL;
    if (g->is_done || !map)
        return;
    map->is_due = true;
    uv_async_send(&g->api->host->wake_up);
}

/* Gives a map's results that are there to its callback, at least one. If it stops before all are
 * given, it asks for another step. */
static void dispatch(tp_map *map, uint64_t until_ns)
{
    tp_api *api = map->base.api;
    __attribute__((cleanup(end_giving))) giving g = { .api = api };
    bool is_first = true;
    api->current = map;
    for (; api->current == map && map->callback; is_first = false) {
        /* other maps' callbacks must get their turn, too */
        if (!is_first && (map->is_inline || uv_hrtime() >= until_ns)) {
            map->is_due = true;
            uv_async_send(&api->host->wake_up);
            break;
        }
        uint32_t seen = map->job ? tp_job_eventcount(map->job) : 0;
        int status = step(map, map->is_inline ? -1 : 0, NULL);
        if (status == TP_STEP_LATER) {
            map->seen = seen;
            map->is_due = false;
            if (tp_job_await(map->job, seen))
                break;
            continue;
        }
        tp_map_callback callback = map->callback;
        if (status != TP_STEP_RESULT)
            end_map(map);
        tp_next what = status == TP_STEP_RESULT ? TP_NEXT_RESULT
                       : status == TP_STEP_END  ? TP_NEXT_END
                                                : TP_NEXT_FAILED;
        callback(map->user, map, what, what == TP_NEXT_RESULT ? &map->result : NULL);
    }
    g.is_done = true;
}

/* Calls the callbacks of all maps that have something to give. True when any was called. */
static bool dispatch_all(tp_api *api)
{
    uint64_t until_ns = uv_hrtime() + PATIENCE_NS;
    bool has_run = false;
    for (tp_map *map = api->maps; map; map = api->cursor) {
        api->cursor = map->next;
        if (map->callback && (map->is_due || map->is_inline || !map->job ||
                              tp_job_eventcount(map->job) != map->seen)) {
            has_run = true;
            dispatch(map, until_ns);
        }
    }
    api->cursor = NULL;
    return has_run;
}

static void take_due(lua_State *L, void *user)
{
    ((frame *)user)->api->due_ns = lua_isnil(L, 1) ? UINT64_MAX
                                                   : tp_deadline_after(lua_tonumber(L, 1));
}

int tp_api_step(tp_api *api, tp_error *err)
{
    frame f = { .api = api,
                .fn = "turn",
                .take = take_due,
                .arena = &api->failure_arena,
                .failure = &api->failure };
    if (check_inside(api, err))
        return -1;
    api->due_ns = UINT64_MAX;
    int rc = enter(&f, err);
    if (rc)
        api->has_failed = f.status != 0;
    /* A callback may have begun something that continues in a later turn (tasks, reading the rest
     * of the inputs): ask again when the next step is due. */
    if (dispatch_all(api)) {
        f.fn = "due";
        if (enter(&f, NULL))
            api->due_ns = 0;
    }
    return rc;
}

bool tp_api_is_inside(const tp_api *api)
{
    return api && api->is_inside;
}

uint64_t tp_api_due(const tp_api *api)
{
    if (!api)
        return UINT64_MAX;
    for (const tp_map *map = api->maps; map; map = map->next)
        if (map->callback && map->job && tp_job_eventcount(map->job) != map->seen)
            /* the map has news, but the turn of the loop that said so was taken by another Lua
             * state */
            return 0;
    return api->due_ns;
}
