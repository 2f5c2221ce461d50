/* life.c: contexts: made, asked whether they still work, and what is said when they do not. */
#include "opencl/life.h"

#include "base/sigmask.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_BYTES = 16 };

/* How long a queue may take for a command of nothing. What takes longer is busy, not dead: the
 * device may run a kernel without an end. */
static const uint64_t PATIENCE_NS = 1000 * 1000 * 1000;

static void end_life(tp_ref *r)
{
    tp_life *l = (tp_life *)r;
    if (l->context && !l->has_let_go)
        l->cl->ReleaseContext(l->context);
    uv_mutex_destroy(&l->lock);
    free(l);
}

static const tp_ref_type life_type = { "tidepool.life", end_life };

tp_life *tp_life_begin(const tp_cl *cl, const tp_cl_device *d, tp_error *err)
{
    tp_life *l = calloc(1, sizeof *l);
    cl_context_properties properties[] = { CL_CONTEXT_PLATFORM,
                                           (cl_context_properties)d->platform_id, 0 };
    cl_int rc;
    sigset_t before;
    if (!l) {
        tp_error_oom(err, "a device");
        return NULL;
    }
    if (uv_mutex_init(&l->lock)) {
        free(l);
        tp_error_set(err, TP_ESYS, "cannot create a lock");
        return NULL;
    }
    tp_ref_init(&l->ref, &life_type);
    l->cl = cl;
    l->device = d;
    tp_sigmask_block(&before); /* because the driver makes threads */
    l->context = cl->CreateContext(properties, 1, &d->id, NULL, NULL, &rc);
    tp_sigmask_set(&before, NULL);
    if (rc == CL_SUCCESS)
        return l;
    l->context = NULL;
    tp_ref_drop(l);
    tp_cl_fail(err, d, "opening the device", rc);
    return NULL;
}

bool tp_life_is_over(const tp_life *l)
{
    return atomic_load_explicit(&l->is_over, memory_order_acquire);
}

bool tp_life_is_suspect(cl_int rc)
{
    /* the codes from CL_INVALID_VALUE down to those of extensions are about arguments, but for
     * objects that a driver may no longer know */
    bool is_usage = rc <= CL_INVALID_VALUE && rc > -100;
    return rc != CL_SUCCESS && (!is_usage || rc == CL_INVALID_CONTEXT ||
                                rc == CL_INVALID_COMMAND_QUEUE || rc == CL_INVALID_MEM_OBJECT ||
                                rc == CL_INVALID_EVENT || rc == CL_INVALID_DEVICE ||
                                rc == CL_INVALID_PROGRAM_EXECUTABLE || rc == CL_INVALID_OPERATION);
}

static bool is_short_of_memory(cl_int rc)
{
    return rc == CL_MEM_OBJECT_ALLOCATION_FAILURE || rc == CL_OUT_OF_HOST_MEMORY;
}

/* Waits for the event's command, for a while; what a command that fails says. */
static cl_int await(const tp_cl *cl, cl_event event)
{
    uint64_t began = uv_hrtime(), now = began;
    for (;;) {
        cl_int status = CL_COMPLETE;
        cl_int rc = cl->GetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status,
                                     &status, NULL);
        if (rc != CL_SUCCESS || status < CL_COMPLETE)
            return rc != CL_SUCCESS ? rc : status;
        now = uv_hrtime();
        if (status == CL_COMPLETE || now - began > PATIENCE_NS)
            return CL_SUCCESS;
        struct timespec nap = { 0, (long)((now - began) / 10 + 1000) };
        nanosleep(&nap, NULL);
    }
}

/* Does the queue still run commands? A device that is busy, or short of memory, does. */
static bool runs(const tp_life *l, cl_command_queue queue)
{
    static const cl_uchar zero;
    const tp_cl *cl = l->cl;
    cl_event event = NULL;
    cl_int rc;
    cl_mem mem = cl->CreateBuffer(l->context, CL_MEM_READ_WRITE, PROBE_BYTES, NULL, &rc);
    if (rc == CL_SUCCESS) {
        rc = cl->EnqueueFillBuffer(queue, mem, &zero, 1, 0, PROBE_BYTES, 0, NULL, &event);
    } else { /* a dead context may say that it has no memory */
        mem = NULL;
        rc = cl->EnqueueMarkerWithWaitList(queue, 0, NULL, &event);
    }
    if (rc == CL_SUCCESS) {
        rc = cl->Flush(queue);
        rc = rc == CL_SUCCESS ? await(cl, event) : rc;
        cl->ReleaseEvent(event);
    }
    if (mem)
        cl->ReleaseMemObject(mem);
    return rc == CL_SUCCESS || is_short_of_memory(rc);
}

/* Locked. Does the context still work? The queue may be replaced. */
static bool works(const tp_life *l, cl_command_queue *queue,
                  cl_command_queue_properties properties)
{
    cl_int rc;
    if (queue && runs(l, *queue))
        return true;
    cl_command_queue made =
        l->cl->CreateCommandQueue(l->context, l->device->id, properties, &rc);
    if (rc != CL_SUCCESS)
        return is_short_of_memory(rc);
    bool is_fine = runs(l, made);
    if (is_fine && queue) {
        cl_command_queue old = *queue;
        *queue = made;
        made = old;
    }
    l->cl->ReleaseCommandQueue(made);
    return is_fine;
}

/* What err says of the device, without its name. */
static const char *without_name(const tp_life *l, const char *message)
{
    size_t n = strlen(l->device->name);
    return strncmp(message, l->device->name, n) == 0 && message[n] == ':' ? message + n + 2
                                                                           : message;
}

void tp_life_check(tp_life *l, cl_command_queue *queue, cl_command_queue_properties properties,
                   tp_error *err)
{
    uv_mutex_lock(&l->lock);
    bool is_over = tp_life_is_over(l);
    if (!is_over && !works(l, queue, properties)) {
        snprintf(l->fault, sizeof l->fault, "%.*s", TP_FAULT_MAX - 1,
                 without_name(l, err->message));
        atomic_store_explicit(&l->is_over, true, memory_order_release);
        is_over = true;
    }
    uv_mutex_unlock(&l->lock);
    if (is_over) {
        *err = (tp_error){ 0 };
        tp_life_say_over(l, err);
    }
}

int tp_life_say_over(const tp_life *l, tp_error *err)
{
    return tp_error_set(err, TP_ESYS,
                        "%s: %s, and the device lost all that was on it; the next map or kernel "
                        "opens it anew",
                        l->device->name, l->fault);
}

void tp_life_let_go(tp_life *l)
{
    uv_mutex_lock(&l->lock);
    bool had = l->has_let_go;
    l->has_let_go = true;
    uv_mutex_unlock(&l->lock);
    if (!had)
        l->cl->ReleaseContext(l->context);
}

cl_command_queue tp_life_new_queue(tp_life *l, cl_command_queue_properties properties,
                                   tp_error *err)
{
    cl_command_queue made = NULL;
    cl_int rc = CL_SUCCESS;
    uv_mutex_lock(&l->lock);
    bool is_over = tp_life_is_over(l);
    if (!is_over)
        made = l->cl->CreateCommandQueue(l->context, l->device->id, properties, &rc);
    uv_mutex_unlock(&l->lock);
    if (is_over)
        tp_life_say_over(l, err);
    else if (rc != CL_SUCCESS) {
        made = NULL;
        tp_cl_fail(err, l->device, "making a queue", rc);
        if (tp_life_is_suspect(rc))
            tp_life_check(l, NULL, 0, err);
    }
    return made;
}
