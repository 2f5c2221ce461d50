/* engine.c: what all jobs of a host share: the lock, the lists of jobs and functions that have
 * work, agents; and the operations that every side uses: a job's queue, telling its owner,
 * cancelling. */
#include "engine/job_private.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

/* ---- what must hold ---- */

#ifdef TP_ASSERTS
/* A mutex that knows which thread holds it. libuv ends the process when one thread locks it
 * twice. */
static int init_lock(uv_mutex_t *lock)
{
    pthread_mutexattr_t attributes;
    if (pthread_mutexattr_init(&attributes))
        return -1;
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    int rc = pthread_mutex_init(lock, &attributes);
    pthread_mutexattr_destroy(&attributes);
    return rc;
}

bool tp_engine_is_locked(tp_engine *e)
{
    return pthread_mutex_lock(&e->lock) == EDEADLK;
}

/* Items of the job that slices hold. Asserts that there are as many slices as the job counts. */
static uint64_t count_taken(const tp_job *job)
{
    uint64_t n = 0;
    unsigned slices = 0;
    for (const tp_slice *s = job->engine->slices; s; s = s->next)
        if (s->job == job) {
            n += s->range->count;
            slices++;
        }
    TP_ASSERT(slices == job->running);
    return n;
}

bool tp_job_is_balanced(const tp_job *job)
{
    TP_ASSERT(job->queue ? job->queued > 0 && job->is_ready : job->queued == 0 && !job->is_ready);
    return job->pushed == job->queued + job->n_delayed + count_taken(job) + job->finished;
}

#else
static int init_lock(uv_mutex_t *lock)
{
    return uv_mutex_init(lock);
}
#endif

void tp_wakes_send(const tp_wakes *w)
{
    if (w->owner)
        w->owner->wake(w->owner);
    if (w->takers)
        w->executor->type->start(w->executor, w->takers);
    if (w->beside)
        w->beside->type->start(w->beside, 1);
}

int tp_agent_site(const tp_agent *agent)
{
    return agent->site ? __builtin_ctzll(agent->site) : -1;
}

/* ---- lists; locked ---- */

static void add_ready(tp_job *job)
{
    if (job->is_ready)
        return;
    tp_func *f = job->func;
    tp_engine *e = job->engine;
    TP_ASSERT(tp_engine_is_locked(e));
    if (!f->ready_first) {
        f->next_ready = NULL;
        f->prev_ready = e->ready_last;
        *(e->ready_last ? &e->ready_last->next_ready : &e->ready_first) = f;
        e->ready_last = f;
    }
    job->next_ready = NULL;
    job->prev_ready = f->ready_last;
    *(f->ready_last ? &f->ready_last->next_ready : &f->ready_first) = job;
    f->ready_last = job;
    job->is_ready = true;
}

static void remove_ready(tp_job *job)
{
    if (!job->is_ready)
        return;
    tp_func *f = job->func;
    tp_engine *e = job->engine;
    TP_ASSERT(tp_engine_is_locked(e) &&
              (job->prev_ready ? job->prev_ready->next_ready : f->ready_first) == job);
    TP_ASSERT((job->next_ready ? job->next_ready->prev_ready : f->ready_last) == job);
    *(job->prev_ready ? &job->prev_ready->next_ready : &f->ready_first) = job->next_ready;
    *(job->next_ready ? &job->next_ready->prev_ready : &f->ready_last) = job->prev_ready;
    job->is_ready = false;
    if (!f->ready_first) {
        TP_ASSERT((f->prev_ready ? f->prev_ready->next_ready : e->ready_first) == f);
        TP_ASSERT((f->next_ready ? f->next_ready->prev_ready : e->ready_last) == f);
        *(f->prev_ready ? &f->prev_ready->next_ready : &e->ready_first) = f->next_ready;
        *(f->next_ready ? &f->next_ready->prev_ready : &e->ready_last) = f->prev_ready;
    }
}

void tp_job_rotate(tp_job *job)
{
    if (job->is_ready) {
        remove_ready(job);
        add_ready(job);
    }
}

void tp_job_enqueue(tp_job *job, tp_range *r)
{
    TP_ASSERT(tp_engine_is_locked(job->engine) && r->count > 0 &&
              r->offset + r->count <= r->block->n);
    tp_range_push(&job->queue, r, tp_range_first(r));
    job->queued += r->count;
    job->func->queued += r->count;
    add_ready(job);
}

tp_range *tp_job_dequeue(tp_job *job)
{
    tp_range *r = tp_range_pop(&job->queue);
    TP_ASSERT(tp_engine_is_locked(job->engine) && job->queued >= r->count &&
              job->func->queued >= r->count);
    if (!job->queue)
        remove_ready(job);
    job->queued -= r->count;
    job->func->queued -= r->count;
    return r;
}

