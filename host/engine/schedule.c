/* schedule.c: which job is served next, how many items a slice takes, permits, when a job pauses;
 * and the sink of slices (tp_sink). */
#include "engine/job_private.h"

#include <math.h>
#include <stdlib.h>

/* ---- how much there is to do ---- */

/* How long a slice of the executor should run, in nanoseconds. */
static double slice_ns_of(const tp_executor_type *type)
{
    return (double)(type->slice_ns ? type->slice_ns : TP_SLICE_NS);
}

/* Work that takes less than this, in nanoseconds, is not worth one more worker. Executors whose
 * slices have higher fixed costs have longer slices, and so a higher bound. */
static double small_ns_of(const tp_executor_type *type)
{
    return slice_ns_of(type) * TP_SMALL_NS / TP_SLICE_NS;
}

unsigned tp_job_takers(const tp_job *job)
{
    if (job->queued == 0)
        return 0;
    double ns = (double)job->queued * job->item_ns;
    bool is_small = ns <= small_ns_of(job->executor->type);
    if (job->item_ns > 0 && is_small && job->executor->defers && !job->parent)
        return 0;
    double n = job->item_ns > 0 && !is_small ? 1 + ns / TP_SLICE_NS : 1;
    return n < (double)job->queued ? (unsigned)n : (unsigned)job->queued;
}

void tp_job_wake(const tp_job *job, tp_wakes *w)
{
    w->executor = job->executor;
    w->takers = tp_job_takers(job);
    w->beside = NULL;
    if (job->queued == 0 || !tp_job_has_beside(job))
        return;
    tp_offer offer = tp_job_offer(job);
    w->takers = offer.workers ? w->takers : 0;
    w->beside = offer.sites || tp_job_is_making_due(job) ? job->beside.executor : NULL;
}

/* ---- the owner's coming and going; locked ----
 *
 * An owner that reads results in a loop (is_reading) takes its time over each, and may have left
 * the loop for good without telling us. So a job begins nothing more once some results wait and the
 * owner has been away for TP_PAUSE_NS. It resumes when the owner is back.
 *
 * A job whose owner waits for it must never pause: nobody would ever resume it. So an owner counts
 * as away only between the tp_job_next that gave it results and the next thing that it does to the
 * job. An owner that asked and got nothing is waiting, however it waits (in the loop, as a helper
 * that runs items meanwhile, as one task among others, or by asking again now and then) and for
 * however long: for a slow item, a retry, a permit or an input. It is away again when it is given
 * results, or when it says that it stops waiting (tp_job_leave). */

static bool is_left(const tp_job *job, uint64_t now)
{
    return job->left_ns && job->finished - job->skipped - job->delivered >= TP_READY_MIN &&
           now - job->left_ns > TP_PAUSE_NS;
}

void tp_job_resume(tp_job *job, tp_wakes *w)
{
    if (job->running == 0)
        job->since_ns = job->run_began_ns = 0; /* it was nobody's fault that nothing was run */
    tp_job_wake(job, w);
    tp_engine_wake_helpers(job->engine);
}

void tp_job_come_back(tp_job *job, tp_wakes *w)
{
    if (job->left_ns && uv_hrtime() - job->left_ns > TP_PAUSE_NS)
        tp_job_resume(job, w);
    job->left_ns = 0;
}

void tp_job_go_away(tp_job *job)
{
    job->left_ns = job->is_reading ? uv_hrtime() : 0;
}

/* ---- permits, and the sink of slices ---- */

static bool has_permit(const tp_func *f)
{
    return f->limit == 0 || (f->running < f->limit && !f->resuming);
}

/* Locked. Frees a permit of f, and says whom to wake. */
static void free_permit(tp_engine *e, tp_func *f, tp_wakes *w)
{
    TP_ASSERT(tp_engine_is_locked(e) && f->running > 0);
    f->running--;
    tp_func_wake_resuming(f);
    if (f->limit && f->ready_first) {
        tp_engine_wake_helpers(e);
        w->executor = f->ready_first->executor;
        w->takers = 1;
        w->beside = f->ready_first->beside.executor;
    }
}

/* Locked. Puts the slice at the end of the line for permits of f. */
static void enter_line(tp_slice *s, tp_func *f)
{
    tp_slice **end = &f->resuming;
    while (*end)
        end = &(*end)->next_resuming;
    s->next_resuming = NULL;
    *end = s;
    s->is_in_line = true;
}

void tp_slice_leave_line(tp_slice *s, tp_func *f)
{
    tp_slice **at = &f->resuming;
    while (*at != s)
        at = &(*at)->next_resuming;
    *at = s->next_resuming;
    s->is_in_line = false;
    tp_func_wake_resuming(f);
}

