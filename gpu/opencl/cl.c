/* cl.c: opening OpenCL, listing devices, naming errors.
 *
 * Drivers that the loader does not know are tried, too: in containers NVIDIA's is often there
 * without the file in /etc/OpenCL/vendors that names it. Such a driver's functions are in the table
 * that each of its objects points to, where a loader finds them as well. */
#include "opencl/cl.h"

#include <CL/cl_icd.h>
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PLATFORMS_MAX = 16, NO_PLATFORM = -1001 /* the loader's code for this, from cl_ext.h */ };

static const char what_to_install[] =
    "install a driver for your device, or pocl-opencl-icd for the processor (Debian: apt install "
    "pocl-opencl-icd ocl-icd-libopencl1)";

const char *tp_cl_type_name(const tp_cl_device *device)
{
    return device->type & CL_DEVICE_TYPE_GPU   ? "gpu"
           : device->type & CL_DEVICE_TYPE_CPU ? "cpu"
                                               : "accelerator";
}

const char *tp_cl_error_name(cl_int code)
{
    static const char *const runtime[] = {
        "CL_SUCCESS", "CL_DEVICE_NOT_FOUND", "CL_DEVICE_NOT_AVAILABLE", "CL_COMPILER_NOT_AVAILABLE",
        "CL_MEM_OBJECT_ALLOCATION_FAILURE", "CL_OUT_OF_RESOURCES", "CL_OUT_OF_HOST_MEMORY",
        "CL_PROFILING_INFO_NOT_AVAILABLE", "CL_MEM_COPY_OVERLAP", "CL_IMAGE_FORMAT_MISMATCH",
        "CL_IMAGE_FORMAT_NOT_SUPPORTED", "CL_BUILD_PROGRAM_FAILURE", "CL_MAP_FAILURE",
        "CL_MISALIGNED_SUB_BUFFER_OFFSET", "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
        "CL_COMPILE_PROGRAM_FAILURE", "CL_LINKER_NOT_AVAILABLE", "CL_LINK_PROGRAM_FAILURE",
        "CL_DEVICE_PARTITION_FAILED", "CL_KERNEL_ARG_INFO_NOT_AVAILABLE",
    };
    static const char *const usage[] = {
        /* errors from -30 downwards */
        "CL_INVALID_VALUE",
        "CL_INVALID_DEVICE_TYPE",
        "CL_INVALID_PLATFORM",
        "CL_INVALID_DEVICE",
        "CL_INVALID_CONTEXT",
        "CL_INVALID_QUEUE_PROPERTIES",
        "CL_INVALID_COMMAND_QUEUE",
        "CL_INVALID_HOST_PTR",
        "CL_INVALID_MEM_OBJECT",
        "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR",
        "CL_INVALID_IMAGE_SIZE",
        "CL_INVALID_SAMPLER",
        "CL_INVALID_BINARY",
        "CL_INVALID_BUILD_OPTIONS",
        "CL_INVALID_PROGRAM",
        "CL_INVALID_PROGRAM_EXECUTABLE",
        "CL_INVALID_KERNEL_NAME",
        "CL_INVALID_KERNEL_DEFINITION",
        "CL_INVALID_KERNEL",
        "CL_INVALID_ARG_INDEX",
        "CL_INVALID_ARG_VALUE",
        "CL_INVALID_ARG_SIZE",
        "CL_INVALID_KERNEL_ARGS",
        "CL_INVALID_WORK_DIMENSION",
        "CL_INVALID_WORK_GROUP_SIZE",
        "CL_INVALID_WORK_ITEM_SIZE",
        "CL_INVALID_GLOBAL_OFFSET",
        "CL_INVALID_EVENT_WAIT_LIST",
        "CL_INVALID_EVENT",
        "CL_INVALID_OPERATION",
        "CL_INVALID_GL_OBJECT",
        "CL_INVALID_BUFFER_SIZE",
        "CL_INVALID_MIP_LEVEL",
        "CL_INVALID_GLOBAL_WORK_SIZE",
        "CL_INVALID_PROPERTY",
        "CL_INVALID_IMAGE_DESCRIPTOR",
        "CL_INVALID_COMPILER_OPTIONS",
        "CL_INVALID_LINKER_OPTIONS",
        "CL_INVALID_DEVICE_PARTITION_COUNT",
    };
    if (code <= 0 && code > -(int)(sizeof runtime / sizeof *runtime))
        return runtime[-code];
    if (code <= -30 && code > -30 - (int)(sizeof usage / sizeof *usage))
        return usage[-30 - code];
    return code == NO_PLATFORM ? "CL_PLATFORM_NOT_FOUND_KHR" : "an unknown error";
}

