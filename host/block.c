/* block.c: making and freeing blocks. */
#include "block.h"

#include "message.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum { MEMORY_TRIES = 5 }; /* with a millisecond in between */

/* Bytes that a column takes: the next one is aligned for its elements, and columns of doubles have nothing between them. */
static size_t column_size(uint32_t capacity, uint8_t type)
{
    return (capacity * tp_block_element_size(type) + 7) & ~(size_t)7;
}

tp_block *tp_block_new_columns(uint32_t capacity, uint32_t columns, const uint8_t *types, uint32_t text)
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
    return sizeof *b + b->bytes.cap + b->text.used + b->capacity * item;
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

tp_block *tp_block_new_failure(const char *kind, const char *message, unsigned attempt, int worker)
{
    tp_block *b = tp_block_new_empty_failure();
    for (int i = 0; b && i < MEMORY_TRIES; i++) {
        if (tp_encode_failure(&b->bytes, kind, message, attempt, worker) == 0) {
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
        uint8_t *to = tp_buf_reserve(&b->bytes, from->bytes.len);
        if (to) {
            memcpy(to, from->bytes.data, from->bytes.len);
            b->bytes.len = from->bytes.len;
            tp_block_add(b);
            return b;
        }
        uv_sleep(1);
    }
    tp_block_free(b);
    return NULL;
}

void tp_block_free(tp_block *b)
{
    if (!b)
        return;
    tp_buf_free(&b->bytes);
    free(b->ends);
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
