/* blobs.c: large payloads. See blobs.h. */
#include "cluster/blobs.h"

#include "base/blake2b.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "cluster/sign.h"

#include <stdio.h>
#include <string.h>

enum { ASK_MS = 5000, TRIES = 4 };

static void name_piece(char *to, const char *before, const char *session, const uint8_t *digest,
                       size_t piece)
{
    char hex[2 * TP_DIGEST_BYTES + 1];
    tp_to_hex(hex, digest, TP_DIGEST_BYTES);
    snprintf(to, TP_SUBJECT_MAX, "%s" TP_SUBJECT_B "%s.%s.%zu", before, session, hex, piece);
}

/* Does the server say that it has stored the message, or that it had it already? */
static bool is_stored(const tp_nats_event *e)
{
    static const char error[] = "\"error\"", there[] = "10077";
    return e && e->status == 0 && e->len > 0 &&
           (!memmem(e->data, e->len, error, sizeof error - 1) ||
            memmem(e->data, e->len, there, sizeof there - 1));
}

int tp_blob_put(tp_nats *n, const char *session, const uint8_t *digest, const void *bytes,
                size_t len, const tp_between *between, tp_error *err)
{
    for (size_t at = 0, piece = 0; at < len; at += TP_BLOB_PIECE, piece++) {
        if (between)
            between->call(between->user);
        char subject[TP_SUBJECT_MAX];
        size_t size = len - at < TP_BLOB_PIECE ? len - at : TP_BLOB_PIECE;
        bool is_done = false;
        name_piece(subject, "", session, digest, piece);
        for (int i = 0; i < TRIES && !is_done; i++) {
            tp_nats_event *e = tp_nats_ask(n, subject, (const char *)bytes + at, size, ASK_MS);
            is_done = is_stored(e);
            tp_nats_free(n, e);
        }
        if (!is_done)
            return tp_error_set(err, TP_ESYS, "the engine does not take %.0f bytes of work",
                                (double)len);
    }
    return 0;
}

int tp_blob_get(tp_nats *n, const char *session, const uint8_t *digest, size_t len, tp_buf *out,
                const tp_between *between, tp_error *err)
{
    uint8_t found[TP_DIGEST_BYTES];
    for (size_t at = 0, piece = 0; at < len; at += TP_BLOB_PIECE, piece++) {
        if (between)
            between->call(between->user);
        char subject[TP_SUBJECT_MAX];
        size_t size = len - at < TP_BLOB_PIECE ? len - at : TP_BLOB_PIECE;
        bool is_done = false, is_full = false;
        name_piece(subject, "$JS.API.DIRECT.GET." TP_STREAM_B ".", session, digest, piece);
        for (int i = 0; i < TRIES && !is_done && !is_full; i++) {
            tp_nats_event *e = tp_nats_ask(n, subject, "", 0, ASK_MS);
            is_done = e && e->status == 0 && e->len == size;
            is_full = is_done && tp_buf_add(out, e->data, size);
            tp_nats_free(n, e);
        }
        if (is_full)
            return tp_error_oom(err, "work");
        if (!is_done)
            return tp_error_set(err, TP_ESYS, "a payload is not where it should be");
    }
    tp_blake2b_hash(found, sizeof found, out->data, out->len);
    if (memcmp(found, digest, sizeof found) != 0)
        return tp_error_set(err, TP_ESYS, "a payload is not what it should be");
    return 0;
}
