/* frame.c: how the host writes requests and reads records. See frame.h. */
#include "wire/frame.h"

#include "codec/message.h"
#include "wire/events.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SHORT_BYTES = 16 << 10 /* a piece that is not worth other memory */ };

uint64_t tp_wire_next(uint64_t begin, uint64_t from, uint64_t until)
{
    if (from < begin || until < from || until - from > TP_WIRE_LAP)
        return begin;
    if (until - from < SHORT_BYTES)
        return from;
    uint64_t next = (until + 63) & ~(uint64_t)63;
    return next + (until - from) > begin + TP_WIRE_LAP ? begin : next;
}

/* ---- writing a request ---- */

/* Sets which of the worker's images the request is for. One that the worker does not have is
 * written into the request, and replaces the one used longest ago. */
static int put_image(tp_wire_writer *w, tp_wire_request *q, tp_image *image)
{
    tp_wire_given *g = w->given;
    uint32_t oldest = 0;
    for (uint32_t i = 0; i < TP_WIRE_IMAGES; i++) {
        if (g->image[i] == image) {
            g->used[i] = ++g->tick;
            q->image = i;
            return 0;
        }
        if (g->used[i] < g->used[oldest])
            oldest = i;
    }
    q->image = oldest;
    q->image_at = tp_wire_put(w, image->message.data, image->message.len);
    q->image_bytes = image->message.len;
    q->image_nrefs = image->message.nrefs;
    q->image_refs_at = tp_wire_put_refs(w, image->message.refs, image->message.nrefs);
    if (!q->image_at || !q->image_refs_at)
        return -1;
    tp_ref_drop(g->image[oldest]);
    g->image[oldest] = tp_ref_hold(image);
    g->used[oldest] = ++g->tick;
    return 0;
}

/* Writes the strings of columns of scalars: those in the block's text, and those that the block's
 * owner has pinned. */
static int put_strings(tp_wire_writer *w, tp_wire_request *q, const tp_block *b)
{
    uint64_t text = 0;
    for (uint32_t c = 0; c < b->columns; c++) {
        const tp_scalar *x = (const tp_scalar *)(const void *)(w->arena->data + q->column_at[c]);
        for (uint32_t i = 0; b->type[c] == TP_MIXED && i < q->n; i++)
            text += x[i].kind == TP_SCALAR_STRING   ? x[i].as.string.length
                    : x[i].kind == TP_SCALAR_PINNED ? x[i].pinned_length
                                                    : 0;
    }
    if (text > UINT32_MAX)
        return tp_error_set(w->err, TP_EMEMORY, "out of memory: inputs of %.0f bytes at once",
                            (double)text);
    q->text = text;
    q->text_at = tp_wire_reserve(w, text);
    if (!q->text_at)
        return -1;
    char *to = w->arena->data + q->text_at;
    uint32_t used = 0;
    for (uint32_t c = 0; c < b->columns; c++) {
        tp_scalar *x = (tp_scalar *)(void *)(w->arena->data + q->column_at[c]);
        for (uint32_t i = 0; b->type[c] == TP_MIXED && i < q->n; i++) {
            if (x[i].kind != TP_SCALAR_STRING && x[i].kind != TP_SCALAR_PINNED)
                continue;
            bool is_pinned = x[i].kind == TP_SCALAR_PINNED;
            const char *from = is_pinned ? x[i].as.pinned : b->text.bytes + x[i].as.string.at;
            uint32_t length = is_pinned ? x[i].pinned_length : x[i].as.string.length;
            memcpy(to + used, from, length);
            x[i] = (tp_scalar){ .as.string = { used, length }, .kind = TP_SCALAR_STRING };
            used += length;
        }
    }
    return 0;
}

