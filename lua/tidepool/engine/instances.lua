--- Instances of classes (lua/tidepool/cls.lua) in this state: `enter` makes what the methods use,
--- until `exit`.
--
-- An instance is identified by its id, which is unique. Each state that runs one of its methods
-- makes one `self` for it: the parameters are its fields, its methods (those of the first message)
-- are found through its metatable, and `enter` and later the methods may add more. It lives as long
-- as the state.

local core = require "tidepool.core"

local instances = {}

--- Names of methods that users cannot call.
instances.is_own = { enter = true, exit = true }

local living = {}      -- id -> { class =, self =, methods =, is_entering = }
local in_order = {} -- those whose `enter` has run, in order

local function message_of(why)
  return require("tidepool.base.describe").message(why)
end

--- Makes the `self` of an instance by enter(self). Inside an item, its random numbers are set aside
--- meanwhile, since it is chance which item comes first. What `enter` changes in standard libraries
--- is kept.
local function make(instance)
  local made_of, id = rawget(instance, "_made_of"), rawget(instance, "_id")
  local class = made_of.class
  local self = {}
  for key, value in pairs(made_of.parameters) do self[key] = value end
  local one = { class = class, self = setmetatable(self, { __index = class.methods }), methods = class.methods, is_entering = true }
  living[id] = one
  local enter = class.methods.enter
  if enter then
    local before = core.random.set_aside()
    local fine, why = pcall(enter, self)
    if before then core.random.go_back(before, fine) end
    if not fine then
      living[id] = nil
      error(("enter of %s: %s"):format(class.name, message_of(why)), 0)
    end
  end
  one.is_entering = nil
  in_order[#in_order + 1] = one
  if class.methods.exit and core.is_worker then core.will_leave() end
  return one
end

--- The instance's entry in this state, made if there is none.
function instances.living_one(instance)
  local one = living[rawget(instance, "_id")] or make(instance)
  if one.is_entering then error(("enter of %s uses the instance that it is to make: call methods of self"):format(one.class.name), 0) end
  return one
end

--- A method of an instance as a function that can travel: of this module it refers only to the
--- name.
function instances.bind(instance, name)
  return function(...)
    local one = instances.living_one(instance)
    return one.methods[name](one.self, ...)
  end
end

--- Called when the state ends: exit(self) of all instances, the last one first. Errors are shown on
--- stderr.
function instances.leave()
  for i = #in_order, 1, -1 do
    local one = in_order[i]
    in_order[i] = nil
    local exit = one.methods.exit
    if exit then
      local fine, why = pcall(exit, one.self)
      if not fine then
        core.io.warn(("tidepool: exit of %s: %s\n"):format(one.class.name, require("tidepool.base.show").plain(message_of(why), true)))
      end
    end
  end
  living = {}
end

return instances
