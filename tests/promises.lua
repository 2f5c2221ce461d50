--- The product's promises, one list for every executor.
--
-- Each promise is { says = a sentence, check = function(case), needs = list of abilities }. A case
-- makes functions that run on the executor under test: `case.func(fn)` or `case.func(options, fn)`.
-- An executor is asked for a promise when it has all that the promise needs, which follows from its
-- capabilities (promises.abilities):
--
--   parallel   two inputs can run at the same time
--   background inputs run while the caller does something else
--   near       inputs run on this machine: none travels in a chunk with others
--   apart      functions run in Lua states of their own, which live on
--   lua        functions are run by Lua, so that they may do anything: not numbers in, numbers out
--              on a device
--   kill, isolated, streams   as in tidepool.Executor: a running item can be stopped; its crash is
--              survived; it gives values while it runs
--
-- A new executor starts by passing this list (tests/promises_spec.lua finds it and asks).

local assert = require "luassert"
local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of
local note, sleep = support.note, tidepool.sleep
local here = support.file()

local promises = {}

local function promise(says, check, ...)
  promises[#promises + 1] = { says = says, check = check, needs = { ... } }
end

--- What an executor (tidepool.Executor) is asked for.
function promises.abilities(executor)
  return {
    lua = executor.runs_lua, background = not executor.by_owner, near = not executor.far, apart = not executor.by_owner,
    parallel = not executor.by_owner and support.workers() > 1, kill = executor.kill, isolated = executor.isolated,
    streams = executor.streams,
  }
end

--- As support.wait_for, but other inputs of a function with concurrent_inputs go on.
local function wait_for(path)
  for _ = 1, 120000 do
    local file = io.open(path)
    if file then return file:close() end
    sleep(0.001)
  end
  error("nobody made " .. path .. " within two minutes")
end

--- 1, 2, ..., n as a table.
local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

local function boom_at_7(x)
  if x == 7 then error("boom 7") end
  return x
end

-- ---- order ----

promise("results come in the order of the inputs", function(case)
  local square = case.func(function(x) return x * x end)
  local last = 0
  for i, value in square:map(numbers(1000)) do
    assert.equal(last + 1, i)
    assert.equal(i * i, value)
    last = i
  end
  assert.equal(1000, last)
end)

promise("results come in the order of the inputs when later ones finish first", function(case)
  local later_first = case.func(function(x)
    sleep((10 - x) * 0.002)
    return x
  end)
  local order = {}
  for i, value in later_first:map(numbers(10)) do
    assert.equal(i, value)
    order[#order + 1] = i
  end
  assert.same(numbers(10), order)
end, "lua")

promise("without order every result comes once and says whose it is", function(case)
  local triple = case.func(function(x) return 3 * x end)
  for _, options in ipairs { { ordered = false }, { order_outputs = false } } do
    local got, n = collect(triple:map(numbers(500), options))
    assert.equal(500, n)
    for i = 1, 500 do assert.equal(3 * i, got[i]) end
  end
end)

promise("a result that is ready overtakes a slow one when the order does not matter", function(case)
  local path = support.temp_path()
  local first_waits = case.func(function(x)
    if x == 1 then wait_for(path) end
    return x
  end)
  local order = {}
  for i in first_waits:map({ 1, 2 }, { ordered = false }) do
    order[#order + 1] = i
    if i == 2 then note(path, "2 was delivered") end
  end
  assert.same({ 2, 1 }, order)
end, "lua", "parallel")

promise("an input that turns out slow keeps back neither results before it nor inputs behind it", function(case)
  local path = support.temp_path()
  local f = case.func(function(x)
    if x == 0 then wait_for(path) end
    return x
  end)
  -- many inputs that take no time, so that the next ones are expected to be like these
  for _ = 1, 2 do assert.equal(2000, #f:map(tidepool.range(2000)):list()) end
  local got = {}
  for _, value in f:map({ 1, 0, 2, 3 }, { ordered = false }) do
    got[#got + 1] = value
    if #got == 3 then note(path, "all others were delivered") end
  end
  assert.equal(0, table.remove(got))
  table.sort(got)
  assert.same({ 1, 2, 3 }, got)
  os.remove(path)
  for i, value in f:map { 1, 2, 0, 3 } do
    if i == 2 then note(path, "2 was delivered") end
    assert.equal(({ 1, 2, 0, 3 })[i], value)
  end
end, "lua", "parallel", "near")

promise("two inputs run at the same time", function(case)
  local dir = support.temp_dir()
  local meet = case.func(function(me, other)
    note(dir .. "/" .. me, "here")
    wait_for(dir .. "/" .. other)
    return me
  end)
  local got, n, err = collect(meet:map({ 1, 2 }, { 2, 1 }))
  assert.is_nil(err)
  assert.equal(2, n)
  assert.same({ 1, 2 }, got)
end, "lua", "parallel")

-- ---- what a result is ----

promise("a nil result is a result and does not end the loop", function(case)
  local odd = case.func(function(x)
    if x % 2 == 0 then return nil end
    return x
  end)
  local indices = {}
  for i, value in odd:map(numbers(10)) do
    indices[#indices + 1] = i
    if i % 2 == 0 then assert.is_nil(value) else assert.equal(i, value) end
  end
  assert.same(numbers(10), indices)
end, "lua")

promise("all return values arrive, also nils at the end, and no values are no values", function(case)
  local some = case.func(function(x)
    if x == 1 then return nil, nil, 3, nil end
    if x == 2 then return end
    return x, "x"
  end)
  local results = some:map { 1, 2, 3 }
  local function count_and_values(...) return { n = select("#", ...), ... } end
  assert.same({ n = 5, [1] = 1, [4] = 3 }, count_and_values(results:next()))
  assert.same({ n = 1, 2 }, count_and_values(results:next()))
  assert.same({ n = 3, 3, 3, "x" }, count_and_values(results:next()))
  assert.same({ n = 0 }, count_and_values(results:next()))
  assert.same({ n = 0 }, count_and_values(results:next()))
end, "lua")

promise("list gives one list per return value, each with its length", function(case)
  local divide = case.func(function(x)
    if x == 3 then return nil, 1 end
    return math.floor(x / 2), x % 2
  end)
  local quotients, remainders = divide:map({ 4, 5, 3 }):list()
  assert.same({ 2, 2, n = 3 }, quotients)
  assert.same({ 0, 1, 1, n = 3 }, remainders)
end, "lua")

promise("no inputs give no results, and the function does not run", function(case)
  local path = support.temp_path()
  local noted = case.func(function(x) note(path, x) end)
  local got, n, err = collect(noted:map {})
  assert.same({}, got)
  assert.equal(0, n)
  assert.is_nil(err)
  assert.equal(0, noted:map({}):list().n)
  assert.same({}, support.notes(path))
end, "lua")

promise("starmap spreads each item over the arguments", function(case)
  local sum = case.func(function(a, b) return a + b end)
  assert.same({ 3, 7, n = 2 }, sum:starmap({ { 1, 2 }, { 3, 4 } }):list())
  local count = case.func(function(...) return select("#", ...) end)
  assert.same({ 0, 3, 2, n = 3 }, count:starmap({ {}, { 1, nil, n = 3 }, { nil, 5, n = 2 } }):list())
end, "lua")

promise("several inputs are zipped to the shortest", function(case)
  local join = case.func(function(a, b, c) return a .. b .. c end)
  assert.same({ "1x!", "2y!", n = 2 }, join:map({ 1, 2, 3 }, { "x", "y" }, { "!", "!", "!", "!" }):list())
end, "lua")

promise("the places of a grid come row by row, and the results are an array of its shape", function(case)
  local place = case.func(function(y, x) return 100 * y + x end)
  local m = place:map(tidepool.grid(3, 7)):array()
  assert.same({ 3, 7, 0, 21 }, { m.rows, m.columns, m.planes, #m })
  for y, x in tidepool.grid(3, 7) do assert.equal(100 * y + x, m:at(y, x)) end
  local deep = case.func({ returns = "int32" }, function(z, y, x) return 100 * z + 10 * y + x end):map(tidepool.grid(2, 3, 5)):array()
  assert.same({ 2, 3, 5, "int32" }, { deep.planes, deep.rows, deep.columns, deep.ctype })
  for z, y, x in tidepool.grid(2, 3, 5) do assert.equal(100 * z + 10 * y + x, deep:at(z, y, x)) end
  local beside = case.func(function(y, x, v) return y * x + v end)
  assert.same({ 101, 202, 302, 404, n = 4 }, beside:map(tidepool.grid(2, 2), { 100, 200, 300, 400, 500 }):list())
  assert.equal(3 * 28 + 7 * 600, place:map(tidepool.grid(3, 7)):sum())
end)

promise("a neighbour is read beyond the border of a matrix as a:at says", function(case)
  local m = tidepool.array("int32", { { 1, 2, 3 }, { 4, 5, 6 } })
  local near = case.func(function(y, x)
    return m:at(y, x), m:at(y - 1, x + 1, "clamp"), m:at(y - 1, x + 1, "wrap"), m:at(y - 1, x + 1, -1)
  end)
  local same, clamped, wrapped, filled = near:map(tidepool.grid(2, 3)):array()
  assert.same({ 1, 2, 3, 4, 5, 6, n = 6 }, same:slice(1):list())
  assert.same({ 2, 3, 3, 2, 3, 3, n = 6 }, clamped:slice(1):list())
  assert.same({ 5, 6, 4, 2, 3, 1, n = 6 }, wrapped:slice(1):list())
  assert.same({ -1, -1, -1, 2, 3, -1, n = 6 }, filled:slice(1):list())
end)

promise("booleans go in and come out", function(case)
  local either = case.func(function(b, x, c)
    if b then return x + 1, not c end
    return x, b or c
  end)
  local sums, truths = either:map({ true, false, true }, { 1, 2, 3 }, { false, true, true }):list()
  assert.same({ 2, 2, 4, n = 3 }, sums)
  assert.same({ true, true, false, n = 3 }, truths)
  sums, truths = either:starmap({ { false, 5, false }, { true, 6, true } }):list()
  assert.same({ 5, 7, n = 2 }, sums)
  assert.same({ false, false, n = 2 }, truths)
  assert.same({ 8, true }, { either:remote(true, 7, false) })
  assert.same({ 7, false }, { either:spawn(false, 7, false):get() })
  local many, xs, n = {}, {}, 3000
  for i = 1, n do many[i], xs[i] = i % 3 == 0, i end
  assert.equal(n * (n + 1) / 2 + n / 3, case.func(function(b, x) return b and x + 1 or x end):map(many, xs):sum())
end)

promise("a map over the results of a map gives what both functions give, one after the other", function(case)
  local add = case.func(function(x) return x * 1.5 + 1 end)
  local halve = case.func(function(x) return x / 2 end)
  local root = case.func(function(x) return (x - 0.25) * (x - 0.25) end)
  local xs = tidepool.array("double", 3000)
  for i = 1, #xs do xs[i] = i * 0.1 end
  for _ = 1, 3 do
    local direct = root:map(halve:map(add:map(xs))):array()
    local inner = add:map(xs)
    local outer = halve:map(inner):list()
    for i = 1, #xs do
      local half = (xs[i] * 1.5 + 1) / 2
      assert.equal(half, outer[i])
      assert.equal((half - 0.25) * (half - 0.25), direct[i])
    end
    local _, why = pcall(function() inner:list() end)
    contains(why, "these results have been read")
  end
end)

promise("a failure names the place of a grid", function(case)
  local m = tidepool.array("double", { { 1, 2, 3 }, { 4, 5, 6 } })
  local f = case.func(function(y, x) return m:at(y, x + 1) end)
  local err = failure_of(function() f:map(tidepool.grid(2, 3)):array() end)
  contains(tostring(err), "array:at: there is no column 4 in 2 rows of 3 columns", "in input 3 (1, 3) of map")
  assert.same({ 3, { 1, 3 }, { 1, 3, n = 2 } }, { err.index, err.place, err.input })
  local list = f:map(tidepool.grid(2, 3), { return_exceptions = true }):list()
  assert.same({ 5, { 2, 3 } }, { list[4], list[6].place })
end)

promise("remote gives all return values, or raises the error", function(case)
  local swap = case.func { name = "swap" } (function(a, b)
    if a == nil then error("nothing to swap") end
    return b, a, nil
  end)
  local function count_and_values(...) return { n = select("#", ...), ... } end
  assert.same({ n = 3, 2, 1 }, count_and_values(swap:remote(1, 2)))
  local failure = failure_of(swap.remote, swap)
  assert.equal("error", failure.kind)
  contains(failure.message, "nothing to swap")
  assert.equal("swap", failure.function_name)
end, "lua")

promise("a call of the function itself is plain Lua, here and now", function(case)
  local calls = 0
  local counted = case.func(function(x)
    calls = calls + 1
    return x, coroutine.running()
  end)
  for i = 1, 3 do
    local value, thread = counted(i)
    assert.equal(i, value)
    assert.equal(coroutine.running(), thread)
  end
  assert.equal(3, calls)
  assert.equal(7, (counted.raw(7)))
  assert.equal(4, calls)
end, "lua")

promise("for_each runs every input for its effect and counts", function(case)
  local path = support.temp_path()
  local noted = case.func(function(x)
    note(path, x)
    return "dropped"
  end)
  local counts = noted:for_each(numbers(50))
  assert.equal(50, counts.ok)
  assert.equal(0, counts.failed)
  local lines = support.notes(path)
  table.sort(lines, function(a, b) return tonumber(a) < tonumber(b) end)
  assert.equal(50, #lines)
  for i = 1, 50 do assert.equal(tostring(i), lines[i]) end
end, "lua")

promise("for_each raises the first failure, or counts failures when asked to ignore them", function(case)
  local odd_fails = case.func(function(x)
    if x % 2 == 1 then error("odd") end
  end)
  assert.equal(1, failure_of(odd_fails.for_each, odd_fails, numbers(10)).index)
  local counts = odd_fails:for_each(numbers(10), { ignore_exceptions = true })
  assert.equal(5, counts.ok)
  assert.equal(5, counts.failed)
end, "lua")

-- ---- errors ----

promise("an error is raised at its place, after all results before it", function(case)
  local f = case.func(boom_at_7)
  local got, n, err = collect(f:map(numbers(20)))
  assert.equal(6, n)
  assert.same(numbers(6), got)
  assert.is_true(tidepool.is_failure(err))
  assert.equal(7, err.index)
  assert.equal("error", err.kind)
  assert.matches("^" .. here .. ":%d+: boom 7$", err.message)
  assert.equal(err.message, err.value)
  assert.equal(1, err.attempts)
  if case.has_traceback then contains(err.traceback, "promises.lua:") end
  support.check_pool()
end)

promise("a failure has the input that failed", function(case)
  local f = case.func(boom_at_7)
  local _, _, err = collect(f:map(numbers(20)))
  assert.same({ 7, n = 1 }, err.input)
end)

promise("a failure has all arguments of its input, whatever they are", function(case)
  local f = case.func(function() error "no" end)
  local function input(fn, ...) return rawget(failure_of(fn, ...), "input") end
  local long = ("long"):rep(5000)
  assert.same({ n = 0 }, input(f.remote, f))
  assert.same({ 1, nil, "x", nil, n = 4 }, input(f.remote, f, 1, nil, "x", nil))
  assert.same({ { a = { 1 } }, false, n = 2 }, input(f.remote, f, { a = { 1 } }, false))
  assert.same({ 1, long, n = 2 }, input(function() f:map({ 1 }, { long }):list() end))
  assert.same({ "s", true, n = 2 }, input(function() f:map({ "s", "t" }, { true, false }):list() end))
  assert.same({ { 1 }, "z", nil, n = 3 }, input(function() f:starmap({ { { 1 }, "z", nil, n = 3 } }):list() end))
  local wide = input(function() f:map(tidepool.array("int64", { 7 }), tidepool.array("float", { 1.5 }), tidepool.array("uint8", { 9 })):list() end)
  assert.same({ 7LL, 1.5, 9, n = 3 }, wide)
  assert.equal("int64_t", tostring(require("ffi").typeof(wide[1])):match "int64_t")
  local call = f:spawn("spawned")
  assert.same({ "spawned", n = 1 }, input(call.get, call))
  local seen = {}
  local again = case.func({ retries = { max = 1, on = function(failure) seen[#seen + 1] = failure.input[1] end } }, function() error "no" end)
  assert.same({ "again", n = 1 }, input(again.remote, again, "again"))
  assert.same({ "again" }, seen)
end, "lua")

promise("a map gives up after as many failures as halt says, in the order of the inputs", function(case)
  local f = case.func(function(x)
    if x % 3 == 0 then error("no " .. x) end
    return x
  end)
  for _, halt in ipairs { { failures = 3 }, { failures = 3, now = true } } do
    local got, n, err = collect(f:map(tidepool.range(1e5), { return_exceptions = true, halt = halt }))
    assert.equal(9, n)
    assert.same({ 3, 6, 9, 8 }, { got[3].index, got[6].index, got[9].index, got[8] })
    assert.equal("halted", err.kind)
    assert.equal("the map was halted: 3 of 9 inputs have failed", err.message)
  end
  local _, n, err = collect(f:map(tidepool.range(1e5), { on_error = function() return 0 end, halt = { share = 0.2 } }))
  assert.same({ 6, "halted" }, { n, err.kind })
  err = failure_of(f.for_each, f, tidepool.range(1e5), { ignore_exceptions = true, halt = { failures = 5 } })
  assert.equal("the map was halted: 5 of 15 inputs have failed", err.message)
  _, n, err = collect(f:map(numbers(8), { return_exceptions = true, halt = { failures = 3 } }))
  assert.same({ 8, nil }, { n, err })
  support.check_pool()
end, "lua")

promise("a map that has as many results as halt wants ends, and what runs comes to its end", function(case)
  local path = support.temp_path()
  local f = case.func(function(x)
    support.note(path, "+")
    support.sleep(0.01)
    support.note(path, "-")
    if x == 2 then error "no" end
    return x
  end)
  local got, n, err = collect(f:map(numbers(600), { return_exceptions = true, window = 600, halt = { success = 3 } }))
  assert.is_nil(err)
  assert.equal(4, n)
  assert.same({ 1, "no", 3, 4 }, { got[1], got[2].value:match "no", got[3], got[4] })
  local begun, ended = 0, 0
  for _, line in ipairs(support.notes(path)) do
    if line == "+" then begun = begun + 1 else ended = ended + 1 end
  end
  assert.equal(begun, ended)
  assert.is_true(begun < 600) -- what had not begun never does
  local list = case.func(function(x) return x end):map(tidepool.range(1 / 0), { halt = { success = 4 } }):list()
  assert.same({ 1, 2, 3, 4, n = 4 }, list)
  support.check_pool()
end, "lua")

promise("of several failures the one with the lowest index is raised, however late it happens", function(case)
  local f = case.func(function(x)
    if x == 4 then
      sleep(0.01)
      error("slow")
    elseif x == 9 then
      error("fast")
    end
    return x
  end)
  for _ = 1, 30 do
    local got, n, err = collect(f:map(numbers(12)))
    assert.equal(3, n)
    assert.same({ 1, 2, 3 }, got)
    assert.equal(4, err.index)
    contains(err.message, "slow")
  end
end, "lua")

promise("after a failure no further input is started", function(case)
  local path = support.temp_path()
  local f = case.func(function(x)
    note(path, x)
    if x == 1 then error("first") end
    sleep(0.005)
  end)
  local _, n, err = collect(f:map(numbers(200)))
  assert.equal(0, n)
  assert.equal(1, err.index)
  support.sleep(0.1)
  local started = #support.notes(path)
  support.sleep(0.2)
  assert.equal(started, #support.notes(path))
  assert.is_true(started < 200)
end, "lua")

promise("with return_exceptions failures take their results' places and the rest runs", function(case)
  local f = case.func(function(x)
    if x == 2 then error("ohno", 0) end
    return x
  end)
  local list = f:map({ 0, 1, 2 }, { return_exceptions = true }):list()
  assert.equal(3, list.n)
  assert.equal(0, list[1])
  assert.equal(1, list[2])
  assert.is_true(tidepool.is_failure(list[3]))
  assert.equal("ohno", list[3].message)
  assert.equal(3, list[3].index)

  local g = case.func(boom_at_7)
  local got, n, err = collect(g:map(numbers(20), { return_exceptions = true }))
  assert.is_nil(err)
  assert.equal(20, n)
  for i = 1, 20 do
    if i == 7 then assert.is_true(tidepool.is_failure(got[i])) else assert.equal(i, got[i]) end
  end
end)

promise("on_error puts a value in a failure's place", function(case)
  local f = case.func(boom_at_7)
  local seen = {}
  local list = f:map(numbers(10), {
    on_error = function(failure)
      seen[#seen + 1] = failure
      return -failure.index
    end,
  }):list()
  assert.same({ 1, 2, 3, 4, 5, 6, -7, 8, 9, 10, n = 10 }, list)
  assert.equal(1, #seen)
  assert.is_true(tidepool.is_failure(seen[1]))
end)

promise("an error value arrives as that value", function(case)
  local f = case.func(function() error { code = 7, why = { "a" } } end)
  local failure = failure_of(f.remote, f)
  assert.same({ code = 7, why = { "a" } }, failure.value)
  assert.equal(7, failure.code)
end, "lua")

promise("a Failure that a function returns is a value and raises nothing", function(case)
  local inner = failure_of(function()
    local f = case.func(function() error("inner") end)
    f:remote()
  end)
  local give = case.func(function(x) return x end)
  local got, n, err = collect(give:map { inner, 2 })
  assert.is_nil(err)
  assert.equal(2, n)
  assert.equal(inner.message, got[1].message)
end, "lua")

promise("a failed run hands over what had finished", function(case)
  local f = case.func(boom_at_7)
  local failure = failure_of(function()
    local list = f:map(numbers(20)):list()
    return list
  end)
  assert.is_true(failure.results.n >= 6)
  for i = 1, 6 do assert.equal(i, failure.results[i]) end
  assert.is_nil(failure.results[7])
end)

promise("every input ends in exactly one result or one failure", function(case)
  local n_inputs = 2000
  local f = case.func(function(x)
    if x % 13 == 5 then error("fails") end
    return x
  end)
  for _, ordered in ipairs { true, false } do
    local got, n, err = collect(f:map(numbers(n_inputs), { return_exceptions = true, ordered = ordered }))
    assert.is_nil(err)
    assert.equal(n_inputs, n)
    for i = 1, n_inputs do
      if i % 13 == 5 then
        assert.is_true(tidepool.is_failure(got[i]))
        assert.equal(i, got[i].index)
      else
        assert.equal(i, got[i])
      end
    end
  end
end)

promise("a map means what the plain loop means", function(case)
  local random = 42
  local function pick(n)
    random = (random * 16807) % 2147483647
    return random % n + 1
  end
  local f = case.func(function(x, fails)
    if fails then error("at " .. x, 0) end
    return x * 2, "x" .. x
  end)
  for _ = 1, 60 do
    local n, inputs = pick(40) - 1, {}
    local one_in = pick(3) == 1 and 10 or 1e9
    for i = 1, n do inputs[i] = { i, pick(one_in) == 1 } end

    local expected, expected_error = {}, nil
    for i, item in ipairs(inputs) do
      local ok, a, b = pcall(f.raw, item[1], item[2])
      if not ok then
        expected_error = a
        break
      end
      expected[i] = { a, b }
    end

    local got = {}
    local ok, err = pcall(function()
      for i, a, b in f:starmap(inputs, { window = pick(20) }) do got[i] = { a, b } end
    end)
    assert.same(expected, got)
    if expected_error then assert.equal(expected_error, err.message) else assert.is_true(ok, tostring(err)) end
  end
end, "lua")

promise("an error in the body of the loop passes through unchanged", function(case)
  local f = case.func(function(x) return x end)
  local mine = {}
  local ok, err = pcall(function()
    for i in f:map(numbers(1000)) do
      if i == 3 then error(mine) end
    end
  end)
  assert.is_false(ok)
  assert.equal(mine, err)
  support.check_pool()
end)

promise("failing inputs leave the pool usable, many times over", function(case)
  local f = case.func(boom_at_7)
  for _ = 1, 100 do
    local _, n = collect(f:map(numbers(20)))
    assert.equal(6, n)
  end
  support.check_pool()
end)

-- ---- inputs and the window ----

promise("endless inputs are read no further than the window ahead of what was taken", function(case)
  local f = case.func(function(x) return x end)
  local asked = 0
  local function endless()
    asked = asked + 1
    return asked
  end
  for _, window in ipairs { 1, 4, 50 } do
    asked = 0
    for i, value in f:map(endless, { window = window }) do
      assert.equal(i, value)
      assert.is_true(asked <= i + window, ("asked for %d inputs with %d taken and window %d"):format(asked, i, window))
      if i == 100 then break end
    end
  end
end)

promise("endless inputs with the default window give results at once", function(case)
  local f = case.func(function(x) return x end)
  for i, value in f:map(tidepool.range(1, 1 / 0)) do
    assert.equal(i, value)
    if i == 5 then break end
  end
  support.check_pool()
end)

promise("an iterator that raises ends the map at its place, after the results due before", function(case)
  local f = case.func(function(x) return x end)
  local got, n, err = collect(f:map(coroutine.wrap(function()
    for i = 1, 6 do coroutine.yield(i) end
    error("gen broke")
  end)))
  assert.equal(6, n)
  assert.same(numbers(6), got)
  assert.is_true(tidepool.is_failure(err))
  assert.equal("error", err.kind)
  assert.equal("input", err.phase)
  contains(err.message, "gen broke")
  support.check_pool()
end)

promise("a map inside a coroutine works when its input iterator yields to the coroutine's owner", function(case)
  local f = case.func(function(x) return x * 10 end)
  local steps = 0
  local task = coroutine.create(function()
    local i = 0
    local function slow_source()
      coroutine.yield()
      i = i + 1
      if i <= 5 then return i end
    end
    return f:map(slow_source):list()
  end)
  local ok, list
  repeat
    ok, list = coroutine.resume(task)
    assert.is_true(ok, tostring(list))
    steps = steps + 1
  until coroutine.status(task) == "dead"
  assert.same({ 10, 20, 30, 40, 50, n = 5 }, list)
  assert.is_true(steps > 5)
end)

promise("two maps that are read in turn, beside one that is never read, keep their orders", function(case)
  local f = case.func(function(x) return x end)
  local unread = f:map(tidepool.range(1, 1 / 0), { window = 3 })
  local a, b = f:map(tidepool.range(1, 100)), f:map(tidepool.range(101, 200), { window = 2 })
  for i = 1, 100 do
    local index, value = a:next()
    assert.equal(i, index)
    assert.equal(i, value)
    index, value = b:next()
    assert.equal(i, index)
    assert.equal(100 + i, value)
  end
  assert.is_nil(a:next())
  assert.is_nil(b:next())
  unread:cancel()
end)

-- ---- cancelling ----

promise("a cancelled map raises a failure of kind cancelled", function(case)
  local f = case.func(function(x) return x end)
  local results = f:map(tidepool.range(1, 1e6), { window = 10 })
  local taken = 0
  local failure = failure_of(function()
    for i in results do
      taken = i
      if i == 3 then results:cancel() end
    end
  end)
  assert.equal(3, taken)
  assert.equal("cancelled", failure.kind)
  results:cancel()
  support.check_pool()
end)

promise("breaking out of the loop is no error and leaves the pool usable", function(case)
  local f = case.func(function(x) return x end)
  for _ = 1, 50 do
    for i in f:map(tidepool.range(1, 1e9)) do
      if i == 3 then break end
    end
  end
  support.check_pool()
end)

-- ---- loops that wait, and loops that were left ----

-- Work for a loop pauses when it has perhaps been left. None of these may be taken for that.
local DELAYS = { 0.001, 0.01, 0.05, 0.09, 0.3 }

--- Every seventh input fails at its first attempt, or at all of them.
local function flaky(case, delay, is_hopeless)
  return case.func({ retries = { max = 1, initial_delay = delay, jitter = 0.2 } }, function(x)
    if x % 7 == 0 and (is_hopeless or tidepool.current().attempt == 1) then error { code = x } end
    return x
  end)
end

--- Takes one result after the other, each of which is its index, or the failure of every seventh.
local function check_flaky(results, n, is_hopeless)
  local taken = 0
  for i, value in results do
    taken = taken + 1
    if is_hopeless and i % 7 == 0 then
      assert.equal(i, value.value.code)
    else
      assert.equal(i, value)
    end
  end
  assert.equal(n, taken)
end

promise("a loop over the results waits for retries, however long they are delayed", function(case)
  for _, delay in ipairs(DELAYS) do
    for _, is_hopeless in ipairs { false, true } do
      check_flaky(flaky(case, delay, is_hopeless):map(numbers(50), { return_exceptions = true }), 50, is_hopeless)
    end
  end
end, "lua")

promise("a loop over results without order waits for retries, however long they are delayed", function(case)
  for _, delay in ipairs { 0.001, 0.09, 0.3 } do
    check_flaky(flaky(case, delay, true):map(numbers(50), { return_exceptions = true, ordered = false }), 50, true)
  end
end, "lua")

promise("a loop in a task waits for retries, however long they are delayed, beside others", function(case)
  local tasks = {}
  for _, delay in ipairs(DELAYS) do
    tasks[#tasks + 1] = tidepool.async(function()
      check_flaky(flaky(case, delay):map(numbers(50)), 50)
      check_flaky(flaky(case, delay, true):map(tidepool.range(50), { return_exceptions = true }), 50, true)
    end)
  end
  tidepool.gather(tasks)
end, "lua")

promise("a loop in a mapped function waits for retries, however long they are delayed", function(case)
  for _, delay in ipairs { 0.001, 0.09, 0.3 } do
    local inner = flaky(case, delay)
    local outer = case.func(function(x)
      local sum = 0
      for i, value in inner:map(tidepool.range(30 + x)) do
        if i ~= value then error("result " .. i .. " is " .. tostring(value)) end
        sum = sum + value
      end
      return sum
    end)
    for x, sum in outer:map(numbers(4)) do assert.equal((30 + x) * (31 + x) / 2, sum) end
  end
end, "lua")

promise("a loop that waits for a slow input keeps the others running meanwhile", function(case)
  local path = support.temp_path()
  local f = case.func(function(x)
    sleep(0.002)
    if x == 1 then wait_for(path) end -- fails when nobody makes it
    if x == 200 then note(path, "here") end
    return x
  end)
  local last = 0
  for i, value in f:map(tidepool.range(200)) do
    assert.equal(i, value)
    last = i
  end
  assert.equal(200, last)
end, "lua", "parallel")

--- Results of f(1), ..., f(n) of which a loop has taken one before it was left, and that nobody
-- works for any more. (A map that was over before the loop had its first result is not left.)
local function left(f, n)
  local results, quiet, done
  support.eventually("work for a loop that was left pauses", function()
    if not results then
      results, quiet, done = f:map(tidepool.range(n)), 0, nil
      results:next()
    end
    local stats = f:stats()
    local is_at_rest = stats.running == 0 and stats.done == done
    quiet = is_at_rest and stats.queued > 0 and quiet + 1 or 0
    done = stats.done
    if is_at_rest and stats.queued == 0 then results = nil end
    return quiet == 10
  end)
  return results
end

promise("work for a loop that was left pauses, and goes on when its results are wanted again", function(case)
  local seconds = 0.001 * (case.at_once or 1)
  local f = case.func(function(x)
    sleep(seconds)
    return x
  end)
  local n = 400
  local ways = {
    loop = function(results)
      local last = 1
      for i, value in results do
        assert.equal(last + 1, i)
        assert.equal(i, value)
        last = i
      end
      assert.equal(n, last)
    end,
    list = function(results)
      local list = results:list()
      assert.same({ n, 2, n }, { list.n, list[2], list[n] })
    end,
    array = function(results) assert.equal(n, results:array()[n]) end,
    sum = function(results) assert.equal(n * (n + 1) / 2 - 1, results:sum()) end,
    done = function(results) support.eventually("the map is done", function() return results:done() end) end,
    progress = function(results) support.eventually("the map is done", function() return results:progress().done == n end) end,
    wait = function(results) assert.equal(results, tidepool.wait({ results })[1]) end,
    as_completed = function(results)
      for one in tidepool.as_completed { results } do assert.equal(results, one) end
    end,
    task = function(results)
      tidepool.async(function()
        local last
        for i in results do last = i end
        assert.equal(n, last)
      end):get()
    end,
  }
  for _, way in pairs(ways) do way(left(f, n)) end
end, "lua", "background")

promise("any number of loops that were left hold up nobody", function(case)
  local f = case.func(function(x)
    sleep(0.001)
    return x
  end)
  local all = {}
  for k = 1, 100 do
    all[k] = f:map(tidepool.range(1000))
    all[k]:next()
  end
  left(f, 1000)
  for i, value in f:map(tidepool.range(100)) do assert.equal(i, value) end
  for k = 1, 100 do all[k]:cancel() end
end, "lua", "background")

-- ---- limits, retries, nesting ----

promise("never more than concurrency_limit inputs run at once", function(case)
  local path = support.temp_path()
  local f = case.func({ concurrency_limit = 1 }, function(x)
    note(path, "+")
    sleep(0.001)
    note(path, "-")
    return x
  end)
  local a, b = f:map(numbers(20)), f:map(numbers(20))
  assert.equal(20, a:list().n)
  assert.equal(20, b:list().n)
  assert.equal(80, #support.notes(path))
  assert.equal(1, support.most_at_once(path))
end, "lua")

promise("a failing input is tried again as often as retries says", function(case)
  local path = support.temp_path()
  local f = case.func({ retries = 2 }, function(x)
    note(path, x)
    if x == 2 then error("always") end
    if x == 3 and tidepool.current().attempt < 3 then error("twice") end
    return x
  end)
  local got, n, err = collect(f:map({ 1, 2, 3 }, { return_exceptions = true }))
  assert.is_nil(err)
  assert.equal(3, n)
  assert.equal(1, got[1])
  assert.equal(3, got[2].attempts)
  assert.equal(3, got[3])
  local times = {}
  for _, line in ipairs(support.notes(path)) do times[line] = (times[line] or 0) + 1 end
  assert.same({ ["1"] = 1, ["2"] = 3, ["3"] = 3 }, times)
end, "lua")

promise("a mapped function can map, and its maps too", function(case)
  local leaf = case.func(function(x) return x end)
  local inner = case.func(function(x)
    local sum = 0
    for _, value in leaf:map { x, x + 1, x + 2 } do sum = sum + value end
    return sum
  end)
  local outer = case.func(function(x)
    local sum = 0
    for _, value in inner:map { x, x } do sum = sum + value end
    return sum
  end)
  assert.same({ 12, 18, 24, n = 3 }, outer:map({ 1, 2, 3 }):list())
end, "lua")

promise("200 maps inside each other work, and one more is an error that names the functions", function(case)
  local ping, pong
  ping = case.func({ name = "ping" }, function(n)
    if n == 1 then return 1 end
    return 1 + pong:map({ n - 1 }):list()[1]
  end)
  pong = case.func({ name = "pong" }, function(n)
    if n == 1 then return 1 end
    return 1 + ping:map({ n - 1 }):list()[1]
  end)
  assert.equal(200, ping:map({ 200 }):list()[1])
  local failure = failure_of(function() return ping:map({ 201 }):list() end)
  contains(tostring(failure), "maps are nested deeper than 200: does 'ping' call itself through map without an end?",
    "('ping' 101 times, 'pong' 100 times)")
end, "lua")

promise("a map that maps itself without end is an error that explains", function(case)
  local endless
  endless = case.func(function(x)
    local list = endless:map({ x + 1 }):list()
    return list[1]
  end)
  local failure = failure_of(endless.remote, endless, 1)
  contains(tostring(failure), "deeper than 200")
  support.check_pool()
end, "lua")

-- ---- telling ----

promise("a function can ask which input, attempt, function and executor it runs for", function(case)
  local f = case.func({ name = "asked" }, function() return tidepool.current() end)
  for i, current in f:map(numbers(3)) do
    assert.equal(i, current.index)
    assert.equal(1, current.attempt)
    assert.equal("asked", current.function_name)
    assert.equal(case.executor, current.executor)
  end
  assert.is_nil(tidepool.current())
end, "lua")

promise("a failure's text names message, input, function, worker, attempt and place", function(case)
  local f = case.func({ name = "careful" }, function(x)
    if x == 2 then error("this is bad", 0) end
    return x
  end)
  local _, _, err = collect(f:map { 1, 2 })
  local text = tostring(err)
  contains(text, "this is bad", "in input 2 of map 'careful'", "attempt 1 of 1", "promises.lua:")
  assert.is_nil(text:find("[tidepool]/", 1, true), "frames of the library in: " .. text)
end, "lua")

promise("stats count what is done and failed", function(case)
  local f = case.func(boom_at_7)
  collect(f:map(numbers(10), { return_exceptions = true }))
  local stats = f:stats()
  assert.equal(9, stats.done)
  assert.equal(1, stats.failed)
  assert.equal(0, stats.queued)
  assert.equal(0, stats.running)
end)

promise("a call that was spawned gives its values when they are asked for", function(case)
  local f = case.func(function(x)
    if x == 0 then error("zero") end
    return x, x * x
  end)
  local good, bad = f:spawn(3), f:spawn(0)
  local a, b = good:get()
  assert.same({ 3, 9 }, { a, b })
  assert.is_true(good:done())
  a, b = good:get()
  assert.same({ 3, 9 }, { a, b })
  contains(failure_of(bad.get, bad).message, "zero")
end)

promise("a map that was spawned runs before it is read", function(case)
  local path = support.temp_path()
  local f = case.func(function(x)
    note(path, x)
    return x
  end)
  local results = f:spawn_map(numbers(5))
  support.eventually("five inputs ran", function() return #support.notes(path) == 5 end)
  assert.same({ 1, 2, 3, 4, 5, n = 5 }, results:list())
end, "lua", "background")

-- ---- random numbers ----

promise("an input's random numbers are its own, and the same whatever runs it and in what order", function(case)
  local random = math.random
  local draws = function(x)
    local sum = 0
    for _ = 1, x % 5 do sum = sum + random() end
    return sum + random(), random(6), math.random(-x, x)
  end
  local n = 3000
  local function all(options, call_options)
    math.randomseed(12)
    local f = case.func(options, draws)
    local a, b, c, seen = {}, {}, {}, {}
    for i, x, y, z in f:map(tidepool.range(n), call_options or { ordered = true }) do a[i], b[i], c[i] = x, y, z end
    for i = 1, n do
      assert(not seen[a[i]], "two inputs drew the same")
      assert(b[i] >= 1 and b[i] <= 6 and b[i] % 1 == 0 and c[i] >= -i and c[i] <= i and c[i] % 1 == 0)
      seen[a[i]] = true
    end
    return { a, b, c }
  end
  local expected = all({})
  assert.same(expected, all({}))
  assert.same(expected, all({}, { ordered = false }))
  assert.same(expected, all({}, { window = 7 }))
  assert.same(expected, all({ concurrency_limit = 1 }))
  -- What they are on each executor: the first numbers of the first map after this seed.
  math.randomseed(12)
  local first, second = case.func(function() return random(), random() end):map({ 1 }):list()
  assert.same({ "0.39840208292139", "0.80345579345486" }, { ("%.14f"):format(first[1]), ("%.14f"):format(second[1]) })
end)

promise("two maps, and two calls, draw different numbers, and a seed gives them again", function(case)
  local f = case.func(function(x) return x * 0 + math.random() end)
  local function some()
    math.randomseed(3)
    local a, b = f:map({ 1, 2 }):list(), f:map({ 1, 2 }):list()
    local c, d, e = f:remote(1), f:remote(1), f:spawn(1)
    local all = { a[1], a[2], b[1], b[2], c, d, e:get() }
    local seen = {}
    for _, x in ipairs(all) do
      assert.is_nil(seen[x])
      seen[x] = true
    end
    return all
  end
  local expected = some()
  assert.same(expected, some())
  math.randomseed(4)
  assert.are_not.equal(expected[1], f:map({ 1, 2 }):list()[1])
end)

promise("an input that is tried again draws what it drew before", function(case)
  local dir = support.temp_dir()
  local f = case.func({ retries = 2 }, function(x)
    local drawn = math.random()
    note(dir .. "/" .. x, ("%.17g"):format(drawn))
    if x % 3 == 0 and tidepool.current().attempt < 3 then error("again") end
    return drawn
  end)
  for i, drawn in f:map(numbers(12)) do
    local noted = support.notes(dir .. "/" .. i)
    assert.equal(i % 3 == 0 and 3 or 1, #noted)
    for _, text in ipairs(noted) do assert.equal(("%.17g"):format(drawn), text) end
  end
end, "lua")

promise("maps inside of items have streams that follow from the item's", function(case)
  local inner = case.func(function() return math.random() end)
  local outer = case.func(function(x)
    local before = math.random()
    local list = inner:map({ 1, 2, 3 }):list()
    return before, list[1], list[3], inner:remote(x), math.random()
  end)
  local function all()
    math.randomseed(9)
    local seen, got = {}, {}
    for i, a, b, c, d, e in outer:map(numbers(40)) do
      got[i] = { a, b, c, d, e }
      for _, x in ipairs(got[i]) do
        assert.is_nil(seen[x])
        seen[x] = true
      end
    end
    return got
  end
  assert.same(all(), all())
end, "lua")

promise("an input that seeds itself draws what plain Lua draws, and changes nothing for others", function(case)
  local f = case.func(function(x)
    if x % 2 == 0 then math.randomseed(x) end
    return math.random(), math.random(100), math.random(3, 5)
  end)
  math.randomseed(1)
  local plain = case.func(function() return math.random(), math.random(100), math.random(3, 5) end)
  local expected = plain:map(numbers(50)):list()
  math.randomseed(1)
  for i, a, b, c in f:map(numbers(50)) do
    if i % 2 == 0 then
      math.randomseed(i)
      assert.same({ math.random(), math.random(100), math.random(3, 5) }, { a, b, c })
    else
      assert.equal(expected[i], a)
    end
  end
end, "lua")

-- ---- streams ----

promise("values come in their order while the function runs, at most `window` ahead, and behind them its error", function(case)
  if case.at_once then return end -- such a function gives no values
  local path = support.temp_path()
  local f = case.func({ window = 3, retries = 2 }, function(n)
    for i = 1, n do
      note(path, i)
      coroutine.yield(i, n)
    end
    error "no more"
  end)
  local got = 0
  local failed = failure_of(function()
    for i, v, n in f:flat_map { 20, 5 } do
      got = got + 1
      assert.same({ 1, got, 20 }, { i, v, n })
      assert.is_true(#support.notes(path) <= got + 3 + 6) -- of both inputs
    end
  end)
  contains(failed.message, "no more")
  assert.same({ 20, 1 }, { got, failed.index })
end, "streams")

promise("what reads a stream may leave it: the function ends, and others run", function(case)
  if case.at_once then return end
  local path = support.temp_path()
  local endless = case.func(function()
    local fine = pcall(function()
      while true do coroutine.yield(1) end
    end)
    note(path, tostring(fine))
  end)
  local stream = endless:stream()
  assert.equal(1, stream())
  stream:cancel()
  assert.is_nil(stream())
  support.eventually("the end of the function", function() return #support.notes(path) == 1 end)
  assert.same({ "false" }, support.notes(path))
  assert.equal(4, case.func(function(x) return 2 * x end):remote(2))
end, "streams")

-- ---- states ----

promise("what a function assigns to upvalues and globals stays in its worker", function(case)
  local counter = 0
  local f = case.func(function()
    counter = counter + 1
    promises_global = counter -- luacheck: ignore
    return counter
  end)
  assert.is_true(f:map(numbers(10)):list().n == 10)
  assert.equal(0, counter)
  assert.is_nil(rawget(_G, "promises_global"))
end, "lua", "apart")

promise("a later map sees the upvalues as they are then", function(case)
  local factor = 2
  local f = case.func(function(x) return factor * x end)
  assert.same({ 2, 4, n = 2 }, f:map({ 1, 2 }):list())
  factor = 5
  assert.same({ 5, 10, n = 2 }, f:map({ 1, 2 }):list())
end)

return promises
