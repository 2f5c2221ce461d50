/* exec_threads.c: worker threads of this process, one Lua state each.
 *
 * Stacks are 64 MiB, of which only touched pages take memory. So recursion through C (gsub with a
 * callback) ends in Lua's "stack overflow" and not in a crash. */
#include "workers/workers.h"

#include "runtime/own_loop.h"
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
    (void)err;
    return tp_exec_run(state, slice) ? 0 : TP_POOL_GOES_ON;
}

static void turn(void *state, uint64_t deadline_ns)
{
    const tp_agent *agent = state;
    tp_vm_turn(agent->worker.vm, deadline_ns);
}

static void close_worker(void *state)
{
    tp_agent *agent = state;
    tp_exec_drain(agent, UINT64_MAX);
    tp_agent_leave(agent);
    tp_vm_close(agent->worker.vm);
    tp_own_loop_close(agent);
}

static const tp_pool_kind threads = {
    .what = "worker threads",
    .stack_bytes = STACK_BYTES,
    .open = open_worker,
    .run = run_slice,
    .turn = turn,
    .close = close_worker,
};

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    return tp_pool_open(out, host, &tp_exec_threads, &threads, err);
}

const tp_executor_type tp_exec_threads = {
    .name = "threads",
    .summary = "worker threads",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_LUA | TP_STREAMS | TP_INTERLEAVES,
    .open = open_executor,
    .start = tp_pool_start,
    .stop = tp_pool_stop,
    .close = tp_pool_close,
};
