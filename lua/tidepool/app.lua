--- Apps: groups of functions with common options, and the entry points that `tidepool run` calls.

local check = require "tidepool.check"
local func = require "tidepool.func"
local options = require "tidepool.options"

---@class tidepool.App
---@field name string
---@field functions table<string, tidepool.Function>
---@field entries table  list of { name, fn, options, source, line }
local App = {}
App.__index = App

local app = { App = App }

-- The text of the chunk "=stdin" that runs in a session, see session.lua.
local session_text

--- Says what a session runs: there names are read that a file would be opened for.
function app.set_session_text(text)
  session_text = text
end

local all = {} -- every App of this state, in the order of creation

--- The apps that were created in this state, in order: for `tidepool run`.
function app.list()
  return all
end

--- Creates an app.
---@param name string?      default: "app"
---@param defaults table?   options for all of its functions
---@return tidepool.App
function app.new(name, defaults)
  if type(name) == "table" and defaults == nil then name, defaults = nil, name end
  if name ~= nil and type(name) ~= "string" then check.fail("tidepool.App: the name must be a string, got %s", type(name)) end
  if defaults ~= nil and type(defaults) ~= "table" then
    check.fail("tidepool.App: the defaults must be a table of options, got %s", type(defaults))
  end
  local checked = options.check("tidepool.App", options.of_functions, defaults or {})
  for _, option in ipairs { "name", "kernel", "with" } do
    if checked[option] ~= nil then check.fail("tidepool.App: option '%s' is of one function, not a default for all", option) end
  end
  local self = setmetatable({ name = name or "app", defaults = checked, functions = {}, entries = {} }, App)
  all[#all + 1] = self
  return self
end

function App:__tostring()
  return "tidepool.App: " .. self.name
end

--- The text of the chunk, as lines: a file's, or the string that was loaded.
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

--- What the result of app:func is assigned to, as the source says: `local evaluate = app:func`; nil when it is not to be seen.
local function variable_name(position)
  local lines = lines_of(position.source)
  for number = position.currentline, math.max(1, position.currentline - 30), -1 do
    local line = lines[number]
    local name = line and line:match "([%a_][%w_.]*)%s*=%s*[^=]-:%s*func%f[^%w_]"
    if name then return name:match "[^.]*$" end
    if line and line:find ":%s*func%f[^%w_]" then return nil end
  end
end

local add

--- The options of a function that is given in OpenCL C, and what stands for the Lua function: a call of it runs on the device.
local function add_kernel(self, given)
  for _, name in ipairs { "precision", "returns" } do
    if given[name] ~= nil then check.fail("app:func: option '%s' is for Lua functions: with `kernel` the C code's types say it", name) end
  end
  given.kernel = require("tidepool.gpu").kernel_option(given.kernel, given.with, check.frame(), check.where())
  given.gpu = given.gpu or self.defaults.gpu or true
  given.name = given.name or variable_name(check.frame()) or "kernel"
  local f
  f = add(self, given, function(...) return f:remote(...) end)
  return f
end

function add(self, given, fn)
  if type(fn) ~= "function" then
    local what = func.is_function(fn) and "a Function (decorated already)" or fn == nil and "nil" or check.a(type(fn))
    check.fail("app:func: expected a function to decorate, got %s", what)
  end
  local frame = check.frame()
  local name = given.name or (frame and variable_name(frame))
  if not name then
    local info = debug.getinfo(fn, "S")
    name = info.what == "C" and "builtin" or ("%s:%d"):format(info.short_src, info.linedefined)
  end
  local f = func.new(fn, name, options.merge(self.defaults, given))
  self.functions[name] = f
  return f
end

--- A decorator: called with a function it gives a Function. app:func(fn) and app:func(options, fn) work too.
---@param given table|function
---@param fn function?
---@return tidepool.Function|fun(fn: function): tidepool.Function
function App:func(given, fn)
  check.self(self, App, "app", "func", "...")
  if type(given) == "function" then
    if fn ~= nil then check.fail("app:func: expected options, then a function; got a function first") end
    return add(self, {}, given)
  end
  if given ~= nil and (type(given) ~= "table" or getmetatable(given)) then
    check.fail("app:func: expected options or a function, got %s", check.a(type(given)))
  end
  local checked = options.check("app:func", options.of_functions, given or {})
  if checked.with and not checked.kernel then check.fail("app:func: option 'with' goes with `kernel`; a Lua function captures its upvalues") end
  if checked.kernel then
    if fn ~= nil then check.fail("app:func: a function is given twice: as `kernel`, in OpenCL C, and in Lua") end
    return add_kernel(self, checked)
  end
  if fn ~= nil then return add(self, checked, fn) end
  return function(decorated)
    return add(self, checked, decorated)
  end
end

local function add_entry(self, given, fn)
  if type(fn) ~= "function" then check.fail("app:main: expected a function, got %s", fn == nil and "nil" or check.a(type(fn))) end
  if given.name ~= nil and type(given.name) ~= "string" then check.fail("app:main: name must be a string, got %s", type(given.name)) end
  local info = debug.getinfo(fn, "S")
  self.entries[#self.entries + 1] = { name = given.name, fn = fn, options = given, source = info.source, line = info.linedefined }
  return fn
end

--- The entry point that `tidepool run` calls: app:main(fn), or app:main { name =, args = } (fn).
---@param given table|function
function App:main(given)
  check.self(self, App, "app", "main", "...")
  if type(given) == "function" then return add_entry(self, {}, given) end
  if type(given) ~= "table" then check.fail("app:main: expected options or a function, got %s", given == nil and "nil" or check.a(type(given))) end
  for name in pairs(given) do
    if name ~= "name" and name ~= "args" then
      local near = check.nearest(tostring(name), { "name", "args" })
      check.fail("app:main: unknown option '%s'%s", tostring(name), near and (" (did you mean '%s'?)"):format(near) or "; there are: name, args")
    end
  end
  return function(fn) return add_entry(self, given, fn) end
end

--- Takes over another app's functions.
---@param other tidepool.App
function App:include(other)
  check.self(self, App, "app", "include", "...")
  if getmetatable(other) ~= App then check.fail("app:include: expected an App, got %s", type(other)) end
  for name, f in pairs(other.functions) do
    if self.functions[name] and self.functions[name] ~= f then check.fail("app:include: both apps have a function '%s'", name) end
    self.functions[name] = f
  end
  return self
end

return app
