/* questions.c: Dicts, Queues and permits that items on a cluster ask for. */
#include "cluster/coordinator/questions.h"

#include "base/blake2b.h"
#include "cluster/coordinator/coordinator.h"
#include "cluster/question.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ANSWERED_MAX = 1024, /* how many answers to questions are kept, */
    ANSWERED_BYTES = 64 << 20, /* and how many bytes of them */
    QUESTION_NS = 1000 * 1000 * 1000 /* what a question may wait at most: it is asked again */
};

/* A worker's question that cannot be answered yet: about a Queue (it waits for a value or for room)
 * or a permit. */
typedef struct question {
    struct question *next;
    tp_permit_op permit; /* func not 0: the question is about a permit */
    tp_store_op op;
    tp_ref *store;
    char *key;
    char reply[TP_SUBJECT_MAX];
    uint64_t deadline_ns;
} question;

/* An answer that was sent, kept in case it is lost and the question comes again. */
typedef struct answered {
    uint8_t id[TP_ID_BYTES];
    tp_buf bytes;
} answered;

static void free_question(question *q)
{
    tp_store_op_clear(&q->op);
    tp_ref_drop(q->store);
    free(q->key);
    free(q);
}

static void drop_answered(cluster *c, answered *a)
{
    c->questions.answered_bytes -= a->bytes.len;
    tp_buf_free(&a->bytes);
}

/* Gives the answer, and keeps it: `bytes` is empty then. */
static void give_answer(cluster *c, const char *reply, tp_buf *bytes)
{
    answered *a = &c->questions.answered[c->questions.n_answered++ % ANSWERED_MAX];
    drop_answered(c, a);
    a->bytes = *bytes;
    *bytes = (tp_buf){ 0 };
    tp_blake2b_hash(a->id, sizeof a->id, reply, strlen(reply));
    c->questions.answered_bytes += a->bytes.len;
    tp_nats_publish(&c->server.nats, reply, NULL, a->bytes.data, a->bytes.len);
    for (uint64_t i = c->questions.n_answered; c->questions.answered_bytes > ANSWERED_BYTES &&
                                     i < c->questions.n_answered + ANSWERED_MAX - 1; i++)
        drop_answered(c, &c->questions.answered[i % ANSWERED_MAX]);
}

static void answer_store(cluster *c, const char *reply, const tp_store_op *op, const tp_error *why)
{
    tp_buf bytes = { 0 };
    tp_error err = { 0 }, ignored = { 0 };
    if (tp_answer_put(&bytes, op, why, &c->packing.stores, &err)) {
        tp_buf_clear(&bytes);
        tp_answer_put(&bytes, op, &err, &c->packing.stores, &ignored);
    }
    give_answer(c, reply, &bytes);
}

/* Takes a permit for the flight's item: that of its own function, which it has given up while it
 * waits, or one more. */
static bool take_permit(cluster *c, flight *l, tp_func *f)
{
    if (f == tp_job_func(l->slice->job) && !l->slice->has_permit)
        return tp_slice_take_permit(l->slice, 0);
    if (!tp_slice_take_permit_of(l->slice, f, 0))
        return false;
    if (tp_parcel_refs_add(&l->permits, &f->ref, NULL) == 0)
        return true;
    tp_func_release_permit(c->engine, f); /* it is asked for again */
    return false;
}

static void release_permit(cluster *c, flight *l, tp_func *f)
{
    tp_parcel_refs *p = &l->permits;
    uint32_t i = 0;
    while (i < p->n && p->refs[i] != &f->ref)
        i++;
    if (i < p->n) {
        tp_func_release_permit(c->engine, f);
        tp_ref_drop(&f->ref);
        p->refs[i] = p->refs[--p->n];
    } else if (f == tp_job_func(l->slice->job)) {
        l->slice->work.sink->release_permit(&l->slice->work);
    }
}

/* The same for permits. A question for a chunk that is over is answered with yes: nobody needs a
 * permit for it any more. */
