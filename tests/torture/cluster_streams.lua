--- Two scripts at once on a cluster whose worker processes, workers and server are killed, and
-- stopped, at random moments: each reads streams while a map of its own runs. No value may be lost,
-- come twice or out of order; an input ends with all of its values, or with a crash behind those
-- that were read; the map has each result once.
--
--   TIDEPOOL=build/tidepool build/tidepool tests/torture/cluster_streams.lua [NAME=NUMBER...]
--
-- `inputs` inputs give `values` values each, up to `ms` milliseconds apart; one script has a window
-- of 8 and a limit of 3, the other the usual window and none. `server`, `agent`, `stop` and
-- `process` say of 100 steps, with up to `pause` milliseconds between them, how many kill the
-- server, kill a worker, stop one for up to 6 s, or kill a worker's processes. The exit code is 1
-- when something was wrong.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

local settings = support.settings {
  inputs = 300, values = 12, ms = 8, workers = 3, slots = 2, server = 15, agent = 30, stop = 15, process = 30, pause = 2000, seconds = 600,
  seed = os.time() % 1000000,
}

local job = [[
  local tidepool = require "tidepool"
  local app = tidepool.App "torture"
  local values = VALUES
  local give = app:func { crash_retries = 3, OPTIONS } (function(x)
    for i = 1, values do
      require "tests.support".sleep(math.random(0, MS) / 1000)
      coroutine.yield(x * 100 + i)
    end
  end)
  local double = app:func { crash_retries = 1000 } (function(x)
    require "tests.support".sleep(0.02)
    return x * 2
  end)
  local doubled = double:spawn_map(tidepool.range(INPUTS))
  local at, k, crashes, given = 0, values, 0, 0
  for i, v in give:flat_map(tidepool.range(INPUTS), { return_exceptions = true }) do
    if i ~= at then
      assert(i == at + 1 and k == values, ("input %d ended after %d values, and %d came"):format(at, k, i))
      at, k = i, 0
    end
    if tidepool.is_failure(v) then
      assert(v.kind == "crash", tostring(v))
      crashes, k = crashes + 1, values
    else
      k = k + 1
      assert(v == i * 100 + k, ("input %d: %s instead of %d"):format(i, tostring(v), i * 100 + k))
      given = given + 1
    end
  end
  assert(at == INPUTS and k == values, "the last one is not whole")
  local n = 0
  for i, v in doubled do
    n = n + 1
    assert(i == n and v == 2 * i, tostring(v))
  end
  assert(n == INPUTS)
  print(given, crashes)]]

local own = cluster.up()
math.randomseed(settings.seed)
for _ = 1, settings.workers do own:worker(settings.slots) end
local scripts = {}
for i, options in ipairs { "window = 8, concurrency_limit = 3", "" } do
  scripts[i] = own:start((job:gsub("OPTIONS", options):gsub("VALUES", settings.values):gsub("MS", settings.ms):gsub("INPUTS", settings.inputs)),
    settings.seconds)
end

local function are_over()
  for _, script in ipairs(scripts) do
    if not (support.read_file(script.dir .. "/status") or ""):find "\n" then return false end
  end
  return true
end

local did = { server = 0, agent = 0, stop = 0, process = 0 }
local steps = {
  server = function()
    own:kill_server()
    support.sleep(math.random() * 2)
    own:up_again()
  end,
  agent = function(worker)
    own:kill(worker, "KILL")
    own:worker(settings.slots)
  end,
  stop = function(worker)
    own:kill(worker, "STOP")
    support.sleep(math.random() * 6)
    own:kill(worker, "CONT")
  end,
  process = function(worker) os.execute(("pkill -KILL -P %d"):format(worker.pid)) end,
}

while not are_over() do
  support.sleep(math.random() * settings.pause / 1000)
  local alive = {}
  for _, worker in ipairs(own.workers) do
    if own:is_alive(worker) then alive[#alive + 1] = worker end
  end
  local left = math.random(0, 99)
  for _, what in ipairs { "server", "agent", "stop", "process" } do
    if left >= 0 and left < settings[what] then
      steps[what](alive[math.random(#alive)])
      did[what] = did[what] + 1
    end
    left = left - settings[what]
  end
end

local is_right = true
for i, script in ipairs(scripts) do
  local said, status, errors = script.done()
  if status ~= 0 then
    is_right = false
    print(("script %d: exit %s\n%s%s"):format(i, status, said, errors))
  else
    io.write(("script %d: %s values, %s crashes\n"):format(i, said:match "^(%d+)\t(%d+)\n$"))
  end
end
own:down()
print(("%s: seed %d; killed %d servers, %d workers, the processes of %d; stopped %d"):format(is_right and "right" or "WRONG",
  settings.seed, did.server, did.agent, did.process, did.stop))
os.exit(is_right and 0 or 1)
