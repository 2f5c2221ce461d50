--- G1 to G5: Lua functions on an OpenCL device (gpu = true: the best that is there), against the same functions on the worker threads, and C with
-- OpenMP. Programs are compiled before anything is timed. Without a device there are no rows.

local tidepool = require "tidepool"

return function(bench)
  if #tidepool.devices() == 0 then return end
  local device = tidepool.devices()[1].type
  local app, threads = tidepool.App("gpu", { gpu = true }), tidepool.App "threads"
  local n = bench.size(10000000, 100000)
  local xs = tidepool.array("double", n)
  for i = 1, n do xs[i] = ((i - 1) % 1000) * 0.001 end

  local function sample(results)
    local sum = 0
    for i = 1, #results, 997 do sum = sum + results[i] end
    return ("%.9g"):format(sum)
  end

  local sin, cos, sqrt, floor = math.sin, math.cos, math.sqrt, math.floor
  local function sincos(x) return sin(x) * cos(x) + sqrt(x) end
  local function line(x) return 2 * x + 1 end

  --- A formula over all numbers on the device and on the threads.
  local function formula(id, what, fn, options, most)
    local on_device, on_threads = app:func(options, fn), threads:func({ returns = "double" }, fn)
    bench.compare {
      id = id, what = ("%s over %d doubles on a %s"):format(what, n, device), unit = "ns an element", per = n, at_most_ratio = most,
      run = function() return on_device:map(xs):array() end,
      floor_is = "worker threads, the same function", floor = function() return on_threads:map(xs):array() end,
      sum = not options.precision and sample or function(results) return #results end,
    }
  end
  formula("G1", "sin(x)*cos(x)+sqrt(x)", sincos, {})
  formula("G1s", "the same in single precision", sincos, { precision = "single" })
  formula("G2", "2*x+1", line, {})

  -- The same against C with OpenMP, in processes of its own.
  local on_device = app:func({}, sincos)
  local figures, floors, ratios = {}, {}, {}
  for round = 1, bench.quick and 1 or 7 do
    local text = bench.capture(("%s %d 2 3"):format(bench.binary():match "^(.*/)" .. "bench/floor_w5", n))
    floors[round] = tonumber(text:match "sincos openmp (%S+)")
    collectgarbage()
    local start = tidepool.now()
    local results = on_device:map(xs):array() -- luacheck: ignore
    figures[round] = (tidepool.now() - start) / n * 1e9
    ratios[round] = figures[round] / floors[round]
    results = nil -- luacheck: ignore
  end
  bench.figure {
    id = "G1", what = "sin(x)*cos(x)+sqrt(x)", unit = "ns an element", figure = bench.median(figures), floor = bench.median(floors),
    ratio = bench.median(ratios), floor_is = "C with OpenMP", is_right = true,
  }

  local size = bench.size(2048, 128)
  local function escape(i)
    local column, row = i % size, floor(i / size)
    local cx, cy = column / size * 3 - 2.25, row / size * 3 - 1.5
    local x, y = 0, 0
    for k = 1, 256 do
      local xx, yy = x * x, y * y
      if xx + yy > 4 then return k end
      x, y = xx - yy + cx, 2 * x * y + cy
    end
    return 0
  end
  local pixels = tidepool.array("double", size * size)
  for i = 1, #pixels do pixels[i] = i - 1 end
  local draw, plain = app:func({ returns = "int32" }, escape), threads:func({ returns = "int32" }, escape)
  bench.compare {
    id = "G3", what = ("mandelbrot %d x %d, 256 iterations, identical pixels"):format(size, size), unit = "ms", at_most_ratio = 0.3,
    run = function() return draw:map(pixels):array() end,
    floor_is = "worker threads, the same function", floor = function() return plain:map(pixels):array() end,
    sum = function(results)
      local sum = 0
      for i = 1, #results do sum = (sum * 31 + results[i]) % 2147483647 end
      return sum
    end,
  }

  local list = {}
  for i = 1, 1000 do list[i] = i end
  local double = app:func({}, line)
  local function repeated(run)
    return function()
      local results
      for _ = 1, 20 do results = run() end
      return results
    end
  end
  bench.compare {
    id = "G4", what = "a map of 1000 numbers, table to table, one after the other", unit = "us", per = 20, at_most = 60,
    run = repeated(function() return double:map(list):list() end),
    floor_is = "the plain loop", floor = repeated(function()
      local results = {}
      for i = 1, #list do results[i] = line(list[i]) end
      return results
    end),
    sum = sample,
  }

  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write 'print(require "tidepool".App():func({ gpu = true }, function(x) return 2 * x + 1 end):map({ 1, 2 }):list()[2])\n'
  file:close()
  local empty = os.tmpname()
  bench.compare {
    id = "G5", what = "process start to the first result, programs kept on disk", unit = "ms", at_most = 40,
    run = function() return bench.capture(("%s %s"):format(bench.binary(), path)) end,
    floor_is = "an empty script", floor = function() return bench.capture(("%s %s; echo 5"):format(bench.binary(), empty)) end,
  }
  os.remove(path)
  os.remove(empty)
end
