--- Stopping, interrupting, and code that disturbs its worker, on threads and in the program.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of
local note, sleep, wait_for = support.note, support.sleep, support.wait_for

describe("Leaving a map", function()
  local app = tidepool.App "control"
  local give = app:func(function(x) return x end)

  after_each(function() support.check_pool() end)

  it("by break starts nothing more, without any garbage collection", function()
    local path = support.temp_path()
    local slow = app:func(function(x)
      note(path, x)
      sleep(0.01)
      return x
    end)
    collectgarbage "stop"
    for i in slow:map(tidepool.range(1000), { window = 400 }) do
      if i == 3 then break end
    end
    support.sleep(0.4)
    local started = #support.notes(path)
    support.sleep(0.4)
    local later = #support.notes(path)
    collectgarbage "restart"
    assert.equal(started, later)
    assert.is_true(started <= 403)
  end)

  it("by break starts at most what the window holds", function()
    local path = support.temp_path()
    local noted = app:func(function(x)
      note(path, x)
      return x
    end)
    for i in noted:map(tidepool.range(1000), { window = 5 }) do
      if i == 3 then break end
    end
    support.sleep(0.2)
    assert.is_true(#support.notes(path) <= 3 + 5)
  end)

  it("by cancel ends the loop with kind cancelled, and other maps go on", function()
    local other = give:map(tidepool.range(100))
    local results = give:map(tidepool.range(1, 1 / 0))
    results:next()
    results:cancel()
    assert.equal("cancelled", failure_of(function()
      for _ in results do end
    end).kind)
    assert.equal("cancelled", failure_of(results.list, results).kind)
    assert.is_true(results:done())
    assert.equal(100, other:list().n)
  end)

  it("by cancel drops what is queued while something runs", function()
    local dir = support.temp_dir()
    local gate = app:func { concurrency_limit = 1 } (function(x)
      note(dir .. "/started", x)
      wait_for(dir .. "/go")
      return x
    end)
    local results = gate:map { 1, 2, 3, 4 }
    support.eventually("the first runs", function() return #support.notes(dir .. "/started") >= 1 end)
    results:cancel()
    note(dir .. "/go", "go")
    support.sleep(0.1)
    assert.same({ "1" }, support.notes(dir .. "/started"))
  end)

  -- Less is fine: what earlier specs have dropped is closed meanwhile.
  local function holds_no_more(before, after)
    assert.is_true(after.fds <= before.fds, after.fds .. " descriptors, before: " .. before.fds)
    assert.is_true(after.threads <= before.threads, after.threads .. " threads, before: " .. before.threads)
  end

  it("by dropping it, 1,000 times, leaks neither memory nor files nor threads", function()
    local function drop(times)
      for _ = 1, times do
        give:map(tidepool.range(100)):next()
        collectgarbage()
        collectgarbage()
      end
    end
    drop(support.times(100))
    local before = support.held()
    drop(support.times(1000))
    local after = support.held()
    holds_no_more(before, after)
    if not support.sanitized then assert.is_true(after.rss - before.rss < 10, after.rss - before.rss .. " MiB more") end
  end)

  it("by failures, cancels and breaks, many times, leaks neither memory nor files nor threads", function()
    local fails = app:func(function(x)
      if x == 5 then error { x, ("y"):rep(1000) } end
      return ("z"):rep(1000)
    end)
    local function leave(times)
      for i = 1, times do
        collect(fails:map(tidepool.range(20)))
        local results = fails:map(tidepool.range(1000), { return_exceptions = true, window = 1 + i % 30 })
        results:next()
        if i % 2 == 0 then results:cancel() end
      end
      collectgarbage()
      collectgarbage()
    end
    leave(support.times(200))
    local before = support.held()
    leave(support.times(1000))
    local after = support.held()
    holds_no_more(before, after)
    if not support.sanitized then assert.is_true(after.rss - before.rss < 10, after.rss - before.rss .. " MiB more") end
  end)
end)

describe("A module of ours", function()
  it("whose loading was interrupted is loaded the next time", function()
    local before = package.loaded["tidepool.json"]
    package.loaded["tidepool.json"] = nil
    local fine, why = pcall(function()
      debug.sethook(function()
        if debug.getinfo(2, "S").source:find("[tidepool]/json", 1, true) then error("interrupted", 0) end
      end, "l")
      require "tidepool.json"
    end)
    debug.sethook()
    assert.same({ false, "interrupted" }, { fine, why })
    assert.is_table(require "tidepool.json")
    package.loaded["tidepool.json"] = before
  end)
end)

describe("A worker", function()
  local app = tidepool.App "worker"
  local give = app:func(function(x) return x end)

  after_each(function() support.check_pool() end)

  it("may map", function()
    local f = app:func(function(x)
      local list = give:map(tidepool.range(3)):list()
      return list[1] + list[2] + list[3] + x
    end)
    assert.same({ 7, 8, n = 2 }, f:map({ 1, 2 }):list())
  end)

  it("that calls os.exit fails that input and nothing else", function()
    local f = app:func(function(x)
      if x == 7 then os.exit(3) end
      return x
    end)
    local got, n, err = collect(f:map(tidepool.range(20), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(20, n)
    assert.equal("error", got[7].kind)
    contains(got[7].message, "os.exit(3) called in a worker")
    for i = 1, 20 do
      if i ~= 7 then assert.equal(i, got[i]) end
    end
    contains(failure_of(function() app:func(function() os.exit() end):remote() end).message, "called in a worker")
  end)

  it("that calls os.exit is not ended by its pcall either", function()
    local f = app:func(function(x)
      pcall(os.exit, 3)
      return x
    end)
    assert.equal(5, (f:remote(5)))
  end)

  it("prints whole lines", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(w)
        local line = (tostring(w)):rep(100)
        for i = 1, 10000 do print(line) end
      end)
      f:for_each({ 1, 2, 3, 4 })
    ]], { workers = 4 })
    local count = {}
    for line in output:gmatch "[^\n]*\n" do
      assert(#line == 101 and line == line:sub(1, 1):rep(100) .. "\n", "torn line: " .. line)
      count[line:sub(1, 1)] = (count[line:sub(1, 1)] or 0) + 1
    end
    assert.same({ ["1"] = 10000, ["2"] = 10000, ["3"] = 10000, ["4"] = 10000 }, count)
    assert.equal(40000 * 101, #output)
  end)

  it("writes whole lines with io.write too, however they are put together", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(w)
        for i = 1, 20000 do
          local half = (tostring(w)):rep(50)
          if i % 3 == 0 then io.write(half, half, "\n")
          elseif i % 3 == 1 then io.write(half) io.stdout:write(half) io.write "\n"
          else io.write(half) print(half) end
        end
      end)
      f:for_each({ 1, 2, 3, 4 })
    ]], { workers = 4 })
    local lines = 0
    for line in output:gmatch "[^\n]*\n" do
      assert(#line == 101 and line == line:sub(1, 1):rep(100) .. "\n", "torn line: " .. line)
      lines = lines + 1
    end
    assert.equal(80000, lines)
  end)

  it("gives out a line without an end when its item is over, and adds nothing", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x)
        for i = 1, 50 do io.write(x) end
        if x == 7 then error "no" end
        return x
      end)
      f:map(tidepool.range(9), { return_exceptions = true }):list()
      f:with { executor = "inline" }:map(tidepool.range(2)):list()
    ]], { workers = 2 })
    assert.equal(11 * 50, #output)
    for digit, run in output:gmatch "((%d)%2*)" do assert.equal(0, #digit % 50, "torn at " .. run) end
    assert.equal(("1"):rep(50) .. ("2"):rep(50), output:sub(-100))
  end)

  it("keeps what an item has begun until its own end, whatever nested items write and however they end", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      local quiet = app:func(function() tidepool.sleep(0.002) end)
      local loud = app:func(function(x)
        io.write "(nested"
        quiet:for_each(tidepool.range(2))
        if x == 3 then error "no" end
        io.write(" ", x, ")\n")
      end)
      local outer = app:func(function(x)
        io.write("[begin ", x)
        io.stderr:write("[also ", x)
        quiet:for_each(tidepool.range(3))
        loud:for_each({ 1, 2, 3 }, { ignore_exceptions = true })
        quiet:remote()
        io.stderr:write(" ", x, "]\n")
        print(" end " .. x .. "]")
      end)
      outer:for_each(tidepool.range(6))
      outer:with { executor = "inline" }:for_each { 7 }
    ]], { workers = 3 })
    assert.equal(0, done.code, done.stderr)
    local count = {}
    for line in (done.stdout .. done.stderr):gmatch "[^\n]+" do
      local whole = line:gsub("%(nested%f[%[%(]", "") -- those that have failed end where they are
      count[whole] = (count[whole] or 0) + 1
    end
    for x = 1, 7 do
      assert.equal(1, count[("[begin %d end %d]"):format(x, x)], done.stdout)
      assert.equal(1, count[("[also %d %d]"):format(x, x)], done.stderr)
    end
    for x = 1, 2 do assert.equal(7, count[("(nested %d)"):format(x)], done.stdout) end
  end)

  it("leaves other files, results and mistakes of write as they are", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(path)
        local file = io.open(path, "w")
        file:write("in ", 1, " file") file:close()
        io.output(path .. ".2") io.write "default" io.close() io.output(io.stdout)
        local _, why = pcall(function() io.write {} end)
        local _, why2 = pcall(function() io.stdout:write("a", {}) end)
        return type(io.write()), why, why2, io.stdout:write("") == io.write("")
      end)
      local path = os.tmpname()
      print(f:remote(path))
      print(io.open(path):read "*a", io.open(path .. ".2"):read "*a")
      os.remove(path) os.remove(path .. ".2")
    ]]
    assert.truthy(output:find("bad argument #1 to 'write' (string expected, got table)", 1, true), output)
    assert.truthy(output:find("bad argument #2 to 'write' (string expected, got table)", 1, true), output)
    assert.truthy(output:find("\ttrue\nin 1 file\tdefault\n$"), output)
  end)

  it("prints what print prints: tabs, nils, numbers, __tostring and embedded zeros", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function()
        print(1, nil, "a", true, 0.5)
        print()
        print(setmetatable({}, { __tostring = function() return "obj" end }))
        print("a\0b")
        print("two\nlines")
      end)
      f:remote()
    ]]
    assert.equal("1\tnil\ta\ttrue\t0.5\n\nobj\na\0b\ntwo\nlines\n", output)
  end)

  it("writes with io.write and to stderr", function()
    local done = support.run_script [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function()
        io.write("a", 1, "\n")
        io.stderr:write("err\n")
      end)
      f:remote()
    ]]
    assert.equal("a1\n", done.stdout)
    assert.equal("err\n", done.stderr)
    assert.equal(0, done.code)
  end)

  it("that forks: the child may not use the pool, and the host does not notice", function()
    local path = support.temp_path()
    local f = app:func(function()
      local ffi = require "ffi"
      ffi.cdef "int fork(void); int waitpid(int, int *, int); void _exit(int);"
      local pid = ffi.C.fork()
      if pid == 0 then
        local ok, err = pcall(function()
          local list = give:map({ 1 }):list()
          return list
        end)
        note(path, tostring(ok) .. " " .. tostring(err))
        ffi.C._exit(0)
      end
      local status = ffi.new "int[1]"
      for _ = 1, 2000 do -- 10 s
        if ffi.C.waitpid(pid, status, 1) ~= 0 then return status[0] end
        sleep(0.005)
      end
      ffi.cdef "int kill(int, int)"
      ffi.C.kill(pid, 9)
      ffi.C.waitpid(pid, status, 0)
      return "hung"
    end)
    assert.equal(0, (f:remote()))
    contains(support.notes(path)[1] or "", "false", "not usable after fork")
  end)

  it("that tunes the garbage collector harms nobody", function()
    local tuned = app:func(function(x)
      collectgarbage("setpause", 1)
      collectgarbage()
      return x
    end)
    collectgarbage("setpause", 1)
    local n = 0
    for i, x in tuned:map(tidepool.range(3000)) do
      assert(i == x)
      n = n + 1
    end
    collectgarbage("setpause", 200)
    assert.equal(3000, n)
  end)

  it("that stops the garbage collector has it running again for the next input", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x)
        collectgarbage "stop"
        local garbage = {}
        for i = 1, 100 do garbage[i] = ("x"):rep(1000) .. x .. i end
        return x
      end)
      local n = 0
      for i in f:map(tidepool.range(20000)) do n = n + 1 end -- 2 GB of garbage
      print(n, tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 800 * 1024)
    ]]
    assert.equal("20000\ttrue\n", output)
  end)

  it("keeps its globals to itself", function()
    local f = app:func(function(x)
      control_spec_seen = (control_spec_seen or 0) + 1 -- luacheck: ignore
      return control_spec_seen, x -- luacheck: ignore
    end)
    local seen = f:map(tidepool.range(10)):list()
    local most = 0
    for i = 1, 10 do most = math.max(most, seen[i]) end
    assert.is_true(most >= 1 and most <= 10)
    assert.is_nil(rawget(_G, "control_spec_seen"))
  end)

  it("may turn the compiler off, set hooks and give nil a metatable", function()
    local rude = app:func(function(x)
      jit.off()
      jit.flush()
      debug.sethook(function() end, "l")
      debug.setmetatable(nil, {})
      return x
    end)
    for round = 1, 5 do
      local got, n, err = collect(rude:map(tidepool.range(20)))
      assert.is_nil(err)
      assert.equal(20, n)
      assert.equal(20, got[20])
      local fails = app:func(function(x) error("round " .. x) end)
      contains(failure_of(fails.remote, fails, round).message, "round " .. round)
    end
    app:func(function()
      jit.on()
      debug.sethook()
    end):for_each(tidepool.range(50))
  end)

  it("may take a coroutine apart and leave it", function()
    local f = app:func(function(x)
      local co = coroutine.wrap(function()
        for i = 1, x do coroutine.yield(i) end
      end)
      local sum = 0
      for _ = 1, x do sum = sum + co() end
      return sum
    end)
    assert.same({ 1, 3, 6, n = 3 }, f:map({ 1, 2, 3 }):list())
  end)

  it("that yields outside of any coroutine of its own gets an error", function()
    local f = app:func(function(x)
      coroutine.yield(x)
      return x
    end)
    local failure = failure_of(f.remote, f, 1)
    assert.equal("error", failure.kind)
    contains(failure.message, "yield")
  end)

  it("whose thread is ended from inside costs that input only", function()
    if os.getenv "TIDEPOOL_SANITIZER" == "asan" then
      return pending "ASan keeps the frames poisoned that pthread_exit has unwound"
    end
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      local f = tidepool.App("t"):func { name = "f" } (function(x)
        if x == 7 then
          ffi.cdef "void pthread_exit(void *)"
          ffi.C.pthread_exit(nil)
        end
        return x
      end)
      for i, v in f:map(tidepool.range(20), { return_exceptions = true }) do
        print(i, tidepool.is_failure(v) and v.kind .. ": " .. v.message or v)
      end
      print(f:map({ 1, 2, 3 }):list().n)
    ]], { workers = 2, seconds = 240 })
    assert.equal(0, done.code)
    contains(done.stdout, "7\tcrash: worker thread ended during input 7", "\n20\t20\n3\n")
  end)

  it("whose thread is ended by what it has spawned, after the last input, costs no input", function()
    if os.getenv "TIDEPOOL_SANITIZER" == "asan" then
      return pending "ASan keeps the frames poisoned that pthread_exit has unwound"
    end
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      local last = app:func { executor = "inline" } (function()
        local ffi = require "ffi"
        ffi.cdef "void pthread_exit(void *)"
        ffi.C.pthread_exit(nil)
      end)
      local f = app:func { name = "f" } (function(x)
        if x == 3 then last:spawn(x) end
        return x
      end)
      for i, v in f:map({ 1, 2, 3 }, { return_exceptions = true }) do print(i, v) end
      print(f:map({ 1, 2, 4, 5 }):list().n)
    ]], { workers = 2, seconds = 240 })
    assert.equal(0, done.code)
    assert.equal("1\t1\n2\t2\n3\t3\n4\n", done.stdout)
  end)
