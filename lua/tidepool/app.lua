--- Apps: groups of functions with common options, and the entry points that `tidepool run` calls.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local func = require "tidepool.func"
local lazy = require "tidepool.base.lazy"

local options = lazy "tidepool.options" -- most scripts give none
local cls, instances = lazy "tidepool.cls", lazy "tidepool.engine.instances"

---@class tidepool.App
---@field name string
---@field functions table<string, tidepool.Function>
---@field entries table  list of { name, fn, options, source, line, made_in }: where fn is from, and the chunk that called app:main
---@field setups table  list of { id, app, fn }
local App = {}

-- so that assignments to them are noticed
local stored_as = { name = "_name", defaults = "_defaults", functions = "_functions" }

function App:__index(key)
  local method = App[key]
  if method ~= nil then return method end
  if stored_as[key] then return rawget(self, stored_as[key]) end
  check.missing("an app", key, App, nil, check.of_functions)
end

function App:__newindex(key)
  check.fail("app '%s': field %s of an app cannot be set: its name and the options of its functions are given to tidepool.App, functions to app:func",
    rawget(self, "_name"), check.key(key))
end

-- When a function captures an App, only the App's name travels: its functions may hold values that
-- cannot.
local Inner = { __travels = false }

local app = { App = App, Inner = Inner }

-- The text of the chunk "=stdin" that a session runs, see session.lua.
local session_text

-- The position of the last call of app:func or app:cls, and how many such calls that line has had:
-- { source, line, maker, n }. The name of the n-th one is read from the text of the line.
local last = {}

--- Sets the text of the chunk that a session runs. lines_of reads it where it would open a file
--- otherwise.
function app.set_session_text(text)
  session_text, last = text, {}
end

-- App -> its number, in the order of creation.
local numbers, n_made = setmetatable({}, { __mode = "k" }), 0
-- Keeps Apps alive that their creator has dropped: those with entry points, and those made while
-- is_keeping.
app.kept = {}
local is_keeping = false

--- Sets whether the state keeps every App that is made from now on: those of a file are looked up
--- by name later, when the file's locals are gone.
---@param keeps boolean
function app.keep(keeps)
  is_keeping = keeps
end

