/* waiter.c: sleeping until a queue's commands have run: the callback of a marker behind them ends a
 * wait for a condition variable. */
#include "opencl/waiter.h"

#include "base/thread.h"

#include <sched.h>
#include <stdlib.h>
#include <time.h>

/* How often a wait looks whether the driver has forgotten to call back. */
static const uint64_t ASK_NS = 100 * 1000 * 1000;

enum {
    /* a patient wait first spins: sleeping would take as long as a small launch */
    SPIN_NS = 100 * 1000,
    NAP_NS = 2000 * 1000,
    GIVE_UP_NS = 10 * 1000 * 1000 /* how often it asks whether it is given up */
};

struct tp_queue_waiter {
    tp_ref ref;
    bool is_unused; /* the waiting thread's: the driver forgets to call back */
    uv_mutex_t lock; /* a leaf */
    uv_cond_t called;
    bool is_over; /* guarded by lock */
};

static void free_waiter(tp_ref *r)
{
    tp_queue_waiter *w = (tp_queue_waiter *)r;
    tp_lock_close(&w->lock, &w->called);
    free(w);
}

static const tp_ref_type waiter_type = { "tidepool.waiter", free_waiter };

tp_queue_waiter *tp_queue_waiter_new(tp_error *err)
{
    tp_queue_waiter *w = calloc(1, sizeof *w);
    if (!w) {
        tp_error_oom(err, "a device's queue");
        return NULL;
    }
    tp_ref_init(&w->ref, &waiter_type);
    if (tp_lock_open(&w->lock, &w->called, err) == 0)
        return w;
    free(w);
    return NULL;
}

/* Called by the driver, on a thread of its own. */
static void CL_CALLBACK end_wait(cl_event event, cl_int status, void *user)
{
    tp_queue_waiter *w = user;
    (void)event, (void)status;
    uv_mutex_lock(&w->lock);
    w->is_over = true;
    uv_cond_signal(&w->called);
    uv_mutex_unlock(&w->lock);
    tp_ref_drop(w);
}

void tp_queue_waiter_wait_for(tp_queue_waiter *w, const tp_cl *cl, cl_command_queue queue,
                              cl_event event)
{
    if (w->is_unused || tp_cl_has_run(cl, event))
        return;
    w->is_over = false; /* the driver does not have it */
    tp_ref_hold(w);
    if (cl->SetEventCallback(event, CL_COMPLETE, end_wait, w) != CL_SUCCESS) {
        tp_ref_drop(w);
        return;
    }
    cl->Flush(queue);
    bool had_run = false;
    uv_mutex_lock(&w->lock);
    while (!w->is_over && !had_run) {
        uint64_t until = uv_hrtime() + ASK_NS;
        bool is_late = tp_cl_has_run(cl, event);
        while (!w->is_over && uv_cond_timedwait(&w->called, &w->lock, ASK_NS) == 0 &&
               uv_hrtime() < until)
            ;
        had_run = is_late;
    }
    w->is_unused = !w->is_over;
    uv_mutex_unlock(&w->lock);
}

void tp_queue_waiter_wait(tp_queue_waiter *w, const tp_cl *cl, cl_command_queue queue)
{
    cl_event event;
    if (w->is_unused || cl->EnqueueMarkerWithWaitList(queue, 0, NULL, &event) != CL_SUCCESS)
        return;
    tp_queue_waiter_wait_for(w, cl, queue, event);
    cl->ReleaseEvent(event);
}

bool tp_wait_patiently(const tp_cl *cl, cl_event event, bool (*is_given_up)(void *user),
                       void *user)
{
    uint64_t began = uv_hrtime(), asked = began;
    while (!tp_cl_has_run(cl, event)) {
        uint64_t now = uv_hrtime();
        if (now - began < SPIN_NS) {
            sched_yield();
            continue;
        }
        if (is_given_up && now - asked > GIVE_UP_NS) {
            asked = now;
            if (is_given_up(user))
                return false;
        }
        /* so the end is noticed at most 5 % late, and never more than NAP_NS */
        uint64_t nap_ns = (now - began) / 20 < NAP_NS ? (now - began) / 20 : NAP_NS;
        nanosleep(&(struct timespec){ 0, (long)nap_ns }, NULL);
    }
    return true;
}
