--- `tidepool map`: lines through a function; and `tidepool run --json`. (JSON itself: json_spec.lua)

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
app:func { name = "kinds" } (function() return true, false, nil, -0.0, -12 end)
app:func { name = "none" } (function() end)
app:func { name = "same" } (function(...) return ... end)
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
    refused('--limit needs how long a line may be, like "64M"', "$T map job.lua::kind --limit")
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
    local all = "kind, kinds, length, none, odd, same, square, sum"
    refused(("job.lua has several functions: %s (choose one: tidepool map job.lua::kind)"):format(all), "$T map job.lua")
    refused(("job.lua has no function 'sqare' (did you mean square? it has: %s)"):format(all), "$T map job.lua::sqare")
    refused(("job.lua has no function 'main' (it has: %s)"):format(all), "$T map job.lua::main")
    refused("unknown option '--jsn' (did you mean --json?)", "$T map --jsn job.lua::kind")
    refused("--json and --text are two meanings of the lines: choose one", "$T map --json --text job.lua::kind")
    refused("unknown option '--frobnicate' (there are: --json, --text, --keep-going, --limit, and those of tidepool)",
      "$T map --frobnicate job.lua::kind")
    refused("'x' is one too many: the inputs are the lines of standard input", "$T map job.lua::kind x")
    contains(mapped({}, "$T map --help").stdout, "Usage: tidepool map FILE::NAME", "--keep-going")
  end)

  it("keeps what it says about a line on one line, without what a terminal would obey (S14)", function()
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
