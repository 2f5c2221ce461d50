--- Errors that blame the caller: positions in users' code, and the known name that is nearest to a
--- misspelt one.

local abi = require "tidepool.base.abi"
local core = require "tidepool.core"

local check = {}

local getinfo, typeof = debug.getinfo, require "ffi".typeof

local OURS = "=" .. abi.CHUNKS

--- Is a chunk ours, by its name (the field `source` of debug.getinfo)?
---@return boolean
function check.is_ours(source)
  return source:sub(1, #OURS) == OURS
end

--- The innermost frame of the user: debug.getinfo's source, short_src and currentline; nil when
-- there is none.
---@return table?
function check.frame()
  local level = 2
  while true do
    local info = getinfo(level, "Sl")
    if not info or (info.what ~= "C" and not check.is_ours(info.source)) then return info end
    level = level + 1
  end
end

--- "file:line: " of that frame, "" when there is none.
---@return string
function check.where()
  return (core.where())
end

--- The text with a position in front of it ("file:line: "), by default that of the user's code. A
--- function without a name is called by its place, so a text that begins with its name may begin
--- with the position: it is said once.
---@param text string
---@param where string?
---@return string
function check.placed(text, where)
  where = where or check.where()
  local bare = where:sub(1, -3)
  if where == "" or text:sub(1, #bare) ~= bare then return where .. text end
  local rest = text:sub(#bare + 1)
  if rest:sub(1, 2) == ": " then return text end
  return rest:sub(1, 1) == " " and where .. "it" .. rest or where .. text
end

--- Raises unless `self` is an object of that class, as when a method is called with a dot.
--- `arguments` are shown in the right form of the call.
function check.self(self, class, object, method, arguments)
  if getmetatable(self) ~= class then
    check.fail("%s.%s was called with a dot, or on something else: write %s:%s(%s)", object, method, object, method, arguments or "")
  end
end

--- Raises a usage error with the caller's position.
function check.fail(format, ...)
  error(check.placed(format:format(...)), 0)
end

--- Raises when a function of ours got one argument too many, `extra`. `takes` says in words what it
--- takes.
function check.no_more(extra, who, takes)
  if extra ~= nil then check.fail("%s takes %s, but has got more: %s", who, takes, check.show(extra)) end
end

--- The function, which we are about to call for the user. One written in C blames whoever calls it
--- for its arguments: here it blames the user's line, and has a name.
---@param fn function
---@param name string  what it is to the user: "the function of results:reduce"
function check.called(fn, name)
  if getinfo(fn, "S").what ~= "C" then return fn end
  local function give(fine, ...)
    if fine then return ... end
    local why = ...
    if type(why) == "string" then why = check.placed((why:gsub("^bad argument #(%d+) to '%?'", ("bad argument #%%1 to %s"):format(name)))) end
    error(why, 0)
  end
  return function(...) return give(pcall(fn, ...)) end
end

--- Is the last argument of a call its options? A plain table whose keys are all strings, none of
--- them `n`. An empty table may be an empty list of inputs: `has_others` says that arguments before
--- it can be the inputs, and then it means no options (`options or {}`).
function check.is_options(value, has_others)
  if type(value) ~= "table" or getmetatable(value) or value.n ~= nil then return false end
  if next(value) == nil then return has_others or false end
  for key in pairs(value) do
    if type(key) ~= "string" then return false end
  end
  return true
end

--- How many edits (insert, delete, replace, swap of neighbours) turn a into b: the optimal string
-- alignment distance.
local function distance(a, b)
  local before, last, row = {}, {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    row[0] = i
    for j = 1, #b do
      local same = a:byte(i) == b:byte(j)
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (same and 0 or 1))
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last, row = last, row, before
  end
  return last[#b]
end

--- The name among `names` (a list) that is most like `name`, or nil when none is near.
---@param most integer?  how many edits may be between them: a third of its letters, or 2
---@return string?
function check.nearest(name, names, most)
  local best, best_distance = nil, (most or math.max(2, math.floor(#name / 3))) + 1
  for _, candidate in ipairs(names) do
    local d = distance(name:lower(), candidate:lower())
    if d < best_distance then best, best_distance = candidate, d end
  end
  return best
end

--- Raises when `key`, which is no member of an object, is nearly the name of one: "f has no method
--- 'mapp' (did you mean 'map'?)". Other names may be asked for, as scripts do to see what there is.
---@param what string      what the object is called
---@param key any
---@param members table    those that it has: name -> anything
---@param kind string?     "method"
---@param elsewhere table? what other libraries call it -> what is to be done here
function check.missing(what, key, members, kind, elsewhere)
  if type(key) ~= "string" or key:find "^_" then return end
  if elsewhere and elsewhere[key] then check.fail("%s has no %s '%s': %s", what, kind or "method", key, elsewhere[key]) end
  local names = {}
  for name in pairs(members) do
    -- short names are near to too many others: only their letters' case is taken for a slip
    local is_public = type(name) == "string" and name:sub(1, 1) ~= "_"
    if is_public and (#key >= 4 or name:lower() == key:lower()) then names[#names + 1] = name end
  end
  -- two edits make another word of a short one: name, time
  local near = check.nearest(key, names, #key < 6 and 1 or nil)
  if near then check.fail("%s has no %s '%s' (did you mean '%s'?)", what, kind or "method", key, near) end
end

--- What functions have, for those who look for it in an app, or in the module.
check.of_functions = {}
for method in ("map starmap for_each flat_map stream remote spawn spawn_map"):gmatch "%S+" do
  check.of_functions[method] = ("functions have it: app:func(fn):%s(...)"):format(method)
end

--- What futures elsewhere have, in the place of `get`.
---@param object string  "call"
function check.of_futures(object)
  local texts = {}
  for name in ("wait join await"):gmatch "%S+" do texts[name] = ("waits, and gives what it returned: %s:get()"):format(object) end
  return texts
end

--- Objects of the class raise when they are asked for what is nearly the name of a method.
---@param class table    its methods; also its objects' metatable, with itself as __index
---@param what string    what an object is called: "a call"
---@param fields string? those of objects that may be unset, with spaces between them
---@param elsewhere table? as for check.missing
function check.hints(class, what, fields, elsewhere)
  local is_field = {}
  for name in (fields or ""):gmatch "%S+" do is_field[name] = true end
  setmetatable(class, { __index = function(_, key)
    if not is_field[key] then check.missing(what, key, class, nil, elsewhere) end
  end })
end

--- Which object of ours a value is: "tidepool.App"; nil for others, whose own Lua is not asked.
local function class_of(value)
  local metatable = getmetatable(value)
  local say = type(metatable) == "table" and rawget(metatable, "__tostring")
  local info = type(say) == "function" and getinfo(say, "S")
  if not info or info.what ~= "C" and not check.is_ours(info.source) then return nil end
  local fine, text = pcall(say, value)
  return fine and type(text) == "string" and text:match "^tidepool%.%a+" or nil
end

--- What a value is, without the value: "nil", "a string", "a tidepool.App", "an array".
---@return string
function check.kind(value)
  local kind = type(value)
  if kind == "nil" then return "nil" end
  if kind == "cdata" then
    if require "tidepool.array".type_of(value) then return "an array" end
    local text = tostring(value)
    return "a " .. (text:match "^%a+<.*>" or "cdata" .. tostring(typeof(value)):match "<.*>")
  end
  if io.type(value) then return "a file" end
  return check.a(kind ~= "string" and class_of(value) or kind)
end

--- A value as a message shows it: short, and with its type unless that is obvious.
---@return string
function check.show(value)
  local kind = type(value)
  if kind == "string" then return "the string " .. (#value > 40 and ("%q..."):format(value:sub(1, 40)) or ("%q"):format(value)) end
  if kind == "number" or kind == "boolean" then return tostring(value) end
  return kind == "cdata" and tostring(value):match "^%-?%d.*LL$" or check.kind(value)
end

--- A value in a line of Lua that a message shows: short, without what is in tables.
---@return string
function check.source(value)
  if type(value) == "table" then return "{ ... }" end
  return type(value) == "string" and ("%q"):format(value) or check.show(value)
end

--- A name, or another key, as a message shows it: 'x', or 7.
---@return string
function check.key(value)
  return type(value) == "string" and #value <= 40 and not value:find "%c" and "'" .. value .. "'" or (check.show(value):gsub("^the string ", ""))
end

--- "a table", "an integer": the name of a type with its article.
function check.a(name)
  return (name:find("^[aeio]") and "an " or "a ") .. name
end

return check
