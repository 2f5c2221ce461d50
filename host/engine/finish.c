/* finish.c: the end of a slice: its results, retries, the items that go back, what its time teaches
 * the schedule; and the slices of a worker that has died. */
#include "engine/job_private.h"

#include "base/deadline.h"
#include "codec/glance.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef TP_ASSERTS
/* Does each finished item of the slice have exactly one result, in order, and no other item any? */
static bool has_its_results(const tp_slice *s)
{
    const tp_work *w = &s->work;
    uint64_t next = w->block->first + w->offset + s->handed;
    for (const tp_block *b = s->results; b; b = b->next) {
        TP_ASSERT(b->n > 0 && b->first == next);
        next += b->n;
    }
    return next == w->block->first + w->at && w->at <= tp_work_end(w) && !w->numbers && !w->values;
}
#else
bool has_its_results(const tp_slice *s); /* not defined: what TP_ASSERT names is not evaluated */
#endif

static double random_unit(tp_job *job)
{
    job->random ^= job->random << 13; /* xorshift64, Marsaglia 2003 */
    job->random ^= job->random >> 7;
    job->random ^= job->random << 17;
    return (double)(job->random >> 11) * 0x1p-53;
}

/* Locked. Has the owner been given values of this attempt (streams)? Then the item cannot be run
 * again. Those of a worker that has died, none of which was read, are dropped: it may have died of
 * something that is no matter of the item. An error is the item's, and comes after its values. */
static bool has_given(tp_job *job, const tp_slice *s, const tp_block *failure)
{
    tp_block *dropped = NULL;
    if (s->emitted == 0)
        return false;
    bool is_dropped = failure->is_crash &&
                      tp_job_drop_values(job, failure->first, s->emitted, &dropped);
    tp_block_free_list(dropped);
    return !is_dropped;
}

/* Locked. Puts the failed item in line for its next attempt; false when it has none left. */
static bool retry(tp_job *job, const tp_slice *s, const tp_block *failure)
{
    const tp_retries *t = &job->retries;
    const tp_work *w = &s->work;
    uint32_t crashes = s->range->crashes;
    bool may_retry = failure->is_crash ? crashes < t->crashes
                                       : failure->may_retry && w->attempt - crashes <= t->max;
    if (!may_retry || failure->first > job->stop_at)
        return false;
    tp_range *r = malloc(sizeof *r);
    if (!r || has_given(job, s, failure)) {
        free(r);
        return false;
    }
    bool is_delayed = t->initial_delay_s > 0 && !failure->is_crash;
    /* 0 times infinity is NaN: no delay */
    double delay = is_delayed ? t->initial_delay_s * pow(t->backoff, w->attempt - crashes - 1) : 0;
    if (!(delay < t->max_delay_s))
        delay = t->max_delay_s;
    delay *= 1 + t->jitter * (2 * random_unit(job) - 1);
    *r = (tp_range){ .block = w->block,
                     .offset = (uint32_t)(failure->first - w->block->first),
                     .count = 1,
                     .attempt = w->attempt + 1,
                     .crashes = crashes + failure->is_crash,
                     .lost_at = s->range->lost_at };
    job->retried++;
    tp_range_push(&job->delayed, r, tp_deadline_after(delay));
    job->n_delayed++;
    if (job->delayed->node.key < job->engine->next_due)
        job->engine->next_due = job->delayed->node.key;
    return true;
}

bool tp_job_count_failure(tp_job *job, const tp_block *b)
{
    job->failed++;
    if (job->keep_going || b->first >= job->stop_at)
        return false;
    tp_job_stop_behind(job, b->first);
    return true;
}

void tp_job_add_result(tp_job *job, tp_block *b)
{
    job->bytes += tp_block_size(b);
    b->next = NULL;
    *job->done_end = b;
    job->done_end = &b->next;
}

/* Locked. Notes an event about the item of that failure, with its message. */
static void note_failure(const tp_slice *s, tp_event_kind kind, const tp_block *b)
{
    char message[TP_NAME_MAX];
    tp_trace *trace = &s->job->engine->trace;
    if (!tp_trace_is_on(trace))
        return;
    tp_engine_keep_failure(s->job->engine, s, b, kind == TP_EVENT_RETRY);
    tp_glance_item(b, 0, message, sizeof message);
    /* the lock of the names is a leaf */
    tp_work_note(&s->work, kind, (uint32_t)(b->first - s->work.block->first),
                 tp_trace_name(trace, message, strlen(message)));
}

