/* faults.c: an OpenCL that fails on purpose: loaded as TIDEPOOL_OPENCL, it passes everything on to the real loader, which it is linked to, but for
 * the launch with the number $FAULTS_FROM and those after it, on every queue but the first when $FAULTS_LATER is set. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>

static _Atomic int launches, queues;
static cl_command_queue first_queue;

cl_command_queue clCreateCommandQueue(cl_context context, cl_device_id device, cl_command_queue_properties properties, cl_int *rc)
{
    cl_command_queue (*real)(cl_context, cl_device_id, cl_command_queue_properties, cl_int *) = dlsym(RTLD_NEXT, "clCreateCommandQueue");
    cl_command_queue queue = real(context, device, properties, rc);
    if (atomic_fetch_add(&queues, 1) == 0)
        first_queue = queue;
    return queue;
}

cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims, const size_t *offset, const size_t *global,
                              const size_t *local, cl_uint n, const cl_event *events, cl_event *event)
{
    cl_int (*real)(cl_command_queue, cl_kernel, cl_uint, const size_t *, const size_t *, const size_t *, cl_uint, const cl_event *,
                   cl_event *) = dlsym(RTLD_NEXT, "clEnqueueNDRangeKernel");
    const char *from = getenv("FAULTS_FROM");
    if ((!getenv("FAULTS_LATER") || queue != first_queue) && atomic_fetch_add(&launches, 1) + 1 >= (from ? atoi(from) : 1))
        return CL_OUT_OF_RESOURCES;
    return real(queue, kernel, dims, offset, global, local, n, events, event);
}
