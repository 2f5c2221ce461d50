--- Data that stays on a device: not stock luajit. Captured arrays, arrays that kernels write to,
--- typed arrays as inputs.
--
-- Each in a process of its own, with an OpenCL whose devices (PoCL's) seem to have memory of their
-- own, and which counts what is copied there and back: tests/opencl/faults.c.

local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local is_pocl = false
for _, d in ipairs(tidepool.devices()) do is_pocl = is_pocl or d.platform == "Portable Computing Language" end

local faults -- the library that counts
local function library()
  if not faults then
    faults = support.temp_dir() .. "/libfaults.so"
    assert(os.execute(("cc -shared -fPIC -D_GNU_SOURCE -o %s tests/opencl/faults.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl"):format(faults)) == 0)
  end
  return faults
end

-- What each script begins with. moved(): how many elements of doubles went to devices, from them
-- and between their buffers since the last call.
local PRELUDE = [[
local ffi, tidepool = require "ffi", require "tidepool"
ffi.cdef "double faults_moved(int way); double faults_moves(int way); void faults_fail(int n); void faults_fail_reads(int n);"
local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
local before = { 0, 0, 0 }
local function moved()
  local now, difference = {}, {}
  for i = 1, 3 do
    now[i] = faults.faults_moved(i - 1) / 8
    difference[i] = now[i] - before[i]
  end
  before = now
  return ("%g %g %g"):format(unpack(difference))
end
local app = tidepool.App("resident", { gpu = "cpu" })
local function numbers(n, of)
  local a = tidepool.array("double", n)
  for i = 1, n do a[i] = of and of(i) or i end
  return a
end
]]

--- Runs a script; `output` is what it is to print.
local function on_card(says, output, script, environment)
  if not is_pocl then return pending(says .. " (no OpenCL device of PoCL)") end
  it(says, function()
    local command = ("FAULTS_COPIES=1 %s TIDEPOOL_OPENCL=%s $T job.lua"):format(environment or "", library())
    local done = shell.run(command, { ["job.lua"] = PRELUDE .. script })
    assert.same({ stderr = "", stdout = output }, { stderr = done.stderr, stdout = done.stdout })
  end)
end

describe("A captured array, on a device with memory of its own", function()
  on_card("is copied there once, for all maps and workers", "1\n0\n0\n", [[
    local table_ = numbers(1000000)
    local f = app:func(function(x) return table_[x] + 1 end)
    local g = app:func(function(x) return table_[x] + 2 end)
    local function count(h, by)
      local before = faults.faults_moved(0)
      local sum = h:map(tidepool.range(3000)):sum() - 3000 * 3001 / 2 - 3000 * by
      assert(sum == 0)
      return math.floor((faults.faults_moved(0) - before) / 8 / 1000000)
    end
    print(count(f, 1))
    print(count(f, 1))
    print(count(g, 2))
  ]])

  on_card("is copied again when an element was changed, by whatever means", "", [[
    local a = tidepool.array("double", 3)
    local f = app:func { name = "f" } (function(x) return a[1] + 0 * x end)
    local pointer
    local changes = {
      function(v) a[1] = v end,
      function(v) a:fill(v) end,
      function(v) a:slice(1, 2)[1] = v end,
      function(v) a:add(1, v - a[1]) end,
      function(v) a:max(1, v) end,
      function(v) a:compare_and_swap(1, a[1], v) end,
      function(v) a:fill(0); a[3] = v; a:sort(function(x, y) return x > y end) end,
      function(v) a:fill(v + 2); a[3] = v; a:sort() end,
      function(v) tidepool.App():func(function() a[1] = v end):for_each { 1 } end,
      function(v) a:reshape(1, 3):set(1, 1, v) end,
      function(v) a[{ 1, 1 }] = v end,
      function(v) local device = tidepool.gpu.device(); device:buffer(tidepool.array("double", { v, v, v })):read(a) end,
      function(v) tidepool.App():func { executor = "processes" } (function() a[1] = v end):for_each { 1 } end,
      function(v) a = tidepool.array("double", 3):reshape(1, 3); f:map({ 0 }):list(); pointer = a.data; pointer[0] = v end,
      function(v) pointer[0] = v end,
    }
    for i, change in ipairs(changes) do
      if i == 10 then a = a:reshape(1, 3) end
      change(i * 10)
      local got = f:map({ 0 }):list()[1]
      assert(got == i * 10, ("change %d: %g"):format(i, got))
    end
  ]])

  on_card("goes there anew for each map once its pointer was handed out", "3 maps: 3\n", [[
    local a = numbers(100000)
    local _ = a.data
    local f = app:func(function(x) return a[x] end)
    moved()
    local before = faults.faults_moved(0)
    for _ = 1, 3 do f:map({ 1, 2 }):list() end
    print(("3 maps: %d"):format((faults.faults_moved(0) - before) / 8 / 100000))
  ]])

  on_card("gives its memory back with the array, and to others where that is short", "true\n", [[
    local function one(n)
      local a = numbers(n)
      local f = app:func { name = "f" } (function(x) return a[x] end)
      local list = f:map({ 1, n }):list()
      assert(list[1] == 1 and list[2] == n)
    end
    local kept = {}
    for i = 1, 8 do -- of 1 MiB, on a device that has 4
      one(131072)
      local a = numbers(131072)
      kept[i] = app:func { name = "g" } (function(x) return a[x] end)
      assert(kept[i]:map({ 3 }):list()[1] == 3)
    end
    for i = 1, 8 do assert(kept[i]:map({ i }):list()[1] == i) end
    one(600000) -- more than the device gives at once to copies
    print(true)
  ]], "FAULTS_MEMORY=4194304")
end)

describe("An array that a kernel writes to, on a device with memory of its own", function()
  on_card("stays there during the map, and comes back once", "true\t1\t1\ntrue\t0\t1\n", [[
    local n = 200000
    local out = tidepool.array("double", n)
    local f = app:func(function(x) out[x] = 2 * x + out[x] end)
    for round = 1, 2 do
      local reads, moves = faults.faults_moved(1), faults.faults_moved(0)
      assert(f:for_each(tidepool.range(n)).ok == n)
      local home, there = faults.faults_moved(1) - reads, faults.faults_moved(0) - moves
      local fine = true
      for i = 1, n do fine = fine and out[i] == round * 2 * i end
      -- beside it a byte for each item comes back, and the inputs go there: 8 bytes each
      print(fine, math.floor((there - 8 * n) / (8 * n)), math.floor(home / (8 * n)))
    end
  ]])

  on_card("is there when the map is done, however that is found out", "", [[
    local n = 50000
    local out = tidepool.array("int32", n)
    local k = 0
    local f = app:func(function(x) out[x] = k end)
    local function check(what)
      for i = 1, n do assert(out[i] == k, ("%s: element %d is %d, not %d"):format(what, i, out[i], k)) end
    end
    local function iterator(m)
      local i = 0
      return function() i = i + 1; return i <= m and i or nil end
    end
    for round = 1, 3 do
      k = k + 1; f:for_each(tidepool.range(n)); check "for_each"
      k = k + 1; f:for_each(iterator(n)); check "for_each of an iterator"
      k = k + 1; for _ in f:map(tidepool.range(n)) do end check "a loop"
      k = k + 1; for _ in f:map(iterator(n), { window = 700 }) do end check "a loop over an iterator"
      k = k + 1
      local r = f:map(tidepool.range(n))
      while not r:done() do tidepool.sleep(0.001) end
      check "done"
      r:cancel()
      k = k + 1
      for i = 1, 20 do f:remote(i) assert(out[i] == k) end
    end
  ]])

  on_card("has what other items wrote before a failure, or before the map was cancelled", "", [[
    local n = 100000
    local out = tidepool.array("double", n)
    local f = app:func(function(x)
      out[x] = x
      if x == 70000 then error("this one") end
      return x
    end)
    local list = f:map(tidepool.range(n), { return_exceptions = true }):list()
    assert(tidepool.is_failure(list[70000]) and list[n] == n)
    for i = 1, n do assert(out[i] == i) end
    out:fill(0)
    local fine, why = pcall(function() return f:map(tidepool.range(n)):list() end)
    assert(not fine and why.index == 70000, tostring(why))
    for i = 1, 69999 do assert(out[i] == i, i) end
    out:fill(0)
    local r = f:map(tidepool.range(n))
    for i in r do
      assert(i <= 5)
      if i == 5 then break end
    end
    r:cancel()
    pcall(function() for _ in r do end end)
    for i = 1, 5 do assert(out[i] == i, i) end
  ]])

  on_card("loses no count on two devices that share the map", "100000\n", [[
    local n = 100000
    local counts = tidepool.array("int32", 10)
    local f = app:func { gpu = "cpu:2" } (function(x) counts[x % 10 + 1] = counts[x % 10 + 1] + 1 end)
    f:for_each(tidepool.range(n))
    print(counts:sum())
  ]], "POCL_DEVICES='pthread pthread'")

  on_card("is whole when the device fails in the middle, and threads go on", "true\n", [[
    local n = 300000
    local out = tidepool.array("double", n)
    local f = app:func { gpu = { "cpu", "threads" } } (function(x) out[x] = 3 * x return x end)
    local results = f:map(tidepool.range(n), { window = 40000 })
    for i, v in results do
      if i == 1 then faults.faults_fail(100) end
      assert(v == i)
    end
    for i = 1, n do assert(out[i] == 3 * i, i) end
    print(true)
  ]])

  on_card("that cannot be brought home is a failure of the device", "device\ttrue\n", [[
    local out = tidepool.array("double", 1000)
    local f = app:func(function(x) out[x] = x end)
    f:for_each { 1 }
    local before = faults.faults_moves(1)
    faults.faults_fail_reads(1000)
    local fine, why = pcall(function() f:for_each(tidepool.range(1000)) end)
    print(why.kind, why.message:find("copying from the device failed", 1, true) ~= nil)
    faults.faults_fail_reads(0)
    f:for_each(tidepool.range(1000))
    for i = 1, 1000 do assert(out[i] == i) end
  ]])

  on_card("is seen by the next map, on whatever it runs", "", [[
    local n = 20000
    local a, b = numbers(n), tidepool.array("double", n)
    local write = app:func(function(x) b[x] = a[x] + 1 end)
    local read = app:func(function(x) return b[x] end)
    local plain = tidepool.App():func(function(x) return b[x] end)
    for round = 1, 3 do
      write:for_each(tidepool.range(n))
      for _, f in ipairs { read, plain } do
        local list = f:map(tidepool.range(n)):list()
        for i = 1, n do assert(list[i] == i + round) end
      end
      for i = 1, n do a[i] = a[i] + 1 end
    end
  ]])
end)
