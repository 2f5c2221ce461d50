/* returns.c: the results of chunks, and what the server says of chunks. */
#include "cluster/coordinator/returns.h"

#include "cluster/coordinator/coordinator.h"
#include "cluster/coordinator/flights.h"
#include "cluster/coordinator/signs.h"
#include "cluster/happened.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool tp_returns_read(flight *l, const void *bytes, size_t from, size_t len, tp_error *err)
{
    tp_work *w = &l->slice->work;
    /* an aligned copy, with all that the records may refer to */
    char *copy = malloc(len + 8);
    uint32_t n = l->refs.n + l->image->refs.n;
    tp_ref **refs = malloc((n + 1) * sizeof(tp_ref *));
    if (!copy || !refs) {
        free(copy);
        free(refs);
        tp_error_oom(err, "results");
        return false;
    }
    memcpy(copy, bytes, len);
    if (l->refs.n)
        memcpy(refs, l->refs.refs, l->refs.n * sizeof(tp_ref *));
    if (l->image->refs.n)
        memcpy(refs + l->refs.n, l->image->refs.refs, l->image->refs.n * sizeof(tp_ref *));
    tp_wire_given given = { .refs = refs, .n = n };
    tp_wire_reader r = {
        .base = copy, .size = len, .first = l->first, .count = l->count, .at = w->at - l->first,
        .may_reduce = l->may_reduce, .given = &given
    };
    bool is_right = tp_wire_read(&r, w, from, len, err);
    free(copy);
    free(refs);
    return is_right;
}

/* The chunk's records are wrong: its next item fails, if there is one, and the rest is run anew. Of
 * lack of memory here the map is told. */
static void refuse_records(cluster *c, flight *l, const tp_error *why)
{
    tp_work *w = &l->slice->work;
    if (why->code == TP_EMEMORY) {
        w->sink->starve(w);
        tp_flight_end(c, l);
        return;
    }
    if (w->at < l->first + l->count) {
        char message[700];
        snprintf(message, sizeof message, "a worker of the cluster cannot be used: %s",
                 why->message);
        tp_flight_fail(l, TP_KIND_CRASH, message);
    }
    tp_flight_advance(c, l);
}

/* The results of a chunk have come, of `count` items. What those behind have is run anew, if that
 * was not done before. */
static void read_records(cluster *c, flight *l, const void *bytes, size_t len, uint64_t count)
{
    tp_work *w = &l->slice->work;
    tp_error why = { 0 };
    if (count < l->count && count > w->at - l->first)
        l->count = (uint32_t)count;
    bool is_right = len >= l->early && tp_returns_read(l, bytes, l->early, len, &why);
    tp_lanes_end(&l->box, c->engine, w->at - l->first);
    if (is_right && w->at < l->first + l->count) {
        is_right = false;
        tp_error_set(&why, TP_EUSAGE, "it has sent fewer results than it had inputs");
    }
    if (is_right)
        tp_flight_advance(c, l);
    else
        refuse_records(c, l, &why);
}

/* Have results come early of another run than this? Then its records may be others. */
static bool has_other_early(const flight *l, const uint8_t *by, uint64_t run)
{
    return l->has_early &&
           (run != l->early_run || memcmp(by, l->early_by, sizeof l->early_by) != 0);
}

void tp_returns_take_early(cluster *c, const tp_nats_event *e)
{
    tp_early head;
    tp_error why = { 0 };
    if (e->len < sizeof head)
        return;
    memcpy(&head, e->data, sizeof head);
    flight *l = tp_fleet_find(c, head.chunk, head.sending);
    /* of one that is not taken the results come with the answer */
    if (!l || l->slice->work.terms->streams || head.from != l->early ||
        has_other_early(l, head.worker, head.run))
        return;
    tp_work *w = &l->slice->work;
    const size_t len = e->len - sizeof head;
    l->has_early = true;
    l->early_run = head.run;
    memcpy(l->early_by, head.worker, sizeof l->early_by);
    if (len > 0 && !tp_returns_read(l, e->data + sizeof head, 0, len, &why)) {
        refuse_records(c, l, &why);
        return;
    }
    l->early += len;
    tp_slice_hand_over(l->slice, uv_hrtime());
    if (head.end >= l->count || head.end <= w->at - l->first)
        return;
    l->count = head.end;
    if (tp_slice_take_back_rest(l->slice, l->first + head.end))
        w->count = l->first + head.end - w->offset;
}

