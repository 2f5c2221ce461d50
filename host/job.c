/* job.c: claiming, order, window, limits, retries and cancellation of all jobs of a host.
 *
 * See job.h for the contract. Everything below that is not marked otherwise is guarded by engine->lock; functions whose comment
 * says "locked" are called with it held. Wake-ups are decided under the lock and done after it. */
#include "job.h"

#include "exec.h"

#include <math.h>
#include <stdlib.h>

/* Consecutive items of one input block that nobody has taken, or that one slice has. */
typedef struct tp_range {
    struct tp_range *next;
    tp_block *block;
    uint32_t offset, count;
    uint32_t attempt; /* from 1 */
    uint64_t due_ns;  /* in job->delayed: not before */
} tp_range;

struct tp_job {
    tp_ref ref; /* owners: the owner, each slice, each job nested in it */

    /* Set by tp_job_open, read-only afterwards. */
    tp_engine *engine;
    tp_func *func;
    tp_image *image;
    tp_ref *kernel;
    tp_ref *_Atomic reducer; /* set by the owner, once; released there, acquired by workers */
    tp_executor *fallback;
    tp_waiter *waiter;
    tp_job *parent; /* the job inside whose item it was started, held; NULL */
    unsigned depth;
    bool ordered, keep_going, discard, is_cheap;
    uint64_t window;
    tp_retries retries;
    tp_returns returns;
    bool lends;
    uint64_t lent;
    int64_t total;
    uint64_t opened_ns;

    /* ---- the owner's own ---- */
    tp_block **early;   /* results that came before their turn: a binary heap, the block with the lowest index first */
    size_t n_early, early_room;
    uint64_t head;      /* index of the next result to give out */
    tp_block *fifo, **fifo_end; /* unordered jobs: results as they came */
    uint64_t delivered; /* results given out */
    uint64_t pushed;    /* written by the owner under the lock */
    uint64_t read_ahead;

    /* ---- guarded by engine->lock ---- */
    tp_job *next, *prev;             /* in engine->jobs */
    tp_job *next_ready, *prev_ready; /* in func->ready */
    bool is_ready;
    tp_range *queue_first, *queue_last;
    tp_range *delayed; /* waiting for their retry, next first */
    tp_block *done, **done_end;
    uint64_t queued, finished, failed, retried, skipped;
    uint64_t awaited; /* what head was when the owner looked last */
    uint64_t stop_at; /* no item with a higher index is begun: one with this index failed */
    uint64_t devices; /* those that may run it, as bits; 0: it needs none */
    size_t bytes;     /* inputs that are not finished and results that are not given out */
    unsigned running; /* slices */
    uint32_t last_count; /* items of the last slice */
    double item_ns;      /* what an item takes; 0: not known */
    uint64_t asked_ns;   /* when the owner last asked for results */
    uint64_t random;     /* for the jitter of retries */
    bool ended, is_cancelled, is_reading, drained;
    bool is_starved; /* cancelled for want of memory */
    tp_executor *executor;
    bool is_awaited; /* the owner wants its waiter woken */
    bool is_told;    /* it has been, and the job is in waiter->news */
    const void *helper; /* of the agent that waits for it and runs items meanwhile, see helper_id; NULL: none does */
    tp_job *next_told, *prev_told;

    _Atomic uint32_t news; /* written under the lock (release), read by the owner as it spins (acquire) */
    _Atomic bool is_held_back, is_asked; /* written by the owner; hints but for what is read under the lock */
};

struct tp_engine {
    uv_mutex_t lock;
    tp_job *jobs;                          /* all that have an owner */
    tp_func *ready_first, *ready_last;     /* functions that have jobs with queued inputs */
    tp_slice *slices;                      /* all that are running */
    tp_agent *helpers;                     /* agents that sleep for a nested job */
    uint64_t next_due;                     /* the earliest retry, UINT64_MAX: none */
    bool is_stopped;
    _Atomic uint64_t delivered, total; /* relaxed; sums over jobs without a parent */
};

/* What to wake after the lock is released. */
typedef struct wakes {
    tp_waiter *owner;
    tp_executor *executor;
    unsigned takers;
} wakes;

static void wake(const wakes *w)
{
    if (w->owner)
        w->owner->wake(w->owner);
    if (w->takers)
        w->executor->type->start(w->executor, w->takers);
}

/* ---- lists; locked ---- */

static void add_ready(tp_job *job)
{
    if (job->is_ready)
        return;
    tp_func *f = job->func;
    tp_engine *e = job->engine;
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
    *(job->prev_ready ? &job->prev_ready->next_ready : &f->ready_first) = job->next_ready;
    *(job->next_ready ? &job->next_ready->prev_ready : &f->ready_last) = job->prev_ready;
    job->is_ready = false;
    if (!f->ready_first) {
        *(f->prev_ready ? &f->prev_ready->next_ready : &e->ready_first) = f->next_ready;
        *(f->next_ready ? &f->next_ready->prev_ready : &e->ready_last) = f->prev_ready;
    }
}

/* To the end of the line, so that jobs and functions take turns. */
static void rotate(tp_job *job)
{
    if (job->is_ready) {
        remove_ready(job);
        add_ready(job);
    }
}

static void enqueue(tp_job *job, tp_range *r, bool first)
{
    if (first || !job->queue_first) {
        r->next = job->queue_first;
        job->queue_first = r;
        if (!r->next)
            job->queue_last = r;
    } else {
        r->next = NULL;
        job->queue_last->next = r;
        job->queue_last = r;
    }
    job->queued += r->count;
    job->func->queued += r->count;
    add_ready(job);
}

