--- The identity of a function, by which two runs of a program can tell whether it is still the
--- same: its code, what it captures, the globals that it reads, and the modules that it uses. It is
--- the same in every process, wherever the function's file lies and on whichever lines it stands.
--
-- Each part has a name that users understand, so that a difference can be named: code, upvalue "x",
-- global "x", setup 1, module "x". A function among the parts counts with all of its own parts, to
-- any depth.

local core = require "tidepool.core"

local identity = {}

-- locals, since scripts may replace the library's functions
local getupvalue, getfenv, loaded, loadfile, searchpath = debug.getupvalue, debug.getfenv, package.loaded, loadfile, package.searchpath
local type, pairs, ipairs, pcall, package = type, pairs, ipairs, pcall, package

local function has(list, name)
  for _, each in ipairs(list) do
    if each == name then return true end
  end
  return false
end

local add_required

--- Adds a module, by what its file does, and the modules that it requires. A module that is not
--- written in Lua counts by its name only.
local function add_module(name, add, seen)
  if seen[name] or #name > 200 or not name:find "^[%w_%-%.]+$" or name:find "^tidepool" then return end
  seen[name] = true
  local path = searchpath(name, package.path)
  local chunk = path and loadfile(path)
  if not chunk then return end
  local id, globals, strings = core.func.inspect(chunk)
  add(('module "%s"'):format(name), id)
  add_required(globals, strings, add, seen)
end

--- Adds the modules that code may require: if it uses `require`, those of its constant strings that
--- are names of modules.
function add_required(globals, strings, add, seen)
  if not has(globals, "require") then return end
  for _, name in ipairs(strings) do add_module(name, add, seen) end
end

--- The environment's value for a name.
local function read(env, name)
  local fine, value = pcall(function() return env[name] end)
  return fine and value or nil
end

--- The parts of a function: a list of { name, 16 bytes }, in the order in which differences should
--- be named. Or nil and a message, when a part cannot travel.
---@param fn function
---@param setups table?  what runs before it, of app:setup: { { fn = }, ... }
---@return table?, string?
function identity.parts(fn, setups)
  local parts, trouble, seen = {}, nil, {}
  local function add(name, id, why)
    if id then parts[#parts + 1] = { name, id } else trouble = trouble or why end
  end
  local function add_value(name, value)
    -- a module counts by what its file does, since its fields may hold anything
    if type(value) == "table" then
      for module, each in pairs(loaded) do
        if each == value and type(module) == "string" and module ~= "_G" then add_module(module, add, seen) end
      end
    end
    add(name, core.func.identity(name, value))
  end
  local code, globals, strings = core.func.inspect(fn)
  add("code", code)
  for i = 1, 255 do
    local name, value = getupvalue(fn, i)
    if not name then break end
    if value ~= fn then add_value(('upvalue "%s"'):format(name ~= "" and name or i), value) end
  end
  local env = getfenv(fn)
  for _, name in ipairs(globals) do
    local value = read(env, name)
    if value ~= nil and value ~= fn then add_value(('global "%s"'):format(name), value) end
  end
  for i, setup in ipairs(setups or {}) do add(("setup %d"):format(i), core.func.identity("setup", setup.fn)) end
  add_required(globals, strings, add, seen)
  if trouble then return nil, trouble end
  return parts
end

return identity
