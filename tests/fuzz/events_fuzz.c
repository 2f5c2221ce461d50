/* events_fuzz.c: what a hostile worker process, or a machine of a cluster, may send as events
 * (libFuzzer).
 *
 * The first two bytes say who sends them and how its clock goes; the rest are the events. Whatever
 * they are, what is noted is of that sender's tracks, of kinds and names that there are, and not
 * later than now; and no build is told of that took longer than there was time. `make fuzz` builds
 * and runs it. */
#include "wire/events.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { WORKER = 5, OUTSIDE = 6, MARGIN_NS = 1000 * 1000 * 1000 };

static void check_build(void *user, const tp_job_build *b)
{
    const uint64_t *since = user;
    if (memchr(b->name, '\0', sizeof b->name) == NULL || b->ns > uv_hrtime() - *since)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static tp_trace trace; /* names are kept, and there is room for so many only */
    tp_event got[64];
    size_t n;
    if (len < 2)
        return 0;
    if (!tp_trace_is_on(&trace) && tp_trace_start(&trace, 4096, NULL))
        abort();
    const uint64_t since = uv_hrtime() - MARGIN_NS;
    tp_wire_events of = { .to = &trace,
                          .worker = WORKER,
                          .pid = 0x80000005,
                          .last_ns = since,
                          .since_ns = since,
                          .job = 3,
                          .outside = bytes[0] % 2 ? OUTSIDE : 0,
                          .outside_ns = since,
                          .built = check_build,
                          .user = (void *)(uintptr_t)&since };
    of.ahead_ns = (int64_t)((uint64_t)(int8_t)bytes[1] << (bytes[0] / 2 % 57));
    char *copy = malloc(len); /* of its exact size */
    if (!copy)
        return 0;
    memcpy(copy, bytes + 2, len - 2);
    tp_wire_take_events(&of, copy, len - 2);
    free(copy);
    while ((n = tp_trace_read(&trace, got, 64)) > 0)
        for (size_t i = 0; i < n; i++) {
            const bool is_outside = of.outside && got[i].worker == OUTSIDE;
            if ((got[i].worker != WORKER && !is_outside) || got[i].kind >= TP_EVENTS ||
                got[i].time_ns < since || got[i].time_ns > uv_hrtime())
                abort();
            tp_trace_text(&trace, got[i].count);
        }
    return 0;
}
