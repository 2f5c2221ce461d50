/* happened.c: events of workers elsewhere become those of their lanes. See happened.h. */
#include "cluster/happened.h"

#include <stdio.h>
#include <string.h>

static const uint64_t FAR = 1u << 31; /* no process of this machine has such a number */

/* Whose builds these are, for tp_wire_events.built. */
typedef struct builder {
    tp_slice *slice;
    const char *host;
} builder;

static void note_build(void *user, const tp_job_build *b)
{
    const builder *of = user;
    tp_job_build here = *b;
    here.site = 0;
    snprintf(here.host, sizeof here.host, "%s", of->host);
    tp_slice_note_build(of->slice, &here);
}

void tp_happened_take(const void *bytes, size_t len, tp_slice *s, tp_lane_box *box,
                      tp_lanes *lanes, const char *host, uint64_t *seen)
{
    tp_happened head;
    tp_trace *trace = tp_engine_trace(s->agent->engine), nowhere = { 0 };
    builder who = { s, host };
    if (len < sizeof head)
        return;
    memcpy(&head, bytes, sizeof head);
    const bool is_shown = box->id && tp_trace_is_on(trace);
    tp_wire_events of = { .to = is_shown ? trace : &nowhere,
                          .worker = box->id,
                          .pid = FAR | box->id,
                          .last_ns = box->last_ns,
                          .since_ns = box->begun_ns,
                          .job = box->job,
                          .ahead_ns = (int64_t)(uv_hrtime() - head.now_ns),
                          .built = note_build,
                          .user = &who };
    if (is_shown) {
        of.outside = tp_lanes_outside(lanes, s->agent->engine, host);
        of.outside_ns = lanes->outside_ns;
    }
    tp_wire_take_events(&of, (const char *)bytes + sizeof head, len - sizeof head);
    box->last_ns = of.last_ns;
    box->over_ns = head.is_over ? uv_hrtime() : 0;
    if (is_shown)
        lanes->outside_ns = of.outside_ns;
    if (is_shown)
        tp_happened_omit(trace, box, head.before, seen);
    *seen = head.before + head.count;
}

void tp_happened_omit(tp_trace *trace, const tp_lane_box *box, uint64_t all, uint64_t *seen)
{
    if (all <= *seen)
        return;
    if (box->id)
        tp_trace_note(trace, TP_EVENT_OMIT, box->id, box->job, 0, all - *seen);
    *seen = all;
}
