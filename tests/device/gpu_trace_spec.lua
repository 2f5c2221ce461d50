--- What a trace has of devices: kernels and copies by the device's clock, aligned with the host's.

local assert = require "luassert"
local devices = require "tests.support_device"
local reader = require "tests.trace_reader"
local support = require "tests.support"
local tidepool = require "tidepool"

describe("A trace of a map on a device", function()
  devices.on_device(it, pending)("has its launches, and what the device did in each of them", function()
    local path = support.temp_path()
    local f = tidepool.App("traced"):func { gpu = true, name = "twice" } (function(x) return x * 2 end)
    f:map(tidepool.range(1000)):sum() -- before: the queue is made anew, since it is to measure
    local trace = tidepool.trace(path)
    assert.equal(100000 * 100001, f:map(tidepool.range(100000)):sum())
    assert.is_true(trace:stop())
    f:map(tidepool.range(1000)):sum()
    local t = reader.read(path)
    local kernels, launched, run = t:all { cat = "device", name = "twice" }, t:items "twice", 0
    assert.is_true(#kernels > 0)
    for _, e in ipairs(kernels) do
      run = run + e.args.items
      local name = t:one { name = "thread_name", pid = e.pid, tid = e.tid }.args.name
      support.contains(name, "by the device's clock")
      -- it ran while somebody waited for it; clocks may differ by as much as queuing takes
      local is_in = false
      for _, launch in ipairs(t:all { cat = "items" }) do
        is_in = is_in or e.ts > launch.ts - 50000 and e.ts + e.dur < launch.ts + launch.dur + 50000
      end
      assert.is_true(is_in)
    end
    assert.equal(launched, run)
    assert.is_true(run >= 100000)
  end)
end)
