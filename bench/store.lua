--- What an operation on a Dict and on a Queue costs where nobody else uses them, beside a table:
-- here and on threads, and from a worker process, which has its host do it.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(200000, 5000)
  local dict, queue, plain = tidepool.Dict(), tidepool.Queue(), {}
  local app = tidepool.App("store", { executor = "processes" })
  local function compare(what, sum_of, floor, run)
    local function row(where, at_most, measured)
      bench.compare {
        id = "STO", what = what .. where, unit = "us", per = n, at_most = at_most, sum = function(sum) return sum == sum_of end,
        floor_is = "a table", floor = floor, run = measured,
      }
    end
    local from_process = app:func(run)
    row("", 1, run)
    row(", from a process", 5, function() return from_process:remote() end)
  end
  compare("dict:add", n, function()
    plain.n = 0
    for _ = 1, n do plain.n = plain.n + 1 end
    return plain.n
  end, function()
    dict:put("n", 0)
    for _ = 1, n do dict:add("n", 1) end
    return dict:get "n"
  end)
  compare("dict:put, get of strings", n / 2, function()
    local found = 0
    for i = 1, n / 2 do
      plain[i % 100] = "text"
      found = found + (plain[i % 100] == "text" and 1 or 0)
    end
    return found
  end, function()
    local found = 0
    for i = 1, n / 2 do
      dict:put(i % 100, "text")
      found = found + (dict:get(i % 100) == "text" and 1 or 0)
    end
    return found
  end)
  compare("queue:put, get of numbers", n / 2 * (n / 2 + 1) / 2, function()
    local sum = 0
    for i = 1, n / 2 do
      plain[#plain + 1] = i
      sum = sum + table.remove(plain)
    end
    return sum
  end, function()
    local sum = 0
    for i = 1, n / 2 do
      queue:put(i)
      sum = sum + queue:get()
    end
    return sum
  end)
end
