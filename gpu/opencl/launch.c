/* launch.c: launches: a kernel over many items, with what is reused from one launch to the next.
 *
 * A device that shares the host's memory works on columns where they lie. Elsewhere each argument
 * has a buffer on the device, and columns are copied there and back; captured arrays have copies
 * that stay there (copies.c). */
#include "opencl/launch.h"

#include "base/amount.h"

#include <stdlib.h>

enum {
    /* work items per group; one size per device, since PoCL compiles anew for each size */
    LOCAL_CPU = 16, LOCAL_GPU = TP_WORK_GROUP_MAX,
    /* PoCL compiles again when a dimension has 65,535 work items or more, so they lie in rows of
     * fewer. */
    ROW_MAX = 255 * LOCAL_GPU,
    SMALL = 1 << 16, /* bytes that need not be given back */
    COMPILE_MIN_NS = 1000 * 1000 /* a first launch whose kernel waits so long has compiled */
};

/* ---- kernels ---- */

static void free_kernel(tp_ref *r)
{
    tp_kernel *k = (tp_kernel *)r;
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        tp_ref_drop(k->programs[i]);
    for (unsigned i = 0; i < k->n_arguments; i++)
        tp_ref_drop(k->arguments[i].array);
    for (unsigned i = 0; i < k->n_failures; i++) {
        free(k->failures[i].format);
        free(k->failures[i].inside);
    }
    free(k->where);
    free(k);
}

const tp_ref_type tp_kernel_type = { "tidepool.kernel", free_kernel };

tp_kernel *tp_kernel_new(void)
{
    tp_kernel *k = calloc(1, sizeof *k);
    if (k) {
        tp_ref_init(&k->ref, &tp_kernel_type);
        k->detail = -1;
        k->group = 1;
    }
    return k;
}

bool tp_kernel_is_over(const tp_kernel *k)
{
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        if (k->programs[i] && tp_life_is_over(k->programs[i]->open.life))
            return true;
    return false;
}

/* ---- what a queue reuses ---- */

/* Copies without times. */
static tp_transfer transfer_of(const tp_launch_queue *q)
{
    return (tp_transfer){ .open = &q->open, .queue = q->queue };
}

static void free_memory(tp_launch_queue *q, tp_device_memory *m)
{
    if (m->mem) {
        tp_life_release(q->open.life, m->mem);
        tp_room_subtract(&q->open.life->room, TP_HELD_LAUNCHES, m->capacity);
    }
    *m = (tp_device_memory){ 0 };
}

/* See tp_tenant. Pinned memory can only be given back by commands, for which the device has to come
 * to the end of what it runs. */
static bool give_back(tp_tenant *tenant, bool all)
{
    tp_launch_queue *q = (tp_launch_queue *)tenant;
    tp_transfer t = transfer_of(q);
    bool had_some = false;
    for (tp_device_memory *m = q->memory; m < q->memory + TP_ARGUMENTS_MAX; m++) {
        had_some |= m->mem != NULL;
        free_memory(q, m);
    }
    if (all)
        had_some |= tp_pinned_give_up(&q->pinned, &t);
    return had_some;
}

static bool is_given_up(const tp_tenant *tenant)
{
    const tp_work *w = ((const tp_launch_queue *)tenant)->launched;
    return w->sink->is_cancelled(w);
}

/* Begins to launch programs of that life. */
static int enter(tp_launch_queue *q, tp_life *life, tp_error *err)
{
    q->queue = tp_life_new_queue(life, 0, err);
    if (!q->queue)
        return -1;
    q->open.life = tp_ref_hold(life);
    q->open.context = life->context;
    q->is_timed = false;
    tp_room_join(&life->room, &q->tenant);
    return 0;
}

int tp_launch_queue_open(tp_launch_queue *q, const tp_open_device *open, tp_turn *writing,
                         tp_copies *copies, tp_error *err)
{
    q->tenant = (tp_tenant){ .give_back = give_back, .is_given_up = is_given_up };
    q->open = *open;
    q->writing = writing;
    q->copies = copies;
    q->waiter = tp_queue_waiter_new(err);
    if (!q->waiter)
        return -1;
    if (enter(q, open->life, err) == 0)
        return 0;
    tp_ref_drop(q->waiter);
    return -1;
}

bool tp_is_too_much(size_t capacity, size_t wanted)
{
    return capacity > SMALL && capacity / 4 > wanted;
}

void tp_launch_queue_trim(tp_launch_queue *q)
{
    if (!q->queue)
        return; /* between two lives */
    tp_room_use(&q->open.life->room, &q->tenant);
    for (tp_device_memory *m = q->memory; m < q->memory + TP_ARGUMENTS_MAX; m++) {
        if (tp_is_too_much(m->capacity, m->wanted))
            free_memory(q, m);
        m->wanted = 0;
    }
    tp_transfer t = transfer_of(q);
    tp_pinned_trim(&q->pinned, &t);
    tp_room_end_use(&q->open.life->room, &q->tenant);
    tp_copies_trim(q->copies, &q->open);
}

