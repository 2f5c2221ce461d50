/* child.c: a worker process from the inside. See child.h; wire/frame.h says how the shared memory
 * is laid out.
 *
 * The process has a host of its own, so that items can use everything. What an item maps is run
 * here, by the worker itself, one item after the other (tp_host_executor gives its own executor for
 * all that run Lua). So an item never waits for another process. */
#include "program/child.h"

#include "base/system.h"
#include "codec/message.h"
#include "program/profile.h"
#include "program/sanitized.h"
#include "program/signals.h"
#include "runtime/own_loop.h"
#include "wire/ask.h"
#include "wire/events.h"
#include "wire/frame.h"
#include "wire/peer.h"
#include "workers/vm.h"
#include "workers/workers.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* with more arrays and stores than this here, garbage is collected so that some can be returned */
enum { RETURNED_MAX = TP_WIRE_REFS_MAX / 4 };
enum { LONGEST = 1 << 20 /* bytes in a frame */, EVENTS = 1 << 12 /* of one request */ };
enum { SPIN_NS = 60 * 1000 };

/* An item that waits beside others (tp_terms.concurrent), from its request to its end. */
typedef struct open_item {
    tp_work work; /* first member */
    tp_terms terms; /* with an image and arrays that are held, and names that are owned */
    tp_block input; /* after the item's first wait only `first`, `n` and `kind` are valid */
    bool is_unwanted;
    bool has_given_way; /* the host was told that the item waits (TP_WIRE_GIVE_WAY) */
    struct open_item *next;
} open_item;

struct tp_child {
    tp_agent agent;
    tp_array_pool *arrays;
    int socket, file; /* file: the descriptor of the host's arrays, or -1 */
    tp_region in, out, asks;
    /* the beginning of `out`, mapped a second time: its address stays the same when `out` grows */
    tp_wire_out *control;
    uint32_t seen;        /* the host's last turn that was noticed */
    uv_mutex_t print_lock; /* held around writes to the socket */

    /* ---- what the host has sent once ---- */
    /* by id; NULL: returned. Functions, classes and the like are held. Arrays and stores are not:
     * they are returned when nobody here holds them */
    tp_ref *ref[TP_WIRE_REFS_MAX];
    uint32_t nrefs, nreturned; /* nreturned: how many of those here are arrays and stores */
    uint32_t many;             /* garbage is collected when nreturned exceeds this */
    tp_store_keeper stores;    /* the host */
    /* the function of which the host has given a permit (TP_WIRE_TAKE); NULL: of none */
    const tp_func *permit_of;
    tp_far_permits permits; /* the same permits, for items that run apart */
    tp_image *image[TP_WIRE_IMAGES];

    /* ---- memory ---- */
    uint64_t lua_bytes, data_bytes; /* of the state, and of the process, before anything was run */
    uint64_t memory;      /* how much more the last request's items were allowed; 0: no limit */
    uint64_t data_limit;  /* RLIMIT_DATA where there is no limit */
    bool has_run;         /* a request was run */
    bool notes_death;

    /* ---- items that wait beside each other ---- */
    open_item *items;
    uint64_t items_memory; /* the largest of their limits in bytes; 0: no limit */
    bool has_news; /* a record was published, or an item has ended, since they were resumed */
    /* watches the socket on the agent's own loop: the host sends a byte to wake this process */
    uv_poll_t wakes;
    bool has_wakes;

    /* ---- the request that runs ---- */
    uint64_t used;       /* a copy of control->used */
    uint64_t from, until; /* offsets between which records may be written: a copy of the host's */
    tp_buf_home home;    /* messages of results are encoded where their records will be */
    /* where the last record is, if it counts items without results; 0: it does not */
    uint64_t done_at;
    /* the block of the record at `used` that is being filled in, only for comparing; NULL: there is
     * none */
    tp_block *filling;
    tp_told told; /* what its host wants to know of what happens */
    tp_buf events; /* memory for tell_events */
    uint64_t told_ns; /* when events were last sent */
    /* blocks that the sink has taken; freed later, since their giver may still read them */
    tp_block *kept;
};

static tp_child *child_of(tp_work *w)
{
    /* the worker is the first member of the agent, and the agent that of the child */
    return (tp_child *)(void *)w->worker;
}

/* ---- turns ---- */

/* Called between any two writes that the host can tell apart when the worker dies there. In builds
 * with assertions an item can choose the point at which the process is killed, so that tests try
 * all of them. */
static void step(const tp_child *c)
{
#ifdef TP_ASSERTS
    tp_wire_in *in = (tp_wire_in *)(void *)c->in.data;
    if (in->dies_in && --in->dies_in == 0)
        kill(getpid(), SIGKILL);
#else
    (void)c;
#endif
}

static _Noreturn void end_with_host(void)
{
    _exit(0);
}

/* Waits for the host's next turn. */
static void wait_for_host(tp_child *c)
{
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    uint64_t until = uv_hrtime() + SPIN_NS;
    while (uv_hrtime() < until) {
        for (int i = 0; i < 4; i++) {
            if (atomic_load_explicit(&in->turn, memory_order_acquire) != c->seen)
                goto out;
            tp_relax();
        }
        sched_yield();
    }
    for (;;) {
        char bytes[64];
        atomic_store(&c->control->worker_sleeps, 1);
        if (atomic_load(&in->turn) != c->seen)
            break;
        ssize_t n = read(c->socket, bytes, sizeof bytes);
        if (n == 0 || (n < 0 && errno != EINTR))
            end_with_host();
    }
    atomic_store_explicit(&c->control->worker_sleeps, 0, memory_order_relaxed);
out:
    c->seen = atomic_load_explicit(&in->turn, memory_order_acquire);
    step(c);
}

