/* faults.c: an OpenCL that fails, or is another one, on purpose: loaded as TIDEPOOL_OPENCL, it
 * passes everything on to the real loader, which it is linked to, but for what the environment
 * says:
 *   FAULTS_FROM=n       launches from the n-th on fail; with FAULTS_LATER those on every queue but
 *                       the first
 *   FAULTS_COPIES=1     devices have memory of their own
 *   FAULTS_MEMORY=n     devices have n bytes of memory
 *   FAULTS_BUFFERS=n    buffers from the n-th on cannot be made
 *   FAULTS_ROOM=n       nor can those with which there would be more than n bytes of them and of
 *                       images
 *   FAULTS_LATE=1       those are made, but launches fail while they are there
 *   FAULTS_SINGLE=1     devices have no doubles
 *   FAULTS_CARD=1       devices are graphics cards with memory of their own
 *   FAULTS_NAMELESS=1   kernels know nothing of their parameters
 *   FAULTS_SLOW=n       launches on every queue but the first take n ns longer for each work item
 *   FAULTS_SLOW_ALL=1   also those on the first
 *   FAULTS_OPEN=1       devices cannot be opened
 *   FAULTS_BUILD=1      programs do not compile; only for the first device when it is "first"
 *   FAULTS_BUILD_GATE=path  the compiler waits until there is that file, for a minute at most
 *   FAULTS_LOAD_GATE=path  listing the platforms waits in the same way
 *   FAULTS_PINNED=n     buffers of pinned memory (CL_MEM_ALLOC_HOST_PTR) from the n-th on cannot be
 *                       made; -n: nor mapped
 *   FAULTS_LAZY=n       copies that are not waited for begin n ns after they were asked for
 *   FAULTS_LOG=path     each program that is made appends a line there: "source" or "binary"
 * faults_kill(n) lets the n-th next call that has to do with a context (its queues, memory,
 * programs and kernels) find it dead, as after a kernel's access to memory that is not there: that
 * call and all later ones in the context fail, and other contexts go on. faults_kill_on(n, i)
 * counts only the calls of contexts of device i (0: the first that got one), faults_kill_all()
 * kills those that there are. faults_deaths() counts the contexts that have died,
 * faults_contexts() those that were not freed yet. faults_kill_queues() kills the queues that there
 * are, and nothing else; with faults_lock(1) no context can be made.
 * faults_stall(ms, blocks) has the next launch wait so long before it begins, for ever if that is
 * 0; with `blocks` in the call. faults_stalled() is how many have. With faults_occupy(1) launches
 * behind one that waits for ever wait, too, in its context, with faults_occupy(2) in all, with
 * faults_occupy(3) copies and unmappings as well, with faults_occupy(4) also markers, as in PoCL
 * with one thread, until faults_go_on() ends all such waits.
 * faults_stall_move(i) has the next copy wait for ever, in the call, faults_stall_unmap() the next
 * unmapping. faults_freed() is how many buffers of such a context were freed meanwhile.
 * faults_fail(n) lets the next n launches fail, faults_fail_reads(n) the next n
 * copies from a device, faults_fail_flush(n) and faults_fail_finish(n) the next n calls of clFlush
 * and clFinish, faults_fail_buffer(n) the n-th buffer from now on, also a pinned one.
 * faults_moved(i) is how many bytes were copied to devices (0), from them (1) and between their
 * buffers (2) so far, faults_moves(i) in how many commands. faults_peak() is how many queues
 * had work at the same time, at most; faults_items(i) how many work items queue i was given;
 * faults_group() the size of the last launch's groups; faults_held() the bytes of buffers that are
 * there, but for pinned ones, of which faults_pinned() are; faults_staged(i) how many of the bytes
 * moved had their host's side in pinned memory, faults_direct(i) the largest copy that had it
 * elsewhere; faults_ahead(i) how many copies with pinned memory were asked for while the one before
 * on their queue had not run; faults_fail_move(i, n) lets the n-th copy from now on fail;
 * faults_crowded() how many launches that were wider than all of their program before began beside
 * another one of it;
 * faults_refused() how often there was no room (FAULTS_ROOM);
 * faults_waits() how often clFinish was called before everything had run. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

enum { QUEUES_MAX = 64, GATE_TURNS = 6000 };

static _Atomic int launches, queues, buffers, working, peak;
static cl_command_queue known[QUEUES_MAX];
static _Atomic bool has_work[QUEUES_MAX];
static _Atomic(cl_device_id) first_device;

static _Atomic long items[QUEUES_MAX];
static _Atomic int failing, failing_reads, failing_flush, failing_finish; /* the next ones */
static _Atomic int failing_buffer; /* after so many calls; 0: none */
static _Atomic int group; /* work items of the last launch's groups, in the first dimension */
static _Atomic long moved[3], moves[3]; /* bytes and commands: to devices, from them, between */

