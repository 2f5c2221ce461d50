/* copies.c: the copies of typed arrays on devices: made, brought up to date, brought home, and
 * given up.
 *
 * A copy that bytes are being moved to or from is busy: others wait until it is not. The lock is
 * never held while bytes are moved. */
#include "opencl/copies.h"

#include "base/thread.h"
#include "opencl/parts.h"
#include "opencl/waiter.h"

#include <stdlib.h>

struct tp_copy {
    /* Read-only once made. */
    tp_array *array; /* not held: the array's keeper frees the copy when the array goes */
    tp_open_device open; /* its life is held */
    size_t at, size; /* the bytes of the array that it has */
    /* Read-only for its users, and while it is busy; otherwise guarded by tp_copies.lock. NULL: its
     * life was over, and nobody used it. */
    cl_mem mem;
    /* ---- guarded by tp_copies.lock ---- */
    tp_copy *of_array;    /* the next one of the same array */
    tp_copy *next, *prev; /* in tp_copies */
    unsigned users;
    bool is_busy;
    tp_parts valid, ahead;
    /* the element type if NaNs may have any bits, see tp_copies_note_written; else TP_TYPES */
    tp_type foreign;
    uint32_t worker; /* id of the last worker that used it, for traces */
};

enum { SHARE_OF_MEMORY = 4 /* one part in so many of a device's memory is left free of copies */ };

static bool is_lost(const tp_copy *copy)
{
    return tp_life_is_over(copy->open.life);
}

/* ---- lists; all of this section: locked ---- */

static void append(tp_copies *c, tp_copy *copy)
{
    copy->next = NULL;
    copy->prev = c->last;
    if (c->last)
        c->last->next = copy;
    else
        c->first = copy;
    c->last = copy;
}

static void detach(tp_copies *c, tp_copy *copy)
{
    if (copy->prev)
        copy->prev->next = copy->next;
    else
        c->first = copy->next;
    if (copy->next)
        copy->next->prev = copy->prev;
    else
        c->last = copy->prev;
}

/* Puts a new copy into all lists. */
static void link_copy(tp_copies *c, tp_copy *copy)
{
    tp_array *a = copy->array;
    copy->of_array = a->copies;
    a->copies = copy;
    atomic_store_explicit(&a->keeper, &c->keeper, memory_order_release);
    tp_room_add(&copy->open.life->room, TP_HELD_COPIES, copy->size);
    append(c, copy);
}

/* Takes the copy out of all lists. Nobody uses it. */
static void take_out(tp_copies *c, tp_copy *copy)
{
    tp_array *a = copy->array;
    tp_copy *before = a->copies;
    detach(c, copy);
    if (copy->mem)
        tp_room_subtract(&copy->open.life->room, TP_HELD_COPIES, copy->size);
    if (before == copy) {
        a->copies = copy->of_array;
    } else {
        while (before->of_array != copy)
            before = before->of_array;
        before->of_array = copy->of_array;
    }
    /* last, since the array may be freed then */
    if (!a->copies)
        atomic_store_explicit(&a->keeper, NULL, memory_order_release);
}

/* Waits until some copy is not busy any more. One that the caller does not use may be gone then. */
static void await_change(tp_copies *c)
{
    uv_cond_wait(&c->changed, &c->lock);
}

/* Whoever is busy with one that is lost may never come back: that is not waited for. */
static bool is_awaited(const tp_copy *copy)
{
    return copy->is_busy && !is_lost(copy);
}

/* Waits until a copy that the caller uses is not busy, or lost. */
static void await(tp_copies *c, const tp_copy *copy)
{
    while (is_awaited(copy))
        uv_cond_wait(&c->changed, &c->lock);
}

/* Takes the array's marks: if elements were changed since the last look, its copies become
 * outdated. */
static void look(tp_array *a)
{
    if (!atomic_exchange_explicit(&a->is_touched, 0, memory_order_seq_cst))
        return;
    a->version++;
    for (tp_copy *copy = a->copies; copy; copy = copy->of_array)
        copy->valid.n = 0;
}

