--- Scripts on a device of PoCL whose OpenCL is ours (tests/opencl/faults.c): one that dies, stalls,
-- or is short of memory when it is told to. Each is a process of its own.

local assert = require "luassert"
local devices = require "tests.support_device"
local shell = require "tests.cli.shell"

local card = {}

-- What each script begins with. numbers(n, of): an array of n elements, of(i) or i. fails(f): what
-- f's error says in its first line, with NAME for the device and FAULT for what has failed.
local PRELUDE = [[
local ffi, tidepool = require "ffi", require "tidepool"
ffi.cdef "void faults_kill(int n); void faults_kill_on(int n, int device); void faults_kill_all(void); void faults_kill_queues(void);"
ffi.cdef "int faults_deaths(void); int faults_contexts(void); void faults_lock(int is); double faults_moved(int way);"
ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void); void faults_occupy(int how); void faults_go_on(void);"
ffi.cdef "void faults_stall_move(int way); void faults_stall_unmap(void);"
ffi.cdef "void faults_fail_move(int way, int n); int faults_refused(void);"
ffi.cdef "int faults_freed(void); double faults_held(void); void faults_fail_buffer(int n); void faults_fail(int n);"
local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
local app = tidepool.App("card", { gpu = "any" })
local name = tidepool.devices()[1].name
local function numbers(n, of)
  local a = tidepool.array("double", n)
  for i = 1, n do a[i] = of and of(i) or i end
  return a
end
local function say(why)
  local text = tostring(why):gsub("\n.*", "")
  local at = text:find(name, 1, true)
  text = at and text:sub(1, at - 1) .. "NAME" .. text:sub(at + #name) or text
  return (text:gsub("%l[%l ]+ failed: [%u_]+ %(%-%d+%)", "FAULT"))
end
local function fails(f, ...)
  local fine, why = pcall(f, ...)
  assert(not fine, "it did not fail")
  return say(why), why
end
]]

--- Runs a script, in what shell.run gives.
---@param environment string?  FAULTS_COPIES=1 by default: a processor with memory of its own
function card.run(text, environment)
  return shell.run(("%s TIDEPOOL_OPENCL=%s $T job.lua"):format(environment or "FAULTS_COPIES=1", devices.faults()), { ["job.lua"] = PRELUDE .. text })
end

--- A function for specs that run a script, which has to come to its end and print nothing:
--- script(says, text, environment).
---@param prelude string?  what each begins with
function card.scripts(it, pending, prelude)
  local on_pocl = devices.on_pocl(it, pending)
  return function(says, text, environment)
    on_pocl(says, function()
      local done = card.run((prelude or "") .. text .. "\nprint 'right'", environment)
      assert.same({ stderr = "", stdout = "right\n" }, { stderr = done.stderr, stdout = done.stdout })
    end)
  end
end

return card
