/* journal.c: the file, its lock and the thread that writes to it. */
#include "journal/journal_private.h"

#include "base/command.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    /* how long a recorded result may wait for others to be written with it */
    BATCH_NS = 100 * 1000000,
    BATCH_BYTES = 1 << 20,     /* so many bytes of results are written without waiting for more */
    QUEUE_BYTES = 16 << 20,    /* with more than this in the queue, recording waits */
    CHECKS = 16 /* a cache checks its size each time it has grown by a 16th of its limit */
};

struct tp_journal {
    tp_ref ref; /* owners: the Lua state, each map */

    /* Set by tp_journal_open, read-only until it is shut (by the thread of its last user). */
    char *path, *lock_path;
    int lock_fd;
    uint64_t cache_bytes; /* 0: it is a journal */
    tp_sqlite *owner; /* the connection of the owner's thread, with: */
    sqlite3_stmt *select;
    uv_thread_t thread;
    bool has_lock, has_changed, has_thread;

    /* the connection of the writing thread (and of the owner until the thread starts), with: */
    tp_sqlite *writer;
    sqlite3_stmt *insert, *use; /* `use` only in a cache */
    /* of a cache: bytes written since its size was checked; UINT64_MAX: it never was */
    uint64_t growth;

    uv_mutex_t lock;
    uv_cond_t changed; /* signalled when anything below changes */
    /* ---- guarded by lock ---- */
    tp_buf queue;
    uint64_t n_recorded, n_written; /* rows */
    unsigned n_flushing; /* threads that wait for n_written to reach what they recorded */
    unsigned n_users; /* those who need it open: whoever opened or entered it, each map */
    bool is_closing, is_shut;
    /* how many writes have failed, and why the last one; each map that was there then has lost
     * results, and records nothing any more */
    unsigned failures;
    tp_error error;
};

/* ---- one process at a time ---- */

/* The name that the process which holds a lock has written into the lock's file. */
static void read_holder(int fd, char *to, size_t size)
{
    ssize_t n = pread(fd, to, size - 1, 0);
    to[n > 0 ? n : 0] = '\0';
    to[strcspn(to, "\n")] = '\0';
}

/* Writes this process's name into its lock's file, for others that find it locked. */
static void write_holder(int fd)
{
    char name[200], command[160];
    int n = tp_command(command, sizeof command)
                ? snprintf(name, sizeof name, "process %ld (%s)", (long)getpid(), command)
                : snprintf(name, sizeof name, "process %ld", (long)getpid());
    if (ftruncate(fd, 0) || pwrite(fd, name, (size_t)n, 0) < 0)
        return; /* the file then has no name in it: messages will do without */
}

/* The lock is on a file beside the journal and ends with the process, however that ends. (It is not
 * on the journal itself, since SQLite's own locks there end when any descriptor of the journal is
 * closed.) An orderly end removes the file; a process that has opened it meanwhile notices that it
 * is not the one that the path names now. */
static int take_lock(tp_journal *j, tp_error *err)
{
    for (;;) {
        int fd = open(j->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (fd < 0)
            return tp_error_set(err, TP_ESYS, "%.200s: cannot open %.200s: %s", j->path,
                                j->lock_path, strerror(errno));
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            char holder[200];
            int why = errno;
            read_holder(fd, holder, sizeof holder);
            close(fd);
            if (why == EWOULDBLOCK)
                return tp_error_set(err, TP_EUSAGE, "%.200s is in use by %s", j->path,
                                    holder[0] ? holder : "another process");
            return tp_error_set(err, TP_ESYS, "cannot lock %.200s: %s", j->lock_path,
                                strerror(why));
        }
        struct stat here, there;
        if (fstat(fd, &here) == 0 && stat(j->lock_path, &there) == 0 &&
            here.st_ino == there.st_ino && here.st_dev == there.st_dev) {
            j->lock_fd = fd;
            write_holder(fd);
            return 0;
        }
        close(fd);
    }
}

/* ---- the thread ---- */

/* Writes the rows of a queue in one transaction. */
static int write_rows(tp_journal *j, const tp_buf *queue, tp_error *err)
{
    tp_sqlite *s = j->writer;
    if (tp_sqlite_run(s, "begin immediate", "write to it", err))
        return -1;
    for (const uint8_t *p = queue->data; p < queue->data + queue->len;) {
        sqlite3_stmt *statement = tp_row_state(p) == ROW_USED ? j->use : j->insert;
        p = tp_row_bind(s, statement, p);
        int rc = s->step(statement);
        s->reset(statement);
        if (rc != SQLITE_DONE) {
            tp_sqlite_fail(s, "write to it", err);
            s->exec(s->db, "rollback", NULL, NULL, NULL);
            return -1;
        }
    }
    if (tp_sqlite_run(s, "commit", "write to it", err) == 0)
        return 0;
    s->exec(s->db, "rollback", NULL, NULL, NULL);
    return -1;
}

