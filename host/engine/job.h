/* job.h: one map or call: claiming, order, window, limits, retries, cancellation.
 *
 * A job's inputs are pushed in blocks by its owner (the thread whose Lua state called map) and
 * claimed in slices by agents; they come back as blocks of results, which the owner takes in order.
 * The job knows nothing of Lua or of how an executor works.
 *
 * One lock, the engine's, guards all of it. It is held for some tens of nanoseconds per slice, and
 * never while Lua runs, memory of users is copied or a thread is woken. A slice runs for some 100
 * us (TP_SLICE_NS), so threads hardly ever wait for it.
 *
 * Invariants, which builds for tests check (host/base/invariant.h):
 *   - who takes an item finishes it, once (tp_job_finish), or gives it back; never one outside of
 * the slice;
 *   - pushed = queued + delayed + taken + finished, at any time the lock is free;
 *   - index i of the results is index i of the inputs. */
#ifndef TP_JOB_H
#define TP_JOB_H

#include "base/trace.h"
#include "engine/reason.h"
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
    /* a slice that takes longer is asked to give back what it has not begun, for others to share */
    TP_STUCK_NS = 1000 * 1000,
    /* One whose item then runs for this long does not keep its other items back until that is over:
     * earlier ones' results go to the job, and others may begin later ones (share.c). */
    TP_SETTLED_NS = 10 * 1000000,
    /* a loop that has not asked for results for this long may have been left by its script */
    TP_PAUSE_NS = 80 * 1000000,
    TP_READY_MIN = 8, /* so many results must wait for such a loop before its job pauses */
    TP_VIEW_NAME = 64,
    TP_NESTING_MAX = 200,        /* how deep maps may be nested, the outermost one included */
    TP_WINDOW_MAX = 1 << 16,     /* the window where the user gives none, in items */
    /* bytes of inputs and results that a job lets wait before it holds back, unless configured
     * otherwise */
    TP_BYTES_MAX = 64 << 20
};

/* How an owner is woken when a job has news. Outlives the jobs that name it. */
struct tp_waiter {
    void (*wake)(tp_waiter *w); /* any thread; never called with the lock held */
    /* engine's lock: jobs whose news the owner waits for and that have some (tp_job_collect) */
    tp_job *news_first, *news_last;
};

/* Who takes slices and has them run: a worker thread, a supervisor of a process, a device's thread,
 * or the owner's own thread. Belongs to its thread, except for the fields marked below. */
struct tp_agent {
    tp_worker worker; /* its worker; `type` is set by whoever opens a Lua state for it */
    tp_waiter waiter; /* wakes it while it waits for a nested job */
    tp_engine *engine;
    tp_executor *executor; /* whose worker it is; for an owner's own thread the inline one */
    /* where it runs (for OpenCL: on which device), as one bit: a worker runs at one site; 0: its
     * executor has no sites */
    uint64_t site;
    uv_cond_t cond;   /* with the engine's lock */

    tp_slice *spare;   /* memory for slices, free to use, linked by `next`; its own */
    struct supervisor *apart_process; /* its own, or NULL: see tp_apart_run (workers/workers.h) */
    struct tp_own_loop *own_loop; /* its own: where items that wait do so (runtime/own_loop.h) */
    /* its own: the jobs whose news ends a turn of its loop, see tp_job_sleep */
    tp_job *const *watched;
    const uint32_t *watched_seen;
    unsigned n_watched;
    uint32_t cancels_seen; /* its own: see tp_agent_sees_cancels */

    /* ---- guarded by the engine's lock ---- */
    /* it is between tp_job_begin_block and tp_job_end_block, in a wait without an end of its own */
    bool is_blocked;
    bool is_hopeless;                /* see tp_engine_give_up */
    tp_agent *next_helper;           /* in the engine's list of agents that sleep for nested jobs */
    tp_agent *next_asleep;           /* in the list of agents that have nothing to do (tp_idle) */
    bool is_asleep;                  /* it is in that list */
    unsigned n_outermost;   /* slices that it did not begin inside of another one's item */
    unsigned n_open;        /* slices whose items wait beside each other; its own may read it */
    unsigned n_lent;        /* those of them that do not count as open */
    /* how many items may be open at most, after a worker has died with several open and nobody
     * knows which was at fault (tp_slice_set_apart); 0: as many as `concurrent_inputs` allows */
    unsigned apart;
    bool is_full;           /* see tp_agent_set_full */
    /* the open items counted by function (open.c): an array of n_kinds; owned */
    struct tp_open *open;
    unsigned n_kinds;
    /* the process in which its items run, and the maps inside of them (inside.h); NULL: none that
     * it knows of */
    const struct tp_inside *inside;
    uint64_t process;
    const struct tp_afar *afar; /* what is known of its items on another machine; or NULL */
    /* wakes the agent from a turn of its own loop; NULL: it has none. Set by its own thread */
    uv_async_t *bell;
};

