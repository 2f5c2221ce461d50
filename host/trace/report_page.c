/* report_page.c: writes the page: page.html, in which the line with the word DATA becomes the sums
 * as JSON. */
#include "base/system.h"
#include "trace/report_private.h"

#include "base/command.h"
#include "tidepool.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The bytes of page.html, and a zero. */
__asm__(".section .rodata\n"
        ".global tp_report_page\n"
        ".hidden tp_report_page\n"
        ".type tp_report_page, @object\n"
        "tp_report_page:\n"
        ".incbin \"host/trace/page.html\"\n"
        ".byte 0\n"
        ".size tp_report_page, . - tp_report_page\n"
        ".previous\n");
extern const char tp_report_page[] __attribute__((visibility("hidden")));

/* Seconds since the report's beginning. */
static double at(const tp_report *r, uint64_t ns)
{
    return ns > r->start_ns ? (double)(ns - r->start_ns) * 1e-9 : 0;
}

static int put_function(const tp_report *r, const tp_report_function *f, tp_buf *out)
{
    if (tp_report_put(out, "{\"name\":") ||
        tp_report_quote(out, f->name ? tp_trace_text(r->trace, f->name) : "(others)") ||
        tp_report_put(out,
                      ",\"group\":\"%s\",\"maps\":%" PRIu64 ",\"inputs\":%" PRIu64
                      ",\"items\":%" PRIu64 ",\"failures\":%" PRIu64 ",\"retries\":%" PRIu64
                      ",\"seconds\":%.9g,\"self\":%.9g,\"longest\":%.9g,\"active\":%.9g,\"bins\":[",
                      f->group >= 0 ? r->groups[f->group].name : "", f->maps, f->pushed, f->items,
                      f->failures, f->retries, (double)f->busy_ns * 1e-9,
                      (double)f->self_ns * 1e-9, (double)f->max_ns * 1e-9,
                      (double)f->active_ns * 1e-9))
        return -1;
    for (int i = 0; i < BINS; i++)
        if (tp_report_put(out, "%s%" PRIu64, i ? "," : "", f->bins[i]))
            return -1;
    return tp_report_put(out, "]}");
}

static int put_slowest(const tp_report *r, const tp_report_item *item, tp_buf *out)
{
    return tp_report_put(out,
                         "{\"function\":%u,\"index\":%" PRIu64 ",\"begun\":%.9g,\"seconds\":%.9g,"
                         "\"worker\":%u,\"input\":",
                         item->function, item->index + 1, at(r, item->begun_ns),
                         (double)item->ns * 1e-9, item->worker) ||
                   tp_report_quote(out, item->input) || tp_report_put(out, "}")
               ? -1
               : 0;
}

/* [kind, what, begun, duration, lane, first, count, input]; `what` is an index of a function, or of
 * a span the name */
static int put_box(const tp_report *r, const tp_report_box *b, tp_buf *out)
{
    double begun = at(r, b->begun_ns), ended = at(r, b->ended_ns);
    if (tp_report_put(out, "[%u,", (unsigned)b->kind) ||
        (b->kind == REPORT_SPAN ? tp_report_quote(out, tp_trace_text(r->trace, b->of))
                                : tp_report_put(out, "%d", (int)b->of)) ||
        tp_report_put(out, ",%.7f,%.7f,%u", begun, ended - begun, (unsigned)b->lane))
        return -1;
    if (b->kind == REPORT_ITEMS &&
        tp_report_put(out, ",%" PRIu64 ",%" PRIu64, b->first + 1, b->count))
        return -1;
    if (b->input && (tp_report_put(out, ",") || tp_report_quote(out, b->input)))
        return -1;
    return tp_report_put(out, "]");
}

static int put_name(const tp_report *r, uint32_t worker, tp_buf *out)
{
    char name[TP_TRACK_TEXT];
    const char *known = worker ? tp_trace_track(r->trace, worker) : "script";
    snprintf(name, sizeof name, "worker %u", worker);
    return tp_report_quote(out, known ? known : name);
}

/* What runs of the box's items, where that is known; else NULL. */
static const tp_run_view *find_running(const tp_report_now *now, const tp_report_track *t,
                                       const tp_report_open *o)
{
    for (unsigned i = 0; i < now->n_running && o->kind == REPORT_ITEMS; i++) {
        const tp_run_view *run = &now->running[i];
        if (run->worker == t->worker && run->job == o->job && run->item - o->first < o->count)
            return run;
    }
    return NULL;
}

/* What the track's worker does now, the outermost box first: [kind, what, begun, lane, first,
 * count] each. */
