/* child.h: a worker process from the inside: takes requests from the host that started it, runs
 * them, and publishes the result of each item. */
#ifndef TP_CHILD_H
#define TP_CHILD_H

#include "runtime/runtime.h"

typedef struct tp_child tp_child;

/* Was this process started by a host, with the descriptors that a worker process gets
 * (wire/peer.h)? Takes them over. -1 with err set. Must come before any other thread is started;
 * from here on the process ends when the host does. */
int tp_child_open(tp_child **out, tp_error *err);

/* Fills in the configuration for the host of this process. */
void tp_child_configure(tp_child *child, tp_config *config);

/* Serves until the host is gone; then the process should end. `host` is this process's own, and
 * belongs to the calling thread. -1 with err set when it cannot begin; the other side is told
 * too. */
int tp_child_serve(tp_child *child, tp_host *host, tp_error *err);

#endif
