/* happened.h: what a worker of a cluster tells of what happens in a chunk, in messages of their own
 * (TP_SUBJECT_R SESSION.happened), which nobody keeps: events (base/trace.h) as worker processes
 * send them (wire/events.h), for the trace and the times of the coordinator.
 *
 * They are told of chunks for which the coordinator has asked that (tp_task.told), before the
 * chunk's answer, and while an item runs for long. A message has TP_HAPPENED_BYTES at most, and a
 * chunk as many of them as TP_HAPPENED_NS and its worker's share allow (tp_task.told_bytes): all
 * workers together tell a coordinator TP_HAPPENED_ALL bytes in that time, or TP_HAPPENED_LEAST
 * each. What is left out is counted, and so is what is lost on the way: the answer says how many
 * events there were (tp_answer.happened), so that nothing has to be sent to say only that. */
#ifndef TP_HAPPENED_H
#define TP_HAPPENED_H

#include "cluster/lanes.h"
#include "cluster/parcel.h"
#include "wire/events.h"

enum {
    TP_HAPPENED_BYTES = 16 << 10, /* of the events in a message, at most */
    TP_HAPPENED_NS = 100 * 1000 * 1000, /* a chunk tells no more often, but at its end */
    TP_HAPPENED_ALL = 1 << 20,
    TP_HAPPENED_LEAST = 1 << 10, /* some programs that were made find room in it */
    TP_HAPPENED_MOST = 64 << 10  /* of one worker */
};

/* The head of such a message; the events follow. */
typedef struct tp_happened {
    uint64_t chunk;
    uint64_t before; /* how many events the chunk had before these, with those that are nowhere */
    uint64_t now_ns; /* when it was sent, by the worker's clock */
    uint64_t ran_ns; /* how long the chunk has been running by then */
    uint32_t sending, count;
    uint32_t is_over, pad; /* the chunk is over: its answer follows */
    uint8_t worker[TP_ID_BYTES];
} tp_happened;

/* Notes the events behind the head, `len` bytes with it, which have come for a chunk of the slice
 * that runs in that lane: `outside` is what the worker does for no chunk. *seen counts the events
 * of the chunk so far. Nothing is believed of the bytes. */
void tp_happened_take(const void *bytes, size_t len, tp_slice *s, tp_lane_box *box,
                      tp_lanes *lanes, const char *host, uint64_t *seen);

/* The chunk in that lane had so many events in all by now; what was not seen of them is noted. */
void tp_happened_omit(tp_trace *trace, const tp_lane_box *box, uint64_t all, uint64_t *seen);

#endif
