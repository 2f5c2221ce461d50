--- A device that cannot be stopped: what was given up goes on there; later maps run beside it where
-- it has room, in its context or a new one; else they say so, and the session stays
-- (not stock: it starts programs of ours).

local card = require "tests.support_card"
local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

local on_pocl = devices.on_pocl(it, pending)

-- PoCL with so many threads, by all names that its versions have for that.
local function threads(n)
  return ("POCL_MAX_PTHREAD_COUNT=%d POCL_CPU_MAX_CU_COUNT=%d "):format(n, n)
end

local PRELUDE = [[
  tidepool = require "tidepool"
  app = tidepool.App()
  endless = app:func { gpu = "cpu", name = "endless" } (function(x) while x > 0 do x = x + 1 end return x end)
  double = app:func { gpu = "cpu", name = "double" } (function(x) return 2 * x end)
  spare = app:func { gpu = { "cpu", "threads" }, name = "spare" } (function(x) return 2 * x end)
  -- Waits until a kernel, which is compiled, has run for a while: nothing else takes a processor.
  function until_it_runs(results, seconds)
    local before = os.clock()
    repeat tidepool.sleep(0.01) until os.clock() - before > (seconds or 0.2) or results:done()
  end
]]

local NOTHING_BESIDE = " still runs a map or a kernel that was given up, OpenCL cannot stop it, and nothing runs there beside it: wait for it, " ..
  "use another device, have processes run what may not end (executor = \"processes\", with a timeout), or end the program\n"

