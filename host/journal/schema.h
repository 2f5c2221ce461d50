/* schema.h: the tables of a journal's file, and of a cache's. */
#ifndef TP_SCHEMA_H
#define TP_SCHEMA_H

#include "journal/sqlite.h"

/* The id of a row of `items`: the map's number shifted left by this, plus the input's index from
 * 1. */
enum { TP_INDEX_BITS = 40 };

static inline int64_t tp_item_id(int64_t map, uint64_t index)
{
    return map << TP_INDEX_BITS | (int64_t)index;
}

typedef struct tp_schema {
    const char *what; /* "journal" */
    int64_t application; /* its application_id */
    int64_t version;     /* its user_version; other versions cannot be read */
    const char *prepare; /* statements that an empty file needs first */
    const char *create;  /* statements that then make it such a file */
    const char *add;     /* statements that add what an older file does not have */
} tp_schema;

extern const tp_schema tp_schema_journal, tp_schema_cache;

/* Is it such a file, of a version that we can read? -1 with err set when not; *is_empty when there
 * is nothing in it yet. */
int tp_schema_check(tp_sqlite *s, const tp_schema *schema, bool *is_empty, tp_error *err);

/* The same before writing: an empty file is made one. */
int tp_schema_open(tp_sqlite *s, const tp_schema *schema, tp_error *err);

#endif
