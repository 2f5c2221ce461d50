--- Grids: the places of a matrix, or of an array with planes, row by row, as inputs of a map.
--
-- A grid is no list of places: each of its indexes is a Range whose numbers repeat
-- (engine/inputs.lua), from which columns are filled.

local check = require "tidepool.base.check"

local grid = {}

---@class tidepool.Grid
---@field rows integer
---@field columns integer
---@field planes integer?  of three dimensions
---@field n integer        how many places it has
local Grid = {}
Grid.__index = Grid
grid.Grid = Grid -- the name by which grids travel

local PLACES_MAX = 2 ^ 45 -- as many as an array has elements

local function check_size(name, size)
  if type(size) ~= "number" or size < 1 or size % 1 ~= 0 then
    check.fail("tidepool.grid: the number of %s must be a whole number of at least 1, got %s", name, check.show(size))
  end
end

--- The places of a matrix of so many rows and columns, row by row: f:map(tidepool.grid(h, w)) calls
--- f(y, x), from f(1, 1) to f(h, w). With three numbers, planes, rows and columns: f(z, y, x).
---@param rows integer
---@param columns integer
---@param third integer?
---@return tidepool.Grid
function grid.new(rows, columns, third, extra)
  check.no_more(extra, "tidepool.grid", "(rows, columns) or (planes, rows, columns)")
  local planes
  if third ~= nil then planes, rows, columns = rows, columns, third end
  if planes then check_size("planes", planes) end
  check_size("rows", rows)
  check_size("columns", columns)
  local n = rows * columns * (planes or 1)
  if n > PLACES_MAX then check.fail("tidepool.grid: %.14g places are more than an array can have", n) end
  return setmetatable({ rows = rows, columns = columns, planes = planes, n = n }, Grid)
end

---@return boolean
function grid.is(value)
  return type(value) == "table" and getmetatable(value) == Grid
end

--- The place of a grid with that index: y, x or z, y, x.
---@param of tidepool.Grid
---@param index integer
function grid.place(of, index)
  local k = index - 1
  local y, x = math.floor(k / of.columns), k % of.columns + 1
  if not of.planes then return y + 1, x end
  return math.floor(y / of.rows) + 1, y % of.rows + 1, x
end

--- How often each of a grid's indexes repeats, from the first one: { every = items with the same
--- one, count = how many there are }.
---@param of tidepool.Grid
function grid.axes(of)
  local axes = { { every = of.columns, count = of.rows }, { every = 1, count = of.columns } }
  if of.planes then table.insert(axes, 1, { every = of.rows * of.columns, count = of.planes }) end
  return axes
end

--- The next place at each call, nothing after the last one: for y, x in tidepool.grid(h, w) do.
function Grid:__call()
  local index = (self.at or 0) + 1
  self.at = index <= self.n and index or nil
  if self.at then return grid.place(self, index) end
end

function Grid:__tostring()
  return ("tidepool.grid(%s%d, %d)"):format(self.planes and self.planes .. ", " or "", self.rows, self.columns)
end

return grid
