/* schema.c: the tables of a journal's file, and of a cache's. docs/journal.md has them for other
 * programs. */
#include "journal/schema.h"

#include <string.h>

/* Tables that were added without a new version, so that older files may lack them: `starts` (for
 * each map of a run the key of its random numbers and its executor), the parameters of an instance
 * for versions of its methods, and sessions on a cluster, whose server may have results that this
 * file lacks. */
#define ADDED                                                                                     \
    "create table if not exists starts (map integer, run integer, executor text, stream blob, "   \
    "primary key (map, run)) without rowid;"                                                      \
    "create table if not exists instances (version integer primary key, identity blob, "          \
    "parameters blob);"                                                                           \
    "create table if not exists sessions (session text primary key, engine text);"

static const char create_journal[] =
    "begin immediate;"
    "pragma application_id = 1414541418;" /* "TPlj" */
    "pragma user_version = 1;"
    "create table runs (run integer primary key, started real, ended real, process integer, host "
    "text, program text);"
    "create table maps (map integer primary key, name text unique, function text, program text, "
    "inputs integer, finished real);"
    "create table versions (version integer primary key, map integer, created real, identity blob);"
    "create table parts (version integer, position integer, name text, identity blob);"
    "create table items (id integer primary key, state text, attempts integer, started real, "
    "duration real, worker integer, run integer,"
    " version integer, identity blob, input, result, kind text, message text, failure blob);"
    "create view results as select maps.name as map, items.id & 1099511627775 as \"index\", "
    "items.state, items.attempts,"
    " datetime(items.started, 'unixepoch') as started, items.duration, items.worker, runs.host, "
    "items.kind, items.message, items.input, items.result"
    " from items join maps on maps.map = items.id >> 40 left join runs on runs.run = items.run;"
    ADDED "commit;";

/* `used`: about when the result was written or last found; `bytes`: about what it takes in the
 * file. */
static const char create_cache[] =
    "begin immediate;"
    "pragma application_id = 1414542179;" /* "TPcc" */
    "pragma user_version = 1;"
    "create table if not exists functions (function integer primary key, name text, program text, "
    "identity blob unique);"
    "create table if not exists results (key blob primary key, function integer, used real, "
    "duration real, input, result, bytes integer) without rowid;"
    "create index if not exists by_use on results (used, bytes);"
    "create index if not exists by_function on results (function);"
    "commit;";

const tp_schema tp_schema_journal = { "journal", 1414541418, 1, "", create_journal, ADDED };
const tp_schema tp_schema_cache = { "cache", 1414542179, 1, "pragma auto_vacuum = incremental",
                                    create_cache, "" };

int tp_schema_check(tp_sqlite *s, const tp_schema *schema, bool *is_empty, tp_error *err)
{
    int64_t application, version, tables;
    /* in one transaction, since another program may be making the tables */
    if (tp_sqlite_run(s, "begin", "read it", err))
        return -1;
    int rc = tp_sqlite_ask(s, "pragma application_id", &application, err) ||
             tp_sqlite_ask(s, "pragma user_version", &version, err) ||
             tp_sqlite_ask(s, "select count(*) from sqlite_master", &tables, err);
    s->exec(s->db, "rollback", NULL, NULL, NULL); /* it has written nothing */
    if (rc)
        return -1;
    *is_empty = tables == 0 && application == 0;
    if (*is_empty)
        return 0;
    if (application != schema->application)
        return tp_error_set(err, TP_EUSAGE,
                            "%.300s is no %s, but an SQLite database of another program", s->path,
                            schema->what);
    if (version != schema->version)
        return tp_error_set(
            err, TP_EUSAGE,
            "%.300s is a %s of version %lld, made by a newer Tidepool: this one reads version %lld",
            s->path, schema->what, (long long)version, (long long)schema->version);
    return 0;
}

int tp_schema_open(tp_sqlite *s, const tp_schema *schema, tp_error *err)
{
    bool is_empty;
    if (tp_schema_check(s, schema, &is_empty, err))
        return -1;
    if (is_empty && tp_sqlite_run(s, schema->prepare, "write to it", err))
        return -1;
    if (tp_sqlite_run_patiently(s, "pragma journal_mode = wal", "write to it", err) ||
        tp_sqlite_run(s, "pragma synchronous = normal; pragma trusted_schema = off", "write to it",
                      err))
        return -1;
    return tp_sqlite_run(s, is_empty ? schema->create : schema->add, "write to it", err);
}
