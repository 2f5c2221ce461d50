/* carrier.h: the thread of a coordinator, which takes slices for its flights and does all that
 * there is to be done for them, in turns. */
#ifndef TP_CARRIER_H
#define TP_CARRIER_H

#include <stdbool.h>
#include <stdint.h>

typedef struct cluster cluster;

/* carrier.c's own. */
struct rounds {
    uint64_t alone_ns; /* when a worker was last there; */
    bool has_said;     /* that nobody is */
    uint64_t purged;   /* groups of results that were removed; */
    uint64_t purge_until, purge_ns; /* those before this one are to be, at this time (0: none) */
    uint64_t stuck_ns; /* since when all wait; 0: they do not */
    bool is_behind;    /* there are more events than one turn handles */
    uint64_t look_ns;
};

/* The thread's function; `user` is the cluster. It ends when that is to stop (has_ended). */
void tp_carrier_run(void *user);

#endif
