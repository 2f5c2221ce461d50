/* core_journal.c: journals in Lua: opening one, its maps, and queries of its file. */
#include "lua/core_private.h"

#include "base/folder.h"
#include "cluster/leftover.h"
#include "cluster/sign.h"
#include "codec/codec.h"
#include "codec/identity.h"
#include "journal/journal.h"
#include "journal/schema.h"

#include <lauxlib.h>
#include <string.h>
#include <unistd.h>

#define READER "tidepool.journal_reader"

/* core.journal.open(path, cache_bytes or nil) -> journal, or cache of about so many bytes; or nil
 * and a message */
static int l_journal_open(lua_State *L)
{
    tp_error err = { 0 };
    const char *path = luaL_checkstring(L, 1);
    uint64_t cache_bytes = (uint64_t)luaL_optnumber(L, 2, 0);
    tp_ref **box = tp_codec_push_box(L, &tp_journal_type);
    tp_journal *journal;
    if (tp_journal_open(&journal, path, cache_bytes, &err))
        return tp_core_push_message(L, &err);
    *box = (tp_ref *)journal;
    return 1;
}

/* core.journal.read(path, is_cache) -> the same file, only for reading, or nil and a message */
static int l_journal_read(lua_State *L)
{
    tp_error err = { 0 };
    const char *path = luaL_checkstring(L, 1);
    const tp_schema *schema = lua_toboolean(L, 2) ? &tp_schema_cache : &tp_schema_journal;
    bool is_empty;
    tp_sqlite **box = lua_newuserdata(L, sizeof *box);
    *box = NULL;
    luaL_getmetatable(L, READER);
    lua_setmetatable(L, -2);
    if (tp_sqlite_open(box, path, schema->what, false, &err) ||
        tp_schema_check(*box, schema, &is_empty, &err))
        return tp_core_push_message(L, &err);
    if (is_empty) {
        tp_error_set(&err, TP_EUSAGE, "%.300s is no %s: it is empty", path, schema->what);
        return tp_core_push_message(L, &err);
    }
    return 1;
}

static int l_reader_gc(lua_State *L)
{
    tp_sqlite **box = luaL_checkudata(L, 1, READER);
    tp_sqlite_close(*box);
    *box = NULL;
    return 0;
}

static tp_sqlite *check_connection(lua_State *L, int index)
{
    tp_journal *journal = tp_codec_to_ref(L, index, &tp_journal_type);
    tp_sqlite *s = journal ? tp_journal_connection(journal)
                           : *(tp_sqlite **)luaL_checkudata(L, index, READER);
    luaL_argcheck(L, s, index, "the file is closed");
    return s;
}

/* A statement that is being stepped through. */
typedef struct asking {
    tp_sqlite *s;
    sqlite3_stmt *statement;
    int rc; /* of its last step */
} asking;

/* Sets parameter number `at` to the value at the index, which must stay there. */
static void set_parameter(lua_State *L, const asking *a, int at, int index)
{
    size_t len;
    const char *text;
    switch (lua_type(L, index)) {
    case LUA_TNUMBER:
        if (lua_tonumber(L, index) == (double)(int64_t)lua_tonumber(L, index))
            a->s->bind_int64(a->statement, at, (int64_t)lua_tonumber(L, index));
        else
            a->s->bind_double(a->statement, at, lua_tonumber(L, index));
        break;
    case LUA_TSTRING:
        text = lua_tolstring(L, index, &len);
        a->s->bind_text(a->statement, at, text, (int)len, NULL);
        break;
    default:
        a->s->bind_null(a->statement, at);
    }
}

/* Pushes the row's values as a list. */
static void push_row(lua_State *L, const asking *a, int n)
{
    lua_createtable(L, n, 0);
    for (int i = 0; i < n; i++) {
        switch (a->s->column_type(a->statement, i)) {
        case SQLITE_INTEGER:
        case SQLITE_FLOAT:
            lua_pushnumber(L, a->s->column_double(a->statement, i));
            break;
        case SQLITE_TEXT:
            lua_pushlstring(L, (const char *)a->s->column_text(a->statement, i),
                            (size_t)a->s->column_bytes(a->statement, i));
            break;
        case SQLITE_BLOB:
            lua_pushlstring(L, a->s->column_blob(a->statement, i),
                            (size_t)a->s->column_bytes(a->statement, i));
            break;
        default:
            lua_pushboolean(L, 0);
        }
        lua_rawseti(L, -2, i + 1);
    }
}