uint32_t tp_wire_fitting(const tp_work *w, uint32_t count, uint64_t most)
{
    const tp_block *b = w->block;
    uint64_t bytes = 0;
    /* what is pinned, and arrays in which columns lie, are among the block's references */
    bool may_have_pinned = b->kind == TP_BLOCK_COLUMNS && b->bytes.nrefs > 0 &&
                           memchr(b->type, TP_MIXED, b->columns);
    for (uint32_t i = 0; may_have_pinned && i < count; i++)
        for (uint32_t c = 0; c < b->columns; c++) {
            const tp_scalar *x = (const tp_scalar *)b->column[c] + w->at + i;
            if (b->type[c] == TP_MIXED && x->kind == TP_SCALAR_PINNED)
                bytes += x->pinned_length;
            if (bytes > most)
                return i;
        }
    return count;
}

/* Columns of up to so many bytes are copied: mapping them would take longer. */
enum { COPIED_BYTES_MAX = 32 << 10 };

/* The array, among those of the block, in which the column lies, if it can be lent; NULL: the
 * column must be copied. */
static tp_array *array_of(const tp_block *b, const char *column, size_t size)
{
    for (uint32_t i = 0; i < b->bytes.nrefs; i++) {
        tp_array *a = (tp_array *)(void *)b->bytes.refs[i];
        if (a->ref.type == &tp_array_type && a->at >= 0 && a->size > COPIED_BYTES_MAX &&
            column >= (char *)a->data && column + size <= (char *)a->data + a->size)
            return a;
    }
    return NULL;
}

static int put_columns(tp_wire_writer *w, tp_wire_request *q, const tp_block *b, uint32_t offset)
{
    q->columns = b->columns;
    q->is_foreign = b->capacity == 0;
    memcpy(q->type, b->type, sizeof q->type);
    bool has_scalars = false;
    for (uint32_t c = 0; c < b->columns; c++) {
        size_t size = tp_block_element_size(b->type[c]);
        const char *column = (const char *)b->column[c] + offset * size;
        tp_array *a = b->type[c] == TP_MIXED ? NULL : array_of(b, column, q->n * size);
        if (a) {
            q->lent[c] = 1 + (uint32_t)tp_wire_give(w, &a->ref); /* 0 when it cannot be given */
            q->column_at[c] = (uint64_t)(column - (const char *)a->data);
        } else {
            q->column_at[c] = tp_wire_put(w, column, q->n * size);
        }
        if (a ? !q->lent[c] : !q->column_at[c])
            return -1;
        has_scalars |= b->type[c] == TP_MIXED;
    }
    return has_scalars ? put_strings(w, q, b) : 0;
}

/* Writes the messages of the items and where each ends. The references are those of the whole
 * block, since any item may name any. */
static int put_messages(tp_wire_writer *w, tp_wire_request *q, const tp_block *b, uint32_t offset)
{
    uint32_t begin = offset ? b->ends[offset - 1] : 0;
    q->bytes = b->ends[offset + q->n - 1] - begin;
    q->bytes_at = tp_wire_put(w, b->bytes.data + begin, q->bytes);
    q->ends_at = tp_wire_put(w, b->ends + offset, q->n * sizeof *b->ends);
    q->nrefs = b->bytes.nrefs;
    q->refs_at = tp_wire_put_refs(w, b->bytes.refs, b->bytes.nrefs);
    if (!q->bytes_at || !q->ends_at || !q->refs_at)
        return -1;
    uint32_t *ends = (uint32_t *)(void *)(w->arena->data + q->ends_at);
    for (uint32_t i = 0; i < q->n; i++)
        ends[i] -= begin;
    return 0;
}

/* Says where results are to be stored, if the job's arrays can all be lent. */
static int put_returns(tp_wire_writer *w, tp_wire_request *q, const tp_returns *returns)
{
    for (uint32_t c = 0; c < returns->columns; c++)
        if (!returns->array[c] || returns->array[c]->at < 0)
            return 0;
    for (uint32_t c = 0; c < returns->columns; c++) {
        q->result[c] = 1 + (uint32_t)tp_wire_give(w, &returns->array[c]->ref);
        if (!q->result[c])
            return -1;
    }
    return 0;
}

