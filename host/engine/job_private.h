/* job_private.h: what the engine's files (engine.c, open.c, schedule.c, finish.c, wait.c and job.c)
 * share about a job, and nobody else sees. job.h has the contract.
 *
 * Everything below that is not marked otherwise is guarded by engine->lock; functions whose comment
 * says "locked" are called with it held. Wake-ups are decided under the lock and done after it. */
#ifndef TP_JOB_PRIVATE_H
#define TP_JOB_PRIVATE_H

#include "base/invariant.h"
#include "engine/exec.h"
#include "engine/inside.h"
#include "engine/job.h"
#include "engine/range.h"

struct tp_job {
    tp_ref ref; /* owners: the owner, each slice, each job nested in it */

    /* Set by tp_job_open, read-only afterwards. */
    tp_engine *engine;
    tp_func *func;
    tp_terms terms; /* its image and its arrays are held */
    tp_ref *executor_data;
    tp_executor *fallback;
    tp_beside beside;
    tp_recorder *recorder;
    tp_waiter *waiter;
    tp_job *parent; /* the job in whose item it was started; held; or NULL */
    /* the slice of that item; it may be over, and its memory another one's */
    const tp_slice *opener;
    bool ordered, keep_going, is_cheap;
    uint64_t window;
    unsigned attempt; /* the first one's number */
    size_t bytes_max;
    tp_retries retries;
    int64_t total;
    uint64_t opened_ns;
    uint32_t place; /* tp_work.place of the item in which it was started */
    char *outside;  /* where that is not 0 and there is no parent: the name of the item's function;
                       owned. NULL: unknown */

    /* ---- the owner's own ---- */
    tp_pairing *early; /* results that came before their turn, the block with the lowest index
                          first; linked by the blocks themselves, so that none is lost for want of
                          memory */
    uint64_t head;      /* index of the next result to give out */
    tp_block *fifo, **fifo_end; /* unordered jobs: results in the order in which they came */
    /* the next result, held back until the values that its item has given are taken; or NULL */
    tp_block *held;
    uint64_t delivered; /* results given out */
    uint64_t pushed;    /* written by the owner under the lock */
    uint64_t read_ahead;

    /* ---- guarded by engine->lock ---- */
    uint64_t kept; /* results that its recorder was given, or had; 0 without a recorder */
    tp_job *next, *prev;             /* in engine->jobs */
    tp_job *next_ready, *prev_ready; /* in func->ready */
    bool is_ready;
    /* a heap by index: lower indexes are served first, also when they were given back or are
     * retried */
    tp_range *queue;
    tp_range *delayed; /* a heap by time: items that wait for their retry */
    tp_block *done, **done_end;
    /* values that items have given while they run, in the order in which they came */
    tp_block *parts, **parts_end;
    uint64_t n_parts;                 /* how many; and how many of the item at head were taken */
    uint64_t head_taken;
    /* who waits for `taken` because of values that wait is woken when so many of the item at head
     * were taken (UINT64_MAX: it does not wait), and others when half of a window is left */
    uint64_t head_wakes_at;
    uint64_t promised; /* values that slices may give yet (tp_slice.allowed) */
    /* is_asked_for: the executor is to be told when values were taken, of the item at head so
     * many */
    uint64_t asked_at;
    bool is_asked_for;
    bool is_metered;
    uint64_t metered; /* see tp_job_allow */
    /* of a job that streams: signalled when values were taken, or are not wanted any more */
    uv_cond_t taken;
    uint64_t queued, n_delayed, finished, failed, retried, skipped;
    uint64_t awaited; /* the head when the owner last asked for results */
    /* no item with a higher index is begun: the one with this index has failed for good */
    uint64_t stop_at;
    uint64_t sites;   /* at which it may run, as bits; 0: any */
    size_t bytes;     /* of inputs that are not finished and results that are not handed out */
    unsigned running;  /* slices */
    unsigned at_sites; /* those of them that `beside` runs */
    uint64_t making;   /* sites (bits of beside.promised) that make what they have promised */
    /* where one of both runs it at a time: since when what is finished next has been run, and
     * whether by sites; 0: nothing runs and nothing was to be taken (tp_job_begin_beside) */
    uint64_t since_ns;
    bool is_since_sites;
    /* since when there was something to take, if only those have run it; 0: the others have, too */
    uint64_t run_began_ns;
    uint64_t run_items;    /* how many since then */
    bool is_whole; /* it is a run that is known as a whole: who has begun it ends it */
    double rival_ns; /* what the other one would take, if that should be faster; else 0 */
    uint32_t last_count; /* items of the last slice */
    double item_ns;      /* what an item takes; 0: not known */
    uint64_t left_ns;    /* since when the owner is away with results, see is_left; 0: it is here */
    uint64_t random;     /* for the jitter of retries */
    bool ended, is_cancelled, is_reading, drained;
    bool is_starved; /* cancelled for want of memory */
    tp_terms *apart_terms; /* for items of ranges with `lost_at`; owned; NULL: there are none */
    uint64_t lost_items;   /* see tp_job_lost_items */
    int lost_site;
    /* that its owner has not taken yet; owned. builds_end: of those that there are */
    struct tp_waiting_build *builds, **builds_end;
    unsigned n_builds;
    tp_error *lost;  /* why tp_job_lose_all or tp_job_give_up has cancelled it; set once */
    tp_executor *executor;
    tp_inside_map *shown; /* where the host of this process sees it; NULL: nowhere */
    unsigned inside;   /* jobs nested in it, at any depth, that their owners have not closed */
    uint32_t owner_id; /* the id of the worker in whose item it was started; 0: none. For traces */
    bool is_awaited; /* the owner wants its waiter woken at the next news */
    bool is_told;    /* it has been told: the job is in the waiter's list of news */
    /* the agent and item that wait for it as a helper, see tp_agent_helper_id; NULL: none */
    const void *helper;
    tp_job *next_told, *prev_told;

