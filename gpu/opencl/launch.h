/* launch.h: kernels and their launches: one kernel over many items on one device.
 *
 * A tp_kernel is what a map runs on devices in place of a Lua function: a program per device, how
 * the kernel's arguments are set, what it gives, and the texts of failures. It is read-only once
 * made. A tp_launch_queue is what one thread launches kernels with. */
#ifndef TP_LAUNCH_H
#define TP_LAUNCH_H

#include "engine/job.h"
#include "opencl/copies.h"
#include "opencl/pinned.h"
#include "opencl/program_cache.h"
#include "opencl/turn.h"
#include "opencl/waiter.h"

/* Every device takes arguments of 1,024 bytes together; most are pointers. More inputs or outputs
 * than TP_COLUMNS_MAX travel as messages. */
enum { TP_ARGUMENTS_MAX = 256, TP_FAILURES_MAX = 255, TP_KERNEL_COLUMNS_MAX = 64 };

/* The most numbers of a failure's message that are computed on the device. */
enum { TP_DETAILS_MAX = 8 };

/* The most work items of a group for kernels that the translator makes. */
enum { TP_WORK_GROUP_MAX = 256 };
_Static_assert(TP_WORK_GROUP_MAX % TP_LANES == 0, "a work group has whole groups of lanes");
_Static_assert(TP_FAILURES_MAX <= UINT8_MAX, "a failure's number is an element of `failed`");

typedef enum tp_argument_kind {
    TP_ARG_FIRST, TP_ARG_COUNT, /* ulong: the first element, and how many there are */
    TP_ARG_INPUT, TP_ARG_OUTPUT, TP_ARG_FAILED, /* buffers, an element per item */
    TP_ARG_VALUE,               /* a value, byte by byte */
    TP_ARG_ARRAY,               /* a buffer that all items share */
    /* KEY, ulong: a half of the map's key for random numbers; INDEX, ulong: the first element's
     * index in the map */
    TP_ARG_KEY, TP_ARG_INDEX,
    /* a buffer of `index` columns with an element per item each, one behind the other, which are
     * written only for items that failed */
    TP_ARG_DETAILS
} tp_argument_kind;

typedef struct tp_argument {
    tp_argument_kind kind;
    tp_type type;
    unsigned index;    /* INPUT, OUTPUT, KEY: its number, from 0; DETAILS: how many columns */
    union {
        double f64;
        float f32;
        int64_t i64;
    } value;           /* VALUE */
    size_t size;       /* VALUE, ARRAY: bytes */
    tp_array *array;   /* ARRAY: held */
    void *data;        /* ARRAY: the address in it */
    bool is_written;   /* ARRAY: the kernel changes it */
} tp_argument;

/* The message for an element with this number in `failed`, with a conversion of Lua's string.format
 * for each number that the device gives (the first from the output `detail` or the argument
 * DETAILS, the others from that argument); %b is the text of a boolean. Where the first number lies
 * between 1 and n, it is `inside`, if that is not NULL. */
typedef struct tp_device_failure {
    char *format, *inside;
    double n;
} tp_device_failure;

typedef struct tp_kernel {
    tp_ref ref;
    uint64_t devices;                     /* bit i: device i may run it */
    tp_program *programs[TP_DEVICES_MAX]; /* held; by device */
    unsigned lanes[TP_DEVICES_MAX];       /* elements per work item */
    /* How many elements make one element of the outputs: 1, or TP_GROUP for a reducer (see
     * tp_kernels). */
    unsigned group;
    unsigned n_arguments, n_inputs, n_outputs, n_failures;
    tp_argument arguments[TP_ARGUMENTS_MAX];
    tp_type input_type[TP_KERNEL_COLUMNS_MAX], output_type[TP_KERNEL_COLUMNS_MAX];
    /* the input's, or the output's, uint8 elements are booleans */
    bool takes_boolean[TP_KERNEL_COLUMNS_MAX], is_boolean[TP_KERNEL_COLUMNS_MAX];
    /* The kernel changes arrays: where memory is copied, its launches must not overlap. */
    bool is_writer;
    /* its work items may lie in rows: a work item's number is id(1) * size(0) + id(0) */
    bool has_rows;
    bool is_foreign; /* its outputs may have NaNs with any bits */
    /* "job.lua:7: f: ": the beginning of the message about an input that is no number */
    char *where;
    /* the output that has the first number of a failed element's message; -1: the argument DETAILS
     * has it, or nothing does */
    int detail;
    tp_type details;    /* the element type of DETAILS */
    unsigned n_details; /* its columns; 0: there is no such argument */
    tp_device_failure failures[TP_FAILURES_MAX];
} tp_kernel;

extern const tp_ref_type tp_kernel_type;

/* A new kernel with one owner and nothing else; NULL when out of memory. */
tp_kernel *tp_kernel_new(void);

/* Has one of the kernel's devices lost its program? Then it is to be made anew for later work. */
bool tp_kernel_is_over(const tp_kernel *k);

/* A kernel that a queue has launched, ready to be launched again. */
typedef struct tp_ready_kernel {
    tp_program *program; /* held; NULL: an empty place */
    cl_kernel kernel;
    size_t local;  /* work items of a group */
    uint64_t used; /* the value of the queue's `launches` when it was last used */
} tp_ready_kernel;

/* Memory on the device that is reused from launch to launch. */
typedef struct tp_device_memory {
    cl_mem mem;
    size_t capacity;
    size_t wanted; /* the most that a launch has used of it since it was last looked at */
} tp_device_memory;

enum { TP_READY_KERNELS_MAX = 16 };

/* A command whose times are to be noted when it is over. */
typedef struct tp_timed_command {
    cl_event event;
    tp_event_kind kind; /* COPY_IN, KERNEL or COPY_OUT */
    uint64_t count, queued_ns; /* as of the event; when it was queued, by the host's clock */
} tp_timed_command;

