/* work.c: collects results in a tp_work before its sink gets them. See work.h. */
#include "engine/work.h"

#include "base/invariant.h"

#include <sched.h>
#include <string.h>

tp_block *tp_returns_block(const tp_returns *returns, uint64_t first, uint32_t n)
{
    tp_block *b = tp_block_new_borrowed(first, n, returns->columns);
    for (uint32_t c = 0; b && c < b->columns; c++) {
        b->type[c] = returns->type[c];
        b->column[c] = (char *)returns->array[c]->data + first * tp_type_size((tp_type)b->type[c]);
    }
    return b;
}

void tp_work_open(tp_work *w, tp_worker *worker, const tp_sink *sink, const tp_terms *terms,
                  tp_block *block, uint32_t offset, uint32_t count, uint32_t attempt)
{
    *w = (tp_work){ .worker = worker,
                    .sink = sink,
                    .terms = terms,
                    .block = block,
                    .offset = offset,
                    .count = count,
                    .attempt = attempt,
                    .at = offset,
                    .told_at = TP_WORK_UNTOLD,
                    .outer = worker->current,
                    .lines = w->lines };
    tp_draws_open(&w->draws, terms->draws, terms->base + block->first);
    atomic_init(&w->ctl[0], (int32_t)offset);
    worker->current = w;
}

void tp_work_flush(tp_work *w)
{
    tp_block *b = w->values;
    if (!b)
        return;
    w->values = NULL;
    if (b->kind == TP_BLOCK_VALUES)
        b->bytes.len = b->n ? b->ends[b->n - 1] : 0;
    if (b->n > 0)
        w->sink->append(w, b);
    else
        tp_block_free(b);
}

void tp_work_open_values(tp_work *w, tp_block *b)
{
    tp_work_flush(w);
    b->first = w->block->first + w->at;
    b->next = NULL;
    w->values = b;
}

void tp_work_append(tp_work *w, tp_block *b, uint32_t offset)
{
    TP_ASSERT(offset >= w->offset && offset + (b->n ? b->n : 1) <= tp_work_end(w));
    tp_work_flush(w);
    b->first = w->block->first + offset;
    b->next = NULL;
    w->sink->append(w, b);
}

void tp_work_close_numbers(tp_work *w, uint32_t until)
{
    tp_block *b = w->numbers;
    TP_ASSERT(b && until >= w->numbers_at && until <= tp_work_end(w));
    w->numbers = NULL;
    w->at = until;
    b->n = until - w->numbers_at;
    for (uint32_t c = 0; c < b->columns; c++)
        b->column[c] = (char *)b->column[c] + w->numbers_given * tp_block_element_size(b->type[c]);
    w->numbers_given = 0;
    if (b->n == 0)
        tp_block_free(b);
    else
        tp_work_append(w, b, w->numbers_at);
}

/* A copy of the next n items of `numbers`; NULL when out of memory. */
static tp_block *copy_numbers(const tp_work *w, uint32_t n)
{
    const tp_block *from = w->numbers;
    const tp_returns *returns = &w->terms->returns;
    if (from->kind == TP_BLOCK_DONE)
        return tp_block_new_empty(TP_BLOCK_DONE, 0, n);
    if (returns->columns && returns->array[0])
        return tp_returns_block(returns, w->block->first + w->numbers_at, n);
    /* read once: the item may end at any time, and its strings are added behind those of the
     * others */
    uint32_t text = __atomic_load_n(&from->text.used, __ATOMIC_RELAXED);
    tp_block *b = tp_block_new_columns(n, from->columns, from->type, text);
    if (!b)
        return NULL;
    for (uint32_t c = 0; c < b->columns; c++) {
        size_t size = tp_block_element_size(b->type[c]);
        memcpy(b->column[c], (const char *)from->column[c] + w->numbers_given * size, n * size);
    }
    memcpy(b->text.bytes, from->text.bytes, text);
    b->text.used = text;
    b->n = n;
    return b;
}

void tp_work_collect(tp_work *w, uint32_t running)
{
    TP_ASSERT(running <= tp_work_end(w));
    tp_work_flush(w);
    if (!w->numbers || running <= w->numbers_at)
        return;
    uint32_t at = w->numbers_at, n = running - at;
    tp_block *b = copy_numbers(w, n);
    if (!b)
        return;
    w->numbers_at += n;
    w->numbers_given += n;
    tp_work_append(w, b, at);
}

void tp_work_cover(tp_work *w)
{
    if (!w->is_exposed)
        return;
    w->is_exposed = false;
    uint32_t exposed = TP_WORK_EXPOSED;
    while (!atomic_compare_exchange_weak_explicit(&w->access, &exposed, TP_WORK_COVERED,
                                                  memory_order_acquire, memory_order_relaxed)) {
        exposed = TP_WORK_EXPOSED;
        sched_yield();
    }
}

void tp_work_fail(tp_work *w, tp_block *failure)
{
    if (!failure) {
        w->sink->starve(w);
        return;
    }
    tp_work_append(w, failure, w->at);
    w->at++;
}

void tp_work_pass_failure(tp_work *w)
{
    tp_work_fail(w, tp_block_copy_failure(w->block));
}

bool tp_work_tear(tp_work *w, uint32_t end)
{
    w->is_torn = w->terms->batch && w->terms->splits && end - w->at > 1;
    return w->is_torn;
}

bool tp_work_recover(tp_work *w)
{
    if (w->numbers)
        tp_work_close_numbers(w, (uint32_t)tp_work_running(w));
    tp_work_flush(w);
    return w->at < tp_work_end(w);
}

void tp_work_leave(tp_work *w)
{
    TP_ASSERT(w->worker->current == w);
    w->worker->current = w->outer;
    tp_worker_show(w->worker);
}

void tp_work_enter(tp_work *w)
{
    TP_ASSERT(w->worker->current != w);
    w->outer = w->worker->current;
    w->worker->current = w;
    tp_worker_show(w->worker);
}

void tp_work_close(tp_work *w)
{
    TP_ASSERT(w->worker->current == w && !w->numbers);
    tp_work_flush(w);
    w->worker->current = w->outer;
    tp_worker_show(w->worker);
}
