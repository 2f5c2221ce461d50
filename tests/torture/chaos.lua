--- Worker processes that are killed and stopped at random moments, and hosts that are: nothing may
-- be lost, come twice, be changed, or stay behind.
--
--   tidepool --workers 4 tests/torture/chaos.lua [CASE...] [NAME=NUMBER...]
--
-- The cases, by default all of them (`settings` has their sizes, which NAME=NUMBER changes):
--   kill       maps of `inputs` inputs until `kills` processes were killed with SIGKILL
--   stop       the same with SIGSTOP, where each input has a timeout, until `stops` were stopped
--   large      results of `megabytes` MB in flight, until `large_kills` were killed
--   functions  maps of new functions, which are being sent, on processes that are being started,
--              since each input may be the last one of its process, until `function_kills`
--   hosts      `hosts` scripts that map in processes, which start commands, are killed with SIGKILL
--              themselves; all that they had started must be gone within `gone_s` seconds
--
-- The results must be those of the plain loop, in order, each once. A line for each case says what
-- was done; the exit code is 1 when something was wrong.

local ffi = require "ffi"
local uv = require "luv"
local tidepool = require "tidepool"

ffi.cdef "int kill(int, int); int getpid(void); int usleep(unsigned); int prctl(int, ...);"

local settings = {
  inputs = 20000, kills = 1000, stops = 200, megabytes = 40, large_kills = 100, function_kills = 300, hosts = 100, gone_s = 1,
  pace = 1, -- how many times as long it waits between kills: sanitizers' builds are slow
  seed = os.time() % 1000000,
}
local SIGKILL, SIGCONT, SIGSTOP = 9, 18, 19

local binary = uv.exepath()

local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read "*a" or ""
  if file then file:close() end
  return text
end

