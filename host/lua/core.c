/* core.c: puts together the module "tidepool.core", which lua/tidepool/ calls: the context of each
 * state, the functions of the files core_*.c, and the loaders of our Lua modules.
 *
 * Nothing in it is for users. Arguments come from our own Lua code: checks only catch our mistakes
 * and keep memory safe. What a user may do wrong is returned as nil and a message. */
#include "lua/core.h"

#include "base/amount.h"
#include "base/lua_modules.h"
#include "codec/codec.h"
#include "codec/standard.h"
#include "lua/core_private.h"
#include "lua/value.h"
#include "workers/pool.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <luajit.h>
#include <stdio.h>
#include <unistd.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

/* core.current() -> index, attempt, function name, worker and executor name of the item that runs;
 * nothing outside an item */
static int l_current(lua_State *L)
{
    context *ctx = get_context(L);
    const tp_work *w = tp_core_work(ctx);
    if (!w)
        return 0;
    lua_pushnumber(L, (double)w->block->first + tp_work_running(w) + 1);
    lua_pushinteger(L, (lua_Integer)w->attempt);
    lua_pushstring(L, w->terms->name);
    lua_pushinteger(L, ctx->agent->worker.index);
    lua_pushstring(L, w->terms->executor);
    return 5;
}

/* core.keep(): the running item has spawned something, so worker.finish_kept must be called at the
 * end of the work. Returns a value that identifies the work; nothing outside an item. */
static int l_keep(lua_State *L)
{
    tp_work *w = tp_core_work(get_context(L));
    if (!w)
        return 0;
    w->has_kept = true;
    lua_pushlightuserdata(L, w);
    return 1;
}

/* core.executors() -> a list of the executors in their order: { name =, summary =, and true or
 * false for each of TP_CAPABILITIES } */
static int l_executors(lua_State *L)
{
    static const struct {
        const char *name;
        unsigned flag;
    } capabilities[] = {
#define CAPABILITY(flag, bit, name) { name, flag },
        TP_CAPABILITIES(CAPABILITY)
#undef CAPABILITY
    };
    const tp_host *host = get_context(L)->host;
    tp_executor *const *executors = host->executors;
    const int n = (int)(sizeof capabilities / sizeof *capabilities);
    lua_newtable(L);                                     // list
    for (int i = 0; executors[i]; i++) {
        const tp_executor_type *type = executors[i]->type;
        lua_createtable(L, 0, 2 + n);                    // list one
        lua_pushstring(L, type->name);
        lua_setfield(L, -2, "name");
        lua_pushstring(L, type->summary);
        lua_setfield(L, -2, "summary");
        for (int k = 0; k < n; k++) {
            lua_pushboolean(L, (tp_host_capabilities(host, type) & capabilities[k].flag) != 0);
            lua_setfield(L, -2, capabilities[k].name);
        }
        lua_rawseti(L, -2, i + 1);                       // list
    }
    return 1;
}

/* core.workers(n or nil) -> the most worker threads that there may be, and how many there are. With
 * n, from 1: sets the most, unless there are more already. Only in the owner's state. */
static int l_workers(lua_State *L)
{
    tp_host *host = get_context(L)->host;
    unsigned n = (unsigned)luaL_optinteger(L, 1, 0);
    uv_mutex_lock(tp_engine_lock(host->engine));
    unsigned threads = tp_pool_alive(tp_host_executor(host, tp_exec_threads.name));
    unsigned processes = tp_pool_alive(tp_host_executor(host, tp_exec_processes.name));
    unsigned alive = threads > processes ? threads : processes;
    if (n > 0 && n >= alive)
        host->config.workers = (int)n;
    lua_pushinteger(L, host->config.workers);
    uv_mutex_unlock(tp_engine_lock(host->engine));
    lua_pushinteger(L, (lua_Integer)alive);
    return 2;
}

/* core.replace(library, name, fn): makes fn that function of a standard library, also for functions
 * that travel, before the script has changed any */
static int l_replace(lua_State *L)
{
    const char *library = luaL_checkstring(L, 1);
    lua_settop(L, 3);
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, library);
    lua_pushvalue(L, 3);
    lua_setfield(L, -2, luaL_checkstring(L, 2));
    tp_codec_add_builtins(L, library, lua_gettop(L));
    tp_standard_settle(L, tp_codec_standard(L));
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

