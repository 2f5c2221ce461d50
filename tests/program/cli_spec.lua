--- The command line: what luajit's users expect of it, exit codes, standard output, errors, and
-- signals. (not stock: it is about the program)

local shell = require "tests.cli.shell"
local support = require "tests.support"
require "tidepool"
local executors = require "tidepool.engine.executors"

local check, contains, run = shell.check, support.contains, shell.run

describe("the command line, as luajit's", function()
  it("runs code given with -e, and several in their order", function()
    check({ stdout = "1\n2\n", stderr = "" }, "$T -e 'x = 1 print(x)' -e'print(x + 1)'")
  end)

  it("runs a script with its arguments in ... and arg", function()
    check({ stdout = "a\tb c\njob.lua\ta\tb c\t-E\n" }, "$T -E job.lua a 'b c'",
      { ["job.lua"] = "print(...) print(arg[0], arg[1], arg[2], arg[-1])" })
  end)

  it("counts arg from the script, options before it being negative", function()
    local done = run("$T -e 'n = 1' -- -x.lua y", { ["-x.lua"] = "print(arg[-1], arg[-2], arg[-3], arg[0], arg[1], arg[-4] ~= nil)" })
    assert.equal("--\tn = 1\t-e\t-x.lua\ty\ttrue\n", done.stdout)
  end)

  it("skips the first line when it is a #! line", function()
    check({ stdout = "2\n" }, "$T job.lua", { ["job.lua"] = "#!/usr/bin/env tidepool\nprint(debug.getinfo(1, 'l').currentline)" })
  end)

  it("runs standard input, with - or without", function()
    check({ stdout = "a\tb\n" }, "echo 'print(...)' | $T - a b")
    check({ stdout = "hi\n" }, "echo 'print \"hi\"' | $T")
  end)

  it("loads modules with -l", function()
    check({ stdout = "7\n" }, "$T -l m -e 'print(M)'", { ["m.lua"] = "M = 7" })
    local done = check({ code = 1, stdout = "" }, "$T -lnone_such -e 'print(1)'")
    contains(done.stderr, "tidepool: module 'none_such' not found")
  end)

  it("obeys LUA_INIT, as code and as a file, unless told -E", function()
    check({ stdout = "1\n" }, "LUA_INIT='x = 1' $T -e 'print(x)'")
    check({ stdout = "2\n" }, "LUA_INIT=@init.lua $T -e 'print(x)'", { ["init.lua"] = "x = 2" })
    check({ stdout = "nil\n" }, "LUA_INIT='x = 1' $T -E -e 'print(x)'")
    local done = check({ code = 1, stdout = "" }, "LUA_INIT='error \"no\"' $T -e 'print(x)'")
    contains(done.stderr, "tidepool: LUA_INIT:1: no")
  end)

  it("obeys LUA_PATH, unless told -E", function()
    check({ stdout = "?.x\n" }, "LUA_PATH='?.x' $T -e 'print(package.path)'")
    local done = check({}, "LUA_PATH='?.x' $T -E -e 'print(package.path)'")
    contains(done.stdout, "/usr/share/lua/5.1/?.lua")
  end)

  it("has luajit's paths", function()
    local code = "'print(package.path, package.cpath)'"
    assert.equal(run("luajit -E -e " .. code).stdout, run("$T -E -e " .. code).stdout)
  end)

  it("controls the JIT compiler with -j and -O", function()
    check({ stdout = "false\n" }, "$T -joff -e 'print((jit.status()))'")
    check({ stdout = "true\n" }, "$T -j off -j on -e 'print((jit.status()))'")
    check({ stdout = "1\n", stderr = "" }, "$T -O3 -O-fold,hotloop=10 -e 'print(1)'")
    contains(check({}, "$T -jv -e 'for i = 1, 1000 do end'").stderr, "TRACE   1")
    contains(check({ code = 1 }, "$T -j rubbish -e 'print(1)'").stderr, "unknown -j command 'rubbish'")
    check({ code = 1, stderr = "tidepool: unknown or malformed optimization flag 'rubbish'\n" }, "$T -Orubbish -e 'print(1)'")
  end)

  it("saves and lists bytecode with -b", function()
    check({ stdout = "5\n" }, "$T -b job.lua out.ljbc && $T out.ljbc", { ["job.lua"] = "print(5)" })
    contains(check({}, "$T -bl -e 'print(1)'").stdout, "GGET")
  end)

  it("shows its version with -v, luajit's first", function()
    local done = check({ stderr = "" }, "$T -v")
    assert.truthy(done.stdout:find "^LuaJIT 2%.1[^\n]* %-%- Tidepool %d[^\n]*\n$")
    contains(check({}, "$T -v -e 'print(1)'").stdout, "\n1\n")
  end)

  it("greets where luajit does: after LUA_INIT, before everything else", function()
    for _, binary in ipairs { "luajit", "$T" } do
      local done = check({ stderr = "" }, "LUA_INIT='print [[init]]' " .. binary .. " -v -e 'print [[code]]' job.lua </dev/null",
        { ["job.lua"] = "print 'script'" })
      assert.truthy(done.stdout:find "^init\nLuaJIT[^\n]*\ncode\nscript\n$")
      done = check({ stderr = "" }, "LUA_INIT='print [[init]]' " .. binary .. " -i -e 'print [[code]]' job.lua </dev/null",
        { ["job.lua"] = "print 'script'" })
      assert.truthy(done.stdout:find "^init\nLuaJIT[^\n]*\ncode\nscript\n")
    end
  end)

  it("runs busted, and C modules of Debian", function()
    local done = check({ stderr = "" }, "$T /usr/bin/busted --version")
    assert.truthy(done.stdout:find "^%d+%.")
    check({ stdout = '[1]\tfile\t2\ttrue\n' }, [[$T -e '
      local cjson, lfs, luv, lpeg = require "cjson", require "lfs", require "luv", require "lpeg"
      print(cjson.encode { 1 }, lfs.attributes("/etc/passwd", "mode"), lpeg.match(lpeg.P "a", "a"), luv.hrtime() > 0)']])
  end)

  it("leaves to scripts, and to functions in workers, what they declare to the FFI", function()
    local script = [[
      local function now()
        local ffi = require "ffi"
        pcall(ffi.cdef, "typedef struct { long tv_sec, tv_nsec; } own_time; int clock_gettime(int, own_time *);")
        local t = ffi.new "own_time"
        return ffi.C.clock_gettime(1, t)
      end
      local f = require "tidepool".App("declares"):func(function(x) return now() + x end)
      print(now(), f:map({ 1, 2 }):list()[2])
    ]]
    check({ stdout = "0\t2\n", stderr = "" }, "$T job.lua", { ["job.lua"] = script })
  end)
end)

describe("a script with an entry", function()
  local job = [[
    local tidepool = require "tidepool"
    local app = tidepool.App "job"
    print("loaded", ...)
    app:main { args = { n = { 3, "how many" } } } (function(args) print("main", args.n, args[1]) end)
  ]]

  it("runs it, with its options and arguments", function()
    check({ stdout = "loaded\nmain\t3\tnil\n", stderr = "" }, "$T job.lua", { ["job.lua"] = job })
    check({ stdout = "loaded\t--n\t5\tx\nmain\t5\tx\n", stderr = "" }, "$T job.lua --n 5 x", { ["job.lua"] = job })
    check({ stdout = "loaded\tx\nmain\t3\tx\n", stderr = "" }, "$T - x <job.lua", { ["job.lua"] = job })
    check({ stdout = "loaded\nmain\t3\tnil\n", stderr = "" }, "$T <job.lua", { ["job.lua"] = job })
    check({ stdout = "loaded\nmain\t3\tnil\n", stderr = "" }, "$T -- -", { ["-"] = job })
    check({ code = 2, stdout = "loaded\t--m\t5\n", stderr = "tidepool: unknown option '--m' (did you mean --n?)\n" }, "$T job.lua --m 5",
      { ["job.lua"] = job })
    contains(check({}, "$T job.lua --help", { ["job.lua"] = job }).stdout, "--n NUMBER  how many (default: 3)")
  end)

  it("does not run those of files that it loads", function()
    for _, how in ipairs { "require 'job'", "dofile 'job.lua'", "loadfile 'job.lua' ()" } do
      check({ stdout = "loaded" .. (how:find "^require" and "\tjob" or "") .. "\nown\n", stderr = "" }, "$T own.lua",
        { ["job.lua"] = job, ["own.lua"] = how .. " print 'own'" })
      check({ stdout = "loaded" .. (how:find "^require" and "\tjob" or "") .. "\nown main\n", stderr = "" }, "$T own.lua",
        { ["job.lua"] = job, ["own.lua"] = how .. " require 'tidepool'.App 'x':main(function() print 'own main' end)" })
    end
    check({ stdout = "loaded\tjob\n", stderr = "" }, "$T -l job -e 'x = 1'", { ["job.lua"] = job })
  end)

  it("runs one that another file has written, when it is the script that makes it its own", function()
    check({ stdout = "elsewhere\n", stderr = "" }, "$T own.lua",
      { ["lib.lua"] = "return function() print 'elsewhere' end", ["own.lua"] = "require 'tidepool'.App 'x':main(require 'lib')" })
  end)

  it("says which there are when there are several", function()
    local several = [[local app = require "tidepool".App "s"
      app:main { name = "one" } (print) app:main { name = "two" } (print)]]
    check({ code = 2, stdout = "", stderr = "tidepool: job.lua has several entries: one, two (choose one: tidepool run job.lua::one)\n" },
      "$T job.lua", { ["job.lua"] = several })
    check({ stdout = "the main one\n", stderr = "" }, "$T job.lua", { ["job.lua"] = several .. " app:main(function() print 'the main one' end)" })
  end)

  it("ends with its error, its code, and what it has spawned", function()
    local text = check({ code = 1, stdout = "" }, "$T job.lua",
      { ["job.lua"] = "require 'tidepool'.App 'x':main(function()\n  error 'boom' end)" }).stderr
    assert.equal("tidepool: job.lua:2: boom\nstack traceback:\n\t[C]: in function 'error'\n\tjob.lua:2: in function <job.lua:1>\n", text)
    check({ code = 5 }, "$T job.lua", { ["job.lua"] = "require 'tidepool'.App 'x':main(function() os.exit(5) end)" })
    check({ stdout = "later\n" }, "$T job.lua", { ["job.lua"] = [[local tidepool = require 'tidepool'
      tidepool.App 'x':main(function() tidepool.async(function() tidepool.sleep(0.01) print 'later' end) end)]] })
    check({ code = 1, stdout = "" }, "$T job.lua", { ["job.lua"] = "require 'tidepool'.App 'x':main(print) error 'first'" })
  end)

  it("is what the examples are", function()
    local dir = support.temp_dir()
    os.execute("cp examples/hello.lua " .. dir)
    contains(check({ stderr = "" }, "$T " .. dir .. "/hello.lua").stdout, "1 4 9 16 25")
  end)
end)

describe("the command line's own options", function()
  it("shows help and versions on standard output", function()
    contains(check({ stderr = "" }, "$T --help").stdout, "Usage: tidepool", "tidepool run", "--workers")
    for _, command in ipairs { "run", "map", "devices", "journal", "replay", "cache" } do
      assert.equal(run("$T help " .. command).stdout, check({ stderr = "" }, "$T " .. command .. " --help").stdout)
    end
    assert.equal(run("$T --help").stdout, check({ stderr = "" }, "$T help --help").stdout)
    contains(check({ stderr = "" }, "$T help run").stdout, "Usage: tidepool run FILE[::NAME]", "--no-key")
    local version = check({ stderr = "" }, "$T --version").stdout
    assert.truthy(version:find "^Tidepool %d[^\n]*LuaJIT 2[^\n]*libuv 1[^\n]*\n$")
  end)

  it("names the OpenCL loader in its version", function()
    assert.truthy(check({ stderr = "" }, "$T --version").stdout:find ", OpenCL loader: [^\n]+%)\n$")
    assert.truthy(check({ stderr = "" }, "TIDEPOOL_OPENCL=/none.so $T --version").stdout:find ", OpenCL loader: none%)\n$")
    assert.truthy(check({ stderr = "" }, "TIDEPOOL_OPENCL=libm.so.6 $T --version").stdout:find ", OpenCL loader: /[^\n]*libm[^\n]*%)\n$")
  end)

  it("takes --workers and --quiet before a script, which does not see them", function()
    check({ stdout = "x\t--workers\n", stderr = "" }, "$T --workers 3 --quiet job.lua x --workers", { ["job.lua"] = "print(...)" })
    check({ stdout = "1\n" }, "$T --workers=1024 -e 'print(1)'")
  end)

  it("prints with -p, and knows -h and version", function()
    check({ stdout = "3\tx\n", stderr = "" }, "$T -e 'a = 1' -p 'a + 2, \"x\"'")
    check({ stdout = "2\n", stderr = "" }, "$T -p '2 -- two'")
    check({ code = 1, stdout = "" }, "$T -p '2 +'")
    assert.equal(run("$T --help").stdout, check({ stderr = "" }, "$T -h").stdout)
    assert.equal(run("$T --version").stdout, check({ stderr = "" }, "$T version").stdout)
    check({ stdout = "mine\n" }, "$T version", { version = "print 'mine'" })
    check({ stdout = "-h\n" }, "$T job.lua -h", { ["job.lua"] = "print(...)" })
  end)

  it("has as many workers as -w, TIDEPOOL_WORKERS and tidepool.workers(n) say", function()
    local job = { ["job.lua"] = "local tidepool = require 'tidepool' print(tidepool.workers(), ...)" }
    check({ stdout = "3\tx\n" }, "$T -w 3 job.lua x", job)
    check({ stdout = "3\tx\n" }, "TIDEPOOL_WORKERS=5 $T -w3 job.lua x", job)
    check({ stdout = "5\t-w\n" }, "TIDEPOOL_WORKERS=5 $T job.lua -w", job)
    check({ stdout = "1\n" }, "TIDEPOOL_WORKERS= taskset -c 0 $T job.lua", job)
    for _, n in ipairs { "x", "0", "1025", "-1", " 3" } do
      check({ code = 2, stdout = "", stderr = "tidepool: TIDEPOOL_WORKERS needs a number from 1 to 1024, not " .. n .. " (try: tidepool --help)\n" },
        ("TIDEPOOL_WORKERS='%s' $T job.lua"):format(n), job)
    end
    check({ stdout = "7\n" }, "$T -w 2 job.lua", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      tidepool.workers(7)
      local f = tidepool.App():func(function(i)
        io.open("here" .. i, "w"):close()
        for k = 1, 7 do -- all at once, or never
          local file
          repeat
            file = io.open("here" .. k)
            tidepool.sleep(0.001)
          until file
          file:close()
        end
      end)
      f:for_each(tidepool.range(7))
      assert(tidepool.workers() == 7 and tidepool.workers(9) == 9)
      local fine, why = pcall(tidepool.workers, 2)
      assert(not fine and why:find "7 workers have started, so that 2 is too few: call it before the first map")
      assert(not pcall(tidepool.workers, 0) and not pcall(tidepool.workers, 1.5) and not pcall(tidepool.workers, 2000))
      assert(not pcall(function() tidepool.App():func(function() tidepool.workers(3) end):remote() end))
      print(7)
    ]] })
  end)

  it("runs functions that name no executor where --executor says", function()
    local job = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "e"
      local where = app:func(function() return tidepool.current().executor end)
      local nested = app:func(function() return (where:remote()) end)
      print(where:remote(), nested:remote(), (where:with { executor = "threads" }:remote()))]]
    check({ stdout = "inline\tinline\tthreads\n", stderr = "" }, "$T --executor inline job.lua", { ["job.lua"] = job })
    check({ stdout = "threads\tthreads\tthreads\n", stderr = "" }, "$T --executor=threads job.lua", { ["job.lua"] = job })
  end)

  it("looks at no word after --version and --help", function()
    for _, word in ipairs { "-j", "-e", "-l", "-O", "-jrubbish", "-b", "--workers", "x.lua", "--", "-" } do
      assert.truthy(check({ stderr = "" }, "$T --version " .. word).stdout:find "^Tidepool")
      assert.truthy(check({ stderr = "" }, "$T --help " .. word).stdout:find "^Usage")
    end
    check({ stdout = "x\n" }, "$T -e 'print [[x]]' --version | head -1")
  end)

  it("keeps wrong words on one line, without what a terminal would obey", function()
    local done = run [[script -qec "$T --\$(printf '\033[2J')x; $T -q\$(printf '\033[2J'); $T \$(printf '\033[2J').lua" /dev/null </dev/null]]
    contains(done.stdout, "unknown option --\\027[2Jx", "cannot open \\027[2J.lua")
    assert.is_nil(done.stdout:find "\27")
  end)

  it("answers a wrong use with one line and exit code 2", function()
    local there = executors.in_words(executors.that "runs_lua", "%s")
    for words, message in pairs {
      ["-q"] = "unknown option -q",
      ["--frobnicate"] = "unknown option --frobnicate (try: tidepool --help)",
      ["--engine 4222 x.lua"] = "--engine is a URL as nats://127.0.0.1:4222, or tls://HOST:4222, not 4222",
      ["--worker 4 x.lua"] = "unknown option --worker (did you mean --workers?)",
      ["--verison"] = "unknown option --verison (did you mean --version?)",
      ["--log x.lua"] = "unknown option --log (did you mean --log=tag?)",
      ["--executor"] = ("--executor is %s, not nothing"):format(there),
      ["--executor thread x.lua"] = ("--executor is %s, not thread"):format(there),
      ["-ix"] = "unknown option -ix",
      ["-e"] = "-e needs an argument",
      ["-l"] = "-l needs an argument",
      ["--workers"] = "--workers needs a number from 1 to 1024, not nothing",
      ["-w"] = "-w needs a number from 1 to 1024, not nothing",
      ["-w0 x.lua"] = "-w needs a number from 1 to 1024, not 0",
      ["--workers 0 x.lua"] = "--workers needs a number from 1 to 1024, not 0",
      ["--workers=1025 x.lua"] = "--workers needs a number from 1 to 1024, not 1025",
      ["--workers 1.5 x.lua"] = "--workers needs a number from 1 to 1024, not 1.5",
      ["--workers 3x x.lua"] = "--workers needs a number from 1 to 1024, not 3x",
      ["help nothing"] = "no help on 'nothing'",
    } do
      local done = check({ code = 2, stdout = "" }, "$T " .. words)
      contains(done.stderr, "tidepool: " .. message)
      assert.truthy(done.stderr:find "^[^\n]+\n$")
    end
  end)
