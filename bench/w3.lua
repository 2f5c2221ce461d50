--- W3, W3b: tasks that compute for some time: how near to two processors two workers come.

local tidepool = require "tidepool"

return function(bench)
  local burn, steps_per_s = bench.burner()
  local task = tidepool.App "bench":func(burn)

  --- Tasks of so many seconds each, against the serial loop.
  local function compare(row, seconds)
    local n, steps, seeds = #seconds, {}, {}
    for i = 1, n do steps[i], seeds[i] = math.max(1, math.floor(seconds[i] * steps_per_s)), i end
    row.unit, row.floor_is = "s", "serial loop"
    row.floor = function()
      local out = {}
      for i = 1, n do out[i] = burn(steps[i], seeds[i]) end
      return out
    end
    row.run = function() return task:map(steps, seeds):list() end
    row.sum = function(list)
      local s = 0
      for i = 1, n do s = s + list[i] * (i % 7) end
      return s
    end
    bench.compare(row)
  end

  local even, uneven, short = {}, {}, {}
  for i = 1, 64 do
    even[i] = bench.size(0.050, 0.0005)
    uneven[i] = bench.size(0.050, 0.0005) * i / 64
  end
  for i = 1, bench.size(2000, 200) do short[i] = 20e-6 end
  compare({ id = "W3", what = "64 tasks of 50 ms", at_least_speedup = 1.95, rounds = 3, warm_up = 0 }, even)
  compare({ id = "W3", what = "64 tasks, the i-th takes i x 0.8 ms", at_least_speedup = 1.9, rounds = 5, warm_up = 0 }, uneven)
  compare({ id = "W3b", what = "2,000 tasks of 20 us", at_least_speedup = 1.8 }, short)
end
