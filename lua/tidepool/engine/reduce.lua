--- Reductions of many numbers to one, in an order that does not depend on who computes which part.
--
-- Results are reduced in groups of GROUP, by their index. Within a group, result i goes to lane i %
-- LANES, in order; then the lanes are combined pairwise: l with l + 8, then l + 4, l + 2, l + 1. A
-- device does the same in the same order (gpu/translate/emit/kernels.lua), so that it does not
-- matter which groups are reduced there and which come as single results.

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local bit = require "bit"
local check = require "tidepool.base.check"
local ffi = require "ffi"

local reduce = { GROUP = abi.GROUP }
local GROUP, LANES = abi.GROUP, abi.LANES

--- The least of m and p[0..n-1]. NaN wins over everything, and -0 is less than 0.
function reduce.min(p, n, m)
  for k = 0, n - 1 do
    local x = tonumber(p[k])
    if x < m or x ~= x or (x == 0 and m == 0 and 1 / x < 0) then m = x end
  end
  return m
end

--- The greatest of m and p[0..n-1].
function reduce.max(p, n, m)
  for k = 0, n - 1 do
    local x = tonumber(p[k])
    if x > m or x ~= x or (x == 0 and m == 0 and 1 / x > 0) then m = x end
  end
  return m
end

local Groups = {}
Groups.__index = Groups

local double_lanes, float_lanes = ffi.typeof(("double[%d]"):format(LANES)), ffi.typeof(("float[%d]"):format(LANES))
local kinds = { [false] = { lanes = double_lanes, one = ffi.typeof "double[1]", elements = ffi.typeof "double[?]" },
  [true] = { lanes = float_lanes, one = ffi.typeof "float[1]", elements = ffi.typeof "float[?]" } }
local doubles, bytes = ffi.typeof "double[?]", ffi.typeof "uint8_t[?]"

--- Groups that are reduced by `combine`, or summed.
---@param is_single boolean?  in floats, as a device does it in single precision
---@param combine (fun(a: number, b: number): number)?
---@param reduce_there (fun(values: tidepool.Array, each: function, each_partial: function))?  reduces whole groups on a device: what combine gives
---   there may have other last bits, and must not depend on which results came one by one
function reduce.new(is_single, combine, reduce_there)
  local kind = kinds[is_single or false]
  return setmetatable({ combine = combine, kind = kind, open = {}, n = 0, is_single = is_single, some = combine and {},
    raw = reduce_there and {}, reduce_there = reduce_there, values = doubles(0), has_value = bytes(0), capacity = 0 }, Groups)
end

--- Makes room for the groups of results up to number n.
local function extend(self, n)
  self.n = math.max(self.n, n)
  local groups = math.ceil(self.n / GROUP)
  if groups <= self.capacity then return end
  local capacity = math.max(2 * self.capacity, groups)
  local values, has_value = doubles(capacity), bytes(capacity)
  ffi.copy(values, self.values, self.capacity * 8)
  ffi.copy(has_value, self.has_value, self.capacity)
  self.values, self.has_value, self.capacity = values, has_value, capacity
end

local function set_value(self, group, value)
  self.values[group], self.has_value[group] = value, 1
end

--- The sum of p[at..at+GROUP-1], a whole group, as doubles. Each lane is a local variable, so that
--- LuaJIT keeps it in a register; there are two loops, since there are not enough registers for
--- all.
assert(LANES == 16, "sum_group is written for 16 lanes")
local function sum_group(p, at)
  local a, b, c, d, e, f, g, h = 0, 0, 0, 0, 0, 0, 0, 0
  for k = at, at + GROUP - 1, LANES do
    a, b, c, d = a + tonumber(p[k]), b + tonumber(p[k + 1]), c + tonumber(p[k + 2]), d + tonumber(p[k + 3])
    e, f, g, h = e + tonumber(p[k + 4]), f + tonumber(p[k + 5]), g + tonumber(p[k + 6]), h + tonumber(p[k + 7])
  end
  local i, j, l, m, n, o, q, r = 0, 0, 0, 0, 0, 0, 0, 0
  for k = at + 8, at + GROUP - 1, LANES do
    i, j, l, m = i + tonumber(p[k]), j + tonumber(p[k + 1]), l + tonumber(p[k + 2]), m + tonumber(p[k + 3])
    n, o, q, r = n + tonumber(p[k + 4]), o + tonumber(p[k + 5]), q + tonumber(p[k + 6]), r + tonumber(p[k + 7])
  end
  a, b, c, d, e, f, g, h = a + i, b + j, c + l, d + m, e + n, f + o, g + q, h + r
  a, b, c, d = a + e, b + f, c + g, d + h
  return (a + c) + (b + d)
end

local function add(a, b) return a + b end

--- Combines the lanes of a group to one number; is_set[l] says which lanes have one. nil when none
--- has.
local function join_lanes(lanes, is_set, combine)
  local apart = LANES / 2
  while apart >= 1 do
    for l = 0, apart - 1 do
      local other = l + apart
      if is_set[other] then
        lanes[l] = is_set[l] and combine(lanes[l], lanes[other]) or lanes[other]
        is_set[l] = true
      end
    end
    apart = apart / 2
  end
  return lanes[0]
end

--- The sum of a group's elements, which were kept.
local function sum_kept(self, values)
  if not self.is_single then return sum_group(values, 0) end
  local lanes, is_set = float_lanes(), {}
  for k = 0, GROUP - 1 do
    local l = k % LANES
    lanes[l], is_set[l] = lanes[l] + values[k], true
  end
  return join_lanes(lanes, is_set, add)
end

