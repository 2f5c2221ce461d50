/* job.c: the owner's side of a job: opening and closing, inputs, results in order, counts. */
#include "engine/job_private.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Owner. Takes the block with the lowest index out of the results that came before their turn;
 * there must be some. */
static tp_block *pop_early(tp_job *job)
{
    tp_pairing *least = tp_pairing_pop(&job->early);
    return (tp_block *)(void *)((char *)least - offsetof(tp_block, early));
}

static void free_job(tp_ref *ref) /* any thread, without the lock: this was the last owner */
{
    tp_job *job = (tp_job *)ref;
    TP_ASSERT(job->running == 0 && !job->queue && !job->delayed && !job->is_told &&
              job->finished == job->pushed);
    tp_block_free_list(job->done);
    tp_block_free_list(job->fifo);
    tp_block_free_list(job->parts);
    tp_block_free(job->held);
    if (job->terms.streams)
        uv_cond_destroy(&job->taken);
    while (job->early)
        tp_block_free(pop_early(job));
    for (uint32_t i = 0; i < job->terms.returns.columns; i++)
        tp_ref_drop(job->terms.returns.array[i]);
    tp_ref_drop(job->func);
    tp_ref_drop(job->terms.image);
    tp_ref_drop(job->executor_data);
    tp_ref_drop(job->recorder);
    tp_ref_drop(job->parent);
    tp_job_free_builds(job);
    free(job->outside);
    free(job->apart_terms);
    free(job->lost);
    free(job);
}

static const tp_ref_type job_type = { "tidepool.job", free_job };

/* ---- the owner's side ---- */

/* Sets err: one more map, of f, inside these jobs would be too deep. Names each function of the
 * chain once, since two or three may call each other. `outside` names the function of another
 * process whose work they are inside of, or is NULL. */
static int refuse_depth(const tp_func *f, const tp_job *parent, const char *outside, tp_error *err)
{
    enum { NAMED_MAX = 5 };
    const tp_func *named[NAMED_MAX];
    unsigned times[NAMED_MAX] = { 0 }, n = 0, others = 0;
    for (const tp_job *j = parent; f; f = j ? j->func : NULL, j = j ? j->parent : NULL) {
        unsigned i = 0;
        while (i < n && named[i] != f)
            i++;
        if (i == n && n < NAMED_MAX)
            named[n++] = f;
        if (i < NAMED_MAX)
            times[i]++;
        else
            others++;
    }
    unsigned same = 0;
    while (outside && same < n && strcmp(named[same]->name, outside) != 0)
        same++;
    if (outside && same < n)
        times[same]++;
    else if (outside)
        others++;
    char chain[400];
    size_t len = 0;
    for (unsigned i = 0; i < n && len < sizeof chain; i++)
        len += (size_t)snprintf(chain + len, sizeof chain - len, "%s'%s' %u time%s", i ? ", " : "",
                                named[i]->name, times[i], times[i] > 1 ? "s" : "");
    if (others && len < sizeof chain)
        snprintf(chain + len, sizeof chain - len, ", others %u", others);
    return tp_error_set(
        err, TP_ELIMIT,
        "maps are nested deeper than %d: does '%s' call itself through map without an end? (%s)",
        TP_NESTING_MAX, named[0]->name, chain);
}

/* The name of the function in which the agent runs outermost, when that is work of another process,
 * which has no job here; else NULL. */
static const char *name_outside(const tp_agent *owner, const tp_job *parent)
{
    tp_work *w = owner->worker.current;
    while (parent && parent->parent)
        parent = parent->parent;
    if (parent && parent->outside)
        return parent->outside;
    while (w && w->outer)
        w = w->outer;
    return w && !tp_slice_of(w) ? w->terms->name : NULL;
}

static void note_open(const tp_job *job)
{
    tp_trace *trace = &job->engine->trace;
    if (!tp_trace_is_on(trace))
        return;
    const char *name = job->func->name;
    tp_trace_note(trace, TP_EVENT_OPEN, job->owner_id, job->terms.number,
                  job->parent ? job->parent->terms.number : 0,
                  tp_trace_name(trace, name, strlen(name)));
}

/* The memory that a worker may use for the job. What runs apart from the item that has opened the
 * job may not have more than that item, nor than those around it. */
