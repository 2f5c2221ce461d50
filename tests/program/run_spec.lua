--- `tidepool run`: which entry, its options, its help, and every wrong use of it. (not stock: it is
-- about the program)

local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains = shell.check, support.contains

local train = assert(support.read_file "tests/cli/train.lua")

-- Runs `tidepool run train.lua...` and looks at what it gives.
local function train_with(expected, words, files)
  files = files or {}
  files["train.lua"] = train
  return check(expected, "$T run train.lua" .. words, files)
end

-- One line on stderr, exit code 2, nothing run.
local function refused(message, command, files)
  local done = check({ code = 2, stdout = "", stderr = "tidepool: " .. message .. "\n" }, command, files)
  return done
end

local function train_refused(message, words)
  refused(message, "$T run train.lua" .. words, { ["train.lua"] = train })
end

local header = "local tidepool = require 'tidepool' local app = tidepool.App 'a'\n"

describe("tidepool run chooses", function()
  local function chosen(output, source, name)
    check({ stdout = output .. "\n", stderr = "" }, "$T run job.lua" .. (name or ""), { ["job.lua"] = header .. source })
  end

  it("the only entry, whatever its name", function()
    chosen("1", "app:main(function() print(1) end)")
    chosen("1", "app:main { name = 'x' } (function() print(1) end)")
  end)

  it("the one without a name, or called main, of several", function()
    chosen("2", "app:main { name = 'x' } (function() print(1) end) app:main(function() print(2) end)")
    chosen("2", "app:main { name = 'x' } (function() print(1) end) app:main { name = 'main' } (function() print(2) end)")
  end)

  it("the one named after the last ::", function()
    chosen("1", "app:main { name = 'x' } (function() print(1) end) app:main(function() print(2) end)", "::x")
    chosen("2", "app:main { name = 'x' } (function() print(1) end) app:main(function() print(2) end)", "::main")
    check({ stdout = "1\n" }, "$T run 'a::b.lua::x'", { ["a::b.lua"] = header .. "app:main { name = 'x' } (function() print(1) end)" })
  end)

  it("among the entries of all apps of the file", function()
    chosen("1", "app:main { name = 'x' } (function() print(0) end) tidepool.App('b'):main(function() print(1) end)")
  end)

  it("none when several could be meant, and says which there are", function()
    refused("job.lua has several entries: x, y (choose one: tidepool run job.lua::x)", "$T run job.lua",
      { ["job.lua"] = header .. "app:main { name = 'x' } (print) app:main { name = 'y' } (print)" })
    refused("job.lua has several that are called 'main' (line 2, line 3): give them other names", "$T run job.lua",
      { ["job.lua"] = header .. "app:main(function() end)\napp:main(function() end)" })
    refused("job.lua has no app:main; its functions are: f, g (run one: tidepool run job.lua::f)", "$T run job.lua",
      { ["job.lua"] = header .. "app:func { name = 'g' } (print) app:func { name = 'f' } (print)" })
    refused("job.lua makes no app (to run it as a plain script: tidepool job.lua)", "$T run job.lua", { ["job.lua"] = "x = 1" })
  end)

  it("only what an app offers", function()
    train_refused("train.lua has no entry 'score2' (did you mean score? it has: main, free, wrong, fail, score)", "::score2")
    for _, name in ipairs { "print", "_G", "string.rep" } do
      train_refused(("train.lua has no entry '%s' (it has: main, free, wrong, fail, score)"):format(name), "::" .. name)
    end
  end)

  it("nothing, and runs nothing, when the name cannot be one", function()
    local files = { ["job.lua"] = "print 'was run'" }
    refused("a name is missing after :: in 'job.lua::'", "$T run job.lua::", files)
    for word, shown in pairs { ["../x"] = "../x", ["a/b"] = "a/b", ["a..b"] = "a..b", ["a b"] = "a b" } do
      refused(("'%s' cannot be the name of an entry: it has letters, digits, _ . and - only"):format(shown),
        ("$T run 'job.lua::%s'"):format(word), files)
    end
    refused([['\"a\nb\"' cannot be the name of an entry: it has letters, digits, _ . and - only]],
      "$T run 'job.lua::\"a\nb\"'", files)
  end)
end)

