/* at_home.c: workers in the process of their host. */
#include "workers/workers.h"

#include "workers/vm.h"

static void open_state(struct lua_State *L, tp_worker *worker)
{
    tp_agent *agent = (tp_agent *)worker;
    tp_host *host = agent->executor->host;
    host->open_state(L, host, agent);
}

static void write_lines(tp_worker *worker, int fd, const char *bytes, size_t len)
{
    tp_host_print(((tp_agent *)worker)->executor->host, fd, bytes, len);
}

static void end_work(tp_worker *worker, tp_work *w)
{
    (void)worker;
    tp_slice *slice = tp_slice_of(w);
    if (slice)
        tp_job_finish(slice);
    else
        w->sink->end(w);
}

static const tp_worker_type at_home = { .open_state = open_state,
                                        .write = write_lines,
                                        .end = end_work };

void tp_agent_leave(tp_agent *agent)
{
    tp_host *host = agent->executor->host;
    atomic_fetch_add_explicit(&host->leaving, 1, memory_order_relaxed);
    tp_vm_leave(agent->worker.vm);
    atomic_fetch_sub_explicit(&host->leaving, 1, memory_order_relaxed);
    if (host->sampler)
        host->sampler->leave(tp_vm_state(agent->worker.vm));
}

int tp_agent_open_vm(tp_agent *agent, tp_error *err)
{
    const tp_host *host = agent->executor->host;
    agent->worker.type = &at_home;
    agent->worker.tags_lines = host->config.tag_lines;
    if (tp_vm_open(&agent->worker, err))
        return -1;
    if (host->sampler)
        host->sampler->enter(tp_vm_state(agent->worker.vm), &agent->worker);
    return 0;
}
