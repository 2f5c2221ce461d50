/* floor_opencl.c: how long the first OpenCL device takes for a small kernel, started and waited for
 * by nothing but OpenCL: what a map of few numbers cannot be below.
 *
 *   floor_opencl N [ROUNDS [PAUSE]]        default: 1000 rounds, one after the other
 *
 * The kernel is y = 2 * x + 1 over N doubles that lie where the host has them, each round one
 * launch and clFinish, PAUSE microseconds after the one before. Prints the median in milliseconds,
 * or "no device". */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FUNCTIONS(X)                                                                            \
    X(GetPlatformIDs)                                                                           \
    X(GetDeviceIDs) X(CreateContext) X(CreateCommandQueue) X(CreateProgramWithSource)           \
        X(BuildProgram) X(CreateKernel) X(CreateBuffer) X(SetKernelArg) X(EnqueueNDRangeKernel) \
            X(Finish)

#define DECLARE(name) static __typeof__(cl##name) *name;
FUNCTIONS(DECLARE)

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static int give_up(const char *why)
{
    printf("%s\n", why);
    return 0;
}

int main(int argc, char **argv)
{
    static const char source[] = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n"
                                 "__kernel void line(__global const double *x, __global double *y) "
                                 "{ ulong i = get_global_id(0); y[i] = 2 * x[i] + 1; }";
    const char *text = source;
    size_t n = argc > 1 ? (size_t)atol(argv[1]) : 0,
           rounds = argc > 2 ? (size_t)atol(argv[2]) : 1000,
           bytes = (n * sizeof(double) + 4095) / 4096 * 4096;
    const double pause = argc > 3 ? atof(argv[3]) * 1e-6 : 0;
    if (n < 1 || rounds < 1) {
        fprintf(stderr, "usage: floor_opencl N [ROUNDS [PAUSE]]\n");
        return 2;
    }
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW);
    if (!library)
        return give_up("no device");
#define FIND(name) *(void **)&name = dlsym(library, "cl" #name);
    FUNCTIONS(FIND)
    cl_platform_id platform;
    cl_device_id device;
    cl_int rc;
    if (GetPlatformIDs(1, &platform, NULL) ||
        GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL))
        return give_up("no device");
    cl_context context = CreateContext(NULL, 1, &device, NULL, NULL, &rc);
    cl_command_queue queue = CreateCommandQueue(context, device, 0, &rc);
    cl_program program = CreateProgramWithSource(context, 1, &text, NULL, &rc);
    double *x = aligned_alloc(4096, bytes), *y = aligned_alloc(4096, bytes),
           *seconds = malloc(rounds * sizeof *seconds);
    if (!x || !y || !seconds || BuildProgram(program, 1, &device, "", NULL, NULL))
        return give_up("no doubles");
    for (size_t i = 0; i < n; i++)
        x[i] = (double)i;
    cl_mem in =
        CreateBuffer(context, CL_MEM_READ_ONLY | CL_MEM_USE_HOST_PTR, n * sizeof *x, x, &rc);
    cl_mem out =
        CreateBuffer(context, CL_MEM_WRITE_ONLY | CL_MEM_USE_HOST_PTR, n * sizeof *y, y, &rc);
    cl_kernel kernel = CreateKernel(program, "line", &rc);
    SetKernelArg(kernel, 0, sizeof in, &in);
    SetKernelArg(kernel, 1, sizeof out, &out);
    for (size_t i = 0; i < rounds + 10; i++) { /* ten to warm up */
        double start = now();
        for (double from = start; start - from < pause;)
            start = now();
        rc = EnqueueNDRangeKernel(queue, kernel, 1, NULL, &n, NULL, 0, NULL, NULL);
        if (rc == CL_SUCCESS)
            rc = Finish(queue);
        if (rc != CL_SUCCESS)
            return give_up("the launch failed");
        if (i >= 10)
            seconds[i - 10] = now() - start;
    }
    qsort(seconds, rounds, sizeof *seconds, compare);
    printf("%.6f\n", seconds[rounds / 2] * 1e3);
    return 0;
}