/* Pinned buffers, and where they are mapped. */
enum { PINNED_MAX = 64 };
static struct {
    _Atomic(cl_mem) mem;
    _Atomic(char *) from;
    size_t size;
} pins[PINNED_MAX];
static _Atomic int pinned_made, fail_in[2];
static _Atomic long pinned, staged[2], direct[2], ahead[2];
static _Atomic(cl_event) last_copy[QUEUES_MAX]; /* of each queue */

double faults_pinned(void)
{
    return (double)atomic_load(&pinned);
}

double faults_staged(int way)
{
    return (double)atomic_load(&staged[way]);
}

double faults_direct(int way)
{
    return (double)atomic_load(&direct[way]);
}

double faults_ahead(int way)
{
    return (double)atomic_load(&ahead[way]);
}

void faults_fail_move(int way, int n)
{
    atomic_store(&fail_in[way], n);
}

static bool is_to_fail(int way)
{
    return atomic_load(&fail_in[way]) > 0 && atomic_fetch_sub(&fail_in[way], 1) == 1;
}

static bool is_pinned(const void *data, size_t size)
{
    const char *from = data;
    for (int i = 0; i < PINNED_MAX; i++) {
        const char *pin = atomic_load(&pins[i].from);
        if (pin && from >= pin && from + size <= pin + pins[i].size)
            return true;
    }
    return false;
}

/* Notes where the copy's host side is. */
static void count_side(int way, const void *host, size_t size)
{
    long before = atomic_load(&direct[way]);
    if (is_pinned(host, size))
        atomic_fetch_add(&staged[way], (long)size);
    else
        while (before < (long)size &&
               !atomic_compare_exchange_weak(&direct[way], &before, (long)size))
            ;
}

/* Notes whether the queue's copy before this one, whose event it is, has run. */
static void count_ahead(int way, cl_command_queue queue, cl_event event, bool counts)
{
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        if (known[i] == queue) {
            cl_int status = CL_COMPLETE;
            clRetainEvent(event);
            cl_event before = atomic_exchange(&last_copy[i], event);
            if (!before)
                return;
            if (counts && clGetEventInfo(before, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status,
                                         &status, NULL) == CL_SUCCESS &&
                status > CL_COMPLETE)
                atomic_fetch_add(&ahead[way], 1);
            clReleaseEvent(before);
            return;
        }
}

typedef struct gate {
    cl_event event;
    long ns;
    int before; /* see pass */
} gate;

static const long FOR_EVER = 1000000l * 1000000000;
static _Atomic int ends; /* of waits for ever, so far */
static _Atomic int occupies, freed;
static _Atomic(cl_context) occupied; /* where a launch waits for ever */

/* `before`: `ends`, as it was when nobody could know yet that somebody waits. */
static void pass(long ns, int before)
{
    if (ns < FOR_EVER)
        nanosleep(&(struct timespec){ ns / 1000000000, ns % 1000000000 }, NULL);
    while (ns == FOR_EVER && atomic_load(&ends) == before)
        nanosleep(&(struct timespec){ 0, 5000000 }, NULL);
}

void faults_occupy(int how)
{
    atomic_store(&occupies, how);
}

void faults_go_on(void)
{
    atomic_store(&occupied, NULL);
    atomic_fetch_add(&ends, 1);
}

int faults_freed(void)
{
    return atomic_load(&freed);
}

static cl_context context_of(cl_command_queue queue)
{
    cl_context context = NULL;
    clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL);
    return context;
}

static void *open_gate(void *arg)
{
    gate *g = arg;
    pass(g->ns, g->before);
    clSetUserEventStatus(g->event, CL_COMPLETE);
    clReleaseEvent(g->event);
    free(g);
    return NULL;
}

/* An event that happens after so long. */
static cl_event new_gate(cl_command_queue queue, long ns, int before)
{
    cl_context context = NULL;
    cl_int rc;
    pthread_t thread;
    gate *g = malloc(sizeof *g);
    if (!g)
        return NULL;
    clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL);
    g->ns = ns;
    g->before = before;
    g->event = clCreateUserEvent(context, &rc);
    clRetainEvent(g->event);
    cl_event event = g->event;
    pthread_create(&thread, NULL, open_gate, g);
    pthread_detach(thread);
    return event;
}

/* An event that happens after FAULTS_LAZY, or when what occupies the device has gone on; NULL:
 * there is no such delay. */
static cl_event delay(cl_command_queue queue, bool is_waited_for)
{
    int before = atomic_load(&ends);
    if (atomic_load(&occupied) && atomic_load(&occupies) >= 3)
        return new_gate(queue, FOR_EVER, before);
    const char *lazy = getenv("FAULTS_LAZY");
    return lazy && !is_waited_for ? new_gate(queue, atol(lazy), before) : NULL;
}

static void count_move(int way, size_t size)
{
    atomic_fetch_add(&moved[way], (long)size);
    atomic_fetch_add(&moves[way], 1);
}

double faults_moved(int way)
{
    return (double)atomic_load(&moved[way]);
}

double faults_moves(int way)
{
    return (double)atomic_load(&moves[way]);
}

static _Atomic int stalled, stall_moves[2], stall_unmaps;