/* (asking, parameters) -> a list of rows */
static int read_rows(lua_State *L)
{
    asking *a = lua_touserdata(L, 1);
    for (int i = 2, top = lua_gettop(L); i <= top; i++)
        set_parameter(L, a, i - 1, i);
    lua_newtable(L);
    int n = a->s->column_count(a->statement);
    for (int i = 1; (a->rc = a->s->step(a->statement)) == SQLITE_ROW; i++) {
        push_row(L, a, n);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* core.journal.query(journal or reader, statement, ...) -> a list of rows, each a list of values
 * with false for NULL; or nil and a message. The other arguments are the statement's parameters.
 * The statement is finalised before this returns or raises, since it must not outlive its
 * connection. */
static int l_journal_query(lua_State *L)
{
    tp_error err = { 0 };
    asking a = { .s = check_connection(L, 1) };
    const char *sql = luaL_checkstring(L, 2);
    int top = lua_gettop(L);
    luaL_checkstack(L, top + 2, "too many parameters");
    lua_pushcfunction(L, read_rows);
    lua_pushlightuserdata(L, &a);
    for (int i = 3; i <= top; i++)
        lua_pushvalue(L, i);
    if (a.s->prepare_v2(a.s->db, sql, -1, &a.statement, NULL) != SQLITE_OK) {
        tp_sqlite_fail(a.s, "ask it", &err);
        return tp_core_push_message(L, &err);
    }
    int status = lua_pcall(L, top - 1, 1, 0);
    if (status == 0 && a.rc != SQLITE_DONE)
        tp_sqlite_fail(a.s, "ask it", &err);
    a.s->finalize(a.statement);
    if (status)
        return lua_error(L);
    return err.code != TP_OK ? tp_core_push_message(L, &err) : 1;
}

/* core.journal.map(journal, map, version, run, options) -> map of a journal, for core.job. Options:
 * keeps_failed, only_failed, is_optional, explains. */
static int l_journal_map(lua_State *L)
{
    tp_journal *journal = tp_core_check_ref(L, 1, &tp_journal_type);
    luaL_checktype(L, 5, LUA_TTABLE);
    tp_journal_map_config config = {
        .map = (int64_t)luaL_checknumber(L, 2),
        .version = (int64_t)luaL_checknumber(L, 3),
        .run = (int64_t)luaL_checknumber(L, 4),
        .keeps_failed = tp_core_get_boolean(L, 5, "keeps_failed"),
        .only_failed = tp_core_get_boolean(L, 5, "only_failed"),
        .is_optional = tp_core_get_boolean(L, 5, "is_optional"),
        .explains = tp_core_get_boolean(L, 5, "explains"),
    };
    tp_ref **box = tp_codec_push_box(L, &tp_journal_map_type);
    tp_journal_map *map = tp_journal_map_new(journal, &config);
    if (!map)
        return tp_codec_raise_memory(L);
    *box = (tp_ref *)map;
    return 1;
}

static const uint8_t *check_identity(lua_State *L, int index)
{
    size_t len;
    const char *id = luaL_checklstring(L, index, &len);
    luaL_argcheck(L, len == TP_IDENTITY, index, "an identity expected");
    return (const uint8_t *)id;
}

/* core.cache.map(cache, number of the function, its identity) -> the function's results in the
 * cache, as a map for core.job.open and core.journal.counts */
static int l_cache_map(lua_State *L)
{
    tp_journal *cache = tp_core_check_ref(L, 1, &tp_journal_type);
    tp_journal_map_config config = { .version = (int64_t)luaL_checknumber(L, 2), .is_cache = true };
    memcpy(config.function, check_identity(L, 3), sizeof config.function);
    tp_ref **box = tp_codec_push_box(L, &tp_journal_map_type);
    tp_journal_map *map = tp_journal_map_new(cache, &config);
    if (!map)
        return tp_codec_raise_memory(L);
    *box = (tp_ref *)map;
    return 1;
}

/* core.cache.folder(is_made) -> the folder for files that the user's programs share; `is_made`: it
 * is made when it is missing; or nil and a message */
static int l_cache_folder(lua_State *L)
{
    tp_error err = { 0 };
    const char *path = get_context(L)->host->config.cache_dir;
    int fd;
    if (!path) {
        tp_error_set(&err, TP_EUSAGE,
                     "there is no folder for one (HOME, or tp_config.cache_dir, would say "
                     "where): name a file");
        return tp_core_push_message(L, &err);
    }
    if (tp_folder_open(&fd, path, lua_toboolean(L, 1), &err))
        return tp_core_push_message(L, &err);
    if (fd >= 0)
        close(fd);
    lua_pushstring(L, path);
    return 1;
}

/* core.cache.key(identity of a function, identity of an input) -> the key of its result */
static int l_cache_key(lua_State *L)
{
    uint8_t key[TP_IDENTITY];
    tp_cache_key(check_identity(L, 1), check_identity(L, 2), key);
    lua_pushlstring(L, (const char *)key, sizeof key);
    return 1;
}

/* core.cache.trouble(map) -> why the cache is not asked any more; or nil */
static int l_cache_trouble(lua_State *L)
{
    const tp_error *err = tp_journal_map_trouble(tp_core_check_ref(L, 1, &tp_journal_map_type));
    lua_pushstring(L, err ? err->message : NULL);
    return 1;
}

/* core.journal.counts(map) -> how many inputs were known, new, changed, other inputs, failed
 * before, not kept; and for the changed ones a list of { version, how many } */
static int l_journal_counts(lua_State *L)
{
    const tp_journal_counts *c =
        tp_journal_map_counts(tp_core_check_ref(L, 1, &tp_journal_map_type));
    for (int i = 0; i < TP_JOURNAL_REASONS; i++)
        lua_pushnumber(L, (double)c->of[i]);
    lua_newtable(L);
    for (int i = 0; i < TP_JOURNAL_VERSIONS && c->changed[i].n > 0; i++) {
        lua_createtable(L, 2, 0);
        lua_pushnumber(L, (double)c->changed[i].version);
        lua_rawseti(L, -2, 1);
        lua_pushnumber(L, (double)c->changed[i].n);
        lua_rawseti(L, -2, 2);
        lua_rawseti(L, -2, i + 1);
    }
    return TP_JOURNAL_REASONS + 1;
}

/* core.journal.reasons(map) -> a list for the inputs since the last call: index, reason (its
 * position among the results of core.journal.counts), version, index, ... */
static int l_journal_reasons(lua_State *L)
{
    size_t n;
    const tp_journal_why *why =
        tp_journal_map_reasons(tp_core_check_ref(L, 1, &tp_journal_map_type), &n);
    lua_createtable(L, 3 * (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        const double values[] = { (double)why[i].index, (double)(why[i].reason + 1),
                                  (double)why[i].version };
        for (int k = 0; k < 3; k++) {
            lua_pushnumber(L, values[k]);
            lua_rawseti(L, -2, 3 * (int)i + k + 1);
        }
    }
    return 1;
}

/* core.journal.flush(journal or map) -> true once everything recorded so far is in the file; or nil
 * and a message, for a map also when something that was recorded since it began is not */
static int l_journal_flush(lua_State *L)
{
    tp_error err = { 0 };
    tp_journal_map *map = tp_codec_to_ref(L, 1, &tp_journal_map_type);
    if (map ? tp_journal_map_flush(map, &err)
            : tp_journal_flush(tp_core_check_ref(L, 1, &tp_journal_type), &err))
        return tp_core_push_message(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

typedef struct restoring {
    tp_journal *journal;
    int64_t run;
} restoring;

static int restore(void *user, const tp_ticket *t, const tp_block *items, const tp_block *results,
                   tp_error *err)
{
    restoring *r = user;
    return tp_journal_restore(r->journal, t->map, t->version, r->run, items, results, err);
}

/* core.journal.restore(journal, run, session) -> whether the session on the cluster is over; or nil
 * and a message. What it has left there is recorded then. */
static int l_journal_restore(lua_State *L)
{
    const tp_config *config = &get_context(L)->host->config;
    tp_error err = { 0 };
    restoring r = { .journal = (tp_journal *)tp_core_check_ref(L, 1, &tp_journal_type),
                    .run = (int64_t)luaL_checknumber(L, 2) };
    size_t len;
    const char *session = luaL_checklstring(L, 3, &len);
    luaL_argcheck(L, len == TP_ID_TEXT - 1 && strspn(session, "0123456789abcdef") == len, 3,
                  "no session");
    int rc = config->engine && config->token
                 ? tp_leftover_read(config->engine, config->token, session, restore, &r, &err)
                 : tp_error_set(&err, TP_EUSAGE, "there is no engine");
    if (rc < 0)
        return tp_core_push_message(L, &err);
    lua_pushboolean(L, rc == 0);
    return 1;
}

/* core.journal.session() -> the name of this host's session on a cluster, and its engine or nil */
static int l_journal_session(lua_State *L)
{
    char hex[TP_ID_TEXT];
    tp_to_hex(hex, get_context(L)->host->session, TP_ID_BYTES);
    lua_pushstring(L, hex);
    lua_pushstring(L, get_context(L)->host->config.engine); /* nil for NULL */
    return 2;
}

/* core.journal.enter(journal) -> whether it is open: then the caller uses it until it leaves */
static int l_journal_enter(lua_State *L)
{
    lua_pushboolean(L, tp_journal_enter(tp_core_check_ref(L, 1, &tp_journal_type)));
    return 1;
}

/* core.journal.leave(journal): for whoever has opened or entered it; the last user's leave closes
 * the file */
static int l_journal_leave(lua_State *L)
{
    tp_journal_leave(tp_core_check_ref(L, 1, &tp_journal_type));
    return 0;
}

/* core.journal.close(journal or map): drops the caller's reference */
static int l_journal_close(lua_State *L)
{
    luaL_argcheck(
        L, tp_codec_to_ref(L, 1, &tp_journal_type) || tp_codec_to_ref(L, 1, &tp_journal_map_type),
        1, "journal or map expected");
    tp_ref **box = lua_touserdata(L, 1);
    tp_ref *r = *box;
    *box = NULL;
    tp_ref_drop(r);
    return 0;
}

/* core.journal.values(bytes, is_whole) -> true and the values of a message from the file; or nil
 * and a message. The message follows its mark; is_whole: it has none (a failure's). */
static int l_journal_values(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    size_t mark = lua_toboolean(L, 2) ? 0 : 1;
    tp_error err = { 0 };
    if (len < mark + 1 || (mark && bytes[0] != 1)) {
        tp_error_set(&err, TP_ECODEC, "bytes that are not a value");
        return tp_core_push_message(L, &err);
    }
    lua_pushboolean(L, 1);
    int n = tp_decode(L, (const uint8_t *)bytes + mark, len - mark, NULL, 0, 0, NULL, &err);
    return n < 0 ? tp_core_push_message(L, &err) : n + 1;
}

/* core.journal.pack(value) -> the value as bytes for core.journal.values; nil when a file cannot
 * keep it */
static int l_journal_pack(lua_State *L)
{
    context *ctx = get_context(L);
    tp_error err = { 0 };
    lua_settop(L, 1);
    tp_codec_new_epoch(L);
    tp_buf_clear(&ctx->scratch);
    if (tp_buf_add(&ctx->scratch, "\1", 1))
        return tp_codec_raise_memory(L);
    const unsigned flags = TP_ENCODE_NO_CODE | TP_ENCODE_COPIES | TP_ENCODE_ELEMENTS;
    if (tp_encode(L, 1, 1, NULL, flags, &ctx->scratch, &err) || ctx->scratch.nrefs > 0)
        return 0;
    lua_pushlstring(L, (const char *)ctx->scratch.data, ctx->scratch.len);
    /* can it be decoded as an untrusted message, which is how it will be read from the file? */
    bool is_enough = tp_decode(L, ctx->scratch.data + 1, ctx->scratch.len - 1, NULL, 0, 0, NULL,
                               &err) == 1;
    lua_settop(L, 2);
    return is_enough ? 1 : 0;
}

static const luaL_Reg journal_functions[] = {
    { "open", l_journal_open },
    { "read", l_journal_read },
    { "query", l_journal_query },
    { "map", l_journal_map },
    { "counts", l_journal_counts },
    { "reasons", l_journal_reasons },
    { "flush", l_journal_flush },
    { "restore", l_journal_restore },
    { "session", l_journal_session },
    { "enter", l_journal_enter },
    { "leave", l_journal_leave },
    { "close", l_journal_close },
    { "values", l_journal_values },
    { "pack", l_journal_pack },
    { NULL, NULL },
};

static const luaL_Reg cache_functions[] = {
    { "map", l_cache_map },
    { "folder", l_cache_folder },
    { "key", l_cache_key },
    { "trouble", l_cache_trouble },
    { NULL, NULL },
};

void tp_core_register_journal(lua_State *L)
{
    tp_codec_ref_type(L, &tp_journal_type);
    tp_codec_ref_type(L, &tp_journal_map_type);
    lua_pop(L, 2); /* the metatables, which the registry keeps */
    if (luaL_newmetatable(L, READER)) {
        lua_pushcfunction(L, l_reader_gc);
        lua_setfield(L, -2, "__gc");
    }
    lua_pop(L, 1);
    tp_core_register(L, "journal", journal_functions);
    tp_core_register(L, "cache", cache_functions);
}
