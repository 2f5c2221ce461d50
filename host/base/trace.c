/* trace.c: the ring of events: many threads write, one reads. "Locked" functions are called with
 * the ring's lock held.
 *
 * An event gets a number, and with it a slot: the number modulo the capacity. The slot's `stamp`
 * says which event is in it: 2 n + 1 while event n is being written, 2 n + 2 once it is whole. So a
 * writer claims a slot by setting its stamp. A writer that finds the slot claimed, or a later event
 * in it, has been so slow that the ring has gone round meanwhile; it drops its event. */
#include "base/trace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Names: a table with open addressing, never more than half full. */
enum { NAMES_MAX = 1 << 15, NAME_SLOTS = 1 << 16 };

/* All fields are atomic since a reader may look while a writer writes: the stamp tells it
 * afterwards. */
typedef struct slot {
    _Atomic uint64_t stamp;
    _Atomic uint64_t time_ns, what /* kind, and worker above it */, job, first, count;
} slot;

typedef struct tp_ring {
    uv_mutex_t lock; /* around the names and their table */
    char *names[NAMES_MAX];     /* by their number, from 1 */
    uint32_t by_text[NAME_SLOTS]; /* numbers, where the hash of the text says; 0: free */
    uint32_t n_names;           /* the last number; 0 is none */
    uint64_t mask; /* of slots */
    _Atomic uint64_t n; /* events so far (relaxed: the stamp says which event a slot holds) */
    slot slots[];
} tp_ring;

int tp_trace_start(tp_trace *t, size_t capacity, tp_error *err)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_relaxed);
    if (!ring) {
        uint64_t size = 1;
        while (size < capacity)
            size *= 2;
        ring = calloc(1, sizeof *ring + size * sizeof *ring->slots);
        if (!ring || uv_mutex_init(&ring->lock)) {
            free(ring);
            return tp_error_oom(err, "trace");
        }
        ring->mask = size - 1;
        atomic_store_explicit(&t->ring, ring, memory_order_release);
    }
    t->next = atomic_load_explicit(&ring->n, memory_order_relaxed);
    t->lost = 0;
    atomic_store_explicit(&t->is_on, true, memory_order_relaxed);
    return 0;
}

void tp_trace_stop(tp_trace *t)
{
    atomic_store_explicit(&t->is_on, false, memory_order_relaxed);
}

void tp_trace_close(tp_trace *t)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_relaxed);
    tp_track_name *track = atomic_load_explicit(&t->tracks, memory_order_relaxed);
    if (ring) {
        for (uint32_t i = 1; i <= ring->n_names; i++)
            free(ring->names[i]);
        uv_mutex_destroy(&ring->lock);
    }
    free(ring);
    while (track) {
        tp_track_name *next = track->next;
        free(track);
        track = next;
    }
    *t = (tp_trace){ 0 };
}

void tp_trace_write_now(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job,
                        uint64_t first, uint64_t count)
{
    tp_event e = { uv_hrtime(), kind, worker, job, first, count };
    tp_trace_write(t, &e);
}

void tp_trace_input(tp_trace *t, uint32_t worker, const char *text)
{
    size_t len = strnlen(text, TP_INPUT_TEXT);
    for (size_t at = 0; at < len; at += 3 * sizeof(uint64_t)) {
        uint64_t part[3] = { 0 };
        size_t left = len - at;
        memcpy(part, text + at, left < sizeof part ? left : sizeof part);
        tp_trace_note(t, TP_EVENT_INPUT, worker, part[0], part[1], part[2]);
    }
}

