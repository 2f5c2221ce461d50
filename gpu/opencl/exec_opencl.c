/* exec_opencl.c: the executor "opencl": threads that run kernels on the devices of a host.
 *
 * One thread per device (several where memory is copied, so that copies both ways and a kernel go
 * on at the same time) takes slices as any worker does. A device is opened, and its threads are
 * started, when a program for it is first asked for.
 *
 * Elsewhere: how a slice becomes launches (slices.c), how a kernel is launched (launch.c), programs
 * (program_cache.c), how a Lua function becomes a program (gpu/translate/translate.lua) and its
 * captured values become arguments (lua/tidepool/device/gpu.lua). */
#include "opencl/exec_opencl.h"

#include "base/cpus.h"
#include "base/thread.h"
#include "opencl/slices.h"
#include "runtime/runtime.h"
#include "workers/idle.h"

#include <limits.h>
#include <stdlib.h>

enum {
    SPIN_NS = 50 * 1000,
    /* Threads of a device that has memory of its own: three that copy there, compute and copy
     * back, and one that is on its way between (bench/overlap.lua). A processor that says so has
     * two: it does all three itself. */
    COPYING = 4, COPYING_CPU = 2
};

/* How often a thread that runs slices gives back memory that it has not needed since the last
 * time. */
static const uint64_t TRIM_NS = 1000 * 1000 * 1000;

/* ---- types ---- */

/* A thread that runs slices on one device. Made by start_worker, joined and freed by close. */
typedef struct worker {
    /* Set before the thread starts, read-only afterwards. */
    struct pool *pool;
    uv_thread_t thread;
    struct worker *next; /* in pool->workers */

    bool is_joined;  /* belongs to the owner, in stop */
    tp_slice *slice; /* the one that it runs, or NULL; guarded by the engine's lock */

    /* ---- its own ---- */
    tp_agent agent; /* with the exceptions in job.h */
    tp_slice_runner runner;
    unsigned trims_left; /* until nothing is left that could be given back */
    uint64_t trim_at;    /* when the next one is; UINT64_MAX: there is none */
} worker;

typedef struct pool {
    tp_executor base;
    tp_engine *engine;
    tp_idle idle;       /* of its threads */
    uv_mutex_t writing; /* see tp_launch_queue_open */
    tp_copies copies;   /* of arrays, on its devices */

    uv_mutex_t lock; /* taken before the engine's lock, and before the host's print_lock */
    /* ---- guarded by lock ---- */
    tp_program_cache programs;
    unsigned processors; /* that there are for us, known once a device is open */
    tp_life *lives[TP_DEVICES_MAX]; /* held; NULL for devices that are not open */
    worker *workers;                /* changed only with the engine's lock held, too */

    /* ---- guarded by the engine's lock ---- */
    /* Held: a queue whose commands nobody waits for any more, and a function that says whether they
     * have run; see tp_opencl_lose. */
    tp_ref *lost[TP_DEVICES_MAX];
    bool (*is_done[TP_DEVICES_MAX])(tp_ref *queue);
    /* workers in keep_programs; when one leaves it, it wakes threads that wait for idle.ended */
    unsigned keeping;
} pool;

/* ---- threads ---- */

/* Stores the programs of kernels that have run on disk. PoCL compiles them once more for that,
 * which takes longer than most maps, so it is done when there is nothing else to do, and at the
 * end. Called with the engine's lock held, which it releases meanwhile. */
static void keep_programs(worker *w)
{
    pool *p = w->pool;
    if (!w->runner.queue.has_new)
        return;
    p->keeping++;
    p->base.busy++; /* who waits for it to take items may wait for long */
    uv_mutex_unlock(tp_engine_lock(p->engine));
    tp_launch_queue_keep(&w->runner.queue);
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->keeping--;
    p->base.busy--;
    uv_cond_broadcast(&p->idle.ended);
}

/* Gives back memory that is not needed, if it is time. Called with the engine's lock held, which it
 * releases meanwhile; false: it was not. */
static bool trim(worker *w)
{
    uint64_t now = w->trims_left ? uv_hrtime() : 0;
    if (w->trims_left == 0 || now < w->trim_at)
        return false;
    w->trim_at = --w->trims_left ? now + TRIM_NS : UINT64_MAX;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    tp_slices_trim(&w->runner);
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    return true;
}

/* Frees what the worker has in a life that is over. Called with the engine's lock held, which it
 * releases meanwhile; false: there was nothing. */
static bool let_go(worker *w)
{
    if (!tp_launch_queue_is_over(&w->runner.queue))
        return false;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    tp_launch_queue_let_go(&w->runner.queue);
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    return true;
}

/* A slice was run: what it has needed is given back by the second time from now on. */
static void plan_trims(worker *w)
{
    if (w->trims_left == 0)
        w->trim_at = uv_hrtime() + TRIM_NS;
    w->trims_left = 2;
}

/* Ends the slice. From here on is_stuck does not look at its memory any more. */
static void finish_slice(worker *w, tp_slice *s)
{
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    w->slice = NULL;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    tp_job_finish(s);
}

