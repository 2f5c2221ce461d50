/* exec.h: the seam between jobs and those who run them.
 *
 * An executor is a static table of four operations with its capabilities, and a struct of its own that begins with tp_executor. What it may
 * do to a job stands in job.h under "the executors' side". Workers pull slices, so that back-pressure, slicing and balance are the same
 * for all executors. */
#ifndef TP_EXEC_H
#define TP_EXEC_H

#include "job.h"

enum tp_capability {
    TP_CAN_KILL = 1,      /* can stop any running item by force: timeouts */
    TP_ISOLATED = 2,      /* survives a crash of an item; can bound its memory */
    TP_SHARES_MEMORY = 4, /* items run in this process: a waiting agent may run them itself */
    TP_RUNS_LUA = 8,
    TP_RUNS_KERNELS = 16,
    TP_BY_OWNER = 32      /* has no workers: the owner of a job runs its items while it waits */
};

struct tp_host;

typedef struct tp_executor_type {
    const char *name; /* as users write it */
    unsigned capabilities;
    uint64_t slice_ns;  /* what a slice should take; 0: TP_SLICE_NS */
    uint32_t slice_min; /* items below which a slice is not worth its costs; 0: one */
    uint32_t slice_grain; /* a slice ends at a multiple of it, where that is possible; 0: anywhere */

    /* Creates it; starts no threads yet. The executor is the host's. */
    int (*open)(tp_executor **out, struct tp_host *host, tp_error *err);

    /* There is work for up to n more takers. Called without the lock, any thread; never blocks. */
    void (*start)(tp_executor *ex, unsigned n);

    /* Asks all workers to end once nothing runs, waits for them until the deadline (uv_hrtime; UINT64_MAX: for ever). 0 when
     * all have ended, -1 when some still run; may be called again. */
    int (*stop)(tp_executor *ex, uint64_t deadline_ns);

    /* Frees it; all workers must have ended. */
    void (*close)(tp_executor *ex);
} tp_executor_type;

struct tp_executor {
    const tp_executor_type *type;
    struct tp_host *host;
    int looking;     /* engine's lock: workers that are awake and run nothing, so that they will see what comes */
    tp_error broken; /* engine's lock: why it cannot run anything, TP_OK while it can */
};

/* All kinds, the default first; NULL-terminated. */
extern const tp_executor_type *const tp_executor_types[];

extern const tp_executor_type tp_exec_threads;
extern const tp_executor_type tp_exec_inline;
extern const tp_executor_type tp_exec_opencl;

/* Tells the processor that this thread spins. */
static inline void tp_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* exec_inline.c: waits on the agent's own thread until one of n jobs has news after its `seen`, running items of the jobs and of those below
 * them meanwhile; or until deadline_ns (uv_hrtime; UINT64_MAX: for ever), where an item that runs is not interrupted. One slice is run even
 * when that time has passed. Gives whether any was. */
bool tp_exec_wait(tp_agent *agent, tp_job *const *jobs, const uint32_t *seen, unsigned n, uint64_t deadline_ns);

#endif