void tp_launch_queue_let_go(tp_launch_queue *q)
{
    const tp_cl *cl = q->open.cl;
    if (!q->queue)
        return;
    tp_room_leave(&q->open.life->room, &q->tenant);
    tp_transfer t = transfer_of(q);
    for (int i = 0; i < TP_READY_KERNELS_MAX; i++)
        if (q->kernels[i].program) {
            cl->ReleaseKernel(q->kernels[i].kernel);
            tp_ref_drop(q->kernels[i].program);
            q->kernels[i] = (tp_ready_kernel){ 0 };
        }
    for (int i = 0; i < TP_ARGUMENTS_MAX; i++)
        free_memory(q, &q->memory[i]);
    tp_pinned_close(&q->pinned, &t);
    cl->ReleaseCommandQueue(q->queue);
    q->queue = NULL;
    q->has_new = false;
    tp_ref_drop(q->open.life);
    q->open.life = NULL;
}

void tp_launch_queue_close(tp_launch_queue *q)
{
    tp_launch_queue_let_go(q);
    tp_ref_drop(q->waiter);
}

bool tp_launch_queue_is_over(const tp_launch_queue *q)
{
    return q->queue && tp_life_is_over(q->open.life);
}

void tp_launch_queue_keep(tp_launch_queue *q)
{
    for (tp_ready_kernel *e = q->kernels; e < q->kernels + TP_READY_KERNELS_MAX; e++)
        if (e->program)
            tp_program_keep(e->program);
    q->has_new = false;
}

bool tp_launch_queue_has(const tp_launch_queue *q, const tp_kernel *k)
{
    const tp_program *program = k->programs[q->open.index];
    for (const tp_ready_kernel *e = q->kernels; e < q->kernels + TP_READY_KERNELS_MAX; e++)
        if (e->program == program)
            return true;
    return false;
}

static int fail(tp_error *err, tp_launch_queue *q, const char *what, cl_int rc)
{
    q->is_suspect |= tp_life_is_suspect(rc);
    if (tp_room_is_short(rc))
        q->shortage = rc;
    return tp_cl_fail(err, q->open.device, what, rc);
}

/* The work items of a group: as many as the source requires, or as suit the device. */
static size_t choose_local(const tp_launch_queue *q, cl_kernel kernel)
{
    const tp_cl *cl = q->open.cl;
    const tp_cl_device *d = q->open.device;
    size_t most = 1, local = d->type & CL_DEVICE_TYPE_CPU ? LOCAL_CPU : LOCAL_GPU;
    if (cl->GetKernelWorkGroupInfo(kernel, d->id, CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most,
                                   NULL))
        most = 1;
    while (local > most)
        local /= 2;
    size_t required[3] = { 0 };
    if (!cl->GetKernelWorkGroupInfo(kernel, d->id, CL_KERNEL_COMPILE_WORK_GROUP_SIZE,
                                    sizeof required, required, NULL) &&
        required[0])
        local = required[0];
    return local ? local : 1;
}

/* The program's kernel on this queue; a new one takes the place of the one that was used longest
 * ago. */
static tp_ready_kernel *get_kernel(tp_launch_queue *q, tp_program *p, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    const tp_cl_device *d = q->open.device;
    tp_ready_kernel *oldest = &q->kernels[0];
    for (tp_ready_kernel *e = q->kernels; e < q->kernels + TP_READY_KERNELS_MAX; e++) {
        if (e->program == p) {
            e->used = ++q->launches;
            return e;
        }
        if (e->used < oldest->used)
            oldest = e;
    }
    cl_int rc;
    cl_kernel kernel = tp_program_new_kernel(p, p->name, &rc);
    if (rc != CL_SUCCESS) {
        fail(err, q, "making the kernel", rc);
        return NULL;
    }
    cl_ulong bytes = 0;
    if (cl->GetKernelWorkGroupInfo(kernel, d->id, CL_KERNEL_LOCAL_MEM_SIZE, sizeof bytes, &bytes,
                                   NULL) == CL_SUCCESS &&
        bytes > d->local_memory) { /* PoCL would end the process */
        cl->ReleaseKernel(kernel);
        char wanted[TP_AMOUNT_TEXT], most[TP_AMOUNT_TEXT];
        tp_error_set(err, TP_ESYS, "%s: %s of __local memory are over the device's %s", d->name,
                     tp_amount_of_bytes(wanted, bytes), tp_amount_of_bytes(most, d->local_memory));
        return NULL;
    }
    if (oldest->program) {
        tp_program_keep(oldest->program);
        cl->ReleaseKernel(oldest->kernel);
        tp_ref_drop(oldest->program);
    }
    *oldest = (tp_ready_kernel){ tp_ref_hold(p), kernel, choose_local(q, kernel), ++q->launches };
    q->has_new = true;
    q->made++;
    return oldest;
}

