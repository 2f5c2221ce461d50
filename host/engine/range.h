/* range.h: consecutive inputs of a job that wait for somebody to take them, and heaps of such
 * ranges.
 *
 * A heap gives the range with the least key first: the key is the first input's index where inputs
 * are served in order, and a time where they wait for a retry. It allocates nothing but the ranges
 * themselves, so that an input can always go back. Not synchronised: the engine's files hold its
 * lock. */
#ifndef TP_RANGE_H
#define TP_RANGE_H

#include "base/pairing.h"
#include "codec/block.h"

#include <stddef.h>

/* Inputs of one block that wait to be taken, or that one slice has taken. */
typedef struct tp_range {
    tp_pairing node;       /* in a heap of ranges; the first member, so that a node is its range */
    struct tp_range *next; /* in a list of whoever has taken it out of the heap */
    tp_block *block;
    uint32_t offset, count;
    uint32_t attempt; /* from 1 */
    uint32_t crashes; /* attempts before this one that ended with their worker's process */
    /* a slice takes at most this many of them, since a larger batch with them failed or killed its
     * worker; 0: no such limit */
    uint32_t most;
    /* the site, from 1, that did not come back from them, so that their results get blocks of their
     * own (late.c); 0: none */
    int32_t lost_at;
} tp_range;

/* The index of its first input in the job, from 0. */
static inline uint64_t tp_range_first(const tp_range *r)
{
    return r->block->first + r->offset;
}

/* Puts r in the heap, whose root *heap is NULL when it is empty. */
static inline void tp_range_push(tp_range **heap, tp_range *r, uint64_t key)
{
    tp_pairing *root = *heap ? &(*heap)->node : NULL;
    tp_pairing_push(&root, &r->node, key);
    *heap = (tp_range *)root;
}

/* Takes the range with the least key, which is *heap itself, out. */
static inline tp_range *tp_range_pop(tp_range **heap)
{
    tp_pairing *root = &(*heap)->node, *least = tp_pairing_pop(&root);
    *heap = (tp_range *)root;
    return (tp_range *)least;
}

#endif
