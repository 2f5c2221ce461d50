--- A cluster whose worker processes, workers and server are killed at random moments while a script
-- maps: nothing may be lost, come twice, come out of order or be changed.
--
--   TIDEPOOL=build/tidepool build/tidepool tests/torture/cluster.lua [NAME=NUMBER...]
--
-- `kills` SIGKILLs, with up to `pause` milliseconds between them, while `inputs` inputs, of `ms`
-- milliseconds each, are mapped on `workers` workers with `slots` slots: `servers` of them for the
-- server, which is started again at once, `agents` for workers, in whose place another one starts,
-- and the others for worker processes; `stops` workers are stopped for a second besides. The last
-- line says what was done; the exit code is 1 when something was wrong.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

local settings = support.settings {
  inputs = 20000, kills = 1000, agents = 60, servers = 10, stops = 20, workers = 3, slots = 2, ms = 20, pause = 100, seconds = 1800,
  seed = os.time() % 1000000,
}
math.randomseed(settings.seed)

local own = cluster.up()
math.randomseed(settings.seed)
for _ = 1, settings.workers do own:worker(settings.slots) end

local STEP = 10 -- results that are noted at once
local path = support.temp_path()
local began = support.now()
local script = own:start(([[
  local support = require "tests.support"
  local app = require "tidepool".App "torture"
  local f = app:func { name = "f", crash_retries = 1000 } (function(x)
    require "tests.support".sleep(%d / 1000)
    return x * 3 + 1, ("%%d"):format(x):rep(10)
  end)
  local n = 0
  for i, value, text in f:map(require "tidepool".range(%d)) do
    n = n + 1
    if i ~= n or value ~= 3 * i + 1 or text ~= ("%%d"):format(i):rep(10) then error("wrong: " .. i .. " after " .. n - 1) end
    if n %% %d == 0 then support.note(%q, "") end
  end
  print(n)]]):format(settings.ms, settings.inputs, STEP, path), settings.seconds)

local function done()
  return #(support.read_file(path) or "") * STEP
end

local function is_over()
  return (support.read_file(script.dir .. "/status") or ""):find "\n" ~= nil
end

--- The workers that live.
local function alive()
  local list = {}
  for _, worker in ipairs(own.workers) do
    if own:is_alive(worker) then list[#list + 1] = worker end
  end
  return list
end

local killed = { process = 0, agent = 0, server = 0 }
local wakes = {} -- workers that are stopped -> until when

local function kill_process(worker)
  local children = {}
  local pipe = io.popen(("cat /proc/%d/task/*/children 2>/dev/null"):format(worker.pid))
  for pid in pipe:read "*a":gmatch "%d+" do children[#children + 1] = pid end
  pipe:close()
  if #children == 0 then return false end
  return os.execute(("kill -KILL %s 2>/dev/null"):format(children[math.random(#children)])) == 0
end

--- What dies next: in proportion to what is still to be killed.
local function kill_one()
  local left = { process = settings.kills - settings.agents - settings.servers - killed.process, agent = settings.agents - killed.agent,
    server = settings.servers - killed.server }
  local at = math.random(math.max(1, left.process + left.agent + left.server))
  local workers = alive()
  local worker = workers[math.random(#workers)]
  if at <= left.server then
    own:kill_server()
    own:up_again()
    killed.server = killed.server + 1
  elseif at <= left.server + left.agent then
    own:kill(worker, "KILL")
    own:worker(settings.slots)
    wakes[worker] = nil
    killed.agent = killed.agent + 1
  elseif kill_process(worker) then
    killed.process = killed.process + 1
  end
end

local stopped, next_kill, total = 0, 0, 0
while not is_over() and support.now() - began < settings.seconds do
  if total < settings.kills and done() > 0 and support.now() >= next_kill then
    kill_one()
    next_kill = support.now() + math.random() * settings.pause / 1000
  end
  total = killed.process + killed.agent + killed.server
  if stopped < settings.stops * total / settings.kills then
    local workers = alive()
    local worker = workers[math.random(#workers)]
    own:kill(worker, "STOP")
    wakes[worker] = support.now() + 1
    stopped = stopped + 1
  end
  for worker, at in pairs(wakes) do
    if support.now() >= at then
      own:kill(worker, "CONT")
      wakes[worker] = nil
    end
  end
  support.sleep(0.005)
end

local said, status, errors = script.done()
local is_right = said == settings.inputs .. "\n" and status == 0 and total == settings.kills
own:down()
print(("%s: %d of %d results, in order; killed %d worker processes, %d workers, %d servers, stopped %d workers; %.0f s; seed %d")
  :format(is_right and "right" or "WRONG", done(), settings.inputs, killed.process, killed.agent, killed.server, stopped,
    support.now() - began, settings.seed))
if not is_right then io.write("exit code ", tostring(status), "\n", said or "", errors or "") end
os.exit(is_right and 0 or 1)
