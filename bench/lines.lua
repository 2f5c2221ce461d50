--- L: lines of a file, with a field taken out of each by a pattern: f:map(tidepool.lines(file))
-- against the plain loop, `tidepool map` for short results, and the memory that they take.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(2000000, 20000)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  for i = 0, n - 1 do
    file:write(("2024-01-02T03:04:05 host%d app[%d]: GET /x/y/%d bytes=%d time=0.%d\n"):format(i % 50, i, i * 7 % 1000, i % 5000, i % 1000))
  end
  file:close()

  local function field(line) return tonumber(line:match "bytes=(%d+)") end
  local app = tidepool.App "bench"
  local mapped = app:func(field)
  local fine, why = pcall(function()
    bench.compare {
      id = "L", what = "a field of each line of a file, summed", unit = "ns a line", per = n, rounds = 5, warm_up = 1,
      at_least_speedup = 1.8, floor_is = "plain loop",
      floor = function()
        local sum = 0
        for line in io.lines(path) do sum = sum + field(line) end
        return sum
      end,
      run = function() return mapped:map(tidepool.lines(path)):sum() end,
    }

    -- In a process of its own, whose output is counted by another.
    local name = os.tmpname()
    local job = name .. ".lua"
    file = assert(io.open(job, "w"))
    file:write "require 'tidepool'.App 'p':func { name = 'length' } (function(line) return #line end)\n"
    file:close()
    local seconds = {}
    for round = 1, bench.size(5, 1) do
      local start = tidepool.now()
      local count = bench.capture(("'%s' --workers %d map %s::length <%s | wc -l"):format(bench.binary(), tidepool.workers(), job, path))
      seconds[round] = tidepool.now() - start
      if tonumber(count) ~= n then error("L: tidepool map lost lines", 0) end
    end
    bench.figure { id = "Lm", what = "tidepool map: the length of each line", unit = "us a line", figure = bench.median(seconds) * 1e6 / n,
      at_most = 0.5, is_right = true }

    -- One endless line: refused at the limit. The figure is the peak of that process.
    local script = os.tmpname()
    file = assert(io.open(script, "w"))
    file:write [[
      local tidepool = require "tidepool"
      local f = tidepool.App "p":func(function(line) return #line end)
      local fine, why = pcall(function() return f:map(tidepool.lines "/dev/zero"):sum() end)
      if fine or not tostring(why):find "longer than the limit" then error "no limit" end
      for line in io.lines "/proc/self/status" do
        if line:find "VmHWM" then print((line:match "%d+")) end
      end
    ]]
    file:close()
    local kib = tonumber(bench.capture(("'%s' --workers %d %s"):format(bench.binary(), tidepool.workers(), script)))
    if not kib then error("L: the endless line was not refused", 0) end
    bench.figure { id = "Le", what = "an endless line: peak memory", unit = "MiB", figure = kib / 1024, at_most = 64, is_right = true }
    bench.figure { id = "Lf", what = "the file, read to its end: peak memory", unit = "MiB", figure = bench.kib("/proc/self/status", "VmHWM") / 1024,
      at_most = 64, is_right = true }
    os.remove(job)
    os.remove(name)
    os.remove(script)
  end)
  os.remove(path)
  if not fine then error(why, 0) end
end
