/* array.c: the memory of typed arrays, and the pool of what is free. "Locked" functions are called
 * with pool->lock held. */
#include "base/array.h"

#include "base/mapping.h"
#include "base/system.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000 /* kernels before 4.17 ignore this, and may map elsewhere */
#endif

enum {
    STEP = 4096, /* of which it is looked whether all are zeros: at most a page */
    /* arrays of this size and more ask for huge pages, which cost fewer page faults */
    HUGE_PAGE = 2 << 20,
    KEPT_BYTES_MAX = 1 << 30,   /* free private memory that a pool keeps at most */
    /* Beyond this much the system may take back free private memory (MADV_FREE). It cannot do so
     * with pages of the file, so a pool whose arrays lie there keeps no more than this. */
    OWNED_BYTES_MAX = 256 << 20,
    /* the file grows by this much at a time; pages that were never written take no memory */
    FILE_STEP = 1 << 30,
    /* small arrays are cut from chunks that are mapped at once: a process may have 65,530
     * mappings */
    CHUNK = 4 << 20,
    SMALL_MAX = CHUNK / 4,
    MAPPINGS_MAX = 64          /* how many mappings of returned arrays a worker process keeps */
};

typedef struct mapping {
    uint64_t at, capacity, used; /* when it was returned, in ticks; 0: this entry is empty */
    void *data;
} mapping;

struct tp_array_pool {
    _Atomic size_t live; /* bytes; relaxed: only a count */
    /* new arrays are placed in the file; set once. Relaxed: an array made meanwhile may be
     * private */
    _Atomic bool shares;
    const volatile char *fork_mark;
    bool (*is_quiet)(void *user); /* see tp_array_pool_open */
    void *quiet_user;
    uv_mutex_t lock;
    /* ---- guarded by lock ---- */
    tp_array *free; /* arrays that nobody holds, the one freed last first */
    size_t kept; /* bytes */
    int file;    /* NO_FILE_YET, or -1: there can be none */
    uint64_t file_size, file_used;
    char *chunk; /* the rest of the chunk that small arrays are cut from */
    size_t chunk_left;
    int64_t chunk_at;

    /* ---- only in a worker process; touched by its one thread ---- */
    bool borrows;
    int lent; /* the descriptor of the host's file */
    void (*returned)(void *user, const tp_array *a);
    void *user;
    mapping mappings[MAPPINGS_MAX];
    uint64_t tick;
};

enum { NO_FILE_YET = -2 };

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

int tp_array_pool_open(tp_array_pool **out, const volatile char *fork_mark,
                       bool (*is_quiet)(void *user), void *user, tp_error *err)
{
    tp_array_pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return tp_error_oom(err, "memory for arrays");
    if (uv_mutex_init(&pool->lock)) {
        free(pool);
        return tp_error_set(err, TP_ESYS, "cannot create a lock");
    }
    pool->fork_mark = fork_mark;
    pool->is_quiet = is_quiet;
    pool->quiet_user = user;
    pool->file = NO_FILE_YET;
    *out = pool;
    return 0;
}

size_t tp_array_pool_live(const tp_array_pool *pool)
{
    return atomic_load_explicit(&pool->live, memory_order_relaxed);
}

/* ---- the file that arrays lie in ---- */

/* Locked. The file, made at its first use; -1: there can be none. */
static int file_of(tp_array_pool *pool)
{
    if (pool->file == NO_FILE_YET)
        pool->file = tp_system_promises_little() ? -1 : tp_memory_file_open("tidepool-arrays");
    return pool->file;
}

int tp_array_pool_file(tp_array_pool *pool)
{
    uv_mutex_lock(&pool->lock);
    int file = pool->borrows ? pool->lent : file_of(pool);
    uv_mutex_unlock(&pool->lock);
    return file;
}

