/* buf.h: bytes that grow, and the host objects that they refer to. */
#ifndef TP_BUF_H
#define TP_BUF_H

#include "base/ref.h"

#include <stddef.h>
#include <stdint.h>

/* Memory for a buffer's bytes that is not malloc's. */
typedef struct tp_buf_home {
    /* Makes room for *cap bytes, of which the first `len` are the buffer's present ones; says in
     * *cap for how many it is. Gives where they are now, or NULL when out of memory. */
    uint8_t *(*grow)(struct tp_buf_home *home, size_t len, size_t *cap);
} tp_buf_home;

/* A message, or several one after the other. Zero-initialised is empty. Not shared between threads
 * while it grows. */
typedef struct tp_buf {
    uint8_t *data;
    size_t len, cap;
    tp_ref **refs; /* each holds one reference */
    uint32_t nrefs, refcap;
    tp_buf_home *home; /* whose memory `data` is; NULL: malloc's */
} tp_buf;

/* Makes room for n more bytes; returns where they go (not yet counted in len), or NULL when out of
 * memory. */
uint8_t *tp_buf_reserve(tp_buf *b, size_t n);

/* Appends n bytes; -1 when out of memory. */
int tp_buf_add(tp_buf *b, const void *bytes, size_t n);
void tp_buf_clear(tp_buf *b); /* empty again, memory kept, references dropped */
void tp_buf_free(tp_buf *b);  /* memory and references released; b is empty and usable */

/* Appends r and takes over the caller's reference to it; -1 when out of memory, with the reference
 * still the caller's. */
int tp_buf_add_ref(tp_buf *b, tp_ref *r);

/* The same, but adds a reference of its own: the caller keeps his. */
int tp_buf_hold_ref(tp_buf *b, tp_ref *r);

/* Drops all references but the first `keep`. */
void tp_buf_drop_refs(tp_buf *b, uint32_t keep);

#endif