/* Locked. Must the slice, which is in line, wait longer for a permit of f? In turn: the first in
 * line takes the first permit that is free. */
static bool must_wait(const tp_slice *s, const tp_func *f)
{
    return f->limit && (f->running >= f->limit || f->resuming != s) && !tp_job_is_unwanted(s->job);
}

/* Locked. Takes a permit of f for the slice; waits in line for it until `until`. False when it got
 * none. */
static bool take_permit(tp_slice *s, tp_func *f, uint64_t until)
{
    tp_agent *a = s->agent;
    TP_ASSERT(tp_engine_is_locked(a->engine));
    enter_line(s, f);
    bool is_late = false;
    while (must_wait(s, f) && !is_late) {
        uint64_t now = until == UINT64_MAX ? 0 : uv_hrtime();
        is_late = now >= until;
        if (until == UINT64_MAX)
            uv_cond_wait(&a->cond, &a->engine->lock);
        else if (!is_late)
            uv_cond_timedwait(&a->cond, &a->engine->lock, until - now);
    }
    f->running += !is_late;
    tp_slice_leave_line(s, f);
    return !is_late;
}

/* Locked. The slice's item waits for others: releases its permit meanwhile. */
static void release_permit(tp_slice *s, tp_wakes *w)
{
    if (!s->has_permit)
        return;
    s->has_permit = false;
    free_permit(s->agent->engine, s->job->func, w);
}

bool tp_slice_take_permit(tp_slice *s, uint64_t until)
{
    tp_engine *e = s->agent->engine;
    uv_mutex_lock(&e->lock);
    s->has_permit = s->has_permit || take_permit(s, s->job->func, until);
    bool has = s->has_permit;
    uv_mutex_unlock(&e->lock);
    return has;
}

bool tp_slice_take_permit_of(tp_slice *s, tp_func *f, uint64_t until)
{
    tp_engine *e = s->agent->engine;
    uv_mutex_lock(&e->lock);
    bool is_taken = take_permit(s, f, until);
    uv_mutex_unlock(&e->lock);
    return is_taken;
}

void tp_func_release_permit(tp_engine *e, tp_func *f)
{
    tp_wakes after = { 0 };
    uv_mutex_lock(&e->lock);
    free_permit(e, f, &after);
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&after);
}

static bool sink_is_cancelled(const tp_work *w)
{
    const tp_slice *s = (const tp_slice *)w;
    uv_mutex_lock(&s->job->engine->lock);
    bool is = tp_slice_is_cancelled_locked(s);
    uv_mutex_unlock(&s->job->engine->lock);
    return is;
}

static void sink_append(tp_work *w, tp_block *b)
{
    tp_slice *s = (tp_slice *)w;
    bool lacks_input = b->kind == TP_BLOCK_FAILURE && w->block->kind != TP_BLOCK_FAILURE &&
                       b->input.len == 0 && !b->hides_input;
    /* the failure of a cancelled job is not seen, and the strings that are pinned for the input may
     * be gone (core_pin.c) */
    if (lacks_input && !sink_is_cancelled(w))
        /* for lack of memory the failure does without its input */
        tp_block_encode_item(w->block, (uint32_t)(b->first - w->block->first), &b->input);
    *s->results_end = b;
    s->results_end = &b->next;
}

static void sink_starve(tp_work *w)
{
    tp_job_starve(((tp_slice *)w)->job);
}

static void sink_release_permit(tp_work *w)
{
    tp_slice *s = (tp_slice *)w;
    tp_engine *e = s->job->engine;
    tp_wakes after = { 0 };
    uv_mutex_lock(&e->lock);
    release_permit(s, &after);
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&after);
    if (s->is_permitted)
        e->permits.release(e->permits.user, s->job->func);
}

static void sink_take_permit(tp_work *w)
{
    tp_slice *s = (tp_slice *)w;
    tp_slice_take_permit(s, UINT64_MAX);
    if (s->is_permitted)
        s->job->engine->permits.take(s->job->engine->permits.user, s->job->func);
}

/* Locked. For jobs that stream: must the slice's item, number `index`, wait before it gives more
 * values, since a window of them waits for the reader? For the item that the owner reads now only
 * its own values count. Others then wait until that one is over; but not while it is queued or
 * waits for a retry, since it may need the worker of one of them. */
