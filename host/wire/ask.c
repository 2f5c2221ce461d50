/* ask.c: questions of worker processes about stores, and answers. See ask.h. */
#include "wire/ask.h"

#include "base/array.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_of_no_store(uint32_t verb)
{
    return verb == TP_STORE_NEW_DICT || verb == TP_STORE_NEW_QUEUE;
}

static bool has_key(uint32_t verb)
{
    return verb == TP_STORE_GET || verb == TP_STORE_PUT || verb == TP_STORE_ADD ||
           verb == TP_STORE_POP;
}

static bool has_value(uint32_t verb)
{
    return verb == TP_STORE_PUT || verb == TP_STORE_PUSH;
}

/* ---- the worker's question ---- */

uint32_t tp_wire_id_of(const tp_ref *r, tp_ref *const *known, uint32_t n)
{
    bool is_store = tp_store_is(r);
    uint32_t id = r->type == &tp_array_type ? ((const tp_array *)(const void *)r)->id
                  : is_store                ? tp_store_id((const tp_store *)(const void *)r)
                                            : 0;
    while (id < n && known[id] != r)
        id++;
    return id < n ? id : n;
}

int tp_wire_put_ask(tp_region *r, uint32_t store, const tp_store_op *op, tp_ref *const *known,
                    uint32_t n, tp_error *err)
{
    tp_wire_ask ask = { .verb = op->verb,
                        .store = store,
                        .version = op->version,
                        .number = op->number,
                        .wait_ns = op->wait_ns,
                        .key_at = sizeof ask,
                        .len = op->key ? op->len : 0,
                        .value = { .number = op->value.number,
                                   .is_packed = op->value.packed != NULL } };
    const tp_buf *m = op->value.packed ? &op->value.packed->message : NULL;
    uint64_t end = sizeof ask + tp_wire_rounded(ask.len);
    if (m) {
        ask.value.bytes_at = end;
        ask.value.bytes = m->len;
        ask.value.refs_at = end + tp_wire_rounded(m->len);
        ask.value.nrefs = m->nrefs;
        end = ask.value.refs_at + tp_wire_rounded(4 * (uint64_t)m->nrefs);
    }
    ask.size = end;
    if (tp_region_grow(r, end, err))
        return -1;
    if (ask.len)
        memcpy(r->data + ask.key_at, op->key, ask.len);
    if (m && m->len)
        memcpy(r->data + ask.value.bytes_at, m->data, m->len);
    for (uint32_t i = 0; m && i < m->nrefs; i++) {
        uint32_t id = tp_wire_id_of(m->refs[i], known, n);
        if (id == n)
            return tp_error_set(
                err, TP_ECODEC,
                "an object that only the worker process knows cannot travel from it");
        memcpy(r->data + ask.value.refs_at + 4 * i, &id, sizeof id);
    }
    memcpy(r->data, &ask, sizeof ask);
    return 0;
}

/* ---- the host reads it ---- */

static bool wrong(tp_error *err, const char *what)
{
    tp_error_set(err, TP_EUSAGE, "it has written nonsense where it asks its host: %s", what);
    return false;
}

static bool lies_in(uint64_t at, uint64_t bytes, uint64_t size)
{
    return at % 8 == 0 && at <= size && bytes <= size - at;
}

static bool get_value(const tp_region *r, const tp_wire_given *given, const tp_wire_ask *ask,
                      tp_stored *value, tp_error *err)
{
    const tp_wire_value *v = &ask->value;
    /* canonical: LuaJIT would read another NaN as a value of another type */
    *value = (tp_stored){ .number = v->number == v->number ? v->number : (double)NAN };
    if (!v->is_packed)
        return true;
    if (v->bytes > TP_STRING_MAX * 2ull || v->nrefs > TP_WIRE_REFS_MAX ||
        !lies_in(v->bytes_at, v->bytes, ask->size) ||
        !lies_in(v->refs_at, 4 * v->nrefs, ask->size))
        return wrong(err, "a value that is longer than its question");
    tp_buf message = { 0 };
    bool is_right = true, has_memory = tp_buf_add(&message, r->data + v->bytes_at, v->bytes) == 0;
    for (uint64_t i = 0; has_memory && is_right && i < v->nrefs; i++) {
        uint32_t id;
        memcpy(&id, r->data + v->refs_at + 4 * i, sizeof id);
        is_right = id < given->n && given->refs[id];
        has_memory = !is_right || tp_buf_hold_ref(&message, given->refs[id]) == 0;
    }
    value->packed = has_memory && is_right ? tp_image_new(&message) : NULL;
    value->is_foreign = true;
    tp_buf_free(&message);
    if (!is_right)
        return wrong(err, "a reference to nothing");
    if (!value->packed)
        tp_error_oom(err, "value");
    return value->packed != NULL;
}

