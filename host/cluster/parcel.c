/* parcel.c: work and results as bytes. See parcel.h. */
#include "cluster/parcel.h"

#include "base/blake2b.h"
#include "codec/message.h"
#include "engine/store.h"
#include "runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    WORK_BYTES_MAX = 16 << 20, /* items are added to a payload until it has this size */
    /* of columns; with the rest they are no more than TP_KERNEL_INLINE */
    COLUMNS_BYTES_MAX = TP_KERNEL_INLINE - 2 * TP_IMAGE_INLINE,
    RECORDS_ALIGN = 8,
    KNOWN_LEAST = 256 /* definitions that a worker keeps in any case */
};

/* ---- definitions ---- */

void tp_parcel_refs_free(tp_parcel_refs *refs)
{
    for (uint32_t i = 0; i < refs->n; i++)
        tp_ref_drop(refs->refs[i]);
    free(refs->refs);
    *refs = (tp_parcel_refs){ 0 };
}

int tp_parcel_refs_add(tp_parcel_refs *refs, tp_ref *r, tp_error *err)
{
    if (refs->n == refs->room) {
        uint32_t room = refs->room ? 2 * refs->room : 8;
        tp_ref **more = realloc(refs->refs, room * sizeof(tp_ref *));
        if (!more)
            return tp_error_oom(err, "references");
        refs->refs = more;
        refs->room = room;
    }
    refs->refs[refs->n++] = tp_ref_hold(r);
    return 0;
}

static int add_ref(tp_parcel_refs *refs, tp_ref *r, tp_error *err)
{
    if (refs->n == TP_WIRE_REFS_MAX / 2)
        return tp_error_set(err, TP_ELIMIT, "work refers to too many functions and classes");
    return tp_parcel_refs_add(refs, r, err);
}

static int64_t find(const tp_parcel_refs *refs, const tp_ref *r)
{
    for (uint32_t i = 0; i < refs->n; i++)
        if (refs->refs[i] == r)
            return i;
    return -1;
}

/* ---- writing ---- */

enum { DEFINED_FUNC = 1, DEFINED_CLASS, DEFINED_PACKED, DEFINED_DICT, DEFINED_QUEUE };

/* The head of a definition. Behind it come the name, and the message with the numbers of its
 * references. */
typedef struct definition {
    uint64_t size; /* with this head */
    uint64_t id;   /* names a function or store within its session; 0 for other things */
    uint32_t kind, limit, is_partial, name; /* name: its length, without a NUL */
    uint64_t bytes;
    uint32_t nrefs, pad;
} definition;

static int put(tp_buf *out, const void *bytes, size_t n, tp_error *err)
{
    return n && tp_buf_add(out, bytes, n) ? tp_error_oom(err, "work") : 0;
}

static int define(tp_buf *out, tp_parcel_refs *refs, tp_ref *r, uint64_t *funcs,
                  tp_error *err);

/* Defines those of the references that are not yet. */
static int define_all(tp_buf *out, tp_parcel_refs *refs, tp_ref *const *of, uint32_t n,
                      uint64_t *funcs, tp_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (find(refs, of[i]) < 0 && define(out, refs, of[i], funcs, err))
            return -1;
    return 0;
}

static int put_numbers(tp_buf *out, const tp_parcel_refs *refs, tp_ref *const *of, uint32_t n,
                       tp_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t number = (uint32_t)find(refs, of[i]);
        if (put(out, &number, sizeof number, err))
            return -1;
    }
    return 0;
}

