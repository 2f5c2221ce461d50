/* chrome.h: events (base/trace.h) as text in Chrome's trace format, which Perfetto and Chrome's own
 * viewer read: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
 *
 * A tp_chrome is given the events in the order in which they were read and appends lines of JSON,
 * one per entry. It remembers what is open: boxes of items, spans, waits, maps. Its memory goes
 * with the workers and with what is open, not with how much was traced. A box is written when it
 * ends, or, once it has been open for a while, in two halves, so that it can be seen in the file of
 * a script that was killed. */
#ifndef TP_CHROME_H
#define TP_CHROME_H

#include "base/buf.h"
#include "base/trace.h"

typedef struct tp_chrome tp_chrome;

/* `start_ns` is the file's time 0, and earlier events are left out. NULL when out of memory. The
 * trace must outlive it. */
tp_chrome *tp_chrome_new(tp_trace *trace, uint64_t start_ns);
void tp_chrome_free(tp_chrome *c); /* accepts NULL */

/* All of these append to `out`; -1 when out of memory, with `out` ending in a whole line. */

/* The beginning of a file. */
int tp_chrome_begin(tp_chrome *c, tp_buf *out);

/* One more event. */
int tp_chrome_add(tp_chrome *c, const tp_event *e, tp_buf *out);

/* So many events were lost before the next one: what is open ends at the last time that is known,
 * and maps that go on must be opened again. */
int tp_chrome_lose(tp_chrome *c, uint64_t n, tp_buf *out);

/* Counters at a time: the names of their series and their values. */
int tp_chrome_count(tp_chrome *c, uint64_t time_ns, const char *name, const char *const *series,
                    const double *values, unsigned n, tp_buf *out);

/* From time_ns on workers of the group (executor) that wait for work do so for this reason. `group`
 * is what their TP_EVENT_WAIT has in `first`; `reason` a tp_reason. */
int tp_chrome_explain(tp_chrome *c, uint64_t time_ns, const void *group, uint64_t reason,
                      tp_buf *out);

/* Writes the begin of boxes that have been open for a while. */
int tp_chrome_show(tp_chrome *c, uint64_t now_ns, tp_buf *out);

/* What is open ends here, and so does the file. */
int tp_chrome_end(tp_chrome *c, uint64_t now_ns, tp_buf *out);

/* Why somebody waits, in words, by the `count` of a TP_EVENT_WAIT. */
const char *tp_chrome_reason(uint64_t count);

#endif
