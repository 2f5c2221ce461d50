-- What calls cost that nobody reads: microseconds of CPU time each, to start them and to end them
-- all by tidepool.loop(), for more and more of them. A figure that grows with the number is one
-- that is not linear. Last, the Lua heap after as many, started by a script that waits now and
-- then.

local tidepool = require "tidepool"
local app = tidepool.App "bench"
local same = app:func { name = "same" } (function(x) return x end)

local function heap()
  collectgarbage()
  collectgarbage()
  return collectgarbage "count" / 1024
end

print(("%-12s %8s %12s %12s"):format("", "calls", "start, us", "end, us"))
for _, with in ipairs { "spawn", "on_done" } do
  for _, n in ipairs { 4000, 16000, 64000, 128000 } do
    local n_done = 0
    local began = os.clock()
    for i = 1, n do
      local call = same:spawn(i)
      if with == "on_done" then call:on_done(function() n_done = n_done + 1 end) end
    end
    local between = os.clock()
    tidepool.loop()
    assert(n_done == (with == "on_done" and n or 0))
    print(("%-12s %8d %12.2f %12.2f"):format(with, n, (between - began) / n * 1e6, (os.clock() - between) / n * 1e6))
  end
end

for _, with in ipairs { "spawn", "spawn_map" } do
  local before, n = heap(), 64000
  for i = 1, n do
    if with == "spawn" then same:spawn(i) else same:spawn_map { i } end
    if i % 100 == 0 then tidepool.sleep(0) end
  end
  tidepool.loop()
  print(("%-12s %8d: the Lua heap has grown by %.2f MiB"):format(with, n, heap() - before))
end
