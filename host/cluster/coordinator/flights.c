/* flights.c: chunks on their way: sent, asked for, sent again, lost, and ended. */
#include "cluster/coordinator/flights.h"

#include "cluster/coordinator/coordinator.h"
#include "cluster/coordinator/packing.h"
#include "cluster/protocol.h"

#include <stdio.h>
#include <string.h>

enum {
    CHECK_MAX_S = 16,       /* a chunk is asked for after CHECK_NS, then twice that, up to this */
    CHECKS_A_SECOND = 1000, /* of all chunks that are under way: later when they are more */
    /* after so many payloads that the server has not acknowledged none is expected to be */
    SILENT_MAX = 12,
    DEATHS_MAX = 5, /* a chunk fails when so many workers that had it have died */
    SENDINGS = 50   /* a chunk that was given back so often fails */
};

void tp_flight_leave_taker(flight *l)
{
    if (!l->taker)
        return;
    l->taker->out--;
    l->taker = NULL;
    l->held_ns = 0;
}

static void forget_chunk(cluster *c, flight *l)
{
    tp_flight_leave_taker(l);
    tp_fleet_set_full(c, l, false);
    tp_fleet_set_blocked(c, l, false);
    l->is_bound = l->is_grounded = false;
    tp_fleet_set_shortage(c, l, NO_SHORTAGE);
    tp_lanes_end(&l->box, c->engine, 0);
    l->held_ns = 0;
    l->is_taken = false;
    tp_buf_free(&l->direct);
    for (uint32_t i = 0; i < l->permits.n; i++)
        tp_func_release_permit(c->engine, (tp_func *)(void *)l->permits.refs[i]);
    tp_parcel_refs_free(&l->permits);
    tp_packing_drop(c, l);
}

/* After what time a chunk that was sent now is asked for. */
static uint64_t patience(const cluster *c)
{
    const uint64_t shared_ns = c->fleet.in_flight * (1000000000ull / CHECKS_A_SECOND);
    return shared_ns > CHECK_NS ? shared_ns : CHECK_NS;
}

void tp_flight_publish(cluster *c, flight *l, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    tp_flight_leave_taker(l);
    tp_protocol_name_work(subject, c->server.build.hex, c->server.session_hex, l->chunk,
                          l->sending);
    snprintf(reply, sizeof reply, "%s.w.%llu.%u", c->server.inbox, (unsigned long long)l->chunk,
             l->sending);
    tp_nats_publish(&c->server.nats, subject, reply, l->message.data, l->message.len);
    l->check_ns = now + l->patience_ns;
}

/* Sends the chunk to its taker. */
static void send_directly(cluster *c, const flight *l)
{
    char subject[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, "%s.d", l->taker->inbox);
    tp_nats_publish(&c->server.nats, subject, NULL, l->message.data, l->message.len);
}

/* It is at that worker now. */
static void set_taker(flight *l, worker *w)
{
    l->taker = w;
    w->out++;
    l->ack[0] = '\0';
}

void tp_flight_dispatch_kernel(cluster *c, flight *l)
{
    uint64_t now = uv_hrtime();
    worker *w = l->taker ? l->taker : tp_sites_choose(c, l, now);
    l->is_grounded = !w;
    l->check_ns = w ? now + l->patience_ns : UINT64_MAX;
    if (!w)
        return;
    if (!l->taker) {
        set_taker(l, w);
        l->sent_ns = now;
    }
    send_directly(c, l);
}

/* Sends a chunk: directly if it is small, not sent before, and somebody takes it. What a journal
 * records stays at the server until it is recorded, also when this process dies. */
static void dispatch(cluster *c, flight *l)
{
    uint64_t now = uv_hrtime();
    bool is_possible = l->sending == 1 && l->message.len <= TP_DIRECT_BYTES && l->blob.size == 0 &&
                       !tp_job_recorder(l->slice->job) && !l->slice->work.terms->streams;
    if (l->agent.site) {
        tp_flight_dispatch_kernel(c, l);
        return;
    }
    worker *w = is_possible && !c->server.has_lost ? tp_crew_choose(c, now) : NULL;
    if (l->sending == 1)
        l->sent_ns = now;
    if (!w) {
        tp_flight_publish(c, l, now);
        return;
    }
    set_taker(l, w);
    l->check_ns = now + l->patience_ns;
    send_directly(c, l);
}

