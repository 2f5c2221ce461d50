--- A map with a journal: run again, it does what is missing or has changed, and gives the rest from
-- the file.

-- luacheck: ignore 113
local support = require "tests.support"

--- A script with a function `f` that notes each input that it runs, and `put`, which prints
-- results.
local head = [[
  local tidepool = require "tidepool"
  local support = require "tests.support"
  local note = support.note
  app = tidepool.App "j"
  ran = "DIR/ran"
  function counted(fn) local path = ran return function(...) note(path, tostring((...))) return fn(...) end end
  function put(...) for i = 1, select("#", ...) do io.write(tostring((select(i, ...))), " ") end io.write "\n" end
  file = "DIR/run.db"
]]

local function shell(command)
  local pipe = assert(io.popen(command .. " 2>&1"))
  local text = pipe:read "*a"
  pipe:close()
  return (text:gsub("\n$", ""))
end

local function sql(path, statement)
  return shell(("sqlite3 '%s' \"%s\""):format(path, (statement:gsub('"', '\\"'))))
end

--- Runs a script whose files are in that folder.
local function run_in(dir, script, options)
  local source = (head .. script):gsub("DIR", dir)
  return support.run_script(source, options)
end

--- Runs versions of a script one after the other, on one journal. Gives for each what it printed,
-- said on stderr, and which inputs it ran.
local function runs(...)
  local dir, all = support.temp_dir(), {}
  for i, script in ipairs { ... } do
    local options = { flags = {} }
    if type(script) == "table" then script, options = script[1], script end
    os.remove(dir .. "/ran")
    if options.before then options.before(dir) end
    local done = run_in(dir, script, options)
    local ran = support.notes(dir .. "/ran")
    table.sort(ran, function(a, b) return (tonumber(a) or 0) < (tonumber(b) or 0) end)
    all[i] = { out = done.stdout:gsub("[^%s]*/job.lua", "job.lua"), err = done.stderr, code = done.code, ran = table.concat(ran, " "), dir = dir }
  end
  return unpack(all)
end

local function quiet(script) return { script, flags = { "--quiet" } } end

