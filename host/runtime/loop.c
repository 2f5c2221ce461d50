/* loop.c: the host's event loop: how its owner waits, and how others wake it.
 *
 * The loop is shared with what users put on it (luv). The host's own handles keep it alive only
 * while the owner waits. */
#include "runtime/runtime.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    /* as long as a small launch on a device takes, or waking a sleeping thread */
    SPIN_NS = 60 * 1000,
    LOOP_DESCRIPTORS = 8 /* libuv 1.44 needs six */
};

static void wake_loop(tp_waiter *w)
{
    tp_host *host = ((tp_listener *)((char *)w - offsetof(tp_listener, waiter)))->host;
    atomic_fetch_add_explicit(&host->wakes, 1, memory_order_release);
    uv_async_send(&host->wake_up);
}

static void on_bell(uv_async_t *handle)
{
    (void)handle; /* its only purpose is to make uv_run return */
}

/* A timer that is already due when uv_run begins does not keep UV_RUN_ONCE from waiting for
 * something else; uv_stop does. */
static void on_timer(uv_timer_t *handle)
{
    uv_stop(handle->loop);
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

/* libuv aborts the process when it gets only some of the descriptors that a loop needs: this checks
 * that there are enough. */
static int check_descriptors(tp_error *err)
{
    int fds[LOOP_DESCRIPTORS], n = 0, status = 0;
    while (n < LOOP_DESCRIPTORS && status == 0) {
        fds[n] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fds[n] < 0)
            status = errno;
        else
            n++;
    }
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return status ? tp_error_set(err, TP_ESYS, "cannot create an event loop: %s", strerror(status))
                  : 0;
}

int tp_loop_init(uv_loop_t *loop, uv_async_t *bell, uv_timer_t *timer, tp_error *err)
{
    if (check_descriptors(err))
        return -1;
    int status = uv_loop_init(loop);
    if (status)
        return tp_error_set(err, TP_ESYS, "cannot create an event loop: %s", uv_strerror(status));
    status = uv_async_init(loop, bell, on_bell);
    if (status) {
        uv_loop_close(loop);
        return tp_error_set(err, TP_ESYS, "cannot create a wake-up: %s", uv_strerror(status));
    }
    uv_timer_init(loop, timer);
    uv_unref((uv_handle_t *)bell);
    uv_unref((uv_handle_t *)timer);
    return 0;
}

void tp_loop_end(uv_loop_t *loop)
{
    uv_walk(loop, close_handle, NULL);
    uv_run(loop, UV_RUN_DEFAULT);
    uv_loop_close(loop);
}

void tp_loop_run(uv_loop_t *loop, uv_async_t *bell, uv_timer_t *timer, uv_run_mode mode,
                 uint64_t wait_ns)
{
    if (mode == UV_RUN_ONCE && wait_ns != UINT64_MAX) {
        uv_update_time(loop);
        uv_timer_start(timer, on_timer, (wait_ns + 999999) / 1000000, 0);
    }
    uv_ref((uv_handle_t *)bell); /* a loop that nothing keeps alive would not wait */
    uv_run(loop, mode);
    uv_unref((uv_handle_t *)bell);
    uv_timer_stop(timer);
}

int tp_loop_open(tp_host *host, tp_error *err)
{
    return tp_loop_init(&host->loop, &host->wake_up, &host->timer, err);
}

void tp_loop_close(tp_host *host)
{
    tp_loop_end(&host->loop);
    while (host->listeners) {
        tp_listener *l = host->listeners;
        host->listeners = l->next;
        free(l);
    }
}

tp_listener *tp_host_listen(tp_host *host, struct lua_State *L)
{
    tp_listener *l = host->listeners;
    while (l && l->L)
        l = l->next;
    if (!l) {
        l = calloc(1, sizeof *l);
        if (!l)
            return NULL;
        l->waiter.wake = wake_loop;
        l->host = host;
        l->next = host->listeners;
        host->listeners = l;
    }
    l->L = L;
    return l;
}

void tp_host_unlisten(tp_listener *l)
{
    if (!l)
        return;
    l->L = NULL;
    l->luv = NULL;
    l->is_driven = false;
    l->step = l->due = 0;
}

/* The owner has nothing to do until that time: it sees to slices that keep something back, and may
 * have to do so again earlier than that. */
static uint64_t share(tp_host *host, uint64_t deadline_ns)
{
    uint64_t due = tp_engine_share(host->engine);
    return due && due < deadline_ns ? due : deadline_ns;
}