int tp_wire_put_request(tp_region *in, tp_wire_given *given, const tp_work *work, uint32_t count,
                        const tp_worker *worker, uint32_t place, bool *in_place, tp_error *err)
{
    const tp_terms *t = work->terms;
    const tp_block *b = work->block;
    uint32_t offset = work->at;
    tp_wire_writer w = { .arena = in,
                         .given = given,
                         .at = TP_WIRE_IN_BEGIN + tp_wire_rounded(sizeof(tp_wire_request)),
                         .err = err };
    tp_wire_request q = {
        .attempt = work->attempt,
        .worker = (uint32_t)worker->index,
        .place = place,
        .concurrent = t->concurrent,
        .discards = t->discards,
        .tags_lines = worker->tags_lines,
        .told = tp_wire_told(work, worker->trace),
        .draws = t->draws,
        .memory = t->memory,
        .depth = t->depth,
        .returns = t->returns.columns,
        .batch = t->batch,
        .splits = t->splits,
        .streams = t->streams,
        .has_leases = t->has_leases,
        .is_limited = t->is_limited,
        .leases = t->leases,
        .first = t->base + b->first + offset,
        .kind = b->kind,
        .n = count,
    };
    memcpy(q.returned, t->returns.type, sizeof q.returned);
    if (tp_region_grow(in, w.at, err))
        return -1;
    q.name_at = tp_wire_put_text(&w, t->name);
    q.executor_at = tp_wire_put_text(&w, t->executor ? t->executor : "");
    int rc = q.name_at && q.executor_at ? 0 : -1;
    w.at = given->from = tp_wire_next(w.at, given->from, given->until);
    if (rc == 0)
        rc = b->kind == TP_BLOCK_COLUMNS ? put_columns(&w, &q, b, offset)
                                         : put_messages(&w, &q, b, offset);
    if (rc == 0)
        rc = put_image(&w, &q, t->image);
    if (rc == 0 && !t->discards)
        rc = put_returns(&w, &q, &t->returns);
    *in_place = q.result[0] != 0;
    rc = tp_wire_put_given(&w, &q.given_at, &q.given, rc);
    /* the request is not sent, so the worker does not get the image either */
    if (rc && q.image_at) {
        tp_ref_drop(given->image[q.image]);
        given->image[q.image] = NULL;
        given->used[q.image] = 0;
    }
    q.size = given->until = w.at;
    if (rc == 0)
        memcpy(in->data + TP_WIRE_IN_BEGIN, &q, sizeof q);
    return rc;
}

/* ---- columns of records ---- */

static uint64_t column_size(uint32_t capacity, uint8_t type)
{
    return tp_wire_rounded((uint64_t)capacity * tp_block_element_size(type));
}

uint64_t tp_wire_columns_size(uint32_t capacity, uint32_t columns, const uint8_t *types,
                              uint32_t text)
{
    uint64_t size = sizeof(tp_wire_record);
    for (uint32_t c = 0; c < columns; c++)
        size += column_size(capacity, types[c]);
    return size + tp_wire_rounded(text);
}

uint64_t tp_wire_column_at(const tp_wire_record *r, uint32_t c)
{
    uint64_t at = sizeof *r;
    for (uint32_t i = 0; i < c; i++)
        at += column_size(r->capacity, r->type[i]);
    return at;
}

/* ---- reading records ---- */

static bool wrong(tp_error *err, const char *what)
{
    tp_error_set(err, TP_EUSAGE, "it has written nonsense where its results lie: %s", what);
    return false;
}

