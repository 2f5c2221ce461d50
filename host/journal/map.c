/* map.c: one map of a journal: what it records, and what it finds again. */
#include "journal/journal_private.h"

#include "base/invariant.h"
#include "codec/identity.h"
#include "codec/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct tp_journal_map {
    tp_recorder recorder; /* first member; owners: the Lua state, its job */

    /* Set by tp_journal_map_new, read-only afterwards. */
    tp_journal *journal; /* held, and used */
    unsigned failures;   /* of the journal's writes before the map began */
    tp_journal_map_config config;

    /* ---- the owner's ---- */
    bool has_looked;
    uint64_t last; /* index of the last input that is in the file */
    tp_journal_counts counts;
    tp_journal_why *reasons;
    size_t n_reasons, reasons_room;
    bool are_read; /* the reasons were handed out, so the next one begins a new list */
    tp_buf scratch;
    tp_error trouble; /* of a cache: the error after which the cache is not asked any more */
};

static void free_map(tp_ref *ref)
{
    tp_journal_map *m = (tp_journal_map *)ref;
    free(m->reasons);
    tp_buf_free(&m->scratch);
    tp_journal_leave(m->journal);
    tp_ref_drop(m->journal);
    free(m);
}

const tp_ref_type tp_journal_map_type = { "tidepool.journal_map", free_map };

static int record(tp_recorder *recorder, const tp_block *inputs, const tp_block *results,
                  uint64_t end, const tp_ran *ran, tp_error *err)
{
    tp_journal_map *m = (tp_journal_map *)recorder;
    row head = { .version = m->config.version, .run = m->config.run };
    tp_error ignored = { 0 };
    bool is_optional = m->config.is_optional || m->config.is_cache;
    int rc = tp_journal_record(m->journal, m->failures, &head, m->config.map, inputs, results, end,
                               ran, is_optional ? &ignored : err);
    return is_optional ? 0 : rc;
}

tp_journal_map *tp_journal_map_new(tp_journal *journal, const tp_journal_map_config *config)
{
    tp_journal_map *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    bool is_open = tp_journal_enter(journal);
    TP_ASSERT(is_open); /* the caller uses it */
    tp_ref_init(&m->recorder.ref, &tp_journal_map_type);
    m->recorder.record = record;
    m->recorder.map = config->is_cache ? 0 : config->map;
    m->recorder.version = config->version;
    m->journal = tp_ref_hold(journal);
    m->failures = tp_journal_failures(journal);
    m->config = *config;
    return m;
}

tp_recorder *tp_journal_map_recorder(tp_journal_map *m)
{
    return &m->recorder;
}

const tp_journal_counts *tp_journal_map_counts(const tp_journal_map *m)
{
    return &m->counts;
}

int tp_journal_map_flush(tp_journal_map *m, tp_error *err)
{
    return tp_journal_flush_since(m->journal, m->failures, err);
}

const tp_error *tp_journal_map_trouble(const tp_journal_map *m)
{
    return m->trouble.code == TP_OK ? NULL : &m->trouble;
}

void tp_cache_key(const uint8_t function[TP_IDENTITY], const uint8_t input[TP_IDENTITY],
                  uint8_t to[TP_IDENTITY])
{
    uint8_t both[2 * TP_IDENTITY];
    memcpy(both, function, TP_IDENTITY);
    memcpy(both + TP_IDENTITY, input, TP_IDENTITY);
    tp_identity_of_bytes(both, sizeof both, to);
}

/* ---- reasons ---- */

static int explain(tp_journal_map *m, uint64_t index, tp_journal_reason reason, int64_t version)
{
    m->counts.of[reason]++;
    if (reason == TP_JOURNAL_CHANGED) {
        int i = 0;
        while (i < TP_JOURNAL_VERSIONS - 1 && m->counts.changed[i].n > 0 &&
               m->counts.changed[i].version != version)
            i++;
        m->counts.changed[i].version = version;
        m->counts.changed[i].n++;
    }
    if (!m->config.explains)
        return 0;
    if (m->are_read)
        m->n_reasons = 0;
    m->are_read = false;
    if (m->n_reasons == m->reasons_room) {
        size_t room = m->reasons_room ? 2 * m->reasons_room : 64;
        tp_journal_why *reasons = realloc(m->reasons, room * sizeof *reasons);
        if (!reasons)
            return -1;
        m->reasons = reasons;
        m->reasons_room = room;
    }
    m->reasons[m->n_reasons++] = (tp_journal_why){ index, version, reason };
    return 0;
}