/* ---- times ---- */

/* Remakes the queue with or without profiling, which commands are measured by while the host is
 * traced, or the job wants its times. Called between launches, when the queue is empty. When no new
 * queue can be made, the old one stays. */
static void set_timed(tp_launch_queue *q, bool is_timed)
{
    const tp_cl *cl = q->open.cl;
    cl_int rc;
    if (q->is_timed == is_timed)
        return;
    cl_command_queue queue = cl->CreateCommandQueue(
        q->open.context, q->open.device->id, is_timed ? CL_QUEUE_PROFILING_ENABLE : 0, &rc);
    if (rc != CL_SUCCESS)
        return;
    cl->ReleaseCommandQueue(q->queue);
    q->queue = queue;
    q->is_timed = is_timed;
}

/* Where the command that is queued next leaves its event; NULL: nobody wants to know. */
static cl_event *time_command(tp_launch_queue *q, tp_event_kind kind, uint64_t count)
{
    if (!q->is_timed || q->n_timed == TP_TIMED_MAX)
        return NULL;
    tp_timed_command *t = &q->timed[q->n_timed++];
    *t = (tp_timed_command){ .kind = kind, .count = count, .queued_ns = uv_hrtime() };
    return &t->event;
}

static cl_event *time_copy_in(void *q, size_t size)
{
    return time_command(q, TP_EVENT_COPY_IN, size);
}

static cl_event *time_copy_out(void *q, size_t size)
{
    return time_command(q, TP_EVENT_COPY_OUT, size);
}

/* When a command was queued, began and ended, by the device's clock. */
static bool read_times(const tp_launch_queue *q, cl_event event, cl_ulong times[3])
{
    static const cl_profiling_info what[] = { CL_PROFILING_COMMAND_QUEUED,
                                              CL_PROFILING_COMMAND_START,
                                              CL_PROFILING_COMMAND_END };
    for (int i = 0; i < 3; i++)
        if (q->open.cl->GetEventProfilingInfo(event, what[i], sizeof times[i], &times[i], NULL))
            return false;
    return times[0] <= times[1] && times[1] <= times[2];
}

/* All commands are over. Notes when they ran: the device's clock is aligned with the host's by the
 * time at which each was queued. Returns when the kernel began; 0: that is not known. */
static uint64_t note_times(tp_launch_queue *q)
{
    const tp_worker *worker = q->work->worker;
    uint64_t begun_ns = 0;
    for (unsigned i = 0; i < q->n_timed; i++) {
        const tp_timed_command *t = &q->timed[i];
        cl_ulong times[3];
        if (!t->event)
            continue;
        if (q->is_timed && read_times(q, t->event, times)) {
            tp_event e = { .time_ns = t->queued_ns + (times[1] - times[0]),
                           .kind = t->kind,
                           .worker = worker->id,
                           .job = q->work->terms->number,
                           .first = times[2] - times[1],
                           .count = t->count };
            if (tp_trace_is_on(worker->trace))
                tp_trace_write(worker->trace, &e);
            if (t->kind == TP_EVENT_KERNEL)
                begun_ns = e.time_ns;
        }
        q->open.cl->ReleaseEvent(t->event);
    }
    q->n_timed = 0;
    return begun_ns;
}

/* ---- memory ---- */

static tp_mover mover_of(tp_launch_queue *q)
{
    return (tp_mover){ .queue = q->queue,
                       .pinned = &q->pinned,
                       .life = q->open.life,
                       .worker = q->work->worker->id,
                       .job = q->work->terms->number,
                       .shortage = &q->shortage };
}

/* Makes memory of the queue's large enough for argument `slot` of a launch, whose arguments before
 * that have theirs; with some to spare, where there is that much. Where the device has not enough,
 * what it has for the arguments behind that is given up, then what others have there and can have
 * again; at last the pinned memory, for which drivers may have taken some of the device's. */
static int grow(tp_launch_queue *q, unsigned slot, size_t size, tp_error *err)
{
    tp_device_memory *m = &q->memory[slot];
    tp_transfer t = transfer_of(q);
    tp_mover mover = mover_of(q);
    unsigned behind = slot + 1;
    size_t capacity = q->is_frugal ? size : size + size / 4;
    cl_int rc;
    free_memory(q, m);
    for (;;) { /* a multiple of the word size */
        m->mem = q->open.cl->CreateBuffer(q->open.context, CL_MEM_READ_WRITE, capacity + 4, NULL,
                                          &rc);
        if (rc == CL_SUCCESS)
            break;
        m->mem = NULL;
        while (behind < TP_ARGUMENTS_MAX && !q->memory[behind].mem)
            behind++;
        if (capacity > size)
            capacity = size;
        else if (behind < TP_ARGUMENTS_MAX)
            free_memory(q, &q->memory[behind]);
        else if (!tp_copies_make_room(q->copies, &q->open, &mover) &&
                 !tp_pinned_give_up(&q->pinned, &t)) {
            q->wanted = size;
            return fail(err, q, "allocating memory", rc);
        }
    }
    m->capacity = capacity;
    tp_room_add(&q->open.life->room, TP_HELD_LAUNCHES, capacity);
    return 0;
}

