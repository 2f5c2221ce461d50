/* cluster_devices.c: see cluster_devices.h. */
#include "program/cluster_devices.h"

#include "base/system.h"
#include "base/thread.h"
#include "opencl/exec_opencl.h"
#include "opencl/plan.h"
#include "opencl/slices.h"
#include "wire/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { STEP_MS = 20, WORDS_MAX = 12, COMPILE_STACK = 8 << 20 };

/* ---- devices ---- */

static int compare(const void *a, const void *b)
{
    return tp_device_is_before(a, b) ? -1 : 1;
}

int tp_own_devices_open(tp_own_devices *d, tp_error *err)
{
    if (tp_cl_open(&d->cl, getenv("TIDEPOOL_OPENCL"), err))
        return -1;
    d->n = d->cl->n;
    for (unsigned i = 0; i < d->n; i++) {
        const tp_cl_device *of = &d->cl->devices[i];
        d->seen[i] = (tp_seen_device){ .name = of->name,
                                       .platform = of->platform,
                                       .vendor = of->vendor,
                                       .type = tp_cl_type_name(of),
                                       .units = of->units,
                                       .is_unified = of->is_unified,
                                       .number = i };
    }
    qsort(d->seen, d->n, sizeof *d->seen, compare);
    return 0;
}

int tp_own_devices_tell(const tp_own_devices *d, tp_buf *out)
{
    for (unsigned i = 0; i < d->n; i++) {
        const tp_seen_device *one = &d->seen[i];
        char line[3 * TP_DEVICE_TEXT_MAX + 80];
        int len = snprintf(line, sizeof line, "\n%s\t%d\t%u\t%llu\t%s\t%s\t%s", one->type,
                           one->is_unified, one->units,
                           (unsigned long long)d->cl->devices[one->number].memory, one->name,
                           one->platform, one->vendor);
        if (tp_buf_add(out, line, (size_t)len))
            return -1;
    }
    return 0;
}

/* The devices that the plan is meant for: bits, by their numbers. */
static uint64_t choose(const tp_own_devices *d, const char *words)
{
    for (const char *at = words; *at;) {
        const unsigned len = (unsigned)strcspn(at, "\n");
        const tp_device_word word = tp_device_word_read(at, len);
        unsigned found[TP_DEVICES_MAX];
        bool is_whole = tp_device_word_is_whole(&word, d->seen, d->n);
        unsigned n = tp_device_match(&word, is_whole, d->seen, d->n, found);
        uint64_t bits = 0;
        for (unsigned i = 0; i < n; i++)
            bits |= (uint64_t)1 << d->seen[found[i]].number;
        if (n == word.wanted)
            return bits;
        at += len + (at[len] == '\n');
    }
    return 0;
}

/* The programs of a plan, which a thread of their own compiles. */
typedef struct compilation {
    /* read-only */
    const tp_plan *plan;
    const tp_own_devices *devices;
    tp_executor *executor;
    uint64_t chosen;
    /* the thread's until is_over (release) */
    tp_error err;
    _Atomic bool is_over;
} compilation;

/* Sets err: whose programs cannot be made, and what the compiler has said (NULL: nothing). */
static void note_log(tp_error *err, const tp_plan *plan, const tp_cl_device *d, const char *log)
{
    tp_error said = *err;
    *err = (tp_error){ 0 };
    if (log)
        tp_error_set(err, TP_EUSAGE, "%.100s: %.100s on %.100s: %.300s", plan->name, said.message,
                     d->name, log);
    else /* it was not asked: the device cannot be opened */
        tp_error_set(err, TP_EUSAGE, "%.100s: %.300s", plan->name, said.message);
}

/* Makes the kernel's programs; a device that cannot be used is left out where there are others. */
static void compile(void *user)
{
    compilation *c = user;
    const tp_plan *plan = c->plan;
    for (unsigned i = 0; i < c->devices->cl->n; i++) {
        const tp_cl_device *d = &c->devices->cl->devices[i];
        char *log = NULL;
        tp_error err = { 0 };
        if (!(c->chosen >> i & 1))
            continue;
        if (plan->needs_double && !d->has_double) {
            tp_error_set(&c->err, TP_EUSAGE,
                         "%.100s: %s has no doubles; with precision = \"single\", and float "
                         "arrays, it can run this function",
                         plan->name, d->name);
            continue;
        }
        tp_program *p = tp_opencl_open_program(c->executor, i, plan->source, plan->options,
                                               plan->entry,
                                               (tp_build_for){ .function = plan->name }, &log,
                                               &err);
        if (p) {
            plan->kernel->programs[i] = p;
            plan->kernel->lanes[i] = 1;
            plan->kernel->devices |= (uint64_t)1 << i;
        } else {
            note_log(&err, plan, d, log);
            c->err = err;
        }
        free(log);
    }
    atomic_store_explicit(&c->is_over, true, memory_order_release);
}

