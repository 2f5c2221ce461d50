--- Structs and arrays of C on devices: captured ones, and those that a function makes. Each
-- function is compared with plain Lua over 101 pairs of numbers, special ones among them, in the
-- scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local bit = require "bit"
local ffi = require "ffi"
local opencl = require "support_opencl"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local same = opencl.same(on_device, device)
local band, bxor, lshift, rshift, tobit = bit.band, bit.bxor, bit.lshift, bit.rshift, bit.tobit
local sqrt, floor = math.sqrt, math.floor

local weights = ffi.new("double[?]", 4, 0.5, 2, -1, 3)
local perm = ffi.new("uint8_t[8]", { 3, 1, 4, 1, 5, 9, 2, 6 })
local grads = ffi.new("const float[3][2]", { { 1, 0.1 }, { -1, 0 }, { 0, -1 } })
local origin = ffi.new("struct { double x, y; int16_t n; }", 1, 2, 3)
local bodies = ffi.new("struct { double mass; struct { float x, y; } at; }[3]", { { 1, { 2, 3 } }, { 4, { 5, 6 } }, { 7, { 8, 9 } } })

local vec_methods = {}
local vec = ffi.metatype("struct { double x, y; }", {
  __add = function(a, b) return ffi.new(ffi.typeof(a), a.x + b.x, a.y + b.y) end,
  __unm = function(a) return ffi.new(ffi.typeof(a), -a.x, -a.y) end,
  __index = vec_methods,
})
function vec_methods:dot(other) return self.x * other.x + self.y * other.y end
function vec_methods:scale(s) self.x, self.y = self.x * s, self.y * s return self end
local unit = vec(1, 0.5)

local generator = ffi.metatype("struct { int32_t a, b; uint32_t c; float last; }", {
  __new = function(ct, seed) return ffi.new(ct, tobit(seed), 34221, 7) end,
  __index = {
    draw = function(self)
      local r = self
      r.a = tobit(69069 * band(r.a, 0xffff) + 1234567)
      local b = bxor(r.b, lshift(r.b, 17))
      r.b = bxor(b, rshift(b, 13))
      r.c = r.c * 5 + 1
      r.last = r.a / 3
      return tobit(r.a + r.b)
    end,
  },
})

-- A number that indexes something of n elements, from 0 on.
local function place(x, n) return x == x and x < 1e9 and x > -1e9 and floor(x) % n or 0 end

describe("captured arrays and structs of C", function()
  same("are read from 0 on",
    function(x, y) return weights[place(x, 4)] + perm[place(y, 8)] * x end,
    function(x, y) return perm[band(perm[place(x, 8)] + place(y, 3), 7)] end,
    function(x, y) local g = grads[place(x, 3)] return g[0] * x + g[1] * y end,
    function(x, y) return grads[place(x, 3)][place(y, 2)] end)
  same("have fields", function(x, y) return origin.x * x + origin.y * y + origin.n end,
    function(x, y)
      local sum = 0
      for i = 0, 2 do sum = sum + bodies[i].mass * (bodies[i].at.x - x) + bodies[i].at.y * y end
      return sum + bodies[1].mass
    end)
  same("have the methods and operators of their type", function(x, y)
    local p = unit + vec(x, y)
    return unit:dot(p), p.x, type(unit) == "cdata" and ffi.istype(vec, unit) and 1 or 2
  end)
  same("may be arguments", function(x, y)
    local function element(list, i) return list[i] * 2 end
    return element(weights, place(x, 4)) + element(perm, place(y, 8))
  end)

  on_device("are read anew at each map, and keep their form", function()
    local app, list = tidepool.App(), ffi.new("double[?]", 2, 1, 2)
    local f = app:func { gpu = true } (function(i) return list[i] end)
    assert.equal(2, f:map({ 0, 1 }):list()[2])
    list[1] = 5
    assert.equal(5, f:map({ 0, 1 }):list()[2])
    local ok, why = pcall(function() return f:map({ 2 }):list() end)
    assert.is_false(ok)
    assert.matches("index", tostring(why))
  end)
end)

