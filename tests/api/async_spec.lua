--- Tasks: calls, maps and sleeps that yield inside tidepool.async, and what becomes of tasks at the
-- end.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains, failure_of, mistake = support.contains, support.failure_of, support.mistake
local note, wait_for = support.note, support.wait_for

local app = tidepool.App "async"
local square = app:func(function(x) return x * x end)
local divide = app:func(function(a, b) return math.floor(a / b), a % b end)
local fails = app:func { name = "fails" } (function(x)
  if x == 2 then error("ohno", 0) end
  return x
end)
-- Comes back when the file is there.
local gate = app:func { name = "gate" } (function(path, value)
  wait_for(path)
  return value
end)

--- Waits until the script itself has let tasks go on long enough for condition() to hold.
local function until_true(what, condition)
  support.eventually(what, function()
    tidepool.sleep(0)
    return condition()
  end)
end

describe("tidepool.step()", function()
  it("lets a task go on, again and again, and never waits", function()
    local dir = support.temp_dir()
    local call = gate:spawn(dir .. "/file", 7)
    local got
    tidepool.async(function() got = call:get() end)
    for _ = 1, 100 do tidepool.step() end -- it would wait for ever in the first
    assert.is_nil(got)
    note(dir .. "/file")
    support.eventually("the task has got the result", function()
      tidepool.step()
      return got == 7
    end)
  end)

  it("is refused where the loop runs already, and where there is none", function()
    tidepool.async(function()
      contains(mistake(function() tidepool.step() end), "the loop runs already; in a task, tidepool.sleep(0) lets the others go on")
    end):get()
    contains(failure_of(function() return app:func(function() tidepool.step() end):remote() end).message, "a mapped function has no loop of its own")
  end)
end)

