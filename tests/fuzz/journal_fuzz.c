/* journal_fuzz.c: rows of a hostile database as the results of a map (libFuzzer).
 *
 * The first byte says what kind of map it is, the rest are rows: which input's, in which state, and
 * what is in their columns. Whatever it is, what the map is given are results of inputs that it
 * has, each once and in order, and decoding them either gives values or an error. `make fuzz`
 * builds and runs it. */
#include "codec/codec_state.h"
#include "codec/identity.h"
#include "codec/message.h"
#include "engine/job_private.h"
#include "journal/journal.h"
#include "journal/schema.h"

#include <lauxlib.h>
#include <lualib.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

enum { ITEMS = 40, FIRST = 3, MAP = 1, VERSION = 1 };

/* What a map of this kind is given: bits of the first byte, above its returns. */
enum { KEEPS_FAILED = 16, ONLY_FAILED = 32, EXPLAINS = 64 };

static const tp_returns returns[] = {
    { .columns = 0 },
    { .columns = 0 }, /* and discards */
    { .columns = 1, .type = { TP_DOUBLE } },
    { .columns = 1, .type = { TP_INT64 } },
    { .columns = 1, .type = { TP_UINT8 } },
    { .columns = 3, .type = { TP_DOUBLE, TP_INT16, TP_UINT64 } },
};

static char folder[] = "/tmp/tidepool-fuzz-XXXXXX";
static tp_journal *journal;
static sqlite3_stmt *insert;
static uint8_t identities[ITEMS][TP_IDENTITY];

static void must(int claim, const char *what)
{
    if (!claim) {
        fprintf(stderr, "broken: %s\n", what);
        abort();
    }
}

/* ---- the database ---- */

static void remove_folder(void)
{
    char command[100];
    tp_journal_connection(journal)->finalize(insert);
    tp_ref_drop(journal);
    snprintf(command, sizeof command, "rm -r %s", folder);
    must(system(command) == 0, "the folder goes");
}

static tp_block *new_inputs(void)
{
    tp_block *b = tp_block_new_columns(ITEMS, 1, NULL, 0);
    must(b != NULL, "memory");
    b->n = ITEMS;
    for (int k = 0; k < ITEMS; k++)
        ((double *)b->column[0])[k] = k;
    return b;
}

static void open_journal(void)
{
    char path[100];
    tp_error err = { 0 };
    must(mkdtemp(folder) != NULL, "a folder");
    snprintf(path, sizeof path, "%s/run.db", folder);
    must(tp_journal_open(&journal, path, 0, &err) == 0, err.message);
    tp_sqlite *s = tp_journal_connection(journal);
    must(tp_sqlite_run(s, "pragma synchronous = off", "write to it", &err) == 0, err.message);
    must(s->prepare_v2(s->db,
                       "insert or replace into items (id, state, attempts, version, identity, "
                       "result, failure) values (?, ?, ?, ?, ?, ?, ?)",
                       -1, &insert, NULL) == SQLITE_OK,
         "the statement");
    tp_block *b = new_inputs();
    tp_buf scratch = { 0 };
    for (uint32_t k = 0; k < ITEMS; k++)
        must(tp_identity_of_item(b, k, &scratch, identities[k]) == 0, "an identity");
    tp_buf_free(&scratch);
    tp_block_free(b);
    atexit(remove_folder);
}

/* ---- rows ---- */

typedef struct reader {
    const uint8_t *at, *end;
} reader;

static uint8_t byte(reader *r)
{
    return r->at < r->end ? *r->at++ : 0;
}

static uint64_t word(reader *r)
{
    uint64_t x = 0;
    for (int i = 0; i < 8; i++)
        x = x << 8 | byte(r);
    return x;
}

/* So many bytes, as far as there are so many. */
static const uint8_t *span(reader *r, int *len)
{
    const uint8_t *from = r->at;
    *len = byte(r);
    from = r->at;
    if (*len > r->end - r->at)
        *len = (int)(r->end - r->at);
    r->at += *len;
    return from;
}

