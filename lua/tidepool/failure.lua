--- What a failed input leaves: which one, why, and where.

local core = require "tidepool.core"

---@class tidepool.Failure
---@field kind string  "error": the function raised; "codec": a value that cannot travel; "memory"; "cancelled"; "crash": its thread
--- ended; "device": a device that could not run it; "usage": an input that is none; "resource": no worker could be started;
--- "timeout": waiting was given up
---@field message string  one readable text
---@field value any  the error value itself, when it can travel
---@field traceback string?  where it was raised, in the worker: the user's frames
---@field index integer?  which input, from 1
---@field attempts integer  how often it was tried
---@field worker integer?  which worker had it last; 0 is the caller itself
---@field function_name string?
---@field phase string?  "input": raised by the inputs, not by the function
---@field results table?  what had finished before, on a failure that list() raises
local Failure = {}

--- Fields of an error value that is a table are forwarded: error { code = 7 } gives failure.code == 7.
function Failure.__index(self, key)
  local value = rawget(self, "value")
  if type(value) == "table" then return value[key] end
end

--- The message, which input it was, and the traceback: without the causes.
local function describe(self)
  local out = { rawget(self, "message") }
  if self.index then
    out[2] = ("in input %d of map '%s'"):format(self.index, self.function_name or "?")
    if self.attempts ~= 0 then -- else it never ran
      out[2] = out[2] .. (" (worker %d, attempt %d%s)"):format(self.worker or 0, self.attempts or 1,
        self.max_attempts and " of " .. self.max_attempts or "")
    end
  end
  out[#out + 1] = rawget(self, "traceback")
  return table.concat(out, "\n")
end

--- Adds the "caused by" lines of an error value: a failure that was raised again, or the chain of fields `cause`, at most 8 deep.
local function add_causes(value, out, depth)
  local cause = value
  if getmetatable(value) ~= Failure then cause = type(value) == "table" and value.cause end
  if not cause or depth > 8 then return end
  if getmetatable(cause) == Failure then
    out[#out + 1] = "caused by: " .. describe(cause)
    return add_causes(rawget(cause, "value"), out, depth + 1)
  end
  out[#out + 1] = "caused by: " .. tostring(type(cause) == "table" and (cause.message or cause.msg) or cause)
  return add_causes(cause, out, depth + 1)
end

function Failure.__tostring(self)
  local out = { describe(self) }
  add_causes(rawget(self, "value"), out, 1)
  return table.concat(out, "\n")
end

local failure = { Failure = Failure }

core.add_class("tidepool.failure.Failure", Failure, false)

--- Makes one of a table of its fields.
---@return tidepool.Failure
function failure.new(fields)
  return setmetatable(fields, Failure)
end

--- Is it a Failure?
---@param value any
---@return boolean
function failure.is_failure(value)
  return type(value) == "table" and getmetatable(value) == Failure
end

return failure