static bool try_permit(cluster *c, const question *q)
{
    tp_func *f = tp_packing_func_of(c, q->permit.func);
    flight *l = tp_fleet_find(c, q->permit.chunk, (unsigned)q->permit.sending);
    bool takes = q->permit.verb == TP_PERMIT_TAKE, has = true;
    if (f && l && takes)
        has = take_permit(c, l, f);
    else if (f && l)
        release_permit(c, l, f);
    if (!has && uv_hrtime() < q->deadline_ns)
        return false;
    tp_buf bytes = { 0 };
    if (tp_permit_answer_put(&bytes, has, NULL) == 0)
        give_answer(c, q->reply, &bytes);
    return true;
}

/* Does what the question asks for, if that need not wait. */
static bool try_question(cluster *c, question *q)
{
    if (q->permit.func)
        return try_permit(c, q);
    tp_error why = { 0 };
    int rc = tp_store_perform((tp_store *)(void *)q->store, NULL, &q->op, &why);
    if (rc == 0 && q->op.moved == TP_NOT_YET && uv_hrtime() < q->deadline_ns)
        return false;
    if (q->op.verb == TP_STORE_PUSH || q->op.verb == TP_STORE_TAKE)
        if (rc || q->op.moved != TP_NOT_YET)
            tp_fleet_note_move(c);
    answer_store(c, q->reply, &q->op, &why);
    return true;
}

void tp_questions_take(cluster *c, const tp_nats_event *e)
{
    uint8_t id[TP_ID_BYTES];
    tp_error err = { 0 };
    if (strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0 ||
        strlen(e->reply) >= TP_SUBJECT_MAX)
        return;
    tp_blake2b_hash(id, sizeof id, e->reply, strlen(e->reply));
    for (int i = 0; i < ANSWERED_MAX; i++) {
        const answered *a = &c->questions.answered[i];
        if (a->bytes.len && memcmp(a->id, id, sizeof id) == 0) {
            tp_nats_publish(&c->server.nats, e->reply, NULL, a->bytes.data, a->bytes.len);
            return;
        }
    }
    for (const question *q = c->questions.open; q; q = q->next)
        if (strcmp(q->reply, e->reply) == 0)
            return;
    question *q = calloc(1, sizeof *q);
    if (!q)
        return; /* it is asked again */
    snprintf(q->reply, sizeof q->reply, "%s", e->reply);
    uint64_t wait_ns;
    if (tp_permit_get(e->data, e->len, &q->permit) && q->permit.func) {
        wait_ns = q->permit.wait_ns;
    } else if (tp_question_get(e->data, e->len, &q->op, &q->store, &q->key, &c->packing.stores,
                               &err)) {
        answer_store(c, q->reply, &q->op, &err);
        free_question(q);
        return;
    } else {
        wait_ns = q->op.wait_ns;
    }
    q->deadline_ns = uv_hrtime() + (wait_ns < QUESTION_NS ? wait_ns : QUESTION_NS);
    if (try_question(c, q)) {
        free_question(q);
        return;
    }
    question **end = &c->questions.open; /* in the order in which they were asked */
    while (*end)
        end = &(*end)->next;
    *end = q;
    c->questions.n_open++;
}

void tp_questions_try(cluster *c)
{
    for (question **at = &c->questions.open; *at;) {
        question *q = *at;
        if (try_question(c, q)) {
            *at = q->next;
            c->questions.n_open--;
            free_question(q);
        } else {
            at = &q->next;
        }
    }
}

bool tp_questions_open(cluster *c)
{
    if (!c->questions.answered)
        c->questions.answered = calloc(ANSWERED_MAX, sizeof(answered));
    return c->questions.answered != NULL;
}

void tp_questions_close(cluster *c)
{
    for (question *q = c->questions.open, *next; q; q = next) {
        next = q->next;
        free_question(q);
    }
    for (int i = 0; c->questions.answered && i < ANSWERED_MAX; i++)
        tp_buf_free(&c->questions.answered[i].bytes);
    free(c->questions.answered);
}