static int define(tp_buf *out, tp_parcel_refs *refs, tp_ref *r, uint64_t *funcs, tp_error *err)
{
    definition d = { .size = sizeof d };
    const tp_buf *message = NULL;
    const char *name = "";
    if (r->type == &tp_func_type) {
        tp_func *f = (tp_func *)(void *)r;
        d.kind = DEFINED_FUNC;
        d.limit = f->limit;
        f->afar = f->afar ? f->afar : ++*funcs;
        d.id = f->afar;
        name = f->name;
    } else if (r->type == &tp_class_blob_type) {
        bool is_partial;
        d.kind = DEFINED_CLASS;
        name = tp_class_blob_read(r, &message, &is_partial);
        d.is_partial = is_partial;
    } else if (r->type == &tp_image_type) {
        d.kind = DEFINED_PACKED;
        message = &((const tp_image *)(const void *)r)->message;
    } else if (tp_store_is(r)) {
        d.kind = r->type == &tp_dict_type ? DEFINED_DICT : DEFINED_QUEUE;
        /* its address: the coordinator holds it while the session lasts (keep_ref of
         * coordinator/packing.c), so no other gets it */
        d.id = (uint64_t)(uintptr_t)r;
    } else {
        return tp_error_set(err, TP_ECODEC, "%s cannot travel to a worker of the cluster",
                            r->type == &tp_array_type ? "a typed array of a class"
                                                      : "an object of this process");
    }
    d.name = (uint32_t)strlen(name);
    d.bytes = message ? message->len : 0;
    d.nrefs = message ? message->nrefs : 0;
    d.size += d.name + d.bytes + d.nrefs * sizeof(uint32_t);
    if (message && define_all(out, refs, message->refs, message->nrefs, funcs, err))
        return -1;
    if (put(out, &d, sizeof d, err) || put(out, name, d.name, err))
        return -1;
    if (message && (put(out, message->data, message->len, err) ||
                    put_numbers(out, refs, message->refs, message->nrefs, err)))
        return -1;
    return add_ref(refs, r, err);
}

/* A section: its length and its bytes. */
static int put_section(tp_buf *out, const tp_buf *section, tp_error *err)
{
    uint64_t size = section->len;
    return put(out, &size, sizeof size, err) || put(out, section->data, section->len, err) ? -1
                                                                                           : 0;
}

/* A message with the numbers of its references. */
static int put_message(tp_buf *out, const tp_parcel_refs *refs, const void *bytes, uint64_t len,
                       tp_ref *const *of, uint32_t n, tp_error *err)
{
    uint64_t numbers = n;
    return put(out, &len, sizeof len, err) || put(out, bytes, len, err) ||
                   put(out, &numbers, sizeof numbers, err) || put_numbers(out, refs, of, n, err)
               ? -1
               : 0;
}

int tp_parcel_put_image(const tp_image *image, tp_buf *out, tp_parcel_refs *refs, uint64_t *funcs,
                        tp_error *err)
{
    const tp_buf *m = &image->message;
    tp_buf definitions = { 0 };
    int rc = define_all(&definitions, refs, m->refs, m->nrefs, funcs, err);
    rc = rc ? rc : put_section(out, &definitions, err);
    rc = rc ? rc : put_message(out, refs, m->data, m->len, m->refs, m->nrefs, err);
    tp_buf_free(&definitions);
    return rc;
}

/* Are the items in columns that are sent as they are? Then workers run them in loops, which are of
 * doubles; devices take all types. */
static bool has_numbers(const tp_block *b, bool is_kernel)
{
    bool has = b->kind == TP_BLOCK_COLUMNS && b->columns > 0;
    for (uint32_t c = 0; c < b->columns && has; c++)
        has = b->type[c] == TP_DOUBLE || (is_kernel && b->type[c] != TP_MIXED);
    return has;
}

/* Writes up to task->count items of such columns. */
static int put_numbers_of(tp_buf *bytes, const tp_work *w, tp_task *task, tp_error *err)
{
    const tp_block *b = w->block;
    size_t width = 0;
    for (uint32_t c = 0; c < b->columns; c++)
        width += tp_block_element_size(b->type[c]);
    const size_t most = (task->is_kernel ? COLUMNS_BYTES_MAX : WORK_BYTES_MAX) / width;
    task->count = task->count < most ? task->count : (uint32_t)most;
    memcpy(task->column_type, b->type, sizeof task->column_type);
    for (uint32_t c = 0; c < b->columns; c++) {
        const size_t size = tp_block_element_size(b->type[c]);
        if (put(bytes, (const char *)b->column[c] + w->at * size, task->count * size, err))
            return -1;
    }
    return 0;
}

