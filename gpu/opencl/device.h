/* device.h: a device that a Lua function drives by hand: its queue, buffers in its memory, and kernels.
 *
 * All of them are counted. A buffer belongs to the device, and may be used by every thread that owns it; a queue and a launcher are their maker's
 * thread's alone. Commands of one queue run in the order in which they are given. */
#ifndef TP_DEVICE_H
#define TP_DEVICE_H

#include "opencl/exec_opencl.h"

enum { TP_HELD_MAX = 64, TP_PARAMETER_TEXT_MAX = 64 };

typedef struct tp_buffer {
    tp_ref ref;
    /* Read-only once made, but for what is in the memory. */
    tp_open_device open;
    cl_mem mem; /* NULL: a slice that begins where the device allows none to kernels */
    size_t size;
    struct tp_buffer *whole; /* held: a slice of that buffer, `at` bytes behind its beginning; else NULL */
    size_t at;
    tp_array *array; /* held: the memory itself, where the device shares it with the host; else NULL */
    void *data;      /* where in it */
} tp_buffer;

typedef struct tp_queue {
    tp_ref ref;
    tp_open_device open; /* read-only */
    cl_command_queue queue;
    /* ---- its maker's ---- */
    tp_buffer *held[TP_HELD_MAX]; /* what commands that may still run use */
    unsigned n_held;
    cl_event last;    /* of the last launch that nobody has waited for, or NULL */
    char running[64]; /* the name of its kernel */
    bool is_lost;     /* it was given up while it ran: see tp_queue_open */
    /* Asked now and then while a launch runs: does nobody wait for it any more? NULL: never. */
    bool (*is_given_up)(void *user);
    void *user;
    tp_executor *executor;
} tp_queue;

/* A kernel that is ready to be called. Its maker's thread's. */
typedef struct tp_launcher {
    tp_ref ref;
    tp_program *program; /* held */
    cl_kernel kernel;
    char name[64]; /* as messages say it */
    unsigned n_parameters;
    size_t local_max, local[3]; /* work items of a group at most; what the source requires of a group, or zeros */
    cl_ulong local_bytes;       /* of local memory that its own variables take */
    cl_event last;              /* of its last launch, or NULL */
} tp_launcher;

/* What a kernel's parameter is: as the compiler says it, "float*", "n". */
typedef struct tp_parameter {
    char type[TP_PARAMETER_TEXT_MAX], name[TP_PARAMETER_TEXT_MAX];
    cl_kernel_arg_address_qualifier space;
} tp_parameter;

/* One argument of a launch: a buffer, or `size` bytes at `bytes`; with neither, local memory of that size. */
typedef struct tp_launch_argument {
    tp_buffer *buffer;
    const void *bytes;
    size_t size;
} tp_launch_argument;

extern const tp_ref_type tp_queue_type, tp_buffer_type, tp_launcher_type;

/* Device `device` of tp_host_opencl, with a queue of its own. Where a wait for a launch is given up (q->is_given_up, set by the maker) all that the queue is
 * asked for fails, with a text that says so, until the launch has run after all. */
int tp_queue_open(tp_queue **out, tp_executor *ex, unsigned device, tp_error *err);

/* Waits until all of its commands have run. */
int tp_queue_finish(tp_queue *q, tp_error *err);

/* Memory of the device for `size` bytes: with the array's bytes from `data` on, or zeros where array is NULL. Where the device shares the host's memory
 * it is the array's own. Fails with the sizes when there is not so much. */
int tp_buffer_open(tp_buffer **out, tp_queue *q, size_t size, tp_array *array, void *data, tp_error *err);

/* `size` bytes of a buffer from `at` on, as a buffer that shares its memory. */
int tp_buffer_slice(tp_buffer **out, tp_buffer *b, size_t at, size_t size, tp_error *err);

/* Bring its `size` bytes from `at` on to `to` when the queue's commands have run, or set them. NaNs that come are made canonical. Block. */
int tp_buffer_read(tp_queue *q, tp_buffer *b, size_t at, void *to, size_t size, tp_type type, tp_error *err);
int tp_buffer_write(tp_queue *q, tp_buffer *b, size_t at, const void *from, size_t size, tp_error *err);

/* Set `size` bytes of a buffer from `at` on to those of another one, which do not overlap them, or to a pattern again and again. Do not wait. */
int tp_buffer_copy(tp_queue *q, tp_buffer *to, size_t at, tp_buffer *from, size_t from_at, size_t size, tp_error *err);
int tp_buffer_fill(tp_queue *q, tp_buffer *b, size_t at, size_t size, const void *pattern, size_t pattern_size, tp_error *err);

/* The names of the program's kernels, with ";" between them. */
int tp_program_kernels(tp_program *p, char *names, size_t size, tp_error *err);

int tp_launcher_open(tp_launcher **out, tp_program *p, const char *name, tp_error *err);

/* Parameter i of the kernel. False when the compiler has not kept it. */
bool tp_launcher_parameter(tp_launcher *l, unsigned i, tp_parameter *out);

/* A launch's work items: `dimensions` sizes, in groups of `local`, counted from `offset` on. */
typedef struct tp_launch_range {
    unsigned dimensions;
    size_t global[3], local[3], offset[3];
} tp_launch_range;

/* Starts the kernel with all of its arguments. Does not wait. */
int tp_launch(tp_queue *q, tp_launcher *l, const tp_launch_range *range, const tp_launch_argument *arguments, tp_error *err);

/* How long its last launch took on the device, in seconds; waits for it. -1 with err set when that cannot be known; 0 when there was none. */
int tp_launcher_time(tp_queue *q, tp_launcher *l, double *seconds, tp_error *err);

#endif