--- Keeps p[at..at+n-1], as elements of a group from number `place` on, until all of it is there:
--- with the option ordered = false they come in any order. Those that never come are zeros, which
--- change no sum.
local function keep_part(self, group, place, p, at, n)
  local one = self.open[group]
  if not one then
    one = { values = self.kind.elements(GROUP), count = 0 }
    self.open[group] = one
  end
  for k = 0, n - 1 do one.values[place + k] = tonumber(p[at + k]) end
  one.count = one.count + n
  if one.count == GROUP then
    set_value(self, group, sum_kept(self, one.values))
    self.open[group] = nil
  end
end

--- Combines p[at..at+n-1] with what there is of a group, as its elements from number `place` on.
local function add_part(self, group, place, p, at, n)
  local one = self.open[group]
  if not one then
    one = { lanes = self.kind.lanes(), is_set = {}, count = 0, values = self.raw and ffi.new("double[?]", GROUP) }
    self.open[group] = one
  end
  local lanes, is_set, combine, rounded = one.lanes, one.is_set, self.combine, self.kind.one()
  for k = 0, n - 1 do
    local lane = (place + k) % LANES
    rounded[0] = p[at + k]
    if #self.some < 3 then self.some[#self.some + 1] = rounded[0] end
    if one.values then one.values[place + k] = rounded[0] end
    if is_set[lane] then
      lanes[lane] = combine(lanes[lane], rounded[0])
    else
      lanes[lane], is_set[lane] = rounded[0], true
    end
  end
  one.count = one.count + n
  if one.count == GROUP then
    if self.raw then
      self.raw[#self.raw + 1] = { group = group, values = one.values }
    else
      set_value(self, group, join_lanes(lanes, is_set, combine))
    end
    self.open[group] = nil
  end
end

--- Adds the numbers p[0..n-1], which are results first....
function Groups:add(p, first, n)
  local at = 0
  extend(self, first - 1 + n)
  while at < n do
    local index = first - 1 + at
    local group, place = math.floor(index / GROUP), index % GROUP
    local count = math.min(n - at, GROUP - place)
    if self.combine then
      add_part(self, group, place, p, at, count)
    elseif count == GROUP and not self.is_single then
      set_value(self, group, sum_group(p, at))
    else
      keep_part(self, group, place, p, at, count)
    end
    at = at + count
  end
end

--- Adds groups that were reduced on a device: n results from `first` on.
function Groups:add_groups(p, first, n)
  local group, count = (first - 1) / GROUP, n / GROUP
  extend(self, first - 1 + n)
  ffi.copy(self.values + group, p, count * 8)
  ffi.fill(self.has_value + group, count, 1)
end

--- The reduced value of a group, even if some of its results are missing; nil when all are.
local function value_of(self, group)
  if self.has_value[group] ~= 0 then return self.values[group] end
  local one = self.open[group]
  if not one then return nil end
  return one.lanes and join_lanes(one.lanes, one.is_set, self.combine) or sum_kept(self, one.values)
end

--- The sum over all groups.
function Groups:total()
  local lanes, is_set, k = double_lanes(), {}, 0
  for l = 0, LANES - 1 do is_set[l] = true end
  for group = 0, math.ceil(self.n / GROUP) - 1 do
    local value = value_of(self, group)
    if value then
      local lane = bit.band(k, LANES - 1)
      lanes[lane] = lanes[lane] + value
      k = k + 1
    end
  end
  return join_lanes(lanes, is_set, add)
end

--- Raises when combine depends on the order of a, b and c, or on how they are grouped.
local function check_order(combine, a, b, c, tolerance)
  local function compare(left, x, right, y)
    local size = math.max(math.abs(a), math.abs(b), math.abs(c), math.abs(x), math.abs(y))
    if x == x and y == y and x ~= y and not (math.abs(x - y) <= tolerance * size) then
      check.fail("results:reduce: on a device the order and grouping of the results must not matter to the function, but %s is %s and %s is %s " ..
        "(a = %.14g, b = %.14g, c = %.14g); loop over the results instead", left, tostring(x), right, tostring(y), a, b, c)
    end
  end
  compare("fn(a, b)", combine(a, b), "fn(b, a)", combine(b, a))
  compare("fn(fn(a, b), c)", combine(combine(a, b), c), "fn(a, fn(b, c))", combine(a, combine(b, c)))
end

--- Has the device reduce whole groups that came as single results.
local function reduce_raw(self)
  local raw = self.raw
  self.raw = nil
  local a = array.allocate(self.is_single and "float" or "double", #raw * GROUP, false)
  for i, one in ipairs(raw) do
    local data = a.elements + (i - 1) * GROUP
    for k = 0, GROUP - 1 do data[k] = one.values[k] end
  end
  local again = reduce.new(self.is_single, self.combine)
  self.reduce_there(a, function(p, first, n) again:add(p, first, n) end, function(p, first, n) again:add_groups(p, first, n) end)
  for i, one in ipairs(raw) do set_value(self, one.group, again.values[i - 1]) end
end

--- fn(init, the value of all groups together); init when there are none.
function Groups:fold(init)
  if self.raw and #self.raw > 0 then reduce_raw(self) end
  local combine, result, some = self.combine, init, self.some
  for group = 0, math.ceil(self.n / GROUP) - 1 do
    local value = value_of(self, group)
    if value then
      if type(result) ~= "number" then
        check.fail("results:reduce: expected a number to begin with behind the function, as in :reduce(fn, 0), got %s", check.show(result))
      end
      if #some < 3 then some[#some + 1] = value end
      result = combine(result, value)
    end
  end
  if #some == 3 then check_order(combine, some[1], some[2], some[3], self.is_single and 1e-3 or 1e-9) end
  return result
end

return reduce
