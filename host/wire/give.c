/* give.c: what a worker process is given by reference. See give.h. */
#include "wire/give.h"

#include "codec/message.h"
#include "engine/store.h"

#include <stdlib.h>
#include <string.h>

/* ---- what it has ---- */

/* The id of a thing that the worker was given, or -1. Looks at the last ones first. */
static int64_t find(const tp_wire_given *g, const tp_ref *r)
{
    for (uint32_t i = g->n; i > 0; i--)
        if (g->refs[i - 1] == r)
            return i - 1;
    return -1;
}

/* Adds a reference to those that the worker has. Gives its id, or -1 when there is none left. */
static int64_t remember(tp_wire_given *g, tp_ref *r, tp_error *err)
{
    uint32_t id = g->least_free;
    while (id < g->n && g->refs[id])
        id++;
    if (id == TP_WIRE_REFS_MAX)
        return tp_error_set(err, TP_ELIMIT, "a worker process was given too much");
    if (id == g->room) {
        uint32_t room = g->room ? 2 * g->room : 16;
        tp_ref **refs = realloc(g->refs, room * sizeof *refs);
        if (!refs)
            return tp_error_oom(err, "references");
        g->refs = refs;
        g->room = room;
    }
    g->refs[id] = tp_ref_hold(r);
    g->least_free = id + 1;
    if (id == g->n)
        g->n++;
    return id;
}

static void forget(tp_wire_given *g, uint32_t id)
{
    tp_ref_drop(g->refs[id]);
    g->refs[id] = NULL;
    if (id < g->least_free)
        g->least_free = id;
}

static bool can_return(const tp_ref *r)
{
    return r->type == &tp_array_type || tp_store_is(r);
}

void tp_wire_take_returned(tp_wire_given *given, tp_wire_ids returned)
{
    for (uint32_t i = 0; i < TP_WIRE_REFS_MAX / 64; i++) {
        uint64_t bits = atomic_load_explicit(&returned[i], memory_order_relaxed);
        if (bits)
            atomic_store_explicit(&returned[i], 0, memory_order_relaxed);
        for (uint32_t id = 64 * i; bits; id++, bits >>= 1)
            if (bits & 1 && id < given->n && given->refs[id] && can_return(given->refs[id]))
                forget(given, id);
    }
}

void tp_wire_given_free(tp_wire_given *given)
{
    for (uint32_t i = 0; i < given->n; i++)
        tp_ref_drop(given->refs[i]);
    for (uint32_t i = 0; i < TP_WIRE_IMAGES; i++)
        tp_ref_drop(given->image[i]);
    free(given->refs);
    *given = (tp_wire_given){ 0 };
}

/* ---- writing ---- */

uint64_t tp_wire_reserve(tp_wire_writer *w, uint64_t size)
{
    uint64_t at = w->at;
    if (tp_region_grow(w->arena, at + tp_wire_rounded(size), w->err))
        return 0;
    w->at += tp_wire_rounded(size);
    return at;
}

uint64_t tp_wire_put(tp_wire_writer *w, const void *bytes, uint64_t size)
{
    uint64_t at = tp_wire_reserve(w, size);
    if (at && size)
        memcpy(w->arena->data + at, bytes, size);
    return at;
}

uint64_t tp_wire_put_text(tp_wire_writer *w, const char *text)
{
    return tp_wire_put(w, text, strlen(text) + 1);
}

/* Writes a message that defines the thing or is the thing. -1 on failure. */
static int put_definition(tp_wire_writer *w, tp_wire_ref *made, const tp_buf *message)
{
    made->bytes_at = tp_wire_put(w, message->data, message->len);
    made->bytes = message->len;
    made->nrefs = message->nrefs;
    made->refs_at = tp_wire_put_refs(w, message->refs, message->nrefs);
    return made->bytes_at && made->refs_at ? 0 : -1;
}

