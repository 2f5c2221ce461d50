/* lanes.c: tracks of a cluster's workers. See lanes.h. */
#include "cluster/lanes.h"

#include <stdio.h>
#include <stdlib.h>

enum { LANES_MAX = 1024 }; /* of a worker */

/* A lane that has run nothing since then, or at least runs nothing now where there are as many as
 * the worker has slots: the end of a chunk is known late. NULL: there is no memory, or there are
 * too many. */
static tp_lane *find_free(tp_lanes *lanes, tp_engine *e, const char *host, unsigned slots,
                          unsigned *named, uint64_t since_ns)
{
    tp_lane *best = NULL;
    for (unsigned i = 0; i < lanes->n; i++) {
        tp_lane *one = &lanes->lanes[i];
        if (!one->is_busy && one->until_ns <= since_ns)
            return one;
        if (!one->is_busy && (!best || one->until_ns < best->until_ns))
            best = one;
    }
    if (best && lanes->n >= slots)
        return best;
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
                    uint32_t count, const char *host, unsigned slots, unsigned *named,
                    uint64_t since_ns)
{
    tp_trace *trace = tp_engine_trace(e);
    tp_lane *lane = tp_trace_is_on(trace) && !box->id
                        ? find_free(lanes, e, host, slots, named, since_ns)
                        : NULL;
    if (!lane)
        return;
    lane->is_busy = true;
    since_ns = since_ns > lane->until_ns ? since_ns : lane->until_ns;
    *box = (tp_lane_box){ .of = lanes,
                          .id = lane->id,
                          .job = w->terms->number,
                          .first = w->block->first + w->at,
                          .begun_ns = since_ns,
                          .last_ns = since_ns };
    tp_trace_write(trace, &(tp_event){ .time_ns = since_ns,
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
    tp_trace *trace = tp_engine_trace(e);
    const tp_event end = { .time_ns = box->over_ns ? box->over_ns : uv_hrtime(),
                           .kind = TP_EVENT_END,
                           .worker = box->id,
                           .job = box->job,
                           .first = box->first,
                           .count = done };
    for (unsigned i = 0; i < box->of->n; i++)
        if (box->of->lanes[i].id == box->id) {
            box->of->lanes[i].is_busy = false;
            box->of->lanes[i].until_ns = end.time_ns;
        }
    if (tp_trace_is_on(trace))
        tp_trace_write(trace, &end);
    *box = (tp_lane_box){ 0 };
}

uint32_t tp_lanes_outside(tp_lanes *lanes, tp_engine *e, const char *host)
{
    char what[TP_TRACK_TEXT];
    if (!lanes->outside && tp_trace_is_on(tp_engine_trace(e))) {
        snprintf(what, sizeof what, "cluster %.40s: compiler", host);
        lanes->outside = tp_engine_new_worker(e);
        tp_trace_add_track(tp_engine_trace(e), lanes->outside, what, 0, false);
    }
    return lanes->outside;
}

void tp_lanes_free(tp_lanes *lanes)
{
    free(lanes->lanes);
    *lanes = (tp_lanes){ 0 };
}