static void serve(void *arg)
{
    worker *w = arg;
    pool *p = w->pool;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    bool has_run = false;
    uv_mutex_lock(lock);
    p->base.looking++;
    while (!p->idle.is_stopping) {
        tp_slice *s = tp_job_take_locked(p->engine, &p->base, &w->agent);
        if (s) {
            w->slice = s;
            uv_mutex_unlock(lock);
            tp_engine_wake_beside(p->engine); /* this site is busy now */
            tp_slices_run(&w->runner, s);
            finish_slice(w, s);
            plan_trims(w);
            uv_mutex_lock(lock);
            has_run = true;
            trim(w);
            continue;
        }
        if (has_run) {
            has_run = false;
            tp_idle_spin(&p->idle);
            continue; /* the lock was released, so there may be work now */
        }
        if (w->runner.queue.has_new) {
            keep_programs(w);
            continue;
        }
        if (let_go(w))
            continue;
        if (!trim(w))
            tp_idle_sleep(&p->idle, &w->agent, w->trim_at);
    }
    p->base.looking--;
    keep_programs(w);
    tp_idle_end(&p->idle);
    uv_mutex_unlock(lock);
}

static void free_worker(worker *w)
{
    tp_launch_queue_close(&w->runner.queue);
    tp_slices_close(&w->runner);
    tp_agent_close(&w->agent);
    free(w);
}

/* Called with p->lock held. */
static int start_worker(pool *p, const tp_open_device *open, int index, tp_error *err)
{
    worker *w = calloc(1, sizeof *w);
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    if (!w)
        return tp_error_oom(err, "device thread");
    w->pool = p;
    w->trim_at = UINT64_MAX;
    if (tp_agent_open(&w->agent, p->engine, index, &p->base, err)) {
        free(w);
        return -1;
    }
    w->agent.site = (uint64_t)1 << open->index;
    tp_trace_add_track(tp_engine_trace(p->engine), w->agent.worker.id, open->device->name, index,
                       false);
    if (tp_launch_queue_open(&w->runner.queue, open, &p->writing, &p->copies, err)) {
        tp_agent_close(&w->agent);
        free(w);
        return -1;
    }
    uv_mutex_lock(lock);
    p->idle.alive++;
    uv_mutex_unlock(lock);
    int status = tp_thread_create(&w->thread, 0, serve, w);
    if (status) {
        uv_mutex_lock(lock);
        tp_idle_end(&p->idle);
        uv_mutex_unlock(lock);
        tp_error_set(err, TP_ESYS, "cannot start a thread for %s: %s", open->device->name,
                     uv_strerror(status));
        free_worker(w);
        return -1;
    }
    uv_mutex_lock(lock);
    w->next = p->workers;
    p->workers = w;
    uv_mutex_unlock(lock);
    return 0;
}

/* ---- devices ---- */

/* Starts the device's workers, whose life it has, unless it has some. Called with p->lock held. */
static int start_workers_of(pool *p, const tp_open_device *open, tp_error *err)
{
    const tp_cl_device *d = open->device;
    int index = 1;
    for (const worker *w = p->workers; w; w = w->next) {
        if (w->runner.queue.open.index == open->index)
            return 0;
        index++;
    }
    if (!p->processors)
        p->processors = tp_cpus();
    if (start_worker(p, open, index, err))
        return -1;
    int most = d->is_unified ? 1 : d->type & CL_DEVICE_TYPE_CPU ? COPYING_CPU : COPYING;
    for (int more = 1; more < most; more++) {
        tp_error ignored = { 0 }; /* the device works with one thread, too */
        if (start_worker(p, open, index + more, &ignored))
            break;
    }
    return 0;
}

/* Takes the life, which is over, from everybody who keeps something of it for later. Called with
 * p->lock held. */
static void bury(pool *p, tp_life *life)
{
    tp_program_cache_end(&p->programs, life);
    tp_copies_end(&p->copies, life);
    uv_mutex_lock(tp_engine_lock(p->engine));
    tp_idle_offer(&p->idle, UINT_MAX); /* workers let go of it */
    uv_mutex_unlock(tp_engine_lock(p->engine));
    tp_life_let_go(life);
    tp_ref_drop(life);
}

