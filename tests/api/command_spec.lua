--- tidepool.command: programs that run beside, in scripts, tasks and mapped functions.

local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of = support.contains, support.failure_of
local command = tidepool.command

describe("tidepool.command", function()
  local app = tidepool.App "commands"

  --- Is a process with that word in its command line there? (The word is put together, so that who
  -- looks is not found.)
  local function is_running(word)
    return command({ "pgrep", "-f", word:sub(1, -2) .. "[" .. word:sub(-1) .. "]", check = false }).status == 0
  end

  it("runs a program with its words as they are, and gives status, output and errors", function()
    local done = command { "printf", "%s|", "two words", "$HOME", "", 7 }
    assert.same({ status = 0, stdout = "two words|$HOME||7|", stderr = "" }, done)
    done = command { "sh", "-c", "echo out; echo err >&2" }
    assert.same({ status = 0, stdout = "out\n", stderr = "err\n" }, done)
    assert.equal("/\n", command({ "pwd", cwd = "/" }).stdout)
    assert.equal("", command({ "cat" }).stdout)
  end)

  it("feeds the program, however much it is", function()
    local text = ("line\n"):rep(500000)
    assert.equal(text, command({ "cat", stdin = text }).stdout)
    assert.equal("line\n", command({ "head", "-n", 1, stdin = text }).stdout)
    assert.equal(#text, #command({ "sh", "-c", "tee /dev/stderr", stdin = text }).stderr)
  end)

  it("raises a failure that has the status and what was printed", function()
    local f = failure_of(function() command { "sh", "-c", "echo half; echo why >&2; exit 3" } end)
    contains(f.message, "command_spec.lua:", "sh: exit status 3: why")
    assert.same({ "error", 3, "half\n", "why\n" }, { f.kind, f.status, f.stdout, f.stderr })
    f = failure_of(function() command { "sh", "-c", "kill -9 $$" } end)
    contains(f.message, "sh: ended by signal 9 (SIGKILL)")
    assert.equal(9, f.signal)
    contains(failure_of(function() command { "no-such-program" } end).message, "command_spec.lua:",
      " no-such-program: cannot be started: No such file")
    contains(failure_of(function() command { "ls", cwd = "/no/such" } end).message, "command_spec.lua:", " ls: cannot be started in /no/such")
    assert.equal(1, command({ "false", check = false }).status)
  end)

  it("says what is wrong with its words and options", function()
    support.mistake(function() command "ls" end, "expected a table with the words of a command")
    support.mistake(function() command {} end, "expected the words of a command, got none")
    support.mistake(function() command { "ls", nil, "x" } end, "word 2 is nil")
    support.mistake(function() command { "ls", {} } end, "word 2 must be a string or a number")
    support.mistake(function() command { "ls", "a\0b" } end, "word 2 has a zero byte")
    support.mistake(function() command { "ls", cwdd = "/" } end, "unknown option 'cwdd' (did you mean 'cwd'?)")
    support.mistake(function() command { "ls", cwd = 7 } end, "option 'cwd' must be a string, got 7")
  end)

  it("works in mapped functions, whose failures have it, too", function()
    local echo = app:func(function(x) return tidepool.command({ "echo", x }).stdout end)
    local list = echo:map(tidepool.range(20)):list()
    for i = 1, 20 do assert.equal(i .. "\n", list[i]) end
    local fails = app:func(function(x) return tidepool.command { "sh", "-c", "echo bad >&2; exit " .. x } end)
    local f = failure_of(function() fails:map({ 0, 7 }):list() end)
    assert.same({ 2, 7, "bad\n" }, { f.index, f.status, f.stderr })
    contains(f.message, "sh: exit status 7: bad")
  end)

  it("lets others go on in tasks, and is killed with its group when it is cancelled", function()
    local order = {}
    local task = tidepool.async(function()
      tidepool.command { "sleep", "0.2" }
      order[#order + 1] = "slept"
    end)
    tidepool.async(function() order[#order + 1] = "other" end)
    task:get()
    assert.same({ "other", "slept" }, order)
    local word = "600." .. math.random(1e8)
    task = tidepool.async(function() tidepool.command { "sh", "-c", "sleep " .. word .. " & wait" } end)
    support.eventually("the command runs", function() return is_running(word) end)
    task:cancel()
    assert.equal("cancelled", failure_of(function() task:get() end).kind)
    support.eventually("it is gone", function() return not is_running(word) end)
    local slow = app:func(function(w) tidepool.command { "sh", "-c", "sleep " .. w .. " & wait" } end)
    word = "700." .. math.random(1e8)
    local results = slow:map { word }
    support.eventually("the command runs", function() return is_running(word) end)
    results:cancel()
    support.eventually("it is gone", function() return not is_running(word) end)
  end)

  it("is killed with the worker process in which it runs, whatever ends that", function()
    local app2 = tidepool.App("command", { executor = "processes", crash_retries = 0 })
    local function run(w) tidepool.command { "sh", "-c", "sleep " .. w .. " & wait" } end
    local word = "610." .. math.random(1e8)
    assert.equal("timeout", failure_of(function() app2:func { timeout = 1 } (run):remote(word) end).kind)
    support.eventually("it is gone after the timeout", function() return not is_running(word) end)
    word = "620." .. math.random(1e8)
    local results = app2:func(run):map { word }
    support.eventually("the command runs", function() return is_running(word) end)
    results:cancel()
    support.eventually("it is gone after the cancel", function() return not is_running(word) end)
    word = "630." .. math.random(1e8)
    results = app2:func(function(w)
      tidepool.command { "sh", "-c", "sleep " .. w .. " & kill -9 $PPID; wait" }
    end):map { word }
    assert.equal("crash", failure_of(function() results:list() end).kind)
    support.eventually("it is gone after the crash", function() return not is_running(word) end)
  end)

  it("is killed by Ctrl-C", function()
    local word = "800." .. math.random(1e8)
    local done = support.run_script(([[
      local tidepool = require "tidepool"
      tidepool.command { "sleep", "%s" }
    ]]):format(word), { launcher = "timeout --foreground -s INT 1" })
    assert.is_true(done.code == 130 or done.signal == 2 or done.code == 124)
    support.eventually("it is gone", function() return not is_running(word) end)
  end)
end)
