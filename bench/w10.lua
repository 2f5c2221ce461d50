--- W10: two maps at once, one of tasks of 1 s, one of tasks of 10 us: the long ones must not starve the short ones.

local tidepool = require "tidepool"

return function(bench)
  local burn, steps_per_s = bench.burner()
  local app = tidepool.App "bench"
  local long, short = app:func { name = "long" } (burn), app:func { name = "short" } (burn)
  local n = bench.size(150000, 500)
  local long_s = bench.size(1, 0.02)
  local steps, long_steps = {}, {}
  for i = 1, n do steps[i] = math.floor(10e-6 * steps_per_s) end
  for i = 1, tidepool.workers() * 3 do long_steps[i] = math.floor(long_s * steps_per_s) end

  local expected = 0
  for i = 1, n do expected = expected + burn(steps[i], 1) * (i % 7) end

  local ones = {}
  for i = 1, n do ones[i] = 1 end
  local function throughput()
    local start = tidepool.now()
    local list = short:map(steps, ones):list()
    local seconds = tidepool.now() - start
    local sum = 0
    for i = 1, n do sum = sum + list[i] * (i % 7) end
    if sum ~= expected then error("W10: the results are wrong", 0) end
    return n / seconds
  end

  throughput()
  local ones_long = {}
  for i = 1, #long_steps do ones_long[i] = 1 end
  for _, before_s in ipairs { 0, bench.size(0.2, 0.005) } do
    local alone, beside, shares = {}, {}, {}
    for round = 1, bench.size(3, 1) do
      alone[round] = throughput()
      local other = long:spawn_map(long_steps, ones_long)
      local until_s = tidepool.now() + before_s
      while tidepool.now() < until_s do bench.capture "sleep 0.01" end
      beside[round] = throughput()
      other:cancel()
      pcall(other.list, other)
      -- Those that run cannot be stopped: wait for them.
      while long:stats().running > 0 do bench.capture "sleep 0.01" end
      shares[round] = beside[round] / alone[round]
    end
    bench.figure {
      id = "W10", what = before_s == 0 and "10 us tasks beside 1 s tasks, begun together" or "the same, the 1 s tasks begun before",
      unit = "1,000/s", figure = bench.median(beside) / 1000, floor = bench.median(alone) / 1000, floor_is = "alone",
      ratio = bench.median(shares), at_least_ratio = 0.4, is_right = true,
    }
  end
end
