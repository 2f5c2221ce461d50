/* program_store.h: compiled programs on disk, for the next process.
 *
 * A driver runs what is read from here, and checks nothing. So a program is only taken from a
 * folder and a file that belong to this user, are no links and cannot be written by others; and
 * only when it carries a MAC, made with this user's key, over everything that the program depends
 * on. When anything is wrong, the program is compiled again; there is no error. */
#ifndef TP_PROGRAM_STORE_H
#define TP_PROGRAM_STORE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where compiled programs are stored. */
typedef struct tp_program_store {
    const char *folder;  /* for the programs; made when something is stored */
    const char *secrets; /* the folder of the key; likewise */
    uint64_t limit;      /* bytes of all programs together: those used longest ago are removed */
} tp_program_store;

typedef enum tp_program_store_status {
    TP_PROGRAM_STORE_FINE,
    TP_PROGRAM_STORE_NONE,     /* there is nothing under that name */
    TP_PROGRAM_STORE_BAD_FILE, /* there is something, but it is damaged or cannot be trusted */
    TP_PROGRAM_STORE_BAD_PLACE /* nothing can be read or written there */
} tp_program_store_status;

/* The program stored under `name`, a text with all that the program depends on: *out, to be freed,
 * and its *size. `why` is set for the two bad results. Blocks no longer than reading a file takes.
 * Any thread; other processes may read and write at the same time. */
tp_program_store_status tp_program_store_read(const tp_program_store *place, const char *name,
                                              unsigned char **out, size_t *size, tp_error *why);

/* Is there something under that name? Whether it can be used, only reading tells. As fast as asking
 * for a file. Any thread. */
bool tp_program_store_has(const tp_program_store *place, const char *name);

/* Stores the program, whole or not at all, replacing what was there. */
tp_program_store_status tp_program_store_write(const tp_program_store *place, const char *name,
                                               const void *program, size_t size, tp_error *why);

/* A text that identifies the build of this code: its linker's build ID, or "" when it has none. */
void tp_program_store_describe_build(char *text, size_t size);

#endif