describe("A task", function()
  it("that starts a map of large values lets others go on while they are read", function()
    local results, core = require "tidepool.results", require "tidepool.core"
    local length = app:func { name = "length", window = 200 } (function(t) return #t end)
    local record, rows = {}, {}
    for j = 1, 2e4 do record[j] = { j, "a" .. j } end
    for i = 1, 120 do rows[i] = { record, i } end
    local records = {}
    for i = 1, 120 do records[i] = record end
    for _, start in ipairs {
      function() return length:map(records) end,
      function() return length:map(records, tidepool.range(120)) end,
      function() return length:starmap(rows) end,
    } do
      tidepool.async(function()
        local r = start()
        local given = core.job.counts(results.of(r).job).pushed
        assert(given < 120, "all were read before the task went on") -- they take some 200 ms
        assert.equal(2e4, r:next() and r:next() and select(2, r:next()))
        r:cancel()
        local n = 0
        for _, size in start() do
          n = n + 1
          assert(size == 2e4)
        end
        assert.equal(120, n)
      end):get()
    end
  end)

  after_each(function() support.check_pool() end)

  it("gives its values to whoever asks, as often as they ask", function()
    local task = tidepool.async(function(a, b) return a + b, nil, "x", nil end, 1, 2)
    local function pack(...) return { n = select("#", ...), ... } end
    assert.same({ n = 4, 3, nil, "x" }, pack(task:get()))
    assert.same({ n = 4, 3, nil, "x" }, pack(task:get()))
    assert.is_true(task:done())
    assert.matches("done", tostring(task))
  end)

  it("runs at once up to where it waits", function()
    local seen = {}
    local task = tidepool.async(function()
      seen[1] = "begun"
      tidepool.sleep(0)
      seen[2] = "ended"
    end)
    assert.same({ "begun" }, seen)
    assert.is_false(task:done())
    task:get()
    assert.same({ "begun", "ended" }, seen)
  end)

  it("may call, map, list, spawn, starmap, for_each, gather and wait", function()
    local task = tidepool.async(function()
      local log = { (square:remote(3)) }
      for i, v in square:map { 1, 2, 3 } do log[#log + 1] = i .. ":" .. v end
      log[#log + 1] = table.concat(square:map(tidepool.range(4)):list(), " ")
      log[#log + 1] = (square:spawn(5):get())
      for i, q, r in divide:starmap { { 7, 2 }, { 9, 4 } } do log[#log + 1] = ("%d:%d,%d"):format(i, q, r) end
      log[#log + 1] = square:for_each({ 1, 2 }).ok
      log[#log + 1] = table.concat({ tidepool.gather(square:spawn(6), square:spawn(7)) }, ",")
      log[#log + 1] = #tidepool.wait({ square:spawn(1), square:spawn(2) }, { n = 2 })
      log[#log + 1] = (square:spawn_map({ 8 }):next())
      log[#log + 1] = square:map({}):list().n
      return log
    end)
    assert.same({ 9, "1:1", "2:4", "3:9", "1 4 9 16", 25, "1:3,1", "2:2,1", 2, "36,49", 2, 1, 0 }, (task:get()))
  end)

  for name, wait in pairs {
    remote = function(path) return (gate:remote(path, 1)) end,
    get = function(path) return (gate:spawn(path, 1):get()) end,
    ["get with a timeout"] = function(path) return (gate:spawn(path, 1):get(30)) end,
    map = function(path) return select(2, gate:map({ path }, { 1 })()) end,
    list = function(path) return gate:map({ path }, { 1 }):list()[1] end,
    for_each = function(path) return gate:for_each({ path }, { 1 }).ok end,
    gather = function(path) return (tidepool.gather(gate:spawn(path, 1))) end,
    wait = function(path) return #tidepool.wait({ gate:spawn(path, 1) }) end,
    as_completed = function(path) return (tidepool.as_completed { gate:spawn(path, 1) } ():get()) end,
  } do
    it("that waits in " .. name .. " lets another one go on, which it needs", function()
      local path = support.temp_path()
      local first = tidepool.async(wait, path)
      local second = tidepool.async(function()
        tidepool.sleep(0)
        note(path, "open")
        return 2
      end)
      assert.equal(1, (first:get()))
      assert.equal(2, (second:get()))
    end)
  end

  it("goes on while the script itself waits, for whatever it waits", function()
    for _, wait in ipairs {
      function(path) return (gate:remote(path, 1)) end,
      function(path) return gate:map({ path }, { 1 }):list()[1] end,
      function(path) return (gate:spawn(path, 1):get(30)) end,
    } do
      local path = support.temp_path()
      local task = tidepool.async(function()
        tidepool.sleep(0)
        square:remote(1)
        note(path, "open")
      end)
      assert.equal(1, wait(path))
      task:get()
    end
  end)

  it("goes on while the script reads results that are always there", function()
    local task = tidepool.async(function() tidepool.sleep(0.001) end)
    for _ in square:map(tidepool.range(1, 1 / 0)) do
      if task:done() then break end
    end
    assert.is_true(task:done())
  end)

  it("that reads results that are always there lets others go on", function()
    local other = tidepool.async(function() tidepool.sleep(0.001) end)
    local reader = tidepool.async(function()
      for i in square:map(tidepool.range(1, 1 / 0)) do
        if other:done() then return i end
      end
    end)
    assert.is_true(reader:get() > 0)
  end)

  it("raises its error where it is read, unchanged", function()
    local mine = {}
    local task = tidepool.async(function()
      tidepool.sleep(0)
      error(mine)
    end)
    for _ = 1, 2 do
      local ok, err = pcall(task.get, task)
      assert.is_false(ok)
      assert.equal(mine, err)
    end
    local failed = tidepool.async(function() return fails:remote(2) end)
    assert.equal("fails", failure_of(failed.get, failed).function_name)
    assert.same({}, tidepool.loop())
  end)

  it("catches errors across waits with pcall and xpcall", function()
    local task = tidepool.async(function()
      local ok, failure = pcall(fails.remote, fails, 2)
      local handled
      local fine = xpcall(function()
        tidepool.sleep(0)
        error "x"
      end, function(err) handled = err end)
      return ok, failure.message, fine, handled
    end)
    local ok, message, fine, handled = task:get()
    assert.same({ false, "ohno", false }, { ok, message, fine })
    contains(handled, "x")
  end)

  it("gives way where it yields by itself, to whoever resumes it", function()
    local thread
    local task = tidepool.async(function()
      thread = coroutine.running()
      local got = coroutine.yield()
      return got, (square:remote(2))
    end)
    tidepool.sleep(0.001)
    assert.is_false(task:done())
    coroutine.resume(thread, "resumed")
    local got, four = task:get()
    assert.same({ "resumed", 4 }, { got, four })
  end)

  it("that somebody resumes too early goes on waiting", function()
    local thread
    local path = support.temp_path()
    local task = tidepool.async(function()
      thread = coroutine.running()
      return (gate:remote(path, 7))
    end)
    for _ = 1, 3 do coroutine.resume(thread, "early") end
    assert.is_false(task:done())
    note(path, "open")
    assert.equal(7, (task:get()))
  end)

  it("may wait in coroutines of its own", function()
    local other = tidepool.async(function() for _ = 1, 5 do tidepool.sleep(0) end end)
    local task = tidepool.async(function()
      local squares = coroutine.wrap(function()
        for x = 1, 3 do coroutine.yield((square:remote(x))) end
      end)
      return table.concat({ squares(), squares(), squares() }, " ")
    end)
    assert.equal("1 4 9", (task:get()))
    other:get()
  end)

  it("may start tasks in tasks in tasks, 1,000 deep", function()
    local function nest(n)
      if n == 0 then return 0 end
      return 1 + tidepool.async(nest, n - 1):get()
    end
    assert.equal(1000, (tidepool.async(nest, 1000):get()))
  end)

  it("may be one of 2,000 that call and sleep at once", function()
    local n = support.times(2000)
    local tasks, sum = {}, 0
    for i = 1, n do
      tasks[i] = tidepool.async(function()
        tidepool.sleep((i * 7 % 13) * 0.001)
        return (square:remote(i))
      end)
    end
    for i = 1, n do sum = sum + tasks[i]:get() end
    assert.equal(n * (n + 1) * (2 * n + 1) / 6, sum)
  end)

  it("sleeps wake in the order of their ends", function()
    local order = {}
    local tasks = {}
    for _, ms in ipairs { 30, 1, 60, 10, 45, 20, 5 } do
      tasks[#tasks + 1] = tidepool.async(function()
        tidepool.sleep(ms / 1000)
        order[#order + 1] = ms
      end)
    end
    tidepool.gather(tasks)
    assert.same({ 1, 5, 10, 20, 30, 45, 60 }, order)
  end)

  it("shares Results with another one: every result comes once", function()
    local results = square:map(tidepool.range(500), { window = 4 })
    local seen, n = {}, 0
    local function read()
      for i, v in results do
        assert(not seen[i] and v == i * i)
        seen[i], n = true, n + 1
        tidepool.sleep(0)
      end
    end
    tidepool.gather(tidepool.async(read), tidepool.async(read))
    assert.equal(500, n)
  end)

  it("shares a call with another one", function()
    local path = support.temp_path()
    local call = gate:spawn(path, 5)
    local function read() return (call:get()) end
    local a, b = tidepool.async(read), tidepool.async(read)
    note(path, "open")
    assert.same({ 5, 5 }, { tidepool.gather(a, b) })
  end)

  it("on the inline executor means the same", function()
    local inline = square:with { executor = "inline", name = "inline" }
    local flaky = app:func { executor = "inline", retries = { max = 3, initial_delay = 0.001 } } (function()
      if tidepool.current().attempt < 3 then error "not yet" end
      return "at last"
    end)
    local ticks = 0
    local other = tidepool.async(function()
      for _ = 1, 5 do
        tidepool.sleep(0)
        ticks = ticks + 1
      end
    end)
    local task = tidepool.async(function()
      local a = inline:remote(3)
      local list = inline:map(tidepool.range(100)):list()
      local b = inline:spawn(4)
      return a, list[100], (b:get()), (flaky:remote())
    end)
    assert.same({ 9, 10000, 16, "at last" }, { task:get() })
    other:get()
    assert.equal(5, ticks)
    local called
    inline:spawn(5):on_done(function(call) called = call:get() end)
    assert.same({}, tidepool.loop())
    assert.equal(25, called)
  end)

  it("can be waited for with a limit", function()
    local go = tidepool.event()
    local task = tidepool.async(function() go:get() return "late" end)
    assert.equal("timeout", failure_of(task.get, task, 0).kind)
    contains(failure_of(task.get, task, 0.001).message, "the task is not done after 0.001 s")
    go:set()
    assert.equal("late", (task:get(30)))
    local path = support.temp_path()
    local call = gate:spawn(path, 1)
    local inside = tidepool.async(function() return call:get(0.001) end)
    assert.equal("timeout", failure_of(inside.get, inside).kind)
    note(path, "open")
    assert.equal(1, (call:get()))
  end)
end)

describe("The inputs of a map in a task", function()
  it("may wait: results come while the next input is not there yet", function()
    local log = {}
    local allowed = 1 -- the line that may be read: only after the answer to the one before
    local task = tidepool.async(function()
      local i = 0
      local function line()
        i = i + 1
        while i <= 3 and i > allowed do tidepool.sleep(0.001) end
        if i <= 3 then return i end
      end
      for _, v in square:map(line) do
        log[#log + 1] = v
        allowed = allowed + 1
      end
    end)
    task:get()
    assert.same({ 1, 4, 9 }, log)
  end)

  it("may be a call each, of other functions", function()
    local task = tidepool.async(function()
      local i = 0
      return square:map(function()
        i = i + 1
        if i <= 20 then return (square:remote(i)) end
      end):list()
    end)
    local list = task:get()
    assert.equal(20, list.n)
    for i = 1, 20 do assert.equal(i ^ 4, list[i]) end
  end)

  it("may be another map's results", function()
    local list = tidepool.async(function() return square:map(square:map(tidepool.range(300), { window = 5 })):list() end):get()
    assert.equal(300, list.n)
    assert.equal(300 ^ 4, list[300])
  end)

  it("may fail after a wait: the results before come first", function()
    local got = {}
    local task = tidepool.async(function()
      local i = 0
      for _, v in square:map(function()
        i = i + 1
        tidepool.sleep(0.001)
        if i == 3 then error("no more", 0) end
        return i
      end) do got[#got + 1] = v end
    end)
    local failure = failure_of(task.get, task)
    assert.same({ "no more", "input" }, { failure.message, failure.phase })
    assert.same({ 1, 4 }, got)
  end)

  it("may fail at once, or be none", function()
    local task = tidepool.async(function()
      return square:map(function() error("at once", 0) end):list()
    end)
    assert.equal("at once", failure_of(task.get, task).message)
    assert.equal(0, tidepool.async(function() return square:map(function() end):list() end):get().n)
  end)

  it("are left where they wait when the loop is left", function()
    local task = tidepool.async(function()
      local i, last = 0, nil
      for _, v in square:map(function()
        i = i + 1
        if i > 1 then tidepool.sleep(1e6) end
        return i
      end) do
        last = v
        if i > 0 then break end
      end
      return last
    end)
    assert.equal(1, (task:get()))
    assert.same({}, tidepool.loop())
  end)

  it("may cancel the map that they are for, before and after a wait", function()
    for _, when in ipairs { 0, 0.001 } do
      local task = tidepool.async(function()
        local results, i
        i = 0
        results = square:map(function()
          i = i + 1
          if i == 3 then
            tidepool.sleep(when)
            results:cancel()
            pcall(results.next, results)
            tidepool.sleep(when)
          elseif i == 1 then
            tidepool.sleep(0)
          end
          return i
        end, { window = 2 })
        return results:list()
      end)
      assert.equal("cancelled", failure_of(task.get, task).kind)
    end
    support.check_pool()
  end)

  it("are read no further than the window although nobody takes results", function()
    local asked = 0
    local results
    tidepool.async(function()
      results = square:map(function()
        asked = asked + 1
        tidepool.sleep(0)
        return asked
      end, { window = 5 })
    end):get()
    for _ = 1, 100 do tidepool.sleep(0) end
    assert.is_true(asked <= 5)
    for i in results do
      assert.is_true(asked <= i + 5)
      if i == 20 then break end
      tidepool.sleep(0)
    end
    results:cancel()
  end)
end)

describe("A call", function()
  after_each(function() support.check_pool() end)

  it("that is queued and cancelled never runs", function()
    local dir = support.temp_dir()
    local one = app:func { concurrency_limit = 1 } (function(name)
      note(dir .. "/log", name)
      if name == "first" then wait_for(dir .. "/go") end
      return name
    end)
    local first, second, third = one:spawn "first", one:spawn "second", one:spawn "third"
    support.eventually("the first runs", function() return #support.notes(dir .. "/log") == 1 end)
    second:cancel()
    assert.is_true(second:done())
    assert.equal("cancelled", failure_of(second.get, second).kind)
    note(dir .. "/go", "go")
    assert.equal("first", (first:get()))
    assert.equal("third", (third:get()))
    assert.same({ "first", "third" }, support.notes(dir .. "/log"))
    assert.same({}, tidepool.loop())
  end)

  it("that runs and is cancelled gives nothing and is not tried again", function()
    local dir = support.temp_dir()
    local f = app:func { retries = 5 } (function()
      note(dir .. "/log", tidepool.current().attempt)
      wait_for(dir .. "/go")
      error "again"
    end)
    local call = f:spawn()
    support.eventually("it runs", function() return #support.notes(dir .. "/log") == 1 end)
    call:cancel()
    call:cancel()
    assert.equal("cancelled", failure_of(call.get, call).kind)
    note(dir .. "/go", "go")
    support.eventually("it has ended", function() return f:stats().running == 0 end)
    assert.same({ "1" }, support.notes(dir .. "/log"))
  end)

  it("that is done and cancelled stays done", function()
    local call = square:spawn(3)
    support.eventually("it is done", function() return call:done() end)
    call:cancel()
    assert.equal(9, (call:get()))
    call:cancel()
    assert.equal(9, (call:get()))
  end)

  it("that a task waits for can be cancelled by another one", function()
    local path = support.temp_path()
    local call = gate:spawn(path, 1)
    local task = tidepool.async(function() return call:get() end)
    call:cancel()
    assert.equal("cancelled", failure_of(task.get, task).kind)
    note(path, "open")
  end)

  it("calls back once it is done, with itself, from the loop", function()
    local called = {}
    local path = support.temp_path()
    local waiting, done, cancelled, failed = gate:spawn(path, 1), square:spawn(2), gate:spawn(path, 3), fails:spawn(2)
    support.eventually("it is done", function() return done:done() end)
    for name, call in pairs { waiting = waiting, done = done, cancelled = cancelled, failed = failed } do
      call:on_done(function(c)
        assert.equal(call, c)
        called[name] = { pcall(call.get, call) }
        called.remote = (square:remote(4)) -- may wait
      end)
    end
    assert.same({}, called)
    cancelled:cancel()
    note(path, "open")
    assert.same({}, tidepool.loop())
    assert.same({ true, 1 }, called.waiting)
    assert.same({ true, 4 }, called.done)
    assert.equal("cancelled", called.cancelled[2].kind)
    assert.equal("ohno", called.failed[2].message)
    assert.equal(16, called.remote)
  end)

  it("whose retry callback fails fails with that", function()
    local f = app:func { retries = { max = 2, on = function() error("in on", 0) end } } (function() error "x" end)
    local call = f:spawn()
    assert.same({ false, "in on" }, { pcall(call.get, call) })
    assert.same({ false, "in on" }, { pcall(f.remote, f) })
  end)
end)

describe("Cancelling a task", function()
  after_each(function() support.check_pool() end)

  it("raises inside of it where it waits, once", function()
    local path = support.temp_path()
    local log = {}
    local task = tidepool.async(function()
      for _, wait in ipairs {
        function() tidepool.sleep(1e6) end,
        function() gate:remote(path, 1) end,
        function() gate:map({ path }, { 1 }):list() end,
        function() tidepool.gather(gate:spawn(path, 1)) end,
        function() tidepool.wait { gate:spawn(path, 1) } end,
      } do
        local ok, failure = pcall(wait)
        log[#log + 1] = tostring(ok) .. " " .. failure.kind
      end
      return "tidied up"
    end)
    for n = 1, 5 do
      task:cancel()
      until_true("it was raised", function() return #log == n end)
    end
    assert.equal("tidied up", (task:get()))
    for n = 1, 5 do assert.equal("false cancelled", log[n]) end
    note(path, "open")
    assert.same({}, tidepool.loop())
  end)

  it("ends it with a failure of kind cancelled, which nobody has to read", function()
    local task = tidepool.async(tidepool.sleep, 1e6)
    task:cancel()
    assert.same({}, tidepool.loop())
    assert.is_true(task:done())
    assert.equal("cancelled", failure_of(task.get, task).kind)
  end)

  it("drops the call that it was waiting for", function()
    local dir = support.temp_dir()
    local f = app:func { concurrency_limit = 1 } (function(name)
      note(dir .. "/log", name)
      wait_for(dir .. "/go")
    end)
    local first = f:spawn "first"
    support.eventually("it runs", function() return #support.notes(dir .. "/log") == 1 end)
    local task = tidepool.async(function() f:remote "second" end)
    task:cancel()
    pcall(task.get, task)
    note(dir .. "/go", "go")
    first:get()
    support.eventually("all is done", function() return f:stats().queued == 0 and f:stats().running == 0 end)
    assert.same({ "first" }, support.notes(dir .. "/log"))
  end)

  it("from inside raises at its next wait; after its end it does nothing", function()
    local task
    local n = 0
    task = tidepool.async(function()
      tidepool.sleep(0)
      task:cancel()
      n = 1
      tidepool.sleep(0)
      n = 2
    end)
    assert.equal("cancelled", failure_of(task.get, task).kind)
    assert.equal(1, n)
    task:cancel()
    local fine = tidepool.async(function() return 1 end)
    fine:cancel()
    assert.equal(1, (fine:get()))
  end)

  it("that has not begun ends it without running it", function()
    local function nest(n, fn)
      if n == 0 then return fn() end
      return tidepool.async(nest, n - 1, fn):get()
    end
    local log
    repeat
      log = {}
      tidepool.async(nest, 59, function() -- so deep that it starts later, unless it is time to give way
        local task = tidepool.async(function() log[#log + 1] = "begun" end)
        task:cancel()
        local fine, why = pcall(task.get, task)
        log[#log + 1] = fine and "ended" or why.kind
      end):get()
    until log[2] ~= "ended"
    assert.same({ "cancelled" }, log)
  end)
end)

describe("Tasks that wait for each other", function()
  it("end in an error that says so, not in a hang", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local a, b
      a = tidepool.async(function()
        tidepool.sleep(0)
        b:get()
      end)
      b = tidepool.async(function() a:get() end)
      print(pcall(a.get, a))
      local failures = tidepool.loop()
      print(#failures, failures[1])
      print(#tidepool.loop())
    ]], { seconds = 240 })
    assert.equal(0, done.code)
    contains(done.stdout, "job.lua:8: this would wait for ever", "2\ta task has not ended: nothing is left that could wake it\n",
      "job.lua:5: in function", "\n0\n")
  end)

  it("cannot wait for themselves, nor for all", function()
    local task
    task = tidepool.async(function()
      tidepool.sleep(0)
      local message = select(2, pcall(task.get, task))
      return message .. " / " .. select(2, pcall(tidepool.loop))
    end)
    contains(task:get(), "a task cannot wait for itself", "a task cannot wait for all tasks")
    for _, wait in ipairs {
      function() return task:get() end,
      function() return tidepool.gather(square:spawn(1), task) end,
      function() return tidepool.wait { task } end,
      function() for _ in tidepool.as_completed { task } do error "x" end end,
      function() return coroutine.wrap(function() return task:get() end)() end,
    } do
      local at = debug.getinfo(wait, "S")
      task = tidepool.async(function()
        tidepool.sleep(0)
        return wait()
      end)
      contains(select(2, pcall(tidepool.gather, task)), ("%s:"):format(at.short_src), ": a task cannot wait for itself")
    end
    assert.same({}, tidepool.loop())
  end)
end)

-- How a task comes to wait within coroutines of its own: run(fn) gives what fn gives.
local within = {
  ["coroutine.wrap"] = function(fn) return coroutine.wrap(fn)() end,
  ["coroutine.resume"] = function(fn) return select(2, assert(coroutine.resume(coroutine.create(fn)))) end,
  ["coroutines in coroutines"] = function(fn)
    return coroutine.wrap(function()
      local _, value = coroutine.resume(coroutine.create(function() return coroutine.wrap(fn)() end))
      return value
    end)()
  end,
  ["a generator under pcall"] = function(fn)
    local value
    for given in coroutine.wrap(function() coroutine.yield(select(2, pcall(fn))) end) do value = given end
    return value
  end,
}

for name, run in pairs(within) do
  describe("A wait of a task in " .. name, function()
    after_each(function() support.check_pool() end)

    it("lets the task's starter go on", function()
      local path = support.temp_path()
      local task = tidepool.async(run, function() return (gate:remote(path, 5)) end)
      assert.is_false(task:done()) -- and here we are
      note(path, "open")
      assert.equal(5, (task:get()))
    end)

    it("ends when what it waits for is there, whoever waits for longer", function()
      local first, second = support.temp_path(), support.temp_path()
      local log = {}
      local a = tidepool.async(function()
        tidepool.sleep(0)
        local got = run(function() return (gate:remote(first, "a")) end)
        log[#log + 1] = got
        note(second, "open")
      end)
      local b = tidepool.async(function()
        tidepool.sleep(0)
        local got = run(function()
          note(first, "open")
          return (gate:remote(second, "b"))
        end)
        log[#log + 1] = got
      end)
      tidepool.gather(a, b)
      assert.same({ "a", "b" }, log)
    end)

    it("may be for another task that waits in one", function()
      local path = support.temp_path()
      local a = tidepool.async(function()
        tidepool.sleep(0)
        return run(function() return (gate:remote(path, "a")) end)
      end)
      local b = tidepool.async(function()
        tidepool.sleep(0)
        return run(function()
          note(path, "open")
          return (a:get())
        end)
      end)
      assert.same({ "a", "a" }, { tidepool.gather(a, b) })
    end)

    it("ends when the task is cancelled", function()
      local caught
      local task = tidepool.async(run, function()
        local _, why = pcall(tidepool.sleep, math.huge)
        caught = why.kind
        return (square:remote(3))
      end)
      task:cancel()
      assert.equal(9, (task:get()))
      assert.equal("cancelled", caught)
    end)
  end)
end

describe("A task that starts one thing after the other", function()
  for name, start in pairs {
    spawn = function() return square:spawn(2) end,
    async = function() return tidepool.async(math.max, 4) end,
    map = function()
      local results = square:map { 2 }
      return { get = function() return results:list()[1] end }
    end,
    spawn_map = function()
      local call = square:spawn_map { 2 }
      return { get = function() return call:list()[1] end }
    end,
  } do
    it("by " .. name .. " lets others go on after some milliseconds", function()
      local ticks, is_over = 0, false
      local ticker = tidepool.async(function()
        repeat
          tidepool.sleep(0)
          ticks = ticks + 1
        until is_over
      end)
      tidepool.async(function()
        tidepool.sleep(0)
        local before, started = ticks, {}
        repeat started[#started + 1] = start() until ticks > before or #started == 200000
        is_over = true
        assert(ticks > before, "all were started before another could go on")
        for _, each in ipairs(started) do assert(each:get() == 4) end
      end):get()
      ticker:get()
      assert.same({}, tidepool.loop())
    end)
  end

  it("can be cancelled there, before anything is started", function()
    local task, started = nil, 0
    task = tidepool.async(function()
      tidepool.sleep(0)
      task:cancel()
      local fine, why = pcall(function()
        for _ = 1, 200000 do
          square:spawn(1)
          started = started + 1
        end
      end)
      return fine, why.kind
    end)
    assert.same({ false, "cancelled" }, { task:get() })
    assert.is_true(started < 200000)
    assert.same({}, tidepool.loop())
  end)
end)

describe("A coroutine of a task's that waits", function()
  it("has not come back: its status is normal, and nobody else can resume it", function()
    local path = support.temp_path()
    local thread
    local go = coroutine.wrap(function() return (gate:remote(path, 2)) end)
    local one = tidepool.async(function()
      thread = coroutine.create(function() return (gate:remote(path, 1)) end)
      return coroutine.resume(thread)
    end)
    local two = tidepool.async(go)
    assert.equal("normal", coroutine.status(thread))
    assert.same({ false, "cannot resume non-suspended coroutine" }, { coroutine.resume(thread) })
    mistake(function() local v = go() return v end, "cannot resume non-suspended coroutine")
    tidepool.async(function()
      assert.same({ false, "cannot resume non-suspended coroutine" }, { coroutine.resume(thread) })
      mistake(function() local v = go() return v end, "cannot resume non-suspended coroutine")
    end):get()
    note(path, "open")
    assert.same({ true, 1 }, { one:get() })
    assert.equal("dead", coroutine.status(thread))
    assert.equal(2, (two:get()))
  end)

  it("gives and raises what others do, with the place of who has called", function()
    local function outcomes()
      local thread = coroutine.create(function(a, b)
        local c = coroutine.yield(b, nil, a, nil)
        error({ c }, 0)
      end)
      local raises = coroutine.wrap(function() error("ohno", 0) end)
      local function call(fn, ...) return { n = select("#", fn(...)), pcall(fn, ...) } end
      return {
        { coroutine.resume(thread, 1, 2) }, coroutine.status(thread), { coroutine.resume(thread, "c") }, coroutine.status(thread),
        { coroutine.resume(thread) }, { pcall(function() local v = raises() return v end) }, { pcall(function() local v = raises() return v end) },
        { pcall(coroutine.resume, 5) }, { pcall(coroutine.wrap, 5) }, { pcall(coroutine.status) },
        call(coroutine.wrap(function(...) return ... end), nil, nil),
      }
    end
    local expected = outcomes()
    assert.same(expected, tidepool.async(outcomes):get())
    contains(expected[7][2], "async_spec.lua:", "cannot resume dead coroutine")
  end)

  it("may be one that began outside of tasks, and ends there", function()
    local go = coroutine.wrap(function()
      coroutine.yield((square:remote(2)))
      coroutine.yield((square:remote(3)))
      return (square:remote(4))
    end)
    assert.equal(4, go())
    assert.equal(9, (tidepool.async(go):get()))
    assert.equal(16, go())
  end)

  it("may be left where it waits, with its task", function()
    for _ = 1, 50 do
      tidepool.async(function()
        coroutine.wrap(function() pcall(tidepool.event().get, tidepool.event(), 1e6) end)()
      end):cancel()
    end
    collectgarbage()
    assert.same({}, tidepool.loop())
  end)

  it("travels by its functions' names", function()
    local wrap = coroutine.wrap
    local f = app:func(function(x)
      local thread = coroutine.create(function() coroutine.yield(x) end)
      local status = coroutine.status(thread)
      return status, wrap(function() return x end)(), select(2, coroutine.resume(thread)), wrap
    end)
    local status, a, b, same = f:remote(7)
    assert.same({ "suspended", 7, 7 }, { status, a, b })
    assert.equal(wrap, same)
  end)
end)

describe("A wait of a task inside a function in C", function()
  it("is refused by that function's name, and the task goes on", function()
    local task = tidepool.async(function()
      tidepool.sleep(0)
      local messages = {}
      for name, wait in pairs {
        gsub = function() return (("2"):gsub("%d", function() return (square:remote(2)) end)) end,
        list = function() return (("2"):gsub("%d", function() return square:map({ 2 }):list()[1] end)) end,
        sort = function() table.sort({ 1, 2 }, function() return tidepool.sleep(0) end) end,
        wrap = function() return (("x"):gsub("x", function() return coroutine.wrap(function() tidepool.sleep(0) end)() end)) end,
      } do
        local fine, message = pcall(wait)
        assert.is_false(fine, name)
        messages[name] = message
      end
      messages.after = square:remote(3)
      return messages
    end)
    local messages = task:get()
    for name, inside in pairs { gsub = "gsub", list = "gsub", sort = "sort", wrap = "gsub" } do
      contains(messages[name], "async_spec.lua:", ("in a task nothing can wait inside %s, a function in C"):format(inside))
    end
    assert.equal(9, messages.after)
  end)

  it("is refused where another function than ours has resumed its coroutine", function()
    local resume -- a library that was loaded earlier has it
    for i = 1, math.huge do
      local name, value = debug.getupvalue(coroutine.resume, i)
      if name == "resume" then resume = value break end
    end
    local task = tidepool.async(function()
      tidepool.sleep(0)
      return select(2, resume(coroutine.create(function() tidepool.sleep(0) end)))
    end)
    contains(task:get(), "async_spec.lua:", "nothing can wait in a coroutine that something else than coroutine.resume or coroutine.wrap")
  end)

  it("is none in the script itself", function()
    assert.equal("4", (("2"):gsub("%d", function(d) return (square:remote(tonumber(d))) end)))
  end)
end)

describe("Mistakes with tasks", function()
  it("are one line at the user's place", function()
    local call = square:spawn(1)
    local task = tidepool.async(function() end)
    mistake(function() local t = tidepool.async(7) return t end, "tidepool.async: expected a function, got 7")
    mistake(function() tidepool.sleep "x" end, "tidepool.sleep", '"x"')
    mistake(function() tidepool.sleep(-1) end, "tidepool.sleep", "-1")
    mistake(function() local v = call:get(-1) return v end, "call:get: the timeout")
    mistake(function() local v = task:get "x" return v end, "task:get: the timeout")
    mistake(function() local v = call.get() return v end, "call:get(")
    mistake(function() local v = task.get() return v end, "task:get(")
    mistake(function() call:on_done(7) end, "call:on_done: expected a function, got 7")
    mistake(function() task:on_done() end, "task:on_done: expected a function, got nil")
    call:get()
  end)

  it("in a mapped function say that there is no loop; sleep, gather, wait and as_completed work there", function()
    local f = app:func(function(x)
      local ok, err = pcall(function() local t = tidepool.async(print) return t end)
      local call = square:spawn(x)
      local ok2, err2 = pcall(function() call:on_done(print) end)
      tidepool.sleep(0.001)
      local a, b = tidepool.gather(square:spawn(x), square:map { x, x })
      local slow = app:func(function(s) tidepool.sleep(s) return s end)
      local slow_call = slow:spawn(0.02)
      local finished, rest = tidepool.wait({ slow_call, call }, { n = 1 })
      local n = 0
      for c in tidepool.as_completed { square:spawn(1), square:spawn(2), slow_call } do n = n + c:get() end
      local failing = app:func(function() error("inner", 0) end)
      local ok3, err3 = pcall(tidepool.gather, failing:spawn(), square:spawn(1))
      return { ok, err, ok2, err2, a, b[2], #finished + #rest, n, ok3, err3.message }
    end)
    for workers = 1, 2 do
      local function_of = f:with { concurrency_limit = workers }
      for _, got in function_of:map { 3, 3 } do
        contains(got[2], "tidepool.async: a mapped function has no loop")
        contains(got[4], "call:on_done: a mapped function has no loop")
        assert.same({ false, false, 9, 9, 2, 5.02, false, "inner" }, { got[1], got[3], got[5], got[6], got[7], got[8], got[9], got[10] })
      end
    end
  end)

  it("a sleep in a mapped function ends when its map is cancelled", function()
    local results = app:func(function() tidepool.sleep(1e6) end):map { 1, 2 }
    support.sleep(0.01)
    results:cancel()
    support.check_pool()
  end)
end)

describe("At a script's end", function()
  local prelude = [[
    local tidepool = require "tidepool"
    local app = tidepool.App "ending"
    local slow = app:func(function(x) tidepool.sleep(0.02) return x end)
    local fails = app:func { name = "fails" } (function() error "ohno" end)
  ]]
  local function run(source, options)
    local done = support.run_script(prelude .. source, options)
    assert.is_false(done.timed_out, "the script did not end")
    return done
  end

  it("tasks go on to their end, with what they start there", function()
    assert.same({ 0, "1\n2\n3\n4\n", "" }, (function()
      local done = run [[
        tidepool.async(function()
          print(slow:remote(1))
          tidepool.async(function()
            print(slow:remote(2))
            slow:spawn(3):on_done(function(call)
              print(call:get())
              tidepool.sleep(0.01)
              print(4)
            end)
          end)
        end)
      ]]
      return { done.code, done.stdout, done.stderr }
    end)())
  end)

  it("a task's error that nobody has read is shown with its traceback, and the exit code is 1", function()
    local done = run [[
      local function deep() local x = nil; return x.field end
      tidepool.async(function()
        slow:remote(1)
        local y = deep()
        return y
      end)
      tidepool.async(function() fails:remote() end)
      tidepool.async(function() print "goes on" slow:remote(1) print "ends" end)
    ]]
    assert.equal(1, done.code)
    assert.equal("goes on\nends\n", done.stdout)
    contains(done.stderr, "job.lua:5: attempt to index local 'x'", "stack traceback:", "in function 'deep'", "job.lua:8:")
    contains(done.stderr, "ohno", "in input 1 of map 'fails'", "called from:\n\t", "job.lua:11:")
    local _, told = done.stderr:gsub("ohno", "") -- once, by the worker's function, which the task has called
    assert.equal(1, told, done.stderr)
    assert.falsy(done.stderr:find "caused by")
  end)

  it("a task's error that is a table is shown as what it is, whatever its fields are called", function()
    local done = run [[
      tidepool.async(function() error { index = 5, function_name = "f", attempts = 2, worker = 3, code = 7 } end)
    ]]
    contains(done.stderr, "code=7", "index=5")
    assert.falsy(done.stderr:find "in input", done.stderr)
  end)

  it("an error that was read is not shown", function()
    local done = run [[
      local task = tidepool.async(function() fails:remote() end)
      print((pcall(task.get, task)))
      local call = fails:spawn()
      print((pcall(call.get, call)))
      print((pcall(tidepool.gather, fails:spawn(), fails:spawn(), tidepool.async(error, "x"))))
    ]]
    assert.same({ 0, "false\nfalse\nfalse\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  it("a failed call that was waited for but not read is shown", function()
    local done = run [[
      tidepool.wait { fails:spawn() }
      for _ in tidepool.as_completed { fails:spawn() } do end
    ]]
    assert.equal(1, done.code)
    assert.equal(2, select(2, done.stderr:gsub("ohno", "")) / select(2, ("job.lua:4: ohno"):gsub("ohno", "")))
  end)

  it("an error in a callback of on_done is shown at once", function()
    local done = run [[
      local call, over = slow:spawn(1), tidepool.event()
      call:on_done(function() error "in the callback" end)
      call:on_done(function() over:set() end)
      over:get()
      io.stderr:write "later\n"
    ]]
    assert.equal(1, done.code)
    assert.is_true(done.stderr:find "in the callback" < done.stderr:find "later")
    contains(done.stderr, "job.lua:6:", "1 callback failed")
  end)

  it("tasks whose map waits for an iterator that nothing can wake are named, too", function()
    local done = run [[
      local task = tidepool.async(function()
        local i = 0
        slow:map(function()
          i = i + 1
          if i == 3 then coroutine.yield() end
          return i
        end):list()
      end)
      print(pcall(task.get, task, 0.01))
    ]]
    assert.equal(1, done.code)
    contains(done.stdout, "the task is not done after 0.01 s")
    contains(done.stderr, "a task has not ended: nothing is left that could wake it", "job.lua:")
  end)

  it("tasks that nothing can wake are named, with where they wait", function()
    local done = run [[
      local a = tidepool.async(function()
        coroutine.yield()
      end)
      tidepool.async(function() a:get() end)
    ]]
    assert.equal(1, done.code)
    contains(done.stderr, "a task has not ended: nothing is left that could wake it", "job.lua:6:", "job.lua:8:")
  end)

  it("after an error, and at os.exit, tasks are left where they are", function()
    for code, source in pairs { [1] = "error 'top'", [3] = "os.exit(3)", [4] = "os.exit(4, true)" } do
      local done = run("tidepool.async(function() tidepool.sleep(1e6) end) tidepool.async(function() slow:map(tidepool.range(1, 1/0)):list() end)\n"
        .. source)
      assert.equal(code, done.code)
    end
    assert.equal(5, run("tidepool.async(function() slow:remote(1) os.exit(5) end)").code)
    assert.equal(6, run("tidepool.async(function() slow:remote(1) os.exit(6, true) end)").code)
  end)

  it("a task that ends while its map runs leaves nothing to wait for", function()
    local done = run [[
      tidepool.async(function()
        for i in slow:map(tidepool.range(1, 1 / 0)) do
          if i == 2 then break end
        end
        unread = slow:map(tidepool.range(1, 1 / 0))
        print "ended"
      end)
    ]]
    assert.same({ 0, "ended\n" }, { done.code, done.stdout })
    assert.matches("^tidepool: [^\n]*job.lua:%d+: the results of this map of 'slow' were never read[^\n]*\n$", done.stderr)
  end)

  it("Ctrl-C ends a script whose tasks wait", function()
    local done = run([[
      tidepool.async(function() tidepool.sleep(1e6) end)
      tidepool.async(function()
        os.execute("(sleep 0.1; kill -INT $PPID) </dev/null >/dev/null 2>&1 &")
        pcall(tidepool.sleep, 1e6)
      end)
    ]], { seconds = 240 })
    assert.same({ 2, "tidepool: interrupted\n" }, { done.signal, done.stderr })
  end)

  it("tasks on one worker, with maps nested deeper than the pool, finish", function()
    local done = run([[
      local level
      level = app:func { name = "level", concurrency_limit = 1 } (function(n)
        if n == 0 then return 1 end
        local sum = 0
        for _, v in level:map { n - 1, n - 1 } do sum = sum + v end
        return sum
      end)
      local tasks = {}
      for i = 1, 5 do tasks[i] = tidepool.async(function() return (level:remote(i)) end) end
      print(unpack(tidepool.gather(tasks)))
    ]], { workers = 1 })
    assert.same({ 0, "2\t4\t8\t16\t32\n", "" }, { done.code, done.stdout, done.stderr })
  end)
end)

describe("A time that never comes", function()
  -- In processes of their own: what waits for ever is ended by what else happens, and takes no
  -- processor time.
  local function check(code)
    local done = support.run_script("local SANITIZED = " .. tostring(support.sanitized) .. [[

      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func { name = "f" } (function(x, s) tidepool.sleep(s or 0) return x end)
      local function idle(fn)
        local began = os.clock()
        fn()
        assert(os.clock() - began < 0.25 or SANITIZED, "it kept a processor busy")
      end
    ]] .. code .. "\nprint 'fine' os.exit(0)", { seconds = 240 })
    assert.same({ 0, "fine\n", "" }, { done.code or -done.signal, done.stdout, done.stderr })
  end

  for _, s in ipairs { "math.huge", "1e300", "1.85e10", "9.3e9", "1e15" } do
    it("is for ever in get, wait, sleep and the delays of retries: " .. s, function()
      check(("local s = %s"):format(s) .. [[

        idle(function() assert(f:spawn(1, 0.3):get(s) == 1) end)
        idle(function() assert(#tidepool.wait({ f:spawn(1, 0.3) }, { timeout = s }) == 1) end)
        idle(function()
          tidepool.async(function()
            assert(f:spawn(1, 0.1):get(s) == 1)
            assert(#tidepool.wait({ f:spawn(1, 0.1) }, { timeout = s }) == 1)
          end):get(s)
        end)
        local call = f:spawn(1, s)                   -- sleeps in a worker
        local task = tidepool.async(function() tidepool.sleep(s) end)
        local n = 0
        local again = tidepool.App("t"):func { name = "g", retries = { max = 1, initial_delay = s, max_delay = s, on = function() n = n + 1 end } } (
          function() error "x" end):spawn()
        idle(function() tidepool.sleep(0.5) end)
        assert(not call:done() and not task:done() and not again:done())
        local fine, why = pcall(again.get, again, 0.1)
        assert(not fine and why.kind == "timeout" and n == 1)
        task:cancel()
        call:cancel()
        again:cancel()
        for _, x in ipairs { task, call, again } do
          local went_well, cancelled = pcall(x.get, x, s)
          assert(not went_well and cancelled.kind == "cancelled")
        end
        idle(function()
          tidepool.async(function() tidepool.sleep(0.3) print 'fine' os.exit(0) end)
          tidepool.sleep(s)                          -- and here, until the task ends the script
        end)]])
    end)
  end

  it("is an error where nothing could end the wait for something, as without a time", function()
    check [[
      local fine, why = pcall(function() tidepool.async(function() coroutine.yield() end):get(math.huge) end)
      assert(not fine and why:find "this would wait for ever")
    ]]
  end)
end)
