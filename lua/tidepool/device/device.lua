--- A device that is driven by hand: buffers in its memory, kernels in OpenCL C, and calls of them
--- that run in order.
--
-- Devices and kernels are tables, and buffers have tables of fields, so that they can travel to
-- workers: there they mean the same device, memory and source. What belongs to one Lua state (the
-- queue, a kernel that is ready to be called) is stored apart from them, and made when it is first
-- needed.

local array = require "tidepool.array"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local kernels = require "tidepool.translate.kernel"
local garbage = require "tidepool.device.garbage"
local images = require "tidepool.device.images"
local options = require "tidepool.options"
local queues = require "tidepool.device.queues"
local regions = require "tidepool.device.regions"
local source = require "tidepool.device.source"

local must, must_find_memory, queue_of = queues.must, queues.must_find_memory, queues.of

local device = {}

-- ---- devices ----

---@class tidepool.Device
---@field name string
---@field platform string
---@field vendor string
---@field type string            "gpu", "accelerator" or "cpu"
---@field compute_units integer
---@field memory integer         bytes
---@field max_buffer integer     bytes of the largest buffer
---@field fp64 boolean           does it compute doubles?
---@field unified boolean        is its memory the host's? Then arrays are not copied
---@field number integer         as the C side counts
---@field queue_number integer?  of device:queue(): which one; nil: the thread's first queue
local Device = {}
Device.__index = Device
check.hints(Device, "a device", "is_far queue_number")
core.add_class("tidepool.device.device.Device", Device, false)

function Device:__tostring()
  return "tidepool.Device: " .. self.name .. (self.queue_number and ", queue " .. self.queue_number or "")
end

function Device.__eq(a, b)
  return a.number == b.number
end

--- Makes a Device of a row of gpu.devices().
function device.new(row)
  local self = setmetatable({}, Device)
  for name, value in pairs(row) do self[name] = value end
  return self
end

--- Waits until all kernels that this thread has started on the device have run; of a queue, those
--- that were started on it.
function Device:wait(extra)
  check.self(self, Device, "device", "wait")
  check.no_more(extra, "device:wait", "no arguments")
  for _, queue in ipairs(queues.all_of(self)) do must("device:wait", core.queue.finish(queue)) end
end

--- Another queue of the device, which is the device for all that is done with it: what is started
--- there may run beside what is started elsewhere. `kernel:on(queue)` and `buffer:on(queue)` are
--- the same kernel and the same memory, there.
---@return tidepool.Device
function Device:queue(extra)
  check.self(self, Device, "device", "queue")
  check.no_more(extra, "device:queue", "no arguments")
  local queue = device.new(self)
  queues.number(queue)
  return queue
end

--- What is started on this queue from now on begins when what was started on the other one before
--- has run. Does not wait.
---@param other tidepool.Device  a queue of the same device, or the device itself
---@return tidepool.Device self
function Device:after(other, extra)
  check.self(self, Device, "device", "after", "queue")
  check.no_more(extra, "device:after", "a queue")
  device.check_same("device:after", self, other)
  if queue_of(other) ~= queue_of(self) then must("device:after", core.queue.follow(queue_of(self), queue_of(other))) end
  return self
end

--- Does the device have that extension of OpenCL ("cl_khr_subgroups"), or that feature of OpenCL C
--- 3.0 ("__opencl_c_subgroups")? Kernels may use what it has.
---@param extension string
---@return boolean
function Device:has(extension, extra)
  check.self(self, Device, "device", "has", "extension")
  check.no_more(extra, "device:has", "the name of an extension")
  if type(extension) ~= "string" then check.fail("device:has: expected the name of an extension, got %s", check.show(extension)) end
  return core.device.has(self.number, extension)
end

--- Raises unless the other one is a queue of the same device.
function device.check_same(who, self, other)
  if getmetatable(other) ~= Device then check.fail("%s: expected a device or a queue of it, got %s", who, check.show(other)) end
  if other.number ~= self.number then check.fail("%s: expected a queue of %s, got one of %s", who, self.name, other.name) end
end

-- ---- buffers ----

---@class tidepool.Buffer
---@field device tidepool.Device
---@field ctype string     the element type
---@field length integer   elements, as #buffer
---@field memory userdata   core's buffer; this one may be a part of it, `start` bytes after its beginning
---@field start integer
---@field _shadow tidepool.Array?  by which maps know its elements, where memory is not the host's
---@operator len: integer
local Buffer = regions.class("tidepool.device.device.Buffer", "buffer", "device ctype length")
local fields = regions.fields

function Buffer:__tostring()
  return ("tidepool.Buffer: %d %s on %s"):format(self.length, self.ctype, self.device.name)
end

local char_pointer = ffi.typeof "char *"

