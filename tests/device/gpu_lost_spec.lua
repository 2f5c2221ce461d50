--- Devices that lose all that is on them, as after a fault of a kernel or a reset of a card
-- (not stock: the same code runs there).
--
-- Each in a process of its own, with an OpenCL whose contexts die when they are told to:
-- tests/opencl/faults.c.

local card = require "tests.support_card"

local script = card.scripts(it, pending, [[
local LOST = "NAME: FAULT, and the device lost all that was on it; the next map or kernel opens it anew"
local function expect(text, f, ...)
  local got = fails(f, ...)
  if got ~= text then error(("expected %q, got %q"):format(text, got), 2) end
end
]])

describe("A device that loses all that is on it", function()
  local AGAIN = [[
    local n = 5000
    local xs, table_ = numbers(n), numbers(1000)
    local f = app:func { name = "f" } (function(x) return x + table_[3] end)
    local g = app:func { name = "g" } (function(x) return 2 * x end)
    local function check()
      local a = f:map(xs):array()
      for i = 1, n do assert(a[i] == i + 3) end
      assert(g:map(f:map(xs)):sum() == n * (n + 1) + 6 * n)
    end
    check()
    for deaths = 1, 3 do
      faults.faults_kill_all()
      expect(LOST, function() f:map(xs):list() end)
      check()
      assert(faults.faults_deaths() == deaths)
    end
    f, g, check = nil
    for i = 1, 100 do
      collectgarbage()
      if faults.faults_contexts() == 1 then break end
      tidepool.sleep(0.05)
    end
    assert(faults.faults_contexts() == 1)
  ]]
  script("fails one map, and runs the next, again and again; what was lost is released", AGAIN)
  script("does so where memory is the host's, too", AGAIN, "FAULTS_NONE=1")

  script("is opened anew for functions that it had not compiled, without a failure", [[
    local function f(by)
      return app:func(assert(loadstring("return function(x) return x + " .. by .. " end"))())
    end
    assert(f(1):map(tidepool.range(100)):sum() == 5150)
    faults.faults_kill_all()
    assert(f(2):map(tidepool.range(100)):sum() == 5250)
    faults.faults_kill_all()
    assert(tidepool.gpu.device():buffer("double", 10):sum() == 0)
  ]])

  script("fails the inputs that it could not run, each in its place", [[
    local n, n_failed = 30000, 0
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    assert(f:map(tidepool.range(n)):sum() == n * (n + 3) / 2)
    for call = 1, 12, 2 do
      local at, failed = 0, 0
      for i, v in f:map(tidepool.range(n), { window = 5000, return_exceptions = true }) do
        at = at + 1
        assert(i == at)
        if tidepool.is_failure(v) then
          failed = failed + 1
          assert(v.kind == "device" and v.index == i and say(v) == LOST, tostring(v))
        else
          assert(v == i + 1)
        end
        if i == 10000 then faults.faults_kill(call) end
      end
      assert(at == n and faults.faults_deaths() == (call + 1) / 2 and failed < n - 5000)
      n_failed = n_failed + failed
      -- it may have died when the last results were there
      pcall(function() f:map { 1 }:list() end)
      assert(f:map(tidepool.range(n)):sum() == n * (n + 3) / 2)
    end
    assert(n_failed > 0)
  ]])

  script("fails inputs that only it has with what they are, or with none when it has lost them", [[
    local n, n_lost = 5000, 0
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local function tried(fail)
      local b = tidepool.gpu.device():buffer("double", n):fill(7)
      fail()
      local fine, list = pcall(function() return f:map(b, { return_exceptions = true }):list() end)
      faults.faults_fail(0)
      faults.faults_kill(0)
      return fine and list or {}
    end
    assert(tried(function() end)[n] == 8)
    for i, v in ipairs(tried(function() faults.faults_fail(100) end)) do
      assert(v.kind == "device" and v.index == i and v.input[1] == 7 and v.input.n == 1)
    end
    for call = 1, 20 do
      for _, v in ipairs(tried(function() faults.faults_kill(call) end)) do
        if v ~= 8 then
          assert(v.kind == "device" and (v.input == nil or v.input[1] == 7))
          n_lost = n_lost + (v.input and 0 or 1)
        end
      end
      pcall(function() f:map({ 1 }):list() end)
      pcall(function() tidepool.gpu.device():buffer("double", 1):sum() end)
    end
    assert(n_lost > 0)
  ]])

  script("fails maps, or not, with the right results, whenever it dies; and the next map is right", [[
    local n = 40000
    local xs, out = numbers(n), tidepool.array("double", n)
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local g = app:func { name = "g" } (function(x) return 2 * x end)
    local w = app:func { name = "w" } (function(x) out[x] = 3 * x return x end)
    local kinds = {
      function() return g:map(f:map(xs)):array(), function(i) return 2 * (i + 1) end end,
      function() return g:map(f:map(xs):buffer()):array(), function(i) return 2 * (i + 1) end end,
      function() w:for_each(xs) return out, function(i) return 3 * i end end,
    }
    local n_failed = 0
    for _, run in ipairs(kinds) do
      local function check()
        out:fill(0)
        local a, of = run()
        for i = 1, n, 7 do assert(a[i] == of(i), i) end
      end
      check()
      for call = 1, 21, 3 do
        local before = faults.faults_deaths()
        faults.faults_kill(call)
        local fine, why = pcall(check)
        assert(fine or tostring(why):find("the device lost all", 1, true) or tostring(why):find("the device has lost", 1, true), tostring(why))
        n_failed = n_failed + (fine and 0 or 1)
        faults.faults_kill(0)
        if fine and faults.faults_deaths() > before then pcall(check) end -- it is noticed now
        check()
      end
    end
    assert(n_failed > 0)
  ]])

  script("leaves to other devices, and to workers, what they can run", [[
    local n = 60000
    local xs = numbers(n)
    for _, gpu in ipairs { "cpu:2", { "cpu", "threads" }, { "cpu:2", "threads" } } do
      local f = app:func { gpu = gpu } (function(x) return 2 * x end)
      for call = 1, 9, 2 do
        assert(f:map(tidepool.range(n)):sum() == n * (n + 1))
        local before = faults.faults_deaths()
        faults.faults_kill_on(call, call % 4 == 1 and 0 or 1)
        local list = f:map(tidepool.range(n)):list()
        for i = 1, n do assert(list[i] == 2 * i) end
        faults.faults_kill(0)
      end
    end
    assert(faults.faults_deaths() > 0)
  ]], "FAULTS_COPIES=1 POCL_DEVICES='pthread pthread'")

  script("leaves gpu = \"auto\" to the workers, also when it cannot be opened again", [[
    local n = 200000
    local f = app:func { gpu = "auto" } (function(x)
      local y = x
      for _ = 1, 20 do y = math.sin(y) + x end
      return y
    end)
    local plain = tidepool.App():func(f.raw):map(tidepool.range(n)):list()
    for round = 1, 6 do
      -- compiles it for the device as it is now: threads would run it alone for a second
      pcall(function() tidepool.App():func { gpu = true } (f.raw):map({ 1 }):list() end)
      local results = f:map(tidepool.range(n))
      if round > 1 then faults.faults_kill(3 * round) end
      if round == 4 then faults.faults_lock(1) end
      if round == 6 then faults.faults_lock(0) end
      local list = results:list()
      faults.faults_kill(0)
      for i = 1, n, 100 do assert(math.abs(list[i] - plain[i]) < 1e-9) end
    end
  ]])

  script("says why it cannot be opened, as long as that is so", [[
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local g = app:func { name = "g", gpu = { "cpu", "threads" } } (function(x) return x + 1 end)
    assert(f:map({ 1 }):list()[1] == 2 and g:map({ 1 }):list()[1] == 2)
    faults.faults_kill_all()
    faults.faults_lock(1)
    expect(LOST, function() f:map({ 1 }):list() end)
    for _ = 1, 2 do
      assert(fails(function() f:map({ 1 }):list() end):find "f: NAME: FAULT$")
      assert(g:map({ 1 }):list()[1] == 2)
    end
    faults.faults_lock(0)
    assert(f:map({ 1 }):list()[1] == 2 and g:map({ 1 }):list()[1] == 2)
  ]])

  script("of which only queues have died keeps what it has", [[
    local n = 1000
    local xs = numbers(n)
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local device = tidepool.gpu.device()
    local b = device:buffer(xs)
    local kept = f:map(xs):buffer()
    faults.faults_kill_queues()
    local function soon(fn) -- each of its threads has a queue, and fails once
      for _ = 1, 4 do
        local fine, value = pcall(fn)
        if fine then return value end
      end
      return fn()
    end
    local a = soon(function() return f:map(xs):array() end)
    local back = soon(function() return b:read() end)
    for i = 1, n do assert(a[i] == i + 1 and back[i] == i) end
    assert(soon(function() return kept:sum() end) == n * (n + 1) / 2 + n)
    assert(faults.faults_contexts() == 1)
  ]])
end)

