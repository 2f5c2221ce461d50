/* program_cache.c: programs: sources that are compiled once per host and device, and stored on disk
 * for the next process.
 *
 * A program is identified by its options, its kernel's name and its source. The name under which
 * its binary is stored also has everything else that the binary depends on. program_store.c reads
 * from the disk and decides what can be trusted. */
#include "opencl/program_cache.h"

#include "engine/job.h"
#include "opencl/program_store.h"
#include "runtime/runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void free_program(tp_ref *r)
{
    tp_program *p = (tp_program *)r;
    if (p->program)
        p->open.cl->ReleaseProgram(p->program);
    uv_mutex_destroy(&p->making);
    tp_ref_drop(p->open.life);
    tp_ref_drop(p->widths);
    free(p->options);
    free(p->name);
    free(p->function);
    free(p->text);
    free(p->stored_name);
    free(p);
}

const tp_ref_type tp_program_type = { "tidepool.program", free_program };

cl_program tp_program_take(tp_program *p)
{
    uv_mutex_lock(&p->open.life->lock);
    cl_program program = p->program;
    if (program)
        p->open.cl->RetainProgram(program);
    uv_mutex_unlock(&p->open.life->lock);
    return program;
}

cl_kernel tp_program_new_kernel(tp_program *p, const char *name, cl_int *rc)
{
    cl_program program = tp_program_take(p);
    *rc = CL_INVALID_PROGRAM_EXECUTABLE;
    if (!program)
        return NULL;
    cl_kernel kernel = p->open.cl->CreateKernel(program, name, rc);
    p->open.cl->ReleaseProgram(program);
    return kernel;
}

/* ---- storing on disk ---- */

/* The name of a program's binary: all that it depends on, which is the driver, the device, our own
 * build, options and source. To be freed; NULL when out of memory. */
static char *new_kept_name(const tp_cl *cl, const tp_cl_device *d, const char *text)
{
    char platform[1024] = "", build[80], *name;
    if (cl->GetPlatformInfo(d->platform_id, CL_PLATFORM_VERSION, sizeof platform - 1, platform,
                            NULL) != CL_SUCCESS)
        platform[0] = 0;
    tp_program_store_describe_build(build, sizeof build);
    int n = asprintf(&name, "%s\n%s\n%s\n%s\n%s\n%s\n%s %s\n%s", d->platform, platform, d->vendor,
                     d->name, d->version, d->driver, TP_VERSION, build, text);
    return n < 0 ? NULL : name;
}

/* With `verbose`, says why a program is compiled or is not stored: for files each time, for the
 * folder only once. The lock of the cache's owner may be held. */
static void tell(tp_program_cache *cache, tp_program_store_status status, const char *why)
{
    char line[600];
    if (!cache->host->config.verbose || status == TP_PROGRAM_STORE_FINE ||
        status == TP_PROGRAM_STORE_NONE ||
        (status == TP_PROGRAM_STORE_BAD_PLACE &&
         atomic_exchange_explicit(&cache->has_told, true, memory_order_relaxed)))
        return;
    int n = snprintf(line, sizeof line, "tidepool: %s: %s\n",
                     status == TP_PROGRAM_STORE_BAD_PLACE ? "compiled programs are not kept"
                                                 : "a kept program is compiled again", why);
    tp_host_print(cache->host, 2, line, n < (int)sizeof line ? (size_t)n : sizeof line - 1);
}

bool tp_program_is_new(const tp_program *p)
{
    return p->stored_name && !atomic_load_explicit(&p->is_kept, memory_order_relaxed);
}

/* Asks the driver for the binary, and stores it. */
static void store(tp_program *p)
{
    const tp_cl *cl = p->open.cl;
    size_t size = 0;
    cl_program program = tp_program_take(p);
    if (!program)
        return;
    if (cl->GetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof size, &size, NULL))
        size = 0;
    unsigned char *binary = size ? malloc(size) : NULL;
    if (binary && cl->GetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) ==
                      CL_SUCCESS) {
        tp_error why = { 0 };
        tp_program_store_status status = tp_program_store_write(&p->cache->host->program_store,
                                                                p->stored_name, binary, size, &why);
        tell(p->cache, status, why.message);
    }
    free(binary);
    cl->ReleaseProgram(program);
}

void tp_program_keep(tp_program *p)
{
    if (!p->stored_name || atomic_exchange_explicit(&p->is_kept, true, memory_order_relaxed))
        return;
    if (p->widths)
        tp_widths_begin(p->widths, SIZE_MAX);
    store(p);
    if (p->widths)
        tp_widths_end(p->widths);
}

/* ---- building ---- */

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

/* The program of that text, or of that binary where there is one, not built yet. No life is buried
 * meanwhile, with its context. CL_INVALID_CONTEXT: it is over. */