static tp_copy *find_copy(const tp_array *a, const tp_life *life, size_t at, size_t size)
{
    for (tp_copy *copy = a->copies; copy; copy = copy->of_array)
        if (copy->open.life == life && copy->at == at && copy->size == size)
            return copy;
    return NULL;
}

/* The copy on that device that was used longest ago and can be given up, out of all lists; NULL:
 * there is none. */
static tp_copy *give_up(tp_copies *c, unsigned device)
{
    for (tp_copy *copy = c->first; copy; copy = copy->next)
        if (copy->open.index == device && copy->mem && !copy->users && !copy->is_busy &&
            !copy->ahead.n) {
            take_out(c, copy);
            return copy;
        }
    return NULL;
}

/* ---- ---- */

static void free_copy(tp_copy *copy)
{
    if (!copy)
        return;
    if (copy->mem)
        tp_life_release(copy->open.life, copy->mem);
    tp_ref_drop(copy->open.life);
    tp_parts_free(&copy->valid);
    tp_parts_free(&copy->ahead);
    free(copy);
}

/* Locked. The copy's life is over. If nobody uses it, gives back what it has there; what was ahead
 * is still missed. When nothing was, the copy itself goes: it is put at the head of *list, whose
 * copies the caller frees without the lock. */
static void bury(tp_copies *c, tp_copy *copy, tp_copy **list)
{
    if (copy->users || copy->is_busy)
        return;
    if (!copy->ahead.n) {
        take_out(c, copy);
        copy->next = *list;
        *list = copy;
    } else if (copy->mem) {
        /* a driver's calls for a context that is dead do not wait */
        tp_life_release(copy->open.life, copy->mem);
        tp_room_subtract(&copy->open.life->room, TP_HELD_COPIES, copy->size);
        copy->mem = NULL;
    }
}

static void free_list(tp_copy *list)
{
    while (list) {
        tp_copy *next = list->next;
        free_copy(list);
        list = next;
    }
}

/* Locked. Sets err: what is ahead in the copy is lost. */
static int say_lost(const tp_copy *copy, tp_error *err)
{
    size_t bytes = 0;
    for (unsigned i = 0; i < copy->ahead.n; i++)
        bytes += copy->ahead.list[i].to - copy->ahead.list[i].from;
    return tp_error_set(err, TP_ESYS,
                        "%s: the device has lost %zu bytes of results that only it had (%s): run "
                        "their map again",
                        copy->open.device->name, bytes, copy->open.life->fault);
}

static void forget(tp_array_keeper *keeper, tp_array *a)
{
    tp_copies *c = (tp_copies *)keeper;
    tp_copy *copy, *list = NULL;
    uv_mutex_lock(&c->lock);
    while ((copy = a->copies)) {
        TP_ASSERT(!copy->is_busy); /* else somebody holds the array */
        take_out(c, copy);
        copy->next = list;
        list = copy;
    }
    uv_mutex_unlock(&c->lock);
    free_list(list);
}

/* Locked, or nobody else is there. One owner fewer; if that was the last, the caller frees the
 * queue (free_shared). Else NULL. */
static tp_copies_queue *drop_shared(tp_copies_queue *q)
{
    return --q->owners ? NULL : q;
}

/* With no lock held, since that waits for the device. Accepts NULL. */
static void free_shared(tp_copies_queue *q)
{
    if (!q)
        return;
    tp_transfer t = { .open = &q->open, .queue = q->queue };
    tp_pinned_close(&q->pinned, &t);
    q->open.cl->ReleaseCommandQueue(q->queue);
    tp_ref_drop(q->open.life);
    free(q);
}

/* Locked. Where the life's queue is in the list; at its end when there is none. */
static tp_copies_queue **find_queue(tp_copies *c, const tp_life *life)
{
    tp_copies_queue **at = &c->queues;
    while (*at && (*at)->open.life != life)
        at = &(*at)->next;
    return at;
}

