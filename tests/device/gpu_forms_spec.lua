--- Forms of Lua on devices: loops over tables, variable arguments, lists that change in the middle,
--- functions that are chosen, and texts that say which of several things something is. Each
--- function is compared with plain Lua over 101 pairs of numbers.

package.path = "tests/?.lua;" .. package.path
local tidepool = require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local same, same_in_vectors = opencl.same(on_device, device), opencl.same(on_device, device, nil, { 8 })

local list = { 3, 1, 4, 1, 5, 9, 2, 6 }
local weights = { a = 0.5, b = 0.25, c = 0.125 }
local mixed = { 5, 6, name = "m", scale = 2, on = true }
local nested = { a = { w = 1, l = { 1, 2 } }, b = { w = 2, l = { 3, 4 } } }
local records = { { x = 1, y = 2 }, { x = 3, y = 4 }, { x = 5, y = 6 } }
local names = { "one", "two", "three" }
local kinds = { { kind = "add", v = 2 }, { kind = "mul", v = 3 }, { kind = "sub", v = 4 } }
local operations = { function(a) return a + 3 end, function(a) return a * 3 end, math.abs }
local named = { add = function(a, b) return a + b end, sub = function(a, b) return a - b end }
local text = "hello world"

local function index(x)
  if x ~= x or x > 100 or x < -100 then return 0 end
  return math.floor(x)
end

local function mean(...)
  local n, sum = select("#", ...), 0
  for _, v in ipairs { ... } do sum = sum + v end
  return sum / n
end

describe("loops over tables", function()
  same_in_vectors("go through pairs, next, and what ipairs cannot index",
    function(x, y)
      local a, b, c, d, count = 0, 0, 0, 0, 0
      local i, j = index(x), index(y) -- sums that are the same in any order
      for k, v in pairs(weights) do if k == "a" then a = a + i else a = a + v * j end end
      for _, v in next, list do if v > x then break end b = b + v end
      for name, each in pairs(nested) do
        for k, v in ipairs(each.l) do c = c + v * k * each.w * (name == "b" and i or 1) end
      end
      for _, v in pairs(mixed) do
        count = count + 1
        if type(v) == "number" then d = d + v end
      end
      for k, name in ipairs(names) do if name == "two" then d = d + k * i else d = d + #name end end
      for k in pairs(weights) do d = d + weights[k] end
      return a, b, c, d, count
    end,
    function(x, y)
      local p, q, s = { a = x, b = y }, { x, y, 3 }, 0
      for k, v in pairs(p) do p[k] = v * 2 end
      for k, v in pairs(q) do q[k] = v + k end
      for _, v in pairs(records[index(x) % 3 + 1]) do s = s + v end
      for _, v in pairs { low = 1, mid = 5, high = 9 } do
        if v > 3 then goto continue end
        v = v * y
        s = s + v
        ::continue::
      end
      local turns = 0
      while next(q) do
        table.remove(q)
        turns = turns + 1
      end
      return p.a + p.b, turns, s, next(q) == nil and 1 or 0
    end)
end)

describe("loops over tables", function()
  local function two(v) return v, v + 1 end
  same_in_vectors("end with a break, at nil, and where the list has become shorter",
    function(x, y)
      local p, q, a, b, c = { x, y, z = 7 }, { x, y, 3, 4 }, 0, 0, 0
      for _, v in pairs(p) do if v == y then break end a = a + v end
      for i, v in ipairs(q) do b = b + v if i < 3 then table.remove(q) end end
      for _, v in ipairs { y, two(x) } do c = c * 2 + v end
      for k in ipairs { 1, nil, 3 } do c = c + k end
      for _, v in ipairs { 1, two(2) } do for _, w in pairs { d = v } do if w > x then break end c = c + w end if v > y then break end end
      local function last(v) do local t = { v } return t[1] * 2 end end
      local t = { 5, 6, n = x }
      t[3] = y
      local pick = x > y and function(m) return m[1] + #m end or function(m) return m[3] * #m end
      return a, b, c, last(x) + #p, #t + t.n, pick(t)
    end)
  it("are refused over a record of which a field may not be there", function()
    local fine, why = pcall(translate, function(x, y)
      local t, n = { a = x }, 0
      if x > y then t.b = y end
      for _ in pairs(t) do n = n + 1 end
      return n
    end, { lanes = 1, name = "f", inputs = { "double", "double" } })
    assert.is_false(fine)
    assert.matches("pairs of 't', of which the field 'b' may not be there", why)
  end)
end)

