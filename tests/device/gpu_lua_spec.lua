--- Lua as it is written, on devices: arguments that are missing, goto, several returns, functions
-- as arguments, messages with numbers. Each function is compared with plain Lua over 101 pairs of
-- numbers, special ones among them, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"

local on_device, device = opencl.specs(it, pending)
local assert_ = getfenv(0).assert -- `assert` is busted's here

--- A spec that compares functions of two numbers.
local same = opencl.same(on_device, device)

describe("an argument that is missing is nil, which is known", function()
  local function scaled(a, b, c)
    b = b or 10
    if c then a = a + c end
    return a * b
  end
  same("for defaults",
    function(x, y, k) k = k or 2 return x * k + y end,
    function(x, y, s) if not s then s = 3 end return x + s * y end,
    function(x, y, s) if s == nil then s = 3 elseif s ~= nil then error "?" end return x + s * y end,
    function(x, y, k) -- luacheck: ignore
      if x > 0 then k = y else k = x end
      return k
    end)
  same("in helpers", function(x, y) return scaled(x) + scaled(x, y) + scaled(x, nil, y) end,
    function(x, y)
      local s -- luacheck: ignore 221
      local function g(a) return a + (s or 5) end
      return g(x) * y
    end)
  same("for locals that branches assign to",
    function(x, y) local t if x > 1 then t = 1 elseif x > 0 then t = y else t = 3 end return t end,
    function(x, y)
      local t = x
      if t > y then t = nil t = t or y end
      return t
    end)
  same("for type()", function(x, y, k)
    if type(x) == "number" and type(k) == "nil" and "table" ~= type(y) then return x end
    return k
  end)
end)

describe("a function in a function may assign to its locals", function()
  same("and is one with a state",
    function(x, y)
      local state = x
      local function random(from, to)
        state = (state * 1103515245 + 12345) % 2 ^ 31
        return math.floor(from + state / 2 ^ 31 * (to - from + 1))
      end
      local sum = y
      for _ = 1, 3 do sum = sum + random(1, 6) end
      return sum
    end,
    function(x, y)
      local steps = 0
      local function step() steps = steps + 1 end
      local function twice() step() step() end
      for i = 1, 5 do if x > i then twice() elseif y > i then step() end end
      return steps
    end)
  -- LuaJIT reads a local that is a left operand after the right one.
  same("in the order of plain Lua",
    function(x, y)
      local s = x
      local function add(v) s = s + v return s end
      return s + add(y), s * add(1) - s, (s < add(2) and s or add(y)) + s
    end,
    function(x, y)
      local s = x
      local function add(v) s = s + v return s end
      local function both() return s - add(y) end
      return (s + 1) * add(2), math.max(s, add(y)), both(), s - -add(1) - s
    end,
    function(x, y)
      local s, t = x, { y }
      local function add(v) s = s + v t[1] = s return s end
      return s + add(1) * t[1], t[1] + add(1), s
    end)
end)

describe("what is known beforehand", function()
  local mode, none = "fast", nil
  same("decides branches, which need not be translated", function(x, y)
    if mode == "fast" and none == nil then return x elseif mode == "slow" then return tostring(y) end
    return {}
  end)
end)

describe("goto", function()
  same("continues loops",
    function(x, y) local s = y for i = 1, 10 do if i % 3 == 0 then goto continue end s = s + i * x ::continue:: end return s end,
    function(x, y)
      local s = 0
      for i = 1, 10 do
        if i * x > 5 then goto continue end
        s = s + i
        if y > i then
          s = s * 2
          goto continue
        end
        s = s + 1
        ::continue::
      end
      return s
    end,
    function(x, y)
      local s, i = 0, 0
      while i < 10 do
        i = i + 1
        local t = i * 2
        if t > x and x > -5 then goto continue end
        s = s + t
        t = t + 1
        if y > t then break end
        s = s + t
        ::continue::
      end
      return s, i
    end,
    function(x, y)
      local s, i = 0, 0
      repeat
        i = i + 1
        if i > x then goto continue end
        for j = 1, 3 do
          if j > y then goto continue end
          s = s + j
        end
        s = s + 100
        ::continue::
      until i >= 8
      return s
    end)
  same("leaves loops in loops",
    function(x, y)
      local s = 0
      for i = 1, 5 do
        for j = 1, 5 do
          if j * x > i * y then goto next end
          s = s + j
        end
        s = s + 1000
        ::next::
      end
      return s
    end,
    function(x, y)
      local s = 0
      for i = 1, 5 do
        for j = 1, 5 do
          while true do
            s = s + 1
            if s * x > y + i * j then goto out end
            if s > j * 3 then break end
          end
          if s > 60 then goto out end
        end
      end
      s = s + 0.5
      ::out::
      return s
    end)
  same("goes forward, behind locals that are seen there",
    function(x, y)
      local r = 1
      if x > 0 then goto done end
      r = 2
      if y > 0 then goto done end
      r = r + y
      do local q = r * 2 r = q end
      ::done::
      r = r + 1
      return r
    end,
    function(x, y)
      local r = 1
      if x > 0 then goto a end
      r = 2
      if y > 0 then goto b end
      r = r + 5
      ::a::
      r = r * 10
      if x > 3 then goto b end
      if y > 2 then return r end
      r = r + 1
      ::b::
      return r
    end)
  local a = opencl.array("double", { 1, 2, 3, 4, 5, 6, 7, 8 })
  same("goes with what fails and returns", function(x, y)
    local s = 0
    for i = 1, 4 do
      local e = a[i]
      if x > i then
        local b = a[x % 8 + 1 - x % 1]
        for _ = 1, 2 do s = s + b end
        local c = s + e
        if c > y then goto continue end
        if c > 50 then return c end
        s = c
      end
      s = s + 1
      ::continue::
    end
    return s
  end)
end)

describe("a helper", function()
  local function two(v)
    if v > 0 then return v, 1 end
    return -v
  end
  local function deep(v) return two(v) end
  local function perhaps(v) if v > 0 then return v end end
  same("may return more in one place than in another, where nobody asks for it",
    function(x, y) local a = two(x) return a + deep(y) end,
    function(x, y) return (two(x)) + math.max(1, (deep(y))) end,
    function(x, y) if x > y then perhaps(x) end return x end)
  same("takes functions", function(x, y)
    local function apply(f, v) return f(v) end
    local function square(v) return v * v end
    return apply(square, x) + apply(math.abs, y) + apply(function(q) return q + y end, x)
  end)
end)

describe("a message of error or assert", function()
  local limit = 100
  same("may have a number", function(x, y) if x > limit then error("too large: " .. x) end return y end,
    function(x, y) if x > limit then error("too large: " .. tostring(x) .. "!", 0) end return y end,
    function(x, y) assert_(x < limit, ("too %5.2f large %s: over %g"):format(x, "!", limit)) return y end,
    function(x, y) for i = 1, 3 do if x * i > limit then error(string.format("%d%% of %d", i, limit)) end end return y end)
end)
