/* carrier.c: the thread of a coordinator. Each of its turns lets items go on, gives idle flights
 * work, looks after those under way, and takes what has come in. */
#include "cluster/coordinator/carrier.h"

#include "base/sigmask.h"
#include "cluster/coordinator/coordinator.h"
#include "cluster/coordinator/flights.h"
#include "cluster/coordinator/returns.h"
#include "cluster/coordinator/signs.h"
#include "cluster/coordinator/values.h"

#include <stdio.h>
#include <string.h>

enum {
    FLIGHTS_LEAST = 4, /* before any worker has shown itself */
    CHECK_BEATS = 2,   /* a chunk is not asked for while its worker has named it within so many */
    STUCK_NS = 2000 * 1000 * 1000, /* all has waited without an end for so long: it is told */
    FLUSH_MS = 1000
};

/* There is no stream for something that was published: makes what is missing, and looks what has
 * become of all work. */
static void find_streams(cluster *c)
{
    if (!tp_server_ensure_again(c))
        return;
    const uint64_t soon = c->server.streams_ns;
    for (unsigned i = 0; i < c->fleet.n_flights; i++) {
        flight *l = &c->fleet.flights[i];
        if (l->count && !l->taker && l->check_ns > soon) {
            l->patience_ns = CHECK_NS;
            l->check_ns = soon;
        }
    }
}

/* The connection is back. What was sent or said while it was lost may be lost, too. */
static void take_back(cluster *c)
{
    tp_error err = { 0 };
    tp_server_set_lost(c, false);
    tp_fleet_note_move(c); /* what was lost is said again */
    tp_server_ensure(c, &err); /* the restarted server may have another disk, without our streams */
    uint64_t now = uv_hrtime();
    tp_crew_excuse(c, now);
    for (unsigned i = 0; i < c->fleet.n_flights; i++) {
        flight *l = &c->fleet.flights[i];
        if (!l->count)
            continue;
        if (!l->agent.site)
            tp_flight_leave_taker(l); /* direct answers may have been lost */
        l->held_ns = l->held_ns ? now : 0;
        l->patience_ns = CHECK_NS / 2;
        tp_flight_check(c, l, now);
    }
}

static void take_event(cluster *c, const tp_nats_event *e)
{
    unsigned long long group, chunk;
    unsigned sending;
    char what;
    size_t inbox = strlen(c->server.inbox), r = strlen(TP_SUBJECT_R),
           s = strlen(c->server.session_hex);
    if (tp_signs_take(c, e))
        return;
    if (e->kind == TP_NATS_LOST)
        tp_server_set_lost(c, true);
    else if (e->kind == TP_NATS_BACK)
        take_back(c);
    if (e->kind != TP_NATS_MESSAGE)
        return;
    if (!*e->subject) {
        find_streams(c);
    } else if (strncmp(e->subject, c->server.inbox, inbox) == 0) {
        flight *l = sscanf(e->subject + inbox, ".%c.%llu.%u", &what, &chunk, &sending) == 3
                      ? tp_fleet_find(c, chunk, sending)
                      : NULL;
        if (l && what == 'w')
            tp_returns_take_acknowledgement(c, l, e);
        else if (l && what == 'g')
            tp_returns_take_check(c, l, e);
    } else if (strncmp(e->subject, TP_SUBJECT_R, r) == 0) {
        const char *rest = strlen(e->subject) > r + s ? e->subject + r + s : "";
        if (strcmp(rest, ".out") == 0) {
            tp_signs_take_output(c, e->data, e->len);
        } else if (strcmp(rest, ".happened") == 0) {
            tp_signs_take_happened(c, e);
        } else if (strcmp(rest, ".part") == 0) {
            tp_values_take(c, e);
        } else if (strcmp(rest, ".early") == 0) {
            tp_returns_take_early(c, e);
        } else if (strcmp(rest, ".piece") == 0) {
            tp_returns_take_piece(c, e);
        } else if (strcmp(rest, ".ask") == 0) {
            tp_questions_take(c, e);
        } else if (strcmp(rest, ".direct") == 0) {
            tp_returns_take_direct(c, e);
        } else if (sscanf(rest, ".%llu.%llu.%u", &group, &chunk, &sending) == 3) {
            size_t ticket, names = tp_returns_names_in(e->data, e->len, &ticket);
            tp_signs_take_held(c, e->data + e->len - names, names);
            flight *l = tp_fleet_find(c, chunk, sending);
            if (l)
                tp_returns_take(c, l, e->data, e->len);
            else if (strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) == 0)
                /* nobody needs this result any more: any answer ends its worker's wait for one */
                tp_nats_publish(&c->server.nats, e->reply, NULL, "{}", 2);
        }
    }
}