static bool is_under(const tp_job *job, const tp_job *ancestor)
{
    while (job && job != ancestor)
        job = job->parent;
    return job != NULL;
}

bool tp_job_is_unwanted(const tp_job *job)
{
    while (job && !job->is_cancelled)
        job = job->parent;
    return job != NULL;
}

tp_waiter *tp_job_tell(tp_job *job)
{
    if (!job->is_awaited)
        return NULL;
    tp_waiter *w = job->waiter;
    TP_ASSERT(tp_engine_is_locked(job->engine));
    job->is_awaited = false;
    if (!job->is_told) {
        job->is_told = true;
        job->next_told = NULL;
        job->prev_told = w->news_last;
        *(w->news_last ? &w->news_last->next_told : &w->news_first) = job;
        w->news_last = job;
    }
    return w;
}

void tp_job_untell(tp_job *job)
{
    tp_waiter *w = job->waiter;
    job->is_awaited = false;
    TP_ASSERT(tp_engine_is_locked(job->engine));
    if (!job->is_told)
        return;
    TP_ASSERT((job->prev_told ? job->prev_told->next_told : w->news_first) == job);
    TP_ASSERT((job->next_told ? job->next_told->prev_told : w->news_last) == job);
    *(job->prev_told ? &job->prev_told->next_told : &w->news_first) = job->next_told;
    *(job->next_told ? &job->next_told->prev_told : &w->news_last) = job->prev_told;
    job->is_told = false;
}

void tp_agent_wake(tp_agent *a)
{
    uv_cond_signal(&a->cond);
    if (a->bell)
        uv_async_send(a->bell);
}

void tp_engine_wake_helpers(tp_engine *e)
{
    for (tp_agent *a = e->helpers; a; a = a->next_helper)
        tp_agent_wake(a);
}

void tp_func_wake_resuming(tp_func *f)
{
    if (f->resuming && f->running < f->limit)
        tp_agent_wake(f->resuming->agent);
}

/* ---- items that are over; locked ---- */

void tp_job_release_inputs(tp_job *job, tp_block *b, uint32_t n)
{
    TP_ASSERT(tp_engine_is_locked(job->engine) && b->open >= n);
    b->open -= n;
    if (b->open == 0) {
        TP_ASSERT(job->bytes >= tp_block_size(b));
        job->bytes -= tp_block_size(b);
        tp_block_free(b);
    }
}

void tp_job_count_kept(tp_job *job, uint32_t n)
{
    if (!job->recorder || job->is_cancelled)
        return;
    job->kept += n;
    if (!job->parent)
        atomic_fetch_add_explicit(&job->engine->kept, n, memory_order_relaxed);
}

void tp_job_skip(tp_job *job, tp_block *b, uint32_t n)
{
    job->finished += n;
    job->skipped += n;
    tp_job_release_inputs(job, b, n);
}

void tp_job_skip_queued(tp_job *job, uint64_t above)
{
    tp_range *keep = NULL;
    while (job->queue) {
        tp_range *r = tp_job_dequeue(job);
        uint64_t first = tp_range_first(r);
        if (first > above) {
            tp_job_skip(job, r->block, r->count);
            free(r);
            continue;
        }
        uint64_t allowed = above - first + 1;
        if (r->count > allowed) {
            tp_job_skip(job, r->block, r->count - (uint32_t)allowed);
            r->count = (uint32_t)allowed;
        }
        r->next = keep;
        keep = r;
    }
    while (keep) {
        tp_range *r = keep;
        keep = r->next;
        tp_job_enqueue(job, r);
    }
}

static void skip_delayed(tp_job *job)
{
    while (job->delayed) {
        tp_range *r = tp_range_pop(&job->delayed);
        job->n_delayed -= r->count;
        tp_job_skip(job, r->block, r->count);
        free(r);
    }
}

void tp_job_stop_slices(tp_job *job, uint64_t above)
{
    for (tp_slice *s = job->engine->slices; s; s = s->next)
        if (s->job == job &&
            (job->is_cancelled || s->work.block->first + tp_work_end(&s->work) - 1 > above))
            atomic_store_explicit(&s->work.ctl[1], 1, memory_order_relaxed);
}

tp_job *tp_engine_oldest_job(const tp_engine *e)
{
    tp_job *j = e->jobs;
    while (j && j->next)
        j = j->next;
    return j;
}

void tp_job_hit_opener(const tp_job *job)
{
    if (!job->parent || !tp_job_is_unwanted(job->parent))
        return;
    for (tp_slice *s = job->engine->slices; s; s = s->next)
        if (s == job->opener && s->hit_at == TP_WORK_UNTOLD)
            s->hit_at = (uint32_t)tp_work_running(&s->work);
}

/* ---- the engine ---- */