/* Locked. Makes the file at least that long. Its pages take memory only when they are written. */
static bool grow_file(tp_array_pool *pool, uint64_t size)
{
    struct rlimit limit;
    uint64_t wanted = (size + FILE_STEP - 1) / FILE_STEP * FILE_STEP;
    if (size <= pool->file_size)
        return true;
    /* a larger file would raise SIGXFSZ */
    if (getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur < wanted)
        return false;
    int rc;
    do {
        rc = ftruncate(pool->file, (off_t)wanted);
    } while (rc && errno == EINTR);
    struct stat s;
    /* another process that has the file may have made it longer */
    if (rc && (fstat(pool->file, &s) || (uint64_t)s.st_size < wanted))
        return false;
    pool->file_size = wanted;
    return true;
}

/* Locked. Maps a part of the file that was never used before; NULL when there is none. */
static void *map_part(tp_array_pool *pool, size_t size, int64_t *at)
{
    uint64_t unit = size >= HUGE_PAGE ? HUGE_PAGE : tp_page_size(),
             from = (pool->file_used + unit - 1) / unit * unit;
    if (file_of(pool) < 0 || from + size > INT64_MAX / 2 || !grow_file(pool, from + size))
        return NULL;
    void *data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, pool->file,
                      (off_t)from);
    if (data == MAP_FAILED)
        return NULL;
    pool->file_used = from + size;
    *at = (int64_t)from;
    return data;
}

/* Locked. The same for a small array, cut from a chunk. */
static void *cut(tp_array_pool *pool, size_t size, int64_t *at)
{
    if (pool->chunk_left < size) {
        int64_t chunk_at;
        void *chunk = map_part(pool, CHUNK, &chunk_at);
        if (!chunk)
            return NULL;
        if (pool->chunk_left > 0)
            munmap(pool->chunk, pool->chunk_left);
        pool->chunk = chunk;
        pool->chunk_at = chunk_at;
        pool->chunk_left = CHUNK;
    }
    void *data = pool->chunk;
    *at = pool->chunk_at;
    pool->chunk += size;
    pool->chunk_at += (int64_t)size;
    pool->chunk_left -= size;
    return data;
}

/* Nobody uses the array any more: unmaps it, and gives its pages in the file back to the system. A
 * forked child leaves its parent's file alone. */
static void give_back(tp_array_pool *pool, const tp_array *a)
{
    munmap(a->data, a->capacity);
    if (a->at >= 0 && *pool->fork_mark)
        tp_memory_file_clear(pool->file, (uint64_t)a->at, a->capacity);
}

static bool shares(const tp_array_pool *pool)
{
    return atomic_load_explicit(&pool->shares, memory_order_relaxed) && *pool->fork_mark;
}

/* Memory in the file; NULL: there is none. */
static void *map_shared(tp_array_pool *pool, size_t capacity, int64_t *at)
{
    uv_mutex_lock(&pool->lock);
    void *data = capacity <= SMALL_MAX ? cut(pool, capacity, at) : map_part(pool, capacity, at);
    uv_mutex_unlock(&pool->lock);
    return data;
}

static void *map_private(void *where, size_t capacity)
{
    void *data = mmap(where, capacity, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (where ? MAP_FIXED : 0), -1, 0);
    return data == MAP_FAILED ? NULL : data;
}

/* Maps memory for the array and sets a->at. NULL when out of memory. */
static void *map(tp_array_pool *pool, tp_array *a, size_t capacity)
{
    int64_t at = -1;
    void *data = shares(pool) ? map_shared(pool, capacity, &at) : NULL;
    a->at = data ? at : -1;
    return data ? data : map_private(NULL, capacity);
}

/* Copies what is not zero: pages of the file that were never written take no memory. */
static void copy_pages(char *to, const char *from, size_t size)
{
    static const char zeros[STEP];
    for (size_t at = 0; at < size; at += STEP)
        if (memcmp(from + at, zeros, STEP) != 0)
            memcpy(to + at, from + at, STEP);
}

