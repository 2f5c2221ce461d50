--- What an error value says: the message, and the user's part of the traceback.

local failure = require "tidepool.failure"
local show = require "tidepool.show"

local describe = {}

--- The error value without the place that a builtin has put before it when we called it ourselves: our own line.
---@param value any
---@return any
function describe.value(value)
  return type(value) == "string" and value:match "^tidepool/[%w_./]+:%d+: (bad argument #.*)" or value
end

--- One readable text for any error value that a worker sends. What cannot travel says so, and what it is, as it does not arrive.
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

--- A traceback's frames of the user: ours, and those of C at both ends, are left out.
---@return string?
function describe.traceback(text)
  local lines, last_lua = {}, 0
  for line in text:gmatch "[^\n]+" do
    local is_c = line:find("^\t%[C%]")
    if line:find("^\t") and not line:find("^\ttidepool/") and not (is_c and #lines == 0) then
      lines[#lines + 1] = line
      if not is_c then last_lua = #lines end
    end
  end
  if last_lua == 0 then return nil end
  return "stack traceback:\n" .. table.concat(lines, "\n", 1, last_lua)
end

return describe