static bool has_enough(const tp_job *job, const tp_slice *s, uint64_t index)
{
    if (s->emitted < s->allowed)
        return false;
    if (job->is_metered)
        return s->emitted >= job->metered;
    if (job->n_parts < job->window)
        return false;
    if (!job->ordered)
        return true;
    if (index == job->awaited)
        return s->emitted - job->head_taken >= job->window;
    return !job->delayed && (!job->queue || tp_range_first(job->queue) > job->awaited);
}

void tp_job_begin_block(tp_agent *a, bool endless)
{
    tp_slice *s = tp_slice_of(a->worker.current);
    tp_wakes w = { 0 };
    uv_mutex_lock(&a->engine->lock);
    a->is_blocked = endless;
    a->is_hopeless = false;
    if (s) {
        release_permit(s, &w);
        a->executor->blocked++;
    }
    uv_mutex_unlock(&a->engine->lock);
    tp_wakes_send(&w);
    if (s)
        a->executor->type->start(a->executor, 1);
}

void tp_job_end_block(tp_agent *a)
{
    tp_slice *s = tp_slice_of(a->worker.current);
    uv_mutex_lock(&a->engine->lock);
    a->is_blocked = false;
    a->executor->blocked -= s != NULL;
    uv_mutex_unlock(&a->engine->lock);
}

/* ---- items that wait beside each other ---- */

void tp_slice_wait_for(tp_agent *a, tp_job *job)
{
    const tp_slice *s = tp_slice_of(a->worker.current);
    bool is_item = s && s->job->terms.concurrent;
    /* in a worker process an item with `concurrent_inputs` has no slice */
    bool is_far = !s && a->worker.current && a->worker.current->terms->concurrent;
    uv_mutex_lock(&job->engine->lock);
    job->helper = is_item ? s->level : is_far ? a : tp_agent_helper_id(a);
    uv_mutex_unlock(&job->engine->lock);
}

void tp_slice_give_way(tp_work *w, bool is_lent, bool endless)
{
    tp_slice *s = (tp_slice *)w;
    tp_wakes after = { 0 };
    uv_mutex_lock(&s->agent->engine->lock);
    release_permit(s, &after);
    if (is_lent && !s->is_lent) {
        tp_agent_uncount_open(s->agent, s);
        s->agent->n_lent++;
    }
    s->is_lent |= is_lent;
    s->is_blocked = endless;
    uv_mutex_unlock(&s->agent->engine->lock);
    tp_wakes_send(&after);
}

bool tp_slice_come_back(tp_work *w)
{
    tp_slice *s = (tp_slice *)w;
    tp_func *f = s->job->func;
    uv_mutex_lock(&s->agent->engine->lock);
    s->is_blocked = false;
    if (!s->has_permit && !s->is_in_line)
        enter_line(s, f);
    if (s->is_in_line && !must_wait(s, f)) {
        f->running++;
        s->has_permit = true;
        tp_slice_leave_line(s, f);
    }
    bool is_back = s->has_permit;
    if (is_back && s->is_lent) {
        s->is_lent = false;
        s->agent->n_lent--;
        tp_agent_count_open(s->agent, s);
    }
    uv_mutex_unlock(&s->agent->engine->lock);
    return is_back;
}

void tp_slice_note_step(tp_work *w, uint64_t step)
{
    tp_trace_note(w->worker->trace, TP_EVENT_STEP, w->worker->id, w->terms->number,
                  w->block->first + (uint32_t)tp_work_running(w), step);
}

bool tp_slice_note_blocking(tp_work *w)
{
    const tp_slice *s = (tp_slice *)w;
    uv_mutex_lock(&s->agent->engine->lock);
    bool is_first = !s->job->func->has_blocked;
    s->job->func->has_blocked = true;
    uv_mutex_unlock(&s->agent->engine->lock);
    return is_first;
}

/* Waits until the item may give more values, or they are not wanted any more. Meanwhile its permit
 * is released, and another worker may run in its worker's place, since the reader may wait for
 * other items. */
static void await_reader(tp_slice *s, uint64_t index)
{
    /* how often it is checked whether a job around this one was cancelled */
    enum { LOOK_NS = 20 * 1000000 };
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    uv_mutex_lock(&e->lock);
    bool waits = has_enough(job, s, index) && !tp_job_is_unwanted(job) && index <= job->stop_at;
    uv_mutex_unlock(&e->lock);
    if (!waits)
        return;
    tp_job_begin_block(s->agent, true);
    tp_wakes wakes = { 0 };
    uv_mutex_lock(&e->lock);
    s->is_full = true;
    if (job->is_metered) {
        atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
        wakes.owner = tp_job_tell(job);
    }
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&wakes);
    uv_mutex_lock(&e->lock);
    while (has_enough(job, s, index) && !tp_job_is_unwanted(job) && index <= job->stop_at) {
        if (index == job->awaited && s->emitted >= job->window / 2)
            job->head_wakes_at = s->emitted - job->window / 2;
        uv_cond_timedwait(&job->taken, &e->lock, LOOK_NS);
    }
    s->is_full = false;
    uv_mutex_unlock(&e->lock);
    tp_job_end_block(s->agent);
    tp_slice_take_permit(s, UINT64_MAX);
}