/* When a cache is larger than its limit, removes the results that were used longest ago until it is
 * somewhat below the limit. Other processes may write to it meanwhile. */
static int shrink(tp_journal *j, size_t written, tp_error *err)
{
    char sql[300];
    if (j->growth != UINT64_MAX)
        j->growth += written;
    if (j->growth < j->cache_bytes / CHECKS)
        return 0;
    j->growth = 0;
    snprintf(sql, sizeof sql,
             "delete from results where (select total(bytes) from results) > %llu and key in"
             " (select key from (select key, sum(bytes) over (order by used desc, key) as "
             "with_newer from results) where with_newer > %llu);"
             "pragma incremental_vacuum",
             (unsigned long long)j->cache_bytes,
             (unsigned long long)(j->cache_bytes - j->cache_bytes / CHECKS));
    return tp_sqlite_run(j->writer, sql, "write to it", err);
}

/* Locked. Waits for more results to write together, unless there is enough or somebody waits. */
static void gather(tp_journal *j)
{
    uint64_t until = uv_hrtime() + BATCH_NS, now;
    while (!j->is_closing && !j->n_flushing && j->queue.len < BATCH_BYTES &&
           (now = uv_hrtime()) < until)
        uv_cond_timedwait(&j->changed, &j->lock, until - now);
}

static void run(void *arg)
{
    tp_journal *j = arg;
    tp_buf batch = { 0 };
    uv_mutex_lock(&j->lock);
    for (;;) {
        while (j->queue.len == 0 && !j->is_closing)
            uv_cond_wait(&j->changed, &j->lock);
        if (j->queue.len == 0)
            break;
        gather(j);
        tp_buf queue = j->queue;
        j->queue = batch;
        batch = queue;
        uint64_t until = j->n_recorded;
        uv_mutex_unlock(&j->lock);
        tp_error err = { 0 };
        int rc = write_rows(j, &batch, &err);
        if (rc == 0 && j->cache_bytes)
            rc = shrink(j, batch.len, &err);
        tp_buf_clear(&batch);
        uv_mutex_lock(&j->lock);
        j->n_written = until;
        if (rc) {
            j->error = err;
            j->failures++;
        }
        uv_cond_broadcast(&j->changed);
    }
    uv_mutex_unlock(&j->lock);
    tp_buf_free(&batch);
}

/* ---- opening and closing ---- */

/* Writes what is in the queue, and closes the file. */
static void shut(tp_journal *j)
{
    if (j->has_thread) {
        uv_mutex_lock(&j->lock);
        j->is_closing = true;
        uv_cond_broadcast(&j->changed);
        uv_mutex_unlock(&j->lock);
        uv_thread_join(&j->thread);
    }
    if (j->insert)
        j->writer->finalize(j->insert);
    if (j->use)
        j->writer->finalize(j->use);
    tp_sqlite_close(j->writer);
    if (j->select)
        j->owner->finalize(j->select);
    /* closing the last connection writes the log beside the file (WAL) into it */
    tp_sqlite_close(j->owner);
    j->owner = NULL;
    if (j->lock_fd >= 0) {
        unlink(j->lock_path);
        close(j->lock_fd);
    }
}

/* The last drop: nobody holds the journal any more. A user that has not called tp_journal_leave has
 * left it open. */
static void free_journal(tp_ref *ref)
{
    tp_journal *j = (tp_journal *)ref;
    if (!j->is_shut)
        shut(j);
    if (j->has_changed)
        uv_cond_destroy(&j->changed);
    if (j->has_lock)
        uv_mutex_destroy(&j->lock);
    tp_buf_free(&j->queue);
    free(j->path);
    free(j->lock_path);
    free(j);
}

bool tp_journal_enter(tp_journal *j)
{
    uv_mutex_lock(&j->lock);
    while (j->n_users == 0 && !j->is_shut)
        uv_cond_wait(&j->changed, &j->lock);
    bool is_open = j->n_users > 0;
    j->n_users += is_open;
    uv_mutex_unlock(&j->lock);
    return is_open;
}

