/* sort.h: sorts numbers in place. */
#ifndef TP_SORT_H
#define TP_SORT_H

#include "base/array.h"

#include <stddef.h>

/* Sorts n elements at `data`, ascending: -0 before 0, NaNs last. Allocates room for n more
 * elements; -1 when there is none, and nothing has changed then. Any thread. */
int tp_sort(void *data, size_t n, tp_type type);

#endif
