/* values.c: what items on a cluster give while they run. */
#include "cluster/coordinator/values.h"

#include "cluster/coordinator/coordinator.h"
#include "cluster/coordinator/flights.h"
#include "cluster/coordinator/returns.h"

#include <stdio.h>
#include <string.h>

/* Says how many values the item may give; with `answers` in any case, else when they are more.
 * An item that waits has given up its permit, and goes on when it has one again. */
static void allow(cluster *c, flight *l, bool answers)
{
    char text[64];
    uint64_t values;
    tp_slice *s = l->slice;
    if (!tp_slice_allow(s, &values)) {
        if (!s->work.sink->is_cancelled(&s->work)) /* an earlier item has failed */
            tp_flight_fail(l, TP_KIND_CANCELLED, "nobody reads these values any more");
        tp_flight_end_unwanted(c, l);
        return;
    }
    if (values > l->allowed && (!l->is_full || tp_slice_take_permit(s, 0))) {
        l->allowed = values;
        answers = true;
        if (l->agent.is_blocked)
            tp_fleet_note_move(c);
        tp_fleet_set_full(c, l, false);
    }
    if (!answers || !l->is_bound)
        return;
    int len = snprintf(text, sizeof text, "%llu %llu", (unsigned long long)s->emitted,
                       (unsigned long long)l->allowed);
    tp_nats_publish(&c->server.nats, l->listener, NULL, text, (size_t)len);
}

void tp_values_allow_all(cluster *c)
{
    for (unsigned i = 0; i < c->fleet.n_flights && c->fleet.n_streams > 0; i++) {
        flight *l = &c->fleet.flights[i];
        if (l->slice && l->count && l->slice->work.terms->streams)
            allow(c, l, false);
    }
}

/* Reads the values of a message. False with err set: they are not there, or wrong. */
static bool read_values(cluster *c, flight *l, const tp_part *head, const char *bytes, size_t len,
                        tp_error *err)
{
    if (head->where == TP_ANSWER_HERE)
        return tp_returns_read(l, bytes, 0, len, err);
    tp_buf blob = { 0 };
    tp_blob b = tp_blob_of_result(head->digest, head->size, l->chunk, l->sending);
    bool is_right = head->size <= TP_PAYLOAD_MAX &&
                    tp_returns_fetch(c, l, &b, head->where, &blob, err) == 0 &&
                    tp_returns_read(l, blob.data, 0, blob.len, err);
    tp_blob_drop(&c->server.nats, &b);
    tp_buf_free(&blob);
    return is_right;
}

void tp_values_take(cluster *c, const tp_nats_event *e)
{
    tp_part head;
    tp_error why = { 0 };
    if (e->len < sizeof head || strlen(e->reply) >= TP_SUBJECT_MAX ||
        strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0)
        return;
    memcpy(&head, e->data, sizeof head);
    flight *l = tp_fleet_find(c, head.chunk, head.sending);
    if (!l || !l->slice->work.terms->streams ||
        (l->is_bound && !tp_fleet_streams(l, head.worker, head.run))) {
        tp_nats_publish(&c->server.nats, e->reply, NULL, "over", 4);
        return;
    }
    tp_work *w = &l->slice->work;
    l->is_bound = true;
    l->streamer_run = head.run;
    memcpy(l->streamer, head.worker, sizeof head.worker);
    snprintf(l->listener, sizeof l->listener, "%s", e->reply);
    l->held_ns = uv_hrtime();
    uint64_t given = l->slice->emitted;
    if (head.from == given && head.count > 0) {
        uint32_t at = w->at;
        bool is_right = head.count <= l->allowed - given &&
                        read_values(c, l, &head, e->data + sizeof head, e->len - sizeof head,
                                    &why);
        given = l->slice->emitted;
        bool is_wanted = !tp_work_is_asked_to_stop(w);
        /* what is not there any more is sent, and said, again */
        if (!is_right && head.where != TP_ANSWER_HERE && given == head.from &&
            why.code == TP_ESYS)
            return;
        if (is_wanted && (!is_right || w->at != at || given != head.from + head.count)) {
            if (why.code == TP_EMEMORY)
                w->sink->starve(w);
            else if (w->at == at)
                tp_flight_fail(l, TP_KIND_CRASH,
                               "a worker of the cluster cannot be used: what it has sent "
                               "are no values");
            tp_flight_end_unwanted(c, l);
            return;
        }
    }
    if (head.is_full && !l->is_full && head.from + head.count == l->slice->emitted &&
        l->slice->emitted == l->allowed) {
        tp_fleet_set_full(c, l, true);
        w->sink->release_permit(w);
    }
    allow(c, l, true);
}
