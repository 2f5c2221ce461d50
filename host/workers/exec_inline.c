/* exec_inline.c: items that are run by the thread that waits for them.
 *
 * The executor "inline" has no workers: its jobs are run by their owner, in the order of their
 * inputs. It is the reference for every promise. The same kind of waiting keeps nested maps from
 * deadlock: an agent that waits for a job inside one of its items runs items of that job, and of
 * jobs below it, itself. */
#include "workers/workers.h"

#include "runtime/own_loop.h"
#include "workers/vm.h"

#include <stdlib.h>

enum {
    LOOK_NS = 5000, /* about how long the caller's Lua code takes to look at one job for news */
    INTERRUPT_NS = 50 * 1000000
};

static bool has_news(tp_job *const *jobs, const uint32_t *seen, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        if (tp_job_eventcount(jobs[i]) != seen[i])
            return true;
    return false;
}

bool tp_exec_run(tp_agent *agent, tp_slice *slice)
{
    tp_error err = { 0 };
    tp_vm *vm = agent->worker.vm;
    if (slice->work.terms->is_apart) {
        tp_apart_run(agent, slice);
        return true;
    }
    bool is_open = slice->work.terms->concurrent && !agent->executor->host->is_child &&
                   tp_own_loop_open(agent, &err) == 0;
    if (is_open)
        return !tp_vm_begin(vm, &slice->work);
    tp_vm_run(vm, &slice->work);
    return true;
}

void tp_exec_drain(tp_agent *agent, uint64_t deadline_ns)
{
    enum { STEP_NS = 20 * 1000000 };
    for (uint64_t now; agent->worker.n_waiting > 0 && (now = uv_hrtime()) < deadline_ns;)
        tp_vm_turn(agent->worker.vm, now + STEP_NS);
}

/* While the agent waits for jobs: goes on with items that wait beside each other. */
static void take_turn(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n,
                      uint64_t deadline_ns)
{
    agent->watched = jobs;
    agent->watched_seen = seen;
    agent->n_watched = n;
    tp_vm_turn(agent->worker.vm, deadline_ns);
    agent->n_watched = 0;
}

/* Has the owner, whose agent this is, been interrupted? */
static bool is_interrupted(const tp_agent *agent)
{
    const tp_host *host = agent->executor->host;
    return agent == &host->agent &&
           atomic_load_explicit(&host->is_interrupted, memory_order_relaxed);
}

bool tp_exec_wait(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n,
                  uint64_t deadline_ns)
{
    bool has_run = false;
    tp_job_begin_wait(agent, jobs, n);
    /* After each return the caller looks at all n jobs. So, with several, small items are run one
     * after the other, for the time of a slice or as long as looking takes, whichever is more, but
     * not past the deadline. So thousands of calls take time in proportion to their number. */
    uint64_t start = n > 1 ? uv_hrtime() : 0, slice_ns = start + (n > 1 ? TP_SLICE_NS : 0),
             look_ns = start + (uint64_t)n * LOOK_NS;
    uint64_t until = look_ns < deadline_ns ? look_ns : deadline_ns,
             batch_ns = until > slice_ns ? until : slice_ns;
    /* when the loop gets a turn at the latest, so that items with `concurrent_inputs` go on
     * although there is other work */
    uint64_t turn_ns = 0;
    bool is_over = has_news(jobs, seen, n);
    while (!is_over) {
        tp_slice *slice = tp_job_take_awaited(agent);
        if (slice) {
            if (tp_exec_run(agent, slice))
                tp_job_finish(slice);
            has_run = true;
        }
        uint64_t now = uv_hrtime();
        if (slice && now < batch_ns)
            continue;
        if (agent->worker.n_waiting > 0 && (now >= turn_ns || !slice)) {
            /* tp_host_interrupt does not wake the owner here, so it looks now and then */
            uint64_t look = agent == &agent->executor->host->agent ? now + INTERRUPT_NS
                                                                   : UINT64_MAX;
            uint64_t end_ns = slice ? 0 : deadline_ns < look ? deadline_ns : look;
            take_turn(agent, jobs, seen, n, end_ns);
            turn_ns = uv_hrtime() + TP_TURN_NS;
            has_run |= has_news(jobs, seen, n);
            if (is_interrupted(agent))
                break;
        } else if (!slice && now < deadline_ns) {
            tp_engine_share(agent->engine);
            tp_job_sleep(agent, jobs, seen, n, deadline_ns, NULL);
        }
        if (now >= deadline_ns)
            break;
        is_over = has_news(jobs, seen, n);
    }
    tp_job_end_wait(agent, jobs, n);
    return has_run;
}

tp_agent *tp_host_agent(tp_host *host, tp_error *err)
{
    if (!host->has_agent) {
        if (tp_agent_open(&host->agent, host->engine, 0,
                          tp_host_executor(host, tp_exec_inline.name), err))
            return NULL;
        if (tp_agent_open_vm(&host->agent, err)) {
            tp_agent_close(&host->agent);
            return NULL;
        }
        host->has_agent = true;
    }
    return &host->agent;
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
    (void)ex, (void)n; /* the owner runs the items when it waits */
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
    .summary = "the caller itself, one item after the other",
    .capabilities =
        TP_SHARES_MEMORY | TP_RUNS_LUA | TP_STREAMS | TP_BY_OWNER | TP_INTERLEAVES,
    .open = open_executor,
    .start = start_workers,
    .stop = stop_workers,
    .close = close_executor,
};
