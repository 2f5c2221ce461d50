/* groups.h: results of a chunk on their way to a coordinator that wants only what a reduction makes
 * of them.
 *
 * A group is TP_GROUP results of a map, beginning at a multiple of that. Groups of which a chunk
 * has all results, and all of them numbers, become one number each, in a block of the kind
 * TP_BLOCK_PARTIALS: the same bits that lua/tidepool/engine/reduce.lua makes of them. All other
 * results go as they are: those before and behind whole groups, and those of groups in which
 * something failed or is no number, which the coordinator then says as if nothing had been
 * reduced. */
#ifndef TP_GROUPS_H
#define TP_GROUPS_H

#include "codec/block.h"

/* Zeroed: a chunk without items. Its owner's thread. */
typedef struct tp_groups {
    tp_reduction reduction;
    uint64_t base;  /* the index in its map of the chunk's first item */
    uint32_t count; /* items of the chunk, */
    uint32_t at;    /* and how many of them tp_groups_next has given */
    uint32_t plain; /* so many of the next ones go as they are */
    tp_block *first, *last; /* owned; results that wait, linked by `next`, */
    uint32_t skip;    /* without so many of the first block, which were given */
    uint32_t waiting; /* items */
    tp_block *made;   /* owned; what tp_groups_next has given last, if it is a reduction's */
} tp_groups;

void tp_groups_open(tp_groups *g, tp_reduction reduction, uint64_t base, uint32_t count);

/* Takes the results of the next b->n items. */
void tp_groups_add(tp_groups *g, tp_block *b);

/* The next results to send: *n items of *b, from *from on, which are valid until the next call.
 * False: there are none yet. `is_over`: no more will be added, so a group that is not whole does
 * not wait. */
bool tp_groups_next(tp_groups *g, bool is_over, const tp_block **b, uint32_t *from, uint32_t *n);

void tp_groups_close(tp_groups *g);

#endif
