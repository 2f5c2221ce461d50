--- W11: what worker processes cost beside worker threads: the same functions over the same inputs,
-- the floor being threads. And how long it takes to replace one that has died, to end what runs for
-- too long or is not wanted any more, and what one takes of memory. P3: what others take for the
-- same calls, where they are installed; `make peers` installs them below build/.

local ffi = require "ffi"
local tidepool = require "tidepool"

return function(bench)
  local threads, processes = tidepool.App("threads", { executor = "threads" }), tidepool.App("processes", { executor = "processes" })

  local function compare(row, fn, options)
    local here, there = threads:func(options or {}, fn), processes:func(options or {}, fn)
    row.id, row.floor_is = "W11", "the same in threads"
    local work = row.work
    row.floor = function() return work(here) end
    row.run = function() return work(there) end
    bench.compare(row)
  end

  local n = bench.size(100000, 2000)
  local numbers, records, doubles = {}, {}, tidepool.array("double", bench.size(4000000, 10000))
  for i = 1, n do numbers[i] = i end
  for i = 1, n / 10 do records[i] = { id = i, name = "record " .. i, tags = { "a", "b" }, value = i / 7 } end
  for i = 1, #doubles do doubles[i] = i / 1000 end

  compare({ what = "W1: map(100,000 numbers):list()", unit = "ns a call", per = n, at_most_ratio = 1.3,
    work = function(f) return f:map(numbers):list() end,
    sum = function(list)
      local s = 0
      for i = 1, n do s = s + list[i] end
      return s
    end }, function(x) return x * x end)

  compare({ what = "W2: map(10,000 records):list()", unit = "us a record", per = #records, at_most_ratio = 1.3,
    work = function(f) return f:map(records):list() end,
    sum = function(list)
      local s = 0
      for i = 1, #records do s = s + #list[i].name + list[i].id end
      return s
    end }, function(r) return { id = r.id + 1, name = r.name .. "!", value = r.value } end)

  compare({ what = "W5: sin, cos, sqrt over an array", unit = "ns an element", per = #doubles, at_most_ratio = 1.05,
    work = function(f) return f:map(doubles):array() end,
    sum = function(a) return a:sum() end }, function(x) return math.sin(x) * math.cos(x) + math.sqrt(x) end, { returns = "double" })

  local strings = {}
  for i = 1, bench.size(64, 4) do strings[i] = ("%08d"):format(i):rep(131072) end
  compare({ what = "W4: 64 strings of 1 MiB", unit = "ms", at_most_ratio = 1.2,
    work = function(f) return f:map(strings):list() end,
    sum = function(list)
      local s = 0
      for i = 1, #strings do s = s + #list[i] end
      return s
    end }, function(s) return s:upper() end)

  -- Two of them by processor time, of the worker processes too, which says more on a machine with
  -- other work.
  local function compare_processor_time(what, fn, options, work)
    local function milliseconds(app, f)
      app:func(function() end):remote() -- they are there
      local times, before = bench.size(20, 1), bench.processor_seconds()
      for _ = 1, times do work(f) end
      return (bench.processor_seconds() - before) / times * 1e3
    end
    local here, there = threads:func(options, fn), processes:func(options, fn)
    local in_threads, in_processes, quotients = {}, {}, {}
    for i = 1, bench.size(5, 1) do
      in_threads[i], in_processes[i] = milliseconds(threads, here), milliseconds(processes, there)
      quotients[i] = in_processes[i] / in_threads[i]
    end
    bench.figure { id = "W11", what = what, unit = "ms", figure = bench.median(in_processes), floor = bench.median(in_threads),
      floor_is = "the same in threads", ratio = bench.median(quotients), is_right = true }
  end

  compare_processor_time("W5: its processor time", function(x) return math.sin(x) * math.cos(x) + math.sqrt(x) end, { returns = "double" },
    function(f)
      if #f:map(doubles):array() ~= #doubles then error("results are missing", 0) end
    end)
  compare_processor_time("W4: its processor time", function(s) return s:upper() end, {}, function(f)
    if #f:map(strings):list() ~= #strings then error("results are missing", 0) end
  end)

  -- ---- one call, and their lives ----

  local function add(x) return x + 1 end
  local here, there = threads:func(add), processes:func(add)
  local function latencies(f)
    local list = {}
    for i = -100, bench.size(5000, 100) do
      local start = tidepool.now()
      if f:remote(i) ~= i + 1 then error("a wrong result", 0) end
      if i > 0 then list[i] = (tidepool.now() - start) * 1e6 end
    end
    return bench.median(list)
  end
  local floor = latencies(here)
  bench.figure { id = "W11", what = "W7: remote round trip: median", unit = "us", figure = latencies(there), floor = floor,
    floor_is = "the same in threads", at_most_ratio = 1.5, is_right = true }

  ffi.cdef "int getpid(void); int kill(int pid, int signal);"
  local pid = processes:func { concurrency_limit = 1 } (function()
    local c = require "ffi"
    if not pcall(c.typeof, "tidepool_bench_pid") then c.cdef "typedef int tidepool_bench_pid; int getpid(void);" end
    return c.C.getpid()
  end)

  --- The median of what `measure` gives, in ms.
  local function life(what, at_most, times, measure)
    local list = {}
    for i = 1, bench.size(times, 3) do list[i] = measure() * 1e3 end
    bench.figure { id = "W11", what = what .. ": median", unit = "ms", figure = bench.median(list), at_most = at_most, is_right = true }
  end

  local die = processes:func { concurrency_limit = 1, crash_retries = 0 } (function() require("ffi").cast("int *", 0)[0] = 1 end)
  life("from a crash to the next result", 5, 50, function()
    pcall(die.remote, die)
    local start = tidepool.now()
    if pid:remote() == ffi.C.getpid() then error("no process", 0) end
    return tidepool.now() - start
  end)

  local LIMIT = 0.05
  local endless = processes:func { concurrency_limit = 1, timeout = LIMIT } (function() while true do end end)
  life("from an input's deadline to its failure", 20, 20, function()
    pid:remote()
    local start = tidepool.now()
    local fine, failure = pcall(endless.remote, endless)
    if fine or failure.kind ~= "timeout" then error("no timeout", 0) end
    return tidepool.now() - start - LIMIT
  end)
  life("from that to the next result", 5, 20, function()
    pcall(endless.remote, endless)
    local start = tidepool.now()
    pid:remote()
    return tidepool.now() - start
  end)

  local begun = tidepool.array("int32", 1)
  local runs = processes:func(function()
    local c = require "ffi"
    if not pcall(c.typeof, "tidepool_bench_pid") then c.cdef "typedef int tidepool_bench_pid; int getpid(void);" end
    begun[1] = c.C.getpid()
    while true do end
  end)
  life("from cancel to the end of what runs", 500, 20, function()
    begun[1] = 0
    local results = runs:spawn_map { 1 }
    while begun[1] == 0 do tidepool.sleep(0.001) end
    local start = tidepool.now()
    results:cancel()
    while ffi.C.kill(begun[1], 0) == 0 do tidepool.sleep(0.0005) end
    return tidepool.now() - start
  end)

  local rollup = "/proc/" .. pid:remote() .. "/smaps_rollup"
  bench.figure { id = "W11", what = "private memory of a worker process", unit = "MiB", at_most = 3, is_right = true,
    figure = (bench.kib(rollup, "Private_Clean") + bench.kib(rollup, "Private_Dirty")) / 1024 }

  -- ---- others ----

  -- What others take for the same calls in two processes (bench/peers/processes.py), where they are
  -- installed. Tidepool's time is measured in turns with each.
  local python = os.getenv "PEERS_PYTHON" or "python3"
  local script = (arg[0]:match "^(.*)/[^/]*$" or ".") .. "/peers/processes.py"
  local function seconds_of(name, workload, count)
    local seconds, sum = bench.capture(("%s %s %s %s %d 2>&1"):format(python, script, name, workload, count)):match "(%d+%.%d+) (%d+)%s*$"
    return tonumber(seconds), tonumber(sum)
  end
  local square = processes:func(function(x) return x * x end)
  local enrich = processes:func(function(r)
    r.total = r.v[1] + r.v[2] + r.v[3] + r.id
    return r
  end)
  local workloads = {
    { name = "numbers", own = function(inputs) return square:map(inputs):list() end, value = function(y) return y end },
    { name = "records", own = function(inputs) return enrich:map(inputs):list() end, value = function(r) return r.total + #r.name end },
    { name = "calls", value = function(y) return y end, own = function(inputs)
      local list = {}
      for i, x in ipairs(inputs) do list[i] = square:remote(x) end
      return list
    end },
  }
  for _, workload in ipairs(workloads) do
    for _, peer in ipairs { "joblib", "futures", "ray" } do
      local count = workload.name == "calls" and bench.size(100, 10) or bench.size(peer == "joblib" and 50000 or 5000, 100)
      if seconds_of(peer, workload.name, 10) then
        local inputs, theirs, ours, ratios = {}, {}, {}, {}
        for i = 1, count do inputs[i] = workload.name == "records" and { id = i, name = "record " .. i, v = { 1, 2, 3 } } or i end
        workload.own(inputs)
        for k = 1, bench.size(3, 1) do
          local seconds, expected = seconds_of(peer, workload.name, count)
          local start, sum = tidepool.now(), 0
          local list = workload.own(inputs)
          ours[k], theirs[k] = tidepool.now() - start, seconds
          ratios[k] = theirs[k] / ours[k]
          for i = 1, count do sum = sum + workload.value(list[i]) end
          if sum ~= expected then error(("%s, %s: the results are wrong: %s instead of %s"):format(peer, workload.name, expected, sum), 0) end
        end
        bench.figure { id = "P3", what = workload.name .. ": " .. peer, unit = "us a call", figure = bench.median(theirs) / count * 1e6,
          floor = bench.median(ours) / count * 1e6, floor_is = "Tidepool", ratio = bench.median(ratios), is_right = true }
      end
    end
  end
end
