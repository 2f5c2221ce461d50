/* work.h: the seam for work: some items of one job, as seen by those who run them.
 *
 * Whoever runs items (a worker's Lua state, a device's thread) is given a tp_work, takes its items
 * in order and leaves a result or a failure for each. Everything else that it reports goes through
 * the work's sink, so that the same code runs items of this process's jobs (job.h: the first member
 * of a tp_slice) and items that came from another process. Where items come from and where results
 * go is up to whoever made the work: no job and no lock is seen here. */
#ifndef TP_WORK_H
#define TP_WORK_H

#include "base/trace.h"
#include "codec/block.h"
#include "engine/func.h"
#include "engine/random.h"

#include <stdatomic.h>

struct lua_State;
struct tp_vm;

typedef struct tp_work tp_work;
typedef struct tp_worker tp_worker;

/* What the option `returns` promises: how many numbers each item gives and of which types; and the
 * arrays that they go to, when the number of inputs is known. */
typedef struct tp_returns {
    uint32_t columns; /* 0: nothing is promised */
    uint8_t type[TP_COLUMNS_MAX];
    /* held by whoever made it; all NULL when results go into blocks */
    tp_array *array[TP_COLUMNS_MAX];
} tp_returns;

/* Items first .. first + n - 1 of those arrays, as a block that borrows its columns. NULL when out
 * of memory. */
tp_block *tp_returns_block(const tp_returns *returns, uint64_t first, uint32_t n);

/* What is the same for all items of a job. Read-only, and alive while there is work of it. */
typedef struct tp_terms {
    const char *name; /* of the function */
    /* that the job was started on, as users write it; its items may be run by an agent that waits
     * for it */
    const char *executor;
    uint64_t number;  /* of the job, in its host, from 1 */
    tp_image *image;  /* of the function; NULL: no Lua runs it */
    bool discards;    /* no results are wanted, only that there is one (TP_BLOCK_DONE) */
    bool is_timed;    /* somebody asks how its items were run: devices measure their commands */
    /* the function is called with lists of the arguments of so many items; 0: with the arguments of
     * one */
    uint32_t batch;
    /* a batch that fails is retried in halves, so that in the end only the items fail that fail
     * alone */
    bool splits;
    /* its items give values while they run (tp_sink.emit), and each slice is one item */
    bool streams;
    /* a worker may have so many of its items open at once, as coroutines that wait, each in a
     * slice of its own; 0: one after the other */
    uint32_t concurrent;
    tp_returns returns;
    tp_key draws;     /* the key from which the items draw their random numbers */
    bool has_leases;  /* leases given for this function are used by default: */
    uint64_t leases;  /* these, as bits (core_device.c, which gives leases, says what they mean) */
    bool is_limited;     /* the function has a limit, so items that wait release their permits */
    unsigned depth;      /* how many maps are around this one */
    /* of a part of a job that another machine has sent here (a chunk): the index of its first item
     * in that job */
    uint64_t base;
    uint64_t part[2]; /* the chunk's number, and how often it was sent, for tp_far_permits */
    /* bytes that a worker may use for it; 0: no limit. Enforced by executors with
     * TP_BOUNDS_MEMORY */
    uint64_t memory;
    /* a worker is replaced after so many items; 0: never. Enforced by executors with worker
     * processes */
    uint64_t recycle;
    /* how long an item may run; 0: for ever. Enforced by executors with TP_CAN_KILL */
    uint64_t timeout_ns;
    /* what a process maps, it runs itself; items of this function it has run by a process of its
     * own, so that they can be ended without it (workers/apart.c) */
    bool is_apart;
} tp_terms;

/* Where results go. The functions are called by the thread that runs the work, and none but
 * `take_permit` blocks for longer than a lock does. */
