/* file.h: a file that a trace is written to as it comes, compressed when its name ends in ".gz". */
#ifndef TP_TRACE_FILE_H
#define TP_TRACE_FILE_H

#include "base/error.h"

#include <stddef.h>

typedef struct tp_trace_file tp_trace_file;

/* Makes the file, or empties it. One that is to be compressed needs zlib, which is loaded here.
 * what: "trace" or "report", for messages; it must outlive the file. */
int tp_trace_file_open(tp_trace_file **out, const char *what, const char *path, tp_error *err);

/* Appends these bytes, whole: when it fails, none of them are in the file, if that is a plain file
 * and not compressed. After a failure it does nothing. */
int tp_trace_file_write(tp_trace_file *f, const void *bytes, size_t len, tp_error *err);

/* What was written can be read by others from here on. */
int tp_trace_file_flush(tp_trace_file *f, tp_error *err);

/* Accepts NULL. -1 when something could not be written that was not told before. */
int tp_trace_file_close(tp_trace_file *f, tp_error *err);

#endif