int tp_engine_open(tp_engine **out, tp_error *err)
{
    tp_engine *e = calloc(1, sizeof *e);
    if (!e)
        return tp_error_oom(err, "engine");
    if (init_lock(&e->lock)) {
        free(e);
        return tp_error_set(err, TP_ESYS, "cannot create a lock");
    }
    e->next_due = UINT64_MAX;
    *out = e;
    return 0;
}

void tp_engine_close(tp_engine *e)
{
    if (!e)
        return;
    TP_ASSERT(!e->jobs && !e->slices && !e->helpers && !e->ready_first && !e->lost);
    uv_mutex_destroy(&e->lock);
    tp_trace_close(&e->trace);
    free(e->failures);
    free(e);
}

tp_trace *tp_engine_trace(tp_engine *e)
{
    return &e->trace;
}

uv_mutex_t *tp_engine_lock(tp_engine *e)
{
    return &e->lock;
}

void tp_engine_counts(tp_engine *e, uint64_t *delivered, uint64_t *total)
{
    *delivered = atomic_load_explicit(&e->delivered, memory_order_relaxed);
    *total = atomic_load_explicit(&e->total, memory_order_relaxed);
}

uint64_t tp_engine_kept(tp_engine *e)
{
    return atomic_load_explicit(&e->kept, memory_order_relaxed);
}

bool tp_engine_has_recorded(tp_engine *e)
{
    return atomic_load_explicit(&e->has_recorded, memory_order_relaxed);
}

bool tp_engine_records(tp_engine *e)
{
    bool is_some = atomic_load_explicit(&e->recorded, memory_order_relaxed) ||
                   tp_engine_has_recorded(e);
    return is_some && !atomic_load_explicit(&e->unrecorded, memory_order_relaxed);
}

unsigned tp_engine_busy(tp_engine *e, const tp_executor *executor)
{
    uv_mutex_lock(&e->lock);
    unsigned n = executor->busy;
    uv_mutex_unlock(&e->lock);
    return n;
}

const tp_work *tp_engine_running_here(const tp_engine *e)
{
    uv_thread_t here = uv_thread_self();
    for (const tp_slice *s = e->slices; s; s = s->next)
        if (uv_thread_equal(&s->thread, &here) && s->agent->worker.current == &s->work)
            return &s->work;
    return NULL;
}

static void wake_agent(tp_waiter *w)
{
    tp_agent *a = (tp_agent *)((char *)w - offsetof(tp_agent, waiter));
    uv_mutex_lock(&a->engine->lock); /* for `bell` */
    tp_agent_wake(a);
    uv_mutex_unlock(&a->engine->lock);
}

uint32_t tp_engine_new_worker(tp_engine *e)
{
    return atomic_fetch_add_explicit(&e->n_agents, 1, memory_order_relaxed) + 1;
}

int tp_agent_open(tp_agent *a, tp_engine *engine, int index, tp_executor *executor, tp_error *err)
{
    uint32_t id = tp_engine_new_worker(engine);
    *a = (tp_agent){ .worker = { .index = index, .id = id, .trace = &engine->trace },
                     .waiter.wake = wake_agent,
                     .engine = engine,
                     .executor = executor };
    if (uv_cond_init(&a->cond))
        return tp_error_set(err, TP_ESYS, "cannot create a condition variable");
    a->spare = calloc(1, sizeof *a->spare);
    if (!a->spare) {
        uv_cond_destroy(&a->cond);
        return tp_error_oom(err, "worker");
    }
    tp_trace_add_track(&engine->trace, id, executor->type->name, index,
                       executor->type->capabilities & TP_BY_OWNER);
    return 0;
}

void tp_agent_close(tp_agent *a)
{
    while (a->spare) {
        tp_slice *s = a->spare;
        a->spare = s->next;
        tp_buf_free(&s->work.lines.begun[0]);
        tp_buf_free(&s->work.lines.begun[1]);
        free(s);
    }
    TP_ASSERT(!a->bell && a->n_open == 0);
    free(a->open);
    tp_buf_free(&a->worker.tagged);
    uv_cond_destroy(&a->cond);
}

void tp_job_stop_behind(tp_job *job, uint64_t index)
{
    job->stop_at = index;
    tp_job_skip_queued(job, index);
    tp_job_stop_slices(job, index);
}

void tp_job_stop(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    if (!job->is_cancelled) {
        tp_job_stop_behind(job, 0);
        skip_delayed(job);
    }
    uv_mutex_unlock(&job->engine->lock);
}

bool tp_engine_is_quiet(tp_engine *e)
{
    bool is_quiet = true;
    uv_mutex_lock(&e->lock);
    for (const tp_job *j = e->jobs; j; j = j->next)
        is_quiet &= (j->executor->type->capabilities & TP_ISOLATED) ||
                    !(j->running || j->queued || j->n_delayed);
    uv_mutex_unlock(&e->lock);
    return is_quiet;
}

