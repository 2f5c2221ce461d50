--- Random maps on devices, some at once, which are read, left and cancelled while launches and
--- copies fail, queues and contexts die, and kernels stall or never end:
-- TIDEPOOL=build/tidepool build/tidepool tests/torture/devices.lua [seconds=N] [seed=N] [hangs=0]
--
-- For so many seconds (60). What comes must be right, and what fails must say so as a failure of a
-- known kind. Made for the sanitizers (TIDEPOOL=build/tsan/tidepool, with the options that
-- scripts/run-tests gives). FAULTS_NONE=1 has devices share the host's memory. The failures that
-- were seen are listed at the end.

local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

local settings = { seconds = 60, seed = os.time() % 100000, hangs = 1 }
support.settings(settings)

if not os.getenv "TIDEPOOL_OPENCL" then -- runs itself with an OpenCL that fails: tests/opencl/faults.c
  local kind = os.getenv "FAULTS_NONE" and "FAULTS_NONE=1" or "FAULTS_COPIES=1"
  local command = ("%s TIDEPOOL_OPENCL=%s %s --workers 3 tests/torture/devices.lua seconds=%d seed=%d hangs=%d"):format(kind,
    require("tests.support_device").faults(), support.binary, settings.seconds, settings.seed, settings.hangs)
  os.exit(os.execute(command) == 0 and 0 or 1)
end

ffi.cdef [[
  void faults_kill(int n); void faults_kill_all(void); void faults_kill_queues(void); void faults_fail(int n); void faults_fail_move(int way, int n);
  void faults_fail_flush(int n); void faults_fail_finish(int n); void faults_stall(int ms, int blocks); void faults_occupy(int how);
  void faults_go_on(void); int faults_deaths(void); int faults_stalled(void);
]]
local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
math.randomseed(settings.seed)

