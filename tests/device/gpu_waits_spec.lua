--- Who need not wait for a device that hangs in a copy, or in giving memory back (not stock: the
-- same code runs there).
--
-- Each in a process of its own, on a card whose calls never return when they are told so:
-- tests/opencl/faults.c.

local assert = require "luassert"
local card = require "tests.support_card"
local devices = require "tests.support_device"
local support = require "tests.support"

-- n: elements of an array. stalls(by): waits until so many more calls hang than at first.
local script = card.scripts(it, pending, [[
local n = 100000
local f = app:func { name = "f" } (function(x) return x + 1 end)
local g = app:func { name = "g" } (function(x) return 2 * x end)
local function there(results)
  while not results:done() do tidepool.sleep(0.005) end
  return results
end
local function stalls(by)
  while faults.faults_stalled() < by do tidepool.sleep(0.005) end
end
local function collect()
  collectgarbage()
  collectgarbage()
end
local function check(list, by, plus, count)
  for i = 1, count or n, 7 do assert(list[i] == by * i + plus, i) end
end
]])

describe("A device that hangs", function()
  script("while it brings results home to make room does not keep who lets go of them", [[
    local later = there(f:map(numbers(n)))
    local many = numbers(2 * n)
    faults.faults_stall_move(1)
    local crowd = g:spawn_map(many)
    stalls(1)
    later:cancel()
    later = nil
    collect()
    faults.faults_go_on()
    check(crowd:list(), 2, 0, 2 * n)
  ]], "FAULTS_CARD=1 FAULTS_ROOM=3600000")

  script("in a copy to another one is abandoned by the maps that wait for it", [[
    local on = { app:func { name = "one", gpu = { "pthread", "any" } } (f.raw), app:func { name = "two", gpu = { "basic", "minimal" } } (g.raw) }
    on[1]:map({ 1 }):list()
    on[2]:map({ 1 }):list()
    local out = tidepool.array("double", n)
    local write = app:func { name = "write", gpu = { "pthread", "any" } } (function(x) out[x] = x return x end)
    local read = app:func { name = "read", gpu = { "basic", "minimal" } } (function(x) return out[x] end)
    local left = write:map(tidepool.range(n), { window = 5000 })
    for i in left do
      if i == 3000 then break end
    end
    while left:progress().running > 0 do tidepool.sleep(0.005) end
    faults.faults_stall_move(1)
    local maps = {} -- as many as the device has threads
    for k = 1, 4 do maps[k] = read:spawn_map { k } end
    stalls(1)
    faults.faults_occupy(1)
    faults.faults_stall(0, 0)
    local hung = on[1]:spawn_map { 1 }
    stalls(2)
    hung:cancel()
    assert(on[1]:map({ 1 }):list()[1] == 2) -- in a new life
    assert(on[2]:map({ 4 }):list()[1] == 8) -- by a thread that waits no longer
    faults.faults_go_on()
    local failed = 0
    for k = 1, 4 do
      local fine, list = pcall(maps[k].list, maps[k])
      failed = failed + (fine and 0 or 1)
      assert(fine and list[1] == k or not fine and list.message:find "the device has lost %d+ bytes", list)
    end
    assert(failed == 3) -- all but the one that was in the copy, which has ended after all
  ]], "FAULTS_CARD=1 POCL_DEVICES='pthread basic'")

  script("in giving back pinned memory, when a copy has failed, keeps nobody else", [[
    local other = there(f:map(numbers(n)))
    local on_thread = app:func { executor = "threads", name = "on a thread" } (function(x)
      local ffi, tidepool = require "ffi", require "tidepool"
      ffi.cdef "void faults_stall_unmap(void); void faults_fail_move(int way, int n);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      local xs = tidepool.array("double", x)
      local made = f:map(xs)
      while not made:done() do tidepool.sleep(0.005) end
      faults.faults_stall_unmap()
      faults.faults_fail_move(1, 1)
      return #made:array()
    end)
    local results = on_thread:spawn_map { n }
    stalls(1)
    check(other:list(), 1, 1)
    other = nil
    collect()
    faults.faults_go_on()
    assert(results:list()[1] == n) -- was tried again
  ]], "FAULTS_CARD=1")

  script("does not keep a buffer that is made by hand, for which memory is short", [[
    local xs = numbers(n)
    check(f:map(xs):list(), 1, 1) -- its threads have pinned memory now
    local device = tidepool.gpu.device()
    local alone = app:func { executor = "threads", name = "alone" } (function(x)
      local hung = g:spawn_map { x }
      require "tidepool".sleep(0.3)
      hung:cancel()
      return x
    end)
    faults.faults_occupy(3)
    faults.faults_stall(0, 0)
    local results = alone:spawn_map { 5 }
    stalls(1)
    local why = fails(function() device:buffer("double", 4.1e5) end)
    assert(why:find("no memory for a buffer of 3.1 MiB", 1, true), why)
    faults.faults_go_on()
    assert(results:list()[1] == 5)
  ]], "FAULTS_CARD=1 FAULTS_ROOM=3200000")

  script("in a compiler that is to try it keeps no map on another one", [[
    local on = { app:func { name = "one", gpu = { "pthread", "any" } } (f.raw), app:func { name = "two", gpu = { "basic", "minimal" } } (g.raw) }
    local gate = assert(os.getenv "FAULTS_BUILD_GATE")
    local function stuck()
      local before = faults.faults_stalled()
      faults.faults_stall(0, 0)
      local hung = on[1]:spawn_map { 1 }
      stalls(before + 1)
      hung:cancel()
    end
    io.open(gate, "w"):close()
    assert(on[1]:map({ 1 }):list()[1] == 2 and on[2]:map({ 1 }):list()[1] == 2)
    faults.faults_occupy(1)
    stuck()
    assert(on[2]:map({ 2 }):list()[1] == 4) -- was tried: it runs beside that
    local alone = app:func { executor = "threads", name = "alone" } (function(x) return on[1]:map({ x }):list()[1] end)
    assert(alone:map({ 1 }):list()[1] == 2)
    stuck()
    assert(on[2]:map({ 2 }):list()[1] == 4)
    os.remove(gate)
    local results = alone:spawn_map { 2 }
    tidepool.sleep(0.5)
    assert(on[2]:map({ 3 }):list()[1] == 6)
    io.open(gate, "w"):close()
    assert(results:list()[1] == 3)
    faults.faults_go_on()
  ]], "FAULTS_CARD=1 FAULTS_BUILD_GATE=$PWD/gate POCL_DEVICES='pthread basic'")

  script("and runs nothing beside that, copies neither, keeps no map that comes later", [[
    check(f:map(numbers(n)):list(), 1, 1) -- threads have pinned memory, which they give back after a while
    faults.faults_occupy(3)
    faults.faults_stall(0, 0)
    local hung = g:spawn_map { 1 }
    stalls(1)
    tidepool.sleep(3)
    hung:cancel()
    for _ = 1, 2 do assert(fails(function() f:map({ 1 }):list() end):find "f: NAME still runs a map or a kernel that was given up") end
    faults.faults_go_on()
    while tidepool.devices()[1].is_stuck do tidepool.sleep(0.01) end
    assert(f:map({ 1 }):list()[1] == 2)
  ]], "FAULTS_CARD=1")
end)