/* Locked. Counts a block of results and hands it to the owner. True when the owner can use it
 * now. */
static bool take_result(tp_job *job, const tp_slice *s, tp_block *b)
{
    bool is_news = !job->ordered || (b->first <= job->awaited && job->awaited < b->first + b->n);
    tp_func *f = job->func;
    if (b->kind == TP_BLOCK_FAILURE && !job->is_cancelled && retry(job, s, b)) {
        f->active--;
        note_failure(s, TP_EVENT_RETRY, b);
        if (!job->retries.notify) {
            tp_block_free(b);
            return false;
        }
        b->kind = TP_BLOCK_RETRY;
        is_news = true;
    } else {
        TP_ASSERT(tp_engine_is_locked(job->engine) && f->active >= b->n &&
                  job->pushed - job->finished >= b->n);
        f->active -= b->n;
        job->finished += b->n;
        if (b->kind == TP_BLOCK_FAILURE) {
            note_failure(s, TP_EVENT_FAIL, b);
            f->failed++;
            is_news |= tp_job_count_failure(job, b);
        } else {
            f->done += b->n;
            tp_job_count_kept(job, b->n);
        }
        tp_job_release_inputs(job, s->work.block, b->n);
    }
    if (job->is_cancelled) {
        tp_block_free(b);
        return false;
    }
    tp_job_add_result(job, b);
    return is_news;
}

void tp_job_put_back(tp_job *job, tp_range *r)
{
    TP_ASSERT(tp_engine_is_locked(job->engine));
    job->func->active -= r->count;
    tp_block *inputs = r->block;
    uint64_t first = tp_range_first(r);
    if (r->count > 0 && !job->is_cancelled && first <= job->stop_at) {
        uint64_t allowed = job->stop_at - first;
        if (allowed < r->count - 1) {
            tp_job_skip(job, inputs, r->count - 1 - (uint32_t)allowed);
            r->count = (uint32_t)allowed + 1;
        }
        tp_job_enqueue(job, r);
        return;
    }
    if (r->count > 0)
        tp_job_skip(job, inputs, r->count);
    free(r);
}

/* Locked. Updates the time that an item takes, from a slice that ran n of them until `now`. */
static void learn(tp_job *job, const tp_slice *s, uint32_t n, uint64_t now)
{
    if (n == 0)
        return;
    double ns = (double)(s->ran_ns ? s->ran_ns : now - s->started_ns) / n;
    tp_func_count(job->func, n, ns);
    if (job->beside.executor && s->agent->site)
        return;
    if (ns < 0.1)
        ns = 0.1;
    /* In a short slice the fixed cost of any slice is much of its time. So when items seem slower
     * than was known, a slice below TP_SMALL_NS counts less, by the square of its length. */
    double length = ns * n / TP_SMALL_NS;
    double weight = ns > job->item_ns && length < 1 ? length * length : 1;
    job->item_ns = job->item_ns > 0 ? job->item_ns + weight * (ns - job->item_ns) / 2 : ns;
    job->func->item_ns = job->item_ns;
    int site = tp_agent_site(s->agent);
    if (site >= 0) {
        float *known = &job->func->site_ns[site];
        *known = *known > 0 ? (*known + (float)ns) / 2 : (float)ns;
    }
}

/* Locked. The next n items of the slice have their results. */
static void count_done(tp_slice *s, uint32_t n)
{
    s->range->offset += n;
    s->range->count -= n;
}

/* Notes in the slice's results how their `done` items were run, until `now`. */
static void note_times(const tp_slice *s, uint32_t done, uint64_t now)
{
    tp_ran ran = { .queued_ns = s->work.block->ran.queued_ns,
                   .ns_per_item = (double)(now - s->started_ns) / (done ? done : 1),
                   .attempt = s->work.attempt,
                   .worker = s->agent->worker.index,
                   .site = tp_agent_site(s->agent) + 1,
                   .lost_at = s->range->lost_at,
                   .compiled_ns = s->compiled_ns };
    uint64_t first = s->work.block->first + s->work.offset + s->handed;
    for (tp_block *b = s->results; b; b = b->next) {
        ran.started_ns = s->started_ns + (uint64_t)((double)(b->first - first) * ran.ns_per_item);
        b->ran = ran;
        ran.compiled_ns = 0; /* the first block tells it */
    }
}

