--- How much of a map on a device with memory of its own is covered by the slowest of copying there,
--- computing and copying back, which go on at the same time: a device of PoCL's with three engines
--- on which commands take as long as a card's would (they sleep, so that a busy machine matters
--- little).
---
---   build/tidepool bench/overlap.lua

local LIBRARY = [[
#define CL_TARGET_OPENCL_VERSION 120
#define _GNU_SOURCE
#include <CL/cl.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#define REAL(f) ((__typeof__(&f))dlsym(RTLD_NEXT, #f))

static pthread_mutex_t engine[3] = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER };
static _Atomic long used[3];

double card_used(int i) { return used[i] / 1e9; }

static void work(int e, size_t n, const char *name)
{
    long ns = (long)n * atol(getenv(name));
    pthread_mutex_lock(&engine[e]);
    used[e] += ns;
    nanosleep(&(struct timespec){ ns / 1000000000, ns % 1000000000 }, NULL);
    pthread_mutex_unlock(&engine[e]);
}

cl_int clGetDeviceInfo(cl_device_id d, cl_device_info what, size_t n, void *value, size_t *got)
{
    if (what == CL_DEVICE_TYPE) *(cl_device_type *)value = CL_DEVICE_TYPE_GPU;
    if (what == CL_DEVICE_TYPE) return CL_SUCCESS;
    if (what != CL_DEVICE_HOST_UNIFIED_MEMORY) return REAL(clGetDeviceInfo)(d, what, n, value, got);
    memset(value, 0, n);
    return CL_SUCCESS;
}

cl_int clEnqueueNDRangeKernel(cl_command_queue q, cl_kernel k, cl_uint n, const size_t *at, const size_t *global, const size_t *local, cl_uint m,
    const cl_event *e, cl_event *event)
{
    work(1, *global, "CARD_ITEM");
    return REAL(clEnqueueNDRangeKernel)(q, k, n, at, global, local, m, e, event);
}

cl_int clEnqueueWriteBuffer(cl_command_queue q, cl_mem mem, cl_bool blocks, size_t at, size_t size, const void *from, cl_uint n, const cl_event *e,
    cl_event *event)
{
    work(0, size, "CARD_BYTE");
    return REAL(clEnqueueWriteBuffer)(q, mem, blocks, at, size, from, n, e, event);
}

cl_int clEnqueueReadBuffer(cl_command_queue q, cl_mem mem, cl_bool blocks, size_t at, size_t size, void *to, cl_uint n, const cl_event *e,
    cl_event *event)
{
    work(2, size, "CARD_BYTE");
    return REAL(clEnqueueReadBuffer)(q, mem, blocks, at, size, to, n, e, event);
}
]]

local tidepool = require "tidepool"

if not os.getenv "CARD_BYTE" then
  local base = os.tmpname()
  local file = assert(io.open(base .. ".c", "w"))
  file:write(LIBRARY)
  file:close()
  assert(os.execute(("cc -shared -fPIC -o %s.so %s.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl -lpthread"):format(base, base)) == 0)
  for _, case in ipairs { { "computing is short", 400 }, { "all take equally long", 3200 } } do
    print(case[1]) io.stdout:flush()
    os.execute(("CARD_BYTE=400 CARD_ITEM=%d TIDEPOOL_OPENCL=%s.so '%s' '%s'"):format(case[2], base, arg[-1], arg[0]))
  end
  for _, ending in ipairs { "", ".c", ".so" } do os.remove(base .. ending) end
  return
end

local ffi = require "ffi"
ffi.cdef "double card_used(int i);"
local card = ffi.load(os.getenv "TIDEPOOL_OPENCL")
local SLICE = 16384
local f = tidepool.App("overlap", { gpu = true }):func(function(x) return x + 1 end)
f:map(tidepool.array("double", SLICE, 1)):array()
for _ = 1, 2 do
  local xs, before, longest = tidepool.array("double", 40 * SLICE, 1), {}, 0
  for i = 0, 2 do before[i] = card.card_used(i) end
  local began = tidepool.now()
  f:map(xs):array()
  local took = tidepool.now() - began
  for i = 0, 2 do longest = math.max(longest, card.card_used(i) - before[i]) end
  print(("  %.2f s, of which the longest engine works %.2f s: %.2f"):format(took, longest, longest / took))
end
