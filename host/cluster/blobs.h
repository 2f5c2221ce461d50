/* blobs.h: payloads that are too large for a message, in pieces in the stream of blobs. */
#ifndef TP_BLOBS_H
#define TP_BLOBS_H

#include "base/buf.h"
#include "cluster/nats.h"
#include "cluster/parcel.h"

enum { TP_BLOB_NAME_MAX = 120 };

/* What is called before each piece, so that whoever waits meanwhile is told; NULL: nothing. */
typedef struct tp_between {
    void (*call)(void *user);
    void *user;
} tp_between;

/* Where a payload is, what it must be, and its pieces there as far as they are known. */
typedef struct tp_blob {
    char name[TP_BLOB_NAME_MAX];
    uint8_t digest[TP_DIGEST_BYTES];
    size_t size;
    uint64_t *seq; /* of the stream; 0: unknown */
    size_t n;
} tp_blob;

void tp_blob_free(tp_blob *b); /* the memory; b is zero then */

/* That of work, functions and modules: the same for the same bytes. */
tp_blob tp_blob_of(const uint8_t *digest, size_t size);

/* That of a chunk's result. Equal results of two chunks have names of their own, since each is
 * removed when its coordinator has read it. */
tp_blob tp_blob_of_result(const uint8_t *digest, size_t size, uint64_t chunk, uint32_t sending);

/* Stores the bytes. Pieces that are there already stay as they are. Blocks for some seconds a piece
 * at most. TP_NATS_STORED; or why not, with err set, and then some pieces may be there. */
tp_nats_stored tp_blob_put(tp_nats *n, const char *session, tp_blob *b, const void *bytes,
                           const tp_between *between, tp_error *err);

/* Reads the bytes and compares their digest. -1 with err set when they are not there, or others.
 * Blocks. */
int tp_blob_get(tp_nats *n, const char *session, tp_blob *b, tp_buf *out,
                const tp_between *between, tp_error *err);

/* Removes the pieces, as far as they are known. One by one: nats-server 2.9 goes on counting what
 * was removed by a filter (`max_file_store`), until it is started again. */
void tp_blob_remove(tp_nats *n, const tp_blob *b);

/* Are these the bytes? -1 with err set when not. */
int tp_blob_check(const tp_blob *b, const tp_buf *bytes, tp_error *err);

#endif
