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
 * measured alone: by the clock, from the end of one slice to the end of the next, with all that
 * keeps them waiting in between. A slice's own time would not do. Beside other load it is hardly
 * longer than without, since a worker that lost its processor for a while was, most likely,
 * between two slices or without one; so two workers, of which one ran at a time, were taken to be
 * twice as fast as they were. Now and then the slower one runs it for a small part of the time, in
 * case it was misjudged.
 *
 * A site may have to make something first, a program, which takes long (tp_beside.promised).
 * Workers have the job until then, and the site makes it when they have run the function for as
 * long as that should take, or will have with what is left: nobody can know how often it will be
 * run, and so it has taken some twice the time of the better choice at most, if making it takes
 * what it should.
 *
 * As long as items are queued and none runs, an offer is to somebody; when a slice ends, it may
 * be to others than before, and they are woken (tp_job_wake, tp_engine_wake_beside). */
#include "engine/job_private.h"

#include <math.h>

enum {
    LAUNCH_NS = 30 * 1000,  /* what a slice on a site costs beside its items */
    SHORT_NS = 10 * 1000,   /* in a worker's slice below this the items are little of the time */
    MEMORY_NS = 100 * 1000 * 1000, /* how long a time an average is taken over, at most */
    FORESEEN_PART = 10,     /* what is left counts when this part of the time has been run */
    WORTH_NS = 200 * 1000,  /* workers run less than this before a site is known */
    TRIAL_NS = 1000 * 1000, /* what a site's first slice would take one worker, but for */
    TRIAL_MIN = 4096,       /* so many items, where they are not much of the job: */
    TRIAL_PART = 50,        /* one part in so many */
    /* The slower one is tried, for a part of this time, when the faster one has run for so long;
     * each time after twice as long, and for twice as long, up to AGAIN_MAX times: a short time
     * shows less. It is so long that one part in TRIAL_PART of the time is lost by it, and where
     * less can be lost one part in NEAR_PART of the time. */
    NEAR_PART = 10,
    AGAIN_NS = 10 * 1000 * 1000, AGAIN_MAX = 64,
    /* Runs that take less than AGAIN_NS are known as a whole, from when the inputs were there, by
     * the median of the last ones (TP_RUNS_KEPT). One run counts as so many times what was known,
     * at most; and no more is known than so many times what the last run took: it may have been
     * kept waiting by something else, which says nothing of the next one, but not been too fast. */
    RUN_MOST = 4, RUN_LAST = 2,
    /* Each of both is tried so often, unless it should take so many times what the other one has;
     * and who has begun to run what is left runs it to the end if that takes so little. */
    RUNS_TRIED = 3, RUN_NEAR = 4, REST_NS = 1000 * 1000,
    /* After that the slower one is tried again when one part in so many of the time of such runs
     * has paid for what it takes longer; so trying costs no more than that part, and who was
     * misjudged is found out after so many times what that seemed to save. */
    CREDIT_PART = 25,
    WHOLE_NS = 500 * 1000   /* a trial takes a run of so little altogether */
};

bool tp_job_has_beside(const tp_job *job)
{
    return job->beside.executor && job->sites;
}

uint64_t tp_job_made_sites(const tp_job *job)
{
    return job->sites & ~job->beside.promised;
}

bool tp_job_is_making_due(const tp_job *job)
{
    const tp_func *f = job->func;
    if (!job->beside.executor || !(job->sites & job->beside.promised & ~job->making))
        return false;
    double left = job->total > 0 ? (double)job->total - (double)job->finished
                                 : (double)job->queued;
    double item_ns = f->worker_ns > 0 ? (double)f->worker_ns : f->item_ns;
    double spent = f->durations.total_ns / job->beside.workers, made = (double)job->beside.make_ns;
    /* a function's first items, which are not compiled yet, do not say what the others will take */
    return spent >= made / FORESEEN_PART && spent + left * item_ns / job->beside.workers >= made;
}

tp_job *tp_job_take_promise_locked(tp_engine *e, const tp_executor *ex, uint64_t site)
{
    for (tp_job *job = e->jobs; job; job = job->next) {
        bool is_here = job->beside.executor == ex && !job->is_cancelled &&
                       job->sites & job->beside.promised & ~job->making & site;
        if (is_here && tp_job_is_making_due(job)) {
            job->making |= site;
            return tp_ref_hold(job);
        }
    }
    return NULL;
}

