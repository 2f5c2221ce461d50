--- Random programs against their serial meaning. Not a spec: stress_spec.lua and scripts/stress run
-- it in processes of their own.
--
--   tidepool --workers N tests/stress.lua SEED COUNT     programs of seeds SEED .. SEED + COUNT - 1
--
-- A program is some functions with random limits, retries, executors and ways to fail, which map
-- over each other (and themselves), and some tasks that map, spawn, gather, break off and cancel.
-- All that a function does follows from its argument, so that plain Lua (`serial`) says what must
-- come out. What is checked besides: no function ever runs more often at once than its limit
-- allows, each index comes once, and in the end nothing runs, and no thread or file is left.

local tidepool = require "tidepool"
local support = require "tests.support"
local mutex = tidepool.array("uint8", 64)

-- ---- random numbers, and numbers that only look so ----

local Random = {}
Random.__index = Random

local function new_random(seed)
  local self = setmetatable({ state = seed % 2147483646 + 1 }, Random)
  for _ = 1, 5 do self:up_to(1) end
  return self
end

--- 1..n
function Random:up_to(n)
  self.state = self.state * 16807 % 2147483647
  return self.state % n + 1
end

function Random:chance(percent) return self:up_to(100) <= percent end
function Random:one_of(list) return list[self:up_to(#list)] end

--- For workers too.
local function hash(a, b)
  return (a * 7919 + b * 104729 + 12345) % 10007
end

-- ---- functions ----

--- For workers: how many items of function i run now, and the most there were: counts[2 i - 1],
-- counts[2 i].
local function count(counts, i, step)
  local ffi = require "ffi"
  if not pcall(ffi.typeof, "tidepool_stress_mutex") then
    ffi.cdef "typedef struct { uint8_t b[64]; } tidepool_stress_mutex; int pthread_mutex_lock(void *); int pthread_mutex_unlock(void *);"
  end
  ffi.C.pthread_mutex_lock(mutex.data)
  counts[2 * i - 1] = counts[2 * i - 1] + step
  if counts[2 * i - 1] > counts[2 * i] then counts[2 * i] = counts[2 * i - 1] end
  ffi.C.pthread_mutex_unlock(mutex.data)
end

--- What a function says of its argument before it maps: an error's text, or nothing. `attempts` is
-- how many it has.
local function error_of(plan, x, attempts)
  local h = hash(plan.id, x)
  if plan.fails > 0 and h % plan.fails == 0 then return ("fail %d %d"):format(plan.id, x) end
  if plan.flaky > 0 and h % plan.flaky == 1 and attempts <= h % 3 then return ("flaky %d %d"):format(plan.id, x) end
end

--- The inputs of the map that function `plan` makes for x.
local function nested_inputs(plan, x)
  local child, xs = plan.children[hash(plan.id, x + 1) % #plan.children + 1], {}
  for k = 1, hash(plan.id, x + 2) % plan.width + 1 do xs[k] = (x * 3 + k * 7) % 1000 end
  return child, xs
end

local function add(sum, k, value)
  return (sum + k * value) % 1000003
end

--- For workers: maps over the child and adds up, in one of the ways there are.
local function nested(functions, plan, x, depth)
  local child, xs = nested_inputs(plan, x)
  local f, sum, depths = functions[child], 0, {}
  for k in ipairs(xs) do depths[k] = depth - 1 end
  if plan.how == "remote" then
    for k, y in ipairs(xs) do
      local value = f:remote(y, depth - 1)
      sum = add(sum, k, value)
    end
    return sum
  elseif plan.how == "gather" then
    local calls = {}
    for k, y in ipairs(xs) do calls[k] = f:spawn(y, depth - 1) end
    for k, value in ipairs(tidepool.gather(calls, { return_exceptions = true })) do
      sum = add(sum, k, tidepool.is_failure(value) and #value.message or value)
    end
    return sum
  end
  local results
  if plan.how == "starmap" then
    local items = {}
    for k, y in ipairs(xs) do items[k] = { y, depth - 1 } end
    results = f:starmap(items, plan.options)
  elseif plan.how == "iterator" then
    local k = 0
    results = f:map(function()
      k = k + 1
      return xs[k], depth - 1
    end, plan.options)
  else
    results = f:map(xs, depths, plan.options)
  end
  for k, value in results do
    if tidepool.is_failure(value) then
      if value.index ~= k then error "a failure of another index" end
      value = #value.message
    end
    sum = add(sum, k, value)
    if k == plan.breaks_at then break end
  end
  return sum
end

local function new_function(app, functions, plan, counts)
  local options = { name = "f" .. plan.id, concurrency_limit = plan.limit, retries = plan.retries, executor = plan.executor, window = plan.window }
  return app:func(options, function(x, depth)
    count(counts, plan.id, 1)
    local current = tidepool.current()
    local problem = error_of(plan, x, current.attempt)
    if plan.naps and hash(plan.id, x) % 4 == 0 then support.sleep(1e-4) end
    count(counts, plan.id, -1)
    if problem then error(problem, 0) end
    local value = hash(x, plan.id)
    if depth > 0 then value = value + nested(functions, plan, x, depth) end
    local after = tidepool.current()
    if after.index ~= current.index or after.function_name ~= current.function_name then error "another item's current()" end
    return value, hash(x, 3) % 2 == 0 and { x } or nil
  end)
end

local function random_plan(random, id, n)
  local plan = { id = id, fails = random:one_of { 0, 0, 30, 7 }, flaky = random:one_of { 0, 4, 9 }, children = {}, width = random:up_to(4),
    how = random:one_of { "map", "map", "starmap", "iterator", "remote", "gather" }, naps = random:chance(30) }
  for k = 1, random:up_to(2) do plan.children[k] = random:up_to(n) end
  if random:chance(40) then plan.limit = random:up_to(3) end
  if random:chance(40) then
    plan.max = random:up_to(3)
    plan.retries = random:chance(50) and plan.max or { max = plan.max, initial_delay = 0.0005, jitter = 0.5 }
  end
  if random:chance(20) then plan.executor = "inline" end
  if random:chance(20) then plan.window = random:up_to(9) end
  plan.options = { return_exceptions = random:chance(40), ordered = true }
  if random:chance(50) then plan.options.window = random:up_to(5) end
  if plan.options.return_exceptions then plan.options.ordered = random:chance(70) end
  if random:chance(20) and plan.options.ordered then plan.breaks_at = random:up_to(3) end
  return plan
end

-- ---- the serial meaning ----

--- true and the value, or false and the message, of plans[i] at x.
local function serial(program, i, x, depth)
  local key = (i * 1000 + x) * 10 + depth
  local known = program.known[key]
  if known then return known[1], known[2] end
  local plan = program.plans[i]
  local problem = error_of(plan, x, 1 + (plan.max or 0))
  local fine, value = not problem, problem or hash(x, i)
  if fine then
    if depth > 0 then
      local child, xs = nested_inputs(plan, x)
      local catches = plan.how == "gather" or (plan.how ~= "remote" and plan.options.return_exceptions)
      local sum = 0
      for k, y in ipairs(xs) do
        local went_well, result = serial(program, child, y, depth - 1)
        if not went_well and not catches then
          fine, value = false, result
          break
        end
        sum = add(sum, k, went_well and result or #result)
        if k == plan.breaks_at and plan.how ~= "remote" and plan.how ~= "gather" then break end
      end
      if fine then value = value + sum end
    end
  end
  program.known[key] = { fine, value }
  return fine, value
end

-- ---- what the tasks do ----

local function check(condition, ...)
  if not condition then error(("wrong: " .. ("%s "):rep(select("#", ...))):format(...), 2) end
end

--- One result of item k against the serial meaning.
local function check_result(program, action, k, value, extra)
  local x = action.xs[k]
  check(x ~= nil, action.text, "there is no input", k)
  local fine, expected = serial(program, action.id, x, action.depth)
  if fine then
    check(value == expected, action.text, "result", k, "is", tostring(value), "not", expected)
    check((type(extra) == "table" and extra[1] or nil) == (hash(x, 3) % 2 == 0 and x or nil), action.text, "second result of", k, tostring(extra))
  elseif action.options.on_error then
    check(value == "caught " .. expected, action.text, "result", k, "is", tostring(value), "not a caught", expected)
  else
    check(tidepool.is_failure(value), action.text, "result", k, "is", tostring(value), "not a failure", expected)
    check(value.message == expected and value.index == k and value.kind == "error", action.text, k, tostring(value), "instead of", expected)
  end
end

--- The error that ended a map must be the first one of the serial loop, and `n` results came before
-- it.
local function check_end(program, action, n, failure)
  local first
  for k, x in ipairs(action.xs) do
    if not serial(program, action.id, x, action.depth) then first = k break end
  end
  local catches = action.options.return_exceptions or action.options.on_error
  if catches or not first then
    check(failure == nil, action.text, "ended with", tostring(failure))
    check(n == #action.xs, action.text, "gave", n, "of", #action.xs)
    return
  end
  check(tidepool.is_failure(failure), action.text, "was to fail at", first, "not", tostring(failure))
  if action.options.ordered ~= false then
    check(failure.index == first and n == first - 1, action.text, "failed at", failure.index, "after", n, "not at", first)
  end
  local fine, message = serial(program, action.id, action.xs[failure.index], action.depth)
  check(not fine and failure.message == message, action.text, "failed with", failure.message, "not", message)
end

-- Not of the programs' random numbers: how often it is called depends on time.
local naps = new_random(1)
local function nap()
  if naps:chance(20) then tidepool.sleep(naps:up_to(3) * 0.0003) end
end

local function open(action, f)
  local xs, depth, options = action.xs, action.depth, action.options
  if action.form == "starmap" then
    local items = {}
    for k, x in ipairs(xs) do items[k] = { x, depth } end
    return f:starmap(items, options)
  elseif action.form == "iterator" then
    local k = 0
    return f:map(function()
      k = k + 1
      nap()
      return xs[k], depth
    end, options)
  elseif action.form == "spawn_map" then
    return f:spawn_map(xs, tidepool.iter(function() return depth end), options)
  end
  return f:map(xs, function() return depth end, options)
end

local reads = {}

function reads.loop(program, action, results)
  local seen, n, limit = {}, 0, action.stops_at or math.huge
  local fine, failure = pcall(function()
    for k, value, extra in results do
      check(not seen[k], action.text, "gave", k, "twice")
      seen[k], n = true, n + 1
      if action.options.ordered ~= false then check(k == n, action.text, "gave", k, "as", n) end
      check_result(program, action, k, value, extra)
      if n == limit then break end
      nap()
    end
  end)
  if not fine and not tidepool.is_failure(failure) then error(failure, 0) end
  if n ~= limit then check_end(program, action, n, not fine and failure or nil) end
end

function reads.list(program, action, results)
  local fine, values, extras = pcall(results.list, results)
  local failure = not fine and values or nil
  if failure and not tidepool.is_failure(failure) then error(failure, 0) end
  if failure then values = failure.results end
  local n = 0
  for k = 1, values.n do
    -- Without order there are holes before a failure.
    if values[k] ~= nil or action.options.ordered ~= false then
      n = n + 1
      if not failure then check_result(program, action, k, values[k], extras and extras[k]) end
    end
  end
  check_end(program, action, n, failure)
end

function reads.cancel(_, action, results, random)
  for _ = 1, random:up_to(4) do
    if not pcall(results.next, results) then return end
  end
  results:cancel()
  if random:chance(50) then
    local ok, failure = pcall(results.list, results)
    check(ok or tidepool.is_failure(failure) or tostring(failure):find("have been read", 1, true), action.text, tostring(failure))
  end
end

function reads.drop(_, _, _, random)
  if random:chance(30) then collectgarbage() end
end

local acts = {}

function acts.map(program, action, random)
  local results = open(action, program.functions[action.id])
  nap()
  reads[action.read](program, action, results, random)
end

function acts.for_each(program, action)
  local f = program.functions[action.id]
  local counts = f:for_each(action.xs, function() return action.depth end, { ignore_exceptions = true, window = action.options.window })
  local ok = 0
  for _, x in ipairs(action.xs) do ok = ok + (serial(program, action.id, x, action.depth) and 1 or 0) end
  check(counts.ok == ok and counts.failed == #action.xs - ok, action.text, counts.ok, counts.failed, "not", ok)
  nap()
end

function acts.calls(program, action, random)
  local f = program.functions[action.id]
  local calls, cancelled, number = {}, {}, {}
  for k, x in ipairs(action.xs) do
    calls[k] = f:spawn(x, action.depth)
    number[calls[k]] = k
    if random:chance(10) then
      calls[k]:cancel()
      cancelled[k] = true
    end
  end
  local function check_call(k, call)
    local fine, value = pcall(call.get, call)
    local works, expected = serial(program, action.id, action.xs[k], action.depth)
    if cancelled[k] and not fine and value.kind == "cancelled" then return end
    check(fine == works, action.text, "call", k, tostring(value), "not", expected)
    check((fine and value or value.message) == expected, action.text, "call", k, tostring(value), "not", expected)
  end
  local way = random:up_to(3)
  if way == 1 then
    for k, call in ipairs(calls) do check_call(k, call) end
  elseif way == 2 then
    local n = 0
    for call in tidepool.as_completed(calls) do
      n = n + 1
      check_call(number[call], call)
    end
    check(n == #calls, action.text, n, "of", #calls)
  else
    tidepool.gather(calls, { return_exceptions = true })
    for k, call in ipairs(calls) do
      check(call:done(), action.text, "not done", k)
      check_call(k, call)
    end
  end
end

local function random_action(random, program)
  local action = { id = random:up_to(#program.plans), depth = random:up_to(4) - 1, options = { ordered = true }, xs = {} }
  local n = random:chance(15) and 0 or random:up_to(action.depth == 0 and 300 or ({ 60, 20, 8 })[action.depth])
  for k = 1, n do action.xs[k] = random:up_to(1000) - 1 end
  action.act = random:one_of { "map", "map", "map", "calls", "for_each" }
  action.form = random:one_of { "map", "starmap", "iterator", "spawn_map" }
  action.read = random:one_of { "loop", "loop", "loop", "list", "cancel", "drop" }
  local catch = random:up_to(3)
  if catch == 1 then action.options.return_exceptions = true end
  if catch == 2 then action.options.on_error = function(failure) return "caught " .. failure.message end end
  if random:chance(30) then action.options.ordered = false end
  if random:chance(50) then action.options.window = random:up_to(random:one_of { 2, 20, 500 }) end
  if random:chance(20) then action.stops_at = random:up_to(10) end
  action.text = ("%s (%s, %s) of f%d, %d inputs, depth %d:"):format(action.act, action.form, action.read, action.id, n, action.depth)
  return action
end

-- ---- programs ----

local function run(seed)
  local random = new_random(seed)
  local app = tidepool.App("stress " .. seed)
  local program = { plans = {}, functions = {}, known = {} }
  local n = random:up_to(4)
  local counts = tidepool.array("int32", 2 * n)
  for id = 1, n do program.plans[id] = random_plan(random, id, n) end
  for id = 1, n do program.functions[id] = new_function(app, program.functions, program.plans[id], counts) end
  local tasks = {}
  for t = 1, random:up_to(4) do
    local own = new_random(seed * 10 + t)
    local function work()
      for _ = 1, own:up_to(4) do
        local action = random_action(own, program)
        acts[action.act](program, action, own)
      end
    end
    if t == 1 and random:chance(30) then work() else tasks[#tasks + 1] = tidepool.async(work) end
  end
  for _, task in ipairs(tasks) do task:get() end
  tidepool.loop()
  for id, f in ipairs(program.functions) do
    support.eventually(("function %d is at rest"):format(id), function()
      tidepool.sleep(0) -- iterators of maps that were left may still be waiting
      collectgarbage()
      local stats = f:stats()
      return stats.running == 0
    end)
    local limit = program.plans[id].limit
    check(counts[2 * id - 1] == 0, "function", id, "is still running", counts[2 * id - 1])
    check(not limit or counts[2 * id] <= limit, "function", id, "ran", counts[2 * id], "at once under limit", limit)
  end
end

local first = assert(tonumber(arg[1]), "usage: tests/stress.lua SEED COUNT")
local threads, before = support.held().threads, nil
for seed = first, first + (tonumber(arg[2]) or 1) - 1 do
  local fine, why = xpcall(run, debug.traceback, seed)
  if not fine then
    io.stderr:write(("seed %d with %d workers: %s\n"):format(seed, support.workers(), tostring(why)))
    os.exit(1)
  end
  support.check_pool()
  before = before or support.held()
end
local after = support.held()
check(after.fds <= before.fds, "files open:", after.fds, "before:", before.fds)
local of_sanitizer = support.sanitized and 1 or 0 -- ThreadSanitizer's own comes with the first of ours
check(after.threads <= threads + support.workers() + of_sanitizer, "threads:", after.threads)
print "ok"
