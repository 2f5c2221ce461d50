/* exec.h: the seam between jobs and those who run them.
 *
 * An executor is a static table of operations and its capabilities, with a struct of its own
 * that begins with tp_executor. What it may do to a job stands in job.h under "the executors'
 * side". Workers pull slices, so that back-pressure, slicing and balance are the same for all
 * executors. */
#ifndef TP_EXEC_H
#define TP_EXEC_H

#include "engine/job.h"

/* What an executor can do: a flag, and its name in Lua (core.executors; `needs` of an option). Code
 * asks for a capability, never for an executor by its name. */
#define TP_CAPABILITIES(X)                                                                 \
    X(TP_CAN_KILL, 1, "kill")     /* can stop any running item by force: timeouts */       \
    X(TP_ISOLATED, 2, "isolated") /* survives a crash of an item */                        \
    X(TP_SHARES_MEMORY, 4,                                                                 \
      "shares_memory") /* items run in this process, and see its memory */ \
    X(TP_RUNS_LUA, 8, "runs_lua")                                                          \
    X(TP_RUNS_KERNELS, 16, "runs_kernels")                                                 \
    X(TP_BY_OWNER, 32,                                                                     \
      "by_owner") /* has no workers: the owner of a job runs its items while it waits */   \
    X(TP_BOUNDS_MEMORY, 64, "bounds_memory") /* can bound the memory of an item */         \
    X(TP_INTERLEAVES, 128,                                                                 \
      "interleaves") /* a worker can run several items at once, which wait as coroutines */\
    X(TP_STREAMS, 256, "streams") /* takes values that an item gives while it runs */      \
    X(TP_FAR, 512, "far") /* items run on other machines, which share nothing with us */

enum tp_capability {
#define TP_CAPABILITY(flag, bit, name) flag = bit,
    TP_CAPABILITIES(TP_CAPABILITY)
#undef TP_CAPABILITY
};

struct tp_host;

typedef struct tp_executor_type {
    const char *name; /* as users write it */
    const char *summary; /* who runs the functions, for help texts: "worker threads" */
    unsigned capabilities;
    uint64_t slice_ns;  /* how long a slice should run; 0: TP_SLICE_NS */
    uint32_t slice_min; /* items below which a slice is not worth its costs; 0: one */
    uint32_t site_min;  /* the same for agents at a site; 0: it is slice_min */
    uint32_t slice_grain; /* a slice ends at a multiple of this, where possible; 0: anywhere */

    /* Creates it; starts no threads yet. The executor is the host's. */
    int (*open)(tp_executor **out, struct tp_host *host, tp_error *err);

    /* There is work for up to n more agents: wakes or starts them. Called without the lock, any
     * thread; never blocks. */
    void (*start)(tp_executor *ex, unsigned n);

    /* For executors whose threads only supervise processes: between begin_assist and end_assist the
     * host's owner acts for threads that sleep (workers/pool.c). begin_assist starts what is
     * queued; each `assist` looks whether that is over. `waits`: the owner waits for jobs and will
     * call `assist` again and again; else it has only pushed items and calls it once. `comes_back`:
     * it will call begin_assist again soon. They block for as long as a lock does. All three are
     * NULL where workers run the items themselves. */
    void (*begin_assist)(tp_executor *ex, bool waits);
    void (*assist)(tp_executor *ex);
    void (*end_assist)(tp_executor *ex, bool comes_back);

    /* Asks all workers to end once nothing runs, waits for them until the deadline (uv_hrtime;
     * UINT64_MAX: for ever). 0 when all have ended, -1 when some still run; may be called again. */
    int (*stop)(tp_executor *ex, uint64_t deadline_ns);

    /* Frees it; all workers must have ended. */
    void (*close)(tp_executor *ex);
} tp_executor_type;

struct tp_executor {
    const tp_executor_type *type;
    struct tp_host *host;
    /* engine's lock: workers that are awake without work, and so will see new work without being
     * woken */
    int looking;
    /* engine's lock: agents that have items of its */
    unsigned busy;
    /* engine's lock: nobody need be woken for a little work (TP_SMALL_NS), since the host's owner
     * begins it itself (begin_assist) or a worker will look for it soon. Set by the executor */
    bool defers;
    /* engine's lock: sites that have not come back from slices of jobs with workers (late.c) */
    uint64_t lost_sites;
    /* engine's lock: workers whose items wait for something that others do (tp_job_begin_block);
     * other workers may be started in their place */
    unsigned blocked;
};

/* Tells the processor that this thread spins. */
static inline void tp_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
