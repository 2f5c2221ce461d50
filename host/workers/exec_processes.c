/* exec_processes.c: worker processes. Each has a thread in the host, its supervisor, which takes
 * slices for it as a worker thread does.
 *
 * A supervisor sends the items of a slice to its process (wire/frame.h), waits, and reads the
 * results. When the process dies, or the supervisor has ended it because an item ran for too long
 * or is not wanted any more, that costs only the item that was running: results of earlier items
 * were published, later items were not begun and go back to the engine. The running item is known
 * for certain: it is the first without a result.
 *
 * What happens to the process itself is in the other files of supervisor.h. */
#include "workers/workers.h"

#include "workers/pool.h"
#include "workers/supervisor.h"

#include <stdlib.h>

enum {
    STACK_BYTES = 256 << 10,
    /* longer than for threads, since waking a process and being woken takes some 100 us */
    SLICE_NS = 1000 * 1000,
    /* requests with more bytes are left to the supervisor: copying would keep the owner */
    LENT_BYTES_MAX = 1 << 20,
    REQUEST_BYTES_MAX = 4 << 20 /* of long strings, which are copied into a request */
};

/* Sets slice->ran_ns to the time that the process measured, so that the way there and back, which
 * takes longer than many small items, does not count. */
static void note_time(const supervisor *s, tp_slice *slice, uint64_t sent_ns)
{
    uint64_t ran_ns = atomic_load_explicit(&tp_control_of(s)->ran_ns, memory_order_relaxed),
             most_ns = uv_hrtime() - sent_ns;
    slice->ran_ns += ran_ns < most_ns ? ran_ns : most_ns;
}

/* Has the process begin up to `count` items from w->at on: opens the request. What cannot be sent
 * fails at once. */
static void begin_request(supervisor *s, tp_slice *slice, uint32_t count)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    tp_wire_out *c = tp_control_of(s);
    request *q = &s->request;
    uint32_t fitting = w->terms->batch ? count : tp_wire_fitting(w, count, REQUEST_BYTES_MAX);
    if (fitting < count)
        count = fitting > 0 ? fitting : 1;
    tp_link_listen(s);
    tp_work_note(w, TP_EVENT_BEGIN, w->at, count);
    *q = (request){ .number = s->turn + 1, .before = w->at, .count = count };
    q->reader = (tp_wire_reader){ .count = count,
                                  .given = &s->given,
                                  .held = &s->held,
                                  .first = w->at };
    s->peer.tail_len = 0; /* what is kept of its standard error came from earlier items */
    tp_wire_take_returned(&s->given, c->returned);
    if (tp_wire_put_request(&s->in, &s->given, w, count, &s->agent->worker, 0,
                            &q->reader.in_place,
                            &why)) {
        if (why.code == TP_ELIMIT)
            tp_process_end(s);
        else
            tp_results_fail(s, w, tp_failure_kind_of(why.code, TP_KIND_CODEC), why.message);
        tp_work_note(w, TP_EVENT_END, q->before, w->at - q->before);
        return;
    }
    q->reader.from = tp_link_give_room(s);
    atomic_store_explicit(&c->starved, 0, memory_order_relaxed);
    atomic_store_explicit(&c->refused, 0, memory_order_relaxed);
    /* the process sets both when it opens the request's work */
    atomic_store_explicit(&c->work.ctl[0], TP_WIRE_NO_ITEM, memory_order_relaxed);
    atomic_store_explicit(&c->work.ctl[1], 0, memory_order_relaxed);
    s->items += count;
    tp_watch_open(s, slice, &q->reader, &q->watch);
    q->sent_ns = q->watch.item_since;
    q->is_open = true;
    atomic_store_explicit(&tp_in_of(s)->wish, TP_WIRE_REQUEST, memory_order_relaxed);
    s->culprit = 0;
    tp_link_take_turn(s);
}

/* Waits until the open request is over, and gives its results to the sink. False with err set when
 * the worker cannot go on. */
