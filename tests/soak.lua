--- One process that does all that there is, at random and for long, and must not grow. Not a spec:
-- `make soak` runs it.
--
--   tidepool tests/soak.lua [SECONDS [SEED]]
--
-- Rounds of tasks: maps with limits, errors and retries whose delays go from 1 ms to 1 s, loops
-- that are slow, left or cancelled, nested maps (also too deep ones), typed arrays, reductions,
-- calls, iterators that raise, devices, worker processes that crash, hang, are cancelled and
-- killed, and hosts that are opened, used through the C API and closed. All results are compared
-- with what they must be.
--
-- Between rounds, with the garbage collected, it looks at the process: resident memory,
-- descriptors, mappings, threads, child processes, and the Lua heap of the script's state and of
-- the workers'. What grows has higher valleys in the last third of the run than in the middle one.

local ffi = require "ffi"
local tidepool = require "tidepool"
local lfs = require "lfs"
local support = require "tests.support"

local seconds, seed = tonumber(arg[1]) or 60, tonumber(arg[2]) or os.time()
local sleep, now = support.sleep, support.now

local DELAYS = { 0.001, 0.003, 0.01, 0.03, 0.06, 0.09, 0.12, 0.3, 1 }

-- How much the valleys of the thirds may differ.
-- (There may be spare processes, each with eight descriptors and two or three mappings.)
local SPARES = support.workers()
local SLACK = {
  rss = 6, heap = 0.1, workers = 0.3, -- MiB
  fds = 8 * SPARES, maps = 40 + 3 * SPARES, children = SPARES, threads = 0,
}