const tp_journal_why *tp_journal_map_reasons(tp_journal_map *m, size_t *n)
{
    *n = m->are_read ? 0 : m->n_reasons;
    m->are_read = true;
    return m->reasons;
}

/* ---- results of the file as blocks ---- */

/* The results found for one block of inputs. */
typedef struct finding {
    tp_journal_map *map;
    tp_sqlite *s;
    tp_job *job;
    uint64_t end; /* index of the input behind the last one */
    tp_block *known, **known_end;
    tp_block *open; /* the last block of the list, while more can be added to it */
    uint32_t run;   /* how many items the last block of columns got; guides the size of the next */
} finding;

static void add_block(finding *f, tp_block *b)
{
    if (f->open && f->open->kind == TP_BLOCK_COLUMNS)
        f->run = f->open->n;
    b->next = NULL;
    *f->known_end = b;
    f->known_end = &b->next;
    f->open = b;
}

/* Can the open block take one more result, for the input at that index? */
static bool follows(finding *f, uint64_t at)
{
    const tp_block *b = f->open;
    if (!b || b->first + b->n != at)
        return false;
    /* capacity 0: its columns lie in the arrays of `returns` */
    bool is_full = b->kind == TP_BLOCK_COLUMNS && b->capacity > 0 && b->n == b->capacity;
    if (is_full)
        f->run = b->n;
    return !is_full;
}

/* A block of columns of these types (NULL: doubles) for what is to come: small when the last ones
 * were interrupted early. */
static tp_block *new_columns(const finding *f, uint64_t at, uint32_t columns, const uint8_t *types)
{
    uint64_t left = f->end - at, expected = f->run < 8 ? 32 : 4 * (uint64_t)f->run;
    tp_block *b =
        tp_block_new_columns((uint32_t)(left < expected ? left : expected), columns, types, 0);
    if (b)
        b->first = at;
    return b;
}

/* A block for results of a map that stores them in the arrays of its option `returns`, or in
 * columns. */
static tp_block *new_promised(const finding *f, uint64_t at, const tp_returns *returns)
{
    if (!returns->array[0])
        return new_columns(f, at, returns->columns, returns->type);
    return tp_returns_block(returns, at, 0);
}

static void store_number(void *column, uint8_t type, uint32_t k, double x)
{
    switch (type) {
    case TP_FLOAT: ((float *)column)[k] = (float)x; break;
    case TP_INT8: ((int8_t *)column)[k] = (int8_t)x; break;
    case TP_UINT8: ((uint8_t *)column)[k] = (uint8_t)x; break;
    case TP_INT16: ((int16_t *)column)[k] = (int16_t)x; break;
    case TP_UINT16: ((uint16_t *)column)[k] = (uint16_t)x; break;
    case TP_INT32: ((int32_t *)column)[k] = (int32_t)x; break;
    case TP_UINT32: ((uint32_t *)column)[k] = (uint32_t)x; break;
    default: ((double *)column)[k] = x;
    }
}

/* Is x in the range of the element type? Other numbers were not written by us. */
static bool fits(uint8_t type, double x)
{
    static const double most[TP_TYPES] = {
        [TP_INT8] = INT8_MAX,     [TP_UINT8] = UINT8_MAX, [TP_INT16] = INT16_MAX,
        [TP_UINT16] = UINT16_MAX, [TP_INT32] = INT32_MAX, [TP_UINT32] = UINT32_MAX,
    };
    if (type == TP_DOUBLE || type == TP_FLOAT)
        return true;
    bool is_signed = type == TP_INT8 || type == TP_INT16 || type == TP_INT32;
    return x <= most[type] && x >= (is_signed ? -most[type] - 1 : 0) && x == floor(x);
}

/* Reads the next value of a message into element k of a column. NULL when it is not what the column
 * takes. */
