/* inside.h: the maps that items of a worker process have opened, as its host sees them: how far
 * each is, in memory that both share.
 *
 * The process writes (its engine, with that one's lock held): a few words for each slice of such a
 * map, whether anybody looks or not. The host reads when somebody looks. It trusts nothing there:
 * what it reads is only shown to people. */
#ifndef TP_INSIDE_H
#define TP_INSIDE_H

#include "engine/job.h"

enum { TP_INSIDE_MAX = 16 }; /* open maps that have a place there */

/* Atomics are acquire and release. */
typedef struct tp_inside_map {
    /* its number in the process; 0: the entry is free. Set last (release) and cleared first, so
     * that what is read between two equal numbers belongs together */
    _Atomic uint64_t number;
    /* parent: the number of the map in whose item it was opened; 0: the item is one that the host
     * has sent; place: that item's (tp_work.place) */
    _Atomic uint64_t parent, place, opened_ns, total /* an int64_t */;
    _Atomic uint64_t name[TP_VIEW_NAME / 8]; /* bytes, the last one is 0 */
    _Atomic uint64_t pushed, waiting, finished, failed; /* items */
} tp_inside_map;

/* Zeroed: there are no maps. */
typedef struct tp_inside {
    tp_inside_map maps[TP_INSIDE_MAX];
} tp_inside;

/* What another machine has said of the items of a slice that it runs. */
typedef struct tp_afar {
    uint64_t taken_ns; /* the slice's: what was said of another one does not count */
    char host[TP_VIEW_NAME];
    uint32_t worker; /* its track (tp_worker.id); 0: it has none */
    /* the item, by its index, that has been running for longest, and since when (uv_hrtime here);
     * 0: none runs */
    uint64_t item, since_ns;
    /* how many maps inside of the items are open, and of those of one function its name and how far
     * they are together */
    unsigned maps;
    char name[TP_VIEW_NAME];
    uint64_t done, total;
    bool compiles; /* the items wait for a device's compiler */
} tp_afar;

/* Notes what was said last of the slice that the agent runs; copied to *place, which belongs to the
 * agent. The agent's thread. */
void tp_agent_tell_afar(tp_agent *agent, tp_afar *place, const tp_afar *what);

/* A worker process: where its engine shows the jobs that are opened from here on. It must outlive
 * the engine's jobs. */
void tp_engine_show_inside(tp_engine *engine, tp_inside *inside);

/* The host: where the process that runs the agent's items shows them; NULL: nowhere any more. Any
 * thread. */
void tp_agent_show_inside(tp_agent *agent, const tp_inside *inside, uint64_t process);

/* ---- for the engine's files; locked ---- */

/* The process: the job has a place there from here on, if one is free; how far it is now; it has
 * none any more. */
void tp_inside_open(tp_job *job);
void tp_inside_tell(const tp_job *job);
void tp_inside_close(tp_job *job);

/* What is known of the slice, if it runs on another machine, which has said so; else NULL. */
const tp_afar *tp_inside_afar(const tp_slice *slice);

/* The host: up to `max` of the maps inside of the slice's items, outer ones first. Gives how many;
 * *others grows by those that are left out. */
unsigned tp_inside_list(const tp_slice *slice, tp_job_view *to, unsigned max, uint64_t *others);

#endif
