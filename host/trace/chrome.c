/* chrome.c: events become boxes on tracks. See chrome.h.
 *
 * The script, each worker and each worker process have a track; so has what a device does by its
 * own clock. On a track boxes lie one inside the other, which the format demands; what may overlap
 * (maps that are open at the same time, tasks) goes to asynchronous tracks. Items that take less
 * than SMALL_NS are joined to boxes of up to JOINED_NS, and waits, maps and tasks that are over
 * sooner than that are left out. */
#include "trace/chrome.h"

#include "base/json.h"
#include "engine/reason.h"
#include "wire/events.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SMALL_NS = 200 * 1000,
    JOINED_NS = 1000 * 1000,
    GAP_NS = 100 * 1000,        /* joined items may lie so far apart */
    /* a box that has been open for so long is written as two entries, its begin and its end */
    SHOWN_NS = 200 * 1000000,
    CLOSED_NS = 2000 * 1000000, /* how long a closed map is known: its last items may still run */
    FLOWS_MAX = 1000,           /* arrows from one map */
    JOBS = 1024,                /* lists of a hash table */
    NESTING_MAX = 1000,         /* boxes that lie one inside the other; further ones are left out */
    ENTRY_MAX = 4096,
    SCRIPT_TID = 1,
    DEVICE_TID = 1 << 20 /* added to a worker's: the track of its device */
};

typedef enum box_kind { ITEMS, SPAN, WAIT } box_kind;

/* Small items of one function, one after the other, that are shown as one box. count 0: none. */
typedef struct joined {
    uint64_t job; /* 0: items of several jobs */
    uint64_t first, last, count, begun_ns, ended_ns;
    uint32_t name;
} joined;

typedef struct box {
    box_kind kind;
    bool is_shown; /* its begin ("B") is written */
    uint64_t begun_ns, job, first, count;
    uint32_t name; /* of a SPAN */
    /* of a WAIT: when its reason changes to `reason`, if it has not ended before; 0: it does not
     * change */
    uint64_t changed_ns, reason;
    joined small;  /* small items inside of it that are not written yet */
} box;

/* A worker's track, the script's, or a task's. */
typedef struct track {
    struct track *next;  /* in a list of the hash table of tasks */
    uint32_t worker;     /* 0: the script */
    uint64_t task;       /* not 0: it is a task's */
    uint32_t task_name;
    uint64_t item;       /* for a task that is an item of a map: 1 + the item's index; 0: none */
    bool is_shown;       /* a task: its beginning is written; others: so is its name */
    uint64_t begun_ns;   /* a task: when it began */
    uint64_t pid, tid;
    uint64_t linked;     /* the map to which the last arrow led */
    bool has_device;     /* the name of its device's track is written */
    unsigned n_inner;    /* open maps of its process, or machine: tp_wire_is_inner */
    joined small; /* small items inside of no other box that are not written yet */
    box *boxes;
    unsigned n, room;
    unsigned skipped; /* boxes beyond NESTING_MAX that are open */
} track;

/* A map or call. */
typedef struct job {
    struct job *next;        /* in a list of the hash table */
    struct job *next_closed; /* in the order in which they were closed */
    uint64_t number, opened_ns, pushed_ns /* when its first inputs came; 0: none yet */, closed_ns;
    uint32_t name, owner;
    unsigned flows;
    bool is_shown, is_drawn /* the box of the call, from which arrows go to its items */;
} job;

struct tp_chrome {
    tp_trace *trace;
    uint64_t start_ns, pid, last_ns;
    uint64_t flows; /* arrows so far */
    track **workers; /* by their ids; NULL: not seen yet */
    uint32_t n_workers;
    track *tasks[JOBS];
    job *jobs[JOBS];
    job *closed_first, **closed_last;
};

/* ---- text ---- */

/* Appends one entry of the array. */
__attribute__((format(printf, 2, 3))) static int put(tp_buf *out, const char *format, ...)
{
    uint8_t *to = tp_buf_reserve(out, ENTRY_MAX);
    va_list arguments;
    if (!to)
        return -1;
    va_start(arguments, format);
    int n = vsnprintf((char *)to, ENTRY_MAX, format, arguments);
    va_end(arguments);
    if (n > 0 && n < ENTRY_MAX) /* an entry with a name that is too long is left out */
        out->len += (size_t)n;
    return 0;
}

/* Memory for a text as it stands between the quotes of a string of JSON. */
typedef struct quoted {
    char text[6 * TP_NAME_MAX + 8];
} quoted;

static const char *quote(quoted *q, const char *text)
{
    char *end = tp_json_escape(q->text, text, strnlen(text, TP_NAME_MAX));
    *end = '\0';
    return q->text;
}

static const char *quote_name(tp_chrome *c, quoted *q, uint64_t name)
{
    return quote(q, tp_trace_text(c->trace, name));
}

/* Times are in microseconds. */
static double us(const tp_chrome *c, uint64_t ns)
{
    return ns > c->start_ns ? (double)(ns - c->start_ns) * 1e-3 : 0;
}

