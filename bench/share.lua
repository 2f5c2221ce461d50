--- What a call costs of a function that uses 100,000 records: captured as they are, and shared.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App "bench"
  local n, calls = bench.size(100000, 1000), 5 -- few: what is captured again and again is named on stderr
  local records = {}
  for i = 1, n do records[i] = { id = i, name = "record " .. i, share = i / n } end
  local shared = tidepool.share(records)
  local function capturing() return app:func(function(i) return records[i].id end) end -- a new one: its image is not there yet
  local sharing = app:func(function(i) return shared()[i].id end)

  local function run(f)
    return function()
      local sum = 0
      for i = 1, calls do sum = sum + f:remote(i) end
      return sum
    end
  end
  bench.compare {
    id = "SHR", what = "a call that uses 100,000 shared records", unit = "us", per = calls,
    sum = function(sum) return sum == calls * (calls + 1) / 2 end,
    floor_is = "captured", floor = function() return run(capturing())() end, run = run(sharing),
  }
end