end)

describe("Several maps", function()
  local app = tidepool.App "several"
  local give = app:func(function(x) return x end)

  it("are read in turn while one is never read, and that one stops at its window", function()
    local path = support.temp_path()
    local noted = app:func(function(x)
      note(path, x)
      return x
    end)
    local unread = noted:map(tidepool.range(1, 1 / 0), { window = 5 })
    local a, b = give:map(tidepool.range(200)), give:map(tidepool.range(200))
    for i = 1, 200 do
      assert.equal(i, select(2, a:next()))
      assert.equal(i, select(2, b:next()))
    end
    support.sleep(0.1)
    assert.is_true(#support.notes(path) <= 5)
    unread:cancel()
    support.check_pool()
  end)

  it("run in coroutines of an outer scheduler", function()
    local done = {}
    local tasks = {}
    for t = 1, 3 do
      tasks[t] = coroutine.create(function()
        local i = 0
        local function source()
          coroutine.yield()
          i = i + 1
          if i <= 10 then return i * t end
        end
        local sum = 0
        for _, v in give:map(source, { window = 3 }) do sum = sum + v end
        done[t] = sum
      end)
    end
    local live = 3
    while live > 0 do
      live = 0
      for t = 1, 3 do
        if coroutine.status(tasks[t]) ~= "dead" then
          live = live + 1
          local ok, err = coroutine.resume(tasks[t])
          assert.is_true(ok, tostring(err))
        end
      end
    end
    assert.same({ 55, 110, 165 }, done)
  end)

  it("hundreds of them at once finish", function()
    local all = {}
    for i = 1, 300 do all[i] = give:map(tidepool.range(i, i + 9)) end
    for i = 300, 1, -1 do
      local list = all[i]:list()
      assert.equal(10, list.n)
      assert.equal(i, list[1])
    end
  end)
end)

describe("The host program", function()
  local long_map = [[
    local tidepool = require "tidepool"
    local f = tidepool.App("t"):func(function(x) -- 5 ms each up to 12, then 10 s
      local ffi = require "ffi"
      ffi.cdef "int usleep(unsigned)"
      for i = 1, x > 12 and 2000 or 1 do ffi.C.usleep(5000) end
      return x
    end)
    for i in f:map(tidepool.range(100)) do
      if i == 12 then os.execute("(sleep 0.2; kill -SIGNAL $PPID; sleep 0.3; EXTRA) </dev/null >/dev/null 2>&1 &") end
    end
  ]]

  local function signalled(signal, extra, arguments)
    return support.run_script(long_map:gsub("SIGNAL", signal):gsub("EXTRA", extra or "true"), { seconds = 240, workers = 2, flags = { arguments } })
  end

  it("says how to go on after Ctrl-C where what was done is kept", function()
    local command = "; run the same command again to finish the other 88\n"
    for option, says in pairs {
      ["{ journal = 'DIR/run.db' }"] = command, ["{ journal = { file = 'DIR/run.db', name = 'x' } }"] = command,
      ["{ journal = false }"] = "; --journal FILE keeps them for the next run\n",
    } do
      local script = long_map:gsub("range%(100%)", "range(100), " .. option):gsub("SIGNAL", "INT"):gsub("EXTRA", "true")
      local done = support.run_script(script, { workers = 2 })
      assert.same({ 2, "tidepool: interrupted (12 of 100 results delivered)" .. says }, { done.signal, done.stderr })
    end
    local cached = long_map:gsub('"t"%):func', '"t"):func { cache = "DIR/kept.db" }'):gsub("SIGNAL", "INT"):gsub("EXTRA", "true")
    contains(support.run_script(cached, { workers = 2 }).stderr, command)
  end)

  it("says after Ctrl-C how many results are kept that a slow input holds back", function()
    local source = [[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      ffi.cdef "int raise(int);"
      local f = tidepool.App("t"):func(function(x)
        if x == 2 then
          local ffi = require "ffi"
          ffi.cdef "int usleep(unsigned)"
          for _ = 1, 40000 do ffi.C.usleep(5000) end
        end
        return x
      end)
      local results = f:map(tidepool.range(30), { journal = "DIR/run.db" })
      tidepool.async(function()
        repeat tidepool.sleep(0.05) until results:progress().done == 29
        ffi.C.raise(2)
      end)
      for _ in results do end
    ]]
    local done = support.run_script(source, { seconds = 240, workers = 2 })
    assert.same({ 2, "tidepool: interrupted (1 of 30 results delivered, 29 kept); run the same command again to finish the other 1\n" },
      { done.signal, done.stderr })
    done = support.run_script(source, { seconds = 240, workers = 2, flags = { "--progress=json" } })
    assert.same({ 2, '{"interrupted":true,"delivered":1,"total":30,"kept":true,"kept_results":29}' },
      { done.signal, done.stderr:match "([^\n]*)\n$" })
  end)

  it("says how to go on after Ctrl-C between maps, too, where something was kept", function()
    local script = [[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func { OPTION } (function(x) return x end)
      if arg[1] ~= "first" then f:map({ 1, 2, 3 }, { MAP }):list() end
      local ffi = require "ffi"
      ffi.cdef "int raise(int);"
      ffi.C.raise(2)
      print "goes on"
    ]]
    local function says(after, options)
      local text = script:gsub("OPTION", options.func or ""):gsub("MAP", options.map or "")
      local done = support.run_script(text, { workers = 2, flags = options.flags, args = options.args })
      assert.same({ 2, after }, { done.signal, done.stderr:match "([^\n]*)\n$" })
    end
    local command = "tidepool: interrupted; run the same command again to go on"
    local flags = { "--journal", support.temp_dir() .. "/run.db" }
    says("tidepool: interrupted", { flags = flags, args = { "first" } })
    says(command, { flags = flags })
    says(command, { flags = flags }) -- all three are found
    says(command, { map = "journal = 'DIR/run.db'" })
    says(command, { func = "cache = 'DIR/kept.db'" })
    says("tidepool: interrupted", {})
    local json = { "--progress=json" }
    says('{"interrupted":true,"delivered":0,"total":null,"kept":true,"kept_results":0}', { map = "journal = 'DIR/run.db'", flags = json })
  end)

  it("is ended by Ctrl-C during a map, with one line that says how far it got (C10)", function()
    local done = signalled "INT"
    assert.equal(2, done.signal)
    assert.equal("tidepool: interrupted (12 of 100 results delivered); --journal FILE keeps them for the next run\n", done.stderr)
  end)

  it("loses nothing that was printed before a signal, though workers never end", function()
    for _, executor in ipairs { "threads", "processes" } do
      local done = support.run_script(([[
        local options = { executor = "%s" }
        local f = require "tidepool".App("t"):func(options)(function(x) while true do x = x + 1 end end)
        print "before"
        os.execute "(sleep 0.3; kill -TERM $PPID) </dev/null >/dev/null 2>&1 &"
        f:map({ 1, 2, 3 }):list()
      ]]):format(executor), { workers = 2 })
      assert.same({ 15, "before\n" }, { done.signal, done.stdout })
    end
  end)

  it("says so in JSON where its progress is JSON", function()
    local done = signalled("INT", nil, "--progress=json")
    assert.equal(2, done.signal)
    local last = done.stderr:match "([^\n]*)\n$"
    assert.equal('{"interrupted":true,"delivered":12,"total":100,"kept":false}', last)
    for line in done.stderr:gmatch "[^\n]+" do assert.is_truthy(line:find "^{.*}$", line) end
  end)

  it("says which input of which map has crashed it, after what was printed before", function()
    if support.sanitized then return pending "sanitizers say more" end
    local script = [[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      io.stdout:setvbuf("full", 65536)
      local crash = tidepool.App "c":func { name = "crash" EXECUTOR } (function(x, y)
        if x == WHICH then ffi.cast("int *", y and 16 or 8)[0] = 1 end
        return x
      end)
      io.write "before\n"
      crash:map(INPUTS):list()
    ]]
    local function crashed(executor, which, given)
      return support.run_script(script:gsub("EXECUTOR", executor):gsub("WHICH", which):gsub("INPUTS", given), { workers = 2, seconds = 240 })
    end
    local done = crashed("", "3", "{ 1, 2, 3, 4 }")
    assert.equal(11, done.signal)
    assert.equal("before\n", done.stdout)
    assert.truthy(done.stderr:find("^tidepool: segmentation fault in input 3 of map 'crash' %(worker %d%): 3\n"), done.stderr)
    done = crashed(", executor = 'inline'", "'b'", "{ 'a', 'b' }, { 1.5, -2.25 }")
    assert.equal(11, done.signal)
    support.contains(done.stderr, "tidepool: segmentation fault in input 2 of map 'crash' (worker 0): \"b\", -2.250000\n")
    done = crashed("", "0 or x[1] == 2", "{ { 1 }, { 2 } }")
    assert.equal(11, done.signal)
    assert.truthy(done.stderr:find("^tidepool: segmentation fault in input 2 of map 'crash' %(worker %d%)\n"), done.stderr)
  end)

  it("is ended at once by a second Ctrl-C", function()
    local done = signalled("INT", "kill -INT $PPID")
    assert.equal(2, done.signal)
  end)

  it("is ended by SIGTERM and SIGHUP as by themselves", function()
    assert.equal(15, signalled("TERM").signal)
    assert.equal(1, signalled("HUP").signal)
  end)

  it("is ended by Ctrl-C in a compiled endless loop", function()
    if os.getenv "TIDEPOOL_SANITIZER" == "tsan" then return pending "ThreadSanitizer keeps signals until the next call" end
    local done = support.run_script([[
      os.execute("(sleep 0.2; kill -INT $PPID) </dev/null >/dev/null 2>&1 &")
      local x = 0
      while true do x = x + 1 end
    ]], { seconds = 240 })
    assert.equal(2, done.signal)
  end)

  it("is ended quietly when nobody reads its output any more", function()
    local done = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return ("x"):rep(100) end)
      for i, v in f:map(tidepool.range(1, 1 / 0)) do print(v) end
    ]], { seconds = 240, redirect = "| head -1" })
    assert.equal("", done.stderr)
    assert.equal(101, #done.stdout)
    assert.is_false(done.timed_out)
  end)

  it("is not disturbed by signals that mean nothing", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local loop = "i=0; while [ $i -lt 300 ]; do kill -WINCH $PPID; kill -CHLD $PPID; kill -CONT $PPID; i=$((i+1)); done"
      os.execute("(" .. loop .. ") </dev/null >/dev/null 2>&1 &")
      local f = tidepool.App("t"):func(function(x)
        local s = 0
        for i = 1, 1000 do s = s + i end
        return x
      end)
      local n = 0
      for i, x in f:map(tidepool.range(100000)) do
        assert(i == x)
        n = n + 1
      end
      print(n)
    ]])
    assert.equal("100000\n", output)
  end)
end)