void faults_stall_move(int way)
{
    atomic_store(&stall_moves[way], 1);
}

void faults_stall_unmap(void)
{
    atomic_store(&stall_unmaps, 1);
}

/* Waits for ever if it is to. */
static void pass_once(_Atomic int *is_to)
{
    int before = atomic_load(&ends);
    if (!atomic_exchange(is_to, 0))
        return;
    atomic_fetch_add(&stalled, 1);
    pass(FOR_EVER, before);
}

void faults_fail_reads(int n)
{
    atomic_store(&failing_reads, n);
}

void faults_fail_buffer(int n)
{
    atomic_store(&failing_buffer, n);
}

void faults_fail(int n)
{
    atomic_store(&failing, n);
}

void faults_fail_flush(int n)
{
    atomic_store(&failing_flush, n);
}

void faults_fail_finish(int n)
{
    atomic_store(&failing_finish, n);
}

long faults_items(int queue)
{
    return atomic_load(&items[queue]);
}

int faults_group(void)
{
    return atomic_load(&group);
}

int faults_peak(void)
{
    return atomic_load(&peak);
}

static _Atomic long held;
static _Atomic int refused;
static _Atomic int waits;
static cl_event latest[QUEUES_MAX]; /* of each queue's last launch */
static pthread_mutex_t latest_lock = PTHREAD_MUTEX_INITIALIZER;

/* Sets the event of a queue's last launch, and gives the one before, which the caller owns then. */
static cl_event swap_latest(int i, cl_event event)
{
    pthread_mutex_lock(&latest_lock);
    cl_event before = latest[i];
    latest[i] = event;
    pthread_mutex_unlock(&latest_lock);
    return before;
}

/* The same event, retained. */
static cl_event hold_latest(int i)
{
    pthread_mutex_lock(&latest_lock);
    cl_event event = latest[i];
    if (event)
        clRetainEvent(event);
    pthread_mutex_unlock(&latest_lock);
    return event;
}

double faults_held(void)
{
    return (double)atomic_load(&held);
}

int faults_waits(void)
{
    return atomic_load(&waits);
}

/* ---- contexts that die ---- */

enum { CONTEXTS_MAX = 64, DEVICES_MAX = 8 };

static struct context {
    _Atomic(cl_context) context; /* NULL: an empty place */
    cl_device_id device;
    _Atomic bool is_dead;
} contexts[CONTEXTS_MAX];
static _Atomic(cl_device_id) seen_devices[DEVICES_MAX];
static _Atomic int kill_in, kill_on = -1, deaths, live_contexts, locked;
static _Atomic bool is_killed[QUEUES_MAX];

void faults_lock(int is)
{
    atomic_store(&locked, is);
}

void faults_kill_queues(void)
{
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        atomic_store(&is_killed[i], true);
}

void faults_kill_on(int n, int device)
{
    atomic_store(&kill_on, device);
    atomic_store(&kill_in, n);
}

void faults_kill(int n)
{
    faults_kill_on(n, -1);
}

int faults_deaths(void)
{
    return atomic_load(&deaths);
}

int faults_contexts(void)
{
    return atomic_load(&live_contexts);
}

static void die(struct context *c)
{
    if (!atomic_exchange(&c->is_dead, true))
        atomic_fetch_add(&deaths, 1);
}

void faults_kill_all(void)
{
    for (struct context *c = contexts; c < contexts + CONTEXTS_MAX; c++)
        if (atomic_load(&c->context))
            die(c);
}

static bool is_of_device(const struct context *c, int device)
{
    return device < 0 || atomic_load(&seen_devices[device]) == c->device;
}

/* A call in that context: does it find it dead? */
static bool finds_dead(cl_context context)
{
    for (struct context *c = contexts; c < contexts + CONTEXTS_MAX; c++)
        if (atomic_load(&c->context) == context) {
            if (is_of_device(c, atomic_load(&kill_on)) && atomic_load(&kill_in) > 0 &&
                atomic_fetch_sub(&kill_in, 1) == 1)
                die(c);
            return atomic_load(&c->is_dead);
        }
    return false;
}

static bool is_dead_queue(cl_command_queue queue)
{
    cl_context context = NULL;
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        if (known[i] == queue && atomic_load(&is_killed[i]))
            return true;
    clGetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof context, &context, NULL);
    return finds_dead(context);
}

static bool is_dead_program(cl_program program)
{
    cl_context context = NULL;
    clGetProgramInfo(program, CL_PROGRAM_CONTEXT, sizeof context, &context, NULL);
    return finds_dead(context);
}

static void CL_CALLBACK count_out(cl_context context, void *user)
{
    (void)user;
    for (struct context *c = contexts; c < contexts + CONTEXTS_MAX; c++)
        if (atomic_load(&c->context) == context)
            atomic_store(&c->context, NULL);
    atomic_fetch_sub(&live_contexts, 1);
}