static cl_program create(const tp_open_device *open, const char *source,
                         const unsigned char *binary, size_t size, cl_int *rc)
{
    const tp_cl *cl = open->cl;
    cl_program program = NULL;
    cl_int status = CL_SUCCESS;
    *rc = CL_INVALID_CONTEXT;
    uv_mutex_lock(&open->life->lock);
    if (!tp_life_is_over(open->life) && binary)
        program = cl->CreateProgramWithBinary(open->context, 1, &open->device->id, &size, &binary,
                                              &status, rc);
    else if (!tp_life_is_over(open->life))
        program = cl->CreateProgramWithSource(open->context, 1, &source, NULL, rc);
    uv_mutex_unlock(&open->life->lock);
    if (*rc == CL_SUCCESS && status == CL_SUCCESS)
        return program;
    if (*rc == CL_SUCCESS) {
        cl->ReleaseProgram(program);
        *rc = status;
    }
    return NULL;
}

/* Makes the program from its stored binary; NULL when that is not possible. */
static cl_program load_kept(tp_program_cache *cache, const tp_open_device *open, const char *name,
                            const char *options)
{
    const tp_cl *cl = open->cl;
    const tp_cl_device *d = open->device;
    unsigned char *binary = NULL;
    size_t size = 0;
    tp_error why = { 0 };
    if (name)
        tell(cache, tp_program_store_read(&cache->host->program_store, name, &binary, &size, &why),
             why.message);
    if (!binary)
        return NULL;
    cl_int rc;
    cl_program program = create(open, NULL, binary, size, &rc);
    free(binary);
    if (program)
        rc = cl->BuildProgram(program, 1, &d->id, options, NULL, NULL);
    if (rc == CL_SUCCESS)
        return program;
    if (program)
        cl->ReleaseProgram(program);
    tp_error_set(&why, TP_ESYS, "%s refuses it: %s", d->name, tp_cl_error_name(rc));
    tell(cache, TP_PROGRAM_STORE_BAD_FILE, why.message);
    return NULL;
}

static cl_program build(const tp_open_device *open, const char *source, const char *options,
                        char **log, tp_error *err)
{
    const tp_cl *cl = open->cl;
    const tp_cl_device *d = open->device;
    cl_int rc;
    cl_program program = create(open, source, NULL, 0, &rc);
    if (program) {
        rc = cl->BuildProgram(program, 1, &d->id, options, NULL, NULL);
        if (rc == CL_SUCCESS)
            return program;
        *log = get_log(cl, program, d->id);
        cl->ReleaseProgram(program);
    }
    tp_cl_fail(err, d, "compiling the program", rc);
    if (tp_life_is_suspect(rc) && rc != CL_BUILD_PROGRAM_FAILURE)
        tp_life_check(open->life, NULL, 0, err);
    return NULL;
}

void tp_program_note_build(const tp_program *p, tp_build_how how, uint32_t worker,
                           uint64_t begun_ns, uint64_t ended_ns)
{
    const char *device = p->open.device->name;
    tp_trace *trace = tp_engine_trace(p->cache->host->engine);
    if (!tp_trace_is_on(trace))
        return;
    tp_event e = { .time_ns = begun_ns,
                   .kind = TP_EVENT_BUILD,
                   .worker = worker,
                   .first = ended_ns - begun_ns,
                   .count = tp_trace_name(trace, p->function, strlen(p->function)),
                   .job = tp_trace_build(how, p->open.index + 1,
                                         tp_trace_name(trace, device, strlen(device))) };
    tp_trace_write(trace, &e);
}

/* ---- promises ---- */

/* Is it the one with that text on this device, in this life? */
static bool is_same(const tp_program *p, const char *text, const tp_open_device *open)
{
    return strcmp(p->text, text) == 0 && p->open.life == open->life;
}

/* All of a program that needs memory; false when there is none. */
static bool fill(tp_program *p, const tp_open_device *open, char *text, const char *options,
                 const char *name, const char *function)
{
    p->text = text;
    p->source = text + strlen(options) + strlen(name) + 2;
    p->options = strdup(options);
    p->name = strdup(name);
    p->function = strdup(function);
    for (const tp_program *o = p->cache->programs; o && !p->widths; o = o->next)
        if (o->widths && strcmp(o->text, text) == 0)
            p->widths = tp_ref_hold(o->widths);
    bool needs_widths = open->device->type & CL_DEVICE_TYPE_CPU;
    if (needs_widths && !p->widths)
        p->widths = tp_widths_new();
    if (p->cache->host->program_store.folder)
        p->stored_name = new_kept_name(open->cl, open->device, text);
    return p->options && p->name && p->function && (p->widths || !needs_widths);
}

