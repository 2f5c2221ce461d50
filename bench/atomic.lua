--- What changing an element of an array in one step costs, on one thread, and what it costs to do
-- so with all workers at once.

local tidepool = require "tidepool"

return function(bench)
  -- few enough that most runs are not interrupted by what else the machine does
  local n = bench.size(100000, 50000)
  for _, name in ipairs { "int64", "double" } do
    local counts = tidepool.array(name, 256)
    local function total()
      local sum = tonumber(counts:sum())
      counts:fill(0)
      return sum
    end
    bench.compare {
      id = "ATM", what = ("array:add, %s, one thread"):format(name), unit = "ns", per = n, at_most = 10,
      sum = function(sum) return sum == n end,
      floor_is = "counts[k] = counts[k] + 1",
      floor = function()
        for i = 1, n do
          local k = i % 256 + 1
          counts[k] = counts[k] + 1
        end
        return total()
      end,
      run = function()
        for i = 1, n do counts:add(i % 256 + 1, 1) end
        return total()
      end,
    }
  end
end
