--- A map with a journal that was left in the middle: what is run again is what is missing, and all
-- is as if nothing had happened.

-- luacheck: ignore 113
local devices = require "tests.support_device"
local support = require "tests.support"

local contains = support.contains

--- A script whose `counted` functions note what they run, and fail for the input that stands in the
-- file `bad`.
local head = [[
  local tidepool = require "tidepool"
  local support = require "tests.support"
  app = tidepool.App "j"
  file = "DIR/run.db"
  function counted(fn)
    local path, note, trouble = "DIR/ran", support.note, "DIR/bad"
    return function(x, ...)
      note(path, tostring(x))
      local file = io.open(trouble)
      if file then
        local bad = file:read "*n"
        file:close()
        if x == bad or type(x) == "table" and x[1] == bad then error("bad", 0) end
      end
      return fn(x, ...)
    end
  end
  function put(...) for i = 1, select("#", ...) do io.write(tostring((select(i, ...))), " ") end io.write "\n" end
]]

local function run(dir, script, options)
  os.remove(dir .. "/ran")
  local done = support.run_script((head .. script):gsub("DIR", dir), options)
  local ran, n = {}, 0
  for _, x in ipairs(support.notes(dir .. "/ran")) do ran[x], n = (ran[x] or 0) + 1, n + 1 end
  return { out = done.stdout, err = done.stderr, code = done.code, ran = ran, n = n }
end

--- Runs a script without a journal, then with one and a bad input, then with it again. What the
--- first and the last print is the same, and nothing has run twice but the bad input. JOURNAL in it
--- stands for the file. Gives the last two.
local function resumed(script, bad, options)
  local dir = support.temp_dir()
  local whole = run(dir, (script:gsub("JOURNAL", "false")), options)
  assert.same({ 0, "" }, { whole.code, whole.err })
  script = script:gsub("JOURNAL", "file")
  support.write_file(dir .. "/bad", tostring(bad))
  local first = run(dir, script, options)
  assert.equal(1, first.ran[tostring(bad)], first.err)
  os.remove(dir .. "/bad")
  local again = run(dir, script, options)
  assert.equal(whole.out, again.out, again.err)
  for x, times in pairs(whole.ran) do
    assert.equal(times + (x == tostring(bad) and 1 or 0), (first.ran[x] or 0) + (again.ran[x] or 0), x)
  end
  assert.truthy(again.n < whole.n)
  return first, again
end

