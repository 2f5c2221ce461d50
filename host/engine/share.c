/* share.c: slices whose item runs for much longer than was expected. A slice is some items that
 * should take a short time together; but one of them may take hours. It must not keep back what it
 * has nothing to do with: the results of the items before it go to the job, and the items behind it
 * go back, for other workers.
 *
 * Whoever has nothing else to do sees to that: workers without work, and those who wait for
 * results. The worker of the slice cannot, since users' code runs there. What makes it safe to take
 * items from it is told at `ctl` in work.h, what makes it safe to read its results at `access`.
 *
 * The same people see to slices of sites that do not come back at all (late.c). */
#include "engine/job_private.h"

#include <stdlib.h>

enum { LOOKED_AT_MAX = 64 }; /* jobs at once, so that the lock is not held for long */

/* Locked. The offset behind the slice's last item. */
static uint32_t end_of(const tp_slice *s)
{
    return s->range->offset + s->range->count;
}

/* Locked. May other workers run items that the slice has not begun? */
static bool has_rest(const tp_slice *s, uint32_t running)
{
    return running + 1 < end_of(s) && s->job->func->limit != 1 && !s->work.terms->batch;
}

/* Locked. Are there results of the slice's that the job has not got? */
static bool has_results(const tp_slice *s, uint32_t running)
{
    return running > s->range->offset;
}

/* Locked. Can tp_engine_share take something from the slice? Not where the owner itself runs the
 * items, so that nobody waits for them, nor where another process does. */
static bool can_share(const tp_slice *s, uint32_t running)
{
    return s->is_shareable && (has_rest(s, running) || has_results(s, running));
}

/* Locked. Is the item that tp_engine_share has found stuck still the one that runs? */
static bool is_stuck_at(const tp_slice *s, uint32_t running)
{
    return s->stuck_ns && s->stuck_at == running;
}

/* Locked. When tp_engine_share is to look at the slice; 0: it has nothing to take from it. */
static uint64_t when_to_share(const tp_slice *s, uint32_t running)
{
    if (!can_share(s, running))
        return 0;
    return (is_stuck_at(s, running) ? s->stuck_ns : s->started_ns) + TP_SETTLED_NS;
}

/* Locked. For workers of the executor that have nothing to do: asks its slices that have run for
 * long to return after their item, so that these workers can take the rest. Those of processes,
 * too, whose supervisors pass it on; so this looks at slices that find_stuck does not, and not at
 * those of other executors. Gives when the next one is to be asked, or when tp_engine_share is due;
 * 0: neither. */
static uint64_t ask_to_share(tp_engine *e, const tp_executor *ex, uint64_t now)
{
    uint64_t when = 0;
    TP_ASSERT(tp_engine_is_locked(e));
    for (tp_slice *s = e->slices; s; s = s->next) {
        if (s->job->executor != ex)
            continue;
        uint32_t running = (uint32_t)tp_work_running(&s->work);
        uint64_t due = has_rest(s, running) ? s->started_ns + TP_STUCK_NS : 0;
        if (due && due <= now) {
            atomic_store_explicit(&s->work.ctl[1], 1, memory_order_relaxed);
            due = 0;
        }
        if (!due)
            due = when_to_share(s, running);
        if (due && (!when || due < when))
            when = due;
    }
    return when;
}

/* Locked. Is one of the jobs that have something to run so? */
static bool any_ready(const tp_engine *e, bool (*is_so)(const tp_job *))
{
    int n = 0;
    for (const tp_func *f = e->ready_first; f && n < LOOKED_AT_MAX; f = f->next_ready)
        for (const tp_job *j = f->ready_first; j && n < LOOKED_AT_MAX; j = j->next_ready, n++)
            if (is_so(j))
                return true;
    return false;
}

uint64_t tp_job_idle_until(tp_engine *e, tp_executor *ex)
{
    uint64_t now = uv_hrtime(), until = ask_to_share(e, ex, now), late;
    if (tp_engine_find_late(e, now, &late))
        late = now + TP_SETTLED_NS; /* whoever looks sees to it */
    if (!late && any_ready(e, tp_job_has_beside)) /* a site may begin one, and nobody be told */
        late = now + TP_SETTLED_NS;
    if (late && (!until || late < until))
        until = late;
    if (e->next_due != UINT64_MAX && (!until || e->next_due < until))
        until = e->next_due;
    return until;
}

