/* store.c: dictionaries and queues that all workers share: see store.h. */
#include "engine/store.h"

#include <math.h>
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

/* What all stores begin with; a stand-in has nothing more. */
struct tp_store {
    tp_ref ref;
    /* Set when it is made, read-only afterwards. */
    const tp_store_keeper *keeper; /* NULL: it is kept here */
    uint32_t id;
};

static void free_far(tp_store *s)
{
    s->keeper->drop(s->keeper->user, s->id);
    free(s);
}

/* ---- dictionaries ---- */

typedef struct entry {
    struct entry *next; /* in the same slot */
    uint64_t hash, version;
    tp_stored value;
    size_t len;
    char key[];
} entry;

typedef struct dict {
    tp_store base;
    uv_mutex_t lock; /* guards what follows */
    entry **slots;
    size_t n_slots, n; /* n_slots: a power of two; n: entries */
    uint64_t version;  /* the last version that was given to an entry */
} dict;

static void free_dict(tp_ref *r)
{
    dict *d = (dict *)(void *)r;
    if (d->base.keeper) {
        free_far(&d->base);
        return;
    }
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

static int open_dict(tp_store **out, tp_error *err)
{
    dict *d = calloc(1, sizeof *d);
    entry **slots = calloc(16, sizeof *slots);
    if (!d || !slots || uv_mutex_init(&d->lock)) {
        free(slots);
        free(d);
        return tp_error_oom(err, "dictionary");
    }
    tp_ref_init(&d->base.ref, &tp_dict_type);
    d->slots = slots;
    d->n_slots = 16;
    *out = &d->base;
    return 0;
}

static uint64_t hash_of(const char *key, size_t len)
{
    uint64_t h = 14695981039346656037ull; /* FNV-1a */
    for (size_t i = 0; i < len; i++)
        h = (h ^ (unsigned char)key[i]) * 1099511628211ull;
    return h ^ h >> 29;
}

/* Locked. The link that points to the key's entry; where there is none, the link at which a new
 * entry belongs. */
static entry **find(const dict *d, uint64_t hash, const char *key, size_t len)
{
    entry **at = &d->slots[hash & (d->n_slots - 1)];
    while (*at && ((*at)->hash != hash || (*at)->len != len || memcmp((*at)->key, key, len) != 0))
        at = &(*at)->next;
    return at;
}

/* Locked. Doubles the number of slots. Without memory for that, the dictionary stays as it is,
 * which is only slower. */
static void grow(dict *d)
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
static entry *insert(dict *d, uint64_t hash, const char *key, size_t len)
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

static void get(dict *d, uint64_t hash, tp_store_op *op)
{
    op->version = 0;
    uv_mutex_lock(&d->lock);
    const entry *e = *find(d, hash, op->key, op->len);
    if (e) {
        op->version = e->version;
        op->value = hold_value(&e->value);
    }
    uv_mutex_unlock(&d->lock);
}

static int put(dict *d, uint64_t hash, tp_store_op *op, tp_error *err)
{
    tp_stored old = { 0 };
    bool has_memory = true;
    uv_mutex_lock(&d->lock);
    entry *e = *find(d, hash, op->key, op->len);
    op->is_done = op->version == TP_VERSION_ANY || op->version == (e ? e->version : 0);
    if (op->is_done && !e) {
        e = insert(d, hash, op->key, op->len);
        op->is_done = has_memory = e != NULL;
    }
    if (op->is_done) {
        old = e->value;
        e->value = op->value;
        e->version = ++d->version;
        op->value = (tp_stored){ 0 };
    }
    uv_mutex_unlock(&d->lock);
    drop_value(&old);
    return has_memory ? 0 : tp_error_oom(err, "dictionary");
}

static int add(dict *d, uint64_t hash, tp_store_op *op, tp_error *err)
{
    uv_mutex_lock(&d->lock);
    entry *e = *find(d, hash, op->key, op->len);
    if (!e)
        e = insert(d, hash, op->key, op->len);
    bool is_number = e && !e->value.packed;
    if (is_number) {
        op->number = e->value.number += op->number;
        e->version = ++d->version;
    }
    uv_mutex_unlock(&d->lock);
    if (!e)
        return tp_error_oom(err, "dictionary");
    return is_number ? 0 : tp_error_set(err, TP_EUSAGE, "what is there is no number");
}

static void pop(dict *d, uint64_t hash, tp_store_op *op)
{
    uv_mutex_lock(&d->lock);
    entry **at = find(d, hash, op->key, op->len), *e = *at;
    op->is_done = e && (op->version == TP_VERSION_ANY || op->version == e->version);
    if (op->is_done) {
        *at = e->next;
        d->n--;
    }
    uv_mutex_unlock(&d->lock);
    if (op->is_done) {
        op->value = e->value;
        free(e);
    }
}

static void free_entries(tp_store_op *op)
{
    for (size_t i = 0; i < op->n; i++) {
        free(op->entries[i].key);
        drop_value(&op->entries[i].value);
    }
    free(op->entries);
    op->entries = NULL;
    op->n = 0;
}

/* Locked. Copies the entries; false when out of memory, with op->n of them copied. */
static bool copy_entries(const dict *d, tp_store_op *op)
{
    for (size_t i = 0; i < d->n_slots; i++)
        for (const entry *e = d->slots[i]; e; e = e->next) {
            char *key = malloc(e->len ? e->len : 1);
            if (!key)
                return false;
            memcpy(key, e->key, e->len);
            op->entries[op->n++] = (tp_entry){ key, e->len, hold_value(&e->value) };
        }
    return true;
}

static int list(dict *d, tp_store_op *op, tp_error *err)
{
    uv_mutex_lock(&d->lock);
    op->n = 0;
    op->entries = d->n ? calloc(d->n, sizeof *op->entries) : NULL;
    bool is_whole = d->n == 0 || (op->entries && copy_entries(d, op));
    uv_mutex_unlock(&d->lock);
    if (is_whole)
        return 0;
    free_entries(op);
    return tp_error_oom(err, "dictionary's entries");
}

static int perform_dict(dict *d, tp_store_op *op, tp_error *err)
{
    uint64_t hash = op->key ? hash_of(op->key, op->len) : 0;
    switch (op->verb) {
    case TP_STORE_GET: get(d, hash, op); return 0;
    case TP_STORE_PUT: return put(d, hash, op, err);
    case TP_STORE_ADD: return add(d, hash, op, err);
    case TP_STORE_POP: pop(d, hash, op); return 0;
    case TP_STORE_LIST: return list(d, op, err);
    case TP_STORE_COUNT:
        uv_mutex_lock(&d->lock);
        op->number = (double)d->n;
        uv_mutex_unlock(&d->lock);
        return 0;
    default: return tp_error_set(err, TP_EUSAGE, "a Dict cannot do that");
    }
}

/* ---- queues ---- */

typedef struct queue {
    tp_store base;
    uint64_t capacity; /* read-only */
    uv_mutex_t lock;   /* guards what follows */
    uv_cond_t changed;
    tp_stored *values; /* a ring */
    size_t room, first, n;
    unsigned waiting; /* threads in wait_a_moment */
    bool is_closed;
} queue;

static void free_queue(tp_ref *r)
{
    queue *q = (queue *)(void *)r;
    if (q->base.keeper) {
        free_far(&q->base);
        return;
    }
    for (size_t i = 0; i < q->n; i++)
        drop_value(&q->values[(q->first + i) % q->room]);
    free(q->values);
    uv_cond_destroy(&q->changed);
    uv_mutex_destroy(&q->lock);
    free(q);
}

const tp_ref_type tp_store_queue_type = { "tidepool.queue", free_queue };

static int open_queue(tp_store **out, uint64_t capacity, tp_error *err)
{
    queue *q = calloc(1, sizeof *q);
    if (!q || uv_mutex_init(&q->lock)) {
        free(q);
        return tp_error_oom(err, "queue");
    }
    if (uv_cond_init(&q->changed)) {
        uv_mutex_destroy(&q->lock);
        free(q);
        return tp_error_oom(err, "queue");
    }
    tp_ref_init(&q->base.ref, &tp_store_queue_type);
    q->capacity = capacity;
    *out = &q->base;
    return 0;
}

/* Locked. Room for one more value; false when out of memory. */
static bool make_room(queue *q)
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

/* Locked. Wakes all threads that wait for a change of the queue. */
static void tell(queue *q)
{
    if (q->waiting)
        uv_cond_broadcast(&q->changed);
}

static bool is_full(const queue *q)
{
    return q->capacity && q->n >= q->capacity;
}

static int push(queue *q, tp_store_op *op, tp_error *err)
{
    bool has_memory = true;
    uv_mutex_lock(&q->lock);
    if (q->is_closed)
        op->moved = TP_CLOSED;
    else if (is_full(q) || !(has_memory = make_room(q)))
        op->moved = TP_NOT_YET;
    else
        op->moved = TP_MOVED;
    if (op->moved == TP_MOVED) {
        q->values[(q->first + q->n++) % q->room] = op->value;
        op->value = (tp_stored){ 0 };
        tell(q);
    }
    uv_mutex_unlock(&q->lock);
    return has_memory ? 0 : tp_error_oom(err, "queue");
}

static void take(queue *q, tp_store_op *op)
{
    uv_mutex_lock(&q->lock);
    op->moved = q->n ? TP_MOVED : q->is_closed ? TP_CLOSED : TP_NOT_YET;
    if (op->moved == TP_MOVED) {
        op->value = q->values[q->first];
        q->first = (q->first + 1) % q->room;
        q->n--;
        tell(q);
    }
    uv_mutex_unlock(&q->lock);
}

void tp_store_put_back(tp_store *s, tp_stored *value)
{
    queue *q = (queue *)(void *)s;
    uv_mutex_lock(&q->lock);
    if (make_room(q)) {
        q->first = (q->first + q->room - 1) % q->room;
        q->values[q->first] = *value;
        q->n++;
        *value = (tp_stored){ 0 };
        tell(q);
    }
    uv_mutex_unlock(&q->lock);
    drop_value(value);
}

static int perform_queue(queue *q, tp_store_op *op, tp_error *err)
{
    switch (op->verb) {
    case TP_STORE_PUSH: return push(q, op, err);
    case TP_STORE_TAKE: take(q, op); return 0;
    case TP_STORE_CLOSE:
        uv_mutex_lock(&q->lock);
        q->is_closed = true;
        tell(q);
        uv_mutex_unlock(&q->lock);
        return 0;
    case TP_STORE_IS_CLOSED:
        uv_mutex_lock(&q->lock);
        op->is_done = q->is_closed;
        uv_mutex_unlock(&q->lock);
        return 0;
    case TP_STORE_COUNT:
        uv_mutex_lock(&q->lock);
        op->number = (double)q->n;
        uv_mutex_unlock(&q->lock);
        return 0;
    default: return tp_error_set(err, TP_EUSAGE, "a Queue cannot do that");
    }
}

/* ---- waiting ---- */

/* Waits at most `ns` until there may be room (`for_room`) or a value, or the queue is closed: is
 * that so? */
static bool wait_a_moment(queue *q, bool for_room, uint64_t ns)
{
    uv_mutex_lock(&q->lock);
    q->waiting++;
    for (int i = 0; i < 2; i++) {
        bool is_ready = q->is_closed || (for_room ? !is_full(q) : q->n > 0);
        if (is_ready || i == 1) {
            q->waiting--;
            uv_mutex_unlock(&q->lock);
            return is_ready;
        }
        uv_cond_timedwait(&q->changed, &q->lock, ns);
    }
    return false;
}

tp_moved tp_store_await(tp_store *s, bool for_room, tp_agent *agent, uint64_t deadline,
                        uint64_t look_ns, bool (*is_unwanted)(void *user), void *user)
{
    enum { STUCK_NS = 2000000000 };
    tp_engine *e = agent->engine;
    bool is_endless = deadline == UINT64_MAX;
    uint64_t stuck_since = 0;
    tp_moved moved = TP_NOT_YET;
    tp_job_begin_block(agent, is_endless);
    for (uint64_t now; moved == TP_NOT_YET && (now = uv_hrtime()) < deadline;) {
        if (wait_a_moment((queue *)(void *)s, for_room,
                          deadline - now < look_ns ? deadline - now : look_ns)) {
            moved = TP_MOVED;
        } else if (is_unwanted(user)) {
            moved = TP_UNWANTED;
        } else if (tp_job_is_hopeless(agent)) {
            moved = TP_STUCK;
        } else if (!is_endless || !tp_engine_is_stuck(e, agent)) {
            stuck_since = 0;
        } else if (!stuck_since) {
            stuck_since = now;
        } else if (now - stuck_since > STUCK_NS) {
            tp_engine_give_up(e);
        }
    }
    tp_job_end_block(agent);
    return moved;
}

/* ---- both ---- */

void tp_store_op_clear(tp_store_op *op)
{
    drop_value(&op->value);
    free_entries(op);
    tp_ref_drop(op->made);
    op->made = NULL;
}

bool tp_store_is_key(const char *key, size_t len)
{
    double x;
    if (len == 2 && *key == 'b')
        return key[1] == 0 || key[1] == 1;
    if (len != 1 + sizeof x || *key != 'n')
        return len > 0 && *key == 's';
    memcpy(&x, key + 1, sizeof x);
    return x == x && !(x == 0 && signbit(x));
}

tp_store *tp_store_new_far(const tp_ref_type *type, const tp_store_keeper *keeper, uint32_t id)
{
    tp_store *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    tp_ref_init(&s->ref, type);
    s->keeper = keeper;
    s->id = id;
    return s;
}

const tp_store_keeper *tp_store_keeper_of(const tp_store *s)
{
    return s->keeper;
}

uint32_t tp_store_id(const tp_store *s)
{
    return s->id;
}

int tp_store_perform(tp_store *s, const tp_store_keeper *keeper, tp_store_op *op, tp_error *err)
{
    keeper = s ? s->keeper : keeper;
    if (keeper)
        return keeper->perform(keeper->user, s ? s->id : 0, op, err);
    if (!s)
        return op->verb == TP_STORE_NEW_DICT ? open_dict(&op->made, err)
                                             : open_queue(&op->made, (uint64_t)op->number, err);
    return s->ref.type == &tp_dict_type ? perform_dict((dict *)(void *)s, op, err)
                                        : perform_queue((queue *)(void *)s, op, err);
}
