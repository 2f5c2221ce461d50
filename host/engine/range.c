/* range.c: a pairing heap of ranges (Fredman, Sedgewick, Sleator, Tarjan 1986). Inputs mostly come
 * in order, and then it costs as little as a list. */
#include "engine/range.h"

#include <stddef.h>

/* Makes one heap of two. Neither root may be in a list. */
static tp_range *meld(tp_range *a, tp_range *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->key < a->key) {
        tp_range *other = a;
        a = b;
        b = other;
    }
    b->next = a->child;
    a->child = b;
    return a;
}

void tp_range_push(tp_range **heap, tp_range *r, uint64_t key)
{
    r->child = r->next = NULL;
    r->key = key;
    *heap = meld(*heap, r);
}

tp_range *tp_range_pop(tp_range **heap)
{
    tp_range *least = *heap, *pairs = NULL, *rest = NULL;
    /* Two by two from the first to the last, then all of them from the last to the first. */
    for (tp_range *r = least->child; r;) {
        tp_range *a = r, *b = r->next;
        r = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        tp_range *r = pairs;
        pairs = r->next;
        r->next = NULL;
        rest = meld(rest, r);
    }
    *heap = rest;
    least->child = least->next = NULL;
    return least;
}
