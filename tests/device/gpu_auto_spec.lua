--- gpu = "auto": worker threads and devices share each map (not stock: it is the program).

local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, run = support.contains, shell.run
local app = tidepool.App("auto", { gpu = "auto" })
local has_device = #tidepool.devices() > 0

local function on_device(says, check)
  if has_device then it(says, check) else pending(says .. " (no OpenCL device)") end
end

local COUNT, ROUNDS = 200000, 50

--- A function with so much to do that a device is asked for it, and which fails where `fails` says.
local function work(x)
  local s = x
  for i = 1, 50 do s = s * 0.5 + i end
  return s
end

--- The function, compiled for the device already: else threads run it alone for a second.
local function compiled(fn, options)
  if not has_device then return fn end
  local on_it = { gpu = true }
  for name, value in pairs(options or {}) do on_it[name] = value end
  tidepool.App():func(on_it)(fn):map({ 1 }):list()
  return fn
end

--- Runs maps until devices have run some of one, item `at` if it is given, or at most so many: who
--- runs what is the machine's business. `check` runs one and gives its times, which are returned.
local function until_devices_run(check, at)
  local times
  for _ = 1, ROUNDS do
    times = check()
    for i = at or 1, at or #times.device do
      if times.device[i] > 0 then return times end
    end
  end
  return times
end

