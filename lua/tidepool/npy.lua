--- Arrays in files of NumPy's format .npy: a magic, a header that is a Python dictionary, and the
-- elements. (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)

local array = require "tidepool.array"
local check = require "tidepool.base.check"
local ffi = require "ffi"

local npy = {}

local MAGIC = "\147NUMPY"
local PART = 2 ^ 20 -- bytes that are read or written at once

-- NumPy's names for element types, without the byte order.
local codes = {
  double = "f8", float = "f4", int8 = "i1", uint8 = "u1", int16 = "i2", uint16 = "u2", int32 = "i4", uint32 = "u4", int64 = "i8", uint64 = "u8",
}
local types = { b1 = "uint8" } -- its booleans are bytes of 0 and 1
for name, code in pairs(codes) do types[code] = name end

local function bytes_of(a)
  return ffi.cast("uint8_t *", a.elements), a.length * ffi.sizeof(array.c_name(a.ctype))
end

--- Opens a file; an error is raised as the caller's of `who`.
local function open(who, path, mode)
  if type(path) ~= "string" then check.fail("%s: expected a path, got %s", who, check.show(path)) end
  local file, why = io.open(path, mode)
  if not file then check.fail("%s: %s", who, why) end
  return file
end

function npy.save(a, path)
  local code = codes[a.ctype]
  local shape = a.columns > 0 and ("%d, %d"):format(a.rows, a.columns) or ("%d,"):format(a.length)
  if a.planes > 0 then shape = ("%d, %s"):format(a.planes, shape) end
  local header = ("{'descr': '%s%s', 'fortran_order': False, 'shape': (%s), }"):format(code:find "1$" and "|" or "<", code, shape)
  header = header .. (" "):rep(-(#MAGIC + 4 + #header + 1) % 64) .. "\n"
  local file = open("array:save", path, "wb")
  local data, size = bytes_of(a)
  local fine, why = file:write(MAGIC, "\1\0", string.char(#header % 256, math.floor(#header / 256)), header)
  for at = 0, size - 1, PART do
    if fine then fine, why = file:write(ffi.string(data + at, math.min(PART, size - at))) end
  end
  local closed, why_not = file:close()
  if not fine or not closed then check.fail("array:save: %s: %s", path, why or why_not) end
end

--- The header's text; or nil and what is wrong.
local function read_header(file)
  local start = file:read(8) or ""
  if #start < 8 or start:sub(1, 6) ~= MAGIC then return nil, "it is no file of NumPy's format .npy" end
  local version = start:byte(7)
  if version < 1 or version > 3 then return nil, ("version %d of the format is not known"):format(version) end
  local length = 0
  local bytes = file:read(version == 1 and 2 or 4) or ""
  for i = #bytes, 1, -1 do length = length * 256 + bytes:byte(i) end
  local header = file:read(length)
  if not header or #header < length then return nil, "it ends in its header" end
  return header
end

--- Reverses the bytes of each element.
local function swap(a)
  local data, size = bytes_of(a)
  local width = size / math.max(a.length, 1)
  for at = 0, size - 1, width do
    for k = 0, width / 2 - 1 do
      data[at + k], data[at + width - 1 - k] = data[at + width - 1 - k], data[at + k]
    end
  end
end

--- Turns an array of which the first index changes fastest in the file. Elements are copied as
--- bytes, since foreign NaNs must not become Lua values.
local function transpose(a, planes, rows, columns)
  local b = array.allocate(a.ctype, a.length, false)
  local width = ffi.sizeof(array.c_name(a.ctype))
  for z = 0, planes - 1 do
    for i = 0, rows - 1 do
      for j = 0, columns - 1 do
        ffi.copy(b.elements + ((z * rows + i) * columns + j), a.elements + ((j * rows + i) * planes + z), width)
      end
    end
  end
  return b
end

--- Reads a file: an array, or nil and what is wrong.
local function read(file)
  local header, why = read_header(file)
  if not header then return nil, why end
  local order, code = header:match "'descr':%s*'([<>|=])(%w+)'"
  local is_fortran, shape = header:match "'fortran_order':%s*(%a+)", header:match "'shape':%s*%(([^)]*)%)"
  if not types[code] then return nil, "its elements are not numbers of one type: " .. (header:match "'descr':%s*([^:]*)," or header) end
  if not is_fortran or not shape then return nil, "its header is not complete: " .. header end
  local sizes, count = {}, 1
  for n in shape:gmatch "%d+" do
    sizes[#sizes + 1] = tonumber(n)
    count = count * tonumber(n)
  end
  if #sizes > 3 then return nil, ("it has %d dimensions; an array has three at most"):format(#sizes) end
  local a = array.allocate(types[code], count, false)
  local data, size = bytes_of(a)
  for at = 0, size - 1, PART do
    local want = math.min(PART, size - at)
    local part = file:read(want)
    if not part or #part < want then return nil, ("it ends before its %.0f elements"):format(count) end
    ffi.copy(data + at, part, want)
  end
  if order == ">" then swap(a) end
  if #sizes < 2 or sizes[#sizes] == 0 or #sizes == 3 and count == 0 then return a end
  local columns, rows, planes = sizes[#sizes], sizes[#sizes - 1], #sizes == 3 and sizes[1] or 0
  if is_fortran == "True" then a = transpose(a, math.max(planes, 1), rows, columns) end
  a.columns, a.planes = columns, planes
  return a
end

function npy.load(path)
  local file = open("tidepool.load_array", path, "rb")
  local a, why = read(file)
  file:close()
  if not a then check.fail("tidepool.load_array: %s: %s", path, why) end
  return a
end

return npy