static int put_open(const tp_report *r, const tp_report_now *now, const tp_report_track *t,
                    tp_buf *out)
{
    unsigned lane = 0;
    if (tp_report_put(out, ",\"open\":["))
        return -1;
    for (unsigned i = 0; i < t->n_open; i++) {
        const tp_report_open *o = &t->open[i];
        const tp_run_view *run = find_running(now, t, o);
        if (tp_report_put(out, "%s[%u,", i ? "," : "", (unsigned)o->kind) ||
            (o->kind == REPORT_SPAN ? tp_report_quote(out, tp_trace_text(r->trace, o->of))
                                    : tp_report_put(out, "%u", o->of)) ||
            tp_report_put(out, ",%.7f,%u,%" PRIu64 ",%" PRIu64 "]",
                          at(r, run && run->since_ns ? run->since_ns : o->begun_ns),
                          lane < LANES ? lane : LANES - 1, (run ? run->item : o->first) + 1,
                          run ? 1 : o->count))
            return -1;
        lane += o->kind != REPORT_WAIT;
    }
    return tp_report_put(out, "]");
}

static int put_device(const tp_report_track *t, tp_buf *out)
{
    if (t->kernels == 0 && t->copies == 0)
        return 0;
    return tp_report_put(out,
                         ",\"device\":{\"kernels\":%" PRIu64 ",\"kernel_seconds\":%.9g,"
                         "\"copies\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"copy_seconds\":%.9g}",
                         t->kernels, (double)t->kernel_ns * 1e-9, t->copies, t->copied_bytes,
                         (double)t->copy_ns * 1e-9);
}

/* The machine on which the worker runs something, where that is another one. */
static int put_host(const tp_report_now *now, const tp_report_track *t, tp_buf *out)
{
    unsigned i = 0;
    while (i < now->n_running &&
           !(now->running[i].worker == t->worker && *now->running[i].host))
        i++;
    return i < now->n_running && (tp_report_put(out, ",\"host\":") ||
                                  tp_report_quote(out, now->running[i].host))
               ? -1
               : 0;
}

/* Of a live page: the process, and what runs now. */
static int put_present(const tp_report *r, const tp_report_now *now, const tp_report_track *t,
                       tp_buf *out)
{
    if (put_host(now, t, out))
        return -1;
    if (t->process &&
        tp_report_put(out, ",\"process\":%" PRIu64 ",\"memory\":%.6g", t->process,
                      (double)tp_system_memory_of((long)t->process).resident / (1 << 20)))
        return -1;
    return put_open(r, now, t, out);
}

static int put_track(const tp_report *r, const tp_report_now *now, const tp_report_track *t,
                     bool is_first, tp_buf *out)
{
    uint64_t from = r->keep_ns && r->end_ns > r->keep_ns ? r->end_ns - r->keep_ns : 0;
    bool is_next = false;
    if (tp_report_put(out, "%s\n{\"worker\":%u,\"busy\":%.9g,\"items\":%" PRIu64 ",\"name\":",
                      is_first ? "" : ",", t->worker, (double)t->busy_ns * 1e-9, t->items) ||
        put_name(r, t->worker, out) || put_device(t, out) ||
        (now && put_present(r, now, t, out)) || tp_report_put(out, ",\"boxes\":["))
        return -1;
    for (unsigned i = 0; i < t->n_boxes; i++)
        if (t->boxes[i].ended_ns >= from) {
            if ((is_next && tp_report_put(out, ",")) || put_box(r, &t->boxes[i], out))
                return -1;
            is_next = true;
        }
    return tp_report_put(out, "]}");
}

/* The failures whose texts are kept, the newest first. */
static int put_failures(const tp_report *r, tp_buf *out)
{
    uint64_t n = r->n_failures < FAILURES_MAX ? r->n_failures : FAILURES_MAX;
    if (tp_report_put(out, ",\n\"failed\":["))
        return -1;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t number = r->n_failures - 1 - i;
        const tp_failure_view *f = &r->failures[number % FAILURES_MAX];
        if (tp_report_put(out,
                          "%s\n{\"number\":%" PRIu64 ",\"at\":%.9g,\"map\":%" PRIu64
                          ",\"index\":%" PRIu64 ",\"attempt\":%u,\"retried\":%s,\"function\":",
                          i ? "," : "", number, at(r, f->time_ns), f->job, f->item + 1, f->attempt,
                          f->is_retried ? "true" : "false") ||
            tp_report_quote(out, f->name) || tp_report_put(out, ",\"worker\":") ||
            put_name(r, f->worker, out) || tp_report_put(out, ",\"kind\":") ||
            tp_report_quote(out, f->kind) || tp_report_put(out, ",\"message\":") ||
            tp_report_quote(out, f->message) || tp_report_put(out, ",\"traceback\":") ||
            tp_report_quote(out, f->traceback) || tp_report_put(out, "}"))
            return -1;
    }
    return tp_report_put(out, "]");
}