describe("What only a lost device had", function()
  script("is missed by name and line, and what the script has goes there again", [[
    local n = 20000
    local xs = numbers(n)
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local here = f:map(xs):array()
    local results, later = f:map(xs), f:map(xs)
    while not (results:done() and later:done()) do tidepool.sleep(0.01) end
    faults.faults_kill_all()
    local GONE = "job.lua:%d: f: NAME: the device has lost 160000 bytes of results that only it had (FAULT): run their map again"
    local line = debug.getinfo(1, "l").currentline
    expect(GONE:format(line + 1), function() results:array() end)
    expect(GONE:format(line + 1), function() results:array() end)
    expect(GONE:format(line + 3), function() for _ in later do end end)
    for _, a in ipairs { xs, here } do
      local before = faults.faults_moved(0)
      local b = f:map(a):array()
      for i = 1, n do assert(b[i] == a[i] + 1) end
      assert(faults.faults_moved(0) - before == 8 * n)
    end
    local b = f:map(xs):buffer()
    faults.faults_kill_all()
    assert(fails(function() return f:map(f:map(b)):array() end):find "NAME")
    expect("job.lua:" .. line + 14 .. ": Function:map: NAME has lost the buffer, and all that was in it (FAULT): make it again",
      function() f:map(b):list() end)
    assert(f:map(f:map(xs):buffer()):buffer():sum() == n * (n + 1) / 2 + 2 * n)
  ]])

  script("may be forgotten, with the results that have told of it", [[
    local n = 20000
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    for deaths = 1, 3 do
      local results = f:map(numbers(n), { return_exceptions = true })
      while not results:done() do tidepool.sleep(0.01) end
      faults.faults_kill_all()
      local i, v = results:next()
      assert(i == 1 and v.kind == "device" and v.message:find("results that only it had", 1, true), tostring(v))
      results = nil
      collectgarbage()
      collectgarbage()
      assert(faults.faults_deaths() == deaths)
    end
    assert(f:map({ 1 }):list()[1] == 2)
  ]])

  script("is what maps have written to arrays, which the script may set anew", [[
    local n = 10000
    local out = tidepool.array("double", n)
    local f = app:func(function(x) out[x] = x + 1 end)
    f:for_each(tidepool.range(n))
    faults.faults_kill(5)
    expect(LOST, function() f:for_each(tidepool.range(n)) end)
    for i = 1, n do out[i] = 7 end
    local g = app:func(function(x) return out[x] end)
    assert(g:map(tidepool.range(n)):sum() == 7 * n)
    f:for_each(tidepool.range(n))
    assert(g:map(tidepool.range(n)):sum() == n * (n + 1) / 2 + n)
  ]])

  script("is buffers, but not kernels", [[
    local n = 4096
    local device = tidepool.gpu.device()
    local SOURCE = "__kernel void add(__global double *a, double by) { a[get_global_id(0)] += by; }"
    local add = device:kernel(SOURCE)
    for call = 1, 6 do -- when it is started, while it runs, and when its buffer is read
      local b = device:buffer(numbers(n))
      add(n, b, 1)
      assert(b:read()[n] == n + 1)
      local part = b:slice(129, 256)
      faults.faults_kill(call)
      local text = fails(function() for _ = 1, 3 do add(n, b, 1) end return b:read() end)
      assert(text:find "FAULT" and text:find "^job.lua:%d+: ", text)
      assert(faults.faults_deaths() == call)
      local where, GONE = "job.lua:%d: %s: ", "NAME has lost %s, and all that was in it (FAULT): make it again"
      local line = debug.getinfo(1, "l").currentline
      expect((where .. GONE):format(line + 1, "kernel 'add'", "the buffer of argument 1"), function() add(n, b, 1) end)
      expect((where .. GONE):format(line + 2, "buffer:read", "the buffer"), function() b:read() end)
      expect((where .. GONE):format(line + 3, "buffer:fill", "the buffer"), function() b:fill(1) end)
      expect((where .. GONE):format(line + 4, "buffer:slice", "the buffer"), function() b:slice(1, 128) end)
      expect((where .. GONE):format(line + 5, "buffer:write", "the buffer"), function() part:write(numbers(10)) end)
      expect((where .. GONE):format(line + 6, "buffer:write", "the buffer"), function() device:buffer("double", n):write(b) end)
      assert(device:kernel(SOURCE) == add)
    end
    local b = device:buffer(numbers(n))
    add(n, b, 1)
    assert(b:read()[n] == n + 1)
  ]])

  script("is lost for workers that drive it, too, and then made again", [[
    local SOURCE = "__kernel void add(__global double *a) { a[get_global_id(0)] += 1; }"
    local f = app:func { executor = "threads" } (function(x)
      local device = tidepool.gpu.device()
      local b = device:buffer("double", { x })
      device:kernel(SOURCE)(1, b)
      return b:read()[1]
    end)
    local function check()
      for i, v in ipairs(f:map({ 1, 2, 3, 4 }):list()) do assert(v == i + 1) end
    end
    check()
    for _ = 1, 2 do
      faults.faults_kill_all()
      -- an item of each worker may be the first to notice it
      for _, v in ipairs(f:map({ 1, 2, 3, 4 }, { return_exceptions = true }):list()) do
        assert(not tidepool.is_failure(v) or tostring(v):find("lost", 1, true), tostring(v))
      end
      for _ = 1, 4 do pcall(check) end
      check()
    end
  ]])
end)
