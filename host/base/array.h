/* array.h: the memory of typed arrays: counted, never copied, shared by all Lua states of the
 * process and by worker processes.
 *
 * What an array looks like to users (element types, bounds, views) is lua/tidepool/array.lua's
 * business; here it is bytes. Memory that nobody holds any more is kept for a while, so that the
 * next result array of that size costs no page faults (which cost more than the work on it: a page
 * fault is some 0.25 us, for 512 doubles).
 *
 * In a host that has used worker processes, arrays lie in an unnamed file (a memfd), each in a part
 * of its own, so that a worker process can map the arrays that it is lent. A part that was given
 * back to the system is never used again: a mapping of it that some process still has shows
 * nothing, and no other array. Most systems back such a file with small pages: the first write to
 * it takes four times as long as with huge pages, and reads at random half as long again. So other
 * hosts have their arrays in private memory. Where there can be no such file, and for arrays that a
 * worker process makes itself (their memory counts under the option `memory`), `at` is negative:
 * they are private to the process, and travel as copies. */
#ifndef TP_ARRAY_H
#define TP_ARRAY_H

#include "base/error.h"
#include "base/ref.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Element types: TP_name, as users write it, as C does. A type's number is its place in this list.
 * Lua gets the list from here (scripts/abi.c). */
#define TP_ELEMENT_TYPES(X) \
    X(DOUBLE, double, double) X(FLOAT, float, float) X(INT8, int8, int8_t) \
    X(UINT8, uint8, uint8_t) X(INT16, int16, int16_t) X(UINT16, uint16, uint16_t) \
    X(INT32, int32, int32_t) X(UINT32, uint32, uint32_t) X(INT64, int64, int64_t) \
    X(UINT64, uint64, uint64_t)

typedef enum tp_type {
#define TP_ELEMENT(name, in_lua, in_c) TP_##name,
    TP_ELEMENT_TYPES(TP_ELEMENT)
#undef TP_ELEMENT
    TP_TYPES
} tp_type;

enum { TP_COLUMNS_MAX = 8 }; /* arguments, or results, that cross as columns of numbers */

size_t tp_type_size(tp_type type);

/* Element `at` of a column, as a number: those of 64-bit integers are rounded. */
static inline double tp_element_load(tp_type type, const void *column, size_t at)
{
    switch (type) {
    case TP_DOUBLE: return ((const double *)column)[at];
    case TP_FLOAT: return ((const float *)column)[at];
    case TP_INT8: return ((const int8_t *)column)[at];
    case TP_UINT8: return ((const uint8_t *)column)[at];
    case TP_INT16: return ((const int16_t *)column)[at];
    case TP_UINT16: return ((const uint16_t *)column)[at];
    case TP_INT32: return ((const int32_t *)column)[at];
    case TP_UINT32: return ((const uint32_t *)column)[at];
    case TP_INT64: return (double)((const int64_t *)column)[at];
    default: return (double)((const uint64_t *)column)[at];
    }
}

/* LuaJIT reads other NaNs as its tagged values, so the NaNs among n elements are given the one
 * pattern that it knows. */
void tp_make_canonical(tp_type type, void *column, size_t n);

/* Where freed memory waits to be used again. One per host; any thread. */
typedef struct tp_array_pool tp_array_pool;

/* *fork_mark is 1, and 0 in a forked child, where the kernel has cleared its page
 * (tp_host.fork_mark): arrays made there are private to it. is_quiet(user) says whether no other
 * thread of the process can write to an array now, nor until the caller has returned; see
 * tp_array_share. */
int tp_array_pool_open(tp_array_pool **out, const volatile char *fork_mark,
                       bool (*is_quiet)(void *user), void *user, tp_error *err);

/* From now on new arrays are placed in the file. Any thread. */
void tp_array_pool_share(tp_array_pool *pool);

/* Accepts NULL. No array of it may be left. */
void tp_array_pool_close(tp_array_pool *pool);

/* Bytes of the arrays that somebody holds, in whole pages. Any thread. */
size_t tp_array_pool_live(const tp_array_pool *pool);

/* The file that arrays lie in, in a worker process those of its host; the descriptor belongs to the
 * pool, or the process. -1: there is none, and never will be. Any thread. */
