--- Classes of functions with shared state in each worker: app:cls.
--- lua/tidepool/engine/instances.lua has the workers' side.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local func = require "tidepool.func"
local instances = require "tidepool.engine.instances"

local cls = {}

--- A class of functions that share state in each worker, made by app:cls. Called with a table of
--- parameters it gives an instance.
---@class tidepool.Class
---@field name string
---@overload fun(parameters: table?): tidepool.Instance
local Class = {}
cls.Class = Class
core.add_class("tidepool.cls.Class", Class, false)
Class.__identity = "methods"

--- An instance: its methods are Functions.
---@class tidepool.Instance
local Instance = {}
cls.Instance = Instance
core.add_class("tidepool.cls.Instance", Instance, false)
Instance.__identity = "_made_of"

-- Functions of instances, by instance and name. A method is the same Function each time, so that
-- its image is not sent again.
local functions = setmetatable({}, { __mode = "k" })

--- The names to suggest for a misspelt one: methods except enter and exit, and the parameters.
local function names_of(class, parameters)
  local names = {}
  for name in pairs(class.methods) do
    if not instances.is_own[name] then names[#names + 1] = name end
  end
  for name in pairs(parameters or {}) do names[#names + 1] = tostring(name) end
  table.sort(names)
  return names
end

--- Makes a class of checked options and methods; `setups` is the app's.
---@return tidepool.Class
function cls.new(name, given, methods, setups)
  if given.concurrent_inputs then
    check.fail("%s: option 'concurrent_inputs' is for app:func: the inputs of a class share its `self`, one after the other", name)
  end
  local class = { name = name, methods = {}, options = given, cores = {}, setups = setups }
  for key, method in pairs(methods) do
    class.methods[key] = method
    if not instances.is_own[key] then class.cores[key] = core.func.new(name .. "." .. key, given.concurrency_limit or 0) end
  end
  return setmetatable(class, Class)
end

--- An instance with these parameters, which become the fields of `self` in each worker. Its methods
-- are Functions: one.predict:map(xs).
---@param parameters table?
---@return tidepool.Instance
function Class:__call(parameters, extra)
  check.no_more(extra, self.name, "a table of parameters")
  if parameters ~= nil and (type(parameters) ~= "table" or getmetatable(parameters)) then
    check.fail("%s: expected a table of parameters, as in %s { path = \"x\" }, got %s", self.name, self.name, check.show(parameters))
  end
  local own = {}
  for key, value in pairs(parameters or {}) do
    if self.methods[key] ~= nil then check.fail("%s: the parameter '%s' has the name of a method", self.name, tostring(key)) end
    own[key] = value
  end
  local instance = setmetatable({ _id = core.unique(), _made_of = { class = self, parameters = own } }, Instance)
  if core.on_instance then core.on_instance(instance) end -- see program/replay.lua
  return instance
end

function Class:__index(key)
  local methods = rawget(self, "methods")
  if methods and methods[key] then
    check.fail("%s.%s is a method of instances: local one = %s { ... }, and then one.%s", self.name, tostring(key), self.name, tostring(key))
  elseif key == "new" then
    check.fail("%s has no method 'new': an instance is made by a call, as in %s { ... }", rawget(self, "name"), rawget(self, "name"))
  end
end

function Class:__newindex(key)
  check.fail("%s: field %s of a class cannot be set: its methods and options are given when it is made", rawget(self, "name"), check.key(key))
end

function Class:__tostring()
  return "tidepool.Class: " .. self.name
end

function Instance:__index(key)
  local of = functions[self]
  if of and of[key] then return of[key] end
  local made_of = rawget(self, "_made_of")
  local class, parameters = made_of.class, made_of.parameters
  if class.cores[key] then
    local f = func.new(instances.bind(self, key), class.name .. "." .. key, class.options, class.setups, class.cores[key])
    func.bind(f, class.methods[key], self)
    of = of or {}
    functions[self] = of
    of[key] = f
    return f
  end
  local value = parameters[key]
  if value ~= nil then return value end
  if instances.is_own[key] then check.fail("%s.%s is called by the workers themselves", class.name, key) end
  local names = names_of(class, parameters)
  local near = check.nearest(tostring(key), names)
  check.fail("%s has no method or parameter '%s'%s", class.name, tostring(key),
    near and (" (did you mean '%s'?)"):format(near) or #names > 0 and "; there are: " .. table.concat(names, ", ") or "")
end

function Instance:__newindex(key)
  check.fail("%s: field '%s' of an instance cannot be set: parameters are given when it is made, and what workers keep are fields of self",
    rawget(self, "_made_of").class.name, tostring(key))
end

function Instance:__tostring()
  return "tidepool.Instance of " .. rawget(self, "_made_of").class.name
end

--- The names of the methods of a class, or of an instance's.
---@return string[]
function cls.names(value)
  return names_of(getmetatable(value) == Class and value or rawget(value, "_made_of").class)
end

return cls
