/* program_store.h: compiled programs on disk, for the next process.
 *
 * What is read from there is run by a driver, which checks nothing. So it is taken only from a folder and a file that belong to this user, that nobody
 * else may write and that are no links; and only when it carries a hash that cannot be made without this user's own key, over everything the program
 * depends on. Whatever is wrong costs a compilation and no more. */
#ifndef TP_PROGRAM_STORE_H
#define TP_PROGRAM_STORE_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Where programs are kept. */
typedef struct tp_program_store {
    const char *folder;  /* of the programs; made when something is to be kept */
    const char *secrets; /* the folder of the key; likewise */
    uint64_t limit;      /* bytes that the programs may have together: those used longest ago go */
} tp_program_store;

typedef enum tp_program_store_status {
    TP_PROGRAM_STORE_FINE,
    TP_PROGRAM_STORE_NONE,     /* there is nothing under that name */
    TP_PROGRAM_STORE_BAD_FILE, /* there is, but it cannot be trusted, or is not whole */
    TP_PROGRAM_STORE_BAD_PLACE /* nothing can be read or written there */
} tp_program_store_status;

/* The program that is kept under `name`, all that it depends on (any text): *out, to be freed, and its *size. `why` is set for the two bad ones. Blocks
 * no longer than reading a file takes. Any thread; other processes may read and write at the same time. */
tp_program_store_status tp_program_store_read(const tp_program_store *place, const char *name, unsigned char **out, size_t *size, tp_error *why);

/* Keeps it, whole or not at all, in the place of what was there. */
tp_program_store_status tp_program_store_write(const tp_program_store *place, const char *name, const void *program, size_t size, tp_error *why);

/* Which build of this code runs, as a text: its linker's build ID, or "" where it has none. */
void tp_program_store_describe_build(char *text, size_t size);

#endif