    /* moves on with each news for the owner; written under the lock (release), read by the owner as
     * it spins (acquire) */
    _Atomic uint32_t eventcount;
    /* written by the owner; others use them as hints, or read them under the lock */
    _Atomic bool is_held_back, is_asked;
    _Atomic uint32_t reduction; /* a tp_reduction */
};

struct tp_engine {
    uv_mutex_t lock;
    tp_job *jobs;                          /* all that have an owner */
    tp_func *ready_first, *ready_last;     /* functions that have jobs with queued inputs */
    tp_slice *slices;                      /* all that are running */
    unsigned n_shareable; /* those of them that tp_engine_share may take something from */
    unsigned n_losable;   /* those of them with late_ns */
    tp_slice *lost;       /* those whose items went to others; linked by `next` */
    tp_agent *helpers;                     /* agents that sleep while they wait for a nested job */
    uint64_t next_due;                     /* the earliest retry, UINT64_MAX: none */
    bool is_stopped;
    _Atomic bool owner_waits; /* relaxed; see tp_engine_set_waiting */
    tp_permits permits; /* set before the first job; NULLs: no other process has permits */
    _Atomic uint64_t delivered, total, kept; /* relaxed; sums over jobs without a parent */
    /* relaxed; how many jobs without a parent have a recorder, and how many have none */
    _Atomic uint32_t recorded, unrecorded;
    _Atomic bool has_recorded; /* relaxed; results were recorded, or found where they were */
    tp_trace trace;
    _Atomic uint64_t n_jobs;   /* relaxed: numbers for jobs */
    _Atomic uint32_t n_agents; /* relaxed: ids for their workers */
    _Atomic uint32_t cancels;  /* written under the lock: how often jobs were cancelled */
    tp_inside *inside; /* the lock; where jobs are shown to the host of this process; or NULL */
    struct tp_failures *failures; /* the lock; NULL: nobody wants to know what they say */
};

/* Whom to wake once the lock is released. */
typedef struct tp_wakes {
    tp_waiter *owner;
    tp_executor *executor;
    unsigned takers;
    tp_executor *beside; /* all of its workers; or NULL */
} tp_wakes;

/* ---- engine.c ---- */

/* Not locked. Wakes those that `w` names, and starts workers. */
void tp_wakes_send(const tp_wakes *w);

