/* chunks.h: work at a worker: fetched, queued until there is a slot, begun as a job of its
 * session's host, and its results collected. */
#ifndef TP_CHUNKS_H
#define TP_CHUNKS_H

#include "program/cluster/node.h"

/* A chunk whose message was verified, and whose session is alive, waits for a slot. */
void tp_chunk_enqueue(node *n, chunk *k);

/* Begins queued chunks as far as there are slots, in their order. Those that find none go back, so
 * that they run where there are some. */
void tp_chunks_begin(node *n, uint64_t now);

/* Takes what the running chunk's job has given, and asks to be woken at its next news. It may be
 * over then. */
void tp_chunk_collect(node *n, chunk *k);

/* Does an item of the chunk run for long? Then results of those before it are sent, and those at
 * the end that are not begun are given back. */
void tp_chunk_send_early(node *n, chunk *k);

/* Says what values there are, or that there are none yet; the coordinator answers to INBOX.v. */
void tp_chunk_send_values(node *n, chunk *k);

/* What the coordinator has said of an item's values: "over" or "TAKEN ALLOWED". May free it. */
void tp_chunk_take_allowance(node *n, chunk *k, const char *text);

/* Asks for as many chunks as there is room for, with the acknowledgement of one (`ack`), or else by
 * itself. False: there is no room, or it is not the time. */
bool tp_chunks_pull(node *n, uint64_t now, const char *ack);

/* A pull's message has come. The server serves the oldest pull first. */
void tp_chunks_note_pulled(node *n);

/* The server says that a pull is over. */
void tp_chunks_end_pull(node *n, int i);

/* What was pulled for is lost; there is no pull before that time. */
void tp_chunks_reset_pulls(node *n, uint64_t at_ms);

#endif
