/* answers.c: what a process asks its supervisor for: permits, what an item that waits needs of the
 * engine, and Dicts and Queues. */
#include "workers/supervisor.h"

#include <stdlib.h>
#include <string.h>

enum {
    /* how often a supervisor looks, as LOOK_MS, while its process waits for a queue and the item
     * has no timeout */
    REST_MS = 20,
    /* how long an idle process may take for what it does before it ends (the `exit` of classes) */
    LEAVE_S = 5
};

/* The function that the process names in what it asks for; NULL when that is none. */
static tp_func *asked_of(const supervisor *s)
{
    uint32_t id = atomic_load_explicit(&tp_control_of(s)->asked_of, memory_order_relaxed);
    tp_ref *r = id < s->given.n ? s->given.refs[id] : NULL;
    return r && r->type == &tp_func_type ? (tp_func *)(void *)r : NULL;
}

/* Takes a permit of f from the coordinator, where other machines run f, too. True when it was
 * given, or none is needed. */
static bool take_far(const supervisor *s, const tp_terms *of, const tp_func *f, bool may_wait)
{
    const tp_far_permits *p = s->host->permits;
    return !p || f->limit == 0 || p->take(p->user, of->part, f, may_wait);
}

/* The process has a permit of the function, which its item calls. */
static void note_permit(supervisor *s, const tp_terms *of, tp_func *f)
{
    s->permit_of = tp_ref_hold(f);
    memcpy(s->permit_part, of->part, sizeof s->permit_part);
}

/* Waits for a permit: the slice's own, or one of f. DONE when it has one, else why the request must
 * end. */
static outcome await_permit(supervisor *s, watch *of, tp_func *f)
{
    const tp_terms *terms = of->slice->work.terms;
    const tp_func *limited = f ? f : tp_job_func(of->slice->job);
    for (bool has_far = false;;) {
        uint64_t until = uv_hrtime() + LOOK_MS * 1000000ull;
        /* First the coordinator's permit: this machine then has one free, too. Meanwhile another
         * worker may run, since items that hold permits may need it to go on. */
        if (!has_far && s->host->permits && f) {
            tp_job_begin_block(s->agent, false);
            has_far = take_far(s, terms, limited, true);
            tp_job_end_block(s->agent);
        } else if (!has_far) {
            has_far = take_far(s, terms, limited, true);
        }
        bool has_permit = has_far && (f ? tp_slice_take_permit_of(of->slice, f, until)
                                        : tp_slice_take_permit(of->slice, until));
        if (has_permit && f)
            note_permit(s, terms, f);
        if (has_permit && !f)
            s->has_released = false;
        outcome o = tp_peer_has_ended(&s->peer) ? DIED : tp_watch_look(s, of);
        if (has_far && !has_permit && o != DONE)
            tp_link_release_far(s, terms->part, limited);
        if (has_permit || o != DONE)
            return o;
    }
}

void tp_answers_take_permit(supervisor *s, tp_slice *slice)
{
    const tp_work *w = &slice->work;
    const tp_func *f = tp_job_func(slice->job);
    while (!take_far(s, w->terms, f, true) && !w->sink->is_cancelled(w))
        ;
    tp_slice_take_permit(slice, UINT64_MAX);
    s->has_released = false;
}

/* ---- stores ---- */

/* What is looked at while a supervisor waits for a queue. */
typedef struct wait {
    supervisor *s;
    watch *of;
    outcome why; /* not DONE: why the request must end */
} wait;

static bool is_over(void *user)
{
    wait *w = user;
    tp_work *work = w->of->slice ? &w->of->slice->work : NULL;
    w->why = tp_peer_has_ended(&w->s->peer) ? DIED : tp_watch_look(w->s, w->of);
    /* asked first: an engine that is stopped has cancelled its job, and it learns of that */
    bool is_unwanted = work && !w->of->leave_until && tp_work_tell_cancelled(work);
    return w->why != DONE || is_unwanted || tp_engine_is_stopped(w->s->host->engine);
}

/* A value that was taken out and cannot be given to the process goes back. */
static void give_back(tp_store *store, tp_store_op *op)
{
    if (op->verb == TP_STORE_TAKE && op->moved == TP_MOVED && !tp_store_keeper_of(store)) {
        tp_store_put_back(store, &op->value);
    } else if (op->verb == TP_STORE_TAKE && op->moved == TP_MOVED) {
        op->verb = TP_STORE_PUSH; /* at the back: others may have taken more from the front since */
        tp_store_perform(store, NULL, op, NULL);
    }
    if (op->verb != TP_STORE_POP || !op->is_done)
        return;
    op->verb = TP_STORE_PUT;
    op->version = 0;
    tp_store_perform(store, NULL, op, NULL);
}