--- Where an array's elements lie: its memory, their offset there in bytes, and their size in bytes.
local function place_of(a)
  local memory, start = core.array.memory(a.memory)
  return memory, tonumber(ffi.cast(char_pointer, a.elements) - ffi.cast(char_pointer, start)), a.length * ffi.sizeof(array.c_name(a.ctype))
end

--- Checks an element type; C's names are accepted, too.
local function element_type(who, name)
  local ctype = type(name) == "string" and name ~= "bool" and kernels.types[name] or name
  array.check_type(who, ctype)
  return ctype
end

--- Memory of the device. For a typed array: with its elements; the array is then the buffer's own,
-- which read and write mean when no other is named, and where the device shares the host's memory
-- it is not copied: until it is read, it belongs to the device. For an element type with a number
-- of elements, or with a list: zeros, or the list's numbers. The memory goes when nobody holds the
-- buffer any more.
---@param what tidepool.Array|string
---@param from (integer|table)?
---@return tidepool.Buffer
function Device:buffer(what, from, extra)
  check.self(self, Device, "device", "buffer", "array")
  check.no_more(extra, "device:buffer", "(array) or (element type, number of elements or list)")
  local own
  if array.type_of(what) then
    own = what
  elseif type(what) ~= "string" then
    check.fail("device:buffer: expected a typed array, or an element type and a number of elements or a list, got %s%s", check.show(what),
      type(what) == "table" and ', without its element type: device:buffer("float", list)' or "")
  else
    what = element_type("device:buffer", what)
    if type(from) == "number" then
      if not (from >= 0 and from % 1 == 0 and from < 2 ^ 53) then
        check.fail("device:buffer: the number of elements must be an integer of at least 0, got %s", tostring(from))
      end
    elseif array.type_of(from) or type(from) == "table" then
      own = array.new(what, from, nil, "device:buffer")
    else
      check.fail("device:buffer: expected a number of elements or a list, got %s", check.show(from))
    end
  end
  local self_queue, length, ctype = queue_of(self), own and own.length or from, own and own.ctype or what
  local bytes = length * ffi.sizeof(array.c_name(ctype))
  if not own and self.unified and bytes <= math.min(self.max_buffer, self.memory) then own = array.new(ctype, length) end
  local handle
  garbage.pace(self, bytes)
  if own then
    local memory, offset = place_of(own)
    handle = must_find_memory("device:buffer", core.buffer.new, self_queue, bytes, memory, offset)
  else
    handle = must_find_memory("device:buffer", core.buffer.new, self_queue, bytes)
  end
  local made = { device = self, ctype = ctype, length = length, handle = handle, _array = own, memory = handle, start = 0 }
  return regions.new(Buffer, made)
end

local function size_of(ctype)
  return ffi.sizeof(array.c_name(ctype))
end

--- Checks where in a buffer n elements begin: the number of an element, 1 when nil.
local function check_at(self, method, at, n)
  if at == nil then at = 1 end
  if type(at) ~= "number" then check.fail("buffer:%s: expected the number of the first element, got %s", method, check.show(at)) end
  if at % 1 ~= 0 or at < 1 or at + n - 1 > self.length then
    check.fail("buffer:%s: %s from element %s on %s not in the buffer's %d", method, n == 1 and "1 element" or n .. " elements", tostring(at),
      n == 1 and "is" or "are", self.length)
  end
  return (at - 1) * size_of(self.ctype)
end

--- The array for a transfer: the given one, or the buffer's own, which is made if there is none.
local function array_for(self, method, given)
  if given == nil then
    if not self._array then self._array = array.allocate(self.ctype, self.length, true) end
    return self._array
  end
  local ctype = array.type_of(given)
  if ctype ~= self.ctype or given.length > self.length then
    check.fail("buffer:%s: expected an array of %s with at most %d elements, got %s", method, self.ctype, self.length,
      ctype and ("one of %s with %d"):format(ctype, given.length) or check.show(given))
  end
  return given
end

--- Waits for the kernels that were started before, and brings the elements into an array: the one
-- given (as many as it has, from the element `at` on), or the buffer's own, which it gives at each
-- call again.
---@param into tidepool.Array?
---@param at integer?  default: 1
---@return tidepool.Array
function Buffer:read(into, at, extra)
  check.self(self, Buffer, "buffer", "read")
  check.no_more(extra, "buffer:read", "(array, first element)")
  local a = array_for(self, "read", into)
  local place = check_at(self, "read", at, a.length)
  local memory, offset, bytes = place_of(a)
  must("buffer:read", core.buffer.read(queue_of(self.device), self.handle, place, memory, offset, bytes, array.number(self.ctype)))
  return a
end

