/* code.h: the functions, plans of kernels and modules of a session's chunks. Fetching them blocks;
 * the node stays alive meanwhile (tp_node_stay). */
#ifndef TP_CODE_H
#define TP_CODE_H

#include "program/cluster/node.h"

/* The task's image, whose bytes are at `bytes`, or else (NULL) in the stream of blobs. It stays
 * while it has users. NULL with err set: it cannot be had. */
image *tp_code_find_image(node *n, session *s, const tp_task *task, const uint8_t *bytes,
                          tp_error *err);

/* Makes the session's processes find the modules of the task. A session's bundle only grows, so the
 * larger of two has the modules of both. */
int tp_code_take_modules(node *n, session *s, const tp_task *task, tp_error *err);

/* Frees the session's images. */
void tp_code_free(session *s);

#endif
