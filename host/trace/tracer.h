/* tracer.h: `--trace`: a thread that writes what happens in a host to a file, as it happens. */
#ifndef TP_TRACER_H
#define TP_TRACER_H

#include "base/error.h"
#include "tidepool.h"

typedef struct tp_tracer tp_tracer;

/* Begins to write to the file (chrome.h). One at a time for a host. The host must outlive it. When
 * the file cannot be written to the end, tp_config.write is told so, once. Owner. */
int tp_tracer_open(tp_tracer **out, tp_host *host, const char *path, tp_error *err);

/* The file's path. */
const char *tp_tracer_path(const tp_tracer *t);

/* Writes what is left and ends the file. -1 with err set when not all of it could be written, then
 * or before. Accepts NULL. Owner. */
int tp_tracer_close(tp_tracer *t, tp_error *err);

#endif