/* Memory on the device for argument `slot`, with what is at `data`. Nothing is copied if the kernel
 * only writes it. */
static int map(tp_launch_queue *q, unsigned slot, cl_mem_flags flags, void *data, size_t size,
               cl_mem *out, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    cl_context context = q->open.context;
    cl_int rc;
    if (q->open.device->is_unified) {
        *out = cl->CreateBuffer(context, flags | CL_MEM_USE_HOST_PTR, size, data, &rc);
        return rc == CL_SUCCESS ? 0 : fail(err, q, "using host memory", rc);
    }
    tp_device_memory *m = &q->memory[slot];
    if (m->capacity < size && grow(q, slot, size, err))
        return -1;
    m->wanted = m->wanted > size ? m->wanted : size;
    *out = m->mem;
    if (flags & CL_MEM_WRITE_ONLY)
        return 0;
    tp_transfer t = transfer_of(q);
    t.time = time_copy_in;
    t.user = q;
    rc = tp_pinned_write(&q->pinned, &t, m->mem, 0, data, size, false);
    return rc == CL_SUCCESS ? 0 : fail(err, q, "copying to the device", rc);
}

/* Copies what the launch wrote into host memory; it is there once the queue has been finished. */
static int fetch(tp_launch_queue *q, cl_mem mem, void *data, size_t size, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    const tp_cl_device *d = q->open.device;
    cl_int rc = CL_SUCCESS;
    if (d->is_unified && !(d->type & CL_DEVICE_TYPE_CPU)) {
        void *mapped = cl->EnqueueMapBuffer(q->queue, mem, CL_TRUE, CL_MAP_READ, 0, size, 0, NULL,
                                            NULL, &rc);
        if (rc == CL_SUCCESS)
            rc = cl->EnqueueUnmapMemObject(q->queue, mem, mapped, 0, NULL, NULL);
    } else if (!d->is_unified) {
        tp_transfer t = transfer_of(q);
        t.time = time_copy_out;
        t.user = q;
        rc = tp_pinned_read(&q->pinned, &t, mem, 0, data, size, false);
    }
    return rc == CL_SUCCESS ? 0 : fail(err, q, "copying from the device", rc);
}

/* ---- copies of arrays ---- */

static size_t place_in_array(const tp_argument *a)
{
    return (size_t)((const char *)a->data - (const char *)a->array->data);
}

/* The captured array's memory on the device. A device of its own memory keeps a copy, for other
 * launches and maps; where there is no room for one the array is copied for this launch alone. */
static int map_array(tp_launch_queue *q, unsigned slot, const tp_argument *a, cl_mem *out,
                     tp_error *err)
{
    cl_mem_flags flags = a->is_written ? CL_MEM_READ_WRITE : CL_MEM_READ_ONLY;
    tp_mover mover = mover_of(q);
    if (q->open.device->is_unified)
        return map(q, slot, flags, a->data, a->size, out, err);
    tp_copy *copy = tp_copies_take(q->copies, &q->open, a->array, place_in_array(a), a->size,
                                    &mover);
    if (copy) {
        q->taken[slot] = copy;
        *out = tp_copy_memory(copy);
        return tp_copies_bring(q->copies, copy, 0, a->size, &mover, err);
    }
    /* other devices' copies may be newer than the array */
    if (tp_copies_bring_home(q->copies, a->array, place_in_array(a), a->size, &mover, err))
        return -1;
    return map(q, slot, flags, a->data, a->size, out, err);
}

/* A column of a launch, which may lie in an array: then the device keeps it in its copy of the
 * whole array, of which only what launches have needed is there. */
static int map_column(tp_launch_queue *q, unsigned slot, tp_array *array, void *data, size_t size,
                      bool is_output, cl_mem *out, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    cl_mem_flags flags = is_output ? CL_MEM_WRITE_ONLY : CL_MEM_READ_ONLY;
    tp_mover mover = mover_of(q);
    if (q->open.device->is_unified || !array || size == 0)
        return map(q, slot, flags, data, size, out, err);
    size_t at = (size_t)((char *)data - (char *)array->data);
    tp_copy *copy =
        q->is_frugal
            ? NULL
            : tp_copies_take(q->copies, &q->open, array, 0, array->size, &mover);
    if (!copy) {
        if (!is_output && tp_copies_bring_home(q->copies, array, at, size, &mover, err))
            return -1;
        return map(q, slot, flags, data, size, out, err);
    }
    q->taken[slot] = copy;
    if (!is_output && tp_copies_bring(q->copies, copy, at, at + size, &mover, err))
        return -1;
    cl_int rc;
    cl_buffer_region region = { at, size };
    cl_mem part = cl->CreateSubBuffer(tp_copy_memory(copy), CL_MEM_READ_WRITE,
                                      CL_BUFFER_CREATE_TYPE_REGION, &region, &rc);
    if (rc == CL_SUCCESS) {
        *out = q->column[slot] = part;
        return 0;
    }
    /* only allocates: CL_MEM_WRITE_ONLY copies nothing */
    if (map(q, slot, CL_MEM_WRITE_ONLY, data, size, out, err))
        return -1;
    rc = is_output ? CL_SUCCESS
                   : cl->EnqueueCopyBuffer(q->queue, tp_copy_memory(copy), *out, at, 0, size, 0,
                                           NULL, NULL);
    return rc == CL_SUCCESS ? 0 : fail(err, q, "copying on the device", rc);
}

