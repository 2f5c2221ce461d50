/* device.c: queues, buffers and kernels for a Lua function that drives a device by hand.
 * lua/tidepool/device/device.lua checks what is asked for; here are the calls into OpenCL and their
 * failures. */
#include "opencl/device.h"

#include "base/amount.h"
#include "opencl/waiter.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

enum {
    ALIGNMENT = 128,       /* the size of OpenCL C's largest type */
    TRIM_NS = 1000 * 1000 * 1000
};

/* ---- queues ---- */

/* Stores the programs that have run for the first time. */
static void keep_programs(tp_queue *q)
{
    while (q->n_fresh) {
        tp_program *p = q->fresh[--q->n_fresh];
        if (!tp_queue_is_over(q))
            tp_program_keep(p);
        tp_ref_drop(p);
    }
}

static void forget_programs(tp_queue *q)
{
    while (q->n_fresh)
        tp_ref_drop(q->fresh[--q->n_fresh]);
}

/* The queue's commands have run. */
static void drop_held(tp_queue *q)
{
    keep_programs(q);
    while (q->n_held)
        tp_ref_drop(q->held[--q->n_held]);
}

static void note_fresh(tp_queue *q, tp_program *p)
{
    bool is_known = !tp_program_is_new(p) || q->n_fresh == TP_FRESH_MAX;
    for (unsigned i = 0; i < q->n_fresh && !is_known; i++)
        is_known = q->fresh[i] == p;
    if (!is_known)
        q->fresh[q->n_fresh++] = tp_ref_hold(p);
}

static bool has_run(const tp_queue *q)
{
    return tp_cl_has_run(q->open.cl, q->last);
}

static void forget_last(tp_queue *q)
{
    if (q->last)
        q->open.cl->ReleaseEvent(q->last);
    q->last = NULL;
}

int tp_queue_say_short(tp_queue *q, const char *whose, size_t bytes, const char *what, cl_int rc,
                       tp_error *err)
{
    tp_cl_fail(err, q->open.device, what, rc);
    if (tp_life_is_suspect(rc))
        tp_life_check(q->open.life, &q->queue, CL_QUEUE_PROFILING_ENABLE, err);
    if (tp_room_is_short(rc) && !tp_life_is_over(q->open.life)) {
        *err = (tp_error){ 0 };
        tp_room_say_full(&q->open.life->room, whose, bytes, rc, err);
    }
    return -1;
}

int tp_queue_fail(tp_queue *q, const char *what, cl_int rc, tp_error *err)
{
    return tp_queue_say_short(q, "a kernel", 0, what, rc, err);
}

static int say_gone(const tp_buffer *b, const char *what, tp_error *err)
{
    return tp_error_set(err, TP_ESYS, "%s has lost %s, and all that was in it (%s): make it again",
                        b->open.device->name, what, b->open.life->fault);
}

int tp_buffer_check_life(const tp_buffer *b, tp_error *err)
{
    return tp_life_is_over(b->open.life) ? say_gone(b, "the buffer", err) : 0;
}

bool tp_queue_is_over(const tp_queue *q)
{
    return tp_life_is_over(q->open.life);
}

bool tp_queue_is_lost(const tp_queue *q)
{
    return q->is_lost && q->last && !has_run(q);
}

static int say_lost(const tp_queue *q, tp_error *err)
{
    return tp_error_set(err, TP_ESYS,
                        "%s still runs kernel '%s', which was given up, and OpenCL cannot stop it: "
                        "wait for it, use another device, have processes run what may not end "
                        "(executor = \"processes\", with a timeout), or end the program",
                        q->open.device->name, q->running);
}

/* Waits until the last launch has run, so that the next command does not block. -1 with err set
 * when the wait was given up (is_given_up). */
static int settle(tp_queue *q, tp_error *err)
{
    if (!q->last)
        return 0;
    if (q->is_lost && !has_run(q))
        return say_lost(q, err);
    q->is_lost = false;
    q->open.cl->Flush(q->queue);
    if (!tp_wait_patiently(q->open.cl, q->last, q->is_given_up, q->user)) {
        q->is_lost = true;
        tp_opencl_lose(q->executor, &q->open, &q->ref, q->last, &q->lost);
        return say_lost(q, err);
    }
    forget_last(q);
    return 0;
}

