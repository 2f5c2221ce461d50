/* array.h: the memory of typed arrays: counted, shared by all Lua states of the process, never copied.
 *
 * What an array looks like to users (element types, bounds, views) is lua/tidepool/array.lua's business; here it is bytes. Memory that
 * nobody holds any more is kept for a while, so that the next result array of that size costs no page faults (which cost more
 * than the work on it: a page fault is some 0.25 us, for 512 doubles). */
#ifndef TP_ARRAY_H
#define TP_ARRAY_H

#include "error.h"
#include "ref.h"

#include <stdbool.h>
#include <stddef.h>

/* Element types, by the numbers that lua/tidepool/array.lua gives them. */
typedef enum tp_type {
    TP_DOUBLE, TP_FLOAT, TP_INT8, TP_UINT8, TP_INT16, TP_UINT16, TP_INT32, TP_UINT32, TP_INT64, TP_UINT64, TP_TYPES
} tp_type;

enum { TP_COLUMNS_MAX = 8 }; /* arguments, or results, that cross as columns of numbers */

size_t tp_type_size(tp_type type);

/* Where freed memory waits to be used again. One per host; any thread. */
typedef struct tp_array_pool tp_array_pool;

int tp_array_pool_open(tp_array_pool **out, tp_error *err);

/* Accepts NULL. No array of it may be left. */
void tp_array_pool_close(tp_array_pool *pool);

/* Bytes of the arrays that somebody holds, in whole pages. Any thread. */
size_t tp_array_pool_live(const tp_array_pool *pool);

typedef struct tp_array {
    tp_ref ref;
    /* Read-only; the bytes are the users' to share, without a lock: that is what arrays are for. */
    tp_array_pool *pool;
    void *data; /* aligned to 4096 bytes */
    size_t size, capacity;
    struct tp_array *next; /* in the pool, when nobody holds it; guarded by the pool's lock */
} tp_array;

extern const tp_ref_type tp_array_type;

/* Memory of `size` bytes with one owner; zeroed if asked for, else with any contents. NULL when out of memory. Any thread. */
tp_array *tp_array_new(tp_array_pool *pool, size_t size, bool zeroed);

#endif