static uint64_t memory_of(const tp_job_config *c)
{
    uint64_t least = c->memory;
    const tp_work *w = c->is_apart && c->owner ? c->owner->worker.current : NULL;
    for (; w; w = w->outer)
        if (w->terms->memory && (least == 0 || w->terms->memory < least))
            least = w->terms->memory;
    return least;
}

int tp_job_open(tp_job **out, tp_engine *e, const tp_job_config *c, tp_error *err)
{
    tp_slice *inside = c->owner ? tp_slice_of(c->owner->worker.current) : NULL;
    tp_job *parent = inside ? inside->job : NULL;
    unsigned depth =
        c->owner && c->owner->worker.current ? c->owner->worker.current->terms->depth + 1 : 0;
    if (depth >= TP_NESTING_MAX)
        return refuse_depth(c->func, parent, name_outside(c->owner, parent), err);
    tp_job *job = calloc(1, sizeof *job);
    if (!job)
        return tp_error_oom(err, "job");
    if (c->streams && uv_cond_init(&job->taken)) {
        free(job);
        return tp_error_oom(err, "job");
    }
    tp_ref_init(&job->ref, &job_type);
    job->engine = e;
    job->func = tp_ref_hold(c->func);
    job->terms =
        (tp_terms){ .name = job->func->name,
                    .executor = c->executor_name ? c->executor_name : c->executor->type->name,
                    .number = atomic_fetch_add_explicit(&e->n_jobs, 1, memory_order_relaxed) + 1,
                    .image = c->image ? tp_ref_hold(c->image) : NULL,
                    .discards = c->discard,
                    .is_timed = c->is_timed,
                    .batch = c->batch,
                    .splits = c->splits,
                    .streams = c->streams,
                    .concurrent = c->concurrent,
                    .returns = c->returns,
                    .draws = c->draws,
                    .has_leases = c->has_leases,
                    .leases = c->leases,
                    .is_limited = c->func->limit > 0,
                    .depth = depth,
                    .base = c->base,
                    .part = { c->part[0], c->part[1] },
                    .timeout_ns = c->timeout_ns,
                    .recycle = c->recycle,
                    .memory = memory_of(c),
                    .is_apart = c->is_apart };
    job->executor_data = c->executor_data ? tp_ref_hold(c->executor_data) : NULL;
    job->sites = c->sites;
    job->executor = c->executor;
    job->fallback = c->fallback;
    job->beside = c->beside;
    job->recorder = c->recorder ? tp_ref_hold(c->recorder) : NULL;
    job->waiter = c->waiter;
    job->parent = parent ? tp_ref_hold(parent) : NULL;
    job->opener = inside;
    job->owner_id = c->owner ? c->owner->worker.id : 0;
    job->place = c->owner && c->owner->worker.current ? c->owner->worker.current->place : 0;
    if (job->place && !parent) /* where there is no memory, one name is missing in a message */
        job->outside = strdup(c->owner->worker.current->terms->name);
    job->ordered = c->ordered;
    job->keep_going = c->keep_going;
    job->is_cheap = c->is_cheap;
    job->is_metered = c->is_metered;
    job->window = c->window ? c->window : TP_WINDOW_MAX;
    job->bytes_max = c->bytes ? c->bytes : TP_BYTES_MAX;
    job->read_ahead = job->is_cheap ? job->window : c->batch > 8 ? 2 * (uint64_t)c->batch : 16;
    job->retries = c->retries;
    job->attempt = c->attempt ? c->attempt : 1;
    for (uint32_t i = 0; i < job->terms.returns.columns; i++)
        if (job->terms.returns.array[i])
            tp_ref_hold(job->terms.returns.array[i]);
    job->total = c->total;
    job->stop_at = UINT64_MAX;
    job->opened_ns = uv_hrtime();
    job->fifo_end = &job->fifo;
    job->done_end = &job->done;
    job->parts_end = &job->parts;
    job->head_wakes_at = UINT64_MAX;
    uv_mutex_lock(&e->lock);
    if (c->beside.executor)
        job->sites &= ~c->beside.executor->lost_sites;
    job->random = uv_hrtime() | 1;
    job->item_ns = job->func->item_ns;
    job->last_count = job->item_ns > 0 ? 1 << 20 : 0;
    job->is_cancelled = e->is_stopped || (parent && tp_job_is_unwanted(parent));
    if (job->is_cancelled)
        tp_job_hit_opener(job);
    for (tp_job *j = parent; j; j = j->parent)
        j->inside++;
    job->next = e->jobs;
    if (e->jobs)
        e->jobs->prev = job;
    e->jobs = job;
    tp_inside_open(job);
    uv_mutex_unlock(&e->lock);
    if (!parent) {
        atomic_fetch_add_explicit(job->recorder ? &e->recorded : &e->unrecorded, 1,
                                  memory_order_relaxed);
        if (job->total > 0)
            atomic_fetch_add_explicit(&e->total, (uint64_t)job->total, memory_order_relaxed);
    }
    note_open(job);
    *out = job;
    return 0;
}

