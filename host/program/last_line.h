/* last_line.h: a line that a signal handler builds and writes, without locks and without
 * allocating. All functions are async-signal-safe. */
#ifndef TP_LAST_LINE_H
#define TP_LAST_LINE_H

#include <stddef.h>
#include <stdint.h>

enum { TP_LAST_LINE_BYTES = 1024 };

/* Begins as all zero. What does not fit is left out. */
typedef struct tp_last_line {
    char text[TP_LAST_LINE_BYTES];
    size_t len;
} tp_last_line;

void tp_last_line_put(tp_last_line *l, const char *bytes, size_t len);
void tp_last_line_put_text(tp_last_line *l, const char *text);
void tp_last_line_put_number(tp_last_line *l, uint64_t n);

#endif
