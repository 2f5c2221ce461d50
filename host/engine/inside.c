/* inside.c: the maps inside of a worker process's items. See inside.h. */
#include "engine/inside.h"

#include "engine/job_private.h"

#include <stdio.h>
#include <string.h>

/* Acquire and release: whoever sees a field of a job sees that the entry was free before it, and
 * loads `number` once more behind it. */
static uint64_t get(const _Atomic uint64_t *word)
{
    return atomic_load_explicit(word, memory_order_acquire);
}

static void set(_Atomic uint64_t *word, uint64_t value)
{
    atomic_store_explicit(word, value, memory_order_release);
}

/* ---- the process ---- */

void tp_engine_show_inside(tp_engine *e, tp_inside *inside)
{
    uv_mutex_lock(&e->lock);
    e->inside = inside;
    uv_mutex_unlock(&e->lock);
}

void tp_inside_open(tp_job *job)
{
    tp_inside *inside = job->engine->inside;
    tp_inside_map *m = inside ? inside->maps : NULL;
    while (m && m < inside->maps + TP_INSIDE_MAX && get(&m->number))
        m++;
    if (!m || m == inside->maps + TP_INSIDE_MAX)
        return;
    char name[TP_VIEW_NAME] = { 0 };
    uint64_t words[TP_VIEW_NAME / 8];
    snprintf(name, sizeof name, "%s", job->func->name);
    memcpy(words, name, sizeof words);
    for (int i = 0; i < TP_VIEW_NAME / 8; i++)
        set(&m->name[i], words[i]);
    set(&m->parent, job->parent ? job->parent->terms.number : 0);
    set(&m->place, job->place);
    set(&m->opened_ns, job->opened_ns);
    set(&m->total, (uint64_t)job->total);
    job->shown = m;
    tp_inside_tell(job);
    set(&m->number, job->terms.number); /* with it the host sees all of the above */
}

void tp_inside_tell(const tp_job *job)
{
    tp_inside_map *m = job->shown;
    if (!m)
        return;
    set(&m->pushed, job->pushed);
    set(&m->waiting, job->queued + job->n_delayed);
    set(&m->finished, job->finished - job->skipped);
    set(&m->failed, job->failed);
}

void tp_inside_close(tp_job *job)
{
    if (!job->shown)
        return;
    set(&job->shown->number, 0);
    job->shown = NULL;
}

/* ---- the host ---- */

void tp_agent_show_inside(tp_agent *agent, const tp_inside *inside, uint64_t process)
{
    uv_mutex_lock(&agent->engine->lock);
    agent->inside = inside;
    agent->process = process;
    uv_mutex_unlock(&agent->engine->lock);
}

void tp_agent_tell_afar(tp_agent *agent, tp_afar *place, const tp_afar *what)
{
    uv_mutex_lock(&agent->engine->lock);
    *place = *what;
    agent->afar = place;
    uv_mutex_unlock(&agent->engine->lock);
}

const tp_afar *tp_inside_afar(const tp_slice *s)
{
    const tp_afar *a = s->agent->afar;
    return a && a->taken_ns == s->taken_ns ? a : NULL;
}

/* What another machine has said of maps inside of the slice's items, as one; the number of
 * its track tells it from others. */
static tp_job_view view_afar(const tp_slice *s, const tp_afar *a)
{
    tp_job_view view = { .number = a->worker ? a->worker : s->agent->worker.id,
                         .parent = s->job->terms.number,
                         .opened_ns = a->since_ns,
                         .executor = s->job->executor->type->name,
                         .total = (int64_t)a->total,
                         .finished = a->done,
                         .reason = TP_REASON_NONE };
    memcpy(view.name, a->name, sizeof view.name);
    memcpy(view.host, a->host, sizeof view.host);
    return view;
}

/* Reads an entry. False when it is free, is being written, or belongs to an item that the slice
 * does not have. */
static bool read_map(const tp_slice *s, const tp_inside_map *m, tp_job_view *to)
{
    uint64_t number = get(&m->number);
    uint64_t parent = get(&m->parent), pushed = get(&m->pushed), waiting = get(&m->waiting),
             finished = get(&m->finished), words[TP_VIEW_NAME / 8];
    if (number == 0)
        return false;
    for (int i = 0; i < TP_VIEW_NAME / 8; i++)
        words[i] = get(&m->name[i]);
    *to = (tp_job_view){ .number = number,
                         .process = s->agent->process,
                         .parent = parent ? parent : s->job->terms.number,
                         .parent_process = parent ? s->agent->process : 0,
                         .opened_ns = get(&m->opened_ns),
                         .executor = s->job->executor->type->name,
                         .total = (int64_t)get(&m->total),
                         .waiting = waiting,
                         .running = pushed > finished + waiting ? pushed - finished - waiting : 0,
                         .finished = finished,
                         .failed = get(&m->failed),
                         .reason = TP_REASON_NONE };
    memcpy(to->name, words, sizeof to->name);
    to->name[sizeof to->name - 1] = '\0';
    bool is_own = get(&m->place) == s->work.place && to->opened_ns >= s->taken_ns;
    /* if another job has written any of it, its number, or 0, is seen */
    return is_own && get(&m->number) == number;
}

unsigned tp_inside_list(const tp_slice *s, tp_job_view *to, unsigned max, uint64_t *others)
{
    const tp_inside *inside = s->agent->inside;
    const tp_afar *afar = tp_inside_afar(s);
    tp_job_view view;
    unsigned n = 0;
    if (afar && afar->maps > 0 && max > 0)
        to[n++] = view_afar(s, afar);
    else if (afar && afar->maps > 0)
        ++*others;
    for (int is_deeper = 0; inside && is_deeper < 2; is_deeper++)
        for (int i = 0; i < TP_INSIDE_MAX; i++)
            if (!read_map(s, &inside->maps[i], &view) || (view.parent_process != 0) != is_deeper)
                continue;
            else if (n < max)
                to[n++] = view;
            else
                ++*others;
    return n;
}
