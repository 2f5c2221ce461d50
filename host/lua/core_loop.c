/* core_loop.c: the host's loop, and its clock. */
#include "lua/core.h"
#include "lua/core_private.h"

#include "codec/codec.h"

#include "base/deadline.h"
#include "runtime/own_loop.h"
#include "runtime/runtime.h"
#include "workers/workers.h"

#include <lauxlib.h>
#include <time.h>
#include <uv.h>

/* core.loop.now() -> seconds on the monotonic clock */
static int l_loop_now(lua_State *L)
{
    lua_pushnumber(L, (double)uv_hrtime() * 1e-9);
    return 1;
}

/* core.loop.sleep(seconds): blocks a worker; raises when its item is cancelled meanwhile */
static int l_loop_sleep(lua_State *L)
{
    enum { STEP_NS = 50 * 1000000 };
    context *ctx = get_context(L);
    uint64_t deadline = tp_core_deadline_after(L, 1);
    tp_work *w = tp_core_work(ctx);
    for (uint64_t now; (now = uv_hrtime()) < deadline;) {
        if (w && tp_work_tell_cancelled(w))
            return luaL_error(L, "cancelled");
        uint64_t ns = deadline - now < STEP_NS ? deadline - now : STEP_NS;
        nanosleep(&(struct timespec){ .tv_nsec = (long)ns }, NULL);
    }
    return 0;
}

/* core.loop.fd() -> a descriptor that is readable when the loop should be turned: see tp_host_fd */
static int l_loop_fd(lua_State *L)
{
    lua_pushinteger(L, tp_host_fd(get_context(L)->host));
    return 1;
}

/* core.loop.turn(seconds or nil, spins, is_endless): see tp_host_turn; is_endless: only what
 * workers do can end it. In a worker: see tp_own_loop_turn. */
static int l_loop_turn(lua_State *L)
{
    context *ctx = get_context(L);
    uint64_t deadline = tp_core_deadline_after(L, 1);
    if (ctx->agent) {
        tp_own_loop_turn(ctx->agent, deadline);
        return 0;
    }
    if (ctx->host->turned != ctx->listener) {
        ctx->host->turned = ctx->listener;
        /* another state may have taken the turn of the loop in which this state was woken: do not
         * wait */
        deadline = 0;
    }
    bool is_endless = lua_toboolean(L, 3);
    if (is_endless)
        tp_engine_set_waiting(ctx->host->engine, true);
    tp_host_turn(ctx->host, deadline, lua_toboolean(L, 2));
    if (is_endless)
        tp_engine_set_waiting(ctx->host->engine, false);
    tp_core_check_interrupt(L, ctx);
    return 0;
}

/* core.loop.is_interrupt(error value) -> was it raised by a wait after tp_host_interrupt? */
static int l_loop_is_interrupt(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_pushboolean(L, tp_core_is_interrupt(L, 1));
    return 1;
}

/* core.loop.is_memory_error(error value) -> does it say that memory ran out? */
static int l_loop_is_memory_error(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    lua_pushboolean(L, tp_codec_is_memory_error(L, 0));
    return 1;
}

/* core.loop.is_alive() -> does this state have anything on the loop? */
static int l_loop_is_alive(lua_State *L)
{
    lua_pushboolean(L, tp_core_has_luv_work(L, get_context(L)));
    return 1;
}

/* core.loop.is_running() -> is the loop running around this call, so that it cannot be run
 * again? */
static int l_loop_is_running(lua_State *L)
{
    const context *ctx = get_context(L);
    const tp_own_loop *own = ctx->agent ? ctx->agent->own_loop : NULL;
    lua_pushboolean(L, ctx->agent ? own && own->is_running : ctx->host->is_running);
    return 1;
}

/* core.loop.stop(): makes the loop not wait in this turn. For timers, whose callbacks are called
 * before the loop waits and may make a task ready. */
static int l_loop_stop(lua_State *L)
{
    const context *ctx = get_context(L);
    uv_stop(ctx->agent ? &ctx->agent->own_loop->loop : &ctx->host->loop);
    return 0;
}

/* core.loop.share() -> in how many seconds the loop should be turned although nothing happens: an
 * input may be slow then, and keep back others (tp_engine_share); or nil */
static int l_loop_share(lua_State *L)
{
    uint64_t due = tp_engine_share(get_context(L)->host->engine), now = uv_hrtime();
    if (!due)
        return 0;
    lua_pushnumber(L, due > now ? (double)(due - now) * 1e-9 : 0);
    return 1;
}

/* core.loop.drive(step, due): sets what tp_host_step calls in this state: step() lets tasks go on,
 * due() returns the seconds until it wants to be called again, or nil */
static int l_loop_drive(lua_State *L)
{
    tp_listener *l = get_context(L)->listener;
    lua_settop(L, 2);
    l->due = luaL_ref(L, LUA_REGISTRYINDEX);
    l->step = luaL_ref(L, LUA_REGISTRYINDEX);
    return 0;
}

/* Can the state's `step` be called: is one set, and is none of the state's own code running below
 * us? */
static bool is_driven(const tp_listener *l)
{
    lua_Debug unused;
    return l->L && l->is_driven && l->step && !lua_getstack(l->L, 0, &unused);
}

/* (listener): calls the state's `step` */
static int call_step(lua_State *L)
{
    const tp_listener *l = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, l->step);
    lua_call(L, 0, 0);
    return 0;
}

typedef struct due_frame {
    const tp_listener *listener;
    double seconds; /* negative: none */
} due_frame;

static int call_due(lua_State *L)
{
    due_frame *f = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, f->listener->due);
    lua_call(L, 0, 1);
    if (!lua_isnil(L, -1))
        f->seconds = lua_tonumber(L, -1);
    return 0;
}

int tp_lua_core_step(tp_host *host)
{
    int rc = 0;
    for (tp_listener *l = host->listeners; l; l = l->next) {
        if (!is_driven(l) || lua_cpcall(l->L, call_step, l) == 0)
            continue;
        lua_pop(l->L, 1);
        rc = -1;
    }
    return rc;
}

uint64_t tp_lua_core_due(const tp_host *host)
{
    uint64_t due = UINT64_MAX;
    for (const tp_listener *l = host->listeners; l; l = l->next) {
        due_frame f = { l, -1 };
        if (!is_driven(l))
            continue;
        /* another state has taken the turn in which this one was woken */
        if (tp_job_can_collect(host->engine, &l->waiter))
            return 0;
        if (lua_cpcall(l->L, call_due, &f))
            lua_pop(l->L, 1);
        uint64_t at = f.seconds >= 0 ? tp_deadline_after(f.seconds) : UINT64_MAX;
        due = at < due ? at : due;
    }
    return due;
}

static const luaL_Reg loop_functions[] = {
    { "now", l_loop_now },
    { "sleep", l_loop_sleep },
    { "fd", l_loop_fd },
    { "turn", l_loop_turn },
    { "is_interrupt", l_loop_is_interrupt },
    { "is_memory_error", l_loop_is_memory_error },
    { "is_alive", l_loop_is_alive },
    { "is_running", l_loop_is_running },
    { "stop", l_loop_stop },
    { "share", l_loop_share },
    { "drive", l_loop_drive },
    { NULL, NULL },
};

void tp_core_register_loop(lua_State *L)
{
    tp_core_register(L, "loop", loop_functions);
}
