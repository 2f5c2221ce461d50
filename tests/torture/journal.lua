--- Kills a map with a journal at random moments, again and again:
-- tidepool tests/torture/journal.lua [KILLS] [INPUTS] [SECONDS]
--
-- After each kill (200) of a run of so many inputs (5,000) the file must pass SQLite's own check,
-- and have each result that was there more than so many seconds (1) before: what is lost is what
-- runs twice. A run that comes to its end must have given every result, and what is run after it
-- nothing but the file's; then another journal is begun. The last line says what was seen; the
-- exit code is 1 when something was wrong.

local tidepool = require "tidepool"

local kills, inputs, seconds = tonumber(arg[1] or 200), tonumber(arg[2] or 5000), tonumber(arg[3] or 1)
local executors = { "threads", "processes", "inline" }

-- An item takes about a millisecond, and notes when its result was there.
local job = [[
  local tidepool = require "tidepool"
  local dir, inputs = arg[1], tonumber(arg[2])
  local f = tidepool.App "torture":func(function(x)
    local until_s = tidepool.now() + 0.001
    while tidepool.now() < until_s do end
    local notes = io.open(dir .. "/notes", "a")
    notes:write(("%d %.6f\n"):format(x, tidepool.now()))
    notes:close()
    return x % 7 == 0 and { x, "table" } or x % 5 == 0 and "text " .. x or x / 8
  end)
  local n = 0
  for i, r in f:map(tidepool.range(inputs), { journal = dir .. "/run.db" }) do
    n = n + 1
    local is_right = i == n and (i % 7 == 0 and r[1] == i and r[2] == "table" or i % 7 ~= 0 and r == (i % 5 == 0 and "text " .. i or i / 8))
    if not is_right then error(("result %d is %s, and %d was awaited"):format(i, tostring(r), n)) end
  end
  if n ~= inputs then error(("there are %d results of %d"):format(n, inputs)) end
]]

local function capture(command)
  local pipe = assert(io.popen(command))
  local text = pipe:read "*a"
  pipe:close()
  return text
end

local binary = capture(("readlink /proc/%s/exe"):format(capture "echo $PPID":match "%d+")):match "[^\n]+"
local dir = capture "mktemp -d":match "[^\n]+"
do
  local file = assert(io.open(dir .. "/job.lua", "w"))
  file:write(job)
  file:close()
end

local wrong = 0
local function complain(...)
  wrong = wrong + 1
  io.stderr:write(("wrong: %s\n"):format((...):format(select(2, ...))))
end

local function start_anew()
  os.execute(("rm -f %s/run.db* %s/notes"):format(dir, dir))
end

--- Runs the job, and kills it after so many seconds. Gives its exit code, what it said, and when it
-- was over.
local function run(executor, wait)
  local limit = wait and ("timeout --foreground -s KILL %.4f "):format(wait) or ""
  local said = capture(("%s'%s' --quiet -w 2 --executor %s %s/job.lua %s %d 2>&1; echo \"code $?\""):format(
    limit, binary, executor, dir, dir, inputs))
  return tonumber(said:match "code (%d+)\n$"), said, tidepool.now()
end

--- When each input has given its result, the last time, and how often it has.
local function read_notes()
  local at, times = {}, {}
  for line in capture(("cat %s/notes 2>/dev/null"):format(dir)):gmatch "([^\n]+)\n" do
    local x, when = line:match "^(%d+) (%S+)$"
    x = tonumber(x)
    if x then at[x], times[x] = tonumber(when), (times[x] or 0) + 1 end
  end
  return at, times
end

local oldest, twice, complete = 0, 0, 0

--- After a kill: is the file whole, and what does it lack?
local function check_file(over)
  local told = capture(("test -e %s/run.db || { echo ok; exit; }; sqlite3 %s/run.db 'pragma integrity_check' 2>&1"):format(dir, dir))
  if told ~= "ok\n" then return complain("the file does not pass SQLite's check: %s", told) end
  local is_there = {}
  local indexes = capture(("sqlite3 %s/run.db 'select id & 1099511627775 from items' 2>/dev/null"):format(dir))
  for x in indexes:gmatch "%d+" do is_there[tonumber(x)] = true end
  for x, when in pairs((read_notes())) do
    if not is_there[x] then oldest = math.max(oldest, over - when) end
  end
  if oldest > seconds then complain("a result was lost that had been there for %.2f s", oldest) end
end

--- After a run that came to its end.
local function check_end(executor)
  complete = complete + 1
  local at, times = read_notes()
  for x = 1, inputs do
    if not at[x] then complain("input %d never ran", x) end
    if (times[x] or 0) > 1 then twice = twice + times[x] - 1 end
  end
  os.remove(dir .. "/notes")
  local code, said = run(executor)
  if code ~= 0 then complain("a run after the end: %s", said) end
  if next((read_notes())) then complain "what was finished ran again" end
end

start_anew()
local started = tidepool.now()
run(executors[1])
local whole_s = tidepool.now() - started -- of a run that is not killed
start_anew()

math.randomseed(os.time())
local n = 0
while n < kills do
  local executor = executors[n % #executors + 1]
  local code, said, over = run(executor, 0.01 + math.random() * whole_s)
  if code == 137 or code == 124 then -- 124: it came to its end at that very moment
    n = n + 1
    check_file(over)
  elseif code == 0 then
    check_end(executor)
    start_anew()
  else
    complain("exit code %d: %s", code, said)
    break
  end
end
local code, said = run "threads"
if code == 0 then check_end "threads" else complain("the last run: exit code %d: %s", code, said) end
os.execute("rm -rf " .. dir)
print(("%d kills in %d runs of %d inputs (%.1f s without one): %d inputs ran twice, the oldest result that was lost was %.3f s old; %d wrong"):format(
  n, complete, inputs, whole_s, twice, oldest, wrong))
os.exit(wrong == 0 and 0 or 1)
