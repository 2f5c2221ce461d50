--- Devices of a cluster's workers (not stock: workers and scripts are the program).

local devices = require "tests.support_device"
local support = require "tests.support"
local cluster = require "tests.support_cluster"

local contains = support.contains

-- What an item does is slow: of one thread a million steps take some 10 ms.
local HEADER = [[
  local tidepool = require "tidepool"
  local app = tidepool.App "job"
]]

describe("On a cluster a function for devices", function()
  if not cluster.is_possible() or not devices.has_pocl then
    pending "nats-server, or PoCL, is not installed"
    return
  end

  local NONE = "TIDEPOOL_OPENCL=/nowhere"
  local own

  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  --- The process that drives a worker's devices; nil: there is none.
  local function driver_of(worker)
    local pid = cluster.capture(("ps -o pid=,args= --ppid %d"):format(worker.pid)):match "(%d+)[^\n]*%-%-devices"
    return pid and { pid = tonumber(pid) }
  end

  --- Waits until it is there.
  local function driver(worker)
    support.eventually("a process drives devices", function() return driver_of(worker) end)
    return driver_of(worker)
  end

  it("gives what it gives on this machine, where only one worker has a device", function()
    own:worker(1, nil, NONE)
    own:worker(1)
    local source = HEADER .. [[
      local texts = {}
      local function say(...) for i = 1, select("#", ...) do texts[#texts + 1] = tostring((select(i, ...))) end end
      local factor, table_of = 3, tidepool.array("double", { 10, 20, 30 })
      local f = app:func { gpu = "cpu", name = "f" } (function(x, y)
        if x == 7 then error("seven") end
        return x * factor + (y or 0) + table_of[(x % 3) + 1], x > 3
      end)
      for i, value, is_large in f:map({ 1, 2, 3, 4, 5 }) do say(i, value, is_large) end
      for i, a in f:starmap({ { 1, 2 }, { 7, 2 }, { 3, 4 } }, { return_exceptions = true }) do say(i, tidepool.is_failure(a) and a.message or a) end
      factor = 5
      say(f:remote(2, 1))
      local square = app:func { gpu = "cpu", name = "square" } (function(x) return x * x end)
      say(square:map(tidepool.range(200000)):sum(), square:map(tidepool.range(1000)):min())
      local whole = app:func { gpu = "cpu", name = "whole", returns = "int32" } (function(x) return x * 2.5 end)
      local given = whole:map(tidepool.array("float", { 1, 2, 3 })):array()
      say(given[1], given[2], given[3], #given)
      say(select(2, pcall(function() return square:map({ 1, 2, "x" }):list() end)))
      local n = 0
      local tried = app:func { gpu = "cpu", name = "tried", retries = { max = 2, on = function() n = n + 1 end } } (function(x)
        if x > 1 then error("large") end
        return x
      end)
      say(select(2, pcall(function() return tried:map({ 1, 2 }):list() end)), n)
      local limited = app:func { gpu = "cpu", name = "limited", concurrency_limit = 1 } (function(x) return -x end)
      say(limited:map(tidepool.range(20000)):sum())
      local own = app:func { gpu = "cpu", name = "own", kernel = "double own(double x, __global const double *t) { return x + t[0]; }",
        with = { t = table_of } }
      say(own:map({ 1, 2 }):sum())
      print((table.concat(texts, "\n"):gsub("%(worker %d+", "(worker")))]]
    local there = own:run(source)
    assert.same({ "", 0 }, { there.stderr, there.code })
    local function plain(text) return (text:gsub("[^\n]*/job%.lua", "job.lua")) end
    assert.equal(plain(support.output_of(source)), plain(there.stdout))
    contains(own:engine "status", "device on ", "2 workers, 2 at once")
  end)

  it("waits for a worker that has such a device, and tells so", function()
    own:worker(1, nil, NONE)
    local script = own:start(HEADER .. [[
      local f = app:func { gpu = { "H200", "cpu" } } (function(x) return x + 1 end)
      local plain = app:func(function(x) return x * 2 end)
      local r = f:map({ 1, 2 })
      print(plain:map({ 1, 2 }):sum()) -- goes on meanwhile
      print(r:sum())]])
    local function said() return support.read_file(script.dir .. "/err") or "" end
    local told = '{ "H200", "cpu" }: no worker of the cluster has told of such a device yet, or of any\n'
    support.eventually("it is told", function() return said():find(told, 1, true) end)
    own:worker(1)
    local out, status = script.done()
    assert.same({ "6\n5\n", 0 }, { out, status })
  end)

  it("is told which devices there are when none has that name", function()
    own:worker(1)
    local script = own:start(HEADER .. [[
      local f = app:func { gpu = "GTX" } (function(x) return x + 1 end)
      print(app:func { gpu = "cpu" } (function(x) return x end):remote(5))
      io.stdout:flush()
      f:remote(1)]])
    local function said() return support.read_file(script.dir .. "/err") or "" end
    support.eventually("it is told", function() return said():find("\n  [^\n]+ %(cpu, Portable Computing Language, [%d.]+ GiB%), 1 on [^\n]+\n") end)
    contains(said(), 'gpu = "GTX": no worker of the cluster has told of such a device yet; there are:')
    assert.equal("5\n", support.read_file(script.dir .. "/out"))
    cluster.capture("pkill -INT -f " .. script.dir .. "/job.lua")
    script.done()
  end)

  -- 40 inputs of some 50 ms
  local SLOW = [[
    local f = app:func { gpu = "cpu", name = "slow" } (function(x)
      local y = 0
      for i = 1, 2e6 do y = y + math.sin(i * x) end
      return y > 1e9 and 0 or x
    end)
    local got = {}
    for i, value in f:map(tidepool.range(40), { window = 4 }) do
      got[i] = value
      if i == 4 then require "tests.support".note(%q, "some are there") end
    end
    print(#got, table.concat(got, " "))]]

  local function is_right(script)
    local list = {}
    for i = 1, 40 do list[i] = i end
    local out, status, errors = script.done()
    assert.same({ "40\t" .. table.concat(list, " ") .. "\n", 0 }, { out, status }, errors)
  end

  it("loses nothing when what drives the device dies, or its worker, or the machine", function()
    local path = support.temp_path()
    local first = own:worker(1)
    local script = own:start(HEADER .. SLOW:format(path))
    support.eventually("some are there", function() return support.read_file(path) end)
    own:kill(driver(first), "KILL")
    support.eventually("another one drives it", function() return own:said(first):find("takes its place", 1, true) end)
    local second, gone = own:worker(1), driver(first)
    own:kill(first, "KILL")
    is_right(script)
    support.eventually("what the worker had started has ended", function() return not own:is_alive(gone) end)
    contains(own:said(second), "1 device for kernels")
  end)

  it("fails by name when a device does, or the compiler", function()
    local source = HEADER .. [[
      local f = app:func { gpu = "cpu", name = "f" } (function(x) return x end)
      for i, value in f:map({ 1, 2 }, { return_exceptions = true }) do print(i, value.kind, value.message) end]]
    local faulty = "TIDEPOOL_OPENCL=" .. devices.faults()
    local one = own:worker(1, nil, faulty .. " FAULTS_FROM=1")
    local done = own:run(source)
    contains(done.stdout, "1\tdevice\t", "2\tdevice\t", "CL_OUT_OF_RESOURCES")
    own:kill(one, "TERM")
    support.eventually("it has left", function() return not own:is_alive(one) end)
    own:worker(1, nil, faulty .. " FAULTS_BUILD=1")
    done = own:run(source)
    contains(done.stdout .. done.stderr, "a worker of the cluster refuses the work: ", ": f: ", ": compiling the program failed")
    assert.equal(1, done.code)
  end)

  it("runs at other workers where one cannot open its device, which is told", function()
    local source = HEADER .. [[
      local f = app:func { gpu = "cpu", name = "f" } (function(x) return x + 1 end)
      print(f:map(tidepool.range(50000)):sum())
      print(f:map(tidepool.range(3)):sum())]]
    own:worker(1, nil, "TIDEPOOL_OPENCL=" .. devices.faults() .. " FAULTS_OPEN=1")
    local alone = own:run(source)
    assert.same({ "", 1 }, { alone.stdout, alone.code })
    contains(alone.stderr, "a worker of the cluster refuses the work: ", ": opening the device failed: CL_DEVICE_NOT_AVAILABLE")
    assert.is_nil(alone.stderr:find("is not used", 1, true))
    own:worker(1)
    local done = own:run(source)
    assert.same({ "1250075000\n9\n", 0 }, { done.stdout, done.code }, done.stderr)
    if done.stderr ~= "" then -- it has told of its device before the other one has
      contains(done.stderr, "tidepool: a worker of the cluster is not used for this: ", ": opening the device failed: CL_DEVICE_NOT_AVAILABLE")
      assert.equal(1, select(2, done.stderr:gsub("\n", "")))
    end
  end)

  it("is ended with its process where it does not end", function()
    local worker = own:worker(1)
    local script = own:start(HEADER .. [[
      local f = app:func { gpu = "cpu", name = "endless" } (function(x) while x > 0 do x = x + 1 end return x end)
      print(f:remote(-1))
      local r = f:spawn_map { 1 }
      tidepool.sleep(2)
      r:cancel()]])
    local before = driver(worker)
    assert.equal("-1\n", (script.done()))
    support.eventually("its process is gone", function() return not own:is_alive(before) end)
    contains(own:said(worker), "runs what nobody wants any more")
    assert.equal("4\n", own:run(HEADER .. 'print(app:func { gpu = "cpu" } (function(x) return x * x end):remote(2))').stdout)
  end)

  it("is told by name what it cannot have", function()
    own:worker(1, nil, NONE)
    local done = own:run [[
      local tidepool = require "tidepool"
      local app = tidepool.App "job"
      local function complain(...)
        local _, why = pcall(...)
        print((tostring(why):gsub("^[^:]*:%d+: ", "")))
      end
      complain(app.func, app, { gpu = true, executor = "cluster", timeout = 1 }, print)
      complain(app.func, app, { gpu = { "any", "threads" }, executor = "cluster" }, print)
      local a = tidepool.array("double", 3)
      local writes = app:func { name = "writes", gpu = true } (function(i) a[i] = i return i end)
      complain(function() writes:map({ 1, 2, 3 }):list() end)
      local f = app:func { name = "f", gpu = true } (function(x) return x end)
      complain(function() f:stream(1) end)
      print(app:func { gpu = "auto", executor = "cluster" } (function(x) return x .. "!" end):remote(1)) -- no device is meant
      complain(function() return app:func { name = "text", gpu = true } (function(x) return x .. "" end):remote(1) end)]]
    assert.equal("", done.stderr)
    contains(done.stdout, "\n1!\n", "option 'timeout' needs an executor that",
      "option 'gpu' may not end with \"threads\" beside executor = \"cluster\"",
      "writes: it writes to the array 'a', which would stay on another machine", "runs on a device, which gives its results all at once",
      "'text': '..'; there are no strings on a device")
  end)
end)
