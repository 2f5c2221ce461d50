/* idle.h: how the threads of an executor wait for work, and how they come to rest.
 *
 * A thread that has run out of work spins for a little while before it sleeps (only one thread at a
 * time spins): waking a thread costs 15 us and more, and the next call often comes soon. */
#ifndef TP_IDLE_H
#define TP_IDLE_H

#include "runtime/runtime.h"

/* The waiting threads of one executor, whose `looking` counts those that are awake without work. */
typedef struct tp_idle {
    /* Set by tp_idle_open, read-only afterwards. */
    tp_executor *executor;
    tp_engine *engine;
    uint64_t spin_ns;

    uv_cond_t ended; /* with the engine's lock: tp_idle_stop waits on it */

    /* ---- guarded by the engine's lock ---- */
    unsigned alive; /* threads that may still use something of the executor */
    /* those that sleep, the last one that went to sleep first: its memory is most likely still in a
     * cache. Each sleeps on its agent's `cond` */
    tp_agent *asleep;
    unsigned n_sleeping, n_spinning;
    bool is_stopping;

    _Atomic uint32_t offers; /* counts calls of tp_idle_offer; what a spinning thread watches
                                (acquire/release) */
} tp_idle;

/* `executor` must have its host. There are no threads yet. */
int tp_idle_open(tp_idle *idle, tp_executor *executor, uint64_t spin_ns, tp_error *err);

/* All threads must have ended. */
void tp_idle_close(tp_idle *idle);

/* All functions below are called with the engine's lock held. */

/* There is work for up to n threads: wakes sleeping ones. Returns how many more threads could be
 * used. */
unsigned tp_idle_offer(tp_idle *idle, unsigned n);

/* Wakes a sleeping thread, unless one is awake that will see the work. False: there is neither. */
bool tp_idle_pass_on(tp_idle *idle);

/* Spins for a little while, waiting for an offer. False when none came, or another thread spins
 * already. Releases the lock meanwhile. */
bool tp_idle_spin(tp_idle *idle);

/* Sleeps until there may be work, or until a time (uv_hrtime; UINT64_MAX: no time). Releases the
 * lock meanwhile. */
void tp_idle_sleep(tp_idle *idle, tp_agent *me, uint64_t until);

/* Is the agent among those that are woken when there is work? tp_idle_sleep adds it and removes it.
 * Others may do so meanwhile, without waking it, to act in its place. */
void tp_idle_add(tp_idle *idle, tp_agent *agent);
void tp_idle_remove(tp_idle *idle, tp_agent *agent); /* does nothing when it is not */

/* One of the threads that `alive` counts has ended. */
void tp_idle_end(tp_idle *idle);

/* Asks all threads to end once nothing runs, and waits for that until deadline_ns (uv_hrtime;
 * UINT64_MAX: for ever). Returns how many are still alive. Releases the lock meanwhile. */
unsigned tp_idle_stop(tp_idle *idle, uint64_t deadline_ns);

#endif
