/* results.c: what a process has given: results, read where it has published them, and failures in
 * the place of those that its end has cost. */
#include "workers/supervisor.h"

#include "base/amount.h"

#include <stdio.h>
#include <string.h>

/* Reads records and gives each run of them to the sink of its place's item; those without a place
 * to w's. */
static bool read_records(supervisor *s, tp_work *w, tp_wire_reader *r, uint64_t from,
                         uint64_t until, tp_error *err)
{
    while (from < until) {
        uint32_t number = 0;
        uint64_t end;
        if (!tp_wire_find_place(r, from, until, &number, &end, err))
            return false;
        place *p = tp_place_find(s, number);
        if (number ? !p : !w) {
            tp_error_set(err, TP_EUSAGE, "it has written nonsense where its results lie: results "
                                         "of no item");
            return false;
        }
        if (!p) {
            if (!tp_wire_read(r, w, from, end, err))
                return false;
        } else if (tp_place_is_out(p)) {
            tp_results_time_out(s, &p->slice->work);
        } else {
            tp_work *of = &p->slice->work;
            tp_wire_reader one = { .base = r->base,
                                   .size = r->size,
                                   .first = of->at,
                                   .count = 1,
                                   .in_place = p->in_place,
                                   .given = r->given,
                                   .held = r->held };
            if (!tp_wire_read(&one, of, from, end, err))
                return false;
        }
        if (p)
            tp_results_finish(s, p);
        from = end;
    }
    return true;
}

bool tp_results_collect(supervisor *s, tp_work *w, tp_wire_reader *r, bool is_dead, tp_error *err)
{
    tp_wire_out *c = tp_control_of(s);
    uint64_t until = atomic_load_explicit(&c->used, memory_order_acquire),
             open = atomic_load_explicit(&c->open, memory_order_relaxed);
    uint32_t item = tp_link_item(s);
    if (is_dead ? tp_region_follow(&s->out, s->out.size + 1, NULL),
        false   : tp_region_follow(&s->out, until, err))
        return false;
    r->base = s->out.data;
    r->size = s->out.size;
    uint64_t from = r->from;
    r->from = until;
    s->is_cramped = until == s->records_from;
    if (w && s->n_open == 0 ? !tp_wire_read(r, w, from, until, err)
                            : !read_records(s, w, r, from, until, err))
        return false;
    return !w || !is_dead || open != until || tp_wire_read_open(r, w, open, item, err);
}

void tp_results_collect_early(supervisor *s, tp_work *w, tp_wire_reader *r, uint32_t running)
{
    const tp_wire_out *c = tp_control_of(s);
    tp_error err = { 0 };
    uint64_t until = atomic_load_explicit(&c->used, memory_order_acquire),
             open = atomic_load_explicit(&c->open, memory_order_acquire);
    /* a record of items without results may grow after it was published */
    if (w->terms->discards)
        return;
    tp_region_follow(&s->out, s->out.size + 1, NULL); /* it may have grown, or not */
    r->base = s->out.data;
    r->size = s->out.size;
    if (tp_wire_read(r, w, r->from, until, &err) && open == until)
        tp_wire_read_open(r, w, open, running, &err);
}

void tp_results_fail(supervisor *s, tp_work *w, tp_failure_kind kind, const char *message)
{
    const tp_peer *p = &s->peer;
    tp_block *b =
        tp_block_new_crash(kind, message, p->tail, p->tail_len, w->attempt, s->agent->worker.index);
    if (b) {
        b->may_retry = tp_failure_kind_may_retry(kind);
        b->is_crash = kind == TP_KIND_CRASH;
    }
    tp_work_fail(w, b);
}

static double number_of(const tp_work *w)
{
    return (double)(w->terms->base + w->block->first + w->at + 1);
}

/* Did the process die because memory ran out? Then `why` says how. */
static bool had_no_memory(const supervisor *s, const tp_work *w, uint32_t item, const char *signal,
                          int code, char *why, size_t size)
{
    char amount[TP_AMOUNT_TEXT];
    *why = '\0';
    if (code == TP_CHILD_NO_MEMORY)
        return true;
    if (atomic_load_explicit(&tp_control_of(s)->refused, memory_order_relaxed) == 1 + item) {
        snprintf(why, size,
                 ", when there was no memory for it (the option `memory` lets a worker of this "
                 "function have %s)",
                 tp_amount_of_bytes(amount, w->terms->memory));
        return w->terms->memory > 0;
    }
    if (!signal || strcmp(signal, "SIGKILL") != 0 || tp_peer_oom_kills() <= s->oom_kills)
        return false;
    snprintf(why, size, ": the system had no memory left");
    return true;
}

void tp_results_blame(supervisor *s, tp_work *w, uint32_t item, const char *garbage)
{
    char how[64], words[TP_PEER_TAIL + 1], message[TP_PEER_TAIL + 300], why[160];
    const char *signal;
    int code;
    tp_peer_kill(&s->peer);
    tp_link_read_socket(s);
    tp_link_read_output(s);
    tp_peer_describe(&s->peer, how, sizeof how, &signal, &code);
    tp_link_note_death(s, how);
    tp_link_last_words(s, words);
    bool is_starved = !garbage && had_no_memory(s, w, item, signal, code, why, sizeof why);
    if (garbage)
        snprintf(message, sizeof message, "worker process was ended during input %.0f: %s",
                 number_of(w), garbage);
    else if (code == TP_CHILD_NO_THREAD)
        snprintf(message, sizeof message, "worker thread ended during input %.0f", number_of(w));
    else
        snprintf(message, sizeof message, "worker process %s during input %.0f%s%s%s", how,
                 number_of(w), is_starved ? why : "", *words ? ": " : "", words);
    tp_results_fail(s, w, is_starved ? TP_KIND_MEMORY : TP_KIND_CRASH, message);
}

void tp_results_time_out(supervisor *s, tp_work *w)
{
    char message[120];
    snprintf(message, sizeof message, "input %.0f ran for more than %g s", number_of(w),
             (double)w->terms->timeout_ns * 1e-9);
    tp_results_fail(s, w, TP_KIND_TIMEOUT, message);
}

void tp_results_finish(supervisor *s, place *p)
{
    tp_slice *slice = p->slice;
    tp_work *w = &slice->work;
    p->slice = NULL;
    s->n_open--;
    s->agent->worker.n_waiting--;
    tp_work_note(w, TP_EVENT_ITEM_END, w->offset, w->at - w->offset);
    tp_work_enter(w);
    tp_job_finish(slice);
    if (s->n_open == 0)
        tp_agent_set_full(s->agent, false);
}