/* Copies the head of the record at `from`. Does the record lie before `until`? */
static bool copy_head(const tp_wire_reader *r, uint64_t from, uint64_t until, tp_wire_record *head,
                      tp_error *err)
{
    if (from % 8 || until > r->size || from > until || until - from < sizeof *head)
        return wrong(err, "no record");
    memcpy(head, r->base + from, sizeof *head);
    atomic_signal_fence(memory_order_seq_cst); /* the worker may change it: it is not read again */
    if (head->size % 8 || head->size < sizeof *head || head->size > until - from)
        return wrong(err, "a record that is longer than all of them");
    return true;
}

/* The same, and checks that the record's items are the next ones. */
static bool read_head(const tp_wire_reader *r, uint64_t from, uint64_t until, tp_wire_record *head,
                      tp_error *err)
{
    if (!copy_head(r, from, until, head, err))
        return false;
    if (head->at != r->at - r->ahead || head->n == 0 || head->n < r->ahead ||
        head->n - r->ahead > r->count - r->at || (r->ahead && head->kind != TP_BLOCK_COLUMNS))
        return wrong(err, "results of other items");
    return true;
}

/* Copies doubles, several at once, and makes NaNs canonical on the way. */
static void copy_doubles(double *to, const char *from, uint32_t n)
{
    /* doubles in a vector: SSE2, which each x86-64 has, and NEON take two; the compiler would split
     * wider vectors */
    enum { LANES = 2 };
    typedef double numbers __attribute__((vector_size(LANES * sizeof(double))));
    typedef int64_t bits __attribute__((vector_size(LANES * sizeof(int64_t))));
    const numbers nan = { (double)NAN, (double)NAN };
    uint32_t i = 0;
    for (; n - i >= LANES; i += LANES) {
        numbers x;
        memcpy(&x, from + i * sizeof *to, sizeof x);
        bits is_number = x == x;
        x = (numbers)(((bits)x & is_number) | ((bits)nan & ~is_number));
        memcpy(to + i, &x, sizeof x);
    }
    memcpy(to + i, from + i * sizeof *to, (n - i) * sizeof *to);
    tp_make_canonical(TP_DOUBLE, to + i, n - i);
}

/* Copies a column. NaNs are made canonical, since LuaJIT would read others as values of other
 * types. */
static void copy_column(void *to, const char *from, uint32_t n, uint8_t type)
{
    if (type == TP_DOUBLE) {
        copy_doubles(to, from, n);
        return;
    }
    memcpy(to, from, n * tp_block_element_size(type));
    if (type != TP_MIXED)
        tp_make_canonical((tp_type)type, to, n);
}

/* Are the copied scalars valid? Makes NaNs canonical. */
static bool check_scalars(tp_scalar *x, uint32_t n, uint32_t text)
{
    for (uint32_t i = 0; i < n; i++) {
        if (x[i].kind > TP_SCALAR_STRING)
            return false;
        if (x[i].kind == TP_SCALAR_STRING &&
            (x[i].as.string.at > text || x[i].as.string.length > text - x[i].as.string.at))
            return false;
        if (x[i].kind == TP_SCALAR_NUMBER && x[i].as.number != x[i].as.number)
            x[i].as.number = (double)NAN;
    }
    return true;
}

/* Does the record have the columns that results of this job must have? */
static bool is_expected(const tp_wire_record *head, const tp_terms *t)
{
    if (t->discards || head->columns == 0 || head->columns > TP_COLUMNS_MAX)
        return false;
    if (t->returns.columns)
        return head->columns == t->returns.columns &&
               memcmp(head->type, t->returns.type, head->columns) == 0;
    if (head->columns == 1 && head->type[0] == TP_DOUBLE)
        return true;
    for (uint32_t c = 0; c < head->columns; c++)
        if (head->type[c] != TP_MIXED)
            return false;
    return true;
}

