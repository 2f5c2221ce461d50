/* row.c: results as rows of the file. */
#include "journal/row.h"

#include "codec/identity.h"
#include "codec/message.h"

#include <math.h>
#include <string.h>

/* ---- text ---- */

/* May it be stored as SQLite's TEXT: is it UTF-8 without a NUL? Otherwise it is stored as BLOB. */
static bool is_text(const char *text, size_t len)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + len;
    while (p < end) {
        uint8_t c = *p++;
        if (c == 0)
            return false;
        if (c < 0x80)
            continue;
        int more = c >= 0xc2 && c < 0xe0   ? 1
                   : c >= 0xe0 && c < 0xf0 ? 2
                   : c >= 0xf0 && c < 0xf5 ? 3
                                           : 0;
        if (more == 0 || end - p < more)
            return false;
        if ((c == 0xe0 && *p < 0xa0) || (c == 0xed && *p >= 0xa0) || (c == 0xf0 && *p < 0x90) ||
            (c == 0xf4 && *p >= 0x90))
            return false;
        while (more--)
            if ((*p++ & 0xc0) != 0x80)
                return false;
    }
    return true;
}

/* ---- writing ---- */

/* Makes the cell of a message, and appends its text or bytes to the queue: a single number or
 * string is stored as such, another plain message as bytes, anything else as NULL. */
static int write_message(tp_buf *queue, cell *to, const uint8_t *message, size_t len)
{
    double number;
    const char *text;
    size_t text_len;
    enum tag kind = tp_message_single(message, len, &number, &text, &text_len);
    if (kind == T_DOUBLE && !isnan(number)) {
        to->kind = CELL_NUMBER;
        to->as.number = number;
        return 0;
    }
    if (kind == T_STRING && is_text(text, text_len)) {
        to->kind = CELL_TEXT;
        to->length = (uint32_t)text_len;
        return tp_buf_add(queue, text, text_len);
    }
    if (!tp_message_is_plain(message, len) || len >= 1 << 30) {
        to->kind = CELL_NULL;
        return 0;
    }
    const uint8_t mark = ENCODED_MESSAGE;
    to->kind = CELL_BYTES;
    to->length = (uint32_t)len + 1;
    return tp_buf_add(queue, &mark, 1) || tp_buf_add(queue, message, len);
}

/* Makes the cell of an item of a block. 64-bit integers are stored as the file's integers; uint64
 * only when the reader will know the type. */
static int write_item(tp_buf *queue, cell *to, const tp_block *b, uint32_t k, bool knows_type,
                      tp_buf *scratch)
{
    *to = (cell){ 0 };
    if (b->ends) {
        size_t len;
        const uint8_t *message = tp_block_message(b, k, &len);
        return write_message(queue, to, message, len);
    }
    if (b->columns == 1 &&
        (b->type[0] == TP_INT64 ||
         (knows_type && b->type[0] == TP_UINT64 && !(((const uint64_t *)b->column[0])[k] >> 63)))) {
        to->kind = CELL_INTEGER;
        to->as.integer = ((const int64_t *)b->column[0])[k];
        return 0;
    }
    if (b->columns == 0)
        return 0;
    tp_buf_clear(scratch);
    return tp_block_encode_item(b, k, scratch)
               ? -1
               : write_message(queue, to, scratch->data, scratch->len);
}

/* Appends a failure's kind and text (the first two values of its message), and the whole message if
 * it is plain (tp_message_is_plain). */
static int write_failure(tp_buf *queue, row *r, const tp_block *b)
{
    size_t len;
    const uint8_t *message = tp_block_message(b, 0, &len), *p = message + 1, *end = message + len;
    uint32_t *lengths[] = { &r->kind, &r->message };
    for (int i = 0; i < 2 && p < end; i++) {
        uint8_t tag = *p++;
        size_t n;
        if (tag >= T_SHORT && tag < T_NIL) {
            n = tag - T_SHORT;
        } else if ((tag & ~SHARED) == T_STRING) {
            uint32_t length;
            memcpy(&length, p, sizeof length);
            p += sizeof length;
            n = length;
        } else {
            break;
        }
        *lengths[i] = (uint32_t)n;
        if (tp_buf_add(queue, p, n))
            return -1;
        p += n;
    }
    if (!tp_message_is_plain(message, len))
        return 0;
    r->failure = (uint32_t)len;
    return tp_buf_add(queue, message, len);
}

