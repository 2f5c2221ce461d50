/* exec_opencl.c: items run by kernels on OpenCL devices.
 *
 * One thread per device (two where memory is copied, so that one copies while the other computes) pulls slices like any worker, and
 * turns each into one launch: columns of numbers in, columns of numbers out, a byte per element that says whether it failed. A device
 * that shares the host's memory works on the columns where they lie, also in users' arrays.
 *
 * Elsewhere: from a Lua function to a program (gpu/translate.lua), to arguments (lua/tidepool/gpu.lua). No Lua runs here. */
#include "exec_opencl.h"

#include "host.h"
#include "message.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    KERNELS_MAX = 16,            /* cl_kernels that a worker keeps */
    SLOTS = TP_ARGUMENTS_MAX,
    LOCAL_CPU = 16, LOCAL_GPU = 256, /* one local size per device: PoCL compiles again for each */
    PART_MAX = 1 << 24,          /* items per launch */
    PART_MIN = 1 << 12,
    ROW_MAX = 255 * 256, /* work items in a row: PoCL compiles again where a dimension has 65,535 or more */
    SPIN_NS = 50 * 1000,
    DECIDE_NS = 100 * 1000       /* what a map waits for its caller to say sum() or the like, which it does at once or not at all */
};

/* ---- programs and kernels ---- */

static void free_program(tp_ref *r)
{
    tp_program *p = (tp_program *)r;
    if (p->program)
        p->cl->ReleaseProgram(p->program);
    free(p->name);
    free(p->text);
    free(p->path);
    free(p);
}

const tp_ref_type tp_program_type = { "tidepool.program", free_program };

