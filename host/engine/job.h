/* job.h: one map or call: claiming, order, window, limits, retries, cancellation.
 *
 * A job's inputs are pushed by its owner (the thread whose Lua state called map) in blocks, claimed by agents in slices, and
 * come back as blocks of results, which the owner takes in order. The job knows no Lua and no executor's insides.
 *
 * One lock, the engine's, guards all of it; it is held for some tens of nanoseconds per slice and never while Lua runs, memory
 * of users is copied or a thread is woken. A slice takes some 100 us (TP_SLICE_NS), so that the lock is not felt.
 *
 * Invariants, which builds for tests check (host/base/invariant.h):
 *   - who takes an item finishes it, once (tp_job_finish), or gives it back; never one outside of the slice;
 *   - pushed = queued + delayed + taken + finished, at any time the lock is free;
 *   - index i of the results is index i of the inputs. */
#ifndef TP_JOB_H
#define TP_JOB_H

#include "engine/work.h"

#include <uv.h>

typedef struct tp_engine tp_engine;
typedef struct tp_job tp_job;
typedef struct tp_slice tp_slice;
typedef struct tp_agent tp_agent;
typedef struct tp_executor tp_executor;
typedef struct tp_waiter tp_waiter;

enum {
    TP_SLICE_NS = 100 * 1000,    /* what a slice should take */
    TP_SMALL_NS = 20 * 1000,     /* work below this is not worth a wake-up */
    TP_STUCK_NS = 1000 * 1000,   /* a slice that takes longer is asked to share what it has not begun */
    TP_PAUSE_NS = 80 * 1000000,  /* a loop whose body has had results for this long has been left, perhaps */
    TP_READY_MIN = 8,            /* results that wait for such a loop before its job pauses */
    TP_NESTING_MAX = 200,        /* maps inside each other, with the outermost one */
    TP_WINDOW_MAX = 1 << 16,     /* the window where the user gives none, in items */
    TP_BYTES_MAX = 64 << 20      /* inputs and results of one job that wait, in bytes, before it holds back, if nobody says otherwise */
};

/* How an owner is told that there is something to see. Outlives the jobs that name it. */
struct tp_waiter {
    void (*wake)(tp_waiter *w); /* any thread; never called with the lock held */
    tp_job *news_first, *news_last; /* engine's lock: jobs that were awaited and have news, see tp_job_collect */
};

/* Who runs items of jobs: a worker thread, or the owner's own thread. Belongs to its thread. */
struct tp_agent {
    tp_worker worker; /* as work sees it; its `type` is for whoever opens a Lua state for it to set */
    tp_waiter waiter; /* wakes it while it waits for a nested job */
    tp_engine *engine;
    tp_executor *executor; /* whose worker it is; for an owner's own thread the inline one */
    uint64_t site; /* of its executor, as a bit: its workers run at several, each at one; 0: it has no such */
    uv_cond_t cond;   /* with the engine's lock */

    tp_slice *spare;   /* memory of slices that it does not run now, by `next`; its own */

    /* ---- guarded by the engine's lock ---- */
    tp_agent *next_helper;           /* in the engine's list of agents that sleep for nested jobs */
    tp_agent *next_resuming;         /* in tp_func.resuming */
};

int tp_agent_open(tp_agent *agent, tp_engine *engine, int index, tp_executor *executor, tp_error *err);
void tp_agent_close(tp_agent *agent);

/* Work that an agent has claimed of a job. Its memory is the agent's, and outlives the agent's stack, so that a supervisor can finish it when the
 * agent's thread has died (tp_job_lose). */
struct tp_slice {
    tp_work work; /* first member */
    tp_job *job;  /* held */
    tp_agent *agent;
    uv_thread_t thread; /* that has claimed it */
    uint64_t started_ns;
    bool has_more; /* when it was taken there was work for one more worker */
    struct tp_range *range; /* the engine's */
    tp_slice *next, *prev;  /* in the engine's list; engine's lock */
    bool has_permit;        /* counts in func->running; engine's lock */
    bool is_permitted;      /* tp_permits is asked for it, too; the agent's */
    tp_block *results, **results_end; /* what the sink was given so far; the agent's */
};

