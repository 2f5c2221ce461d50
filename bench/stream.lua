--- What a value costs that a generator gives while it runs, beside one of a plain coroutine.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(20000, 1000)
  local function count(to)
    for i = 1, to do coroutine.yield(i) end
  end
  local function total(values)
    local sum = 0
    for v in values do sum = sum + v end
    return sum
  end
  for _, executor in ipairs { "threads", "processes" } do
    local counting = tidepool.App("bench", { executor = executor }):func(count)
    bench.compare {
      id = "STR", what = ("a value of a stream, %s"):format(executor), unit = "us", per = n,
      sum = function(sum) return sum == n * (n + 1) / 2 end,
      floor_is = "a coroutine", floor = function() return total(coroutine.wrap(function() count(n) end)) end,
      run = function() return total(counting:stream(n)) end,
    }
    local each, inputs = n / 100, {}
    for i = 1, 100 do inputs[i] = each end
    bench.compare {
      id = "STR", what = ("a value of 100 inputs of a flat_map, %s"):format(executor), unit = "us", per = n,
      sum = function(sum) return sum == 100 * each * (each + 1) / 2 end,
      floor_is = "coroutines", floor = function()
        local sum = 0
        for i = 1, 100 do sum = sum + total(coroutine.wrap(function() count(inputs[i]) end)) end
        return sum
      end,
      run = function()
        local sum = 0
        for _, v in counting:flat_map(inputs) do sum = sum + v end
        return sum
      end,
    }
  end
end