/* core.unique() -> a text that no other call returns, in any process */
static int l_unique(lua_State *L)
{
    char text[64];
    uint64_t n = atomic_fetch_add_explicit(&get_context(L)->host->numbers, 1, memory_order_relaxed);
    snprintf(text, sizeof text, "%d.%llu.%llx", (int)getpid(), (unsigned long long)n,
             (unsigned long long)uv_hrtime());
    lua_pushstring(L, text);
    return 1;
}

/* core.will_leave(): has worker.leave called before this worker's state is closed */
static int l_will_leave(lua_State *L)
{
    get_context(L)->agent->worker.will_leave = true;
    return 0;
}

/* core.is_yieldable() -> may the running coroutine yield, as coroutine.isyieldable */
static int l_is_yieldable(lua_State *L)
{
    lua_pushboolean(L, lua_isyieldable(L));
    return 1;
}

/* core.where() -> the position of the user's code that runs, as in error messages: "job.lua:7: ".
 * An item's function that has called ours in a tail call has left no frame: then it is where the
 * function begins. "" where there is none */
static int l_where(lua_State *L)
{
    tp_core_push_place(L);
    const context *ctx = get_context(L);
    const tp_work *w = tp_core_work(ctx);
    lua_Debug ar;
    if (lua_objlen(L, -1) > 0 || !w || !tp_vm_push_function(ctx->agent->worker.vm, L, w))
        return 1;
    lua_getinfo(L, ">S", &ar);
    if (ar.linedefined > 0) /* it is no C function */
        lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.linedefined);
    return 1;
}

/* core.amount_of_bytes(n) -> so many bytes as people read them: "1.5 KiB" */
static int l_amount_of_bytes(lua_State *L)
{
    char text[TP_AMOUNT_TEXT];
    lua_pushstring(L, tp_amount_of_bytes(text, (uint64_t)luaL_checknumber(L, 1)));
    return 1;
}

static const luaL_Reg functions[] = {
    { "amount_of_bytes", l_amount_of_bytes },
    { "where", l_where },
    { "is_yieldable", l_is_yieldable },
    { "unique", l_unique },
    { "will_leave", l_will_leave },
    { "current", l_current },
    { "keep", l_keep },
    { "executors", l_executors },
    { "workers", l_workers },
    { "add_builtins", l_add_builtins },
    { "replace", l_replace },
    { "add_class", l_add_class },
    { NULL, NULL },
};

/* Fields of core that are made when they are first read: no state uses all of them, and an idle
 * worker next to none. */
static const struct {
    const char *name;
    void (*open)(lua_State *L);
} on_demand[] = {
    { "job", tp_core_register_job },         { "func", tp_core_register_func },
    { "value", tp_core_register_func },      { "item", tp_core_register_item },
    { "array", tp_core_register_array },     { "random", tp_core_register_random },
    { "store", tp_core_register_store },     { "trace", tp_core_register_trace },
    { "loop", tp_core_register_loop },       { "luv", tp_core_register_luv },
    { "device", tp_core_register_device },   { "program", tp_core_register_device },
    { "queue", tp_core_register_device },    { "buffer", tp_core_register_device },
    { "launcher", tp_core_register_device }, { "journal", tp_core_register_journal },
    { "cache", tp_core_register_journal },   { "command", tp_core_register_command },
    { "lines", tp_core_register_lines },     { "modules", tp_core_register_modules },
    { "image", tp_core_register_image },
};

/* __index of core (core, name): makes one of `on_demand`. Upvalue 1 is the context. */
static int open_group(lua_State *L)
{
    const char *name = lua_tostring(L, 2);
    for (size_t i = 0; name && i < sizeof on_demand / sizeof *on_demand; i++) {
        if (strcmp(on_demand[i].name, name) == 0) {
            lua_settop(L, 2);
            lua_pushvalue(L, 1);
            on_demand[i].open(L);
            lua_replace(L, 1);
            lua_rawget(L, 1);
            return 1;
        }
    }
    return 0;
}