void tp_journal_leave(tp_journal *j)
{
    uv_mutex_lock(&j->lock);
    TP_ASSERT(j->n_users > 0);
    bool is_last = --j->n_users == 0;
    uv_mutex_unlock(&j->lock);
    if (!is_last)
        return;
    shut(j);
    uv_mutex_lock(&j->lock);
    j->is_shut = true;
    uv_cond_broadcast(&j->changed);
    uv_mutex_unlock(&j->lock);
}

const tp_ref_type tp_journal_type = { "tidepool.journal", free_journal };

/* Prepares a statement on the writer's connection. */
static int prepare(tp_journal *j, sqlite3_stmt **to, const char *sql, tp_error *err)
{
    tp_sqlite *s = j->writer;
    return s->prepare_v2(s->db, sql, -1, to, NULL) == SQLITE_OK
               ? 0
               : tp_sqlite_fail(s, "write to it", err);
}

int tp_journal_open(tp_journal **out, const char *path, uint64_t cache_bytes, tp_error *err)
{
    const tp_schema *schema = cache_bytes ? &tp_schema_cache : &tp_schema_journal;
    int rc = -1;
    tp_journal *j = calloc(1, sizeof *j);
    if (!j)
        return tp_error_oom(err, schema->what);
    tp_ref_init(&j->ref, &tp_journal_type);
    j->lock_fd = -1;
    j->n_users = 1;
    j->cache_bytes = cache_bytes;
    j->growth = UINT64_MAX;
    j->path = strdup(path);
    j->lock_path = malloc(strlen(path) + 6);
    if (!j->path || !j->lock_path) {
        tp_error_oom(err, schema->what);
        goto out;
    }
    sprintf(j->lock_path, "%s-lock", path);
    if (!cache_bytes && take_lock(j, err))
        goto out;
    if (tp_sqlite_open(&j->owner, path, schema->what, true, err) ||
        tp_schema_open(j->owner, schema, err) ||
        tp_sqlite_open(&j->writer, path, schema->what, true, err) ||
        tp_sqlite_run(j->writer, "pragma synchronous = normal", "open it", err))
        goto out;
    if (prepare(j, &j->insert, cache_bytes ? tp_row_insert_result : tp_row_insert, err) ||
        (cache_bytes && prepare(j, &j->use, tp_row_use_result, err)))
        goto out;
    j->has_lock = uv_mutex_init(&j->lock) == 0;
    j->has_changed = uv_cond_init(&j->changed) == 0;
    j->has_thread = j->has_lock && j->has_changed && tp_thread_create(&j->thread, 0, run, j) == 0;
    if (!j->has_thread) {
        tp_error_set(err, TP_ESYS, "%.300s: cannot start the thread that writes to it", path);
        goto out;
    }
    *out = j;
    j = NULL;
    rc = 0;
out:
    tp_ref_drop(j);
    return rc;
}

tp_sqlite *tp_journal_connection(tp_journal *j)
{
    return j->owner;
}

sqlite3_stmt *tp_journal_select(tp_journal *j, const char *sql, tp_error *err)
{
    if (!j->select && j->owner->prepare_v2(j->owner->db, sql, -1, &j->select, NULL) != SQLITE_OK)
        tp_sqlite_fail(j->owner, "read it", err);
    return j->select;
}

unsigned tp_journal_failures(tp_journal *j)
{
    uv_mutex_lock(&j->lock);
    unsigned n = j->failures;
    uv_mutex_unlock(&j->lock);
    return n;
}

/* Locked. Sets err and returns -1 when a write has failed since there were so many failures. */
static int check(const tp_journal *j, unsigned since, tp_error *err)
{
    return j->failures == since ? 0 : tp_error_set(err, j->error.code, "%s", j->error.message);
}

int tp_journal_flush_since(tp_journal *j, unsigned since, tp_error *err)
{
    uv_mutex_lock(&j->lock);
    uint64_t until = j->n_recorded;
    j->n_flushing++;
    if (j->n_written < until)
        uv_cond_broadcast(&j->changed);
    while (j->n_written < until && j->failures == since)
        uv_cond_wait(&j->changed, &j->lock);
    j->n_flushing--;
    int rc = check(j, since, err);
    uv_mutex_unlock(&j->lock);
    return rc;
}

int tp_journal_flush(tp_journal *j, tp_error *err)
{
    return tp_journal_flush_since(j, tp_journal_failures(j), err);
}

/* ---- recording ---- */

