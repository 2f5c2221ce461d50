/* coordinator.h: what the files of a cluster's coordinator share: the executor, made of the rooms
 * that each of them keeps. Private to this folder and exec_cluster.c, which has the overview.
 *
 * From the bottom: server.c (the connection), crew.c (the workers that are known), fleet.c (the
 * flights, and by what they are counted), sites.c (which workers have which devices), signs.c (what
 * workers say beside results), packing.c (what a chunk becomes as a message, and what lies at the
 * server for it), flights.c (chunks that are sent, lost and ended), returns.c (their results),
 * values.c (what items give while they run), questions.c (Dicts, Queues and permits), carrier.c
 * (the thread that does all of it, in turns). Each calls only what stands before it.
 *
 * A room's struct is written by its own file only, but where a field says who else does that. All
 * is the carrier's, except what the lock guards. */
#ifndef TP_COORDINATOR_H
#define TP_COORDINATOR_H

#include "cluster/coordinator/carrier.h"
#include "cluster/coordinator/crew.h"
#include "cluster/coordinator/fleet.h"
#include "cluster/coordinator/packing.h"
#include "cluster/coordinator/questions.h"
#include "cluster/coordinator/server.h"
#include "cluster/coordinator/sites.h"
#include "runtime/runtime.h"

#include <string.h>

enum {
    /* how often cancelled chunks are looked for; it takes so much longer for each flight or
     * worker, since thousands of them do not fit into a cache */
    LOOK_NS = 20 * 1000 * 1000,
    LOOK_EACH_NS = 10 * 1000,
    /* a message that the server has not acknowledged is sent again after this */
    RETRY_NS = 200 * 1000 * 1000,
    CHECK_NS = 2000 * 1000 * 1000, /* a chunk without a result is asked for after this time */
    ALONE_S = 4, /* after so long without any worker, or with a full server, the user is told */
    /* How long results stay at the server after they were read, so that a journal surely has them;
     * large ones only until there are more than READ_MAX */
    KEEP_NS = 2000 * 1000 * 1000,
    /* After so many deaths of workers that had it a chunk is run alone and as small as possible */
    DEATHS_ALONE = 2
};

struct cluster {
    tp_executor base;
    tp_engine *engine;

    uv_mutex_t lock;
    uv_cond_t ended;
    /* ---- guarded by the lock ---- */
    bool is_running, is_stopping, has_ended;
    char *words[SITES_MAX]; /* of each site; read-only once they count; sites.c adds them */
    unsigned n_words;

    uv_thread_t thread; /* the owner's; joined by stop */
    bool is_joined;

    /* ---- the carrier's own ---- */
    struct server server;
    struct crew crew;
    struct fleet fleet;
    struct sites sites;
    struct packing packing;
    struct questions questions;
    struct rounds rounds;
};

/* Is the executor to end? Any thread. */
static inline bool tp_cluster_is_stopping(cluster *c)
{
    uv_mutex_lock(&c->lock);
    bool stops = c->is_stopping;
    uv_mutex_unlock(&c->lock);
    return stops;
}

/* Tells the user something, on the standard error. */
static inline void tp_cluster_say(cluster *c, const char *text)
{
    tp_host_print(c->base.host, 2, text, strlen(text));
}

#endif
