/* far_stores.c: stand-ins for Dicts, Queues and permits that a coordinator keeps. */
#include "program/cluster/far_stores.h"

#include "program/cluster/node.h"

#include <stdio.h>
#include <stdlib.h>

enum {
    QUESTION_MS = 2000, /* a question without an answer is asked again */
    /* how long the coordinator is asked to wait for a value or for room */
    QUESTION_NS = 200 * 1000 * 1000
};

/* A question about a Dict or Queue, on the stack of the thread that waits for its answer. */
typedef struct question {
    struct question *next;
    uint64_t number;
    tp_buf bytes, answer;
    uint64_t sent_ms; /* 0: it was not */
    bool has_answer;
} question;

struct far_func {
    const tp_func *func;
    uint64_t id;
};

/* see tp_store_names. Any thread. */
static uint64_t id_of(void *user, tp_ref *r)
{
    session *s = user;
    tp_store *store = tp_store_is(r) ? (tp_store *)(void *)r : NULL;
    if (!store || tp_store_keeper_of(store) != &s->stores.keeper)
        return 0;
    uv_mutex_lock(&s->stores.lock);
    uint64_t id = s->stores.ids[tp_store_id(store)];
    uv_mutex_unlock(&s->stores.lock);
    return id;
}

/* The stand-in for the store with that id. Any thread. */
static tp_ref *store_of(void *user, uint64_t id, bool is_queue)
{
    session *s = user;
    far_stores *f = &s->stores;
    uint32_t i = 0;
    uv_mutex_lock(&f->lock);
    while (i < f->n && f->ids[i] != id)
        i++;
    if (i == f->n && f->n == f->room) {
        uint32_t room = f->room ? 2 * f->room : 16;
        uint64_t *ids = realloc(f->ids, room * sizeof *ids);
        f->ids = ids ? ids : f->ids;
        f->room = ids ? room : f->room;
    }
    bool has_room = i < f->room;
    if (has_room && i == f->n)
        f->ids[f->n++] = id;
    uv_mutex_unlock(&f->lock);
    return has_room ? (tp_ref *)(void *)tp_store_new_far(
                          is_queue ? &tp_store_queue_type : &tp_dict_type, &f->keeper, i)
                    : NULL;
}

/* Queues the question for the main thread, which sends it, and waits for the answer. Supervisors'
 * threads. False: the session is over. */
static bool await_answer(session *s, question *q)
{
    far_stores *f = &s->stores;
    uv_mutex_lock(&f->lock);
    q->number = ++f->asked;
    q->next = f->questions;
    f->questions = q;
    uv_mutex_unlock(&f->lock);
    tp_nats_wake(&s->node->nats);
    uv_mutex_lock(&f->lock);
    while (!q->has_answer && !f->is_over)
        uv_cond_wait(&f->answered, &f->lock);
    question **at = &f->questions;
    while (*at != q)
        at = &(*at)->next;
    *at = q->next;
    bool has = q->has_answer;
    uv_mutex_unlock(&f->lock);
    return has;
}

/* see tp_store_keeper. The thread of the supervisor whose process asks. */
static int perform(void *user, uint32_t id, tp_store_op *op, tp_error *err)
{
    session *s = user;
    question q = { 0 };
    uint64_t store = 0, wait_ns = op->wait_ns;
    if (op->verb != TP_STORE_NEW_DICT && op->verb != TP_STORE_NEW_QUEUE) {
        uv_mutex_lock(&s->stores.lock);
        store = s->stores.ids[id];
        uv_mutex_unlock(&s->stores.lock);
    }
    op->wait_ns = wait_ns < QUESTION_NS ? wait_ns : QUESTION_NS;
    int rc = tp_question_put(&q.bytes, store, op, &s->stores.names, err);
    if (rc == 0 && !await_answer(s, &q))
        rc = tp_error_set(err, TP_ESYS, "the script is gone that keeps it");
    else if (rc == 0)
        rc = tp_answer_get(q.answer.data, q.answer.len, op, &s->stores.names, err);
    op->wait_ns = wait_ns;
    tp_buf_free(&q.bytes);
    tp_buf_free(&q.answer);
    return rc;
}

/* see tp_store_names. The function is held by s->known. The main thread */
static void note_func(void *user, const tp_func *func, uint64_t id)
{
    far_stores *f = &((session *)user)->stores;
    uv_mutex_lock(&f->lock);
    struct far_func *funcs = realloc(f->funcs, (f->n_funcs + 1) * sizeof *funcs);
    if (funcs) { /* without memory the limit holds only among this machine's workers */
        f->funcs = funcs;
        funcs[f->n_funcs++] = (struct far_func){ func, id };
    }
    uv_mutex_unlock(&f->lock);
}

