--- The interactive session: on a terminal (by tmux) and on plain standard input. (not stock: it is about the program)

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
    contains(done.stdout, "\n  1,\n  2,\n", "\n  100,\n  ... (900 more)\n}\n", "... (10000 bytes more)")
    contains(session({}, { "{ ('long'):rep(20), ('long'):rep(20) }" }).stdout, '{\n  "longlong', '",\n  "long', '"\n}\n')
    contains(session({}, { "print, function() end" }).stdout, "function: builtin", "function <stdin:1>")
    session({ stdout = "pretty\n", stderr = "" }, { "setmetatable({}, { __tostring = function() return 'pretty' end })" })
    contains(session({ stderr = "" }, { "setmetatable({}, { __tostring = error, __index = error })" }).stdout, "{}")
  end)

  it("goes on in the next line until a chunk is complete", function()
    session({ stdout = "1\n2\n3\nab\ncd\n", stderr = "" },
      { "for i = 1, 2 do", "print(i)", "end", "1 +", "2", "print [[ab", "cd]]" })
  end)

  it("says what is missing at the end of the input", function()
    contains(session({ code = 0, stdout = "" }, { "for i = 1, 2 do" }).stderr, "'end' expected (to close 'for' at line 1) near '<eof>'")
  end)

  it("shows errors, and goes on", function()
    local done = session({ code = 0, stdout = "5\n" }, { "x x", "error 'ho'", "error()", "2 + 3" })
    assert.equal([[
stdin:1: '=' expected near 'x'
stdin:1: ho
stack traceback:
	[C]: in function 'error'
	stdin:1: in main chunk
nil
stack traceback:
	[C]: in function 'error'
	stdin:1: in main chunk
]], done.stderr)
  end)

  it("ends with code 0 at the end of the input, and with what os.exit says", function()
    session({ code = 0 }, {})
    check({ code = 0, stdout = "" }, "$T --quiet -i <&-")
    session({ code = 4 }, { "os.exit(4)" })
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
  -- ThreadSanitizer keeps signals back until the thread calls into libc, which a loop in Lua never does.
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
    terminal:press "C-c"
    terminal:line("1 + 1", "\n2\n>")
    terminal:line("for i = 1, 2 do", ">>")
    terminal:press("C-c", ">>\n>")
    local screen = terminal:line("2 + 3", "\n5\n>")
    assert.is_nil(screen:find("\ndropped", 1, true))
  end)

  stops("stops a running line at Ctrl-C and goes on, interpreted, compiled or sleeping", function()
    open()
    for i, line in ipairs {
      "jit.off() while true do end",
      "jit.on() while true do end",
      "local n = 0 while true do n = n + math.sin(n) end",
      "while true do local t = {} end",
      "io.read()",
    } do
      terminal:type(line)
      terminal:press "Enter"
      support.sleep(0.3)
      terminal:press "C-c"
      terminal:line(("'alive %d'"):format(i), ('"alive %d"\n>'):format(i))
    end
  end)

  stops("stops a map at Ctrl-C and can map again, also after a line without a map was stopped", function()
    open "$T --workers 2"
    terminal:line("tidepool = require 'tidepool' app = tidepool.App 'r'", ">")
    terminal:line("f = app:func(function(x) local ffi = require 'ffi' ffi.cdef 'int usleep(unsigned);' ffi.C.usleep(1000000) return x end)", ">")
    terminal:line "f:map(tidepool.range(100)):list()"
    support.sleep(0.5)
    terminal:press("C-c", "interrupted")
    terminal:line("f:map({ 5 }):list()", "{5, n=1}")
    terminal:line "while true do end"
    support.sleep(0.3)
    terminal:press "C-c"
    terminal:line("f:map({ 6 }):list()", "{6, n=1}")
    terminal:press("C-d", "[ended 0]")
  end)

  stops("ends at the second Ctrl-C when the first could not stop the line", function()
    open()
    terminal:line "('a'):rep(40):find(('.-'):rep(40) .. 'b')"
    support.sleep(0.3)
    terminal:press "C-c"
    support.sleep(0.1)
    terminal:press("C-c", "[ended 130]")
  end)

  it("ends with the terminal as it was when it is told to end", function()
    open "$T; code=$?; stty -a | grep -o ' -\\?icanon'; (exit $code)"
    terminal:line("os.execute [[(sleep 0.5; kill -TERM $PPID) >/dev/null 2>&1 &]]", ">")
    local screen = terminal:wait "[ended 143]"
    contains(screen, "\n icanon\n")
    assert.is_nil(screen:find("-icanon", 1, true))
  end)

  it("says once that a local ends with its line", function()
    open()
    terminal:line("local a = 5", "(a local ends with its line: leave out `local` to keep it)\n>")
    terminal:line("local b = 5", "local b = 5\n>")
    local _, times = terminal:screen():gsub("leave out", "")
    assert.equal(1, times)
  end)
end)
