--- What an operation on a Dict and on a Queue costs where nobody else uses them, beside a table:
-- here and on threads, and from a worker process, which has its host do it.

local tidepool = require "tidepool"

return function(bench)
  -- So few operations at once that most runs are not interrupted by what else the machine does.
  local n, few, runs = bench.size(4000, 1000), 100, bench.size(1000, 3)
  local dict, queue, plain = tidepool.Dict(), tidepool.Queue(), {}
  local app = tidepool.App("store", { executor = "processes" })
  local now, median = tidepool.now, bench.median

  -- run(n) and floor(n) do n operations and return sum_of(n).
  local function compare(what, sum_of, floor, run)
    bench.compare {
      id = "STO", what = what, unit = "us", per = n, at_most = 1, sum = function(sum) return sum == sum_of(n) end,
      floor_is = "a table", floor = function() return floor(n) end, run = function() return run(n) end,
    }
    local from_process = app:func(function()
      local times, is_right = {}, true
      for i = 1, runs do
        local from = now()
        is_right = run(few) == sum_of(few) and is_right
        times[i] = (now() - from) * 1e6 / few
      end
      return median(times), is_right
    end)
    local figure, is_right = from_process:remote()
    bench.figure { id = "STO", what = what .. ", from a process", unit = "us", figure = figure, is_right = is_right, at_most = 5 }
  end

  compare("dict:add", function(k) return k end, function(k)
    plain.n = 0
    for _ = 1, k do plain.n = plain.n + 1 end
    return plain.n
  end, function(k)
    dict:put("n", 0)
    for _ = 1, k do dict:add("n", 1) end
    return dict:get "n"
  end)
  compare("dict:put, get of strings", function(k) return k / 2 end, function(k)
    local found = 0
    for i = 1, k / 2 do
      plain[i % 100] = "text"
      found = found + (plain[i % 100] == "text" and 1 or 0)
    end
    return found
  end, function(k)
    local found = 0
    for i = 1, k / 2 do
      dict:put(i % 100, "text")
      found = found + (dict:get(i % 100) == "text" and 1 or 0)
    end
    return found
  end)
  compare("queue:put, get of numbers", function(k) return k / 2 * (k / 2 + 1) / 2 end, function(k)
    local sum = 0
    for i = 1, k / 2 do
      plain[#plain + 1] = i
      sum = sum + table.remove(plain)
    end
    return sum
  end, function(k)
    local sum = 0
    for i = 1, k / 2 do
      queue:put(i)
      sum = sum + queue:get()
    end
    return sum
  end)
end
