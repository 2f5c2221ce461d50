/* questions.h: what items on a cluster ask of Dicts, Queues and permits, which are kept here. All
 * functions are the carrier's, but close, which is the owner's. */
#ifndef TP_COORDINATOR_QUESTIONS_H
#define TP_COORDINATOR_QUESTIONS_H

#include "cluster/nats.h"

typedef struct cluster cluster;

struct questions {
    struct question *open; /* those that wait for an answer, in the order in which they were asked;
                              owned */
    unsigned n_open;       /* items that wait: more chunks are sent while they wait */
    struct asker *askers; /* who has asked, the last one first; owned */
    size_t answered_bytes; /* of all answers that are kept */
};

void tp_questions_close(cluster *c);

/* A worker asks something: it is answered, or waits. */
void tp_questions_take(cluster *c, const tp_nats_event *e);

/* Answers those that waited and need not wait any more. */
void tp_questions_try(cluster *c);

#endif
