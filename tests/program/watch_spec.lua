--- A script that is being written: `tidepool new`, and --watch. (not stock: it is about the
-- program)

local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains, run = shell.check, support.contains, shell.run

local function write(path, text)
  local file = assert(io.open(path .. ".new", "w"))
  file:write(text)
  file:close()
  assert(os.rename(path .. ".new", path)) -- as an editor does; who looks never sees a half
end

describe("tidepool new", function()
  it("makes a script that runs, and whose options are its own", function()
    local done = run("$T new jobs && $T jobs.lua 1 2 3 && $T run jobs.lua --verbose 4 && $T new sub/other.lua 2>&1; "
      .. "mkdir sub; $T new sub/other.lua && $T sub/other.lua")
    assert.equal("", done.stderr)
    contains(done.stdout, "jobs.lua: a function, and an app:main that maps it; tidepool jobs.lua runs it\n", "\n3 inputs, together 14\n", "\n4\t16\n",
      "cannot make sub/other.lua: No such file", "\n4 inputs, together 30\n")
    contains(support.read_file(done.dir .. "/sub/other.lua"), 'tidepool.App "other"', "tidepool sub/other.lua 10 20 30")
  end)

  it("says how to run it as a shell wants it, whatever its name is", function()
    local done = check({ stdout = "my job's.lua: a function, and an app:main that maps it; tidepool 'my job'\\''s.lua' runs it\n" },
      [[$T new "my job's"]])
    contains(support.read_file(done.dir .. "/my job's.lua"), "--   tidepool 'my job'\\''s.lua' 10 20 30")
    check({ code = 2, stderr = "tidepool: two jobs.lua has no app:main; its functions are: f, g (run one: tidepool run 'two jobs.lua'::f)\n" },
      "$T run 'two jobs.lua'", { ["two jobs.lua"] = "local app = require 'tidepool'.App 'x' f = app:func(print) g = app:func(print)" })
  end)

  it("leaves a file that is there, and says what it takes", function()
    local done = check({ code = 1, stdout = "" }, "$T new jobs", { ["jobs.lua"] = "-- mine" })
    assert.equal("tidepool: new: jobs.lua is there already, and is left as it is\n", done.stderr)
    assert.equal("-- mine", support.read_file(done.dir .. "/jobs.lua"))
    check({ code = 2, stdout = "", stderr = "tidepool: new: expected one NAME, got 0 (see tidepool help new)\n" }, "$T new")
    check({ code = 2, stdout = "", stderr = "tidepool: new: expected one NAME, got 2 (see tidepool help new)\n" }, "$T new a b")
    check({ code = 2, stdout = "", stderr = "tidepool: new: unknown option '--x' (there are: --help)\n" }, "$T new --x")
    contains(run("$T new --help").stdout, "Usage: tidepool new NAME")
  end)
end)

describe("--watch", function()
  --- Starts it in a directory of its own. Gives { dir, says(text): waits until it has said that,
  -- ends }.
  local function watch(words, files)
    local dir = run("true", files).dir
    os.execute(("T=$(realpath %s); cd %s; exec </dev/null; $T --watch %s >.stdout 2>&1 & echo $! >%s/.pid"):format(
      shell.quote(support.binary), dir, words, dir))
    local watched = { dir = dir }
    function watched.says(text, times)
      support.eventually("it says " .. text, function()
        local _, n = support.read_file(dir .. "/.stdout"):gsub((text:gsub("%p", "%%%0")), "")
        return n >= (times or 1)
      end)
    end
    function watched.is_alive()
      return os.execute(("kill -0 $(cat %s/.pid) 2>/dev/null"):format(dir)) == 0
    end
    function watched.ends()
      os.execute(("kill -TERM $(cat %s/.pid) 2>/dev/null"):format(dir))
      support.eventually("it ends", function() return not watched.is_alive() end)
    end
    return watched
  end

  it("runs a script again when it, or a module that it has required, has changed, whatever came of it", function()
    local one = watch("job.lua a", { ["job.lua"] = "print(require 'part', ...)", ["part.lua"] = "return 'first'" })
    finally(one.ends)
    one.says "first\ta\n"
    one.says "tidepool: watching job.lua and 1 module: it runs again when that changes (Ctrl-C ends)\n"
    write(one.dir .. "/part.lua", "return 'second'")
    one.says "/part.lua has changed: running job.lua again\nsecond\ta\n"
    write(one.dir .. "/part.lua", "return (")
    one.says "part.lua:1: unexpected symbol"
    write(one.dir .. "/part.lua", "return 'third'")
    one.says "third\ta\n"
    write(one.dir .. "/job.lua", "print 'no module'")
    one.says "tidepool: job.lua has changed: running job.lua again\nno module\ntidepool: watching job.lua: "
    os.remove(one.dir .. "/job.lua")
    write(one.dir .. "/job.lua", "print 'back'")
    one.says "back\n"
  end)

  it("ends what still runs, with its workers, and an entry's options are its own", function()
    local one = watch("run job.lua::main --n 3", { ["job.lua"] = [[
      local app = require "tidepool".App "t"
      local spin = app:func(function() while true do end end)
      app:main { args = { n = 1 } } (function(args)
        print("spins", args.n)
        io.stdout:flush()
        spin:remote()
      end)
    ]] })
    finally(one.ends)
    one.says "spins\t3\n"
    write(one.dir .. "/job.lua", [[
      local app = require "tidepool".App "t"
      app:main { args = { n = 1 } } (function(args) print("done", args.n) end)
    ]])
    one.says "tidepool: job.lua has changed: running job.lua again\ndone\t3\n"
    one.ends()
    local sleeps = watch("job.lua", { ["job.lua"] = "print 'waits' io.stdout:flush() require 'tidepool'.sleep(1000)" })
    sleeps.says "waits\n"
    sleeps.ends() -- and the script with it, which would keep the file open
  end)

  it("needs a script", function()
    local why = "tidepool: --watch needs a script: tidepool --watch FILE, or tidepool --watch run FILE (try: tidepool --help)\n"
    for _, words in ipairs { "--watch", "--watch -", "--watch -e 1", "--watch map job.lua", "--watch run", "--watch -i job.lua" } do
      check({ code = 2, stdout = "", stderr = why }, "$T " .. words .. " </dev/null", { ["job.lua"] = "" })
    end
  end)
end)