void tp_flight_check(cluster *c, flight *l, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    tp_protocol_name_result(subject, "$JS.API.DIRECT.GET." TP_STREAM_R ".", c->server.session_hex,
                            l->chunk, l->sending);
    snprintf(reply, sizeof reply, "%s.g.%llu.%u", c->server.inbox, (unsigned long long)l->chunk,
             l->sending);
    tp_nats_publish(&c->server.nats, subject, reply, "", 0);
    if (l->patience_ns < CHECK_MAX_S * 1000000000ull)
        l->patience_ns *= 2;
    l->check_ns = now + l->patience_ns;
}

void tp_flight_end(cluster *c, flight *l)
{
    forget_chunk(c, l);
    l->is_narrow = false;
    tp_job_finish(tp_fleet_give_slice(c, l));
}

void tp_flight_fail(flight *l, tp_failure_kind kind, const char *message)
{
    tp_work *w = &l->slice->work;
    tp_block *b =
        tp_block_new_failure(kind, message, w->attempt, l->agent.worker.index);
    if (b)
        b->may_retry = tp_failure_kind_may_retry(kind);
    tp_work_fail(w, b);
}

/* Publishes the flight's chunk, or has it wait until the server has room, or is back. -1 with err
 * set: the chunk cannot be sent. */
static int launch(cluster *c, flight *l, tp_error *err)
{
    tp_fleet_set_shortage(c, l, NO_SHORTAGE);
    /* no permit is left after a worker has died whose item had released its permit while it
     * waited */
    if (l->slice->work.terms->is_limited && !tp_slice_take_permit(l->slice, 0)) {
        c->fleet.why = (tp_error){ 0 };
        tp_fleet_set_shortage(c, l, WAITING);
        return 0;
    }
    if (tp_packing_seal(c, l, err) == 0) {
        dispatch(c, l);
        return 0;
    }
    if (c->packing.trouble == TP_NATS_STORED || c->packing.trouble == TP_NATS_REFUSED ||
        c->packing.silent > SILENT_MAX ||
        (c->packing.trouble == TP_NATS_NOWHERE && tp_server_ensure(c, err)))
        return -1;
    c->fleet.why = *err;
    tp_fleet_set_shortage(c, l, WAITING);
    return 0;
}

