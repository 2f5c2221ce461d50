--- Helpers of functions on devices whose results are there on some paths only: what is missing is
--- nil where the caller asks for it, and an error where it wants the value. Each function is
--- compared with plain Lua over 101 pairs of numbers, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local assert_ = getfenv(0).assert -- `assert` is busted's here

--- A spec that compares functions of two numbers.
local same = opencl.same(on_device, device)

-- What real programs have.

local function hit(ox, oy, dx, dy, cx, cy, r)
  local lx, ly = cx - ox, cy - oy
  local along = lx * dx + ly * dy
  if along < 0 then return nil end
  local d2 = lx * lx + ly * ly - along * along
  if d2 > r * r then return nil end
  return along - math.sqrt(r * r - d2)
end

local function roots(a, b, c)
  local d = b * b - 4 * a * c
  if d < 0 then return nil end
  local s = math.sqrt(d)
  if s == 0 then return -b / (2 * a) end
  return (-b - s) / (2 * a), (-b + s) / (2 * a)
end

local steps = opencl.array("double", { -10, -1, 0, 0.5, 1, 3, 10, 100 })
local function find(x)
  for i = 1, #steps do
    if steps[i] == x then return i end
  end
end

local function checked(x)
  if x < 0 then return nil, "no root of a negative number" end
  return math.sqrt(x)
end

local function bisect(a, b, target)
  local function f(t) return t * t * t end
  if f(a) > target or f(b) < target then return nil end
  for _ = 1, 40 do
    local m = (a + b) / 2
    if f(m) < target then a = m else b = m end
  end
  return (a + b) / 2
end

local function perhaps(v) if v > 0 then return v end end

describe("a result that may be missing is asked for", function()
  same("in the ways of programs",
    function(x, y)
      local best = math.huge
      for k = 1, 3 do
        local t = hit(x, y, 0.6, 0.8, k, k + 1, 2)
        if t and t < best then best = t end
      end
      return best
    end,
    function(x, y)
      local a, b = roots(1, x, y)
      if a == nil then return -1 end
      if not b then return a end
      return a * b
    end,
    function(x, y) return find(x) or find(y) or 0 end,
    function(x, y)
      local r, message = checked(x)
      if not r then
        if message then return -y end
        return 0
      end
      return r + 1
    end,
    function(x, y)
      local t = bisect(-5, 5, x)
      if not t then return y end
      return t
    end)
  same("by or, and, not, == nil, and in loops",
    function(x, y) return perhaps(x) or y end,
    function(x, y) return (perhaps(x) or 0) + (perhaps(y) or 0) end,
    function(x, y) return perhaps(x) and 1 or y end,
    function(x, y) return perhaps(x) == nil and 1 or y, perhaps(y) ~= nil end,
    function(x, y) if not perhaps(x) then return y elseif perhaps(y) then return 3 end return x end,
    function(x, y) if perhaps(x) and perhaps(y) then return 1 end return 2 end,
    function(x, y) if perhaps(x) then return perhaps(x) end return y end,
    function(x, y)
      local s, i = 0, 0
      while perhaps(x - i) and i < 10 do
        i = i + 1
        s = s + y
      end
      return s
    end,
    function(x, y)
      local i, t = 0, nil -- luacheck: ignore 221 311
      repeat
        i = i + 1
        t = perhaps(x + i)
      until t or i > 20
      return (t or -1) + y
    end)
end)

