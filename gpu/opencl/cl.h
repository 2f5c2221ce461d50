/* cl.h: OpenCL as it is found on this machine: the loader, its functions, the devices.
 *
 * The loader (libOpenCL.so.1) is opened at its first use and never linked, so that everything else
 * works without it. All calls go through a table of function pointers. */
#ifndef TP_CL_H
#define TP_CL_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#ifndef CL_TARGET_OPENCL_VERSION
#define CL_TARGET_OPENCL_VERSION 120
#endif
#include <CL/cl.h>

/* The functions of OpenCL 1.2 that are used. */
#define TP_CL_FUNCTIONS(X)                                                                         \
    X(GetPlatformIDs)                                                                              \
    X(GetPlatformInfo) X(GetDeviceIDs) X(GetDeviceInfo) X(CreateContext) X(ReleaseContext)         \
        X(CreateCommandQueue) X(ReleaseCommandQueue) X(CreateBuffer) X(ReleaseMemObject)           \
            X(CreateProgramWithSource) X(CreateProgramWithBinary) X(BuildProgram)                  \
                X(GetProgramBuildInfo) X(GetProgramInfo) X(ReleaseProgram) X(CreateKernel)         \
                    X(ReleaseKernel) X(SetKernelArg) X(GetKernelInfo) X(GetKernelArgInfo)          \
                        X(GetKernelWorkGroupInfo) X(EnqueueFillBuffer) X(EnqueueCopyBuffer)        \
                            X(CreateSubBuffer) X(Flush) X(GetEventInfo) X(GetEventProfilingInfo)   \
                                X(RetainMemObject) X(RetainEvent) X(ReleaseEvent)                  \
                                X(RetainProgram)                                                   \
                                X(EnqueueNDRangeKernel) X(EnqueueMarkerWithWaitList)               \
                                    X(SetEventCallback)                                            \
                                    X(EnqueueWriteBuffer) X(EnqueueReadBuffer) X(EnqueueMapBuffer) \
                                        X(EnqueueUnmapMemObject) X(WaitForEvents) X(Finish)        \
                                            X(CreateImage) X(EnqueueReadImage)                     \
                                                X(EnqueueWriteImage) X(CreateSampler)              \
                                                    X(ReleaseSampler) X(GetSupportedImageFormats)

enum { TP_DEVICES_MAX = 64, TP_DEVICE_TEXT_MAX = 128 };

/* A device, as tidepool.devices() shows it. Read-only. */
typedef struct tp_cl_device {
    cl_platform_id platform_id;
    cl_device_id id;
    cl_device_type type;
    char platform[TP_DEVICE_TEXT_MAX], name[TP_DEVICE_TEXT_MAX], vendor[TP_DEVICE_TEXT_MAX];
    char version[TP_DEVICE_TEXT_MAX], driver[TP_DEVICE_TEXT_MAX];
    unsigned units;
    uint64_t memory, max_alloc, local_memory; /* bytes */
    bool has_double, is_unified /* its memory is the host's */;
    /* elements that a work item should handle: 1, except on processors */
    unsigned lanes_double, lanes_float;
} tp_cl_device;

/* Made by tp_cl_open, read-only afterwards. Any thread. */
typedef struct tp_cl {
    void *library;
#define TP_CL_FIELD(name) __typeof__(cl##name) *name;
    TP_CL_FUNCTIONS(TP_CL_FIELD)
#undef TP_CL_FIELD
    unsigned n; /* devices, at least 1 */
    tp_cl_device devices[TP_DEVICES_MAX];
} tp_cl;

/* A device that has been opened: for launches (launch.h), and for the queues, buffers and kernels
 * of scripts that drive it by hand (device.h). It is copied freely: whoever keeps something that
 * was made in the context holds `life`. */
typedef struct tp_open_device {
    const tp_cl *cl;
    const tp_cl_device *device;
    unsigned index; /* in cl->devices */
    cl_context context;   /* of the life */
    struct tp_life *life; /* life.h */
} tp_open_device;

/* Opens the loader, or the driver, of that name (NULL: libOpenCL.so.1, then drivers that the loader
 * does not know) and lists the devices. On failure err says what is missing. */
int tp_cl_open(tp_cl **out, const char *library, tp_error *err);

/* Accepts NULL. The library stays loaded, since drivers have threads that cannot be ended. */
void tp_cl_close(tp_cl *cl);

/* The file of the loader (NULL: libOpenCL.so.1), or "none". Does not load any driver. */
void tp_cl_describe_loader(const char *library, char *text, size_t size);

/* Does the driver list that extension of the device's, or that feature of its OpenCL C? */
bool tp_cl_has(const tp_cl *cl, const tp_cl_device *device, const char *name);

/* "gpu", "cpu" or "accelerator". */
const char *tp_cl_type_name(const tp_cl_device *device);

/* "CL_INVALID_VALUE" and the like; "an unknown error" for a code that is none. */
const char *tp_cl_error_name(cl_int code);

/* Sets err: `what` ("copying to the device") failed with `rc` on that device. Returns -1. */
int tp_cl_fail(tp_error *err, const tp_cl_device *device, const char *what, cl_int rc);

/* Has the command of that event run, or failed? True also when the driver has forgotten it. */
bool tp_cl_has_run(const tp_cl *cl, cl_event event);

#endif