describe("tidepool run FILE", function()
  it("must be there", function()
    refused("cannot open 'none.lua': No such file or directory", "$T run none.lua")
    refused("cannot open 'none.lua': No such file or directory", "$T run none.lua::main")
    refused("cannot read 'dir.lua': Is a directory", "mkdir dir.lua; $T run dir.lua")
    refused("run what? (tidepool run FILE[::NAME]; more: tidepool help run)", "$T run")
  end)

  it("takes two colons, not one", function()
    refused("there is no file 'job.lua:train': did you mean job.lua::train?", "$T run job.lua:train", { ["job.lua"] = "" })
  end)

  it("must be a Lua script", function()
    refused("'../../etc/passwd' is no Lua script: its name does not end in .lua, nor is its first line a #! line",
      "mkdir -p a/b etc; echo x >etc/passwd; cd a/b; $T run ../../etc/passwd::main")
    check({ stdout = "1\n" }, "$T run job", { job = "#!/usr/bin/env -S tidepool run\n" .. header .. "app:main(function() print(1) end)" })
  end)

  it("that does not compile or fails ends with code 1", function()
    check({ code = 1, stderr = "tidepool: job.lua:1: '=' expected near '<eof>'\n" }, "$T run job.lua", { ["job.lua"] = "x" })
    check({ code = 1, stderr = "tidepool: job.lua:1: no\nstack traceback:\n\t[C]: in function 'error'\n\tjob.lua:1: in main chunk\n" },
      "$T run job.lua", { ["job.lua"] = "error 'no'" })
  end)

  it("sees its words as a plain script does", function()
    check({ stdout = "b\njob.lua\tb\n" }, "$T run --workers 2 job.lua::main --quiet b",
      { ["job.lua"] = header .. "app:main(function() print(arg[0], arg[1]) end) print(...)" })
  end)
end)

