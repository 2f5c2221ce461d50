--- Names that are assigned tables, on devices: parameters and locals that stand for another table
-- from then on, classes that set their own __index, tables that are compared, and locals that have
-- no value on some paths. Each function is compared with plain Lua over 101 pairs of numbers,
-- special ones among them, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local same = opencl.same(on_device, device)

local vector = {}
vector.__index = vector
local function new(x, y) return setmetatable({ x = x, y = y }, vector) end
function vector:copy() return new(self.x, self.y) end
function vector:scale_inplace(s) self.x, self.y = self.x * s, self.y * s return self end
function vector:scale(s)
  self = self:copy()
  return self:scale_inplace(s)
end
function vector.__add(a, b)
  if type(a) == "number" then a, b = b, a end
  if type(b) == "number" then b = new(b, b) end
  return new(a.x + b.x, a.y + b.y)
end
function vector:length() return self.x * self.x + self.y * self.y end
function vector.__eq(a, b) return a.x == b.x and a.y == b.y end

-- As in "Programming in Lua".
local Account = { balance = 0 }
function Account:new(o)
  o = o or {}
  setmetatable(o, self)
  self.__index = self
  return o
end
function Account:deposit(v) self.balance = self.balance + v return self end

local function numbers(...)
  local list = {} -- luacheck: ignore 311
  if type(...) == "table" then list = ... else list = { ... } end
  return list
end
local function mean(...)
  local list, sum = numbers(...), 0
  for i = 1, #list do sum = sum + list[i] end
  return sum / #list
end

local easings = { linear = function(t) return t end, quad = function(t) return t * t end }
local function eased(t, easing)
  easing = easing or "linear"
  if type(easing) == "string" then
    local name = easing
    easing = easings[name]
  end
  return easing(t)
end

describe("a name that is assigned another table", function()
  same("stands for that one from there on",
    function(x, y)
      local v = new(x, y)
      local w = v:scale(2)
      return v.x, w.x, (w + v).y, (v + 3).x
    end,
    function(x, y)
      local t = { x }
      local first = t
      t = { y, x }
      t[1] = t[1] + 1
      first[1] = first[1] * 2
      return first[1], t[1], #t
    end,
    function(x, y)
      local v = new(x, y)
      local w = v
      w = w:scale(0.5)
      w.x = w.x + 1
      return v.x, w.x
    end)
  same("is a place of its own where that may not be run",
    function(x, y)
      local t = { x }
      if x > y then t = { y } end
      return t[1]
    end,
    function(x, y)
      local t, n = { 1 }, 0
      for i = 1, 3 do t = { t[1] * x, i } n = n + #t end
      return t[1], t[2], n + y
    end,
    function(x, y)
      local t = { x }
      local function change() if x > 0 then return end t = { y } end
      change()
      return t[1]
    end)
  same("may be a function, or a text that is known, too",
    function(x, y) return eased(x), eased(y, "quad") + eased(x, easings.quad) end)
  same("has as many elements as it was given", function(x, y)
    return mean(x), mean(x, y, 1), mean { x, y }, select("#", unpack(numbers(x, y, x)))
  end)
end)

-- luacheck: ignore 241 311
local function refusal(fn)
  local fine, why = pcall(translate, fn, { name = "f" })
  assert.is_false(fine)
  return why
end

