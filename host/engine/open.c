/* open.c: items that an agent has open at once, which wait beside each other
 * (tp_terms.concurrent): how many there are, and at which level.
 *
 * A level is what the agent was running when it began them: nothing, or an item that waits for
 * nested jobs and runs other items meanwhile. At that level it takes turns of its loop and takes
 * the items that its open items wait for. */
#include "engine/job_private.h"

#include <stdlib.h>

const void *tp_agent_helper_id(const tp_agent *agent)
{
    return agent->worker.current ? (const void *)agent->worker.current : agent;
}

/* How many items of a function, at one depth of nested maps, an agent has open at one level. Items
 * of a deeper map count apart, so that those that wait for them cannot keep them from being begun.
 * So do those of another level, since they cannot go on before what runs above them is over. */
struct tp_open {
    const tp_func *func;
    const void *level;
    unsigned depth, n;
};

static struct tp_open *find_open(const tp_agent *a, const tp_func *f, const void *level,
                                 unsigned depth)
{
    for (unsigned i = 0; i < a->n_kinds; i++) {
        struct tp_open *o = &a->open[i];
        if (o->n > 0 && o->func == f && o->level == level && o->depth == depth)
            return o;
    }
    return NULL;
}

unsigned tp_agent_count_of(const tp_agent *a, const tp_job *job)
{
    const void *level = tp_agent_helper_id(a);
    const struct tp_open *o = find_open(a, job->func, level, job->terms.depth);
    return o ? o->n : 0;
}

void tp_agent_count_open(tp_agent *a, const tp_slice *s)
{
    unsigned depth = s->job->terms.depth;
    struct tp_open *o = find_open(a, s->job->func, s->level, depth);
    for (unsigned i = 0; i < a->n_kinds && !o; i++)
        if (a->open[i].n == 0)
            o = &a->open[i];
    if (!o) {
        o = realloc(a->open, (a->n_kinds + 1) * sizeof *o);
        if (!o)
            /* no memory: the item is not counted, so one more than `concurrent_inputs` may be
             * open */
            return;
        a->open = o;
        o += a->n_kinds++;
        o->n = 0;
    }
    *o = (struct tp_open){ s->job->func, s->level, depth, o->n + 1 };
}

void tp_agent_uncount_open(tp_agent *a, const tp_slice *s)
{
    struct tp_open *o = find_open(a, s->job->func, s->level, s->job->terms.depth);
    if (o) /* else there was no memory to count it */
        o->n--;
}

void tp_agent_end_level(tp_agent *a, const void *from)
{
    const void *to = tp_agent_helper_id(a);
    for (tp_slice *s = a->engine->slices; s; s = s->next)
        if (s->agent == a && s->level == from && s->job->terms.concurrent) {
            if (!s->is_lent)
                tp_agent_uncount_open(a, s);
            s->level = to;
            if (!s->is_lent)
                tp_agent_count_open(a, s);
        }
    for (tp_job *j = a->engine->jobs; j; j = j->next)
        if (j->helper == from)
            j->helper = to;
}

void tp_slice_set_apart(tp_slice *s, uint32_t n)
{
    s->range->most = n;
}

uint32_t tp_slice_apart(const tp_slice *s)
{
    return s->range->most;
}

void tp_agent_set_full(tp_agent *a, bool is_full)
{
    if (a->is_full == is_full)
        return;
    uv_mutex_lock(&a->engine->lock);
    a->is_full = is_full;
    a->executor->blocked += is_full ? 1 : -1;
    uv_mutex_unlock(&a->engine->lock);
    if (is_full)
        a->executor->type->start(a->executor, 1);
}

bool tp_agent_sees_cancels(tp_agent *a)
{
    uint32_t n = atomic_load_explicit(&a->engine->cancels, memory_order_relaxed);
    bool are_new = n != a->cancels_seen;
    a->cancels_seen = n;
    return are_new;
}

void tp_agent_set_bell(tp_agent *a, uv_async_t *bell)
{
    uv_mutex_lock(&a->engine->lock);
    a->bell = bell;
    uv_mutex_unlock(&a->engine->lock);
}
