/* lines.h: what items write, as whole lines. An unfinished line (tp_lines) is part of the work. */
#ifndef TP_LINES_H
#define TP_LINES_H

#include "engine/work.h"

/* Writes bytes to descriptor 1 or 2 through the worker. What comes after the last newline waits for
 * the rest of its line until the item is over. While the worker runs no item, everything is written
 * at once. */
void tp_lines_write(tp_worker *worker, int fd, const char *bytes, size_t len);

/* The item is over: its unfinished line is written as it is. */
void tp_lines_end(tp_worker *worker, tp_work *work);

#endif
