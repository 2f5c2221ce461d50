--- Matrices and grids on OpenCL devices (not stock: the translation is the same there). That a map
-- over a grid gives what it gives everywhere is a promise (tests/promises.lua).

local devices = require "tests.support_device"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, error_of = support.contains, support.error_of
local app = tidepool.App("grid", { gpu = true })

local on_device = devices.on_device(it, pending)

--- Runs fn over a grid on the device, in both precisions, and compares with plain Lua.
local function same(shape, fn)
  for _, precision in ipairs { "double", "single" } do
    local f = app:func { precision = precision } (fn)
    local got = { f:map(shape):array() }
    local k = 0
    for a, b, c in shape do
      k = k + 1
      for i, value in ipairs { fn(a, b, c) } do
        local near = math.abs(value - got[i][k]) <= (precision == "single" and 1e-5 or 1e-14) * math.abs(value)
        assert(near, ("%s, result %d at %d, %d: %.17g, not %.17g"):format(precision, i, a, b, got[i][k], value))
      end
    end
    assert.same({ shape.rows, shape.columns, shape.planes or 0 }, { got[1].rows, got[1].columns, got[1].planes })
  end
end

describe("A grid on a device", function()
  on_device("has all places, however its rows lie in vectors and launches", function()
    local f = app:func(function(y, x) return y * 4096 + x end)
    for _, size in ipairs { { 1, 1 }, { 3, 7 }, { 1, 100 }, { 100, 1 }, { 9, 8 }, { 300, 301 }, { 700, 3 } } do
      local m = f:map(tidepool.grid(size[1], size[2])):array()
      for y, x in tidepool.grid(size[1], size[2]) do
        if m:at(y, x) ~= y * 4096 + x then error(("%d, %d of %d, %d: %d"):format(y, x, size[1], size[2], m:at(y, x))) end
      end
    end
    same(tidepool.grid(5, 3, 2), function(z, y, x) return z * 100 + y * 10 + x end)
    same(tidepool.grid(2, 3, 11), function(z, y) return z * 10 + y end)
    same(tidepool.grid(4, 3), function(y) y = y * 0.5 return y end)
  end)

  on_device("is reduced there, and draws the numbers that it draws on threads", function()
    local f = app:func(function(y, x) return y * x end)
    assert.equal(45150 * 20100, f:map(tidepool.grid(300, 200)):sum())
    assert.equal(60000, f:map(tidepool.grid(300, 200)):max())
    assert.equal(60000, f:map(tidepool.grid(300, 200)):reduce(function(a, b) return a > b and a or b end, 0))
    assert.equal(18, f:map(tidepool.grid(2, 3)):sum())
    local draw = function(y, x) return math.random() + 0 * y * x end
    math.randomseed(7)
    local threads = tidepool.App "t":func(draw):map(tidepool.grid(3, 5)):array()
    math.randomseed(7)
    assert.same(threads:list(), app:func(draw):map(tidepool.grid(3, 5)):array():list())
  end)

  on_device("falls back to threads with its places, and goes into a journal", function()
    local f = app:func { gpu = { "no such device", "threads" } } (function(y, x) return y * 10 + x end)
    assert.same({ 11, 12, 21, 22, n = 4 }, f:map(tidepool.grid(2, 2)):list())
    f = app:func { gpu = { "any", "threads" } } (function(y, x) return y * 10 + x end)
    assert.same({ 11, 12, 21, 22, n = 4 }, f:map(tidepool.grid(2, 2)):list())
    local path = support.temp_path()
    f = app:func { name = "kept" } (function(y, x) return y * 10 + x end)
    for _ = 1, 2 do assert.same({ 11, 12, 21, 22, n = 4 }, f:map(tidepool.grid(2, 2), { journal = path }):list()) end
  end)
end)

