/* pairing.h: a priority queue whose nodes are members of what is queued, so that queuing allocates
 * nothing and cannot fail: a pairing heap (Fredman, Sedgewick, Sleator, Tarjan 1986). Nodes that
 * come in order cost as little as in a list. Not synchronised. */
#ifndef TP_PAIRING_H
#define TP_PAIRING_H

#include <stdint.h>

typedef struct tp_pairing {
    struct tp_pairing *child, *next; /* in a heap: its first child, its next sibling; else NULL */
    uint64_t key;                    /* what orders the heap */
} tp_pairing;

/* Puts the node in the heap, whose root *heap is NULL when it is empty. In constant time. */
void tp_pairing_push(tp_pairing **heap, tp_pairing *node, uint64_t key);

/* Takes the node with the least key, which is *heap itself, out. In logarithmic time, over many
 * calls. */
tp_pairing *tp_pairing_pop(tp_pairing **heap);

#endif