typedef struct tp_sink {
    /* Takes the results of b->n items from the index b->first on. They come in order. */
    void (*append)(tp_work *w, tp_block *b);

    /* Called when there is no memory even for the message of the item's failure: the whole job
     * fails for want of memory. */
    void (*starve)(tp_work *w);

    /* Is the work not wanted any more, because its job or one that it is nested in was cancelled,
     * or others run its items (late.c)? */
    bool (*is_cancelled)(const tp_work *w);

    /* The running item waits for others: release its permit (a place under the function's limit);
     * then take one again before it goes on, for which it may wait. */
    void (*release_permit)(tp_work *w);
    void (*take_permit)(tp_work *w);

    /* Takes values (a block of the kind PART) that the running item gives. Waits while enough
     * values wait to be read. -1 when nobody wants any more. */
    int (*emit)(tp_work *w, tp_block *b);

    /* For a sink that wants each result at once; both NULL for others. new_columns makes columns
     * for the results of `capacity` items: where the sink wants them, or in the arrays of `returns`
     * (NULL: out of memory). publish takes what was added to `values` last; -1 when it cannot be
     * taken, which is then the item's failure. */
    tp_block *(*new_columns)(tp_work *w, uint32_t capacity, uint32_t columns, const uint8_t *types,
                             uint32_t text);
    int (*publish)(tp_work *w, tp_error *err);

    /* For works of items that wait beside others (tp_terms.concurrent). `end`: see tp_worker_type;
     * NULL for a slice's. The others: see tp_slice_give_way, tp_slice_come_back,
     * tp_slice_note_step and tp_slice_note_blocking. */
    void (*end)(tp_work *w);
    void (*give_way)(tp_work *w, bool is_lent, bool endless);
    bool (*come_back)(tp_work *w);
    void (*note_step)(tp_work *w, uint64_t step);
    bool (*note_blocking)(tp_work *w);

    unsigned encoding; /* flags for tp_encode when results are encoded */
    /* where messages are encoded that are for `publish` or `emit`; NULL: anywhere */
    tp_buf_home *(*home)(tp_work *w);
} tp_sink;

/* Unfinished lines that an item has written (workers/lines.c). All zero: none. */
typedef struct tp_lines {
    tp_buf begun[2]; /* to standard output, to standard error */
    uint64_t item;   /* the item that wrote them: its number, from 1 */
} tp_lines;

#define TP_WORK_UNTOLD UINT32_MAX

/* Some items of one block of inputs, and how far they have been run. It belongs to the worker that
 * runs it, except for `ctl`; its memory outlives the worker's stack, so that whoever made it can
 * finish it when the thread has died. */
struct tp_work {
    /* the random numbers of its items. First member: engine/random.lua finds it at `current` */
    tp_draws draws;
    tp_worker *worker; /* who runs it */
    const tp_sink *sink;
    const tp_terms *terms;
    tp_block *block; /* the inputs; alive while the work is */
    uint32_t offset, count;
    uint32_t attempt; /* from 1 */
    /* in a worker process: the place (wire/frame.h) of the item that waits beside others which this
     * is, or which has begun the map that this is of; in its host: the item's place; 0: none */
    uint32_t place;
    tp_work *outer;   /* what the worker was running when it began this; NULL: nothing */
    /* the offset of the first item that was told that its job is cancelled; TP_WORK_UNTOLD: none
     * was. Written by the worker; others read it as they take its results from it (relaxed) */
    _Atomic uint32_t told_at;
    bool has_kept;    /* its items have spawned calls, for which the work's end must wait */
    /* its worker has died in a batch: the items without results go back, to be run in halves */
    bool is_torn;
    tp_lines lines;   /* its memory is reused by the next work here */

    /* ---- results ---- */
    uint32_t at;      /* offset of the item that runs, or is next */
    /* of the items before `at`, not with the sink yet; each result is added here */
    tp_block *values;
    /* of the items from numbers_at on, filled in by a specialised loop; else NULL */
    tp_block *numbers;
    uint32_t numbers_at;
    uint32_t numbers_given; /* how many items before those the sink got from it (tp_work_collect) */
    /* a tp_work_access: who may use what stands above, since `offset`, and what the sink has taken:
     * the worker, or whoever has made it READ */
    _Atomic uint32_t access;
    bool is_exposed; /* the worker's own: it has exposed the results */

