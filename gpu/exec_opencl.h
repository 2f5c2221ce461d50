/* exec_opencl.h: programs for devices and the kernels made of them: what a job that runs on devices carries in the place of a Lua function.
 *
 * A tp_program is a source compiled for one device; the same source is compiled once per host, and is kept on disk. A tp_kernel is what one map
 * runs: a program per device, how the kernel's arguments are filled, what comes out, and the texts of its elements' failures. */
#ifndef TP_EXEC_OPENCL_H
#define TP_EXEC_OPENCL_H

#include "cl.h"
#include "exec.h"

enum { TP_ARGUMENTS_MAX = 64, TP_FAILURES_MAX = 255 };

/* Read-only once made, but for the cl_program: `lock` guards what is done with it. */
typedef struct tp_program {
    tp_ref ref;
    struct tp_program *next; /* in the executor's list; its lock */
    const tp_cl *cl;
    unsigned device; /* index in cl->devices */
    cl_program program;
    char *name;         /* of the kernel */
    char *text;         /* options, a newline, the source: what it is known by */
    char *path;         /* where its binary is to be kept, NULL: nowhere */
    _Atomic bool is_kept; /* it is there; set by whoever saves it first */
} tp_program;

extern const tp_ref_type tp_program_type;

typedef enum tp_argument_kind {
    TP_ARG_FIRST, TP_ARG_COUNT, /* ulong: the first element, and how many there are */
    TP_ARG_INPUT, TP_ARG_OUTPUT, TP_ARG_FAILED, /* buffers, an element per item */
    TP_ARG_VALUE,               /* bytes as they are */
    TP_ARG_ARRAY                /* a buffer that all items share */
} tp_argument_kind;

typedef struct tp_argument {
    tp_argument_kind kind;
    tp_type type;
    unsigned index;    /* INPUT, OUTPUT: which, from 0 */
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

/* What is said of an element with this number in `failed`: `plain`, or `before`, the index in the first output of reals, `after`, when that is
 * no index from 1 to n. */
typedef struct tp_device_failure {
    char *plain, *before, *after;
    double n;
} tp_device_failure;

typedef struct tp_kernel {
    tp_ref ref;
    uint64_t devices;                       /* bit i: device i may run it */
    tp_program *programs[TP_DEVICES_MAX];   /* held; by device */
    unsigned lanes[TP_DEVICES_MAX];         /* elements per work item */
    unsigned group;                         /* elements per element of the outputs: 1, or TP_GROUP in a reducer (see tp_job_set_reducer) */
    unsigned n_arguments, n_inputs, n_outputs, n_failures;
    tp_argument arguments[TP_ARGUMENTS_MAX];
    tp_type input_type[TP_COLUMNS_MAX], output_type[TP_COLUMNS_MAX];
    bool is_boolean[TP_COLUMNS_MAX];        /* the output's uint8 are booleans */
    bool is_writer;                         /* it changes arrays: where memory is copied, its launches come one after the other */
    bool has_rows;                          /* work items may lie in rows: their number is id(1) * size(0) + id(0) */
    bool is_foreign;                        /* its outputs may be NaNs of any bits */
    int detail;                             /* the output with the index of what failed, -1: none */
    tp_device_failure failures[TP_FAILURES_MAX];
} tp_kernel;

extern const tp_ref_type tp_kernel_type;

/* A kernel with one owner that has nothing yet; NULL when out of memory. */
tp_kernel *tp_kernel_new(void);

/* Finds or builds `source` for a device, with one more owner. NULL with err set; *log is the compiler's when that is why, to be freed. Blocks while
 * it compiles. Any thread. */
tp_program *tp_program_open(tp_executor *ex, unsigned device, const char *source, const char *options, const char *name,
                            char **log, tp_error *err);

/* Is the program still to be kept? */
bool tp_program_is_new(const tp_program *p);

/* Keeps the program on disk, once. For after its first launch: then PoCL's binary has the code for the local size too, before it would have none. No
 * kernel of it may be running: PoCL 3.1 counts who uses its code by the local size alone, and ends the process (pocl_release_dlhandle_cache) when
 * one is compiled for the binary meanwhile. */
void tp_program_keep(tp_executor *ex, tp_program *p);

/* A device that is open, for those who drive it themselves (device.h). Lives as long as the executor. */
typedef struct tp_open_device {
    const tp_cl *cl;
    const tp_cl_device *device;
    unsigned index; /* in cl->devices */
    cl_context context;
    _Atomic uint64_t *lent; /* bytes of its memory in their buffers */
} tp_open_device;

int tp_opencl_open(tp_executor *ex, unsigned device, tp_open_device *out, tp_error *err);

/* Gives the NaNs among n elements LuaJIT's own bits: it takes others for its tagged values. */
void tp_make_canonical(tp_type type, void *column, size_t n);

#endif
