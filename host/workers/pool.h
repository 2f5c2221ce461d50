/* pool.h: threads that take slices of one executor's jobs, started as they are needed.
 *
 * What a thread does with a slice depends on the pool's kind: it runs Lua itself (exec_threads.c),
 * or supervises a process (exec_processes.c). */
#ifndef TP_POOL_H
#define TP_POOL_H

#include "runtime/runtime.h"

enum { TP_POOL_GOES_ON = 1 };

/* One static const table per kind. Its functions are called on the worker's thread. */
typedef struct tp_pool_kind {
    const char *what; /* "worker threads" */
    size_t stack_bytes;

    /* Makes the worker's state, which is passed to the others. */
    int (*open)(void **state, tp_agent *agent, tp_error *err);

    /* Runs the slice, which is the agent's current one; the pool finishes it, unless this returns
     * TP_POOL_GOES_ON. -1 with err set when the worker cannot go on. */
    int (*run)(void *state, tp_slice *slice, tp_error *err);

    /* Goes on with items that wait beside each other, until a time or until there is other work;
     * NULL for workers that have none. */
    void (*turn)(void *state, uint64_t deadline_ns);

    void (*close)(void *state);

    /* Where a worker's thread only watches what runs elsewhere, the host's owner can do so in its
     * place, on its own thread; else all three are NULL. begin: begins the slice without waiting,
     * or returns false. is_over: is what was begun over? end: then ends it; false when items of the
     * slice are left. When begin or end gives false, the worker's thread goes on and calls `run`
     * with the slice. */
    bool (*begin)(void *state, tp_slice *slice);
    bool (*is_over)(void *state);
    bool (*end)(void *state, tp_slice *slice);
} tp_pool_kind;

/* Opens an executor of that type whose workers are a pool. The type's other operations are the
 * functions below. */
int tp_pool_open(tp_executor **out, tp_host *host, const tp_executor_type *type,
                 const tp_pool_kind *kind, tp_error *err);
void tp_pool_start(tp_executor *ex, unsigned n);

/* See tp_executor_type. */
void tp_pool_begin_assist(tp_executor *ex, bool waits);
void tp_pool_assist(tp_executor *ex);
void tp_pool_end_assist(tp_executor *ex, bool comes_back);

/* How many threads run items, or will. The engine's lock is held. */
unsigned tp_pool_alive(tp_executor *ex);
int tp_pool_stop(tp_executor *ex, uint64_t deadline_ns);
void tp_pool_close(tp_executor *ex);

#endif
