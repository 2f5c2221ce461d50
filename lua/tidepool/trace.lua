--- Traces: everything that happens, written to a file for a viewer while it happens; and what
-- users' code adds to that.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local interpret = require "tidepool.base.interpret"
local loop = require "tidepool.engine.loop"

local trace = {}

local is_on = ffi.cast("const bool *", core.trace.flag())

---@class tidepool.Trace
---@field path string
local Trace = {}
Trace.__index = Trace
check.hints(Trace, "a trace", "is_over path")
Trace.__travels = "a Trace cannot travel to a worker: the script has it"
trace.Trace = Trace

function Trace:__tostring()
  return ("tidepool.Trace: %s"):format(self.path)
end

--- tidepool.trace.
function trace.start(path, extra)
  check.no_more(extra, "tidepool.trace", "the path of a file")
  if type(path) ~= "string" or path == "" then check.fail("tidepool.trace: expected the path of a file, got %s", check.show(path)) end
  if core.in_item then check.fail "tidepool.trace: only the script can trace; what its workers run is in its trace" end
  local fine, why = core.trace.start(path)
  if not fine then check.fail("tidepool.trace: %s", why) end
  return setmetatable({ path = path }, Trace)
end

--- Ends the file. After it has ended it does nothing.
---@return boolean?  true
---@return string?  nil and what is wrong when not all of it could be written
function Trace:stop(extra)
  if type(self) ~= "table" or getmetatable(self) ~= Trace then
    check.fail "trace.stop was called with a dot, or on something else: write trace:stop()"
  end
  check.no_more(extra, "trace:stop", "no arguments")
  if self.is_over then return true end
  self.is_over = true
  local fine, why = core.trace.stop()
  if why then return nil, why end
  return fine or true
end

--- The number of the task that runs, for its events; 0: none.
local function task_number()
  local task = not core.is_worker and loop.current()
  return task and task.number or 0
end

local function finish(task, ...)
  core.trace.finish(task)
  return ...
end

local function traced(name, fn, ...)
  local task = task_number()
  core.trace.span(name, task)
  -- a tail call, so that `finish` runs at the same stack depth as the call of core.trace.span
  return finish(task, fn(...))
end
interpret(traced, finish)

local function is_callable(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- tidepool.span.
function trace.span(name, fn, ...)
  if type(name) ~= "string" or name == "" then check.fail("tidepool.span: expected a name, got %s", check.show(name)) end
  if not is_callable(fn) then check.fail("tidepool.span: expected a function after the name, got %s", check.show(fn)) end
  if is_on[0] then return traced(name, fn, ...) end
  return fn(...)
end
interpret(trace.span)

--- tidepool.mark.
function trace.mark(name, value, extra)
  if type(name) ~= "string" or name == "" then check.fail("tidepool.mark: expected a name, got %s", check.show(name)) end
  if value ~= nil and type(value) ~= "number" and type(value) ~= "string" then
    check.fail("tidepool.mark: expected a number or a string as the value of %q, got %s", name, check.show(value))
  end
  check.no_more(extra, "tidepool.mark", "(name, value)")
  if is_on[0] then core.trace.mark(name, value, task_number()) end
end

return trace
