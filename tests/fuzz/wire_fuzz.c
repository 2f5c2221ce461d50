/* wire_fuzz.c: what a hostile worker process may write where its records lie (libFuzzer).
 *
 * The first byte says what kind of job it is, and whether strings may stay where they are; the next
 * one which item it says that it runs; the rest are the records. Whatever they are, the results
 * that the sink is given are of the items from the first on, each once. `make fuzz` builds and runs
 * it. */
#include "wire/frame.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

enum { ITEMS = 64, FIRST = 500 };

typedef struct bench {
    tp_work work; /* first member */
    uint64_t next;
} bench;

static void append(tp_work *w, tp_block *b)
{
    bench *of = (bench *)w;
    if (b->n == 0 || b->first != of->next)
        abort();
    of->next += b->n;
    for (uint32_t k = 0; b->ends && k < b->n; k++) {
        size_t size;
        const uint8_t *message = tp_block_message(b, k, &size);
        uint8_t sum = 0;
        for (size_t i = 0; i < size; i++)
            sum ^= message[i];
        if (sum == 1 && size > b->bytes.len)
            abort();
    }
    const tp_scalar *x = b->held ? b->column[0] : NULL;
    uint8_t sum = 0;
    for (uint32_t i = 0; x && i < x->pinned_length; i++)
        sum ^= (uint8_t)x->as.pinned[i];
    if (x && (x->kind != TP_SCALAR_SHARED || (sum == 1 && x->pinned_length > b->held)))
        abort();
    tp_block_free(b);
}

static const tp_sink sink = { .append = append };

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len < 2)
        return 0;
    bench b = { .next = FIRST };
    tp_worker worker = { 0 };
    tp_wire_given given = { 0 };
    tp_error err = { 0 };
    tp_block inputs = { .n = ITEMS, .first = FIRST };
    tp_terms terms = { .name = "f", .discards = bytes[0] % 4 == 1 };
    if (bytes[0] % 4 >= 2)
        terms.returns = (tp_returns){ .columns = 2, .type = { TP_DOUBLE, TP_INT16 } };
    double results[FIRST + ITEMS];
    tp_array arrays[2] = { { .data = results }, { .data = results } };
    bool in_place = bytes[0] % 4 == 3;
    for (int c = 0; in_place && c < 2; c++)
        terms.returns.array[c] = &arrays[c];
    tp_work_open(&b.work, &worker, &sink, &terms, &inputs, 0, ITEMS, 1);
    size_t size = (len - 2) & ~(size_t)7;
    static tp_region region; /* made once: that takes longer than all else */
    if (!region.data ? tp_region_open(&region, size + 1, &err)
                     : tp_region_grow(&region, size, &err))
        abort();
    tp_wire_held held = { .fd = region.fd, .least = 1 };
    bool holds = bytes[0] / 4 % 2;
    char *memory = malloc(size + 1), *out = holds ? region.data : memory;
    memcpy(out, bytes + 2, size);
    tp_wire_reader r = { .base = out, .size = size, .count = ITEMS, .in_place = in_place,
                         .given = &given, .held = holds ? &held : NULL };
    if (tp_wire_read(&r, &b.work, 0, size / 2 & ~(size_t)7, &err))
        tp_wire_read_open(&r, &b.work, size / 2 & ~(size_t)7, bytes[1], &err);
    if (b.work.at > ITEMS || b.next != FIRST + b.work.at)
        abort();
    tp_work_close(&b.work);
    free(memory);
    tp_wire_held_close(&held);
    return 0;
}
