/* exec_threads.c: worker threads of this process, one Lua state each.
 *
 * Threads are made one by one as work comes that no idle worker is there for, up to config.workers, and kept until the host
 * closes. A worker that has run out of work spins for some 30 us (one at a time does) before it sleeps: waking a thread costs 15
 * us and more, and the next call often comes at once.
 *
 * Stacks are 64 MiB, of which only what is touched takes memory: recursion through C (gsub with a callback) then ends in Lua's
 * "stack overflow" instead of the process's end. */
#include "exec.h"
#include "host.h"
#include "vm.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STACK_BYTES = 64 << 20, SPIN_NS = 30 * 1000, STARTING_MAX = 8 };

/* A worker thread and the Lua state only it may enter. Made by spawn, joined and freed by close. */
typedef struct worker {
    /* Set before the thread starts, read-only afterwards. */
    struct pool *pool;
    uv_thread_t thread;

    bool is_joined; /* the owner's, in stop */
    tp_agent agent; /* the worker's own, but for what job.h says */

    /* ---- guarded by the engine's lock ---- */
    struct worker *next; /* in pool->workers */
    bool has_ended;      /* it is not counted in pool->alive any more, and touches nothing */
    tp_vm *left; /* the state of a thread that was ended from inside (pthread_exit in a C function): closed with the pool */
} worker;

typedef struct pool {
    tp_executor base;
    tp_engine *engine;
    uv_cond_t idle;  /* workers sleep on it */
    uv_cond_t ended; /* stop waits on it */

    /* ---- guarded by the engine's lock ---- */
    worker *workers;  /* all that were made; freed by close */
    unsigned n;       /* how many */
    unsigned max;     /* how many may be alive */
    unsigned n_reserved; /* threads that somebody is making now */
    unsigned n_starting; /* those and the ones that have not looked for work yet */
    unsigned alive, n_idle, n_spinning;
    bool is_stopping;

    _Atomic uint32_t offers; /* counts calls of start; what a spinning worker watches (acquire/release) */
} pool;

static void work(void *arg);

/* Locked. May one more thread be made? Then counts it as starting. */
static bool reserve(pool *p)
{
    if (p->is_stopping || p->alive + p->n_reserved >= p->max || p->n_starting >= STARTING_MAX)
        return false;
    p->n_starting++;
    p->n_reserved++;
    return true;
}

/* The pool runs on with fewer workers than it was asked for. */
static void warn(pool *p, const tp_error *err)
{
    char line[sizeof err->message + 16];
    int n = snprintf(line, sizeof line, "tidepool: %s\n", err->message);
    tp_host_print(p->base.host, 2, line, (size_t)n);
}

/* Makes the thread that was reserved. Not locked. */
static void spawn(pool *p)
{
    tp_error err = { 0 };
    worker *w = calloc(1, sizeof *w);
    uv_thread_options_t options = { .flags = UV_THREAD_HAS_STACK_SIZE, .stack_size = STACK_BYTES };
    int rc = 0;
    uv_mutex_lock(tp_engine_lock(p->engine));
    int index = (int)p->n + 1;
    unsigned asked = (unsigned)p->base.host->config.workers, started = p->alive;
    p->n_reserved--;
    if (!w) {
        tp_error_oom(&err, "worker thread");
    } else if (tp_agent_open(&w->agent, p->engine, index, &p->base, &err) == 0) {
        w->pool = p;
        rc = uv_thread_create_ex(&w->thread, &options, work, w);
        if (rc) {
            tp_agent_close(&w->agent);
            tp_error_set(&err, TP_ESYS, "started %u of %u worker threads: %s", started, asked, uv_strerror(rc));
        }
    }
    if (err.code == TP_OK) {
        w->next = p->workers;
        p->workers = w;
        p->n++;
        p->alive++;
    } else {
        p->n_starting--;
        p->max = p->alive; /* run with those that there are */
        if (p->alive == 0)
            p->base.broken = err;
        free(w);
    }
    bool is_broken = p->base.broken.code != TP_OK;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (is_broken)
        tp_job_lose_all(p->engine, &p->base);
    else if (err.code != TP_OK)
        warn(p, &err);
}

