--- An event: something that happens once and can be waited for. tidepool.event.

local abi = require "tidepool.base.abi"
local call = require "tidepool.call"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local failure = require "tidepool.failure"
local future = require "tidepool.engine.future"
local interpret = require "tidepool.base.interpret"
local loop = require "tidepool.engine.loop"

---@class tidepool.Event
local Event = {}
Event.__index = Event
check.hints(Event, "an event", "gathered job values listeners is_over fine is_cancelled traceback unread_in")
Event.__travels = "an Event cannot travel to a worker: pass what event:get() gives"
future.extend(Event)

local event = { Event = Event }

--- Something that is waited for until somebody says that it has happened: what a callback of luv's,
--- or of a program that embeds Tidepool, says to tasks.
---@return tidepool.Event
function event.new(extra)
  check.no_more(extra, "tidepool.event", "no arguments")
  if core.is_worker and not loop.is_in_task() then
    check.fail "tidepool.event: a mapped function has no loop whose callbacks could set it, unless it has option concurrent_inputs"
  end
  return setmetatable(future.init {}, Event)
end

--- It has happened: whoever waits goes on with these values. Only the first call of set, fail or
--- cancel counts.
---@param ... any
---@return boolean  whether this was the first
function Event:set(...)
  check.self(self, Event, "event", "set", "...")
  if self.is_over then return false end
  future.finish(self, true, ...)
  return true
end
interpret(Event.set)

--- It has failed: the error is raised where somebody waits.
---@param why any    the error, of any type but nil
---@return boolean  whether this was the first
function Event:fail(why, extra)
  check.self(self, Event, "event", "fail", "error")
  check.no_more(extra, "event:fail", "an error")
  if why == nil then check.fail "event:fail: expected an error, got nil" end
  if self.is_over then return false end
  self.traceback = describe.traceback(debug.traceback("", 2))
  future.finish(self, false, why)
  return true
end

--- Nobody should wait for it any more: whoever does gets a failure of kind "cancelled". After set
--- or fail it does nothing.
function Event:cancel(extra)
  check.self(self, Event, "event", "cancel")
  check.no_more(extra, "event:cancel", "no arguments")
  if self.is_over then return end
  self.is_cancelled = true
  future.finish(self, false, failure.new { kind = abi.kind.CANCELLED, message = "the event was cancelled", attempts = 0 })
end

--- Waits until it has happened.
---@param timeout number?  seconds after which to give up waiting, with a failure of kind "timeout"
---@return any ...  what it was set to; what it has failed with is raised
function Event:get(timeout, extra)
  check.self(self, Event, "event", "get")
  check.no_more(extra, "event:get", "a number of seconds at most")
  return call.get(self, "event", nil, timeout)
end

--- Has it happened, or failed?
---@return boolean
function Event:done(extra)
  check.self(self, Event, "event", "done")
  check.no_more(extra, "event:done", "no arguments")
  return self:_settle()
end

--- Calls fn(event) once it has happened or failed, from the loop, in a task of its own.
---@param fn function
function Event:on_done(fn, extra)
  check.self(self, Event, "event", "on_done", "fn")
  check.no_more(extra, "event:on_done", "a function")
  loop.on_done("event:on_done", self, fn)
end

function Event:__tostring()
  return "tidepool.Event: " .. (not self.is_over and "to come" or self.fine and "set" or "failed")
end

return event