/* Moves rows into the queue, unless a write has failed since there were so many failures.
 * `may_wait`: waits until there is room for them; otherwise they are dropped when there is none. */
static int enqueue(tp_journal *j, tp_buf *rows, uint64_t n, unsigned since, bool may_wait,
                   tp_error *err)
{
    uv_mutex_lock(&j->lock);
    while (may_wait && j->queue.len > QUEUE_BYTES && j->failures == since)
        uv_cond_wait(&j->changed, &j->lock);
    bool was_empty = j->queue.len == 0, has_room = j->queue.len <= QUEUE_BYTES;
    int rc = check(j, since, err);
    if (rc || !has_room || rows->len == 0) {
        n = 0;
    } else if (was_empty) {
        tp_buf empty = j->queue;
        j->queue = *rows;
        *rows = empty;
    } else if (tp_buf_add(&j->queue, rows->data, rows->len)) {
        rc = tp_error_oom(err, "journal");
        n = 0;
    }
    j->n_recorded += n;
    if (was_empty || j->queue.len > BATCH_BYTES)
        uv_cond_broadcast(&j->changed);
    uv_mutex_unlock(&j->lock);
    return rc;
}

int tp_journal_record(tp_journal *j, unsigned since, row *head, int64_t map, const tp_block *inputs,
                      const tp_block *results, uint64_t end, const tp_ran *ran, tp_error *err)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    head->duration = ran->ns_per_item * 1e-9;
    head->started = (double)now.tv_sec + (double)now.tv_nsec * 1e-9 - head->duration;
    head->worker = ran->worker;
    tp_buf rows = { 0 }, scratch = { 0 };
    uint64_t n = 0;
    int rc = 0;
    for (const tp_block *b = results; b && rc == 0; b = b->next) {
        uint64_t until = b->first + b->n < end ? b->first + b->n : end;
        for (uint32_t k = 0; b->first + k < until && rc == 0 && b->kind != TP_BLOCK_PARTIALS; k++) {
            uint32_t offset = (uint32_t)(b->first + k - inputs->first);
            const tp_tag *tag = inputs->tags ? &inputs->tags[offset] : NULL;
            head->id = tp_item_id(map, b->first + k + 1);
            head->attempts = ran->attempt + (tag ? tag->attempts : 0);
            head->has_identity = tag != NULL;
            if (tag)
                memcpy(head->identity, tag->identity, sizeof head->identity);
            rc = tp_row_write(&rows, head, inputs, offset, b, k, &scratch);
            n += rc == 0;
        }
    }
    rc = rc ? tp_error_oom(err, "journal") : enqueue(j, &rows, n, since, true, err);
    tp_buf_free(&rows);
    tp_buf_free(&scratch);
    return rc;
}

int tp_journal_restore(tp_journal *j, int64_t map, int64_t version, int64_t run,
                       const tp_block *items, const tp_block *results, tp_error *err)
{
    char sql[300];
    int64_t n;
    const tp_ran ran = { .attempt = 1 };
    row head = { .version = version, .run = run };
    if (map <= 0 || map > INT32_MAX || items->first >> (TP_INDEX_BITS - 1))
        return tp_error_set(err, TP_EUSAGE, "results of no map");
    snprintf(sql, sizeof sql, "select count(*) from versions where version = %lld and map = %lld",
             (long long)version, (long long)map);
    if (tp_sqlite_ask(tp_journal_connection(j), sql, &n, err))
        return -1;
    if (n == 0)
        return 0;
    snprintf(sql, sizeof sql,
             "select count(*) from items where id between %lld and %lld and state = 'done'",
             (long long)tp_item_id(map, items->first + 1),
             (long long)tp_item_id(map, items->first + items->n));
    if (tp_sqlite_ask(tp_journal_connection(j), sql, &n, err))
        return -1;
    unsigned since = tp_journal_failures(j);
    return n >= items->n ? 0 : tp_journal_record(j, since, &head, map, items, results, UINT64_MAX,
                                               &ran, err);
}

void tp_journal_touch(tp_journal *j, const uint8_t key[16])
{
    row r = { .state = ROW_USED, .started = (double)time(NULL), .has_identity = true };
    memcpy(r.identity, key, sizeof r.identity);
    tp_buf rows = { 0 };
    if (tp_buf_add(&rows, &r, sizeof r))
        return; /* then the result may be removed somewhat earlier */
    tp_error ignored = { 0 };
    enqueue(j, &rows, 1, tp_journal_failures(j), false, &ignored);
    tp_buf_free(&rows);
}
