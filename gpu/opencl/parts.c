/* parts.c: sorted lists of ranges of bytes. */
#include "opencl/parts.h"

#include <stdlib.h>
#include <string.h>
#include <uv.h>

/* Makes room for so many more ranges; false when out of memory. */
static bool grow(tp_parts *s, unsigned more)
{
    if (s->n + more <= s->capacity)
        return true;
    unsigned capacity = s->capacity ? 2 * s->capacity : 4;
    tp_part *list = realloc(s->list, capacity * sizeof *list);
    if (!list)
        return false;
    s->list = list;
    s->capacity = capacity;
    return true;
}

void tp_parts_free(tp_parts *s)
{
    free(s->list);
    *s = (tp_parts){ 0 };
}

bool tp_parts_add(tp_parts *s, size_t from, size_t to)
{
    if (from >= to)
        return true;
    if (!grow(s, 2)) /* one that is cut needs no memory then */
        return false;
    unsigned i = 0, k;
    while (i < s->n && s->list[i].to < from)
        i++;
    for (k = i; k < s->n && s->list[k].from <= to; k++) { /* merges the ranges that it touches */
        from = s->list[k].from < from ? s->list[k].from : from;
        to = s->list[k].to > to ? s->list[k].to : to;
    }
    memmove(s->list + i + 1, s->list + k, (s->n - k) * sizeof *s->list);
    s->list[i] = (tp_part){ from, to };
    s->n = s->n - (k - i) + 1;
    return true;
}

void tp_parts_remove(tp_parts *s, size_t from, size_t to)
{
    for (unsigned i = 0; i < s->n && from < to;) {
        tp_part *one = &s->list[i];
        if (one->to <= from || one->from >= to) {
            i++;
        } else if (one->from < from && one->to > to) {
            tp_part rest = { to, one->to };
            one->to = from;
            while (!grow(s, 1)) /* what would be lost is a user's data */
                uv_sleep(1);
            memmove(s->list + i + 2, s->list + i + 1, (s->n - i - 1) * sizeof *s->list);
            s->list[i + 1] = rest;
            s->n++;
            return;
        } else if (one->from < from) {
            one->to = from;
            i++;
        } else if (one->to > to) {
            one->from = to;
            i++;
        } else {
            memmove(one, one + 1, (s->n - i - 1) * sizeof *one);
            s->n--;
        }
    }
}

bool tp_parts_find(const tp_parts *s, bool is_in, size_t from, size_t to, tp_part *found)
{
    for (unsigned i = 0; i < s->n && from < to; i++) {
        const tp_part *one = &s->list[i];
        if (one->to <= from)
            continue;
        if (is_in) {
            *found = (tp_part){ one->from > from ? one->from : from,
                                     one->to < to ? one->to : to };
            return found->from < found->to;
        }
        if (one->from > from) {
            *found = (tp_part){ from, one->from < to ? one->from : to };
            return true;
        }
        from = one->to;
    }
    *found = (tp_part){ from, to };
    return !is_in && from < to;
}
