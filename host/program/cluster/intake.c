/* intake.c: what comes in at a cluster's worker. */
#include "program/cluster/intake.h"

#include "base/blake2b.h"
#include "program/cluster/chunks.h"
#include "program/cluster/replies.h"
#include "program/cluster/sessions.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIVE_BEATS = 5 }; /* how often a session is asked whether it lives */

static void drop(node *n, const tp_nats_event *e, const char *why)
{
    n->dropped++;
    tp_node_say("dropped a message: %s (%llu so far)", why, (unsigned long long)n->dropped);
    if (strncmp(e->reply, "$JS.ACK.", 8) == 0)
        tp_nats_publish(&n->nats, e->reply, NULL, "+TERM", 5);
}

/* What is wrong with a message of work; NULL: it is what its coordinator has sent. */
static const char *trouble_with(const node *n, const tp_nats_event *e, bool is_direct,
                                tp_sealed *head)
{
    uint8_t digest[TP_DIGEST_BYTES];
    char subject[TP_SUBJECT_MAX], hex[TP_ID_TEXT];
    size_t begin = TP_SIGNATURE_BYTES + sizeof *head;
    if (e->len < begin)
        return "it is too short";
    memcpy(head, e->data + TP_SIGNATURE_BYTES, sizeof *head);
    if (memcmp(head->magic, TP_SEALED_MAGIC, sizeof head->magic) != 0)
        return "it is no work";
    if (memcmp(head->key, n->signer.public_key, sizeof head->key) != 0)
        return "it is signed with another key than this worker's token names";
    if (!tp_signer_verify(&n->signer, (const uint8_t *)e->data, head, sizeof *head))
        return "its signature is wrong";
    if (memcmp(head->build, n->build.id, sizeof head->build) != 0)
        return "it is of another build";
    tp_to_hex(hex, head->session, sizeof head->session);
    tp_protocol_name_work(subject, n->build.hex, hex, head->chunk, head->sending);
    if (!is_direct && strcmp(subject, e->subject) != 0)
        return "it is not where it was sent to";
    if (head->size > TP_PAYLOAD_MAX || e->len - begin != (head->is_blob ? 0 : head->size))
        return "it is longer or shorter than it says";
    tp_blake2b_hash(digest, sizeof digest, e->data + begin, e->len - begin);
    if (!head->is_blob && memcmp(digest, head->digest, sizeof digest) != 0)
        return "its payload is not what was signed";
    return NULL;
}

static bool is_cancelled(const node *n, const session *s, uint64_t number)
{
    for (unsigned i = 0; i < CANCELLED; i++)
        if (n->cancelled[i].session == s && n->cancelled[i].chunk == number)
            return true;
    return false;
}

static void take_work(node *n, const tp_nats_event *e, bool is_direct)
{
    tp_sealed head;
    char hex[TP_ID_TEXT];
    const char *trouble = trouble_with(n, e, is_direct, &head);
    if (trouble) {
        drop(n, e, trouble);
        return;
    }
    tp_to_hex(hex, head.session, sizeof head.session);
    session *s = tp_session_find(n, hex);
    chunk *k = s ? tp_node_find_chunk(n, s, head.chunk) : NULL;
    /* not wanted any more, or sent anew since */
    if (s && (is_cancelled(n, s, head.chunk) || (k && k->sending > head.sending))) {
        tp_node_acknowledge_at(n, e->reply, "+TERM");
        return;
    }
    if (k && k->sending == head.sending) { /* the same sending again: it was taken for lost */
        if (!is_direct)
            snprintf(k->ack, sizeof k->ack, "%s", e->reply);
        k->is_direct &= is_direct;
        return;
    }
    if (k) /* sent anew: nobody waits for the earlier sending any more */
        tp_node_forget(n, k);
    s = s ? s : tp_session_open(n, head.session, hex);
    k = s ? calloc(1, sizeof *k) : NULL;
    if (!k || tp_buf_add(&k->message, e->data + TP_SIGNATURE_BYTES,
                         e->len - TP_SIGNATURE_BYTES)) {
        free(k);
        tp_node_acknowledge_at(n, e->reply, "-NAK");
        return;
    }
    k->session = s;
    k->number = head.chunk;
    k->run = ++n->runs;
    k->sending = head.sending;
    k->is_direct = k->is_named = is_direct;
    if (!is_direct)
        snprintf(k->ack, sizeof k->ack, "%s", e->reply);
    k->progress_ms = tp_node_now_ms() + PROGRESS_MS;
    chunk **end = &n->chunks;
    while (*end)
        end = &(*end)->next;
    *end = k;
    if (n->is_leaving)
        tp_reply_give_back(n, k);
    else if (s->is_alive)
        tp_chunk_enqueue(n, k);
}