void tp_job_close(tp_job *job)
{
    tp_engine *e = job->engine;
    if (!tp_job_is_over(job))
        tp_job_cancel(job);
    tp_trace_note(&e->trace, TP_EVENT_CLOSE, job->owner_id, job->terms.number, 0, 0);
    uv_mutex_lock(&e->lock);
    tp_job_untell(job);
    TP_ASSERT(tp_job_is_balanced(job) && (job->prev ? job->prev->next : e->jobs) == job &&
              (!job->next || job->next->prev == job));
    *(job->prev ? &job->prev->next : &e->jobs) = job->next;
    if (job->next)
        job->next->prev = job->prev;
    for (tp_job *j = job->parent; j; j = j->parent)
        j->inside--;
    tp_inside_close(job);
    if (!job->parent)
        atomic_fetch_sub_explicit(&e->kept, job->kept, memory_order_relaxed);
    uv_mutex_unlock(&e->lock);
    if (!job->parent) {
        if (job->total > 0)
            atomic_fetch_sub_explicit(&e->total, (uint64_t)job->total, memory_order_relaxed);
        atomic_fetch_sub_explicit(&e->delivered, job->delivered, memory_order_relaxed);
        atomic_fetch_sub_explicit(job->recorder ? &e->recorded : &e->unrecorded, 1,
                                  memory_order_relaxed);
    }
    tp_ref_drop(job);
}

/* Locked. The least number of inputs that may be pushed at once; less room than this counts as
 * none. Otherwise, with a full window, inputs would come in blocks as small as the results just
 * taken, and their results again, for ever (the silly window syndrome of RFC 813). It is the inputs
 * of one slice, but at most about a sixteenth of the window. */
static uint64_t least_room(const tp_job *job, uint64_t limit)
{
    if (job->terms.batch) /* room for a whole batch */
        return job->terms.batch < limit ? job->terms.batch : limit;
    if (tp_job_reduction(job) && limit >= 4 * TP_GROUP) /* a whole group */
        return TP_GROUP;
    double n = job->item_ns > 0 ? TP_SLICE_NS / job->item_ns : 1;
    return n < 1 ? 1 : n < (double)(limit / 16) ? (uint64_t)n : limit / 16 + 1;
}

/* Locked. How many inputs may be pushed now. */
static uint64_t room(const tp_job *job)
{
    bool is_full = job->bytes > job->bytes_max && job->queued > 0;
    bool is_stopping = job->is_cancelled || job->stop_at != UINT64_MAX;
    uint64_t limit = job->read_ahead < job->window ? job->read_ahead : job->window;
    uint64_t in_flight = job->pushed - job->delivered;
    if (is_full || is_stopping || in_flight + least_room(job, limit) > limit)
        return 0;
    uint64_t n = limit - in_flight, batch = job->terms.batch;
    if (batch)
        return n > batch ? n - n % batch : n;
    /* blocks of inputs end with a group, where that is possible */
    return tp_job_reduction(job) && n >= TP_GROUP ? n - (job->pushed + n) % TP_GROUP : n;
}

uint64_t tp_job_room(tp_job *job)
{
    tp_wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    tp_job_come_back(job, &w);
    /* The workers had nothing left to take, so more is read ahead from now on. */
    if (job->drained && job->read_ahead < job->window) {
        job->read_ahead *= 2;
        job->drained = false;
    }
    uint64_t n = room(job);
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&w);
    return n;
}