describe("variable arguments", function()
  same_in_vectors("are counted, selected, passed on and put into tables",
    function(x, y)
      local function all(f, ...)
        local s = 0
        for i = 1, select("#", ...) do s = s + f((select(i, ...))) end
        return s
      end
      local function pack(...) return { n = select("#", ...), ... } end
      local function count(...) return select("#", ...), ... end
      local function add(a, ...)
        if select("#", ...) == 0 then return a end
        local b = ...
        return a + b
      end
      local p, n, first = pack(x, y, 7), count(x, y)
      local function biggest(...) return math.max(...) end
      return mean(x, y, 1, 2), all(math.abs, x, y, -3), p.n + p[1] * p[3], n + first, add(x) + add(x, y) + biggest(x, 3), (select(-1, x, y))
    end,
    function(...) return select("#", ...), mean(...) end)
end)

describe("lists", function()
  same_in_vectors("change in the middle and at the front, and are unpacked",
    function(x, y)
      local q, s = { x }, 0
      for i = 1, 8 do
        local v = table.remove(q, 1)
        if not v then break end
        s = s * 2 + v
        if i < 5 then q[#q + 1] = v + 1 end
      end
      local sorted = {}
      for i = 1, 6 do
        local v, at = i * 7 % 5 + (i == 3 and index(x) or 0), 1
        while sorted[at] and sorted[at] < v do at = at + 1 end
        table.insert(sorted, at, v)
      end
      local points = { { v = 1 }, { v = 3 } }
      table.insert(points, 2, { v = y })
      table.insert(points, 1, { v = x })
      local taken, none = table.remove(points, 3), table.remove(points, 9)
      local a, _, c = unpack(list, 2, 4)
      local d, e = unpack({ x, y })
      return s, sorted[1] + sorted[6] * 100, points[1].v + points[3].v * 10 + taken.v, none == nil and #points or 0, a + c, d - e
    end)
end)

describe("functions", function()
  same("are chosen by an index, a condition or a name, and lie in tables",
    function(x, y)
      local i, s = index(x), 0
      local f, g = operations[i], x > 0 and math.abs or y > 0 and math.floor or math.ceil
      for k, each in ipairs(operations) do
        if k == i then goto continue end
        s = s + each(y)
        ::continue::
      end
      local op = x > y and function(a, b) return a - b, 1 end or function(a, b) return b - a, 2 end
      local d, w = op(x, y)
      return operations[i % 3 + 1](y), f and f(y) or -1, g(y), s, d, w
    end,
    function(x, y)
      local counter = { v = x, get = function(self) return self.v end }
      function counter:add(d) self.v = self.v + d end
      function counter.twice() return counter.v * 2 end
      counter:add(y)
      local handlers, r = { inc = function(v) return v + 1 end, dbl = function(v) return v * 2 end }, x
      for _, name in ipairs { "inc", "dbl", "inc" } do r = handlers[name](r) end
      local function adder(n) return function(v) return v + n end end
      local fs = { function(a) return a + x end, function(a) return a * y end }
      return counter:get(), counter.twice(), r, adder(x)(y), fs[index(y) % 2 + 1](3), named[x > 0 and "add" or "sub"](x, y)
    end)
end)

describe("texts", function()
  local function class_of(v) if v > 0 then return "pos" elseif v < 0 then return "neg" end return "zero" end
  local function graded(v)
    if v > 1 then return "high", 1 elseif v > 0 then return "low", 2 end
    return nil
  end
  local function ease(kind, v)
    kind = kind or "linear"
    if kind == "in" then return v * v elseif kind == "linear" then return v end
    error("unknown easing " .. kind)
  end
  same("say what something is, and are compared",
    function(x, y)
      local state, n, kind = "idle", 0, kinds[index(x) % 3 + 1]
      for i = 1, 12 do
        if state == "idle" then if x > i then state = "run" end
        elseif state == "run" then
          n = n + 1
          if n > 3 then state = "done" end
        else break end
      end
      local what, next_one = class_of(x), { idle = "run", run = "done", done = "idle" }
      local item = { kind = "a", v = y }
      if what == "neg" then item.kind = "bb" end
      local value = kind.kind == "add" and y + kind.v or kind.kind == "mul" and y * kind.v or y - kind.v
      return n, state == "done" and 1 or next_one[state] == "done" and 2 or 3, what == class_of(y) and 1 or what == "zero" and 2 or 3,
        item.kind == "bb" and 1 or 0, value, names[index(y)] == "two" and 1 or 0
    end,
    function(x, y)
      local grade, k = graded(x)
      local price, counts = { apple = 3, pear = 4, fig = 5 }, { a = 0, b = 0 }
      for i = 1, 5 do
        local key = i % 2 == 0 and "a" or "b"
        counts[key] = counts[key] + i
      end
      local found
      for i = 1, 3 do if kinds[i].v > x then found = kinds[i].kind break end end
      local fruit = x > 0 and "apple" or x < -1 and "pear" or "none"
      return not grade and 0 or grade == "high" and k or k * 10, (price[fruit] or 0) * y, counts.a + 10 * counts.b,
        found == nil and -1 or found == "mul" and 1 or 0, ease(nil, x) + ease("in", y)
    end)
  same_in_vectors("that are known are taken apart",
    function(x, y)
      local ells, cost, v, sum = 0, { ["+"] = 1, ["-"] = 2 }, 0, 0
      for i = 1, #text do
        local c = text:sub(i, i)
        if c == "l" then ells = ells + 1 elseif c == " " then ells = ells + 10 end
      end
      local digits, terms = "12345", "a+b-c"
      for i = 1, #digits do
        v = v * 10 + (digits:byte(i) - 48)
        sum = sum + tonumber(digits:sub(-i, -i)) * i
      end
      for i = 1, #terms do sum = sum + (cost[terms:sub(i, i)] or 0) end
      local a, b = text:byte(1, 2)
      return ells + x, v + y, sum, text:sub(1, 3) == "hel" and "10" + x or y, a + b + text:byte(-1) + #("ab" .. "cd"),
        tonumber "ff" and 1 or tonumber("ff", 16)
    end)
end)

describe("what a function has of tables outside", function()
  local app = tidepool.App()
  on_device("is looked at again in each map", function()
    local costs, modes, fs = { a = 1, b = 2 }, { "up", "down" }, { math.abs, math.floor }
    local f = app:func { gpu = true } (function(x)
      local s = 0
      for _, v in pairs(costs) do s = s + v * x end
      return s + (modes[x] == "up" and 100 or 0), fs[x] and fs[x](-1.5) or 0
    end)
    local function both() -- of 1 and 2
      local a, b = f:map({ 1, 2 }):list()
      return { a[1], a[2], b[1], b[2] }
    end
    assert.same({ 103, 6, 1.5, -2 }, both())
    costs.c, modes[2], modes[3], fs[2] = 10, "up", "new", math.ceil
    assert.same({ 113, 126, 1.5, -1 }, both())
  end)
end)

describe("what cannot be told is refused by name", function()
  for i, case in ipairs {
    { function(x) local t = { "a", 1 } return t[x] end, "is a text in one place and a number in another" },
    { function(x) return x > 1 and "a" or "b" end, "a text that is one of several, used as something else" },
    { function(x) return (tostring(x):sub(1, 1) == "1") end, "a part of a text; there are no strings on a device" },
    { function(x) local function f(...) return select(x, ...) end return f(1, 2) end, "put the call in parentheses for the first one" },
    { function(x) local t = { x } local n = 0 for k, v in pairs(t), t, nil do n = n + v + k end return n end, "of iterators ipairs, pairs and next" },
    { function(x) return unpack({ 1, 2 }, 1, x) end, "unpack with bounds that are not known" },
    { function(x) local f = x > 1 and math.abs or 3 return f(x) end, "a table or a number" },
  } do
    it(i .. ": " .. case[2], function()
      local fine, message = pcall(translate, case[1], { name = "f", lanes = 8, inputs = { "double" } })
      assert.is_false(fine)
      assert.truthy(message:find "^tests/device/gpu_forms_spec.lua:%d+: gpu function 'f': ", message)
      assert.truthy(message:find(case[2], 1, true), message)
    end)
  end
end)
