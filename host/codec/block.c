/* block.c: making and freeing blocks. */
#include "codec/block.h"

#include "codec/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* how often memory for a failure is asked for, with a millisecond in between */
enum { MEMORY_TRIES = 5 };

/* Bytes that a column takes, rounded up so that the next one is aligned; columns of doubles have no
 * gaps. */
static size_t column_size(uint32_t capacity, uint8_t type)
{
    return (capacity * tp_block_element_size(type) + 7) & ~(size_t)7;
}

tp_block *tp_block_new_columns(uint32_t capacity, uint32_t columns, const uint8_t *types,
                               uint32_t text)
{
    static const uint8_t doubles[TP_COLUMNS_MAX] = { TP_DOUBLE };
    if (!types)
        types = doubles;
    size_t size = sizeof(tp_block);
    for (uint32_t c = 0; c < columns; c++)
        size += column_size(capacity, types[c]);
    tp_block *b = malloc(size + text);
    if (!b)
        return NULL;
    *b = (tp_block){ .kind = TP_BLOCK_COLUMNS, .columns = columns, .capacity = capacity };
    char *at = (char *)(b + 1);
    for (uint32_t c = 0; c < columns; c++) {
        b->column[c] = at;
        b->type[c] = types[c];
        at += column_size(capacity, types[c]);
    }
    b->text = (tp_text){ at, 0, text };
    return b;
}

tp_block *tp_block_new_borrowed(uint64_t first, uint32_t n, uint32_t columns)
{
    tp_block *b = tp_block_new_empty(TP_BLOCK_COLUMNS, first, n);
    if (b)
        b->columns = columns;
    return b;
}

int tp_block_own(tp_block *b, tp_ref *r)
{
    if (tp_block_give(b, r))
        return -1;
    tp_ref_hold(r);
    return 0;
}

int tp_block_give(tp_block *b, tp_ref *r)
{
    tp_ref **refs = realloc(b->bytes.refs, (b->bytes.nrefs + 1) * sizeof *refs);
    if (!refs)
        return -1;
    b->bytes.refs = refs;
    b->bytes.refcap = b->bytes.nrefs + 1;
    refs[b->bytes.nrefs++] = r;
    return 0;
}

tp_block *tp_block_new_values(tp_block_kind kind)
{
    return tp_block_new_empty(kind, 0, 0);
}

tp_block *tp_block_new_empty(tp_block_kind kind, uint64_t first, uint32_t n)
{
    tp_block *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->kind = kind;
    b->first = first;
    b->n = n;
    return b;
}

int tp_block_reserve(tp_block *b)
{
    if (b->n < b->capacity)
        return 0;
    uint32_t capacity = b->capacity ? b->capacity * 2 : 4;
    uint32_t *ends = realloc(b->ends, capacity * sizeof *ends);
    if (!ends)
        return -1;
    b->ends = ends;
    b->capacity = capacity;
    return 0;
}

size_t tp_block_size(const tp_block *b)
{
    size_t item = b->columns ? 0 : sizeof *b->ends;
    for (uint32_t c = 0; c < b->columns; c++)
        item += tp_block_element_size(b->type[c]);
    return sizeof *b + b->held + b->bytes.cap + b->input.cap + b->text.used + b->capacity * item;
}

tp_block *tp_block_new_empty_failure(void)
{
    for (int i = 0; i < MEMORY_TRIES; i++) {
        tp_block *b = tp_block_new_values(TP_BLOCK_FAILURE);
        if (b && tp_block_reserve(b) == 0)
            return b;
        tp_block_free(b);
        uv_sleep(1);
    }
    return NULL;
}

tp_block *tp_block_new_failure(tp_failure_kind kind, const char *message, unsigned attempt,
                               int worker)
{
    return tp_block_new_crash(kind, message, "", 0, attempt, worker);
}

tp_block *tp_block_new_crash(tp_failure_kind kind, const char *message, const char *last,
                             size_t last_len, unsigned attempt, int worker)
{
    tp_block *b = tp_block_new_empty_failure();
    for (int i = 0; b && i < MEMORY_TRIES; i++) {
        if (tp_encode_failure(&b->bytes, kind, message, last, last_len, attempt, worker) == 0) {
            tp_block_add(b);
            return b;
        }
        uv_sleep(1);
    }
    tp_block_free(b);
    return NULL;
}