/* Writes a frame to the host: bytes printed to descriptor 1 or 2; for 0 it only wakes the host. */
static void write_frame(tp_child *c, uint32_t fd, const char *bytes, size_t len)
{
    uint32_t head[2] = { fd, (uint32_t)len };
    struct iovec parts[2] = { { head, sizeof head }, { (void *)(uintptr_t)bytes, len } };
    uv_mutex_lock(&c->print_lock);
    step(c);
    while (parts[0].iov_len + parts[1].iov_len > 0) {
        struct msghdr m = { .msg_iov = parts, .msg_iovlen = 2 };
        ssize_t n = sendmsg(c->socket, &m, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            end_with_host();
        for (int i = 0; i < 2; i++) {
            size_t part = (size_t)n < parts[i].iov_len ? (size_t)n : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + part;
            parts[i].iov_len -= part;
            n -= (ssize_t)part;
        }
    }
    atomic_fetch_add_explicit(&c->control->printed, fd != 0, memory_order_relaxed);
    uv_mutex_unlock(&c->print_lock);
}

static void take_turn(tp_child *c, tp_wire_state state)
{
    step(c);
    atomic_store_explicit(&c->control->state, state, memory_order_relaxed);
    step(c);
    atomic_fetch_add(&c->control->turn, 1);
    step(c);
    if (atomic_exchange(&c->control->host_sleeps, 0))
        write_frame(c, 0, "", 0);
}

/* Listens to what happens here, or does not, as the host does. */
static void follow_trace(tp_trace *trace, tp_told told)
{
    const bool is_traced = told != TP_TELLS_NOTHING;
    tp_trace_set_brief(trace, told == TP_TELLS_BUILDS);
    if (is_traced && !tp_trace_is_on(trace))
        tp_trace_start(trace, EVENTS, NULL); /* when out of memory the host misses these events */
    else if (!is_traced && tp_trace_is_on(trace))
        tp_trace_stop(trace);
}

/* Sends the host what has happened since the last time. */
static void tell_events(tp_child *c)
{
    tp_trace *trace = c->agent.worker.trace;
    if (!tp_trace_is_on(trace))
        return;
    c->told_ns = uv_hrtime();
    if (tp_wire_put_events(trace, c->told, &c->events) == 0 && c->events.len > 0 &&
        c->events.len <= LONGEST)
        write_frame(c, TP_WIRE_EVENTS, (const char *)c->events.data, c->events.len);
    tp_buf_clear(&c->events);
}

/* tp_profile_open's: sends samples, which are whole lines. */
static void send_samples(void *user, const char *bytes, size_t len)
{
    while (len > 0) {
        size_t part = len < LONGEST ? len : LONGEST;
        while (part > 0 && bytes[part - 1] != '\n')
            part--;
        if (part == 0)
            return;
        write_frame(user, TP_WIRE_SAMPLES, bytes, part);
        bytes += part;
        len -= part;
    }
}

/* tp_host.noted: sends events of long items while they run. */
static void tell_some_events(void *noting)
{
    enum { PAUSE_NS = 100 * 1000 * 1000 };
    tp_child *c = noting;
    if (uv_hrtime() - c->told_ns >= PAUSE_NS)
        tell_events(c);
}

/* tp_config.write */
static void print(void *user, int fd, const char *bytes, size_t len)
{
    for (; len > LONGEST; bytes += LONGEST, len -= LONGEST)
        write_frame(user, (uint32_t)fd, bytes, LONGEST);
    write_frame(user, (uint32_t)fd, bytes, len);
}

/* ---- records ---- */

/* Gives up the record that is being filled in. */
static void drop_filling(tp_child *c)
{
    atomic_store_explicit(&c->control->open, 0, memory_order_relaxed);
    c->filling = NULL;
}

/* The host has taken all records, and said where the next ones go; control->used is the same. */
static void take_room(tp_child *c)
{
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    c->used = c->from = atomic_load_explicit(&in->records_from, memory_order_relaxed);
    c->until = atomic_load_explicit(&in->records_until, memory_order_relaxed);
}

/* Where the room for records ends, for one of that size: few large ones may make it larger. */
static uint64_t end_of_room(const tp_child *c, uint64_t size)
{
    uint64_t least = c->from - TP_WIRE_OUT_BEGIN + TP_WIRE_SIZE;
    return c->until                                                    ? c->until
           : size >= TP_WIRE_HELD_LEAST && c->out.size < TP_WIRE_KEPT ? TP_WIRE_KEPT
           : c->out.size < least                                       ? least
                                                                       : c->out.size;
}

/* Makes room at `used` for a record of that size; if there is none, the host must first take the
 * records that there are. `kept` bytes that were written behind the new record's head go with it.
 * -1 when out of memory. */
static int make_room(tp_child *c, uint64_t size, size_t kept)
{
    uint64_t before = c->used;
    drop_filling(c);
    step(c);
    c->done_at = 0;
    while (c->used + size > end_of_room(c, size) && (c->used > c->from || c->until)) {
        take_turn(c, TP_WIRE_FULL);
        wait_for_host(c);
        take_room(c);
    }
    if (c->used + size > c->out.size && tp_region_grow(&c->out, c->used + size, NULL))
        return -1;
    if (kept && c->used != before)
        memmove(c->out.data + c->used + sizeof(tp_wire_record),
                c->out.data + before + sizeof(tp_wire_record), kept);
    return 0;
}

/* Where the message of the next record goes. */
static uint8_t *message_place(const tp_child *c)
{
    return (uint8_t *)c->out.data + c->used + sizeof(tp_wire_record);
}

/* see tp_buf_home */
static uint8_t *grow_message(tp_buf_home *home, size_t len, size_t *cap)
{
    tp_child *c = (tp_child *)(void *)((char *)home - offsetof(tp_child, home));
    if (make_room(c, sizeof(tp_wire_record) + *cap, len))
        return NULL;
    uint64_t end = c->until && c->until < c->out.size ? c->until : c->out.size;
    *cap = end - c->used - sizeof(tp_wire_record);
    return message_place(c);
}

static tp_buf_home *sink_home(tp_work *w)
{
    return &child_of(w)->home;
}

/* A new record of that size, as make_room. NULL when out of memory. */
static tp_wire_record *new_record(tp_child *c, uint32_t place, uint64_t size, size_t kept)
{
    size = (size + 7) & ~(uint64_t)7;
    if (make_room(c, size, kept))
        return NULL;
    tp_wire_record *r = (tp_wire_record *)(void *)(c->out.data + c->used);
    *r = (tp_wire_record){ .size = size, .place = place };
    return r;
}

/* The record is complete: the host may read it from here on. */
static void publish_record(tp_child *c, const tp_wire_record *r)
{
    step(c);
    c->used += r->size;
    c->has_news = true;
    atomic_store_explicit(&c->control->used, c->used, memory_order_release);
    step(c);
    drop_filling(c);
}

/* Writes a record with a message, if it is not there already, and the ids of its references. -1
 * with err set when the host does not have one of these, or there is no memory. */
static int put_message(tp_child *c, const tp_work *w, tp_block_kind kind, uint32_t at,
                       bool may_retry, const uint8_t *bytes, size_t len, tp_ref *const *refs,
                       uint32_t nrefs, tp_error *err)
{
    uint64_t refs_at = sizeof(tp_wire_record) + ((len + 7) & ~(size_t)7);
    bool is_there = bytes == message_place(c);
    tp_wire_record *r =
        new_record(c, w->place, refs_at + 4 * (uint64_t)nrefs, is_there ? len : 0);
    if (!r)
        return tp_error_oom(err, "results");
    char *to = (char *)r;
    if (len && !is_there)
        memcpy(to + sizeof *r, bytes, len);
    for (uint32_t i = 0; i < nrefs; i++) {
        uint32_t id = tp_wire_id_of(refs[i], c->ref, c->nrefs);
        if (id == c->nrefs)
            return tp_error_set(
                err, TP_ECODEC,
                "an object that only the worker process knows cannot travel from it");
        memcpy(to + refs_at + 4 * i, &id, sizeof id);
    }
    r->kind = kind;
    r->at = at;
    r->n = 1;
    r->may_retry = may_retry;
    r->bytes = len;
    r->nrefs = nrefs;
    publish_record(c, r);
    return 0;
}

/* ---- the sink ---- */

static tp_block *sink_new_columns(tp_work *w, uint32_t capacity, uint32_t columns,
                                  const uint8_t *types, uint32_t text)
{
    tp_child *c = child_of(w);
    const tp_returns *returns = &w->terms->returns;
    bool in_place = columns > 0 && returns->columns > 0 && returns->array[0];
    tp_block *b = in_place  ? tp_returns_block(returns, w->block->first + w->at, 0)
                  : columns ? tp_block_new_borrowed(0, 0, columns)
                            : tp_block_new_empty(TP_BLOCK_DONE, 0, 0);
    tp_wire_record *r =
        b ? new_record(c, w->place,
                       in_place ? sizeof *r : tp_wire_columns_size(capacity, columns, types, text),
                       0)
          : NULL;
    if (!r) {
        tp_block_free(b);
        return NULL;
    }
    r->kind = b->kind;
    r->at = w->at;
    r->capacity = capacity;
    r->columns = columns;
    r->in_place = in_place;
    for (uint32_t i = 0; i < columns; i++)
        b->type[i] = r->type[i] = types[i];
    if (!in_place) {
        for (uint32_t i = 0; i < columns; i++)
            b->column[i] = (char *)r + tp_wire_column_at(r, i);
        r->text.capacity = text;
        b->text = (tp_text){ (char *)r + tp_wire_column_at(r, columns), 0, text };
        b->capacity = capacity;
    }
    c->filling = b;
    /* Release: a host that sees `open` sees the record's head. ctl[0] says how many of its items
     * are done. */
    atomic_store_explicit(&c->control->open, c->used, memory_order_release);
    step(c);
    return b;
}

static void end_filling(tp_child *c, const tp_block *b)
{
    tp_wire_record *r = (tp_wire_record *)(void *)(c->out.data + c->used);
    r->n = b->n;
    step(c);
    r->text.used = b->text.used;
    publish_record(c, r);
}

static void sink_append(tp_work *w, tp_block *b)
{
    tp_child *c = child_of(w);
    uint32_t at = (uint32_t)(b->first - w->block->first);
    b->next = c->kept;
    c->kept = b;
    /* a failure may have the address of a freed `filling`, so its kind is checked too */
    if (b == c->filling && b->kind != TP_BLOCK_FAILURE) {
        end_filling(c, b);
        return;
    }
    size_t len;
    tp_error err = { 0 };
    /* the block is a failure: all other results have been published one by one */
    const uint8_t *bytes = tp_block_message(b, 0, &len);
    if (put_message(c, w, b->kind, at, b->may_retry, bytes, len, b->bytes.refs, b->bytes.nrefs,
                    &err) == 0)
        return;
    tp_block *other = tp_block_new_failure(tp_failure_kind_of(err.code, TP_KIND_CODEC), err.message,
                                           w->attempt, w->worker->index);
    if (!other || put_message(c, w, TP_BLOCK_FAILURE, at, false, other->bytes.data,
                              other->bytes.len, NULL, 0, NULL))
        w->sink->starve(w);
    tp_block_free(other);
}

static int sink_publish(tp_work *w, tp_error *err)
{
    tp_child *c = child_of(w);
    tp_block *b = w->values;
    int rc = 0;
    if (b->kind == TP_BLOCK_VALUES) {
        rc = put_message(c, w, TP_BLOCK_VALUES, w->at, false, b->bytes.data, b->bytes.len,
                         b->bytes.refs, b->bytes.nrefs, err);
        tp_buf_clear(&b->bytes);
        b->bytes.data = NULL; /* the memory is the record's; the next message gets another */
        b->bytes.cap = 0;
    } else if (c->done_at && !w->place) {
        ((tp_wire_record *)(void *)(c->out.data + c->done_at))->n++;
    } else {
        uint64_t at = c->used;
        tp_wire_record *r = new_record(c, w->place, sizeof *r, 0);
        rc = r ? 0 : tp_error_oom(err, "results");
        if (r) {
            at = c->used;
            r->kind = TP_BLOCK_DONE;
            r->at = w->at;
            r->n = 1;
            publish_record(c, r);
            c->done_at = w->place ? 0 : at;
        }
    }
    b->n = 0;
    b->first = w->block->first + w->at + 1;
    return rc;
}

static void sink_starve(tp_work *w)
{
    tp_child *c = child_of(w);
    atomic_store_explicit(&c->control->starved, 1 + w->place, memory_order_relaxed);
    c->has_news = true;
    atomic_store_explicit(&w->ctl[1], 1, memory_order_relaxed);
}

/* The host takes the value at once, and makes us wait when enough values wait to be read. */
static int sink_emit(tp_work *w, tp_block *b)
{
    tp_child *c = child_of(w);
    tp_error err = { 0 };
    size_t len;
    const uint8_t *bytes = tp_block_message(b, 0, &len);
    int rc = put_message(c, w, TP_BLOCK_PART, w->at, false, bytes, len, b->bytes.refs,
                         b->bytes.nrefs, &err);
    tp_block_free(b);
    if (rc) {
        sink_starve(w);
        return -1;
    }
    take_turn(c, TP_WIRE_FULL);
    wait_for_host(c);
    take_room(c);
    return tp_work_is_asked_to_stop(w) ? -1 : 0;
}

static bool sink_is_cancelled(const tp_work *w)
{
    (void)w;
    return false; /* the host ends this process instead */
}

/* Asks the host for something, and waits until it has done that. */
static void ask(tp_child *c, tp_wire_asked what, uint32_t of)
{
    atomic_store_explicit(&c->control->asked, what, memory_order_relaxed);
    atomic_store_explicit(&c->control->asked_of, of, memory_order_relaxed);
    take_turn(c, TP_WIRE_ASKS);
    wait_for_host(c);
}

/* The same for a question. */
static bool ask_whether(tp_child *c, tp_wire_asked what, uint32_t of)
{
    ask(c, what, of);
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    return atomic_load_explicit(&in->answer, memory_order_relaxed) != 0;
}

/* The permit is held by the host, and what the item waits for is run here. */
static void sink_release_permit(tp_work *w)
{
    if (w->terms->is_limited)
        ask(child_of(w), TP_WIRE_RELEASE_OWN, 0);
}

static void sink_take_permit(tp_work *w)
{
    if (w->terms->is_limited)
        ask(child_of(w), TP_WIRE_TAKE_OWN, 0);
}

/* The id of a function that the host has sent, and of which it has the permits. Those of others are
 * here. */
static bool find_limited(const tp_child *c, const tp_func *f, uint32_t *id)
{
    for (*id = 0; *id < c->nrefs; ++*id)
        if (c->ref[*id] == &f->ref)
            return f->limit > 0;
    return false;
}

/* see tp_permits */
static void take_permit(void *user, const tp_func *f)
{
    tp_child *c = user;
    uint32_t id;
    if (c->permit_of == f || !find_limited(c, f, &id))
        return;
    ask(c, TP_WIRE_TAKE, id);
    c->permit_of = f;
}

/* The same without a wait. False when there is none. */
static bool try_to_take_permit(tp_child *c, const tp_func *f)
{
    uint32_t id;
    if (c->permit_of == f || !find_limited(c, f, &id))
        return true;
    if (!ask_whether(c, TP_WIRE_TRY_TAKE, id))
        return false;
    c->permit_of = f;
    return true;
}

static void release_permit(void *user, const tp_func *f)
{
    tp_child *c = user;
    uint32_t id;
    if (c->permit_of != f || !find_limited(c, f, &id))
        return;
    c->permit_of = NULL;
    ask(c, TP_WIRE_RELEASE, id);
}

/* see tp_far_permits: the process that runs the items is to be looked at between two tries */
static bool take_far_permit(void *user, const uint64_t part[2], const tp_func *f, bool may_wait)
{
    (void)part;
    bool has = try_to_take_permit(user, f);
    if (!has && may_wait)
        uv_sleep(1);
    return has;
}

static void release_far_permit(void *user, const uint64_t part[2], const tp_func *f)
{
    (void)part;
    release_permit(user, f);
}

enum { ENCODING = TP_ENCODE_NO_CODE | TP_ENCODE_COPIES };

static const tp_sink sink = {
    .append = sink_append,
    .emit = sink_emit,
    .starve = sink_starve,
    .is_cancelled = sink_is_cancelled,
    .release_permit = sink_release_permit,
    .take_permit = sink_take_permit,
    .new_columns = sink_new_columns,
    .publish = sink_publish,
    .encoding = ENCODING,
    .home = sink_home,
};

/* ---- the sink of items that wait beside each other ---- */

static bool item_is_cancelled(const tp_work *w)
{
    return ((const open_item *)(const void *)w)->is_unwanted;
}

/* Tells the host only when it matters to others: the function has a limit, or the wait is lent or
 * endless. */
static void item_give_way(tp_work *w, bool is_lent, bool endless)
{
    tp_child *c = child_of(w);
    if (!is_lent && !endless && !w->terms->is_limited)
        return;
    ((open_item *)(void *)w)->has_given_way = true;
    atomic_store_explicit(&c->control->flags, (uint32_t)is_lent | (uint32_t)endless << 1,
                          memory_order_relaxed);
    ask(c, TP_WIRE_GIVE_WAY, w->place);
}

static bool item_come_back(tp_work *w)
{
    open_item *o = (open_item *)(void *)w;
    o->has_given_way = o->has_given_way && !ask_whether(child_of(w), TP_WIRE_COME_BACK, w->place);
    return !o->has_given_way;
}

static void item_release_permit(tp_work *w)
{
    item_give_way(w, false, false);
}

/* Waits for the permit without letting other items of this process go on. */
static void item_take_permit(tp_work *w)
{
    while (!item_come_back(w))
        uv_sleep(1);
}

static void item_note_step(tp_work *w, uint64_t step)
{
    tp_child *c = child_of(w);
    atomic_store_explicit(&c->control->number, step, memory_order_relaxed);
    ask(c, TP_WIRE_NOTE_STEP, w->place);
}

static bool item_note_blocking(tp_work *w)
{
    return ask_whether(child_of(w), TP_WIRE_NOTE_BLOCKING, w->place);
}

static void end_item(tp_work *w);

static const tp_sink item_sink = {
    .append = sink_append,
    .starve = sink_starve,
    .is_cancelled = item_is_cancelled,
    .release_permit = item_release_permit,
    .take_permit = item_take_permit,
    .new_columns = sink_new_columns,
    .publish = sink_publish,
    .end = end_item,
    .give_way = item_give_way,
    .come_back = item_come_back,
    .note_step = item_note_step,
    .note_blocking = item_note_blocking,
    .encoding = ENCODING,
    .home = sink_home,
};

/* ---- requests ---- */

static tp_ref *make_ref(tp_child *c, const tp_region *from, const tp_wire_ref *r)
{
    const char *name = from->data + r->name_at;
    if (r->kind == TP_WIRE_FUNC) {
        tp_func *f = tp_func_new(name, r->limit);
        return f ? &f->ref : NULL;
    }
    if (r->kind == TP_WIRE_ARRAY) {
        tp_array *a = tp_array_borrow(c->arrays, &r->place);
        return a ? &a->ref : NULL;
    }
    if (r->kind == TP_WIRE_DICT || r->kind == TP_WIRE_QUEUE)
        return (tp_ref *)(void *)tp_store_new_far(
            r->kind == TP_WIRE_DICT ? &tp_dict_type : &tp_store_queue_type, &c->stores, r->id);
    tp_buf message = { 0 };
    tp_ref *made = NULL;
    if (tp_wire_copy_message(from, c->ref, &message, r->bytes_at, r->bytes, r->refs_at,
                             r->nrefs) == 0) {
        tp_image *packed = r->kind == TP_WIRE_PACKED ? tp_image_new(&message) : NULL;
        made = r->kind == TP_WIRE_PACKED ? (packed ? &packed->ref : NULL)
                                         : tp_class_blob_new(name, &message, r->is_partial);
    }
    tp_buf_free(&message);
    return made;
}

static int take_given(tp_child *c, const tp_region *from, uint64_t at, uint64_t n)
{
    const tp_wire_ref *given = (const tp_wire_ref *)(const void *)(from->data + at);
    for (uint64_t i = 0; i < n; i++) {
        tp_ref *made = make_ref(c, from, &given[i]);
        if (!made)
            return -1;
        step(c);
        uint32_t id = given[i].id;
        c->nreturned += tp_wire_is_returned(given[i].kind);
        c->ref[id] = made;
        if (id >= c->nrefs)
            c->nrefs = id + 1;
    }
    return 0;
}

/* An array or store is returned as soon as nobody here holds it. Those that came with the request
 * or answer are held until it is over. */
static void drop_given(tp_child *c, const tp_region *from, uint64_t at, uint64_t n)
{
    const tp_wire_ref *given = (const tp_wire_ref *)(const void *)(from->data + at);
    for (uint64_t i = 0; i < n; i++)
        if (tp_wire_is_returned(given[i].kind))
            tp_ref_drop(c->ref[given[i].id]);
}

/* Tells the host that nobody here holds it any more: see tp_store_keeper. */
static void return_id(void *user, uint32_t id)
{
    tp_child *c = user;
    c->ref[id] = NULL;
    c->nreturned--;
    atomic_fetch_or_explicit(&c->control->returned[id / 64], (uint64_t)1 << id % 64,
                             memory_order_relaxed);
}

/* see tp_array_pool_adopt */
static void return_array(void *user, const tp_array *a)
{
    return_id(user, a->id);
}

/* Garbage may hold much that the host cannot free until it is returned. */
static void collect_returned(tp_child *c)
{
    if (c->nreturned <= c->many)
        return;
    tp_vm_collect(c->agent.worker.vm);
    c->many = 2 * c->nreturned > RETURNED_MAX ? 2 * c->nreturned : RETURNED_MAX;
}

static int take_image(tp_child *c, const tp_wire_request *q)
{
    if (!q->image_at)
        return 0;
    tp_buf message = { 0 };
    tp_image *made =
        tp_wire_copy_message(&c->in, c->ref, &message, q->image_at, q->image_bytes,
                             q->image_refs_at, q->image_nrefs)
            ? NULL
            : tp_image_new(&message);
    tp_buf_free(&message);
    tp_ref_drop(c->image[q->image]);
    c->image[q->image] = made;
    return made ? 0 : -1;
}

/* Makes a block of the request's items, whose memory is the arena's. */
static int open_inputs(tp_child *c, const tp_wire_request *q, tp_block *b)
{
    char *base = c->in.data;
    *b = (tp_block){ .first = q->first,
                     .n = q->n,
                     .kind = (tp_block_kind)q->kind,
                     .columns = q->columns,
                     .capacity = q->is_foreign ? 0 : q->n };
    memcpy(b->type, q->type, sizeof b->type);
    for (uint32_t i = 0; i < q->columns; i++) {
        tp_ref *lender = q->lent[i] ? c->ref[q->lent[i] - 1] : NULL;
        b->column[i] = (lender ? (char *)((tp_array *)(void *)lender)->data : base) +
                       q->column_at[i];
        if (lender && tp_buf_hold_ref(&b->bytes, lender))
            return -1;
    }
    if (q->text_at)
        b->text = (tp_text){ base + q->text_at, (uint32_t)q->text, (uint32_t)q->text };
    if (b->kind == TP_BLOCK_COLUMNS)
        return 0;
    b->ends = (uint32_t *)(void *)(base + q->ends_at);
    b->bytes.data = (uint8_t *)base + q->bytes_at;
    b->bytes.len = q->bytes;
    const uint32_t *ids = (const uint32_t *)(const void *)(base + q->refs_at);
    for (uint64_t i = 0; i < q->nrefs; i++)
        if (tp_buf_hold_ref(&b->bytes, c->ref[ids[i]]))
            return -1;
    return 0;
}

static void close_inputs(tp_block *b)
{
    tp_buf_drop_refs(&b->bytes, 0);
    free(b->bytes.refs);
}

/* ---- stores ---- */

/* Asks the host to do it. */
static int ask_store(tp_child *c, uint32_t id, tp_store_op *op, tp_error *err)
{
    if (tp_wire_put_ask(&c->asks, id, op, c->ref, c->nrefs, err))
        return -1;
    /* the host may read all records now: none of them may be added to */
    c->done_at = 0;
    ask(c, TP_WIRE_PERFORM, 0);
    const tp_wire_answer *a = tp_wire_see_answer(&c->asks);
    if (!a || take_given(c, &c->asks, a->given_at, a->given))
        _exit(TP_CHILD_NO_MEMORY); /* as when there is no memory for a request */
    int rc = tp_wire_get_answer(&c->asks, c->ref, op, err);
    drop_given(c, &c->asks, a->given_at, a->given);
    return rc;
}

/* see tp_store_keeper */
static int perform(void *user, uint32_t id, tp_store_op *op, tp_error *err)
{
    tp_child *c = user;
    tp_error why;
    tp_error_clear(&why);
    collect_returned(c);
    int rc = ask_store(c, id, op, &why);
    if (rc && why.code == TP_ELIMIT) { /* garbage may have used up all ids */
        tp_vm_collect(c->agent.worker.vm);
        tp_error_clear(&why);
        rc = ask_store(c, id, op, &why);
    }
    if (rc && why.code == TP_ELIMIT)
        return tp_error_set(err, TP_ELIMIT,
                            "a worker process can hold %d Dicts, Queues and arrays at once",
                            TP_WIRE_REFS_MAX);
    return rc ? tp_error_set(err, why.code, "%s", why.message) : 0;
}

/* see tp_store_keeper */
static bool is_stuck(void *user)
{
    return ask_whether(user, TP_WIRE_IS_STUCK, 0);
}

/* ---- memory ---- */

/* No limit to native memory in sanitizer builds, since the sanitizer's own memory would count. */
enum { HAS_NATIVE_LIMIT = !TP_IS_SANITIZED };
/* bytes allowed beyond a limit: NATIVE_SPARE for the process itself and gaps between blocks,
 * LEFT_OVER for what earlier functions have left */
enum { NATIVE_SPARE = 32 << 20, LEFT_OVER = 8 << 20 };

/* A crash for which errno is ENOMEM: native code was refused memory, which is blamed on the item.
 * Async-signal-safe. */
static void note_death(void *user, int error)
{
    tp_wire_out *control = ((tp_child *)user)->control;
    int32_t place = atomic_load_explicit(&control->shown, memory_order_relaxed),
            item = atomic_load_explicit(&control->work.ctl[0], memory_order_relaxed);
    if (error == ENOMEM)
        atomic_store_explicit(&control->refused, 1 + (uint32_t)(place ? place : item),
                              memory_order_relaxed);
}

/* Do leftovers of other functions take half of the memory that the next items may have? Then these
 * need a new process. */
static bool is_crowded(tp_child *c, uint64_t memory)
{
    if (!c->has_run || memory == 0 || memory == c->memory || c->items)
        return false;
    if (tp_vm_used(c->agent.worker.vm) - c->lua_bytes > memory / 2)
        tp_vm_collect(c->agent.worker.vm);
    return tp_vm_used(c->agent.worker.vm) > c->lua_bytes + memory / 2 ||
           (HAS_NATIVE_LIMIT && tp_system_memory_of((long)getpid()).data >
                                    c->data_bytes + memory / 2 + LEFT_OVER);
}

/* Sets the limits of the Lua state and of the process. *item tells which item to blame when memory
 * runs out (tp_vm_limit). */
static void limit_memory(tp_child *c, uint64_t memory, const _Atomic int32_t *item)
{
    struct rlimit limit;
    tp_wire_out *control = c->control;
    tp_vm_limit(c->agent.worker.vm, memory ? c->lua_bytes + memory : 0, memory, &control->refused,
                item);
    errno = 0;
    if (!HAS_NATIVE_LIMIT || c->data_bytes == 0 || memory == c->memory ||
        getrlimit(RLIMIT_DATA, &limit))
        return;
    c->memory = memory;
    if (memory && !c->notes_death)
        c->notes_death = tp_signals_note_death(note_death, c) == 0;
    limit.rlim_cur = memory ? c->data_bytes + memory + memory / 4 + NATIVE_SPARE : c->data_limit;
    if (limit.rlim_cur > limit.rlim_max)
        limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_DATA, &limit);
    errno = 0;
}

