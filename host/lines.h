/* lines.h: what items write, as whole lines. Part of an agent, and its thread's own. */
#ifndef TP_LINES_H
#define TP_LINES_H

#include "buf.h"

struct tp_host;
struct tp_agent;

/* The beginnings of lines that have not ended, in tp_agent. Zero-initialised is empty. */
typedef struct tp_lines {
    tp_buf begun[2];      /* to standard output, to standard error */
    tp_buf tagged;        /* memory for lines with their tags */
    const void *slice;    /* the item that has begun them */
    uint64_t item;
} tp_lines;

/* Writes bytes for descriptor 1 or 2 through the host. What comes after the last newline waits for the rest of its line, until the item is over.
 * agent is NULL, or runs no item: all goes out at once. */
void tp_lines_write(struct tp_host *host, struct tp_agent *agent, int fd, const char *bytes, size_t len);

/* The item that the agent has run is over: what it has begun goes out as it is. */
void tp_lines_end(struct tp_host *host, struct tp_agent *agent);

void tp_lines_free(tp_lines *lines);

#endif
