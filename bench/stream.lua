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
  end
end
