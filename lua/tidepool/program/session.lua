--- The Lua part of the interactive session: compiles lines so that their locals last, and reports
--- spawned calls that are done. complete.lua has completion, help.lua help.
--
-- A local that is declared at the prompt lasts as an upvalue. Each later line that mentions it is
-- compiled as a function inside the scope of such names, whose upvalues are then joined with those
-- of the functions of earlier lines, so that all share one variable.

local app = require "tidepool.app"
local complete = require "tidepool.program.complete"
local core = require "tidepool.core"
local help = require "tidepool.program.help"
local loop = require "tidepool.engine.loop"
local show = require "tidepool.base.show"
local spawned = require "tidepool.engine.spawned"

require "tidepool.engine.ending" -- now, since its user may set `require` to something else

local session = {}

-- Locals, since the session must work whatever its user does to the globals.
local loadstring, pairs, ipairs, rawget, pcall, tostring, unpack, select = loadstring, pairs, ipairs, rawget, pcall, tostring, unpack, select
local debug, table, globals, exit, print, require, io, error = debug, table, _G, os.exit, print, require, io, error

local keywords = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return
               then true until while]]):gmatch "%a+" do
  keywords[word] = true
end

-- ---- lines ----

local kept = {} -- name -> a function whose first upvalue is the local
local KEEP = "__tidepool_keep"
local UPVALUES_MAX = 50

--- The kept names that the text mentions.
local function mentioned(text)
  local found = {}
  for name in text:gmatch "[%a_][%w_]*" do
    if kept[name] then found[name] = true end
  end
  return complete.sorted(found)
end

--- Names that the text may declare as locals; some may not be.
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
    -- otherwise it is a global, or nothing
    if debug.getupvalue(getter, 1) == name then kept[name] = getter end
  end
end

--- The function of `code`, compiled inside the scope of the kept locals that `names` lists; or an
--- error's text.
local function compile_inside(code, names, declares, chunk)
  local before = #names > 0 and "local " .. table.concat(names, ",") .. "; " or ""
  local after = ""
  if #declares > 0 and #declares <= UPVALUES_MAX then
    before = before .. "local " .. KEEP .. " = ...; "
    local parts = {}
    for i, name in ipairs(declares) do parts[i] = ("%q, function() return %s end"):format(name, name) end
    after = ("\n;%s(%s)"):format(KEEP, table.concat(parts, ", "))
  end
  local outer = loadstring(before .. "return function(...) " .. code .. after .. "\nend", chunk)
  -- After a `return` nothing may follow.
  if not outer then outer = loadstring(before .. "return function(...) " .. code .. "\nend", chunk) end
  if not outer then return nil end
  local fn = outer(keep)
  for i = 1, 60 do
    local name = debug.getupvalue(fn, i)
    if not name then break end
    if kept[name] then debug.upvaluejoin(fn, i, kept[name], 1) end
  end
  return fn
end

--- The value of a kept local or global.
local function variable(name)
  if kept[name] then
    local _, value = debug.getupvalue(kept[name], 1)
    return value
  end
  return rawget(globals, name)
end

