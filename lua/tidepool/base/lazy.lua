--- A module of ours that is loaded at its first use: most scripts that start a process for one call
--- need only a third of all modules.

local require, setmetatable = require, setmetatable

--- A stand-in for the module of that name, with its functions, classes and constants, which must
--- not change after it is loaded.
return function(name)
  return setmetatable({}, { __index = function(self, key)
    local value = require(name)[key]
    self[key] = value
    return value
  end })
end
