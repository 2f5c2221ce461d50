--- Devices driven by hand: tidepool.gpu.device(), buffers, kernels and what they refuse; in the
-- script, in workers, and on devices with memory of their own, which tests/opencl/faults.c makes of
-- PoCL's.

local devices = require "tests.support_device"
local ffi = require "ffi"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of, mistake, run = support.contains, support.failure_of, support.mistake, shell.run

local there = devices.list
local on_device, on_pocl = devices.on_device(it, pending), devices.on_pocl(it, pending)
--- The complaint about a kernel: at this file's line, with the compiler's below it.
local function complaint(make, ...)
  local _, why = pcall(make)
  contains(why, ...)
  assert.matches("^[^\n]*gpu_hand_spec.lua:%d+: device:kernel", why)
end

local device = #there > 0 and tidepool.gpu.device()

local add = [[
  __kernel void add(__global const float *a, __global float *b, float k) {
    size_t i = get_global_id(0);
    b[i] = a[i] + k;
  }]]

describe("tidepool.gpu.device()", function()
  on_device("is the best device, and tells what it is", function()
    assert.equal(there[1].name, device.name)
    assert.equal(there[1].memory, device.memory)
    assert.is_true(device.max_buffer > 0 and device.compute_units >= 1)
    assert.equal("tidepool.Device: " .. device.name, tostring(device))
    assert.is_true(device == tidepool.gpu.device(true))
  end)

  on_device("takes what gpu = ... takes", function()
    assert.is_true(tidepool.gpu.device { "no such card", "any" } == device)
    assert.is_true(tidepool.gpu.device(there[1].name) == device)
    assert.is_nil((tidepool.gpu.device { "no such card", "threads" }))
    mistake(function() local d = tidepool.gpu.device(7) return d end, "tidepool.gpu.device: expected true, or a device like", "got 7")
    contains(select(2, pcall(function() local d = tidepool.gpu.device "no such card" return d end)), "gpu_hand_spec.lua:",
      'tidepool.gpu.device: gpu = "no such card": no such device; there', "\n  ")
  end)

  it("without OpenCL is an error, or nil where that is said", function()
    local done = run("TIDEPOOL_OPENCL=/none.so $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      print(tidepool.gpu.device { "any", "threads" })
      local d = tidepool.gpu.device()
    ]] })
    assert.equal("nil\n", done.stdout)
    assert.equal(1, done.code)
    contains(done.stderr, 'job.lua:3: tidepool.gpu.device: gpu = "any": no OpenCL on this machine')
  end)
end)