int tp_array_pool_file(tp_array_pool *pool);

struct tp_array;

/* Whoever keeps copies of arrays elsewhere (on devices, gpu/opencl/copies.c): see tp_array.keeper.
 * `forget` is called when nobody holds the array any more, on the thread that dropped it last. */
typedef struct tp_array_keeper {
    void (*forget)(struct tp_array_keeper *keeper, struct tp_array *a);
} tp_array_keeper;

typedef struct tp_array {
    tp_ref ref;
    /* An element may have been changed since the keeper last looked. Written by everybody who sets
     * elements, after the element: also by Lua (lua/tidepool/array.lua), with a plain store, so
     * that the order is that of the processor's stores. */
    _Atomic uint8_t is_touched;
    /* Elements may be changed at any time without is_touched being set: somebody has a pointer to
     * them (array.data), or another process or a device has the memory. Set by tp_array_expose,
     * never cleared. */
    _Atomic uint8_t is_exposed;
    /* Read-only; the bytes are the users' to share, without a lock: that is what arrays are for. */
    tp_array_pool *pool;
    void *data; /* aligned to 4096 bytes */
    size_t size, capacity;
    /* where it lies in the file; negative: it is private to this process. Written by
     * tp_array_share */
    _Atomic int64_t at;
    uint32_t id; /* of a borrowed array: the host's id for it */
    struct tp_array *next; /* in the pool, when nobody holds it; guarded by the pool's lock */
    /* Who has copies of it on devices, or NULL: there are none. The keeper writes it, with its lock
     * held (release; acquire), and ends when nobody else runs. */
    tp_array_keeper *_Atomic keeper;
    /* ---- the keeper's, under its lock ---- */
    void *copies;     /* the first of them */
    uint64_t version; /* moves on when copies that are being made are outdated */
} tp_array;

/* Somebody may change elements from now on whenever they like. Any thread. */
static inline void tp_array_expose(tp_array *a)
{
    atomic_store_explicit(&a->is_exposed, 1, memory_order_relaxed);
}

/* Elements were changed. Any thread, after the change. */
static inline void tp_array_touch(tp_array *a)
{
    atomic_store_explicit(&a->is_touched, 1, memory_order_release);
}

/* Called when a map begins that reads the array: if it is exposed, it may have been changed
 * silently, so it counts as touched. Any thread. */
static inline void tp_array_look(tp_array *a)
{
    if (atomic_load_explicit(&a->is_exposed, memory_order_relaxed))
        tp_array_touch(a);
}

/* An array as scripts have it: an FFI struct for each element type. `memory` is held; NULL: there
 * is none yet. */
typedef struct tp_array_view {
    void *data; /* the first element */
    double length, columns; /* elements in all, and in a row; 0: it is no matrix */
    double planes; /* how many matrices one behind the other it is; 0: it is none, or one */
    tp_array *memory;
} tp_array_view;

extern const tp_ref_type tp_array_type;

/* Memory of `size` bytes with one owner; `zeroed`: all zero, else with undefined contents. NULL
 * when out of memory. Any thread. */
tp_array *tp_array_new(tp_array_pool *pool, size_t size, bool zeroed);

/* Does the array lie in the file? In a pool that shares, one that does not is moved there; what it
 * holds, and its address, stay. Not while other threads may write to it: then it remains where it
 * is. The host's owner, or the thread of an item. */
bool tp_array_share(tp_array *a);

/* ---- in a worker process ---- */

/* Where an array of the host's lies in the file. */
typedef struct tp_array_place {
    /* address: where the host has mapped it; it is mapped there here too, if that is free */
    uint64_t at, size, capacity, address;
    uint32_t id;
} tp_array_place;

/* Called before the first array: arrays in the file `fd` can be borrowed (-1: none can). `returned`
 * is called for each borrowed array that nobody here holds any more. */
void tp_array_pool_adopt(tp_array_pool *pool, int fd,
                         void (*returned)(void *user, const tp_array *a), void *user);

/* Borrows an array of the host's; it has one owner here. NULL when out of memory. Only one thread
 * may call this. */
tp_array *tp_array_borrow(tp_array_pool *pool, const tp_array_place *place);

#endif
