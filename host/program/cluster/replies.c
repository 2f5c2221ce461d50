/* replies.c: what a worker says to coordinators of their chunks. */
#include "program/cluster/replies.h"

#include "base/blake2b.h"
#include "program/cluster/telling.h"

#include <stdio.h>
#include <string.h>

enum {
    RESENDS_MAX = 10000,
    PIECE_MS = 1000, /* how long a coordinator may take to answer a piece of a result */
    AHEAD_NS = 4 * 1000 * 1000, /* chunks that are short are fetched ahead, up to as many as take */
    AHEAD_MAX = 16,             /* AHEAD_NS together, and AHEAD_MAX for each slot */
    BUSY_MS = 500 /* a session without work for so long gets no share of the offers */
};

/* Sends the answer to what came directly, which nobody acknowledges. */
static void send_directly(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.direct", k->session->hex);
    tp_nats_publish(&n->nats, subject, NULL, k->message.data, k->message.len);
    k->state = OVER;
}

void tp_reply_send(node *n, chunk *k)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    k->again_ms = n->is_lost ? 0 : tp_node_now_ms() + AGAIN_MS;
    if (n->is_lost)
        return; /* later, see tp_reply_may_send_again */
    tp_protocol_name_result(subject, "", k->session->hex, k->number, k->sending);
    snprintf(reply, sizeof reply, "%s.a.%s.%llu.%u", n->inbox, k->session->hex,
             (unsigned long long)k->number, k->sending);
    tp_nats_publish(&n->nats, subject, reply, k->message.data, k->message.len);
}

bool tp_reply_may_send_again(node *n, uint64_t now)
{
    if (n->resends == 0 && now < n->resent_ms + AGAIN_MS)
        return false;
    n->resends -= n->resends > 0;
    n->resent_ms = now;
    return true;
}

void tp_reply_note_answer(node *n)
{
    n->resends += n->resends < RESENDS_MAX ? 2 : 0;
}

unsigned tp_reply_most_chunks(const node *n)
{
    double ahead = n->chunk_ns > 0 ? AHEAD_NS / n->chunk_ns : 1;
    if (n->chunk_ns >= SHORT_NS)
        return n->slots;
    ahead = ahead < 1 ? 1 : ahead > AHEAD_MAX ? AHEAD_MAX : ahead;
    return n->slots + (unsigned)(n->slots * ahead);
}

/* How many chunks of a session may come directly: none while they take long, since what is lost on
 * the way, or with its worker, is run again. Those that have work share. */
static unsigned offers(const node *n)
{
    unsigned sessions = 0;
    const uint64_t now = tp_node_now_ms();
    for (const session *s = n->sessions; s; s = s->next)
        sessions += now < s->busy_ms + BUSY_MS;
    unsigned most = tp_reply_most_chunks(n) / (sessions ? sessions : 1);
    const bool takes = !n->is_leaving && n->chunk_ns < SHORT_NS && now >= n->unable_ms;
    return !takes ? 0 : most ? most : 1;
}

/* The chunk that begins when k is over, if it is of the same session; NULL: none does. */
static chunk *next_after(const node *n, const chunk *k)
{
    for (chunk *next = n->chunks; next; next = next->next)
        if (next != k && (next->state == QUEUED || (next->state == RUNNING && next->is_alone)))
            return next->session == k->session && !next->is_alone && next->state == QUEUED ? next
                                                                                          : NULL;
    return NULL;
}

/* Writes and sends the answer, with the name of the chunk that begins now (NULL: none does). */
static void write_answer(node *n, chunk *k, tp_answer a, const void *bytes, size_t len, chunk *next)
{
    tp_buf names = { 0 };
    a.chunk = k->number;
    a.sending = k->sending;
    a.offers = offers(n);
    a.ran_ns = k->begun_ns ? uv_hrtime() - k->begun_ns : 0;
    a.count = k->count;
    a.happened = k->happened_before + k->n_happened + k->n_missing;
    a.run = k->run;
    memcpy(a.worker, n->id_bytes, sizeof a.worker);
    if (next && !next->is_named) {
        tp_node_add_name(n, next, &names);
        next->is_named = names.len > 0;
    }
    a.names = names.len;
    a.ticket = a.kind == TP_ANSWER_DONE ? k->ticket.len : 0;
    tp_buf_clear(&k->message);
    if (tp_buf_add(&k->message, &a, sizeof a) || (len && tp_buf_add(&k->message, bytes, len)) ||
        (a.ticket && tp_buf_add(&k->message, k->ticket.data, k->ticket.len)) ||
        (names.len && tp_buf_add(&k->message, names.data, names.len))) {
        /* no memory: the coordinator must send the chunk again */
        a.kind = TP_ANSWER_BACK;
        a.where = TP_ANSWER_HERE;
        a.size = a.ticket = a.names = 0;
        tp_buf_clear(&k->message);
        tp_buf_add(&k->message, &a, sizeof a);
    }
    tp_buf_free(&names);
    tp_buf_free(&k->records);
    tp_buf_free(&k->payload);
    k->is_unsent = false;
    if (k->is_direct && k->is_short && a.where == TP_ANSWER_HERE)
        send_directly(n, k);
    else
        tp_reply_send(n, k);
}

