/* region.h: memory that two processes share: an unnamed memfd, which only grows, and its mapping in
 * this process.
 *
 * One process writes into it and makes it larger; the other reads and follows; or both take turns.
 * Seals keep it from shrinking, so that neither side can take away memory that the other reads (a
 * SIGBUS there), and from further seals, so that neither can keep the other from growing it. All of
 * its size is backed by memory: when the system has none, growing fails with an error. */
#ifndef TP_REGION_H
#define TP_REGION_H

#include "base/error.h"

#include <stddef.h>

typedef struct tp_region {
    int fd; /* owned */
    char *data;
    size_t size; /* of the mapping, whole pages */
} tp_region;

/* Makes a new region of at least that size, zeroed. */
int tp_region_open(tp_region *a, size_t size, tp_error *err);

/* Maps the region of the other process, by its descriptor, which this takes over. */
int tp_region_adopt(tp_region *a, int fd, tp_error *err);

/* The writer: makes it at least that large. Contents stay, but the address may change. */
int tp_region_grow(tp_region *a, size_t size, tp_error *err);

/* The reader: maps at least that size. -1 when the region is smaller. */
int tp_region_follow(tp_region *a, size_t size, tp_error *err);

/* The writer: gives the memory behind the first `keep` bytes back to the system, with its
 * contents. To use it again, let it grow. */
void tp_region_trim(tp_region *a, size_t keep);

/* Does nothing when zeroed, or closed already. */
void tp_region_close(tp_region *a);

#endif