static void free_kernel(tp_ref *r)
{
    tp_kernel *k = (tp_kernel *)r;
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        tp_ref_drop(k->programs[i]);
    for (unsigned i = 0; i < k->n_arguments; i++)
        tp_ref_drop(k->arguments[i].array);
    for (unsigned i = 0; i < k->n_failures; i++) {
        free(k->failures[i].plain);
        free(k->failures[i].before);
        free(k->failures[i].after);
    }
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

/* ---- types ---- */

typedef struct kernel_entry {
    tp_program *program; /* held */
    cl_kernel kernel;
    size_t local;
    uint64_t used;
} kernel_entry;

/* Host memory that is kept from slice to slice. */
typedef struct staging {
    void *data;
    size_t capacity;
} staging;

typedef struct device_memory {
    cl_mem mem;
    size_t capacity;
} device_memory;

/* A thread that runs slices on one device, with its queue. Made by start_worker, joined and freed by close. */
typedef struct worker {
    /* Set before the thread starts, read-only afterwards. */
    struct pool *pool;
    const tp_cl *cl;
    const tp_cl_device *device;
    unsigned device_index;
    cl_context context; /* the pool's */
    cl_command_queue queue;
    uv_thread_t thread;
    struct worker *next; /* in pool->workers */

    bool is_joined; /* the owner's, in stop */

    /* ---- its own ---- */
    tp_agent agent; /* but for what job.h says */
    kernel_entry kernels[KERNELS_MAX];
    uint64_t tick;
    bool has_new; /* kernels whose programs have not been kept */
    staging input[TP_COLUMNS_MAX], output[TP_COLUMNS_MAX], failed;
    staging sums, sums_failed; /* a reducer's */
    device_memory memory[SLOTS]; /* where memory is copied: one buffer per argument */
    tp_kernel *uploaded;         /* held: whose arrays are in memory[] */
} worker;

typedef struct pool {
    tp_executor base;
    tp_engine *engine;
    uv_cond_t idle, ended; /* with the engine's lock: workers sleep on idle, stop waits on ended */

    uv_mutex_t lock; /* taken before the engine's */
    uv_mutex_t writing; /* held by a launch that copies arrays, changes them and copies them back; taken alone */
    /* ---- guarded by lock ---- */
    tp_program *programs; /* one owner each */
    cl_context contexts[TP_DEVICES_MAX];
    worker *workers;

    _Atomic uint64_t lent[TP_DEVICES_MAX]; /* see tp_open_device; relaxed: only a count */

    /* ---- guarded by the engine's lock ---- */
    unsigned alive, n_spinning;
    bool is_stopping;

    _Atomic uint32_t offers; /* counts calls of start; what a spinning worker watches (acquire/release) */
} pool;

/* ---- launching ---- */

static int fail(tp_error *err, const worker *w, const char *what, cl_int rc)
{
    return tp_error_set(err, TP_ESYS, "%s: %s failed: %s (%d)", w->device->name, what, tp_cl_error_name(rc), rc);
}

/* Room for `size` bytes, page-aligned. -1 when out of memory. */
static int reserve(staging *s, size_t size)
{
    if (size <= s->capacity)
        return 0;
    size_t capacity = (size + size / 2 + 4095) / 4096 * 4096;
    void *data = aligned_alloc(4096, capacity);
    if (!data)
        return -1;
    free(s->data);
    s->data = data;
    s->capacity = capacity;
    return 0;
}

static kernel_entry *get_kernel(worker *w, tp_program *p, tp_error *err)
{
    kernel_entry *oldest = &w->kernels[0];
    for (kernel_entry *e = w->kernels; e < w->kernels + KERNELS_MAX; e++) {
        if (e->program == p) {
            e->used = ++w->tick;
            return e;
        }
        if (e->used < oldest->used)
            oldest = e;
    }
    cl_int rc;
    cl_kernel kernel = w->cl->CreateKernel(p->program, p->name, &rc);
    if (rc != CL_SUCCESS) {
        fail(err, w, "making the kernel", rc);
        return NULL;
    }
    cl_ulong local_bytes = 0;
    if (w->cl->GetKernelWorkGroupInfo(kernel, w->device->id, CL_KERNEL_LOCAL_MEM_SIZE, sizeof local_bytes, &local_bytes, NULL) == CL_SUCCESS &&
        local_bytes > w->device->local_memory) { /* PoCL would end the process */
        w->cl->ReleaseKernel(kernel);
        tp_error_set(err, TP_ESYS, "%s: %llu KiB of __local memory are over the device's %llu KiB", w->device->name,
                     (unsigned long long)local_bytes >> 10, (unsigned long long)w->device->local_memory >> 10);
        return NULL;
    }
    if (oldest->program) {
        tp_program_keep(&w->pool->base, oldest->program);
        w->cl->ReleaseKernel(oldest->kernel);
        tp_ref_drop(oldest->program);
    }
    size_t most = 1, local = w->device->type & CL_DEVICE_TYPE_CPU ? LOCAL_CPU : LOCAL_GPU;
    if (w->cl->GetKernelWorkGroupInfo(kernel, w->device->id, CL_KERNEL_WORK_GROUP_SIZE, sizeof most, &most, NULL))
        most = 1;
    while (local > most)
        local /= 2;
    size_t required[3] = { 0 }; /* by the source */
    if (!w->cl->GetKernelWorkGroupInfo(kernel, w->device->id, CL_KERNEL_COMPILE_WORK_GROUP_SIZE, sizeof required, required, NULL) && required[0])
        local = required[0];
    *oldest = (kernel_entry){ tp_ref_hold(p), kernel, local ? local : 1, ++w->tick };
    w->has_new = true;
    return oldest;
}

static bool is_cpu(const worker *w)
{
    return w->device->type & CL_DEVICE_TYPE_CPU;
}

/* Memory of the device for argument `slot` with what is at `data` (unless it is only written there). */
static int lend(worker *w, unsigned slot, cl_mem_flags flags, void *data, size_t size, bool is_current, cl_mem *out, tp_error *err)
{
    cl_int rc;
    if (w->device->is_unified) {
        *out = w->cl->CreateBuffer(w->context, flags | CL_MEM_USE_HOST_PTR, size, data, &rc);
        return rc == CL_SUCCESS ? 0 : fail(err, w, "using host memory", rc);
    }
    device_memory *m = &w->memory[slot];
    if (m->capacity < size) {
        if (m->mem)
            w->cl->ReleaseMemObject(m->mem);
        *m = (device_memory){ 0 };
        m->mem = w->cl->CreateBuffer(w->context, CL_MEM_READ_WRITE, size + size / 4, NULL, &rc);
        if (rc != CL_SUCCESS) {
            m->mem = NULL;
            return fail(err, w, "allocating memory", rc);
        }
        m->capacity = size + size / 4;
        is_current = false;
    }
    *out = m->mem;
    if (flags & CL_MEM_WRITE_ONLY || is_current)
        return 0;
    rc = w->cl->EnqueueWriteBuffer(w->queue, m->mem, CL_FALSE, 0, size, data, 0, NULL, NULL);
    return rc == CL_SUCCESS ? 0 : fail(err, w, "copying to the device", rc);
}

/* Waits for the launch, and brings what it wrote into host memory. */
static int fetch(worker *w, cl_mem mem, void *data, size_t size, tp_error *err)
{
    cl_int rc = CL_SUCCESS;
    if (w->device->is_unified && !is_cpu(w)) {
        void *mapped = w->cl->EnqueueMapBuffer(w->queue, mem, CL_TRUE, CL_MAP_READ, 0, size, 0, NULL, NULL, &rc);
        if (rc == CL_SUCCESS)
            rc = w->cl->EnqueueUnmapMemObject(w->queue, mem, mapped, 0, NULL, NULL);
    } else if (!w->device->is_unified) {
        rc = w->cl->EnqueueReadBuffer(w->queue, mem, CL_FALSE, 0, size, data, 0, NULL, NULL);
    }
    return rc == CL_SUCCESS ? 0 : fail(err, w, "copying from the device", rc);
}

/* Runs the kernel over n elements: inputs and outputs are host memory. */
static int launch_now(worker *w, tp_kernel *k, uint32_t n, void *const *inputs, void *const *outputs, void *failed, tp_error *err)
{
    const tp_cl *cl = w->cl;
    kernel_entry *e = get_kernel(w, k->programs[w->device_index], err);
    if (!e)
        return -1;
    unsigned lanes = k->lanes[w->device_index];
    if (lanes < k->group && e->local % (k->group / lanes))
        return tp_error_set(err, TP_ESYS, "%s: its work groups are too small for reductions", w->device->name);
    cl_mem mems[TP_ARGUMENTS_MAX] = { 0 };
    int rc = 0;
    bool is_uploaded = w->uploaded == k;
    cl_ulong first = 0, count = n / k->group;
    for (unsigned i = 0; i < k->n_arguments && rc == 0; i++) {
        tp_argument *a = &k->arguments[i];
        size_t size = sizeof(cl_mem);
        const void *value = &mems[i];
        switch (a->kind) {
        /* Little endian: the first bytes are the narrower integer. */
        case TP_ARG_FIRST: size = tp_type_size(a->type), value = &first; break;
        case TP_ARG_COUNT: size = tp_type_size(a->type), value = &count; break;
        case TP_ARG_VALUE: size = a->size, value = &a->value; break;
        case TP_ARG_INPUT:
            rc = lend(w, i, CL_MEM_READ_ONLY, inputs[a->index], n * tp_type_size(a->type), false, &mems[i], err);
            break;
        case TP_ARG_OUTPUT:
            rc = lend(w, i, CL_MEM_WRITE_ONLY, outputs[a->index], count * tp_type_size(a->type), false, &mems[i], err);
            break;
        case TP_ARG_FAILED: rc = lend(w, i, CL_MEM_WRITE_ONLY, failed, count, false, &mems[i], err); break;
        case TP_ARG_ARRAY:
            rc = lend(w, i, a->is_written ? CL_MEM_READ_WRITE : CL_MEM_READ_ONLY, a->data, a->size, is_uploaded && !a->is_written, &mems[i], err);
            break;
        }
        cl_int status = rc ? CL_SUCCESS : cl->SetKernelArg(e->kernel, i, size, value);
        if (status != CL_SUCCESS)
            rc = fail(err, w, "passing an argument", status);
    }
    size_t items = (n + lanes - 1) / lanes, rows = k->has_rows ? (items + ROW_MAX - 1) / ROW_MAX : 1;
    size_t row = (items + rows - 1) / rows, local[] = { e->local, 1 }, global[] = { (row + e->local - 1) / e->local * e->local, rows };
    if (rc == 0) {
        cl_int status = cl->EnqueueNDRangeKernel(w->queue, e->kernel, rows > 1 ? 2 : 1, NULL, global, local, 0, NULL, NULL);
        if (status != CL_SUCCESS)
            rc = fail(err, w, "starting the kernel", status);
    }
    for (unsigned i = 0; i < k->n_arguments && rc == 0; i++) {
        const tp_argument *a = &k->arguments[i];
        if (a->kind == TP_ARG_OUTPUT)
            rc = fetch(w, mems[i], outputs[a->index], count * tp_type_size(a->type), err);
        else if (a->kind == TP_ARG_FAILED)
            rc = fetch(w, mems[i], failed, count, err);
        else if (a->is_written)
            rc = fetch(w, mems[i], a->data, a->size, err);
    }
    cl_int status = cl->Finish(w->queue); /* also after a failure: nothing may use the host's memory any more */
    if (status != CL_SUCCESS && rc == 0)
        rc = fail(err, w, "running the kernel", status);
    for (unsigned i = 0; i < k->n_arguments && w->device->is_unified; i++)
        if (mems[i])
            cl->ReleaseMemObject(mems[i]);
    if (rc == 0 && !is_uploaded && !w->device->is_unified) {
        tp_ref_drop(w->uploaded);
        w->uploaded = tp_ref_hold(k);
    }
    return rc;
}

static int launch(worker *w, tp_kernel *k, uint32_t n, void *const *inputs, void *const *outputs, void *failed, tp_error *err)
{
    if (k->is_writer)
        uv_mutex_lock(&w->pool->writing);
    int rc = launch_now(w, k, n, inputs, outputs, failed, err);
    if (k->is_writer)
        uv_mutex_unlock(&w->pool->writing);
    return rc;
}

/* ---- programs: building, and keeping on disk ---- */

static uint64_t hash(uint64_t h, const void *bytes, size_t n)
{
    const uint8_t *p = bytes;
    while (n--)
        h = (h ^ *p++) * 0x100000001b3; /* FNV-1a */
    return h;
}

enum { HASH_SEED_A = 0x2545f491, HASH_SEED_B = 0x1b873593 };

/* A kept program is this, then its key (which device, driver and source it is for), then the device's binary. */
typedef struct kept_header {
    char magic[16];
    uint64_t key_size, binary_size;
    uint64_t check; /* hash of key and binary */
} kept_header;

static const char kept_magic[16] = "tidepool cl 1\n";

/* What a program's binary depends on; to be freed. NULL when out of memory. */
static char *new_key(const tp_cl_device *d, const char *text)
{
    int n = snprintf(NULL, 0, "%s\n%s\n%s\n%s\n%s", d->platform, d->name, d->version, d->driver, text);
    char *key = malloc((size_t)n + 1);
    if (key)
        snprintf(key, (size_t)n + 1, "%s\n%s\n%s\n%s\n%s", d->platform, d->name, d->version, d->driver, text);
    return key;
}

/* The binary that is kept under that key, to be freed; NULL when there is none that is whole. */
static unsigned char *read_kept(const char *path, const char *key, size_t *size)
{
    kept_header h;
    size_t key_size = strlen(key);
    unsigned char *data = NULL;
    FILE *file = fopen(path, "rbe");
    if (!file)
        return NULL;
    bool is_right = fread(&h, sizeof h, 1, file) == 1 && memcmp(h.magic, kept_magic, sizeof h.magic) == 0 &&
                    h.key_size == key_size && h.binary_size > 0 && h.binary_size < (uint64_t)1 << 30;
    if (is_right) {
        size_t n = key_size + (size_t)h.binary_size;
        data = malloc(n);
        is_right = data && fread(data, 1, n, file) == n && fgetc(file) == EOF && memcmp(data, key, key_size) == 0 &&
                   hash(HASH_SEED_A, data, n) == h.check;
        if (is_right)
            memmove(data, data + key_size, *size = (size_t)h.binary_size);
    }
    fclose(file);
    if (is_right)
        return data;
    free(data);
    return NULL;
}

/* Writes it whole or not at all; that it cannot be written is no failure. */
static void write_kept(const char *path, const char *key, const unsigned char *binary, size_t size)
{
    char temporary[4200];
    kept_header h = { .key_size = strlen(key), .binary_size = size };
    memcpy(h.magic, kept_magic, sizeof h.magic);
    h.check = hash(hash(HASH_SEED_A, key, (size_t)h.key_size), binary, size);
    int n = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return;
    int fd = mkstemp(temporary);
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!file) {
        if (fd >= 0)
            close(fd), unlink(temporary);
        return;
    }
    bool is_written = fwrite(&h, sizeof h, 1, file) == 1 && fwrite(key, 1, (size_t)h.key_size, file) == h.key_size &&
                      fwrite(binary, 1, size, file) == size;
    is_written &= fclose(file) == 0;
    if (!is_written || rename(temporary, path))
        unlink(temporary);
}