describe("a device that runs what was given up", function()
  on_pocl("fails later maps with kind device, at the user's line, where nothing runs beside it, nor on one with the same threads", function()
    local done = shell.run(threads(1) .. "POCL_DEVICES='pthread pthread' $T job.lua", { ["job.lua"] = PRELUDE .. [[
      local both = app:func { gpu = "cpu:2", name = "both" } (double.raw)
      print(double:map({ 1, 2 }):list()[2], both:map({ 1, 2 }):list()[2], endless:map({ 0 }):list()[1]) -- all are compiled
      local results = endless:spawn_map { 1 }
      until_it_runs(results)
      results:cancel()
      for _, f in ipairs { double, both } do
        local fine, why = pcall(function()
          return f:map({ 1, 2 }):list()
        end)
        print(fine, why.kind, why.message)
      end
      print(spare:map({ 1, 2 }):list()[2], tidepool.devices()[1].is_stuck)
      local fine, why = pcall(function() return tidepool.gpu.device "cpu":buffer("double", 1) end)
      print(fine, why.kind, why.message)
      os.exit(0)
    ]] })
    assert.same({ 0, "" }, { done.code, done.stderr })
    contains(done.stdout, "4\t4\t0\nfalse\tdevice\tjob.lua:18: double: ", NOTHING_BESIDE .. "false\tdevice\tjob.lua:18: both: ",
      " shares its threads with another device, ", ", which" .. NOTHING_BESIDE .. "4\ttrue\nfalse\tdevice\tjob.lua:23: ", NOTHING_BESIDE)
  end)

  on_pocl("runs them beside it where it has a thread left, and scripts end as ever", function()
    for rounds, ending in ipairs { "os.exit(0)", "return" } do
      local done = shell.run(threads(4) .. "$T job.lua", { ["job.lua"] = PRELUDE .. [[
        print(double:map({ 1, 2 }):list()[2], endless:map({ 0 }):list()[1])
        for _ = 1, ]] .. rounds .. [[ do
          local results = endless:spawn_map { 1 }
          until_it_runs(results)
          results:cancel()
          print(double:map({ 1, 2 }):list()[2], tidepool.devices()[1].is_stuck)
        end
        local d = tidepool.gpu.device "cpu"
        local b = d:buffer("int32", { 7 })
        d:kernel "__kernel void add(__global int *x) { x[0]++; }" (1, b)
        print(b:read()[1])
      ]] .. ending })
      assert.same({ 0, "4\t0\n" .. ("4\tfalse\n"):rep(rounds) .. "8\n", "" }, { done.code, done.stdout, done.stderr })
    end
  end)

  on_pocl("runs them when that has ended after all", function()
    local done = shell.run(threads(1) .. "$T job.lua", { ["job.lua"] = PRELUDE .. [[
      local slow = app:func { gpu = "cpu", name = "slow" } (function(n)
        local x = 0.5
        for i = 1, n do x = math.sin(x) + 1 end
        return x
      end)
      slow:map({ 1 }):list()
      local results = slow:spawn_map { 2e7 } -- a second or less
      until_it_runs(results, 0.05)
      results:cancel()
      for _ = 1, 100 do
        local fine, list = pcall(function() return double:map({ 1, 2 }):list() end)
        if fine then print(list[2]) os.exit(0) end
        assert(list.kind == "device")
      end
    ]] })
    assert.same({ 0, "4\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  --- A session in which a kernel by hand was interrupted, while b was read on `queue`.
  local function interrupted(n, queue)
    local dir = support.temp_dir()
    local file = assert(io.open(dir .. "/prelude.lua", "w"))
    file:write(PRELUDE, [[
      d = tidepool.gpu.device "cpu"
      b = d:buffer("int32", 1)
      other = d:buffer("int32", { 5 })
      k = d:kernel "__kernel void turn(__global volatile int *x) { while (x[0] == 0) ; }"
      b:write { 1 }
      k(1, b)
      after = d:queue():after(d)
      print("ready", b:read()[1], b:on(after):read()[1])
    ]])
    file:close()
    local session = shell.terminal(("XDG_STATE_HOME=%s %s $T -i %s/prelude.lua"):format(dir, threads(n), dir), "")
    session:wait "ready"
    session:wait ">"
    session:line("b:write { 0 }; k(1, b); after:after(d); print('g' .. 'o'); b" .. (queue or "") .. ":read()", "\ngo\n")
    support.sleep(0.3)
    session:press("C-c", "'turn',") -- a word, since the device's name decides where the line ends
    session:line("'still ' .. 'here'", "still here")
    return session
  end

  on_pocl("does not take the session with it, in a map or by hand", function()
    local session = interrupted(1)
    session:line("other:read()", "buffer:read: ")
    session:line("double:map({ 1 }):list()", "stdin:1: double: ")
    session:line("os.exit(0)", "[ended 0]")
    session:close()
  end)

  on_pocl("goes on in the session where it has a thread left", function()
    local session = interrupted(4)
    session:line("'got ' .. other:read()[1]", "got 5")
    session:line("'doubled ' .. double:map({ 21 }):list()[1]", "doubled 42")
    session:line("os.exit(0)", "[ended 0]")
    session:close()
  end)

  on_pocl("is given up by who waits for a queue behind it", function()
    local session = interrupted(4, ":on(after)")
    session:line("'got ' .. other:on(d:queue()):read()[1]", "got 5")
    session:line("os.exit(0)", "[ended 0]")
    session:close()
  end)
end)

-- stuck(f): a map of f of which the device does not come back, given up.
local scripts = card.scripts(it, pending, [[
local f = app:func { name = "f" } (function(x) return x + 1 end)
local g = app:func { name = "g" } (function(x) return x - 1 end)
local function stuck(f, input)
  local before = faults.faults_stalled()
  faults.faults_stall(0, 0)
  local results = f:spawn_map { input or 1 }
  while faults.faults_stalled() == before do tidepool.sleep(0.005) end
  results:cancel()
end
local function until_it_is(what)
  while not what() do
    collectgarbage()
    tidepool.devices()
    tidepool.sleep(0.01)
  end
end
]])

local function script(says, text, environment)
  scripts(says, text, environment or "FAULTS_CARD=1")
end

describe("a device that does not come back", function()
  local ABANDONED = [[
    local n = 20000
    local xs = numbers(n)
    -- on a processor launches wait for the first and for narrower ones of the same program
    assert(f:map(xs):array()[n] == n + 1 and g:map({ 1 }):list()[1] == 0)
    local d = tidepool.gpu.device()
    local b = d:buffer(xs)
    -- a second thread of the device, which has nothing to do when the first one hangs
    faults.faults_stall(200, 0)
    local slow = g:spawn_map { 1 }
    while faults.faults_stalled() == 0 do tidepool.sleep(0.005) end
    assert(f:map(xs):array()[n] == n + 1 and slow:list()[1] == 0)
    faults.faults_occupy(1)
    for round = 1, 2 do
      stuck(g)
      assert(f:map(xs):array()[n] == n + 1 and not tidepool.devices()[1].is_stuck)
      assert(d:buffer("double", { 3 }):read()[1] == 3)
      if round == 1 then
        assert(fails(b.read, b):find("NAME has lost the buffer, and all that was in it (it still runs a map or a kernel that was given up)", 1, true))
      end
      b = nil
      collectgarbage()
      collectgarbage()
      assert(faults.faults_contexts() == round + 1, faults.faults_contexts())
      assert(faults.faults_freed() == 0)
    end
    faults.faults_go_on()
    until_it_is(function() return faults.faults_contexts() == 1 end)
    assert(f:map(xs):array()[n] == n + 1)
  ]]
  script("is opened anew where a new context runs; the old one is freed when what it runs has ended", ABANDONED)
  script("is so where memory is the host's, too", ABANDONED, "FAULTS_NONE=1")

  script("has lost by name what only it had, when it is opened anew", [[
    local n = 20000
    local xs = numbers(n)
    local results, later = f:map(xs), f:map(xs)
    while not (results:done() and later:done()) do tidepool.sleep(0.01) end
    local kept = f:map(xs):buffer()
    faults.faults_occupy(1)
    stuck(f)
    assert(f:map({ 1 }):list()[1] == 2)
    local GONE = "f: NAME: the device has lost 160000 bytes of results that only it had (it still runs a map or a kernel that was given up): " ..
      "run their map again"
    for _ = 1, 2 do assert(fails(function() results:array() end):find(GONE, 1, true)) end
    assert(fails(function() for _ in later do end end):find(GONE, 1, true))
    assert(fails(function() f:map(kept):list() end):find("NAME has lost the buffer", 1, true))
    assert(f:map(f:map(xs)):sum() == n * (n + 1) / 2 + 2 * n)
    kept = nil
    faults.faults_go_on()
    until_it_is(function() return faults.faults_contexts() == 1 end)
    assert(fails(function() results:array() end):find(GONE, 1, true))
    assert(faults.faults_freed() == 0)
  ]])

  script("keeps what it has where its context runs other kernels", [[
    local n = 20000
    local xs = numbers(n)
    local results = f:map(xs)
    while not results:done() do tidepool.sleep(0.01) end
    local b = tidepool.gpu.device():buffer(xs)
    for _ = 1, 3 do -- more than it has threads
      stuck(f)
      assert(f:map({ 1 }):list()[1] == 2 and b:read()[n] == n)
    end
    assert(results:array()[n] == n + 1 and faults.faults_contexts() == 1)
    faults.faults_go_on()
    assert(f:map({ 1 }):list()[1] == 2)
  ]], "FAULTS_COPIES=1")

  script("that runs nothing else says so, and works again, with all it has, when it has come back", [[
    local n = 20000
    local xs = numbers(n)
    local results = f:map(xs)
    while not results:done() do tidepool.sleep(0.01) end
    faults.faults_occupy(2)
    stuck(f)
    for _ = 1, 2 do
      assert(fails(function() f:map({ 1 }):list() end):find("f: NAME still runs a map or a kernel that was given up, OpenCL cannot stop it, and " ..
        "nothing runs there beside it: ", 1, true))
    end
    assert(tidepool.devices()[1].is_stuck)
    faults.faults_go_on()
    until_it_is(function() return not tidepool.devices()[1].is_stuck end)
    assert(f:map({ 1 }):list()[1] == 2 and results:array()[n] == n + 1)
    until_it_is(function() return faults.faults_contexts() == 1 end)
  ]])

  script("with a map that writes into an array does not hold up others that do", [[
    local a = tidepool.array("double", 100)
    local w = app:func { name = "w" } (function(x) a[x] = x return x end)
    w:map({ 1, 2 }):list()
    for how = 0, 1 do
      faults.faults_occupy(how)
      stuck(w, 3)
      assert(w:map({ 4 + how }):list()[1] == 4 + how and a[4 + how] == 4 + how)
    end
    faults.faults_go_on()
    until_it_is(function() return faults.faults_contexts() == 1 end)
    a[5] = 50
    assert(w:map({ 6 }):list()[1] == 6 and a[6] == 6 and a[5] == 50 and a[4] == 4)
  ]])

  script("by hand, in a map that was cancelled, is opened anew for others", [[
    local d = tidepool.gpu.device()
    assert(d:buffer("double", { 3 }):read()[1] == 3)
    local by_hand = app:func { executor = "threads", name = "by_hand" } (function(x)
      local device = tidepool.gpu.device()
      local b = device:buffer("double", { x })
      device:kernel "__kernel void add(__global double *a) { a[0] += 1; }" (1, b)
      return b:read()[1]
    end)
    assert(by_hand:map({ 1 }):list()[1] == 2)
    faults.faults_occupy(1)
    stuck(by_hand)
    until_it_is(function() return tidepool.devices()[1].is_stuck end)
    assert(f:map({ 1 }):list()[1] == 2)
    assert(by_hand:map({ 1 }):list()[1] == 2)
    local freed = faults.faults_freed() -- what was garbage before it was opened anew
    assert(d:buffer("double", { 3 }):read()[1] == 3)
    collectgarbage()
    collectgarbage()
    assert(faults.faults_freed() == freed)
    faults.faults_go_on()
    for i, v in ipairs(by_hand:map({ 1, 2, 3, 4 }):list()) do assert(v == i + 1) end
    assert(not tidepool.devices()[1].is_stuck)
  ]])

  script("keeps nobody who lets go of a queue behind it, in a map that was cancelled", [[
    local d = tidepool.gpu.device()
    local behind = d:queue()
    local by_hand = app:func { executor = "threads", name = "by_hand" } (function(x)
      require "tidepool".sleep(0.02) -- so that all workers take some
      local b = d:buffer("double", { x })
      d:kernel "__kernel void add(__global double *a) { a[0] += 1; }" (1, b)
      behind:after(d)
      collectgarbage()
      collectgarbage()
      return b:read()[1]
    end)
    assert(by_hand:map({ 1 }):list()[1] == 2)
    faults.faults_occupy(1)
    stuck(by_hand)
    until_it_is(function() return tidepool.devices()[1].is_stuck end)
    assert(f:map({ 1 }):list()[1] == 2)
    for i, v in ipairs(by_hand:map(tidepool.range(40)):list()) do assert(v == i + 1) end
    faults.faults_go_on()
  ]])

  script("leaves a map over several to the others, and takes part when it is opened anew", [[
    local both = app:func { gpu = "any:2", name = "both" } (function(x) return 2 * x end)
    local n = 100000
    local xs = numbers(n)
    assert(#tidepool.devices() == 2 and both:map(xs):array()[n] == 2 * n)
    faults.faults_occupy(1)
    stuck(f)
    for _ = 1, 2 do assert(both:map(xs):array()[n] == 2 * n) end
    faults.faults_go_on()
    assert(both:map(xs):array()[n] == 2 * n)
  ]], "FAULTS_CARD=1 POCL_DEVICES='pthread pthread'")

  script("leaves what another one has written, which comes home when its map is left", [[
    local n = 20000
    local out = tidepool.array("double", n)
    local w = app:func { gpu = { "basic", "minimal" }, name = "w" } (function(x) out[x] = 3 * x return x end)
    local hung = app:func { gpu = { "pthread", "any" }, name = "hung" } (function(x) return x + 1 end)
    w:map({ 1 }):list()
    hung:map({ 1 }):list()
    out:fill(0)
    local results = w:map(tidepool.range(n), { window = 5000 })
    for i in results do
      if i == 3000 then break end
    end
    until_it_is(function() return results:progress().running == 0 end)
    stuck(hung)
    results = nil
    until_it_is(function() return out[3000] == 9000 end)
    faults.faults_go_on()
  ]], "FAULTS_CARD=1 POCL_DEVICES='pthread basic'")

  script("lets the program end, opened anew or not", [[
    faults.faults_occupy(1)
    stuck(f)
    assert(f:map({ 1 }):list()[1] == 2)
    faults.faults_occupy(2)
    stuck(f)
  ]])
end)