/* Runs the loop until something happens, but not beyond deadline_ns. */
static void run_once(tp_host *host, uint64_t now, uint64_t deadline_ns)
{
    uv_run_mode mode = deadline_ns > now ? UV_RUN_ONCE : UV_RUN_NOWAIT;
    host->is_running = true;
    tp_trace *trace = tp_engine_trace(host->engine);
    if (mode == UV_RUN_ONCE)
        tp_trace_note(trace, TP_EVENT_WAIT, 0, 0, 0, 0);
    tp_loop_run(&host->loop, &host->wake_up, &host->timer, mode,
                deadline_ns == UINT64_MAX ? UINT64_MAX : deadline_ns - now);
    if (mode == UV_RUN_ONCE)
        tp_trace_note(trace, TP_EVENT_WAKE, 0, 0, 0, 0);
    host->is_running = false;
}

void tp_host_hold_loop(tp_host *host, bool is_held)
{
    if (host->attached && is_held)
        uv_ref(host->attached);
    else if (host->attached)
        uv_unref(host->attached);
}

bool tp_host_is_alive(const tp_host *host)
{
    return uv_loop_alive(&host->loop) != 0;
}

/* The owner acts for the executor's workers: see tp_executor_type. */
static void begin_assist(tp_executor *ex, bool waits)
{
    if (ex && ex->type->begin_assist)
        ex->type->begin_assist(ex, waits);
}

static void assist(tp_executor *ex)
{
    if (ex && ex->type->assist)
        ex->type->assist(ex);
}

static void end_assist(tp_executor *ex, bool comes_back)
{
    if (ex && ex->type->end_assist)
        ex->type->end_assist(ex, comes_back);
}

/* The executor for whose workers the owner can act; NULL: there is none. */
static tp_executor *assisted(const tp_host *host)
{
    tp_executor *const *ex = host->executors;
    while (*ex && !(*ex)->type->assist)
        ex++;
    return *ex;
}

void tp_host_assist(tp_job *job)
{
    tp_executor *ex = tp_job_executor(job);
    begin_assist(ex, false);
    assist(ex);
    end_assist(ex, true);
}

void tp_host_turn(tp_host *host, uint64_t deadline_ns, bool spins)
{
    tp_executor *ex = spins ? assisted(host) : NULL;
    uint64_t now = uv_hrtime(), until = now + SPIN_NS;
    if (!spins || deadline_ns <= now)
        until = now;
    else if (deadline_ns < until)
        until = deadline_ns;
    begin_assist(ex, true);
    while (now < until &&
           atomic_load_explicit(&host->wakes, memory_order_acquire) == host->wakes_seen) {
        for (int i = 0; i < 8; i++)
            tp_relax();
        assist(ex);
        sched_yield();
        now = uv_hrtime();
    }
    bool is_news = atomic_load_explicit(&host->wakes, memory_order_acquire) != host->wakes_seen ||
                   atomic_load_explicit(&host->is_interrupted, memory_order_relaxed);
    end_assist(ex, is_news);
    if (!is_news)
        deadline_ns = share(host, deadline_ns);
    run_once(host, now, is_news ? 0 : deadline_ns);
    host->wakes_seen = atomic_load_explicit(&host->wakes, memory_order_acquire);
}

void tp_host_wait(tp_host *host, tp_job *job, uint32_t seen, uint64_t deadline_ns)
{
    /* A short call's result comes within microseconds, that of a small launch on a device within
     * fifty. So this spins before it sleeps, and yields the processor meanwhile, in case the worker
     * needs it. */
    tp_executor *ex = tp_job_executor(job);
    uint64_t until = uv_hrtime() + SPIN_NS;
    begin_assist(ex, true);
    do {
        for (int i = 0; i < 8; i++) {
            if (tp_job_eventcount(job) != seen) {
                end_assist(ex, true);
                return;
            }
            tp_relax();
            assist(ex);
        }
        sched_yield();
    } while (uv_hrtime() < until);
    end_assist(ex, false);
    for (;;) {
        uint64_t now = uv_hrtime();
        if (now >= deadline_ns || atomic_load_explicit(&host->is_interrupted, memory_order_relaxed))
            break;
        uint64_t until_ns = share(host, deadline_ns);
        if (!tp_job_await(job, seen))
            break;
        run_once(host, now, until_ns);
        tp_job_unawait(job);
    }
}

int tp_host_fd(tp_host *host)
{
    if (!host || tp_host_check_owner(host, NULL))
        return -1;
    if (!host->is_driven) {
        host->is_driven = true;
        /* before its first turn the backend does not watch the wake-up */
        tp_host_turn(host, 0, false);
        uv_async_send(&host->wake_up);
    }
    return uv_backend_fd(&host->loop);
}