/* All of this section but tp_engine_tell_cancelled: locked. Puts inputs into the job's queue; takes
 * those with the lowest index out. */
void tp_job_enqueue(tp_job *job, tp_range *r);
tp_range *tp_job_dequeue(tp_job *job);

/* Moves the job to the end of its function's line, and the function to the end of the engine's, so
 * that all take turns. */
void tp_job_rotate(tp_job *job);

/* Is the job, or one that it is nested in, cancelled? */
bool tp_job_is_unwanted(const tp_job *job);

/* The job has news: adds it to its waiter's list when the owner waits for it. The caller then wakes
 * the returned waiter without the lock; NULL: nobody waits. */
tp_waiter *tp_job_tell(tp_job *job);

/* The owner knows the news, or does not wait any longer. */
void tp_job_untell(tp_job *job);

/* Wakes the agents that sleep for nested jobs, to look again; and the first in line for a permit of
 * the function. */
void tp_agent_wake(tp_agent *a);
void tp_engine_wake_helpers(tp_engine *e);
void tp_func_wake_resuming(tp_func *f);

/* n more items of an input block have their result; the last one frees it. */
void tp_job_release_inputs(tp_job *job, tp_block *b, uint32_t n);

/* Counts n items as finished without running them; the second: all queued items with a higher
 * index. */
void tp_job_skip(tp_job *job, tp_block *b, uint32_t n);
void tp_job_skip_queued(tp_job *job, uint64_t above);

/* Locked. Counts results that the next run finds, for tp_engine_kept. */
void tp_job_count_kept(tp_job *job, uint32_t n);

/* Asks running slices that have items beyond `above` to return after their current item. */
void tp_job_stop_slices(tp_job *job, uint64_t above);

/* The job is cancelled: if the one around it is, too, the item that has opened it may find that out
 * (tp_slice.hit_at). */
void tp_job_hit_opener(const tp_job *job);

/* The item has failed for good, and with it the job: later items are not wanted. */
void tp_job_stop_behind(tp_job *job, uint64_t index);

/* An item has failed with b and is not retried. True when that ends the job. */
bool tp_job_count_failure(tp_job *job, const tp_block *b);

/* Hands the block to the owner. */
void tp_job_add_result(tp_job *job, tp_block *b);

/* The last of engine->jobs. Who cancels several goes from it by `prev`, since it must come to a job
 * before those inside of its items (tp_job_hit_opener). */
tp_job *tp_engine_oldest_job(const tp_engine *e);

/* Marks one job as cancelled; the caller wakes its owner. */
void tp_job_cancel_locked(tp_job *job);

/* Locked, but not throughout. Wakes the owners of cancelled jobs. One that sleeps on a loop is
 * woken without the lock: one owner at a time, since the list may change. */
void tp_engine_tell_cancelled(tp_engine *e);

/* Is each pushed input in exactly one place (queued, delayed, taken, finished)? For TP_ASSERT; not
 * defined in builds without assertions. */
bool tp_job_is_balanced(const tp_job *job);

/* The agent's site as a number, an index of site_ns; -1: none. Any thread. */
int tp_agent_site(const tp_agent *agent);

/* ---- failures.c ---- */

/* Locked. Keeps what the failure says for people who watch (tp_engine_watch_failures). */
void tp_engine_keep_failure(tp_engine *e, const tp_slice *s, const tp_block *b, bool is_retried);

/* ---- builds.c ---- */

/* Forgets those that nobody has taken. Its last owner. */
void tp_job_free_builds(tp_job *job);

/* ---- finish.c ---- */

/* Locked. Items that were not begun go back into the queue, or are skipped when they are not wanted
 * any more. The range is the job's again. */
void tp_job_put_back(tp_job *job, tp_range *r);

/* ---- open.c; locked ---- */

/* What a job's `helper` is while this agent waits for it: a value that differs between the items
 * that the agent has begun, one inside the other. */
const void *tp_agent_helper_id(const tp_agent *agent);

/* For slices of jobs with `concurrent_inputs`: count_open, uncount_open: the agent has one more,
 * one fewer open item. count_of: how many items of the job's function it has open at the level at
 * which it would begin one more. */
