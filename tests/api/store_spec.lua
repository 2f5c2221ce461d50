--- What the script and all workers share: tidepool.Dict and tidepool.Queue.

local support = require "tests.support"
local tidepool = require "tidepool"

local here = debug.getinfo(1, "S").short_src

local function fails(text, fn, ...)
  local fine, why = pcall(fn, ...)
  assert.is_false(fine)
  support.contains(tostring(why), here .. ":", text)
end

describe("A Dict", function()
  it("keeps values by keys that are strings, numbers and booleans", function()
    local d = tidepool.Dict { a = 1, [2] = "two" }
    d:put(true, { list = { 1, 2 } })
    d:put("", false)
    d:put("nul\0", 2 ^ 53)
    assert.equal(1, d:get "a")
    assert.equal("two", d:get(2))
    assert.same({ list = { 1, 2 } }, d:get(true))
    assert.equal(false, d:get "")
    assert.equal(2 ^ 53, d:get "nul\0")
    assert.is_nil(d:get "2")
    assert.is_nil(d:get(false))
    assert.equal("other", d:get("no", "other"))
    assert.equal(5, #d)
    d:put(0, "zero")
    assert.equal("zero", d:get(-0))
    assert.equal("two", d:pop(2))
    assert.is_nil(d:pop(2))
    assert.is_nil(d:get(2))
    assert.equal("tidepool.Dict: 5 entries", tostring(d))
  end)

  it("copies values in and out", function()
    local d, list = tidepool.Dict(), { 1 }
    d:put("list", list)
    list[2] = 2
    local copy = d:get "list"
    assert.same({ 1 }, copy)
    copy[2] = 3
    assert.same({ 1 }, d:get "list")
    local a = tidepool.array("double", { 1, 2 })
    d:put("array", a)
    a[1] = 5
    assert.equal(5, d:get("array")[1]) -- but arrays stay the same ones, as everywhere
    d:put("function", function(x) return x + list[2] end)
    assert.equal(3, d:get "function"(1))
  end)

  it("is the same one in another", function()
    local d, inner = tidepool.Dict(), tidepool.Dict()
    d:put("inner", inner)
    d:get("inner"):put("x", 1)
    assert.equal(1, inner:get "x")
    assert.equal(inner, d:get "inner")
    local q = tidepool.Queue()
    d:put("queue", { q })
    d:get("queue")[1]:put("y")
    assert.equal("y", q:get())
  end)

  it("puts only where there is nothing, adds, updates, and goes over a snapshot", function()
    local d = tidepool.Dict()
    assert.is_true(d:put("a", 1, { if_absent = true }))
    assert.is_false(d:put("a", 2, { if_absent = true }))
    assert.equal(1, d:get "a")
    assert.is_true(d:put("a", 3))
    assert.equal(5, d:add("a", 2))
    assert.equal(1, d:add "new")
    assert.equal(-0.5, d:add("new", -1.5))
    assert.same({ 1, 2 }, d:update("list", function(list, x)
      assert.is_nil(list)
      return { 1, x }
    end, 2))
    assert.same({ 1, 2, 3 }, d:update("list", function(list)
      list[3] = 3
      return list
    end))
    assert.is_nil(d:update("list", function() return nil end))
    assert.is_nil(d:update("list", function() return nil end))
    local got = {}
    for key, value in d:pairs() do
      got[key] = value
      d:pop(key)
      d:put("later", 1)
    end
    assert.same({ a = 5, new = -0.5 }, got)
    assert.same({ later = 1 }, d:table())
    fails("not now", function()
      d:update("later", function() error(here .. ": not now", 0) end)
    end)
    assert.equal(1, d:get "later")
  end)

  it("says what is wrong", function()
    local d = tidepool.Dict { text = "x" }
    fails("dict:get: a key is a string, a number or a boolean, got nil", function() d:get() end)
    fails("a key is a string, a number or a boolean, got nan", function() d:put(0 / 0, 1) end)
    fails("a key is a string, a number or a boolean, got a table", function() d:pop {} end)
    fails("dict:put: expected a value, got nil", function() d:put("a", nil) end)
    fails("unknown option 'absent'", function() d:put("a", 1, { absent = true }) end)
    fails("a coroutine cannot travel", function() d:put("a", { coroutine.create(function() end) }) end)
    fails("dict:add: expected a number", function() d:add("a", "1") end)
    fails("key 'text': what is there is no number", function() d:add("text") end)
    fails("dict:update: expected a function", function() d:update("a", 5) end)
    fails("a Dict has no method 'gte' (did you mean 'get'?)", function() d:gte(1) end)
    fails("a Dict has no fields: write dict:put(\"x\", value)", function() d.x = 1 end)
    fails("expected a table of entries", function() tidepool.Dict(5) end)
    assert.equal(1, #d)
  end)
end)

describe("A Queue", function()
  it("gives each value once, in its order, as copies", function()
    local q, list = tidepool.Queue(), { 1 }
    q:put(list)
    list[1] = 2
    q:put(false)
    for i = 1, 100 do q:put(i) end
    assert.equal(102, #q)
    assert.same({ 1 }, q:get())
    assert.equal(false, q:get())
    for i = 1, 100 do assert.equal(i, q:get()) end
    assert.equal("tidepool.Queue: 0 values", tostring(q))
  end)

  it("waits for so long at most, and ends when it is closed", function()
    local q = tidepool.Queue { capacity = 2 }
    assert.is_true(q:put(1))
    assert.is_true(q:put(2, 0))
    assert.is_false(q:put(3, 0))
    assert.is_false(q:put(3, 0.01))
    assert.equal(1, q:get(0))
    q:close()
    q:close()
    assert.is_true(q:is_closed())
    fails("queue:put: the queue is closed", function() q:put(4) end)
    assert.equal(2, q:get())
    assert.is_nil(q:get())
    assert.is_nil(q:get(1))
    q = tidepool.Queue()
    for _, seconds in ipairs { 0, 0.01 } do
      local failed = support.failure_of(function() q:get(seconds) end)
      assert.equal("timeout", failed.kind)
      support.contains(failed.message, here, "nothing came within")
    end
  end)

  it("lets tasks wait beside each other", function()
    local q, got = tidepool.Queue { capacity = 1 }, {}
    local reader = tidepool.async(function()
      for v in q:each() do got[#got + 1] = v end
    end)
    local writer = tidepool.async(function()
      for i = 1, 20 do q:put(i) end
      q:close()
    end)
    tidepool.gather(reader, writer)
    assert.equal(20, #got)
    for i = 1, 20 do assert.equal(i, got[i]) end
  end)

  it("is an error to wait for when nothing can come any more", function()
    local q = tidepool.Queue()
    fails("this would wait for ever", function() q:get() end)
    local full = tidepool.Queue { capacity = 1 }
    full:put(1)
    fails("this would wait for ever", function() full:put(2) end)
  end)

  it("says what is wrong", function()
    local q = tidepool.Queue()
    fails("queue:put: expected a value, got nil", function() q:put() end)
    fails("a coroutine cannot travel", function() q:put { coroutine.create(function() end) } end)
    fails("queue:get: the timeout must be a number of seconds", function() q:get(-1) end)
    fails("'capacity' must be an integer of at least 1, got 0", function() tidepool.Queue { capacity = 0 } end)
    fails("unknown option 'size'", function() tidepool.Queue { size = 1 } end)
    fails("expected options", function() tidepool.Queue(5) end)
    fails("a Queue has no method 'pop'", function() q:pop() end)
    fails("a Queue has no fields", function() q[1] = 1 end)
  end)
end)

for _, executor in ipairs { "inline", "threads", "processes" } do
  describe("On " .. executor, function()
    local app = tidepool.App("stores", { executor = executor })

    it("a Dict is shared by all, and nothing that is added is lost", function()
      local d, n = tidepool.Dict(), support.times(20000)
      local add = app:func(function(from)
        for i = 1, 100 do
          d:add("n")
          if (from + i) % 10 == 0 then d:update("list", function(sum) return { (sum and sum[1] or 0) + 1 } end) end
        end
        return d:get "n" >= 100
      end)
      local results = add:spawn_map(tidepool.range(n / 100))
      for _ = 1, 1000 do d:add("n") end
      for _, is_enough in results do assert.is_true(is_enough) end
      assert.equal(math.ceil(n / 100) * 100 + 1000, d:get "n")
      assert.equal(math.ceil(n / 100) * 10, d:get("list")[1])
    end)

    it("stores are passed, returned, and made by workers", function()
      local d = tidepool.Dict()
      local put = app:func(function(dict, k)
        dict:put(k, { k })
        local own = require "tidepool".Queue()
        own:put(k)
        return dict, own
      end)
      local same, own = put:remote(d, "x")
      assert.equal(d, same)
      assert.same({ "x" }, d:get "x")
      assert.equal("x", own:get())
    end)

    it("errors of stores are the failure of their input, at its line", function()
      local d = tidepool.Dict { text = "x" }
      local failed = support.failure_of(function() app:func(function() d:add "text" end):remote() end)
      support.contains(failed.message, here, "what is there is no number")
    end)
  end)
end

for _, executor in ipairs { "threads", "processes" } do
  describe("On " .. executor .. " a Queue", function()
    local app = tidepool.App("queues", { executor = executor })

    it("connects workers and the script, each value coming once", function()
      local jobs, done = tidepool.Queue { capacity = 10 }, tidepool.Queue()
      local work = app:func(function()
        local n = 0
        for x in jobs:each() do
          done:put(x * x)
          n = n + 1
        end
        return n
      end)
      local workers = {}
      for i = 1, 3 do workers[i] = work:spawn() end
      for i = 1, 1000 do jobs:put(i) end
      jobs:close()
      local sum, n = 0, 0
      for _ = 1, 1000 do sum = sum + done:get(60) end
      for _, call in ipairs(workers) do n = n + call:get() end
      assert.equal(1000, n)
      assert.equal(1000 * 1001 * 2001 / 6, sum)
    end)

    it("lends the places of workers that wait: a pool of any size goes on, and a limit", function()
      local q, n = tidepool.Queue(), support.workers() + 3
      local get = app:func { concurrency_limit = 1 } (function() return q:get() end)
      local put = app:func(function(x) q:put(x) end)
      local calls = {}
      for i = 1, n do calls[i] = get:spawn() end
      put:for_each(tidepool.range(n))
      local sum = 0
      for _, call in ipairs(calls) do sum = sum + call:get() end
      assert.equal(n * (n + 1) / 2, sum)
      for i = 1, n do calls[i] = get:spawn() end
      for i = 1, n do q:put(i) end
      for _, call in ipairs(calls) do sum = sum - call:get() end
      assert.equal(0, sum)
    end)

    it("is one clear error where all that could fill it waits, too", function()
      local q = tidepool.Queue()
      local get = app:func(function()
        local v = q:get()
        return v
      end)
      local failed = support.failure_of(function() get:map(tidepool.range(3)):list() end)
      support.contains(failed.message, here, "queue:get: this would wait for ever: all that could change the queue waits, too")
      q = tidepool.Queue()
      q:put(4)
      assert.equal(4, get:remote())
    end)

    it("wakes who waits when it is closed, and lets go who is cancelled", function()
      local q, path = tidepool.Queue(), support.temp_path()
      local note = support.note
      local get = app:func(function()
        note(path, "begun")
        return tostring(q:get())
      end)
      local waiting, cancelled = get:spawn(), get:spawn()
      support.eventually("both wait", function() return #support.notes(path) == 2 end)
      cancelled:cancel()
      assert.equal("cancelled", support.failure_of(function() cancelled:get() end).kind)
      q:close()
      assert.equal("nil", waiting:get())
    end)

    it("times out in workers", function()
      local q = tidepool.Queue { capacity = 1 }
      local get = app:func(function() return q:get(0.02) end)
      assert.equal("timeout", support.failure_of(function() get:remote() end).value.kind)
      q:put(1)
      local put = app:func(function() return q:put(2, 0.02) end)
      assert.is_false(put:remote())
    end)

    it("is filled by a map whose results wait meanwhile", function()
      local q = tidepool.Queue()
      local produce = app:func(function(i)
        q:put(i)
        return i
      end)
      local sum = 0
      for i in produce:map(tidepool.range(200)) do
        sum = sum + q:get()
        if i == 20 then support.sleep(0.12) end -- longer than a loop may be away before its map pauses
      end
      assert.equal(200 * 201 / 2, sum)
    end)
  end)
end

describe("On processes", function()
  local app = tidepool.App("processes", { executor = "processes" })

  --- For workers.
  local function getpid()
    local ffi = require "ffi"
    if not pcall(ffi.typeof, "tidepool_spec_getpid") then
      ffi.cdef "typedef int tidepool_spec_getpid; int getpid(void); int kill(int, int);"
    end
    return ffi.C.getpid()
  end

  it("stores in stores are the same ones everywhere, also those that workers make", function()
    local d = tidepool.Dict()
    local put = app:func(function(k)
      local inner = require "tidepool".Dict { k = k }
      d:put(k, inner)
      d:put("list", { inner, { inner } })
      return inner, d:get(k) == inner
    end)
    for k, inner, is_same in put:map(tidepool.range(3)) do
      assert.is_true(is_same)
      assert.equal(inner, d:get(k))
      assert.equal(k, inner:get "k")
    end
    local list = d:get "list"
    assert.equal(list[1], list[2][1])
    d:put("q", tidepool.Queue())
    app:func(function() d:get("q"):put("from a worker") end):remote()
    assert.equal("from a worker", d:get("q"):get())
  end)

  it("keys and values come as they are, from one worker to another, too", function()
    local d = tidepool.Dict()
    app:func(function()
      for k, v in pairs { [0] = "zero", [0.5] = -0.5, [true] = false, [""] = "", ["nul\0"] = 2 ^ 53, inf = math.huge, nan = 0 / 0 } do d:put(k, v) end
      d:put("list", { 1, { a = "b" }, n = 3 })
    end):remote()
    local read = app:func(function()
      local t = d:table()
      return t, d:get "nan" ~= d:get "nan", #d, d:get("no", "other"), d:pop "inf"
    end)
    local t, is_nan, n, other, inf = read:remote()
    assert.is_true(is_nan)
    assert.same({ 8, "other", math.huge }, { n, other, inf })
    assert.is_true(t.nan ~= t.nan)
    t.nan = nil
    assert.same({ [0] = "zero", [0.5] = -0.5, [true] = false, [""] = "", ["nul\0"] = 2 ^ 53, inf = math.huge, list = { 1, { a = "b" }, n = 3 } }, t)
    assert.equal(7, #d)
    assert.is_nil(d:get "inf")
    d:put("large", ("x"):rep(3e6))
    assert.equal(3e6, app:func(function()
      local x = d:get "large"
      d:put("larger", x .. x)
      return #x
    end):remote())
    assert.equal(6e6, #d:get "larger")
  end)

  it("functions of the script come to workers, and those of workers stay there", function()
    local d = tidepool.Dict { double = function(x) return 2 * x end }
    assert.equal(42, app:func(function() return d:get "double"(21) end):remote())
    local failed = support.failure_of(function() app:func(function() d:put("mine", function() end) end):remote() end)
    support.contains(failed.message, here, "dict:put: value: a function cannot travel from a worker process")
    assert.is_nil(d:get "mine")
  end)

  it("typed arrays in them are shared", function()
    app:func(function() end):remote() -- from then on arrays lie where processes see them
    local d, a = tidepool.Dict(), tidepool.array("double", { 1, 2, 3 })
    d:put("a", { a })
    assert.equal(2, app:func(function()
      local x = d:get "a"[1]
      x[1] = 10
      d:put("own", require "tidepool".array("int32", { 7, 8 })) -- in the worker's memory: copied
      return x[2]
    end):remote())
    assert.equal(10, a[1])
    assert.equal(8, d:get "own"[2])
  end)

  it("a worker that dies within update leaves the key as it was, and is blamed", function()
    local d = tidepool.Dict { n = 0 }
    local f = app:func { crash_retries = 0 } (function(x)
      d:update("n", function(n)
        local pid = getpid()
        if x == 3 then require "ffi".C.kill(pid, 9) end
        return n + 1
      end)
    end)
    local list = f:map(tidepool.range(6), { return_exceptions = true }):list()
    for i = 1, 6 do assert.equal(i == 3, tidepool.is_failure(list[i])) end
    assert.equal("crash", list[3].kind)
    assert.equal(5, d:get "n")
  end)

  it("a worker that is killed while it waits takes nothing with it", function()
    local q, pids = tidepool.Queue(), tidepool.Queue()
    local get = app:func { crash_retries = 0 } (function()
      pids:put(getpid())
      return q:get()
    end)
    local call = get:spawn()
    os.execute("kill -9 " .. pids:get(60))
    assert.equal("crash", support.failure_of(function() call:get() end).kind)
    q:put "still there"
    assert.equal("still there", q:get(60))
    q:put "for another"
    assert.equal("for another", get:remote())
  end)

  it("a timeout ends a wait", function()
    local q = tidepool.Queue()
    local failed = support.failure_of(function() app:func { timeout = 0.05 } (function() return q:get() end):remote() end)
    assert.equal("timeout", failed.kind)
    q:put(1)
    assert.equal(1, q:get(60))
    support.check_pool()
  end)

  it("what an item waits for inside a map of its own is lent a permit, or is a clear error", function()
    local q, d = tidepool.Queue(), tidepool.Dict()
    local turn = app:func { concurrency_limit = 1 } (function(i)
      if i == 2 then return q:put "come" end
      d:put("waits", true)
      return q:get()
    end)
    local outer = app:func(function() return turn:map({ 1 }):list()[1] end)
    local call = outer:spawn()
    support.eventually("it waits", function() return d:get "waits" end)
    turn:remote(2)
    assert.equal("come", call:get())
    -- a worker process runs the items of such a map one after the other
    local failed = support.failure_of(function() app:func(function() return turn:map({ 1, 2 }):list()[1] end):remote() end)
    support.contains(tostring(failed), "this would wait for ever")
  end)

  it("classes use them when they end", function()
    local d, q = tidepool.Dict(), tidepool.Queue()
    local Model = app:cls { recycle = 1 } {
      enter = function() d:add "enter" end,
      exit = function()
        d:add "exit"
        q:put "left"
      end,
      run = function(_, x)
        d:add "run"
        return x
      end,
    }
    local n = 0
    -- more than there can be workers
    for _ in Model {}.run:map(tidepool.range(60)) do n = n + 1 end
    assert.equal(60, n)
    assert.equal(60, d:get "run")
    assert.equal("left", q:get(60))
    assert.is_true(d:get "exit" >= 1)
  end)

  it("any number of them come and go in an item, of which it can hold thousands", function()
    local make = app:func(function(n, is_held)
      local list, new = {}, require "tidepool".Dict
      for i = 1, n do
        local d = new { i = i }
        if is_held then list[i] = d end
        if d:get "i" ~= i then error(i) end
      end
      return #list
    end)
    local n = support.times(20000)
    assert.equal(0, make:remote(n))
    -- results of a large slice that the host has not read when it takes back what was returned
    local counts = tidepool.array("int32", 1)
    local function now_and_then(t)
      local x = t[1]
      counts:add(1, 1)
      for _ = 1, x % 1000 == 700 and 6000 or 0 do require "tidepool".Dict() end
      if x % 50 > 0 then return x end
      local q = require "tidepool".Queue()
      q:put(x)
      return q
    end
    local list, last = {}, 0
    n = support.times(3000)
    for i = 1, n do list[i] = { i } end
    assert.equal(n, app:func(now_and_then):for_each(list).ok)
    assert.equal(n, counts[1])
    for i, x in app:func(now_and_then):map(list) do
      last = last + 1
      assert.same({ last, i }, { i, type(x) == "number" and x or x:get(0) })
    end
    assert.same({ n, 2 * n }, { last, counts[1] })
    assert.equal(3000, make:remote(3000, true))
    local failed = support.failure_of(function() make:remote(5000, true) end)
    support.contains(failed.message, here, "a worker process can hold 4096 Dicts, Queues and arrays at once")
    assert.equal(3000, make:remote(3000, true))
  end)

  it("operations between results leave these as they are", function()
    local d, n = tidepool.Dict(), support.times(5000)
    local kinds = {
      [{ returns = "double" }] = function(x)
        d:add "n"
        return 2 * x
      end,
      [{}] = function(x)
        d:add "n"
        return { x }
      end,
      [{ retries = 0 }] = function(x)
        d:add "n"
        return 2 * x, tostring(x)
      end,
    }
    for options, fn in pairs(kinds) do
      d:put("n", 0)
      local i = 0
      for k, x in app:func(options)(fn):map(tidepool.range(n)) do
        i = i + 1
        assert.same({ i, i * 2 }, { k, type(x) == "table" and 2 * x[1] or x })
      end
      assert.same({ n, n }, { i, d:get "n" })
    end
    assert.equal(n, app:func(function() d:add "n" end):for_each(tidepool.range(n)).ok)
    assert.equal(2 * n, d:get "n")
    local sum = 0
    for x in app:func(function(last)
      for i = 1, last do
        d:add "n"
        coroutine.yield(i)
      end
    end):stream(n) do sum = sum + x end
    assert.equal(n * (n + 1) / 2, sum)
    assert.equal(3 * n, d:get "n")
  end)
end)
