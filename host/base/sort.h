/* sort.h: numbers in their order. */
#ifndef TP_SORT_H
#define TP_SORT_H

#include "base/array.h"

#include <stddef.h>

/* Sorts n elements of that type at `data` in their place: the least first, -0 before 0, NaNs last. It takes memory for as many: 0, or -1 when there is
 * none, and nothing has changed. Any thread. */
int tp_sort(void *data, size_t n, tp_type type);

#endif