const char *tp_chrome_reason(uint64_t count)
{
    switch ((tp_reason)count) {
    case TP_REASON_INPUTS: return "the inputs";
    case TP_REASON_READER: return "the reader of the results";
    case TP_REASON_ORDER: return "an earlier input, in order";
    case TP_REASON_LIMIT: return "concurrency_limit";
    case TP_REASON_RETRY: return "a retry";
    case TP_REASON_WORKERS: return "workers";
    case TP_REASON_NONE: break;
    }
    return "work";
}

/* ---- tracks ---- */

static uint64_t hash(uint64_t number)
{
    return number * 0x9e3779b97f4a7c15ull >> 54;
}

static int put_thread_name(uint64_t pid, uint64_t tid, const char *name, const char *more,
                           tp_buf *out)
{
    quoted q;
    return put(out,
               ",\n{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":%llu,\"tid\":%llu,\"args\":{"
               "\"name\":\"%s%s\"}},\n{\"ph\":\"M\",\"name\":\"thread_sort_index\",\"pid\":%llu,"
               "\"tid\":%llu,\"args\":{\"sort_index\":%llu}}",
               (unsigned long long)pid, (unsigned long long)tid, quote(&q, name), more,
               (unsigned long long)pid, (unsigned long long)tid, (unsigned long long)tid);
}

/* The worker's track; NULL when out of memory. */
static track *track_of(tp_chrome *c, uint32_t worker, tp_buf *out)
{
    if (worker >= c->n_workers) {
        uint32_t room = worker < 8 ? 16 : 2 * worker;
        track **workers = realloc(c->workers, room * sizeof *workers);
        if (!workers)
            return NULL;
        memset(workers + c->n_workers, 0, (room - c->n_workers) * sizeof *workers);
        c->workers = workers;
        c->n_workers = room;
    }
    track *t = c->workers[worker];
    if (!t) {
        t = calloc(1, sizeof *t);
        if (!t)
            return NULL;
        t->worker = worker;
        t->pid = c->pid;
        t->tid = SCRIPT_TID + worker;
        c->workers[worker] = t;
    }
    if (!t->is_shown) {
        char name[32];
        const char *known = worker ? tp_trace_track(c->trace, worker) : "script";
        snprintf(name, sizeof name, "worker %u", worker);
        if (put_thread_name(t->pid, t->tid, known ? known : name, "", out))
            return NULL;
        t->is_shown = true;
    }
    return t;
}

static track **find_task(tp_chrome *c, uint64_t task)
{
    track **at = &c->tasks[hash(task)];
    while (*at && (*at)->task != task)
        at = &(*at)->next;
    return at;
}

static void free_track(track *t)
{
    if (t)
        free(t->boxes);
    free(t);
}

/* ---- maps ---- */

