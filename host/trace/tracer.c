/* tracer.c: the thread that reads a host's events and writes them. It is the only reader of the
 * ring (base/trace.h).
 *
 * It looks every PAUSE_MS, so that the ring does not overflow, and writes when much has gathered or
 * FLUSH_NS have passed, so that the file of a script that is killed lacks only its end. */
#include "trace/tracer.h"

#include "base/thread.h"
#include "engine/job.h"
#include "runtime/runtime.h"
#include "trace/chrome.h"
#include "trace/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    EVENTS = 1 << 16, /* that the ring holds */
    BATCH = 1024,     /* events that are read at once */
    PAUSE_MS = 4,
    EXPLAIN_NS = 10 * 1000000, /* between two looks why workers wait */
    COUNT_NS = 50 * 1000000, /* between two values of the counters */
    FLUSH_NS = 200 * 1000000,
    FULL = 256 << 10, /* bytes that are written at once */
    STACK_BYTES = 256 << 10
};

struct tp_tracer {
    /* Set by tp_tracer_open, read-only afterwards. */
    tp_host *host;
    tp_trace *trace;
    uv_thread_t thread;
    char *path;

    uv_mutex_t lock;
    uv_cond_t cond; /* is_ending has changed */
    bool is_ending; /* guarded by lock */

    /* ---- the thread's own, and the owner's when there is no thread ---- */
    tp_trace_file *file;
    tp_chrome *chrome;
    tp_buf out; /* not written yet */
    uint64_t explained_ns, counted_ns, flushed_ns, lost;
    tp_event events[BATCH];
    tp_error error; /* the first one; nothing is written after it */
};

/* Says, once, that the trace ends here. */
static void fail(tp_tracer *t, const tp_error *err)
{
    char line[sizeof err->message + 64];
    if (t->error.code != TP_OK)
        return;
    t->error = *err;
    int n = snprintf(line, sizeof line, "tidepool: %s (it ends there; the script goes on)\n",
                     err->message);
    tp_host_print(t->host, 2, line, (size_t)n);
}

static void write_out(tp_tracer *t)
{
    tp_error err = { 0 };
    if (t->error.code == TP_OK && tp_trace_file_write(t->file, t->out.data, t->out.len, &err))
        fail(t, &err);
    tp_buf_clear(&t->out);
}

/* What was appended: 0, or -1 when there was no memory. */
static void check(tp_tracer *t, int rc)
{
    tp_error err = { 0 };
    if (rc) {
        tp_error_oom(&err, "trace");
        fail(t, &err);
    }
    if (t->out.len >= FULL)
        write_out(t);
}

/* The memory of the process in MiB; 0: not known. */
static double resident(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "re");
    if (!file)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
}

static void count(tp_tracer *t, uint64_t now)
{
    static const char *const inputs[] = { "queued", "running", "not taken" };
    static const char *const mib[] = { "MiB" };
    tp_engine_totals totals;
    tp_engine_get_totals(t->host->engine, &totals);
    double values[] = { (double)totals.queued, (double)totals.running, (double)totals.ready };
    double bytes = (double)totals.bytes / (1 << 20), memory = resident();
    tp_chrome *c = t->chrome;
    check(t, tp_chrome_count(c, now, "inputs", inputs, values, 3, &t->out));
    check(t, tp_chrome_count(c, now, "waiting inputs and results", mib, &bytes, 1, &t->out));
    if (memory > 0)
        check(t, tp_chrome_count(c, now, "memory of the process", mib, &memory, 1, &t->out));
}

/* Says why idle workers wait now. */
static void explain(tp_tracer *t)
{
    tp_engine *e = t->host->engine;
    for (int i = 0; t->host->executors[i]; i++) {
        tp_executor *ex = t->host->executors[i];
        uv_mutex_lock(tp_engine_lock(e));
        uint64_t now = uv_hrtime();
        tp_reason why = tp_engine_reason_locked(e, ex);
        uv_mutex_unlock(tp_engine_lock(e));
        check(t, tp_chrome_explain(t->chrome, now, ex, why, &t->out));
    }
}

