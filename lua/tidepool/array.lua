--- Typed arrays: numbers in memory that all workers share, without copying.
--
-- An array is a cdata with a metatype per element type, so that LuaJIT compiles a[i] to a bounds check and a load. The memory is
-- the host's (host/array.c), counted: by each array and view, and by each message and block that carries one.

local bit = require "bit"
local bits = require "tidepool.bits"
local check = require "tidepool.check"
local core = require "tidepool.core"
local ffi = require "ffi"

local array = {}

-- In the order of tp_type in host/array.h. 64-bit integers are cdata in Lua.
array.types = { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" }

local c_names = {
  double = "double", float = "float", int8 = "int8_t", uint8 = "uint8_t", int16 = "int16_t", uint16 = "uint16_t",
  int32 = "int32_t", uint32 = "uint32_t", int64 = "int64_t", uint64 = "uint64_t",
}

local drop = ffi.cast("void (*)(void *)", core.drop)
local void_pointer, words_pointer = ffi.typeof "void *", ffi.typeof "const int32_t *"
local cast, band, floor = ffi.cast, bit.band, math.floor
local DOUBLE_EXPONENT, FLOAT_EXPONENT = bits.DOUBLE_EXPONENT, bits.FLOAT_EXPONENT

-- By type name: the ctype, the number of the type, bytes of an element, the ctype of pointers.
local constructors, numbers, sizes, pointer_types = {}, {}, {}, {}

-- Memory of arrays is not the collector's, which may hold a gigabyte by 40 bytes: it is run when what is held has grown by some room since it ran
-- last. What a run takes grows with Lua's heap, so the room does too: it is this many times as large, within limits.
local ROOM_PER_HEAP, ROOM_MIN, ROOM_MAX = 16, 2 ^ 27, 2 ^ 30
local collect_at = ROOM_MIN

--- Which element type a ctype belongs to.
local type_of = {}

---@class tidepool.Array
---@field data ffi.cdata*  pointer to the first element, 0-based and not checked
---@field ctype string     the element type
local methods = {}
array.methods = methods

local function check_range(a, method, i, j)
  if type(i) ~= "number" or type(j) ~= "number" or i < 1 or j > a.length or i % 1 ~= 0 or j % 1 ~= 0 then
    check.fail("array:%s: the range must lie in 1 to %d, got %s to %s", method, a.length, tostring(i), tostring(j))
  end
end

--- An array of elements i to j (default: to the end) in the same memory: a view.
---@param i integer
---@param j integer?
---@return tidepool.Array
function methods.slice(a, i, j)
  j = j or a.length
  check_range(a, "slice", i, j)
  core.hold(a.memory)
  return constructors[a.ctype](a.data + (i - 1), math.max(0, j - i + 1), a.memory)
end

--- Sets all elements to v.
---@param v number|ffi.cdata*
---@return tidepool.Array a
function methods.fill(a, v)
  if type(v) ~= "number" and type(v) ~= "cdata" then check.fail("array:fill: expected a number, got %s", check.show(v)) end
  local data = a.data
  for k = 0, a.length - 1 do data[k] = v end
  return a
end

--- A new array with the same elements.
---@return tidepool.Array
function methods.copy(a)
  local b = array.allocate(a.ctype, a.length, false)
  ffi.copy(b.data, a.data, a.length * sizes[a.ctype])
  return b
end

--- The elements as a list with n.
---@return table
function methods.list(a)
  local list = require "table.new"(a.length, 1)
  for i = 1, a.length do list[i] = a[i] end
  list.n = a.length
  return list
end

local function out_of_range(a, i)
  check.fail("array index %s is out of range: the array has %d element%s", tostring(i), a.length, a.length == 1 and "" or "s")
end

--- One element, of which the index is right. See bits.lua about NaNs.
local load = {}
function load.double(a, key)
  local words = cast(words_pointer, a.data)
  local at = 2 * (key - 1)
  if band(words[at + 1], DOUBLE_EXPONENT) == DOUBLE_EXPONENT then return bits.special_double(words[at + 1], words[at]) end
  return a.data[key - 1]
end
function load.float(a, key)
  local word = cast(words_pointer, a.data)[key - 1]
  if band(word, FLOAT_EXPONENT) == FLOAT_EXPONENT then return bits.special_float(word) end
  return a.data[key - 1]
end
local function load_integer(a, key)
  return a.data[key - 1]
end

local function metatype(name)
  local load_element = load[name] or load_integer
  return {
    __index = function(a, key)
      if type(key) == "number" then
        if not (key >= 1 and key <= a.length) then out_of_range(a, key) end
        return load_element(a, floor(key))
      end
      if key == "ctype" then return name end
      return methods[key]
    end,
    __newindex = function(a, key, value)
      if type(key) ~= "number" or not (key >= 1 and key <= a.length) then out_of_range(a, key) end
      if type(value) ~= "number" and type(value) ~= "cdata" then
        check.fail("array element %d must be a number, got %s", key, check.show(value))
      end
      a.data[key - 1] = value
    end,
    __len = function(a) return a.length end,
    __gc = function(a) drop(a.memory) end,
    __tostring = function(a)
      local shown = {}
      for i = 1, math.min(a.length, 8) do shown[i] = tostring(a[i]) end
      return ("tidepool.array(%q, %d) { %s%s }"):format(name, a.length, table.concat(shown, ", "), a.length > 8 and ", ..." or "")
    end,
  }
end

for number, name in ipairs(array.types) do
  local ct = ffi.typeof("struct { " .. c_names[name] .. " *data; double length; void *memory; }")
  ffi.metatype(ct, metatype(name))
  constructors[name], numbers[name], sizes[name] = ct, number - 1, ffi.sizeof(c_names[name])
  pointer_types[name] = ffi.typeof(c_names[name] .. " *")
  type_of[tonumber(ct)] = name
end

--- The ctype of pointers to elements, and the C name of an element type.
function array.pointer_type(name)
  return pointer_types[name]
end

function array.c_name(name)
  return c_names[name]
end

--- The type's number, for the C side; nil for a name that is none.
---@return integer?
function array.number(name)
  return numbers[name]
end

--- The element type of an array, nil for all other values.
---@return string?
function array.type_of(value)
  if type(value) ~= "cdata" then return nil end
  local name = type_of[tonumber(ffi.typeof(value))]
  -- A ctype is a cdata too, and its own type.
  if name and ffi.istype(constructors[name], value) and not tostring(value):find "^ctype" then return name end
end

--- Frees the arrays that nobody holds any more.
local function collect()
  collectgarbage()
  local room = collectgarbage "count" * 1024 * ROOM_PER_HEAP
  collect_at = core.array_bytes() + math.min(math.max(room, ROOM_MIN), ROOM_MAX)
end

--- Memory for n elements.
---@param zeroed boolean  else the elements may be anything
function array.allocate(name, n, zeroed)
  local bytes = n * sizes[name]
  if core.array_bytes() + bytes > collect_at then collect() end
  local memory, data = core.array(bytes, zeroed)
  if not memory then
    collect()
    memory, data = core.array(bytes, zeroed)
  end
  if not memory then check.fail("tidepool.array: not enough memory for %.0f elements of type %s", n, name) end
  return constructors[name](ffi.cast(void_pointer, data), n, memory)
end

local function known_types()
  return '"' .. table.concat(array.types, '", "') .. '"'
end

--- Checks an element type; raises in the name of `who`.
function array.check_type(who, name)
  if numbers[name] then return end
  local near = type(name) == "string" and check.nearest(name, array.types)
  check.fail("%s: unknown element type %s%s; there are %s", who, check.show(name), near and (" (did you mean %q?)"):format(near) or "",
    known_types())
end

--- A new typed array: of n zeros, or with the numbers of a list (or of another array).
---@param name string    "double", "float", "int8", "uint8", ... "int64", "uint64"
---@param from number|table
---@return tidepool.Array
function array.new(name, from)
  array.check_type("tidepool.array", name)
  if type(from) == "number" then
    if from < 0 or from % 1 ~= 0 or from > 2 ^ 45 then
      check.fail("tidepool.array: the number of elements must be an integer of at least 0, got %s", tostring(from))
    end
    return array.allocate(name, from, true)
  end
  local n
  if array.type_of(from) then
    n = from.length
  elseif type(from) == "table" then
    n = from.n or #from
  else
    check.fail("tidepool.array: expected a number of elements or a list, got %s", check.show(from))
  end
  for i = 1, n do
    local x = from[i]
    if type(x) ~= "number" and type(x) ~= "cdata" then
      check.fail("tidepool.array: element %d of the list is %s, not a number", i, x == nil and "nil" or check.show(x))
    end
  end
  local a = array.allocate(name, n, false)
  local data = a.data
  for i = 1, n do data[i - 1] = from[i] end
  return a
end

-- How arrays travel: see tp_codec_set_arrays.
core.set_arrays(function(value)
  local name = array.type_of(value)
  if not name then return nil end
  local memory, start = core.memory(value.memory)
  return memory, numbers[name], tonumber(ffi.cast("char *", value.data) - ffi.cast("char *", start)), value.length
end, function(memory, number, offset, n)
  local name = array.types[number + 1]
  local start = ffi.cast("char *", core.hold(memory))
  return constructors[name](ffi.cast(void_pointer, start + offset), n, memory)
end)

return array
