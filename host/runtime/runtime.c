/* runtime.c: the part of a host that everything else of it uses: configuration, whose thread it is,
 * printing, interrupts, OpenCL.
 *
 * Opened before anything else of a host and closed last. */
#include "runtime/runtime.h"

#include "base/cpus.h"
#include "base/mapping.h"
#include "base/sigmask.h"
#include "opencl/cl.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { KEPT_BYTES = 256 << 20 /* room for some thousand programs of PoCL's (OpenCL on the CPU) */ };

static int copy_text(char **to, const char *from, tp_error *err)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? tp_error_oom(err, "host") : 0;
}

static int copy_config(tp_config *to, const tp_config *from, tp_error *err)
{
    *to = (tp_config){ 0 };
    if (from) {
        if (from->size == 0)
            return tp_error_set(err, TP_EUSAGE,
                                "tp_config.size is 0: it must be sizeof(tp_config)");
        if (from->size > sizeof *to)
            return tp_error_set(err, TP_EUSAGE,
                                "tp_config.size is %zu, but %zu in this version of the library: "
                                "it must be sizeof(tp_config), and the header not be newer",
                                from->size, sizeof *to);
        memcpy(to, from, from->size);
    }
    if (to->workers < 0 || to->workers > TP_WORKERS_MAX)
        return tp_error_set(err, TP_EUSAGE,
                            "tp_config.workers is %d: it must be 1 to %d, or 0 for the default",
                            to->workers, TP_WORKERS_MAX);
    if (to->workers == 0) {
        unsigned n = tp_cpus();
        to->workers = n > TP_WORKERS_MAX ? TP_WORKERS_MAX : (int)n;
    }
    return 0;
}

int tp_runtime_open(tp_host *host, const tp_config *config, tp_error *err)
{
    bool has_lock = false, has_bundle = false;
    if (copy_config(&host->config, config, err) ||
        copy_text(&host->opencl, host->config.opencl, err) ||
        copy_text(&host->cache_dir, host->config.cache_dir, err) ||
        copy_text(&host->state_dir, host->config.state_dir, err) ||
        copy_text(&host->worker, host->config.worker, err) ||
        copy_text(&host->trace, host->config.trace, err) ||
        copy_text(&host->report, host->config.report, err) ||
        copy_text(&host->engine_url, host->config.engine, err) ||
        copy_text(&host->token, host->config.token, err))
        goto failed;
    host->config.opencl = host->opencl;
    host->config.cache_dir = host->cache_dir;
    host->config.state_dir = host->state_dir;
    host->config.worker = host->worker;
    host->config.trace = host->trace;
    host->config.report = host->report;
    host->config.engine = host->engine_url;
    host->config.token = host->token;
    host->program_store = (tp_program_store){
        .folder = host->cache_dir,
        .secrets = host->state_dir ? host->state_dir : host->cache_dir,
        .limit = host->config.cache_bytes ? host->config.cache_bytes : KEPT_BYTES,
    };
    tp_host_set_owner(host);
    uv_random(NULL, NULL, host->session, sizeof host->session, 0, NULL);
    tp_sigmask_get(&host->sigmask);
    host->fork_mark = tp_fork_mark_new();
    if (!host->fork_mark) {
        tp_error_oom(err, "host");
        goto failed;
    }
    has_lock = uv_mutex_init(&host->print_lock) == 0;
    has_bundle = tp_bundle_open(&host->bundle) == 0;
    if (!has_lock || !has_bundle || uv_mutex_init(&host->cl_lock)) {
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        goto failed;
    }
    return 0;
failed:
    if (has_bundle)
        tp_bundle_close(&host->bundle);
    if (has_lock)
        uv_mutex_destroy(&host->print_lock);
    tp_fork_mark_free(host->fork_mark);
    free(host->opencl);
    free(host->cache_dir);
    free(host->state_dir);
    free(host->worker);
    free(host->trace);
    free(host->report);
    free(host->engine_url);
    free(host->token);
    return -1;
}

void tp_runtime_close(tp_host *host)
{
    tp_cl_close(host->cl);
    tp_ref_drop(host->loading);
    tp_bundle_close(&host->bundle);
    uv_mutex_destroy(&host->print_lock);
    uv_mutex_destroy(&host->cl_lock);
    tp_fork_mark_free(host->fork_mark);
    free(host->opencl);
    free(host->cache_dir);
    free(host->state_dir);
    free(host->worker);
    free(host->trace);
    free(host->report);
    free(host->engine_url);
    free(host->token);
}

bool tp_host_is_usable(const tp_host *host)
{
    return *host->fork_mark == 1;
}

void tp_host_set_owner(tp_host *host)
{
    atomic_store_explicit(&host->owner, uv_thread_self(), memory_order_relaxed);
}

int tp_host_check_owner(const tp_host *host, tp_error *err)
{
    uv_thread_t self = uv_thread_self(),
                owner = atomic_load_explicit(&host->owner, memory_order_relaxed);
    if (!uv_thread_equal(&self, &owner))
        return tp_error_set(err, TP_ETHREAD,
                            "called on a thread that is not the host's owner (the one that opened "
                            "it, or has adopted it)");
    if (!tp_host_is_usable(host))
        return tp_error_set(err, TP_EUSAGE,
                            "a host does not work in a forked child: open one there");
    return 0;
}