/* Says what the thing is. -1 when it is of a kind that a process cannot be given. */
static int describe(tp_wire_writer *w, tp_wire_ref *made, const tp_ref *r)
{
    const char *name = "";
    if (r->type == &tp_func_type) {
        const tp_func *f = (const tp_func *)(const void *)r;
        made->kind = TP_WIRE_FUNC;
        made->limit = f->limit;
        name = f->name;
    } else if (r->type == &tp_class_blob_type) {
        bool is_partial;
        const tp_buf *message;
        made->kind = TP_WIRE_CLASS;
        name = tp_class_blob_read(r, &message, &is_partial);
        made->is_partial = is_partial;
        if (put_definition(w, made, message))
            return -1;
    } else if (r->type == &tp_image_type) {
        made->kind = TP_WIRE_PACKED;
        if (put_definition(w, made, &((const tp_image *)(const void *)r)->message))
            return -1;
    } else if (r->type == &tp_array_type) {
        tp_array *a = (tp_array *)(void *)r;
        tp_array_expose(a); /* the process may write to it */
        made->kind = TP_WIRE_ARRAY;
        made->place = (tp_array_place){ .at = (uint64_t)a->at,
                                        .size = a->size,
                                        .capacity = a->capacity,
                                        .address = (uintptr_t)a->data };
    } else if (tp_store_is(r)) {
        made->kind = r->type == &tp_dict_type ? TP_WIRE_DICT : TP_WIRE_QUEUE;
    } else {
        return tp_error_set(w->err, TP_ECODEC,
                            "an object of this process (%s) cannot travel to a worker process",
                            r->type->metatable);
    }
    /* arrays and stores have no name; 1 stands for none */
    made->name_at = tp_wire_is_returned(made->kind) ? 1 : tp_wire_put_text(w, name);
    return made->name_at ? 0 : -1;
}

/* Describes the thing to the worker, under that id; -1: under a new one. Returns the id, or -1 on
 * failure. */
static int64_t tell(tp_wire_writer *w, tp_ref *r, int64_t id)
{
    tp_wire_ref made = { 0 };
    if (describe(w, &made, r))
        return -1;
    if (!tp_buf_reserve(&w->made, sizeof made))
        return tp_error_oom(w->err, "references");
    id = id < 0 ? remember(w->given, r, w->err) : id;
    if (id < 0)
        return -1;
    made.id = made.place.id = (uint32_t)id;
    tp_buf_add(&w->made, &made, sizeof made); /* there is room for it */
    return id;
}

/* For an array that other processes cannot see: gives a copy of it. Returns the copy's id, or
 * -1. */
static int64_t give_copy(tp_wire_writer *w, const tp_array *a)
{
    tp_array *copy = tp_array_new(a->pool, a->size, false);
    if (!copy)
        return tp_error_oom(w->err, "array");
    memcpy(copy->data, a->data, a->size);
    int64_t id = copy->at >= 0
                     ? tell(w, &copy->ref, -1)
                     : tp_error_set(w->err, TP_ECODEC,
                                    "a typed array cannot travel to a worker process here");
    tp_ref_drop(copy);
    return id;
}

int64_t tp_wire_give(tp_wire_writer *w, tp_ref *r)
{
    int64_t id = find(w->given, r);
    if (id < 0) {
        const tp_array *a = r->type == &tp_array_type ? (const tp_array *)(const void *)r : NULL;
        return a && a->at < 0 ? give_copy(w, a) : tell(w, r, -1);
    }
    _Atomic uint64_t *bits = w->returned ? &w->returned[id / 64] : NULL;
    uint64_t bit = (uint64_t)1 << id % 64;
    if (!bits || !can_return(r) || !(atomic_load_explicit(bits, memory_order_relaxed) & bit))
        return id;
    atomic_fetch_and_explicit(bits, ~bit, memory_order_relaxed);
    return tell(w, r, id);
}

uint64_t tp_wire_put_refs(tp_wire_writer *w, tp_ref *const *refs, uint32_t n)
{
    uint64_t at = tp_wire_reserve(w, n * sizeof(uint32_t));
    for (uint32_t i = 0; at && i < n; i++) {
        int64_t id = tp_wire_give(w, refs[i]);
        if (id < 0)
            return 0;
        ((uint32_t *)(void *)(w->arena->data + at))[i] = (uint32_t)id;
    }
    return at;
}

int tp_wire_put_given(tp_wire_writer *w, uint64_t *at, uint64_t *n, int rc)
{
    const tp_wire_ref *made = (const tp_wire_ref *)(const void *)w->made.data;
    *n = w->made.len / sizeof *made;
    *at = rc ? 0 : tp_wire_put(w, made, w->made.len);
    for (uint64_t i = 0; !*at && i < *n; i++) {
        uint32_t id = made[i].id;
        /* the id may have belonged to another thing before, which records that are not read yet
         * name */
        if (w->returned && tp_wire_is_returned(made[i].kind))
            atomic_fetch_or_explicit(&w->returned[id / 64], (uint64_t)1 << id % 64,
                                     memory_order_relaxed);
        else
            forget(w->given, id);
    }
    tp_buf_free(&w->made);
    return *at ? 0 : -1;
}