describe("Who waits for results that a device does not come to", function()
  devices.on_pocl(it, pending)("gives up at Ctrl-C, and has them later", function()
    local done = card.run([[
      local n, go = 20000, tidepool.array("double", 1)
      ffi.cdef "int kill(int, int); int getpid(void);"
      local press = tidepool.App():func { executor = "threads" } (function(pid)
        local ffi, tidepool = require "ffi", require "tidepool"
        ffi.cdef "int kill(int, int);"
        while go[1] == 0 do tidepool.sleep(0.01) end
        tidepool.sleep(1)
        ffi.C.kill(pid, 2)
        return 0
      end)
      local f = app:func { name = "f" } (function(x) return x + 1 end)
      local made = f:map(numbers(n))
      while not made:done() do tidepool.sleep(0.005) end
      faults.faults_occupy(4)
      faults.faults_stall(0, 0)
      local hung, pressed = f:spawn_map { 1 }, press:spawn_map { ffi.C.getpid() } -- held
      while faults.faults_stalled() < 1 do tidepool.sleep(0.005) end
      local why = fails(function()
        go[1] = 1
        made:array()
      end)
      faults.faults_go_on()
      print(why, made:array()[n], hung:list()[1], pressed:list()[1])
    ]], "FAULTS_CARD=1")
    assert.equal("job.lua:46: interrupted\t20001\t2\t0\n", done.stdout)
  end)

  script("gives up in an item of a map that was cancelled", [[
    local out = tidepool.array("double", 1)
    local alone = app:func { executor = "threads", name = "alone" } (function(x)
      local ffi, tidepool = require "ffi", require "tidepool"
      ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void); void faults_occupy(int how);"
      local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
      local made = f:map(tidepool.array("double", x))
      while not made:done() do tidepool.sleep(0.005) end
      faults.faults_occupy(4)
      faults.faults_stall(0, 0)
      local hung = g:spawn_map { 1 }
      while faults.faults_stalled() < 1 do tidepool.sleep(0.005) end
      out[1] = 1
      local fine = pcall(made.array, made)
      out[1] = fine and 2 or 3
    end)
    local results = alone:spawn_map { n }
    while out[1] < 1 do tidepool.sleep(0.005) end
    results:cancel()
    while out[1] < 2 do tidepool.sleep(0.005) end
    assert(out[1] == 3)
    faults.faults_go_on()
  ]], "FAULTS_CARD=1")
end)

-- One map reads here what another one writes, which is the script's own race: ThreadSanitizer sees
-- it.
if support.sanitized then return end

describe("An array that is on its way to a device", function()
  script("goes there again when another one has written to it meanwhile", [[
    local out, ones = tidepool.array("double", n), tidepool.array("double", 2, 1)
    local write = app:func { name = "write", gpu = { "pthread", "any" } } (function(x) out[x] = x return x end)
    local read = app:func { name = "read", gpu = { "basic", "minimal" } } (function(x) return out[x] end)
    write:map({ 1 }):list()
    read:map(ones):list()
    out:fill(0)
    faults.faults_stall_move(0)
    local results = read:spawn_map(ones)
    stalls(1)
    write:for_each(tidepool.range(n))
    faults.faults_go_on()
    results:list()
    assert(read:map(ones):list()[1] == 1 and out[1] == 1)
  ]], "FAULTS_CARD=1 POCL_DEVICES='pthread basic'")
end)
