/* array.c: the memory of typed arrays, and the pool of what is free. */
#include "base/array.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <uv.h>

enum {
    PAGE = 4096,
    HUGE_PAGE = 2 << 20,        /* larger arrays ask for huge pages: fewer faults */
    KEPT_BYTES_MAX = 1 << 30,   /* free memory that is kept: as much as waits for the collector (lua/tidepool/array.lua) */
    OWNED_BYTES_MAX = 256 << 20 /* of it, what the system may not take when it needs memory */
};

struct tp_array_pool {
    _Atomic size_t live; /* bytes; relaxed: only a count */
    uv_mutex_t lock;
    /* ---- guarded by lock ---- */
    tp_array *free; /* without owners, the one that was freed last first */
    size_t kept; /* bytes */
};

size_t tp_type_size(tp_type type)
{
    static const unsigned char sizes[TP_TYPES] = {
#define SIZE(name, in_lua, in_c) sizeof(in_c),
        TP_ELEMENT_TYPES(SIZE)
#undef SIZE
    };
    return sizes[type];
}

void tp_make_canonical(tp_type type, void *column, size_t n)
{
    if (type == TP_DOUBLE) {
        for (size_t i = 0; i < n; i++)
            if (isnan(((double *)column)[i]))
                ((double *)column)[i] = NAN;
    } else if (type == TP_FLOAT) {
        for (size_t i = 0; i < n; i++)
            if (isnan(((float *)column)[i]))
                ((float *)column)[i] = NAN;
    }
}

int tp_array_pool_open(tp_array_pool **out, tp_error *err)
{
    tp_array_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return tp_error_oom(err, "memory for arrays");
    if (uv_mutex_init(&pool->lock)) {
        free(pool);
        return tp_error_set(err, TP_ESYS, "cannot create a lock");
    }
    *out = pool;
    return 0;
}

size_t tp_array_pool_live(const tp_array_pool *pool)
{
    return atomic_load_explicit(&pool->live, memory_order_relaxed);
}

static void free_list(tp_array *a)
{
    while (a) {
        tp_array *next = a->next;
        munmap(a->data, a->capacity);
        free(a);
        a = next;
    }
}

void tp_array_pool_close(tp_array_pool *pool)
{
    if (!pool)
        return;
    TP_ASSERT(tp_array_pool_live(pool) == 0);
    free_list(pool->free);
    uv_mutex_destroy(&pool->lock);
    free(pool);
}

/* A free one of at least that capacity and at most a quarter more; NULL when there is none. */
static tp_array *find(tp_array_pool *pool, size_t capacity)
{
    uv_mutex_lock(&pool->lock);
    tp_array **at = &pool->free;
    while (*at && ((*at)->capacity < capacity || (*at)->capacity > capacity + capacity / 4))
        at = &(*at)->next;
    tp_array *a = *at;
    if (a) {
        *at = a->next;
        pool->kept -= a->capacity;
    }
    uv_mutex_unlock(&pool->lock);
    return a;
}

/* Keeps one that nobody holds; what has been free for longest goes back to the system when it is too much. */
static void keep(tp_array_pool *pool, tp_array *a)
{
    uv_mutex_lock(&pool->lock);
    bool is_much = pool->kept + a->capacity > OWNED_BYTES_MAX;
    uv_mutex_unlock(&pool->lock);
    if (is_much)
        madvise(a->data, a->capacity, MADV_FREE); /* until it is written again */
    uv_mutex_lock(&pool->lock);
    a->next = pool->free;
    pool->free = a;
    pool->kept += a->capacity;
    tp_array **at = &pool->free, *surplus = NULL;
    if (pool->kept > KEPT_BYTES_MAX) {
        size_t sum = 0;
        while (*at && sum + (*at)->capacity <= KEPT_BYTES_MAX) {
            sum += (*at)->capacity;
            at = &(*at)->next;
        }
        surplus = *at;
        *at = NULL;
        pool->kept = sum;
    }
    uv_mutex_unlock(&pool->lock);
    free_list(surplus);
}

static void free_array(tp_ref *r)
{
    tp_array *a = (tp_array *)r;
    atomic_fetch_sub_explicit(&a->pool->live, a->capacity, memory_order_relaxed);
    keep(a->pool, a);
}

const tp_ref_type tp_array_type = { "tidepool.memory", free_array };

tp_array *tp_array_new(tp_array_pool *pool, size_t size, bool zeroed)
{
    if (size > SIZE_MAX - HUGE_PAGE)
        return NULL;
    size_t unit = size >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    size_t capacity = size ? (size + unit - 1) / unit * unit : PAGE;
    tp_array *a = find(pool, capacity);
    if (a) {
        if (zeroed)
            memset(a->data, 0, size);
    } else {
        a = malloc(sizeof *a);
        if (!a)
            return NULL;
        a->data = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (a->data == MAP_FAILED) {
            free(a);
            return NULL;
        }
        if (capacity >= HUGE_PAGE)
            madvise(a->data, capacity, MADV_HUGEPAGE);
        a->pool = pool;
        a->capacity = capacity;
    }
    atomic_fetch_add_explicit(&pool->live, a->capacity, memory_order_relaxed);
    tp_ref_init(&a->ref, &tp_array_type);
    a->size = size;
    return a;
}
