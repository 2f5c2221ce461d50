--- Tables that a function on a device makes (not stock: the same code runs there): records, objects
--- of classes, and lists of a size that is known when it is translated. Each function is compared
--- with plain Lua over 101 pairs of numbers, special ones among them, in both forms.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

local same = opencl.same(on_device, device)

--- A whole number from 1 to n.
local function whole(v, n) return v - v == 0 and math.floor(math.abs(v)) % n + 1 or 1 end

local function point(x, y) return { x = x, y = y } end
local function add(a, b) return { x = a.x + b.x, y = a.y + b.y } end
local function move(p, dx) p.x = p.x + dx end
local function itself(p) return p end
local function larger(a, b)
  if a.x > b.x then return a end
  return b
end
local function limited(p, most)
  if p.x > most then return point(most, p.y) end
  if p.x < -most then return { x = -most, y = p.y } end
  return { x = p.x, y = p.y }
end

describe("a record", function()
  same("has fields, which can be changed and added",
    function(x, y) local p = { x = x, y = y } p.x = p.x * 2 p.z = p.y + 1 return p.x, p.y, p.z end,
    function(x, y) local p = {} p.a, p["b"] = x, y return p.a - p.b end,
    function(x, y) local p = { x, y, 3, [10] = 4, last = x > y } return p[1] + p[3] * p[10], p[2], p.last end,
    function(x, y)
      local p = { x = x, y = y }
      p.x, p.y = p.y, p.x
      return p.x, p.y
    end)

  same("is changed in branches and loops by some of the inputs", function(x, y)
    local p = { sum = 0, turns = 0 }
    for i = 1, 8 do
      if i * x > y then p.sum = p.sum + i else p.turns = p.turns - 1 end
      if p.sum > 12 then break end
    end
    if x > 0 then p.turns = p.turns * 2 end
    return p.sum, p.turns
  end)

  same("is the same table under another name, and in a function that it is given to",
    function(x, y) local a = { x = x } local b = a b.x = y return a.x end,
    function(x, y) local p = point(x, y) move(p, 1) move(p, y) return p.x end,
    function(x, y) local p = itself(point(x, y)) local q = itself(p) q.x = 3 return p.x + q.y end,
    function(x, y)
      local p = point(x, y)
      local function turn() p.x, p.y = -p.y, p.x end
      turn()
      if x > y then turn() end
      return p.x, p.y
    end,
    function(x, y)
      local p = point(x, y)
      for _, each in ipairs { p, p } do each.x = each.x + 1 end
      return p.x
    end)

  same("stays what it was when its variable gets another one",
    function(x, y)
      local state = point(x, y)
      local before = state
      state = add(state, before)
      local body = { at = point(y, x) }
      local at = body.at
      body.at = add(at, at)
      return state.x - before.x, at.x + body.at.y
    end,
    function(x, y)
      local p, last = point(x, y), point(0, 0)
      for _ = 1, 5 do
        local old = p
        p = add(p, last)
        last = old
      end
      return p.x, last.y
    end,
    function(x, y)
      local list = { { v = x }, { v = y } }
      local first = list[1]
      list[1] = { v = 3 }
      list[1], list[2] = list[2], list[1]
      return first.v, list[1].v, list[2].v
    end)

  same("is made anew by functions, also where they return early",
    function(x, y) local p = add(point(x, y), add({ x = 1, y = 2 }, point(y, x))) return p.x, p.y end,
    function(x, y) local p = limited(point(x, y), 5) p.y = p.y + 1 return p.x, p.y end,
    function(x, y) return larger(point(x, 1), point(y, 2)).y, larger(point(y, x), { x = 0, y = 5 }).x end,
    function(x, y)
      local p = point(0, 0)
      for i = 1, 10 do
        p = limited(add(p, point(x, i)), 40)
        if p.x > y then break end
      end
      return p.x, p.y
    end)

  same("is chosen by a condition",
    function(x, y) local a, b = point(x, 1), point(y, 2) local c = x > y and a or b return c.x, c.y end,
    function(x, y) local c if x > y then c = point(x, y) else c = { x = 1, y = x } end return c.x, c.y end)

  local function bounds(s, k) return { low = { x = s.x - k, y = s.y - k }, high = { x = s.x + k, y = s.y + k } } end
  same("has records in it", function(x, y)
    local box = bounds(point(x, y), 2)
    box.low.x = box.low.x * 2
    local low = box.low
    low.y = box.high.y
    local other = { box = box, n = 1 }
    return box.low.x + box.high.x, box.low.y, other.box.high.y
  end)

  same("is evaluated in Lua's order", function(x, y)
    local s = { n = x }
    local function next_() s.n = s.n * 3 + 1 return s.n end
    return s.n + next_(), next_() + s.n, s.n * next_() - s.n, math.max(s.n, next_(), y)
  end, function(x, y)
    local s = { n = 0 }
    local function count() s.n = s.n + 1 return s.n > 2 end
    local a = x > y and count() or x < y and count()
    local b = x > 0 or count() or y > 0
    while count() == (x > 100) and s.n < 9 do s.n = s.n + 1 end
    return s.n, a, b
  end, function(x, y)
    local s = { n = 1 }
    local function next_(v) s.n = s.n + 1 return v * s.n end
    local a, b = x or next_(y), x > y and next_(x) or next_(y)
    local c = x and next_(3)
    if x > 0 and next_(x) or y > 0 or next_(y) then s.n = s.n + 5 end
    return a, b, c, s.n
  end)
end)

