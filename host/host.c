/* host.c: a tp_host from its opening to its end. The top of the library: no other file of it
 * includes host.h. */
#include "host.h"

#include "embed/api.h"
#include "executors.h"
#include "lua/core.h"
#include "opencl/exec_opencl.h"
#include "runtime/own_loop.h"
#include "runtime/runtime.h"
#include "trace/tracer.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    REST_MS = 50,  /* for an idle thread to end */
    TELL_MS = 3000, /* after which it is told that closing waits */
    LEAVE_MS = 6000, /* for what workers do before they end; processes may take 5 s for it */
    DRAIN_MS = 2000, /* for items with `concurrent_inputs` on the owner's thread */
    KEEP_MS = 30000 /* for writing compiled programs, when a state with our module is closed */
};

static int open_executors(tp_host *host, tp_error *err)
{
    for (int i = 0; tp_executor_types[i]; i++)
        if (tp_executor_types[i]->open(&host->executors[i], host, err))
            return -1;
    const char *name = host->config.executor ? host->config.executor : tp_executor_types[0]->name;
    const tp_executor *executor = tp_host_executor(host, name);
    if (!executor || !(executor->type->capabilities & TP_RUNS_LUA))
        return tp_error_set(err, TP_EUSAGE, "tp_config.executor is \"%s\", which is none", name);
    host->config.executor = executor->type->name;
    return 0;
}

static bool is_quiet(void *host)
{
    return tp_engine_is_quiet(((tp_host *)host)->engine);
}

int tp_host_open(tp_host **out, const tp_config *config, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(out, __func__, "out", err))
        return -1;
    *out = NULL;
    tp_host *host = calloc(1, sizeof *host);
    if (!host)
        return tp_error_oom(err, "host");
    host->open_state = tp_lua_core_open;
    if (tp_runtime_open(host, config, err))
        goto no_runtime;
    if (tp_loop_open(host, err))
        goto no_loop;
    if (tp_array_pool_open(&host->arrays, host->fork_mark, is_quiet, host, err))
        goto no_arrays;
    if (tp_engine_open(&host->engine, err))
        goto no_engine;
    if (open_executors(host, err) ||
        (host->config.trace &&
         tp_tracer_begin_trace(&host->tracer, host, host->config.trace, err)) ||
        (host->config.report &&
         tp_tracer_begin_report(&host->tracer, host, host->config.report, err)) ||
        (host->config.loop && tp_attach(&host->attachment, host, host->config.loop, err))) {
        tp_host_free(host);
        return -1;
    }
    *out = host;
    return 0;
no_engine:
    tp_array_pool_close(host->arrays);
no_arrays:
    tp_loop_close(host);
no_loop:
    tp_runtime_close(host);
no_runtime:
    free(host);
    return -1;
}

static int stop_executors(tp_host *host, uint64_t deadline_ns)
{
    int rc = 0;
    tp_engine_stop(host->engine);
    for (int i = 0; host->executors[i]; i++)
        if (host->executors[i]->type->stop(host->executors[i], deadline_ns))
            rc = -1;
    return rc;
}

int tp_host_stop(tp_host *host, unsigned timeout_ms)
{
    if (!host || tp_host_check_owner(host, NULL))
        return -1;
    return stop_executors(host, uv_hrtime() + (uint64_t)timeout_ms * 1000000);
}

/* Is the owner inside a call of the host's, which must return first? */
static bool is_busy(const tp_host *host)
{
    return host->is_stepping || host->is_running || tp_api_is_inside(host->api);
}

tp_code tp_host_close(tp_host *host)
{
    tp_error err = { .code = TP_OK };
    if (!host)
        return TP_OK;
    if (tp_host_check_owner(host, &err))
        return err.code;
    if (is_busy(host))
        return TP_EBUSY;
    tp_host_free(host);
    return TP_OK;
}