local function pick(list)
  return list[math.random(#list)]
end

local function chance(percent)
  return math.random(100) <= percent
end

local function expect(condition, ...)
  if not condition then error(("wrong: " .. ("%s "):rep(select("#", ...))):format(...), 2) end
end

ffi.cdef "int kill(int, int); int getpid(void);"

--- Ids of the processes that this one has started and that still exist, by id.
local function children()
  local list, n = {}, 0
  for thread in lfs.dir "/proc/self/task" do
    for pid in (support.read_file("/proc/self/task/" .. thread .. "/children") or ""):gmatch "%d+" do
      list[tonumber(pid)], n = true, n + 1
    end
  end
  return list, n
end

-- ---- functions of a round ----

--- For workers: fails for every `every`-th input, for ever or at its first attempt; takes a while
-- for every 50th.
local function work(every, is_hopeless, x)
  if every > 0 and x % every == 0 and (is_hopeless or tidepool.current().attempt == 1) then
    if x % 2 == 0 then error { code = x, why = "even" } end
    error("odd " .. x, 0)
  end
  if x % 50 == 0 then sleep(0.002) end
  return 3 * x
end

local function random_function(app)
  local plan = { every = pick { 0, 0, 3, 7, 20 }, is_hopeless = chance(40), delay = pick(DELAYS) }
  plan.retries = plan.every > 0 and (not plan.is_hopeless or chance(50))
  local every, is_hopeless = plan.every, plan.is_hopeless
  local f = app:func({
    retries = plan.retries and { max = 1, initial_delay = plan.delay, jitter = math.random() / 2 } or nil,
    concurrency_limit = chance(25) and math.random(3) or nil,
    executor = chance(15) and "inline" or chance(20) and "processes" or "threads",
    window = chance(25) and math.random(2, 40) or nil,
  }, function(x) return work(every, is_hopeless, x), x % 5 == 0 and { x } or nil end)
  return f, plan
end

--- Is that the result of input i?
local function check(plan, i, value, extra)
  local fails = plan.every > 0 and i % plan.every == 0 and (plan.is_hopeless or not plan.retries)
  if fails then
    expect(tidepool.is_failure(value) and value.index == i, i, tostring(value))
    expect(i % 2 == 0 and value.value.code == i or value.message == "odd " .. i, i, tostring(value))
  else
    expect(value == 3 * i, i, tostring(value))
    expect(i % 5 ~= 0 or extra[1] == i, i, tostring(extra))
  end
end

-- ---- what tasks do ----

local acts = {}

function acts.loop(app)
  local f, plan = random_function(app)
  local n, is_ordered = math.random(300), chance(70)
  local taken, last, stops_at = 0, 0, chance(20) and math.random(n) or nil
  for i, value, extra in f:map(tidepool.range(n), { return_exceptions = true, ordered = is_ordered }) do
    if is_ordered then expect(i == last + 1, i, last) end
    check(plan, i, value, extra)
    taken, last = taken + 1, i
    if chance(1) then tidepool.sleep(pick { 0.01, 0.1, 0.2 }) end
    if taken == stops_at then return end
  end
  expect(taken == n, taken, n)
end

function acts.list(app)
  local f, plan = random_function(app)
  local n, xs = math.random(500), {}
  for i = 1, n do xs[i] = i end
  local results = f:map(xs, { return_exceptions = true })
  if chance(30) then -- by a loop that is left for a while
    results:next()
    tidepool.sleep(0.15)
    results:list()
    return
  end
  local list, extras = results:list()
  expect(list.n == n, list.n, n)
  for i = 1, n do check(plan, i, list[i], extras and extras[i]) end
end

function acts.raise(app)
  local f, plan = random_function(app)
  local n = math.random(200)
  local fine, failure = pcall(function() return f:map(tidepool.range(n)):list() end)
  local fails = plan.every > 0 and n >= plan.every and (plan.is_hopeless or not plan.retries)
  expect(fine == not fails, tostring(failure))
  if fails then check(plan, plan.every, failure) end
end

function acts.cancel(app)
  local results = random_function(app):map(tidepool.range(2000), { return_exceptions = true })
  for _ = 1, math.random(0, 20) do results:next() end
  if chance(70) then results:cancel() end
end

function acts.iterator(app)
  local f, plan = random_function(app)
  local n, at, raises = math.random(200), 0, chance(30)
  local results = f:map(function()
    at = at + 1
    if chance(2) then tidepool.sleep(0.003) end
    if at > n and raises then error("no more", 0) end
    return at <= n and at or nil
  end, { return_exceptions = true })
  local fine, why = pcall(function()
    for i, value, extra in results do check(plan, i, value, extra) end
  end)
  expect(fine == not raises, tostring(why))
  if raises then expect(tostring(why):find("no more", 1, true), tostring(why)) end
end

function acts.calls(app)
  local f, plan = random_function(app)
  local calls = {}
  for i = 1, math.random(60) do calls[i] = f:spawn(i) end
  for i, value in ipairs(tidepool.gather(calls, { return_exceptions = true })) do
    if tidepool.is_failure(value) then
      expect(plan.every > 0 and i % plan.every == 0, i, tostring(value))
    else
      expect(value == 3 * i, i, tostring(value))
    end
  end
  for k = 1, 5 do f:spawn(k):cancel() end
end

function acts.nested(app)
  local inner = random_function(app)
  local limit = chance(30) and 1 or nil
  local outer = app:func({ concurrency_limit = limit }, function(x)
    local sum = 0
    for _, value in inner:map(tidepool.range(x), { return_exceptions = true }) do
      if type(value) == "number" then sum = sum + 1 end
    end
    return sum
  end)
  for i, sum in outer:map(tidepool.range(20)) do expect(sum <= i, i, sum) end
end

function acts.deep(app)
  local f
  f = app:func { name = "deep" } (function(n) return n == 0 and 0 or 1 + f:map({ n - 1 }):list()[1] end)
  expect(f:remote(30) == 30)
  if not chance(20) then return end
  local fine, failure = pcall(f.remote, f, 1000)
  expect(not fine and tostring(failure):find("nested", 1, true), tostring(failure))
end

function acts.arrays(app)
  local n = math.random(20000)
  local x, seen = tidepool.array("double", n), tidepool.array("int32", n)
  for i = 1, n do x[i] = i end
  local f = app:func { returns = "double" } (function(v)
    seen[v] = seen[v] + 1
    return v * 0.5
  end)
  local y = f:map(x):array()
  expect(y[n] == n * 0.5 and seen[1] == 1 and seen[n] == 1, n)
  expect(f:map(x):sum() == n * (n + 1) / 4, n)
  expect(f:map(x:slice(1, 1)):max() == 0.5)
end

function acts.strings(app)
  local f = app:func(function(s, t) return s:rep(2), t end)
  local n = math.random(50)
  local t = { a = { b = { n } } }
  t.self = t
  for i, s, u in f:map(function() return ("s"):rep(n), t end, { window = 5 }) do
    expect(#s == 2 * n and u.a.b[1] == n and u.self == u, i)
    if i == 20 then break end
  end
end

--- In processes: some crash, few never end, all others give what they must.
function acts.deaths(app)
  local crashes, hangs = pick { 3, 7, 40 }, chance(10) and 11 or 0
  local options = { executor = "processes", crash_retries = math.random(0, 1), timeout = hangs > 0 and 3 or nil, recycle = chance(20) and 5 or nil }
  local f = app:func(options, function(x)
    if x % crashes == 1 then require("ffi").cast("int *", 0)[0] = 1 end
    while x == hangs do end
    return 3 * x, ("s"):rep(x * 100)
  end)
  for i, value, text in f:map(tidepool.range(60), { return_exceptions = true }) do
    local kind = i % crashes == 1 and "crash" or i == hangs and "timeout" or nil
    if kind then
      expect(tidepool.is_failure(value) and value.kind == kind, i, tostring(value))
    else
      expect(value == 3 * i and #text == 100 * i, i, tostring(value))
    end
  end
end

--- In processes: what runs is cancelled, or killed from outside. Only while it waits for that: a
-- process that goes on may run another act's input when it is killed.
function acts.ended(app)
  local pids, victims = tidepool.array("int32", 64), {}
  local f = app:func({ executor = "processes", crash_retries = 1000 }, function(x, is_endless)
    local c = require "ffi"
    if not pcall(c.typeof, "tidepool_soak_pid") then c.cdef "typedef int tidepool_soak_pid; int getpid(void);" end
    pids[x] = c.C.getpid()
    while is_endless and tidepool.current().attempt == 1 do end
    return x
  end)
  if chance(50) then
    local results = f:spawn_map({ 1, 2, 3 }, { true, true, true })
    tidepool.sleep(math.random() / 20)
    results:cancel()
    return
  end
  for i = 1, 64 do victims[i] = chance(5) end
  local results = f:spawn_map(tidepool.range(64), victims)
  for i = 1, 64 do
    while victims[i] and pids[i] == 0 do tidepool.sleep(0.002) end
    if victims[i] and children()[pids[i]] then ffi.C.kill(pids[i], 9) end
    local at, got = results:next()
    expect(at == i and got == i, i, tostring(got))
  end
end

--- In processes of processes: functions with limits of their own, mapped in items, some of which
--- are cancelled, or die.
function acts.apart(app)
  local dies, hangs = pick { 3, 5, 0 }, chance(30) and 4 or 0
  local inner = app:func({ executor = "processes", timeout = hangs > 0 and 2 or 60, crash_retries = 0 }, function(x)
    if x == dies then require("ffi").cast("int *", 0)[0] = 1 end
    while x == hangs do end
    return 2 * x, ("s"):rep(x * 1000)
  end)
  local outer = app:func({ executor = "processes", crash_retries = 1000, recycle = chance(20) and 2 or nil }, function(dies_too)
    local here = require "tidepool"
    local is_failure, kinds, sum = here.is_failure, {}, 0
    if dies_too and here.current().attempt == 1 then
      inner:remote(2)
      require("ffi").cast("int *", 0)[0] = 1
    end
    for k, value in inner:map({ 1, 2, 3, 4, 5 }, { return_exceptions = true }) do
      if is_failure(value) then kinds[#kinds + 1] = k .. value.kind else sum = sum + value end
    end
    return sum, table.concat(kinds, " ")
  end)
  if chance(25) then
    local results = outer:spawn_map { false, false, false }
    tidepool.sleep(math.random() / 10)
    results:cancel()
    return
  end
  local kinds, sum = {}, 30
  for x = 1, 5 do
    local kind = x == dies and "crash" or x == hangs and "timeout"
    if kind then kinds[#kinds + 1], sum = x .. kind, sum - 2 * x end
  end
  for i, value, text in outer:map { false, chance(30), false, chance(30) } do
    expect(value == sum and text == table.concat(kinds, " "), i, tostring(value), tostring(text), dies, hangs)
  end
end

local devices = #tidepool.devices()

function acts.device(app)
  if devices == 0 then return end
  local k = math.random(3) -- few programs, so that compiling is not all that is done
  local f = app:func { gpu = true } (function(x) return x * k + 1 end)
  local n = math.random(20000)
  local list = f:map(tidepool.range(n)):list()
  expect(list.n == n and list[n] == n * k + 1, n, list[n])
  expect(f:map(tidepool.range(n)):sum() == k * n * (n + 1) / 2 + n, n)
end

-- ---- hosts ----

ffi.cdef [[
  typedef struct tidepool_soak_error { int code; char message[500]; } tidepool_soak_error;
  int tp_host_open(void **, const void *, tidepool_soak_error *);
  void tp_host_close(void *);
  int tp_host_run_string(void *, const char *, size_t, const char *, tidepool_soak_error *);
  int tp_function_from_lua(void **, void *, const char *, const char *, const void *, tidepool_soak_error *);
  int tp_map_doubles(void **, void *, const double *const *, size_t, size_t, const void *, tidepool_soak_error *);
  int tp_map_read_doubles(void *, double *, size_t, tidepool_soak_error *);
  void tp_map_close(void *);
]]

local scripts = {
  "local f = require 'tidepool'.App():func(function(x) return x end) for i, v in f:map { 1, 2, 3 } do assert(i == v) end",
  "local f = require 'tidepool'.App():func(function(x) error 'no' end) assert(not pcall(f.remote, f, 1))",
  "local f = require 'tidepool'.App():func(function(x) return x end) local r = f:map(require 'tidepool'.range(1, 1 / 0)) r:next() r:next()",
  "local f = require 'tidepool'.App():func { executor = 'processes' } (function(x) return x end) for i, v in f:map { 1, 2, 3 } do assert(i == v) end",
  "local t = require 'tidepool' local f = t.App():func(function(x) return x end) t.async(function() f:remote(1) end):get() f:spawn(2)",
}

--- Opens another host, uses it, and closes it in the midst of things.
local function use_host()
  local err, out = ffi.new "tidepool_soak_error[1]", ffi.new "void *[1]"
  local function try(rc) expect(rc == 0, ffi.string(err[0].message)) end
  try(ffi.C.tp_host_open(out, nil, err))
  local host = out[0]
  local code = pick(scripts)
  try(ffi.C.tp_host_run_string(host, code, #code, "soak", err))
  try(ffi.C.tp_function_from_lua(out, host, "f", "return function(x) return x * 2 end", nil, err))
  local n = 100
  local x, y = ffi.new("double[?]", n), ffi.new("double[?]", n)
  for i = 0, n - 1 do x[i] = i end
  try(ffi.C.tp_map_doubles(out, out[0], ffi.new("const double *[1]", x), 1, n, nil, err))
  local map = out[0]
  if chance(70) then
    try(ffi.C.tp_map_read_doubles(map, y, n, err))
    for i = 0, n - 1 do expect(y[i] == 2 * i, i, y[i]) end
    if chance(50) then ffi.C.tp_map_close(map) end
  end
  ffi.C.tp_host_close(host)
end

-- ---- rounds and samples ----

local names = {}
for name in pairs(acts) do names[#names + 1] = name end
table.sort(names)

local counts = {}

local function round()
  local app = tidepool.App "soak"
  local tasks = {}
  for k = 1, math.random(8) do
    local name = pick(names)
    counts[name] = (counts[name] or 0) + 1
    tasks[k] = tidepool.async(function() acts[name](app) end)
  end
  if chance(30) then
    use_host()
    counts.host = (counts.host or 0) + 1
  end
  for _, task in ipairs(tasks) do task:get() end
  tidepool.loop()
end

local heap_of = tidepool.App "samples":func(function()
  collectgarbage()
  collectgarbage()
  sleep(0.02) -- so that every worker has one
  return tidepool.current().worker, collectgarbage "count" / 1024
end)

local function sample()
  for _ = 1, 3 do collectgarbage() end
  local s = support.held()
  s.children = select(2, children())
  s.maps = select(2, support.read_file("/proc/self/maps"):gsub("\n", ""))
  s.heap = collectgarbage "count" / 1024
  local heaps = {}
  for _, worker, heap in heap_of:map(tidepool.range(4 * support.workers())) do heaps[worker] = heap end
  s.workers = 0
  for _, heap in pairs(heaps) do s.workers = math.max(s.workers, heap) end
  return s
end

--- The least value in samples from..to.
local function valley(samples, name, from, to)
  local least = math.huge
  for k = math.floor(from) + 1, math.floor(to) do least = math.min(least, samples[k][name]) end
  return least
end

io.stdout:setvbuf "line"
local samples, rounds = {}, 0
local began, looked, reported = now(), 0, 0
math.randomseed(seed)
while now() - began < seconds do
  local fine, why = xpcall(round, function(why) return debug.traceback(tostring(why)) end)
  if not fine then
    io.stderr:write(("soak: seed %d, round %d: %s\n"):format(seed, rounds, why))
    os.exit(1)
  end
  rounds = rounds + 1
  if now() - looked > seconds / 120 then
    samples[#samples + 1] = sample()
    looked = now()
  end
  if now() - reported > 30 then
    local s = samples[#samples]
    local line = "soak: %4.0f s, %5d rounds: %.1f MiB, %d descriptors, %d mappings, %d threads, %d children, " ..
      "Lua heap %.2f MiB, workers' at most %.2f MiB"
    print(line:format(now() - began, rounds, s.rss, s.fds, s.maps, s.threads, s.children, s.heap, s.workers))
    reported = now()
  end
end

local parts, n = {}, #samples
for _, name in ipairs(names) do parts[#parts + 1] = ("%s %d"):format(name, counts[name] or 0) end
print(("soak: seed %d, %d rounds in %.0f s: %s, host %d"):format(seed, rounds, now() - began, table.concat(parts, ", "), counts.host or 0))
if n < 9 then
  print "soak: too short to see whether anything grows"
  os.exit(0)
end
-- Pools, heaps and compiled code fill for some minutes, and on a loaded machine for some hundred
-- rounds: until then memory that grows says nothing.
local WARM_S, WARM_ROUNDS = 300, 400
local has_grown = false
for _, name in ipairs { "rss", "fds", "maps", "threads", "children", "heap", "workers" } do
  local middle, last = valley(samples, name, n / 3, 2 * n / 3), valley(samples, name, 2 * n / 3, n)
  local grows = last - middle > SLACK[name]
  local says_much = (seconds >= WARM_S and rounds >= WARM_ROUNDS) or name == "fds" or name == "threads" or name == "children"
  has_grown = has_grown or (grows and says_much)
  local verdict = not grows and "" or says_much and "  GROWS" or "  (grows; too short to say)"
  local line = "soak: %-8s first %8.2f, middle third %8.2f, last third %8.2f%s"
  print(line:format(name, samples[1][name], middle, last, verdict))
end
os.exit(has_grown and 1 or 0)