void tp_trace_write(tp_trace *t, const tp_event *e)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_acquire);
    if (!ring)
        return; /* listening has only just begun */
    uint64_t n = atomic_fetch_add_explicit(&ring->n, 1, memory_order_relaxed);
    slot *s = &ring->slots[n & ring->mask];
    uint64_t before = atomic_load_explicit(&s->stamp, memory_order_relaxed);
    if (before % 2 == 1 || before > 2 * n ||
        !atomic_compare_exchange_strong_explicit(&s->stamp, &before, 2 * n + 1,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    /* Release, each of them: whoever sees a field of this event also sees that its slot is
     * claimed. */
    atomic_store_explicit(&s->time_ns, e->time_ns, memory_order_release);
    atomic_store_explicit(&s->what, (uint64_t)e->worker << 32 | (uint64_t)e->kind,
                          memory_order_release);
    atomic_store_explicit(&s->job, e->job, memory_order_release);
    atomic_store_explicit(&s->first, e->first, memory_order_release);
    atomic_store_explicit(&s->count, e->count, memory_order_release);
    /* who sees this stamp sees all fields */
    atomic_store_explicit(&s->stamp, 2 * n + 2, memory_order_release);
}

/* Event n, whose stamp said (acquire) that it is whole, when it is still there. */
static bool read_slot(slot *s, uint64_t n, tp_event *out)
{
    uint64_t what = atomic_load_explicit(&s->what, memory_order_acquire);
    *out = (tp_event){
        .time_ns = atomic_load_explicit(&s->time_ns, memory_order_acquire),
        .kind = (tp_event_kind)(uint32_t)what,
        .worker = (uint32_t)(what >> 32),
        .job = atomic_load_explicit(&s->job, memory_order_acquire),
        .first = atomic_load_explicit(&s->first, memory_order_acquire),
        .count = atomic_load_explicit(&s->count, memory_order_acquire),
    };
    /* Does the slot still hold event n after the last field was read? Those loads acquire, so this
     * one comes after them. */
    return atomic_load_explicit(&s->stamp, memory_order_relaxed) == 2 * n + 2;
}

size_t tp_trace_read(tp_trace *t, tp_event *out, size_t max)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_acquire);
    size_t found = 0;
    while (ring && found < max) {
        uint64_t n = atomic_load_explicit(&ring->n, memory_order_relaxed);
        if (n - t->next > ring->mask + 1) {
            t->lost += n - t->next - (ring->mask + 1);
            t->next = n - (ring->mask + 1);
        }
        if (t->next == n)
            break;
        slot *s = &ring->slots[t->next & ring->mask];
        /* looked at once: an event that is whole only now would be taken for one that is gone */
        const uint64_t stamp = atomic_load_explicit(&s->stamp, memory_order_acquire);
        if (stamp <= 2 * t->next + 1 && atomic_load_explicit(&t->is_on, memory_order_relaxed))
            break; /* the event is still being written */
        if (stamp == 2 * t->next + 2 && read_slot(s, t->next, &out[found]))
            found++;
        else
            t->lost++;
        t->next++;
    }
    return found;
}

/* ---- names ---- */

static uint32_t hash(const char *text, size_t len) /* FNV-1a */
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++)
        h = (h ^ (uint8_t)text[i]) * 16777619u;
    return h;
}

/* Locked. The number of the text, which gets one if it has none; 0: no memory, or too many
 * names. */
static uint32_t find_name(tp_ring *ring, const char *text, size_t len)
{
    uint32_t at = hash(text, len) % NAME_SLOTS;
    for (; ring->by_text[at]; at = (at + 1) % NAME_SLOTS) {
        const char *known = ring->names[ring->by_text[at]];
        if (strncmp(known, text, len) == 0 && known[len] == '\0')
            return ring->by_text[at];
    }
    char *copy = ring->n_names + 1 < NAMES_MAX ? malloc(len + 1) : NULL;
    if (!copy)
        return 0;
    memcpy(copy, text, len);
    copy[len] = '\0';
    ring->by_text[at] = ++ring->n_names;
    ring->names[ring->n_names] = copy;
    return ring->n_names;
}

uint32_t tp_trace_name(tp_trace *t, const char *text, size_t len)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_acquire);
    if (!ring)
        return 0;
    len = strnlen(text, len < TP_NAME_MAX ? len : TP_NAME_MAX);
    uv_mutex_lock(&ring->lock);
    uint32_t name = find_name(ring, text, len);
    uv_mutex_unlock(&ring->lock);
    return name;
}

const char *tp_trace_text(tp_trace *t, uint64_t name)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_acquire);
    const char *text = "?";
    if (!ring)
        return text;
    uv_mutex_lock(&ring->lock);
    if (name > 0 && name <= ring->n_names)
        text = ring->names[name];
    uv_mutex_unlock(&ring->lock);
    return text;
}

void tp_trace_add_track(tp_trace *t, uint32_t worker, const char *what, int index, bool is_owner)
{
    tp_track_name *track = calloc(1, sizeof *track);
    if (!track)
        return;
    track->worker = worker;
    track->is_owner = is_owner;
    if (index > 0)
        snprintf(track->text, sizeof track->text, "%.40s %d", what, index);
    else
        snprintf(track->text, sizeof track->text, "%s", what);
    track->next = atomic_load_explicit(&t->tracks, memory_order_relaxed);
    /* release: who sees the entry sees its text */
    while (!atomic_compare_exchange_weak_explicit(&t->tracks, &track->next, track,
                                                  memory_order_release, memory_order_relaxed))
        ;
}

static const tp_track_name *find_track(tp_trace *t, uint32_t worker)
{
    const tp_track_name *track = atomic_load_explicit(&t->tracks, memory_order_acquire);
    while (track && track->worker != worker)
        track = track->next;
    return track;
}

const char *tp_trace_track(tp_trace *t, uint32_t worker)
{
    const tp_track_name *track = find_track(t, worker);
    return track ? track->text : NULL;
}

bool tp_trace_is_owner(tp_trace *t, uint32_t worker)
{
    const tp_track_name *track = find_track(t, worker);
    return track && track->is_owner;
}