int tp_agent_open(tp_agent *agent, tp_engine *engine, int index, tp_executor *executor,
                  tp_error *err);
void tp_agent_close(tp_agent *agent);

/* A number as tp_worker.id for somebody who is no agent: a worker elsewhere. */
uint32_t tp_engine_new_worker(tp_engine *engine);

/* Items that an agent has claimed of a job. The memory belongs to the agent and is not on its
 * thread's stack, so that a supervisor can finish the slice when the thread has died
 * (tp_job_lose). */
struct tp_slice {
    tp_work work; /* first member */
    tp_job *job;  /* held */
    tp_agent *agent;
    uv_thread_t thread; /* that claimed it */
    uint64_t taken_ns; /* when it was claimed: no other slice of the agent's has the same */
    /* since when those of its items have run that have not been handed over; engine's lock, since
     * tp_slice_hand_over moves it */
    uint64_t started_ns;
    /* how long its items ran, where that is much less than the slice took (it went to a process and
     * back); 0: as long as the slice. The agent's */
    uint64_t ran_ns;
    bool has_more; /* when it was claimed there was work for one more worker */
    /* it waited for a compiler, so that its time says nothing about the next ones; and for how
     * long, where its job is_timed. The agent's */
    bool is_cold;
    uint64_t compiled_ns;
    bool is_trial; /* the slower one of workers and sites runs it, see beside.c; engine's lock */
    struct tp_range *range; /* the items; owned by the engine */
    tp_slice *next, *prev;  /* in the engine's list; engine's lock */
    bool has_permit;        /* counts in func->running; engine's lock */
    bool is_permitted;      /* the slice also has a permit from tp_permits; the agent's */
    tp_block *results, **results_end; /* what the sink has taken so far; the agent's */
    uint64_t emitted; /* how many values its item has given; engine's lock */
    /* so many it was told that it may give (tp_slice_allow); engine's lock */
    uint64_t allowed;
    bool is_full; /* its item waits, since it has given what it may; engine's lock */
    bool is_outermost; /* counts in agent->n_outermost; engine's lock */
    bool is_settled;   /* see tp_job_settle; engine's lock */
    /* the offset of the item that ran when a job that the slice's items had opened was cancelled
     * together with theirs; TP_WORK_UNTOLD: none was. Engine's lock */
    uint32_t hit_at;
    /* of a job that workers run beside sites: when its site is late (late.c); 0: it is never. It is
     * late, and its items are others' now. Engine's lock */
    uint64_t late_ns;
    bool is_lost;
    bool may_be_lost; /* the agent's */
    /* its first items, whose results the job has already: written by whoever gives them to it, with
     * the engine's lock and the work for reading */
    uint32_t handed;
    bool is_shareable; /* counts in the engine's n_shareable; engine's lock */
    /* its item seems to run for long: which one that was when somebody looked, and when; 0: nobody
     * has. Engine's lock */
    uint32_t stuck_at;
    uint64_t stuck_ns;

    /* ---- of an item that waits beside others (tp_terms.concurrent); engine's lock ---- */
    const void *level; /* who takes the slices of jobs that it waits for: see tp_agent_helper_id */
    bool is_lent;      /* it does not count as open: it waits for what others must do */
    bool is_blocked;   /* so does an agent's (tp_agent.is_blocked) */
    bool is_in_line;   /* in func->resuming */
    tp_slice *next_resuming; /* in tp_func.resuming */
};

typedef struct tp_retries {
    unsigned max; /* further attempts after the first */
    double initial_delay_s, backoff, max_delay_s, jitter;
    /* how many attempts in which the worker process died are repeated (`crash_retries`) */
    unsigned crashes;
    bool notify; /* failures that are retried are reported to the owner too, as TP_BLOCK_RETRY */
} tp_retries;

/* Records results as they come, before their owner can see them (the journal). Held by its jobs. */
typedef struct tp_recorder {
    tp_ref ref;
    /* The map in the file, and the version of its function there, for results that come in another
     * way than by `record`; map 0: none do. Read-only. */
    int64_t map, version;

    /* Records that items of `inputs` have these results: a list of blocks in order, which may be
     * empty. Of items from the index `end` on nothing is recorded. Called, without the lock, by the
     * thread that has run them or hands them over for it (tp_engine_share); it may wait, which
     * slows that thread down. -1 with err set when it can record neither these nor any later ones:
     * the job then ends with that error. */
    int (*record)(struct tp_recorder *recorder, const tp_block *inputs, const tp_block *results,
                  uint64_t end, const tp_ran *ran, tp_error *err);
} tp_recorder;

