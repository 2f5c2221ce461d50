/* device.h: a device that a Lua function drives by hand: its queue, buffers in its memory, and kernels.
 *
 * All of them are counted. A buffer belongs to the device, and may be used by every thread that owns it; a queue and a launcher are their maker's
 * thread's alone. Commands of one queue run in the order in which they are given. */
#ifndef TP_DEVICE_H
#define TP_DEVICE_H

#include "exec_opencl.h"

enum { TP_HELD_MAX = 64, TP_PARAMETER_TEXT_MAX = 64 };

typedef struct tp_buffer {
    tp_ref ref;
    /* Read-only once made, but for what is in the memory. */
    tp_open_device open;
    cl_mem mem;
    size_t size;
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
} tp_queue;

/* A kernel that is ready to be called. Its maker's thread's. */
typedef struct tp_launcher {
    tp_ref ref;
    tp_program *program; /* held */
    cl_kernel kernel;
    unsigned n_parameters;
    size_t local_max, local[3]; /* work items of a group at most; what the source requires of a group, or zeros */
    cl_ulong local_bytes;       /* of local memory that its own variables take */
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

/* Device `device` of tp_host_opencl, with a queue of its own. */
int tp_queue_open(tp_queue **out, tp_executor *ex, unsigned device, tp_error *err);

/* Waits until all of its commands have run. */
int tp_queue_finish(tp_queue *q, tp_error *err);

/* Memory of the device for `size` bytes: with the array's bytes from `data` on, or zeros where array is NULL. Where the device shares the host's memory
 * it is the array's own. Fails with the sizes when there is not so much. */
int tp_buffer_open(tp_buffer **out, tp_queue *q, size_t size, tp_array *array, void *data, tp_error *err);

/* Bring its first `size` bytes to `to` when the queue's commands have run, or set them. NaNs that come are made canonical. Block. */
int tp_buffer_read(tp_queue *q, tp_buffer *b, void *to, size_t size, tp_type type, tp_error *err);
int tp_buffer_write(tp_queue *q, tp_buffer *b, const void *from, size_t size, tp_error *err);

/* The names of the program's kernels, with ";" between them. */
int tp_program_kernels(tp_program *p, char *names, size_t size, tp_error *err);

int tp_launcher_open(tp_launcher **out, tp_program *p, const char *name, tp_error *err);

/* Parameter i of the kernel. False when the compiler has not kept it. */
bool tp_launcher_parameter(tp_launcher *l, unsigned i, tp_parameter *out);

/* Starts the kernel over `dimensions` sizes, in groups of `local`, with all of its arguments. Does not wait. */
int tp_launch(tp_queue *q, tp_launcher *l, unsigned dimensions, const size_t *global, const size_t *local, const tp_launch_argument *arguments,
              tp_error *err);

#endif
