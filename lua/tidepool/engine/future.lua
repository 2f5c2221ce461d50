--- Something that ends once, with values or an error, and can be waited for: the base of Task and
--- Event.
--
-- A future is a table. is_over: has it ended? Then fine, values (the results, or the error alone)
-- and traceback (of the error). Before that: listeners, in the order in which they were added.

local abi = require "tidepool.base.abi"
local describe = require "tidepool.base.describe"
local failure = require "tidepool.failure"
local lazy = require "tidepool.base.lazy"

local spawned = lazy "tidepool.engine.spawned"

local future = {}

--- Makes `self` a future that is not over.
function future.init(self)
  self.listeners = {}
  return self
end

--- Ends it: fine and the values, or the error.
function future.finish(self, fine, ...)
  self.is_over, self.fine, self.values = true, fine, { n = select("#", ...), ... }
  if not fine and not (self.is_cancelled and failure.is_failure(self.values[1]) and self.values[1].kind == abi.kind.CANCELLED) then
    spawned.set_failed(self)
  end
  local listeners = self.listeners
  self.listeners = nil
  for _, entry in ipairs(listeners) do
    if entry.fn then entry.fn(entry.arg) end
  end
end

local methods = {}

--- For loop.await.
function methods:_settle()
  return self.is_over or false
end

function methods:_watch(fn, arg)
  local entry = { fn = fn, arg = arg }
  self.listeners[#self.listeners + 1] = entry
  return entry
end

function methods:_unwatch(entry)
  entry.fn = nil
  local listeners = self.listeners
  if listeners and listeners[#listeners] == entry then listeners[#listeners] = nil end
end

--- When it is over: true and the values, or false and the error.
function methods:_outcome()
  if self.unread_in then spawned.set_read(self) end
  return self.fine, unpack(self.values, 1, self.values.n)
end

function methods:_report()
  local value = self.values[1]
  if failure.is_failure(value) then return failure.raised_in(value, self.traceback) end
  return failure.new { kind = failure.kind_of(value), message = describe.message(value), value = value, traceback = self.traceback, attempts = 1 }
end

--- Adds the methods of a future to a class.
function future.extend(class)
  for name, method in pairs(methods) do class[name] = method end
end

return future
