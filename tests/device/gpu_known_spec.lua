--- What is known before a function runs on a device, in libraries as people write them (not stock):
-- the type of what was passed, which a function checks, the function that is called when none was
-- passed, and booleans beside nil. Compared with plain Lua over 101 pairs of numbers, special ones
-- among them, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local same = opencl.same(on_device, device)

local function refusal(fn)
  local fine, why = pcall(translate, fn, { lanes = 8, name = "f", inputs = { "double", "double" } })
  assert.is_false(fine)
  return why
end

local function square(x) return x * x end

describe("a boolean that may be missing", function()
  local function crossing(x, level)
    if x < level then return nil end
    return x - level, x > 2 * level
  end
  local function met(x)
    if x < 1 then return nil end
    return { deep = x > 2, at = x }
  end
  local function sign(x) if x > 1 then return true elseif x > 0 then return false end end
  local yes = true
  same("is one, as a result, a local and a field",
    function(x, y)
      local deep, nearest
      for i = 1, 3 do
        local at, is_deep = crossing(x, i)
        if at then nearest, deep = at, is_deep end
      end
      if deep then return y end
      return nearest or 3
    end,
    function(x, y)
      local best
      for i = 1, 3 do
        local here = met(x + i)
        if here and (not best or here.at < best.at) then best = here end
      end
      return best and (best.deep and 1 or 2) or y
    end,
    function(x, y)
      local known, late = sign(x)
      if y > 0 then late = yes end
      if known == nil then return late and 7 or 8 end
      return known and 1 or 0
    end)
end)

describe("a function that is passed or not", function()
  local function least(list, less)
    less = less or function(a, b) return a < b end
    if less(list[2], list[1]) then return list[2] end
    return list[1]
  end
  local function twice(x, f) f = f or math.abs return f(f(x)) end
  local function once(x, f)
    if x > 5 then return 1 end
    if not f then f = square end
    return f(x)
  end
  local mode = "fast"
  same("is the one that is passed, or the one that stands for it",
    function(x, y) return least { x, y }, least({ x, y }, function(a, b) return a > b end) end,
    function(x, y) return twice(x) + twice(y, square), once(x) + once(y, math.abs) end)
  same("is the last one that was assigned where that is always run",
    function(x, y)
      local f
      if mode == "fast" then f = function(v) return v * 2 end else f = function(v) return v .. "" end end
      local function call(v) return f(v) end
      local first = call(x)
      f = square
      return first, call(y)
    end,
    function(x, y)
      local f = square
      local function change() f = math.abs end
      local s = f(x)
      change()
      for _ = 1, 2 do
        local g = f
        s = s + g(y)
        g = square
        s = s + g(y)
      end
      return s + f(y)
    end)
end)

describe("a length or a size that is known", function()
  local function best_run(list)
    local n = #list
    if n < 1 then return 0 end
    local best, run = list[1], list[1]
    for i = 2, n do
      run = run < 0 and list[i] or run + list[i]
      if run > best then best = run end
    end
    return best, n
  end
  local function diagonal(rows, columns, x)
    local least, list = rows < columns and rows or columns, {}
    for i = 1, least do list[i] = x * i end
    return list[least]
  end
  same("decides, and bounds loops",
    function(x, y) return best_run { x, -1, y, 2 } end,
    function(x, y) return diagonal(4, 3, x), diagonal(2, 5, y) end)
  it("is asked for where a global is assigned to", function()
    local why = refusal(function(x, y) total = x + y return total end) -- luacheck: ignore
    assert.matches("declare it where it is only needed here: local total", why)
    why = refusal(function(x, y) local t = { x } total = t[1] + y return total end) -- luacheck: ignore
    assert.matches("declare it where it is only needed here: local total", why)
  end)
end)

it("a field that may not be set has no known type", function()
  local why = refusal(function(x, y)
    local t = {}
    local function put(v) if v < 0 then return 0 end t.v = v return 1 end
    return put(x) + (type(t.v) == "number" and y or 2)
  end)
  assert.matches("type does not exist here", why)
end)

describe("a check of types", function()
  local Vec = {}
  Vec.__index = Vec
  local function must_be(value, expected, name)
    if type(value) ~= expected then error(("%s is a %s, %s is expected"):format(name, type(value), expected), 2) end
  end
  local function check(condition, text, what) if not condition then error(text:format(what), 2) end end
  local function is_vec(v) return type(v) == "table" and type(v.x) == "number" and type(v.y) == "number" end
  local function vec(x, y)
    if type(x) == "table" then return setmetatable({ x = x.x or x[1], y = x.y or x[2] }, Vec) end
    must_be(x, "number", "x")
    return setmetatable({ x = x, y = y or x }, Vec)
  end
  function Vec.__add(a, b)
    check(is_vec(a), "left is a %s", type(a))
    check(is_vec(b), "right is a %s", type(b))
    return vec(a.x + b.x, a.y + b.y)
  end
  function Vec.__mul(a, b)
    check(is_vec(b) or type(b) == "number", "right is a %s", type(b))
    if is_vec(b) then return a.x * b.x + a.y * b.y end
    return vec(a.x * b, a.y * b)
  end
  same("decides what there is of a function",
    function(x, y)
      local v = vec(x, y) + vec(1) * y
      return v.x, v * v, vec({ x = x, y = y }).y
    end,
    function(x, y)
      local v = { x }
      local name = type(v)
      if name == "table" then return #name + y end
      return v
    end,
    function(x, y)
      local v, kinds = vec(x, y), 0 -- luacheck: ignore 311
      if is_vec(v) then kinds = 1 else return v end
      if not is_vec(x) then kinds = kinds + 2 else return x.x end
      for _ = 1, 2 do if type(kinds) == "number" then kinds = kinds + 1 else return {} end end
      return kinds, type(kinds > 1) == "boolean" and x or 3
    end)
end)
