--- P: what others take for the same calls, one input per call, by their natural API: bench/peers/.
--- The floor is Tidepool's time, measured in turns with each; the ratio is how many times as long
--- the peer takes. A peer that is not installed has no row: luv and Neovim come from Debian
--- (lua-luv, neovim), as do joblib (python3-joblib) and GNU parallel (parallel); Lanes and effil
--- are found by LUA_PATH and LUA_CPATH.

local tidepool = require "tidepool"

local here = arg[0]:match "^(.*)/[^/]*$" or "."
local peers = here .. "/peers/"

return function(bench)
  local workers = tidepool.workers()
  local own = ("'%s' --workers %d %stidepool.lua"):format(bench.binary(), workers, peers)

  local others = {
    { name = "luv.new_work", command = ("UV_THREADPOOL_SIZE=%d luajit %sluv.lua"):format(workers, peers) },
    { name = "Neovim's new_work", command = ("UV_THREADPOOL_SIZE=%d PEERS=%s sh -c 'PEER_WORKLOAD=$0 PEER_N=$1 " ..
      "nvim --headless -u NONE -c \"luafile %sluv.lua\" -c qa!'"):format(workers, peers, peers) },
    { name = "Lanes", command = "luajit " .. peers .. "lanes.lua" },
    { name = "effil", command = "luajit " .. peers .. "effil.lua" },
    { name = "joblib (Python)", command = "python3 " .. peers .. "joblib_peer.py" },
    { name = "the plain loop", command = "luajit " .. peers .. "serial.lua" },
  }

  --- Seconds and sum of a run, or nothing when it could not run.
  local function run(command, workload, n)
    local text = bench.capture(("%s %s %d 2>&1"):format(command, workload, n))
    local seconds, sum = text:match "(%d+%.%d+) (%d+)"
    return tonumber(seconds), tonumber(sum)
  end

  --- Medians of both, and of the ratios of neighbouring runs. both() -> seconds of the peer, of
  -- Tidepool.
  local function compare(row, both)
    local figures, floors, ratios = {}, {}, {}
    for i = 1, bench.size(5, 1) do
      figures[i], floors[i] = both()
      ratios[i] = figures[i] / floors[i]
    end
    row.unit, row.floor_is, row.is_right = "us a call", "Tidepool", true
    row.figure, row.floor, row.ratio = bench.median(figures) / row.per * 1e6, bench.median(floors) / row.per * 1e6, bench.median(ratios)
    bench.figure(row)
  end

  for _, workload in ipairs { "numbers", "records" } do
    local n = bench.size(50000, 500)
    local _, expected = run(own, workload, n)
    for _, other in ipairs(others) do
      if run(other.command, workload, 10) then
        local function seconds_of(command)
          local seconds, sum = run(command, workload, n)
          if sum ~= expected then error(("%s: the results are wrong: %s instead of %s"):format(command, sum, expected), 0) end
          return seconds
        end
        compare({ id = "P1", what = workload .. ": " .. other.name, per = n }, function()
          local seconds = seconds_of(other.command)
          return seconds, seconds_of(own)
        end)
      end
    end
  end

  -- Lines through a pipe: a program per line, and a Lua function.
  local lines = bench.size(300, 20)
  local dir = bench.capture "mktemp -d":match "%S+"
  local file = assert(io.open(dir .. "/echo.lua", "w"))
  file:write "local app = require 'tidepool'.App 'lines'\napp:func { name = 'echo' } (function(line) return line end)\nreturn app\n"
  file:close()
  local function time(command)
    local start = tidepool.now()
    local text = bench.capture(("seq %d | %s 2>/dev/null"):format(lines, command))
    local seconds = tidepool.now() - start
    return select(2, text:gsub("\n", "\n")) == lines and seconds or nil
  end
  local map = ("'%s' --workers %d map %s/echo.lua::echo"):format(bench.binary(), workers, dir)
  for _, other in ipairs {
    { name = "GNU parallel", command = ("parallel -k -j%d echo"):format(workers) },
    { name = "xargs -P", command = ("xargs -P%d -n1 echo"):format(workers) },
  } do
    if time(other.command) then
      compare({ id = "P2", what = "lines through a pipe: " .. other.name, per = lines }, function()
        local seconds = time(other.command)
        return seconds, assert(time(map), "tidepool map has failed")
      end)
    end
  end
  os.execute("rm -rf " .. dir)
end