/* Any value that a column can have. */
static void bind_value(tp_sqlite *s, int at, reader *r)
{
    int len;
    double x;
    uint64_t bits;
    const uint8_t *from;
    switch (byte(r) % 6) {
    case 0: s->bind_null(insert, at); break;
    case 1: s->bind_int64(insert, at, (int64_t)word(r)); break;
    case 2:
        bits = word(r);
        memcpy(&x, &bits, sizeof x);
        s->bind_double(insert, at, x);
        break;
    case 3:
        from = span(r, &len);
        s->bind_text(insert, at, (const char *)from, len, NULL);
        break;
    default:
        from = span(r, &len);
        s->bind_blob(insert, at, from, len, NULL);
    }
}

/* What a row says in most places is what a good one does; else it is anything. */
static void add_row(tp_sqlite *s, reader *r)
{
    static const char *const states[] = { "done", "failed", "not kept" };
    unsigned which = byte(r), k = which % ITEMS, strange = byte(r);
    uint64_t index = strange & 1 ? word(r) : FIRST + k + 1;
    s->bind_int64(insert, 1, tp_item_id(MAP, index));
    if (strange & 2)
        bind_value(s, 2, r);
    else
        s->bind_text(insert, 2, states[(strange >> 6) % 3], -1, NULL);
    if (strange & 4)
        bind_value(s, 3, r);
    else
        s->bind_int64(insert, 3, 1);
    if (strange & 8)
        bind_value(s, 4, r);
    else
        s->bind_int64(insert, 4, VERSION);
    if (strange & 16)
        bind_value(s, 5, r);
    else
        s->bind_blob(insert, 5, identities[k], TP_IDENTITY, NULL);
    bind_value(s, 6, r);
    if (strange & 32)
        bind_value(s, 7, r);
    else
        s->bind_null(insert, 7);
    must(s->step(insert) == SQLITE_DONE, "a row");
    s->reset(insert);
}

/* ---- what is made of them ---- */

static void *allocate(void *ud, void *p, size_t old, size_t size)
{
    (void)ud, (void)old;
    if (size > 0)
        return realloc(p, size);
    free(p);
    return NULL;
}

static lua_State *open_state(void)
{
    lua_State *L = lua_newstate(allocate, NULL);
    luaL_openlibs(L);
    tp_codec_open(L);
    must(luaL_dostring(L, "jit.off()") == 0, "jit.off");
    return L;
}

typedef struct message {
    const uint8_t *bytes;
    size_t len;
} message;

/* As results.lua has a block's values decoded that came from a file. What is a value can be encoded
 * again. */
static int decode(lua_State *L)
{
    const message *m = lua_touserdata(L, 1);
    tp_error err = { 0 };
    tp_buf again = { 0 };
    int top = lua_gettop(L), n = tp_decode(L, m->bytes, m->len, NULL, 0, 0, NULL, &err);
    must(n >= 0 ? lua_gettop(L) == top + n : err.code != TP_OK && lua_gettop(L) == top, "decode");
    for (int i = top + 1; n > 0 && i <= top + n; i++)
        must(lua_type(L, i) != LUA_TFUNCTION && lua_type(L, i) != LUA_TTHREAD,
             "no code comes from a file");
    if (n >= 0)
        tp_encode(L, top + 1, n, NULL, 0, &again, &err);
    tp_buf_free(&again);
    return 0;
}

static void read_message(lua_State *L, const uint8_t *bytes, size_t len)
{
    message m = { bytes, len };
    lua_pushcfunction(L, decode);
    lua_pushlightuserdata(L, &m);
    if (lua_pcall(L, 1, 0, 0)) {
        const char *why = lua_tostring(L, -1);
        must(why && (strstr(why, "not enough memory") || strstr(why, "stack overflow")),
             why ? why : "an error");
    }
    lua_settop(L, 0);
}

static void read_column(const tp_block *b, uint32_t c)
{
    static const uint64_t canonical = UINT64_C(0xfff8000000000000);
    for (uint32_t k = 0; b->type[c] == TP_DOUBLE && k < b->n; k++) {
        double x = ((double *)b->column[c])[k];
        uint64_t bits;
        memcpy(&bits, &x, sizeof bits);
        must(!isnan(x) || bits << 1 == canonical << 1, "a NaN is LuaJIT's");
    }
}

