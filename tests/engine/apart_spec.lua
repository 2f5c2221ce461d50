--- Functions with limits of their own, mapped inside an item of a process: each of their items is
--- ended, bounded and blamed by itself, as outside (not stock: it is the program that is run).

local assert = require "luassert"
local support = require "tests.support"
local tidepool = require "tidepool"

support.let_signals_kill()

local app = tidepool.App("apart", { executor = "processes" })
-- Limits in seconds: of what never ends, and of what must not take so long on a loaded machine.
local SHORT, LONG = 0.2, 1
local contains, failure_of = support.contains, support.failure_of

--- For workers: the failure that a call raises.
local function caught(...)
  local fine, why = pcall(...)
  return fine and error("it has not failed", 2) or why
end

--- For workers: what a process does who does not end by itself.
local function hang(how)
  if how == "loop" then while true do end end
  if how == "pcall" then repeat pcall(function() while true do end end) until false end
  if how == "pattern" then return (("a"):rep(40):find((".-"):rep(40) .. "b")) end
  if how == "C" then support.sleep(1000) end
  return how
end

--- Runs a function in a process, once; returns what it returns.
local function inside(fn, options)
  return app:func(options or {}, fn):remote()
end

describe("A timeout inside of an item of a process", function()
  it("fails the inner input by its own name, index and limit, and the outer one goes on", function()
    local inner, hangs = app:func({ timeout = LONG, name = "inner" }, hang), app:func({ timeout = SHORT, name = "hangs" }, hang)
    local got, others = inside(function()
      local function all(f, list)
        local got = {}
        for i, r in f:map(list, { return_exceptions = true }) do
          got[i] = tidepool.is_failure(r) and { r.kind, r.index, r.attempts, r.function_name, r.message } or r
        end
        return got
      end
      return all(inner, { "fine", "loop", "fine" }), all(hangs, { "C", "pcall", "pattern" })
    end)
    assert.same({ "fine", { "timeout", 2, 1, "inner", "input 2 ran for more than 1 s" }, "fine" }, got)
    for i = 1, 3 do assert.same({ "timeout", i, 1, "hangs", ("input %d ran for more than 0.2 s"):format(i) }, others[i]) end
  end)

  it("can be caught, and is the outer input's error where it is not", function()
    local inner = app:func({ timeout = SHORT, name = "inner" }, hang)
    local outer = app:func({ name = "outer" }, function(catches)
      if catches then return caught(inner.remote, inner, "loop").kind end
      return inner:remote "loop"
    end)
    assert.equal("timeout", outer:remote(true))
    local failure = failure_of(outer.remote, outer)
    assert.equal("error", failure.kind)
    contains(tostring(failure), "input 1 ran for more than 0.2 s", "in input 1 of map 'outer'", "in input 1 of map 'inner'")
  end)

  it("holds for remote, spawn, for_each and batches, and is tried again as `retries` says", function()
    local inner, long = app:func({ timeout = SHORT, retries = 1, name = "inner" }, hang), app:func({ timeout = LONG }, hang)
    local many = app:func({ timeout = LONG, batched = { max = 2, split = false }, name = "many" }, function(list)
      for _, how in ipairs(list) do hang(how) end
      return list
    end)
    local got = inside(function()
      local called, spawned = caught(inner.remote, inner, "loop"), inner:spawn("C")
      local waited, each = caught(spawned.get, spawned), caught(long.for_each, long, { "fine", "loop" })
      local batch = {}
      for i, r in many:map({ "fine", "fine", "fine", "loop", "fine" }, { return_exceptions = true }) do
        batch[i] = tidepool.is_failure(r) and r.kind or r
      end
      return { called.kind, called.attempts, waited.kind, waited.attempts, each.kind, each.index, table.concat(batch, " ") }
    end)
    assert.same({ "timeout", 2, "timeout", 2, "timeout", 2, "fine fine timeout timeout fine" }, got)
  end)

  it("holds in each of several maps inside each other, whoever is between them", function()
    local innermost = app:func({ timeout = SHORT, name = "innermost" }, hang)
    local between = app:func({ executor = "threads", name = "between" }, function(how) return caught(innermost.remote, innermost, how).message end)
    local patient = app:func({ timeout = 100, name = "patient" }, function(how) return between:remote(how) end)
    local hasty = app:func({ timeout = 0.3, name = "hasty" }, function(how)
      local slow = app:func({ timeout = 100, name = "slow" }, hang)
      return slow:remote(how)
    end)
    assert.same({ "input 1 ran for more than 0.2 s", "hasty 0.3 s" }, inside(function()
      local late = caught(hasty.remote, hasty, "loop")
      return { patient:remote "loop", late.function_name .. " " .. late.message:match "[%d.]+ s" }
    end))
  end)

  it("leaves the outer one's as it was", function()
    local inner = app:func({ timeout = 100 }, hang)
    local outer = app:func({ timeout = 0.3, name = "outer" }, function(how) return inner:remote(how) end)
    local failure = failure_of(outer.remote, outer, "loop")
    assert.same({ "timeout", "outer", "input 1 ran for more than 0.3 s" }, { failure.kind, failure.function_name, failure.message })
  end)

  it("counts while the item waits for a permit, or for a queue", function()
    local queue, holds = tidepool.Queue(), tidepool.array("int32", 1)
    local limited = app:func({ concurrency_limit = 1 }, function(waits)
      if waits then holds[1] = 1 end
      while holds[1] == 1 do support.sleep(0.01) end
      return "got it"
    end)
    local holder = limited:spawn(true)
    support.eventually("somebody has the permit", function() return holds[1] == 1 end)
    local function wait(what) return what == "permit" and limited:remote() or queue:get() end
    local waits, patient = app:func({ timeout = SHORT }, wait), app:func({ timeout = 100 }, wait)
    local both = app:func(function() return { caught(waits.remote, waits, "permit").kind, caught(waits.remote, waits, "queue").kind } end)
    assert.same({ "timeout", "timeout" }, both:remote())
    holds[1] = 0
    assert.equal("got it", holder:get())
    assert.equal("got it", inside(function() return patient:remote "permit" end))
  end)

  it("holds for what items with concurrent_inputs call", function()
    local inner = app:func({ timeout = LONG }, hang)
    local outer = app:func({ concurrent_inputs = 4 }, function(i)
      require "tidepool".sleep(0.01)
      return i .. (i % 2 == 0 and caught(inner.remote, inner, "loop").kind or inner:remote "fine")
    end)
    assert.equal("1fine 2timeout 3fine 4timeout", table.concat({ unpack(outer:map { 1, 2, 3, 4 }:list(), 1, 4) }, " "))
  end)

  it("is refused for what is streamed there", function()
    for option, value in pairs { timeout = 1, memory = "1M" } do
      local inner = app:func({ [option] = value, name = "inner", yields = true }, function(n)
        for i = 1, n do coroutine.yield(i) end
      end)
      for _, executor in ipairs { "threads", "processes" } do
        local outer = app:func({ executor = executor }, function()
          local sum = 0
          for x in inner:stream(3) do sum = sum + x end
          return sum
        end)
        contains(failure_of(outer.remote, outer).message,
          ("Function:stream: 'inner' has the option '%s', which cannot be kept here: what an input streams, it runs itself"):format(option))
      end
    end
  end)
end)

