/* exec_inline.c: items run by the thread that waits for them.
 *
 * The executor "inline" has no workers: its jobs are run by their owner, in the order of their inputs. It is the reference for every promise.
 * The same waiting is what keeps nested maps from deadlock: an agent that waits for a job inside one of its items runs items of that job, and
 * of the jobs started by them, itself. */
#include "exec.h"
#include "host.h"
#include "vm.h"

#include <stdlib.h>

void tp_exec_wait(tp_agent *agent, tp_job *job, uint32_t seen, uint64_t deadline_ns)
{
    tp_job_lend(agent);
    while (tp_job_news(job) == seen && (deadline_ns == UINT64_MAX || uv_hrtime() < deadline_ns)) {
        tp_slice *slice = tp_job_take(agent->engine, NULL, job, agent);
        if (slice)
            tp_vm_run(agent->vm, slice);
        else
            tp_job_sleep(job, agent, seen, deadline_ns);
    }
    tp_job_regain(agent);
}

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    tp_executor *ex = calloc(1, sizeof *ex);
    if (!ex)
        return tp_error_oom(err, "executor");
    ex->type = &tp_exec_inline;
    ex->host = host;
    *out = ex;
    return 0;
}

static void start_workers(tp_executor *ex, unsigned n)
{
    (void)ex, (void)n; /* the owner comes by itself */
}

static int stop_workers(tp_executor *ex, uint64_t deadline_ns)
{
    (void)ex, (void)deadline_ns;
    return 0;
}

static void close_executor(tp_executor *ex)
{
    free(ex);
}

const tp_executor_type tp_exec_inline = {
    .name = "inline",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_LUA | TP_BY_OWNER,
    .open = open_executor,
    .start = start_workers,
    .stop = stop_workers,
    .close = close_executor,
};