void tp_job_end_promise(tp_job *job, uint64_t site, bool is_made)
{
    uv_mutex_lock(&job->engine->lock);
    job->making &= ~site;
    job->beside.promised &= ~site;
    if (is_made)
        job->func->is_warm = true; /* its first launch compiles no more */
    else
        job->sites &= ~site;
    uv_mutex_unlock(&job->engine->lock);
}

/* Items that the sites together run in a ns; 0: not known. */
static double sites_speed(const tp_job *job)
{
    double speed = 0;
    int d = 0;
    for (uint64_t left = job->sites; left; left >>= 1, d++)
        if (left & 1 && job->func->site_ns[d] > 0)
            speed += 1 / (double)job->func->site_ns[d];
    return speed;
}

/* Are the sites faster, as far as is known? */
static bool are_sites_faster(const tp_job *job)
{
    return sites_speed(job) * (double)job->func->worker_ns > job->beside.workers;
}

/* The class of runs of n items. */
static int class_of(uint64_t n)
{
    int c = 0;
    while (n >>= 1)
        c++;
    return c < TP_RUN_CLASSES ? c : TP_RUN_CLASSES - 1;
}

/* What an item takes in runs like those that were seen; 0: there was none. */
static double seen_item_ns(const tp_runs *r)
{
    float sorted[TP_RUNS_KEPT];
    for (unsigned i = 0; i < r->n; i++) {
        unsigned at = i;
        for (; at > 0 && sorted[at - 1] > r->item_ns[i]; at--)
            sorted[at] = sorted[at - 1];
        sorted[at] = r->item_ns[i];
    }
    return r->n ? fmin((double)sorted[(r->n - 1) / 2], RUN_LAST * (double)r->item_ns[r->last]) : 0;
}

/* Who is to run n items, the next ones of the job. */
typedef struct choice {
    double takes[2];   /* what the workers together, and the sites together, would take for all of
                        * them; 0: not known */
    bool to_sites;
    bool is_whole; /* as a run that is known as a whole: the same one runs all of it */
    bool is_tried; /* though the other one should be faster */
} choice;

/* What small runs take besides is known only when both were seen: waking up takes hardly anything,
 * or more than the items, or milliseconds beside other load. So whoever was not, but may be the
 * faster one, comes next. A few runs do not say that somebody is slower than its slices were: the
 * first one may have waited for something else (2x+1 over a million: 8.3 ms, then 0.35; it took
 * 185 runs at 0.9 to find that out). */
static void choose_by_runs(const tp_func *f, double n, choice *c)
{
    const tp_class *k = &f->classes[class_of((uint64_t)n)];
    double seen[2] = { n * seen_item_ns(&k->runs[0]), n * seen_item_ns(&k->runs[1]) };
    double known = seen[0] > 0 && seen[1] > 0 ? fmin(seen[0], seen[1]) : seen[0] + seen[1];
    if (known <= 0 || known >= AGAIN_NS)
        return;
    c->is_whole = true;
    for (int who = 0; who < 2; who++) {
        bool is_certain = k->runs[who].n >= RUNS_TRIED;
        if (is_certain || (seen[who] > 0 && seen[who] < c->takes[who]))
            c->takes[who] = seen[who];
    }
    int slower = c->takes[0] < c->takes[1];
    for (int who = 0; who < 2; who++)
        if (k->runs[who].n < RUNS_TRIED && known < REST_NS && c->takes[who] < RUN_NEAR * known) {
            c->to_sites = who;
            c->is_tried = who == slower;
            return;
        }
    c->is_tried = (double)k->credit_ns > c->takes[slower] - c->takes[!slower];
    c->to_sites = c->is_tried ? slower : !slower;
}

static choice choose(const tp_job *job, double n)
{
    const tp_func *f = job->func;
    double speed = sites_speed(job), all = n * (double)f->worker_ns;
    /* all workers but one have to wake up */
    choice c = { .takes = { fmin(all, TP_SMALL_NS + all / job->beside.workers),
                            speed > 0 ? LAUNCH_NS + n / speed : 0 } };
    c.to_sites = speed > 0 ? (c.takes[1] < c.takes[0]) != (f->until_trial_ns < 0)
                           : c.takes[0] > WORTH_NS;
    if (job->beside.is_exclusive && speed > 0 && (!job->since_ns || job->is_whole))
        choose_by_runs(f, n, &c);
    return c;
}