describe("A map with a journal", function()
  it("gives what is in the file in its place, and runs the rest", function()
    local script = [[
      local f = app:func(counted(function(x) return x * 10 end))
      for i, r in f:map({ %s }, { journal = file }) do put(i, r) end
    ]]
    local first, again, more = runs(script:format "1, 2, 3", script:format "1, 2, 3", script:format "1, 2, 7, 3")
    assert.same({ "1 10 \n2 20 \n3 30 \n", "", "1 2 3" }, { first.out, first.err, first.ran })
    assert.same({ first.out, "tidepool: f: all 3 from run.db\n", "" }, { again.out, again.err, again.ran })
    assert.equal("1 10 \n2 20 \n3 70 \n4 30 \n", more.out)
    assert.equal("tidepool: f: 2 of 4 from run.db; 2 run: 1 is new, 1 is another input than before\n", more.err)
    assert.equal("3 7", more.ran)
  end)

  it("keeps every kind of value, and every number of them", function()
    local script = [[
      local values = { 1, -1 / math.huge, 0.1, 1 / 0, 0 / 0, 2^53, "text", "", "\0\255", ("long"):rep(100), true,
        false, { 1, 2, x = { y = "z" } }, 3LL, 4ULL, 5i }
      local f = app:func(counted(function(i, v)
        if i == 20 then return end
        if i == 21 then return nil end
        if i == 22 then return 1, nil, "three", nil end
        if i == 23 then local t = { 1 } t.self = t return t, t end
        return v
      end))
      local indexes = {}
      for i = 1, 23 do indexes[i] = { n = 2, i, values[i] } end
      local function show(v)
        if type(v) ~= "table" then return (tostring(v):gsub("nan", "NaN"):gsub("-NaN", "NaN")) end
        return v.self and (v.self == v and "loop" or "?") or "{" .. table.concat(v, ",") .. (v.x and v.x.y or "") .. "}"
      end
      local function each(i, ...)
        if not i then return false end
        io.write(i, "/", select("#", ...), ":")
        for k = 1, select("#", ...) do io.write(show((select(k, ...))), "|") end
        io.write "\n"
        return true
      end
      local results = f:starmap(indexes, { journal = file })
      repeat until not each(results())
    ]]
    local first, again = runs(script, script)
    assert.equal("", first.err)
    assert.equal(first.out, again.out)
    assert.equal("", again.ran)
    assert.truthy(first.out:find "22/4:1|nil|three|nil|\n23/2:loop|loop|\n", first.out)
    assert.equal("ok", sql(first.dir .. "/run.db", "pragma integrity_check"))
  end)

  it("runs what failed before again, or gives it as it was", function()
    local script = [[
      local f = app:func(counted(function(x) if x == 2 then error({ code = 7 }) end if x == 3 then error "text" end return x end))
      for i, r in f:map({ 1, 2, 3, 4 }, { return_exceptions = true, journal = { file = file, failed = %q } }) do
        if tidepool.is_failure(r) then put(i, r.kind, r.message, type(r.value) == "table" and r.value.code, r.index, r.attempts) else put(i, r) end
      end
    ]]
    local first, run, keep = runs(script:format "run", script:format "run", script:format "keep")
    assert.equal("2 3", run.ran)
    assert.equal("tidepool: f: 2 of 4 from run.db; 2 run: 2 failed before\n", run.err)
    assert.equal(first.out, run.out)
    assert.equal("", keep.ran)
    assert.equal("tidepool: f: all 4 from run.db\n", keep.err)
    assert.equal(first.out, keep.out)
  end)

  it("gives what became of a worker process as it was, too", function()
    local script = [[
      local f = app:func { executor = "processes", timeout = 1 } (counted(function(x) while x == 2 do end return x end))
      for i, r in f:map({ 1, 2, 3 }, { return_exceptions = true, journal = { file = file, failed = "keep" } }) do
        if tidepool.is_failure(r) then put(i, r.kind, r.message, r.index, r.attempts) else put(i, r) end
      end
    ]]
    local first, again = runs(script, script)
    assert.truthy(first.out:find "^1 1 \n2 timeout input 2 ran [^\n]* 2 1 \n3 3 \n$", first.out)
    assert.same({ first.out, "tidepool: f: all 3 from run.db\n", "" }, { again.out, again.err, again.ran })
  end)

  it("raises the failure that it raised before, after the same results, when failures are kept", function()
    local script = [[
      local f = app:func(counted(function(x) if x == 3 then error "three" end return x end))
      local fine, why = pcall(function()
        for i, r in f:map({ 1, 2, 3, 4, 5 }, { window = 1, journal = { file = file, failed = "keep" } }) do put(i, r) end
      end)
      put(fine, why.message, why.index)
    ]]
    local first, again = runs(script, script)
    assert.equal(first.out, again.out)
    assert.truthy(first.out:find "^1 1 \n2 2 \nfalse .*three 3 \n$", first.out)
    assert.equal("", again.ran)
  end)

  it("keeps what had finished when one input fails or the map is left", function()
    local fails = [[
      local bad = %s
      local f = app:func(counted(function(x) if x == bad then error "bad" end return x end))
      put(pcall(function() return f:map({ 1, 2, 3, 4, 5, 6 }, { window = 1, journal = file }):sum() end))
    ]]
    local first, again = runs(fails:format "4", { fails:format "4", flags = { "--explain" } })
    assert.equal("1 2 3 4", first.ran)
    assert.equal("4", again.ran)
    assert.truthy(again.err:find("f #3: from run.db\nf #4: runs: it failed before\n", 1, true), again.err)
  end)

  it("runs again what its function, a captured value or a helper has made new, and says which", function()
    local script = [[
      local train = { rate = %s, name = "a" }
      local function helper(x) return x + %s end
      local f = app:func(counted(function(x) return helper(x) * train.rate %s end))
      put(f:map({ 1, 2 }, { journal = file }):list()[2])
    ]]
    local function with(...) return script:format(...) end
    local first, value, helper, code, comment, back = runs(with("2", "1", ""),
      with("3", "1", ""), with("3", "2", ""), with("3", "2", "+ 1"),
      "\n-- moved\n" .. with("3", "2", "+ 1 --[[ a comment ]]"), with("3", "2", ""))
    assert.equal("6 \n", first.out)
    local function line(what) return ("tidepool: f: 0 of 2 from run.db; 2 run: 2 since %s\n"):format(what) end
    assert.same({ "9 \n", line 'upvalue "fn" has changed' }, { value.out, value.err })
    assert.equal("12 \n", helper.out)
    assert.equal("13 \n", code.out)
    assert.equal("tidepool: f: all 2 from run.db\n", comment.err)
    assert.same({ "12 \n", "1 2" }, { back.out, back.ran })
  end)

  it("names what has changed", function()
    local script = [[
      local train, scale = { %s }, 1
      function helper(x) return x + %s end
      local f = app:func(function(x) return helper(x) * #train * scale %s end)
      f:map({ 1, 2, 3 }, { journal = file }):list()
    ]]
    local function with(...) return script:format(...) end
    local _, value, global, code, all = runs(with("1", "1", ""),
      with("1, 2", "1", ""), with("1, 2", "2", ""), with("1, 2", "2", "+ 1"), with("", "1", ""))
    local function line(what) return ("tidepool: f: 0 of 3 from run.db; 3 run: 3 since %s\n"):format(what) end
    assert.equal(line 'upvalue "train" has changed', value.err)
    assert.equal(line 'global "helper" has changed', global.err)
    assert.equal(line "its code has changed", code.err)
    assert.equal(line 'its code, upvalue "train", global "helper" have changed', all.err)
  end)

  it("works for every kind of input and reader", function()
    local script = [[
      local f = app:func(counted(function(x, y) return x + (y or 0) end))
      local two = app:func { returns = { "double", "int32" } } (counted(function(x) return x / 2, x end))
      local wide = app:func { returns = "int64" } (counted(function(x) return x * 2^52 end))
      local bytes = app:func { returns = "uint8" } (counted(function(x) return x end))
      local function journal(name, more)
        local options = { journal = { file = file, name = name } }
        for k, v in pairs(more or {}) do options[k] = v end
        return options
      end
      local function iterator(n) local i = 0 return function() i = i + 1 if i <= n then return i end end end
      put(f:map({ 1, 2, 3 }, { 10, 20, 30 }, journal "zipped"):sum())
      put(f:map(iterator(100), journal "iterator"):sum())
      put(f:map(tidepool.range(1000), journal "range"):sum())
      put(f:map(tidepool.array("float", { 1.5, 2.5 }), journal "array"):list()[2])
      put(f:starmap({ { 1, 2 }, { 3, 4 } }, journal "starmap"):list()[2])
      local a, b = two:map({ 1, 2, 3 }, journal "two"):array()
      put(a[3], b[3], a.ctype, b.ctype, #a)
      put(two:map(iterator(5), journal "two iterated"):list()[5])
      put(wide:map({ 1, 3 }, journal "wide"):array()[2], bytes:map(tidepool.range(200), journal "bytes"):array()[200])
      local sum, seen = 0, 0
      for i, r in f:map(tidepool.range(50), journal("unordered", { ordered = false })) do sum, seen = sum + i * r, seen + 1 end
      put(sum, seen)
      local done = f:for_each({ 1, 2, 3 }, journal "effect")
      put(done.ok, done.failed)
      local spawned = f:spawn_map({ 1, 2, 3 }, journal "spawned")
      tidepool.loop()
      put(spawned:sum())
      tidepool.async(function() put(f:map({ 4, 5 }, journal "task"):max()) end)
      tidepool.loop()
      put(f:map({ "1", "2" }, journal "strings"):reduce(function(x, y) return x + y end, 0))
      put(f:map(f:map({ 1, 2 }, journal "inner"), journal "outer"):sum())
      put(f:map({ 1, 2, 3, 4 }, journal("narrow", { window = 1 })):mean())
      put(f:with { executor = "inline" }:map({ 1, 2, 3 }, journal "inline"):min())
      local p = f:map({ 1, 2, 3 }, journal "inline")
      p:list()
      put(p:progress().done, p:progress().total)
    ]]
    local first, again = runs(quiet(script), quiet(script))
    assert.same({ "", 0 }, { first.err, first.code })
    assert.same({ first.out, "", "", 0 }, { again.out, again.err, again.ran, again.code })
  end)

  it("takes an input for the same however it was packed", function()
    local script = [[
      local f = app:func(counted(function(x) return type(x) end))
      local list = { %s }
      local n = 0
      local function iterator() n = n + 1 return list[n] end
      put(unpack(f:map(%s, { window = %d, journal = file }):list()))
    ]]
    local values = "1, 2.5, 'a', ('b'):rep(50), true, { 1 }, 3, 'c', 4, 0/0"
    local first, iterated, narrow = runs(script:format(values, "list", 100), script:format(values, "iterator", 100), script:format(values, "list", 1))
    assert.equal("", iterated.ran)
    assert.equal("", narrow.ran)
    assert.equal(first.out, narrow.out)
  end)

  it("adds attempts of later runs to those of earlier ones", function()
    local script = [[
      local f = app:func { retries = 2 } (function(x) if x == 1 then error "no" end return x end)
      f:map({ 1, 2 }, { return_exceptions = true, journal = file }):list()
    ]]
    local first, second = runs(script, script)
    assert.equal("3|failed\n1|done", sql(first.dir .. "/run.db", "select attempts, state from items"):gsub("^6", "3"))
    assert.equal("6|failed\n1|done", sql(second.dir .. "/run.db", "select attempts, state from items"))
  end)

  it("tells several maps of one function apart", function()
    local script = [[
      local f = app:func(counted(function(x) return x end))
      put(f:map({ 1, 2 }, { journal = file }):sum(), f:map({ 3, 4 }, { journal = file }):sum())
      put(f:map({ 5 }, { journal = { file = file, name = "mine" } }):sum())
    ]]
    local first, again = runs(script, script)
    assert.equal("3 7 \n5 \n", again.out)
    assert.equal("", again.ran)
    assert.equal("f|1\nf|2\nf#2|1\nf#2|2\nmine|1", sql(first.dir .. "/run.db", 'select map, "index" from results'))
  end)

  it("keeps the outermost of maps inside of others, and refuses it inside", function()
    local script = [[
      local inner = app:func(counted(function(x) return x end))
      local outer = app:func(function(n) return inner:map(tidepool.range(n)):sum() end)
      put(outer:map({ 2, 3 }):sum())
      local asks = app:func(function(n) return inner:map({ 1 }, { journal = "x.db" }):sum() end)
      put(select(2, pcall(asks.remote, asks, 1)).message)
    ]]
    local dir = support.temp_dir()
    local options = { flags = { "--journal", dir .. "/run.db" } }
    local first = run_in(dir, script, options)
    assert.equal("9 \n", first.stdout:match "^[^\n]*\n")
    assert.truthy(first.stdout:find("inner: option 'journal': a map inside of a mapped function has none", 1, true), first.stdout)
    assert.equal("outer|2", sql(dir .. "/run.db", "select map, count(*) from results group by map"))
  end)

  it("runs again what a file cannot keep", function()
    local script = [[
      local f = app:func(counted(function(x) if x == 2 then return function() return x end end return x end))
      put(type(f:map({ 1, 2, 3 }, { journal = file }):list()[2]))
    ]]
    local _, again = runs(script, script)
    assert.same({ "function \n", "2", "tidepool: f: 2 of 3 from run.db; 1 run: 1 has a result that a file cannot keep\n" },
      { again.out, again.ran, again.err })
  end)
end)

describe("A journal", function()
  local simple = [[
    local f = app:func(counted(function(x) return x end))
    put(f:map({ 1, 2, 3 }, { journal = %s }):sum())
  ]]
  local function refused(before, pattern, option)
    local done = runs { simple:format(option or "file"), before = before }
    assert.equal(1, done.code)
    assert.truthy(done.err:find(pattern), done.err)
    assert.truthy(done.err:find "job.lua:%d+: f: option 'journal': ", done.err)
    assert.equal("", done.ran)
    return done
  end
  local function write(text)
    return function(dir)
      local file = io.open(dir .. "/run.db", "wb")
      file:write(text)
      file:close()
    end
  end

  it("is refused when the file is something else, and left as it is", function()
    local done = refused(write(("no database\n"):rep(100)), "run.db is no journal: it is not an SQLite database")
    assert.equal(("no database\n"):rep(100), support.read_file(done.dir .. "/run.db"))
    done = refused(function(dir) sql(dir .. "/run.db", "create table mine (x)") end,
      "run.db is no journal, but an SQLite database of another program")
    assert.equal("CREATE TABLE mine (x);", sql(done.dir .. "/run.db", ".schema"))
  end)

  it("is refused when it is of a newer version, or damaged, or its folder is not there", function()
    local done = runs(simple:format "file")
    local path = done.dir .. "/run.db"
    local whole = support.read_file(path)
    refused(function(dir) write(whole)(dir) sql(dir .. "/run.db", "pragma user_version = 2") end,
      "is a journal of version 2, made by a newer Tidepool")
    refused(write(whole:sub(1, #whole - 4096)), "run.db is damaged: ")
    refused(write(whole:sub(1, 4096) .. ("x"):rep(#whole - 4096)), "run.db is damaged: ")
    refused(function() end, "cannot open /nowhere/run.db%-lock: No such file", '"/nowhere/run.db"')
  end)

  it("belongs to one process at a time, which the other is told", function()
    local dir = support.temp_dir()
    local done = support.run_script(head:gsub("DIR", dir) .. [[
      local f = app:func(function(x) return x end)
      local results = f:map({ 1 }, { journal = file })
      local script = os.getenv "SCRIPT"
      local out = io.open(script, "w")
      out:write(("require('tidepool').App('o'):func(function(x) return x end):map({ 1 }, { journal = %q }):list()"):format(file))
      out:close()
      local pipe = io.popen(os.getenv "BINARY" .. " " .. script .. " 2>&1")
      io.write(pipe:read "*a")
      put(results:sum())
    ]], { setup = ("export SCRIPT=%s/other.lua BINARY=%s"):format(dir, support.binary) })
    assert.truthy(done.stdout:find "option 'journal': [^\n]*run.db is in use by process %d+ %([^\n]*job.lua%)", done.stdout)
    assert.truthy(done.stdout:find "\n1 \n$", done.stdout)
  end)

  it("may be used again at once by whoever has used it, also while an item of a map that was given up runs", function()
    local done = runs [[
      local again = "DIR/again"
      local f = app:func(function(x) while x == 2 do local file = io.open(again) if file then break end end return x end)
      local results = f:map({ 1, 2, 3, 4 }, { journal = { file = file, name = "a" } })
      put(results())
      results:cancel()
      local g = app:func(function(x) return 2 * x end)
      put(g:map({ 1, 2 }, { journal = { file = file, name = "b" } }):sum())
      put(g:map({ 1, 2 }, { journal = { file = file:gsub("/run.db$", "/./run.db"), name = "a" } }):sum())
      io.open(again, "w"):close()
    ]]
    assert.same({ "1 1 \n6 \n6 \n", 0 }, { done.out, done.code }, done.err)
  end)

  it("finds the results of an app that sets up its workers again", function()
    local script = [[
      app:setup(function() ready = 1 end)
      put(app:func { name = "f" } (counted(function(x) return ready + x end)):map({ 1, 2 }, { journal = file }):sum())
    ]]
    local first, again = runs(script, script)
    assert.same({ "5 \n", "5 \n", "" }, { first.out, again.out, again.ran }, again.err)
  end)

  it("does not keep what came of it that a map was cancelled", function()
    local script = [[
      tidepool.workers(1)
      local began, quick = "DIR/began", "DIR/quick"
      local inner = app:func(function(seconds) return (pcall(tidepool.sleep, seconds)) end)
      local f = app:func(function(x)
        if x == 1 then return x end
        note(began, "")
        local seconds = io.open(quick) and 0 or 30
        if x == 2 then return (pcall(tidepool.sleep, seconds)) end
        return inner:map({ seconds }):list()[1]
      end)
      local results = f:map({ 1, tonumber(os.getenv "SECOND") }, { journal = file })
      put(results())
      while not io.open(began) do tidepool.sleep(0.01) end
      if not io.open(quick) then
        results:cancel()
        put(f:remote(1))
        note(quick, "")
      else
        put(results())
      end
    ]]
    for second = 2, 3 do
      local setup = "export SECOND=" .. second
      local first, again = runs({ script, setup = setup }, { script, setup = setup })
      assert.same({ "1 1 \n1 \n", "1 1 \n2 true \n" }, { first.out, again.out }, first.err .. again.err)
    end
  end)

  it("keeps what was over before an item of the same slice learned that the map was cancelled", function()
    local script = [[
      tidepool.workers(1)
      local began, quick, waits = "DIR/began", "DIR/quick", os.getenv "WAITS"
      local queue = tidepool.Queue()
      local inner = app:func(function(seconds) return (pcall(tidepool.sleep, seconds)) end)
      local f = app:func { executor = os.getenv "EXECUTOR" } (function(x)
        if x < 0 then return x end
        note(ran, tostring(x))
        if x ~= 50 or io.open(quick) then return x end
        note(began, "")
        if waits == "queue" then return (pcall(queue.get, queue)) end
        if waits == "map" then return inner:map({ 30 }):list()[1] end
        if waits == "sleep" then return (pcall(tidepool.sleep, 30)) end
        while true do end
      end)
      f:map(tidepool.range(-20000, -1)):list() -- so that a slice has many of them
      local results = f:map(tidepool.range(60), { journal = file })
      if io.open(quick) then
        put(results:sum())
      else
        repeat until io.open(began) -- nobody takes anything from the slice meanwhile
        results:cancel()
        note(quick, "")
        put(f:remote(-1))
      end
    ]]
    local all = "1"
    for i = 2, 49 do all = all .. " " .. i end
    for executor, kinds in pairs { threads = { "queue", "map", "sleep" }, processes = { "queue", "map", "sleep", "nothing" } } do
      for _, waits in ipairs(kinds) do
        local setup = ("export EXECUTOR=%s WAITS=%s"):format(executor, waits)
        local first, again = runs({ script, setup = setup }, { script, setup = setup })
        assert.same({ executor, waits, "-1 \n", all .. " 50" }, { executor, waits, first.out, first.ran }, first.err)
        assert.same({ executor, waits, "1830 \n", "50 51 52 53 54 55 56 57 58 59 60" }, { executor, waits, again.out, again.ran }, again.err)
      end
    end
  end)

  it("does not keep what came of it that its script ended", function()
    local script = [[
      tidepool.workers(1)
      local began, waits = "DIR/began", os.getenv "WAITS"
      local queue = tidepool.Queue()
      local executor = os.getenv "EXECUTOR"
      local inner = app:func { executor = executor } (function(seconds) return (pcall(tidepool.sleep, seconds)) end)
      local asking = app:func { executor = executor } (function() return (pcall(queue.get, queue)) end)
      local f = app:func { executor = executor, concurrent_inputs = tonumber(os.getenv "AT_ONCE") } (function(x)
        if x == 1 then return x end
        note(began, "")
        if waits == "queue" then return (pcall(queue.get, queue)) end
        if waits == "map" then return (pcall(function() return inner:map({ 30 }):list()[1] end)) end
        return (pcall(function() return asking:map({ 1 }):list()[1] end))
      end)
      local results = f:map({ 1, 2 }, { journal = file })
      put(results())
      while not io.open(began) do tidepool.sleep(0.01) end
      error "the script has failed"
    ]]
    for _, executor in ipairs { "threads", "processes" } do
      for _, at_once in ipairs { "", 2 } do
        for _, waits in ipairs { "queue", "map", "map of those that wait for a queue" } do
          local done = runs { script, setup = ("export EXECUTOR=%s AT_ONCE=%s WAITS='%s'"):format(executor, at_once, waits) }
          assert.same({ "1 1 \n", 1 }, { done.out, done.code }, done.err)
          assert.equal("1|done", sql(done.dir .. "/run.db", 'select "index", state from results'), executor .. at_once .. waits)
        end
      end
    end
  end)

  it("has the name of a map free again once its loop was left, and one file by all of its paths", function()
    local done = runs [[
      local f = app:func(function(x) return x end)
      for i in f:map({ 1, 2, 3 }, { journal = { file = file, name = "a" } }) do if i == 3 then break end end
      put(f:map({ 1, 2, 3 }, { journal = { file = file, name = "a" } }):sum())
      local a, b = f:map({ 1 }, { journal = file }), f:map({ 1 }, { journal = (file:gsub("/run.db$", "/./run.db")) })
      put(a:sum() + b:sum())
    ]]
    assert.same({ "6 \n2 \n", 0 }, { done.out, done.code }, done.err)
    assert.truthy(done.err:find "tidepool: a: all 3 from run.db", done.err)
  end)

  it("can be optional: then the map goes on without it, and says so", function()
    local done = runs { simple:format "{ file = file, optional = true }", before = write "no database, and more than sixteen bytes of it" }
    assert.same({ "6 \n", 0 }, { done.out, done.code })
    assert.truthy(done.err:find "^tidepool: f: goes on without its journal: [^\n]*run.db is no journal[^\n]*\n$", done.err)
  end)

  it("that cannot be written any more ends the map with that, or not, if it is optional", function()
    local script = [[
      local f = app:func(function(x) return ("x"):rep(1000) .. x end)
      local n = 0
      for _ in f:map(tidepool.range(30000), { journal = %s }) do n = n + 1 end
      put(n)
    ]]
    local limited = "trap '' XFSZ; ulimit -f 2000"
    local done = runs { script:format "file", setup = limited }
    assert.equal(1, done.code)
    assert.truthy(done.err:find "run.db: cannot write to it: ", done.err)
    assert.equal("ok", sql(done.dir .. "/run.db", "pragma integrity_check"))
    done = runs { script:format "{ file = file, optional = true }", setup = limited }
    assert.same({ "30000 \n", 0 }, { done.out, done.code })
    assert.truthy(done.err:find "^tidepool: f: went on without its journal: ", done.err)
  end)

  --- A launcher that mounts something at the folder, for the program alone; nil without the right
  -- to.
  local function mounting(options, at)
    if os.execute "unshare -rm true 2>/dev/null" ~= 0 then return nil end
    os.execute("mkdir -p " .. at)
    return ("unshare -rm sh -c 'mount %s %s && exec \"$@\"' sh"):format(options, at)
  end

  it("on a full disk says so, and goes on where there is room again", function()
    local dir = support.temp_dir()
    local launcher = mounting("-t tmpfs -o size=1000k none", dir .. "/disk")
    if not launcher then return pending "no right to mount" end
    local script = [[
      local f = app:func(function(x)
        if x == 1 then tidepool.sleep(0.5) end -- it runs on when the map has failed
        return ("x"):rep(1000) .. x
      end)
      local function try() return pcall(function() return #f:map(tidepool.range(3000), { journal = "DIR/disk/run.db" }):list() end) end
      local fine, why = try()
      put(fine, why.kind, (why.message:gsub("^/.*/", "")))
      io.stdout:flush()
      os.execute "sqlite3 DIR/disk/run.db 'pragma integrity_check'; mount -o remount,size=20m DIR/disk"
      put(try())
    ]]
    local done = run_in(dir, script, { launcher = launcher, flags = { "--quiet" } })
    assert.same({ "false resource run.db: cannot write to it: the disk is full \nok\ntrue 3000 \n", "" }, { done.stdout, done.stderr })
  end)

  it("in a folder that is read-only is refused, and can be shown", function()
    local dir = support.temp_dir()
    os.execute(("mkdir %s/made"):format(dir))
    assert.equal("6 \n", run_in(dir, simple:format '"DIR/made/run.db"').stdout)
    local launcher = mounting(("--bind -o ro %s/made"):format(dir), dir .. "/closed")
    if not launcher then return pending "no right to mount" end
    local done = run_in(dir, simple:format '"DIR/closed/run.db"' .. ' os.execute "$TIDEPOOL journal DIR/closed/run.db; ls DIR/closed"',
      { launcher = launcher })
    assert.equal(1, done.code)
    support.contains(done.stderr, "f: option 'journal': ", "closed/run.db: cannot open ", "run.db-lock: Read-only file system\n")
    done = run_in(dir, 'os.execute "$TIDEPOOL journal DIR/closed/run.db; ls DIR/closed"', { launcher = launcher })
    assert.truthy(done.stdout:find "\nf +3 +3 [^\n]*\nrun.db\n$", done.stdout .. done.stderr)
  end)

  it("that another program keeps locked is refused", function()
    local dir = support.temp_dir()
    run_in(dir, simple:format "file")
    local lock = [[
      local pipe = io.popen("sqlite3 DIR/run.db", "w")
      pipe:write "begin exclusive;\n.shell touch DIR/locked\n"
      pipe:flush()
      while not io.open "DIR/locked" do end
    ]]
    local done = run_in(dir, lock .. simple:format "file")
    assert.equal(1, done.code)
    assert.truthy(done.stderr:find "job.lua:%d+: f: option 'journal': [^\n]*run.db: cannot [^\n]*: another program keeps it locked\n", done.stderr)
  end)

  it("that was cut off anywhere is refused, or gives what is right", function()
    local script = [[
      local f = app:func(function(x) return x % 3 == 0 and ("long"):rep(50) .. x or x end)
      for i, r in f:map(tidepool.range(300), { journal = file }) do assert(r == (i % 3 == 0 and ("long"):rep(50) .. i or i)) end
    ]]
    local dir = support.temp_dir()
    run_in(dir, script)
    local whole = support.read_file(dir .. "/run.db")
    for _, size in ipairs { 0, 1, 16, 99, 100, 512, 4095, 4096, 5000, 8192, 12288, #whole / 2, #whole - 5000, #whole - 4096, #whole - 1 } do
      support.write_file(dir .. "/run.db", whole:sub(1, math.floor(size)))
      local done = run_in(dir, script, { flags = { "--quiet" } })
      local is_told = done.stderr:find "option 'journal': [^\n]*run.db is damaged: " or done.stderr:find "run.db is no journal: "
      assert.truthy(done.code == 0 or (done.code == 1 and is_told), ("%d bytes: %d %s"):format(size, done.code, done.stderr))
      done = shell(("%s journal %s/run.db"):format(support.binary, dir))
      assert.truthy(done:find "^map " or done:find "^tidepool: [^\n]*run.db is ", done)
    end
  end)

  it("with a page that is damaged says so, and ends as other errors do", function()
    local script = [[
      local f = app:func(function(x) return { x, ("long"):rep(30) } end)
      for i, r in f:map(tidepool.range(60), { journal = file }) do assert(r[1] == i) end
    ]]
    local dir = support.temp_dir()
    run_in(dir, script)
    local whole, n_told = support.read_file(dir .. "/run.db"), 0
    for page = 1, #whole / 4096 - 1 do
      support.write_file(dir .. "/run.db", whole:sub(1, page * 4096) .. ("\255"):rep(4096) .. whole:sub(page * 4096 + 4097))
      local done = run_in(dir, script, { flags = { "--quiet" } })
      local is_told = done.code == 1 and done.stderr:find "run.db is damaged: " and done.stderr:find "job.lua:%d+: in main chunk"
      assert.truthy(is_told or (done.code == 0 and done.stderr == ""), ("page %d: %s %s"):format(page, tostring(done.code), done.stderr))
      assert.is_nil(done.stderr:find("[tidepool]/", 1, true), done.stderr)
      if is_told then n_told = n_told + 1 end
    end
    assert.is_true(n_told >= 3, n_told)
  end)

  it("from somebody else can bring neither code nor disorder", function()
    local script = [[
      local f = app:func(counted(function(x) return x end))
      local fine, why = pcall(function() put(unpack(f:map({ 1, 2, 3, 4 }, { journal = file }):list())) end)
      if not fine then put(why) end
    ]]
    local done = runs(script)
    local path = done.dir .. "/run.db"
    -- A function (tag b6), a reference (c6), a table of four billion items, bytes that are none,
    -- and numbers in strange places.
    for _, value in ipairs { "x'0101b6'",
      "x'0101c600000000'", "x'0101b2ffffffffffffffff'", "x'01'", "x'02ff'", "x''", "x'01ff'", "x'0101bc05000000'" } do
      sql(path, "update items set result = " .. value .. " where id & 1 = 0")
      local again = run_in(done.dir, script)
      assert.equal("1 2 3 4 \n", again.stdout, value)
    end
    sql(path, "update items set attempts = 'x', state = 7, identity = 'y', version = 'z', worker = x'00', started = 'then'")
    assert.equal("1 2 3 4 \n", run_in(done.dir, script).stdout)
    -- A reference to what is not there is found where the value is read.
    sql(path, "update items set result = x'0101aa00000000' where id & 1 = 0")
    local again = run_in(done.dir, script)
    assert.equal(0, again.code)
    assert.truthy(again.stdout:find "malformed message", again.stdout)
  end)

  it("survives the end of the process at any moment", function()
    local done = shell(("timeout -k 5 300 %s tests/torture/journal.lua 5 200 60"):format(support.binary)) -- seconds: a hang guard
    assert.truthy(done:find "^5 kills in %d+ runs of 200 inputs [^\n]* 0 wrong$", done)
  end)
end)

describe("The program", function()
  local function digits(journal, more)
    return shell(("%s run examples/digits.lua --k 1,2 --p 2 --folds 5 --workers 2 --journal %s %s"):format(support.binary, journal, more or ""))
  end

  it("finishes digits.lua where it was interrupted, and says how to go on", function()
    local journal = support.temp_dir() .. "/run.db"
    local script = [[
      env --default-signal=INT BINARY run examples/digits.lua --k 1,2 --p 2 --folds 5 --workers 2 --journal JOURNAL &
      script=$!
      while kill -0 $script 2>/dev/null; do
        case $(sqlite3 JOURNAL "select count(*) from items where state = 'done'" 2>/dev/null) in '' | 0) sleep 0.02 ;; *) break ;; esac
      done
      kill -INT $script
      wait $script
      echo "ended with $?"
    ]]
    local said
    for _ = 1, 100 do -- where it was over before the signal came: again
      os.execute("rm -f " .. journal .. "*")
      said = shell(("{ %s }"):format(script:gsub("BINARY", support.binary):gsub("JOURNAL", journal)))
      if not said:find "ended with 0$" then break end
    end
    assert.truthy(said:find "tidepool: interrupted[^\n]*; run the same command again to [^\n]*\nended with 130$", said)
    local before = tonumber(sql(journal, "select count(*) from items where state = 'done'"))
    local text = digits(journal)
    assert.truthy(text:find " 2   1     1734   0.9649\n 2   2     1740   0.9683\nbest: p = 2, k = 2 with 1740 of 1797\n", text)
    assert.truthy(text:find("from run.db", 1, true), text)
    assert.truthy(before > 0)
    local again = digits(journal)
    assert.truthy(again:find "tidepool: evaluate: all 10 from run.db\n", again)
    assert.truthy(digits(journal, "--quiet"):find "^ p   k ")
    local changed = digits(journal, "--explain"):match "evaluate #1: [^\n]*"
    assert.equal("evaluate #1: from run.db", changed)
  end)

  it("takes the value of an option for nothing else, whatever it looks like", function()
    local dir = support.temp_dir()
    local binary = shell("realpath " .. support.binary)
    support.write_file(dir .. "/job.lua", "local t = require 'tidepool' print(t.App('a'):func(function(x) return x end):map({ 1, 2 }):sum())")
    for _, value in ipairs { "results.db", "apple.db", "elapsed", "alpha.db", "ojb" } do -- as -e, -p, -l, -O and -j with something behind
      assert.equal("3", shell(("cd %s && %s --journal %s job.lua"):format(dir, binary, value)))
      assert.equal("2", sql(dir .. "/" .. value, "select count(*) from items"))
    end
    assert.equal("3", shell(("cd %s && %s -w 2 --executor threads --workers 2 job.lua"):format(dir, binary)))
  end)

  it("wants a file for --journal", function()
    local expected = "tidepool: --journal needs a file, not nothing (try: tidepool --help)"
    assert.equal(expected, shell(support.binary .. " run --journal= job.lua"):match "[^\n]*")
  end)
end)
