--- The interactive session: on a terminal (by tmux) and on plain standard input. (not stock: it is
-- about the program)

local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains = shell.check, support.contains

describe("the session on standard input that is no terminal", function()
  local function session(expected, lines)
    return check(expected, "$T --quiet -i <input", { input = table.concat(lines, "\n") .. "\n" })
  end

  it("shows what expressions give, without =", function()
    session({ stdout = '2\n"a\\n\\"b\\""  nil  5\n3\n7\n', stderr = "" },
      { "1 + 1", [['a\n"b"', nil, 5]], "x = 3", "x", "=7" })
  end)

  it("shows nothing where there is no value", function()
    session({ stdout = "hi\nnil\n", stderr = "" }, { "print 'hi'", "(function() end)()", "(function() return nil end)()", "", "-- comment" })
  end)

  it("shows tables, deep ones, long ones and cycles", function()
    session({ stdout = '{}\n{1, 2, ["a b"]=true, x=3}\n{self=<cycle>}\n{{{{{...}}}}}\n', stderr = "" },
      { "{}", "{ 1, 2, x = 3, ['a b'] = true }", "t = {} t.self = t", "t", "{{{{{{}}}}}}" })
    local done = session({ stderr = "" }, { "t = {} for i = 1, 1000 do t[i] = i end", "t", "('x'):rep(20000)" })
    contains(done.stdout, "\n  1,\n  2,\n", "\n  100,\n  ... (900 more)\n}\n", "... (19000 bytes more)")
    contains(session({}, { "{ ('long'):rep(20), ('long'):rep(20) }" }).stdout, '{\n  "longlong', '",\n  "long', '"\n}\n')
    contains(session({}, { "pairs, function() end" }).stdout, "function: builtin", "function <stdin:1>")
    session({ stdout = "pretty\n", stderr = "" }, { "setmetatable({}, { __tostring = function() return 'pretty' end })" })
    contains(session({ stderr = "" }, { "setmetatable({}, { __tostring = error, __index = error })" }).stdout, "{}")
  end)

  it("shows nothing that a terminal would obey", function()
    local done = session({ stderr = "" }, { [[t = setmetatable({}, { __tostring = function() return "\27[2J\194\155é\255" end })]], [[t, "\27[2J"]],
      "tidepool = require 'tidepool'", [[f = tidepool.App 'x':func(function() error("\27[2J", 0) end)]],
      "f:map({ 1 }, { return_exceptions = true }):list()[1].message", "f:map({ 1 }, { return_exceptions = true }):list()[1]" })
    contains(done.stdout, [[\027[2J\194\155é\255  "\027[2J"]], '"\\027[2J"\n\\027[2J\nin input 1')
    assert.is_nil(done.stdout:find "\27")
  end)

  it("ends as a script does: what it has spawned is run first", function()
    local spawns = { "f = require 'tidepool'.App 'r':func(function(s) print 'ran' while s do end end)", "a, b = f:spawn(), f:spawn()" }
    session({ code = 0, stdout = "ran\nran\n", stderr = "" }, spawns)
    spawns[3] = "c = f:spawn(true)" -- has no end: Ctrl-C is one
    spawns[4] = "os.execute '(sleep 0.5; kill -INT $PPID) & '"
    session({ code = 130, stderr = "" }, spawns)
  end)

  it("goes on in the next line until a chunk is complete", function()
    session({ stdout = "1\n2\n3\nab\ncd\n", stderr = "" },
      { "for i = 1, 2 do", "print(i)", "end", "1 +", "2", "print [[ab", "cd]]" })
  end)

  it("blames the line of an expression that fails", function()
    contains(session({}, { "no.x" }).stderr, "stdin:1: attempt to index global 'no'")
    contains(session({}, { "1 + -- more", "no.x -- here" }).stderr, "stdin:2: attempt to index global 'no'")
    session({ stdout = "5\n{1}\n6\n", stderr = "" }, { "5;", "{ 1 } ; ", "6 -- six" })
  end)

  it("names functions by the variables that they are assigned to", function()
    local several = [[
      local app = require 'tidepool'.App 'r'
      local function x(y, z) return y, z end
      local t = {}
      for _ = 1, 2 do
        local a, b = app:func(function(y, z) return y, z end), app:func(x)
        local c, d = 1, app:func { retries = 1 } (x)
        local M, N = app:cls { get = x }, app:cls { get = x }
        local e, g, h = app:func { name = 'own' } (x), app:func(x), app:func { retries = 1 } (x)
        t.i, t.j = app:func(x), app:func(x)
        local s = { k = app:func(x), l = app:func(x) }
        if x then y = app:func(x) end
        print(a.name, b.name, d.name, M.name, N.name, e.name, g.name, h.name, t.i.name, t.j.name, s.k.name, s.l.name, y.name)
      end
    ]]
    check({ stdout = ("a b d M N own g h i j k l y\n"):gsub(" ", "\t"):rep(2), stderr = "" }, "$T job.lua", { ["job.lua"] = several })
    session({ stdout = '"a"  "b"\n', stderr = "" }, {
      "app = tidepool.App 'r'", "c = app:func(print)", "a, b = app:func(print), app:func(print)", "a.name, b.name" })
    session({ stdout = "tidepool.Function: twice\ntidepool.Function: g\n", stderr = "" }, {
      "tidepool = require 'tidepool'", "app = tidepool.App 'r'", "twice = app:func(function(x) return 2 * x end)", "twice",
      "local g = app:func {", "  retries = 2,", "} (function(x) return x end)", "g",
    })
  end)

  it("goes on with a journaled map that was left, when it is typed again; a script has another one", function()
    local text = [[
      tidepool = require 'tidepool'
      f = tidepool.App 'r':func { name = 'f' } (function(x) if x == 0 then error 'zero' end return x end)
      for i in f:map(tidepool.range(10)) do if i == 2 then break end end
      print((pcall(function() f:map({ 1, 2, 0 }):list() end)))
      print(f:map(tidepool.range(10)):sum())
      print(f:map(tidepool.range(3)):sum())
      held = f:map(tidepool.range(4)) held:next()
      print(f:map(tidepool.range(5)):sum())
    ]]
    local show = "; sqlite3 run.db 'select name, inputs from maps'"
    check({ stdout = "false\n55\n6\n15\nf|10\nf#2|3\nf#3|4\nf#4|5\n", }, "$T --quiet --journal run.db -i <input" .. show, { input = text })
    check({ stdout = "false\n55\n6\n15\nf|10\nf#2|3\nf#3|10\nf#4|3\nf#5|4\nf#6|5\n" }, "$T --quiet --journal run.db job.lua" .. show,
      { ["job.lua"] = text })
  end)

  it("shows a failure in a list as one line, and alone with its traceback", function()
    local done = session({ stderr = "" }, { "tidepool = require 'tidepool'",
      "f = tidepool.App 'r':func(function(x) return x == 2 and error 'no' or x end)",
      "list = f:map({ 1, 2, 3 }, { return_exceptions = true }):list()", "list", "list[2]" })
    contains(done.stdout, "{1, <stdin:1: no>, 3, n=3}\nstdin:1: no\n",
      "in input 2 of map 'f'", "\nstack traceback:\n\tstdin:1: in function 'f'\n")
  end)

  it("lets tasks go on while a line waits, and tells of those that fail at its end", function()
    contains(session({ code = 1,
      stderr = "tidepool: stdin:1: boo\nstack traceback:\n\tstdin:1: in function <stdin:1>\n" }, {
      "tidepool = require 'tidepool'",
      "t = tidepool.async(function() tidepool.sleep(0.01) print 'slept' error 'boo' end)",
      "tidepool.sleep(0.1)" }).stdout, "slept")
  end)

  it("says what is missing at the end of the input", function()
    contains(session({ code = 0, stdout = "" }, { "for i = 1, 2 do" }).stderr, "'end' expected (to close 'for' at line 1) near '<eof>'")
  end)

  it("shows errors, and goes on", function()
    local done = session({ code = 0, stdout = "5\n" }, { "x x", "error 'ho'", "error()", "2 + 3" }) -- luajit says nothing of nil, too
    assert.equal([[
stdin:1: '=' expected near 'x'
stdin:1: ho
stack traceback:
	[C]: in function 'error'
	stdin:1: in main chunk
]], done.stderr)
  end)

  it("loads files, whose locals stay, and saves what was typed as a script", function()
    check({ stderr = "", stdout = "3\n4\n5\n4\n5\n" }, "$T --quiet -i <input && $T saved.lua", {
      ["more.lua"] = "#!/usr/bin/env tidepool\nlocal a, b = 1, 2\nfunction sum() return a + b end\n",
      input = ":load more.lua\nsum()\nfor i = 1, 1 do\n  print(i + 3)\nend\n=sum() + 2\n"
        .. "-- nothing\n:save saved.lua\n" })
  end)

  it("says what of a file is wrong, by its line, and overwrites none", function()
    local done = check({ stdout = "" }, "$T --quiet -i <input", { ["bad.lua"] = "local x = 1\nx x\n", ["fails.lua"] = "\nerror 'ho'\n",
      input = ":load bad.lua\n:load fails.lua\n:load none.lua\n:save bad.lua\n" })
    contains(done.stderr, "bad.lua:2: '=' expected near 'x'", "fails.lua:2: ho", "cannot read none.lua: No such file or directory",
      "there is a file bad.lua already")
  end)

  it("has colours where --color says so", function()
    local done = check({ stderr = "" }, "$T --quiet --color=always -i <input", { input = "{ 1, -2.5, 'a\\'\"', nil, true, x = false, f = print }\n" })
    assert.equal('{\27[36m1\27[0m, \27[36m-2.5\27[0m, \27[32m"a\'\\""\27[0m, [\27[36m5\27[0m]=\27[35mtrue\27[0m, f=function: builtin#29, '
      .. 'x=\27[35mfalse\27[0m}\n', (done.stdout:gsub("function: [^,]+", "function: builtin#29")))
    done = check({ code = 1 }, "$T --color -e 'error \"ho\"'")
    contains(done.stderr, "tidepool: \27[31m(command line):1: ho\27[0m\n")
    check({ code = 2, stderr = "tidepool: --color is always, never or auto, not blue (try: tidepool --help)\n" }, "$T --color=blue -e 1")
  end)

  it("ends with code 0 at the end of the input, and with what os.exit says", function()
    session({ code = 0 }, {})
    check({ code = 0, stdout = "" }, "$T --quiet -i <&-")
    session({ code = 4 }, { "os.exit(4)" })
  end)

  it("has the prompts that _PROMPT and _PROMPT2 say, and none otherwise", function()
    check({ stdout = "p 1\np q q 2\np ", stderr = "" }, "$T --quiet -i -e '_PROMPT, _PROMPT2 = \"p \", \"q \"' <input",
      { input = "print(1)\nfor i = 2, 2 do\nprint(i)\nend\n" })
    session({ stdout = "1\nnew: ", stderr = "" }, { "_ = setmetatable(_G, { __index = error })", "print(1) _PROMPT = 'new: '" })
  end)

  it("comes after the script", function()
    check({ stdout = "a\n7\n", stderr = "" }, "echo x | $T --quiet -i job.lua a", { ["job.lua"] = "x = 7 print(...)" })
    contains(check({}, "echo x | $T -i -e 'x = 7'").stdout, "LuaJIT 2.1", "Tidepool", "\n7\n")
  end)

  it("maps functions that were defined at the prompt", function()
    session({ stdout = "{1, 4, 9, n=3}\n", stderr = "" }, {
      "tidepool = require 'tidepool'",
      "app = tidepool.App 'r'",
      "function square(x) return x * x end",
      "f = app:func(function(x) return square(x) end)",
      "f:map({ 1, 2, 3 }):list()",
    })
  end)

  it("keeps locals, which all lines and functions share", function()
    session({ stdout = "2\n4\n1\n4\n12\n13  5\nnil\n6\n", stderr = "" }, {
      "local n = 0", "function inc() n = n + 1 return n end", "local _ = inc(), inc()", "n",
      "local a, b = 1, { x = 3 }", "a + b.x",
      "local function sq(x) return x * x end", "for i = 1, 2 do local z = sq(i) print(z) end",
      "n = 11", "inc()", "local n = 5", "inc(), n", "z",
      "do local a = 7 end", "local c", "c = a + n", "c",
    })
  end)

  it("keeps the line in errors of lines with locals, and ignores names in strings", function()
    local done = session({ stdout = '"local x = 1"\nnil\n5\n' },
      { "local t", "local s = 'local x = 1'", "s", "x", "local u = 1", "t.x = u", "local v = 5 return v" })
    contains(done.stderr, "stdin:1: attempt to index upvalue 't' (a nil value)")
  end)

  it("maps functions with kept locals", function()
    session({ stdout = "{11, 12, n=2}\n", stderr = "" }, {
      "local tidepool = require 'tidepool'", "local app = tidepool.App 'r'", "local k = 10",
      "local f = app:func(function(x) return x + k end)", "f:map({ 1, 2 }):list()",
    })
  end)

  it("has tidepool at hand, and the last value in _", function()
    session({ stdout = "\"function\"\n3\n4\n{n=2}\n2\nnil\n2\n", stderr = "" }, {
      "type(tidepool.App)", "1 + 2", "_ + 1", "{ n = 2 }", "_.n", "nil", "_" })
    session({ stdout = "7\n", stderr = "" }, { "tidepool = 7", "tidepool" })
  end)

  it("tells how long a line takes", function()
    local done = session({ stderr = "" }, { ":time 1 + 2", ":time for i = 1, 3 do x = i end", "x", ":time tidepool.sleep(0.01)" })
    assert.matches("^%[%d+ us%]\n3\n%[%d+ us%]\n3\n%[[%d.]+ m?s%]\n$", done.stdout)
  end)

  it("helps", function()
    local done = session({ stderr = "there is no command ':nonsense' (there are :help, :load FILE, :save FILE and :time; all else is Lua)\n" }, {
      "help()", "help", ":help", ":help retries", "help 'nonesuch'", "tidepool = require 'tidepool'",
      "help 'map'", ":help sum", "help(string.format)", "help(tidepool.async)",
       "help(tidepool.array('double', 2))", ":nonsense",
      "app = tidepool.App('r', { retries = 2 })", "f = app:func { name = 'ff' } (function(a, b, ...) end)",
      ":help f", "help(tidepool)", "help(app)", "help(f:map {})", "help(print)", "help(nil)", "help { 1 }" })
    assert.equal(3, select(2, done.stdout:gsub("Type Lua", "")))
    contains(done.stdout, "retries: an option of functions (app:func, app:cls, f:with, tidepool.App). How", 'There is no option or method "nonesuch"',
      "f:map(xs, ys, ..., options?)", "results:sum()", "string.format: a function of", "tidepool.async(fn, ...)", "a:slice(i, j)",
      "ff: function(a, b, ...)  stdin:1",
      "retries={max=2}", "f:starmap(lists, options?)", "tidepool.range(n)", "app:main(options)", "results:list()", "print: a function of", "nil: nil",
      "table: {1}")
    done = session({ stderr = "" }, {
      "help 'n'", "help 'timeout'", "help 'ignore_exceptions'", "help 'buffer'", "help 'random'", "help 'capacity'", "help(tidepool.gpu)",
      "help(tidepool.gpu.device)", "help(tidepool.Dict().put)", "help(tidepool.int)", "help 'mul64hi'",
    })
    contains(done.stdout, "n: an option of tidepool.wait.", "timeout: an option of functions (", "timeout: an option of tidepool.wait.",
      "ignore_exceptions: an option of for_each. Failures", "device:buffer(array)", "buffer:read(into?, at?)", "tidepool.random(seed, i?)",
      "tidepool.gpu.random(seed, i, draw?)", "tidepool.Queue { capacity = }", "tidepool.gpu.device(which?)", "dict:put(key, value",
      "tidepool.int.mul32(a, b)", "tidepool.int.mul64hi(a, b)")
    assert.is_nil(done.stdout:find("standard library", 1, true), done.stdout)
    done = check({ stderr = "" }, "$T --quiet -i job.lua <input",
      { ["job.lua"] = "-- Adds one.\n-- That is all.\nfunction add(x)\n  return x + 1\nend", input = "help(add)\n" })
    assert.equal("-- Adds one.\n-- That is all.\nfunction(x)  job.lua:3\n", done.stdout)
  end)

  it("does not need the standard library to be whole", function()
    contains(session({ stdout = "" }, { "require, table, string, tostring = nil", "{}" }).stderr, "")
  end)
end)

describe("the session on a terminal", function()
  if os.execute "command -v tmux >/dev/null 2>&1" ~= 0 then
    pending "tmux is not installed"
    return
  end
  local terminal
  -- ThreadSanitizer keeps signals back until the thread calls into libc, which a loop in Lua never
  -- does.
  local stops = support.binary:find "tsan" and pending or it

  local function open(command, environment)
    terminal = shell.terminal(command or "$T", "XDG_STATE_HOME=$PWD/state " .. (environment or ""))
    terminal:wait "\n>"
    return terminal
  end

  after_each(function()
    if terminal then terminal:close() end
    terminal = nil
  end)

  it("greets, answers, and ends at Ctrl-D with code 0", function()
    contains(open():screen(), "LuaJIT 2.1", "Tidepool")
    terminal:line("6 * 7", "\n42\n>")
    terminal:press("C-d", "[ended 0]")
  end)

  it("edits lines, and asks on with >>", function()
    open()
    terminal:type "print 'ac'"
    terminal:press "Left Left"
    terminal:type "b"
    terminal:press("Enter", "\nabc\n>")
    terminal:line("for i = 1, 2 do", ">>")
    terminal:line("print('line ' .. i)", ">> print")
    terminal:line("end", "\nline 1\nline 2\n>")
    terminal:line("#'é'", "\n2\n>")
  end)

  it("keeps a history, over sessions", function()
    open "$T && $T --quiet"
    terminal:line("'first' .. 'line'", '"firstline"')
    terminal:press "C-d"
    terminal:wait '"firstline"\n> ^D\n>'
    terminal:press("Up Enter", "> ^D\n> 'first' .. 'line'\n" .. '"firstline"\n>')
    terminal:press("C-d", "[ended 0]")
    assert.truthy(support.read_file(terminal.dir .. "/state/tidepool/history"):find("first", 1, true))
  end)

  it("recalls a block as a whole, which can be changed and run again", function()
    open()
    terminal:line("for i = 1, 2 do", ">>")
    terminal:line("print('line ' .. i)", ">> print")
    terminal:line("end", "\nline 1\nline 2\n>")
    terminal:line("'between'", '"between"\n>')
    terminal:press("Up Up", "> for i = 1, 2 do\nprint('line ' .. i)\nend")
    terminal:type " print 'end'"
    terminal:press("Enter", "\nline 1\nline 2\nend\n>")
    terminal:press("Up", "print 'end'")
    terminal:press("C-c", "\n>")
  end)

  it("completes file names in strings", function()
    open()
    for name, text in pairs { ["measures.csv"] = "1\n", ["measured.txt"] = "" } do
      local file = io.open(terminal.dir .. "/" .. name, "w")
      file:write(text)
      file:close()
    end
    terminal:type "io.open('mea"
    terminal:press("Tab", "io.open('measure")
    terminal:press("Tab", "measured.txt  measures.csv")
    terminal:type "s"
    terminal:press("Tab", "io.open('measures.csv")
    terminal:line("'):read '*l'", '"1"\n>')
  end)

  it("keeps it in ~/.local/state, and works without a place for it", function()
    open("HOME=$PWD XDG_STATE_HOME= $T; HOME=/proc XDG_STATE_HOME= $T")
    terminal:line("1 + 1", "\n2\n>")
    terminal:press "C-d"
    support.eventually("the history", function()
      return (support.read_file(terminal.dir .. "/.local/state/tidepool/history") or ""):find("1+\\0401", 1, true)
        or (support.read_file(terminal.dir .. "/.local/state/tidepool/history") or ""):find("1", 1, true)
    end)
    support.eventually("the second prompt", function()
      local screen = terminal:screen()
      return select(2, screen:gsub("LuaJIT", "")) == 2 and screen:find "\n>%s*$"
    end)
    terminal:line("2 + 3", "\n5\n>")
    terminal:press("C-d", "[ended 0]")
  end)

  it("drops a typed line, and an unfinished chunk, at Ctrl-C", function()
    open()
    terminal:type("print 'dropped'", "dropped")
    terminal:press("C-c", "'dropped'\n>")
    terminal:line("1 + 1", "\n2\n>")
    terminal:line("for i = 1, 2 do", ">>")
    terminal:press("C-c", ">>\n>")
    local screen = terminal:line("2 + 3", "\n5\n>")
    assert.is_nil(screen:find("\ndropped", 1, true))
  end)

  it("keeps the prompt as it is when some other signal comes", function()
    open()
    terminal:line("os.execute '(sleep 0.3; kill -PROF $PPID; sleep 0.1; touch sent) &'", "\n0\n>")
    support.eventually("the signal", function() return support.read_file(terminal.dir .. "/sent") end)
    local screen = terminal:line("2 + 3", "\n5\n>")
    assert.is_nil(screen:find("> >", 1, true))
  end)

  stops("stops a running line at Ctrl-C and goes on, interpreted, compiled or sleeping", function()
    open()
    for i, line in ipairs {
      "jit.off() go() while true do end",
      "jit.on() go() while true do end",
      "local n = 0 while true do n = n + 1 if n == 1e7 then go() end end", -- compiled by then
      "local n = 0 while true do n = n + math.sin(n) if n == 0 then go() end end",
      "go() while true do local t = {} end",
      "go() io.read()",
    } do
      terminal:line(("function go() go = function() end print('go %d') end"):format(i), "end\n>")
      terminal:line(line, ("\ngo %d\n"):format(i))
      terminal:press("C-c", "\n>")
      terminal:line(("'alive %d'"):format(i), ('"alive %d"\n>'):format(i))
    end
  end)

  stops("stops a map at Ctrl-C and can map again, also after a line without a map was stopped", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", ">")
    terminal:line("f = app:func(function(x) local ffi = require 'ffi' ffi.cdef 'int usleep(unsigned);' ffi.C.usleep(1000000) return x end)", ">")
    terminal:line("g = app:func(function(x) print 'go' return f.raw(x) end)", ">")
    terminal:line("g:map(tidepool.range(100)):list()", "\ngo\n")
    terminal:press("C-c", "interrupted\nstack traceback:\n        stdin:1: in main chunk\n[0 of 100 results were delivered]\n>")
    terminal:line("'queued ' .. g:stats().queued", '"queued 0"\n>')
    terminal:line("g:for_each(tidepool.range(100))", "g:for_each(tidepool.range(100))\ngo\n")
    terminal:press("C-c", "\n>")
    terminal:line("'still queued ' .. g:stats().queued", '"still queued 0"\n>')
    assert.is_nil(terminal:screen():find("error in error", 1, true))
    terminal:line("f:map({ 5 }):list()", "{5, n=1}\n>")
    terminal:line("print 'endless' while true do end", "\nendless\n")
    terminal:press("C-c", "\n>")
    terminal:line("f:map({ 6 }):list()", "{6, n=1}\n>")
    terminal:press("C-d", "[ended 0]")
  end)

  local backtracking = "print 'go' return ('a'):rep(40):find(('.-'):rep(40) .. 'b')"

  stops("ends at a Ctrl-C that comes after it was said that the line cannot be stopped", function()
    open()
    terminal:line(backtracking, "\ngo\n")
    for _ = 1, 20 do terminal:press "C-c C-c C-c" end -- people press it several times
    local said = "\ntidepool: this line cannot be stopped; Ctrl-C again ends the session\n"
    if not terminal:wait(said):find("[ended", 1, true) then terminal:press "C-c" end -- under load the last ones may have come after it
    terminal:wait "[ended 130]"
  end)

  stops("keeps the session when Ctrl-C comes twice and more within moments", function()
    open()
    for i, line in ipairs { "go() while true do end", "jit.off() go() while true do end", "jit.on() go() os.execute 'sleep 100' print ''",
      "go() io.read()", "" } do
      terminal:line(("function go() go = function() end print('go %d') end"):format(i), "end\n>")
      if line ~= "" then terminal:line(line, ("\ngo %d\n"):format(i)) end
      terminal:press("C-c C-c C-c", "\n>")
      terminal:line(("'alive ' .. %d"):format(i), ('"alive %d"\n>'):format(i))
    end
    assert.is_nil(terminal:screen():find("cannot be stopped", 1, true))
    terminal:press("C-d", "[ended 0]")
  end)

  stops("stops loops that catch errors", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' f = tidepool.App 'r':func(function(x) tidepool.sleep(0.1) return x end)", "end)\n>")
    for i, line in ipairs {
      "while true do pcall(function() go() while true do end end) end",
      "while true do pcall(function() while true do pcall(function() go() jit.off() while true do end end) end end) end",
      "jit.on() while true do xpcall(function() go() while true do end end, function() local x = 1 return x end) end",
      "while true do coroutine.wrap(function() pcall(function() go() while true do end end) end)() end",
      "while true do pcall(function() go() return f:map(tidepool.range(1000)):list() end) end",
      "local n = 0 while true do local fine, why = pcall(error, 'x') n = n + 1 if n == 10000 then go() end end",
    } do
      terminal:line(("function go() go = function() end print('go %d') end"):format(i), "end\n>")
      terminal:line(line, ("\ngo %d\n"):format(i))
      contains(terminal:press("C-c", "\n>"), "stdin:1: interrupted")
      terminal:line(("'alive ' .. %d"):format(i), ('"alive %d"\n>'):format(i))
    end
    terminal:line("#f:map({ 1, 2, 3 }):list()", "\n3\n>")
  end)

  stops("blames the user's line for an interruption, not one of the library", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' f = tidepool.App 'r':func(function(x) tidepool.sleep(100) end)", "end)\n>")
    for i, line in ipairs { "f:map({ 1, 2 }):list()", "f:remote(1)", "f:for_each { 1 }", "for i in f:map { 1 } do end", "f:spawn(1):get()",
      "tidepool.sleep(100)",
      "tidepool.gather(f:spawn(1), f:spawn(2))",
      "tidepool.App 'i':func { executor = 'inline' } (function(x) return x end):for_each(tidepool.range(1e12))" } do
      terminal:line(("print('go ' .. %d) %s"):format(i, line), ("\ngo %d\n"):format(i))
      local screen = terminal:press("C-c", "\n>")
      contains(screen:match("\ngo " .. i .. "\n(.*)"), "stdin:1: interrupted\nstack traceback:\n        stdin:1: in")
    end
    assert.is_nil(terminal:screen():find("[tidepool]/", 1, true))
  end)

  it("begins with a prompt whenever Ctrl-C comes while it starts", function()
    for i = 1, 3 do
      -- From the moment when SIGHUP, SIGINT and SIGQUIT are caught: before, the program does not
      -- run yet (the shell catches SIGINT).
      open([[sh -c '(until grep -q "SigCgt.*[7f]$" /proc/$$/status; do :; done; kill -INT $$; kill -INT $$; sleep 0.00]] .. i
        .. [[; kill -INT $$; : >sent) & exec $T']])
      support.eventually("all signals", function() return support.read_file(terminal.dir .. "/sent") end)
      support.eventually("an answer", function() -- on a loaded machine the last signal may still be on its way, and drop what is typed
        terminal:line("'alive ' .. 1")
        support.sleep(0.2)
        return terminal:screen():find('"alive 1"', 1, true)
      end)
      terminal:press("C-d", "[ended 0]")
      terminal:close()
    end
  end)

  it("leaves the terminal as it was at Ctrl-\\", function()
    open "trap : QUIT; ulimit -c 0; $T; code=$?; stty -a | grep -o ' -\\?icanon'; (exit $code)"
    terminal:line("x = 5", "\n>")
    terminal:press("C-\\\\", "[ended 131]")
    contains(terminal:screen(), "\n icanon\n")
  end)

  it("says what it drops when it is left", function()
    for _, farewell in ipairs { "C-d", "exit Enter" } do
      open "$T --workers 2"
      terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", "\n>")
      terminal:line("nap = app:func { name = 'nap' } (function(x) tidepool.sleep(x) return x end)", "end)\n>")
      terminal:line("a, b, c = nap:spawn(100), nap:spawn(100), nap:spawn_map { 100 }", "}\n>")
      terminal:line("t = tidepool.async(function() tidepool.sleep(100) end)", "end)\n>")
      terminal:press(farewell)
      terminal:wait "\n[dropped, since it still ran: 2 calls of nap, 1 map of nap, 1 task]\n[ended 0]"
      terminal:close()
    end
    open()
    terminal:press("C-d", "[ended 0]")
    assert.is_nil(terminal:screen():find("dropped", 1, true))
  end)

  it("ends at Ctrl-D also where calls have no end", function()
    open "$T --workers 2"
    terminal:line("f = require 'tidepool'.App 'r':func { name = 'f' } (function() while true do end end)", "end)\n>")
    terminal:line("c = f:spawn() for i = 1, 100 do f:spawn(i) end", "end\n>")
    terminal:press("C-d")
    terminal:wait "\n[dropped, since it still ran: 101 calls of f]\n[ended 0]"
  end)

  it("ends with the terminal as it was when it is told to end", function()
    open "$T; code=$?; stty -a | grep -o ' -\\?icanon'; (exit $code)"
    terminal:line("os.execute [[(sleep 0.5; kill -TERM $PPID) >/dev/null 2>&1 &]]", ">")
    local screen = terminal:wait "[ended 143]"
    contains(screen, "\n icanon\n")
    assert.is_nil(screen:find("-icanon", 1, true))
  end)

  it("completes globals, fields, methods, kept locals and options", function()
    open()
    terminal:type "tost"
    terminal:press("Tab", "> tostring")
    terminal:line("(5)", '\n"5"\n>')
    terminal:type "string.for"
    terminal:press("Tab", "string.format")
    terminal:line("('%d!', 6)", '\n"6!"\n>')
    terminal:line("local basket = { apples = 7, appetite = 1 }", "}\n>")
    terminal:type "basket.app"
    terminal:press("Tab", "\nappetite  apples\n> basket.app")
    terminal:type "l"
    terminal:press("Tab Enter", "> basket.apples\n7\n>")
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r' f = app:func(function(x) return x end)", "return x end)\n>")
    terminal:type "f:starm"
    terminal:press("Tab", "> f:starmap")
    terminal:type "({}, { return_e"
    terminal:press("Tab", "return_exceptions =")
    terminal:press("C-u")
    terminal:type "app:func { concurrency_limit = 1, retr"
    terminal:press("Tab", "limit = 1, retries =")
    terminal:press("C-u")
    terminal:type "nonesuch_"
    terminal:press "Tab"
    terminal:line(" = 1 nonesuch_ + 1", ">")
  end)

  it("completes without running the user's code", function()
    open()
    terminal:line("t = setmetatable({ real = 1 }, { __index = function() hit = true end, __pairs = error }) hit = false", ">")
    terminal:type "t.re"
    terminal:press("Tab", "> t.real")
    terminal:press "C-u"
    terminal:type "t.unreal.x"
    terminal:press "Tab"
    terminal:press "C-u"
    terminal:line("hit", "\nfalse\n>")
  end)

  it("shows errors in colour, but not for NO_COLOR", function()
    open()
    terminal:line("error('red', 0)", "\nred\n")
    local pipe = io.popen(terminal.tmux .. "capture-pane -ep")
    contains(pipe:read "*a", "\27[31mred")
    pipe:close()
    terminal:close()
    open("$T", "NO_COLOR=1")
    terminal:line("error('plain', 0)", "\nplain\n")
    pipe = io.popen(terminal.tmux .. "capture-pane -ep")
    assert.is_nil(pipe:read "*a":find("\27[31m", 1, true))
    pipe:close()
  end)

  it("tells above the prompt what was spawned and is done, and keeps what is being typed", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", ">")
    terminal:line("nap = app:func { name = 'nap' } (function(x) os.execute('sleep ' .. x) if x == 1.5 then error 'bad' end return x, 'ok' end)", ">")
    terminal:line("call = nap:spawn(1)", "\n>")
    terminal:type "print('typed"
    contains(terminal:wait "nap is done", "[nap is done: 1  \"ok\"]\n> print('typed")
    terminal:line(" on')", "\ntyped on\n>")
    terminal:line("call:get()", '1  "ok"\n>')
    terminal:line("failing = nap:spawn(1.5)", "\n>")
    terminal:type(("x"):rep(100))
    local screen = terminal:wait "stdin:1: bad"
    contains(screen, "\n> " .. ("x"):rep(78) .. "\n" .. ("x"):rep(22))
    assert.equal(1, select(2, screen:gsub("> xxx", "")))
  end)

  it("keeps what workers write away from what is being typed", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", ">")
    terminal:line("loud = app:func(function(x) tidepool.sleep(x) print 'printed' io.write 'part' io.stderr:write 'error\\n' end)", ">")
    terminal:line("call = loud:spawn(0.5)", "\n>")
    terminal:type "print('typed"
    contains(terminal:wait "loud is done", "\nprinted\n", "\nerror\n", "\npart\n", "\n[loud is done]\n> print('typed")
    terminal:line(" on')", "\ntyped on\n>")
  end)

  it("lets tasks and timers go on at the prompt, and tells of those that fail", function()
    open()
    terminal:line("tidepool = require 'tidepool' uv = require 'luv'", ">")
    terminal:line("task = tidepool.async(function() tidepool.sleep(0.3) print 'slept' error 'boo' end)", "end)\n>")
    terminal:line("uv.new_timer():start(600, 0, function() io.write 'tick' end)", "\n0\n>")
    terminal:type "'typed"
    contains(terminal:wait "\ntick\n> 'typed", "\nslept\n", "\nstdin:1: boo\n")
    terminal:line(" on'", '"typed on"\n>')
    terminal:line("call = tidepool.App 'r':func(function() tidepool.sleep(100) end):spawn()", "\n>")
    terminal:press("C-d", "[ended 0]")
  end)

  stops("stops a task at Ctrl-C that does not wait", function()
    open()
    terminal:line("tidepool = require 'tidepool'", "'tidepool'\n>")
    terminal:line("tidepool.async(function() tidepool.sleep(0.1) print 'looping' while true do end end)", "\nlooping\n")
    terminal:press("C-c", "\n>")
    terminal:line("'alive'", '"alive"\n>')
  end)

  it("begins answers and prompts at the line's start", function()
    open()
    terminal:line("io.write 'abc'", "\nabc\ntrue\n>")
    terminal:line("io.write 'def' error('no', 0)", "\ndef\nno\n")
    terminal:line("x = io.write 'ghi'", "\nghi\n>")
  end)

  it("takes pasted code, tabs and all", function()
    open()
    local pipe = io.popen(terminal.tmux .. "load-buffer -", "w")
    pipe:write "function fact(n)\n\tif n <= 1 then\n\t\treturn 1\n\tend\n\treturn n\t* fact(n - 1)\nend\nprint('fact ' .. fact(5))\n"
    pipe:close()
    os.execute(terminal.tmux .. "paste-buffer")
    assert.is_nil(terminal:wait "\nfact 120\n>":find("newproxy", 1, true))
  end)

  it("draws the line anew after a resize", function()
    open()
    terminal:type("print '" .. ("a"):rep(60) .. "'", "a'\n")
    os.execute(terminal.tmux .. "resize-window -x 40 -y 50")
    terminal:press("C-a", "\n> print '" .. ("a"):rep(31) .. "\n" .. ("a"):rep(29) .. "'\n")
    terminal:type("local x = 1 ", "\n> local x = 1 print '" .. ("a"):rep(19) .. "\n" .. ("a"):rep(40) .. "\na'\n")
    terminal:press("Enter", "\n" .. ("a"):rep(40) .. "\n" .. ("a"):rep(20) .. "\n>")
  end)

  it("drops an unfinished chunk at Ctrl-D, and stays", function()
    open()
    terminal:line("x = {", "\n>>")
    terminal:press("C-d", "unexpected symbol near '<eof>'")
    terminal:line("1 + 1", "\n2\n>")
    terminal:line("exit", "[ended 0]")
  end)

  it("completes methods of what calls give, of arrays and of failures", function()
    open()
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r' f = app:func(error) a = tidepool.array('double', 2)", "2)\n>")
    terminal:line("list = f:map({ 1 }, { return_exceptions = true }):list()", "list()\n>")
    terminal:line("Model = app:cls { predict = print } one = Model {}", "{}\n>")
    for _, case in ipairs {
      { "a:sl", "a:slice" }, { "a.ct", "a.ctype" }, { "list[1].mess", "list[1].message" },
      { "f:map({}):pro", "f:map({}):progress" }, { "f:map{ 'a}', 1 }:pro", "f:map{ 'a}', 1 }:progress" }, { "f:map {1}:pro", "f:map {1}:progress" },
      { "tidepool.array('double', 2):sl", "tidepool.array('double', 2):slice" }, { "a:copy():sl", "a:copy():slice" },
      { "tidepool.gpu.dev", "tidepool.gpu.device" }, { "tidepool.int.mul6", "tidepool.int.mul64hi" },
      { "tidepool.gpu.device():kernel_", "tidepool.gpu.device():kernel_file" },
      { "tidepool.gpu.device():buffer(a):fi", "tidepool.gpu.device():buffer(a):fill" },
      { "tidepool.App 'x':incl", "tidepool.App 'x':include" }, { "app:func{}(print):spawn_", "app:func{}(print):spawn_map" },
      { "Model{}.pre", "Model{}.predict" }, { "Model {}.predict:flat", "Model {}.predict:flat_map" },
      { "one.predict:map{}:pro", "one.predict:map{}:progress" },
      { "tidepool.Dict():upd", "tidepool.Dict():update" }, { "tidepool.Queue{}:is_", "tidepool.Queue{}:is_closed" },
      { "tidepool.event():on", "tidepool.event():on_done" }, { "f:stream(1):can", "f:stream(1):cancel" }, { "(a):sl", "(a):slice" },
      { "f:spawn(1):on", "f:spawn(1):on_done" }, { "('x'):form", "('x'):format" }, { "f.opt", "f.options" },
      { "help 'return_", "'return_exceptions" },
      { ":help retr", ":help retries" }, { "require 'tidep", "require 'tidepool" }, { "app:func(print):spawn_", "app:func(print):spawn_map" },
    } do
      terminal:type(case[1])
      terminal:press("Tab", "\n> " .. (case[2]:find "^'" and case[1]:sub(1, 5) or "") .. case[2])
      terminal:press "C-u"
    end
    terminal:type "unknown[1]."
    terminal:press "Tab"
    terminal:line("x = 1", "attempt to index") -- nothing was added
  end)

  it("erases with spaces on a dumb terminal", function()
    open("script -qec $T log; cat -v log", "TERM=dumb")
    terminal:line("tidepool = require 'tidepool' f = tidepool.App 'r':func(function() tidepool.sleep(0.3) print 'worker' end)", "end)\n>")
    terminal:line("call = f:spawn()", "\n>")
    terminal:type "'typed"
    contains(terminal:wait "is done", "\nworker\n", "\n> 'typed")
    terminal:line("'", '"typed"\n>')
    terminal:press("C-d", "[ended 0]")
    assert.is_nil(terminal:screen():find("^[[", 1, true))
  end)

  it("shows progress of a map, and takes it away", function()
    open("$T --workers 2", "CI=")
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", ">")
    terminal:line("nap = app:func { name = 'nap' } (function(x) os.execute 'sleep 0.2' return x end)", ">")
    terminal:line("#nap:map(tidepool.range(20)):list()", "busy")
    local screen = terminal:wait "\n20\n>"
    contains(screen, "nap: 20 done in")
    assert.is_nil(screen:find "busy")
    terminal:line("r = nap:map { 1, 2 }", "2 }\n>")
    support.eventually("the map is done", function() return terminal:line("'done ' .. r:progress().done", "done "):find("done 2", 1, true) end)
    terminal:line("tidepool.sleep(0.6)", ">")
    assert.equal(1, select(2, terminal:line("#r:list()", "\n2\n>"):gsub("done in", ""))) -- nobody waited for it
  end)
end)
