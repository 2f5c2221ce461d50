/* pool.h: the devices of a host that are open, and their threads: what exec_opencl.c and stuck.c
 * stand on. */
#ifndef TP_OPENCL_POOL_H
#define TP_OPENCL_POOL_H

#include "opencl/exec_opencl.h"
#include "opencl/slices.h"
#include "workers/idle.h"

typedef struct tp_cl_pool tp_cl_pool;

/* A thread that runs slices on one device. Made by tp_cl_pool_open_device, joined and freed by
 * tp_cl_pool_free_workers. */
typedef struct tp_cl_worker {
    /* Set before the thread starts, or by who starts it before others find it in pool->workers;
     * read-only afterwards. */
    tp_cl_pool *pool;
    uv_thread_t thread;

    struct tp_cl_worker *next; /* as pool->workers; that of the thread that has taken it out */

    /* ---- guarded by the engine's lock ---- */
    tp_slice *slice; /* the one that it runs, or NULL */
    uint64_t passed; /* other devices (bits) that are used beside that, though it was given up */
    bool is_joined;  /* somebody joins the thread, or has (stop) */
    /* The device is worked by others: the thread ends when it comes back from its slice. What its
     * queue has is of that life, and stays until it has come to rest. */
    const tp_life *left;
    bool has_ended; /* the thread is past its last use of the device */

    /* ---- its own ---- */
    tp_agent agent; /* with the exceptions in job.h */
    tp_slice_runner runner; /* but for queue.open.index, which is read-only */
    unsigned trims_left; /* until nothing is left that could be given back */
    uint64_t trim_at;    /* when the next one is; UINT64_MAX: there is none */
} tp_cl_worker;

/* A thread that finds out whether a device runs a kernel now (stuck.c). */
typedef struct tp_cl_scout {
    /* Set before the thread starts, or by who starts it before others find it in pool->scouts;
     * read-only afterwards. */
    tp_cl_pool *pool;
    const tp_cl *cl;
    uv_thread_t thread;
    unsigned device;
    bool is_fresh;  /* in a life of its own, which it makes */
    uint64_t sent_ns;
    /* held. Of a fresh one: NULL if it could not be made, and set by the scout, with `has_ended` */
    tp_life *life;

    /* ---- guarded by pool->lock ---- */
    struct tp_cl_scout *next;
    unsigned waiting; /* threads that wait for it: it stays */
    /* ---- ---- */
    _Atomic uint64_t launched_ns; /* the scout writes it (relaxed); 0: not yet */
    bool has_ended, has_run;      /* guarded by the engine's lock */
} tp_cl_scout;

struct tp_cl_pool {
    tp_executor base;
    tp_engine *engine; /* read-only */
    /* ---- each with locks of its own ---- */
    tp_idle idle;     /* of its threads */
    tp_turn writing;  /* see tp_launch_queue_open */
    tp_copies copies; /* of arrays, on its devices */

    uv_mutex_t lock; /* taken before the engine's lock, and before the host's print_lock */
    /* ---- guarded by lock ---- */
    tp_program_cache programs; /* but for what program_cache.h says */
    unsigned processors; /* that there are for us, known once a device is open */
    tp_life *lives[TP_DEVICES_MAX]; /* held; NULL for devices that are not open */
    tp_life *abandoned;             /* held; those that have not come to rest */
    tp_cl_scout *scouts;            /* owned */
    tp_cl_worker *workers;          /* changed with the engine's lock held, too: either will do
                                     * to read it */

    /* ---- guarded by the engine's lock ---- */
    tp_lost *lost; /* see tp_opencl_lose */
    uint64_t hung; /* devices (bits) that ran nothing when that was tried last */
    /* workers in keep_programs or make_promised; when one leaves it, it wakes threads that wait for
     * idle.ended */
    unsigned keeping;

    /* There is something left or lost, which has to be looked for. Written with the engine's lock
     * held, so that no look takes back what was left during it; of scouts also with p->lock alone,
     * which whoever looks holds, too (relaxed: read by any thread, as a hint) */
    _Atomic bool has_left;
};

/* Opens the device, anew when its life is over, and starts its threads; the caller holds out->life
 * then. Called with p->lock held. */
int tp_cl_pool_open_device(tp_cl_pool *p, const tp_cl *cl, unsigned device, tp_open_device *out,
                           tp_error *err);

/* Starts the device's workers, whose life it has, unless it has some that have not left. Called
 * with p->lock held. */
int tp_cl_pool_start_workers(tp_cl_pool *p, const tp_open_device *open, tp_error *err);

/* Takes the life, which is over, from everybody who keeps something of it for later, and drops it.
 * Called with p->lock held. */
void tp_cl_pool_bury(tp_cl_pool *p, tp_life *life);

/* Joins the workers of a list, which have ended, and frees them. */
void tp_cl_pool_free_workers(tp_cl_worker *list);

#endif
