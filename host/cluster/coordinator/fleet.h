/* fleet.h: the flights of a coordinator: each is an agent of tidepool's engine, whose chunk is at
 * another machine. Here is which there are, and by what they are counted; flights.c sends and ends
 * their chunks. All functions are the carrier's. */
#ifndef TP_FLEET_H
#define TP_FLEET_H

#include "cluster/blobs.h"
#include "cluster/lanes.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "engine/inside.h"

typedef struct cluster cluster;

enum {
    /* chunks in flight at most; memory for them is touched only when it is needed */
    FLIGHTS = 32768
};

/* What a flight waits for since the server has no room. */
typedef enum shortage {
    NO_SHORTAGE,
    REFUSED, /* for its message, which is sent again and again */
    WAITING  /* for its payload, without which there is no chunk yet */
} shortage;

/* Its fields are flights.c's, but where they say otherwise. */
typedef struct flight {
    tp_agent agent;  /* is_blocked is set by tp_fleet_set_blocked */
    tp_slice *slice; /* NULL: it is idle. By fleet.c */
    shortage shortage; /* by tp_fleet_set_shortage */
    bool is_narrow; /* its chunks are as small as can be, since workers have died with them */
    unsigned deaths; /* of workers that ran this chunk */
    uint64_t chunk;
    uint32_t sending;
    bool is_taken;  /* the server has said that it has the message. By returns.c */
    tp_buf direct;  /* of a result that comes in pieces. By returns.c */
    tp_parcel_refs permits; /* functions of which its item has a permit, since it calls them. By
                               questions.c */
    struct worker *taker; /* to whom it was sent directly; NULL: it went through the stream */
    bool has_begun; /* scratch of tp_flight_lose_worker */
    bool is_grounded; /* it waits for a worker with devices for it; nothing was sent */
    uint64_t sent_ns;
    /* when it is asked for next, and how long after that again. returns.c and carrier.c may have
     * it asked for earlier */
    uint64_t check_ns, patience_ns;

    /* ---- by packing.c (tp_packing_seal) ---- */
    uint32_t first; /* the chunk's first item, as an offset in its block */
    /* items of the chunk that is in flight; 0: none is. Less when its worker has given some back
     * (returns.c) */
    uint32_t count;
    tp_buf message; /* to publish again: signature, head, payload */
    tp_blob blob;   /* its payload there, if that is large, until a worker has fetched it */
    struct image *image;
    tp_parcel_refs refs;
    bool may_reduce; /* its worker was told what is wanted of whole groups of results */

    /* ---- by returns.c: results of its first items that have come early, as records of so many
     * bytes, from whom, and from which of its runs ---- */
    bool has_early;
    uint64_t early, early_run;
    uint8_t early_by[TP_ID_BYTES];

    /* ---- of one that streams, by values.c: who runs it, and which of its runs that is, from the
     * first that it has said of it, and where it is told how many values it may give; so many it
     * was told; its item waits for more (set by tp_fleet_set_full) ---- */
    bool is_bound, is_full;
    uint8_t streamer[TP_ID_BYTES];
    uint64_t streamer_run;
    char listener[TP_SUBJECT_MAX];
    uint64_t allowed;

    /* ---- by signs.c ---- */
    uint64_t held_ns; /* when a worker has last said that it has the chunk; 0: none has */
    char ack[TP_SUBJECT_MAX]; /* where that worker's delivery is acknowledged */
    tp_lane_box box;          /* of the chunk in the trace; */
    uint64_t happened;        /* so many events of it have come, or are known to be missing */
    tp_afar afar;             /* what it has said of the chunk's items; the engine's lock */
} flight;

struct fleet {
    flight *flights;
    unsigned *idle, n_idle;        /* those that were opened and have no slice */
    unsigned n_flights, in_flight; /* how many flights were opened; how many of them have a slice */
    unsigned n_short;   /* flights with a shortage; */
    unsigned n_full;    /* whose items wait for the reader of their values; */
    unsigned n_streams; /* that stream; */
    unsigned n_kernels; /* that have slices of sites */
    uint64_t moved_ns; /* when an item was last given what it may have waited for */
    double window;     /* how many may have a slice; at least two for each slot may */

    /* ---- by flights.c ---- */
    uint64_t turns; /* counts chunks */
    /* the first of those with a shortage was tried while nothing else of this session was at the
     * server; it was said that that is full */
    bool is_emptied, has_said_full;
    uint64_t retry_ns, short_ns; /* when they are tried again; since when nothing was taken, or 0 */
    tp_error why; /* of the last shortage, for the user */

    /* ---- by returns.c: why a worker has last given work back; "": none has said ---- */
    char unable[400];
};

/* Memory for it. False: there is none. The owner's thread, before the carrier's is started. */
bool tp_fleet_open(cluster *c);
void tp_fleet_close(cluster *c);

/* The flight whose chunk that is, in this sending; NULL: it is over. */
flight *tp_fleet_find(cluster *c, unsigned long long chunk, unsigned sending);

/* Is that the run of the flight's item whose values are taken (is_bound)? */
bool tp_fleet_streams(const flight *l, const uint8_t *by, uint64_t run);

/* A flight without a slice, the last of the idle ones. NULL: there may be no more. */
flight *tp_fleet_idle(cluster *c, unsigned most);

/* That flight takes a slice of that site (0: of none). False: there is none. Takes the engine's
 * lock. */
bool tp_fleet_take_slice(cluster *c, flight *l, uint64_t site);

/* It gives its slice to the caller, to be finished, and is idle. */
tp_slice *tp_fleet_give_slice(cluster *c, flight *l);

/* A session begins: nothing is known of how long chunks take. */
void tp_fleet_reset(cluster *c);

/* How many flights may have a slice: that many at least, from now on. */
double tp_fleet_window(cluster *c, double least);

/* A result of the flight has come: adapts that number to how long it took. */
void tp_fleet_adapt(cluster *c, const flight *l);

/* The flight's item waits without an end, or not. Takes the engine's lock. */
void tp_fleet_set_blocked(cluster *c, flight *l, bool is_blocked);

/* An item may go on that has waited. What workers have said of those that wait is not true any
 * more, and for a while they may say it again. */
void tp_fleet_note_move(cluster *c);

/* Its item waits for the reader of its values, or not. */
void tp_fleet_set_full(cluster *c, flight *l, bool is_full);

void tp_fleet_set_shortage(cluster *c, flight *l, shortage what);

#endif
