--- What a map takes as inputs: tables, iterators, ranges, other maps.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of

describe("Inputs", function()
  local app = tidepool.App "inputs"
  local give = app:func(function(...) return ... end)
  local count = app:func(function(...) return select("#", ...) end)
  local square = app:func(function(x) return x * x end)

  after_each(function() support.check_pool() end)

  it("come in large blocks, too, when the window is full and results are taken one by one", function()
    local core = require "tidepool.core"
    local push_columns, pushes = core.job.push_columns, 0
    core.job.push_columns = function(...) -- luacheck: ignore
      pushes = pushes + 1
      return push_columns(...)
    end
    local same = app:func(function(x) return x end)
    local n, i, sum = 1000000, 0, 0
    local began = core.loop.now()
    local fine, why = pcall(function()
      for _, y in same:map(function()
        i = i + 1
        if i <= n then return i end
      end) do sum = sum + y end
    end)
    core.job.push_columns = push_columns -- luacheck: ignore
    assert.is_true(fine, why)
    assert.equal(n * (n + 1) / 2, sum)
    -- A block has at least the inputs of a slice, which take some 100 us: few where items are slow,
    -- as in an emulator.
    local most = n / 200 + 10000 * (core.loop.now() - began)
    if not support.sanitized then assert.is_true(pushes < most, pushes .. " blocks") end
  end)

  describe("from a table", function()
    it("with n may have holes, which are nil inputs", function()
      local list = count:map({ n = 3, 1, nil, 3 }):list()
      assert.same({ 1, 1, 1, n = 3 }, list)
      list = give:map({ n = 4, nil, 2 }):list()
      assert.same({ [2] = 2, n = 4 }, list)
    end)

    it("with n are as many as n says", function()
      assert.same({ 1, 2, n = 2 }, give:map({ 1, 2, 3, 4, n = 2 }):list())
      assert.equal(0, give:map({ n = 0 }):list().n)
    end)

    it("with a hole and without n are refused with what to do", function()
      local _, n, err = nil, 0, nil
      local ok, raised = pcall(function()
        _, n, err = collect(give:map { 1, nil, 3 })
      end)
      if not ok then err = raised end
      assert.is_true(n <= 1)
      contains(tostring(err), "hole", "pass n")
    end)

    it("are taken as they were when the caller changes the table afterwards", function()
      local inputs = {}
      for i = 1, 1000 do inputs[i] = i end
      local results = give:map(inputs, { window = 10 })
      for i, value in results do
        inputs[i] = "changed"
        assert.is_true(value == i or value == "changed")
      end
    end)

    it("may grow, shrink or vanish while the map runs, without a crash", function()
      local inputs = {}
      for i = 1, 1000 do inputs[i] = { i } end
      local results = give:map(inputs, { window = 10 })
      for i = 1, 1000 do inputs[i] = nil end
      for i = 1, 5000 do inputs["k" .. i] = i end
      collectgarbage()
      pcall(function()
        for _ in results do end
      end)
    end)

    it("may be false", function()
      assert.same({ false, true, false, n = 3 }, give:map({ false, true, false }):list())
    end)
  end)

  describe("from an iterator", function()
    it("end with its first nil", function()
      local i = 0
      assert.same({ 1, 4, 9, n = 3 }, square:map(function()
        i = i + 1
        if i <= 3 then return i end
      end):list())
    end)

    it("hand all values of a step to the function when it is the only source", function()
      local a, b = give:map(("a=1,b=2"):gmatch "(%w)=(%w)"):list()
      assert.same({ "a", "b", n = 2 }, a)
      assert.same({ "1", "2", n = 2 }, b)
    end)

    it("hand the first value of each step to the function when there are several sources", function()
      local n, a, b = app:func(function(...) return select("#", ...), ... end):map(("a=1,b=2"):gmatch "(%w)=(%w)", { 7, 8 }):list()
      assert.same({ 2, 2, n = 2 }, n)
      assert.same({ "a", "b", n = 2 }, a)
      assert.same({ 7, 8, n = 2 }, b)
    end)

    it("may be a triple as of pairs", function()
      local seen = {}
      for _, key, value in give:map(tidepool.iter(pairs { a = 1, b = 2 })) do seen[key] = value end
      assert.same({ a = 1, b = 2 }, seen)
      local i, v = give:map(tidepool.iter(ipairs { "x", "y" })):list()
      assert.same({ 1, 2, n = 2 }, i)
      assert.same({ "x", "y", n = 2 }, v)
    end)

    it("may be a callable table or a wrapped coroutine", function()
      local i = 0
      local callable = setmetatable({}, {
        __call = function()
          i = i + 1
          if i < 4 then return i end
        end,
      })
      assert.same({ 1, 2, 3, n = 3 }, give:map(tidepool.iter(callable)):list())
      assert.same({ "a", "b", n = 2 }, give:map(coroutine.wrap(function()
        coroutine.yield "a"
        coroutine.yield "b"
      end)):list())
    end)

    it("are not asked again after their end", function()
      local calls = 0
      give:map(function()
        calls = calls + 1
        if calls <= 2 then return calls end
      end):list()
      assert.equal(3, calls)
    end)

    it("that fail at the first step give no result and the error", function()
      local _, n, err
      local ok, raised = pcall(function()
        _, n, err = collect(give:map(function() error { code = 9 } end))
      end)
      if not ok then n, err = 0, raised end
      assert.equal(0, n)
      assert.equal("input", err.phase)
      assert.equal(9, err.code)
    end)

    it("that fail end the map also with return_exceptions", function()
      local i = 0
      local got, n, err = collect(give:map(function()
        i = i + 1
        if i == 3 then error("source broke", 0) end
        return i
      end, { return_exceptions = true }))
      assert.same({ 1, 2 }, got)
      assert.equal(2, n)
      contains(err.message, "source broke")
      assert.equal("input", err.phase)
    end)

    it("that wait for results of their own map when none are to come are told", function()
      for _, read in ipairs { "next", "list" } do
        local results, i, line = nil, 0, nil
        results = give:map(function()
          i = i + 1
          if i <= 4 then return i end
          line = debug.getinfo(1, "l").currentline + 1
          for _ = 1, 100 do results[read](results) end
        end, { window = 4 })
        local _, _, err = collect(results)
        assert.equal("input", err.phase)
        contains(err.message, ("inputs_spec.lua:%d: "):format(line), "wait for its own results")
        support.check_pool()
      end
    end)

    it("that are builtins and fail show no place of the library", function()
      local _, _, err = collect(give:map(setmetatable({}, { __call = string.rep })))
      assert.matches("^bad argument #1", err.message)
      assert.equal(err.message, err.value)
      local rep = tidepool.App("builtins"):func(string.rep)
      err = support.failure_of(function() rep:starmap({ { "x" } }):list() end)
      assert.matches("^bad argument #2", err.message)
      assert.equal(err.message, err.value)
    end)

    it("may use maps themselves", function()
      local i = 0
      assert.same({ 1, 4, 9, n = 3 }, give:map(function()
        i = i + 1
        if i <= 3 then return (square:remote(i)) end
      end):list())
    end)

    it("that give a value which cannot travel fail at that index only", function()
      local inputs = { 1, io.tmpfile(), 3 }
      local got, n, err = collect(give:map(inputs, { return_exceptions = true }))
      assert.is_nil(err)
      assert.equal(3, n)
      assert.equal(1, got[1])
      assert.equal("codec", got[2].kind)
      assert.equal(2, got[2].index)
      contains(got[2].message, "a userdata cannot travel")
      assert.equal(3, got[3])
    end)
  end)

  describe("from a range", function()
    it("count from 1, between bounds, by steps and down", function()
      assert.same({ 1, 2, 3, n = 3 }, give:map(tidepool.range(3)):list())
      assert.same({ 3, 4, 5, n = 3 }, give:map(tidepool.range(3, 5)):list())
      assert.same({ 1, 3, 5, n = 3 }, give:map(tidepool.range(1, 6, 2)):list())
      assert.same({ 3, 2, 1, n = 3 }, give:map(tidepool.range(3, 1, -1)):list())
      assert.same({ 0, 0.25, 0.5, n = 3 }, give:map(tidepool.range(0, 0.5, 0.25)):list())
      assert.equal(0, give:map(tidepool.range(0)):list().n)
      assert.equal(0, give:map(tidepool.range(5, 1)):list().n)
    end)

    it("can be used again, and beside others", function()
      local range = tidepool.range(3)
      assert.same({ 1, 4, 9, n = 3 }, square:map(range):list())
      assert.same({ 1, 4, 9, n = 3 }, square:map(range):list())
      local add = app:func(function(a, b) return a + b end)
      assert.same({ 2, 4, 6, n = 3 }, add:map(range, range):list())
    end)

    it("tell a map their total", function()
      local results = give:map(tidepool.range(1000))
      assert.equal(1000, results:progress().total)
      results:cancel()
    end)
  end)

  describe("from another map", function()
    it("are its results in order, so that maps can be chained", function()
      local double = app:func(function(x) return 2 * x end)
      assert.same({ 2, 8, 18, n = 3 }, double:map(square:map { 1, 2, 3 }):list())
    end)

    it("hand over all return values of the first", function()
      local two = app:func(function(x) return x, x + 1 end)
      local add = app:func(function(a, b) return a + b end)
      assert.same({ 3, 5, n = 2 }, add:map(two:map { 1, 2 }):list())
    end)

    it("keep nil results as nil inputs", function()
      local odd = app:func(function(x) if x % 2 == 1 then return x end end)
      local is_nil = app:func(function(x) return x == nil end)
      assert.same({ false, true, false, n = 3 }, is_nil:map(odd:map { 1, 2, 3 }):list())
    end)

    it("raise the first map's failure at its place", function()
      local picky = app:func { name = "picky" } (function(x)
        if x == 3 then error "not three" end
        return x
      end)
      local got, n, err = collect(square:map(picky:map { 1, 2, 3, 4 }))
      assert.equal(2, n)
      assert.same({ 1, 4 }, got)
      contains(tostring(err), "not three", "picky")
    end)

    it("stay inside both windows", function()
      local asked = 0
      local source = function()
        asked = asked + 1
        return asked
      end
      for i in square:map(give:map(source, { window = 5 }), { window = 5 }) do
        assert.is_true(asked <= i + 10)
        if i == 50 then break end
      end
    end)
  end)

  describe("of different lengths", function()
    it("end with the shortest, whatever kind it is", function()
      local add = app:func(function(a, b) return a + b end)
      assert.same({ 11, 22, n = 2 }, add:map({ 1, 2 }, tidepool.range(10, 1e9, 10)):list())
      local i = 0
      assert.same({ 11, 22, n = 2 }, add:map(function() i = i + 1 return i end, { 10, 20 }):list())
    end)

    it("keep nil inputs of tables with n", function()
      local list = count:map({ n = 2 }, { 1, 2, 3 }):list()
      assert.same({ 2, 2, n = 2 }, list)
    end)
  end)

  it("that are huge tables arrive whole", function()
    local big = {}
    for i = 1, 100000 do big[i] = i end
    local sum = app:func(function(t)
      local s = 0
      for i = 1, #t do s = s + t[i] end
      return s
    end)
    assert.same({ 5000050000, n = 1 }, sum:map({ big }):list())
  end)

  it("are not read ahead further than the default window while nothing is taken", function()
    local asked = 0
    local results = give:map(function()
      asked = asked + 1
      return asked
    end)
    support.sleep(0.05)
    local at_rest = asked
    assert.is_true(at_rest < 1e6)
    results:cancel()
    assert.equal("cancelled", failure_of(function()
      for _ in results do end
    end).kind)
  end)
end)
