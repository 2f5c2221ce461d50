/* worker.c: the program as a worker process. See child.h.
 *
 * Items run on a thread with the same stack as worker threads have, so that deep recursion through
 * C is an error here too. The main thread only waits: when an item ends its thread (pthread_exit in
 * a C function), the process ends. */
#include "program/worker.h"

#include "base/sigmask.h"
#include "base/thread.h"
#include "program/options.h"
#include "program/pocl_cache.h"
#include "runtime/runtime.h"
#include "wire/frame.h"
#include "program/child.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { STACK_BYTES = 64 << 20 };

/* What the thread is given. */
typedef struct session {
    tp_child *child;
    /* the process's signal mask as it was before the thread blocks signals (base/sigmask.h) */
    sigset_t mask;
} session;

static void serve(void *user)
{
    session *s = user;
    tp_child *child = s->child;
    tp_error err = { 0 };
    tp_sigmask_set(&s->mask, NULL);
    char path[4096], state[4096];
    tp_config config = { .size = sizeof config, .opencl = getenv("TIDEPOOL_OPENCL") };
    config.cache_dir = tp_caches_own(path, sizeof path);
    config.state_dir = tp_caches_state(state, sizeof state);
    tp_child_configure(child, &config);
    tp_host *host;
    if (tp_host_open(&host, &config, &err) == 0) {
        host->before_opencl = tp_caches_prepare;
        tp_child_serve(child, host, &err);
    }
    fprintf(stderr, "%s\n", err.message);
    _exit(EXIT_FAILURE);
}

int tp_worker_main(void)
{
    session s;
    tp_error err = { 0 };
    uv_thread_t thread;
    if (tp_child_open(&s.child, &err)) {
        fprintf(stderr, "tidepool: --worker: %s\n", err.message);
        return TP_EXIT_USAGE;
    }
    /* so that what native code prints is written line by line: the process may be ended at any
     * time */
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    tp_sigmask_get(&s.mask);
    int status = tp_thread_create(&thread, STACK_BYTES, serve, &s);
    if (status) {
        fprintf(stderr, "tidepool: --worker: cannot start its thread: %s\n", uv_strerror(status));
        return EXIT_FAILURE;
    }
    uv_thread_join(&thread);
    _exit(TP_CHILD_NO_THREAD);
}
