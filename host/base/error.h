/* error.h: filling a tp_error. The text says what was tried, on what, and what happened. */
#ifndef TP_ERROR_H
#define TP_ERROR_H

#include "tidepool.h"

/* Every public function begins with this: err tells about this call only, whatever it held before.
 * Accepts NULL. */
static inline void tp_error_begin(tp_error *err)
{
    if (err) {
        err->code = TP_OK;
        err->message[0] = '\0';
    }
}

/* Sets err unless it is NULL or holds an error already; always returns -1, so that a caller can
 * `return tp_error_set(...)`. A text that does not fit is cut, with "..." at its end. */
int tp_error_set(tp_error *err, tp_code code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* 0, or -1 when p is NULL, with an error such as "tp_map_next: map is NULL" and TP_EUSAGE. */
int tp_error_check_given(const void *p, const char *function, const char *name, tp_error *err);

/* "out of memory: <what>" with TP_EMEMORY; returns -1. */
int tp_error_oom(tp_error *err, const char *what);

/* "<what>: <what the system says of why, an errno>", with the limit when too many files are open;
 * returns -1. */
int tp_error_system(tp_error *err, tp_code code, const char *what, int why);

/* Marks err as empty. Code that runs for each item uses this: `= { 0 }` would also clear the 500
 * bytes of the text, which takes longer than encoding a number. */
static inline void tp_error_clear(tp_error *err)
{
    err->code = TP_OK;
}

#endif