static int sink_emit(tp_work *w, tp_block *b)
{
    tp_slice *s = (tp_slice *)w;
    tp_job *job = s->job;
    tp_wakes wakes = { 0 };
    b->first = w->block->first + w->at;
    b->next = NULL;
    await_reader(s, b->first);
    uv_mutex_lock(&job->engine->lock);
    bool is_wanted = !tp_job_is_unwanted(job) && b->first <= job->stop_at;
    if (is_wanted) {
        *job->parts_end = b;
        job->parts_end = &b->next;
        job->n_parts += b->n;
        job->promised -= s->emitted < s->allowed ? b->n : 0;
        s->emitted += b->n;
        job->bytes += tp_block_size(b);
        if (!job->ordered || b->first == job->awaited) {
            atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
            wakes.owner = tp_job_tell(job);
        }
    }
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&wakes);
    if (!is_wanted)
        tp_block_free(b);
    return is_wanted ? 0 : -1;
}

/* Locked. How many more values the item may give than it was told. It is told of many at once, each
 * time when half of what may wait is gone. */
static uint64_t more_values(const tp_job *job, const tp_slice *s, uint64_t index)
{
    const uint64_t left = s->allowed - s->emitted, half = (job->window + 1) / 2;
    if (job->ordered && index == job->awaited) {
        uint64_t ahead = s->allowed - job->head_taken;
        return ahead + half <= job->window ? job->window - ahead : 0;
    }
    if (has_enough(job, s, index) || left > 0)
        return 0;
    uint64_t taken = job->n_parts + job->promised,
             room = taken < job->window ? job->window - taken : 0;
    return room > 1 ? (room + 1) / 2 : 1;
}

bool tp_slice_allow(tp_slice *s, uint64_t *values)
{
    tp_job *job = s->job;
    uint64_t index = s->work.block->first + s->work.at;
    uv_mutex_lock(&job->engine->lock);
    bool is_wanted = !tp_job_is_unwanted(job) && index <= job->stop_at;
    uint64_t more = is_wanted ? more_values(job, s, index) : 0;
    s->allowed += more;
    job->promised += more;
    *values = s->allowed;
    if (is_wanted && s->emitted == s->allowed) {
        if (index == job->awaited || !job->is_asked_for)
            job->asked_at = index == job->awaited
                                ? s->allowed + (job->window + 1) / 2 - job->window
                                : UINT64_MAX;
        job->is_asked_for = true;
    }
    uv_mutex_unlock(&job->engine->lock);
    return is_wanted;
}

bool tp_job_drop_values(tp_job *job, uint64_t index, uint64_t emitted, tp_block **dropped)
{
    uint64_t n = 0;
    for (const tp_block *b = job->parts; b; b = b->next)
        n += b->first == index ? b->n : 0;
    *dropped = NULL;
    if (n != emitted)
        return false;
    for (tp_block **at = &job->parts; n > 0 && *at;) {
        tp_block *b = *at;
        if (b->first != index) {
            at = &b->next;
            continue;
        }
        *at = b->next;
        job->bytes -= tp_block_size(b);
        b->next = *dropped;
        *dropped = b;
    }
    job->parts_end = &job->parts;
    while (*job->parts_end)
        job->parts_end = &(*job->parts_end)->next;
    job->n_parts -= n;
    return true;
}

bool tp_slice_take_back(tp_slice *s)
{
    tp_job *job = s->job;
    tp_block *dropped;
    uv_mutex_lock(&job->engine->lock);
    bool is_whole =
        tp_job_drop_values(job, s->work.block->first + s->work.at, s->emitted, &dropped);
    if (is_whole) {
        job->promised -= s->allowed - s->emitted;
        s->emitted = s->allowed = 0;
    }
    uv_mutex_unlock(&job->engine->lock);
    tp_block_free_list(dropped);
    return is_whole;
}

static const tp_sink slice_sink = {
    .emit = sink_emit,
    .append = sink_append,
    .starve = sink_starve,
    .is_cancelled = sink_is_cancelled,
    .release_permit = sink_release_permit,
    .take_permit = sink_take_permit,
    .give_way = tp_slice_give_way,
    .come_back = tp_slice_come_back,
    .note_step = tp_slice_note_step,
    .note_blocking = tp_slice_note_blocking,
};

