/* device_wait.c: what waiting for a device costs: how long after the command's end the waiter goes
 * on, and how much processor time it uses meanwhile, by clFinish, by clWaitForEvents, and by a
 * callback that signals a condition variable.
 *
 * Run build/bench/device_wait. */
#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CL(function) ((__typeof__(&function))dlsym(library, #function))

static void *library;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t over = PTHREAD_COND_INITIALIZER;
static bool is_over;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void CL_CALLBACK note(cl_event event, cl_int status, void *user)
{
    (void)event, (void)status, (void)user;
    pthread_mutex_lock(&lock);
    is_over = true;
    pthread_cond_signal(&over);
    pthread_mutex_unlock(&lock);
}

static void wait_for(int how, cl_command_queue queue, cl_event event)
{
    if (how == 0) {
        CL(clFinish)(queue);
    } else if (how == 1) {
        CL(clWaitForEvents)(1, &event);
    } else {
        is_over = false;
        cl_event marker;
        CL(clEnqueueMarkerWithWaitList)(queue, 0, NULL, &marker);
        CL(clSetEventCallback)(marker, CL_COMPLETE, note, NULL);
        CL(clFlush)(queue);
        pthread_mutex_lock(&lock);
        while (!is_over)
            pthread_cond_wait(&over, &lock);
        pthread_mutex_unlock(&lock);
        CL(clReleaseEvent)(marker);
        CL(clFinish)(queue); /* which says what has failed */
    }
}

static int by_size(const void *a, const void *b)
{
    return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}

int main(void)
{
    static const char *const names[] = { "clFinish", "clWaitForEvents", "callback" };
    static const char *text = "__kernel void spin(__global int *a, int n) { int x = a[0];"
                              " for (int i = 0; i < n; i++) x = x * 5 + i; a[0] = x; }";
    enum { ROUNDS = 301 };
    static double took[3][ROUNDS];
    cl_platform_id platform;
    cl_device_id device;
    cl_int rc;
    library = dlopen("libOpenCL.so.1", RTLD_NOW);
    if (!library || CL(clGetPlatformIDs)(1, &platform, NULL) ||
        CL(clGetDeviceIDs)(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL))
        return puts("no OpenCL device"), 1;
    cl_context context = CL(clCreateContext)(NULL, 1, &device, NULL, NULL, &rc);
    cl_command_queue queue = CL(clCreateCommandQueue)(context, device, 0, &rc);
    cl_program program = CL(clCreateProgramWithSource)(context, 1, &text, NULL, &rc);
    CL(clBuildProgram)(program, 1, &device, "", NULL, NULL);
    cl_kernel kernel = CL(clCreateKernel)(program, "spin", &rc);
    cl_mem mem = CL(clCreateBuffer)(context, CL_MEM_READ_WRITE, 4, NULL, &rc);
    CL(clSetKernelArg)(kernel, 0, sizeof mem, &mem);
    for (int long_ = 0; long_ < 2; long_++) {
        cl_int n = long_ ? 100 * 1000 * 1000 : 1;
        int rounds = long_ ? 3 : ROUNDS;
        double cpu[3] = { 0 };
        CL(clSetKernelArg)(kernel, 1, sizeof n, &n);
        for (int r = 0; r < rounds; r++)
            for (int how = 0; how < 3; how++) { /* in turns */
                size_t one = 1;
                cl_event event;
                double cpu_before = now(CLOCK_THREAD_CPUTIME_ID), before = now(CLOCK_MONOTONIC);
                CL(clEnqueueNDRangeKernel)(queue, kernel, 1, NULL, &one, &one, 0, NULL, &event);
                wait_for(how, queue, event);
                took[how][r] = now(CLOCK_MONOTONIC) - before;
                cpu[how] += now(CLOCK_THREAD_CPUTIME_ID) - cpu_before;
                CL(clReleaseEvent)(event);
            }
        for (int how = 0; how < 3; how++) {
            qsort(took[how], (size_t)rounds, sizeof(double), by_size);
            printf("%-6s kernel, %-16s %10.1f us (median), processor time of the waiter %8.1f us\n",
                   long_ ? "long" : "short", names[how], took[how][rounds / 2], cpu[how] / rounds);
        }
    }
    return 0;
}
