--- Several queues of a device that is driven by hand: device:queue().

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, mistake, run = support.contains, support.mistake, shell.run
local on_device, on_pocl = devices.on_device(it, pending), devices.on_pocl(it, pending)
local device = #devices.list > 0 and tidepool.gpu.device()

local ADD = "__kernel void add(__global const double *a, __global double *b, double k) { b[get_global_id(0)] = a[get_global_id(0)] + k; }"

describe("a queue", function()
  on_device("is the device, where what is started may run beside the rest", function()
    local other = device:queue()
    assert.equal(("tidepool.Device: %s, queue %d"):format(device.name, other.queue_number), tostring(other))
    assert.is_true(other == device)
    assert.equal(device.memory, other.memory)
    local a, b = other:buffer("double", { 1, 2, 3 }), device:buffer("double", 3)
    local add = other:kernel(ADD)
    add(3, a, b, 10)
    other:wait()
    assert.same({ 11, 12, 13, n = 3 }, b:read():list())
    add:on(device)(3, b, b, 0.5)
    assert.same({ 11.5, 12.5, 13.5, n = 3 }, b:read():list())
    add(3, b, a, 1)
    device:wait() -- for all queues
    assert.equal(12.5, a:on(device):read()[1])
    assert.is_true(add:time() > 0)
    assert.equal(3, b:on(other):fill(3):copy():read()[2])
    assert.equal(17.5, (b:on(other):write({ 17.5 }):read()[1]))
    assert.equal(23.5, b:on(other):sum())
  end)

  on_device("begins after another one where that is said", function()
    local other, n = device:queue(), 20000
    local slow = device:kernel [[
      __kernel void slow(__global double *x, int n) {
        double y = 0;
        for (int i = 0; i < n; i++) y = sin(y + i);
        x[get_global_id(0)] = y * 0 + 5;
      }]]
    local add, a, b = other:kernel(ADD), device:buffer("double", n), device:buffer("double", n)
    for _ = 1, 5 do
      a:fill(0)
      slow(n, a, 50)
      other:after(device)
      add(n, a, b, 1)
      device:after(other)
      assert.same({ 6, 6 }, { b:read()[1], b:read()[n] })
    end
    assert.is_true(rawequal(other, other:after(other)))
  end)

  on_pocl("does not wait for a kernel's end, not for that of its first launch", function()
    local done = run(("TIDEPOOL_OPENCL=%s XDG_CACHE_HOME=%s $T job.lua"):format(devices.faults(), support.temp_dir()), {
      ["job.lua"] = [[
        local tidepool = require "tidepool"
        local ffi = require "ffi"
        ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void); void faults_go_on(void);"
        local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
        local d = tidepool.gpu.device "cpu"
        local other = d:queue()
        local b, c = d:buffer("float", 2), other:buffer("float", 2)
        local one = other:kernel "__kernel void one(__global float *b) { b[0] = 1; }"
        faults.faults_stall(0, 0)
        one(1, c) -- its first launch waits for ever, which nobody sees
        d:kernel "__kernel void two(__global float *b) { b[0] = 2; }"(1, b)
        print(b:read()[1])
        faults.faults_go_on()
        print(c:on(other):read()[1])
      ]] })
    assert.same({ stderr = "", stdout = "2\n1\n" }, { stderr = done.stderr, stdout = done.stdout })
  end)

  on_device("is one of few at a time, and is another one's when nobody holds it", function()
    local one = device:queue()
    for _ = 1, 100 do
      local queue = device:queue()
      assert.is_true(queue.queue_number ~= one.queue_number)
    end
    local held = {}
    mistake(function()
      for i = 1, 100 do held[i] = device:queue() end
    end, "device:queue: " .. device.name .. " has 32 queues by now: use those, or let go of some")
    assert.is_true(#held >= 30)
  end)

  on_device("travels to workers, where it is one of their own", function()
    local other = device:queue()
    local add, a = other:kernel(ADD), other:buffer("double", { 1, 2 })
    local f = tidepool.App("queues"):func { executor = "threads" } (function(k)
      local b = other:buffer("double", 2)
      add(2, a, b, k)
      return b:read()[2]
    end)
    for _ = 1, 5 do assert.same({ 12, 22, n = 2 }, f:map({ 10, 20 }):list()) end
  end)

  on_device("that is not right is one clear error at the user's line", function()
    local add, b = device:kernel(ADD), device:buffer("double", 1)
    mistake(function() device:queue(2) end, "device:queue takes no arguments, but has got more: 2")
    mistake(function() add:on() end, "kernel:on: expected a device or a queue of it, got nil")
    mistake(function() b:on(7) end, "buffer:on: expected a device or a queue of it, got 7")
    mistake(function() device:after(b) end, "device:after: expected a device or a queue of it, got ")
  end)

  on_pocl("of another device is refused; a device that has lost everything has new ones", function()
    local done = run(("POCL_DEVICES='pthread pthread' FAULTS_COPIES=1 TIDEPOOL_OPENCL=%s $T job.lua"):format(devices.faults()), { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      ffi.cdef "void faults_kill_all(void);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      local rows = tidepool.devices()
      local d, two = tidepool.gpu.device "cpu", nil
      local app = tidepool.App()
      local f = app:func { gpu = "cpu:2", executor = "threads" } (function()
        tidepool.sleep(0.01)
        return tidepool.gpu.device()
      end)
      for _, each in f:map(tidepool.range(200)) do
        if each.number ~= d.number then two = each end
      end
      local other = d:queue()
      local b = other:buffer("double", { 1, 2, 3 })
      if two then print(select(2, pcall(b.on, b, two)):match "expected a queue of .*, got one of" ~= nil) end
      local add = other:kernel "__kernel void add(__global double *b) { b[get_global_id(0)] += 1; }"
      add(3, b)
      print(b:read():sum())
      faults.faults_kill_all()
      pcall(b.read, b)
      b = other:buffer("double", { 1, 2, 3 })
      add(3, b)
      print(b:read():sum())
      d:wait()
    ]] })
    assert.same({ stderr = "", stdout = "true\n9\n9\n" }, { stderr = done.stderr, stdout = done.stdout })
  end)
