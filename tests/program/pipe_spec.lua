--- `tidepool map`: lines through a function; and `tidepool run --json`. (JSON itself:
-- json_spec.lua)

local cjson = require "cjson"
require "tidepool"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains, run = shell.check, support.contains, shell.run

local job = [[
local tidepool = require "tidepool"
local app = tidepool.App "p"
app:func { name = "square" } (function(x)
  if x == 5 then error "five" end
  return x * x
end)
app:func { name = "kind" } (function(x) return type(x), x end)
app:func { name = "kinds" } (function() return true, false, nil, -1 / math.huge, -12 end)
app:func { name = "none" } (function() end)
app:func { name = "same" } (function(...) return ... end)
app:func { name = "add" } (function(a, b, c) return a + b, c end)
app:func { name = "length" } (function(x) return #x end)
app:func { name = "odd" } (function(x)
  local t = {}
  t.t = { t }
  return ({ 1, 1 / 0, 0 / 0, print, t, "two\nlines" })[x] or x
end)
app:func { name = "sum" } (function(t)
  local s = 0
  for _, x in ipairs(t.of) do s = s + x end
  return { sum = s, name = t.name }
end)
app:main(function() end)
]]

local function mapped(expected, command)
  return check(expected, command, { ["job.lua"] = job })
end

local function refused(message, command)
  mapped({ code = 2, stdout = "", stderr = "tidepool: " .. message .. "\n" }, command)
end

describe("tidepool map", function()
  it("maps lines of its input to lines of its output, in order", function()
    local done = mapped({ stderr = "" }, "seq 6 20000 | $T map job.lua::square")
    local n = 5
    for line in done.stdout:gmatch "[^\n]+" do
      n = n + 1
      assert.equal(("%.14g"):format(n * n), line)
    end
    assert.equal(20000, n)
  end)

  it("gives numbers as numbers, and other lines as they are", function()
    mapped({ stdout = "number\t12\nstring\t-.5\nstring\t007\nstring\t\nstring\ttrue\nstring\ta b\t\nstring\tlast\n" },
      [[printf '12\n-.5\n007\n\ntrue\na b\t\nlast' | $T map job.lua::kind]])
    mapped({ stdout = "\n\n" }, "seq 2 | $T map job.lua::none")
    mapped({ stdout = "" }, "$T map job.lua::kind </dev/null")
  end)

  it("changes no line that a function only passes on", function()
    local lines = { "12", "-0", "0", "0.1", "1e5", "1e+20", "7e12345", "1e999", "12345678901234567890", "1.50", "3.141592653589793",
      "1000000000000000", "0x10", "+5",
      ".5", "5.", "-", "1e", "nan", "inf", "-inf", "1,5", " 5", "5 ", "007", "\255\254", "a\tb", "", "9007199254740993", "12\r", "5LL",
      "null", "0.30000000000000004" }
    local text = table.concat(lines, "\n") .. "\n"
    for _, flags in ipairs { "", "--text" } do
      check({ stdout = text, stderr = "" }, "$T map job.lua::same <input " .. flags, { ["job.lua"] = job, input = text })
    end
    local kinds = check({}, "$T map job.lua::kind <input", { ["job.lua"] = job, input = text }).stdout
    contains(kinds, "number\t12\nnumber\t-0\nnumber\t0\nnumber\t0.1\nstring\t1e5\nnumber\t1e+20\nstring\t7e12345\n", "number\t3.141592653589793\n")
    mapped({ stdout = "string\t12\nstring\t0.1\n" }, "printf '12\n0.1\n' | $T map --text job.lua::kind")
  end)

  it("loses no null, empty list, sign or byte of JSON", function()
    local text = '{"a":null,"b":[]}\nnull\n[null,[],{}]\n{"n":2}\n-0\n"\255"\n[0.30000000000000004]\n'
    check({ stdout = text, stderr = "" }, "$T map --json job.lua::same <input", { ["job.lua"] = job, input = text })
    mapped({ code = 1, stdout = "1\n",
      stderr = "tidepool: line 2 is no JSON: expected a number of at most 1.8e308 at column 1\nin input 2 of map 'same'\n" },
      "printf '1\n1e999\n' | $T map --json job.lua::same")
  end)

  it("fails for a result that is no line, by its number, and goes on with --keep-going", function()
    local done = mapped({ code = 1, stderr = "tidepool: 4 failed\n" }, "seq 7 | $T map --json --keep-going job.lua::odd")
    assert.equal([[
1
{"error":"inf has no form in JSON","index":2,"kind":"codec"}
{"error":"nan has no form in JSON","index":3,"kind":"codec"}
{"error":"a function has no form in JSON","index":4,"kind":"codec"}
{"error":"a table inside itself has no form in JSON (at t[1])","index":5,"kind":"codec"}
"two\nlines"
7
]], done.stdout)
    mapped({ code = 1, stdout = "1\n", stderr = "tidepool: inf has no form in JSON\nin input 2 of map 'odd'\n" },
      "seq 7 | $T map --json job.lua::odd")
    local why = "a result with a line end in it would be two lines (--json writes it as one)"
    mapped({ code = 1, stdout = "7\n", stderr = "tidepool: line 1: " .. why .. "\ntidepool: 1 failed\n" },
      "seq 6 7 | $T map --keep-going job.lua::odd")
    mapped({ code = 1, stdout = "", stderr = "tidepool: " .. why .. "\nin input 1 of map 'odd'\n" }, "seq 6 7 | $T map job.lua::odd")
  end)

  it("reads a line of 32 MB in memory that goes with its length", function()
    local limit = support.sanitized and "" or "ulimit -v 1500000; " -- it took 4.3 GB
    mapped({ stdout = "32000000\n3\n", stderr = "" },
      "(head -c 32000000 /dev/zero | tr '\\0' x; echo; echo abc) | (" .. limit .. "$T map --workers 2 --text --limit 64M job.lua::length)")
  end)

  it("refuses an endless line, after the lines before it", function()
    mapped({ code = 1, stdout = "3\n", stderr = "tidepool: standard input: line 2 is longer than the limit of 1024 bytes\n" },
      "(echo abc; head -c 100000 /dev/zero | tr '\\0' x) | $T map --limit=1k --text job.lua::length")
    mapped({ code = 1, stdout = "", stderr = "tidepool: standard input: line 1 is longer than the limit of 16777216 bytes\n" },
      "cat /dev/zero | $T map job.lua::length")
    refused('--limit: the string "x" is no size of at most 512M, like "64M"', "$T map --limit x job.lua::kind")
    refused('map: --limit needs how long a line may be, like "64M"', "$T map job.lua::kind --limit")
  end)

  it("writes short results of all kinds as it writes long ones", function()
    local lines = {}
    for i = 1, 3000 do lines[i] = i % 5 == 0 and ("x"):rep(i * 40) or i % 7 == 0 and -i / 8 or i % 3 == 0 and "a\tb" or i * 1e9 end
    local text = table.concat(lines, "\n") .. "\n"
    check({ stdout = text, stderr = "" }, "$T map job.lua::same <input", { ["job.lua"] = job, input = text })
    mapped({ stdout = "true\tfalse\tnil\t-0\t-12\n" }, "echo 1 | $T map job.lua::kinds")
  end)

  it("says why it cannot read its input", function()
    mapped({ code = 1, stdout = "", stderr = "tidepool: cannot read standard input: Is a directory\n" }, "$T map job.lua::kind </")
    mapped({ code = 1, stdout = "", stderr = "tidepool: cannot read standard input: Bad file descriptor\n" }, "$T map job.lua::kind <&-")
  end)

  it("speaks JSON", function()
    mapped({ stdout = '{"name":"ä","sum":6}\n["number",1]\n' },
      [[(echo '{"of": [1, 2, 3], "name": "\u00e4"}' | $T map --json job.lua::sum); (echo 1 | $T map job.lua::kind --json)]])
    mapped({ stdout = "null\n" }, "echo null | $T map --json job.lua::none")
    local done = mapped({ code = 1, stdout = "" }, "echo '{' | $T map --json job.lua::sum")
    contains(done.stderr, "tidepool: line 1 is no JSON: expected a key in quotes at column 2")
  end)

  it("ends at the first failure, after the results before it", function()
    local done = mapped({ code = 1, stdout = "1\n4\n9\n16\n" }, "seq 9 | $T map job.lua::square")
    contains(done.stderr, "tidepool: job.lua:4: five\nin input 5 of map 'square'")
  end)

  it("goes on with --keep-going", function()
    mapped({ code = 1, stdout = "16\n36\n", stderr = "tidepool: line 2: job.lua:4: five\ntidepool: 1 failed\n" },
      "seq 4 6 | $T map job.lua::square --keep-going")
    local done = mapped({ code = 1, stderr = "tidepool: 2 failed\n" }, [[printf '4\n5\n[\n6\n' | $T map --keep-going --json job.lua::square]])
    local lines = {}
    for line in done.stdout:gmatch "[^\n]+" do lines[#lines + 1] = cjson.decode(line) end
    assert.same({ 16, { error = "job.lua:4: five", kind = "error", index = 2 }, "usage", 36 },
      { lines[1], lines[2], lines[3].kind, lines[4] })
  end)

  it("answers each line while the next is still awaited, and an endless input", function()
    mapped({ stdout = "16\n36\n", stderr = "" }, [[
      mkfifo in out
      $T map job.lua::square <in >out &
      exec 3>in 4<out
      echo 4 >&3; read answer <&4; echo $answer
      echo 6 >&3; read answer <&4; echo $answer
      exec 3>&-
      wait]])
    mapped({ stdout = "string\ty\nstring\ty\n", stderr = "" }, "yes | $T map job.lua::kind | head -2")
  end)

  it("hands out what is done when there is nothing left to read, and something that still runs", function()
    check({ stdout = "4 before it goes on\n1\n2\n3\n4\n5\n", stderr = "" }, [[
      seq 5 | $T map -w 1 wait.lua >out &
      turns=0 # a hang guard of a minute
      until [ "$(wc -l <out)" -eq 4 ] || [ $turns -gt 3000 ]; do sleep 0.02; turns=$((turns + 1)); done
      echo "$(wc -l <out) before it goes on"; touch go; wait; cat out]], { out = "", ["wait.lua"] = [[
      require 'tidepool'.App 'x':func { name = 'f' } (function(x)
        os.execute "sleep 0.01" -- too long for several to be handed over together
        while x == 5 and not io.open "go" do os.execute "sleep 0.02" end
        return x
      end)]] })
  end)

  it("takes the only function of a file", function()
    check({ stdout = "2\n" }, "echo 1 | $T map one.lua", { ["one.lua"] =
      "require 'tidepool'.App 'x':func { name = 'f' } (function(x) return x + 1 end)" })
  end)

  it("uses --workers and --progress", function()
    local done = mapped({ stdout = "16\n" }, "echo 4 | $T map --workers 3 --progress=json job.lua::square")
    assert.equal("", done.stderr)
  end)

  it("answers a wrong use with one line and exit code 2", function()
    refused("map what? (tidepool map FILE::NAME <INPUT; more: tidepool help map)", "$T map")
    local all = "add, kind, kinds, length, none, odd, same, square, sum"
    refused(("job.lua has several functions: %s (choose one: tidepool map job.lua::add)"):format(all), "$T map job.lua")
    refused(("job.lua has no function 'sqare' (did you mean square? it has: %s)"):format(all), "$T map job.lua::sqare")
    refused(("job.lua has no function 'main' (it has: %s)"):format(all), "$T map job.lua::main")
    refused("map: unknown option '--jsn' (did you mean --json?)", "$T map --jsn job.lua::kind")
    refused("--json and --text are two meanings of the lines: choose one", "$T map --json --text job.lua::kind")
    contains(mapped({ code = 2, stdout = "" }, "$T map --frobnicate job.lua::kind").stderr,
      "tidepool: map: unknown option '--frobnicate' (there are: --json, --text, --keep-going, ", "--limit, --help)\n")
    refused("map: unknown option '--json=1' (did you mean --json?)", "$T map --json=1 job.lua::kind")
    refused("'x' is one too many: the inputs are the lines of standard input", "$T map job.lua::kind x")
    contains(mapped({}, "$T map --help").stdout, "Usage: tidepool map FILE::NAME", "--keep-going")
  end)

  it("keeps what it says about a line on one line, without what a terminal would obey", function()
    check({ code = 1, stdout = "", stderr = [[tidepool: line 1: bad\027[2J\013\010forged\000é\155]] .. "\ntidepool: 1 failed\n" },
      "echo 1 | $T map --keep-going one.lua", { ["one.lua"] =
      [[require 'tidepool'.App 'x':func { name = 'f' } (function(x) error("bad\27[2J\r\nforged\0é\155", 0) end)]] })
  end)

  it("blames a line that is no JSON, and no worker", function()
    mapped({ code = 1, stdout = '["number",1]\n', stderr = "tidepool: line 2 is no JSON: expected a value at column 1\nin input 2 of map 'kind'\n" },
      "printf '1\\nbad\\n' | $T map --json job.lua::kind 2>&1 >out | cat >err; cat out; cat err >&2; exit 1")
  end)

  it("says when its output could not be written", function()
    mapped({ code = 1, stderr = "tidepool: cannot write to standard output: No space left on device\n" },
      "seq 4 | $T map job.lua::kind >/dev/full")
  end)

  it("ends at once when its output could not be written, and says why", function()
    for _, options in ipairs { "", "--json", "--tag", "--keep-going --journal run.db" } do
      mapped({ code = 1, stderr = "tidepool: cannot write to standard output: No space left on device\n" },
        ("yes 1 | $T map %s job.lua::kind >/dev/full"):format(options))
    end
  end)
end)

describe("tidepool map, options as of GNU parallel:", function()
  it("--columns gives fields as arguments, quoted as CSV has it", function()
    mapped({ stdout = "3\tx\n7\ta,b\n30\ttwo words\n", stderr = "" },
      [[printf '1,2,x\n3,"4","a,b"\r\n10,20,two words' | $T map --columns , job.lua::add]])
    mapped({ stdout = "3\tnil\n7\tlast\n" }, [[printf '1\t2\n3\t4\tlast\n' | $T map --columns='\t' job.lua::add]])
    mapped({ stdout = "3\tnil\n" }, [[printf '1 and 2\n' | $T map --columns ' and ' job.lua::add]])
    mapped({ stdout = "string\t007\n" }, [[printf '007;8\n' | $T map --columns ';' job.lua::kind]])
    mapped({ stdout = "string\t7\n" }, [[printf '7;8\n' | $T map --columns ';' --text job.lua::kind]])
    mapped({ stdout = "\n\t\n" }, [[printf '\n,\n' | $T map --columns , job.lua::same]])
    mapped({ code = 1, stdout = "3\tnil\n" }, [[printf '1,2\n3;4\n' | $T map --columns , job.lua::add]])
    mapped({ code = 1, stdout = "3\tnil\n", stderr = "tidepool: standard input: line 2 has a quote that is not closed\n" },
      [[printf '1,2\n3,"4\n5,6\n' | $T map --columns , job.lua::add]])
  end)

  it("--tag writes the input before its results, or its fields", function()
    mapped({ stdout = "1\t1\n2\t4\n007\t49\n", stderr = "" }, "printf '1\n2\n007\n' | $T map --tag job.lua::square")
    mapped({ stdout = "1\t2\ta b\t3\ta b\n" }, [[printf '1,2,"a b"\n' | $T map --tag --columns , job.lua::add]])
    mapped({ code = 1, stdout = "4\t16\n6\t36\n" }, "seq 4 6 | $T map --tag --keep-going job.lua::square")
    mapped({ code = 1, stdout = "x\t1\n",
      stderr = "tidepool: line 1: an input with a line end in it, written again, would be two lines\ntidepool: 1 failed\n" },
      [[printf '"a\nb",1\nx\n' | $T map --tag --keep-going --columns , job.lua::length]])
    mapped({ code = 1, stdout = "", stderr = "tidepool: a line has 8001 fields; 7000 are possible\n" },
      "yes 1 | head -8000 | tr '\\n' , | $T map --tag --columns , job.lua::add")
    local lines = {}
    for i = 1, 3000 do lines[i] = ("%d\t%d\n"):format(i, i + 1) end
    check({ stdout = table.concat(lines), stderr = "" }, "seq 3000 | $T map --tag more.lua",
      { ["more.lua"] = "require 'tidepool'.App 'x':func { name = 'f' } (function(x) return x + 1 end)" })
  end)

  it("-0 reads records that end in NUL, with line ends in them", function()
    mapped({ stdout = "3\n0\n4\n", stderr = "" }, [[printf 'a\nb\0\0last' | $T map -0 job.lua::length]])
    mapped({ stdout = "4\n" }, [[printf 'a\nb\n' | $T map -0 job.lua::length]])
    mapped({ stdout = "1\t2\n" }, [[printf '1\n\0' | $T map -0 --json --text job.lua::same 2>/dev/null
      printf '[1,\n2]\0' | $T map -0 --json job.lua::same | tr , '\t' | tr -d '[]']])
    mapped({ stdout = "2\tx\n" }, [[printf '1,1,x\0' | $T map -0 --columns , job.lua::add]])
  end)

  it("--halt ends it after so many failures, of the function or of its results", function()
    local failing = [[require 'tidepool'.App 'x':func { name = 'f' } (function(x)
      if x % 3 == 0 then error("three", 0) end
      return x % 5 == 0 and "two\nlines" or x
    end)]]
    local function halted(expected, command)
      return check(expected, "seq 20 | $T map one.lua " .. command, { ["one.lua"] = failing })
    end
    halted({ code = 1, stdout = "1\n2\n4\n",
      stderr = "tidepool: line 3: three\ntidepool: line 5: a result with a line end in it would be two lines (--json writes it as one)\n"
        .. "tidepool: the map was halted: 2 of 5 inputs have failed\n" }, "--halt 2")
    halted({ code = 1, stdout = "1\n2\n", stderr = "tidepool: line 3: three\ntidepool: the map was halted: 1 of 3 inputs have failed\n" }, "--halt=1")
    contains(halted({ code = 1 }, "--halt 100").stderr, "tidepool: 9 failed\n")
  end)

  it("--results writes a file for each input, with line ends if it has some", function()
    mapped({ stdout = "1\n2\n4\n1\n16\n", stderr = "tidepool: line 3: job.lua:4: five\ntidepool: 1 failed\n" },
      "printf '1\n4\n5\n6\n' | $T map --results out --keep-going job.lua::square; ls out; cat out/1 out/2")
    mapped({ stdout = "two\nlines\n", stderr = "" }, "echo 6 | $T map --results=out job.lua::odd && cat out/1")
    mapped({ stdout = '"two\\nlines"\n4\t4\n' },
      "echo 6 | $T map --json --results a job.lua::odd && echo 4 | $T map --tag --results b job.lua::same && cat a/1 b/1")
    mapped({ stdout = '{"error":"job.lua:4: five","index":1,"kind":"error"}\n', stderr = "tidepool: 1 failed\n" },
      "echo 5 | $T map --json --keep-going --results out job.lua::square; cat out/1")
    mapped({ code = 1, stdout = "1\n", stderr = "" }, "(seq 5 | $T map --results out job.lua::square) 2>/dev/null; c=$?; cat out/1; exit $c")
  end)

  it("--joblog writes a line for each input, as GNU parallel does", function()
    local head = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    --- The lines without what differs from run to run, which must look right.
    local function lines_of(done)
      contains(done.stdout, head)
      local times = 0
      local log = done.stdout:match(head .. "(.*)$"):gsub("\t:\t%d%d%d%d%d%d%d%d%d%d%.%d%d%d\t *%d+%.%d%d%d\t0\t", function()
        times = times + 1
        return " "
      end)
      return log, times
    end
    local log, n = lines_of(mapped({ stderr = "" }, "printf '10\\na\\\\b\\n11\\n' | $T map --joblog log job.lua::same; cat log"))
    assert.same({ "1 2\t0\t0\tjob.lua::same 10\n2 3\t0\t0\tjob.lua::same a\\\\b\n3 2\t0\t0\tjob.lua::same 11\n", 3 }, { log, n })
    -- a failure that ends it has its line, too, and the lines before it are there
    log, n = lines_of(mapped({}, "seq 4 6 | $T map --joblog log job.lua::square 2>/dev/null; cat log"))
    assert.same({ "1 2\t0\t0\tjob.lua::square 4\n2 0\t1\t0\tjob.lua::square 5\n", 2 }, { log, n })
    log = lines_of(mapped({}, "seq 4 6 | $T map --json --keep-going --joblog log job.lua::square; cat log"))
    assert.equal("1 2\t0\t0\tjob.lua::square 4\n2 0\t1\t0\tjob.lua::square 5\n3 2\t0\t0\tjob.lua::square 6\n", log)
    log = lines_of(mapped({}, [[printf '1,"a\tb\nc"\n' | $T map --columns , --results out --joblog log job.lua::same; cat log]]))
    assert.equal("1 7\t0\t0\tjob.lua::same 1\\ta\\tb\\nc\n", log)
    -- what the journal had is not run, and has no line
    log = lines_of(mapped({}, [[seq 2 | $T map --quiet --journal run.db job.lua::same >/dev/null
      seq 3 | $T map --quiet --journal run.db --joblog log job.lua::same; cat log]]))
    assert.equal("3 1\t0\t0\tjob.lua::same 3\n", log)
  end)

  it("--joblog says how worker processes have ended", function()
    support.let_signals_kill()
    local dies = [[
      local ffi = require "ffi"
      ffi.cdef "void _exit(int); int raise(int);"
      require "tidepool".App "x":func { name = "f", executor = "processes", crash_retries = 0 } (function(x)
        if x == 2 then ffi.C.raise(9) end
        if x == 3 then ffi.C._exit(7) end
        return x
      end)]]
    local done = check({}, "seq 3 | $T map --keep-going --joblog log dies.lua 2>/dev/null; cut -f 7- log", { ["dies.lua"] = dies })
    assert.equal("1\nExitval\tSignal\tCommand\n0\t0\tdies.lua 1\n0\t9\tdies.lua 2\n7\t0\tdies.lua 3\n", done.stdout)
  end)

  it("--joblog says why it cannot write", function()
    mapped({ code = 2, stdout = "", stderr = "tidepool: --joblog: a/b: No such file or directory\n" }, "echo 1 | $T map --joblog a/b job.lua::same")
    mapped({ code = 1, stderr = "tidepool: cannot write /dev/full: No space left on device\n" }, "echo 1 | $T map --joblog /dev/full job.lua::same")
    refused("map: --joblog needs a file", "$T map job.lua::kind --joblog")
  end)

  it("--results takes no folder with files in it, unless there is a journal to go on with", function()
    mapped({ code = 2, stdout = "4\n",
      stderr = "tidepool: --results: out is not empty: give another folder, or --journal, with which a run goes on\n" },
      "mkdir out; echo 2 | $T map --results out job.lua::square; cat out/1; echo 3 | $T map --results out job.lua::square")
    local done = mapped({}, [[
      seq 4 5 | $T map --quiet --keep-going --journal run.db --results out job.lua::square 2>/dev/null; echo old >out/2
      sed -i 's/x == 5/x == 4/' job.lua
      seq 4 5 | $T map --quiet --keep-going --journal run.db --results out job.lua::square; ls out; cat out/*]])
    assert.same({ "2\n25\n", "tidepool: line 1: job.lua:4: five\ntidepool: 1 failed\n" }, { done.stdout, done.stderr })
    mapped({ code = 2, stderr = "tidepool: --results: cannot use job.lua: Not a directory\n" }, "echo 1 | $T map --results job.lua job.lua::square")
    mapped({ code = 2, stderr = "tidepool: --results: cannot make a/b: No such file or directory\n" },
      "echo 1 | $T map --results a/b job.lua::square")
    mapped({ code = 1, stderr = "tidepool: cannot write out/1: Is a directory\n" },
      "mkdir -p out/1; echo 1 | $T map --quiet --journal run.db --results out job.lua::square")
  end)

  it("say what is wrong with them", function()
    refused("--json and --text are two meanings of the lines: choose one", "$T map --json --text job.lua::kind")
    refused("--json and --columns are two meanings of the lines: choose one", "$T map --json --columns , job.lua::kind")
    refused("--json and --tag are two forms of the output: choose one", "$T map --json --tag job.lua::kind")
    refused('map: --columns needs what separates fields, like "," or "\\t"', "$T map job.lua::kind --columns")
    refused('map: --columns needs what separates fields, like "," or "\\t"', "$T map job.lua::kind --columns=")
    refused('map: --columns needs what separates fields, like "," or "\\t"', "$T map --columns --text job.lua::kind")
    refused([[--columns: the string "\"" cannot be or follow a quote: fields may be in quotes]], [[$T map --columns '"' job.lua::kind]])
    refused([[--columns: the string "aaaaaaaaaaaaaaaaa" is longer than 16 bytes]], [[$T map --columns aaaaaaaaaaaaaaaaa job.lua::kind]])
    refused([[--columns: the string "\n" is what ends a line]], [[$T map --columns '
' job.lua::kind]])
    refused('--halt: the string "0" is no number of failures, from 1', "$T map --halt 0 job.lua::kind")
    refused('--halt: the string "10%" is no number of failures, from 1', "$T map --halt 10% job.lua::kind")
    refused("map: --halt needs a number of failures, like 3", "$T map job.lua::kind --halt")
    refused("map: --results needs a folder", "$T map job.lua::kind --results")
    refused("--retry-failed needs --journal FILE, which says what has failed", "$T map --retry-failed job.lua::kind")
    refused("--explain needs --journal FILE: it says of its inputs why they run", "$T map --explain job.lua::kind")
  end)
end)

describe("tidepool map --journal", function()
  --- The files that a function notes its inputs in, and a job that fails for inputs that are in the
  -- file `bad`.
  local noting = [[
    local tidepool = require "tidepool"
    tidepool.App "p":func { name = "f" } (function(x)
      local ran = io.open("ran", "a")
      ran:write(tostring(x), " ")
      ran:close()
      local bad = io.open "bad"
      if bad and (" " .. bad:read "*l" .. " "):find(" " .. x .. " ", 1, true) then error("bad", 0) end
      return x
    end)
  ]]
  local map = "$T map -w 1 --journal run.db job.lua "
  local function noted(expected, command)
    return check(expected, command, { ["job.lua"] = noting })
  end

  it("runs what is new, or another line than before at its place", function()
    noted({ stdout = "a\nb\nc\na b c \na\nb\nc\na\nX\nc\nd\nX d \n",
      stderr = "tidepool: f: all 3 from run.db\ntidepool: f: 2 of 4 from run.db; 2 run: 1 is new, 1 is another input than before\n" }, [[
      printf 'a\nb\nc\n' | ]] .. map .. [[; cat ran; echo; rm ran
      printf 'a\nb\nc\n' | ]] .. map .. [[; cat ran 2>/dev/null
      printf 'a\nX\nc\nd\n' | ]] .. map .. [[; cat ran; echo]])
  end)

  it("goes on where it was interrupted, and says that it can", function()
    local stopped = noting:gsub("return x\n", [[
      while x == 2000 and io.open "stop" do os.execute "kill -INT $PPID; sleep 0.1" end
      return x
]])
    local done = check({}, [[
      touch stop; seq 3000 | ]] .. map .. [[ >out; rm stop ran
      seq 3000 | ]] .. map .. [[ | md5sum; seq 3000 | md5sum; wc -w <ran]], { ["job.lua"] = stopped })
    local sum, expected, ran = done.stdout:match "^(%x+)[^\n]*\n(%x+)[^\n]*\n(%d+)\n$"
    assert.equal(expected, sum, done.stdout)
    assert.truthy(tonumber(ran) < 3000, done.stdout)
    local said = done.stderr:match "^tidepool: interrupted %(%d+[ of%d]* results delivered[^)]*%); run the same command again to ([^\n]*)\n"
    assert.truthy(said == "go on" or said and said:find "^finish the other %d+$", done.stderr)
    contains(done.stderr, "of 3000 from run.db; ")
  end)

  it("--retry-failed runs what failed, whatever has changed, and nothing else", function()
    noted({ code = 1, stdout = "1\n3\n1 2 3 4 \n4\n2 4 \n1\n3\n4\n5\n2 5 ", stderr = [[
tidepool: line 2: bad
tidepool: line 4: bad
tidepool: 2 failed
tidepool: line 2: bad
tidepool: f: 2 that failed before run again
tidepool: 1 failed
tidepool: line 2: bad
tidepool: f: 3 of 5 from run.db; 2 run: 1 is new, 1 failed before
tidepool: 1 failed
]] }, [[
      echo 2 4 >bad; seq 4 | ]] .. map .. [[ --keep-going; cat ran; echo; rm ran
      echo 2 >bad; seq 5 | ]] .. map .. [[ --keep-going --retry-failed; cat ran; echo; rm ran
      seq 5 | ]] .. map .. [[ --keep-going; c=$?; cat ran; exit $c]])
    noted({ stdout = "xx\ttrue\n", stderr = "tidepool: f: 1 that failed before runs again\n" }, [[
      echo 2 >bad; seq 40 | ]] .. map .. [[ --keep-going >/dev/null 2>&1; sed -i 's/return x/return true/; /error/d' job.lua
      (echo 1; echo xx; seq 3 40) | ]] .. map .. " --keep-going --retry-failed --tag")
    noted({ stdout = "", stderr = "tidepool: f: 0 that failed before run again\n" }, "seq 9 | " .. map .. " --retry-failed")
    noted({ stdout = "2\n1 2 2 ", stderr = "" }, [[
      echo 2 >bad; seq 2 | ]] .. map .. [[ --json >/dev/null 2>&1; rm bad; seq 2 | ]] .. map .. [[ --json --retry-failed --quiet --results out
      cat out/*; cat ran]])
  end)
end)

describe("tidepool run FILE::NAME --json", function()
  it("prints what a function gives as JSON", function()
    mapped({ stdout = "9\n", stderr = "" }, "$T run job.lua::square --x 3 --json")
    mapped({ stdout = '["number",3]\n' }, "$T run job.lua::kind --json 3")
    mapped({ stdout = "null\n" }, "$T run job.lua::none --json")
    mapped({ stdout = "string\t--json\n" }, "$T run job.lua::kind -- --json")
  end)

  it("takes --x and --no-x for true and false", function()
    mapped({ stdout = "boolean\ttrue\n" }, "$T run job.lua::kind --x")
    mapped({ stdout = '["boolean",false]\n' }, "$T run job.lua::kind --no-x --json")
  end)

  it("leaves a parameter of that name to the function", function()
    check({ stdout = "7\n" }, "$T run j.lua::f --json 7",
      { ["j.lua"] = "require 'tidepool'.App 'x':func { name = 'f' } (function(json) return json end)" })
  end)

  it("says what has no form in JSON", function()
    contains(run("$T run j.lua::f --json", { ["j.lua"] = "require 'tidepool'.App 'x':func { name = 'f' } (function() return 0/0 end)" }).stderr,
      "nan has no form in JSON")
  end)
end)
