--- `tidepool map`: lines through a function; and JSON, which it and `tidepool run --json` speak.

local cjson = require "cjson"
require "tidepool"
local json = require "tidepool.json"
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
app:func { name = "none" } (function() end)
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
    mapped({ stdout = "number\t12\nnumber\t-0.5\nstring\t007\nstring\t\nstring\ttrue\nstring\ta b\t\nstring\tlast\n" },
      [[printf '12\n-.5\n007\n\ntrue\na b\t\nlast' | $T map job.lua::kind]])
    mapped({ stdout = "\n\n" }, "seq 2 | $T map job.lua::none")
    mapped({ stdout = "" }, "$T map job.lua::kind </dev/null")
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
    refused("job.lua has several functions: kind, none, square, sum (choose one: tidepool map job.lua::kind)", "$T map job.lua")
    refused("job.lua has no function 'sqare' (did you mean square? it has: kind, none, square, sum)", "$T map job.lua::sqare")
    refused("job.lua has no function 'main' (it has: kind, none, square, sum)", "$T map job.lua::main")
    refused("unknown option '--jsn' (did you mean --json?)", "$T map --jsn job.lua::kind")
    refused("unknown option '--frobnicate' (there are: --json, --keep-going, and those of tidepool)", "$T map --frobnicate job.lua::kind")
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

describe("JSON", function()
  it("is what cjson reads", function()
    for _, value in ipairs { 1, -0.1, 1e300, 1 / 3, 2 ^ 53, "a\0\"\\\n\127ä", true, { 1, 2, { x = { "y" } } }, { a = 1, ["b c"] = "" } } do
      assert.same({ value }, cjson.decode(json.encode { value }))
    end
    assert.equal('{"1":"a","3":"b"}', json.encode { "a", [3] = "b" })
    assert.equal("[1,null,3]", json.encode { 1, nil, 3, n = 3 })
    assert.equal("[null,null]", json.encode_results(nil, nil))
    assert.equal("[18446744073709551615]", json.encode { 18446744073709551615ULL })
    assert.equal("[1.5,2]", json.encode(require "tidepool".array("double", { 1.5, 2 })))
  end)

  it("is read as cjson writes it", function()
    for _, text in ipairs { '[1,2.5,-3e2,true,false,"x"]', '{"a":{"b":[]},"c":"\\u00e4\\ud83d\\ude00\\/\\b"}', ' [ ] ', '"\127"' } do
      local fine, value = json.decode(text)
      assert.is_true(fine)
      assert.same(cjson.decode("[" .. text .. "]"), { value })
    end
    assert.same({ true, { 1, nil, 3, n = 3 } }, { json.decode "[1,null,3]" })
    assert.same({ true, "\239\191\189x" }, { json.decode '"\\ud83dx"' })
  end)

  it("refuses what is none, and says where", function()
    for text, why in pairs {
      [""] = "a value at column 1", ["[1,]"] = "a value at column 4", ["[1 2]"] = ", or ] at column 4", ["{a:1}"] = "a key in quotes at column 2",
      ['{"a" 1}'] = ": at column 6", ['"a'] = 'a " at the end of the string at column 3', ['"\\x"'] = "an escape like \\n or \\u00e4 at column 2",
      ["01"] = "a value at column 1", ["1."] = "a value at column 1", ["nan"] = "a value at column 1", ["1 2"] = "the end at column 3",
      ['"\n"'] = "an escape for a control character at column 2", ['"\\u12"'] = "four hexadecimal digits after \\u at column 2",
      [("["):rep(200)] = "at most 100 levels at column 102",
    } do
      assert.same({ false, "no JSON: expected " .. why }, { json.decode(text) })
    end
  end)

  it("has no form for cycles, functions and nan", function()
    local t = {}
    t.t = t
    for what, value in pairs { ["in a cycle"] = t, ["a function"] = print, ["nan"] = 0 / 0, ["a key that is a boolean"] = { [true] = 1 } } do
      local fine, why = pcall(json.encode, value)
      assert.is_false(fine)
      contains(why, what, "no form in JSON", nil)
    end
  end)
end)
