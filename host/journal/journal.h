/* journal.h: a file in which maps keep what came of each input, so that the same program, run again, does only what is missing; and a cache, in which
 * functions find the results of inputs that anybody has given them before.
 *
 * A journal is one SQLite file (the schema is in schema.c, and in the README), for one process at a time. Results come from the threads that ran the items; they are
 * put in a queue, and a thread of the journal's own writes them, some ten times a second, in one transaction each. When the queue is full, who records
 * waits: so a slow disk holds the map back, and neither the owner nor its loop. What was recorded more than a second ago survives the end of the process,
 * however it ends; the file is never torn.
 *
 * A cache is the same, with other tables: its results are found by function and input alone, several processes may have it at once, what fails is not kept,
 * and when it is larger than its limit those go that were used longest ago.
 *
 * Bytes of the file are hostile: values are decoded as such, and code is never loaded from it. */
#ifndef TP_JOURNAL_H
#define TP_JOURNAL_H

#include "engine/job.h"
#include "journal/sqlite.h"

typedef struct tp_journal tp_journal;
typedef struct tp_journal_map tp_journal_map;

extern const tp_ref_type tp_journal_type, tp_journal_map_type;

/* Opens the file, which is made when it is not there: with cache_bytes 0 a journal, which keeps other processes from opening it; else a cache of about so
 * many bytes. One owner. -1 with err set: it is no journal, another process has it, ... */
int tp_journal_open(tp_journal **out, const char *path, uint64_t cache_bytes, tp_error *err);

/* The owner's connection, for what is asked of it now and then. The owner's thread. */
tp_sqlite *tp_journal_connection(tp_journal *journal);

/* Waits until all that was recorded is in the file. -1 with err set when something could not be written. Any thread. */
int tp_journal_flush(tp_journal *journal, tp_error *err);

/* Why an input runs, or does not. */
typedef enum tp_journal_reason {
    TP_JOURNAL_KNOWN,      /* its result is in the file */
    TP_JOURNAL_NEW,        /* it is not in the file */
    TP_JOURNAL_CHANGED,    /* the function has changed */
    TP_JOURNAL_INPUT,      /* it is another input than the one that is there */
    TP_JOURNAL_FAILED,     /* it has failed */
    TP_JOURNAL_NOT_KEPT,   /* its result cannot be kept in a file, or cannot be read */
    TP_JOURNAL_REASONS
} tp_journal_reason;

enum { TP_JOURNAL_VERSIONS = 8 }; /* of a function that are told apart in counts */

/* What was found so far. The owner's. */
typedef struct tp_journal_counts {
    uint64_t of[TP_JOURNAL_REASONS];
    struct { int64_t version; uint64_t n; } changed[TP_JOURNAL_VERSIONS]; /* CHANGED, by the version that the file has; the last takes the rest */
} tp_journal_counts;

typedef struct tp_journal_map_config {
    int64_t map, version, run; /* rows of the file; of a cache `version` is the function's, and the others are 0 */
    uint8_t function[16]; /* of a cache: the function's identity */
    bool is_cache;       /* only `version` and `function` count besides */
    bool keeps_failed;   /* failures of earlier runs are given again */
    bool only_failed;    /* what has not failed in an earlier run is passed over: a result without values (TP_BLOCK_DONE) is in its place */
    bool is_optional;    /* the map goes on when the file cannot be written any more */
    bool explains;       /* reasons are kept, for tp_journal_map_reasons */
} tp_journal_map_config;

/* One map of the journal, or a function's part of a cache: a recorder for jobs. One owner. NULL when out of memory. */
tp_journal_map *tp_journal_map_new(tp_journal *journal, const tp_journal_map_config *config);

/* As a recorder: its job holds it. */
tp_recorder *tp_journal_map_recorder(tp_journal_map *map);

/* Looks up a block of inputs that is to be pushed to the job next, and gives the results of those whose are in the file: *known is for
 * tp_job_push_known. Identities of columns are found here; those of messages are there (tags). The owner. */
int tp_journal_map_recall(tp_journal_map *map, tp_job *job, tp_block *inputs, tp_block **known, tp_error *err);

const tp_journal_counts *tp_journal_map_counts(const tp_journal_map *map);

/* The key of a result in a cache. */
void tp_cache_key(const uint8_t function[16], const uint8_t input[16], uint8_t to[16]);

/* Why a cache has not been asked any more; NULL: it has. The owner. */
const tp_error *tp_journal_map_trouble(const tp_journal_map *map);

/* What each input since the last call is done with, and why: index from 1, reason, version; *n of them. The owner; until the next call. */
typedef struct tp_journal_why {
    uint64_t index;
    int64_t version;
    tp_journal_reason reason;
} tp_journal_why;
const tp_journal_why *tp_journal_map_reasons(tp_journal_map *map, size_t *n);

#endif
