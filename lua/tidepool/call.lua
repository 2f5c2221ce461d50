--- One call that was started: Function:spawn, Function:remote.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local interpret = require "tidepool.base.interpret"
local lazy = require "tidepool.base.lazy"
local loop = require "tidepool.engine.loop"

local spawned = lazy "tidepool.engine.spawned"

---@class tidepool.Call
local Call = {}
Call.__index = Call
Call._kept_as = "call" -- for spawned.keep
check.hints(Call, "a call", "values listeners is_over fine is_cancelled traceback unread_in job gathered f is_read", check.of_futures "call")
Call.__travels = "a Call cannot travel to a worker: pass what call:get() gives"

local call = { Call = Call }

local FAILURE, RETRY = abi.block.FAILURE, abi.block.RETRY

--- The only result of the job, which is a call of Function f, if it has arrived: true and its
--- values, or false and its failure. Never waits.
local function take(job, f)
  local retries = f.options.retries
  while true do
    local kind, index = core.job.next(job)
    if kind == nil then
      local is_cancelled, reason, why = core.job.is_cancelled(job)
      -- an earlier take got the result from the job, but had no memory to read it
      if not is_cancelled and core.job.is_over(job) then
        return false, failure.new { kind = abi.kind.MEMORY, message = abi.NO_MEMORY, function_name = f.name, attempts = 1 }
      end
      if not is_cancelled then return nil end
      return false, failure.new { kind = reason or abi.kind.CANCELLED, message = why or "the call was cancelled", function_name = f.name,
        attempts = 0 }
    elseif kind ~= FAILURE and kind ~= RETRY then
      return true, core.job.item(job, 0)
    end
    local failed = failure.of_job(job, { index = index, function_name = f.name, max_attempts = 1 + (retries and retries.max or 0) })
    if kind == FAILURE then return false, failed end
    local fine, why = true, nil
    if retries.on then fine, why = pcall(retries.on, failed) end
    if not fine then return false, why end
  end
end

local function try(job, fine, ...)
  if fine ~= nil then return fine, ... end
  loop.wait(job)
  return nil
end

--- The same, but waits for it.
local function finish(job, f, fine, ...)
  if fine ~= nil then return fine, ... end
  return finish(job, f, try(job, take(job, f)))
end

local function close_and_give(job, went_well, fine, ...)
  loop.close(job)
  if not went_well then error(fine, 0) end -- the wait was interrupted
  if fine then return ... end
  error((...), 0)
end
interpret(close_and_give)

--- Waits for the one call of the job, and closes the job. Returns the call's values or raises its
--- failure.
function call.wait(job, f)
  return close_and_give(job, pcall(finish, job, f))
end

--- A handle for a job of one call.
---@return tidepool.Call
function call.new(job, f)
  local self = setmetatable({ job = job, f = f }, Call)
  spawned.keep(self)
  return self
end

--- A handle for a call that was added to a gathered batch (engine/gathered.lua).
---@return tidepool.Call
function call.of_gathered(gathered, f)
  local self = setmetatable({ job = gathered.job, f = f, gathered = gathered }, Call)
  gathered:take(self)
  spawned.keep(self)
  return self
end

local function store(self, fine, ...)
  local job = self.job
  if fine == nil or not job then return end
  self.job, self.fine, self.values = nil, fine, { n = select("#", ...), ... }
  spawned.drop(self)
  if not fine and not self.is_cancelled then spawned.set_failed(self) end
  if self.gathered then
    loop.notify(job)
    self.gathered:leave(self)
  else
    loop.close(job)
  end
end

--- For gathered.lua: stores the call's outcome, true and the values, or false and the failure.
function Call:_store(fine, ...)
  store(self, fine, ...)
end

--- For loop.await.
function Call:_settle()
  if self.job then
    if self.gathered then self.gathered:read() else store(self, take(self.job, self.f)) end
  end
  return not self.job
end

function Call:_watch(fn, arg)
  return loop.watch(self.job, fn, arg)
end

function Call._unwatch(_, entry)
  loop.unwatch(entry)
end

--- When it is over: true and the values, or false and the failure.
function Call:_outcome()
  spawned.set_read(self)
  return self.fine, unpack(self.values, 1, self.values.n)
end

function Call:_finish()
  loop.await(self)
end

function Call:_tidy()
  self:_settle()
end

function Call:_report()
  return self.values[1]
end

--- Waits for the call.
---@param timeout number?  seconds after which to give up waiting, with a failure of kind "timeout"; the call goes on
---@return any ...  its return values; its failure is raised
function Call:get(timeout, extra)
  check.self(self, Call, "call", "get")
  check.no_more(extra, "call:get", "a number of seconds at most")
  return call.get(self, "call", self.f.name, timeout)
end

local function give(fine, ...)
  if fine then return ... end
  error((...), 0)
end

--- `get` of a Call, a Task or an Event.
function call.get(self, what, name, timeout)
  if timeout ~= nil and not (type(timeout) == "number" and timeout >= 0) then
    check.fail("%s:get: the timeout must be a number of seconds, 0 or more, got %s", what, check.show(timeout))
  end
  if self.gathered then self.gathered:hurry() end
  if not loop.await(self, timeout and core.loop.now() + timeout) then
    error(failure.new { kind = abi.kind.TIMEOUT, message = ("the %s is not done after %g s"):format(what, timeout),
      function_name = name, attempts = 0 }, 0)
  end
  return give(self:_outcome())
end

--- Is it done, so that get would not wait?
---@return boolean
function Call:done(extra)
  check.self(self, Call, "call", "done")
  check.no_more(extra, "call:done", "no arguments")
  if not self.job then return true end
  if self.gathered then return self:_settle() end
  return core.job.is_settled(self.job)
end

--- Removes it when it is queued; when it runs, its result is dropped and it is not tried again. get
--- raises a failure of kind "cancelled" then. A call that is done stays as it is. One of a batched
--- function may still be run, with the others of its batch.
function Call:cancel(extra)
  check.self(self, Call, "call", "cancel")
  check.no_more(extra, "call:cancel", "no arguments")
  if self:_settle() then return end
  self.is_cancelled = true
  if self.gathered then
    local failed = { kind = abi.kind.CANCELLED, message = "the call was cancelled", function_name = self.f.name, attempts = 0 }
    return store(self, false, failure.new(failed))
  end
  core.job.cancel(self.job)
  self:_settle()
end

--- Calls fn(call) once it is done, from the loop: in a task of its own, while somebody waits, at
-- the latest at the script's end.
---@param fn function
function Call:on_done(fn, extra)
  check.self(self, Call, "call", "on_done", "fn")
  check.no_more(extra, "call:on_done", "a function")
  loop.on_done("call:on_done", self, fn)
end

local function give_or_cancel(self, fine, ...)
  if fine then return ... end
  if self.job then self:cancel() end -- the wait was interrupted
  error((...), 0)
end

interpret(give_or_cancel)

--- Waits for a call that has no handle outside. Returns its values or raises its failure.
function call.finish(self)
  return give_or_cancel(self, pcall(call.get, self, "call", self.f.name))
end

function Call:__tostring()
  return ("tidepool.Call of %s: %s"):format(self.f.name, self:done() and "done" or "running")
end

return call
