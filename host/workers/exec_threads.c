/* exec_threads.c: worker threads of this process, one Lua state each.
 *
 * Stacks are 64 MiB, of which only touched pages take memory. So recursion through C (gsub with a
 * callback) ends in Lua's "stack overflow" and not in a crash. */
#include "workers/workers.h"

#include "workers/pool.h"
#include "workers/vm.h"

enum { STACK_BYTES = 64 << 20 };

static int open_worker(void **state, tp_agent *agent, tp_error *err)
{
    if (tp_agent_open_vm(agent, err))
        return -1;
    *state = agent;
    return 0;
}

static int run_slice(void *state, tp_slice *slice, tp_error *err)
{
    const tp_agent *agent = state;
    (void)err;
    tp_vm_run(agent->worker.vm, &slice->work);
    return 0;
}

static void close_worker(void *state)
{
    tp_agent *agent = state;
    tp_agent_leave(agent);
    tp_vm_close(agent->worker.vm);
}

static const tp_pool_kind threads = {
    .what = "worker threads",
    .stack_bytes = STACK_BYTES,
    .open = open_worker,
    .run = run_slice,
    .close = close_worker,
};

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    return tp_pool_open(out, host, &tp_exec_threads, &threads, err);
}

const tp_executor_type tp_exec_threads = {
    .name = "threads",
    .summary = "worker threads",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_LUA,
    .open = open_executor,
    .start = tp_pool_start,
    .stop = tp_pool_stop,
    .close = tp_pool_close,
};
