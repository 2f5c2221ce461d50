--- How workloads are measured: what `bench/run.lua` gives to each of them.
--
-- A workload is a file that returns a function(bench). It describes what it measures
-- (bench.compare, bench.figure); each makes one row of the table. Rules that every figure here
-- keeps:
--   - the floor is measured in the same process, run by run in turns with what is measured, so that
--     a loaded or slow machine meets both;
--   - a figure is the median of the runs, a ratio the median of the ratios of neighbouring runs;
--   - runs before the first measured one warm up compilers, workers and memory;
--   - garbage is collected before each run, outside of its time;
--   - the results of each run are compared with those of the floor's (the serial loop's), outside
--     of its time.

local ffi = require "ffi"
local tidepool = require "tidepool"

local harness = {}

ffi.cdef [[
  typedef struct bench_time { long s, ns; } bench_time;
  long readlink(const char *path, char *buffer, size_t size);
  int bench_clock_of(int pid, int *clock) __asm__("clock_getcpuclockid");
  int bench_time_of(int clock, bench_time *time) __asm__("clock_gettime");
]]

--- The program that runs this: for workloads that start it again.
function harness.binary()
  local buffer = ffi.new "char[4096]"
  local n = ffi.C.readlink("/proc/self/exe", buffer, 4096)
  return ffi.string(buffer, n)
end

--- The middle of a list of numbers; of two middles the lower one.
function harness.median(list)
  return harness.percentile(list, 0.5)
end