/* Notes the input of a slice whose last item took long. */
static void note_input(const tp_slice *s, uint32_t done, uint64_t now)
{
    char text[TP_INPUT_TEXT + 1];
    const tp_work *w = &s->work;
    if (done != 1 || now - s->started_ns < TP_INPUT_MIN_NS)
        return;
    tp_glance_item(w->block, w->at - 1, text, sizeof text);
    tp_trace_input(w->worker->trace, w->worker->id, text);
}

/* The index of the slice's first item whose result may be a consequence of the job's cancellation,
 * so that it must not be recorded: one may notice it where it waits, and so may maps inside of it,
 * which are cancelled too. The items before it were over by then. Other machines are told by
 * tp_flight_end_unwanted, which takes nothing from them any more. */
static uint64_t end_of_recorded(const tp_slice *s)
{
    tp_engine *e = s->job->engine;
    uv_mutex_lock(&e->lock);
    uint32_t first = s->hit_at;
    uv_mutex_unlock(&e->lock);
    uint32_t told = atomic_load_explicit(&s->work.told_at, memory_order_relaxed);
    if (told < first)
        first = told;
    return first == TP_WORK_UNTOLD ? UINT64_MAX : s->work.block->first + first;
}

/* Gives the slice's results to the recorder. When that fails, the job is given up. */
static void record(const tp_slice *s)
{
    tp_job *job = s->job;
    tp_error err;
    tp_error_clear(&err);
    if (!s->results)
        return;
    const tp_ran *ran = &s->results->ran;
    if (job->recorder->record(job->recorder, s->work.block, s->results, end_of_recorded(s), ran,
                              &err))
        tp_job_give_up(job, &err);
    else
        atomic_store_explicit(&job->engine->has_recorded, true, memory_order_relaxed);
}

/* Locked. Of jobs that both workers and sites may run, those of the two who run nothing of a job
 * that is offered to them now. `own`: a job of which the agent has just finished a slice, and takes
 * more; or NULL. */
static void wake_beside(tp_engine *e, const tp_job *own, const tp_agent *agent, tp_wakes *w)
{
    for (const tp_func *f = e->ready_first; f; f = f->next_ready)
        for (const tp_job *job = f->worker_ns > 0 ? f->ready_first : NULL; job;
             job = job->next_ready) {
            bool is_own = agent && job == own;
            bool has_workers = job->running > job->at_sites || (is_own && !agent->site);
            bool has_sites = job->at_sites > 0 || (is_own && agent->site);
            if (!tp_job_has_beside(job))
                continue;
            if (tp_job_is_making_due(job))
                w->beside = job->beside.executor;
            if (has_workers && has_sites)
                continue;
            tp_offer offer = tp_job_offer(job);
            if (offer.workers && !has_workers) {
                w->executor = job->executor; /* which those jobs have in common */
                w->takers += tp_job_takers(job);
            }
            if (offer.sites && !has_sites)
                w->beside = job->beside.executor;
        }
    if (w->takers || w->beside)
        tp_engine_wake_helpers(e);
}

void tp_engine_wake_beside(tp_engine *e)
{
    tp_wakes w = { 0 };
    uv_mutex_lock(&e->lock);
    wake_beside(e, NULL, NULL, &w);
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&w);
}

/* Locked. The job takes the results of the slice's next n items, which were over at that time. True
 * when the owner can use one now. */
static bool take_results(tp_slice *s, uint32_t n, uint64_t over_ns)
{
    bool is_news = false;
    learn(s->job, s, n, over_ns);
    count_done(s, n);
    while (s->results) {
        tp_block *next = s->results->next;
        is_news |= take_result(s->job, s, s->results);
        s->results = next;
    }
    s->results_end = &s->results;
    return is_news;
}

void tp_slice_hand_over(tp_slice *s, uint64_t over_ns)
{
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    tp_wakes w = { 0 };
    uint32_t n = 0;
    for (const tp_block *b = s->results; b; b = b->next)
        n += b->n;
    if (n == 0)
        return;
    uv_mutex_lock(&e->lock);
    double took = job->item_ns * n;
    uv_mutex_unlock(&e->lock);
    if (over_ns < s->started_ns)
        over_ns = s->started_ns;
    if (took > 0 && took < (double)(over_ns - s->started_ns))
        over_ns = s->started_ns + (uint64_t)took;
    note_times(s, n, over_ns);
    if (job->recorder)
        record(s);
    uv_mutex_lock(&e->lock);
    uint64_t due = e->next_due;
    /* The slice uses its inputs until it is finished, also when a process has come to the end of
     * its last item meanwhile. */
    if (s->handed == 0)
        s->work.block->open++;
    if (take_results(s, n, over_ns)) {
        atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
        w.owner = tp_job_tell(job);
    }
    s->handed += n;
    s->started_ns = over_ns; /* of the item that runs */
    if (e->next_due < due) { /* those who sleep know only of earlier retries */
        w.executor = job->executor;
        w.takers = 1;
        tp_engine_wake_helpers(e);
    }
    TP_ASSERT(tp_job_is_balanced(job));
    uv_mutex_unlock(&e->lock);
    tp_wakes_send(&w);
}