/* Makes a folder with those above it; whether it could is seen when something is written there. */
static void make_folder(const char *path)
{
    char part[4096];
    size_t n = strlen(path);
    if (n >= sizeof part)
        return;
    for (size_t i = 1; i <= n; i++)
        if (path[i] == '/' || path[i] == 0) {
            memcpy(part, path, i);
            part[i] = 0;
            mkdir(part, 0700);
        }
}

bool tp_program_is_new(const tp_program *p)
{
    return p->path && !atomic_load_explicit(&p->is_kept, memory_order_relaxed);
}

void tp_program_keep(tp_executor *ex, tp_program *p)
{
    if (!p->path || atomic_exchange_explicit(&p->is_kept, true, memory_order_relaxed))
        return;
    size_t size = 0;
    if (p->cl->GetProgramInfo(p->program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL) || size == 0)
        return;
    unsigned char *binary = malloc(size);
    char *key = new_key(&p->cl->devices[p->device], p->text);
    if (binary && key && p->cl->GetProgramInfo(p->program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) == CL_SUCCESS) {
        make_folder(ex->host->cache_dir);
        write_kept(p->path, key, binary, size);
    }
    free(binary);
    free(key);
}

static char *get_log(const tp_cl *cl, cl_program program, cl_device_id id)
{
    size_t n = 0;
    if (cl->GetProgramBuildInfo(program, id, CL_PROGRAM_BUILD_LOG, 0, NULL, &n) || n == 0)
        return NULL;
    char *log = calloc(1, n + 1);
    if (log)
        cl->GetProgramBuildInfo(program, id, CL_PROGRAM_BUILD_LOG, n, log, NULL);
    return log;
}

