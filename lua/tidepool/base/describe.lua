--- Texts for error values: the message, and the part of a traceback that is the user's.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local show = require "tidepool.base.show"

local describe = {}

-- As a pattern: how the positions of our own code begin.
local OURS = abi.CHUNKS:gsub("%p", "%%%0")
local IN_SPECIALISED, IN_OURS = "^" .. OURS .. "specialised:%d+: (.*)", "^" .. OURS .. "[%w_./]+:%d+: "
local FRAME = "^\t" .. OURS

--- The error value, without the position of our own code that a builtin has put before its message.
---@param value any
---@return any
function describe.value(value)
  if type(value) ~= "string" then return value end
  return value:match(IN_SPECIALISED) or value:match(IN_OURS .. "(bad argument #.*)") or value
end

--- The text without the position of our own code that it begins with, if it does.
---@return string
function describe.without_place(text)
  return (text:gsub(IN_OURS, ""))
end

--- A readable text for any error value of a worker. Since a value that cannot travel does not
--- arrive, the text says so, and what it was.
---@return string
function describe.message(value)
  if failure.is_failure(value) then return rawget(value, "message") end
  value = describe.value(value)
  local kind = type(value)
  if kind == "userdata" then return "(error object is a userdata, which cannot travel)" end
  local text = show.error(value)
  if kind ~= "thread" and kind ~= "cdata" then return text end
  return (text:gsub("^(%(error object is a .*)%)$", "%1, which cannot travel)"))
end

--- "file:line: " of where a function of the user's begins; "" for one in C, or of ours.
---@return string
function describe.place_of(fn)
  local info = debug.getinfo(fn, "S")
  if info.what == "C" or check.is_ours(info.source) then return "" end
  return ("%s:%d: "):format(info.short_src, info.linedefined)
end

--- The user's frames of a traceback. Our frames are left out, as are C functions next to them and
--- at both ends.
---@return string?
function describe.traceback(text)
  local lines, n_lua, has_ours = {}, 0, true -- n_lua: lines up to the last frame in Lua; has_ours: there are frames of ours behind that
  for line in text:gmatch "[^\n]+" do
    if line:find(FRAME) then
      has_ours = true
    elseif line:find("^\t%[C%]") then
      lines[#lines + 1] = line
    elseif line:find("^\t") then
      for i = #lines, has_ours and n_lua + 1 or #lines + 1, -1 do lines[i] = nil end
      lines[#lines + 1] = line
      n_lua, has_ours = #lines, false
    end
  end
  if n_lua == 0 then return nil end
  return "stack traceback:\n" .. table.concat(lines, "\n", 1, n_lua)
end

--- (kind, error value that a function has raised, traceback, attempt, worker) -> the fields of a
--- failure, in the order of TP_FAILURE_FIELDS (host/codec/message.h); nothing when memory ran out.
function describe.failure(kind, raised, traceback, attempt, index)
  local value = describe.value(raised)
  -- a function, or a module of ours, may have caught that error and raised it again
  if core.loop.is_memory_error(value) then return end
  if failure.is_failure(value) then
    local own, is_outer = rawget(value, "kind"), rawget(value, "index") ~= nil
    -- What a device could not do for a function that drives it is not the function's error. A
    -- mistake in the program, such as maps that are nested too deep, keeps its kind through all
    -- calls around it.
    if own == abi.kind.USAGE or (own == abi.kind.DEVICE and not is_outer) then
      kind = own
      if not is_outer then value = rawget(value, "message") end
    end
  end
  local message = describe.message(value)
  if message:find("attempt to yield", 1, true) then message = message .. " (f:stream(...) and f:flat_map(xs) read what a function yields)" end
  return kind, message, value, traceback and describe.traceback(traceback), attempt, index
end

return describe