static void read_block(lua_State *L, const tp_block *b, const tp_terms *terms)
{
    must(b->kind != TP_BLOCK_DONE || terms->discards || b->n > 0, "done");
    for (uint32_t c = 0; b->kind == TP_BLOCK_COLUMNS && c < b->columns; c++)
        read_column(b, c);
    if (b->kind == TP_BLOCK_COLUMNS && terms->returns.columns)
        must(b->columns == terms->returns.columns &&
                 memcmp(b->type, terms->returns.type, b->columns) == 0,
             "columns are what was promised");
    for (uint32_t k = 0; b->ends && k < b->n; k++) {
        size_t len;
        const uint8_t *bytes = tp_block_message(b, k, &len);
        must(b->is_foreign, "what a file has is read as hostile");
        read_message(L, bytes, len);
    }
}

static void recall(lua_State *L, uint8_t kind)
{
    tp_error err = { 0 };
    tp_job job = { .pushed = FIRST, .terms = { .discards = kind % 16 == 1 } };
    job.terms.returns = returns[kind % 16 % (sizeof returns / sizeof *returns)];
    tp_journal_map_config config = { .map = MAP,
                                     .version = VERSION,
                                     .run = 1,
                                     .keeps_failed = kind & KEEPS_FAILED,
                                     .only_failed = kind & ONLY_FAILED,
                                     .explains = kind & EXPLAINS };
    tp_journal_map *map = tp_journal_map_new(journal, &config);
    tp_block *inputs = new_inputs(), *known = NULL;
    uint64_t at = FIRST;
    inputs->first = FIRST;
    int rc = tp_journal_map_recall(map, &job, inputs, &known, &err);
    must(rc == 0 || err.code == TP_ESYS, "only a damaged file is an error");
    must(rc == 0 || !known, "an error has no results");
    for (tp_block *b = known; b; b = b->next) {
        must(b->n > 0 && b->first >= at && b->first + b->n <= FIRST + ITEMS,
             "results are of inputs that there are, each once");
        at = b->first + b->n;
        read_block(L, b, &job.terms);
    }
    for (uint32_t k = 0; k < ITEMS && inputs->tags; k++)
        must(inputs->tags[k].attempts < 1 << 30, "attempts are a number");
    size_t n;
    tp_journal_map_reasons(map, &n);
    must(n <= ITEMS, "one reason for each input");
    tp_block_free_list(known);
    tp_block_free(inputs);
    tp_ref_drop(map);
}

/* ---- fuzzing ---- */

/* Rows to start from: of each kind of map, with a value in each. */
static void write_seeds(const char *to)
{
    static const char values[] =
        "return { 7.5, 'text', { 1, 2 }, 5LL, false, { x = { y = 'z' } } }";
    lua_State *L = open_state();
    must(luaL_dostring(L, values) == 0, "values");
    for (int i = 1; i <= (int)lua_objlen(L, 1); i++)
        for (int kind = 0; kind < 6; kind++) {
            tp_buf b = { 0 };
            tp_error err = { 0 };
            char path[4096];
            lua_rawgeti(L, 1, i);
            must(tp_encode(L, -1, 1, NULL, 0, &b, &err) == 0, err.message);
            snprintf(path, sizeof path, "%s/seed-%d-%d", to, i, kind);
            FILE *f = fopen(path, "wb");
            if (f) {
                const uint8_t head[] = { (uint8_t)kind | KEEPS_FAILED, 0, 0, 4,
                                         (uint8_t)(b.len + 1),         1 };
                fwrite(head, 1, sizeof head, f);
                fwrite(b.data, 1, b.len, f);
                fclose(f);
            }
            tp_buf_free(&b);
            lua_settop(L, 1);
        }
    lua_close(L);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    open_journal();
    if (*argc > 1 && (*argv)[*argc - 1][0] != '-')
        write_seeds((*argv)[*argc - 1]);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    static lua_State *L;
    static unsigned uses;
    if (++uses % 10000 == 0 && L) {
        lua_close(L);
        L = NULL;
    }
    if (!L)
        L = open_state();
    tp_sqlite *s = tp_journal_connection(journal);
    tp_error err = { 0 };
    reader r = { bytes, bytes + len };
    uint8_t kind = byte(&r);
    must(tp_sqlite_run(s, "begin; delete from items", "write to it", &err) == 0, err.message);
    while (r.at < r.end)
        add_row(s, &r);
    must(tp_sqlite_run(s, "commit", "write to it", &err) == 0, err.message);
    recall(L, kind);
    return 0;
}