/* Who runs a job's items beside the workers of its executor: sites of another one. */
typedef struct tp_beside {
    tp_executor *executor;
    unsigned workers;  /* how many the job's own executor may have */
    bool is_exclusive; /* its sites compute on the processors that those workers run on */
    /* Sites (bits) that can run nothing of it yet: they have to make something first, which takes
     * some make_ns, and do when that is due (tp_job_take_promise_locked). */
    uint64_t promised;
    uint64_t make_ns;
    uint64_t late_ns; /* at least so long a site may take for a slice (late.c); 0: 5 s */
} tp_beside;

typedef struct tp_job_config {
    tp_func *func;   /* held by the job */
    tp_image *image; /* held by the job; NULL when no Lua runs it */
    /* held by the job: the executor's own data about it, which nobody else reads; or NULL. Of a job
     * that goes on beside sites (tp_job_go_beside), theirs */
    tp_ref *executor_data;
    uint64_t sites; /* sites at which it may run, as bits; 0: only where agents have none */
    tp_executor *executor;
    tp_executor *fallback; /* runs the image once no site is left (tp_job_leave_site), or NULL */
    tp_beside beside;      /* runs it too, at `sites`; executor NULL: nobody does */
    tp_waiter *waiter; /* of the owner */
    tp_agent *owner;   /* the agent inside whose item the map was called, or NULL */
    bool ordered, keep_going /* failures do not end the job */, discard /* no results wanted */;
    bool is_timed; /* see tp_terms */
    uint64_t window;   /* items in flight at most; 0: TP_WINDOW_MAX */
    size_t bytes; /* inputs and results that wait, before the job holds back; 0: TP_BYTES_MAX */
    /* reading inputs ahead costs nothing and has no side effects (as of a list): the window may be
     * filled at once */
    bool is_cheap;
    int64_t total;     /* inputs, -1 when not known */
    tp_retries retries;
    uint64_t timeout_ns, recycle, memory; /* see tp_terms */
    bool is_apart;  /* see tp_terms */
    uint32_t batch; /* see tp_terms */
    bool splits;    /* see tp_terms */
    bool streams;   /* see tp_terms; at most `window` values wait, too */
    /* it streams, and who reads its values is elsewhere: its items may give as many as
     * tp_job_allow says */
    bool is_metered;
    uint32_t concurrent; /* see tp_terms */
    tp_returns returns;
    tp_recorder *recorder; /* held by the job; NULL: nothing is recorded */
    tp_key draws;      /* the key from which its items draw their random numbers */
    bool has_leases;   /* see tp_terms */
    uint64_t leases;
    uint64_t base, part[2]; /* see tp_terms */
    /* tp_terms.executor, alive as long as the job; NULL: the name of `executor` */
    const char *executor_name;
    unsigned attempt;  /* the number of its items' first attempt; 0: 1 */
} tp_job_config;

typedef struct tp_job_counts {
    uint64_t pushed, finished, failed, delivered, retried;
    /* of those finished: items that were not run, after a cancel or after the failure that ended
     * the job */
    uint64_t skipped;
    bool closed; /* no more inputs will be pushed */
} tp_job_counts;

/* ---- the engine: what all jobs of a host share ---- */

int tp_engine_open(tp_engine **out, tp_error *err);
/* True when no item that shares the memory of this process runs or waits; then none will run until
 * the owner pushes some. Any thread. */
bool tp_engine_is_quiet(tp_engine *engine);
void tp_engine_close(tp_engine *engine); /* accepts NULL; all jobs and agents must be gone */
tp_trace *tp_engine_trace(tp_engine *engine);  /* the host's */
uv_mutex_t *tp_engine_lock(tp_engine *engine); /* for executors' condition variables */
/* does this thread hold the lock? For TP_ASSERT; not defined in builds without assertions */
bool tp_engine_is_locked(tp_engine *engine);

/* Cancels all jobs, and all that come later. Any thread. */
void tp_engine_stop(tp_engine *engine);

/* Cancels the jobs whose owner this waiter wakes, and all jobs below them. Any thread. */
void tp_engine_cancel_of(tp_engine *engine, const tp_waiter *waiter);

/* Permits of functions that other processes run too. Whoever has all permits hands them out: for a
 * worker process that is its host. Both functions are called without the lock, by the thread that
 * runs or waits; `take` waits until there is a permit. */
