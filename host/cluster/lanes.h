/* lanes.h: what the workers of a cluster run, as tracks of a trace: a worker has as many lanes as
 * it runs chunks at once, each with a number as if it were a worker of this host.
 *
 * The times are those that the workers have told, so that waiting at the server is in none of
 * them. All of it is the carrier's. Nothing happens while nobody listens. */
#ifndef TP_LANES_H
#define TP_LANES_H

#include "engine/job.h"

typedef struct tp_lane {
    uint32_t id; /* as tp_worker.id */
    bool is_busy;
    uint64_t until_ns; /* when its last chunk was over */
} tp_lane;

/* A worker's. Zeroed: none. */
typedef struct tp_lanes {
    tp_lane *lanes; /* owned */
    unsigned n;
    /* the track of what it does for no chunk (it compiles), and until when it did: see
     * tp_wire_events. 0: there is none yet */
    uint32_t outside;
    uint64_t outside_ns;
} tp_lanes;

/* What a lane runs of a flight's chunk. Zeroed: nothing is known of it. */
typedef struct tp_lane_box {
    tp_lanes *of; /* they may have been freed meanwhile, but not the struct */
    uint32_t id;
    uint64_t job, first;
    /* when it began, and its last event was; over_ns: when it was over, where that is known before
     * its result has come, else 0 */
    uint64_t begun_ns, last_ns, over_ns;
} tp_lane_box;

/* The worker at that host, which runs so many chunks at once, has run `count` items of the work,
 * from the next one on, since then. *named counts the lanes of all workers. Does nothing when that
 * is known. */
void tp_lanes_begin(tp_lanes *lanes, tp_lane_box *box, tp_engine *engine, const tp_work *w,
                    uint32_t count, const char *host, unsigned slots, unsigned *named,
                    uint64_t since_ns);

/* It stops after that many. */
void tp_lanes_end(tp_lane_box *box, tp_engine *engine, uint64_t done);

/* The track of what the worker at that host does for no chunk. 0: nobody listens. */
uint32_t tp_lanes_outside(tp_lanes *lanes, tp_engine *engine, const char *host);

void tp_lanes_free(tp_lanes *lanes);

#endif
