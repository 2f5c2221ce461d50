--- JSON for the command line: one value to one line of text, and back.
--
-- null is nil. A list that holds nil has its length in `n`, as everywhere; an empty table is an object.

local array = require "tidepool.array"
local check = require "tidepool.check"

local json = {}

local DEPTH = 100

-- ---- values to text ----

local short_escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function string_text(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c) return short_escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function number_text(x)
  if x ~= x or x == math.huge or x == -math.huge then error(("%s has no form in JSON"):format(tostring(x)), 0) end
  if x % 1 == 0 and math.abs(x) < 2 ^ 53 then return ("%d"):format(x) end
  local text = ("%.14g"):format(x)
  return tonumber(text) == x and text or ("%.17g"):format(x)
end

--- The length of a list, nil for any other table.
local function list_length(t)
  local n, count = rawget(t, "n"), 0
  local has_n = type(n) == "number" and n >= 0 and n % 1 == 0
  if not has_n then n = #t end
  for key in next, t do
    if type(key) == "number" and key >= 1 and key <= n and key % 1 == 0 then
      count = count + 1
    elseif not (has_n and key == "n") then
      return nil
    end
  end
  if has_n or (count == n and n > 0) then return n end
end

local encode

local function object_text(t, depth)
  local keys = {}
  for key in next, t do
    if type(key) ~= "string" and type(key) ~= "number" then error(("a key that is %s has no form in JSON"):format(check.a(type(key))), 0) end
    keys[#keys + 1] = { text = type(key) == "number" and number_text(key) or key, key = key }
  end
  table.sort(keys, function(a, b) return a.text < b.text end)
  for i, each in ipairs(keys) do keys[i] = string_text(each.text) .. ":" .. encode(rawget(t, each.key), depth) end
  return "{" .. table.concat(keys, ",") .. "}"
end

function encode(value, depth)
  local kind = type(value)
  if value == nil then
    return "null"
  elseif kind == "boolean" then
    return tostring(value)
  elseif kind == "number" then
    return number_text(value)
  elseif kind == "string" then
    return string_text(value)
  elseif kind == "cdata" then
    local digits = tostring(value):match "^(%-?%d+)U?LL$"
    if digits then return digits end
    if array.type_of(value) then return encode(value:list(), depth) end
  elseif kind == "table" then
    if depth >= DEPTH then error(("tables nested deeper than %d, or in a cycle, have no form in JSON"):format(DEPTH), 0) end
    local n = list_length(value)
    if not n then return object_text(value, depth + 1) end
    local parts = {}
    for i = 1, n do parts[i] = encode(rawget(value, i), depth + 1) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  error(("%s has no form in JSON"):format(check.a(kind)), 0)
end

--- The value as JSON. Raises what has no form.
---@return string
function json.encode(value)
  return encode(value, 0)
end

--- A function's results as one value: one as it is, several as a list, none as null.
---@return string
function json.encode_results(...)
  local n = select("#", ...)
  if n <= 1 then return encode((...), 0) end
  return encode({ n = n, ... }, 0)
end

-- ---- text to values ----

local function fail(at, expected)
  error({ at = at, expected = expected }, 0)
end

local function skip(text, at)
  return text:find("[^ \t\r\n]", at) or #text + 1
end

local function utf8_of(code)
  if code < 0x80 then return string.char(code) end
  if code < 0x800 then return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return string.char(0xE0 + math.floor(code / 4096), 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
  end
  return string.char(0xF0 + math.floor(code / 262144), 0x80 + math.floor(code / 4096) % 64, 0x80 + math.floor(code / 64) % 64, 0x80 + code % 64)
end

local long_escapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ['"'] = '"', ["\\"] = "\\", ["/"] = "/" }

--- The character of the escape whose backslash is at `at`, and where it ends.
local function unescape(text, at)
  local letter = text:sub(at + 1, at + 1)
  if letter ~= "u" then return long_escapes[letter] or fail(at, "an escape like \\n or \\u00e4"), at + 2 end
  local code = tonumber(text:match("^%x%x%x%x", at + 2) or fail(at, "four hexadecimal digits after \\u"), 16)
  local low = code >= 0xD800 and code < 0xDC00 and tonumber(text:match("^\\u(%x%x%x%x)", at + 6) or "0", 16)
  if low and low >= 0xDC00 and low < 0xE000 then return utf8_of(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00), at + 12 end
  if code >= 0xD800 and code < 0xE000 then return "\239\191\189", at + 6 end -- half of a pair: U+FFFD
  return utf8_of(code), at + 6
end

--- The string whose quote is before `at`, and where the text goes on.
local function read_string(text, at)
  local parts = {}
  while true do
    local stop = text:find('["\\%c]', at) or fail(#text + 1, 'a " at the end of the string')
    parts[#parts + 1] = text:sub(at, stop - 1)
    local c = text:sub(stop, stop)
    if c == '"' then return table.concat(parts), stop + 1 end
    if c ~= "\\" and c ~= "\127" then fail(stop, "an escape for a control character") end
    if c == "\127" then
      parts[#parts + 1], at = c, stop + 1
    else
      parts[#parts + 1], at = unescape(text, stop)
    end
  end
end

local read

local function read_list(text, at, depth)
  local list, n, has_null = {}, 0, false
  at = skip(text, at)
  if text:sub(at, at) == "]" then return list, at + 1 end
  while true do
    n = n + 1
    list[n], at = read(text, at, depth)
    has_null = has_null or list[n] == nil
    at = skip(text, at)
    local c = text:sub(at, at)
    if c == "]" then break end
    if c ~= "," then fail(at, ", or ]") end
    at = at + 1
  end
  if has_null then list.n = n end
  return list, at + 1
end

local function read_object(text, at, depth)
  local object = {}
  at = skip(text, at)
  if text:sub(at, at) == "}" then return object, at + 1 end
  while true do
    at = skip(text, at)
    if text:sub(at, at) ~= '"' then fail(at, "a key in quotes") end
    local key, after = read_string(text, at + 1)
    at = skip(text, after)
    if text:sub(at, at) ~= ":" then fail(at, ":") end
    object[key], at = read(text, at + 1, depth)
    at = skip(text, at)
    local c = text:sub(at, at)
    if c == "}" then return object, at + 1 end
    if c ~= "," then fail(at, ", or }") end
    at = at + 1
  end
end

local words = { ["true"] = true, ["false"] = false }

function read(text, at, depth)
  if depth > DEPTH then fail(at, ("at most %d levels"):format(DEPTH)) end
  at = skip(text, at)
  local c = text:sub(at, at)
  if c == "{" then return read_object(text, at + 1, depth + 1) end
  if c == "[" then return read_list(text, at + 1, depth + 1) end
  if c == '"' then return read_string(text, at + 1) end
  local word = text:match("^%a+", at)
  if word == "null" then return nil, at + 4 end
  if word and words[word] ~= nil then return words[word], at + #word end
  local number = text:match("^%-?%d+%.?%d*[eE]?[-+]?%d*", at)
  if number and tonumber(number) and not number:find "^%-?0%d" and not number:find "%.$" and not number:find "%.[eE]" then
    return tonumber(number), at + #number
  end
  fail(at, "a value")
end

--- The value of a JSON text: true and the value, or false and what is wrong.
---@return boolean fine, any value
function json.decode(text)
  local fine, value, at = pcall(read, text, 1, 0)
  if fine then
    at = skip(text, at)
    if at > #text then return true, value end
    value = { at = at, expected = "the end" }
  elseif type(value) ~= "table" then
    error(value, 0)
  end
  return false, ("no JSON: expected %s at column %d"):format(value.expected, value.at)
end

return json
