/* questions.h: what items on a cluster ask of Dicts, Queues and permits, which are kept here. All
 * functions are the carrier's, but open and close, which are the owner's. */
#ifndef TP_COORDINATOR_QUESTIONS_H
#define TP_COORDINATOR_QUESTIONS_H

#include "cluster/nats.h"

typedef struct cluster cluster;

struct questions {
    struct question *open; /* those that wait for an answer, in the order in which they were asked;
                              owned */
    unsigned n_open;       /* items that wait: more chunks are sent while they wait */
    struct answered *answered; /* answers that were given, in case they are asked for again */
    uint64_t n_answered, answered_bytes;
};

/* Memory for it. False: there is none. Before the carrier's thread is started. */
bool tp_questions_open(cluster *c);
void tp_questions_close(cluster *c);

/* A worker asks something: it is answered, or waits. */
void tp_questions_take(cluster *c, const tp_nats_event *e);

/* Answers those that waited and need not wait any more. */
void tp_questions_try(cluster *c);

#endif
