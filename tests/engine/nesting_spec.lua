--- Maps inside mapped functions, on pools of every size and under every limit.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains, failure_of = support.contains, support.failure_of

local prelude = [[
  local tidepool = require "tidepool"
  local app = tidepool.App "nesting"
  local function sum(results)
    local s = 0
    for _, v in results do s = s + v end
    return s
  end
]]

describe("Nested maps", function()
  for _, workers in ipairs { 1, 2, 3 } do
    describe("on a pool of " .. workers .. (workers == 1 and " worker" or " workers"), function()
      local function output_of(source)
        return support.output_of(prelude .. source, { workers = workers, seconds = 240 })
      end

      it("has the lines of all functions in the traceback, and none of ours", function()
    local done = support.run_script [[
      local tidepool = require "tidepool"
      local app = tidepool.App "lines"
      local inner = app:func { executor = "inline" } (function(x)
        error("bad " .. x)
      end)
      local outer = app:func(function(x)
        return inner:remote(x) + 1
      end)
      outer:remote(7)
    ]]
    contains(done.stderr, ":7: in function")
    contains(done.stderr, ":4: in function")
    assert.is_nil(done.stderr:find("[C]", 1, true), done.stderr)
    assert.is_nil(done.stderr:find("[tidepool]/", 1, true), done.stderr)
  end)

  it("to depth 6 finish with the right result", function()
        assert.equal("729\n", output_of [[
          local level
          level = app:func { name = "level" } (function(depth)
            if depth == 0 then return 1 end
            return sum(level:map { depth - 1, depth - 1, depth - 1 })
          end)
          print((level:remote(6)))
        ]])
      end)

      it("of a function over itself compute fib(10)", function()
        assert.equal("55\n", output_of [[
          local fib
          fib = app:func { name = "fib" } (function(n)
            if n < 2 then return n end
            return sum(fib:map { n - 1, n - 2 })
          end)
          print((fib:remote(10)))
        ]])
      end)

      it("of a function over itself finish under concurrency_limit = 1", function()
        assert.equal("34\n", output_of [[
          local fib
          fib = app:func { name = "fib", concurrency_limit = 1 } (function(n)
            if n < 2 then return n end
            return sum(fib:map { n - 1, n - 2 })
          end)
          print((fib:remote(9)))
        ]])
      end)

      it("of two functions over each other finish under concurrency_limit = 1", function()
        assert.equal("64\n64\n", output_of [[
          local ping, pong
          ping = app:func { name = "ping", concurrency_limit = 1 } (function(n)
            if n == 0 then return 1 end
            return sum(pong:map { n - 1, n - 1 })
          end)
          pong = app:func { name = "pong", concurrency_limit = 1 } (function(n)
            if n == 0 then return 1 end
            return sum(ping:map { n - 1, n - 1 })
          end)
          print((ping:remote(6)))
          print(sum(ping:map { 5, 5 }))
        ]])
      end)

      it("by remote, spawn and starmap finish", function()
        assert.equal("6\t10\t7\n", output_of [[
          local add = app:func(function(a, b) return a + b end)
          local f = app:func(function(x)
            local call = add:spawn(x, 8)
            return (add:remote(x, 4)), (call:get()), sum(add:starmap { { x, 1 }, { x, 2 } })
          end)
          print(f:remote(2))
        ]])
      end)

      it("many at once finish in order", function()
        assert.equal("ok\n", output_of [[
          local leaf = app:func(function(x) return x end)
          local f = app:func(function(x) return sum(leaf:map(tidepool.range(x))) end)
          for i, v in f:map(tidepool.range(200)) do assert(v == i * (i + 1) / 2) end
          print "ok"
        ]])
      end)

      it("with endless inputs and an early break leave nothing behind", function()
        assert.equal("10\tok\n", output_of [[
          local leaf = app:func(function(x) return x end)
          local f = app:func(function()
            for i in leaf:map(tidepool.range(1, 1 / 0), { window = 3 }) do
              if i == 10 then return i end
            end
          end)
          for i, v in f:map(tidepool.range(50)) do assert(v == 10) end
          print((f:remote()), "ok")
        ]])
      end)

      it("hand failures up, each level with its own index", function()
        local output = output_of [[
          local inner = app:func { name = "inner" } (function(x)
            if x == 3 then error("root cause", 0) end
            return x
          end)
          local outer = app:func { name = "outer" } (function(x) return sum(inner:map { 1, 2, x }) end)
          local ok, failure = pcall(function() return outer:map({ 1, 2, 3, 4 }):list() end)
          print(ok, failure.index, failure.kind)
          print((tostring(failure):find("root cause", 1, true)) ~= nil, (tostring(failure):find("inner", 1, true)) ~= nil)
          print(sum(outer:map({ 1, 2 })))
        ]]
        assert.equal("false\t3\terror\ntrue\ttrue\n9\n", output)
      end)

      it("too deep end in an error that explains, and the pool lives", function()
        local output = output_of [[
          local endless
          endless = app:func { name = "endless" } (function(n) return sum(endless:map { n + 1 }) end)
          local ok, failure = pcall(endless.remote, endless, 1)
          print(ok, failure.kind, (tostring(failure):find("deeper than 200", 1, true)) ~= nil)
          local square = app:func(function(x) return x * x end)
          print(unpack(square:map({ 1, 2, 3 }):list()))
        ]]
        assert.equal("false\tusage\ttrue\n1\t4\t9\n", output)
      end)

      it("to depth 150 work", function()
        assert.equal("150\n", output_of [[
          local count
          count = app:func { name = "count" } (function(n)
            if n == 0 then return 0 end
            return 1 + sum(count:map { n - 1 })
          end)
          print((count:remote(150)))
        ]])
      end)
    end)
  end

  it("say which executor a function runs on, whoever runs it", function()
    local app = tidepool.App "where"
    local inner = app:func { executor = "inline" } (function() return tidepool.current().executor end)
    local outer = app:func { executor = "threads" } (function()
      return tidepool.current().executor, inner:remote(), inner:map({ 1 }):list()[1]
    end)
    assert.same({ "threads", "inline", "inline" }, { outer:remote() })
  end)

  it("mix executors", function()
    local app = tidepool.App "mixed"
    local leaf = app:func { executor = "inline" } (function(x) return x * 2 end)
    local middle = app:func { executor = "threads" } (function(x)
      local sum = 0
      for _, v in leaf:map { x, x } do sum = sum + v end
      return sum
    end)
    local outer = app:func { executor = "inline" } (function(x)
      local sum = 0
      for _, v in middle:map { x, x } do sum = sum + v end
      return sum, (middle:remote(x))
    end)
    local sums, singles = outer:map({ 1, 2 }):list()
    assert.same({ 8, 16, n = 2 }, sums)
    assert.same({ 4, 8, n = 2 }, singles)
  end)

  it("on threads run at the same time although the function that maps runs inline", function()
    if support.workers() < 2 then return end
    local dir = support.temp_dir()
    local note, wait_for = support.note, support.wait_for
    local app = tidepool.App "mixed"
    local meet = app:func { executor = "threads" } (function(me, other)
      note(dir .. "/" .. me, "here")
      wait_for(dir .. "/" .. other)
      return me
    end)
    local outer = app:func { executor = "inline" } (function()
      local list = meet:map({ 1, 2 }, { 2, 1 }):list()
      return list
    end)
    assert.same({ 1, 2, n = 2 }, (outer:remote()))
  end)

  it("know who they are at every level", function()
    local app = tidepool.App "levels"
    local inner = app:func { name = "inner" } (function() return tidepool.current().function_name, tidepool.current().index end)
    local outer = app:func { name = "outer" } (function()
      local before = tidepool.current()
      local name, index
      for i, a, b in inner:map { 1, 2, 3 } do name, index = a, b + i * 0 end
      local after = tidepool.current()
      return before.function_name, before.index, name, index, after.function_name, after.index
    end)
    for i, a, b, c, d, e, f in outer:map { 1, 2 } do
      assert.same({ "outer", i, "inner", 3, "outer", i }, { a, b, c, d, e, f })
    end
  end)

  for _, outer_executor in ipairs { "threads", "inline" } do
    for _, inner_executor in ipairs { "threads", "inline" } do
      it(("that were spawned (%s in %s) and left are run before the item's result is there"):format(inner_executor, outer_executor), function()
        local path = support.temp_path()
        local note = support.note
        local app = tidepool.App "left"
        local inner = app:func { executor = inner_executor } (function(x)
          note(path, x)
          if x == 7 then error "seven" end
        end)
        local outer = app:func { executor = outer_executor } (function(x)
          local call = inner:spawn(x)
          if x == 7 then pcall(call.get, call) end
          inner:spawn_map { 100 + x, 200 + x }
          return x
        end)
        assert.equal(20, outer:map(tidepool.range(20)):list().n)
        assert.equal(60, #support.notes(path))
      end)
    end
  end

  it("that were spawned and left show their failures, and leak nothing", function()
    local done = support.run_script(prelude .. [[
      local inner = app:func { name = "inner" } (function(x)
        if x == 5000 then error("left alone", 0) end
      end)
      local outer = app:func { name = "outer" } (function(x)
        inner:spawn(x)
        return x
      end)
      local function rss() return tonumber(io.open "/proc/self/status":read "*a":match "VmRSS:%s*(%d+)") / 1024 end
      assert(sum(outer:map(tidepool.range(10000))) == 50005000)
      local before = rss()
      outer:for_each(tidepool.range(10000))
      outer:for_each(tidepool.range(10000))
      print(rss() - before < 10)
    ]], { workers = 2 })
    assert.equal(0, done.code)
    assert.equal(support.sanitized and done.stdout or "true\n", done.stdout)
    local _, times = done.stderr:gsub("left alone", "")
    assert.equal(3, times)
    contains(done.stderr, "tidepool: left alone\nin input 1 of map 'inner'")
  end)

  it("report a depth error as a failure of the outermost call too", function()
    local app = tidepool.App "deep"
    local f
    f = app:func { name = "f", concurrency_limit = 1 } (function(x) return (f:remote(x + 1)) end)
    contains(tostring(failure_of(f.remote, f, 1)), "deeper than 200")
    support.check_pool()
  end)

  it("too deep are of kind usage at every level, with the line, and are not tried again", function()
    local output = support.output_of(prelude .. [[
      local f
      f = app:func { name = "f", retries = { max = 2, initial_delay = 0 } } (function(x)
        local ok, failure = pcall(function() return sum(f:map { x + 1 }) end)
        if x % 50 == 0 then print(x, ok, failure.kind, failure.attempts, type(failure.value)) end
        error(failure, 0)
      end)
      local ok, failure = pcall(f.remote, f, 1)
      print(ok, failure.kind, failure.attempts, failure.message:match "/(job.-) than 200")
    ]], { workers = 2, seconds = 240 })
    assert.equal("200\tfalse\tusage\t0\tnil\n150\tfalse\tusage\t1\ttable\n100\tfalse\tusage\t1\ttable\n50\tfalse\tusage\t1\ttable\n"
      .. "false\tusage\t1\tjob.lua:10: f: maps are nested deeper\n", output)
  end)

  it("of what is no list of arguments are of kind usage to the caller of the caller", function()
    local app = tidepool.App "none"
    local add = app:func(function(a, b) return a + b end)
    local outer = app:func { retries = 2 } (function() return add:starmap({ { 1, 2 }, 3 }):list() end)
    local failure = failure_of(outer.remote, outer)
    assert.same({ "usage", 1 }, { failure.kind, failure.attempts })
    contains(tostring(failure), "starmap: item 2 is a number")
  end)
end)