static tp_range *dequeue(tp_job *job)
{
    tp_range *r = job->queue_first;
    job->queue_first = r->next;
    if (!r->next) {
        job->queue_last = NULL;
        remove_ready(job);
    }
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

/* The job has news: takes it to the waiter that wants to know, which the caller then wakes without the lock; NULL when none does. */
static tp_waiter *tell(tp_job *job)
{
    if (!job->is_awaited)
        return NULL;
    tp_waiter *w = job->waiter;
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

/* The owner knows, or does not want to any more. */
static void untell(tp_job *job)
{
    tp_waiter *w = job->waiter;
    job->is_awaited = false;
    if (!job->is_told)
        return;
    *(job->prev_told ? &job->prev_told->next_told : &w->news_first) = job->next_told;
    *(job->next_told ? &job->next_told->prev_told : &w->news_last) = job->prev_told;
    job->is_told = false;
}

static void wake_helpers(tp_engine *e)
{
    for (tp_agent *a = e->helpers; a; a = a->next_helper)
        uv_cond_signal(&a->cond);
}

static void wake_resuming(tp_func *f)
{
    if (f->resuming && f->running < f->limit)
        uv_cond_signal(&f->resuming->cond);
}

/* ---- memory; locked unless said otherwise ---- */

static void free_job(tp_ref *ref) /* any thread, not locked: nobody else has it */
{
    tp_job *job = (tp_job *)ref;
    tp_block_free_list(job->done);
    tp_block_free_list(job->fifo);
    for (size_t i = 0; i < job->n_early; i++)
        tp_block_free(job->early[i]);
    free(job->early);
    for (uint32_t i = 0; i < job->returns.columns; i++)
        tp_ref_drop(job->returns.array[i]);
    tp_ref_drop(job->func);
    tp_ref_drop(job->image);
    tp_ref_drop(job->kernel);
    tp_ref_drop(atomic_load_explicit(&job->reducer, memory_order_relaxed));
    tp_ref_drop(job->parent);
    free(job);
}

static const tp_ref_type job_type = { "tidepool.job", free_job };

/* Items of an input block have their result; the last one frees it. */
static void release_inputs(tp_job *job, tp_block *b, uint32_t n)
{
    b->open -= n;
    if (b->open == 0) {
        job->bytes -= tp_block_size(b);
        tp_block_free(b);
    }
}

/* Items that will not be run: they count as finished. */
static void skip(tp_job *job, tp_block *b, uint32_t n)
{
    job->finished += n;
    job->skipped += n;
    release_inputs(job, b, n);
}

static void skip_queued(tp_job *job, uint64_t above)
{
    /* Queued ranges are nearly, not exactly, in order: look at all. */
    tp_range *keep = NULL, **end = &keep;
    while (job->queue_first) {
        tp_range *r = dequeue(job);
        if (r->block->first + r->offset > above) {
            skip(job, r->block, r->count);
            free(r);
        } else {
            uint64_t allowed = above - (r->block->first + r->offset) + 1;
            if (r->count > allowed && allowed > 0) {
                skip(job, r->block, r->count - (uint32_t)allowed);
                r->count = (uint32_t)allowed;
            }
            *end = r;
            end = &r->next;
        }
    }
    *end = NULL;
    while (keep) {
        tp_range *r = keep;
        keep = r->next;
        enqueue(job, r, false);
    }
}

static void skip_delayed(tp_job *job)
{
    while (job->delayed) {
        tp_range *r = job->delayed;
        job->delayed = r->next;
        skip(job, r->block, r->count);
        free(r);
    }
}

/* Running slices whose items beyond `above` are not wanted any more return after their current item. */
static void stop_slices(tp_job *job, uint64_t above)
{
    for (tp_slice *s = job->engine->slices; s; s = s->next)
        if (s->job == job && (job->is_cancelled || s->block->first + s->offset + s->count - 1 > above))
            atomic_store_explicit(&s->ctl[1], 1, memory_order_relaxed);
}

/* ---- the engine ---- */

int tp_engine_open(tp_engine **out, tp_error *err)
{
    tp_engine *e = calloc(1, sizeof *e);
    if (!e)
        return tp_error_oom(err, "engine");
    if (uv_mutex_init(&e->lock)) {
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
    uv_mutex_destroy(&e->lock);
    free(e);
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

unsigned tp_engine_busy(tp_engine *e, const tp_executor *executor)
{
    unsigned n = 0;
    uv_mutex_lock(&e->lock);
    for (const tp_slice *s = e->slices; s; s = s->next)
        n += !s->outer && s->agent->executor == executor; /* those inside are of an agent that waits */
    uv_mutex_unlock(&e->lock);
    return n;
}

static void wake_agent(tp_waiter *w)
{
    uv_cond_signal(&((tp_agent *)w)->cond);
}

int tp_agent_open(tp_agent *a, tp_engine *engine, int index, tp_executor *executor, tp_error *err)
{
    *a = (tp_agent){ .waiter.wake = wake_agent, .engine = engine, .index = index, .executor = executor };
    if (uv_cond_init(&a->cond))
        return tp_error_set(err, TP_ESYS, "cannot create a condition variable");
    a->spare = calloc(1, sizeof *a->spare);
    if (!a->spare) {
        uv_cond_destroy(&a->cond);
        return tp_error_oom(err, "worker");
    }
    return 0;
}

void tp_agent_close(tp_agent *a)
{
    while (a->spare) {
        tp_slice *s = a->spare;
        a->spare = s->outer;
        free(s);
    }
    tp_lines_free(&a->lines);
    uv_cond_destroy(&a->cond);
}

/* ---- cancelling ---- */

/* Locked. Marks one job; its owner is to be woken by the caller. */
static void cancel(tp_job *job)
{
    if (job->is_cancelled)
        return;
    job->is_cancelled = true;
    while (job->queue_first) {
        tp_range *r = dequeue(job);
        skip(job, r->block, r->count);
        free(r);
    }
    skip_delayed(job);
    stop_slices(job, 0);
    atomic_fetch_add_explicit(&job->news, 1, memory_order_release);
    for (tp_agent *a = job->func->resuming; a; a = a->next_resuming)
        uv_cond_signal(&a->cond);
}

/* Cancels the jobs under `root` (NULL: all) that were offered to `ex` (NULL: any) and wakes their owners. Takes the lock. */
static void cancel_all(tp_engine *e, tp_job *root, const tp_executor *ex)
{
    uv_mutex_lock(&e->lock);
    if (root)
        cancel(root); /* it may have no owner any more and be in no list */
    for (tp_job *j = e->jobs; j; j = j->next)
        if ((!root || is_under(j, root)) && (!ex || j->executor == ex))
            cancel(j);
    wake_helpers(e);
    /* An owner that sleeps on a loop is woken without the lock: one at a time, since the list may change. */
    for (;;) {
        tp_job *j = e->jobs;
        while (j && !(j->is_cancelled && j->is_awaited))
            j = j->next;
        if (!j)
            break;
        tp_waiter *w = tell(j);
        uv_mutex_unlock(&e->lock);
        w->wake(w);
        uv_mutex_lock(&e->lock);
    }
    uv_mutex_unlock(&e->lock);
}

void tp_job_cancel(tp_job *job)
{
    cancel_all(job->engine, job, NULL);
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
    uv_mutex_lock(&e->lock);
    e->is_stopped = true;
    uv_mutex_unlock(&e->lock);
    cancel_all(e, NULL, NULL);
}

bool tp_engine_is_stopped(tp_engine *e)
{
    uv_mutex_lock(&e->lock);
    bool is_stopped = e->is_stopped;
    uv_mutex_unlock(&e->lock);
    return is_stopped;
}

/* ---- the owner's side ---- */

int tp_job_open(tp_job **out, tp_engine *e, const tp_job_config *c, tp_error *err)
{
    tp_job *parent = c->owner && c->owner->current ? c->owner->current->job : NULL;
    unsigned depth = parent ? parent->depth + 1 : 0;
    if (depth > TP_NESTING_MAX)
        return tp_error_set(err, TP_ELIMIT,
                            "maps are nested deeper than %d: does '%s' call itself through map without an end?",
                            TP_NESTING_MAX, c->func->name);
    tp_job *job = calloc(1, sizeof *job);
    if (!job)
        return tp_error_oom(err, "job");
    tp_ref_init(&job->ref, &job_type);
    job->engine = e;
    job->func = tp_ref_hold(c->func);
    job->image = c->image ? tp_ref_hold(c->image) : NULL;
    job->kernel = c->kernel ? tp_ref_hold(c->kernel) : NULL;
    job->devices = c->devices;
    job->lends = c->lends;
    job->lent = c->lent;
    job->executor = c->executor;
    job->fallback = c->fallback;
    job->waiter = c->waiter;
    job->parent = parent ? tp_ref_hold(parent) : NULL;
    job->depth = depth;
    job->ordered = c->ordered;
    job->keep_going = c->keep_going;
    job->discard = c->discard;
    job->is_cheap = c->is_cheap;
    job->window = c->window ? c->window : TP_WINDOW_MAX;
    job->read_ahead = job->is_cheap ? job->window : 16;
    job->retries = c->retries;
    job->returns = c->returns;
    for (uint32_t i = 0; i < job->returns.columns; i++)
        if (job->returns.array[i])
            tp_ref_hold(job->returns.array[i]);
    job->total = c->total;
    job->stop_at = UINT64_MAX;
    job->opened_ns = uv_hrtime();
    job->fifo_end = &job->fifo;
    job->done_end = &job->done;
    uv_mutex_lock(&e->lock);
    job->random = uv_hrtime() | 1;
    job->item_ns = job->func->item_ns;
    job->last_count = job->item_ns > 0 ? 1 << 20 : 0;
    job->is_cancelled = e->is_stopped || (parent && tp_slice_is_cancelled(c->owner->current));
    job->next = e->jobs;
    if (e->jobs)
        e->jobs->prev = job;
    e->jobs = job;
    uv_mutex_unlock(&e->lock);
    if (!parent && job->total > 0)
        atomic_fetch_add_explicit(&e->total, (uint64_t)job->total, memory_order_relaxed);
    *out = job;
    return 0;
}

void tp_job_close(tp_job *job)
{
    tp_engine *e = job->engine;
    if (!tp_job_is_over(job))
        cancel_all(e, job, NULL);
    uv_mutex_lock(&e->lock);
    untell(job);
    *(job->prev ? &job->prev->next : &e->jobs) = job->next;
    if (job->next)
        job->next->prev = job->prev;
    uv_mutex_unlock(&e->lock);
    if (!job->parent) {
        if (job->total > 0)
            atomic_fetch_sub_explicit(&e->total, (uint64_t)job->total, memory_order_relaxed);
        atomic_fetch_sub_explicit(&e->delivered, job->delivered, memory_order_relaxed);
    }
    tp_ref_drop(job);
}

/* Locked. Room for less than this is none yet: where the window is full, inputs would come in as small blocks as results are given out, and their
 * results again, for ever (the silly window syndrome of RFC 813). Inputs worth a slice, but never much of the window. */
static uint64_t least_room(const tp_job *job, uint64_t limit)
{
    double n = job->item_ns > 0 ? TP_SLICE_NS / job->item_ns : 1;
    return n < 1 ? 1 : n < (double)(limit / 16) ? (uint64_t)n : limit / 16 + 1;
}

/* Locked. */
static uint64_t room(const tp_job *job)
{
    bool is_full = job->bytes > TP_BYTES_MAX && job->queued > 0;
    bool is_stopping = job->is_cancelled || job->stop_at != UINT64_MAX;
    uint64_t limit = job->read_ahead < job->window ? job->read_ahead : job->window;
    uint64_t in_flight = job->pushed - job->delivered;
    return is_full || is_stopping || in_flight + least_room(job, limit) > limit ? 0 : limit - in_flight;
}

uint64_t tp_job_room(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    /* The workers had nothing left to take: reading further ahead would have kept them busy. */
    if (job->drained && job->read_ahead < job->window) {
        job->read_ahead *= 2;
        job->drained = false;
    }
    uint64_t n = room(job);
    uv_mutex_unlock(&job->engine->lock);
    return n;
}

bool tp_job_is_idle(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool reads_further = job->drained && job->read_ahead < job->window;
    bool is_idle = job->is_cancelled ||
                   (job->pushed == job->finished && (job->ended || (!reads_further && room(job) == 0)));
    uv_mutex_unlock(&job->engine->lock);
    return is_idle;
}

/* Locked. How many workers the queue is worth: by time where it is known, else one (who wakes the next). */
static unsigned takers(const tp_job *job)
{
    if (job->queued == 0)
        return 0;
    double ns = (double)job->queued * job->item_ns;
    double n = job->item_ns > 0 && ns > TP_SMALL_NS ? 1 + ns / TP_SLICE_NS : 1;
    return n < (double)job->queued ? (unsigned)n : (unsigned)job->queued;
}

int tp_job_push(tp_job *job, tp_block *b)
{
    tp_engine *e = job->engine;
    tp_range *r = b->n ? malloc(sizeof *r) : NULL;
    bool is_queued = r != NULL;
    b->first = job->pushed;
    b->open = b->n;
    wakes w = { 0 };
    if (b->n == 0) {
        tp_block_free(b);
        return 0;
    }
    uv_mutex_lock(&e->lock);
    job->pushed += b->n;
    job->bytes += tp_block_size(b);
    job->drained = false;
    if (!r || job->is_cancelled || job->stop_at < b->first) {
        if (!r)
            cancel(job); /* nothing of it can be run */
        skip(job, b, b->n);
        free(r);
    } else {
        *r = (tp_range){ .block = b, .count = b->n, .attempt = 1 };
        enqueue(job, r, false);
        w.executor = job->executor;
        w.takers = takers(job);
        wake_helpers(e);
    }
    uv_mutex_unlock(&e->lock);
    wake(&w);
    return is_queued ? 0 : -1;
}

void tp_job_end(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    job->ended = true;
    if (job->total < 0 && !job->parent)
        atomic_fetch_add_explicit(&job->engine->total, job->pushed, memory_order_relaxed);
    if (job->total < 0)
        job->total = (int64_t)job->pushed;
    uv_mutex_unlock(&job->engine->lock);
}

/* Owner. Adds a block to those that came before their turn. -1 when out of memory. */
static int push_early(tp_job *job, tp_block *b)
{
    if (job->n_early == job->early_room) {
        size_t room = job->early_room ? 2 * job->early_room : 16;
        tp_block **early = realloc(job->early, room * sizeof *early);
        if (!early)
            return -1;
        job->early = early;
        job->early_room = room;
    }
    size_t at = job->n_early++;
    for (; at > 0 && job->early[(at - 1) / 2]->first > b->first; at = (at - 1) / 2)
        job->early[at] = job->early[(at - 1) / 2];
    job->early[at] = b;
    return 0;
}

/* Owner. Takes the block whose turn it is out of them; NULL when it is not there. */
static tp_block *pop_early(tp_job *job)
{
    if (job->n_early == 0 || job->early[0]->first != job->head)
        return NULL;
    tp_block *b = job->early[0], *last = job->early[--job->n_early];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < job->n_early; at = child) {
        if (child + 1 < job->n_early && job->early[child + 1]->first < job->early[child]->first)
            child++;
        if (job->early[child]->first >= last->first)
            break;
        job->early[at] = job->early[child];
    }
    job->early[at] = last;
    return b;
}

/* Owner. Puts what has come in its place. */
static int place(tp_job *job, tp_block *b)
{
    while (b) {
        tp_block *next = b->next;
        b->next = NULL;
        if (!job->ordered || b->kind == TP_BLOCK_RETRY) {
            *job->fifo_end = b;
            job->fifo_end = &b->next;
        } else if (push_early(job, b)) {
            tp_block_free(b);
            tp_block_free_list(next);
            return -1;
        }
        b = next;
    }
    return 0;
}

static tp_block *pop(tp_job *job)
{
    tp_block *b = job->fifo;
    if (b) {
        job->fifo = b->next;
        if (!job->fifo)
            job->fifo_end = &job->fifo;
    } else {
        b = pop_early(job);
    }
    return b;
}

tp_block *tp_job_next(tp_job *job, bool *err_memory)
{
    tp_engine *e = job->engine;
    wakes w = { 0 };
    *err_memory = false;
    tp_block *b = pop(job);
    uv_mutex_lock(&e->lock);
    while (!b && job->done) {
        tp_block *done = job->done;
        job->done = NULL;
        job->done_end = &job->done;
        uv_mutex_unlock(&e->lock);
        int rc = place(job, done);
        b = rc ? NULL : pop(job);
        uv_mutex_lock(&e->lock);
        if (rc) {
            *err_memory = true;
            break;
        }
    }
    if (b) {
        job->bytes -= tp_block_size(b);
        b->next = NULL;
        if (b->kind != TP_BLOCK_RETRY) {
            job->head += b->n;
            job->delivered += b->n;
        }
    }
    job->awaited = job->head;
    uint64_t now = uv_hrtime();
    atomic_store_explicit(&job->is_asked, true, memory_order_relaxed);
    bool was_paused = job->is_reading && now - job->asked_ns > TP_PAUSE_NS;
    job->asked_ns = now;
    if (was_paused || (b && job->bytes > TP_BYTES_MAX / 2)) {
        w.executor = job->executor;
        w.takers = takers(job);
    }
    uv_mutex_unlock(&e->lock);
    if (b && !job->parent && b->kind != TP_BLOCK_RETRY)
        atomic_fetch_add_explicit(&e->delivered, b->n, memory_order_relaxed);
    wake(&w);
    return b;
}

bool tp_job_is_over(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_over = job->ended && job->delivered == job->pushed;
    uv_mutex_unlock(&job->engine->lock);
    return is_over;
}

bool tp_job_is_cancelled(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_cancelled = job->is_cancelled;
    uv_mutex_unlock(&job->engine->lock);
    return is_cancelled;
}

void tp_job_set_reading(tp_job *job, bool reading)
{
    uv_mutex_lock(&job->engine->lock);
    job->is_reading = reading;
    atomic_store_explicit(&job->is_asked, true, memory_order_relaxed);
    job->asked_ns = uv_hrtime();
    uv_mutex_unlock(&job->engine->lock);
}

void tp_job_get_counts(tp_job *job, tp_job_counts *c)
{
    uv_mutex_lock(&job->engine->lock);
    *c = (tp_job_counts){ .pushed = job->pushed,
                          .finished = job->finished,
                          .failed = job->failed,
                          .delivered = job->delivered,
                          .retried = job->retried,
                          .skipped = job->skipped,
                          .closed = job->ended };
    uv_mutex_unlock(&job->engine->lock);
}

uint32_t tp_job_news(tp_job *job)
{
    return atomic_load_explicit(&job->news, memory_order_acquire);
}

bool tp_job_await(tp_job *job, uint32_t seen)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_news = atomic_load_explicit(&job->news, memory_order_relaxed) != seen;
    job->is_awaited = !is_news;
    uv_mutex_unlock(&job->engine->lock);
    return !is_news;
}

void tp_job_unawait(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    untell(job);
    uv_mutex_unlock(&job->engine->lock);
}

tp_job *tp_job_collect(tp_engine *e, tp_waiter *w)
{
    uv_mutex_lock(&e->lock);
    tp_job *job = w->news_first;
    if (job)
        untell(job);
    uv_mutex_unlock(&e->lock);
    return job;
}

tp_executor *tp_job_executor(const tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    tp_executor *ex = job->executor;
    uv_mutex_unlock(&job->engine->lock);
    return ex;
}

tp_func *tp_job_func(const tp_job *job)
{
    return job->func;
}

tp_image *tp_job_image(const tp_job *job)
{
    return job->image;
}

bool tp_job_lends(const tp_job *job, uint64_t *devices)
{
    *devices = job->lent;
    return job->lends;
}

struct tp_kernel *tp_job_kernel(const tp_job *job)
{
    return (struct tp_kernel *)job->kernel;
}

struct tp_kernel *tp_job_reducer(const tp_job *job)
{
    return (struct tp_kernel *)atomic_load_explicit(&job->reducer, memory_order_acquire);
}

void tp_job_set_reducer(tp_job *job, struct tp_kernel *reducer)
{
    if (!atomic_load_explicit(&job->reducer, memory_order_relaxed))
        atomic_store_explicit(&job->reducer, tp_ref_hold(reducer), memory_order_release);
}

void tp_job_hold_back(tp_job *job, bool held_back)
{
    wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    atomic_store_explicit(&job->is_held_back, held_back, memory_order_relaxed);
    atomic_store_explicit(&job->is_asked, true, memory_order_release);
    if (!held_back) {
        w.executor = job->executor;
        w.takers = takers(job);
    }
    uv_mutex_unlock(&job->engine->lock);
    wake(&w);
}

bool tp_job_is_held_back(const tp_job *job)
{
    return atomic_load_explicit(&job->is_held_back, memory_order_relaxed);
}

bool tp_job_is_undecided(const tp_job *job, uint64_t max_ns)
{
    /* Acquires: who sees that it was asked sees, too, that it was held back then. */
    return !job->discard && !atomic_load_explicit(&job->is_asked, memory_order_acquire) && uv_hrtime() - job->opened_ns < max_ns;
}

bool tp_job_discards(const tp_job *job)
{
    return job->discard;
}

const tp_returns *tp_job_returns(const tp_job *job)
{
    return &job->returns;
}

/* ---- the executors' side ---- */

/* Locked. Retries whose time has come go to the front of their queue; sets engine->next_due. */
static void promote_due(tp_engine *e, uint64_t now)
{
    if (now < e->next_due)
        return;
    e->next_due = UINT64_MAX;
    for (tp_job *j = e->jobs; j; j = j->next) {
        while (j->delayed && j->delayed->due_ns <= now) {
            tp_range *r = j->delayed;
            j->delayed = r->next;
            enqueue(j, r, true);
        }
        if (j->delayed && j->delayed->due_ns < e->next_due)
            e->next_due = j->delayed->due_ns;
    }
}

/* Locked. Has it inputs that may be begun now? */
static bool can_take(const tp_job *job, uint64_t now)
{
    if (!job->queue_first || tp_job_is_held_back(job))
        return false;
    uint64_t ready = job->finished - job->delivered;
    /* A loop over the results that has not come back for a while, with results waiting for it, has perhaps been left. */
    if (job->is_reading && ready >= TP_READY_MIN && now - job->asked_ns > TP_PAUSE_NS)
        return false;
    if (job->bytes > TP_BYTES_MAX && ready > 0 &&
        job->queue_first->block->first + job->queue_first->offset > job->awaited)
        return false;
    return true;
}

static bool has_place(const tp_func *f)
{
    return f->limit == 0 || (f->running < f->limit && !f->resuming);
}

/* Locked. The next job to serve, for one who has these devices: of the function that has the fewest slices running, in turns. */
static tp_job *pick(tp_engine *e, const tp_executor *ex, uint64_t devices, uint64_t now)
{
    tp_job *best = NULL;
    for (tp_func *f = e->ready_first; f; f = f->next_ready) {
        if (!has_place(f) || (best && f->running >= best->func->running))
            continue;
        tp_job *candidate = NULL;
        int looked = 0;
        for (tp_job *j = f->ready_first; j && looked < 64; j = j->next_ready, looked++)
            if (j->executor == ex && (!j->devices || j->devices & devices) && (!candidate || j->running < candidate->running) && can_take(j, now)) {
                candidate = j;
                if (j->running == 0)
                    break;
            }
        if (candidate)
            best = candidate;
        if (best && best->func->running == 0)
            break;
    }
    return best;
}

/* What the jobs that the agent waits for now have as their `helper`: it waits in one place of each item that it runs, and outside of them. */
static const void *helper_id(const tp_agent *agent)
{
    return agent->current ? (const void *)agent->current : agent;
}

/* Locked. Was it started, through others perhaps, by an item of a job that this helper waits for? */
static bool is_below(const tp_job *job, const void *helper)
{
    const tp_job *j = job->parent;
    while (j && j->helper != helper)
        j = j->parent;
    return j != NULL;
}

/* Locked. The next job to serve for an agent that waits: one that it waits for, if the agent's kind runs it or its owner does, else one of the
 * agent's kind below those. */
static tp_job *pick_awaited(tp_engine *e, const tp_agent *agent, uint64_t now)
{
    const void *helper = helper_id(agent);
    bool goes_below = !(agent->executor->type->capabilities & TP_BY_OWNER);
    tp_job *below = NULL;
    for (tp_func *f = e->ready_first; f; f = f->next_ready)
        for (tp_job *j = has_place(f) ? f->ready_first : NULL; j; j = j->next_ready) {
            bool is_ours = j->executor == agent->executor;
            if (j->helper == helper) {
                if ((is_ours || j->executor->type->capabilities & TP_BY_OWNER) && can_take(j, now))
                    return j;
            } else if (!below && goes_below && is_ours && is_below(j, helper) && can_take(j, now)) {
                below = j;
            }
        }
    return below;
}

/* The agent's device, as an index of device_ns; -1 when it serves none. */
static int device_of(const tp_agent *agent)
{
    return agent->devices ? __builtin_ctzll(agent->devices) : -1;
}

/* Locked. What part of the rest of a job an agent may take at once. Of several devices each gets half of what is due to it by its speed, so that all of them
 * end together; one whose speed is not known counts as the one that asks. */
static double share_of(const tp_job *job, const tp_agent *agent, double item_ns)
{
    if (device_of(agent) < 0 || !job->devices)
        return 1.0 / 8;
    if (!(job->devices & (job->devices - 1)))
        return 1;
    double speeds = 0;
    for (int d = 0; d < 64; d++)
        if (job->devices >> d & 1)
            speeds += 1 / (job->func->device_ns[d] > 0 ? (double)job->func->device_ns[d] : item_ns);
    return 0.5 / item_ns / speeds;
}

/* Locked. How many items the agent takes: as many as the executor's time for a slice takes, growing from its least number; never more than a share of
 * what is there, unless all of it is small. */
static uint32_t slice_count(const tp_job *job, const tp_range *r, const tp_agent *agent)
{
    const tp_executor_type *type = job->executor->type;
    uint32_t least = type->slice_min ? type->slice_min : 1;
    const double item_ns = device_of(agent) >= 0 ? (double)job->func->device_ns[device_of(agent)] : job->item_ns;
    if (item_ns <= 0)
        return least < r->count ? least : r->count;
    double wanted = (double)(type->slice_ns ? type->slice_ns : TP_SLICE_NS) / item_ns;
    double small = TP_SMALL_NS / item_ns;
    double share = ceil((double)job->queued * share_of(job, agent, item_ns));
    if (wanted > share)
        wanted = share > small ? share : small;
    double grown = 16.0 * job->last_count;
    if (wanted > grown)
        wanted = grown;
    if (wanted < least)
        wanted = least;
    if (device_of(agent) >= 0) /* even ones: a small rest is a launch that it is not worth */
        wanted = ceil(r->count / fmax(round(r->count / wanted), 1));
    if (wanted >= r->count)
        return r->count;
    uint32_t n = (uint32_t)wanted, grain = type->slice_grain;
    if (grain && n > grain)
        n -= (r->block->first + r->offset + n) % grain;
    return n;
}

bool tp_job_can_take_locked(tp_engine *e, const tp_executor *ex)
{
    return pick(e, ex, UINT64_MAX, uv_hrtime()) != NULL;
}

/* Locked. After a slice of job was taken: is there work that is worth one more worker? */
static bool has_more(const tp_engine *e, const tp_job *job)
{
    if (job->queued && has_place(job->func) &&
        (job->item_ns <= 0 || (double)job->queued * job->item_ns > TP_SMALL_NS))
        return true;
    for (const tp_func *f = e->ready_first; f; f = f->next_ready)
        if (f != job->func && has_place(f))
            return true;
    return job->next_ready && has_place(job->func);
}

/* Memory for one more slice of the agent: what an earlier one left, mostly. Never NULL for one that has no slice. */
static tp_slice *new_slice(tp_agent *agent)
{
    tp_slice *s = agent->spare;
    if (s)
        agent->spare = s->outer;
    else
        s = malloc(sizeof *s);
    return s;
}

/* Locked. Claims a slice of job, if there is one. */
static tp_slice *take(tp_engine *e, tp_job *job, tp_agent *agent, uint64_t now)
{
    tp_slice *s = job ? new_slice(agent) : NULL;
    if (job && !s) { /* a nested job, whose owner waits as a helper, or is this agent */
        job->is_starved = true;
        cancel(job);
        wake_helpers(e);
    }
    if (!s)
        return NULL;
    tp_range *r = job->queue_first;
    uint32_t n = slice_count(job, r, agent);
    if (n < r->count) {
        /* Without memory to split it the whole range is taken: coarser, still right. */
        tp_range *part = malloc(sizeof *part);
        if (part) {
            *part = *r;
            part->count = n;
            r->offset += n;
            r->count -= n;
            job->queued -= n;
            job->func->queued -= n;
            r = part;
        }
    }
    if (r == job->queue_first)
        dequeue(job);
    rotate(job);
    job->last_count = r->count > job->last_count / 4 ? r->count : job->last_count / 4;
    job->running++;
    job->func->running++;
    job->func->active += r->count;
    if (job->queued == 0 && !job->ended && !job->drained) {
        job->drained = true; /* the owner could read further ahead */
        atomic_fetch_add_explicit(&job->news, 1, memory_order_release);
    }
    *s = (tp_slice){ .job = tp_ref_hold(job),
                     .at = r->offset,
                     .results_end = &s->results,
                     .block = r->block,
                     .offset = r->offset,
                     .count = r->count,
                     .attempt = r->attempt,
                     .agent = agent,
                     .outer = agent->current,
                     .started_ns = now,
                     .range = r,
                     .next = e->slices,
                     .has_place = true };
    s->has_more = has_more(e, job);
    atomic_init(&s->ctl[0], (int32_t)r->offset);
    if (e->slices)
        e->slices->prev = s;
    e->slices = s;
    if (!agent->current)
        agent->executor->looking--;
    agent->current = s;
    return s;
}

tp_slice *tp_job_take_locked(tp_engine *e, tp_executor *ex, tp_agent *agent)
{
    uint64_t now = uv_hrtime();
    if (e->is_stopped)
        return NULL;
    promote_due(e, now);
    return take(e, pick(e, ex, agent->devices, now), agent, now);
}

tp_slice *tp_job_take_awaited(tp_agent *agent)
{
    tp_engine *e = agent->engine;
    tp_slice *s = NULL;
    uv_mutex_lock(&e->lock);
    if (!e->is_stopped) {
        uint64_t now = uv_hrtime();
        promote_due(e, now);
        s = take(e, pick_awaited(e, agent, now), agent, now);
    }
    uv_mutex_unlock(&e->lock);
    return s;
}

void tp_slice_append(tp_slice *s, tp_block *b, uint32_t first_offset)
{
    b->first = s->block->first + first_offset;
    b->next = NULL;
    *s->results_end = b;
    s->results_end = &b->next;
}

void tp_slice_close_numbers(tp_slice *s, uint32_t until)
{
    tp_block *b = s->numbers;
    s->numbers = NULL;
    s->at = until;
    b->n = until - s->numbers_at;
    if (b->n == 0)
        tp_block_free(b);
    else
        tp_slice_append(s, b, s->numbers_at);
}

static double random_unit(tp_job *job)
{
    job->random ^= job->random << 13; /* xorshift64, Marsaglia 2003 */
    job->random ^= job->random >> 7;
    job->random ^= job->random << 17;
    return (double)(job->random >> 11) * 0x1p-53;
}

/* Locked. Puts the failed item in line for its next attempt; false when it has none left. */
static bool retry(tp_job *job, const tp_slice *s, const tp_block *failure)
{
    const tp_retries *t = &job->retries;
    if (!failure->may_retry || s->attempt > t->max || failure->first > job->stop_at)
        return false;
    tp_range *r = malloc(sizeof *r);
    if (!r)
        return false;
    double delay = t->initial_delay_s * pow(t->backoff, s->attempt - 1);
    if (!(delay < t->max_delay_s))
        delay = t->max_delay_s;
    delay *= 1 + t->jitter * (2 * random_unit(job) - 1);
    *r = (tp_range){ .block = s->block,
                     .offset = (uint32_t)(failure->first - s->block->first),
                     .count = 1,
                     .attempt = s->attempt + 1,
                     .due_ns = uv_hrtime() + (uint64_t)(delay * 1e9) };
    job->retried++;
    tp_range **at = &job->delayed;
    while (*at && (*at)->due_ns <= r->due_ns)
        at = &(*at)->next;
    r->next = *at;
    *at = r;
    if (job->delayed->due_ns < job->engine->next_due)
        job->engine->next_due = job->delayed->due_ns;
    return true;
}

/* Locked. One block of results: counts it, and gives it to the owner. True when the owner could use it now. */
static bool take_result(tp_job *job, const tp_slice *s, tp_block *b)
{
    bool is_news = !job->ordered || (b->first <= job->awaited && job->awaited < b->first + b->n);
    tp_func *f = job->func;
    if (b->kind == TP_BLOCK_FAILURE && !job->is_cancelled && retry(job, s, b)) {
        f->active--;
        if (!job->retries.notify) {
            tp_block_free(b);
            return false;
        }
        b->kind = TP_BLOCK_RETRY;
        is_news = true;
    } else {
        f->active -= b->n;
        job->finished += b->n;
        if (b->kind == TP_BLOCK_FAILURE) {
            f->failed++;
            job->failed++;
            if (!job->keep_going && b->first < job->stop_at) {
                job->stop_at = b->first;
                skip_queued(job, b->first);
                stop_slices(job, b->first);
                is_news = true;
            }
        } else {
            f->done += b->n;
        }
        release_inputs(job, s->block, b->n);
    }
    if (job->is_cancelled) {
        tp_block_free(b);
        return false;
    }
    job->bytes += tp_block_size(b);
    b->next = NULL;
    *job->done_end = b;
    job->done_end = &b->next;
    return is_news;
}

/* Locked. What was not begun goes back to the front, or is not wanted any more. */
static void give_back(tp_job *job, tp_slice *s, uint32_t done)
{
    tp_range *r = s->range;
    r->offset += done;
    r->count -= done;
    job->func->active -= r->count;
    uint64_t first = s->block->first + r->offset;
    if (r->count > 0 && !job->is_cancelled && first <= job->stop_at) {
        uint64_t allowed = job->stop_at - first;
        if (allowed < r->count - 1) {
            skip(job, s->block, r->count - 1 - (uint32_t)allowed);
            r->count = (uint32_t)allowed + 1;
        }
        enqueue(job, r, true);
        return;
    }
    if (r->count > 0)
        skip(job, s->block, r->count);
    free(r);
}

/* Locked. Learns what an item takes, from a slice that ran n of them. */
static void learn(tp_job *job, const tp_slice *s, uint32_t n)
{
    if (n == 0)
        return;
    double ns = (double)(uv_hrtime() - s->started_ns) / n;
    if (ns < 0.1)
        ns = 0.1;
    job->item_ns = job->item_ns > 0 ? (job->item_ns + ns) / 2 : ns;
    job->func->item_ns = job->item_ns;
    int device = device_of(s->agent);
    if (device >= 0) {
        float *known = &job->func->device_ns[device];
        *known = *known > 0 ? (*known + (float)ns) / 2 : (float)ns;
    }
}

void tp_job_finish(tp_slice *s)
{
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    tp_agent *agent = s->agent;
    tp_block *results = s->results;
    uint32_t done = s->at - s->offset;
    wakes w = { 0 };
    uv_mutex_lock(&e->lock);
    *(s->prev ? &s->prev->next : &e->slices) = s->next;
    if (s->next)
        s->next->prev = s->prev;
    agent->current = s->outer;
    if (!agent->current)
        agent->executor->looking++;
    job->running--;
    if (s->has_place)
        job->func->running--;
    learn(job, s, done);
    /* The inputs must outlive the loop below: what goes back keeps them open, and so does this. */
    s->block->open++;
    bool is_news = false;
    while (results) {
        tp_block *next = results->next;
        is_news |= take_result(job, s, results);
        results = next;
    }
    bool is_shared = done < s->count;
    give_back(job, s, done);
    release_inputs(job, s->block, 1);
    if (job->ended && job->finished == job->pushed)
        is_news = true;
    if (job->queued == 0 && !job->ended)
        is_news = true;
    if (is_news) {
        atomic_fetch_add_explicit(&job->news, 1, memory_order_release);
        w.owner = tell(job);
    }
    wake_resuming(job->func);
    if (is_shared || job->func->limit)
        wake_helpers(e);
    if (is_shared && job->queued) {
        w.executor = job->executor;
        w.takers = takers(job);
    }
    uv_mutex_unlock(&e->lock);
    s->outer = agent->spare;
    agent->spare = s;
    wake(&w);
    tp_ref_drop(job);
}

bool tp_job_leave_device(tp_job *job, uint64_t device)
{
    uv_mutex_lock(&job->engine->lock);
    bool has_others = (job->devices & ~device) != 0, falls_back = !has_others && job->fallback;
    if (has_others || falls_back)
        job->devices &= ~device;
    if (falls_back) {
        job->executor = job->fallback;
        job->item_ns = 0; /* that of the device */
        job->last_count = 0;
    }
    uv_mutex_unlock(&job->engine->lock);
    return has_others || falls_back;
}

void tp_job_lose(tp_agent *agent, tp_block *(*make_failure)(void *user, tp_slice *slice), void *user)
{
    while (agent->current) {
        tp_slice *s = agent->current;
        if (s->numbers)
            tp_slice_close_numbers(s, (uint32_t)atomic_load_explicit(&s->ctl[0], memory_order_relaxed));
        tp_block *failure = make_failure(user, s);
        if (failure) {
            tp_slice_append(s, failure, s->at);
            s->at++;
        } else {
            tp_job_starve(s->job);
        }
        tp_job_finish(s);
    }
}

void tp_job_lose_all(tp_engine *e, const tp_executor *ex)
{
    cancel_all(e, NULL, ex);
}

/* Locked. Asks slices that take long to return after their item, so that others can have the rest; gives the time when the
 * next should be asked, 0 when there is none. */
static uint64_t ask_to_share(tp_engine *e, const tp_executor *ex, uint64_t now)
{
    uint64_t when = 0;
    for (tp_slice *s = e->slices; s; s = s->next) {
        int32_t at = atomic_load_explicit(&s->ctl[0], memory_order_relaxed);
        if (s->job->executor != ex || (uint32_t)at + 1 >= s->offset + s->count || s->job->func->limit == 1)
            continue;
        uint64_t due = s->started_ns + TP_STUCK_NS;
        if (due <= now)
            atomic_store_explicit(&s->ctl[1], 1, memory_order_relaxed);
        else if (!when || due < when)
            when = due;
    }
    return when;
}

uint64_t tp_job_idle_until(tp_engine *e, tp_executor *ex)
{
    uint64_t until = ask_to_share(e, ex, uv_hrtime());
    if (e->next_due != UINT64_MAX && (!until || e->next_due < until))
        until = e->next_due;
    return until;
}

/* Locked. The slice's item lends its place. */
static void lend(tp_slice *s, wakes *w)
{
    if (!s || !s->has_place)
        return;
    tp_func *f = s->job->func;
    s->has_place = false;
    f->running--;
    wake_resuming(f);
    if (f->limit && f->ready_first) {
        wake_helpers(s->agent->engine);
        w->executor = f->ready_first->executor;
        w->takers = 1;
    }
}

void tp_job_begin_wait(tp_agent *a, tp_job *const *jobs, unsigned n)
{
    wakes w = { 0 };
    uv_mutex_lock(&a->engine->lock);
    for (unsigned i = 0; i < n; i++)
        jobs[i]->helper = helper_id(a);
    lend(a->current, &w);
    uv_mutex_unlock(&a->engine->lock);
    wake(&w);
}

/* Locked. */
static bool is_cancelled(const tp_slice *s)
{
    for (const tp_job *j = s->job; j; j = j->parent)
        if (j->is_cancelled)
            return true;
    return false;
}

/* Locked. Takes the place back that the agent's slice has lent, waiting for it. */
static void regain(tp_agent *a, tp_slice *s)
{
    tp_func *f = s->job->func;
    tp_agent **end = &f->resuming;
    while (*end)
        end = &(*end)->next_resuming;
    a->next_resuming = NULL;
    *end = a;
    /* In turn: the first in line takes the first place that is free. */
    while (f->limit && (f->running >= f->limit || f->resuming != a) && !is_cancelled(s))
        uv_cond_wait(&a->cond, &a->engine->lock);
    tp_agent **at = &f->resuming;
    while (*at != a)
        at = &(*at)->next_resuming;
    *at = a->next_resuming;
    f->running++;
    s->has_place = true;
    wake_resuming(f);
}

void tp_job_end_wait(tp_agent *a, tp_job *const *jobs, unsigned n)
{
    uv_mutex_lock(&a->engine->lock);
    for (unsigned i = 0; i < n; i++)
        jobs[i]->helper = NULL;
    if (a->current)
        regain(a, a->current);
    uv_mutex_unlock(&a->engine->lock);
}

/* Locked. Is there anything that an agent which waits for these jobs need not sleep for? */
static bool has_any(tp_engine *e, tp_agent *a, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t now)
{
    for (unsigned i = 0; i < n; i++)
        if (atomic_load_explicit(&jobs[i]->news, memory_order_relaxed) != seen[i])
            return true;
    return pick_awaited(e, a, now) != NULL;
}

void tp_job_sleep(tp_agent *a, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t deadline_ns)
{
    tp_engine *e = a->engine;
    uv_mutex_lock(&e->lock);
    uint64_t now = uv_hrtime();
    promote_due(e, now);
    if (now < deadline_ns && !has_any(e, a, jobs, seen, n, now)) {
        uint64_t until = deadline_ns == UINT64_MAX ? 0 : deadline_ns;
        for (unsigned i = 0; i < n; i++) {
            jobs[i]->is_awaited = true;
            if (i > 0 && jobs[i]->executor == jobs[i - 1]->executor)
                continue;
            uint64_t due = tp_job_idle_until(e, jobs[i]->executor);
            if (due && (!until || due < until))
                until = due;
        }
        a->next_helper = e->helpers;
        e->helpers = a;
        if (until)
            uv_cond_timedwait(&a->cond, &e->lock, until > now ? until - now : 1);
        else
            uv_cond_wait(&a->cond, &e->lock);
        tp_agent **at = &e->helpers;
        while (*at != a)
            at = &(*at)->next_helper;
        *at = a->next_helper;
        for (unsigned i = 0; i < n; i++)
            untell(jobs[i]);
    }
    uv_mutex_unlock(&e->lock);
}

bool tp_slice_is_cancelled(const tp_slice *s)
{
    return is_cancelled(s);
}
