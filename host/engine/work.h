/* work.h: the seam for work: some items of one job, as those see them who run them.
 *
 * Whoever runs items (a worker's Lua state, a device's thread) is given a tp_work, takes its items
 * in order and leaves a result or a failure for each. What it says of them beside that goes through
 * the work's sink, so that the same code runs items of this process's jobs (job.h: the first member
 * of a tp_slice) and items that came from elsewhere. Where the items came from, and what becomes of
 * the results, is the matter of who made the work: neither jobs nor locks are seen here. */
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

/* What `returns` promises: so many numbers of these types; and where they go, when the number of
 * inputs is known. */
typedef struct tp_returns {
    uint32_t columns; /* 0: nothing is promised */
    uint8_t type[TP_COLUMNS_MAX];
    tp_array *array[TP_COLUMNS_MAX]; /* owned by who made it; all NULL when results go into blocks */
} tp_returns;

/* The part of those arrays that n items from `first` on have, as a block without columns of its own. NULL when out of memory. */
tp_block *tp_returns_block(const tp_returns *returns, uint64_t first, uint32_t n);

/* What is the same for all items of a job. Read-only, and alive while there is work of it. */
typedef struct tp_terms {
    const char *name; /* of the function */
    const char *executor; /* what the job was started on, as users write it; its items may be run by who waits for it */
    uint64_t number;  /* of the job, in its host, from 1 */
    tp_image *image;  /* of the function; NULL: no Lua runs it */
    bool discards;    /* no results are wanted, only that there is one (TP_BLOCK_DONE) */
    uint32_t batch;   /* the function is called with lists of the arguments of so many items; 0: with those of one item */
    bool splits;      /* a batch that fails is tried again in halves, until only those have failed that do so alone */
    tp_returns returns;
    tp_key draws;     /* what the items draw their random numbers from */
    bool has_leases;  /* the function uses by itself what it was given for that: */
    uint64_t leases;  /* these, as bits that mean something to whoever gave them (core_device.c) */
    bool is_limited;     /* the function has a limit, so that items that wait give up their permits */
    unsigned depth;      /* so many maps are around this one */
    uint64_t memory;     /* bytes that a worker may use for it; 0: all there is. As timeout_ns */
    uint64_t recycle;    /* a worker is replaced after so many items; 0: never. As timeout_ns */
    uint64_t timeout_ns; /* how long an item may run; 0: for ever. Executors keep it that can end one */
} tp_terms;

/* Where work ends up. Each of these is called by the thread that runs it, and blocks no longer than
 * a lock does but for `take_permit`. */
typedef struct tp_sink {
    /* Takes the results of b->n items from the index b->first on. They come in order. */
    void (*append)(tp_work *w, tp_block *b);

    /* There is no memory even to say what the item has failed with: the job fails as a whole, for
     * want of memory. */
    void (*starve)(tp_work *w);

    /* Is it not wanted any more, because its job, or one that it is nested in, was cancelled? */
    bool (*is_cancelled)(const tp_work *w);

    /* The item that runs waits for others: its permit, a place under the function's limit, is free
     * meanwhile; and it goes on, for which it may have to wait until there is one again. */
    void (*release_permit)(tp_work *w);
    void (*take_permit)(tp_work *w);

    /* For a sink that wants results as soon as they are there; both NULL for others. Columns for the
     * results of so many items, lying where it wants them, or in the arrays that `returns` has (NULL:
     * out of memory); and what was added
     * to `values` last is taken out of it. -1 when it cannot be taken, which is the item's failure. */
    tp_block *(*new_columns)(tp_work *w, uint32_t capacity, uint32_t columns, const uint8_t *types,
                             uint32_t text);
    int (*publish)(tp_work *w, tp_error *err);

    unsigned encoding; /* flags of tp_encode for what items give */
} tp_sink;

/* The beginnings of lines that an item has written (workers/lines.c). Zeros are empty. */
typedef struct tp_lines {
    tp_buf begun[2]; /* to standard output, to standard error */
    uint64_t item;   /* which has begun them: its number, from 1 */
} tp_lines;

/* Some items of one block of inputs, and how far who runs them has come. Its worker's, but for what
 * is said of ctl; its memory outlives the worker's stack, so that whoever made it can finish it
 * when the thread has died. */
struct tp_work {
    tp_draws draws; /* the random numbers of its items. First: random.lua finds it by `current` */
    tp_worker *worker; /* who runs it */
    const tp_sink *sink;
    const tp_terms *terms;
    tp_block *block; /* the inputs; alive while the work is */
    uint32_t offset, count;
    uint32_t attempt; /* from 1 */
    tp_work *outer;   /* what the worker was running when it took this */
    bool has_kept;    /* its items have spawned what is to be over before it is */
    bool is_torn;     /* its worker has died in a batch: what has no result goes back, in halves */
    tp_lines lines;   /* its memory stays, for what comes to lie here next */

