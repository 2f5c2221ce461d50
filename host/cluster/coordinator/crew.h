/* crew.h: the workers that a coordinator knows, from their beats: which there are, how many chunks
 * they take, and what devices they have. All functions are the carrier's. */
#ifndef TP_CREW_H
#define TP_CREW_H

#include "cluster/lanes.h"
#include "cluster/parcel.h"
#include "cluster/protocol.h"
#include "opencl/match.h"

typedef struct cluster cluster;

enum {
    DEVICES_MAX = 64,  /* of a worker */
    REFUSALS_MAX = 16, /* the last of a worker's are known */
    REFUSAL_TEXT = 400
};

/* A function that a worker's devices cannot run. */
typedef struct refusal {
    uint8_t image[TP_DIGEST_BYTES];
    char why[REFUSAL_TEXT]; /* in the worker's words */
    uint64_t said_ns;
} refusal;

typedef struct worker {
    char id[TP_ID_TEXT]; /* "": the place was never used */
    uint64_t seen_ns;
    unsigned slots;
    bool is_same; /* of our build */
    char host[64], build[100];
    char inbox[TP_SUBJECT_MAX / 2]; /* where it takes work directly */
    /* how many chunks it takes directly, including those that it has now (`out`, which flights.c
     * counts) */
    unsigned offers;
    unsigned out;
    unsigned place; /* in the list of those with offers */
    tp_lanes lanes; /* signs.c adds to them */
    /* Its devices, the best first, whose texts lie in `device_text`; how many chunks for them it
     * takes at once (0: it leaves); the sites at which it is, as bits, which sites.c finds */
    tp_seen_device *devices;
    uint64_t *memory; /* of each, in bytes */
    unsigned n_devices, kernels;
    char *device_text;
    uint64_t sites;
    refusal *refusals; /* NULL: there was none */
    unsigned n_refusals;
} worker;

struct crew {
    worker *workers;            /* by their ids (tp_crew_find) */
    worker **known, **offering; /* those that there are; those of them with offers */
    unsigned n_known, n_offering;
    const worker *other; /* one of another build; NULL: there is none */
    unsigned alive;  /* workers that are not gone, of any build; */
    unsigned slots;  /* how many items workers of our build run at once; */
    unsigned queued; /* the slots among them of workers that take nothing directly; */
    unsigned offers; /* chunks that the others take directly */
    uint64_t beat_ms, beat_ns; /* how often they beat; when they are reminded of that */
    uint64_t count_ns; /* when slots and queued are counted anew; offers are kept up to date */
    uint64_t ask_ns;   /* when they are asked again for their devices */
    unsigned n_lanes;  /* of all workers that there were (lanes.h); signs.c counts */
};

/* Memory for it. False: there is none. The owner's thread, before the carrier's is started. */
bool tp_crew_open(cluster *c);
void tp_crew_close(cluster *c);

/* Nobody is known: a session begins. */
void tp_crew_reset(cluster *c);

/* How long n beats of a worker take, in nanoseconds. */
uint64_t tp_crew_beats(const cluster *c, unsigned n);

/* Has it missed so many beats that nothing is expected of it any more? */
bool tp_crew_is_gone(const cluster *c, const worker *w, uint64_t now);

/* Has it shown itself lately, so that it may be sent something directly? */
bool tp_crew_is_heard(const cluster *c, const worker *w, uint64_t now);

/* Does it drive devices, and is there? */
bool tp_crew_has_devices(const cluster *c, const worker *w, uint64_t now);

/* Its devices cannot run the function with that image; `why` is what it says. False: there is no
 * memory to know it. */
bool tp_crew_note_refusal(worker *w, const uint8_t digest[TP_DIGEST_BYTES], const char *why,
                          size_t len);

/* What the worker has said against running that function; NULL: nothing is known. */
const refusal *tp_crew_refusal(const worker *w, const uint8_t digest[TP_DIGEST_BYTES]);

/* The worker with that id; NULL: there is none. */
worker *tp_crew_find(cluster *c, const char *id);

/* A worker shows itself: "BUILD SLOTS HOST INBOX BEAT TEXT", and will again after BEAT ms. One that
 * runs kernels only says how many in SLOTS, and has a line for each of its devices behind that; of
 * one that has died its machine's other worker says "gone". */
void tp_crew_see(cluster *c, const char *id, const char *data, size_t len);

/* The worker takes so many chunks directly. */
void tp_crew_set_offers(cluster *c, worker *w, unsigned offers);

/* May workers be there that have not told of their devices yet? */
bool tp_crew_may_have_more_devices(const cluster *c, uint64_t now);

/* Counts slots, now and then. True: they were counted. */
bool tp_crew_count(cluster *c, uint64_t now);

/* The connection is back: those that were there when it was lost were cut off as well, so they
 * count as seen now. */
void tp_crew_excuse(cluster *c, uint64_t now);

/* The worker with the least to do among those that take work directly; NULL: none has room. */
worker *tp_crew_choose(const cluster *c, uint64_t now);

/* Asks workers for their devices, which nobody looks for before that; new ones, too. */
void tp_crew_ask_for_devices(cluster *c, uint64_t now);

#endif