describe("an entry's options", function()
  local function gives(words, ...)
    contains("\n" .. train_with({ stderr = "" }, "::main " .. words).stdout, ...)
  end

  it("have the defaults and the types of its schema", function()
    gives("", "\nn=number:10\n", "\nrounds=number:2\n", "\nmode=string:fast\n", "\nk=table:[1 3 5]\n", "\ninput=nil:nil\n",
      "\nverbose=boolean:false\n", "\ndry_run=boolean:true\n", "\nrest=\n")
  end)

  it("take numbers, also negative and broken ones", function()
    gives("--n 2.5e1", "\nn=number:25\n")
    gives("--n=0x10", "\nn=number:16\n")
    gives("--rounds -3", "\nrounds=number:-3\n")
  end)

  it("take texts as they are", function()
    gives("--input 12", "\ninput=string:12\n")
    gives("--input=--x=1", "\ninput=string:--x=1\n")
    gives("--input ''", "\ninput=string:\n")
  end)

  it("take lists", function()
    gives("--k 7", "\nk=table:[7]\n")
    gives("--k=1,2,-3", "\nk=table:[1 2 -3]\n")
    gives("--k=", "\nk=table:[]\n")
  end)

  it("take booleans, with --no- and with =", function()
    gives("--verbose --no-dry-run", "\nverbose=boolean:true\n", "\ndry_run=boolean:false\n")
    gives("--verbose=true --dry_run=false", "\nverbose=boolean:true\n", "\ndry_run=boolean:false\n")
    gives("--verbose file", "\nverbose=boolean:true\n", "\nrest=file\n")
  end)

  it("leave the other words, and all after --", function()
    gives("a --n 3 -5 - -- --verbose -x", "\nn=number:3\n", "\nverbose=boolean:false\n", "\nrest=a -5 - --verbose -x\n")
  end)

  it("run with maps", function()
    contains(train_with({ stderr = "" }, " --mode exact --workers 2").stdout, "7\n8\n", "mode=string:exact")
  end)

  it("are refused in one clear line", function()
    for words, message in pairs {
      [" --n x"] = "--n: expected a number, got 'x'",
      [" --n 1x"] = "--n: expected a number, got '1x'",
      [" --n"] = "--n needs a value",
      [" --n --verbose"] = "--n needs a value",
      [" --n 0"] = "--n: expected a number 1 or more, got '0'",
      [" --rounds 1.5"] = "--rounds: expected a whole number, got '1.5'",
      [" --rounds 10"] = "--rounds: expected a number 9 or less, got '10'",
      [" --k 1,x"] = "--k: expected a list, each a number, got 'x'",
      [" --mode exat"] = "--mode: expected fast or exact, got 'exat' (did you mean exact?)",
      [" --verbose=maybe"] = "--verbose: expected true or false, got 'maybe'",
      [" --verbos"] = "unknown option '--verbos' (did you mean --verbose?)",
      [" --no-n"] = "--no-n: --n takes a value and cannot be switched off",
      [" --zzzzzzzzzz 1"] =
        "unknown option '--zzzzzzzzzz' (there are: --dry-run, --input, --k, --mode, --n, --rounds, --verbose)",
      [" -m fast"] = "unknown option '-m' (did you mean --k?)",
      [" --workers x"] = "--workers needs a number from 1 to 1024, not x (try: tidepool --help)",
    } do
      train_refused(message, words)
    end
  end)

  it("may be required", function()
    local files = { ["job.lua"] = header .. "app:main { args = { input = { type = 'string', required = true } } } (function(a) print(a.input) end)" }
    refused("--input is required", "$T run job.lua", files)
    check({ stdout = "x\n" }, "$T run job.lua --input x", files)
  end)

  it("of any name are taken where there is no schema", function()
    local expected = "1=string:file 2=string:-7 a=number:-1.5 b=string:x,y c_d=boolean:true e=boolean:false "
      .. "f=string:1 2 g=boolean:false h=boolean:true\n"
    train_with({ stdout = expected },
      "::free file --a -1.5 --b=x,y --c-d --no-e -7 --f '1 2' --g false --h")
  end)

  it("name their mistakes in the schema by its line", function()
    local function mistake(message, schema)
      check({ code = 1, stderr = "tidepool: job.lua:2: app:main: args." .. message .. "\n", stdout = "" }, "$T run job.lua",
        { ["job.lua"] = header .. "app:main { args = { " .. schema .. " } } (function() print 'ran' end)" })
    end
    mistake('k: the help must be a string (a list as the default is written { { 1, 2, 3 }, "help" })', "k = { 1, 3 }")
    mistake("k: unknown field '3' (a list as the default is written { { 1, 2, 3 }, \"help\" })", "k = { 1, 3, 5 }")
    mistake("k: unknown field 'chices' (a list as the default is written { { 1, 2, 3 }, \"help\" })", "k = { 1, chices = {} }")
    mistake("k: type 'int' is none of number, integer, string, boolean, list", "k = { 1, type = 'int' }")
    mistake("k: short must be one letter, but not h (help) or w (workers)", "k = { 1, short = 'kk' }")
    mistake("k: short must be one letter, but not h (help) or w (workers)", "k = { 1, short = 'w' }")
    mistake("workers: --workers belongs to tidepool itself: choose another name", "workers = 3")
  end)

  it("may be short: names of one letter, and those that say one", function()
    local job = { ["short.lua"] = [[
      local tidepool = require "tidepool"
      local args = { n = { 1, "how many" }, mode = { "fast", choices = { "fast", "exact" }, short = "m" }, loud = { false, short = "l" } }
      tidepool.App "short":main { args = args } (function(a) print(a.n, a.mode, a.loud, unpack(a)) end) ]] }
    check({ stdout = "3\texact\ttrue\tx\n", stderr = "" }, "$T run short.lua -n 3 -m exact -l x", job)
    check({ stdout = "3\texact\tfalse\t-l\n", stderr = "" }, "$T run short.lua -n3 -m=exact -- -l", job)
    contains(check({ stderr = "" }, "$T run short.lua -h", job).stdout, "  -m, --mode fast|exact", "  -n, --n NUMBER")
    contains(check({ code = 2 }, "$T run short.lua -x", job).stderr, "unknown option '-x'")
    contains(check({ code = 1 }, "$T run twice.lua", { ["twice.lua"] = [[
      require "tidepool".App "t":main { args = { a = 1, b = { 2, short = "a" } } } (print) ]] }).stderr, "args.b: -a is args.a, too")
  end)

  it("make the help", function()
    assert.equal([[
Usage: tidepool run train.lua [options] [arguments]

  --dry-run          changes nothing (default: on; --no-dry-run)
  --input STRING     a file
  -k, --k A,B,...    neighbours to try (default: 1,3,5)
  --mode fast|exact  how exact (default: fast)
  -n, --n NUMBER     how many (default: 10)
  --rounds INTEGER   (default: 2)
  --verbose

Also in train.lua: free, wrong, fail, score (tidepool run train.lua::NAME --help)
]], train_with({ stderr = "" }, " --n x --help").stdout)
    contains(train_with({}, "::free --help").stdout, "Usage: tidepool run train.lua::free [--key value ...]")
    assert.equal("Usage: tidepool run train.lua::score [--k VALUE] [--fold VALUE] [--json]\n", train_with({}, "::score --help").stdout)
    contains(check({}, "$T run --help").stdout, "Usage: tidepool run FILE[::NAME]")
  end)
end)