local Vec = {}
Vec.__index = Vec
local function vec(x, y) return setmetatable({ x = x, y = y }, Vec) end
setmetatable(Vec, { __call = function(_, x, y) return vec(x, y) end })
function Vec.__add(a, b) return vec(a.x + b.x, a.y + b.y) end
function Vec.__mul(a, b)
  if type(a) == "number" then return vec(a * b.x, a * b.y) end
  if type(b) == "number" then return vec(a.x * b, a.y * b) end
  return vec(a.x * b.x, a.y * b.y)
end
function Vec.__unm(a) return vec(-a.x, -a.y) end
function Vec.__lt(a, b) return a.x < b.x end
function Vec:dot(o) return self.x * o.x + self.y * o.y end
function Vec:scale(k) self.x, self.y = self.x * k, self.y * k return self end
local unit = vec(1, 0)

local Counter = {}
Counter.__index = Counter
function Counter.new(n) local self = setmetatable({}, Counter) self.n = n self.parts = { low = 0, high = 0 } return self end
function Counter:add(v) if v > self.n then self.parts.high = self.parts.high + v else self.parts.low = self.parts.low + 1 end end

describe("an object", function()
  same("has its class's methods and operators",
    function(x, y) local a, b = vec(x, y), Vec(y, 1) local c = a + b * 2 + -a + 3 * a return c.x, c.y, a:dot(b), a < b, a > b end,
    function(x, y) local a = vec(x, y) local b = a:scale(2):scale(y) return a.x, b.y end,
    function(x, y) return (unit + vec(x, y)):dot(unit), unit:dot(unit * y) end,
    function(x, y)
      local c = Counter.new(y)
      for i = 1, 5 do c:add(x * i) end
      return c.parts.low, c.parts.high
    end)
end)