static const uint8_t *store_value(void *column, uint8_t type, uint32_t k, const uint8_t *p,
                                  const uint8_t *end)
{
    if (p == end)
        return NULL;
    uint8_t tag = *p++;
    bool is_wide = type == TP_INT64 || type == TP_UINT64;
    if (is_wide != (tag == T_INT64 || tag == T_UINT64))
        return NULL;
    size_t size = tag == T_INT8                ? 1
                  : tag == T_INT32             ? 4
                  : tag == T_DOUBLE || is_wide ? 8
                  : tag < T_SHORT              ? 0
                                               : 9;
    if (size > 8 || (size_t)(end - p) < size)
        return NULL;
    double x = tag;
    int32_t i;
    if (is_wide) {
        memcpy((uint64_t *)column + k, p, size);
        return p + size;
    } else if (tag == T_INT8) {
        x = (int8_t)*p;
    } else if (tag == T_INT32) {
        memcpy(&i, p, sizeof i);
        x = i;
    } else if (tag == T_DOUBLE) {
        memcpy(&x, p, sizeof x);
    }
    if (isnan(x))
        x = NAN;
    if (!fits(type, x))
        return NULL;
    store_number(column, type, k, x);
    return p + size;
}

/* The message in a value of the file; NULL when it has none. */
static const uint8_t *encoded(const finding *f, sqlite3_stmt *from, int column, size_t *len)
{
    const uint8_t *p = f->s->column_blob(from, column);
    int n = f->s->column_bytes(from, column);
    if (f->s->column_type(from, column) != SQLITE_BLOB || !p || n < 2 || p[0] != ENCODED_MESSAGE ||
        !tp_message_is_plain(p + 1, (size_t)n - 1))
        return NULL;
    *len = (size_t)n - 1;
    return p + 1;
}

/* Adds the result in this column of the row as `returns` promises. 1: added; 0: it is something
 * else; -1: out of memory. */
static int add_promised(finding *f, uint64_t at, sqlite3_stmt *from, int column,
                        const tp_returns *returns)
{
    if (!follows(f, at)) {
        tp_block *b = new_promised(f, at, returns);
        if (!b)
            return -1;
        add_block(f, b);
    }
    tp_block *b = f->open;
    int type = f->s->column_type(from, column);
    bool is_wide = returns->type[0] == TP_INT64 || returns->type[0] == TP_UINT64;
    if (returns->columns == 1 && type == SQLITE_INTEGER && is_wide) {
        ((int64_t *)b->column[0])[b->n++] = f->s->column_int64(from, column);
        return 1;
    }
    if (returns->columns == 1 && type == SQLITE_FLOAT && !is_wide) {
        double x = f->s->column_double(from, column);
        if (!fits(returns->type[0], x))
            return 0;
        store_number(b->column[0], returns->type[0], b->n++, x);
        return 1;
    }
    size_t len;
    const uint8_t *p = encoded(f, from, column, &len), *end = p ? p + len : NULL;
    if (!p || *p++ != returns->columns)
        return 0;
    for (uint32_t c = 0; p && c < returns->columns; c++)
        p = store_value(b->column[c], b->type[c], b->n, p, end);
    b->n += p != NULL;
    return p != NULL;
}

/* Adds a result that is a message. */
static int add_message(finding *f, uint64_t at, const uint8_t *message, size_t len)
{
    if (!follows(f, at) || f->open->kind != TP_BLOCK_VALUES ||
        f->open->bytes.len > TP_BLOCK_BYTES_MAX) {
        tp_block *b = tp_block_new_values(TP_BLOCK_VALUES);
        if (!b)
            return -1;
        b->first = at;
        b->is_foreign = true;
        add_block(f, b);
    }
    tp_block *b = f->open;
    if (tp_block_reserve(b) || tp_buf_add(&b->bytes, message, len))
        return -1;
    tp_block_add(b);
    return 1;
}

static int add_number(finding *f, uint64_t at, double x)
{
    if (!follows(f, at) || f->open->kind != TP_BLOCK_COLUMNS) {
        tp_block *b = new_columns(f, at, 1, NULL);
        if (!b)
            return -1;
        add_block(f, b);
    }
    ((double *)f->open->column[0])[f->open->n++] = isnan(x) ? NAN : x;
    return 1;
}

