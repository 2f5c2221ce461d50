/* returns.h: the results of chunks, and what the server says of chunks. Nothing is believed of what
 * comes in. All functions are the carrier's; those that take an answer may end the flight's
 * slice. */
#ifndef TP_RETURNS_H
#define TP_RETURNS_H

#include "cluster/blobs.h"
#include "cluster/coordinator/fleet.h"

/* The answer for a chunk has come (tp_answer). */
void tp_returns_take(cluster *c, flight *l, const char *data, size_t len);

/* The answer to what was sent directly. */
void tp_returns_take_direct(cluster *c, const tp_nats_event *e);

/* The answer to tp_flight_check. */
void tp_returns_take_check(cluster *c, flight *l, const tp_nats_event *e);

/* A piece of a result, or of values, for which the server has no room: "+" asks for the next. */
void tp_returns_take_piece(cluster *c, const tp_nats_event *e);

/* The server has taken work, or has it already, or not. */
void tp_returns_take_acknowledgement(cluster *c, flight *l, const tp_nats_event *e);

/* The length of the names of chunks that follow an answer, and that of its ticket (see
 * tp_answer). */
size_t tp_returns_names_in(const char *data, size_t len, size_t *ticket);

/* Results of a chunk's first items, while one behind them runs for long (tp_early). */
void tp_returns_take_early(cluster *c, const tp_nats_event *e);

/* Gives records to the slice's work, whose next items they are of; those before `from` were given.
 * False with err set: they are wrong, or there is no memory (TP_EMEMORY). */
bool tp_returns_read(flight *l, const void *bytes, size_t from, size_t len, tp_error *err);

/* Gets a result, or values, that are not in their message. Blocks. -1 with err set: they are not
 * there. */
int tp_returns_fetch(cluster *c, flight *l, tp_blob *b, uint32_t where, tp_buf *bytes,
                     tp_error *err);

#endif
