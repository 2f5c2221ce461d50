/* journal.h: journals and caches. A journal is a file in which maps record the result of each
 * input, so that the same program, run again, does only what is missing. In a cache functions find
 * the results of inputs that any program has given them before.
 *
 * A journal is one SQLite file (the schema: schema.c, and docs/journal.md), for one process at a
 * time. Results come from the threads that ran the items: they are put in a queue, and a thread of
 * the journal's own writes them some ten times a second, in one transaction each. When the queue is
 * full, recording waits: so a slow disk holds the map back, but neither its owner nor the loop.
 * What was recorded more than a second ago survives the end of the process, however it ends; the
 * file is never torn.
 *
 * A cache is the same with other tables: results are found by function and input alone, several
 * processes may use it at once, failures are not kept, and when it is larger than its limit the
 * results that were used longest ago are removed.
 *
 * Bytes of the file are hostile: values are decoded as such, and code is never loaded from it. */
#ifndef TP_JOURNAL_H
#define TP_JOURNAL_H

#include "engine/job.h"
#include "journal/sqlite.h"

typedef struct tp_journal tp_journal;
typedef struct tp_journal_map tp_journal_map;

extern const tp_ref_type tp_journal_type, tp_journal_map_type;

/* Opens the file, and makes it when it is missing. cache_bytes 0: a journal, which other processes
 * cannot open meanwhile; else a cache of about that many bytes. One owner, and one user. -1 with
 * err set: it is no journal, another process has it, ... */
int tp_journal_open(tp_journal **out, const char *path, uint64_t cache_bytes, tp_error *err);

/* A journal counts its users: whoever has opened it, and each of its maps, from tp_journal_map_new
 * until the map is freed. (That may happen on a worker's thread, since an item may still run when
 * its map is given up.) When the last user leaves, the file is closed, and free for other
 * processes; then only tp_journal_enter may be called. Enter: one more user; false, with the file
 * closed, when it has none any more. Leave: any thread that uses it. */
bool tp_journal_enter(tp_journal *journal);
void tp_journal_leave(tp_journal *journal);

/* The SQLite connection for queries on the owner's thread. Owner. */
tp_sqlite *tp_journal_connection(tp_journal *journal);

/* Records results of a map that were found elsewhere: those of items whose process is dead. `items`
 * has their indexes and identities, and no values; what the file has of them already stays. The
 * owner. */
int tp_journal_restore(tp_journal *journal, int64_t map, int64_t version, int64_t run,
                       const tp_block *items, const tp_block *results, tp_error *err);

/* Waits until everything recorded so far is in the file. -1 with err set when something could not
 * be written meanwhile: maps that have lost results then are told when they record the next ones.
 * Any thread. */
int tp_journal_flush(tp_journal *journal, tp_error *err);

/* Why an input is run, or need not be. */
typedef enum tp_journal_reason {
    TP_JOURNAL_KNOWN,      /* its result is in the file */
    TP_JOURNAL_NEW,        /* it is not in the file */
    TP_JOURNAL_CHANGED,    /* the function has changed */
    TP_JOURNAL_INPUT,      /* the file has another input at this index */
    TP_JOURNAL_FAILED,     /* it failed in an earlier run */
    TP_JOURNAL_NOT_KEPT,   /* its result cannot be kept in a file, or cannot be read */
    TP_JOURNAL_REASONS
} tp_journal_reason;

enum { TP_JOURNAL_VERSIONS = 8 }; /* versions of a function that counts tell apart */

/* What was found so far. The owner's. */
typedef struct tp_journal_counts {
    uint64_t of[TP_JOURNAL_REASONS];
    /* CHANGED, by the version in the file; the last entry has all others */
    struct { int64_t version; uint64_t n; } changed[TP_JOURNAL_VERSIONS];
} tp_journal_counts;

typedef struct tp_journal_map_config {
    /* rows of the file; in a cache `version` is the function's row, and the others are 0 */
    int64_t map, version, run;
    uint8_t function[16]; /* of a cache: the function's identity */
    bool is_cache;       /* then only `version` and `function` matter of all these */
    bool keeps_failed;   /* failures of earlier runs are handed out again */
    /* only inputs that failed in an earlier run are run; the others get a result without values
     * (TP_BLOCK_DONE) */
    bool only_failed;
    bool is_optional;    /* the map goes on when the file cannot be written any more */
    bool explains;       /* reasons are kept, for tp_journal_map_reasons */
} tp_journal_map_config;

/* A map of a journal, or a function's part of a cache; a recorder for jobs. One owner. The caller
 * uses the journal, and so does the map from here on. NULL when out of memory. */
tp_journal_map *tp_journal_map_new(tp_journal *journal, const tp_journal_map_config *config);

/* The same as a recorder, for its job to hold. */
tp_recorder *tp_journal_map_recorder(tp_journal_map *map);

/* Looks up a block of inputs that is about to be pushed to the job. Of those that are in the file,
 * the results are given in *known, for tp_job_push_known. Finds the identities of columns; those of
 * messages must be there already (tags). The owner. */
int tp_journal_map_recall(tp_journal_map *map, tp_job *job, tp_block *inputs, tp_block **known,
                          tp_error *err);

const tp_journal_counts *tp_journal_map_counts(const tp_journal_map *map);

/* Computes the key under which a cache keeps a result: from the function's identity and the
 * input's. */
void tp_cache_key(const uint8_t function[16], const uint8_t input[16], uint8_t to[16]);

/* As tp_journal_flush, and -1 also when something could not be written since the map began. */
int tp_journal_map_flush(tp_journal_map *map, tp_error *err);

/* Why the cache is not asked any more; NULL: it still is. The owner. */
const tp_error *tp_journal_map_trouble(const tp_journal_map *map);

/* What was decided for each input since the last call, and why: index from 1, reason, version; *n
 * of them. Valid until the next call. The owner. */
typedef struct tp_journal_why {
    uint64_t index;
    int64_t version;
    tp_journal_reason reason;
} tp_journal_why;
const tp_journal_why *tp_journal_map_reasons(tp_journal_map *map, size_t *n);

#endif