static int add_text(finding *f, uint64_t at, const char *text, uint32_t len)
{
    tp_buf *scratch = &f->map->scratch;
    tp_buf_clear(scratch);
    uint8_t *p = tp_buf_reserve(scratch, (size_t)len + 6);
    if (!p)
        return -1;
    const uint8_t head[2] = { 1, T_STRING };
    memcpy(p, head, sizeof head);
    memcpy(p + 2, &len, sizeof len);
    memcpy(p + 6, text, len);
    return add_message(f, at, p, (size_t)len + 6);
}

static int add_done(finding *f, uint64_t at)
{
    if (!follows(f, at)) {
        tp_block *b = tp_block_new_empty(TP_BLOCK_DONE, at, 0);
        if (!b)
            return -1;
        add_block(f, b);
    }
    f->open->n++;
    return 1;
}

/* Adds the row's result; returns as add_promised does. */
static int add_result(finding *f, uint64_t at, sqlite3_stmt *from, int column)
{
    const tp_returns *returns = &tp_job_terms(f->job)->returns;
    if (tp_job_terms(f->job)->discards)
        return add_done(f, at);
    if (returns->columns)
        return add_promised(f, at, from, column, returns);
    size_t len;
    const uint8_t *message;
    switch (f->s->column_type(from, column)) {
    case SQLITE_FLOAT:
        return add_number(f, at, f->s->column_double(from, column));
    case SQLITE_TEXT:
        return add_text(f, at, (const char *)f->s->column_text(from, column),
                        (uint32_t)f->s->column_bytes(from, column));
    case SQLITE_BLOB:
        message = encoded(f, from, column, &len);
        return message ? add_message(f, at, message, len) : 0;
    default:
        return 0;
    }
}

static int add_failure(finding *f, uint64_t at, sqlite3_stmt *from, int column)
{
    const uint8_t *message = f->s->column_blob(from, column);
    size_t len = (size_t)f->s->column_bytes(from, column);
    /* The field for a process's last words may be missing: failures that Lua raised lack it. */
    if (!message || len < 2 || message[0] < TP_FAILURE_STDERR || message[0] > TP_FAILURE_FIELDS_N ||
        !tp_message_is_plain(message, len))
        return 0;
    tp_block *b = tp_block_new_values(TP_BLOCK_FAILURE);
    if (!b || tp_block_reserve(b) || tp_buf_add(&b->bytes, message, len)) {
        tp_block_free(b);
        return -1;
    }
    tp_block_add(b);
    b->first = at;
    b->is_foreign = true;
    add_block(f, b);
    f->open = NULL;
    return 1;
}

/* ---- looking up ---- */

enum {
    COLUMN_ID,
    COLUMN_STATE,
    COLUMN_ATTEMPTS,
    COLUMN_VERSION,
    COLUMN_IDENTITY,
    COLUMN_RESULT,
    COLUMN_FAILURE
};

static const char select_items[] = "select id, state, attempts, version, identity, result, failure "
                                   "from items where id between ? and ? order by id";

/* Finds out, once, the index of the last input that the file has: later ones need not be looked
 * up. */
static int look(tp_journal_map *m, tp_sqlite *s, tp_error *err)
{
    sqlite3_stmt *last;
    m->has_looked = true;
    if (s->prepare_v2(s->db, "select max(id) from items where id between ? and ?", -1, &last,
                      NULL) != SQLITE_OK)
        return tp_sqlite_fail(s, "read it", err);
    s->bind_int64(last, 1, tp_item_id(m->config.map, 0));
    s->bind_int64(last, 2, tp_item_id(m->config.map + 1, 0) - 1);
    int rc = s->step(last);
    if (rc == SQLITE_ROW && s->column_type(last, 0) == SQLITE_INTEGER)
        m->last = (uint64_t)(s->column_int64(last, 0) - tp_item_id(m->config.map, 0));
    s->finalize(last);
    return rc == SQLITE_ROW ? 0 : tp_sqlite_fail(s, "read it", err);
}

