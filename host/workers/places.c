/* places.c: items that wait beside each other (tp_terms.concurrent), each at its place in the
 * process.
 *
 * The process runs one of them at a time and shows which. When it dies or is ended, that one is to
 * blame, and the others go back to the engine. If none ran, those that were there run again with
 * fewer beside them, until one is alone. */
#include "workers/supervisor.h"

#include "runtime/own_loop.h"
#include "workers/pool.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* how long a supervisor with a new slice waits for a process whose running item does not give
     * the turn back; then the slice goes back to the engine */
    TURN_PATIENCE_MS = 50
};

void tp_places_lose(supervisor *s, outcome o, const char *why)
{
    tp_error err = { 0 };
    const tp_wire_out *c = tp_control_of(s);
    bool was_begun = s->beginning &&
                     atomic_load_explicit(&c->begun, memory_order_relaxed) == s->turn;
    uint32_t guilty = s->culprit ? s->culprit : tp_link_place(s);
    const char *garbage = o != GARBAGE ? NULL
                          : why && *why ? why
                                        : "it has written nonsense where its turns are counted";
    if (o == TIMED_OUT || o == UNWANTED)
        tp_peer_kill(&s->peer); /* what ended behind this look would be run twice */
    if (o != GARBAGE && s->is_away)
        /* results that were published before count */
        tp_results_collect(s, NULL, &s->away, false, &err);
    if (!tp_place_find(s, guilty))
        guilty = was_begun && tp_place_find(s, s->beginning) ? s->beginning : 0;
    unsigned n = s->n_open - (s->beginning && !was_begun && tp_place_find(s, s->beginning));
    if (o == DIED && s->beginning && !was_begun)
        tp_process_note_early_death(s, 1);
    if (o == TIMED_OUT || o == UNWANTED)
        tp_link_note_death(s, o == TIMED_OUT ? OVERTIME : UNNEEDED);
    for (uint32_t i = 0; i < s->n_places; i++) {
        place *p = &s->places[i];
        bool is_known = guilty > 0, is_new = i + 1 == s->beginning && !was_begun;
        uint32_t apart = p->slice ? tp_slice_apart(p->slice) : 0;
        if (!p->slice || tp_place_is_out(p) || o == TIMED_OUT || o == UNWANTED || is_new)
            continue;
        if (i + 1 == guilty || (!is_known && (n == 1 || apart == 1)))
            tp_results_blame(s, &p->slice->work, i + 1, garbage);
        else if (!is_known)
            tp_slice_set_apart(p->slice, (apart && apart < n ? apart : n) / 2 + (!apart && n % 2));
    }
    tp_process_end(s);
}

/* Gives the turn to the process. */
static void hand_over(supervisor *s, tp_wire_wish wish)
{
    s->away =
        (tp_wire_reader){ .given = &s->given, .held = &s->held, .from = tp_link_give_room(s) };
    s->culprit = 0;
    s->is_away = true;
    s->is_poked = false;
    atomic_store_explicit(&tp_in_of(s)->poked, 0, memory_order_relaxed);
    atomic_store_explicit(&tp_in_of(s)->wish, wish, memory_order_relaxed);
    tp_link_take_turn(s);
}

/* The process has given the turn back, and its records have been read. */
static void come_back(supervisor *s)
{
    tp_wire_out *c = tp_control_of(s);
    uint32_t starved = atomic_exchange_explicit(&c->starved, 0, memory_order_relaxed);
    place *p = tp_place_find(s, starved ? starved - 1 : 0);
    s->is_away = false;
    s->beginning = 0;
    tp_process_note_begin(s);
    if (!p)
        return;
    p->slice->work.sink->starve(&p->slice->work);
    tp_results_finish(s, p);
}

/* While the process has the turn: waits for it, but not beyond a time, and does what it asks
 * for. */
static void attend(supervisor *s, uint64_t until_ns)
{
    tp_error err = { 0 };
    uint64_t now = uv_hrtime(), ms = until_ns > now ? (until_ns - now) / 1000000 + 1 : 0;
    outcome o = DONE;
    if (!tp_link_has_turned(s) && !tp_link_wait(s, ms < LOOK_MS ? (int)ms : LOOK_MS) &&
        !tp_link_has_turned(s))
        o = DIED;
    if (o == DONE && tp_link_has_turned(s)) {
        place *p = tp_place_find(s, tp_link_place(s));
        watch of = { .slice = p ? p->slice : NULL };
        o = tp_watch_see_turn(s);
        if (o == ASKS) {
            if (p)
                tp_work_enter(&p->slice->work);
            o = tp_answer(s, &of, &err);
            if (p)
                tp_work_leave(&p->slice->work);
            if (o == ASKS)
                tp_link_take_turn(s);
        } else if (o != GARBAGE && !tp_results_collect(s, NULL, &s->away, false, &err)) {
            o = GARBAGE;
        } else if (o == FULL) {
            hand_over(s, TP_WIRE_GO_ON);
        } else if (o == DONE) {
            come_back(s);
        }
        o = o == ASKS || o == FULL ? DONE : o;
    }
    if (o == DONE)
        o = tp_watch_places(s, uv_hrtime());
    if (o != DONE)
        tp_places_lose(s, o, err.message);
}

/* Asks the process for the turn. */
static void poke(supervisor *s)
{
    if (s->is_poked || !s->is_away)
        return;
    s->is_poked = true;
    atomic_store(&tp_in_of(s)->poked, 1);
    tp_link_wake(s);
}