/* ---- of a live page ---- */

static int put_maps(const tp_report *r, const tp_report_now *now, tp_buf *out)
{
    if (tp_report_put(out, ",\n\"more_maps\":%" PRIu64 ",\"open_maps\":[", now->others))
        return -1;
    for (unsigned i = 0; i < now->n_jobs; i++) {
        const tp_job_view *j = &now->jobs[i];
        if (tp_report_put(out,
                          "%s\n{\"number\":%" PRIu64 ",\"process\":%" PRIu64
                          ",\"parent\":%" PRIu64 ",\"parent_process\":%" PRIu64
                          ",\"opened\":%.9g,\"executor\":\"%s\",\"total\":%" PRId64
                          ",\"waiting\":%" PRIu64 ",\"running\":%" PRIu64 ",\"done\":%" PRIu64
                          ",\"failures\":%" PRIu64 ",\"retries\":%" PRIu64
                          ",\"reason\":%d,\"limit\":%u,\"cancelled\":%s,\"function\":",
                          i ? "," : "", j->number, j->process, j->parent, j->parent_process,
                          at(r, j->opened_ns), j->executor,
                          j->total, j->waiting, j->running, j->finished, j->failed, j->retried,
                          (int)j->reason, j->limit, j->is_cancelled ? "true" : "false") ||
            tp_report_quote(out, j->name) ||
            (*j->host && (tp_report_put(out, ",\"host\":") || tp_report_quote(out, j->host))) ||
            tp_report_put(out, "}"))
            return -1;
    }
    return tp_report_put(out, "]");
}

static int put_recent(const tp_report *r, tp_buf *out)
{
    uint64_t n = r->n_recent < RECENT_MAX ? r->n_recent : RECENT_MAX;
    if (tp_report_put(out, ",\n\"ended_maps\":["))
        return -1;
    for (uint64_t i = 0; i < n; i++) {
        const tp_report_recent *m = &r->recent[(r->n_recent - 1 - i) % RECENT_MAX];
        uint32_t name = r->functions[m->function].name;
        if (tp_report_put(out,
                          "%s\n{\"number\":%" PRIu64 ",\"opened\":%.9g,\"ended\":%.9g,"
                          "\"done\":%" PRIu64 ",\"failures\":%" PRIu64
                          ",\"cancelled\":%s,\"function\":",
                          i ? "," : "", m->number, at(r, m->opened_ns), at(r, m->ended_ns),
                          m->items, m->failures, m->is_cancelled ? "true" : "false") ||
            tp_report_quote(out, tp_trace_text(r->trace, name)) || tp_report_put(out, "}"))
            return -1;
    }
    return tp_report_put(out, "]");
}

/* Items that wait beside others: [worker, function, begun, lane, index] each. */
static int put_beside(const tp_report *r, tp_buf *out)
{
    enum { MOST = 200 };
    unsigned n = 0, lists = sizeof r->beside / sizeof *r->beside;
    if (tp_report_put(out, ",\n\"beside\":["))
        return -1;
    for (unsigned i = 0; i < lists; i++)
        for (const tp_report_beside *b = r->beside[i]; b && n < MOST; b = b->next, n++)
            if (tp_report_put(out, "%s[%u,%u,%.7f,%u,%" PRIu64 "]", n ? "," : "", b->worker,
                              b->function, at(r, b->begun_ns), (unsigned)b->lane, b->item + 1))
                return -1;
    return tp_report_put(out, "]");
}

static int put_samples(const tp_report *r, tp_buf *out)
{
    if (tp_report_put(out, ",\n\"samples\":["))
        return -1;
    for (unsigned i = 0; i < r->n_samples; i++) {
        const tp_report_sample *s = &r->samples[i];
        if (tp_report_put(out, "%s[%.4f,%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%.6g,%.6g]",
                          i ? "," : "", at(r, s->time_ns), s->queued, s->running, s->ready, s->mib,
                          s->memory))
            return -1;
    }
    return tp_report_put(out, "]");
}

static int put_command(tp_buf *out)
{
    char words[300];
    tp_command(words, sizeof words);
    return tp_report_quote(out, words);
}

