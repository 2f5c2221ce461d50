--- W6: from the start of a process to the first result of a worker. W6b: the memory of a worker
-- that has nothing to do.

local tidepool = require "tidepool"

local first_result = [[
local tidepool = require "tidepool"
local add = tidepool.App("bench"):func(function(x) return x + 1 end)
io.stdout:write(add:remote(41), "\n")
io.stdout:flush()
]]

-- Brings up as many workers as there are, all at once: each waits for the pipe DIR/go. Prints what
-- the process holds when they are idle.
local idle_workers = [[
local tidepool = require "tidepool"
local function kib()
  return tonumber(io.open "/proc/self/smaps_rollup":read "*a":match "Rss:%s*(%d+)")
end
local wait = tidepool.App("bench"):func(function(path) io.open(path):close() end)
local calls = {}
for i = 1, tidepool.workers() do calls[i] = wait:spawn "DIR/go" end
while wait:stats().running < tidepool.workers() do os.execute "sleep 0.02" end
local go = io.open("DIR/go", "r+")
for _, call in ipairs(calls) do call:get() end
go:close()
calls = nil
collectgarbage()
os.execute "sleep 0.1"
io.stdout:write(kib(), "\n")
]]

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

return function(bench)
  local binary = bench.binary()
  local start = binary:match "^(.*)/" .. "/bench/start"
  local dir = bench.capture "mktemp -d":match "%S+"
  local ok, why = pcall(function()
    write(dir .. "/empty.lua", "")
    write(dir .. "/first.lua", first_result)
    write(dir .. "/idle.lua", (idle_workers:gsub("DIR", dir)))

    local lines = bench.capture(("'%s' %d luajit %s/empty.lua -- '%s' --workers %d %s/first.lua"):format(start, bench.size(200, 3), dir, binary,
      tidepool.workers(), dir))
    local floors, firsts, wholes, ratios, whole_ratios = {}, {}, {}, {}, {}
    for a, b, c in lines:gmatch "(%d+) (%d+) (%d+)" do
      floors[#floors + 1], firsts[#firsts + 1], wholes[#wholes + 1] = a / 1e6, b / 1e6, c / 1e6
      ratios[#ratios + 1], whole_ratios[#whole_ratios + 1] = b / a, c / a
    end
    if #floors == 0 then error(start .. " has failed", 0) end
    bench.figure { id = "W6", what = "process start to first remote result", unit = "ms", figure = bench.median(firsts),
      floor = bench.median(floors), floor_is = "luajit, empty script", ratio = bench.median(ratios), at_most_ratio = 1.5, is_right = true }
    bench.figure { id = "W6", what = "the same, to the end of the process", unit = "ms", figure = bench.median(wholes),
      floor = bench.median(floors), floor_is = "luajit, empty script", ratio = bench.median(whole_ratios), is_right = true }

    os.execute("mkfifo " .. dir .. "/go")
    local function idle(workers)
      return assert(tonumber(bench.capture(("'%s' --workers %d %s/idle.lua"):format(binary, workers, dir))), "no memory figure")
    end
    local few, many = 2, bench.size(66, 6)
    local each = {}
    for i = 1, bench.size(5, 1) do each[i] = (idle(many) - idle(few)) / (many - few) end
    bench.figure { id = "W6b", what = "memory of an idle worker", unit = "KiB", figure = bench.median(each), at_most = 200, is_right = true }
  end)
  os.execute("rm -rf " .. dir)
  if not ok then error(why, 0) end
end
