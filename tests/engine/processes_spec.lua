--- Worker processes: a crash, a hang or a death costs exactly the input that did it, and the rest
-- goes on.
--
-- What every executor promises is in tests/promises.lua. Here is what only processes can do.

local assert = require "luassert"
local support = require "tests.support"
local tidepool = require "tidepool"

support.let_signals_kill()

local app = tidepool.App("processes", { executor = "processes" })
local collect, contains, failure_of = support.collect, support.contains, support.failure_of

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

--- For workers: C functions that end a process in this way or that.
local function die(how)
  local ffi = require "ffi"
  if not pcall(ffi.typeof, "tidepool_spec_die") then
    ffi.cdef [[
      typedef int tidepool_spec_die; void abort(void); int raise(int); void _exit(int); void exit(int); void pthread_exit(void *);
    ]]
  end
  local C = ffi.C
  if how == "null" then ffi.cast("int *", 0)[0] = 1
  elseif how == "abort" then C.abort()
  elseif how == "_exit" then C._exit(0)
  elseif how == "exit" then C.exit(3)
  elseif how == "thread" then C.pthread_exit(nil)
  else C.raise(how) end
end

--- Runs inputs 1..n, of which some die as `deaths` says by their index; gives the results and
-- failures by index.
local function run_with(deaths, n, options)
  local f = app:func(options or {}, function(x)
    if deaths[x] then die(deaths[x]) end
    return x * 10
  end)
  local got, count, err = collect(f:map(numbers(n), { return_exceptions = true }))
  assert.is_nil(err)
  assert.equal(n, count)
  return got
end

