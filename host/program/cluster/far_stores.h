/* far_stores.h: stand-ins for Dicts, Queues and permits that a session's coordinator keeps: what
 * the session's processes ask of them is asked there. */
#ifndef TP_FAR_STORES_H
#define TP_FAR_STORES_H

#include "cluster/question.h"
#include "engine/exec.h"

#include <uv.h>

typedef struct node node;
typedef struct session session;

/* A session's. Made by the main thread, asked by supervisors' threads. */
typedef struct far_stores {
    tp_store_keeper keeper;
    tp_far_permits permits;
    tp_store_names names;
    uv_mutex_t lock;
    uv_cond_t answered;
    /* ---- guarded by the lock ---- */
    uint64_t *ids; /* the coordinator's ids of stores, by our ids */
    uint32_t n, room;
    struct far_func *funcs; /* functions with a limit, with the coordinator's ids of them */
    uint32_t n_funcs;
    struct question *questions; /* on the stacks of the threads that wait for the answers */
    uint64_t asked; /* numbers the questions */
    bool is_over;
} far_stores;

int tp_far_stores_open(session *s); /* -1: there is no memory */

/* Ends all waits for answers: the coordinator is gone. Any thread may be waiting. */
void tp_far_stores_end(session *s);

/* Frees it, after the session's host. */
void tp_far_stores_close(session *s);

/* Publishes the questions that are new, or have no answer yet. */
void tp_far_stores_send(node *n, session *s, uint64_t now);

/* The answer to the question with that number. */
void tp_far_stores_take(session *s, uint64_t number, const void *bytes, size_t len);

#endif
