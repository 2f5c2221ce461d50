--- Typed arrays: numbers in memory that all workers share, without copying.
--
-- An array is a cdata with a metatype per element type, so that LuaJIT compiles a[i] to a bounds
-- check and a load. Its memory belongs to the host (host/base/array.c) and counts its owners: each
-- array and view, and each message and block that carries one. An array is first made empty, with
-- its finalizer, and then given memory by one call of the host, so that nothing leaks when Lua runs
-- out of memory in between.
--
-- A matrix is an array that knows how many columns it has; its rows lie one after the other. With
-- planes it is several matrices, one behind the other. Everything that takes arrays takes the
-- elements in that order.

local abi = require "tidepool.base.abi"
local bit = require "bit"
local bits = require "tidepool.base.bits"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local lazy = require "tidepool.base.lazy"
local new_table = require "table.new"

local grid, image, npy, reduce = lazy "tidepool.grid", lazy "tidepool.image", lazy "tidepool.npy", lazy "tidepool.engine.reduce"

local array = {}

-- The names of element types by their numbers, from 1. 64-bit integers are cdata in Lua.
array.types = abi.types

local c_names = {} -- by the type's name
for i, name in ipairs(array.types) do c_names[name] = abi.c_types[i] end

local words_pointer = ffi.typeof "const int32_t *"
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local cast, band, floor, max = ffi.cast, bit.band, math.floor, math.max
local DOUBLE_EXPONENT, FLOAT_EXPONENT = bits.DOUBLE_EXPONENT, bits.FLOAT_EXPONENT

-- By type name: the ctype of arrays, the type's number, the bytes of an element, the ctype of
-- pointers to elements.
local constructors, numbers, sizes, pointer_types = {}, {}, {}, {}

-- The garbage collector does not see the memory of arrays: an object of 40 bytes may hold a
-- gigabyte. So it is also run whenever the memory of arrays has grown by some bytes since its last
-- run: ROOM_PER_HEAP times the size of Lua's heap, which a run has to go through, but at least
-- ROOM_MIN and at most ROOM_MAX bytes.
local ROOM_PER_HEAP, ROOM_MIN, ROOM_MAX = 16, 2 ^ 27, 2 ^ 30
local collect_at = ROOM_MIN

local is_real = { double = true, float = true }

--- ctype -> the element type that it belongs to.
local type_of = {}

---@class tidepool.Array
---@field data ffi.cdata*  pointer to the first element, 0-based and not checked; from then on each map copies the array to devices anew
---@field ctype string     the element type
---@field rows integer      how many rows it has, of three dimensions a plane; 0: it is no matrix
---@field columns integer   how many elements a row has; 0: it is no matrix
---@field planes integer    of three dimensions: how many planes it has; else 0
local methods = {}
array.methods = methods

-- Offsets of tp_array's flags is_touched (set after elements were changed) and is_exposed (elements
-- may be changed at any time): devices keep copies of arrays. The struct's field `elements` is what
-- users see as `data`.
local TOUCHED, EXPOSED = abi.ARRAY_TOUCHED, abi.ARRAY_EXPOSED

local function touch(a)
  a.memory[TOUCHED] = 1
end
array.touch = touch

--- Raises unless a method was called on an array, with no more arguments than it takes.
local function check_call(a, method, extra, takes, arguments)
  if type(a) ~= "cdata" then
    check.fail("array.%s was called with a dot, or on something else: write array:%s(%s)", method, method, arguments or "")
  end
  check.no_more(extra, "array:" .. method, takes)
end

local function is_whole(x)
  return type(x) == "number" and x % 1 == 0
end

-- The largest size of each dimension of an array with planes.
local SIDE_MAX = 2 ^ 31 - 1

-- The most elements of an array.
local LENGTH_MAX = 2 ^ 45

local function check_shape(who, rows, columns, planes)
  if planes ~= nil and (not is_whole(planes) or planes < 1 or planes > SIDE_MAX) then
    check.fail("%s: the number of planes must be a whole number of at least 1, got %s", who, check.show(planes))
  end
  if planes ~= nil and is_whole(rows) and is_whole(columns) and (rows < 1 or rows > SIDE_MAX or columns > SIDE_MAX) then
    check.fail("%s: a plane has 1 to %d rows and columns, not %s and %s", who, SIDE_MAX, check.show(rows), check.show(columns))
  end
  if not is_whole(rows) or rows < 0 then check.fail("%s: the number of rows must be a whole number, got %s", who, check.show(rows)) end
  if not is_whole(columns) or columns < 1 then
    check.fail("%s: the number of columns must be a whole number of at least 1, got %s", who, check.show(columns))
  end
end