static job **find_job(tp_chrome *c, uint64_t number)
{
    job **at = &c->jobs[hash(number)];
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

/* The name of the job's function; 0: it is not known. */
static uint32_t name_of(tp_chrome *c, uint64_t number)
{
    const job *j = *find_job(c, number);
    return j ? j->name : 0;
}

/* Forgets maps that were closed long ago. */
static void purge(tp_chrome *c, uint64_t before_ns)
{
    while (c->closed_first && c->closed_first->closed_ns < before_ns) {
        job *j = c->closed_first, **at = find_job(c, j->number);
        c->closed_first = j->next_closed;
        if (!c->closed_first)
            c->closed_last = &c->closed_first;
        *at = j->next;
        free(j);
    }
}

/* A beginning ("b") or an end ("e") on an asynchronous track. */
static int put_async(tp_chrome *c, char phase, const char *category, uint64_t id, const char *name,
                     uint64_t time_ns, tp_buf *out)
{
    return put(out,
               ",\n{\"ph\":\"%c\",\"cat\":\"%s\",\"id\":\"%llx\",\"name\":\"%s\",\"ts\":%.3f,"
               "\"pid\":%llu,\"tid\":%d}",
               phase, category, (unsigned long long)id, name, us(c, time_ns),
               (unsigned long long)c->pid, SCRIPT_TID);
}

static int show_job(tp_chrome *c, job *j, tp_buf *out)
{
    quoted q;
    if (j->is_shown)
        return 0;
    j->is_shown = true;
    return put_async(c, 'b', "map", j->number, quote_name(c, &q, j->name), j->opened_ns, out);
}

static int end_job(tp_chrome *c, job *j, uint64_t time_ns, tp_buf *out)
{
    quoted q;
    if (!j->is_shown)
        return 0;
    return put_async(c, 'e', "map", j->number, quote_name(c, &q, j->name), time_ns, out);
}

/* An arrow from the map's call to a box of its items, which begins then. */
static int link_items(tp_chrome *c, track *t, uint64_t number, uint64_t time_ns, tp_buf *out)
{
    job *j = *find_job(c, number);
    track *owner = j && j->pushed_ns ? track_of(c, j->owner, out) : NULL;
    quoted q;
    if (!owner || j->flows >= FLOWS_MAX || time_ns < j->opened_ns)
        return 0;
    bool was_shown = j->is_shown;
    j->flows++;
    t->linked = number;
    if (show_job(c, j, out) || (!was_shown && j->closed_ns && end_job(c, j, j->closed_ns, out)))
        return -1;
    if (!j->is_drawn && put(out,
                            ",\n{\"ph\":\"X\",\"cat\":\"call\",\"name\":\"%s: map\",\"ts\":%.3f,"
                            "\"dur\":%.3f,\"pid\":%llu,\"tid\":%llu,\"args\":{\"map\":%llu}}",
                            quote_name(c, &q, j->name), us(c, j->opened_ns),
                            us(c, j->pushed_ns) - us(c, j->opened_ns),
                            (unsigned long long)owner->pid, (unsigned long long)owner->tid,
                            (unsigned long long)number))
        return -1;
    j->is_drawn = true;
    uint64_t id = ++c->flows;
    return put(out,
               ",\n{\"ph\":\"s\",\"cat\":\"call\",\"name\":\"call\",\"id\":%llu,\"ts\":%.3f,"
               "\"pid\":%llu,\"tid\":%llu},\n{\"ph\":\"f\",\"bp\":\"e\",\"cat\":\"call\",\"name\":"
               "\"call\",\"id\":%llu,\"ts\":%.3f,\"pid\":%llu,\"tid\":%llu}",
               (unsigned long long)id, us(c, j->opened_ns), (unsigned long long)owner->pid,
               (unsigned long long)owner->tid, (unsigned long long)id, us(c, time_ns),
               (unsigned long long)t->pid, (unsigned long long)t->tid);
}

/* ---- boxes ---- */

/* Writes a box of items. ended_ns 0: only its begin. */
static int put_items(tp_chrome *c, track *t, const joined *s, uint64_t ended_ns, tp_buf *out)
{
    quoted q;
    char range[64], length[48] = "";
    if (s->job == 0)
        snprintf(range, sizeof range, "%llu times", (unsigned long long)s->count);
    else
        snprintf(range, sizeof range, s->last > s->first ? "#%llu-%llu" : "#%llu",
                 (unsigned long long)s->first + 1, (unsigned long long)s->last + 1);
    if (ended_ns)
        snprintf(length, sizeof length, "\"dur\":%.3f,", us(c, ended_ns) - us(c, s->begun_ns));
    if (put(out,
            ",\n{\"ph\":\"%c\",\"cat\":\"items\",\"name\":\"%s %s\",\"ts\":%.3f,%s\"pid\":%llu,"
            "\"tid\":%llu,\"args\":{\"map\":%llu,\"items\":%llu}}",
            ended_ns ? 'X' : 'B', quote_name(c, &q, s->name), range, us(c, s->begun_ns), length,
            (unsigned long long)t->pid, (unsigned long long)t->tid, (unsigned long long)s->job,
            (unsigned long long)s->count))
        return -1;
    bool is_large = s->count == 1 && (!ended_ns || ended_ns - s->begun_ns >= SMALL_NS);
    return s->job && (is_large || t->linked != s->job) ? link_items(c, t, s->job, s->begun_ns, out)
                                                       : 0;
}

/* The small items inside the box at that depth, from 1; 0: inside of none. */
static joined *joined_at(track *t, unsigned depth)
{
    return depth > 0 ? &t->boxes[depth - 1].small : &t->small;
}

/* Writes the box of the small items at that depth, if there are any. */
static int put_joined(tp_chrome *c, track *t, unsigned depth, tp_buf *out)
{
    joined s = *joined_at(t, depth);
    joined_at(t, depth)->count = 0;
    return s.count ? put_items(c, t, &s, s.ended_ns, out) : 0;
}

/* Writes a box of the kinds SPAN and WAIT. ended_ns 0: only its begin. */
static int put_named(tp_chrome *c, const track *t, const box *b, uint64_t ended_ns, tp_buf *out)
{
    quoted q;
    char length[48] = "";
    const char *name = b->kind == SPAN ? quote_name(c, &q, b->name) : tp_chrome_reason(b->count);
    if (t->task)
        return put_async(c, 'b', "task", t->task, name, b->begun_ns, out) ||
                       (ended_ns && put_async(c, 'e', "task", t->task, name, ended_ns, out))
                   ? -1
                   : 0;
    if (ended_ns)
        snprintf(length, sizeof length, "\"dur\":%.3f,", us(c, ended_ns) - us(c, b->begun_ns));
    return put(out,
               ",\n{\"ph\":\"%c\",\"cat\":\"%s\",\"name\":\"%s%s\",\"ts\":%.3f,%s\"pid\":%llu,"
               "\"tid\":%llu}",
               ended_ns ? 'X' : 'B', b->kind == SPAN ? "span" : "wait",
               b->kind == SPAN ? "" : "waits for ", name, us(c, b->begun_ns), length,
               (unsigned long long)t->pid, (unsigned long long)t->tid);
}

/* The items of the box b as a `joined` of their own. */
static joined alone(tp_chrome *c, const box *b)
{
    uint64_t last = b->count ? b->first + b->count - 1 : b->first;
    return (joined){ .job = b->job,
                     .first = b->first,
                     .last = last,
                     .count = b->count,
                     .begun_ns = b->begun_ns,
                     .name = name_of(c, b->job) };
}

static int put_box(tp_chrome *c, track *t, const box *b, uint64_t ended_ns, tp_buf *out)
{
    if (b->kind != ITEMS)
        return put_named(c, t, b, ended_ns, out);
    joined s = alone(c, b);
    return put_items(c, t, &s, ended_ns, out);
}

/* Adds a box of small items, which ends now, to those of its depth. */
static int join(tp_chrome *c, track *t, const box *b, uint64_t time_ns, tp_buf *out)
{
    joined *s = joined_at(t, t->n), one = alone(c, b);
    if (s->count && (s->name != one.name || b->begun_ns > s->ended_ns + GAP_NS ||
                     time_ns > s->begun_ns + JOINED_NS) &&
        put_joined(c, t, t->n, out))
        return -1;
    one.ended_ns = time_ns;
    if (s->count > 0) { /* add to those that are there */
        one.job = s->job == one.job ? s->job : 0;
        one.first = s->first < one.first ? s->first : one.first;
        one.last = s->last > one.last ? s->last : one.last;
        one.count += s->count;
        one.begun_ns = s->begun_ns;
    }
    *s = one;
    return 0;
}

/* Writes the end of a box whose begin is written. */
static int put_end(tp_chrome *c, const track *t, const box *b, uint64_t time_ns, tp_buf *out)
{
    quoted q;
    if (t->task)
        return put_async(c, 'e', "task", t->task, quote_name(c, &q, b->name), time_ns, out);
    return put(out, ",\n{\"ph\":\"E\",\"ts\":%.3f,\"pid\":%llu,\"tid\":%llu}", us(c, time_ns),
               (unsigned long long)t->pid, (unsigned long long)t->tid);
}

static int open_box(track *t, const box *b)
{
    if (t->n == NESTING_MAX) {
        t->skipped++;
        return 0;
    }
    if (t->n == t->room) {
        unsigned room = t->room ? 2 * t->room : 8;
        box *boxes = realloc(t->boxes, room * sizeof *boxes);
        if (!boxes)
            return -1;
        t->boxes = boxes;
        t->room = room;
    }
    t->boxes[t->n++] = *b;
    return 0;
}

/* If the innermost box is a wait whose reason has changed before time_ns, splits it there into two
 * boxes. */
static int change_reason(tp_chrome *c, track *t, uint64_t time_ns, tp_buf *out)
{
    box *b = &t->boxes[t->n - 1], before = *b;
    if (b->changed_ns == 0 || b->changed_ns >= time_ns)
        return 0;
    b->begun_ns = b->changed_ns;
    b->count = b->reason;
    b->changed_ns = 0;
    if (before.changed_ns - before.begun_ns < SMALL_NS)
        return 0;
    return put_joined(c, t, t->n - 1, out) || put_named(c, t, &before, before.changed_ns, out) ? -1
                                                                                              : 0;
}

/* The innermost box ends. */
static int close_box(tp_chrome *c, track *t, uint64_t time_ns, tp_buf *out)
{
    if (put_joined(c, t, t->n, out) || change_reason(c, t, time_ns, out))
        return -1;
    box b = t->boxes[--t->n];
    if (b.is_shown)
        return put_end(c, t, &b, time_ns, out);
    uint64_t length = time_ns > b.begun_ns ? time_ns - b.begun_ns : 0;
    if ((b.kind == WAIT && length < SMALL_NS) || (b.kind == ITEMS && b.count == 0))
        return 0;
    if (b.kind != ITEMS || length / b.count >= SMALL_NS)
        return put_joined(c, t, t->n, out) || put_box(c, t, &b, time_ns, out) ? -1 : 0;
    return join(c, t, &b, time_ns, out);
}

/* Ends boxes from the innermost on until `n` are left. */
static int close_boxes(tp_chrome *c, track *t, unsigned n, uint64_t time_ns, tp_buf *out)
{
    t->skipped = 0;
    while (t->n > n)
        if (close_box(c, t, time_ns, out))
            return -1;
    return 0;
}

/* ---- events ---- */

/* An instant on the track, with the item that it is about (number 0: none). */
static int put_instant(tp_chrome *c, track *t, const tp_event *e, const char *name,
                       const char *detail, tp_buf *out)
{
    quoted q, d;
    char item[96] = "";
    bool is_of_item = (e->kind != TP_EVENT_CANCEL && e->kind < TP_EVENT_COPY_IN) ||
                      e->kind == TP_EVENT_STEP;
    if (e->job && is_of_item)
        snprintf(item, sizeof item, ",\"map\":%llu,\"item\":%llu", (unsigned long long)e->job,
                 (unsigned long long)e->first + 1);
    return put(out,
               ",\n{\"ph\":\"i\",\"s\":\"t\",\"cat\":\"event\",\"name\":\"%s\",\"ts\":%.3f,\"pid\":"
               "%llu,\"tid\":%llu,\"args\":{\"what\":\"%s\"%s}}",
               quote(&q, name), us(c, e->time_ns), (unsigned long long)t->pid,
               (unsigned long long)t->tid, quote(&d, detail), item);
}

static int add_open(tp_chrome *c, track *t, const tp_event *e)
{
    if (*find_job(c, e->job))
        return 0;
    job *j = calloc(1, sizeof *j), **list = &c->jobs[hash(e->job)];
    if (!j)
        return -1;
    *j = (job){ .next = *list,
                .number = e->job,
                .opened_ns = e->time_ns,
                .name = (uint32_t)e->count,
                .owner = e->worker };
    *list = j;
    t->n_inner += tp_wire_is_inner(j->number);
    return 0;
}

static int close_job(tp_chrome *c, job *j, uint64_t time_ns, tp_buf *out)
{
    if (!j || j->closed_ns)
        return 0;
    j->closed_ns = time_ns;
    c->workers[j->owner]->n_inner -= tp_wire_is_inner(j->number);
    j->next_closed = NULL;
    *c->closed_last = j;
    c->closed_last = &j->next_closed;
    if (time_ns - j->opened_ns >= SMALL_NS && show_job(c, j, out))
        return -1;
    return end_job(c, j, time_ns, out);
}

/* The track's items are over, and with them the maps inside of them, if not all that was said of
 * these has come (TP_EVENT_OMIT), or their process has died. */
static int close_inner(tp_chrome *c, const track *t, uint64_t time_ns, tp_buf *out)
{
    for (unsigned i = 0; i < t->n; i++)
        if (t->boxes[i].kind == ITEMS)
            return 0;
    for (unsigned i = 0; i < JOBS && t->n_inner > 0; i++)
        for (job *j = c->jobs[i]; j; j = j->next)
            if (tp_wire_is_inner(j->number) && j->owner == t->worker &&
                close_job(c, j, time_ns, out))
                return -1;
    return 0;
}

/* A worker runs its items in another process from here on (TP_EVENT_PROCESS). */
static int add_process(tp_chrome *c, track *t, const tp_event *e, tp_buf *out)
{
    quoted q;
    const char *name = tp_trace_track(c->trace, t->worker);
    if (t->pid == e->first)
        return 0;
    if (put_joined(c, t, 0, out))
        return -1;
    t->pid = t->tid = e->first;
    t->has_device = false; /* the track is another one */
    if (put(out,
            ",\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%llu,\"tid\":%llu,\"args\":{"
            "\"name\":\"worker process, %s\"}}",
            (unsigned long long)t->pid, (unsigned long long)t->tid, quote(&q, name ? name : "?")))
        return -1;
    return put_thread_name(t->pid, t->tid, "items", "", out);
}

/* Writes a box for what a device has done. */
static int add_device(tp_chrome *c, track *t, const tp_event *e, tp_buf *out)
{
    bool is_kernel = e->kind == TP_EVENT_KERNEL;
    quoted q;
    const char *name = tp_trace_track(c->trace, t->worker);
    if (!t->has_device) {
        t->has_device = true;
        if (put_thread_name(t->pid, t->tid + DEVICE_TID, name ? name : "device",
                            ": by the device's clock", out))
            return -1;
    }
    return put(out,
               ",\n{\"ph\":\"X\",\"cat\":\"device\",\"name\":\"%s\",\"ts\":%.3f,\"dur\":%.3f,"
               "\"pid\":%llu,\"tid\":%llu,\"args\":{\"map\":%llu,\"%s\":%llu}}",
               is_kernel                     ? quote_name(c, &q, name_of(c, e->job))
               : e->kind == TP_EVENT_COPY_IN ? "copy in"
                                             : "copy out",
               us(c, e->time_ns), (double)e->first * 1e-3, (unsigned long long)t->pid,
               (unsigned long long)t->tid + DEVICE_TID, (unsigned long long)e->job,
               is_kernel ? "items" : "bytes", (unsigned long long)e->count);
}

/* Writes a box for a program that somebody has waited for, inside of what he was doing. */
static int add_build(tp_chrome *c, const track *t, const tp_event *e, tp_buf *out)
{
    static const char *const how[] = { [TP_BUILD_KEPT] = "compiled, and kept",
                                       [TP_BUILD_NOT_KEPT] = "compiled, and not kept",
                                       [TP_BUILD_READ] = "read from what is kept",
                                       [TP_BUILD_LAUNCHED] = "compiled for the first launch" };
    quoted name, device;
    return put(out,
               ",\n{\"ph\":\"X\",\"cat\":\"build\",\"name\":\"compile %s\",\"ts\":%.3f,"
               "\"dur\":%.3f,\"pid\":%llu,\"tid\":%llu,\"args\":{\"device\":\"%s\",\"how\":"
               "\"%s\"}}",
               quote_name(c, &name, (uint32_t)e->count), us(c, e->time_ns),
               (double)e->first * 1e-3, (unsigned long long)t->pid, (unsigned long long)t->tid,
               quote_name(c, &device, tp_trace_build_device(e->job)),
               how[tp_trace_build_how(e->job)]);
}

/* A task begins: one of the script's, or an item that waits beside others (item 0: none). */
static int add_task(tp_chrome *c, uint64_t number, uint32_t name, uint64_t item, uint64_t time_ns)
{
    track **at = find_task(c, number), *t = *at;
    if (t)
        return 0;
    t = calloc(1, sizeof *t);
    if (!t)
        return -1;
    t->task = number;
    t->task_name = name;
    t->item = item;
    t->begun_ns = time_ns;
    *at = t;
    return 0;
}

/* A beginning or an end of the task's own box. */
static int put_task(tp_chrome *c, char phase, const track *t, uint64_t time_ns, tp_buf *out)
{
    quoted q;
    char name[sizeof q.text + 32];
    const char *quoted_name = quote_name(c, &q, t->task_name);
    if (t->item)
        snprintf(name, sizeof name, "%s #%llu", quoted_name, (unsigned long long)t->item);
    else
        snprintf(name, sizeof name, "%s", quoted_name);
    return put_async(c, phase, "task", t->task, name, time_ns, out);
}

static int show_task(tp_chrome *c, track *t, tp_buf *out)
{
    if (t->is_shown)
        return 0;
    t->is_shown = true;
    return put_task(c, 'b', t, t->begun_ns, out);
}

/* Ends a task's track, and frees it. */
static int end_task(tp_chrome *c, track **at, uint64_t time_ns, tp_buf *out)
{
    track *t = *at;
    int rc = time_ns - t->begun_ns >= SMALL_NS ? show_task(c, t, out) : 0;
    if (rc == 0)
        rc = close_boxes(c, t, 0, time_ns, out);
    if (rc == 0 && t->is_shown)
        rc = put_task(c, 'e', t, time_ns, out);
    *at = t->next;
    free_track(t);
    return rc;
}

/* The track of a span or mark: that of its task, which is then worth showing, or the worker's. */
static track *users_track(tp_chrome *c, const tp_event *e, track *t, tp_buf *out)
{
    track *task = e->job ? *find_task(c, e->job) : NULL;
    if (task && show_task(c, task, out))
        return NULL;
    return task ? task : t;
}

/* A span begins or ends. Those inside of it, and those that an error has left at this depth of the
 * stack, end first. */
static int add_span(tp_chrome *c, track *t, const tp_event *e, tp_buf *out)
{
    while (t->n > 0 && t->boxes[t->n - 1].kind != ITEMS &&
           (t->boxes[t->n - 1].kind == WAIT || t->boxes[t->n - 1].first >= e->first))
        if (close_box(c, t, e->time_ns, out))
            return -1;
    if (e->kind == TP_EVENT_SPAN_END)
        return 0;
    box b = { .kind = SPAN,
              .begun_ns = e->time_ns,
              .first = e->first,
              .name = (uint32_t)e->count };
    return open_box(t, &b);
}

static int add_mark(tp_chrome *c, track *t, const tp_event *e, tp_buf *out)
{
    quoted q;
    double value;
    const char *name = tp_trace_text(c->trace, e->count);
    memcpy(&value, &e->first, sizeof value);
    if (e->kind == TP_EVENT_MARK_NUMBER && isfinite(value)) {
        const char *const series[] = { "value" };
        return tp_chrome_count(c, e->time_ns, name, series, &value, 1, out);
    }
    const char *detail = e->kind == TP_EVENT_MARK          ? ""
                         : e->kind == TP_EVENT_MARK_NUMBER ? (isnan(value)  ? "nan"
                                                              : value > 0 ? "inf"
                                                                          : "-inf")
                                                           : tp_trace_text(c->trace, e->first);
    if (!t->task)
        return put_instant(c, t, e, name, detail, out);
    return put(out,
               ",\n{\"ph\":\"n\",\"cat\":\"task\",\"id\":\"%llx\",\"name\":\"%s\",\"ts\":%.3f,"
               "\"pid\":%llu,\"tid\":%d}",
               (unsigned long long)t->task, quote(&q, name), us(c, e->time_ns),
               (unsigned long long)c->pid, SCRIPT_TID);
}

/* Ends the innermost box of that kind (a wait, or items of the event's job: the ends of others
 * inside of them may be missing), and what is inside of it. */
static int end_kind(tp_chrome *c, track *t, const tp_event *e, box_kind kind, tp_buf *out)
{
    unsigned n = t->n;
    if (t->skipped > 0) {
        t->skipped--;
        return 0;
    }
    while (n > 0 && (t->boxes[n - 1].kind != kind ||
                     (kind == ITEMS && t->boxes[n - 1].job != e->job)))
        n--;
    if (n == 0) /* its beginning is not known */
        return 0;
    if (close_boxes(c, t, n, e->time_ns, out))
        return -1;
    if (kind == ITEMS)
        t->boxes[n - 1].count = e->count;
    if (close_box(c, t, e->time_ns, out))
        return -1;
    return kind == ITEMS ? close_inner(c, t, e->time_ns, out) : 0;
}

int tp_chrome_add(tp_chrome *c, const tp_event *e, tp_buf *out)
{
    if (e->time_ns > c->last_ns)
        c->last_ns = e->time_ns;
    track *t = NULL;
    if (e->kind != TP_EVENT_TASK && e->kind != TP_EVENT_TASK_END && e->kind != TP_EVENT_ITEM &&
        e->kind != TP_EVENT_ITEM_END) {
        t = track_of(c, e->worker, out);
        if (!t)
            return -1;
    }
    char text[80];
    job *j = NULL;
    track **task;
    box b = { .begun_ns = e->time_ns, .job = e->job, .first = e->first, .count = e->count };
    switch (e->kind) {
    case TP_EVENT_OPEN: return add_open(c, t, e);
    case TP_EVENT_CLOSE: return close_job(c, *find_job(c, e->job), e->time_ns, out);
    case TP_EVENT_PUSH:
        j = *find_job(c, e->job);
        if (j && !j->pushed_ns)
            j->pushed_ns = e->time_ns;
        return 0;
    case TP_EVENT_BEGIN:
        b.kind = ITEMS;
        return open_box(t, &b);
    case TP_EVENT_END: return end_kind(c, t, e, ITEMS, out);
    case TP_EVENT_WAIT:
        b.kind = WAIT;
        return open_box(t, &b);
    case TP_EVENT_WAKE: return end_kind(c, t, e, WAIT, out);
    case TP_EVENT_RETRY:
        return put_instant(c, t, e, "retry", tp_trace_text(c->trace, e->count), out);
    case TP_EVENT_FAIL:
        return put_instant(c, t, e, "failure", tp_trace_text(c->trace, e->count), out);
    case TP_EVENT_LOSE:
        snprintf(text, sizeof text, "it has not come back from %llu items, which others run",
                 (unsigned long long)e->count);
        return put_instant(c, t, e, "lost", text, out);
    case TP_EVENT_STEP:
        snprintf(text, sizeof text,
                 "it has kept its worker for %.0f ms without a wait, %.0f ms of them computing",
                 (double)(e->count >> 32) * 1e-3, (double)(e->count & UINT32_MAX) * 1e-3);
        return put_instant(c, t, e, "blocked", text, out);
    case TP_EVENT_CANCEL: return put_instant(c, t, e, "cancel", "a map is cancelled", out);
    case TP_EVENT_COPY_IN:
    case TP_EVENT_KERNEL:
    case TP_EVENT_COPY_OUT: return add_device(c, t, e, out);
    case TP_EVENT_BUILD: return add_build(c, t, e, out);
    case TP_EVENT_PROCESS: return add_process(c, t, e, out);
    case TP_EVENT_DEATH:
        return put_instant(c, t, e, "death", tp_trace_text(c->trace, e->count), out);
    case TP_EVENT_SPAN:
    case TP_EVENT_SPAN_END:
        t = users_track(c, e, t, out);
        return t ? add_span(c, t, e, out) : -1;
    case TP_EVENT_MARK:
    case TP_EVENT_MARK_NUMBER:
    case TP_EVENT_MARK_TEXT:
        t = users_track(c, e, t, out);
        return t ? add_mark(c, t, e, out) : -1;
    case TP_EVENT_TASK: return add_task(c, e->job, (uint32_t)e->count, 0, e->time_ns);
    case TP_EVENT_ITEM:
        return add_task(c, tp_trace_item(e->job, e->first), name_of(c, e->job), e->first + 1,
                        e->time_ns);
    case TP_EVENT_TASK_END:
    case TP_EVENT_ITEM_END:
        task = find_task(c, e->kind == TP_EVENT_ITEM_END ? tp_trace_item(e->job, e->first)
                                                         : e->job);
        return *task ? end_task(c, task, e->time_ns, out) : 0;
    case TP_EVENT_OMIT:
        snprintf(text, sizeof text, "%llu events of it are missing: there were too many at once",
                 (unsigned long long)e->count);
        return put_instant(c, t, e, "left out", text, out);
    case TP_EVENT_TAKE:
    case TP_EVENT_FINISH:
    case TP_EVENT_INPUT:
    case TP_EVENT_ENCODE:
    case TP_EVENT_CAPTURED:
    case TP_EVENTS: break;
    }
    return 0;
}

/* ---- the file ---- */

tp_chrome *tp_chrome_new(tp_trace *trace, uint64_t start_ns)
{
    tp_chrome *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->trace = trace;
    c->start_ns = c->last_ns = start_ns;
    c->pid = (uint64_t)getpid();
    c->closed_last = &c->closed_first;
    return c;
}

void tp_chrome_free(tp_chrome *c)
{
    if (!c)
        return;
    for (uint32_t i = 0; i < c->n_workers; i++)
        free_track(c->workers[i]);
    free(c->workers);
    for (unsigned i = 0; i < JOBS; i++) {
        while (c->tasks[i]) {
            track *next = c->tasks[i]->next;
            free_track(c->tasks[i]);
            c->tasks[i] = next;
        }
        while (c->jobs[i]) {
            job *next = c->jobs[i]->next;
            free(c->jobs[i]);
            c->jobs[i] = next;
        }
    }
    free(c);
}

int tp_chrome_begin(tp_chrome *c, tp_buf *out)
{
    return put(out,
               "[\n{\"ph\":\"M\",\"name\":\"process_name\",\"pid\":%llu,\"tid\":%d,\"args\":{"
               "\"name\":\"tidepool\"}}",
               (unsigned long long)c->pid, SCRIPT_TID);
}

int tp_chrome_count(tp_chrome *c, uint64_t time_ns, const char *name, const char *const *series,
                    const double *values, unsigned n, tp_buf *out)
{
    quoted q;
    char text[512];
    size_t len = 0;
    for (unsigned i = 0; i < n && len < sizeof text; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s\"%s\":%.17g", i ? "," : "",
                                series[i], values[i]);
    return put(out,
               ",\n{\"ph\":\"C\",\"name\":\"%s\",\"ts\":%.3f,\"pid\":%llu,\"tid\":%d,"
               "\"args\":{%s}}",
               quote(&q, name), us(c, time_ns), (unsigned long long)c->pid, SCRIPT_TID, text);
}

int tp_chrome_explain(tp_chrome *c, uint64_t time_ns, const void *group, uint64_t reason,
                      tp_buf *out)
{
    for (uint32_t i = 1; i < c->n_workers; i++) {
        track *t = c->workers[i];
        box *b = t && t->n > 0 ? &t->boxes[t->n - 1] : NULL;
        if (!b || b->kind != WAIT || b->first != (uint64_t)(uintptr_t)group)
            continue;
        /* An event that ends the wait may be in the ring but not read yet, so a new reason is
         * written only at the next look. */
        if (change_reason(c, t, time_ns, out))
            return -1;
        if (b->count != reason && time_ns > b->begun_ns) {
            b->changed_ns = time_ns;
            b->reason = reason;
        }
    }
    return 0;
}

/* Writes the begin of boxes of the track that have been open since before_ns, from the outermost
 * on. */
static int show_boxes(tp_chrome *c, track *t, uint64_t before_ns, tp_buf *out)
{
    for (unsigned i = 0; t && i < t->n && t->boxes[i].begun_ns < before_ns; i++) {
        box *b = &t->boxes[i];
        if (b->is_shown || b->kind == WAIT)
            continue;
        b->is_shown = true;
        if (put_joined(c, t, i, out) || put_box(c, t, b, 0, out))
            return -1;
    }
    return t && t->small.count && t->small.ended_ns < before_ns ? put_joined(c, t, 0, out) : 0;
}

int tp_chrome_show(tp_chrome *c, uint64_t now_ns, tp_buf *out)
{
    uint64_t before = now_ns > SHOWN_NS ? now_ns - SHOWN_NS : 0;
    for (uint32_t i = 0; i < c->n_workers; i++)
        if (show_boxes(c, c->workers[i], before, out))
            return -1;
    for (unsigned i = 0; i < JOBS; i++) {
        for (track *t = c->tasks[i]; t; t = t->next)
            if (t->begun_ns < before && (show_task(c, t, out) || show_boxes(c, t, before, out)))
                return -1;
        for (job *j = c->jobs[i]; j; j = j->next)
            if (!j->closed_ns && j->opened_ns < before && show_job(c, j, out))
                return -1;
    }
    purge(c, now_ns > CLOSED_NS ? now_ns - CLOSED_NS : 0);
    return 0;
}

/* Ends what is open on all tracks. */
static int close_all(tp_chrome *c, uint64_t time_ns, tp_buf *out)
{
    for (uint32_t i = 0; i < c->n_workers; i++) {
        track *t = c->workers[i];
        if (t && (close_boxes(c, t, 0, time_ns, out) || put_joined(c, t, 0, out)))
            return -1;
    }
    for (unsigned i = 0; i < JOBS; i++) {
        while (c->tasks[i])
            if (end_task(c, &c->tasks[i], time_ns, out))
                return -1;
        for (job *j = c->jobs[i]; j; j = j->next)
            if (!j->closed_ns && (show_job(c, j, out) || close_job(c, j, time_ns, out)))
                return -1;
    }
    return 0;
}

int tp_chrome_lose(tp_chrome *c, uint64_t n, tp_buf *out)
{
    if (close_all(c, c->last_ns, out))
        return -1;
    purge(c, UINT64_MAX);
    return put(out,
               ",\n{\"ph\":\"i\",\"s\":\"g\",\"cat\":\"event\",\"name\":\"%llu events are "
               "missing: there were too many at once\",\"ts\":%.3f,\"pid\":%llu,\"tid\":%d}",
               (unsigned long long)n, us(c, c->last_ns), (unsigned long long)c->pid, SCRIPT_TID);
}

int tp_chrome_end(tp_chrome *c, uint64_t now_ns, tp_buf *out)
{
    return close_all(c, now_ns, out) || tp_buf_add(out, "\n]\n", 3) ? -1 : 0;
}
