--- What stays on a device with memory of its own: how long maps take, and how many MiB go there and
-- back in each of them. By itself, not by bench/run.lua:
--
--     tidepool bench/resident.lua
--
-- On a device that shares the host's memory, as PoCL's, it runs itself again with the simulated
-- card of the tests (tests/opencl/faults.c), whose copies are those of a processor: then the MiB
-- tell, and the times little.

local tidepool = require "tidepool"
local ffi = require "ffi"

local best = tidepool.devices()[1]
if not best then return print "there is no device" end
if best.unified and not os.getenv "FAULTS_COPIES" then
  local library = os.tmpname()
  assert(os.execute(("cc -shared -fPIC -D_GNU_SOURCE -o %s tests/opencl/faults.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl"):format(library)) == 0)
  local code = os.execute(("FAULTS_COPIES=1 TIDEPOOL_OPENCL=%s %s bench/resident.lua"):format(library, os.getenv "TIDEPOOL" or "tidepool"))
  os.remove(library)
  return assert(code == 0)
end

local count = function() return 0 end -- bytes that went to the device (0), or from it (1)
if os.getenv "FAULTS_COPIES" then
  ffi.cdef "double faults_moved(int way);"
  count = ffi.load(os.getenv "TIDEPOOL_OPENCL").faults_moved
end

local app = tidepool.App("resident", { gpu = true })

--- Prints how long a run takes, the best of seven, and what it moves, in the last one.
local function measure(what, run)
  run()
  local best_s, there, home = math.huge, 0, 0
  for _ = 1, 7 do
    collectgarbage()
    local to, from, began = count(0), count(1), tidepool.now()
    run()
    best_s, there, home = math.min(best_s, tidepool.now() - began), count(0) - to, count(1) - from
  end
  print(("%-66s %9.2f ms %8.1f MiB there %8.1f MiB back"):format(what, best_s * 1e3, there / 2 ^ 20, home / 2 ^ 20))
end

print(best.name)
local large = tidepool.array("double", 2 ^ 23, 1)
local few = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 }
local look_up = app:func(function(x) return large[x] end)
measure("10 numbers, with a captured array of 64 MiB", function() look_up:map(few):list() end)
measure("the same when the array was changed before", function() large[1] = 2; look_up:map(few):list() end)

local out = tidepool.array("double", 2 ^ 23)
local write = app:func(function(x) out[x] = 2 * x end)
measure("1 M items that write to an array of 64 MiB", function() write:for_each(tidepool.range(1e6)) end)

local xs = tidepool.array("double", 1e7, 2)
local f = app:func(function(x) return x + 1 end)
local g = app:func(function(x) return 2 * x end)
local h = app:func(function(x) return x - 3 end)
measure("three maps of 10 M doubles, with arrays in between", function() xs[1] = 3; h:map(g:map(f:map(xs):array()):array()):array() end)
measure("with buffers in between", function() xs[1] = 3; h:map(g:map(f:map(xs):buffer()):buffer()):array() end)
measure("each over the other's results", function() xs[1] = 3; h:map(g:map(f:map(xs))):array() end)
measure("the same, of an array that was not changed", function() h:map(g:map(f:map(xs))):array() end)
measure("its sum", function() h:map(g:map(f:map(xs))):sum() end)

local device = tidepool.gpu.device()
local twice = device:kernel "__kernel void twice(__global const float *a, __global float *b) { size_t i = get_global_id(0); b[i] = 2 * a[i]; }"
for _, n in ipairs { 1000000, 1000003 } do
  local a, b = device:buffer("float", n), device:buffer("float", n)
  measure(("a kernel by hand over %d work items"):format(n), function() twice(n, a, b); device:wait() end)
end
