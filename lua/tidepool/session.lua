--- What the interactive session does in Lua: compiling lines so that their locals last, completion, help.
--
-- A local that is declared at the prompt is kept as an upvalue: each line that mentions it is compiled as a function inside the scope of such
-- names, whose upvalues are then joined with those that the earlier lines' own functions use. So all of them share one variable.

local app = require "tidepool.app"
local call = require "tidepool.call"
local loop = require "tidepool.loop"
local failure = require "tidepool.failure"
local func = require "tidepool.func"
local options = require "tidepool.options"
local results = require "tidepool.results"
local show = require "tidepool.show"

local session = {}

-- The session works on whatever its user does to the globals.
local loadstring, type, pairs, ipairs, next, rawget, pcall, tostring, unpack = loadstring, type, pairs, ipairs, next, rawget, pcall, tostring, unpack
local getmetatable, debug, table, globals, getinfo = debug.getmetatable, debug, table, _G, debug.getinfo

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
               then true until while]]):gmatch "%a+" do
  keywords[word] = true
end

-- ---- lines ----

local kept = {} -- name -> a function whose first upvalue is the local
local KEEP = "__tidepool_keep"
local UPVALUES_MAX = 50

local function sorted(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- Names that are kept and that the text mentions.
local function mentioned(text)
  local found = {}
  for name in text:gmatch "[%a_][%w_]*" do
    if kept[name] then found[name] = true end
  end
  return sorted(found)
end

--- Names that the text may declare as locals; some may be none.
local function declared(text)
  local found = {}
  for list in text:gmatch "%f[%w_]local%s+([%a_][%w_%s,]*)" do
    local name = list:match "^function%s+([%a_][%w_]*)"
    if name then
      found[name] = true
    else
      for each in list:gmatch "[%a_][%w_]*" do found[each] = true end
    end
  end
  for name in pairs(found) do
    if keywords[name] then found[name] = nil end
  end
  return sorted(found)
end

local function keep(...)
  for i = 1, select("#", ...), 2 do
    local name, getter = select(i, ...)
    if debug.getupvalue(getter, 1) == name then kept[name] = getter end -- else it is a global, or nothing
  end
end

--- The function of `code`, inside the scope of the kept locals that `names` lists; the text of an error otherwise.
local function compile_inside(code, names, declares)
  local before = #names > 0 and "local " .. table.concat(names, ",") .. "; " or ""
  local after = ""
  if #declares > 0 and #declares <= UPVALUES_MAX then
    before = before .. "local " .. KEEP .. " = ...; "
    local parts = {}
    for i, name in ipairs(declares) do parts[i] = ("%q, function() return %s end"):format(name, name) end
    after = ("\n;%s(%s)"):format(KEEP, table.concat(parts, ", "))
  end
  local outer = loadstring(before .. "return function(...) " .. code .. after .. "\nend", "=stdin")
  -- After a `return` nothing may follow.
  if not outer then outer = loadstring(before .. "return function(...) " .. code .. "\nend", "=stdin") end
  if not outer then return nil end
  local fn = outer(keep)
  for i = 1, 60 do
    local name = debug.getupvalue(fn, i)
    if not name then break end
    if kept[name] then debug.upvaluejoin(fn, i, kept[name], 1) end
  end
  return fn
end

local function is_unfinished(message)
  return message:sub(-7) == "'<eof>'"
end

--- The function of a line, or of several that belong together; an expression returns its values. Otherwise nil, what is wrong, and whether that is
--- that something is missing.
---@return function? fn, string? message, boolean? unfinished
function session.compile(text)
  text = session.command(text) or text
  local forced = text:sub(1, 1) == "="
  if forced then text = text:sub(2) end
  local names = mentioned(text)
  -- Not `return f()`: a tail call has no line of its own in a traceback.
  local as_expression = "return (function(...) return ... end)(" .. text .. "\n)"
  local fn, expression_error = loadstring("return " .. text, "=stdin")
  if fn then
    fn = loadstring(as_expression, "=stdin") or fn
    return #names > 0 and compile_inside(as_expression, names, {}) or fn
  elseif forced then
    return nil, expression_error, is_unfinished(expression_error)
  end
  local statement, statement_error = loadstring(text, "=stdin")
  if not statement then
    local begins_expression = not is_unfinished(statement_error) and is_unfinished(expression_error)
    local message = begins_expression and expression_error or statement_error
    return nil, message, is_unfinished(message)
  end
  local declares = declared(text)
  if #names == 0 and #declares == 0 then return statement end
  return compile_inside(text, names, declares) or statement
end

-- ---- completion ----

--- The value of a kept local or global.
local function variable(name)
  if kept[name] then
    local _, value = debug.getupvalue(kept[name], 1)
    return value
  end
  return rawget(globals, name)
end

--- Tables in which the value's fields are found, without running any code of users.
local function field_tables(value)
  local found = {}
  if type(value) == "table" then found[1] = value end
  if func.is_function(value) then found[2] = func.methods end
  for _ = 1, 10 do
    local mt = getmetatable(value)
    value = type(mt) == "table" and rawget(mt, "__index")
    if type(value) ~= "table" then break end
    found[#found + 1] = value
  end
  return found
end

--- The value of "a.b.c"; nil when some part of it is not there.
local function value_of(path)
  local value
  for name in path:gmatch "[^.:]+" do
    if value == nil then
      value = variable(name)
    else
      local found
      for _, fields in ipairs(field_tables(value)) do
        found = rawget(fields, name)
        if found ~= nil then break end
      end
      value = found
    end
    if value == nil then return nil end
  end
  return value
end

local function add_matches(out, set, prefix, suffix)
  for name in next, set do
    if type(name) == "string" and name:find "^[%a_][%w_]*$" and name:sub(1, #prefix) == prefix and not (prefix == "" and name:find "^_") then
      out[name .. (suffix or "")] = true
    end
  end
end

local option_rows = {
  func = options.of_functions, with = options.of_functions, App = options.of_functions, map = options.of_calls, starmap = options.of_calls,
  spawn_map = options.of_calls, for_each = options.of_for_each,
}

--- The options that may be written at the end of the text: it is in a table that is the last thing of a call that takes some.
local function options_at(text)
  local head, inside = text:match "^(.*){([^{}]*)$"
  if not head or not (inside:find "^%s*[%a_]*$" or inside:find ",%s*[%a_]*$") then return nil end
  for name in head:gmatch "[%.:]([%a_]+)%f[^%a_]%s*[%({%s]" do
    if option_rows[name] then head = name end
  end
  return option_rows[head] or option_rows[head:match "[%.:]([%a_]+)%s*%(?%s*$" or ""]
end

--- Completes the end of a text: how many bytes of it are the beginning of a name, and the names that begin so.
---@return integer length, table names
function session.complete(text)
  local path, sep, prefix = text:match "([%a_][%w_.:]*)([.:])([%w_]*)$"
  local found = {}
  if path then
    local value = value_of(path)
    for _, fields in ipairs(value ~= nil and field_tables(value) or {}) do
      for name, each in next, fields do
        if sep == "." or type(each) == "function" then add_matches(found, { [name] = true }, prefix) end
      end
    end
    return #prefix, sorted(found)
  end
  prefix = text:match "[%a_]?[%w_]*$"
  local rows = options_at(text)
  if rows then
    for _, row in ipairs(rows) do add_matches(found, { [row[1]] = true }, prefix, " = ") end
  else
    add_matches(found, globals, prefix)
    add_matches(found, kept, prefix)
    if prefix ~= "" then add_matches(found, keywords, prefix) end
  end
  return #prefix, sorted(found)
end

-- ---- help ----

local overview = [[
Type Lua. An expression is shown; `=` is not needed. Locals stay until the session ends.
  help(x)      about a value: a Function, an app, results, any function    help "retries"   about an option
  Tab          completes names, fields, methods, options      Up, Ctrl-R    earlier lines
  Ctrl-C       stops the running line                         Ctrl-D        ends the session
Start with:
  tidepool = require "tidepool"
  app = tidepool.App "try"
  square = app:func(function(x) return x * x end)
  square:map(tidepool.range(10)):list()]]

local methods_help = {
  { "f(...)", "runs here and now: plain Lua" },
  { "f:remote(...)", "one call in the pool: its results, or its error" },
  { "f:map(xs, ys, ..., options?)", "one input per position; Results in the order of the inputs" },
  { "f:starmap(lists, options?)", "each item is a list of arguments" },
  { "f:for_each(xs, ..., options?)", "for the effect; { ok =, failed = }" },
  { "f:spawn(...)", "starts one call: a Call with get, done, cancel" },
  { "f:spawn_map(xs, ..., options?)", "starts a map now; its Results may be read later" },
  { "f:with(options)", "the same function under other options" },
  { "f:stats()", "{ queued, running, done, failed }" },
}

local classes_help = {
  { app.App, {
    { "app:func(options)(fn)", "decorates a function; app:func(fn) and app:func(options, fn) work too" },
    { "app:main(options)(fn)", "what `tidepool run` calls" },
    { "app:include(other)", "takes over another app's functions" },
  } },
  { results.Results, {
    { "for i, a, b in results do", "the index, and what the function returned" },
    { "results:list()", "all of them, a list per return value, with n" },
    { "results:array(ctype?)", "all of them as typed arrays" },
    { "results:next()", "one step by hand" },
    { "results:cancel()", "stops the map" },
    { "results:done(), results:progress()", "counts, without waiting" },
  } },
  { call.Call, {
    { "call:get(timeout?)", "waits: the results, or the error" },
    { "call:done()", "is it?" },
    { "call:cancel()", "stops it if it can be" },
  } },
  { failure.Failure, {
    { "failure.kind", '"error", "timeout", "crash", "memory", "cancelled", "codec", ...' },
    { "failure.message, .value, .traceback", "what was raised, and where" },
    { "failure.index, .attempts", "which input, and how often it was tried" },
  } },
}

local module_help = {
  { "tidepool.App(name?, defaults?)", "a group of functions" },
  { "tidepool.range(n), (from, to, step?)", "numbers as inputs" },
  { "tidepool.iter(pairs(t))", "an iterator as inputs" },
  { "tidepool.array(ctype, n or list)", "numbers that all workers share" },
  { "tidepool.is_failure(value)", "is a result a failure?" },
  { "tidepool.current()", "inside a function: which item runs" },
}

local function lines_of(rows)
  local out = {}
  for i, row in ipairs(rows) do out[i] = ("  %-38s %s"):format(row[1], row[2]) end
  return table.concat(out, "\n")
end

--- Where a function is, its parameters, and the comment above it.
local function describe_function(fn)
  local info = getinfo(fn, "Su")
  if info.what == "C" then return tostring(fn) end
  local names = {}
  for i = 1, info.nparams do names[i] = debug.getlocal(fn, i) end
  if info.isvararg then names[#names + 1] = "..." end
  local text = ("function(%s)  %s:%d"):format(table.concat(names, ", "), info.short_src, info.linedefined)
  local path = info.source:match "^@(.*)"
  local file = path and io.open(path)
  if not file then return text end
  local comment, number = {}, 0
  for line in file:lines() do
    number = number + 1
    if number == info.linedefined then break end
    if line:find "^%s*%-%-" then
      comment[#comment + 1] = line:match "^%s*(%-%-.*)"
    elseif not line:find ":func%f[^%w_]" then
      comment = {}
    end
  end
  file:close()
  return #comment > 0 and table.concat(comment, "\n") .. "\n" .. text or text
end

local function describe_option(name)
  for _, rows in ipairs { options.of_functions, options.of_for_each } do
    for _, row in ipairs(rows) do
      if row[1] == name then
        local where = rows == options.of_functions and "an option of functions" or "an option of map, starmap and spawn_map"
        if row.alias_of then return ("%s: the same as %s"):format(name, row.alias_of) end
        return ("%s: %s. %s%s."):format(name, where, row[3]:sub(1, 1):upper(), row[3]:sub(2))
      end
    end
  end
  return ("There is no option %q. help() says what else there is."):format(name)
end

--- What `help(x)` shows.
---@return string
function session.help(...)
  local value = ...
  if select("#", ...) == 0 or value == session.show_help then return overview end
  if type(value) == "string" then return describe_option(value) end
  if value ~= nil and value == package.loaded.tidepool then return lines_of(module_help) end
  if func.is_function(value) then
    return ("%s: %s\n%s\n%s"):format(value.name, describe_function(value.raw), "options: " .. show.value(value.options), lines_of(methods_help))
  elseif type(value) == "function" then
    return describe_function(value)
  end
  local mt = getmetatable(value)
  for _, class in ipairs(classes_help) do
    if mt == class[1] then return tostring(value) .. "\n" .. lines_of(class[2]) end
  end
  return ("%s: %s"):format(type(value), show.value(value, { depth = 2, items = 20 }))
end

--- The global `help` of a session: help(x), or help alone.
session.show_help = setmetatable({}, {
  __call = function(_, ...) io.stdout:write(session.help(...), "\n") end,
  __tostring = function() return overview end,
})

--- Makes the session's globals.
function session.open()
  if rawget(globals, "help") == nil then globals.help = session.show_help end
end

--- ":help", ":help x": a line that is no Lua. Its text as Lua, nil for other lines.
function session.command(text)
  local rest = text:match "^%s*:help%s*(.-)%s*$"
  if not rest then return nil end
  if rest == "" then return "help()" end
  return variable(rest:match "^[%a_][%w_]*" or "") == nil and ("help(%q)"):format(rest) or "help(" .. rest .. ")"
end

-- ---- what was spawned ----

local announced = setmetatable({}, { __mode = "k" })

--- Lines about spawned calls and maps that have ended since the last time; nil when there are none. Does not wait.
---@return string?
function session.news(width)
  local lines = {}
  for _, one in ipairs(loop.list()) do
    if not announced[one] then
      if one._feed and one.job then pcall(one._feed, one) end
      if one:done() then
        announced[one] = true
        if one._feed then
          lines[#lines + 1] = tostring(one)
        else
          local got = { pcall(one.get, one) }
          local text = got[1] and show.line(width, unpack(got, 2, table.maxn(got))) or tostring(got[2])
          lines[#lines + 1] = ("[%s is done%s]"):format(one.f.name, text ~= "" and ": " .. text or "")
        end
      end
    end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

--- Is anything spawned that has not been announced?
function session.awaits()
  for _, one in ipairs(loop.list()) do
    if not announced[one] then return true end
  end
  return false
end

return session
