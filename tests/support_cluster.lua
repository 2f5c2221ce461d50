--- An engine and workers of a spec's own: a NATS server on a free port of the loopback address,
-- with its files in a folder of the spec's, and what ends all of it.

local support = require "tests.support"

local cluster = {}

local Cluster = {}
Cluster.__index = Cluster

--- Runs a shell command -> what it printed, of both kinds, and its exit code.
local function capture(command)
  local pipe = assert(io.popen(command .. " 2>&1; echo $?"))
  local text = pipe:read "*a"
  pipe:close()
  local before, status = text:match "^(.-)(%d+)\n$"
  return before, tonumber(status)
end

cluster.capture = capture

--- A command that finds the server where the program does, also without /usr/sbin in PATH.
local function with_server(command) return "PATH=$PATH:/usr/sbin; " .. command end

--- Is there a server to be started? (Specs are pending without one.)
function cluster.is_possible()
  local _, status = capture(with_server "command -v nats-server >/dev/null")
  return status == 0
end

--- Starts an engine. What it and its workers print goes to files in its folder.
---@param address? string  where it listens; "127.0.0.1"
---@param prefix? string  what the engine's commands, and scripts, are run by: "ip netns exec NAME"
function cluster.up(address, prefix)
  local self = setmetatable({ dir = support.temp_dir() .. "/engine", workers = {}, prefix = prefix or "" }, Cluster)
  math.randomseed(tonumber(support.read_file "/proc/self/stat":match "^%d+") + os.time())
  local said, status
  for _ = 1, 20 do -- the port may be taken
    self.port = math.random(20000, 30000)
    said, status = self:engine(("up --listen %s:%d"):format(address or "127.0.0.1", self.port))
    if status == 0 then break end
    support.sleep(0.1)
  end
  if status ~= 0 then error(said) end
  self.url = ("%s://%s:%d"):format(address and "tls" or "nats", prefix and address or "127.0.0.1", self.port)
  -- also when the spec ends early, or is killed
  os.execute(("setsid sh -c 'while kill -0 %s; do sleep 1; done; kill -KILL $(cat %s/nats.pid)' >/dev/null 2>&1 </dev/null &"):format(
    support.read_file "/proc/self/stat":match "^%d+", self.dir))
  self.guard = newproxy(true)
  getmetatable(self.guard).__gc = function() self:down() end
  return self
end

--- tidepool engine WORDS -> what it printed, its exit code
function Cluster:engine(words)
  return capture(("%s %s engine %s --dir %s"):format(self.prefix, support.binary, words, self.dir))
end

function Cluster:environment()
  return ("TIDEPOOL_ENGINE_DIR=%s TIDEPOOL_ENGINE=%s "):format(self.dir, self.url)
end

