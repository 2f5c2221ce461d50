--- What --dashboard costs at some 100,000 items a second: the processor time of a script with it
-- and without, in turns, the median of the ratios of neighbouring runs. The page that listens is a
-- program that throws away what it reads: a browser's own time is not in it. That of the threads
-- that collect, write and send is.
--
--   tidepool bench/dashboard.lua [ROUNDS [WORKERS]]

local tidepool = require "tidepool"
local app = tidepool.App "bench"

--- Multiplications that take 10 to 20 microseconds.
local work = app:func { name = "work" } (function(x)
  local s = x
  for i = 1, 12000 do s = s * 0.999999 + i end
  return s
end)

if arg[1] == "run" then
  local n = 100000
  for _ in work:map(tidepool.range(5000)) do end
  assert(io.read "*l" == "go")
  local clock = os.clock()
  local done = 0
  for _ in work:map(tidepool.range(n)) do done = done + 1 end
  assert(done == n)
  print(os.clock() - clock)
  return
end

local harness = dofile((arg[0]:match "^(.*/)" or "") .. "harness.lua")
local rounds, workers = tonumber(arg[1]) or 9, tonumber(arg[2]) or 2
local folder = os.tmpname()
os.remove(folder)
assert(os.execute("mkdir " .. folder) == 0)

local function read(name)
  local file = io.open(folder .. "/" .. name)
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

--- Processor seconds of one run; `listens`: a page does.
local function measure(options, listens)
  os.remove(folder .. "/err")
  local child = assert(io.popen(("%s -w %d %s %s run >%s/out 2>%s/err"):format(harness.binary(), workers, options, arg[0], folder, folder), "w"))
  if listens then
    local port, path
    repeat
      port, path = read "err":match "http://127%.0%.0%.1:(%d+)(/%x+/)"
      tidepool.sleep(0.01)
    until port
    os.execute(([[bash -c 'exec 3<>/dev/tcp/127.0.0.1/%s; printf "GET %sevents HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n\r\n" >&3; cat <&3 >%s/events' &]])
      :format(port, path, port, folder))
    repeat tidepool.sleep(0.01) until read "events":find("data: ", 1, true)
  end
  child:write "go\n"
  child:close()
  return assert(tonumber(read "out":match "^%S+"), read "err")
end

local cases = { { "a page listens", "--dashboard", true }, { "nobody listens", "--dashboard" }, { "--report", "--report " .. folder .. "/r.html" } }
for _, case in ipairs(cases) do
  local ratios, seconds = {}, {}
  measure("", false)
  for i = 1, rounds do
    local without = measure("", false)
    local with = measure(case[2], case[3])
    ratios[i], seconds[i] = with / without, without
  end
  table.sort(ratios)
  print(("%-16s %+5.1f %% (%+.1f to %+.1f) of %.2f s for 100,000 items on %d workers%s"):format(case[1], 100 * (harness.median(ratios) - 1),
    100 * (ratios[1] - 1), 100 * (ratios[rounds] - 1), harness.median(seconds), workers,
    case[3] and ("; %.0f KB sent"):format(#read "events" / 1024) or ""))
end
os.execute("rm -r " .. folder)