/* package.preload["tidepool.core"]: upvalue 1 is the context */
static int open_core(lua_State *L)
{
    tp_codec_ref_type(L, &tp_callee_type);
    lua_pop(L, 1); /* the metatable, which the registry keeps */
    lua_createtable(L, 0, 40);
    tp_core_register(L, NULL, functions);
    tp_core_register_io(L);
    tp_core_open_store(L);
    tp_value_push_invoke(L);
    lua_setfield(L, -2, "invoke");
    lua_pushstring(L, TP_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushboolean(L, get_context(L)->agent != NULL);
    lua_setfield(L, -2, "is_worker");
    /* the state runs items: a worker's does, and a script's while it replays one */
    lua_pushboolean(L, get_context(L)->agent != NULL);
    lua_setfield(L, -2, "in_item");
    lua_pushstring(L, get_context(L)->host->config.executor);
    lua_setfield(L, -2, "executor");
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    /* fields that other modules set later and that each map reads: without a value here each read
     * would search on_demand */
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "on_map");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "on_instance");
    lua_pushboolean(L, 0);
    lua_setfield(L, -2, "journal_default");
    lua_createtable(L, 0, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_pushcclosure(L, open_group, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    return 1;
}

/* Called when loading a module ended in an error (no memory, Ctrl-C): makes `require` forget it,
 * which would refuse it for ever. Raises the error at the top. */
static int forget_module(lua_State *L, const char *name)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED"); // error loaded
    lua_pushnil(L);                                // error loaded nil
    lua_setfield(L, -2, name);                     // error loaded
    lua_getfield(L, -1, "table.new");              // error loaded new
    if (!lua_isfunction(
            L, -1)) { // the one library of LuaJIT's that ours load and that is not open before
        lua_pushnil(L);
        lua_setfield(L, -3, "table.new");
    }
    lua_pop(L, 2);                                 // error
    return lua_error(L);
}

/* (whether to compile) -> whether code was compiled before. Raises in a finalizer, where LuaJIT
 * allows no change. The mode is only set when it differs, since setting it takes as long in any
 * case. */
static int set_compiling(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
    lua_getfield(L, -1, "jit");
    lua_getfield(L, -1, "status");
    lua_call(L, 0, 1);
    if (lua_toboolean(L, -1) != lua_toboolean(L, 1))
        luaJIT_setmode(
            L, 0, LUAJIT_MODE_ENGINE | (lua_toboolean(L, 1) ? LUAJIT_MODE_ON : LUAJIT_MODE_OFF));
    return 1;
}

/* Switches the compiler on or off, and says whether it was on; where that is not possible it stays
 * as it is. Raises nothing, so that open_module can call forget_module when loading fails. Upvalue
 * 2 is set_compiling. */
static bool compile(lua_State *L, bool does)
{
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_pushboolean(L, does);
    bool was_on = lua_pcall(L, 1, 1, 0) == 0 && lua_toboolean(L, -1);
    lua_pop(L, 1);
    return was_on;
}

/* Loads one of our modules. Upvalue 1 is its tp_lua_module (light userdata), 2 is for `compile`. */
static int open_module(lua_State *L)
{
    const tp_lua_module *m = lua_touserdata(L, lua_upvalueindex(1));
    char chunkname[64] = "=";
    strncat(chunkname, m->name, sizeof chunkname - 2);
    if (luaL_loadbuffer(L, (const char *)m->bytes, m->len, chunkname))
        return forget_module(L, m->name);
    /* The garbage collector would take a third of the time of loading, and find nothing. */
    bool was_collecting = lua_gc(L, LUA_GCISRUNNING, 0);
    if (was_collecting)
        lua_gc(L, LUA_GCSTOP, 0);
    /* Code that runs once is not worth compiling either. And when LuaJIT runs out of memory for a
     * trace, a call of a C function may jump to a wrong address. */
    bool was_compiling = compile(L, false);
    lua_pushstring(L, m->name);
    int status = lua_pcall(L, 1, 1, 0);
    if (was_compiling)
        compile(L, true);
    if (was_collecting)
        lua_gc(L, LUA_GCRESTART, -1);
    return status ? forget_module(L, m->name) : 1;
}

/* __index of package.preload (table, name): the function that opens our module of that name. A
 * hundred functions in the table would be a tenth of what a state takes. Upvalue 1 is for
 * `compile`. */