/* Reads the next n items of a record of columns, behind those that were read ahead. */
static bool read_columns(tp_wire_reader *r, tp_work *to, uint64_t from, const tp_wire_record *head,
                         uint32_t n, tp_error *err)
{
    const tp_terms *t = to->terms;
    if (!is_expected(head, t) || head->capacity < (uint64_t)r->ahead + n)
        return wrong(err, "columns of another kind");
    bool is_mixed = head->type[0] == TP_MIXED;
    uint32_t text = is_mixed ? head->text.used : 0;
    if (head->in_place
            ? !r->in_place
            : tp_wire_columns_size(head->capacity, head->columns, head->type, text) > head->size ||
                  (is_mixed && text > head->text.capacity))
        return wrong(err, "columns that are longer than their record");
    tp_block *b = t->returns.columns && t->returns.array[0]
                      ? tp_returns_block(&t->returns, to->block->first + r->first + r->at, n)
                      : tp_block_new_columns(n, head->columns, head->type, text);
    if (!b) {
        tp_error_oom(err, "results");
        return false;
    }
    for (uint32_t c = 0; head->in_place && c < head->columns; c++)
        tp_make_canonical((tp_type)head->type[c], b->column[c], n);
    for (uint32_t c = 0; !head->in_place && c < head->columns; c++)
        copy_column(b->column[c],
                    r->base + from + tp_wire_column_at(head, c) +
                        r->ahead * tp_block_element_size(head->type[c]),
                    n, head->type[c]);
    if (is_mixed) {
        memcpy(b->text.bytes, r->base + from + tp_wire_column_at(head, head->columns), text);
        b->text.used = text;
        for (uint32_t c = 0; c < head->columns; c++)
            if (!check_scalars(b->column[c], n, text)) {
                tp_block_free(b);
                return wrong(err, "values of no kind");
            }
    }
    b->n = n;
    tp_work_append(to, b, r->first + r->at);
    return true;
}

/* Reads what a reduction has made of whole groups of items. */
static bool read_partials(const tp_wire_reader *r, tp_work *to, uint64_t from,
                          const tp_wire_record *head, tp_error *err)
{
    static const uint8_t type[] = { TP_DOUBLE };
    const uint32_t groups = head->n / TP_GROUP;
    if (!r->may_reduce || to->terms->discards || head->n % TP_GROUP != 0 ||
        (to->block->first + r->first + r->at) % TP_GROUP != 0 || head->capacity != groups ||
        tp_wire_columns_size(groups, 1, type, 0) > head->size)
        return wrong(err, "groups of results that are none");
    tp_block *b = tp_block_new_columns(groups, 1, NULL, 0);
    if (!b) {
        tp_error_oom(err, "results");
        return false;
    }
    copy_doubles(b->column[0], r->base + from + sizeof *head, groups);
    b->kind = TP_BLOCK_PARTIALS;
    b->n = head->n;
    tp_work_append(to, b, r->first + r->at);
    return true;
}

/* Copies the message of a record to the end of a block, and adds its references. */
static bool read_message(const tp_wire_reader *r, tp_block *b, uint64_t from,
                         const tp_wire_record *head, tp_error *err)
{
    uint64_t room = head->size - sizeof *head,
             refs_at = sizeof *head + tp_wire_rounded(head->bytes);
    if (head->bytes > room || head->nrefs > TP_WIRE_REFS_MAX ||
        tp_wire_rounded(head->bytes) + tp_wire_rounded(head->nrefs * 4) > room ||
        head->bytes > TP_STRING_MAX * 2ull)
        return wrong(err, "a message that is longer than its record");
    if (b->bytes.len + head->bytes > UINT32_MAX || tp_block_reserve(b) ||
        tp_buf_add(&b->bytes, r->base + from + sizeof *head, head->bytes)) {
        tp_error_oom(err, "results");
        return false;
    }
    for (uint64_t i = 0; i < head->nrefs; i++) {
        uint32_t id;
        memcpy(&id, r->base + from + refs_at + 4 * i, sizeof id);
        if (id >= r->given->n || !r->given->refs[id])
            return wrong(err, "a reference to nothing");
        if (tp_buf_hold_ref(&b->bytes, r->given->refs[id])) {
            tp_error_oom(err, "results");
            return false;
        }
    }
    tp_block_add(b);
    b->is_foreign = true;
    return true;
}

