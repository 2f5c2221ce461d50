/* findings.c: what bounds a run, in words with figures. Each finding has a program in
 * tests/engine/report_spec.lua that causes it. */
#include "trace/report_private.h"

#include "base/amount.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    ACTIVE_MIN_NS = 20 * 1000000, /* functions whose maps were open for less are not reported */
    FINDINGS_MAX = 64
};

/* Shares of the time from which on something is reported. */
#define WAITED 0.2
#define BUSY 0.85
#define ENCODED 0.1
#define REPEATED 0.1
#define COMPILED 0.1

typedef struct finding {
    const char *kind;
    double weight; /* the share of the time that it explains */
    char function[TP_NAME_MAX], text[700], advice[300];
} finding;

typedef struct findings {
    const tp_report *r;
    finding list[FINDINGS_MAX];
    unsigned n;
} findings;

/* Memory for a figure as text. */
typedef struct words {
    char text[128];
} words;

static const char *seconds(words *w, double s)
{
    if (s >= 100)
        snprintf(w->text, sizeof w->text, "%.0f s", s);
    else if (s >= 1)
        snprintf(w->text, sizeof w->text, "%.3g s", s);
    else if (s >= 1e-3)
        snprintf(w->text, sizeof w->text, "%.3g ms", s * 1e3);
    else
        snprintf(w->text, sizeof w->text, "%.3g us", s * 1e6);
    return w->text;
}

static const char *size(words *w, uint64_t bytes)
{
    return tp_amount_of_bytes(w->text, bytes);
}

/* A count, with commas: 11,000; small ones with three digits. */
static const char *amount(words *w, double x)
{
    char digits[32];
    if (x < 100) {
        snprintf(w->text, sizeof w->text, "%.3g", x);
        return w->text;
    }
    int n = snprintf(digits, sizeof digits, "%.0f", x < 1e15 ? x : 1e15), k = 0;
    for (int i = 0; i < n; i++) {
        w->text[k++] = digits[i];
        if ((n - i) % 3 == 1 && i < n - 1)
            w->text[k++] = ',';
    }
    w->text[k] = '\0';
    return w->text;
}

static const char *percent(words *w, double share)
{
    snprintf(w->text, sizeof w->text, "%.0f %%", 100 * (share > 1 ? 1 : share));
    return w->text;
}

static const char *workers_of(words *w, unsigned n)
{
    snprintf(w->text, sizeof w->text, n == 1 ? "the worker" : "the %u workers", n);
    return w->text;
}

/* Text that names an item's input: its index, and the input itself where that is known. */
static const char *input_of(words *w, const tp_report_item *item)
{
    int n = snprintf(w->text, sizeof w->text, "input %llu", (unsigned long long)item->index + 1);
    if (item->input[0])
        snprintf(w->text + n, sizeof w->text - (size_t)n, " (%.*s%s)", 60, item->input,
                 strlen(item->input) > 60 ? "..." : "");
    return w->text;
}

/* Adds a finding with that weight, about maps of f (NULL: about the whole run). When there are too
 * many, returns one that will not be shown. */
static finding *add(findings *all, const char *kind, const tp_report_function *f, double weight)
{
    const tp_report *r = all->r;
    if (f && r->active_ns > 0 && f->active_ns < r->active_ns)
        weight *= (double)f->active_ns / (double)r->active_ns;
    finding *to = &all->list[all->n < FINDINGS_MAX - 1 ? all->n++ : FINDINGS_MAX - 1];
    *to = (finding){ .kind = kind, .weight = weight };
    snprintf(to->function, sizeof to->function, "%s", f ? tp_trace_text(r->trace, f->name) : "");
    return to;
}

#define SAY(to, ...) snprintf((to), sizeof(to), __VA_ARGS__)

/* How long the workers of f's group existed while maps of f were open, summed up over the workers,
 * in nanoseconds. */
static double time_of_workers(const tp_report *r, const tp_report_function *f)
{
    double sum = 0;
    for (uint32_t i = 1; i < r->n_tracks; i++) {
        const tp_report_track *t = r->tracks[i];
        if (!t || t->group < 0 || t->group != f->group)
            continue;
        double missing = t->seen_ns > f->opened_ns ? (double)(t->seen_ns - f->opened_ns) : 0;
        sum += fmax((double)f->active_ns - missing, 0);
    }
    return sum;
}

