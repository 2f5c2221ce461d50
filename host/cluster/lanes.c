/* lanes.c: tracks of a cluster's workers. See lanes.h. */
#include "cluster/lanes.h"

#include <stdio.h>
#include <stdlib.h>

enum { LANES_MAX = 1024 }; /* of a worker */

/* A lane that runs nothing; NULL: there is no memory, or there are too many. */
static tp_lane *find_free(tp_lanes *lanes, tp_engine *e, const char *host, unsigned *named)
{
    for (unsigned i = 0; i < lanes->n; i++)
        if (!lanes->lanes[i].is_busy)
            return &lanes->lanes[i];
    tp_lane *more = lanes->n < LANES_MAX
                        ? realloc(lanes->lanes, (lanes->n + 1) * sizeof *more)
                        : NULL;
    if (!more)
        return NULL;
    char what[TP_TRACK_TEXT / 2];
    snprintf(what, sizeof what, "cluster %s", host);
    lanes->lanes = more;
    more[lanes->n] = (tp_lane){ .id = tp_engine_new_worker(e) };
    tp_trace_add_track(tp_engine_trace(e), more[lanes->n].id, what, (int)++*named, false);
    return &more[lanes->n++];
}

void tp_lanes_begin(tp_lanes *lanes, tp_lane_box *box, tp_engine *e, const tp_work *w,
                    uint32_t count, const char *host, unsigned *named, uint64_t since_ns)
{
    tp_trace *trace = tp_engine_trace(e);
    tp_lane *lane =
        tp_trace_is_on(trace) && !box->id ? find_free(lanes, e, host, named) : NULL;
    if (!lane)
        return;
    lane->is_busy = true;
    *box = (tp_lane_box){ .of = lanes,
                          .id = lane->id,
                          .job = w->terms->number,
                          .first = w->block->first + w->at };
    tp_trace_write(trace, &(tp_event){ .time_ns = since_ns > lane->until_ns ? since_ns
                                                                            : lane->until_ns,
                                       .kind = TP_EVENT_BEGIN,
                                       .worker = box->id,
                                       .job = box->job,
                                       .first = box->first,
                                       .count = count });
}

void tp_lanes_end(tp_lane_box *box, tp_engine *e, uint64_t done)
{
    if (!box->id)
        return;
    for (unsigned i = 0; i < box->of->n; i++)
        if (box->of->lanes[i].id == box->id) {
            box->of->lanes[i].is_busy = false;
            box->of->lanes[i].until_ns = uv_hrtime();
        }
    tp_trace_note(tp_engine_trace(e), TP_EVENT_END, box->id, box->job, box->first, done);
    *box = (tp_lane_box){ 0 };
}

void tp_lanes_free(tp_lanes *lanes)
{
    free(lanes->lanes);
    *lanes = (tp_lanes){ 0 };
}