static bool end_request(supervisor *s, tp_slice *slice, tp_error *err)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    tp_wire_out *c;
    request *q = &s->request;
    tp_wire_reader *r = &q->reader;
    uint32_t before = q->before;
    outcome o;
    bool is_right = true;
    q->is_open = false;
    for (;;) {
        /* not during a process's first request, whose results must not wait for this */
        if (s->items > q->count)
            tp_process_start_spare(s);
        o = tp_watch_await(s, &q->watch);
        if (o == ASKS)
            o = tp_answer(s, &q->watch, &why);
        /* the host had no memory: the process is not to blame */
        is_right = o != GARBAGE || why.code != TP_EMEMORY;
        if (o == FULL) {
            is_right = tp_results_collect(s, w, r, false, &why);
            r->from = tp_link_give_room(s);
            c = tp_control_of(s);
            if (tp_work_is_asked_to_stop(w))
                atomic_store_explicit(&c->work.ctl[1], 1, memory_order_relaxed);
            /* waiting for the reader of its values does not count as time of the item */
            if (w->terms->streams)
                q->watch.item_since = uv_hrtime();
        }
        if ((o != FULL && o != ASKS) || !is_right)
            break;
        tp_link_take_turn(s);
    }
    tp_link_release_permit(s); /* does nothing when the process has released it */
    /* before its results are read: what it went on to meanwhile would be blamed, or run twice */
    if (o == TIMED_OUT || o == UNWANTED)
        tp_peer_kill(&s->peer);
    if (is_right && o != GARBAGE)
        is_right = tp_results_collect(s, w, r, o != DONE, &why);
    c = tp_control_of(s);
    if (o != DONE && (s->culprit || tp_place_find(s, tp_link_place(s)))) {
        tp_places_lose(s, o, why.message);
        return true;
    }
    if (o == UNWANTED) {
        tp_link_note_death(s, UNNEEDED);
        tp_process_end(s);
        return true;
    }
    if (!is_right && why.code == TP_EMEMORY) {
        w->sink->starve(w);
        tp_process_end(s);
        return true;
    }
    bool has_items = w->at < before + q->count;
    if (o == DONE && is_right && has_items &&
        atomic_load_explicit(&c->starved, memory_order_relaxed)) {
        w->sink->starve(w);
        return true;
    }
    if (o == DONE && is_right && has_items && !tp_work_is_asked_to_stop(w) && w->at == before) {
        is_right = false;
        tp_error_set(&why, TP_EUSAGE, "it has run nothing of what it was to run");
    }
    if (o == DONE && is_right) {
        tp_process_note_begin(s);
        note_time(s, slice, q->sent_ns);
        return true;
    }
    /* the process was dead already, or died before it began */
    if (o == DIED && atomic_load_explicit(&c->begun, memory_order_relaxed) != q->number) {
        tp_process_note_early_death(s, 1);
        tp_process_end(s);
        return tp_process_may_start(s) || tp_process_die_out(s, err) == 0;
    }
    tp_process_note_begin(s);
    const char *garbage = is_right && o != GARBAGE ? NULL
                          : why.code == TP_OK
                              ? "it has written nonsense where its turns are counted"
                              : why.message;
    uint32_t over = before;
    /* the late item may have ended just before its process was */
    const bool is_late = o != TIMED_OUT || w->at - before <= q->watch.item;
    while (is_late && w->at < before + q->count && w->at >= over &&
           !tp_work_tear(w, before + q->count)) {
        over = w->at + 1;
        if (o == TIMED_OUT) {
            tp_link_note_death(s, OVERTIME);
            tp_results_time_out(s, w);
        } else
            tp_results_blame(s, w, w->at - before, garbage);
        /* one item has failed; of a batch all that were called together fail */
        if (!w->terms->batch)
            break;
    }
    tp_process_end(s);
    return true;
}

/* Makes sure that there is a process, with the slice's permit and items left. -1 with err set when
 * there can be none. */
static int prepare(supervisor *s, tp_slice *slice, tp_error *err)
{
    uint64_t recycle = slice->work.terms->recycle;
    if (recycle && s->items >= recycle && s->n_open == 0)
        tp_answers_dismiss(s);
    if (s->peer.pid == 0) {
        if (tp_process_start(s, err))
            return -1;
        s->wants_spare = true;
    }
    if (s->has_released)
        tp_answers_take_permit(s, slice);
    return 0;
}

supervisor *tp_process_open(tp_agent *agent, tp_error *err)
{
    supervisor *s = calloc(1, sizeof *s);
    if (!s) {
        tp_error_oom(err, "worker process");
        return NULL;
    }
    s->agent = agent;
    s->host = agent->executor->host;
    if (tp_process_start(s, err)) {
        free(s);
        return NULL;
    }
    return s;
}

