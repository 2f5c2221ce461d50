/* slices.h: slices of jobs on a device: makes launches of their items, and results of what the
 * launches give. */
#ifndef TP_SLICES_H
#define TP_SLICES_H

#include "opencl/launch.h"

/* tp_opencl_keeps, which stands above this. */
typedef bool tp_asks_stuck(struct tp_executor *ex, unsigned device, uint64_t patience_ns);

/* What a job's slices are run with: the job's `executor_data`. */
typedef struct tp_kernels {
    tp_ref ref;
    /* Read-only once made. */
    struct tp_host *host; /* it outlives its jobs */
    tp_asks_stuck *is_stuck;
    struct tp_func *func; /* held; the job's */
    tp_kernel *kernel;    /* held */
    /* held; NULL: each result is wanted by itself. Set once, by the owner (release; workers
     * acquire) */
    tp_kernel *_Atomic reducer;
    /* results that go to arrays are left on the device, until the owner has asked for one of them,
     * or a device leaves the rest to others. Set before the job begins; taken back by any of those
     * (relaxed: what was left there is brought home by who takes it back) */
    _Atomic bool stays;
    /* Set by workers before the first launch (relaxed: the owner may see it late) */
    _Atomic bool has_begun;
    /* It was told that a device has lost something: by an input that failed of it, to the owner, or
     * on stderr (tp_kernels_end). Relaxed: any thread */
    _Atomic bool has_told;
} tp_kernels;

extern const tp_ref_type tp_kernels_type;

/* The kernels of a job of the host and that function, of which this is the main one, with one
 * owner; NULL when out of memory. The last owner who drops them brings home what the launches have
 * written to arrays, for which it may have to wait, or says on stderr that this is lost. */
tp_kernels *tp_kernels_new(struct tp_host *host, struct tp_func *func, tp_kernel *kernel,
                           tp_asks_stuck *is_stuck);

/* From here on the owner only wants what the reducer makes of whole groups of results
 * (TP_BLOCK_PARTIALS); other results may still come one by one. Only the first call counts. */
void tp_kernels_set_reducer(tp_kernels *k, tp_kernel *reducer);

/* Brings home what the job's launches have written to arrays, for its owner, who has closed it. -1
 * with err set when a device cannot give it: that is told then, and no longer missed. */
int tp_kernels_bring_home(tp_kernels *k, tp_error *err);

/* Was it told already that a device has lost something of the job? Any thread. */
bool tp_kernels_have_told(const tp_kernels *k);

/* The same as tp_kernels_bring_home, of a job that was cancelled, or whose last owner lets go; but
 * not from a device that would not give it. There is nobody else to be told what cannot come, so a
 * line on stderr says it, once. Any thread. */
void tp_kernels_end(tp_kernels *k);

/* The owner wants the job's results in host memory: the launches bring them there from now on, and
 * those that stayed on devices are brought. -1 with err set when that fails. `mover`: NULL for
 * nobody in particular. */
int tp_kernels_want_results(tp_kernels *k, const tp_returns *returns, const tp_mover *mover,
                            tp_error *err);

/* Host memory that is reused from launch to launch. */
typedef struct tp_staging {
    void *data;
    size_t capacity, wanted; /* as those of tp_device_memory */
} tp_staging;

/* What a thread runs slices with: a queue, and columns for inputs and results that do not have the
 * kernel's form. For one thread. */
typedef struct tp_slice_runner {
    tp_launch_queue queue; /* opened and closed by the runner's owner */
    tp_staging input[TP_KERNEL_COLUMNS_MAX], output[TP_KERNEL_COLUMNS_MAX], failed, details;
    tp_staging sums, sums_failed; /* of a reducer */
    uint32_t part_max; /* items of a launch, since the device was short of memory; 0: no limit */
} tp_slice_runner;

/* Runs the items of the slice, until they are cancelled or must be left to other devices or to
 * workers (tp_job_leave_site), and none while the job is held back. The caller then ends the slice
 * (tp_job_finish). Cannot fail: an item that the device could not run has a failure as its
 * result. Where workers run the job beside devices, an item that fails is theirs, with all that
 * come after it: they know what Lua says of it. */
void tp_slices_run(tp_slice_runner *r, tp_slice *s);

/* Gives back memory, the device's too, of which little was wanted since the last call; launches are
 * as large as ever again. */
void tp_slices_trim(tp_slice_runner *r);

/* Frees the runner's columns. */
void tp_slices_close(tp_slice_runner *r);

#endif
