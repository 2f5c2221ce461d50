/* life.c: contexts: made, asked whether they still work, what is said when they do not, and
 * abandoned. */
#include "opencl/life.h"

#include "base/sigmask.h"
#include "opencl/waiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_BYTES = 16 };

/* How long a queue may take for a command of nothing. What takes longer is busy, not dead: the
 * device may run a kernel without an end. */
static const uint64_t PATIENCE_NS = 1000 * 1000 * 1000;

struct tp_kept_memory {
    struct tp_kept_memory *next;
    cl_mem mem;
};

static void free_kept(tp_life *l)
{
    for (struct tp_kept_memory *each = l->kept, *next; each; each = next) {
        next = each->next;
        l->cl->ReleaseMemObject(each->mem);
        free(each);
    }
    l->kept = NULL;
}

static void end_life(tp_ref *r)
{
    tp_life *l = (tp_life *)r;
    free_kept(l);
    if (l->context && !l->has_let_go)
        l->cl->ReleaseContext(l->context);
    tp_room_close(&l->room);
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
    if (tp_room_open(&l->room, d, err)) {
        uv_mutex_destroy(&l->lock);
        free(l);
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

bool tp_life_has_given_up(const tp_life *l)
{
    return atomic_load_explicit(&l->given_up, memory_order_relaxed) > 0;
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
    return rc == CL_SUCCESS || tp_room_is_short(rc);
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
        return tp_room_is_short(rc);
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
    if (l->is_abandoned)
        return tp_error_set(err, TP_ESYS,
                            "%s: %s, and what was on the device is given up with that; the next "
                            "map or kernel opens it anew",
                            l->device->name, l->fault);
    return tp_error_set(err, TP_ESYS,
                        "%s: %s, and the device lost all that was on it; the next map or kernel "
                        "opens it anew",
                        l->device->name, l->fault);
}

void tp_life_abandon(tp_life *l)
{
    uv_mutex_lock(&l->lock);
    if (!tp_life_is_over(l)) {
        snprintf(l->fault, sizeof l->fault, "it still runs a map or a kernel that was given up");
        l->is_abandoned = l->is_running = true;
        atomic_store_explicit(&l->is_over, true, memory_order_release);
    }
    uv_mutex_unlock(&l->lock);
}

void tp_life_come_to_rest(tp_life *l)
{
    uv_mutex_lock(&l->lock);
    l->is_running = false;
    free_kept(l);
    uv_mutex_unlock(&l->lock);
}

void tp_life_release(tp_life *l, cl_mem mem)
{
    uv_mutex_lock(&l->lock);
    bool is_kept = l->is_running;
    struct tp_kept_memory *kept = is_kept ? malloc(sizeof *kept) : NULL;
    if (kept) {
        *kept = (struct tp_kept_memory){ l->kept, mem };
        l->kept = kept;
    }
    uv_mutex_unlock(&l->lock);
    if (!is_kept) /* one that could not be noted is never given back */
        l->cl->ReleaseMemObject(mem);
}

int tp_life_try(tp_life *l, _Atomic uint64_t *launched_ns, tp_error *err)
{
    const char *source = "__kernel void tp_try(__global uint *x) { x[0] = 1; }";
    const tp_cl *cl = l->cl;
    const tp_cl_device *d = l->device;
    const size_t one = 1;
    tp_queue_waiter *waiter = tp_queue_waiter_new(err);
    cl_command_queue queue = waiter ? tp_life_new_queue(l, 0, err) : NULL;
    cl_program program = NULL;
    cl_kernel kernel = NULL;
    cl_mem mem = NULL;
    cl_int rc = CL_OUT_OF_RESOURCES;
    if (!queue)
        goto out;
    program = cl->CreateProgramWithSource(l->context, 1, &source, NULL, &rc);
    if (rc == CL_SUCCESS)
        rc = cl->BuildProgram(program, 1, &d->id, "", NULL, NULL);
    if (rc == CL_SUCCESS)
        kernel = cl->CreateKernel(program, "tp_try", &rc);
    if (rc == CL_SUCCESS)
        mem = cl->CreateBuffer(l->context, CL_MEM_READ_WRITE, PROBE_BYTES, NULL, &rc);
    if (rc == CL_SUCCESS)
        rc = cl->SetKernelArg(kernel, 0, sizeof mem, &mem);
    if (rc == CL_SUCCESS)
        rc = cl->EnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, &one, 0, NULL, NULL);
    if (rc == CL_SUCCESS) {
        atomic_store_explicit(launched_ns, uv_hrtime(), memory_order_relaxed);
        tp_queue_waiter_wait(waiter, cl, queue);
        rc = cl->Finish(queue);
    }
    if (rc != CL_SUCCESS)
        tp_cl_fail(err, d, "trying a kernel", rc);
    if (mem)
        cl->ReleaseMemObject(mem);
    if (kernel)
        cl->ReleaseKernel(kernel);
    if (program)
        cl->ReleaseProgram(program);
    cl->ReleaseCommandQueue(queue);
out:
    tp_ref_drop(waiter);
    return queue && rc == CL_SUCCESS ? 0 : -1;
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
