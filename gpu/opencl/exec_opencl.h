/* exec_opencl.h: the executor "opencl": threads that run kernels (launch.h) on the devices of a
 * host.
 *
 * A device is opened, and its threads are started, when a program for it is first asked for. */
#ifndef TP_EXEC_OPENCL_H
#define TP_EXEC_OPENCL_H

#include "engine/exec.h"
#include "opencl/launch.h"

extern const tp_executor_type tp_exec_opencl;

/* A program for a device, see tp_program_open in program_cache.h. Opens the device first: anew when
 * its life is over (life.h). Any thread. */
tp_program *tp_opencl_open_program(tp_executor *ex, unsigned device, const char *source,
                                   const char *options, const char *name, tp_build_for who,
                                   char **log, tp_error *err);

/* The same, but the program is only promised, unless it is there: the device's thread makes it when
 * that is due for a job whose workers run it beside the device (tp_beside.promised). Any thread. */
tp_program *tp_opencl_promise_program(tp_executor *ex, unsigned device, const char *source,
                                      const char *options, const char *name, const char *function,
                                      tp_error *err);

/* Opens a device for use by hand (device.h). The caller holds out->life then. Any thread. */
int tp_opencl_open(tp_executor *ex, unsigned device, tp_open_device *out, tp_error *err);

/* Is the device unusable for now: has it run nothing for patience_ns but what was given up, a map
 * that is cancelled or a queue that is lost, or not come back from what workers run now? Or may it
 * be, since another device of its platform does not come back, and may share its threads? OpenCL
 * cannot stop those. Without patience a device that has threads left is usable. Any thread; blocks
 * at most so long. */
bool tp_opencl_is_stuck(tp_executor *ex, unsigned device, uint64_t patience_ns);

/* Makes a device usable that is stuck, if it runs kernels beside those that it does not come back
 * from: of the same context, or of a new one, when the device's life is abandoned (life.h). -1 with
 * err set when it runs none. Any thread; blocks for some seconds. */
int tp_opencl_free_up(tp_executor *ex, unsigned device, tp_error *err);

/* Does the device not give what only it has, since it is stuck? One that only may be is tried
 * first, as by tp_opencl_free_up. Any thread; blocks for some seconds. */
bool tp_opencl_keeps(tp_executor *ex, unsigned device, uint64_t patience_ns);

/* A launch by hand whose wait was given up. All zero: there is none. */
typedef struct tp_lost {
    /* ---- guarded by the engine's lock ---- */
    struct tp_lost *next;
    tp_ref *queue; /* held: whose launch it is */
    const tp_cl *cl;
    tp_life *life; /* the queue holds it */
    cl_event event; /* of the launch */
    unsigned device;
    uint64_t passed; /* devices (bits) that are used beside it */
} tp_lost;

/* Nobody waits for the queue's last launch any more, whose event it is, but what it uses stays
 * until that has run. `lost` is a part of the queue. Any thread. */
void tp_opencl_lose(tp_executor *ex, const tp_open_device *open, tp_ref *queue, cl_event event,
                    tp_lost *lost);

/* Do any of these devices, which are open, compute on processors that so many threads of ours would
 * use, too? */
bool tp_opencl_shares_processors(tp_executor *ex, uint64_t devices, unsigned threads);

/* Waits until no worker is storing programs, at most until deadline_ns (uv_hrtime). For use after
 * `stop`, when workers without work store new programs. Any thread. */
void tp_opencl_finish_keeping(tp_executor *ex, uint64_t deadline_ns);

/* The copies of arrays that the devices of the executor have. */
tp_copies *tp_opencl_copies(tp_executor *ex);

#endif