end)

describe("an error of a script", function()
  local function stderr_of(code)
    return check({ code = 1, stdout = "" }, "$T job.lua", { ["job.lua"] = code }).stderr
  end

  it("ends it with code 1, its message and the user's part of the traceback", function()
    assert.equal([[
tidepool: job.lua:1: boom
stack traceback:
	[C]: in function 'error'
	job.lua:1: in function 'f'
	job.lua:2: in main chunk
]], stderr_of "local function f() error 'boom' end\nf() print 'not reached'")
  end)

  it("is one line when the script is missing or is not Lua", function()
    check({ code = 1, stderr = "tidepool: cannot open none.lua: No such file or directory\n" }, "$T none.lua")
    check({ code = 1, stderr = "tidepool: cannot open rnu: No such file or directory (did you mean tidepool run?)\n" }, "$T rnu job.lua")
    check({ code = 1, stderr = "tidepool: cannot open job: No such file or directory (did you mean tidepool jobs?)\n" }, "$T job")
    for _, word in ipairs { "ab", "m", "foo", "filter" } do -- no misspelt commands
      check({ code = 1, stderr = "tidepool: cannot open " .. word .. ": No such file or directory\n" }, "$T " .. word)
    end
    check({ code = 1, stderr = "tidepool: job.lua:1: '=' expected near 'is'\n" }, "$T job.lua", { ["job.lua"] = "this is" })
  end)

  it("may be any value", function()
    local cases = {
      ["error(false)"] = "false",
      ["error(42)"] = "job.lua:1: 42",
      ["error(42, 0)"] = "42",
      ["error { code = 5, why = { 'a' } }"] = "{code=5, why={...}}",
      ["error {}"] = "{}",
      ["local t = { code = 1 } t.self = t error(t)"] = "{code=1, self=<cycle>}",
      ["error(setmetatable({}, { __tostring = function() return 'pretty' end }))"] = "pretty",
      ["error(setmetatable({}, { __tostring = function() error 'inner' end }))"] =
        "(error object is a table; its __tostring failed: job.lua:1: inner)",
      ["error(setmetatable({}, { __tostring = function() return 42 end }))"] =
        "(error object is a table; its __tostring returned a number)",
      ["error(print)"] = "(error object is a function)",
      ["error(io.stdout)"] = "file (",
      ["error(coroutine.create(print))"] = "(error object is a thread)",
      ["error(require 'ffi'.new 'int[1]')"] = "(error object is a cdata<int [1]>)",
      ["error(7LL)"] = "7LL",
    }
    for code, message in pairs(cases) do
      contains(stderr_of(code), "tidepool: " .. message, "\nstack traceback:\n\t[C]: in function 'error'\n\tjob.lua:1: in main chunk\n")
    end
  end)

  it("says nothing when it is nil, as luajit", function()
    for _, code in ipairs { "error()", "error(nil)", "local function f() error() end f()", "coroutine.wrap(function() error() end)()" } do
      check({ code = 1, stdout = "", stderr = "" }, "$T job.lua", { ["job.lua"] = code })
    end
  end)

  it("keeps a stack overflow's traceback short", function()
    -- Whether LuaJIT has room left for a message handler, luajit's as well, depends on where in the
    -- last frame the stack ends.
    local short = 0
    for n = 0, 8 do
      local text = stderr_of("local function r() return 1 + r() end\n" .. ("local p = 1; "):rep(n) .. "r()")
      contains(text, "stack overflow")
      local _, lines = text:gsub("\n", "")
      assert.is_true(lines <= 24)
      if text:find("\n\t...\n", 1, true) and text:find("in main chunk", 1, true) then short = short + 1 end
    end
    assert.is_true(short >= 5)
  end)

  it("keeps all bytes of a message in a file", function()
    local done = run([[$T -e 'error("a\0b\255" .. ("x"):rep(10000), 0)']])
    assert.truthy(done.stderr:find("tidepool: a\0b\255" .. ("x"):rep(10000) .. "\n", 1, true))
  end)

  it("escapes and cuts a message on a terminal", function()
    local done = run [[script -qec "$T -e 'error([=[a\0b\255]=] .. (\"\27[2J\"):rep(1) .. (\"x\"):rep(2^20), 0)'" /dev/null </dev/null]]
    contains(done.stdout, "tidepool: a\\0b\\255\\027[2Jxxx", "... (1044492 bytes more)")
    done = run([[script -qec "$T job.lua" /dev/null </dev/null]], { ["job.lua"] = 'error("a\\0b\\255\195\169\194\155" .. ("x"):rep(2^20), 0)' })
    contains(done.stdout, "tidepool: a\\000b\\255\195\169\\194\\155xxx", "... (1044488 bytes more)")
  end)

  it("is not hidden by what the script did to the globals", function()
    contains(stderr_of "require, tostring, type, debug, package, pcall = nil error 'x'", "tidepool: job.lua:1: x\n")
    contains(stderr_of "require, tostring, type, debug, package, pcall = nil error {}", "tidepool: (error object is a table)\n")
  end)
end)

