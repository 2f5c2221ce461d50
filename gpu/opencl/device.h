/* device.h: a device that a Lua function drives by hand: its queue, buffers in its memory, and
 * kernels.
 *
 * All of them count their owners. A buffer belongs to the device, and any thread that owns it may
 * use it; a queue and a launcher may only be used by the thread that made them. Commands of one
 * queue run in the order in which they are given. */
#ifndef TP_DEVICE_H
#define TP_DEVICE_H

#include "opencl/exec_opencl.h"

enum { TP_HELD_MAX = 64, TP_PARAMETER_TEXT_MAX = 64, TP_SAMPLERS_MAX = 20 };

enum { TP_FRESH_MAX = 16 }; /* more programs are stored after a later launch */

typedef struct tp_buffer {
    tp_ref ref;
    /* Read-only once made, except for the contents of the memory. */
    tp_open_device open;
    /* NULL for a slice that begins where the device does not allow a sub-buffer to begin */
    cl_mem mem;
    size_t size;
    /* held: the buffer that this one is a slice of, from its byte `at` on; else NULL */
    struct tp_buffer *whole;
    size_t at;
    tp_array
        *array; /* held: the memory itself, where the device shares it with the host; else NULL */
    void *data;      /* the address in the array */
    /* of an image (images.h): how many columns, rows and planes, and the type of its elements */
    size_t region[3];
    tp_type type;
} tp_buffer;

typedef struct tp_queue {
    tp_ref ref;
    /* Read-only. */
    tp_open_device open;
    tp_executor *executor;
    /* ---- for the thread that made it; the last owner frees it on any ---- */
    cl_command_queue queue;
    tp_pinned pinned; /* for copies there and back */
    uint64_t trim_at; /* when it is looked at (uv_hrtime) */
    tp_buffer *held[TP_HELD_MAX]; /* buffers that commands use which may still run */
    unsigned n_held;
    /* held: programs that commands run which may still run, and which are to be stored then */
    tp_program *fresh[TP_FRESH_MAX];
    unsigned n_fresh;
    cl_sampler samplers[TP_SAMPLERS_MAX]; /* those that kernels were given, see images.h */
    cl_event last;    /* that of the last launch that nobody has waited for yet, or NULL */
    char running[64]; /* the name of its kernel */
    bool is_lost;     /* a wait for a launch was given up and that still runs: see tp_queue_open */
    /* Asked from time to time during a wait for a launch: should the wait be given up? NULL:
     * never. */
    bool (*is_given_up)(void *user);
    void *user;
    /* ---- guarded by the engine's lock ---- */
    tp_lost lost; /* for tp_opencl_lose */
} tp_queue;

/* A kernel that is ready to be launched. For the thread that made it. */
typedef struct tp_launcher {
    tp_ref ref;
    tp_program *program; /* held */
    cl_kernel kernel;
    char name[64]; /* for messages */
    unsigned n_parameters;
    /* the most work items of a group; the group size that the source requires, or zeros */
    size_t local_max, local[3];
    cl_ulong local_bytes;       /* local memory of the kernel's own variables */
    cl_event last;              /* of its last launch, or NULL */
} tp_launcher;

/* A kernel's parameter, as the compiler describes it: "float*", "n". */
typedef struct tp_parameter {
    char type[TP_PARAMETER_TEXT_MAX], name[TP_PARAMETER_TEXT_MAX];
    cl_kernel_arg_address_qualifier space;
} tp_parameter;

/* One argument of a launch: a buffer, or `size` bytes at `bytes`; with neither, local memory of
 * that size. */
typedef struct tp_launch_argument {
    tp_buffer *buffer;
    const void *bytes;
    size_t size;
} tp_launch_argument;

extern const tp_ref_type tp_queue_type, tp_buffer_type, tp_launcher_type;

/* Opens device `device` of tp_host_opencl, with a queue of its own. After a wait for a launch was
 * given up (q->is_given_up, which the caller sets), every use of the queue fails, with a text that
 * says so, until that launch has run after all. A call that fails since the device's life is over
 * (life.h) says so; nothing that was made in that life can be used any more. */
int tp_queue_open(tp_queue **out, tp_executor *ex, unsigned device, tp_error *err);

/* The device's life is over, and the queue's with it: what is to be done goes to a new one. */
bool tp_queue_is_over(const tp_queue *q);

/* Does it still run a launch that was given up? */
bool tp_queue_is_lost(const tp_queue *q);

/* Waits until all of its commands have run. */
int tp_queue_finish(tp_queue *q, tp_error *err);

