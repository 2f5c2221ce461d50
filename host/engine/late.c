/* late.c: sites that do not come back from a slice of a job that workers run beside them: a device
 * that hangs, a driver that never returns, a kernel that runs and runs. Nothing can stop those; but
 * what a site runs has no effect but its results, so workers can run the items instead.
 *
 * Whoever waits for results or for work looks (tp_engine_share). A slice that is late is lost: its
 * items go back, whatever of them the site has done, so that each has one result. The site's thread
 * goes on with the slice, in which nobody has an interest any more, and ends it when it comes back
 * (tp_slice_end_lost in beside.c, where it also stands when a slice is late). Until then the slice
 * holds what the site may still read and write: the job, its arrays, the block of inputs. So that
 * the site cannot change results behind their reader's back, those of the items that went back do
 * not go to the job's arrays: they get blocks of their own, and the reader makes new arrays
 * (lua/tidepool/results.lua).
 *
 * Meanwhile the site is given nothing of such jobs. */
#include "engine/job_private.h"

#include <stdlib.h>

/* Locked. The terms of items that went back; NULL: no memory. */
static tp_terms *own_terms(tp_job *job)
{
    if (job->apart_terms)
        return job->apart_terms;
    job->apart_terms = malloc(sizeof *job->apart_terms);
    if (job->apart_terms) {
        *job->apart_terms = job->terms;
        for (uint32_t c = 0; c < TP_COLUMNS_MAX; c++)
            job->apart_terms->returns.array[c] = NULL;
    }
    return job->apart_terms;
}

tp_slice *tp_engine_find_late(tp_engine *e, uint64_t now, uint64_t *when)
{
    *when = 0;
    for (tp_slice *s = e->n_losable > 0 ? e->slices : NULL; s; s = s->next) {
        if (!s->late_ns || tp_job_is_unwanted(s->job))
            continue;
        if (s->late_ns <= now && own_terms(s->job))
            return s;
        if (!*when || s->late_ns < *when)
            *when = s->late_ns;
    }
    return NULL;
}

/* Locked. The job's workers are to be woken, who may be those of other jobs in *w. */
static void wake_workers(const tp_job *job, tp_wakes *w)
{
    tp_wakes own = { 0 };
    tp_job_wake(job, &own);
    w->executor = own.executor;
    w->takers += own.takers;
}

/* Locked. No job that has workers, all of one executor, is given to that site of `ex` any more. */
static void leave_site(tp_engine *e, tp_executor *ex, uint64_t site, tp_wakes *w)
{
    ex->lost_sites |= site;
    for (tp_job *job = e->jobs; job; job = job->next) {
        if (job->beside.executor != ex || !(job->sites & site))
            continue;
        job->sites &= ~site;
        wake_workers(job, w);
    }
}

/* Locked. Takes the slice out of the engine's list of those that run. */
static void unlink_slice(tp_engine *e, tp_slice *s)
{
    *(s->prev ? &s->prev->next : &e->slices) = s->next;
    if (s->next)
        s->next->prev = s->prev;
}

void tp_slice_lose(tp_slice *s, uint64_t now, tp_wakes *w)
{
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    tp_agent *agent = s->agent;
    TP_ASSERT(tp_engine_is_locked(e) && s->late_ns && !s->is_lost);
    unlink_slice(e, s);
    s->next = e->lost;
    e->lost = s;
    s->is_lost = true;
    s->late_ns = 0;
    e->n_losable--;
    atomic_store_explicit(&s->work.ctl[1], 1, memory_order_relaxed);
    if (s->is_outermost && --agent->n_outermost == 0)
        agent->executor->busy--;
    job->running--;
    job->at_sites--;
    job->since_ns = job->run_began_ns = 0;
    if (s->has_permit)
        job->func->running--;
    s->has_permit = false;
    tp_func_wake_resuming(job->func);
    int site = tp_agent_site(agent);
    job->func->site_ns[site] = (float)((double)(now - s->started_ns) / s->range->count);
    job->func->site_seen_ns[site] = 0;
    job->lost_items += s->range->count;
    job->lost_site = site;
    s->work.block->open++; /* the site may read it until the slice is ended */
    tp_range *r = s->range;
    s->range = NULL;
    r->lost_at = site + 1;
    tp_work_note(&s->work, TP_EVENT_LOSE, r->offset, r->count);
    tp_job_put_back(job, r);
    leave_site(e, agent->executor, agent->site, w);
    wake_workers(job, w);
    tp_engine_wake_helpers(e);
    TP_ASSERT(tp_job_is_balanced(job));
}

uint64_t tp_job_lost_items(tp_job *job, int *site)
{
    uv_mutex_lock(&job->engine->lock);
    uint64_t n = job->lost_items;
    *site = job->lost_site;
    uv_mutex_unlock(&job->engine->lock);
    return n;
}
