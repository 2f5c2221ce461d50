/* journal_private.h: what journal.c and map.c share. */
#ifndef TP_JOURNAL_PRIVATE_H
#define TP_JOURNAL_PRIVATE_H

#include "journal/journal.h"
#include "journal/row.h"
#include "journal/schema.h"

/* How many writes have failed so far. A map keeps what this is when it begins. */
unsigned tp_journal_failures(tp_journal *journal);

/* tp_journal_flush for a map: also fails when a write has failed since it began. */
int tp_journal_flush_since(tp_journal *journal, unsigned failures, tp_error *err);

/* Puts these results of a map into the queue as rows; *head has its version and its run. Fails when
 * a write has failed since the map began. See tp_recorder. */
int tp_journal_record(tp_journal *journal, unsigned failures, row *head, int64_t map,
                      const tp_block *inputs, const tp_block *results, uint64_t end,
                      const tp_ran *ran, tp_error *err);

/* A result with this key was found in a cache: notes that, so that it is not removed soon. Never
 * waits. The owner. */
void tp_journal_touch(tp_journal *journal, const uint8_t key[16]);

/* The statement that looks for items, on the owner's connection; prepared once. Its user must reset
 * it. NULL with err set. */
sqlite3_stmt *tp_journal_select(tp_journal *journal, const char *sql, tp_error *err);

#endif
