/* store.c: dictionaries and queues that all workers share: see store.h. */
#include "engine/store.h"

#include <stdlib.h>
#include <string.h>

static void drop_value(tp_stored *v)
{
    tp_ref_drop(v->packed);
    v->packed = NULL;
}

static tp_stored hold_value(const tp_stored *v)
{
    if (v->packed)
        tp_ref_hold(v->packed);
    return *v;
}

/* ---- dictionaries ---- */

typedef struct entry {
    struct entry *next; /* in the same slot */
    uint64_t hash, version;
    tp_stored value;
    size_t len;
    char key[];
} entry;

struct tp_dict {
    tp_ref ref;
    uv_mutex_t lock; /* guards what follows */
    entry **slots;
    size_t n_slots, n; /* n_slots: a power of two; n: entries */
    uint64_t version;  /* the last version that was given to an entry */
};

static void free_dict(tp_ref *r)
{
    tp_dict *d = (tp_dict *)(void *)r;
    for (size_t i = 0; i < d->n_slots; i++)
        for (entry *e = d->slots[i], *next; e; e = next) {
            next = e->next;
            drop_value(&e->value);
            free(e);
        }
    free(d->slots);
    uv_mutex_destroy(&d->lock);
    free(d);
}

const tp_ref_type tp_dict_type = { "tidepool.dict", free_dict };

int tp_dict_open(tp_dict **out, tp_error *err)
{
    tp_dict *d = calloc(1, sizeof *d);
    entry **slots = calloc(16, sizeof *slots);
    if (!d || !slots || uv_mutex_init(&d->lock)) {
        free(slots);
        free(d);
        return tp_error_oom(err, "dictionary");
    }
    tp_ref_init(&d->ref, &tp_dict_type);
    d->slots = slots;
    d->n_slots = 16;
    *out = d;
    return 0;
}

static uint64_t hash_of(const char *key, size_t len)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 1099511628211ull;
    return h ^ h >> 29;
}

/* Locked. The place of the pointer to the entry, or the place where it belongs. */
static entry **find(const tp_dict *d, uint64_t hash, const char *key, size_t len)
{
    entry **at = &d->slots[hash & (d->n_slots - 1)];
    while (*at && ((*at)->hash != hash || (*at)->len != len || memcmp((*at)->key, key, len) != 0))
        at = &(*at)->next;
    return at;
}

/* Locked. Doubles the number of slots. Without memory for that, the dictionary stays as it is,
 * which is only slower. */
static void grow(tp_dict *d)
{
    size_t n = 2 * d->n_slots;
    entry **slots = calloc(n, sizeof *slots);
    if (!slots)
        return;
    for (size_t i = 0; i < d->n_slots; i++)
        for (entry *e = d->slots[i], *next; e; e = next) {
            next = e->next;
            e->next = slots[e->hash & (n - 1)];
            slots[e->hash & (n - 1)] = e;
        }
    free(d->slots);
    d->slots = slots;
    d->n_slots = n;
}

/* Locked. A new entry without a value yet; NULL when out of memory. */
static entry *insert(tp_dict *d, uint64_t hash, const char *key, size_t len)
{
    entry *e = calloc(1, sizeof *e + len);
    if (!e)
        return NULL;
    e->hash = hash;
    e->len = len;
    memcpy(e->key, key, len);
    if (d->n >= d->n_slots)
        grow(d);
    entry **slot = &d->slots[hash & (d->n_slots - 1)];
    e->next = *slot;
    *slot = e;
    d->n++;
    return e;
}

uint64_t tp_dict_get(tp_dict *d, const char *key, size_t len, tp_stored *value)
{
    uint64_t hash = hash_of(key, len), version = 0;
    uv_mutex_lock(&d->lock);
    const entry *e = *find(d, hash, key, len);
    if (e) {
        version = e->version;
        *value = hold_value(&e->value);
    }
    uv_mutex_unlock(&d->lock);
    return version;
}

