/* pool.c: threads of this process that take slices. See pool.h.
 *
 * Threads are made one by one when there is work and no idle worker for it, up to config.workers,
 * and kept until the host closes. idle.h has how they wait for work. */
#include "workers/pool.h"

#include "base/invariant.h"
#include "base/thread.h"
#include "runtime/own_loop.h"
#include "workers/idle.h"
#include "workers/lines.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPIN_NS = 30 * 1000,
    STARTING_MAX = 8,
    BLOCKED_MAX = 1000 /* workers that others are made for, since they wait */,
    RETRY_NS = 1000 * 1000 * 1000
};

/* A worker thread and what only that thread may use. Made by spawn, joined and freed by close. */
typedef struct worker {
    /* Set before the thread starts, read-only afterwards. */
    struct pool *pool;
    uv_thread_t thread;

    bool is_joined; /* belongs to the owner, in stop */
    bool is_ending; /* the worker's own: counted in pool->n_ending */
    tp_agent agent; /* the worker's own, with the exceptions in job.h */

    void *state;    /* the worker's own; made by the pool's kind */

    /* ---- guarded by the engine's lock ---- */
    struct worker *next; /* in pool->workers */
    bool has_ended;      /* it is not counted as alive and does not touch anything any more */
    /* the Lua state of a thread that was ended from inside (pthread_exit in a C function): closed
     * with the pool */
    tp_vm *left;
} worker;

typedef struct pool {
    tp_executor base;
    const tp_pool_kind *kind;
    tp_engine *engine;
    tp_idle idle; /* how the threads wait */

    /* ---- guarded by the engine's lock ---- */
    worker *workers;  /* all that were made; freed by close */
    unsigned n;       /* how many */
    unsigned n_reserved; /* threads that are being made */
    unsigned n_starting; /* those, and threads that have not looked for work yet */
    unsigned n_ending;   /* threads that run nothing any more but still exist */
    /* a thread could not be made while others run: no new try before this time; 0: no such failure
     * since one was made */
    uint64_t retry_ns;
} pool;

static void work(void *arg);

/* Locked. How many threads run items, or will. */
static unsigned n_serving(const pool *p)
{
    return p->idle.alive - p->n_ending;
}

/* Locked. May one more thread be made? If so, counts it as starting. */
static bool reserve(pool *p)
{
    TP_ASSERT(tp_engine_is_locked(p->engine));
    unsigned blocked = p->base.blocked < BLOCKED_MAX ? p->base.blocked : BLOCKED_MAX;
    if (p->idle.is_stopping ||
        n_serving(p) + p->n_reserved >= (unsigned)p->base.host->config.workers + blocked ||
        p->n_starting >= STARTING_MAX)
        return false;
    if (p->retry_ns && n_serving(p) > 0 && uv_hrtime() < p->retry_ns)
        return false;
    p->n_starting++;
    p->n_reserved++;
    return true;
}

/* Locked; releases the lock. A thread could not be started, because of err. The next try may
 * succeed, so only its time is kept. The pool runs on with the threads that it has, and says so
 * once; when it has none, the maps that wait for one fail. */
static void miss(pool *p, const tp_error *err)
{
    bool is_first = p->retry_ns == 0, is_empty = n_serving(p) == 0 && p->n_reserved == 0;
    p->retry_ns = uv_hrtime() + RETRY_NS;
    is_first &= !p->idle.is_stopping;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (is_empty) {
        tp_job_lose_all(p->engine, &p->base, err);
        return;
    }
    /* a start that the end of the host interrupts is no miss */
    if (!is_first || tp_engine_is_stopped(p->engine))
        return;
    char line[sizeof err->message + 16];
    int n = snprintf(line, sizeof line, "tidepool: %s\n", err->message);
    tp_host_print(p->base.host, 2, line, (size_t)n);
}

/* Starts the thread that was reserved. Not locked. */
static void spawn(pool *p)
{
    tp_error err = { 0 };
    worker *w = calloc(1, sizeof *w);
    uv_mutex_lock(tp_engine_lock(p->engine));
    int index = (int)p->n + 1;
    unsigned asked = (unsigned)p->base.host->config.workers, started = n_serving(p);
    TP_ASSERT(p->n_reserved > 0 && p->n_starting > 0);
    p->n_reserved--;
    if (!w) {
        tp_error_oom(&err, p->kind->what);
    } else if (tp_agent_open(&w->agent, p->engine, index, &p->base, &err) == 0) {
        w->pool = p;
        int rc = tp_thread_create(&w->thread, p->kind->stack_bytes, work, w);
        if (rc) {
            tp_agent_close(&w->agent);
            tp_error_set(&err, TP_ESYS, "started %u of %u %s: %s", started, asked, p->kind->what,
                         uv_strerror(rc));
        }
    }
    if (err.code == TP_OK) {
        w->next = p->workers;
        p->workers = w;
        p->n++;
        p->idle.alive++;
        p->retry_ns = 0;
        uv_mutex_unlock(tp_engine_lock(p->engine));
    } else {
        p->n_starting--;
        free(w);
        miss(p, &err);
    }
}

/* Locked. A worker has found work: wakes or makes another one if there is more. Releases the lock
 * while it makes a thread. */
static void pass_on(pool *p, const tp_slice *s)
{
    if (!s->has_more || tp_idle_pass_on(&p->idle))
        return;
    /* two, so that a large pool starts up quickly */
    for (int i = 0; i < 2 && reserve(p); i++) {
        uv_mutex_unlock(tp_engine_lock(p->engine));
        spawn(p);
        uv_mutex_lock(tp_engine_lock(p->engine));
    }
}