--- A new array with the same shape, of the same or another element type, with undefined elements.
local function allocate_like(a, ctype)
  local b = array.allocate(ctype or a.ctype, a.length, false)
  b.columns, b.planes = a.columns, a.planes
  return b
end

local function is_number(x)
  return type(x) == "number" or (type(x) == "cdata" and (ffi.istype(int64, x) or ffi.istype(uint64, x)))
end

local function check_range(a, method, i, j)
  if type(i) ~= "number" or type(j) ~= "number" or i < 1 or j > a.length or i % 1 ~= 0 or j % 1 ~= 0 then
    check.fail("array:%s: the range must lie in 1 to %d, got %s to %s", method, a.length, check.show(i), check.show(j))
  end
end

local function wrong_index(a, i)
  if type(i) ~= "number" then check.fail("an array has no field %s that could be set: its elements are numbered, from 1", check.key(i)) end
  local is_within = type(i) == "number" and i >= 1 and i <= a.length
  check.fail("array index %s is %s: the array has %d element%s", tostring(i), is_within and "not a whole number" or "out of range", a.length,
    a.length == 1 and "" or "s")
end

--- An array of elements i to j (default: to the end) in the same memory: a view.
---@param i integer
---@param j integer?
---@return tidepool.Array
function methods.slice(a, i, j, extra)
  check_call(a, "slice", extra, "(first, last)", "first, last")
  j = j or a.length
  check_range(a, "slice", i, j)
  local view = constructors[a.ctype]()
  core.array.hold(view, a, (i - 1) * sizes[a.ctype])
  view.length = math.max(0, j - i + 1)
  return view
end

--- Sets all elements to v.
---@param v number|ffi.cdata*
---@return tidepool.Array a
function methods.fill(a, v, extra)
  check_call(a, "fill", extra, "a number", "number")
  if not is_number(v) then check.fail("array:fill: expected a number, got %s", check.show(v)) end
  local data = a.elements
  for k = 0, a.length - 1 do data[k] = v end
  touch(a)
  return a
end

--- A new array with the same elements.
---@return tidepool.Array
function methods.copy(a, extra)
  check_call(a, "copy", extra, "no arguments")
  local b = allocate_like(a)
  ffi.copy(b.elements, a.elements, a.length * sizes[a.ctype])
  return b
end

--- The elements as a list with n; of a matrix a list of such lists, its rows; with planes a list of
--- these.
---@return table
function methods.list(a, extra)
  check_call(a, "list", extra, "no arguments")
  local n = a.planes > 0 and a.planes or a.columns > 0 and a.rows or a.length
  local list = new_table(n, 1)
  for i = 1, n do
    list[i] = a.planes > 0 and a:plane(i):list() or a.columns > 0 and a:row(i):list() or a[i]
  end
  list.n = n
  return list
end

local function next_element(a, i)
  if i < a.length then return i + 1, a[i + 1] end
end

--- Its elements in a loop: for i, x in a:each() do. So does ipairs(a).
---@return fun(a: tidepool.Array, i: integer): integer?, number?
---@return tidepool.Array a
---@return integer zero
function methods.each(a, extra)
  check_call(a, "each", extra, "no arguments")
  return next_element, a, 0
end

-- ---- rows, columns and planes ----

local function shape_text(a)
  local text = ("%d rows of %d columns"):format(a.rows, a.columns)
  return a.planes > 0 and ("%d planes of %s"):format(a.planes, text) or text
end

--- Raises because there is no row (or column, or plane) i.
local function no_place(a, method, what, i)
  check.fail("array:%s: there is no %s %s in %s", method, what, check.show(i), shape_text(a))
end

local function check_rows(a, method)
  if a.columns == 0 then check.fail("array:%s: the array has no rows: a:reshape(rows, columns) gives it some", method) end
end

--- Is it an array with planes? (Methods may be called on anything.)
local function has_planes(a) return type(a) == "cdata" and a.planes > 0 end

--- The index of an element; z counts where there are planes.
local function index_of(a, method, z, y, x)
  local rows, columns, planes = a.rows, a.columns, a.planes
  if planes == 0 then
    z = 1
  elseif not (type(z) == "number" and z >= 1 and z <= planes and floor(z) == z) then
    no_place(a, method, "plane", z)
  end
  if not (type(y) == "number" and y >= 1 and y <= rows and floor(y) == y) then no_place(a, method, "row", y) end
  if not (type(x) == "number" and x >= 1 and x <= columns and floor(x) == x) then no_place(a, method, "column", x) end
  return ((z - 1) * rows + y - 1) * columns + x
end

