/* heap.c: the memory of a Lua state of ours.
 *
 * A span is memory from mmap, cut into chunks that are aligned to their size, so that a block's
 * chunk is found by its address. A chunk has blocks of one size: those that were never used lie
 * behind `fresh`, those that were given back are in a list. A chunk without any used block is free
 * for another size; spans are given back when all of their chunks are. */
#include "base/heap.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

enum {
    CHUNK = 16 << 10,
    SPAN = 512 << 10,
    /* Sizes of blocks: multiples of STEP up to FINE_MAX, then few and coarse, as each size costs
     * an idle state a chunk that is begun. Lines of text are of such sizes. */
    STEP = 16,
    FINE_MAX = 96,
    COARSE = 64,
    SMALL_MAX = 192,
    FINE_CLASSES = FINE_MAX / STEP,
    CLASSES = FINE_CLASSES + SMALL_MAX / COARSE - FINE_MAX / COARSE,
    RESERVE = 2 * CHUNK,
    /* spans without a used chunk that are kept: a collection may free most of a heap that is soon
     * as large again */
    SPANS_KEPT = 32
};

typedef struct block {
    struct block *next;
} block;

typedef struct span {
    struct span *next, *prev; /* in one of its heap's lists */
    unsigned used;            /* chunks */
    char *memory, *fresh;     /* the first chunk that was never used */
    struct chunk *free;       /* chunks that were used and are free again */
} span;

typedef struct chunk {
    /* in its heap's list of chunks with room, by size; a free chunk is in its span's list, linked
     * by `next` */
    struct chunk *next, *prev;
    span *span;
    block *given_back;
    char *fresh, *end;
    uint32_t size, used; /* bytes of a block; blocks */
    uint32_t kind;
    bool is_full;        /* all blocks are used: it is in no list */
} chunk;

struct tp_heap {
    chunk *with_room[CLASSES]; /* per size class; blocks are taken from the first chunk */
    span *spans, *full_spans; /* spans that have a free chunk, and those that have none */
    unsigned empty_spans;

    /* Memory for large blocks while a state is being opened, used when malloc has none:
     * lua_newstate crashes when it runs out of memory (it closes the state, whose table of strings
     * is not there yet). */
    /* its begin, and the part not taken yet (NULL once the state is open) */
    char *reserve, *reserve_at;
    bool is_reserve_used;
};

bool tp_heap_is_in_reach(void)
{
    /* these bytes lie on the first stack, above everything that malloc and mmap give */
    return getauxval(AT_RANDOM) >> 47 == 0;
}

static unsigned class_of(size_t size)
{
    return size <= FINE_MAX ? (unsigned)(size + STEP - 1) / STEP - 1
                            : FINE_CLASSES + (unsigned)(size - 1) / COARSE - FINE_MAX / COARSE;
}

static uint32_t size_of_class(unsigned kind)
{
    return kind < FINE_CLASSES ? (kind + 1) * STEP
                               : (FINE_MAX / COARSE + 1 + kind - FINE_CLASSES) * COARSE;
}

static void free_spans(span *s)
{
    while (s) {
        span *next = s->next;
        munmap(s->memory, SPAN);
        free(s);
        s = next;
    }
}

void tp_heap_free(tp_heap *heap)
{
    if (!heap)
        return;
    free_spans(heap->spans);
    free_spans(heap->full_spans);
    free(heap);
}

/* ---- spans ---- */

static bool has_chunk(const span *s)
{
    return s->free || s->fresh + CHUNK <= s->memory + SPAN;
}

static void unlink_span(span **list, span *s)
{
    if (s->prev)
        s->prev->next = s->next;
    else
        *list = s->next;
    if (s->next)
        s->next->prev = s->prev;
}

static void link_span(span **list, span *s)
{
    s->prev = NULL;
    s->next = *list;
    if (s->next)
        s->next->prev = s;
    *list = s;
}

