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
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SPIN_NS = 30 * 1000,
    STARTING_MAX = 8,
    /* workers beyond config.workers, made in place of those whose items wait
     * (tp_executor.blocked) */
    BLOCKED_MAX = 1000,
    LOOKERS_MAX = 2, /* two, so that one process runs while the owner takes results of the other */
    /* how often a worker looks for work that the owner has left to it, */
    LOOK_NS = 2 * 1000 * 1000,
    /* how long a worker without work sleeps while others take slices of several items, which may
     * need to be seen to (tp_engine_share) */
    WATCH_NS = 2 * TP_SETTLED_NS,
    ASSISTED_NS = 500 * 1000 * 1000, /* until the owner has not waited for this long */
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
    /* is_lent: the owner acts for it on `slice` (see "the owner's help" below); while pool->is_here
     * only the owner touches the slice and the worker's state. is_handed: the worker's thread must
     * go on with the slice */
    bool is_lent, is_handed;
    tp_slice *slice;
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
    /* workers that sleep for LOOK_NS at a time, and can be lent to the owner or are */
    worker *lookers[LOOKERS_MAX];
    unsigned n_lookers;
    worker *watcher;      /* sleeps for WATCH_NS at a time; NULL: none does */
    /* how many slices of several items workers have taken that have a Lua state here; and how many
     * when a watcher last went to sleep */
    uint64_t n_taken, n_watched;
    bool is_here;         /* the owner is between begin_assist and end_assist */
    uint32_t visits;      /* counts calls of begin_assist */
    uint64_t assisted_ns; /* when it last waited */
    /* a thread could not be made while others run: no new try before this time; 0: no such failure
     * since one was made */
    uint64_t retry_ns;

    /* ---- the owner's own ---- */
    worker *mine[LOOKERS_MAX]; /* while `is_here`: the workers that are lent to it */
    unsigned n_mine;
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

/* Locked; releases the lock. A thread could not be started, because of err. The pool runs on with
 * the threads that it has, says so once, and tries again after RETRY_NS; when it has none, the maps
 * that wait for one fail. */
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

/* Locked. The worker becomes one of the lookers. */
static void begin_looking(worker *w)
{
    pool *p = w->pool;
    p->lookers[p->n_lookers++] = w;
    p->base.defers = true;
}

/* Locked. Does nothing when it does not look. */
static void end_looking(worker *w)
{
    pool *p = w->pool;
    for (unsigned i = 0; i < p->n_lookers; i++)
        if (p->lookers[i] == w)
            p->lookers[i] = p->lookers[--p->n_lookers];
    p->base.defers = p->n_lookers > 0;
}

/* Locked. A worker was woken. If that was a looker, it will be busy, so another idle one may have
 * to look instead. */
static void note_woken(pool *p)
{
    for (unsigned i = p->n_lookers; i-- > 0;)
        if (!p->lookers[i]->is_lent && !p->lookers[i]->agent.is_asleep)
            end_looking(p->lookers[i]);
}

/* Locked. There is work for one more worker: wakes or makes one. Releases the lock while it makes a
 * thread. */
static void pass_on(pool *p)
{
    bool is_passed = tp_idle_pass_on(&p->idle);
    note_woken(p);
    if (is_passed)
        return;
    /* each thread starts up to two more, so that a large pool starts up quickly */
    for (int i = 0; i < 2 && reserve(p); i++) {
        uv_mutex_unlock(tp_engine_lock(p->engine));
        spawn(p);
        uv_mutex_lock(tp_engine_lock(p->engine));
    }
}

/* ---- the owner's help ----
 *
 * Where workers are processes, their threads only hand items over and take results back. For a
 * little work the way from the owner to such a thread, to the process, back to the thread and to
 * the owner takes longer than the work, the more so where there are fewer processors than threads
 * that spin. So an owner that waits acts for workers that sleep, which are lent to it. What the
 * owner has begun and does not wait for any more goes on at the worker's own thread: at once when
 * the owner says so (end_assist), else when that thread has looked twice without the owner having
 * been there in between. Only workers that look are lent. */