describe("a result that may be missing keeps that", function()
  local function pass(v) return perhaps(v) end
  local function more(v)
    local r = perhaps(v)
    return r, v
  end
  local function nearest(v)
    local best
    for i = 1, #steps do
      if steps[i] < v then best = steps[i] end
    end
    return best
  end
  local function default(v, d)
    if v == nil then return d end
    return v
  end
  local function assigned(v)
    v = v or 7
    return v
  end
  same("when it is returned, put into locals and passed on",
    function(x, y) local r = pass(x) if r then return r end return y end,
    function(x, y) local r, v = more(x) if r then return r + v end return v + y end,
    function(x, y) return nearest(x) or y end,
    function(x, y) return default(perhaps(x), y) end,
    function(x, y) return assigned(perhaps(x)) + y end,
    function(x, y)
      local t
      for i = 1, 3 do if x > i then t = t or y + i end end
      if t then return t end
      return x
    end,
    function(x, y)
      local function first(a, b) return perhaps(a) or perhaps(b) end
      local t = first(x, y) or perhaps(x + 1)
      if t == nil then return -y end
      return t
    end,
    function(x, y)
      local t = perhaps(x)
      local u = t
      if u then return u end
      return y
    end,
    function(x, y)
      local t = 5
      if y > 1 then t = perhaps(x) end
      if t == nil then return -1 end
      return t
    end,
    function(x, y)
      local last
      for i = 1, 4 do
        local t = perhaps(x - i)
        if t then last = t end
      end
      return last or y
    end,
    function(x, y)
      local function inner(v) if v < 0 then return end return v, v * 2 end
      local a, b = inner(x)
      local c, d = inner(y)
      if a and c then return a + b + c + d end
      if b then return b elseif d then return d end
      return 0
    end)
  same("when it is a table or a boolean",
    function(x, y)
      local function meet(v) if v < 0 then return nil end return { t = v, side = v > 1 and 1 or 2 } end
      local h = meet(x)
      if not h then return y end
      return h.t + h.side
    end,
    function(x, y)
      local function is_large(v) if v ~= v then return nil end return v > 10 end
      local l = is_large(x)
      if l == nil then return -1 end
      if l then return 1 end
      return y
    end,
    function(x, y)
      local function is_large(v) if v ~= v then return nil end return v > 10 end
      if is_large(x) then return 1 end
      return y
    end)
end)

describe("a result that is missing where it is wanted", function()
  same("fails by assert, also with the message that came with it",
    function(x, y) return assert_(checked(x)) + y end,
    function(x, y)
      local r = assert_(perhaps(x), "not there")
      return r + y
    end,
    function(x, y)
      local r, message = checked(x)
      if not r then error(message) end
      return r + y
    end)

  on_device("is an error that names both lines", function()
    local function f(x, y)
      local a, b = roots(1, x, y)
      if a == nil then return 0 end
      return a + b
    end
    for _, lanes in ipairs { 1, 8 } do
      local t = translate(f, { lanes = lanes, name = "f" })
      local outputs, failed, details = device:run(device:build(t), { { 3, 2, 0 }, { 2, 1, 1 } })
      assert.same({ -3, 0 }, { outputs[0 + 1][0], outputs[1][2] })
      assert.equal(0, failed[0])
      assert.equal(0, failed[2])
      local said = opencl.message(t, 3, 1, outputs, failed, details)
      assert.matches("gpu_optional_spec.lua:%d+: 'b' is nil: line %d+ returns 1 value, and line %d+ returns 2 values", said)
    end
  end)

  on_device("is one where it came with a text, too", function()
    local t = translate(function(x) return checked(x) + 1 end, { name = "f" })
    local outputs, failed, details = device:run(device:build(t), { { 4, -1 } })
    assert.equal(3, outputs[1][0])
    assert.matches("a result is nil: line %d+ returns nil, and line %d+ returns a value", opencl.message(t, 2, 1, outputs, failed, details))
  end)

  -- What real programs have: a search that always finds, an overlap that says whether there is one.
  local function picked(list, at)
    for i, each in ipairs(list) do
      at = at - each
      if at < 0 then return each, i end
    end
  end
  local function overlap(a, b)
    local depth = a + 1 - b
    if depth <= 0 then return false end
    if depth < 1 then return true, depth, 0 end
    return true, 0, depth
  end
  same("fails, also where nobody asks",
    function(x, y)
      local each, i = picked({ 3, 4, 5 }, y)
      return each * 10 + i + x
    end,
    function(x, y) return -bisect(x, y, 2) end,
    function(x, y)
      local function two(a) if a > 0 then return a, 1 end return a end
      local a, b = two(x) -- luacheck: ignore 211
      local c, d = two(y)
      if c > 3 then return a + d end
      return a
    end,
    function(x, y) local a, b = roots(1, x, y) return a + b end,
    function(x, y)
      local is_hit, nx, ny = overlap(x, y)
      if not is_hit then return 0 end
      return nx + ny * 10
    end,
    function(x, y)
      local function each(visit) for i = 1, 4 do if visit(x + i) == false then return i end end return y end
      local sum = 0
      local last = each(function(v)
        sum = sum + v
        if v > 3 then return false end
      end)
      return sum, last
    end)

  it("is refused where the function that is mapped passes it on", function()
    local ok, message = pcall(translate, function(x) return perhaps(x) end, { name = "f" })
    assert.is_false(ok)
    assert.matches("a path through the function ends without a return", message)
  end)
end)
