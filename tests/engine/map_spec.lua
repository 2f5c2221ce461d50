--- map, for_each, spawn and what they give back. The promises (promises.lua) come first; here are
-- the details.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of
local note, sleep, wait_for = support.note, support.sleep, support.wait_for

describe("map", function()
  local app = tidepool.App "map"
  local square = app:func { name = "square" } (function(x) return x * x end)

  after_each(function() support.check_pool() end)

  it("gives results that refuse to be taken for a list", function()
    local function refused(fn, ...)
      local fine, why = pcall(fn, square:map { 1, 2 })
      assert.is_false(fine)
      contains(tostring(why), ...)
    end
    refused(function(r) return ipairs(r) end, "table expected, got userdata")
    refused(function(r) return pairs(r) end, "table expected, got userdata")
    refused(function(r) return #r end, "map_spec.lua:", "Results have no length before the end: take results:list()")
    refused(function(r) return r[2] end, "map_spec.lua:", "Results have no element 2", "results:list()[2]")
    refused(function(r) return r:lst() end, "map_spec.lua:", "Results have no method 'lst' (did you mean 'list'?)")
    refused(function(r) return r.list() end, "map_spec.lua:", "results.list was called with a dot", "write results:list()")
  end)

  it("runs 100 inputs and gives their results in order", function()
    local inputs = {}
    for i = 1, 100 do inputs[i] = i end
    local n = 0
    for i, value in square:map(inputs) do
      n = n + 1
      assert.equal(n, i)
      assert.equal(i * i, value)
    end
    assert.equal(100, n)
  end)

  it("gives, as a list, the rest of results that were read by next, at their indexes", function()
    local half = app:func(function(x) return "v" .. x, x / 2 end)
    for _, f in ipairs { square, half } do
      local results = f:map(tidepool.range(1000))
      for i = 1, 7 do assert.equal(i, (results:next())) end
      local values, halves = results:list()
      assert.equal(1000, values.n)
      for i = 1, 7 do assert.is_nil(values[i]) end
      for i = 8, 1000 do
        assert.equal(f == square and i * i or "v" .. i, values[i])
        if halves then assert.equal(i / 2, halves[i]) end
      end
    end
  end)

  it("gives the results of 100,000 tiny calls", function()
    local sum = 0
    for i, value in square:map(tidepool.range(100000)) do
      assert(value == i * i)
      sum = sum + value
    end
    assert.equal(333338333350000, sum)
  end)

  it("starts its work at the call, before the loop", function()
    local path = support.temp_path()
    local noted = app:func(function(x) note(path, x) end)
    local results = noted:map { 1, 2, 3 }
    support.eventually("three inputs ran", function() return #support.notes(path) == 3 end)
    assert.equal(3, results:list().n)
  end)

  it("takes the function and its options in every form of the decorator", function()
    local function double(x) return 2 * x end
    for _, f in ipairs { app:func(double), app:func { name = "a" } (double), app:func({ name = "b" }, double), app:func {} (double) } do
      assert.same({ 2, 4, n = 2 }, f:map({ 1, 2 }):list())
    end
  end)

  it("calls the function as plain Lua in a plain loop", function()
    local got = {}
    for i, x in ipairs { 1, 2, 3 } do got[i] = square(x) end
    assert.same({ 1, 4, 9 }, got)
  end)

  it("gives the same function under other options with with()", function()
    local named = square:with { name = "other" }
    assert.are_not.equal(square, named)
    assert.same({ 9, n = 1 }, named:map({ 3 }):list())
    assert.equal(3, failure_of(function()
      local f = app:func(function() error "no" end):with { retries = 2 }
      f:remote()
    end).attempts)
  end)

  it("keeps a result of every type of value in its place", function()
    local give = app:func(function(x) return x end)
    local inputs = { 1, "two", true, false, { 5 }, n = 6 }
    local list = give:map(inputs):list()
    assert.same({ 1, "two", true, false, { 5 }, n = 6 }, list)
  end)

  it("gives results of mixed lengths and kinds, block after block", function()
    local mixed = app:func(function(x)
      if x % 3 == 0 then return end
      if x % 3 == 1 then return x end
      return "s" .. x, x, nil, { x }
    end)
    local n = 0
    for i, a, b, c, d in mixed:map(tidepool.range(5000)) do
      n = n + 1
      assert(i == n)
      if i % 3 == 0 then
        assert(a == nil and b == nil)
      elseif i % 3 == 1 then
        assert(a == i and b == nil)
      else
        assert(a == "s" .. i and b == i and c == nil and d[1] == i)
      end
    end
    assert.equal(5000, n)
  end)

  it("runs functions that call their own helpers, upvalues and globals", function()
    local base = 100
    local function helper(x) return x + base end
    spec_global_helper = function(x) return -x end -- luacheck: ignore
    local f = app:func(function(x) return spec_global_helper(helper(x)), math.floor(x / 2) end) -- luacheck: ignore
    local a, b = f:map({ 1, 2 }):list()
    assert.same({ -101, -102, n = 2 }, a)
    assert.same({ 0, 1, n = 2 }, b)
  end)

  it("runs methods of tables and recursive functions", function()
    local function fib(n) return n < 2 and n or fib(n - 1) + fib(n - 2) end
    local f = app:func(fib)
    assert.same({ 1, 1, 2, 3, 5, 8, n = 6 }, f:map({ 1, 2, 3, 4, 5, 6 }):list())
  end)

  it("starts a long map without waiting for it", function()
    local path = support.temp_path()
    local waits = app:func(function() wait_for(path) return "done" end)
    local results = waits:map { 1, 2 }
    assert.is_false(results:done())
    note(path, "go")
    assert.same({ "done", "done", n = 2 }, results:list())
  end)

  describe("with on_error", function()
    local picky = app:func { name = "picky" } (function(x)
      if x > 2 then error { code = x } end
      return x
    end)

    it("hands over each failure once, in order, and takes nil for an answer", function()
      local codes = {}
      local got, n, err = collect(picky:map({ 1, 2, 3, 4 }, { on_error = function(failure) codes[#codes + 1] = failure.code end }))
      assert.is_nil(err)
      assert.equal(4, n)
      assert.same({ 1, 2 }, got)
      assert.same({ 3, 4 }, codes)
    end)

    it("is refused beside return_exceptions, and its first value counts", function()
      local both = { on_error = print, return_exceptions = true }
      for _, name in ipairs { "map", "starmap", "for_each", "spawn_map", "flat_map" } do
        local fine, why = pcall(picky[name], picky, { { 1 } }, both)
        assert.is_false(fine)
        assert.matches("map_spec.lua:%d+: picky: options 'on_error' and 'return_exceptions' exclude each other", tostring(why))
      end
      local _, first, second = picky:map({ 3 }, { on_error = function() return 1, 2 end }):next()
      assert.same({ 1, nil }, { first, second })
    end)

    it("ends the map when on_error raises", function()
      local fails = app:func(function(x)
        if x == 2 then error "two" end
        return x
      end)
      local results = fails:map({ 1, 2, 3 }, { on_error = function(failure) error("mine: " .. failure.index, 0) end })
      local got, n, err = support.collect(results)
      assert.same({ 1 }, got)
      assert.equal(1, n)
      assert.equal("mine: 2", err)
      assert.is_nil((results:next()))
      assert.is_true(results:done())
    end)

    it("raises what on_error raises", function()
      local ok, err = pcall(function()
        for _ in picky:map({ 1, 3 }, { on_error = function() error("mine", 0) end }) do end
      end)
      assert.is_false(ok)
      contains(tostring(err), "mine")
    end)
  end)
end)

describe("Results", function()
  local app = tidepool.App "results"
  local square = app:func(function(x) return x * x end)

  after_each(function() support.check_pool() end)

  it("can be read step by step with next()", function()
    local results = square:map { 3, 4 }
    assert.same({ 1, 9 }, { results:next() })
    assert.same({ 2, 16 }, { results:next() })
    assert.equal(0, select("#", results:next()))
    assert.equal(0, select("#", results:next()))
  end)

  it("can be read partly in a loop and further on afterwards", function()
    local results = square:spawn_map { 1, 2, 3, 4 }
    assert.same({ 1, 1 }, { results:next() })
    assert.same({ 2, 4 }, { results:next() })
    local got = {}
    for i, value in results do got[i] = value end
    assert.same({ [3] = 9, [4] = 16 }, got)
  end)

  it("say whether they are done and count without blocking", function()
    local path = support.temp_path()
    local gate = app:func(function(x)
      if x == 2 then wait_for(path) end
      if x == 3 then error "three" end
    end)
    local results = gate:map({ 1, 2, 3 }, { return_exceptions = true })
    assert.is_false(results:done())
    local progress = results:progress()
    assert.is_true(progress.done < 3)
    note(path, "go")
    support.eventually("the map is done", function() return results:done() end)
    progress = results:progress()
    assert.equal(3, progress.total)
    assert.equal(3, progress.done)
    assert.equal(1, progress.failed)
    assert.equal(3, results:list().n)
    assert.is_true(results:done())
  end)

  -- Nothing else happens here between two looks: no turn of the loop, no sleep of ours.
  local function is_done_in_the_end(results)
    local until_s = support.now() + 120
    repeat
      if results:done() then return true end
    until support.now() > until_s
    return false
  end

  it("are done in the end for who asks again and again, whatever gives the inputs", function()
    local add = app:func(function(x, y) return x + (y or 0) end)
    local fails = app:func(function(x) return x == 2 and error "two" or x end)
    local function slow(n)
      local i = 0
      return function()
        sleep(0.002)
        i = i + 1
        return i <= n and i or nil
      end
    end
    local cases = {
      ["results of a map"] = { square:map(square:map { 1, 2, 3 }), { 1, 16, 81, n = 3 } },
      ["with options"] = { square:map(square:map({ 1, 2, 3 }, { window = 2 }), { return_exceptions = true }), { 1, 16, 81, n = 3 } },
      ["of a map of a map"] = { square:map(square:map(square:map { 1, 2 })), { 1, 256, n = 2 } },
      ["of two maps"] = { add:map(square:map { 1, 2, 3 }, square:map { 5, 6, 7 }), { 26, 40, 58, n = 3 } },
      ["beside a list"] = { add:map({ 1, 2, 3 }, square:map { 5, 6, 7 }), { 26, 38, 52, n = 3 } },
      ["with values in the place of failures"] = {
        square:map(fails:map({ 1, 2, 3 }, { on_error = function() return 5 end })), { 1, 25, 9, n = 3 },
      },
      ["of a starmap"] = { add:starmap(app:func(function(x) return { x, x } end):map { 1, 2 }), { 2, 4, n = 2 } },
      ["a slow iterator"] = { square:map(slow(3)), { 1, 4, 9, n = 3 } },
      ["more than the window"] = { square:map(slow(5), { window = 2 }), { 1, 4, 9, 16, 25, n = 5 } },
    }
    for name, case in pairs(cases) do
      assert.is_true(is_done_in_the_end(case[1]), name)
      assert.same(case[2], case[1]:list(), name)
    end
    for name, results in pairs {
      ["a failure"] = fails:map(slow(3)), ["a failure of the inner map"] = square:map(fails:map { 1, 2, 3 }),
      ["a failure of the iterator"] = square:map(function() error "two" end),
    } do
      assert.is_true(is_done_in_the_end(results), name)
      contains(tostring(failure_of(results.list, results)), "two")
    end
    local cancelled = square:map(slow(3))
    cancelled:cancel()
    assert.is_true(cancelled:done())
  end)

  it("do not wait for the results that are their inputs when they are asked whether they are done", function()
    local path = support.temp_path()
    local gate = app:func(function(x)
      wait_for(path)
      return x
    end)
    local results
    tidepool.async(function() -- which begins to read inputs beside us
      results = square:map(gate:map { 2, 3 })
      assert.is_false(results:done())
      assert.is_false(results:done())
      note(path, "go")
      assert.same({ 4, 9, n = 2 }, results:list())
    end):get()
    path = support.temp_path()
    local slow = app:func(function(x)
      if x == 3 then wait_for(path) end
      return x
    end)
    local add = app:func(function(x, y) return x + y end)
    -- the first input takes so long to read that the map returns before it asks for the second
    results = add:map(slow:map { 1, 3 }, function()
      sleep(0.01)
      return 1
    end)
    for _ = 1, 3 do assert.is_false(results:done()) end
    note(path, "go")
    assert.is_true(is_done_in_the_end(results))
    assert.same({ 2, 4, n = 2 }, results:list())
  end)

  it("count as taken what was read of them", function()
    local results = square:map(tidepool.range(5000))
    for i in results do
      if i == 3 then break end
    end
    assert.equal(3, results:progress().taken)
    results:next()
    assert.equal(4, results:progress().taken)
    results:cancel()
    assert.equal(4, results:progress().taken)
  end)

  it("do not know the total of an endless source", function()
    local results = square:map(function() return 1 end, { window = 5 })
    assert.is_nil(results:progress().total)
    results:cancel()
  end)

  it("do not care about progress when stderr is no terminal", function()
    for _, wanted in ipairs { true, false } do
      assert.same({ 1, 4, n = 2 }, square:map({ 1, 2 }, { progress = wanted }):list())
    end
  end)

  it("end quietly after cancel when all had been taken", function()
    local results = square:map { 1, 2 }
    assert.equal(2, results:list().n)
    results:cancel()
    assert.is_true(results:done())
  end)

  it("give their end again and again after a failure was raised", function()
    local f = app:func(function(x) error("no " .. x, 0) end)
    local results = f:map { 1, 2 }
    assert.equal("no 1", failure_of(results.next, results).message)
    local ok, again = pcall(results.next, results)
    assert.is_true(not ok and tidepool.is_failure(again) or ok and again == nil, "neither the end nor the failure")
  end)

  it("are dropped by garbage collection, with what was queued", function()
    local path = support.temp_path()
    local slow = app:func(function()
      note(path, "x")
      sleep(0.005)
    end)
    do
      local results = slow:map(tidepool.range(2000), { window = 2000 })
      results:next()
      results = nil -- luacheck: ignore
    end
    collectgarbage()
    collectgarbage()
    support.eventually("nothing runs", function() return slow:stats().running == 0 end)
    local started = #support.notes(path)
    support.sleep(0.3)
    assert.equal(started, #support.notes(path))
  end)

  it("say what they are", function()
    local named = square:with { name = "sq" }
    contains(tostring(named), "Function", "sq")
    contains(tostring(named:map { 1 }), "Results", "sq")
    contains(tostring(named:spawn(1)), "Call", "sq")
  end)
end)

describe("for_each", function()
  local app = tidepool.App "for_each"

  it("takes several inputs and endless windows of them", function()
    local path = support.temp_path()
    local f = app:func(function(a, b) note(path, a + b) end)
    assert.same({ ok = 2, failed = 0 }, f:for_each({ 1, 2, 3 }, { 10, 20 }))
    local lines = support.notes(path)
    table.sort(lines)
    assert.same({ "11", "22" }, lines)
  end)

  it("runs many inputs from an iterator without keeping results", function()
    local f = app:func(function(x) return ("x"):rep(1000) .. x end)
    local before = support.held().rss
    assert.equal(100000, f:for_each(tidepool.range(100000)).ok)
    if not support.sanitized then assert.is_true(support.held().rss - before < 60) end
  end)
end)

describe("spawn", function()
  local app = tidepool.App "spawn"

  after_each(function() support.check_pool() end)

  it("gives a Call at once, which is done later", function()
    local path = support.temp_path()
    local f = app:func(function(a, b)
      wait_for(path)
      return a, b, nil
    end)
    local call = f:spawn(1, "b")
    assert.is_false(call:done())
    note(path, "go")
    local function count_and_values(...) return { n = select("#", ...), ... } end
    assert.same({ n = 3, 1, "b" }, count_and_values(call:get()))
    assert.is_true(call:done())
  end)

  it("runs beside a long map and is not starved by it", function()
    local f = app:func(function(x) return x end)
    local slow = app:func(function() sleep(0.01) end)
    local results = slow:map(tidepool.range(3000))
    assert.equal(5, f:spawn(5):get())
    assert.is_false(results:done())
    results:cancel()
  end)

  it("gives a failure of kind cancelled after cancel", function()
    local path = support.temp_path()
    local f = app:func { concurrency_limit = 1 } (function(x)
      wait_for(path)
      return x
    end)
    local running, queued = f:spawn(1), f:spawn(2)
    queued:cancel()
    note(path, "go")
    assert.equal("cancelled", failure_of(queued.get, queued).kind)
    assert.equal(1, running:get())
  end)

  it("raises the error each time it is asked", function()
    local f = app:func(function() error { code = 3 } end)
    local call = f:spawn()
    assert.equal(3, failure_of(call.get, call).code)
    assert.equal(3, failure_of(call.get, call).code)
  end)

  it("gives up waiting after get's timeout, and the call goes on", function()
    local path = support.temp_path()
    local f = app:func(function() wait_for(path) return "late" end)
    local call = f:spawn()
    local ok, err = pcall(call.get, call, 0.05)
    assert.is_false(ok)
    assert.equal("timeout", err.kind)
    note(path, "go")
    assert.equal("late", call:get(20))
  end)

  it("starts a map with spawn_map that gives Results", function()
    local f = app:func(function(a, b) return a + b end)
    local results = f:spawn_map({ 1, 2 }, { 3, 4 })
    assert.same({ 4, 6, n = 2 }, results:list())
  end)

  it("holds many calls at once", function()
    local f = app:func(function(x) return x + 1 end)
    local calls = {}
    for i = 1, 1000 do calls[i] = f:spawn(i) end
    for i = 1000, 1, -1 do assert.equal(i + 1, calls[i]:get()) end
  end)
end)

describe("stats", function()
  it("show what is queued and running", function()
    local path = support.temp_path()
    local f = tidepool.App("stats"):func { concurrency_limit = 1 } (function(x)
      wait_for(path)
      if x == 3 then error "three" end
    end)
    local results = f:map({ 1, 2, 3 }, { return_exceptions = true })
    support.eventually("one runs", function() return f:stats().running >= 1 end)
    local stats = f:stats()
    assert.equal(3, stats.queued + stats.running)
    note(path, "go")
    assert.equal(3, results:list().n)
    stats = f:stats()
    assert.same({ 0, 0, 2, 1 }, { stats.queued, stats.running, stats.done, stats.failed })
  end)
end)

describe("An app", function()
  it("gives its defaults to its functions, which may override them", function()
    local app = tidepool.App("defaults", { retries = 1, executor = "inline" })
    local f = app:func(function() error(tidepool.current().executor, 0) end)
    local failure = failure_of(f.remote, f)
    assert.equal("inline", failure.message)
    assert.equal(2, failure.attempts)
    local g = app:func { retries = 0, executor = "threads" } (f.raw)
    failure = failure_of(g.remote, g)
    assert.equal("threads", failure.message)
    assert.equal(1, failure.attempts)
  end)

  it("takes over another app's functions", function()
    local tools = tidepool.App "tools"
    tools:func { name = "double" } (function(x) return 2 * x end)
    local app = tidepool.App "user"
    app:include(tools)
    assert.is_table(app.functions.double)
    assert.same({ 2, n = 1 }, app.functions.double:map({ 1 }):list())
  end)
end)