/* Writes up to *count items, and where each ends. */
static int put_items(tp_buf *bytes, tp_buf *ends, const tp_work *w, uint32_t *count, tp_error *err)
{
    uint32_t n = 0;
    while (n < *count && bytes->len < WORK_BYTES_MAX) {
        size_t len = 0;
        const uint8_t *message =
            w->block->ends ? tp_block_message(w->block, w->at + n, &len) : NULL;
        if (message ? len && tp_buf_add(bytes, message, len)
                    : tp_block_encode_item(w->block, w->at + n, bytes))
            return tp_error_oom(err, "work");
        if (bytes->len > UINT32_MAX)
            return tp_error_set(err, TP_ELIMIT, "an input of more than 4 GiB");
        uint32_t end = (uint32_t)bytes->len;
        if (put(ends, &end, sizeof end, err))
            return -1;
        n++;
    }
    *count = n;
    return 0;
}

/* The ticket of the work's next `count` items; nothing when they have none. */
static int put_ticket(tp_buf *out, const tp_work *w, uint32_t count, const tp_recorder *recorder,
                      tp_error *err)
{
    const tp_terms *t = w->terms;
    if (!recorder || recorder->map == 0 || !w->block->tags)
        return 0;
    tp_ticket ticket = { .map = recorder->map,
                         .version = recorder->version,
                         .first = w->block->first + w->at,
                         .count = count,
                         .discards = t->discards,
                         .returns = t->returns.columns };
    memcpy(ticket.returned, t->returns.type, sizeof ticket.returned);
    int rc = put(out, &ticket, sizeof ticket, err);
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = put(out, w->block->tags[w->at + i].identity, TP_IDENTITY_BYTES, err);
    return rc;
}

int tp_parcel_put_task(tp_task *task, const tp_work *w, tp_func *func,
                       const tp_recorder *recorder, const tp_buf *image, tp_buf *out,
                       tp_parcel_refs *refs, uint64_t *funcs, tp_error *err)
{
    const tp_terms *t = w->terms;
    tp_buf definitions = { 0 }, bytes = { 0 }, ends = { 0 }, ticket = { 0 };
    bool has_messages = w->block->kind == TP_BLOCK_VALUES;
    tp_ref *const *of = has_messages ? w->block->bytes.refs : NULL;
    uint32_t nrefs = has_messages ? w->block->bytes.nrefs : 0;
    task->base = w->block->first + w->at + t->base;
    task->draws = t->draws;
    task->timeout_ns = t->timeout_ns;
    task->memory = t->memory;
    task->recycle = t->recycle;
    task->attempt = w->attempt;
    task->discards = t->discards;
    task->batch = t->batch;
    task->splits = t->splits;
    task->streams = t->streams;
    task->tags_lines = w->worker->tags_lines;
    task->returns = t->returns.columns;
    memcpy(task->returned, t->returns.type, sizeof task->returned);
    task->has_image = image != NULL;
    task->columns = has_numbers(w->block, task->is_kernel) ? w->block->columns : 0;
    int rc = define_all(&definitions, refs, of, nrefs, funcs, err);
    if (rc == 0 && find(refs, &func->ref) < 0)
        rc = define(&definitions, refs, &func->ref, funcs, err);
    task->func = rc ? 0 : (uint32_t)find(refs, &func->ref);
    if (rc == 0)
        rc = task->columns ? put_numbers_of(&bytes, w, task, err)
                           : put_items(&bytes, &ends, w, &task->count, err);
    rc = rc ? rc : put_ticket(&ticket, w, task->count, recorder, err);
    uint64_t name = strlen(t->name) + 1;
    rc = rc ? rc : put(out, task, sizeof *task, err);
    rc = rc ? rc : put(out, &name, sizeof name, err);
    rc = rc ? rc : put(out, t->name, name, err);
    rc = rc ? rc : put_section(out, &ticket, err);
    rc = rc ? rc : put_section(out, &definitions, err);
    rc = rc ? rc : put_section(out, &ends, err);
    rc = rc ? rc : put_message(out, refs, bytes.data, bytes.len, of, nrefs, err);
    if (rc == 0 && image)
        rc = put_section(out, image, err);
    tp_buf_free(&definitions);
    tp_buf_free(&bytes);
    tp_buf_free(&ends);
    tp_buf_free(&ticket);
    return rc;
}

/* ---- reading ---- */

