--- W9: endless inputs, read one by one: memory stays small. The figure is the peak of this process,
-- which does nothing else.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(10000000, 200000)
  local square = tidepool.App "bench":func(function(x) return x * x end)
  local function generator()
    local i = 0
    return function()
      i = i + 1
      if i <= n then return i end
    end
  end

  local start, sum = tidepool.now(), 0
  for i, r in square:map(generator()) do sum = sum + r * (i % 7) end
  local seconds = tidepool.now() - start

  local expected = 0
  for i = 1, n do expected = expected + i * i * (i % 7) end
  if sum ~= expected then error("W9: the results are wrong", 0) end
  bench.figure { id = "W9", what = "10,000,000 inputs of a generator: peak memory", unit = "MiB", at_most = 64,
    figure = bench.kib("/proc/self/status", "VmHWM") / 1024, is_right = true }
  bench.figure { id = "W9", what = "the same: time", unit = "ns an input", figure = seconds * 1e9 / n, is_right = true }
end
