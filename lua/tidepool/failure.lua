--- What a failed input leaves: which one it was, why it failed, and where.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"

---@class tidepool.Failure
---@field kind string  "error": the function raised; "codec": a value that cannot travel; "memory": there was none, or no more than `memory`
--- allows; "cancelled"; "crash": its worker process died, or its thread ended; "device": a device
--- that could not run it; "halted": the map gave up, as `halt` says; "usage": an input that is
--- none, or maps nested too deep, which is not tried again; "resource": no worker could be started;
--- "timeout": it ran for longer than its function's `timeout`, or waiting was given up
---@field message string  one readable text
---@field value any  the error value itself, when it can travel
---@field traceback string?  where it was raised, in the worker: the user's frames
---@field index integer?  which input, from 1
---@field place table?  of a map over a grid: { y, x }, or { z, y, x }
---@field attempts integer  how often it was tried
---@field input table?  the arguments that it was tried with, a list with n: a copy of them
---@field stderr string?  of one whose worker process died: the last 4 KiB that it had written to its standard error
---@field worker integer?  which worker had it last; 0 is the caller itself
---@field function_name string?
---@field phase string?  "input": raised by the inputs, not by the function
---@field results table?  what had finished before, on a failure that list() raises
local Failure = {}

-- A plain loop raises strings, mostly, and code handles those. With a map it gets a Failure
-- instead, so a Failure behaves like its message there: with `..`, and with the methods of strings,
-- including those that the script has added. (What reads a string in C, as string.find(err, ...)
-- does, needs tostring.)

--- A method of strings that also works on Failures.
local function text_method(name)
  return function(self, ...)
    if getmetatable(self) == Failure then self = rawget(self, "message") end
    return string[name](self, ...)
  end
end

--- The fields of an error value that is a table can be read from the Failure: error { code = 7 }
--- gives failure.code == 7.
function Failure.__index(self, key)
  local value = rawget(self, "value")
  if type(value) == "table" then
    local field = value[key]
    if field ~= nil then return field end
  end
  if type(key) == "string" and type(string[key]) == "function" then return text_method(key) end
end

local function text_of(value)
  if type(value) == "string" or type(value) == "number" then return value end
  if getmetatable(value) == Failure then return rawget(value, "message") end
  check.fail("attempt to concatenate a failure and %s", check.kind(value))
end

function Failure.__concat(a, b)
  return text_of(a) .. text_of(b)
end

--- The message, which input it was, and the traceback, without the causes. The fields are read
--- without __index: those of an error value may have the same names.
local function describe(self)
  local out = { rawget(self, "message") }
  local index = rawget(self, "index")
  if index then
    local place = rawget(self, "place")
    place = place and (" (%s)"):format(table.concat(place, ", ")) or ""
    out[2] = ("in input %d%s of map '%s'"):format(index, place, rawget(self, "function_name") or "?")
    local attempts, most = rawget(self, "attempts") or 1, rawget(self, "max_attempts")
    if attempts ~= 0 then -- 0: it never ran
      -- not after a crash: attempts that a death has ended are not limited by `most`
      local is_counted = most and attempts <= most and rawget(self, "kind") ~= abi.kind.CRASH
      out[2] = out[2] .. (" (worker %d, attempt %d%s)"):format(rawget(self, "worker") or 0, attempts, is_counted and " of " .. most or "")
    end
  end
  out[#out + 1] = rawget(self, "traceback")
  out[#out + 1] = rawget(self, "called_from")
  return table.concat(out, "\n")
end

--- Adds the "caused by" lines of an error value: of a failure that was raised again, or along a
--- chain of fields `cause`, at most 8 deep.
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

--- The kind of a failure for a raised value.
function failure.kind_of(raised)
  return core.loop.is_memory_error(raised) and abi.kind.MEMORY or abi.kind.ERROR
end

--- Makes a Failure of a table of its fields.
---@return tidepool.Failure
function failure.new(fields)
  return setmetatable(fields, Failure)
end

--- The Failure as it is shown where code that it was raised in has ended by it: with the frames of
--- that code behind it.
---@param one tidepool.Failure
---@param traceback string?  "stack traceback:\n..."
---@return tidepool.Failure
function failure.raised_in(one, traceback)
  local fields = { called_from = traceback and traceback:gsub("^stack traceback:", "called from:") or nil }
  for key, value in next, one do fields[key] = value end
  return failure.new(fields)
end

local function fill(fields, ...)
  for i, name in ipairs(abi.failure) do fields[name] = (select(i, ...)) end
  return failure.new(fields)
end

local function pack_input(fine, is_known, ...)
  return fine and is_known and { n = select("#", ...), ... } or nil
end

--- Makes a Failure of the block of the job that is being read; `fields` has what else is known.
---@return tidepool.Failure
function failure.of_job(job, fields)
  fields.input = pack_input(pcall(core.job.input, job))
  return fill(fields, core.job.item(job, 0))
end

--- Is it a Failure?
---@param value any
---@return boolean
function failure.is_failure(value)
  return type(value) == "table" and getmetatable(value) == Failure
end

return failure