int tp_host_adopt(tp_host *host, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(host, __func__, "host", err))
        return -1;
    if (!tp_host_is_usable(host))
        return tp_error_set(err, TP_EUSAGE,
                            "a host does not work in a forked child: open one there");
    if (host->attachment)
        return tp_error_set(
            err, TP_EUSAGE,
            "tp_host_adopt: the host is driven by tp_config.loop, which stays where it is");
    if (is_busy(host))
        return tp_error_set(err, TP_EBUSY, "tp_host_adopt: the host's owner is in a call of it");
    tp_host_set_owner(host);
    return 0;
}

bool tp_host_finish_leaving(tp_host *host, unsigned timeout_ms)
{
    uint64_t until = uv_hrtime() + (uint64_t)timeout_ms * 1000000;
    int rc = -1;
    while (rc && atomic_load_explicit(&host->leaving, memory_order_relaxed) > 0 &&
           uv_hrtime() < until)
        rc = stop_executors(host, uv_hrtime() + (uint64_t)REST_MS * 1000000);
    return rc == 0;
}

bool tp_host_finish_keeping(tp_host *host, unsigned timeout_ms)
{
    tp_opencl_finish_keeping(tp_host_executor(host, tp_exec_opencl.name),
                             uv_hrtime() + (uint64_t)timeout_ms * 1000000);
    /* a thread that was still writing programs ends now */
    return stop_executors(host, uv_hrtime() + (uint64_t)REST_MS * 1000000) == 0;
}

bool tp_host_free_within(tp_host *host, unsigned timeout_ms)
{
    if (host && tp_host_is_usable(host) &&
        stop_executors(host, uv_hrtime() + (uint64_t)timeout_ms * 1000000) &&
        !tp_host_finish_leaving(host, LEAVE_MS) && !tp_host_finish_keeping(host, KEEP_MS))
        return false;
    tp_host_free(host);
    return true;
}

/* Says whose items, or kernels, closing the host waits for. */
static void tell_waiting(tp_host *host)
{
    char line[200] = "tidepool: closing the host waits for what still runs:";
    for (int i = 0; host->executors[i]; i++) {
        size_t len = strlen(line);
        const tp_executor_type *type = host->executors[i]->type;
        if (type->stop(host->executors[i], uv_hrtime()))
            snprintf(line + len, sizeof line - len, " %s",
                     type->capabilities & TP_RUNS_KERNELS ? "devices" : type->name);
    }
    strncat(line, "\n", sizeof line - strlen(line) - 1);
    tp_host_print(host, 2, line, strlen(line));
}

void tp_host_free(tp_host *host)
{
    if (!host || !tp_host_is_usable(host))
        return;
    tp_detach(host->attachment);
    host->attachment = NULL;
    /* before anything else is closed: workers read strings of the state that closes here
     * (TP_SCALAR_PINNED) */
    if (stop_executors(host, uv_hrtime() + (uint64_t)TELL_MS * 1000000)) {
        tell_waiting(host);
        stop_executors(host, UINT64_MAX);
    }
    if (host->has_agent) {
        tp_exec_drain(&host->agent, uv_hrtime() + (uint64_t)DRAIN_MS * 1000000);
        tp_job_lose(&host->agent, NULL, NULL); /* items that have not ended by then */
        tp_agent_leave(&host->agent);
    }
    tp_api_close(host->api);
    for (int i = 0; host->executors[i]; i++)
        host->executors[i]->type->close(host->executors[i]);
    if (host->has_agent) {
        tp_vm_close(host->agent.worker.vm);
        tp_own_loop_close(&host->agent);
        tp_agent_close(&host->agent);
    }
    tp_host_end_trace(host);
    tp_engine_close(host->engine);
    tp_array_pool_close(host->arrays);
    tp_loop_close(host);
    tp_runtime_close(host);
    free(host);
}

void tp_host_end_trace(tp_host *host)
{
    tp_tracer_close(host->tracer);
    host->tracer = NULL;
}

int tp_host_openlibs(tp_host *host, struct lua_State *L, tp_error *err)
{
    tp_error_begin(err);
    if (tp_error_check_given(host, __func__, "host", err) ||
        tp_error_check_given(L, __func__, "L", err) || tp_host_check_owner(host, err))
        return -1;
    return tp_lua_core_open_protected(L, host, err);
}
