/* runtime.h: the fields of a tp_host, for the files of the library. */
#ifndef TP_RUNTIME_H
#define TP_RUNTIME_H

#include "base/bundle.h"
#include "engine/exec.h"
#include "opencl/cl_loading.h"
#include "opencl/program_store.h"
#include "tidepool.h"

#include <signal.h>

struct lua_State;

enum { TP_EXECUTORS_MAX = 8, TP_WORKERS_MAX = 1024 };

/* How the host's loop wakes a Lua state of the owner's thread. It outlives its state and is reused
 * for the next one, since a worker may still be about to wake it; it is freed with the host. All
 * but `waiter` is the owner's. */
typedef struct tp_listener {
    tp_waiter waiter;     /* wakes the loop */
    tp_host *host;
    struct tp_listener *next;
    struct lua_State *L;  /* its main thread; NULL: there is no state */
    /* identifies luv's handles of this state; NULL: luv is not on the host's loop there */
    const void *luv;
    /* tp_host_step drives it, once `step` and `due` are set: references in the state's registry */
    bool is_driven;
    int step, due;
} tp_listener;

/* Callbacks for a sampling profiler of the host's Lua states (program/profile.h). */
typedef struct tp_sampler {
    /* enter: a worker's state was opened. leave: it is about to be closed; not called for a state
     * whose thread C code has ended. Both on the worker's thread. */
    void (*enter)(struct lua_State *L, const tp_worker *worker);
    void (*leave)(struct lua_State *L);
    /* Takes what a worker process has sampled, `len` bytes. Users' code there may have sent them,
     * so they are hostile. Any thread. */
    void (*take)(const char *samples, size_t len);
} tp_sampler;

/* Made by tp_host_open, freed by tp_host_close. Fields belong to the owner's thread unless a group
 * below says otherwise. */
struct tp_host {
    /* Set by tp_host_open, read-only afterwards. */
    tp_config config;
    tp_engine *engine;
    tp_executor
        *executors[TP_EXECUTORS_MAX + 1]; /* in the order of tp_executor_types; NULL-terminated */
    tp_array_pool *arrays;
    const struct tp_store_keeper *stores; /* who keeps Dicts and Queues; NULL: this host does */
    /* who hands out permits of functions that other machines run, too; NULL: only this host does */
    const tp_far_permits *permits;
    /* copies of config's, or NULL */
    char *opencl, *cache_dir, *state_dir, *worker, *trace, *report, *engine_url, *token;
    /* the folder of compiled programs; without a folder none are kept */
    tp_program_store program_store;
    tp_bundle bundle; /* modules of the script's, for workers on other machines */
    /* Set before anything runs. In a cluster's worker: the path of a file with such modules, in
     * which its processes look for modules first, and words for the place where they run ("on
     * worker ..."), for messages; else both are empty. */
    char modules[100], place[100];
    /* random bytes that name this host as a coordinator; nobody can guess them */
    uint8_t session[16];
    /* Hooks of the program, or NULL: called before and after OpenCL is opened, on the thread that
     * opens it. */
    void (*before_opencl)(void);
    void (*after_opencl)(const tp_cl *cl);
    /* Set by a program that does not call exit() while tp_host_is_loading_opencl: OpenCL may be
     * loaded beside what else is done. */
    bool loads_beside;
    /* Called, with `noting`, when users' code has noted an event: on the thread of the worker. */
    void (*noted)(void *noting);
    void *noting;
    /* set by the program before the first worker is opened; NULL: nobody samples */
    const tp_sampler *sampler;
    /* the signal mask of the thread that opened the host: commands that items run get it, since
     * worker threads block more */
    sigset_t sigmask;
    uv_mutex_t print_lock;                        /* held around config.write */
    /* Opens the Lua side in a worker's state (lua/core.c); raises. Called by vm/vm.c, which must
     * not know lua/core.c. */
    void (*open_state)(struct lua_State *L, struct tp_host *host, tp_agent *agent);

    /* written by the thread that becomes the owner, while no other call runs (tp_host_adopt).
     * Relaxed: others only compare it with themselves */
    _Atomic(uv_thread_t) owner;
    /* ---- guarded by cl_lock, which is never held together with another lock ---- */
    uv_mutex_t cl_lock;
    tp_cl *cl; /* NULL until it was asked for and could be opened */
    tp_cl_loading *loading; /* held; NULL: it is not, or was taken over */

    /* ---- the owner's ---- */
    struct tp_tracer *tracer;         /* writes what happens to files; NULL: nobody does */
    struct tp_api *api;               /* the C API's part; NULL until that is used */
    struct tp_attachment *attachment; /* to config.loop */
    /* keeps config.loop alive while it is referenced; NULL without such a loop */
    uv_handle_t *attached;
    /* a loop of the embedder's drives the host, and must be woken when there is something to do */
    bool is_driven;
    bool is_stepping;                 /* inside tp_host_step */
    uv_loop_t loop;
    tp_listener *listeners; /* one for each Lua state that there is, or was */
    tp_listener *turned;    /* the one that took the last turn of the loop */
    unsigned n_luv;         /* states with luv on the loop */
    /* these two keep the loop alive only while the owner waits, since luv shares the loop */
    uv_async_t wake_up;
    uv_timer_t timer;       /* ends a wait that has a deadline */
    uint32_t wakes_seen;    /* what `wakes` was at the last turn */
    bool is_running;        /* uv_run is below us on the stack, and may not be called again */
    /* this is the host of a worker process: the worker itself runs what its items map */
    bool is_child;
    /* in a worker process: RLIMIT_DATA without a function's limit, for processes that it starts */
    uint64_t data_limit;
    volatile char *fork_mark; /* a page that the kernel empties in a forked child; 1 here */
    bool has_agent;
    tp_agent agent;         /* runs inline jobs on the owner's thread; opened at the first one */

