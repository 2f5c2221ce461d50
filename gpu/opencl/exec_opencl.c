/* exec_opencl.c: the executor "opencl": threads that run kernels on the devices of a host.
 *
 * A device is opened, and its threads are started, when a program for it is first asked for.
 *
 * Elsewhere: those threads (pool.c), devices that do not come back (stuck.c), how a slice becomes
 * launches (slices.c), how a kernel is launched (launch.c), programs (program_cache.c), how a Lua
 * function becomes a program (gpu/translate/translate.lua) and its captured values become arguments
 * (lua/tidepool/device/gpu.lua). */
#include "opencl/exec_opencl.h"

#include "opencl/pool.h"
#include "opencl/stuck.h"
#include "runtime/runtime.h"

#include <stdlib.h>

enum { SPIN_NS = 50 * 1000 };

/* ---- devices ---- */

/* The host's OpenCL if it has that device; else NULL with err set. */
static const tp_cl *find_device(tp_executor *ex, unsigned device, tp_error *err)
{
    const tp_cl *cl = tp_host_opencl(ex->host, err);
    if (cl && device >= cl->n) {
        tp_error_set(err, TP_EUSAGE, "there is no device %u", device);
        return NULL;
    }
    return cl;
}

tp_program *tp_opencl_open_program(tp_executor *ex, unsigned device, const char *source,
                                   const char *options, const char *name, tp_build_for who,
                                   char **log, tp_error *err)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    tp_program *program = NULL;
    tp_open_device open;
    const tp_cl *cl = find_device(ex, device, err);
    if (!cl)
        return NULL;
    uv_mutex_lock(&p->lock);
    for (bool is_again = false; !program; is_again = true) {
        if (tp_cl_pool_open_device(p, cl, device, &open, err))
            break;
        program = tp_program_open(&p->programs, &open, source, options, name, who, log, err);
        bool is_over = !program && tp_life_is_over(open.life);
        tp_ref_drop(open.life);
        if (!is_over || is_again)
            break;
        /* it was over before, and noticed only now */
        free(*log);
        *log = NULL;
        *err = (tp_error){ 0 };
    }
    uv_mutex_unlock(&p->lock);
    return program;
}

tp_program *tp_opencl_promise_program(tp_executor *ex, unsigned device, const char *source,
                                      const char *options, const char *name, const char *function,
                                      tp_error *err)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    tp_program *program = NULL;
    tp_open_device open;
    const tp_cl *cl = find_device(ex, device, err);
    if (!cl)
        return NULL;
    uv_mutex_lock(&p->lock);
    if (tp_cl_pool_open_device(p, cl, device, &open, err) == 0) {
        program = tp_program_promise(&p->programs, &open, source, options, name, function, err);
        tp_ref_drop(open.life);
    }
    uv_mutex_unlock(&p->lock);
    return program;
}

int tp_opencl_open(tp_executor *ex, unsigned device, tp_open_device *out, tp_error *err)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    const tp_cl *cl = find_device(ex, device, err);
    if (!cl)
        return -1;
    uv_mutex_lock(&p->lock);
    int rc = tp_cl_pool_open_device(p, cl, device, out, err);
    uv_mutex_unlock(&p->lock);
    return rc;
}

tp_copies *tp_opencl_copies(tp_executor *ex)
{
    return &((tp_cl_pool *)ex)->copies;
}

/* ---- the executor ---- */

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    tp_cl_pool *p = calloc(1, sizeof *p);
    if (!p)
        return tp_error_oom(err, "devices");
    p->base.type = &tp_exec_opencl;
    p->base.host = host;
    p->engine = host->engine;
    p->programs.host = host;
    if (uv_mutex_init(&p->lock))
        goto no_lock;
    if (tp_turn_open(&p->writing, err))
        goto no_writing;
    if (tp_copies_open(&p->copies, tp_engine_trace(p->engine), err))
        goto no_copies;
    if (tp_idle_open(&p->idle, &p->base, SPIN_NS, err) == 0) {
        *out = &p->base;
        return 0;
    }
    tp_copies_close(&p->copies);
no_copies:
    tp_turn_close(&p->writing);
no_writing:
    uv_mutex_destroy(&p->lock);
no_lock:
    free(p);
    return tp_error_set(err, TP_ESYS, "cannot create a lock");
}

static void start_workers(tp_executor *ex, unsigned n)
{
    (void)n; /* n is not needed: there are few threads, and all are woken */
    tp_cl_pool *p = (tp_cl_pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    tp_idle_offer(&p->idle, UINT_MAX);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* Joins the threads that have ended, even while others still run. */
static void join_ended(tp_cl_pool *p)
{
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    tp_cl_worker *w;
    do {
        uv_thread_t thread = 0;
        uv_mutex_lock(lock);
        w = p->workers;
        while (w && (!w->has_ended || w->is_joined))
            w = w->next;
        if (w) {
            w->is_joined = true;
            thread = w->thread; /* another thread may free w from here on (tp_cl_pool_reap) */
        }
        uv_mutex_unlock(lock);
        if (w)
            uv_thread_join(&thread);
    } while (w);
}

static int stop_workers(tp_executor *ex, uint64_t deadline_ns)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    unsigned alive = tp_idle_stop(&p->idle, deadline_ns);
    alive += tp_cl_pool_count_lost(p); /* the device still uses their memory */
    uv_mutex_unlock(lock);
    join_ended(p);
    /* else somebody opens a device, or tries whether it runs */
    if (uv_mutex_trylock(&p->lock) == 0) {
        tp_cl_pool_reap(p);
        uv_mutex_unlock(&p->lock);
    }
    return alive ? -1 : 0;
}

bool tp_opencl_shares_processors(tp_executor *ex, uint64_t devices, unsigned threads)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    tp_error ignored = { 0 };
    const tp_cl *cl = tp_host_opencl(ex->host, &ignored);
    bool shares = false;
    uv_mutex_lock(&p->lock);
    for (unsigned i = 0; cl && i < cl->n; i++)
        shares |= devices >> i & 1 && cl->devices[i].type & CL_DEVICE_TYPE_CPU &&
                  cl->devices[i].units + threads > p->processors;
    uv_mutex_unlock(&p->lock);
    return shares;
}

void tp_opencl_finish_keeping(tp_executor *ex, uint64_t deadline_ns)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    for (uint64_t now; p->keeping > 0 && (now = uv_hrtime()) < deadline_ns;)
        uv_cond_timedwait(&p->idle.ended, lock, deadline_ns - now);
    uv_mutex_unlock(lock);
}

static void close_executor(tp_executor *ex)
{
    tp_cl_pool *p = (tp_cl_pool *)ex;
    tp_cl_pool_reap(p);
    tp_cl_pool_free_workers(p->workers);
    tp_program_cache_close(&p->programs);
    tp_copies_close(&p->copies);
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        tp_ref_drop(p->lives[i]);
    tp_idle_close(&p->idle);
    uv_mutex_destroy(&p->lock);
    tp_turn_close(&p->writing);
    free(p);
}

const tp_executor_type tp_exec_opencl = {
    .name = "opencl",
    .summary = "OpenCL devices",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_KERNELS,
    .slice_ns = 2000 * 1000, /* a launch costs some 30 us */
    .slice_min = 16384,
    .slice_grain = TP_GROUP,
    .open = open_executor,
    .start = start_workers,
    .stop = stop_workers,
    .close = close_executor,
};
