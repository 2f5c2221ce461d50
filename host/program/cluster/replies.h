/* replies.h: what a worker says to coordinators of their chunks: answers, which stay until somebody
 * has them, and large bytes. */
#ifndef TP_REPLIES_H
#define TP_REPLIES_H

#include "program/cluster/node.h"

/* How many chunks may be here, besides those that were answered. */
unsigned tp_reply_most_chunks(const node *n);

/* The chunk is over, with this answer, which stays until the server has it. Large ones are
 * k->records. */
void tp_reply_give(node *n, chunk *k, tp_answer_kind kind, const void *bytes, size_t len);

/* Goes back, so that the coordinator has it run elsewhere. */
void tp_reply_give_back(node *n, chunk *k);

/* Sends the answer of a chunk that is over (again); while the connection is lost nothing is. */
void tp_reply_send(node *n, chunk *k);

/* The same in any case: a large result may not have been stored yet (is_unsent). */
void tp_reply_send_again(node *n, chunk *k);

/* May one more answer be sent again now? After the connection was lost one is at first, and two
 * more for each that gets through: so that also one that is cut soon gets some through. */
bool tp_reply_may_send_again(node *n, uint64_t now);

/* The server, or a coordinator, has said something of an answer. */
void tp_reply_note_answer(node *n);

/* What is too large for a message goes into the stream of blobs; or, where there is no room, to the
 * coordinator. Blocks. False: that does not take it either. */
bool tp_reply_send_large(node *n, const chunk *k, const tp_buf *bytes, uint8_t *digest,
                         uint32_t *where);

#endif