typedef struct tp_retries {
    unsigned max; /* further attempts after the first */
    double initial_delay_s, backoff, max_delay_s, jitter;
    unsigned crashes; /* how often an input is tried again that a worker process has died of */
    bool notify; /* failures that are retried go to the owner too, as TP_BLOCK_RETRY */
} tp_retries;

/* How items came to their results. */
typedef struct tp_ran {
    unsigned attempt;      /* from 1, in this run */
    int worker;            /* who ran them */
    uint64_t ns_per_item;
} tp_ran;

/* Who keeps the results of jobs as they come, before their owner can see them: the journal. Held by its jobs. */
typedef struct tp_recorder {
    tp_ref ref;

    /* Items of `inputs` have these results: blocks in order, of which there may be none. By the thread that has run them, without the lock; it may wait, which
     * holds that thread back. -1 with err set when it cannot keep them, nor any that come later: the job ends with that. */
    int (*record)(struct tp_recorder *recorder, const tp_block *inputs, const tp_block *results, const tp_ran *ran, tp_error *err);
} tp_recorder;

typedef struct tp_job_config {
    tp_func *func;   /* held by the job */
    tp_image *image; /* held by the job; NULL when no Lua runs it */
    tp_ref *executor_data; /* held by the job: what the executor needs to know beside that, and nobody else looks at; or NULL */
    uint64_t sites; /* of the executor that may run it, as bits; 0: any */
    tp_executor *executor;
    tp_executor *fallback; /* runs the image once all sites have been left (tp_job_leave_site), or NULL */
    tp_waiter *waiter; /* of the owner */
    tp_agent *owner;   /* the agent inside whose item the map was called, or NULL */
    bool ordered, keep_going /* failures do not end the job */, discard /* no results wanted */;
    uint64_t window;   /* items in flight at most; 0: TP_WINDOW_MAX */
    size_t bytes;      /* inputs and results that wait, before the job holds back; 0: TP_BYTES_MAX */
    bool is_cheap;     /* reading an input ahead costs and changes nothing: the window may be filled at once */
    int64_t total;     /* inputs, -1 when not known */
    tp_retries retries;
    uint64_t timeout_ns, recycle, memory; /* see tp_terms */
    uint32_t batch; /* the same */
    bool splits;    /* the same */
    tp_returns returns;
    tp_recorder *recorder; /* held by the job; NULL: nothing is recorded */
    tp_key draws;      /* what its items draw their random numbers from */
    bool has_leases;   /* see tp_terms */
    uint64_t leases;
} tp_job_config;

typedef struct tp_job_counts {
    uint64_t pushed, finished, failed, delivered, retried;
    uint64_t skipped; /* of those that count as finished: were not run, after a cancel or the failure that ends the job */
    bool closed; /* pushed is all there will be */
} tp_job_counts;

/* ---- the engine: what all jobs of a host share ---- */

int tp_engine_open(tp_engine **out, tp_error *err);
void tp_engine_close(tp_engine *engine); /* accepts NULL; all jobs and agents must be gone */
tp_trace *tp_engine_trace(tp_engine *engine);  /* the host's */
uv_mutex_t *tp_engine_lock(tp_engine *engine); /* for executors' condition variables */
bool tp_engine_is_locked(tp_engine *engine);   /* has this thread the lock? For TP_ASSERT: builds without assertions lack it */

/* Cancels all jobs, and all that come later. Any thread. */
void tp_engine_stop(tp_engine *engine);

/* Cancels the jobs whose owners this wakes, and all below them. Any thread. */
void tp_engine_cancel_of(tp_engine *engine, const tp_waiter *waiter);

/* Permits for functions that others run as well: who has them all, in a worker process its host. Both are called without the lock, by the thread that runs
 * or waits; `take` waits until there is one. */
typedef struct tp_permits {
    void (*take)(void *user, const tp_func *f);
    void (*release)(void *user, const tp_func *f);
    void *user;
} tp_permits;