    /* ---- results ---- */
    uint32_t at;      /* offset of the item that runs, or is next */
    tp_block *values; /* of the items before `at`, not given to the sink yet: each as one is added */
    tp_block *numbers; /* of the items from numbers_at on, which a specialised loop fills in; else NULL */
    uint32_t numbers_at;

    /* [0] offset of the item that runs, written by the worker; [1] not 0: return after this item,
     * written by anyone. Relaxed: only hints pass through them. LuaJIT code reads and writes them
     * as int32_t. */
    _Atomic int32_t ctl[2];
};

/* What a worker asks of the place that it lives in, while it runs work. */
typedef struct tp_worker_type {
    /* Opens what our Lua needs in a new state (tidepool.core). Raises. */
    void (*open_state)(struct lua_State *L, tp_worker *worker);

    /* Writes whole lines, or what is left of one, to descriptor 1 or 2. */
    void (*write)(tp_worker *worker, int fd, const char *bytes, size_t len);
} tp_worker_type;

/* Who runs work: its thread's. */
struct tp_worker {
    const tp_worker_type *type;
    int index;            /* its number, from 1; 0 for an owner's own thread */
    uint32_t id;          /* the same among all workers of the host, of all executors, from 1 */
    tp_trace *trace;      /* the host's */
    bool tags_lines;      /* lines say which worker and item wrote them */
    struct tp_vm *vm;     /* its Lua state; opened by its thread; NULL for one that runs no Lua */
    tp_work *current;     /* the innermost that it runs */
    bool will_leave;      /* its state has something to do before it is closed (tp_vm_leave) */
    tp_buf tagged;        /* memory for lines with their tags (lines.c) */
};

/* The offset of the item after its last: no item from there on may get a result through it. */
static inline uint32_t tp_work_end(const tp_work *w)
{
    return w->offset + w->count;
}

/* The item that runs, as its offset. Any thread: a hint. */
static inline int32_t tp_work_running(const tp_work *w)
{
    return atomic_load_explicit(&w->ctl[0], memory_order_relaxed);
}

/* Something has happened with `count` items from that offset on (trace.h). The worker. */
static inline void tp_work_note(const tp_work *w, tp_event_kind kind, uint32_t offset, uint32_t count)
{
    tp_trace_note(w->worker->trace, kind, w->worker->id, w->terms->number, w->block->first + offset, count);
}

/* The item at `at` is the one that runs. */
static inline void tp_work_begin_item(tp_work *w)
{
    atomic_store_explicit(&w->ctl[0], (int32_t)w->at, memory_order_relaxed);
}

/* Should what was not begun be given back? */
static inline bool tp_work_is_asked_to_stop(const tp_work *w)
{
    return atomic_load_explicit(&w->ctl[1], memory_order_relaxed) != 0;
}

/* Makes *w work of these items, none of which has been begun, and what the worker runs now. Of what
 * was there only the memory of the lines is kept. */
void tp_work_open(tp_work *w, tp_worker *worker, const tp_sink *sink, const tp_terms *terms,
                  tp_block *block, uint32_t offset, uint32_t count, uint32_t attempt);

/* The work is over: all of its results are with the sink, and the worker runs what it ran before. */
void tp_work_close(tp_work *w);

/* Gives the sink the results of b->n items, the first of which is the one at that offset, after all
 * that came before. */
void tp_work_append(tp_work *w, tp_block *b, uint32_t offset);

/* b is what the results of the items from the next one on are added to, item by item. */
void tp_work_open_values(tp_work *w, tp_block *b);

/* What was added to `values` goes to the sink, without what an encoder has left there that was
 * interrupted by an error. */
void tp_work_flush(tp_work *w);

/* Ends the block `numbers` before the item at that offset, which is the next one then. */
void tp_work_close_numbers(tp_work *w, uint32_t until);

/* The next item has this failure, and is over; NULL: there was no memory for one, which the sink is
 * told, and the item stays as it is. */
void tp_work_fail(tp_work *w, tp_block *failure);

/* The inputs are one that failed before it could be sent: the failure is its result. */
void tp_work_pass_failure(tp_work *w);

/* The worker has died in a batch, or was ended, which nobody knows the culprit of: of its items, those
 * up to the offset `end` that have no result, none is blamed. False where one is to be: there is no
 * other, or the batch may not be split. */
bool tp_work_tear(tp_work *w, uint32_t end);

/* The worker has died within the work: what it had results for keeps them, and the item that ran is
 * the next one. False when all items were over. */
bool tp_work_recover(tp_work *w);

#endif
