--- What a trace costs: maps with and without one, in turns, the median of the ratios of their
-- processor times, that of the thread that writes the trace included.
--
--   tidepool --workers 2 bench/trace.lua [ROUNDS]
--
--   tidepool bench/trace.lua report [ROUNDS]
--
-- The same for --report and --trace of whole runs of items of 10 us, on threads and processes:
-- their processor times, those of the worker processes included.
--
-- And what the places cost at which nothing is noted, since nobody listens: instructions of the
-- same maps in a build without them, which cannot be seen in times.
--
--   make BUILD=build/untraced CC="gcc -DTP_NO_TRACE" build/untraced/tidepool
--   for t in build build/untraced; do
--     valgrind --tool=callgrind $t/tidepool --executor inline bench/trace.lua plain CASE; done

local tidepool = require "tidepool"
local app = tidepool.App "bench"

--- Multiplications that take about ten microseconds.
local function ten_us(x)
  local s = x
  for i = 1, 8000 do s = s * 0.999999 + i end
  return s
end

local cases = {
  { "items of 10 us", 20000, app:func { name = "ten_us" } (ten_us) },
  { "items of some ns", 10000000, app:func { name = "tiny" } (function(x) return x * x end) },
  { "strings", 200000, app:func { name = "text" } (function(x) return "item " .. x end) },
}
local calls = { "calls (f:remote)", 10000, app:func { name = "call" } (function(x) return x end) }

local function run_map(case)
  local n = 0
  for _ in case[3]:map(tidepool.range(case[2])) do n = n + 1 end
  assert(n == case[2])
end

local function run_calls(case)
  for i = 1, case[2] do case[3]:remote(i) end
end

local function timed(run, case)
  collectgarbage()
  local began = os.clock()
  run(case)
  return os.clock() - began
end

if arg[1] == "plain" then
  local which = tonumber(arg[2]) or 1
  local case = cases[which] or calls
  case[2] = math.min(case[2], 20000)
  return (cases[which] and run_map or run_calls)(case)
end

if arg[1] == "report" then
  local pipe = io.popen "readlink /proc/$PPID/exe"
  local program, file = pipe:read "*l", os.tmpname()
  pipe:close()
  local function cpu(words)
    local job = ("%s --workers 2 --no-progress %s %s plain 1"):format(program, words, arg[0])
    local run = io.popen(("bash -c 'TIMEFORMAT=\"%%U %%S\"; time %s 2>/dev/null' 2>&1"):format(job))
    local user, system = run:read "*a":match "([%d.]+) ([%d.]+)%s*$"
    run:close()
    return user + system
  end
  for _, executor in ipairs { "threads", "processes" } do
    for _, what in ipairs { "--report", "--trace" } do
      local ratios, rounds = {}, tonumber(arg[2]) or 9
      for i = 1, rounds do
        local without = cpu("--executor " .. executor)
        ratios[i] = cpu(("--executor %s %s %s"):format(executor, what, file)) / without
      end
      table.sort(ratios)
      print(("%-9s %-8s %+5.1f %% (%+.1f to %+.1f)"):format(executor, what, 100 * (ratios[math.ceil(rounds / 2)] - 1), 100 * (ratios[1] - 1),
        100 * (ratios[rounds] - 1)))
    end
  end
  os.remove(file)
  return
end

local rounds = tonumber(arg[1]) or 9
local path = os.tmpname()

local function measure(run, case)
  local ratios, sizes = {}, 0
  timed(run, case)
  for i = 1, rounds do
    local without = timed(run, case)
    local trace = tidepool.trace(path)
    local with = timed(run, case)
    assert(trace:stop())
    ratios[i] = with / without
    local file = assert(io.open(path))
    sizes = math.max(sizes, file:seek "end")
    file:close()
  end
  table.sort(ratios)
  local median = ratios[math.ceil(rounds / 2)]
  print(("%-20s %10d inputs  with a trace %+5.1f %% (%+.1f to %+.1f)  %8.1f KiB"):format(case[1], case[2], 100 * (median - 1), 100 * (ratios[1] - 1),
    100 * (ratios[rounds] - 1), sizes / 1024))
end

for _, case in ipairs(cases) do measure(run_map, case) end
measure(run_calls, calls)
os.remove(path)
