/* idle.c: how the threads of an executor wait for work. See idle.h. */
#include "workers/idle.h"

#include "base/invariant.h"

#include <sched.h>

int tp_idle_open(tp_idle *idle, tp_executor *executor, uint64_t spin_ns, tp_error *err)
{
    idle->executor = executor;
    idle->engine = executor->host->engine;
    idle->spin_ns = spin_ns;
    return uv_cond_init(&idle->ended)
               ? tp_error_set(err, TP_ESYS, "cannot create a condition variable")
               : 0;
}

void tp_idle_close(tp_idle *idle)
{
    uv_cond_destroy(&idle->ended);
}

void tp_idle_add(tp_idle *idle, tp_agent *a)
{
    TP_ASSERT(tp_engine_is_locked(idle->engine) && !a->is_asleep);
    a->next_asleep = idle->asleep;
    idle->asleep = a;
    idle->n_sleeping++;
    a->is_asleep = true;
}

void tp_idle_remove(tp_idle *idle, tp_agent *a)
{
    TP_ASSERT(tp_engine_is_locked(idle->engine));
    tp_agent **at = &idle->asleep;
    if (!a->is_asleep)
        return;
    while (*at != a)
        at = &(*at)->next_asleep;
    *at = a->next_asleep;
    idle->n_sleeping--;
    a->is_asleep = false;
}

/* Wakes the agent that went to sleep last. False: none sleeps. */
static bool wake_one(tp_idle *idle)
{
    tp_agent *a = idle->asleep;
    if (!a)
        return false;
    tp_idle_remove(idle, a);
    uv_cond_signal(&a->cond);
    return true;
}

unsigned tp_idle_offer(tp_idle *idle, unsigned n)
{
    TP_ASSERT(tp_engine_is_locked(idle->engine));
    atomic_fetch_add_explicit(&idle->offers, 1, memory_order_release);
    unsigned looking = idle->executor->looking > 0 ? (unsigned)idle->executor->looking : 0;
    unsigned wanted = n > looking ? n - looking : 0,
             woken = wanted < idle->n_sleeping ? wanted : idle->n_sleeping;
    for (unsigned i = 0; i < woken; i++)
        wake_one(idle);
    return wanted - woken;
}

bool tp_idle_pass_on(tp_idle *idle)
{
    TP_ASSERT(tp_engine_is_locked(idle->engine));
    return idle->executor->looking > 0 || wake_one(idle);
}

bool tp_idle_spin(tp_idle *idle)
{
    uv_mutex_t *lock = tp_engine_lock(idle->engine);
    if (idle->n_spinning > 0 || idle->is_stopping)
        return false;
    idle->n_spinning++;
    uint32_t seen = atomic_load_explicit(&idle->offers, memory_order_acquire);
    uv_mutex_unlock(lock);
    uint64_t until = uv_hrtime() + idle->spin_ns;
    bool is_offered = false;
    while (!is_offered && uv_hrtime() < until) {
        for (int i = 0; i < 8; i++)
            tp_relax();
        is_offered = atomic_load_explicit(&idle->offers, memory_order_acquire) != seen;
        if (!is_offered)
            sched_yield();
    }
    uv_mutex_lock(lock);
    idle->n_spinning--;
    return is_offered;
}

void tp_idle_sleep(tp_idle *idle, tp_agent *me, uint64_t until)
{
    TP_ASSERT(idle->executor->looking > 0);
    uv_mutex_t *lock = tp_engine_lock(idle->engine);
    uint64_t due = tp_job_idle_until(idle->engine, idle->executor);
    if (due && due < until)
        until = due;
    tp_idle_add(idle, me);
    idle->executor->looking--;
    tp_trace *trace = me->worker.trace;
    if (tp_trace_is_on(trace)) {
        const tp_job *of;
        tp_reason why = tp_engine_reason_locked(idle->engine, idle->executor, &of);
        tp_trace_note(trace, TP_EVENT_WAIT, me->worker.id, of ? tp_job_number(of) : 0,
                      (uint64_t)(uintptr_t)idle->executor, why);
    }
    if (until != UINT64_MAX) {
        uint64_t now = uv_hrtime();
        uv_cond_timedwait(&me->cond, lock, until > now ? until - now : 1);
    } else {
        uv_cond_wait(&me->cond, lock);
    }
    tp_trace_note(trace, TP_EVENT_WAKE, me->worker.id, 0, 0, 0);
    tp_idle_remove(idle, me);
    idle->executor->looking++;
}

void tp_idle_end(tp_idle *idle)
{
    TP_ASSERT(idle->alive > 0);
    idle->alive--;
    uv_cond_broadcast(&idle->ended);
}

unsigned tp_idle_stop(tp_idle *idle, uint64_t deadline_ns)
{
    uv_mutex_t *lock = tp_engine_lock(idle->engine);
    TP_ASSERT(tp_engine_is_locked(idle->engine));
    idle->is_stopping = true;
    while (wake_one(idle))
        ;
    while (idle->alive > 0) {
        uint64_t now = uv_hrtime();
        if (deadline_ns == UINT64_MAX)
            uv_cond_wait(&idle->ended, lock);
        else if (now >= deadline_ns ||
                 uv_cond_timedwait(&idle->ended, lock, deadline_ns - now) == UV_ETIMEDOUT)
            break;
    }
    return idle->alive;
}