void tp_job_finish(tp_slice *s)
{
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    tp_agent *agent = s->agent;
    tp_block *inputs = s->work.block;
    tp_wakes w = { 0 }, others = { 0 };
    if (s->may_be_lost && tp_slice_end_lost(s))
        return;
    if (s->is_permitted)
        e->permits.release(e->permits.user, job->func);
    tp_work_close(&s->work);
    TP_ASSERT(!s->work.is_exposed);
    const uint32_t done = s->work.at - s->work.offset - s->handed;
    tp_work_note(&s->work, TP_EVENT_FINISH, s->work.offset, s->handed + done);
    uint64_t now = uv_hrtime();
    note_times(s, done, now);
    if (tp_trace_is_on(&e->trace))
        note_input(s, done, now);
    if (job->recorder) {
        record(s);
        now = uv_hrtime();
    }
    uv_mutex_lock(&e->lock);
    /* The second condition fails when a slice is finished twice: the first time has taken it out of
     * the list. */
    TP_ASSERT(has_its_results(s));
    TP_ASSERT((s->prev ? s->prev->next : e->slices) == s && (!s->next || s->next->prev == s));
    TP_ASSERT(job->running > 0 && (!s->has_permit || job->func->running > 0));
    *(s->prev ? &s->prev->next : &e->slices) = s->next;
    if (s->next)
        s->next->prev = s->prev;
    bool goes_on = s->is_outermost && job->queue; /* the agent looks for more of it */
    if (s->is_outermost && --agent->n_outermost == 0) {
        agent->executor->looking++;
        agent->executor->busy--;
    }
    if (s->is_in_line)
        tp_slice_leave_line(s, job->func);
    if (job->terms.concurrent) {
        if (s->is_lent)
            agent->n_lent--;
        else
            tp_agent_uncount_open(agent, s);
        if (--agent->n_open == 0)
            agent->apart = 0;
    } else if (agent->n_open > 0) {
        tp_agent_end_level(agent, &s->work);
    }
    e->n_shareable -= s->is_shareable;
    job->running--;
    job->promised -= s->allowed > s->emitted ? s->allowed - s->emitted : 0;
    job->at_sites -= job->beside.executor && agent->site;
    if (s->has_permit)
        job->func->running--;
    if (job->beside.executor)
        tp_job_learn_beside(job, s, done, now);
    /* The inputs must outlive the next two calls, which release them item by item; one more `open`
     * keeps them. */
    inputs->open++;
    bool is_news = take_results(s, done, now);
    tp_range *rest = s->range;
    bool is_shared = rest->count > 0;
    if (s->work.is_torn)
        rest->most = (rest->count + 1) / 2;
    tp_job_put_back(job, rest);
    tp_job_release_inputs(job, inputs, s->handed > 0 ? 2 : 1);
    if (job->ended && job->finished == job->pushed)
        is_news = true;
    if (job->queued == 0 && !job->ended)
        is_news = true;
    if (is_news) {
        atomic_fetch_add_explicit(&job->eventcount, 1, memory_order_release);
        w.owner = tp_job_tell(job);
    }
    if (job->beside.executor && !job->queue && job->running == 0)
        tp_job_rest_beside(job);
    tp_func_wake_resuming(job->func);
    if (is_shared || job->func->limit)
        tp_engine_wake_helpers(e);
    if (is_shared && job->queued)
        tp_job_wake(job, &w);
    if (agent->site || job->beside.executor)
        wake_beside(e, goes_on ? job : NULL, agent, &others);
    tp_inside_tell(job);
    TP_ASSERT(tp_job_is_balanced(job));
    uv_mutex_unlock(&e->lock);
    s->next = agent->spare;
    agent->spare = s;
    tp_wakes_send(&w);
    tp_wakes_send(&others);
    tp_ref_drop(job);
}

