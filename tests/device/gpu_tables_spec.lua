--- Plain tables that a function on a device captures: lists of numbers with a computed index,
--- fields of lists of records, and their lengths. Each function is compared with plain Lua over 101
--- pairs of numbers, special ones among them, in the scalar and the vector form.

package.path = "tests/?.lua;" .. package.path
local tidepool = require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local assert_ = getfenv(0).assert -- `assert` is busted's here

local on_device, device = opencl.specs(it, pending)

local function same(what, ...)
  local functions = { ... }
  on_device(what, function()
    for i, fn in ipairs(functions) do
      for _, lanes in ipairs { 1, 2, 8 } do
        local made = translate(fn, { lanes = lanes, name = "f" .. i, inputs = { "double", "double" } })
        local trouble = device:difference(fn, {}, made)
        assert(not trouble, ("function %d: %s"):format(i, trouble))
      end
    end
  end)
end

local SPECIAL = { 0, -0.0, 1, -1, 1e300, 5e-324, 2 ^ 53 + 2, 1 / 0, -1 / 0, 0 / 0, name = "special" }
local PERMUTATION = {}
for i = 1, 256 do PERMUTATION[i] = (i * 167 + 13) % 256 end
local settings = { weights = { 0.25, 0.5, 0.25 }, scale = 3 }
local bodies = { { x = 1, y = 2, mass = 1e300, name = "sun" }, { x = 0, y = -0.0, mass = 0 / 0 }, { x = -3.5, y = 1 / 0, mass = 1 } }
local points = { { 1, 2 }, { 3, 4, 5 }, { 5, 6 } }

local function whole(v, n) return v - v == 0 and math.floor(math.abs(v)) % n + 1 or 1 end

describe("a list of numbers", function()
  same("is read with a computed index",
    function(x, y) return SPECIAL[whole(x, 10)], SPECIAL[whole(y, 10)] end,
    function(x, y)
      local p, s = PERMUTATION, 0
      for i = 1, 4 do s = s + p[(p[whole(x, 256)] + i) % 256 + 1] end
      return s * y
    end,
    function(x, y)
      local s = 0
      for i = 1, #settings.weights do s = s + settings.weights[i] * (x + i) * settings.scale end
      return s + #settings.weights, y
    end)

  same("is passed to helpers", function(x, y)
    local function pick(list, at) return list[at] + #list end
    return pick(settings.weights, whole(x, 3)) + pick(PERMUTATION, whole(y, 256))
  end)

  on_device("has no other elements: what plain Lua makes of nil is an error that names the index", function()
    local f = translate(function(x) return SPECIAL[x] + 0 end, { name = "f", lanes = 8, inputs = { "double" } })
    local built = device:build(f)
    local xs = { 1, 10, 0, 11, 1.5, -1, 0 / 0, 1 / 0, 5e-324, 2 ^ 32 + 1 }
    local outputs, failed, details = device:run(built, { xs })
    device:release(built)
    for i, x in ipairs(xs) do
      assert.are.equal(i > 2, failed[i - 1] ~= 0)
      if i > 2 then
        local said = f:describe(failed[i - 1], f.detail_output and outputs[1][i - 1] or details[i - 1])
        local shown = x ~= x and "nan" or ("%.14g"):format(x)
        assert.truthy(said:find("index %-?" .. shown:gsub("%p", "%%%0") .. " of 'SPECIAL' is .*%(1 to 10%)"), said)
      end
    end
  end)

  same("can be asked whether it has an element",
    function(x, y) return SPECIAL[x] or 7, (SPECIAL[whole(y, 14) - 2] or y) + 1, not SPECIAL[y] end,
    function(x, y)
      if SPECIAL[x] == nil then return -1 elseif PERMUTATION[y] then return 1 end
      return PERMUTATION[x] ~= nil and x or 2
    end,
    function(x, y)
      local i = 0
      while SPECIAL[i + 1] do i = i + 1 end
      repeat i = i + 1 until nil == PERMUTATION[i + 250]
      return i + (x == x and x or 0) * (y == y and 1 or 0)
    end)

  on_device("is read anew at each map", function()
    local list = { 1, 2, 3 }
    local function double(x) return list[x] * 2 end
    local f = tidepool.App("lists"):func { gpu = true } (double)
    assert.are.same({ 2, 4, 6, n = 3 }, f:map({ 1, 2, 3 }):list())
    list[2], list[4] = 10, 5
    assert.are.same({ 20, 10, n = 2 }, f:map({ 2, 4 }):list())
    list = { 7 }
    assert.are.same({ 14, n = 1 }, f:map({ 1 }):list())
    local fine, message = pcall(function() return f:map({ 1, 2 }):list() end)
    assert.is_false(fine)
    assert.truthy(tostring(message):find("index 2 of 'list' is out of range %(1 to 1%)"), tostring(message))
    list[1] = "x"
    fine, message = pcall(function() return f:map({ 1 }):list() end)
    assert.is_false(fine)
    assert.truthy(tostring(message):find "'list' is no list of numbers", tostring(message))
  end)

  on_device("is a list of floats in single precision", function()
    local list = { 0.1, 2, 3 }
    local f = tidepool.App("lists"):func { gpu = true, precision = "single" } (function(x) return list[x] end)
    local got = f:map({ 1, 2 }):list()
    assert.are.equal(require("ffi").new("float", 0.1), got[1])
    assert.are.equal(2, got[2])
  end)
end)