    /* [0] the offset of the running item, written by the worker; [1] not 0: return after this item,
     * written by anyone. Relaxed: they are hints, since either side sees the other's store late.
     * But not by much: a worker stores [0] before it looks at [1] and begins the item, and a store
     * is seen by all within microseconds. So when [1] was set, and TP_SETTLED_NS later [0] is what
     * it was then, the worker begins no further item, and what it has stored for earlier ones is
     * seen. (Morrison and Afek, "Temporally Bounding TSO for Fence-Free Asymmetric
     * Synchronization", ASPLOS 2015.) LuaJIT code reads and writes them as int32_t. */
    _Atomic int32_t ctl[2];
};

typedef enum tp_work_access {
    TP_WORK_COVERED, /* our own code may be changing them */
    TP_WORK_EXPOSED, /* users' code runs: they do not change, but for elements of `numbers` */
    TP_WORK_READ     /* somebody uses them; the worker waits until that is over */
} tp_work_access;

/* Before and after users' code is called for an item: lets others have the results of earlier ones
 * meanwhile. The worker. */
static inline void tp_work_expose(tp_work *w)
{
    w->is_exposed = true;
    atomic_store_explicit(&w->access, TP_WORK_EXPOSED, memory_order_release);
}

/* Does nothing when they are not exposed. */
void tp_work_cover(tp_work *w);

/* Any thread: begins to use the results. False: the worker uses them itself. */
static inline bool tp_work_try_read(tp_work *w)
{
    uint32_t exposed = TP_WORK_EXPOSED;
    return atomic_compare_exchange_strong_explicit(&w->access, &exposed, TP_WORK_READ,
                                                   memory_order_acquire, memory_order_relaxed);
}

static inline void tp_work_end_read(tp_work *w)
{
    atomic_store_explicit(&w->access, TP_WORK_EXPOSED, memory_order_release);
}

/* Between these: gives the sink the results of the items before the offset `running`, the item that
 * runs. When there is no memory for a copy, some of them stay where they are. */
void tp_work_collect(tp_work *w, uint32_t running);

/* What a worker needs of its surroundings while it runs work. */
typedef struct tp_worker_type {
    /* Opens what our Lua code needs in a new state (tidepool.core). Raises. */
    void (*open_state)(struct lua_State *L, tp_worker *worker);

    /* Writes whole lines, or the unfinished rest of one, to descriptor 1 or 2. */
    void (*write)(tp_worker *worker, int fd, const char *bytes, size_t len);

    /* The work of an item that waited beside others (tp_terms.concurrent) is over. It is the
     * worker's current one, and may be gone when this returns. */
    void (*end)(tp_worker *worker, tp_work *w);
} tp_worker_type;

/* Who runs work. Belongs to its thread. */
struct tp_worker {
    const tp_worker_type *type;
    int index;            /* its number, from 1; 0 for an owner's own thread */
    uint32_t id; /* its number among all workers of the host, of whatever executor, from 1 */
    tp_trace *trace;      /* the host's */
    bool tags_lines;      /* lines say which worker and item wrote them */
    struct tp_vm *vm; /* its Lua state, opened by its own thread; NULL for one that runs no Lua */
    tp_work *current;     /* the innermost work that it runs */
    unsigned n_waiting; /* works whose items have begun, as coroutines, and are not over */
    /* where it shows the `place` of its current work, for those who find it dead (relaxed); NULL:
     * nowhere */
    _Atomic int32_t *shown;
    bool will_leave; /* its Lua code has something to do before the state is closed (tp_vm_leave) */
    tp_buf tagged;        /* memory for lines with their tags (lines.c) */
};