/* Asks these for what agents run while they wait. Before the first job; copied. */
void tp_engine_set_permits(tp_engine *engine, const tp_permits *permits);

bool tp_engine_is_stopped(tp_engine *engine);

/* Any thread, also a signal handler: sums over the jobs that a script itself started. */
void tp_engine_counts(tp_engine *engine, uint64_t *delivered, uint64_t *total);

/* Likewise: are there such jobs, and are the results of all of them recorded? */
bool tp_engine_records(tp_engine *engine);

/* What the calling thread runs; NULL: nothing. Only for a signal handler that is about to end the process: it looks without the lock. */
const tp_work *tp_engine_running_here(const tp_engine *engine);

/* Any thread: how many of the executor's agents run items now. */
unsigned tp_engine_busy(tp_engine *engine, const tp_executor *executor);

/* ---- the owner's side: called by the owner's thread ---- */

/* A new job with one owner. Fails with TP_ELIMIT when it is nested deeper than TP_NESTING_MAX. */
int tp_job_open(tp_job **out, tp_engine *engine, const tp_job_config *config, tp_error *err);

/* The owner's end: cancels what is not finished and drops the owner's reference. */
void tp_job_close(tp_job *job);

/* How many inputs may be pushed now, by window, bytes and read-ahead. A paused job goes on. */
uint64_t tp_job_room(tp_job *job);

/* Hands over a block of inputs, which get the next indexes. Wakes workers. -1 when there is no memory to queue it: the job is cancelled then. */
int tp_job_push(tp_job *job, tp_block *inputs);

/* The same for inputs of which some have results already: `results` is a list of blocks, in order, which says with `first` of which items they are (the first
 * input has the index tp_job_pushed). They are given out in their places as if they had been run; the other items are run. */
int tp_job_push_known(tp_job *job, tp_block *inputs, tp_block *results);

/* How many inputs were pushed: the index of the next one. */
uint64_t tp_job_pushed(const tp_job *job);

/* No inputs come after those pushed. */
void tp_job_end(tp_job *job);

/* The next results, in order when the job is ordered; they are the caller's. NULL when none is ready. A paused job goes on; where there are none, it does
 * not pause until there are, since the owner waits. */
tp_block *tp_job_next(tp_job *job);

/* All inputs are in, and every result has been given out. */
bool tp_job_is_over(tp_job *job);
bool tp_job_is_cancelled(tp_job *job);

/* The reader of the results takes its time over each (a loop), so that work may pause while it is away with some; or not (list). A paused job goes on. */
void tp_job_set_reading(tp_job *job, bool reading);

/* The owner, which was given nothing, does not wait any longer, and may not come back: the job may pause. */
void tp_job_leave(tp_job *job);

/* No slice is taken while the job is held back; what runs goes on. */
void tp_job_hold_back(tp_job *job, bool held_back);

/* Nothing more is begun, nor tried again. What runs goes on to its end. The owner. */
void tp_job_stop(tp_job *job);

void tp_job_cancel(tp_job *job); /* drops what is queued, asks what runs to stop, with all jobs below it. Any thread */
void tp_job_get_counts(tp_job *job, tp_job_counts *counts); /* a paused job goes on for a while: its owner looks in */

/* A number that changes when the owner has something to see: results that it can take, room, or the end. Any thread. */
uint32_t tp_job_eventcount(tp_job *job);

/* Before sleeping: has the waiter woken at the next news after `seen`. False when there is some already. */
bool tp_job_await(tp_job *job, uint32_t seen);
void tp_job_unawait(tp_job *job);

/* Takes a job that the waiter was woken for off the waiter's list; the earliest first, NULL when there is none. */
tp_job *tp_job_collect(tp_engine *engine, tp_waiter *waiter);

/* Is there one? */
bool tp_job_can_collect(tp_engine *engine, const tp_waiter *waiter);

/* Is there nothing left that the job does before its owner reads or pushes? */
bool tp_job_is_idle(tp_job *job);