size_t tp_returns_names_in(const char *data, size_t len, size_t *ticket)
{
    tp_answer a;
    *ticket = 0;
    if (len < sizeof a)
        return 0;
    memcpy(&a, data, sizeof a);
    len -= sizeof a;
    if (a.names > len)
        return 0;
    *ticket = a.ticket <= len - a.names ? a.ticket : 0;
    return a.names;
}

/* An answer says what else its worker takes directly. */
static void take_offers(cluster *c, flight *l, const tp_answer *a)
{
    char id[TP_ID_TEXT];
    uint64_t now = uv_hrtime();
    worker *w = l->taker;
    tp_flight_leave_taker(l);
    if (!w) {
        tp_to_hex(id, a->worker, sizeof a->worker);
        w = tp_crew_find(c, id);
    }
    if (w && a->kind == TP_ANSWER_DONE)
        tp_signs_begin_box(c, l, w, a->ran_ns < now ? now - a->ran_ns : 0);
    if (w && l->box.of == &w->lanes)
        tp_happened_omit(tp_engine_trace(c->engine), &l->box, a->happened, &l->happened);
    if (w && w->is_same && *w->inbox && !w->n_devices)
        tp_crew_set_offers(c, w, a->offers);
}

/* What a chunk's worker says how long it ran is what its items took, without the way there and back
 * and the time in line: so chunks are as large as the items' own time has them, also where workers
 * are busy, or far. More than was waited for is not believed. */
static void note_time(flight *l, uint64_t ran_ns)
{
    const uint64_t most_ns = uv_hrtime() - l->sent_ns;
    l->slice->ran_ns += ran_ns < most_ns ? ran_ns : most_ns;
}

int tp_returns_fetch(cluster *c, flight *l, tp_blob *b, uint32_t where, tp_buf *bytes,
                     tp_error *err)
{
    tp_error ignored = { 0 };
    tp_buf direct = l->direct;
    l->direct = (tp_buf){ 0 };
    /* of what came in pieces directly the first ones may be in the stream: so they are found, to be
     * removed */
    int rc =
        tp_blob_get(&c->server.nats, c->server.session_hex, b, bytes,
                    &(tp_between){ tp_signs_hear, c }, where == TP_ANSWER_BLOB ? err : &ignored);
    if (where != TP_ANSWER_BLOB) {
        tp_buf_free(bytes);
        *bytes = direct;
        direct = (tp_buf){ 0 };
        rc = tp_blob_check(b, bytes, err);
    }
    tp_buf_free(&direct);
    return rc;
}

/* A worker cannot run the flight's function: if that is for its devices, others may. */
static void take_refusal(cluster *c, flight *l, const tp_answer *a, const char *bytes)
{
    char id[TP_ID_TEXT], why[REFUSAL_TEXT], text[REFUSAL_TEXT + 80];
    snprintf(why, sizeof why, "%.*s", (int)(a->size < sizeof why ? a->size : sizeof why), bytes);
    tp_to_hex(id, a->worker, sizeof a->worker);
    worker *w = l->agent.site ? tp_crew_find(c, id) : NULL;
    const bool is_known = w && tp_crew_refusal(w, l->image->digest);
    if (!w || (!is_known && !tp_crew_note_refusal(w, l->image->digest, why, strlen(why)))) {
        tp_flight_give_up(c, l, why);
        return;
    }
    if (!is_known && !tp_sites_refusal(c, l, uv_hrtime())) {
        snprintf(text, sizeof text, "tidepool: a worker of the cluster is not used for this: %s\n",
                 why);
        tp_cluster_say(c, text);
    }
    tp_flight_send_again(c, l);
}

/* A worker says why it gives work back: the user is told, once of each reason in a row. */
static void note_unable(cluster *c, const char *bytes, size_t len)
{
    char why[sizeof c->fleet.unable], text[sizeof why + 80];
    snprintf(why, sizeof why, "%.*s", (int)(len < sizeof why ? len : sizeof why), bytes);
    for (char *p = why; *p; p++)
        *p = (unsigned char)*p < ' ' ? '?' : *p;
    if (!*why || strcmp(why, c->fleet.unable) == 0)
        return;
    memcpy(c->fleet.unable, why, sizeof c->fleet.unable);
    snprintf(text, sizeof text, "tidepool: a worker of the cluster cannot run its work: %s\n", why);
    tp_cluster_say(c, text);
}