describe("An element of a matrix on a device", function()
  local m = tidepool.array("double", tidepool.grid(5, 11))
  for k = 1, #m do m[k] = k * 1.25 end
  local bytes = tidepool.array("uint8", tidepool.grid(2, 5, 11))
  for k = 1, #bytes do bytes[k] = k end

  on_device("is what it is in Lua, within and beyond its borders", function()
    same(tidepool.grid(5, 11), function(y, x) return m:at(y, x), m:at(6 - y, 12 - x), m:at(x % 5 + 1, y), m:at(2, 3) end)
    same(tidepool.grid(5, 11), function(y, x)
      local s, t, u = 0, 0, 0
      for j = -2, 2 do
        for i = -7, 2 do
          s = s * 0.5 + m:at(y + j, x + i, "clamp")
          t = t * 0.5 + m:at(y + j, x + i, "wrap")
          u = u * 0.5 + m:at(y + j, x + i, -1.5)
        end
      end
      return s, t, u
    end)
    same(tidepool.grid(5, 11), function(y, x) return m:at(y * 1e6, -x * 1e6, "clamp"), m:at(y * 999, -x * 1000, "wrap"), m:at(y - 3, x, x + 0.5) end)
    same(tidepool.grid(5, 11), function(y, x) return m:at(0, 20, "clamp"), m:at(-7, 9, "wrap"), m:at(1, 12, 4), y + x end)
    same(tidepool.grid(5, 11), function(y, x)
      if y > 2 then return m:at(y - 2, x, 0) end
      return bytes:at(y, y, x) + bytes:at(y + 1, x, 1, 1000) + bytes:at(-y, x * 0.5 * 2, x, "wrap")
    end)
  end)

  on_device("is the same, whether the lanes want neighbours, one element or any", function()
    local plain, small = m:slice(1), tidepool.array("int16", 55)
    for k = 1, 55 do small[k] = -k end
    same(tidepool.grid(5, 11), function(y, x)
      local k = (y - 1) * 11 + x
      local sum = 0
      for i = 1, 11 do sum = sum + plain[(y - 1) * 11 + i] * plain[(i % 5) * 11 + x] end
      return sum, plain[k], plain[56 - k], plain[7], plain[k * 7 % 55 + 1], small[k] + small[k * 3 % 55 + 1]
    end)
  end)

  on_device("is assigned to by one index", function()
    local u, v = tidepool.array("int32", tidepool.grid(3, 4)), tidepool.array("float", tidepool.grid(2, 3, 4))
    app:func(function(y, x) u[(y - 1) * u.columns + x] = y * 10 + x end):for_each(tidepool.grid(3, 4))
    app:func(function(z, y, x) v[((z - 1) * v.rows + y - 1) * v.columns + x] = z * 100 + y * 10 + x end):for_each(tidepool.grid(2, 3, 4))
    for y, x in tidepool.grid(3, 4) do
      assert.equal(y * 10 + x, u:at(y, x))
      for z = 1, 2 do assert.equal(z * 100 + y * 10 + x, v:at(z, y, x)) end
    end
  end)

  on_device("is of the matrix as it is when the map starts", function()
    local now = tidepool.array("double", { { 1, 2, 3 }, { 4, 5, 6 } })
    local f = app:func(function(y, x) return now:at(y, x, -1) end)
    local function get(shape) return f:map(shape):array():slice(1):list() end
    assert.same({ 1, 2, 3, 4, 5, 6, n = 6 }, get(tidepool.grid(2, 3)))
    now = now:reshape(3, 2)
    assert.same({ 1, 2, -1, 3, 4, -1, n = 6 }, get(tidepool.grid(2, 3)))
    now = tidepool.array("double", tidepool.grid(2, 2, 2))
    contains(error_of(get, tidepool.grid(2, 3)), "array:at: there is no column -1 in 2 planes of 2 rows of 2 columns")
  end)

  on_device("that there is not, or that is none, is an error with its line and place", function()
    for text, fn in pairs {
      ["there is no row 6 in 5 rows of 11 columns"] = function(y, x) return m:at(y + 1, x) end,
      ["there is no column 0 in 5 rows of 11 columns"] = function(y, x) return m:at(y, x - 1) end,
      ["there is no column 1.5 in 5 rows of 11 columns"] = function(y, x) return m:at(y, x / 2 + 1) end,
      ["there is no plane 3 in 2 planes of 5 rows of 11 columns"] = function(y, x) return bytes:at(y, 1, x) end,
      ["row 0.5 is not a whole number"] = function(y, x) return m:at(y / 2, x, "clamp") end,
      ["column inf is not a whole number"] = function(y, x) return m:at(y, x / 0, 0) end,
    } do
      contains(error_of(function() app:func(fn):map(tidepool.grid(5, 11)):list() end), "gpu_grid_spec.lua:", "array:at: " .. text)
    end
    local empty = tidepool.array("double", 0):reshape(0, 3)
    for text, fn in pairs {
      ["there is no row 2 in 0 rows of 3 columns"] = function(y) return empty:at(y + 1, 1, "clamp") end,
      ["there is no row -9 in 0 rows of 3 columns"] = function(y, x) return empty:at(y - 10, x * 100, "wrap") end,
      ["there is no row 0.5 in 0 rows of 3 columns"] = function(y, x) return empty:at(y / 2, x, "wrap") end,
      ["column 0.5 is not a whole number"] = function(y, x) return empty:at(y, x / 2, 4) end,
    } do
      for _, gpu in ipairs { { "cpu" }, { "no such device", "threads" } } do -- the same there
        contains(error_of(function() app:func { gpu = gpu } (fn):map(tidepool.grid(5, 11)):list() end), "array:at: " .. text)
      end
    end
    same(tidepool.grid(2, 3), function(y, x) return empty:at(y, x, -3) + y end)
    -- it is looked at anew at each map
    local now = empty
    local f = app:func(function(y, x) return now:at(y, x, "clamp") end)
    contains(error_of(function() f:map(tidepool.grid(2, 2)):list() end), "there is no row 1 in 0 rows")
    now = m
    assert.equal(m:at(2, 2), f:map(tidepool.grid(2, 2)):list()[4])
    local plain = m:slice(1)
    for text, fn in pairs {
      ["\"mirror\"; what is beyond the border is"] = function(y, x) return m:at(y, x, "mirror") end,
      ["'m:at' with 1 argument; it takes (row, column, border)"] = function(y) return m:at(y) end,
      ["'plain' has no rows: plain:reshape(rows, columns) gives it some"] = function(y, x) return plain:at(y, x) end,
      ["'m:set' takes (row, column, value)"] = function(y, x) m:set(1, y, x, 1) end,
      ["what 'm:set' gives; on a device it is a statement that gives nothing"] = function(y, x) return m:set(y, x, 1) end,
      ["'bytes:set' takes (plane, row, column, value)"] = function(y, x) bytes:set(y, x, 1) end,
      ["the method 'm:row'; on a device write m:at(row, column)"] = function(y, x) return m:row(y)[x] end,
      ["the method 'm:fill'; on a device arrays have the methods at, set, add, max and min"] = function() m:fill(0) end,
      ["on a device write m:at(row, column) for m[{ row, column }]"] = function(y, x) return m[{ y, x }] end,
      ["needs numbers, and this is a boolean"] = function(y, x) return m:at(y, x, x > 1) end,
    } do
      contains(error_of(function() app:func(fn):map(tidepool.grid(5, 11)):list() end), "gpu_grid_spec.lua:", text)
    end
  end)
end)