tp_kernel *tp_own_devices_make(const tp_own_devices *d, tp_host *host, const tp_image *image,
                               const tp_between *between, tp_error *err)
{
    tp_plan plan;
    uv_thread_t thread;
    if (tp_plan_get(&plan, host->arrays, image->message.data, image->message.len, err))
        return NULL;
    compilation c = { .plan = &plan,
                      .devices = d,
                      .executor = tp_host_executor_that(host, TP_RUNS_KERNELS),
                      .chosen = choose(d, plan.devices) };
    if (!c.chosen) {
        tp_error_set(err, TP_EUSAGE, "%.100s: no such device", plan.name);
    } else if (tp_thread_create(&thread, COMPILE_STACK, compile, &c)) {
        tp_error_set(err, TP_EMEMORY, "cannot start a thread that compiles");
    } else {
        while (!atomic_load_explicit(&c.is_over, memory_order_acquire)) {
            between->call(between->user);
            uv_sleep(STEP_MS);
        }
        uv_thread_join(&thread);
        if (!plan.kernel->devices)
            *err = c.err;
    }
    if (plan.kernel->devices)
        return plan.kernel;
    tp_ref_drop(plan.kernel);
    return NULL;
}

bool tp_own_devices_are_stuck(const tp_own_devices *d, tp_host *host)
{
    tp_executor *ex = tp_host_executor_that(host, TP_RUNS_KERNELS);
    for (unsigned i = 0; i < d->n; i++)
        if (tp_opencl_is_stuck(ex, i, 0))
            return true;
    return false;
}

/* ---- processes ---- */

bool tp_device_process_is_orphan(long parent)
{
    tp_system_end_with_parent(SIGKILL);
    return getppid() != (pid_t)parent;
}

void tp_device_process_tell_busy(void)
{
    const ssize_t ignored = write(STDOUT_FILENO, ".", 1); /* a full pipe says it as well */
    (void)ignored;
}

/* The environment with the token, as one block to be freed; NULL: no memory. */
static char **with_token(const char *token)
{
    static const char name[] = "TIDEPOOL_TOKEN=";
    size_t n = 0, len = sizeof name + strlen(token);
    while (environ[n])
        n++;
    char **all = malloc((n + 2) * sizeof *all + len);
    if (!all)
        return NULL;
    char *text = (char *)(all + n + 2);
    snprintf(text, len, "%s%s", name, token);
    memcpy(all, environ, n * sizeof *all);
    all[n] = text;
    all[n + 1] = NULL;
    return all;
}

/* In a process group of its own: its worker decides what Ctrl-C means. */
static int spawn(tp_device_process *p, char *const words[], char **environment, int out)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    int rc = posix_spawn_file_actions_init(&actions);
    if (rc)
        return rc;
    rc = posix_spawnattr_init(&attributes);
    if (rc == 0) {
        rc = tp_peer_set_attributes(&attributes);
        rc = rc ? rc : posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
        rc = rc ? rc : posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
        rc = rc ? rc : tp_peer_close_from(&actions, STDERR_FILENO + 1);
        rc = rc ? rc : posix_spawn(&p->pid, TP_SYSTEM_PROGRAM, &actions, &attributes, words,
                                   environment);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

int tp_device_process_start(tp_device_process *p, const tp_options *o, const char *token,
                            const char *id, long grace_s, tp_error *err)
{
    char engine[] = "--engine", devices[] = "--devices", grace[] = "--grace";
    char program[] = "tidepool", word[] = "worker", name[80], seconds[24];
    int ends[2];
    *p = (tp_device_process){ .says = -1 };
    snprintf(p->id, sizeof p->id, "%s", id);
    snprintf(name, sizeof name, "%s.%ld", id, (long)getpid());
    snprintf(seconds, sizeof seconds, "%ld", grace_s);
    char *url = strdup(o->engine), **environment = with_token(token);
    char *const words[WORDS_MAX] = { program, word, engine, url, devices, name, grace, seconds };
    int rc = url && environment ? 0 : ENOMEM;
    if (rc == 0 && pipe2(ends, O_CLOEXEC | O_NONBLOCK))
        rc = errno;
    else if (rc == 0) {
        rc = spawn(p, words, environment, ends[1]);
        close(ends[1]);
        p->says = ends[0];
    }
    free(url);
    free(environment);
    if (rc == 0)
        return 0;
    if (p->says >= 0)
        close(p->says);
    *p = (tp_device_process){ .says = -1 };
    return tp_error_set(err, TP_ESYS, "cannot start a process for its devices: %s", strerror(rc));
}

/* It has ended, as p->status says. */
static void forget(tp_device_process *p)
{
    p->pid = 0;
    close(p->says);
    p->says = -1;
}

tp_device_news tp_device_process_look(tp_device_process *p)
{
    char bytes[256];
    if (p->pid == 0)
        return TP_DEVICES_QUIET;
    if (waitpid(p->pid, &p->status, WNOHANG) == p->pid) {
        forget(p);
        return WIFEXITED(p->status) && WEXITSTATUS(p->status) == TP_DEVICES_EXIT_NONE
                   ? TP_DEVICES_NONE
                   : TP_DEVICES_DEAD;
    }
    return read(p->says, bytes, sizeof bytes) > 0 ? TP_DEVICES_BUSY : TP_DEVICES_QUIET;
}

void tp_device_process_kill(tp_device_process *p, int sig)
{
    if (p->pid == 0)
        return;
    kill(p->pid, sig);
    if (sig == SIGKILL && waitpid(p->pid, &p->status, 0) == p->pid)
        forget(p);
}