--- The number that a share of p of the list does not exceed.
function harness.percentile(list, p)
  local sorted = {}
  for i, x in ipairs(list) do sorted[i] = x end
  table.sort(sorted)
  return sorted[math.max(1, math.ceil(#sorted * p))]
end

--- The output of a shell command.
function harness.capture(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

--- The number behind a name in a file of /proc, in KiB there and here.
function harness.kib(path, name)
  local file = assert(io.open(path))
  local text = file:read "*a"
  file:close()
  return assert(tonumber(text:match(name .. ":%s*(%d+)")), name)
end

--- Seconds of processor time, in steps of 10 ms: of the whole machine, and of this process with its
-- children that have ended.
local function read_load()
  local stat = assert(io.open "/proc/stat")
  local user, nice, system = stat:read("*l"):match "cpu%s+(%d+) (%d+) (%d+)"
  stat:close()
  local own = assert(io.open "/proc/self/stat")
  local fields = {}
  for field in own:read("*a"):match("%)(.*)"):gmatch "%S+" do fields[#fields + 1] = field end
  own:close()
  local mine = fields[12] + fields[13] + fields[14] + fields[15] -- utime, stime, cutime, cstime
  return (user + nice + system) / 100, mine / 100
end

--- Seconds of processor time of this process and of its children that run.
function harness.processor_seconds()
  local clock, time, sum = ffi.new "int[1]", ffi.new "bench_time", 0
  local function add(pid)
    if ffi.C.bench_clock_of(pid, clock) ~= 0 or ffi.C.bench_time_of(clock[0], time) ~= 0 then return end -- it has ended
    sum = sum + tonumber(time.s) + tonumber(time.ns) / 1e9
  end
  add(0)
  for pid in harness.capture "cat /proc/$PPID/task/*/children":gmatch "%d+" do add(tonumber(pid)) end
  return sum
end

local factors = { ns = 1e9, us = 1e6, ms = 1e3, s = 1 }

local function factor_of(unit)
  return assert(factors[unit:match "^%a+"], unit)
end

local function time(run)
  collectgarbage()
  collectgarbage()
  local start = tidepool.now()
  local result = run()
  return tidepool.now() - start, result
end

--- What a workload gets. `settings`: { quick = boolean }; `give` takes each row.
function harness.new(settings, give)
  local bench = { quick = settings.quick }
  for name, helper in pairs(harness) do bench[name] = helper end
  local load_from, mine_from, from

  local function restart()
    load_from, mine_from = read_load()
    from = tidepool.now()
  end
  restart()

  --- A row whose figure was measured by the workload itself.
  -- row: { id, what, unit, figure, is_right = the results are the serial loop's,
  --   floor = the floor's figure, floor_is = what it is, ratio = of figure to floor, where that is
  --   better known than by dividing, at_most = on the figure, at_most_ratio, at_least_ratio = on
  --   the ratio, at_least_speedup = on the ratio of floor to figure }
  function bench.figure(row)
    row.ratio = row.ratio or (row.floor and row.figure / row.floor)
    local is_within
    if row.at_most or row.at_most_ratio or row.at_least_ratio or row.at_least_speedup then
      is_within = (not row.at_most or row.figure <= row.at_most)
        and (not row.at_most_ratio or row.ratio <= row.at_most_ratio)
        and (not row.at_least_ratio or row.ratio >= row.at_least_ratio)
        and (not row.at_least_speedup or 1 / row.ratio >= row.at_least_speedup)
    end
    row.is_within = is_within
    -- How much of a processor others used meanwhile.
    local load, mine = read_load()
    local seconds = tidepool.now() - from
    row.others = seconds >= 0.1 and math.max(0, ((load - load_from) - (mine - mine_from)) / seconds) or nil
    give(row)
    restart()
  end

  --- One size for a full run, and a small one for --quick.
  function bench.size(full, quick)
    return settings.quick and quick or full
  end

  --- Measures row.run against row.floor, in turns.
  -- row: as for bench.figure, and { run = function() -> result, floor = function() -> result, sum =
  --   function(result) -> what is compared (default: the result), per = items in a run: figures are
  --   for one of them; rounds = at least, seconds = to measure for at least, most_rounds, warm_up =
  --   runs of each before }
  function bench.compare(row)
    local run, floor, sum, per = row.run, row.floor, row.sum, row.per or 1
    local rounds, seconds, most = row.rounds or 9, row.seconds or 1, row.most_rounds or 201
    if settings.quick then rounds, seconds, most = math.min(rounds, 3), 0, 3 end
    local expected
    local function check(result)
      local got = result
      if sum then got = sum(result) end
      if expected == nil then expected = got end
      if got ~= expected or got == nil then
        error(("%s: the results are wrong: %s instead of %s"):format(row.id, tostring(got), tostring(expected)), 0)
      end
    end
    for _ = 1, settings.quick and 1 or row.warm_up or 2 do
      check(floor())
      check(run())
    end
    local figures, floors, ratios = {}, {}, {}
    local until_s = tidepool.now() + seconds
    repeat
      local floor_s, floor_result = time(floor)
      check(floor_result)
      floor_result = nil -- luacheck: ignore
      local run_s, result = time(run)
      check(result)
      result = nil -- luacheck: ignore
      local n = #figures + 1
      figures[n], floors[n], ratios[n] = run_s, floor_s, run_s / floor_s
    until n >= most or (n >= rounds and tidepool.now() >= until_s)
    local factor = factor_of(row.unit) / per
    bench.figure {
      id = row.id, what = row.what, unit = row.unit, floor_is = row.floor_is,
      figure = bench.median(figures) * factor, floor = bench.median(floors) * factor, ratio = bench.median(ratios),
      at_most = row.at_most, at_most_ratio = row.at_most_ratio, at_least_speedup = row.at_least_speedup, rounds = #figures, is_right = true,
    }
  end

  --- A function of (steps, seed) that computes for a time proportional to steps, and how many steps
  -- take one second here.
  function bench.burner()
    local function burn(steps, seed)
      local x = seed
      for _ = 1, steps do x = (x * 16807 + 1) % 2147483647 end
      return x
    end
    burn(1e6, 1)
    local speeds = {}
    for i = 1, 5 do
      local start = tidepool.now()
      burn(2e6, i)
      speeds[i] = 2e6 / (tidepool.now() - start)
    end
    return burn, bench.median(speeds)
  end

  return bench
end

return harness