/* The caller holds out->life then. Called with p->lock held. */
static int open_device(pool *p, const tp_cl *cl, unsigned device, tp_open_device *out,
                       tp_error *err)
{
    tp_life *life = p->lives[device];
    if (life && tp_life_is_over(life)) {
        p->lives[device] = NULL;
        bury(p, life);
        life = NULL;
    }
    bool is_new = !life;
    if (is_new && !(life = tp_life_begin(cl, &cl->devices[device], err)))
        return -1;
    *out = (tp_open_device){ cl, &cl->devices[device], device, life->context, life };
    if (is_new && start_workers_of(p, out, err)) {
        tp_ref_drop(life);
        return -1;
    }
    p->lives[device] = life;
    tp_ref_hold(life);
    return 0;
}

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
    pool *p = (pool *)ex;
    tp_program *program = NULL;
    tp_open_device open;
    const tp_cl *cl = find_device(ex, device, err);
    if (!cl)
        return NULL;
    uv_mutex_lock(&p->lock);
    for (bool is_again = false; !program; is_again = true) {
        if (open_device(p, cl, device, &open, err))
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

int tp_opencl_open(tp_executor *ex, unsigned device, tp_open_device *out, tp_error *err)
{
    pool *p = (pool *)ex;
    const tp_cl *cl = find_device(ex, device, err);
    if (!cl)
        return -1;
    uv_mutex_lock(&p->lock);
    int rc = open_device(p, cl, device, out, err);
    uv_mutex_unlock(&p->lock);
    return rc;
}

tp_copies *tp_opencl_copies(tp_executor *ex)
{
    return &((pool *)ex)->copies;
}

void tp_opencl_lose(tp_executor *ex, unsigned device, tp_ref *queue, bool (*is_done)(tp_ref *queue))
{
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    tp_ref *before = p->lost[device];
    p->lost[device] = tp_ref_hold(queue);
    p->is_done[device] = is_done;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    /* The earlier queue stays held: what its commands use must not be freed while they run, and
     * nobody would say when they no longer do. */
    (void)before;
}

/* With the engine's lock held: does the device run only commands that nobody waits for, or has it
 * not come back from some? */
static bool is_stuck(pool *p, unsigned device)
{
    bool has_workers = false;
    if (p->lost[device] && !p->is_done[device](p->lost[device]))
        return true;
    if (p->base.lost_sites >> device & 1)
        return true;
    for (const worker *w = p->workers; w; w = w->next)
        if (w->runner.queue.open.index == device) {
            if (!w->slice || !tp_slice_is_cancelled_locked(w->slice))
                return false;
            has_workers = true;
        }
    return has_workers;
}

bool tp_opencl_is_stuck(tp_executor *ex, unsigned device, uint64_t patience_ns)
{
    pool *p = (pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uint64_t began = uv_hrtime();
    if (device >= TP_DEVICES_MAX)
        return false;
    for (;;) {
        uv_mutex_lock(lock);
        bool is = is_stuck(p, device);
        uv_mutex_unlock(lock);
        if (!is || uv_hrtime() - began >= patience_ns)
            return is;
        uv_sleep(5);
    }
}

/* ---- the executor ---- */

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    pool *p = calloc(1, sizeof *p);
    if (!p)
        return tp_error_oom(err, "devices");
    p->base.type = &tp_exec_opencl;
    p->base.host = host;
    p->engine = host->engine;
    p->programs.host = host;
    if (uv_mutex_init(&p->lock))
        goto no_lock;
    if (uv_mutex_init(&p->writing))
        goto no_writing;
    if (tp_copies_open(&p->copies, tp_engine_trace(p->engine), err))
        goto no_copies;
    if (tp_idle_open(&p->idle, &p->base, SPIN_NS, err) == 0) {
        *out = &p->base;
        return 0;
    }
    tp_copies_close(&p->copies);
no_copies:
    uv_mutex_destroy(&p->writing);
no_writing:
    uv_mutex_destroy(&p->lock);
no_lock:
    free(p);
    return tp_error_set(err, TP_ESYS, "cannot create a lock");
}

static void start_workers(tp_executor *ex, unsigned n)
{
    (void)n; /* n is not needed: there are few threads, and all are woken */
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    tp_idle_offer(&p->idle, UINT_MAX);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

static int stop_workers(tp_executor *ex, uint64_t deadline_ns)
{
    pool *p = (pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    unsigned alive = tp_idle_stop(&p->idle, deadline_ns);
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        if (p->lost[i] && !p->is_done[i](p->lost[i]))
            alive++; /* the device still runs the slice's launch, and uses its memory */
    uv_mutex_unlock(lock);
    if (alive)
        return -1;
    for (worker *w = p->workers; w; w = w->next) {
        if (!w->is_joined)
            uv_thread_join(&w->thread);
        w->is_joined = true;
    }
    return 0;
}

bool tp_opencl_shares_processors(tp_executor *ex, uint64_t devices, unsigned threads)
{
    pool *p = (pool *)ex;
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
    pool *p = (pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    for (uint64_t now; p->keeping > 0 && (now = uv_hrtime()) < deadline_ns;)
        uv_cond_timedwait(&p->idle.ended, lock, deadline_ns - now);
    uv_mutex_unlock(lock);
}

static void close_executor(tp_executor *ex)
{
    pool *p = (pool *)ex;
    while (p->workers) {
        worker *w = p->workers;
        p->workers = w->next;
        free_worker(w);
    }
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        if (p->lost[i] && p->is_done[i](p->lost[i]))
            tp_ref_drop(p->lost[i]);
    tp_program_cache_close(&p->programs);
    tp_copies_close(&p->copies);
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        tp_ref_drop(p->lives[i]);
    tp_idle_close(&p->idle);
    uv_mutex_destroy(&p->lock);
    uv_mutex_destroy(&p->writing);
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
