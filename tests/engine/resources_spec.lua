--- Running out of things, on threads.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains = support.collect, support.contains

describe("Memory", function()
  local app = tidepool.App "memory"

  after_each(function() support.check_pool() end)

  it("that one allocation cannot have is a failure of that input, and its worker goes on", function()
    local f = app:func(function(x)
      if x == 7 then return #("x"):rep(2 ^ 31 - 1) end
      return x
    end)
    local got, n, err = collect(f:map(tidepool.range(20), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(20, n)
    assert.equal("memory", got[7].kind)
    contains(got[7].message, "not enough memory")
    for i = 1, 20 do
      if i ~= 7 then assert.equal(i, got[i]) end
    end
  end)

  -- What a thread costs that has nothing to do: bench/w6.lua measures all of it.
  it("of a worker that runs plain functions has few modules of ours", function()
    local done = support.run_script [[
      local tidepool = require "tidepool"
      local names = tidepool.App "idle":func(function()
        local list = {}
        for name in pairs(package.loaded) do list[#list + 1] = name:match "^tidepool.*" end
        table.sort(list)
        return table.concat(list, " ")
      end)
      print((names:remote()))
    ]]
    assert.equal("tidepool.base.interpret tidepool.core tidepool.engine.coroutines tidepool.engine.worker\n", done.stdout)
  end)

  it("that a retry finds again is not lost", function()
    local f = app:func { retries = 1 } (function(x)
      if tidepool.current().attempt == 1 then return #("x"):rep(2 ^ 31 - 1) end
      return x
    end)
    assert.equal(4, (f:remote(4)))
  end)

  it("limits of the process are errors or fewer workers, never a crash", function()
    if support.sanitized then return end -- they reserve terabytes of address space
    for _, limit in ipairs { 100000, 200000, 300000, 400000, 600000 } do
      local done = support.run_script([[
        local tidepool = require "tidepool"
        local f = tidepool.App("t"):func(function(x) return x * x end)
        local ok, err = pcall(function() return f:map(tidepool.range(1000)):list() end)
        print(ok, ok and err[1000] or err)
      ]], { workers = 8, setup = "ulimit -v " .. limit, seconds = 240 })
      assert.is_nil(done.signal, ("died with signal %s under ulimit -v %d: %s"):format(tostring(done.signal), limit, done.stderr))
      assert.is_false(done.timed_out)
      if done.code == 0 and done.stdout:find("^true") then
        assert.equal("true\t1000000\n", done.stdout)
      else
        assert.matches("memory", done.stdout .. done.stderr)
      end
    end
  end)

  it("of a worker's own garbage is given back in time", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x)
        local t = {}
        for i = 1, 10000 do t[i] = { i } end
        return #t
      end)
      for _, n in f:map(tidepool.range(3000)) do assert(n == 10000) end
      print(tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 300 * 1024)
    ]], { workers = 2 })
    assert.equal("true\n", support.sanitized and "true\n" or output)
  end)
end)

