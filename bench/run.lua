--- The benchmarks: `make bench`, or `build/tidepool --workers 2 bench/run.lua [--quick] [--json
-- FILE] [NAME ...]`.
--
-- Runs each workload in a process of its own, with as many workers as this one has, and prints a
-- table. Exits with 1 when a workload breaks or gives wrong results; a figure beyond its limit is
-- only shown.

local directory = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = directory .. "/?.lua;" .. package.path

local cjson = require "cjson"
local harness = require "harness"
local tidepool = require "tidepool"

local workloads = {
  "w1", "w1_variants", "w2", "w3", "w4", "w5", "w6", "w7", "w9", "w10", "processes", "lines", "garbage", "random", "atomic", "share",
  "batched", "waiting", "stream", "store", "journal", "gpu", "peers",
}

local usage = [[
usage: tidepool [--workers N] bench/run.lua [--quick] [--json FILE] [NAME ...]

  --quick       small inputs, few runs: whether all work, not how fast they are
  --json FILE   the figures as JSON too
  NAME          w1, w1_variants, ...; default: all

]]

local function fail(message)
  io.stderr:write(message, "\n", usage)
  os.exit(2)
end

-- A workload's process: each row is a line of JSON.
if arg[1] == "--rows" then
  local bench = harness.new({ quick = arg[3] == "--quick" }, function(row)
    io.stdout:write(cjson.encode(row), "\n")
    io.stdout:flush()
  end)
  dofile(("%s/%s.lua"):format(directory, arg[2]))(bench)
  return
end

-- ---- arguments ----

local quick, json_path = false, nil
local names = {}
do
  local is_known = {}
  for _, name in ipairs(workloads) do is_known[name] = true end
  local i = 1
  while arg[i] do
    if arg[i] == "--quick" then
      quick = true
    elseif arg[i] == "--json" then
      i = i + 1
      json_path = arg[i] or fail "--json needs a file"
    elseif is_known[arg[i]] then
      names[#names + 1] = arg[i]
    else
      fail(("there is no workload %q"):format(arg[i]))
    end
    i = i + 1
  end
  if #names == 0 then names = workloads end
end

-- ---- the table ----

--- Three digits that count.
local function short(x)
  if x == nil then return "" end
  if x >= 100 then return ("%.0f"):format(x) end
  if x >= 10 then return ("%.1f"):format(x) end
  return ("%.2f"):format(x)
end

local function ratio_of(row)
  if not row.ratio then return "" end
  if row.at_least_speedup then return short(1 / row.ratio) .. " x faster" end
  return short(row.ratio) .. " x"
end

local function limit_of(row)
  local limits = {}
  if row.at_most then limits[#limits + 1] = ("<= %g"):format(row.at_most) end
  if row.at_most_ratio then limits[#limits + 1] = ("<= %g x"):format(row.at_most_ratio) end
  if row.at_least_ratio then limits[#limits + 1] = (">= %g x"):format(row.at_least_ratio) end
  if row.at_least_speedup then limits[#limits + 1] = (">= %g x faster"):format(row.at_least_speedup) end
  return table.concat(limits, ", ")
end

local layout = "%-5s %-44s %8s %-12s %8s %-26s %12s  %-15s %-7s %6s"

local function print_row(row)
  local within = ""
  if row.is_within ~= nil then within = row.is_within and "yes" or "NO" end
  print((layout:format(row.id, row.what, short(row.figure), row.unit, short(row.floor), row.floor_is or "", ratio_of(row), limit_of(row), within,
    row.others and ("%.0f %%"):format(row.others * 100) or ""):gsub("%s+$", "")))
  io.stdout:flush()
end

-- ---- the run ----

local function quoted(text)
  return "'" .. text:gsub("'", [['\'']]) .. "'"
end

local machine = {
  processor = harness.capture("lscpu"):match "Model name:%s*([^\n]*)" or "unknown",
  cores = tonumber(harness.capture "nproc"),
  date = os.date "!%Y-%m-%d %H:%M UTC",
  load = harness.capture("cat /proc/loadavg"):match "^%S+ %S+ %S+",
  workers = tidepool.workers(),
  luajit = jit.version,
  quick = quick,
}
print(("%s, %d cores, %d workers; %s; load %s; %s\n"):format(machine.processor, machine.cores, machine.workers, machine.luajit, machine.load,
  machine.date))
print(layout:format("", "what", "figure", "unit", "floor", "the floor is", "ratio", "must reach", "within", "others"))

local rows, broken = {}, {}
for _, name in ipairs(names) do
  local pipe = assert(io.popen(("%s --workers %d %s --rows %s %s; echo status $?"):format(quoted(harness.binary()), machine.workers,
    quoted(arg[0]), name, quick and "--quick" or "")))
  local status
  for line in pipe:lines() do
    status = line:match "^status (%d+)$"
    if not status then
      local row = cjson.decode(line)
      row.workload = name
      rows[#rows + 1] = row
      print_row(row)
    end
  end
  pipe:close()
  if status ~= "0" then broken[#broken + 1] = name end
end

print "\nfigure, floor: medians; ratio: median of the ratios of neighbouring runs; others: how much of one core other processes used meanwhile"
if quick then print "This was a quick run: the figures say nothing." end

if json_path then
  local file = assert(io.open(json_path, "w"))
  file:write(cjson.encode { machine = machine, rows = rows, broken = #broken > 0 and broken or nil }, "\n")
  file:close()
end

if #broken > 0 then
  io.stderr:write("broken: ", table.concat(broken, ", "), "\n")
  os.exit(1)
end
