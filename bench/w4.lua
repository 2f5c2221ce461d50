--- W4: large strings in, reversed out.

local tidepool = require "tidepool"

return function(bench)
  local n, size = bench.size(64, 8), bench.size(2 ^ 20, 2 ^ 14)
  local reverse = tidepool.App "bench":func(function(s) return s:reverse() end)
  local strings = {}
  for i = 1, n do strings[i] = ("%08d"):format(i):rep(size / 8) end

  bench.compare {
    id = "W4", what = "64 strings of 1 MiB, reversed", unit = "ms", at_least_speedup = 1.2, rounds = 15,
    floor_is = "serial loop into a table",
    floor = function()
      local f, out = reverse.raw, {}
      for i = 1, n do out[i] = f(strings[i]) end
      return out
    end,
    run = function() return reverse:map(strings):list() end,
    sum = function(list)
      local s = 0
      for i = 1, n do
        local x = list[i]
        s = s + (#x + tonumber(x:sub(1, 8):reverse()) + tonumber(x:sub(-8):reverse())) * i
      end
      return s
    end,
  }
end
