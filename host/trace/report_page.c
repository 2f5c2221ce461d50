/* report_page.c: writes the page: page.html, in which the line with the word DATA becomes the sums
 * as JSON. */
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

/* [kind, what, begun, duration, lane, first, count, input]; for spans what is a name */
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

static int put_track(const tp_report *r, const tp_report_track *t, bool is_first, tp_buf *out)
{
    char name[TP_TRACK_TEXT];
    const char *known = t->worker ? tp_trace_track(r->trace, t->worker) : "script";
    snprintf(name, sizeof name, "worker %u", t->worker);
    if (tp_report_put(out, "%s\n{\"worker\":%u,\"busy\":%.9g,\"name\":", is_first ? "" : ",",
                      t->worker, (double)t->busy_ns * 1e-9) ||
        tp_report_quote(out, known ? known : name) || tp_report_put(out, ",\"boxes\":["))
        return -1;
    for (unsigned i = 0; i < t->n_boxes; i++)
        if ((i > 0 && tp_report_put(out, ",")) || put_box(r, &t->boxes[i], out))
            return -1;
    return tp_report_put(out, "]}");
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

static int put_data(const tp_report *r, tp_buf *out)
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
    if (tp_report_put(out, "]") || put_samples(r, out) || tp_report_put(out, ",\n\"tracks\":["))
        return -1;
    bool is_first = true;
    for (uint32_t i = 0; i < r->n_tracks; i++) {
        const tp_report_track *t = r->tracks[i];
        if (!t || (t->n_boxes == 0 && t->busy_ns == 0))
            continue;
        if (put_track(r, t, is_first, out))
            return -1;
        is_first = false;
    }
    return tp_report_put(out, "]}\n");
}

int tp_report_write(const tp_report *r, tp_buf *out)
{
    static const char word[] = "DATA\n";
    const char *page = tp_report_page, *place = strstr(page, word);
    if (!place)
        return tp_buf_add(out, page, strlen(page));
    const char *rest = place + sizeof word - 1;
    return tp_buf_add(out, page, (size_t)(place - page)) || put_data(r, out) ||
                   tp_buf_add(out, rest, strlen(rest))
               ? -1
               : 0;
}
