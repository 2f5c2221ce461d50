/* row.h: results on their way to the file: a row for each item, in a queue of bytes. */
#ifndef TP_ROW_H
#define TP_ROW_H

#include "engine/job.h"
#include "journal/sqlite.h"

#include <stddef.h>

/* What a cell of the file holds. Numbers and strings are stored as such, so that other programs can
 * read them; everything else as bytes. */
enum cell_kind { CELL_NULL, CELL_NUMBER, CELL_INTEGER, CELL_TEXT, CELL_BYTES };

/* The first byte of a cell of BYTES: how the rest is encoded. */
enum { ENCODED_MESSAGE = 1 /* a message of the codec (codec/message.h) that is plain */ };

typedef struct cell {
    uint8_t kind;
    uint32_t length; /* of TEXT and BYTES */
    union { double number; int64_t integer; } as;
} cell;

enum row_state {
    ROW_DONE,
    ROW_FAILED,
    ROW_NOT_KEPT,
    ROW_USED /* USED: in a cache, no result, but a note that one was found */
};

/* The head of a row; behind it the bytes of its input, result, kind, message and failure. */
typedef struct row {
    int64_t id, version, run;
    double started, duration;
    uint32_t attempts;
    int32_t worker;
    uint8_t state;
    bool has_identity;
    uint8_t identity[16];
    cell input, result;
    uint32_t kind, message, failure; /* lengths; 0: none */
} row;

/* Appends the row of item k of `results`, whose input is item `offset` of `inputs`; fields that are
 * set in *head are copied. `scratch` is memory for messages. -1: out of memory, with the queue as
 * it was. */
int tp_row_write(tp_buf *queue, const row *head, const tp_block *inputs, uint32_t offset,
                 const tp_block *results, uint32_t k, tp_buf *scratch);

/* Statements for tp_row_bind: one inserts an item of a journal; one a result of a cache, under its
 * identity as the key; one notes that a result was found. */
extern const char tp_row_insert[], tp_row_insert_result[], tp_row_use_result[];

static inline enum row_state tp_row_state(const uint8_t *p)
{
    return p[offsetof(row, state)];
}

/* Binds the row at p to the statement; returns where the next row begins. */
const uint8_t *tp_row_bind(tp_sqlite *s, sqlite3_stmt *insert, const uint8_t *p);

#endif