static bool read_failure(tp_wire_reader *r, tp_work *to, uint64_t from, const tp_wire_record *head,
                         tp_error *err)
{
    tp_block *b = head->n == 1 ? tp_block_new_empty_failure() : NULL;
    if (!b || !read_message(r, b, from, head, err)) {
        tp_block_free(b);
        return wrong(err, "a failure of several items");
    }
    b->may_retry = head->may_retry != 0;
    b->is_crash = head->is_crash != 0;
    tp_work_append(to, b, r->first + r->at);
    return true;
}

/* Values that the running item has given go to the sink. When the sink wants no more, the work is
 * asked to stop. */
static bool read_part(const tp_wire_reader *r, tp_work *to, uint64_t from,
                      const tp_wire_record *head, tp_error *err)
{
    if (!to->terms->streams || head->n != 1)
        return wrong(err, "values of an item that gives none");
    tp_block *b = tp_block_new_values(TP_BLOCK_PART);
    if (!b) {
        tp_error_oom(err, "results");
        return false;
    }
    if (!read_message(r, b, from, head, err)) {
        tp_block_free(b);
        return false;
    }
    to->at = r->first + r->at;
    if (to->sink->emit(to, b))
        atomic_store_explicit(&to->ctl[1], 1, memory_order_relaxed);
    return true;
}

/* Gives the block that records are being added to to the sink. */
static void flush(tp_wire_reader *r, tp_work *to)
{
    tp_block *b = r->open;
    r->open = NULL;
    if (b && b->n > 0)
        tp_work_append(to, b, r->first + r->at - b->n);
    else
        tp_block_free(b);
}

/* Adds a record (a message, or that items are over) to the block that is being gathered. A message
 * with references is a block of its own. */
static bool gather(tp_wire_reader *r, tp_work *to, uint64_t from, const tp_wire_record *head,
                   tp_error *err)
{
    tp_block_kind kind = (tp_block_kind)head->kind;
    bool is_values = kind == TP_BLOCK_VALUES;
    if (is_values == to->terms->discards || to->terms->returns.columns > 0 ||
        (is_values && head->n != 1))
        if (is_values || !to->terms->discards)
            return wrong(err, "results of another kind");
    if (r->open && (r->open->kind != kind || r->open->bytes.len > TP_BLOCK_BYTES_MAX ||
                    head->nrefs || r->open->bytes.nrefs))
        flush(r, to);
    if (!r->open)
        r->open = tp_block_new_empty(kind, 0, 0);
    if (!r->open) {
        tp_error_oom(err, "results");
        return false;
    }
    if (is_values)
        return read_message(r, r->open, from, head, err);
    r->open->n += head->n;
    return true;
}

/* For a result that is one long string: a block that points to it where it lies (held.h). NULL when
 * it is something else, or must be copied. */
static tp_block *hold_string(const tp_wire_reader *r, const tp_work *to, uint64_t from,
                             const tp_wire_record *head)
{
    /* how a message with a single long string begins: the count 1, T_STRING, the length */
    uint8_t begin[2 + sizeof(uint32_t)];
    uint32_t len;
    if (!r->held || head->kind != TP_BLOCK_VALUES || head->n != 1 || head->nrefs ||
        head->bytes < sizeof begin + r->held->least || head->bytes > head->size - sizeof *head ||
        to->terms->discards || to->terms->returns.columns > 0)
        return NULL;
    memcpy(begin, r->base + from + sizeof *head, sizeof begin);
    atomic_signal_fence(memory_order_seq_cst);
    memcpy(&len, begin + 2, sizeof len);
    if (begin[0] != 1 || begin[1] != T_STRING || len != head->bytes - sizeof begin ||
        len > TP_STRING_MAX)
        return NULL;
    return tp_wire_hold(r->held, from, from + head->size, from + sizeof *head + sizeof begin, len);
}

