/* report.c: adds events up, and keeps what is drawn. See report.h.
 *
 * Items, spans and waits of a worker lie one inside the other, as boxes on its stack; items that
 * wait beside others (TP_EVENT_ITEM) have lanes. A box that is over is kept for the drawing: short
 * ones are joined to the last one of their lane, and when there are BOXES_MAX, what counts as short
 * is doubled and the boxes are joined again. */
#include "trace/report_private.h"

#include "base/cpus.h"
#include "wire/events.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum {
    FINE_NS = 20 * 1000,
    KEEP_S = 60, /* seconds of the past that a live page shows */
    JOINED = 8, /* a joined box is at most so many times `fine_ns` long */
    LISTS = 1024,
    NESTING_MAX = 1000
};

/* A map or call that is open, or whose last items run. */
typedef struct tp_report_job {
    struct tp_report_job *next;
    uint64_t number;
    uint32_t function;
    uint32_t worker; /* on whose track it was opened */
    bool is_of_script, is_closed, is_cancelled;
    unsigned running; /* boxes of its items */
    uint64_t opened_ns, begun_ns /* its first item; 0: none yet */, items, failures, busy_ns;
    /* the last end of an item, and the last one of another worker; 0: none */
    uint64_t ended_ns, other_ns;
    uint32_t ended_by;
    tp_report_item last; /* the item that ended last, if it was alone in its box */
} job;

typedef tp_report_open open_box;
typedef tp_report_beside beside;

static uint64_t hash(uint64_t number)
{
    return number * 0x9e3779b97f4a7c15ull >> 54;
}

static double processor_s(void)
{
    struct rusage used;
    if (getrusage(RUSAGE_SELF, &used))
        return 0;
    return (double)used.ru_utime.tv_sec + (double)used.ru_stime.tv_sec +
           1e-6 * ((double)used.ru_utime.tv_usec + (double)used.ru_stime.tv_usec);
}

/* ---- functions, maps, workers ---- */

static uint32_t function_of(tp_report *r, uint32_t name)
{
    for (unsigned i = 0; i < r->n_functions; i++)
        if (r->functions[i].name == name)
            return i;
    if (r->n_functions == FUNCTIONS_MAX)
        return FUNCTIONS_MAX - 1;
    r->functions[r->n_functions] = (tp_report_function){ .name = name, .group = -1 };
    return r->n_functions++;
}