/* Locked, or nobody else is there. Takes the queue out of the list; as drop_shared. */
static tp_copies_queue *release_queue(tp_copies_queue **at)
{
    tp_copies_queue *q = *at;
    *at = q->next;
    return drop_shared(q);
}

int tp_copies_open(tp_copies *c, tp_trace *trace, tp_error *err)
{
    *c = (tp_copies){ .keeper = { forget }, .trace = trace };
    return tp_lock_open(&c->lock, &c->changed, err);
}

void tp_copies_close(tp_copies *c)
{
    while (c->first) {
        tp_copy *copy = c->first;
        take_out(c, copy);
        free_copy(copy);
    }
    while (c->queues)
        free_shared(release_queue(&c->queues));
    tp_lock_close(&c->lock, &c->changed);
}

void tp_copies_end(tp_copies *c, const tp_life *life)
{
    tp_copy *next, *list = NULL;
    uv_mutex_lock(&c->lock);
    for (tp_copy *copy = c->first; copy; copy = next) {
        next = copy->next;
        if (copy->open.life == life)
            bury(c, copy, &list);
    }
    tp_copies_queue **at = find_queue(c, life), *queue = *at ? release_queue(at) : NULL;
    uv_mutex_unlock(&c->lock);
    free_shared(queue);
    free_list(list);
}

void tp_copies_wake(tp_copies *c)
{
    uv_mutex_lock(&c->lock);
    uv_cond_broadcast(&c->changed);
    uv_mutex_unlock(&c->lock);
}

uint64_t tp_copies_ahead(tp_copies *c, const tp_array *a, size_t at, size_t size)
{
    uint64_t devices = 0;
    uv_mutex_lock(&c->lock);
    for (const tp_copy *copy = a->copies; copy; copy = copy->of_array) {
        size_t from = at > copy->at ? at - copy->at : 0,
               to = at + size > copy->at ? at + size - copy->at : 0;
        tp_part part;
        if (!is_lost(copy) && tp_parts_find(&copy->ahead, true, from, to, &part))
            devices |= 1ull << copy->open.index;
    }
    uv_mutex_unlock(&c->lock);
    return devices;
}

void tp_copies_forget_lost(tp_copies *c, tp_array *a)
{
    tp_copy *next, *list = NULL;
    uv_mutex_lock(&c->lock);
    for (tp_copy *copy = a->copies; copy; copy = next) {
        next = copy->of_array;
        if (is_lost(copy)) {
            copy->ahead.n = 0;
            bury(c, copy, &list);
        }
    }
    uv_mutex_unlock(&c->lock);
    free_list(list);
}

/* The life's queue, for this thread alone until it is given back; NULL: there is none, or another
 * thread has it. */
static tp_copies_queue *borrow_queue(tp_copies *c, const tp_life *life)
{
    uv_mutex_lock(&c->lock);
    tp_copies_queue *q = *find_queue(c, life);
    if (q && q->is_used)
        q = NULL;
    if (q) {
        q->is_used = true;
        q->owners++;
    }
    uv_mutex_unlock(&c->lock);
    return q;
}

static void return_queue(tp_copies *c, tp_copies_queue *q)
{
    uv_mutex_lock(&c->lock);
    q->is_used = false;
    q = drop_shared(q);
    uv_mutex_unlock(&c->lock);
    free_shared(q);
}

void tp_copies_trim(tp_copies *c, const tp_open_device *open)
{
    tp_copies_queue *q = borrow_queue(c, open->life);
    if (!q)
        return;
    tp_transfer t = { .open = &q->open, .queue = q->queue };
    tp_pinned_trim(&q->pinned, &t);
    return_queue(c, q);
}

void tp_copies_give_back(tp_copies *c, tp_copy *copy)
{
    if (!copy)
        return;
    tp_copy *list = NULL;
    uv_mutex_lock(&c->lock);
    copy->users--;
    if (is_lost(copy))
        bury(c, copy, &list);
    uv_mutex_unlock(&c->lock);
    free_list(list);
}