/* ---- running ---- */

/* What the request says, with the arrays for results held. The names are the arena's. */
static tp_terms open_terms(tp_child *c, const tp_wire_request *q)
{
    tp_terms terms = { .name = c->in.data + q->name_at,
                       .executor = c->in.data + q->executor_at,
                       .image = c->image[q->image],
                       .discards = q->discards,
                       .batch = q->batch,
                       .splits = q->splits,
                       .streams = q->streams,
                       .concurrent = q->place ? q->concurrent : 0,
                       .draws = q->draws,
                       .depth = q->depth,
                       .has_leases = q->has_leases,
                       .is_limited = q->is_limited,
                       .leases = q->leases,
                       .memory = q->memory };
    terms.returns.columns = q->returns;
    memcpy(terms.returns.type, q->returned, sizeof terms.returns.type);
    for (uint32_t i = 0; i < q->returns && q->result[i]; i++)
        terms.returns.array[i] = tp_ref_hold((tp_array *)(void *)c->ref[q->result[i] - 1]);
    c->agent.worker.index = (int)q->worker;
    c->agent.worker.tags_lines = q->tags_lines;
    return terms;
}

static void close_terms(tp_terms *terms)
{
    for (uint32_t i = 0; i < TP_COLUMNS_MAX; i++)
        tp_ref_drop(terms->returns.array[i]);
}