/* Locked. Should a worker that has nothing to do be the one that looks: does the owner assist? */
static bool wants_looker(const pool *p)
{
    /* not while the host is traced: events must come from the workers' own threads */
    return p->assisted_ns && p->n_lookers < LOOKERS_MAX &&
           uv_hrtime() - p->assisted_ns < ASSISTED_NS &&
           !tp_trace_is_on(tp_engine_trace(p->engine));
}

/* Locked. Sleeps until there may be work, or the worker's thread is needed. True when it is a
 * looker, so that there may be work for which nobody was woken. */
static bool rest(worker *w)
{
    pool *p = w->pool;
    bool looks = wants_looker(p);
    if (looks)
        begin_looking(w);
    bool watches = !p->watcher && p->n_taken != p->n_watched;
    if (watches) {
        p->watcher = w;
        p->n_watched = p->n_taken;
    }
    uint64_t now = looks || watches ? uv_hrtime() : 0;
    tp_idle_sleep(&p->idle, &w->agent,
                  looks ? now + LOOK_NS : watches ? now + WATCH_NS : UINT64_MAX);
    if (watches)
        p->watcher = NULL;
    if (!w->is_lent)
        end_looking(w);
    return looks;
}

/* Locked. Must the thread of the worker, which is lent, wait, since the owner sees to the slice?
 * `seen` is what `visits` was when it last looked. */
static bool is_seen_to(const worker *w, uint32_t seen)
{
    const pool *p = w->pool;
    return !w->is_handed && (p->is_here || (!p->idle.is_stopping && p->visits != seen));
}

/* Locked. The worker is lent: waits until its thread must go on with the slice, which this returns,
 * or until it is not lent any more: NULL. */
static tp_slice *await_return(worker *w)
{
    pool *p = w->pool;
    uint32_t seen = p->visits - 1;
    p->base.looking--;
    while (w->is_lent && is_seen_to(w, seen)) {
        seen = p->visits;
        uv_cond_timedwait(&w->agent.cond, tp_engine_lock(p->engine), LOOK_NS);
    }
    end_looking(w);
    if (!w->is_lent) {
        tp_idle_remove(&p->idle, &w->agent);
        p->base.looking++;
        return NULL;
    }
    tp_slice *slice = w->slice;
    w->slice = NULL;
    w->is_lent = w->is_handed = false;
    return slice;
}

/* Locked. The worker has taken the slice. When one of its items takes long, others must see to the
 * rest: one that sleeps is woken, so that it watches. */
static void have_watched(worker *w, const tp_slice *slice)
{
    pool *p = w->pool;
    if (slice->work.count == 1 || !w->agent.worker.vm)
        return;
    p->n_taken++;
    if (!p->watcher)
        tp_idle_pass_on(&p->idle);
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
    bool has_looked = false; /* see `rest` */
    uint64_t turn_ns = 0; /* when items that wait are to go on, even though there is work */
    while ((!p->idle.is_stopping && rc == 0) || w->is_lent) {
        bool is_lent = w->is_lent;
        tp_slice *slice = is_lent ? await_return(w)
                                  : tp_job_take_locked(p->engine, &p->base, &w->agent);
        has_looked |= is_lent;
        if (slice || w->agent.worker.n_waiting > 0) {
            /* Even for a little work: no worker was woken for what came while this one looked. */
            if (slice && (slice->has_more ||
                          (has_looked && tp_job_can_take_locked(p->engine, &p->base))))
                pass_on(p);
            has_looked = false;
            if (slice)
                have_watched(w, slice);
            uv_mutex_unlock(lock);
            if (!slice) /* an open item may have begun jobs that only this agent can run */
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
        } else if (wants_looker(p) || !tp_idle_spin(&p->idle)) {
            uv_mutex_unlock(lock);
            tp_engine_share(p->engine);
            uv_mutex_lock(lock);
            /* While the lock was released work may have come. */
            if (tp_job_can_take_locked(p->engine, &p->base))
                continue;
            if (!p->idle.is_stopping)
                has_looked = rest(w);
        }
    }
    if (rc)
        p->base.looking--;
    uv_mutex_unlock(lock);
    return rc;
}

