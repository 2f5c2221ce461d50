/* events.c: events of a worker process, on their way to the trace of its host. */
#include "wire/events.h"

#include <stdio.h>
#include <string.h>
#include <uv.h>

/* The head of an event; its names follow, as bytes. */
typedef struct head {
    tp_event event;
    /* lengths of the names that `count` is, and `first` or a part of `job`; 0: they are none */
    uint32_t name, text;
} head;

/* Is `count` a name (tp_trace_name) in events of that kind? */
static bool has_name(tp_event_kind kind)
{
    return kind == TP_EVENT_OPEN || kind == TP_EVENT_SPAN || kind == TP_EVENT_MARK ||
           kind == TP_EVENT_MARK_NUMBER || kind == TP_EVENT_MARK_TEXT || kind == TP_EVENT_RETRY ||
           kind == TP_EVENT_FAIL || kind == TP_EVENT_BUILD;
}

/* Has a device, or a compiler for one, done something in `first` nanoseconds from `time_ns` on, so
 * that the event is noted when that is over? */
static bool has_duration(tp_event_kind kind)
{
    return kind == TP_EVENT_COPY_IN || kind == TP_EVENT_KERNEL || kind == TP_EVENT_COPY_OUT ||
           kind == TP_EVENT_BUILD;
}

/* The number of the event's second name; 0: it has none. */
static uint64_t text_of(const tp_event *e)
{
    return e->kind == TP_EVENT_MARK_TEXT ? e->first
           : e->kind == TP_EVENT_BUILD   ? tp_trace_build_device(e->job)
                                         : 0;
}

bool tp_wire_has_job(tp_event_kind kind)
{
    return kind <= TP_EVENT_CANCEL || (has_duration(kind) && kind != TP_EVENT_BUILD);
}

/* Must the host be told of this event? What becomes of the request's items, and how the process
 * waits for work, it sees by itself. */
static bool is_wanted(const tp_event *e, tp_told what)
{
    if (what != TP_TELLS_ALL)
        return what == TP_TELLS_BUILDS && e->kind == TP_EVENT_BUILD;
    switch (e->kind) {
    case TP_EVENT_OPEN:
    case TP_EVENT_CLOSE:
    case TP_EVENT_PUSH:
    case TP_EVENT_BEGIN:
    case TP_EVENT_END:
    case TP_EVENT_RETRY:
    case TP_EVENT_FAIL:
    case TP_EVENT_LOSE: return e->job > 0;
    case TP_EVENT_COPY_IN:
    case TP_EVENT_KERNEL:
    case TP_EVENT_COPY_OUT:
    case TP_EVENT_SPAN:
    case TP_EVENT_SPAN_END:
    case TP_EVENT_MARK:
    case TP_EVENT_MARK_NUMBER:
    case TP_EVENT_MARK_TEXT:
    case TP_EVENT_BUILD:
    case TP_EVENT_OMIT: return true;
    default: return false;
    }
}

tp_told tp_wire_told(const tp_work *work, tp_trace *trace)
{
    const bool is_on = tp_trace_is_on(trace);
    return is_on && !tp_trace_is_brief(trace) ? TP_TELLS_ALL
           : is_on || work->terms->is_timed   ? TP_TELLS_BUILDS
                                              : TP_TELLS_NOTHING;
}

int tp_wire_put_event(tp_trace *trace, const tp_event *e, tp_told what, tp_buf *out)
{
    head h = { .event = *e };
    if (!is_wanted(e, what))
        return 0;
    const char *name = has_name(e->kind) ? tp_trace_text(trace, e->count) : "";
    const char *text = text_of(e) ? tp_trace_text(trace, text_of(e)) : "";
    h.name = (uint32_t)strlen(name);
    h.text = (uint32_t)strlen(text);
    const size_t before = out->len;
    if (tp_buf_add(out, &h, sizeof h) || tp_buf_add(out, name, h.name) ||
        tp_buf_add(out, text, h.text)) {
        out->len = before;
        return -1;
    }
    return 1;
}

