--- What a batched function is worth whose batch of 64 costs as much as one input: its inputs one by
-- one, in a map, and in calls of many tasks. That is 64 times as fast at best, less what the calls
-- themselves cost the script; 50 is wanted.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App "bench"
  local n, cost_s = bench.size(640, 128), 0.01
  local function wait(x)
    tidepool.sleep(cost_s)
    return x
  end
  local single, batched = app:func { concurrency_limit = 1 } (wait), app:func { concurrency_limit = 1, batched = 64 } (wait)
  local function total(values)
    local sum = 0
    for i = 1, n do sum = sum + values[i] end
    return sum
  end
  local function map(f)
    return function() return total(f:map(tidepool.range(n)):list()) end
  end
  for _, how in ipairs { "a map", "single calls of tasks" } do
    bench.compare {
      id = "BAT", what = ("batches of 64, %s"):format(how), unit = "us", per = n, rounds = 3, at_least_speedup = 50,
      sum = function(sum) return sum == n * (n + 1) / 2 end,
      floor_is = "one by one", floor = map(single),
      run = how == "a map" and map(batched) or function()
        local tasks = {}
        for i = 1, n do tasks[i] = tidepool.async(function() return batched:remote(i) end) end
        return total(tidepool.gather(tasks))
      end,
    }
  end
end