/* Does the slower one run the job now, to be measured by what its slices take? */
static bool is_again(const tp_job *job)
{
    bool is_whole = job->since_ns ? job->is_whole : choose(job, (double)job->queued).is_whole;
    return sites_speed(job) > 0 && job->func->until_trial_ns < 0 && !is_whole;
}

/* Can a site run what is next in the queue? Only numbers, and nothing that has failed before. */
static bool is_for_sites(const tp_job *job)
{
    const tp_block *b = job->queue->block;
    bool is_numbers = b->kind == TP_BLOCK_COLUMNS && job->queue->attempt == job->attempt &&
                      !job->queue->lost_at;
    for (uint32_t c = 0; c < b->columns && is_numbers; c++)
        is_numbers = b->type[c] != TP_MIXED;
    return is_numbers;
}

tp_offer tp_job_offer(const tp_job *job)
{
    const tp_offer to_workers = { .workers = true };
    choice c = choose(job, (double)job->queued);
    double workers = c.takes[0], sites = c.takes[1];
    bool is_busy = job->beside.executor->busy > job->at_sites; /* devices run other jobs */
    if (!job->queue || workers <= 0 || !tp_job_made_sites(job) || !is_for_sites(job))
        return to_workers;
    if (!job->beside.is_exclusive)
        return (tp_offer){ .workers = true,
                           .sites = sites > 0 ? sites < workers || workers > 2 * LAUNCH_NS
                                              : workers > WORTH_NS };
    if (is_busy)
        return to_workers;
    bool is_to_sites = c.to_sites;
    if (sites > 0 && job->since_ns && (job->is_whole || fmin(workers, sites) < REST_NS))
        is_to_sites = job->is_since_sites;
    /* the first launch of a function is compiled, which takes long and says nothing */
    bool is_cold = sites <= 0 && !job->func->is_warm;
    return (tp_offer){ .workers = is_cold || (!is_to_sites && job->at_sites == 0),
                       .sites = is_to_sites && (is_cold || job->running == job->at_sites) };
}

