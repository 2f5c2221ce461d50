--- G1 to G8: Lua functions on an OpenCL device (gpu = true: the best that is there), against the
-- same functions on the worker threads, against C with OpenMP (bench/floor_gpu.c) and against
-- PyOpenCL on the same device (bench/floor_pyopencl.py; "not installed" where it is not;
-- $TIDEPOOL_PYTHON is the python3 that has it). Programs are compiled before anything is timed.
-- Without a device there are no rows.

local tidepool = require "tidepool"

return function(bench)
  if #tidepool.devices() == 0 then return end
  local device = tidepool.devices()[1].type
  local app, threads = tidepool.App("gpu", { gpu = true }), tidepool.App "threads"
  local sin, cos, sqrt, floor, exp, log, abs = math.sin, math.cos, math.sqrt, math.floor, math.exp, math.log, math.abs

  local function sample(results)
    local sum = 0
    for i = 1, #results, 997 do sum = sum + results[i] end
    return sum
  end

  local function time(run, is_short)
    if not is_short then
      collectgarbage()
      collectgarbage()
    end
    local start = tidepool.now()
    local result = run()
    return tidepool.now() - start, result
  end

  --- Measures row.run against processes of their own, in turns: row.others is a list of { floor_is,
  -- command, at_most_ratio }; the command prints its milliseconds for a run, and a checksum if it
  -- has one, which row.check makes of a result; or that something is not installed.
  local function versus(row)
    row.run()
    for _, other in ipairs(row.others) do
      local figures, floors, ratios = {}, {}, {}
      local expected, got, missing
      for round = 1, bench.quick and 1 or 7 do
        local text = bench.capture(other.command)
        local ms, check = text:match "^(%S+) ?(%S*)"
        floors[round], expected = tonumber(ms), tonumber(check)
        if not floors[round] then
          missing = text:match "^[^\n]*"
          break
        end
        local some = {}
        time(row.run, row.times) -- as the others do before they are timed
        for k = 1, row.times or 3 do
          local s, result = time(row.run, row.times)
          some[k] = s * 1e3
          if expected then got = row.check(result) end
        end
        figures[round] = bench.median(some)
        ratios[round] = figures[round] / floors[round]
      end
      if expected and not (abs(got - expected) <= 1e-8 * abs(expected)) then
        error(("%s: the results are wrong: %.17g instead of %.17g"):format(row.id, got, expected), 0)
      end
      if missing then
        figures = { 0 }
        for k = 1, 3 do figures[k] = time(row.run) * 1e3 end
        local what = ("%s; no floor: %s: %s"):format(row.what, other.floor_is, missing)
        bench.figure { id = row.id, what = what, unit = "ms", figure = bench.median(figures), is_right = true }
      else
        bench.figure {
          id = row.id, what = row.what, unit = "ms", figure = bench.median(figures), floor = bench.median(floors), ratio = bench.median(ratios),
          floor_is = other.floor_is, at_most_ratio = other.at_most_ratio, is_right = true,
        }
      end
    end
  end

  local folder = bench.binary():match "^(.*/)" .. "bench/"
  local function openmp(what, size, most, floor_is)
    return { floor_is = floor_is or "C with OpenMP, -O3", at_most_ratio = most, command = ("%sfloor_gpu %s %d"):format(folder, what, size) }
  end
  local python = os.getenv "TIDEPOOL_PYTHON" or "python3"
  local function pyopencl(what, size, most, rounds)
    return { floor_is = "PyOpenCL", at_most_ratio = most,
      command = ("%s bench/floor_pyopencl.py %s %d %d 2>/dev/null || echo 'failed'"):format(python, what, size, rounds or 3) }
  end

  local n = bench.size(10000000, 100000)
  local xs, singles = tidepool.array("double", n), tidepool.array("float", n)
  for i = 1, n do xs[i] = ((i - 1) % 1000) * 0.001 end
  for i = 1, n do singles[i] = xs[i] end
  local function sincos(x) return sin(x) * cos(x) + sqrt(x) end
  local function line(x) return 2 * x + 1 end

  local double, single, straight, same = app:func({}, sincos), app:func({ precision = "single" }, sincos), app:func({}, line),
    app:func({}, function(x) return x end)
  local sincos_what = ("sin(x)*cos(x)+sqrt(x) over %d doubles on a %s"):format(n, device)
  versus {
    id = "G1", what = sincos_what, check = sample, run = function() return double:map(xs):array() end,
    others = { pyopencl("sincos", n, 0.25), openmp("sincos", n) },
  }
  versus {
    id = "G1s", what = "the same in single precision, floats", run = function() return single:map(singles):array() end,
    others = { pyopencl("sincos_single", n, 0.12) },
  }
  versus {
    id = "G2", what = ("2*x+1 over %d doubles, array to array"):format(n), check = sample, run = function() return straight:map(xs):array() end,
    others = { openmp("line", n, 1.2), openmp("line_apart", n, nil, "the same, into another array"), pyopencl("line", n, 0.1) },
  }
  versus {
    id = "G7", what = ("the sum of %d doubles"):format(n), check = function(result) return result end, run = function() return same:map(xs):sum() end,
    others = { openmp("sum", n, 1.1), pyopencl("sum", n) },
  }
  local plain_sincos = threads:func({ returns = "double" }, sincos)
  bench.compare {
    id = "G1", what = sincos_what, unit = "ms", run = function() return double:map(xs):array() end,
    sum = function(r) return ("%.9g"):format(sample(r)) end,
    floor_is = "worker threads, the same function", floor = function() return plain_sincos:map(xs):array() end,
  }

  local function power(x) return (x + 1) ^ 1.7 end
  local powers, plain_powers = app:func({}, power), threads:func({ returns = "double" }, power)
  bench.compare {
    id = "G8", what = ("(x + 1) ^ 1.7 over %d doubles"):format(n), unit = "ms", run = function() return powers:map(xs):array() end,
    sum = function(r) return ("%.9g"):format(sample(r)) end,
    floor_is = "worker threads, the same function", floor = function() return plain_powers:map(xs):array() end,
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
  local function all_pixels(results)
    local sum = 0
    for i = 1, #results do sum = (sum * 31 + results[i]) % 2147483647 end
    return sum
  end
  local picture = ("mandelbrot %d x %d, 256 iterations, identical pixels"):format(size, size)
  versus { id = "G3", what = picture, check = all_pixels, run = function() return draw:map(pixels):array() end,
    others = { openmp("mandelbrot", size, 0.45) } }
  bench.compare {
    id = "G3", what = picture, unit = "ms", at_most_ratio = 0.3, run = function() return draw:map(pixels):array() end, sum = all_pixels,
    floor_is = "worker threads, the same function", floor = function() return plain:map(pixels):array() end,
  }

  local options = bench.size(4000000, 40000)
  local spots, strikes, years = xs:slice(1, options), tidepool.array("double", options), tidepool.array("double", options)
  for i = 1, options do strikes[i], years[i] = 1 + (i - 1) % 991 * 0.1, 0.25 + (i - 1) % 97 * 0.1 end
  local function normal(v)
    local k = 1 / (1 + 0.2316419 * abs(v))
    local tail = exp(-0.5 * v * v) / 2.5066282746310002
      * (k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978 + k * 1.330274429)))))
    return v < 0 and tail or 1 - tail
  end
  local rate, volatility = 0.02, 0.3
  local price = app:func({}, function(spot, strike, t)
    local spread = volatility * sqrt(t)
    local d1 = (log(spot / strike) + (rate + 0.5 * volatility * volatility) * t) / spread
    local d2 = d1 - spread
    local paid = strike * exp(-rate * t)
    return spot * normal(d1) - paid * normal(d2), paid * normal(-d2) - spot * normal(-d1)
  end)
  versus {
    id = "G6", what = ("Black-Scholes, %d options, calls and puts"):format(options),
    run = function() return { price:map(spots, strikes, years):array() } end,
    check = function(both) return sample(both[1]) + sample(both[2]) end, others = { openmp("prices", options, 0.3) },
  }

  local list = {}
  for i = 1, 1000 do list[i] = i end
  local twice = app:func({}, line)
  local function repeated(run)
    return function()
      local results
      for _ = 1, 20 do results = run() end
      return results
    end
  end
  bench.compare {
    id = "G4", what = "a map of 1000 numbers, table to table, one after the other", unit = "us", per = 20, at_most = 60,
    run = repeated(function() return twice:map(list):list() end),
    floor_is = "the plain loop", floor = repeated(function()
      local results = {}
      for i = 1, #list do results[i] = line(list[i]) end
      return results
    end),
    sum = sample,
  }
  versus {
    id = "G4", what = "a map of 1000 numbers, table to table", run = function() return twice:map(list):list() end,
    others = { pyopencl("small", 1000, 0.3, 201), { floor_is = "bare OpenCL, 50 us apart", command = folder .. "floor_opencl 1000 1000 50" } },
    times = 201,
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