/* Watches for an offer for a little while. Called with the lock held, releases it meanwhile. True when there was one. */
static bool spin(pool *p)
{
    if (p->n_spinning > 0 || p->is_stopping)
        return false;
    p->n_spinning++;
    uint32_t seen = atomic_load_explicit(&p->offers, memory_order_acquire);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    uint64_t until = uv_hrtime() + SPIN_NS;
    bool is_offered = false;
    while (!is_offered && uv_hrtime() < until) {
        for (int i = 0; i < 8; i++)
            tp_relax();
        is_offered = atomic_load_explicit(&p->offers, memory_order_acquire) != seen;
        if (!is_offered)
            sched_yield();
    }
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->n_spinning--;
    return is_offered;
}

/* Locked. Sleeps until there may be work. */
static void sleep_idle(pool *p)
{
    uint64_t until = tp_job_idle_until(p->engine, &p->base);
    p->n_idle++;
    p->base.looking--;
    if (until) {
        uint64_t now = uv_hrtime();
        uv_cond_timedwait(&p->idle, tp_engine_lock(p->engine), until > now ? until - now : 1);
    } else {
        uv_cond_wait(&p->idle, tp_engine_lock(p->engine));
    }
    p->n_idle--;
    p->base.looking++;
}

/* Locked. A worker has found work: perhaps there is more, for one more. Releases the lock when it makes a thread. */
static void pass_on(pool *p, const tp_slice *s)
{
    if (!s->has_more)
        return;
    if (p->base.looking > 0)
        return; /* somebody will see it */
    if (p->n_idle > 0) {
        uv_cond_signal(&p->idle);
        return;
    }
    /* Two, so that a large pool comes up quickly. */
    for (int i = 0; i < 2 && reserve(p); i++) {
        uv_mutex_unlock(tp_engine_lock(p->engine));
        spawn(p);
        uv_mutex_lock(tp_engine_lock(p->engine));
    }
}

static void serve(worker *w)
{
    pool *p = w->pool;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    p->n_starting--;
    p->base.looking++;
    while (!p->is_stopping) {
        tp_slice *slice = tp_job_take_locked(p->engine, &p->base, &w->agent);
        if (slice) {
            pass_on(p, slice);
            uv_mutex_unlock(lock);
            tp_vm_run(w->agent.vm, slice);
            uv_mutex_lock(lock);
        } else if (!spin(p)) {
            /* Something may have come between the look and here only if the lock was released: spin does that. */
            if (tp_job_can_take_locked(p->engine, &p->base))
                continue;
            if (!p->is_stopping)
                sleep_idle(p);
        }
    }
    uv_mutex_unlock(lock);
}

/* The last thing that a worker does, also when a C function that an item called has ended the thread: then its items fail, and another thread may
 * take its place. */