bool tp_places_get_turn(supervisor *s)
{
    uint64_t until = uv_hrtime() + TURN_PATIENCE_MS * 1000000ull;
    while (s->is_away && uv_hrtime() < until) {
        poke(s);
        attend(s, until);
    }
    return !s->is_away;
}

/* Lets the items go on. Those that are to end are told so. */
static void give_turn(supervisor *s)
{
    for (uint32_t i = 0; i < s->n_places && !s->is_away; i++) {
        place *p = &s->places[i];
        if (!p->slice || !p->over_ns || p->told_ns)
            continue;
        p->told_ns = uv_hrtime();
        atomic_store_explicit(&tp_in_of(s)->stopped, i + 1, memory_order_relaxed);
        hand_over(s, TP_WIRE_STOP);
        while (s->is_away)
            attend(s, UINT64_MAX);
    }
    if (s->n_open > 0 && !s->is_away)
        hand_over(s, TP_WIRE_GO_ON);
}

/* A free place for the slice; 0 when out of memory. */
static uint32_t take_place(supervisor *s, tp_slice *slice, bool in_place)
{
    uint32_t i = 0;
    while (i < s->n_places && s->places[i].slice)
        i++;
    if (i == s->n_places) {
        unsigned n = s->n_places ? 2 * s->n_places : 16;
        place *more = realloc(s->places, n * sizeof *more);
        if (!more)
            return 0;
        memset(more + s->n_places, 0, (n - s->n_places) * sizeof *more);
        s->places = more;
        s->n_places = n;
    }
    s->places[i] = (place){ .slice = slice, .in_place = in_place, .begun_ns = uv_hrtime() };
    slice->work.place = i + 1;
    s->n_open++;
    s->agent->worker.n_waiting++;
    return i + 1;
}

/* The number of the place that take_place will return. */
static uint32_t next_place(const supervisor *s)
{
    uint32_t i = 0;
    while (i < s->n_places && s->places[i].slice)
        i++;
    return i + 1;
}

int tp_places_begin(supervisor *s, tp_slice *slice, tp_error *err)
{
    tp_work *w = &slice->work;
    tp_error why = { 0 };
    bool in_place = false;
    uint64_t recycle = w->terms->recycle;
    if (tp_work_is_asked_to_stop(w) || !tp_places_get_turn(s))
        return 0;
    if (recycle && s->items >= recycle && s->n_open == 0)
        tp_answers_dismiss(s);
    if (!tp_process_may_start(s))
        return tp_process_die_out(s, err);
    if (s->peer.pid == 0) {
        if (tp_process_start(s, err))
            return tp_engine_is_stopped(s->host->engine) ? 0 : -1;
        s->wants_spare = true;
    }
    if (tp_own_loop_open(s->agent, err))
        return -1;
    s->agent->own_loop->loop.data = s;
    if (s->n_open == 0) {
        s->peer.tail_len = 0;
        tp_link_listen(s);
        atomic_store_explicit(&tp_control_of(s)->refused, 0, memory_order_relaxed);
    }
    tp_wire_take_returned(&s->given, tp_control_of(s)->returned);
    if (tp_wire_put_request(&s->in, &s->given, w, 1, &s->agent->worker, next_place(s), &in_place,
                            &why)) {
        if (why.code != TP_ELIMIT)
            tp_results_fail(s, w, tp_failure_kind_of(why.code, TP_KIND_CODEC), why.message);
        /* the slice goes back, and the agent takes no others until the process is replaced */
        else if (s->n_open > 0)
            tp_agent_set_full(s->agent, true);
        else
            tp_process_end(s);
        return 0;
    }
    uint32_t number = take_place(s, slice, in_place);
    if (!number) {
        w->sink->starve(w);
        return 0;
    }
    s->beginning = number;
    s->items++;
    tp_work_note(w, TP_EVENT_ITEM, w->at, 1);
    tp_work_leave(w);
    hand_over(s, TP_WIRE_REQUEST);
    uint64_t begun = uv_hrtime();
    tp_link_spin(s);
    while (s->is_away)
        attend(s, UINT64_MAX);
    s->waited_ns = uv_hrtime() - begun;
    tp_process_start_spare(s);
    if (recycle && s->items >= recycle && s->n_open > 0)
        tp_agent_set_full(s->agent, true);
    return TP_POOL_GOES_ON;
}

/* see tp_job_sleep */
static void wait_for_news(tp_agent *agent, uint64_t until_ns)
{
    supervisor *s = agent->own_loop->loop.data;
    uint64_t now = uv_hrtime(), ms = until_ns > now ? (until_ns - now) / 1000000 + 1 : 0;
    tp_link_wait(s, ms < LOOK_MS ? (int)ms : LOOK_MS);
}

void tp_places_turn(void *state, uint64_t deadline_ns)
{
    supervisor *s = state;
    uint64_t now = uv_hrtime(), look_ns = now + LOOK_MS * 1000000ull;
    give_turn(s);
    if (s->n_open == 0)
        return;
    if (deadline_ns > now && !tp_link_has_turned(s))
        tp_job_sleep(s->agent, NULL, NULL, 0, deadline_ns < look_ns ? deadline_ns : look_ns,
                     wait_for_news);
    attend(s, 0);
    for (uint32_t i = 0; i < s->n_places && s->is_away && !s->is_poked; i++) {
        const place *p = &s->places[i];
        /* it must be told to end, or there may be a permit for it now */
        if (p->slice && (p->slice->is_in_line || (p->over_ns && !p->told_ns)))
            poke(s);
    }
}
