--- G: functions that leave garbage, of several kinds, against the plain loop: how often a worker's
-- state collects it (set_pause in host/workers/vm.c), and where it lies (host/base/heap.c).

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(200000, 2000)
  local app = tidepool.App "bench"

  local function compare(id, what, fn)
    local mapped = app:func(fn)
    bench.compare {
      id = id, what = what, unit = "ns a call", per = n, rounds = 5, warm_up = 1, floor_is = "plain loop",
      floor = function()
        local sum = 0
        for i = 1, n do sum = sum + fn(i) end
        return sum
      end,
      run = function() return mapped:map(tidepool.range(n)):sum() end,
    }
  end

  compare("G1", "20 short strings in each call", function(x)
    local sum = 0
    for i = 1, 20 do sum = sum + #(x .. ":" .. i) end
    return sum
  end)
  compare("G2", "a list of 20 pairs", function(x)
    local pairs_of = {}
    for i = 1, 20 do pairs_of[i] = { i, x } end
    return #pairs_of
  end)
  compare("G3", "20 closures", function(x)
    local list, sum = {}, 0
    for i = 1, 20 do list[i] = function() return i + x end end
    for i = 1, 20 do sum = sum + list[i]() end
    return sum
  end)
  compare("G4", "two small tables", function(x)
    local record = { a = x, b = { x } }
    return record.b[1]
  end)
end