--- The index that `border` uses for index i of n (clamped or wrapped); nil when it is a number that
--- stands for all.
local function at_border(a, what, i, n, border)
  if n == 0 and not is_number(border) then no_place(a, "at", what, i) end
  if not is_whole(i) then check.fail("array:at: %s %s is not a whole number", what, check.show(i)) end
  if i >= 1 and i <= n then return i end
  if is_number(border) then return nil end
  if border == "wrap" then return (i - 1) % n + 1 end
  return i < 1 and 1 or n
end

local function element_at(a, z, y, x, border)
  if border == nil then return a[index_of(a, "at", z, y, x)] end
  if border ~= "clamp" and border ~= "wrap" and not is_number(border) then
    check.fail('array:at: what is beyond the border is "clamp", "wrap" or a number, got %s', check.show(border))
  end
  local rows, columns = a.rows, a.columns
  z = a.planes == 0 and 1 or at_border(a, "plane", z, a.planes, border)
  y, x = at_border(a, "row", y, rows, border), at_border(a, "column", x, columns, border)
  if not z or not y or not x then return border end
  return a[((z - 1) * rows + y - 1) * columns + x]
end

--- The element in row y and column x of a matrix; with planes, in plane z: a:at(z, y, x). Behind
--- them, what is beyond the border: "clamp" takes the nearest element, "wrap" begins again at the
--- other side, a number stands for all. Without it a place that there is not is an error.
---@param y integer
---@param x integer
---@param border ("clamp"|"wrap"|number)?  with planes the column
---@param fourth ("clamp"|"wrap"|number)?  with planes the border
---@return number|ffi.cdata*
function methods.at(a, y, x, border, fourth, extra)
  if has_planes(a) then
    check_call(a, "at", extra, "(plane, row, column, border)")
    return element_at(a, y, x, border, fourth)
  end
  check_call(a, "at", fourth, "(row, column, border)", "row, column")
  check_rows(a, "at")
  return element_at(a, 1, y, x, border)
end

--- Sets the element in row y and column x of a matrix; with planes, a:set(z, y, x, v).
---@param y integer
---@param x integer
---@param v number|ffi.cdata*  with planes the column
---@param fourth (number|ffi.cdata*)?  with planes the value
function methods.set(a, y, x, v, fourth, extra)
  if has_planes(a) then
    check_call(a, "set", extra, "(plane, row, column, value)")
    a[index_of(a, "set", y, x, v)] = fourth
    return
  end
  check_call(a, "set", fourth, "(row, column, value)", "row, column, value")
  check_rows(a, "set")
  a[index_of(a, "set", 1, y, x)] = v
end

--- Row y of a matrix; with planes a:row(z, y): a view.
---@param y integer
---@param x integer?  with planes the row
---@return tidepool.Array
function methods.row(a, y, x, extra)
  local first
  if has_planes(a) then
    check_call(a, "row", extra, "(plane, row)")
    first = index_of(a, "row", y, x, 1)
  else
    check_call(a, "row", x, "its number", "number")
    check_rows(a, "row")
    first = index_of(a, "row", 1, y, 1)
  end
  return a:slice(first, first + a.columns - 1)
end

--- Plane z of an array that has some: a matrix, which is a view.
---@param z integer
---@return tidepool.Array
function methods.plane(a, z, extra)
  check_call(a, "plane", extra, "its number", "number")
  if a.planes == 0 then check.fail("array:plane: the array has no planes: a:reshape(planes, rows, columns) gives it some") end
  local first = index_of(a, "plane", z, 1, 1)
  return a:slice(first, first + a.rows * a.columns - 1):reshape(a.rows, a.columns)
end

--- The same elements as a matrix of so many rows and columns, or as planes of them: a view.
---@param rows integer|table  or the planes, where there are three numbers; or a grid
---@param columns integer?
---@param third integer?  the columns, where there are three numbers
---@return tidepool.Array
function methods.reshape(a, rows, columns, third, extra)
  check_call(a, "reshape", extra, "(rows, columns), (planes, rows, columns) or a grid", "rows, columns")
  local planes
  if third ~= nil then planes, rows, columns = rows, columns, third end
  if grid.is(rows) then planes, rows, columns = rows.planes, rows.rows, rows.columns end
  check_shape("array:reshape", rows, columns, planes)
  if rows * columns * (planes or 1) ~= a.length then
    local of = planes and ("%d planes of "):format(planes) or ""
    check.fail("array:reshape: %s%d rows of %d columns are %.0f elements, but the array has %d", of, rows, columns, rows * columns * (planes or 1),
      a.length)
  end
  local view = constructors[a.ctype]()
  core.array.hold(view, a, 0)
  view.length, view.columns, view.planes = a.length, columns, planes or 0
  return view
end

--- Gives an array the shape of a grid, if there is one and it has as many elements; returns it.
function array.shaped(a, shape)
  if shape and shape.n == a.length then a.columns, a.planes = shape.columns, shape.planes or 0 end
  return a
