/* parts_test.c: sorted lists of ranges of bytes, also where there is no memory for one more.
 *
 * The linker puts the function below in the place of realloc (see the Makefile). */
#include "harness.h"
#include "opencl/parts.h"

#include <stdint.h>

enum { N = 64 };

static int fails; /* so many calls find no memory; below 0: all */

void *__real_realloc(void *p, size_t n);
void *__wrap_realloc(void *p, size_t n);

void *__wrap_realloc(void *p, size_t n)
{
    if (fails) {
        fails -= fails > 0;
        return NULL;
    }
    return __real_realloc(p, n);
}

static bool is_in(const tp_parts *s, size_t at)
{
    tp_part found;
    bool is = tp_parts_find(s, true, at, at + 1, &found);
    CHECK(is != tp_parts_find(s, false, at, at + 1, &found));
    return is;
}

/* A fixed pseudo-random sequence. */
static uint64_t scramble(uint64_t i)
{
    return (i + 11) * 2654435761u % 1000003;
}

TEST(ranges_have_what_was_added_and_not_removed)
{
    tp_parts s = { 0 };
    bool has[N] = { 0 };
    for (uint64_t step = 0; step < 20000; step++) {
        size_t from = scramble(3 * step) % N, to = scramble(3 * step + 1) % (N + 1);
        bool adds = scramble(3 * step + 2) % 2;
        fails = scramble(step) % 5 == 0;
        bool is_done = true;
        if (adds)
            is_done = tp_parts_add(&s, from, to);
        else
            tp_parts_remove(&s, from, to);
        for (size_t i = from; is_done && i < to; i++)
            has[i] = adds;
        fails = 0;
        for (size_t i = 0; i < N; i++)
            CHECK(is_in(&s, i) == has[i]);
        for (unsigned i = 1; i < s.n; i++)
            CHECK(s.list[i - 1].to < s.list[i].from);
    }
    tp_parts_free(&s);
}

TEST(a_range_that_was_added_can_be_cut_without_memory)
{
    tp_parts s = { 0 };
    for (size_t n = 1; n < N / 4; n++) { /* ranges before */
        CHECK(tp_parts_add(&s, 4 * n, 4 * n + 3));
        fails = -1;
        tp_parts_remove(&s, 4 * n + 1, 4 * n + 2);
        CHECK(is_in(&s, 4 * n) && !is_in(&s, 4 * n + 1) && is_in(&s, 4 * n + 2));
        fails = 0;
    }
    tp_parts_free(&s);
}