bool tp_wire_find_place(const tp_wire_reader *r, uint64_t from, uint64_t until, uint32_t *place,
                        uint64_t *end, tp_error *err)
{
    tp_wire_record head;
    for (*end = from; *end < until; *end += head.size) {
        if (!copy_head(r, *end, until, &head, err))
            return false;
        if (*end > from && head.place != *place)
            break;
        *place = head.place;
    }
    return true;
}

bool tp_wire_read(tp_wire_reader *r, tp_work *to, uint64_t from, uint64_t until, tp_error *err)
{
    bool is_right = true;
    while (from < until && is_right) {
        tp_wire_record head;
        is_right = read_head(r, from, until, &head, err);
        if (!is_right)
            break;
        tp_block *held = hold_string(r, to, from, &head);
        if (held) {
            flush(r, to);
            tp_work_append(to, held, r->first + r->at);
        } else if (head.kind == TP_BLOCK_VALUES || head.kind == TP_BLOCK_DONE) {
            is_right = gather(r, to, from, &head, err);
        } else {
            flush(r, to);
            if (head.kind == TP_BLOCK_COLUMNS && head.n > r->ahead)
                is_right = read_columns(r, to, from, &head, head.n - r->ahead, err);
            else if (head.kind == TP_BLOCK_COLUMNS)
                is_right = true; /* all of it was read ahead */
            else if (head.kind == TP_BLOCK_PARTIALS)
                is_right = read_partials(r, to, from, &head, err);
            else if (head.kind == TP_BLOCK_FAILURE)
                is_right = read_failure(r, to, from, &head, err);
            else if (head.kind == TP_BLOCK_PART)
                is_right = read_part(r, to, from, &head, err);
            else
                is_right = wrong(err, "a record of no kind");
        }
        if (!is_right)
            break;
        r->at += head.kind == TP_BLOCK_PART ? 0 : head.n - r->ahead;
        r->ahead = 0;
        from += head.size;
        r->from = from;
    }
    /* drops the message that was added last: its record was wrong, so it belongs to no item */
    if (!is_right && r->open && r->open->kind == TP_BLOCK_VALUES && r->open->n > 0)
        r->open->bytes.len = r->open->ends[r->open->n - 1];
    flush(r, to);
    to->at = r->first + r->at;
    return is_right;
}

bool tp_wire_read_open(tp_wire_reader *r, tp_work *to, uint64_t from, uint32_t running,
                       tp_error *err)
{
    tp_wire_record head;
    if (from % 8 || from > r->size || r->size - from < sizeof head)
        return wrong(err, "no record");
    memcpy(&head, r->base + from, sizeof head);
    bool is_done = head.kind == TP_BLOCK_DONE && to->terms->discards;
    if ((head.kind != TP_BLOCK_COLUMNS && !is_done) || head.at != r->at - r->ahead ||
        head.size > r->size - from || running < r->at || running > r->count)
        return wrong(err, "no record that is being filled in");
    if (running == r->at)
        return true;
    /* only the worker, which is not trusted, knows how much of the text is used: so all of it is
     * copied */
    head.text.used = head.text.capacity;
    tp_block *done = is_done ? tp_block_new_empty(TP_BLOCK_DONE, 0, running - r->at) : NULL;
    if (is_done && !done) {
        tp_error_oom(err, "results");
        return false;
    }
    if (done)
        tp_work_append(to, done, r->first + r->at);
    else if (!read_columns(r, to, from, &head, running - r->at, err))
        return false;
    r->ahead += running - r->at;
    r->at = running;
    to->at = r->first + r->at;
    return true;
}