/* What is given to the queue from now on begins when what `other`, of the same device, has been
 * given has run. Does not wait. */
int tp_queue_follow(tp_queue *q, tp_queue *other, tp_error *err);

/* Sets err: a call of the queue's has failed with `rc`, perhaps since the device's life is over.
 * Returns -1. */
int tp_queue_fail(tp_queue *q, const char *what, cl_int rc, tp_error *err);

/* The same. If that is not since the life is over, and is for want of memory, says who has it, that
 * `whose` of so many bytes was to have. */
int tp_queue_say_short(tp_queue *q, const char *whose, size_t bytes, const char *what, cl_int rc,
                       tp_error *err);

/* Makes memory as `how` says, with its first contents, which blocks; returns it also when only the
 * contents have failed. */
typedef cl_mem tp_make_memory(tp_queue *q, const void *how, cl_int *rc);

/* Has memory of so many bytes made, for which others give back theirs if it is short; NULL with *rc
 * set. The queue's last launch has been waited for. */
cl_mem tp_queue_allocate(tp_queue *q, size_t size, tp_make_memory *make, const void *how,
                         cl_int *rc);

/* 0, or -1 with err set: the buffer's device has lost it. */
int tp_buffer_check_life(const tp_buffer *b, tp_error *err);

/* Makes a buffer of `size` bytes on the device, with the array's bytes from `data` on; without an
 * array, with zeros. Where the device shares the host's memory it is the array's own memory. When
 * there is not that much, err names the sizes. */
int tp_buffer_open(tp_buffer **out, tp_queue *q, size_t size, tp_array *array, void *data,
                   tp_error *err);

/* Makes a buffer of the device's copy of an array, which is brought up to date: the results of a
 * map, which nobody else knows. */
int tp_buffer_of_array(tp_buffer **out, tp_queue *q, tp_array *array, tp_error *err);

/* Makes the buffer's memory the device's copy of an array that nobody else knows, after the queue's
 * commands have run: maps over that array then read the buffer. */
int tp_buffer_present(tp_queue *q, tp_buffer *b, tp_array *array, tp_type type, tp_error *err);

/* `size` bytes of a buffer from `at` on, as a buffer that shares its memory. */
int tp_buffer_slice(tp_buffer **out, tp_buffer *b, size_t at, size_t size, tp_error *err);

/* Copies `size` bytes from `at` on to `to`, or from `from`, after the queue's commands have run.
 * NaNs that are read are made canonical. Both block. */
int tp_buffer_read(tp_queue *q, tp_buffer *b, size_t at, void *to, size_t size, tp_type type,
                   tp_error *err);
int tp_buffer_write(tp_queue *q, tp_buffer *b, size_t at, const void *from, size_t size,
                    tp_error *err);

/* Set `size` bytes of a buffer from `at` on, to those of another buffer, which must not overlap
 * them, or to a repeated pattern. Neither waits. */
int tp_buffer_copy(tp_queue *q, tp_buffer *to, size_t at, tp_buffer *from, size_t from_at,
                   size_t size, tp_error *err);
int tp_buffer_fill(tp_queue *q, tp_buffer *b, size_t at, size_t size, const void *pattern,
                   size_t pattern_size, tp_error *err);

/* The names of the program's kernels, with ";" between them. */
int tp_program_kernels(tp_program *p, char *names, size_t size, tp_error *err);

/* Was it made in a life of the device that is over? */
bool tp_launcher_is_over(const tp_launcher *l);

int tp_launcher_open(tp_launcher **out, tp_program *p, const char *name, tp_error *err);

/* Parameter i of the kernel. False when the compiler keeps no information about it. */
bool tp_launcher_parameter(tp_launcher *l, unsigned i, tp_parameter *out);

/* The work items of a launch: `dimensions` sizes, in groups of `local`, with numbers from `offset`
 * on. */
typedef struct tp_launch_range {
    unsigned dimensions;
    size_t global[3], local[3], offset[3];
} tp_launch_range;

/* Starts the kernel with all of its arguments. Does not wait. -1 with err set when it was not
 * started; TP_LAUNCH_WROTE when it was, and something else has failed: it may run. */
int tp_launch(tp_queue *q, tp_launcher *l, const tp_launch_range *range,
              const tp_launch_argument *arguments, tp_error *err);

/* How long the launcher's last launch took on the device, in seconds; waits for it. 0 when there
 * was none; -1 with err set when it cannot be known. */
int tp_launcher_time(tp_queue *q, tp_launcher *l, double *seconds, tp_error *err);

#endif
