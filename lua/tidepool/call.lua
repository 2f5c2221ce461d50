--- One call that was started: Function:spawn. And what a script still has running at its end.

local check = require "tidepool.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local progress = require "tidepool.progress"

---@class tidepool.Call
local Call = {}
Call.__index = Call

local call = { Call = Call }

-- Calls and maps that were spawned and are not known to be over, so that the script's end can wait for them. Not weak: nobody needs to keep a
-- handle.
local kept = {}

local FAILURE, RETRY = 2, 3

--- Waits for the only result of job, of Function f: gives true and its values, or false and its failure; nothing when it is not there
--- after so many seconds.
local function finish(job, f, seconds)
  local deadline = seconds and core.now() + seconds
  while true do
    local kind, index = core.next(job)
    if kind == nil then
      local is_cancelled, why = core.is_cancelled(job)
      if is_cancelled then
        return false, failure.new { kind = why and "resource" or "cancelled", message = why or "the call was cancelled",
          function_name = f.name, attempts = 0 }
      end
      local left = deadline and deadline - core.now()
      if left and left <= 0 then return nil end
      progress.wait(job, left)
    else
      local retries = f.options.retries
      if kind == FAILURE or kind == RETRY then
        local of, message, value, traceback, attempts, worker = core.item(job, 0)
        local failed = failure.new { kind = of, message = message, value = value, traceback = traceback, attempts = attempts, worker = worker,
          index = index, function_name = f.name, max_attempts = 1 + (retries and retries.max or 0) }
        if kind == FAILURE then
          return false, failed
        elseif retries.on then
          retries.on(failed)
        end
      else
        return true, core.item(job, 0)
      end
    end
  end
end

local function close_and_give(job, fine, ...)
  core.close(job)
  if fine then return ... end
  error((...), 0)
end

--- The values of job's one call, when it is done; its failure is raised.
function call.wait(job, f)
  return close_and_give(job, finish(job, f))
end

--- A handle for a job of one call.
---@return tidepool.Call
function call.new(job, f)
  local self = setmetatable({ job = job, f = f }, Call)
  kept[self] = true
  return self
end

--- Remembers spawned Results until they are over.
function call.keep(results)
  kept[results] = true
  return results
end

local function store(self, fine, ...)
  if fine == nil then return end
  core.close(self.job)
  self.job, self.fine, self.values = nil, fine, { n = select("#", ...), ... }
  kept[self] = nil
end

--- Waits for the call.
---@param timeout number?  seconds after which to give up waiting, with a failure of kind "timeout"; the call goes on
---@return any ...  its return values; its failure is raised
function Call:get(timeout)
  check.self(self, Call, "call", "get")
  if timeout ~= nil and not (type(timeout) == "number" and timeout >= 0) then
    check.fail("call:get: the timeout must be a number of seconds, 0 or more, got %s", check.show(timeout))
  end
  if self.job then store(self, finish(self.job, self.f, timeout)) end
  if self.job then
    error(failure.new { kind = "timeout", message = ("the call is not done after %g s"):format(timeout), function_name = self.f.name,
      attempts = 0 }, 0)
  end
  if not self.fine then error(self.values[1], 0) end
  return unpack(self.values, 1, self.values.n)
end

--- Is it done, so that get would not wait?
---@return boolean
function Call:done()
  check.self(self, Call, "call", "done")
  if not self.job then return true end
  local pushed, finished = core.counts(self.job)
  return finished == pushed
end

--- Removes it when it is queued; when it runs, its result is dropped. get raises a failure of kind "cancelled" then.
function Call:cancel()
  check.self(self, Call, "call", "cancel")
  if self.job and not self:done() then
    core.cancel(self.job)
    kept[self] = nil
  end
end

function Call:__tostring()
  return ("tidepool.Call of %s: %s"):format(self.f.name, self:done() and "done" or "running")
end

--- The calls and maps that were spawned and are not known to be over.
---@return table
function call.list()
  local list = {}
  for one in pairs(kept) do list[#list + 1] = one end
  return list
end

--- Waits for everything that was spawned. Gives the failures that nobody has asked for.
---@return table
function call.finish_all()
  local unread = {}
  while true do
    local one = next(kept)
    if not one then return unread end
    kept[one] = nil
    local fine, why = pcall(one.get or one._drain, one)
    if not fine and not (failure.is_failure(why) and why.kind == "cancelled") then unread[#unread + 1] = why end
  end
end

return call
