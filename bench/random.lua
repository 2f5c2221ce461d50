--- What a draw of math.random costs in a mapped function, on one thread: among many draws of an
-- item, and alone, where an item's stream is made for it.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App("bench", { executor = "inline" })
  local random = math.random

  -- The results are other numbers than the floors': what is compared is whether they are as large
  -- as they have to be.
  local function is_right(n)
    return function(sum) return math.abs(sum - n / 2) < 6 * math.sqrt(n / 12) end
  end

  local items, draws = bench.size(2000, 20), 1000
  local many = app:func(function()
    local sum = 0
    for _ = 1, draws do sum = sum + random() end
    return sum
  end)
  bench.compare {
    id = "RND", what = "math.random(), 1,000 draws an item", unit = "ns a draw", per = items * draws, at_most = 10,
    sum = is_right(items * draws),
    floor_is = "LuaJIT's in a serial loop",
    floor = function()
      local sum = 0
      for _ = 1, items * draws do sum = sum + random() end
      return sum
    end,
    run = function() return many:map(tidepool.range(items)):sum() end,
  }

  local n = bench.size(1000000, 20000)
  local one = app:func(function() return random() end)
  local half = app:func(function() return 0.5 end)
  bench.compare {
    id = "RND1", what = "math.random(), 1 draw an item", unit = "ns an item", per = n,
    sum = is_right(n),
    floor_is = "the same map without a draw",
    floor = function() return half:map(tidepool.range(n)):sum() end,
    run = function() return one:map(tidepool.range(n)):sum() end,
  }

  local stream = tidepool.random(1)
  bench.compare {
    id = "RND2", what = "tidepool.random(seed), by hand", unit = "ns a draw", per = n, at_most = 10,
    sum = is_right(n),
    floor_is = "LuaJIT's",
    floor = function()
      local sum = 0
      for _ = 1, n do sum = sum + random() end
      return sum
    end,
    run = function()
      local sum = 0
      for _ = 1, n do sum = sum + stream() end
      return sum
    end,
  }
end