/* Sends a large result, or values, to the coordinator itself, piece by piece. */
static bool send_pieces(node *n, const chunk *k, const tp_buf *bytes)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.piece", k->session->hex);
    for (size_t at = 0; at < bytes->len; at += TP_BLOB_PIECE) {
        size_t size = bytes->len - at < TP_BLOB_PIECE ? bytes->len - at : TP_BLOB_PIECE;
        tp_direct head = { .chunk = k->number, .at = at, .sending = k->sending };
        tp_buf piece = { 0 };
        bool is_taken = false;
        tp_node_stay(n);
        if (tp_buf_add(&piece, &head, sizeof head) == 0 &&
            tp_buf_add(&piece, bytes->data + at, size) == 0) {
            tp_nats_event *e = tp_nats_ask(&n->nats, subject, piece.data, piece.len, PIECE_MS);
            is_taken = e && e->status == 0 && e->len == 1 && *e->data == '+';
            tp_nats_free(&n->nats, e);
        }
        tp_buf_free(&piece);
        if (!is_taken)
            return false;
    }
    return true;
}

bool tp_reply_send_large(node *n, const chunk *k, const tp_buf *bytes, uint8_t *digest,
                       uint32_t *where)
{
    tp_error err = { 0 };
    tp_blake2b_hash(digest, TP_DIGEST_BYTES, bytes->data, bytes->len);
    tp_blob b = tp_blob_of_result(digest, bytes->len, k->number, k->sending);
    *where = tp_blob_put(&n->nats, k->session->hex, &b, bytes->data,
                         &(tp_between){ tp_node_stay, n }, &err) == TP_NATS_STORED
                 ? TP_ANSWER_BLOB
                 : TP_ANSWER_DIRECT;
    tp_blob_free(&b);
    return *where == TP_ANSWER_BLOB || send_pieces(n, k, bytes);
}

/* Sends a large result; when it cannot be sent it is tried again later. */
static void deliver(node *n, chunk *k, chunk *next)
{
    tp_answer a = { .kind = TP_ANSWER_DONE, .size = k->records.len };
    k->is_unsent = true;
    k->again_ms = tp_node_now_ms() + AGAIN_MS;
    if (tp_reply_send_large(n, k, &k->records, a.digest, &a.where))
        write_answer(n, k, a, "", 0, next);
}

void tp_reply_give(node *n, chunk *k, tp_answer_kind kind, const void *bytes, size_t len)
{
    chunk *next = k->state == RUNNING && !n->is_leaving ? next_after(n, k) : NULL;
    k->is_short = k->state == RUNNING && uv_hrtime() - k->begun_ns < SHORT_NS;
    if (k->told != TP_TELLS_NOTHING) {
        tp_telling_sort(n, k->session, k);
        tp_telling_send(n, k, true);
    }
    tp_node_stop(k);
    k->state = ANSWERED;
    if (k->told != TP_TELLS_NOTHING)
        tp_telling_follow(n, k->session);
    const bool goes_directly = n->devices && k->is_direct && k->is_short;
    if (len > (goes_directly ? TP_KERNEL_INLINE : TP_RESULT_INLINE))
        deliver(n, k, next);
    else
        write_answer(n, k, (tp_answer){ .kind = kind, .size = len }, bytes, len, next);
}

void tp_reply_give_back(node *n, chunk *k)
{
    tp_reply_give(n, k, TP_ANSWER_BACK, "", 0);
}

void tp_reply_send_again(node *n, chunk *k)
{
    if (k->is_unsent)
        deliver(n, k, NULL);
    else
        tp_reply_send(n, k);
}