cl_context clCreateContext(const cl_context_properties *properties, cl_uint n,
                           const cl_device_id *devices,
                           void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *),
                           void *user, cl_int *rc)
{
    if (getenv("FAULTS_OPEN") || atomic_load(&locked)) {
        *rc = CL_DEVICE_NOT_AVAILABLE;
        return NULL;
    }
    cl_context made = REAL(clCreateContext)(properties, n, devices, notify, user, rc);
    for (int i = 0; made && i < DEVICES_MAX; i++) {
        cl_device_id none = NULL;
        if (atomic_compare_exchange_strong(&seen_devices[i], &none, devices[0]) ||
            none == devices[0])
            break;
    }
    for (struct context *c = contexts; made && c < contexts + CONTEXTS_MAX; c++) {
        cl_context none = NULL;
        if (!atomic_load(&c->context)) {
            c->device = devices[0];
            atomic_store(&c->is_dead, false);
            if (atomic_compare_exchange_strong(&c->context, &none, made))
                break;
        }
    }
    cl_int (*tell)(cl_context, void(CL_CALLBACK *)(cl_context, void *), void *) = NULL; /* 3.0 */
    void *address = made ? dlsym(RTLD_NEXT, "clSetContextDestructorCallback") : NULL;
    memcpy(&tell, &address, sizeof address);
    if (tell && tell(made, count_out, NULL) == CL_SUCCESS)
        atomic_fetch_add(&live_contexts, 1);
    return made;
}

static void count_work(cl_command_queue queue, bool starts)
{
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        if (known[i] == queue && atomic_exchange(&has_work[i], starts) != starts) {
            int now = atomic_fetch_add(&working, starts ? 1 : -1) + (starts ? 1 : -1),
                most = atomic_load(&peak);
            while (now > most && !atomic_compare_exchange_weak(&peak, &most, now))
                ;
        }
}

static void note(const char *line)
{
    FILE *file = getenv("FAULTS_LOG") ? fopen(getenv("FAULTS_LOG"), "a") : NULL;
    if (file) {
        fputs(line, file);
        fclose(file);
    }
}

cl_int clGetDeviceInfo(cl_device_id device, cl_device_info what, size_t size, void *value,
                       size_t *got)
{
    const char *memory = getenv("FAULTS_MEMORY");
    cl_device_id none = NULL;
    atomic_compare_exchange_strong(&first_device, &none, device);
    if (what == CL_DEVICE_TYPE && getenv("FAULTS_CARD")) {
        *(cl_device_type *)value = CL_DEVICE_TYPE_GPU;
        return CL_SUCCESS;
    }
    if (what == CL_DEVICE_DOUBLE_FP_CONFIG && getenv("FAULTS_SINGLE")) {
        memset(value, 0, size);
        return CL_SUCCESS;
    }
    if (what == CL_DEVICE_HOST_UNIFIED_MEMORY &&
        (getenv("FAULTS_COPIES") || getenv("FAULTS_CARD"))) {
        memset(value, 0, size);
        return CL_SUCCESS;
    }
    if ((what == CL_DEVICE_GLOBAL_MEM_SIZE || what == CL_DEVICE_MAX_MEM_ALLOC_SIZE) && memory) {
        *(cl_ulong *)value = strtoull(memory, NULL, 10);
        return CL_SUCCESS;
    }
    return REAL(clGetDeviceInfo)(device, what, size, value, got);
}

cl_command_queue clCreateCommandQueue(cl_context context, cl_device_id device,
                                      cl_command_queue_properties properties, cl_int *rc)
{
    if (finds_dead(context)) {
        *rc = CL_OUT_OF_RESOURCES;
        return NULL;
    }
    cl_command_queue queue = REAL(clCreateCommandQueue)(context, device, properties, rc);
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        if (known[i] == queue)
            known[i] = NULL; /* was released */
    if (queues < QUEUES_MAX)
        known[queues] = queue;
    atomic_fetch_add(&queues, 1);
    return queue;
}

/* Gives back the events that were noted: they would keep the queue's context. */
cl_int clReleaseCommandQueue(cl_command_queue queue)
{
    for (int i = 0; i < queues && i < QUEUES_MAX; i++) {
        cl_event mine = known[i] == queue ? swap_latest(i, NULL) : NULL;
        cl_event copy = known[i] == queue ? atomic_exchange(&last_copy[i], NULL) : NULL;
        if (mine)
            clReleaseEvent(mine);
        if (copy)
            clReleaseEvent(copy);
    }
    return REAL(clReleaseCommandQueue)(queue);
}

/* Who owns memory, by what was called: drivers have owners of their own until commands have run. */
enum { OWNED_MAX = 4096 };
static struct owned {
    cl_mem mem, whole; /* whole: of a part, which owns it */
    size_t size;
    int owners;
} owned[OWNED_MAX];
static pthread_mutex_t owned_lock = PTHREAD_MUTEX_INITIALIZER;

static struct owned *find_owned(cl_mem mem)
{
    for (struct owned *o = owned; o < owned + OWNED_MAX; o++)
        if (o->mem == mem)
            return o;
    return NULL;
}

