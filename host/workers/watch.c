/* watch.c: looking at what the process runs, until it takes its turn: must an item be ended? */
#include "workers/supervisor.h"

enum {
    /* PATIENCE_NS for an item that streams, which learns of the cancellation only with the next
     * value that it gives */
    STREAM_PATIENCE_NS = 1000 * 1000 * 1000,
    /* an item that waits and is told to end has this long to do so */
    TOLD_PATIENCE_NS = 1000 * 1000 * 1000
};

void tp_watch_open(const supervisor *s, tp_slice *slice, tp_wire_reader *reader, watch *of)
{
    *of = (watch){
        .slice = slice, .reader = reader, .item_since = uv_hrtime(), .item = tp_link_item(s)
    };
}

/* Has the item, which must end, had enough time for that? Items at places must be told first, which
 * cannot happen while another one runs. */
static bool is_overdue(const supervisor *s, const place *p, uint64_t now)
{
    bool runs = tp_link_place(s) == (uint32_t)(p - s->places) + 1;
    return now - (p->told_ns ? p->told_ns : p->over_ns) >
           (uint64_t)(runs ? PATIENCE_NS : TOLD_PATIENCE_NS);
}

outcome tp_watch_places(supervisor *s, uint64_t now)
{
    bool sees_cancels = s->n_open > 0 && tp_agent_sees_cancels(s->agent);
    for (uint32_t i = 0; s->n_open > 0 && i < s->n_places; i++) {
        place *p = &s->places[i];
        tp_work *w = p->slice ? &p->slice->work : NULL;
        if (!w)
            continue;
        if (!p->over_ns) {
            uint64_t limit = w->terms->timeout_ns;
            p->is_late = limit && now - p->begun_ns >= limit;
            if (p->is_late || (sees_cancels && tp_work_tell_cancelled(w)))
                p->over_ns = now;
        }
        if (p->over_ns && is_overdue(s, p, now)) {
            s->culprit = i + 1;
            return p->is_late ? TIMED_OUT : UNWANTED;
        }
    }
    return DONE;
}

/* The request's running item has run for long: what stands before it and behind it does not wait
 * (engine/share.c). */
static void share(supervisor *s, watch *of, uint64_t now)
{
    tp_slice *slice = of->slice;
    tp_work *w = &slice->work;
    tp_wire_reader *r = of->reader;
    if (of->is_shared || w->terms->batch || w->terms->streams || s->n_open > 0 ||
        of->item < r->at || of->item >= r->count || now < of->seen_since + TP_SETTLED_NS)
        return;
    if (!of->asked_since) {
        /* also where only the rest of the slice is taken, which the process has not been sent */
        if (r->first + of->item + 1 < tp_work_end(w)) {
            atomic_store_explicit(&w->ctl[1], 1, memory_order_relaxed);
            atomic_store_explicit(&tp_control_of(s)->work.ctl[1], 1, memory_order_relaxed);
        }
        of->asked_since = uv_hrtime(); /* not `now`, which may be long over */
    }
    if (now < of->asked_since + TP_SETTLED_NS)
        return;
    of->is_shared = true;
    tp_results_collect_early(s, w, r, of->item);
    /* that item may have begun a look earlier */
    tp_slice_hand_over(slice, of->item_since - LOOK_MS * 1000000ull);
    if (tp_slice_take_back_rest(slice, r->first + of->item + 1)) {
        s->items -= r->count - (of->item + 1);
        s->request.count = r->count = of->item + 1;
    }
}

outcome tp_watch_look(supervisor *s, watch *of)
{
    uint64_t now = uv_hrtime();
    outcome o = tp_watch_places(s, now);
    if (o != DONE || !of->reader)
        return o == DONE && of->leave_until && now > of->leave_until ? UNWANTED : o;
    tp_work *w = &of->slice->work;
    uint64_t limit = w->terms->timeout_ns;
    const uint32_t item = tp_link_item(s);
    const bool has_turned = tp_link_has_turned(s);
    if (item != of->item) {
        /* the first one has run since the request was sent */
        of->item_since = of->item == (uint32_t)TP_WIRE_NO_ITEM && item == 0 ? of->item_since : now;
        of->item = item;
        of->seen_since = uv_hrtime();
        of->asked_since = 0;
        of->is_shared = false;
    }
    /* for those who look at what runs, as the process writes it in its own */
    if (of->item < s->request.count)
        atomic_store_explicit(&w->ctl[0], (int32_t)(s->request.before + of->item),
                              memory_order_relaxed);
    if (tp_work_is_asked_to_stop(w))
        atomic_store_explicit(&tp_control_of(s)->work.ctl[1], 1, memory_order_relaxed);
    if (!has_turned)
        share(s, of, now);
    if (limit && now - of->item_since >= limit && !has_turned)
        return TIMED_OUT;
    if (!w->sink->is_cancelled(w))
        of->unwanted_since = 0;
    else if (!of->unwanted_since)
        of->unwanted_since = now;
    else if (now - of->unwanted_since > (w->terms->streams ? STREAM_PATIENCE_NS : PATIENCE_NS))
        return UNWANTED;
    return DONE;
}

outcome tp_watch_see_turn(supervisor *s)
{
    tp_wire_out *c = tp_control_of(s);
    s->seen++;
    if (atomic_load_explicit(&c->turn, memory_order_acquire) != s->seen)
        return GARBAGE;
    if (atomic_load_explicit(&c->printed, memory_order_relaxed) != s->printed)
        tp_link_read_socket(s);
    uint32_t state = atomic_load_explicit(&c->state, memory_order_relaxed);
    /* When the owner acts (is_lent) it has seen DONE before. A process that now says something else
     * is broken, and the owner must not wait for it. */
    return state == TP_WIRE_DONE   ? DONE
           : s->is_lent            ? GARBAGE
           : state == TP_WIRE_FULL ? FULL
           : state == TP_WIRE_ASKS ? ASKS
                                   : GARBAGE;
}

outcome tp_watch_await(supervisor *s, watch *of)
{
    uint64_t begun = uv_hrtime();
    tp_link_spin(s);
    while (!tp_link_has_turned(s)) {
        if (!tp_link_wait(s, LOOK_MS)) {
            bool is_done = tp_link_has_turned(s) &&
                           atomic_load_explicit(&tp_control_of(s)->state, memory_order_relaxed) ==
                               TP_WIRE_DONE;
            if (!is_done)
                return DIED;
            break; /* the process has died while idle, which the next request will find */
        }
        outcome o = tp_watch_look(s, of);
        if (o != DONE)
            return o;
        tp_process_start_spare(s);
    }
    s->waited_ns = uv_hrtime() - begun;
    return tp_watch_see_turn(s);
}