tp_slice *tp_slice_of(tp_work *w)
{
    return w && w->sink == &slice_sink ? (tp_slice *)w : NULL;
}

bool tp_slice_is_cancelled_locked(const tp_slice *s)
{
    return s->is_lost || tp_job_is_unwanted(s->job);
}

bool tp_job_is_held_back(const tp_job *job)
{
    return atomic_load_explicit(&job->is_held_back, memory_order_relaxed);
}

tp_reduction tp_job_reduction(const tp_job *job)
{
    return (tp_reduction)atomic_load_explicit(&job->reduction, memory_order_relaxed);
}

/* ---- what comes next ---- */

void tp_engine_promote_due(tp_engine *e, uint64_t now)
{
    TP_ASSERT(tp_engine_is_locked(e));
    if (now < e->next_due)
        return;
    e->next_due = UINT64_MAX;
    for (tp_job *j = e->jobs; j; j = j->next) {
        while (j->delayed && j->delayed->node.key <= now) {
            tp_range *r = tp_range_pop(&j->delayed);
            j->n_delayed -= r->count;
            tp_job_enqueue(j, r);
        }
        if (j->delayed && j->delayed->node.key < e->next_due)
            e->next_due = j->delayed->node.key;
    }
}

/* Locked. Does the job have inputs that may be begun now? */
static bool can_take(const tp_job *job, uint64_t now)
{
    if (!job->queue || tp_job_is_held_back(job) || is_left(job, now))
        return false;
    /* Where results take much memory, nothing is begun but the item that the owner waits for. It is
     * the first in the queue. */
    bool has_ready = job->finished - job->skipped > job->delivered;
    return job->bytes <= job->bytes_max || !has_ready || tp_range_first(job->queue) <= job->awaited;
}

tp_reason tp_job_queue_reason(const tp_job *job, uint64_t now)
{
    if (!job->queue)
        return TP_REASON_NONE;
    return !has_permit(job->func) ? TP_REASON_LIMIT
           : !can_take(job, now)  ? TP_REASON_READER
                                  : TP_REASON_NONE;
}

/* Locked. May the agent begin one more item of the job, beside its open items? */
static bool has_place(const tp_agent *agent, const tp_job *job)
{
    unsigned n = agent->n_open, apart = job->terms.concurrent ? job->queue->most : 0;
    if (agent->is_full)
        return false;
    if (n == 0 || !job->terms.concurrent)
        return true;
    if (agent->apart && (!apart || agent->apart < apart))
        apart = agent->apart;
    if (apart && n - agent->n_lent >= apart)
        return false;
    return n < job->terms.concurrent || tp_agent_count_of(agent, job) < job->terms.concurrent;
}

/* Locked. May workers of the executor, at one of these sites, run what is next in the queue? Jobs
 * that have sites run there and nowhere else, and others at none. */
static bool is_offered(const tp_job *job, const tp_executor *ex, uint64_t sites)
{
    bool is_own = job->executor == ex;
    if (!tp_job_has_beside(job))
        return is_own && (job->sites ? (job->sites & sites) != 0 : !sites || sites == UINT64_MAX);
    if (!is_own && (job->beside.executor != ex || !(tp_job_made_sites(job) & sites)))
        return false;
    tp_offer offer = tp_job_offer(job);
    return is_own ? offer.workers : offer.sites;
}

/* Locked. The next job to serve at one of these sites: one of the function with the fewest running
 * slices, and among its jobs likewise. `agent` would serve it; NULL: some agent. */
static tp_job *pick(tp_engine *e, const tp_executor *ex, uint64_t sites, uint64_t now,
                    const tp_agent *agent)
{
    tp_job *best = NULL;
    TP_ASSERT(tp_engine_is_locked(e));
    for (tp_func *f = e->ready_first; f; f = f->next_ready) {
        if (!has_permit(f) || (best && f->running >= best->func->running))
            continue;
        tp_job *candidate = NULL;
        /* at most 64 jobs that can be taken from are compared; the others, of which there may be
         * any number (left by their readers, say), do not count */
        int looked = 0;
        for (tp_job *j = f->ready_first; j && looked < 64; j = j->next_ready) {
            if (!can_take(j, now) || !is_offered(j, ex, sites) || (agent && !has_place(agent, j)))
                continue;
            looked++;
            if (!candidate || j->running < candidate->running)
                candidate = j;
            if (candidate->running == 0)
                break;
        }
        if (candidate)
            best = candidate;
        if (best && best->func->running == 0)
            break;
    }
    return best;
}

