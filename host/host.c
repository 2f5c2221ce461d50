/* host.c: one tp_host: opens and closes everything, owns the loop. */
#include "host.h"

#include "api.h"
#include "lua_core.h"
#include "vm.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SPIN_NS = 60 * 1000, /* what a small launch on a device takes, and waking a thread from sleep */
    LOOP_DESCRIPTORS = 8 /* libuv 1.44: six */
};

static void wake_loop(tp_waiter *w)
{
    tp_host *host = (tp_host *)((char *)w - offsetof(tp_host, waiter));
    atomic_fetch_add_explicit(&host->wakes, 1, memory_order_release);
    uv_async_send(&host->wake_up);
}

static void on_wake_up(uv_async_t *handle)
{
    (void)handle; /* that uv_run returns is all that is wanted */
}

/* A timer that is due when uv_run begins does not keep UV_RUN_ONCE from waiting for something else; uv_stop does. */
static void on_timer(uv_timer_t *handle)
{
    uv_stop(handle->loop);
}

/* pthread_atfork and getpid would need a static, or cost a system call per map. */
static volatile char *new_fork_mark(void)
{
    void *page = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return NULL;
    madvise(page, 1, MADV_WIPEONFORK); /* Linux 4.14; before, a child is not noticed */
    *(volatile char *)page = 1;
    return page;
}

bool tp_host_is_usable(const tp_host *host)
{
    return *host->fork_mark == 1;
}

static int copy_text(char **to, const char *from, tp_error *err)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? tp_error_oom(err, "host") : 0;
}

