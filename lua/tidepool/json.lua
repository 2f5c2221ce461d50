--- JSON for the command line, and for whoever requires it: one value to one line of text, and back.
--
-- What a Lua table cannot express is marked, so that a text that is read and written again means
-- the same: null is json.null (which is cjson.null, too), an empty list has the metatable
-- json.List, and an object that would be taken for a list has json.Object. Both travel to workers
-- and back. Without a mark, a list with nil in it has its length in `n`, as everywhere, and an
-- empty table is an object.
--
-- Reads what RFC 8259 allows, and nothing else; bytes that are not UTF-8 are kept. The last of
-- several equal keys counts.

local array = require "tidepool.array"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local show = require "tidepool.base.show"

local json = {
  --- Stands for null: a light userdata, the same in every state of the process.
  null = core.null,
  --- Metatables that mark what a table is. Other libraries for JSON use `__jsontype`, too.
  List = { __jsontype = "array" },
  Object = { __jsontype = "object" },
}

core.add_class("tidepool.json.List", json.List, false)
core.add_class("tidepool.json.Object", json.Object, false)

local DEPTH = 1000

-- ---- values to text ----

local short_escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" }

local function string_text(s)
  return '"' .. s:gsub('[%c"\\\127]', function(c) return short_escapes[c] or ("\\u%04x"):format(c:byte()) end) .. '"'
end

