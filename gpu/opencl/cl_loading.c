/* cl_loading.c: loading OpenCL on a thread of its own.
 *
 * Nobody joins the thread. The C library locks what dlopen changes, the loader lists its drivers
 * once and lets other callers wait, and drivers begin at their first call: so it does not matter
 * which thread is the first. What would matter is exit() meanwhile, see cl_loading.h. */
#include "opencl/cl_loading.h"

#include "base/ref.h"
#include "base/thread.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct tp_cl_loading {
    tp_ref ref;
    char *library; /* set before the thread starts; NULL: the usual one */
    uv_mutex_t lock; /* for the wait for `ended` */
    uv_cond_t ended;
    /* the thread's; whoever takes it, one at a time, when it is over; then NULL */
    tp_cl *cl;
    _Atomic bool is_over; /* with it (release), `cl` is there (acquire) */
};

static void free_loading(tp_ref *ref)
{
    tp_cl_loading *l = (tp_cl_loading *)ref;
    tp_cl_close(l->cl);
    tp_lock_close(&l->lock, &l->ended);
    free(l->library);
    free(l);
}

static const tp_ref_type loading_type = { "tidepool.loading", free_loading };

static void load(void *arg)
{
    tp_cl_loading *l = arg;
    tp_cl *cl = NULL;
    tp_error ignored = { 0 }; /* whoever needs OpenCL tries again, and is told why it fails */
    tp_cl_open(&cl, l->library, &ignored);
    uv_mutex_lock(&l->lock);
    l->cl = cl;
    atomic_store_explicit(&l->is_over, true, memory_order_release);
    uv_cond_broadcast(&l->ended);
    uv_mutex_unlock(&l->lock);
    tp_ref_drop(l);
}

tp_cl_loading *tp_cl_loading_new(const char *library, tp_error *err)
{
    tp_cl_loading *l = calloc(1, sizeof *l);
    uv_thread_t thread;
    if (!l) {
        tp_error_oom(err, "OpenCL");
        return NULL;
    }
    if (tp_lock_open(&l->lock, &l->ended, err)) {
        free(l);
        return NULL;
    }
    tp_ref_init(&l->ref, &loading_type);
    atomic_init(&l->is_over, false);
    l->library = library ? strdup(library) : NULL;
    if (library && !l->library) {
        tp_error_oom(err, "OpenCL");
        tp_ref_drop(l);
        return NULL;
    }
    int status = tp_thread_create(&thread, 0, load, tp_ref_hold(l));
    if (status) {
        tp_error_set(err, TP_ESYS, "cannot start a thread to load OpenCL: %s", uv_strerror(status));
        tp_ref_drop(l);
        tp_ref_drop(l);
        return NULL;
    }
    pthread_detach(thread);
    return l;
}

bool tp_cl_loading_is_over(const tp_cl_loading *l)
{
    return atomic_load_explicit(&l->is_over, memory_order_acquire);
}

void tp_cl_loading_wait(tp_cl_loading *l)
{
    uv_mutex_lock(&l->lock);
    while (!tp_cl_loading_is_over(l))
        uv_cond_wait(&l->ended, &l->lock);
    uv_mutex_unlock(&l->lock);
}

tp_cl *tp_cl_loading_take(tp_cl_loading *l)
{
    tp_cl *cl = tp_cl_loading_is_over(l) ? l->cl : NULL;
    if (cl)
        l->cl = NULL;
    return cl;
}
