/* report.h: events (base/trace.h) as a page for people: `--report`.
 *
 * A tp_report is given the events in the order in which they were read, as chrome.h is, and adds
 * them up. Its memory goes with the workers, functions and maps that are open, not with how long
 * the run takes: what is drawn becomes coarser when there is much of it. At the end it writes one
 * HTML file with all that it needs (page.html), with the sums in it as JSON; what bounds the run is
 * said in words there (findings.c). A live one gives those sums at any time, for the same page:
 * `--dashboard`. */
#ifndef TP_REPORT_H
#define TP_REPORT_H

#include "base/buf.h"
#include "base/trace.h"
#include "engine/job.h"

typedef struct tp_report tp_report;

/* `start_ns` is the report's time 0, and earlier events are left out; `workers` is
 * tp_config.workers. A live report gives snapshots while the host runs, and its time line has the
 * last minute. NULL when out of memory. The trace must outlive it. */
tp_report *tp_report_new(tp_trace *trace, uint64_t start_ns, unsigned workers, bool is_live);
void tp_report_free(tp_report *r); /* accepts NULL */

/* One more event. -1 when out of memory, as do the next ones. */
int tp_report_add(tp_report *r, const tp_event *e);

/* So many events were lost before the next one: maps that go on must be opened again. */
int tp_report_lose(tp_report *r, uint64_t n);

/* A sample for the page's curves: totals of the engine, and the memory of the process in MiB. */
void tp_report_count(tp_report *r, uint64_t time_ns, const tp_engine_totals *totals, double memory);

/* An item has failed with this failure. */
void tp_report_fail(tp_report *r, const tp_failure_view *failure);

/* From time_ns on workers of the group (executor) that wait for work do so for this reason, because
 * of the job of that number (0: of none), whose function has that concurrency limit. `group` is
 * what their TP_EVENT_WAIT has in `first`. After all groups comes tp_report_look. */
int tp_report_explain(tp_report *r, uint64_t time_ns, const void *group, uint64_t reason,
                      uint64_t job, unsigned limit);
void tp_report_look(tp_report *r, uint64_t time_ns);

/* Ends everything that is open, and appends the page to out. Called once. */
int tp_report_end(tp_report *r, uint64_t now_ns, tp_buf *out);

/* The maps that there are now (tp_engine_list_jobs), and the items that run. */
typedef struct tp_report_now {
    const tp_job_view *jobs;
    const tp_run_view *running;
    unsigned n_jobs, n_running;
    uint64_t others;
} tp_report_now;

/* Appends what the page shows, as it is now: one JSON object. -1 when out of memory. */
int tp_report_snapshot(tp_report *r, uint64_t now_ns, const tp_report_now *now, tp_buf *out);

/* Appends a page without data, which shows the snapshots that it gets as server-sent events from
 * the URL "events" beside its own. */
int tp_report_put_live_page(tp_buf *out);

#endif