static tp_transfer transfer_of(const tp_queue *q)
{
    return (tp_transfer){ .open = &q->open, .queue = q->queue };
}

/* Before a copy with the queue, whose last launch has been waited for. Looks at its pinned memory
 * now and then: some may not be needed any more, and there may be some again. */
static void look(tp_queue *q)
{
    tp_transfer t = transfer_of(q);
    uint64_t now = uv_hrtime();
    if (now < q->trim_at)
        return;
    q->trim_at = now + TRIM_NS;
    tp_pinned_trim(&q->pinned, &t);
}

/* Nobody takes the place of the thread if it hangs, as for the device's own. */
static tp_mover mover_of(tp_queue *q)
{
    return (tp_mover){ .queue = q->queue,
                       .pinned = &q->pinned,
                       .life = q->open.life,
                       .asks_nothing = tp_room_is_busy(&q->open.life->room) };
}

static void free_queue(tp_ref *r)
{
    tp_queue *q = (tp_queue *)r;
    tp_transfer t = transfer_of(q);
    bool is_behind_lost = q->last && !has_run(q) && tp_life_has_given_up(q->open.life);
    if (tp_queue_is_lost(q) || is_behind_lost)
        return; /* its commands and what they use stay until the process ends */
    forget_last(q);
    if (q->queue) {
        q->open.cl->Finish(q->queue); /* commands may still use the memory of held buffers */
        tp_pinned_close(&q->pinned, &t);
        q->open.cl->ReleaseCommandQueue(q->queue);
    }
    for (unsigned i = 0; i < TP_SAMPLERS_MAX; i++)
        if (q->samplers[i])
            q->open.cl->ReleaseSampler(q->samplers[i]);
    drop_held(q);
    tp_ref_drop(q->open.life);
    free(q);
}

const tp_ref_type tp_queue_type = { "tidepool.device_queue", free_queue };

static int make_queue(tp_queue *q, tp_executor *ex, unsigned device, tp_error *err)
{
    if (tp_opencl_open(ex, device, &q->open, err))
        return -1;
    q->queue = tp_life_new_queue(q->open.life, CL_QUEUE_PROFILING_ENABLE, err);
    return q->queue ? 0 : -1;
}

int tp_queue_open(tp_queue **out, tp_executor *ex, unsigned device, tp_error *err)
{
    tp_queue *q = calloc(1, sizeof *q);
    if (!q)
        return tp_error_oom(err, "a device's queue");
    tp_ref_init(&q->ref, &tp_queue_type);
    q->executor = ex;
    int rc = make_queue(q, ex, device, err);
    if (rc && q->open.life && tp_life_is_over(q->open.life)) {
        /* it was over before, and noticed only now */
        tp_ref_drop(q->open.life);
        q->open.life = NULL;
        *err = (tp_error){ 0 };
        rc = make_queue(q, ex, device, err);
    }
    if (rc) {
        tp_ref_drop(q);
        return -1;
    }
    *out = q;
    return 0;
}

int tp_queue_finish(tp_queue *q, tp_error *err)
{
    if (settle(q, err))
        return -1;
    cl_int rc = q->open.cl->Finish(q->queue);
    if (rc != CL_SUCCESS)
        forget_programs(q);
    drop_held(q);
    return rc == CL_SUCCESS ? 0 : tp_queue_fail(q, "running the kernels", rc, err);
}

int tp_queue_follow(tp_queue *q, tp_queue *other, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    cl_event event = NULL, turn = NULL;
    if ((q->is_lost && settle(q, err)) || (other->is_lost && settle(other, err)))
        return -1;
    if (q->open.life != other->open.life)
        return tp_life_say_over(tp_queue_is_over(q) ? q->open.life : other->open.life, err);
    cl_int rc = cl->EnqueueMarkerWithWaitList(other->queue, 0, NULL, &event);
    if (rc == CL_SUCCESS)
        rc = cl->Flush(other->queue);
    /* a marker in an in-order queue holds up what comes behind it */
    if (rc == CL_SUCCESS)
        rc = cl->EnqueueMarkerWithWaitList(q->queue, 1, &event, &turn);
    if (event)
        cl->ReleaseEvent(event);
    if (rc == CL_SUCCESS) { /* what waits for the queue waits for that, and may be given up */
        forget_last(q);
        q->last = turn;
        if (other->running[0])
            memcpy(q->running, other->running, sizeof q->running);
    }
    return rc == CL_SUCCESS ? 0 : tp_queue_fail(q, "waiting for another queue", rc, err);
}

