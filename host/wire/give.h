/* give.h: what a worker process is given by reference: functions, classes, packed values, arrays,
 * stores. Each has a number, its id, by which both sides name it from then on.
 *
 * The host writes into memory that it shares with the process what each new thing is (tp_wire_ref)
 * beside the message that has the reference. The process returns arrays and stores when nobody
 * there holds them any more; it keeps all else. */
#ifndef TP_GIVE_H
#define TP_GIVE_H

#include "base/array.h"
#include "engine/func.h"
#include "wire/region.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    TP_WIRE_REFS_MAX = 4096, /* things that one worker process can be given by reference */
    TP_WIRE_IMAGES = 64      /* functions that a worker process keeps */
};

typedef enum tp_wire_kind {
    TP_WIRE_FUNC = 1,
    TP_WIRE_CLASS,
    TP_WIRE_PACKED,
    TP_WIRE_ARRAY,
    TP_WIRE_DICT,
    TP_WIRE_QUEUE
} tp_wire_kind;

/* Offsets are from the beginning of the memory, as everywhere. */
typedef struct tp_wire_ref {
    uint32_t id, kind;
    uint32_t limit, is_partial;
    uint64_t name_at;         /* a string with its NUL */
    /* for a class the message that defines it; for a packed value its message */
    uint64_t bytes_at, bytes;
    uint64_t refs_at, nrefs;
    tp_array_place place;     /* of an array, which the worker has until it returns it */
} tp_wire_ref;

/* Are things of this kind returned? */
static inline bool tp_wire_is_returned(uint32_t kind)
{
    return kind >= TP_WIRE_ARRAY;
}

/* A bit for each id. */
typedef _Atomic uint64_t tp_wire_ids[TP_WIRE_REFS_MAX / 64];

/* What a worker process was given by reference and which functions it has, as its host knows it.
 * All are held, so that no other object gets their addresses. */
typedef struct tp_wire_given {
    tp_ref **refs; /* by id; NULL: the id is free */
    uint32_t n, room, least_free; /* no id below least_free is free */
    tp_image *image[TP_WIRE_IMAGES];
    uint64_t used[TP_WIRE_IMAGES], tick; /* when each was last used, in ticks */
    uint64_t from, until; /* where the last request's items and what came with them lie */
} tp_wire_given;

void tp_wire_given_free(tp_wire_given *given);

/* While the worker rests, and the host has read all that names things by their ids: takes back the
 * things that the worker has returned. */
void tp_wire_take_returned(tp_wire_given *given, tp_wire_ids returned);

/* Writes one request or answer with all that it refers to. The supervisor's, on its stack. */
typedef struct tp_wire_writer {
    tp_region *arena;
    tp_wire_given *given;
    /* Things that the worker has returned since tp_wire_take_returned, which must be given again;
     * NULL: there are none. */
    _Atomic uint64_t *returned;
    uint64_t at;
    tp_buf made; /* the tp_wire_refs of what is given now */
    tp_error *err;
} tp_wire_writer;

static inline uint64_t tp_wire_rounded(uint64_t size)
{
    return (size + 7) & ~(uint64_t)7;
}

/* Room for `size` bytes; the offset is a multiple of 8, and 0 when there is no memory. */
uint64_t tp_wire_reserve(tp_wire_writer *w, uint64_t size);
uint64_t tp_wire_put(tp_wire_writer *w, const void *bytes, uint64_t size);
uint64_t tp_wire_put_text(tp_wire_writer *w, const char *text);

/* The id of a thing, which is given to the worker if it does not have it. -1 when that is not
 * possible: it is of a kind that a process cannot be given (TP_ECODEC), or the worker was given too
 * much (TP_ELIMIT). */
int64_t tp_wire_give(tp_wire_writer *w, tp_ref *r);

/* Writes the ids of n references, and gives what they refer to. */
uint64_t tp_wire_put_refs(tp_wire_writer *w, tp_ref *const *refs, uint32_t n);

/* Writes what is given now: *at and *n. Frees `made`. When rc or this is not 0, what was written is
 * not sent, and so nothing is given. Returns 0 or -1. */
int tp_wire_put_given(tp_wire_writer *w, uint64_t *at, uint64_t *n, int rc);

#endif
