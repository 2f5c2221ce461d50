--- Modules of the script's own for workers on other machines: the Lua files that it requires, but
--- for those that are installed where every Lua of the system finds them.
--
-- They are collected as they become known: from package.loaded, and from the names in the code of
-- functions, and of modules, that use `require`. What has been collected once stays as it is.

local core = require "tidepool.core"

local own_modules = {}

-- locals, since scripts may replace the library's functions
local getupvalue, getfenv, loaded, searchpath = debug.getupvalue, debug.getfenv, package.loaded, package.searchpath
local type, pairs, ipairs, pcall, next, setmetatable = type, pairs, ipairs, pcall, next, setmetatable
local loadstring, rawget, open, package = loadstring, rawget, io.open, package

-- Where LuaJIT and packages of the system put Lua modules.
local SYSTEM = { "/usr/share/lua/", "/usr/local/share/lua/", "/usr/share/luajit-", "/usr/local/share/luajit-", "/usr/lib/", "/usr/local/lib/" }

local known = {} -- name -> true; false: there is no file for it on `searched`
local searched -- the package.path that was used for it
local functions = setmetatable({}, { __mode = "k" }) -- that were looked at
local add_required

local function is_systems(path)
  for _, folder in ipairs(SYSTEM) do
    if path:sub(1, #folder) == folder then return true end
  end
  return false
end

local function add(name)
  if known[name] ~= nil or #name > 200 or not name:find "^[%w_%-%.]+$" or name:find "^tidepool%f[^%w_]" then return end
  local path = searchpath(name, package.path)
  known[name] = path ~= nil
  if not path or is_systems(path) then return end
  local file = open(path, "rb")
  local source = file and file:read "*a"
  if file then file:close() end
  if not source then return end
  core.modules.add(name, path, source)
  local chunk = loadstring(source)
  if chunk then add_required(select(2, core.func.inspect(chunk))) end
end

--- Adds the modules that code may require: if it uses `require`, those of its constant strings that
--- are names of modules.
function add_required(globals, strings)
  for _, global in ipairs(globals) do
    if global == "require" then
      for _, name in ipairs(strings) do add(name) end
      return
    end
  end
end

--- Adds what a function may require, and the functions that it uses.
local function add_function(fn)
  if functions[fn] or not pcall(core.func.inspect, fn) then return end
  functions[fn] = true
  local _, globals, strings = core.func.inspect(fn)
  add_required(globals, strings)
  for i = 1, 255 do
    local name, value = getupvalue(fn, i)
    if not name then break end
    if type(value) == "function" then add_function(value) end
  end
  local env = getfenv(fn)
  for _, name in ipairs(globals) do
    local value = type(env) == "table" and rawget(env, name)
    if type(value) == "function" then add_function(value) end
  end
end

--- Sees to it that workers elsewhere have the modules that the function may need.
---@param fn function
---@param setups table?  what runs before it, of app:setup: { { fn = }, ... }
function own_modules.collect(fn, setups)
  if core.is_worker then return end
  if searched ~= package.path then -- what was not found may be found now
    searched = package.path
    for name, is_there in pairs(known) do
      if not is_there then known[name] = nil end
    end
  end
  for name, module in next, loaded do
    if known[name] == nil and type(name) == "string" and module ~= package then add(name) end
  end
  add_function(fn)
  for _, setup in ipairs(setups or {}) do add_function(setup.fn) end
end

return own_modules
