--- What buffers and images have in common: they are memory of a device, and answer `#`.
--
-- LuaJIT asks no table for its __len, but it does ask a userdata. So they are userdata, whose
-- environment is the table of their fields. `__fields` in their metatable says to the codec that
-- they travel with these (host/codec/encode/userdata.c).

local check = require "tidepool.base.check"
local core = require "tidepool.core"

local regions = {}

local newproxy, setfenv = newproxy, debug.setfenv

--- The table of the fields of a buffer or an image.
---@type fun(self: userdata): table
regions.fields = debug.getfenv

local fields = regions.fields
local first = setmetatable({}, { __mode = "k" }) -- by class: one without fields, like which others are made
local sizes = { size = true, len = true, n = true, count = true } -- what others call #buffer

--- A class of them: their metatable and their methods.
---@param name string  by which the class travels
---@param noun string  "buffer"
---@param public string  the names of the fields that are meant for users; `length` is one
---@return table
function regions.class(name, noun, public)
  local elsewhere, reading = {}, ("%s:read() gives the elements, in an array"):format(noun)
  for method in ("get list array to_array tolist download"):gmatch "%S+" do elsewhere[method] = reading end
  for method in ("set upload update"):gmatch "%S+" do elsewhere[method] = ("%s:write(list or array) sets the elements"):format(noun) end
  for method in ("free release close delete destroy"):gmatch "%S+" do
    elsewhere[method] = "its memory goes when nobody holds it any more"
  end
  local one, named = newproxy(true), {}
  local class = getmetatable(one)
  for field in public:gmatch "%S+" do named[field] = true end
  first[class] = one
  class.__fields, class.public = true, named

  --- The elements are on the device. Code that seems to read or set one would get nil, or be lost,
  --- so it raises.
  function class:__index(key)
    local value = fields(self)[key]
    if value ~= nil then return value end
    if type(key) == "number" then
      check.fail("%s[%s]: the elements are the device's: read them with local array = %s:read(), and then array[%s]; their number is #%s",
        noun, tostring(key), noun, tostring(key), noun)
    end
    local method = class[key]
    if method ~= nil then return method end
    local object = check.a(noun)
    if sizes[key] then check.fail("%s has no field '%s': the number of its elements is #%s, or %s.length", object, key, noun, noun) end
    check.missing(object, key, named, "field")
    check.missing(object, key, class, nil, elsewhere)
  end

  function class:__newindex(key, value)
    if type(key) == "number" then
      check.fail("%s[%s] = ...: the elements are the device's: set them with %s:write(list or array)", noun, tostring(key), noun)
    end
    fields(self)[key] = value
  end

  function class:__len() return fields(self).length end

  -- one that a function captures, and is given as well, is one there, too
  function class.__eq(a, b) return fields(a) == fields(b) end

  core.add_class(name, class, false)
  return class
end

--- A new object of the class, with this table as that of its fields.
---@param class table
---@param own table
---@return userdata
function regions.new(class, own)
  return setfenv(newproxy(first[class]), own)
end

return regions
