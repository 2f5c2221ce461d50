--- The messages of functions that fail on a device, in both forms, byte by byte as threads have
--- them. (not stock: the same code runs there.)

require "tidepool" -- it brings what the translator needs
local opencl = require "tests.support_opencl"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

local lua_assert = getfenv(0).assert -- `assert` is busted's here
local app = tidepool.App()
local VALUES = { 0, -0.0, 1, -1, 5.5, -7.25, 1 / 3, 100, 12345678, 2 ^ 31, -2 ^ 31, 2 ^ 53, 2 ^ 63, -2 ^ 63, 2 ^ 64, 1e15, 1e300, -1e300, 5e-324,
                 1 / 0, -1 / 0, 0 / 0, 1e14, 123456789012345 }
local INDEXES = {}
for i = 1, #VALUES do INDEXES[i] = i end

--- The message of a failure, without which input it was.
local function message_of(result) return type(result) == "table" and result.message or tostring(result) end

--- Compares what threads and devices give for each pair of values and indexes; returns how many
--- failed.
local function compare(fn)
  local function run(gpu)
    local f = app:func({ gpu = gpu }, fn)
    return f:map(VALUES, INDEXES, { return_exceptions = true }):list()
  end
  local wanted, got = run(nil), run(true)
  local failures = 0
  for i = 1, #VALUES do
    assert.equal(message_of(wanted[i]), message_of(got[i]))
    failures = failures + (type(wanted[i]) == "table" and 1 or 0)
  end
  return failures
end

local scale, cities = 2.5, { { name = "Ulm", height = 478 }, { name = "Bonn", height = 60 } }

local function check(x, i)
  if i % 4 == 0 then error("bad value " .. x .. " at " .. i, 2) end
  lua_assert(i % 4 ~= 1, "value " .. x .. ", twice " .. x * 2)
  return x
end

local function fail(p, i) error(("%g of %d: %s"):format(p.x, i, p.y)) end

