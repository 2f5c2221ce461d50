--- A device that cannot be stopped: what was given up goes on there, and the session stays, and
-- says so.

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

local on_pocl = devices.on_pocl(it, pending)

local PRELUDE = [[
  tidepool = require "tidepool"
  app = tidepool.App()
  endless = app:func { gpu = "cpu", name = "endless" } (function(x) while x > 0 do x = x + 1 end return x end)
  double = app:func { gpu = "cpu", name = "double" } (function(x) return 2 * x end)
  spare = app:func { gpu = { "cpu", "threads" }, name = "spare" } (function(x) return 2 * x end)
]]

describe("a device that runs what was given up", function()
  on_pocl("fails later maps with kind device, at the user's line", function()
    local done = shell.run("$T job.lua", { ["job.lua"] = PRELUDE .. [[
      print(double:map({ 1, 2 }):list()[2], endless:map({ 0 }):list()[1]) -- both are compiled
      local results = endless:spawn_map { 1 }
      tidepool.sleep(1)
      results:cancel()
      local fine, why = pcall(function()
        return double:map({ 1, 2 }):list()
      end)
      print(fine, why.kind, why.message)
      print(spare:map({ 1, 2 }):list()[2])
      os.exit(0)
    ]] })
    assert.same({ 0, "" }, { done.code, done.stderr })
    contains(done.stdout, "4\t0\nfalse\tdevice\tjob.lua:11: double: ",
      " still runs a map or a kernel that was given up, and OpenCL cannot stop it: wait for it, use another device, or end the program\n4\n")
  end)

  on_pocl("runs them when that has ended after all", function()
    local done = shell.run("$T job.lua", { ["job.lua"] = PRELUDE .. [[
      local slow = app:func { gpu = "cpu", name = "slow" } (function(n)
        local x = 0.5
        for i = 1, n do x = math.sin(x) + 1 end
        return x
      end)
      slow:map({ 1 }):list()
      local results = slow:spawn_map { 2e7 } -- a second or less
      tidepool.sleep(0.1)
      results:cancel()
      for _ = 1, 100 do
        local fine, list = pcall(function() return double:map({ 1, 2 }):list() end)
        if fine then print(list[2]) os.exit(0) end
        assert(list.kind == "device")
      end
    ]] })
    assert.same({ 0, "4\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  on_pocl("does not take the session with it, in a map or by hand", function()
    local dir = support.temp_dir()
    local file = assert(io.open(dir .. "/prelude.lua", "w"))
    file:write(PRELUDE, [[
      d = tidepool.gpu.device "cpu"
      b = d:buffer("int32", 1)
      k = d:kernel "__kernel void turn(__global volatile int *x) { while (x[0] == 0) ; }"
      b:write { 1 }
      k(1, b)
      print("ready", b:read()[1])
    ]])
    file:close()
    local session = shell.terminal(("XDG_STATE_HOME=%s $T -i %s/prelude.lua"):format(dir, dir), "")
    session:wait "ready"
    session:wait ">"
    session:line("b:write { 0 }; print('g' .. 'o'); k(1, b); b:read()", "\ngo\n")
    support.sleep(0.3)
    session:press("C-c", "still runs kernel 'turn'")
    session:line("'still ' .. 'here'", "still here")
    session:line("b:read()", "buffer:read: ")
    session:line("double:map({ 1 }):list()", "stdin:1: double: ")
    session:line("os.exit(0)", "[ended 0]")
    session:close()
  end)
end)