bool tp_array_share(tp_array *a)
{
    tp_array_pool *pool = a->pool;
    if (a->at >= 0)
        return true;
    if (!shares(pool) || !pool->is_quiet(pool->quiet_user))
        return false;
    int64_t at;
    char *data = map_shared(pool, a->capacity, &at);
    if (!data)
        return false;
    copy_pages(data, a->data, a->capacity);
    if (tp_map_move(data, a->capacity, a->capacity, a->data, pool->file, at) == MAP_FAILED) {
        /* The failed mremap may have unmapped the array's own memory: map it again. */
        if (map_private(a->data, a->capacity))
            copy_pages(a->data, data, a->capacity);
        munmap(data, a->capacity);
        return false;
    }
    a->at = at;
    return true;
}

/* ---- free arrays ---- */

static void free_list(tp_array_pool *pool, tp_array *a)
{
    while (a) {
        tp_array *next = a->next;
        give_back(pool, a);
        free(a);
        a = next;
    }
}

void tp_array_pool_share(tp_array_pool *pool)
{
    if (pool->borrows || atomic_exchange_explicit(&pool->shares, true, memory_order_relaxed))
        return;
    uv_mutex_lock(&pool->lock);
    tp_array *free = pool->free;
    pool->free = NULL;
    pool->kept = 0;
    uv_mutex_unlock(&pool->lock);
    free_list(pool, free);
}

void tp_array_pool_close(tp_array_pool *pool)
{
    if (!pool)
        return;
    TP_ASSERT(tp_array_pool_live(pool) == 0);
    free_list(pool, pool->free);
    if (pool->chunk_left > 0)
        munmap(pool->chunk, pool->chunk_left);
    if (pool->file >= 0)
        close(pool->file);
    uv_mutex_destroy(&pool->lock);
    free(pool);
}

/* Takes a free array of at least that capacity and at most a quarter more; NULL when there is
 * none. */
static tp_array *find(tp_array_pool *pool, size_t capacity)
{
    uv_mutex_lock(&pool->lock);
    tp_array **at = &pool->free;
    const bool is_shared = shares(pool) && pool->file >= 0;
    while (*at && ((*at)->capacity < capacity || (*at)->capacity > capacity + capacity / 4 ||
                   (is_shared && (*at)->at < 0)))
        at = &(*at)->next;
    tp_array *a = *at;
    if (a) {
        *at = a->next;
        pool->kept -= a->capacity;
    }
    uv_mutex_unlock(&pool->lock);
    return a;
}

/* Keeps an array that nobody holds any more. Past KEPT_BYTES_MAX, those that have been free for
 * longest go back to the system. */
static void keep(tp_array_pool *pool, tp_array *a)
{
    uv_mutex_lock(&pool->lock);
    bool is_much = pool->kept + a->capacity > OWNED_BYTES_MAX;
    uv_mutex_unlock(&pool->lock);
    if (is_much && a->at < 0)
        /* the system may take these pages until they are written again */
        madvise(a->data, a->capacity, MADV_FREE);
    uv_mutex_lock(&pool->lock);
    a->next = pool->free;
    pool->free = a;
    pool->kept += a->capacity;
    tp_array **at = &pool->free, *surplus = NULL;
    const size_t most = shares(pool) ? OWNED_BYTES_MAX : KEPT_BYTES_MAX;
    if (pool->kept > most) {
        size_t sum = 0;
        while (*at && sum + (*at)->capacity <= most) {
            sum += (*at)->capacity;
            at = &(*at)->next;
        }
        surplus = *at;
        *at = NULL;
        pool->kept = sum;
    }
    uv_mutex_unlock(&pool->lock);
    free_list(pool, surplus);
}

/* ---- arrays that are borrowed from the host ---- */

/* Keeps the mapping of an array that is returned: the host reuses its free arrays, so it will often
 * lend this one again. */
static void keep_mapping(tp_array_pool *pool, const tp_array *a)
{
    mapping *oldest = pool->mappings;
    for (mapping *m = pool->mappings; m < pool->mappings + MAPPINGS_MAX; m++)
        if (m->used < oldest->used)
            oldest = m;
    if (oldest->used)
        munmap(oldest->data, oldest->capacity);
    *oldest = (mapping){ (uint64_t)a->at, a->capacity, ++pool->tick, a->data };
}