/* Locked. Why nothing of the job can be begun. `waits`: its owner waits for results. */
static tp_reason reason(const tp_job *job, uint64_t now, bool waits)
{
    if (job->is_cancelled || job->stop_at != UINT64_MAX)
        return TP_REASON_NONE;
    if (job->queue) {
        tp_reason why = tp_job_queue_reason(job, now);
        return why == TP_REASON_NONE ? TP_REASON_WORKERS : why;
    }
    if (job->n_delayed > 0 && job->running == 0)
        return TP_REASON_RETRY;
    if (job->ended)
        return TP_REASON_NONE;
    /* inputs are missing; an owner who is away pushes none */
    if (room(job) > 0 || job->read_ahead < job->window)
        return waits ? TP_REASON_INPUTS : TP_REASON_READER;
    /* The window is full: with results that the owner could take, or with results behind one that
     * is not there yet. */
    return waits && job->finished < job->pushed ? TP_REASON_ORDER : TP_REASON_READER;
}

/* jobs or slices that are looked at, so that the lock is not held for long */
enum { LOOKED_AT_MAX = 256 };

/* Locked. The index of the item that the slice runs now; a hint. */
static uint64_t running_of(const tp_slice *s)
{
    int32_t running = tp_work_running(&s->work);
    const tp_afar *afar = tp_inside_afar(s);
    if (afar && afar->since_ns)
        return afar->item;
    return s->work.block->first + (uint32_t)(running > 0 ? running : 0);
}

/* Locked. Since when, at most. */
static uint64_t since_of(const tp_slice *s)
{
    const tp_afar *afar = tp_inside_afar(s);
    return afar && afar->since_ns ? afar->since_ns : s->started_ns;
}

/* Locked. Fills in state->oldest and since_ns from the slice that was begun first: its items have
 * the lowest indexes, or it is stuck in one. */
static void find_oldest(const tp_job *job, tp_job_state *state)
{
    int n = 0;
    for (tp_slice *s = job->engine->slices; s && n < LOOKED_AT_MAX; s = s->next, n++)
        if (s->job == job && (!state->since_ns || since_of(s) < state->since_ns)) {
            state->since_ns = since_of(s);
            state->oldest = running_of(s);
        }
}

/* Locked. Adds to it those in the process, or on the machine, that runs the slice. */
static void find_inside_of(const tp_slice *s, tp_job_state *state)
{
    tp_job_view views[TP_INSIDE_MAX];
    uint64_t others = 0;
    unsigned n = tp_inside_list(s, views, TP_INSIDE_MAX, &others);
    state->maps += tp_inside_afar(s) ? tp_inside_afar(s)->maps : n;
    state->compiling += tp_inside_afar(s) && tp_inside_afar(s)->compiles;
    for (unsigned i = 0; i < n && !views[i].parent_process; i++) {
        const tp_job_view *v = &views[i];
        if (!*state->inside)
            memcpy(state->inside, v->name, sizeof state->inside);
        if (strcmp(state->inside, v->name) != 0)
            continue;
        state->inside_done += v->finished;
        state->inside_total += v->total > 0 ? (uint64_t)v->total
                                            : v->finished + v->running + v->waiting;
    }
}

/* Locked. Fills in what `state` says of maps inside of the job's items. */
static void find_inside(const tp_job *job, tp_job_state *state)
{
    const tp_func *f = NULL;
    int n = 0;
    state->maps = job->inside;
    for (const tp_job *j = job->inside ? job->engine->jobs : NULL; j && n < LOOKED_AT_MAX;
         j = j->next, n++) {
        if (j->parent != job || (f && j->func != f))
            continue;
        f = j->func;
        state->inside_done += j->finished - j->skipped;
        state->inside_total += j->total > 0 ? (uint64_t)j->total : j->pushed;
    }
    snprintf(state->inside, sizeof state->inside, "%s", f ? f->name : "");
    n = 0;
    for (const tp_slice *s = job->engine->slices; s && n < LOOKED_AT_MAX; s = s->next, n++)
        if (s->job == job && (s->agent->inside || s->agent->afar))
            find_inside_of(s, state);
}

/* Locked. Fills in what `state` says of the workers that the job waits for, where all of them run
 * what nobody wants any more: a thread cannot be stopped. */