/* Ends the slices that nobody wants any more. */
static void end_all_unwanted(cluster *c)
{
    /* flights have agents of their own, and any of them can be asked */
    if (c->fleet.n_flights == 0 || !tp_agent_sees_cancels(&c->fleet.flights[0].agent))
        return;
    for (unsigned i = 0; i < c->fleet.n_flights; i++) {
        flight *l = &c->fleet.flights[i];
        if (l->slice && l->slice->work.sink->is_cancelled(&l->slice->work))
            tp_flight_end_unwanted(c, l);
    }
}

static void check_all(cluster *c, uint64_t now)
{
    for (unsigned i = 0; i < c->fleet.n_flights && !c->server.has_lost; i++) {
        flight *l = &c->fleet.flights[i];
        if (l->count && now >= l->check_ns) {
            /* its worker names it until the server has its result */
            uint64_t named_ns = l->held_ns ? l->held_ns + tp_crew_beats(c, CHECK_BEATS) : 0;
            if (now < named_ns)
                l->check_ns = named_ns;
            else
                tp_flight_check(c, l, now);
        }
        if (l->is_grounded)
            tp_flight_dispatch_kernel(c, l);
        const char *why = l->is_grounded ? tp_sites_refusal(c, l, now) : NULL;
        if (why)
            tp_flight_give_up(c, l, why);
        if (!l->count || c->rounds.is_behind)
            continue;
        uint64_t sign_ns = l->taker ? l->taker->seen_ns : l->held_ns;
        if (!sign_ns || now < sign_ns + tp_crew_beats(c, TP_HELD_BEATS))
            continue;
        if (l->taker)
            tp_flight_lose_worker(c, l->taker);
        else if (l->is_bound)
            tp_flight_lose_streamer(c, l);
        else
            tp_flight_lose(c, l);
    }
}

/* Purges groups of results (TP_GROUP_CHUNKS) in which no result is awaited any more. */
static void purge_done(cluster *c, uint64_t now)
{
    uint64_t first = c->fleet.turns * FLIGHTS;
    char filter[TP_SUBJECT_MAX];
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].count && c->fleet.flights[i].chunk < first)
            first = c->fleet.flights[i].chunk;
    if (c->rounds.purge_ns == 0 && c->rounds.purged < first / TP_GROUP_CHUNKS) {
        c->rounds.purge_until = first / TP_GROUP_CHUNKS;
        c->rounds.purge_ns = now + KEEP_NS;
    }
    if (now < c->rounds.purge_ns || c->server.has_lost)
        return;
    c->rounds.purge_ns = 0;
    for (; c->rounds.purged < c->rounds.purge_until; c->rounds.purged++) {
        snprintf(filter, sizeof filter, TP_SUBJECT_R "%s.%llu.>", c->server.session_hex,
                 (unsigned long long)c->rounds.purged);
        tp_nats_purge(&c->server.nats, TP_STREAM_R, filter);
    }
}