static int put_summary(const tp_report *r, tp_buf *out)
{
    uint64_t maps = 0, items = 0, failures = 0, retries = 0;
    double busy = 0, sum = 0;
    unsigned workers = 0;
    bool is_owner = false;
    for (unsigned i = 0; i < r->n_functions; i++) {
        const tp_report_function *f = &r->functions[i];
        maps += f->maps;
        items += f->items;
        failures += f->failures;
        retries += f->retries;
        sum += (double)f->self_ns * 1e-9;
    }
    for (int i = 0; i < r->n_groups; i++) {
        is_owner |= r->groups[i].is_owner;
        workers += r->groups[i].is_owner ? 0 : r->groups[i].workers;
    }
    for (uint32_t i = 1; i < r->n_tracks; i++) {
        const tp_report_track *t = r->tracks[i];
        if (t && t->group >= 0 && (!r->groups[t->group].is_owner || workers == 0))
            busy += (double)t->busy_ns * 1e-9;
    }
    if (workers == 0 && is_owner)
        workers = 1;
    double active = (double)r->active_ns * 1e-9;
    if (tp_report_put(out, "{\"version\":\"%s\",\"date\":%lld,\"command\":", TP_VERSION,
                      (long long)time(NULL)) ||
        put_command(out))
        return -1;
    return tp_report_put(out,
                         ",\"processors\":%u,\"seconds\":%.9g,\"active\":%.9g,\"workers\":%u,"
                         "\"maps\":%" PRIu64 ",\"items\":%" PRIu64 ",\"failures\":%" PRIu64
                         ",\"retries\":%" PRIu64 ",\"deaths\":%u,\"cancelled\":%u,\"lost\":%" PRIu64
                         ",\"sum\":%.9g,\"speedup\":%.4g,\"utilisation\":%.4g,\"processor\":%.4g",
                         r->processors, at(r, r->end_ns), active, workers, maps, items, failures,
                         retries, r->deaths, r->cancelled, r->lost, sum,
                         active > 0 ? sum / active : 0,
                         active > 0 && workers > 0 ? busy / (active * workers) : 0,
                         r->processor_s);
}

static int put_data(const tp_report *r, const tp_report_now *now, tp_buf *out)
{
    if (put_summary(r, out) || tp_report_put(out, ",\n\"findings\":") || tp_report_find(r, out) ||
        tp_report_put(out, ",\n\"functions\":["))
        return -1;
    for (unsigned i = 0; i < r->n_functions; i++)
        if (tp_report_put(out, i ? ",\n" : "\n") || put_function(r, &r->functions[i], out))
            return -1;
    if (tp_report_put(out, "],\n\"slowest\":["))
        return -1;
    for (unsigned i = 0; i < r->n_slowest; i++)
        if (tp_report_put(out, i ? ",\n" : "\n") || put_slowest(r, &r->slowest[i], out))
            return -1;
    if (tp_report_put(out, "]") || put_failures(r, out) || put_samples(r, out) ||
        (now && (tp_report_put(out, ",\n\"live\":true") || put_maps(r, now, out) ||
                 put_recent(r, out) || put_beside(r, out))) ||
        tp_report_put(out, ",\n\"tracks\":["))
        return -1;
    bool is_first = true;
    for (uint32_t i = 0; i < r->n_tracks; i++) {
        const tp_report_track *t = r->tracks[i];
        if (!t || (t->n_boxes == 0 && t->busy_ns == 0 && !(now && t->n_open > 0)))
            continue;
        if (put_track(r, now, t, is_first, out))
            return -1;
        is_first = false;
    }
    return tp_report_put(out, "]}\n");
}

int tp_report_put_live(const tp_report *r, const tp_report_now *now, tp_buf *out)
{
    return put_data(r, now, out);
}

/* Appends the page: up to where its data belong, or from there on. */
static int put_page(tp_buf *out, bool is_rest)
{
    static const char word[] = "DATA\n";
    const char *page = tp_report_page, *place = strstr(page, word);
    if (!place)
        return is_rest ? 0 : tp_buf_add(out, page, strlen(page));
    const char *rest = place + sizeof word - 1;
    return is_rest ? tp_buf_add(out, rest, strlen(rest))
                   : tp_buf_add(out, page, (size_t)(place - page));
}

int tp_report_write(const tp_report *r, tp_buf *out)
{
    return put_page(out, false) || put_data(r, NULL, out) || put_page(out, true) ? -1 : 0;
}

int tp_report_put_live_page(tp_buf *out)
{
    return put_page(out, false) || tp_report_put(out, "{\"live\":true}\n") || put_page(out, true)
               ? -1
               : 0;
}