/* A definition that was read before. */
typedef struct tp_known_one {
    struct tp_known_one *next;
    uint8_t digest[TP_ID_BYTES];
    tp_ref *ref; /* held */
} known_one;

static void forget(tp_known *known, known_one **at)
{
    known_one *one = *at;
    *at = one->next;
    known->n--;
    tp_ref_drop(one->ref);
    free(one);
}

void tp_known_free(tp_known *known)
{
    while (known->first)
        forget(known, &known->first);
}

/* The one with that digest, which is the first then; NULL: there is none. */
static known_one *find_known(tp_known *known, const uint8_t digest[TP_ID_BYTES])
{
    known_one **at = &known->first;
    while (*at && memcmp((*at)->digest, digest, TP_ID_BYTES) != 0)
        at = &(*at)->next;
    known_one *one = *at;
    if (!one)
        return NULL;
    *at = one->next;
    one->next = known->first;
    known->first = one;
    return one;
}

/* Adds it. Without memory for that the next message makes a second object of it, which works as
 * well. */
static void add_known(tp_known *known, const uint8_t digest[TP_ID_BYTES], tp_ref *r)
{
    known_one *one = malloc(sizeof *one);
    if (!one)
        return;
    memcpy(one->digest, digest, sizeof one->digest);
    one->ref = tp_ref_hold(r);
    one->next = known->first;
    known->first = one;
    if (++known->n < known->trim + 2 * KNOWN_LEAST)
        return;
    known_one **at = &known->first;
    for (uint32_t i = 0; *at; i++) {
        const tp_ref *ref = (*at)->ref;
        /* questions name stores, and functions with a limit, as long as the session lasts */
        const bool is_asked = tp_store_is(ref) || (ref->type == &tp_func_type &&
                                                   ((const tp_func *)(const void *)ref)->limit);
        if (i >= KNOWN_LEAST && !is_asked && tp_ref_is_alone(ref))
            forget(known, at);
        else
            at = &(*at)->next;
    }
    known->trim = known->n;
}

typedef struct cursor {
    const uint8_t *p, *end;
    tp_error *err;
} cursor;

static int damaged(cursor *c)
{
    return tp_error_set(c->err, TP_ECODEC, "damaged work");
}

static uint64_t left(const cursor *c)
{
    return (uint64_t)(c->end - c->p);
}

/* The next n bytes; NULL when there are fewer. */
static const uint8_t *get(cursor *c, uint64_t n)
{
    const uint8_t *at = c->p;
    if (n > left(c)) {
        damaged(c);
        return NULL;
    }
    c->p += n;
    return at;
}

static int get_section(cursor *c, cursor *section)
{
    uint64_t size;
    const uint8_t *p = get(c, sizeof size);
    if (!p)
        return -1;
    memcpy(&size, p, sizeof size);
    p = get(c, size);
    if (!p)
        return -1;
    *section = (cursor){ p, p + size, c->err };
    return 0;
}

/* Adds the references with the next n numbers to a message. */
static int get_numbers(cursor *c, const tp_parcel_refs *refs, uint64_t n, tp_buf *to)
{
    const uint8_t *p = n <= TP_WIRE_REFS_MAX ? get(c, n * sizeof(uint32_t)) : NULL;
    if (!p)
        return damaged(c);
    for (uint64_t i = 0; i < n; i++) {
        uint32_t number;
        memcpy(&number, p + i * sizeof number, sizeof number);
        if (number >= refs->n)
            return damaged(c);
        if (tp_buf_hold_ref(to, refs->refs[number]))
            return tp_error_oom(c->err, "work");
    }
    return 0;
}

static int get_message(cursor *c, const tp_parcel_refs *refs, tp_buf *to)
{
    cursor bytes;
    uint64_t n;
    if (get_section(c, &bytes))
        return -1;
    const uint8_t *p = get(c, sizeof n);
    if (!p)
        return -1;
    memcpy(&n, p, sizeof n);
    if (left(&bytes) && tp_buf_add(to, bytes.p, left(&bytes)))
        return tp_error_oom(c->err, "work");
    return get_numbers(c, refs, n, to);
}