/* Locked. The thread of the worker, which is lent, must go on with the slice. */
static void hand_over(worker *w)
{
    w->is_handed = true;
    end_looking(w);
    uv_cond_signal(&w->agent.cond);
}

/* Locked. Takes the next slice on behalf of the worker, which is lent, and begins it; when there is
 * none, the worker is not lent any more. */
static void begin_next(worker *w)
{
    pool *p = w->pool;
    TP_ASSERT(p->is_here && w->is_lent && !w->slice);
    p->base.looking++; /* the worker counts as awake while the owner acts for it */
    tp_slice *slice = tp_job_take_locked(p->engine, &p->base, &w->agent);
    if (!slice) {
        p->base.looking--;
        w->is_lent = false; /* it remains a looker */
        tp_idle_add(&p->idle, &w->agent);
        return;
    }
    w->slice = slice;
    slice->thread = w->thread;
    if (slice->has_more)
        pass_on(p);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    bool is_begun = p->kind->begin(w->state, slice);
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (!is_begun)
        hand_over(w);
}

/* Locked. Fills in `mine`: the workers that are lent to the owner. */
static void count_mine(pool *p)
{
    p->n_mine = 0;
    for (unsigned i = 0; i < p->n_lookers; i++)
        if (p->lookers[i]->is_lent)
            p->mine[p->n_mine++] = p->lookers[i];
}

/* Locked. Begins what is queued, for workers that look and are not lent yet. */
static void borrow(pool *p)
{
    for (unsigned i = p->n_lookers; i-- > 0;) {
        worker *w = p->lookers[i];
        if (w->is_lent || !w->agent.is_asleep || !tp_job_can_take_locked(p->engine, &p->base))
            continue;
        tp_idle_remove(&p->idle, &w->agent);
        w->is_lent = true;
        begin_next(w); /* releases the lock: `lookers` may change */
        i = i < p->n_lookers ? i : p->n_lookers;
    }
    count_mine(p);
}

void tp_pool_begin_assist(tp_executor *ex, bool waits)
{
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (waits)
        p->assisted_ns = uv_hrtime();
    p->visits++;
    p->is_here = true;
    borrow(p);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

/* For a worker that is lent: if what was begun is over, finishes the slice and begins the next
 * one. */
static void go_on(worker *w)
{
    pool *p = w->pool;
    bool is_over = p->kind->end(w->state, w->slice);
    if (is_over)
        tp_job_finish(w->slice);
    uv_mutex_lock(tp_engine_lock(p->engine));
    if (is_over) {
        p->base.looking--; /* tp_job_finish counted it as awake */
        w->slice = NULL;
        begin_next(w);
    } else {
        hand_over(w);
    }
    count_mine(p);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

void tp_pool_assist(tp_executor *ex)
{
    pool *p = (pool *)ex;
    for (unsigned i = p->n_mine; i-- > 0;)
        if (i < p->n_mine && p->kind->is_over(p->mine[i]->state))
            go_on(p->mine[i]);
}

void tp_pool_end_assist(tp_executor *ex, bool comes_back)
{
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->is_here = false;
    for (unsigned i = 0; i < p->n_mine && !comes_back; i++)
        hand_over(p->mine[i]);
    p->n_mine = 0;
    uv_mutex_unlock(tp_engine_lock(p->engine));
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
    note_woken(p);
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
    for (unsigned i = 0; i < p->n_lookers; i++) /* those that are lent do not count as asleep */
        uv_cond_signal(&p->lookers[i]->agent.cond);
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