bool tp_wire_get_ask(tp_region *r, const tp_wire_given *given, tp_store_op *op, tp_store **store,
                     char **key, tp_error *err)
{
    tp_wire_ask ask;
    *op = (tp_store_op){ 0 };
    *store = NULL;
    *key = NULL;
    memcpy(&ask, r->data, sizeof ask);
    if (ask.size < sizeof ask || tp_region_follow(r, ask.size, NULL))
        return wrong(err, "no question");
    if (ask.verb >= TP_STORE_VERBS)
        return wrong(err, "nothing that can be done");
    if (!is_of_no_store(ask.verb)) {
        tp_ref *of = ask.store < given->n ? given->refs[ask.store] : NULL;
        if (!of || (of->type != &tp_dict_type && of->type != &tp_store_queue_type))
            return wrong(err, "a store that it was not given");
        bool is_both = ask.verb == TP_STORE_COUNT, is_of_dict = ask.verb < TP_STORE_PUSH;
        if (!is_both && is_of_dict != (of->type == &tp_dict_type))
            return wrong(err, "what such a store cannot do");
        *store = (tp_store *)(void *)of;
    }
    *op = (tp_store_op){ .verb = (tp_store_verb)ask.verb,
                         .version = ask.version,
                         .number = ask.number == ask.number ? ask.number : (double)NAN,
                         .wait_ns = ask.wait_ns };
    if (ask.verb == TP_STORE_NEW_QUEUE && !(op->number >= 0 && op->number <= 0x1p62))
        return wrong(err, "a queue of no size");
    if (has_key(ask.verb)) {
        if (ask.len > TP_STRING_MAX || !lies_in(ask.key_at, ask.len, ask.size))
            return wrong(err, "a key that is longer than its question");
        *key = malloc(ask.len + 1);
        if (!*key) {
            tp_error_oom(err, "key");
            return false;
        }
        memcpy(*key, r->data + ask.key_at, ask.len);
        op->key = *key;
        op->len = ask.len;
        if (!tp_store_is_key(op->key, op->len))
            return wrong(err, "no key");
    }
    return !has_value(ask.verb) || get_value(r, given, &ask, &op->value, err);
}

/* ---- the host's answer ---- */

static int put_value(tp_wire_writer *w, tp_wire_value *to, const tp_stored *value)
{
    const tp_buf *m = value->packed ? &value->packed->message : NULL;
    *to = (tp_wire_value){ .number = value->number,
                           .is_packed = m != NULL,
                           .is_foreign = value->is_foreign };
    if (!m)
        return 0;
    to->bytes = m->len;
    to->nrefs = m->nrefs;
    to->bytes_at = tp_wire_put(w, m->data, m->len);
    to->refs_at = to->bytes_at ? tp_wire_put_refs(w, m->refs, m->nrefs) : 0;
    return to->refs_at ? 0 : -1;
}

static int put_entries(tp_wire_writer *w, tp_wire_answer *a, const tp_store_op *op)
{
    a->entries = op->n;
    a->entries_at = tp_wire_reserve(w, op->n * sizeof(tp_wire_entry));
    int rc = a->entries_at ? 0 : -1;
    for (size_t i = 0; rc == 0 && i < op->n; i++) {
        tp_wire_entry e = { .len = op->entries[i].len };
        e.key_at = tp_wire_put(w, op->entries[i].key, e.len);
        rc = e.key_at ? put_value(w, &e.value, &op->entries[i].value) : -1;
        memcpy(w->arena->data + a->entries_at + i * sizeof e, &e, sizeof e);
    }
    return rc;
}

