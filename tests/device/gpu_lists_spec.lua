--- Lists whose length is not known before a function runs, and lists with holes, on devices; locals
--- that are one of several functions; locals that begin with a number and become 64-bit integers.
--- Each function is compared with plain Lua over 101 pairs of numbers, special ones among them.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local support = require "tests.support"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

--- Specs that compare functions of two numbers, in both forms, and in the one for processors only
--- where what is translated is the same.
local same = opencl.same(on_device, device)
local same_in_lanes = opencl.same(on_device, device, 8, { 8 })

local floor = math.floor

--- A whole number from 0 to n - 1.
local function whole(v, n) return v - v == 0 and floor(math.abs(v)) % n or 0 end

--- The error of input x of a function that fails there on a device, and runs elsewhere.
local function error_of(fn, x)
  local made = translate(fn, { name = "f", lanes = 8, inputs = { "double" } })
  local built = device:build(made)
  local outputs, failed, details = device:run(built, { { 1, x } })
  device:release(built)
  assert.equal(0, failed[0])
  return opencl.message(made, 2, 1, outputs, failed, details)
end

local function refusal(fn)
  local fine, why = pcall(translate, fn, { name = "f", lanes = 8 })
  assert.is_false(fine)
  assert.matches("^tests/device/gpu_lists_spec.lua:%d+: gpu function 'f': ", why)
  return why
end

