--- Copies to a device with memory of its own and back: not stock luajit. They go by way of pinned
--- memory, in pieces.
--
-- Each in a process of its own, with an OpenCL whose devices (PoCL's) seem to have memory of their
-- own, and which sees what is copied from where: tests/opencl/faults.c.

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"

local on_pocl = devices.on_pocl(it, pending)

-- What each script begins with.
local PRELUDE = [[
local ffi, tidepool = require "ffi", require "tidepool"
ffi.cdef "double faults_moved(int way), faults_moves(int way), faults_staged(int way), faults_direct(int way), faults_ahead(int way);"
ffi.cdef "double faults_pinned(void), faults_held(void); void faults_fail_move(int way, int n);"
local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
local app = tidepool.App("pinned", { gpu = "cpu" })
local function numbers(n)
  local a = tidepool.array("double", n)
  for i = 1, n do a[i] = i end
  return a
end
local HALVES, LEAST = 2 * 4 * 2 ^ 20, 2 ^ 16 -- of one thread, at most; the least for pinned memory
--- Is what went that way in larger copies pinned?
local function is_staged(way)
  return faults.faults_staged(way) > 0 and faults.faults_direct(way) < LEAST
end
]]

local on_card = devices.on_card(it, pending, PRELUDE)

describe("A device with memory of its own", function()
  on_card("is sent columns by way of pinned memory, and sends results so", "true\ttrue\ntrue\n", [[
    local f = app:func(function(x) return 2 * x + 1 end)
    local n, at = 2000003, 0
    for i, y in f:map(tidepool.range(n)) do
      at = at + 1
      assert(i == at and y == 2 * i + 1)
    end
    assert(at == n)
    print(is_staged(0), is_staged(1))
    -- two threads, and one for whoever brings arrays home
    print(faults.faults_pinned() > 0 and faults.faults_pinned() <= 3 * HALVES)
  ]])

  on_card("is sent arrays so, of any size, and sends them back", "true\ttrue\n", [[
    local f = app:func(function(x) return 2 * x + 1 end)
    for _, n in ipairs { 1, 1000, 8191, 8192, 8193, 32768, 32769, 65537, 131072, 1000003, 2097153 } do
      local a = numbers(n)
      local got = f:map(a):array()
      for i = 1, n do assert(got[i] == 2 * i + 1, i) end
      local device = tidepool.gpu.device "cpu"
      local b = device:buffer("double", n)
      b:write(a)
      local c = b:read(tidepool.array("double", n))
      for i = 1, n do assert(c[i] == i) end
    end
    print(is_staged(0), is_staged(1))
  ]])

  on_card("moves one piece while the host copies the next one, however long it takes", "true\ttrue\n", [[
    local a = numbers(1000003)
    local g = app:func(function(x) return a[x] + 1 end) -- a captured array, of 8 MB
    assert(g:map({ 1, 1000003 }):list()[2] == 1000004)
    local device = tidepool.gpu.device "cpu"
    local b = device:buffer(a)
    local c = b:read(tidepool.array("double", #a))
    for i = 1, #a do assert(c[i] == i, i) end
    print(faults.faults_ahead(0) > 0, faults.faults_ahead(1) > 0)
  ]], "FAULTS_LAZY=20000000")

  for how, environment in pairs { ["without any pinned memory"] = "FAULTS_PINNED=1", ["that has little of it"] = "FAULTS_PINNED=2",
    ["that cannot map it"] = "FAULTS_PINNED=-1", ["whose memory is full"] = "FAULTS_ROOM=20000000" } do
    on_card(("works and says nothing %s"):format(how), "true\n", [[
      local a = numbers(500003)
      local f = app:func(function(x) return a[x] + x end)
      local got = f:map(numbers(500003)):array()
      for i = 1, 500003 do assert(got[i] == 2 * i) end
      print(true)
    ]], environment)
  end

  on_card("that fails in the middle of a copy is tried again, or fails the item: nothing wrong comes", "true\n", [[
    for way = 0, 1 do
      for n = 1, 7 do
        local a = numbers(400000 + n)
        local f = app:func(function(x) return a[x] + n end)
        faults.faults_fail_move(way, n)
        local at = 0
        for i, y in f:map(tidepool.range(400000), { return_exceptions = true }) do
          at = at + 1
          assert(y == i + n or tidepool.is_failure(y) and y.message:find "CL_OUT_OF_RESOURCES", tostring(y))
        end
        assert(at == 400000)
        assert(f:map({ 3 }):list()[1] == 3 + n) -- works afterwards
      end
    end
    print(true)
  ]])

  on_card("has pinned memory for buffers by hand again after it was short of it", "true\n", [[
    local a, device = numbers(100000), tidepool.gpu.device "cpu"
    local b = device:buffer("double", #a)
    b:write(a)
    local before = faults.faults_staged(0)
    assert(before > 0)
    assert(not pcall(device.buffer, device, "double", 1000000)) -- there is no room, and all that can be had is given back
    for _ = 1, 600 do
      b:write(a)
      if faults.faults_staged(0) > before then break end
      tidepool.sleep(0.05)
    end
    print(faults.faults_staged(0) > before)
  ]], "FAULTS_ROOM=3000000")

  on_card("gets its pinned memory back when nothing needs it", "true\ntrue\n", [[
    local f = app:func(function(x) return x + 1 end)
    f:map(tidepool.range(2000000)):sum()
    f:map(tidepool.range(2000000)):list()
    print(faults.faults_pinned() > 0)
    for _ = 1, 600 do
      if faults.faults_pinned() == 0 then break end
      tidepool.sleep(0.1)
    end
    print(faults.faults_pinned() == 0)
  ]])
end)

-- PoCL ends the process otherwise: gpu/opencl/widths.h.
describe("A launch that is wider than all of its program before", function()
  on_card("runs alone, and those behind it beside each other", "0\n", [[
    ffi.cdef "int faults_crowded(void);"
    local f = app:func(function(n)
      local s = 0
      for i = 1, n do s = s * 0.5 + i end
      return s
    end)
    local function map(count, n)
      local inputs = {}
      for i = 1, count do inputs[i] = n end
      return f:map(inputs)
    end
    for round = 1, 5 do
      local narrow = map(100, 1000000)
      local wide = map(300 * 2 ^ round, 10)
      assert(#wide:list() == 300 * 2 ^ round and #narrow:list() == 100)
    end
    print(faults.faults_crowded())
  ]])
end)

describe("A device that shares the host's memory", function()
  on_pocl("has no pinned memory", function()
    local done = shell.run(("TIDEPOOL_OPENCL=%s $T job.lua"):format(devices.faults()), { ["job.lua"] = PRELUDE .. [[
      local a = numbers(500000)
      local f = app:func(function(x) return a[x] + x end)
      f:map(a):array()
      local b = tidepool.gpu.device("cpu"):buffer("double", 500000)
      b:write(a)
      b:read(a)
      print(faults.faults_pinned(), faults.faults_staged(0), faults.faults_staged(1))
    ]] })
    assert.same({ stderr = "", stdout = "0\t0\t0\n" }, { stderr = done.stderr, stdout = done.stdout })
  end)
end)