/* Holds b until the queue's commands have run. */
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
        tp_life_release(b->open.life, b->mem);
    if (b->mem && !b->array && !b->whole)
        tp_room_subtract(&b->open.life->room, TP_HELD_BUFFERS, b->size);
    tp_ref_drop(b->array);
    tp_ref_drop(b->whole);
    tp_ref_drop(b->open.life);
    free(b);
}

const tp_ref_type tp_buffer_type = { "tidepool.buffer", free_buffer };

/* Sets the first contents of a buffer in the device's own memory. */
static cl_int fill(tp_queue *q, cl_mem mem, size_t size, const void *data)
{
    static const cl_uchar zero;
    const tp_cl *cl = q->open.cl;
    tp_transfer t = transfer_of(q);
    cl_int rc = data ? tp_pinned_write(&q->pinned, &t, mem, 0, data, size, true)
                     : cl->EnqueueFillBuffer(q->queue, mem, &zero, 1, 0, size, 0, NULL, NULL);
    return rc == CL_SUCCESS && !data ? cl->Finish(q->queue) : rc;
}

static bool is_given_up(void *user)
{
    const tp_queue *q = user;
    return q->is_given_up && q->is_given_up(q->user);
}

/* A call by hand for which the device has no memory. All zero at first; to be ended. */
typedef struct shortage {
    tp_tenant me;
    bool is_alone;
} shortage;

/* Gives back what can be had again there; at last what launches of maps have, which the call waits
 * for. False: there is nothing (any more). */
static bool find_room(tp_queue *q, shortage *s)
{
    const tp_open_device *o = &q->open;
    tp_room *room = &o->life->room;
    tp_mover mover = mover_of(q);
    tp_transfer t = transfer_of(q);
    if (tp_copies_make_room(tp_opencl_copies(q->executor), o, &mover) ||
        (!mover.asks_nothing && tp_pinned_give_up(&q->pinned, &t)))
        return true;
    if (s->is_alone)
        return false;
    tp_copies_note_shortage(tp_opencl_copies(q->executor));
    tp_room_join(room, &s->me);
    s->is_alone = true;
    if (!tp_room_be_alone(room, &s->me, is_given_up, q))
        return false;
    tp_room_empty(room, true);
    return true;
}

static void end_shortage(tp_queue *q, shortage *s)
{
    if (!s->is_alone)
        return;
    tp_room_end(&q->open.life->room, &s->me);
    tp_room_leave(&q->open.life->room, &s->me);
}

cl_mem tp_queue_allocate(tp_queue *q, size_t size, tp_make_memory *make, const void *how,
                         cl_int *rc)
{
    const tp_open_device *o = &q->open;
    shortage s = { 0 };
    cl_mem mem;
    do {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        mem = NULL;
        /* drivers may accept more than there is, and fail only when it is used */
        if (tp_room_held(&o->life->room, TP_HELD_BUFFERS) + size > o->device->memory) {
            tp_copies_note_shortage(tp_opencl_copies(q->executor));
            break;
        }
        mem = make(q, how, rc);
        if (*rc != CL_SUCCESS && mem) {
            o->cl->ReleaseMemObject(mem);
            mem = NULL;
        }
        if (tp_room_is_short(*rc) && q->n_held && o->cl->Finish(q->queue) == CL_SUCCESS)
            drop_held(q);
    } while (tp_room_is_short(*rc) && find_room(q, &s));
    end_shortage(q, &s);
    if (mem)
        tp_room_add(&o->life->room, TP_HELD_BUFFERS, size);
    return mem;
}

/* What a buffer has at first. */
typedef struct contents {
    size_t size;
    const void *data; /* NULL: zeros */
} contents;

static cl_mem make_buffer(tp_queue *q, const void *how, cl_int *rc)
{
    const contents *c = how;
    cl_mem mem = q->open.cl->CreateBuffer(q->open.context, CL_MEM_READ_WRITE, c->size, NULL, rc);
    if (*rc != CL_SUCCESS)
        return NULL;
    *rc = fill(q, mem, c->size, c->data);
    return mem;
}