/* Makes what the definition says. NULL with err set. */
static tp_ref *make(cursor *c, const definition *d, const tp_parcel_refs *refs,
                    const tp_known *known)
{
    const char *name = (const char *)get(c, d->name);
    const uint8_t *bytes = get(c, d->bytes);
    tp_buf message = { 0 };
    char *text = name && d->name < 1 << 16 ? strndup(name, d->name) : NULL;
    tp_ref *made = NULL;
    if (!text || !bytes)
        damaged(c);
    else if (d->bytes && tp_buf_add(&message, bytes, d->bytes))
        tp_error_oom(c->err, "work");
    else if (get_numbers(c, refs, d->nrefs, &message) == 0) {
        if (d->kind == DEFINED_FUNC) {
            tp_func *f = tp_func_new(text, d->limit);
            made = f ? &f->ref : NULL;
            if (f && d->limit > 0 && known->stores && known->stores->note_func)
                known->stores->note_func(known->stores->user, f, d->id);
        } else if (d->kind == DEFINED_CLASS) {
            made = tp_class_blob_new(text, &message, d->is_partial != 0);
        } else if (d->kind == DEFINED_PACKED) {
            tp_image *packed = tp_image_new(&message);
            made = packed ? &packed->ref : NULL;
        } else if ((d->kind == DEFINED_DICT || d->kind == DEFINED_QUEUE) && known->stores) {
            made = known->stores->store_of(known->stores->user, d->id, d->kind == DEFINED_QUEUE);
        } else {
            damaged(c);
        }
        if (!made)
            tp_error_oom(c->err, "work"); /* does nothing when err is set already */
    }
    free(text);
    tp_buf_free(&message);
    return made;
}

/* Reads definitions until the end. Functions and classes that do not depend on others are looked up
 * among those that are known. */
static int get_definitions(cursor *c, tp_parcel_refs *refs, tp_known *known)
{
    while (left(c)) {
        definition d;
        uint8_t digest[TP_ID_BYTES];
        const uint8_t *begin = get(c, sizeof d);
        if (!begin)
            return -1;
        memcpy(&d, begin, sizeof d);
        if (d.size < sizeof d || d.size - sizeof d > left(c))
            return damaged(c);
        cursor inside = { c->p, begin + d.size, c->err };
        c->p = begin + d.size;
        known_one *one = NULL;
        bool is_kept = d.nrefs == 0 && d.kind != DEFINED_PACKED;
        if (is_kept) {
            tp_blake2b_hash(digest, sizeof digest, begin, d.size);
            one = find_known(known, digest);
        }
        tp_ref *made = one ? tp_ref_hold(one->ref) : make(&inside, &d, refs, known);
        int rc = made ? add_ref(refs, made, c->err) : -1;
        if (rc == 0 && is_kept && !one)
            add_known(known, digest, made);
        tp_ref_drop(made);
        if (rc)
            return -1;
    }
    return 0;
}

int tp_parcel_get_image(tp_image **image, tp_parcel_refs *refs, tp_known *known,
                        const uint8_t *bytes, size_t len, tp_error *err)
{
    cursor c = { bytes, bytes + len, err }, definitions;
    tp_buf message = { 0 };
    *image = NULL;
    if (get_section(&c, &definitions) == 0 && get_definitions(&definitions, refs, known) == 0 &&
        get_message(&c, refs, &message) == 0) {
        *image = tp_image_new(&message);
        if (!*image)
            tp_error_oom(err, "work");
    }
    tp_buf_free(&message);
    return *image ? 0 : -1;
}

/* The items as messages, whose ends are given. NULL with err set. */
static tp_block *get_values(cursor *c, const tp_parcel_refs *refs, const tp_task *task,
                            const cursor *ends)
{
    tp_block *b = tp_block_new_values(TP_BLOCK_VALUES);
    int rc = b ? get_message(c, refs, &b->bytes) : tp_error_oom(c->err, "work");
    if (rc == 0 && left(ends) != (uint64_t)task->count * sizeof(uint32_t))
        rc = damaged(c);
    uint32_t before = 0;
    for (uint32_t i = 0; rc == 0 && i < task->count; i++) {
        uint32_t end;
        memcpy(&end, ends->p + i * sizeof end, sizeof end);
        if (end < before || end > b->bytes.len)
            rc = damaged(c);
        else if (tp_block_reserve(b))
            rc = tp_error_oom(c->err, "work");
        else
            b->ends[b->n++] = before = end;
    }
    if (rc == 0)
        return b;
    tp_block_free(b);
    return NULL;
}

