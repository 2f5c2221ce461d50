--- What an error value says: the message, and the user's part of the traceback.

local check = require "tidepool.check"
local failure = require "tidepool.failure"

local describe = {}

--- The word for a value's type in messages; cdata with their ctype.
local function type_word(value)
  if type(value) == "cdata" then
    return (tostring(require "ffi".typeof(value)):gsub("^ctype", "cdata"))
  end
  return type(value)
end

local function is_number_cdata(value)
  local ffi = require "ffi"
  return ffi.istype("int64_t", value) or ffi.istype("uint64_t", value) or ffi.istype("complex", value)
end

local function show(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) == "table" then return "{...}" end
  return tostring(value)
end

--- "{code=5, why={...}}": the list part, then the fields by name; at most 200 characters.
local function show_table(t)
  local parts, names = {}, {}
  for i = 1, math.min(#t, 20) do parts[i] = show(rawget(t, i)) end
  for key in next, t do
    if type(key) == "string" then names[#names + 1] = key end
  end
  table.sort(names)
  for _, name in ipairs(names) do parts[#parts + 1] = name .. "=" .. show(rawget(t, name)) end
  local text = "{" .. table.concat(parts, ", ") .. "}"
  return #text <= 200 and text or text:sub(1, 196) .. "...}"
end

local function table_message(value)
  if failure.is_failure(value) then return rawget(value, "message") end
  local meta = getmetatable(value)
  local to_string = type(meta) == "table" and rawget(meta, "__tostring")
  if not to_string then return show_table(value) end
  local fine, text = pcall(to_string, value)
  if not fine then
    return ("(error object is a table; its __tostring failed: %s)"):format(tostring(text))
  elseif type(text) ~= "string" then
    return ("(error object is a table; its __tostring returned %s)"):format(check.a(type(text)))
  end
  return text
end

--- One readable text for any error value.
---@return string
function describe.message(value)
  local kind = type(value)
  if kind == "string" then return value end
  if kind == "nil" or kind == "boolean" or kind == "number" then return tostring(value) end
  if kind == "table" then return table_message(value) end
  if kind == "cdata" and is_number_cdata(value) then return tostring(value) end
  if kind == "function" then return "(error object is a function)" end
  return ("(error object is %s, which cannot travel)"):format(check.a(type_word(value)))
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