/* Locked. Was the job started by an item of a job that this helper waits for, or further below such
 * an item? */
static bool is_below(const tp_job *job, const void *helper)
{
    const tp_job *j = job->parent;
    while (j && j->helper != helper)
        j = j->parent;
    return j != NULL;
}

tp_job *tp_agent_pick_awaited(tp_engine *e, const tp_agent *agent, uint64_t now)
{
    const void *helper = tp_agent_helper_id(agent);
    bool goes_below = !(agent->executor->type->capabilities & TP_BY_OWNER);
    tp_job *below = NULL;
    TP_ASSERT(tp_engine_is_locked(e));
    for (tp_func *f = e->ready_first; f; f = f->next_ready)
        for (tp_job *j = has_permit(f) ? f->ready_first : NULL; j; j = j->next_ready) {
            bool is_ours = j->executor == agent->executor;
            if (j->helper == helper) {
                if ((is_ours ? is_offered(j, agent->executor, agent->site)
                             : (j->executor->type->capabilities & TP_BY_OWNER) != 0) &&
                    can_take(j, now) && has_place(agent, j))
                    return j;
            } else if (!below && goes_below && is_ours && is_below(j, helper) &&
                       can_take(j, now) && is_offered(j, agent->executor, agent->site) &&
                       has_place(agent, j)) {
                below = j;
            }
        }
    return below;
}

bool tp_agent_can_take(tp_engine *e, const tp_agent *agent, uint64_t now)
{
    if (e->is_stopped)
        return false;
    bool takes_any = !agent->worker.current &&
                     !(agent->executor->type->capabilities & TP_BY_OWNER);
    return tp_agent_pick_awaited(e, agent, now) ||
           (takes_any && pick(e, agent->executor, agent->site, now, agent));
}

/* Locked. The share of the queued items that an agent may take at once. With several sites, each
 * gets half of what its speed entitles it to, so that all of them finish together; a site whose
 * speed is not known is taken to be as fast as the asking one. */
static double share_of(const tp_job *job, const tp_agent *agent, double item_ns)
{
    if (tp_agent_site(agent) < 0 || !job->sites)
        return 1.0 / 8;
    if (!(job->sites & (job->sites - 1)))
        return 1;
    double speeds = 0;
    for (int d = 0; d < 64; d++)
        if (job->sites >> d & 1)
            speeds += 1 / (job->func->site_ns[d] > 0 ? (double)job->func->site_ns[d] : item_ns);
    return 0.5 / item_ns / speeds;
}

/* Locked. How many items the agent takes: as many as fill the executor's time for a slice, growing
 * from its least number; at most a share of what is queued, unless all of that takes little
 * time. */
static uint32_t slice_count(const tp_job *job, const tp_range *r, const tp_agent *agent)
{
    if (job->terms.streams || job->terms.concurrent)
        return 1;
    if (job->terms.batch) {
        uint32_t most = r->most && r->most < job->terms.batch ? r->most : job->terms.batch;
        return most < r->count ? most : r->count;
    }
    const bool has_beside = tp_job_has_beside(job);
    const tp_executor_type *type = has_beside && agent->site ? job->beside.executor->type
                                                             : job->executor->type;
    uint32_t least = agent->site && type->site_min ? type->site_min : type->slice_min;
    least = least && !has_beside ? least : 1;
    const double item_ns =
        tp_agent_site(agent) >= 0 ? (double)job->func->site_ns[tp_agent_site(agent)] : job->item_ns;
    if (item_ns <= 0 && !(has_beside && agent->site))
        return least < r->count ? least : r->count;
    bool is_trial = false;
    double share = ceil(has_beside ? tp_job_share(job, agent, &is_trial)
                                   : (double)job->queued * share_of(job, agent, item_ns));
    double wanted = is_trial ? share : slice_ns_of(type) / item_ns;
    double small = is_trial ? share : small_ns_of(type) / item_ns;
    if (wanted > share)
        wanted = share > small ? share : small;
    double grown = 16.0 * job->last_count;
    if (wanted > grown && !(has_beside && agent->site))
        wanted = grown;
    if (wanted < least)
        wanted = least;
    /* A whole group takes somewhat longer, and is one number on its way back. Not when few groups
     * are left: there would be nothing for some workers. */
    const bool reduces = tp_job_reduction(job) != TP_REDUCES_NOTHING;
    if (reduces && wanted < TP_GROUP && wanted >= TP_GROUP / 4.0 && job->queued >= 8 * TP_GROUP)
        wanted = TP_GROUP;
    /* equal parts: a small rest would not be worth the cost of a launch */
    if (tp_agent_site(agent) >= 0)
        wanted = ceil(r->count / fmax(round(r->count / wanted), 1));
    /* a small rest is not worth a slice of its own either */
    if (wanted >= 0.75 * r->count)
        return r->count;
    uint32_t n = (uint32_t)wanted, grain = reduces ? TP_GROUP : type->slice_grain;
    if (grain && n >= grain)
        n -= (r->block->first + r->offset + n) % grain;
    return n;
}