/* With cl_lock held. Takes over what was loaded beside other work. */
static void take_loaded(tp_host *host)
{
    if (host->cl || !host->loading || !tp_cl_loading_is_over(host->loading))
        return;
    host->cl = tp_cl_loading_take(host->loading);
    tp_ref_drop(host->loading);
    host->loading = NULL;
    if (host->cl && host->after_opencl)
        host->after_opencl(host->cl);
}

const tp_cl *tp_host_opencl(tp_host *host, tp_error *err)
{
    uv_mutex_lock(&host->cl_lock);
    for (take_loaded(host); !host->cl && host->loading; take_loaded(host)) {
        tp_cl_loading *loading = tp_ref_hold(host->loading);
        uv_mutex_unlock(&host->cl_lock);
        tp_cl_loading_wait(loading);
        tp_ref_drop(loading);
        uv_mutex_lock(&host->cl_lock);
    }
    /* every call tries again: memory or threads may have been short, or a driver may have been
     * installed */
    if (!host->cl) {
        sigset_t before;
        tp_sigmask_block(&before); /* because drivers make threads */
        if (host->before_opencl)
            host->before_opencl();
        if (tp_cl_open(&host->cl, host->opencl, err) == 0 && host->after_opencl)
            host->after_opencl(host->cl);
        tp_sigmask_set(&before, NULL);
    }
    const tp_cl *cl = host->cl;
    uv_mutex_unlock(&host->cl_lock);
    return cl;
}

bool tp_host_begin_opencl(tp_host *host)
{
    tp_error ignored = { 0 };
    uv_mutex_lock(&host->cl_lock);
    if (!host->cl && !host->loading && host->loads_beside) {
        if (host->before_opencl)
            host->before_opencl();
        host->loading = tp_cl_loading_new(host->opencl, &ignored);
    }
    bool is_loading = !host->cl && host->loading && !tp_cl_loading_is_over(host->loading);
    uv_mutex_unlock(&host->cl_lock);
    return !is_loading;
}

bool tp_host_is_loading_opencl(tp_host *host)
{
    /* whoever has the lock may load it in tp_host_opencl, where a driver may hang */
    if (uv_mutex_trylock(&host->cl_lock))
        return true;
    bool is_loading = host->loading && !tp_cl_loading_is_over(host->loading);
    uv_mutex_unlock(&host->cl_lock);
    return is_loading;
}

/* In a worker process, the executor that stands in for `found`: the worker itself (inline) for all
 * that run Lua. */
static tp_executor *as_here(tp_host *host, tp_executor *found)
{
    const unsigned own = TP_RUNS_LUA | TP_ISOLATED;
    if (!found || !host->is_child || !(found->type->capabilities & TP_RUNS_LUA))
        return found;
    for (int i = 0; host->executors[i]; i++)
        if ((host->executors[i]->type->capabilities & (own | TP_FAR)) == own)
            return host->executors[i];
    return found;
}

tp_executor *tp_host_executor(tp_host *host, const char *name)
{
    for (int i = 0; host->executors[i]; i++)
        if (strcmp(host->executors[i]->type->name, name) == 0)
            return as_here(host, host->executors[i]);
    return NULL;
}

unsigned tp_host_capabilities(const tp_host *host, const tp_executor_type *type)
{
    return type->capabilities | (host->is_child ? TP_SHARES_MEMORY : 0);
}

tp_executor *tp_host_executor_that(tp_host *host, unsigned capabilities)
{
    for (int i = 0; host->executors[i]; i++)
        if ((host->executors[i]->type->capabilities & capabilities) == capabilities)
            return as_here(host, host->executors[i]);
    return NULL;
}

void tp_host_interrupt(tp_host *host)
{
    if (!host)
        return;
    atomic_store_explicit(&host->is_interrupted, true, memory_order_relaxed);
    uv_async_send(&host->wake_up);
}

bool tp_host_take_interrupt(tp_host *host)
{
    return atomic_load_explicit(&host->is_interrupted, memory_order_relaxed) &&
           atomic_exchange_explicit(&host->is_interrupted, false, memory_order_relaxed);
}

void tp_host_resume(tp_host *host)
{
    if (host)
        tp_host_take_interrupt(host);
}

void tp_host_counts(const tp_host *host, uint64_t *delivered, uint64_t *total)
{
    uint64_t counts[2] = { 0, 0 };
    if (host)
        tp_engine_counts(host->engine, &counts[0], &counts[1]);
    if (delivered)
        *delivered = counts[0];
    if (total)
        *total = counts[1];
}

static void end_print(tp_host **host)
{
    uv_mutex_unlock(&(*host)->print_lock);
}

void tp_host_print(tp_host *host, int fd, const char *bytes, size_t len)
{
    if (!host->config.write)
        return;
    /* runs end_print also when `write` throws, see tidepool.h */
    __attribute__((cleanup(end_print))) tp_host *printing = host;
    uv_mutex_lock(&printing->print_lock);
    host->config.write(host->config.user, fd, bytes, len);
}