int tp_dict_put(tp_dict *d, const char *key, size_t len, const tp_stored *value, uint64_t expected,
                bool *is_put, tp_error *err)
{
    uint64_t hash = hash_of(key, len);
    tp_stored old = { 0 };
    bool has_memory = true;
    uv_mutex_lock(&d->lock);
    entry *e = *find(d, hash, key, len);
    *is_put = expected == TP_VERSION_ANY || expected == (e ? e->version : 0);
    if (*is_put && !e) {
        e = insert(d, hash, key, len);
        *is_put = has_memory = e != NULL;
    }
    if (*is_put) {
        old = e->value;
        e->value = *value;
        e->version = ++d->version;
    }
    uv_mutex_unlock(&d->lock);
    drop_value(&old);
    return has_memory ? 0 : tp_error_oom(err, "dictionary");
}

int tp_dict_add(tp_dict *d, const char *key, size_t len, double by, double *sum, tp_error *err)
{
    uint64_t hash = hash_of(key, len);
    uv_mutex_lock(&d->lock);
    entry *e = *find(d, hash, key, len);
    if (!e)
        e = insert(d, hash, key, len);
    bool is_number = e && !e->value.packed;
    if (is_number) {
        *sum = e->value.number += by;
        e->version = ++d->version;
    }
    uv_mutex_unlock(&d->lock);
    if (!e)
        return tp_error_oom(err, "dictionary");
    return is_number ? 0 : tp_error_set(err, TP_EUSAGE, "what is there is no number");
}

bool tp_dict_pop(tp_dict *d, const char *key, size_t len, uint64_t expected, tp_stored *value)
{
    uint64_t hash = hash_of(key, len);
    uv_mutex_lock(&d->lock);
    entry **at = find(d, hash, key, len), *e = *at;
    bool is_taken = e && (expected == TP_VERSION_ANY || expected == e->version);
    if (is_taken) {
        *at = e->next;
        d->n--;
    }
    uv_mutex_unlock(&d->lock);
    if (is_taken) {
        *value = e->value;
        free(e);
    }
    return is_taken;
}

size_t tp_dict_count(tp_dict *d)
{
    uv_mutex_lock(&d->lock);
    size_t n = d->n;
    uv_mutex_unlock(&d->lock);
    return n;
}

void tp_entries_free(tp_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(entries[i].key);
        drop_value(&entries[i].value);
    }
    free(entries);
}

/* Locked. Copies the entries; false when out of memory, with *n of them copied. */
static bool copy_entries(const tp_dict *d, tp_entry *entries, size_t *n)
{
    for (size_t i = 0; i < d->n_slots; i++)
        for (const entry *e = d->slots[i]; e; e = e->next) {
            char *key = malloc(e->len ? e->len : 1);
            if (!key)
                return false;
            memcpy(key, e->key, e->len);
            entries[(*n)++] = (tp_entry){ key, e->len, hold_value(&e->value) };
        }
    return true;
}

tp_entry *tp_dict_snapshot(tp_dict *d, size_t *n, tp_error *err)
{
    *n = 0;
    uv_mutex_lock(&d->lock);
    tp_entry *entries = d->n ? calloc(d->n, sizeof *entries) : NULL;
    bool is_whole = d->n == 0 || (entries && copy_entries(d, entries, n));
    uv_mutex_unlock(&d->lock);
    if (is_whole)
        return entries;
    tp_entries_free(entries, *n);
    *n = 0;
    tp_error_oom(err, "snapshot");
    return NULL;
}

/* ---- queues ---- */

struct tp_store_queue {
    tp_ref ref;
    uint64_t capacity; /* read-only */
    uv_mutex_t lock;   /* guards what follows */
    uv_cond_t changed;
    tp_stored *values; /* a ring */
    size_t room, first, n;
    unsigned waiting; /* threads in tp_store_queue_wait */
    bool is_closed;
};

static void free_queue(tp_ref *r)
{
    tp_store_queue *q = (tp_store_queue *)(void *)r;
    for (size_t i = 0; i < q->n; i++)
        drop_value(&q->values[(q->first + i) % q->room]);
    free(q->values);
    uv_cond_destroy(&q->changed);
    uv_mutex_destroy(&q->lock);
    free(q);
}

