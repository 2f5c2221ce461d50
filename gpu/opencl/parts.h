/* parts.h: bytes from..to-1 of something: a sorted list of ranges that do not touch. */
#ifndef TP_PARTS_H
#define TP_PARTS_H

#include <stdbool.h>
#include <stddef.h>

typedef struct tp_part {
    size_t from, to;
} tp_part;

/* All zero: none. */
typedef struct tp_parts {
    tp_part *list; /* owned */
    unsigned n, capacity;
} tp_parts;

void tp_parts_free(tp_parts *s);

/* False when out of memory: then nothing was added. */
bool tp_parts_add(tp_parts *s, size_t from, size_t to);

/* Removes from..to-1 from the ranges. The first time after tp_parts_add a range can be cut in two
 * without memory; later that may be waited for. */
void tp_parts_remove(tp_parts *s, size_t from, size_t to);

/* The first part of from..to-1 that is in the list (`is_in`) or is not; false when there is
 * none. */
bool tp_parts_find(const tp_parts *s, bool is_in, size_t from, size_t to, tp_part *found);

#endif
