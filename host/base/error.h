/* error.h: filling a tp_error. The text says what was tried, on what, and what happened. */
#ifndef TP_ERROR_H
#define TP_ERROR_H

#include "tidepool.h"

/* What a public function begins with: err says what this call comes to, whatever it said before. Accepts NULL. */
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

/* 0; -1 when p is NULL: "tp_map_next: map is NULL", with TP_EUSAGE. */
int tp_error_check_given(const void *p, const char *function, const char *name, tp_error *err);

/* "out of memory: <what>" with TP_EMEMORY; returns -1. */
int tp_error_oom(tp_error *err, const char *what);

/* No error. What runs for each item says so like this: `= { 0 }` would also empty the 500 bytes of the text, which takes longer than
 * encoding a number. */
static inline void tp_error_clear(tp_error *err)
{
    err->code = TP_OK;
}

#endif
