-- not stock
-- Slices whose input runs for long (host/engine/share.c): the results before it are handed over,
-- the inputs behind it go to other workers. Whatever the inputs and results look like, and whatever
-- happens to the slow one.

local assert = require "luassert"
local tidepool = require "tidepool"
local support = require "tests.support"
local note, wait_for = support.note, support.wait_for

--- Maps f until nothing but quick inputs is expected, so that slices have many.
local function warm_up(f, input)
  local inputs = {}
  for i = 1, 2000 do inputs[i] = input end
  for _ = 1, 2 do f:map(inputs, { return_exceptions = true }):list() end
end

for _, executor in ipairs { "threads", "processes" } do
  describe("On the executor " .. executor .. " a slow input keeps back", function()
    local app = tidepool.App("share", { executor = executor })
    local path

    before_each(function() path = support.temp_path() end)
    after_each(function() os.remove(path) end)

    --- f on { quick, quick, slow, quick, quick }: all others come before the slow one is released.
    local function check(options, make, quick, slow, same)
      local f = app:func(options)(make(path, wait_for))
      warm_up(f, quick)
      local seen = 0
      for i, value in f:map({ quick, quick, slow, quick, quick }, { ordered = false, return_exceptions = true }) do
        seen = seen + 1
        assert.equal(i == 3, seen == 5)
        same(value)
        if seen == 4 then note(path, "the others are here") end
      end
      assert.equal(5, seen)
    end

    it("no numbers", function()
      check({}, function(to, wait)
        return function(x)
          if x == 0 then wait(to) end
          return x + 1
        end
      end, 1, 0, function(value) assert.is_number(value) end)
    end)

    it("no strings", function()
      check({}, function(to, wait)
        return function(x)
          if x == "slow" then wait(to) end
          return x .. "!", true
        end
      end, "quick", "slow", function(value) assert.is_truthy(value == "quick!" or value == "slow!") end)
    end)

    it("no tables", function()
      check({}, function(to, wait)
        return function(x)
          if x.is_slow then wait(to) end
          return { x.n }
        end
      end, { n = 1 }, { n = 1, is_slow = true }, function(value) assert.same({ 1 }, value) end)
    end)

    it("no promised numbers", function()
      check({ returns = "float" }, function(to, wait)
        return function(x)
          if x == 0 then wait(to) end
          return x
        end
      end, 1, 0, function(value) assert.is_number(value) end)
    end)

    it("no failures, nor their next attempts", function()
      check({ retries = 1 }, function(to, wait)
        return function(x)
          if x == 0 then wait(to) end
          if x == 2 then error "two" end
          return x
        end
      end, 2, 0, function(value) assert.is_truthy(value == 0 or tidepool.is_failure(value) and value.attempts == 2) end)
    end)

    it("nothing but itself where only some may run at once", function()
      check({ concurrency_limit = 2 }, function(to, wait)
        return function(x)
          if x == 0 then wait(to) end
          return x
        end
      end, 1, 0, function(value) assert.is_number(value) end)
    end)

    it("the inputs behind it where only one may run, but no results", function()
      local f = app:func { concurrency_limit = 1 } (function(x)
        if x == 0 then wait_for(path) end
        return x
      end)
      warm_up(f, 1)
      for i, value in f:map { 1, 1, 0, 1, 1 } do
        assert.equal(i == 3 and 0 or 1, value)
        if i == 2 then note(path, "two were delivered") end
      end
    end)

    it("no results that are stored in an array", function()
      local f = app:func { returns = "double" } (function(x)
        if x == 0 then wait_for(path) end
        return 2 * x
      end)
      warm_up(f, 1)
      local results = f:map({ 1, 2, 0, 4, 5 })
      support.eventually("four are over", function() return f:stats().done == 4004 end)
      note(path, "now")
      local values = results:array()
      assert.same({ 2, 4, 0, 8, 10 }, { values[1], values[2], values[3], values[4], values[5] })
    end)

    it("nothing when it fails: the blame is its own", function()
      local f = app:func(function(x)
        if x == 0 then
          wait_for(path)
          error "too late"
        end
        return x
      end)
      warm_up(f, 1)
      local got, failed = 0, nil
      for i, value in f:map({ 1, 1, 0, 1, 1 }, { ordered = false, return_exceptions = true }) do
        got = got + 1
        if got == 4 then note(path, "now") end
        if tidepool.is_failure(value) then failed = { i, value } end
      end
      assert.equal(5, got)
      assert.equal(3, failed[1])
      assert.equal(3, failed[2].index)
      assert.matches("too late", failed[2].message, 1, true)
    end)

    it("no results of a map inside of an input", function()
      local inner = app:func(function(x)
        if x == 0 then wait_for(path) end
        return x
      end)
      local outer = app:func(function()
        local list = {}
        for i = 1, 2000 do list[i] = 1 end
        for _ = 1, 2 do inner:map(list):list() end
        local n = 0
        for i, value in inner:map { 1, 1, 0, 1 } do
          n = n + 1
          if i == 2 then note(path, "two are here") end
          if value ~= (i == 3 and 0 or 1) then error("result " .. i .. " is " .. tostring(value)) end
        end
        return n
      end)
      -- while the agent runs the slow one itself nobody else can take what stands before it
      note(path, "not waited for")
      assert.equal(4, outer:remote())
    end)

    it("nothing when the loop is left meanwhile", function()
      local f = app:func(function(x)
        if x == 0 then wait_for(path) end
        return x
      end)
      warm_up(f, 1)
      local results = f:map { 1, 0, 1, 0, 1, 1, 1 }
      assert.equal(1, results:next())
      results:cancel()
      note(path, "now")
      assert.equal(3, #f:map({ 1, 2, 3 }):list())
    end)

    it("nothing that is lost or comes twice, whichever inputs are slow", function()
      local f = app:func(function(x, seed)
        seed = seed or 1
        if seed > 1 and (x * seed) % 61 < 1 then tidepool.sleep(0.03) end
        if (x * seed) % 997 < 1 then error("input " .. x) end
        return x, "s" .. x
      end)
      for seed = 3, 9, 2 do
        local xs, seeds = {}, {}
        for i = 1, 3000 do xs[i], seeds[i] = i, seed end
        warm_up(f, 1)
        local n = 0
        for i, value, text in f:map(xs, seeds, { return_exceptions = true }) do
          n = n + 1
          assert.equal(n, i)
          if (i * seed) % 997 < 1 then assert.is_true(tidepool.is_failure(value))
          else
            assert.equal(i, value)
            assert.equal("s" .. i, text)
          end
        end
        assert.equal(3000, n)
      end
      local stats = f:stats()
      assert.equal(0, stats.running)
      assert.equal(0, stats.queued)
    end)
  end)
end

it("A slow input keeps back no results from a script that takes steps, where all workers are busy", function()
  assert.equal("1 2 0 3\n", support.output_of([[
    local tidepool = require "tidepool"
    local f = tidepool.App("steps"):func(function(x)
      while x == 0 do
        local file = io.open "DIR/told"
        if file then break end
      end
      return x
    end)
    local quick, got = {}, {}
    for i = 1, 2000 do quick[i] = 1 end
    for _ = 1, 2 do f:map(quick):list() end
    tidepool.async(function()
      for i, x in f:map { 1, 2, 0, 3 } do got[i] = x end
    end)
    while #got < 2 do tidepool.step() end
    io.open("DIR/told", "w"):close()
    while #got < 4 do tidepool.step() end
    print(table.concat(got, " "))
  ]], { workers = 1 }))
end)

pcall(require "ffi".cdef, "void _exit(int);")

describe("A slow input of a process that", function()
  local app = tidepool.App("share", { executor = "processes" })

  --- Maps { quick, quick, slow, quick }: the others have their results. Gives the failure.
  local function failure_of(options, how)
    options.executor = "processes"
    local f = app:func(options)(function(x)
      if x == 0 then
        tidepool.sleep(0.1)
        if how == "dies" then require "ffi".C._exit(3) end
        while true do end
      end
      return x
    end)
    warm_up(f, 1)
    local values = f:map({ 1, 2, 0, 4 }, { return_exceptions = true }):list()
    assert.same({ 1, 2, 4 }, { values[1], values[2], values[4] })
    assert.equal(3, values[3].index)
    return values[3]
  end

  it("dies is to blame alone", function()
    local failure = failure_of({ crash_retries = 1 }, "dies")
    assert.equal("crash", failure.kind)
    assert.equal(2, failure.attempts)
  end)

  it("runs for too long is to blame alone", function()
    assert.equal("timeout", failure_of({ timeout = 0.4 }, "hangs").kind)
  end)

  it("ends quickly but keeps its process long is not taken to run on", function()
    -- The third input runs out of memory, so that the garbage of what is large here is collected
    -- before the fourth begins. Who is told meanwhile that this one runs must begin no other.
    assert.equal("1 1 1 1 1\n", support.output_of([[
      local tidepool = require "tidepool"
      local counts, large = tidepool.array("int32", 5), nil
      local app = tidepool.App("large", { executor = "processes" })
      local f = app:func(function(x)
        if x == -1 then
          large = {}
          for i = 1, 1500000 do large[i] = {} end
        end
        if x > 0 then counts:add(x, 1) end
        if x == 3 then return ("x"):rep(2147483640) end
        return { x }
      end)
      f:remote(-1)
      local inputs = {}
      for i = 1, 3000 do inputs[i] = 0 end
      for _ = 1, 2 do f:map(inputs):list() end
      local values = f:map({ 1, 2, 3, 4, 5 }, { return_exceptions = true }):list()
      assert(values[3].kind == "memory" and values[4][1] == 4 and values[5][1] == 5)
      print(table.concat(counts:list(), " "))
    ]], { workers = 1 }))
  end)

  it("is the last one before its process is replaced is not followed by what others have", function()
    local counts = tidepool.array("int32", 1200)
    local f = app:func { recycle = 500 } (function(x)
      _G.n_run = (_G.n_run or 0) + 1
      if x > 0 then
        counts:add(x, 1)
        if _G.n_run == 500 then tidepool.sleep(0.06) end
      end
      return x
    end)
    warm_up(f, 0)
    assert.equal(1200, #f:map(tidepool.range(1200)):list())
    for x = 1, 1200 do assert.equal(1, counts[x]) end
  end)
end)
