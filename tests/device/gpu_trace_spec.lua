--- What a trace has of devices: kernels and copies by the device's clock, aligned with the host's,
-- and the wait for compilers.

local assert = require "luassert"
local cjson = require "cjson"
local devices = require "tests.support_device"
local reader = require "tests.trace_reader"
local shell = require "tests.cli.shell"
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

describe("What somebody has waited for a compiler", function()
  local is_there = devices.has_pocl and not os.getenv "TIDEPOOL_SANITIZER"

  devices.specs(it, pending, is_there, "no OpenCL device of PoCL")("is in the trace and the report, and what of it the next run reads", function()
    local caches = support.temp_dir()
    local function run()
      local words = ("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl $T --trace t.json --report r.html job.lua"):format(caches, caches)
      local done = shell.run(words, { ["job.lua"] = [[
        local app = require "tidepool".App("compiled", { gpu = true })
        local polish = app:func { name = "polish" } (function(x) return math.sin(x) * math.exp(-x) + x ^ 1.5 end)
        print(#polish:map({ 1, 2, 3 }):list(), #polish:map({ 1, 2, 3 }):list())
      ]] })
      assert.same({ "3\t3\n", "" }, { done.stdout, done.stderr })
      local data = support.read_file(done.dir .. "/r.html"):match '<script type="application/json" id="data">\n(.-)</script>'
      local found
      for _, each in ipairs(cjson.decode(data).findings) do found = each.kind == "compiling" and each or found end
      local t = reader.read(done.dir .. "/t.json")
      local ways = {}
      for _, e in ipairs(t:all { cat = "build", name = "compile polish" }) do
        assert.is_true(#e.args.device > 0 and e.dur > 0)
        ways[#ways + 1] = e.args.how
      end
      return ways, found
    end
    local ways, found = run()
    assert.same({ "compiled, and kept", "compiled for the first launch" }, { ways[1], ways[2] })
    support.contains(found.text, "were spent compiling programs for devices: 1 compiled, 0 read", "'polish'")
    support.contains(found.advice, "the next run of the same code reads them")
    ways = run()
    assert.equal("read from what is kept", ways[1])
  end)

  local on_pocl = devices.specs(it, pending, is_there, "no OpenCL device of PoCL")
  on_pocl("is there, too, when it was in a worker process, and so is what devices did there", function()
    local caches = support.temp_dir()
    local words = ("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl $T --trace t.json --report r.html job.lua"):format(caches, caches)
    local done = shell.run(words, { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "compiled"
      local polish = app:func { gpu = true, name = "polish" } (function(x) return math.sin(x) * math.exp(-x) + x ^ 1.5 end)
      local outer = app:func { executor = "processes", name = "outer" } (function(n) return #polish:map(tidepool.range(n)):list() end)
      local by_hand = app:func { executor = "processes", gpu = true, name = "by_hand" } (function(x)
        local device = require "tidepool".gpu.device()
        local b = device:buffer("int32", { x })
        device:kernel "__kernel void twice(__global int *x) { x[0] *= 2; }" (1, b)
        return b:read()[1]
      end)
      print(outer:map({ 3 }):list()[1], by_hand:map({ 4 }):list()[1])
    ]] })
    assert.same({ "3\t8\n", "" }, { done.stdout, done.stderr })
    local data = support.read_file(done.dir .. "/r.html"):match '<script type="application/json" id="data">\n(.-)</script>'
    local found
    for _, each in ipairs(cjson.decode(data).findings) do found = each.kind == "compiling" and each or found end
    assert.is_table(found)
    support.contains(found.text, "were spent compiling programs for devices: 2 compiled, 0 read")
    local t = reader.read(done.dir .. "/t.json")
    for _, name in ipairs { "compile polish", "compile kernel" } do
      local e = t:all({ cat = "build", name = name })[1]
      assert.is_table(e, name)
      assert.is_true(#e.args.device > 0 and e.dur > 0 and e.args.how == "compiled, and kept")
      support.contains(t:one { name = "process_name", pid = e.pid }.args.name, "worker process")
    end
    local kernel = t:all({ cat = "device", name = "polish" })[1]
    assert.same({ 3, true }, { kernel.args.items, kernel.dur > 0 })
  end)
end)