enum { TP_TIMED_MAX = 64 }; /* further commands of a launch are not noted */

/* A queue of a device, with the kernels and memory that its launches reuse. For one thread. */
typedef struct tp_launch_queue {
    tp_tenant tenant; /* first member; of the room of open.life, and what it gives back there */

    /* Read-only once opened, but for the context and the life in `open`. */
    tp_open_device open;
    tp_turn *writing; /* see tp_launch_queue_open */
    tp_copies *copies;   /* the executor's */
    tp_queue_waiter *waiter;   /* held */

    /* Of open.life, which is held, with all below; NULL: between two lives. */
    cl_command_queue queue;
    bool is_suspect; /* a call has failed in the launch that runs: see tp_life_is_suspect */
    cl_int shortage; /* how, if it was for want of memory; else CL_SUCCESS */
    size_t wanted;   /* so many bytes; 0: that is not known */
    bool is_frugal;  /* it uses no copies of whole arrays for its columns */
    tp_ready_kernel kernels[TP_READY_KERNELS_MAX];
    uint64_t launches;
    uint64_t made; /* kernels that were made ready: drivers compile at the first launch of one */
    bool has_new; /* there are kernels whose programs were not stored on disk yet */
    const tp_work *work; /* of the slice that runs: set before its first launch, by who runs it */
    const tp_work *launched; /* of the launch that runs: set before it begins in the room */
    bool is_timed; /* somebody wants to know: the queue measures its commands */
    /* how long launches waited for the driver's compiler, since somebody set it to 0 */
    uint64_t compiled_ns;
    unsigned n_timed;
    tp_timed_command timed[TP_TIMED_MAX]; /* of the launch that runs */
    /* What any thread may give back when the queue does not use it (tp_room). Where memory is
     * copied, by argument: a buffer; and pinned memory for copies there and back. */
    tp_device_memory memory[TP_ARGUMENTS_MAX];
    tp_pinned pinned;
    /* by argument, where memory is copied: the copy of an array that the launch which runs uses */
    tp_copy *taken[TP_ARGUMENTS_MAX];
    /* the part of the copy that is the launch's column; NULL where the device allows none to begin
     * there: then it is copied to `memory`, or from there */
    cl_mem column[TP_ARGUMENTS_MAX];
} tp_launch_queue;

/* The items of one launch, n of them from work->at on, and host memory for it: a column per input
 * and output, of the kernel's types; a byte per element of the outputs that is not 0 when the
 * element failed; and what TP_ARG_DETAILS says of those. */
typedef struct tp_launch_items {
    const tp_work *work;
    uint32_t n;
    void *const *inputs, *const *outputs;
    void *failed, *details;
    /* the arrays that columns lie in; NULL for one that lies elsewhere */
    tp_array *const *input_arrays, *const *output_arrays;
    /* outputs in arrays are left on the device, ahead of those (tp_copies) */
    bool stays;
} tp_launch_items;

/* Opens a zeroed queue. All queues of an executor share `copies` and `writing`, the turn of
 * launches that change arrays. */
int tp_launch_queue_open(tp_launch_queue *q, const tp_open_device *open, tp_turn *writing,
                         tp_copies *copies, tp_error *err);

/* Frees all that the queue holds. Nothing may run on it. */
void tp_launch_queue_close(tp_launch_queue *q);

/* Has the queue launched the kernel before, so that its driver need not compile? */
bool tp_launch_queue_has(const tp_launch_queue *q, const tp_kernel *k);

/* Does it hold something of a life that is over? tp_launch_queue_let_go frees that; nothing may run
 * on the queue. The next launch of a program of another life begins anew. */
bool tp_launch_queue_is_over(const tp_launch_queue *q);
void tp_launch_queue_let_go(tp_launch_queue *q);

/* Does memory of `capacity` have more than launches want that use at most `wanted` of it? */
bool tp_is_too_much(size_t capacity, size_t wanted);

/* Gives back the device's memory of which launches have wanted little since the last call. Nothing
 * may run on the queue. */
void tp_launch_queue_trim(tp_launch_queue *q);

/* Stores the programs of kernels that have run on disk (tp_program_store). */
void tp_launch_queue_keep(tp_launch_queue *q);

/* Runs the kernel over the items and waits for it; then its outputs are in host memory, but not
 * what it has written to arrays: that is on the device until it is brought home. -1 with err set
 * when the device could not run it. Nothing uses the host memory any more in either case. A kernel
 * whose program is of a life that is over can never run (tp_launch_is_over). TP_LAUNCH_WROTE in
 * the place of -1: it was started, and changes arrays, so that running its items again could change
 * those twice. */
enum { TP_LAUNCH_WROTE = -2 };
int tp_launch_run(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items, tp_error *err);

bool tp_launch_is_over(const tp_launch_queue *q, const tp_kernel *k);

/* Launches a kernel of the translator's over no items, so that its driver does now what it does at
 * the first launch: for PoCL that is half of compiling, and it has code for all widths then. What
 * fails of it is left to the first launch of items. */
void tp_launch_warm_up(tp_launch_queue *q, tp_kernel *k, uint32_t worker);

/* Brings home what launches of the kernel have written to arrays, on any device. `q`: a queue to do
 * it with, whose `work` is set; NULL: none. */
int tp_launch_bring_home(tp_launch_queue *q, const tp_kernel *k, tp_error *err);

/* What devices have lost of that was told to the map's owner: the arrays are used as they are. */
void tp_launch_forget_lost(const tp_kernel *k);

/* The devices, as bits, that have something for tp_launch_bring_home, and have not lost it. */
uint64_t tp_launch_ahead(const tp_kernel *k);

#endif
