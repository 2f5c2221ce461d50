/* kept.h: compiled programs on disk, for the next process.
 *
 * What is read from there is run by a driver, which checks nothing. So it is taken only from a folder and a file that belong to this user, that nobody
 * else may write and that are no links; and only when it carries a hash that cannot be made without this user's own key, over everything the program
 * depends on. Whatever is wrong costs a compilation and no more. */
#ifndef TP_KEPT_H
#define TP_KEPT_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Where programs are kept. */
typedef struct tp_kept_place {
    const char *folder;  /* of the programs; made when something is to be kept */
    const char *secrets; /* the folder of the key; likewise */
    uint64_t limit;      /* bytes that the programs may have together: those used longest ago go */
} tp_kept_place;

typedef enum tp_kept_status {
    TP_KEPT_FINE,
    TP_KEPT_NONE,     /* there is nothing under that name */
    TP_KEPT_BAD_FILE, /* there is, but it cannot be trusted, or is not whole */
    TP_KEPT_BAD_PLACE /* nothing can be read or written there */
} tp_kept_status;

/* The program that is kept under `name`, all that it depends on (any text): *out, to be freed, and its *size. `why` is set for the two bad ones. Blocks
 * no longer than reading a file takes. Any thread; other processes may read and write at the same time. */
tp_kept_status tp_kept_read(const tp_kept_place *place, const char *name, unsigned char **out, size_t *size, tp_error *why);

/* Keeps it, whole or not at all, in the place of what was there. */
tp_kept_status tp_kept_write(const tp_kept_place *place, const char *name, const void *program, size_t size, tp_error *why);

/* Which build of this code runs, as a text: its linker's build ID, or "" where it has none. */
void tp_kept_describe_build(char *text, size_t size);

#endif
