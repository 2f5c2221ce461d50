/* region.h: memory that two processes see: a memfd without a name, which only grows, and where it is mapped here.
 *
 * One of the two writes records into it and makes it larger; the other one follows. It is sealed against shrinking, so that neither can take away what the
 * other one reads (which would end it with SIGBUS), and against further seals, so that neither can keep the other one from making it larger. What there is
 * room for has its memory: where the system has none, growing says so. */
#ifndef TP_REGION_H
#define TP_REGION_H

#include "base/error.h"

#include <stddef.h>

typedef struct tp_region {
    int fd; /* owned */
    char *data;
    size_t size; /* of the mapping, in whole pages */
} tp_region;

/* A new one of at least that size, zeroed. */
int tp_region_open(tp_region *a, size_t size, tp_error *err);

/* That of the other process, by its descriptor, which is owned then. */
int tp_region_adopt(tp_region *a, int fd, tp_error *err);

/* The writer: room for at least that size. What was there stays, perhaps at another address. */
int tp_region_grow(tp_region *a, size_t size, tp_error *err);

/* The reader: at least that size is mapped, if the arena has it. -1 when it has not. */
int tp_region_follow(tp_region *a, size_t size, tp_error *err);

/* The writer: the memory behind the first `keep` bytes goes back to the system; what was written there is gone. */
void tp_region_trim(tp_region *a, size_t keep);

/* Zeroed, or closed already, it does nothing. */
void tp_region_close(tp_region *a);

#endif
