--- What a device's compiler is given: functions with many elements of arrays call one function that
--- checks and reads them in the place of a copy at each, with the results of plain Lua.

package.path = "tests/?.lua;" .. package.path
local tidepool = require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local assert_ = getfenv(0).assert -- `assert` is busted's here

local on_device, device = opencl.specs(it, pending)

local SPECIAL = { 0, -0.0, 1, -1, 1.5, 2, 3, 19, 20, 21, 2 ^ 31, -2 ^ 31, 2 ^ 32 + 1, 2 ^ 53, 1e300, -1e300, 5e-324, 1 / 0, -1 / 0, 0 / 0 }

--- A list of 20 numbers, special ones among them, as elements of this type hold them.
local function array_of(ctype)
  local list = {}
  for i = 1, 20 do list[i] = (ctype == "double" or ctype == "float") and SPECIAL[i] or i * 7 % 100 end
  return opencl.array(ctype, list)
end

--- A function (a, b) of two numbers that has `count` statements, the i-th of format(i, ...).
local function function_of(statement, count, a, b)
  local lines = {}
  for i = 1, count do lines[i] = statement:gsub("%$", i) end
  local text = ("local a, b = ... return function(x, y) local s = y\n%s\nreturn s end"):format(table.concat(lines, "\n"))
  return assert_(loadstring(text, text))(a, b)
end

local function count_of(text, what)
  local n, at = 0, 1
  while true do
    local from, to = text:find(what, at, true)
    if not from then return n end
    n, at = n + 1, to + 1
  end
end

local function options(more)
  local all = { name = "f", inputs = { "double", "double" } }
  for k, v in pairs(more) do all[k] = v end
  return all
end

describe("many operations in vectors that are functions", function()
  it("are calls, which few are not", function()
    local statement = "s = bit.bxor(s * $, bit.rol(x, $ % 31)) % 1000"
    local called = "static __attribute__((noinline)) int8 lua_tobit8("
    local function source(count, lanes) return translate(function_of(statement, count), options { lanes = lanes }).source end
    assert.are.equal(1, count_of(source(64, 8), called))
    assert.are.equal(1, count_of(source(64, 8), "static __attribute__((noinline)) double8 lua_mod8("))
    assert.are.equal(0, count_of(source(10, 8), "noinline"))
    assert.are.equal(0, count_of(source(64, 1), "noinline"))
  end)

  on_device("give what they give in plain Lua", function()
    local fn = function_of("s = bit.bxor(s * $, bit.rol(x, $ % 31)) % 1000", 64)
    local exact = setmetatable({}, { __index = function() return true end })
    local trouble = device:difference(fn, exact, translate(fn, options { lanes = 8 }))
    assert.is_nil(trouble)
  end)
end)

