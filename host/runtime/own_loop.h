/* own_loop.h: an event loop of an agent's own, on which its items wait beside each other
 * (tp_terms.concurrent): where luv's handles of the worker's state are, and what wakes the
 * agent. */
#ifndef TP_OWN_LOOP_H
#define TP_OWN_LOOP_H

#include "engine/job.h"

/* All of it is the agent's own, but others ring the bell (tp_agent_set_bell). */
typedef struct tp_own_loop {
    uv_loop_t loop;
    uv_async_t bell;
    uv_timer_t timer;
    const void *luv;   /* identifies luv's handles; NULL: luv is not on this loop */
    bool is_running;   /* uv_run is below us on the stack, and may not be called again */
    bool has_run;      /* since tp_own_loop_turn began */
} tp_own_loop;

/* Opens the agent's, if it has none. On its thread. */
int tp_own_loop_open(tp_agent *agent, tp_error *err);

/* Closes it, if there is one, with all handles that are still on it. On the agent's thread, or when
 * that has ended. */
void tp_own_loop_close(tp_agent *agent);

/* One turn: waits until something happens on the loop, or the agent is woken or can take work, or
 * until deadline_ns (uv_hrtime; UINT64_MAX: for ever). */
void tp_own_loop_turn(tp_agent *agent, uint64_t deadline_ns);

#endif
