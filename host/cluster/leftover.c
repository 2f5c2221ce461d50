/* leftover.c: results of a dead coordinator's session. See leftover.h. */
#include "cluster/leftover.h"

#include "cluster/blobs.h"
#include "cluster/nats.h"
#include "cluster/protocol.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ASK_MS = 5000, FLUSH_MS = 2000, TICKET_ITEMS_MAX = 1 << 24 };

typedef struct reader {
    tp_nats nats;
    tp_signer signer;
    const char *session;
    tp_leftover_taker *take;
    void *user;
} reader;

/* ---- a result as blocks ---- */

/* A work that nobody runs: its sink collects the results that tp_wire_read gives to it. */
typedef struct gathering {
    tp_work work; /* first member */
    tp_terms terms;
    tp_block *first, **last;
} gathering;

/* Failures are left out: their items run again. */
static void append(tp_work *w, tp_block *b)
{
    gathering *g = (gathering *)w;
    if (b->kind == TP_BLOCK_FAILURE) {
        tp_block_free(b);
        return;
    }
    *g->last = b;
    g->last = &b->next;
}

static const tp_sink sink = { .append = append };

/* The items of a ticket, as a block without values. NULL: out of memory. */
static tp_block *items_of(const tp_ticket *t, const char *identities)
{
    tp_block *b = tp_block_new_empty(TP_BLOCK_DONE, t->first, t->count);
    tp_tag *tags = b ? calloc(t->count, sizeof *tags) : NULL;
    if (!tags) {
        tp_block_free(b);
        return NULL;
    }
    for (uint32_t i = 0; i < t->count; i++)
        memcpy(tags[i].identity, identities + (size_t)i * TP_IDENTITY_BYTES, TP_IDENTITY_BYTES);
    b->tags = tags;
    return b;
}

static int take_records(reader *r, const tp_ticket *t, const char *identities, const void *records,
                        size_t len, tp_error *err)
{
    tp_error why = { 0 };
    gathering g = { .terms = { .discards = t->discards != 0, .returns.columns = t->returns } };
    memcpy(g.terms.returns.type, t->returned, sizeof t->returned);
    tp_block *items = items_of(t, identities);
    char *copy = malloc(len + 8); /* aligned */
    int rc = 0;
    if (items && copy) {
        memcpy(copy, records, len);
        g.last = &g.first;
        g.work.sink = &sink;
        g.work.terms = &g.terms;
        g.work.block = items;
        g.work.count = t->count;
        const tp_wire_given given = { 0 };
        tp_wire_reader from = { .base = copy, .size = len, .count = t->count, .given = &given };
        /* a result that cannot be read (it refers to a function, say) is left out: its items run
         * again */
        tp_wire_read(&from, &g.work, 0, len, &why);
        rc = g.first ? r->take(r->user, t, items, g.first, err) : 0;
    } else {
        rc = tp_error_oom(err, "results");
    }
    for (tp_block *b = g.first, *next; b; b = next) {
        next = b->next;
        tp_block_free(b);
    }
    tp_block_free(items);
    free(copy);
    return rc;
}

/* ---- messages ---- */

static int take_answer(reader *r, const char *data, size_t len, uint64_t chunk, uint32_t sending,
                       tp_error *err)
{
    tp_answer a;
    tp_ticket t;
    if (len < sizeof a)
        return 0;
    memcpy(&a, data, sizeof a);
    uint64_t here = a.where == TP_ANSWER_HERE ? a.size : 0;
    const char *records = data + sizeof a;
    len -= sizeof a;
    if (a.kind != TP_ANSWER_DONE || a.size > TP_PAYLOAD_MAX || here > len ||
        a.ticket < sizeof t || a.ticket > len - here)
        return 0;
    memcpy(&t, records + here, sizeof t);
    if (t.count == 0 || t.count > TICKET_ITEMS_MAX || t.returns > TP_COLUMNS_MAX ||
        a.ticket != sizeof t + (uint64_t)t.count * TP_IDENTITY_BYTES)
        return 0;
    const char *identities = records + here + sizeof t;
    if (a.where == TP_ANSWER_HERE)
        return take_records(r, &t, identities, records, a.size, err);
    if (a.where != TP_ANSWER_BLOB)
        return 0;
    tp_error why = { 0 };
    tp_buf bytes = { 0 };
    tp_blob b = tp_blob_of_result(a.digest, a.size, chunk, sending);
    int rc = tp_blob_get(&r->nats, r->session, &b, &bytes, NULL, &why);
    rc = rc ? 0 : take_records(r, &t, identities, bytes.data, bytes.len, err);
    tp_blob_remove(&r->nats, &b);
    tp_blob_free(&b);
    tp_buf_free(&bytes);
    return rc;
}