describe("a list of records", function()
  same("has its fields read",
    function(x, y) return bodies[whole(x, 3)].x, bodies[whole(y, 3)].mass end,
    function(x, y)
      local s, t = 0, 0
      for j = 1, #bodies do
        local dx, dy = bodies[j].x - x, bodies[j].y - y
        s, t = s + dx * dx, t + dy
      end
      return s, t
    end,
    function(x, y) return points[whole(x, 3)][2] * y + (points)[whole(y, 3)][1] end)

  on_device("is read anew at each map", function()
    local list = { { v = 1 }, { v = 2 } }
    local f = tidepool.App("lists"):func { gpu = true } (function(x) return list[x].v + #list end)
    assert.are.same({ 3, 4, n = 2 }, f:map({ 1, 2 }):list())
    list[1].v = 5
    list[3] = { v = 9 }
    assert.are.same({ 8, 12, n = 2 }, f:map({ 1, 3 }):list())
    list[2] = {}
    local fine, message = pcall(function() return f:map({ 1 }):list() end)
    assert.is_false(fine)
    assert.truthy(tostring(message):find("'list[...].v' is no list of numbers", 1, true), tostring(message))
  end)
end)

describe("the bytes of a text that is known beforehand", function()
  local text, words = "Hello, w\200rld", { name = "abc", list = { "p", "q" } }
  local function nth(i) return text:byte(i) end
  same("are numbers, and so is its length",
    function(x, y) return text:byte(x) or -1, string.byte(text, y) or x end,
    function(x, y)
      local i = whole(x, #text)
      return text:byte(i) + text:byte(-i) * 256 + nth(i), ("xyz"):byte(whole(y, 3))
    end,
    function(x, y)
      local h = 5381
      for i = 1, #text do h = (h * 33 + text:byte(i)) % 4294967296 end
      return h + x + text:byte() + words.name:byte(2) + words.list[2]:byte(-1), y + #words.name + ("four"):len() + string.len(text)
    end,
    function(x, y)
      local many = (text:byte((text:byte(x) or 1) % 5 + 1) or 0) + (text:byte(y + 0.5) or 1) + (text:byte(-x - 0.5) or 2)
      if text:byte(x) then return many end
      return not text:byte(y) and -many or many
    end)

  on_device("are an error that names the index where there is none, and are those of now", function()
    local app, line = tidepool.App(), "ab"
    local f = app:func({ gpu = true }, function(i) return line:byte(i) + 0 end)
    local list = f:map({ -2, -3, 3, 1 / 0, 1.5 }, { return_exceptions = true }):list()
    assert.same({ 97, 97 }, { list[1], list[5] })
    for i, index in pairs { [2] = "0", [3] = "3", [4] = "inf" } do
      assert.truthy(list[i].message:find(("index %s of 'line' is out of range (1 to 2)"):format(index), 1, true), list[i].message)
    end
    line = "xyz"
    assert.equal(242, f:map({ 1, 3 }):sum())
  end)

  for i, case in ipairs {
    { function(x) return x:byte(1) end, "string.byte of something else than a text that is known beforehand" },
    { function(x) return words.list[x]:byte(1) end, "string.byte of something else than a text" },
    { function(x) return string.len(x) end, "string.len of something else than a text" },
    { function(x) return (""):byte(x) end, "a byte of '\"\"', which is empty" },
    { function(x) local a, b = text:byte(1, x) return a + b + x end, "string.byte of several bytes with bounds that are not known" },
  } do
    it("are refused by name: " .. i, function()
      local fine, message = pcall(translate, case[1], { name = "f", lanes = 8, inputs = { "double" } })
      assert.is_false(fine)
      assert.truthy(message:find "^tests/device/gpu_tables_spec.lua:%d+: gpu function 'f': ", message)
      assert.truthy(message:find(case[2], 1, true), message)
    end)
  end
end)

describe("a captured list of lists", function()
  local next_of = { { 2, 3 }, { 4 }, { 4, 5, 1 }, {}, { 4 } }
  local from_zero = { [0] = {}, { 3, 0 }, { 0, 1, 2, 3 }, {} }
  local rows_from_zero = { { [0] = 5, 6 }, { [0] = 7 }, {}, { [0] = 1, 2, 3 } }
  local walls, ragged = { { true, false, true }, { false, false, true } }, { { true }, { false, true }, {} }
  local function small(v, n)
    if v ~= v or math.abs(v) > 1e9 then return 1 end
    return math.floor(math.abs(v)) % n
  end
  same("may have lists of different lengths",
    function(x, y)
      local s, row = 0, next_of[1 + small(x, 5)]
      for i, each in ipairs(next_of) do for k, j in ipairs(each) do if j > y then s = s * 2 + i * j * k end end end
      for k = 1, #row do s = s + row[k] end
      return s + 100 * #row, next_of[1 + small(x, 5)][1 + small(y, 4)] or -1
    end,
    function(x, y) return next_of[1 + small(x, 7)][1 + small(y, 4)] + 1 end,
    function(x, y) return next_of[1 + small(x, 5)][1] or y, next_of[1 + small(y, 5)][2] == nil end,
    function(x, y)
      local case, row, n = from_zero[small(x, 4)], rows_from_zero[1 + small(x, 4)], 0
      for i = 1, #case, 2 do n = n + case[i] * 4 + case[i + 1] end
      return n, row[small(y, 3)] or -1, #row
    end)
  same("may have booleans",
    function(x, y)
      local wall = walls[1 + small(x, 2)][1 + small(y, 3)]
      if walls[1 + small(x, 2)][1 + small(y, 5)] then return 1, wall, wall == false end
      return 0, not wall, wall
    end,
    function(x, y)
      local row, n = ragged[1 + small(x, 3)], 0
      for j, each in ipairs(row) do if each then n = n + j end end
      local last = row[1 + small(y, 3)]
      if last == nil then return n, #row end
      return last and 7 or 8, row[1] and 1 or 2
    end)
  on_device("may have another form at each map", function()
    local lists
    local f = tidepool.App():func { gpu = true } (function(i)
      local n = #lists[i]
      for k = 1, #lists[i] do n = n * 10 + lists[i][k] end
      return n
    end)
    for _, case in ipairs { { { { 1 }, { 3, 4 } }, 11, 234 }, { { { 1, 2 }, { 3, 4 } }, 212, 234 }, { { {}, { 5 } }, 0, 15 } } do
      lists = case[1]
      assert.same({ case[2], case[3] }, { unpack(f:map({ 1, 2 }):list()) })
    end
  end)
end)

describe("a table that is no such list is refused by name", function()
  local far, mixed, more = { 1, 2, [5000] = 4 }, { 1, "two", 3 }, { 1, 2, [2.5] = 3 }
  local empty, proxy, few = {}, setmetatable({ 1, 2 }, { __index = function() return 0 end }), { { x = 1 }, { y = 2 } }
  for _, case in ipairs {
    { function(x) return far[x] end, "'far' is a table" },
    { function(x) return mixed[x] end, "'mixed' is a table" }, { function(x) return more[x] end, "'more' is a table.*without holes" },
    { function(x) return empty[x] end, "'empty' is a table" }, { function(x) return proxy[x] end, "'proxy' is a table.*metatable" },
    { function(x) return few[x].x end, "not every element of 'few' is a plain table with a number 'x'" },
    { function(x) return bodies[x].name end, "not every element of 'bodies' is a plain table with a number 'name'" },
    { function(x) return few[x][x] end, "'few' is no list of lists of numbers, or of lists of booleans" },
    { function(x) SPECIAL[x] = 1 return x end, "assignment to an element or field of 'SPECIAL'" },
    { function(x) bodies[x].x = 1 return x end, "assignment to an element or field" },
    { function(x) return #proxy + x end, "'#'; only captured typed arrays and lists" },
  } do
    it(case[2], function()
      for _, lanes in ipairs { 1, 8 } do
        local fine, message = pcall(translate, case[1], { name = "f", lanes = lanes, inputs = { "double" } })
        assert.is_false(fine)
        assert.truthy(message:find "^tests/device/gpu_tables_spec.lua:%d+: gpu function 'f': ", message)
        assert.truthy(message:find(case[2]), message)
      end
    end)
  end
  assert_(empty and far and mixed and more)
end)
