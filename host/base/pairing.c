/* pairing.c: see pairing.h. */
#include "base/pairing.h"

#include <stddef.h>

/* Makes one heap of two. Neither root may be in a list. */
static tp_pairing *meld(tp_pairing *a, tp_pairing *b)
{
    if (!a || !b)
        return a ? a : b;
    if (b->key < a->key) {
        tp_pairing *other = a;
        a = b;
        b = other;
    }
    b->next = a->child;
    a->child = b;
    return a;
}

void tp_pairing_push(tp_pairing **heap, tp_pairing *node, uint64_t key)
{
    node->child = node->next = NULL;
    node->key = key;
    *heap = meld(*heap, node);
}

tp_pairing *tp_pairing_pop(tp_pairing **heap)
{
    tp_pairing *least = *heap, *pairs = NULL, *rest = NULL;
    /* Two by two from the first to the last, then all of them from the last to the first. */
    for (tp_pairing *r = least->child; r;) {
        tp_pairing *a = r, *b = r->next;
        r = b ? b->next : NULL;
        a->next = NULL;
        if (b)
            b->next = NULL;
        a = meld(a, b);
        a->next = pairs;
        pairs = a;
    }
    while (pairs) {
        tp_pairing *r = pairs;
        pairs = r->next;
        r->next = NULL;
        rest = meld(rest, r);
    }
    *heap = rest;
    least->child = least->next = NULL;
    return least;
}
