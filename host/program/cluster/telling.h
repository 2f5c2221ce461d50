/* telling.h: what a worker tells of what happens in its chunks, where their coordinators ask for
 * that: cluster/happened.h has the messages.
 *
 * The trace of a session's host is listened to while such a chunk runs. Its events are sorted by
 * chunks here: by the job that they name, or else by what their thread took last. */
#ifndef TP_TELLING_H
#define TP_TELLING_H

#include "program/cluster/node.h"

/* A chunk of the session begins that asks for this (k->told), or is over: its host's trace is
 * listened to, or not any more. */
void tp_telling_follow(node *n, session *s);

/* Sorts what has happened. `begins`: the chunk that the main thread works for (it compiles); NULL:
 * it works for none. */
void tp_telling_sort(node *n, session *s, const chunk *begins);

/* Sends what the chunk has to tell, if it is time; at its end in any case. */
void tp_telling_send(node *n, chunk *k, bool is_over);

/* Frees what the session keeps for this. */
void tp_telling_close(session *s);

#endif
