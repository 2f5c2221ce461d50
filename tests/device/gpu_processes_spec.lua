--- Devices in worker processes: a kernel that crashes its process, or never ends, costs the input
-- that ran it.

local assert = require "luassert"
local devices = require "tests.support_device"
local support = require "tests.support"
local tidepool = require "tidepool"

local collect, failure_of = support.collect, support.failure_of

local on_device, on_pocl = devices.on_device(it, pending), devices.on_pocl(it, pending)

local app = tidepool.App("devices", { executor = "processes" })

support.let_signals_kill()

describe("A function that drives a device in a process", function()
  on_device("is lent the device that its option names, and gives what it computes there", function()
    local f = app:func({ gpu = true, executor = "processes" }, function(n)
      local device = require "tidepool".gpu.device()
      local buffer = device:buffer("float", { n, n + 1 })
      device:kernel "__kernel void twice(__global float *x) { x[get_global_id(0)] *= 2; }" (2, buffer)
      return buffer:read()[2], device.name
    end)
    local best = tidepool.gpu.device().name
    for i, x, name in f:map { 1, 2, 3, 4 } do assert.same({ 2 * (i + 1), best }, { x, name }) end
  end)

  on_device("may map functions that are translated, which run on the device there", function()
    local k = 3
    local root = tidepool.App("on a device"):func({ gpu = true, returns = "double" }, function(x) return math.sqrt(x) * k end)
    local f = app:func(function(a) return root:map(a):array():sum(), root:remote(9) end)
    local a = tidepool.array("double", 1000, 4)
    assert.same({ 6000, 9 }, { f:remote(a) })
  end)

  local function run(body)
    local device = require "tidepool".gpu.device()
    local buffer = device:buffer("int32", 1):fill(1)
    device:kernel(("__kernel void run(__global volatile int *x) { %s }"):format(body)) (1, buffer)
    return buffer:read()[1]
  end

  on_pocl("fails with the kind timeout when the kernel never ends, and the next input has its device", function()
    local f = app:func({ gpu = "cpu", executor = "processes" }, run)
    assert.equal(7, f:remote "x[0] = 7;")
    local failure = failure_of(function() return f:with({ timeout = 2 }):remote "while (x[0] != 0) ;" end)
    assert.same({ "timeout", 1 }, { failure.kind, failure.attempts })
    assert.equal(8, f:remote "x[0] = 8;")
    local endless = tidepool.App("endless"):func({ gpu = "cpu" }, function(x)
      while x > 0 do x = x + 1 end
      return x
    end)
    local g = app:func({ timeout = 2 }, function(x) return endless:map({ x }):list()[1] end)
    assert.equal("timeout", failure_of(function() return g:remote(1) end).kind)
  end)

  on_pocl("fails with the kind crash when the kernel crashes, which costs no other input", function()
    local f = app:func({ gpu = "cpu", executor = "processes", crash_retries = 0 }, run)
    local bodies = {}
    for i = 1, 6 do bodies[i] = ("x[0] = %d;"):format(i) end
    bodies[4] = "*(__global volatile int *)(x[0] - 1L) = 1;"
    local got, n, err = collect(f:map(bodies, { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(6, n)
    for i = 1, 6 do
      if i ~= 4 then assert.equal(i, got[i]) end
    end
    assert.same({ "crash", 1 }, { got[4].kind, got[4].attempts })
    assert.matches("SIGSEGV", got[4].message)
  end)
end)