static void drain(tp_tracer *t)
{
    for (size_t n = BATCH; n == BATCH;) {
        n = tp_trace_read(t->trace, t->events, BATCH);
        if (t->trace->lost > t->lost) {
            check(t, tp_chrome_lose(t->chrome, t->trace->lost - t->lost, &t->out));
            t->lost = t->trace->lost;
            tp_engine_note_jobs(t->host->engine);
        }
        for (size_t i = 0; i < n; i++)
            check(t, tp_chrome_add(t->chrome, &t->events[i], &t->out));
    }
}

static void turn(tp_tracer *t)
{
    tp_error err = { 0 };
    uint64_t now = uv_hrtime();
    drain(t);
    if (now - t->explained_ns >= EXPLAIN_NS) {
        t->explained_ns = now;
        explain(t);
    }
    if (now - t->counted_ns >= COUNT_NS) {
        t->counted_ns = now;
        count(t, now);
    }
    if (now - t->flushed_ns >= FLUSH_NS) {
        t->flushed_ns = now;
        check(t, tp_chrome_show(t->chrome, now, &t->out));
        write_out(t);
        if (t->error.code == TP_OK && tp_trace_file_flush(t->file, &err))
            fail(t, &err);
    }
}

static void serve(void *arg)
{
    tp_tracer *t = arg;
    uv_mutex_lock(&t->lock);
    while (!t->is_ending) {
        uv_mutex_unlock(&t->lock);
        turn(t);
        uv_mutex_lock(&t->lock);
        if (!t->is_ending)
            uv_cond_timedwait(&t->cond, &t->lock, (uint64_t)PAUSE_MS * 1000000);
    }
    uv_mutex_unlock(&t->lock);
}

/* Frees what tp_tracer_open has made. */
static void free_tracer(tp_tracer *t)
{
    tp_trace_file_close(t->file, NULL);
    tp_chrome_free(t->chrome);
    tp_buf_free(&t->out);
    free(t->path);
    free(t);
}

int tp_tracer_open(tp_tracer **out, tp_host *host, const char *path, tp_error *err)
{
    tp_tracer *t = calloc(1, sizeof *t);
    if (!t)
        return tp_error_oom(err, "trace");
    t->host = host;
    t->trace = tp_engine_trace(host->engine);
    t->path = strdup(path);
    t->chrome = tp_chrome_new(t->trace, uv_hrtime());
    if (!t->path || !t->chrome || tp_chrome_begin(t->chrome, &t->out)) {
        tp_error_oom(err, "trace");
        goto no_locks;
    }
    if (tp_trace_file_open(&t->file, path, err))
        goto no_locks;
    if (uv_mutex_init(&t->lock)) {
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        goto no_locks;
    }
    if (uv_cond_init(&t->cond)) {
        tp_error_set(err, TP_ESYS, "cannot create a condition variable");
        goto no_cond;
    }
    if (tp_trace_start(t->trace, EVENTS, err))
        goto no_trace;
    tp_engine_note_jobs(host->engine);
    int rc = tp_thread_create(&t->thread, STACK_BYTES, serve, t);
    if (rc) {
        tp_trace_stop(t->trace);
        tp_error_set(err, TP_ESYS, "cannot start the thread that writes the trace: %s",
                     uv_strerror(rc));
        goto no_trace;
    }
    *out = t;
    return 0;
no_trace:
    uv_cond_destroy(&t->cond);
no_cond:
    uv_mutex_destroy(&t->lock);
no_locks:
    free_tracer(t);
    return -1;
}

const char *tp_tracer_path(const tp_tracer *t)
{
    return t->path;
}

int tp_tracer_close(tp_tracer *t, tp_error *err)
{
    tp_error why = { 0 };
    if (!t)
        return 0;
    tp_trace_stop(t->trace);
    uv_mutex_lock(&t->lock);
    t->is_ending = true;
    uv_cond_signal(&t->cond);
    uv_mutex_unlock(&t->lock);
    uv_thread_join(&t->thread);
    drain(t);
    count(t, uv_hrtime());
    check(t, tp_chrome_end(t->chrome, uv_hrtime(), &t->out));
    write_out(t);
    if (tp_trace_file_close(t->file, &why) && t->error.code == TP_OK)
        fail(t, &why);
    t->file = NULL;
    int rc = t->error.code == TP_OK ? 0 : tp_error_set(err, t->error.code, "%s", t->error.message);
    uv_cond_destroy(&t->cond);
    uv_mutex_destroy(&t->lock);
    free_tracer(t);
    return rc;
}
