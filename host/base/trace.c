/* trace.c: the ring of events: many threads write, one reads.
 *
 * An event gets a number, and with it a slot: the number modulo the capacity. The slot's `stamp`
 * says which event is in it: 2 n + 1 while event n is being written, 2 n + 2 once it is whole. So a
 * writer claims the slot by setting the stamp, one at a time; who finds it claimed, or with a later
 * event in it, has been so slow that the ring has gone round, and drops its event. */
#include "base/trace.h"

#include <stdlib.h>
#include <uv.h>

/* All fields are atomic since a reader may look while a writer writes: the stamp tells it
 * afterwards. */
typedef struct slot {
    _Atomic uint64_t stamp;
    _Atomic uint64_t time_ns, what /* kind, and worker above it */, job, first, count;
} slot;

typedef struct tp_ring {
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
        if (!ring)
            return tp_error_oom(err, "trace");
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
    free(atomic_load_explicit(&t->ring, memory_order_relaxed));
    *t = (tp_trace){ 0 };
}

void tp_trace_write(tp_trace *t, tp_event_kind kind, uint32_t worker, uint64_t job, uint64_t first,
                    uint64_t count)
{
    tp_ring *ring = atomic_load_explicit(&t->ring, memory_order_acquire);
    if (!ring)
        return; /* listening has only just begun */
    uint64_t now = uv_hrtime(), n = atomic_fetch_add_explicit(&ring->n, 1, memory_order_relaxed);
    slot *s = &ring->slots[n & ring->mask];
    uint64_t before = atomic_load_explicit(&s->stamp, memory_order_relaxed);
    if (before % 2 == 1 || before > 2 * n ||
        !atomic_compare_exchange_strong_explicit(&s->stamp, &before, 2 * n + 1,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    /* Release, each of them: whoever sees a field of this event also sees that its slot is
     * claimed. */
    atomic_store_explicit(&s->time_ns, now, memory_order_release);
    atomic_store_explicit(&s->what, (uint64_t)worker << 32 | (uint64_t)kind, memory_order_release);
    atomic_store_explicit(&s->job, job, memory_order_release);
    atomic_store_explicit(&s->first, first, memory_order_release);
    atomic_store_explicit(&s->count, count, memory_order_release);
    /* who sees this stamp sees all fields */
    atomic_store_explicit(&s->stamp, 2 * n + 2, memory_order_release);
}

/* Event n, when it is whole and still there. */
static bool read_slot(slot *s, uint64_t n, tp_event *out)
{
    if (atomic_load_explicit(&s->stamp, memory_order_acquire) != 2 * n + 2)
        return false;
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
        if (read_slot(s, t->next, &out[found]))
            found++;
        else if (atomic_load_explicit(&s->stamp, memory_order_relaxed) <= 2 * t->next + 1 &&
                 atomic_load_explicit(&t->is_on, memory_order_relaxed))
            break; /* the event is still being written */
        else
            t->lost++;
        t->next++;
    }
    return found;
}