int tp_buffer_open(tp_buffer **out, tp_queue *q, size_t size, tp_array *array, void *data,
                   tp_error *err)
{
    const tp_open_device *o = &q->open;
    bool is_shared = array && o->device->is_unified && (uintptr_t)data % ALIGNMENT == 0;
    char wanted[TP_AMOUNT_TEXT], most[TP_AMOUNT_TEXT];
    cl_int rc;
    size_t room = size ? size : 1; /* OpenCL has no empty buffers */
    if (settle(q, err))
        return -1;
    look(q);
    if (room > o->device->max_alloc)
        return tp_error_set(err, TP_ESYS, "%s: a buffer of %s is over the device's largest, %s",
                            o->device->name, tp_amount_of_bytes(wanted, room),
                            tp_amount_of_bytes(most, o->device->max_alloc));
    tp_buffer *b = calloc(1, sizeof *b);
    if (!b)
        return tp_error_oom(err, "a device's buffer");
    tp_ref_init(&b->ref, &tp_buffer_type);
    b->open = *o;
    tp_ref_hold(o->life);
    b->size = room;
    if (is_shared) {
        b->array = tp_ref_hold(array);
        b->data = data;
        b->mem = o->cl->CreateBuffer(o->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, room,
                                     data, &rc);
    } else {
        contents c = { room, array && size ? data : NULL };
        b->mem = tp_queue_allocate(q, room, make_buffer, &c, &rc);
    }
    if (rc != CL_SUCCESS) {
        b->mem = NULL;
        tp_ref_drop(b);
        return tp_queue_say_short(q, "a buffer", room, "making a buffer", rc, err);
    }
    *out = b;
    return 0;
}

int tp_buffer_of_array(tp_buffer **out, tp_queue *q, tp_array *array, tp_error *err)
{
    const tp_open_device *o = &q->open;
    tp_copies *copies = tp_opencl_copies(q->executor);
    if (settle(q, err))
        return -1;
    look(q);
    tp_mover mover = mover_of(q);
    tp_copy *copy = tp_copies_take(copies, o, array, 0, array->size, &mover);
    if (!copy)
        return tp_copies_bring_array_home(array, NULL, err)
                   ? -1
                   : tp_buffer_open(out, q, array->size, array, array->data, err);
    tp_buffer *b = calloc(1, sizeof *b);
    int rc = b ? tp_copies_bring(copies, copy, 0, array->size, &mover, err)
               : tp_error_oom(err, "a device's buffer");
    if (rc == 0) {
        tp_ref_init(&b->ref, &tp_buffer_type);
        b->open = *o;
        tp_ref_hold(o->life);
        b->size = array->size;
        b->mem = tp_copy_memory(copy);
        o->cl->RetainMemObject(b->mem);
        tp_room_add(&o->life->room, TP_HELD_BUFFERS, b->size);
        *out = b;
    } else {
        free(b);
    }
    tp_copies_give_back(copies, copy);
    return rc;
}

int tp_buffer_present(tp_queue *q, tp_buffer *b, tp_array *array, tp_type type, tp_error *err)
{
    if (tp_buffer_check_life(b, err) || tp_queue_finish(q, err))
        return -1;
    return tp_copies_adopt(tp_opencl_copies(q->executor), &q->open, array, b->mem, type, err);
}

int tp_buffer_slice(tp_buffer **out, tp_buffer *b, size_t at, size_t size, tp_error *err)
{
    if (b->whole)
        at += b->at, b = b->whole;
    if (tp_buffer_check_life(b, err))
        return -1;
    tp_buffer *slice = calloc(1, sizeof *slice);
    if (!slice)
        return tp_error_oom(err, "a device's buffer");
    tp_ref_init(&slice->ref, &tp_buffer_type);
    slice->open = b->open;
    tp_ref_hold(b->open.life);
    slice->size = size;
    slice->whole = tp_ref_hold(b);
    slice->at = at;
    cl_int rc = CL_SUCCESS;
    cl_buffer_region region = { at, size };
    if (size)
        slice->mem = b->open.cl->CreateSubBuffer(b->mem, CL_MEM_READ_WRITE,
                                                 CL_BUFFER_CREATE_TYPE_REGION, &region, &rc);
    if (rc != CL_SUCCESS)
        slice->mem = NULL;
    if (rc != CL_SUCCESS && rc != CL_MISALIGNED_SUB_BUFFER_OFFSET) {
        tp_ref_drop(slice);
        tp_cl_fail(err, b->open.device, "making a slice of a buffer", rc);
        if (tp_life_is_suspect(rc))
            tp_life_check(b->open.life, NULL, 0, err);
        return -1;
    }
    *out = slice;
    return 0;
}

