/* fleet.c: the flights of a coordinator, and by what they are counted. */
#include "cluster/coordinator/fleet.h"

#include "cluster/coordinator/coordinator.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* The number of chunks in flight is adapted until a chunk takes about this long from being sent
     * to its result: so workers never wait for the next one, and later work does not queue for
     * long. There are at least two for each slot of a worker. */
    IN_FLIGHT_NS = 10 * 1000 * 1000
};

flight *tp_fleet_find(cluster *c, unsigned long long chunk, unsigned sending)
{
    flight *l = &c->fleet.flights[chunk % FLIGHTS];
    return l->slice && l->count && l->chunk == chunk && l->sending == sending ? l : NULL;
}

bool tp_fleet_streams(const flight *l, const uint8_t *by, uint64_t run)
{
    return run == l->streamer_run && memcmp(by, l->streamer, sizeof l->streamer) == 0;
}

flight *tp_fleet_idle(cluster *c, unsigned most)
{
    tp_error err = { 0 };
    if (c->fleet.in_flight >= most)
        return NULL;
    if (c->fleet.n_idle > 0)
        return &c->fleet.flights[c->fleet.idle[c->fleet.n_idle - 1]];
    unsigned i = c->fleet.n_flights;
    flight *l = &c->fleet.flights[i];
    if (i == FLIGHTS || tp_agent_open(&l->agent, c->engine, (int)i + 1, &c->base, &err))
        return NULL;
    l->agent.worker.tags_lines = c->base.host->config.tag_lines;
    c->fleet.n_flights++;
    c->fleet.idle[c->fleet.n_idle++] = i;
    return l;
}

bool tp_fleet_take_slice(cluster *c, flight *l, uint64_t site)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    l->agent.site = site;
    l->slice = tp_job_take_locked(c->engine, &c->base, &l->agent);
    uv_mutex_unlock(tp_engine_lock(c->engine));
    if (!l->slice)
        return false;
    c->fleet.n_idle--;
    c->fleet.in_flight++;
    c->fleet.n_streams += l->slice->work.terms->streams;
    c->fleet.n_kernels += site != 0;
    return true;
}

void tp_fleet_set_blocked(cluster *c, flight *l, bool is_blocked)
{
    uv_mutex_lock(tp_engine_lock(c->engine));
    if (l->agent.is_blocked != is_blocked)
        l->agent.is_hopeless = false;
    l->agent.is_blocked = is_blocked;
    uv_mutex_unlock(tp_engine_lock(c->engine));
}

void tp_fleet_note_move(cluster *c)
{
    c->fleet.moved_ns = uv_hrtime();
    for (unsigned i = 0; i < c->fleet.n_flights; i++)
        if (c->fleet.flights[i].agent.is_blocked) /* nobody else writes it */
            tp_fleet_set_blocked(c, &c->fleet.flights[i], false);
}

void tp_fleet_set_full(cluster *c, flight *l, bool is_full)
{
    c->fleet.n_full += (unsigned)is_full - (unsigned)l->is_full;
    l->is_full = is_full;
}

void tp_fleet_set_shortage(cluster *c, flight *l, shortage what)
{
    c->fleet.n_short += (what != NO_SHORTAGE) - (l->shortage != NO_SHORTAGE);
    l->shortage = what;
}

void tp_fleet_adapt(cluster *c, const flight *l)
{
    uint64_t took = uv_hrtime() - l->sent_ns;
    if (l->taker)
        return;
    if (took > IN_FLIGHT_NS)
        c->fleet.window -= c->fleet.window > 1 ? 0.5 : 0;
    else if (took < IN_FLIGHT_NS / 2 && c->fleet.in_flight + 1 >= c->fleet.window &&
             c->fleet.window < FLIGHTS)
        c->fleet.window += 0.5;
}

tp_slice *tp_fleet_give_slice(cluster *c, flight *l)
{
    struct fleet *f = &c->fleet;
    tp_slice *s = l->slice;
    f->n_streams -= s->work.terms->streams;
    f->n_kernels -= l->agent.site != 0;
    l->slice = NULL;
    f->in_flight--;
    f->idle[f->n_idle++] = (unsigned)(l - f->flights);
    return s;
}

double tp_fleet_window(cluster *c, double least)
{
    if (c->fleet.window < least)
        c->fleet.window = least;
    return c->fleet.window;
}

void tp_fleet_reset(cluster *c)
{
    c->fleet.window = 0;
    c->fleet.n_short = 0;
    c->fleet.unable[0] = '\0';
}

bool tp_fleet_open(cluster *c)
{
    struct fleet *f = &c->fleet;
    f->flights = f->flights ? f->flights : calloc(FLIGHTS, sizeof *f->flights);
    f->idle = f->idle ? f->idle : calloc(FLIGHTS, sizeof *f->idle);
    return f->flights && f->idle;
}

void tp_fleet_close(cluster *c)
{
    struct fleet *f = &c->fleet;
    for (unsigned i = 0; i < f->n_flights; i++) {
        tp_agent_close(&f->flights[i].agent);
        tp_buf_free(&f->flights[i].message);
        tp_blob_free(&f->flights[i].blob);
    }
    free(f->flights);
    free(f->idle);
}