describe("a list that grows in a loop of unknown length", function()
  same("by appending",
    function(x, _)
      local v, bits = whole(x, 2 ^ 20), {}
      while v > 0 do
        bits[#bits + 1] = v % 2
        v = floor(v / 2)
      end
      local s = 0
      for i = #bits, 1, -1 do s = s * 2 + bits[i] end
      return s, #bits
    end,
    function(x, _)
      local stack, s = { { n = whole(x, 40), d = 0 } }, 0
      while #stack > 0 do
        local v = table.remove(stack)
        s = s + v.n * v.d
        if v.n > 2 then
          stack[#stack + 1] = { n = floor(v.n / 2), d = v.d + 1 }
          stack[#stack + 1] = { n = floor(v.n / 3), d = v.d + 2 }
        end
      end
      return s
    end)

  same_in_lanes("in other ways",
    function(x, _)
      local v, d, n = whole(x, 10 ^ 6), {}, 0
      while v > 0 do
        n = n + 1
        d[n] = v % 10
        v = floor(v / 10)
      end
      local s = 0
      for i = 1, n do s = s + d[i] * i end
      return s, n, #d
    end,
    function(x, y)
      local d = {}
      for i = 1, whole(x, 50) do d[i] = i * y end
      local s = 0
      for i = 1, #d do s = s + d[i] end
      return s, #d
    end,
    function(x, _)
      local function digits(n)
        local t = {}
        repeat
          table.insert(t, 1, n % 10)
          n = floor(n / 10)
        until n == 0
        return t
      end
      local d, s = digits(whole(x, 10 ^ 6)), 0
      for i = 1, #d do s = s * 10 + d[i] end
      return s
    end,
    function(x, _)
      local q, head, s = { whole(x, 20) }, 1, 0
      while head <= #q do
        local v = q[head]
        head, s = head + 1, s + v
        if v > 2 then q[#q + 1] = v - 2 end
      end
      local copy = {}
      for i = 1, #q do copy[#q + 1 - i] = q[i] end
      return s, #q, #copy
    end)

  same_in_lanes("of a function that calls itself", function(x, y)
    local function merge(a, b)
      local r, i, j = {}, 1, 1
      while i <= #a and j <= #b do
        if a[i] <= b[j] then
          r[#r + 1], i = a[i], i + 1
        else
          r[#r + 1], j = b[j], j + 1
        end
      end
      for k = i, #a do r[#r + 1] = a[k] end
      for k = j, #b do r[#r + 1] = b[k] end
      return r
    end
    local function sort(list)
      if #list <= 1 then return list end
      local a, b, m = {}, {}, floor(#list / 2)
      for i = 1, m do a[#a + 1] = list[i] end
      for i = m + 1, #list do b[#b + 1] = list[i] end
      return merge(sort(a), sort(b))
    end
    local r = sort { whole(x, 50), whole(y, 50), 3, -2, 7, 1, 0 }
    local s = 0
    for i = 1, #r do s = s * 51 + r[i] + 2 end
    return s
  end)

  on_device("has room for 256 elements, and says which loop wants more", function()
    local function count(x)
      local t = {}
      while x > 0 do
        t[#t + 1] = x
        x = x - 1
      end
      return #t
    end
    support.contains(error_of(count, 257), "gpu_lists_spec.lua:", "'t' gets more than 256 elements", "the loop of line", "has no constant limit")
  end)

  it("in a function of ours is told at the user's line", function()
    local why = refusal(function(x)
      local t = {}
      local function fill(n)
        table.insert(t, 1, n)
        if n > 0 then fill(n - 1) end
      end
      fill(x)
      return t[1]
    end)
    support.contains(why, "in 'fill': 't' grows in 'fill', which calls itself", "recursion_limit = 16")
  end)

  on_device("may be as long as the list that it is made of", function()
    for _, lanes in ipairs { 1, 8 } do
      local function copies(x, y)
        local t, u, w = { x, y }, {}, {}
        t[#t + 1] = x + y
        for i = 1, #t do
          for j = 1, #t do u[#u + 1] = t[i] * t[j] end
        end
        for i = 1, #u do w[i] = u[i] end
        return w[#w], #u
      end
      local trouble = device:difference(copies, {}, translate(copies, { name = "f", lanes = lanes, inputs = { "double", "double" } }))
      assert(not trouble, trouble)
    end
  end)
end)

describe("lists in a list", function()
  same("may be put there two at a time, while they are empty", function(x, y)
    local now, later = {}, {}
    for i = 1, 3 do
      now[i], later[i] = {}, {}
      for j = 1, 3 do now[i][j], later[i][j] = i * x + j * y, 0 end
    end
    for _ = 1, 2 do
      for i = 1, 3 do
        for j = 1, 3 do later[i][j] = now[i % 3 + 1][j] * 0.5 + now[i][j % 3 + 1] end
      end
      now, later = later, now
    end
    return now[1][1] + now[3][2], #now * #now[2]
  end)
end)

describe("a list with holes", function()
  same("is a set, counts, or is a sieve",
    function(x, _)
      local seen, n, v = {}, 0, whole(x, 16)
      while not seen[v] do
        seen[v] = true
        n, v = n + 1, (v * v + 3) % 16
      end
      return n, v
    end,
    function(x, _)
      local count, m = {}, 0
      for i = 1, 10 do
        local k = (whole(x, 100) * i) % 7
        count[k] = (count[k] or 0) + 1
      end
      for k = 0, 6 do m = m * 11 + (count[k] or 0) end
      return m
    end,
    function(x, _)
      local n, composite, c = whole(x, 60), {}, 0
      for i = 2, n do
        if not composite[i] then
          c = c + 1
          for j = i * i, n, i do composite[j] = true end
        end
      end
      return c
    end)

  same_in_lanes("in other ways",
    function(x, _)
      local t, n = {}, 0
      for i = 1, 10 do t[i * 3 % 11] = i end
      t[whole(x, 10) + 1] = nil
      for k = 1, 10 do
        if t[k] then n = n + t[k] * k end
      end
      return n
    end,
    function(x, _)
      local t, n, s = {}, 0, 0
      for i = 1, 10 do t[(whole(x, 100) * i) % 13] = i end
      for k, v in pairs(t) do n, s = n + 1, s + k * v end
      return n, s, next(t) ~= nil
    end,
    function(x, _)
      local t, s = { [2] = x, [5] = 1 }, 0
      for i = -3, -1 do t[i] = i end
      for i = -4, 6 do s = s * 2 + (t[i] and 1 or 0) end
      return s, t[-3] + t[5]
    end,
    function(x, _)
      local t = {}
      for i = 9, 1, -2 do t[i] = i end
      for i = 8, 2, -2 do t[i] = i * x end
      t[#t + 1] = 5
      table.remove(t, 1)
      return #t, t[1], t[#t]
    end,
    function(x, _)
      local groups, s = {}, 0
      for i = 1, 9 do
        local k = (i * whole(x, 9)) % 5
        if not groups[k] then groups[k] = { n = 0, sum = 0 } end
        local g = groups[k]
        g.n, g.sum = g.n + 1, g.sum + i
      end
      for k = 0, 4 do
        local g = groups[k]
        if g then s = s * 7 + g.n * g.sum end
      end
      return s
    end,
    function(x, y)
      local t = {}
      for i = 1, 6, 2 do t[i] = x end
      local u = t
      for i = 2, 6, 2 do u[i] = y end
      local s = 0
      for i, v in ipairs(u) do s = s + i * v end
      return s, #u
    end)

  on_device("has no length, and no element where one is missing", function()
    local function holes(x)
      local t = {}
      for i = 1, 5, 2 do t[i] = i end
      t[2] = 2
      if x > 1 then return #t end
      return t[1]
    end
    support.contains(error_of(holes, 2), "'t' has holes here")
    support.contains(error_of(function(x)
      local t = {}
      for i = 1, 5, 2 do t[i] = i end
      return t[x]
    end, 2), "index 2 of 't' has no element")
    support.contains(error_of(function(x)
      local t = {}
      t[x] = 1
      return t[x]
    end, 300), "index 300 of 't' is not one from 0 to 255")
  end)

  on_device("a loop with a step that is not known does not reach elements that there are not", function()
    local function read(x)
      local t, s = { 1, 2, 3, 4, 5, 6 }, 0
      for i = 5, 3 - 2 * x, -x do s = s + t[i] end
      return s
    end
    support.contains(error_of(read, 2), "has no element")
  end)
end)

local function one(x) return x + 1 end
local function two(x) return x * 2 end

describe("a local that is one of several functions", function()
  same("is called by what it is now",
    function(x, y)
      local f
      if x > 1 then f = one elseif x < -1 then f = two else f = math.sin end
      local g = f
      f = two
      return g(y), f(x)
    end,
    function(x, y)
      local f, s = one, 0
      for i = 1, 4 do
        s = s + f(i * y)
        if s > x then f = two end
      end
      return s
    end)

  same_in_lanes("in other ways",
    function(x, y)
      local f
      if x > 1 then f = function(v) return v + x end else f = function(v) return v - y end end
      return f(y)
    end,
    function(x, y)
      local operations = { add = one, double = two }
      local f
      if x > 0 then f = operations.add elseif x < -3 then f = operations.double end
      if f then return f(y) end
      return f == nil and 7 or 8
    end,
    function(x, y)
      local function apply(f, v) return f(v) end
      local function pick(v)
        if v > 0 then return one end
        return two
      end
      local f = pick(x)
      return apply(f, y) + pick(y)(x)
    end,
    function(x, y)
      local f, g = one, two
      if x > y then f, g = g, f end
      f = x > 3 and f or g
      return f(x) * 3 + g(y)
    end)

  same_in_lanes("also where a jump or a return leaves out that it is given another one",
    function(x, y)
      local f = one
      if x > 5 then goto done end
      f = two
      ::done::
      return f(y)
    end,
    function(x, y)
      local f = one
      local function change()
        if x > 5 then return end
        f = two
      end
      change()
      return f(y)
    end,
    function(x, _)
      local s = 0
      for i = 1, 4 do
        local f = one -- luacheck: ignore 311
        if i > x then goto continue end
        f = two
        s = s + f(i)
        ::continue::
      end
      return s
    end)

  on_device("fails where it is nil", function()
    local message = error_of(function(x)
      local f
      if x < 5 then f = one end
      return f(x)
    end, 6)
    support.contains(message, "gpu_lists_spec.lua:", "'f' is nil, and is called")
  end)

  it("is refused where a function would use what has ended", function()
    support.contains(refusal(function(x)
      local f = one
      if x > 1 then
        local k = x * 2
        f = function(v) return v + k end
      end
      return f(x)
    end), "'f' is given a function that uses 'k', which ends before 'f' does")
    support.contains(refusal(function(x)
      local f = one
      if x > 1 then f = two end
      return f == two and 1 or 2
    end), "'==' of a function; on a device functions are only called")
    support.contains(refusal(function(x)
      local f = one
      if x > 1 then f = 3 end
      return f(x)
    end), "'f' is a function in one place and something else in another")
  end)
end)

describe("a local that begins with a number and becomes a 64-bit integer", function()
  same("is one from the start where both are the same",
    function(_, _)
      local h = 0
      for i = 1, 9 do h = h * 31ULL + i end
      return tonumber(h % 1000003ULL)
    end,
    function(x, _)
      local h, n = 1, 0
      while h < 1000 do h, n = h * (3LL + whole(x, 3)), n + 1 end
      if h == 0 then return -1, 0 end
      return n, tonumber(h)
    end,
    function(x, _)
      local h = 5 -- luacheck: ignore 311
      if x > 1 then h = 7LL else h = 9LL end
      return tonumber(h / 2), tonumber(h)
    end)

  it("is refused where they are not", function()
    for _, fn in ipairs {
      function() local h = 0 for i = 1, 3 do h = bit.bxor(h, i) * 31ULL end return tonumber(h) end,
      function(x) local h = 0 for _ = 1, whole(x, 3) do h = h + 3LL end return h end,
      function() local h = 0 while h < 0.5 do h = h + 1LL end return tonumber(h) end,
      function(x) local h = 0 local b = h > -1 if x > 0 then h = 3ULL end return b and 1 or tonumber(h) end, -- luacheck: ignore 311
    } do
      support.contains(refusal(fn), "'h' may still be the number that it begins with here", "in the place of 0")
    end
  end)
end)