/* Takes slices until the pool stops, or the worker cannot go on. */
static int serve(worker *w, tp_error *err)
{
    pool *p = w->pool;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    int rc = 0;
    uv_mutex_lock(lock);
    TP_ASSERT(p->n_starting > 0);
    p->n_starting--;
    p->base.looking++;
    uint64_t turn_ns = 0; /* when items that wait are to go on, even though there is work */
    while (!p->idle.is_stopping && rc == 0) {
        tp_slice *slice = tp_job_take_locked(p->engine, &p->base, &w->agent);
        if (slice || w->agent.worker.n_waiting > 0) {
            if (slice)
                pass_on(p, slice);
            uv_mutex_unlock(lock);
            if (!slice) /* an item that waits may have begun jobs that only it can run */
                slice = tp_job_take_awaited(&w->agent);
            if (slice)
                rc = p->kind->run(w->state, slice, err);
            if (slice && rc != TP_POOL_GOES_ON)
                tp_job_finish(slice);
            rc = rc < 0 ? rc : 0;
            if (w->agent.worker.n_waiting > 0 && (!slice || uv_hrtime() >= turn_ns)) {
                p->kind->turn(w->state, slice ? 0 : UINT64_MAX);
                turn_ns = uv_hrtime() + TP_TURN_NS;
            }
            uv_mutex_lock(lock);
        } else if (!tp_idle_spin(&p->idle)) {
            /* While the lock was released, by tp_idle_spin, work may have come. */
            if (tp_job_can_take_locked(p->engine, &p->base))
                continue;
            if (!p->idle.is_stopping)
                tp_idle_sleep(&p->idle, &w->agent.worker);
        }
    }
    if (rc)
        p->base.looking--;
    uv_mutex_unlock(lock);
    return rc;
}

/* The failure of an item whose thread has ended while it ran. For tp_job_lose; `user` is not
 * used. */
static tp_block *describe_end(void *user, tp_slice *slice)
{
    const tp_work *w = &slice->work;
    char message[80];
    (void)user;
    snprintf(message, sizeof message, "worker thread ended during input %.0f",
             (double)(w->block->first + w->at + 1));
    return tp_block_new_failure(TP_KIND_CRASH, message, w->attempt, slice->agent->worker.index);
}

/* The last thing that a worker thread does, even when a C function that an item called has ended
 * the thread. In that case the items that it was running fail, and another thread may be started in
 * its place. */
static void end(void *arg)
{
    worker *w = arg;
    pool *p = w->pool;
    tp_worker *self = &w->agent.worker;
    bool is_dead = self->vm != NULL;
    if (is_dead) {
        for (tp_work *work = self->current; work; work = work->outer)
            tp_lines_end(self, work);
        tp_job_lose(&w->agent, describe_end, NULL);
    }
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (is_dead) {
        w->left = self->vm;
        p->base.looking--;
    }
    TP_ASSERT(!w->has_ended && !self->current);
    if (!w->is_ending)
        p->n_ending++;
    /* while a thread is being made the pool does not count as at rest */
    if (is_dead && tp_job_can_take_locked(p->engine, &p->base) && reserve(p)) {
        uv_mutex_unlock(tp_engine_lock(p->engine));
        spawn(p);
        uv_mutex_lock(tp_engine_lock(p->engine));
    }
    p->n_ending--;
    w->has_ended = true;
    tp_idle_end(&p->idle);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* Locked; releases the lock. The worker cannot go on, because of err. */
static void leave(worker *w, const tp_error *err)
{
    w->pool->n_ending++;
    w->is_ending = true;
    miss(w->pool, err);
}

/* Opens the worker's state and serves until the pool stops. */
static void live(worker *w)
{
    pool *p = w->pool;
    tp_error err = { 0 };
    int rc = p->kind->open(&w->state, &w->agent, &err);
    bool is_open = rc == 0;
    if (is_open) {
        rc = serve(w, &err);
        p->kind->close(w->state);
    }
    if (rc == 0)
        return;
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->n_starting -= !is_open;
    leave(w, &err);
}

/* The thread's body. */
static void work(void *arg)
{
    pthread_cleanup_push(end, arg);
    live(arg);
    pthread_cleanup_pop(1);
}

int tp_pool_open(tp_executor **out, tp_host *host, const tp_executor_type *type,
                 const tp_pool_kind *kind, tp_error *err)
{
    pool *p = calloc(1, sizeof *p);
    if (!p)
        return tp_error_oom(err, kind->what);
    p->base.type = type;
    p->base.host = host;
    p->kind = kind;
    p->engine = host->engine;
    if (tp_idle_open(&p->idle, &p->base, SPIN_NS, err)) {
        free(p);
        return -1;
    }
    *out = &p->base;
    return 0;
}

unsigned tp_pool_alive(tp_executor *ex)
{
    const pool *p = (pool *)ex;
    return n_serving(p) + p->n_reserved;
}

void tp_pool_start(tp_executor *ex, unsigned n)
{
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    bool is_reserved = tp_idle_offer(&p->idle, n) > 0 && reserve(p);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    if (is_reserved)
        spawn(p);
}

/* Joins the threads that have ended, even while others still run. */
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

int tp_pool_stop(tp_executor *ex, uint64_t deadline_ns)
{
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    unsigned alive = tp_idle_stop(&p->idle, deadline_ns);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    join_ended(p);
    return alive ? -1 : 0;
}

void tp_pool_close(tp_executor *ex)
{
    pool *p = (pool *)ex;
    while (p->workers) {
        worker *w = p->workers;
        p->workers = w->next;
        tp_vm_close(w->left);
        tp_own_loop_close(&w->agent);
        tp_agent_close(&w->agent);
        free(w);
    }
    tp_idle_close(&p->idle);
    free(p);
}
