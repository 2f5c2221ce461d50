/* faults.c: an OpenCL that fails, or is another one, on purpose: loaded as TIDEPOOL_OPENCL, it passes everything on to the real loader, which it is
 * linked to, but for what the environment says:
 *   FAULTS_FROM=n       launches from the n-th on fail; with FAULTS_LATER those on every queue but the first
 *   FAULTS_COPIES=1     devices have memory of their own
 *   FAULTS_MEMORY=n     devices have n bytes of memory
 *   FAULTS_BUFFERS=n    buffers from the n-th on cannot be made
 *   FAULTS_NAMELESS=1   kernels know nothing of their parameters
 *   FAULTS_LOG=path     each program that is made appends a line there: "source" or "binary" */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REAL(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

static _Atomic int launches, queues, buffers;
static cl_command_queue first_queue;

static void note(const char *line)
{
    FILE *file = getenv("FAULTS_LOG") ? fopen(getenv("FAULTS_LOG"), "a") : NULL;
    if (file) {
        fputs(line, file);
        fclose(file);
    }
}

cl_int clGetDeviceInfo(cl_device_id device, cl_device_info what, size_t size, void *value, size_t *got)
{
    const char *memory = getenv("FAULTS_MEMORY");
    if (what == CL_DEVICE_HOST_UNIFIED_MEMORY && getenv("FAULTS_COPIES")) {
        memset(value, 0, size);
        return CL_SUCCESS;
    }
    if ((what == CL_DEVICE_GLOBAL_MEM_SIZE || what == CL_DEVICE_MAX_MEM_ALLOC_SIZE) && memory) {
        *(cl_ulong *)value = strtoull(memory, NULL, 10);
        return CL_SUCCESS;
    }
    return REAL(clGetDeviceInfo)(device, what, size, value, got);
}

cl_command_queue clCreateCommandQueue(cl_context context, cl_device_id device, cl_command_queue_properties properties, cl_int *rc)
{
    cl_command_queue queue = REAL(clCreateCommandQueue)(context, device, properties, rc);
    if (atomic_fetch_add(&queues, 1) == 0)
        first_queue = queue;
    return queue;
}

cl_mem clCreateBuffer(cl_context context, cl_mem_flags flags, size_t size, void *host, cl_int *rc)
{
    const char *from = getenv("FAULTS_BUFFERS");
    if (from && atomic_fetch_add(&buffers, 1) + 1 >= atoi(from)) {
        *rc = CL_MEM_OBJECT_ALLOCATION_FAILURE;
        return NULL;
    }
    return REAL(clCreateBuffer)(context, flags, size, host, rc);
}

cl_program clCreateProgramWithSource(cl_context context, cl_uint n, const char **texts, const size_t *lengths, cl_int *rc)
{
    note("source\n");
    return REAL(clCreateProgramWithSource)(context, n, texts, lengths, rc);
}

cl_program clCreateProgramWithBinary(cl_context context, cl_uint n, const cl_device_id *devices, const size_t *lengths,
                                     const unsigned char **binaries, cl_int *status, cl_int *rc)
{
    note("binary\n");
    return REAL(clCreateProgramWithBinary)(context, n, devices, lengths, binaries, status, rc);
}

cl_int clGetKernelArgInfo(cl_kernel kernel, cl_uint i, cl_kernel_arg_info what, size_t size, void *value, size_t *got)
{
    return getenv("FAULTS_NAMELESS") ? CL_KERNEL_ARG_INFO_NOT_AVAILABLE : REAL(clGetKernelArgInfo)(kernel, i, what, size, value, got);
}

cl_int clEnqueueNDRangeKernel(cl_command_queue queue, cl_kernel kernel, cl_uint dims, const size_t *offset, const size_t *global,
                              const size_t *local, cl_uint n, const cl_event *events, cl_event *event)
{
    const char *from = getenv("FAULTS_FROM");
    if ((from || getenv("FAULTS_LATER")) && (!getenv("FAULTS_LATER") || queue != first_queue) &&
        atomic_fetch_add(&launches, 1) + 1 >= (from ? atoi(from) : 1))
        return CL_OUT_OF_RESOURCES;
    return REAL(clEnqueueNDRangeKernel)(queue, kernel, dims, offset, global, local, n, events, event);
}