describe("A map that is run again after it has failed in the middle", function()
  it("goes on in the place of lists, iterators and lists of arguments", function()
    resumed([[
      local f = app:func(counted(function(x, y) return x * 2, y end))
      local n = 0
      local function iterator() n = n + 1 if n <= 500 then return n end end
      for i, r in f:map(iterator, { journal = JOURNAL, window = 20 }) do put(i, r) end
    ]], 300)
    resumed([[
      local f = app:func(counted(function(x, y) return x .. y end))
      local list = {}
      for i = 1, 200 do list[i] = { i, "text " .. i } end
      for i, r in f:starmap(list, { journal = JOURNAL, window = 10 }) do put(i, r) end
    ]], 150)
    resumed([[
      local f = app:func { returns = { "double", "int32" } } (counted(function(x) return x / 2, x end))
      local a, b = f:map(tidepool.range(400), { journal = JOURNAL, window = 16 }):array()
      put(a:sum(), b:sum(), #a, a.ctype, b.ctype)
    ]], 250)
  end)

  it("whatever reads it: reductions, and results as they come", function()
    resumed([[
      local f = app:func(counted(function(x) return x * 3 end))
      local results = f:map(tidepool.range(300), { journal = JOURNAL, window = 10 })
      put(results:reduce(function(a, b) return a - b end, 0))
    ]], 200)
    resumed([[
      local f = app:func(counted(function(x) return x * 3 end))
      put(f:map(tidepool.range(300), { journal = JOURNAL, window = 10 }):sum())
    ]], 200)
    resumed([[
      local f = app:func(counted(function(x) return x * 3 end))
      local seen, n = {}, 0
      for i, r in f:map(tidepool.range(300), { journal = JOURNAL, window = 10, ordered = false }) do
        seen[i], n = r, n + 1
      end
      put(n, unpack(seen, 1, 300))
    ]], 200)
  end)

  it("on every executor", function()
    for _, executor in ipairs { "threads", "processes", "inline" } do
      resumed([[
        local f = app:func(counted(function(x) return { x } end))
        for i, r in f:map(tidepool.range(100), { journal = JOURNAL, window = 8 }) do put(i, r[1]) end
      ]], 60, { flags = { "--executor", executor } })
    end
  end)

  it("draws the random numbers that it would have drawn", function()
    for _, executor in ipairs { "threads", "processes" } do
      resumed([[
        math.randomseed(5)
        local f = app:func(counted(function(x) return math.random(), math.random(1000) end))
        local other = app:func(function() return math.random() end)
        put(other:map(tidepool.range(2)):list()[2])
        for i, a, b in f:map(tidepool.range(100), { journal = JOURNAL, window = 8 }) do put(i, a, b) end
        put(other:map(tidepool.range(2)):list()[2])
      ]], 60, { flags = { "--executor", executor } })
    end
  end)

  it("keeps the outermost of nested maps only, whole inputs of it", function()
    -- One at a time: inputs that run when another one fails may be cut in their maps, and run
    -- again.
    local first, again = resumed([[
      local inner = app:func(function(x) return x + 1 end)
      local outer = app:func(counted(function(x) return inner:map(tidepool.range(x)):sum() end))
      for i, r in outer:map(tidepool.range(40), { journal = JOURNAL, window = 1 }) do put(i, r) end
    ]], 20)
    assert.truthy(first.err:find "bad" and again.err:find "tidepool: outer: %d+ of 40 from run.db; ", again.err)
  end)
end)

describe("The option halt of a map with a journal", function()
  it("leaves what had finished in the file, and counts what it gives", function()
    local dir = support.temp_dir()
    local script = [[
      local f = app:func(counted(function(x) if x %% 10 == 0 and x <= %d then error("tenth", 0) end return x end))
      local fine, why = pcall(function()
        local n = 0
        for i, r in f:map(tidepool.range(100), { return_exceptions = true, window = 5, halt = { failures = 3 },
          journal = { file = file, failed = %q } }) do n = n + 1 end
        put(n)
      end)
      if not fine then put(why.kind) end
    ]]
    local first = run(dir, script:format(100, "run"))
    assert.equal("halted \n", first.out)
    -- Failures of the file count, too: it is halted at the same place again, and has nothing to run
    -- but what was ahead of it.
    local kept = run(dir, script:format(100, "keep"))
    assert.equal("halted \n", kept.out)
    for x = 1, 30 do assert.is_nil(kept.ran[tostring(x)]) end
    local again = run(dir, script:format(100, "run"))
    assert.equal("halted \n", again.out)
    for x = 1, 30 do assert.equal(x % 10 == 0 and 1 or nil, again.ran[tostring(x)]) end
  end)

  it("has enough of what the file gives", function()
    local dir = support.temp_dir()
    local script = [[
      local f = app:func(counted(function(x) return x end))
      put(f:map(tidepool.range(100), { window = 4, halt = { success = 7 }, journal = file }):sum())
    ]]
    local first, again = run(dir, script), run(dir, script)
    assert.equal("28 \n", first.out)
    assert.equal("28 \n", again.out)
    for x = 1, 7 do assert.is_nil(again.ran[tostring(x)]) end
  end)
end)

describe("A map on a device, with a journal", function()
  local on_device = devices.on_device(it, pending)

  --- Runs a script, and has the file forget these inputs before.
  local function again(dir, script, forgotten)
    if forgotten then
      assert.equal(0, os.execute(("sqlite3 %s/run.db 'delete from items where id & 1099511627775 in (%s)'"):format(dir, forgotten)))
    end
    local done = run(dir, script)
    assert.equal(0, done.code, done.err)
    return done
  end

  on_device("runs the blocks that are missing, and gives the rest", function()
    local dir = support.temp_dir()
    local script = [[
      local scale = %s
      local f = app:func { gpu = true } (function(x) return x * scale, math.floor(x / 3) end)
      local a, b = f:map(tidepool.range(20000), { journal = file }):array()
      local right = 0
      for i = 1, 20000 do if a[i] == i * scale and b[i] == math.floor(i / 3) then right = right + 1 end end
      put(right, #a, a.ctype)
    ]]
    local first = again(dir, script:format "2.5")
    assert.same({ "20000 20000 double \n", "" }, { first.out, first.err })
    local all = again(dir, script:format "2.5")
    assert.same({ first.out, "tidepool: f: all 20000 from run.db\n" }, { all.out, all.err })
    local some = again(dir, script:format "2.5", "1, 2, 3, 7000, 7001, 20000")
    assert.same({ first.out, "tidepool: f: 19994 of 20000 from run.db; 6 run: 6 are new\n" }, { some.out, some.err })
    local changed = again(dir, script:format "3")
    assert.same({ first.out, 'tidepool: f: 0 of 20000 from run.db; 20000 run: 20000 since upvalue "scale" has changed\n' },
      { changed.out, changed.err })
  end)

  on_device("has reductions, arrays and floats as without one", function()
    local dir = support.temp_dir()
    local script = [[
      local f = app:func { gpu = true, precision = "single", name = "single" } (function(x) return x % 7 end)
      local g = app:func { gpu = true } (function(x, y) return x + y end)
      local xs, ys = tidepool.array("float", 5000), tidepool.array("float", 5000)
      for i = 1, 5000 do xs[i], ys[i] = i, i / 7 end
      put(f:map(tidepool.range(5000), { journal = JOURNAL }):array():sum())
      put(g:map(xs, ys, { journal = JOURNAL }):sum(), g:map(xs, ys, { journal = JOURNAL }):max())
      put(f:map(xs, { journal = JOURNAL }):reduce(function(a, b) return a + b end, 0))
    ]]
    local without = again(dir, (script:gsub("JOURNAL", "false")))
    script = script:gsub("JOURNAL", "file")
    assert.equal(without.out, again(dir, script).out)
    local some = again(dir, script, "17, 18, 4096, 5000")
    assert.equal(without.out, some.out)
    contains(some.err, "single: 4996 of 5000 from run.db; 4 run: 4 are new\n", "g: 4996 of 5000", "g#2: 4996 of 5000", "single#2: 4996 of 5000")
  end)

  on_device("goes on where an input has failed", function()
    local dir = support.temp_dir()
    local script = [[
      local bad = %d
      local f = app:func { gpu = true } (function(x) if x == bad then error "bad" end return x end)
      put(pcall(function() return f:map(tidepool.range(30000), { journal = file, window = 4096 }):sum() end))
    ]]
    local first = again(dir, script:format(20000))
    contains(first.out, "false ", "bad")
    local second = again(dir, script:format(20000))
    contains(second.out, "false ", "bad")
    local from = second.err:match "f: (%d+) of"
    assert.truthy(tonumber(from) and tonumber(from) >= 10000, second.err)
  end)
end)
