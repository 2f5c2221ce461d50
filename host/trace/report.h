/* report.h: events (base/trace.h) as a page for people: `--report`.
 *
 * A tp_report is given the events in the order in which they were read, as chrome.h is, and adds
 * them up. Its memory goes with the workers, functions and maps that are open, not with how long
 * the run takes: what is drawn becomes coarser when there is much of it. At the end it writes one
 * HTML file with all that it needs (page.html), with the sums in it as JSON; what bounds the run is
 * said in words there (findings.c). */
#ifndef TP_REPORT_H
#define TP_REPORT_H

#include "base/buf.h"
#include "base/trace.h"
#include "engine/job.h"

typedef struct tp_report tp_report;

/* Events of this trace from `start_ns` on, of a host that may have so many workers of a kind. NULL
 * when out of memory. The trace must outlive it. */
tp_report *tp_report_new(tp_trace *trace, uint64_t start_ns, unsigned workers);
void tp_report_free(tp_report *r); /* accepts NULL */

/* One more event. -1 when out of memory, as do the next ones. */
int tp_report_add(tp_report *r, const tp_event *e);

/* So many events were lost before the next one: maps that go on must be opened again. */
int tp_report_lose(tp_report *r, uint64_t n);

/* How much there is at a time; memory: of the process, in MiB. */
void tp_report_count(tp_report *r, uint64_t time_ns, const tp_engine_totals *totals, double memory);

/* From here on the workers of this group that wait for work (TP_EVENT_WAIT, whose `first` it is) do
 * so for that reason, because of a job of that number (0: of none), whose function has that limit.
 * After all groups comes tp_report_look. */
int tp_report_explain(tp_report *r, uint64_t time_ns, const void *group, uint64_t reason,
                      uint64_t job, unsigned limit);
void tp_report_look(tp_report *r, uint64_t time_ns);

/* What is open ends here; then the page is appended. Once. */
int tp_report_end(tp_report *r, uint64_t now_ns, tp_buf *out);

#endif
