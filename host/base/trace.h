/* trace.h: a place for tracing: what happens in a host, as events in a ring of a fixed size.
 *
 * Mostly nobody listens: then an event costs one load and a branch that is never taken. While
 * somebody listens, each event is written by the thread on which it happens, without a lock or an
 * allocation; when the ring is full the oldest events are overwritten and counted as lost. What the
 * events mean is for their reader to say (host/trace).
 *
 * Times are of one clock for all threads and processes of the machine: uv_hrtime, in
 * nanoseconds. */
#ifndef TP_TRACE_H
#define TP_TRACE_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What each kind means, and what its fields `job`, `first` and `count` hold where that differs from
 * tp_event. A "name" in a field is a number of tp_trace_name. Two kinds under one comment are a
 * beginning and its end. */
typedef enum tp_event_kind {
    /* a map or call is opened (count: the name of its function), inside an item of the job number
     * `first` (0: inside of none); its owner has closed it */
    TP_EVENT_OPEN,
    TP_EVENT_CLOSE,
    TP_EVENT_PUSH,   /* the owner has handed over `count` inputs from `first` on */
    TP_EVENT_TAKE,   /* a worker has claimed `count` items from `first` on */
    TP_EVENT_BEGIN,  /* a worker begins to run items from `first` on, `count` at most, in one go */
    TP_EVENT_END,    /* it stops after `count` of them; items of nested maps lie in between */
    TP_EVENT_FINISH, /* a worker has given back what it took: `count` of it have results */
    /* a thread goes to sleep. With first 0 it waits for `job`, if that is not 0. Otherwise it is a
     * worker with nothing to do: first is the address of its executor, count why there is nothing
     * (engine/reason.h), job the job that is the cause, or 0 */
    TP_EVENT_WAIT,
    TP_EVENT_WAKE,   /* it wakes up */
    /* item `first` has failed, and is to be tried again; count: the name of its message */
    TP_EVENT_RETRY,
    TP_EVENT_FAIL,   /* the same, for good */
    /* the device whose worker this is has not come back from `count` items from `first` on: others
     * run them (engine/late.c) */
    TP_EVENT_LOSE,
    TP_EVENT_CANCEL, /* the job is cancelled */
    /* What a device has done, by its own clock: from time_ns on, for `first` nanoseconds. count:
     * bytes that were copied to it or from it, or items */
    TP_EVENT_COPY_IN,
    TP_EVENT_KERNEL,
    TP_EVENT_COPY_OUT,
    TP_EVENT_PROCESS, /* the worker runs its items in the process `first` */
    TP_EVENT_DEATH,   /* that process has died; count: a name that says how */
    /* The following are noted by users' code (tidepool.span, mark); job: the number of the task
     * that it runs in, 0: none. A span begins and ends: count is its name (0 in SPAN_END), first
     * the depth of the Lua stack there */
    TP_EVENT_SPAN,
    TP_EVENT_SPAN_END,
    TP_EVENT_MARK,       /* a mark; count is its name */
    TP_EVENT_MARK_NUMBER, /* the same with a value: the bits of a double in `first` */
    TP_EVENT_MARK_TEXT,   /* the same with a text: its name in `first` */
    TP_EVENT_TASK,       /* a task, whose number is `job`, begins (count: its name) and ends */
    TP_EVENT_TASK_END,
    /* item `first` of a job with `concurrent_inputs` begins, and is over. Its spans and marks name
     * it as if it were a task: tp_trace_item */
    TP_EVENT_ITEM,
    TP_EVENT_ITEM_END,
    /* such an item has kept its worker for TP_STEP_MIN_NS or longer without waiting, so that the
     * others of that worker could not go on. count: how long in the upper 32 bits, its processor
     * time in the lower ones, both in microseconds (tp_trace_step) */
    TP_EVENT_STEP,
    /* The input of the item that the worker ended last, if that took TP_INPUT_MIN_NS: a text of at
     * most TP_INPUT_TEXT bytes, 24 of them in `job`, `first` and `count` of this event, and more in
     * the next events of this kind and worker */
    TP_EVENT_INPUT,
    /* the function with the name `count` was encoded for workers in `first` nanoseconds, into `job`
     * bytes; of these, `job` bytes come from the captured value with the name `first` */
    TP_EVENT_ENCODE,
    TP_EVENT_CAPTURED,
    /* Somebody has waited for a program for a device: from time_ns on, for `first` nanoseconds.
     * count: the name of the function; job: tp_trace_build */
    TP_EVENT_BUILD,
    /* `count` events of what the worker did in a process, or on another machine, are not told: they
     * were too many */
    TP_EVENT_OMIT,
    TP_EVENTS
} tp_event_kind;

typedef struct tp_event {
    uint64_t time_ns;
    tp_event_kind kind;
    uint32_t worker; /* whose thread it is, unique in the host; 0: the owner's, outside of items */
    uint64_t job;    /* its number in the host, from 1; 0: none */
    uint64_t first;  /* the index of an item, from 0 */
    uint64_t count;
} tp_event;

enum {
    TP_TRACK_TEXT = 64,
    TP_NAME_MAX = 200,
    TP_INPUT_TEXT = 96,            /* bytes of an input's text */
    TP_INPUT_MIN_NS = 1000 * 1000, /* how long an item must take for its input to be noted */
    TP_STEP_MIN_NS = 5 * 1000 * 1000
};