void tp_flight_advance(cluster *c, flight *l)
{
    tp_work *w = &l->slice->work;
    forget_chunk(c, l);
    if (w->block->kind == TP_BLOCK_FAILURE && w->at < tp_work_end(w))
        tp_work_pass_failure(w);
    while (w->at < tp_work_end(w) && !tp_work_is_asked_to_stop(w) && !w->sink->is_cancelled(w)) {
        tp_error err = { 0 };
        l->chunk = c->fleet.turns++ * FLIGHTS + (uint64_t)(l - c->fleet.flights);
        l->sending = 1;
        l->deaths = 0;
        l->patience_ns = patience(c);
        if (launch(c, l, &err) == 0)
            return;
        tp_flight_fail(l, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
    }
    tp_flight_end(c, l);
}

/* The item cannot be run anew. */
static void fail_given(cluster *c, flight *l)
{
    char id[TP_ID_TEXT], message[200];
    tp_to_hex(id, l->streamer, sizeof l->streamer);
    const worker *w = tp_crew_find(c, id);
    snprintf(message, sizeof message,
             "the worker of the cluster that ran it, on %s, is gone, and some of its values were "
             "read",
             w ? w->host : "another machine");
    tp_flight_fail(l, TP_KIND_CRASH, message);
    tp_flight_advance(c, l);
}

void tp_flight_send_again(cluster *c, flight *l)
{
    tp_error err = { 0 };
    uint32_t sending = l->sending + 1;
    if (!tp_slice_take_back(l->slice)) {
        fail_given(c, l);
        return;
    }
    if (l->slice->work.at == tp_work_end(&l->slice->work)) { /* all results have come early */
        tp_flight_advance(c, l);
        return;
    }
    if (sending > SENDINGS) {
        char message[600];
        snprintf(message, sizeof message,
                 "the cluster could not carry it: its workers gave it back again and again%s%s",
                 *c->fleet.unable ? "; the last one: " : "", c->fleet.unable);
        tp_flight_fail(l, TP_KIND_RESOURCE, message);
        tp_flight_advance(c, l);
        return;
    }
    tp_packing_store_again(c, l);
    forget_chunk(c, l);
    l->sending = sending;
    if (launch(c, l, &err)) {
        tp_flight_fail(l, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
        tp_flight_advance(c, l);
    }
}

void tp_flight_lose(cluster *c, flight *l)
{
    tp_work *w = &l->slice->work;
    if (*l->ack)
        tp_nats_publish(&c->server.nats, l->ack, NULL, "+TERM", 5);
    l->deaths += !l->is_full; /* one that waits has no part in it */
    /* of several items nobody knows which has killed the workers */
    const uint32_t end = l->first + l->count;
    if (l->deaths >= DEATHS_ALONE && end - w->at > tp_packing_least_count(w)) {
        l->is_narrow = true;
        tp_flight_advance(c, l);
    } else if (l->deaths < DEATHS_MAX) {
        tp_flight_send_again(c, l);
    } else {
        while (w->at < end) {
            char message[120];
            snprintf(message, sizeof message, "input %.0f: %d workers of the cluster died with it",
                     (double)(w->terms->base + w->block->first + w->at + 1), DEATHS_MAX);
            tp_flight_fail(l, TP_KIND_CRASH, message);
        }
        tp_flight_advance(c, l);
    }
}

void tp_flight_lose_streamer(cluster *c, const flight *of)
{
    uint8_t dead[TP_ID_BYTES];
    memcpy(dead, of->streamer, sizeof dead);
    for (int is_last = 0; is_last < 2; is_last++)
        for (unsigned i = 0; i < c->fleet.n_flights; i++) {
            flight *l = &c->fleet.flights[i];
            if (!l->is_bound || memcmp(l->streamer, dead, sizeof dead) != 0)
                continue;
            if (is_last)
                tp_flight_lose(c, l);
            else
                tp_slice_take_back(l->slice);
        }
}

void tp_flight_lose_worker(cluster *c, const worker *dead)
{
    for (unsigned i = 0; i < c->fleet.n_flights; i++) {
        flight *l = &c->fleet.flights[i];
        unsigned before = 0;
        for (unsigned k = 0; k < c->fleet.n_flights && l->taker == dead; k++)
            before += c->fleet.flights[k].taker == dead && c->fleet.flights[k].chunk < l->chunk;
        l->has_begun = l->taker == dead && (l->agent.site || before < dead->slots);
    }
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].taker != dead)
            continue;
        else if (c->fleet.flights[i].has_begun)
            tp_flight_lose(c, &c->fleet.flights[i]);
        else
            tp_flight_send_again(c, &c->fleet.flights[i]);
}

void tp_flight_end_unwanted(cluster *c, flight *l)
{
    char text[40];
    snprintf(text, sizeof text, "cancel %llu", (unsigned long long)l->chunk);
    tp_server_tell(c, text);
    tp_flight_end(c, l);
}

void tp_flight_give_up(cluster *c, flight *l, const char *why)
{
    tp_error err = { 0 };
    tp_error_set(&err, TP_EUSAGE, "a worker of the cluster refuses the work: %s", why);
    tp_job_give_up(l->slice->job, &err);
    tp_flight_end(c, l);
}