describe("gpu = \"auto\"", function()
  on_device("gives the results in order, and says which device ran an item", function()
    local f = app:func(compiled(work))
    local xs = tidepool.array("double", COUNT)
    for i = 1, COUNT do xs[i] = i end
    local times = until_devices_run(function()
      local results, last = f:map(xs, { times = true }), 0
      for i, y in results do
        assert(i == last + 1 and y == work(i))
        last = i
      end
      assert.equal(COUNT, last)
      return results:times()
    end)
    for i = 1, COUNT do assert(times.device[i] >= 0 and times.device[i] <= #tidepool.devices()) end
    assert.equal(COUNT, f:map(xs):array().length)
    assert.equal(0, tidepool.App():func(work):map({ 1 }, { times = true }):times().device.length)
  end)

  on_device("asks devices for small maps, too, once many have come", function()
    local f = app:func { returns = "double" } (function(x) return work(x) end)
    local xs = tidepool.array("double", 20000)
    for i = 1, #xs do xs[i] = i end
    local began, ran = tidepool.now(), false
    while not ran and tidepool.now() - began < 120 do
      local results = f:map(xs, { times = true })
      local ys, devices = results:array(), results:times().device
      for i = 1, #xs, 999 do
        assert(ys[i] == work(xs[i]))
        ran = ran or devices[i] > 0
      end
    end
    assert.is_true(ran)
  end)

  on_device("raises the error of the first input that fails, as Lua says it, after the results before it", function()
    local f = app:func(compiled(function(x)
      if x == 150000 or x == 150001 then error "boom" end
      return work(x)
    end))
    local n
    until_devices_run(function()
      local results = f:map(tidepool.range(COUNT), { times = true })
      n = 0
      local fine, failure = pcall(function()
        for i, y in results do
          assert(y == work(i))
          n = i
        end
      end)
      assert.is_false(fine)
      contains(failure.message, "gpu_auto_spec.lua:")
      contains(failure.message, "boom")
      contains(failure.traceback, "gpu_auto_spec")
      assert.equal(150000, failure.index)
      assert.equal(149999, n)
      return results:times()
    end, 149999) -- a slice ends where an item fails
  end)

  on_device("keeps what fails in its place, with its traceback and attempts", function()
    local f = app:func { retries = 2 } (compiled(function(x)
      if x % 50000 == 0 then error "boom" end
      return work(x)
    end))
    until_devices_run(function()
      local results, failures = f:map(tidepool.range(COUNT), { return_exceptions = true, times = true }), 0
      for i, y in results do
        if i % 50000 == 0 then
          failures = failures + 1
          contains(y.traceback, "gpu_auto_spec")
          assert.equal(3, y.attempts)
        else
          assert(y == work(i))
        end
      end
      assert.equal(4, failures)
      return results:times()
    end, 49999)
  end)

  on_device("gives what threads give for inputs that a device has no room for", function()
    local function collect(x)
      local list, s = {}, 0
      while #list < x do list[#list + 1] = x end
      for i = 1, 2000 do s = s * 0.5 + i end -- which a device is faster with
      return s + #list
    end
    local f, xs, base = app:func(compiled(collect)), tidepool.array("double", COUNT / 10), collect(0)
    for i = 1, #xs do xs[i] = i % 10 end
    local last = #xs
    xs[last] = 1000 -- a list has room for 256 elements there
    local times = until_devices_run(function()
      local results = f:map(xs, { times = true })
      local list = results:list()
      assert.equal(base + 1000, list[last])
      assert.equal(base + 9, list[last - 1])
      return results:times()
    end, last - 1)
    assert.equal(0, times.device[last])
    assert.equal(base + 1000, f:map(xs):max())
  end)

  on_device("leaves inputs that are no numbers to threads", function()
    local f = app:func(compiled(function(x)
      local s = x
      for i = 1, 50 do s = s * 0.5 + i end
      return s
    end))
    local xs = {}
    for i = 1, COUNT do xs[i] = i % 1000 == 0 and tostring(i) or i end
    for _ = 1, 3 do
      local last = 0
      for i, y in f:map(xs) do
        assert(y == work(i))
        last = i
      end
      assert.equal(COUNT, last)
    end
  end)

  on_device("keeps its permits, discards, unordered results, several results and booleans", function()
    local f = app:func { concurrency_limit = 1 } (compiled(function(x) return work(x), x > 7 end))
    for _ = 1, 3 do
      local seen, n = {}, 0
      for i, y, is_large in f:map(tidepool.range(COUNT), { ordered = false }) do
        assert(not seen[i] and y == work(i) and is_large == (i > 7))
        seen[i] = true
        n = n + 1
      end
      assert.equal(COUNT, n)
      assert.same({ ok = COUNT, failed = 0 }, f:for_each(tidepool.range(COUNT)))
      assert.equal(COUNT * (COUNT + 1) / 2, app:func(function(x) return x end):map(tidepool.range(COUNT)):sum())
    end
  end)

  on_device("copies a list that the function captures for few of its maps, where that takes longer than they do", function()
    local list, xs, copies = {}, tidepool.array("double", 20000), 0
    for i = 1, 1e6 do list[i] = i end
    for i = 1, #xs do xs[i] = i end
    local f = app:func { returns = "double" } (compiled(function(x)
      local s = x
      for i = 1, 20 do s = s * 0.5 + list[x % 1000 + i] end
      return s
    end, { returns = "double" }))
    local array = require "tidepool.array"
    local new = array.new
    array.new = function(ctype, from)
      if from == list then copies = copies + 1 end
      return new(ctype, from)
    end
    for _ = 1, 40 do
      local ys = f:map(xs):array()
      assert(ys[777] == f(777) and ys[#xs] == f(#xs))
    end
    array.new = new
    assert(copies < (support.sanitized and 40 or 20), copies) -- a sanitizer makes maps slow, not copies
  end)

  it("runs what no device can on threads, and f:opencl() says why", function()
    local f = app:func(function(x) return ("%d"):format(x) end)
    for _ = 1, 2 do
      local list = f:map(tidepool.range(COUNT)):list()
      assert.equal(tostring(COUNT), list[COUNT])
    end
    local fine, why = pcall(f.opencl, f)
    assert.is_false(fine)
    contains(why, "gpu_auto_spec.lua")
    assert.equal("7", f:remote(7))
    local out = tidepool.array("double", COUNT)
    app:func(function(i) out[i] = work(i) end):for_each(tidepool.range(COUNT))
    for i = 1, COUNT do assert(out[i] == work(i)) end
  end)

  it("refuses what only devices do", function()
    local function refuses(text, options)
      local fine, why = pcall(function() app:func(options)(function(x) return x end) end)
      assert.is_false(fine)
      contains(why, text)
      contains(why, "gpu_auto_spec.lua")
    end
    refuses("app:func: option 'precision' is for devices alone, and gpu = \"auto\" runs the function on threads, too: name a device, as in "
      .. "gpu = \"any\"", { gpu = "auto", precision = "single" })
    refuses("app:func: option 'kernel' is for devices alone", { gpu = "auto", kernel = "double f(double x) { return x; }" })
    refuses("app:func: option 'precision' is for devices alone", { precision = "single" }) -- "auto" is the app's
    refuses("app:func: option 'kernel' is for devices alone", { kernel = "double f(double x) { return x; }" })
    refuses("option 'gpu' may have \"auto\" only alone", { gpu = { "nvidia", "auto" } })
    refuses("option 'gpu' may have \"auto\" only alone", { gpu = { "Auto", "threads" } })
    refuses("option 'gpu' has \"auto:2\", and \"auto\" takes all devices that are there, not a number of them", { gpu = "auto:2" })
    assert.equal("auto", app:func { gpu = "AUTO" } (function(x) return x end).options.gpu) -- as all words of `gpu` are read
    local fine, why = pcall(function()
      return app:func(function(x) return x end):map({ 1 }):buffer()
    end)
    assert.is_false(fine)
    contains(why, "gpu_auto_spec.lua:", "results:buffer: ", ' has gpu = "auto", whose results are in the script\'s memory',
      'name a device, as in gpu = "any"')
  end)
end)

-- Elsewhere: in a process of its own.
local JOB = [[
  local tidepool = require "tidepool"
  local function work(x)
    local s = x
    for i = 1, 50 do s = s * 0.5 + i end
    return s
  end
  pcall(function() tidepool.App():func { gpu = true } (work):map({ 1 }):list() end) -- compiles it
  local f = tidepool.App():func { gpu = "auto" } (work)
  local found = {}
  for round = 1, 200 do
    local results = f:map(tidepool.range(200000), { times = true })
    for i, y in results do assert(y == work(i)) end
    local devices = results:times().device
    local here = {}
    for i = 1, #devices do here[devices[i] > 0] = true end
    found[(here[true] and "devices " or "") .. (here[false] and "threads" or "")] = true
    if not tidepool.devices()[1] or round > 3 and (found["devices threads"] or WANTED ~= "both") then break end
  end
  if WANTED == "both" then print(found["devices threads"]) else print "right" end
]]

-- A device that stalls for a while, and then for ever, in the call.
local STALL = [[
  local ffi = require "ffi"
  local tidepool = require "tidepool"
  ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void);"
  local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
  local function work(x)
    local s = x
    for i = 1, 50 do s = s * 0.5 + i end
    return s
  end
  local app = tidepool.App()
  local f = app:func { gpu = "auto", returns = "double", name = "work" } (work)
  local plain = app:func { gpu = true, name = "plain" } (function(x) return x end)
  local xs = tidepool.array("double", 200000)
  for i = 1, #xs do xs[i] = i end
  local function map()
    local results = f:map(xs, { times = true })
    local ys, devices, ran = results:array(), results:times().device, 0
    assert(ys.length == #xs)
    for i = 1, #xs do
      assert(ys[i] == work(i))
      ran = ran + devices[i]
    end
    return ran, ys
  end
  local function until_it_runs()
    local began = tidepool.now()
    repeat
      if map() > 0 then return end
    until tidepool.now() - began > 120
    error "no device runs anything"
  end
  local function stall(ms, blocks)
    local before, began, ran, ys = faults.faults_stalled(), tidepool.now(), nil, nil
    faults.faults_stall(ms, blocks)
    repeat ran, ys = map() until faults.faults_stalled() > before or tidepool.now() - began > 120
    print(("stuck %s, device %d, right"):format(tidepool.devices()[1].is_stuck, ran))
    return ys
  end
  until_it_runs()
  local ys = stall(6500, 0)
  for i = 1, #ys do ys[i] = -i end
  map()
  while tidepool.devices()[1].is_stuck do tidepool.sleep(0.1) end
  for i = 1, #ys do assert(ys[i] == -i) end -- it writes to no array that the script has
  print(("back %s, right"):format(tidepool.devices()[1].is_stuck))
  until_it_runs()
  stall(0, 1)
  map()
  print("beside it " .. plain:map(xs):list()[7])
  print "the end"
]]

-- A driver whose compiler waits until there is a file, and tells by another one when it has begun.
local GATED = [[
  local tidepool = require "tidepool"
  local f = tidepool.App():func { gpu = "auto", returns = "double", name = "work" } (function(x)
    local s = x
    for i = 1, 500 do s = s * 0.5 + i end
    return s
  end)
  local xs, builds = tidepool.array("double", 200000), {}
  for i = 1, #xs do xs[i] = i end
  local expected = f(xs[77])
  local function map()
    local results, ran = f:map(xs, { times = true }), 0
    assert(results:array()[77] == expected)
    local times = results:times()
    for i = 1, #times.device do ran = ran + times.device[i] end
    for _, each in ipairs(times.builds) do builds[#builds + 1] = each.how .. " for " .. each.device end
    return ran
  end
  local function has_begun()
    local log = io.open(os.getenv "FAULTS_LOG")
    if log then log:close() end
    return log ~= nil
  end
  local began = tidepool.now()
  repeat assert(map() == 0) until has_begun() or tidepool.now() - began > 120
  for _ = 1, 5 do assert(map() == 0) end
  print(has_begun(), #builds)
  if not os.getenv "FAULTS_BUILD_GATE" then return end
  assert(io.open(os.getenv "FAULTS_BUILD_GATE", "w")):close()
  repeat local ran = map() until ran > 0 or tidepool.now() - began > 240
  print(table.concat(builds, ", "))
]]

-- A map that is over while OpenCL is loaded, which waits for a file.
local LOADED = [[
  local tidepool = require "tidepool"
  local function work(x)
    local s = x
    for i = 1, 200 do s = s * 0.5 + i end
    return s
  end
  local few = tidepool.App():func { gpu = "auto" } (work):map(tidepool.range(500000), { times = true })
  assert(few:list()[77] == work(77) and few:times().device[77] == 0)
  print "threads"
]]

-- A map that has begun before that file is there, and is read until the device has run some of it;
-- or, when the function CHANGES meanwhile, for a million inputs.
local JOINED = [[
  local tidepool = require "tidepool"
  local k = 1
  local function work(x)
    local s = x * k
    for i = 1, 200 do s = s * 0.5 + i end
    return s
  end
  if not os.getenv "FAULTS_LOAD_GATE" then return tidepool.App():func { gpu = "any" } (work):map({ 1 }):list() end
  local results = tidepool.App():func { gpu = "auto" } (work):map(tidepool.range(50000000), { window = 100000, times = true })
  local began = tidepool.now()
  for i, y in results do
    if i % 1000 == 0 then
      local changed = k
      k = 1
      assert(y == work(i))
      k = changed
    end
    if i == 1 then
      k = CHANGES or k
      assert(io.open(os.getenv "FAULTS_LOAD_GATE", "w")):close()
    end
    local is_over = i % 100000 == 0 and (CHANGES and i == 1000000 or results:times().device[i] > 0 or tidepool.now() - began > 120)
    if is_over then
      print("device", results:times().device[i])
      results:cancel()
      break
    end
  end
]]

describe("gpu = \"auto\" in a process of its own", function()
  it("runs on threads where there is no OpenCL", function()
    local done = run("TIDEPOOL_OPENCL=/none/libOpenCL.so $T job.lua", { ["job.lua"] = JOB })
    assert.equal("", done.stderr)
    assert.equal("right\n", done.stdout)
  end)

  local is_pocl = false
  for _, d in ipairs(tidepool.devices()) do is_pocl = is_pocl or d.platform == "Portable Computing Language" end
  if not is_pocl then return pending "the rest (no OpenCL device of PoCL)" end

  local faults = support.temp_dir() .. "/libfaults.so"
  assert(os.execute(("cc -shared -fPIC -D_GNU_SOURCE -o %s tests/opencl/faults.c -Wl,--no-as-needed -l:libOpenCL.so.1 -ldl"):format(faults)) == 0)

  it("threads and a device with a processor and memory of its own run parts of the same map", function()
    local done = run(("FAULTS_COPIES=1 POCL_MAX_PTHREAD_COUNT=1 TIDEPOOL_OPENCL=%s $T --workers 1 job.lua"):format(faults),
      { ["job.lua"] = "WANTED = 'both'\n" .. JOB })
    assert.equal("", done.stderr)
    assert.equal("true\n", done.stdout)
  end)

  it("threads run what a device does not come back from, and the device later what comes then", function()
    local done = run(("TIDEPOOL_OPENCL=%s $T job.lua"):format(faults), { ["job.lua"] = STALL })
    assert.equal(0, done.code)
    assert.equal("stuck true, device 0, right\nback false, right\nstuck true, device 0, right\nbeside it 7\nthe end\n", done.stdout)
    local line = "tidepool: work: [^\n]+ has not come back from %d+ inputs?, which threads have run instead; maps leave it out until it does\n"
    assert.matches("^" .. line .. line .. "$", done.stderr)
  end)

  it("threads run maps while the driver compiles, and the device, too, when it has", function()
    local dir = support.temp_dir()
    local command = ("FAULTS_BUILD_GATE=@/gate FAULTS_LOG=@/log XDG_CACHE_HOME=@/cache XDG_STATE_HOME=@ POCL_CACHE_DIR=@/pocl "
      .. "TIDEPOOL_OPENCL=%s $T job.lua"):format(faults):gsub("@", dir)
    local done = run(command, { ["job.lua"] = GATED })
    assert.equal("", done.stderr)
    assert.equal("true\t0\ncompiled for 1\n", done.stdout)
    -- with what is kept on disk there is nothing to wait for but threads that have little to do
    done = run(command, { ["job.lua"] = GATED:gsub("repeat assert%b()", "repeat map()"):gsub("for _ = 1, 5[^\n]+", "") })
    assert.equal("", done.stderr)
    assert.matches("read for 1\n$", done.stdout)
  end)

  it("threads run maps while OpenCL is loaded, and a script that ends does not wait for it", function()
    local dir, began = support.temp_dir(), tidepool.now()
    local command = ("FAULTS_LOAD_GATE=%s/gate TIDEPOOL_OPENCL=%s $T job.lua"):format(dir, faults)
    local done = run(command, { ["job.lua"] = LOADED })
    assert.same({ "", "threads\n", 0 }, { done.stderr, done.stdout, done.code })
    assert(tidepool.now() - began < 50) -- the gate is waited at for a minute
  end)

  it("a script that ends does not wait for a worker in which OpenCL is loaded, either", function()
    local dir, began = support.temp_dir(), tidepool.now()
    local done = run(("FAULTS_LOAD_GATE=%s/gate TIDEPOOL_OPENCL=%s $T job.lua"):format(dir, faults), { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local has_begun = tidepool.Queue()
      tidepool.App():func(function()
        has_begun:put(true)
        return #tidepool.devices()
      end):spawn()
      print(has_begun:get())
      os.exit(4)]] })
    assert.same({ "", "true\n", 4 }, { done.stderr, done.stdout, done.code })
    assert(tidepool.now() - began < 50)
  end)

  it("a map that has begun while OpenCL is loaded goes over to the device, unless the function has changed", function()
    local dir = support.temp_dir()
    local command = ("XDG_CACHE_HOME=@/cache XDG_STATE_HOME=@ POCL_CACHE_DIR=@/pocl TIDEPOOL_OPENCL=%s $T job.lua"):format(faults):gsub("@", dir)
    assert.equal(0, run(command, { ["job.lua"] = JOINED }).code) -- what is on disk takes less time to make
    local done = run(("FAULTS_LOAD_GATE=%s/gate "):format(dir) .. command, { ["job.lua"] = JOINED })
    assert.same({ "", "device\t1\n", 0 }, { done.stderr, done.stdout, done.code })
    for _, change in ipairs { "2", "coroutine.create(print)" } do -- that one cannot even travel
      os.remove(dir .. "/gate")
      done = run(("FAULTS_LOAD_GATE=%s/gate "):format(dir) .. command, { ["job.lua"] = ("CHANGES = %s\n"):format(change) .. JOINED })
      assert.same({ "", "device\t0\n", 0 }, { done.stderr, done.stdout, done.code })
    end
  end)

  it("threads run all of it where the driver does not compile it", function()
    local done = run(("FAULTS_BUILD=1 FAULTS_LOG=%s XDG_CACHE_HOME=%s TIDEPOOL_OPENCL=%s $T job.lua"):format(support.temp_path(), support.temp_dir(),
      faults), { ["job.lua"] = GATED })
    assert.equal("", done.stderr)
    assert.equal("true\t0\n", done.stdout)
  end)

  it("threads run what a device that fails was to run", function()
    for _, from in ipairs { 1, 3 } do
      local done = run(("FAULTS_FROM=%d TIDEPOOL_OPENCL=%s $T job.lua"):format(from, faults), { ["job.lua"] = JOB })
      assert.equal("", done.stderr)
      assert.equal("right\n", done.stdout)
    end
  end)
end)