int tp_row_write(tp_buf *queue, const row *head, const tp_block *inputs, uint32_t offset,
                 const tp_block *results, uint32_t k, tp_buf *scratch)
{
    size_t begin = queue->len;
    row r = *head;
    if (tp_buf_add(queue, &r, sizeof r) ||
        (inputs->kind != TP_BLOCK_FAILURE &&
         write_item(queue, &r.input, inputs, offset, false, scratch)))
        goto fail;
    bool is_failure = results->kind == TP_BLOCK_FAILURE;
    r.state = is_failure ? ROW_FAILED : ROW_DONE;
    if (is_failure ? write_failure(queue, &r, results)
                   : write_item(queue, &r.result, results, k, true, scratch))
        goto fail;
    if (!is_failure && r.result.kind == CELL_NULL && results->kind != TP_BLOCK_DONE)
        r.state = ROW_NOT_KEPT;
    memcpy(queue->data + begin, &r, sizeof r);
    return 0;
fail:
    queue->len = begin;
    return -1;
}

/* ---- into the file ---- */

const char tp_row_insert[] =
    "insert or replace into items (id, state, attempts, started, duration, worker, run, version, "
    "identity, input, result, kind, message, failure)"
    " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const char tp_row_insert_result[] =
    "insert or replace into results (key, function, used, duration, input, result, bytes)"
    " select ?9, ?8, ?4 + ?5, ?5, ?10, ?11, coalesce(length(cast(?10 as blob)), 0) + "
    "length(cast(?11 as blob)) + 100"
    " where ?2 = 'done' and ?9 is not null and ?11 is not null and ?14 is null";

const char tp_row_use_result[] = "update results set used = ?4 where key = ?9 and ?14 is null";

static const uint8_t *bind_cell(tp_sqlite *s, sqlite3_stmt *to, int at, const cell *c,
                                const uint8_t *p)
{
    switch (c->kind) {
    case CELL_NUMBER: s->bind_double(to, at, c->as.number); return p;
    case CELL_INTEGER: s->bind_int64(to, at, c->as.integer); return p;
    case CELL_TEXT:
        s->bind_text(to, at, (const char *)p, (int)c->length, NULL);
        return p + c->length;
    case CELL_BYTES: s->bind_blob(to, at, p, (int)c->length, NULL); return p + c->length;
    default: s->bind_null(to, at); return p;
    }
}

static const uint8_t *bind_string(tp_sqlite *s, sqlite3_stmt *to, int at, const uint8_t *p,
                                  uint32_t length)
{
    if (length == 0)
        s->bind_null(to, at);
    else if (is_text((const char *)p, length))
        s->bind_text(to, at, (const char *)p, (int)length, NULL);
    else
        s->bind_blob(to, at, p, (int)length, NULL);
    return p + length;
}

const uint8_t *tp_row_bind(tp_sqlite *s, sqlite3_stmt *to, const uint8_t *p)
{
    static const char *const states[] = { "done", "failed", "not kept", "used" };
    row r;
    memcpy(&r, p, sizeof r);
    const uint8_t *identity = p + offsetof(row, identity);
    p += sizeof r;
    s->bind_int64(to, 1, r.id);
    s->bind_text(to, 2, states[r.state], -1, NULL);
    s->bind_int64(to, 3, r.attempts);
    s->bind_double(to, 4, r.started);
    s->bind_double(to, 5, r.duration);
    s->bind_int64(to, 6, r.worker);
    s->bind_int64(to, 7, r.run);
    s->bind_int64(to, 8, r.version);
    if (r.has_identity)
        s->bind_blob(to, 9, identity, sizeof r.identity, NULL);
    else
        s->bind_null(to, 9);
    p = bind_cell(s, to, 10, &r.input, p);
    p = bind_cell(s, to, 11, &r.result, p);
    p = bind_string(s, to, 12, p, r.kind);
    p = bind_string(s, to, 13, p, r.message);
    if (r.failure)
        s->bind_blob(to, 14, p, (int)r.failure, NULL);
    else
        s->bind_null(to, 14);
    return p + r.failure;
}
