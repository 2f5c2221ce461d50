/* beside.c: who takes what of a job that workers run and, beside them, sites of another
 * executor, devices (tp_job_config.beside).
 *
 * Both take slices of one queue. What decides is how long each would take for all that is
 * queued: the workers by the time of an item and their number, the sites by the time of an item
 * there and what a launch costs. Both are measured: the workers' time first; then, if there is
 * enough to do, a slice on each site tells its time.
 *
 * Where a site computes on the processors that the workers run on (is_exclusive), the two would
 * only slow each other down: the faster one runs the job, one of them at a time, so that each is
 * measured alone. Now and then the slower one runs a small part, in case it was misjudged.
 *
 * As long as items are queued and none runs, an offer is to somebody; when a slice ends, it may
 * be to others than before, and they are woken (tp_job_wake, tp_engine_wake_beside). */
#include "engine/job_private.h"

#include <math.h>

enum {
    LAUNCH_NS = 30 * 1000,  /* what a slice on a site costs beside its items */
    SHORT_NS = 10 * 1000,   /* in a worker's slice below this the items are little of the time */
    MEMORY_NS = 10 * 1000 * 1000, /* how long a time an average is taken over */
    WORTH_NS = 200 * 1000,  /* workers run less than this before a site is known */
    TRIAL_NS = 1000 * 1000, /* what a site's first slice would take one worker, but for */
    TRIAL_MIN = 4096,       /* so many items, where they are not much of the job: */
    TRIAL_PART = 50,        /* one part in so many, */
    NEAR_PART = 10,         /* and where it costs little, in so many */
    /* The slower one is tried, for such a part of this time, when the faster one has run for so
     * long; each time after twice as long, and for twice as long, up to AGAIN_MAX times: a short
     * slice of a device that was idle takes longer, and shows less. */
    AGAIN_NS = 10 * 1000 * 1000, AGAIN_MAX = 64
};

bool tp_job_has_beside(const tp_job *job)
{
    return job->beside.executor && job->sites;
}

/* What the workers together would take for n items, with the time in which all but one of them wake
 * up; 0: not known. */
static double workers_ns(const tp_job *job, double n)
{
    double all = n * (double)job->func->worker_ns;
    return fmin(all, TP_SMALL_NS + all / job->beside.workers);
}

/* Items that the sites together run in a ns; 0: not known. */
static double sites_speed(const tp_job *job)
{
    double speed = 0;
    for (int d = 0; d < 64; d++)
        if (job->sites >> d & 1 && job->func->site_ns[d] > 0)
            speed += 1 / (double)job->func->site_ns[d];
    return speed;
}

/* Can a site run what is next in the queue? Only numbers, and nothing that has failed before. */
static bool is_for_sites(const tp_job *job)
{
    const tp_block *b = job->queue->block;
    bool is_numbers = b->kind == TP_BLOCK_COLUMNS && job->queue->attempt == job->attempt;
    for (uint32_t c = 0; c < b->columns && is_numbers; c++)
        is_numbers = b->type[c] != TP_MIXED;
    return is_numbers;
}

tp_offer tp_job_offer(const tp_job *job)
{
    const double n = (double)job->queued, workers = workers_ns(job, n), speed = sites_speed(job);
    const double sites = speed > 0 ? LAUNCH_NS + n / speed : 0;
    const tp_offer to_workers = { .workers = true };
    bool is_busy = job->beside.executor->busy > job->at_sites; /* devices run other jobs */
    if (!job->queue || workers <= 0 || !is_for_sites(job))
        return to_workers;
    if (!job->beside.is_exclusive)
        return (tp_offer){ .workers = true,
                           .sites = speed > 0 ? sites < workers || workers > 2 * LAUNCH_NS
                                              : workers > WORTH_NS };
    if (is_busy)
        return to_workers;
    bool is_again = speed > 0 && job->func->until_trial_ns < 0;
    bool is_to_sites = speed > 0 ? (sites < workers) != is_again : workers > WORTH_NS;
    /* the first launch of a function is compiled, which takes long and says nothing */
    bool is_cold = speed <= 0 && !job->func->is_warm;
    return (tp_offer){ .workers = is_cold || (!is_to_sites && job->at_sites == 0),
                       .sites = is_to_sites && (is_cold || job->running == job->at_sites),
                       .is_again = is_again };
}