static void find_given_up(const tp_job *job, tp_job_state *state)
{
    const tp_job *of = NULL;
    unsigned held = 0;
    int n = 0;
    for (const tp_slice *s = job->engine->slices; s && n < LOOKED_AT_MAX; s = s->next, n++)
        if (s->job->executor == job->executor && tp_job_is_unwanted(s->job)) {
            of = s->job;
            held++;
        }
    if (of && held >= job->executor->busy)
        snprintf(state->given_up, sizeof state->given_up, "%s", of->func->name);
}

void tp_job_get_state(tp_job *job, tp_job_state *state)
{
    *state = (tp_job_state){ .limit = job->func->limit };
    uv_mutex_lock(&job->engine->lock);
    state->reason = reason(job, uv_hrtime(), !job->left_ns);
    if (state->reason == TP_REASON_WORKERS)
        find_given_up(job, state);
    find_oldest(job, state);
    find_inside(job, state);
    uv_mutex_unlock(&job->engine->lock);
}

uint64_t tp_job_number(const tp_job *job)
{
    return job->terms.number;
}

unsigned tp_job_limit(const tp_job *job)
{
    return job->func->limit;
}

tp_reason tp_engine_reason_locked(tp_engine *e, const tp_executor *ex, const tp_job **of)
{
    enum { JOBS_MAX = 64 }; /* so many are looked at, so that the lock is not held for long */
    uint64_t now = uv_hrtime();
    tp_reason why = TP_REASON_NONE;
    int n = 0;
    if (of)
        *of = NULL;
    for (const tp_job *j = e->jobs; j && why == TP_REASON_NONE && n < JOBS_MAX; j = j->next, n++) {
        if (j->executor != ex)
            continue;
        why = reason(j, now, !j->left_ns);
        if (of && why != TP_REASON_NONE && why != TP_REASON_WORKERS)
            *of = j;
    }
    return why == TP_REASON_WORKERS ? TP_REASON_NONE : why;
}

/* Locked. Describes the job in *to. */
static void view(const tp_job *job, uint64_t now, tp_job_view *to)
{
    uint64_t waiting = job->queued + job->n_delayed;
    *to = (tp_job_view){ .number = job->terms.number,
                         .parent = job->parent ? job->parent->terms.number : 0,
                         .opened_ns = job->opened_ns,
                         .executor = job->executor->type->name,
                         .total = job->total,
                         .waiting = waiting,
                         .running = job->pushed - job->finished - waiting,
                         .finished = job->finished - job->skipped,
                         .failed = job->failed,
                         .retried = job->retried,
                         .skipped = job->skipped,
                         .reason = reason(job, now, !job->left_ns),
                         .limit = job->func->limit,
                         .is_cancelled = job->is_cancelled };
    snprintf(to->name, sizeof to->name, "%s", job->func->name);
}

unsigned tp_engine_list_jobs(tp_engine *e, tp_job_view *to, unsigned max, uint64_t *others)
{
    unsigned n = 0;
    uint64_t now = uv_hrtime();
    *others = 0;
    uv_mutex_lock(&e->lock);
    for (int nested = 0; nested < 2; nested++)
        for (const tp_job *j = e->jobs; j; j = j->next)
            if ((j->parent != NULL) != nested)
                continue;
            else if (n < max)
                view(j, now, &to[n++]);
            else
                ++*others;
    for (const tp_slice *s = e->slices; s; s = s->next)
        n += tp_inside_list(s, to + n, max - n, others);
    uv_mutex_unlock(&e->lock);
    return n;
}

unsigned tp_engine_list_running(tp_engine *e, tp_run_view *to, unsigned max)
{
    unsigned n = 0;
    uv_mutex_lock(&e->lock);
    for (const tp_slice *s = e->slices; s && n < max; s = s->next) {
        const tp_afar *afar = tp_inside_afar(s);
        if (s->job->executor->type->capabilities & TP_FAR && !(afar && afar->since_ns))
            continue;
        to[n] = (tp_run_view){ .worker = afar && afar->worker ? afar->worker
                                                                : s->agent->worker.id,
                               .job = s->job->terms.number,
                               .item = running_of(s),
                               .since_ns = afar ? afar->since_ns : 0 };
        if (afar)
            memcpy(to[n].host, afar->host, sizeof to[n].host);
        n++;
    }
    uv_mutex_unlock(&e->lock);
    return n;
}

