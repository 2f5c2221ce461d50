--- Images of a device that is driven by hand, and how kernels read between their places.
--
-- What a kernel needs to know of sampling is a table, { filter =, address =, normalized = }, given
-- where it has a sampler_t. It travels as it is; the queue that runs the kernel has the sampler.

local array = require "tidepool.array"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local garbage = require "tidepool.device.garbage"
local queues = require "tidepool.device.queues"
local regions = require "tidepool.device.regions"

local images = {}

---@class tidepool.Image
---@field device tidepool.Device
---@field ctype string      the type of an element
---@field channels integer  elements of a place: 1, 2 or 4
---@field columns integer
---@field rows integer      0: it has one dimension
---@field planes integer    0: it has one or two
---@field length integer    elements in all, as #image
---@field normalized boolean  kernels see its integers as numbers from 0, or -1, to 1
---@operator len: integer
local Image = regions.class("tidepool.device.images.Image", "image", "device ctype channels columns rows planes length normalized")
images.Image = Image

function Image:__tostring()
  local sizes = {}
  for _, name in ipairs { "planes", "rows", "columns" } do
    if self[name] > 0 then sizes[#sizes + 1] = self[name] end
  end
  return ("tidepool.Image: %s of %d %s on %s"):format(table.concat(sizes, " x "), self.channels, self.ctype, self.device.name)
end

local char_pointer = ffi.typeof "char *"

--- Where an array's elements lie: its memory, and their offset there in bytes.
local function place_of(a)
  local memory, start = core.array.memory(a.memory)
  return memory, tonumber(ffi.cast(char_pointer, a.elements) - ffi.cast(char_pointer, start))
end

local SIZE_MAX = 10 ^ 6 - 1 -- of a dimension; devices have at most some ten thousand
local keys = { columns = true, rows = true, planes = true, channels = true, normalized = true }
local may_be_normalized = { int8 = true, uint8 = true, int16 = true, uint16 = true }
local has_images = { float = true, int8 = true, uint8 = true, int16 = true, uint16 = true, int32 = true, uint32 = true }

--- Checks what an image is to be like; gives a new table of that.
local function read_shape(ctype, given)
  if not has_images[ctype] then
    check.fail("device:image: images have elements of float and of integers of up to 32 bits, not of %s", ctype)
  end
  if type(given) ~= "table" then
    check.fail("device:image: expected what it is like, as in { columns = 640, rows = 480, channels = 4 }, got %s", check.show(given))
  end
  local names = {}
  for name in pairs(keys) do names[#names + 1] = name end
  for key in pairs(given) do
    if not keys[key] then
      local near = type(key) == "string" and check.nearest(key, names)
      check.fail("device:image: an image has no %s%s", check.key(key), near and (" (did you mean '%s'?)"):format(near) or "")
    end
  end
  local shape = { ctype = ctype, channels = given.channels or 1, normalized = given.normalized or false }
  for _, name in ipairs { "columns", "rows", "planes" } do
    local n = given[name]
    if n ~= nil and (type(n) ~= "number" or n % 1 ~= 0 or n < 1 or n > SIZE_MAX) or n == nil and name == "columns" then
      check.fail("device:image: '%s' must be a whole number of at least 1, got %s", name, check.show(n))
    end
    shape[name] = n or 0
  end
  if shape.planes > 0 and shape.rows == 0 then check.fail "device:image: an image with planes has rows, too" end
  if shape.channels ~= 1 and shape.channels ~= 2 and shape.channels ~= 4 then
    check.fail("device:image: 'channels' must be 1, 2 or 4, got %s", check.show(shape.channels))
  end
  if shape.normalized ~= true and shape.normalized ~= false then
    check.fail("device:image: 'normalized' must be true or false, got %s", check.show(shape.normalized))
  elseif shape.normalized and not may_be_normalized[ctype] then
    check.fail("device:image: integers of 8 and 16 bits may be normalized, not %s", ctype)
  end
  shape.length = shape.columns * math.max(shape.rows, 1) * math.max(shape.planes, 1) * shape.channels
  return shape
end

--- An array of all elements: the given one, or one that is made of a list.
local function check_elements(who, shape, elements)
  if type(elements) == "table" and getmetatable(elements) == nil then elements = array.new(shape.ctype, elements, nil, who) end
  local ctype = array.type_of(elements)
  if ctype ~= shape.ctype or elements.length ~= shape.length then
    check.fail("%s: expected %d elements of %s, got %s", who, shape.length, shape.ctype,
      ctype and ("%d of %s"):format(elements.length, ctype) or check.show(elements))
  end
  return elements
end

--- Makes an image: see Device:image.
---@return tidepool.Image
function images.new(device, ctype, given, elements)
  local self = read_shape(ctype, given)
  self.device = device
  local a = elements == nil and array.new(ctype, self.length) or check_elements("device:image", self, elements)
  garbage.pace(device, self.length * ffi.sizeof(array.c_name(ctype)))
  local memory, offset = place_of(a)
  self.handle = queues.must_find_memory("device:image", core.image.new, queues.of(device), self.columns, self.rows, self.planes, self.channels,
    array.number(ctype), self.normalized, memory, offset)
  return regions.new(Image, self)
end

--- Waits for the kernels that were started before, and brings all elements into an array: the one
-- given, or a new one. They lie row after row, with the channels of one place beside each other; a
-- new array has the rows as its own.
---@param into tidepool.Array?
---@return tidepool.Array
function Image:read(into, extra)
  check.self(self, Image, "image", "read")
  check.no_more(extra, "image:read", "an array")
  local shape = { planes = self.planes > 0 and self.planes or nil, rows = self.rows, columns = self.columns * self.channels }
  local a = into ~= nil and check_elements("image:read", self, into) or array.new(self.ctype, self.rows > 0 and shape or self.length)
  local memory, offset = place_of(a)
  queues.must("image:read", core.image.read(queues.of(self.device), self.handle, memory, offset))
  return a
end

--- Sets all elements to those of an array or a list, which lie as image:read gives them.
---@param from tidepool.Array|table
---@return tidepool.Image self
function Image:write(from, extra)
  check.self(self, Image, "image", "write", "elements")
  check.no_more(extra, "image:write", "elements")
  local memory, offset = place_of(check_elements("image:write", self, from))
  queues.must("image:write", core.image.write(queues.of(self.device), self.handle, memory, offset))
  return self
end

-- In OpenCL's order.
local addresses, address_names = {}, { "none", "edge", "clamp", "wrap", "mirror" }
for i, name in ipairs(address_names) do addresses[name] = i - 1 end

--- Why a table is no sampler; nil when it is one.
local function sampler_complaint(given)
  if type(given) ~= "table" or getmetatable(given) ~= nil then
    return 'takes how to read, as in { filter = "linear", address = "edge", normalized = true }'
  end
  for key in pairs(given) do
    if key ~= "filter" and key ~= "address" and key ~= "normalized" then
      return ("has filter, address and normalized, not %s"):format(check.key(key))
    end
  end
  if given.filter ~= nil and given.filter ~= "nearest" and given.filter ~= "linear" then
    return ('may have filter = "nearest" or "linear", got %s'):format(check.show(given.filter))
  elseif given.address ~= nil and not addresses[given.address] then
    return ('may have address = "%s", got %s'):format(table.concat(address_names, '", "'), check.show(given.address))
  elseif given.normalized ~= nil and type(given.normalized) ~= "boolean" then
    return ("may have normalized = true, got %s"):format(check.show(given.normalized))
  elseif (given.address == "wrap" or given.address == "mirror") and not given.normalized then
    return ('has address = "%s" only with normalized = true'):format(given.address)
  end
end

--- The argument for a parameter that takes an image or a sampler; or nil and why the value is none,
--- which `show` shows.
function images.pack(device, one, value, show)
  if one.is_sampler then
    local complaint = sampler_complaint(value)
    if complaint then return nil, complaint end
    return queues.must("a sampler", core.image.sampler(queues.of(device), value.normalized == true, addresses[value.address or "edge"],
      value.filter == "linear"))
  end
  local dimensions = getmetatable(value) == Image and (value.planes > 0 and 3 or value.rows > 0 and 2 or 1)
  if dimensions ~= one.dimensions then
    return nil, ("takes an image of %d dimension%s, got %s"):format(one.dimensions, one.dimensions == 1 and "" or "s",
      dimensions and "one of " .. dimensions or show(value))
  elseif value.device.number ~= device.number then
    return nil, ("takes an image of %s, got one of %s"):format(device.name, value.device.name)
  end
  return value.handle
end

return images