describe("A pool", function()
  it("of 256 workers works, and its memory is bounded", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) -- all are in it at once before the first may leave
        local file
        repeat
          tidepool.sleep(0.01)
          file = io.open "DIR/go"
        until file
        file:close()
        return x, tidepool.current().worker
      end)
      local results = f:map(tidepool.range(512))
      while f:stats().running < 256 do tidepool.sleep(0.01) end
      io.open("DIR/go", "w"):close()
      local seen, n = {}, 0
      for i, x, worker in results do
        assert(i == x)
        if not seen[worker] then seen[worker], n = true, n + 1 end
      end
      print(n == 256, tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 300 * 1024)
    ]], { workers = 256 })
    assert.equal("true\ttrue\n", support.sanitized and "true\ttrue\n" or output)
  end)

  it("that may not start all of its threads runs with those that fit, and says so", function()
    local nobody = 65534
    local function launcher(processes)
      return ("setpriv --reuid=%d --clear-groups prlimit --nproc=%d"):format(nobody, processes)
    end
    -- A copy where everybody may go: the tree may lie in a folder of root's. Tried as the test
    -- itself starts it: setpriv alone would still hand on root's right to read every folder.
    local copy = support.temp_path()
    assert.equal(0, os.execute(("cp '%s' %s && chmod 755 %s"):format(support.binary, copy, copy)))
    if support.run_script("", { binary = copy, launcher = launcher(4) }).code ~= 0 then
      return pending "needs root, and a folder for temporary files where programs may run"
    end
    for _, processes in ipairs { 4, 1 } do
      local done = support.run_script([[
        local tidepool = require "tidepool"
        local f = tidepool.App("t"):func(function(x)
          local ffi = require "ffi"
          ffi.cdef "int usleep(unsigned)"
          ffi.C.usleep(1000)
          return x * x
        end)
        local ok, err = pcall(function() return f:map(tidepool.range(1000)):list() end)
        print(ok, ok and err[1000] or err)
      ]], {
        workers = 8,
        seconds = 240,
        binary = copy,
        launcher = launcher(processes),
      })
      assert.is_nil(done.signal, done.stderr)
      assert.is_false(done.timed_out)
      contains(done.stdout .. done.stderr, "of 8", "unavailable")
      if processes == 4 then
        assert.equal("true\t1000000\n", done.stdout)
        assert.matches("started %d of 8 worker", done.stderr)
      end
    end
  end)

  -- Stacks are of 64 MiB, so that a thread cannot start where there is less address space than
  -- that.
  local limits = [[
    local ffi = require "ffi"
    ffi.cdef "typedef struct { unsigned long soft, hard; } as_limit; int getrlimit(int, as_limit *); int setrlimit(int, const as_limit *);"
    local RLIMIT_AS, before = 9, ffi.new "as_limit"
    ffi.C.getrlimit(RLIMIT_AS, before)
    local function forbid()
      local used = tonumber(io.open "/proc/self/status":read "*a":match "VmSize:%s*(%d+)") * 1024
      ffi.C.setrlimit(RLIMIT_AS, ffi.new("as_limit", used + 2^25, before.hard))
    end
    local function allow() ffi.C.setrlimit(RLIMIT_AS, before) end
    local tidepool = require "tidepool"
  ]]

  it("is left by Apps and functions that nobody holds", function()
    assert.equal("true\n", support.output_of [[
      local tidepool = require "tidepool"
      local function used()
        for _ = 1, 3 do collectgarbage() end
        return collectgarbage "count"
      end
      local function make()
        for _ = 1, 1000 do tidepool.App "x":func(function(x) return x end) end
      end
      make()
      local before = used()
      for _ = 1, 4 do make() end
      print(used() - before < 100) -- KiB: weak tables may grow once; each of the 4000 that is held takes one
    ]])
  end)

  it("that could start no thread tries it again at the next call", function()
    if support.sanitized then return pending "sanitizers reserve more than there is" end
    assert.equal("1\tfalse\tresource\n2\tfalse\tresource\n3\ttrue\t2\n4\ttrue\t2\n", support.output_of(limits .. [[
      local f = tidepool.App():func { name = "f" } (function(x) return x end)
      forbid()
      for k = 1, 4 do
        if k == 3 then allow() end
        local ok, e = pcall(function() return f:map({ 1, 2 }):list().n end)
        if not ok then assert(tostring(e):find("started 0 of 2 worker threads: resource temporarily unavailable", 1, true), tostring(e)) end
        print(k, ok, ok and e or e.kind)
      end
    ]], { workers = 2 }))
  end)

  it("that could start only some of its threads tries for the others later", function()
    if support.sanitized then return pending "sanitizers reserve more than there is" end
    local done = support.run_script(limits .. [[
      local f = tidepool.App():func(function(x)
        tidepool.sleep(0.002)
        return tidepool.current().worker
      end)
      local function workers()
        local seen, n = {}, 0
        for _, worker in f:map(tidepool.range(60)) do
          if not seen[worker] then seen[worker], n = true, n + 1 end
        end
        return n
      end
      f:remote(1)
      forbid()
      print(workers())
      print(workers())
      allow()
      local tries = 0
      repeat tries = tries + 1 until workers() == 3 or tries == 200
      print(workers())
    ]], { workers = 3 })
    assert.equal("1\n1\n3\n", done.stdout)
    assert.equal("tidepool: started 1 of 3 worker threads: resource temporarily unavailable\n", done.stderr)
  end)

  it("has stacks of its own, so that deep recursion through C is an error whatever ulimit -s says", function()
    for _, limit in ipairs { "256", "8192", "unlimited" } do
      local output = support.output_of([[
        local tidepool = require "tidepool"
        local app = tidepool.App "t"
        local through_gsub = app:func(function(x)
          if x ~= 2 then return x end
          local function f() return (("x"):gsub("x", f)) end
          return f()
        end)
        for i, v in through_gsub:map({ 1, 2, 3 }, { return_exceptions = true }) do
          print(i, tidepool.is_failure(v) and v.kind .. " " .. tostring(v.message:find "stack overflow" ~= nil) or v)
        end
        print(through_gsub:map({ 1, 3 }):list().n)
      ]], { workers = 1, setup = "ulimit -s " .. limit })
      assert.equal("1\t1\n2\terror true\n3\t3\n2\n", output)
    end
  end)

  it("survives deep recursion through sort, pcall, metamethods and string.format", function()
    local app = tidepool.App "deep"
    for _, recurse in ipairs {
      function()
        local function f() table.sort({ 1, 2, 3 }, function() f() return false end) end
        f()
      end,
      function()
        local t = setmetatable({}, { __index = function(t, k) return t[k + 1] + 1 end })
        return t[1]
      end,
      function()
        local t = setmetatable({}, {})
        getmetatable(t).__tostring = function() return tostring(t) .. "" end
        return tostring(t)
      end,
    } do
      local f = app:func(recurse)
      local failure = support.failure_of(f.remote, f)
      assert.is_true(failure.kind == "error" or failure.kind == "memory")
      support.check_pool()
    end
    local protected = app:func(function()
      local function f() return 1 + select(2, pcall(f)) end
      return pcall(f)
    end)
    protected:map({ 1, 2, 3 }, { return_exceptions = true }):list()
    support.check_pool()
  end)

  it("that runs out of file descriptors still runs maps", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local f = tidepool.App("t"):func(function(x) return x * x end)
      assert(f:map({ 1, 2, 3 }):list().n == 3)
      local files = {}
      for i = 1, 100 do files[i] = io.open "/dev/null" end
      print(files[100], unpack(f:map({ 1, 2, 3 }):list()))
    ]], { setup = "ulimit -n 40" })
    assert.equal("nil\t1\t4\t9\n", output)
  end)

  it("that cannot get its file descriptors says so at once, and does not crash", function()
    for limit = 4, 12 do
      local done = support.run_script([[
        local ok, err = pcall(function()
          local tidepool = require "tidepool"
          local f = tidepool.App("t"):func(function(x) return x * x end)
          return f:map({ 1, 2, 3 }):list()[3]
        end)
        io.stdout:write(tostring(ok), " ", tostring(err))
      ]], { setup = "ulimit -n " .. limit, seconds = 240 })
      assert.is_nil(done.signal, ("signal %s under ulimit -n %d: %s"):format(tostring(done.signal), limit, done.stderr))
      assert.is_false(done.timed_out)
      if done.stdout ~= "true 9" then assert.matches("[Tt]oo many open files", done.stdout .. done.stderr) end
    end
  end)
end)

describe("Limits that threads cannot keep", function()
  it("are refused where they are written, not ignored", function()
    local app = tidepool.App "limits"
    support.mistake(function() app:func { memory = "64M", executor = "threads" } end, "memory", "process")
    support.mistake(function() app:func { timeout = 0.5, executor = "threads" } end, "timeout", "process")
  end)
end)