/* Reads the result with that subject. */
static int take_result(reader *r, const char *subject, tp_error *err)
{
    char name[2 * TP_SUBJECT_MAX];
    unsigned long long group, chunk;
    unsigned sending;
    if (sscanf(subject + strlen(TP_SUBJECT_R) + TP_ID_TEXT, "%llu.%llu.%u", &group, &chunk,
               &sending) != 3)
        return 0;
    snprintf(name, sizeof name, "$JS.API.DIRECT.GET." TP_STREAM_R ".%s", subject);
    tp_nats_event *e = tp_nats_ask(&r->nats, name, "", 0, ASK_MS);
    int rc = e && e->status == 0 ? take_answer(r, e->data, e->len, chunk, sending, err) : 0;
    tp_nats_free(&r->nats, e);
    return rc;
}

static int take_all(reader *r, tp_error *err)
{
    char body[TP_SUBJECT_MAX], name[TP_SUBJECT_MAX], subject[TP_SUBJECT_MAX];
    snprintf(body, sizeof body, "{\"subjects_filter\":\"" TP_SUBJECT_R "%s.>\"}", r->session);
    tp_nats_event *e = tp_nats_ask(&r->nats, "$JS.API.STREAM.INFO." TP_STREAM_R, body,
                                   strlen(body), ASK_MS);
    int rc = 0;
    int len = snprintf(name, sizeof name, "\"" TP_SUBJECT_R "%s.", r->session);
    const char *p = e ? e->data : "", *end = e ? e->data + e->len : p;
    while (rc == 0 && (p = memmem(p, (size_t)(end - p), name, (size_t)len))) {
        p++;
        const char *quote = memchr(p, '"', (size_t)(end - p));
        if (!quote || quote - p >= TP_SUBJECT_MAX)
            continue;
        snprintf(subject, sizeof subject, "%.*s", (int)(quote - p), p);
        rc = take_result(r, subject, err);
    }
    tp_nats_free(&r->nats, e);
    return rc;
}

/* ---- the session ---- */

/* Nobody listens where its coordinator would. */
static bool is_dead(reader *r)
{
    uint8_t nonce[TP_ID_BYTES];
    char subject[TP_SUBJECT_MAX];
    tp_signer_random(&r->signer, nonce, sizeof nonce);
    snprintf(subject, sizeof subject, TP_SUBJECT_Q "%s", r->session);
    tp_nats_event *e = tp_nats_ask(&r->nats, subject, nonce, sizeof nonce, ASK_MS);
    bool is = e && e->status == 503;
    tp_nats_free(&r->nats, e);
    return is;
}

static void purge(reader *r, const char *stream, const char *subjects)
{
    char filter[TP_SUBJECT_MAX];
    snprintf(filter, sizeof filter, "%s%s.>", subjects, r->session);
    tp_nats_purge(&r->nats, stream, filter);
}

int tp_leftover_read(const char *engine, const char *token, const char session[TP_ID_TEXT],
                     tp_leftover_taker *take, void *user, tp_error *err)
{
    char subject[TP_SUBJECT_MAX];
    reader r = { .session = session, .take = take, .user = user };
    if (tp_signer_open(&r.signer, token, true, err) || tp_nats_open(&r.nats, err))
        return -1;
    int rc = tp_nats_connect(&r.nats, engine, "tidepool journal", &r.signer, err);
    if (rc == 0 && !is_dead(&r)) {
        rc = 1;
    } else if (rc == 0) {
        /* workers must forget the session first: what they still run would run twice */
        snprintf(subject, sizeof subject, TP_SUBJECT_CTL "%s", session);
        tp_nats_publish(&r.nats, subject, NULL, "over", 4);
        rc = take_all(&r, err);
        if (rc == 0) {
            purge(&r, TP_STREAM_R, TP_SUBJECT_R);
            purge(&r, TP_STREAM_B, TP_SUBJECT_B);
            tp_nats_flush(&r.nats, FLUSH_MS);
        }
    }
    tp_nats_close(&r.nats);
    return rc;
}