tp_block *tp_block_copy_failure(const tp_block *from)
{
    tp_block *b = tp_block_new_empty_failure();
    for (int i = 0; b && i < MEMORY_TRIES; i++) {
        if (tp_buf_add(&b->bytes, from->bytes.data, from->bytes.len) == 0) {
            tp_block_add(b);
            return b;
        }
        uv_sleep(1);
    }
    tp_block_free(b);
    return NULL;
}

/* ---- items as messages ---- */

/* Appends item k of a block of messages. Its references count by their places in the list of the
 * whole block, so all of the list is held. */
static int copy_message(const tp_block *b, uint32_t k, tp_buf *out)
{
    size_t len;
    const uint8_t *message = tp_block_message(b, k, &len);
    if (!tp_buf_reserve(out, len))
        return -1;
    for (uint32_t i = 0; i < b->bytes.nrefs; i++)
        if (tp_buf_hold_ref(out, b->bytes.refs[i])) {
            tp_buf_drop_refs(out, 0);
            return -1;
        }
    return tp_buf_add(out, message, len);
}

/* Writes a number as the encoder does for an identity: all NaNs are the same. */
static uint8_t *write_number(uint8_t *p, double x)
{
    return tp_write_number(p, isnan(x) ? (double)NAN : x);
}

static uint8_t *write_string(uint8_t *p, const char *bytes, uint32_t len)
{
    if (len < SHORT_MAX) {
        *p++ = (uint8_t)(T_SHORT + len);
    } else {
        *p++ = T_STRING;
        memcpy(p, &len, sizeof len);
        p += sizeof len;
    }
    memcpy(p, bytes, len);
    return p + len;
}

static uint32_t length_of(const tp_scalar *x)
{
    return x->kind == TP_SCALAR_STRING                                    ? x->as.string.length
           : x->kind == TP_SCALAR_PINNED || x->kind == TP_SCALAR_SHARED ? x->pinned_length
                                                                          : 0;
}

static uint8_t *write_scalar(uint8_t *p, const tp_block *b, const tp_scalar *x)
{
    switch (x->kind) {
    case TP_SCALAR_NUMBER: return write_number(p, x->as.number);
    case TP_SCALAR_STRING:
        return write_string(p, b->text.bytes + x->as.string.at, x->as.string.length);
    case TP_SCALAR_PINNED:
    case TP_SCALAR_SHARED: return write_string(p, x->as.pinned, x->pinned_length);
    default:
        *p++ = x->kind == TP_SCALAR_TRUE ? T_TRUE : x->kind == TP_SCALAR_FALSE ? T_FALSE : T_NIL;
        return p;
    }
}

int tp_block_encode_item(const tp_block *b, uint32_t k, tp_buf *out)
{
    if (b->ends)
        return copy_message(b, k, out);
    size_t most = 1 + 9 * TP_COLUMNS_MAX;
    for (uint32_t c = 0; c < b->columns; c++)
        if (b->type[c] == TP_MIXED)
            most += length_of((const tp_scalar *)b->column[c] + k);
    uint8_t *begin = tp_buf_reserve(out, most), *p = begin;
    if (!p)
        return -1;
    *p++ = 0;
    for (uint32_t c = 0; c < b->columns; c++) {
        uint8_t type = b->type[c];
        const tp_scalar *x = (const tp_scalar *)b->column[c] + k;
        if (type == TP_MIXED && x->kind == TP_SCALAR_ABSENT)
            break;
        begin[0]++;
        if (type == TP_MIXED) {
            p = write_scalar(p, b, x);
        } else if (type == TP_INT64 || type == TP_UINT64) {
            *p++ = type == TP_INT64 ? T_INT64 : T_UINT64;
            memcpy(p, (const uint64_t *)b->column[c] + k, sizeof(uint64_t));
            p += sizeof(uint64_t);
        } else {
            p = write_number(p, tp_element_load((tp_type)type, b->column[c], k));
        }
    }
    out->len += (size_t)(p - begin);
    return 0;
}

/* ---- */

void tp_block_free(tp_block *b)
{
    if (!b)
        return;
    tp_buf_free(&b->bytes);
    tp_buf_free(&b->input);
    free(b->ends);
    free(b->tags);
    free(b);
}

void tp_block_free_list(tp_block *b)
{
    while (b) {
        tp_block *next = b->next;
        tp_block_free(b);
        b = next;
    }
}
