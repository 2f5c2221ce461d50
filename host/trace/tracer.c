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
#include "trace/report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum {
    EVENTS = 1 << 16, /* that the ring holds */
    BATCH = 1024,     /* events that are read at once */
    PAUSE_MS = 4,
    EXPLAIN_NS = 10 * 1000000, /* between two looks why workers wait */
    COUNT_NS = 50 * 1000000, /* between two values of the counters */
    FLUSH_NS = 200 * 1000000,
    SHOW_NS = 500 * 1000000, /* between two looks of those who watch */
    SHOWN_JOBS = 64,
    SHOWN_RUNNING = 256,
    FULL = 256 << 10, /* bytes that are written at once */
    STACK_BYTES = 256 << 10
};

/* One of the files. */
typedef struct output {
    const char *what; /* "trace", "report" */
    char *path;
    tp_trace_file *file; /* NULL: it is not being written */
    tp_error error;      /* the first one; nothing is written after it */
} output;

struct tp_tracer {
    /* Set by open_tracer, read-only afterwards. */
    tp_host *host;
    tp_trace *trace;

    uv_mutex_t lock;
    uv_cond_t cond; /* is_ending has changed */
    bool is_ending; /* guarded by lock */

    /* ---- the thread's own, and the owner's when there is no thread ---- */
    output to_trace, to_report;
    tp_chrome *chrome; /* NULL: there is no trace */
    tp_report *report; /* NULL: no report */
    tp_report *shown;  /* the same for those who watch; NULL: nobody can */
    tp_live live;
    tp_buf out; /* of the trace, not written yet */
    uint64_t explained_ns, counted_ns, flushed_ns, shown_ns, lost;
    tp_event events[BATCH];

    /* ---- the owner's ---- */
    uv_thread_t thread;
    bool has_thread;
};

/* Ends the file because of err, and says so once through tp_config.write. */
static void fail(tp_tracer *t, output *to, const tp_error *err)
{
    char line[sizeof err->message + 64];
    if (to->error.code != TP_OK)
        return;
    to->error = *err;
    int n = snprintf(line, sizeof line, "tidepool: %s (it ends there; the script goes on)\n",
                     err->message);
    tp_host_print(t->host, 2, line, (size_t)n);
}

static void write_out(tp_tracer *t, output *to, tp_buf *out)
{
    tp_error err = { 0 };
    if (to->error.code == TP_OK && tp_trace_file_write(to->file, out->data, out->len, &err))
        fail(t, to, &err);
    tp_buf_clear(out);
}

static void starve(tp_tracer *t, output *to)
{
    tp_error err = { 0 };
    tp_error_oom(&err, to->what);
    fail(t, to, &err);
}

/* rc is what a tp_chrome function has returned: -1 (no memory) ends the trace. */
static void check(tp_tracer *t, int rc)
{
    if (rc)
        starve(t, &t->to_trace);
    if (t->out.len >= FULL)
        write_out(t, &t->to_trace, &t->out);
}

/* The same for functions of tp_report. */
static void check_report(tp_tracer *t, int rc)
{
    if (rc == 0)
        return;
    starve(t, &t->to_report);
    tp_report_free(t->report);
    t->report = NULL;
}

/* The same for the live report: those who watch are shown nothing more. */
static void check_shown(tp_tracer *t, int rc)
{
    static const char line[] =
        "tidepool: out of memory: the dashboard shows nothing more (the script goes on)\n";
    if (rc == 0)
        return;
    tp_host_print(t->host, 2, line, sizeof line - 1);
    tp_report_free(t->shown);
    t->shown = NULL;
}

/* The memory of the process in MiB; 0: not known. */
static double resident(void)
{
    size_t bytes = 0;
    return uv_resident_set_memory(&bytes) ? 0 : (double)bytes / (1 << 20);
}

/* Hands the texts of new failures to the reports. */
static void take_failures(tp_tracer *t)
{
    tp_failure_view failures[4];
    unsigned n;
    if (!t->report && !t->shown)
        return;
    while ((n = tp_engine_take_failures(t->host->engine, failures, 4)) > 0)
        for (unsigned i = 0; i < n; i++) {
            if (t->report)
                tp_report_fail(t->report, &failures[i]);
            if (t->shown)
                tp_report_fail(t->shown, &failures[i]);
        }
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
    if (t->report)
        tp_report_count(t->report, now, &totals, memory);
    if (t->shown)
        tp_report_count(t->shown, now, &totals, memory);
    take_failures(t);
    if (!c)
        return;
    check(t, tp_chrome_count(c, now, "inputs", inputs, values, 3, &t->out));
    check(t, tp_chrome_count(c, now, "waiting inputs and results", mib, &bytes, 1, &t->out));
    if (memory > 0)
        check(t, tp_chrome_count(c, now, "memory of the process", mib, &memory, 1, &t->out));
}

