--- Random numbers. That each input has a stream of its own, on every executor, is in promises.lua;
-- here is what that depends on, and must not.

local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, mistake = support.contains, support.mistake
local here = support.file()

local app = tidepool.App("random", { executor = "threads" })

describe("random numbers of mapped functions", function()
  local script = [[
    local tidepool = require "tidepool"
    local app = tidepool.App "random"
    local random = math.random
    math.randomseed(77)
    local inner = app:func(function(x) return random(1e9) + x end)
    local flaky = app:func { retries = 3 } (function(x)
      local drawn = random(1e9)
      if drawn % 4 == 0 and tidepool.current().attempt < 3 then error "again" end
      return drawn, random()
    end)
    local nested = app:func(function(x) return inner:map({ x, x }):list()[2] + inner:remote(x) + random() end)
    local tiny = app:func(function(x) return random() end)
    local text = {}
    local function put(...) for i = 1, select("#", ...) do text[#text + 1] = ("%.17g"):format((select(i, ...))) end end
    for _, a, b in flaky:map(tidepool.range(200)) do put(a, b) end
    for _, a in nested:map(tidepool.range(50)) do put(a) end
    local sums = {}
    for i, a in tiny:map(tidepool.range(60000), { ordered = false }) do sums[i] = a end
    local all = 0
    for i = 1, 60000 do all = all + sums[i] * i end
    put(all, tiny:remote(1), random())
    -- Tasks take turns as it comes; each has its own count of maps.
    local tasks = {}
    for t = 1, 3 do
      tasks[t] = tidepool.async(function()
        local sum = 0
        for k = 1, 5 do sum = sum * 3 + inner:remote(k) end
        return sum
      end)
    end
    put(tidepool.gather(unpack(tasks)))
    print(table.concat(text, "\n"))
  ]]

  it("are the same on any number of workers, and without any", function()
    local expected = support.output_of(script, { workers = 1 })
    for workers = 2, 4 do assert.equal(expected, support.output_of(script, { workers = workers })) end
    assert.equal(expected, support.output_of(script, { flags = { "--executor", "inline" } }))
  end)

  it("follow the seed of the script, which is LuaJIT's own when it sets none", function()
    local draw = [[
      local tidepool = require "tidepool"
      SEED
      print(tidepool.App("r"):func(function(x) return math.random() end):map({ 1 }):list()[1], math.random())
    ]]
    local default = support.output_of((draw:gsub("SEED", "")))
    assert.equal(default, support.output_of((draw:gsub("SEED", "math.randomseed(0)"))))
    assert.are_not.equal(default, support.output_of((draw:gsub("SEED", "math.randomseed(1)"))))
    -- Seeded before Tidepool is loaded, and by a name of its own.
    assert.equal(support.output_of((draw:gsub("SEED", "math.randomseed(5)"))),
      support.output_of("local seed = math.randomseed seed(5) " .. draw:gsub("SEED", "")))
  end)

  it("leave the script's own as they are", function()
    math.randomseed(8)
    local expected = { math.random(), math.random(), math.random(100) }
    math.randomseed(8)
    local got = { math.random() }
    app:func(function() return math.random() end):map({ 1, 2, 3 }):list()
    got[2] = math.random()
    app:func(function() math.randomseed(1) end):map({ 1, 2, 3 }):list()
    got[3] = math.random(100)
    assert.same(expected, got)
  end)

  it("are not disturbed by what modules draw while they are loaded", function()
    local files = { ["drawer.lua"] = "local d = { math.random(), math.random(1000) } return { first = d[1], get = function() return d[2] end }" }
    local text = [[
      local tidepool = require "tidepool"
      package.path = "DIR/?.lua;" .. package.path
      local first = math.random()
      math.randomseed(0)
      local drawer = require "drawer"
      assert(first == drawer.first)
      math.randomseed(2)
      local with = tidepool.App("r"):func(function(x) return math.random(), drawer.first end)
      math.randomseed(2)
      local a, firsts = with:map(tidepool.range(100)):list()
      math.randomseed(2)
      local b = tidepool.App("r"):func(function(x) return math.random() end):map(tidepool.range(100)):list()
      for i = 1, 100 do assert(a[i] == b[i] and firsts[i] == first, i) end
    ]]
    for workers = 1, 3 do support.output_of(text, { files = files, workers = workers }) end
  end)

  it("take the forms of math.random, and its errors with the line of the call", function()
    local f = app:func(function(...)
      local fine, why = pcall(function(...)
        local drawn = math.random(...)
        return drawn
      end, ...)
      return fine and math.floor(why) == why and why or why
    end)
    for _ = 1, 100 do
      local x = f:remote(3)
      assert.is_true(x == 1 or x == 2 or x == 3)
      x = f:remote("2", "3")
      assert.is_true(x == 2 or x == 3)
      x = f:remote(-1, 0)
      assert.is_true(x == -1 or x == 0)
    end
    assert.equal(1, f:remote(0)) -- as LuaJIT's does, for which no interval is empty
    assert.equal(7, f:remote(7, 7))
    for _, case in ipairs { { n = 1 }, { n = 1, "x" }, { n = 1, {} }, { n = 2, 1, nil }, { n = 2, 1, true } } do
      local why = f:remote(unpack(case, 1, case.n))
      local fine, plain = pcall(function(...)
        local drawn = math.random(...)
        return drawn
      end, unpack(case, 1, case.n))
      assert.is_false(fine)
      assert.equal((plain:gsub(":%d+:", ":")), (why:gsub(":%d+:", ":")))
      assert.matches("^" .. here .. ":%d+: ", why)
    end
    contains(app:func(function() return (pcall(math.randomseed)) and "" or select(2, pcall(math.randomseed)) end):remote(),
      "bad argument #1 to '?' (number expected, got no value)")
  end)

  it("can be had under any name, in coroutines, and by functions that are passed", function()
    local names = { math.random, random = math.random }
    local f = app:func(function(given)
      local in_coroutine = coroutine.wrap(function() return names.random() end)
      return { names[1](), in_coroutine(), given(), math.random(), _G.math["random"]() }
    end)
    math.randomseed(4)
    local got = f:remote(math.random)
    math.randomseed(4)
    local expected = app:func(function()
      local list = {}
      for i = 1, 5 do list[i] = math.random() end
      return list
    end):remote()
    assert.same(expected, got)
    assert.equal(math.random, app:func(function() return math.random end):remote())
    assert.equal(math.randomseed, app:func(function() return math.randomseed end):remote())
  end)

  it("are xoroshiro128++", function()
    local step = require("tidepool.engine.random").step
    local a, b = 1LL, 2LL
    for _, expected in ipairs { "393217", "669327710093319", "1732421326133921491", "11394790081659126983", "9555452776773192676",
      "3586421180005889563", "1691397964866707553" } do
      local out
      out, a, b = step(a, b)
      assert.equal(expected .. "ULL", tostring(ffi.cast("uint64_t", out)))
    end
  end)

  it("of neighbouring inputs are unrelated", function()
    local n = support.times(200000)
    local first, second = app:func(function() return math.random(), math.random() end):map(tidepool.range(n)):array()
    local sum, cross, neighbours, counts = 0, 0, 0, {}
    for i = 1, n do
      sum = sum + first[i]
      cross = cross + (first[i] - 0.5) * (second[i] - 0.5)
      if i > 1 then neighbours = neighbours + (first[i] - 0.5) * (first[i - 1] - 0.5) end
      local cell = math.floor(first[i] * 16) * 16 + math.floor(first[i % n + 1] * 16)
      counts[cell] = (counts[cell] or 0) + 1
    end
    local chi = 0
    for cell = 0, 255 do chi = chi + ((counts[cell] or 0) - n / 256) ^ 2 / (n / 256) end
    -- Six standard deviations.
    assert.is_true(math.abs(sum / n - 0.5) < 6 * math.sqrt(1 / 12 / n))
    assert.is_true(math.abs(cross / n) < 6 / 12 / math.sqrt(n))
    assert.is_true(math.abs(neighbours / n) < 6 / 12 / math.sqrt(n))
    assert.is_true(math.abs(chi - 255) < 6 * math.sqrt(2 * 255), chi)
  end)
end)

describe("random numbers on a device", function()
  if #tidepool.devices() == 0 then return pending "no OpenCL device" end

  local function both(fn, n)
    local got = {}
    for i, options in ipairs { { executor = "threads", returns = "double" }, { gpu = true, returns = "double" } } do
      math.randomseed(21)
      got[i] = app:func(options, fn)
      got[i] = got[i]:map(tidepool.range(n))
    end
    return got[1], got[2]
  end

  it("have the bits that they have in Lua, in many slices", function()
    local n = support.times(400000) + 7
    local on_threads, on_device = both(function(x)
      local sum = 0
      for _ = 1, x % 3 do sum = sum + math.random(1000) end
      return sum + math.random()
    end, n)
    on_threads, on_device = on_threads:array(), on_device:array()
    for i = 1, n do
      if on_threads[i] ~= on_device[i] then error(("%d: %.17g, %.17g"):format(i, on_threads[i], on_device[i])) end
    end
  end)

  it("are the same when only their sum is wanted", function()
    local on_threads, on_device = both(function() return math.random(100) end, 50000)
    assert.equal(on_threads:sum(), on_device:sum())
  end)

  it("do not depend on whether results before were reduced there", function()
    local f = app:func({ gpu = true }, function() return math.random() end)
    math.randomseed(6)
    f:map(tidepool.range(3000)):sum()
    local after_sum = f:map({ 1 }):list()[1]
    math.randomseed(6)
    f:map(tidepool.range(3000)):list()
    assert.equal(f:map({ 1 }):list()[1], after_sum)
  end)

  it("are their leading 24 bits in single precision", function()
    math.randomseed(2)
    local single = app:func({ gpu = true, precision = "single" }, function() return math.random() end):map(tidepool.range(1000)):list()
    math.randomseed(2)
    local double = app:func(function() return math.random() end):map(tidepool.range(1000)):list()
    for i = 1, 1000 do assert.equal(math.floor(double[i] * 2 ^ 24) / 2 ^ 24, single[i]) end
  end)
end)

describe("tidepool.random", function()
  it("gives the stream of a seed and a number, and no other's", function()
    local a, b, seen = tidepool.random(1, 2), tidepool.random(1, 2), {}
    for _ = 1, 100 do assert.equal(a(), b()) end
    for _, pair in ipairs { { 1, 2 }, { 2, 1 }, { 1, 3 }, { 1, 0 }, { 1, -2 }, { 1.5, 2 }, { 1, 2.5 }, { 2 ^ 60, 2 }, { 1, 2 ^ 60 } } do
      local x = tidepool.random(pair[1], pair[2])()
      assert(x >= 0 and x < 1 and not seen[x])
      seen[x] = true
    end
    assert.equal(tidepool.random(7)(), tidepool.random(7, 0)())
    assert.equal(tidepool.random(7, 0)(), tidepool.random(7, -0)())
    assert.equal("0.01346696840727", ("%.14f"):format(tidepool.random(1, 2)())) -- for ever
  end)

  it("is called as math.random is", function()
    local r, low, high = tidepool.random(3), 1, 0
    for _ = 1, 1000 do
      local x = r()
      low, high = math.min(low, x), math.max(high, x)
      local y, z = r(6), r(-2, 2)
      assert(y >= 1 and y <= 6 and y % 1 == 0 and z >= -2 and z <= 2 and z % 1 == 0)
    end
    assert.is_true(low < 0.02 and high > 0.98 and high < 1)
    mistake(function()
      local x = r "six"
      return x
    end, "bad argument #1 to 'random' (number expected, got string)")
  end)

  it("travels as a copy that goes on where the original was", function()
    local r = tidepool.random(5, 5)
    r()
    local f = app:func(function(stream) return stream(), stream(), r() end) -- one and the same: a captured table stays itself
    assert.same({ f:remote(r) }, { r(), r(), r() })
  end)

  it("says what is wrong", function()
    mistake(function()
      local x = tidepool.random()
      return x
    end, "tidepool.random: expected a number as the seed, got nil")
    mistake(function()
      local x = tidepool.random(1, "x")
      return x
    end, "tidepool.random", "a number", '"x"')
    assert.equal("tidepool.Random", tostring(tidepool.random(1)))
  end)
end)