/* The launch has been started: what it gives through argument `slot` goes to where it is kept. */
static int keep_output(tp_launch_queue *q, unsigned slot, tp_array *array, const void *data,
                       size_t size, cl_mem mem, tp_error *err)
{
    if (!q->taken[slot] || q->column[slot])
        return 0;
    size_t at = (size_t)((const char *)data - (const char *)array->data);
    cl_int rc = q->open.cl->EnqueueCopyBuffer(q->queue, mem, tp_copy_memory(q->taken[slot]), 0, at,
                                              size, 0, NULL, NULL);
    return rc == CL_SUCCESS ? 0 : fail(err, q, "copying on the device", rc);
}

/* The launch is over, and what it gives through argument `slot` is in the device's copy of the
 * array, and in the array itself unless it stays there. */
static int note_output(tp_launch_queue *q, const tp_kernel *k, unsigned slot, tp_array *array,
                       void *data, size_t size, bool stays, tp_error *err)
{
    tp_mover mover = mover_of(q);
    tp_type foreign = k->is_foreign ? k->arguments[slot].type : TP_TYPES;
    tp_copy *copy = q->taken[slot];
    if (!array || q->open.device->is_unified)
        return 0;
    size_t at = (size_t)((const char *)data - (const char *)array->data);
    if (!copy && stays && foreign != TP_TYPES) /* it was to be made so on its way home */
        tp_make_canonical(foreign, data, size / tp_type_size(foreign));
    if (!copy)
        tp_copies_note_home(q->copies, array, at, at + size);
    else if (tp_copies_note_written(q->copies, copy, at, at + size, !stays, foreign))
        return tp_copies_fetch(q->copies, copy, at, at + size, &mover, err);
    return 0;
}

/* The kernel has changed the array of argument `slot`. */
static int note_written(tp_launch_queue *q, unsigned slot, const tp_argument *a, tp_error *err)
{
    tp_mover mover = mover_of(q);
    tp_copy *copy = q->taken[slot];
    if (!copy)
        tp_array_touch(a->array); /* the kernel wrote to the array itself */
    else if (tp_copies_note_written(q->copies, copy, 0, a->size, false, TP_TYPES))
        return tp_copies_fetch(q->copies, copy, 0, a->size, &mover, err);
    return 0;
}

/* Who keeps copies of an array that the argument writes to; NULL: nobody, so nothing is ahead. */
static tp_copies *keeper_of(const tp_argument *a)
{
    return a->is_written
               ? (tp_copies *)atomic_load_explicit(&a->array->keeper, memory_order_acquire)
               : NULL;
}

int tp_launch_bring_home(tp_launch_queue *q, const tp_kernel *k, tp_error *err)
{
    int rc = 0;
    tp_mover mover = q ? mover_of(q) : (tp_mover){ 0 };
    for (unsigned i = 0; i < k->n_arguments; i++) {
        const tp_argument *a = &k->arguments[i];
        tp_copies *copies = keeper_of(a);
        if (copies &&
            tp_copies_bring_home(copies, a->array, place_in_array(a), a->size, &mover, err))
            rc = -1;
    }
    return rc;
}

void tp_launch_forget_lost(const tp_kernel *k)
{
    for (unsigned i = 0; i < k->n_arguments; i++) {
        const tp_argument *a = &k->arguments[i];
        tp_copies *copies = keeper_of(a);
        if (copies)
            tp_copies_forget_lost(copies, a->array);
    }
}

uint64_t tp_launch_ahead(const tp_kernel *k)
{
    uint64_t devices = 0;
    for (unsigned i = 0; i < k->n_arguments; i++) {
        const tp_argument *a = &k->arguments[i];
        tp_copies *copies = keeper_of(a);
        if (copies)
            devices |= tp_copies_ahead(copies, a->array, place_in_array(a), a->size);
    }
    return devices;
}

/* ---- launches ---- */