/* No chunk is under way: makes all the room that this session can make. */
static void empty(cluster *c)
{
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].shortage == REFUSED) {
            forget_chunk(c, &c->fleet.flights[i]);
            tp_fleet_set_shortage(c, &c->fleet.flights[i], WAITING);
        }
    tp_packing_remove_all(c);
    if (!c->fleet.is_emptied)
        c->fleet.short_ns = uv_hrtime(); /* removing takes its time, as storing did before */
    c->fleet.is_emptied = true;
}

/* How many messages there are at the server. -1: it does not say. Blocks. */
static long long count_all(cluster *c)
{
    static const char *const streams[] = { TP_STREAM_W, TP_STREAM_R, TP_STREAM_B };
    long long all = 0;
    for (int i = 0; i < 3; i++) {
        long long n = tp_server_count(c, streams[i]);
        if (n < 0)
            return -1;
        all += n;
    }
    return all;
}

/* The chunk was refused although nothing else of this session is at the server: it fails, unless
 * messages of other sessions may be what takes the room. */
static void despair(cluster *c, flight *l, uint64_t now)
{
    char text[500];
    empty(c);
    long long others = c->fleet.why.code == TP_ELIMIT ? count_all(c) : -1;
    if (others == 0) {
        forget_chunk(c, l);
        tp_flight_fail(l, TP_KIND_RESOURCE, c->fleet.why.message);
        c->fleet.is_emptied = false;
        tp_flight_advance(c, l);
    } else if (others > 0 && now > c->fleet.short_ns + ALONE_S * 1000000000ull &&
               !c->fleet.has_said_full) {
        c->fleet.has_said_full = true;
        snprintf(text, sizeof text,
                 "tidepool: the engine at %.200s is full, and not of this script's: the work goes "
                 "on when there is room (`tidepool engine gc` removes what killed scripts left)\n",
                 c->base.host->config.engine);
        tp_cluster_say(c, text);
    }
}

void tp_flight_retry_short(cluster *c, uint64_t now)
{
    if (c->fleet.n_short == 0 || c->server.has_lost || now < c->fleet.retry_ns)
        return;
    c->fleet.short_ns = c->fleet.short_ns ? c->fleet.short_ns : now;
    flight *first = NULL;
    bool has_chunks = false;
    for (unsigned i = 0; i < c->fleet.n_flights; i++) {
        flight *l = &c->fleet.flights[i];
        has_chunks |= l->slice && l->shortage == NO_SHORTAGE;
        if (l->shortage != NO_SHORTAGE && (!first || l->chunk < first->chunk))
            first = l;
    }
    if (!has_chunks && c->fleet.is_emptied)
        despair(c, first, now);
    else if (!has_chunks)
        empty(c);
    for (bool is_sent = true; is_sent && c->fleet.n_short > 0;) {
        tp_error err = { 0 };
        first = NULL;
        for (unsigned i = 0; i < c->fleet.n_flights; i++)
            if (c->fleet.flights[i].shortage == WAITING &&
                (!first || c->fleet.flights[i].chunk < first->chunk))
                first = &c->fleet.flights[i];
        is_sent = first && !c->fleet.is_emptied; /* tried alone */
        if (first && launch(c, first, &err)) {
            tp_flight_fail(first, tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message);
            tp_flight_advance(c, first);
        }
        is_sent &= first && first->shortage == NO_SHORTAGE;
    }
    c->fleet.retry_ns = uv_hrtime() + RETRY_NS;
}

void tp_flight_refuse(cluster *c, flight *l, const tp_error *why)
{
    c->fleet.why = *why;
    tp_fleet_set_shortage(c, l, REFUSED);
}

void tp_flight_accept(cluster *c, flight *l)
{
    tp_fleet_set_shortage(c, l, NO_SHORTAGE);
    c->fleet.is_emptied = c->fleet.has_said_full = false;
    c->fleet.short_ns = 0;
}

void tp_flight_reset_short(cluster *c)
{
    c->fleet.is_emptied = c->fleet.has_said_full = false;
    c->fleet.short_ns = 0;
}