tp_program *tp_program_promise(tp_program_cache *cache, const tp_open_device *open,
                               const char *source, const char *options, const char *name,
                               const char *function, tp_error *err)
{
    tp_program *p = NULL;
    char *text = NULL;
    if (asprintf(&text, "%s\n%s\n%s", options, name, source) < 0)
        goto no_memory;
    for (tp_program *o = cache->programs; o; o = o->next)
        if (is_same(o, text, open)) {
            free(text);
            return tp_ref_hold(o);
        }
    p = calloc(1, sizeof *p);
    if (!p || uv_mutex_init(&p->making)) {
        free(p);
        free(text);
        goto no_memory;
    }
    tp_ref_init(&p->ref, &tp_program_type);
    p->cache = cache;
    p->open = *open;
    tp_ref_hold(open->life);
    atomic_init(&p->is_kept, false);
    atomic_init(&p->state, TP_PROGRAM_PROMISED);
    atomic_init(&p->untold_ns, 0);
    atomic_init(&p->untold_how, TP_BUILD_READ);
    if (!fill(p, open, text, options, name, function)) {
        tp_ref_drop(p);
        goto no_memory;
    }
    p->is_stored = p->stored_name && tp_program_store_has(&cache->host->program_store,
                                                          p->stored_name);
    p->next = cache->programs;
    cache->programs = p;
    return tp_ref_hold(p);
no_memory:
    tp_error_oom(err, "program");
    return NULL;
}

tp_program_state tp_program_state_of(const tp_program *p)
{
    return (tp_program_state)atomic_load_explicit(&p->state, memory_order_acquire);
}

/* Gives the program to those who hold it. -1 with err set when its life is over: then nobody would
 * give it back in time. */
static int set_program(tp_program *p, cl_program program, tp_error *err)
{
    uv_mutex_lock(&p->open.life->lock);
    p->program = program;
    uv_mutex_unlock(&p->open.life->lock);
    if (!tp_life_is_over(p->open.life))
        return 0;
    uv_mutex_lock(&p->open.life->lock);
    if (p->program)
        p->open.cl->ReleaseProgram(p->program);
    p->program = NULL;
    uv_mutex_unlock(&p->open.life->lock);
    return tp_life_say_over(p->open.life, err);
}

int tp_program_make(tp_program *p, tp_build_for who, char **log, tp_error *err)
{
    const uint64_t begun_ns = uv_hrtime();
    int rc = 0;
    uv_mutex_lock(&p->making);
    if (tp_program_state_of(p) == TP_PROGRAM_MADE)
        goto out;
    cl_program program = load_kept(p->cache, &p->open, p->stored_name, p->options);
    const bool is_read = program != NULL;
    if (!program)
        program = build(&p->open, p->source, p->options, log, err);
    rc = program ? set_program(p, program, err) : -1;
    if (is_read)
        atomic_store_explicit(&p->is_kept, true, memory_order_relaxed);
    atomic_store_explicit(&p->state, rc ? TP_PROGRAM_FAILED : TP_PROGRAM_MADE,
                          memory_order_release);
    if (rc)
        goto out;
    const tp_build_how how = is_read          ? TP_BUILD_READ
                             : p->stored_name ? TP_BUILD_KEPT
                                              : TP_BUILD_NOT_KEPT;
    const uint64_t ended_ns = uv_hrtime();
    tp_program_note_build(p, how, who.worker, begun_ns, ended_ns);
    if (who.built)
        *who.built = (tp_built){ ended_ns - begun_ns + 1, how };
out:
    uv_mutex_unlock(&p->making);
    return rc;
}

void tp_program_forget(tp_program_cache *cache, tp_program *p)
{
    tp_program **at = &cache->programs;
    while (*at && *at != p)
        at = &(*at)->next;
    if (!*at)
        return;
    *at = p->next;
    tp_ref_drop(p);
}

tp_program *tp_program_open(tp_program_cache *cache, const tp_open_device *open, const char *source,
                            const char *options, const char *name, tp_build_for who, char **log,
                            tp_error *err)
{
    tp_program *p = tp_program_promise(cache, open, source, options, name, who.function, err);
    if (!p || tp_program_make(p, who, log, err) == 0)
        return p;
    tp_program_forget(cache, p);
    tp_ref_drop(p);
    return NULL;
}

void tp_program_cache_end(tp_program_cache *cache, const tp_life *life)
{
    for (tp_program **at = &cache->programs; *at;) {
        tp_program *p = *at;
        if (p->open.life == life) {
            *at = p->next;
            uv_mutex_lock(&p->open.life->lock);
            if (p->program) /* else it is only promised */
                p->open.cl->ReleaseProgram(p->program);
            p->program = NULL;
            uv_mutex_unlock(&p->open.life->lock);
            tp_ref_drop(p);
        } else {
            at = &p->next;
        }
    }
}

void tp_program_cache_close(tp_program_cache *cache)
{
    while (cache->programs) {
        tp_program *next = cache->programs->next;
        tp_ref_drop(cache->programs);
        cache->programs = next;
    }
}