/* The offset behind the last item: no item from there on may get a result through this work. */
static inline uint32_t tp_work_end(const tp_work *w)
{
    return w->offset + w->count;
}

/* The offset of the item that runs. Any thread: a hint. */
static inline int32_t tp_work_running(const tp_work *w)
{
    return atomic_load_explicit(&w->ctl[0], memory_order_relaxed);
}

/* Notes an event about `count` items from that offset on (trace.h). The worker. */
static inline void tp_work_note(const tp_work *w, tp_event_kind kind, uint32_t offset,
                                uint32_t count)
{
    tp_trace_note(w->worker->trace, kind, w->worker->id, w->terms->number, w->block->first + offset,
                  count);
}

/* Asked where an item waits: is its job cancelled? Notes that the item has been told. */
static inline bool tp_work_tell_cancelled(tp_work *w)
{
    bool is = w->sink->is_cancelled(w);
    if (is && atomic_load_explicit(&w->told_at, memory_order_relaxed) == TP_WORK_UNTOLD)
        atomic_store_explicit(&w->told_at, (uint32_t)tp_work_running(w), memory_order_relaxed);
    return is;
}

/* Writes the place of the worker's current work where the host's process sees it (`shown`). */
static inline void tp_worker_show(const tp_worker *worker)
{
    if (worker->shown)
        atomic_store_explicit(worker->shown,
                              worker->current ? (int32_t)worker->current->place : 0,
                              memory_order_relaxed);
}

/* Makes the item at `at` the running one. Looks at ctl[1] that follow stay behind it. */
static inline void tp_work_begin_item(tp_work *w)
{
    atomic_store_explicit(&w->ctl[0], (int32_t)w->at, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
}

/* Should the worker return and leave the items that it has not begun for others? */
static inline bool tp_work_is_asked_to_stop(const tp_work *w)
{
    return atomic_load_explicit(&w->ctl[1], memory_order_relaxed) != 0;
}

/* Makes *w the worker's current work: these items, none of them begun. Of what was in *w before
 * only the memory of its lines is kept. */
void tp_work_open(tp_work *w, tp_worker *worker, const tp_sink *sink, const tp_terms *terms,
                  tp_block *block, uint32_t offset, uint32_t count, uint32_t attempt);

/* The work is over: all of its results are with the sink, and the worker runs what it ran
 * before. */
void tp_work_close(tp_work *w);

/* For the work of an item that waits as a coroutine. leave: the worker goes back to what it ran
 * before. enter: it goes on with this work. */
void tp_work_leave(tp_work *w);
void tp_work_enter(tp_work *w);

/* Gives the sink the results of the b->n items from that offset on, after all earlier ones. */
void tp_work_append(tp_work *w, tp_block *b, uint32_t offset);

/* Results of the items from the next one on are added to b, item by item. */
void tp_work_open_values(tp_work *w, tp_block *b);

/* Gives `values` to the sink, without the bytes that an encoder left unfinished when an error
 * interrupted it. */
void tp_work_flush(tp_work *w);

/* Ends the block `numbers` before the item at that offset, which becomes the next item. */
void tp_work_close_numbers(tp_work *w, uint32_t until);

/* The next item ends with this failure. NULL: there was no memory for one; the sink is told, and
 * the item stays unfinished. */
void tp_work_fail(tp_work *w, tp_block *failure);

/* The work's input is a failure itself (it could not be sent): that becomes its result. */
void tp_work_pass_failure(tp_work *w);

/* The worker has died in a batch, or was ended, and nobody knows which item was the culprit: so
 * none of those without a result, up to the offset `end`, is blamed. False when one must be: there
 * is only one, or the batch may not be split. */
bool tp_work_tear(tp_work *w, uint32_t end);

/* The worker has died within the work: finished items keep their results, and the item that ran
 * becomes the next one, `at`. False when all items were over. */
bool tp_work_recover(tp_work *w);

#endif