static int copy_config(tp_config *to, const tp_config *from, tp_error *err)
{
    *to = (tp_config){ 0 };
    if (from) {
        if (from->size == 0 || from->size > sizeof *to)
            return tp_error_set(err, TP_EUSAGE, "tp_config.size is %zu, which this version does not know", from->size);
        memcpy(to, from, from->size);
    }
    if (to->workers < 0 || to->workers > TP_WORKERS_MAX)
        return tp_error_set(err, TP_EUSAGE, "tp_config.workers is %d: it must be 1 to %d, or 0 for the default",
                            to->workers, TP_WORKERS_MAX);
    if (to->workers == 0) {
        unsigned n = uv_available_parallelism();
        to->workers = n > TP_WORKERS_MAX ? TP_WORKERS_MAX : (int)n;
    }
    return 0;
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

static void close_loop(tp_host *host)
{
    uv_walk(&host->loop, close_handle, NULL);
    uv_run(&host->loop, UV_RUN_DEFAULT);
    uv_loop_close(&host->loop);
}

/* libuv aborts the process when a loop gets some of its descriptors and then no more: looks whether there are enough. */
static int check_descriptors(tp_error *err)
{
    int fds[LOOP_DESCRIPTORS], n = 0, status = 0;
    while (n < LOOP_DESCRIPTORS && status == 0) {
        fds[n] = eventfd(0, EFD_CLOEXEC);
        if (fds[n] < 0)
            status = errno;
        else
            n++;
    }
    for (int i = 0; i < n; i++)
        close(fds[i]);
    return status ? tp_error_set(err, TP_ESYS, "cannot create an event loop: %s", strerror(status)) : 0;
}

static void free_memory(tp_host *host)
{
    free(host->opencl);
    free(host->cache_dir);
    free(host);
}

int tp_host_open(tp_host **out, const tp_config *config, tp_error *err)
{
    int rc = -1;
    *out = NULL;
    tp_host *host = calloc(1, sizeof *host);
    if (!host)
        return tp_error_oom(err, "host");
    bool has_loop = false, has_lock = false, has_cl_lock = false;
    if (copy_config(&host->config, config, err) || copy_text(&host->opencl, host->config.opencl, err) ||
        copy_text(&host->cache_dir, host->config.cache_dir, err))
        goto out;
    host->config.opencl = host->opencl;
    host->config.cache_dir = host->cache_dir;
    host->open_state = tp_lua_core_open;
    host->waiter.wake = wake_loop;
    host->owner = uv_thread_self();
    if (uv_mutex_init(&host->print_lock)) {
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        goto out;
    }
    has_lock = true;
    if (uv_mutex_init(&host->cl_lock)) {
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        goto out;
    }
    has_cl_lock = true;
    if (check_descriptors(err))
        goto out;
    int status = uv_loop_init(&host->loop);
    if (status) {
        tp_error_set(err, TP_ESYS, "cannot create an event loop: %s", uv_strerror(status));
        goto out;
    }
    has_loop = true;
    status = uv_async_init(&host->loop, &host->wake_up, on_wake_up);
    if (status) {
        tp_error_set(err, TP_ESYS, "cannot create a wake-up: %s", uv_strerror(status));
        goto out;
    }
    uv_timer_init(&host->loop, &host->timer);
    uv_unref((uv_handle_t *)&host->wake_up);
    uv_unref((uv_handle_t *)&host->timer);
    host->fork_mark = new_fork_mark();
    if (!host->fork_mark) {
        tp_error_oom(err, "host");
        goto out;
    }
    if (tp_array_pool_open(&host->arrays, err) || tp_engine_open(&host->engine, err))
        goto out;
    for (int i = 0; tp_executor_types[i]; i++)
        if (tp_executor_types[i]->open(&host->executors[i], host, err))
            goto out;
    const char *executor = host->config.executor ? host->config.executor : tp_executor_types[0]->name;
    if (!tp_host_executor(host, executor)) {
        tp_error_set(err, TP_EUSAGE, "tp_config.executor is \"%s\", which is none", executor);
        goto out;
    }
    host->config.executor = tp_host_executor(host, executor)->type->name;
    if (host->config.loop && tp_attach(&host->attachment, host, host->config.loop, err))
        goto out;
    *out = host;
    host = NULL;
    rc = 0;
out:
    if (host && has_loop && host->engine) {
        tp_host_free(host);
    } else if (host) {
        if (has_loop)
            close_loop(host);
        tp_array_pool_close(host->arrays);
        if (host->fork_mark)
            munmap((void *)host->fork_mark, 1);
        if (has_lock)
            uv_mutex_destroy(&host->print_lock);
        if (has_cl_lock)
            uv_mutex_destroy(&host->cl_lock);
        free_memory(host);
    }
    return rc;
}

static int stop_executors(tp_host *host, uint64_t deadline_ns)
{
    int rc = 0;
    tp_engine_stop(host->engine);
    for (int i = 0; host->executors[i]; i++)
        if (host->executors[i]->type->stop(host->executors[i], deadline_ns))
            rc = -1;
    return rc;
}

int tp_host_stop(tp_host *host, unsigned timeout_ms)
{
    if (!host || tp_host_check_owner(host, NULL))
        return -1;
    return stop_executors(host, uv_hrtime() + (uint64_t)timeout_ms * 1000000);
}

void tp_host_close(tp_host *host)
{
    if (host && tp_host_check_owner(host, NULL) == 0 && !host->is_stepping && !host->is_running && !tp_api_is_inside(host->api))
        tp_host_free(host);
}

bool tp_host_free_within(tp_host *host, unsigned timeout_ms)
{
    if (host && tp_host_is_usable(host) && stop_executors(host, uv_hrtime() + (uint64_t)timeout_ms * 1000000))
        return false;
    tp_host_free(host);
    return true;
}

void tp_host_free(tp_host *host)
{
    if (!host || !tp_host_is_usable(host))
        return;
    tp_detach(host->attachment);
    host->attachment = NULL;
    stop_executors(host, UINT64_MAX); /* first: workers read strings of the state that closes here (TP_SCALAR_LENT) */
    tp_api_close(host->api);
    for (int i = 0; host->executors[i]; i++)
        host->executors[i]->type->close(host->executors[i]);
    if (host->has_agent) {
        tp_vm_close(host->agent.vm);
        tp_agent_close(&host->agent);
    }
    tp_engine_close(host->engine);
    tp_array_pool_close(host->arrays);
    close_loop(host);
    munmap((void *)host->fork_mark, 1);
    uv_mutex_destroy(&host->print_lock);
    uv_mutex_destroy(&host->cl_lock);
    tp_cl_close(host->cl);
    free_memory(host);
}

const tp_cl *tp_host_opencl(tp_host *host, tp_error *err)
{
    uv_mutex_lock(&host->cl_lock);
    if (!host->cl && host->cl_error.code == TP_OK) {
        if (host->before_opencl)
            host->before_opencl();
        if (tp_cl_open(&host->cl, host->opencl, &host->cl_error) == 0 && host->after_opencl)
            host->after_opencl(host->cl);
    }
    const tp_cl *cl = host->cl;
    if (!cl)
        *err = host->cl_error;
    uv_mutex_unlock(&host->cl_lock);
    return cl;
}

tp_executor *tp_host_executor(tp_host *host, const char *name)
{
    for (int i = 0; host->executors[i]; i++)
        if (strcmp(host->executors[i]->type->name, name) == 0)
            return host->executors[i];
    return NULL;
}

tp_agent *tp_host_agent(tp_host *host, tp_error *err)
{
    if (!host->has_agent) {
        tp_vm *vm = NULL;
        if (tp_agent_open(&host->agent, host->engine, 0, tp_host_executor(host, tp_exec_inline.name), err))
            return NULL;
        if (tp_vm_open(&vm, host, &host->agent, err)) {
            tp_agent_close(&host->agent);
            return NULL;
        }
        host->has_agent = true;
    }
    return &host->agent;
}

/* Runs the loop until something happens, at the latest at deadline_ns. */
static void run_once(tp_host *host, uint64_t now, uint64_t deadline_ns)
{
    uv_run_mode mode = deadline_ns > now ? UV_RUN_ONCE : UV_RUN_NOWAIT;
    if (mode == UV_RUN_ONCE && deadline_ns != UINT64_MAX) {
        uv_update_time(&host->loop);
        uv_timer_start(&host->timer, on_timer, (deadline_ns - now + 999999) / 1000000, 0);
    }
    uv_ref((uv_handle_t *)&host->wake_up); /* a loop that nothing keeps alive does not wait */
    host->is_running = true;
    uv_run(&host->loop, mode);
    host->is_running = false;
    uv_unref((uv_handle_t *)&host->wake_up);
    uv_timer_stop(&host->timer);
}

bool tp_host_is_alive(const tp_host *host)
{
    return uv_loop_alive(&host->loop) != 0;
}

void tp_host_turn(tp_host *host, uint64_t deadline_ns, bool spins)
{
    uint64_t now = uv_hrtime(), until = now + SPIN_NS;
    if (!spins || deadline_ns <= now)
        until = now;
    else if (deadline_ns < until)
        until = deadline_ns;
    while (now < until && atomic_load_explicit(&host->wakes, memory_order_acquire) == host->wakes_seen) {
        for (int i = 0; i < 8; i++)
            tp_relax();
        sched_yield();
        now = uv_hrtime();
    }
    bool is_news = atomic_load_explicit(&host->wakes, memory_order_acquire) != host->wakes_seen ||
                   atomic_load_explicit(&host->is_interrupted, memory_order_relaxed);
    run_once(host, now, is_news ? 0 : deadline_ns);
    host->wakes_seen = atomic_load_explicit(&host->wakes, memory_order_acquire);
}

void tp_host_wait(tp_host *host, tp_job *job, uint32_t seen, uint64_t deadline_ns)
{
    /* The answer of a short call comes within microseconds, that of a small launch on a device within fifty. Yielding lets the worker have this processor if it needs it. */
    uint64_t until = uv_hrtime() + SPIN_NS;
    do {
        for (int i = 0; i < 8; i++) {
            if (tp_job_news(job) != seen)
                return;
            tp_relax();
        }
        sched_yield();
    } while (uv_hrtime() < until);
    for (;;) {
        uint64_t now = uv_hrtime();
        if (now >= deadline_ns || atomic_load_explicit(&host->is_interrupted, memory_order_relaxed))
            break;
        if (!tp_job_await(job, seen))
            break;
        run_once(host, now, deadline_ns);
        tp_job_unawait(job);
    }
}

void tp_host_interrupt(tp_host *host)
{
    if (!host)
        return;
    atomic_store_explicit(&host->is_interrupted, true, memory_order_relaxed);
    uv_async_send(&host->wake_up);
}

bool tp_host_take_interrupt(tp_host *host)
{
    return atomic_load_explicit(&host->is_interrupted, memory_order_relaxed) &&
           atomic_exchange_explicit(&host->is_interrupted, false, memory_order_relaxed);
}

void tp_host_resume(tp_host *host)
{
    if (host)
        tp_host_take_interrupt(host);
}

void tp_host_counts(const tp_host *host, uint64_t *delivered, uint64_t *total)
{
    *delivered = *total = 0;
    if (host)
        tp_engine_counts(host->engine, delivered, total);
}

void tp_host_print(tp_host *host, int fd, const char *bytes, size_t len)
{
    if (!host->config.write)
        return;
    uv_mutex_lock(&host->print_lock);
    host->config.write(host->config.user, fd, bytes, len);
    uv_mutex_unlock(&host->print_lock);
}

int tp_host_check_owner(const tp_host *host, tp_error *err)
{
    uv_thread_t self = uv_thread_self();
    if (!uv_thread_equal(&self, &host->owner))
        return tp_error_set(err, TP_ETHREAD, "called on a thread that is not the host's owner (the one that opened it)");
    if (!tp_host_is_usable(host))
        return tp_error_set(err, TP_EUSAGE, "a host does not work in a forked child: open one there");
    return 0;
}

int tp_host_openlibs(tp_host *host, struct lua_State *L, tp_error *err)
{
    if (tp_error_check_given(host, __func__, "host", err) || tp_error_check_given(L, __func__, "L", err) || tp_host_check_owner(host, err))
        return -1;
    return tp_lua_core_open_protected(L, host, err);
}
