/* array.c: the memory of typed arrays, and the pool of what is free. */
#include "array.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <uv.h>

enum {
    PAGE = 4096,
    HUGE_PAGE = 2 << 20,       /* larger arrays ask for huge pages: fewer faults */
    KEPT_BYTES_MAX = 256 << 20 /* free memory that is kept */
};

/* A piece of free memory; its header lies in it. */
typedef struct piece {
    struct piece *next;
    size_t capacity;
} piece;

struct tp_array_pool {
    _Atomic size_t live; /* bytes; relaxed: only a count */
    uv_mutex_t lock;
    /* ---- guarded by lock ---- */
    piece *free; /* the one that was freed last first */
    size_t kept; /* bytes */
};

size_t tp_type_size(tp_type type)
{
    static const unsigned char sizes[TP_TYPES] = { 8, 4, 1, 1, 2, 2, 4, 4, 8, 8 };
    return sizes[type];
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

static void unmap(piece *p)
{
    while (p) {
        piece *next = p->next;
        munmap(p, p->capacity);
        p = next;
    }
}

void tp_array_pool_close(tp_array_pool *pool)
{
    if (!pool)
        return;
    unmap(pool->free);
    uv_mutex_destroy(&pool->lock);
    free(pool);
}

/* A free piece of at least that size and at most a quarter more; NULL when there is none. */
static piece *find(tp_array_pool *pool, size_t capacity)
{
    uv_mutex_lock(&pool->lock);
    piece **at = &pool->free;
    while (*at && ((*at)->capacity < capacity || (*at)->capacity > capacity + capacity / 4))
        at = &(*at)->next;
    piece *p = *at;
    if (p) {
        *at = p->next;
        pool->kept -= p->capacity;
    }
    uv_mutex_unlock(&pool->lock);
    return p;
}

/* Keeps a piece; what has been free for longest goes back to the system when it is too much. */
static void keep(tp_array_pool *pool, piece *p)
{
    uv_mutex_lock(&pool->lock);
    p->next = pool->free;
    pool->free = p;
    pool->kept += p->capacity;
    piece **at = &pool->free;
    piece *surplus = NULL;
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
    unmap(surplus);
}

static void free_array(tp_ref *r)
{
    tp_array *a = (tp_array *)r;
    piece *p = a->data;
    p->capacity = a->capacity;
    atomic_fetch_sub_explicit(&a->pool->live, a->capacity, memory_order_relaxed);
    keep(a->pool, p);
    free(a);
}

const tp_ref_type tp_array_type = { "tidepool.memory", free_array };

tp_array *tp_array_new(tp_array_pool *pool, size_t size, bool zeroed)
{
    if (size > SIZE_MAX - HUGE_PAGE)
        return NULL;
    size_t unit = size >= HUGE_PAGE ? HUGE_PAGE : PAGE;
    size_t capacity = size ? (size + unit - 1) / unit * unit : PAGE;
    tp_array *a = malloc(sizeof *a);
    if (!a)
        return NULL;
    void *data = find(pool, capacity);
    if (data) {
        capacity = ((piece *)data)->capacity;
        if (zeroed)
            memset(data, 0, size);
    } else {
        data = mmap(NULL, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (data == MAP_FAILED) {
            free(a);
            return NULL;
        }
        if (capacity >= HUGE_PAGE)
            madvise(data, capacity, MADV_HUGEPAGE);
    }
    atomic_fetch_add_explicit(&pool->live, capacity, memory_order_relaxed);
    tp_ref_init(&a->ref, &tp_array_type);
    a->pool = pool;
    a->data = data;
    a->size = size;
    a->capacity = capacity;
    return a;
}
