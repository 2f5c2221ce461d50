/* exec_cluster.c: the coordinator of a cluster: an executor whose items run on other machines.
 *
 * One thread, the carrier, takes slices for many agents, its flights: one for each chunk that may
 * be under way. A flight's chunk is published as signed work (parcel.h), and the flight waits for
 * its result: to tidepool's engine (engine/job.h) it is a worker that takes long. The names on the
 * server are in protocol.h.
 *
 * Work that is short and small does not go by way of the server's streams: a worker says in its
 * answers how many chunks it takes directly, and gets them, and answers directly. That is one
 * message there and one back. A chunk that is lost on the way is sent again, through the streams.
 *
 * Kernels run at workers with devices, which tell of them. Each different value of the option `gpu`
 * is a site of the engine's (tp_cluster_site): a flight takes work of one when a worker with such
 * devices has room, sends it there directly, whatever its size, and again if that dies.
 *
 * The carrier alone knows what is done; the server only transports. The carrier asks again and
 * again for a chunk without a result: if the result is stored, it is read, else the work is
 * published again. The server refuses what it has already, and a flight takes the first result of
 * its chunk, so that lost messages, a restarted server and one without its disk cost time and
 * nothing else. */
#include "cluster/exec_cluster.h"

#include "base/thread.h"
#include "cluster/coordinator/coordinator.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* how long a chunk should run: sending it should cost little in comparison */
    SLICE_NS = 10 * 1000 * 1000,
    SITE_MIN = 16384, /* items of a chunk for devices, at least */
    STACK_BYTES = 1 << 20
};

static cluster *of(tp_executor *ex)
{
    return (cluster *)(void *)ex;
}

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    cluster *c = calloc(1, sizeof *c);
    if (!c)
        return tp_error_oom(err, "cluster");
    c->base.type = &tp_exec_cluster;
    c->base.host = host;
    c->engine = host->engine;
    if (tp_nats_open(&c->server.nats, err))
        goto no_nats;
    if (uv_mutex_init(&c->lock))
        goto no_lock;
    if (uv_cond_init(&c->ended))
        goto no_cond;
    *out = &c->base;
    return 0;
no_cond:
    uv_mutex_destroy(&c->lock);
no_lock:
    tp_error_oom(err, "cluster");
    tp_nats_close(&c->server.nats);
no_nats:
    free(c);
    return -1;
}

/* Most hosts never have a cluster: what is large is made when there is work for it. */
static bool make_room(cluster *c)
{
    return tp_fleet_open(c) && tp_crew_open(c) && tp_packing_open(c);
}

static void start(tp_executor *ex, unsigned n)
{
    cluster *c = of(ex);
    tp_error err = { 0 };
    (void)n;
    uv_mutex_lock(&c->lock);
    bool is_new = !c->is_running && !c->is_stopping;
    if (is_new && !make_room(c))
        tp_error_oom(&err, "cluster");
    else if (is_new && tp_thread_create(&c->thread, STACK_BYTES, tp_carrier_run, c))
        tp_error_set(&err, TP_ESYS, "cannot start a thread for the cluster");
    else
        c->is_running |= is_new;
    uv_mutex_unlock(&c->lock);
    if (err.code)
        tp_job_lose_all(c->engine, ex, &err);
    else
        tp_nats_wake(&c->server.nats);
}

uint64_t tp_cluster_site(tp_executor *ex, const char *words, tp_error *err)
{
    cluster *c = of(ex);
    unsigned k = 0;
    uv_mutex_lock(&c->lock);
    while (k < c->n_words && strcmp(c->words[k], words) != 0)
        k++;
    const bool is_new = k == c->n_words;
    if (k == SITES_MAX)
        tp_error_set(err, TP_ELIMIT, "more than %d different values of option 'gpu' on a cluster",
                     SITES_MAX);
    else if (is_new && !(c->words[k] = strdup(words)))
        tp_error_oom(err, "devices");
    else
        c->n_words += is_new;
    const uint64_t site = k < c->n_words ? (uint64_t)1 << k : 0;
    uv_mutex_unlock(&c->lock);
    return site;
}

static int stop(tp_executor *ex, uint64_t deadline_ns)
{
    cluster *c = of(ex);
    uv_mutex_lock(&c->lock);
    c->is_stopping = true;
    uv_mutex_unlock(&c->lock);
    tp_nats_wake(&c->server.nats);
    uv_mutex_lock(&c->lock);
    while (c->is_running && !c->has_ended) {
        uint64_t now = uv_hrtime();
        if (now >= deadline_ns ||
            uv_cond_timedwait(&c->ended, &c->lock,
                              deadline_ns == UINT64_MAX ? 1000000000ull : deadline_ns - now))
            if (deadline_ns != UINT64_MAX)
                break;
    }
    bool is_over = !c->is_running || c->has_ended;
    uv_mutex_unlock(&c->lock);
    if (is_over && c->is_running && !c->is_joined) {
        uv_thread_join(&c->thread);
        c->is_joined = true;
    }
    return is_over ? 0 : -1;
}

static void close_executor(tp_executor *ex)
{
    cluster *c = of(ex);
    tp_fleet_close(c);
    tp_packing_close(c);
    tp_questions_close(c);
    tp_crew_close(c);
    for (unsigned i = 0; i < c->n_words; i++)
        free(c->words[i]);
    uv_cond_destroy(&c->ended);
    uv_mutex_destroy(&c->lock);
    tp_nats_close(&c->server.nats);
    free(c);
}

const tp_executor_type tp_exec_cluster = {
    .name = "cluster",
    .summary = "workers on other machines",
    .capabilities = TP_CAN_KILL | TP_ISOLATED | TP_RUNS_LUA | TP_BOUNDS_MEMORY | TP_STREAMS |
                    TP_FAR,
    .slice_ns = SLICE_NS,
    .site_min = SITE_MIN,
    .open = open_executor,
    .start = start,
    .stop = stop,
    .close = close_executor,
};
