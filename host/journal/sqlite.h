/* sqlite.h: the SQLite of this machine, and a connection to a file.
 *
 * The library (libsqlite3.so.0) is loaded at its first use and never linked, so that a program
 * without a journal neither needs it nor takes longer to start. The part of its interface that is
 * used (sqlite3.h is in the public domain and stable) is declared here. */
#ifndef TP_SQLITE_H
#define TP_SQLITE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sqlite3 sqlite3;
typedef struct sqlite3_stmt sqlite3_stmt;

enum { SQLITE_OK = 0, SQLITE_ROW = 100, SQLITE_DONE = 101 };
enum { SQLITE_INTEGER = 1, SQLITE_FLOAT, SQLITE_TEXT, SQLITE_BLOB, SQLITE_NULL };

#define TP_SQLITE_FUNCTIONS(X)                                                            \
    X(int, open_v2, (const char *, sqlite3 **, int, const char *))                        \
    X(int, close_v2, (sqlite3 *))                                                         \
    X(int, exec,                                                                          \
      (sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **)) \
    X(int, prepare_v2, (sqlite3 *, const char *, int, sqlite3_stmt **, const char **))    \
    X(int, step, (sqlite3_stmt *))                                                        \
    X(int, reset, (sqlite3_stmt *))                                                       \
    X(int, finalize, (sqlite3_stmt *))                                                    \
    X(int, clear_bindings, (sqlite3_stmt *))                                              \
    X(int, bind_null, (sqlite3_stmt *, int))                                              \
    X(int, bind_double, (sqlite3_stmt *, int, double))                                    \
    X(int, bind_int64, (sqlite3_stmt *, int, int64_t))                                    \
    X(int, bind_text, (sqlite3_stmt *, int, const char *, int, void (*)(void *)))         \
    X(int, bind_blob, (sqlite3_stmt *, int, const void *, int, void (*)(void *)))         \
    X(int, column_count, (sqlite3_stmt *))                                                \
    X(int, column_type, (sqlite3_stmt *, int))                                            \
    X(double, column_double, (sqlite3_stmt *, int))                                       \
    X(int64_t, column_int64, (sqlite3_stmt *, int))                                       \
    X(const unsigned char *, column_text, (sqlite3_stmt *, int))                          \
    X(const void *, column_blob, (sqlite3_stmt *, int))                                   \
    X(int, column_bytes, (sqlite3_stmt *, int))                                           \
    X(const char *, errmsg, (sqlite3 *))                                                  \
    X(int, extended_errcode, (sqlite3 *))                                                 \
    X(int, busy_timeout, (sqlite3 *, int))                                                \
    X(int, limit, (sqlite3 *, int, int))

/* A connection: used by one thread at a time. */
typedef struct tp_sqlite {
    void *library;
    sqlite3 *db;
    char *path;
    const char *what; /* what the file should be, for messages: "journal" */
#define TP_SQLITE_FIELD(result, name, arguments) result (*name) arguments;
    TP_SQLITE_FUNCTIONS(TP_SQLITE_FIELD)
#undef TP_SQLITE_FIELD
} tp_sqlite;

/* Opens the file for reading, or with `may_write` for writing too, and then makes it when it is
 * missing. Messages call it a `what`. -1 with err set: what is wrong with which file, or that the
 * library is missing and how to get it. */
int tp_sqlite_open(tp_sqlite **out, const char *path, const char *what, bool may_write,
                   tp_error *err);
void tp_sqlite_close(tp_sqlite *s); /* accepts NULL */

/* Sets err from the connection's last error: "run.db: cannot <what>: <why>". Returns -1. */
int tp_sqlite_fail(tp_sqlite *s, const char *what, tp_error *err);

/* Gives the number in the first column of a statement's first row; 0 when there is no row. */
int tp_sqlite_ask(tp_sqlite *s, const char *sql, int64_t *to, tp_error *err);

/* Runs statements that give no rows. */
int tp_sqlite_run(tp_sqlite *s, const char *sql, const char *what, tp_error *err);

/* The same for one that SQLite gives up at once while another program writes, since it reads before
 * it writes (https://www.sqlite.org/c3ref/busy_handler.html): tries again for as long as SQLite
 * waits elsewhere. */
int tp_sqlite_run_patiently(tp_sqlite *s, const char *sql, const char *what, tp_error *err);

#endif