describe("what a script prints", function()
  it("is what luajit prints", function()
    local code = [[print() print(nil, true, 1.5, -1 / math.huge, 1e300, "a\0b", 7LL)
      print(setmetatable({}, { __tostring = function() return "own" end }))
      local old = tostring
      function tostring(x) return x == 2 and 2 or "<" .. old(x) .. ">" end -- luacheck: ignore
      print(1, "x", 2)
      print(pcall(print, setmetatable({}, { __tostring = function() error("bad", 0) end })))
      tostring = function() end -- luacheck: ignore
      io.write(old(select(2, pcall(print, 1))), "\n")
      io.stdout:setvbuf "no" tostring = old print("unbuffered", 1)]]
    local files = { ["job.lua"] = code }
    assert.equal(run("luajit job.lua", files).stdout, check({ stderr = "" }, "$T job.lua", files).stdout)
  end)

  it("cuts no line of workers, and is cut by none, where stdout and stderr are one pipe", function()
    local done = check({}, "$T --workers 4 job.lua 2>&1 | cat", { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local f = tidepool.App "m":func(function(x)
        for _ = 1, 20 do print(("o"):rep(60 + x % 37)) io.stderr:write(("e"):rep(50 + x % 31) .. "\n") end
        if x % 50 == 0 then print(("o"):rep(10000)) end
        return x
      end)
      for i, x in f:map(tidepool.range(200)) do print("main", i, x, ("m"):rep(40)) end]] })
    local n = 0
    for line in done.stdout:gmatch "[^\n]*\n" do
      n = n + 1
      if not (line:find "^o+\n$" or line:find "^e+\n$" or line:find "^main\t%d+\t%d+\tm+\n$") then assert(false, "was cut: " .. line) end
    end
    assert.equal(200 * 41 + 4, n)
  end)
