--- For the specs of the command line: runs the binary by shell commands, as users do.

local support = require "tests.support"

local shell = {}

--- A word for the shell.
function shell.quote(text)
  return "'" .. tostring(text):gsub("'", [['\'']]) .. "'"
end

local function write_file(path, contents)
  local file = assert(io.open(path, "wb"))
  file:write(contents)
  file:close()
end

--- Runs a shell command in a new directory. $T is the binary, by its full path. `files` (name ->
-- contents) are made first. Nothing may take longer than four minutes: then the code is 124.
---@return { code: integer, stdout: string, stderr: string, dir: string }
function shell.run(command, files)
  local dir = support.temp_dir()
  for name, contents in pairs(files or {}) do write_file(dir .. "/" .. name, contents) end
  write_file(dir .. "/.command", command .. "\n")
  os.execute(("T=$(realpath %s); export T; cd %s; unset LUA_INIT; timeout -k 5 240 sh .command >.stdout 2>.stderr; echo $? >.code"):format(
    shell.quote(support.binary), dir))
  return {
    code = tonumber(support.read_file(dir .. "/.code")),
    stdout = support.read_file(dir .. "/.stdout"),
    stderr = support.read_file(dir .. "/.stderr"),
    dir = dir,
  }
end

--- The same for one script; its words are given as they stand in the shell.
function shell.script(source, words)
  return shell.run("$T " .. (words or "job.lua"), { ["job.lua"] = source })
end

--- Fails unless the command ended with this code, this output and these errors (nil: not looked at;
-- a string: equal).
function shell.check(expected, command, files)
  local done = shell.run(command, files)
  local seen = {
    code = done.code,
    stdout = expected.stdout and done.stdout,
    stderr = expected.stderr and done.stderr,
  }
  require "luassert".same({ code = expected.code or 0, stdout = expected.stdout, stderr = expected.stderr }, seen)
  return done
end

-- ---- terminals ----

---@class Terminal one tmux session with a shell in it; close it
local Terminal = {}
Terminal.__index = Terminal

local opened = 0

--- Opens a terminal of 80 x 50 and runs the command in it. After it, the screen shows "[ended N]".
---@return Terminal
function shell.terminal(command, environment)
  opened = opened + 1
  local self = setmetatable({ dir = support.temp_dir() }, Terminal)
  self.tmux = ("tmux -S %s/socket -f /dev/null "):format(self.dir)
  write_file(self.dir .. "/start", ("T=$(realpath %s)\ncd %s\nexport T %s\ntrap : INT\n%s\necho \"[ended $?]\"\nread wait\n"):format(
    shell.quote(support.binary), self.dir, environment or "", command))
  -- `exec`: a user's shell may stay around it otherwise, and would die of SIGQUIT
  local ok = os.execute(("env TERM=xterm LC_ALL=C.UTF-8 %s new-session -d -x 80 -y 50 'exec sh %s/start' </dev/null >/dev/null 2>&1"):format(
    self.tmux, self.dir))
  require "luassert".equal(0, ok)
  return self
end

--- What is on the screen, without empty lines.
function Terminal:screen()
  local pipe = io.popen(self.tmux .. "capture-pane -p 2>&1")
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("[ ]+\n", "\n"):gsub("\n\n+", "\n"))
end

local function wait_for(self, what, holds, level)
  local deadline = support.now() + 90 -- less than the sleeps that sessions interrupt
  repeat
    local screen = self:screen()
    if holds(screen) then return screen end
    support.sleep(0.02)
  until support.now() > deadline
  local pipe = io.popen(([[
    for p in $(pgrep -f "^$(realpath %s)"); do
      grep -h "State\|Sig[PBC]\|ShdPnd" /proc/$p/task/*/status
      cat /proc/$p/wchan
    done 2>&1]]):format(shell.quote(support.binary)))
  local state = pipe:read "*a"
  pipe:close()
  error(("the terminal never showed %s but\n%s[end of the screen]\n%s"):format(what, self:screen(), state), level + 1)
end

--- Waits until the screen shows the text. One that ends with ">" or ">>" ends with a prompt at
-- which nothing is typed yet.
function Terminal:wait(text, level)
  local prompt = text:match "\n?(>+)$"
  return wait_for(self, ("%q"):format(text), function(screen)
    return screen:find(text, 1, true) and (not prompt or screen:match "([^\n]*)\n*$" == prompt)
  end, (level or 1) + 1)
end

--- Has tmux send keys.
local function send(self, keys)
  require "luassert".equal(0, os.execute(self.tmux .. "send-keys " .. keys))
end

--- Types a text; with `awaited`, waits until the screen shows that.
function Terminal:type(text, awaited)
  send(self, "-l " .. shell.quote(text))
  if awaited then return self:wait(awaited, 2) end
end

--- Presses keys by their tmux names: "Enter", "C-c", "Up".
function Terminal:press(keys, awaited)
  send(self, keys)
  if awaited then return self:wait(awaited, 2) end
end

--- Types a line. Where it waits for a prompt, that is the one after this line.
function Terminal:line(text, awaited)
  self:type(text)
  if awaited and awaited:find ">$" then
    wait_for(self, "what was typed", function(screen) return not screen:find "\n>+\n*$" end, 2)
  end
  send(self, "Enter")
  if awaited then return self:wait(awaited, 2) end
end

function Terminal:close()
  os.execute(self.tmux .. "kill-server 2>/dev/null")
end

return shell