/* The program from its kept binary, NULL when that is not possible. */
static cl_program load_kept(const tp_cl *cl, const tp_cl_device *d, cl_context context, const char *path, const char *text,
                            const char *options)
{
    char *key = new_key(d, text);
    size_t size = 0;
    unsigned char *binary = key && path ? read_kept(path, key, &size) : NULL;
    free(key);
    if (!binary)
        return NULL;
    cl_int status = CL_SUCCESS, rc;
    const unsigned char *bytes = binary;
    cl_program program = cl->CreateProgramWithBinary(context, 1, &d->id, &size, &bytes, &status, &rc);
    free(binary);
    if (rc == CL_SUCCESS && status == CL_SUCCESS && cl->BuildProgram(program, 1, &d->id, options, NULL, NULL) == CL_SUCCESS)
        return program;
    if (rc == CL_SUCCESS)
        cl->ReleaseProgram(program);
    return NULL;
}

static cl_program build(const tp_cl *cl, const tp_cl_device *d, cl_context context, const char *source, const char *options,
                        char **log, tp_error *err)
{
    cl_int rc;
    cl_program program = cl->CreateProgramWithSource(context, 1, &source, NULL, &rc);
    if (rc == CL_SUCCESS) {
        rc = cl->BuildProgram(program, 1, &d->id, options, NULL, NULL);
        if (rc == CL_SUCCESS)
            return program;
        *log = get_log(cl, program, d->id);
        cl->ReleaseProgram(program);
    }
    tp_error_set(err, TP_ESYS, "%s: compiling the program failed: %s (%d)", d->name, tp_cl_error_name(rc), rc);
    return NULL;
}

/* Where a program is kept; NULL: nowhere. */
static char *new_path(const tp_host *host, const tp_cl_device *d, const char *text)
{
    char *key = host->cache_dir ? new_key(d, text) : NULL;
    if (!key)
        return NULL;
    size_t n = strlen(host->cache_dir) + 64;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%016llx%016llx.clbin", host->cache_dir, (unsigned long long)hash(HASH_SEED_A, key, strlen(key)),
                 (unsigned long long)hash(HASH_SEED_B, key, strlen(key)));
    free(key);
    return path;
}

static int start_workers_of(pool *p, const tp_cl *cl, unsigned device, tp_error *err);

/* With p->lock held. */
static tp_program *open_program(pool *p, const tp_cl *cl, unsigned device, const char *source, const char *options, const char *name,
                                char **log, tp_error *err)
{
    const tp_cl_device *d = &cl->devices[device];
    size_t n = strlen(options) + strlen(source) + strlen(name) + 3;
    tp_program *made = calloc(1, sizeof *made), *result = NULL;
    if (!made || !(made->text = malloc(n)) || !(made->name = strdup(name))) {
        tp_error_oom(err, "program");
        goto out;
    }
    snprintf(made->text, n, "%s\n%s\n%s", options, name, source);
    for (tp_program *q = p->programs; q; q = q->next)
        if (q->device == device && strcmp(q->text, made->text) == 0) {
            result = tp_ref_hold(q);
            goto out;
        }
    if (!p->contexts[device] && start_workers_of(p, cl, device, err))
        goto out;
    tp_ref_init(&made->ref, &tp_program_type);
    made->cl = cl;
    made->device = device;
    made->path = new_path(p->base.host, d, made->text);
    made->program = load_kept(cl, d, p->contexts[device], made->path, made->text, options);
    atomic_init(&made->is_kept, made->program != NULL);
    if (!made->program)
        made->program = build(cl, d, p->contexts[device], source, options, log, err);
    if (!made->program)
        goto out;
    made->next = p->programs;
    p->programs = made;
    result = tp_ref_hold(made);
    made = NULL;
out:
    if (made) {
        free(made->text);
        free(made->name);
        free(made->path);
        free(made);
    }
    return result;
}

tp_program *tp_program_open(tp_executor *ex, unsigned device, const char *source, const char *options, const char *name,
                            char **log, tp_error *err)
{
    pool *p = (pool *)ex;
    const tp_cl *cl = tp_host_opencl(ex->host, err);
    if (!cl)
        return NULL;
    if (device >= cl->n) {
        tp_error_set(err, TP_EUSAGE, "there is no device %u", device);
        return NULL;
    }
    uv_mutex_lock(&p->lock);
    tp_program *program = open_program(p, cl, device, source, options, name, log, err);
    uv_mutex_unlock(&p->lock);
    return program;
}

int tp_opencl_open(tp_executor *ex, unsigned device, tp_open_device *out, tp_error *err)
{
    pool *p = (pool *)ex;
    const tp_cl *cl = tp_host_opencl(ex->host, err);
    if (!cl)
        return -1;
    if (device >= cl->n)
        return tp_error_set(err, TP_EUSAGE, "there is no device %u", device);
    uv_mutex_lock(&p->lock);
    int rc = p->contexts[device] ? 0 : start_workers_of(p, cl, device, err);
    *out = (tp_open_device){ cl, &cl->devices[device], device, p->contexts[device], &p->lent[device] };
    uv_mutex_unlock(&p->lock);
    return rc;
}

/* ---- slices ---- */

static void *element(tp_type type, const void *column, size_t at)
{
    return (char *)column + at * tp_type_size(type);
}

static double load(tp_type type, const void *column, size_t at)
{
    switch (type) {
    case TP_DOUBLE: return ((const double *)column)[at];
    case TP_FLOAT: return ((const float *)column)[at];
    case TP_INT8: return ((const int8_t *)column)[at];
    case TP_UINT8: return ((const uint8_t *)column)[at];
    case TP_INT16: return ((const int16_t *)column)[at];
    case TP_UINT16: return ((const uint16_t *)column)[at];
    case TP_INT32: return ((const int32_t *)column)[at];
    case TP_UINT32: return ((const uint32_t *)column)[at];
    case TP_INT64: return (double)((const int64_t *)column)[at];
    default: return (double)((const uint64_t *)column)[at];
    }
}

