/* question.c: questions about stores and their answers as bytes. See question.h. */
#include "cluster/question.h"

#include "codec/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { REFS_MAX = 4096, ENTRIES_MAX = 1 << 20 };

/* The head of a question and of an answer. Behind it come the question's key or the answer's error,
 * the value, and the entries, each a key and a value. */
typedef struct head {
    uint64_t store, version, wait_ns, text, entries;
    double number;
    uint64_t made; /* the store that was made */
    uint32_t verb, code, is_done, moved;
} head;

/* Behind it come its bytes and the ids of what they refer to. */
typedef struct value_head {
    double number;
    uint64_t bytes;
    uint32_t is_packed, is_foreign, nrefs, pad;
} value_head;

typedef struct named {
    uint64_t id, is_queue;
} named;

static bool has_value(uint32_t verb)
{
    return verb == TP_STORE_PUT || verb == TP_STORE_PUSH;
}

static bool is_of_no_store(uint32_t verb)
{
    return verb == TP_STORE_NEW_DICT || verb == TP_STORE_NEW_QUEUE;
}

/* ---- writing ---- */

static int put(tp_buf *out, const void *bytes, size_t n, tp_error *err)
{
    return n && tp_buf_add(out, bytes, n) ? tp_error_oom(err, "value") : 0;
}

static int put_value(tp_buf *out, const tp_stored *value, const tp_store_names *names,
                     tp_error *err)
{
    const tp_buf *m = value->packed ? &value->packed->message : NULL;
    value_head h = { .number = value->number,
                     .bytes = m ? m->len : 0,
                     .is_packed = m != NULL,
                     .is_foreign = value->is_foreign,
                     .nrefs = m ? m->nrefs : 0 };
    if (put(out, &h, sizeof h, err) || put(out, m ? m->data : NULL, h.bytes, err))
        return -1;
    for (uint32_t i = 0; i < h.nrefs; i++) {
        tp_ref *r = m->refs[i];
        named n = { .id = names->id_of(names->user, r),
                    .is_queue = r->type == &tp_store_queue_type };
        if (n.id == 0)
            return tp_error_set(err, TP_ECODEC,
                                "a value of a Dict or Queue that goes to or comes from a cluster "
                                "may not have functions, classes or typed arrays in it");
        if (put(out, &n, sizeof n, err))
            return -1;
    }
    return 0;
}

static int check_size(const tp_buf *out, tp_error *err)
{
    return out->len > TP_QUESTION_MAX
               ? tp_error_set(err, TP_ECODEC,
                              "%zu bytes at once are too many for a Dict or Queue on a cluster, "
                              "where %d go: let items return what is large",
                              out->len, TP_QUESTION_MAX)
               : 0;
}

int tp_question_put(tp_buf *out, uint64_t store, const tp_store_op *op,
                    const tp_store_names *names, tp_error *err)
{
    const head h = { .store = store,
                     .version = op->version,
                     .wait_ns = op->wait_ns,
                     .text = op->key ? op->len : 0,
                     .number = op->number,
                     .verb = op->verb };
    return put(out, &h, sizeof h, err) || put(out, op->key, h.text, err) ||
                   put_value(out, &op->value, names, err) || check_size(out, err)
               ? -1
               : 0;
}

int tp_answer_put(tp_buf *out, const tp_store_op *op, const tp_error *why,
                  const tp_store_names *names, tp_error *err)
{
    static const tp_stored none;
    head h = { .code = (uint32_t)why->code,
               .version = op->version,
               .number = op->number,
               .text = why->code ? strlen(why->message) : 0,
               .entries = why->code ? 0 : op->n,
               .is_done = op->is_done,
               .moved = (uint32_t)op->moved,
               .verb = op->verb };
    if (op->made && why->code == 0)
        h.made = names->id_of(names->user, (tp_ref *)(void *)op->made);
    bool gives = why->code == 0 && !has_value(op->verb);
    int rc = put(out, &h, sizeof h, err);
    rc = rc ? rc : put(out, why->message, h.text, err);
    rc = rc ? rc : put_value(out, gives ? &op->value : &none, names, err);
    for (size_t i = 0; rc == 0 && i < h.entries; i++) {
        uint64_t len = op->entries[i].len;
        rc = put(out, &len, sizeof len, err);
        rc = rc ? rc : put(out, op->entries[i].key, len, err);
        rc = rc ? rc : put_value(out, &op->entries[i].value, names, err);
        rc = rc ? rc : check_size(out, err);
    }
    return rc ? rc : check_size(out, err);
}