describe("an entry", function()
  it("with several parameters gets options by their names", function()
    local files = { ["job.lua"] = header .. "app:main(function(n, mode) print(n, mode) end)" }
    check({ stdout = "3\tfast\n" }, "$T run job.lua --mode fast --n 3", files)
    check({ stdout = "3\tfast\n" }, "$T run job.lua --n=3 fast", files)
    refused("unknown option '--mod' (did you mean --mode?)", "$T run job.lua --mod 3", files)
  end)

  it("that fails ends with code 1 and the user's part of the traceback", function()
    local line = 0
    for _ in train:match "^(.*)boom":gmatch "\n" do line = line + 1 end
    line = line + 1
    local text = "tidepool: train.lua:%d: boom\nstack traceback:\n\t[C]: in function 'error'\n"
      .. "\ttrain.lua:%d: in function <train.lua:%d>\n"
    train_with({ code = 1, stdout = "", stderr = text:format(line, line, line) }, "::wrong")
  end)

  it("may return anything", function()
    check({ code = 0, stdout = "" }, "$T run job.lua", { ["job.lua"] = header .. "app:main(function() return 3 end)" })
  end)
end)

describe("a function of an app", function()
  it("runs in the pool with its parameters by name or in order, and its results are printed", function()
    train_with({ stdout = "7\t{fold=3}\n", stderr = "" }, "::score --fold 3 7")
    train_with({ stdout = "a\t{fold=true}\n" }, "::score a true")
    train_with({ stdout = "nil\t{fold=\"none\"}\n" }, "::score")
  end)

  it("refuses what it has no parameter for", function()
    train_refused("too many arguments: it takes 2 (k, fold)", "::score 1 2 3")
    train_refused("unknown option '--fld' (did you mean --fold?)", "::score --fld 1")
  end)

  it("that fails ends with code 1 and its failure", function()
    local done = train_with({ code = 1, stdout = "" }, "::fail 'out of milk'")
    assert.truthy(done.stderr:find "^tidepool: train%.lua:%d+: out of milk\n")
    assert.is_nil(done.stderr:find("[tidepool]/", 1, true))
  end)
end)

it("an example finds the files beside it from its own folder, too", function()
  local examples = shell.quote(io.popen "pwd":read() .. "/examples")
  for _, name in ipairs { "filter", "heat", "mandelbrot" } do
    check({ stderr = "" }, ("cd %s && $T run %s.lua --help"):format(examples, name))
  end
end)