/* Tells the trace and the reports why idle workers wait now. */
static void explain(tp_tracer *t)
{
    tp_engine *e = t->host->engine;
    for (int i = 0; t->host->executors[i]; i++) {
        tp_executor *ex = t->host->executors[i];
        const tp_job *of;
        uv_mutex_lock(tp_engine_lock(e));
        uint64_t now = uv_hrtime();
        tp_reason why = tp_engine_reason_locked(e, ex, &of);
        uint64_t job = of ? tp_job_number(of) : 0;
        unsigned limit = of ? tp_job_limit(of) : 0;
        uv_mutex_unlock(tp_engine_lock(e));
        if (t->chrome)
            check(t, tp_chrome_explain(t->chrome, now, ex, why, &t->out));
        if (t->report)
            check_report(t, tp_report_explain(t->report, now, ex, why, job, limit));
        if (t->shown)
            check_shown(t, tp_report_explain(t->shown, now, ex, why, job, limit));
    }
    if (t->report)
        tp_report_look(t->report, t->explained_ns);
    if (t->shown)
        tp_report_look(t->shown, t->explained_ns);
}

static void drain(tp_tracer *t)
{
    for (size_t n = BATCH; n == BATCH;) {
        n = tp_trace_read(t->trace, t->events, BATCH);
        if (t->trace->lost > t->lost) {
            if (t->chrome)
                check(t, tp_chrome_lose(t->chrome, t->trace->lost - t->lost, &t->out));
            if (t->report)
                check_report(t, tp_report_lose(t->report, t->trace->lost - t->lost));
            if (t->shown)
                check_shown(t, tp_report_lose(t->shown, t->trace->lost - t->lost));
            t->lost = t->trace->lost;
            tp_engine_note_jobs(t->host->engine);
        }
        for (size_t i = 0; t->chrome && i < n; i++)
            check(t, tp_chrome_add(t->chrome, &t->events[i], &t->out));
        for (size_t i = 0; t->report && i < n; i++)
            check_report(t, tp_report_add(t->report, &t->events[i]));
        for (size_t i = 0; t->shown && i < n; i++)
            check_shown(t, tp_report_add(t->shown, &t->events[i]));
    }
}

static void flush(tp_tracer *t, uint64_t now)
{
    tp_error err = { 0 };
    check(t, tp_chrome_show(t->chrome, now, &t->out));
    write_out(t, &t->to_trace, &t->out);
    if (t->to_trace.error.code == TP_OK && tp_trace_file_flush(t->to_trace.file, &err))
        fail(t, &t->to_trace, &err);
}

/* Makes a snapshot and shows it to those who watch. */
static void show(tp_tracer *t, uint64_t now)
{
    tp_buf json = { 0 };
    tp_engine *e = t->host->engine;
    tp_job_view *jobs = calloc(SHOWN_JOBS, sizeof *jobs);
    tp_run_view *running = calloc(SHOWN_RUNNING, sizeof *running);
    tp_report_now present = { .jobs = jobs, .running = running };
    if (jobs)
        present.n_jobs = tp_engine_list_jobs(e, jobs, SHOWN_JOBS, &present.others);
    if (running)
        present.n_running = tp_engine_list_running(e, running, SHOWN_RUNNING);
    take_failures(t);
    if (tp_report_snapshot(t->shown, now, &present, &json) == 0)
        t->live.show(t->live.user, (const char *)json.data, json.len);
    tp_buf_free(&json); /* when out of memory, nothing is shown this time */
    free(running);
    free(jobs);
}