cl_mem tp_copy_memory(const tp_copy *copy)
{
    return copy->mem;
}

/* ---- moving bytes ---- */

/* What bytes of a copy are moved with. */
typedef struct way {
    cl_command_queue queue;
    tp_pinned *pinned;       /* NULL: without */
    tp_copies_queue *shared; /* whose queue it is, one owner of it; NULL: the mover's */
    /* of the copy, which others may change while bytes are moved: its `foreign`, and for traces
     * its `worker` */
    tp_type foreign;
    uint32_t worker;
} way;

static tp_copies_queue *new_shared(const tp_open_device *o, tp_error *err)
{
    tp_copies_queue *q = calloc(1, sizeof *q);
    if (!q) {
        tp_error_oom(err, "a device's queue");
        return NULL;
    }
    q->queue = tp_life_new_queue(o->life, 0, err);
    if (!q->queue) {
        free(q);
        return NULL;
    }
    q->open = *o;
    tp_ref_hold(o->life);
    q->owners = 1;
    return q;
}

/* Locked. Finds a way to move bytes of the copy; -1 with err set when there is none. To be left. */
static int find_way(tp_copies *c, const tp_copy *copy, const tp_mover *m, way *out, tp_error *err)
{
    const tp_open_device *o = &copy->open;
    tp_copies_queue *q = *find_queue(c, o->life);
    if (is_lost(copy))
        return say_lost(copy, err);
    *out = (way){ .queue = m->queue, .pinned = m->pinned, .foreign = TP_TYPES,
                  .worker = m->worker ? m->worker : copy->worker };
    if (m->queue && m->life == o->life)
        return 0;
    if (!q) {
        q = new_shared(o, err);
        if (!q)
            return -1;
        q->next = c->queues;
        c->queues = q;
    }
    q->owners++;
    out->queue = q->queue;
    out->shared = q;
    out->pinned = q->is_used ? NULL : &q->pinned;
    q->is_used = true;
    return 0;
}

/* Locked. A queue that has failed is made anew. As drop_shared. */
static tp_copies_queue *leave(tp_copies *c, const way *w, bool has_failed)
{
    tp_copies_queue *q = w->shared;
    if (!q)
        return NULL;
    if (w->pinned)
        q->is_used = false;
    tp_copies_queue **at = find_queue(c, q->open.life);
    if (has_failed && *at == q)
        release_queue(at);
    return drop_shared(q);
}

/* Locked, and for a moment perhaps not. The copy is not busy any more. */
static void end_move(tp_copies *c, tp_copy *copy, const way *w, bool has_failed)
{
    tp_copies_queue *q = leave(c, w, has_failed);
    if (q) {
        uv_mutex_unlock(&c->lock);
        free_shared(q);
        uv_mutex_lock(&c->lock);
    }
    copy->is_busy = false;
    uv_cond_broadcast(&c->changed);
}

/* Waits until the device has come to what is asked for with the way's queue. False with err set
 * when that was given up. A marker shows it: PoCL comes to none while its threads run kernels, and
 * where copies do not wait for kernels it does not either. */
static bool await_turn(const tp_copy *copy, const way *w, const tp_mover *m, tp_error *err)
{
    const tp_cl *cl = copy->open.cl;
    cl_event event;
    if (!m->is_given_up ||
        cl->EnqueueMarkerWithWaitList(w->queue, 0, NULL, &event) != CL_SUCCESS)
        return true; /* the copy says what is wrong */
    cl->Flush(w->queue);
    bool has_come = tp_wait_patiently(cl, event, m->is_given_up, m->user);
    cl->ReleaseEvent(event);
    if (!has_come)
        tp_error_set(err, TP_ETIMEOUT,
                     "%s still runs a map or a kernel, and copying from it, which waits for that, "
                     "was given up",
                     copy->open.device->name);
    return has_come;
}

/* What moving bytes fails with when it was given up: there is nothing wrong with the queue. */
enum { GIVEN_UP = -2 };