/* Asks for a permit, or gives it back. True: there is one; or the chunk is not wanted any more. */
static bool ask_permit(session *s, tp_permit_verb verb, const uint64_t part[2], const tp_func *func,
                       uint64_t wait_ns)
{
    far_stores *f = &s->stores;
    question q = { 0 };
    tp_permit_op op = {
        .verb = verb, .chunk = part[0], .sending = part[1], .wait_ns = wait_ns
    };
    uv_mutex_lock(&f->lock);
    for (uint32_t i = 0; i < f->n_funcs; i++)
        if (f->funcs[i].func == func)
            op.func = f->funcs[i].id;
    uv_mutex_unlock(&f->lock);
    if (op.func == 0 || tp_permit_put(&q.bytes, &op, NULL))
        return true;
    bool has = !await_answer(s, &q) || tp_permit_answer_get(q.answer.data, q.answer.len);
    tp_buf_free(&q.bytes);
    tp_buf_free(&q.answer);
    return has;
}

/* see tp_far_permits */
static bool take_permit(void *user, const uint64_t part[2], const tp_func *f, bool may_wait)
{
    return ask_permit(user, TP_PERMIT_TAKE, part, f, may_wait ? QUESTION_NS : 0);
}

static void release_permit(void *user, const uint64_t part[2], const tp_func *f)
{
    ask_permit(user, TP_PERMIT_RELEASE, part, f, 0);
}

/* see tp_store_keeper: the coordinator holds it until the session is over */
static void drop_store(void *user, uint32_t id)
{
    (void)user, (void)id;
}

/* see tp_store_keeper */
static bool is_stuck(void *user)
{
    (void)user;
    return false;
}

void tp_far_stores_send(node *n, session *s, uint64_t now)
{
    char subject[TP_SUBJECT_MAX], reply[TP_SUBJECT_MAX];
    snprintf(subject, sizeof subject, TP_SUBJECT_R "%s.ask", s->hex);
    uv_mutex_lock(&s->stores.lock);
    tp_asked head = { .answered = s->stores.asked + 1 };
    for (const question *q = s->stores.questions; q; q = q->next)
        if (!q->has_answer && q->number < head.answered)
            head.answered = q->number;
    for (question *q = s->stores.questions; q; q = q->next) {
        tp_buf message = { 0 };
        if (q->has_answer || (q->sent_ms && now < q->sent_ms + QUESTION_MS))
            continue;
        snprintf(reply, sizeof reply, "%s.q.%s.%llu", n->inbox, s->hex,
                 (unsigned long long)q->number);
        if (tp_buf_add(&message, &head, sizeof head) == 0 &&
            tp_buf_add(&message, q->bytes.data, q->bytes.len) == 0) {
            q->sent_ms = now;
            tp_nats_publish(&n->nats, subject, reply, message.data, message.len);
        }
        tp_buf_free(&message);
    }
    uv_mutex_unlock(&s->stores.lock);
}

void tp_far_stores_take(session *s, uint64_t number, const void *bytes, size_t len)
{
    uv_mutex_lock(&s->stores.lock);
    question *q = s->stores.questions;
    while (q && q->number != number)
        q = q->next;
    if (q && !q->has_answer && tp_buf_add(&q->answer, bytes, len) == 0) {
        q->has_answer = true;
        uv_cond_broadcast(&s->stores.answered);
    }
    uv_mutex_unlock(&s->stores.lock);
}

void tp_far_stores_end(session *s)
{
    uv_mutex_lock(&s->stores.lock);
    s->stores.is_over = true;
    uv_cond_broadcast(&s->stores.answered);
    uv_mutex_unlock(&s->stores.lock);
}

int tp_far_stores_open(session *s)
{
    far_stores *f = &s->stores;
    if (uv_mutex_init(&f->lock))
        return -1;
    if (uv_cond_init(&f->answered)) {
        uv_mutex_destroy(&f->lock);
        return -1;
    }
    /* A coordinator that was silent for long is another session when it is back, and remembers what
     * it was asked before: no number comes again. */
    f->asked = uv_hrtime();
    f->keeper = (tp_store_keeper){ perform, drop_store, is_stuck, s, 0 };
    f->names = (tp_store_names){ id_of, store_of, note_func, s };
    f->permits = (tp_far_permits){ take_permit, release_permit, s };
    s->known.stores = &f->names;
    return 0;
}

void tp_far_stores_close(session *s)
{
    uv_cond_destroy(&s->stores.answered);
    uv_mutex_destroy(&s->stores.lock);
    free(s->stores.ids);
    free(s->stores.funcs);
}
