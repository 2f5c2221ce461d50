/* signs.h: what workers say beside their results: that they are there, which chunks they have, what
 * items print. They are heard while large payloads are transferred, too. The carrier's. */
#ifndef TP_SIGNS_H
#define TP_SIGNS_H

#include "cluster/coordinator/crew.h"
#include "cluster/coordinator/fleet.h"
#include "cluster/nats.h"

/* Handles the event if it is a beat, a list of chunks, or the question whether this process is
 * alive; true then. */
bool tp_signs_take(cluster *c, const tp_nats_event *e);

/* A tp_between: while a large payload is transferred, takes those. All other events are kept for
 * later. `user` is the cluster. */
void tp_signs_hear(void *user);

/* A worker says which chunks it has. */
void tp_signs_take_held(cluster *c, const char *data, size_t len);

/* A worker says what has happened in a chunk: happened.h. */
void tp_signs_take_happened(cluster *c, const tp_nats_event *e);

/* What items have printed on a worker: the descriptor, the host's name with a NUL, whole lines. */
void tp_signs_take_output(cluster *c, const char *data, size_t len);

/* The worker has run the flight's chunk since then: for traces. */
void tp_signs_begin_box(cluster *c, flight *l, worker *w, uint64_t since_ns);

#endif