/* Moves bytes, which takes from `began` until now, by the host's clock. */
static int move(tp_copies *c, const tp_copy *copy, const way *w, bool is_home, tp_part part,
                const tp_mover *m, tp_error *err)
{
    char *host = (char *)copy->array->data + copy->at + part.from;
    size_t size = part.to - part.from;
    uint64_t began = uv_hrtime();
    tp_pinned none = { .is_refused = true }, *pinned = w->pinned ? w->pinned : &none;
    tp_transfer t = { .open = &copy->open, .queue = w->queue };
    if (!await_turn(copy, w, m, err))
        return GIVEN_UP;
    cl_int rc = is_home ? tp_pinned_read(pinned, &t, copy->mem, part.from, host, size, true)
                        : tp_pinned_write(pinned, &t, copy->mem, part.from, host, size, true);
    if (rc != CL_SUCCESS) {
        if (m->shortage && tp_room_is_short(rc))
            *m->shortage = rc;
        tp_cl_fail(err, copy->open.device,
                   is_home ? "copying from the device" : "copying to the device", rc);
        if (tp_life_is_suspect(rc))
            tp_life_check(copy->open.life, NULL, 0, err);
        return -1;
    }
    if (is_home && w->foreign != TP_TYPES)
        tp_make_canonical(w->foreign, host, size / tp_type_size(w->foreign));
    if (tp_trace_is_on(c->trace)) {
        tp_event e = { .time_ns = began,
                       .kind = is_home ? TP_EVENT_COPY_OUT : TP_EVENT_COPY_IN,
                       .worker = w->worker,
                       .job = m->job,
                       .first = uv_hrtime() - began,
                       .count = size };
        tp_trace_write(c->trace, &e);
    }
    return 0;
}

/* Locked, and meanwhile not; the copy is not busy. Brings home what is ahead of its bytes
 * from..to-1; with `all` everything there. */
static int fetch(tp_copies *c, tp_copy *copy, size_t from, size_t to, bool all, const tp_mover *m,
                 tp_error *err)
{
    int rc = 0;
    tp_part part;
    tp_error why = { 0 };
    way w;
    if (find_way(c, copy, m, &w, &why))
        goto failed;
    copy->is_busy = true;
    while (rc == 0 && from < to && (all || tp_parts_find(&copy->ahead, true, from, to, &part))) {
        if (all)
            part = (tp_part){ from, to };
        w.foreign = copy->foreign;
        uint64_t version = copy->array->version;
        uv_mutex_unlock(&c->lock);
        rc = move(c, copy, &w, true, part, m, &why);
        uv_mutex_lock(&c->lock);
        if (rc == 0) {
            tp_parts_remove(&copy->ahead, part.from, part.to);
            if (version == copy->array->version)
                tp_parts_add(&copy->valid, part.from, part.to);
            from = part.to;
        }
    }
    end_move(c, copy, &w, rc == -1);
    if (rc == 0)
        return 0;
failed:
    return is_lost(copy) ? say_lost(copy, err) /* and why */
                         : tp_error_set(err, why.code, "%s", why.message);
}

/* Locked, and meanwhile not. The same for all copies of the array but `but`. While it waits, copies
 * may come and go, so it begins again after each. */
static int fetch_others(tp_copies *c, tp_array *a, const tp_copy *but, size_t at, size_t size,
                        const tp_mover *m, tp_error *err)
{
    tp_copy *copy = a->copies;
    while (copy) {
        size_t from = at > copy->at ? at - copy->at : 0,
               to = at + size > copy->at ? at + size - copy->at : 0;
        tp_part part;
        to = to < copy->size ? to : copy->size;
        if (copy == but || !tp_parts_find(&copy->ahead, true, from, to, &part)) {
            copy = copy->of_array;
            continue;
        }
        if (is_awaited(copy))
            await_change(c);
        else if (fetch(c, copy, from, to, false, m, err))
            return -1;
        copy = a->copies;
    }
    return 0;
}

/* ---- room ---- */

/* Frees the copy on that device that was used longest ago and can be given up; false: there is
 * none. */