/* ---- cancelling ---- */

void tp_job_cancel_locked(tp_job *job)
{
    TP_ASSERT(tp_engine_is_locked(job->engine));
    if (job->is_cancelled)
        return;
    job->is_cancelled = true;
    if (!(job->ended && job->delivered == job->pushed)) /* else its owner has seen how it ended */
        tp_job_hit_opener(job);
    tp_trace_note(&job->engine->trace, TP_EVENT_CANCEL, job->owner_id, job->terms.number, 0, 0);
    atomic_fetch_add_explicit(&job->engine->cancels, 1, memory_order_relaxed);
    while (job->queue) {
        tp_range *r = tp_job_dequeue(job);
        tp_job_skip(job, r->block, r->count);
        free(r);
    }
    skip_delayed(job);
    tp_job_stop_slices(job, 0);
    if (job->terms.streams)
        uv_cond_broadcast(&job->taken);
    TP_ASSERT(tp_job_is_balanced(job));
    atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
    for (tp_slice *s = job->func->resuming; s; s = s->next_resuming)
        tp_agent_wake(s->agent);
}

void tp_engine_tell_cancelled(tp_engine *e)
{
    tp_engine_wake_helpers(e);
    for (;;) {
        tp_waiter *w = NULL;
        for (tp_job *j = e->jobs; j; j = j->next)
            if (j->is_cancelled && j->is_awaited && (!w || j->waiter == w))
                w = tp_job_tell(j);
        if (!w)
            break;
        uv_mutex_unlock(&e->lock);
        w->wake(w);
        uv_mutex_lock(&e->lock);
    }
}

/* Wakes the owner of one cancelled job. Locked; releases the lock while it wakes. */
static void tell_cancelled(tp_job *job)
{
    tp_engine *e = job->engine;
    tp_engine_wake_helpers(e);
    tp_waiter *w = tp_job_tell(job);
    if (!w)
        return;
    uv_mutex_unlock(&e->lock);
    w->wake(w);
    uv_mutex_lock(&e->lock);
}

/* Cancels `root` and the jobs below it (NULL: all jobs, and those to come) and wakes their owners.
 * Takes the lock. */
static void cancel_all(tp_engine *e, tp_job *root)
{
    uv_mutex_lock(&e->lock);
    e->is_stopped |= !root;
    if (root)
        tp_job_cancel_locked(root); /* root itself: a job that its owner has closed is in no list */
    /* Nothing is nested in it, so the list of all jobs need not be searched: there may be
     * thousands. */
    if (root && root->inside == 0) {
        tell_cancelled(root);
    } else {
        for (tp_job *j = tp_engine_oldest_job(e); j; j = j->prev)
            if (!root || is_under(j, root))
                tp_job_cancel_locked(j);
        tp_engine_tell_cancelled(e);
    }
    uv_mutex_unlock(&e->lock);
}

void tp_engine_cancel_of(tp_engine *e, const tp_waiter *waiter)
{
    uv_mutex_lock(&e->lock);
    for (tp_job *j = tp_engine_oldest_job(e); j; j = j->prev) {
        const tp_job *outermost = j;
        while (outermost->parent)
            outermost = outermost->parent;
        if (outermost->waiter == waiter)
            tp_job_cancel_locked(j);
    }
    tp_engine_tell_cancelled(e);
    uv_mutex_unlock(&e->lock);
}

void tp_job_cancel(tp_job *job)
{
    cancel_all(job->engine, job);
}

bool tp_engine_cancel_job(tp_engine *e, uint64_t number)
{
    uv_mutex_lock(&e->lock);
    tp_job *job = e->jobs;
    while (job && job->terms.number != number)
        job = job->next;
    if (job)
        tp_ref_hold(job);
    uv_mutex_unlock(&e->lock);
    if (!job)
        return false;
    tp_job_cancel(job);
    tp_ref_drop(job);
    return true;
}

void tp_job_starve(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    if (!job->is_cancelled)
        job->is_starved = true;
    uv_mutex_unlock(&job->engine->lock);
    tp_job_cancel(job);
}

bool tp_job_is_starved(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_starved = job->is_starved;
    uv_mutex_unlock(&job->engine->lock);
    return is_starved;
}

void tp_engine_stop(tp_engine *e)
{
    cancel_all(e, NULL);
}

void tp_engine_set_permits(tp_engine *e, const tp_permits *permits)
{
    e->permits = *permits;
}

void tp_engine_note_cancel(tp_engine *e)
{
    atomic_fetch_add_explicit(&e->cancels, 1, memory_order_relaxed);
}

bool tp_engine_is_stopped(tp_engine *e)
{
    uv_mutex_lock(&e->lock);
    bool is_stopped = e->is_stopped;
    uv_mutex_unlock(&e->lock);
    return is_stopped;
}
