/* range_test.c: the heaps of ranges that jobs keep their inputs in. */
#include "harness.h"
#include "engine/range.h"

enum { N = 1000 };

/* A fixed pseudo-random sequence. */
static uint64_t scramble(uint64_t i)
{
    return i * 2654435761u % 1000003;
}

TEST(a_heap_gives_the_least_key_first)
{
    static tp_range ranges[N];
    tp_range *heap = NULL;
    for (int i = 0; i < N; i++)
        tp_range_push(&heap, &ranges[i], scramble((uint64_t)i));
    uint64_t last = 0;
    for (int i = 0; i < N; i++) {
        tp_range *least = heap, *r = tp_range_pop(&heap);
        CHECK(r == least);
        CHECK(r->node.key >= last);
        CHECK(!r->node.child && !r->node.next);
        last = r->node.key;
    }
    CHECK(!heap);
}

TEST(a_heap_keeps_its_order_while_ranges_come_and_go)
{
    static tp_range ranges[N];
    static bool is_in[N];
    tp_range *heap = NULL;
    for (uint64_t step = 0; step < 20 * N; step++) {
        size_t i = (size_t)(scramble(step) % N);
        if (!is_in[i]) {
            tp_range_push(&heap, &ranges[i], scramble(step + 7) % 50);
            is_in[i] = true;
            continue;
        }
        tp_range *least = tp_range_pop(&heap);
        is_in[least - ranges] = false;
        for (size_t k = 0; k < N; k++)
            CHECK(!is_in[k] || ranges[k].node.key >= least->node.key);
    }
}

TEST(ranges_in_order_cost_as_little_in_a_heap_as_in_a_list)
{
    enum { MANY = 1 << 20 };
    tp_range *ranges = calloc(MANY, sizeof *ranges), *heap = NULL;
    CHECK(ranges);
    for (uint64_t i = 0; i < MANY; i++)
        tp_range_push(&heap, &ranges[i], i);
    for (uint64_t i = 0; i < MANY; i++)
        CHECK(tp_range_pop(&heap) == &ranges[i]);
    free(ranges);
}