describe("A crash", function()
  it("costs the input that did it, and names the signal", function()
    local got = run_with({ [7] = "null" }, 20)
    for i = 1, 20 do
      if i ~= 7 then assert.equal(10 * i, got[i]) end
    end
    local failure = got[7]
    assert.is_true(tidepool.is_failure(failure))
    assert.same({ "crash", 7, 2 }, { failure.kind, failure.index, failure.attempts })
    contains(failure.message, "SIGSEGV", "during input 7")
    support.check_pool()
  end)

  it("has the name of each signal, and the code of each exit", function()
    local deaths = { "abort", 7, 4, 8, 5, 31, 10, 9, 15, "_exit", "exit", "thread" }
    local says = { "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE", "SIGTRAP", "SIGSYS", "SIGUSR1", "SIGKILL", "SIGTERM", "exited with code 0",
      "exited with code 3", "thread ended" }
    local got = run_with(deaths, #deaths + 1, { crash_retries = 0 })
    for i, text in ipairs(says) do
      assert.same({ "crash", 1 }, { got[i].kind, got[i].attempts })
      contains(got[i].message, text)
    end
    assert.equal(10 * (#deaths + 1), got[#deaths + 1])
  end)

  it("is raised in its place, after the results before it", function()
    local f = app:func(function(x)
      if x == 3 then die "null" end
      return x
    end)
    local got, n, err = collect(f:map(numbers(6)))
    assert.same({ 1, 2 }, got)
    assert.equal(2, n)
    assert.equal("crash", err.kind)
    assert.equal(3, err.index)
  end)

  it("among ten thousand small inputs costs none of them a result or an attempt", function()
    local path = support.temp_path()
    local f = app:func({ crash_retries = 0 }, function(x)
      if x == 5000 then die "null" end
      if x % 1000 == 1 then support.note(path, x) end
      return x + 0.5
    end)
    local got, n, err = collect(f:map(tidepool.range(10000), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(10000, n)
    for i = 1, 10000 do
      if i ~= 5000 then assert.equal(i + 0.5, got[i]) end
    end
    assert.same({ "crash", 5000, 1 }, { got[5000].kind, got[5000].index, got[5000].attempts })
    local noted = support.notes(path)
    assert.equal(10, #noted) -- none was run again
  end)

  it("of five inputs of a hundred leaves 95 results, whatever their kind", function()
    for _, make in ipairs { function(x) return x end, function(x) return "s" .. x end, function(x) return { x } end } do
      local f = app:func({ crash_retries = 0 }, function(x)
        if x % 20 == 0 then die "abort" end
        return make(x)
      end)
      local got, n = collect(f:map(numbers(100), { return_exceptions = true }))
      assert.equal(100, n)
      local failed = 0
      for i = 1, 100 do
        if i % 20 == 0 then
          assert.equal("crash", got[i].kind)
          assert.equal(i, got[i].index)
          failed = failed + 1
        else
          assert.same(make(i), got[i])
        end
      end
      assert.equal(5, failed)
    end
  end)

  it("of every input fails every input", function()
    local f = app:func(function() die "null" end)
    local got, n = collect(f:map(numbers(10), { return_exceptions = true }))
    assert.equal(10, n)
    for i = 1, 10 do assert.same({ "crash", i, 2 }, { got[i].kind, got[i].index, got[i].attempts }) end
    support.check_pool()
  end)

  it("is tried again as often as crash_retries says, for which errors do not count", function()
    local path = support.temp_path()
    local f = app:func({ crash_retries = 2, retries = 1 }, function(x)
      support.note(path, x)
      local tries = #support.notes(path)
      if tries == 1 then error "an error" end
      if tries <= 3 then die "null" end
      return tries
    end)
    assert.equal(4, f:remote(1))
    local again = app:func({ crash_retries = 0, retries = 5 }, function() die "null" end)
    assert.equal(1, failure_of(again.remote, again).attempts)
  end)

  it("says what the process had written last", function()
    local f = app:func(function()
      local ffi = require "ffi"
      ffi.cdef "int dprintf(int, const char *, ...);"
      ffi.C.dprintf(2, "the disk is on fire\n")
      die "abort"
    end)
    local failure = failure_of(f.remote, f)
    contains(failure.message, "SIGABRT", "the disk is on fire")
    assert.equal("the disk is on fire\n", failure.stderr)
  end)

  it("has the last 4 KiB of what its process wrote, and nothing of what others did", function()
    local f = app:func({ crash_retries = 0 }, function(x)
      io.stderr:write("line of input ", x, "\n")
      if x ~= 2 then return x end
      for i = 1, 6 do io.stderr:write("line ", i, " of its last words ", ("."):rep(1000), "\n") end
      die "abort"
    end)
    local got, n = collect(f:with({ concurrency_limit = 1, window = 1 }):map({ 1, 2, 3 }, { return_exceptions = true }))
    assert.equal(3, n)
    local text = got[2].stderr
    assert.is_true(#text <= 4096 and #text > 4000)
    contains(text, "line 6 of its last words ", "line 4 of")
    assert.is_nil(text:find("of input 1", 1, true))
    contains(got[2].message, "SIGABRT during input 2: line 6 of its last words")
  end)

  it("of the stack, in Lua and in C, is an error or a crash of its input", function()
    local f = app:func({ crash_retries = 0 }, function(x)
      if x == 1 then
        local function again() return (("x"):gsub("x", again)) end
        return again()
      elseif x == 2 then
        local function again() return 1 + again() end
        return again()
      elseif x == 3 then
        local ffi = require "ffi"
        ffi.cdef "void qsort(void *, size_t, size_t, int (*)(const void *, const void *));"
        local pair, compare = ffi.new("int[2]"), nil
        compare = ffi.cast("int (*)(const void *, const void *)", function()
          ffi.C.qsort(pair, 2, 4, compare)
          return 0
        end)
        ffi.C.qsort(pair, 2, 4, compare)
      elseif x == 4 then
        local ffi = require "ffi"
        ffi.cdef "void __stack_chk_fail(void);"
        ffi.C.__stack_chk_fail()
      end
      return x
    end)
    local got, n, err = collect(f:map(numbers(6), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(6, n)
    for i = 1, 2 do
      assert.equal("error", got[i].kind)
      contains(got[i].message, "stack overflow")
    end
    assert.is_true(got[3].kind == "crash" or got[3].kind == "error", got[3].kind)
    assert.equal("crash", got[4].kind)
    contains(got[4].message, "SIGABRT")
    assert.same({ 5, 6 }, { got[5], got[6] })
    support.check_pool()
  end)

  it("of memory, caught by the function, costs no later input anything", function()
    local f = app:func({ crash_retries = 0, memory = "16M" }, function(x)
      if x % 2 == 1 then return #("x"):rep(2 ^ 20) end
      pcall(coroutine.wrap(function()
        local t = {}
        for i = 1, 1e9 do t[i] = { i } end
        return t
      end))
      return x
    end)
    local got, n = collect(f:map(numbers(40), { return_exceptions = true }))
    assert.equal(40, n)
    for i = 1, 40 do assert.equal(i % 2 == 1 and 2 ^ 20 or i, got[i]) end
  end)

  it("of coroutines in coroutines, which nothing bounds, is contained", function()
    local f = app:func({ crash_retries = 0, memory = "64M" }, function(x)
      if x == 2 then
        local function again() return coroutine.wrap(again)() end
        again()
      end
      return x
    end)
    local got, n = collect(f:map(numbers(3), { return_exceptions = true }))
    assert.equal(3, n)
    assert.same({ 1, 3 }, { got[1], got[3] })
    assert.is_true(tidepool.is_failure(got[2]))
    support.check_pool()
  end)

  it("in a module that is loaded for the function is the first input's", function()
    local dir = support.temp_dir()
    local file = io.open(dir .. "/tidepool_spec_deadly.lua", "w")
    file:write 'if not require "tidepool".current() then return {} end require("ffi").cast("int *", 0)[0] = 1'
    file:close()
    local before = package.path
    package.path = dir .. "/?.lua;" .. package.path
    local deadly = require "tidepool_spec_deadly"
    local f = app:func({ crash_retries = 0 }, function(x) return deadly, x end)
    local got, n = collect(f:map({ 1, 2 }, { return_exceptions = true }))
    package.path = before
    assert.equal(2, n)
    for i = 1, 2 do assert.same({ "crash", i }, { got[i].kind, got[i].index }) end
  end)

  it("costs one try without crash_retries: what others did was done once", function()
    local path = support.temp_path()
    local f = app:func({ crash_retries = 0 }, function(x)
      support.note(path, x)
      if x % 10 == 0 then die "null" end
      return x
    end)
    local _, n = collect(f:map(numbers(60), { return_exceptions = true }))
    assert.equal(60, n)
    local times = {}
    for _, x in ipairs(support.notes(path)) do times[x] = (times[x] or 0) + 1 end
    for i = 1, 60 do assert.equal(1, times[tostring(i)], i) end
  end)

  it("lets what was printed before it come out, whole, once per attempt", function()
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x)
        print("before " .. x)
        require("ffi").cast("int *", 0)[0] = 1
      end)
      print(pcall(f.remote, f, 1))
    ]])
    assert.equal(0, out.code)
    local _, n = out.stdout:gsub("before 1\n", "")
    assert.equal(2, n)
    contains(out.stdout, "SIGSEGV during input 1")
  end)
end)

describe("A timeout", function()
  it("ends what nothing else ends", function()
    local hangs = {
      function() while true do end end,
      function() repeat pcall(function() while true do end end) until false end,
      function() support.sleep(1000) end,
      function() return (("a"):rep(40):find((".-"):rep(40) .. "b")) end,
      function()
        local ffi = require "ffi"
        ffi.cdef "void *signal(int, void *);"
        ffi.C.signal(15, ffi.cast("void *", 1))
        while true do end
      end,
      function()
        debug.sethook()
        while true do end
      end,
    }
    -- Input 2 i hangs in the i-th way. The limit leaves the others time on a slow machine, too.
    local f = app:func({ timeout = 1 }, function(x)
      if x % 2 == 0 then hangs[x / 2]() end
      return x
    end)
    local got, n, err = collect(f:map(numbers(2 * #hangs + 1), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(2 * #hangs + 1, n)
    for i = 1, n do
      if i % 2 == 1 then
        assert.equal(i, got[i])
      else
        assert.same({ "timeout", i, 1 }, { got[i].kind, got[i].index, got[i].attempts })
        contains(got[i].message, "1 s")
      end
    end
    support.check_pool()
  end)

  it("has its function run in processes without being told, and is an error with threads", function()
    local f = tidepool.App("t"):func({ timeout = 10 }, function() return tidepool.current().executor end)
    assert.equal("processes", f:remote())
    for _, executor in ipairs { "threads", "inline" } do
      support.mistake(function()
        local g = tidepool.App("t"):func({ timeout = 1, executor = executor }, function() end)
        return g
      end, "option 'timeout' needs an executor that can stop what runs by force: \"processes\"", executor)
    end
  end)

  it("counts from when the input starts, not from when it was given", function()
    local f = app:func({ timeout = 2, concurrency_limit = 1 }, function(x)
      support.sleep(0.3)
      return x
    end)
    local got, n, err = collect(f:map(numbers(9)))
    assert.is_nil(err)
    assert.equal(9, n)
    assert.same(numbers(9), got)
  end)

  it("is tried again as `retries` says", function()
    local f = app:func({ timeout = 0.1, retries = 2 }, function() while true do end end)
    local failure = failure_of(f.remote, f)
    assert.same({ "timeout", 3 }, { failure.kind, failure.attempts })
  end)

  it("holds for remote, spawn and for_each too", function()
    local f = app:func({ timeout = 0.7 }, function(x)
      if x == 2 then while true do end end
      return x
    end)
    assert.equal(1, f:remote(1))
    assert.equal("timeout", failure_of(f.remote, f, 2).kind)
    local call = f:spawn(2)
    assert.equal("timeout", failure_of(call.get, call).kind)
    assert.same({ ok = 2, failed = 1 }, f:for_each({ 1, 2, 3 }, { ignore_exceptions = true }))
    assert.equal("timeout", failure_of(f.for_each, f, { 1, 2, 3 }).kind)
  end)

  it("ends a process that was stopped", function()
    local f = app:func({ timeout = 1 }, function(x)
      if x == 2 then
        local ffi = require "ffi"
        if not pcall(ffi.typeof, "tidepool_spec_stop") then ffi.cdef "typedef int tidepool_spec_stop; int getpid(void); int kill(int, int);" end
        ffi.C.kill(ffi.C.getpid(), 19)
        support.sleep(0.2) -- until it takes effect
      end
      return x
    end)
    local got, n = collect(f:map(numbers(3), { return_exceptions = true }))
    assert.equal(3, n)
    assert.same({ 1, "timeout", 3 }, { got[1], got[2].kind, got[3] })
  end)

  it("that is about what inputs take gives each one outcome, its own", function()
    local f = app:func({ timeout = 0.01 }, function(x)
      support.sleep((x % 20) * 0.001)
      return x
    end)
    local n = support.times(400)
    local got, count, err = collect(f:map(tidepool.range(n), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(n, count)
    for i = 1, n do
      if tidepool.is_failure(got[i]) then
        assert.same({ "timeout", i }, { got[i].kind, got[i].index })
      else
        assert.equal(i, got[i])
      end
    end
  end)

  it("that is no time is refused where it is written", function()
    for _, wrong in ipairs { 0, -1, 0 / 0, "1", {}, math.huge } do
      support.mistake(function()
        local f = app:func({ timeout = wrong }, function() end)
        return f
      end, "option 'timeout' must be a positive number of seconds")
    end
    for _, wrong in ipairs { -1, 1.5, "1" } do
      support.mistake(function()
        local f = app:func({ crash_retries = wrong }, function() end)
        return f
      end, "option 'crash_retries' must be an integer of at least 0")
    end
  end)
end)

describe("A limit to memory", function()
  local MiB = 2 ^ 20

  --- Runs inputs 1..9 of which the 5th is a hog; gives its failure.
  local function fails(hog, options)
    options.crash_retries = options.crash_retries or 0
    local f = app:func(options, function(x)
      if x == 5 then hog {} end
      return x
    end)
    local got, n, err = collect(f:map(numbers(9), { return_exceptions = true }))
    assert.is_nil(err)
    assert.equal(9, n)
    for i = 1, 9 do
      if i ~= 5 then assert.equal(i, got[i]) end
    end
    assert.is_true(tidepool.is_failure(got[5]))
    assert.equal(5, got[5].index)
    return got[5]
  end

  it("fails the input that asks for more, with the kind memory, whatever it asks for", function()
    local hogs = {
      function(t) for i = 1, 1e9 do t[i] = { i } end end,
      function(t) for i = 1, 1e9 do t[i] = i end end,
      function(t) for i = 1, 1e9 do t["key " .. i] = i end end,
      function() local s = "x" while true do s = s .. s end end,
      function(t) while true do t[#t + 1] = ("y"):rep(1e6) .. #t end end,
      function() local f = print while true do local g = f f = function() return g end end end,
      function(t) for i = 1, 1e9 do t[i] = coroutine.create(print) end end,
      function(t) local ffi = require "ffi" for i = 1, 1e9 do t[i] = ffi.new("char[?]", 1e5) end end,
    }
    for i, hog in ipairs(hogs) do
      local failure = fails(hog, { memory = 16 * MiB + i * 12345, name = "hog" .. i })
      assert.equal("memory", failure.kind, ("hog %d: %s"):format(i, failure.message))
      assert.matches("option `memory` .* have 16%.?%d? MiB", failure.message)
    end
    support.check_pool()
  end)

  it("is an error that the function can catch, and its worker goes on", function()
    local f = app:func({ memory = "32M" }, function()
      return pcall(function()
        local s = "x"
        while true do s = s .. s end
      end)
    end)
    for _, fine, why in f:map(numbers(3)) do assert.same({ false, "not enough memory" }, { fine, why }) end
    local failure = failure_of(f.remote, app:func({ memory = "32M" }, function() return #("x"):rep(2 ^ 30) end))
    assert.equal("memory", failure.kind)
  end)

  it("counts what is used, not what was: garbage is collected in time", function()
    local f = app:func({ memory = "16M" }, function(x)
      local sum = 0
      for i = 1, 1e5 do
        local t = { i, i + 1, {} }
        sum = sum + #t
      end
      for i = 1, 200 do sum = sum + #(("z"):rep(1e6) .. i) end
      return sum + x
    end)
    local got, n, err = collect(f:map(numbers(8)))
    assert.is_nil(err)
    assert.equal(8, n)
    for i = 2, 8 do assert.equal(got[1] + i - 1, got[i]) end
  end)

  it("is of the function, whatever others keep in the same process", function()
    local keeps = app:func(function(x)
      local kept = package.loaded.tidepool_spec_kept or {}
      package.loaded.tidepool_spec_kept = kept
      for _ = 1, 2e5 do kept[#kept + 1] = { x } end
      return #kept
    end)
    local small = app:func({ memory = "4M" }, function(x)
      local t = {}
      for i = 1, 1e4 do t[i] = { x } end
      return #t
    end)
    for _ = 1, 3 do
      for _, n in keeps:map(numbers(4)) do assert.is_true(n >= 2e5) end
      local _, n, err = collect(small:map(numbers(4)))
      assert.is_nil(err)
      assert.equal(4, n)
    end
  end)

  it("holds for native memory, whose failure has the kind memory too", function()
    if support.sanitized then return end -- whose own memory would count
    local function allocate(bytes, times)
      local ffi = require "ffi"
      if not pcall(ffi.typeof, "tidepool_spec_malloc") then
        ffi.cdef "typedef int tidepool_spec_malloc; void *malloc(size_t); void *memset(void *, int, size_t);"
      end
      for _ = 1, times do ffi.C.memset(ffi.C.malloc(bytes), 1, bytes) end
    end
    for _, how in ipairs { { 2 ^ 32, 1 }, { 2 ^ 20, 1e6 } } do
      local failure = fails(function() allocate(how[1], how[2]) end, { memory = "64M" })
      assert.equal("memory", failure.kind, failure.message)
      contains(failure.message, "SIGSEGV", "64 MiB")
    end
    local failure = fails(function() die "null" end, { memory = "64M" })
    assert.equal("crash", failure.kind)
    assert.equal(2 ^ 20, app:func({ memory = "64M" }, function()
      allocate(2 ^ 20, 1)
      return 2 ^ 20
    end):remote())
  end)

  it("has its function run in processes without being told, and is an error with threads", function()
    local f = tidepool.App("m"):func({ memory = "1G" }, function() return tidepool.current().executor end)
    assert.equal("processes", f:remote())
    for _, executor in ipairs { "threads", "inline" } do
      support.mistake(function()
        local g = tidepool.App("m"):func({ memory = 1e6, executor = executor }, function() end)
        return g
      end, "option 'memory' needs an executor that bounds the memory of an item: \"processes\"", executor)
    end
    for _, wrong in ipairs { 0, -1, "64 MB", "M", {} } do
      support.mistake(function()
        local g = app:func({ memory = wrong }, function() end)
        return g
      end, "option 'memory' must be a size like \"256M\"")
    end
  end)

  it("of the system's is told from a kill", function()
    local group = not support.sanitized and support.memory_group(200)
    if not group then return pending "no control group for memory can be made here" end
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes" } (function(x)
        local c = require "ffi"
        c.cdef "void *malloc(size_t); void *memset(void *, int, size_t); int raise(int);"
        if x == 2 then
          for _ = 1, 1000 do c.C.memset(c.C.malloc(1e6), 1, 1e6) end
        elseif x == 3 then
          c.C.raise(9)
        end
        return x
      end)
      for _, y in f:map({ 1, 2, 3, 2, 3, 4 }, { return_exceptions = true }) do -- (the second time a spare process takes the place)
        print(tidepool.is_failure(y) and y.kind .. " " .. y.message or y)
      end
    ]], { setup = ("echo $$ > %s"):format(group.tasks), workers = 1 })
    group.remove()
    local said = "memory worker process was killed by SIGKILL during input %d: the system had no memory left\n" ..
      "crash worker process was killed by SIGKILL during input %d\n"
    assert.equal("1\n" .. said:format(2, 3) .. said:format(4, 5) .. "4\n", out.stdout)
  end)
end)

describe("Typed arrays in processes", function()
  local types = { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" }

  it("are shared: as arguments and results, of all types, also in tables, as views and matrices", function()
    local double = app:func(function(a)
      for i = 1, #a do a[i] = a[i] * 2 end
      return a, { inner = a }
    end)
    for _, ctype in ipairs(types) do
      local a = tidepool.array(ctype, { 1, 2, 3 })
      local b, c = double:remote(a)
      assert.same({ ctype, 3, 2, 6 }, { b.ctype, #b, tonumber(b[1]), tonumber(b[3]) })
      assert.is_true(rawequal(b, c.inner)) -- the same object twice in one message stays one
      assert.equal(2, tonumber(a[1])) -- what was passed is what came back
      b[2] = 9
      assert.equal(9, tonumber(a[2]))
    end
    assert.equal(0, #double:remote(tidepool.array("double", 0)))
    local m = double:remote(tidepool.array("double", { { 1, 2, 3 }, { 4, 5, 6 } }))
    assert.same({ 2, 3, 12 }, { m.rows, m.columns, m:at(2, 3) })
    local whole = tidepool.array("int32", { 1, 2, 3, 4 })
    assert.same({ 4, 6, n = 2 }, double:remote(whole:slice(2, 3)):list())
    assert.same({ 1, 4, 6, 4, n = 4 }, whole:list())
    local big = tidepool.array("double", 1e6, 1)
    double:remote(big:slice(999999))
    assert.same({ 1, 1, 2, 2 }, { big[1], big[999998], big[999999], big[1e6] })
    local lists = app:func(function(t) t.a[1] = t.a[1] + 1 end)
    local many = {}
    for i = 1, 300 do many[i] = { a = tidepool.array("double", { i }) } end
    lists:for_each(many)
    for i = 1, 300 do assert.equal(i + 1, many[i].a[1]) end
    local fails = app:func(function(a) error { a = a } end)
    local failure = failure_of(fails.remote, fails, tidepool.array("double", { 7 }))
    assert.same({ 7, 7 }, { failure.value.a[1], failure.input[1][1] })
  end)

  it("that a worker makes come back as copies", function()
    local make = app:func(function(n)
      local a = require "tidepool".array("float", n)
      a:fill(n + 0.5)
      return { a = a }
    end)
    for i, t in make:map(tidepool.range(100)) do assert.same({ i, i + 0.5 }, { #t.a, t.a[i] }) end
    assert.equal(1e6 + 0.5, make:remote(1e6).a[1e6])
  end)

  it("that a function captures are shared with all workers, and between them", function()
    local a, counts, large = tidepool.array("double", { 1, 2, 3 }), tidepool.array("int64", 4), tidepool.array("double", 1e6)
    local read = app:func(function(i)
      local x = a[i]
      a[i] = x + 10
      counts:add(1 + i % 4, 1)
      large[i * 1000] = i
      return x
    end)
    assert.same({ 1, 2, 3, n = 3 }, read:with({ recycle = 1 }):map({ 1, 2, 3 }):list())
    assert.same({ 11, 12, 13, n = 3 }, a:list())
    a[2] = 20
    assert.equal(20, read:remote(2))
    local threads = tidepool.App("t", { executor = "threads" }):func(function(i) a[i] = i * 100 end)
    threads:for_each { 1, 2, 3 }
    assert.equal(300, read:remote(3))
    assert.equal(3000, 1000 * large[3000])
    local count = app:func(function(i) counts:add(1 + i % 4, 1) end)
    counts:fill(0)
    count:for_each(tidepool.range(4000))
    assert.same({ 1000, 1000, 1000, 1000 }, { tonumber(counts[1]), tonumber(counts[2]), tonumber(counts[3]), tonumber(counts[4]) })
  end)

  it("of a worker's own are shared with what it maps", function()
    local f = app:func(function()
      local here = require "tidepool"
      local a = here.array("double", 4)
      here.App("inner", { executor = "processes" }):func(function(i) a[i] = i end):for_each { 1, 2, 3, 4 }
      return a:sum()
    end)
    assert.equal(10, f:remote())
  end)

  it("are inputs and results in their place, whatever happens to workers meanwhile", function()
    local path = support.temp_path()
    local xs, ys = tidepool.array("double", 200000), tidepool.array("int32", 200000)
    for i = 1, #xs do xs[i], ys[i] = i / 2, -i end
    local f = app:func({ returns = { "double", "float" }, crash_retries = 3 }, function(x, y)
      if y == -150000 and #support.notes(path) < 3 then
        support.note(path, "dies")
        die "null"
      end
      return 2 * x, y
    end)
    local doubles, floats = f:map(xs, ys):array()
    local wrong = 0
    for i = 1, #xs do
      if doubles[i] ~= i or floats[i] ~= -i then wrong = wrong + 1 end
    end
    assert.equal(0, wrong)
    assert.equal(3, #support.notes(path))
    local square = app:func({ returns = "double" }, function(x) return x * x end)
    assert.equal(25, square:map(xs:slice(10)):array()[1])
    assert.same({ 1, 4, 9, n = 3 }, square:map(tidepool.array("double", { 1, 2, 3 })):array():list())
    local sum = 0
    for _, y in square:map(xs) do sum = sum + y end
    assert.equal(200000 * 200001 * 400001 / 24, sum)
    local partly = app:func({ returns = "double" }, function(x)
      if x == 50 then error "no" end
      return x
    end)
    local failure = failure_of(function() partly:map(xs):array() end)
    assert.equal(100, failure.index)
  end)

  it("are given back when workers have done with them", function()
    local out = support.run_script [[
      local core, tidepool = require "tidepool.core", require "tidepool"
      local last = tidepool.App("x"):func { executor = "processes" } (function(a) return a[#a] end)
      local most = 0
      for i = 1, 300 do
        local a = tidepool.array("double", 2e6)
        a[#a] = i
        if last:remote(a) ~= i then error "wrong" end
        most = math.max(most, core.array.bytes())
      end
      print(most < 2 ^ 31) -- of 5 GB
    ]]
    assert.equal("true\n", out.stdout .. out.stderr)
  end)

  it("are moved where processes see them when there is the first, and stay at their addresses", function()
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local function has_file()
        local file = assert(io.open "/proc/self/maps")
        local text = file:read "*a"
        file:close()
        return text:find("memfd:tidepool-arrays", 1, true) ~= nil
      end
      local small, large = tidepool.array("int32", 5, 1), tidepool.array("double", 2e6, 2)
      local part = large:slice(1000001)
      local before = { tostring(small.data), tostring(large.data) }
      local app = tidepool.App "x"
      app:func { executor = "threads" } (function(i) large[i] = i end):for_each(tidepool.range(1000))
      print(has_file(), large[1000])
      local f = app:func { executor = "processes" } (function(i)
        small[i], large[i] = 7, 8
        part[i] = 9
        return large[1000]
      end)
      print(f:remote(1), small[1], large[1], part[1], large[1000001], large[2e6])
      print(has_file(), before[1] == tostring(small.data), before[2] == tostring(large.data))
      small[2] = 5
      print(app:func { executor = "processes" } (function() return small[2] end):remote())
    ]])
    assert.equal("false\t1000\n1000\t7\t8\t9\t9\t2\ntrue\ttrue\ttrue\n5\n", out.stdout .. out.stderr)
  end)

  it("that a thread is using meanwhile are copies, and shared once it is done", function()
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local a, flag = tidepool.array("double", 1e5), tidepool.array("int64", 2)
      local app = tidepool.App "x"
      local holds = app:func { executor = "threads" } (function()
        a[1] = 1
        flag:add(2, 1)
        while flag:add(1, 0) == 0 do tidepool.sleep(0.001) end
        a[2] = a[2] + 1
      end)
      local writes = app:func { executor = "processes" } (function() a[3] = 3 return a[1] end)
      local call = holds:spawn()
      while flag:add(2, 0) == 0 do tidepool.sleep(0.001) end
      print(writes:remote(), a[3])
      flag:add(1, 1)
      call:get()
      print(writes:remote(), a[2], a[3])
    ]])
    assert.equal("1\t0\n1\t1\t3\n", out.stdout .. out.stderr)
  end)

  it("stay the script's where a child that it has forked goes on with them", function()
    local out = support.run_script([[
      local ffi, tidepool = require "ffi", require "tidepool"
      ffi.cdef "int fork(void); int waitpid(int, int *, int); void _exit(int);"
      local free, keep = tidepool.array("double", 1e5, 1), tidepool.array("double", 1e5, 2)
      local small = tidepool.array("double", 5, 4)
      free = nil
      collectgarbage()
      local pid = ffi.C.fork()
      if pid == 0 then
        for i = 1, 10 do tidepool.array("double", 1e5, 7):sum() end
        keep, small = nil, nil
        collectgarbage()
        collectgarbage()
        tidepool.array("double", 5, 8)
        ffi.C._exit(0)
      end
      local mine = tidepool.array("double", 1e5, 3)
      ffi.C.waitpid(pid, nil, 0)
      local f = tidepool.App("x"):func { executor = "processes" } (function(a, b, c) return a:sum() + b:sum() + c:sum() end)
      print(mine:sum(), keep:sum(), small:sum(), f:remote(mine, keep, small))
    ]])
    assert.equal("300000\t200000\t20\t500020\n", out.stdout .. out.stderr)
  end)

  it("are copies where memory cannot be shared", function()
    local script = [[
      local tidepool = require "tidepool"
      local app = tidepool.App("x", { executor = "processes" })
      local a = tidepool.array("double", 1000, 1)
      local f = app:func(function(b) b[1] = a[1] + 1 return b end)
      local b = tidepool.array("double", 1e5, 3)
      local c = f:remote(b)
      print(c[1], c[2], #c, b[1])
      local twice = app:func { returns = "double" } (function(x) return 2 * x end)
      print(twice:map(b):array():sum())
    ]]
    local shared, copied = support.run_script(script), support.run_script(script, { setup = "ulimit -f 100000" }) -- blocks of 512 or 1024 bytes
    assert.equal("2\t3\t100000\t2\n599998\n", shared.stdout .. shared.stderr)
    assert.equal("2\t3\t100000\t3\n600000\n", copied.stdout .. copied.stderr)
  end)

  it("have no NaN of other bits, whatever their worker has written", function()
    local f = app:func(function()
      local ffi = require "ffi"
      local a = require "tidepool".array("double", 3)
      local words = ffi.cast("uint64_t *", a.data)
      words[0], words[1], words[2] = 0xffffffffffffffffULL, 0xfff9000000000000ULL, 0x7ff4000000000001ULL
      return a
    end)
    local a = f:remote()
    for i = 1, 3 do
      local x = a[i]
      assert.same({ "number", true }, { type(x), x ~= x })
    end
    local shared = tidepool.array("double", 3)
    local spoil = app:func({ returns = "double" }, function(i)
      local ffi = require "ffi"
      local words = ffi.cast("uint64_t *", shared.data)
      words[0], words[1], words[2] = 0xffffffffffffffffULL, 0xfff9000000000000ULL, 0x7ff4000000000001ULL
      return shared[i]
    end)
    local results = spoil:map { 1, 2, 3 }
    for i, y in results do
      local x = shared[i]
      assert.same({ "number", true, "number", true }, { type(x), x ~= x, type(y), y ~= y })
    end
  end)
end)

describe("What runs in processes", function()
  it("is ended at once when its map is cancelled, or given up", function()
    local path = support.temp_path()
    local f = app:func(function(x)
      if x == 1 then return 1 end
      support.note(path, "begun")
      support.sleep(1000)
    end)
    local began = support.now()
    local results = f:map(numbers(8))
    assert.equal(1, results:next())
    support.eventually("an input runs", function() return #support.notes(path) > 0 end)
    results:cancel()
    local cancelled = f:spawn(5)
    support.eventually("it runs", function() return #support.notes(path) > 1 end)
    cancelled:cancel()
    do -- (nobody waits for its first result: that may come only with those of its slice)
      local begun, dropped = #support.notes(path), f:map(numbers(4))
      support.eventually("its inputs run", function() return #support.notes(path) > begun end)
      assert.is_false(dropped:done())
    end
    collectgarbage()
    collectgarbage()
    local g = app:func(function(x) return x end)
    assert.same(numbers(20), { unpack(g:map(numbers(20)):list(), 1, 20) })
    assert.is_true(support.now() - began < 100)
  end)

  it("cannot hand over code, or what only its process has", function()
    local f = app:func(function() return function() end end)
    local failure = failure_of(f.remote, f)
    assert.equal("codec", failure.kind)
    contains(failure.message, "result 1: a function cannot travel from a worker process")
  end)

  it("maps in turn, without waiting for another process", function()
    local inner = app:func({ concurrency_limit = 1 }, function(x) return x + 1 end)
    local outer = app:func({ concurrency_limit = 2 }, function(x)
      local sum = 0
      for _, y in inner:map { x, x, x } do sum = sum + y end
      return sum
    end)
    for i, sum in outer:map(numbers(50)) do assert.equal(3 * (i + 1), sum) end
  end)

  it("keeps limits over all processes and the script, also of what it maps", function()
    for _, limit in ipairs { 1, 2 } do
      local counts = tidepool.array("int64", 3) -- that run now, at most, and in all
      local inner = app:func({ concurrency_limit = limit }, function(x)
        counts:max(2, counts:add(1, 1) + 1)
        require "tidepool".sleep(0.001)
        counts:add(1, -1)
        counts:add(3, 1)
        return x + 1
      end)
      local outer = app:func({ concurrency_limit = 4 }, function(x)
        local sum = 0
        for _, y in inner:map { x, x, x } do sum = sum + y end
        return sum
      end)
      local other = inner:map(numbers(20))
      for i, sum in outer:map(numbers(20)) do assert.equal(3 * (i + 1), sum) end
      for i, y in other do assert.equal(i + 1, y) end
      assert.same({ 0, 80 }, { tonumber(counts[1]), tonumber(counts[3]) })
      assert.is_true(counts[2] >= 1 and counts[2] <= limit, tostring(counts[2]))
    end
  end)

  it("gives its place back when its process dies, or is ended, with one", function()
    local tries = tidepool.array("int32", 2)
    local inner = app:func({ concurrency_limit = 1 }, function(x)
      if x == 3 and tries:add(1, 1) < 2 then die "null" end
      if x == 5 and tries:add(2, 1) == 0 then
        while true do end
      end
      return x + 1
    end)
    local outer = app:func({ concurrency_limit = 2, crash_retries = 2, retries = 3, timeout = 2 }, function(x) return inner:remote(x) end)
    for i, y in outer:map(numbers(12)) do assert.equal(i + 1, y) end
    assert.is_true(tries[1] >= 3 and tries[2] >= 2) -- more where an input has waited too long for the endless one
    assert.equal(8, inner:remote(7))
  end)

  it("does not wait for ever for a place that nobody gives back", function()
    local path = support.temp_path()
    local inner = app:func({ concurrency_limit = 1 }, function(x)
      support.note(path, "begun")
      while x do end
    end)
    local stuck = inner:spawn(true)
    support.eventually("it runs", function() return #support.notes(path) > 0 end)
    local outer = app:func({ timeout = 0.5 }, function() return inner:remote(false) end)
    assert.equal("timeout", failure_of(outer.remote, outer).kind)
    stuck:cancel()
    inner:remote(false)
  end)

  it("gives large values and takes them", function()
    local f = app:func(function(s) return s .. s, #s end)
    for _, n in ipairs { 0, 1, 4096, 5000, 300000, 3000000 } do
      local double, length = f:remote(("x"):rep(n))
      assert.equal(n, length)
      assert.is_true(double == ("x"):rep(2 * n))
    end
    local got = collect(f:map { ("a"):rep(400000), ("b"):rep(400000), ("c"):rep(400000) })
    assert.is_true(got[3] == ("c"):rep(800000))
  end)

  it("keeps the strings that it has given until they are read, whatever its process does next", function()
    local lengths = { 3000000, 40000, 20, 700000, 33000, 300000, 100000 }
    local function make(salt, i) return (salt .. i .. ","):rep(math.ceil(lengths[i % #lengths + 1] / 4)) end
    local f = app:func(function(salt, i, how)
      if how == "die" and tidepool.current().attempt == 1 then die "null" end
      if i % 9 == 0 then return make(salt, i), i end
      if i % 10 == 0 then return { make(salt, i), make("t", i) } end
      return make(salt, i)
    end)
    local n = 30
    local function check(salt, i, value, second)
      if i % 9 == 0 then assert.equal(i, second) end
      if i % 10 == 0 and i % 9 ~= 0 then
        assert.is_true(value[2] == make("t", i), i)
        value = value[1]
      end
      assert.is_true(value == make(salt, i), i)
    end
    local hows = {}
    for i = 1, n do hows[i] = i % 11 == 0 and "die" or "" end
    local function salts(salt)
      local list = {}
      for i = 1, n do list[i] = salt end
      return list
    end
    -- three maps that are read by turns, so that each has results that wait
    local maps = {}
    for k, salt in ipairs { "a", "b", "c" } do
      maps[k] = f:map(salts(salt), numbers(n), k == 2 and hows or salts "")
      check(salt, 1, select(2, maps[k]:next()))
    end
    for i = 2, n do
      for k, salt in ipairs { "a", "b", "c" } do check(salt, i, select(2, maps[k]:next())) end
    end
  end)

  it("takes long strings that are too much for one request, and tells which one failed", function()
    local list = {}
    for i = 1, 24 do list[i] = ("%02d"):format(i):rep(2 ^ 19) end
    local f = app:func(function(s, x)
      if s:sub(-2) == "17" then error("no", 0) end
      return #s + x
    end)
    f:map(numbers(3000), numbers(3000)) -- as if its items took no time
    local got = collect(f:map(list, numbers(24), { return_exceptions = true }))
    for i = 1, 24 do
      if i ~= 17 then assert.equal(2 ^ 20 + i, got[i]) end
    end
    assert.same({ "error", "no", 17 }, { got[17].kind, got[17].message, got[17].index })
    assert.is_true(got[17].input[1] == list[17] and got[17].input[2] == 17)
  end)

  it("writes results where `returns` says", function()
    local f = app:func({ returns = { "double", "int32" } }, function(x) return x / 2, x end)
    local halves, same = f:map(tidepool.range(5000)):array()
    for i = 1, 5000 do assert.same({ i / 2, i }, { halves[i], same[i] }) end
  end)
end)

describe("Worker processes", function()
  it("have no descriptors but their own", function()
    local f = app:func(function()
      local fds = {}
      local pipe = io.popen "ls -l /proc/$PPID/fd"
      for line in pipe:lines() do fds[#fds + 1] = line:match "(%d+) %->" end
      pipe:close()
      return fds
    end)
    local function own(fds)
      local few = {}
      for _, fd in ipairs(fds) do few[tonumber(fd)] = true end
      return few
    end
    local file = io.open "/etc/passwd"
    local fds = own(f:remote())
    file:close()
    for fd = 0, 8 do assert.is_true(fds[fd], "descriptor " .. fd) end
    local foreign = app:func(function()
      local pipe = io.popen "ls -l /proc/$PPID/fd"
      local text = pipe:read "*a"
      pipe:close()
      return text
    end):remote()
    assert.is_nil(foreign:find("/etc/passwd", 1, true))
  end)

  it("cannot take from their host the memory that they share", function()
    local f = app:func(function(x)
      local ffi = require "ffi"
      if not pcall(ffi.typeof, "tidepool_spec_seals") then
        ffi.cdef "typedef int tidepool_spec_seals; int fcntl(int, int, ...); int ftruncate(int, long);"
      end
      for fd = 4, 6 do
        for _, seal in ipairs { 1, 2, 4, 8, 16 } do -- any: F_ADD_SEALS
          if ffi.C.fcntl(fd, 1033, ffi.cast("int", seal)) == 0 then error("sealed by " .. seal) end
        end
        if ffi.C.ftruncate(fd, 0) == 0 then error "shrunk" end
      end
      return #x
    end)
    for _, n in ipairs { 10, 1e6, 3e6, 10 } do assert.equal(n, f:remote(("x"):rep(n))) end
  end)

  it("that write nonsense into it cost the inputs that did", function()
    local f = app:func({ crash_retries = 0 }, function(x, at)
      if at then
        local ffi = require "ffi"
        if not pcall(ffi.typeof, "tidepool_spec_mmap") then
          ffi.cdef "typedef int tidepool_spec_mmap; void *mmap(void *, size_t, int, int, int, long); int usleep(unsigned);"
        end
        local memory = ffi.cast("char *", ffi.C.mmap(nil, 262144, 3, 1, 5, 0))
        ffi.fill(memory + at, at == 0 and 64 or 200000, 0xff)
        if at == 0 then
          while true do ffi.C.usleep(1000) end
        end
      end
      return x
    end)
    for _, at in ipairs { 0, 4096 } do
      local list = {}
      for i = 1, 10 do list[i] = { i, i == 5 and at or nil } end
      local got, n, err = collect(f:with({ timeout = 10 }):starmap(list, { return_exceptions = true, window = 1 }))
      assert.is_nil(err)
      assert.equal(10, n)
      for i = 1, 10 do
        if i ~= 5 then assert.equal(i, got[i]) end
      end
      assert.is_true(tidepool.is_failure(got[5]) or got[5] == 5)
    end
    support.check_pool()
  end)

  it("end with their host, however it ends, and so do commands that they have started", function()
    local function kill(signal) return ("require('ffi').C.kill(require('ffi').C.getpid(), %d) while true do tidepool.sleep(1) end"):format(signal) end
    for _, how in ipairs { "os.exit(0)", kill(9), kill(2), kill(15), kill(1), "error('x')" } do
      local out = support.run_script(([[
        local ffi = require "ffi"
        ffi.cdef "int kill(int, int); int getpid(void);"
        local tidepool = require "tidepool"
        local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x)
          local ffi = require "ffi"
          ffi.cdef "int getpid(void); int usleep(unsigned);"
          local file = io.open("DIR/" .. x, "w")
          file:write(ffi.C.getpid())
          file:close()
          local command = "echo $$ > DIR/command" .. x .. "; mv DIR/command" .. x .. " DIR/" .. x + 2 .. "; exec sleep 1000"
          if x == 1 then os.execute(command) end
          io.popen(command)
          while true do ffi.C.usleep(1000) end
        end)
        f:spawn_map { 1, 2 }
        local function there(x)
          local file = io.open("DIR/" .. x)
          local pid = file and file:read "*n"
          if file then file:close() end
          return pid
        end
        while not (there(1) and there(2) and there(3) and there(4)) do require("tidepool").sleep(0.01) end
        %s
      ]]):format(how), { workers = 2 })
      assert.is_false(out.timed_out)
      for x = 1, 4 do
        local pid = tonumber(support.read_file(out.dir .. "/" .. x))
        assert.is_truthy(pid)
        support.eventually((x <= 2 and "the worker" or "its command") .. " is gone after " .. how, function()
          local status = support.read_file("/proc/" .. pid .. "/status")
          return not status or status:find "State:%s+Z" ~= nil
        end, 60)
      end
    end
  end)

  it("that cannot be started are one clear error", function()
    local function outcome(worker)
      local out = support.run_script([[
        local tidepool = require "tidepool"
        local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x) return x end)
        local fine, why = pcall(f.remote, f, 1)
        print(why.kind, why.message)
      ]], { setup = "export TIDEPOOL_WORKER=" .. worker })
      assert.is_false(out.timed_out)
      return out.stdout, out.stderr
    end
    local silent = support.temp_path()
    support.write_file(silent, "#!/bin/sh\nexec sleep 1000\n")
    os.execute("chmod +x " .. silent)
    local said, told = outcome(silent)
    contains(said, "resource", silent .. " --worker has said nothing for 10 s. Is it Tidepool's program? TIDEPOOL_WORKER, or in C tp_config.worker, "
      .. "names it")
    assert.equal(("tidepool: worker processes do not answer: waiting for %s --worker\n"):format(silent), told)
    contains(outcome "/nowhere/tidepool", "resource", "cannot start a worker process, /nowhere/tidepool: No such file or directory")
    contains(outcome "/bin/false", "resource", "/bin/false --worker exited with code 1")
    contains(outcome "/bin/cat", "resource", "/bin/cat --worker exited with code 1: ")
  end)

  it("that die, or are stopped, while they start are started again", function()
    local dir = support.temp_dir()
    local worker = dir .. "/worker"
    support.write_file(worker, ([[#!/bin/sh
      echo >> DIR/starts
      case $(wc -l < DIR/starts) in 1) kill -9 $$;; 2) kill -STOP $$;; 3) exit 3;; esac
      exec %s --worker
    ]]):gsub("DIR", dir):format(support.binary))
    local out = support.run_script(([[
      local f = require "tidepool".App("x"):func { executor = "processes" } (function(x) return x + 1 end)
      print(f:remote(1))
      for _ in io.lines "%s/starts" do io.write "started " end
    ]]):format(dir), { setup = "chmod +x " .. worker .. "; export TIDEPOOL_WORKER=" .. worker, workers = 1 })
    assert.equal("", out.stderr)
    assert.equal("2\nstarted started started started ", out.stdout)
  end)

  it("that somebody kills again and again while they start are no reason to give up soon", function()
    local dir = support.temp_dir()
    local worker = dir .. "/worker"
    support.write_file(worker, ([[#!/bin/sh
      echo >> DIR/starts
      [ $(wc -l < DIR/starts) -gt 15 ] || kill -9 $$
      exec %s --worker
    ]]):gsub("DIR", dir):format(support.binary))
    local out = support.run_script([[
      local f = require "tidepool".App("x"):func { executor = "processes" } (function(x) return x + 1 end)
      print(f:remote(1))
    ]], { setup = "chmod +x " .. worker .. "; export TIDEPOOL_WORKER=" .. worker, workers = 1 })
    assert.equal("", out.stderr)
    assert.equal("2\n", out.stdout)
  end)

  it("that are fewer than wanted, for want of descriptors or processes, do the work, or that is one clear error", function()
    local script = [[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x) return x * x end)
      local fine, list = pcall(function() return f:map(tidepool.range(200)):list() end)
      print(fine, fine and list[200] or list.kind .. " " .. list.message)
    ]]
    for _, limit in ipairs { 14, 20, 26, 32, 50, 100 } do
      local out = support.run_script(script, { setup = "ulimit -n " .. limit, workers = 8 })
      assert.is_false(out.timed_out, "ulimit -n " .. limit)
      assert.is_nil(out.signal)
      if not out.stdout:find("true\t40000", 1, true) then
        assert.matches("[Tt]oo many open files %(the limit is " .. limit .. ", see ulimit %-n%)", out.stdout .. out.stderr, "ulimit -n " .. limit)
      end
    end
  end)

  it("that have too little address space do the work, or that is one clear error", function()
    if support.sanitized then return end -- which need terabytes
    for _, kib in ipairs { 60000, 90000, 120000, 200000, 400000 } do
      local out = support.run_script([[
        local tidepool = require "tidepool"
        local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x) return x * x end)
        local fine, list = pcall(function() return f:map(tidepool.range(200)):list() end)
        print(fine, fine and list[200] or list.kind .. " " .. list.message)
      ]], { setup = "ulimit -v " .. kib, workers = 4 })
      assert.is_false(out.timed_out)
      assert.is_nil(out.signal)
      assert.is_true(out.stdout == "true\t40000\n" or (out.stdout .. out.stderr):find "memory" ~= nil or out.stdout:find "resource" ~= nil,
        ("ulimit -v %d: %s%s"):format(kib, out.stdout, out.stderr))
    end
  end)

  it("whose program is gone meanwhile are one clear error, after a few tries", function()
    local dir = support.temp_dir()
    local out = support.run_script(([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes", name = "f", crash_retries = 0 } (function(x)
        if x == 1 then return "fine" end
        os.remove "DIR/program"
        require("ffi").cast("int *", 0)[0] = 1
      end)
      print(f:remote(1))
      local done, failed = 0, nil
      local fine, why = pcall(function()
        for _, r in f:map({ 2, 2, 2, 2, 2, 2, 2, 2 }, { return_exceptions = true }) do done, failed = done + 1, r.kind end
      end)
      print(fine, done, failed, why and why.kind, why and why.message)
    ]]):gsub("DIR", dir), { workers = 2, setup = ("cp %s %s/program; export TIDEPOOL_WORKER=%s/program"):format(support.binary, dir, dir) })
    assert.is_false(out.timed_out)
    contains(out.stdout, "fine\n", "resource\tcannot start a worker process", "No such file or directory")
  end)

  it("that are many are started and ended", function()
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes", name = "f" } (function(x) return x + 1 end)
      print(f:map(tidepool.range(1000)):sum())
    ]], { workers = support.sanitized and 8 or 64 })
    assert.equal("501500\n", out.stdout)
    assert.equal(0, out.code)
  end)

  it("that write floods of text, or ask for too much of it, cost no more than their input", function()
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x"):func { executor = "processes", name = "f", memory = "256M" } (function(x)
        if x == 1 then for i = 1, 20000 do print(("x"):rep(99)) end end
        if x == 2 then error(("y"):rep(2 ^ 29)) end
        return x
      end)
      for i, r in f:map({ 1, 2, 3 }, { return_exceptions = true }) do io.stderr:write(i, " ", tidepool.is_failure(r) and r.kind or r, "\n") end
    ]])
    local _, whole = out.stdout:gsub(("x"):rep(99) .. "\n", "")
    assert.equal(20000, whole)
    assert.equal(20000 * 100, #out.stdout)
    contains(out.stderr, "1 1\n", "2 memory\n", "3 3\n")
  end)

  it("that are killed at rest are replaced without anybody noticing", function()
    local pid = app:func(function()
      local ffi = require "ffi"
      if not pcall(ffi.typeof, "tidepool_spec_pid") then ffi.cdef "typedef int tidepool_spec_pid; int getpid(void);" end
      return ffi.C.getpid()
    end)
    for _ = 1, 5 do
      os.execute("kill -9 " .. pid:remote())
      assert.equal("number", type(pid:remote()))
    end
  end)

  it("that were to replace others may be killed, too", function()
    local out = support.run_script([[
      local ffi, tidepool = require "ffi", require "tidepool"
      ffi.cdef "int getpid(void); int kill(int, int);"
      local app = tidepool.App("x", { executor = "processes", crash_retries = 0 })
      local double = app:func(function(x)
        require "tidepool".sleep(0.002)
        return 2 * x
      end)
      local die = app:func(function() require("ffi").cast("int *", 0)[0] = 1 end)
      local function children()
        local pids = {}
        for thread in io.popen("ls /proc/" .. ffi.C.getpid() .. "/task"):lines() do
          local file = io.open(("/proc/%d/task/%s/children"):format(ffi.C.getpid(), thread))
          for pid in (file and file:read "*a" or ""):gmatch "%d+" do
            local stat = io.open("/proc/" .. pid .. "/stat")
            if stat and stat:read("*a"):find("tidepool-worker", 1, true) then pids[#pids + 1] = tonumber(pid) end
            if stat then stat:close() end
          end
          if file then file:close() end
        end
        return pids
      end
      local most = 0
      for _ = 1, 5 do
        pcall(die.remote, die)
        pcall(die.remote, die)
        local sum = 0
        for _, y in double:map(tidepool.range(20)) do sum = sum + y end
        if sum ~= 420 then print("wrong", sum) end
        tidepool.sleep(0.05) -- processes that are starting are not workers yet, and one that cannot is told of
        most = math.max(most, #children())
        for _, pid in ipairs(children()) do ffi.C.kill(pid, 9) end
      end
      print(double:remote(21), most <= 4)
    ]], { workers = 2 })
    assert.equal("42\ttrue\n", out.stdout)
    assert.equal(0, out.code)
  end)

  it("are replaced after as many inputs as `recycle` says", function()
    local f = app:func({ recycle = 3 }, function()
      local ffi = require "ffi"
      if not pcall(ffi.typeof, "tidepool_spec_pid") then ffi.cdef "typedef int tidepool_spec_pid; int getpid(void);" end
      return ffi.C.getpid()
    end)
    local times = {}
    for _, pid in f:map(numbers(30)) do times[pid] = (times[pid] or 0) + 1 end
    local n = 0
    for _, many in pairs(times) do
      assert.is_true(many <= 3)
      n = n + 1
    end
    assert.is_true(n >= 10)
    local g = tidepool.App("t"):func({ max_inputs = 1 }, function() return tidepool.current().executor end)
    assert.equal("processes", g:remote())
  end)
end)

-- The script's own thread hands a little work to processes itself, once it is known to be little.
describe("A little work", function()
  --- Has f run so often that the script hands its inputs over itself.
  local function warm(f, ...)
    for _ = 1, 200 do f:remote(...) end
  end

  --- Computes until `is_true()`, without a wait. False when that takes too long.
  local function compute_until(is_true)
    local deadline = tidepool.now() + 60
    while not is_true() do
      if tidepool.now() > deadline then return false end
    end
    return true
  end

  --- Does whatever its argument says: adds, dies, spins for ever or for so many seconds, fails.
  local function obey(what)
    if what == "die" then require("ffi").cast("int *", 0)[0] = 1 end
    if what == "fail" then error "told to" end
    if type(what) == "string" then while true do end end
    if what < 1 then
      local until_then = os.clock() + what
      while os.clock() < until_then do end
    end
    return what + 1
  end

  it("that dies, hangs or fails costs the input that did it, and no other an attempt", function()
    local f = app:func({ timeout = 2, crash_retries = 0 }, obey)
    for _ = 1, 2 do
      warm(f, 1)
      assert.equal("crash", failure_of(f.remote, f, "die").kind)
      warm(f, 1)
      local failure = failure_of(f.remote, f, "hang")
      assert.same({ "timeout", 1 }, { failure.kind, failure.attempts })
      warm(f, 1)
      contains(failure_of(f.remote, f, "fail").message, "told to")
      warm(f, 1)
      local got = collect(f:map({ 1, 2, "die", 4, 5 }, { return_exceptions = true }))
      assert.same({ 2, 3, 5, 6 }, { got[1], got[2], got[4], got[5] })
      assert.same({ "crash", 3, 1 }, { got[3].kind, got[3].index, got[3].attempts })
    end
    support.check_pool()
  end)

  it("goes on while the script computes, and is ended in time", function()
    local f = app:func({ timeout = 2 }, obey)
    for _ = 1, 2 do
      warm(f, 1)
      local calls = {}
      for i = 1, 50 do calls[i] = f:spawn(i) end
      for i = 1, 50 do assert.is_true(compute_until(function() return calls[i]:done() end)) end
      for i = 1, 50 do assert.equal(i + 1, calls[i]:get()) end
      warm(f, 1)
      local call = f:spawn "hang"
      assert.is_true(compute_until(function() return call:done() end))
      assert.equal("timeout", failure_of(call.get, call).kind)
    end
  end)

  it("does not wait for what takes longer than was thought", function()
    local f = app:func(obey)
    warm(f, 1)
    local long, short = f:spawn(0.5), f:spawn(1)
    assert.is_true(compute_until(function() return short:done() end))
    assert.is_false(long:done())
    assert.equal(2, short:get())
    warm(f, 1)
    long, short = f:spawn(0.5), f:spawn(1)
    assert.equal(2, short:get())
    assert.same({ 1.5, 1.5 }, { long:get(), f:remote(0.5) })
  end)

  it("that is cancelled is ended, and so is what a script leaves", function()
    local f = app:func(obey)
    warm(f, 1)
    local call = f:spawn "hang"
    call:cancel()
    assert.equal("cancelled", failure_of(call.get, call).kind)
    warm(f, 1)
    local out = support.run_script([[
      local tidepool = require "tidepool"
      local f = tidepool.App("x", { executor = "processes" }):func(function(x)
        while x == "hang" do end
        return x
      end)
      for i = 1, 200 do assert(f:remote(i) == i) end
      f:spawn "hang"
      print "left"
      os.exit(0)
    ]], { workers = 2 })
    assert.equal("left\n", out.stdout)
    assert.equal(0, out.code)
  end)

  it("in large pieces, of any kind, comes back whole", function()
    local f = app:func(function(x) return x end)
    warm(f, 1)
    for _ = 1, 20 do
      local n = math.random(1, 5000)
      local list = f:map(numbers(n)):list()
      for i = 1, n do assert.equal(i, list[i]) end
      local text = ("x"):rep(math.random(1, 3000000))
      assert.equal(text, f:remote(text))
      assert.same({ { n } }, { f:remote { n } })
    end
  end)
end)
