/* host.h: what a tp_host is made of, for the files of the library. */
#ifndef TP_HOST_H
#define TP_HOST_H

#include "exec.h"
#include "cl.h"
#include "tidepool.h"

struct lua_State;

enum { TP_EXECUTORS_MAX = 8, TP_WORKERS_MAX = 1024 };

/* Made by tp_host_open, freed by tp_host_close; belongs to the thread that opened it but for what is said below. */
struct tp_host {
    /* Set by tp_host_open, read-only afterwards. */
    tp_config config;
    tp_engine *engine;
    tp_executor *executors[TP_EXECUTORS_MAX + 1]; /* in the order of tp_executor_types; NULL-terminated */
    tp_array_pool *arrays;
    char *opencl, *cache_dir;                     /* copies of config's, or NULL */
    /* The binary's, or NULL: called around the opening of OpenCL, on the thread that needs it. */
    void (*before_opencl)(void);
    void (*after_opencl)(const tp_cl *cl);
    uv_mutex_t print_lock;                        /* held around config.write */
    /* Opens the Lua side in a worker's state (lua_core.c); raises. Called by vm.c, which must not know lua_core.c. */
    void (*open_state)(struct lua_State *L, struct tp_host *host, tp_agent *agent);

    uv_thread_t owner;
    /* ---- guarded by cl_lock, which is held around no other ---- */
    uv_mutex_t cl_lock;
    tp_cl *cl;         /* NULL until it has been asked for, and when there is none */
    tp_error cl_error; /* why there is none */

    /* ---- the owner's ---- */
    struct tp_api *api;               /* what the C API has opened, NULL until it is used */
    struct tp_attachment *attachment; /* to config.loop */
    bool is_driven;                   /* by a loop of the embedder's: it is to be told of what is new */
    bool is_stepping;                 /* inside tp_host_step */
    uv_loop_t loop;
    tp_waiter waiter;       /* wakes the loop; any thread may call it */
    uv_async_t wake_up;     /* these two keep the loop alive only while the owner waits: others share it (luv) */
    uv_timer_t timer;       /* ends a wait that has a deadline */
    uint32_t wakes_seen;    /* what `wakes` was at the last turn */
    bool is_running;        /* uv_run is below us on the stack: it may not be called again */
    volatile char *fork_mark; /* a page that the kernel empties in a forked child; 1 here */
    bool has_agent;
    tp_agent agent;         /* runs inline jobs on the owner's thread; opened at the first one */

    /* Counts what `waiter` was woken for (release; the owner's acquire sees the job's news). */
    _Atomic uint32_t wakes;

    /* Set by any thread or signal handler, taken by the owner (relaxed: a flag without data). */
    _Atomic bool is_interrupted;
};

/* tp_host_close on whatever thread: nobody uses the host any more. In a forked child, whose threads are missing, it does nothing. */
void tp_host_free(tp_host *host);

/* The same if all workers come to rest within that time. False: some run, so that the host, and our code, have to stay where they are. */
bool tp_host_free_within(tp_host *host, unsigned timeout_ms);

/* 0 on the owner's thread; else -1 with TP_ETHREAD, or TP_EUSAGE in a forked child. Any thread. */
int tp_host_check_owner(const tp_host *host, tp_error *err);

/* The executor of that name, or NULL. Any thread. */
tp_executor *tp_host_executor(tp_host *host, const char *name);

/* OpenCL and its devices, opened at the first call (which takes some 20 ms); NULL with err set when there is none. Any thread. */
const tp_cl *tp_host_opencl(tp_host *host, tp_error *err);

/* The agent that runs items on the owner's thread; opened at its first use. NULL with err set. Owner. */
tp_agent *tp_host_agent(tp_host *host, tp_error *err);

/* Waits until job has news after `seen`, or the host is interrupted, or it is deadline_ns (uv_hrtime; UINT64_MAX: for ever), running the loop
 * meanwhile. Owner. */
void tp_host_wait(tp_host *host, tp_job *job, uint32_t seen, uint64_t deadline_ns);

/* One turn of the loop: waits until the waiter was woken since the last turn, or something else happened on the loop, or the host is
 * interrupted, or it is deadline_ns. `spins` when jobs are awaited, so that news are seen at once. Owner. */
void tp_host_turn(tp_host *host, uint64_t deadline_ns, bool spins);

/* Is there anything on the loop besides what is the host's own? Owner. */
bool tp_host_is_alive(const tp_host *host);

/* False in a child that this process has forked: nothing of the host may be used there. Any thread. */
bool tp_host_is_usable(const tp_host *host);

/* True once after tp_host_interrupt. Owner. */
bool tp_host_take_interrupt(tp_host *host);

/* Writes a line through config.write. Any thread. */
void tp_host_print(tp_host *host, int fd, const char *bytes, size_t len);

#endif
