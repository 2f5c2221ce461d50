/* workers.h: the executors that run Lua: worker threads, worker processes, and the thread that
 * waits. */
#ifndef TP_WORKERS_H
#define TP_WORKERS_H

#include "runtime/runtime.h"

extern const tp_executor_type tp_exec_threads; /* exec_threads.c */
extern const tp_executor_type tp_exec_inline;  /* exec_inline.c */
extern const tp_executor_type tp_exec_processes; /* exec_processes.c */

/* at_home.c: opens the agent's Lua state (agent->worker.vm), bound to the host of the agent's
 * executor, and has the host's sampler told. On the agent's thread. */
int tp_agent_open_vm(tp_agent *agent, tp_error *err);

/* Must be called before that state is closed: does what has to be done in it (tp_vm_leave), counted
 * in the host's `leaving` meanwhile. On the agent's thread, which runs nothing. */
void tp_agent_leave(tp_agent *agent);

/* The agent that runs items on the owner's thread; opened at its first use. NULL with err set.
 * Owner. */
tp_agent *tp_host_agent(tp_host *host, tp_error *err);

enum { TP_TURN_NS = 1000 * 1000 }; /* how often open items get a turn at least, in nanoseconds */

/* Runs the slice, which is the agent's current one. True: the caller finishes it. False: its item
 * waits beside others, or is over already, and it is finished without the caller. */
bool tp_exec_run(tp_agent *agent, tp_slice *slice);

/* apart.c, in a worker process. run: has the slice's items, which are to run apart
 * (tp_terms.is_apart), run by a process of the agent's own; the caller finishes the slice. leave:
 * ends that process, after it has done what it must. */
void tp_apart_run(tp_agent *agent, tp_slice *slice);
void tp_apart_leave(tp_agent *agent);

/* Takes turns of the agent's loop until all of its open items are over, or until deadline_ns
 * (uv_hrtime). On the agent's thread. */
void tp_exec_drain(tp_agent *agent, uint64_t deadline_ns);

/* Waits on the agent's own thread until one of the n jobs has news after its `seen`, or until
 * deadline_ns (uv_hrtime; UINT64_MAX: for ever). Meanwhile runs items of these jobs and of those
 * below them; a running item is not interrupted at the deadline, and one slice is run even when
 * that has passed. Returns whether any was. */
bool tp_exec_wait(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n,
                  uint64_t deadline_ns);

#endif