--- One line about what still runs and is dropped when the session is left now; nil when there is
--- nothing.
---@return string?
function session.dropped()
  local counts, names = {}, {}
  for _, one in ipairs(spawned.list()) do
    local fine, is_done = pcall(one.done, one)
    if not (fine and is_done) then
      local name = one._feed and "maps of " .. one.settings.name or "calls of " .. one.f.name
      name = show.plain(name, true)
      if not counts[name] then names[#names + 1] = name end
      counts[name] = (counts[name] or 0) + 1
    end
  end
  table.sort(names)
  for i, name in ipairs(names) do
    names[i] = ("%d %s"):format(counts[name], counts[name] == 1 and name:gsub("^(%l+)s ", "%1 ") or name)
  end
  local tasks = loop.tasks()
  if tasks > 0 then names[#names + 1] = tasks == 1 and "1 task" or tasks .. " tasks" end
  return #names > 0 and "[dropped, since it still ran: " .. table.concat(names, ", ") .. "]" or nil
end

--- Ends the session, as Ctrl-D does.
local function leave()
  local text = session.dropped()
  if text then print(text) end
  exit()
end

-- What people type to leave other prompts.
local farewells = { exit = true, quit = true, [":q"] = true, [":quit"] = true, [":exit"] = true, [".exit"] = true }

--- Is the line one of these words, and not a variable of the user's?
local function is_farewell(text)
  local word = text:match "^%s*(%S+)%s*$"
  return word and farewells[word] and variable(word) == nil
end

local function is_unfinished(message)
  return message:sub(-7) == "'<eof>'"
end

--- The function of a text that consists of statements; or nil and what is wrong.
local function compile_statements(text, chunk)
  local statement, message = loadstring(text, chunk)
  if not statement then return nil, message end
  local names, declares = mentioned(text), declared(text)
  if #names == 0 and #declares == 0 then return statement end
  return compile_inside(text, names, declares, chunk) or statement
end

local function compile_lua(text)
  local forced = text:sub(1, 1) == "="
  if forced then text = text:sub(2) end
  local names = mentioned(text)
  local fn, expression_error = loadstring("return " .. text, "=stdin")
  if fn then
    -- Not `return f()`: a tail call has no line of its own in a traceback. Errors get the line of
    -- the bracket, which is on the last line unless that ends in a comment.
    local as_expression = "return (function(...) return ... end)(" .. text:gsub("[%s;]+$", "") .. ")"
    if not loadstring(as_expression) then as_expression = "return (function(...) return ... end)(" .. text .. "\n)" end
    fn = loadstring(as_expression, "=stdin") or fn
    return #names > 0 and compile_inside(as_expression, names, {}, "=stdin") or fn
  elseif forced then
    return nil, expression_error, is_unfinished(expression_error)
  end
  local statement, statement_error = compile_statements(text, "=stdin")
  if statement then return statement end
  local begins_expression = not is_unfinished(statement_error) and is_unfinished(expression_error)
  local message = begins_expression and expression_error or statement_error
  return nil, message, is_unfinished(message)
end

local entered = {} -- the chunks of Lua that were entered, for :save

--- The function of a line, or of several that belong together; an expression returns its values.
--- Otherwise nil, what is wrong, and whether the text is only unfinished.
---@return function? fn, string? message, boolean? unfinished
function session.compile(text)
  if is_farewell(text) then return leave end
  local file = text:match "^%s*:load%s+(.-)%s*$"
  if file then return session.load(file) end
  file = text:match "^%s*:save%s+(.-)%s*$"
  if file then return function() return session.save(file) end end
  local command = session.command(text)
  local unknown = not command and text:match "^%s*(:%a%S*)"
  if unknown then
    return nil, ("there is no command '%s' (there are :help, :load FILE, :save FILE and :time; all else is Lua)"):format(unknown)
  end
  app.set_session_text(command or text)
  local fn, message, unfinished = compile_lua(command or text)
  if fn and not command and text:find "%S" then entered[#entered + 1] = text end
  return fn, message, unfinished
end

--- The function of a file, whose locals last as those of lines do; or nil and what is wrong.
function session.load(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, "cannot read " .. why end
  local text
  text, why = file:read "*a"
  file:close()
  if not text then return nil, ("cannot read %s: %s"):format(path, why) end
  text = text:gsub("^#[^\n]*", "")
  local fn, message = compile_statements(text, "@" .. path)
  if fn then entered[#entered + 1] = text end
  return fn, message
end

--- Writes what was entered as a script, with loaded files in their places. An expression becomes a
--- print of its values.
function session.save(path)
  local file = io.open(path, "rb")
  if file then
    file:close()
    error(("there is a file %s already"):format(path), 0)
  end
  local why
  file, why = io.open(path, "wb")
  if not file then error("cannot write " .. why, 0) end
  for _, text in ipairs(entered) do
    text = text:gsub("^%s*=", ""):gsub("[%s;]+$", "")
    file:write(loadstring(text) and text or ("print(%s\n)"):format(text), "\n")
  end
  file:close()
end

-- ---- completion and help ----

--- Completes the end of a text: how many bytes of it are the beginning of a name, and the names
-- that begin so.
---@return integer length, table names
function session.complete(text)
  return complete.complete(text, variable, { globals, kept, keywords })
end

--- The text that shows the values of a line, in so many columns, perhaps coloured; the first value
--- is `_` from now on.
function session.show(width, coloured, ...)
  if (...) ~= nil then globals._ = (...) end
  local text = show.line(width, ...)
  return coloured and show.coloured(text) or text
end

local function tell_time(begin, ...)
  print(("[%s]"):format(session.duration(core.loop.now() - begin)))
  return ...
end

--- Seconds in words.
function session.duration(s)
  if s < 1e-3 then return ("%.0f us"):format(s * 1e6) end
  return s < 1 and ("%.1f ms"):format(s * 1e3) or ("%.2f s"):format(s)
end

--- Calls fn, says how long it took, and returns its results.
function session.time(fn)
  return tell_time(core.loop.now(), fn())
end

--- Makes the session's globals.
function session.open()
  core.in_session = true
  if rawget(globals, "tidepool") == nil then globals.tidepool = require "tidepool" end
  if rawget(globals, "help") == nil then globals.help = help.show end
end

--- The Lua text that a command line stands for (":help", ":help x", ":time x"); nil for other
--- lines.
function session.command(text)
  local timed = text:match "^%s*:time%s+(.+)$"
  if timed then
    local is_expression = loadstring("return " .. timed)
    return ("package.loaded['tidepool.program.session'].time(function() %s%s end)"):format(is_expression and "return " or "", timed)
  end
  local rest = text:match "^%s*:help%s*(.-)%s*$"
  if not rest then return nil end
  if rest == "" then return "help()" end
  return variable(rest:match "^[%a_][%w_]*" or "") == nil and ("help(%q)"):format(rest) or "help(" .. rest .. ")"
end

-- ---- what was spawned ----

local announced = setmetatable({}, { __mode = "k" })

--- Lines about spawned calls and maps that have ended since the last call, and about failed tasks;
--- nil when there are none. Does not wait.
---@return string?
function session.news(width)
  local lines = {}
  for _, one in ipairs(spawned.list()) do
    if not announced[one] then
      if one._feed and one.job then pcall(one._feed, one) end
      if one:done() then
        announced[one] = true
        if one._feed then
          lines[#lines + 1] = tostring(one)
        else
          local got = { pcall(one.get, one) }
          local text = got[1] and show.line(width, unpack(got, 2, table.maxn(got))) or show.plain(tostring(got[2]))
          lines[#lines + 1] = ("[%s is done%s]"):format(show.plain(one.f.name, true), text ~= "" and ": " .. text or "")
        end
      end
    end
  end
  if spawned.has_unread() then
    for _, failed in ipairs(spawned.take_unread()) do lines[#lines + 1] = show.plain(tostring(failed)) end
  end
  return #lines > 0 and table.concat(lines, "\n") or nil
end

--- Lets tasks, timers and callbacks go on while the user types.
function session.turn()
  if loop.is_busy() then loop.step() end
end

-- ms between two checks whether spawned things are done; ms between two turns of the loop
local LOOK, TURN = 100, 20

--- How long the session may wait for a key, in ms; nil: for ever.
---@return integer?
function session.patience()
  if loop.is_busy() then return TURN end
  for _, one in ipairs(spawned.list()) do
    if not announced[one] then return LOOK end
  end
  return nil
end

return session