static void take_alive(node *n, session *s, const tp_nats_event *e)
{
    tp_signed_alive a;
    if (e->len != sizeof a)
        return; /* nobody answers (503), or the answer is malformed */
    memcpy(&a, e->data, sizeof a);
    if (!tp_signer_verify(&n->signer, a.signature, &a.alive, sizeof a.alive) ||
        memcmp(a.alive.magic, TP_ALIVE_MAGIC, sizeof a.alive.magic) != 0 ||
        memcmp(a.alive.session, s->id, TP_ID_BYTES) != 0 ||
        memcmp(a.alive.build, n->build.id, TP_ID_BYTES) != 0 || s->tries == 0 ||
        memcmp(a.alive.nonce, s->nonce, TP_ID_BYTES) != 0) {
        drop(n, e, "it is no answer of that coordinator's");
        return;
    }
    s->tries = 0;
    s->ask_ms = tp_node_now_ms() + ALIVE_BEATS * n->beat_ms;
    bool is_new = !s->is_alive;
    s->is_alive = true;
    for (chunk *k = n->chunks; k && is_new; k = k->next)
        if (k->session == s && k->state == WAITING)
            tp_chunk_enqueue(n, k);
}

static void take_control(node *n, const char *whose, const char *data, size_t len)
{
    char text[40];
    unsigned long long number;
    snprintf(text, sizeof text, "%.*s", (int)(len < 39 ? len : 39), data);
    if (strcmp(whose, "all") == 0 && sscanf(text, "beat %llu", &number) == 1) {
        n->beat_ms = number < TP_BEAT_MS ? TP_BEAT_MS : number;
        n->beat_ms = n->beat_ms < TP_BEAT_MAX_MS ? n->beat_ms : TP_BEAT_MAX_MS;
        n->beat_until_ms = tp_node_now_ms() + TP_BEAT_KEPT_MS;
        return;
    }
    if (strcmp(whose, "all") == 0 && strcmp(text, "devices") == 0) {
        n->wants_devices = true;
        return;
    }
    if (strcmp(whose, "all") == 0) {
        n->heartbeat_ms = 0;
        tp_chunks_reset_pulls(n, 0); /* they may have been lost while there was no consumer */
        return;
    }
    session *s = tp_session_find(n, whose);
    if (s && s->host && strcmp(text, "stuck") == 0) {
        tp_engine_give_up(s->host->engine);
    } else if (s && strcmp(text, "over") == 0) {
        tp_session_close(n, s);
    } else if (s && sscanf(text, "cancel %llu", &number) == 1) {
        unsigned at = n->n_cancelled++ % CANCELLED;
        n->cancelled[at].session = s;
        n->cancelled[at].chunk = number;
        chunk *k = tp_node_find_chunk(n, s, number);
        if (k) {
            tp_node_acknowledge(n, k, "+TERM");
            tp_node_forget(n, k);
        }
    }
}

/* The server has a result, or had one already; or its coordinator has it. */
static void take_acknowledgement(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT], why[120];
    unsigned long long number;
    unsigned sending;
    if (sscanf(rest, "%32[0-9a-f].%llu.%u", hex, &number, &sending) != 3)
        return;
    session *s = tp_session_find(n, hex);
    chunk *k = s ? tp_node_find_chunk(n, s, number) : NULL;
    if (!k || k->state != ANSWERED || k->is_unsent || k->sending != sending)
        return;
    tp_nats_stored stored = tp_nats_is_stored(e, why, sizeof why);
    tp_reply_note_answer(n);
    n->losses = 0;
    /* the stream is full, but the coordinator listens too: it has the result, or will answer when
     * it is sent again */
    if (stored == TP_NATS_FULL)
        k->again_ms = tp_node_now_ms() + LOOK_MS;
    if (stored != TP_NATS_STORED)
        return;
    if (!*k->ack || !tp_chunks_pull(n, tp_node_now_ms(), k->ack))
        tp_node_acknowledge(n, k, "+ACK");
    tp_node_forget(n, k);
}