const tp_ref_type tp_store_queue_type = { "tidepool.queue", free_queue };

int tp_store_queue_open(tp_store_queue **out, uint64_t capacity, tp_error *err)
{
    tp_store_queue *q = calloc(1, sizeof *q);
    if (!q || uv_mutex_init(&q->lock)) {
        free(q);
        return tp_error_oom(err, "queue");
    }
    if (uv_cond_init(&q->changed)) {
        uv_mutex_destroy(&q->lock);
        free(q);
        return tp_error_oom(err, "queue");
    }
    tp_ref_init(&q->ref, &tp_store_queue_type);
    q->capacity = capacity;
    *out = q;
    return 0;
}

/* Locked. Room for one more value; false when out of memory. */
static bool make_room(tp_store_queue *q)
{
    if (q->n < q->room)
        return true;
    size_t room = q->room ? 2 * q->room : 16;
    tp_stored *values = malloc(room * sizeof *values);
    if (!values)
        return false;
    for (size_t i = 0; i < q->n; i++)
        values[i] = q->values[(q->first + i) % q->room];
    free(q->values);
    q->values = values;
    q->room = room;
    q->first = 0;
    return true;
}

/* Locked. */
static void tell(tp_store_queue *q)
{
    if (q->waiting)
        uv_cond_broadcast(&q->changed);
}

static bool is_full(const tp_store_queue *q)
{
    return q->capacity && q->n >= q->capacity;
}

tp_moved tp_store_queue_put(tp_store_queue *q, const tp_stored *value)
{
    tp_moved moved = TP_MOVED;
    uv_mutex_lock(&q->lock);
    if (q->is_closed)
        moved = TP_CLOSED;
    else if (is_full(q))
        moved = TP_NOT_YET;
    else if (!make_room(q))
        moved = TP_NO_ROOM;
    if (moved == TP_MOVED) {
        q->values[(q->first + q->n++) % q->room] = *value;
        tell(q);
    }
    uv_mutex_unlock(&q->lock);
    return moved;
}

tp_moved tp_store_queue_take(tp_store_queue *q, tp_stored *value)
{
    uv_mutex_lock(&q->lock);
    tp_moved moved = q->n ? TP_MOVED : q->is_closed ? TP_CLOSED : TP_NOT_YET;
    if (moved == TP_MOVED) {
        *value = q->values[q->first];
        q->first = (q->first + 1) % q->room;
        q->n--;
        tell(q);
    }
    uv_mutex_unlock(&q->lock);
    return moved;
}

void tp_store_queue_close(tp_store_queue *q)
{
    uv_mutex_lock(&q->lock);
    q->is_closed = true;
    tell(q);
    uv_mutex_unlock(&q->lock);
}

bool tp_store_queue_is_closed(tp_store_queue *q)
{
    uv_mutex_lock(&q->lock);
    bool is = q->is_closed;
    uv_mutex_unlock(&q->lock);
    return is;
}

size_t tp_store_queue_count(tp_store_queue *q)
{
    uv_mutex_lock(&q->lock);
    size_t n = q->n;
    uv_mutex_unlock(&q->lock);
    return n;
}

/* Locked. */
static bool is_ready(const tp_store_queue *q, bool for_room)
{
    return q->is_closed || (for_room ? !is_full(q) : q->n > 0);
}

bool tp_store_queue_is_ready(tp_store_queue *q, bool for_room)
{
    uv_mutex_lock(&q->lock);
    bool is = is_ready(q, for_room);
    uv_mutex_unlock(&q->lock);
    return is;
}

void tp_store_queue_wait(tp_store_queue *q, bool for_room, uint64_t ns)
{
    uv_mutex_lock(&q->lock);
    q->waiting++;
    if (!is_ready(q, for_room))
        uv_cond_timedwait(&q->changed, &q->lock, ns);
    q->waiting--;
    uv_mutex_unlock(&q->lock);
}
