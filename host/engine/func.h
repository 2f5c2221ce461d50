/* func.h: what a mapped function is to the host: who it is (tp_func) and what it is made of
 * (tp_image).
 *
 * A tp_func is the identity behind a decorated Function: its name, its limit and its counts, over
 * all of its maps and callers, whichever Lua state its handle is in. A tp_image is one immutable
 * snapshot of the Lua function, as a codec message: bytecode, upvalues, globals. A map takes a new
 * image when it starts; equal bytes give the same image, so that workers load it once. */
#ifndef TP_FUNC_H
#define TP_FUNC_H

#include "codec/codec.h"

struct lua_State;
struct tp_job;
struct tp_slice;

/* How many items took how long: a bucket for each nanosecond below TP_DURATION_PARTS, and above
 * for each of so many parts between a power of two and the next. The last one is for all longer
 * times, from some two weeks on. */
enum { TP_DURATION_PARTS = 8, TP_DURATIONS = 49 * TP_DURATION_PARTS };

typedef struct tp_durations {
    uint64_t n[TP_DURATIONS];
    uint64_t count; /* their sum: attempts, also those that failed */
    double total_ns, max_ns;
} tp_durations;

enum { TP_RUN_CLASSES = 32, TP_RUNS_KEPT = 5 };

/* What an item took in each of the last runs of a class, of which `last` is the latest one. */
typedef struct tp_runs {
    float item_ns[TP_RUNS_KEPT];
    uint8_t n, last;
} tp_runs;

/* Runs of a function of nearly the same length (beside.c): by workers, and by sites; and how long
 * the slower one of both may take longer in the next trial. */
typedef struct tp_class {
    tp_runs runs[2];
    float credit_ns;
} tp_class;

typedef struct tp_func {
    tp_ref ref;

    /* Set before it is shared, read-only afterwards. */
    char *name;
    unsigned limit; /* at most so many slices run at once; 0: no limit */

    /* Its number in work for other machines; 0: it has none yet. A cluster's carrier's
     * (cluster/parcel.c). */
    uint64_t afar;

    /* ---- guarded by the engine's lock (engine.c, schedule.c) ---- */
    struct tp_func *next_ready, *prev_ready; /* in the engine's ring of functions that have work */
    struct tp_job *ready_first, *ready_last; /* its jobs with inputs to take, next to serve first */
    /* slices whose items have waited for others and now wait in line for a permit */
    struct tp_slice *resuming;
    /* users were told that an item of it blocks others of its worker (`concurrent_inputs`) */
    bool has_blocked;
    unsigned running;                        /* permits in use */
    double item_ns;                          /* what an item took lately; 0: not known */
    float site_ns[64]; /* the same per site, indexed by the bit number of tp_agent.site */
    float worker_ns; /* the same for workers beside sites; 0: not known */
    float worker_seen_ns, site_seen_ns[64]; /* beside.c: how long a time shows in those two */
    tp_class classes[TP_RUN_CLASSES]; /* of whole runs of up to 2, 4, 8... items */
    /* beside.c: for how long the faster one runs it before the slower one is tried again; then,
     * below 0, for how long that one is; and by how much these times have grown. */
    double until_trial_ns, trial_ns;
    unsigned trial_every;
    bool is_warm; /* a site beside workers has run it, so that it is compiled there */
    uint64_t queued, active, done, failed;   /* counts of items; for Function:stats */
    tp_durations durations;                  /* of single attempts; for Function:stats */
} tp_func;

extern const tp_ref_type tp_func_type;

/* A new function identity with one owner. name is copied. NULL when out of memory. */
tp_func *tp_func_new(const char *name, unsigned limit);

/* n more items took ns each, in nanoseconds. With the engine's lock held. */
void tp_func_count(tp_func *f, uint32_t n, double ns);

/* The time in ns that this share of the items did not exceed, within 1 / 16 of it; 0 of none. */
double tp_durations_quantile(const tp_durations *d, double share);

typedef struct tp_image {
    tp_ref ref;
    /* from tp_image_encode or tp_image_outline, or a packed value (core.value.pack); read-only */
    tp_buf message;
} tp_image;

extern const tp_ref_type tp_image_type;

enum {
    TP_IMAGE_VALUES = 7,
    TP_IMAGE_LARGE = 1 << 14 /* bytes from which on an image has an outline */
};

/* Encodes what a worker needs to call the Lua function at index of L into `message`, which is the
 * caller's. On the thread of L. The values at index, index + 1, ... are the function, package.path
 * and package.cpath (so that `require` finds the same modules in a worker), and the list of what is
 * to be run there before it (App:setup). The message has TP_IMAGE_VALUES values: these, and those
 * that tp_encode_image adds; it also explains `tables` and the result. -1 with err set when the
 * function cannot travel; `name` names it in the text. `flags` may be TP_ENCODE_COPIES. May raise
 * out of memory. */
int tp_image_encode(struct lua_State *L, int index, const char *name, int tables, unsigned flags,
                    tp_buf *message, tp_error *err);

/* The outline of that image (tp_encode_outline). False when there can be none. */
bool tp_image_outline(struct lua_State *L, int index, int tables, unsigned flags, tp_buf *outline);

/* Does the image have that message? */
bool tp_image_is(const tp_image *image, const tp_buf *message);

/* A new image with one owner. It takes the message over and leaves the buffer empty. NULL when out
 * of memory. */
tp_image *tp_image_new(tp_buf *message);

#endif