bool tp_slice_take_back_rest(tp_slice *s, uint32_t from)
{
    tp_job *job = s->job;
    tp_wakes w = { 0 };
    uv_mutex_lock(&job->engine->lock);
    tp_range *part = has_rest(s, from - 1) ? malloc(sizeof *part) : NULL;
    if (part) {
        *part = *s->range;
        part->offset = from;
        part->count = end_of(s) - from;
        s->range->count -= part->count;
        tp_job_put_back(job, part);
        tp_job_wake(job, &w);
        tp_engine_wake_helpers(job->engine);
        TP_ASSERT(tp_job_is_balanced(job));
    }
    uv_mutex_unlock(&job->engine->lock);
    tp_wakes_send(&w);
    return part != NULL;
}

uint64_t tp_job_withdraw(tp_job *job)
{
    tp_range *all = NULL;
    uv_mutex_lock(&job->engine->lock);
    uint64_t first = job->pushed;
    while (job->queue) { /* the last one comes to stand first */
        tp_range *r = tp_job_dequeue(job);
        r->next = all;
        all = r;
    }
    /* what has killed a process stays, so that this is not forgotten */
    for (const tp_range *r = all;
         r && tp_range_first(r) + r->count == first && r->crashes == 0 && r->most == 0; r = r->next)
        first = tp_range_first(r);
    for (tp_range *r = all, *next; r; r = next) {
        next = r->next;
        tp_job_enqueue(job, r);
    }
    if (first > 0 && !job->is_cancelled)
        tp_job_skip_queued(job, first - 1);
    TP_ASSERT(tp_job_is_balanced(job));
    uv_mutex_unlock(&job->engine->lock);
    return first;
}

/* Locked. May somebody begin a slice of several items of it, or a site one, which nobody would be
 * told of? */
static bool may_need_sharing(const tp_job *j)
{
    return tp_job_has_beside(j) ||
           (j->queued > 1 && j->item_ns > 0 && j->item_ns < (double)TP_SETTLED_NS &&
            !j->terms.concurrent && !j->terms.batch &&
            (j->executor->type->capabilities & (TP_SHARES_MEMORY | TP_BY_OWNER)) ==
                TP_SHARES_MEMORY);
}

/* Locked. Finds a slice that keeps something back although its item has run for TP_SETTLED_NS since
 * it was asked to return after it; asks those that run for long. It is found again only after that
 * time. NULL: there is none; then *when is the time at which to look again, or 0. */
static tp_slice *find_stuck(tp_engine *e, uint64_t now, uint64_t *when)
{
    *when = 0;
    for (tp_slice *s = e->n_shareable > 0 ? e->slices : NULL; s; s = s->next) {
        uint32_t running = (uint32_t)tp_work_running(&s->work);
        uint64_t due = when_to_share(s, running);
        if (!due)
            continue;
        if (due <= now) {
            const bool is_same = is_stuck_at(s, running);
            if (!is_same && has_rest(s, running))
                atomic_store_explicit(&s->work.ctl[1], 1, memory_order_relaxed);
            /* not `now`, which may be long over: it counts from the store */
            s->stuck_at = running;
            s->stuck_ns = uv_hrtime();
            if (is_same)
                return s;
            due = s->stuck_ns + TP_SETTLED_NS;
        }
        if (!*when || due < *when)
            *when = due;
    }
    return NULL;
}

uint64_t tp_engine_share(tp_engine *e)
{
    uint64_t now = uv_hrtime(), when, late;
    uv_mutex_lock(&e->lock);
    for (tp_slice *s; (s = tp_engine_find_late(e, now, &late));) {
        tp_wakes w = { 0 };
        tp_slice_lose(s, now, &w);
        uv_mutex_unlock(&e->lock);
        tp_wakes_send(&w);
        uv_mutex_lock(&e->lock);
    }
    for (tp_slice *s; (s = find_stuck(e, now, &when));) {
        uint32_t running = s->stuck_at;
        /* The worker cannot finish the slice while it is read. Else it is about to go on. */
        if (!tp_work_try_read(&s->work))
            continue;
        /* It may just have gone on, and expose the results again. */
        if ((uint32_t)tp_work_running(&s->work) != running) {
            tp_work_end_read(&s->work);
            continue;
        }
        uv_mutex_unlock(&e->lock);
        tp_work_collect(&s->work, running);
        tp_slice_hand_over(s, now - TP_SETTLED_NS);
        tp_slice_take_back_rest(s, running + 1);
        tp_work_end_read(&s->work);
        uv_mutex_lock(&e->lock);
    }
    if (!when && any_ready(e, may_need_sharing))
        when = now + TP_SETTLED_NS;
    /* that of a site that has begun a slice meanwhile is found within this time, too */
    if (late && (!when || late < when))
        when = late;
    uv_mutex_unlock(&e->lock);
    return when;
}