void tp_engine_get_totals(tp_engine *e, tp_engine_totals *totals)
{
    *totals = (tp_engine_totals){ 0 };
    uv_mutex_lock(&e->lock);
    for (const tp_job *j = e->jobs; j; j = j->next) {
        uint64_t waiting = j->queued + j->n_delayed;
        totals->queued += waiting;
        totals->running += j->pushed - j->finished - waiting;
        totals->ready += j->finished > j->delivered + j->skipped
                             ? j->finished - j->delivered - j->skipped
                             : 0;
        totals->bytes += j->bytes;
    }
    uv_mutex_unlock(&e->lock);
}

void tp_engine_note_jobs(tp_engine *e)
{
    /* The lock of the names is a leaf: nothing is called with it held. */
    uv_mutex_lock(&e->lock);
    for (const tp_job *j = e->jobs; j; j = j->next)
        note_open(j);
    uv_mutex_unlock(&e->lock);
}

bool tp_job_is_idle(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool reads_further = job->drained && job->read_ahead < job->window;
    bool is_idle = job->is_cancelled || (job->pushed == job->finished &&
                                         (job->ended || (!reads_further && room(job) == 0)));
    uv_mutex_unlock(&job->engine->lock);
    return is_idle;
}

int tp_job_push(tp_job *job, tp_block *b)
{
    tp_engine *e = job->engine;
    tp_range *r = b->n ? malloc(sizeof *r) : NULL;
    bool is_queued = r != NULL;
    b->first = job->pushed;
    b->open = b->n;
    b->ran.queued_ns = uv_hrtime();
    tp_wakes w = { 0 };
    if (b->n == 0) {
        tp_block_free(b);
        return 0;
    }
    tp_trace_note(&e->trace, TP_EVENT_PUSH, job->owner_id, job->terms.number, b->first, b->n);
    uv_mutex_lock(&e->lock);
    job->pushed += b->n;
    job->bytes += tp_block_size(b);
    job->drained = false;
    if (!r || job->is_cancelled || job->stop_at < b->first) {
        tp_job_skip(job, b, b->n);
        if (!r)
            tp_job_cancel_locked(job); /* without a range no worker could ever take these inputs */
        free(r);
    } else {
        *r = (tp_range){ .block = b, .count = b->n, .attempt = job->attempt };
        tp_job_enqueue(job, r);
        tp_job_wake(job, &w);
        tp_engine_wake_helpers(e);
    }
    tp_inside_tell(job);
    TP_ASSERT(tp_job_is_balanced(job));
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&w);
    return is_queued ? 0 : -1;
}

/* Of a block of inputs, the items that have no result in `results`, as ranges linked by `next`. -1
 * when out of memory. */
static int find_gaps(const tp_job *job, tp_range **gaps, tp_block *b, const tp_block *results)
{
    tp_range **end = gaps;
    uint64_t at = b->first;
    for (const tp_block *r = results; at < b->first + b->n; r = r ? r->next : NULL) {
        uint64_t until = r ? r->first : b->first + b->n;
        if (until > at) {
            tp_range *gap = malloc(sizeof *gap);
            if (!gap)
                return -1;
            *gap = (tp_range){ .block = b,
                               .offset = (uint32_t)(at - b->first),
                               .count = (uint32_t)(until - at),
                               .attempt = job->attempt };
            *end = gap;
            end = &gap->next;
        }
        at = r ? r->first + r->n : until;
    }
    return 0;
}

/* Locked. Takes in a block of results that were known before: as take_result of finish.c, but
 * nothing has been run. */
static void take_known(tp_job *job, tp_block *inputs, tp_block *b)
{
    job->finished += b->n;
    if (b->kind == TP_BLOCK_FAILURE)
        tp_job_count_failure(job, b);
    else
        tp_job_count_kept(job, b->n);
    tp_job_release_inputs(job, inputs, b->n);
    tp_job_add_result(job, b);
}

