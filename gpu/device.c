/* device.c: queues, buffers and kernels for a Lua function that drives a device by hand. What is right to ask for is checked by lua/tidepool/device.lua;
 * here are the calls, and what they may fail with. */
#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 128 /* of the largest type of OpenCL C */ };

static int fail(tp_error *err, const tp_open_device *o, const char *what, cl_int rc)
{
    return tp_error_set(err, TP_ESYS, "%s: %s failed: %s (%d)", o->device->name, what, tp_cl_error_name(rc), rc);
}

/* "1.5 GiB" */
static const char *show_size(char *to, size_t size, uint64_t bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    double x = (double)bytes;
    unsigned unit = 0;
    while (x >= 1024 && unit < 4)
        x /= 1024, unit++;
    snprintf(to, size, unit && x < 100 ? "%.1f %s" : "%.0f %s", x, units[unit]);
    return to;
}

/* ---- queues ---- */

static void drop_held(tp_queue *q)
{
    while (q->n_held)
        tp_ref_drop(q->held[--q->n_held]);
}

static void free_queue(tp_ref *r)
{
    tp_queue *q = (tp_queue *)r;
    if (q->queue) {
        q->open.cl->Finish(q->queue); /* commands may use memory that goes with what is held */
        q->open.cl->ReleaseCommandQueue(q->queue);
    }
    drop_held(q);
    free(q);
}

const tp_ref_type tp_queue_type = { "tidepool.queue", free_queue };

int tp_queue_open(tp_queue **out, tp_executor *ex, unsigned device, tp_error *err)
{
    cl_int rc;
    tp_queue *q = calloc(1, sizeof *q);
    if (!q)
        return tp_error_oom(err, "a device's queue");
    tp_ref_init(&q->ref, &tp_queue_type);
    if (tp_opencl_open(ex, device, &q->open, err)) {
        free(q);
        return -1;
    }
    q->queue = q->open.cl->CreateCommandQueue(q->open.context, q->open.device->id, 0, &rc);
    if (rc != CL_SUCCESS) {
        fail(err, &q->open, "making a queue", rc);
        free(q);
        return -1;
    }
    *out = q;
    return 0;
}

int tp_queue_finish(tp_queue *q, tp_error *err)
{
    cl_int rc = q->open.cl->Finish(q->queue);
    drop_held(q);
    return rc == CL_SUCCESS ? 0 : fail(err, &q->open, "running the kernels", rc);
}

/* Keeps b until the queue's commands have run. */
static int keep(tp_queue *q, tp_buffer *b, tp_error *err)
{
    for (unsigned i = 0; i < q->n_held; i++)
        if (q->held[i] == b)
            return 0;
    if (q->n_held == TP_HELD_MAX && tp_queue_finish(q, err))
        return -1;
    q->held[q->n_held++] = tp_ref_hold(b);
    return 0;
}

/* ---- buffers ---- */

static void free_buffer(tp_ref *r)
{
    tp_buffer *b = (tp_buffer *)r;
    if (b->mem)
        b->open.cl->ReleaseMemObject(b->mem);
    if (!b->array)
        atomic_fetch_sub_explicit(b->open.lent, b->size, memory_order_relaxed);
    tp_ref_drop(b->array);
    free(b);
}

const tp_ref_type tp_buffer_type = { "tidepool.buffer", free_buffer };

/* Counts the bytes of a buffer; refuses what the device cannot have. Drivers may say yes, and fail when the memory is used. */
static int lend(const tp_open_device *o, uint64_t size, tp_error *err)
{
    char wanted[32], all[32], used[32];
    uint64_t before = atomic_fetch_add_explicit(o->lent, size, memory_order_relaxed);
    if (before + size <= o->device->memory)
        return 0;
    atomic_fetch_sub_explicit(o->lent, size, memory_order_relaxed);
    return tp_error_set(err, TP_ESYS, "%s: no memory for a buffer of %s: of the device's %s other buffers have %s", o->device->name,
                        show_size(wanted, sizeof wanted, size), show_size(all, sizeof all, o->device->memory),
                        show_size(used, sizeof used, before));
}

/* Gives memory of the device's own its first contents. */
static cl_int fill(tp_queue *q, cl_mem mem, size_t size, const void *data)
{
    static const cl_uchar zero;
    const tp_cl *cl = q->open.cl;
    cl_int rc = data ? cl->EnqueueWriteBuffer(q->queue, mem, CL_TRUE, 0, size, data, 0, NULL, NULL)
                     : cl->EnqueueFillBuffer(q->queue, mem, &zero, 1, 0, size, 0, NULL, NULL);
    return rc == CL_SUCCESS && !data ? cl->Finish(q->queue) : rc;
}

