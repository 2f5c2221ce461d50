/* stacks.h: stacks of functions, as texts, and how often each was seen. Part of the binary only. */
#ifndef TP_STACKS_H
#define TP_STACKS_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TP_STACK_TEXT = 32 << 10, /* the longest text of a stack */
    TP_STACKS_MAX = 1 << 16  /* so many different ones are told apart */
};

typedef struct tp_stack_count {
    char *text; /* NULL: this place is empty */
    size_t len;
    uint64_t count, hash;
} tp_stack_count;

/* A hash table. Zero-initialised but for the lock it is empty. */
typedef struct tp_stacks {
    pthread_mutex_t lock;
    /* ---- guarded by lock ---- */
    tp_stack_count *place; /* open addressing; `places` is a power of two, or 0 */
    size_t places, used;
    uint64_t missed; /* counts that had no room */
} tp_stacks;

/* Adds to the count of a stack. Any thread. A text with a newline in it, an empty one, or one that
 * is too long, is counted as missed; so is what there is no memory for. */
void tp_stacks_add(tp_stacks *s, const char *text, size_t len, uint64_t count);

/* Adds what lines say that tp_stacks_take has made elsewhere. Who wrote them is not trusted: other
 * lines are left out. Any thread. */
void tp_stacks_add_lines(tp_stacks *s, const char *lines, size_t len);

/* All counts as lines "TEXT COUNT\n", from malloc; *len is their length. The table is empty
 * afterwards. NULL when there are none, or no memory for them. Any thread. */
char *tp_stacks_take(tp_stacks *s, size_t *len);

#endif
