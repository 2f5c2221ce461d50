--- Data that stays on a device: not stock luajit. Captured arrays, arrays that kernels write to,
--- typed arrays as inputs.
--
-- Each in a process of its own, with an OpenCL whose devices (PoCL's) seem to have memory of their
-- own, and which counts what is copied there and back: tests/opencl/faults.c.

local devices = require "tests.support_device"
local tidepool = require "tidepool"

local on_pocl = devices.on_pocl(it, pending)

-- What each script begins with. moved(): how many elements of doubles went to devices, from them
-- and between their buffers since the last call.
local PRELUDE = [[
local ffi, tidepool = require "ffi", require "tidepool"
ffi.cdef "double faults_moved(int way); double faults_moves(int way); void faults_fail(int n); void faults_fail_reads(int n);"
ffi.cdef "double faults_held(void); int faults_waits(void);"
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

local on_card = devices.on_card(it, pending, PRELUDE)

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

describe("A launch, on a device with memory of its own", function()
  on_card("is waited for asleep: clFinish, in which drivers may spin, has nothing to wait for", "40000\t0\n", [[
    local f = app:func(function(x)
      local s = 0
      for i = 1, 5000 do s = s + i % x end
      return s >= 0 and 1 or 0
    end)
    print(f:map(tidepool.range(40000)):sum(), faults.faults_waits())
  ]])

  on_card("gives the memory that it needed back when there are no more", "true\ttrue\n", [[
    local list = {}
    for i = 1, 300000 do list[i] = i end
    app:func(function(x) return x + 1 end):map(list):list()
    local most, began = faults.faults_held(), os.time()
    while faults.faults_held() > 2 ^ 18 and os.time() - began < 300 do tidepool.sleep(0.05) end
    print(most >= 8 * 16384, faults.faults_held() <= 2 ^ 18)
  ]])

  on_card("has the memory that arrays had when that is short", "true\n", [[
    local a = numbers(100000)
    local f = app:func(function(x) return a[x] end)
    assert(f:map({ 1, 100000 }):sum() == 100001) -- 800,000 bytes are there now, of 820,000
    local many = {}
    for i = 1, 20000 do many[i] = i end
    print(app:func { name = "g" } (function(x) return x + 1 end):map(many):sum() == 20000 * 20003 / 2)
  ]], "FAULTS_ROOM=820000")
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

describe("Maps over what is on a device with memory of its own", function()
  local CHAIN = [[
    local n = 1000000
    local xs = numbers(n)
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local g = app:func { name = "g" } (function(x) return x * 2 end)
    local h = app:func { name = "h" } (function(x) return x - 3 end)
    local function check(a)
      for i = 1, n do assert(a[i] == (i + 1) * 2 - 3, i) end
    end
    -- in arrays of n doubles: what went there, and what came back
    local function moves(what, run)
      moved()
      check(run())
      print(what, (moved():gsub("%S+", function(number) return ("%.1f"):format(number / n) end)))
    end
  ]]

  on_card("move the input once and the result once, three maps in a row", [[
buffers	1.0 1.0 0.0
again	0.0 1.0 0.0
changed	1.0 1.0 0.0
maps of maps	0.0 1.0 0.0
changed	1.0 1.0 0.0
arrays	0.0 3.0 0.0
]], CHAIN .. [[
    local function by_buffers() return h:map(g:map(f:map(xs):buffer()):buffer()):array() end
    local function by_maps() return h:map(g:map(f:map(xs))):array() end
    moves("buffers", by_buffers)
    moves("again", by_buffers)
    xs[1] = 1
    moves("changed", by_buffers)
    moves("maps of maps", by_maps)
    xs:fill(0)
    for i = 1, n do xs[i] = i end
    moves("changed", by_maps)
    moves("arrays", function() return h:map(g:map(f:map(xs):array()):array()):array() end)
  ]])

  on_card("do not wait for it when they are asked whether they are done", "false\tfalse\n12\n", [[
    ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void); void faults_go_on(void);"
    local f, g = app:func(function(x) return x + 1 end), app:func(function(x) return x * 2 end)
    f:map(numbers(8)):array()
    g:map(numbers(8)):array()
    faults.faults_stall(0, 0)
    local results = g:map(f:map(numbers(8)), { times = true })
    while faults.faults_stalled() == 0 do tidepool.sleep(0.001) end
    print(results:done(), results:done())
    faults.faults_go_on()
    while not results:done() do tidepool.sleep(0.001) end
    print(results:array()[5])
  ]])

  on_card("reduce it there", "0\n", CHAIN .. [[
    local b = f:map(xs):buffer()
    moved()
    local sum = n * (n + 1) / 2
    assert(b:sum() == sum + n and b:mean() == sum / n + 1 and b:min() == 2 and b:max() == n + 1)
    assert(g:map(b):sum() == 2 * (sum + n) and g:map(f:map(xs)):min() == 4)
    print(moved():match "%S+")
    -- those that come before the reducer is there come home, and go there again to be reduced: how
    -- many is the machine's business
    assert(b:reduce(math.max, 0) == n + 1 and moved():match "%S+" / n <= 1)
    local one = tidepool.gpu.device():buffer("int32", { 5, -3 })
    assert(one:sum() == 2 and one:min() == -3 and tidepool.gpu.device():buffer("double", 0):sum() == 0)
    assert(tidepool.gpu.device():buffer("double", 0):max() == nil)
  ]])

  on_card("read buffers that kernels by hand have written, and parts of them, and give such", "", [[
    local device = tidepool.gpu.device()
    local n = 5000
    local b = device:buffer("int32", n)
    local count = device:kernel "__kernel void count(__global int *b, int by) { b[get_global_id(0)] = get_global_id(0) * by; }"
    local f = app:func { returns = "int32" } (function(x) return x + 1 end)
    local g = app:func(function(x, y) return x + y end)
    local wide = app:func(function(x) return x + 1 end)
    for by = 1, 3 do
      count(n, b, by)
      local a = f:map(b):array()
      for i = 1, n do assert(a[i] == (i - 1) * by + 1, i) end
      local other = numbers(n)
      local sum = g:map(b:slice(11, 20), other):array()
      assert(#sum == 10)
      for i = 1, 10 do assert(sum[i] == (i + 9) * by + i) end
      local made = f:map(f:map(b)):buffer()
      assert(made.ctype == "int32" and #made:read() == n)
      count(n, made, -by)
      assert(made:read()[11] == -10 * by and f:map(made):array()[11] == 1 - 10 * by)
      for i, v in wide:map(made:as "uint32") do assert(v == (i > 1 and 2 ^ 32 or 0) - (i - 1) * by + 1) end
    end
  ]])

  on_card("give the results of a plain loop, whatever reads them", "", [[
    local f = app:func(function(x) return x * 1.5 end)
    local g = app:func(function(x) return x + 0.25 end)
    for _, n in ipairs { 1, 2, 1000, 1023, 1025, 65537, 100003 } do
      local xs = numbers(n)
      local function check(list)
        for i = 1, n do assert(list[i] == i * 1.5 + 0.25, i) end
      end
      check(g:map(f:map(xs)):list())
      check(g:map(f:map(xs), { window = 777 }):array())
      check(g:map(f:map(xs, { window = 333 }):buffer()):list())
      local seen = {}
      for i, v in g:map(f:map(xs)) do seen[i] = v end
      check(seen)
      seen = {}
      local r = g:map(f:map(xs))
      for i, v in r do
        seen[i] = v
        if i == math.ceil(n / 2) then break end
      end
      check(r:array())
      tidepool.async(function() check(g:map(f:map(xs)):array()) end):get()
      check(tidepool.App():func(function() return g:map(f:map(xs)):list() end):remote())
      check(g:map(f:map(xs):buffer()):buffer():read())
      assert(g:for_each(f:map(xs)).ok == n)
      check(g:spawn_map(f:map(xs)):list())
    end
  ]])

  on_card("say what fails, with its input; then all goes on", "", [[
    local n = 20000
    local xs = numbers(n)
    local f = app:func { name = "f" } (function(x)
      if x == 15000 then error("in f") end
      return x + 1
    end)
    local g = app:func { name = "g" } (function(x)
      if x == 12001 then error("in g") end
      return x * 2
    end)
    local list = g:map(f:map(tidepool.array("double", { 12000, 7 })):buffer(), { return_exceptions = true }):list()
    assert(list[2] == 16 and list[1].message:find("job.lua:%d+: in g") and list[1].input[1] == 12001, tostring(list[1]))
    local fine, why = pcall(function() return g:map(f:map(xs)):list() end)
    assert(not fine and why.message:find "in g" and why.index == 12000 and why.input[1] == 12001, tostring(why))
    local h = app:func { name = "h" } (function(x) return x * 2 end)
    local k = 0
    fine, why = pcall(function()
      for i, v in h:map(f:map(xs)) do
        k = i
        assert(v == 2 * (i + 1))
      end
    end)
    assert(not fine and k == 14999 and tostring(why):find "in f", k .. " " .. tostring(why))
    fine, why = pcall(function() return f:map(xs):buffer() end)
    assert(not fine and why.index == 15000 and why.message:find "in f", tostring(why))
    local b = f:map(xs, { on_error = function(e) return -e.index end }):buffer()
    local back = b:read()
    for i = 1, n do assert(back[i] == (i == 15000 and -15000 or i + 1), i) end
    assert(h:map(b):array()[15000] == -30000)
  ]])

  on_card("fail with kind device when the device does, and are right afterwards", "device\n", [[
    local n = 50000
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local b = f:map(numbers(n)):buffer()
    faults.faults_fail(1000)
    local fine, why = pcall(function() return f:map(b):array() end)
    assert(not fine)
    print(why.kind)
    fine, why = pcall(function() return f:map(f:map(b)):buffer() end)
    assert(not fine and why.kind, tostring(why))
    faults.faults_fail(0)
    faults.faults_fail_reads(1000)
    fine, why = pcall(function() return f:map(f:map(b)):list() end)
    assert(not fine and tostring(why):find("copying from the device failed", 1, true), tostring(why))
    faults.faults_fail_reads(0)
    local a = f:map(f:map(b)):array()
    for i = 1, n do assert(a[i] == i + 3) end
  ]])

  on_card("are right when threads have taken over the rest from a device that failed", "", [[
    local n = 300000
    local xs = numbers(n)
    local tried = tidepool.array("int32", n)
    for _, options in ipairs { { gpu = { "cpu", "threads" }, retries = 1 }, { gpu = { "cpu:2", "threads" }, retries = 1 } } do
      local f = app:func(options) (function(x)
        tried[x] = tried[x] + 1
        if x % 1000 == 0 and tried[x] == 1 then error("try again") end
        return 3 * x
      end)
      local g = app:func(function(x) return x + 1 end)
      for when = 1, 3 do
        tried:fill(0)
        local results = f:map(xs)
        if when == 1 then faults.faults_fail(1000) end
        tidepool.sleep(0.002 * when)
        faults.faults_fail(1000)
        local b = results:buffer()
        faults.faults_fail(0)
        local a = g:map(b):array()
        for i = 1, n do assert(a[i] == 3 * i + 1, i) end
      end
    end
  ]], "POCL_DEVICES='pthread pthread'")

  on_card("share it between two devices", "", [[
    local n = 200000
    local xs = numbers(n)
    local f = app:func { gpu = "cpu:2", name = "f" } (function(x) return x + 1 end)
    for _ = 1, 5 do
      local a = f:map(f:map(f:map(xs))):array()
      for i = 1, n do assert(a[i] == i + 3, i) end
      local b = f:map(f:map(xs)):buffer()
      assert(b.device.number == 1 or b.device.number == 2)
      a = f:map(b):array()
      for i = 1, n do assert(a[i] == i + 3, i) end
      assert(b:sum() == n * (n + 1) / 2 + 2 * n)
    end
  ]], "POCL_DEVICES='pthread pthread'")

  on_card("give memory back", "true\n", [[
    local f = app:func(function(x) return x + 1 end)
    local xs = numbers(20000)
    local kept
    for i = 1, 200 do -- 160 KB each, on a device that has 1 MiB
      kept = f:map(f:map(xs):buffer()):buffer()
      if i % 4 == 0 then collectgarbage() end
    end
    print(kept:read()[20000] == 20002)
  ]], "FAULTS_MEMORY=1048576")

  on_card("are kept in a cache by their elements", "4\t4\n", [[
    local f = app:func(function(x) return x + 1 end)
    local g = app:func { cache = os.tmpname() } (function(x) return x * 2 end)
    local first = g:map(f:map(numbers(4)):buffer()):list()
    local again = g:map(f:map(numbers(4)):buffer())
    local list = again:list()
    for i = 1, 4 do assert(first[i] == 2 * (i + 1) and list[i] == first[i]) end
    print(#first, #list)
  ]])

  on_card("are refused where they cannot be, at the user's line", [[
job.lua:N: Function:map: input 1 is a buffer of CARD, and plain does not run on devices; buffer:read() gives an array
job.lua:N: Function:map: input 1 is a buffer of CARD, and either may run elsewhere (its gpu ends with "threads"); buffer:read() gives an array
job.lua:N: Function:map: input 2 is a table: beside a buffer there can be typed arrays and other buffers
job.lua:N: results:buffer: plain does not run on a device (gpu = ...)
job.lua:N: results:buffer: f gives no arrays: that takes arrays or buffers as inputs, or `returns` and a list, and results that are numbers
job.lua:N: results:buffer: these results have been read; keep what results:list() gives to go over them again
]], [[
    local b = tidepool.gpu.device():buffer("double", { 1, 2 })
    local plain = tidepool.App():func { name = "plain" } (function(x) return x end)
    local either = tidepool.App():func { name = "either", gpu = { "cpu", "threads" } } (function(x) return x end)
    local f = app:func { name = "f" } (function(x, y) return x end)
    local read = f:map(tidepool.array("double", 2), tidepool.array("double", 2))
    read:list()
    local on_threads, of_lists = plain:map { 1 }, f:map({ 1 }, { 2 })
    for _, wrong in ipairs {
      function() plain:map(b) end,
      function() either:map(b) end,
      function() f:map(b, { 1, 2 }) end,
      function() on_threads:buffer() end,
      function() of_lists:buffer() end,
      function() read:buffer() end,
    } do
      local _, why = pcall(wrong)
      why = tostring(why):match "[^\n]*":gsub("^.-job.lua:%d+", "job.lua:N")
      print((why:gsub("buffer of .-, and", "buffer of CARD, and")))
    end
    assert(on_threads:list()[1] == 1 and of_lists:list()[1] == 1)
  ]])
end)

describe("A kernel by hand, over a number of work items that no group divides", function()
  on_card("has groups that suit the device, unless the source could tell", "64\n1\n1\n", [[
    ffi.cdef "int faults_group(void);"
    local device, n = tidepool.gpu.device(), 100003
    local to = device:buffer("int32", n)
    local plain = device:kernel "__kernel void plain(__global int *to, int by) { size_t i = get_global_id(0); to[i] += (int)i * by; }"
    local whole = device:kernel "__kernel void whole(__global int *to, int by) { to[get_global_id(0)] += (int)get_global_size(0) * by; }"
    plain(n, to, 2)
    print(faults.faults_group())
    assert(plain:time() > 0)
    whole(n, to, 3)
    print(faults.faults_group())
    plain({ n - 1, offset = 1 }, to, 1)
    local a = to:read()
    for i = 1, n do assert(a[i] == (i - 1) * (i == 1 and 2 or 3) + 3 * n, i) end
    plain({ n, local_size = 1 }, to, 0)
    print(faults.faults_group())
  ]])
end)

describe("Maps over buffers of a device that shares the host's memory", function()
  on_pocl("read and give them", function()
    local app, device = tidepool.App("shared", { gpu = "cpu" }), tidepool.gpu.device "cpu"
    local f = app:func(function(x) return x + 1 end)
    local b = device:buffer("double", { 1, 2, 3 })
    assert.same({ 2, 3, 4, n = 3 }, f:map(b):list())
    local made = f:map(f:map(b)):buffer()
    assert.same({ 3, 4, 5, n = 3 }, made:read():list())
    made:fill(7)
    assert.equal(21, made:sum())
    assert.equal(16, f:map(made:slice(1, 2)):sum())
  end)
end)