--- The kept Apps that the chunk of that name has made.
---@param source string  as debug.getinfo gives it: "@job.lua"
---@return table
function app.made_by(source)
  local found = {}
  for _, one in ipairs(app.list()) do
    if one.made_in == source then found[#found + 1] = one end
  end
  return found
end

--- Makes these Apps impossible to find by name. Whoever holds one can go on using it.
function app.forget(apps)
  for _, one in ipairs(apps) do numbers[one], app.kept[one] = nil, nil end
end

--- The Apps of this state that are alive, in the order of their creation: for `tidepool run` and
--- tp_function_find.
function app.list()
  local list = {}
  for one in pairs(numbers) do list[#list + 1] = one end
  table.sort(list, function(a, b) return numbers[a] < numbers[b] end)
  return list
end

--- Has the chunk of that name made an entry with app:main? Entries of files that it has loaded do
--- not count.
---@param source string  as debug.getinfo gives it: "@job.lua"
---@return boolean
function app.has_entries(source)
  for _, one in ipairs(app.list()) do
    for _, entry in ipairs(one.entries) do
      if entry.made_in == source then return true end
    end
  end
  return false
end

--- Creates an app.
---@param name string?      default: "app"
---@param defaults table?   options for all of its functions
---@return tidepool.App
function app.new(name, defaults, extra)
  check.no_more(extra, "tidepool.App", "(name, options)")
  if type(name) == "table" and defaults == nil then name, defaults = nil, name end
  if name ~= nil and type(name) ~= "string" then check.fail("tidepool.App: the name must be a string, got %s", check.show(name)) end
  if defaults ~= nil and type(defaults) ~= "table" then
    check.fail("tidepool.App: the defaults must be a table of options, got %s", check.show(defaults))
  end
  local checked = defaults and next(defaults) ~= nil and options.check("tidepool.App", options.of_functions, defaults) or {}
  for _, option in ipairs { "name", "kernel", "with" } do
    if checked[option] ~= nil then check.fail("tidepool.App: option '%s' is of one function, not a default for all", option) end
  end
  local self = setmetatable({
    _name = name or "app", _defaults = setmetatable(checked, Inner),
    _functions = setmetatable({}, Inner), entries = setmetatable({}, Inner), setups = {},
  }, App)
  n_made = n_made + 1
  numbers[self] = n_made
  if is_keeping then
    local frame = check.frame()
    app.kept[self] = true
    rawset(self, "made_in", frame and frame.source)
  end
  return self
end

function App:__tostring()
  return "tidepool.App: " .. self.name
end

--- The lines of the chunk's text: of a file, or of the string that was loaded.
local function lines_of(source)
  local lines = {}
  local path = source:match "^@(.*)"
  if path then
    local file = io.open(path)
    if not file then return lines end
    for line in file:lines() do lines[#lines + 1] = line end
    file:close()
  elseif not source:find "^=" or (source == "=stdin" and session_text) then
    for line in ((source == "=stdin" and session_text or source) .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  end
  return lines
end

--- Notes that a Function (or a class) was made there.
local function note_made(position, maker)
  if last.source ~= position.source or last.line ~= position.currentline or last.maker ~= maker then
    last = { source = position.source, line = position.currentline, maker = maker, n = 0 }
  end
  last.n = last.n + 1
end

--- The name that the next of the calls on a line is assigned to: "a" or "b" in
--- `a, b = app:func(f), app:func(g)`; nil when that cannot be seen. `places` are where they begin.
local function name_on(line, places, position, maker)
  local is_same = last.source == position.source and last.line == position.currentline and last.maker == maker
  local before = line:sub(1, places[(is_same and last.n or 0) % #places + 1] - 1):gsub("%b()", "()"):gsub("%b{}", "{}")
  local names, values = before:match "([%a_][%w_.%s,]*)=([^=]*)$"
  if not names or values:find "%f[%w_]return%f[^%w_]" or values:find ";" then return nil end
  local _, index = values:gsub(",", "")
  for name in names:gmatch "[^,]+" do
    if index == 0 then return name:match "([%w_]+)%s*$" end
    index = index - 1
  end
end

--- The name of the variable to which the result of app:func, or of another `maker`, is assigned
--- according to the source: `local evaluate = app:func`; nil when that cannot be seen.
local function variable_name(position, maker)
  local lines = lines_of(position.source)
  for number = position.currentline, math.max(1, position.currentline - 30), -1 do
    local line, places = lines[number] or "", {}
    for at in line:gmatch("():%s*" .. maker .. "%f[^%w_]") do places[#places + 1] = at end
    if places[1] then return name_on(line, places, position, maker) end
  end
end

local add

--- Checks the options of a function that is given in OpenCL C, and makes the Lua function that
--- stands for it: calling it runs it on the device.
local function add_kernel(self, given)
  for _, name in ipairs { "precision", "returns", "recursion_limit" } do
    if given[name] ~= nil then check.fail("app:func: option '%s' is for Lua functions: with `kernel` the C code's types say it", name) end
  end
  given.kernel = require("tidepool.device.gpu").kernel_option(given.kernel, given.with, check.frame(), check.where())
  given.gpu = given.gpu or self.defaults.gpu or true
  given.name = given.name or variable_name(check.frame(), "func") or "kernel"
  local f
  f = add(self, given, function(...) return f:remote(...) end)
  return f
end

function add(self, given, fn)
  if type(fn) ~= "function" then
    local what = func.is_function(fn) and "a Function (decorated already)" or check.kind(fn)
    check.fail("app:func: expected a function to decorate, got %s", what)
  end
  local frame = check.frame()
  local name = given.name or (frame and variable_name(frame, "func"))
  if not name then
    local info = debug.getinfo(fn, "S")
    name = info.what == "C" and "builtin" or ("%s:%d"):format(info.short_src, info.linedefined)
  end
  if frame then note_made(frame, "func") end
  local merged = next(self.defaults) == nil and next(given) == nil and {} or options.merge("app:func", self.defaults, given)
  local f = func.new(fn, name, merged, self.setups)
  self.functions[name] = f
  return f
end

--- A decorator: called with a function it gives a Function. app:func(fn) and app:func(options, fn)
-- work too.
---@param given table|function
---@param fn function?
---@return tidepool.Function|fun(fn: function): tidepool.Function
function App:func(...)
  local n, given, fn, extra = select("#", ...), ...
  check.self(self, App, "app", "func", "...")
  check.no_more(extra, "app:func", "(options, function)")
  if n > 0 and given == nil then
    check.fail("app:func: expected options or a function, got nil%s", n == 1 and "; is the name of the function right?" or "")
  elseif n > 1 and fn == nil then
    check.fail "app:func: expected a function behind the options, got nil; is its name right?"
  end
  if type(given) == "function" then
    if fn ~= nil then check.fail("app:func: expected options, then a function; got a function first") end
    return add(self, {}, given)
  end
  if given ~= nil and (type(given) ~= "table" or getmetatable(given)) then
    check.fail("app:func: expected options or a function, got %s", check.kind(given))
  end
  local checked = given and next(given) ~= nil and options.check("app:func", options.of_functions, given) or {}
  if checked.with and not checked.kernel then check.fail("app:func: option 'with' goes with `kernel`; a Lua function captures its upvalues") end
  if checked.kernel then
    if fn ~= nil then check.fail("app:func: a function is given twice: as `kernel`, in OpenCL C, and in Lua") end
    return add_kernel(self, checked)
  end
  if fn ~= nil then return add(self, checked, fn) end
  return function(decorated, more)
    check.no_more(more, "app:func { options }", "a function")
    return add(self, checked, decorated)
  end
end

local function add_class(self, given, methods)
  local count = 0
  if type(methods) ~= "table" or getmetatable(methods) then
    check.fail("app:cls: expected a table of methods, got %s", methods == nil and "nil" or check.show(methods))
  end
  for name, method in pairs(methods) do
    if type(name) ~= "string" or type(method) ~= "function" then
      local what = func.is_function(method) and "a Function (decorated already)" or check.show(method)
      check.fail("app:cls: a class is a table of functions by their names; %s is %s", check.show(name), what)
    end
    if not instances.is_own[name] then count = count + 1 end
  end
  if count == 0 then check.fail("app:cls: there is no method beside enter and exit that could be called") end
  local merged = options.merge("app:cls", self.defaults, given)
  if merged.gpu and not options.drives(merged) then
    check.fail("app:cls: with option 'gpu' alone functions are translated, but methods use self; with an executor, too, they drive the device "
      .. "themselves")
  end
  local frame = check.frame()
  local class = cls.new(given.name or variable_name(frame, "cls") or "class", merged, methods, self.setups)
  note_made(frame, "cls")
  local plain = class {}
  for _, name in ipairs(cls.names(class)) do self.functions[class.name .. "." .. name] = plain[name] end
  return class
end

--- A class: functions that share what they have made once per worker. Like app:func a decorator:
--- app:cls(options) { enter = , exit = , predict = } or app:cls { ... }. What it gives makes
--- instances, Model { path = "x" }, whose methods are Functions: one.predict:map(xs). In each
--- worker that runs one, `enter(self)` is called before its first method there, with the parameters
--- as fields of `self`, and `exit(self)` when the worker ends.
---@param ... table  options of the functions, the methods by their names, or first the one and then the other
---@return tidepool.Class|fun(methods: table): tidepool.Class
function App:cls(...)
  local n, given, methods, extra = select("#", ...), ...
  check.self(self, App, "app", "cls", "...")
  check.no_more(extra, "app:cls", "(options, methods)")
  if n == 0 or type(given) ~= "table" or getmetatable(given) then
    check.fail("app:cls: expected options, or a table of methods, got %s", n == 0 and "nothing" or check.show(given))
  end
  if n == 1 then
    for _, value in pairs(given) do
      if type(value) == "function" then return add_class(self, {}, given) end
    end
  end
  local checked = options.check("app:cls", options.of_functions, given)
  for _, name in ipairs { "kernel", "with" } do
    if checked[name] ~= nil then check.fail("app:cls: option '%s' is of app:func: OpenCL C has no self", name) end
  end
  if n > 1 then return add_class(self, checked, methods) end
  return function(table_of, more)
    check.no_more(more, "app:cls { options }", "a table of methods")
    return add_class(self, checked, table_of)
  end
end

local function add_entry(self, given, fn)
  if type(fn) ~= "function" then check.fail("app:main: expected a function, got %s", check.kind(fn)) end
  if given.name ~= nil and type(given.name) ~= "string" then check.fail("app:main: name must be a string, got %s", check.show(given.name)) end
  local info, frame = debug.getinfo(fn, "S"), check.frame()
  app.kept[self] = true
  self.entries[#self.entries + 1] = {
    name = given.name, fn = fn, options = given, source = info.source, line = info.linedefined, made_in = (frame or info).source,
  }
  return fn
end

--- The entry point that `tidepool run` calls, and `tidepool FILE` after the file: app:main(fn), or
-- app:main { name =, args = } (fn).
---@param given table|function
function App:main(given, extra)
  check.self(self, App, "app", "main", "...")
  check.no_more(extra, "app:main", "options or a function")
  if type(given) == "function" then return add_entry(self, {}, given) end
  if type(given) ~= "table" then check.fail("app:main: expected options or a function, got %s", check.kind(given)) end
  for name in pairs(given) do
    if name ~= "name" and name ~= "args" then
      local near = check.nearest(tostring(name), { "name", "args" })
      check.fail("app:main: unknown option '%s'%s", tostring(name), near and (" (did you mean '%s'?)"):format(near) or "; there are: name, args")
    end
  end
  return function(fn) return add_entry(self, given, fn) end
end

--- Has fn run in each worker before the first item there of a function of this app, once: for what
-- a worker needs besides the values that functions capture, as the settings of a module or a
-- connection kept in one. All functions of the app see what it puts into modules, globals, and the
-- script's variables and tables. Several run in their order. An error in it fails the inputs that
-- would have run; the next input tries again. In the script itself it does not run.
--
--     app:setup(function() cjson.encode_number_precision(3) end)
---@param fn function  it travels as the functions of the app do
---@return function  fn
function App:setup(fn)
  check.self(self, App, "app", "setup", "fn")
  if type(fn) ~= "function" then check.fail("app:setup: expected a function, got %s", check.kind(fn)) end
  local setup = { app = self.name, fn = fn }
  -- Workers remember by this id which setups have run. It has the time, since the table's address
  -- alone may be reused.
  setup.id = ("%s %.9f"):format(tostring(setup), core.loop.now())
  self.setups[#self.setups + 1] = setup
  return fn
end

--- Takes over another app's functions.
---@param other tidepool.App
function App:include(other, extra)
  check.self(self, App, "app", "include", "...")
  check.no_more(extra, "app:include", "an app")
  if getmetatable(other) ~= App then check.fail("app:include: expected an App, got %s", check.show(other)) end
  for name, f in pairs(other.functions) do
    if self.functions[name] and self.functions[name] ~= f then check.fail("app:include: both apps have a function '%s'", name) end
    self.functions[name] = f
  end
  return self
end

return app
