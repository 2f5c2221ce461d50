--- W5, W5b: formulas over typed arrays, against a hand-written pool of threads that runs the same
-- LuaJIT loop, and C with OpenMP.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(10000000, 100000)
  local app = tidepool.App("bench", { returns = "double" })
  local sin, cos, sqrt = math.sin, math.cos, math.sqrt
  local sincos = app:func(function(x) return sin(x) * cos(x) + sqrt(x) end)
  local square = app:func(function(x) return x * x end)
  local xs = tidepool.array("double", n)
  for i = 1, n do xs[i] = ((i - 1) % 1000) * 0.001 end

  --- ns per element of one map, and its checksum: the sum of every 997th result.
  local function run(f)
    collectgarbage()
    local start = tidepool.now()
    local results = f:map(xs):array()
    local ns = (tidepool.now() - start) / n * 1e9
    local sum = 0
    for i = 1, n, 997 do sum = sum + results[i] end
    return ns, sum
  end

  --- What floor_w5 prints: floors[formula][way] = { ns = , sum = }
  local function run_floor()
    local floors = { sincos = {}, square = {} }
    local text = bench.capture(("%s %d 2 3"):format(bench.binary():match "^(.*/)" .. "bench/floor_w5", n))
    for formula, way, ns, sum in text:gmatch "(%w+) (%w+) (%S+) (%S+)\n" do floors[formula][way] = { ns = tonumber(ns), sum = tonumber(sum) } end
    return floors
  end

  for _ = 1, 3 do run(sincos) run(square) end
  local seen = { sincos = { own = {} }, square = { own = {} } }
  local is_right = true
  for _ = 1, bench.quick and 1 or 7 do
    local floors = run_floor()
    for formula, f in pairs { sincos = sincos, square = square } do
      local ns, sum = run(f)
      table.insert(seen[formula].own, ns)
      for way, floor in pairs(floors[formula]) do
        seen[formula][way] = seen[formula][way] or { floor = {}, ratio = {} }
        table.insert(seen[formula][way].floor, floor.ns)
        table.insert(seen[formula][way].ratio, ns / floor.ns)
        is_right = is_right and math.abs(sum - floor.sum) <= 1e-9 * math.abs(floor.sum)
      end
    end
  end

  local function row(id, what, formula, way, way_is, limit)
    bench.figure {
      id = id, what = what, unit = "ns an element", is_right = is_right, floor_is = way_is, at_most_ratio = limit,
      figure = bench.median(seen[formula].own), floor = bench.median(seen[formula][way].floor), ratio = bench.median(seen[formula][way].ratio),
    }
  end
  local size = ("over %d doubles"):format(n)
  row("W5", "sin(x)*cos(x)+sqrt(x) " .. size, "sincos", "pool", "2 threads, the same Lua loop", 1.1)
  row("W5", "the same", "sincos", "openmp", "C with OpenMP", 1.5)
  row("W5b", "x*x " .. size, "square", "pool", "2 threads, the same Lua loop")
  row("W5b", "the same", "square", "openmp", "C with OpenMP", 1.3)
end
