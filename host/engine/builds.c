/* builds.c: programs for devices that were made inside of items, for the maps around them, whose
 * owners ask for times (results:times().builds). */
#include "engine/job_private.h"

#include <stdlib.h>

enum {
    /* that wait for a job's owner: no honest item makes so many between two results, and a worker
     * process may claim any number */
    BUILDS_MAX = 10000
};

struct tp_waiting_build {
    struct tp_waiting_build *next;
    tp_job_build build;
};

/* Locked. Without memory the job's times miss it. */
static void add(tp_job *job, const tp_job_build *b)
{
    struct tp_waiting_build *one = job->n_builds < BUILDS_MAX ? malloc(sizeof *one) : NULL;
    if (!one)
        return;
    *one = (struct tp_waiting_build){ .build = *b };
    *(job->builds ? job->builds_end : &job->builds) = one;
    job->builds_end = &one->next;
    job->n_builds++;
}

static void add_to_all(tp_job *job, const tp_job_build *b)
{
    if (!job)
        return;
    tp_engine *e = job->engine;
    uv_mutex_lock(&e->lock);
    for (; job; job = job->parent)
        if (job->terms.is_timed)
            add(job, b);
    uv_mutex_unlock(&e->lock);
}

void tp_slice_note_build(tp_slice *s, const tp_job_build *b)
{
    add_to_all(s->job, b);
}

void tp_slice_note_launch(tp_slice *s, const tp_job_build *b)
{
    add_to_all(s->job->parent, b);
}

bool tp_job_take_build(tp_job *job, tp_job_build *out)
{
    uv_mutex_lock(&job->engine->lock);
    struct tp_waiting_build *one = job->builds;
    if (one) {
        job->builds = one->next;
        job->n_builds--;
        *out = one->build;
    }
    uv_mutex_unlock(&job->engine->lock);
    free(one);
    return one != NULL;
}

void tp_job_free_builds(tp_job *job)
{
    for (struct tp_waiting_build *one = job->builds, *next; one; one = next) {
        next = one->next;
        free(one);
    }
    job->builds = NULL;
}
