/* slices.h: slices of jobs on a device: from their items to launches, and from those to results. */
#ifndef TP_SLICES_H
#define TP_SLICES_H

#include "opencl/launch.h"

/* What a job's slices are run with: the job's `executor_data`. */
typedef struct tp_kernels {
    tp_ref ref;
    tp_kernel *kernel; /* held */
    tp_kernel *_Atomic reducer; /* held; NULL: results are wanted one by one. Set by the owner,
                                   once; released there, acquired by workers */
} tp_kernels;

extern const tp_ref_type tp_kernels_type;

/* Those of a job that runs this kernel, with one owner; NULL when out of memory. */
tp_kernels *tp_kernels_new(tp_kernel *kernel);

/* From here on the owner wants only what the reducer makes of whole groups of results
 * (TP_BLOCK_PARTIALS); other results may still come one by one. Only the first one counts. */
void tp_kernels_set_reducer(tp_kernels *k, tp_kernel *reducer);

/* Host memory that is kept from launch to launch. */
typedef struct tp_staging {
    void *data;
    size_t capacity;
} tp_staging;

/* What a thread runs slices with: a queue, and columns for what does not lie as a kernel wants it.
 * Its thread's. */
typedef struct tp_slice_runner {
    tp_launch_queue queue; /* opened and closed by the runner's owner */
    tp_staging input[TP_KERNEL_COLUMNS_MAX], output[TP_KERNEL_COLUMNS_MAX], failed, details;
    tp_staging sums, sums_failed; /* a reducer's */
} tp_slice_runner;

/* Runs the items of the slice: up to a cancellation, up to what is left to other devices
 * (tp_job_leave_site), and none where the job is held back. The caller ends the slice then
 * (tp_job_finish). Cannot fail: what the device could not run has that as its result. */
void tp_slices_run(tp_slice_runner *r, tp_slice *s);

/* Frees the runner's columns. */
void tp_slices_close(tp_slice_runner *r);

#endif
