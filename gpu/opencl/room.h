/* room.h: the memory of a device in one of its lives: who has how much of it, and how it is had by
 * those who need it.
 *
 * What can be had again is given back when an allocation fails. Part of that is the memory of
 * queues: each keeps what its launches have needed, for the next one. A queue is a tenant: while it
 * runs no launch, any thread may take that memory from it. Where that is not enough, a launch gives
 * back all that it has, and runs once more when no other does. */
#ifndef TP_ROOM_H
#define TP_ROOM_H

#include "base/error.h"
#include "opencl/cl.h"

#include <stdatomic.h>
#include <uv.h>

typedef enum tp_holder {
    TP_HELD_LAUNCHES, /* what queues reuse from launch to launch */
    TP_HELD_COPIES,   /* of arrays */
    TP_HELD_BUFFERS,  /* of device.h */
    TP_HELD_PINNED,   /* which drivers may take from the device, too */
    TP_HOLDERS
} tp_holder;

typedef struct tp_tenant tp_tenant;
struct tp_tenant {
    /* Read-only once it has joined. */
    /* Gives back memory; with `all` also such as the device has to be asked for, which blocks while
     * it runs something. False: there was none. Called by any thread, with no lock held, while
     * nothing runs on the tenant. NULL: it never has any. */
    bool (*give_back)(tp_tenant *t, bool all);
    /* Does nobody wait for its launch any more, which may never end? Called by any thread, with the
     * room's lock held, while the launch runs. NULL: somebody always does, and it ends. */
    bool (*is_given_up)(const tp_tenant *t);
    /* ---- guarded by the room's lock ---- */
    tp_tenant *next;
    bool is_running;  /* a launch */
    bool is_used;     /* by its own thread: nobody else touches its memory */
    bool is_emptied;  /* just now, by another thread, for which its own one waits */
};

typedef struct tp_room {
    const tp_cl_device *device;         /* read-only */
    _Atomic uint64_t held[TP_HOLDERS];  /* bytes (relaxed: only counts) */
    uv_mutex_t lock; /* taken before the engine's lock */
    uv_cond_t changed;
    /* ---- guarded by lock ---- */
    tp_tenant *tenants;
    tp_tenant *alone; /* no launch begins but its; NULL: any may */
} tp_room;

int tp_room_open(tp_room *r, const tp_cl_device *device, tp_error *err);

/* No tenant may be left. */
void tp_room_close(tp_room *r);

/* The holder has so many bytes more, or fewer. Any thread. */
void tp_room_add(tp_room *r, tp_holder holder, uint64_t bytes);
void tp_room_subtract(tp_room *r, tp_holder holder, uint64_t bytes);
uint64_t tp_room_held(const tp_room *r, tp_holder holder);

/* Is that how a call fails for which there was no memory? */
bool tp_room_is_short(cl_int rc);

/* Sets err: there is no room for `what`, "a buffer", of so many bytes (0: not known), as `rc` has
 * it. Says who has how much, and what to do. Returns -1. */
int tp_room_say_full(const tp_room *r, const char *what, uint64_t bytes, cl_int rc, tp_error *err);

/* The thread that has made the tenant comes, and leaves. */
void tp_room_join(tp_room *r, tp_tenant *t);
void tp_room_leave(tp_room *r, tp_tenant *t);

/* From here on its own thread uses the tenant's memory, which others leave alone; and does not. May
 * wait for another one that is giving it back. */
void tp_room_use(tp_room *r, tp_tenant *t);
void tp_room_end_use(tp_room *r, tp_tenant *t);

/* The same for a launch, which may have to wait for one that has to be alone. */
void tp_room_begin(tp_room *r, tp_tenant *t);
void tp_room_end(tp_room *r, tp_tenant *t);

/* Does any launch run but the one that is alone? It may never end. */
bool tp_room_is_busy(tp_room *r);

/* Has the tenants that are not used give back their memory; false: they had none. With `all`, for
 * which the caller has to be alone, see tp_tenant; but not beside a launch that was given up: what
 * the device is asked for may wait for that without an end. */
bool tp_room_empty(tp_room *r, bool all);

/* The tenant's launch has failed for want of memory, and has ended. Waits until no other runs, but
 * for those that nobody waits for, and none begins before tp_room_end; then it is begun again.
 * False when gives_up(user), which is asked from time to time with no lock held, gives up the
 * wait: then it is begun beside the others. */
bool tp_room_be_alone(tp_room *r, tp_tenant *t, bool (*gives_up)(void *user), void *user);

#endif
