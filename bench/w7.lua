--- W7, W8: how long one call takes that does next to nothing.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App "bench"
  local add = app:func(function(x) return x + 1 end)
  local now = tidepool.now

  local function latencies(n, call)
    local list = {}
    for i = 1, n do
      local start = now()
      local got = call(i)
      list[i] = (now() - start) * 1e6
      if got ~= i + 1 then error(("%s instead of %d"):format(tostring(got), i + 1), 0) end
    end
    return list
  end

  local n = bench.size(20000, 200)
  latencies(bench.size(2000, 20), function(i) return (add:remote(i)) end)
  collectgarbage()
  local remote = latencies(n, function(i) return (add:remote(i)) end)
  bench.figure { id = "W7", what = "remote round trip, back to back: median", unit = "us", figure = bench.median(remote), at_most = 5,
    is_right = true }
  bench.figure { id = "W7", what = "the same: 99 % are within", unit = "us", figure = bench.percentile(remote, 0.99), at_most = 60,
    is_right = true }

  local function map_one(i) return add:map({ i }):list()[1] end
  latencies(bench.size(2000, 20), map_one)
  collectgarbage()
  local plain = latencies(n, function(i) return (add.raw(i)) end)
  local one = latencies(n, map_one)
  bench.figure { id = "W8", what = "map of 1 input, over the call: median", unit = "us",
    figure = bench.median(one) - bench.median(plain), at_most = 10, is_right = true }
end
