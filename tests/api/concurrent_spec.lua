--- Functions with concurrent_inputs: a worker runs many of their inputs at once, which wait beside
--- each other. (tests/promises_spec.lua asks for all promises with this option, too.)

local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of, note = support.contains, support.failure_of, support.note

for _, executor in ipairs { "threads", "inline", "processes" } do
  describe("On " .. executor .. " a function with concurrent_inputs", function()
    local app = tidepool.App("concurrent", { executor = executor })

    --- Waits until so many inputs, of any function, have called this.
    local function meet(dict, n)
      dict:add("here")
      while dict:get("here") < n do tidepool.sleep(0.001) end
    end

    it("runs so many of its inputs at once in one worker", function()
      local all = app:func { concurrent_inputs = 100 } (function(x, dict)
        meet(dict, 100)
        return 2 * x
      end)
      local list = all:map(tidepool.range(100), tidepool.const(tidepool.Dict())):list()
      for i = 1, 100 do assert.equal(2 * i, list[i]) end
      local alias = app:func { max_concurrent_inputs = 5 } (function(_, dict) meet(dict, 5) end)
      assert.same({ ok = 5, failed = 0 }, alias:for_each(tidepool.range(5), tidepool.const(tidepool.Dict())))
    end)

    it("runs single calls at once, too", function()
      local dict = tidepool.Dict()
      local one = app:func { concurrent_inputs = 50 } (function(x)
        meet(dict, 50)
        return x
      end)
      local calls = {}
      for i = 1, 50 do calls[i] = one:spawn(i) end
      local values = tidepool.gather(calls)
      for i = 1, 50 do assert.equal(i, values[i]) end
    end)

    it("never has more inputs open in a worker than that", function()
      local dict = tidepool.Dict()
      local few = app:func { concurrent_inputs = 3 } (function()
        local me = "worker " .. tidepool.current().worker
        local n = dict:add(me)
        tidepool.sleep(0.001)
        dict:add(me, -1)
        return n
      end)
      assert.equal(3, few:map(tidepool.range(60)):max())
    end)

    it("keeps to concurrency_limit over all workers", function()
      local dict = tidepool.Dict()
      local limited = app:func { concurrent_inputs = 10, concurrency_limit = 4 } (function()
        local n = dict:add("open")
        tidepool.sleep(0.001)
        dict:add("open", -1)
        return n
      end)
      assert.equal(4, limited:map(tidepool.range(60)):max())
    end)

    it("knows which input runs, whatever has run in between", function()
      local who = app:func { concurrent_inputs = 20, name = "who", retries = 1 } (function(x)
        local first = tidepool.current()
        tidepool.sleep(0.001 * (x % 7))
        local second = tidepool.current()
        if x % 5 == 0 and second.attempt == 1 then error "again" end
        return first.index, second.index, second.attempt, second.function_name
      end)
      for i, a, b, attempt, name in who:map(tidepool.range(100)) do
        assert.same({ i, i, i % 5 == 0 and 2 or 1, "who" }, { a, b, attempt, name })
      end
    end)

    it("draws for each input what it draws when inputs run one after the other", function()
      local function draw(x)
        local a = math.random()
        tidepool.sleep(0.001 * (x % 5))
        if x % 3 == 0 then math.randomseed(x) end
        local b = math.random(1000)
        tidepool.sleep(0)
        return a, b, math.random()
      end
      local function all(options)
        math.randomseed(5)
        return { app:func(options, draw):map(tidepool.range(60)):list() }
      end
      assert.same(all {}, all { concurrent_inputs = 30 })
    end)

    it("keeps an input's changes to standard libraries away from the others", function()
      local change = app:func { concurrent_inputs = 20 } (function(x)
        local library = rawget(_G, "string")
        if x % 2 == 0 then function library.mine() return x end end
        tidepool.sleep(0.001 * (x % 4))
        return library.mine and library.mine()
      end)
      for i, value in change:map(tidepool.range(40)) do assert.equal(i % 2 == 0 and i or nil, value) end
    end)

    it("finds its functions' globals and modules, and runs setups before its first input", function()
      local other = tidepool.App("setup", { executor = executor })
      other:setup(function() concurrent_setup = 7 end) -- luacheck: ignore
      local f = other:func { concurrent_inputs = 4 } (function(x)
        tidepool.sleep(0.001)
        return x + concurrent_setup -- luacheck: ignore
      end)
      assert.same({ 8, 9, 10, n = 3 }, f:map({ 1, 2, 3 }):list())
    end)

    it("gives arrays, several values, tables it has captured, and nothing", function()
      local captured = { "a" }
      local f = app:func { concurrent_inputs = 8, returns = "double" } (function(x)
        tidepool.sleep(0.001)
        return x / 2
      end)
      assert.equal(25.25, f:map(tidepool.array("double", { 1, 100 })):array():sum() / 2)
      local g = app:func { concurrent_inputs = 8 } (function(x)
        tidepool.sleep(0.001)
        if x == 2 then return end
        return x, nil, captured, { x }
      end)
      local results = g:map { 1, 2 }
      local i, a, b, c, d = results:next()
      assert.same({ 1, 1, nil, captured, { 1 } }, { i, a, b, c, d })
      assert.equal(1, select("#", results:next()))
      contains(failure_of(function()
        return app:func { concurrent_inputs = 2, returns = "double" } (function() return "x" end):map({ 1 }):list()
      end).message, "double")
    end)

    it("shows where its code has failed", function()
      local f = app:func { concurrent_inputs = 4, name = "bad" } (function(x)
        tidepool.sleep(0.001)
        if x == 3 then error("no " .. x) end
        return x
      end)
      local failure = failure_of(function() return f:map({ 1, 2, 3, 4 }):list() end)
      assert.equal(3, failure.index)
      contains(failure.message, "concurrent_spec.lua:", "no 3")
      contains(failure.traceback, "concurrent_spec.lua:")
      assert.is_nil(failure.traceback:find("[tidepool]/", 1, true))
      assert.same({ 3, n = 1 }, failure.input)
      failure = failure_of(function()
        local function down() return 1 + down() end
        return app:func { concurrent_inputs = 4 } (down):remote()
      end)
      contains(failure.message, "stack overflow")
      support.check_pool()
    end)

    it("can map, itself and others, and be mapped, on one place", function()
      local plain = app:func(function(x) return x * x end)
      local tree
      tree = app:func { concurrent_inputs = 2 } (function(depth)
        tidepool.sleep(0.001)
        if depth == 0 then return plain:remote(1) end
        local sum = 0
        for _, value in tree:map { depth - 1, depth - 1, depth - 1 } do sum = sum + value end
        return sum
      end)
      assert.equal(81 * 3, tree:map({ 4, 4, 4 }):sum())
      local above = app:func(function(x) return tree:map({ x, x }):sum() end)
      assert.equal(12 * 6, above:map(tidepool.const(1), tidepool.range(12)):sum())
      local many = app:func { concurrent_inputs = 10 } (function(x)
        local calls = {}
        for i = 1, 5 do calls[i] = plain:spawn(i) end
        local done = tidepool.wait(calls, { n = 5 })
        return #done + plain:map({ x }):sum()
      end)
      assert.equal(5 * 30 + 30 * 31 * 61 / 6, many:map(tidepool.range(30)):sum())
    end)

    it("lends its place under a limit while an input waits for a nested map", function()
      local nest
      nest = app:func { concurrent_inputs = 4, concurrency_limit = 1 } (function(depth)
        tidepool.sleep(0.001)
        if depth == 0 then return 1 end
        return 1 + nest:remote(depth - 1)
      end)
      assert.equal(5 * 6, nest:map({ 4, 4, 4, 4, 4, 4 }):sum() )
    end)

    it("may be left early, in the script and in an input, with inputs that wait", function()
      local wait = app:func { concurrent_inputs = 8 } (function(x)
        tidepool.sleep(x == 1 and 0 or 3600)
        return x
      end)
      for _ = 1, 5 do
        local results = wait:map(tidepool.range(100))
        assert.equal(1, select(2, results:next()))
        results:cancel()
      end
      local early = app:func(function()
        local results = wait:map(tidepool.range(50))
        local _, value = results:next()
        results:cancel()
        return value
      end)
      assert.equal(10, early:map(tidepool.range(10)):sum())
      support.check_pool()
    end)

    it("ends the wait of an input that is cancelled, and no other's", function()
      if executor == "inline" then return end -- there calls run only while they are waited for
      local path = support.temp_path()
      local stay = app:func { concurrent_inputs = 10 } (function(x, seconds)
        note(path, "begun")
        local fine, why = pcall(tidepool.sleep, seconds)
        if not fine then note(path, ("%d %s"):format(x, why.kind)) end
        -- an input that is not wanted cannot wait any more
        if not fine then note(path, tostring(pcall(tidepool.sleep, 0))) end
        return x
      end)
      local a, b, c = stay:spawn(1, 3600), stay:spawn(2, 3600), stay:spawn(3, 0.2)
      tidepool.async(function()
        repeat tidepool.sleep(0.001) until #support.notes(path) == 3
        b:cancel()
        support.eventually("the input has noticed", function()
          tidepool.sleep(0.001)
          return #support.notes(path) == 5
        end)
        assert.equal(3, c:get())
        a:cancel()
      end):get()
      assert.same({ "begun", "begun", "begun", "2 cancelled", "false" }, { unpack(support.notes(path), 1, 5) })
      assert.equal("cancelled", failure_of(b.get, b).kind)
    end)

    it("lets inputs wait for queues that only inputs behind them fill", function()
      local queue = tidepool.Queue()
      local f = app:func { concurrent_inputs = 4 } (function(x)
        if x < 30 then return queue:get() end
        for i = 1, 29 do queue:put(i) end
        return 0
      end)
      assert.equal(29 * 30 / 2, f:map(tidepool.range(30)):sum())
      local failure = failure_of(function()
        return app:func { concurrent_inputs = 4 } (function() return queue:get() end):map(tidepool.range(10)):list()
      end)
      contains(tostring(failure), "this would wait for ever")
    end)

    it("runs commands beside each other", function()
      local dict = tidepool.Dict()
      local echo = app:func { concurrent_inputs = 4 } (function(x)
        meet(dict, 4)
        return tidepool.command { "sh", "-c", "sleep 0.02; echo " .. x }.stdout
      end)
      assert.same({ "1\n", "2\n", "3\n", "4\n", n = 4 }, echo:map({ 1, 2, 3, 4 }):list())
    end)

    it("waits for what its inputs have spawned", function()
      local path = support.temp_path()
      local noted = app:func(function(x) note(path, x) end)
      local f = app:func { concurrent_inputs = 4 } (function(x)
        noted:spawn(x)
        tidepool.sleep(0.001)
      end)
      f:for_each(tidepool.range(20))
      assert.equal(20, #support.notes(path))
    end)

    it("tells what cannot wait, and where", function()
      local function failed(fn) return tostring(failure_of(function() app:func { concurrent_inputs = 2 } (fn):remote() end)) end
      contains(failed(function() ("x"):gsub(".", function() tidepool.sleep(0.1) end) end), "concurrent_spec.lua:",
        "in an input of a function with concurrent_inputs nothing can wait inside gsub, a function in C")
      contains(failed(function() coroutine.yield(1) end), "concurrent_spec.lua:", "attempt to yield outside a coroutine: an input waits by")
      -- its own coroutines are as ever, and can wait
      local own = app:func { concurrent_inputs = 2 } (function()
        local next_value = coroutine.wrap(function()
          for i = 1, 3 do
            tidepool.sleep(0.001)
            coroutine.yield(i)
          end
        end)
        return next_value() + next_value() + next_value()
      end)
      assert.same({ 6, 6, 6, n = 3 }, own:map({ 1, 2, 3 }):list())
    end)

    it("is kept in a cache and a journal as any other", function()
      local dir, runs = support.temp_dir(), tidepool.Dict()
      local f = app:func { concurrent_inputs = 10, cache = dir .. "/cache.db" } (function(x)
        runs:add("n")
        tidepool.sleep(0.001)
        return x
      end)
      for _ = 1, 2 do assert.equal(210, f:map(tidepool.range(20)):sum()) end
      assert.equal(20, runs:get "n")
      local g = f:with { cache = false }
      assert.equal(210, g:map(tidepool.range(20), { journal = dir .. "/run.db" }):sum())
      assert.equal(40, runs:get "n")
    end)

    it("makes requests through luv's sockets, many at once", function()
      local uv = require "luv"
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      local waiting, n = {}, 60
      -- answers only when all have asked
      server:listen(128, function(err)
        assert(not err, err)
        local peer = uv.new_tcp()
        server:accept(peer)
        peer:read_start(function(_, chunk)
          if not chunk then return end
          waiting[#waiting + 1] = { peer, chunk:match "GET (%S+)" }
          if #waiting < n then return end
          for _, one in ipairs(waiting) do
            one[1]:write("HTTP/1.0 200 OK\r\n\r\n" .. one[2])
            one[1]:shutdown(function() one[1]:close() end)
          end
        end)
      end)
      local fetch = app:func { concurrent_inputs = n } (function(port, path)
        local client = require "luv".new_tcp()
        local done, chunks = tidepool.event(), {}
        client:connect("127.0.0.1", port, function(err)
          if err then return done:fail(err) end
          client:read_start(function(why, chunk)
            if why then done:fail(why) elseif chunk then chunks[#chunks + 1] = chunk else done:set(table.concat(chunks)) end
          end)
          client:write("GET " .. path .. " HTTP/1.0\r\n\r\n")
        end)
        local fine, answer = pcall(done.get, done)
        client:close()
        if not fine then error(answer, 0) end
        return answer:match "\r\n\r\n(.*)"
      end)
      local paths = {}
      for i = 1, n do paths[i] = "/page/" .. i end
      local pages = fetch:map(tidepool.const(server:getsockname().port), paths):list()
      server:close()
      for i = 1, n do assert.equal(paths[i], pages[i]) end
    end)

    it("shows errors of callbacks, and goes on", function()
      local done = support.run_script(([[
        local tidepool = require "tidepool"
        local app = tidepool.App("x", { executor = %q })
        local f = app:func { concurrent_inputs = 4 } (function(x)
          local uv = require "luv"
          local timer, done = uv.new_timer(), tidepool.event()
          timer:start(1, 0, function()
            timer:close()
            done:set(x)
            if x == 2 then error "callback 2" end
          end)
          return done:get()
        end)
        print(f:map({ 1, 2, 3 }):sum())
      ]]):format(executor), { seconds = 60 })
      assert.equal("6\n", done.stdout)
      contains(done.stderr, "tidepool: error in a callback:", "callback 2")
    end)

    it("writes whole lines, each input its own", function()
      local done = support.run_script(([[
        local tidepool = require "tidepool"
        local app = tidepool.App("x", { executor = %q })
        local f = app:func { concurrent_inputs = 50 } (function(x)
          io.write("input ", x)
          tidepool.sleep(0.001 * (x %% 5))
          io.write(" is ")
          tidepool.sleep(0.001 * (x %% 3))
          print(x)
        end)
        f:for_each(tidepool.range(50))
      ]]):format(executor), { seconds = 60 })
      local n = 0
      for line in done.stdout:gmatch "[^\n]+" do
        n = n + 1
        local a, b = line:match "^input (%d+) is (%d+)$"
        assert(a and a == b, line)
      end
      assert.equal(50, n)
    end)

    it("says who blocks a worker's loop", function()
      local done = support.run_script(([[
        local tidepool = require "tidepool"
        local app = tidepool.App("x", { executor = %q })
        local f = app:func { concurrent_inputs = 4, name = "fetch" } (function(x)
          if x > 2 then return tidepool.sleep(0.7) end
          tidepool.sleep(0.05)
          os.execute "sleep 0.4"
        end)
        f:for_each(tidepool.range(8))
      ]]):format(executor), { seconds = 60 })
      assert.matches("tidepool: input %d+ of 'fetch' blocked the loop of worker %d for %d+ ms; its other inputs %(%d+%) could not go on", done.stderr)
      assert.equal(1, select(2, done.stderr:gsub("blocked the loop", "")))
    end)

    it("ends with the script, whatever waits", function()
      local done = support.run_script(([[
        local tidepool = require "tidepool"
        local app = tidepool.App("x", { executor = %q })
        local f = app:func { concurrent_inputs = 10 } (function(x)
          if x == 1 then return end
          if x == 2 then pcall(tidepool.sleep, 3600) end
          if x == 3 then return tidepool.event():get() end
          if x == 4 then return tidepool.Queue():get(3600) end
          if x == 5 then require "luv".new_timer():start(3600000, 0, function() end) end
          tidepool.sleep(3600)
        end)
        f:map(tidepool.range(20)):next()
        print "over"
        os.exit(0, true)
      ]]):format(executor), { seconds = 60 })
      assert.is_false(done.timed_out)
      assert.equal("over\n", done.stdout)
    end)
  end)
end

describe("A function with concurrent_inputs", function()
  local app = tidepool.App "concurrent"

  it("leaves its worker to others while it waits", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      tidepool.workers(1)
      local app = tidepool.App("x", { executor = "threads" })
      local queue = tidepool.Queue()
      local f = app:func { concurrent_inputs = 4 } (function(x) return queue:get(60) end)
      local plain = app:func(function(x) queue:put(x) end)
      local results = f:map(tidepool.range(8))
      plain:for_each(tidepool.range(8))
      print(results:sum())
    ]], { seconds = 60 })
    assert.equal("36\n", done.stdout)
  end)

  it("ends when Ctrl-C comes while all wait", function()
    for _, executor in ipairs { "threads", "inline", "processes" } do
      local done = support.run_script(([[
        local tidepool = require "tidepool"
        local ffi = require "ffi"
        ffi.cdef "int getpid(void); int kill(int, int);"
        local app, script = tidepool.App("x", { executor = %q }), ffi.C.getpid()
        local f = app:func { concurrent_inputs = 10 } (function(x)
          pcall(ffi.cdef, "int getpid(void); int kill(int, int);")
          if x == 20 then ffi.C.kill(script, 2) end
          tidepool.sleep(x > 15 and 3600 or 0)
        end)
        f:for_each(tidepool.range(40))
        print "not reached"
      ]]):format(executor), { seconds = 60 })
      assert.is_false(done.timed_out)
      assert.equal("", done.stdout)
      contains(done.stderr, "interrupted")
    end
  end)

  describe("in processes", function()
    local far = tidepool.App("concurrent", { executor = "processes" })

    --- Kills the process that calls it. (Under a sanitizer a wrong address would be its report.)
    local function die()
      local ffi = require "ffi"
      pcall(ffi.cdef, "int getpid(void); int kill(int, int);")
      ffi.C.kill(ffi.C.getpid(), 9)
    end

    --- A list of results of which those at `culprits` (index -> kind) failed, and no other was run
    --- more often than its attempts say.
    local function check(list, culprits)
      for i = 1, list.n do
        if culprits[i] then
          assert.equal(culprits[i], tidepool.is_failure(list[i]) and list[i].kind, tostring(list[i]))
          contains(list[i].message, "input " .. i)
        else
          assert.equal(1, list[i], "input " .. i .. ": " .. tostring(list[i]))
        end
      end
    end

    it("blames a crash on the input that ran, however many wait beside it", function()
      local f = far:func { concurrent_inputs = 20, crash_retries = 0 } (function(x)
        local attempt = tidepool.current().attempt
        tidepool.sleep(0.02)
        if x == 7 then die() end
        tidepool.sleep(0.02)
        return attempt
      end)
      local list = f:map(tidepool.range(40), { return_exceptions = true }):list()
      check(list, { [7] = "crash" })
      assert.equal(1, list[7].attempts)
      list = f:with({ crash_retries = 2 }):map(tidepool.range(40), { return_exceptions = true }):list()
      check(list, { [7] = "crash" })
      assert.equal(3, list[7].attempts)
    end)

    it("finds the input whose process dies while all wait, at no other's cost", function()
      local f = far:func { concurrent_inputs = 20 } (function(x)
        local attempt = tidepool.current().attempt
        if x == 7 then require "luv".new_timer():start(10, 0, die) end
        tidepool.sleep(0.05)
        return attempt
      end)
      local list = f:map(tidepool.range(40), { return_exceptions = true }):list()
      check(list, { [7] = "crash" })
      assert.equal(2, list[7].attempts)
    end)

    it("stops what runs for too long where it waits, or with its worker, and lets the others go on", function()
      local f = far:func { concurrent_inputs = 20, timeout = 1 } (function(x)
        local attempt = tidepool.current().attempt
        if x == 3 then tidepool.sleep(3600) end
        if x == 5 then while true do pcall(tidepool.sleep, 3600) end end
        if x == 6 then while true do end end -- luacheck: ignore
        if x == 9 then os.execute "sleep 3600" end
        tidepool.sleep(0.01)
        return attempt
      end)
      check(f:map(tidepool.range(40), { return_exceptions = true }):list(), { [3] = "timeout", [5] = "timeout", [6] = "timeout", [9] = "timeout" })
    end)

    it("ends hundreds of inputs that are late in one go", function()
      local f = far:func { concurrent_inputs = 100, timeout = 0.2 } (function() tidepool.sleep(3600) end)
      local n = 0
      for _, failure in f:map(tidepool.range(300), { return_exceptions = true }) do
        assert.equal("timeout", failure.kind)
        n = n + 1
      end
      assert.equal(300, n)
    end)

    it("says whose memory has run out", function()
      local f = far:func { concurrent_inputs = 10, memory = "48M" } (function(x)
        tidepool.sleep(0.005)
        local t = {}
        for i = 1, x == 4 and 1e9 or 0 do t[i] = ("x"):rep(1000) .. i end
        tidepool.sleep(0.005)
        return 1 + #t
      end)
      local list = f:map(tidepool.range(20), { return_exceptions = true }):list()
      for i = 1, 20 do
        if i == 4 then assert.equal("memory", list[i].kind) else assert.equal(1, list[i]) end
      end
    end)

    it("replaces a worker after so many inputs, once those that it has are over", function()
      local f = far:func { concurrent_inputs = 4, recycle = 10 } (function()
        local ffi = require "ffi"
        pcall(ffi.cdef, "int getpid(void);")
        tidepool.sleep(0.001)
        return ffi.C.getpid()
      end)
      local runs = {}
      for _, pid in f:map(tidepool.range(100)) do runs[pid] = (runs[pid] or 0) + 1 end
      for _, n in pairs(runs) do assert.is_true(n <= 10) end
    end)

    it("goes on with other functions beside inputs that wait, and their deaths are their own", function()
      local queue = tidepool.Queue()
      local take = far:func { concurrent_inputs = 50 } (function() return queue:get() end)
      local results = take:map(tidepool.range(50))
      local plain = far:func { crash_retries = 0 } (function(x)
        if x == 7 then die() end
        return 1
      end)
      check(plain:map(tidepool.range(20), { return_exceptions = true }):list(), { [7] = "crash" })
      far:func(function(x) queue:put(x) end):for_each(tidepool.range(50))
      assert.equal(50 * 51 / 2, results:sum())
    end)

    it("loses nothing when processes are killed at any time", function()
      local ffi, pids = require "ffi", tidepool.Dict()
      pcall(ffi.cdef, "int kill(int, int);")
      local f = far:func { concurrent_inputs = 30, crash_retries = 10000 } (function(x)
        local c = require "ffi"
        pcall(c.cdef, "int getpid(void);")
        pids:put(c.C.getpid(), true)
        for _ = 1, x % 3 do tidepool.sleep(0.001 * (x % 7)) end
        return x
      end)
      local results, is_over, killed = f:map(tidepool.range(600)), false, 0
      local killer = tidepool.async(function()
        while not is_over and killed < 30 do
          for pid in pids:pairs() do
            ffi.C.kill(pid, 9)
            pids:pop(pid)
            killed = killed + 1
          end
          tidepool.sleep(0.02)
        end
      end)
      tidepool.async(function()
        local n = 0
        for i, x in results do
          n = n + 1
          assert(i == n and x == n)
        end
        is_over = true
        assert.equal(600, n)
      end):get()
      killer:get()
      assert.is_true(killed > 0)
    end)
  end)

  it("does not take a busy script for one that nothing can come from", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      for _, executor in ipairs { "threads", "processes" } do
        local app, queue = tidepool.App("x", { executor = executor }), tidepool.Queue()
        local call = app:func { concurrent_inputs = 4 } (function() return queue:get() end):spawn()
        local until_then = os.clock() + 2.5
        while os.clock() < until_then do end
        queue:put(5)
        print(call:get())
      end
    ]], { seconds = 60 })
    assert.equal("5\n5\n", done.stdout)
  end)

  it("refuses what makes no sense with it, by its name", function()
    local function refused(expected, fn) contains(support.mistake(fn), expected) end
    local function f() end
    refused("options 'concurrent_inputs' and 'batched' exclude each other", function() app:func({ concurrent_inputs = 4, batched = 8 }, f) end)
    refused("option 'concurrent_inputs' needs an executor", function() app:func({ concurrent_inputs = 4, gpu = true }, f) end)
    refused("option 'concurrent_inputs' is for functions that wait in Lua",
      function() app:func({ concurrent_inputs = 4, gpu = true, executor = "threads" }, f) end)
    refused("option 'concurrent_inputs' is for app:func", function() app:cls({ concurrent_inputs = 4 }, { run = f }) end)
    refused("option 'concurrent_inputs' must be an integer from 1 to 100000, got 0", function() app:func({ concurrent_inputs = 0 }, f) end)
    refused("has option 'concurrent_inputs'", function() app:func({ concurrent_inputs = 4 }, f):stream() end)
  end)

  it("with 1 is a function as any other", function()
    local g = app:func { concurrent_inputs = 1 } (function(x)
      assert(not pcall(tidepool.event))
      return x
    end)
    assert.equal(55, g:map(tidepool.range(10)):sum())
  end)
end)
