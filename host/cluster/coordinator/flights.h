/* flights.h: chunks on their way: sent, asked for, sent again, lost, and ended. All functions are
 * the carrier's. What may end the slice of a flight says so: it has none then. */
#ifndef TP_FLIGHTS_H
#define TP_FLIGHTS_H

#include "cluster/coordinator/crew.h"
#include "cluster/coordinator/fleet.h"

/* Sends the next items of the flight's slice, or ends it. */
void tp_flight_advance(cluster *c, flight *l);

/* The next item of the flight's slice gets this failure. */
void tp_flight_fail(flight *l, tp_failure_kind kind, const char *message);

/* Finishes the flight's slice: what has no result goes back. */
void tp_flight_end(cluster *c, flight *l);

/* Nobody wants the slice any more: its worker is told, and it is finished. */
void tp_flight_end_unwanted(cluster *c, flight *l);

/* The chunk must be run anew, by another worker. May end the slice. */
void tp_flight_send_again(cluster *c, flight *l);

/* The worker that had the chunk is dead, or cut off. May end the slice. */
void tp_flight_lose(cluster *c, flight *l);

/* The worker is dead that gave values of this flight: all that it ran is lost. What was not read is
 * taken back of all of it, before the first failure lets the reader go on to them. */
void tp_flight_lose_streamer(cluster *c, const flight *of);

/* A worker that took work directly is dead. It runs chunks in the order in which they came, as many
 * at once as it has slots: only those can be the cause of its death, the others are sent again. */
void tp_flight_lose_worker(cluster *c, const worker *dead);

/* The chunk is no longer at the worker to which it was sent directly. */
void tp_flight_leave_taker(flight *l);

/* Publishes the chunk in the stream. */
void tp_flight_publish(cluster *c, flight *l, uint64_t now);

/* Sends a chunk for devices to a worker that has them, or again to the one that has it. */
void tp_flight_dispatch_kernel(cluster *c, flight *l);

/* No worker runs the flight's function, for which `why` is the words of one of them: its job
 * fails. Ends the slice. */
void tp_flight_give_up(cluster *c, flight *l, const char *why);

/* Asks for the result of a chunk, in case it was missed. */
void tp_flight_check(cluster *c, flight *l, uint64_t now);

/* The server has no room for the chunk's message: it is sent again and again. `why` is for the
 * user. */
void tp_flight_refuse(cluster *c, flight *l, const tp_error *why);

/* The server has taken the chunk's message: there is room again. */
void tp_flight_accept(cluster *c, flight *l);

/* Sends what the server had no room for, the first chunk first. May end slices. */
void tp_flight_retry_short(cluster *c, uint64_t now);

/* A session begins: nothing has been refused yet. */
void tp_flight_reset_short(cluster *c);

#endif