/* Sets the memory limit for the open items; none when there are no open items. */
static void limit_items(tp_child *c)
{
    tp_vm_limit(c->agent.worker.vm, 0, 0, NULL, NULL);
    if (c->items)
        limit_memory(c, c->items_memory, &c->control->shown);
}

static void run_items(tp_child *c, const tp_wire_request *q, tp_block *inputs)
{
    tp_terms terms = open_terms(c, q);
    tp_work *w = &c->control->work;
    tp_work_open(w, &c->agent.worker, &sink, &terms, inputs, 0, inputs->n, q->attempt);
    tp_worker_show(&c->agent.worker);
    limit_memory(c, q->memory, &c->control->work.ctl[0]);
    uint64_t begun = uv_hrtime();
    tp_vm_run(c->agent.worker.vm, w);
    atomic_store_explicit(&c->control->ran_ns, uv_hrtime() - begun, memory_order_relaxed);
    tp_work_close(w);
    limit_items(c);
    close_terms(&terms);
    atomic_store_explicit(&c->control->will_leave, c->agent.worker.will_leave,
                          memory_order_relaxed);
}

/* ---- items that wait beside each other ---- */

static void free_item(tp_child *c, open_item *o)
{
    open_item **at = &c->items;
    while (*at && *at != o)
        at = &(*at)->next;
    if (*at)
        *at = o->next;
    for (int i = 0; i < 2; i++)
        tp_buf_free(&o->work.lines.begun[i]);
    close_terms(&o->terms);
    tp_ref_drop(o->terms.image);
    free((char *)(uintptr_t)o->terms.name);
    free((char *)(uintptr_t)o->terms.executor);
    free(o);
    if (!c->items)
        limit_items(c);
}

