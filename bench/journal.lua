--- J: what a journal costs: recording small results, beside items that take 10 ms, giving a
-- finished run again, and bytes. Processor time is that of all threads of the process: it says the
-- same on a machine that others use, too.

local journal = require "tidepool.engine.journal"
local tidepool = require "tidepool"

return function(bench)
  journal.configure(nil, false, true) -- no lines of account
  local app = tidepool.App "bench"
  local dir = bench.capture("mktemp -d"):match "%S+"
  local path, made = nil, 0
  local function new_file()
    if path then os.execute(("rm -f '%s'*"):format(path)) end
    made = made + 1
    path = ("%s/%d.db"):format(dir, made)
    return path
  end

  --- The processor time of a run, and of another, in turns; medians, in seconds.
  local function processor_time(run, floor)
    local runs, floors = {}, {}
    for i = 1, bench.size(5, 1) do
      local begun = os.clock()
      floor()
      local between = os.clock()
      run()
      runs[i], floors[i] = os.clock() - between, between - begun
    end
    return bench.median(runs), bench.median(floors)
  end

  local fine, why = pcall(function()
    local small, n = app:func(function(x) return x * 2 end), bench.size(100000, 2000)
    local function unrecorded() return small:map(tidepool.range(n)):sum() end
    local function recorded() return small:map(tidepool.range(n), { journal = new_file() }):sum() end
    bench.compare {
      id = "J1", what = "a small result, recorded", unit = "us an input", per = n, at_most = 5,
      floor_is = "the same map without a journal", floor = unrecorded, run = recorded,
    }
    local seconds, without = processor_time(recorded, unrecorded)
    bench.figure { id = "J1p", what = "processor time of that", unit = "us an input", figure = seconds / n * 1e6, floor = without / n * 1e6,
      floor_is = "the same map without a journal", is_right = true }

    -- Before the last connection has gone the rows are beside the file; the map has closed it.
    local size = assert(tonumber(bench.capture(("stat -c %%s '%s'"):format(path))))
    bench.figure { id = "J2", what = "the file, without the values themselves", unit = "bytes an input", figure = size / n - 16, at_most = 100,
      is_right = true }

    local burn, speed = bench.burner()
    local items, steps = bench.size(100, 4), math.floor(speed / 100)
    local slow = app:func(function(seed) return burn(steps, seed) end)
    unrecorded = function() return slow:map(tidepool.range(items)):sum() end
    recorded = function() return slow:map(tidepool.range(items), { journal = new_file() }):sum() end
    bench.compare {
      id = "J3", what = "items of 10 ms, recorded", unit = "ms an item", per = items, at_most_ratio = 1.03, seconds = 10,
      floor_is = "the same map without a journal", floor = unrecorded, run = recorded,
    }
    seconds, without = processor_time(recorded, unrecorded)
    bench.figure { id = "J3p", what = "processor time of that", unit = "ms an item", figure = seconds / items * 1e3, floor = without / items * 1e3,
      floor_is = "the same map without a journal", at_most_ratio = 1.03, is_right = true }

    local many = bench.size(1000000, 5000)
    local finished = new_file()
    local sum = small:map(tidepool.range(many), { journal = finished }):sum()
    unrecorded = function() return small:map(tidepool.range(many)):sum() end
    recorded = function() return small:map(tidepool.range(many), { journal = finished }):sum() end
    bench.compare {
      id = "J4", what = "a finished run of a million numbers, again", unit = "s", at_most = 2, rounds = 5,
      floor_is = "the same map without a journal", sum = function(s) return s == sum end, floor = unrecorded, run = recorded,
    }
    seconds, without = processor_time(recorded, unrecorded)
    bench.figure { id = "J4p", what = "processor time of that", unit = "s", figure = seconds, floor = without,
      floor_is = "the same map without a journal", is_right = true }
  end)
  os.execute(("rm -rf '%s'"):format(dir))
  if not fine then error(why, 0) end
end
