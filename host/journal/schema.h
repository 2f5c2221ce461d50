/* schema.h: what is in the file of a journal, and of a cache. */
#ifndef TP_SCHEMA_H
#define TP_SCHEMA_H

#include "journal/sqlite.h"

/* The id of a row of `items` is the map's number, shifted by so many bits, and the input's index, from 1. */
enum { TP_INDEX_BITS = 40 };

static inline int64_t tp_item_id(int64_t map, uint64_t index)
{
    return map << TP_INDEX_BITS | (int64_t)index;
}

typedef struct tp_schema {
    const char *what; /* "journal" */
    int64_t application; /* its application_id */
    int64_t version;     /* its user_version, the only one that we can read */
    const char *prepare; /* statements for an empty file before all others */
    const char *create;  /* statements that make an empty file one */
} tp_schema;

extern const tp_schema tp_schema_journal, tp_schema_cache;

/* Is it such a file, which we can read? -1 with err set when not; *is_empty when there is nothing in it yet. */
int tp_schema_check(tp_sqlite *s, const tp_schema *schema, bool *is_empty, tp_error *err);

/* The same, for one who is going to write: makes an empty file one. */
int tp_schema_open(tp_sqlite *s, const tp_schema *schema, tp_error *err);

#endif