bool tp_job_can_take_locked(tp_engine *e, const tp_executor *ex)
{
    return tp_job_can_take_at_locked(e, ex, UINT64_MAX);
}

bool tp_job_can_take_at_locked(tp_engine *e, const tp_executor *ex, uint64_t sites)
{
    /* After tp_engine_stop nothing can be taken. If this said yes, a worker would try again and
     * again without releasing the lock, and tp_engine_stop waits for that. */
    return !e->is_stopped && pick(e, ex, sites, uv_hrtime(), NULL) != NULL;
}

void tp_engine_set_waiting(tp_engine *e, bool waiting)
{
    atomic_store_explicit(&e->owner_waits, waiting, memory_order_relaxed);
}

/* Locked. Can workers begin an item, or will one be retried? */
static bool has_work(tp_engine *e, uint64_t now)
{
    for (const tp_job *j = e->jobs; j; j = j->next)
        if (j->delayed || j->is_told)
            return true;
    for (const tp_func *f = e->ready_first; f; f = f->next_ready)
        for (const tp_job *j = has_permit(f) ? f->ready_first : NULL; j; j = j->next_ready)
            if (!(j->executor->type->capabilities & TP_BY_OWNER) && can_take(j, now))
                return true;
    return false;
}

bool tp_engine_is_stuck(tp_engine *e, const tp_agent *agent)
{
    uv_mutex_lock(&e->lock);
    bool is_stuck = !agent || atomic_load_explicit(&e->owner_waits, memory_order_relaxed) ||
                    agent->executor->type->capabilities & TP_BY_OWNER;
    for (const tp_slice *s = e->slices; s && is_stuck; s = s->next)
        is_stuck = s->agent->is_blocked || s->is_blocked;
    is_stuck = is_stuck && !has_work(e, uv_hrtime());
    uv_mutex_unlock(&e->lock);
    return is_stuck;
}

bool tp_job_is_stuck(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_stuck = job->running > 0 && job->queued == 0 && !job->delayed;
    for (const tp_slice *s = job->engine->slices; s && is_stuck; s = s->next)
        is_stuck = s->job != job || s->agent->is_blocked || s->is_blocked;
    uv_mutex_unlock(&job->engine->lock);
    return is_stuck;
}

void tp_engine_give_up(tp_engine *e)
{
    uv_mutex_lock(&e->lock);
    for (tp_slice *s = e->slices; s; s = s->next)
        s->agent->is_hopeless = s->agent->is_blocked;
    uv_mutex_unlock(&e->lock);
}

bool tp_job_is_hopeless(tp_agent *a)
{
    uv_mutex_lock(&a->engine->lock);
    bool is = a->is_hopeless;
    uv_mutex_unlock(&a->engine->lock);
    return is;
}

void tp_engine_come_back(tp_engine *e)
{
    uint64_t now = uv_hrtime();
    tp_wakes w = { 0 };
    do {
        w.takers = 0;
        uv_mutex_lock(&e->lock);
        for (tp_job *j = e->jobs; j && !w.takers; j = j->next) {
            if (j->left_ns && now - j->left_ns > TP_PAUSE_NS)
                tp_job_resume(j, &w);
            j->left_ns = 0;
        }
        uv_mutex_unlock(&e->lock);
        tp_wakes_send(&w);
    } while (w.takers);
}

/* Locked. A slice of the job has been taken: is there work for one more worker? */
static bool has_more(const tp_engine *e, const tp_job *job)
{
    if (job->queued && has_permit(job->func) &&
        (job->item_ns <= 0 ||
         (double)job->queued * job->item_ns > small_ns_of(job->executor->type)))
        return true;
    for (const tp_func *f = e->ready_first; f; f = f->next_ready)
        if (f != job->func && has_permit(f))
            return true;
    return job->next_ready && has_permit(job->func);
}

/* ---- taking ---- */

/* Memory for one more slice of the agent, if possible that of an earlier one. Never NULL for an
 * agent that has no slice. */
static tp_slice *new_slice(tp_agent *agent)
{
    tp_slice *s = agent->spare;
    if (s)
        agent->spare = s->next;
    else
        s = calloc(1, sizeof *s);
    return s;
}

