/* life.h: a device from one fault to the next: a context, and what is known of it.
 *
 * Queues, memory, programs and events are made in a context. A fault (an access to memory that is
 * not there, a card that was reset) can end a context for ever: every call in it fails from then
 * on, and nothing of it can be had any more. That is a life's end. The device's next life begins
 * with the next program that is asked for (exec_opencl.c), which lets go of the old context:
 * OpenCL frees it with the last of what was made in it. Whoever has such things holds the life, to
 * know that it is over.
 *
 * A life also ends when its device does not come back from what was given up, but runs kernels of
 * another context beside that: it is abandoned (stuck.c). Its commands still run, so nothing is
 * freed that they may use, and nothing is asked of the driver that may wait for them, until they
 * have ended after all. */
#ifndef TP_LIFE_H
#define TP_LIFE_H

#include "base/ref.h"
#include "opencl/cl.h"
#include "opencl/room.h"

#include <uv.h>

enum { TP_FAULT_MAX = 200 };

typedef struct tp_life {
    tp_ref ref;
    /* Read-only. */
    const tp_cl *cl;
    const tp_cl_device *device;
    cl_context context; /* one owner until it is let go of */
    tp_room room; /* its memory */
    /* A leaf. Held while it is asked whether the context still works, and to take something of the
     * life that may be let go of. */
    uv_mutex_t lock;
    /* ---- guarded by lock ---- */
    bool has_let_go;
    bool is_running; /* abandoned, and the commands have not ended yet */
    struct tp_kept_memory *kept; /* given back meanwhile; owned */
    /* ---- ---- */
    /* Launches by hand that were given up, and of which nobody has seen yet that they have ended
     * (relaxed); written with the engine's lock held, by stuck.c. */
    _Atomic unsigned given_up;
    struct tp_life *next; /* of those abandoned; guarded by their executor's lock (pool.h) */
    /* Set once, with the lock held, and before `is_over`; read by whoever has seen that. */
    bool is_abandoned;
    char fault[TP_FAULT_MAX]; /* what failed first */
    /* Set once, with the lock held, after what it makes readable (release; acquire). */
    _Atomic bool is_over;
} tp_life;

/* Opens the device: makes a context. NULL with err set. */
tp_life *tp_life_begin(const tp_cl *cl, const tp_cl_device *device, tp_error *err);

/* It is over: gives the context back. Things that were made in it have it as long as they are. */
void tp_life_let_go(tp_life *life);

/* It is over, since its device still runs what was given up. */
void tp_life_abandon(tp_life *life);

/* What it ran when it was abandoned has ended: what was given back since then is freed. */
void tp_life_come_to_rest(tp_life *life);

/* Gives memory back that was made in it; once it has come to rest if it was abandoned. Any
 * thread. */
void tp_life_release(tp_life *life, cl_mem mem);

/* Runs a kernel of a new queue, and waits until it has run. That may be never: the device may run
 * kernels without an end, or the driver not return. *launched_ns is when it was compiled and
 * launched (relaxed; uv_hrtime). 0; -1 with err set when it fails. */
int tp_life_try(tp_life *life, _Atomic uint64_t *launched_ns, tp_error *err);

/* A queue of the device; NULL with err set, which says so if the life is over. Any thread. */
cl_command_queue tp_life_new_queue(tp_life *life, cl_command_queue_properties properties,
                                   tp_error *err);

/* May it still run a launch by hand that was given up? Any thread. */
bool tp_life_has_given_up(const tp_life *life);

/* Has its end been noticed? Any thread. */
bool tp_life_is_over(const tp_life *life);

/* Can a call that failed so be the sign of a life's end? Not when its arguments were wrong. */
bool tp_life_is_suspect(cl_int rc);

/* A call has failed, as err says. Finds out whether that is the life's end, and says so in err.
 * If only the queue has stopped working, puts a new one, with these properties, in its place.
 * `queue`: NULL when it was not the caller's own. Any thread. May block for a second. */
void tp_life_check(tp_life *life, cl_command_queue *queue, cl_command_queue_properties properties,
                   tp_error *err);

/* Sets err: the life is over, by its fault. Returns -1. */
int tp_life_say_over(const tp_life *life, tp_error *err);

#endif
