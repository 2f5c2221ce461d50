/* atomic.h: elements of arrays that several threads change at once. */
#ifndef TP_ATOMIC_H
#define TP_ATOMIC_H

#include "base/array.h"

/* The operations, in the order of tp_atomic_functions. Each but the last gives what the element was
 * before. */
typedef enum tp_atomic {
    TP_ATOMIC_ADD, /* T f(T *element, T v) */
    TP_ATOMIC_MAX, /* the same; what math.max gives of the two */
    TP_ATOMIC_MIN,
    TP_ATOMIC_SWAP, /* int f(T *element, T old, T new): 1 when the element had the bits of `old`,
                       and has those of `new` now */
    TP_ATOMICS
} tp_atomic;

/* The functions for an element type; NULL where it has none (8 and 16 bits). An element must lie at
 * a multiple of its size. LuaJIT compiles calls of them and does not check the NaNs that C returns,
 * so they return none but LuaJIT's own. */
typedef void (*tp_atomic_function)(void);
const tp_atomic_function *tp_atomic_functions(tp_type type);

#endif
