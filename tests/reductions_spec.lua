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
      assert.equal("init", f:map({}):reduce(function() return 1 end, "init"))
    end)

    it("are the same whatever the blocks are", function()
      local n = 50003
      local a = tidepool.array("double", n)
      for i = 1, n do a[i] = i end
      local sums = {}
      for i = 1, n do sums[i % 8] = (sums[i % 8] or 0) + i / 3 end
      local expected = ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]))
      assert.equal(expected, f:map(a):sum())
      assert.equal(expected, f:map(tidepool.range(n)):sum())
      local i = 0
      assert.equal(expected, f:map(function()
        i = i + 1
        return i <= n and i or nil
      end):sum())
    end)

    it("reduce folds the results in their order", function()
      local text = f:map({ 3, 6, 9 }):reduce(function(sum, x) return sum .. x .. ";" end, "")
      assert.equal("1;2;3;", text)
      local both = app:func(function(x) return x, 2 * x end)
      assert.equal(18, both:map({ 1, 2, 3 }):reduce(function(sum, x, y) return sum + x + y end, 0))
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
