/* blobs.c: large payloads. See blobs.h. */
#include "cluster/blobs.h"

#include "base/blake2b.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_MS = 5000, TRIES = 4 };

tp_blob tp_blob_of(const uint8_t *digest, size_t size)
{
    tp_blob b = { .size = size };
    memcpy(b.digest, digest, sizeof b.digest);
    tp_to_hex(b.name, digest, TP_DIGEST_BYTES);
    return b;
}

tp_blob tp_blob_of_result(const uint8_t *digest, size_t size, uint64_t chunk, uint32_t sending)
{
    tp_blob b = tp_blob_of(digest, size);
    size_t len = strlen(b.name);
    snprintf(b.name + len, sizeof b.name - len, "-%llu-%u", (unsigned long long)chunk, sending);
    return b;
}

static void name_piece(char *to, const char *before, const char *session, const tp_blob *b,
                       size_t piece)
{
    snprintf(to, TP_SUBJECT_MAX, "%s" TP_SUBJECT_B "%s.%s.%zu", before, session, b->name, piece);
}

void tp_blob_free(tp_blob *b)
{
    free(b->seq);
    *b = (tp_blob){ 0 };
}

/* Notes the sequence number of a piece, so that it can be removed. Without memory for that it stays
 * in the stream until the session is over. */
static void note(tp_blob *b, size_t piece, uint64_t seq)
{
    size_t all = (b->size + TP_BLOB_PIECE - 1) / TP_BLOB_PIECE;
    if (!b->seq)
        b->seq = calloc(all, sizeof *b->seq);
    if (!b->seq || piece >= all)
        return;
    b->seq[piece] = seq;
    b->n = piece + 1;
}

void tp_blob_remove(tp_nats *n, const tp_blob *b)
{
    char body[60];
    for (size_t i = 0; i < b->n; i++) {
        int len = snprintf(body, sizeof body, "{\"seq\":%llu,\"no_erase\":true}",
                           (unsigned long long)b->seq[i]);
        if (b->seq[i])
            tp_nats_publish(n, "$JS.API.STREAM.MSG.DELETE." TP_STREAM_B, NULL, body, (size_t)len);
    }
}

tp_nats_stored tp_blob_put(tp_nats *n, const char *session, tp_blob *b, const void *bytes,
                           const tp_between *between, tp_error *err)
{
    for (size_t at = 0, piece = 0; at < b->size; at += TP_BLOB_PIECE, piece++) {
        if (between)
            between->call(between->user);
        char subject[TP_SUBJECT_MAX], why[120];
        size_t size = b->size - at < TP_BLOB_PIECE ? b->size - at : TP_BLOB_PIECE;
        name_piece(subject, "", session, b, piece);
        tp_nats_event *e = tp_nats_ask(n, subject, (const char *)bytes + at, size, ASK_MS);
        tp_nats_stored stored = tp_nats_is_stored(e, why, sizeof why);
        if (stored == TP_NATS_STORED)
            note(b, piece, tp_nats_sequence(n, e));
        tp_nats_free(n, e);
        if (stored == TP_NATS_FULL)
            tp_error_set(err, TP_ELIMIT,
                         "the engine has no room for %.0f bytes of work: its server has taken %.0f "
                         "of them, and then said \"%s\" (max_file_store in its configuration)",
                         (double)b->size, (double)at, why);
        else if (stored != TP_NATS_STORED)
            tp_error_set(err, TP_ESYS, "the engine does not take %.0f bytes of work: %s",
                         (double)b->size, why);
        if (stored != TP_NATS_STORED)
            return stored;
    }
    return TP_NATS_STORED;
}

void tp_blob_drop(tp_nats *n, tp_blob *b)
{
    tp_blob_remove(n, b);
    tp_blob_free(b);
}

int tp_blob_check(const tp_blob *b, const tp_buf *bytes, tp_error *err)
{
    uint8_t found[TP_DIGEST_BYTES];
    tp_blake2b_hash(found, sizeof found, bytes->data, bytes->len);
    if (bytes->len != b->size || memcmp(found, b->digest, sizeof found) != 0)
        return tp_error_set(err, TP_ESYS, "a payload is not what it should be");
    return 0;
}

int tp_blob_get(tp_nats *n, const char *session, tp_blob *b, tp_buf *out,
                const tp_between *between, tp_error *err)
{
    for (size_t at = 0, piece = 0; at < b->size; at += TP_BLOB_PIECE, piece++) {
        if (between)
            between->call(between->user);
        char subject[TP_SUBJECT_MAX];
        size_t size = b->size - at < TP_BLOB_PIECE ? b->size - at : TP_BLOB_PIECE;
        bool is_done = false, is_full = false;
        name_piece(subject, "$JS.API.DIRECT.GET." TP_STREAM_B ".", session, b, piece);
        for (int i = 0; i < TRIES && !is_done && !is_full; i++) {
            tp_nats_event *e = tp_nats_ask(n, subject, "", 0, ASK_MS);
            is_done = e && e->status == 0 && e->len == size;
            is_full = is_done && tp_buf_add(out, e->data, size);
            if (is_done)
                note(b, piece, tp_nats_sequence(n, e));
            tp_nats_free(n, e);
        }
        if (is_full)
            return tp_error_oom(err, "work");
        if (!is_done)
            return tp_error_set(err, TP_ESYS, "a payload is not where it should be");
    }
    return tp_blob_check(b, out, err);
}
