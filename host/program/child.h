/* child.h: a worker process from the inside: takes requests from the host that has started it, runs them, publishes what comes of each item. */
#ifndef TP_CHILD_H
#define TP_CHILD_H

#include "runtime/runtime.h"

typedef struct tp_child tp_child;

/* Is this process one that a host has started, with the descriptors that belong to that (wire/peer.h)? Takes them over. -1 with err set. Before any
 * other thread is started: from here on it ends when its host does. */
int tp_child_open(tp_child **out, tp_error *err);

/* What the host of this process is to be opened with. */
void tp_child_configure(tp_child *child, tp_config *config);

/* Serves until the host is gone; then the process is to end. `host` is this process's own, and of the calling thread. -1 with err set, which the other
 * side is told, when it cannot begin. */
int tp_child_serve(tp_child *child, tp_host *host, tp_error *err);

#endif