local function entries(path)
  local list, scan = {}, uv.fs_scandir(path)
  while scan do
    local name = uv.fs_scandir_next(scan)
    if not name then break end
    list[#list + 1] = name
  end
  return list
end

local function lives(pid)
  return read_file("/proc/" .. pid .. "/stat"):match "%) (%a)" or "gone"
end

local function children_of(pid)
  local list = {}
  for _, task in ipairs(entries(("/proc/%d/task"):format(pid))) do
    for child in read_file(("/proc/%d/task/%s/children"):format(pid, task)):gmatch "%d+" do list[#list + 1] = child end
  end
  return list
end

-- ---- who kills: a process of its own ----

--- Sends the signal to a random child of `pid`, of whatever age, again and again, until it is
-- killed itself. Writes a byte for each. A child that is stopped before it has become another
-- program would hold up posix_spawn in its parent, which nobody can help: those are not stopped.
local function harass(pid, signal, pause_us)
  local PR_SET_PDEATHSIG = 1
  ffi.C.prctl(PR_SET_PDEATHSIG, ffi.cast("long", SIGKILL))
  io.stdout:setvbuf "no"
  while uv.os_getppid() == pid do
    local children = {}
    for _, child in ipairs(children_of(pid)) do
      local is_own = tonumber(child) == ffi.C.getpid()
      local may_be = signal == SIGKILL or read_file("/proc/" .. child .. "/comm"):find "worker"
      if not is_own and may_be and not ("ZXTgone"):find(lives(child)) then children[#children + 1] = tonumber(child) end
    end
    local child = children[math.random(math.max(1, #children))]
    if child and ffi.C.kill(child, signal) == 0 then io.stdout:write "." end
    ffi.C.usleep(math.random(0, pause_us))
  end
end

--- Calls round(k) for k = 1, 2, ... until so many processes were sent the signal. Gives how many.
-- A process that is the only one, and killed before it has begun anything ten times in a row, is
-- the pool's end: so there are some first.
local function under_fire(signal, times, pause_us, round)
  local sent, pipe = 0, uv.new_pipe()
  round(0)
  local killer = assert(uv.spawn(binary, {
    args = { arg[0], "harass", tostring(ffi.C.getpid()), tostring(signal), tostring(pause_us * settings.pace), tostring(settings.seed) },
    stdio = { nil, pipe, 2 },
  }, function() end))
  pipe:read_start(function(_, bytes) sent = sent + (bytes and #bytes or 0) end)
  local k = 0
  local fine, why = pcall(function()
    repeat
      k = k + 1
      round(k)
      tidepool.sleep(0) -- the loop reads the pipe
    until sent >= times
  end)
  killer:kill(SIGKILL)
  killer:close()
  pipe:close()
  if not fine then error(why, 0) end
  return sent, k
end

local function expect(condition, ...)
  if not condition then error(("wrong: " .. ("%s "):rep(select("#", ...))):format(...), 2) end
end

-- ---- the cases ----

local cases, app = {}, tidepool.App("chaos", { executor = "processes" })

--- What small inputs give: numbers, strings, tables, several values.
local function small(x)
  local s = 0
  for i = 1, 3000 * (x % 7) do s = s + i % 3 end
  if x % 3 == 0 then return x, ("s"):rep(x % 100), { x } end
  return x * 2
end

local function check_small(i, a, b, c)
  if i % 3 == 0 then
    expect(a == i and b == ("s"):rep(i % 100) and c[1] == i, i, tostring(a))
  else
    expect(a == 2 * i and b == nil, i, tostring(a))
  end
end

local function map_small(f)
  local last = 0
  for i, a, b, c in f:map(tidepool.range(settings.inputs)) do
    expect(i == last + 1, i, last)
    check_small(i, a, b, c)
    last = i
  end
  expect(last == settings.inputs, last)
end

function cases.kill()
  local f = app:func({ crash_retries = 1000 }, small)
  local kills, rounds = under_fire(SIGKILL, settings.kills, 6000, function() map_small(f) end)
  return ("%d maps of %d inputs, %d processes killed"):format(rounds, settings.inputs, kills)
end

function cases.stop()
  local f = app:func({ timeout = 0.1 * settings.pace, retries = { max = 1000, initial_delay = 0 } }, small)
  local stops, rounds = under_fire(SIGSTOP, settings.stops, 20000, function() map_small(f) end)
  -- One that was stopped at rest would hold up the next case, whose inputs have no timeout.
  for _, child in ipairs(children_of(ffi.C.getpid())) do ffi.C.kill(tonumber(child), SIGCONT) end
  return ("%d maps of %d inputs, %d processes stopped"):format(rounds, settings.inputs, stops)
end

function cases.large()
  local bytes = math.floor(settings.megabytes * 1e6)
  local f = app:func({ crash_retries = 1000 }, function(s, x) return s:rep(x), { s } end)
  local piece = ("0123456789"):rep(bytes / 100)
  local kills, rounds = under_fire(SIGKILL, settings.large_kills, 800000, function(k)
    local last = 0
    for i, text, list in f:map(function() return piece .. k, 10 end, { window = 4 }) do
      expect(i == last + 1, i, last)
      expect(#text == 10 * (#piece + #tostring(k)) and text:sub(-#piece - 5) == ((piece .. k):rep(2)):sub(-#piece - 5), i)
      expect(list[1] == piece .. k, i)
      last = i
      if i == 8 then break end
    end
  end)
  return ("%d maps of results of %g MB, %d processes killed"):format(rounds, settings.megabytes, kills)
end

function cases.functions()
  local kills, rounds = under_fire(SIGKILL, settings.function_kills, 20000, function(k)
    local captured = { k, ("c"):rep(k % 5 * 100000), { k = k } }
    local f = app:func({ crash_retries = 1000, recycle = k % 3 + 1 }, function(x) return x + captured[3].k, #captured[2] end)
    for i, sum, length in f:map(tidepool.range(20)) do expect(sum == i + k and length == #captured[2], i, sum) end
  end)
  return ("%d maps of new functions, %d processes killed"):format(rounds, kills)
end

-- ---- hosts ----

--- What is killed: maps for ever, and commands of its processes that would last.
local function victim()
  local f = app:func(function(x)
    if x % 20 == 1 then io.popen "sleep 1000" end
    if x % 20 == 2 then os.execute "sleep 1000 &" end
    return small(x)
  end)
  while true do
    for i, a in f:map(tidepool.range(500)) do
      if i % 3 ~= 0 and a ~= 2 * i then os.exit(1) end
    end
  end
end

--- The processes that have this in their environment, and are no zombies.
local function marked(mark)
  local list = {}
  for _, pid in ipairs(entries "/proc") do
    if pid:find "^%d+$" and read_file("/proc/" .. pid .. "/environ"):find(mark, 1, true) and not ("ZXgone"):find(lives(pid)) then
      list[#list + 1] = pid .. " " .. read_file("/proc/" .. pid .. "/cmdline"):gsub("%z", " ")
    end
  end
  return list
end

function cases.hosts()
  local longest, most = 0, 0
  for k = 1, settings.hosts do
    local mark = ("TIDEPOOL_CHAOS=%d.%d."):format(ffi.C.getpid(), k)
    local environment = { mark }
    for name, value in pairs(uv.os_environ()) do environment[#environment + 1] = name .. "=" .. value end
    local words = { "--workers", "3", arg[0], "victim" }
    local _, pid = assert(uv.spawn(binary, { args = words, env = environment, stdio = { nil, nil, 2 } }, function() end))
    tidepool.sleep(math.random() * 0.6)
    most = math.max(most, #marked(mark))
    ffi.C.kill(pid, SIGKILL)
    local since, left = tidepool.now(), marked(mark)
    while #left > 0 do
      expect(tidepool.now() - since < settings.gone_s, "still there after a host's death:", table.concat(left, ", "))
      tidepool.sleep(0.005)
      left = marked(mark)
    end
    longest = math.max(longest, tidepool.now() - since)
  end
  return ("%d hosts killed, of up to %d processes; the last one was gone after %.0f ms at most"):format(settings.hosts, most, longest * 1e3)
end

-- ---- the program ----

if arg[1] == "harass" then
  math.randomseed(tonumber(arg[5]))
  harass(tonumber(arg[2]), tonumber(arg[3]), tonumber(arg[4]))
  os.exit(0)
elseif arg[1] == "victim" then
  victim()
end

local wanted = {}
for _, word in ipairs(arg) do
  local name, number = word:match "^([%w_]+)=(.+)$"
  if name and settings[name] and tonumber(number) then
    settings[name] = tonumber(number)
  elseif cases[word] then
    wanted[#wanted + 1] = word
  else
    io.stderr:write("chaos: what is ", word, "?\n")
    os.exit(2)
  end
end
math.randomseed(settings.seed)
io.stdout:setvbuf "line"
for _, name in ipairs(#wanted > 0 and wanted or { "kill", "stop", "large", "functions", "hosts" }) do
  local since = tidepool.now()
  local fine, said = xpcall(cases[name], function(why) return debug.traceback(tostring(why)) end)
  print(("%s: %s, in %.0f s"):format(name, fine and said or ("seed %d: %s"):format(settings.seed, said), tidepool.now() - since))
  if not fine then os.exit(1) end
end