tp_executor *tp_job_executor(const tp_job *job);
tp_func *tp_job_func(const tp_job *job);
const tp_terms *tp_job_terms(const tp_job *job);
tp_ref *tp_job_executor_data(const tp_job *job);

bool tp_job_is_held_back(const tp_job *job);

/* May it be that the owner is going to say what it wants of the results? Not once it has asked for any, or the job is older than max_ns. */
bool tp_job_is_undecided(const tp_job *job, uint64_t max_ns);

/* ---- the executors' side: all that an executor may do to a job ---- */

/* With the lock held: claims a slice for agent, of jobs offered to `executor`. NULL when there is nothing to take now. */
tp_slice *tp_job_take_locked(tp_engine *engine, tp_executor *executor, tp_agent *agent);

/* With the lock held: would tp_job_take_locked find something? */
bool tp_job_can_take_locked(tp_engine *engine, const tp_executor *executor);

/* There is no memory even to say what an item has failed with: the job fails as a whole, for want of memory. The item's slice is to be finished without
 * a result for it. Any thread. */
void tp_job_starve(tp_job *job);
bool tp_job_is_starved(tp_job *job);

/* Gives the slice's results, those of the items before slice->work.at; the rest was not begun and goes back. Ends the slice, which is the agent's
 * innermost. Cannot fail. */
void tp_job_finish(tp_slice *slice);

/* The job cannot be run at the agent's site: none of its slices goes there any more. False when it is the only one that is left, and there is no
 * fallback. */
bool tp_job_leave_site(tp_job *job, uint64_t site);

/* The agent's thread has died: the items that it was running have this failure, made by the caller for each as `make_failure(user, slice)` (NULL: no
 * memory), and the rest of its slices goes back. A slice whose items were all over has no failure. Any thread, once the agent's has ended. */
void tp_job_lose(tp_agent *agent, tp_block *(*make_failure)(void *user, tp_slice *slice), void *user);

/* Cancels every job that was offered to the executor: there is nobody to run it, because of err, which is copied. Jobs that come later may be luckier. */
void tp_job_lose_all(tp_engine *engine, const tp_executor *executor, const tp_error *err);

/* Cancels the job because of err, which is copied. Any thread. */
void tp_job_give_up(tp_job *job, const tp_error *err);

/* Why nobody could run the job; NULL unless tp_job_lose_all or tp_job_give_up has cancelled it. Any thread; lives as long as the job. */
const tp_error *tp_job_lost(tp_job *job);

/* With the lock held: is there anything that `executor` could take, and until when may its workers sleep (0: for ever)? Asks slices
 * that run too long to share. */
uint64_t tp_job_idle_until(tp_engine *engine, tp_executor *executor);

/* For a slice whose items run elsewhere: takes its permit again, if it has released that; takes one for items of another function that are run inside of its
 * own; releases that. The first two wait until `until` (uv_hrtime; UINT64_MAX: for ever), and say whether there was one. */
bool tp_slice_take_permit(tp_slice *slice, uint64_t until);
bool tp_slice_take_permit_of(tp_slice *slice, tp_func *f, uint64_t until);
void tp_func_release_permit(tp_engine *engine, tp_func *f);

/* The agent waits for n jobs, started inside its current item, which gives up its permit; and does not any more, and has its place
 * back, for which it may have to wait. */
void tp_job_begin_wait(tp_agent *agent, tp_job *const *jobs, unsigned n);
void tp_job_end_wait(tp_agent *agent, tp_job *const *jobs, unsigned n);

/* In between: claims a slice of a job that the agent waits for, or of one that was started by items of those. NULL when there is nothing to take
 * now. */
tp_slice *tp_job_take_awaited(tp_agent *agent);

/* Sleeps until one of n jobs has news after its `seen`, or work below one can be taken, or a retry is due, or it is deadline_ns (uv_hrtime). */
void tp_job_sleep(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t deadline_ns);

/* Is the slice's job, or one that it is nested in, cancelled? With the lock held; without it, tp_sink has the same. */
bool tp_slice_is_cancelled_locked(const tp_slice *slice);

#endif