static void drop_mappings(tp_array_pool *pool)
{
    for (mapping *m = pool->mappings; m < pool->mappings + MAPPINGS_MAX; m++) {
        if (m->used)
            munmap(m->data, m->capacity);
        m->used = 0;
    }
}

static void *map_lent(tp_array_pool *pool, const tp_array_place *place)
{
    for (mapping *m = pool->mappings; m < pool->mappings + MAPPINGS_MAX; m++)
        if (m->used && m->at == place->at && m->capacity == place->capacity) {
            m->used = 0;
            return m->data;
        }
    void *data = MAP_FAILED, *wish = (void *)(uintptr_t)place->address;
    for (int i = 0; i < 4 && data == MAP_FAILED; i++) {
        if (i == 2)
            drop_mappings(pool);
        data = mmap(i % 2 ? NULL : wish, place->capacity, PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_NORESERVE | (i % 2 ? 0 : MAP_FIXED_NOREPLACE), pool->lent,
                    (off_t)place->at);
    }
    if (data == MAP_FAILED)
        return NULL;
    if (place->capacity >= HUGE_PAGE)
        madvise(data, place->capacity, MADV_HUGEPAGE);
    return data;
}

void tp_array_pool_adopt(tp_array_pool *pool, int fd,
                         void (*returned)(void *user, const tp_array *a), void *user)
{
    pool->borrows = true;
    pool->lent = fd;
    pool->returned = returned;
    pool->user = user;
}

tp_array *tp_array_borrow(tp_array_pool *pool, const tp_array_place *place)
{
    tp_array *a = malloc(sizeof *a);
    void *data = a ? map_lent(pool, place) : NULL;
    if (!data) {
        free(a);
        return NULL;
    }
    *a = (tp_array){ .pool = pool,
                     .data = data,
                     .size = place->size,
                     .capacity = place->capacity,
                     .at = (int64_t)place->at,
                     .id = place->id };
    atomic_fetch_add_explicit(&pool->live, a->capacity, memory_order_relaxed);
    tp_ref_init(&a->ref, &tp_array_type);
    return a;
}

/* ---- */

static void free_array(tp_ref *r)
{
    tp_array *a = (tp_array *)r;
    tp_array_pool *pool = a->pool;
    tp_array_keeper *keeper = atomic_load_explicit(&a->keeper, memory_order_acquire);
    if (keeper && *pool->fork_mark) /* a forked child has no devices */
        keeper->forget(keeper, a);
    atomic_fetch_sub_explicit(&pool->live, a->capacity, memory_order_relaxed);
    if (pool->borrows && a->at >= 0) {
        pool->returned(pool->user, a);
        keep_mapping(pool, a);
        free(a);
    } else if (*pool->fork_mark) {
        keep(pool, a);
    } else {
        give_back(pool, a);
        free(a);
    }
}

const tp_ref_type tp_array_type = { "tidepool.memory", free_array };

tp_array *tp_array_new(tp_array_pool *pool, size_t size, bool zeroed)
{
    if (size > SIZE_MAX - HUGE_PAGE)
        return NULL;
    size_t unit = size >= HUGE_PAGE ? HUGE_PAGE : tp_page_size();
    size_t capacity = size ? (size + unit - 1) / unit * unit : unit;
    tp_array *a = *pool->fork_mark ? find(pool, capacity) : NULL;
    if (a) {
        if (zeroed)
            memset(a->data, 0, size);
    } else {
        a = calloc(1, sizeof *a);
        if (!a)
            return NULL;
        a->data = map(pool, a, capacity);
        if (!a->data) {
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
    atomic_store_explicit(&a->is_touched, 0, memory_order_relaxed);
    atomic_store_explicit(&a->is_exposed, 0, memory_order_relaxed);
    a->size = size;
    return a;
}