bool tp_job_leave_site(tp_job *job, uint64_t site)
{
    uv_mutex_lock(&job->engine->lock);
    bool has_others = (job->sites & ~site) != 0 || job->beside.executor;
    bool falls_back = !has_others && job->fallback;
    if (has_others || falls_back)
        job->sites &= ~site;
    if (falls_back) {
        job->executor = job->fallback;
        /* nobody reads it concurrently: only Lua asks for it, and no Lua runs yet */
        job->terms.executor = job->fallback->type->name;
        job->item_ns = 0; /* it was measured at the sites that are left */
        job->last_count = 0;
    }
    uv_mutex_unlock(&job->engine->lock);
    return has_others || falls_back;
}

bool tp_job_has_workers(const tp_job *job)
{
    return job->beside.executor != NULL; /* set before a site takes the first slice */
}

bool tp_job_settle(tp_slice *slice)
{
    tp_job *job = slice->job;
    uv_mutex_lock(&job->engine->lock);
    slice->is_settled = true;
    bool is_last = !job->queue && !job->delayed &&
                   (job->ended || job->total < 0 || job->pushed >= (uint64_t)job->total);
    for (const tp_slice *s = job->engine->slices; s && is_last; s = s->next)
        is_last = s->job != job || s->is_settled;
    is_last = is_last || tp_job_is_unwanted(job);
    uv_mutex_unlock(&job->engine->lock);
    return is_last;
}

bool tp_job_is_settled(tp_job *job)
{
    bool is_settled = true;
    uv_mutex_lock(&job->engine->lock);
    for (const tp_slice *s = job->engine->slices; s && is_settled; s = s->next)
        is_settled = s->job != job || s->is_settled;
    uv_mutex_unlock(&job->engine->lock);
    return is_settled;
}

/* A slice of the agent's that is not finished; NULL: it has none. */
static tp_slice *find_open(tp_agent *agent)
{
    uv_mutex_lock(&agent->engine->lock);
    tp_slice *s = agent->engine->slices;
    while (s && s->agent != agent)
        s = s->next;
    uv_mutex_unlock(&agent->engine->lock);
    return s;
}

void tp_job_lose(tp_agent *agent, tp_block *(*make_failure)(void *user, tp_slice *slice),
                 void *user)
{
    for (tp_slice *s; (s = tp_slice_of(agent->worker.current));) {
        tp_work *w = &s->work;
        tp_work_cover(w);
        uv_mutex_lock(&agent->engine->lock);
        w->count = s->range->offset + s->range->count - w->offset; /* others may have some */
        uv_mutex_unlock(&agent->engine->lock);
        uint32_t end = tp_work_end(w), failed;
        /* else all items were over, and the work waited for calls that they had spawned */
        if (tp_work_recover(w) && !tp_work_tear(w, end))
            do {
                failed = w->at;
                tp_work_fail(w, make_failure(user, s));
            } while (w->terms->batch && w->at > failed && w->at < end);
        tp_job_finish(s);
    }
    /* items that waited beside the one that ran go to other workers: they were not at fault */
    for (tp_slice *s; (s = find_open(agent));) {
        tp_work_enter(&s->work);
        tp_job_finish(s);
    }
}

/* Locked. Cancels the job because of err, unless that has happened before. */
static void give_up(tp_job *job, const tp_error *err)
{
    job->lost = malloc(sizeof *job->lost);
    if (job->lost)
        *job->lost = *err;
    else
        job->is_starved = true;
    tp_job_cancel_locked(job);
}

void tp_job_lose_all(tp_engine *e, const tp_executor *ex, const tp_error *err)
{
    uv_mutex_lock(&e->lock);
    for (tp_job *j = tp_engine_oldest_job(e); j; j = j->prev)
        if (j->executor == ex && !j->is_cancelled)
            give_up(j, err);
    tp_engine_tell_cancelled(e);
    uv_mutex_unlock(&e->lock);
}

void tp_job_give_up(tp_job *job, const tp_error *err)
{
    uv_mutex_lock(&job->engine->lock);
    if (!job->is_cancelled)
        give_up(job, err);
    uv_mutex_unlock(&job->engine->lock);
    tp_job_cancel(job); /* and what is below it */
}

const tp_error *tp_job_lost(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    const tp_error *lost = job->lost;
    uv_mutex_unlock(&job->engine->lock);
    return lost;
}