void tp_returns_take(cluster *c, flight *l, const char *data, size_t len)
{
    tp_answer a = { 0 };
    tp_error err = { 0 };
    if (len >= sizeof a)
        memcpy(&a, data, sizeof a);
    const char *bytes = data + sizeof a;
    size_t ticket, names = tp_returns_names_in(data, len, &ticket);
    len -= names + ticket;
    if (l->is_bound && !tp_fleet_streams(l, a.worker, a.run))
        return; /* it ran elsewhere, too, or anew, and those values were not taken */
    const bool is_said = a.kind == TP_ANSWER_BACK && a.where == TP_ANSWER_HERE;
    c->server.losses = 0;
    tp_fleet_adapt(c, l);
    take_offers(c, l, &a);
    if (has_other_early(l, a.worker, a.run))
        a.kind = TP_ANSWER_BACK; /* it ran elsewhere, too, or anew: so does the rest */
    note_time(l, a.ran_ns);
    if (len < sizeof a || a.size > TP_PAYLOAD_MAX ||
        (a.where == TP_ANSWER_HERE && a.size != len - sizeof a))
        a.kind = 0;
    if (a.kind == TP_ANSWER_DONE && a.where != TP_ANSWER_HERE) {
        tp_buf blob = { 0 };
        tp_blob b = tp_blob_of_result(a.digest, a.size, l->chunk, l->sending);
        int rc = tp_returns_fetch(c, l, &b, a.where, &blob, &err);
        tp_packing_leave_blob(c, l, &b);
        if (rc == 0)
            read_records(c, l, blob.data, blob.len, a.count);
        else
            tp_flight_send_again(c, l);
        tp_buf_free(&blob);
    } else if (a.kind == TP_ANSWER_DONE) {
        read_records(c, l, bytes, a.size, a.count);
    } else if (a.kind == TP_ANSWER_BACK) {
        note_unable(c, bytes, is_said ? a.size : 0);
        tp_flight_send_again(c, l);
    } else if (a.kind == TP_ANSWER_REFUSED) {
        take_refusal(c, l, &a, bytes);
    } else {
        tp_flight_fail(l, TP_KIND_CRASH,
                       "a worker of the cluster cannot be used: it has sent no result");
        tp_flight_advance(c, l);
    }
}

void tp_returns_take_piece(cluster *c, const tp_nats_event *e)
{
    tp_direct head;
    if (e->len < sizeof head || strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0)
        return;
    memcpy(&head, e->data, sizeof head);
    flight *l = tp_fleet_find(c, head.chunk, head.sending);
    size_t len = e->len - sizeof head;
    if (!l || head.at > l->direct.len || head.at + len > TP_PAYLOAD_MAX)
        return;
    if (head.at == 0)
        tp_buf_clear(&l->direct); /* drops pieces of another worker, too */
    bool is_new = head.at == l->direct.len;
    if (!is_new || tp_buf_add(&l->direct, e->data + sizeof head, len) == 0)
        tp_nats_publish(&c->server.nats, e->reply, NULL, "+", 1);
}

void tp_returns_take_acknowledgement(cluster *c, flight *l, const tp_nats_event *e)
{
    char why[120];
    tp_nats_stored stored = tp_nats_is_stored(e, why, sizeof why);
    if (stored == TP_NATS_STORED) {
        l->is_taken = true;
        tp_flight_accept(c, l);
        return;
    }
    if (stored == TP_NATS_FULL && !l->is_taken) {
        tp_error err = { 0 };
        tp_error_set(&err, TP_ELIMIT,
                     "the engine has no room for %zu bytes of work: its server says \"%s\" "
                     "(max_file_store in its configuration)",
                     l->message.len, why);
        tp_flight_refuse(c, l, &err);
    }
    l->patience_ns = CHECK_NS;
    l->check_ns = uv_hrtime() + RETRY_NS;
}

void tp_returns_take_check(cluster *c, flight *l, const tp_nats_event *e)
{
    if (e->status == 0) {
        tp_returns_take(c, l, e->data, e->len);
        return;
    }
    /* the work is at the server, or its worker seems dead: then it is given up later, not now */
    uint64_t now = uv_hrtime();
    if (l->taker && (now < l->held_ns + tp_crew_beats(c, TP_HELD_BEATS) ||
                      l->taker->seen_ns < l->sent_ns))
        return;
    if (l->agent.site)
        tp_flight_dispatch_kernel(c, l); /* a worker that has it takes no notice */
    else
        tp_flight_publish(c, l, now);
}

void tp_returns_take_direct(cluster *c, const tp_nats_event *e)
{
    tp_answer a;
    if (e->len < sizeof a)
        return;
    memcpy(&a, e->data, sizeof a);
    flight *l = tp_fleet_find(c, a.chunk, a.sending);
    if (l)
        tp_returns_take(c, l, e->data, e->len);
}