typedef struct tp_permits {
    void (*take)(void *user, const tp_func *f);
    void (*release)(void *user, const tp_func *f);
    void *user;
} tp_permits;

/* Sets where permits come from for items that agents run while they wait. Before the first job;
 * copied. */
void tp_engine_set_permits(tp_engine *engine, const tp_permits *permits);

/* Permits that a host on another machine hands out, for items of a part of a job there
 * (tp_terms.part): of a function that such an item calls. `take` waits for a fraction of a second;
 * `release` may wait for an answer. Any thread. */
typedef struct tp_far_permits {
    bool (*take)(void *user, const uint64_t part[2], const tp_func *f, bool may_wait);
    void (*release)(void *user, const uint64_t part[2], const tp_func *f);
    void *user;
} tp_far_permits;

bool tp_engine_is_stopped(tp_engine *engine);

/* Any thread, and signal handlers: sums over the jobs that a script itself started (not nested
 * ones). */
void tp_engine_counts(tp_engine *engine, uint64_t *delivered, uint64_t *total);

/* Any thread, also a signal handler: how many results of the maps that are running now are kept, by
 * a journal or a cache, for the next run. */
uint64_t tp_engine_kept(tp_engine *engine);

/* Any thread, and signal handlers: are there such jobs, and are the results of all of them
 * recorded? When there are none now: were results of earlier ones? */
bool tp_engine_records(tp_engine *engine);

/* Any thread, and signal handlers: was a result of any job recorded, or found where it was? */
bool tp_engine_has_recorded(tp_engine *engine);

/* The work that the calling thread runs; NULL: none. Only for a signal handler that is about to end
 * the process, since it reads without the lock. */
const tp_work *tp_engine_running_here(const tp_engine *engine);

/* Sums over all jobs, nested ones too. */
typedef struct tp_engine_totals {
    uint64_t queued, running, ready; /* ready: results that nobody has taken yet */
    uint64_t bytes;                  /* of inputs and results that wait */
} tp_engine_totals;
void tp_engine_get_totals(tp_engine *engine, tp_engine_totals *totals); /* any thread */

/* What is known of a job that has an owner. */
typedef struct tp_job_view {
    uint64_t number, parent /* 0: none */, opened_ns;
    /* the worker processes in which the two numbers are counted; 0: this process */
    uint64_t process, parent_process;
    char host[TP_VIEW_NAME]; /* the machine where it is, and its number means nothing; "": here */
    char name[TP_VIEW_NAME]; /* of its function; a long one is cut */
    const char *executor;    /* the name of a type: it lives for ever */
    int64_t total;           /* inputs, -1 when not known */
    uint64_t waiting, running, finished, failed, retried, skipped; /* items */
    tp_reason reason;        /* why nothing of it can be begun */
    unsigned limit;          /* of its function; 0: none */
    bool is_cancelled;
} tp_job_view;

/* Up to `max` of them, the newest first; those of the script itself before those inside of items,
 * and these before those inside of worker processes (inside.h). Gives how many; *others counts
 * those that it left out. Any thread. */
unsigned tp_engine_list_jobs(tp_engine *engine, tp_job_view *to, unsigned max, uint64_t *others);

/* An item that runs. */
typedef struct tp_run_view {
    uint32_t worker; /* its id */
    uint64_t job, item;
    char host[TP_VIEW_NAME]; /* the machine that runs it; "": this one */
    uint64_t since_ns;       /* when it began, where that is known; else 0 */
} tp_run_view;

/* Up to `max` of the items that run, one for each slice; of those on other machines the ones that
 * were heard of. Gives how many. Any thread. */
unsigned tp_engine_list_running(tp_engine *engine, tp_run_view *to, unsigned max);

/* Cancels the job of that number, as its owner could. False: there is none any more. Any thread. */
bool tp_engine_cancel_job(tp_engine *engine, uint64_t number);

/* An item that has failed, for people to read: long texts are cut. */
typedef struct tp_failure_view {
    uint64_t time_ns, job, item;
    uint32_t worker; /* its id */
    unsigned attempt;
    bool is_retried;
    char name[TP_VIEW_NAME], kind[16], message[600], traceback[2400]; /* "": not known */
} tp_failure_view;

/* Begins to keep what failures say, or ends it. Any thread, as the next one. */
int tp_engine_watch_failures(tp_engine *engine, bool is_watched, tp_error *err);

/* Takes up to `max` failures that were kept since the last time; gives how many. Where many fail
 * between two calls only the first ones are kept. */
