-- show.lua: Lua values as text for people: at the prompt, in results of `tidepool run`, in error
-- values.
--
-- Never raises, whatever the value: metamethods of the user are called protected, and everything
-- has a limit.

local core = require "tidepool.core"

local show = {}

local type, tostring, pcall, rawget, rawequal, next = type, tostring, pcall, rawget, rawequal, next
local getmetatable = debug.getmetatable
local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
               then true until while]]):gmatch "%a+" do
  keywords[word] = true
end

---@class tidepool.ShowOptions
---@field depth? integer tables inside tables that are opened; default 4
---@field items? integer entries of one table that are shown; default 100
---@field width? integer columns of a line; a table that needs more is spread over lines. Default: one line
---@field text? integer bytes of a string that are shown; default 10,000

-- The first `limit` bytes of a string in quotes, with quotes, backslashes and control characters
-- escaped; bytes from 128 up stay.
local function quote(s, limit)
  local rest = #s - limit
  if rest > 0 then
    s = s:sub(1, limit)
  end
  s = s:gsub('[%c\\"\127]', function(c)
    local short = ({ ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" })[c]
    return short or ("\\%03d"):format(c:byte())
  end)
  return '"' .. s .. '"' .. (rest > 0 and ("... (%d bytes more)"):format(rest) or "")
end

local function escape(bytes)
  return (bytes:gsub(".", function(c)
    return ("\\%03d"):format(c:byte())
  end))
end

-- Escapes among bytes from 128 up: UTF-8 stays, except for the control characters U+0080 to U+009F.
local function escape_high(bytes)
  local out, i = {}, 1
  while i <= #bytes do
    local lead = bytes:byte(i)
    local length = lead >= 0xC2 and lead < 0xE0 and 2 or lead >= 0xE0 and lead < 0xF0 and 3 or lead >= 0xF0 and lead < 0xF5 and 4 or 1
    local character = bytes:match("^[\192-\255]" .. ("[\128-\191]"):rep(length - 1), i)
    if length == 1 or not character or (lead == 0xC2 and bytes:byte(i + 1) < 0xA0) then
      character, length = escape(bytes:sub(i, i)), 1
    end
    out[#out + 1] = character
    i = i + length
  end
  return table.concat(out)
end

--- The text with control characters, which a terminal would obey, escaped; `is_line`: line ends
--- too, so that it stays one line of a log.
---@param text string
---@param is_line? boolean
---@return string
function show.plain(text, is_line)
  text = text:gsub(is_line and "[%z\1-\31\127]+" or "[%z\1-\8\11-\31\127]+", escape)
  return (text:gsub("[\128-\255]+", escape_high))
end

-- The text of a __tostring; nil when there is none or when it fails.
local function own_text(value)
  local mt = getmetatable(value)
  local convert = type(mt) == "table" and rawget(mt, "__tostring")
  if not convert then
    return nil
  end
  local ok, text = pcall(convert, value)
  return ok and type(text) == "string" and show.plain(text) or nil
end

---A number as the shortest text that reads as the same number; whole ones below 2^53 with all of
---their digits.
---@param x number
---@return string
function show.number(x)
  if x % 1 == 0 and x < 2 ^ 53 and x > -2 ^ 53 then
    return x == 0 and 1 / x < 0 and "-0" or ("%.0f"):format(x)
  elseif x ~= x or x == math.huge or x == -math.huge then
    return tostring(x)
  end
  local text
  for digits = 14, 17 do
    text = ("%%.%dg"):format(digits):format(x)
    if tonumber(text) == x then break end
  end
  return text
end

local TEXT = 10000 -- bytes of a string that are shown

local function leaf(value, limit)
  local kind = type(value)
  if kind == "string" then
    return quote(value, limit or TEXT)
  elseif rawequal(value, core.null) then
    return "null"
  elseif kind == "function" then
    local info = debug.getinfo(value, "S")
    if info.what ~= "C" then
      return ("function <%s:%d>"):format(show.plain(info.short_src, true), info.linedefined)
    end
  end
  local ok, text = pcall(tostring, value)
  return ok and type(text) == "string" and show.plain(text) or kind
end

local rank = { number = 1, string = 2, boolean = 3 }

local function before(a, b)
  local kind_a, kind_b = rank[type(a)] or 4, rank[type(b)] or 4
  if kind_a ~= kind_b then
    return kind_a < kind_b
  elseif kind_a <= 2 then
    return a < b
  end
  return leaf(a) < leaf(b)
end

local function key_text(key)
  if type(key) == "string" and key:find "^[%a_][%w_]*$" and not keywords[key] then
    return key
  end
  return "[" .. leaf(key) .. "]"
end

-- The keys of t outside its list part 1..n, in a fixed order, at most `limit` of them; and how many
-- there are.
local function other_keys(t, n, limit)
  local keys, count = {}, 0
  for key in next, t do
    if not (type(key) == "number" and key >= 1 and key <= n and key % 1 == 0) then
      count = count + 1
      if count <= limit * 10 then -- sorting a huge table only to cut it would take long
        keys[count] = key
      end
    end
  end
  table.sort(keys, before)
  return keys, count
end

local build

-- The entries of a table, as texts.
local function entries(t, state, depth, indent)
  local parts, n = {}, 0
  while n < state.items and rawget(t, n + 1) ~= nil do
    n = n + 1
    parts[n] = build(rawget(t, n), state, depth, indent)
  end
  local length = n
  while rawget(t, length + 1) ~= nil do
    length = length + 1
  end
  local keys, count = other_keys(t, length, state.items)
  for i = 1, math.min(#keys, state.items - n) do
    local key = keys[i]
    parts[#parts + 1] = key_text(key) .. "=" .. build(rawget(t, key), state, depth, indent)
  end
  local more = length + count - #parts
  if more > 0 then
    parts[#parts + 1] = ("... (%d more)"):format(more)
  end
  return parts
end

function build(value, state, depth, indent)
  if type(value) ~= "table" then
    return leaf(value, state.text)
  end
  local text = own_text(value)
  if text then
    local first = depth < state.depth and text:match "^(.-)\n" -- inside a table, a failure is one line
    return first and "<" .. first .. ">" or text
  elseif state.open[value] then
    return "<cycle>"
  elseif next(value) == nil then
    return "{}"
  elseif depth == 0 then
    return "{...}"
  end
  state.open[value] = true
  local parts = entries(value, state, depth - 1, indent + 2)
  state.open[value] = nil
  local line = "{" .. table.concat(parts, ", ") .. "}"
  if not state.width or (#line + indent <= state.width and not line:find("\n", 1, true)) then
    return line
  end
  local margin = "\n" .. (" "):rep(indent + 2)
  return "{" .. margin .. table.concat(parts, "," .. margin) .. "\n" .. (" "):rep(indent) .. "}"
end

---A value as readable text: strings quoted, tables opened, cycles named.
---@param value any
---@param options? tidepool.ShowOptions
---@return string
function show.value(value, options)
  options = options or {}
  local depth = options.depth or 4
  local state = { open = {}, items = options.items or 100, width = options.width, depth = depth, text = options.text }
  return build(value, state, depth, 0)
end

local LINE_TEXT = 1000 -- bytes of a string at the prompt

---Several values on one line, as the REPL shows them (on several lines where they are long).
---@param width integer columns of the terminal
---@return string
function show.line(width, ...)
  local n, values, texts = select("#", ...), { ... }, {}
  for i = 1, n do texts[i] = show.value(values[i], { width = width, text = LINE_TEXT }) end
  local line = table.concat(texts, "  ")
  return #line <= width and line or table.concat(texts, "\n")
end

local colours = { string = "\27[32m", number = "\27[36m", word = "\27[35m", rest = "\27[2m" }
local words = { ["nil"] = true, ["true"] = true, ["false"] = true, null = true }

---The text of show.line with colours for a terminal: strings, numbers, nil and booleans; what was
---left out is dim.
---@param text string
---@return string
function show.coloured(text)
  local parts, at = {}, 1
  local function add(kind, piece) parts[#parts + 1] = kind and colours[kind] .. piece .. "\27[0m" or piece end
  while at <= #text do
    local stop, kind
    if text:find('^"', at) then
      stop = at + 1
      while stop < #text and not text:find('^"', stop) do stop = stop + (text:find("^\\", stop) and 2 or 1) end
      kind = "string"
    elseif text:find("^%.%.%. %(%d+ %l+ more%)", at) or text:find("^%.%.%. %(%d+ more%)", at) then
      stop, kind = text:find(")", at, true), "rest"
    elseif text:find("^[%a_]", at) then
      local word
      word, stop = text:match("^([%w_]+)()", at)
      stop, kind = stop - 1, words[word] and not text:find("^=", stop) and "word" or nil
    elseif text:find("^%-?%d", at) then
      stop = text:match("^%-?[%w%.]+()", at) - 1
      kind = not text:find("^0x", at) and "number" or nil -- not a part of an address
    else
      stop = (text:find('["%w_%-%.]', at + 1) or #text + 1) - 1
    end
    add(kind, text:sub(at, stop))
    at = stop + 1
  end
  return table.concat(parts)
end

local function cut(text, limit)
  return #text <= limit and text or text:sub(1, limit - 3) .. "..."
end

local function cannot_say(value, why)
  return ("(error object is a %s%s)"):format(type(value), why or "")
end

-- The text of the value's own __tostring, or what went wrong in it.
local function converted(value, convert)
  local ok, text = pcall(convert, value)
  if not ok then
    return cannot_say(value, "; its __tostring failed: " .. (type(text) == "string" and text or leaf(text)))
  elseif type(text) ~= "string" then
    return cannot_say(value, "; its __tostring returned a " .. type(text))
  end
  return text
end

---The message of an error value of any type.
---@param value any what was given to `error`
---@return string
function show.error(value)
  local kind = type(value)
  if kind == "string" then
    return value
  elseif kind == "nil" or kind == "boolean" or kind == "number" then
    return tostring(value)
  elseif kind == "cdata" then
    local ok, text = pcall(tostring, value)
    text = ok and text or "cdata"
    return text:find "^cdata<" and ("(error object is a %s)"):format(text:match "^(.->):" or text) or text
  end
  local mt = getmetatable(value)
  local convert = type(mt) == "table" and rawget(mt, "__tostring")
  if (kind == "table" or kind == "userdata") and convert then
    return converted(value, convert)
  elseif kind == "table" then
    return cut(show.value(value, { depth = 1, items = 40 }), 200)
  end
  return cannot_say(value)
end

return show
