--- Tidepool: Lua functions in parallel. What `require "tidepool"` gives.

local app = require "tidepool.app"
local check = require "tidepool.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local interpret = require "tidepool.interpret"
local lazy = require "tidepool.lazy"
local loop = require "tidepool.loop"

local array, gather, inputs, task = lazy "tidepool.array", lazy "tidepool.gather", lazy "tidepool.inputs", lazy "tidepool.task"

---@class tidepool
---@field gpu { device: (fun(which: (true|string|table)?): tidepool.Device?), random: fun(seed: number, i: number, draw: number?): number }
local tidepool = {
  _VERSION = core.version,
  App = app.new,
  is_failure = failure.is_failure,
  sleep = loop.sleep,
}

-- What follows stands for functions of modules that are loaded when they are used.

--- A new typed array: of n zeros, or with the numbers of a list (or of another array).
---@param name string    "double", "float", "int8", "uint8", ... "int64", "uint64"
---@param from number|table
---@return tidepool.Array
function tidepool.array(name, from)
  return array.new(name, from)
end

--- Numbers from..to in steps, lazily; `to` may be infinite.
---@param from number  or the count when it is the only argument: 1..from
---@param to number?
---@param step number?    default: 1
---@return table
function tidepool.range(from, to, step)
  return inputs.range(from, to, step)
end

--- The three values of a generic for, as one input: tidepool.iter(pairs(t)).
---@param f function     gives the next control value, and what goes with it
---@param state any
---@param control any
---@return table
function tidepool.iter(f, state, control)
  return inputs.iter(f, state, control)
end

--- Runs fn(...) as a task: at once up to the first place where it waits, and on from there while others wait. Inside of it everything that
--- waits lets the others go on.
---@param fn function
---@param ... any     its arguments
---@return tidepool.Task
function tidepool.async(fn, ...)
  return task.async(fn, ...)
end

--- Waits for all; cancels the rest when one fails, and raises its failure.
---@param ... any  calls, tasks and maps, or one list of them; then options: { return_exceptions = true }
---@return any ...  the first value of each (of a map: its list); as one list when a list was given
function tidepool.gather(...)
  return gather.gather(...)
end

--- Waits until some have finished.
---@param calls table  a list of calls, tasks and maps
---@param given { n: integer?, timeout: number? }?  how many to wait for (1), how many seconds at most
---@return table finished, table rest  both in the order of the list
function tidepool.wait(calls, given)
  return gather.wait(calls, given)
end

--- Goes over calls, tasks or maps as they finish: for call in tidepool.as_completed(calls) do print(call:get()) end
---@param calls table  a list
---@return tidepool.AsCompleted  an iterator, to which more can be added
function tidepool.as_completed(calls)
  return gather.as_completed(calls)
end

interpret(tidepool.async, tidepool.gather) -- the first call loads a module before it passes `...` on

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