double tp_job_share(const tp_job *job, const tp_agent *agent, bool *is_trial)
{
    int site = tp_agent_site(agent);
    double n = (double)job->queued, speed = sites_speed(job), worker_ns = job->func->worker_ns;
    double item_ns = site >= 0 ? (double)job->func->site_ns[site] : worker_ns;
    *is_trial = true;
    if (site >= 0 && item_ns <= 0)
        return fmax(TRIAL_NS / worker_ns, fmin(n / TRIAL_PART, TRIAL_MIN));
    if (site >= 0 && job->beside.is_exclusive && is_again(job))
        /* by its own time; but if that is far too long, it could never be told from so little. A
         * small run is seen as a whole. */
        return n * item_ns < WHOLE_NS
                   ? n
                   : job->func->trial_ns / fmin(item_ns, 8 * worker_ns / job->beside.workers);
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

/* Moves the average on by what n items took, `all`. One slow slice says little. */
static void learn_time(float *known, float *seen, double all, uint32_t n)
{
    all = fmin(all, fmax(MEMORY_NS / 2, 1.5 * (double)*known * n));
    *known = (float)(*known > 0 ? (*seen + all) / (*seen / *known + n) : all / n);
    *seen = (float)fmin(*seen + all, MEMORY_NS);
}

/* Nothing of the job runs, and nothing is to be taken: one of both has run n items, all since it
 * began. */
static void learn_run(const tp_job *job, double ns)
{
    tp_class *k = &job->func->classes[class_of(job->run_items)];
    tp_runs *r = &k->runs[job->is_since_sites];
    float known = (float)seen_item_ns(r), each = (float)(ns / (double)job->run_items);
    r->last = r->n < TP_RUNS_KEPT ? r->n++ : (uint8_t)((r->last + 1) % TP_RUNS_KEPT);
    r->item_ns[r->last] = known > 0 ? fminf(each, RUN_MOST * known) : each;
    if (job->rival_ns > 0) /* what it has taken longer is to be paid for before the next trial */
        k->credit_ns = fminf(0, k->credit_ns - (float)(ns - job->rival_ns));
    else
        k->credit_ns += (float)(ns / CREDIT_PART);
}

/* The faster one runs such jobs from now on, for a time that is longer each time. */
static void end_trial(tp_func *f, bool is_certain)
{
    unsigned twice = f->trial_every < AGAIN_MAX ? 2 * f->trial_every : AGAIN_MAX;
    f->trial_every = twice && is_certain ? twice : 1;
    f->until_trial_ns = (double)AGAIN_NS * f->trial_every;
}

/* The other one runs such jobs from now on, for a part of the time that this one did, which is the
 * sites (`at_sites`) or not. */
static void begin_trial(const tp_job *job, bool at_sites)
{
    tp_func *f = job->func;
    double sites = 1 / sites_speed(job), workers = (double)f->worker_ns / job->beside.workers;
    double lost = 1 - fmin(sites, workers) / fmax(sites, workers); /* of the trial's time */
    f->trial_ns = (double)AGAIN_NS * f->trial_every / fmax(NEAR_PART, TRIAL_PART * lost);
    /* what was known of it counts less than what is seen now */
    f->worker_seen_ns /= at_sites ? 2 : 1;
    for (int d = 0; d < 64; d++)
        f->site_seen_ns[d] /= at_sites ? 1 : 2;
}

/* A slice has run for `ns` by the clock. */
static void take_turns(tp_job *job, const tp_slice *s, double ns)
{
    tp_func *f = job->func;
    if (s->is_trial && f->until_trial_ns < 0) {
        f->trial_ns -= ns;
        if (f->trial_ns <= 0)
            end_trial(f, true);
    } else if (!s->is_trial && f->until_trial_ns >= 0) {
        f->until_trial_ns -= ns;
        if (f->until_trial_ns < 0)
            begin_trial(job, s->agent->site != 0);
    }
}

void tp_job_begin_beside(tp_job *job, tp_slice *s, const tp_range *taken, uint64_t now)
{
    bool at_sites = s->agent->site != 0;
    if (!job->since_ns || (job->running == 0 && job->is_since_sites != at_sites)) {
        /* a run of one of both, unless the other one has run some of it */
        job->run_began_ns = job->since_ns ? 0 : taken->block->ran.queued_ns;
        job->run_items = 0;
        job->is_since_sites = at_sites;
        choice c = choose(job, (double)(job->queued + taken->count));
        job->is_whole = !job->since_ns && c.is_whole;
        job->rival_ns = c.is_whole && c.is_tried && c.to_sites == at_sites ? c.takes[!at_sites] : 0;
        job->since_ns = now;
    }
    job->at_sites += at_sites;
    s->is_trial = is_again(job);
}

void tp_job_go_beside(tp_job *job, const tp_beside *beside, uint64_t sites, tp_ref *data)
{
    uv_mutex_lock(&job->engine->lock);
    TP_ASSERT(!job->beside.executor && !job->executor_data && !job->sites);
    job->executor_data = tp_ref_hold(data);
    job->beside = *beside;
    job->sites = sites & ~beside->executor->lost_sites;
    /* what workers run now says what they take from here on, but it is no run that is known as a
     * whole */
    job->since_ns = job->running > 0 ? uv_hrtime() : 0;
    job->run_began_ns = 0;
    job->is_since_sites = job->is_whole = false;
    for (tp_slice *s = job->engine->slices; s; s = s->next)
        if (s->job == job)
            s->is_trial = false;
    uv_mutex_unlock(&job->engine->lock);
}

void tp_job_learn_beside(tp_job *job, const tp_slice *s, uint32_t n, uint64_t now)
{
    tp_func *f = job->func;
    int site = tp_agent_site(s->agent);
    double own = (double)(now - s->started_ns), all = own, clock = own;
    bool had_sites = sites_speed(job) > 0, were_faster = are_sites_faster(job);
    float *known = site >= 0 ? &f->site_ns[site] : &f->worker_ns;
    f->is_warm |= site >= 0;
    /* while a site's driver compiles, workers run the job, too, on the same processors */
    bool is_alone = !job->beside.is_exclusive || job->is_since_sites == (site >= 0);
    if (s->is_cold || n == 0 || !is_alone)
        return;
    /* nor does it say much what they take while the driver compiles beside them, or devices run
     * something else */
    bool is_disturbed = job->beside.is_exclusive && site < 0 && *known > 0 &&
                        job->beside.executor->busy > job->at_sites;
    if (is_disturbed) {
        job->since_ns = now > job->since_ns ? now : job->since_ns;
        job->run_began_ns = 0;
        return;
    }
    if (job->beside.is_exclusive) {
        /* all workers have had this time, as long as there was something for them to take */
        all = clock = now > job->since_ns ? (double)(now - job->since_ns) : 0;
        if (site < 0)
            all *= job->queue ? job->beside.workers : job->running + 1;
        job->since_ns += (uint64_t)clock;
        job->run_items += n;
    }
    /* Most of a short slice is what any slice costs: its items take no longer than this, but how
     * long they take it does not say. */
    bool is_short = own < (site >= 0 ? 2 * LAUNCH_NS : SHORT_NS);
    if (site >= 0 && !is_short)
        all = fmax(all - LAUNCH_NS, all / 2);
    float *seen = site >= 0 ? &f->site_seen_ns[site] : &f->worker_seen_ns;
    if (!is_short || *known <= 0 || all / n < (double)*known)
        learn_time(known, seen, all, n);
    /* What was seen before may have waited for something else: a trial slice of 8 ms, which has
     * 0.01 of work, took more than a second to be outweighed by such trials. A worker's slice does
     * not say what all of them take. */
    if (site >= 0 && RUN_LAST * own / n < (double)*known) {
        *known = (float)(RUN_LAST * own / n);
        *seen = (float)own;
    }
    if (!job->beside.is_exclusive || sites_speed(job) <= 0)
        return;
    if (!had_sites || were_faster != are_sites_faster(job))
        end_trial(f, false); /* what is known of them is not certain */
    else if (!job->is_whole)
        take_turns(job, s, clock);
}

void tp_job_rest_beside(tp_job *job)
{
    if (job->since_ns > job->run_began_ns && job->run_began_ns && job->run_items > 0)
        learn_run(job, (double)(job->since_ns - job->run_began_ns));
    job->since_ns = job->run_began_ns = 0;
}

/* ---- sites that do not come back: see late.c ---- */

/* How long a site may take: so many times what it should, and at least so long; and so much longer
 * when its driver compiles. */
static const unsigned LATE_TIMES = 20;
static const uint64_t LATE_NS = 5ull * 1000 * 1000 * 1000;
static const uint64_t COMPILE_NS = 60ull * 1000 * 1000 * 1000;

void tp_slice_expect(tp_slice *s)
{
    const tp_job *job = s->job;
    int site = tp_agent_site(s->agent);
    s->may_be_lost = job->beside.executor && site >= 0;
    s->is_lost = false;
    s->late_ns = 0;
    if (!s->may_be_lost)
        return;
    float known = job->func->site_ns[site];
    double item_ns = (double)(known > 0 ? known : job->func->worker_ns);
    double should = LATE_TIMES * item_ns * s->range->count;
    uint64_t least = job->beside.late_ns ? job->beside.late_ns : LATE_NS;
    bool is_more = should > (double)least && should < 1e18;
    s->late_ns = s->started_ns + (is_more ? (uint64_t)should : least);
    job->engine->n_losable++;
}

void tp_slice_be_patient(tp_slice *s)
{
    uv_mutex_lock(&s->job->engine->lock);
    if (s->late_ns)
        s->late_ns += COMPILE_NS;
    uv_mutex_unlock(&s->job->engine->lock);
}

bool tp_slice_end_lost(tp_slice *s)
{
    tp_job *job = s->job;
    tp_engine *e = job->engine;
    tp_agent *agent = s->agent;
    uv_mutex_lock(&e->lock);
    bool is_lost = s->is_lost;
    e->n_losable -= s->late_ns != 0;
    s->late_ns = 0; /* from here on it cannot be lost */
    uv_mutex_unlock(&e->lock);
    if (!is_lost)
        return false;
    tp_work_close(&s->work);
    tp_work_note(&s->work, TP_EVENT_FINISH, s->work.offset, 0);
    tp_block_free_list(s->results);
    uv_mutex_lock(&e->lock);
    tp_slice **at = &e->lost;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    uint64_t sites = 0;
    for (const tp_slice *other = e->lost; other; other = other->next)
        sites |= other->agent->executor == agent->executor ? other->agent->site : 0;
    agent->executor->lost_sites = sites;
    if (agent->n_outermost == 0)
        agent->executor->looking++;
    tp_job_release_inputs(job, s->work.block, 1);
    s->next = agent->spare;
    agent->spare = s;
    uv_mutex_unlock(&e->lock);
    tp_ref_drop(job);
    return true;
}
