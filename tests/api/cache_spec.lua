--- The option cache: results of a function by its input, across scripts and runs.

local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains, quote = support.contains, shell.quote
local here = require "lfs".currentdir()

--- A script whose functions note what they run in the file `ran`, with `put`, which prints.
local head = [[
local tidepool = require "tidepool"
local support = require "tests.support"
app = tidepool.App "c"
function counted(fn) local path = "ran" return function(...) support.note(path, tostring((...))) return fn(...) end end
function put(...) for i = 1, select("#", ...) do io.write(tostring((select(i, ...))), " ") end io.write "\n" end
function hits(f) local s = f:stats() return s.hits .. "/" .. s.misses end
]]

--- Runs scripts one after the other in one folder with a cache of its own. Gives for each what it
--- printed, its errors, its code, and the inputs that it ran.
local function runs(...)
  local dir, all = support.temp_dir(), {}
  for i, script in ipairs { ... } do
    if type(script) == "string" then script = { script } end
    support.write_file(dir .. "/job.lua", head .. script[1])
    os.remove(dir .. "/ran")
    if script.before then script.before(dir) end
    local done = shell.run(("cd %s && export XDG_CACHE_HOME=%s LUA_PATH='%s/?.lua;%s/?/init.lua;;' && { %s; }"):format(quote(dir),
      quote(dir .. "/cache"), here, here, script.command or "$T job.lua"))
    local ran = support.notes(dir .. "/ran")
    table.sort(ran, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
    all[i] = { out = done.stdout, err = done.stderr, code = done.code, ran = table.concat(ran, " "), dir = dir }
  end
  return unpack(all)
end

local function sql(done, statement)
  return (shell.run(("sqlite3 %s/cache/tidepool/results.db %s"):format(quote(done.dir), quote(statement))).stdout:gsub("\n$", ""))
end

describe("tidepool cache", function()
  local job = [[
    local app = require "tidepool".App "c"
    app:func { name = "long", cache = true } (function(x) return ("x"):rep(2000) .. x end):map({ 1, 2, 3 }):list()
    app:func { name = "short", cache = true } (function(x) return x end):map({ 1, 2 }):list()
  ]]
  local function made(command)
    return shell.run("export XDG_CACHE_HOME=$PWD/cache; $T job.lua && { " .. command .. "; }", { ["job.lua"] = job })
  end

  it("shows what functions have kept", function()
    local done = made "$T cache && $T cache cache/tidepool/results.db --json"
    assert.same({ "", 0 }, { done.stderr, done.code })
    local text, objects = done.stdout:match "^(.-\n)(%[.*)$"
    assert.truthy(text:find("^function  results  +size +work +used last +of\nlong +3 +6.2 KiB [^\n]*job.lua\nshort +2 +2%d%d bytes [^\n]*job.lua\n"
      .. "5 results, 6.4 KiB in [^\n]*/cache/tidepool/results.db\n$"), text)
    objects = require "cjson".decode(objects)
    assert.same({ "long", 3, "short", 2 }, { objects[1]["function"], objects[1].results, objects[2]["function"], objects[2].results })
  end)

  it("forgets", function()
    local done = made "$T cache forget long; $T cache; $T cache forget none; $T cache cache/tidepool/results.db forget; $T cache"
    assert.same({ "", 0 }, { done.stderr, done.code })
    assert.truthy(done.stdout:find("^forgot 3 results\n.*short .*forgot 0 results\nforgot 2 results\n0 results, 0 bytes in [^\n]*\n$"), done.stdout)
    assert.falsy(done.stdout:find "long")
  end)

  it("says what is wrong", function()
    local function refused(code, message, command)
      local done = made(command)
      assert.same({ code, "" }, { done.code, done.stdout })
      assert.truthy(done.stderr:find(message, 1, true), done.stderr)
    end
    refused(1, "tidepool: there is no cache yet: none.db is not there\n", "$T cache none.db")
    refused(1, "tidepool: job.lua is no cache: it is not an SQLite database\n", "$T cache job.lua")
    refused(1, "is no cache, but an SQLite database of another program", "$T --journal run.db job.lua 2>/dev/null; $T cache run.db")
    refused(1, "is no journal, but an SQLite database of another program", "$T journal cache/tidepool/results.db")
    refused(2, "tidepool: cache: what is 'x'? (tidepool cache [FILE] [forget [FUNCTION]])\n", "$T cache job.lua x")
    refused(2, "tidepool: cache: what is 'y'? ", "$T cache forget x y")
    refused(2, "tidepool: cache: unknown option '--all' (there are: --json, --help)\n", "$T cache --all")
  end)
end)

describe("A function with a cache", function()
  it("gives results of earlier scripts, maps and calls", function()
    local script = [[
      local f = app:func { cache = true } (counted(function(x, y) return x * 10, y end))
      put(f:map({ 1, 2, 3 }):sum())
      put(f:starmap { { 2 }, { 5, "y" } }:list()[2])
      put(f:remote(2))
      put(f:remote(5, "y"))
      put(f:spawn(7):get())
      put(f:with { executor = "inline" }:map({ 7, 8 }):sum(), hits(f))
    ]]
    local first, again = runs(script, (script:gsub("%f[%w]f%f[%W]", "g")))
    assert.same({ "60 \n50 \n20 nil \n50 y \n70 nil \n150 4/6 \n", "", 0, "1 2 3 5 7 8" }, { first.out, first.err, first.code, first.ran })
    assert.same({ "60 \n50 \n20 nil \n50 y \n70 nil \n150 10/0 \n", "", 0, "" }, { again.out, again.err, again.code, again.ran })
  end)

  it("keeps every kind of value", function()
    local script = [[
      local values = { 1, -1 / math.huge, 0/0, 2^53, "text", "\0\255", true, false, 0, 3LL, 4ULL, n = 12 }
      local f = app:func { cache = true } (counted(function(i) if i == 9 then return { 1, { x = "y" } } end return values[i] end))
      local function show(v) return type(v) == "table" and v[2].x or tostring(v):gsub("-nan", "nan") end
      for i = 1, 12 do io.write(show(f:remote(i)), " ") end
      put(hits(f))
    ]]
    local first, again = runs(script, script)
    assert.equal("1 -0 nan 9.007199254741e+15 text \0\255 true false y 3LL 4ULL nil 0/12 \n", first.out)
    assert.equal(first.out:gsub("0/12", "12/0"), again.out)
    assert.equal("", again.ran)
  end)

  it("runs what its function, its captured values or its options make new", function()
    local script = [[
      local k = %s
      local f = app:func { cache = true%s } (counted(function(x) return x + k %s end))
      put(f:map({ 1, 2 }):sum(), hits(f))
    ]]
    local first, value, code, types, back = runs(script:format("1", "", ""), script:format("2", "", ""), script:format("2", "", "* 3"),
      script:format("2", ", returns = 'int32'", "* 3"), script:format("1", "", ""))
    assert.same({ "5 0/2 \n", "7 0/2 \n", "15 0/2 \n", "15 0/2 \n", "5 2/0 \n" }, { first.out, value.out, code.out, types.out, back.out })
  end)

  it("keeps no failure, and does not take a result for an effect", function()
    local script = [[
      local f = app:func { cache = true } (counted(function(x) if x == 2 then error "two" end return x end))
      put(f:map({ 1, 2, 3 }, { return_exceptions = true }):list()[3], f:for_each({ 1, 3 }).ok)
      put(pcall(f.remote, f, 2) and "no failure" or "failed")
    ]]
    local first, again = runs(script, script)
    assert.equal("1 1 2 2 3 3", first.ran)
    assert.equal("1 2 2 3", again.ran)
    assert.equal(first.out, again.out)
  end)

  it("keeps results in its arrays, of any executor, and leaves the order alone", function()
    local script = [[
      local f = app:func { cache = true, returns = { "double", "int64" } } (counted(function(x) return x / 2, x end))
      local p = app:func { cache = true, executor = "processes" } (counted(function(x) return { x } end))
      local a, b = f:map(tidepool.range(1000)):array()
      put(a[999], b[999], #a, hits(f))
      local seen = 0
      for i, r in p:map(tidepool.range(50)) do assert(r[1] == i) seen = seen + 1 end
      for i, r in p:map(tidepool.range(60), { ordered = false }) do assert(r[1] == i) seen = seen + 1 end
      put(seen, hits(p))
      local function odd() local i = -1 return function() i = i + 2 return i < 60 and i or nil end end
      for i, r in p:map(odd()) do assert(r[1] == 2 * i - 1) end
      put(hits(p))
    ]]
    local first, again = runs(script, script)
    assert.equal("499.5 999LL 1000 0/1000 \n110 50/60 \n80/60 \n", first.out, first.err)
    assert.equal("499.5 999LL 1000 1000/0 \n110 110/0 \n140/0 \n", again.out)
    assert.equal("", again.ran)
  end)

  it("forgets an input, or all, also those of what it was before", function()
    local script = [[
      local f = app:func { cache = true } (function(x) return x %s end)
      local other = app:func { cache = true } (function(x) return -x end)
      f:map({ 1, 2, 3 }):list()
      other:remote(1)
      put(%s)
      put(f:map({ 1, 2, 3 }):sum(), other:remote(1), hits(f), hits(other))
    ]]
    local one, all = runs(script:format("", "f:forget(2), f:forget(9)"), script:format("+ 1", "f:forget()"))
    assert.equal("1 0 \n6 -1 2/4 1/1 \n", one.out)
    assert.equal("6 \n9 -1 0/6 2/0 \n", all.out)
    local wrong = runs [[ local f = app:func(function() end) put(pcall(f.forget, f)) ]]
    contains(wrong.out, "job.lua:", "Function:forget: 'f' has no option cache")
  end)

  it("may be a file, and no larger than its limit: what was used longest ago goes", function()
    local script = [[
      local f = app:func { cache = { file = "mine.db", size = "150K" } } (counted(function(x) return ("x"):rep(10000) .. x end))
      for i, r in f:map({ %s }) do assert(#r > 10000) end
      put(hits(f))
    ]]
    local function age(dir) -- by a day each run; 1 was used since
      os.execute(("sqlite3 %s/mine.db 'update results set used = used - 86400'"):format(quote(dir)))
    end
    local first, used, more, last = runs(script:format "1, 2, 3, 4, 5, 6, 7, 8, 9, 10", { script:format "1", before = age },
      { script:format "11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21", before = age }, script:format "1, 2, 3, 4, 5, 6, 7, 8, 9, 10")
    assert.equal("0/10 \n", first.out)
    assert.equal("1/0 \n", used.out)
    assert.equal("0/11 \n", more.out)
    assert.falsy((" " .. last.ran .. " "):find " 1 ")
    assert.truthy(tonumber(last.out:match "^%d+/(%d+)") >= 6, last.out)
    local function file(statement) return tonumber(shell.run(("sqlite3 %s/mine.db %s"):format(quote(first.dir), quote(statement))).stdout) end
    assert.truthy(file "select sum(bytes) from results" <= 160 * 1024)
    assert.truthy(#support.read_file(first.dir .. "/mine.db") < 400 * 1024)
  end)

  it("is shared by processes that use it at once", function()
    local script = [[
      local f = app:func { cache = true } (counted(function(x) return x * 2 end))
      for round = 1, 5 do
        for i, r in f:map(tidepool.range(round * 200)) do assert(r == 2 * i) end
      end
      for i = 1, 20 do assert(f:remote(-i) == -2 * i) end
    ]]
    local both = { script, command = "$T job.lua & $T job.lua; c=$?; wait; exit $c" }
    local done = runs(script) and runs(both)
    assert.same({ 0, "" }, { done.code, done.err })
    assert.equal("1020", sql(done, "select count(*) from results"))
    assert.equal("ok", sql(done, "pragma integrity_check"))
  end)

  it("waits for another program that writes to it when it is opened", function()
    local script = [[
      local f = app:func { cache = "mine.db" } (counted(function(x) return x end))
      put(f:map({ 1, 2 }):sum(), hits(f))
    ]]
    -- Without a log of its own, as a copy may have been left, so that it gets one again: there
    -- SQLite does not wait.
    local _, done = runs(script, { script, command = [[
      sqlite3 mine.db 'pragma journal_mode = delete' >mode
      (echo 'begin immediate;'; echo '.shell touch locked'; sleep 1) | sqlite3 mine.db &
      until test -e locked; do sleep 0.02; done; $T job.lua; c=$?; wait; exit $c]] })
    assert.same({ "3 2/0 \n", "", 0 }, { done.out, done.err, done.code })
  end)

  it("that cannot be had costs one line, and everything runs", function()
    local script = [[
      local f = app:func { name = "f", cache = %s } (function(x) return x end)
      put(f:map({ 1, 2 }):sum(), f:remote(3), f:map({ 4 }):sum())
    ]]
    local function try(option, why, before)
      local done = runs { script:format(option), before = before }
      assert.same({ "3 3 4 \n", 0 }, { done.out, done.code })
      assert.truthy(done.err:find("^tidepool: f: goes on without its cache: [^\n]*" .. why .. "[^\n]*\n$"), done.err)
    end
    try('"nowhere/x.db"', "cannot open it")
    try('"job.lua"', "job.lua is no cache: it is not an SQLite database")
    try('"run.db"', "run.db is no cache, but an SQLite database of another program", function(dir)
      os.execute(("sqlite3 %s/run.db 'create table mine (x)'"):format(quote(dir)))
    end)
    try("true", "cache/tidepool may be written by others", function(dir)
      os.execute(("mkdir -p %s/cache/tidepool; chmod 777 %s/cache/tidepool"):format(quote(dir), quote(dir)))
    end)
    try("true", "cannot make [^\n]*cache/tidepool: Not a directory", function(dir) support.write_file(dir .. "/cache", "") end)
    local full = runs { [[
      local f = app:func { name = "f", cache = "c.db" } (function(x) return ("x"):rep(1000) .. x end)
      local n = 0
      for _ in f:map(tidepool.range(5000)) do n = n + 1 end
      for _ in f:map(tidepool.range(5000)) do n = n + 1 end
      put(n)
    ]], command = "trap '' XFSZ; ulimit -f 2000; $T job.lua" }
    assert.same({ "10000 \n", 0 }, { full.out, full.code })
    assert.truthy(full.err:find "^tidepool: f: goes on without its cache: [^\n]*c.db: cannot write to it: [^\n]*\n$", full.err:sub(1, 2000))
  end)

  it("is not of maps inside of items, nor of those with a journal", function()
    local done = runs [[
      local f = app:func { cache = true } (function(x) return x end)
      local outer = app:func(function(n) return f:map(tidepool.range(n)):sum() + f:remote(1) end)
      put(outer:map({ 2, 3 }):sum(), f:map({ 8 }, { journal = "run.db" }):sum(), hits(f))
      local forgets = app:func(function() return f:forget() end)
      put(select(2, pcall(forgets.remote, forgets)).message)
    ]]
    assert.truthy(done.out:find "^11 8 0/0 \n[^\n]*Function:forget: only the script can do that \n$", done.out .. done.err)
  end)

  it("from somebody else can bring neither code nor disorder", function()
    local script = [[
      local f = app:func { cache = true } (counted(function(x) return x end))
      put(unpack(f:map({ 1, 2, 3, 4 }):list()))
    ]]
    local first = runs(script)
    for _, value in ipairs { "x'0101b6'", "x'0101c600000000'", "x'0101b2ffffffffffffffff'", "x'01'", "x'02ff'", "x''", "x'01ff'", "null" } do
      sql(first, "update results set used = 'then', duration = x'', bytes = 'many', function = null, result = " .. value .. " where result > 2")
      local again = shell.run(("cd %s && XDG_CACHE_HOME=%s/cache LUA_PATH='%s/?.lua;;' $T job.lua"):format(quote(first.dir), quote(first.dir), here))
      assert.equal("1 2 3 4 \n", again.stdout, value .. again.stderr)
    end
  end)

  it("has an option that is checked", function()
    local function refused(option, message)
      contains(runs("app:func { cache = " .. option .. " } (print)").err, "job.lua:7: app:func: option 'cache' " .. message)
    end
    refused("3", 'must be true, a path, or a table like { file = "results.db", size = "1G" }, got 3')
    refused('""', "must be true, a path")
    refused("{ limit = 3 }", "has no field 'limit'; there are: file, size")
    refused("{ size = 'big' }", 'size must be a size like "256M", or a number of bytes, got the string "big"')
    assert.equal("1 nil \n", runs("local f = app:func { cache = false } (function(x) return x end) put(f:remote(1), f:stats().hits)").out)
  end)
end)
