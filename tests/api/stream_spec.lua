--- Generators: functions whose values come while they run, f:stream and f:flat_map.

local support = require "tests.support"
local tidepool = require "tidepool"
local executors = require "tidepool.engine.executors"

local here = debug.getinfo(1, "S").short_src

local HANG_S = 60 -- a guard

for _, on in ipairs(executors.that("runs_lua", "streams")) do
  describe("On the executor " .. on.name .. " a generator", function()
    if on.far and not os.getenv "TIDEPOOL_ENGINE" then
      pending "no engine: tests/cluster/promises_spec.lua has one"
      return
    end
    local executor = on.name
    local app = tidepool.App("streams", { executor = executor })
    local note, notes, sleep = support.note, support.notes, support.sleep

    local count = app:func(function(n)
      for i = 1, n do coroutine.yield(i) end
      return "what it returns is not a value"
    end)

    it("gives its values one by one, in their order", function()
      local got = {}
      for v in count:stream(1000) do got[#got + 1] = v end
      assert.equal(1000, #got)
      for i = 1, 1000 do assert.equal(i, got[i]) end
      for _ in count:stream(0) do assert.is_true(false) end
    end)

    it("is no function to map or call: that is an error which says what reads it", function()
      for _, start in ipairs { function() return count:remote(3) end, function() return count:map({ 3 }):list() end } do
        local failed = support.failure_of(start)
        support.contains(failed.message, here, "attempt to yield", "(f:stream(...) and f:flat_map(xs) read what a function yields)")
      end
    end)

    it("gives several values at a time, of any kind", function()
      local pairs_of = app:func(function(t)
        for _, k in ipairs { "a", "b" } do coroutine.yield(k, t[k], nil, { k }) end
      end)
      local got = {}
      for k, v, none, list in pairs_of:stream { a = 1, b = "two" } do got[#got + 1] = { k, v, none == nil, list[1] } end
      assert.same({ { "a", 1, true, "a" }, { "b", "two", true, "b" } }, got)
    end)

    it("gives what it yields below calls, in pcall, metamethods and iterators, and to its own coroutines", function()
      local deep = app:func(function()
        local function walk(n)
          if n > 0 then walk(n - 1) end
          coroutine.yield("walk " .. n)
        end
        walk(1)
        assert(pcall(function() coroutine.yield "pcall" end))
        local t = setmetatable({}, { __index = function(_, k)
          coroutine.yield("index " .. k)
          return k
        end })
        assert(t.x == "x")
        for i in function(_, i)
          coroutine.yield "iterator"
          if not i then return 1 end
        end do assert(i == 1) end
        local own = coroutine.wrap(function()
          coroutine.yield "not a value"
        end)
        coroutine.yield("own: " .. own())
      end)
      local got = {}
      for v in deep:stream() do got[#got + 1] = v end
      assert.same({ "walk 0", "walk 1", "pcall", "index x", "iterator", "iterator", "own: not a value" }, got)
    end)

    it("gives each input's values in the inputs' order", function()
      local got = {}
      for i, v, twice in app:func(function(n)
        for k = 1, n do coroutine.yield(k, 2 * k) end
      end):flat_map({ 3, 0, 1, 2 }) do
        assert.equal(2 * v, twice)
        got[#got + 1] = i .. ":" .. v
      end
      assert.same({ "1:1", "1:2", "1:3", "3:1", "4:1", "4:2" }, got)
    end)

    it("takes all that maps take as inputs, and more values than its window", function()
      local many = app:func(function(n, k)
        for i = 1, 300 do coroutine.yield(n * 1000 + i + (k or 0)) end
      end)
      for _, stream in ipairs { many:flat_map(tidepool.range(20)), many:flat_map(tidepool.range(20), { window = 3 }),
        many:flat_map(tidepool.range(20), tidepool.const(0)), many:with({ window = 1 }):flat_map(tidepool.range(20)) } do
        local i, k = 1, 0
        for index, v in stream do
          k = k + 1
          if k > 300 then i, k = i + 1, 1 end
          assert.equal(i, index)
          assert.equal(i * 1000 + k, v)
        end
        assert.equal(20 * 300, (i - 1) * 300 + k)
      end
    end)

    it("keeps the values that came before its error", function()
      local broken = app:func { retries = 2 } (function(n)
        for i = 1, n do coroutine.yield(i) end
        error({ code = 7 })
      end)
      local got = {}
      local failed = support.failure_of(function()
        for v in broken:stream(3) do got[#got + 1] = v end
      end)
      assert.same({ 1, 2, 3 }, got)
      assert.equal(7, failed.code)
      assert.equal(1, failed.index)
      support.contains(failed.traceback, here)
      got = {}
      for i, v in broken:flat_map({ 1, 2 }, { return_exceptions = true }) do
        got[#got + 1] = i .. ":" .. (tidepool.is_failure(v) and "failed " .. v.index or v)
      end
      assert.same({ "1:1", "1:failed 1", "2:1", "2:2", "2:failed 2" }, got)
      got = {}
      failed = support.failure_of(function()
        for i, v in broken:flat_map({ 1, 2 }) do got[#got + 1] = i .. ":" .. v end
      end)
      assert.same({ "1:1" }, got)
      assert.equal(1, failed.index)
    end)

    it("says which value cannot travel, or ends a loop", function()
      local refused = app:func(function()
        coroutine.yield(1)
        coroutine.yield(nil)
      end)
      local fine, why = pcall(function()
        for _ in refused:stream() do end -- luacheck: ignore 542
      end)
      assert.is_false(fine)
      support.contains(tostring(why), "has given nil as its value, which ends a loop")
      local got = 0
      for i in refused:flat_map({ 1 }) do got = got + i end
      assert.equal(2, got)
    end)

    it("is no stream where it would make none", function()
      local function fails(text, fn)
        local fine, why = pcall(fn)
        assert.is_false(fine)
        support.contains(tostring(why), here, text)
      end
      fails("is batched", function() app:func { batched = 4 } (function() end):stream(1) end)
      fails("runs on a device", function() app:func { gpu = true, executor = nil } (function(x) return x end):stream(1) end)
      fails("option 'journal'", function() count:flat_map({ 1 }, { journal = "x.db" }) end)
    end)

    it("streams in mapped functions", function()
      local outer = app:func(function(n)
        local sum = 0
        for v in count:stream(n) do sum = sum + v end
        for i, v in count:flat_map({ 1, 2 }) do sum = sum + 100 * i * v end
        return sum
      end)
      assert.same({ 55 + 700, 5050 + 700, n = 2 }, outer:map({ 10, 100 }):list())
    end)

    it("runs beside what reads it, and beside other streams", function()
      local a, b = count:stream(500), count:stream(500)
      local other = app:func(function(x) return 2 * x end)
      for i = 1, 500 do
        assert.equal(i, a())
        assert.equal(i, b:next())
        if i % 50 == 0 then assert.equal(2 * i, other:remote(i)) end
      end
      assert.is_nil(a())
      assert.is_nil(a())
      assert.is_nil(b())
    end)

    it("is read in tasks", function()
      local tasks = {}
      for i = 1, 5 do
        tasks[i] = tidepool.async(function()
          local sum = 0
          for v in count:stream(100 * i) do sum = sum + v end
          return sum
        end)
      end
      for i, sum in ipairs(tidepool.gather(tasks)) do assert.equal(100 * i * (100 * i + 1) / 2, sum) end
    end)

    it("is stopped by cancel and by leaving its loop, whatever it catches, and hooks are as before", function()
      local path = support.temp_path()
      local stubborn = app:func(function(n)
        for _ = 1, n do
          local fine, why = pcall(function()
            while true do coroutine.yield(1) end
          end)
          note(path, tostring(fine) .. " " .. tostring(why))
        end
      end)
      local function ends(n)
        local deadline = tidepool.now() + HANG_S
        while #notes(path) < n and tidepool.now() < deadline do tidepool.sleep(0.01) end
        assert.equal(n, #notes(path))
        support.contains(notes(path)[n], "false", "nobody reads these values any more")
      end
      local stream, hook = stubborn:stream(1), function() end
      assert.equal(1, stream())
      debug.sethook(hook, "", 1000000)
      stream:cancel()
      assert.equal(hook, (debug.gethook()))
      debug.sethook()
      ends(1)
      for v in stubborn:stream(1) do
        if v == 1 then break end
      end
      ends(2)
      -- one that goes on after its error has no reader any more
      stream = stubborn:stream(3)
      assert.equal(1, stream())
      stream:cancel()
      assert.is_nil(stream())
    end)

    if executor ~= "inline" then
      it("does not run ahead by more than its window, and gives values while it runs", function()
        local path = support.temp_path()
        local endless = app:func { window = 5 } (function()
          local i = 0
          while true do
            i = i + 1
            note(path, i)
            coroutine.yield(i)
          end
        end)
        local stream = endless:stream()
        support.eventually("five values", function() return #notes(path) >= 5 end)
        support.sleep(0.05)
        assert.is_true(#notes(path) <= 6)
        for i = 1, 20 do assert.equal(i, stream()) end
        support.sleep(0.02)
        assert.is_true(#notes(path) <= 26)
        stream:cancel()
        assert.is_nil(stream())
      end)

      it("is stopped when its stream is cancelled: what it has pending runs", function()
        local path = support.temp_path()
        local endless = app:func { window = 5 } (function()
          local fine, why = pcall(function()
            while true do coroutine.yield(1) end
          end)
          note(path, tostring(fine) .. " " .. tostring(why))
        end)
        local stream = endless:stream()
        assert.equal(1, stream())
        stream:cancel()
        support.eventually("the end of the generator", function() return #notes(path) == 1 end)
        support.contains(notes(path)[1], "false", "nobody reads these values any more")
      end)

      it("is stopped when its loop is left", function()
        local path = support.temp_path()
        local endless = app:func { window = 5 } (function()
          local fine = pcall(function()
            while true do coroutine.yield(1) end
          end)
          note(path, tostring(fine))
        end)
        local read = 0
        for v in endless:stream() do
          read = read + v
          if read == 3 then break end
        end
        local deadline = tidepool.now() + HANG_S
        while #notes(path) == 0 and tidepool.now() < deadline do tidepool.sleep(0.01) end
        assert.same({ "false" }, notes(path))
      end)

      it("lends its place to others while it waits, under a limit, and on a pool of any size", function()
        local other = app:func { concurrency_limit = 1 } (function(x) return 2 * x end)
        local endless = app:func { window = 2, concurrency_limit = 1 } (function(k)
          local i = 0
          while true do
            i = i + k
            coroutine.yield(i)
          end
        end)
        local streams = {}
        for k = 1, support.workers() + 2 do streams[k] = endless:stream(k) end
        for i = 1, 20 do
          for k, stream in ipairs(streams) do assert.equal(i * k, stream()) end
          assert.equal(2 * i, other:remote(i))
        end
        for _, stream in ipairs(streams) do stream:cancel() end
        assert.equal(8, other:remote(4))
      end)

      it("is tried again as long as it has given nothing", function()
        local flaky = app:func { retries = 3 } (function()
          if require "tidepool".current().attempt < 3 then error("not yet") end
          coroutine.yield(require "tidepool".current().attempt)
          error("now")
        end)
        local got = {}
        local failed = support.failure_of(function()
          for v in flaky:stream() do got[#got + 1] = v end
        end)
        assert.same({ 3 }, got)
        assert.equal(3, failed.attempts)
      end)

      it("refuses values that cannot travel, at its own line", function()
        local refused = app:func(function()
          coroutine.yield(1)
          local fine, why = pcall(coroutine.yield, coroutine.create(function() end))
          coroutine.yield(tostring(fine) .. " " .. tostring(why))
          coroutine.yield(2, newproxy())
        end)
        local line = debug.getinfo(1, "l").currentline - 2
        local got = {}
        local failed = support.failure_of(function()
          for v in refused:stream() do got[#got + 1] = v end
        end)
        assert.equal(1, got[1])
        support.contains(got[2], "false", "value 1: a coroutine cannot travel")
        assert.equal(2, #got)
        support.contains(failed.message, ("stream_spec.lua:%d: value 2: a userdata"):format(line))
      end)

      it("gives inputs that run at once their turn without losing values", function()
        local slow_first = app:func(function(i)
          for k = 1, 20 do
            if i == 1 then sleep(0.002) end
            coroutine.yield(k)
          end
        end)
        local i, k = 1, 0
        for index, v in slow_first:flat_map(tidepool.range(12), { window = 8 }) do
          k = k + 1
          if k > 20 then i, k = i + 1, 1 end
          assert.equal(i, index)
          assert.equal(k, v)
        end
        assert.equal(12, i)
        local sums = {}
        for index, v in slow_first:flat_map(tidepool.range(12), { window = 8, ordered = false }) do sums[index] = (sums[index] or 0) + v end
        for index = 1, 12 do assert.equal(210, sums[index]) end
      end)
    end
  end)
end

describe("A function with the option yields", function()
  it("is read by stream and flat_map, and refused where its values would be lost", function()
    local contains, mistake = support.contains, support.mistake
    local counts = tidepool.App("streams"):func { name = "counts", yields = true } (function(n) for i = 1, n do coroutine.yield(i) end end)
    local got = {}
    for v in counts:stream(2) do got[#got + 1] = v end
    for i, v in counts:flat_map { 1, 2 } do got[#got + 1] = 10 * i + v end
    assert.same({ 1, 2, 11, 21, 22 }, got)
    local says = "counts yields its values (option 'yields'): f:stream(...) reads those of one call, f:flat_map(xs) those of many"
    contains(mistake(function() counts:map { 1 } end), says)
    contains(mistake(function() counts:starmap { { 1 } } end), says)
    contains(mistake(function() counts:for_each { 1 } end), says)
    contains(mistake(function() counts:spawn_map { 1 } end), says)
    contains(mistake(function() counts:remote(1) end), says)
    contains(mistake(function() counts:spawn(1) end), says)
  end)
end)

describe("On processes a generator", function()
  local app = tidepool.App("dying", { executor = "processes" })

  it("is tried again when its process has died before any of its values was read", function()
    local path = support.temp_path()
    local killed = app:func(function(n)
      support.note(path, "begun")
      for i = 1, n do coroutine.yield(i) end
      if require "tidepool".current().attempt == 1 then os.execute("kill -9 $PPID") end
    end)
    local reads, all = killed:stream(5), {}
    support.eventually("it runs again", function() return #support.notes(path) > 1 end)
    for v in reads do all[#all + 1] = v end
    assert.same({ 1, 2, 3, 4, 5 }, all)
  end)

  it("keeps the values that it gave before its process died", function()
    local deadly = app:func(function(n)
      for i = 1, n do coroutine.yield(i) end
      os.execute("kill -9 $PPID")
    end)
    local got = {}
    for i, v in deadly:flat_map({ 2, 1 }, { return_exceptions = true }) do got[#got + 1] = i .. ":" .. (tidepool.is_failure(v) and v.kind or v) end
    assert.same({ "1:1", "1:2", "1:crash", "2:1", "2:crash" }, got)
  end)

  it("has its time limit for each value", function()
    local slow = app:func { timeout = 1 } (function()
      coroutine.yield(1)
      while true do end
    end)
    local got = {}
    for _, v in slow:flat_map({ 1 }, { return_exceptions = true }) do got[#got + 1] = tidepool.is_failure(v) and v.kind or v end
    assert.same({ 1, "timeout" }, got)
  end)
end)