int tp_job_push_known(tp_job *job, tp_block *b, tp_block *results)
{
    if (!results)
        return tp_job_push(job, b);
    tp_engine *e = job->engine;
    tp_range *gaps = NULL;
    atomic_store_explicit(&e->has_recorded, true, memory_order_relaxed);
    b->first = job->pushed;
    b->ran.queued_ns = uv_hrtime();
    for (tp_block *r = results; r; r = r->next)
        if (r->kind == TP_BLOCK_FAILURE && r->first - b->first < b->n)
            /* without memory for it the failure has no input */
            tp_block_encode_item(b, (uint32_t)(r->first - b->first), &r->input);
    int rc = find_gaps(job, &gaps, b, results);
    tp_wakes w = { 0 };
    /* one more than its inputs, so that the block lives until the end of this function */
    b->open = b->n + 1;
    tp_trace_note(&e->trace, TP_EVENT_PUSH, job->owner_id, job->terms.number, b->first, b->n);
    uv_mutex_lock(&e->lock);
    job->pushed += b->n;
    job->bytes += tp_block_size(b);
    bool is_wanted = rc == 0 && !job->is_cancelled && job->stop_at >= b->first;
    while (gaps) {
        tp_range *gap = gaps;
        gaps = gap->next;
        if (is_wanted)
            tp_job_enqueue(job, gap);
        else
            free(gap);
    }
    if (!is_wanted) {
        tp_job_skip(job, b, b->n);
        if (rc)
            tp_job_cancel_locked(job);
        tp_block_free_list(results);
        results = NULL;
    }
    while (results) {
        tp_block *next = results->next;
        take_known(job, b, results);
        results = next;
    }
    tp_job_release_inputs(job, b, 1);
    /* known results keep no worker busy, so more may be read ahead */
    job->drained = job->queued == 0;
    atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
    w.owner = tp_job_tell(job);
    tp_job_wake(job, &w);
    tp_engine_wake_helpers(e);
    TP_ASSERT(tp_job_is_balanced(job));
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&w);
    return rc;
}

uint64_t tp_job_pushed(const tp_job *job)
{
    return job->pushed;
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

/* Owner. Puts new results into order. */
static void place(tp_job *job, tp_block *b)
{
    while (b) {
        tp_block *next = b->next;
        b->next = NULL;
        if (!job->ordered || b->kind == TP_BLOCK_RETRY) {
            *job->fifo_end = b;
            job->fifo_end = &b->next;
        } else {
            tp_pairing_push(&job->early, &b->early, b->first);
        }
        b = next;
    }
}

static tp_block *pop(tp_job *job)
{
    tp_block *b = job->held ? job->held : job->fifo;
    if (job->held) {
        job->held = NULL;
    } else if (b) {
        job->fifo = b->next;
        if (!job->fifo)
            job->fifo_end = &job->fifo;
    } else if (job->early && job->early->key == job->head) {
        b = pop_early(job);
    }
    return b;
}

static bool is_result(const tp_block *b)
{
    return b->kind != TP_BLOCK_RETRY && b->kind != TP_BLOCK_PART;
}

void tp_job_allow(tp_job *job, uint64_t values)
{
    uv_mutex_lock(&job->engine->lock);
    if (values > job->metered) {
        job->metered = values;
        uv_cond_broadcast(&job->taken);
    }
    uv_mutex_unlock(&job->engine->lock);
}

bool tp_job_is_full(tp_job *job)
{
    bool is = false;
    uv_mutex_lock(&job->engine->lock);
    for (const tp_slice *s = job->engine->slices; s && !is; s = s->next)
        is = s->job == job && s->is_full;
    uv_mutex_unlock(&job->engine->lock);
    return is;
}

/* Locked. Values were taken, or another item is at head: an item elsewhere may give more. */
static void ask_for_more(tp_job *job, bool is_next, tp_wakes *w)
{
    if (!job->is_asked_for || w->takers ||
        (!is_next && job->head_taken < job->asked_at && job->n_parts > job->window / 2))
        return;
    job->is_asked_for = false;
    w->executor = job->executor;
    w->takers = 1;
}

/* Owner, locked. Takes values that the item at `head` has given (tp_sink.emit; in an unordered job
 * any item's); NULL when there are none. They are handed out before the item's result. */
static tp_block *take_part(tp_job *job)
{
    tp_block **at = &job->parts;
    while (*at && job->ordered && (*at)->first != job->head)
        at = &(*at)->next;
    tp_block *b = *at;
    if (!b)
        return NULL;
    *at = b->next;
    if (!*at)
        job->parts_end = at;
    uint64_t n = job->n_parts;
    job->n_parts -= b->n;
    job->head_taken += b->n;
    /* Not for each value: those who wait would give one more, and wait again. */
    bool is_half_empty = n > job->window / 2 && job->n_parts <= job->window / 2;
    if (is_half_empty || job->head_taken >= job->head_wakes_at) {
        job->head_wakes_at = UINT64_MAX;
        uv_cond_broadcast(&job->taken);
    }
    return b;
}

tp_block *tp_job_next(tp_job *job)
{
    tp_engine *e = job->engine;
    tp_wakes w = { 0 };
    tp_block *b = pop(job);
    uv_mutex_lock(&e->lock);
    while (!b && job->done) {
        tp_block *done = job->done;
        job->done = NULL;
        job->done_end = &job->done;
        uv_mutex_unlock(&e->lock);
        place(job, done);
        b = pop(job);
        uv_mutex_lock(&e->lock);
    }
    tp_block *part = job->terms.streams ? take_part(job) : NULL;
    if (part) {
        job->held = b;
        b = part;
    }
    atomic_store_explicit(&job->is_asked, true, memory_order_relaxed);
    tp_job_come_back(job, &w);
    if (b) {
        /* taking these results may bring `bytes` below the limit, and moves `awaited` on: more
         * items may be begun */
        if (job->bytes > job->bytes_max)
            tp_job_resume(job, &w);
        tp_job_go_away(job);
        job->bytes -= tp_block_size(b);
        b->next = NULL;
        if (is_result(b)) {
            job->head += b->n;
            job->delivered += b->n;
            job->head_taken = 0;
            job->head_wakes_at = UINT64_MAX;
            if (job->terms.streams) /* the values of the next item can be taken now */
                uv_cond_broadcast(&job->taken);
        }
        ask_for_more(job, is_result(b), &w);
    }
    job->awaited = job->head;
    uv_mutex_unlock(&e->lock);
    if (b && !job->parent && is_result(b))
        atomic_fetch_add_explicit(&e->delivered, b->n, memory_order_relaxed);
    tp_wakes_send(&w);
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
    tp_wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    job->is_reading = reading;
    atomic_store_explicit(&job->is_asked, true, memory_order_relaxed);
    tp_job_come_back(job, &w);
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&w);
}