/* As FFI does it: integers are cut, and wrap. */
static void store(tp_type type, void *column, size_t at, double x)
{
    const double end = 9223372036854775808.0; /* 2^63 */
    int64_t i = x >= -end && x < end ? (int64_t)x : INT64_MIN;
    switch (type) {
    case TP_DOUBLE: ((double *)column)[at] = x; break;
    case TP_FLOAT: ((float *)column)[at] = (float)x; break;
    case TP_INT8: case TP_UINT8: ((uint8_t *)column)[at] = (uint8_t)i; break;
    case TP_INT16: case TP_UINT16: ((uint16_t *)column)[at] = (uint16_t)i; break;
    case TP_INT32: case TP_UINT32: ((uint32_t *)column)[at] = (uint32_t)i; break;
    case TP_INT64: ((int64_t *)column)[at] = i; break;
    default: ((uint64_t *)column)[at] = x >= end && x < 2 * end ? (uint64_t)x : (uint64_t)i;
    }
}

/* Double to float is the common case: a loop of its own. */
static void convert(tp_type to_type, void *to, tp_type from_type, const void *from, size_t n)
{
    if (to_type == TP_FLOAT && from_type == TP_DOUBLE) {
        for (size_t i = 0; i < n; i++)
            ((float *)to)[i] = (float)((const double *)from)[i];
        return;
    }
    for (size_t i = 0; i < n; i++)
        store(to_type, to, i, load(from_type, from, i));
}

void tp_make_canonical(tp_type type, void *column, size_t n)
{
    if (type == TP_DOUBLE) {
        for (size_t i = 0; i < n; i++)
            if (isnan(((double *)column)[i]))
                ((double *)column)[i] = NAN;
    } else if (type == TP_FLOAT) {
        for (size_t i = 0; i < n; i++)
            if (isnan(((float *)column)[i]))
                ((float *)column)[i] = NAN;
    }
}

/* The next item's failure; without memory for one the job ends. */
static void fail_item(tp_slice *s, const char *kind, const char *message)
{
    tp_block *b = tp_block_new_failure(kind, message, s->attempt, s->agent->index);
    if (!b) {
        tp_job_starve(s->job);
        return;
    }
    b->may_retry = strcmp(kind, "error") == 0;
    tp_slice_append(s, b, s->at);
    s->at++;
}

/* An input that failed before it could be sent: the failure is its result. */
static void pass_failure(tp_slice *s)
{
    tp_block *b = tp_block_copy_failure(s->block);
    if (!b) {
        tp_job_starve(s->job);
        return;
    }
    tp_slice_append(s, b, s->at);
    s->at++;
}

/* What a launch writes to, and where that goes. */
typedef struct output {
    const tp_returns *returns; /* NULL: nothing is promised */
    bool is_discarded;
    tp_block *numbers; /* results of their own, when they are numbers that no array takes */
    void *column[TP_COLUMNS_MAX];
} output;

/* A worker waits for memory if it must: it cannot fail. */
static tp_block *wait_for(tp_block *b)
{
    if (!b)
        uv_sleep(1);
    return b;
}

static int open_output(worker *w, output *o, tp_slice *s, const tp_kernel *k, uint32_t n)
{
    const tp_returns *returns = tp_job_returns(s->job);
    *o = (output){ .is_discarded = tp_job_discards(s->job), .returns = returns->columns ? returns : NULL };
    bool is_array = o->returns && returns->array[0] && !o->is_discarded;
    bool is_number = k->n_outputs == 1 && k->output_type[0] == TP_DOUBLE && s->block->kind == TP_BLOCK_COLUMNS;
    if (!o->is_discarded && !is_array && (o->returns || is_number)) {
        while (!(o->numbers = wait_for(tp_block_new_columns(n, k->n_outputs, NULL, 0))))
            ;
        o->numbers->n = n;
    }
    for (unsigned c = 0; c < k->n_outputs; c++) {
        tp_type type = k->output_type[c];
        if (is_array) {
            o->column[c] = element(type, returns->array[c]->data, (size_t)(s->block->first + s->at));
        } else if (o->numbers) {
            o->numbers->type[c] = (uint8_t)type;
            o->column[c] = o->numbers->column[c];
        } else {
            if (reserve(&w->output[c], n * tp_type_size(type)))
                return -1;
            o->column[c] = w->output[c].data;
        }
    }
    return 0;
}

/* The n results from element `at` of the output on become a block. */
static tp_block *new_results(const output *o, const tp_kernel *k, uint32_t at, uint32_t n)
{
    tp_block *b;
    if (o->is_discarded) {
        while (!(b = wait_for(tp_block_new_empty(TP_BLOCK_DONE, 0, n))))
            ;
    } else if (o->numbers) {
        while (!(b = wait_for(tp_block_new_columns(n, k->n_outputs, NULL, 0))))
            ;
        b->n = n;
        for (unsigned c = 0; c < k->n_outputs; c++) {
            b->type[c] = o->numbers->type[c];
            memcpy(b->column[c], element(k->output_type[c], o->column[c], at), n * tp_type_size(k->output_type[c]));
        }
    } else if (o->returns) {
        while (!(b = wait_for(tp_block_new_borrowed(0, n, k->n_outputs))))
            ;
        for (unsigned c = 0; c < k->n_outputs; c++) {
            b->type[c] = (uint8_t)k->output_type[c];
            b->column[c] = element(k->output_type[c], o->column[c], at);
        }
    } else {
        while (!(b = wait_for(tp_block_new_values(TP_BLOCK_VALUES))))
            ;
        for (uint32_t i = at; i < at + n; i++) {
            double values[TP_COLUMNS_MAX];
            for (unsigned c = 0; c < k->n_outputs; c++)
                values[c] = load(k->output_type[c], o->column[c], i);
            while (tp_block_reserve(b) || tp_encode_numbers(&b->bytes, values, k->is_boolean, k->n_outputs))
                uv_sleep(1);
            tp_block_add(b);
        }
    }
    return b;
}

static void fail_element(tp_slice *s, const tp_kernel *k, const output *o, uint32_t at, unsigned number)
{
    char message[1000] = "failed for an unknown reason";
    if (number >= 1 && number <= k->n_failures) {
        const tp_device_failure *f = &k->failures[number - 1];
        double index = k->detail >= 0 && f->before ? load(k->output_type[k->detail], o->column[k->detail], at) : 1;
        if (f->before && k->detail >= 0 && !(index >= 1 && index <= f->n))
            snprintf(message, sizeof message, "%s%.14g%s", f->before, index, f->after);
        else
            snprintf(message, sizeof message, "%s", f->plain);
    }
    fail_item(s, "error", message);
}