unsigned tp_engine_take_failures(tp_engine *engine, tp_failure_view *to, unsigned max);

/* Notes TP_EVENT_OPEN for each open job, for a tracer that has just begun to listen. Any thread. */
void tp_engine_note_jobs(tp_engine *engine);

/* With the lock held: why workers of the executor have nothing to do, and because of which job;
 * *of is NULL when it is TP_REASON_NONE. `of` may be NULL. */
tp_reason tp_engine_reason_locked(tp_engine *engine, const tp_executor *executor,
                                  const tp_job **of);

/* With the lock held: its number and its function's limit. */
uint64_t tp_job_number(const tp_job *job);
unsigned tp_job_limit(const tp_job *job);

/* Any thread: how many of the executor's agents run items now. */
unsigned tp_engine_busy(tp_engine *engine, const tp_executor *executor);

/* ---- the owner's side: called by the owner's thread ---- */

/* A new job with one owner. Fails with TP_ELIMIT when it is nested deeper than TP_NESTING_MAX. */
int tp_job_open(tp_job **out, tp_engine *engine, const tp_job_config *config, tp_error *err);

/* The owner's end: cancels what is not finished and drops the owner's reference. */
void tp_job_close(tp_job *job);

/* How many inputs may be pushed now, by window, bytes and read-ahead. A paused job resumes. */
uint64_t tp_job_room(tp_job *job);

/* Hands over a block of inputs, which get the next indexes. Wakes workers. -1 when there is no
 * memory to queue it: the job is cancelled then. */
int tp_job_push(tp_job *job, tp_block *inputs);

/* The same where some of the inputs have results already: `results` is a list of blocks in order,
 * whose `first` says which items they are of (the first input has the index tp_job_pushed). They
 * are handed out in their places as if they had been run; the other items are run. */
int tp_job_push_known(tp_job *job, tp_block *inputs, tp_block *results);

/* How many inputs were pushed: the index of the next one. */
uint64_t tp_job_pushed(const tp_job *job);

/* No inputs come after those pushed. */
void tp_job_end(tp_job *job);

/* Of a job that is_metered, with one item: that may give so many values in all, 0 at first. */
void tp_job_allow(tp_job *job, uint64_t values);

/* Does that item wait, since it has given all that it may? It is news when it begins to. */
bool tp_job_is_full(tp_job *job);

/* The next results, in order when the job is ordered; they are the caller's. If the job streams,
 * the values of an item (PART) come before its result. NULL when none is ready: then the owner is
 * taken to wait, and the job does not pause until it has been given some. A paused job resumes. */
tp_block *tp_job_next(tp_job *job);

/* All inputs are in, and every result has been given out. */
bool tp_job_is_over(tp_job *job);
bool tp_job_is_cancelled(tp_job *job);

/* Does the owner read results one by one in a loop, which it may leave (then the job may pause
 * while it is away), or all at once? A paused job resumes. */
void tp_job_set_reading(tp_job *job, bool reading);

/* The owner asked for results, got none, and stops waiting: it may not come back, so the job may
 * pause. */
void tp_job_leave(tp_job *job);

/* While a job is held back no slice of it is taken; what runs goes on. */
void tp_job_hold_back(tp_job *job, bool held_back);

/* From here on the owner only wants what a reduction makes of whole groups of results
 * (TP_BLOCK_PARTIALS), where whoever runs the items can make it; other results may still come one
 * by one. Not for jobs with a recorder. The owner. */
void tp_job_reduce(tp_job *job, tp_reduction reduction);
/* Any thread: a hint. */
tp_reduction tp_job_reduction(const tp_job *job);

/* Ends the job early: nothing more is begun or retried; running items go on to their end. The
 * owner. */
void tp_job_stop(tp_job *job);

/* drops queued inputs and asks running items to stop, in this job and in all below it. Any
 * thread */
void tp_job_cancel(tp_job *job);
/* the counts for the owner. Since it has shown that it is there, a paused job resumes for a
 * while */
void tp_job_get_counts(tp_job *job, tp_job_counts *counts);

/* A counter that moves on when there is something for the owner to see: results that it can take,
 * room, or the end. Any thread. */
uint32_t tp_job_eventcount(tp_job *job);

/* Before sleeping: asks that the waiter is woken as soon as the eventcount differs from `seen`.
 * False when it does already. */
bool tp_job_await(tp_job *job, uint32_t seen);
void tp_job_unawait(tp_job *job);

/* Takes the job whose news came first off the list of those that the waiter was woken for; NULL
 * when there is none. */
tp_job *tp_job_collect(tp_engine *engine, tp_waiter *waiter);

