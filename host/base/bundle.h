/* bundle.h: Lua modules as bytes: those of a script's own files, for workers on other machines.
 *
 * A bundle is a sequence of entries: the length of the name and of the path (each with its NUL),
 * the size of the source, then name, path and source themselves. It only grows, so of two copies of
 * one bundle the longer has all that the shorter has. */
#ifndef TP_BUNDLE_H
#define TP_BUNDLE_H

#include "base/buf.h"

#include <stdbool.h>
#include <uv.h>

typedef struct tp_bundle {
    uv_mutex_t lock;
    tp_buf bytes; /* guarded by the lock */
} tp_bundle;

int tp_bundle_open(tp_bundle *b); /* -1: there is no lock to be had */
void tp_bundle_close(tp_bundle *b);

/* Adds a module, whose file is at `path`. -1 out of memory. Any thread, as the next one. */
int tp_bundle_add(tp_bundle *b, const char *name, const char *path, const char *source,
                  size_t size);

/* When the bundle is longer than `len` bytes: puts a copy of it into `out` and returns 1. 0: it is
 * not longer; -1: out of memory. Any thread. */
int tp_bundle_copy(tp_bundle *b, size_t len, tp_buf *out);

/* Finds a module in the bytes of a bundle. The bytes may be hostile: each length in them is
 * checked. Any thread. */
bool tp_bundle_find(const char *bytes, size_t len, const char *name, const char **path,
                    const char **source, size_t *size);

#endif