static const char default_library[] = "libOpenCL.so.1";

void tp_cl_describe_loader(const char *path, char *text, size_t size)
{
    struct link_map *map = NULL;
    void *library = dlopen(path ? path : default_library, RTLD_LAZY | RTLD_LOCAL);
    bool is_known = library && dlinfo(library, RTLD_DI_LINKMAP, &map) == 0;
    char *file = is_known ? realpath(map->l_name, NULL) : NULL;
    snprintf(text, size, "%s", file ? file : library ? default_library : "none");
    free(file);
    if (library)
        dlclose(library);
}

static int open_loader(tp_cl *cl, const char *name, tp_error *err)
{
#define LOAD(function)                                                                       \
    do {                                                                                     \
        void *address = dlsym(cl->library, "cl" #function);                                  \
        if (!address)                                                                        \
            return tp_error_set(err, TP_ESYS,                                                \
                                "%s is no OpenCL 1.2 loader: it has no cl" #function, name); \
        memcpy(&cl->function, &address, sizeof address);                                     \
    } while (0);
    TP_CL_FUNCTIONS(LOAD)
#undef LOAD
    return 0;
}

static int open_driver(tp_cl *cl, void *find_address, const char *name, tp_error *err)
{
    void *(*find)(const char *function);
    memcpy(&find, &find_address, sizeof find);
    void *address = find("clIcdGetPlatformIDsKHR");
    cl_int (*list)(cl_uint max, cl_platform_id *platforms, cl_uint *n);
    memcpy(&list, &address, sizeof list);
    cl_platform_id platform = NULL;
    cl_uint n = 0;
    if (!address || list(1, &platform, &n) != CL_SUCCESS || n == 0)
        return tp_error_set(err, TP_ESYS, "%s has no OpenCL platform", name);
    const cl_icd_dispatch *functions;
    /* each object begins with a pointer to the driver's functions */
    memcpy(&functions, platform, sizeof functions);
#define TAKE(function) memcpy(&cl->function, &functions->cl##function, sizeof cl->function);
    TP_CL_FUNCTIONS(TAKE)
#undef TAKE
    cl->GetPlatformIDs = list;
    return 0;
}

static int open_library(tp_cl *cl, const char *name, tp_error *err)
{
    cl->library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!cl->library)
        return tp_error_set(err, TP_ESYS, "no OpenCL on this machine: %s; %s", dlerror(),
                            what_to_install);
    void *find = dlsym(cl->library, "clGetExtensionFunctionAddress");
    return find && !dlsym(cl->library, "clGetPlatformIDs") ? open_driver(cl, find, name, err)
                                                           : open_loader(cl, name, err);
}

/* Removes the spaces that drivers leave around their texts. */
static void trim(char *text)
{
    size_t n = strlen(text), from = strspn(text, " \t");
    while (n > from && strchr(" \t\n", text[n - 1]))
        n--;
    memmove(text, text + from, n - from);
    text[n - from] = 0;
}

static void get_text(const tp_cl *cl, cl_device_id id, cl_device_info what, char *to)
{
    char text[1024] = { 0 };
    if (cl->GetDeviceInfo(id, what, sizeof text - 1, text, NULL) != CL_SUCCESS)
        text[0] = 0;
    trim(text);
    memcpy(to, text, TP_DEVICE_TEXT_MAX - 1);
    to[TP_DEVICE_TEXT_MAX - 1] = 0;
}

static uint64_t get_number(const tp_cl *cl, cl_device_id id, cl_device_info what, size_t size)
{
    uint64_t wide = 0;
    uint32_t narrow = 0;
    if (size == sizeof narrow)
        return cl->GetDeviceInfo(id, what, size, &narrow, NULL) == CL_SUCCESS ? narrow : 0;
    return cl->GetDeviceInfo(id, what, sizeof wide, &wide, NULL) == CL_SUCCESS ? wide : 0;
}

/* How many elements a work item computes at once: twice the width of the processor's vectors, since
 * two vectors hide each other's latency. Measured run times, relative to half as many lanes: 8
 * doubles on AVX2: mandelbrot 0.6, sin and cos 0.85; 16 doubles on AVX-512: mandelbrot 0.58, option
 * prices 0.8, sin and cos 1.2. */
static unsigned lanes(const tp_cl *cl, cl_device_id id, cl_device_info width)
{
    uint64_t n = get_number(cl, id, width, sizeof(cl_uint));
    return n >= 8 ? 16 : n >= 4 ? 8 : 4;
}

static void describe(const tp_cl *cl, cl_platform_id platform, cl_device_id id, tp_cl_device *d)
{
    char text[1024] = { 0 };
    d->platform_id = platform;
    d->id = id;
    if (cl->GetPlatformInfo(platform, CL_PLATFORM_NAME, sizeof text - 1, text, NULL) != CL_SUCCESS)
        text[0] = 0;
    trim(text);
    memcpy(d->platform, text, TP_DEVICE_TEXT_MAX - 1);
    get_text(cl, id, CL_DEVICE_NAME, d->name);
    get_text(cl, id, CL_DEVICE_VENDOR, d->vendor);
    get_text(cl, id, CL_DEVICE_VERSION, d->version);
    get_text(cl, id, CL_DRIVER_VERSION, d->driver);
    d->type = get_number(cl, id, CL_DEVICE_TYPE, sizeof(cl_device_type));
    d->units = (unsigned)get_number(cl, id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof(cl_uint));
    d->memory = get_number(cl, id, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    d->max_alloc = get_number(cl, id, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    d->local_memory = get_number(cl, id, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    d->has_double = get_number(cl, id, CL_DEVICE_DOUBLE_FP_CONFIG, sizeof(cl_device_fp_config)) !=
                    0;
    d->is_unified = get_number(cl, id, CL_DEVICE_HOST_UNIFIED_MEMORY, sizeof(cl_bool)) != 0;
    bool is_processor = d->type & CL_DEVICE_TYPE_CPU;
    d->lanes_double = is_processor ? lanes(cl, id, CL_DEVICE_NATIVE_VECTOR_WIDTH_DOUBLE) : 1;
    d->lanes_float = is_processor ? lanes(cl, id, CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT) : 1;
}

static int list_devices(tp_cl *cl, tp_error *err)
{
    cl_platform_id platforms[PLATFORMS_MAX];
    cl_uint n_platforms = 0;
    cl_int rc = cl->GetPlatformIDs(PLATFORMS_MAX, platforms, &n_platforms);
    if (rc != CL_SUCCESS && rc != NO_PLATFORM)
        return tp_error_set(err, TP_ESYS, "listing the OpenCL platforms failed: %s (%d)",
                            tp_cl_error_name(rc), rc);
    if (rc == NO_PLATFORM || n_platforms == 0)
        return tp_error_set(err, TP_ESYS, "OpenCL has no driver here: %s", what_to_install);
    for (cl_uint p = 0; p < n_platforms && p < PLATFORMS_MAX; p++) {
        cl_device_id ids[TP_DEVICES_MAX];
        cl_uint n = 0;
        if (cl->GetDeviceIDs(platforms[p], CL_DEVICE_TYPE_ALL, TP_DEVICES_MAX, ids, &n) !=
            CL_SUCCESS)
            continue;
        for (cl_uint i = 0; i < n && cl->n < TP_DEVICES_MAX; i++)
            if (get_number(cl, ids[i], CL_DEVICE_AVAILABLE, sizeof(cl_bool)))
                describe(cl, platforms[p], ids[i], &cl->devices[cl->n++]);
    }
    if (cl->n == 0)
        return tp_error_set(err, TP_ESYS, "OpenCL has a driver here, but no device: %s",
                            what_to_install);
    return 0;
}

int tp_cl_open(tp_cl **out, const char *library, tp_error *err)
{
    static const char *const drivers[] = { "libnvidia-opencl.so.1",
                                           "/usr/local/nvidia/lib64/libnvidia-opencl.so.1" };
    tp_cl *cl = calloc(1, sizeof *cl);
    if (!cl)
        return tp_error_oom(err, "OpenCL");
    int rc = open_library(cl, library ? library : default_library, err) || list_devices(cl, err)
                 ? -1
                 : 0;
    for (unsigned i = 0; rc && !library && i < sizeof drivers / sizeof *drivers; i++) {
        /* if that fails too, the message about the loader is more useful */
        tp_error ignored = { 0 };
        *cl = (tp_cl){ 0 };
        if (open_library(cl, drivers[i], &ignored) == 0 && list_devices(cl, &ignored) == 0)
            rc = 0;
    }
    if (rc) {
        tp_cl_close(cl);
        return -1;
    }
    tp_error_clear(err);
    *out = cl;
    return 0;
}

void tp_cl_close(tp_cl *cl)
{
    free(cl);
}

/* What the driver says of a device, of whatever length, with a byte 0 behind it: *size bytes, which
 * the caller frees. NULL when it says nothing. */
static char *get_all(const tp_cl *cl, cl_device_id id, cl_device_info what, size_t *size)
{
    if (cl->GetDeviceInfo(id, what, 0, NULL, size) != CL_SUCCESS)
        return NULL;
    char *all = calloc(1, *size + 1);
    if (all && cl->GetDeviceInfo(id, what, *size, all, NULL) != CL_SUCCESS) {
        free(all);
        return NULL;
    }
    return all;
}

bool tp_cl_has(const tp_cl *cl, const tp_cl_device *device, const char *name)
{
    /* of OpenCL 3.0: CL_DEVICE_OPENCL_C_FEATURES, a list of cl_name_version */
    enum { FEATURES = 0x106F, NAME = 64 };
    struct feature {
        cl_uint version;
        char name[NAME];
    };
    size_t size, len = strlen(name);
    bool has = false;
    char *all = get_all(cl, device->id, CL_DEVICE_EXTENSIONS, &size);
    for (char *at = all; at && len && (at = strstr(at, name)); at += len)
        has = has || ((at == all || at[-1] == ' ') && (at[len] == ' ' || !at[len]));
    free(all);
    all = has ? NULL : get_all(cl, device->id, FEATURES, &size);
    for (size_t i = 0; all && i + sizeof(struct feature) <= size; i += sizeof(struct feature)) {
        struct feature one;
        memcpy(&one, all + i, sizeof one);
        has = has || strncmp(one.name, name, NAME) == 0;
    }
    free(all);
    return has;
}

bool tp_cl_has_run(const tp_cl *cl, cl_event event)
{
    cl_int status = CL_COMPLETE; /* below 0: it has failed */
    return cl->GetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status,
                            NULL) != CL_SUCCESS ||
           status <= CL_COMPLETE;
}

int tp_cl_fail(tp_error *err, const tp_cl_device *device, const char *what, cl_int rc)
{
    return tp_error_set(err, TP_ESYS, "%s: %s failed: %s (%d)", device->name, what,
                        tp_cl_error_name(rc), rc);
}
