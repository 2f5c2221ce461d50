/* launch.h: kernels, and their launches: one kernel over many items on one device.
 *
 * A tp_kernel is what one map runs on devices, in the place of a Lua function: a program per
 * device, how the kernel's arguments are filled, what comes out, and the texts of its elements'
 * failures; read-only once made. A tp_launch_queue is what one thread launches kernels with. */
#ifndef TP_LAUNCH_H
#define TP_LAUNCH_H

#include "engine/job.h"
#include "opencl/program_cache.h"

/* Arguments: 1,024 bytes of them, pointers mostly, are what every device takes. More inputs or
 * outputs than TP_COLUMNS_MAX travel as messages. */
enum { TP_ARGUMENTS_MAX = 256, TP_FAILURES_MAX = 255, TP_KERNEL_COLUMNS_MAX = 64 };

/* Work items of a group that kernels of the translator's are launched in, at most. */
enum { TP_WORK_GROUP_MAX = 256 };
_Static_assert(TP_WORK_GROUP_MAX % TP_LANES == 0, "a work group has whole groups of lanes");
_Static_assert(TP_FAILURES_MAX <= UINT8_MAX, "a failure's number is an element of `failed`");

typedef enum tp_argument_kind {
    TP_ARG_FIRST, TP_ARG_COUNT, /* ulong: the first element, and how many there are */
    TP_ARG_INPUT, TP_ARG_OUTPUT, TP_ARG_FAILED, /* buffers, an element per item */
    TP_ARG_VALUE,               /* bytes as they are */
    TP_ARG_ARRAY,               /* a buffer that all items share */
    TP_ARG_KEY, TP_ARG_INDEX,   /* ulong: a half of the map's key for random numbers, and the first
                                   element's index in the map */
    TP_ARG_DETAILS              /* a buffer, an element per item, of which those of items that
                                   failed are written */
} tp_argument_kind;

typedef struct tp_argument {
    tp_argument_kind kind;
    tp_type type;
    unsigned index;    /* INPUT, OUTPUT, KEY: which, from 0 */
    union {
        double f64;
        float f32;
        int64_t i64;
    } value;           /* VALUE */
    size_t size;       /* VALUE, ARRAY: bytes */
    tp_array *array;   /* ARRAY: held */
    void *data;        /* ARRAY: where in it */
    bool is_written;   /* ARRAY: the kernel changes it */
} tp_argument;

/* What is said of an element with this number in `failed`: `plain`, or, of a wrong index or a
 * message with a number, `before`, that number (in the output `detail`, or the argument DETAILS)
 * and `after`; `plain` behind it when it lies between 1 and n. */
typedef struct tp_device_failure {
    char *plain, *before, *after;
    double n;
    char conversion;      /* of the number, as in printf: d, e, f, g; of doubles all of them */
    int width, precision; /* precision below 0: as C has it */
} tp_device_failure;

typedef struct tp_kernel {
    tp_ref ref;
    uint64_t devices;                     /* bit i: device i may run it */
    tp_program *programs[TP_DEVICES_MAX]; /* held; by device */
    unsigned lanes[TP_DEVICES_MAX];       /* elements per work item */
    /* Elements per element of the outputs: 1, or TP_GROUP in a reducer (see tp_kernels). */
    unsigned group;
    unsigned n_arguments, n_inputs, n_outputs, n_failures;
    tp_argument arguments[TP_ARGUMENTS_MAX];
    tp_type input_type[TP_KERNEL_COLUMNS_MAX], output_type[TP_KERNEL_COLUMNS_MAX];
    bool is_boolean[TP_KERNEL_COLUMNS_MAX]; /* the output's uint8 are booleans */
    /* It changes arrays: where memory is copied, its launches come one after the other. */
    bool is_writer;
    bool has_rows;   /* work items may lie in rows: their number is id(1) * size(0) + id(0) */
    bool is_foreign; /* its outputs may be NaNs of any bits */
    /* "job.lua:7: f: ": what the complaint about an input that is no number begins with. */
    char *where;
    int detail;      /* the output with the index of what failed, -1: the argument DETAILS or none */
    tp_type details; /* its type */
    tp_device_failure failures[TP_FAILURES_MAX];
} tp_kernel;

extern const tp_ref_type tp_kernel_type;

/* A kernel with one owner that has nothing yet; NULL when out of memory. */
tp_kernel *tp_kernel_new(void);

/* What a queue keeps of a kernel that it has launched. */
typedef struct tp_ready_kernel {
    tp_program *program; /* held; NULL: nothing is kept here */
    cl_kernel kernel;
    size_t local;  /* work items of a group */
    uint64_t used; /* the queue's `launches` when it was */
} tp_ready_kernel;

/* Memory of the device that is kept from launch to launch. */
typedef struct tp_device_memory {
    cl_mem mem;
    size_t capacity;
} tp_device_memory;

enum { TP_READY_KERNELS_MAX = 16 };

/* A queue of a device, with the kernels and memory that its launches use again. Its thread's. */
typedef struct tp_launch_queue {
    /* Read-only once opened. */
    tp_open_device open;
    cl_command_queue queue;
    uv_mutex_t *writing; /* see tp_launch_queue_open */

    tp_ready_kernel kernels[TP_READY_KERNELS_MAX];
    uint64_t launches;
    bool has_new; /* kernels whose programs have not been kept */
    const tp_work *work; /* of the launch that runs */
    /* Where memory is copied: one buffer per argument, and, held, whose arrays are in them. */
    tp_device_memory memory[TP_ARGUMENTS_MAX];
    tp_kernel *uploaded;
} tp_launch_queue;

/* The items of one launch, n of them from work->at on, and host memory: a column per input and
 * output, as the kernel's types say, a byte per element of the outputs that says whether it
 * failed, and what is to be said of those (TP_ARG_DETAILS). */
typedef struct tp_launch_items {
    const tp_work *work;
    uint32_t n;
    void *const *inputs, *const *outputs;
    void *failed, *details;
} tp_launch_items;

/* Makes a zeroed queue ready. `writing` is shared by all queues of an executor, and is held by
 * launches that change arrays, which they copy there and back; it is taken alone. */
int tp_launch_queue_open(tp_launch_queue *q, const tp_open_device *open, uv_mutex_t *writing,
                         tp_error *err);

/* Frees all that it keeps. Nothing runs on it then. */
void tp_launch_queue_close(tp_launch_queue *q);

/* Keeps the programs of kernels that have run (tp_program_keep). */
void tp_launch_queue_keep(tp_launch_queue *q);

/* Runs the kernel over the items, and waits: then its outputs are in host memory. -1 with err set
 * when the device could not; nothing uses the host's memory any more then either. */
int tp_launch_run(tp_launch_queue *q, tp_kernel *k, const tp_launch_items *items, tp_error *err);

#endif