int tp_buffer_open(tp_buffer **out, tp_queue *q, size_t size, tp_array *array, void *data, tp_error *err)
{
    const tp_open_device *o = &q->open;
    bool is_shared = array && o->device->is_unified && (uintptr_t)data % ALIGNMENT == 0;
    char wanted[32], most[32];
    cl_int rc;
    size_t room = size ? size : 1; /* OpenCL has no empty buffers */
    if (room > o->device->max_alloc)
        return tp_error_set(err, TP_ESYS, "%s: a buffer of %s is over the device's largest, %s", o->device->name,
                            show_size(wanted, sizeof wanted, room), show_size(most, sizeof most, o->device->max_alloc));
    if (!is_shared && lend(o, room, err))
        return -1;
    tp_buffer *b = calloc(1, sizeof *b);
    if (!b) {
        if (!is_shared)
            atomic_fetch_sub_explicit(o->lent, room, memory_order_relaxed);
        return tp_error_oom(err, "a device's buffer");
    }
    tp_ref_init(&b->ref, &tp_buffer_type);
    b->open = *o;
    b->size = room;
    if (is_shared) {
        b->array = tp_ref_hold(array);
        b->data = data;
    }
    cl_mem_flags flags = CL_MEM_READ_WRITE | (is_shared ? CL_MEM_USE_HOST_PTR : 0);
    b->mem = o->cl->CreateBuffer(o->context, flags, room, is_shared ? data : NULL, &rc);
    if (rc != CL_SUCCESS)
        b->mem = NULL;
    else if (!is_shared)
        rc = fill(q, b->mem, room, array && size ? data : NULL);
    if (rc != CL_SUCCESS) {
        tp_ref_drop(b);
        return tp_error_set(err, TP_ESYS, "%s: no memory for a buffer of %s: %s (%d)", o->device->name, show_size(wanted, sizeof wanted, room),
                            tp_cl_error_name(rc), rc);
    }
    *out = b;
    return 0;
}

/* Maps the shared memory of b, which waits for the queue, and unmaps it when `move` bytes have gone from there to `to`, or from `from` there. */
static cl_int exchange(tp_queue *q, tp_buffer *b, cl_map_flags flags, void *to, const void *from, size_t size)
{
    const tp_cl *cl = q->open.cl;
    cl_int rc;
    void *mapped = cl->EnqueueMapBuffer(q->queue, b->mem, CL_TRUE, flags, 0, b->size, 0, NULL, NULL, &rc);
    if (rc != CL_SUCCESS)
        return rc;
    if (to && to != mapped)
        memcpy(to, mapped, size);
    if (from && from != mapped)
        memcpy(mapped, from, size);
    rc = cl->EnqueueUnmapMemObject(q->queue, b->mem, mapped, 0, NULL, NULL);
    return rc == CL_SUCCESS ? cl->Finish(q->queue) : rc;
}

int tp_buffer_read(tp_queue *q, tp_buffer *b, void *to, size_t size, tp_type type, tp_error *err)
{
    cl_int rc = CL_SUCCESS;
    if (b->array)
        rc = exchange(q, b, CL_MAP_READ, to, NULL, size);
    else if (size)
        rc = q->open.cl->EnqueueReadBuffer(q->queue, b->mem, CL_TRUE, 0, size, to, 0, NULL, NULL);
    if (rc != CL_SUCCESS)
        return fail(err, &q->open, "reading a buffer", rc);
    drop_held(q);
    tp_make_canonical(type, to, size / tp_type_size(type));
    return 0;
}

int tp_buffer_write(tp_queue *q, tp_buffer *b, const void *from, size_t size, tp_error *err)
{
    cl_int rc = CL_SUCCESS;
    if (b->array)
        rc = exchange(q, b, CL_MAP_WRITE, NULL, from, size);
    else if (size)
        rc = q->open.cl->EnqueueWriteBuffer(q->queue, b->mem, CL_TRUE, 0, size, from, 0, NULL, NULL);
    if (rc != CL_SUCCESS)
        return fail(err, &q->open, "writing a buffer", rc);
    drop_held(q);
    return 0;
}

/* ---- kernels ---- */

static void free_launcher(tp_ref *r)
{
    tp_launcher *l = (tp_launcher *)r;
    if (l->kernel)
        l->program->cl->ReleaseKernel(l->kernel);
    tp_ref_drop(l->program);
    free(l);
}