--- Raises that a value has no JSON form. `path` lists the keys that lead to it.
local function refuse(path, what)
  local steps = {}
  for i, key in ipairs(path) do
    steps[i] = type(key) == "string" and key:find "^[%a_][%w_]*$" and "." .. key or ("[%s]"):format(show.value(key))
    if i == 16 and path[17] ~= nil then
      steps[17] = "..."
      break
    end
  end
  check.fail("%s has no form in JSON%s", what, #steps > 0 and " (at " .. table.concat(steps):gsub("^%.", "") .. ")" or "")
end

local function number_text(x, path)
  if x ~= x or x == math.huge or x == -math.huge then refuse(path, tostring(x)) end
  return show.number(x)
end

--- The length of a table that is a list; nil for any other.
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
  if has_n or count == n then return n end
end

--- The length of a table that is written as a list; nil for one that is written as an object.
local function length_of(t)
  local metatable = getmetatable(t)
  local mark = type(metatable) == "table" and rawget(metatable, "__jsontype")
  if mark == "object" then return nil end
  local n = list_length(t)
  if n == 0 and mark ~= "array" and rawget(t, "n") == nil then return nil end
  return n
end

local encode

local function object_text(t, path, open, depth)
  local keys = {}
  for key in next, t do
    if type(key) ~= "string" and type(key) ~= "number" then refuse(path, "a key that is " .. check.kind(key)) end
    keys[#keys + 1] = { text = type(key) == "number" and number_text(key, path) or key, key = key }
  end
  table.sort(keys, function(a, b) return a.text < b.text end)
  local parts = {}
  for i, each in ipairs(keys) do
    if i > 1 and each.text == keys[i - 1].text then
      path[depth] = nil
      refuse(path, ("a table with the key %s as a number and as a string"):format(each.text))
    end
    path[depth] = each.key
    parts[i] = string_text(each.text) .. ":" .. encode(rawget(t, each.key), path, open, depth)
  end
  return "{" .. table.concat(parts, ",") .. "}"
end

local function list_text(t, n, path, open, depth)
  local parts = {}
  for i = 1, n do
    path[depth] = i
    parts[i] = encode(rawget(t, i), path, open, depth)
  end
  return "[" .. table.concat(parts, ",") .. "]"
end

--- `path` lists the keys that lead to the value, `open` the tables on the way.
function encode(value, path, open, depth)
  local kind = type(value)
  if value == nil or rawequal(value, json.null) then
    return "null"
  elseif kind == "boolean" then
    return tostring(value)
  elseif kind == "number" then
    return number_text(value, path)
  elseif kind == "string" then
    return string_text(value)
  elseif kind == "cdata" then
    local digits = tostring(value):match "^(%-?%d+)U?LL$"
    if digits then return digits end
    if array.type_of(value) then return encode(value:list(), path, open, depth) end
  elseif kind == "table" then
    if open[value] then refuse(path, "a table inside itself") end
    if depth >= DEPTH then refuse(path, ("a table nested deeper than %d"):format(DEPTH)) end
    open[value] = true
    local n = length_of(value)
    local text = n and list_text(value, n, path, open, depth + 1) or not n and object_text(value, path, open, depth + 1)
    open[value], path[depth + 1] = nil, nil
    return text
  end
  refuse(path, check.a(kind))
end

--- The value as JSON, on one line. Raises what has no form in it, and where that is.
---@return string
function json.encode(value)
  return encode(value, {}, {}, 0)
end

--- A function's results as one value: one as it is, several as a list, none as null.
---@return string
function json.encode_results(...)
  local n = select("#", ...)
  if n <= 1 then return json.encode((...)) end
  return json.encode { n = n, ... }
end

--- Marks a table as a list, so that it is written as [] also when it is empty.
---@generic T: table
---@param t T
---@return T
function json.list(t)
  if type(t) ~= "table" then check.fail("json.list: expected a table, got %s", check.show(t)) end
  return setmetatable(t, json.List)
end

--- Marks a table as an object, so that it is written as {} also when its keys look like those of a
-- list.
---@generic T: table
---@param t T
---@return T
function json.object(t)
  if type(t) ~= "table" then check.fail("json.object: expected a table, got %s", check.show(t)) end
  return setmetatable(t, json.Object)
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

--- The character of the escape whose backslash is at `at`, and the position behind it.
local function unescape(text, at)
  local letter = text:sub(at + 1, at + 1)
  if letter ~= "u" then return long_escapes[letter] or fail(at, "an escape like \\n or \\u00e4"), at + 2 end
  local code = tonumber(text:match("^%x%x%x%x", at + 2) or fail(at, "four hexadecimal digits after \\u"), 16)
  local low = code >= 0xD800 and code < 0xDC00 and tonumber(text:match("^\\u(%x%x%x%x)", at + 6) or "0", 16)
  if low and low >= 0xDC00 and low < 0xE000 then return utf8_of(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00), at + 12 end
  if code >= 0xD800 and code < 0xE000 then fail(at, "both halves of a surrogate pair") end
  return utf8_of(code), at + 6
end

--- Reads the string whose opening quote is before `at`; returns it and the position behind it.
local function read_string(text, at)
  local parts = {}
  while true do
    local stop = text:find('["\\%z\1-\31]', at) or fail(#text + 1, 'a " at the end of the string')
    parts[#parts + 1] = text:sub(at, stop - 1)
    local c = text:sub(stop, stop)
    if c == '"' then return table.concat(parts), stop + 1 end
    if c ~= "\\" then fail(stop, "an escape for a control character") end
    parts[#parts + 1], at = unescape(text, stop)
  end
end

local read

local function read_list(text, at, depth)
  local list, n = {}, 0
  at = skip(text, at)
  if text:sub(at, at) == "]" then return json.list(list), at + 1 end
  while true do
    n = n + 1
    list[n], at = read(text, at, depth)
    at = skip(text, at)
    local c = text:sub(at, at)
    if c == "]" then return list, at + 1 end
    if c ~= "," then fail(at, ", or ]") end
    at = at + 1
  end
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
    if c == "}" then
      if type(object.n) == "number" then json.object(object) end -- else it might be taken for a list of that length
      return object, at + 1
    end
    if c ~= "," then fail(at, ", or }") end
    at = at + 1
  end
end

local words = { ["true"] = true, ["false"] = false, null = json.null }

local function read_number(text, at)
  local _, last = text:find("^%-?%d+", at)
  if not last then fail(at, "a value") end
  if text:find("^%-?0%d", at) then fail(at, "a number without zeros in front") end
  if text:sub(last + 1, last + 1) == "." then
    _, last = text:find("^%d+", last + 2)
    if not last then fail(text:find(".", at, true) + 1, "a digit") end
  end
  local _, sign = text:find("^[eE][-+]?", last + 1)
  if sign then
    _, last = text:find("^%d+", sign + 1)
    if not last then fail(sign + 1, "a digit") end
  end
  local number = tonumber(text:sub(at, last))
  if number == math.huge or number == -math.huge then fail(at, "a number of at most 1.8e308") end
  return number, last + 1
end

function read(text, at, depth)
  at = skip(text, at)
  local c = text:sub(at, at)
  if depth >= DEPTH and (c == "{" or c == "[") then fail(at, ("at most %d levels"):format(DEPTH)) end
  if c == "{" then return read_object(text, at + 1, depth + 1) end
  if c == "[" then return read_list(text, at + 1, depth + 1) end
  if c == '"' then return read_string(text, at + 1) end
  local word = text:match("^%a+", at)
  if word and words[word] ~= nil then return words[word], at + #word end
  return read_number(text, at)
end

--- The value of a JSON text: true and the value, or false and what is wrong.
---@return boolean fine, any value
function json.decode(text)
  if type(text) ~= "string" then check.fail("json.decode: expected a string, got %s", check.show(text)) end
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