static bool is_same(const finding *f, sqlite3_stmt *from, const tp_tag *tag)
{
    const void *identity = f->s->column_blob(from, COLUMN_IDENTITY);
    return identity && f->s->column_bytes(from, COLUMN_IDENTITY) == TP_IDENTITY &&
           memcmp(identity, tag->identity, TP_IDENTITY) == 0;
}

/* The inputs from index `at` (from 0) to before `end` are in no file. -1: out of memory. */
static int decide_new(finding *f, uint64_t at, uint64_t end)
{
    for (; at < end; at++)
        if (f->map->config.only_failed ? add_done(f, at) < 0
                                       : explain(f->map, at + 1, TP_JOURNAL_NEW, 0))
            return -1;
    return 0;
}

/* Decides what to do with the input at the index, whose row is there. -1: out of memory. */
static int decide(finding *f, uint64_t at, sqlite3_stmt *from, tp_tag *tag)
{
    tp_journal_map *m = f->map;
    int64_t version = f->s->column_int64(from, COLUMN_VERSION);
    const char *state = (const char *)f->s->column_text(from, COLUMN_STATE);
    tp_journal_reason reason;
    int added = 0;
    bool has_failed = state && strcmp(state, "failed") == 0;
    if (m->config.only_failed && !has_failed)
        return add_done(f, at) < 0 ? -1 : 0;
    if (version != m->config.version) {
        reason = TP_JOURNAL_CHANGED;
    } else if (!is_same(f, from, tag)) {
        reason = TP_JOURNAL_INPUT;
    } else if (state && strcmp(state, "done") == 0) {
        added = add_result(f, at, from, COLUMN_RESULT);
        reason = added > 0 ? TP_JOURNAL_KNOWN : TP_JOURNAL_NOT_KEPT;
    } else if (has_failed) {
        int64_t attempts = f->s->column_int64(from, COLUMN_ATTEMPTS);
        tag->attempts = attempts > 0 && attempts < 1 << 30 ? (uint32_t)attempts : 0;
        added = m->config.keeps_failed ? add_failure(f, at, from, COLUMN_FAILURE) : 0;
        reason = added > 0 ? TP_JOURNAL_KNOWN : TP_JOURNAL_FAILED;
    } else {
        reason = TP_JOURNAL_NOT_KEPT;
    }
    return added < 0 ? -1 : explain(m, at + 1, reason, version);
}

/* Goes through the rows of the block's inputs. */
static int find(finding *f, const tp_block *b, uint64_t first, tp_error *err)
{
    tp_journal_map *m = f->map;
    tp_sqlite *s = f->s;
    sqlite3_stmt *from = tp_journal_select(m->journal, select_items, err);
    if (!from)
        return -1;
    s->bind_int64(from, 1, tp_item_id(m->config.map, first + 1));
    s->bind_int64(from, 2, tp_item_id(m->config.map, f->end));
    uint64_t at = first;
    int rc, memory = 0;
    while (memory == 0 && (rc = s->step(from)) == SQLITE_ROW) {
        uint64_t next = (uint64_t)(s->column_int64(from, COLUMN_ID) - tp_item_id(m->config.map, 1));
        if (next < at || next >= f->end) { /* rows come in order, unless the file is damaged */
            s->reset(from);
            return tp_error_set(err, TP_ESYS, "%.300s is damaged: its items are in no order",
                                s->path);
        }
        memory = decide_new(f, at, next);
        if (memory == 0)
            memory = decide(f, next, from, &b->tags[next - first]);
        at = next + 1;
    }
    rc = memory              ? tp_error_oom(err, "journal")
         : rc == SQLITE_DONE ? 0
                             : tp_sqlite_fail(s, "read it", err);
    s->reset(from);
    return rc == 0 && decide_new(f, at, f->end) ? tp_error_oom(err, "journal") : rc;
}

/* Finds the identity of each input, where it is not known yet. */
static int identify(tp_journal_map *m, tp_block *b)
{
    if (b->tags || b->n == 0)
        return 0;
    TP_ASSERT(b->columns > 0);
    b->tags = calloc(b->n, sizeof *b->tags);
    if (!b->tags)
        return -1;
    for (uint32_t k = 0; k < b->n; k++)
        if (tp_identity_of_item(b, k, &m->scratch, b->tags[k].identity))
            return -1;
    return 0;
}

