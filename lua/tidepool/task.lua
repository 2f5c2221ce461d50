--- A function that runs as a coroutine on the loop: tidepool.async.

local abi = require "tidepool.base.abi"
local call = require "tidepool.call"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local future = require "tidepool.engine.future"
local interpret = require "tidepool.base.interpret"
local loop = require "tidepool.engine.loop"

---@class tidepool.Task
local Task = {}
Task.__index = Task
check.hints(Task, "a task", "gathered job values listeners is_over fine is_cancelled traceback unread_in waiter fn thread stop " ..
  "has_entered is_away is_daemon is_in_line is_ready n_asked number resumed_at source work changes", check.of_futures "task")
Task.__travels = "a Task cannot travel to a worker: pass what task:get() gives"
future.extend(Task)

local task = { Task = Task }

local function is_callable(value)
  local meta = type(value) == "table" and getmetatable(value)
  return type(value) == "function" or type(meta) == "table" and meta.__call ~= nil
end

--- Runs fn(...) as a task: at once up to the first place where it waits, and on from there while
--- others wait. Inside of it everything that waits lets the others go on, and, where that was some
--- milliseconds ago, what starts something does too.
---@param fn function
---@param ... any     its arguments
---@return tidepool.Task
function task.async(fn, ...)
  if core.in_item then check.fail "tidepool.async: a mapped function has no loop to run tasks on; use map or spawn" end
  if not is_callable(fn) then check.fail("tidepool.async: expected a function, got %s", check.show(fn)) end
  loop.give_way_in_task()
  local self = setmetatable(future.init { fn = fn }, Task)
  loop.start(self, false, fn, ...)
  return self
end
interpret(task.async)

--- Called by the loop when the function has ended.
function Task:_end(fine, ...)
  if fine then return future.finish(self, true, ...) end
  local trouble = ...
  self.traceback = trouble.traceback
  future.finish(self, false, trouble.value)
end
interpret(Task._end)

local watch = Task._watch

function Task:_watch(fn, arg)
  if self == loop.current() then
    local where = check.where()
    -- `return task:get()` is a tail call, which leaves no trace of its function
    if where == "" and type(self.fn) == "function" then
      local info = debug.getinfo(self.fn, "S")
      where = ("%s:%d: "):format(info.short_src, info.linedefined)
    end
    error(where .. "a task cannot wait for itself", 0)
  end
  return watch(self, fn, arg)
end

--- Waits for the task's end.
---@param timeout number?  seconds after which to give up waiting, with a failure of kind "timeout"; the task goes on
---@return any ...  what its function returned; its error is raised
function Task:get(timeout, extra)
  check.self(self, Task, "task", "get")
  check.no_more(extra, "task:get", "a number of seconds at most")
  return call.get(self, "task", nil, timeout)
end

--- Has it ended?
---@return boolean
function Task:done(extra)
  check.self(self, Task, "task", "done")
  check.no_more(extra, "task:done", "no arguments")
  return self:_settle()
end

--- Raises a failure of kind "cancelled" inside the task, where it waits, or next does. One that has
-- ended stays as it is.
function Task:cancel(extra)
  check.self(self, Task, "task", "cancel")
  check.no_more(extra, "task:cancel", "no arguments")
  if self.is_over then return end
  self.is_cancelled = true
  self.stop = failure.new { kind = abi.kind.CANCELLED, message = "the task was cancelled", attempts = 0 }
  if self.waiter then loop.wake(self.waiter) end
end

--- Calls fn(task) once it has ended, from the loop, in a task of its own.
---@param fn function
function Task:on_done(fn, extra)
  check.self(self, Task, "task", "on_done", "fn")
  check.no_more(extra, "task:on_done", "a function")
  loop.on_done("task:on_done", self, fn)
end

function Task:__tostring()
  return "tidepool.Task: " .. (self.is_over and "done" or "running")
end

return task