end)

describe("local memory", function()
  on_device("is so many bytes, for structs and vectors too, or so many elements", function()
    local k = device:kernel [[
      typedef struct { int a; float b; } pair;
      __kernel void k(__global float *o, __local pair *p, __local float4 *v, __local uint *u, float4 w) {
        int i = get_local_id(0);
        p[i].b = i + 1; v[i] = (float4)(i + 10); u[i] = i + 20;
        barrier(CLK_LOCAL_MEM_FENCE);
        if (i == 0) { o[0] = p[2].b; o[1] = v[2].w; o[2] = u[2]; o[3] = w.z; }
      }]]
    local o, w = device:buffer("float", 4), { 1, 2, 3, 4 }
    local four = require("ffi").new("float[4]", 5, 6, 7, 8)
    local function gives(expected, ...)
      k({ 3, local_size = 3 }, o:fill(0), ...)
      assert.same(expected, o:read():list())
    end
    gives({ 3, 12, 22, 3, n = 4 }, 24, 48, 12, w)
    gives({ 3, 12, 22, 7, n = 4 }, 24, { "float4", 3 }, { "unsigned int", 3 }, four)
    gives({ 3, 12, 22, 7, n = 4 }, 24, { "float", 3 }, { "uint32", 3 }, four)
    local function refuses(text, ...)
      local arguments = { ... }
      mistake(function() k({ 3, local_size = 3 }, o, unpack(arguments)) end, text)
    end
    refuses("argument 2 (__local pair *p) takes room for each group: so many bytes, got a table", { "pair", 3 }, 48, 12, w)
    refuses("so many bytes, got 2.5", 2.5, 48, 12, w)
    refuses('(__local float4 *v) takes room for each group, as in { "float4", 64 }, or so many bytes, got 0', 24, 0, 12, w)
    refuses('as in { "float4", 64 }, or so many bytes, got a table', 24, { "int4", 3 }, 12, w)
    refuses('as in { "uint32", 64 }, or so many bytes, got the string', 24, 48, "12", w)
    refuses("(float4 w) takes a list of 4 numbers, got a cdata", 24, 48, 12, require("ffi").new("float[3]"))
    contains(tostring(select(2, pcall(k, 3, o, 2 ^ 31, 48, 12, w))), "2 GiB of __local memory are over the device's ")
  end)
end)