/* Sets argument i of the kernel. *mem is its memory if it is a buffer. */
static int pass_argument(tp_launch_queue *q, const tp_ready_kernel *e, const tp_kernel *k,
                         unsigned i, const tp_launch_items *items, cl_mem *mem, tp_error *err)
{
    const tp_argument *a = &k->arguments[i];
    const tp_work *w = items->work;
    cl_ulong first = 0, count = items->n / k->group;
    cl_ulong index = w->terms->base + w->block->first + w->at;
    tp_key key = w->terms->draws;
    size_t size = sizeof(cl_mem), width = tp_type_size(a->type);
    const void *value = mem;
    int rc = 0;
    switch (a->kind) {
    /* Little endian: the first bytes are the narrower integer. */
    case TP_ARG_FIRST: size = width, value = &first; break;
    case TP_ARG_COUNT: size = width, value = &count; break;
    case TP_ARG_KEY: size = sizeof(cl_ulong), value = &key.half[a->index]; break;
    case TP_ARG_INDEX: size = sizeof(cl_ulong), value = &index; break;
    case TP_ARG_VALUE: size = a->size, value = &a->value; break;
    case TP_ARG_INPUT:
        rc = map_column(q, i, items->input_arrays[a->index], items->inputs[a->index],
                        items->n * width, false, mem, err);
        break;
    case TP_ARG_OUTPUT:
        rc = map_column(q, i, items->output_arrays[a->index], items->outputs[a->index],
                        count * width, true, mem, err);
        break;
    case TP_ARG_FAILED:
        rc = map(q, i, CL_MEM_WRITE_ONLY, items->failed, count, mem, err);
        break;
    case TP_ARG_DETAILS:
        rc = map(q, i, CL_MEM_WRITE_ONLY, items->details, a->index * count * width, mem, err);
        break;
    case TP_ARG_ARRAY: rc = map_array(q, i, a, mem, err); break;
    }
    if (rc)
        return -1;
    cl_int status = q->open.cl->SetKernelArg(e->kernel, i, size, value);
    return status == CL_SUCCESS ? 0 : fail(err, q, "passing an argument", status);
}

/* Launches the kernel with one work item for each `lanes` elements. If *begun is set then, the
 * launch is to be ended there (tp_widths_end) when it has run. */
static int start(tp_launch_queue *q, const tp_ready_kernel *e, const tp_kernel *k, uint32_t n,
                 unsigned lanes, tp_widths **begun, tp_error *err)
{
    size_t items = (n + lanes - 1) / lanes;
    size_t rows = k->has_rows ? (items + ROW_MAX - 1) / ROW_MAX : 1;
    size_t row = (items + rows - 1) / rows, local[] = { e->local, 1 };
    size_t global[] = { (row + e->local - 1) / e->local * e->local, rows };
    *begun = e->program->widths;
    if (*begun)
        tp_widths_begin(*begun, global[0] > rows ? global[0] : rows);
    cl_int status = q->open.cl->EnqueueNDRangeKernel(q->queue, e->kernel, rows > 1 ? 2 : 1, NULL,
                                                     global, local, 0, NULL,
                                                     time_command(q, TP_EVENT_KERNEL, n));
    return status == CL_SUCCESS ? 0 : fail(err, q, "starting the kernel", status);
}

/* Copies what the kernel wrote through argument i into host memory, but for arrays of which the
 * device keeps copies. */
static int fetch_argument(tp_launch_queue *q, const tp_kernel *k, unsigned i,
                          const tp_launch_items *items, cl_mem mem, tp_error *err)
{
    const tp_argument *a = &k->arguments[i];
    size_t count = items->n / k->group;
    if (a->kind == TP_ARG_OUTPUT) {
        void *to = items->outputs[a->index];
        size_t size = count * tp_type_size(a->type);
        if (keep_output(q, i, items->output_arrays[a->index], to, size, mem, err))
            return -1;
        return q->taken[i] && items->stays ? 0 : fetch(q, mem, to, size, err);
    }
    if (a->kind == TP_ARG_FAILED)
        return fetch(q, mem, items->failed, count, err);
    return a->is_written && !q->taken[i] ? fetch(q, mem, a->data, a->size, err) : 0;
}

/* The details of failures, when the launch is over: most launches have no failure. `*is_home`: they
 * were fetched; the output that has some of them is in host memory, wherever it stays. */
static int fetch_details(tp_launch_queue *q, const tp_kernel *k, const tp_launch_items *items,
                         const cl_mem *mems, bool *is_home, tp_error *err)
{
    size_t count = items->n / k->group, at = 0;
    const uint8_t *failed = items->failed;
    while (at < count && !failed[at])
        at++;
    for (unsigned i = 0; at < count && i < k->n_arguments; i++) {
        const tp_argument *a = &k->arguments[i];
        size_t size = count * tp_type_size(a->type);
        void *to = NULL;
        if (a->kind == TP_ARG_DETAILS) {
            to = items->details;
            size *= a->index;
        } else if (a->kind == TP_ARG_OUTPUT && (int)a->index == k->detail && q->taken[i] &&
                   items->stays) {
            to = items->outputs[a->index]; /* which was not fetched yet */
        }
        if (to && fetch(q, mems[i], to, size, err))
            return -1;
    }
    cl_int status = at < count ? q->open.cl->Finish(q->queue) : CL_SUCCESS;
    *is_home = at < count;
    return status == CL_SUCCESS ? 0 : fail(err, q, "copying from the device", status);
}