end

-- ---- changed by several workers at once ----

-- By element type: the functions of host/base/atomic.h, whose calls LuaJIT compiles. Types of 8 and
-- 16 bits have none.
local atomics, atomic_types = {}, {}

local function open_atomics(name)
  local functions = core.array.atomics(numbers[name])
  if not functions then return end
  local c = c_names[name]
  functions = ffi.cast("void *const *", functions)
  local change, swap = ffi.typeof(("%s (*)(%s *, %s)"):format(c, c, c)), ffi.typeof(("int (*)(%s *, %s, %s)"):format(c, c, c))
  atomics[name] = {
    add = cast(change, functions[abi.atomic.ADD]), max = cast(change, functions[abi.atomic.MAX]),
    min = cast(change, functions[abi.atomic.MIN]), swap = cast(swap, functions[abi.atomic.SWAP]),
  }
  atomic_types[#atomic_types + 1] = name
end

--- The atomic functions for an array, after checking the index and the value.
local function atomics_of(a, method, i, v)
  local of = atomics[a.ctype]
  if not of then
    check.fail("array:%s: elements of type %s cannot be changed by several at once; those of %s can", method, a.ctype,
      table.concat(atomic_types, ", "))
  end
  if type(i) ~= "number" then check.fail("array:%s: expected the number of an element, got %s", method, check.show(i)) end
  if not (i >= 1 and i <= a.length and floor(i) == i) then wrong_index(a, i) end
  if type(v) == "number" then
    if floor(v) ~= v and not is_real[a.ctype] then
      check.fail("array:%s: elements of type %s take whole numbers, got %s", method, a.ctype, tostring(v))
    end
  elseif not is_number(v) then
    check.fail("array:%s: expected a number, got %s", method, check.show(v))
  end
  return of
end

--- a[i] = a[i] + v as one atomic step: for counts and sums that several workers share. Elements of
--- 32 bits and more.
---@param i integer
---@param v number|ffi.cdata*
---@return number|ffi.cdata* before  what the element was
function methods.add(a, i, v, extra)
  check_call(a, "add", extra, "(index, value)", "index, value")
  local before = atomics_of(a, "add", i, v).add(a.elements + (i - 1), v)
  touch(a)
  return before
end

--- Sets a[i] to `new` if it has the bits of `old`, as one atomic step. False: another thread has
--- changed it before; read it again.
---@param i integer
---@param old number|ffi.cdata*
---@param new number|ffi.cdata*
---@return boolean is_done
function methods.compare_and_swap(a, i, old, new, extra)
  check_call(a, "compare_and_swap", extra, "(index, old, new)", "index, old, new")
  atomics_of(a, "compare_and_swap", i, old)
  local is_done = atomics_of(a, "compare_and_swap", i, new).swap(a.elements + (i - 1), old, new) ~= 0
  touch(a)
  return is_done
end

local function is_wide(a) return a.ctype == "int64" or a.ctype == "uint64" end

--- The sum of the elements as doubles, added in the same order as results:sum() adds.
local function sum_of(a)
  local sums, part = reduce.new(), ffi.new("double[?]", reduce.GROUP)
  for first = 1, a.length, reduce.GROUP do
    local n = math.min(reduce.GROUP, a.length - first + 1)
    for k = 0, n - 1 do part[k] = a[first + k] end -- through a[k], which makes NaNs canonical
    sums:add(part, first, n)
  end
  return sums:total()
end

--- The sum of all elements, as results:sum() makes it; 0 of none. Of 64-bit integers the exact one,
-- if it fits into such an integer.
---@return number|ffi.cdata*
function methods.sum(a, extra)
  check_call(a, "sum", extra, "no arguments")
  if not is_wide(a) then return sum_of(a) end
  local sum, data = a.ctype == "int64" and 0LL or 0ULL, a.elements
  for k = 0, a.length - 1 do sum = sum + data[k] end
  return sum
end

--- The mean of all elements; nil of none.
---@return number?
function methods.mean(a, extra)
  check_call(a, "mean", extra, "no arguments")
  return a.length > 0 and sum_of(a) / a.length or nil
end

local function is_less(x, y) return x < y end
local function is_more(x, y) return x > y end

--- The index of the first element that no other one comes before; of the first NaN if there is one.
--- Zeros are ordered by their signs.
local function find_extreme(a, is_before)
  if a.length == 0 then return nil end
  local at, m = 1, a[1]
  for i = 2, a.length do
    local x = a[i]
    if m ~= m then break end
    if is_before(x, m) or x ~= x or (x == 0 and m == 0 and is_before(1 / tonumber(x), 1 / tonumber(m))) then at, m = i, x end
  end
  return at
end

--- The index of the least element, the first of equal ones; of the first NaN if there is one; nil
-- of none.
---@return integer?
function methods.argmin(a, extra)
  check_call(a, "argmin", extra, "no arguments")
  return find_extreme(a, is_less)
end

--- The index of the greatest element, the first of equal ones; of the first NaN if there is one;
-- nil of none.
---@return integer?
function methods.argmax(a, extra)
  check_call(a, "argmax", extra, "no arguments")
  return find_extreme(a, is_more)
end

--- The least element; NaN when one is, nil of none. With an index and a value: a[i] =
--- math.min(a[i], v) as one atomic step; gives what the element was.
---@param i integer?
---@param v (number|ffi.cdata*)?
---@return (number|ffi.cdata*)?
function methods.min(a, i, v, extra)
  check_call(a, "min", extra, "nothing, or (index, value)", "")
  if i ~= nil or v ~= nil then
    local before = atomics_of(a, "min", i, v).min(a.elements + (i - 1), v)
    touch(a)
    return before
  end
  local at = find_extreme(a, is_less)
  return at and a[at]
end

--- The greatest element; NaN when one is, nil of none. With an index and a value: a[i] =
--- math.max(a[i], v) as one atomic step; gives what the element was.
---@param i integer?
---@param v (number|ffi.cdata*)?
---@return (number|ffi.cdata*)?
function methods.max(a, i, v, extra)
  check_call(a, "max", extra, "nothing, or (index, value)", "")
  if i ~= nil or v ~= nil then
    local before = atomics_of(a, "max", i, v).max(a.elements + (i - 1), v)
    touch(a)
    return before
  end
  local at = find_extreme(a, is_more)
  return at and a[at]
end

--- Sorts the elements in place, the least first and NaNs last; or by a function, as table.sort
--- does.
---@param comes_before (fun(x: number, y: number): boolean)?
---@return tidepool.Array a
function methods.sort(a, comes_before, extra)
  check_call(a, "sort", extra, "(comes_before)", "comes_before")
  if comes_before == nil then
    if not core.array.sort(a, numbers[a.ctype]) then check.fail("array:sort: not enough memory for another %d elements", a.length) end
    return a
  end
  if type(comes_before) ~= "function" then check.fail("array:sort: expected a function, got %s", check.show(comes_before)) end
  local list = new_table(a.length, 0)
  for i = 1, a.length do list[i] = a[i] end
  table.sort(list, comes_before)
  for i = 1, a.length do a[i] = list[i] end
  return a
end

--- A new array with fn(element) for each element, computed here and now. (f:map(a):array() does it
--- in all workers.)
---@param fn fun(x: number|ffi.cdata*): number
---@param ctype string?  its element type; default: this array's
---@return tidepool.Array
function methods.map(a, fn, ctype, extra)
  check_call(a, "map", extra, "(fn, type)", "fn, type")
  if type(fn) ~= "function" and not (type(fn) == "table" and getmetatable(fn) and getmetatable(fn).__call) then
    check.fail("array:map: expected a function, got %s", check.show(fn))
  end
  if ctype ~= nil then array.check_type("array:map", ctype) end
  local b = allocate_like(a, ctype)
  local data = b.elements
  for i = 1, a.length do
    local y = fn(a[i])
    if not is_number(y) then check.fail("array:map: the function has returned %s for element %d", y == nil and "nothing" or check.show(y), i) end
    data[i - 1] = y
  end
  return b
end

--- Writes it to a file of NumPy's format .npy, which numpy.load and tidepool.load_array read.
---@param path string
---@return tidepool.Array a
function methods.save(a, path, extra)
  check_call(a, "save", extra, "a path", "path")
  npy.save(a, path)
  return a
end

--- Writes a matrix as a picture in grey, a pixel for each element: a PNG file. Elements of uint8
-- are as bright as they are, 0 to 255; others from the least (black) to the greatest (white), and
-- what is not finite is black. Needs libpng.
---@param path string
---@return tidepool.Array a
function methods.image(a, path, extra)
  check_call(a, "image", extra, "a path", "path")
  image.write(a, path)
  return a
end

--- One element; the index must be valid. See bits.lua about NaNs.
local load = {}
function load.double(a, key)
  local words = cast(words_pointer, a.elements)
  local at = 2 * (key - 1)
  if band(words[at + 1], DOUBLE_EXPONENT) == DOUBLE_EXPONENT then return bits.special_double(words[at + 1], words[at]) end
  return a.elements[key - 1]
end
function load.float(a, key)
  local word = cast(words_pointer, a.elements)[key - 1]
  if band(word, FLOAT_EXPONENT) == FLOAT_EXPONENT then return bits.special_float(word) end
  return a.elements[key - 1]
end
local function load_integer(a, key)
  return a.elements[key - 1]
end

-- ---- arithmetic ----

-- The element type of what Lua computes of two elements: double; a 64-bit integer if one operand is
-- one; float if both are floats.
local function result_type(x, y)
  local types, all_floats = {}, true
  for k = 1, 2 do
    local v = k == 1 and x or y
    local name = array.type_of(v)
    if not name and type(v) == "cdata" then name = ffi.istype(uint64, v) and "uint64" or "int64" end
    types[name or "none"] = true
    all_floats = all_floats and (not name or name == "float")
  end
  return types.uint64 and "uint64" or types.int64 and "int64" or all_floats and "float" or "double"
end

-- compiled loops, by operator and types; each is made from text of its own, so that LuaJIT
-- specialises it
local loops = {}

local function loop_of(expression)
  if not loops[expression] then
    loops[expression] = loadstring(("local out, n, x, y = ... for i = 1, n do out[i - 1] = %s end"):format(expression), "=" .. abi.CHUNKS .. "array")
  end
  return loops[expression]
end

--- The metamethod for "+" and the like.
local function arithmetic(operator)
  return function(x, y)
    local x_type, y_type = array.type_of(x), array.type_of(y)
    local a = x_type and x or y
    for k = 1, 2 do
      local v = k == 1 and x or y
      if not array.type_of(v) and not is_number(v) then
        check.fail("array %s: expected an array or a number on the %s, got %s", operator, k == 1 and "left" or "right", check.show(v))
      end
    end
    local are_shaped = x_type and y_type and x.columns > 0 and y.columns > 0
    if x_type and y_type and (x.length ~= y.length or are_shaped and (x.columns ~= y.columns or x.planes ~= y.planes)) then
      local function shape(v) return v.columns > 0 and shape_text(v) or ("%d elements"):format(v.length) end
      check.fail("array %s: %s on the left, %s on the right", operator, shape(x), shape(y))
    end
    local b = array.allocate(result_type(x, y), a.length, false)
    local shaped = x_type and x.columns > 0 and x or y_type and y
    if shaped then b.columns, b.planes = shaped.columns, shaped.planes end
    loop_of(("%s %s %s"):format(x_type and "x[i]" or "x", operator, y_type and "y[i]" or "y"))(b.elements, b.length, x, y)
    return b
  end
end

-- ---- metamethods ----

local SHOWN = 8 -- elements, or rows

--- The first of n things, as in a list.
local function first_of(n, text_of)
  local shown = {}
  for i = 1, math.min(n, SHOWN) do shown[i] = text_of(i) end
  return table.concat(shown, ", ") .. (n > SHOWN and ", ..." or "")
end

local function elements_text(a)
  return first_of(a.length, function(i) return tostring(a[i]) end)
end

-- When LuaJIT has compiled a loop over a[name] for a name that is no field, it calls __index for
-- other names too, without checking whether the struct has such a field. So __index knows the
-- fields.
local fields = {
  elements = function(a) return a.elements end, length = function(a) return a.length end, columns = function(a) return a.columns end,
  planes = function(a) return a.planes end, memory = function(a) return a.memory end,
}

local function metatype(name)
  local load_element = load[name] or load_integer
  return {
    __index = function(a, key)
      if type(key) == "number" then
        if not (key >= 1 and key <= a.length and floor(key) == key) then wrong_index(a, key) end
        return load_element(a, key)
      end
      if key == "ctype" then return name end
      if key == "data" then
        a.memory[EXPOSED] = 1
        return a.elements
      end
      if key == "rows" then return a.columns > 0 and a.length / a.columns / max(a.planes, 1) or 0 end
      if type(key) == "table" then return a:at(unpack(key, 1, max(#key, 2))) end
      local method = methods[key]
      if method == nil and fields[key] then return fields[key](a) end
      if method == nil then check.missing("an array", key, methods) end
      return method
    end,
    __newindex = function(a, key, value)
      if type(key) == "table" then
        if a.planes > 0 then return a:set(key[1], key[2], key[3], value, key[4]) end
        return a:set(key[1], key[2], value, key[3])
      end
      if type(key) ~= "number" or not (key >= 1 and key <= a.length and floor(key) == key) then wrong_index(a, key) end
      if not is_number(value) then
        check.fail("array element %d must be a number, got %s", key, check.show(value))
      end
      a.elements[key - 1] = value
      a.memory[TOUCHED] = 1
    end,
    __len = function(a) return a.length end,
    __gc = core.array.drop,
    __ipairs = methods.each,
    __pairs = methods.each,
    __add = arithmetic "+", __sub = arithmetic "-", __mul = arithmetic "*", __div = arithmetic "/", __mod = arithmetic "%", __pow = arithmetic "^",
    __unm = function(a) return a * -1 end,
    __tostring = function(a)
      if a.columns == 0 then return ("tidepool.array(%q, %d) { %s }"):format(name, a.length, elements_text(a)) end
      local function rows_text(m) return first_of(m.rows, function(i) return "{ " .. elements_text(m:row(i)) .. " }" end) end
      if a.planes == 0 then return ("tidepool.array(%q, { rows = %d, columns = %d }) { %s }"):format(name, a.rows, a.columns, rows_text(a)) end
      return ("tidepool.array(%q, { planes = %d, rows = %d, columns = %d }) { %s }"):format(name, a.planes, a.rows, a.columns,
        first_of(a.planes, function(i) return "{ " .. rows_text(a:plane(i)) .. " }" end))
    end,
  }
end

for number, name in ipairs(array.types) do
  -- a text of its own for each, since in compiled code ffi.typeof of the same text is a constant,
  -- whatever "$" stands for
  local ct = ffi.typeof((abi.view_struct:gsub("%$", c_names[name])))
  ffi.metatype(ct, metatype(name))
  constructors[name], numbers[name], sizes[name] = ct, number - 1, ffi.sizeof(c_names[name])
  pointer_types[name] = ffi.typeof(c_names[name] .. " *")
  type_of[tonumber(ct)] = name
  open_atomics(name)
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
  -- A ctype is a cdata too, and its type is itself.
  if name and ffi.istype(constructors[name], value) and not tostring(value):find "^ctype" then return name end
end

--- Runs the garbage collector, which frees arrays that nobody holds any more.
local function collect()
  collectgarbage()
  local room = collectgarbage "count" * 1024 * ROOM_PER_HEAP
  collect_at = core.array.bytes() + math.min(math.max(room, ROOM_MIN), ROOM_MAX)
end

--- A new array of n elements.
---@param zeroed boolean  else the elements may be anything
function array.allocate(name, n, zeroed)
  local bytes = n * sizes[name]
  if core.array.bytes() + bytes > collect_at then collect() end
  local a = constructors[name]()
  local has_memory = core.array.new(a, bytes, zeroed)
  if not has_memory then
    collect()
    has_memory = core.array.new(a, bytes, zeroed)
  end
  if not has_memory then check.fail("tidepool.array: not enough memory for %.0f elements of type %s", n, name) end
  a.length = n
  return a
end

local function known_types()
  return '"' .. table.concat(array.types, '", "') .. '"'
end

-- Other names of element types that are understood in suggestions.
local c_aliases = {
  int = "int32", uint = "uint32", unsigned = "uint32", long = "int64", short = "int16", char = "int8", byte = "uint8", number = "double",
  int32_t = "int32", uint32_t = "uint32", int64_t = "int64", uint64_t = "uint64", int16_t = "int16", uint16_t = "uint16",
  int8_t = "int8", uint8_t = "uint8", float64 = "double", float32 = "float", size_t = "uint64",
}

--- Checks an element type; raises in the name of `who`.
function array.check_type(who, name)
  if numbers[name] then return end
  local near = c_aliases[name] or (type(name) == "string" and check.nearest(name, array.types))
  check.fail("%s: unknown element type %s%s; there are %s", who, check.key(name), near and (" (did you mean %q?)"):format(near) or "",
    known_types())
end

--- The length of a list. One with a hole, whose length Lua leaves open, is refused, and so are
--- names.
local function length_of(who, list, what)
  local n = list.n
  if n ~= nil then return n end
  n = #list
  local behind = next(list, n > 0 and n or nil)
  if type(behind) == "number" and behind > n then
    check.fail("%s: element %d of %s is nil, not a number", who, n + 1, what)
  elseif n == 0 and behind ~= nil then
    check.fail("%s: %s has names (%s) and no numbers; a shape is { rows =, columns = }, or { planes =, rows =, columns = }", who, what,
      check.key(behind))
  end
  return n
end

--- Stores the numbers of a list in an array, from element `first` on.
local function set_elements(who, a, first, list, n, what)
  for i = 1, n do
    local x = list[i]
    if not is_number(x) then
      check.fail("%s: element %d of %s is %s, not a number", who, i, what, x == nil and "nil" or check.show(x))
    end
    a.elements[first + i - 2] = x
  end
end

--- Makes a matrix from a list of rows.
local function of_rows(who, name, list, rows)
  local first = list[1]
  local columns = array.type_of(first) and first.length or length_of(who, first, "row 1")
  check_shape(who, rows, columns)
  local a = array.allocate(name, rows * columns, false)
  a.columns = columns
  for i = 1, rows do
    local row = list[i]
    local n = array.type_of(row) and row.length or type(row) == "table" and length_of(who, row, ("row %d"):format(i))
    if n ~= columns then
      check.fail("%s: row %d is %s, but the first has %d elements", who, i, n and ("of %d elements"):format(n) or check.show(row), columns)
    end
    set_elements(who, a, (i - 1) * columns + 1, row, n, ("row %d"):format(i))
  end
  return a
end

--- Makes an array with planes from a list of lists of rows.
local function of_planes(who, name, list, n)
  local a
  for i = 1, n do
    if type(list[i]) ~= "table" then check.fail("%s: plane %d is %s, but the first has rows", who, i, check.show(list[i])) end
    local plane = of_rows(who, name, list[i], length_of(who, list[i], ("plane %d"):format(i)))
    if not a then
      check_shape(who, plane.rows, plane.columns, n)
      a = array.allocate(name, n * plane.length, false)
      a.columns, a.planes = plane.columns, n
    end
    if plane.columns ~= a.columns or plane.rows ~= a.rows then
      check.fail("%s: plane %d has %s, but the first has %d rows of %d columns", who, i, shape_text(plane), a.rows, a.columns)
    end
    ffi.copy(a.elements + (i - 1) * plane.length, plane.elements, plane.length * sizes[name])
  end
  return a
end

--- A new typed array: of n zeros, or with the numbers of a list (or of another array); of a list of
-- lists, a matrix; of a list of such lists, one with planes.
---@param name string    "double", "float", "int8", "uint8", ... "int64", "uint64"
---@param from number|table  how many, or a list, or a shape: { rows = r, columns = c }, with planes = p for three dimensions, or a grid
---@param value (number|ffi.cdata*)?  where there is no list: what all elements are (0)
---@param who string?  which function of ours is asked for it: "tidepool.array"
---@return tidepool.Array
function array.new(name, from, value, who)
  who = who or "tidepool.array"
  array.check_type(who, name)
  local columns, planes
  if type(from) == "table" and not array.type_of(from) and (from.rows ~= nil or from.columns ~= nil) then
    local rows
    rows, columns, planes = from.rows, from.columns, from.planes
    for key in pairs(grid.is(from) and {} or from) do
      if key ~= "rows" and key ~= "columns" and key ~= "planes" then
        check.fail("%s: a shape is { rows =, columns = }, or { planes =, rows =, columns = }, and has no %s", who, check.key(key))
      end
    end
    check_shape(who, rows, columns, planes)
    from = rows * columns * (planes or 1)
  end
  if type(from) == "number" then
    if not (from >= 0 and from % 1 == 0 and from <= LENGTH_MAX) then
      check.fail("%s: the number of elements must be an integer of at least 0 and at most 2^45, got %s", who, tostring(from))
    end
    if value ~= nil and not is_number(value) then check.fail("%s: expected a number for all elements, got %s", who, check.show(value)) end
    local a = array.allocate(name, from, value == nil)
    a.columns, a.planes = columns or 0, planes or 0
    return value == nil and a or a:fill(value)
  end
  if value ~= nil then check.fail("%s takes a value where it is told how many elements there are, and has got a list", who) end
  if array.type_of(from) then
    local a = allocate_like(from, name)
    set_elements(who, a, 1, from, from.length, "the array")
    return a
  elseif type(from) ~= "table" then
    check.fail("%s: expected a number of elements or a list, got %s", who, check.show(from))
  end
  local n, first = length_of(who, from, "the list"), from[1]
  if type(first) == "table" and type(first[1]) == "table" then return of_planes(who, name, from, n) end
  if type(first) == "table" or array.type_of(first) then return of_rows(who, name, from, n) end
  local a = array.allocate(name, n, false)
  set_elements(who, a, 1, from, n, "the list")
  return a
end

--- The array that is kept in a file of NumPy's format .npy: see tidepool.load_array.
---@return tidepool.Array
function array.load(path, extra)
  check.no_more(extra, "tidepool.load_array", "a path")
  return npy.load(path)
end

-- How arrays travel: see tp_codec_set_arrays.
core.array.set_arrays(function(value)
  local name = array.type_of(value)
  if not name then return nil end
  local memory, start = core.array.memory(value.memory)
  return memory, numbers[name], tonumber(ffi.cast("char *", value.elements) - ffi.cast("char *", start)), value.length, value.columns,
    value.planes
end, function(memory, number, offset, n, columns, planes)
  local name = array.types[number + 1]
  -- a worker may be given one array after the other without making any itself
  if memory and core.array.bytes() > collect_at then collect() end
  local a = memory and constructors[name]() or array.allocate(name, n, false)
  if memory then core.array.hold(a, memory, offset) end
  a.length, a.columns, a.planes = n, columns, planes
  return a
end)

return array