static void note_made(cl_mem mem, cl_mem whole, size_t size)
{
    pthread_mutex_lock(&owned_lock);
    struct owned *o = find_owned(NULL), *of = whole ? find_owned(whole) : NULL;
    if (o)
        *o = (struct owned){ mem, of ? whole : NULL, size, 1 };
    if (of)
        of->owners++;
    pthread_mutex_unlock(&owned_lock);
    atomic_fetch_add(&held, (long)size);
}

static void note_released(cl_mem mem)
{
    pthread_mutex_lock(&owned_lock);
    for (struct owned *o; mem && (o = find_owned(mem));) {
        mem = NULL;
        if (--o->owners == 0) {
            atomic_fetch_sub(&held, (long)o->size);
            mem = o->whole;
            *o = (struct owned){ 0 };
        }
    }
    pthread_mutex_unlock(&owned_lock);
}

cl_int clRetainMemObject(cl_mem mem)
{
    pthread_mutex_lock(&owned_lock);
    struct owned *o = find_owned(mem);
    if (o)
        o->owners++;
    pthread_mutex_unlock(&owned_lock);
    return REAL(clRetainMemObject)(mem);
}

/* Is there room for so many bytes more? */
static bool has_room(long size)
{
    const char *room = getenv("FAULTS_ROOM");
    bool has = !room || atomic_load(&held) + size <= atol(room);
    atomic_fetch_add(&refused, !has);
    return has;
}

int faults_refused(void)
{
    return atomic_load(&refused);
}

cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *rc)
{
    const char *from = getenv("FAULTS_BUFFERS"), *pins_from = getenv("FAULTS_PINNED");
    if (finds_dead(context)) {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    if (atomic_load(&failing_buffer) > 0 && atomic_fetch_sub(&failing_buffer, 1) == 1) {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    if (flags & CL_MEM_ALLOC_HOST_PTR) {
        if (pins_from && atoi(pins_from) > 0 &&
            atomic_fetch_add(&pinned_made, 1) + 1 >= atoi(pins_from)) {
            *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
            return NULL;
        }
        cl_mem made = REAL(clCreateBuffer)(context, flags, size, host, rc);
        cl_mem none = NULL;
        for (int i = 0; i < PINNED_MAX && made; i++, none = NULL)
            if (atomic_compare_exchange_strong(&pins[i].mem, &none, made)) {
                pins[i].size = size;
                break;
            }
        if (made)
            atomic_fetch_add(&pinned, (long)size);
        return made;
    }
    if (from && atomic_fetch_add(&buffers, 1) + 1 >= atoi(from)) {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    if (!host && !getenv("FAULTS_LATE") && !has_room((long)size)) {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    cl_mem mem = REAL(clCreateBuffer)(context, flags, size, host, rc);
    if (mem && !host)
        note_made(mem, NULL, size);
    return mem;
}

cl_mem clCreateImage(cl_context context, cl_mem_flags flags, const cl_image_format *format,
                     const cl_image_desc *desc, void *host, cl_int *rc)
{
    size_t size = 0;
    cl_mem mem = REAL(clCreateImage)(context, flags, format, desc, host, rc);
    if (!mem || clGetMemObjectInfo(mem, CL_MEM_SIZE, sizeof size, &size, NULL))
        return mem;
    if (!getenv("FAULTS_LATE") && !has_room((long)size)) {
        REAL(clReleaseMemObject)(mem);
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    note_made(mem, NULL, size);
    return mem;
}

cl_int clReleaseMemObject(cl_mem mem)
{
    cl_uint owners = 0;
    size_t size = 0;
    clGetMemObjectInfo(mem, CL_MEM_REFERENCE_COUNT, sizeof owners, &owners, NULL);
    clGetMemObjectInfo(mem, CL_MEM_SIZE, sizeof size, &size, NULL);
    for (int i = 0; i < PINNED_MAX; i++)
        if (pins[i].mem == mem) {
            atomic_store(&pins[i].from, NULL);
            atomic_store(&pins[i].mem, NULL);
            atomic_fetch_sub(&pinned, (long)size);
            return REAL(clReleaseMemObject)(mem);
        }
    note_released(mem);
    cl_context context = NULL;
    clGetMemObjectInfo(mem, CL_MEM_CONTEXT, sizeof context, &context, NULL);
    if (owners == 1 && context && context == atomic_load(&occupied))
        atomic_fetch_add(&freed, 1);
    return REAL(clReleaseMemObject)(mem);
}

cl_program clCreateProgramWithSource(cl_context context, cl_uint n, const char **texts,
                                     const size_t *lengths, cl_int *rc)
{
    note("source\n");
    if (finds_dead(context)) {
        *rc = CL_OUT_OF_RESOURCES;
        return NULL;
    }
    return REAL(clCreateProgramWithSource)(context, n, texts, lengths, rc);
}

cl_program clCreateProgramWithBinary(cl_context context, cl_uint n, const cl_device_id *devices,
                                     const size_t *lengths, const unsigned char **binaries,
                                     cl_int *status, cl_int *rc)
{
    note("binary\n");
    if (finds_dead(context)) {
        *rc = CL_OUT_OF_RESOURCES;
        return NULL;
    }
    return REAL(clCreateProgramWithBinary)(context, n, devices, lengths, binaries, status, rc);
}

cl_int clGetKernelArgInfo(cl_kernel kernel, cl_uint i, cl_kernel_arg_info what, size_t size,
                          void *value, size_t *got)
{
    return getenv("FAULTS_NAMELESS") ? CL_KERNEL_ARG_INFO_NOT_AVAILABLE
                                     : REAL(clGetKernelArgInfo)(kernel, i, what, size, value, got);
}

static struct {
    cl_program program;
    size_t width;
} wide[QUEUES_MAX];           /* the widest launch of each queue */
static _Atomic int crowded;

int faults_crowded(void)
{
    return atomic_load(&crowded);
}

/* A launch of `width` work items begins. */
static void count_crowd(cl_command_queue queue, cl_kernel kernel, size_t width)
{
    cl_program program = NULL;
    bool is_widest = true, has_others = false;
    int mine = -1;
    clGetKernelInfo(kernel, CL_KERNEL_PROGRAM, sizeof program, &program, NULL);
    for (int i = 0; i < queues && i < QUEUES_MAX; i++) {
        cl_int status = CL_COMPLETE;
        if (known[i] == queue)
            mine = i;
        if (wide[i].program != program)
            continue;
        is_widest = is_widest && width > wide[i].width;
        cl_event last = known[i] != queue ? hold_latest(i) : NULL;
        if (last &&
            REAL(clGetEventInfo)(last, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
                                 NULL) == CL_SUCCESS &&
            status > CL_COMPLETE)
            has_others = true;
        if (last)
            clReleaseEvent(last);
    }
    if (is_widest && has_others)
        atomic_fetch_add(&crowded, 1);
    if (mine >= 0 && (wide[mine].program != program || width > wide[mine].width)) {
        wide[mine].program = program;
        wide[mine].width = width;
    }
}

static _Atomic int stall_ms = -1, stall_blocks;

void faults_stall(int ms, int blocks)
{
    atomic_store(&stall_blocks, blocks);
    atomic_store(&stall_ms, ms);
}

int faults_stalled(void)
{
    return atomic_load(&stalled);
}

/* What the launch has to wait for; NULL: nothing (any more). */
static cl_event stall(cl_command_queue queue)
{
    int before = atomic_load(&ends);
    long ms = atomic_exchange(&stall_ms, -1), ns = ms > 0 ? ms * 1000000 : FOR_EVER;
    cl_context where = atomic_load(&occupied);
    int how = atomic_load(&occupies);
    if (ms < 0 && where && (how >= 2 || (how == 1 && context_of(queue) == where)))
        return new_gate(queue, FOR_EVER, before);
    if (ms < 0)
        return NULL;
    atomic_fetch_add(&stalled, 1);
    if (ns == FOR_EVER)
        atomic_store(&occupied, context_of(queue));
    if (!atomic_load(&stall_blocks))
        return new_gate(queue, ns, before);
    pass(ns, before);
    return NULL;
}

cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims,
                              const size_t *offset, const size_t *global, const size_t *local,
                              cl_uint n, const cl_event *events, cl_event *event)
{
    const char *from = getenv("FAULTS_FROM");
    if (is_dead_queue(queue))
        return CL_OUT_OF_RESOURCES;
    if ((from || getenv("FAULTS_LATER")) && (!getenv("FAULTS_LATER") || queue != known[0]) &&
        atomic_fetch_add(&launches, 1) + 1 >= (from ? atoi(from) : 1))
        return CL_OUT_OF_RESOURCES;
    if (atomic_load(&failing) > 0 && atomic_fetch_sub(&failing, 1) > 0)
        return CL_OUT_OF_RESOURCES;
    if (getenv("FAULTS_LATE") && !has_room(0))
        return CL_MEM_OBJECT_ALLOCATION_FAILURE;
    count_work(queue, true);
    count_crowd(queue, kernel, *global);
    atomic_store(&group, local ? (int)*local : 0);
    for (int i = 0; i < queues && i < QUEUES_MAX; i++)
        if (known[i] == queue)
            atomic_fetch_add(&items[i], (long)*global);
    long slow_ns = getenv("FAULTS_SLOW") && (queue != known[0] || getenv("FAULTS_SLOW_ALL"))
                       ? atol(getenv("FAULTS_SLOW")) * (long)*global
                       : 0;
    nanosleep(&(struct timespec){ slow_ns / 1000000000, slow_ns % 1000000000 }, NULL);
    cl_event mine = NULL, gate = n == 0 ? stall(queue) : NULL;
    cl_int rc = REAL(clEnqueueNDRangeKernel)(queue, kernel, dims, offset, global, local,
                                             gate ? 1 : n, gate ? &gate : events, &mine);
    if (gate)
        clReleaseEvent(gate);
    if (rc == CL_SUCCESS && event && REAL(clRetainEvent)(mine) == CL_SUCCESS)
        *event = mine;
    for (int i = 0; i < queues && i < QUEUES_MAX && mine; i++)
        if (known[i] == queue) {
            cl_event before = swap_latest(i, mine);
            if (before)
                clReleaseEvent(before);
            return rc;
        }
    if (mine)
        clReleaseEvent(mine);
    return rc;
}

void *clEnqueueMapBuffer(cl_command_queue queue, cl_mem mem, cl_bool blocks, cl_map_flags flags,
                         size_t offset, size_t size, cl_uint n, const cl_event *events,
                         cl_event *event, cl_int *rc)
{
    if (is_dead_queue(queue)) {
        *rc = CL_OUT_OF_RESOURCES;
        return NULL;
    }
    const char *from = getenv("FAULTS_PINNED");
    for (int i = 0; i < PINNED_MAX; i++)
        if (pins[i].mem == mem) {
            if (from && atoi(from) < 0 && atomic_fetch_add(&pinned_made, 1) + 1 >= -atoi(from)) {
                *rc = CL_MAP_FAILURE;
                return NULL;
            }
            char *data = REAL(clEnqueueMapBuffer)(queue, mem, blocks, flags, offset, size, n,
                                                  events, event, rc);
            atomic_store(&pins[i].from, data);
            return data;
        }
    return REAL(clEnqueueMapBuffer)(queue, mem, blocks, flags, offset, size, n, events, event, rc);
}

cl_int clEnqueueWriteBuffer(cl_command_queue queue, cl_mem mem, cl_bool blocks, size_t offset,
                            size_t size, const void *from, cl_uint n, const cl_event *events,
                            cl_event *event)
{
    if (is_dead_queue(queue))
        return CL_INVALID_COMMAND_QUEUE;
    if (is_to_fail(0))
        return CL_OUT_OF_RESOURCES;
    pass_once(&stall_moves[0]);
    count_work(queue, true);
    count_move(0, size);
    count_side(0, from, size);
    cl_event later = delay(queue, blocks), mine = NULL;
    cl_int rc = REAL(clEnqueueWriteBuffer)(queue, mem, blocks, offset, size, from,
                                           later ? 1 : n, later ? &later : events, &mine);
    if (later)
        clReleaseEvent(later);
    if (rc == CL_SUCCESS)
        count_ahead(0, queue, mine, is_pinned(from, size));
    if (rc == CL_SUCCESS && event)
        *event = mine;
    else if (rc == CL_SUCCESS)
        clReleaseEvent(mine);
    return rc;
}

cl_int clEnqueueReadBuffer(cl_command_queue queue, cl_mem mem, cl_bool blocks, size_t offset,
                           size_t size, void *to, cl_uint n, const cl_event *events,
                           cl_event *event)
{
    if (is_dead_queue(queue))
        return CL_INVALID_COMMAND_QUEUE;
    if (atomic_load(&failing_reads) > 0 && atomic_fetch_sub(&failing_reads, 1) > 0)
        return CL_OUT_OF_RESOURCES;
    if (is_to_fail(1))
        return CL_OUT_OF_RESOURCES;
    pass_once(&stall_moves[1]);
    count_move(1, size);
    count_side(1, to, size);
    cl_event later = delay(queue, blocks), mine = NULL;
    cl_int rc = REAL(clEnqueueReadBuffer)(queue, mem, blocks, offset, size, to, later ? 1 : n,
                                          later ? &later : events, &mine);
    if (later)
        clReleaseEvent(later);
    if (rc == CL_SUCCESS)
        count_ahead(1, queue, mine, is_pinned(to, size));
    if (rc == CL_SUCCESS && event)
        *event = mine;
    else if (rc == CL_SUCCESS)
        clReleaseEvent(mine);
    return rc;
}

cl_int clEnqueueCopyBuffer(cl_command_queue queue, cl_mem from, cl_mem to, size_t from_at,
                           size_t to_at, size_t size, cl_uint n, const cl_event *events,
                           cl_event *event)
{
    if (is_dead_queue(queue))
        return CL_INVALID_COMMAND_QUEUE;
    count_move(2, size);
    return REAL(clEnqueueCopyBuffer)(queue, from, to, from_at, to_at, size, n, events, event);
}

/* Waits until there is a file of that name, if there is one. */
static void wait_at(const char *gate)
{
    for (int i = 0; gate && access(gate, F_OK) && i < GATE_TURNS; i++)
        nanosleep(&(struct timespec){ 0, 10 * 1000 * 1000 }, NULL);
}

cl_int clGetPlatformIDs(cl_uint max, cl_platform_id *platforms, cl_uint *n)
{
    wait_at(getenv("FAULTS_LOAD_GATE"));
    return REAL(clGetPlatformIDs)(max, platforms, n);
}

cl_int clBuildProgram(cl_program program, cl_uint n, const cl_device_id *devices,
                      const char *options, void(CL_CALLBACK *done)(cl_program, void *), void *user)
{
    const char *which = getenv("FAULTS_BUILD");
    wait_at(getenv("FAULTS_BUILD_GATE"));
    if (which && (strcmp(which, "first") != 0 || devices[0] == first_device))
        return CL_BUILD_PROGRAM_FAILURE;
    if (is_dead_program(program))
        return CL_OUT_OF_RESOURCES;
    return REAL(clBuildProgram)(program, n, devices, options, done, user);
}

cl_int clFinish(cl_command_queue queue)
{
    for (int i = 0; i < queues && i < QUEUES_MAX; i++) {
        cl_event mine = known[i] == queue ? swap_latest(i, NULL) : NULL;
        cl_int status = CL_COMPLETE;
        if (mine && clGetEventInfo(mine, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
                                   NULL) == CL_SUCCESS &&
            status > CL_COMPLETE)
            atomic_fetch_add(&waits, 1);
        if (mine)
            clReleaseEvent(mine);
    }
    cl_int rc = REAL(clFinish)(queue); /* a dead one's commands are over, too */
    count_work(queue, false);
    if (atomic_load(&failing_finish) > 0 && atomic_fetch_sub(&failing_finish, 1) > 0)
        return CL_OUT_OF_RESOURCES;
    return is_dead_queue(queue) ? CL_OUT_OF_RESOURCES : rc;
}

cl_int clFlush(cl_command_queue queue)
{
    if (atomic_load(&failing_flush) > 0 && atomic_fetch_sub(&failing_flush, 1) > 0)
        return CL_OUT_OF_RESOURCES;
    return is_dead_queue(queue) ? CL_INVALID_COMMAND_QUEUE : REAL(clFlush)(queue);
}

cl_mem clCreateSubBuffer(cl_mem mem, cl_mem_flags flags, cl_buffer_create_type type,
                         const void *region, cl_int *rc)
{
    cl_context context = NULL;
    clGetMemObjectInfo(mem, CL_MEM_CONTEXT, sizeof context, &context, NULL);
    if (finds_dead(context)) {
        *rc = CL_INVALID_MEM_OBJECT;
        return NULL;
    }
    cl_mem part = REAL(clCreateSubBuffer)(mem, flags, type, region, rc);
    if (part)
        note_made(part, mem, 0);
    return part;
}

cl_kernel clCreateKernel(cl_program program, const char *name, cl_int *rc)
{
    if (is_dead_program(program)) {
        *rc = CL_INVALID_PROGRAM_EXECUTABLE;
        return NULL;
    }
    return REAL(clCreateKernel)(program, name, rc);
}

cl_int clEnqueueFillBuffer(cl_command_queue queue, cl_mem mem, const void *pattern,
                           size_t pattern_size, size_t offset, size_t size, cl_uint n,
                           const cl_event *events, cl_event *event)
{
    if (is_dead_queue(queue))
        return CL_INVALID_COMMAND_QUEUE;
    return REAL(clEnqueueFillBuffer)(queue, mem, pattern, pattern_size, offset, size, n, events,
                                     event);
}

cl_int clEnqueueUnmapMemObject(cl_command_queue queue, cl_mem mem, void *mapped, cl_uint n,
                               const cl_event *events, cl_event *event)
{
    pass_once(&stall_unmaps);
    cl_event later = n == 0 ? delay(queue, true) : NULL;
    /* PoCL keeps memory, and its context, as long as it is mapped */
    cl_int rc = REAL(clEnqueueUnmapMemObject)(queue, mem, mapped, later ? 1 : n,
                                              later ? &later : events, event);
    if (later)
        clReleaseEvent(later);
    return is_dead_queue(queue) ? CL_OUT_OF_RESOURCES : rc;
}

cl_int clEnqueueMarkerWithWaitList(cl_command_queue queue, cl_uint n, const cl_event *events,
                                   cl_event *event)
{
    if (is_dead_queue(queue))
        return CL_OUT_OF_RESOURCES;
    int before = atomic_load(&ends);
    if (n > 0 || !atomic_load(&occupied) || atomic_load(&occupies) < 4)
        return REAL(clEnqueueMarkerWithWaitList)(queue, n, events, event);
    cl_event gate = new_gate(queue, FOR_EVER, before);
    cl_int rc = REAL(clEnqueueMarkerWithWaitList)(queue, 1, &gate, event);
    clReleaseEvent(gate);
    return rc;
}

cl_int clGetEventInfo(cl_event event, cl_event_info what, size_t size, void *value, size_t *got)
{
    cl_context context = NULL;
    cl_int rc = REAL(clGetEventInfo)(event, what, size, value, got);
    if (what != CL_EVENT_COMMAND_EXECUTION_STATUS || rc != CL_SUCCESS)
        return rc;
    REAL(clGetEventInfo)(event, CL_EVENT_CONTEXT, sizeof context, &context, NULL);
    if (finds_dead(context))
        *(cl_int *)value = CL_OUT_OF_RESOURCES;
    return CL_SUCCESS;
}