static bool free_oldest(tp_copies *c, unsigned device)
{
    uv_mutex_lock(&c->lock);
    tp_copy *old = give_up(c, device);
    uv_mutex_unlock(&c->lock);
    free_copy(old);
    return old != NULL;
}

/* Locked. Such a copy that is ahead, of an array that somebody holds; NULL: there is none. */
static tp_copy *find_ahead(const tp_copies *c, const tp_life *life)
{
    for (tp_copy *copy = c->first; copy; copy = copy->next)
        if (copy->open.life == life && copy->mem && !copy->users && !copy->is_busy &&
            !is_lost(copy) && tp_ref_try_hold(copy->array))
            return copy;
    return NULL;
}

/* The same for one that is ahead: what only the device has is brought home before. One that cannot
 * be brought stays what it is, as one that was used last: who wants its bytes is told why. */
static bool free_oldest_ahead(tp_copies *c, const tp_open_device *open, const tp_mover *mover)
{
    unsigned left = 0;
    bool has_freed = false;
    uv_mutex_lock(&c->lock);
    for (const tp_copy *copy = c->first; copy; copy = copy->next)
        left++;
    for (tp_copy *copy; !has_freed && left-- > 0 && (copy = find_ahead(c, open->life));) {
        tp_error ignored = { 0 };
        tp_array *array = copy->array; /* held, so that the copy stays in the lists meanwhile */
        has_freed = fetch(c, copy, 0, copy->size, false, mover, &ignored) == 0 && !copy->users &&
                    !copy->is_busy && !copy->ahead.n;
        detach(c, copy);
        append(c, copy);
        if (has_freed)
            take_out(c, copy);
        uv_mutex_unlock(&c->lock);
        if (has_freed)
            free_copy(copy);
        tp_ref_drop(array);
        uv_mutex_lock(&c->lock);
    }
    uv_mutex_unlock(&c->lock);
    return has_freed;
}

static bool free_pinned(tp_copies *c, const tp_open_device *open)
{
    tp_copies_queue *q = borrow_queue(c, open->life);
    if (!q)
        return false;
    tp_transfer t = { .open = &q->open, .queue = q->queue };
    bool had_some = tp_pinned_give_up(&q->pinned, &t);
    return_queue(c, q);
    return had_some;
}

bool tp_copies_make_room(tp_copies *c, const tp_open_device *open, const tp_mover *mover)
{
    return tp_room_empty(&open->life->room, false) || free_oldest(c, open->index) ||
           (!mover->asks_nothing &&
            (free_oldest_ahead(c, open, mover) || free_pinned(c, open)));
}

void tp_copies_note_shortage(tp_copies *c)
{
    atomic_fetch_add_explicit(&c->shortages, 1, memory_order_relaxed);
}

uint64_t tp_copies_shortages(const tp_copies *c)
{
    return atomic_load_explicit(&c->shortages, memory_order_relaxed);
}

/* Allocates device memory for a copy, freeing other memory when it is short; NULL when that is not
 * enough. */
static cl_mem allocate(tp_copies *c, const tp_open_device *open, size_t size, const tp_mover *mover)
{
    const tp_cl_device *d = open->device;
    uint64_t most = d->memory - d->memory / SHARE_OF_MEMORY;
    if (size > d->max_alloc)
        return NULL;
    for (;;) {
        cl_int rc;
        uint64_t used = tp_room_held(&open->life->room, TP_HELD_COPIES) +
                        tp_room_held(&open->life->room, TP_HELD_BUFFERS);
        if (used + size > most) {
            if (!free_oldest(c, open->index))
                return NULL;
            continue;
        }
        /* + 4: the last bytes can be accessed as a whole 32-bit word */
        cl_mem mem =
            open->cl->CreateBuffer(open->context, CL_MEM_READ_WRITE, size + 4, NULL, &rc);
        if (rc == CL_SUCCESS)
            return mem;
        if (!tp_room_is_short(rc) || !tp_copies_make_room(c, open, mover))
            return NULL;
    }
}