/* Is there a limit to how long the item may run? */
static bool is_timed(const watch *of)
{
    return of->slice && of->slice->work.terms->timeout_ns;
}

/* How long a keeper elsewhere may wait at once. A worker process's own host does not return before:
 * while that waits for an item that runs apart, nobody looks at its timeout. Without one the wait
 * is not cut into pieces, so that the host can see that it has no end (tp_engine_is_stuck). */
static uint64_t wait_at_once(const supervisor *s, const watch *of, uint64_t wait_ns)
{
    const uint64_t look_ns = LOOK_MS * 1000000ull;
    return s->host->is_child && is_timed(of) && wait_ns > look_ns ? look_ns : wait_ns;
}

/* Waits for the queue as the process has asked, and does what it has asked for. Meanwhile the
 * process has no permit. DONE, or why the request must end. */
static outcome await_store(supervisor *s, watch *of, tp_store *queue, tp_store_op *op,
                           uint64_t wait_ns, tp_error *err)
{
    uint64_t now = uv_hrtime(), deadline = wait_ns < UINT64_MAX - now ? now + wait_ns : UINT64_MAX;
    tp_func *nested = s->permit_of ? tp_ref_hold(s->permit_of) : NULL;
    /* it is kept elsewhere: each tp_store_perform waits there for a while */
    bool is_far = tp_store_keeper_of(queue);
    bool has_own = of->slice && of->slice->has_permit;
    wait w = { s, of, DONE };
    int rc = 0;
    uint64_t look_ns = (is_timed(of) ? LOOK_MS : REST_MS) * 1000000ull;
    tp_link_release_permit(s);
    if (has_own)
        tp_link_release_far(s, of->slice->work.terms->part, tp_job_func(of->slice->job));
    if (is_far)
        tp_job_begin_block(s->agent, deadline == UINT64_MAX);
    while (rc == 0 && w.why == DONE && op->moved == TP_NOT_YET && uv_hrtime() < deadline) {
        if (is_far && is_over(&w)) {
            op->moved = TP_UNWANTED;
        } else if (is_far && tp_job_is_hopeless(s->agent)) {
            op->moved = TP_STUCK;
        } else if (is_far) {
            rc = tp_store_perform(queue, NULL, op, err);
        } else {
            op->moved = tp_store_await(queue, op->verb == TP_STORE_PUSH, s->agent, deadline,
                                       look_ns, is_over, &w);
            if (w.why == DONE && op->moved == TP_MOVED)
                rc = tp_store_perform(queue, NULL, op, err);
        }
    }
    if (is_far)
        tp_job_end_block(s->agent);
    s->has_released |= has_own;
    /* the process has died meanwhile: the value that was taken goes back */
    if (op->moved == TP_MOVED && tp_peer_has_ended(&s->peer)) {
        give_back(queue, op);
        w.why = DIED;
    }
    if (w.why == DONE && has_own)
        w.why = await_permit(s, of, NULL);
    if (w.why == DONE && nested)
        w.why = await_permit(s, of, nested);
    tp_ref_drop(nested);
    return w.why;
}

/* Gives all records that were published since the last call to the sinks of their items. */
static bool collect_of(supervisor *s, watch *of, tp_error *err)
{
    return of->reader ? tp_results_collect(s, &of->slice->work, of->reader, false, err)
                      : tp_results_collect(s, NULL, &s->away, false, err);
}

/* Writes the answer. When the process was given too many things by reference (TP_ELIMIT), first
 * takes back what it has returned, after reading the records that may name that. -1 with err set
 * when the records are wrong, or there is no memory. */
static int put_answer(supervisor *s, watch *of, tp_store *store, tp_store_op *op,
                      const tp_error *why, tp_error *err)
{
    tp_error refusal = { 0 };
    _Atomic uint64_t *returned = tp_control_of(s)->returned;
    if (tp_wire_put_answer(&s->asks, &s->given, returned, op, why, &refusal) == 0)
        return 0;
    if (refusal.code == TP_ELIMIT) {
        if (!of->leave_until && !collect_of(s, of, err))
            return -1;
        refusal.code = TP_OK;
        returned = tp_control_of(s)->returned; /* it may have moved */
        tp_wire_take_returned(&s->given, returned);
        if (tp_wire_put_answer(&s->asks, &s->given, returned, op, why, &refusal) == 0)
            return 0;
    }
    give_back(store, op);
    return tp_wire_put_answer(&s->asks, &s->given, returned, op, &refusal, err);
}

