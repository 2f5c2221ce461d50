/* sort.c: a radix sort of numbers.
 *
 * An element's bits are made into an unsigned key that sorts the same way. Keys are sorted by one
 * byte after the other, from the lowest on, which takes a pass over all of them for each byte in
 * which they differ. Then they are made into elements again. */
#include "base/sort.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { DIGITS = 256 };

/* How the bits of a type's elements become keys. */
typedef enum order { UNSIGNED, SIGNED, REAL } order;

static order order_of(tp_type type)
{
    switch (type) {
    case TP_DOUBLE:
    case TP_FLOAT:
        return REAL;
    case TP_INT8:
    case TP_INT16:
    case TP_INT32:
    case TP_INT64:
        return SIGNED;
    default:
        return UNSIGNED;
    }
}

/* For keys of one width. INFINITY_BITS: a positive infinity of a real type of that width, above
 * which are only NaNs. */
#define DEFINE_SORT(name, key, INFINITY_BITS)                                                 \
    static void name##_to_keys(key *p, size_t n, order o)                                     \
    {                                                                                         \
        const key top = (key)((key)1 << (8 * sizeof(key) - 1));                               \
        for (size_t i = 0; i < n; i++) {                                                      \
            key x = p[i];                                                                     \
            if (o == REAL && (x & (key)~top) > (key)(INFINITY_BITS))                          \
                p[i] = (key) ~(key)0;                                                         \
            else                                                                              \
                p[i] = o == REAL && (x & top) ? (key)~x : o == UNSIGNED ? x : (key)(x ^ top); \
        }                                                                                     \
    }                                                                                         \
                                                                                              \
    static void name##_of_keys(key *p, size_t n, order o)                                     \
    {                                                                                         \
        const key top = (key)((key)1 << (8 * sizeof(key) - 1));                               \
        for (size_t i = 0; i < n; i++)                                                        \
            p[i] = o == REAL && !(p[i] & top) ? (key)~p[i]                                    \
                   : o == UNSIGNED            ? p[i]                                          \
                                              : (key)(p[i] ^ top);                          \
    }                                                                                         \
                                                                                              \
    static void name(key *data, key *other, size_t n, order o)                                \
    {                                                                                         \
        size_t counts[sizeof(key)][DIGITS] = { { 0 } };                                       \
        name##_to_keys(data, n, o);                                                           \
        for (size_t i = 0; i < n; i++)                                                        \
            for (size_t d = 0; d < sizeof(key); d++)                                          \
                counts[d][(data[i] >> (8 * d)) & (DIGITS - 1)]++;                             \
        key *from = data, *to = other;                                                        \
        for (size_t d = 0; d < sizeof(key); d++) {                                            \
            if (counts[d][(from[0] >> (8 * d)) & (DIGITS - 1)] == n)                          \
                continue; /* all have the same digit */                                       \
            size_t at = 0;                                                                    \
            for (size_t k = 0; k < DIGITS; k++) {                                             \
                size_t count = counts[d][k];                                                  \
                counts[d][k] = at;                                                            \
                at += count;                                                                  \
            }                                                                                 \
            for (size_t i = 0; i < n; i++)                                                    \
                to[counts[d][(from[i] >> (8 * d)) & (DIGITS - 1)]++] = from[i];               \
            key *swap = from;                                                                 \
            from = to;                                                                        \
            to = swap;                                                                        \
        }                                                                                     \
        if (from != data)                                                                     \
            memcpy(data, from, n * sizeof(key));                                              \
        name##_of_keys(data, n, o);                                                           \
    }

DEFINE_SORT(sort_8, uint8_t, INT8_MAX)
DEFINE_SORT(sort_16, uint16_t, INT16_MAX)
DEFINE_SORT(sort_32, uint32_t, 0x7f800000)
DEFINE_SORT(sort_64, uint64_t, 0x7ff0000000000000)

int tp_sort(void *data, size_t n, tp_type type)
{
    if (n < 2)
        return 0;
    size_t size = tp_type_size(type);
    void *other = malloc(n * size);
    if (!other)
        return -1;
    order o = order_of(type);
    if (size == 1)
        sort_8(data, other, n, o);
    else if (size == 2)
        sort_16(data, other, n, o);
    else if (size == 4)
        sort_32(data, other, n, o);
    else
        sort_64(data, other, n, o);
    free(other);
    return 0;
}