static void turn(tp_tracer *t)
{
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
    if (t->shown && now - t->shown_ns >= SHOW_NS && t->live.is_watched(t->live.user)) {
        t->shown_ns = now;
        show(t, now);
    }
    if (t->chrome && now - t->flushed_ns >= FLUSH_NS) {
        t->flushed_ns = now;
        flush(t, now);
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

/* ---- its life: the owner's ---- */

static int open_tracer(tp_tracer **out, tp_host *host, tp_error *err)
{
    tp_tracer *t = calloc(1, sizeof *t);
    if (!t)
        return tp_error_oom(err, "trace");
    t->host = host;
    t->trace = tp_engine_trace(host->engine);
    t->to_trace.what = "trace";
    t->to_report.what = "report";
    if (uv_mutex_init(&t->lock)) {
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        goto no_lock;
    }
    if (uv_cond_init(&t->cond)) {
        tp_error_set(err, TP_ESYS, "cannot create a condition variable");
        goto no_cond;
    }
    *out = t;
    return 0;
no_cond:
    uv_mutex_destroy(&t->lock);
no_lock:
    free(t);
    return -1;
}

static int start_thread(tp_tracer *t, tp_error *err)
{
    t->is_ending = false;
    int rc = tp_thread_create(&t->thread, STACK_BYTES, serve, t);
    t->has_thread = rc == 0;
    return rc == 0 ? 0
                   : tp_error_set(err, TP_ESYS, "cannot start the thread that writes the trace: %s",
                                  uv_strerror(rc));
}

static void stop_thread(tp_tracer *t)
{
    if (!t->has_thread)
        return;
    uv_mutex_lock(&t->lock);
    t->is_ending = true;
    uv_cond_signal(&t->cond);
    uv_mutex_unlock(&t->lock);
    uv_thread_join(&t->thread);
    t->has_thread = false;
}

/* Opens the file of an output, which is not being written. */
static int open_output(output *to, const char *path, tp_error *err)
{
    free(to->path);
    to->error = (tp_error){ 0 };
    to->path = strdup(path);
    if (!to->path)
        return tp_error_oom(err, to->what);
    return tp_trace_file_open(&to->file, to->what, path, err);
}

/* -1 with err set when not all could be written. */
static int close_output(tp_tracer *t, output *to, tp_error *err)
{
    tp_error why = { 0 };
    if (!to->file)
        return 0;
    if (tp_trace_file_close(to->file, &why) && to->error.code == TP_OK)
        fail(t, to, &why);
    to->file = NULL;
    return to->error.code == TP_OK ? 0 : tp_error_set(err, to->error.code, "%s", to->error.message);
}

static void free_tracer(tp_tracer *t)
{
    tp_trace_file_close(t->to_trace.file, NULL);
    tp_trace_file_close(t->to_report.file, NULL);
    free(t->to_trace.path);
    free(t->to_report.path);
    tp_chrome_free(t->chrome);
    tp_report_free(t->report);
    tp_report_free(t->shown);
    tp_buf_free(&t->out);
    uv_cond_destroy(&t->cond);
    uv_mutex_destroy(&t->lock);
    free(t);
}

typedef enum aim { TO_TRACE, TO_REPORT, TO_SHOW } aim;

/* While the tracer's thread does not run: makes what this aim (trace, report or live) needs; `path`
 * is its file's. */
static int begin_aim(tp_tracer *t, aim to, const char *path, const tp_live *live, tp_error *err)
{
    uint64_t now = uv_hrtime();
    unsigned workers = (unsigned)t->host->config.workers;
    switch (to) {
    case TO_TRACE:
        if (open_output(&t->to_trace, path, err))
            return -1;
        t->chrome = tp_chrome_new(t->trace, now);
        return t->chrome && tp_chrome_begin(t->chrome, &t->out) == 0 ? 0
                                                                     : tp_error_oom(err, "trace");
    case TO_REPORT:
        if (open_output(&t->to_report, path, err))
            return -1;
        t->report = tp_report_new(t->trace, now, workers, false);
        return t->report ? 0 : tp_error_oom(err, "report");
    case TO_SHOW:
        t->live = *live;
        t->shown = tp_report_new(t->trace, now, workers, true);
        return t->shown ? 0 : tp_error_oom(err, "dashboard");
    }
    return -1;
}

/* The same: frees it without writing anything. */
static void forget_aim(tp_tracer *t, aim to)
{
    output *file = to == TO_TRACE ? &t->to_trace : to == TO_REPORT ? &t->to_report : NULL;
    if (file) {
        tp_trace_file_close(file->file, NULL);
        file->file = NULL;
    }
    if (to == TO_TRACE) {
        tp_chrome_free(t->chrome);
        t->chrome = NULL;
    } else {
        tp_report **report = to == TO_REPORT ? &t->report : &t->shown;
        tp_report_free(*report);
        *report = NULL;
    }
}

/* Failures are kept as long as there is a page for them. */
static int watch_failures(tp_tracer *t, tp_error *err)
{
    return tp_engine_watch_failures(t->host->engine, t->report || t->shown, err);
}

/* Begins an aim. The tracer's thread, which reads for the others, is stopped meanwhile. */
static int begin(tp_tracer **in_out, tp_host *host, aim to, const char *path, const tp_live *live,
                 tp_error *err)
{
    tp_tracer *t = *in_out;
    if (!t && open_tracer(&t, host, err))
        return -1;
    stop_thread(t);
    if (*in_out)
        drain(t);
    if (begin_aim(t, to, path, live, err) || (to != TO_TRACE && watch_failures(t, err)))
        goto failed;
    if (!*in_out && tp_trace_start(t->trace, EVENTS, err))
        goto failed;
    if (start_thread(t, err)) {
        if (!*in_out)
            tp_trace_stop(t->trace);
        goto failed;
    }
    tp_engine_note_jobs(host->engine);
    *in_out = t;
    return 0;
failed:
    forget_aim(t, to);
    watch_failures(t, NULL);
    if (*in_out)
        start_thread(t, NULL); /* what is written already goes on */
    else
        free_tracer(t);
    return -1;
}

int tp_tracer_begin_trace(tp_tracer **t, tp_host *host, const char *path, tp_error *err)
{
    return begin(t, host, TO_TRACE, path, NULL, err);
}

int tp_tracer_begin_report(tp_tracer **t, tp_host *host, const char *path, tp_error *err)
{
    return begin(t, host, TO_REPORT, path, NULL, err);
}

int tp_tracer_begin_live(tp_tracer **t, tp_host *host, const tp_live *live, tp_error *err)
{
    return begin(t, host, TO_SHOW, NULL, live, err);
}

const char *tp_tracer_path(const tp_tracer *t)
{
    return t && t->chrome ? t->to_trace.path : NULL;
}

/* These three are called while the tracer's thread does not run. */
static int end_trace(tp_tracer *t, tp_error *err)
{
    if (!t->chrome)
        return 0;
    check(t, tp_chrome_end(t->chrome, uv_hrtime(), &t->out));
    write_out(t, &t->to_trace, &t->out);
    tp_chrome_free(t->chrome);
    t->chrome = NULL;
    return close_output(t, &t->to_trace, err);
}

static void end_report(tp_tracer *t)
{
    tp_error err = { 0 };
    tp_buf page = { 0 };
    if (t->report) {
        check_report(t, tp_report_end(t->report, uv_hrtime(), &page));
        write_out(t, &t->to_report, &page);
    }
    tp_buf_free(&page);
    close_output(t, &t->to_report, &err); /* tp_config.write was told */
}

static void end_live(tp_tracer *t)
{
    if (t->shown)
        show(t, uv_hrtime());
    tp_report_free(t->shown);
    t->shown = NULL;
}

/* Stops the tracer's thread, after it has read all events so far; go_on starts it again. */
static void halt(tp_tracer *t, bool is_last)
{
    if (is_last)
        tp_trace_stop(t->trace);
    stop_thread(t);
    drain(t);
    count(t, uv_hrtime());
}

static void go_on(tp_tracer **of, bool is_last)
{
    tp_tracer *t = *of;
    watch_failures(t, NULL);
    if (is_last) {
        free_tracer(t);
        *of = NULL;
    } else {
        start_thread(t, NULL);
    }
}

int tp_tracer_end_trace(tp_tracer **of, tp_error *err)
{
    tp_tracer *t = *of;
    bool is_last = t && !t->report && !t->shown;
    if (!t)
        return 0;
    halt(t, is_last);
    int rc = end_trace(t, err);
    go_on(of, is_last);
    return rc;
}

void tp_tracer_end_live(tp_tracer **of)
{
    tp_tracer *t = *of;
    bool is_last = t && !t->report && !t->chrome;
    if (!t || !t->shown)
        return;
    halt(t, is_last);
    end_live(t);
    go_on(of, is_last);
}

void tp_tracer_close(tp_tracer *t)
{
    tp_error err = { 0 };
    if (!t)
        return;
    halt(t, true);
    end_trace(t, &err); /* tp_config.write was told what is wrong */
    end_report(t);
    end_live(t);
    go_on(&t, true);
}
