--- `tidepool journal` and `tidepool replay`: what a journal has, and one of its inputs once more.

local cjson = require "cjson"
require "tidepool"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local check, contains, run = shell.check, support.contains, shell.run

-- An app with an entry: input 3 of `square` fails.
local job = [[
local tidepool = require "tidepool"
local app = tidepool.App "p"
local square = app:func { name = "square" } (function(x)
  if x == 3 then error "three" end
  return x * x, "square of " .. x
end)
app:setup(function() is_set_up = true end)
app:main(function() square:map({ 1, 2, 3, 4 }, { return_exceptions = true }):list() end)
]]

local made = "$T --quiet --journal run.db job.lua && "

local function ran(expected, command, source, more)
  local files = { ["job.lua"] = source or job }
  for name, text in pairs(more or {}) do files[name] = text end
  return check(expected, made .. command, files)
end

local function refused(message, command)
  ran({ code = 2, stdout = "", stderr = "tidepool: " .. message .. "\n" }, command)
end

--- Texts of times differ from run to run.
local function without_times(text)
  return (text:gsub(" +[%d.]+ [mu]?s", " T"):gsub("[^\n]*\n", function(line) return line:gsub(" +work +longest\n", "\n") end))
end

describe("tidepool journal", function()
  it("shows for each map what its inputs came to", function()
    local source = job .. [[
      app:func { name = "iterated" } (function(x) return x end)
      app:main { name = "other" } (function()
        local i = 0
        app.functions.iterated:map(function() i = i + 1 return i < 3 and i or nil end):list()
      end)
    ]]
    local done = check({ stderr = "" }, [[$T --quiet run job.lua::main --journal run.db && $T run job.lua::other --quiet --journal run.db
      $T journal run.db && ls -A]], { ["job.lua"] = source })
    assert.equal([[
map       inputs  done  failed  missing  attempts
square         4     3       1        0         4 T T
iterated       ?     2       0        ?         2 T T
.command
.stderr
.stdout
job.lua
run.db
]], without_times(done.stdout))
  end)

  it("knows what is missing", function()
    contains(ran({}, "sqlite3 run.db 'delete from items where id & 3 = 2' && $T journal run.db").stdout, "square       4     2       1        1 ")
  end)

  it("lists the inputs that failed", function()
    ran({ stdout = "square #3 (3): error: job.lua:4: three\n", stderr = "" }, "$T journal run.db failures")
  end)

  it("gives JSON", function()
    local maps = cjson.decode(ran({}, "$T journal run.db --json").stdout)
    assert.equal(1, #maps)
    local map = maps[1]
    assert.same({ "square", "square", 4, 3, 1, 0, 4 },
      { map.map, map["function"], map.inputs, map.done, map.failed, map.not_kept, map.attempts })
    assert.truthy(map.program:find "^/.*/job.lua$" and map.seconds > 0 and map.longest > 0 and map.finished > 1e9)
    local failures = cjson.decode(ran({}, "$T journal --json run.db failures").stdout)
    assert.equal(1, #failures)
    assert.same({ "square", 3, { 3 }, "error", "job.lua:4: three" },
      { failures[1].map, failures[1].index, failures[1].input, failures[1].kind, failures[1].message })
    assert.equal("[]\n", ran({}, "sqlite3 run.db 'delete from items; delete from maps' && $T journal run.db --json").stdout)
  end)

  it("shows nothing that a terminal would obey, and bears any value", function()
    local done = ran({ stderr = "" }, [[sqlite3 run.db "update items set message = x'1b5b316d0a', input = x'0101b2ffffffffffffffff',
      attempts = 'many', duration = 'long', started = x'00'; update maps set name = 'a' || char(27, 10) || 'b', inputs = 'all', function = x'ff'"
      $T journal run.db && $T journal run.db failures && $T journal run.db --json && $T journal run.db failures --json]])
    assert.falsy(done.stdout:find "\27")
    contains(done.stdout, "a\\027\\010b ", "#3 (input not kept): error: \\027[1m\\010")
  end)

  it("reads in a folder that it cannot write to, and while the program runs", function()
    local done = run([[$T --quiet --journal run.db job.lua && $T --quiet --journal run.db other.lua]], {
      ["job.lua"] = job, ["other.lua"] = [[
        local tidepool = require "tidepool"
        local f = tidepool.App "o":func(function(x) return x end)
        local results = f:map({ 1, 2 })
        results:next()
        local pipe = io.popen "$T journal run.db"
        io.write(pipe:read "*a")
        results:list()
      ]] })
    assert.same({ 0, "" }, { done.code, done.stderr })
    contains(done.stdout, "square       4     3       1        0 ", "f ")
    if shell.run("test $(id -u) -ne 0").code == 0 then
      ran({ stderr = "" }, "mkdir closed && mv run.db closed && chmod 555 closed && $T journal closed/run.db; c=$?; chmod 755 closed; exit $c")
    end
  end)

  it("says what is wrong with its words, or the file", function()
    refused("which journal? (tidepool journal FILE; more: tidepool help journal)", "$T journal")
    refused("journal: what is 'fail'? (tidepool journal FILE [failures])", "$T journal run.db fail")
    refused("journal: unknown option '--jsn' (did you mean --json?)", "$T journal run.db --jsn")
    refused("journal: unknown option '-x' (there are: --json, --help)", "$T journal -x run.db")
    ran({ code = 1, stdout = "", stderr = "tidepool: cannot read -x: No such file or directory\n" }, "$T journal -- -x")
    ran({ code = 1, stdout = "", stderr = "tidepool: cannot read none.db: No such file or directory\n" }, "$T journal none.db")
    ran({ code = 1, stdout = "", stderr = "tidepool: job.lua is no journal: it is not an SQLite database\n" }, "$T journal job.lua")
    ran({ code = 1, stdout = "", stderr = "tidepool: empty.db is no journal: it is empty\n" }, "touch empty.db && $T journal empty.db")
    ran({ code = 1, stdout = "", stderr = "tidepool: . is no journal: it is a folder\n" }, "$T journal .")
  end)
end)

describe("tidepool replay", function()
  it("runs one input again, in the script's own state, and compares", function()
    local function replayed(expected, command)
      local done = ran({ stdout = expected.stdout }, command)
      assert.equal(expected.stderr, (done.stderr:gsub(" of /[^\n]*/job.lua\n", " of job.lua\n")))
    end
    replayed({ stdout = "4\tsquare of 2\n", stderr = "tidepool: square #2: square(2) of job.lua\ntidepool: square #2: the same as in run.db\n" },
      "$T replay run.db 2")
    ran({ stdout = "4\tsquare of 2\n" }, "$T replay run.db square '#2'")
    replayed({ stdout = "40\tsquare of 2\n", stderr = [[
tidepool: square #2: square(2) of job.lua
tidepool: square #2: the function, or what it captures, is not as it was for run.db
tidepool: square #2: in run.db it gave 4, "square of 2"
]] }, "sed -i 's/x \\* x/x * 20/' job.lua && $T replay run.db 2 --executor inline")
    replayed({ stdout = "9\tsquare of 3\n", stderr = [[
tidepool: square #3: square(3) of job.lua
tidepool: square #3: the function, or what it captures, is not as it was for run.db
tidepool: square #3: in run.db it failed: error: job.lua:4: three
]] }, "sed -i /three/d job.lua && $T replay run.db 3")
  end)

  it("raises the function's error, with its traceback", function()
    local done = ran({ code = 1, stdout = "" }, "$T replay run.db 3")
    assert.truthy(done.stderr:find "^tidepool: square #3: square%(3%) of [^\n]*\ntidepool: [^\n]*/job.lua:4: three\nstack traceback:\n", done.stderr)
  end)

  it("compares numbers as `returns` keeps them", function()
    local script = [[
      local whole = require "tidepool".App "p":func { name = "whole", returns = "int64" } (function(x) return x end)
      whole:map({ 7 }):list()
    ]]
    contains(ran({ stdout = "7LL\n" }, "$T replay run.db 1", script).stderr, "whole #1: the same as in run.db\n")
  end)

  --- Replays inputs, as "f 1 2 g#2 1" names them, of a script that was run with these options: each
  --- must give what it gave.
  local function same(options, inputs, script)
    local command, map = { "$T --quiet --journal run.db " .. options .. " job.lua" }, nil
    local expected = {}
    for word in inputs:gmatch "%S+" do
      if word:find "^%d+$" then
        command[#command + 1] = ("$T replay run.db '%s' %s 2>&1 | tail -n 1"):format(map, word)
        expected[#expected + 1] = ("tidepool: %s #%s: the same as in run.db\n"):format(map, word)
      else
        map = word
      end
    end
    check({ stdout = table.concat(expected), stderr = "" }, table.concat(command, "; "), { ["job.lua"] = script })
  end

  -- Whatever draws in an input, or is known of it: kept in locals, in maps and calls below it,
  -- after a seed of its own, in a setup, in enter, at a second attempt.
  local drawing = [[
    local tidepool = require "tidepool"
    local app = tidepool.App "p"
    local random, seed = math.random, math.randomseed
    local at_load = random() + math.random()
    local below = app:func { name = "below" } (function() return math.random() end)
    app:setup(function() string.drawn = math.random() end)
    local f = app:func { name = "f", retries = 1 } (function(x)
      local current = tidepool.current()
      local mapped = below:map({ 1, 2 }):list()
      if x == 2 and current.attempt == 1 then error "again" end
      local own, dice, called = random(), math.random(6), below:spawn(1):get()
      if x == 3 then seed(5) end
      return at_load, string.drawn, mapped[1], mapped[2], own, dice, called, math.random(2, 3), below:remote(1), current.index, current.attempt,
        current.function_name, current.executor, current.worker
    end)
    local waits = app:func { name = "waits", concurrent_inputs = 3 } (function(x)
      tidepool.sleep(0.001)
      return x, math.random(), tidepool.current().index
    end)
    local Model = app:cls {
      enter = function(self) self.drawn, self.below = math.random(), below:remote(1) end,
      get = function(self, x) return self.p and self.p[1], self.drawn, self.below, math.random(), x end,
    }
    app:main(function()
      random()
      below:map({ 1 }):list()
      f:map({ 1, 2, 3 }):list()
      seed(os.time())
      f:starmap({ { 7, 8 }, { 9 } }):list()
      waits:map({ 1, 2, 3, 4 }):list()
      local one = Model { p = { "deep" } }
      one.get:map({ 1, 2 }):list()
      Model { p = tidepool.array("double", { 7 }) }.get:with { retries = 1 }:map({ 1 }):list()
    end)
  ]]

  it("draws the numbers that the input drew, and knows of it what it knew", function()
    same("", "below 1 f 1 2 3 f#2 1 2 waits 1 4 Model.get 1 2 Model.get#2 1", drawing)
    same("--executor processes", "below 1 f 1 2 3 f#2 2 Model.get 2 Model.get#2 1", drawing:gsub("waits:map", "-- %0"))
    same("--executor inline", "f 3 f#2 1 Model.get 1", drawing)
  end)

  it("draws what a line of tidepool map drew, and what each of several runs drew", function()
    local files = { ["job.lua"] = drawing .. "math.randomseed(os.getenv 'SEED')\n" }
    check({ stdout = ("tidepool: f #%d: the same as in run.db\n"):rep(3):format(1, 2, 3), stderr = "" }, [[
      seq 2 | SEED=1 $T map job.lua::f --quiet --journal run.db >/dev/null; seq 3 | SEED=2 $T map job.lua::f --quiet --journal run.db >/dev/null
      for i in 1 2 3; do SEED=3 $T replay run.db $i 2>&1 | tail -n 1; done]], files)
    -- a map of one name twice in one run
    local twice = [[
      local f = require "tidepool".App "p":func { name = "f" } (function(x) return x, math.random() end)
      for i = 1, 2 do
        local kept = f:map({ 1 }, { journal = "run.db" })
        if i == 1 then f:map({ 1, 2 }, { journal = { file = "run.db", name = "n" } }):list() end
        f:map({ 1, 3 }, { journal = { file = "run.db", name = "n" } }):list()
        kept:list()
      end
    ]]
    same("", "f 1 n 1 2", twice)
  end)

  it("draws what the device drew", function()
    same("--executor threads", "d 1 2", [[
      local app = require "tidepool".App "p"
      local d = app:func { name = "d", gpu = true } (function(x) return x + math.random() end)
      app:main(function() d:map({ 1, 2 }):list() end)
    ]])
  end)

  it("makes a method's instance with the parameters that it had, or takes the program's own", function()
    local script = [[
      local app = require "tidepool".App "p"
      local Model = app:cls { plus = function(self, x) return (self.p or 0) + (self.f and self.f() or 0) + x end }
      local early = Model { f = function() return 100 end }
      app:main(function()
        Model { p = 5 }.plus:map({ 1 }):list()
        early.plus:map({ 1 }):list()
        Model { f = function() return 200 end }.plus:map({ 1 }):list()
      end)
    ]]
    same("", "Model.plus 1 Model.plus#2 1", script)
    local done = ran({ code = 1, stdout = "" }, "$T replay run.db Model.plus#3 1", script)
    contains(done.stderr, "run.db could not keep the parameters of the Model that map 'Model.plus#3' was of, and the program makes none with these "
      .. "when it is loaded, so input 1 cannot be run again\n")
    -- also when the class has been changed meanwhile
    done = ran({ stdout = "16\n" }, "sed -i 's/ + x/ + 10 + x/' job.lua && $T replay run.db Model.plus 1", script)
    contains(done.stderr, "the function, or what it captures, is not as it was for run.db\n", "#1: in run.db it gave 6\n")
  end)

  it("refuses what a worker refuses", function()
    local script = [[
      local tidepool = require "tidepool"
      local exit = os.exit
      local app = tidepool.App "p"
      local f = app:func { name = "f" } (function(x)
        if x == 1 then exit(3) elseif x == 2 then tidepool.async(print) else tidepool.workers(7) end
      end)
      app:main(function() f:map({ 1, 2, 3 }, { return_exceptions = true }):list() end)
    ]]
    for i, message in ipairs {
      "os.exit(3) called in a worker", "tidepool.async: a mapped function has no loop", "tidepool.workers: only the script",
    } do
      contains(ran({ code = 1, stdout = "" }, "$T replay run.db " .. i, script).stderr, "job.lua:5: " .. message)
    end
  end)

  it("says that the file does not have what is drawn from, where an older Tidepool has written it", function()
    contains(ran({ stdout = "4\tsquare of 2\n" }, "sqlite3 run.db 'drop table starts' && $T replay run.db 2").stderr,
      "square #2: run.db does not say which random numbers it drew: an older Tidepool has written it\n", "square #2: the same as in run.db\n")
  end)

  it("works from any folder, and has done what setups do", function()
    local source = job:gsub("return x %* x", "return is_set_up, x * x")
    ran({ stdout = "true\t4\tsquare of 2\n" }, "mkdir below && cd below && $T replay ../run.db 2", source)
  end)

  it("gives JSON", function()
    local done = cjson.decode(ran({}, "$T replay run.db 2 --json").stdout)
    assert.same({ "square", 2, { 2 }, { 4, "square of 2" }, "done", true, cjson.null },
      { done.map, done.index, done.input, done.result, done.state, done.same, done.error })
    done = cjson.decode(ran({ code = 1 }, "$T replay run.db 3 --json").stdout)
    assert.same({ { 3 }, cjson.null, "failed" }, { done.input, done.result, done.state })
    assert.truthy(done.error:find "job.lua:4: three$")
  end)

  it("leaves a script that maps while it is loaded there, with what the function captures", function()
    local script = [[
      local tidepool = require "tidepool"
      local factor = 10
      local f = tidepool.App "p":func(function(x, y, z) return factor * x, y, z end)
      factor = 20
      print(f:starmap { { 1, 2 }, { 3, nil, 5, n = 3 }, { 7LL } }:list()[2])
      print "later"
    ]]
    ran({ stdout = "60\nlater\n60\tnil\t5\n" }, "$T replay run.db 2", script)
    ran({ stdout = "60\nlater\n140LL\tnil\tnil\n" }, "$T replay run.db 3", script)
  end)

  it("gives integers of 64 bits, and every other value, as they were", function()
    local script = [[
      local tidepool = require "tidepool"
      local f = tidepool.App "p":func(function(x) return type(x) == "table" and x.a[1] or x end)
      local function try(xs) f:map(xs):list() end
      try(tidepool.array("int64", { -2^62 }))
      try(tidepool.array("uint64", { 7ULL }))
      try { { a = { "deep" } }, false, "text\0", 0.1 }
    ]]
    ran({ stdout = "-4611686018427387904LL\n7ULL\ndeep\nfalse\ntext\0\n0.1\n" }, [[
      for i in f f#2; do $T replay run.db $i 1; done; for i in 1 2 3 4; do $T replay run.db f#3 $i; done]], script)
  end)

  it("runs the plain Lua of a function that is on a device by now", function()
    ran({ stdout = "4\tsquare of 2\n" }, "sed -i 's/{ name =/{ gpu = true, name =/' job.lua && $T replay run.db 2")
  end)

  it("runs a line of tidepool map again", function()
    check({ stdout = "1\tsquare of 1\n4\tsquare of 2\n4\tsquare of 2\n" },
      "seq 2 | $T map job.lua::square --quiet --journal run.db; $T replay run.db 2", { ["job.lua"] = job })
  end)

  it("says what is wrong", function()
    refused("replay what? (tidepool replay FILE [MAP] INDEX; more: tidepool help replay)", "$T replay run.db")
    refused("replay: 'x' is not the index of an input, from 1", "$T replay run.db x")
    refused("replay: '0' is not the index of an input, from 1", "$T replay run.db 0")
    refused("replay: unknown option '-1' (there are: --json, --help)", "$T replay run.db -1")
    refused("replay: '4' is one too many (tidepool replay FILE [MAP] INDEX)", "$T replay run.db square 3 4")
    refused("run.db has no input 5 of map 'square': it has not run yet", "$T replay run.db 5")
    refused("run.db has no map 'cube' (there is: square)", "$T replay run.db cube 1")
    refused("run.db could not keep input 1 of map 'square', so it cannot be run again",
      "sqlite3 run.db 'update items set input = null' && $T replay run.db 1")
    ran({ code = 1, stdout = "" }, "mv job.lua gone.lua && $T replay run.db 1")
    ran({ code = 1, stdout = "" }, "sed -i 's/name = .square./name = \"cube\"/' job.lua && $T replay run.db 1")
    local inside = job:gsub("app:main%(function%(%)", "app:main(function() local square = app:func { name = 'late' } (function(x) return x end)")
    local done = ran({ code = 1, stdout = "" }, "$T replay run.db 1", inside)
    contains(done.stderr, "job.lua makes no function 'late' when it is loaded: one that is made in app:main cannot be run again\n")
    refused("run.db has several maps: square, square#2 (choose one: tidepool replay FILE MAP INDEX)", [[
      sed -i 's/end)$/&/; $d' job.lua; echo 'app:main(function() square:map({1}):sum() square:map({2}):sum() end)' >>job.lua
      rm run.db; $T --quiet --journal run.db job.lua && $T replay run.db 1]])
  end)
end)
