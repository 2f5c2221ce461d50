/* events.h: what a worker process tells its host of its items while that is being traced: events
 * (base/trace.h) as bytes, in frames of their own on the socket. */
#ifndef TP_EVENTS_H
#define TP_EVENTS_H

#include "base/buf.h"
#include "base/trace.h"

/* What the first byte of a frame on the socket says it is: events, or samples (tp_sampler). 1 and 2
 * are output for these descriptors. */
enum { TP_WIRE_EVENTS = 3, TP_WIRE_SAMPLES = 4 };

/* Child: reads the trace's events, and appends those that its host wants to `out`; the job 0 is
 * the request's. -1 when out of memory. */
int tp_wire_put_events(tp_trace *trace, tp_buf *out);

/* What the host needs to translate events of a process. The supervisor's. */
typedef struct tp_wire_events {
    tp_trace *to;
    uint32_t worker;
    uint64_t pid;
    uint64_t last_ns; /* the last one's time; none is taken to be earlier, */
    /* but for what has taken some time, which has not begun before this */
    uint64_t since_ns;
} tp_wire_events;

/* Host: notes the events in these bytes as the worker's own. What is wrong in them is left out: the
 * process may have written anything. */
void tp_wire_take_events(tp_wire_events *of, const char *bytes, size_t len);

#endif