/* Makes the queue one of the program's life. */
static int follow(tp_launch_queue *q, const tp_program *p, tp_error *err)
{
    if (tp_life_is_over(p->open.life))
        return tp_life_say_over(p->open.life, err);
    if (q->queue && q->open.life == p->open.life)
        return 0;
    tp_launch_queue_let_go(q);
    return enter(q, p->open.life, err);
}

static int launch(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items, tp_error *err)
{
    const tp_cl *cl = q->open.cl;
    bool is_unified = q->open.device->is_unified;
    unsigned lanes = k->lanes[q->open.index];
    const uint64_t made = q->made, begun_ns = uv_hrtime();
    tp_ready_kernel *e = get_kernel(q, k->programs[q->open.index], err);
    if (!e)
        return -1;
    if (lanes < k->group && e->local % (k->group / lanes))
        return tp_error_set(err, TP_ESYS, "%s: its work groups are too small for reductions",
                            q->open.device->name);
    cl_mem mems[TP_ARGUMENTS_MAX] = { 0 };
    set_timed(q, q->work->terms->is_timed || tp_trace_is_on(q->work->worker->trace));
    tp_transfer t = transfer_of(q);
    int rc = 0;
    tp_widths *begun = NULL;
    for (unsigned i = 0; i < k->n_arguments && rc == 0; i++)
        rc = pass_argument(q, e, k, i, items, &mems[i], err);
    if (rc == 0)
        rc = start(q, e, k, items->n, lanes, &begun, err);
    const bool may_write = k->is_writer && rc == 0;
    for (unsigned i = 0; i < k->n_arguments && rc == 0; i++)
        rc = fetch_argument(q, k, i, items, mems[i], err);
    /* also after a failure, so that nothing uses host memory any more: see tp_launch_run */
    tp_queue_waiter_wait(q->waiter, cl, q->queue);
    cl_int status = cl->Finish(q->queue);
    if (begun)
        tp_widths_end(begun);
    if (status != CL_SUCCESS && rc == 0)
        rc = fail(err, q, "running the kernel", status);
    status = tp_pinned_settle(&q->pinned, &t);
    if (status != CL_SUCCESS && rc == 0)
        rc = fail(err, q, "copying to the device", status);
    bool is_home = false;
    if (rc == 0 && k->n_failures > 0)
        rc = fetch_details(q, k, items, mems, &is_home, err);
    /* given up with its life: what it has written there is nobody's any more */
    if (rc == 0 && tp_life_is_over(q->open.life))
        rc = tp_life_say_over(q->open.life, err);
    const uint64_t ran_ns = note_times(q);
    if (q->made != made && ran_ns >= begun_ns + COMPILE_MIN_NS) {
        q->compiled_ns += ran_ns - begun_ns;
        tp_program_note_build(e->program, TP_BUILD_LAUNCHED, q->work->worker->id, begun_ns, ran_ns);
    }
    for (unsigned i = 0; i < k->n_arguments && is_unified; i++)
        if (mems[i])
            cl->ReleaseMemObject(mems[i]);
    for (unsigned i = 0; i < k->n_arguments; i++) {
        const tp_argument *a = &k->arguments[i];
        tp_error ignored = { 0 }; /* what has failed first is told */
        if (a->is_written && may_write && note_written(q, i, a, rc == 0 ? err : &ignored))
            rc = -1;
        if (rc == 0 && a->kind == TP_ARG_OUTPUT) {
            /* nobody else may write, as what is ahead, what this thread reads its details from */
            bool stays = items->stays && !(is_home && (int)a->index == k->detail);
            rc = note_output(q, k, i, items->output_arrays[a->index], items->outputs[a->index],
                             items->n / k->group * tp_type_size(a->type), stays, err);
        }
        if (q->column[i])
            cl->ReleaseMemObject(q->column[i]);
        tp_copies_give_back(q->copies, q->taken[i]);
        q->taken[i] = NULL;
        q->column[i] = NULL;
    }
    return rc && may_write ? TP_LAUNCH_WROTE : rc;
}

/* As launch(). If it fails since the life is over, err says so. */
static int try_launch(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items,
                      tp_error *err)
{
    q->is_suspect = false;
    q->shortage = CL_SUCCESS;
    q->wanted = 0;
    int rc = launch(q, k, items, err);
    if (rc && (q->is_suspect || tp_life_is_over(q->open.life)))
        tp_life_check(q->open.life, &q->queue, q->is_timed ? CL_QUEUE_PROFILING_ENABLE : 0, err);
    return rc;
}