/* The share of the workers' time that they waited for that reason, while maps of f were open. */
static double waited(const tp_report *r, const tp_report_function *f, tp_reason why)
{
    double there = time_of_workers(r, f);
    if (there <= 0 || f->active_ns < ACTIVE_MIN_NS)
        return 0;
    return fmin(f->idle_ns[why] / there, 1);
}

/* How many inputs a second the workers could run. */
static double rate(const tp_report *r, const tp_report_function *f)
{
    return f->busy_ns > 0 ? (double)f->items * 1e9 * tp_report_workers(r, f) / (double)f->busy_ns
                          : 0;
}

/* what helps where results are read slowly */
static const char for_reader[] = "Do in the function what the script does with each result, or "
                                 "take results together: :list(), :sum(), :array().";

static void find_waits(findings *all, const tp_report_function *f)
{
    const tp_report *r = all->r;
    unsigned n = tp_report_workers(r, f);
    double active = (double)f->active_ns * 1e-9, share;
    words a = { 0 }, b = a, c = a, d = a;
    share = waited(r, f, TP_REASON_INPUTS);
    if (share >= WAITED) {
        finding *to = add(all, "inputs", f, share);
        SAY(to->text,
            "The inputs are slow: they came at %s a second, and %s could run %s a second. They "
            "waited for inputs %s of the time.",
            amount(&a, (double)f->pushed / active), workers_of(&b, n), amount(&c, rate(r, f)),
            percent(&d, share));
        SAY(to->advice, "Make inputs cheaper: give what they are made of, and do the work of "
                        "making them inside of the function.");
    }
    share = waited(r, f, TP_REASON_READER);
    if (share >= WAITED) {
        finding *to = add(all, "reader", f, share);
        SAY(to->text,
            "The window is full, because the results are read slowly: the script took %s a second, "
            "and %s could give %s a second. They waited for the reader %s of the time.",
            amount(&a, (double)f->items / active), workers_of(&b, n), amount(&c, rate(r, f)),
            percent(&d, share));
        SAY(to->advice, "%s", for_reader);
    }
    if (share < WAITED && f->active_ns >= ACTIVE_MIN_NS &&
        (double)f->unread_ns >= 0.5 * (double)f->active_ns) {
        share = (double)f->unread_ns / (double)f->active_ns;
        finding *to = add(all, "reader", f, share);
        SAY(to->text,
            "The results are read slowly: for %s, %s of the time, all inputs were done and the "
            "script still took results.",
            seconds(&a, (double)f->unread_ns * 1e-9), percent(&b, share));
        SAY(to->advice, "%s", for_reader);
    }
    share = waited(r, f, TP_REASON_ORDER);
    if (share >= WAITED) {
        finding *to = add(all, "order", f, share);
        SAY(to->text,
            "Later results wait for an earlier one, until the window is full of them: %s waited "
            "for that %s of the time. The longest input took %s.",
            workers_of(&a, n), percent(&b, share), seconds(&c, (double)f->max_ns * 1e-9));
        SAY(to->advice, "ordered = false gives results as they come; a larger `window` lets "
                        "more of them wait.");
    }
    /* workers beyond the limit were perhaps never started, since no other function needed them */
    share = f->active_ns >= ACTIVE_MIN_NS && f->limit < r->workers
                ? (double)f->limited_ns / (double)f->active_ns *
                      (1 - (double)f->limit / r->workers)
                : 0;
    if (share >= WAITED) {
        finding *to = add(all, "limit", f, share);
        SAY(to->text,
            "concurrency_limit = %u holds it back: %s of the time as many inputs ran as it allows, "
            "while there may be %u workers.",
            f->limit, percent(&b, (double)f->limited_ns / (double)f->active_ns), r->workers);
        SAY(to->advice, "Raise concurrency_limit, if what it protects allows for more.");
    }
}

