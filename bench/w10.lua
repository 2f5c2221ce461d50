--- W10: two maps at once, one of tasks of 1 s, one of tasks of 10 us: the long ones must not starve
-- the short ones.
--
-- The long ones begin first and have all workers, and nothing can be taken from a worker thread
-- that runs a task: the short ones wait until a long one ends. So the share is given twice: as it
-- is once both run, from the first result on, and over the first seconds with that wait in it.

local tidepool = require "tidepool"

return function(bench)
  local burn, steps_per_s = bench.burner()
  local app = tidepool.App "bench"
  local now = tidepool.now
  local steps, long_steps = math.floor(10e-6 * steps_per_s), math.floor(bench.size(1, 0.02) * steps_per_s)
  local expected = burn(steps, 1)
  local short = app:func { name = "short" } (function() return burn(steps, 1) end)
  local long = app:func { name = "long" } (function(seed) return burn(long_steps, seed) end)

  --- Items per second of an endless map, over so many seconds from its first result on, and over
  -- all of its time; and how long the first result took.
  local function throughput(seconds)
    local start, first, count = now(), nil, 0
    for _, r in short:map(tidepool.range(math.huge)) do
      if r ~= expected then error("W10: the results are wrong", 0) end
      if not first then first = now() end
      count = count + 1
      if count % 64 == 0 and now() - first >= seconds then break end
    end
    local stop = now()
    collectgarbage() -- ends the map
    while short:stats().running > 0 do bench.capture "sleep 0.01" end
    return count / (stop - first), count / (stop - start), first - start
  end

  throughput(bench.size(0.2, 0.001))
  local alone, beside, whole, shares, whole_shares, waits = {}, {}, {}, {}, {}, {}
  for round = 1, bench.size(3, 1) do
    alone[round] = throughput(bench.size(1, 0.002))
    local other = long:spawn_map(tidepool.range(1000))
    while long:stats().running < tidepool.workers() do bench.capture "sleep 0.001" end
    beside[round], whole[round], waits[round] = throughput(bench.size(4, 0.02))
    shares[round], whole_shares[round] = beside[round] / alone[round], whole[round] / alone[round]
    other:cancel()
    pcall(other.list, other)
    while long:stats().running > 0 do bench.capture "sleep 0.01" end
  end
  local function give(what, figures, ratios)
    bench.figure { id = "W10", what = what, unit = "1,000/s", figure = bench.median(figures) / 1000, floor = bench.median(alone) / 1000,
      floor_is = "alone", ratio = bench.median(ratios), at_least_ratio = 0.4, is_right = true }
  end
  give("10 us tasks beside 1 s tasks, once both run", beside, shares)
  give("the same, the first 5 s, with the wait", whole, whole_shares)
  bench.figure { id = "W10", what = "the wait: their first result", unit = "ms", figure = bench.median(waits) * 1000, is_right = true }
end
