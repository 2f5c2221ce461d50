--- `false` on devices where other places give numbers or tables: `return false` beside a table,
--- `local best = false`. Each function is compared with plain Lua over 101 pairs of numbers, in the
--- scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local same = opencl.same(on_device, device)

-- What real programs have.

local function crossing(ax, ay, bx, by)
  local d = ax * by - ay * bx
  if d == 0 then return false end
  local t = (bx - ax) / d
  if t < 0 or t > 1 then return false end
  return { x = ax * t, y = ay * t }
end

local function digit(c)
  if c >= 0 and c < 10 then return c end
  return false
end

local function point(v) if v < 0 then return false end return { x = v, y = 2 * v } end
local function meet(v, w) if v < 0 then return false end if w < 0 then return nil end return { x = v, y = w } end
local function pass(v) return digit(v) end
local function default(v, d) if v == nil then return d end if v == false then return -d end return v end
local function reassigned(v, y) if v == false then v = y end return v end
local function is_large(v) if v > 2 then return true end return false end
local function are_large(v, w) local ok = is_large(v) if not ok then return false end return is_large(w) end

describe("false beside a number or a table", function()
  same("says that there is none, as a result",
    function(x, y)
      local p = crossing(0.5, x, 1, y)
      if p then return p.x + p.y end
      return -1
    end,
    function(x, y)
      local n = 0
      for i = 0, 3 do
        local d = digit(x * 10 ^ i)
        if d == false then break end
        n = n * 10 + d
      end
      return n, digit(y) and digit(y) + 1 or y, digit(x) ~= false
    end,
    function(x, y)
      local p, q = point(x), point(y)
      if p and q then
        p.x = p.x + 1
        return p.x * q.y
      end
      if p ~= false then return p.x end
      return q and q.x or 0
    end,
    function(x, y)
      local d = digit(x) or digit(y)
      if d == false then return -1 end
      return d
    end)

  same("is another one than nil",
    function(x, y)
      local p = point(x)
      if p == nil then return -2 end
      if not p then return 7 end
      return p.y + y
    end,
    function(x, y) local d = digit(x) if type(d) == "boolean" then return y elseif type(d) == "nil" then return 2 end return d end,
    function(x, y)
      local p = pass(x)
      if p == false then return -1 elseif p == nil then return -2 end
      return p + default(digit(y), 4) + default(nil, 5)
    end,
    function(x, y) if meet(x, y) then return 1, true end return digit(x) == false and 2 or 3, digit(y) == nil end)

  same("is what a local begins with, or is given",
    function(x, y)
      local best, last, n = false, false, 0
      for i = 1, 5 do
        local p = point(x - i)
        if p then
          if last then n = n + last.x * p.y end
          last = p
        else
          last = false
        end
        if y > i then best = i * y end
      end
      if best == false then return n end
      return n + best
    end,
    function(x, y) return reassigned(digit(x), y) + reassigned(false, y) end,
    function(x, y)
      local best = false
      if y > 2 then best = point(x) end
      if best == false then return 5 end
      return best.x
    end)

  same("is a boolean where no other value is given", function(x, y)
    local found = false
    for i = 1, 4 do if x == i then found = true end end
    return found == false, are_large(x, y), are_large(y, x) == false
  end)

  it("is refused where nil would have to be told from it, with what to do", function()
    for _, case in ipairs {
      { function(x, y) return meet(x, y) == nil and 1 or 0 end, "whether this is nil, which is nil in one place and false in another" },
      { function(x, y)
          local t = false
          if x > 1 then t = x end
          if y > 1 then t = nil end
          return t == false and 1 or 0
        end, "whether this is false, which is nil in one place and false in another" },
      { function(x, y) return digit(x) == digit(y) and 1 or 0 end, "'==' of two values that may be missing, of which one is false then" },
    } do
      local ok, message = pcall(translate, case[1], { name = "f" })
      assert.is_false(ok)
      assert.matches(case[2], message)
      assert.matches("gpu_falses_spec.lua:%d+: gpu function 'f': ", message)
    end
  end)
end)