const tp_ref_type tp_launcher_type = { "tidepool.launcher", free_launcher };

static int fail_program(tp_error *err, const tp_program *p, const char *what, cl_int rc)
{
    return tp_error_set(err, TP_ESYS, "%s: %s failed: %s (%d)", p->cl->devices[p->device].name, what, tp_cl_error_name(rc), rc);
}

int tp_program_kernels(tp_program *p, char *names, size_t size, tp_error *err)
{
    names[0] = 0;
    cl_int rc = p->cl->GetProgramInfo(p->program, CL_PROGRAM_KERNEL_NAMES, size, names, NULL);
    return rc == CL_SUCCESS ? 0 : fail_program(err, p, "listing the program's kernels", rc);
}

int tp_launcher_open(tp_launcher **out, tp_program *p, const char *name, tp_error *err)
{
    const tp_cl *cl = p->cl;
    cl_device_id id = cl->devices[p->device].id;
    cl_uint n = 0;
    cl_int rc;
    tp_launcher *l = calloc(1, sizeof *l);
    if (!l)
        return tp_error_oom(err, "a kernel");
    tp_ref_init(&l->ref, &tp_launcher_type);
    l->program = tp_ref_hold(p);
    l->kernel = cl->CreateKernel(p->program, name, &rc);
    if (rc != CL_SUCCESS)
        l->kernel = NULL;
    else
        rc = cl->GetKernelInfo(l->kernel, CL_KERNEL_NUM_ARGS, sizeof n, &n, NULL);
    if (rc != CL_SUCCESS) {
        fail_program(err, p, "making the kernel", rc);
        tp_ref_drop(l);
        return -1;
    }
    l->n_parameters = n;
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_WORK_GROUP_SIZE, sizeof l->local_max, &l->local_max, NULL) || l->local_max == 0)
        l->local_max = 1;
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof l->local, l->local, NULL))
        memset(l->local, 0, sizeof l->local);
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_LOCAL_MEM_SIZE, sizeof l->local_bytes, &l->local_bytes, NULL))
        l->local_bytes = 0;
    *out = l;
    return 0;
}

bool tp_launcher_parameter(tp_launcher *l, unsigned i, tp_parameter *out)
{
    const tp_cl *cl = l->program->cl;
    *out = (tp_parameter){ 0 };
    return cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_TYPE_NAME, sizeof out->type - 1, out->type, NULL) == CL_SUCCESS &&
           cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_NAME, sizeof out->name - 1, out->name, NULL) == CL_SUCCESS &&
           cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof out->space, &out->space, NULL) == CL_SUCCESS &&
           out->type[0] && out->name[0];
}

/* PoCL ends the process when a launch has more than the device's local memory. */
static int check_local(const tp_queue *q, const tp_launcher *l, const tp_launch_argument *arguments, tp_error *err)
{
    uint64_t bytes = l->local_bytes, most = q->open.device->local_memory;
    char wanted[32], all[32];
    for (unsigned i = 0; i < l->n_parameters; i++)
        if (!arguments[i].buffer && !arguments[i].bytes)
            bytes += (arguments[i].size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes <= most)
        return 0;
    return tp_error_set(err, TP_ESYS, "%s: %s of __local memory are over the device's %s", q->open.device->name,
                        show_size(wanted, sizeof wanted, bytes), show_size(all, sizeof all, most));
}

int tp_launch(tp_queue *q, tp_launcher *l, unsigned dimensions, const size_t *global, const size_t *local, const tp_launch_argument *arguments,
              tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    if (check_local(q, l, arguments, err))
        return -1;
    for (unsigned i = 0; i < l->n_parameters; i++) {
        const tp_launch_argument *a = &arguments[i];
        if (a->buffer && keep(q, a->buffer, err))
            return -1;
        cl_int rc = cl->SetKernelArg(l->kernel, i, a->buffer ? sizeof(cl_mem) : a->size, a->buffer ? (const void *)&a->buffer->mem : a->bytes);
        if (rc != CL_SUCCESS) {
            char what[40];
            snprintf(what, sizeof what, "passing argument %u", i + 1);
            return fail(err, &q->open, what, rc);
        }
    }
    cl_int rc = cl->EnqueueNDRangeKernel(q->queue, l->kernel, dimensions, NULL, global, local, 0, NULL, NULL);
    if (rc == CL_SUCCESS)
        rc = cl->Flush(q->queue);
    if (rc != CL_SUCCESS)
        return fail(err, &q->open, "starting the kernel", rc);
    return 0;
}