/* Hands the results of n elements over, from item s->at on: runs of good ones, and failures between them. */
static void hand_over(tp_slice *s, const tp_kernel *k, output *o, const uint8_t *failed, uint32_t n)
{
    uint32_t at = 0;
    while (at < n) {
        const uint8_t *bad = failed;
        uint32_t end = n;
        for (uint32_t i = at; bad && i < n; i++)
            if (bad[i]) {
                end = i;
                break;
            }
        if (end > at) {
            tp_block *b = at == 0 && end == n && o->numbers ? o->numbers : new_results(o, k, at, end - at);
            if (b == o->numbers)
                o->numbers = NULL;
            tp_slice_append(s, b, s->at);
            s->at += end - at;
            at = end;
        }
        if (at < n) {
            fail_element(s, k, o, at, failed[at]);
            at++;
        }
    }
    tp_block_free(o->numbers);
    o->numbers = NULL;
}

/* Decodes items from s->at on into the worker's columns, up to one that is not the numbers the kernel takes, whose complaint is left in `why`. */
static uint32_t decode_items(worker *w, const tp_slice *s, const tp_kernel *k, uint32_t n, char *why, size_t size)
{
    for (uint32_t i = 0; i < n; i++) {
        size_t len;
        const uint8_t *message = tp_block_message(s->block, s->at + i, &len);
        double values[TP_COLUMNS_MAX];
        const char *bad = NULL;
        unsigned got = tp_decode_numbers(message, len, values, k->n_inputs, &bad);
        if (got < k->n_inputs) {
            if (bad)
                snprintf(why, size, "argument %u is %s; a function on a device takes numbers", got + 1, bad);
            else
                snprintf(why, size, "it takes %u number%s, got %u", k->n_inputs, k->n_inputs == 1 ? "" : "s", got);
            return i;
        }
        for (unsigned c = 0; c < k->n_inputs; c++)
            store(k->input_type[c], w->input[c].data, i, values[c]);
    }
    return n;
}

/* The scalars of a column as numbers, up to one that is none. Gives how many. */
static uint32_t convert_scalars(tp_type type, void *to, const tp_scalar *from, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (from[i].kind != TP_SCALAR_NUMBER)
            return i;
        store(type, to, i, from[i].as.number);
    }
    return n;
}

/* What a scalar that is no number is. */
static const char *name_scalar(uint32_t kind)
{
    return kind == TP_SCALAR_STRING || kind == TP_SCALAR_LENT ? "a string" : kind == TP_SCALAR_NIL ? "nil" : "a boolean";
}

/* The inputs of n items from s->at on, as columns of the kernel's types. Gives how many there are, which are fewer when one is not right: then why. -1
 * when out of memory. */
static int64_t open_inputs(worker *w, const tp_slice *s, const tp_kernel *k, uint32_t n, void **columns, char *why, size_t size)
{
    const tp_block *b = s->block;
    bool is_numbers = b->kind == TP_BLOCK_COLUMNS;
    if (is_numbers && b->columns < k->n_inputs) {
        snprintf(why, size, "it takes %u numbers, got %u", k->n_inputs, b->columns);
        return 0;
    }
    for (unsigned c = 0; c < k->n_inputs; c++) {
        if (is_numbers && b->type[c] == k->input_type[c]) {
            columns[c] = element(b->type[c], b->column[c], s->at);
            continue;
        }
        if (reserve(&w->input[c], n * tp_type_size(k->input_type[c])))
            return -1;
        columns[c] = w->input[c].data;
        if (is_numbers && b->type[c] == TP_MIXED) {
            const tp_scalar *from = (const tp_scalar *)b->column[c] + s->at;
            uint32_t count = convert_scalars(k->input_type[c], columns[c], from, n);
            if (count < n)
                snprintf(why, size, "argument %u is %s; a function on a device takes numbers", c + 1, name_scalar(from[count].kind));
            n = count;
        } else if (is_numbers) {
            convert(k->input_type[c], columns[c], (tp_type)b->type[c], element((tp_type)b->type[c], b->column[c], s->at), n);
        }
    }
    return is_numbers ? n : decode_items(w, s, k, n, why, size);
}

/* Runs up to n items from s->at on. -1 with err set when the device could not: then none of them has a result. */
static int run_part(worker *w, tp_slice *s, tp_kernel *k, uint32_t n, tp_error *err)
{
    void *inputs[TP_COLUMNS_MAX];
    output out = { 0 };
    char why[200] = "";
    int64_t ready = open_inputs(w, s, k, n, inputs, why, sizeof why);
    if (ready < 0)
        return tp_error_oom(err, "the inputs of a launch");
    if (ready > 0) {
        uint32_t count = (uint32_t)ready;
        if (reserve(&w->failed, count) || open_output(w, &out, s, k, count)) {
            tp_block_free(out.numbers);
            return tp_error_oom(err, "the results of a launch");
        }
        if (launch(w, k, count, inputs, out.column, w->failed.data, err)) {
            tp_block_free(out.numbers);
            return -1;
        }
        for (unsigned c = 0; k->is_foreign && c < k->n_outputs; c++)
            tp_make_canonical(k->output_type[c], out.column[c], count);
        hand_over(s, k, &out, k->n_failures ? w->failed.data : NULL, count);
        atomic_store_explicit(&s->ctl[0], (int32_t)s->at, memory_order_relaxed);
    }
    if (ready < n)
        fail_item(s, "error", why);
    return 0;
}

/* What a reducer made of n items from s->at on becomes a block. */
static void hand_over_sums(worker *w, tp_slice *s, const tp_kernel *r, uint32_t at, uint32_t groups)
{
    tp_block *b;
    while (!(b = wait_for(tp_block_new_columns(groups, 1, NULL, 0))))
        ;
    b->kind = TP_BLOCK_PARTIALS;
    b->n = groups * TP_GROUP;
    for (uint32_t i = 0; i < groups; i++)
        ((double *)b->column[0])[i] = load(r->output_type[0], w->sums.data, at + i);
    tp_slice_append(s, b, s->at);
    s->at += b->n;
}

