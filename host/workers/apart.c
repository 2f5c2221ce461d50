/* apart.c: items that a worker process has run by a process of its own.
 *
 * What an item of a process maps, that process runs itself. A function with `timeout`, `memory`,
 * `crash_retries` or `recycle` (tp_terms.is_apart) would cost more there than its own input:
 * nothing can end a compiled loop, or a call into C, without its process. So its items are run by
 * one more process, which the first one starts when it needs it, and keeps. The thread that runs
 * the outer item is its supervisor: it sends the items and waits, as the host's threads do. Only
 * this thread waits for that process, so nobody can wait in a circle. Such a process can have one
 * of its own. */
#include "workers/supervisor.h"
#include "workers/workers.h"

void tp_apart_run(tp_agent *agent, tp_slice *slice)
{
    tp_error err = { 0 };
    if (!agent->apart_process)
        agent->apart_process = tp_process_open(agent, &err);
    supervisor *s = agent->apart_process;
    if (!s || tp_process_run(s, slice, &err)) {
        tp_job_give_up(slice->job, &err);
    } else if (s->peer.pid != 0) {
        agent->worker.will_leave |=
            atomic_load_explicit(&tp_control_of(s)->will_leave, memory_order_relaxed) != 0;
    }
    if (s)
        s->has_released = false; /* that was the slice's permit */
}

void tp_apart_leave(tp_agent *agent)
{
    if (agent->apart_process)
        tp_answers_dismiss(agent->apart_process);
}
