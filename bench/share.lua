--- What a call costs of a function that uses 100,000 records: captured, unchanged and changed
-- before each call, and shared.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App "bench"
  local n, calls = bench.size(100000, 1000), 5 -- few: what is captured again and again is named on stderr
  local function make()
    local records = {}
    for i = 1, n do records[i] = { id = i, name = "record " .. i, share = i / n } end
    return records
  end
  local records, changing, changes = make(), make(), 0
  local shared = tidepool.share(records)
  local captured = app:func(function(i) return records[i].id end)
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
    floor_is = "captured", floor = run(captured), run = run(sharing),
  }
  bench.compare {
    id = "CAP", what = "a call that captures 100,000 records", unit = "us", per = calls,
    sum = function(sum) return sum == calls * (calls + 1) / 2 end,
    floor_is = "changed each time", run = run(captured),
    floor = function()
      local f, sum = app:func(function(i) return changing[i].id end), 0
      for i = 1, calls do
        changes = changes + 1
        changing[n].share = changes
        sum = sum + f:remote(i)
      end
      return sum
    end,
  }
end