--- Sets the elements, from `at` on, to those of an array or a list, of another buffer (on the
-- device, without waiting), or to those of the buffer's own array.
---@param from (tidepool.Array|table|tidepool.Buffer)?
---@param at integer?  default: 1
---@return tidepool.Buffer self
function Buffer:write(from, at, extra)
  check.self(self, Buffer, "buffer", "write")
  check.no_more(extra, "buffer:write", "(elements, first element)")
  if getmetatable(from) == Buffer then
    if from.device.number ~= self.device.number then check.fail("buffer:write: the other buffer is one of %s", from.device.name) end
    if from.ctype ~= self.ctype then check.fail("buffer:write: expected a buffer of %s, got one of %s", self.ctype, from.ctype) end
    local place, bytes = check_at(self, "write", at, from.length), from.length * size_of(self.ctype)
    if from.memory == self.memory and bytes > 0 and math.abs(self.start + place - from.start) < bytes then
      check.fail("buffer:write: the elements overlap those that are copied")
    end
    must("buffer:write", core.buffer.copy(queue_of(self.device), self.handle, place, from.handle, 0, bytes))
    return self
  end
  if type(from) == "table" and getmetatable(from) == nil then from = array.new(self.ctype, from, nil, "buffer:write") end
  local a = array_for(self, "write", from)
  local place = check_at(self, "write", at, a.length)
  local memory, offset, bytes = place_of(a)
  must("buffer:write", core.buffer.write(queue_of(self.device), self.handle, place, memory, offset, bytes))
  return self
end

local check_value -- defined below

local boxes = {} -- by element type and lanes: a ctype, and its size

local function box_of(one)
  local key = one.ctype .. one.lanes
  if not boxes[key] then
    local ct = ffi.typeof(array.c_name(one.ctype) .. "[?]")
    local elements = one.lanes == 3 and 4 or one.lanes
    boxes[key] = { ct, elements, elements * ffi.sizeof(array.c_name(one.ctype)) }
  end
  return boxes[key]
end

