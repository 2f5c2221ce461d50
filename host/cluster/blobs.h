/* blobs.h: payloads that are too large for a message, in pieces in the stream of blobs. */
#ifndef TP_BLOBS_H
#define TP_BLOBS_H

#include "base/buf.h"
#include "cluster/nats.h"

/* What is called before each piece, so that whoever waits meanwhile is told; NULL: nothing. */
typedef struct tp_between {
    void (*call)(void *user);
    void *user;
} tp_between;

/* Stores the bytes, whose digest is `digest` (TP_DIGEST_BYTES). Pieces that are there already stay
 * as they are. Blocks. -1 with err set when the server does not take them. */
int tp_blob_put(tp_nats *n, const char *session, const uint8_t *digest, const void *bytes,
                size_t len, const tp_between *between, tp_error *err);

/* Reads `len` bytes and compares their digest. -1 with err set when they are not there, or others.
 * Blocks. */
int tp_blob_get(tp_nats *n, const char *session, const uint8_t *digest, size_t len, tp_buf *out,
                const tp_between *between, tp_error *err);

#endif