/* The items as columns. NULL with err set. */
static tp_block *get_columns(cursor *c, const tp_parcel_refs *refs, const tp_task *task)
{
    tp_buf bytes = { 0 };
    uint64_t size = 0;
    int rc = get_message(c, refs, &bytes);
    if (rc == 0 && task->columns > TP_COLUMNS_MAX)
        rc = damaged(c);
    for (uint32_t i = 0; rc == 0 && i < task->columns; i++) {
        if (task->column_type[i] >= TP_MIXED)
            rc = damaged(c);
        else
            size += (uint64_t)task->count * tp_block_element_size(task->column_type[i]);
    }
    if (rc == 0 && bytes.len != size)
        rc = damaged(c);
    tp_block *b =
        rc ? NULL : tp_block_new_columns(task->count, task->columns, task->column_type, 0);
    if (rc == 0 && !b)
        tp_error_oom(c->err, "work");
    const uint8_t *from = bytes.data;
    for (uint32_t i = 0; b && i < task->columns; i++) {
        const size_t len = task->count * tp_block_element_size(task->column_type[i]);
        memcpy(b->column[i], from, len);
        tp_make_canonical((tp_type)task->column_type[i], b->column[i], task->count);
        from += len;
    }
    if (b)
        b->n = task->count;
    tp_buf_free(&bytes);
    return b;
}

int tp_parcel_get_task(tp_task *task, const char **name, tp_block **items, const uint8_t **image,
                       tp_buf *ticket, tp_parcel_refs *refs, tp_known *known,
                       const uint8_t *bytes, size_t len, tp_error *err)
{
    cursor c = { bytes, bytes + len, err }, text, tickets, definitions, ends;
    *items = NULL;
    *image = NULL;
    const uint8_t *head = get(&c, sizeof *task);
    if (!head)
        return -1;
    memcpy(task, head, sizeof *task);
    if (get_section(&c, &text) || get_section(&c, &tickets) || get_section(&c, &definitions) ||
        get_section(&c, &ends) || get_definitions(&definitions, refs, known))
        return -1;
    if (left(&text) == 0 || text.end[-1] != '\0' || task->count == 0 || task->func >= refs->n ||
        refs->refs[task->func]->type != &tp_func_type || task->returns > TP_COLUMNS_MAX)
        return damaged(&c);
    *name = (const char *)text.p;
    if (left(&tickets) && tp_buf_add(ticket, tickets.p, left(&tickets)))
        return tp_error_oom(err, "work");
    tp_block *b = task->columns ? get_columns(&c, refs, task) : get_values(&c, refs, task, &ends);
    int rc = b ? 0 : -1;
    cursor follows = { 0 };
    if (rc == 0 && task->has_image) {
        rc = get_section(&c, &follows);
        if (rc == 0 && left(&follows) != task->image_size)
            rc = damaged(&c);
        *image = follows.p;
    }
    if (rc) {
        tp_block_free(b);
        return -1;
    }
    *items = b;
    return 0;
}

/* ---- results ---- */

static uint64_t rounded(uint64_t n)
{
    return (n + RECORDS_ALIGN - 1) & ~(uint64_t)(RECORDS_ALIGN - 1);
}

/* Adds n bytes and zeros up to the next multiple of 8. */
static int put_padded(tp_buf *out, const void *bytes, uint64_t n, tp_error *err)
{
    static const char zeros[RECORDS_ALIGN] = { 0 };
    return put(out, bytes, n, err) || put(out, zeros, rounded(n) - n, err) ? -1 : 0;
}