/* What a worker is called. Read-only once it is in the list, freed with it. */
typedef struct tp_track_name {
    struct tp_track_name *next;
    uint32_t worker;
    bool is_owner; /* the host's owner itself works under that name */
    char text[TP_TRACK_TEXT];
} tp_track_name;

/* One per host. Zeroed it is closed. */
typedef struct tp_trace {
    _Atomic bool is_on; /* relaxed: an event more or less at the ends does not matter */
    /* Its listener wants only TP_EVENT_BUILD of what happens in processes, so that they tell no
     * more. Only the listener writes it (relaxed, as is_on). */
    _Atomic bool is_brief;
    _Atomic(struct tp_ring *)
        ring; /* set once, before is_on (release); NULL: nobody has listened yet */
    _Atomic(tp_track_name *) tracks; /* the newest first; entries are only added */
    /* ---- the reader's ---- */
    uint64_t next; /* number of the next event to read */
    uint64_t lost; /* events that nobody can read any more */
} tp_trace;

/* Begins to listen, with room for `capacity` events (rounded up to a power of two; that of the
 * first time stays). Events from before are forgotten. Not while another thread does this or
 * reads. */
int tp_trace_start(tp_trace *t, size_t capacity, tp_error *err);

/* No new events from here on; threads may still be writing ones that they have begun. What is in
 * the ring can be read. */
void tp_trace_stop(tp_trace *t);

/* Frees it. No thread may note anything any more. */
void tp_trace_close(tp_trace *t);

/* Takes up to `max` events, those that began to be written first; gives how many. One thread at a
 * time; others may write meanwhile. t->lost has counted those that were overwritten before they
 * were read. */
size_t tp_trace_read(tp_trace *t, tp_event *out, size_t max);

void tp_trace_write(tp_trace *t, const tp_event *e);

static inline bool tp_trace_is_on(tp_trace *t)
{
#ifdef TP_NO_TRACE /* to see what the places cost at which events are noted: bench/trace.lua */
    return (void)t, false;
#endif
    return __builtin_expect(atomic_load_explicit(&t->is_on, memory_order_relaxed), 0);
}

static inline bool tp_trace_is_brief(tp_trace *t)
{
    return atomic_load_explicit(&t->is_brief, memory_order_relaxed);
}

static inline void tp_trace_set_brief(tp_trace *t, bool is_brief)
{
    atomic_store_explicit(&t->is_brief, is_brief, memory_order_relaxed);
}

/* The number by which events name an item of the job as a task. */
static inline uint64_t tp_trace_item(uint64_t job, uint64_t item)
{
    return 1ull << 63 | job << 40 | (item & 0xffffffffff);
}

static inline uint64_t tp_trace_step(uint64_t ns, uint64_t on_processor_ns)
{
    return ns / 1000 << 32 | (uint32_t)(on_processor_ns / 1000);
}

/* How a program came to be: compiled, and it is kept for the next process, or is not; read from
 * what an earlier process has kept; or compiled for its first launch, by a driver that goes on
 * then. */
typedef enum tp_build_how {
    TP_BUILD_KEPT, TP_BUILD_NOT_KEPT, TP_BUILD_READ, TP_BUILD_LAUNCHED
} tp_build_how;

/* `number`: the device's in this process, from 1; 0: it is another machine's. `device`: a name. */
static inline uint64_t tp_trace_build(tp_build_how how, unsigned number, uint32_t device)
{
    return (uint64_t)device << 10 | (number & 0xff) << 2 | how;
}

static inline tp_build_how tp_trace_build_how(uint64_t build)
{
    return (tp_build_how)(build & 3);
}

static inline unsigned tp_trace_build_number(uint64_t build)
{
    return build >> 2 & 0xff;
}

static inline uint64_t tp_trace_build_device(uint64_t build)
{
    return build >> 10;
}

/* Notes that text, of at most TP_INPUT_TEXT bytes, as TP_EVENT_INPUT. The thread of the worker. */
void tp_trace_input(tp_trace *t, uint32_t worker, const char *text);

/* Something happens now. Any thread. */
void tp_trace_write_now(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job,
                        uint64_t first, uint64_t count);

static inline void tp_trace_note(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job,
                                 uint64_t first, uint64_t count)
{
    if (tp_trace_is_on(t))
        tp_trace_write_now(t, kind, worker, job, first, count);
}

/* The number by which events name this text, of which TP_NAME_MAX bytes are kept: the same one for
 * equal texts. 0, which stands for any text, when nobody has ever listened, when there is no
 * memory, or when there are too many names. Takes a lock of its own. Any thread. */
uint32_t tp_trace_name(tp_trace *t, const char *text, size_t len);

/* The text of that number, "?" for 0 and what is none. Lives as long as the trace. Any thread. */
const char *tp_trace_text(tp_trace *t, uint64_t name);

/* A worker is called "WHAT INDEX", or WHAT where the index is 0, whether somebody listens or not;
 * forgotten where there is no memory for it. is_owner: no thread of its own runs its items, but the
 * host's owner. Any thread. */
void tp_trace_add_track(tp_trace *t, uint32_t worker, const char *what, int index, bool is_owner);

/* What it was called last; NULL: nothing. Any thread. */
const char *tp_trace_track(tp_trace *t, uint32_t worker);
/* and whether it is the owner */
bool tp_trace_is_owner(tp_trace *t, uint32_t worker);

#endif
