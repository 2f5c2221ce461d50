--- Functions on devices that call themselves: ended by arguments that are known beforehand, as
--- loops, and with a bound that the user gives. Each is compared with plain Lua over 101 pairs of
--- numbers, or 64 small whole ones, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local devices = require "tests.support_device"
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

--- A spec that compares functions of two numbers; `limit`: their recursion_limit.
local function same(what, limit, ...) opencl.same(on_device, device, limit)(what, ...) end

--- A spec that compares functions of two whole numbers from 0 to 7.
local function same_small(what, limit, ...)
  local functions = { ... }
  local xs, ys = {}, {}
  for i = 0, 63 do xs[i + 1], ys[i + 1] = math.floor(i / 8), i % 8 end
  on_device(what, function()
    for i, fn in ipairs(functions) do
      for _, lanes in ipairs { 1, 8 } do
        local translation = translate(fn, { lanes = lanes, name = "f" .. i, inputs = { "double", "double" }, recursion_limit = limit })
        local outputs, failed, details = device:run(device:build(translation), { xs, ys })
        for k = 1, 64 do
          local where = ("function %d, lanes %d, f(%d, %d)"):format(i, lanes, xs[k], ys[k])
          assert.equal(0, failed and failed[k - 1] or 0, failed and failed[k - 1] ~= 0
            and where .. ": " .. opencl.message(translation, 64, k - 1, outputs, failed, details))
          assert.equal(fn(xs[k], ys[k]), outputs[1][k - 1], where)
        end
      end
    end
  end)
end

local function noise(x) return (x * 12.9898) % 1 end
local function fbm(x, n)
  if n == 0 then return 0 end
  return noise(x) + 0.5 * fbm(2 * x, n - 1)
end

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end

local function factorial(n, k)
  if n <= 1 then return k or 1 end
  return n * factorial(n - 1, k)
end

local function gcd(a, b)
  if b == 0 then return a end
  return gcd(b, a % b)
end

local function ackermann(m, n)
  if m == 0 then return n + 1 end
  if n == 0 then return ackermann(m - 1, 1) end
  return ackermann(m - 1, ackermann(m, n - 1))
end

local function power(x, n)
  if n == 0 then return 1 end
  if n % 2 == 0 then
    local half = power(x, n / 2)
    return half * half
  end
  return x * power(x, n - 1)
end

local function hanoi(n)
  if n == 0 then return 0 end
  return hanoi(n - 1) + 1 + hanoi(n - 1)
end

-- Where the peg of the first disk is after so many moves.
local function move(n, from, to, by, step)
  local before = 2 ^ (n - 1) - 1
  if n == 1 then return from * 10 + to end
  if step < before then return move(n - 1, from, by, to, step) end
  if step == before then return from * 10 + to end
  return move(n - 1, by, to, from, step - before - 1)
end

-- The distance along a Hilbert curve.
local function hilbert(n, x, y)
  if n == 0 then return 0 end
  local half = 2 ^ (n - 1)
  local rx, ry = x >= half and 1 or 0, y >= half and 1 or 0
  local u, v = x % half, y % half
  if ry == 0 then
    if rx == 1 then u, v = half - 1 - u, half - 1 - v end
    u, v = v, u
  end
  return half * half * ((3 * rx) ~= 0 and (ry == 0 and 3 or 2) or ry) + hilbert(n - 1, u, v)
end

local function simpson(f, a, b, fa, fm, fb, whole, eps)
  local m = (a + b) / 2
  local lm, rm = (a + m) / 2, (m + b) / 2
  local flm, frm = f(lm), f(rm)
  local left, right = (m - a) / 6 * (fa + 4 * flm + fm), (b - m) / 6 * (fm + 4 * frm + fb)
  local delta = left + right - whole
  if math.abs(delta) <= 15 * eps then return left + right + delta / 15 end
  return simpson(f, a, m, fa, flm, fm, left, eps / 2) + simpson(f, m, b, fm, frm, fb, right, eps / 2)
end

local function is_even(n)
  local function is_odd(k)
    if k == 0 then return false end
    return is_even(k - 1)
  end
  if n == 0 then return true end
  return is_odd(n - 1)
end