--- Sets all elements to a number, on the device, without waiting.
---@param value number
---@return tidepool.Buffer self
function Buffer:fill(value, extra)
  check.self(self, Buffer, "buffer", "fill", "value")
  check.no_more(extra, "buffer:fill", "a number")
  local complaint = check_value(self.ctype, value)
  if complaint then check.fail("buffer:fill: %s", complaint) end
  local box = box_of { ctype = self.ctype, lanes = 1 }
  local number = ffi.new(box[1], 1)
  number[0] = value
  local element = ffi.string(number, box[3])
  must("buffer:fill", core.buffer.fill(queue_of(self.device), self.handle, 0, self.length * #element, element))
  return self
end

--- A new buffer with the same elements, copied on the device.
---@return tidepool.Buffer
function Buffer:copy(extra)
  check.self(self, Buffer, "buffer", "copy")
  check.no_more(extra, "buffer:copy", "no arguments (buffer:write(other) copies into a buffer)")
  return self.device:buffer(self.ctype, self.length):write(self)
end

local function view_of(self, method, at, ctype, length)
  local size = size_of(ctype)
  local handle = must("buffer:" .. method, core.buffer.slice(self.handle, at, length * size))
  local view = { device = self.device, ctype = ctype, length = length, handle = handle, memory = self.memory, start = self.start + at }
  return regions.new(Buffer, view)
end

--- The same buffer, to be read, written, filled and copied on another queue of its device.
---@param queue tidepool.Device
---@return tidepool.Buffer
function Buffer:on(queue, extra)
  check.self(self, Buffer, "buffer", "on", "queue")
  check.no_more(extra, "buffer:on", "a queue")
  device.check_same("buffer:on", self.device, queue)
  local there = {}
  for name, value in pairs(fields(self)) do there[name] = value end
  there.device = queue
  return regions.new(Buffer, there)
end

--- The elements i to j, as a buffer that shares their memory. Kernels take it where the device
-- allows buffers to begin there (every 128 bytes on most); to read, write, copy and fill it may
-- begin anywhere.
---@param i integer
---@param j integer?  default: the last one
---@return tidepool.Buffer
function Buffer:slice(i, j, extra)
  check.self(self, Buffer, "buffer", "slice", "i, j")
  check.no_more(extra, "buffer:slice", "(first element, last element)")
  if j == nil then j = self.length end
  if type(i) ~= "number" or type(j) ~= "number" or i % 1 ~= 0 or j % 1 ~= 0 or i < 1 or j > self.length or j < i - 1 then
    check.fail("buffer:slice: %s to %s are not within the buffer's %d elements", check.show(i), check.show(j), self.length)
  end
  local slice = view_of(self, "slice", (i - 1) * size_of(self.ctype), self.ctype, j - i + 1)
  if self._array then slice._array = self._array:slice(i, j) end
  return slice
end

--- The same memory as elements of another type, as many as fit.
---@param ctype string
---@return tidepool.Buffer
function Buffer:as(ctype, extra)
  check.self(self, Buffer, "buffer", "as", "ctype")
  check.no_more(extra, "buffer:as", "an element type")
  ctype = element_type("buffer:as", ctype)
  return view_of(self, "as", 0, ctype, math.floor(self.length * size_of(self.ctype) / size_of(ctype)))
end

--- An image of the device, by default of zeros. Elements lie row after row, with the channels of
--- one place beside each other.
---@param ctype string  of the elements: "float", or integers of up to 32 bits
---@param shape table   { columns =, rows =, planes =, channels = 1, 2 or 4, normalized = may integers be numbers up to 1? }
---@param elements (tidepool.Array|table)?
---@return tidepool.Image
function Device:image(ctype, shape, elements, extra)
  check.self(self, Device, "device", "image", "element type, shape")
  check.no_more(extra, "device:image", "(element type, shape, elements)")
  return images.new(self, element_type("device:image", ctype), shape, elements)
end

-- ---- buffers in maps ----

--- The buffer of an array that nobody else knows: a map's results. The device's copy of it becomes
--- the buffer's memory.
---@param self tidepool.Device
---@param a tidepool.Array
---@return tidepool.Buffer
function device.of_array(self, a)
  if a.length == 0 then return self:buffer(a.ctype, 0) end
  if self.unified then return self:buffer(a) end
  garbage.pace(self, a.length * size_of(a.ctype))
  local handle = must_find_memory("results:buffer", core.buffer.of_array, queue_of(self), a.memory)
  local made = { device = self, ctype = a.ctype, length = a.length, handle = handle, memory = handle, start = 0, _shadow = a }
  return regions.new(Buffer, made)
end

--- The array by which a map knows the buffer's elements, after the kernels that this thread has
--- started have run. Where memory is the host's it is the buffer's own array; elsewhere one that
--- nobody else knows, `_shadow`, of which the device has the elements.
function Buffer:_as_input(who)
  if self.device.unified or self.length == 0 then return self:read() end
  if self.memory ~= self.handle then return self:copy():_as_input(who) end -- a part of another one
  if not self._shadow then self._shadow = array.allocate(self.ctype, self.length, false) end
  must(who, core.buffer.present(queue_of(self.device), self.handle, self._shadow.memory, array.number(self.ctype)))
  return self._shadow
end

--- The results of a map that gives the buffer's elements, on its device.
local function elements_of(self, method)
  local func, gpu = require "tidepool.func", require "tidepool.device.gpu"
  local f = func.new(gpu.identity(), "buffer:" .. method, { gpu = self.device, precision = not self.device.fp64 and "single" or nil })
  return f:map(self)
end

--- The sum of the elements, added on the device as results:sum() adds; 0 of none.
---@return number
function Buffer:sum()
  check.self(self, Buffer, "buffer", "sum")
  return elements_of(self, "sum"):sum()
end

--- Their mean; nil of none.
---@return number?
function Buffer:mean()
  check.self(self, Buffer, "buffer", "mean")
  return elements_of(self, "mean"):mean()
end

--- The least element; NaN when one is, nil of none.
---@return number?
function Buffer:min()
  check.self(self, Buffer, "buffer", "min")
  return elements_of(self, "min"):min()
end

--- The greatest element; NaN when one is, nil of none.
---@return number?
function Buffer:max()
  check.self(self, Buffer, "buffer", "max")
  return elements_of(self, "max"):max()
end

--- fn(... fn(fn(init, element 1), element 2) ..., the last one), on the device: see results:reduce.
---@param fn fun(a: number, b: number): number
---@param init number?
---@return number?
function Buffer:reduce(fn, init)
  check.self(self, Buffer, "buffer", "reduce", "fn, init")
  if type(fn) ~= "function" then check.fail("buffer:reduce: expected a function, got %s", check.kind(fn)) end
  return elements_of(self, "reduce"):reduce(fn, init)
end

-- ---- kernels ----

--- The integers that each type can hold.
local LIMITS = {
  int8 = { -2 ^ 7, 2 ^ 7 - 1 }, uint8 = { 0, 2 ^ 8 - 1 }, int16 = { -2 ^ 15, 2 ^ 15 - 1 }, uint16 = { 0, 2 ^ 16 - 1 },
  int32 = { -2 ^ 31, 2 ^ 31 - 1 }, uint32 = { 0, 2 ^ 32 - 1 }, int64 = { -2 ^ 53, 2 ^ 53 }, uint64 = { 0, 2 ^ 53 },
}

local function is_integer_cdata(value)
  return type(value) == "cdata" and (ffi.istype("int64_t", value) or ffi.istype("uint64_t", value))
end

--- Why a value cannot be an element of that type; nil when it can.
function check_value(ctype, value, show)
  local limits = LIMITS[ctype]
  if is_integer_cdata(value) and (ctype == "int64" or ctype == "uint64") then return nil end
  if type(value) ~= "number" then return ("takes a number, got %s"):format((show or check.show)(value)) end
  if limits and not (value >= limits[1] and value <= limits[2] and value % 1 == 0) then
    return ("takes an integer from %.0f to %.0f, got %.14g"):format(limits[1], limits[2], value)
  end
end

---@class tidepool.Kernel
---@field device tidepool.Device
---@field name string
---@overload fun(global_size: integer|table, ...: any)
local Kernel = {}
Kernel.__index = Kernel
local starting = {} -- what starts a kernel elsewhere
for method in ("run launch call enqueue execute"):gmatch "%S+" do
  starting[method] = "it is called itself: kernel(number of work items, an argument for each parameter)"
end
check.hints(Kernel, "a kernel", "device name text flags where", starting)
core.add_class("tidepool.device.device.Kernel", Kernel, false)

-- Kernels that are ready to be called in this state: { launcher, parameters, largest group,
-- required group }. They are found by Kernel and, since Kernels that travel are new tables each
-- time, also by the kernel's text, flags and name on its device.
local ready_for, ready = setmetatable({}, { __mode = "k" }), {}

local function key_of(self)
  return ("%d %d %s %s\n%s"):format(self.device.number, self.device.queue_number or 0, self.name or "", self.flags, self.text)
end

local qualifiers = {}
for word in ("const volatile restrict read_only write_only read_write __read_only __write_only __read_write"):gmatch "%S+" do
  qualifiers[word] = true
end

--- What a parameter takes, judging by the compiler's or the source's words for it: { name, shown,
--- and: ctype and lanes; is_buffer, is_local }.
local function read_parameter(type_text, name, space)
  local text = type_text:gsub("[%a_]+", function(word) return qualifiers[word] and "" end)
  local base, stars = text:match "^%s*(.-)%s*(%**)%s*$"
  local one = { name = name }
  local scalar, lanes = base, 1
  if not kernels.types[base] then
    local word, digits = base:match "^(%l+)(%d+)$"
    if kernels.types[word] then scalar, lanes = word, tonumber(digits) end
  end
  one.ctype, one.lanes = kernels.types[scalar], lanes
  one.shown = ("%s%s %s%s"):format(stars == "" and "" or space == "private" and "" or "__" .. space .. " ", base, stars, name)
  one.base, one.is_local = base, space == "local"
  one.is_buffer = stars == "*" and not one.is_local
  one.dimensions, one.is_sampler = tonumber((base:match "^image(%d)d_t$")), base == "sampler_t"
  one.is_unknown = #stars > 1 or not one.is_buffer and not one.ctype or one.ctype == "bool"
  return one
end

local function names_in(text)
  local list = {}
  for name in text:gmatch "[^;]+" do list[#list + 1] = name end
  return list
end

--- Builds the kernel for its device, and raises what is wrong with it. Returns an entry for
--- `ready`.
local function prepare(self)
  local function refuse(format, ...) error(self.where .. format:format(...), 0) end
  if not self.device.fp64 and kernels.needs_double(self.text) then refuse("%s has no doubles; use float", self.device.name) end
  local text = self.text
  if kernels.needs_double(text) then text = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" .. text end
  local program, why, log = core.program.new(self.device.number, text, self.flags, "", self.name or "kernel")
  if not program then
    local flags = why:find "BUILD_OPTIONS" and (" (options: %s)"):format(self.flags) or ""
    refuse("%s%s\n%s", why, flags, (log or ""):gsub("%z", ""):gsub("%s+$", ""))
  end
  local names
  names, why = core.program.kernels(program)
  if not names then refuse("%s", why) end
  names = names_in(names)
  if #names == 0 then refuse("there is no __kernel in the source") end
  if not self.name and #names > 1 then refuse("the source has several kernels, say which: %s", table.concat(names, ", ")) end
  self.name = self.name or names[1]
  local launcher, parameters, largest, required
  for _, name in ipairs(names) do
    if name == self.name then launcher, parameters, largest, required = core.launcher.new(program, name) end
  end
  if not launcher and parameters then refuse("%s", parameters) end
  if not launcher then refuse("there is no kernel '%s' in the source; there is: %s", self.name, table.concat(names, ", ")) end
  local declared
  for i, one in ipairs(parameters) do
    -- compilers may leave out this information, and do when the program comes from a binary
    if not one then
      declared = declared or kernels.declared(self.text, self.name)
      one = declared and declared[i] or { "?", "argument " .. i, "private" }
    end
    parameters[i] = read_parameter(unpack(one))
  end
  return { launcher = launcher, parameters = parameters, largest = largest, required = required }
end

--- A device has lost kernels: lets go of all of them, so that its driver can.
local function forget_over()
  for _, list in ipairs { ready_for, ready } do
    for key, made in pairs(list) do
      if core.launcher.is_over(made.launcher) then
        core.launcher.close(made.launcher)
        list[key] = nil
      end
    end
  end
end

local function ready_of(self)
  local made = ready_for[self]
  if made and not core.launcher.is_over(made.launcher) then return made end
  made = self.name and ready[key_of(self)]
  if made and core.launcher.is_over(made.launcher) then
    made = nil
    forget_over()
  end
  made = made or prepare(self)
  ready_for[self], ready[key_of(self)] = made, made
  return made
end

local built = {} -- the Kernels of this state that include no file, by device, source, and the name or nothing more

local function check_given(who, given)
  if given == nil or type(given) == "string" or type(given) == "table" then return end
  check.fail("%s: expected a kernel's name, or a table of options, got %s", who, check.show(given))
end

--- Makes the Kernel of a text. `place`: where the text stands, { file, line }.
local function new_kernel(self, who, text, given, place)
  local checked = type(given) == "table" and options.check(who, options.of_kernels, given) or { name = given }
  if checked.options and checked.options:find "%-cl%-std" and checked.std then
    check.fail("%s: the version of OpenCL C is given twice, by std = %q and in options", who, checked.std)
  end
  local file, line = place.file, place.line
  if checked.file then file, line = checked.file, 1 end
  local whole, flags = source.assemble(text, checked, file, line)
  local made = setmetatable({ device = self, text = whole, flags = flags, name = checked.name, where = check.where() .. who .. ": " }, Kernel)
  ready_of(made)
  return made
end

--- A kernel of a source in OpenCL C, compiled for the device; with the compiler's complaints as an
-- error that has the user's lines. It is then called as kernel(global_size, ...): with a number of
-- work items, or two or three in a list, which may also say `local_size`; and an argument for each
-- parameter.
---@param text string
---@param given (string|table)?  the name of the kernel, or { name =, options =, defines =, include =, std =, file = }; default: the only one in it
---@return tidepool.Kernel
function Device:kernel(text, given)
  check.self(self, Device, "device", "kernel", "source, name or options")
  if type(text) ~= "string" then check.fail("device:kernel: expected OpenCL C as a string, got %s", check.show(text)) end
  check_given("device:kernel", given)
  local key = type(given) ~= "table" and not source.includes(text) and ("%d %s %s"):format(self.number, given or "", text)
  local made = key and built[key]
  if not made then
    local on_first = device.new(self)
    on_first.queue_number = nil
    made = new_kernel(on_first, "device:kernel", text, given, require("tidepool.device.gpu").kernel_option(text, nil, check.frame(), check.where()))
  end
  if key then built[key] = made end
  return self.queue_number and made:on(self) or made
end

--- The same of a file.
---@param path string
---@param given (string|table)?  as for device:kernel
---@return tidepool.Kernel
function Device:kernel_file(path, given)
  check.self(self, Device, "device", "kernel_file", "path, name or options")
  if type(path) ~= "string" then check.fail("device:kernel_file: expected the path of a file with OpenCL C, got %s", check.show(path)) end
  check_given("device:kernel_file", given)
  local text, why = source.read_file(path)
  if not text then check.fail("device:kernel_file: %s", why) end
  return new_kernel(self, "device:kernel_file", text, given, { file = path, line = 1 })
end

function Kernel:__tostring()
  local shown = {}
  for i, one in ipairs(ready_of(self).parameters) do shown[i] = one.shown end
  return ("tidepool.Kernel: %s(%s)"):format(self.name, table.concat(shown, ", "))
end

--- The sizes of a call, checked, as a list.
local function sizes_of(self, what, given)
  local list = type(given) == "number" and { given } or given
  if type(list) ~= "table" or #list < 1 or #list > 3 then
    check.fail("kernel '%s': the %s must be a number, or a list of two or three, got %s", self.name, what, check.show(given))
  end
  local names = what == "global_size" and { "local_size", "offset" } or {}
  for key in pairs(list) do
    local is_known = type(key) == "number" and key >= 1 and key <= #list and key % 1 == 0
    for _, name in ipairs(names) do is_known = is_known or key == name end
    if not is_known then
      local near = type(key) == "string" and check.nearest(key, names)
      check.fail("kernel '%s': the %s has %s, which is not known%s", self.name, what, type(key) == "string" and "'" .. key .. "'" or tostring(key),
        near and (" (did you mean '%s'?)"):format(near) or names[1] and " (there are local_size, offset)" or "")
    end
  end
  for _, size in ipairs(list) do
    if type(size) ~= "number" or not (size >= 0 and size % 1 == 0 and size < 2 ^ 53) then
      check.fail("kernel '%s': the %s has %s, which is no size", self.name, what, check.show(size))
    end
  end
  return list
end

--- The largest power of two up to `most` that divides n.
local function divisor(n, most)
  local size = 1
  while size * 2 <= most and n % (size * 2) == 0 do size = size * 2 end
  return size
end

--- A group size that suits the device. Compilers may compile anew for each size, so few are used.
local function choose_group(self, made, global)
  local is_processor = self.device.type == "cpu"
  local most = math.min(is_processor and 64 or 256, made.largest)
  local x = divisor(global[1], (#global == 1 or is_processor) and most or math.min(32, most))
  local group = { x }
  for i = 2, #global do
    group[i] = is_processor and 1 or divisor(global[i], most / x)
    most = most / group[i]
  end
  return group
end

-- SPLIT_MIN: work items from which on a call is split into two launches when that avoids groups
-- below SMALL_GROUP. `telling`: words by which a kernel could notice that it was launched twice.
local SPLIT_MIN, SMALL_GROUP = 16384, 16
local telling = { "get_global_size", "get_global_offset", "get_group", "get_num_groups", "get_local", "linear", "local", "barrier", "work_group",
  "sub_group", "enqueue" }

--- May a call be two launches, of which the second has the work items that fill no group?
local function can_split(self)
  for _, word in ipairs(telling) do
    if self.text:find(word, 1, true) or self.flags:find(word, 1, true) then return false end
  end
  return true
end

--- How many of so many work items, as for 1,000,003, are to be launched apart, so that the others
--- have groups that suit the device; 0: none.
local function count_rest(self, made, global, group)
  local n = global[1]
  if #global > 1 or n < SPLIT_MIN or group[1] >= SMALL_GROUP or made.largest < SMALL_GROUP or not can_split(self) then return 0 end
  local largest = choose_group(self, made, { 2 ^ 30 })[1]
  return n % largest
end

local function check_group(self, made, global, given)
  local group = sizes_of(self, "local_size", given)
  local items = 1
  if #group ~= #global then
    check.fail("kernel '%s': local_size needs %d number%s, as global_size has", self.name, #global, #global == 1 and "" or "s")
  end
  for i, size in ipairs(group) do
    items = items * size
    if size == 0 or global[i] % size ~= 0 then
      check.fail("kernel '%s': local_size %d does not divide global_size %d", self.name, size, global[i])
    elseif made.required and size ~= made.required[i] then
      check.fail("kernel '%s': local_size is %d, but the source requires groups of %s", self.name, size, table.concat(made.required, " x "))
    end
  end
  if items > made.largest then
    check.fail("kernel '%s': local_size has %d work items, and %s allows %d", self.name, items, self.device.name, made.largest)
  end
  return { unpack(group) }
end

local function refuse_argument(self, i, one, format, ...)
  check.fail("kernel '%s': argument %d (%s) %s", self.name, i, one.shown, format:format(...))
end

local function show_value(value)
  if array.type_of(value) then return "a typed array; a buffer of it is device:buffer(array)" end
  if getmetatable(value) == Buffer then return "a buffer of " .. value.ctype end
  if getmetatable(value) == images.Image then return "an image" end
  return value == nil and "nil" or check.show(value)
end

--- One number of an argument, after checking it.
local function check_number(self, i, one, value)
  local complaint = check_value(one.ctype, value, show_value)
  if complaint then refuse_argument(self, i, one, "%s", complaint) end
  return value
end

--- Is the value a struct, union or array of the FFI, which contains its bytes?
local function has_bytes(value)
  if type(value) ~= "cdata" or array.type_of(value) then return false end
  local name = tostring(ffi.typeof(value))
  return name:find "^ctype<struct [^*&]*>$" ~= nil or name:find "^ctype<union [^*&]*>$" ~= nil or name:find "%[%d+%]>$" ~= nil
end

local NULL = ("\0"):rep(ffi.sizeof "void *")

--- How many bytes of local memory an argument stands for: so many, or so many elements of the type.
local function room_of(self, i, one, value)
  local size, bytes = one.is_unknown and 1 or box_of(one)[3], value
  if type(value) == "table" and not one.is_unknown then
    local ctype, n = value[1], value[2]
    local is_right = ctype == one.base or ctype == one.ctype or kernels.types[ctype] == one.ctype
    bytes = is_right and type(n) == "number" and n * size
  end
  if type(bytes) == "number" and bytes >= size and bytes % size == 0 and bytes < 2 ^ 40 then return bytes end
  return refuse_argument(self, i, one, "takes room for each group%s so many bytes, got %s",
    one.is_unknown and ":" or (", as in { %q, 64 }, or"):format(one.lanes > 1 and one.base or one.ctype), show_value(value))
end

--- An argument as core.launcher.launch takes it.
local function pack(self, i, one, value)
  if one.is_local then return room_of(self, i, one, value) end
  if one.dimensions or one.is_sampler then
    local handle, complaint = images.pack(self.device, one, value, show_value)
    return handle or refuse_argument(self, i, one, "%s", complaint)
  end
  if one.is_buffer then
    if value == false then return NULL end
    if getmetatable(value) ~= Buffer then
      refuse_argument(self, i, one, "takes a buffer, got %s%s", show_value(value), value == nil and " (NULL is false)" or "")
    end
    local own = fields(value)
    if own.device.number ~= self.device.number then
      refuse_argument(self, i, one, "takes a buffer of %s, got one of %s", self.device.name, own.device.name)
    end
    if one.ctype and one.ctype ~= own.ctype then refuse_argument(self, i, one, "takes a buffer of %s, got one of %s", one.ctype, own.ctype) end
    return own.handle
  elseif one.is_unknown then
    if not has_bytes(value) then
      refuse_argument(self, i, one, "has a type that no number is; it takes a struct or array of FFI with its bytes, got %s", show_value(value))
    end
    return ffi.string(ffi.cast("const char *", value), ffi.sizeof(value))
  end
  local box = box_of(one)
  if one.lanes > 1 and has_bytes(value) and ffi.sizeof(value) == box[3] then return ffi.string(ffi.cast("const char *", value), box[3]) end
  local bytes = ffi.new(box[1], box[2])
  if one.lanes == 1 then
    bytes[0] = check_number(self, i, one, value)
  else
    if type(value) ~= "table" or #value ~= one.lanes then
      refuse_argument(self, i, one, "takes a list of %d numbers, got %s", one.lanes, show_value(value))
    end
    for k = 1, one.lanes do bytes[k - 1] = check_number(self, i, one, value[k]) end
  end
  return ffi.string(bytes, box[3])
end

--- Starts the kernel over so many work items. Does not wait for it; reading a buffer does.
---@param global_size integer|table  a number, { columns, rows } or { x, y, z }; a table may have local_size and offset, likewise
---@param ... any  for `__global T *` a buffer of T, or false for NULL; for numbers and vectors numbers and lists; for `__local T *` { "T", n }
function Kernel:__call(global_size, ...)
  local made = ready_of(self)
  local global = sizes_of(self, "global_size", global_size)
  local n, parameters = select("#", ...), made.parameters
  if n ~= #parameters then
    local has_sizes = n > #parameters and type(global_size) == "number" and type((...)) == "number"
    check.fail("kernel '%s': takes %d argument%s after global_size, got %d%s", self.name, #parameters, #parameters == 1 and "" or "s", n,
      has_sizes and "; two or three sizes are a list: { columns, rows }" or "")
  end
  local offset = type(global_size) == "table" and global_size.offset or nil
  if offset then
    offset = sizes_of(self, "offset", offset)
    if #offset ~= #global then
      check.fail("kernel '%s': offset needs %d number%s, as global_size has", self.name, #global, #global == 1 and "" or "s")
    end
  end
  local wanted = type(global_size) == "table" and global_size.local_size or made.required and { unpack(made.required, 1, #global) }
  local arguments = {}
  for i = 1, n do arguments[i] = pack(self, i, parameters[i], (select(i, ...))) end
  for _, size in ipairs(global) do
    if size == 0 then return end
  end
  local group = wanted and check_group(self, made, global, wanted) or choose_group(self, made, global)
  local function launch(size, by, from)
    must_find_memory(("kernel '%s'"):format(self.name), core.launcher.launch, queue_of(self.device), made.launcher, size, by, arguments, from)
  end
  local rest = wanted and 0 or offset and 0 or count_rest(self, made, global, group)
  if rest == 0 then return launch(global, group, offset) end
  -- launches the few work items first, so that kernel:time(), that of the last launch, is nearly
  -- the time of both. On a processor their groups have one item, since compilers there make new
  -- code for each group size
  local most = { global[1] - rest }
  launch({ rest }, { self.device.type == "cpu" and 1 or rest }, most)
  launch(most, choose_group(self, made, most))
end

--- The same kernel, to be started on another queue of its device.
---@param queue tidepool.Device
---@return tidepool.Kernel
function Kernel:on(queue, extra)
  check.self(self, Kernel, "kernel", "on", "queue")
  check.no_more(extra, "kernel:on", "a queue")
  device.check_same("kernel:on", self.device, queue)
  return setmetatable({ device = queue, text = self.text, flags = self.flags, name = self.name, where = self.where }, Kernel)
end

--- How many seconds its last call took on the device, for which it waits; nil when this thread has
-- not called it.
---@return number?
function Kernel:time(extra)
  check.self(self, Kernel, "kernel", "time")
  check.no_more(extra, "kernel:time", "no arguments")
  local seconds = must(("kernel '%s'"):format(self.name), core.launcher.time(queue_of(self.device), ready_of(self).launcher))
  return seconds > 0 and seconds or nil
end

device.Device, device.Buffer, device.Kernel = Device, Buffer, Kernel

return device