describe("structs of C that a function makes", function()
  same("have fields, methods and operators",
    function(x, y) local v = vec(x, y) return v.x - v.y, (-v).x end,
    function(x, y)
      local v, w = vec(x, y), vec()
      for _ = 1, 3 do w = w + v:scale(0.5) end
      return w:dot(v), w.x, w.y
    end,
    function(x, y)
      local v = ffi.new(vec, x)
      local w = ffi.new("struct { struct { double a, b; } in_; float c[3]; }", { { x, y }, { 1, 2, x } })
      w.in_.b = w.in_.b + v.y
      return w.in_.a + w.in_.b, w.c[2], w.c[place(x, 3)]
    end)
  same("have numbers of their types",
    function(x, y) local s = ffi.new("struct { float f; double d; }", x, y) return s.f, s.d end,
    function(x, y)
      local s = ffi.new "struct { int8_t a; uint8_t b; int16_t c; uint16_t d; int32_t e; uint32_t f; }"
      if x == x and x > -1e9 and x < 1e9 then s.a, s.b, s.c, s.d, s.e, s.f = x, x, x, x, x, math.abs(x) end
      s.a = s.a + 100
      return s.a, s.b, s.c, s.d, s.e, s.f + y
    end,
    function(x, y)
      local r, sum = generator(place(x, 1000)), 0
      for _ = 1, 5 do sum = sum + r:draw() end
      return sum, r.c, r.last + y * 0
    end)
  same("are put into each other by value", function(x, y)
    local l = ffi.new("struct { struct { double x, y; } at; int n; }[3]", { { { x, y }, 1 }, { { 1, 2 }, 2 } })
    local first, at = l[0], l[1].at
    l[0] = l[1]
    l[1] = first
    l[2].at = at
    at.x = y
    first.n = first.n + 5
    local sum = 0
    for i = 0, 2 do sum = sum * 3 + l[i].at.x + l[i].at.y * l[i].n end
    return sum, l[0].n, l[2].at.x
  end)
  same("may be of types without a name", function(x, y)
    local ring = ffi.new "struct { double at[4]; int32_t head, n; }"
    for i = 1, 6 do
      ring.at[ring.head] = i * y + x
      ring.head = (ring.head + 1) % 4
      if ring.n < 4 then ring.n = ring.n + 1 end
    end
    return ring.at[0] + ring.at[3] * ring.at[ring.head], ring.n
  end)
  same("are known by their types", function(x, y)
    local v = vec(x, y)
    local kinds = ffi.istype(vec, v) and type(v) == "cdata" and not ffi.istype(generator, v) and not ffi.istype(vec, x)
    return kinds and ffi.sizeof(vec) or 0, ffi.typeof(v)(y, x).x
  end)
end)

describe("arrays of C that a function makes", function()
  local size = 6
  same("are zero where nothing is given, and count from 0",
    function(x, y)
      local a, b = ffi.new("double[4]"), ffi.new("double[?]", size, x, y)
      for i = 0, 3 do a[i] = a[i] + x * i + b[i] end
      return a[3] + a[0], b[place(x, 6)], b[5]
    end,
    function(x, y)
      local a, b, c = ffi.new("int32_t[5]", 7), ffi.new("float[3]", { x, y }), ffi.new("double[2][2]", { { 1, x }, { y, 2 } })
      c[1][place(x, 2)] = c[0][1]
      return a[0] + a[4], b[1], b[2], c[1][0], c[1][1]
    end,
    function(x, y)
      local list = ffi.new("struct { double x, y; }[3]")
      for i = 0, 2 do
        local p = list[i]
        p.x, p.y = x + i, sqrt(i)
      end
      return list[2].x + list[1].y, list[place(y, 3)].x
    end)
  on_device("have the elements that they have", function()
    local app = tidepool.App()
    local f = app:func { gpu = true } (function(i) local a = ffi.new("double[3]", 1) a[i] = 2 return a[0] + a[i] end)
    assert.equal(4, f:map({ 0, 2 }):list()[1])
    for _, i in ipairs { 3, -1, 0.5 } do
      local ok, why = pcall(function() return f:map({ i }):list() end)
      assert.is_false(ok)
      assert.matches("index", tostring(why))
    end
  end)
end)

describe("what is refused of types of C", function()
  local function refusal(fn)
    local fine, why = pcall(translate, fn, { name = "f" })
    assert.is_false(fine)
    return why
  end
  it("is told by name", function()
    for _, each in ipairs {
      { function(x) local v = vec(x, 1) return v.z end, "has no field 'z'" },
      { function(x) local v = vec(x, 1) v.z = 1 return v.x end, "has no field 'z'" },
      { function(x) local v = vec(x, 1) if x > 0 then v = { x = 1, y = 2 } end return v.x end, "is a struct of C in one place and something else" },
      { function(x) return ffi.new("double[?]", x)[0] end, "an array of C whose length is not known before it runs" },
      { function(x) return ffi.new("double[2]", x, x, x)[0] end, "3 initializers of a type of C with 2 elements" },
      { function(x) return ffi.new("double[5000]")[0] + x end, "a type of C with more than 1024 numbers" },
      { function(x) local v = vec(x, 1) v.x = x > 0 return v.x end, "is a number of C, and is given something else" },
      { function(x)
        local l = ffi.new("struct { double x; }[2]")
        l[0], l[1] = l[1], l[0]
        return l[0].x + x
      end, "an assignment of several values, of which one is a struct that is put into 'struct'" },
      { function(x) weights[0] = x return x end, "assignment to an element or field" },
    } do
      assert.matches(each[2], refusal(each[1]), 1, true)
    end
  end)
end)