describe("a buffer", function()
  on_device("has an array's elements, a list's, or zeros", function()
    assert.same({ 1, 2, 3, n = 3 }, device:buffer(tidepool.array("int16", { 1, 2, 3 })):read():list())
    assert.same({ 1.5, 2.5, n = 2 }, device:buffer("float", { 1.5, 2.5 }):read():list())
    local zeros = device:buffer("double", 4)
    assert.same({ 0, 0, 0, 0, n = 4 }, zeros:read():list())
    assert.equal("double", zeros.ctype)
    assert.equal(4, zeros.length)
    assert.equal(0, #device:buffer("float", 0):read())
    contains(tostring(zeros), "tidepool.Buffer: 4 double on ", device.name)
  end)

  on_device("answers #, as its parts and its copies do, here and in workers", function()
    local b = device:buffer("float", { 1, 2, 3, 4 })
    local lengths = { #b, #b:slice(2, 3), #b:as("uint8"), #b:copy(), #b:on(device), #device:buffer("double", 0), b.length }
    assert.same({ 4, 2, 16, 4, 4, 0, 4 }, lengths)
    b.label = "mine"
    local list = { b, b }
    local f = tidepool.App "lengths":func(function(given, two, i)
      return #given + i, given.label, given.ctype, rawequal(two[1], two[2]), #b + #list[1], tostring(b), given:slice(2, 3)
    end)
    local length, label, ctype, is_one, captured, shown, part = f:remote(b, { b, b }, 0.5)
    assert.same({ 4.5, "mine", "float", true, 8, tostring(b), 2 }, { length, label, ctype, is_one, captured, shown, #part })
    assert.is_true(b == b and b ~= b:copy())
    local on = tidepool.App("lengths", { gpu = true })
    assert.same({ 9, n = 1 }, on:func(function(i) return #b + b.length + i end):map({ 1 }):list())
    mistake(function() on:func(function(i) return b[i] end):map({ 1 }):list() end, "its elements are a device's: map it, or capture b:read()")
    assert.same({ 2, 3, n = 2 }, part:read():list())
  end)

  on_device("is read into the array that it was made of, or another one", function()
    local a = tidepool.array("float", { 1, 2, 3 })
    local buffer = device:buffer(a)
    assert.is_true(rawequal(a, buffer:read()))
    local other = tidepool.array("float", 2)
    assert.is_true(rawequal(other, buffer:read(other)))
    assert.same({ 1, 2, n = 2 }, other:list())
  end)

  on_device("is written from an array, a list, or its own array", function()
    local a = tidepool.array("float", { 1, 2, 3 })
    local buffer = device:buffer(a)
    buffer:write { 7, 8 }
    assert.same({ 7, 8, 3, n = 3 }, buffer:read():list())
    buffer:write(tidepool.array("float", { 4, 5, 6 }))
    assert.same({ 4, 5, 6, n = 3 }, buffer:read():list())
    a[2] = 50
    assert.same({ 4, 50, 6, n = 3 }, buffer:write():read():list())
  end)

  on_device("may be of a part of an array, wherever that begins", function()
    local a = tidepool.array("float", 100)
    for i = 1, 100 do a[i] = i end
    for _, from in ipairs { 1, 2, 33, 100 } do
      local view = a:slice(from, math.min(from + 9, 100))
      local buffer = device:buffer(view)
      device:kernel(add, "add")(#view, buffer, buffer, 0.5)
      assert.equal(from + 0.5, buffer:read()[1])
      assert.equal(from + 0.5, a[from])
      a[from] = from
      for i = from + 1, math.min(from + 9, 100) do a[i] = i end
      assert.equal(from > 1 and from - 1 or nil, from > 1 and a[from - 1] or nil)
    end
  end)

  on_device("is the array itself where the device shares the host's memory", function()
    if not device.unified then return end
    local a = tidepool.array("float", { 1, 2, 3 })
    local buffer = device:buffer(a)
    device:kernel(add, "add")(3, buffer, buffer, 10)
    device:wait()
    assert.same({ 11, 12, 13, n = 3 }, a:list())
  end)

  on_device("that nobody holds any more stays until the kernels that use it have run", function()
    local slow = device:kernel [[
      __kernel void slow(__global float *x, int n) {
        float y = 0;
        for (int i = 0; i < n; i++) y = sin(y + i);
        x[get_global_id(0)] = y + 10;
      }]]
    local n = 100000
    slow(n, device:buffer("float", n), 200)
    collectgarbage()
    collectgarbage()
    local others = {}
    for i = 1, 4 do others[i] = tidepool.array("float", n) end
    device:wait()
    for i = 1, 4 do assert.equal(0, others[i][n]) end
  end)

  on_device("gives canonical NaNs", function()
    local odd = device:kernel [[
      __kernel void odd(__global ulong *x, __global uint *y) {
        x[get_global_id(0)] = 0xfffc000000000000UL + get_global_id(0);
        y[get_global_id(0)] = 0xffffff00u + get_global_id(0);
      }]]
    local x, y = tidepool.array("uint64", 5), tidepool.array("uint32", 5)
    local bits, more_bits = device:buffer(x), device:buffer(y)
    odd(5, bits, more_bits)
    local doubles, floats = device:buffer("double", 5), device:buffer("float", 5)
    local read = device:kernel [[
      __kernel void read(__global const ulong *x, __global double *to, __global const uint *y, __global float *to_y) {
        ((__global ulong *)to)[get_global_id(0)] = x[get_global_id(0)];
        ((__global uint *)to_y)[get_global_id(0)] = y[get_global_id(0)];
      }]]
    read(5, bits, doubles, more_bits, floats)
    local a, b = doubles:read(), floats:read()
    for i = 1, 5 do
      assert.equal("number", type(a.data[i - 1])) -- as FFI reads it, which looks at nothing
      assert.equal("number", type(b.data[i - 1]))
      assert.is_true(a[i] ~= a[i] and b[i] ~= b[i])
    end
  end)

  on_device("is read, written, filled and copied in parts", function()
    local b = device:buffer("double", { 1, 2, 3, 4, 5, 6 })
    assert.same({ 3, 4, n = 2 }, b:read(tidepool.array("double", 2), 3):list())
    b:write({ 30, 40 }, 3):write(tidepool.array("double", { 60 }), 6)
    assert.same({ 1, 2, 30, 40, 5, 60, n = 6 }, b:read():list())
    local copy = b:copy():fill(-0.5)
    assert.same({ 1, 2, 30, 40, 5, 60, n = 6 }, b:read():list())
    copy:write(b:slice(1, 2), 5)
    copy:slice(2, 3):fill(9)
    assert.same({ -0.5, 9, 9, -0.5, 1, 2, n = 6 }, copy:read():list())
    local integers = device:buffer("int64", 3):fill(-9007199254740993LL)
    assert.is_true(integers:read()[3] == -9007199254740993LL)
    assert.same({ 7, 7, n = 2 }, device:buffer("unsigned char", 2):fill(7):read():list())
    assert.equal("int32", device:buffer("int", 1).ctype)
    mistake(function() integers:fill(0.5) end, "buffer:fill: takes an integer from ", "got 0.5")
    mistake(function() b:write(b:slice(1, 5), 2) end, "buffer:write: the elements overlap those that are copied")
    mistake(function() b:write(integers) end, "expected a buffer of double, got one of int64")
    assert.same({ 1, 2, 30, 1, 2, 30, n = 6 }, b:write(b:slice(1, 3), 4):read():list())
  end)

  on_device("has slices, and is seen as elements of another type", function()
    local n = 1024
    local b = device:buffer("float", n)
    local half = b:slice(n / 2 + 1)
    assert.equal(n / 2, half.length)
    device:kernel(add, "add")(half.length, half, half, 2)
    half:slice(2, 3):write { 5, 6 }
    assert.same({ 0, 2, 5, 6, 2, n = 5 }, b:read(tidepool.array("float", 5), n / 2):list())
    assert.same({ 5, 6, n = 2 }, half:slice(2, 3):read():list())
    assert.equal(0x40000000, b:as("uint32"):read()[n / 2 + 1])
    assert.equal(n / 2, b:as("double").length)
    assert.equal(n, b:as("int"):as("float").length)
    local none = b:slice(4, 3)
    assert.equal(0, #none:read())
    none:fill(1):write {}
    assert.equal(0, b:read()[4])
    mistake(function() b:slice(0) end, "buffer:slice: 0 to 1024 are not within the buffer's 1024 elements")
    mistake(function() b:as "flaot" end, "buffer:as: unknown element type")
    if devices.has_pocl then
      local failure = failure_of(function() device:kernel(add, "add")(3, b:slice(2, 4), b, 2) end)
      contains(failure.message, "argument 1 is a slice of 12 bytes that begins at byte 4 of its buffer, where none may begin for kernels")
    end
    collectgarbage()
    collectgarbage()
    assert.equal(2, half:read()[1])
  end)

  on_device("is the same in workers, in parts", function()
    local b = device:buffer("float", { 1, 2, 3, 4 })
    local part = b:slice(2, 3)
    local f = tidepool.App "parts":func { gpu = true, executor = "threads" }(function(k)
      part:fill(k)
      return part:read()[1], part.length
    end)
    assert.same({ 7, 2 }, { f:remote(7) })
    assert.same({ 1, 7, 7, 4, n = 4 }, b:read():list())
  end)

  on_device("that is not right is one clear error at the user's line", function()
    local a, b = device:buffer("float", 3), device:buffer("double", 3)
    mistake(function() device:buffer(7) end, "device:buffer: expected a typed array, or an element type and a number of elements or a list, got 7")
    mistake(function() device:buffer "float" end, "expected a number of elements or a list, got nil")
    mistake(function() device:buffer("folat", 3) end, "device:buffer: unknown element type", 'did you mean "float"')
    mistake(function() device:buffer("float", 1.5) end, "must be an integer of at least 0, got 1.5")
    mistake(function() device.buffer("float", 3) end, "write device:buffer(array)")
    mistake(function() a:write(b) end, "buffer:write: expected a buffer of float, got one of double")
    mistake(function() a:read(tidepool.array("double", 3)) end, "buffer:read: expected an array of float", "got one of double with 3")
    mistake(function() a:write(tidepool.array("float", 4)) end, "got one of float with 4")
    mistake(function() a.read() end, "write buffer:read(")
  end)

  on_device("that is too large is a failure of kind device, with the sizes", function()
    local failure = failure_of(function() device:buffer("double", 2 ^ 47) end)
    assert.equal("device", failure.kind)
    contains(failure.message, "gpu_hand_spec.lua:", "device:buffer: " .. device.name .. ": a buffer of 1024 TiB is over the device's largest, ", "iB")
  end)
end)

describe("a kernel", function()
  on_device("runs over one, two or three sizes", function()
    local grid = device:kernel [[
      __kernel void grid(__global int *to) {
        size_t at = (get_global_id(2) * get_global_size(1) + get_global_id(1)) * get_global_size(0) + get_global_id(0);
        to[at] = 10000 * get_global_id(2) + 100 * get_global_id(1) + get_global_id(0);
      }]]
    local to = device:buffer("int32", 7 * 48 * 2)
    grid(to.length, to)
    assert.equal(7 * 48 * 2 - 1, to:read()[to.length])
    grid({ 7, 48 }, to)
    assert.equal(4706, to:read()[7 * 48])
    grid({ 48, 7 }, to)
    assert.equal(647, to:read()[7 * 48])
    grid({ 7, 48, 2 }, to)
    assert.equal(14706, to:read()[to.length])
    grid({ 6, 0 }, to)
    grid({ 48, 7, 2, local_size = { 16, 1, 2 } }, to)
    assert.equal(10647, to:read()[to.length])
  end)

  on_device("is one of several in a source, and the only one needs no name", function()
    local source = "__kernel void one(__global int *x) { x[0] = 1; } __kernel void two(__global int *x) { x[0] = 2; }"
    local x = device:buffer("int32", 1)
    device:kernel(source, "one")(1, x)
    assert.equal(1, x:read()[1])
    device:kernel(source, "two")(1, x)
    assert.equal(2, x:read()[1])
    device:kernel "__kernel void three(__global int *x) { x[0] = 3; }"(1, x)
    assert.equal(3, x:read()[1])
    mistake(function() device:kernel(source) end, "device:kernel: the source has several kernels, say which: one, two")
    mistake(function() device:kernel(source, "four") end, "there is no kernel 'four' in the source; there is: one, two")
    mistake(function() device:kernel "" end, "there is no __kernel in the source")
    mistake(function() device:kernel(7) end, "expected OpenCL C as a string, got 7")
    mistake(function() device:kernel(source, 7) end, "expected a kernel's name, or a table of options, got 7")
  end)

  on_device("takes numbers, vectors, local memory and structs", function()
    local all = device:kernel [[
      typedef struct { int a; float b; } pair;
      __kernel void all(__global double *to, char c, uchar uc, short s, ushort us, int i, unsigned int ui, long l, ulong ul, float f, double d,
                        float4 v, int3 w, __local int *part, pair p, __constant float *table) {
        part[get_local_id(0)] = get_local_id(0);
        barrier(CLK_LOCAL_MEM_FENCE);
        double values[] = { c, uc, s, us, i, ui, l, ul, f, d, v.x + v.w, w.y, part[get_local_size(0) - 1], p.a + p.b, table[1] };
        for (int k = 0; k < 15; k++) to[k] = values[k];
      }]]
    local to = device:buffer("double", 15)
    ffi.cdef "typedef struct { int a; float b; } gpu_hand_pair;"
    all({ 4, local_size = 4 }, to, -128, 255, -32768, 65535, -2 ^ 31, 2 ^ 32 - 1, -2 ^ 53, 2 ^ 53, 0.5, 1e300, { 1, 2, 3, 4 }, { 5, 6, 7 },
      { "int32", 4 }, ffi.new("gpu_hand_pair", 3, 0.25), device:buffer("float", { 8, 9 }))
    assert.same({ -128, 255, -32768, 65535, -2 ^ 31, 2 ^ 32 - 1, -2 ^ 53, 2 ^ 53, 0.5, 1e300, 5, 6, 3, 3.25, 9, n = 15 }, to:read():list())
    local long = device:kernel "__kernel void longs(__global long *to, long l, ulong ul) { to[0] = l; to[1] = ul; }"
    local longs = device:buffer("int64", 2)
    long(1, longs, -9007199254740993LL, 9007199254740995ULL)
    assert.is_true(longs:read()[1] == -9007199254740993LL and longs:read()[2] == 9007199254740995LL)
  end)

  on_device("takes a buffer of numbers for a pointer to vectors of them, and any for one to a struct", function()
    local f = device:kernel [[
      typedef struct { int a, b; } pair;
      __kernel void f(__global const float4 *x, __global const pair *p, __global float *to) {
        int i = get_global_id(0);
        to[i] = x[i].x + x[i].w + p[i].b;
      }]]
    local x, p, to = device:buffer("float", { 1, 2, 3, 4, 5, 6, 7, 8 }), device:buffer("int32", { 0, 100, 0, 200 }), device:buffer("float", 2)
    f(2, x, p, to)
    assert.same({ 105, 213, n = 2 }, to:read():list())
    mistake(function() f(2, p, p, to) end, "argument 1 (__global float4 *x) takes a buffer of float, got one of int32")
  end)

  on_device("takes structs as FFI's with their bytes, not pointers to them", function()
    local f = device:kernel "typedef struct { int a; } one; __kernel void f(__global int *to, one x) { to[0] = x.a; }"
    local to = device:buffer("int32", 1)
    f(1, to, ffi.new("int[1]", 7))
    assert.equal(7, to:read()[1])
    ffi.cdef "typedef struct gpu_hand_one { int a; } gpu_hand_one;"
    local one = ffi.new("gpu_hand_one", 9)
    f(1, to, one)
    assert.equal(9, to:read()[1])
    for _, value in ipairs { 9, "9", 9LL, ffi.cast("void *", one), ffi.cast("gpu_hand_one *", one) } do
      mistake(function() f(1, to, value) end, "argument 2 (one x) has a type that no number is; it takes a struct or array of FFI")
    end
  end)

  on_device("begins where an offset says, takes NULL for a buffer, and tells how long it took", function()
    local k = device:kernel [[
      __kernel void k(__global int *x, __global int *none) { if (!none) x[get_global_id(1) * 10 + get_global_id(0)] += 1; }]]
    local x = device:buffer("int32", 100)
    assert.is_nil(k:time())
    k({ 2, 3, offset = { 4, 5 } }, x, false)
    assert.is_true(k:time() > 0)
    local sum = 0
    for i = 1, 100 do sum = sum + x:read()[i] * i end
    assert.equal((55 + 56) + (65 + 66) + (75 + 76), sum)
    k({ 5, offset = 95 }, x, x)
    assert.equal(0, x:read()[100])
  end)

  on_device("may use the extensions that its device has, and it says which", function()
    assert.same({ device.fp64, false, false, false }, { device:has "cl_khr_fp64", device:has "cl_khr_fp6", device:has "", device:has "no such one" })
    if not (device:has "cl_khr_subgroups" and device:has "__opencl_c_subgroups") then return end -- PoCL has them from 4 on
    local k = device:kernel("__kernel void sums(__global int *to) { to[get_global_id(0)] = sub_group_reduce_add(1) == get_sub_group_size(); }",
      { std = "CL3.0" })
    local all = device:buffer("int", 64)
    k({ #all, local_size = { 32 } }, all)
    assert.equal(#all, all:sum())
  end)

  on_device("may have no parameters", function()
    device:kernel "__kernel void f(void) { }"(3)
    device:wait()
  end)

  on_device("shows its parameters", function()
    assert.equal("tidepool.Kernel: add(__global float *a, __global float *b, float k)", tostring(device:kernel(add)))
  end)

  on_device("runs in groups of the size that it requires", function()
    local sized = device:kernel [[
      __attribute__((reqd_work_group_size(4, 2, 1))) __kernel void sized(__global int *to) {
        to[get_global_id(1) * get_global_size(0) + get_global_id(0)] = get_local_size(0) * 10 + get_local_size(1);
      }]]
    local to = device:buffer("int32", 64)
    sized({ 8, 8 }, to)
    assert.equal(42, to:read()[64])
    mistake(function() sized({ 8, 8, local_size = { 8, 1 } }, to) end, "local_size is 8, but the source requires groups of 4 x 2 x 1")
    mistake(function() sized({ 6, 8 }, to) end, "local_size 4 does not divide global_size 6")
  end)

  on_device("refuses what its parameters do not take, at the user's line", function()
    local f = device:kernel "__kernel void f(__global float *x, int i, float4 v, __local double *part) { x[0] = i; }"
    local x, y, part = device:buffer("float", 3), device:buffer("double", 3), { "double", 4 }
    local a, v = tidepool.array("float", 3), { 1, 2, 3, 4 }
    mistake(function() f(1, x) end, "kernel 'f': takes 4 arguments after global_size, got 1")
    mistake(function() f(1, y, 1, v, part) end, "kernel 'f': argument 1 (__global float *x) takes a buffer of float, got one of double")
    mistake(function() f(1, a, 1, v, part) end, "argument 1 (__global float *x) takes a buffer, got a typed array", "device:buffer(array)")
    mistake(function() f(1, nil, 1, v, part) end, "takes a buffer, got nil (NULL is false)")
    mistake(function() f(1, x, 1.5, v, part) end, "argument 2 (int i) takes an integer from -2147483648 to 2147483647, got 1.5")
    mistake(function() f(1, x, 2 ^ 31, v, part) end, "got 2147483648")
    mistake(function() f(1, x, 0 / 0, v, part) end, "takes an integer", "nan")
    mistake(function() f(1, x, "1", v, part) end, 'takes a number, got the string "1"')
    mistake(function() f(1, x, x, v, part) end, "takes a number, got a buffer of float")
    mistake(function() f(1, x, 1, 4, part) end, "argument 3 (float4 v) takes a list of 4 numbers, got 4")
    mistake(function() f(1, x, 1, { 1, 2, 3 }, part) end, "takes a list of 4 numbers")
    mistake(function() f(1, x, 1, v, { "float", 4 }) end, 'argument 4 (__local double *part) takes room for each group, as in { "double", 64 }')
    mistake(function() f(1, x, 1, v, 4) end, "takes room for each group")
    mistake(function() f("1", x, 1, v, part) end, "the global_size must be a number, or a list of two or three")
    mistake(function() f({ 1, 2, 3, 4 }, x, 1, v, part) end, "the global_size must be")
    mistake(function() f({ 1, -1 }, x, 1, v, part) end, "the global_size has -1, which is no size")
    mistake(function() f({ 4, local_size = 3 }, x, 1, v, part) end, "local_size 3 does not divide global_size 4")
    mistake(function() f({ 4, 4, local_size = 2 }, x, 1, v, part) end, "local_size needs 2 numbers, as global_size has")
    mistake(function() f({ 2 ^ 24, local_size = 2 ^ 24 }, x, 1, v, part) end, "local_size has 16777216 work items, and ", " allows ")
    mistake(function() f({ 4, localsize = 2 }, x, 1, v, part) end, "the global_size has 'localsize', which is not known (did you mean 'local_size'?)")
    mistake(function() f({ 4, 4, offset = 2 }, x, 1, v, part) end, "kernel 'f': offset needs 2 numbers, as global_size has")
    mistake(function() f({ 4, offset = -2 }, x, 1, v, part) end, "the offset has -2, which is no size")
    mistake(function() f({ 4, start = 2 }, x, 1, v, part) end, "the global_size has 'start', which is not known (there are local_size, offset)")
    mistake(function() f({ 4, local_size = { 2, x = 1 } }, x, 1, v, part) end, "the local_size has 'x', which is not known")
    mistake(function() x:write({ 1, 2 }, 3) end, "buffer:write: 2 elements from element 3 on are not in the buffer's 3")
    mistake(function() x:read(nil, 2) end, "buffer:read: 3 elements from element 2 on are not in the buffer's 3")
    mistake(function() x:read(tidepool.array("float", 1), 0) end, "buffer:read: 1 element from element 0 on is not in")
    mistake(function() return x[1], nil end, "buffer[1]: the elements are the device's: read them with local array = buffer:read()")
    mistake(function() x[1] = 2 end, "buffer[1] = ...: the elements are the device's: set them with buffer:write(list or array)")
    f(1, x, 1, v, part)
  end)

  on_device("has what its options define, in their order whatever they are", function()
    local text = [[
      __kernel void f(__global REAL *x) { x[0] = N + HALF; x[1] = MIN(7, 3); x[2] = BIG; x[3] = IS_ON;
      #ifdef OFF
        x[3] = 2;
      #endif
      }]]
    local x = device:buffer("float", 4)
    device:kernel(text, { defines = {
      REAL = "float", N = 16, HALF = 0.5, ["MIN(a, b)"] = "((a) < (b) ? (a) : (b))", BIG = 2 ^ 24, IS_ON = true, OFF = false,
    } })(1, x)
    assert.same({ 16.5, 3, 2 ^ 24, 1, n = 4 }, x:read():list())
    local longs = device:buffer("int64", 2)
    device:kernel("__kernel void f(__global long *x) { x[0] = A; x[1] = B - U; }", { defines = {
      A = 9007199254740993LL, B = -0x7fffffffffffffffLL - 1, U = 0xffffffffffffffffULL,
    } })(1, longs)
    assert.is_true(longs:read()[1] == 9007199254740993LL and longs:read()[2] == -0x7fffffffffffffffLL)
    device:kernel(text, { name = "f", defines = { REAL = "float", N = -3, HALF = 0, ["MIN(a, b)"] = "a", BIG = math.huge, IS_ON = true } })(1, x)
    assert.same({ -3, 7, math.huge, 1, n = 4 }, x:read():list())
  end)

  on_device("is of the version of OpenCL C that it says, with the compiler's options", function()
    local x = device:buffer("int32", 2)
    local text = "__kernel void f(__global int *x) { x[0] = __OPENCL_C_VERSION__; \n#ifdef __FAST_RELAXED_MATH__\n x[1] = 1;\n#endif\n }"
    device:kernel(text)(1, x)
    assert.same({ 120, 0, n = 2 }, x:read():list())
    device:kernel(text, { options = "-cl-fast-relaxed-math" })(1, x)
    assert.same({ 120, 1, n = 2 }, x:read():list())
    device:kernel(text, { options = "-cl-std=CL1.1" })(1, x)
    assert.equal(110, x:read()[1])
    device:kernel(text, { std = "CL1.1" })(1, x)
    assert.equal(110, x:read()[1])
  end)

  on_device("includes files: beside it, and in the folders that are named; what they have now", function()
    local dir = support.temp_dir()
    local function write(name, content)
      local file = assert(io.open(dir .. "/" .. name, "w"))
      file:write(content)
      file:close()
    end
    assert.equal(0, os.execute("mkdir " .. dir .. "/lib " .. dir .. "/more"))
    write("k.cl", '// #include "none.h"\n#include "a.h"\n#include <b.h>\n#if 0\n#include "none.h"\n#endif\n#include <b.h>\n' ..
      "__kernel void f(__global int *x) { x[0] = A + B; }\n")
    write("a.h", "#ifndef A\n#define A 1\n#include \"a.h\"\n#endif\n")
    write("more/b.h", "#pragma once\n/* #include <none.h> */\ntypedef int b_type;\n#define B (int)sizeof(b_type)")
    local x = device:buffer("int32", 1)
    device:kernel_file(dir .. "/k.cl", { include = { dir .. "/lib", dir .. "/more" } })(1, x)
    assert.equal(5, x:read()[1])
    write("lib/b.h", "#define B 20\n")
    device:kernel_file(dir .. "/k.cl", { name = "f", include = { dir .. "/lib", dir .. "/more" } })(1, x)
    assert.equal(21, x:read()[1])
    device:kernel('#include "b.h"\n__kernel void g(__global int *x) { x[0] = B; }', { include = dir .. "/lib" })(1, x)
    assert.equal(20, x:read()[1])
    write("lib/b.h", "#define B 30\n")
    device:kernel('#include "b.h"\n__kernel void g(__global int *x) { x[0] = B; }', { include = dir .. "/lib" })(1, x)
    assert.equal(30, x:read()[1])
    write("bad.cl", '#include "a.h"\n\n__kernel void f(__global int *x) { x[0] = unknown_name; }\n')
    complaint(function() return device:kernel_file(dir .. "/bad.cl"), nil end, "device:kernel_file: ", dir .. "/bad.cl:3:", "unknown_name")
    write("bad.h", "\nint bad() { return unknown_name; }\n")
    write("worse.cl", '\n#include "bad.h"\n__kernel void f(__global int *x) { x[0] = bad(); }\n')
    complaint(function() return device:kernel_file(dir .. "/worse.cl"), nil end, dir .. "/bad.h:2:", "unknown_name")
    write("missing.cl", '#include "none.h"\n__kernel void f(__global int *x) { x[0] = 1; }\n')
    complaint(function() return device:kernel_file(dir .. "/missing.cl"), nil end, dir .. "/missing.cl:1:", "none.h")
    write("self.cl", 'int a;\n#include "self.h"\n')
    write("self.h", '\n#include "self.h"\n')
    mistake(function() device:kernel_file(dir .. "/self.cl") end, dir .. "/self.h:2: " .. dir .. "/self.h includes itself")
    mistake(function() device:kernel_file(dir .. "/none.cl") end, "device:kernel_file: " .. dir .. "/none.cl: No such file or directory")
  end)

  on_device("has options that are checked, at the user's line", function()
    local text = "__kernel void f(__global int *x) { x[0] = unknown_name; }"
    mistake(function() device:kernel(text, { define = {} }) end, "device:kernel: unknown option 'define' (did you mean 'defines'?)")
    mistake(function() device:kernel(text, { defines = { ["1x"] = 1 } }) end, "option 'defines' has the string \"1x\", which is no name")
    mistake(function() device:kernel(text, { defines = { N = {} } }) end, "has N = a table; a name stands for a number, a line of text, or true")
    mistake(function() device:kernel(text, { include = "/none" }) end, 'option \'include\' has "/none", which is no folder that can be read')
    mistake(function() device:kernel(text, { std = "3" }) end, "option 'std' must be a version of OpenCL C")
    mistake(function() device:kernel(text, { std = "CL1.1", options = "-cl-std=CL1.2" }) end, 'is given twice, by std = "CL1.1" and in options')
    complaint(function() return device:kernel(text, { options = "-cl-no-such-option" }), nil end,
      "(options: -cl-std=CL1.2 -cl-kernel-arg-info -cl-no-such-option)")
    complaint(function() return device:kernel(text, { file = "mine.cl" }), nil end, "mine.cl:1:", "unknown_name")
    mistake(function() device:kernel_file(7) end, "device:kernel_file: expected the path of a file with OpenCL C, got 7")
  end)

  on_device("with options travels to workers as it was made", function()
    local k = device:kernel("__kernel void f(__global int *x) { x[0] = N; }", { defines = { N = 77 } })
    local f = tidepool.App "defined":func { gpu = true, executor = "threads" }(function()
      local x = k.device:buffer("int32", 1)
      k(1, x)
      return x:read()[1]
    end)
    assert.equal(77, f:remote(1))
  end)

  on_device("that does not compile shows the compiler's log with the user's lines", function()
    local line = debug.getinfo(1, "l").currentline
    local _, why = pcall(function()
      local k = device:kernel [[
        __kernel void f(__global float *x) {
          x[0] = unknown_name;
        }]]
      return k
    end)
    contains(why, "device:kernel: ", "compiling the program failed", ("gpu_hand_spec.lua:%d:"):format(line + 4), "unknown_name")
    assert.matches("^[^\n]*gpu_hand_spec.lua:%d+: device:kernel: ", why)
  end)

  on_device("that stands in a file twice has the lines of the call", function()
    local line, lines = debug.getinfo(1, "l").currentline, {}
    for i, make in ipairs {
      function() device:kernel("__kernel void twice(__global int *x) { x[0] = N; }", { defines = { M = 1 } }) end,
      function() device:kernel("__kernel void twice(__global int *x) { x[0] = N; }", { defines = { M = 2 } }) end,
    } do
      lines[i] = tonumber((select(2, pcall(make)):match "gpu_hand_spec.lua:(%d+):%d+: use of undeclared"))
    end
    assert.same({ line + 2, line + 3 }, lines)
  end)

  on_device("works in several passes, on buffers that change places", function()
    local step = device:kernel [[
      __kernel void step(__global const double *a, __global double *b, int n) {
        int i = get_global_id(0);
        b[i] = 0.25 * a[(i + n - 1) % n] + 0.5 * a[i] + 0.25 * a[(i + 1) % n];
      }]]
    local n = 100
    local a, b, plain = device:buffer("double", n), device:buffer("double", n), {}
    for i = 1, n do plain[i] = i == 50 and 1 or 0 end
    a:write(plain)
    for _ = 1, 200 do
      step(n, a, b, n)
      a, b = b, a
      local new = {}
      for i = 1, n do new[i] = 0.25 * plain[(i - 2) % n + 1] + 0.5 * plain[i] + 0.25 * plain[i % n + 1] end
      plain = new
    end
    local got = a:read()
    for i = 1, n do assert.is_true(math.abs(got[i] - plain[i]) < 1e-14) end
  end)
end)

describe("local memory", function()
  on_device("that a device does not have is a failure of kind device", function()
    local f = device:kernel "__kernel void f(__global float *x, __local float *t) { t[get_local_id(0)] = 1; x[0] = t[0]; }"
    local x = device:buffer("float", 1)
    local failure = failure_of(f, 1, x, { "float", 2 ^ 30 })
    assert.equal("device", failure.kind)
    contains(failure.message, "kernel 'f': " .. device.name .. ": 4 GiB of __local memory are over the device's ")
    f({ 4, local_size = 4 }, x, { "float", 4 })
    assert.equal(1, x:read()[1])
  end)
end)

describe("a function with gpu and an executor", function()
  local app = tidepool.App "hand"

  on_device("drives the device that is leased to it, on threads", function()
    local f = app:func { gpu = true, executor = "threads" } (function(x)
      local d = tidepool.gpu.device()
      local a, b = d:buffer("float", { x, x + 1 }), d:buffer("float", 2)
      d:kernel(add)(2, a, b, 0.5)
      local item = tidepool.current()
      return b:read()[2], item and item.executor
    end)
    local n = support.times(400)
    for i, y, executor in f:map(tidepool.range(n)) do
      assert.equal(i + 1.5, y)
      assert.equal("threads", executor)
    end
    assert.equal(4.5, (f(3)))
    assert.equal(4.5, (f:remote(3)))
    local inline = f:with { executor = "inline" }
    assert.equal(4.5, (inline:remote(3)))
    assert.equal("inline", select(2, inline:remote(3)))
  end)

  on_device("shares buffers and kernels that it captures", function()
    local d, table_ = device, device:buffer("float", { 10, 20, 30 })
    local pick = d:kernel "__kernel void pick(__global const float *t, int i, __global float *to) { to[0] = t[i]; }"
    local f = app:func { executor = "threads" } (function(i)
      local to = d:buffer("float", 1)
      pick(1, table_, i, to)
      return to:read()[1]
    end)
    for _ = 1, 20 do assert.same({ 10, 20, 30, n = 3 }, f:map({ 0, 1, 2 }):list()) end
  end)

  on_device("fails its input with kind device, and the line, and goes on with the others", function()
    local f = app:func { gpu = true, executor = "threads" } (function(x)
      local d = tidepool.gpu.device()
      return d:buffer("double", x).length
    end)
    local list = f:map({ 1, 2 ^ 47, 3 }, { return_exceptions = true }):list()
    assert.same({ 1, 3 }, { list[1], list[3] })
    assert.equal("device", list[2].kind)
    assert.equal(2, list[2].index)
    contains(list[2].message, "gpu_hand_spec.lua:", "a buffer of 1024 TiB is over the device's largest")
    contains(list[2].traceback, "gpu_hand_spec.lua:")
  end)

  on_device("stays one under other options, and is not translated", function()
    local f = app:func { gpu = true, executor = "threads" } (function() return tidepool.gpu.device().name, tidepool.current().executor end)
    assert.same({ device.name, "inline" }, { f:with({ executor = "inline" }):remote() })
    assert.same({ device.name, "threads" }, { f:with({ gpu = { "no such card", "any" } }):remote() })
    contains(select(2, pcall(function() local r = f:with({ gpu = "no such card" }):remote() return r end)), "no such device")
    mistake(function() f:opencl() end, "Function:opencl: f has an executor: it is not translated, but drives its device itself")
    contains(app:func({ executor = "threads" }, function(x) return 2 * x end):with({ gpu = true }):opencl(), "__kernel")
  end)

  it("gives nil where no device is there and threads will do", function()
    local f = app:func { gpu = { "no such card", "threads" }, executor = "threads" } (function() return tidepool.gpu.device() == nil end)
    assert.is_true(f:remote(1))
    assert.is_true(f(1))
  end)

  on_device("is an error of the call when no device is like that", function()
    local f = app:func { gpu = "no such card", executor = "threads" } (function() end)
    contains(select(2, pcall(function() local results = f:map { 1 } return results end)), "gpu_hand_spec.lua:",
      'f: gpu = "no such card": no such device; there')
  end)

  on_pocl("has a lease of one of several, each worker its own", function()
    local done = run("POCL_DEVICES='pthread pthread' $T --workers 2 job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local app = tidepool.App()
      local f = app:func { gpu = "cpu:2", executor = "threads" } (function()
        local d = tidepool.gpu.device()
        return d.number, tidepool.current().worker
      end)
      local seen, n = {}, 0
      repeat
        for _, number, worker in f:map(tidepool.range(100)) do
          assert(number == worker)
          if not seen[number] then seen[number], n = true, n + 1 end
        end
      until n == 2
      local second = app:func { gpu = "cpu", executor = "threads" } (function() return tidepool.gpu.device().number end)
      print(second:remote(), tidepool.gpu.device() == tidepool.gpu.device "cpu")
    ]] })
    assert.equal("", done.stderr)
    assert.equal("1\ttrue\n", done.stdout)
  end)
end)

describe("a forked child", function()
  on_device("is told that it may not use the device", function()
    local done = run("$T job.lua", { ["job.lua"] = [[
      local ffi = require "ffi"
      local tidepool = require "tidepool"
      ffi.cdef "int fork(void); int waitpid(int, int *, int); void _exit(int);"
      local d = tidepool.gpu.device()
      local x = d:buffer("float", 3)
      local f = d:kernel "__kernel void f(__global float *x) { x[get_global_id(0)] = 1; }"
      f(3, x)
      local pid = ffi.C.fork()
      if pid == 0 then
        for _, use in ipairs { function() f(3, x) end, function() x:read() end, function() d:wait() end, function() d:buffer("float", 1) end } do
          io.stdout:write(tostring(select(2, pcall(use))), "\n")
        end
        io.stdout:flush()
        ffi.C._exit(0)
      end
      ffi.C.waitpid(pid, nil, 0)
      print(x:read()[3])
    ]] })
    assert.equal(("Tidepool is not usable after fork, in the child\n"):rep(4) .. "1\n", done.stdout)
  end)
end)

-- ---- devices that are another one ----

local function faulty() return "TIDEPOOL_OPENCL=" .. devices.faults() .. " " end

-- What is done with a device, and what comes out: the same on all of them.
local everything = [[
  local tidepool = require "tidepool"
  local d = tidepool.gpu.device "cpu"
  local source = "\n__kernel void add(__global const double *a, __global double *b, double k, const unsigned int n) {\n" ..
    "  size_t i = get_global_id(0);\n  if (i < n) b[i] = a[i] + k;\n}"
  local a = tidepool.array("double", { 1, 2, 3 })
  local x, y = d:buffer(a), d:buffer("double", 3)
  local add = d:kernel(source)
  add(3, x, y, 10, 3)
  local first = y:read()
  assert(first[1] == 11 and first[3] == 13 and y:read() == first)
  x:write { 5 }
  add(3, x, y, 1, 2)
  y:read(first)
  assert(first[1] == 6 and first[2] == 3 and first[3] == 13)
  assert(x:read() == a and a[1] == 5)
  a[3] = 9
  x:write()
  add(3, x, x, 0.5, 3)
  assert(x:read()[3] == 9.5)
  local view = tidepool.array("double", { 1, 2, 3, 4 }):slice(2, 3)
  local part = d:buffer(view)
  add(2, part, part, 0.5, 2)
  assert(part:read() == view and view[1] == 2.5 and view[2] == 3.5)
  print(add)
  print(select(2, pcall(add, 3, a, y, 1, 3)))
  local f = tidepool.App():func { gpu = "cpu", executor = "threads" } (function(i)
    local to = d:buffer("double", 3)
    add(3, x, to, i, 3)
    return to:read()[1]
  end)
  local n = 0
  for i, value in f:map(tidepool.range(100)) do
    assert(value == i + 5.5)
    n = n + 1
  end
  print(n)
]]

describe("a device", function()
  for how, environment in pairs { ["with memory of its own"] = "FAULTS_COPIES=1 ", ["whose compiler keeps no names"] = "FAULTS_NAMELESS=1 " } do
    on_pocl(how .. " does the same", function()
      local done = run(faulty() .. environment .. "$T job.lua", { ["job.lua"] = everything })
      assert.equal("", done.stderr)
      assert.equal("tidepool.Kernel: add(__global double *a, __global double *b, double k, uint n)\n" ..
        "kernel 'add': argument 1 (__global double *a) takes a buffer, got a typed array; a buffer of it is device:buffer(array)\n100\n",
        (done.stdout:gsub("unsigned int", "uint"):gsub("job.lua:%d+: ", "")))
    end)
  end

  on_pocl("frees the memory of buffers that nobody holds, and tells of those that are held", function()
    for _, more in ipairs { "", "FAULTS_COPIES=1 " } do
      local done = run(faulty() .. more .. "FAULTS_MEMORY=10000000 $T job.lua", { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local d = tidepool.gpu.device "cpu"
        for _ = 1, 200 do d:buffer("float", 1e6) end
        local held = {}
        local function fill()
          for i = 1, 10 do held[i] = d:buffer("float", 1e6) end
        end
        local fine, failure = pcall(fill)
        print(#held, not fine and failure.kind, not fine and failure.message)
        print(pcall(d.buffer, d, "float", 3e6))
        held = {}
        fill = d:buffer("float", 2e6)
        print(fill.length)
      ]] })
      if more == "" then
        -- The memory is the host's: only what one buffer may have is the device's to say.
        contains(done.stdout, "10\tfalse", "a buffer of 11.4 MiB is over the device's largest, 9.5 MiB\n", "\n2000000\n")
      else
        contains(done.stdout, "2\tdevice\tjob.lua:6: device:buffer: ",
          ": no memory for a buffer of 3.8 MiB: CL_MEM_OBJECT_ALLOCATION_FAILURE (-4). ",
          "Of the device's 9.5 MiB this program has 7.6 MiB for buffers: ",
          "a buffer of 11.4 MiB is over the device's largest, 9.5 MiB\n",
          "\n2000000\n")
      end
    end
  end)

  on_pocl("that has no memory, or runs no kernel, is a failure of kind device", function()
    local done = run(faulty() .. "FAULTS_BUFFERS=2 FAULTS_FROM=1 $T job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local d = tidepool.gpu.device "cpu"
      local b = d:buffer("float", 1)
      local _, failure = pcall(d.buffer, d, "float", 1000)
      print(failure.kind, failure.message)
      _, failure = pcall(d:kernel "__kernel void f(__global float *x) { x[0] = 1; }", 1, b)
      print(failure.kind, failure.message)
    ]] })
    assert.equal("", done.stderr)
    contains(done.stdout, "device\t", "no memory for a buffer of 3.9 KiB: CL_MEM_OBJECT_ALLOCATION_FAILURE (-4). ", "\ndevice\t", "kernel 'f': ",
      "starting the kernel failed: CL_OUT_OF_RESOURCES (-5)\n")
  end)

  on_pocl("compiles a source once per process and once per machine", function()
    local cache, log = support.temp_dir(), support.temp_path()
    local function programs()
      local done = run(faulty() .. ("FAULTS_LOG=%s XDG_CACHE_HOME=%s $T job.lua"):format(log, cache), { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local source = "__kernel void f(__global int *x) { x[0] = 7; } __kernel void g(__global int *x) { x[0] = 8; }"
        local f = tidepool.App():func { gpu = "cpu", executor = "threads" } (function(name)
          local d = tidepool.gpu.device "cpu"
          local x = d:buffer("int32", 1)
          d:kernel(source, name)(1, x)
          return x:read()[1]
        end)
        for i, value in f:map { "f", "g", "f", "g" } do assert(value == 8 - i % 2) end
      ]] })
      assert.equal("", done.stderr)
      return support.notes(log)
    end
    assert.same({ "source" }, programs())
    assert.same({ "source", "binary" }, programs())
  end)
end)

describe("a kernel", function()
  on_device("may be what f:opencl() gives of a Lua function", function()
    local table_, n = tidepool.array("double", { 2, 3, 5, 7 }), 100
    local function plain(x, y) return math.sin(x) * table_[y % 4 + 1] end
    local f = tidepool.App("source"):func { gpu = true } (plain)
    local kernel = device:kernel(f:opencl())
    local xs, ys = tidepool.array("double", n), tidepool.array("double", n)
    for i = 1, n do xs[i], ys[i] = i / 7, i end
    local x, y, z = device:buffer(xs), device:buffer(ys), device:buffer("double", n)
    kernel(n, 0, n, x, y, z, device:buffer("uint8", n), device:buffer(table_), 4)
    local got, want = z:read(), f:map(xs, ys):array()
    for i = 1, n do
      assert.equal(want[i], got[i])
      assert.is_true(math.abs(plain(xs[i], ys[i]) - got[i]) < 1e-14)
    end
  end)
end)
