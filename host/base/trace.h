/* trace.h: a place for tracing: what happens in a host, as events in a ring of a fixed size.
 *
 * Mostly nobody listens: then an event costs one load and a branch that is never taken. While
 * somebody listens, each event is written by the thread on which it happens, without a lock or an
 * allocation; when the ring is full the oldest events are overwritten and counted as lost. What the
 * events mean is for their reader to say.
 *
 * Times are of one clock for all threads of the machine: uv_hrtime, in nanoseconds. */
#ifndef TP_TRACE_H
#define TP_TRACE_H

#include "base/error.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tp_event_kind {
    TP_EVENT_PUSH,   /* the owner has handed over `count` inputs from `first` on */
    TP_EVENT_TAKE,   /* a worker has claimed `count` items from `first` on */
    TP_EVENT_BEGIN,  /* a worker begins to run items from `first` on, `count` at most, in one go */
    TP_EVENT_END,    /* it stops after `count` of them; items of nested maps lie in between */
    TP_EVENT_FINISH, /* a worker has given back what it took: `count` of it have results */
    TP_EVENT_WAIT,   /* a thread has nothing to do and sleeps; with a job: it waits for that job */
    TP_EVENT_WAKE,   /* it goes on */
    TP_EVENT_RETRY,  /* item `first` has failed, and is to be tried again */
    TP_EVENT_LAUNCH, /* a kernel is started for `count` items from `first` on */
    TP_EVENT_COPY    /* `count` bytes go to a device or come from it */
} tp_event_kind;

typedef struct tp_event {
    uint64_t time_ns;
    tp_event_kind kind;
    uint32_t worker; /* whose thread it is, unique in the host; 0: the owner's, outside of items */
    uint64_t job;    /* its number in the host, from 1; 0: none */
    uint64_t first;  /* the index of an item, from 0 */
    uint64_t count;
} tp_event;

/* One per host. Zeroed it is closed. */
typedef struct tp_trace {
    _Atomic bool is_on; /* relaxed: an event more or less at the ends does not matter */
    _Atomic(struct tp_ring *)
        ring; /* set once, before is_on (release); NULL: nobody has listened yet */
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

void tp_trace_write(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job, uint64_t first,
                    uint64_t count);

/* Something has happened. Any thread. */
static inline void tp_trace_note(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job,
                                 uint64_t first, uint64_t count)
{
    if (__builtin_expect(atomic_load_explicit(&t->is_on, memory_order_relaxed), 0))
        tp_trace_write(t, kind, worker, job, first, count);
}

#endif