/* The same as run_part for n items, whole groups, of which only what the reducer r makes of them is wanted. A group with an element that fails is
 * run by k, which says which. */
static int run_groups(worker *w, tp_slice *s, tp_kernel *k, tp_kernel *r, uint32_t n, tp_error *err)
{
    void *inputs[TP_COLUMNS_MAX], *sums;
    char why[200] = "";
    int64_t ready = open_inputs(w, s, r, n, inputs, why, sizeof why);
    if (ready < 0)
        return tp_error_oom(err, "the inputs of a launch");
    uint32_t groups = (uint32_t)ready / TP_GROUP;
    if (groups == 0)
        return run_part(w, s, k, TP_GROUP, err);
    if (reserve(&w->sums, groups * sizeof(double)) || reserve(&w->sums_failed, groups))
        return tp_error_oom(err, "the results of a launch");
    sums = w->sums.data;
    memset(w->sums_failed.data, 0, groups);
    if (launch(w, r, groups * TP_GROUP, inputs, &sums, w->sums_failed.data, err))
        return -1;
    tp_make_canonical(r->output_type[0], w->sums.data, groups);
    const uint8_t *failed = w->sums_failed.data;
    for (uint32_t at = 0, end; at < groups; at = end) {
        for (end = at; end < groups && !failed[end]; end++)
            ;
        if (end > at)
            hand_over_sums(w, s, r, at, end - at);
        else if (run_part(w, s, k, TP_GROUP, err))
            return -1;
        else
            end = at + 1;
    }
    return 0;
}

static void run_slice(worker *w, tp_slice *s)
{
    tp_kernel *k = tp_job_kernel(s->job);
    bool may_reduce = true;
    while (s->count >= TP_GROUP && tp_job_is_undecided(s->job, DECIDE_NS)) {
        tp_relax();
        sched_yield();
    }
    if (tp_job_is_held_back(s->job)) {
        tp_job_finish(s); /* nothing was begun, all of it goes back */
        return;
    }
    uint32_t end = s->offset + s->count, most = PART_MAX;
    if (s->block->kind == TP_BLOCK_FAILURE)
        pass_failure(s);
    while (s->at < end && atomic_load_explicit(&s->ctl[1], memory_order_relaxed) == 0) {
        tp_error err = { 0 };
        uint32_t n = end - s->at < most ? end - s->at : most, before = (uint32_t)((s->block->first + s->at) % TP_GROUP);
        tp_kernel *r = may_reduce ? tp_job_reducer(s->job) : NULL;
        if (r && before == 0 && n >= TP_GROUP) {
            may_reduce = run_groups(w, s, k, r, n / TP_GROUP * TP_GROUP, &err) == 0;
            continue; /* what it could not run is run one by one */
        }
        if (r && n > TP_GROUP - before)
            n = TP_GROUP - before;
        if (run_part(w, s, k, n, &err) == 0)
            continue;
        if (n > PART_MIN) { /* perhaps there is memory for fewer */
            most = n / 2;
            continue;
        }
        if (tp_job_leave_device(s->job, w->agent.devices))
            break; /* the others have the rest */
        for (uint32_t i = 0; i < n; i++)
            fail_item(s, "device", err.message);
    }
    tp_job_finish(s);
}

/* ---- threads ---- */

/* Watches for an offer for a little while, as exec_threads.c does: waking a thread costs as much as a launch. Called with the lock held, releases it
 * meanwhile. True when there was one. */
static bool spin(pool *p)
{
    if (p->n_spinning > 0)
        return false;
    p->n_spinning++;
    uint32_t seen = atomic_load_explicit(&p->offers, memory_order_acquire);
    uv_mutex_unlock(tp_engine_lock(p->engine));
    uint64_t until = uv_hrtime() + SPIN_NS;
    bool is_offered = false;
    while (!is_offered && uv_hrtime() < until) {
        tp_relax();
        is_offered = atomic_load_explicit(&p->offers, memory_order_acquire) != seen;
        if (!is_offered)
            sched_yield();
    }
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->n_spinning--;
    return is_offered;
}

/* Keeps the programs of kernels that have run. PoCL compiles them once more for that, which takes longer than most maps: it is done when there is
 * nothing else to do. */
static void keep_programs(worker *w)
{
    for (kernel_entry *e = w->kernels; e < w->kernels + KERNELS_MAX && w->has_new; e++)
        if (e->program)
            tp_program_keep(&w->pool->base, e->program);
    w->has_new = false;
}

static void serve(void *arg)
{
    worker *w = arg;
    pool *p = w->pool;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    bool has_run = false;
    uv_mutex_lock(lock);
    p->base.looking++;
    while (!p->is_stopping) {
        tp_slice *s = tp_job_take_locked(p->engine, &p->base, &w->agent);
        if (s) {
            uv_mutex_unlock(lock);
            run_slice(w, s);
            uv_mutex_lock(lock);
            has_run = true;
            continue;
        }
        if (has_run) {
            has_run = false;
            spin(p);
            continue; /* the lock was released: something may have come */
        }
        if (w->has_new) {
            uv_mutex_unlock(lock);
            keep_programs(w);
            uv_mutex_lock(lock);
            continue;
        }
        uint64_t until = tp_job_idle_until(p->engine, &p->base), now = uv_hrtime();
        p->base.looking--;
        if (until)
            uv_cond_timedwait(&p->idle, lock, until > now ? until - now : 1);
        else
            uv_cond_wait(&p->idle, lock);
        p->base.looking++;
    }
    p->base.looking--;
    uv_mutex_unlock(lock);
    keep_programs(w);
    uv_mutex_lock(lock);
    p->alive--;
    uv_cond_broadcast(&p->ended);
    uv_mutex_unlock(lock);
}

static void free_worker(worker *w)
{
    const tp_cl *cl = w->cl;
    for (int i = 0; i < KERNELS_MAX; i++)
        if (w->kernels[i].program) {
            cl->ReleaseKernel(w->kernels[i].kernel);
            tp_ref_drop(w->kernels[i].program);
        }
    for (int i = 0; i < SLOTS; i++)
        if (w->memory[i].mem)
            cl->ReleaseMemObject(w->memory[i].mem);
    for (int i = 0; i < TP_COLUMNS_MAX; i++) {
        free(w->input[i].data);
        free(w->output[i].data);
    }
    free(w->failed.data);
    free(w->sums.data);
    free(w->sums_failed.data);
    tp_ref_drop(w->uploaded);
    cl->ReleaseCommandQueue(w->queue);
    tp_agent_close(&w->agent);
    free(w);
}