void tp_agent_count_open(tp_agent *a, const tp_slice *s);
void tp_agent_uncount_open(tp_agent *a, const tp_slice *s);
unsigned tp_agent_count_of(const tp_agent *a, const tp_job *job);

/* The level `from` is over: items that are open there now belong to the agent's present level. */
void tp_agent_end_level(tp_agent *a, const void *from);

/* ---- beside.c; locked ---- */

/* May sites run the job beside its workers, still? */
bool tp_job_has_beside(const tp_job *job);

/* Who may take what is next in the queue of such a job. */
typedef struct tp_offer {
    bool workers, sites;
} tp_offer;
tp_offer tp_job_offer(const tp_job *job);

/* The sites that can run something of the job. */
uint64_t tp_job_made_sites(const tp_job *job);

/* Has a site to be woken, to make what it has promised? */
bool tp_job_is_making_due(const tp_job *job);

/* How many of its queued items the agent may take at once; is_trial: it is to take as many, to be
 * measured. */
double tp_job_share(const tp_job *job, const tp_agent *agent, bool *is_trial);

/* The slice of such a job, of those items, begins. */
void tp_job_begin_beside(tp_job *job, tp_slice *s, const tp_range *taken, uint64_t now);

/* Nothing of such a job runs now, and nothing is to be taken. */
void tp_job_rest_beside(tp_job *job);

/* A slice of such a job has run n items. */
void tp_job_learn_beside(tp_job *job, const tp_slice *s, uint32_t n, uint64_t now);

/* The slice begins: says when it will be late. */
void tp_slice_expect(tp_slice *s);

/* Not locked; the agent's thread. Ends the slice if it was lost (late.c); false: it was not, and
 * cannot be any more. */
bool tp_slice_end_lost(tp_slice *s);

/* ---- late.c ---- */

/* Locked. A slice that is late; NULL: none is, and *when is the time at which to look again, or
 * 0. */
tp_slice *tp_engine_find_late(tp_engine *e, uint64_t now, uint64_t *when);

/* Locked. Gives the items of a late slice to the workers, who are to be woken; the slice is its
 * agent's alone from here on. */
void tp_slice_lose(tp_slice *s, uint64_t now, tp_wakes *w);

/* ---- schedule.c ---- */

/* Those are to be woken who may take what is queued. */
void tp_job_wake(const tp_job *job, tp_wakes *w);

/* The slice leaves the line for a permit of its function. */
void tp_slice_leave_line(tp_slice *s, tp_func *f);

/* Locked. Of a job that streams: takes all `emitted` values of that item from those that wait to be
 * read; *dropped: a list of them. False when some were read: nothing is dropped then. */
bool tp_job_drop_values(tp_job *job, uint64_t index, uint64_t emitted, tp_block **dropped);

/* How many workers to wake for what is queued: by the time it takes where that is known, else one,
 * which wakes the next; none where the owner sees to it (tp_executor.defers). */
unsigned tp_job_takers(const tp_job *job);

/* Why nothing of the job's queue can be taken; NONE: something can be, or it is empty. */
tp_reason tp_job_queue_reason(const tp_job *job, uint64_t now);

/* come_back: the owner is here. go_away: it has been given results and may not come back. resume:
 * wakes agents that could run the job's items, which it did not give out while it was paused. */
void tp_job_come_back(tp_job *job, tp_wakes *w);
void tp_job_go_away(tp_job *job);
void tp_job_resume(tp_job *job, tp_wakes *w);

/* Retries whose time has come go back to their queue; sets engine->next_due. */
void tp_engine_promote_due(tp_engine *e, uint64_t now);

/* Could the agent, which has open items and takes turns, take work now? */
bool tp_agent_can_take(tp_engine *e, const tp_agent *agent, uint64_t now);

/* The next job that a waiting agent should serve: one that it waits for, when its own executor runs
 * that job or the job has no workers; else one below those, for its executor. */
tp_job *tp_agent_pick_awaited(tp_engine *e, const tp_agent *agent, uint64_t now);

#endif
