--- Programs that run beside the script: tidepool.command.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local loop = require "tidepool.engine.loop"

local command = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.0003, 0.01
local fields = { cwd = "string", stdin = "string", check = "boolean" }
local signals = { [1] = "HUP", [2] = "INT", [3] = "QUIT", [4] = "ILL", [6] = "ABRT", [7] = "BUS", [8] = "FPE", [9] = "KILL", [11] = "SEGV",
  [13] = "PIPE", [15] = "TERM" }

--- Waits until the program is over. A worker waits for the program's pipes, since nothing else can
--- go on there; elsewhere others go on meanwhile.
local function wait(running)
  local pause, blocks = FIRST_PAUSE, core.is_worker and not loop.is_in_task()
  while not core.command.step(running, blocks and LONGEST_PAUSE or 0) do
    -- not 0, so that it checks whether the item was cancelled
    loop.sleep(blocks and 1e-6 or pause)
    pause = math.min(pause * 1.3, LONGEST_PAUSE)
  end
end

local function words_of(given)
  local words = {}
  for key, value in pairs(given) do
    if type(key) == "number" and key >= 1 and key % 1 == 0 then
      if type(value) ~= "string" and type(value) ~= "number" then
        check.fail("tidepool.command: word %d must be a string or a number, got %s", key, check.show(value))
      elseif tostring(value):find("%z") then
        check.fail("tidepool.command: word %d has a zero byte in it", key)
      end
      words[key] = tostring(value)
    elseif not fields[key] then
      local near = type(key) == "string" and check.nearest(key, { "cwd", "stdin", "check" })
      check.fail("tidepool.command: unknown option %s%s", check.key(key),
        near and (" (did you mean '%s'?)"):format(near) or "; there are: cwd, stdin, check")
    elseif type(value) ~= fields[key] then
      check.fail("tidepool.command: option '%s' must be %s, got %s", key, check.a(fields[key]), check.show(value))
    end
  end
  if words[1] == nil then check.fail "tidepool.command: expected the words of a command, got none" end
  for i = 1, table.maxn(words) do
    if words[i] == nil then check.fail("tidepool.command: word %d is nil", i) end
  end
  return words
end

--- "gzip: exit status 2: last line of its errors"
local function describe(words, result)
  local how = result.status and "exit status " .. result.status
    or "ended by signal " .. result.signal .. (signals[result.signal] and " (SIG" .. signals[result.signal] .. ")" or "")
  local last = result.stderr:match "([^\n]+)%s*$"
  return ("%s: %s%s"):format(words[1], how, last and ": " .. last or "")
end

--- Runs a program with these words as its arguments, without a shell, and waits for it; in a task
-- others go on meanwhile. It is killed, with all that it has started in its process group, when the
-- wait ends early: by Ctrl-C, when the task or the map is cancelled, when the script ends.
--
--     tidepool.command { "gzip", "-k", file }
---@param given table  the words; cwd: the folder that it runs in; stdin: what it reads (default: nothing); check = false: failing is no error
---@return { status: integer?, signal: integer?, stdout: string, stderr: string }  status: 0 is success; signal: the one that ended it. What fails
---   raises a failure whose `value` is this table, so that failure.status and failure.stderr are
--   there, too
function command.run(given, extra)
  check.no_more(extra, "tidepool.command", "one table: the words of a command")
  if type(given) ~= "table" then check.fail("tidepool.command: expected a table with the words of a command, got %s", check.show(given)) end
  local words = words_of(given)
  loop.check_wait()
  local running, why = core.command.start(words, given.cwd, given.stdin)
  if not running then
    local where = given.cwd and (" in %s"):format(given.cwd) or ""
    error(failure.new { kind = abi.kind.ERROR, attempts = 1, message = ("%s%s: cannot be started%s: %s"):format(check.where(), words[1], where, why),
      value = { stdout = "", stderr = why } }, 0)
  end
  local fine, trouble = pcall(wait, running)
  if not fine then
    core.command.stop(running)
    error(trouble, 0)
  end
  local result = {}
  result.status, result.signal, result.stdout, result.stderr = core.command.result(running)
  if given.check ~= false and result.status ~= 0 then
    error(failure.new { kind = abi.kind.ERROR, attempts = 1, message = check.where() .. describe(words, result), value = result }, 0)
  end
  return result
end

return command