static void find_retries(findings *all, const tp_report_function *f)
{
    words a = { 0 }, b = a, c = a, d = a;
    uint64_t attempts = f->items;
    double share = waited(all->r, f, TP_REASON_RETRY);
    double repeated = attempts ? (double)f->retries / (double)attempts : 0;
    if (f->retries == 0 || (share < WAITED && repeated < REPEATED))
        return;
    finding *to = add(all, "retries", f, share > repeated ? share : repeated);
    SAY(to->text,
        "Retries: %s of %s attempts failed and were repeated, and %s waited for the next attempt "
        "%s of the time. The first message: %.300s",
        amount(&a, (double)f->retries), amount(&b, (double)attempts),
        workers_of(&c, tp_report_workers(all->r, f)), percent(&d, share),
        tp_trace_text(all->r->trace, f->message));
    SAY(to->advice, "Look at why attempts fail first; a shorter delay in `retries` only helps when "
                    "the next attempt works.");
}

static void find_tail(findings *all, const tp_report_function *f)
{
    const tp_report_tail *tail = &f->tail;
    unsigned n = tp_report_workers(all->r, f);
    words a = { 0 }, b = a, c = a, d = a, e = a;
    double span = (double)tail->span_ns, idle = (double)tail->idle_ns;
    if (tail->span_ns < ACTIVE_MIN_NS || n < 2 || idle < WAITED * span)
        return;
    double saved = span - (double)tail->best_ns;
    finding *to = add(all, "tail", f, idle / span);
    if (saved >= 0.05 * span) {
        SAY(to->text,
            "One long item at the end: %s took %s, and for the last %s of %s nobody else had "
            "anything to do. With the longest first, the map would take about %s: %s less.",
            input_of(&a, &tail->item), seconds(&b, (double)tail->item.ns * 1e-9),
            seconds(&c, idle * 1e-9), seconds(&d, span * 1e-9),
            seconds(&e, (double)tail->best_ns * 1e-9), percent(&(words){ 0 }, saved / span));
        SAY(to->advice, "Sort the inputs so that those which take longest come first.");
        return;
    }
    SAY(to->text,
        "One long item: %s took %s of the map's %s, and for the last %s nobody else had anything "
        "to do.",
        input_of(&a, &tail->item), seconds(&b, (double)tail->item.ns * 1e-9),
        seconds(&c, span * 1e-9), seconds(&d, idle * 1e-9));
    SAY(to->advice, "Split it into several inputs: no order of them makes it shorter.");
}

static void find_encoding(findings *all, const tp_report_function *f)
{
    const tp_report *r = all->r;
    words a = { 0 }, b = a, c = a, d = a, e = a;
    double ns = (double)f->encode_ns, share = ns > 0 ? ns / ((double)f->active_ns + ns) : 0;
    double of_all = ns > 0 ? ns / ((double)r->active_ns + ns) : 0;
    if (share < ENCODED || of_all < 0.1 * ENCODED || f->encode_ns < ACTIVE_MIN_NS)
        return;
    finding *to = add(all, "encoding", NULL, of_all);
    SAY(to->function, "%s", tp_trace_text(r->trace, f->name));
    if (f->captured && 2 * f->captured_bytes > f->encode_bytes) {
        SAY(to->text,
            "Encoding the function for its workers took %s, %s of the time of its maps: it was "
            "done %s times, and most of its %s is the captured value '%.80s' (%s).",
            seconds(&a, (double)f->encode_ns * 1e-9), percent(&b, share),
            amount(&c, (double)f->encodings), size(&d, f->encode_bytes),
            tp_trace_text(r->trace, f->captured), size(&e, f->captured_bytes));
        SAY(to->advice,
            "tidepool.share(%.80s) encodes it once; a typed array is not copied for threads.",
            tp_trace_text(r->trace, f->captured));
        return;
    }
    SAY(to->text,
        "Encoding the function for its workers took %s, %s of the time of its maps: it was done "
        "%s times, with %s.",
        seconds(&a, (double)f->encode_ns * 1e-9), percent(&b, share),
        amount(&c, (double)f->encodings), size(&d, f->encode_bytes));
    SAY(to->advice, "Map once over more inputs, or make what it captures smaller.");
}