/* Would tp_job_collect find a job? */
bool tp_job_can_collect(tp_engine *engine, const tp_waiter *waiter);

/* What the job is doing, for its owner to show. */
typedef struct tp_job_state {
    tp_reason reason; /* why nothing of it can be begun */
    unsigned limit;   /* of its function; 0: none */
    /* the item that has been running for longest, and since when (uv_hrtime); 0: none runs */
    uint64_t oldest, since_ns;
    /* of maps inside of its items: how many are open, and of those of one function its name (a
     * copy), how many inputs are done, and of how many that are known so far */
    unsigned maps;
    char inside[64];
    uint64_t inside_done, inside_total;
    unsigned compiling; /* machines on which its items wait for a device's compiler */
    /* of a function (a copy) whose items keep all workers, though nobody wants them; or "" */
    char given_up[64];
} tp_job_state;
void tp_job_get_state(tp_job *job, tp_job_state *state);

/* Can nothing more happen in the job before its owner reads or pushes? */
bool tp_job_is_idle(tp_job *job);

tp_executor *tp_job_executor(const tp_job *job);
tp_func *tp_job_func(const tp_job *job);
const tp_recorder *tp_job_recorder(const tp_job *job); /* NULL: nothing is recorded */
const tp_terms *tp_job_terms(const tp_job *job);
tp_ref *tp_job_executor_data(const tp_job *job);

bool tp_job_is_held_back(const tp_job *job);

/* May the owner still say how it wants the results? Not once it has asked for some, or when the job
 * is older than max_ns. */
bool tp_job_is_undecided(const tp_job *job, uint64_t max_ns);

/* ---- the executors' side: all that an executor may do to a job ---- */

/* With the lock held: claims a slice for agent, of jobs offered to `executor`. NULL when there is
 * nothing to take now. */
tp_slice *tp_job_take_locked(tp_engine *engine, tp_executor *executor, tp_agent *agent);

/* With the lock held: is there something for a worker of the executor to take? */
bool tp_job_can_take_locked(tp_engine *engine, const tp_executor *executor);
/* The same for a worker at one of these sites. */
bool tp_job_can_take_at_locked(tp_engine *engine, const tp_executor *executor, uint64_t sites);

/* Called when there is no memory even for the message of an item's failure: the whole job fails for
 * want of memory. The item's slice is then finished without a result for it. Any thread. */
void tp_job_starve(tp_job *job);
bool tp_job_is_starved(tp_job *job);

/* Ends the slice, the agent's innermost one: its results (those of the items before slice->work.at)
 * go to the job, the items that were not begun go back. Cannot fail. */
void tp_job_finish(tp_slice *slice);

/* The job cannot run at this site: no more slices of it are taken there. False when it was the last
 * site and nobody else runs it. */
bool tp_job_leave_site(tp_job *job, uint64_t site);

/* Locked. A job that promises something which an agent at that site is to make now, since workers
 * have run the function for as long as that takes, or will have with what is left of the job; NULL:
 * there is none. The caller holds it, and ends that (tp_job_end_promise). */
tp_job *tp_job_take_promise_locked(tp_engine *e, const tp_executor *ex, uint64_t site);

/* The site has made what the job needs there; or could not, and takes no part in it. */
void tp_job_end_promise(tp_job *job, uint64_t site, bool is_made);

/* A site has begun a slice: jobs that both workers and sites may run may now be for others than
 * those who were woken. Wakes them. tp_job_finish does the same, since the end of a slice tells
 * something about a function's speed. */
void tp_engine_wake_beside(tp_engine *e);

/* For a slice whose site has to compile before it begins, in its agent's thread: it may take longer
 * before workers run the items instead. */
void tp_slice_be_patient(tp_slice *slice);

/* How many items of the job workers have run since a site did not come back from them, and the
 * number of the last such site. Any thread. */
uint64_t tp_job_lost_items(tp_job *job, int *site);

/* From here on those sites run the job, too, beside its workers, which have run it alone; `data` as
 * tp_job_config.executor_data. Its owner; once; then tp_engine_wake_beside. */
void tp_job_go_beside(tp_job *job, const tp_beside *beside, uint64_t sites, tp_ref *data);

/* Do workers run the job beside its sites? Then they run what a site cannot, and whatever fails
 * there. */
bool tp_job_has_workers(const tp_job *job);

/* For devices, whose kernels may have written to captured arrays that the host does not see yet.
 * Called when the slice's items have run. True: the caller must bring home what the whole job has
 * written before it finishes the slice, because this is the job's last slice (every other one has
 * called this, and no input is left), or the job is cancelled. Of two slices that end at once the
 * later one gets true. */
