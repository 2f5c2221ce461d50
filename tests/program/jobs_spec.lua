--- Scripts in the background (not stock: it is the program): --detach, jobs, attach, cancel.

local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

--- Runs shell commands with $T and a state folder of their own.
local function run(commands, files)
  return shell.run("export XDG_STATE_HOME=$PWD/state\n" .. commands, files)
end

local counts = [[
  local app = require "tidepool".App "counts"
  local f = app:func { name = "f" } (function(x) return x * 2 end)
  for _, value in f:map { 1, 2, 3 } do print(value) end
  io.stderr:write("words\n")
  os.exit(tonumber(arg[1]) or 0)
]]

local waits = [[
  local app = require "tidepool".App "waits"
  local f = app:func { name = "f" } (function(x)
    if x == 2 and not io.open "go" then
      io.open("begun", "w"):close()
      while true do end
    end
    return x * 10
  end)
  for _, value in f:map { 1, 2, 3 } do print(value) end
]]

describe("a script in the background", function()
  it("is a job with a name, whose output, end and exit code can be had", function()
    local done = run([[
      $T run --detach counts.lua 3 'a b'
      $T attach counts-1
      echo "code $?"
      $T jobs
      $T --detach counts.lua
      $T attach counts-2]], { ["counts.lua"] = counts })
    contains(done.stdout, "counts-1\n2\n4\n6\ncode 3\n", "counts-1 ", "failed (exit code 3)", "run counts.lua 3 'a b'\ncounts-2\n2\n4\n6\n")
    assert.same({ 0, "words\nwords\n" }, { done.code, done.stderr })
  end)

  it("goes on when whoever started it, or looks at it, is gone, until it is cancelled, and then does the rest with its journal", function()
    local done = run([[
      (exec 2>/dev/null; $T run --detach --journal kept.db waits.lua)
      timeout -s INT 1 $T attach waits-1; echo "looked $?"
      while ! [ -e begun ]; do sleep 0.05; done
      $T jobs
      $T cancel waits-1
      $T jobs
      $T cancel waits-1; echo "again $?"
      : >go
      $T run --journal kept.db waits.lua]], { ["waits.lua"] = waits })
    contains(done.stdout, "looked 124", "waits-1 ", "running", "waits-1 was cancelled", "cancelled  ", "again 1\n10\n20\n30\n")
    contains(done.stderr, "waits-1 has ended before: cancelled", "from kept.db")
  end)

  it("is started and named by a right use only", function()
    for words, message in pairs {
      ["--detach"] = "--detach needs a script",
      ["--detach -e 'print(1)'"] = "--detach needs a script",
      ["--detach --watch x.lua"] = "--detach needs a script",
      ["map --detach x.lua::f"] = "--detach needs a script",
      ["attach"] = "usage: tidepool attach JOB",
      ["cancel a b"] = "usage: tidepool cancel JOB",
      ["jobs x"] = "usage: tidepool jobs",
    } do
      local done = run("$T " .. words)
      assert.same({ words, 2, "" }, { words, done.code, done.stdout })
      contains(done.stderr, message)
    end
    for _, name in ipairs { "none-1", "../jobs", ".." } do
      local done = run("$T attach " .. name)
      assert.equal(1, done.code)
      contains(done.stderr, "there is no job " .. name)
    end
    contains(run "$T jobs".stdout, "No jobs.")
  end)
end)