int tp_wire_put_events(tp_trace *trace, tp_told what, tp_buf *out)
{
    tp_event events[64];
    size_t n;
    while ((n = tp_trace_read(trace, events, 64)) > 0)
        for (size_t i = 0; i < n; i++)
            if (tp_wire_put_event(trace, &events[i], what, out) < 0)
                return -1;
    if (trace->lost == 0)
        return 0;
    /* the ring has gone round */
    const tp_event omit = { .time_ns = uv_hrtime(), .kind = TP_EVENT_OMIT, .count = trace->lost };
    trace->lost = 0;
    return tp_wire_put_event(trace, &omit, what, out) < 0 ? -1 : 0;
}

/* A process of this machine uses the same clock, but it is not trusted: nothing has happened later
 * than now, nor before what it has told already. What took some time may have begun before that. */
static void set_time(tp_wire_events *of, tp_event *e, uint64_t now)
{
    const bool is_outside = of->outside && e->worker == of->outside;
    const uint64_t since = is_outside ? of->outside_ns : of->since_ns;
    e->time_ns += (uint64_t)of->ahead_ns;
    if (has_duration(e->kind)) {
        e->time_ns = e->time_ns < since ? since : e->time_ns;
        e->time_ns = e->time_ns > now ? now : e->time_ns;
        e->first = e->first > now - e->time_ns ? now - e->time_ns : e->first;
        if (is_outside)
            of->outside_ns = e->time_ns + e->first;
        return;
    }
    e->time_ns = e->time_ns < of->last_ns ? of->last_ns : e->time_ns > now ? now : e->time_ns;
    of->last_ns = e->time_ns;
}

/* Tells of a program that was made; `device` is the name of that. */
static void tell_build(const tp_wire_events *of, const tp_event *e, const char *device,
                       uint32_t len)
{
    tp_job_build b = { .ns = e->first,
                       .how = tp_trace_build_how(e->job),
                       .site = tp_trace_build_number(e->job) };
    if (!of->built)
        return;
    snprintf(b.name, sizeof b.name, "%.*s", (int)len, device);
    of->built(of->user, &b);
}

/* The number of a job of the process: one that another process has put together so is one of this
 * process's. */
static uint64_t job_of(const tp_wire_events *of, uint64_t job)
{
    return job ? of->pid << 32 | (uint32_t)(job ^ (job >> 32) * 2654435761u) : of->job;
}

void tp_wire_take_events(tp_wire_events *of, const char *bytes, size_t len)
{
    uint64_t now = uv_hrtime();
    head h;
    for (size_t at = 0; len - at >= sizeof h; at += h.name + h.text) {
        memcpy(&h, bytes + at, sizeof h);
        at += sizeof h;
        tp_event *e = &h.event;
        if (h.name > TP_NAME_MAX || h.text > TP_NAME_MAX || h.name + h.text > len - at)
            return;
        if (!is_wanted(e, TP_TELLS_ALL))
            continue;
        const char *name = bytes + at, *text = name + h.name;
        e->worker = e->worker == 0 && of->outside && e->kind == TP_EVENT_BUILD ? of->outside
                                                                               : of->worker;
        set_time(of, e, now);
        if (e->kind == TP_EVENT_BUILD)
            tell_build(of, e, text, h.text);
        if (!tp_trace_is_on(of->to))
            continue;
        if (has_name(e->kind))
            e->count = tp_trace_name(of->to, name, h.name);
        const uint32_t second = h.text ? tp_trace_name(of->to, text, h.text) : 0;
        if (e->kind == TP_EVENT_MARK_TEXT)
            e->first = second;
        if (e->kind == TP_EVENT_BUILD)
            e->job = tp_trace_build(tp_trace_build_how(e->job), tp_trace_build_number(e->job),
                                    second);
        else
            e->job = tp_wire_has_job(e->kind) ? job_of(of, e->job) : 0;
        tp_trace_write(of->to, e);
    }
}