bool tp_job_settle(tp_slice *slice);

/* For the owner of a job that it has cancelled: will no slice bring home any more what the job has
 * written? Then the owner must. */
bool tp_job_is_settled(tp_job *job);

/* The agent's thread has died. In each of its slices the item that was running gets a failure, made
 * by `make_failure(user, slice)` (NULL: no memory), and the rest goes back; a slice whose items
 * were all over gets none. Any thread, once the agent's has ended. */
void tp_job_lose(tp_agent *agent, tp_block *(*make_failure)(void *user, tp_slice *slice),
                 void *user);

/* Cancels every job of the executor, because of err, which is copied: nobody can run them. Jobs
 * that are opened later are tried anew. */
void tp_job_lose_all(tp_engine *engine, const tp_executor *executor, const tp_error *err);

/* Cancels the job because of err, which is copied. Any thread. */
void tp_job_give_up(tp_job *job, const tp_error *err);

/* The error with which tp_job_lose_all or tp_job_give_up cancelled the job; else NULL. Any thread;
 * lives as long as the job. */
const tp_error *tp_job_lost(tp_job *job);

/* With the lock held: until when may idle workers of the executor sleep (0: for ever)? Until the
 * next retry is due, or until a slice is to be asked to share, or a tp_engine_share is due. Asks
 * those that run too long now. */
uint64_t tp_job_idle_until(tp_engine *engine, tp_executor *executor);

/* Slices whose item runs for long do not keep back what stands before and behind it (see
 * TP_SETTLED_NS), and slices of jobs with workers whose site does not come back keep back nothing
 * (late.c). Called, without the lock, by whoever waits for results or for work. Gives when it
 * is to be called again (uv_hrtime), or 0. Any thread. */
uint64_t tp_engine_share(tp_engine *engine);

/* The same for a slice whose items run in another process; on its agent's own thread. hand_over:
 * the job takes the results that the sink has, whose items were over by that time. take_back: the
 * items from that offset on, which will not be begun, go back. False: they stay, for lack of
 * memory, or since no other worker may run them. */
void tp_slice_hand_over(tp_slice *slice, uint64_t over_ns);
bool tp_slice_take_back_rest(tp_slice *slice, uint32_t from);

/* Takes the inputs at the end back that nobody has begun, for good: they get no results. Gives how
 * many inputs are left, which have some or will; the job is not "over" then. The owner, of a job
 * without retries. */
uint64_t tp_job_withdraw(tp_job *job);

/* Of a job that streams, for a slice whose values come from elsewhere: how many its item may give
 * in all, by what waits for the reader; then the sink takes so many without a wait. It never
 * becomes less. False: no more are wanted. When the item has given all of them, the executor's
 * `start` is called as soon as it may give more. */
bool tp_slice_allow(tp_slice *slice, uint64_t *values);

/* The same slice's item is to be run anew, elsewhere: drops what it has given. False: some of it
 * was read. */
bool tp_slice_take_back(tp_slice *slice);

/* For a slice whose items run in another process. take_permit takes the slice's own permit again
 * after it was released; take_permit_of takes one for items of another function that run inside the
 * slice's items, and tp_func_release_permit releases it. Both wait until `until` (uv_hrtime;
 * UINT64_MAX: for ever) and tell whether they got a permit. */
bool tp_slice_take_permit(tp_slice *slice, uint64_t until);
bool tp_slice_take_permit_of(tp_slice *slice, tp_func *f, uint64_t until);
void tp_func_release_permit(tp_engine *engine, tp_func *f);

/* The agent waits, inside its current item, for n jobs that were started there: the item's permit
 * is released meanwhile. end_wait takes a permit again, for which it may have to wait. */
void tp_job_begin_wait(tp_agent *agent, tp_job *const *jobs, unsigned n);
void tp_job_end_wait(tp_agent *agent, tp_job *const *jobs, unsigned n);

/* Between the two: claims a slice of a job that the agent waits for, or of a job below one. NULL
 * when there is nothing to take now. */
tp_slice *tp_job_take_awaited(tp_agent *agent);

/* The agent's item waits for something that others do, apart from jobs, and runs nothing meanwhile:
 * its permit is released, and another worker may be started in its worker's place. After end_block
 * the caller takes a permit again. `endless`: the wait has no end of its own. */
void tp_job_begin_block(tp_agent *agent, bool endless);
void tp_job_end_block(tp_agent *agent);

/* Says whether the owner is in a wait that only workers can end. The owner. */
void tp_engine_set_waiting(tp_engine *engine, bool waiting);

