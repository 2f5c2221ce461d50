/* held.c: strings that stay in a worker process's memory. See held.h. */
#include "wire/held.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
    WINDOW_BYTES = 64 << 20, /* strings that lie behind this offset are copied */
    LEAST_ROOM = 1 << 20     /* bytes: a smaller gap between held strings is not used for records */
};

typedef struct tp_wire_window {
    tp_ref ref;
    char *data;
} window;

/* A record that must not be overwritten. Its owners are the supervisor, which so knows where it
 * lies, and the block that points to its string, until that was read. */
typedef struct tp_wire_piece {
    tp_ref ref;
    window *in; /* owned */
    uint64_t from, until;
} piece;

static void free_window(tp_ref *r)
{
    window *w = (window *)r;
    munmap(w->data, WINDOW_BYTES);
    free(w);
}

static void free_piece(tp_ref *r)
{
    tp_ref_drop(((piece *)r)->in);
    free(r);
}

static const tp_ref_type window_type = { "tidepool.window", free_window };
static const tp_ref_type piece_type = { "tidepool.piece", free_piece };

/* Most of the window lies behind the end of the memory, until that grows. */
static window *open_window(int fd)
{
    window *w = malloc(sizeof *w);
    if (!w)
        return NULL;
    void *data = mmap(NULL, WINDOW_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    if (data == MAP_FAILED) {
        free(w);
        return NULL;
    }
    tp_ref_init(&w->ref, &window_type);
    w->data = data;
    return w;
}

/* Forgets the pieces whose strings were read. */
static void sweep(tp_wire_held *h)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < h->n; i++) {
        piece *p = h->piece[i];
        /* acquires: whoever has dropped it has read the string before */
        if (atomic_load_explicit(&p->ref.owners, memory_order_acquire) == 1)
            tp_ref_drop(p);
        else
            h->piece[n++] = p;
    }
    h->n = n;
}

static piece *new_piece(tp_wire_held *h, uint64_t from, uint64_t until)
{
    if (!h->window)
        h->window = open_window(h->fd);
    piece *p = h->window ? malloc(sizeof *p) : NULL;
    if (!p)
        return NULL;
    tp_ref_init(&p->ref, &piece_type);
    p->in = tp_ref_hold(h->window);
    p->from = from;
    p->until = until;
    return p;
}

tp_block *tp_wire_hold(tp_wire_held *h, uint64_t from, uint64_t until, uint64_t at, uint32_t len)
{
    if (h->n == TP_WIRE_HELD_MAX)
        sweep(h);
    if (h->n == TP_WIRE_HELD_MAX || until > WINDOW_BYTES)
        return NULL;
    piece *p = new_piece(h, from, until);
    tp_block *b = p ? tp_block_new_columns(1, 1, (const uint8_t[]){ TP_MIXED }, 0) : NULL;
    if (!b || tp_block_own(b, &p->ref)) {
        tp_block_free(b);
        tp_ref_drop(p);
        return NULL;
    }
    h->piece[h->n++] = p;
    *(tp_scalar *)b->column[0] = (tp_scalar){ .as.pinned = p->in->data + at,
                                              .kind = TP_SCALAR_SHARED,
                                              .pinned_length = len };
    b->n = 1;
    b->held = until - from;
    return b;
}

tp_wire_room tp_wire_find_room(tp_wire_held *h, uint64_t begin, bool is_endless)
{
    uint64_t lowest = UINT64_MAX, highest = 0;
    sweep(h);
    for (uint32_t i = 0; i < h->n; i++) {
        const piece *p = h->piece[i];
        lowest = p->from < lowest ? p->from : lowest;
        highest = p->until > highest ? p->until : highest;
    }
    if (h->n == 0)
        return (tp_wire_room){ .from = begin };
    if (!is_endless && lowest >= begin + LEAST_ROOM)
        return (tp_wire_room){ begin, lowest, highest };
    return (tp_wire_room){ highest, 0, highest };
}

void tp_wire_held_close(tp_wire_held *h)
{
    for (uint32_t i = 0; i < h->n; i++)
        tp_ref_drop(h->piece[i]);
    tp_ref_drop(h->window);
    *h = (tp_wire_held){ 0 };
}