double tp_job_share(const tp_job *job, const tp_agent *agent, bool *is_trial)
{
    int site = tp_agent_site(agent);
    double n = (double)job->queued, speed = sites_speed(job), worker_ns = job->func->worker_ns;
    double item_ns = site >= 0 ? (double)job->func->site_ns[site] : worker_ns;
    *is_trial = true;
    if (site >= 0 && item_ns <= 0)
        return fmax(TRIAL_NS / worker_ns, fmin(n / TRIAL_PART, TRIAL_MIN));
    if (job->beside.is_exclusive && tp_job_offer(job).is_again) {
        /* by its own time; but if that is far too long, it could never be told from so little */
        double sites = 1 / speed, workers = worker_ns / job->beside.workers;
        double best = fmin(sites, workers), part = fmax(sites, workers) < 2 * best ? NEAR_PART
                                                                                   : TRIAL_PART;
        return (double)AGAIN_NS * (job->func->trial_every + 1) / part / fmin(item_ns, 8 * best);
    }
    *is_trial = false;
    if (site < 0 && item_ns <= 0)
        return 1;
    if (job->beside.is_exclusive)
        return site >= 0 ? n : n / 8;
    if (site >= 0)
        return n * 0.5 / item_ns / (speed + job->beside.workers / worker_ns);
    /* not longer than the sites have to do */
    double sites = speed > 0 ? (LAUNCH_NS + n / speed) / 4 / item_ns : n;
    return sites < n / 8 ? sites : n / 8;
}

/* Are the sites faster, as far as is known? */
static bool are_sites_faster(const tp_job *job)
{
    return sites_speed(job) * (double)job->func->worker_ns > job->beside.workers;
}

void tp_job_begin_trial(tp_job *job)
{
    tp_func *f = job->func;
    unsigned twice = f->trial_every < AGAIN_MAX ? 2 * f->trial_every : AGAIN_MAX;
    f->trial_every = twice ? twice : 1;
    f->until_trial_ns = (double)AGAIN_NS * f->trial_every;
}

void tp_job_learn_beside(tp_job *job, const tp_slice *s, double ns, uint32_t n)
{
    tp_func *f = job->func;
    int site = tp_agent_site(s->agent);
    float *known = site >= 0 ? &f->site_ns[site] : &f->worker_ns;
    double all = ns * n;
    f->is_warm |= site >= 0;
    f->until_trial_ns -= site >= 0 ? all : all / job->beside.workers;
    if (s->is_cold)
        return;
    /* Most of a short slice is what any slice costs: its items take no longer than this, but how
     * long they take it does not say. */
    bool is_short = all < (site >= 0 ? 2 * LAUNCH_NS : SHORT_NS);
    if (site >= 0 && !is_short)
        all -= LAUNCH_NS;
    double each = all / n;
    if (is_short && *known > 0 && each > *known)
        return;
    /* The one that runs the job is known by what it takes on average, with all that slows it down,
     * as processors that others use do; but one slow slice says little. The other one is tried too
     * rarely for an average; and nothing makes a slice faster than it can be. */
    bool before = are_sites_faster(job), runs_it = sites_speed(job) > 0 && before == (site >= 0);
    if (*known <= 0 || (each < *known && !runs_it))
        *known = (float)each;
    else
        *known = (float)((MEMORY_NS + fmin(all, 1.5 * (double)*known * n)) /
                         (MEMORY_NS / (double)*known + n));
    if (are_sites_faster(job) != before) { /* what is known of them is not certain */
        f->trial_every = 0;
        tp_job_begin_trial(job);
    }
}