static void find_builds(findings *all)
{
    const tp_report *r = all->r;
    words a = { 0 }, b = a, c = a, d = a, e = a;
    double ns = (double)r->build_ns, whole = (double)(r->last_ns - r->start_ns);
    if (r->build_ns < 5 * (uint64_t)ACTIVE_MIN_NS || ns < COMPILED * whole)
        return;
    const tp_report_function *most = NULL;
    uint64_t most_ns = 0, n = 0, unkept = 0, read = 0;
    for (unsigned i = 0; i < r->n_functions; i++) {
        const tp_report_function *f = &r->functions[i];
        uint64_t sum = 0;
        for (int how = 0; how < 4; how++)
            sum += f->build_ns[how];
        n += f->builds[TP_BUILD_KEPT] + f->builds[TP_BUILD_NOT_KEPT];
        unkept += f->builds[TP_BUILD_NOT_KEPT];
        read += f->builds[TP_BUILD_READ];
        if (sum > most_ns) {
            most = f;
            most_ns = sum;
        }
    }
    finding *to = add(all, "compiling", NULL, ns / whole);
    SAY(to->text,
        "%s of %s were spent compiling programs for devices: %s compiled, %s read from what "
        "earlier runs have kept. Most of it, %s, was '%.80s'.",
        seconds(&a, ns * 1e-9), seconds(&b, whole * 1e-9), amount(&c, (double)n),
        amount(&d, (double)read), seconds(&e, (double)most_ns * 1e-9),
        most ? tp_trace_text(r->trace, most->name) : "?");
    SAY(to->advice, "%s",
        unkept > 0 ? "They are not kept: $XDG_CACHE_HOME, or ~/.cache, must be a folder that this "
                     "user can write to. Then the next run reads them."
        : n > 0    ? "They are kept, and the next run of the same code reads them. Functions that "
                     "capture other functions or booleans, or get other types, are compiled anew; "
                     "other numbers and arrays are not."
                   : "Call fewer functions there, or each with more inputs.");
}

static void find_lost(findings *all, const tp_report_function *f)
{
    words a = { 0 };
    const char *name = f->lost ? tp_trace_track(all->r->trace, f->lost_by) : NULL;
    if (f->lost == 0)
        return;
    finding *to = add(all, "hanging", f, 1);
    SAY(to->text,
        "A device hangs: %.100s has not come back from %s input%s, which threads have run instead.",
        name ? name : "it", amount(&a, (double)f->lost), f->lost == 1 ? "" : "s");
    SAY(to->advice, "Until it comes back maps with gpu = \"auto\" leave it out, and is_stuck of it "
                    "is true in tidepool.devices(). If it never does: a loop of the function that "
                    "does not end there, or the device's driver.");
}

static void find_copies(findings *all, const tp_report_function *f)
{
    words a = { 0 }, b = a, c = a, d = a;
    double copied = (double)f->copy_ns, computed = (double)f->kernel_ns;
    if (f->copies == 0 || copied <= computed || copied < 1e6)
        return;
    finding *to = add(all, "copies", f, copied / (copied + computed));
    SAY(to->text,
        "Copies dominate on the device: %s to copy %s there and back, and %s in kernels. %s of its "
        "time went into copies.",
        seconds(&a, copied * 1e-9), size(&b, f->copied_bytes),
        seconds(&c, computed * 1e-9), percent(&d, copied / (copied + computed)));
    SAY(to->advice, "Do more with each number while it is there, or keep arrays on the device.");
}

static void find_blocking(findings *all, const tp_report_function *f)
{
    unsigned n = tp_report_workers(all->r, f);
    words a = { 0 }, b = a, c = a, d = a;
    if (f->steps == 0 || n == 0 || f->active_ns < ACTIVE_MIN_NS)
        return;
    double share = (double)f->blocked_ns / ((double)n * (double)f->active_ns);
    if (share < WAITED)
        return;
    finding *to = add(all, "blocking", f, share);
    SAY(to->text,
        "A call blocks in a function with concurrent_inputs: input %llu kept its worker for %s at "
        "once. %s were blocked %s of the time (%s in all), in which no other input could go on.",
        (unsigned long long)f->longest + 1, seconds(&a, (double)f->longest_ns * 1e-9),
        workers_of(&b, n), percent(&c, share), seconds(&d, (double)f->blocked_ns * 1e-9));
    SAY(to->advice, "Wait by tidepool.sleep, calls, events and luv, which let others go on; or run "
                    "it without concurrent_inputs on more workers.");
}

