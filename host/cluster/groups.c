/* groups.c: results of a chunk, reduced by groups. See groups.h. */
#include "cluster/groups.h"

#include "codec/message.h"

#include <math.h>
#include <string.h>

void tp_groups_open(tp_groups *g, tp_reduction reduction, uint64_t base, uint32_t count)
{
    *g = (tp_groups){ .reduction = reduction, .base = base, .count = count };
}

void tp_groups_add(tp_groups *g, tp_block *b)
{
    b->next = NULL;
    if (g->last)
        g->last->next = b;
    else
        g->first = b;
    g->last = b;
    g->waiting += b->n;
}

/* ---- a group as numbers; reduce.lua does the same in the same order ---- */

/* The first results of n items of the block from `from` on, as numbers. False: one is none. */
static bool copy_numbers(const tp_block *b, uint32_t from, uint32_t n, double *to)
{
    for (uint32_t i = 0; i < n && b->kind == TP_BLOCK_VALUES; i++) {
        size_t size, len;
        const char *text;
        const uint8_t *message = tp_block_message(b, from + i, &size);
        if (tp_message_single(message, size, &to[i], &text, &len) != T_DOUBLE)
            return false;
    }
    if (b->kind == TP_BLOCK_VALUES)
        return true;
    if (b->kind != TP_BLOCK_COLUMNS || b->columns == 0)
        return false;
    if (b->type[0] != TP_MIXED) {
        for (uint32_t i = 0; i < n; i++)
            to[i] = tp_element_load((tp_type)b->type[0], b->column[0], from + i);
        return true;
    }
    const tp_scalar *x = (const tp_scalar *)b->column[0] + from;
    for (uint32_t i = 0; i < n; i++) {
        if (x[i].kind != TP_SCALAR_NUMBER)
            return false;
        to[i] = x[i].as.number;
    }
    return true;
}

static double add_up(const double *x)
{
    double lane[TP_LANES] = { 0 };
    for (int i = 0; i < TP_GROUP; i++)
        lane[i % TP_LANES] += x[i];
    for (int apart = TP_LANES / 2; apart > 0; apart /= 2)
        for (int l = 0; l < apart; l++)
            lane[l] += lane[l + apart];
    return lane[0];
}

/* NaN wins over everything, and -0 is less than 0. */
static double least_of(const double *x)
{
    double m = INFINITY;
    for (int i = 0; i < TP_GROUP; i++)
        if (x[i] < m || x[i] != x[i] || (x[i] == 0 && m == 0 && signbit(x[i])))
            m = x[i];
    return m;
}

static double greatest_of(const double *x)
{
    double m = -INFINITY;
    for (int i = 0; i < TP_GROUP; i++)
        if (x[i] > m || x[i] != x[i] || (x[i] == 0 && m == 0 && !signbit(x[i])))
            m = x[i];
    return m;
}

/* ---- what goes next ---- */

/* The next n items were given or reduced. */
static void pass(tp_groups *g, uint32_t n)
{
    g->at += n;
    g->waiting -= n;
    g->plain -= g->plain < n ? g->plain : n;
    g->skip += n;
}

/* Frees blocks of which nothing is left. */
static void free_spent(tp_groups *g)
{
    while (g->first && g->skip >= g->first->n) {
        tp_block *b = g->first;
        g->skip -= b->n;
        g->first = b->next;
        g->last = g->first ? g->last : NULL;
        tp_block_free(b);
    }
}

/* Makes one number of the next TP_GROUP items, which wait. False: one of them is no number. */
static bool reduce(const tp_groups *g, double *to)
{
    double x[TP_GROUP];
    uint32_t from = g->skip, at = 0;
    for (const tp_block *b = g->first; at < TP_GROUP; b = b->next) {
        uint32_t n = b->n - from;
        n = n < TP_GROUP - at ? n : TP_GROUP - at;
        if (!copy_numbers(b, from, n, x + at))
            return false;
        at += n;
        from = 0;
    }
    *to = g->reduction == TP_SUM     ? add_up(x)
          : g->reduction == TP_LEAST ? least_of(x)
                                     : greatest_of(x);
    return true;
}

/* A block for as many of the next whole groups as are there and are of numbers. NULL: there is none
 * of them, or no memory. */
static tp_block *reduce_all(tp_groups *g)
{
    const uint32_t left = g->count - g->at,
                   most = (g->waiting < left ? g->waiting : left) / TP_GROUP;
    tp_block *b = most ? tp_block_new_columns(most, 1, NULL, 0) : NULL;
    uint32_t groups = 0;
    for (; b && groups < most && reduce(g, (double *)b->column[0] + groups); groups++) {
        pass(g, TP_GROUP);
        free_spent(g);
    }
    if (groups == 0) {
        tp_block_free(b);
        return NULL;
    }
    b->kind = TP_BLOCK_PARTIALS;
    b->n = groups * TP_GROUP;
    return b;
}

bool tp_groups_next(tp_groups *g, bool is_over, const tp_block **b, uint32_t *from, uint32_t *n)
{
    tp_block_free(g->made);
    g->made = NULL;
    free_spent(g);
    if (g->waiting == 0)
        return false;
    const uint32_t place = (uint32_t)((g->base + g->at) % TP_GROUP);
    if (g->reduction && g->plain == 0 && place == 0 && g->count - g->at >= TP_GROUP) {
        if (g->waiting < TP_GROUP && !is_over)
            return false;
        g->made = reduce_all(g);
        if (g->made) {
            *b = g->made;
            *from = 0;
            *n = g->made->n;
            return true;
        }
        g->plain = TP_GROUP;
    }
    const uint32_t there = g->first->n - g->skip,
                   most = !g->reduction ? there : g->plain ? g->plain : TP_GROUP - place;
    *b = g->first;
    *from = g->skip;
    *n = there < most ? there : most;
    pass(g, *n);
    return true;
}

void tp_groups_close(tp_groups *g)
{
    tp_block_free(g->made);
    tp_block_free_list(g->first);
    *g = (tp_groups){ 0 };
}
