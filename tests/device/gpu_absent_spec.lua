--- Elements of lists that are not there, on devices: nil where somebody asks for that, as in plain
--- Lua, and an error that names the list where the value is wanted. Each function is compared with
--- plain Lua over 101 pairs of numbers, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local assert_ = getfenv(0).assert -- `assert` is busted's here

local same, same_in_vectors = opencl.same(on_device, device), opencl.same(on_device, device, nil, { 8 })

local list = { 3, 1, 4, 1, 5, 9, 2, 6 }
local from_zero = { [0] = 7, 8, 9 }
local rows = { { 1, 2, 3 }, { 4, 5, 6 } }
local records = { { x = 1, y = 2 }, { x = 3, y = 4 }, { x = 5, y = 6 } }
local wides = { 1ULL, 5ULL, 7ULL }
local primes, sparse, walls = { [2] = true, [3] = true, [5] = true }, { [-2] = 10, [0] = 20, [5] = 30 }, { true, false, true }
local text = "ab12c"

-- An index around those of the lists, of any number.
local function index(x)
  if x ~= x or x > 100 or x < -100 then return 0 end
  return math.floor(x)
end

local function at(i) return list[i] end
local function either(i, default)
  local v = list[i]
  if v == nil then v = default end
  return v
end
local function or_five(v)
  v = v or 5
  return v
end

describe("an element that is not there is nil", function()
  same("in a local of which that is asked",
    function(x, y)
      local i, s, n = index(x), 0, 0
      local v, w, z = list[i], list[index(y)], from_zero[i]
      if v and w then s = v * w elseif v then s = v end
      if z == nil then s = s - 1 else s = s + z end
      for k = i - 1, i + 1 do
        local each = list[k]
        if each then n = n + each end
      end
      return s, n, w and w > 3 and 1 or 0, (v or 0) + y, type(v) == "number" and v or -1, tonumber(wides[i] or 9ULL)
    end,
    function(x, y)
      local best, late, k = nil, 0, 1
      for i = 0, 10 do
        local v = list[i]
        if v and (not best or v > best) then best = v end
        if late and late < x then late = list[i + 1] end
      end
      local next_one, total = list[k], 0
      while next_one do
        total, k = total + next_one * y, k + 1
        next_one = list[k]
      end
      return best, late or -1, total, k
    end)
  same_in_vectors("in rows, records and lists that the function makes",
    function(x, y)
      local i, j, s = index(x), index(y), 0
      local row, r = rows[i], records[i]
      local v = row and row[j]
      if r and r.x > 1 then s = s + r.y end
      if not r then s = s - 1 end
      for d = -1, 1 do
        local near = rows[i + d]
        if near then for e = -1, 1 do if near[j + e] == 5 then s = s + 10 end end end
      end
      return v or -1, s, rows[i] and rows[i][j] or 0
    end,
    function(x, y)
      local q, seen, points = { x, y, 3 }, {}, { { x = x, y = 1 }, { x = y, y = 2 } }
      for i = 1, 8 do seen[i] = i % 2 == 0 end
      local a, b, p, s = q[index(x)], seen[index(y)], points[index(x)], 0
      for i = 0, 4 do if q[i] then s = s + q[i] end end
      if b == nil then s = s + 100 elseif b then s = s + 200 end
      return a or -1, s, p and p.x or p == nil and -2 or 0
    end)
  same_in_vectors("in comparisons, helpers, chains and conditions of loops",
    function(x, y)
      local i, n = index(x), 0
      if list[i] == list[i + 4] then n = 1 end
      if list[i] ~= list[i + 1] then n = n + 2 end
      if list[i] ~= 3 then n = n + 4 end
      if y == list[i] then n = n + 8 end
      local k = 1
      while list[k] and list[k] < x do k = k + 1 end
      local a = list[i]
      local b = a and list[a]
      local c = b and list[b]
      return n, k, c or -1
    end,
    function(x, y)
      local i, got = index(x), at(index(y))
      if not got then got = -1 end
      return got, at(i) or y, either(i, 7) + either(i + 1, 8), or_five(list[i])
    end)
end)

describe("a table with holes, a list of booleans, and a byte of a text", function()
  same_in_vectors("have elements that are nil, too",
    function(x, y)
      local i, n, v, w = index(x), 0, sparse[index(x)], walls[index(y)]
      for k = 1, 6 do if primes[k] then n = n + k end end
      for k, wall in ipairs(walls) do if wall then n = n + k end end
      local place, number = 1, 0
      local c, d = text:byte(place), text:byte(i)
      while c do
        if c >= 48 and c <= 57 then number = number * 10 + c - 48 end
        place = place + 1
        c = text:byte(place)
      end
      return primes[i] and 1 or 0, n, v and v + y or -1, w == nil and 1 or w and 2 or 3, number, d == text:byte(i + 1) and 1 or d or 0
    end)
end)

describe("a boolean in a list", function()
  same_in_vectors("is false where it is there, and nil where it is not; so are counters that get one",
    function(x, y)
      local i, j, n = index(x), index(y), 0
      local w, any = walls[i], walls[i] or walls[j]
      local wall = walls[j]
      for _, v in ipairs(list) do
        v = list[v + i]
        if v == nil then n = n + 1 else n = n + v end
      end
      if wall then n = n + 100 end
      return w and 1 or 2, any == nil and 1 or any and 2 or 3, n
    end)
end)

describe("an element that is wanted", function()
  local function message(fn)
    local translation = translate(fn, { lanes = 1, name = "f", inputs = { "double", "double" } })
    local built = device:build(translation)
    local outputs, failed, details = device:run(built, { { 9 }, { 1 } })
    device:release(built)
    return opencl.message(translation, 1, 0, outputs, failed, details):gsub("^.-:%d+: ", "")
  end

  on_device("fails where it is not there, and names the list", function()
    assert.equal("index 9 of 'list' is out of range (1 to 8)", message(function(x, y) return list[x] + y end))
    assert.equal("'v' is nil: 'list' has no such element", message(function(x, y)
      local v = list[x]
      if v and v > y then return v end
      return v + 1
    end))
    assert.equal("index 9 of 'sparse' has no element", message(function(x, y) return sparse[x] + y end))
    assert.equal("no index", message(function(x, y) return assert_(list[x], "no index") + y end))
  end)
end)
