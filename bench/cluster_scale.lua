--- Many machines: how long chunks of work take on a cluster of thousands of agents, which only
-- pretend to work (bench/cluster_agents.c), and what they cost the server and the script.
--
--     make build/bench/cluster_agents
--     build/tidepool bench/cluster_scale.lua [AGENTS [SECONDS [CHUNKS]]]
--
-- 10,000 agents, 2 s for a chunk, and 40,000 chunks, of one item each. The ideal is that each agent
-- does one chunk after the other without a pause. The agents, the server and the script share this
-- machine: on two cores that is what bounds it, and the processor time says how much each took.

local agents, seconds, chunks = tonumber(arg[1]) or 10000, tonumber(arg[2]) or 2, tonumber(arg[3]) or 40000
local root = arg[0]:match "^(.*)/bench/[^/]*$" or "."
package.path = root .. "/?.lua;" .. package.path
local cluster = require "tests.support_cluster"
local support = require "tests.support"

--- Processor seconds of a process, and its resident MiB.
local function cost_of(pid)
  local stat = support.read_file("/proc/" .. pid .. "/stat") or ""
  local user, system = stat:match "%) %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ %S+ (%d+) (%d+)"
  local pages = (support.read_file("/proc/" .. pid .. "/statm") or ""):match "^%d+ (%d+)"
  return ((tonumber(user) or 0) + (tonumber(system) or 0)) / 100, (tonumber(pages) or 0) / 256
end

--- Messages that the server has taken and given so far.
local function messages(port)
  local ask = [[timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; printf "GET /varz HTTP/1.0\r\n\r\n" >&3; cat <&3']]
  local text = cluster.capture(ask:format(port))
  return tonumber(text:match '"in_msgs": (%d+)'), tonumber(text:match '"out_msgs": (%d+)')
end

local own = cluster.up(nil, "prlimit --nofile=" .. io.popen("ulimit -Hn"):read "*l")
local monitor = own.port + 10000
own:engine "down"
support.eventually("the engine is up", function()
  return own:engine(("up --listen 127.0.0.1:%d --monitor 127.0.0.1:%d"):format(own.port, monitor)):find "runs"
end)
local worker = own:worker(1)
local said = own:speak("coordinator", "SUB tp1.d.hb.* 1\r\n", "Tidepool ")
local build = assert(said:match "tp1%.d%.hb%.%x+ 1 %d+\r?\n(%x+) ", said)
local user, password = own:user "worker"
own:kill(worker, "KILL")
local server = support.read_file(own.dir .. "/nats.pid"):match "%d+"
local log = support.temp_path()
local command = ("prlimit --nofile=$(ulimit -Hn) %s/build/bench/cluster_agents %d %s %s %s %s %d %d >%s 2>&1 & echo $!"):format(root, own.port,
  user, password, own:inbox "worker", build, agents, seconds * 1000, log)
local pid = cluster.capture(command):match "%d+"
support.eventually("the agents are connected", function()
  local text = support.read_file(log) or ""
  if text:find "^agent" then error(text) end
  return text:find "connected"
end, 120)
support.sleep(6) -- the worker whose build it is has been forgotten, and all agents have shown themselves

local taken_before, given_before = messages(monitor)
local before, agents_before = cost_of(server), cost_of(pid)
local done = own:run(([[
  local tidepool = require "tidepool"
  local uv = require "luv"
  local nothing = tidepool.App("scale"):func { concurrency_limit = 100000 } (function() end)
  local begun = uv.hrtime()
  nothing:for_each(tidepool.range(%d), { window = 60000 })
  local usage = uv.getrusage()
  local function of(time) return time.sec + time.usec * 1e-6 end
  print((uv.hrtime() - begun) * 1e-9, of(usage.utime) + of(usage.stime), uv.resident_set_memory() / 2 ^ 20)]]):format(chunks))
local took, cpu, memory = done.stdout:match "(%S+)%s+(%S+)%s+(%S+)"
if not took then error(done.stderr:sub(1, 2000) .. (support.read_file(log) or ""):sub(1, 2000)) end
local after, server_memory = cost_of(server)
local taken, given = messages(monitor)
local agents_after, agents_memory = cost_of(pid)
local ideal = math.ceil(chunks / agents) * seconds
print(("%d agents x %g s, %d chunks: %.1f s, ideal %.1f s: %.2f x (%.0f chunks/s)"):format(agents, seconds, chunks, took, ideal, took / ideal,
  chunks / took))
print(("  messages of a chunk: %.2f to the server, %.2f from it"):format((taken - taken_before) / chunks, (given - given_before) / chunks))
for _, row in ipairs { { "server", after - before, server_memory }, { "script", tonumber(cpu), tonumber(memory) },
  { "agents", agents_after - agents_before, agents_memory } } do
  print(("  %s: %.1f s of processor time (%.0f %% of a core), %.0f us a chunk, %.0f MiB"):format(row[1], row[2], row[2] / took * 100,
    row[2] / chunks * 1e6, row[3]))
end
if done.stderr ~= "" then print(done.stderr:sub(1, 2000)) end
os.execute("kill " .. pid)
support.eventually("the agents have ended", function() return (support.read_file(log) or ""):find "done" end, 20)
io.write(support.read_file(log):sub(1, 2000))
own:down()