end)

describe("the end of a script", function()
  it("has the code that os.exit says", function()
    check({ code = 3, stdout = "kept" }, "$T -e 'io.write \"kept\" os.exit(3)'")
    check({ code = 0 }, "$T -e 'os.exit()'")
    check({ code = 0 }, "$T -e 'os.exit(true)'")
    check({ code = 1 }, "$T -e 'os.exit(false)'")
    check({ code = 4 }, "$T -e 'coroutine.wrap(function() os.exit(4) end)()'")
  end)

  it("closes the state at os.exit(code, true), and at the normal end", function()
    local code = "p = newproxy(true) getmetatable(p).__gc = function() print 'closed' end "
    check({ code = 5, stdout = "closed\n" }, ("$T -e \"%s os.exit(5, true)\""):format(code))
    check({ code = 5, stdout = "" }, ("$T -e \"%s os.exit(5)\""):format(code))
    check({ code = 0, stdout = "closed\n" }, ("$T -e \"%s\""):format(code))
    check({ code = 1, stdout = "closed\n" }, ("$T -e \"%s error 'x'\""):format(code))
  end)

  it("says when its output could not be written", function()
    local function lost(reason, command)
      check({ code = 1, stderr = "tidepool: cannot write to standard output: " .. reason .. "\n" }, command)
    end
    lost("No space left on device", "$T -e 'print(1)' >/dev/full")
    lost("No space left on device", "$T -e 'for i = 1, 1e5 do print(i) end' >/dev/full")
    lost("No space left on device", "$T -e 'print(1) os.exit(0)' >/dev/full")
    lost("No space left on device", "$T --help >/dev/full")
    lost("Bad file descriptor", "$T -e 'print(1)' >&-")
    lost("an earlier write failed", "$T -e 'io.write(1) io.flush()' >/dev/full")
    check({ code = 3 }, "$T -e 'print(1) os.exit(3)' >/dev/full")
    check({ code = 0, stderr = "" }, "$T -e 'x = 1' >&-")
  end)

  it("is quiet when the reader has gone", function()
    local done = run("{ $T -e 'for i = 1, 1e6 do print(i) end'; echo $? >code; } | head -1; cat code")
    assert.same({ stdout = "1\n141\n", stderr = "" }, { stdout = done.stdout, stderr = done.stderr })
    done = run("{ $T -e 'require \"luv\" for i = 1, 1e5 do print(i) end'; echo $? >code; } | head -1; cat code")
    assert.same({ stdout = "1\n141\n", stderr = "" }, { stdout = done.stdout, stderr = done.stderr })
  end)

  it("works without standard files, whose numbers nothing else is given", function()
    check({ code = 0, stdout = "nil\tBad file descriptor\t9\ttrue\n", stderr = "" }, [[$T -e '
      local line, why, code = io.read() require "ffi".cdef "int dup(int);" print(line, why, code, require "ffi".C.dup(0) > 2)' <&-]])
    check({ code = 1, stdout = "", stderr = "tidepool: cannot read stdin: Bad file descriptor\n" }, "$T - <&-")
    check({ code = 0, stdout = "ok\n" }, "$T -e 'io.stderr:write \"x\" print \"ok\"' 2>&-")
  end)
end)

-- ThreadSanitizer keeps signals back until the thread calls into libc, which a loop in Lua never
-- does.
local no_signals = support.binary:find "tsan" ~= nil

-- The script's shell sends the signal: one that this test started in the background would ignore
-- SIGINT.
describe("a signal", function()
  if no_signals then
    pending "ThreadSanitizer delays signals"
    return
  end

  local function signalled(signal, code, options)
    options = options or {}
    local kill = "kill -" .. signal .. " $PPID"
    local source = ("os.execute [[(sleep 0.3; %s; %s) </dev/null >/dev/null 2>&1 &]]\n%s"):format(kill,
      options.again and "sleep 0.05; " .. kill or "true", code)
    return run((options.before or "") .. " $T " .. (options.flags or "") .. " job.lua", { ["job.lua"] = source })
  end

  it("ends interpreted code, compiled code, waiting C code, and code that catches everything", function()
    for _, code in ipairs {
      "jit.off() while true do end",
      "while true do end",
      "require 'ffi'.cdef 'int usleep(unsigned);' for i = 1, 1000 do require 'ffi'.C.usleep(20000) end",
      "while true do pcall(function() while true do end end) end",
      "coroutine.wrap(function() jit.off() while true do end end)()",
    } do
      local done = signalled("INT", code)
      assert.same({ 130, "tidepool: interrupted\n" }, { done.code, done.stderr })
    end
  end)

  it("that comes twice ends it at once", function()
    local done = signalled("INT", "while true do pcall(function() while true do end end) end", { again = true })
    assert.same({ 130, "tidepool: interrupted\n" }, { done.code, done.stderr })
  end)

  it("is what it dies by: SIGTERM, SIGHUP", function()
    assert.equal(143, signalled("TERM", "while true do end").code)
    assert.equal(129, signalled("HUP", "jit.off() while true do end").code)
  end)

  it("does not lose what was printed before", function()
    assert.equal("before\n", signalled("INT", "print 'before' jit.off() while true do end").stdout)
  end)

  it("says nothing when told --quiet", function()
    local done = signalled("INT", "jit.off() while true do end", { flags = "--quiet" })
    assert.same({ 130, "" }, { done.code, done.stderr })
  end)

  it("that was ignored at the start stays ignored", function()
    for _, signal in ipairs { "INT", "HUP" } do
      local done = signalled(signal, "local t = os.time() while os.time() < t + 2 do end print 'lived'",
        { before = "trap '' INT HUP;" })
      assert.same({ 0, "lived\n" }, { done.code, done.stdout })
    end
  end)

  it("ends it as the first process of a container, which reaps what others leave", function()
    if run("unshare -pf true").code ~= 0 then return pending "no right to make a PID namespace" end
    local code = "'os.execute [[(sleep 0.3; kill -TERM $PPID) </dev/null >/dev/null 2>&1 &]] while true do end'"
    assert.equal(143, run("unshare -pf $T -e " .. code).code)
    assert.equal(7, run("unshare -pf $T -e 'os.exit(7)'").code)
    assert.equal(137, run("unshare -pf $T -e 'local ffi = require [[ffi]] ffi.cdef [[int raise(int);]] ffi.C.raise(9)'").code)
  end)
end)
