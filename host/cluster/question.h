/* question.h: what items on a cluster ask of Dicts, Queues and permits, which their coordinator
 * keeps, and the answers, as bytes. Both are of the same build, as in parcel.h; both read them as
 * hostile. */
#ifndef TP_QUESTION_H
#define TP_QUESTION_H

#include "engine/store.h"

/* bytes of a question or an answer; more does not fit into a message */
enum { TP_QUESTION_MAX = 900 << 10 };

/* The head of a message with a question. Who asks numbers its questions, in the subject for the
 * answer, and asks again and again until it has that. So the coordinator keeps answers until their
 * number is below this one: what was asked twice is done once. */
typedef struct tp_asked {
    uint64_t answered; /* the asker needs no answer any more to questions with lower numbers */
} tp_asked;

/* Translates between stores and their ids. Values in questions may refer to stores, and to nothing
 * else. */
typedef struct tp_store_names {
    uint64_t (*id_of)(void *user, tp_ref *r); /* 0: it is no store, or not that keeper's */
    /* The store with that id, held; NULL: there is none. */
    tp_ref *(*store_of)(void *user, uint64_t id, bool is_queue);
    /* In a worker: called for each function with a limit, with the id that questions for its
     * permits use. The function is held as long as this is used. */
    void (*note_func)(void *user, const tp_func *f, uint64_t id);
    void *user;
} tp_store_names;

/* A question about a permit: take one of a function for a chunk, or release it. */
typedef enum tp_permit_verb {
    TP_PERMIT_TAKE = TP_STORE_VERBS,
    TP_PERMIT_RELEASE
} tp_permit_verb;

typedef struct tp_permit_op {
    tp_permit_verb verb;
    uint64_t func; /* its definition's id */
    uint64_t chunk, sending;
    uint64_t wait_ns;
} tp_permit_op;

int tp_permit_put(tp_buf *out, const tp_permit_op *op, tp_error *err);
bool tp_permit_get(const void *bytes, size_t len, tp_permit_op *op); /* false: it is none */
/* The answer: whether there was a permit. put appends it, get reads it. */
int tp_permit_answer_put(tp_buf *out, bool has, tp_error *err);
bool tp_permit_answer_get(const void *bytes, size_t len);

/* Appends a question: what is to be done to the store with that id (0: to none). -1 with err set:
 * it cannot travel. */
int tp_question_put(tp_buf *out, uint64_t store, const tp_store_op *op,
                    const tp_store_names *names, tp_error *err);

/* Reads that. What `op` gets is its own; its key is freed with *key. *store is held; NULL for
 * operations of no store. -1 with err set when anything is wrong. */
int tp_question_get(const void *bytes, size_t len, tp_store_op *op, tp_ref **store, char **key,
                    const tp_store_names *names, tp_error *err);

/* What came of it: `op`, or `why` when its code is not 0. -1 with err set: it cannot travel. */
int tp_answer_put(tp_buf *out, const tp_store_op *op, const tp_error *why,
                  const tp_store_names *names, tp_error *err);

/* Reads that. -1 with err set: the operation has failed, or anything is wrong. */
int tp_answer_get(const void *bytes, size_t len, tp_store_op *op, const tp_store_names *names,
                  tp_error *err);

#endif