static span *add_span(tp_heap *heap)
{
    char *memory = mmap(NULL, SPAN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    span *s = malloc(sizeof *s);
    if (!s) {
        munmap(memory, SPAN);
        return NULL;
    }
    *s = (span){ .memory = memory,
                 .fresh = (char *)(((uintptr_t)memory + CHUNK - 1) & ~(uintptr_t)(CHUNK - 1)) };
    link_span(&heap->spans, s);
    heap->empty_spans++;
    return s;
}

tp_heap *tp_heap_new(void)
{
    tp_heap *heap = calloc(1, sizeof *heap);
    span *first = heap ? add_span(heap) : NULL;
    if (!first) {
        free(heap);
        return NULL;
    }
    heap->reserve = heap->reserve_at = first->fresh;
    first->fresh += RESERVE;
    return heap;
}

bool tp_heap_prepare(tp_heap *heap)
{
    if (!heap)
        return true;
    const span *s = heap->spans;
    /* room for a new chunk of each size class */
    bool has_chunks = s && s->fresh + CLASSES * CHUNK <= s->memory + SPAN;
    if (heap->is_reserve_used || (!has_chunks && !add_span(heap)))
        return false;
    heap->reserve_at = heap->reserve;
    return true;
}

void tp_heap_seal(tp_heap *heap)
{
    if (!heap)
        return;
    heap->is_reserve_used = heap->is_reserve_used || heap->reserve_at != heap->reserve;
    heap->reserve_at = NULL;
}

/* ---- chunks ---- */

static void unlink_chunk(tp_heap *heap, chunk *c)
{
    if (c->prev)
        c->prev->next = c->next;
    else
        heap->with_room[c->kind] = c->next;
    if (c->next)
        c->next->prev = c->prev;
}

static void link_chunk(tp_heap *heap, chunk *c)
{
    c->prev = NULL;
    c->next = heap->with_room[c->kind];
    if (c->next)
        c->next->prev = c;
    heap->with_room[c->kind] = c;
}

/* A chunk for blocks of a class that has no chunk with room; NULL when out of memory. */
static chunk *take_chunk(tp_heap *heap, unsigned kind)
{
    span *s = heap->spans;
    /* a second try, as in `resize`; no span is spare here, or there would be a span in the list */
    for (int i = 0; i < 2 && !s; i++)
        s = add_span(heap);
    if (!s)
        return NULL;
    chunk *c = s->free;
    if (c) {
        s->free = c->next;
    } else {
        c = (chunk *)s->fresh;
        s->fresh += CHUNK;
    }
    if (s->used++ == 0)
        heap->empty_spans--;
    if (!has_chunk(s)) {
        unlink_span(&heap->spans, s);
        link_span(&heap->full_spans, s);
    }
    *c = (chunk){ .span = s, .size = size_of_class(kind), .kind = kind, .end = (char *)c + CHUNK };
    c->fresh = (char *)c + ((sizeof *c + STEP - 1) & ~(size_t)(STEP - 1));
    link_chunk(heap, c);
    return c;
}

/* Frees the chunk, which has no used block any more. */
static void drop_chunk(tp_heap *heap, chunk *c)
{
    span *s = c->span;
    unlink_chunk(heap, c);
    if (!has_chunk(s)) {
        unlink_span(&heap->full_spans, s);
        link_span(&heap->spans, s);
    }
    c->next = s->free;
    s->free = c;
    if (--s->used > 0)
        return;
    if (heap->empty_spans < SPANS_KEPT) {
        heap->empty_spans++;
        return;
    }
    unlink_span(&heap->spans, s);
    munmap(s->memory, SPAN);
    free(s);
}

/* ---- blocks ---- */

static bool is_in_reserve(const tp_heap *heap, const void *p)
{
    return (uintptr_t)p - (uintptr_t)heap->reserve < RESERVE;
}

static void *take(tp_heap *heap, size_t size)
{
    unsigned kind = class_of(size);
    chunk *c = heap->with_room[kind];
    if (!c && !(c = take_chunk(heap, kind)))
        return NULL;
    block *b = c->given_back;
    if (b) {
        c->given_back = b->next;
    } else {
        b = (block *)c->fresh;
        c->fresh += c->size;
    }
    c->used++;
    if (!c->given_back && c->fresh + c->size > c->end) {
        unlink_chunk(heap, c);
        c->is_full = true;
    }
    return b;
}

static void give_back(tp_heap *heap, void *p)
{
    chunk *c = (chunk *)((uintptr_t)p & ~(uintptr_t)(CHUNK - 1));
    block *b = p;
    b->next = c->given_back;
    c->given_back = b;
    c->used--;
    if (c->is_full) {
        c->is_full = false;
        link_chunk(heap, c);
    }
    /* a class's last chunk with room is kept: it would be taken again soon */
    if (c->used == 0 && (c->next || c->prev))
        drop_chunk(heap, c);
}

static bool is_in_span(const span *s, const void *p)
{
    return (uintptr_t)p - (uintptr_t)s->memory < SPAN;
}

/* malloc has no memory: gives the spans without a used chunk back to the system. */
static void give_up_spare(tp_heap *heap)
{
    for (span *s = heap->spans, *next; s; s = next) {
        next = s->next;
        if (s->used > 0 || is_in_span(s, heap->reserve))
            continue;
        unlink_span(&heap->spans, s);
        munmap(s->memory, SPAN);
        free(s);
        heap->empty_spans--;
    }
}

/* realloc, with a second try after spare spans have been given back. LuaJIT crashes when a table
 * that grows in compiled code gets no memory (lj_err_mem reads a frame that compiled code has not
 * written), so everything is tried before NULL is returned. */
static void *resize(tp_heap *heap, void *p, size_t size)
{
    void *to = realloc(p, size);
    if (to)
        return to;
    /* while the state is being opened, the spare spans are set aside for it */
    if (!heap->reserve_at)
        give_up_spare(heap);
    return realloc(p, size);
}

static void *take_large(tp_heap *heap, size_t size)
{
    void *p = resize(heap, NULL, size);
    char *at = heap->reserve_at;
    if (p || !at || size > RESERVE || at + size > heap->reserve + RESERVE)
        return p;
    heap->reserve_at = at + ((size + STEP - 1) & ~(size_t)(STEP - 1));
    return at;
}

static void free_large(const tp_heap *heap, void *p)
{
    if (!is_in_reserve(heap, p))
        free(p);
}

void *tp_heap_allocate(void *user, void *p, size_t old, size_t size)
{
    tp_heap *heap = user;
    bool was_small = p && old <= SMALL_MAX, is_small = size <= SMALL_MAX;
    if (size == 0) {
        if (was_small)
            give_back(heap, p);
        else
            free_large(heap, p);
        return NULL;
    }
    if (!p)
        return is_small ? take(heap, size) : take_large(heap, size);
    if (!was_small && !is_small && !is_in_reserve(heap, p))
        return resize(heap, p, size);
    if (was_small && is_small && class_of(old) == class_of(size))
        return p;
    void *to = is_small ? take(heap, size) : take_large(heap, size);
    if (!to)
        /* shrinking cannot fail: the block stays in its larger chunk, which knows its size */
        return was_small && size < old ? p : NULL;
    memcpy(to, p, old < size ? old : size);
    if (was_small)
        give_back(heap, p);
    else
        free_large(heap, p);
    return to;
}
