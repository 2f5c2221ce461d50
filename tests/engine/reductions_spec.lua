--- Reductions: one value of all results, the same on every executor.

local support = require "tests.support"
local tidepool = require "tidepool"

local executors = { { "inline", { executor = "inline" } }, { "threads", { executor = "threads" } } }
if #tidepool.devices() > 0 then executors[3] = { "a device", { gpu = true } } end

local function third(x) return x / 3 end

for _, executor in ipairs(executors) do
  local app = tidepool.App("reductions", executor[2])
  describe("on " .. executor[1], function()
    local f = app:func(third)

    it("sum, mean, min and max are of all results", function()
      local xs = { 3, -6, 12, 9 }
      assert.equal(6, f:map(xs):sum())
      assert.equal(1.5, f:map(xs):mean())
      assert.equal(-2, f:map(xs):min())
      assert.equal(4, f:map(xs):max())
    end)

    it("of none they are 0 and nil", function()
      assert.equal(0, f:map({}):sum())
      assert.is_nil(f:map({}):mean())
      assert.is_nil(f:map({}):min())
      assert.is_nil(f:map({}):max())
      assert.equal("init", f:map({}):reduce(function(a, b) return a + b end, "init"))
    end)

    it("are the same whatever the blocks are", function()
      local n = 50003
      local a = tidepool.array("double", n)
      for i = 1, n do a[i] = i end
      local function in_lanes(list) -- lua/tidepool/engine/reduce.lua says which order this is
        local s = {}
        for i = 1, 16 do s[i] = 0 end
        for i = 1, #list do s[(i - 1) % 16 + 1] = s[(i - 1) % 16 + 1] + list[i] end
        for _, apart in ipairs { 8, 4, 2, 1 } do
          for l = 1, apart do s[l] = s[l] + s[l + apart] end
        end
        return s[1]
      end
      local groups = {}
      for from = 1, n, 1024 do
        local group = {}
        for i = from, math.min(from + 1023, n) do group[#group + 1] = i / 3 end
        groups[#groups + 1] = in_lanes(group)
      end
      local expected = in_lanes(groups)
      assert.equal(expected, f:map(a):sum())
      assert.equal(expected, f:map(tidepool.range(n)):sum())
      local i = 0
      assert.equal(expected, f:map(function()
        i = i + 1
        return i <= n and i or nil
      end):sum())
    end)

    if executor[1] ~= "a device" then it("are the same in whatever order the results come", function()
      local g = app:func { retries = { max = 1, initial_delay = 0.01 } } (function(x)
        if x % 7 == 3 and tidepool.current().attempt == 1 then error "again" end
        return math.sin(x) * 10000
      end)
      assert.equal(g:map(tidepool.range(3000)):sum(), g:map(tidepool.range(3000), { ordered = false }):sum())
    end) end

    if executor[1] ~= "a device" then it("reduce folds the results in their order", function()
      local text = f:map({ 3, 6, 9 }):reduce(function(sum, x) return sum .. x .. ";" end, "")
      assert.equal("1;2;3;", text)
      local both = app:func(function(x) return x, 2 * x end)
      assert.equal(18, both:map({ 1, 2, 3 }):reduce(function(sum, x, y) return sum + x + y end, 0))
    end) end

    it("the order of zeros and NaNs does not matter to the least and the greatest", function()
      local same = app:func(function(x) return x end)
      for _, xs in ipairs { { 0, -1 / math.huge }, { -1 / math.huge, 0 } } do
        assert.equal(-math.huge, 1 / same:map(xs):min())
        assert.equal(math.huge, 1 / same:map(xs):max())
      end
    end)

    it("a NaN among them makes the least and the greatest NaN", function()
      local least, greatest = f:map({ 1, 0 / 0, 2 }):min(), f:map({ 1, 0 / 0, 2 }):max()
      assert.is_true(least ~= least and greatest ~= greatest)
    end)

    it("raise the first failure, or take on_error's number", function()
      local g = app:func(function(x)
        if x < 0 then error("below zero") end
        return x
      end)
      assert.equal(2, support.failure_of(function() return (g:map({ 1, -1, -2 }):sum()) end).index)
      assert.equal(2, support.failure_of(function() return (g:map({ 1, -1 }, { return_exceptions = true }):max()) end).index)
      assert.equal(11, g:map({ 1, -1 }, { on_error = function() return 10 end }):sum())
    end)
  end)
end

describe("a sum of parts of groups", function()
  it("does not depend on their order, in doubles and in floats", function()
    local ffi, reduce = require "ffi", require "tidepool.engine.reduce"
    local n, parts = 5000, {}
    local p = ffi.new("double[?]", n)
    for i = 0, n - 1 do p[i] = math.sin(i) * 10000 end
    for at = 0, n - 1, 37 do table.insert(parts, #parts % 3 + 1, at) end
    for _, is_single in ipairs { false, true } do
      local whole, mixed = reduce.new(is_single), reduce.new(is_single)
      whole:add(p, 1, n)
      for _, at in ipairs(parts) do mixed:add(p + at, at + 1, math.min(37, n - at)) end
      assert.equal(whole:total(), mixed:total())
    end
  end)
end)

if executors[3] then describe("a reduction on a device", function()
  local app = tidepool.App("reductions", { gpu = true })
  local n = support.times(400000) + 1234
  local xs = tidepool.array("double", n)
  for i = 1, n do xs[i] = (i * 7919) % 1000003 / 64 - 5000 end

  --- How many results came back as a part of a group's; nil: none.
  local function partial(results)
    return require("tidepool.results").of(results).n_partial
  end

  --- What `reduce(results)` gives when at least one group was reduced on the device, and whether
  -- results of groups came back at all.
  local function on_device(f, reduce, ...)
    local value
    for _ = 1, 50 do -- whether a slice starts before it is known that the results are to be reduced is the machine's business
      local results = f:map(xs, ...)
      local again = reduce(results)
      assert.is_true(value == nil or again == value or again ~= again)
      value = again
      local n_partial = partial(results)
      if n_partial then return value, n_partial end
    end
    error "nothing was reduced on the device"
  end

  it("is done there, with the bits of the one that threads have", function()
    local function shape(x)
      if x > 6000 then return x * 0.1 end
      return x / 3 + math.floor(x)
    end
    for _, options in ipairs { {}, { returns = "int32" }, { returns = "float" } } do
      local f, g = app:func(options, shape), tidepool.App("threads"):func(options, shape)
      for _, op in ipairs { "sum", "min", "max", "mean" } do
        local results = g:map(xs)
        assert.equal(results[op](results), (on_device(f, function(r) return r[op](r) end)))
      end
    end
  end)

  it("brings back one number for each group of results", function()
    local f = app:func(function(x) return x end)
    for _ = 1, 200 do
      local results = f:map(xs)
      results:sum()
      if partial(results) == n - n % 1024 then return end
    end
    error "there were always single results"
  end)

  it("is the same in single precision, again and again, near that of doubles", function()
    local f, g = app:func({ precision = "single" }, third), app:func(third)
    local sum = on_device(f, function(r) return r:sum() end)
    local exact = g:map(xs):sum()
    assert.is_true(math.abs(sum - exact) <= 1e-5 * math.abs(exact))
  end)

  it("raises the failure with the lowest index, or takes on_error's numbers", function()
    local f = app:func(function(x)
      if x % 100 == 50 then error("which") end
      return x
    end)
    local first, good = nil, 0
    for i = 1, n do
      if xs[i] % 100 == 50 then first = first or i else good = math.max(good, xs[i]) end
    end
    assert.is_number(first)
    for _ = 1, 5 do
      local failure = support.failure_of(function() return (f:map(xs):sum()) end)
      assert.equal(first, failure.index)
      support.contains(failure.message, "which")
    end
    assert.equal(good, (on_device(f, function(r) return r:max() end, { on_error = function() return -1 end })))
  end)

  it("reduce runs its function there", function()
    local f, scale = app:func(function(x) return x end), 1
    local function larger(a, b)
      if a * scale > b * scale then return a end
      return b
    end
    local greatest = f:map(xs):max()
    assert.equal(greatest, (on_device(f, function(r) return r:reduce(larger, -math.huge) end)))
    assert.equal(greatest, (on_device(f, function(r) return r:reduce(math.max, -math.huge) end)))
    assert.equal(1e9, (on_device(f, function(r) return r:reduce(larger, 1e9) end)))
    scale = -1
    assert.equal(f:map(xs):min(), (on_device(f, function(r) return r:reduce(larger, math.huge) end)))
    assert.equal(106, f:map({ 1, 2, 3 }):reduce(function(a, b) return a + b end, 100))
  end)

  it("reduce has the same bits however late it is asked for", function()
    local f = app:func(function(x) return x / 100 end)
    local function log_of_sum(a, b)
      local most = math.max(a, b)
      return most + math.log(math.exp(a - most) + math.exp(b - most))
    end
    local expected = on_device(f, function(r) return r:reduce(log_of_sum, -1e300) end)
    for _ = 1, 3 do
      local results = f:map(xs)
      while not results:done() do tidepool.sleep(0.001) end
      assert.equal(expected, results:reduce(log_of_sum, -1e300))
      assert.is_nil(partial(results))
    end
  end)

  it("reduce needs a number to begin with", function()
    local _, why = pcall(function() return app:func(function(x) return x end):map({ 1, 2, 3 }):reduce(math.max) end)
    support.contains(why, "reductions_spec.lua:", "results:reduce: expected a number to begin with behind the function, as in :reduce(fn, 0)")
  end)

  it("reduce refuses what a device cannot do, and what depends on an order", function()
    local f = app:func(function(x) return x end)
    local function complaint(fn, g, list)
      local _, why = pcall(function() return (g or f):map(list or { 1, 2, 3 }):reduce(fn, 0) end)
      return tostring(why)
    end
    support.contains(complaint(function(a, b) return a .. b end), "reductions_spec.lua:", "in 'reduce'", "no strings on a device")
    support.contains(complaint(function(a) return a end), "takes 2 numbers")
    support.contains(complaint(function(a, b) return a < b end), "returns one number")
    support.contains(complaint(function(a, b)
      if a < b then error("less") end
      return a
    end), "cannot fail")
    support.contains(complaint(function(a, b) return a + b * b end), "must not matter", "fn(a, b) is 5 and fn(b, a) is 3", "loop over the results")
    support.contains(complaint(function(a, b) return a - b end), "must not matter")
    support.contains(complaint(function(a, b) return (a + b) / 2 end), "fn(fn(a, b), c)")
    support.contains(complaint(function(a, b) return a + b end, app:func(function(x) return x, x end)), "gives 2 results")
  end)
end) end

describe("a reduction", function()
  it("of what is no number says which result", function()
    local f = tidepool.App():func(function(x) return tostring(x) end)
    support.mistake(function()
      local sum = f:map({ 1 }):sum()
      return sum
    end, "results:sum is of numbers, but result 1 is the string")
    support.mistake(function()
      local sum = f:map({ 1 }):reduce(1)
      return sum
    end, "results:reduce: expected a function, got a number")
  end)
end)