static void find_failures(findings *all, const tp_report_function *f)
{
    words a = { 0 }, b = a;
    if (f->failures == 0)
        return;
    finding *to = add(all, "failures", f, 0.01);
    SAY(to->text, "%s of %s inputs failed. The first message: %.400s",
        amount(&a, (double)f->failures), amount(&b, (double)f->pushed),
        tp_trace_text(all->r->trace, f->message));
    SAY(to->advice, "f:map(inputs, { return_exceptions = true }) gives them as results; `tidepool "
                    "replay` runs one again.");
}

/* All workers were busy: are there too few of them, or too few processors? */
static void find_workers(findings *all, int group)
{
    const tp_report *r = all->r;
    const tp_report_group *g = &r->groups[group];
    uint64_t busy = 0, active = 0;
    const tp_report_function *most = NULL;
    words a = { 0 }, b = a;
    for (uint32_t i = 1; i < r->n_tracks; i++)
        if (r->tracks[i] && r->tracks[i]->group == group)
            busy += r->tracks[i]->busy_ns;
    for (unsigned i = 0; i < r->n_functions; i++) {
        const tp_report_function *f = &r->functions[i];
        if (f->group != group)
            continue;
        active = f->active_ns > active ? f->active_ns : active;
        most = !most || f->self_ns > most->self_ns ? f : most;
    }
    if (!most || g->is_owner || g->is_far || active < ACTIVE_MIN_NS || g->workers == 0)
        return;
    if (r->active_ns > active)
        active = r->active_ns;
    double share = (double)busy / ((double)g->workers * (double)active);
    /* fewer workers were started than allowed: more would have had nothing to do */
    if (g->workers < r->workers || share < BUSY || most->pushed <= 2 * (uint64_t)g->workers)
        return;
    if (g->workers < r->processors) {
        finding *to = add(all, "workers", most, 0.5 * share);
        SAY(to->text,
            "Too few workers: %s (%s) had something to do %s of the time, and there are %u "
            "processors.",
            workers_of(&a, g->workers), g->name, percent(&b, share), r->processors);
        SAY(to->advice, "--workers %u may take about %.0f %% less.", r->processors,
            100 * (1 - (double)g->workers / r->processors));
        return;
    }
    finding *to = add(all, "cores", most, 0.05 * share);
    SAY(to->text,
        "Too few processors: %s (%s) had something to do %s of the time, and there are %u "
        "processors, of which this process used %.2g on average.",
        workers_of(&a, g->workers), g->name, percent(&b, share), r->processors,
        r->active_ns ? r->processor_s / ((double)r->active_ns * 1e-9) : 0);
    SAY(to->advice, "Nothing holds the workers up: a faster function, or more processors, make it "
                    "faster. Where items wait (files, network), more workers or concurrent_inputs "
                    "do.");
}

static int put(const finding *f, bool is_first, tp_buf *out)
{
    return tp_report_put(out, "%s\n{\"kind\":\"%s\",\"weight\":%.3f,\"function\":",
                         is_first ? "" : ",", f->kind, f->weight) ||
                   tp_report_quote(out, f->function) || tp_report_put(out, ",\"text\":") ||
                   tp_report_quote(out, f->text) || tp_report_put(out, ",\"advice\":") ||
                   tp_report_quote(out, f->advice) || tp_report_put(out, "}")
               ? -1
               : 0;
}

int tp_report_find(const tp_report *r, tp_buf *out)
{
    findings all = { .r = r };
    for (unsigned i = 0; i < r->n_functions; i++) {
        const tp_report_function *f = &r->functions[i];
        find_waits(&all, f);
        find_retries(&all, f);
        find_tail(&all, f);
        find_encoding(&all, f);
        find_lost(&all, f);
        find_copies(&all, f);
        find_blocking(&all, f);
        find_failures(&all, f);
    }
    find_builds(&all);
    for (int i = 0; i < r->n_groups; i++)
        find_workers(&all, i);
    if (tp_report_put(out, "["))
        return -1;
    for (unsigned told = 0; told < all.n; told++) { /* the heaviest finding that is left */
        unsigned at = 0;
        for (unsigned i = 1; i < all.n; i++)
            if (all.list[i].weight > all.list[at].weight)
                at = i;
        if (put(&all.list[at], told == 0, out))
            return -1;
        all.list[at].weight = -1;
    }
    return tp_report_put(out, "]");
}