describe("many elements of an array in vectors", function()
  it("are read by one function per array, which few are not", function()
    local a, b = array_of "double", array_of "int32"
    local many = translate(function_of("s = s + a[x + $] + b[y + $]", 40, a, b), options { lanes = 8 }).source
    assert.are.equal(1, count_of(many, "double8 lua_read_a_1("))
    assert.are.equal(1, count_of(many, "int8 lua_read_b_1("))
    assert.are.equal(40, count_of(many, "= lua_read_a_1("))
    assert.truthy(count_of(many, "lua_is_index8(") <= 3, many)
    local few = translate(function_of("s = s + a[x + $]", 3, a, b), options { lanes = 8 }).source
    assert.are.equal(0, count_of(few, "lua_read"))
    -- the scalar form has as much code for a check as for a call
    assert.are.equal(0, count_of(translate(function_of("s = s + a[x + $]", 40, a, b), options { lanes = 1 }).source, "lua_read"))
  end)

  for _, ctype in ipairs { "double", "float", "int32", "uint32", "int16", "uint8" } do
    on_device("gives what plain Lua gives, and its errors: " .. ctype, function()
      for _, statement in ipairs {
        "s = s + a[x + $]", -- most fail
        "if x + $ >= 1 and x + $ <= 20 and x == math.floor(x) then s = s + a[x + $] end",
        "if x >= 1 and x <= 20 - $ then s = s + a[math.floor(x)] * a[math.floor(x + $)] end",
        "for i = 1, 3 do if x >= i and x < 20 then s = s + a[x] if s > 50 then break end end end",
        "while s < x and s < 20 do s = s + 1 + math.abs(a[s]) end",
      } do
        local f = function_of(statement, 14, array_of(ctype))
        for _, lanes in ipairs { 2, 8, 16 } do
          local trouble = device:difference(f, {}, translate(f, options { lanes = lanes }))
          assert(not trouble, ("%s: %s"):format(statement, trouble))
        end
      end
    end)
  end

  on_device("reads them in single precision, and in helpers", function()
    local a = opencl.array("float", { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 })
    local function at(i) return a[i] + a[i + 1] + a[i + 2] + a[i + 3] end
    local function f(x, y)
      if x >= 1 and x <= 4 then return at(x) + a[x] + a[x + 1] + a[x + 2] + a[x + 3] + a[x] + a[x] + a[x] + a[x] end
      return a[y]
    end
    for _, precision in ipairs { "double", "single" } do
      local made = translate(f, options { lanes = 8, precision = precision, inputs = { "float", "float" } })
      assert.truthy(made.source:find("lua_read_a", 1, true))
      local built = device:build(made)
      local xs, ys = { 1, 2, 3, 4, 0.5, 0, 9, 1, 2, 3, 4 }, { 1, 1, 1, 1, 10, 11, 0 / 0, 1, 1, 1, 1 }
      local outputs, failed = device:run(built, { xs, ys })
      device:release(built)
      for i, x in ipairs(xs) do
        local fine, want = pcall(f, x, ys[i])
        assert.are.equal(fine, failed[i - 1] == 0)
        if fine then assert.are.equal(want, outputs[1][i - 1]) end
      end
    end
  end)

  on_device("writes them, in the lanes that are on and have a right index", function()
    for _, ctype in ipairs { "double", "float", "int32", "uint8" } do
      for _, statement in ipairs { "a[x * 20 + $] = y + $", "if y > $ then a[x * 20 + $] = y end", "a[x * 20 + $ - y] = $" } do
        local xs, ys = {}, {}
        for i = 0, 20 do xs[i + 1], ys[i + 1] = i, i % 9 == 8 and 0.5 or i % 7 + 8 end
        local want = tidepool.array(ctype, 420)
        local plain = function_of(statement, 14, want)
        local fails = {}
        for i = 1, #xs do fails[i] = not pcall(plain, xs[i], ys[i]) end
        local got = opencl.array(ctype, 420)
        local made = translate(function_of(statement, 14, got), options { lanes = 8 })
        assert.are.equal(14, count_of(made.source, "    lua_write_a_1("))
        local built = device:build(made)
        local _, failed = device:run(built, { xs, ys })
        device:release(built)
        for i = 1, #xs do assert.are.equal(fails[i], failed[i - 1] ~= 0, statement .. " item " .. i) end
        for i = 1, 420 do assert.are.equal(want[i], got[i], ("%s: %s element %d"):format(ctype, statement, i)) end
      end
    end
  end)
end)

describe("a terminal", function()
  on_device("shows that a function is being compiled", function()
    local progress = require "tidepool.engine.progress"
    local lines = {}
    progress.display("line", function(text) lines[#lines + 1] = text end, function() end, function() return 80 end)
    finally(function() progress.display "off" end)
    local f = tidepool.App("shown"):func { gpu = true, name = "shown" } (function(x) return x * 3.25 + 1 end)
    assert.are.equal(14, f:map({ 4 }):list()[1])
    assert.truthy(lines[1]:find "^shown: compiling for ", lines[1])
    assert.are.equal("", lines[2])
    local n = #lines
    assert.are.equal(14, f:map({ 4 }):list()[1])
    for i = n + 1, #lines do assert.falsy(lines[i]:find "compiling") end
  end)
end)
