/* copies.h: the copies that devices with memory of their own have of typed arrays.
 *
 * A copy is of a part of an array, on one device. It knows which of its bytes are as in the array
 * (valid), and which are newer than in the array (ahead, whether or not they count as valid): a
 * kernel has written them, and they were not copied back ("brought home") yet. Of each byte at most
 * one copy is ahead. A copy is freed
 * with its array, or when its device needs the memory for another copy. When its device's life is
 * over (life.h) what was ahead is lost: whoever wants it is told so, until other elements take its
 * place.
 *
 * Whoever sets elements marks the array afterwards (tp_array_touch). Whenever a copy is taken the
 * mark is looked at: if it is set, nothing is valid in the array's copies but for what is ahead. */
#ifndef TP_COPIES_H
#define TP_COPIES_H

#include "base/array.h"
#include "base/trace.h"
#include "opencl/life.h"
#include "opencl/pinned.h"

#include <uv.h>

typedef struct tp_copy tp_copy;

/* A queue and pinned memory for threads that bring bytes home and have none on that device. */
typedef struct tp_copies_queue {
    /* Read-only once made. */
    cl_command_queue queue; /* commands of many threads */
    tp_open_device open;    /* its life is held */

    tp_pinned pinned; /* for the thread that has set is_used */

    /* ---- guarded by tp_copies.lock ---- */
    struct tp_copies_queue *next;
    bool is_used;
    unsigned owners; /* the copies, and threads that use it */
} tp_copies_queue;

/* The copies of all devices of an executor. Any thread. */
typedef struct tp_copies {
    /* Read-only once opened. */
    tp_array_keeper keeper; /* first member */
    tp_trace *trace;

    _Atomic uint64_t shortages; /* see tp_copies_note_shortage (relaxed: only a count) */
    /* Taken with no other lock held but the executor's. */
    uv_mutex_t lock;
    uv_cond_t changed; /* a copy is not busy any more */
    /* ---- guarded by lock ---- */
    tp_copy *first, *last; /* those used last come last */
    tp_copies_queue *queues; /* owned; one for each life that has needed it */
} tp_copies;

/* Who moves bytes, for traces: a worker's id, and the number of the job that they are for. */
typedef struct tp_mover {
    cl_command_queue queue; /* NULL: none of the device's */
    tp_pinned *pinned;      /* the thread's, for copies with that queue */
    const tp_life *life;    /* whose queue it is */
    uint32_t worker;
    uint64_t job;
    bool asks_nothing; /* to make room the device is asked for nothing that it may not come to */
    cl_int *shortage; /* set to how that failed for want of memory; NULL: nobody asks */
    /* asked now and then while the device has not come to a copy yet, which may be never; true: it
     * is given up, and fails with TP_ETIMEOUT. NULL: it is waited for */
    bool (*is_given_up)(void *user);
    void *user;
} tp_mover;

int tp_copies_open(tp_copies *c, tp_trace *trace, tp_error *err);

/* Frees all copies. No thread may use one. */
void tp_copies_close(tp_copies *c);

/* The copy of the array's bytes at..at+size-1 on that device, made if there is none, for one more
 * user; nothing of it need be valid. NULL when the device has no room for it, though others have
 * made some (tp_copies_make_room). The caller owns the array until it gives the copy back. */
tp_copy *tp_copies_take(tp_copies *c, const tp_open_device *open, tp_array *a, size_t at,
                        size_t size, const tp_mover *mover);
void tp_copies_give_back(tp_copies *c, tp_copy *copy);

/* The device is short of memory. Gives back some that can be had again, in this order: what idle
 * queues keep for their next launches; the copy that was used longest ago, of those that nobody
 * uses and that have nothing ahead; such a one that is ahead, which is brought home; pinned memory.
 * The device has to be asked for the last two. False: there was nothing. Blocks; no lock but that
 * of a launch's turn may be held. */
bool tp_copies_make_room(tp_copies *c, const tp_open_device *open, const tp_mover *mover);

/* That was not enough, and what launches use was waited for; how often it was so far. Whoever has
 * garbage that keeps memory of devices frees it then. Any thread. */
void tp_copies_note_shortage(tp_copies *c);
uint64_t tp_copies_shortages(const tp_copies *c);

/* Gives back memory for moving bytes of that device's copies of which little was wanted since the
 * last call. */
void tp_copies_trim(tp_copies *c, const tp_open_device *open);
/* A life has been abandoned: wakes who waits for a copy in it, which may never come. No lock may be
 * held. */
void tp_copies_wake(tp_copies *c);
/* Gives back what copies have in that life, which is over, unless somebody still uses it: then that
 * is done when it is given back. */
void tp_copies_end(tp_copies *c, const tp_life *life);

/* What was ahead of the array and is lost is no longer missed: it has been told. */
void tp_copies_forget_lost(tp_copies *c, tp_array *a);
/* The same for whoever knows of no device. */
void tp_copies_forget_array(tp_array *a);

cl_mem tp_copy_memory(const tp_copy *copy);

/* Makes the copy's bytes from..to-1 valid: what is not is copied there, and what is ahead on other
 * devices is brought home before. Blocks. */
int tp_copies_bring(tp_copies *c, tp_copy *copy, size_t from, size_t to, const tp_mover *mover,
                    tp_error *err);

/* Its bytes from..to-1 have been written on the device: they are ahead; or, with is_home, they are
 * in the array, too. `foreign`: elements of that type may have NaNs of any bits, which are made
 * canonical when they come home; TP_TYPES: no. -1 when out of memory: then they are not ahead, and
 * must be brought home at once (tp_copies_fetch). */
int tp_copies_note_written(tp_copies *c, tp_copy *copy, size_t from, size_t to, bool is_home,
                           tp_type foreign);

/* The array's own bytes from..to-1 have been written, by a launch without a copy: what devices have
 * of those is outdated. */
void tp_copies_note_home(tp_copies *c, tp_array *a, size_t from, size_t to);

/* Makes the memory of a script's buffer the copy of all of that array, which nobody else knows, on
 * the device: all of it is ahead. To be done again whenever others may have written there. `type`
 * is that of its elements. */
int tp_copies_adopt(tp_copies *c, const tp_open_device *open, tp_array *a, cl_mem mem, tp_type type,
                    tp_error *err);

/* Copies the copy's bytes from..to-1 to the array, whatever is known of them. Blocks. */
int tp_copies_fetch(tp_copies *c, tp_copy *copy, size_t from, size_t to, const tp_mover *mover,
                    tp_error *err);

/* The devices, as bits, that have bytes ahead of the array's bytes at..at+size-1, and can give
 * them. */
uint64_t tp_copies_ahead(tp_copies *c, const tp_array *a, size_t at, size_t size);

/* Copies what is ahead anywhere of the array's bytes at..at+size-1 to the array. Blocks. */
int tp_copies_bring_home(tp_copies *c, tp_array *a, size_t at, size_t size, const tp_mover *mover,
                         tp_error *err);

/* The same for whoever owns the array and knows of no device: of all of it, or of `size` bytes from
 * `data` on. `mover`: NULL for nobody in particular. */
int tp_copies_bring_array_home(tp_array *a, const tp_mover *mover, tp_error *err);
int tp_copies_bring_part_home(tp_array *a, const void *data, size_t size, const tp_mover *mover,
                              tp_error *err);

#endif
