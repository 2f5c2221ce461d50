/* buf.c: bytes that grow, and the host objects that they refer to. */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

uint8_t *tp_buf_reserve(tp_buf *b, size_t n)
{
    if (b->cap - b->len >= n && b->data)
        return b->data + b->len;
    if (n > SIZE_MAX / 2 - b->len)
        return NULL;
    size_t cap = b->cap * 2 > 128 ? b->cap * 2 : 128;
    if (cap < b->len + n || b->home) /* a home decides itself by how much it grows */
        cap = b->len + n;
    uint8_t *data = b->home ? b->home->grow(b->home, b->len, &cap) : realloc(b->data, cap);
    if (!data)
        return NULL;
    b->data = data;
    b->cap = cap;
    return data + b->len;
}

int tp_buf_add(tp_buf *b, const void *bytes, size_t n)
{
    uint8_t *to = tp_buf_reserve(b, n);
    if (!to)
        return -1;
    if (n)
        memcpy(to, bytes, n);
    b->len += n;
    return 0;
}

void tp_buf_drop_refs(tp_buf *b, uint32_t keep)
{
    while (b->nrefs > keep)
        tp_ref_drop(b->refs[--b->nrefs]);
}

void tp_buf_clear(tp_buf *b)
{
    tp_buf_drop_refs(b, 0);
    b->len = 0;
}

void tp_buf_free(tp_buf *b)
{
    tp_buf_drop_refs(b, 0);
    free(b->refs);
    if (!b->home)
        free(b->data);
    *b = (tp_buf){ 0 };
}

int tp_buf_add_ref(tp_buf *b, tp_ref *r)
{
    if (b->nrefs == b->refcap) {
        uint32_t cap = b->refcap ? b->refcap * 2 : 4;
        tp_ref **refs = realloc(b->refs, cap * sizeof *refs);
        if (!refs)
            return -1;
        b->refs = refs;
        b->refcap = cap;
    }
    b->refs[b->nrefs++] = r;
    return 0;
}

int tp_buf_hold_ref(tp_buf *b, tp_ref *r)
{
    if (tp_buf_add_ref(b, tp_ref_hold(r)) == 0)
        return 0;
    tp_ref_drop(r);
    return -1;
}