describe("Memory inside of an item of a process", function()
  local function eat(mib)
    local list = {}
    for i = 1, mib * 64 do list[i] = ("x"):rep(16000) .. i end
    return #list / 64
  end

  it("is bounded by the function's own limit, and by the outer one where that is less", function()
    local small, large = app:func({ memory = "20M", name = "small" }, eat), app:func({ memory = "500M", name = "large" }, eat)
    local none = app:func({ timeout = 100, name = "none" }, eat)
    local function outcomes(mib)
      local list = {}
      for i, f in ipairs { small, large, none } do
        local fine, why = pcall(f.remote, f, mib)
        list[i] = fine and "fine" or why.kind
        assert(f:remote(1) == 1)
      end
      return table.concat(list, " ")
    end
    local outer, bounded = app:func(outcomes), app:func({ memory = "60M" }, outcomes)
    assert.equal("memory fine fine", outer:remote(40))
    assert.equal("memory memory memory", bounded:remote(90))
    assert.equal("memory fine fine", outer:remote(90))
    assert.equal("fine fine fine", bounded:remote(10))
    local between = app:func({ executor = "threads" }, outcomes)
    local around = app:func({ memory = "60M" }, function(mib) return between:remote(mib) end)
    assert.equal("memory memory memory", around:remote(90))
  end)
end)

describe("A crash inside of an item of a process", function()
  it("is the inner input's where its function has `crash_retries`", function()
    local inner = app:func({ crash_retries = 1, name = "inner" }, function(x)
      if x == 2 then require "ffi".cast("int *", 0)[0] = 1 end
      return x
    end)
    assert.same({ 1, "crash 2 2 worker process was killed by SIGSEGV during input 2", 3 }, inside(function()
      local got = {}
      for i, r in inner:map({ 1, 2, 3 }, { return_exceptions = true }) do
        got[i] = tidepool.is_failure(r) and ("%s %d %d %s"):format(r.kind, r.index, r.attempts, r.message) or r
      end
      return got
    end))
  end)

  it("costs the outer input where it has no such option", function()
    local inner = app:func(function() require "ffi".cast("int *", 0)[0] = 1 end)
    local outer = app:func({ crash_retries = 0 }, function() return pcall(inner.remote, inner) end)
    assert.equal("crash", failure_of(outer.remote, outer).kind)
  end)
end)

