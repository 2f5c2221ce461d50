--- Progress of maps, as the program shows it: the line on a terminal, lines in a log, and --log=tag
-- (not stock: it is the program's).

local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains = shell.check, support.contains

-- A script that maps `nap` over n inputs, each taking so many seconds.
local function script(n, seconds, more)
  return ([[
    local tidepool = require "tidepool"
    local app = tidepool.App "p"
    local function sleep(seconds)
      local ffi = require "ffi"
      pcall(ffi.cdef, "int usleep(unsigned);")
      ffi.C.usleep(seconds * 1e6)
    end
    local nap = app:func { name = "nap" } (function(x)
      sleep(type(x) == "number" and x < 0 and -x or %g)
      if x == 3 then error "three" end
      return x
    end)
    local n = %d
    %s
  ]]):format(seconds, n, more or "nap:map(tidepool.range(n), { return_exceptions = true }):list()")
end

describe("progress on a stream that is no terminal", function()
  it("shows nothing unless it is asked for", function()
    check({ stdout = "", stderr = "" }, "$T job.lua", { ["job.lua"] = script(30, 0.03) })
    check({ stdout = "", stderr = "" }, "$T --no-progress job.lua", { ["job.lua"] = script(30, 0.03) })
    check({ stdout = "", stderr = "" }, "$T --progress=plain --quiet job.lua", { ["job.lua"] = script(30, 0.03) })
  end)

  it("is lines with --progress=plain, and a summary", function()
    for _, flag in ipairs { "--progress=plain", "--progress" } do
      local text = check({ stdout = "" }, "$T --workers 2 " .. flag .. " job.lua", { ["job.lua"] = script(60, 0.05) }).stderr
      assert.truthy(text:find "^nap %d+/60 %d+%% [%d.]+/s eta %d:%d%d 1 failed [12]/2 busy\n")
      assert.truthy(text:find "\nnap: 60 done in %d+%.%d s, [%d.]+/s, 1 failed\n$")
    end
  end)

  it("is JSON with --progress=json", function()
    local cjson = require "cjson"
    local text = check({ stdout = "" }, "$T --workers 2 run --progress=json job.lua",
      { ["job.lua"] = script(60, 0.05, [[app:main(function() nap:map(tidepool.range(n), { return_exceptions = true }):list() end)]]) }).stderr
    local last
    for line in text:gmatch "[^\n]+" do last = cjson.decode(line) end
    assert.same({ "nap", 60, 60, 1, true, 2 }, { last.name, last.done, last.total, last.failed, last.over, last.workers })
  end)

  it("says how far a map came that ended early", function()
    local text = check({ code = 1 }, "$T --workers 2 --progress=plain job.lua",
      { ["job.lua"] = script(40, 0.3, "nap:map(tidepool.range(n)):list()") }).stderr
    assert.truthy(text:find "nap: stopped after 3 of 40 in %d+%.%d s, 1 failed\ntidepool: ")
  end)

  it("leaves out maps that are short, or told progress = false", function()
    check({ stderr = "" }, "$T --progress=plain job.lua", { ["job.lua"] = script(5, 0.001) })
    check({ stderr = "" }, "$T --progress=plain job.lua", { ["job.lua"] = script(20, 0.1, "nap:map({ 1, 2, -0.9 }, { progress = false }):list()") })
  end)

  it("answers a wrong mode with one line", function()
    check({ code = 2, stderr = "tidepool: --progress is line, plain, json or off, not loud (try: tidepool --help)\n" }, "$T --progress=loud x.lua")
  end)
end)

describe("--log=tag", function()
  it("says which worker and which input a line is from", function()
    local text = check({ stderr = "" }, "$T --workers 2 --log=tag job.lua",
      { ["job.lua"] = script(3, 0, 'app:func(function(x) print(x, "a\\nb") end):map({ 1, 2 }):list() print "own"') }).stdout
    assert.truthy(text:find "w[12] #1| 1\ta\nw[12] #1| b\n")
    assert.truthy(text:find "w[12] #2| 2\ta\nw[12] #2| b\n")
    assert.truthy(text:find "\nown\n$")
  end)

  it("goes for what is written in parts, too", function()
    local done = check({}, "$T --workers 2 --log=tag job.lua", { ["job.lua"] = script(3, 0, [[
      app:func(function(x)
        io.write("a", x) io.write(" b\nc", x)
        io.stderr:write "err" io.stderr:write "or\n"
        if x == 2 then print "\nd" end
      end):for_each { 1, 2 }]]) })
    assert.truthy(done.stdout:find "w[12] #1| a1 b\nw[12] #1| c1\n")
    assert.truthy(done.stdout:find "w[12] #2| a2 b\nw[12] #2| c2\nw[12] #2| d\n")
    contains(done.stderr, "#1| error\n", "#2| error\n")
  end)
end)

describe("the progress line on a terminal", function()
  if os.execute "command -v tmux >/dev/null 2>&1" ~= 0 then
    pending "tmux is not installed"
    return
  end
  local terminal

  local function open(source, flags, environment)
    terminal = shell.terminal("cat >job.lua <<'END'\n" .. source .. "\nEND\n$T --workers 2 " .. (flags or "") .. " job.lua",
      "CI= " .. (environment or ""))
    return terminal
  end

  after_each(function()
    if terminal then terminal:close() end
    terminal = nil
  end)

  it("shows how far a map is, and makes way for a summary", function()
    open(script(60, 0.06))
    local screen = terminal:wait "busy"
    assert.truthy(screen:find "^nap %d+/60 %d+%% #*%-* [%d.]+/s eta %d:%d%d 1 failed [12]/2 busy\n$")
    screen = terminal:wait "[ended 0]"
    assert.truthy(screen:find "^nap: 60 done in %d+%.%d s, [%d.]+/s, 1 failed\n%[ended 0%]\n$")
  end)

  it("keeps names on the line, without what a terminal would obey", function()
    local done = check({}, "$T --progress=plain job.lua", { ["job.lua"] = [=[
      local tidepool = require "tidepool"
      tidepool.App "a":func { name = "\27[2J\nforged\194\155\255é" } (function() tidepool.sleep(0.6) end):for_each { 1 }]=] })
    contains(done.stderr, "\\027[2J\\010forged\\194\\155\\255é: 1 done in")
    assert.is_nil(done.stderr:find "[\27\194\255]")
  end)

  it("names an item that holds up the order", function()
    open(script(1, 0.05, "for _ in nap:map { 1, -6, 5, 6, 7 } do end"))
    contains(terminal:wait "waiting for", "nap 4/5 80%", "1/2 busy waiting for #2 (")
    os.execute(terminal.tmux .. "resize-window -x 46 -y 50") -- what says least goes first
    support.eventually("the line fits", function()
      return terminal:screen():find "^nap 4/5 80%% [^\n]*waiting for #2 %(%d s%)\n" and not terminal:screen():find "busy"
    end)
    terminal:wait "[ended 0]"
  end)

  it("is shared by several maps", function()
    open(script(40, 0.05, [[
      local other = app:func { name = "other" } (function(x) sleep(0.05) return x end)
      other:spawn_map(tidepool.range(n))
      nap:map(tidepool.range(n), { return_exceptions = true }):list()]]))
    assert.truthy(terminal:wait "|":find "other %d+/40 %d+%% | nap %d+/40 %d+%%")
    contains(terminal:wait "[ended 0]", "nap: 40 done", "other: 40 done")
  end)

  it("says what a map waits for, and shows the maps in its inputs", function()
    open(script(6, 0.8, [[
      local one = app:func { name = "one", concurrency_limit = 1 } (function(x) sleep(0.5) return x end)
      one:map(tidepool.range(8)):list()
      local inner = app:func { name = "inner" } (function(x) sleep(0.3) return x end)
      app:func { name = "outer" } (function() return inner:map(tidepool.range(20)):sum() end):map({ 1, 2 }):list()]]))
    assert.truthy(terminal:wait "limit 1":find "one %d/8 %d+%% ")
    assert.truthy(terminal:wait "2 maps":find "outer 0/2 0%% [^\n]*%(2 maps, inner %d+/40%)")
    os.execute(terminal.tmux .. "resize-window -x 40 -y 50") -- they say more than the rate, which is 0
    support.eventually("the line fits", function() return terminal:screen():find "outer %d/2 %d+%% %(2 maps, inner %d+/40%)\n" end)
    terminal:wait "[ended 0]"
  end)

  it("shows which input runs for long, and fits 40 columns", function()
    open(script(1, 0.05, [[
      local other = app:func { name = "a_name_that_is_rather_long" } (function(x) sleep(0.5) return x end)
      other:spawn_map(tidepool.range(8))
      for _ in nap:map { 1, -14, 5, 6, 7 } do end]]))
    os.execute(terminal.tmux .. "resize-window -x 40 -y 50")
    support.eventually("two maps fit", function()
      local line = terminal:screen():match "[^\n]*nap [^\n]*"
      return line and #line < 40 and line:find "^a_name%. %d/8 %d+%% | nap %d/5 %d+%%$"
    end)
    terminal:wait "#2 runs for 0:1"
    assert.truthy(terminal:screen():find "nap 4/5 80%% [^\n]*#2 runs for 0:1%d\n")
    for line in terminal:screen():gmatch "[^\n]+" do assert.is_true(#line < 40 or line:find "done in" ~= nil, line) end
    terminal:wait "[ended 0]"
  end)

  it("is not torn by what the script and its workers print", function()
    open(script(40, 0.05, [[
      local loud = app:func { name = "loud" } (function(x) sleep(0.05) print("worker " .. x)
        io.write("written ") io.write(x, "\n") io.stderr:write("error ", x, "\n") return x end)
      for i in loud:map(tidepool.range(n)) do
        print("script " .. i)
        io.write("part ") io.write(i, "\n")
        io.stdout:write("file ", i, "\n")
      end]]))
    local screen = terminal:wait "[ended 0]"
    for line in screen:gmatch "[^\n]+" do
      local is_whole = line:find "^worker %d+$"
        or line:find "^written %d+$" or line:find "^error %d+$" or line:find "^script %d+$" or line:find "^part %d+$" or line:find "^file %d+$"
        or line:find "^loud: 40 done in" or line == "[ended 0]"
      assert.truthy(is_whole, "torn: " .. line)
    end
    contains(screen, "worker 40\n", "file 40\n")
  end)

  it("goes on above a line that the script has begun and does not end", function()
    open(script(8, 0.05, [[
      local loud = app:func { name = "loud" } (function(x) print("worker " .. x) return x end)
      io.write "waiting: "
      loud:for_each(tidepool.range(n))
      print "over"]]))
    contains(terminal:wait "[ended 0]", "worker 1\n", "worker 8\n", "over\n")
  end)

  it("is gone when an error or Ctrl-C ends the script", function()
    open(script(100, 0.05, 'for i in nap:map(tidepool.range(n), { return_exceptions = true }) do if i == 40 then error("mine", 0) end end'))
    terminal:wait "busy"
    assert.truthy(terminal:wait "[ended 1]":find "^tidepool: mine\n")
    terminal:close()
    open(script(1000, 0.05))
    terminal:wait "busy"
    terminal:press("C-c", "[ended 130]")
    contains(terminal:screen(), "tidepool: interrupted (")
    assert.is_nil(terminal:screen():find "busy")
  end)

  it("is not disturbed by signals that mean nothing to it", function()
    open(script(60, 0.05, [[
      os.execute "(for i in $(seq 300); do kill -WINCH $PPID; kill -CHLD $PPID; kill -CONT $PPID; done) >/dev/null 2>&1 &"
      local all = nap:map(tidepool.range(n), { return_exceptions = true }):list()
      local sum = 0
      for i = 1, all.n do sum = sum + (tidepool.is_failure(all[i]) and 0 or all[i]) end
      print(all.n, sum)
    ]]))
    local screen = terminal:wait "[ended 0]"
    assert.truthy(screen:find "^nap: 60 done in [^\n]*1 failed\n60%s+1827\n%[ended 0%]\n$")
  end)

  it("ends at Ctrl-C also when workers wait for commands", function()
    open([[
      local execute = os.execute
      local command = require "tidepool".App "a":func { name = "command" } (function(x)
        return x % 2 == 0 and execute "sleep 1000" or os.execute "sleep 1000"
      end)
      command:map(require "tidepool".range(100)):list()]])
    terminal:wait "busy"
    terminal:press("C-c", "[ended 130]")
    contains(terminal:screen(), "tidepool: interrupted")
  end)

  it("fits the terminal, also after a resize", function()
    open(script(400, 0.05))
    terminal:wait "busy"
    os.execute(terminal.tmux .. "resize-window -x 24 -y 50")
    support.eventually("the line fits", function()
      local screen = terminal:screen()
      return select(2, screen:gsub("\n", "")) <= 4 and screen:find "nap %d+/400"
    end)
    terminal:press("C-c", "[ended 130]")
  end)

  it("is not there for --no-progress, --quiet, in CI, and on a dumb terminal", function()
    for _, case in ipairs { { "--no-progress" }, { "--quiet" }, { "--progress=off" }, { "", "CI=true" }, { "", "TERM=dumb" } } do
      open(script(20, 0.07), case[1], case[2])
      assert.equal("[ended 0]\n", terminal:wait "[ended 0]")
      terminal:close()
    end
  end)
end)
