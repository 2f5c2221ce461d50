/* telling.c: see telling.h. */
#include "program/cluster/telling.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RING = 8192, /* events between two looks, which are EARLY_MS apart at most */
    ENDS = 2 << 10 /* of TP_HAPPENED_BYTES, for ends of what was told to have begun */
};

void tp_telling_follow(node *n, session *s)
{
    bool is_wanted = false, is_brief = true;
    if (!s->host)
        return;
    tp_trace *trace = tp_engine_trace(s->host->engine);
    for (const chunk *k = n->chunks; k; k = k->next)
        if (k->session == s && k->state == RUNNING && k->told != TP_TELLS_NOTHING) {
            is_wanted = true;
            is_brief &= k->told == TP_TELLS_BUILDS;
        }
    tp_trace_set_brief(trace, is_brief);
    if (is_wanted == tp_trace_is_on(trace))
        return;
    s->n_takers = 0;
    s->n_lost = 0;
    if (!is_wanted)
        tp_trace_stop(trace);
    else
        tp_trace_start(trace, RING, NULL); /* without memory for it these events are missing */
}

static int compare_jobs(const void *a, const void *b)
{
    const uint64_t x = tp_job_number((*(chunk *const *)a)->job),
                   y = tp_job_number((*(chunk *const *)b)->job);
    return x < y ? -1 : x > y;
}

/* Lists the running chunks by their jobs: a large machine has thousands of chunks, most of which
 * wait, and each event looks for its own. Without memory the events are told of no chunk. */
static void list_running(const node *n, session *s)
{
    s->n_running = 0;
    for (chunk *k = n->chunks; k; k = k->next) {
        if (k->session != s || k->state != RUNNING || !k->job)
            continue;
        if (s->n_running == s->running_room) {
            const uint32_t room = 2 * s->running_room + 8;
            chunk **more = realloc(s->running, room * sizeof *more);
            if (!more)
                break;
            s->running = more;
            s->running_room = room;
        }
        s->running[s->n_running++] = k;
    }
    if (s->n_running > 1)
        qsort(s->running, s->n_running, sizeof *s->running, compare_jobs);
}

/* The running chunk whose job has that number; NULL: there is none. */
static chunk *find_by_job(const session *s, uint64_t number)
{
    uint32_t low = 0, high = s->n_running;
    while (low < high) {
        const uint32_t middle = (low + high) / 2;
        if (tp_job_number(s->running[middle]->job) < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low < s->n_running && tp_job_number(s->running[low]->job) == number ? s->running[low]
                                                                              : NULL;
}

/* The worker of the session's host has taken items of that job. */
static void note_taker(session *s, uint32_t worker, uint64_t job)
{
    if (worker >= s->takers_room) {
        const uint32_t room = 2 * worker + 8;
        uint64_t *more = realloc(s->takers, room * sizeof *more);
        if (!more)
            return;
        s->takers = more;
        s->takers_room = room;
    }
    for (; s->n_takers <= worker; s->n_takers++)
        s->takers[s->n_takers] = 0;
    s->takers[worker] = job;
}

/* Adds the event to what the chunk tells, if there is room. */
static void add(chunk *k, tp_trace *trace, const tp_event *e)
{
    const size_t before = k->happened.len;
    const bool is_end = e->kind == TP_EVENT_END || e->kind == TP_EVENT_CLOSE ||
                        e->kind == TP_EVENT_SPAN_END;
    const int rc = tp_wire_put_event(trace, e, (tp_told)k->told, &k->happened);
    if (rc > 0 && k->happened.len <= TP_HAPPENED_BYTES - (is_end ? 0 : ENDS)) {
        k->n_happened++;
        return;
    }
    k->happened.len = before;
    k->n_missing += rc != 0;
}

void tp_telling_sort(node *n, session *s, const chunk *begins)
{
    tp_trace *trace = s->host ? tp_engine_trace(s->host->engine) : NULL;
    tp_event events[64];
    size_t found;
    if (!trace || !tp_trace_is_on(trace) || (found = tp_trace_read(trace, events, 64)) == 0)
        return;
    list_running(n, s);
    for (; found > 0; found = tp_trace_read(trace, events, 64))
        for (size_t i = 0; i < found; i++) {
            tp_event *e = &events[i];
            const uint64_t job = tp_wire_has_job(e->kind) ? e->job : 0;
            chunk *k = job ? find_by_job(s, job) : NULL;
            if (job && !k && !tp_wire_is_inner(job))
                continue; /* of a chunk that is over */
            if (e->kind == TP_EVENT_TAKE)
                note_taker(s, e->worker, e->job);
            if (k)
                e->job = 0; /* the coordinator knows it by the chunk */
            else if (e->worker > 0)
                k = e->worker < s->n_takers ? find_by_job(s, s->takers[e->worker]) : NULL;
            else
                k = (chunk *)(uintptr_t)begins;
            if (!k || k->told == TP_TELLS_NOTHING)
                continue;
            k->n_missing += trace->lost - s->n_lost;
            s->n_lost = trace->lost;
            add(k, trace, e);
        }
}

/* May so many more bytes be sent for the chunk? Thousands of short chunks together, and those of
 * all workers, do not fill connections with this. */
static bool has_share(chunk *k, size_t bytes, uint64_t now_ns)
{
    session *s = k->session;
    if (now_ns >= s->told_ns + TP_HAPPENED_NS) {
        s->told_ns = now_ns;
        s->told_left = k->told_bytes < TP_HAPPENED_MOST ? k->told_bytes : TP_HAPPENED_MOST;
    }
    if (bytes > s->told_left)
        return false;
    s->told_left -= bytes;
    return true;
}

void tp_telling_send(node *n, chunk *k, bool is_over)
{
    char subject[TP_SUBJECT_MAX];
    const uint64_t now_ns = uv_hrtime();
    tp_buf message = { 0 };
    tp_happened head;
    if (k->n_happened + k->n_missing == 0 ||
        (!is_over && now_ns < k->happened_ns + TP_HAPPENED_NS))
        return;
    k->happened_ns = now_ns;
    if (k->n_happened == 0 || !has_share(k, sizeof head + k->happened.len, now_ns)) {
        k->n_missing += k->n_happened;
        k->n_happened = 0;
        tp_buf_clear(&k->happened);
        return;
    }
    head = (tp_happened){ .chunk = k->number,
                          .before = k->happened_before + k->n_missing,
                          .now_ns = now_ns,
                          .ran_ns = now_ns - k->begun_ns,
                          .sending = k->sending,
                          .count = k->n_happened,
                          .is_over = is_over };
    memcpy(head.worker, n->id_bytes, sizeof head.worker);
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.happened", k->session->hex);
    if (tp_buf_add(&message, &head, sizeof head) == 0 &&
        tp_buf_add(&message, k->happened.data, k->happened.len) == 0)
        tp_nats_publish(&n->nats, subject, NULL, message.data, message.len);
    tp_buf_free(&message);
    tp_buf_clear(&k->happened);
    k->happened_before = head.before + head.count;
    k->n_happened = k->n_missing = 0;
}

void tp_telling_close(session *s)
{
    free(s->takers);
    free(s->running);
    s->takers = NULL;
    s->running = NULL;
    s->takers_room = s->n_takers = s->running_room = s->n_running = 0;
}