describe("recursion that known arguments end", function()
  local OCTAVES = 4
  same("runs as it is", nil,
    function(x, y) return fbm(x, 5) + y end,
    function(x, y) return fbm(x, OCTAVES) - fbm(y, 1) end,
    function(x, y) return power(x, 10) + power(y, 3) end,
    function(x, y) return x * fib(12) + hanoi(5) * y end,
    function(x, y)
      local function sum(v, depth)
        depth = depth or 0
        if depth > 3 then return v end
        return sum(v * 0.5, depth + 1) + sum(v * 0.25, depth + 1)
      end
      return sum(x) + y
    end,
    function(x, y)
      local function tree(v, n)
        if v > 100 or n <= 0 then return 1 end
        if v < y then n = n - 1 return tree(v + 1, n) end
        local rest = math.floor(n / 2)
        return 1 + tree(v * 2, rest) + tree(v + 2, rest - 1)
      end
      return tree(x, 6)
    end)
  same_small("also of whole numbers", nil,
    function(x, y) return hilbert(3, x, y) end,
    function(x, y) return move(6, 1, 3, 2, x * 8 + math.min(y, 6)) end)

  same("also beside tables and results that may be missing", nil,
    function(x, y)
      local scale = y
      local function sum(v, n)
        if n == 0 then return v end
        return scale + sum(v * 2, n - 1)
      end
      local p = { x = sum(x, 3), y = fbm(x, 2) }
      return p.x + p.y
    end,
    function(x, y)
      local function root(v) if v < 0 then return nil end return math.sqrt(v) end
      local function nested(v, n)
        if n == 0 then return v end
        return (root(v) or y) + nested(v + 1, n - 1)
      end
      local r = root(x)
      if r then return nested(r, 2) end
      return y
    end,
    function(x, y)
      local t = { a = x, b = y }
      local function nested(v, n)
        local r = n > 2 and v or -v
        if n == 0 then return r end
        return r + nested(v / 2, n - 1) * nested(v, n - 2 > 0 and n - 2 or 0)
      end
      return nested(t.a, 3) + t.b
    end)

  it("has a copy for each argument, not for each call", function()
    local source = translate(function(x) return x * fib(20) end, { name = "f" }).source
    local _, count = source:gsub("\nstatic[^\n]* lua_fib", "")
    assert.equal(21, count)
  end)

  it("is translated again when a captured number changes that ends it", function()
    local n = 3
    local made = translate(function(x) return fbm(x, n) end, { name = "f" })
    assert.is_true(made:is_current())
    n = 4
    assert.is_false((made:is_current()))
  end)
end)

describe("a function that only returns what it gives for others", function()
  same("is a loop, without a bound", nil,
    function(x, y)
      local function collatz(n, count)
        if n <= 1 or n ~= n or n > 1e6 or n % 1 ~= 0 then return count end
        if n % 2 == 0 then return collatz(n / 2, count + 1) end
        return collatz(3 * n + 1, count + 1)
      end
      return collatz(x, 0) + y
    end,
    function(x, y)
      local function count(v, n)
        n = n or 0
        if not (v > 1) or n > 30 then return n end
        return count(v / 2, n + 1)
      end
      return count(x) + count(y, 2)
    end,
    function(x, y)
      local function newton(guess, left)
        for i = 1, 3 do
          if left <= i then return guess end
          if guess * i > y then return newton(guess / 2, left - 1) end
        end
        return newton((guess + x / guess) / 2, left - 1)
      end
      return newton(1, 9)
    end)
  same_small("for whole numbers, also the mapped one itself", nil, gcd, function(x, y) return gcd(x * 30, y * 42) end)
end)

