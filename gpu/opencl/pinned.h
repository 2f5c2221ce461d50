/* pinned.h: copies between the host's memory and that of a device, by way of pinned memory.
 *
 * A card reads and writes pinned memory by itself; other memory its driver copies first, in the
 * call that is said not to wait. OpenCL has no word for pinned memory: drivers give it to buffers
 * with CL_MEM_ALLOC_HOST_PTR, which are mapped once and then are the host's side of ordinary
 * copies. Two of them take turns, so that the host copies a piece while the card moves another.
 *
 * Small copies, and those for which there is no such memory, are made without it. */
#ifndef TP_PINNED_H
#define TP_PINNED_H

#include "opencl/waiter.h"

#include <stddef.h>

enum {
    /* Drivers put as much into the command itself, or have room for it. */
    TP_PINNED_FROM = 64 << 10,
    /* Pieces are so large, and twice as much is all that one tp_pinned has: a card moves the
     * largest in 0.2 ms, which is long enough for what a command costs. */
    TP_PIECE_MIN = 256 << 10, TP_PIECE_MAX = 4 << 20
};

typedef struct tp_pinned_half {
    cl_mem mem;
    char *data; /* where it is mapped */
    size_t size;     /* of mem */
    size_t capacity; /* the same once it is mapped */
    cl_event last; /* of the command that uses it, or NULL */
} tp_pinned_half;

/* All zero: has no memory yet. For one thread at a time. */
typedef struct tp_pinned {
    tp_pinned_half half[2];
    unsigned next;     /* the half for the next piece to the device */
    size_t wanted;     /* the largest piece since it was last looked at */
    bool is_refused;   /* there was no memory; it is not asked for again until the next look */
    cl_int failed;     /* the first failure of a piece that nobody was told of, or CL_SUCCESS */
    tp_queue_waiter *waiter; /* held; NULL: not made yet */
} tp_pinned;

/* What copies are made with. */
typedef struct tp_transfer {
    const tp_open_device *open;
    cl_command_queue queue;
    /* where the next command, for `size` bytes, leaves its event; NULL: nobody wants to know */
    cl_event *(*time)(void *user, size_t size);
    void *user;
} tp_transfer;

/* Copies `size` bytes from `from` to the device's memory, from its byte `at` on, behind the queue's
 * commands. The device has them when the queue has been finished, and with `is_settled` when this
 * returns; until then they must not change. */
cl_int tp_pinned_write(tp_pinned *p, const tp_transfer *t, cl_mem mem, size_t at, const void *from,
                       size_t size, bool is_settled);

/* The same in the other direction: copies from the device's memory to `to`. */
cl_int tp_pinned_read(tp_pinned *p, const tp_transfer *t, cl_mem mem, size_t at, void *to,
                      size_t size, bool is_settled);

/* Waits until no command uses the pinned memory any more. What has failed of the commands since the
 * last call. */
cl_int tp_pinned_settle(tp_pinned *p, const tp_transfer *t);

/* Gives back memory of which little was wanted since the last call. */
void tp_pinned_trim(tp_pinned *p, const tp_transfer *t);

/* Gives back all memory, and asks for none until the next look at it (tp_pinned_trim): the device
 * is short of it. False: there was none. */
bool tp_pinned_give_up(tp_pinned *p, const tp_transfer *t);

/* Frees all that it has. */
void tp_pinned_close(tp_pinned *p, const tp_transfer *t);

#endif
