/* held.h: long strings among the records of a worker process, which stay there until they are read.
 *
 * A result that is one long string is not copied out of the records: its block points to it. The
 * process must not write there before that block is freed, so it is told where its next records go:
 * into a room in which nothing is held.
 *
 * The strings are read through a mapping of their own. It does not move when the memory grows, and
 * lasts until the last string is freed, also when the process is gone. Users' code there can still
 * write to them: see TP_SCALAR_SHARED. */
#ifndef TP_HELD_H
#define TP_HELD_H

#include "codec/block.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    TP_WIRE_HELD_LEAST = 32 << 10, /* bytes of a string; shorter ones are copied */
    TP_WIRE_HELD_MAX = 64          /* how many strings can be held of one process at once */
};

/* The supervisor's; the blocks may be freed by any thread. Zeroed but for the first two fields it
 * holds nothing. */
typedef struct tp_wire_held {
    int fd;         /* borrowed: of the memory with the records */
    uint64_t least; /* bytes of a string that is held */
    struct tp_wire_window *window;
    struct tp_wire_piece *piece[TP_WIRE_HELD_MAX];
    uint32_t n;
} tp_wire_held;

/* Where records may be written. */
typedef struct tp_wire_room {
    uint64_t from, until; /* until 0: there is no end */
    uint64_t held;        /* strings behind this offset are copied, not held */
} tp_wire_room;

/* Holds the record from .. until, and makes a block of one item: the string of `len` bytes at the
 * offset `at`. NULL when that is not possible, and the string is to be copied. */
tp_block *tp_wire_hold(tp_wire_held *h, uint64_t from, uint64_t until, uint64_t at, uint32_t len);

/* Finds a gap at `begin` or behind it; is_endless: one behind all that is held. */
tp_wire_room tp_wire_find_room(tp_wire_held *h, uint64_t begin, bool is_endless);

/* The process is gone. What is held stays until it is freed. */
void tp_wire_held_close(tp_wire_held *h);

#endif