/* The buffer whose memory b is a part of; adds b's position in it to *at. */
static tp_buffer *whole_of(tp_buffer *b, size_t *at)
{
    if (!b->whole)
        return b;
    *at += b->at;
    return b->whole;
}

/* Maps memory that the device shares with the host, once the queue's commands have run, and copies
 * `size` bytes at `at` to `to`, or from `from` into it. */
static cl_int exchange(tp_queue *q, tp_buffer *b, size_t at, cl_map_flags flags, void *to,
                       const void *from, size_t size)
{
    const tp_cl *cl = q->open.cl;
    cl_int rc;
    char *mapped =
        cl->EnqueueMapBuffer(q->queue, b->mem, CL_TRUE, flags, 0, b->size, 0, NULL, NULL, &rc);
    if (rc != CL_SUCCESS)
        return rc;
    if (to && to != mapped + at)
        memcpy(to, mapped + at, size);
    if (from && from != mapped + at)
        memcpy(mapped + at, from, size);
    rc = cl->EnqueueUnmapMemObject(q->queue, b->mem, mapped, 0, NULL, NULL);
    return rc == CL_SUCCESS ? cl->Finish(q->queue) : rc;
}

int tp_buffer_read(tp_queue *q, tp_buffer *b, size_t at, void *to, size_t size, tp_type type,
                   tp_error *err)
{
    cl_int rc = CL_SUCCESS;
    tp_transfer t = transfer_of(q);
    if (tp_buffer_check_life(b, err) || settle(q, err))
        return -1;
    look(q);
    b = whole_of(b, &at);
    if (b->array)
        rc = exchange(q, b, at, CL_MAP_READ, to, NULL, size);
    else if (size)
        rc = tp_pinned_read(&q->pinned, &t, b->mem, at, to, size, true);
    if (rc != CL_SUCCESS)
        return tp_queue_fail(q, "reading a buffer", rc, err);
    drop_held(q);
    tp_make_canonical(type, to, size / tp_type_size(type));
    return 0;
}

int tp_buffer_write(tp_queue *q, tp_buffer *b, size_t at, const void *from, size_t size,
                    tp_error *err)
{
    cl_int rc = CL_SUCCESS;
    tp_transfer t = transfer_of(q);
    if (tp_buffer_check_life(b, err) || settle(q, err))
        return -1;
    look(q);
    b = whole_of(b, &at);
    if (b->array)
        rc = exchange(q, b, at, CL_MAP_WRITE, NULL, from, size);
    else if (size)
        rc = tp_pinned_write(&q->pinned, &t, b->mem, at, from, size, true);
    if (rc != CL_SUCCESS)
        return tp_queue_fail(q, "writing a buffer", rc, err);
    drop_held(q);
    return 0;
}

int tp_buffer_copy(tp_queue *q, tp_buffer *to, size_t at, tp_buffer *from, size_t from_at,
                   size_t size, tp_error *err)
{
    if (tp_buffer_check_life(to, err) || tp_buffer_check_life(from, err) ||
        (q->is_lost && settle(q, err)))
        return -1;
    if (size == 0)
        return 0;
    to = whole_of(to, &at);
    from = whole_of(from, &from_at);
    if (keep(q, to, err) || keep(q, from, err))
        return -1;
    cl_int rc = q->open.cl->EnqueueCopyBuffer(q->queue, from->mem, to->mem, from_at, at, size, 0,
                                              NULL, NULL);
    return rc == CL_SUCCESS ? 0 : tp_queue_fail(q, "copying a buffer", rc, err);
}

