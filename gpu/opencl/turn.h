/* turn.h: launches that change arrays, one after the other.
 *
 * Like a mutex, but for one thing: a launch that was given up and does not end, since its kernel
 * never does, loses its turn, so that the launches behind it do not wait for ever. */
#ifndef TP_TURN_H
#define TP_TURN_H

#include "engine/work.h"

#include <uv.h>

typedef struct tp_turn {
    uv_mutex_t lock; /* taken before the engine's lock */
    uv_cond_t ended;
    /* guarded by lock: the work of the launch whose turn it is; NULL: there is none */
    const tp_work *owner;
} tp_turn;

int tp_turn_open(tp_turn *t, tp_error *err);

/* No launch may be under way. */
void tp_turn_close(tp_turn *t);

/* Waits until it is the turn of a launch for that work. */
void tp_turn_begin(tp_turn *t, const tp_work *w);

/* It has run; it need not have the turn any more. */
void tp_turn_end(tp_turn *t, const tp_work *w);

#endif
