/* atomic.c: operations on array elements that several threads change at once. Integers use the
 * processor's own instructions; floats and doubles use compare-and-swap, repeated until no other
 * thread has changed the element in between.
 *
 * Compiled Lua reads and writes the elements otherwise by plain accesses. These operations acquire
 * and release: they order what is before and after them only between threads that both use them. */
#include "base/atomic.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

/* Integers: sums wrap around, as unsigned ones do in C. */
#define DEFINE_INTEGER(T)                                                                          \
    static T T##_add(T *at, T v)                                                                   \
    {                                                                                              \
        return __atomic_fetch_add(at, v, __ATOMIC_ACQ_REL);                                        \
    }                                                                                              \
    DEFINE_EXTREME(T, T##_max, >)                                                                  \
    DEFINE_EXTREME(T, T##_min, <)                                                                  \
    static int T##_swap(T *at, T old, T new)                                                       \
    {                                                                                              \
        return __atomic_compare_exchange_n(at, &old, new, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);  \
    }

#define DEFINE_EXTREME(T, name, BEFORE)                                                            \
    static T name(T *at, T v)                                                                      \
    {                                                                                              \
        T was = __atomic_load_n(at, __ATOMIC_ACQUIRE);                                             \
        while (!(was BEFORE v) && was != v &&                                                      \
               !__atomic_compare_exchange_n(at, &was, v, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))   \
            ;                                                                                      \
        return was;                                                                                \
    }

/* Floats and doubles, as integers with the same bits. */
#define DEFINE_REAL(T, BITS)                                                                   \
    DEFINE_UPDATE(T, BITS, T##_add, was + v)                                                   \
    DEFINE_UPDATE(T, BITS, T##_max, was > v ? was : v)                                         \
    DEFINE_UPDATE(T, BITS, T##_min, was < v ? was : v)                                         \
    static int T##_swap(T *at, T old, T new)                                                   \
    {                                                                                          \
        BITS from, to;                                                                         \
        memcpy(&from, &old, sizeof from);                                                      \
        memcpy(&to, &new, sizeof to);                                                          \
        return __atomic_compare_exchange_n((BITS *)(void *)at, &from, to, 0, __ATOMIC_ACQ_REL, \
                                           __ATOMIC_ACQUIRE);                                  \
    }

#define DEFINE_UPDATE(T, BITS, name, MADE)                                          \
    static T name(T *at, T v)                                                       \
    {                                                                               \
        BITS bits = __atomic_load_n((BITS *)(void *)at, __ATOMIC_ACQUIRE), next;    \
        T was;                                                                      \
        do {                                                                        \
            memcpy(&was, &bits, sizeof was);                                        \
            T made = MADE;                                                          \
            memcpy(&next, &made, sizeof next);                                      \
        } while (!__atomic_compare_exchange_n((BITS *)(void *)at, &bits, next, 0,   \
                                              __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)); \
        return was == was ? was : (T)NAN;                                           \
    }

DEFINE_INTEGER(int32_t)
DEFINE_INTEGER(uint32_t)
DEFINE_INTEGER(int64_t)
DEFINE_INTEGER(uint64_t)
DEFINE_REAL(float, uint32_t)
DEFINE_REAL(double, uint64_t)

#define FUNCTIONS(T)                                                                               \
    {                                                                                              \
        (tp_atomic_function)T##_add, (tp_atomic_function)T##_max, (tp_atomic_function)T##_min,     \
            (tp_atomic_function)T##_swap                                                           \
    }

const tp_atomic_function *tp_atomic_functions(tp_type type)
{
    static const tp_atomic_function functions[TP_TYPES][TP_ATOMICS] = {
        [TP_DOUBLE] = FUNCTIONS(double), [TP_FLOAT] = FUNCTIONS(float),
        [TP_INT32] = FUNCTIONS(int32_t), [TP_UINT32] = FUNCTIONS(uint32_t),
        [TP_INT64] = FUNCTIONS(int64_t), [TP_UINT64] = FUNCTIONS(uint64_t),
    };
    return functions[type][0] ? functions[type] : NULL;
}