static int find_module(lua_State *L)
{
    const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : NULL;
    for (const tp_lua_module *m = tp_lua_modules; name && m->name; m++) {
        if (strcmp(m->name, name) == 0) {
            lua_pushlightuserdata(L, (void *)m);
            lua_pushvalue(L, lua_upvalueindex(1));
            lua_pushcclosure(L, open_module, 2);
            return 1;
        }
    }
    return 0;
}

static int free_context(lua_State *L)
{
    context *ctx = lua_touserdata(L, 1);
    tp_buf_free(&ctx->scratch);
    tp_block_free(ctx->emitting);
    ctx->emitting = NULL;
    tp_core_end_pins(ctx);
    tp_host_unlisten(ctx->listener);
    ctx->listener = NULL;
    return 0;
}

/* Stack: loaded package preload. Makes waiting inside users' coroutines yield through them to the
 * task: see coroutines.lua. */
static void install_coroutines(lua_State *L)
{
    static const char name[] = "tidepool.engine.coroutines";
    lua_getfield(L, -1, name);
    lua_pushstring(L, name);
    lua_call(L, 1, 1);                           // loaded package preload coroutines
    lua_pushvalue(L, -1);
    lua_setfield(L, -5, name);
    lua_getfield(L, -1, "install");
    lua_call(L, 0, 0);
    lua_getfield(L, -4, "coroutine");            // loaded package preload coroutines coroutine
    tp_codec_add_builtins(L, "coroutine", lua_gettop(L));
    lua_pop(L, 2);
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
    if (!agent) {
        ctx->listener = tp_host_listen(host, L);
        if (!ctx->listener)
            tp_codec_raise_memory(L);
    }
    lua_pushvalue(L, -1);
    tp_core_open_random(L, ctx);
    lua_pushvalue(L, -1);
    tp_core_open_modules(L, host, lua_gettop(L) - 3);
    lua_pushvalue(L, -1);
    lua_pushcclosure(L, open_core, 1);
    lua_setfield(L, -3, "tidepool.core");            // loaded package preload ctx
    tp_core_open_luv(L, -3);                     // loaded package preload
    /* a metatable that somebody gave package.preload is kept, and only gets an __index */
    if (!lua_getmetatable(L, -1))
        lua_createtable(L, 0, 1);                // loaded package preload meta
    lua_pushcfunction(L, set_compiling);
    lua_pushcclosure(L, find_module, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);                     // loaded package preload
    if (!agent)
        install_coroutines(L); /* worker.lua does so in a worker */
    lua_pop(L, 3);
}

static int open_protected(lua_State *L)
{
    static const char *const path[] = { "_LOADED", "package", "preload" };
    lua_pushvalue(L, LUA_REGISTRYINDEX);
    for (int i = 0; i < 3; i++) {
        lua_getfield(L, -1, path[i]);
        if (!lua_istable(L, -1))
            return luaL_error(L, "the state's standard libraries are not open");
    }
    lua_getfield(L, -1, "tidepool.core");
    if (!lua_isnil(L, -1))
        return luaL_error(L, "the state has been given a host before");
    lua_settop(L, 1);
    lua_gc(L, LUA_GCSTOP, 0); /* there is next to nothing to collect */
    tp_codec_open(L);
    tp_lua_core_open(L, lua_touserdata(L, 1), NULL);
    for (tp_listener *l = ((tp_host *)lua_touserdata(L, 1))->listeners; l; l = l->next)
        if (l->L == L)
            l->is_driven = true;
    tp_standard_settle(L, tp_codec_standard(L));
    return 0;
}

int tp_lua_core_open_protected(struct lua_State *L, tp_host *host, tp_error *err)
{
    bool was_collecting = lua_gc(L, LUA_GCISRUNNING, 0);
    int status = lua_cpcall(L, open_protected, host);
    if (was_collecting)
        lua_gc(L, LUA_GCRESTART, -1);
    if (status == 0)
        return 0;
    const char *why = lua_tostring(L, -1);
    tp_error_set(err, status == LUA_ERRMEM ? TP_EMEMORY : TP_EUSAGE, "cannot open the Lua side: %s",
                 why ? why : "unknown error");
    lua_pop(L, 1);
    return -1;
}
