/* wait.c: waiting for jobs: the owner's way, in which its waiter is woken, and an agent's inside an
 * item, which helps meanwhile. */
#include "engine/job_private.h"

uint32_t tp_job_eventcount(tp_job *job)
{
    return atomic_load_explicit(&job->eventcount, memory_order_acquire);
}

bool tp_job_await(tp_job *job, uint32_t seen)
{
    uv_mutex_lock(&job->engine->lock);
    bool is_news = atomic_load_explicit(&job->eventcount, memory_order_relaxed) != seen;
    job->is_awaited = !is_news;
    uv_mutex_unlock(&job->engine->lock);
    return !is_news;
}

void tp_job_unawait(tp_job *job)
{
    uv_mutex_lock(&job->engine->lock);
    tp_job_untell(job);
    uv_mutex_unlock(&job->engine->lock);
}

tp_job *tp_job_collect(tp_engine *e, tp_waiter *w)
{
    uv_mutex_lock(&e->lock);
    tp_job *job = w->news_first;
    if (job) {
        /* the owner may have looked since it was told, and have asked for the next news */
        bool is_awaited = job->is_awaited;
        tp_job_untell(job);
        job->is_awaited = is_awaited;
    }
    uv_mutex_unlock(&e->lock);
    return job;
}

bool tp_job_can_collect(tp_engine *e, const tp_waiter *w)
{
    uv_mutex_lock(&e->lock);
    bool can = w->news_first != NULL;
    uv_mutex_unlock(&e->lock);
    return can;
}

void tp_job_begin_wait(tp_agent *a, tp_job *const *jobs, unsigned n)
{
    uv_mutex_lock(&a->engine->lock);
    for (unsigned i = 0; i < n; i++)
        jobs[i]->helper = tp_agent_helper_id(a);
    uv_mutex_unlock(&a->engine->lock);
    if (a->worker.current)
        a->worker.current->sink->release_permit(a->worker.current);
}

void tp_job_end_wait(tp_agent *a, tp_job *const *jobs, unsigned n)
{
    uv_mutex_lock(&a->engine->lock);
    for (unsigned i = 0; i < n; i++)
        jobs[i]->helper = NULL;
    uv_mutex_unlock(&a->engine->lock);
    if (a->worker.current)
        a->worker.current->sink->take_permit(a->worker.current);
}

/* Locked. Is there a reason for an agent that waits for these jobs not to sleep? `is_open`: nor for
 * its items that wait beside each other. */
static bool has_any(tp_engine *e, tp_agent *a, tp_job *const *jobs, const uint32_t *seen,
                    unsigned n, bool is_open, uint64_t now)
{
    for (unsigned i = 0; i < n; i++)
        if (atomic_load_explicit(&jobs[i]->eventcount, memory_order_relaxed) != seen[i])
            return true;
    if (!is_open)
        return tp_agent_pick_awaited(e, a, now) != NULL;
    return a->waiter.news_first ||
           atomic_load_explicit(&e->cancels, memory_order_relaxed) != a->cancels_seen ||
           tp_agent_can_take(e, a, now);
}

/* Locked; releases the lock while it sleeps. Sleeps until a time (uv_hrtime; 0: no time), or until
 * the agent is woken. */
static void sleep_until(tp_agent *a, uint64_t now, uint64_t until,
                        void (*wait)(tp_agent *agent, uint64_t until_ns))
{
    uv_mutex_t *lock = &a->engine->lock;
    if (wait) {
        uv_mutex_unlock(lock);
        wait(a, until ? until : UINT64_MAX);
        uv_mutex_lock(lock);
    } else if (until) {
        uv_cond_timedwait(&a->cond, lock, until > now ? until - now : 1);
    } else {
        uv_cond_wait(&a->cond, lock);
    }
}

void tp_job_sleep(tp_agent *a, tp_job *const *jobs, const uint32_t *seen, unsigned n,
                  uint64_t deadline_ns, void (*wait)(tp_agent *agent, uint64_t until_ns))
{
    tp_engine *e = a->engine;
    uv_mutex_lock(&e->lock);
    uint64_t now = uv_hrtime();
    tp_engine_promote_due(e, now);
    if (now < deadline_ns && !has_any(e, a, jobs, seen, n, wait != NULL, now)) {
        uint64_t until = deadline_ns == UINT64_MAX ? 0 : deadline_ns;
        if (wait) {
            uint64_t due = tp_job_idle_until(e, a->executor);
            if (due && (!until || due < until))
                until = due;
        }
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
        uint64_t number = n > 0 ? jobs[0]->terms.number : 0;
        tp_trace_note(&e->trace, TP_EVENT_WAIT, a->worker.id, number, 0, 0);
        sleep_until(a, now, until, wait);
        tp_trace_note(&e->trace, TP_EVENT_WAKE, a->worker.id, number, 0, 0);
        tp_agent **at = &e->helpers;
        while (*at != a)
            at = &(*at)->next_helper;
        *at = a->next_helper;
        for (unsigned i = 0; i < n; i++)
            tp_job_untell(jobs[i]);
    }
    uv_mutex_unlock(&e->lock);
}