static int put_columns(tp_buf *out, const tp_block *b, uint32_t from, uint32_t n, uint32_t at,
                       tp_error *err)
{
    /* of groups there is one element each */
    const uint32_t rows = b->kind == TP_BLOCK_PARTIALS ? n / TP_GROUP : n;
    tp_wire_record r = { .kind = b->kind, .at = at, .n = n, .capacity = rows,
                         .columns = b->columns };
    memcpy(r.type, b->type, sizeof r.type);
    r.text.used = r.text.capacity = b->text.used;
    r.size = tp_wire_columns_size(rows, b->columns, b->type, b->text.used);
    int rc = put(out, &r, sizeof r, err);
    for (uint32_t c = 0; rc == 0 && c < b->columns; c++) {
        const size_t size = tp_block_element_size(b->type[c]);
        rc = put_padded(out, (const char *)b->column[c] + from * size, rows * size, err);
    }
    return rc ? rc : put_padded(out, b->text.bytes, b->text.used, err);
}

/* The message of one item, or of a failure. */
static int put_record(tp_buf *out, const tp_block *b, uint32_t k, uint32_t at,
                      const tp_parcel_refs *refs, const tp_parcel_refs *more, tp_error *err)
{
    size_t len = b->bytes.len;
    const uint8_t *bytes = b->ends ? tp_block_message(b, k, &len) : b->bytes.data;
    uint64_t nrefs = b->bytes.nrefs;
    tp_wire_record r = { .kind = b->kind, .at = at, .n = 1, .may_retry = b->may_retry,
                         .is_crash = b->is_crash, .bytes = len, .nrefs = nrefs };
    r.size = sizeof r + rounded(len) + rounded(nrefs * sizeof(uint32_t));
    int rc = put(out, &r, sizeof r, err);
    rc = rc ? rc : put_padded(out, bytes, len, err);
    for (uint64_t i = 0; rc == 0 && i < nrefs; i++) {
        int64_t number = find(refs, b->bytes.refs[i]);
        if (number < 0) {
            number = find(more, b->bytes.refs[i]);
            number = number < 0 ? -1 : number + refs->n;
        }
        uint32_t as = (uint32_t)number;
        rc = number < 0 ? tp_error_set(err, TP_ECODEC,
                                       "an object that only the worker knows cannot travel from it")
                        : put(out, &as, sizeof as, err);
    }
    uint64_t spare = rounded(nrefs * sizeof(uint32_t)) - nrefs * sizeof(uint32_t);
    return rc ? rc : put(out, &(uint64_t){ 0 }, spare, err);
}

/* Appends the record of one item of columns, encoded as a message. */
static int put_encoded(tp_buf *out, const tp_block *b, uint32_t at, tp_error *err)
{
    tp_wire_record r = { .kind = TP_BLOCK_VALUES, .at = at, .n = 1 };
    size_t begin = out->len;
    if (put(out, &r, sizeof r, err))
        return -1;
    if (tp_block_encode_item(b, 0, out))
        return tp_error_oom(err, "work");
    r.bytes = out->len - begin - sizeof r;
    r.size = sizeof r + rounded(r.bytes);
    memcpy(out->data + begin, &r, sizeof r);
    uint64_t spare = r.size - sizeof r - r.bytes;
    return put(out, &(uint64_t){ 0 }, spare, err);
}

/* Does the block point to a string outside of its own text (TP_SCALAR_PINNED or SHARED)? */
static bool has_shared(const tp_block *b)
{
    return b->columns > 0 && b->type[0] == TP_MIXED && b->n == 1 &&
           ((const tp_scalar *)b->column[0])->kind == TP_SCALAR_SHARED;
}

int tp_parcel_put_result(tp_buf *out, const tp_block *b, uint32_t from, uint32_t n, uint32_t at,
                         const tp_parcel_refs *refs, const tp_parcel_refs *more, tp_error *err)
{
    size_t before = out->len;
    int rc = 0;
    if (b->kind == TP_BLOCK_COLUMNS && has_shared(b)) {
        rc = put_encoded(out, b, at, err);
    } else if (b->kind == TP_BLOCK_COLUMNS || b->kind == TP_BLOCK_PARTIALS) {
        rc = put_columns(out, b, from, n, at, err);
    } else if (b->kind == TP_BLOCK_DONE) {
        tp_wire_record r = { .size = sizeof r, .kind = b->kind, .at = at, .n = n };
        rc = put(out, &r, sizeof r, err);
    } else {
        for (uint32_t k = 0; rc == 0 && k < n; k++)
            rc = put_record(out, b, from + k, at + k, refs, more, err);
    }
    if (rc)
        out->len = before;
    return rc;
}