void tp_job_leave(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    tp_job_go_away(job);
    uv_mutex_unlock(&job->engine->lock);
}

void tp_job_get_counts(tp_job *job, tp_job_counts *c)
{
    tp_wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    /* the owner asks for counts, so it has not left its loop, although it has results to read */
    if (job->left_ns) {
        tp_job_come_back(job, &w);
        tp_job_go_away(job);
    }
    *c = (tp_job_counts){ .pushed = job->pushed,
                          .finished = job->finished,
                          .failed = job->failed,
                          .delivered = job->delivered,
                          .retried = job->retried,
                          .skipped = job->skipped,
                          .closed = job->ended };
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&w);
}

tp_executor *tp_job_executor(const tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    tp_executor *ex = job->executor;
    uv_mutex_unlock(&job->engine->lock);
    return ex;
}

const tp_terms *tp_job_terms(const tp_job *job)
{
    return &job->terms;
}

tp_func *tp_job_func(const tp_job *job)
{
    return job->func;
}

const tp_recorder *tp_job_recorder(const tp_job *job)
{
    return job->recorder;
}

tp_ref *tp_job_executor_data(const tp_job *job)
{
    return job->executor_data;
}

void tp_job_hold_back(tp_job *job, bool held_back)
{
    tp_wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    atomic_store_explicit(&job->is_held_back, held_back, memory_order_relaxed);
    atomic_store_explicit(&job->is_asked, true, memory_order_release);
    if (!held_back) {
        tp_job_wake(job, &w);
    }
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&w);
}

void tp_job_reduce(tp_job *job, tp_reduction reduction)
{
    atomic_store_explicit(&job->reduction, reduction, memory_order_relaxed);
}

bool tp_job_is_undecided(const tp_job *job, uint64_t max_ns)
{
    /* Acquire: whoever sees that results were asked for (is_asked) also sees an earlier
     * is_held_back. */
    return !job->terms.discards && !atomic_load_explicit(&job->is_asked, memory_order_acquire) &&
           uv_hrtime() - job->opened_ns < max_ns;
}