/* With p->lock held. */
static int start_worker(pool *p, const tp_cl *cl, unsigned device, int index, tp_error *err)
{
    worker *w = calloc(1, sizeof *w);
    cl_int rc;
    if (!w)
        return tp_error_oom(err, "device thread");
    w->pool = p;
    w->cl = cl;
    w->device = &cl->devices[device];
    w->device_index = device;
    w->context = p->contexts[device];
    if (tp_agent_open(&w->agent, p->engine, index, &p->base, err)) {
        free(w);
        return -1;
    }
    w->agent.devices = (uint64_t)1 << device;
    w->queue = cl->CreateCommandQueue(w->context, w->device->id, 0, &rc);
    if (rc != CL_SUCCESS) {
        fail(err, w, "making a queue", rc);
        tp_agent_close(&w->agent);
        free(w);
        return -1;
    }
    uv_mutex_lock(tp_engine_lock(p->engine));
    p->alive++;
    uv_mutex_unlock(tp_engine_lock(p->engine));
    int status = uv_thread_create(&w->thread, serve, w);
    if (status) {
        uv_mutex_lock(tp_engine_lock(p->engine));
        p->alive--;
        uv_mutex_unlock(tp_engine_lock(p->engine));
        tp_error_set(err, TP_ESYS, "cannot start a thread for %s: %s", w->device->name, uv_strerror(status));
        free_worker(w);
        return -1;
    }
    w->next = p->workers;
    p->workers = w;
    return 0;
}

/* With p->lock held. Opens the device. */
static int start_workers_of(pool *p, const tp_cl *cl, unsigned device, tp_error *err)
{
    const tp_cl_device *d = &cl->devices[device];
    cl_context_properties properties[] = { CL_CONTEXT_PLATFORM, (cl_context_properties)d->platform_id, 0 };
    cl_int rc;
    cl_context context = cl->CreateContext(properties, 1, &d->id, NULL, NULL, &rc);
    if (rc != CL_SUCCESS)
        return tp_error_set(err, TP_ESYS, "%s: opening the device failed: %s (%d)", d->name, tp_cl_error_name(rc), rc);
    p->contexts[device] = context;
    int index = 1;
    for (worker *w = p->workers; w; w = w->next)
        index++;
    if (start_worker(p, cl, device, index, err)) {
        cl->ReleaseContext(context);
        p->contexts[device] = NULL;
        return -1;
    }
    if (!d->is_unified) {
        tp_error ignored = { 0 }; /* one is enough to run everything */
        start_worker(p, cl, device, index + 1, &ignored);
    }
    return 0;
}

/* ---- the executor ---- */

static int open_executor(tp_executor **out, tp_host *host, tp_error *err)
{
    pool *p = calloc(1, sizeof *p);
    if (!p)
        return tp_error_oom(err, "devices");
    p->base.type = &tp_exec_opencl;
    p->base.host = host;
    p->engine = host->engine;
    if (uv_mutex_init(&p->lock))
        goto no_lock;
    if (uv_cond_init(&p->idle))
        goto no_idle;
    if (uv_cond_init(&p->ended))
        goto no_ended;
    if (uv_mutex_init(&p->writing))
        goto no_writing;
    *out = &p->base;
    return 0;
no_writing:
    uv_cond_destroy(&p->ended);
no_ended:
    uv_cond_destroy(&p->idle);
no_idle:
    uv_mutex_destroy(&p->lock);
no_lock:
    free(p);
    return tp_error_set(err, TP_ESYS, "cannot create a lock");
}

static void start_workers(tp_executor *ex, unsigned n)
{
    (void)n; /* few threads, and they know what they may take */
    pool *p = (pool *)ex;
    uv_mutex_lock(tp_engine_lock(p->engine));
    atomic_fetch_add_explicit(&p->offers, 1, memory_order_release);
    uv_cond_broadcast(&p->idle);
    uv_mutex_unlock(tp_engine_lock(p->engine));
}

static int stop_workers(tp_executor *ex, uint64_t deadline_ns)
{
    pool *p = (pool *)ex;
    uv_mutex_t *lock = tp_engine_lock(p->engine);
    uv_mutex_lock(lock);
    p->is_stopping = true;
    uv_cond_broadcast(&p->idle);
    while (p->alive > 0) {
        uint64_t now = uv_hrtime();
        if (deadline_ns == UINT64_MAX)
            uv_cond_wait(&p->ended, lock);
        else if (now >= deadline_ns || uv_cond_timedwait(&p->ended, lock, deadline_ns - now) == UV_ETIMEDOUT)
            break;
    }
    unsigned alive = p->alive;
    uv_mutex_unlock(lock);
    if (alive)
        return -1;
    for (worker *w = p->workers; w; w = w->next) {
        if (!w->is_joined)
            uv_thread_join(&w->thread);
        w->is_joined = true;
    }
    return 0;
}

static void close_executor(tp_executor *ex)
{
    pool *p = (pool *)ex;
    const tp_cl *cl = NULL;
    while (p->workers) {
        worker *w = p->workers;
        p->workers = w->next;
        cl = w->cl;
        free_worker(w);
    }
    while (p->programs) {
        tp_program *next = p->programs->next;
        tp_ref_drop(p->programs);
        p->programs = next;
    }
    for (unsigned i = 0; i < TP_DEVICES_MAX; i++)
        if (p->contexts[i])
            cl->ReleaseContext(p->contexts[i]);
    uv_cond_destroy(&p->idle);
    uv_cond_destroy(&p->ended);
    uv_mutex_destroy(&p->lock);
    uv_mutex_destroy(&p->writing);
    free(p);
}

const tp_executor_type tp_exec_opencl = {
    .name = "opencl",
    .capabilities = TP_SHARES_MEMORY | TP_RUNS_KERNELS,
    .slice_ns = 2000 * 1000, /* a launch costs some 30 us */
    .slice_min = 16384,
    .slice_grain = TP_GROUP,
    .open = open_executor,
    .start = start_workers,
    .stop = stop_workers,
    .close = close_executor,
};