/* Has the launch failed for want of memory? A dead context may say so, too. */
static bool is_short(const tp_launch_queue *q)
{
    return q->shortage != CL_SUCCESS && !tp_life_is_over(q->open.life);
}

static bool is_unwanted(void *user)
{
    return is_given_up(user);
}

/* The launch has failed for want of memory. Gives back what it has, and runs it when no other one
 * has any. If that is not enough, it runs with no more on the device than it needs: what can be had
 * again goes before, since drivers may find out only when memory is used, and columns in arrays are
 * moved by themselves. */
static int launch_alone(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items,
                        tp_error *err)
{
    tp_room *room = &q->open.life->room;
    tp_mover mover = mover_of(q);
    int rc = -1;
    tp_copies_note_shortage(q->copies);
    give_back(&q->tenant, true);
    if (!tp_room_be_alone(room, &q->tenant, is_unwanted, q))
        return -1;
    tp_room_empty(room, true);
    for (int i = 0; i < 2 && rc == -1 && is_short(q); i++) {
        q->is_frugal = i > 0;
        if (q->is_frugal) {
            give_back(&q->tenant, true);
            while (tp_copies_make_room(q->copies, &q->open, &mover))
                ;
        }
        *err = (tp_error){ 0 };
        rc = try_launch(q, k, items, err);
    }
    q->is_frugal = false;
    if (rc == -1 && is_short(q)) {
        *err = (tp_error){ 0 };
        tp_room_say_full(room, q->wanted ? "an argument of a launch" : "a launch", q->wanted,
                         q->shortage, err);
    }
    return rc;
}

int tp_launch_run(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items, tp_error *err)
{
    if (k->is_writer)
        tp_turn_begin(q->writing, items->work);
    const tp_work *w = items->work;
    tp_work_note(w, TP_EVENT_BEGIN, w->at, items->n);
    int rc = follow(q, k->programs[q->open.index], err);
    if (rc == 0) {
        tp_room *room = &q->open.life->room;
        q->launched = w;
        tp_room_begin(room, &q->tenant);
        rc = try_launch(q, k, items, err);
        if (rc == -1 && is_short(q))
            rc = launch_alone(q, k, items, err);
        tp_room_end(room, &q->tenant);
    }
    tp_work_note(w, TP_EVENT_END, w->at, items->n);
    if (k->is_writer)
        tp_turn_end(q->writing, w);
    return rc;
}

bool tp_launch_is_over(const tp_launch_queue *q, const tp_kernel *k)
{
    return tp_life_is_over(k->programs[q->open.index]->open.life);
}

/* ---- warming up ---- */

/* Sets argument i for a launch of no items, whose work items look at their number and at nothing
 * else. */
static cl_int pass_nothing(const tp_launch_queue *q, cl_kernel kernel, const tp_argument *a,
                           unsigned i)
{
    const cl_ulong zero = 0;
    const cl_mem none = NULL;
    size_t size = sizeof none;
    const void *value = &none;
    switch (a->kind) {
    case TP_ARG_FIRST:
    case TP_ARG_COUNT: size = tp_type_size(a->type), value = &zero; break;
    case TP_ARG_KEY:
    case TP_ARG_INDEX: size = sizeof zero, value = &zero; break;
    case TP_ARG_VALUE: size = a->size, value = &a->value; break;
    default: break;
    }
    return q->open.cl->SetKernelArg(kernel, i, size, value);
}

void tp_launch_warm_up(tp_launch_queue *q, tp_kernel *k, uint32_t worker)
{
    const tp_cl *cl = q->open.cl;
    tp_program *p = k->programs[q->open.index];
    const uint64_t begun_ns = uv_hrtime();
    tp_error ignored = { 0 };
    tp_ready_kernel *e = follow(q, p, &ignored) == 0 ? get_kernel(q, p, &ignored) : NULL;
    cl_int rc = e ? CL_SUCCESS : CL_INVALID_KERNEL;
    for (unsigned i = 0; i < k->n_arguments && rc == CL_SUCCESS; i++)
        rc = pass_nothing(q, e->kernel, &k->arguments[i], i);
    if (rc != CL_SUCCESS)
        return;
    size_t local[] = { e->local, 1 };
    size_t global[] = { (ROW_MAX + e->local - 1) / e->local * e->local, 1 };
    if (p->widths)
        tp_widths_begin(p->widths, global[0]);
    rc = cl->EnqueueNDRangeKernel(q->queue, e->kernel, 1, NULL, global, local, 0, NULL, NULL);
    tp_queue_waiter_wait(q->waiter, cl, q->queue);
    cl->Finish(q->queue);
    if (p->widths)
        tp_widths_end(p->widths);
    const uint64_t ended_ns = uv_hrtime();
    if (rc == CL_SUCCESS && ended_ns >= begun_ns + COMPILE_MIN_NS)
        tp_program_note_build(p, TP_BUILD_LAUNCHED, worker, begun_ns, ended_ns);
}