describe("recursion of unknown depth", function()
  same_small("runs within recursion_limit", 9,
    function(x, y) return fib(x) + fib(y) end,
    function(x, y) return hanoi(x) + y end,
    function(x, y) return power(x, y) end,
    function(x, y)
      local function lucas(n) return n < 2 and 2 - n or lucas(n - 1) + lucas(n - 2) end
      return lucas(x) * 100 + y
    end,
    factorial,
    function(x, y)
      local function sums(n)
        if n < 1 then return 0, 0 end
        local s, count = sums(n - 1)
        return s + n, count + 1
      end
      local s, count = sums(x)
      local a, b = 0, 0
      if y > x then a, b = sums(y) end
      return s + 100 * count + a - b
    end,
    function(x, y) return is_even(x) and 1 or is_even(y) and 2 or 3 end)
  same_small("of two arguments, one of which is a loop for it", 12, function(x, y) return ackermann(x % 3, y % 4) end)
  same("of functions that are given to it", 16, function(x, y)
    local a, b = math.max(-3, math.min(x, 3)), math.max(-3, math.min(y, 3))
    if a ~= a or b ~= b then return 0 end
    local function f(t) return 1 / (1 + 25 * t * t) end
    local fa, fm, fb = f(a), f((a + b) / 2), f(b)
    return simpson(f, a, b, fa, fm, fb, (b - a) / 6 * (fa + 4 * fm + fb), 1e-4)
  end)

  it("has a copy for each level, not for each call", function()
    local source = translate(function(x) return fib(x) end, { name = "f", recursion_limit = 9 }).source
    local _, count = source:gsub("\nstatic[^\n]* lua_fib", "")
    assert.equal(9, count)
  end)

  on_device("beyond the limit is an error of that input, which names the function, the limit and the line", function()
    for _, lanes in ipairs { 1, 8 } do
      local t = translate(function(x) return fib(x) end, { name = "f", recursion_limit = 5, lanes = lanes })
      local outputs, failed, details = device:run(device:build(t), { { 5, 6, 3 } })
      assert.same({ 5, 2 }, { outputs[1][0], outputs[1][2] })
      assert.same({ 0, 0 }, { failed[0], failed[2] })
      assert.matches("gpu_recursion_spec.lua:%d+: 'fib' calls itself more than 5 deep %(recursion_limit = 5%)",
        opencl.message(t, 3, 1, outputs, failed, details))
    end
  end)

  it("is refused without a limit, with what to do", function()
    for _, fn in ipairs { function(x) return fib(x) end, function(x) return x + fbm(x, x) end, function(x) return is_even(x) end,
      function(x) return fbm(x, -1) end } do
      local ok, message = pcall(translate, fn, { name = "f" })
      assert.is_false(ok)
      assert.matches("calls itself; there is no recursion on a device without a bound: give one, as in recursion_limit = 16", message)
    end
  end)

  it("is refused where compilers would go too many ways, or lists of all levels would be too large", function()
    local function twice(x) local function go(n) if n > x then return 1 end return go(n + 1) + go(n + 2) end return go(0) end
    local function large(x)
      local function go(n)
        local own = {}
        for i = 1, 200 do own[i] = n end
        if n > x then return 0 end
        return go(n + 1) + own[n + 1]
      end
      return go(0)
    end
    local ok, message = pcall(translate, twice, { name = "f", recursion_limit = 60 })
    assert.is_false(ok)
    assert.matches("'go' calls itself in 2 places, so there are more than %d+ ways .* recursion_limit = 25", message)
    assert.truthy((pcall(translate, twice, { name = "f", recursion_limit = 20 })))
    ok, message = pcall(translate, large, { name = "f", recursion_limit = 128 })
    assert.is_false(ok)
    assert.matches("the lists of 'go', as deep as it may call itself, have more than 16384 elements together", message)
    assert.truthy((pcall(translate, large, { name = "f", recursion_limit = 60 })))
  end)
end)

describe("the option recursion_limit", function()
  local tidepool = require "tidepool"
  local app = tidepool.App("deep", { gpu = true })

  devices.on_device(it, pending)("is the function's, and names the input that goes deeper", function()
    local f = app:func { recursion_limit = 6 } (function(x) return fib(x) end)
    assert.same({ 5, 8, n = 2 }, f:map({ 5, 6 }):list())
    local list = f:map({ 1, 7, 2 }, { return_exceptions = true }):list()
    assert.same({ 1, 1 }, { list[1], list[3] })
    assert.equal(2, list[2].index)
    assert.matches("gpu_recursion_spec.lua:%d+: 'fib' calls itself more than 6 deep %(recursion_limit = 6%)", tostring(list[2]))
    local unbounded = app:func(function(x) return fib(x) end)
    assert.matches("calls itself; there is no recursion", select(2, pcall(unbounded.map, unbounded, { 1 })))
    assert.equal(21, f:with { recursion_limit = 8 }:remote(8))
  end)

  it("is a number from 1 to 128, and for devices alone", function()
    for _, wrong in ipairs { 0, 129, 1.5, "a" } do
      assert.matches("recursion_limit.*an integer from 1 to 128", select(2, pcall(app.func, app, { recursion_limit = wrong })))
    end
    assert.matches("option 'recursion_limit' is for devices alone", select(2, pcall(app.func, app, { gpu = "auto", recursion_limit = 3 })))
  end)
end)
