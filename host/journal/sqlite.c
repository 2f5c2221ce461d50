/* sqlite.c: loads SQLite, opens connections, and says in words what went wrong. */
#include "journal/sqlite.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

/* Constants of sqlite3.h. */
enum {
    OPEN_READONLY = 1,
    OPEN_READWRITE = 2,
    OPEN_CREATE = 4,
    OPEN_URI = 0x40,
    OPEN_NOMUTEX = 0x8000
};
enum {
    PERM = 3,
    BUSY = 5,
    LOCKED = 6,
    NOMEM = 7,
    READONLY = 8,
    IOERR = 10,
    CORRUPT = 11,
    FULL = 13,
    CANTOPEN = 14,
    NOTADB = 26
};
enum { LIMIT_LENGTH = 0 };

enum {
    /* how long to wait for another program that is reading or writing the file */
    PATIENCE_MS = 10000,
    BUSY_MS = 2, /* between tries where SQLite does not wait itself */
    VALUE_MAX = 1 << 30      /* bytes of one value: a file from elsewhere may claim anything */
};

static int load(tp_sqlite *s, tp_error *err)
{
    s->library = dlopen("libsqlite3.so.0", RTLD_NOW | RTLD_LOCAL);
    if (!s->library)
        return tp_error_set(err, TP_ESYS,
                            "a %s needs SQLite (libsqlite3.so.0), which is not installed: on "
                            "Debian, apt install libsqlite3-0",
                            s->what);
#define LOAD(result, name, arguments) \
    *(void **)&s->name = dlsym(s->library, "sqlite3_" #name); \
    if (!s->name) \
        return tp_error_set(err, TP_ESYS, "libsqlite3.so.0 is too old: it has no sqlite3_" #name);
    TP_SQLITE_FUNCTIONS(LOAD)
#undef LOAD
    return 0;
}

int tp_sqlite_fail(tp_sqlite *s, const char *what, tp_error *err)
{
    int code = s->db ? s->extended_errcode(s->db) : CANTOPEN;
    const char *message = s->db ? s->errmsg(s->db) : "out of memory";
    struct stat at;
    switch (code & 0xff) {
    case NOTADB:
        return tp_error_set(err, TP_EUSAGE, "%.300s is no %s: it is not an SQLite database",
                            s->path, s->what);
    case CORRUPT:
        return tp_error_set(err, TP_ESYS, "%.300s is damaged: %.100s", s->path, message);
    case FULL:
        return tp_error_set(err, TP_ESYS, "%.300s: cannot %s: the disk is full", s->path, what);
    case READONLY:
    case PERM:
        return tp_error_set(err, TP_ESYS, "%.300s: cannot %s: it, or its folder, is read-only",
                            s->path, what);
    case BUSY:
    case LOCKED:
        return tp_error_set(err, TP_ESYS, "%.300s: cannot %s: another program keeps it locked",
                            s->path, what);
    case CANTOPEN:
        if (stat(s->path, &at) == 0 && S_ISDIR(at.st_mode))
            return tp_error_set(err, TP_EUSAGE, "%.300s is no %s: it is a folder", s->path,
                                s->what);
        return tp_error_set(
            err, TP_ESYS,
            "%.300s: cannot %s: the file cannot be opened (is its folder there, and writable?)",
            s->path, what);
    case NOMEM:
        return tp_error_oom(err, s->what);
    default:
        return tp_error_set(err, TP_ESYS, "%.300s: cannot %s: %.100s", s->path, what, message);
    }
}

/* Opens the file as a URI, percent-encoded, with `immutable=1`: in a folder that may not be written
 * SQLite cannot make its lock files. */
static int open_immutable(tp_sqlite *s)
{
    static const char hex[] = "0123456789abcdef";
    char *uri = malloc(3 * strlen(s->path) + 32), *p = uri;
    if (!uri)
        return NOMEM;
    memcpy(p, "file:", 5);
    p += 5;
    for (const char *c = s->path; *c; c++) {
        if (strchr("?#%", *c)) {
            *p++ = '%';
            *p++ = hex[(unsigned char)*c >> 4];
            *p++ = hex[*c & 15];
        } else {
            *p++ = *c;
        }
    }
    strcpy(p, "?immutable=1");
    s->close_v2(s->db);
    s->db = NULL;
    int rc = s->open_v2(uri, &s->db, OPEN_READONLY | OPEN_URI | OPEN_NOMUTEX, NULL);
    free(uri);
    return rc;
}

static bool can_read(tp_sqlite *s)
{
    return s->exec(s->db, "select count(*) from sqlite_master", NULL, NULL, NULL) == SQLITE_OK;
}

int tp_sqlite_ask(tp_sqlite *s, const char *sql, int64_t *to, tp_error *err)
{
    sqlite3_stmt *statement;
    if (s->prepare_v2(s->db, sql, -1, &statement, NULL) != SQLITE_OK)
        return tp_sqlite_fail(s, "read it", err);
    int rc = s->step(statement);
    *to = rc == SQLITE_ROW ? s->column_int64(statement, 0) : 0;
    s->finalize(statement);
    return rc == SQLITE_ROW || rc == SQLITE_DONE ? 0 : tp_sqlite_fail(s, "read it", err);
}

/* Refuses a file that was cut off in the middle of a page, which SQLite would read as zeros. Such a
 * file is right only while its log, which lies beside it, still has to be written into it. (The
 * file is not opened to look: closing the descriptor would end SQLite's locks.) */
static int check_end(tp_sqlite *s, tp_error *err)
{
    struct stat file, log;
    char beside[4096];
    int64_t page;
    if (tp_sqlite_ask(s, "pragma page_size", &page, err))
        return -1;
    snprintf(beside, sizeof beside, "%s-wal", s->path);
    if (page > 0 && stat(s->path, &file) == 0 && file.st_size % page != 0 &&
        (stat(beside, &log) || log.st_size == 0))
        return tp_error_set(err, TP_ESYS, "%.300s is damaged: its end has been cut off", s->path);
    return 0;
}

int tp_sqlite_open(tp_sqlite **out, const char *path, const char *what, bool may_write,
                   tp_error *err)
{
    int rc = -1;
    tp_sqlite *s = calloc(1, sizeof *s);
    if (!s)
        return tp_error_oom(err, what);
    s->what = what;
    s->path = strdup(path);
    if (!s->path) {
        tp_error_oom(err, what);
        goto out;
    }
    if (load(s, err))
        goto out;
    if (!may_write && access(path, F_OK)) {
        tp_error_set(err, TP_EUSAGE, "cannot read %.300s: %s", path, strerror(errno));
        goto out;
    }
    /* A reader also opens the file for writing where it may: its connection, if it is the last,
     * removes the log beside the file. */
    if (s->open_v2(path, &s->db, OPEN_READWRITE | (may_write ? OPEN_CREATE : 0) | OPEN_NOMUTEX,
                   NULL) != SQLITE_OK) {
        tp_sqlite_fail(s, "open it", err);
        goto out;
    }
    s->busy_timeout(s->db, PATIENCE_MS);
    s->limit(s->db, LIMIT_LENGTH, VALUE_MAX);
    if (!can_read(s)) {
        int code = s->extended_errcode(s->db) & 0xff;
        bool may_be_locked_out = !may_write &&
                                 (code == CANTOPEN || code == READONLY || code == PERM);
        if (!may_be_locked_out || open_immutable(s) != SQLITE_OK || !can_read(s)) {
            tp_sqlite_fail(s, may_write ? "open it" : "read it", err);
            goto out;
        }
    }
    if (check_end(s, err))
        goto out;
    if (!may_write &&
        tp_sqlite_run(s, "pragma query_only = on; pragma trusted_schema = off", "read it", err))
        goto out;
    *out = s;
    s = NULL;
    rc = 0;
out:
    tp_sqlite_close(s);
    return rc;
}

void tp_sqlite_close(tp_sqlite *s)
{
    if (!s)
        return;
    if (s->db)
        s->close_v2(s->db);
    if (s->library)
        dlclose(s->library);
    free(s->path);
    free(s);
}

int tp_sqlite_run(tp_sqlite *s, const char *sql, const char *what, tp_error *err)
{
    return s->exec(s->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : tp_sqlite_fail(s, what, err);
}

int tp_sqlite_run_patiently(tp_sqlite *s, const char *sql, const char *what, tp_error *err)
{
    const uint64_t until = uv_hrtime() + PATIENCE_MS * 1000000ull;
    while (s->exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        int code = s->extended_errcode(s->db) & 0xff;
        if (code != BUSY || uv_hrtime() > until)
            return tp_sqlite_fail(s, what, err);
        uv_sleep(BUSY_MS);
    }
    return 0;
}