describe("a message with numbers on a device", function()
  on_device("has several of them, by .. and tostring, with constants and captured numbers between", function()
    assert.equal(8, compare(function(x, i)
      if i % 3 == 0 then error("bad value " .. x .. " at " .. i .. ", 100% of " .. scale .. tostring(-x) .. 7 .. cities[2].height) end
      return x
    end))
    assert.equal(24, compare(function(x, i)
      if i > 1000 then return x end
      lua_assert(i > 1000, i .. " " .. x .. " " .. x / 3 .. " " .. (i > 5 and x or i) .. " " .. i % 7 .. " " .. i * 1e10 .. " " .. math.floor(x)
        .. " " .. -i)
      return x
    end))
  end)

  on_device("is what string.format makes of them", function()
    for _, formats in ipairs { { "%d", "%5d|", "%-5d|", "%05d", "%+d", "% d", "%.4d", "%i" }, { "%x", "%X", "%#x", "%o", "%u", "%08x", "%s", "%10s" },
      { "%g", "%e", "%5.2f", "%.0f", "%G", "%E", "%010g", "%+g" }, { "%.3e", "%.1f", "%.3s", "%-8s|", "%q", "% g", "%.99f", "%#.3g" } } do
      local text = ("return function(x, i) if i < 0 then return x end error(string.format(%q%s)) end"):format(table.concat(formats, " 100%% "),
        (", x"):rep(8))
      assert.equal(24, compare(assert(loadstring(text, "=formats"))()))
    end
    assert.equal(24, compare(function(x, i)
      if i < 0 then return x end
      error(("%s of %d is %s, %s: %6s|"):format("all", i, x > 1, tostring(x == i), x > 2) .. ("%s, %9s|"):format("<" .. x .. ">", tostring(i)))
    end))
  end)

  on_device("is one for every place and input that fails, in helpers, loops and vectors, with the place of its level", function()
    assert.equal(12, compare(function(x, i) return check(x, i) + 1 end))
    assert.equal(12, compare(function(x, i) return check(x, i) end))
    assert.equal(24, compare(function(x, i)
      local total = x
      for k = 1, 30 do
        if k == i then error(("%d of %d: %g"):format(k, 30, total)) end
        total = total + k
      end
      return total
    end))
    assert.equal(18, compare(function(x, i)
      if i % 4 == 0 then return x end
      if i % 4 == 1 then return error("returned " .. x) end
      if i % 4 == 2 then error("level 2: " .. x .. i, 2) end
      error("level 0: " .. x .. i, 0)
    end))
  end)

  on_device("may have numbers of records, and the function may go on after what always fails", function()
    assert.equal(16, compare(function(x, i)
      local p = { x = x, y = i * 2 }
      if i % 3 == 0 then fail(p, i) end
      if i % 3 == 1 then return fail({ x = -x, y = 1 }, i) end
      return i > 0 and p.y or error("never " .. x)
    end))
    assert.equal(6, compare(function(x, i)
      local height = lua_assert(i % 4 > 0 and x, "no height for " .. i .. ", " .. x)
      return (lua_assert(height))
    end))
  end)

  on_device("has them as what they are in single precision, and beside indexes that are wrong", function()
    local list = tidepool.array("double", { 1, 2, 3 })
    local f = app:func({ gpu = true, precision = "single" }, function(x, i)
      if x > 3 then error("x is " .. x .. ", i " .. i) end
      return list[x]
    end)
    local results = f:map({ 1, 0.5, 3.5, 16777217, 0 }, { 1, 2, 3, 4, 5 }, { return_exceptions = true }):list()
    assert.equal("1", message_of(results[1]))
    local file = debug.getinfo(1, "S").short_src
    local line = debug.getinfo(f.raw, "S").linedefined
    assert.equal(("%s:%d: index 0.5 of 'list' is out of range (1 to 3)"):format(file, line + 2), message_of(results[2]))
    assert.equal(("%s:%d: x is 3.5, i 3"):format(file, line + 1), message_of(results[3]))
    assert.equal(("%s:%d: x is 16777216, i 4"):format(file, line + 1), message_of(results[4]))
    assert.equal(("%s:%d: index 0 of 'list' is out of range (1 to 3)"):format(file, line + 2), message_of(results[5]))
  end)

  on_device("is the same in the scalar form, whatever results have room for a number", function()
    for _, result in ipairs { "x", "x > 1", "i, x > 0, x", "bit.tobit(x)" } do
      local text = ([[
        local function helper(i) assert(i %% 5 > 0, "five " .. i .. " " .. i / 5) return i end
        return function(x, i)
          if i %% 3 == 0 then error(x .. " at " .. i .. " and " .. x * i) end
          helper(i)
          for k = 1, 3 do helper(k) end
          return %s
        end]]):format(result)
      local fn = assert(loadstring(text, "=scalar"))()
      for _, lanes in ipairs { 1, 2, 8 } do
        for _, returns in ipairs { false, result == "x" and { "int32" } or nil } do
          local t = translate(fn, { lanes = lanes, returns = returns or nil, name = "f", text_of = function() return text end })
          local built = device:build(t)
          local outputs, failed, details = device:run(built, { VALUES, INDEXES })
          device:release(built)
          for i = 1, #VALUES do
            local fine, wanted = pcall(fn, VALUES[i], i)
            assert.equal(fine, failed[i - 1] == 0)
            if not fine then assert.equal(wanted, opencl.message(t, #VALUES, i - 1, outputs, failed, details)) end
          end
        end
      end
    end
  end)

  on_device("takes as much room as the longest one, and none where there is none", function()
    local function columns(fn)
      local t = translate(fn, { lanes = 8, name = "f" })
      for _, argument in ipairs(t.arguments) do
        if argument.kind == "details" then return argument.index end
      end
      return 0, t.source:find("detail", 1, true)
    end
    assert.same({ 0 }, { columns(function(x) if x > 1 then error("large") end return x end) })
    assert.equal(0, (columns(function(x) if x > 1 then error("large " .. x) end return x end)))
    assert.equal(2, (columns(function(x) if x > 1 then error(x .. x .. x) end lua_assert(x == x, "nan" .. x) return x end)))
    assert.equal(3, (columns(function(x) if x > 1 then error(x .. x .. x) end return x > 0 end)))
  end)
end)