--- Starts a worker with so many slots (1). Gives a handle for `kill`.
---@param binary? string  another program than the one under test
---@param environment? string
---@param words? string  more options
---@param prefix? string  what it is run by
function Cluster:worker(slots, binary, environment, words, prefix)
  local worker = { log = support.temp_path() }
  local pid = capture(("%s env %s %s %s worker -w %d %s </dev/null >%s 2>&1 & echo $!"):format(prefix or "", self:environment(), environment or "",
    binary or support.binary, slots or 1, words or "", worker.log))
  worker.pid = assert(tonumber(pid:match "^(%d+)"), pid)
  self.workers[#self.workers + 1] = worker
  support.eventually("a worker is ready", function() return self:said(worker):find("ready", 1, true) end)
  return worker
end

--- What a worker has printed.
function Cluster:said(worker)
  return support.read_file(worker.log) or ""
end

function Cluster:kill(worker, signal)
  capture(("kill -%s %d"):format(signal, worker.pid))
end

--- Does the process run? Nobody may have taken note of its end yet. A killed one is a zombie while
--- its last threads still run, and keep its port open.
local function runs(pid)
  local status = pid and support.read_file("/proc/" .. pid .. "/stat")
  if not status then return false end
  local state, threads = status:match("%) (%a)" .. (" %S+"):rep(16) .. " (%d+)")
  return not state:find "[ZX]" or tonumber(threads) > 1
end

function Cluster:is_alive(worker)
  return runs(worker.pid)
end

--- SIGKILL for the server; the engine can be started again at once.
function Cluster:kill_server()
  local pid = (support.read_file(self.dir .. "/nats.pid") or ""):match "^%d+"
  if not pid then return end
  os.execute(("kill -KILL %s 2>/dev/null"):format(pid))
  support.eventually("the server has ended", function() return not runs(pid) end)
end

function Cluster:up_again()
  support.eventually("the engine is up again", function()
    local _, status = self:engine "up"
    return status == 0
  end)
end

--- Starts the server again with so many bytes for what it keeps, until the next `up`; and with
--- `more` in its configuration.
function Cluster:limit(bytes, more)
  self:kill_server()
  local path = self.dir .. "/nats.conf"
  local text = (more or "") .. support.read_file(path):gsub("jetstream { ", ("jetstream { max_file_store: %d, "):format(bytes))
  support.write_file(path, text)
  os.execute(with_server(("setsid nats-server -c %s >/dev/null 2>&1 </dev/null &"):format(path)))
  support.eventually("the server is up again", function()
    return select(2, capture(("bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d'"):format(self.port))) == 0
  end)
end

--- Runs a script on the cluster, as support.run_script.
function Cluster:run(source, options)
  options = options or {}
  options.setup = ("export %s\n%s"):format(self:environment(), options.setup or "")
  options.flags = options.flags or { "--engine", self.url, "--no-progress" }
  return support.run_script(source, options)
end

--- Starts a script that goes on by itself. `done()` waits for its end and gives what it printed and
--- its exit code.
---@param seconds? integer  how long it may take: 240
---@param flags? string  more options of the program; DIR is the script's folder in them
function Cluster:start(source, seconds, flags)
  seconds = seconds or 240
  local dir = support.temp_dir()
  support.write_file(dir .. "/job.lua", source)
  flags = (flags or ""):gsub("DIR", dir)
  support.write_file(dir .. "/start", ("timeout -k 5 %d %s --engine %s --no-progress %s %s/job.lua </dev/null >%s/out 2>%s/err; echo $? >%s/status\n")
    :format(seconds, support.binary, self.url, flags, dir, dir, dir, dir))
  os.execute(("%s env %s sh %s/start >/dev/null 2>&1 &"):format(self.prefix, self:environment(), dir))
  return {
    dir = dir,
    done = function()
      support.eventually("a script ends", function() return (support.read_file(dir .. "/status") or ""):find "\n" end, seconds + 20)
      return support.read_file(dir .. "/out"), tonumber(support.read_file(dir .. "/status")), support.read_file(dir .. "/err")
    end,
  }
end

--- The user whose token is in the file of that role ("worker", "coordinator"): name and password.
function Cluster:user(role)
  local password = support.read_file(("%s/%s.token"):format(self.dir, role)):match "%.(%x+)%."
  return support.read_file(self.dir .. "/nats.conf"):match('user: "([^"]+)", password: "' .. password), password
end

--- Where a worker with that token gets answers: a prefix of subjects.
function Cluster:inbox(role)
  return "_TPW." .. self:user(role):match "%x+$"
end

--- Speaks with the server as the user of that role: sends lines of its protocol, and gives what it
-- has said when it has read them.
---@param awaited? string|false  for messages that come later: what is in the last line that is
--- wanted (a regular expression of sed's); false: all that comes within three seconds
function Cluster:speak(role, lines, awaited)
  local user, password = self:user(role)
  return self:say(('CONNECT {"verbose":false,"user":"%s","pass":"%s"}\r\n%sPING\r\n'):format(user, password, lines), awaited)
end

--- Sends that to the server, and gives what it has said, as for `speak`.
function Cluster:say(text, awaited)
  local path = support.temp_path()
  support.write_file(path, text)
  local listen = awaited == false and "timeout 3 cat" or ('LC_ALL=C timeout 30 sed -u "/%s/q"'):format(awaited or "^PONG")
  return (capture(("timeout 60 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; cat %s >&3; %s <&3'; true"):format(self.port, path, listen)))
end

--- Writes what comes at the subject to the file, as lines of the server's protocol; gives a
-- function that ends that.
function Cluster:listen(role, subject, path)
  local user, password = self:user(role)
  local lines = support.temp_path()
  support.write_file(lines, ('CONNECT {"verbose":false,"user":"%s","pass":"%s"}\r\nSUB %s 1\r\nPING\r\n'):format(user, password, subject))
  -- the server asks now and then whether somebody is there
  local listen = ("exec 3<>/dev/tcp/127.0.0.1/%d; cat %s >&3; (for i in {1..300}; do sleep 1; printf \"PONG\\r\\n\" >&3; done) & exec cat <&3 >%s")
    :format(self.port, lines, path)
  local pid = assert(capture(("setsid bash -c '%s' >/dev/null 2>&1 </dev/null & echo $!"):format(listen)):match "%d+")
  support.eventually("somebody listens", function() return (support.read_file(path) or ""):find "PONG" end)
  return function() capture(("kill -KILL -- -%s"):format(pid)) end
end

--- A line of the server's protocol that publishes.
function cluster.publish(subject, bytes)
  return ("PUB %s %d\r\n%s\r\n"):format(subject, #bytes, bytes)
end

function Cluster:down()
  if self.is_down then return end
  self.is_down = true
  for _, worker in ipairs(self.workers) do self:kill(worker, "KILL") end
  self:engine "down"
  self:kill_server()
end

return cluster
