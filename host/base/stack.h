/* stack.h: how far the C stack reaches that the calling thread runs on. */
#ifndef TP_STACK_H
#define TP_STACK_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: not known yet. */
typedef struct tp_stack {
    uintptr_t low, high;
} tp_stack;

/* Is there room for `bytes` more below the caller's frame? True where that cannot be known, as on a
 * stack that the program has made itself (a fiber). *known caches the bounds, since finding them
 * takes some microseconds; it belongs to the caller. */
bool tp_stack_has(tp_stack *known, uintptr_t bytes);

#endif