describe("What runs apart", function()
  it("prints, draws, knows who it is, and sees the host's arrays, Dicts and Queues as elsewhere", function()
    local a, dict, queue = tidepool.array("double", 100), tidepool.Dict(), tidepool.Queue()
    local inner = app:func({ timeout = 100, name = "inner" }, function(i)
      a[i] = i
      dict:add("sum", i)
      queue:put(i)
      local me = tidepool.current()
      return ("%s %s %d"):format(me.function_name, me.executor, me.index)
    end)
    local got = inside(function()
      local last
      for _, r in inner:map { 1, 2, 3 } do last = r end
      return { last, a:sum(), dict:get "sum", queue:get() + queue:get() + queue:get() }
    end)
    assert.same({ "inner processes 3", 6, 6, 6 }, got)
    assert.equal(6, a:sum())
  end)

  it("gets the worker's own arrays as copies", function()
    local inner = app:func({ timeout = 100 }, function(b)
      b[1] = 7
      return b:sum(), b
    end)
    assert.same({ 9, 1, 9 }, inside(function()
      local b = tidepool.array("double", 3):fill(1)
      local sum, back = inner:remote(b)
      return { sum, b[1], back:sum() }
    end))
  end)

  it("keeps limits over all processes and the script", function()
    local counts = tidepool.array("int64", 3) -- that run now, at most, and in all
    local limited = app:func({ concurrency_limit = 1, timeout = 100 }, function(x)
      counts:max(2, counts:add(1, 1) + 1)
      require "tidepool".sleep(0.001)
      counts:add(1, -1)
      counts:add(3, 1)
      return x + 1
    end)
    local between = app:func({ timeout = 100, concurrency_limit = 2 }, function(x)
      local sum = 0
      for _, y in limited:map { x, x, x } do sum = sum + y end
      return sum
    end)
    local outer = app:func(function(x) return between:remote(x) end)
    local other = limited:map(tidepool.range(10))
    for i, sum in outer:map(tidepool.range(10)) do assert.equal(3 * (i + 1), sum) end
    for i, y in other do assert.equal(i + 1, y) end
    assert.same({ 0, 1, 40 }, { tonumber(counts[1]), tonumber(counts[2]), tonumber(counts[3]) })
  end)

  it("is ended with the outer item: when that is cancelled, too late, or killed", function()
    local path = support.temp_path()
    local inner = app:func({ timeout = 1000 }, function()
      local ffi = require "ffi"
      ffi.cdef "int getpid(void);"
      support.note(path, ffi.C.getpid())
      while true do end
    end)
    local function pid_of(i) return tonumber(support.notes(path)[i]) end
    local function ends(i)
      local pid = pid_of(i)
      support.eventually("its process is gone", function()
        local status = support.read_file("/proc/" .. pid .. "/status")
        return not status or status:find "State:%s+Z" ~= nil
      end)
    end
    local outer = app:func(function() return inner:remote() end)
    local call = outer:spawn()
    support.eventually("the inner item runs", function() return pid_of(1) end)
    call:cancel()
    ends(1)
    local late = app:func({ timeout = 3 }, function() return inner:remote() end)
    assert.equal("timeout", failure_of(late.remote, late).kind)
    support.eventually("it ran", function() return pid_of(2) end)
    ends(2)
    local killed = app:func({ crash_retries = 0 }, function()
      local ffi = require "ffi"
      ffi.cdef "int getppid(void); int kill(int, int); int getpid(void);"
      local parent = ffi.C.getpid()
      local kills = app:func({ timeout = 1000 }, function()
        ffi.cdef "int kill(int, int);"
        support.note(path, ffi.C.getpid())
        ffi.C.kill(parent, 9)
        while true do end
      end)
      return kills:remote()
    end)
    assert.equal("crash", failure_of(killed.remote, killed).kind)
    ends(3)
    support.check_pool()
  end)

  it("that is killed by somebody is run again, and no other item", function()
    local inner = app:func({ timeout = 1000, crash_retries = 20 }, function(x)
      if x % 7 == 0 and require "tidepool".current().attempt == 1 then require "ffi".C.raise(9) end
      return x
    end)
    local outer = app:func(function(k)
      require "ffi".cdef "int raise(int);"
      local sum = 0
      for _, x in inner:map(tidepool.range(k, k + 20)) do sum = sum + x end
      return sum
    end)
    for k, sum in outer:map(tidepool.range(6)) do assert.equal(21 * k + 210, sum) end
  end)
end)
