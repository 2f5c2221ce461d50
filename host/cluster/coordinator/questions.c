/* questions.c: Dicts, Queues and permits that items on a cluster ask for. */
#include "cluster/coordinator/questions.h"

#include "base/blake2b.h"
#include "cluster/coordinator/coordinator.h"
#include "cluster/question.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* so many bytes of answers are kept at most. The askers themselves bound them, unless they are
     * hostile: they have a question open for each item that runs */
    ANSWERED_BYTES = 256 << 20,
    ASKER_S = 600, /* an asker that has been silent for so long is forgotten */
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
    struct answered *next;
    uint64_t number;
    tp_buf bytes;
} answered;

/* Whoever asks: a worker, for this session. */
typedef struct asker {
    struct asker *next;
    uint8_t id[TP_ID_BYTES]; /* of the subjects for its answers, without the number in them */
    uint64_t done; /* it has the answers to questions with lower numbers (tp_asked) */
    uint64_t seen_ns;
    answered *answers; /* those to others, the last first; owned */
} asker;

static void free_question(question *q)
{
    tp_store_op_clear(&q->op);
    tp_ref_drop(q->store);
    free(q->key);
    free(q);
}

/* Frees the answers of an asker that have numbers below that. */
static void drop_answers(cluster *c, asker *a, uint64_t below)
{
    for (answered **at = &a->answers; *at;) {
        answered *one = *at;
        if (one->number >= below) {
            at = &one->next;
            continue;
        }
        *at = one->next;
        c->questions.answered_bytes -= one->bytes.len;
        tp_buf_free(&one->bytes);
        free(one);
    }
}

/* Forgets the asker that `at` points to. */
static void forget_asker(cluster *c, asker **at)
{
    asker *a = *at;
    drop_answers(c, a, UINT64_MAX);
    *at = a->next;
    free(a);
}

/* Whoever gets answers at such a subject, which is the first of the list then, and the number of
 * the question. NULL: there is no memory for one that is new. */
static asker *find_asker(cluster *c, const char *reply, uint64_t *number)
{
    uint8_t id[TP_ID_BYTES];
    const uint64_t now = uv_hrtime();
    const char *last = strrchr(reply, '.');
    last = last ? last + 1 : reply;
    *number = strtoull(last, NULL, 10);
    tp_blake2b_hash(id, sizeof id, reply, (size_t)(last - reply));
    asker **at = &c->questions.askers;
    while (*at && memcmp((*at)->id, id, sizeof id) != 0)
        at = &(*at)->next;
    asker *a = *at;
    if (a) {
        *at = a->next;
    } else {
        for (at = &c->questions.askers; *at;)
            if (now > (*at)->seen_ns + ASKER_S * 1000000000ull)
                forget_asker(c, at);
            else
                at = &(*at)->next;
        a = calloc(1, sizeof *a);
        if (!a)
            return NULL;
        memcpy(a->id, id, sizeof a->id);
    }
    a->seen_ns = now;
    a->next = c->questions.askers;
    c->questions.askers = a;
    return a;
}

/* Gives the answer, and keeps it: `bytes` is empty then. */
static void give_answer(cluster *c, const char *reply, tp_buf *bytes)
{
    uint64_t number;
    tp_nats_publish(&c->server.nats, reply, NULL, bytes->data, bytes->len);
    asker *a = find_asker(c, reply, &number);
    answered *one = a ? calloc(1, sizeof *one) : NULL;
    if (!one) { /* no memory: if it is lost, what was asked is done again */
        tp_buf_free(bytes);
        return;
    }
    *one = (answered){ a->answers, number, *bytes };
    *bytes = (tp_buf){ 0 };
    a->answers = one;
    c->questions.answered_bytes += one->bytes.len;
    while (c->questions.answered_bytes > ANSWERED_BYTES && c->questions.askers) {
        asker **last = &c->questions.askers;
        while ((*last)->next)
            last = &(*last)->next;
        forget_asker(c, last);
    }
}

/* Does the question come again? Then its answer is given again, if its asker still needs it. */
static bool was_answered(cluster *c, const char *reply, const tp_asked *head)
{
    uint64_t number;
    asker *a = find_asker(c, reply, &number);
    if (!a)
        return true; /* without memory it waits until it is asked again */
    if (head->answered > a->done) {
        a->done = head->answered;
        drop_answers(c, a, a->done);
    }
    const answered *one = a->answers;
    while (one && one->number != number)
        one = one->next;
    if (one)
        tp_nats_publish(&c->server.nats, reply, NULL, one->bytes.data, one->bytes.len);
    return one || number < a->done;
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
    tp_asked head;
    tp_error err = { 0 };
    if (strncmp(e->reply, TP_INBOX_WORKER ".", sizeof TP_INBOX_WORKER) != 0 ||
        strlen(e->reply) >= TP_SUBJECT_MAX || e->len < sizeof head)
        return;
    memcpy(&head, e->data, sizeof head);
    if (was_answered(c, e->reply, &head))
        return;
    for (const question *q = c->questions.open; q; q = q->next)
        if (strcmp(q->reply, e->reply) == 0)
            return;
    question *q = calloc(1, sizeof *q);
    if (!q)
        return; /* it is asked again */
    snprintf(q->reply, sizeof q->reply, "%s", e->reply);
    uint64_t wait_ns;
    const char *bytes = e->data + sizeof head;
    const size_t len = e->len - sizeof head;
    if (tp_permit_get(bytes, len, &q->permit) && q->permit.func) {
        wait_ns = q->permit.wait_ns;
    } else if (tp_question_get(bytes, len, &q->op, &q->store, &q->key, &c->packing.stores,
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

void tp_questions_close(cluster *c)
{
    for (question *q = c->questions.open, *next; q; q = next) {
        next = q->next;
        free_question(q);
    }
    while (c->questions.askers)
        forget_asker(c, &c->questions.askers);
}