    /* Counts what listeners were woken for (release; the owner's acquire sees the job's news). */
    _Atomic uint32_t wakes;

    _Atomic uint64_t numbers; /* how many numbers core.unique has used (relaxed: only a count) */

    /* How many workers are doing what must be done before their states are closed. Relaxed: a hint
     * for those who wait for them. */
    _Atomic int leaving;
    /* Were users told that worker processes do not answer? Any thread; relaxed. */
    _Atomic bool has_told_waiting;

    /* Set by any thread or signal handler, taken by the owner (relaxed: a flag without data). */
    _Atomic bool is_interrupted;
};

/* runtime.c: opened first, in a zeroed tp_host, and closed last. `config` is checked and copied.
 * Leaves nothing open when it fails. */
int tp_runtime_open(tp_host *host, const tp_config *config, tp_error *err);
void tp_runtime_close(tp_host *host);

/* loop.c: the loop with the host's own handles. Closing it closes all other handles on it.
 * Owner. */
int tp_loop_open(tp_host *host, tp_error *err);
void tp_loop_close(tp_host *host);

/* For a host's loop and an agent's own (own_loop.h): opens a loop, with an async handle (the bell)
 * that makes uv_run return, and a timer; neither keeps it alive. -1 with TP_ESYS when that
 * fails. */
int tp_loop_init(uv_loop_t *loop, uv_async_t *bell, uv_timer_t *timer, tp_error *err);

/* Closes all handles that are on the loop, and the loop. */
void tp_loop_end(uv_loop_t *loop);

/* Runs the loop until something happens, in the mode UV_RUN_ONCE for wait_ns at most (UINT64_MAX:
 * for ever). */
void tp_loop_run(uv_loop_t *loop, uv_async_t *bell, uv_timer_t *timer, uv_run_mode mode,
                 uint64_t wait_ns);

/* A listener for the state L; NULL out of memory. Owner. */
tp_listener *tp_host_listen(tp_host *host, struct lua_State *L);

/* The listener's state is closed. Accepts NULL. Owner. */
void tp_host_unlisten(tp_listener *l);

/* The calling thread is the owner from now on. */
void tp_host_set_owner(tp_host *host);

/* 0 on the owner's thread; else -1 with TP_ETHREAD, or TP_EUSAGE in a forked child. Any thread. */
int tp_host_check_owner(const tp_host *host, tp_error *err);

/* The executor of that name, or NULL. In a worker process it is the worker's own for all that run
 * Lua. Any thread. */
tp_executor *tp_host_executor(tp_host *host, const char *name);

/* The capabilities of an executor in this process. A worker process runs what its items map itself,
 * so there they all share memory. Any thread. */
unsigned tp_host_capabilities(const tp_host *host, const tp_executor_type *type);

/* The first executor with these capabilities, or NULL. Any thread. */
tp_executor *tp_host_executor_that(tp_host *host, unsigned capabilities);

/* OpenCL and its devices, opened at the first call (which takes some 20 ms); NULL with err set when
 * there is none, and tried again at the next call. Any thread. */
const tp_cl *tp_host_opencl(tp_host *host, tp_error *err);

/* Begins to load OpenCL on a thread of its own, where the program allows that (loads_beside). True:
 * tp_host_opencl would not wait for that now; or nothing can be begun, and it loads. Any thread. */
bool tp_host_begin_opencl(tp_host *host);

/* May OpenCL be loaded now, on a thread of its own or another one? Does not wait. Any thread. */
bool tp_host_is_loading_opencl(tp_host *host);

/* Waits until the job has news after `seen`, or the host is interrupted, or until deadline_ns
 * (uv_hrtime; UINT64_MAX: for ever). Runs the loop meanwhile. Owner. */
void tp_host_wait(tp_host *host, tp_job *job, uint32_t seen, uint64_t deadline_ns);

/* Called when the owner has pushed inputs of the job and does not wait for it yet: begins those for
 * which no worker was woken (tp_executor.defers). Owner. */
void tp_host_assist(tp_job *job);

/* One turn of the loop: waits until a waiter was woken since the last turn, or something else
 * happened on the loop, or the host is interrupted, or until deadline_ns. `spins`: jobs are
 * awaited, so their news should be noticed at once. Owner. */
void tp_host_turn(tp_host *host, uint64_t deadline_ns, bool spins);

/* Should config.loop, if there is one, be kept alive? Owner. */
void tp_host_hold_loop(tp_host *host, bool is_held);

/* Does the loop have any active handle besides the host's own? Owner. */
bool tp_host_is_alive(const tp_host *host);

/* False in a child that this process has forked: nothing of the host may be used there. Any
 * thread. */
bool tp_host_is_usable(const tp_host *host);

/* True once after each tp_host_interrupt. Owner. */
bool tp_host_take_interrupt(tp_host *host);

/* Writes a line through config.write. Any thread. */
void tp_host_print(tp_host *host, int fd, const char *bytes, size_t len);

#endif