/* Does what the process asks for with a store. As `answer`. */
static outcome serve_store(supervisor *s, watch *of, tp_error *err)
{
    tp_store_op op;
    tp_store *store;
    char *key;
    tp_error why = { 0 };
    outcome o = GARBAGE;
    if (tp_wire_get_ask(&s->asks, &s->given, &op, &store, &key, err)) {
        uint64_t wait_ns = op.wait_ns;
        op.wait_ns = wait_at_once(s, of, wait_ns);
        o = DONE;
        if (tp_store_perform(store, s->host->stores, &op, &why) == 0 && op.moved == TP_NOT_YET &&
            wait_ns > 0)
            o = await_store(s, of, store, &op, wait_ns, &why);
        if (o == DONE)
            o = put_answer(s, of, store, &op, &why, err) ? GARBAGE : ASKS;
    }
    tp_store_op_clear(&op);
    free(key);
    return o;
}

/* Answers a question. */
static void say(const supervisor *s, bool yes)
{
    atomic_store_explicit(&tp_in_of(s)->answer, yes, memory_order_relaxed);
}

/* Does what the process asks for in the name of an item that waits beside others. */
static outcome answer_place(supervisor *s, uint32_t asked)
{
    tp_wire_out *c = tp_control_of(s);
    uint32_t flags = atomic_load_explicit(&c->flags, memory_order_relaxed);
    place *p = tp_place_find(s, atomic_load_explicit(&c->asked_of, memory_order_relaxed));
    if (asked == TP_WIRE_IS_STUCK)
        say(s, tp_engine_is_stuck(s->host->engine, s->agent));
    else if (!p)
        return GARBAGE;
    else if (asked == TP_WIRE_GIVE_WAY)
        tp_slice_give_way(&p->slice->work, flags & 1, flags & 2);
    else if (asked == TP_WIRE_COME_BACK)
        say(s, tp_slice_come_back(&p->slice->work));
    else if (asked == TP_WIRE_NOTE_STEP)
        tp_slice_note_step(&p->slice->work, atomic_load_explicit(&c->number, memory_order_relaxed));
    else
        say(s, tp_slice_note_blocking(&p->slice->work));
    return ASKS;
}

outcome tp_answer(supervisor *s, watch *of, tp_error *err)
{
    uint32_t asked = atomic_load_explicit(&tp_control_of(s)->asked, memory_order_relaxed);
    if (asked == TP_WIRE_PERFORM)
        return serve_store(s, of, err);
    if (of->leave_until)
        return GARBAGE;
    if (asked >= TP_WIRE_GIVE_WAY && asked <= TP_WIRE_IS_STUCK)
        return answer_place(s, asked);
    if (!of->slice)
        return GARBAGE;
    tp_work *w = &of->slice->work;
    tp_func *f = asked_of(s);
    outcome o = DONE;
    if (asked == TP_WIRE_TRY_TAKE && f && !s->permit_of) {
        bool has_far = take_far(s, w->terms, f, false);
        bool has = has_far && tp_slice_take_permit_of(of->slice, f, 0);
        if (has)
            note_permit(s, w->terms, f);
        else if (has_far)
            tp_link_release_far(s, w->terms->part, f);
        say(s, has);
    } else if (asked == TP_WIRE_RELEASE_OWN) {
        w->sink->release_permit(w);
        if (!s->has_released)
            tp_link_release_far(s, w->terms->part, tp_job_func(of->slice->job));
        s->has_released = true;
    } else if (asked == TP_WIRE_RELEASE && f && f == s->permit_of) {
        tp_link_release_permit(s);
    } else if (asked == TP_WIRE_TAKE_OWN) {
        o = await_permit(s, of, NULL);
    } else if (asked == TP_WIRE_TAKE && f && !s->permit_of) {
        o = await_permit(s, of, f);
    } else {
        o = GARBAGE;
    }
    return o == DONE ? ASKS : o;
}

void tp_answers_dismiss(supervisor *s)
{
    if (s->peer.pid != 0 &&
        atomic_load_explicit(&tp_control_of(s)->will_leave, memory_order_relaxed)) {
        tp_error err = { 0 };
        tp_work *w = s->agent->worker.current;
        watch of = { .slice = w ? tp_slice_of(w) : NULL,
                     .leave_until = uv_hrtime() + LEAVE_S * 1000000000ull };
        outcome o = ASKS;
        atomic_fetch_add_explicit(&s->host->leaving, 1, memory_order_relaxed);
        atomic_store_explicit(&tp_in_of(s)->wish, TP_WIRE_LEAVE, memory_order_relaxed);
        while (o == ASKS) {
            tp_link_take_turn(s);
            o = tp_watch_await(s, &of);
            if (o == ASKS)
                o = tp_answer(s, &of, &err);
        }
        atomic_fetch_sub_explicit(&s->host->leaving, 1, memory_order_relaxed);
    }
    tp_process_end(s);
}