tp_copy *tp_copies_take(tp_copies *c, const tp_open_device *open, tp_array *a, size_t at,
                        size_t size, const tp_mover *mover)
{
    tp_copy *made = NULL;
    for (;;) {
        uv_mutex_lock(&c->lock);
        look(a);
        tp_copy *copy = find_copy(a, open->life, at, size);
        if (copy) {
            detach(c, copy);
            append(c, copy);
        } else if (made) {
            copy = made;
            made = NULL;
            link_copy(c, copy);
        }
        if (copy)
            copy->users++;
        uv_mutex_unlock(&c->lock);
        if (copy) {
            free_copy(made); /* another thread was faster */
            return copy;
        }
        made = calloc(1, sizeof *made);
        if (!made)
            return NULL;
        *made = (tp_copy){
            .array = a, .open = *open, .at = at, .size = size, .foreign = TP_TYPES
        };
        tp_ref_hold(open->life);
        made->mem = allocate(c, open, size, mover);
        if (!made->mem) {
            free_copy(made);
            return NULL;
        }
    }
}

/* Locked. The first of the copy's bytes from..to-1 that are older than elsewhere; false: none
 * are. */
static bool find_missing(const tp_copy *copy, size_t from, size_t to, tp_part *part)
{
    tp_part newer;
    while (tp_parts_find(&copy->valid, false, from, to, part)) {
        if (!tp_parts_find(&copy->ahead, true, part->from, part->to, &newer))
            return true;
        if (newer.from > part->from) {
            part->to = newer.from;
            return true;
        }
        from = newer.to;
    }
    return false;
}

int tp_copies_bring(tp_copies *c, tp_copy *copy, size_t from, size_t to, const tp_mover *m,
                    tp_error *err)
{
    int rc = 0;
    tp_part part;
    uv_mutex_lock(&c->lock);
    copy->worker = m->worker;
    for (;;) {
        await(c, copy);
        if (!find_missing(copy, from, to, &part))
            break;
        /* The copy must not be busy meanwhile: another thread may wait for it while this one waits
         * for that thread's copy. */
        rc = fetch_others(c, copy->array, copy, copy->at + part.from, part.to - part.from, m, err);
        if (rc)
            break;
        if (is_awaited(copy))
            continue;
        way w;
        if (find_way(c, copy, m, &w, err)) {
            rc = -1;
            break;
        }
        uint64_t version = copy->array->version;
        copy->is_busy = true;
        uv_mutex_unlock(&c->lock);
        rc = move(c, copy, &w, false, part, m, err);
        uv_mutex_lock(&c->lock);
        /* If elements were changed meanwhile, the copy is as good as any for this launch. */
        if (rc == 0 && version == copy->array->version)
            tp_parts_add(&copy->valid, part.from, part.to);
        end_move(c, copy, &w, rc == -1);
        if (rc)
            break;
        from = part.to;
    }
    uv_mutex_unlock(&c->lock);
    return rc;
}

/* Locked. No copy of the array but `but` has its bytes from..to-1 any more, also if they are on
 * their way there now. */
static void outdate(tp_array *a, const tp_copy *but, size_t from, size_t to)
{
    for (tp_copy *each = a->copies; each; each = each->of_array)
        if (each != but && each->at < to && each->at + each->size > from) {
            a->version += each->is_busy;
            size_t first = from > each->at ? from - each->at : 0;
            tp_parts_remove(&each->valid, first, to - each->at);
            tp_parts_remove(&each->ahead, first, to - each->at);
        }
}

static void outdate_others(tp_copy *copy, size_t from, size_t to)
{
    outdate(copy->array, copy, copy->at + from, copy->at + to);
}

void tp_copies_note_home(tp_copies *c, tp_array *a, size_t from, size_t to)
{
    uv_mutex_lock(&c->lock);
    outdate(a, NULL, from, to);
    uv_mutex_unlock(&c->lock);
}