/* ---- permits ---- */

int tp_permit_put(tp_buf *out, const tp_permit_op *op, tp_error *err)
{
    const head h = { .store = op->func,
                     .version = op->chunk,
                     .made = op->sending,
                     .wait_ns = op->wait_ns,
                     .verb = (uint32_t)op->verb };
    return put(out, &h, sizeof h, err);
}

bool tp_permit_get(const void *bytes, size_t len, tp_permit_op *op)
{
    head h = { 0 };
    if (len == sizeof h)
        memcpy(&h, bytes, sizeof h);
    if (h.verb != TP_PERMIT_TAKE && h.verb != TP_PERMIT_RELEASE)
        return false;
    *op = (tp_permit_op){ .verb = (tp_permit_verb)h.verb,
                          .func = h.store,
                          .chunk = h.version,
                          .sending = h.made,
                          .wait_ns = h.wait_ns };
    return true;
}

int tp_permit_answer_put(tp_buf *out, bool has, tp_error *err)
{
    const head h = { .is_done = has, .verb = TP_PERMIT_TAKE };
    return put(out, &h, sizeof h, err);
}

bool tp_permit_answer_get(const void *bytes, size_t len)
{
    head h = { 0 };
    if (len == sizeof h)
        memcpy(&h, bytes, sizeof h);
    return h.verb == TP_PERMIT_TAKE && h.is_done;
}

/* ---- reading ---- */

typedef struct cursor {
    const char *p, *end;
    const tp_store_names *names;
    tp_error *err;
} cursor;

static int damaged(cursor *c)
{
    return tp_error_set(c->err, TP_ECODEC, "nonsense about a Dict or Queue");
}

static const char *get(cursor *c, uint64_t n)
{
    const char *at = c->p;
    if (n > (uint64_t)(c->end - c->p)) {
        damaged(c);
        return NULL;
    }
    c->p += n;
    return at;
}

static int get_value(cursor *c, tp_stored *value, bool is_foreign)
{
    value_head h;
    const char *p = get(c, sizeof h);
    if (!p)
        return -1;
    memcpy(&h, p, sizeof h);
    /* canonical: LuaJIT would read another NaN as a value of another type */
    *value = (tp_stored){ .number = h.number == h.number ? h.number : (double)NAN,
                          .is_foreign = is_foreign || h.is_foreign != 0 };
    const char *bytes = get(c, h.bytes);
    if (!bytes || h.nrefs > REFS_MAX)
        return damaged(c);
    tp_buf message = { 0 };
    int rc = h.bytes && tp_buf_add(&message, bytes, h.bytes) ? tp_error_oom(c->err, "value") : 0;
    for (uint32_t i = 0; rc == 0 && i < h.nrefs; i++) {
        named n;
        p = get(c, sizeof n);
        if (!p) {
            rc = -1;
            break;
        }
        memcpy(&n, p, sizeof n);
        tp_ref *r = c->names->store_of(c->names->user, n.id, n.is_queue != 0);
        rc = !r ? damaged(c) : tp_buf_hold_ref(&message, r) ? tp_error_oom(c->err, "value") : 0;
        tp_ref_drop(r);
    }
    value->packed = rc == 0 && h.is_packed ? tp_image_new(&message) : NULL;
    if (rc == 0 && h.is_packed && !value->packed)
        rc = tp_error_oom(c->err, "value");
    tp_buf_free(&message);
    return rc;
}

static int get_key(cursor *c, uint64_t len, char **key)
{
    const char *p = get(c, len);
    *key = p ? malloc(len + 1) : NULL;
    if (!*key)
        return p ? tp_error_oom(c->err, "key") : -1;
    memcpy(*key, p, len);
    (*key)[len] = '\0';
    return 0;
}

