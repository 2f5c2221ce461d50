/* pool.c: the devices of a host that are open, and the threads that run slices on them.
 *
 * One thread per device (several where memory is copied, so that copies both ways and a kernel go
 * on at the same time) takes slices as any worker does. */
#include "opencl/pool.h"

#include "base/cpus.h"
#include "base/thread.h"
#include "runtime/runtime.h"

#include <limits.h>
#include <stdlib.h>

enum {
    /* Threads of a device that has memory of its own: three that copy there, compute and copy
     * back, and one that is on its way between (bench/overlap.lua). A processor that says so has
     * two: it does all three itself. */
    COPYING = 4, COPYING_CPU = 2
};

/* How often a thread that runs slices gives back memory that it has not needed since the last
 * time. */
static const uint64_t TRIM_NS = 1000 * 1000 * 1000;

/* ---- threads ---- */

/* Stores the programs of kernels that have run on disk. PoCL compiles them once more for that,
 * which takes longer than most maps, so it is done when there is nothing else to do, and at the
 * end. Called with the engine's lock held, which it releases meanwhile. */
static void keep_programs(tp_cl_worker *w)
{
    tp_cl_pool *p = w->pool;
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
static bool trim(tp_cl_worker *w)
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
static bool let_go(tp_cl_worker *w)
{
    if (!tp_launch_queue_is_over(&w->runner.queue))
        return false;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    tp_launch_queue_let_go(&w->runner.queue);
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    return true;
}

/* Makes the program of a job whose workers run it until that is done, if there is one for which
 * this is due, and does what its driver would do at the first launches, and after them. Called with
 * the engine's lock held, which it releases meanwhile; false: there is none. */
static bool make_promised(tp_cl_worker *w)
{
    tp_cl_pool *p = w->pool;
    tp_job *job = tp_job_take_promise_locked(p->engine, &p->base, w->agent.site);
    if (!job)
        return false;
    /* A script that ends meanwhile waits for it: else each run of it would begin anew. */
    p->keeping++;
    p->base.busy++; /* who waits for it to take items may wait for long */
    uv_mutex_unlock(tp_engine_lock(p->engine));
    tp_kernel *k = ((tp_kernels *)tp_job_executor_data(job))->kernel;
    tp_program *program = k->programs[w->runner.queue.open.index];
    tp_built built = { 0 };
    tp_error err = { 0 };
    char *log = NULL;
    const uint64_t begun_ns = uv_hrtime();
    const tp_build_for who = { program->function, w->agent.worker.id, &built };
    bool is_made = tp_program_make(program, who, &log, &err) == 0;
    free(log);
    if (is_made && built.ns) {
        tp_launch_warm_up(&w->runner.queue, k, w->agent.worker.id);
        tp_program_keep(program);
        atomic_store_explicit(&program->untold_how, built.how, memory_order_relaxed);
        atomic_store_explicit(&program->untold_ns, uv_hrtime() - begun_ns, memory_order_release);
    } else if (!is_made) {
        uv_mutex_lock(&p->lock);
        tp_program_forget(&p->programs, program);
        uv_mutex_unlock(&p->lock);
    }
    tp_job_end_promise(job, w->agent.site, is_made);
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->keeping--;
    p->base.busy--;
    uv_cond_broadcast(&p->idle.ended);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    tp_engine_wake_beside(p->engine);
    tp_ref_drop(job);
    uv_mutex_lock(tp_engine_lock(p->engine));
    return true;
}

/* A slice was run: what it has needed is given back by the second time from now on. */
static void plan_trims(tp_cl_worker *w)
{
    if (w->trims_left == 0)
        w->trim_at = uv_hrtime() + TRIM_NS;
    w->trims_left = 2;
}

/* Ends the slice. From here on nobody else looks at its memory any more. */
static void finish_slice(tp_cl_worker *w, tp_slice *s)
{
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    w->slice = NULL;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    tp_job_finish(s);
}

static void serve(void *arg)
{
    tp_cl_worker *w = arg;
    tp_cl_pool *p = w->pool;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    bool has_run = false;
    uv_mutex_lock(lock);
    p->base.looking++;
    while (!p->idle.is_stopping && !w->left) {
        tp_slice *s = tp_job_take_locked(p->engine, &p->base, &w->agent);
        if (s) {
            w->slice = s;
            w->passed = 0;
            uv_mutex_unlock(lock);
            tp_engine_wake_beside(p->engine); /* this site is busy now */
            tp_slices_run(&w->runner, s);
            finish_slice(w, s);
            plan_trims(w);
            uv_mutex_lock(lock);
            has_run = true;
            if (!w->left)
                trim(w);
            continue;
        }
        if (make_promised(w))
            continue;
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
    if (!w->left)
        keep_programs(w);
    w->has_ended = true;
    tp_idle_end(&p->idle);
    uv_mutex_unlock(lock);
}

static void free_worker(tp_cl_worker *w)
{
    tp_launch_queue_close(&w->runner.queue);
    tp_slices_close(&w->runner);
    tp_agent_close(&w->agent);
    free(w);
}

void tp_cl_pool_free_workers(tp_cl_worker *list)
{
    for (tp_cl_worker *w = list, *next; w; w = next) {
        next = w->next;
        if (!w->is_joined)
            uv_thread_join(&w->thread);
        free_worker(w);
    }
}

/* Called with p->lock held. */
static int start_worker(tp_cl_pool *p, const tp_open_device *open, int index, tp_error *err)
{
    tp_cl_worker *w = calloc(1, sizeof *w);
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

/* Called with p->lock held. */
static bool has_left(const tp_cl_worker *w)
{
    uv_mutex_lock(tp_engine_lock(w->pool->engine));
    bool has = w->left != NULL;
    uv_mutex_unlock(tp_engine_lock(w->pool->engine));
    return has;
}

int tp_cl_pool_start_workers(tp_cl_pool *p, const tp_open_device *open, tp_error *err)
{
    const tp_cl_device *d = open->device;
    int index = 1;
    for (const tp_cl_worker *w = p->workers; w; w = w->next) {
        if (w->runner.queue.open.index == open->index && !has_left(w))
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

void tp_cl_pool_bury(tp_cl_pool *p, tp_life *life)
{
    tp_program_cache_end(&p->programs, life);
    tp_copies_end(&p->copies, life);
    uv_mutex_lock(tp_engine_lock(p->engine));
    tp_idle_offer(&p->idle, UINT_MAX); /* workers let go of it */
    uv_mutex_unlock(tp_engine_lock(p->engine));
    tp_life_let_go(life);
    tp_ref_drop(life);
}

int tp_cl_pool_open_device(tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_open_device *out,
                           tp_error *err)
{
    tp_life *life = p->lives[device];
    if (life && tp_life_is_over(life)) {
        p->lives[device] = NULL;
        tp_cl_pool_bury(p, life);
        life = NULL;
    }
    bool is_new = !life;
    if (is_new && !(life = tp_life_begin(cl, &cl->devices[device], err)))
        return -1;
    *out = (tp_open_device){ cl, &cl->devices[device], device, life->context, life };
    /* one that is not new has none if none could be started in the place of those that hang */
    if (tp_cl_pool_start_workers(p, out, err)) {
        if (is_new)
            tp_ref_drop(life);
        return -1;
    }
    p->lives[device] = life;
    tp_ref_hold(life);
    return 0;
}
