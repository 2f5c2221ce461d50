/* blobs.h: payloads that are too large for a message, in pieces in the stream of blobs. */
#ifndef TP_BLOBS_H
#define TP_BLOBS_H

#include "base/buf.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"

enum { TP_BLOB_NAME_MAX = 120 };

/* A callback before each piece of a long transfer, so that the caller can answer others meanwhile;
 * NULL: none. */
typedef struct tp_between {
    void (*call)(void *user);
    void *user;
} tp_between;

/* A payload in the stream: its subject, its size and digest, and where its pieces are, as far as
 * that is known. Belongs to the taker's thread (nats.h). */
typedef struct tp_blob {
    char name[TP_BLOB_NAME_MAX];
    uint8_t digest[TP_DIGEST_BYTES];
    size_t size;
    uint64_t *seq; /* each piece's sequence number in the stream; 0: unknown */
    size_t n;
} tp_blob;

void tp_blob_free(tp_blob *b); /* the memory; b is zero then */

/* The blob of work, a function or modules: named by its digest, so that equal bytes are stored
 * once. */
tp_blob tp_blob_of(const uint8_t *digest, size_t size);

/* The blob of a chunk's result. Its name contains the chunk's, so that equal results of two chunks
 * can be removed one by one when the coordinator has read them. */
tp_blob tp_blob_of_result(const uint8_t *digest, size_t size, uint64_t chunk, uint32_t sending);

/* Stores the bytes. Pieces that are there already stay as they are. Blocks for some seconds a piece
 * at most. TP_NATS_STORED; or why not, with err set, and then some pieces may be there. */
tp_nats_stored tp_blob_put(tp_nats *n, const char *session, tp_blob *b, const void *bytes,
                           const tp_between *between, tp_error *err);

/* Reads the bytes and compares their digest. -1 with err set when they are not there, or others.
 * Blocks. */
int tp_blob_get(tp_nats *n, const char *session, tp_blob *b, tp_buf *out,
                const tp_between *between, tp_error *err);

/* Removes the pieces, as far as they are known. One by one, since nats-server 2.9 goes on counting
 * messages that were purged by a filter against `max_file_store` until it restarts. */
void tp_blob_remove(tp_nats *n, const tp_blob *b);

/* It is not needed at the server any more: removes it, and frees the memory. */
void tp_blob_drop(tp_nats *n, tp_blob *b);

/* Are these the bytes? -1 with err set when not. */
int tp_blob_check(const tp_blob *b, const tp_buf *bytes, tp_error *err);

#endif
