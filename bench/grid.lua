--- The product of two matrices and a blur of 5x5, as translated Lua functions that read elements of
--- arrays (a:at(y, x), and a[i] with the index computed), beside Numba's and Taichi's loops over
--- all processors.
---
---   build/tidepool bench/grid.lua [NAME]
---
--- NAME: only rows in whose names it is. $TIDEPOOL_PYTHON is the python3 that has Numba and Taichi;
--- without them their columns are empty. The three take turns, seven times: ten runs each, after
--- some that compile and find memory. The times are those of the fastest run. What a run made is
--- given back before the next one, outside of its time, as Python does.

local tidepool = require "tidepool"

local app = tidepool.App("grid", { gpu = true })
local N, SIDE, TURNS, RUNS = 512, 1024, 7, 10
local floor = math.floor

local a, b = tidepool.array("double", tidepool.grid(N, N)), tidepool.array("double", tidepool.grid(N, N))
for k = 1, N * N do a[k], b[k] = k * 7 % 13 / 13, k * 5 % 11 / 11 end
local photo = tidepool.array("double", tidepool.grid(SIDE, SIDE))
for k = 1, #photo do photo[k] = k * 7919 % 256 end

local rows = {
  { "product, a:at(y, x)", "product", tidepool.grid(N, N), function(y, x)
    local sum = 0
    for k = 1, N do sum = sum + a:at(y, k) * b:at(k, x) end
    return sum
  end },
  { "product, a[i]", "product", tidepool.range(N * N), function(i)
    local row, column, sum = floor((i - 1) / N), (i - 1) % N + 1, 0
    for k = 1, N do sum = sum + a[row * N + k] * b[(k - 1) * N + column] end
    return sum
  end },
  { "blur, a:at(y, x, \"clamp\")", "blur", tidepool.grid(SIDE, SIDE), function(y, x)
    local sum = 0
    for j = -2, 2 do
      for i = -2, 2 do sum = sum + photo:at(y + j, x + i, "clamp") end
    end
    return sum / 25
  end },
}

--- Milliseconds of a peer's loop; math.huge where there is none.
local function peer(file, what)
  local path = arg[0]:match "^(.*)/[^/]*$" .. "/peers/" .. file
  local done = tidepool.command { os.getenv "TIDEPOOL_PYTHON" or "python3", path, what, tostring(RUNS), check = false }
  return done.status == 0 and tonumber(done.stdout:match "(%S+)%s*$") or math.huge
end

--- Milliseconds of the fastest of so many maps.
local function fastest(f, inputs, runs)
  local best = math.huge
  for _ = 1, runs do
    collectgarbage()
    collectgarbage()
    local start = tidepool.now()
    f:map(inputs):array()
    best = math.min(best, (tidepool.now() - start) * 1e3)
  end
  return best
end

for _, row in ipairs(rows) do
  local name, what, inputs, fn = unpack(row)
  if name:find(arg[1] or "", 1, true) then
    local f, ours, numba, taichi = app:func(fn), math.huge, math.huge, math.huge
    fastest(f, inputs, 3)
    for _ = 1, TURNS do
      ours = math.min(ours, fastest(f, inputs, RUNS))
      numba, taichi = math.min(numba, peer("grid_numba.py", what)), math.min(taichi, peer("grid_taichi.py", what))
    end
    local function column(peer_is, ms) return ms < math.huge and ("   %s %8.1f ms"):format(peer_is, ms) or "" end
    print(("%-26s %8.1f ms%s%s"):format(name, ours, column("Numba", numba), column("Taichi", taichi)))
  end
end
