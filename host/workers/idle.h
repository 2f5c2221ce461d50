/* idle.h: how the threads of an executor wait for work, and how they come to rest.
 *
 * A thread that has run out of work spins for a little while (one at a time does) before it sleeps: waking a thread costs 15 us and more, and the next
 * call often comes at once. */
#ifndef TP_IDLE_H
#define TP_IDLE_H

#include "runtime/runtime.h"

/* A part of an executor; its `looking` counts the threads that are awake and run nothing. */
typedef struct tp_idle {
    /* Set by tp_idle_open, read-only afterwards. */
    tp_executor *executor;
    tp_engine *engine;
    uint64_t spin_ns;

    uv_cond_t more;  /* with the engine's lock: threads sleep on it */
    uv_cond_t ended; /* likewise: tp_idle_stop waits on it */

    /* ---- guarded by the engine's lock ---- */
    unsigned alive; /* threads that may still touch something of the executor's */
    unsigned n_sleeping, n_spinning;
    bool is_stopping;

    _Atomic uint32_t offers; /* counts calls of tp_idle_offer; what a spinning thread watches (acquire/release) */
} tp_idle;

/* `executor` has its host. It has no threads yet. */
int tp_idle_open(tp_idle *idle, tp_executor *executor, uint64_t spin_ns, tp_error *err);

/* All threads must have ended. */
void tp_idle_close(tp_idle *idle);

/* All below with the engine's lock held. */

/* There is work for up to n threads: wakes those that sleep. Gives how many more there would have to be. */
unsigned tp_idle_offer(tp_idle *idle, unsigned n);

/* Wakes one that sleeps, unless somebody is awake who will see the work. False: there is none. */
bool tp_idle_pass_on(tp_idle *idle);

/* Watches for an offer for a little while. True when there was one, false also where another thread spins. Releases the lock meanwhile. */
bool tp_idle_spin(tp_idle *idle);

/* Sleeps until there may be work. Releases the lock meanwhile. */
void tp_idle_sleep(tp_idle *idle, const tp_worker *me);

/* A thread of those alive has ended. */
void tp_idle_end(tp_idle *idle);

/* Asks all threads to end once nothing runs, and waits for that until deadline_ns (uv_hrtime; UINT64_MAX: for ever). Gives how many are alive. Releases
 * the lock meanwhile. */
unsigned tp_idle_stop(tp_idle *idle, uint64_t deadline_ns);

#endif