describe("a list", function()
  same("has elements, and grows at its end",
    function(x, y) local t = { x, y, 3 } local s = 0 for i = 1, #t do s = s + t[i] * i end return s, #t end,
    function(x, y)
      local t = {}
      for i = 1, 5 do t[i] = i * x end
      t[3] = y
      for i = 1, 5, 2 do t[#t + 1] = i end
      table.insert(t, x)
      local last = table.remove(t)
      t[#t] = nil
      return t[3] + t[7], #t, last
    end,
    function(x, y)
      local t = {}
      for i = 1, 6 do if i * x > y then t[#t + 1] = i end end
      local s = 0
      for _, v in ipairs(t) do s = s * 7 + v end
      return s, #t
    end,
    function(x, y)
      local t, n = {}, 0
      for i = 1, 6 do if i * x > y then n = n + 1 t[n] = i * y end end
      return n > 0 and t[n] or -1, n
    end)

  same("is indexed with what is computed, in each input its own",
    function(x, y) local t = { 1, 2, 3, 4, 5 } local i = whole(x, 5) t[i], t[6 - i] = t[6 - i] + y, t[i] return t[1], t[2], t[3], t[i] end,
    function(x, y) local t = { x, y } t[whole(y, 2)] = 7 return t[1], t[2] end,
    function(x, y)
      local counts = { 0, 0, 0, 0 }
      for i = 1, 9 do local k = whole(x * i + y, 4) counts[k] = counts[k] + 1 end
      return counts[1], counts[2], counts[3], counts[4]
    end)

  same("counts from 0, from 2, or downwards",
    function(x, y) local t = {} for i = 0, 4 do t[i] = x + i end return t[0] + t[4] * y, #t end,
    function(x, y) local t = {} for i = 2, 6 do t[i] = x * i end return t[2] - t[6] + y end,
    function(x, y) local t = {} for i = 5, 1, -1 do t[i] = x - i end return t[1] * t[5] + y, #t end,
    function(x, y) local t = { [1] = x, [2] = y } for i = 1, 2 do t[i] = t[i] * i end return t[1], t[2], #t end,
    function(x, y)
      local row = { [0] = 1 }
      for n = 1, 5 do
        local next_ = { [0] = 1 }
        for k = 1, n do next_[k] = (row[k - 1] or 0) + (row[k] or 0) end
        row = next_
      end
      return row[2] * x, row[5] + y
    end)

  same("holds booleans", function(x, y)
    local t = {}
    for i = 1, 10 do t[i] = i % 3 == 0 end
    t[4] = x > 0
    local n = 0
    for i = 1, 10 do if t[i] then n = n + i end end
    return n + y, t[whole(x, 10)]
  end)

  same("holds lists and records",
    function(x, y)
      local m = { { 1, x }, { y, 4 } }
      local r = {}
      for i = 1, 2 do
        r[i] = {}
        for j = 1, 2 do
          local s = 0
          for k = 1, 2 do s = s + m[i][k] * m[k][j] end
          r[i][j] = s
        end
      end
      m[1], m[2] = m[2], m[1]
      return r[1][1], r[1][2], r[2][1] + m[1][2], #r
    end,
    function(x, y)
      local list = { { v = x, n = 1 }, { v = y, n = 2 } }
      list[3] = { v = 3, n = 3 }
      for _, each in ipairs(list) do each.v = each.v * each.n end
      local it = list[whole(x, 3)]
      it.n = 10
      return list[1].v, list[3].v + it.v, list[1].n + list[2].n + list[3].n
    end,
    function(x, y)
      local stack = { items = {}, n = 0 }
      local function push(v) stack.n = stack.n + 1 stack.items[stack.n] = v end
      local function pop() local v = stack.items[stack.n] stack.n = stack.n - 1 return v end
      push(x) push(y) push(x * y)
      local a, b = pop(), pop()
      push(a - b)
      return pop(), stack.n
    end)

  same("is exchanged with another",
    function(x, y)
      local a, b = { 1, 2, 3 }, { x, y, 0 }
      for i = 1, 3 do
        for k = 1, 3 do b[k] = b[k] + a[k] * i end
        if i * x > y then a, b = b, a end
      end
      return a[1], a[2], b[3]
    end)

  same("is given to functions, sorted and unpacked",
    function(x, y)
      local function fill(t, n, v) for i = 1, n do t[i] = v * i end return t end
      local t = fill({}, 4, x)
      local function total(list) local s = 0 for i = 1, #list do s = s + list[i] end return s end
      return total(t) + y
    end,
    function(x, y)
      if x ~= x or y ~= y then return 0, 0, 0 end
      local t = { x, y, 0, 1, -2, x }
      table.sort(t)
      local u = { x, y, 1 }
      table.sort(u, function(a, b) return a > b end)
      return t[1], t[4], u[1]
    end,
    function(x, y) local t = { x, y, 2 } return math.max(unpack(t)) end)

  same("has no other elements, which is an error on both", function(x, y)
    local t = { 1, 2, 3 }
    local i = x % 6
    return t[i] + y
  end, function(x, y)
    local t = {}
    for i = 1, 3 do t[i] = y end
    return t[x] * 2
  end)
end)

local grid = { { 1, 2, 3 }, { 4, 5, 6 } }
local zero = { [0] = 10, 20, 30 }
local stars = { { at = { x = 1, y = 2 }, mass = 5 }, { at = { x = 3, y = -1 }, mass = 0.5 } }
describe("a captured table", function()
  same("has rows, elements from 0, records in records, and is walked by ipairs",
    function(x, y) return grid[whole(x, 2)][whole(y, 3)] + #grid[1] end,
    function(x, y) return zero[whole(x, 3) - 1], zero[whole(y, 3) - 1] end,
    function(x, y)
      local s = 0
      for i, star in ipairs(stars) do
        local d = { x = star.at.x - x, y = star.at.y - y }
        s = s + star.mass * (d.x * d.x + d.y * d.y) * i
      end
      return s
    end,
    function(x, y)
      local function weight(star) return star.mass * y end
      local s = 0
      for i, row in ipairs(grid) do for j, v in ipairs(row) do s = s + v * i * j end end
      return s + weight(stars[whole(x, 2)])
    end)
end)

describe("what may be nil can be asked for", function()
  local list, rows = { 1, 2, 3 }, { { 1, 2 }, { 3, 4 } }
  same("as an element of a list",
    function(x, y)
      local t = {}
      for i = 1, 3 do t[i] = x * i end
      return (t[whole(y, 6)] or 7) + x, t[whole(x, 6)] == nil, t[x] or y
    end,
    function(x, y) local p = { v = x } return list[whole(y, 6)] or p.v, zero[whole(x, 4) - 1] or y, list[x] ~= nil end,
    function(x, y) local row = rows[whole(x, 4) - 1] return row and row[whole(y, 4) - 1] or -1 end,
    function(x, y)
      local s = 0
      for i = 0, 3 do
        local row = rows[i]
        if row then s = s + row[1] * x end
        if not rows[i] then s = s + y end
      end
      return s
    end,
    function(x, y)
      local seen, n = {}, 0
      for i = 1, 8 do
        local k = whole(i * x + y, 5)
        if k == #seen + 1 and not seen[k] then
          seen[k] = true
          n = n + 1
        end
      end
      return n, seen[2] and true or false
    end)

  same("as a local that is declared without a value",
    function(x, y)
      local best, d = nil, math.huge
      for i = 1, #rows do
        local v = math.abs(rows[i][1] - x)
        if v < d then best, d = i, v end
      end
      return best or 0, best == nil, d + y
    end,
    function(x, y)
      local hit
      for i = 1, 4 do
        local p = { v = x * i, n = i }
        if p.v > y and (not hit or p.v < hit.v) then hit = p end
      end
      if not hit then return -1, 0 end
      return hit.v, hit.n
    end,
    function(x, y)
      local found
      local t = { x, y }
      for i = 1, 2 do if t[i] > 1 then found = true end end
      if found then return 1 end
      return 0
    end,
    function(x, y)
      local t, last = { x, y }, nil
      if x > y then last = t[1] end
      if last ~= nil then last = last * 2 end
      if x > 3 then last = nil end
      return last or t[2]
    end)

  it("and is an error where it is used without asking", function()
    if not device then return end
    local f = translate(function(x) local t, v = { x }, nil if x > 1 then v = t[1] end if v == nil and x < 0 then return 0 end return v + 1 end,
      { name = "f", lanes = 8, inputs = { "double" } })
    local built = device:build(f)
    local outputs, failed = device:run(built, { { 2, -1, 0 } })
    device:release(built)
    assert.equal(3, outputs[1][0])
    assert.equal(0, outputs[1][1])
    assert.same({ 0, 0 }, { failed[0], failed[1] })
    assert.truthy(f:describe(failed[2]):find("gpu_records_spec.lua:%d+: 'v' is nil"))
  end)
end)

describe("a table that a device cannot have is refused", function()
  for _, case in ipairs {
    { function(x) return { x } end, "result 1 is a table; .* return its fields" },
    { function(x) local t = {} for i = 1, 100000 do t[i] = x end return t[1] end, "at most 4096 elements" },
    { function(x) local a, b = { v = x }, nil b = a b.v = 2 return a.v end, "a change of 'b', which is also 'a'" }, -- luacheck: ignore 311
    { function(x) local a, b = { v = x }, nil b = a a.v = 2 return b.v end, "a change of 'a', which is also 'b'" }, -- luacheck: ignore 311
    { function(x) local a, b = { v = x }, { v = 1 } for _ = 1, 2 do a.v = a.v + 1 b = a end return b.v end,
      "'a' is put into 'b', and changed in line" },
    { function(x) local a, b = { v = x }, { v = 1 } for _ = 1, 2 do b.v = b.v + 1 b = a end return a.v + b.v end,
      "'a' is put into 'b', and changed in line" },
    { function(x) local t = { x } table.insert(grid[1], t[1]) return x end, "table.insert into something else than a local list" },
    { function(x) for k in ("ab"):gmatch "." do x = x + #k end return x end, "of iterators ipairs, pairs and next are known" },
    { function(x) local t = { x } return t + 1 end, "'%+' of a table" },
    { function(x) local t = { x } return t:size() end, "the method ':size', which a table without a metatable has not" },
    { function(x) return unit:size() + x end, "the method call ':size'" },
    { function(x) local t = { x } if x > 1 then t = 3 end return t end, "'t' is a table in one place and a number in another" },
    { function(x) local t = {} if x > 1 then t.f = math.sin else t.f = math.cos end return t.f(x) end, "a function that is put into 't' here" },
    { function(x) local t = { v = x } t.t = t return t.v end, "'t' is a table in tables of its own kind" },
    { function(x) local t = { x, nil, 3 } return #t end, "a list with nil in it" },
    { function(x) grid[1][1] = x return x end, "assignment to an element or field of" },
    { function(x) return setmetatable({ x }, { __index = {} })[1] end,
      "setmetatable of something else than a new table and a table that is captured" },
  } do
    it(case[2], function()
      for _, lanes in ipairs { 1, 8 } do
        local fine, message = pcall(translate, case[1], { name = "f", lanes = lanes, inputs = { "double" } })
        assert.is_false(fine)
        assert.truthy(message:find "^tests/device/gpu_records_spec.lua:%d+: gpu function 'f': ", message)
        assert.truthy(message:find(case[2]), message)
      end
    end)
  end
end)

describe("a parameter that is given a table", function()
  local function nearer(a, b)
    if a.x * b.x + a.y * b.y < 0 then b = { x = -b.x, y = -b.y } end
    return a.x + b.x, a.y - b.y
  end
  local function fresh(a, v) if v > 2 then a = { x = 1 } end return a end
  local function without(p, v) if v > 1 then p = nil end if p then return p.x end return -1 end
  local function exchanged(a, b, v) if v > 1 then a, b = b, a end return a.x - 2 * b.x end
  local function changed(a, v)
    if v > 2 then a = { x = 1 } end
    a.x = a.x + v
    return a.x
  end
  local basis = { { x = 1 }, { x = 2 } }
  same("may be assigned another one in a branch",
    function(x, y)
      local a, b = { x = x, y = 1 }, { x = y, y = 2 }
      local s, t = nearer(a, b)
      return s + b.x, t + b.y
    end,
    function(x, y)
      local a, s = { x = x }, 0
      for _, each in ipairs(basis) do s = s + fresh(each, y).x end
      return fresh(a, y).x + a.x + s, exchanged(a, { x = y }, x)
    end,
    function(x, y) return without({ x = y }, x) + without({ x = x }, y) end,
    function(x, y)
      local p, n = { x = x }, 0
      if y > 1 then p = nil end
      for i = 1, 4 do
        local q = { x = i }
        if i < x then q = nil end
        if q and p then n = n + q.x * p.x end
      end
      if p then return p.x, n end
      return -1, n
    end)
  it("is refused where one of both is changed and the other lives on", function()
    for _, fn in ipairs {
      function(x, y) local a = { x = x } local r = changed(a, y) return r + a.x end,
      function(x, y) local a = { x = x } local b = fresh(a, y) b.x = 7 return b.x + a.x end,
      function(x, y) local a = { x = x } local b = fresh(a, y) a.x = 9 return b.x + a.x end,
    } do
      local ok, message = pcall(translate, fn, { name = "f" })
      assert.is_false(ok)
      assert.matches("on a device these are two tables", message)
    end
  end)
end)

describe("a list that stays empty", function()
  local function sum(...)
    local s = 0
    for i, v in ipairs { ... } do s = s + v * i end
    return s
  end
  same("has no elements to go over",
    function(x, y) return sum() + x + sum(y) end,
    function(x, y)
      local t, points, s = {}, {}, x
      for i = 1, #t do s = s + t[i] end
      for _, v in ipairs(t) do s = s + v * y end
      for i = #points, 1, -1 do s = s + points[i].x end
      return s, #t
    end)
end)
