--- What the interactive session does in Lua: compiling lines so that their locals last, and telling what was spawned and is done. Completion
--- (complete.lua) and help (help.lua) have files of their own.
--
-- A local that is declared at the prompt is kept as an upvalue: each line that mentions it is compiled as a function inside the scope of such
-- names, whose upvalues are then joined with those that the earlier lines' own functions use. So all of them share one variable.

local app = require "tidepool.app"
local complete = require "tidepool.complete"
local help = require "tidepool.help"
local loop = require "tidepool.loop"
local show = require "tidepool.show"

local session = {}

-- The session works on whatever its user does to the globals.
local loadstring, pairs, ipairs, rawget, pcall, tostring, unpack, select = loadstring, pairs, ipairs, rawget, pcall, tostring, unpack, select
local debug, table, globals = debug, table, _G

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
               then true until while]]):gmatch "%a+" do
  keywords[word] = true
end

-- ---- lines ----

local kept = {} -- name -> a function whose first upvalue is the local
local KEEP = "__tidepool_keep"
local UPVALUES_MAX = 50

--- Names that are kept and that the text mentions.
local function mentioned(text)
  local found = {}
  for name in text:gmatch "[%a_][%w_]*" do
    if kept[name] then found[name] = true end
  end
  return complete.sorted(found)
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
  return complete.sorted(found)
end

local function keep(...)
  for i = 1, select("#", ...), 2 do
    local name, getter = select(i, ...)
    if debug.getupvalue(getter, 1) == name then kept[name] = getter end -- else it is a global, or nothing
  end
end

local TEXTS_MAX = 100

-- loadstring; the text is kept, for who needs that of a function (the translator for devices): the last one first.
local function load_line(text)
  local fn, why = loadstring(text, "=stdin")
  if not fn then return nil, why end
  local registry = debug.getregistry()
  registry["tidepool.texts"] = registry["tidepool.texts"] or {}
  local texts = registry["tidepool.texts"]["=stdin"] or {}
  registry["tidepool.texts"]["=stdin"] = texts
  table.insert(texts, 1, text)
  texts[TEXTS_MAX + 1] = nil
  return fn
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
  local outer = load_line(before .. "return function(...) " .. code .. after .. "\nend")
  -- After a `return` nothing may follow.
  if not outer then outer = load_line(before .. "return function(...) " .. code .. "\nend") end
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
  local unknown = text:match "^%s*(:%a%S*)"
  if unknown then return nil, ("there is no command '%s' (there is :help; all else is Lua)"):format(unknown) end
  app.set_session_text(text)
  local forced = text:sub(1, 1) == "="
  if forced then text = text:sub(2) end
  local names = mentioned(text)
  local fn, expression_error = loadstring("return " .. text, "=stdin")
  if fn then
    -- Not `return f()`: a tail call has no line of its own in a traceback. Errors have the line of the bracket, which stands on the last one
    -- unless that ends in a comment.
    local as_expression = "return (function(...) return ... end)(" .. text:gsub("[%s;]+$", "") .. ")"
    if not loadstring(as_expression) then as_expression = "return (function(...) return ... end)(" .. text .. "\n)" end
    fn = load_line(as_expression) or fn
    return #names > 0 and compile_inside(as_expression, names, {}) or fn
  elseif forced then
    return nil, expression_error, is_unfinished(expression_error)
  end
  local statement, statement_error = load_line(text)
  if not statement then
    local begins_expression = not is_unfinished(statement_error) and is_unfinished(expression_error)
    local message = begins_expression and expression_error or statement_error
    return nil, message, is_unfinished(message)
  end
  local declares = declared(text)
  if #names == 0 and #declares == 0 then return statement end
  return compile_inside(text, names, declares) or statement
end

-- ---- completion and help ----

--- The value of a kept local or global.
local function variable(name)
  if kept[name] then
    local _, value = debug.getupvalue(kept[name], 1)
    return value
  end
  return rawget(globals, name)
end

--- Completes the end of a text: how many bytes of it are the beginning of a name, and the names that begin so.
---@return integer length, table names
function session.complete(text)
  return complete.complete(text, variable, { globals, kept, keywords })
end

--- Makes the session's globals.
function session.open()
  if rawget(globals, "help") == nil then globals.help = help.show end
end

-- What people type to get out, at other prompts.
local farewells = { exit = true, quit = true, [":q"] = true, [":quit"] = true, [":exit"] = true, [".exit"] = true }

--- Lines that are no Lua: ":help", ":help x", and farewells. Their text as Lua, nil for other lines.
function session.command(text)
  local word = text:match "^%s*(%S+)%s*$"
  if word and farewells[word] and variable(word) == nil then return "os.exit()" end
  local rest = text:match "^%s*:help%s*(.-)%s*$"
  if not rest then return nil end
  if rest == "" then return "help()" end
  return variable(rest:match "^[%a_][%w_]*" or "") == nil and ("help(%q)"):format(rest) or "help(" .. rest .. ")"
end

-- ---- what was spawned ----

local announced = setmetatable({}, { __mode = "k" })

--- Lines about what was spawned and has ended since the last time, and about failed tasks; nil when there are none. Does not wait.
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
          local text = got[1] and show.line(width, unpack(got, 2, table.maxn(got))) or show.plain(tostring(got[2]))
          lines[#lines + 1] = ("[%s is done%s]"):format(one.f.name, text ~= "" and ": " .. text or "")
        end
      end
    end
  end
  if loop.has_unread() then
    for _, failed in ipairs(loop.take_unread()) do lines[#lines + 1] = show.plain(tostring(failed)) end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

--- What goes on while the user types: tasks, timers, callbacks.
function session.turn()
  if loop.is_busy() then loop.step() end
end

local LOOK, TURN = 100, 20 -- ms between two looks whether what was spawned is done; between two turns of the loop

--- For how long the session may wait for a key, in ms; nil: for ever.
---@return integer?
function session.patience()
  if loop.is_busy() then return TURN end
  for _, one in ipairs(loop.list()) do
    if not announced[one] then return LOOK end
  end
  return nil
end

return session