int tp_wire_put_answer(tp_region *r, tp_wire_given *given, _Atomic uint64_t *returned,
                       const tp_store_op *op, const tp_error *why, tp_error *err)
{
    tp_wire_answer a = { .code = why->code,
                         .is_done = op->is_done,
                         .moved = op->moved,
                         .version = op->version,
                         .number = op->number };
    tp_wire_writer w = { .arena = r,
                         .given = given,
                         .returned = returned,
                         .at = tp_wire_rounded(sizeof a),
                         .err = err };
    int rc = 0;
    if (why->code) {
        a.message_at = tp_wire_put_text(&w, why->message);
        rc = a.message_at ? 0 : -1;
    } else {
        rc = has_value(op->verb) ? 0 : put_value(&w, &a.value, &op->value);
        if (rc == 0 && op->verb == TP_STORE_LIST)
            rc = put_entries(&w, &a, op);
        if (rc == 0 && op->made) {
            int64_t id = tp_wire_give(&w, (tp_ref *)(void *)op->made);
            a.made = 1 + (uint32_t)id;
            rc = id < 0 ? -1 : 0;
        }
    }
    rc = tp_wire_put_given(&w, &a.given_at, &a.given, rc);
    a.size = w.at;
    if (rc == 0 && tp_region_grow(r, sizeof a, err) == 0)
        memcpy(r->data, &a, sizeof a);
    return rc;
}

/* ---- the worker reads it ---- */

int tp_wire_copy_message(const tp_region *r, tp_ref *const *known, tp_buf *to, uint64_t at,
                         uint64_t len, uint64_t refs_at, uint64_t nrefs)
{
    const uint32_t *ids = (const uint32_t *)(const void *)(r->data + refs_at);
    if (tp_buf_add(to, r->data + at, len))
        return -1;
    for (uint64_t i = 0; i < nrefs; i++)
        if (tp_buf_hold_ref(to, known[ids[i]]))
            return -1;
    return 0;
}

const tp_wire_answer *tp_wire_see_answer(tp_region *r)
{
    const tp_wire_answer *a = (const tp_wire_answer *)(const void *)r->data;
    if (tp_region_follow(r, a->size, NULL))
        return NULL;
    return (const tp_wire_answer *)(const void *)r->data;
}

static int copy_value(const tp_region *r, tp_ref *const *known, tp_stored *to,
                      const tp_wire_value *v)
{
    *to = (tp_stored){ .number = v->number, .is_foreign = v->is_foreign != 0 };
    if (!v->is_packed)
        return 0;
    tp_buf message = { 0 };
    if (tp_wire_copy_message(r, known, &message, v->bytes_at, v->bytes, v->refs_at, v->nrefs) == 0)
        to->packed = tp_image_new(&message);
    tp_buf_free(&message);
    return to->packed ? 0 : -1;
}

static int copy_entries(const tp_region *r, tp_ref *const *known, tp_store_op *op,
                        const tp_wire_answer *a)
{
    const tp_wire_entry *from = (const tp_wire_entry *)(const void *)(r->data + a->entries_at);
    op->entries = a->entries ? calloc(a->entries, sizeof *op->entries) : NULL;
    if (a->entries && !op->entries)
        return -1;
    for (op->n = 0; op->n < a->entries; op->n++, from++) {
        tp_entry *to = &op->entries[op->n];
        to->key = malloc(from->len ? from->len : 1);
        if (!to->key || copy_value(r, known, &to->value, &from->value)) {
            free(to->key);
            return -1;
        }
        memcpy(to->key, r->data + from->key_at, from->len);
        to->len = from->len;
    }
    return 0;
}

int tp_wire_get_answer(const tp_region *r, tp_ref *const *known, tp_store_op *op, tp_error *err)
{
    const tp_wire_answer *a = (const tp_wire_answer *)(const void *)r->data;
    if (a->code)
        return tp_error_set(err, (tp_code)a->code, "%s", r->data + a->message_at);
    op->is_done = a->is_done != 0;
    op->moved = (tp_moved)a->moved;
    op->version = a->version;
    op->number = a->number;
    op->made = a->made ? tp_ref_hold(known[a->made - 1]) : NULL;
    if (!has_value(op->verb) && copy_value(r, known, &op->value, &a->value))
        return tp_error_oom(err, "value");
    return op->verb == TP_STORE_LIST && copy_entries(r, known, op, a)
               ? tp_error_oom(err, "dictionary's entries")
               : 0;
}