static void end(void *arg)
{
    worker *w = arg;
    pool *p = w->pool;
    bool is_dead = w->agent.vm != NULL;
    if (is_dead)
        tp_job_lose(&w->agent, tp_vm_crash, NULL);
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (is_dead) {
        w->left = w->agent.vm;
        p->base.looking--;
    }
    p->alive--;
    bool has_work = is_dead && tp_job_can_take_locked(p->engine, &p->base) && reserve(p);
    if (has_work)
        p->alive++; /* the pool is not at rest while it makes a thread */
    w->has_ended = !has_work;
    uv_cond_broadcast(&p->ended);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (!has_work)
        return;
    spawn(p);
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->alive--;
    w->has_ended = true;
    uv_cond_broadcast(&p->ended);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* Opens the worker's state and serves until the pool stops. */
static void live(worker *w)
{
    pool *p = w->pool;
    tp_vm *vm = NULL;
    tp_error err = { 0 };
    if (tp_vm_open(&vm, p->base.host, &w->agent, &err) == 0) {
        serve(w);
        tp_vm_close(vm);
        return;
    }
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->n_starting--;
    p->max = p->alive - 1;
    bool is_last = p->alive == 1; /* nobody else is there to run anything */
    if (is_last)
        p->base.broken = err;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (is_last)
        tp_job_lose_all(p->engine, &p->base);
    else
        warn(p, &err);
}

/* The thread's body. */
static void work(void *arg)
{
    pthread_cleanup_push(end, arg);
    live(arg);
    pthread_cleanup_pop(1);
}

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    int rc = -1;
    pool *p = calloc(1, sizeof *p);
    if (!p)
        return tp_error_oom(err, "worker threads");
    p->base.type = &tp_exec_threads;
    p->base.host = host;
    p->engine = host->engine;
    p->max = (unsigned)host->config.workers;
    if (uv_cond_init(&p->idle)) {
        tp_error_set(err, TP_ESYS, "cannot create a condition variable");
        goto out;
    }
    if (uv_cond_init(&p->ended)) {
        uv_cond_destroy(&p->idle);
        tp_error_set(err, TP_ESYS, "cannot create a condition variable");
        goto out;
    }
    *out = &p->base;
    p = NULL;
    rc = 0;
out:
    free(p);
    return rc;
}

static void start_workers(tp_executor *ex, unsigned n)
{
    pool *p = (pool *)ex;
    bool is_broken = false, is_reserved = false;
    uv_mutex_lock(tp_engine_lock(p->engine));
    atomic_fetch_add_explicit(&p->offers, 1, memory_order_release);
    unsigned looking = p->base.looking > 0 ? (unsigned)p->base.looking : 0;
    unsigned wanted = n > looking ? n - looking : 0;
    for (unsigned i = 0; i < wanted && i < p->n_idle; i++)
        uv_cond_signal(&p->idle);
    if (wanted > p->n_idle)
        is_reserved = reserve(p);
    is_broken = p->base.broken.code != TP_OK && p->alive == 0;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (is_reserved)
        spawn(p);
    else if (is_broken)
        tp_job_lose_all(p->engine, ex);
}

/* Joins the threads that have ended, also while others still run. */
static void join_ended(pool *p)
{
    worker *w;
    do {
        uv_mutex_lock(tp_engine_lock(p->engine));
        w = p->workers;
        while (w && (!w->has_ended || w->is_joined))
            w = w->next;
        uv_mutex_unlock(tp_engine_lock(p->engine));
        if (w) {
            uv_thread_join(&w->thread);
            w->is_joined = true;
        }
    } while (w);
}

static int stop_workers(tp_executor *ex, uint64_t deadline_ns)
{
    pool *p = (pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    p->is_stopping = true;
    uv_cond_broadcast(&p->idle);
    while (p->alive > 0) {
        uint64_t now = uv_hrtime();
        if (deadline_ns == UINT64_MAX)
            uv_cond_wait(&p->ended, lock);
        else if (now >= deadline_ns || uv_cond_timedwait(&p->ended, lock, deadline_ns - now) == UV_ETIMEDOUT)
            break;
    }
    unsigned alive = p->alive;
    uv_mutex_unlock(lock);
    join_ended(p);
    return alive ? -1 : 0;
}

static void close_executor(tp_executor *ex)
{
    pool *p = (pool *)ex;
    while (p->workers) {
        worker *w = p->workers;
        p->workers = w->next;
        tp_vm_close(w->left);
        tp_agent_close(&w->agent);
        free(w);
    }
    uv_cond_destroy(&p->idle);
    uv_cond_destroy(&p->ended);
    free(p);
}

const tp_executor_type tp_exec_threads = {
    .name = "threads",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_LUA,
    .open = open_executor,
    .start = start_workers,
    .stop = stop_workers,
    .close = close_executor,
};