/* Is the operation one for this kind of store? */
static bool fits(uint32_t verb, const tp_ref *store)
{
    if (verb == TP_STORE_COUNT)
        return true;
    return (verb < TP_STORE_PUSH) == (store->type == &tp_dict_type);
}

int tp_question_get(const void *bytes, size_t len, tp_store_op *op, tp_ref **store, char **key,
                    const tp_store_names *names, tp_error *err)
{
    head h;
    cursor c = { bytes, (const char *)bytes + len, names, err };
    *op = (tp_store_op){ 0 };
    *store = NULL;
    *key = NULL;
    const char *p = get(&c, sizeof h);
    if (!p)
        return -1;
    memcpy(&h, p, sizeof h);
    if (h.verb >= TP_STORE_VERBS ||
        (h.verb == TP_STORE_NEW_QUEUE && !(h.number >= 0 && h.number <= 0x1p62)))
        return damaged(&c);
    if (!is_of_no_store(h.verb)) {
        *store = names->store_of(names->user, h.store, h.verb >= TP_STORE_PUSH);
        if (!*store && h.verb == TP_STORE_COUNT)
            *store = names->store_of(names->user, h.store, false);
        if (!*store || !fits(h.verb, *store))
            return damaged(&c);
    }
    *op = (tp_store_op){ .verb = (tp_store_verb)h.verb,
                         .version = h.version,
                         .number = h.number == h.number ? h.number : (double)NAN,
                         .wait_ns = h.wait_ns };
    if (get_key(&c, h.text, key))
        return -1;
    if (h.text > 0) {
        op->key = *key;
        op->len = h.text;
    }
    bool has_key = h.verb <= TP_STORE_POP;
    if (has_key && !(op->key && tp_store_is_key(op->key, op->len)))
        return damaged(&c);
    return get_value(&c, &op->value, true);
}

int tp_answer_get(const void *bytes, size_t len, tp_store_op *op, const tp_store_names *names,
                  tp_error *err)
{
    head h;
    cursor c = { bytes, (const char *)bytes + len, names, err };
    tp_stored value = { 0 };
    const char *p = get(&c, sizeof h);
    if (!p)
        return -1;
    memcpy(&h, p, sizeof h);
    const char *text = get(&c, h.text);
    if (!text || h.verb != (uint32_t)op->verb || h.moved > TP_UNWANTED || h.entries > ENTRIES_MAX)
        return damaged(&c);
    if (h.code)
        return tp_error_set(err, h.code <= TP_ETHREAD ? (tp_code)h.code : TP_ESYS, "%.*s",
                            (int)(h.text < 400 ? h.text : 400), text);
    op->version = h.version;
    op->number = h.number == h.number ? h.number : (double)NAN;
    op->is_done = h.is_done != 0;
    op->moved = (tp_moved)h.moved;
    if (get_value(&c, &value, true))
        return -1;
    if (has_value(op->verb)) {
        tp_ref_drop(value.packed);
        /* the keeper has taken the value, so `op` is empty now */
        if (op->verb == TP_STORE_PUT ? op->is_done : op->moved == TP_MOVED) {
            tp_ref_drop(op->value.packed);
            op->value.packed = NULL;
        }
    } else {
        op->value = value;
    }
    if (is_of_no_store(op->verb)) {
        op->made = (tp_store *)(void *)names->store_of(names->user, h.made,
                                                       op->verb == TP_STORE_NEW_QUEUE);
        return op->made ? 0 : damaged(&c);
    }
    op->entries = h.entries ? calloc(h.entries, sizeof *op->entries) : NULL;
    if (h.entries && !op->entries)
        return tp_error_oom(err, "dictionary's entries");
    for (op->n = 0; op->n < h.entries; op->n++) {
        tp_entry *e = &op->entries[op->n];
        uint64_t n;
        p = get(&c, sizeof n);
        if (!p)
            return -1;
        memcpy(&n, p, sizeof n);
        if (get_key(&c, n, &e->key) || !tp_store_is_key(e->key, n) ||
            get_value(&c, &e->value, true)) {
            free(e->key);
            return damaged(&c);
        }
        e->len = n;
    }
    return 0;
}