/* ---- a cache ---- */

enum {
    FOUND_RESULT,
    FOUND_USED,
    TOUCH_S = 60 /* a use is only noted when the one in the file is older than this */
};

static const char select_result[] = "select result, used from results where key = ?";

/* Looks for the result of one input; its tag has the key. */
static int find_result(finding *f, uint64_t at, const tp_tag *tag, tp_error *err)
{
    tp_sqlite *s = f->s;
    sqlite3_stmt *from = tp_journal_select(f->map->journal, select_result, err);
    if (!from)
        return -1;
    s->bind_blob(from, 1, tag->identity, sizeof tag->identity, NULL);
    int rc = s->step(from), added = 0;
    if (rc == SQLITE_ROW) {
        added = add_result(f, at, from, FOUND_RESULT);
        if (added > 0 && s->column_double(from, FOUND_USED) < (double)(time(NULL) - TOUCH_S))
            tp_journal_touch(f->map->journal, tag->identity);
        rc = SQLITE_DONE;
    } else if (rc != SQLITE_DONE) {
        tp_sqlite_fail(s, "read it", err);
    }
    s->reset(from);
    f->map->counts.of[added > 0 ? TP_JOURNAL_KNOWN : TP_JOURNAL_NEW]++;
    return added < 0 ? tp_error_oom(err, "cache") : rc == SQLITE_DONE ? 0 : -1;
}

/* tp_journal_map_recall for a cache: tags become keys, under which results are recorded later. When
 * the file gives trouble the map goes on without the cache. */
static int find_results(finding *f, tp_block *b, uint64_t first, tp_error *err)
{
    tp_journal_map *m = f->map;
    for (uint32_t k = 0; k < b->n; k++)
        tp_cache_key(m->config.function, b->tags[k].identity, b->tags[k].identity);
    tp_error *trouble = &m->trouble;
    /* at a map's first block: write what is in the queue, so that everything recorded before is
     * found */
    if (first == 0 && trouble->code == TP_OK)
        tp_journal_flush_since(m->journal, m->failures, trouble);
    bool is_one = b->n == 1 || trouble->code != TP_OK ||
                  tp_sqlite_run(f->s, "begin", "read it", trouble);
    for (uint32_t k = 0; k < b->n && trouble->code == TP_OK; k++)
        if (find_result(f, first + k, &b->tags[k], trouble))
            break;
    if (!is_one)
        tp_sqlite_run(f->s, "commit", "read it",
                      trouble->code == TP_OK ? trouble : &(tp_error){ 0 });
    return trouble->code == TP_EMEMORY ? tp_error_oom(err, "cache") : 0;
}

/* The list without empty blocks, which were begun for results that turned out to be of another
 * kind. */
static tp_block *drop_empty(tp_block *list)
{
    for (tp_block **at = &list; *at;) {
        tp_block *b = *at;
        if (b->n > 0) {
            at = &b->next;
            continue;
        }
        *at = b->next;
        tp_block_free(b);
    }
    return list;
}

int tp_journal_map_recall(tp_journal_map *m, tp_job *job, tp_block *b, tp_block **known,
                          tp_error *err)
{
    uint64_t first = tp_job_pushed(job);
    finding f = { .map = m,
                  .s = tp_journal_connection(m->journal),
                  .job = job,
                  .end = first + b->n,
                  .known_end = &f.known };
    *known = NULL;
    if (b->kind == TP_BLOCK_FAILURE) /* the input could not be made: nothing of it is known */
        return 0;
    if (identify(m, b))
        return tp_error_oom(err, "journal");
    if (m->config.is_cache) {
        int rc = find_results(&f, b, first, err);
        if (rc)
            tp_block_free_list(f.known);
        else
            *known = drop_empty(f.known);
        return rc;
    }
    if (!m->has_looked && look(m, f.s, err))
        return -1;
    int rc = first < m->last                ? find(&f, b, first, err)
             : decide_new(&f, first, f.end) ? tp_error_oom(err, "journal")
                                            : 0;
    if (rc) {
        tp_block_free_list(f.known);
        return -1;
    }
    *known = drop_empty(f.known);
    return 0;
}