/* Is everything stuck: does every running item wait without an end (tp_job_begin_block), and can no
 * other item be begun? `agent` asks; NULL: the owner asks. When an agent asks that is not the
 * owner's own, the owner must be waiting, too. */
bool tp_engine_is_stuck(tp_engine *engine, const tp_agent *agent);

/* Everything has been stuck for long enough: all items that wait without an end must give up.
 * tp_job_is_hopeless tells each of them, until it waits again. */
void tp_engine_give_up(tp_engine *engine);

/* Does every running item of the job wait without an end, and is none left to begin? */
bool tp_job_is_stuck(tp_job *job);
bool tp_job_is_hopeless(tp_agent *agent);

/* The owner waits for workers, so all paused jobs resume (is_left in schedule.c). */
void tp_engine_come_back(tp_engine *engine);

/* Sleeps until one of the n jobs has news after its `seen`, or the agent can take work, or a retry
 * is due, or until deadline_ns (uv_hrtime). With `wait`, that is called without the lock to sleep
 * until a time (UINT64_MAX: no time), or until the agent is woken (tp_agent.bell). Then an agent of
 * a pool looks for any work, not only that below the jobs. */
void tp_job_sleep(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n,
                  uint64_t deadline_ns, void (*wait)(tp_agent *agent, uint64_t until_ns));

/* ---- items that wait beside each other (tp_terms.concurrent); on the agent's own thread ---- */

/* Sets what wakes the agent while it waits in a loop of its own; NULL: nothing any more. */
void tp_agent_set_bell(tp_agent *agent, uv_async_t *bell);

/* What the agent runs now, an item that waits beside others or a callback, waits for the job: the
 * agent takes the job's items while it takes turns. */
void tp_slice_wait_for(tp_agent *agent, tp_job *job);

/* give_way: the open item waits for what others do, and gives up its permit and, if `is_lent`, its
 * place among the open items. `endless`: the wait has no end of its own. come_back: afterwards it
 * takes both again. False: it is in line for a permit; call it again when the agent was woken. */
void tp_slice_give_way(tp_work *w, bool is_lent, bool endless);
bool tp_slice_come_back(tp_work *w);

/* The worker of the open item has died, and nobody knows whether it was this item's fault:
 * set_apart: at most `n` such items will be open in its next worker. apart: the limit in the worker
 * that has died; 0: there was none. */
void tp_slice_set_apart(tp_slice *slice, uint32_t n);
uint32_t tp_slice_apart(const tp_slice *slice);

/* The agent begins nothing more until its open items are over, since its worker is to be replaced
 * then. Meanwhile another one may be started. */
void tp_agent_set_full(tp_agent *agent, bool is_full);

/* In a worker process: the host has cancelled its item, which is no job here. Any thread. */
void tp_engine_note_cancel(tp_engine *engine);

/* Was any job of the engine cancelled since the agent last asked? The agent's thread. */
bool tp_agent_sees_cancels(tp_agent *agent);

/* Notes that the open item has kept its worker for so long without a wait (a tp_trace_step). While
 * somebody listens. */
void tp_slice_note_step(tp_work *w, uint64_t step);

/* Such a step was so long that users are told. True for the first one of its function. */
bool tp_slice_note_blocking(tp_work *w);

/* A program for a device that was made inside of an item (TP_EVENT_BUILD). */
typedef struct tp_job_build {
    uint64_t ns; /* how long it was waited for */
    tp_build_how how;
    unsigned site; /* where it runs, as in tp_ran; 0: on another machine */
    char name[TP_TRACK_TEXT], host[TP_TRACK_TEXT]; /* the device's, and of its machine, or "" */
} tp_job_build;

/* The first was made inside of one of the slice's items, the other for its own launch, so that the
 * slice's results tell of it (compiled_ns). Jobs that are is_timed are told: the slice's, and those
 * that it is nested in; of a launch only the latter. Any thread that holds the slice. */
void tp_slice_note_build(tp_slice *s, const tp_job_build *b);
void tp_slice_note_launch(tp_slice *s, const tp_job_build *b);

/* The next of the builds that the job was told of. Those inside of an item are there when the
 * item's result is. False: there is none. Owner. */
bool tp_job_take_build(tp_job *job, tp_job_build *out);

/* The slice that this work is part of; NULL when the work is of no job in this process. Any
 * thread. */
tp_slice *tp_slice_of(tp_work *w);

/* Is the slice's job, or one that it is nested in, cancelled, or do others run its items (late.c)?
 * With the lock held. */
bool tp_slice_is_cancelled_locked(const tp_slice *slice);

#endif