int tp_buffer_fill(tp_queue *q, tp_buffer *b, size_t at, size_t size, const void *pattern,
                   size_t pattern_size, tp_error *err)
{
    if (tp_buffer_check_life(b, err) || (q->is_lost && settle(q, err)))
        return -1;
    if (size == 0)
        return 0;
    b = whole_of(b, &at);
    if (keep(q, b, err))
        return -1;
    cl_int rc = q->open.cl->EnqueueFillBuffer(q->queue, b->mem, pattern, pattern_size, at, size, 0,
                                              NULL, NULL);
    return rc == CL_SUCCESS ? 0 : tp_queue_fail(q, "filling a buffer", rc, err);
}

/* ---- kernels ---- */

static void free_launcher(tp_ref *r)
{
    tp_launcher *l = (tp_launcher *)r;
    if (l->last)
        l->program->open.cl->ReleaseEvent(l->last);
    if (l->kernel)
        l->program->open.cl->ReleaseKernel(l->kernel);
    tp_ref_drop(l->program);
    free(l);
}

const tp_ref_type tp_launcher_type = { "tidepool.launcher", free_launcher };

static const tp_cl_device *device_of(const tp_program *p)
{
    return p->open.device;
}

int tp_program_kernels(tp_program *p, char *names, size_t size, tp_error *err)
{
    names[0] = 0;
    cl_program program = tp_program_take(p);
    if (!program)
        return tp_life_say_over(p->open.life, err);
    cl_int rc = p->open.cl->GetProgramInfo(program, CL_PROGRAM_KERNEL_NAMES, size, names, NULL);
    p->open.cl->ReleaseProgram(program);
    return rc == CL_SUCCESS ? 0
                            : tp_cl_fail(err, device_of(p), "listing the program's kernels", rc);
}

bool tp_launcher_is_over(const tp_launcher *l)
{
    return tp_life_is_over(l->program->open.life);
}

int tp_launcher_open(tp_launcher **out, tp_program *p, const char *name, tp_error *err)
{
    const tp_cl *cl = p->open.cl;
    cl_device_id id = p->open.device->id;
    cl_uint n = 0;
    cl_int rc;
    tp_launcher *l = calloc(1, sizeof *l);
    if (!l)
        return tp_error_oom(err, "a kernel");
    tp_ref_init(&l->ref, &tp_launcher_type);
    l->program = tp_ref_hold(p);
    snprintf(l->name, sizeof l->name, "%s", name);
    l->kernel = tp_program_new_kernel(p, name, &rc);
    if (rc != CL_SUCCESS)
        l->kernel = NULL;
    else
        rc = cl->GetKernelInfo(l->kernel, CL_KERNEL_NUM_ARGS, sizeof n, &n, NULL);
    if (rc != CL_SUCCESS) {
        tp_cl_fail(err, device_of(p), "making the kernel", rc);
        if (tp_life_is_suspect(rc))
            tp_life_check(p->open.life, NULL, 0, err);
        tp_ref_drop(l);
        return -1;
    }
    l->n_parameters = n;
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_WORK_GROUP_SIZE, sizeof l->local_max,
                                   &l->local_max, NULL) ||
        l->local_max == 0)
        l->local_max = 1;
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_COMPILE_WORK_GROUP_SIZE,
                                   sizeof l->local, l->local, NULL))
        memset(l->local, 0, sizeof l->local);
    if (cl->GetKernelWorkGroupInfo(l->kernel, id, CL_KERNEL_LOCAL_MEM_SIZE, sizeof l->local_bytes,
                                   &l->local_bytes, NULL))
        l->local_bytes = 0;
    *out = l;
    return 0;
}

bool tp_launcher_parameter(tp_launcher *l, unsigned i, tp_parameter *out)
{
    const tp_cl *cl = l->program->open.cl;
    *out = (tp_parameter){ 0 };
    return cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_TYPE_NAME, sizeof out->type - 1,
                                out->type, NULL) == CL_SUCCESS &&
           cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_NAME, sizeof out->name - 1, out->name,
                                NULL) == CL_SUCCESS &&
           cl->GetKernelArgInfo(l->kernel, i, CL_KERNEL_ARG_ADDRESS_QUALIFIER, sizeof out->space,
                                &out->space, NULL) == CL_SUCCESS &&
           out->type[0] && out->name[0];
}

