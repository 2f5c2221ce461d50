/* plan.h: what a device of another machine runs, as bytes: a kernel before it is compiled.
 *
 * Both machines are of the same build (tp_build of cluster/parcel.h), so that structs travel as
 * they lie in memory. The bytes are the message of a tp_image, which travels as a function's
 * does. */
#ifndef TP_PLAN_H
#define TP_PLAN_H

#include "base/array.h"
#include "opencl/launch.h"

typedef struct tp_plan {
    tp_kernel *kernel;   /* without programs */
    const char *devices; /* the words of the option `gpu`, with line ends between them */
    const char *name;    /* of the function, for messages */
    const char *source, *options, *entry; /* as for tp_program_open */
    bool needs_double;
} tp_plan;

/* Adds the plan's bytes, with the elements of captured arrays. -1 with err set: no memory. */
int tp_plan_put(const tp_plan *plan, tp_buf *out, tp_error *err);

/* Reads a plan: its texts lie in the bytes, the kernel is new and the caller's. Nothing is believed
 * of the lengths in it. Captured arrays are made in `pool`. */
int tp_plan_get(tp_plan *plan, tp_array_pool *pool, const uint8_t *bytes, size_t len,
                tp_error *err);

#endif
