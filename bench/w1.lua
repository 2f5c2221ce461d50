--- W1, W1b: a tiny function over 100,000 numbers in a Lua table.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(100000, 5000)
  local square = tidepool.App "bench":func(function(x) return x * x end)
  local f = square.raw
  local xs = {}
  for i = 1, n do xs[i] = i end

  local function serial_list()
    local out = {}
    for i = 1, n do out[i] = f(xs[i]) end
    return out
  end

  local function sum(list)
    local s = 0
    for i = 1, n do s = s + list[i] * (i % 7) end
    return s
  end

  bench.compare {
    id = "W1", what = "map(100,000 numbers):list()", unit = "ns a call", per = n,
    at_most = 25, at_most_ratio = 3,
    floor = serial_list, floor_is = "serial loop into a table",
    run = function() return square:map(xs):list() end,
    sum = sum,
  }

  bench.compare {
    id = "W1b", what = "for i, r in map(100,000 numbers)", unit = "ns a call", per = n,
    at_most = 60,
    floor = function()
      local s = 0
      for i = 1, n do s = s + f(xs[i]) * (i % 7) end
      return s
    end,
    floor_is = "serial loop",
    run = function()
      local s = 0
      for i, r in square:map(xs) do s = s + r * (i % 7) end
      return s
    end,
  }
end