describe("a table that a function has made, and that has a second name", function()
  -- What is copied on a device is one table in Lua.
  it("is refused where it is changed by one of them", function()
    for _, each in ipairs {
      { function(x, y) local a = new(x, y) local l = { a } l[1].x = 5 return a.x end, "a change of 'l[1]', which is also 'a'" },
      { function(x, y) local v = new(x, y) local w = v if x > 0 then w = w:copy() end w.x = 1 return v.x end, "'w', which is also 'v'" },
      { function(x, y) local a, l = new(x, y), {} table.insert(l, a) l[1].x = 5 return a.x end, "a change of 'l[...]', which is also 'a'" },
      { function(x, y) local a = new(x, y) local l = { a:scale_inplace(2) } l[1].x = 5 return a.x end, "which is also 'a'" },
      { function(x) local a, n, o = { v = x }, 0, { p = { v = 1 } } o.p, n = a, 1 o.p.v = 2 return a.v + n end, "which is also 'a'" },
      { function(x, y)
        local a, b = { v = x }, { v = y }
        local l = { a }
        a, b = b, a
        b.v = 7
        return l[1].v + a.v
      end, "which is also 'l[1]'" },
      { function(x, y)
        local p, l = new(x, y), {}
        local function holder() return { p = p } end
        l[1] = holder()
        l[1].p.x = 3
        return p.x
      end, "which is also 'p'" },
      { function(x)
        local function counter() local t = { n = x } return function() t.n = t.n + 1 return t end end
        local c = counter()
        local l = { c() }
        l[1].n = 1
        return c().n
      end, "which is also 't'" },
      { function(x, y)
        local a, b, l = { v = x }, { v = y }, {}
        for i = 1, 3 do
          if i > x then a, b = b, a end
          l[i] = a
        end
        b.v = 7
        return l[1].v
      end, "'a' is put into 'l[...]', and into another place in line" },
    } do
      assert.matches(each[2], refusal(each[1]), 1, true)
    end
  end)
  same("may be changed where it has none, or beside the part that has one", function(x, y)
    local o, l = { p = new(x, y), n = 0 }, {}
    o.n, o.p.x = o.n + 1, o.p.x + 1
    for i = 1, 3 do table.insert(l, 1, new(x, i)) end
    l[1].x = 3
    local a = new(y, x)
    local holder = { a = a, n = 1 }
    holder.n = holder.n + 1
    l[#l + 1] = a:copy()
    l[4].x = l[4].x * 2
    return o.p.x, l[1].x + l[2].x, l[4].x, holder.n + holder.a.x
  end)
end)

describe("a class", function()
  same("may set its __index when it makes an object", function(x, y)
    local a, b = Account:new { balance = x }, Account:new({ balance = 0 })
    a:deposit(y)
    return a.balance, b:deposit(1).balance
  end)
end)

describe("tables that are compared", function()
  same("are equal by __eq, or one table", function(x, y)
    local v, w = new(x, y), new(y, x)
    local t, u = { x }, { x }
    local t2 = t
    return v == w and 1 or 2, v ~= w and 1 or 2, v == v and 1 or 2, t == u and 1 or 2, t == t2 and 1 or 2, vector ~= Account and 1 or 2
  end)
end)

describe("a local that some path gives no value", function()
  same("is an error only where its value is wanted",
    function(x, y)
      local d
      for i = 1, 3 do
        if i > 1 and d < x then d = d + y end
        if i == 1 then d = y end
      end
      return d + 0
    end,
    function(x, y)
      local best, where
      for i = 1, 4 do
        local d = (x - i) * (x - i)
        if i == 1 or d < best then best, where = d, i end
      end
      return best + y, where * 1
    end)
  same("is a table with methods, which is given to it further below",
    function(x, y)
      local best, acc
      for i = 1, 4 do
        local v = new(x * i, y - i)
        if not best or v:length() < best:length() then best = v end
        if acc then acc = acc:copy() else acc = new(y, i) end
      end
      return best.x, best.y, acc.x, acc.y
    end)
  on_device("fails where it has none", function()
    local f = tidepool.App():func { gpu = true } (function(x)
      local a
      if x > 0 then a = 10 end
      return x > -1 and a + x or 0
    end)
    assert.equal(11, f:map({ 1, -2 }):list()[1])
    assert.equal(0, f:map({ 1, -2 }):list()[2])
    local fine, why = pcall(function() return f:map({ 1, 0 }):list() end)
    assert.is_false(fine)
    assert.matches("'a' is nil", tostring(why), 1, true)
  end)
  it("is refused as a result, and where it has no such method", function()
    assert.matches("gpu_names_spec.lua:%d+: gpu function 'f': the method ':none', which a table without a metatable has not", refusal(function(x)
      local t
      if x > 0 then t = { x } end
      return t and t:none() + 1 or 0
    end))
    local fine, why = pcall(translate, function(x) local a if x > 1 then a = 2 end return a end)
    assert.is_false(fine)
    assert.matches("'a' may be read before it has a value", why)
  end)
end)

local from_zero = { [0] = 3, 1, 4, 1, 5 }
local rows = { [0] = { [0] = 1, 2 }, { [0] = 3, 4 }, { [0] = 5, 6 } }
local corners = { new(0, 0), new(4, 0), new(5, 3), new(-1, 2) }
local guarded = setmetatable({ new(1, 2), new(3, 4) }, { __newindex = function() error "no" end })
-- A number that indexes something of n elements, from 0 on.
local function place(x, n) return x == x and x < 1e9 and x > -1e9 and math.floor(x) % n or 0 end

describe("captured tables", function()
  same("may count from 0 where they are arguments, and in rows", function(x, y)
    local function element(list, i) return list[i] end
    return element(from_zero, place(x, 5)) + y, rows[place(x, 3)][0] * x + rows[place(y, 3)][1]
  end)
  same("may be objects in lists", function(x, y)
    local sum, list = 0, corners
    for i = 1, #list do sum = sum + list[i].x * x + list[i].y end
    return sum + y, #guarded + guarded[place(x, 2) + 1].y
  end)
end)
