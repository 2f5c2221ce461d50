/* stack.h: how far the C stack reaches that the calling thread runs on. */
#ifndef TP_STACK_H
#define TP_STACK_H

#include <stdbool.h>
#include <stdint.h>

/* Zeroed: not known yet. */
typedef struct tp_stack {
    uintptr_t low, high;
} tp_stack;

/* Are there still `bytes` below the caller's frame? True where it cannot be known, as on a stack that the program has made itself (a fiber). *known keeps what
 * was found out, which takes some microseconds. Owner of *known. */
bool tp_stack_has(tp_stack *known, uintptr_t bytes);

#endif
