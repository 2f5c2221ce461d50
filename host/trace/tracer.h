/* tracer.h: `--trace`, `--report` and `--dashboard`: a thread that reads what happens in a host, as
 * it happens, and writes it to a file, or adds it up for a page. */
#ifndef TP_TRACER_H
#define TP_TRACER_H

#include "base/error.h"
#include "tidepool.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct tp_tracer tp_tracer;

/* Each of these begins to write a file: a trace, for viewers (chrome.h), or a report, which is
 * written at its end (report.h). *t is the host's tracer, made by the first of them (NULL before).
 * One of each at a time. The host must outlive it. When a file cannot be written to the end,
 * tp_config.write is told so, once. Owner. */
int tp_tracer_begin_trace(tp_tracer **t, tp_host *host, const char *path, tp_error *err);
int tp_tracer_begin_report(tp_tracer **t, tp_host *host, const char *path, tp_error *err);

/* Callbacks of a live view (the dashboard): called on the tracer's thread, or on the owner's when
 * that thread has stopped. It must outlive the tracer, or tp_tracer_end_live. */
typedef struct tp_live {
    bool (*is_watched)(void *user); /* does anybody look now? */
    /* What a page of a report shows (report.h), as one JSON object: about twice a second while
     * somebody looks, and once at the end. */
    void (*show)(void *user, const char *json, size_t len);
    void *user;
} tp_live;

/* Begins to show what happens; copied. Once at a time. Otherwise as above. */
int tp_tracer_begin_live(tp_tracer **t, tp_host *host, const tp_live *live, tp_error *err);

/* Ends the live view, after a last snapshot. *t becomes NULL when no file is written either. Does
 * nothing where nobody is shown anything. Owner. */
void tp_tracer_end_live(tp_tracer **t);

/* The path of the trace that is being written; NULL: none is. Accepts NULL. */
const char *tp_tracer_path(const tp_tracer *t);

/* Writes what is left of the trace and ends its file. -1 with err set when not all of it could be
 * written, then or before. *t becomes NULL when nothing else is written. Owner. */
int tp_tracer_end_trace(tp_tracer **t, tp_error *err);

/* Ends all files. Accepts NULL. Owner. */
void tp_tracer_close(tp_tracer *t);

#endif
