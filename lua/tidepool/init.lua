--- Tidepool: Lua functions in parallel. What `require "tidepool"` gives.

local app = require "tidepool.app"
local array = require "tidepool.array"
local check = require "tidepool.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local gather = require "tidepool.gather"
local inputs = require "tidepool.inputs"
local loop = require "tidepool.loop"
local task = require "tidepool.task"

---@class tidepool
local tidepool = {
  _VERSION = core.version,
  App = app.new,
  array = array.new,
  range = inputs.range,
  iter = inputs.iter,
  is_failure = failure.is_failure,
  async = task.async,
  sleep = loop.sleep,
  gather = gather.gather,
  wait = gather.wait,
  as_completed = gather.as_completed,
}

--- Inside a mapped function: which item runs, and where. nil outside of one.
---@return table?  { index, attempt, function_name, worker, executor }
function tidepool.current()
  local index, attempt, function_name, worker, executor = core.current()
  if not index then return nil end
  return { index = index, attempt = attempt, function_name = function_name, worker = worker, executor = executor }
end

--- Makes a class known: tables with this metatable then travel to workers and back, with their methods.
---@param name string
---@param metatable table
---@return table metatable
function tidepool.class(name, metatable)
  if type(name) ~= "string" or name == "" then check.fail("tidepool.class: expected a name, got %s", check.show(name)) end
  if type(metatable) ~= "table" then check.fail("tidepool.class: expected a metatable, got %s", check.a(type(metatable))) end
  core.add_class(name, metatable, true)
  return metatable
end

--- The OpenCL devices of this machine, the best first: those that option gpu can name.
---@return table    list of { name, platform, vendor, type, compute_units, memory, fp64, version, driver }
---@return string?  why there are none
function tidepool.devices()
  return require("tidepool.gpu").devices()
end

--- Seconds on a clock that only goes forward: for measuring.
---@return number
function tidepool.now()
  return core.now()
end

--- Worker threads that this host may have.
---@return integer
function tidepool.workers()
  return core.workers()
end

--- Runs until all tasks have ended and everything that was spawned is done; the binary does so at the end of a script.
---@return table  the failures of calls and tasks that nobody has asked for
function tidepool.loop()
  return loop.finish()
end

core.add_builtins("tidepool", tidepool)

-- tidepool.gpu is loaded when it is used.
setmetatable(tidepool, { __index = function(_, key)
  if key == "gpu" then return require "tidepool.gpu" end
end })

return tidepool