int tp_process_run(supervisor *s, tp_slice *slice, tp_error *err)
{
    tp_work *w = &slice->work;
    uint32_t end = tp_work_end(w);
    if (w->block->kind == TP_BLOCK_FAILURE) {
        tp_work_pass_failure(w);
        return 0;
    }
    while (s->request.is_open || (w->at < end && !tp_work_is_asked_to_stop(w))) {
        if (!s->request.is_open) {
            if (prepare(s, slice, err))
                return tp_engine_is_stopped(s->host->engine) ? 0 : -1;
            uint64_t recycle = w->terms->recycle,
                     left = recycle > s->items ? recycle - s->items : UINT64_MAX;
            begin_request(s, slice, end - w->at < left ? end - w->at : (uint32_t)left);
        }
        uint32_t before = s->request.before;
        if (s->request.is_open) {
            bool can_go_on = end_request(s, slice, err);
            tp_work_note(w, TP_EVENT_END, before, w->at - before);
            if (!can_go_on)
                return -1;
        }
        /* the rest goes back, since other workers can begin it sooner than a new process */
        if (w->is_torn || (w->at < end && w->at > before && s->peer.pid == 0))
            break;
    }
    return 0;
}

static int run_slice(void *state, tp_slice *slice, tp_error *err)
{
    supervisor *s = state;
    const tp_work *w = &slice->work;
    if (w->terms->concurrent && w->block->kind != TP_BLOCK_FAILURE)
        return tp_places_begin(s, slice, err);
    if (w->block->kind != TP_BLOCK_FAILURE && !tp_places_get_turn(s))
        return 0;
    return tp_process_run(s, slice, err);
}

/* ---- on the owner's thread ---- */

static bool begin_slice(void *state, tp_slice *slice)
{
    supervisor *s = state;
    const tp_work *w = &slice->work;
    if (w->block->kind == TP_BLOCK_FAILURE || s->peer.pid == 0 || s->has_released ||
        w->terms->recycle || w->terms->streams || w->terms->concurrent ||
        tp_block_size(w->block) > LENT_BYTES_MAX ||
        tp_wire_fitting(w, w->count, LENT_BYTES_MAX) < w->count)
        return false;
    begin_request(s, slice, w->count);
    return s->request.is_open;
}

static bool is_request_over(void *state)
{
    const supervisor *s = state;
    const tp_wire_out *c = tp_control_of(s);
    return tp_link_has_turned(s) &&
           atomic_load_explicit(&c->state, memory_order_relaxed) == TP_WIRE_DONE;
}

static bool end_slice(void *state, tp_slice *slice)
{
    supervisor *s = state;
    const tp_work *w = &slice->work;
    /* stays empty: the process has just said that it is done, so no other must be started */
    tp_error err = { 0 };
    uint32_t before = s->request.before;
    if (atomic_load_explicit(&tp_control_of(s)->used, memory_order_relaxed) > LENT_BYTES_MAX)
        return false;
    s->is_lent = true;
    end_request(s, slice, &err);
    s->is_lent = false;
    tp_work_note(w, TP_EVENT_END, before, w->at - before);
    return w->at == tp_work_end(w) || tp_work_is_asked_to_stop(w) || w->is_torn;
}

/* ---- the executor ---- */

static int open_supervisor(void **state, tp_agent *agent, tp_error *err)
{
    agent->worker.tags_lines = agent->executor->host->config.tag_lines;
    *state = tp_process_open(agent, err);
    return *state ? 0 : -1;
}

static void close_supervisor(void *state)
{
    supervisor *s = state;
    while (s->n_open > 0)
        tp_places_turn(s, UINT64_MAX);
    tp_answers_dismiss(s);
    tp_process_end_spare(s);
    free(s->places);
    free(s);
}

static const tp_pool_kind processes = {
    .what = "worker processes",
    .stack_bytes = STACK_BYTES,
    .open = open_supervisor,
    .run = run_slice,
    .turn = tp_places_turn,
    .close = close_supervisor,
    .begin = begin_slice,
    .is_over = is_request_over,
    .end = end_slice,
};

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    return tp_pool_open(out, host, &tp_exec_processes, &processes, err);
}

static void start_workers(tp_executor *ex, unsigned n)
{
    /* not in a worker process: there the agent that waits for these jobs runs them itself */
    if (!ex->host->is_child)
        tp_pool_start(ex, n);
}

const tp_executor_type tp_exec_processes = {
    .name = "processes",
    .summary = "worker processes",
    .capabilities = TP_CAN_KILL | TP_ISOLATED | TP_RUNS_LUA | TP_BOUNDS_MEMORY | TP_STREAMS |
                    TP_INTERLEAVES,
    .slice_ns = SLICE_NS,
    .open = open_executor,
    .start = start_workers,
    .begin_assist = tp_pool_begin_assist,
    .assist = tp_pool_assist,
    .end_assist = tp_pool_end_assist,
    .stop = tp_pool_stop,
    .close = tp_pool_close,
};