int tp_copies_note_written(tp_copies *c, tp_copy *copy, size_t from, size_t to, bool is_home,
                           tp_type foreign)
{
    bool is_noted = true;
    uv_mutex_lock(&c->lock);
    /* who brings home what was ahead before takes it for all that is ahead */
    await(c, copy);
    copy->foreign = foreign;
    if (is_home)
        tp_parts_remove(&copy->ahead, from, to);
    else
        is_noted = tp_parts_add(&copy->ahead, from, to);
    if (is_home)
        tp_parts_add(&copy->valid, from, to);
    outdate_others(copy, from, to);
    uv_mutex_unlock(&c->lock);
    return is_noted ? 0 : -1;
}

int tp_copies_adopt(tp_copies *c, const tp_open_device *open, tp_array *a, cl_mem mem, tp_type type,
                    tp_error *err)
{
    tp_copy *old = NULL;
    tp_copy *made = calloc(1, sizeof *made);
    if (!made)
        return tp_error_oom(err, "a device's buffer");
    *made = (tp_copy){ .array = a, .open = *open, .size = a->size };
    uv_mutex_lock(&c->lock);
    tp_copy *copy;
    /* what is on its way home, to make room, may be older than what is ahead from now on */
    while ((copy = find_copy(a, open->life, 0, a->size)) && copy->is_busy && !is_lost(copy))
        await_change(c);
    /* The buffer's memory was given up as the array's copy, and a map has made another copy
     * since. */
    if (copy && copy->mem != mem && !copy->users && !copy->is_busy) {
        take_out(c, copy);
        old = copy;
        copy = NULL;
    }
    if (!copy) {
        open->cl->RetainMemObject(mem);
        tp_ref_hold(open->life);
        made->mem = mem;
        copy = made;
        made = NULL;
        link_copy(c, copy);
    }
    bool is_other = copy->mem != mem, is_noted = false;
    if (!is_other) {
        is_noted = tp_parts_add(&copy->ahead, 0, a->size);
        outdate_others(copy, 0, a->size);
        copy->foreign = type;
    }
    uv_mutex_unlock(&c->lock);
    free(made);
    free_copy(old);
    if (is_other)
        return tp_error_set(err, TP_ESYS, "%s: a map that still runs has the buffer",
                            open->device->name);
    return is_noted ? 0 : tp_error_oom(err, "a device's buffer");
}

int tp_copies_fetch(tp_copies *c, tp_copy *copy, size_t from, size_t to, const tp_mover *m,
                    tp_error *err)
{
    uv_mutex_lock(&c->lock);
    await(c, copy);
    int rc = fetch(c, copy, from, to, true, m, err);
    uv_mutex_unlock(&c->lock);
    return rc;
}

int tp_copies_bring_home(tp_copies *c, tp_array *a, size_t at, size_t size, const tp_mover *m,
                         tp_error *err)
{
    uv_mutex_lock(&c->lock);
    int rc = fetch_others(c, a, NULL, at, size, m, err);
    uv_mutex_unlock(&c->lock);
    return rc;
}

int tp_copies_bring_part_home(tp_array *a, const void *data, size_t size, const tp_mover *m,
                              tp_error *err)
{
    static const tp_mover nobody;
    /* whoever keeps copies of the array; NULL: there are none */
    tp_array_keeper *keeper = atomic_load_explicit(&a->keeper, memory_order_acquire);
    size_t at = (size_t)((const char *)data - (const char *)a->data);
    return keeper ? tp_copies_bring_home((tp_copies *)keeper, a, at, size, m ? m : &nobody, err)
                  : 0;
}

void tp_copies_forget_array(tp_array *a)
{
    tp_array_keeper *keeper = atomic_load_explicit(&a->keeper, memory_order_acquire);
    if (keeper)
        tp_copies_forget_lost((tp_copies *)keeper, a);
}

int tp_copies_bring_array_home(tp_array *a, const tp_mover *m, tp_error *err)
{
    return tp_copies_bring_part_home(a, a->data, a->size, m, err);
}
