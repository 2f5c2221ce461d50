--- A module of ours that is loaded when it is first used: most scripts that start a process for one call need a third of all.

local require, setmetatable = require, setmetatable

--- Stands for the module of that name: its functions, classes and constants, which must not change once it is loaded.
return function(name)
  return setmetatable({}, { __index = function(self, key)
    local value = require(name)[key]
    self[key] = value
    return value
  end })
end