/* There is no stream yet for something that was published; or a coordinator is dead that was asked
 * whether it lives. */
static void wait_for_streams(node *n)
{
    for (const session *s = n->sessions; s; s = s->next)
        if (s->tries)
            return;
    tp_chunks_reset_pulls(n, tp_node_now_ms() + LOOK_MS);
}

/* Work comes with its own subject. */
static void take_pulled(node *n, const tp_nats_event *e)
{
    tp_chunks_note_pulled(n);
    if (strncmp(e->reply, "$JS.ACK.", 8) == 0)
        take_work(n, e, false);
}

/* What the coordinator has said of an item's values. */
static void take_allowance(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT], text[64];
    unsigned long long number;
    unsigned sending;
    if (e->status != 0 || sscanf(rest, "%32[0-9a-f].%llu.%u", hex, &number, &sending) != 3)
        return;
    session *s = tp_session_find(n, hex);
    chunk *k = s ? tp_node_find_chunk(n, s, number) : NULL;
    if (!k || k->state != RUNNING || !k->streams || k->sending != sending)
        return;
    snprintf(text, sizeof text, "%.*s", (int)(e->len < 63 ? e->len : 63), e->data);
    tp_chunk_take_allowance(n, k, text);
}

/* The answer to what was asked of a Dict, Queue or permit. */
static void take_store_answer(node *n, const char *rest, const tp_nats_event *e)
{
    char hex[TP_ID_TEXT];
    unsigned long long number;
    if (e->status != 0 || sscanf(rest, "%32[0-9a-f].%llu", hex, &number) != 2)
        return;
    session *s = tp_session_find(n, hex);
    if (s)
        tp_far_stores_take(s, number, e->data, e->len);
}

void tp_intake_take(node *n, const tp_nats_event *e)
{
    size_t inbox = strlen(n->inbox), ctl = strlen(TP_SUBJECT_CTL);
    if (e->kind == TP_NATS_LOST) {
        n->is_lost = true;
        if (++n->losses == TP_LOSSES)
            tp_node_say("its connection to the engine at %s is lost again and again (%d times, and "
                        "no result has got through meanwhile)",
                        n->options->engine, TP_LOSSES);
    }
    if (e->kind == TP_NATS_CLOSED)
        n->is_refused = true;
    if (e->kind == TP_NATS_BACK) {
        n->is_lost = false;
        n->heartbeat_ms = 0;
        tp_chunks_reset_pulls(n, 0);
        n->resends = 1; /* what was on its way is due at once, one after the other at first */
        n->resent_ms = 0;
        for (chunk *k = n->chunks; k; k = k->next)
            k->again_ms = 0;
    }
    if (e->kind != TP_NATS_MESSAGE)
        return;
    if (!*e->subject) {
        wait_for_streams(n);
    } else if (strncmp(e->subject, TP_SUBJECT_CTL, ctl) == 0) {
        take_control(n, e->subject + ctl, e->data, e->len);
    } else if (strncmp(e->subject, n->inbox, inbox) == 0) {
        const char *rest = e->subject + inbox;
        if (strncmp(rest, ".p.", 3) == 0) {
            tp_chunks_end_pull(n, atoi(rest + 3));
        } else if (strcmp(rest, ".d") == 0) {
            take_work(n, e, true);
        } else if (strncmp(rest, ".a.", 3) == 0) {
            take_acknowledgement(n, rest + 3, e);
        } else if (strncmp(rest, ".v.", 3) == 0) {
            take_allowance(n, rest + 3, e);
        } else if (strncmp(rest, ".q.", 3) == 0) {
            take_store_answer(n, rest + 3, e);
        } else if (strncmp(rest, ".s.", 3) == 0) {
            session *s = tp_session_find(n, rest + 3);
            if (s)
                take_alive(n, s, e);
        }
    } else {
        take_pulled(n, e);
    }
}