/* Does everything wait for what nobody can do any more? Then all that waits must give up. */
static void look_whether_stuck(cluster *c, uint64_t now)
{
    tp_agent *waits = NULL;
    bool is_hopeless = false;
    for (unsigned i = 0; i < c->fleet.n_flights && c->fleet.in_flight > 0; i++)
        if (c->fleet.flights[i].agent.is_blocked) {
            waits = &c->fleet.flights[i].agent;
            is_hopeless |= tp_job_is_hopeless(waits);
        }
    if (!is_hopeless && (!waits || !tp_engine_is_stuck(c->engine, waits))) {
        c->rounds.stuck_ns = 0;
        return;
    }
    c->rounds.stuck_ns = c->rounds.stuck_ns ? c->rounds.stuck_ns : now;
    if (!is_hopeless && now < c->rounds.stuck_ns + STUCK_NS)
        return;
    tp_engine_give_up(c->engine);
    tp_server_tell(c, "stuck");
    c->rounds.stuck_ns = 0;
    tp_fleet_note_move(c);
}

/* What is done every LOOK_NS. */
static void look(cluster *c, uint64_t now)
{
    if (now < c->rounds.look_ns)
        return;
    c->rounds.look_ns = now + LOOK_NS + c->fleet.n_flights * LOOK_EACH_NS;
    end_all_unwanted(c);
    check_all(c, now);
    look_whether_stuck(c, now);
    purge_done(c, now);
}

/* Are there slices of this executor's that nobody has taken yet? */
static bool has_work(cluster *c)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    bool has = tp_job_can_take_locked(c->engine, &c->base);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    return has;
}

static bool has_work_at(cluster *c, uint64_t sites)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    bool has = tp_job_can_take_at_locked(c->engine, &c->base, sites);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    return has;
}

/* Gives idle flights work for devices, where there is room. */
static void fill_sites(cluster *c, uint64_t now)
{
    unsigned n = tp_sites_count(c);
    if (n > 0)
        tp_crew_ask_for_devices(c, now);
    tp_sites_begin(c);
    for (unsigned k = 0; k < n; k++) {
        const uint64_t site = (uint64_t)1 << k;
        bool has = has_work_at(c, site);
        unsigned room = has ? tp_sites_room(c, site, now) : 0;
        for (flight *l; room > 0 && c->fleet.n_short == 0 && (l = tp_fleet_idle(c, FLIGHTS));
             room--) {
            if (!tp_fleet_take_slice(c, l, site))
                break;
            tp_flight_advance(c, l);
        }
        tp_sites_note(c, k, has, now);
    }
}

/* Gives idle flights work, as many as the workers have use for. */
static void fill(cluster *c, uint64_t now)
{
    if (tp_crew_count(c, now))
        tp_sites_find(c, now);
    const double window = tp_fleet_window(c, 2 * c->crew.slots);
    unsigned most = window < FLIGHTS_LEAST ? FLIGHTS_LEAST : (unsigned)window;
    if (c->crew.offers > 0)
        most = c->crew.offers + 2 * c->crew.queued;
    if (most < 2 * c->crew.slots)
        most = 2 * c->crew.slots;
    most += c->questions.n_open + c->fleet.n_full + c->fleet.n_kernels;
    for (flight *l; c->fleet.n_short == 0 && (l = tp_fleet_idle(c, most));) {
        if (!tp_fleet_take_slice(c, l, 0))
            break;
        tp_flight_advance(c, l);
    }
    fill_sites(c, now);
}