/* Refuses more local memory than the device has: PoCL would end the process. */
static int check_local(const tp_queue *q, const tp_launcher *l, const tp_launch_argument *arguments,
                       tp_error *err)
{
    uint64_t bytes = l->local_bytes, most = q->open.device->local_memory;
    char wanted[TP_AMOUNT_TEXT], all[TP_AMOUNT_TEXT];
    for (unsigned i = 0; i < l->n_parameters; i++)
        if (!arguments[i].buffer && !arguments[i].bytes)
            bytes += (arguments[i].size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes <= most)
        return 0;
    return tp_error_set(err, TP_ESYS, "%s: %s of __local memory are over the device's %s",
                        q->open.device->name, tp_amount_of_bytes(wanted, bytes),
                        tp_amount_of_bytes(all, most));
}

int tp_launch(tp_queue *q, tp_launcher *l, const tp_launch_range *range,
              const tp_launch_argument *arguments, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    if (check_local(q, l, arguments, err) || (q->is_lost && settle(q, err)))
        return -1;
    if (tp_launcher_is_over(l))
        return tp_life_say_over(l->program->open.life, err);
    for (unsigned i = 0; i < l->n_parameters; i++) {
        const tp_launch_argument *a = &arguments[i];
        if (a->buffer && !a->buffer->mem)
            return tp_error_set(err, TP_ESYS,
                                "%s: argument %u is a slice of %zu bytes that begins at byte %zu "
                                "of its buffer, where none may begin for "
                                "kernels: pass the buffer and a number",
                                q->open.device->name, i + 1, a->buffer->size, a->buffer->at);
        if (a->buffer && tp_life_is_over(a->buffer->open.life)) {
            char what[40];
            snprintf(what, sizeof what, "the buffer of argument %u", i + 1);
            return say_gone(a->buffer, what, err);
        }
        if (a->buffer && keep(q, a->buffer, err))
            return -1;
        cl_int rc = cl->SetKernelArg(l->kernel, i, a->buffer ? sizeof(cl_mem) : a->size,
                                     a->buffer ? (const void *)&a->buffer->mem : a->bytes);
        if (rc != CL_SUCCESS) {
            char what[40];
            snprintf(what, sizeof what, "passing argument %u", i + 1);
            return tp_queue_fail(q, what, rc, err);
        }
    }
    /* compilers may make a special version of the code for an offset */
    bool has_offset = range->offset[0] || range->offset[1] || range->offset[2];
    cl_event event = NULL;
    shortage s = { 0 };
    cl_int rc;
    do
        rc = cl->EnqueueNDRangeKernel(q->queue, l->kernel, range->dimensions,
                                      has_offset ? range->offset : NULL, range->global,
                                      range->local, 0, NULL, &event);
    while (tp_room_is_short(rc) && find_room(q, &s));
    end_shortage(q, &s);
    if (rc == CL_SUCCESS) {
        forget_last(q);
        if (l->last)
            cl->ReleaseEvent(l->last);
        l->last = cl->RetainEvent(event) == CL_SUCCESS ? event : NULL;
        q->last = event;
        snprintf(q->running, sizeof q->running, "%s", l->name);
        note_fresh(q, l->program);
        rc = cl->Flush(q->queue);
    }
    if (rc != CL_SUCCESS)
        tp_queue_fail(q, "starting the kernel", rc, err);
    return rc == CL_SUCCESS ? 0 : event ? TP_LAUNCH_WROTE : -1;
}

int tp_launcher_time(tp_queue *q, tp_launcher *l, double *seconds, tp_error *err)
{
    cl_ulong began = 0, ended = 0;
    *seconds = 0;
    if (!l->last)
        return 0;
    if (tp_queue_finish(q, err))
        return -1;
    cl_int rc = q->open.cl->GetEventProfilingInfo(l->last, CL_PROFILING_COMMAND_START, sizeof began,
                                                  &began, NULL);
    if (rc == CL_SUCCESS)
        rc = q->open.cl->GetEventProfilingInfo(l->last, CL_PROFILING_COMMAND_END, sizeof ended,
                                               &ended, NULL);
    if (rc != CL_SUCCESS)
        return tp_queue_fail(q, "asking how long the kernel took", rc, err);
    *seconds = (double)(ended - began) / 1e9;
    return 0;
}
