--- Traces: what tidepool.trace writes, read back; spans and marks; and what goes wrong.

require "tidepool"
local reader = require "tests.trace_reader"
local support = require "tests.support"

local contains = support.contains

local head = [[
local tidepool = require "tidepool"
local app = tidepool.App "traced"
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned); int getpid(void); int kill(int, int);"
local function busy(seconds) local at = tidepool.now() + seconds while tidepool.now() < at do end end
]]

--- Runs a script with a trace of its own, which must say nothing, and reads that.
local function traced(source, options)
  options = options or {}
  options.workers = options.workers or 2
  local done = support.run_script(head .. 'local trace = tidepool.trace "DIR/trace.json"\n' .. source .. "\nassert(trace:stop())", options)
  assert.same({ code = 0, stderr = "" }, { code = done.code or -done.signal, stderr = done.stderr })
  return reader.read(done.dir .. "/trace.json"), done
end

describe("A trace", function()
  it("has each item, on the track of its worker, with an arrow from the map", function()
    for _, executor in ipairs { "inline", "threads", "processes" } do
      local t = traced(([[
        local f = app:func { name = "f", executor = %q } (function(x) busy(0.002) return x end)
        for i, x in f:map(tidepool.range(20)) do assert(i == x) end
        f:remote(1)]]):format(executor))
      assert.equal(21, t:items "f")
      local call = t:one { cat = "call", ph = "X", args = function(args) return args and args.map == 1 end }
      assert.equal("f: map", call.name)
      assert.equal("script", t:one { name = "thread_name", tid = call.tid, pid = call.pid }.args.name)
      assert.is_true(#t:all { ph = "s" } >= 2)
      local of_items = t:all { cat = "items" }[1]
      local name = t:one { name = "thread_name", tid = of_items.tid, pid = of_items.pid }.args.name
      if executor == "processes" then
        assert.equal("items", name)
        contains(t:one { name = "process_name", pid = of_items.pid }.args.name, "worker process, processes ")
      else
        contains(name, executor)
      end
      assert.equal("f", t:all { cat = "map", ph = "b" }[1].name)
    end
  end)

  it("joins small items, so that a million of them take little room", function()
    local n = support.times(1000000)
    local t = traced(('local f = app:func { name = "small" } (function(x) return x end)\nassert(f:map(tidepool.range(%d)):sum() > 0)'):format(n))
    assert.equal(n, t:items "small")
    assert.is_true(t.size < 1000000)
  end)

  it("shows nested maps inside their items, with arrows from these", function()
    for _, executor in ipairs { "threads", "processes" } do
      local t = traced(([[
        local inner = app:func { name = "inner" } (function(x) busy(0.001) return x end)
        local outer = app:func { name = "outer", executor = %q } (function(x) return inner:map({ x, x + 1 }):sum() end)
        assert(outer:map({ 1, 2, 3 }):sum() == 15)]]):format(executor))
      assert.equal(3, t:items "outer")
      assert.equal(6, t:items "inner")
      local calls = t:all { cat = "call", ph = "X", name = "inner: map" }
      assert.equal(3, #calls)
      for _, call in ipairs(calls) do
        local is_in = false
        for _, e in ipairs(t:all { cat = "items", ph = "X", name = function(name) return name:find "^outer" end }) do
          is_in = is_in or reader.lies_in(call, e)
        end
        assert.is_true(is_in)
      end
    end
  end)

  it("has the spans and marks of the script, of workers, of processes and of tasks", function()
    local t, done = traced([[
      local function parse(a, b) busy(0.001) tidepool.mark("text", "a \"b\" \255\n") return a, nil, b end
      local function item(x) tidepool.mark("number", x) return select("#", tidepool.span("parse", parse, x, 2)) end
      for _, executor in ipairs { "threads", "processes" } do
        assert(app:func { name = executor, executor = executor } (item):map({ 1, 2 }):sum() == 6)
      end
      print(tidepool.span("outer", function() return tidepool.span("inner", parse, 1, 3) end))
      print(select(2, pcall(tidepool.span, "failing", function() error "oops" end)))
      tidepool.span("after", busy, 0.001)
      tidepool.async(function() tidepool.span("first", tidepool.sleep, 0.03) tidepool.mark "in a task" end)
      tidepool.async(function() tidepool.span("second", tidepool.sleep, 0.02) end)
      tidepool.loop()
      tidepool.mark("number", 0 / 0)]])
    assert.equal("1\tnil\t3\n", done.stdout:match "^[^\n]*\n")
    contains(done.stdout, "job.lua:13: oops")
    local spans = t:all { cat = "span", name = "parse" }
    assert.equal(4, #spans)
    for _, span in ipairs(spans) do
      local is_in = false
      for _, e in ipairs(t:all { cat = "items", ph = "X" }) do is_in = is_in or reader.lies_in(span, e) end
      assert.is_true(is_in)
    end
    assert.is_true(reader.lies_in(t:one { name = "inner" }, t:one { name = "outer", ph = "X" }))
    assert.is_true(t:one { name = "after" }.ts + 0.001 >= t:one { name = "failing" }.ts + t:one { name = "failing" }.dur)
    assert.equal(4, #t:all { name = "number", ph = "C" })
    assert.equal("nan", t:one { name = "number", ph = "i" }.args.what)
    assert.equal('a "b" \239\191\189\n', t:all { name = "text", ph = "i" }[1].args.what)
    assert.equal(5, #t:all { name = "text", ph = "i" })
    for _, name in ipairs { "first", "second" } do assert.equal(t:one { name = name, ph = "b" }.id, t:one { name = name, ph = "e" }.id) end
    assert.equal(t:one { name = "first", ph = "b" }.id, t:one { name = "in a task", ph = "n" }.id)
    assert.equal(2, #t:all { ph = "b", name = function(name) return name:find "^task .*job%.lua:%d+$" end })
  end)

  it("has what an item in a process notes while the item runs", function()
    local _, done = traced [[
      local path = "DIR/trace.json"
      local f = app:func { name = "f", executor = "processes" } (function()
        tidepool.span("early", busy, 0.15)
        tidepool.mark "after it"
        for _ = 1, 600 do
          ffi.C.usleep(100000)
          local file = io.open(path)
          local text = file:read "*a"
          file:close()
          if text:find '"early"' then return true end
          tidepool.mark "again"
        end
        return false
      end)
      print(f:remote())]]
    assert.equal("true\n", done.stdout)
  end)

  it("has items that wait beside each other as tasks, with their own spans", function()
    local t = traced([[
      local f = app:func { name = "f", concurrent_inputs = 10 } (function(x)
        tidepool.span("outer", function()
          tidepool.sleep(0.002 * (x % 3))
          tidepool.span("inner", tidepool.sleep, 0.002)
        end)
        if x == 7 then error "seven" end
        return x
      end)
      f:map(tidepool.range(20), { return_exceptions = true }):list()]])
    assert.equal(0, #t:all { cat = "items" })
    for i = 1, 20 do
      local began = t:one { cat = "task", ph = "b", name = "f #" .. i }
      local ended = t:one { cat = "task", ph = "e", name = "f #" .. i }
      assert.equal(began.id, ended.id)
      for _, name in ipairs { "outer", "inner" } do
        local b, e = t:one { ph = "b", name = name, id = began.id }, t:one { ph = "e", name = name, id = began.id }
        assert.is_true(began.ts <= b.ts and b.ts + 2000 <= e.ts + 1 and e.ts <= ended.ts, name .. " of " .. i)
      end
    end
  end)

  it("has those of such items that keep their worker without a wait", function()
    for _, executor in ipairs { "threads", "processes" } do
      local t = traced(([[
        local f = app:func { name = "f", concurrent_inputs = 4, executor = %q } (function(x)
          tidepool.sleep(0.001)
          if x == 3 then ffi.C.usleep(50000) end
        end)
        f:for_each(tidepool.range(4))]]):format(executor))
      local at = t:all { name = "blocked", args = function(args) return args and args.item == 3 end }[1]
      local ms, computing = at.args.what:match "^it has kept its worker for (%d+) ms without a wait, (%d+) ms of them computing$"
      assert.is_true(tonumber(ms) >= 50 and tonumber(computing) < tonumber(ms), at.args.what)
    end
  end)

  it("has failures, retries, deaths and the processes that come in their places, cancelled maps", function()
    support.let_signals_kill()
    local t = traced([[
      local f = app:func { name = "f", retries = 1 } (function(x) if x == 3 then error "three" end return x end)
      f:map({ 1, 2, 3 }, { return_exceptions = true }):list()
      local dies = app:func { name = "dies", executor = "processes", crash_retries = 1 } (function(x)
        if x == 2 then ffi.C.kill(ffi.C.getpid(), 9) end
        return x
      end)
      dies:map({ 1, 2, 3 }, { return_exceptions = true }):list()
      local results = app:func(function(x) return x end):map(tidepool.range(math.huge))
      results:next()
      results:cancel()]])
    local failures = t:all { name = "failure", ph = "i" }
    assert.equal(2, #failures)
    assert.equal(3, failures[1].args.item)
    assert.equal(2, failures[2].args.item)
    assert.equal(2, #t:all { name = "retry", ph = "i" })
    local deaths = t:all { name = "death", ph = "i" }
    assert.equal(2, #deaths)
    assert.equal("was killed by SIGKILL", deaths[1].args.what)
    local pids = {}
    for _, e in ipairs(t:all { name = "process_name" }) do pids[e.pid] = true end
    assert.is_true(pids[deaths[1].pid] and pids[deaths[2].pid])
    assert.is_true(#t:all { name = "cancel", ph = "i" } >= 1)
  end)

  it("says why workers wait", function()
    local t = traced([[
      app:func(function(x) busy(0.02) return x end):map({ 1, 2, 3, 4 }):list() -- now there are two workers
      local f = app:func { name = "f", concurrency_limit = 1 } (function(x) busy(0.02) return x end)
      f:map({ 1, 2, 3, 4 }):list()
      local g = app:func { name = "g" } (function(x) return x end)
      local n = 0
      g:map(function() n = n + 1 if n < 6 then busy(0.02) return n end end):list()]])
    assert.is_true(#t:all { cat = "wait", name = "waits for concurrency_limit" } > 0)
    assert.is_true(#t:all { cat = "wait", name = "waits for the inputs" } > 0)
  end)

  it("counts inputs, bytes and memory", function()
    local t = traced [[app:func(function(x) busy(0.05) return x end):map({ 1, 2, 3, 4, 5, 6 }):list()]]
    local most = { queued = 0, running = 0 }
    for _, e in ipairs(t:all { name = "inputs", ph = "C" }) do
      for key in pairs(most) do most[key] = math.max(most[key], e.args[key]) end
    end
    assert.is_true(most.queued > 0 and most.running > 0)
    assert.is_true(t:all { name = "memory of the process", ph = "C" }[1].args.MiB > 1)
  end)

  it("is compressed when its name says so, and may come again in another file", function()
    local done = support.run_script(head .. [[
      local f = app:func { name = "f" } (function(x) return x end)
      local first = tidepool.trace "DIR/first.json.gz"
      f:map({ 1, 2 }):list()
      assert(first:stop() and first:stop())
      f:map({ 1, 2 }):list()
      local second = tidepool.trace "DIR/second.json"
      assert(first:stop()) -- this is not the second one's end
      f:map({ 1, 2, 3 }):list()
      print(second)]], { workers = 2 })
    assert.same({ 0, "", "tidepool.Trace: " .. done.dir .. "/second.json\n" }, { done.code, done.stderr, done.stdout })
    assert.equal(2, reader.read(done.dir .. "/first.json.gz"):items "f")
    assert.equal(3, reader.read(done.dir .. "/second.json"):items "f") -- ended with the script
  end)

  it("can be read as far as it came when its script is killed, with what ran then", function()
    local done = support.run_script(head .. [[
      tidepool.trace "DIR/trace.json"
      local f = app:func { name = "long" } (function(x) ffi.C.usleep(x) return x end)
      f:map({ 1, 2, 3 }):list()
      f:spawn(100e6)
      tidepool.span("the end", function()
        for _ = 1, 1200 do -- until it is in the file
          local file = io.open "DIR/trace.json"
          local text = file:read "*a"
          file:close()
          if text:find("the end", 1, true) and select(2, text:gsub('"ph":"B"', "")) >= 2 then break end
          tidepool.sleep(0.05)
        end
        ffi.C.kill(ffi.C.getpid(), 9)
      end)]], { workers = 2 })
    assert.equal(9, done.signal)
    local t = reader.read(done.dir .. "/trace.json", true)
    assert.equal(2, #t:all { ph = "B" })
    assert.equal("the end", t:one { ph = "B", cat = "span" }.name)
  end)

  it("may be of a script that begins it while maps run, and ends it before they are over", function()
    local done = support.run_script(head .. [[
      local f = app:func { name = "f" } (function(x) busy(0.01) return x end)
      local before = f:map(tidepool.range(30))
      before:next()
      local trace = tidepool.trace "DIR/trace.json"
      for _ = 1, 10 do before:next() end
      assert(trace:stop())
      assert(before:sum() == 465 - 66)]], { workers = 2 })
    assert.same({ 0, "" }, { done.code, done.stderr })
    local t = reader.read(done.dir .. "/trace.json")
    assert.is_true(t:items "f" >= 5 and t:items "f" <= 30)
  end)

  it("does not end a script when the disk is full, and says so once", function()
    for _, path in ipairs { "/dev/full", "DIR/full.gz" } do
      local done = support.run_script(head .. ([[
        os.execute "ln -s /dev/full DIR/full.gz"
        local trace = tidepool.trace "%s"
        local f = app:func { name = "f" } (function(x) busy(0.001) return x end)
        for _ = 1, 3 do
          f:map(tidepool.range(200)):list()
          ffi.C.usleep(300000)
        end
        print(trace:stop())]]):format(path), { workers = 2 })
      path = path:gsub("DIR", done.dir)
      local message = ("cannot write the trace %s: No space left on device"):format(path)
      assert.same({ 0, ("nil\t%s\n"):format(message), ("tidepool: %s (it ends there; the script goes on)\n"):format(message) },
        { done.code, done.stdout, done.stderr })
    end
  end)

  it("takes little memory, however much is traced", function()
    if support.sanitized then return end
    local source = head .. [[
      %s
      local f = app:func { name = "f" } (function(x) return x end)
      assert(f:map(tidepool.range(10000000)):sum() > 0)
      for i = 1, 20000 do f:remote(i) end
      local file = io.open "/proc/self/status"
      print(file:read("*a"):match "VmHWM:%%s*(%%d+)")
      file:close()]]
    local plain = tonumber(support.output_of(source:format "", { workers = 2 }))
    local done = support.run_script(source:format 'tidepool.trace "DIR/trace.json"', { workers = 2 })
    assert.same({ 0, "" }, { done.code, done.stderr })
    assert.is_true(tonumber(done.stdout) < plain + 50000, done.stdout .. " KiB, without a trace " .. plain)
    local t = reader.read(done.dir .. "/trace.json")
    -- on a loaded machine the thread that writes is slower than the items are, and events are lost
    assert.is_true(t:items "f" > 0 and t:items "f" <= 10020000, t:items "f")
  end)
end)

describe("tidepool.trace", function()
  local tidepool = require "tidepool"

  it("says what is wrong", function()
    support.mistake(function() local t = tidepool.trace() return t end, "tidepool.trace: expected the path of a file, got nil")
    support.mistake(function() local t = tidepool.trace("a", "b") return t end, "tidepool.trace takes the path of a file")
    support.mistake(function() local t = tidepool.trace "/nowhere/at/all" return t end,
      "tidepool.trace: cannot write the trace /nowhere/at/all: No such file or directory")
    support.mistake(function() local t = tidepool.trace "a\0b" return t end, "the file's name has a zero byte in it")
    local path = support.temp_path()
    local trace = tidepool.trace(path)
    support.mistake(function() local t = tidepool.trace "another" return t end,
      "tidepool.trace: " .. path .. " is being written, and one at a time is possible")
    support.mistake(function() local t = trace.stop() return t end, "write trace:stop()")
    assert.is_true(trace:stop())
    reader.read(path)
    local f = tidepool.App("a"):func(function() return tidepool.trace "a" end)
    contains(tostring(support.failure_of(function() return f:remote() end)), "tidepool.trace: only the script can trace")
  end)
end)

describe("tidepool.span and tidepool.mark", function()
  local tidepool = require "tidepool"

  it("do nothing but the call while nothing is traced", function()
    assert.same({ 3, 1, nil, 3 }, { select("#", tidepool.span("a", function(...) return ... end, 1, nil, 3)),
      tidepool.span("a", function(...) return ... end, 1, nil, 3) })
    tidepool.mark("a", 1)
    tidepool.mark "a"
  end)

  it("say what is wrong", function()
    support.mistake(function() local x = tidepool.span(7, print) return x end, "tidepool.span: expected a name, got 7")
    support.mistake(function() local x = tidepool.span "a" return x end, "tidepool.span: expected a function after the name, got nil")
    support.mistake(function() tidepool.mark() end, "tidepool.mark: expected a name, got nil")
    support.mistake(function() tidepool.mark("a", {}) end, 'tidepool.mark: expected a number or a string as the value of "a", got')
    support.mistake(function() tidepool.mark("a", 1, 2) end, "tidepool.mark takes (name, value)")
  end)
end)

describe("--trace", function()
  it("traces a script, a command and os.exit, and says what is wrong", function()
    local shell = require "tests.cli.shell"
    local job = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "a"
      local f = app:func { name = "f" } (function(x) return x end)
      app:main(function() print(f:map({ 1, 2, 3 }):sum()) os.exit(3) end)]]
    local function is_traced(code, command, name)
      local done = shell.run(command, { ["job.lua"] = job })
      assert.same({ code, "" }, { done.code, done.stderr })
      assert.equal(3, reader.read(done.dir .. "/" .. (name or "t.json")):items "f")
    end
    is_traced(3, "$T --trace t.json job.lua")
    is_traced(3, "$T run --trace=t.json.gz job.lua", "t.json.gz")
    is_traced(0, "seq 3 | $T map job.lua::f --trace t.json")
    shell.check({ code = 2, stderr = "tidepool: --trace needs a file, not nothing (try: tidepool --help)\n" }, "$T --trace")
    shell.check({ code = 1, stderr = "tidepool: cannot start: cannot write the trace a/b: No such file or directory\n" },
      "$T --trace a/b -e 'print(1)'")
    local full = "tidepool: cannot write the trace /dev/full: No space left on device (it ends there; the script goes on)\n"
    shell.check({ stdout = "1\n", stderr = full },
      "$T --trace /dev/full -e 'print(1)'")
  end)
end)
