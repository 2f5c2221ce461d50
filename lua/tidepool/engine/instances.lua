--- Instances of classes (lua/tidepool/cls.lua) in this state: what `enter` has made, for the methods, until `exit`.
--
-- An instance is known by its id, which no other has. Each state that runs one of its methods makes a `self` of it once: the parameters as fields,
-- the methods, as they came first, behind them, and what `enter` and later the methods add. It lives as long as the state.

local core = require "tidepool.core"

local instances = {}

--- Names of methods that users do not call.
instances.is_own = { enter = true, exit = true }

local living = {}      -- id -> { class =, self =, methods =, is_entering = }
local in_order = {}    -- those that have entered, in their order

local function message_of(why)
  return require("tidepool.base.describe").message(why)
end

--- enter(self) of what is new here. In a worker random numbers are drawn aside, since it is chance which item is the first, and what it changes in
--- standard libraries stays.
local function make(instance)
  local made_of, id = rawget(instance, "_made_of"), rawget(instance, "_id")
  local class = made_of.class
  local self = {}
  for key, value in pairs(made_of.parameters) do self[key] = value end
  local one = { class = class, self = setmetatable(self, { __index = class.methods }), methods = class.methods, is_entering = true }
  living[id] = one
  local enter = class.methods.enter
  if enter then
    local before = core.is_worker and core.random.set_aside()
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

--- What there is of an instance here, made if it is not.
function instances.living_one(instance)
  local one = living[rawget(instance, "_id")] or make(instance)
  if one.is_entering then error(("enter of %s uses the instance that it is to make: call methods of self"):format(one.class.name), 0) end
  return one
end

--- The method of that name, for this instance, as a function for any state: of this module it has only the name.
function instances.bind(instance, name)
  return function(...)
    local one = instances.living_one(instance)
    return one.methods[name](one.self, ...)
  end
end

--- The state ends: exit(self) of all, the last first. Errors are shown on stderr.
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