static job **find_job(tp_report *r, uint64_t number)
{
    job **at = &r->jobs[hash(number)];
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

/* The job's function; one with the name "?" when the job is not known. */
static tp_report_function *function_of_job(tp_report *r, uint64_t number, uint32_t *index)
{
    const job *j = *find_job(r, number);
    uint32_t i = j ? j->function : function_of(r, 0);
    if (index)
        *index = i;
    return &r->functions[i];
}

/* The index of the worker's group, which is its track's name without the number ("threads 3"); -1:
 * there are too many groups. */
static int group_of(tp_report *r, uint32_t worker)
{
    const char *name = worker ? tp_trace_track(r->trace, worker) : NULL;
    if (!name)
        return -1;
    size_t len = strlen(name), digits = 0;
    while (digits < len && name[len - 1 - digits] >= '0' && name[len - 1 - digits] <= '9')
        digits++;
    /* only digits behind a space are a number: a device may be called "X2" */
    if (digits > 0 && digits < len && name[len - 1 - digits] == ' ')
        len -= digits + 1;
    for (int i = 0; i < r->n_groups; i++)
        if (strncmp(r->groups[i].name, name, len) == 0 && r->groups[i].name[len] == '\0')
            return i;
    if (r->n_groups == GROUPS_MAX)
        return -1;
    tp_report_group *g = &r->groups[r->n_groups];
    memcpy(g->name, name, len);
    g->is_owner = tp_trace_is_owner(r->trace, worker);
    g->is_far = strcmp(g->name, "cluster") == 0 || strncmp(g->name, "cluster ", 8) == 0;
    return r->n_groups++;
}

static tp_report_track *track_of(tp_report *r, uint32_t worker)
{
    if (worker >= r->n_tracks) {
        uint32_t room = worker < 8 ? 16 : 2 * worker;
        tp_report_track **tracks = realloc(r->tracks, room * sizeof *tracks);
        if (!tracks)
            return NULL;
        memset(tracks + r->n_tracks, 0, (room - r->n_tracks) * sizeof *tracks);
        r->tracks = tracks;
        r->n_tracks = room;
    }
    tp_report_track *t = r->tracks[worker];
    if (t)
        return t;
    t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->worker = worker;
    t->seen_ns = r->last_ns;
    t->group = group_of(r, worker);
    if (t->group >= 0)
        r->groups[t->group].workers += strcmp(r->groups[t->group].name, "cluster") != 0;
    for (int i = 0; i < LANES; i++)
        t->last[i] = -1;
    r->tracks[worker] = t;
    return t;
}

/* ---- what is drawn ---- */

static bool is_short(const tp_report_box *b, uint64_t fine_ns)
{
    return b->ended_ns - b->begun_ns < fine_ns;
}

/* Are the boxes so near each other that one box may stand for both? `b` comes after `a`. */
static bool is_near(const tp_report_box *a, const tp_report_box *b, uint64_t fine_ns)
{
    return b->begun_ns < a->ended_ns + fine_ns && b->ended_ns < a->begun_ns + JOINED * fine_ns;
}

static bool is_like(const tp_report_box *a, const tp_report_box *b, uint64_t fine_ns)
{
    return a->kind == b->kind && (a->kind == REPORT_ITEMS || a->of == b->of) &&
           (a->is_joined || is_short(a, fine_ns)) && (b->is_joined || is_short(b, fine_ns)) &&
           is_near(a, b, fine_ns);
}

/* `a` becomes the box of both; they are on the same lane, `b` after it. */
static void join(tp_report_box *a, tp_report_box *b)
{
    a->ended_ns = b->ended_ns > a->ended_ns ? b->ended_ns : a->ended_ns;
    a->is_joined = true;
    if (a->kind == REPORT_ITEMS) {
        a->first = a->first < b->first ? a->first : b->first;
        a->count += b->count;
        if (a->of != b->of)
            a->of = UINT32_MAX; /* several functions */
    }
    free(a->input);
    free(b->input);
    a->input = b->input = NULL;
}

/* Of two near boxes that are not alike: the one that is too short to be seen beside the other and
 * is left out, preferably a wait. NULL: both are kept. */
static tp_report_box *pick_unseen(tp_report_box *a, tp_report_box *b, uint64_t fine_ns)
{
    bool is_a = is_short(a, fine_ns), is_b = is_short(b, fine_ns);
    if (is_a && is_b)
        return a->kind != REPORT_ITEMS && b->kind == REPORT_ITEMS ? a : b;
    return is_a ? a : is_b ? b : NULL;
}

/* Joins or leaves out boxes that are shorter than the present fine_ns. What is left of a lane has
 * about one box for each fine_ns of time, so the number of boxes falls as fine_ns grows. */
static void join_again(tp_report *r, tp_report_track *t)
{
    unsigned n = 0;
    for (int i = 0; i < LANES; i++)
        t->last[i] = -1;
    for (unsigned i = 0; i < t->n_boxes; i++) {
        tp_report_box *b = &t->boxes[i];
        int last = t->last[b->lane];
        if (last >= 0 && is_like(&t->boxes[last], b, r->fine_ns)) {
            join(&t->boxes[last], b);
            continue;
        }
        tp_report_box *unseen = last >= 0 && is_near(&t->boxes[last], b, r->fine_ns)
                                    ? pick_unseen(&t->boxes[last], b, r->fine_ns)
                                    : NULL;
        if (unseen) {
            free(unseen->input);
            if (unseen != b)
                t->boxes[last] = *b;
            continue;
        }
        t->boxes[n] = *b;
        t->last[b->lane] = (int)n++;
    }
    r->n_boxes -= t->n_boxes - n;
    t->n_boxes = n;
}

/* Forgets the track's boxes that ended before before_ns. */
static void forget(tp_report *r, tp_report_track *t, uint64_t before_ns)
{
    unsigned n = 0;
    for (int i = 0; i < LANES; i++)
        t->last[i] = -1;
    for (unsigned i = 0; i < t->n_boxes; i++) {
        if (t->boxes[i].ended_ns < before_ns) {
            free(t->boxes[i].input);
            continue;
        }
        t->boxes[n] = t->boxes[i];
        t->last[t->boxes[n].lane] = (int)n;
        n++;
    }
    r->n_boxes -= t->n_boxes - n;
    t->n_boxes = n;
}

/* Makes room for boxes. */
static void thin_out(tp_report *r)
{
    unsigned most = r->keep_ns ? r->boxes_max / 4 * 3 : r->boxes_max - 1;
    if (r->keep_ns && r->last_ns > r->keep_ns) {
        for (uint32_t i = 0; i < r->n_tracks; i++)
            if (r->tracks[i])
                forget(r, r->tracks[i], r->last_ns - r->keep_ns);
        if (r->n_boxes < r->boxes_max / 4 && r->fine_ns > FINE_NS)
            r->fine_ns /= 2;
    }
    while (r->n_boxes > most && r->fine_ns <= r->last_ns) {
        r->fine_ns *= 2;
        for (uint32_t i = 0; i < r->n_tracks; i++)
            if (r->tracks[i])
                join_again(r, r->tracks[i]);
    }
}

/* Keeps a box, and with it its input, or leaves it out where there is no room. */
static int draw(tp_report *r, tp_report_track *t, tp_report_box *b)
{
    int last = b->lane < LANES ? t->last[b->lane] : -1;
    if (b->lane >= LANES) {
        free(b->input);
        return 0;
    }
    if (last >= 0 && is_like(&t->boxes[last], b, r->fine_ns)) {
        join(&t->boxes[last], b);
        return 0;
    }
    if (r->n_boxes >= r->boxes_max)
        thin_out(r);
    if (r->n_boxes >= r->boxes_max) { /* there are more workers than boxes */
        free(b->input);
        return 0;
    }
    if (t->n_boxes == t->box_room) {
        unsigned room = t->box_room ? 2 * t->box_room : 16;
        tp_report_box *boxes = realloc(t->boxes, room * sizeof *boxes);
        if (!boxes)
            return -1;
        t->boxes = boxes;
        t->box_room = room;
    }
    t->boxes[t->n_boxes] = *b;
    t->last[b->lane] = (int)t->n_boxes++;
    r->n_boxes++;
    return 0;
}

/* ---- items ---- */

static int bin_of(double ns)
{
    double decade = floor(log10(ns < 100 ? 100 : ns) + 1e-9), in = ns / pow(10, decade);
    int at = 3 * ((int)decade - 2) + (in >= 5 ? 2 : in >= 2 ? 1 : 0);
    return at < 0 ? 0 : at >= BINS ? BINS - 1 : at;
}

static void note_slowest(tp_report *r, const tp_report_item *item)
{
    unsigned at = r->n_slowest;
    if (at == SLOWEST && r->slowest[SLOWEST - 1].ns >= item->ns)
        return;
    if (at < SLOWEST)
        r->n_slowest++;
    else
        at--;
    for (; at > 0 && r->slowest[at - 1].ns < item->ns; at--)
        r->slowest[at] = r->slowest[at - 1];
    r->slowest[at] = *item;
}

/* The track's pending item is complete: the text of its input, if any, has come. Draws it. */
static int settle(tp_report *r, tp_report_track *t)
{
    if (!t->is_pending)
        return 0;
    t->is_pending = false;
    t->input[t->input_len < TP_INPUT_TEXT ? t->input_len : TP_INPUT_TEXT] = '\0';
    tp_report_box b = t->pending;
    if (b.count == 1) {
        tp_report_item item = { .index = b.first,
                                .begun_ns = b.begun_ns,
                                .ns = t->pending_ns,
                                .worker = t->worker,
                                .function = b.of };
        memcpy(item.input, t->input, sizeof item.input);
        item.input[TP_INPUT_TEXT] = '\0';
        note_slowest(r, &item);
        tp_report_tail *tail = &r->functions[b.of].tail;
        if (tail->item.index == item.index && tail->item.begun_ns == item.begun_ns)
            tail->item = item;
    }
    if (t->input_len > 0)
        b.input = strdup(t->input);
    t->input_len = 0;
    return draw(r, t, &b);
}

/* The job's last item has ended: notes how long workers had nothing to do because of it
 * (tp_report_tail). */
static void look_at_tail(tp_report *r, const job *j)
{
    tp_report_function *f = &r->functions[j->function];
    unsigned workers = tp_report_workers(r, f);
    uint64_t span = j->ended_ns - j->begun_ns;
    uint64_t other = j->other_ns > j->begun_ns ? j->other_ns : j->begun_ns;
    if (j->items < 2 || workers < 2 || j->last.ns == 0 || j->ended_ns <= other)
        return;
    uint64_t idle = j->ended_ns - other, even = j->busy_ns / workers;
    if (idle <= f->tail.idle_ns || j->last.ns < idle - idle / 10)
        return;
    /* with the text of the input, if that is known */
    tp_report_item last = j->last;
    for (unsigned i = 0; i < r->n_slowest; i++)
        if (r->slowest[i].index == last.index && r->slowest[i].begun_ns == last.begun_ns)
            last = r->slowest[i];
    f->tail = (tp_report_tail){ .idle_ns = idle,
                                .span_ns = span,
                                .best_ns = j->last.ns > even ? j->last.ns : even,
                                .items = j->items,
                                .item = last };
}

static void end_job(tp_report *r, job **at)
{
    job *j = *at;
    look_at_tail(r, j);
    if (j->is_of_script)
        r->recent[r->n_recent++ % RECENT_MAX] =
            (tp_report_recent){ .number = j->number,
                                .opened_ns = j->opened_ns,
                                .ended_ns = r->last_ns,
                                .items = j->items,
                                .failures = j->failures,
                                .function = j->function,
                                .is_cancelled = j->is_cancelled };
    *at = j->next;
    free(j);
}

/* `count` items of a job have run on the track. */
static int end_items(tp_report *r, tp_report_track *t, tp_report_box *b, uint64_t number,
                     uint64_t inside_ns)
{
    uint64_t ns = b->ended_ns - b->begun_ns;
    job **at = find_job(r, number), *j = *at;
    tp_report_function *f = function_of_job(r, number, &b->of);
    if (f->group < 0)
        f->group = t->group;
    if (b->count > 0) {
        double each = (double)ns / (double)b->count;
        t->items += b->count;
        f->items += b->count;
        f->busy_ns += ns;
        f->self_ns += ns > inside_ns ? ns - inside_ns : 0;
        f->bins[bin_of(each)] += b->count;
        if (each > (double)f->max_ns)
            f->max_ns = (uint64_t)each;
    }
    if (j) {
        j->items += b->count;
        j->busy_ns += ns;
        if (j->ended_ns && j->ended_by != t->worker && b->count > 0)
            j->other_ns = j->ended_ns;
        if (b->count > 0) {
            j->ended_ns = b->ended_ns;
            j->ended_by = t->worker;
            j->last = (tp_report_item){ .index = b->first,
                                        .begun_ns = b->begun_ns,
                                        .ns = b->count == 1 ? ns : 0,
                                        .worker = t->worker,
                                        .function = b->of };
        }
        j->running -= j->running > 0;
        if (j->is_closed && j->running == 0)
            end_job(r, at);
    }
    if (b->count == 0)
        return 0;
    if (settle(r, t))
        return -1;
    t->is_pending = true;
    t->pending = *b;
    t->pending_ns = ns;
    return 0;
}

/* ---- boxes that lie one inside the other ---- */

static int push(tp_report_track *t, const open_box *b)
{
    if (t->n_open == t->room) {
        unsigned room = t->room ? 2 * t->room : 8;
        open_box *more = realloc(t->open, room * sizeof *more);
        if (!more)
            return -1;
        t->open = more;
        t->room = room;
    }
    if (t->n_open < NESTING_MAX)
        t->open[t->n_open++] = *b;
    return 0;
}

/* The worker begins to run items, if it does not run some already. */
static void begin_busy(tp_report_track *t, uint64_t time_ns)
{
    if (!t->busy_since_ns)
        t->busy_since_ns = time_ns;
}

static void end_busy(tp_report_track *t, uint64_t time_ns)
{
    for (unsigned i = 0; i < t->n_open; i++)
        if (t->open[i].kind == REPORT_ITEMS)
            return;
    if (t->n_beside > 0 || !t->busy_since_ns)
        return;
    t->busy_ns += time_ns > t->busy_since_ns ? time_ns - t->busy_since_ns : 0;
    t->busy_since_ns = 0;
}

/* Adds the time that a worker has waited since the box b began to the sums of its reason. */
static void add_wait(tp_report *r, tp_report_track *t, const open_box *b, uint64_t until_ns)
{
    if (b->function == UINT32_MAX || b->of >= REASONS || until_ns <= b->begun_ns)
        return;
    tp_report_function *f = &r->functions[b->function];
    f->idle_ns[b->of] += (double)(until_ns - b->begun_ns);
    if (f->group < 0)
        f->group = t->group;
}

/* The innermost box ends; count: of its items. */
static int pop(tp_report *r, tp_report_track *t, uint64_t time_ns, uint64_t count)
{
    open_box o = t->open[--t->n_open];
    unsigned lane = 0;
    for (unsigned i = 0; i < t->n_open; i++)
        lane += t->open[i].kind != REPORT_WAIT;
    tp_report_box b = { .begun_ns = o.begun_ns,
                        .ended_ns = time_ns > o.begun_ns ? time_ns : o.begun_ns,
                        .first = o.first,
                        .count = count,
                        .of = o.of,
                        .kind = (uint8_t)o.kind,
                        .lane = (uint8_t)(lane < LANES ? lane : LANES) };
    if (o.kind == REPORT_ITEMS) {
        for (unsigned i = t->n_open; i-- > 0;)
            if (t->open[i].kind == REPORT_ITEMS) {
                t->open[i].inside_ns += b.ended_ns - b.begun_ns;
                break;
            }
        end_busy(t, time_ns);
        return end_items(r, t, &b, o.job, o.inside_ns);
    }
    if (settle(r, t))
        return -1;
    if (o.kind == REPORT_WAIT)
        add_wait(r, t, &o, time_ns);
    return o.kind == REPORT_SPAN || (t->worker && b.ended_ns > b.begun_ns) ? draw(r, t, &b) : 0;
}

/* Ends boxes from the innermost on, up to and including one of that kind; items of the event's job:
 * the ends of others inside of them may be missing. */
static int pop_kind(tp_report *r, tp_report_track *t, tp_report_kind kind, const tp_event *e)
{
    unsigned n = t->n_open;
    while (n > 0 && (t->open[n - 1].kind != kind ||
                     (kind == REPORT_ITEMS && t->open[n - 1].job != e->job)))
        n--;
    if (n == 0) /* its beginning is not known */
        return 0;
    while (t->n_open >= n)
        if (pop(r, t, e->time_ns, t->n_open == n ? e->count : t->open[t->n_open - 1].count))
            return -1;
    return 0;
}

static int add_span(tp_report *r, tp_report_track *t, const tp_event *e)
{
    if (e->job) /* a task's: they may overlap */
        return 0;
    while (t->n_open > 0 && t->open[t->n_open - 1].kind != REPORT_ITEMS &&
           (t->open[t->n_open - 1].kind == REPORT_WAIT ||
            t->open[t->n_open - 1].first >= e->first))
        if (pop(r, t, e->time_ns, 1))
            return -1;
    open_box b = { .kind = REPORT_SPAN,
                   .begun_ns = e->time_ns,
                   .first = e->first,
                   .of = (uint32_t)e->count };
    return e->kind == TP_EVENT_SPAN ? push(t, &b) : 0;
}

/* ---- items beside each other ---- */

static beside **find_beside(tp_report *r, uint64_t number)
{
    beside **at = &r->beside[hash(number)];
    while (*at && (*at)->number != number)
        at = &(*at)->next;
    return at;
}

static void begin_item(tp_report *r, uint64_t number, uint64_t time_ns)
{
    job *j = *find_job(r, number);
    if (!j)
        return;
    j->running++;
    if (!j->begun_ns)
        j->begun_ns = time_ns;
}

static int add_beside(tp_report *r, tp_report_track *t, const tp_event *e)
{
    uint64_t number = tp_trace_item(e->job, e->first);
    beside **at = find_beside(r, number), *b = *at;
    uint8_t lane = 0;
    if (b)
        return 0;
    b = calloc(1, sizeof *b);
    if (!b)
        return -1;
    while (lane < LANES && t->lanes >> lane & 1)
        lane++;
    if (lane < LANES)
        t->lanes |= 1u << lane;
    *b = (beside){ .number = number,
                   .begun_ns = e->time_ns,
                   .item = e->first,
                   .worker = e->worker,
                   .lane = lane };
    function_of_job(r, e->job, &b->function);
    *at = b;
    t->n_beside++;
    begin_busy(t, e->time_ns);
    begin_item(r, e->job, e->time_ns);
    return 0;
}

static int end_beside(tp_report *r, tp_report_track *t, const tp_event *e)
{
    beside **at = find_beside(r, tp_trace_item(e->job, e->first)), *b = *at;
    if (!b)
        return 0;
    tp_report_box box = { .begun_ns = b->begun_ns,
                          .ended_ns = e->time_ns > b->begun_ns ? e->time_ns : b->begun_ns,
                          .first = e->first,
                          .count = 1,
                          .lane = b->lane };
    if (b->lane < LANES)
        t->lanes &= ~(1u << b->lane);
    *at = b->next;
    free(b);
    t->n_beside -= t->n_beside > 0;
    end_busy(t, e->time_ns);
    return end_items(r, t, &box, e->job, 0);
}

/* ---- events ---- */

static int add_open(tp_report *r, tp_report_track *t, const tp_event *e)
{
    if (*find_job(r, e->job))
        return 0;
    job *j = calloc(1, sizeof *j), **list = &r->jobs[hash(e->job)];
    if (!j)
        return -1;
    *j = (job){ .next = *list,
                .number = e->job,
                .opened_ns = e->time_ns,
                .function = function_of(r, (uint32_t)e->count),
                .worker = e->worker,
                .is_of_script = e->worker == 0 };
    *list = j;
    t->n_inner += tp_wire_is_inner(j->number);
    tp_report_function *f = &r->functions[j->function];
    if (f->maps++ == 0)
        f->opened_ns = e->time_ns;
    if (f->open++ == 0)
        f->since_ns = e->time_ns;
    if (j->is_of_script && r->open++ == 0)
        r->since_ns = e->time_ns;
    return 0;
}

static void close_job(tp_report *r, job **at, uint64_t time_ns)
{
    job *j = *at;
    if (!j || j->is_closed)
        return;
    j->is_closed = true;
    r->tracks[j->worker]->n_inner -= tp_wire_is_inner(j->number);
    tp_report_function *f = &r->functions[j->function];
    if (--f->open == 0)
        f->active_ns += time_ns > f->since_ns ? time_ns - f->since_ns : 0;
    if (j->is_of_script && --r->open == 0)
        r->active_ns += time_ns > r->since_ns ? time_ns - r->since_ns : 0;
    if (j->running == 0) {
        if (j->ended_ns && time_ns > j->ended_ns)
            f->unread_ns += time_ns - j->ended_ns;
        end_job(r, at);
    }
}

/* The track's items are over, and with them the maps inside of them, if not all that was said of
 * these has come (TP_EVENT_OMIT), or their process has died. */
static void close_inner(tp_report *r, const tp_report_track *t, uint64_t time_ns)
{
    for (unsigned i = 0; i < t->n_open; i++)
        if (t->open[i].kind == REPORT_ITEMS)
            return;
    if (t->n_beside > 0)
        return;
    for (unsigned i = 0; i < LISTS && t->n_inner > 0; i++)
        for (job **at = &r->jobs[i], *j; (j = *at);) {
            if (j->is_closed || !tp_wire_is_inner(j->number) || j->worker != t->worker) {
                at = &j->next;
                continue;
            }
            j->running = 0;
            close_job(r, at, time_ns); /* which frees it */
        }
}

static void add_failure(tp_report *r, const tp_event *e)
{
    tp_report_function *f = function_of_job(r, e->job, NULL);
    job *j = *find_job(r, e->job);
    if (e->kind == TP_EVENT_RETRY)
        f->retries++;
    else
        f->failures++;
    if (j)
        j->failures += e->kind == TP_EVENT_FAIL;
    if (!f->message)
        f->message = (uint32_t)e->count;
}

static void add_lost(tp_report *r, const tp_event *e)
{
    tp_report_function *f = function_of_job(r, e->job, NULL);
    f->lost += e->count;
    f->lost_by = e->worker;
}

static void add_device(tp_report *r, tp_report_track *t, const tp_event *e)
{
    tp_report_function *f = function_of_job(r, e->job, NULL);
    if (e->kind == TP_EVENT_KERNEL) {
        f->kernels++;
        f->kernel_ns += e->first;
        t->kernels++;
        t->kernel_ns += e->first;
    } else {
        f->copies++;
        f->copy_ns += e->first;
        f->copied_bytes += e->count;
        t->copies++;
        t->copy_ns += e->first;
        t->copied_bytes += e->count;
    }
}

static void add_cancel(tp_report *r, const tp_event *e)
{
    job *j = *find_job(r, e->job);
    r->cancelled++;
    if (j)
        j->is_cancelled = true;
}

static void add_step(tp_report *r, const tp_event *e)
{
    tp_report_function *f = function_of_job(r, e->job, NULL);
    uint64_t ns = (e->count >> 32) * 1000, computed = (e->count & UINT32_MAX) * 1000;
    f->steps++;
    f->blocked_ns += ns > computed ? ns - computed : 0;
    if (ns > f->longest_ns) {
        f->longest_ns = ns;
        f->longest = e->first;
    }
}

static void add_encoding(tp_report *r, const tp_event *e)
{
    tp_report_function *f = &r->functions[function_of(r, (uint32_t)e->count)];
    if (e->kind == TP_EVENT_CAPTURED) {
        if (e->job > f->captured_bytes) {
            f->captured_bytes = e->job;
            f->captured = (uint32_t)e->first;
        }
        return;
    }
    f->encodings++;
    f->encode_ns += e->first;
    if (e->job > f->encode_bytes)
        f->encode_bytes = e->job;
}

static void add_build(tp_report *r, const tp_event *e)
{
    tp_report_function *f = &r->functions[function_of(r, (uint32_t)e->count)];
    const tp_build_how how = tp_trace_build_how(e->job);
    f->builds[how]++;
    f->build_ns[how] += e->first;
    /* what several wait for at once counts once */
    const uint64_t end = e->time_ns + e->first;
    const uint64_t begin = e->time_ns > r->built_ns ? e->time_ns : r->built_ns;
    if (end > begin) {
        r->build_ns += end - begin;
        r->built_ns = end;
    }
}

static void add_input(tp_report_track *t, const tp_event *e)
{
    uint64_t part[3] = { e->job, e->first, e->count };
    if (!t->is_pending || t->input_len + sizeof part > sizeof t->input - 1)
        return;
    memcpy(t->input + t->input_len, part, sizeof part);
    t->input[t->input_len + sizeof part] = '\0';
    t->input_len += (unsigned)strlen(t->input + t->input_len);
}

int tp_report_add(tp_report *r, const tp_event *e)
{
    if (e->time_ns > r->last_ns)
        r->last_ns = e->time_ns;
    if (e->kind == TP_EVENT_BUILD) { /* perhaps of no worker's track: cluster/lanes.h */
        add_build(r, e);
        return 0;
    }
    tp_report_track *t = track_of(r, e->worker);
    if (!t)
        return -1;
    if (e->kind == TP_EVENT_INPUT) {
        add_input(t, e);
        return 0;
    }
    open_box b = { .begun_ns = e->time_ns, .job = e->job, .first = e->first, .count = e->count };
    job *j;
    switch (e->kind) {
    case TP_EVENT_OPEN: return add_open(r, t, e);
    case TP_EVENT_CLOSE: close_job(r, find_job(r, e->job), e->time_ns); return 0;
    case TP_EVENT_PUSH:
        j = *find_job(r, e->job);
        if (j)
            r->functions[j->function].pushed += e->count;
        return 0;
    case TP_EVENT_BEGIN:
        b.kind = REPORT_ITEMS;
        function_of_job(r, e->job, &b.of);
        begin_busy(t, e->time_ns);
        begin_item(r, e->job, e->time_ns);
        return push(t, &b);
    case TP_EVENT_END:
        if (pop_kind(r, t, REPORT_ITEMS, e))
            return -1;
        close_inner(r, t, e->time_ns);
        return 0;
    case TP_EVENT_WAIT:
        b.of = (uint32_t)e->count; /* TP_REASON_NONE where it waits for a job */
        b.function = UINT32_MAX;
        if (e->first && e->job)
            function_of_job(r, e->job, &b.function);
        b.kind = REPORT_WAIT;
        return push(t, &b);
    case TP_EVENT_WAKE: return pop_kind(r, t, REPORT_WAIT, e);
    case TP_EVENT_RETRY:
    case TP_EVENT_FAIL: add_failure(r, e); return 0;
    case TP_EVENT_LOSE: add_lost(r, e); return 0;
    case TP_EVENT_CANCEL: add_cancel(r, e); return 0;
    case TP_EVENT_PROCESS: t->process = e->first; return 0;
    case TP_EVENT_DEATH:
        r->deaths++;
        if (t->process == e->first)
            t->process = 0;
        return 0;
    case TP_EVENT_COPY_IN:
    case TP_EVENT_KERNEL:
    case TP_EVENT_COPY_OUT: add_device(r, t, e); return 0;
    case TP_EVENT_SPAN:
    case TP_EVENT_SPAN_END: return add_span(r, t, e);
    case TP_EVENT_ITEM: return add_beside(r, t, e);
    case TP_EVENT_ITEM_END:
        if (end_beside(r, t, e))
            return -1;
        close_inner(r, t, e->time_ns);
        return 0;
    case TP_EVENT_STEP: add_step(r, e); return 0;
    case TP_EVENT_ENCODE:
    case TP_EVENT_CAPTURED: add_encoding(r, e); return 0;
    case TP_EVENT_OMIT: r->lost += e->count; return 0;
    default: return 0;
    }
}

/* ---- times at which the tracer looks ---- */

void tp_report_count(tp_report *r, uint64_t time_ns, const tp_engine_totals *totals, double memory)
{
    if (r->skipped++ % r->skip != 0)
        return;
    /* full: drops every second sample, and takes half as many from now on */
    if (r->n_samples == SAMPLES_MAX) {
        for (unsigned i = 0; i < SAMPLES_MAX / 2; i++)
            r->samples[i] = r->samples[2 * i];
        r->n_samples = SAMPLES_MAX / 2;
        r->skip *= 2;
    }
    r->samples[r->n_samples++] = (tp_report_sample){ .time_ns = time_ns,
                                                     .queued = totals->queued,
                                                     .running = totals->running,
                                                     .ready = totals->ready,
                                                     .mib = (double)totals->bytes / (1 << 20),
                                                     .memory = memory };
}

void tp_report_fail(tp_report *r, const tp_failure_view *failure)
{
    r->failures[r->n_failures++ % FAILURES_MAX] = *failure;
}

int tp_report_explain(tp_report *r, uint64_t time_ns, const void *group, uint64_t reason,
                      uint64_t number, unsigned limit)
{
    tp_report_function *f = number ? function_of_job(r, number, NULL) : NULL;
    if (f && reason == TP_REASON_LIMIT) {
        uint64_t since = f->since_ns > r->explained_ns ? f->since_ns : r->explained_ns;
        f->limit = limit;
        f->limited_ns += time_ns > since ? time_ns - since : 0;
    }
    uint32_t function = UINT32_MAX;
    if (number)
        function_of_job(r, number, &function);
    for (uint32_t i = 1; i < r->n_tracks; i++) {
        tp_report_track *t = r->tracks[i];
        open_box *b = t && t->n_open > 0 ? &t->open[t->n_open - 1] : NULL;
        if (!b || b->kind != REPORT_WAIT || b->first != (uint64_t)(uintptr_t)group ||
            (b->of == reason && b->function == function) || time_ns <= b->begun_ns)
            continue;
        open_box next = *b;
        next.begun_ns = time_ns;
        next.of = (uint32_t)reason;
        next.function = function;
        if (pop(r, t, time_ns, 0) || push(t, &next))
            return -1;
    }
    return 0;
}

void tp_report_look(tp_report *r, uint64_t time_ns)
{
    r->explained_ns = time_ns;
}

static int close_all(tp_report *r, uint64_t time_ns)
{
    for (uint32_t i = 0; i < r->n_tracks; i++) {
        tp_report_track *t = r->tracks[i];
        while (t && t->n_open > 0)
            if (pop(r, t, time_ns, 1))
                return -1;
        if (t) {
            t->n_beside = 0;
            t->lanes = 0;
            end_busy(t, time_ns);
        }
        if (t && settle(r, t))
            return -1;
    }
    for (unsigned i = 0; i < LISTS; i++) {
        while (r->beside[i]) {
            beside *next = r->beside[i]->next;
            free(r->beside[i]);
            r->beside[i] = next;
        }
        while (r->jobs[i]) {
            r->jobs[i]->running = 0;
            if (r->jobs[i]->is_closed)
                end_job(r, &r->jobs[i]);
            else
                close_job(r, &r->jobs[i], time_ns);
        }
    }
    return 0;
}

int tp_report_lose(tp_report *r, uint64_t n)
{
    r->lost += n;
    return close_all(r, r->last_ns);
}

/* ---- its life ---- */

tp_report *tp_report_new(tp_trace *trace, uint64_t start_ns, unsigned workers, bool is_live)
{
    tp_report *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->trace = trace;
    r->start_ns = r->last_ns = r->explained_ns = start_ns;
    r->processors = tp_cpus();
    r->workers = workers;
    r->processor_begun_s = processor_s();
    r->fine_ns = FINE_NS;
    r->boxes_max = is_live ? LIVE_BOXES_MAX : BOXES_MAX;
    r->keep_ns = is_live ? KEEP_S * 1000000000ull : 0;
    r->skip = 1;
    return r;
}

void tp_report_free(tp_report *r)
{
    if (!r)
        return;
    for (uint32_t i = 0; i < r->n_tracks; i++) {
        tp_report_track *t = r->tracks[i];
        for (unsigned k = 0; t && k < t->n_boxes; k++)
            free(t->boxes[k].input);
        if (t) {
            free(t->boxes);
            free(t->open);
        }
        free(t);
    }
    free(r->tracks);
    for (unsigned i = 0; i < LISTS; i++) {
        for (job *j = r->jobs[i], *next; j; j = next) {
            next = j->next;
            free(j);
        }
        for (beside *b = r->beside[i], *next; b; b = next) {
            next = b->next;
            free(b);
        }
    }
    free(r);
}

int tp_report_end(tp_report *r, uint64_t now_ns, tp_buf *out)
{
    r->end_ns = now_ns;
    r->processor_s = processor_s() - r->processor_begun_s;
    return close_all(r, now_ns) || tp_report_write(r, out) ? -1 : 0;
}

/* Adds what is still open to the sums, up to now. */
static int catch_up(tp_report *r, uint64_t now_ns)
{
    enum { SETTLED_NS = 50 * 1000000 }; /* an item's input comes at most so long after its end */
    for (unsigned i = 0; i < r->n_functions; i++) {
        tp_report_function *f = &r->functions[i];
        if (f->open > 0 && now_ns > f->since_ns) {
            f->active_ns += now_ns - f->since_ns;
            f->since_ns = now_ns;
        }
    }
    if (r->open > 0 && now_ns > r->since_ns) {
        r->active_ns += now_ns - r->since_ns;
        r->since_ns = now_ns;
    }
    for (uint32_t i = 0; i < r->n_tracks; i++) {
        tp_report_track *t = r->tracks[i];
        if (t && t->busy_since_ns && now_ns > t->busy_since_ns) {
            t->busy_ns += now_ns - t->busy_since_ns;
            t->busy_since_ns = now_ns;
        }
        if (t && t->is_pending && t->pending.ended_ns + SETTLED_NS < now_ns && settle(r, t))
            return -1;
    }
    return 0;
}

int tp_report_snapshot(tp_report *r, uint64_t now_ns, const tp_report_now *now, tp_buf *out)
{
    r->end_ns = now_ns;
    r->processor_s = processor_s() - r->processor_begun_s;
    return catch_up(r, now_ns) || tp_report_put_live(r, now, out) ? -1 : 0;
}