local function chance(percent) return math.random(100) <= percent end
local function one_of(list) return list[math.random(#list)] end

-- ---- what runs ----

local app = tidepool.App("torture", { gpu = "cpu" })
local N = 20000
local xs, ones, counts = tidepool.array("double", N), tidepool.array("double", N, 1), tidepool.array("double", 64)
for i = 1, N do xs[i] = i end

local function work(x)
  local s = x
  for i = 1, 50 do s = s * 0.5 + i end
  return s
end

--- Functions, each with what it gives.
local plain = app:func { name = "plain" } (function(x) return x + 1 end)
local typed = app:func { name = "typed", returns = "double" } (function(x) return 2 * x end)
local mapped = {
  { plain, function(x) return x + 1 end },
  { typed, function(x) return 2 * x end },
  { app:func { name = "reads", returns = "double" } (function(x) return x + ones[x] end), function(x) return x + 1 end },
  { app:func { name = "writes" } (function(x) counts[x % 64 + 1] = counts[x % 64 + 1] + 1 return x end), function(x) return x end },
  { app:func { name = "fails", returns = "double" } (function(x) if x % 4999 == 0 then error(("bad %d"):format(x)) end return x end),
    function(x) return x end },
  { app:func { name = "kernel", kernel = "double kernel_(double x) { return x * 3; }" }, function(x) return x * 3 end },
  { app:func { name = "auto", gpu = "auto" } (work), work },
  { app:func { name = "auto typed", gpu = "auto", returns = "double" } (work), work },
}
local driven = {
  { app:func { executor = "threads", name = "by hand" } (function(x)
    local device = require "tidepool".gpu.device()
    local b = device:buffer("double", { x, x + 1, x + 2 })
    device:kernel "__kernel void add(__global double *a) { a[get_global_id(0)] += 1; }" (3, b)
    return b:read()[3]
  end), function(x) return x + 3 end },
  { app:func { executor = "threads", name = "inner" } (function(x) return typed:map({ x, x + 1 }):array()[2] end), function(x) return 2 * x + 2 end },
  { app:func({ executor = "processes", timeout = 60, name = "processes" }, function(x)
    local device = require "tidepool".gpu.device()
    local b = device:buffer("double", { x })
    device:kernel "__kernel void add(__global double *a) { a[0] += 1; }" (1, b)
    return b:read()[1]
  end), function(x) return x + 1 end },
}

-- ---- what comes of it ----

local seen, operations = {}, 0 -- how often which failure was seen

local KINDS = { device = true, cancelled = true, timeout = true, error = true }
local function tolerate(why)
  local text = type(why) == "table" and why.message or tostring(why)
  local is_known = type(why) == "table" and KINDS[why.kind] or text:find "still runs" or text:find "lost" or text:find "failed"
  assert(is_known, ("%s: %s"):format(type(why) == "table" and tostring(why.kind) or "no failure", text))
  local key = text:gsub("%d+", "N"):gsub("^.-: ", ""):sub(1, 100)
  seen[key] = (seen[key] or 0) + 1
end

local wrong -- the first result that is

local function check(v, i, gives)
  if tidepool.is_failure(v) then return tolerate(v) end
  if v ~= gives(i) then wrong = wrong or ("item %d: %s in the place of %s"):format(i, tostring(v), tostring(gives(i))) end
end

--- How a map may be read, or left.
local ways = {
  function(results, gives) for i, v in results do check(v, i, gives) end end,
  function(results, gives)
    local last = math.random(2000)
    for i, v in results do
      check(v, i, gives)
      if i == last then break end
    end
  end,
  function(results)
    tidepool.sleep(math.random() * 0.02)
    results:cancel()
  end,
  function(results) results:next() end, -- and forgotten
  function(results, gives) for i, v in ipairs(results:list()) do check(v, i, gives) end end,
  function(results) results:sum() end,
  function(results, gives)
    local a = results:array()
    for i = 1, a.length, 7 do check(a[i], i, gives) end
  end,
}

local function run_map()
  local f, gives = unpack(one_of(mapped))
  local n = one_of { 1, 3, 100, 5000, N }
  local list = {}
  for i = 1, math.min(n, 500) do list[i] = i end
  one_of(ways)(f:map(one_of { xs, list, tidepool.range(n) },
    { return_exceptions = chance(50), window = chance(30) and one_of { 10, 1000 } or nil, times = chance(20) }), gives)
end

local function run_driven()
  local f, gives = unpack(one_of(driven))
  one_of { ways[1], ways[3] } (f:map({ 1, 2, 3, 4 }, { return_exceptions = true }), gives)
end

local function run_buffer()
  local b = tidepool.gpu.device():buffer(tidepool.array("double", N, 1))
  if chance(50) then b = typed:map(b):buffer() end
  b:read()
end

local until_ = tidepool.now() + settings.seconds

local function run_all()
  while tidepool.now() < until_ and not wrong do
    operations = operations + 1
    local fine, why = pcall(one_of { run_map, run_map, run_map, run_map, run_driven, run_buffer })
    if not fine then tolerate(why) end
    if chance(5) then collectgarbage() end
  end
end

-- ---- what goes wrong meanwhile ----

local function go_on()
  faults.faults_occupy(0)
  faults.faults_go_on()
end

local troubles = {
  function() faults.faults_fail(math.random(3)) end,
  function() faults.faults_fail_move(math.random(0, 1), math.random(3)) end,
  function() faults.faults_fail_flush(1) end,
  function() faults.faults_fail_finish(1) end,
  function() faults.faults_kill(math.random(30)) end,
  function() faults.faults_kill_all() end,
  function() faults.faults_kill_queues() end,
  function() faults.faults_stall(math.random(50), math.random(0, 1)) end,
}
if settings.hangs ~= 0 then
  troubles[#troubles + 1] = function() -- the next launch never ends, at first
    faults.faults_occupy(math.random(0, 2))
    faults.faults_stall(0, math.random(0, 1))
    tidepool.sleep(math.random() * 2)
    if chance(70) then go_on() end
  end
  troubles[#troubles + 1] = go_on
end

local function make_trouble()
  while tidepool.now() < until_ and not wrong do
    tidepool.sleep(0.02 + math.random() * 0.1)
    one_of(troubles)()
  end
  while true do -- what was told to hang may do so only now
    go_on()
    tidepool.sleep(0.05)
  end
end

local runners = {}
for i = 1, 4 do runners[i] = tidepool.async(run_all) end
local trouble = tidepool.async(make_trouble)
for _, one in ipairs(runners) do one:get() end
trouble:cancel()
faults.faults_stall(-1, 0)
for _ = 1, 50 do
  go_on()
  local fine, list = pcall(function() return plain:map({ 1 }):list() end)
  if fine then
    check(list[1], 1, mapped[1][2])
    break
  end
  tolerate(list)
end
print(("seed %d: %d operations, %d deaths, %d stalls"):format(settings.seed, operations, faults.faults_deaths(), faults.faults_stalled()))
for what, count in pairs(seen) do print(("%6d x %s"):format(count, what)) end
assert(not wrong, wrong)
