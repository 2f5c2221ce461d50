/* events.h: what a worker process tells its host of its items while that is being traced: events
 * (base/trace.h) as bytes, in frames of their own on the socket. */
#ifndef TP_EVENTS_H
#define TP_EVENTS_H

#include "base/buf.h"
#include "base/trace.h"
#include "engine/job.h"

/* What the first byte of a frame on the socket says it is: events, or samples (tp_sampler). 1 and 2
 * are output for these descriptors. */
enum { TP_WIRE_EVENTS = 3, TP_WIRE_SAMPLES = 4 };

/* Of what somebody elsewhere is to be told. */
typedef enum tp_told {
    TP_TELLS_NOTHING,
    TP_TELLS_ALL,
    TP_TELLS_BUILDS /* only TP_EVENT_BUILD, for the times of a job */
} tp_told;

/* Is the field `job` a job's number in events of that kind? In others it is a task of users' code,
 * or how a program came to be. */
bool tp_wire_has_job(tp_event_kind kind);

/* What is told of a work: all while the trace is listened to, by one who wants all. */
tp_told tp_wire_told(const tp_work *work, tp_trace *trace);

/* Appends the event if it is to be told; the job 0 is the one around it that is known elsewhere.
 * 1: it was appended; 0: nobody wants it; -1: out of memory. */
int tp_wire_put_event(tp_trace *trace, const tp_event *e, tp_told what, tp_buf *out);

/* Child: reads the trace's events, and appends those that its host wants to `out`; the job 0 is
 * the request's. -1 when out of memory. */
int tp_wire_put_events(tp_trace *trace, tp_told what, tp_buf *out);

enum {
    TP_WIRE_OWN_BITS = 32 /* of the numbers of a host's own jobs; its processes' have more */
};

/* Was the map with that number opened inside of an item, in another process or on another
 * machine? */
static inline bool tp_wire_is_inner(uint64_t job)
{
    return job >> TP_WIRE_OWN_BITS != 0;
}

/* What is needed to translate events of a process, or of another machine. The supervisor's, or the
 * carrier's. */
typedef struct tp_wire_events {
    tp_trace *to;
    uint32_t worker;
    uint64_t pid; /* 32 bits that no other process has */
    uint64_t last_ns; /* the last one's time; none is taken to be earlier, */
    /* but for what has taken some time, which has not begun before this */
    uint64_t since_ns;
    uint64_t job;  /* what a device has done for the job 0 was for this one */
    int64_t ahead_ns; /* so much later is it by our clock than by theirs */
    /* Whose are programs that no worker there has made; 0: the worker's. They are made one after
     * the other: the next has not begun before this. */
    uint32_t outside;
    uint64_t outside_ns;
    /* told of each program that was made, whether `to` is listened to or not; NULL: nobody is */
    void (*built)(void *user, const tp_job_build *b);
    void *user;
} tp_wire_events;

/* Host: notes the events in these bytes as the worker's own. What is wrong in them is left out: the
 * process may have written anything. */
void tp_wire_take_events(tp_wire_events *of, const char *bytes, size_t len);

#endif
