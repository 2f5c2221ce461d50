/* core.h: the C half of `require "tidepool"`. */
#ifndef TP_LUA_CORE_H
#define TP_LUA_CORE_H

#include "runtime/runtime.h"

struct lua_State;

/* Makes the modules "tidepool" and "tidepool.*" known to L by package.preload, bound to host; agent is the worker that L
 * belongs to, NULL for the owner's state. The standard libraries must be open and no
 * user code have run; tp_codec_open is the caller's to call. Raises. */
void tp_lua_core_open(struct lua_State *L, tp_host *host, tp_agent *agent);

/* The same for the owner's state, with errors returned. */
int tp_lua_core_open_protected(struct lua_State *L, tp_host *host, tp_error *err);

/* Lets go on what can in the states that tp_lua_core_open_protected has opened: their tasks. -1 after tp_host_interrupt. */
int tp_lua_core_step(tp_host *host);

/* When that is to be called again whatever happens, as uv_hrtime has it; UINT64_MAX: never. */
uint64_t tp_lua_core_due(const tp_host *host);

/* The job of the userdata at index (core.job.open's), borrowed; NULL when there is none. Raises for anything else. */
tp_job *tp_lua_core_to_job(struct lua_State *L, int index);

/* Raises "interrupted", with the place of users' code that runs. */
void tp_lua_core_raise_interrupt(struct lua_State *L);

#endif