/* Locked. Claims a slice of the job; NULL for NULL. */
static tp_slice *take(tp_engine *e, tp_job *job, tp_agent *agent, uint64_t now)
{
    tp_slice *s = job ? new_slice(agent) : NULL;
    /* Only a nested job can be without memory: the agent already runs a slice. An agent with items
     * open tries again later, when one of their slices may be free. */
    if (job && !s && agent->n_open == 0) {
        job->is_starved = true;
        tp_job_cancel_locked(job);
        tp_engine_wake_helpers(e);
    }
    if (!s)
        return NULL;
    tp_range *r = job->queue;
    uint32_t n = slice_count(job, r, agent);
    if (n < r->count) {
        /* Without memory to split the range, the slice takes all of it. */
        tp_range *part = malloc(sizeof *part);
        if (part) {
            *part = *r;
            part->count = n;
            r->offset += n;
            r->count -= n;
            /* the key has grown, but the range stays the root: all others are behind it */
            r->node.key = tp_range_first(r);
            job->queued -= n;
            job->func->queued -= n;
            r = part;
        }
    }
    if (r == job->queue)
        tp_job_dequeue(job);
    tp_job_rotate(job);
    job->last_count = r->count > job->last_count / 4 ? r->count : job->last_count / 4;
    s->agent = agent;
    if (job->beside.executor)
        tp_job_begin_beside(job, s, r, now);
    job->running++;
    job->func->running++;
    job->func->active += r->count;
    if (job->queued == 0 && !job->ended && !job->drained) {
        /* nothing is left to take, so tp_job_room lets the owner read further ahead */
        job->drained = true;
        atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
    }
    s->is_outermost = !agent->worker.current;
    if (s->is_outermost && agent->n_outermost++ == 0) {
        agent->executor->looking--;
        agent->executor->busy++;
    }
    s->level = tp_agent_helper_id(agent);
    const tp_terms *terms = r->lost_at ? job->apart_terms : &job->terms;
    tp_work_open(&s->work, &agent->worker, &slice_sink, terms, r->block, r->offset, r->count,
                 r->attempt);
    s->job = tp_ref_hold(job);
    s->taken_ns = s->started_ns = now;
    s->ran_ns = 0;
    s->thread = uv_thread_self();
    s->has_more = has_more(e, job);
    s->is_cold = false;
    s->compiled_ns = 0;
    s->range = r;
    tp_slice_expect(s);
    s->has_permit = true;
    s->is_permitted = false;
    s->emitted = s->allowed = 0;
    s->is_full = false;
    s->is_lent = s->is_blocked = s->is_in_line = s->is_settled = false;
    s->hit_at = TP_WORK_UNTOLD;
    s->handed = 0;
    s->stuck_ns = 0;
    s->is_shareable = r->count > 1 && agent->worker.vm && !job->terms.batch &&
                      !(job->executor->type->capabilities & TP_BY_OWNER);
    e->n_shareable += s->is_shareable;
    s->work.place = job->place;
    tp_worker_show(&agent->worker);
    if (job->terms.concurrent) {
        if (r->most && (!agent->apart || r->most < agent->apart))
            agent->apart = r->most;
        agent->n_open++;
        tp_agent_count_open(agent, s);
    }
    s->results = NULL;
    s->results_end = &s->results;
    s->prev = NULL;
    s->next = e->slices;
    if (e->slices)
        e->slices->prev = s;
    e->slices = s;
    tp_inside_tell(job);
    tp_work_note(&s->work, TP_EVENT_TAKE, r->offset, r->count);
    TP_ASSERT(tp_job_is_balanced(job));
    return s;
}

tp_slice *tp_job_take_locked(tp_engine *e, tp_executor *ex, tp_agent *agent)
{
    uint64_t now = uv_hrtime();
    if (e->is_stopped)
        return NULL;
    tp_engine_promote_due(e, now);
    return take(e, pick(e, ex, agent->site, now, agent), agent, now);
}

tp_slice *tp_job_take_awaited(tp_agent *agent)
{
    tp_engine *e = agent->engine;
    tp_slice *s = NULL;
    uv_mutex_lock(&e->lock);
    if (!e->is_stopped) {
        uint64_t now = uv_hrtime();
        tp_engine_promote_due(e, now);
        s = take(e, tp_agent_pick_awaited(e, agent, now), agent, now);
    }
    uv_mutex_unlock(&e->lock);
    if (s && e->permits.take && s->job->func->limit) {
        e->permits.take(e->permits.user, s->job->func);
        s->is_permitted = true;
    }
    return s;
}