/* While chunks wait: is nobody there to run them? */
static void look_for_workers(cluster *c, uint64_t now)
{
    char text[500];
    tp_error err = { 0 };
    if (c->server.has_lost && now - c->server.lost_ns > ALONE_S * 1000000000ull &&
        !c->rounds.has_said) {
        c->rounds.has_said = true;
        snprintf(text, sizeof text,
                 "tidepool: the engine at %.200s is away; the work goes on when it is back\n",
                 c->base.host->config.engine);
        tp_cluster_say(c, text);
    }
    if ((c->fleet.in_flight == 0 && c->sites.n_unmet == 0) || c->server.has_lost ||
        c->crew.slots > 0) {
        c->rounds.alone_ns = now;
        c->rounds.has_said &= c->server.has_lost;
        return;
    }
    if (now - c->rounds.alone_ns < ALONE_S * 1000000000ull)
        return;
    if (c->crew.other) {
        tp_error_set(&err, TP_EUSAGE,
                     "no worker of the cluster is of this build (%s): that on %s is %s",
                     c->server.build.text, c->crew.other->host, c->crew.other->build);
        tp_job_lose_all(c->engine, &c->base, &err);
        c->rounds.alone_ns = now;
    } else if (!c->rounds.has_said) {
        c->rounds.has_said = true;
        snprintf(text, sizeof text,
                 "tidepool: no worker is at %.200s yet: `tidepool worker --engine %.200s` starts "
                 "one\n",
                 c->base.host->config.engine, c->base.host->config.engine);
        tp_cluster_say(c, text);
    }
}

static uint64_t until(cluster *c, uint64_t now)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    uint64_t due = tp_job_idle_until(c->engine, &c->base);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    uint64_t when = c->fleet.in_flight ? now + LOOK_NS : now + 1000000000ull;
    /* a due time that has passed is seen to at the next look */
    return due > now && due < when ? due : when;
}

/* The server has refused our token and will go on refusing it (it is another engine's): all jobs
 * fail. */
static void give_up(cluster *c)
{
    tp_error err = { 0 };
    tp_error_set(&err, TP_ESYS, "the engine at %.200s does not let us in any more",
                 c->base.host->config.engine);
    tp_server_disconnect(c);
    tp_job_lose_all(c->engine, &c->base, &err);
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].slice)
            tp_flight_end(c, &c->fleet.flights[i]);
}

static int open_session(cluster *c, tp_error *err)
{
    if (tp_server_connect(c, err))
        return -1;
    c->rounds.has_said = false;
    c->rounds.alone_ns = uv_hrtime();
    tp_packing_reset(c);
    tp_fleet_reset(c);
    tp_crew_reset(c);
    tp_flight_reset_short(c);
    return 0;
}

static void close_session(cluster *c)
{
    if (!c->server.is_connected)
        return;
    tp_server_tell(c, "over");
    tp_packing_remove_all(c);
    tp_nats_flush(&c->server.nats, FLUSH_MS);
    tp_server_disconnect(c);
}

static void serve(cluster *c)
{
    while (!tp_cluster_is_stopping(c)) {
        if (!c->server.is_connected && has_work(c)) {
            tp_error err = { 0 };
            if (open_session(c, &err) && !tp_cluster_is_stopping(c))
                tp_job_lose_all(c->engine, &c->base, &err);
        }
        uint64_t now = uv_hrtime();
        if (c->server.is_connected) {
            tp_values_allow_all(c); /* they have begun: their permits come first */
            fill(c, now);
            look(c, now);
            tp_flight_retry_short(c, now);
            tp_questions_try(c);
            tp_packing_drop_read(c, now);
            look_for_workers(c, now);
        }
        tp_nats_event *e = tp_server_take(c, c->server.is_connected ? until(c, now) : UINT64_MAX);
        c->rounds.is_behind = e != NULL;
        for (int i = 0; e && i < 64; i++) {
            bool is_closed = e->kind == TP_NATS_CLOSED;
            take_event(c, e);
            tp_nats_free(&c->server.nats, e);
            if (is_closed && c->server.is_connected)
                give_up(c);
            e = i < 63 ? tp_server_take(c, 0) : NULL;
            c->rounds.is_behind = e != NULL || i == 63;
        }
    }
}

void tp_carrier_run(void *user)
{
    cluster *c = user;
    /* threads of the client library inherit it: a server that goes away is an error there */
    tp_sigmask_block_pipe();
    serve(c);
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].slice)
            tp_flight_end(c, &c->fleet.flights[i]);
    close_session(c);
    uv_mutex_lock(&c->lock);
    c->has_ended = true;
    uv_cond_broadcast(&c->ended);
    uv_mutex_unlock(&c->lock);
}
