--- The file of `tidepool map --joblog`: a line for each input, in the format of GNU parallel's
-- --joblog, so that scripts that read those read ours. Fields are separated by tabs: Seq, Host,
-- Starttime, JobRuntime, Send, Receive, Exitval, Signal, Command.

local abi = require "tidepool.base.abi"
local core = require "tidepool.core"
local failure = require "tidepool.failure"

local joblog = {}

local HEAD = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
local LINE = "%d\t:\t%.3f\t%10.3f\t0\t%d\t%d\t%d\t%s\n"
local FAILED = 1

-- What Linux calls them on the processors that LuaJIT knows, but for MIPS.
local signals = {
  SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9, SIGUSR1 = 10, SIGSEGV = 11,
  SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGSTKFLT = 16, SIGXCPU = 24, SIGXFSZ = 25, SIGVTALRM = 26, SIGPROF = 27, SIGIO = 29,
  SIGPWR = 30, SIGSYS = 31,
}

local Joblog = {}
Joblog.__index = Joblog

local function cannot_write(path, why)
  error(("cannot write %s: %s"):format(path, (why:gsub("^.*: ", ""))), 0)
end

--- Opens the file; nil and what is wrong when that fails. `command` stands before each input.
function joblog.open(path, command)
  if path:find "%z" then return nil, "has a zero byte in it" end
  local file, why = io.open(path, "wb")
  if not file then return nil, why end
  local log = setmetatable({ file = file, path = path, command = command, first = 0, started = 0, duration = 0 }, Joblog)
  log:_put(HEAD)
  return log
end

function Joblog:_put(text)
  local fine, why = self.file:write(text)
  if not fine then cannot_write(self.path, why) end
end

--- Results of the job are read now whose first input has this index; in the place of
--- Results:_keep_times.
function Joblog:note(job, first, _, _, started, duration, _, attempts)
  while core.job.build(job) do end -- nobody else asks for what was compiled inside of its inputs
  self.first, self.started, self.duration, self.attempts = first, started, duration, attempts
end

--- The exit code and signal that a worker process died with, from the message.
local function ending_of(f)
  local signal = f.kind == abi.kind.CRASH and f.message:match "was killed by (SIG%u+%d*)"
  local number = f.kind == abi.kind.CRASH and f.message:match "was killed by signal (%d+)"
  local code = f.kind == abi.kind.CRASH and f.message:match "exited with code (%d+)"
  if code and tonumber(code) ~= 0 then return tonumber(code), 0 end
  return signal and 0 or number and 0 or FAILED, signal and signals[signal] or tonumber(number or nil) or 0
end

--- Writes the line of an input whose result (as text) or failure has just been read. One whose
--- result was in a journal was not run, and has no line.
function Joblog:add(index, input, result)
  if self.attempts == 0 then return end
  local has_failed = failure.is_failure(result)
  local code, signal = 0, 0
  if has_failed then code, signal = ending_of(result) end
  local shown = input:gsub("[\t\n\r\\]", { ["\t"] = "\\t", ["\n"] = "\\n", ["\r"] = "\\r", ["\\"] = "\\\\" })
  self:_put(LINE:format(index, self.started + (index - self.first) * self.duration, self.duration, has_failed and 0 or #result, code, signal,
    self.command .. " " .. shown))
end

--- What was written so far is in the file from here on.
function Joblog:flush()
  local fine, why = self.file:flush()
  if not fine then cannot_write(self.path, why) end
end

function Joblog:close()
  self:flush()
  self.file:close()
end

return joblog
