/* workers.h: the executors that run Lua in this process: worker threads, and the thread that waits. */
#ifndef TP_WORKERS_H
#define TP_WORKERS_H

#include "runtime/runtime.h"

extern const tp_executor_type tp_exec_threads; /* exec_threads.c */
extern const tp_executor_type tp_exec_inline;  /* exec_inline.c */
extern const tp_executor_type tp_exec_processes; /* exec_processes.c */

/* at_home.c: opens the agent's Lua state (agent->worker.vm), which asks the host of the agent's executor for what it needs. On the agent's thread. */
int tp_agent_open_vm(tp_agent *agent, tp_error *err);

/* Before that state is closed: what has to be done in it is (tp_vm_leave), which the host's `leaving` counts. On the agent's thread, which runs nothing. */
void tp_agent_leave(tp_agent *agent);

/* The agent that runs items on the owner's thread; opened at its first use. NULL with err set. Owner. */
tp_agent *tp_host_agent(tp_host *host, tp_error *err);

/* Waits on the agent's own thread until one of n jobs has news after its `seen`, running items of the jobs and of those below
 * them meanwhile; or until deadline_ns (uv_hrtime; UINT64_MAX: for ever), where an item that runs is not interrupted. One slice is run even
 * when that time has passed. Gives whether any was. */
bool tp_exec_wait(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t deadline_ns);

#endif