/* see tp_sink */
static void end_item(tp_work *w)
{
    tp_child *c = child_of(w);
    tp_work_close(w);
    free_item(c, (open_item *)(void *)w);
}

/* The host has sent a byte to wake us, or has ended. */
static void take_wakes(uv_poll_t *handle, int status, int events)
{
    /* `data` is NULL, so that luv takes it for none of its handles */
    const void *at = (const char *)handle - offsetof(tp_child, wakes);
    const tp_child *c = at;
    char bytes[64];
    (void)status, (void)events;
    ssize_t n = recv(c->socket, bytes, sizeof bytes, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
        end_with_host();
}

/* Opens the loop on which items wait, and watches the socket there, so that the host can end a
 * wait. */
static int open_loop(tp_child *c)
{
    tp_error err = { 0 };
    if (c->has_wakes)
        return 0;
    if (tp_own_loop_open(&c->agent, &err) ||
        uv_poll_init(&c->agent.own_loop->loop, &c->wakes, c->socket))
        return -1;
    c->has_wakes = true;
    uv_poll_start(&c->wakes, UV_READABLE, take_wakes);
    uv_unref((uv_handle_t *)&c->wakes);
    /* libuv has set O_NONBLOCK; the rest of this file expects a blocking socket */
    fcntl(c->socket, F_SETFL, fcntl(c->socket, F_GETFL) & ~O_NONBLOCK);
    return 0;
}

/* Begins the item of the request, and runs it up to its first wait. */
static void begin_item(tp_child *c, const tp_wire_request *q, const tp_block *input)
{
    tp_worker *worker = &c->agent.worker;
    open_item *o = open_loop(c) ? NULL : calloc(1, sizeof *o);
    if (o) {
        o->terms = open_terms(c, q);
        tp_ref_hold(o->terms.image);
        o->terms.name = strdup(o->terms.name);
        o->terms.executor = strdup(o->terms.executor);
        o->input = *input;
    }
    if (!o || !o->terms.name || !o->terms.executor) {
        atomic_store_explicit(&c->control->starved, 1 + q->place, memory_order_relaxed);
        if (o)
            free_item(c, o);
        return;
    }
    /* the largest limit of the open items; 0 (none) when one of them has none */
    if (!c->items || !q->memory || (c->items_memory && q->memory > c->items_memory))
        c->items_memory = q->memory;
    o->next = c->items;
    c->items = o;
    tp_work_open(&o->work, worker, &item_sink, &o->terms, &o->input, 0, 1, q->attempt);
    o->work.place = q->place;
    tp_worker_show(worker);
    limit_items(c);
    bool has_begun = tp_vm_begin(worker->vm, &o->work);
    if (!has_begun) {
        end_item(&o->work);
        return;
    }
    for (o = c->items; o && o->work.place != q->place; o = o->next)
        ;
    /* it has not ended: its arguments lie in the request, which will be overwritten, and are not
     * needed any more */
    if (o)
        o->input = (tp_block){ .first = input->first, .n = 1, .kind = input->kind };
}

/* The item is not wanted any more: it is told so where it waits. */
static void stop_item(tp_child *c, uint32_t place)
{
    for (open_item *o = c->items; o; o = o->next)
        o->is_unwanted |= o->work.place == place;
    tp_engine_note_cancel(c->agent.engine);
}

/* May the item of a map that was begun here, which was taken, be run now? Its function's permit may
 * be the host's. */
static bool may_run(tp_child *c, tp_slice *s)
{
    const tp_func *f = tp_job_func(s->job);
    uint32_t id;
    return !find_limited(c, f, &id) || (s->is_permitted = try_to_take_permit(c, f));
}

/* Runs items of maps that items have begun. False when there are none. */
static bool run_nested(tp_child *c)
{
    tp_agent *a = &c->agent;
    uv_mutex_lock(tp_engine_lock(a->engine));
    tp_slice *s = tp_job_take_locked(a->engine, a->executor, a);
    uv_mutex_unlock(tp_engine_lock(a->engine));
    if (!s)
        return false;
    if (!may_run(c, s))
        /* no permit: the slice goes back. An item here may have the permit, and release it
         * meanwhile */
        uv_sleep(1);
    else
        tp_exec_run(a, s); /* always true: nested items do not run as coroutines here */
    tp_job_finish(s);
    return true;
}

/* Lets the items go on until there is news, or the host wants the turn. */
static void go_on(tp_child *c)
{
    tp_wire_in *in = (tp_wire_in *)(void *)c->in.data;
    c->has_news = false;
    while (c->items && !c->has_news) {
        bool has_run = run_nested(c);
        atomic_store(&c->control->worker_sleeps, 1);
        bool is_poked = atomic_load(&in->poked);
        tp_vm_turn(c->agent.worker.vm, has_run || is_poked ? 0 : UINT64_MAX);
        atomic_store_explicit(&c->control->worker_sleeps, 0, memory_order_relaxed);
        if (is_poked)
            break;
    }
    tell_events(c);
    tp_block_free_list(c->kept);
    c->kept = NULL;
    collect_returned(c);
}

static void serve_request(tp_child *c)
{
    tp_block inputs = { 0 };
    const tp_wire_request *q = tp_wire_get_request(c->in.data);
    if (tp_region_follow(&c->in, q->size, NULL)) {
        atomic_store_explicit(&c->control->starved, 1, memory_order_relaxed);
        return;
    }
    q = tp_wire_get_request(c->in.data);
    if (is_crowded(c, q->memory))
        _exit(0); /* nothing has begun: the host will start another process for it */
    step(c);
    atomic_store_explicit(&c->control->begun, c->seen, memory_order_relaxed);
    step(c);
    c->done_at = 0;
    c->filling = NULL;
    if (take_given(c, &c->in, q->given_at, q->given) || take_image(c, q) ||
        open_inputs(c, q, &inputs))
        /* the host could not know which of the things that it gave have arrived */
        _exit(TP_CHILD_NO_MEMORY);
    /* items that wait here beside this one's are told of as before */
    if (q->told != TP_TELLS_NOTHING || !c->items)
        c->told = (tp_told)q->told;
    follow_trace(c->agent.worker.trace, c->told);
    if (q->place)
        begin_item(c, q, &inputs);
    else
        run_items(c, q, &inputs);
    step(c);
    tell_events(c);
    tp_profile_send();
    c->has_run = true;
    close_inputs(&inputs);
    tp_block_free_list(c->kept);
    c->kept = NULL;
    drop_given(c, &c->in, q->given_at, q->given);
    collect_returned(c);
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    uint64_t held = atomic_load_explicit(&in->held, memory_order_relaxed);
    if (c->out.size > TP_WIRE_KEPT && c->used <= TP_WIRE_KEPT && held <= TP_WIRE_KEPT)
        tp_region_trim(&c->out, TP_WIRE_KEPT);
}

/* ---- the start and the end of the process ---- */

/* Makes this process end with the thread that has started it; that thread may be gone already. The
 * commands that the process starts know no such thing. So the pipe TP_PEER_LIFE sends SIGKILL to
 * the process's group when its other end is closed; it is passed on to commands, since it must last
 * as long as one of them does. Where that is not possible, commands outlive a killed host. */
static int follow_parent(pid_t host, tp_error *err)
{
    if (fcntl(TP_PEER_LIFE, F_SETOWN, -getpid()) == 0 &&
        fcntl(TP_PEER_LIFE, F_SETSIG, SIGKILL) == 0)
        fcntl(TP_PEER_LIFE, F_SETFL, O_ASYNC | O_NONBLOCK);
    tp_system_end_with_parent(SIGKILL);
    return getppid() == host ? 0 : tp_error_set(err, TP_ESYS, "the host is gone");
}

/* Sets RLIMIT_DATA as it is where a function has no limit: a process that was started by a worker
 * process has inherited what applied to that one's function. */
static void open_data_limit(tp_child *c)
{
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    struct rlimit limit;
    if (getrlimit(RLIMIT_DATA, &limit))
        return;
    if (in->data_limit) {
        limit.rlim_cur = in->data_limit < limit.rlim_max ? in->data_limit : limit.rlim_max;
        setrlimit(RLIMIT_DATA, &limit);
    }
    c->data_limit = limit.rlim_cur;
}

int tp_child_open(tp_child **out, tp_error *err)
{
    int type;
    socklen_t len = sizeof type;
    if (getsockopt(TP_PEER_SOCKET, SOL_SOCKET, SO_TYPE, &type, &len))
        return tp_error_set(err, TP_EUSAGE, "a worker process is started by Tidepool itself");
    tp_child *c = calloc(1, sizeof *c);
    if (!c || uv_mutex_init(&c->print_lock))
        return tp_error_oom(err, "worker process");
    for (int fd = TP_PEER_SOCKET; fd < TP_PEER_FDS; fd++)
        fcntl(fd, F_SETFD, fd == TP_PEER_LIFE ? 0 : FD_CLOEXEC);
    c->socket = TP_PEER_SOCKET;
    c->file = fcntl(TP_PEER_ARRAYS, F_GETFD) < 0 ? -1 : TP_PEER_ARRAYS;
    if (tp_region_adopt(&c->in, TP_PEER_IN, err) || tp_region_adopt(&c->out, TP_PEER_OUT, err) ||
        tp_region_adopt(&c->asks, TP_PEER_ASKS, err))
        return -1;
    void *control = mmap(NULL, TP_WIRE_CONTROL, PROT_READ | PROT_WRITE, MAP_SHARED, c->out.fd, 0);
    if (control == MAP_FAILED)
        return tp_error_oom(err, "worker process");
    c->control = control;
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    if (follow_parent(in->host_pid, err))
        return -1;
    c->control->layout = TP_WIRE_LAYOUT;
    snprintf(c->control->version, sizeof c->control->version, "%s", TP_VERSION);
    open_data_limit(c);
    tp_system_prefer_as_victim();
    tp_system_name_process("tidepool-worker");
    *out = c;
    return 0;
}

void tp_child_configure(tp_child *c, tp_config *config)
{
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    config->workers = (int)in->workers;
    config->write = print;
    config->user = c;
    config->executor = tp_exec_processes.name;
    config->worker = TP_SYSTEM_PROGRAM; /* of processes that this one starts */
}

int tp_child_serve(tp_child *c, tp_host *host, tp_error *err)
{
    const tp_wire_in *in = (const tp_wire_in *)(const void *)c->in.data;
    host->is_child = true;
    host->noted = tell_some_events;
    host->noting = c;
    memcpy(host->modules, in->modules, sizeof in->modules);
    memcpy(host->place, in->place, sizeof in->place);
    tp_engine_show_inside(host->engine, &c->control->inside);
    tp_engine_set_permits(host->engine, &(tp_permits){ take_permit, release_permit, c });
    c->arrays = host->arrays;
    tp_array_pool_adopt(host->arrays, c->file, return_array, c);
    c->many = RETURNED_MAX;
    c->home.grow = grow_message;
    c->stores = (tp_store_keeper){ perform, return_id, is_stuck, c, ENCODING };
    host->stores = &c->stores;
    c->permits = (tp_far_permits){ take_far_permit, release_far_permit, c };
    host->permits = &c->permits;
    host->data_limit = c->data_limit;
    if (in->is_sampled && tp_profile_open(NULL, send_samples, c, NULL) == 0)
        tp_profile_follow(host);
    if (tp_agent_open(&c->agent, host->engine, 1, tp_host_executor(host, tp_exec_processes.name),
                      err) ||
        tp_agent_open_vm(&c->agent, err)) {
        snprintf(c->control->message, sizeof c->control->message, "%s", err->message);
        take_turn(c, TP_WIRE_FAILED);
        return -1;
    }
    c->lua_bytes = tp_vm_used(c->agent.worker.vm);
    c->data_bytes = tp_system_memory_of((long)getpid()).data;
    take_turn(c, TP_WIRE_READY);
    c->agent.worker.shown = &c->control->shown;
    for (;;) {
        wait_for_host(c);
        in = (const tp_wire_in *)(const void *)c->in.data; /* it may have moved */
        take_room(c);
        c->done_at = 0;
        switch (atomic_load_explicit(&in->wish, memory_order_relaxed)) {
        case TP_WIRE_LEAVE:
            tp_apart_leave(&c->agent);
            tp_vm_leave(c->agent.worker.vm);
            break;
        case TP_WIRE_GO_ON: go_on(c); break;
        case TP_WIRE_STOP:
            stop_item(c, atomic_load_explicit(&in->stopped, memory_order_relaxed));
            break;
        default: serve_request(c);
        }
        take_turn(c, TP_WIRE_DONE);
    }
}
