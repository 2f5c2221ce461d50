/* core.h: the C half of `require "tidepool"`. */
#ifndef TP_LUA_CORE_H
#define TP_LUA_CORE_H

#include "runtime/runtime.h"

struct lua_State;

/* Makes the modules "tidepool" and "tidepool.*" known to L by package.preload, bound to the host;
 * agent is the worker that L belongs to, NULL for the owner's state. The standard libraries must be
 * open and no user code may have run; the caller must call tp_codec_open. Raises. */
void tp_lua_core_open(struct lua_State *L, tp_host *host, tp_agent *agent);

/* The same for the owner's state, with errors returned. */
int tp_lua_core_open_protected(struct lua_State *L, tp_host *host, tp_error *err);

/* Lets the tasks go on in the states that tp_lua_core_open_protected has opened. -1 after
 * tp_host_interrupt. */
int tp_lua_core_step(tp_host *host);

/* When tp_lua_core_step is due even if nothing happens (uv_hrtime); UINT64_MAX: never. */
uint64_t tp_lua_core_due(const tp_host *host);

/* The job of a userdata from core.job.open, borrowed; NULL when it is closed. Raises for anything
 * else. */
tp_job *tp_lua_core_to_job(struct lua_State *L, int index);

/* Raises "interrupted", with the position in the user's code. */
void tp_lua_core_raise_interrupt(struct lua_State *L);

#endif
