--- A function that runs as a coroutine on the loop: tidepool.async.

local call = require "tidepool.call"
local check = require "tidepool.check"
local core = require "tidepool.core"
local describe = require "tidepool.describe"
local failure = require "tidepool.failure"
local interpret = require "tidepool.interpret"
local loop = require "tidepool.loop"

---@class tidepool.Task
local Task = {}
Task.__index = Task

local task = { Task = Task }

local function is_callable(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Runs fn(...) as a task: at once up to the first place where it waits, and on from there while others wait. Inside of it everything that
--- waits lets the others go on.
---@param fn function
---@param ... any     its arguments
---@return tidepool.Task
function task.async(fn, ...)
  if core.is_worker then check.fail "tidepool.async: a mapped function has no loop to run tasks on; use map or spawn" end
  if not is_callable(fn) then check.fail("tidepool.async: expected a function, got %s", check.show(fn)) end
  local self = setmetatable({ listeners = {} }, Task)
  loop.start(self, false, fn, ...)
  return self
end
interpret(task.async)

--- The loop's: the function has ended.
function Task:_end(fine, ...)
  self.is_over, self.fine = true, fine
  if fine then
    self.values = { n = select("#", ...), ... }
  else
    local trouble = ...
    self.values, self.traceback = { n = 1, trouble.value }, trouble.traceback
    if not (self.is_cancelled and failure.is_failure(trouble.value) and trouble.value.kind == "cancelled") then loop.set_failed(self) end
  end
  local listeners = self.listeners
  self.listeners = nil
  for _, entry in ipairs(listeners) do
    if entry.fn then entry.fn(entry.arg) end
  end
end

--- For loop.await.
function Task:_settle()
  return self.is_over or false
end

function Task:_watch(fn, arg)
  if self == loop.current() then check.fail "a task cannot wait for itself" end
  local entry = { fn = fn, arg = arg }
  self.listeners[#self.listeners + 1] = entry
  return entry
end

function Task:_unwatch(entry)
  entry.fn = nil
  local listeners = self.listeners
  if listeners and listeners[#listeners] == entry then listeners[#listeners] = nil end
end

--- When it is over: true and the values, or false and the error.
function Task:_outcome()
  loop.set_read(self)
  return self.fine, unpack(self.values, 1, self.values.n)
end

function Task:_report()
  local value = self.values[1]
  return failure.new { kind = "error", message = describe.message(value), value = value, traceback = self.traceback, attempts = 1 }
end

--- Waits for the task's end.
---@param timeout number?  seconds after which to give up waiting, with a failure of kind "timeout"; the task goes on
---@return any ...  what its function returned; its error is raised
function Task:get(timeout)
  check.self(self, Task, "task", "get")
  return call.get(self, "task", nil, timeout)
end

--- Has it ended?
---@return boolean
function Task:done()
  check.self(self, Task, "task", "done")
  return self:_settle()
end

--- Raises a failure of kind "cancelled" inside the task, where it waits, or next does. One that has ended stays as it is.
function Task:cancel()
  check.self(self, Task, "task", "cancel")
  if self.is_over then return end
  self.is_cancelled = true
  self.stop = failure.new { kind = "cancelled", message = "the task was cancelled", attempts = 0 }
  if self.waiter then loop.wake(self.waiter) end
end

--- Calls fn(task) once it has ended, from the loop, in a task of its own.
---@param fn function
function Task:on_done(fn)
  check.self(self, Task, "task", "on_done", "fn")
  loop.on_done("task:on_done", self, fn)
end

function Task:__tostring()
  return "tidepool.Task: " .. (self.is_over and "done" or "running")
end

return task
