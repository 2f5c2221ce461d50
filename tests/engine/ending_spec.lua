--- How a script ends: promptly, with the right exit code, whatever still runs (not stock:
-- it is the program that runs them).

local support = require "tests.support"

local contains = support.contains

local prelude = [[
  local tidepool = require "tidepool"
  local app = tidepool.App "ending"
  local give = app:func(function(x) return x end)
  local function nap(ms)
    local ffi = require "ffi"
    ffi.cdef "int usleep(unsigned)"
    ffi.C.usleep(ms * 1000)
  end
  local slow = app:func(function(x)
    nap(5)
    return x
  end)
  local forever = app:func(function()
    while true do end
  end)
  local asleep = app:func(function() -- 100 s in C
    for _ = 1, 100 do nap(1000 * 0.99) end
  end)
]]

local function run(source, options)
  options = options or {}
  options.seconds = options.seconds or 20
  local done = support.run_script(prelude .. source, options)
  assert.is_false(done.timed_out, "the script did not end")
  return done
end

describe("A script ends", function()
  it("after an early break, with 0", function()
    local done = run [[
      for i in slow:map(tidepool.range(1, 1 / 0)) do
        if i == 3 then break end
      end
      print "end"
    ]]
    assert.same({ 0, "end\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  it("with Results that were never read", function()
    local done = run [[
      kept = slow:map(tidepool.range(1000))
      slow:map(tidepool.range(1000))
      local other = give:map(tidepool.range(1, 1 / 0))
      print "end"
    ]]
    assert.same({ 0, "end\n" }, { done.code, done.stdout })
    local lines = select(2, done.stderr:gsub("\n", ""))
    assert.equal(3, lines, done.stderr)
    for line in done.stderr:gmatch "[^\n]+" do
      assert.matches("^tidepool: .*job.lua:%d+: the results of this map of '%w+' were never read: %d+ of %w+ inputs have run", line)
    end
  end)

  it("without a word about maps that were read, asked for, cancelled, or are another's inputs, and where it did not end by itself", function()
    for _, code in ipairs {
      "for i in give:map { 1, 2, 3 } do break end", "give:map({ 1 }):cancel()", "give:map { 1 }:sum()", "give:map({ 1 }):next()",
      "tidepool.wait { give:map { 1 } }", "give:map(give:map { 1 }):list()", "give:spawn_map { 1 }", "give:for_each { 1 }",
      "give:map { 1 } os.exit(0, true)", "kept = give:map { 1 } os.exit(0)", "kept = give:spawn_map { 1 }",
      "kept = give:map { 1 } tidepool.loop() kept:list()",
    } do
      local done = run(code)
      assert.same({ 0, "" }, { done.code, done.stderr }, code)
    end
    local done = run "give:map { 1 } collectgarbage() give:starmap { { 1 } } tidepool.loop() print 'end'"
    assert.equal(2, select(2, done.stderr:gsub("never read", "")), done.stderr)
  end)

  it("after what was spawned is done", function()
    local done = run [[
      local noisy = app:func(function(x)
        nap(50)
        print("ran " .. x)
      end)
      noisy:spawn(1)
      app:func { concurrency_limit = 1 } (noisy.raw):spawn_map { 2, 3 }
      collectgarbage()
    ]]
    local lines = {}
    for line in done.stdout:gmatch "[^\n]+" do lines[#lines + 1] = line end
    table.sort(lines)
    assert.same({ "ran 1", "ran 2", "ran 3" }, lines)
    assert.same({ 0, "" }, { done.code, done.stderr })
  end)

  it("without waiting for what was spawned and cancelled", function()
    local done = run [[
      local call = asleep:spawn()
      local results = asleep:spawn_map { 1, 2, 3 }
      call:cancel()
      results:cancel()
      print "end"
    ]]
    assert.equal("end\n", done.stdout)
    assert.equal(0, done.code)
  end)

  it("at os.exit with maps running, with that code", function()
    for code, call in pairs { [0] = "os.exit(0)", [3] = "os.exit(3)", [1] = "os.exit(false)", [7] = "os.exit(7, true)" } do
      for _, running in ipairs { "slow:map(tidepool.range(1, 1 / 0))", "asleep:map { 1, 2, 3 }", "forever:map { 1, 2 }",
        "give:map(tidepool.range(1, 1 / 0), { window = 1000 })" } do
        local done = run(("kept = %s\nnap(20)\nprint 'before'\n%s\nprint 'after'"):format(running, call))
        assert.same({ code, "before\n", "" }, { done.code or -done.signal, done.stdout, done.stderr })
      end
    end
  end)

  it("at os.exit in the body of a loop, and in a callback", function()
    local done = run "for i in slow:map(tidepool.range(100)) do if i == 3 then os.exit(4) end end"
    assert.equal(4, done.code)
    done = run [[
      local fails = app:func(function() error "x" end)
      fails:map({ 1 }, { on_error = function() os.exit(5) end }):list()
    ]]
    assert.equal(5, done.code)
    done = run "give:map(function() os.exit(6) end):list()"
    assert.equal(6, done.code)
  end)

  it("at os.exit inside a coroutine", function()
    assert.equal(8, run([[
      kept = slow:map(tidepool.range(1000))
      coroutine.wrap(function() os.exit(8) end)()
    ]]).code)
  end)

  it("at an error at top level with maps running, with 1 and the traceback", function()
    for _, running in ipairs { "slow:map(tidepool.range(1000))", "asleep:map { 1, 2, 3 }", "forever:map { 1, 2 }", "asleep:spawn()" } do
      local done = run("kept = " .. running .. "\nnap(20)\nerror 'top level'")
      assert.equal(1, done.code)
      contains(done.stderr, "job.lua:", "top level", "stack traceback")
    end
  end)

  it("when a worker can never end, after the script is done", function()
    for _, running in ipairs { "forever:map { 1, 2 }", "asleep:map { 1, 2 }" } do
      local done = run("do local results = " .. running .. "\nnap(20)\nresults:cancel() end\nprint 'end'")
      assert.same({ 0, "end\n" }, { done.code or -done.signal, done.stdout })
    end
  end)

  it("when a map's failure is not caught, with 1 and no loss of what was printed", function()
    local done = run [[
      local fails = app:func { name = "fails" } (function(x)
        if x == 3 then error "three" end
        return x
      end)
      for i, x in fails:map(tidepool.range(10)) do print(i, x) end
    ]]
    assert.equal(1, done.code)
    assert.equal("1\t1\n2\t2\n", done.stdout)
    contains(done.stderr, "three", "in input 3 of map 'fails'")
  end)

  it("when it never used the pool, without starting a thread", function()
    local done = run [[
      print(io.open "/proc/self/status":read "*a":match "Threads:%s*(%d+)")
    ]]
    assert.same({ 0, "1\n", "" }, { done.code, done.stdout, done.stderr })
  end)

  it("a hundred times without one crash or hang", function()
    local dir = support.temp_dir()
    local file = io.open(dir .. "/job.lua", "w")
    file:write(prelude, [[
      local n = tonumber(arg[1])
      kept = give:map(tidepool.range(1000), { window = 1 + n })
      for i = 1, n do kept:next() end
      other = slow:map { 1, 2, 3 }
      if n % 3 == 0 then os.exit(0) end
      if n % 3 == 1 then other = nil collectgarbage() end
    ]])
    file:close()
    local failed = os.execute(("for n in $(seq 100); do timeout 120 %s %s/job.lua $n || exit 1; done </dev/null >%s/out 2>&1")
      :format(support.binary, dir, dir))
    assert.equal("", (support.read_file(dir .. "/out"):gsub("tidepool: [^\n]*job.lua:%d+: the results of this map [^\n]*\n", "")))
    assert.equal(0, failed)
  end)
end)

describe("Calls and maps that nobody reads", function()
  -- Their work grows with their number. Where each was looked for among all, eight times as many
  -- took sixty times as long; the best of some runs.
  it("end in a time that grows as their number does, also with callbacks", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local give = tidepool.App "t":func(function(x) return x end)
      local function cpu(n, calls_back)
        local count = 0
        for i = 1, n do
          local call = give:spawn(i)
          if calls_back then call:on_done(function() count = count + 1 end) end
        end
        local began = os.clock()
        tidepool.loop()
        assert(count == (calls_back and n or 0))
        return os.clock() - began
      end
      for _, calls_back in ipairs { false, true } do
        local least = math.huge
        for _ = 1, 3 do
          least = math.min(least, cpu(48000, calls_back) / cpu(6000, calls_back))
          if least < 25 then break end
        end
        print(least < 25 or least)
      end
    ]], { seconds = 300 })
    assert.equal("true\ntrue\n", output)
  end)

  -- Closing one of 64,000 maps looked at all others: 78 s.
  it("do not look at each other, be they read by nobody, cancelled or awaited", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local give = tidepool.App "t":func(function(x) return x end)
      local function spawn()
        local maps = {}
        for i = 1, tonumber(arg[1]) do maps[i] = give:spawn_map { i, 2, 3 } end
        return maps
      end
      spawn()
      tidepool.loop()
      for _, map in ipairs(spawn()) do map:cancel() end
      local sum = 0
      for _, list in ipairs(tidepool.gather(spawn())) do sum = sum + #list end
      print(sum)
    ]], { args = { support.times(40000) }, seconds = 100 })
    assert.equal(3 * support.times(40000) .. "\n", output)
  end)

  it("are freed once they are done, whenever the script waits, whatever it waits for", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      local give = app:func(function(x) return x end)
      local waits = {
        sleep = function() tidepool.sleep(0) end,
        remote = function() give:remote(0) end,
        get = function() give:spawn(0):get() end,
        map = function() for _ in give:map { 1, 2 } do end end,
      }
      local function heap() collectgarbage() collectgarbage() return collectgarbage "count" end
      local function grown(f, wait)
        f(1) wait()
        local before = heap()
        for i = 1, 5000 do
          f(i)
          if i % 50 == 0 then wait() end
        end
        repeat tidepool.sleep(0.001) until give:stats().running + give:stats().queued == 0
        tidepool.sleep(0.05)
        wait()
        return heap() - before
      end
      for name, wait in pairs(waits) do
        local call = grown(function(i) give:spawn(i) end, wait)
        local map = grown(function(i) give:spawn_map { i } end, wait)
        local held = grown(function(i) last = give:spawn_map { i, i } end, wait)
        if call > 1024 or map > 1024 or held > 1024 then print(name, call, map, held) end
      end
      assert(select(2, last:next()) == 5000) -- those that are held are there
      local inside = app:func(function() -- the same in a worker
        for i = 1, 3000 do
          give:spawn(i)
          if i % 50 == 0 then give:remote(0) end
        end
        collectgarbage() collectgarbage()
        return collectgarbage "count"
      end):remote()
      print(inside < 3000 or inside)
    ]], { seconds = 200 })
    assert.equal("true\n", output)
  end)

  it("tell of their failures all the same, and call on_error and retries.on", function()
    local done = run [[
      local fails = app:func { name = "fails" } (function(x) if x == 2 then error("no " .. x, 0) end return x end)
      local seen = 0
      fails:spawn_map({ 1, 2, 3 }, { on_error = function() seen = seen + 1 end })
      fails:with { retries = { max = 1, on = function() seen = seen + 10 end } }:spawn_map({ 2 }, { return_exceptions = true })
      fails:spawn_map { 1, 2 }
      local kept = fails:spawn_map { 4, 5 }
      for _ = 1, 100 do tidepool.sleep(0.001) collectgarbage() end
      tidepool.sleep(0.1)
      assert(kept:list().n == 2)
      local failures = tidepool.loop()
      print(seen, #failures, failures[1].message, failures[1].index)
    ]]
    assert.same({ 0, "11\t1\tno 2\t2\n", "" }, { done.code, done.stdout, done.stderr })
  end)
end)

describe("What was spawned", function()
  it("is waited for also where an error, as of Ctrl-C, has come as it was looked after", function()
    local done = run [[
      local spawned = require "tidepool.engine.spawned"
      local log, is_interrupted = {}, true
      local function keep(name, finish, tidy)
        spawned.keep { _finish = finish or function() log[#log + 1] = name end, _tidy = tidy or function() end }
      end
      keep "a"
      keep("b", function() tidepool.sleep(0) end)
      keep "c"
      keep("d", nil, function() if is_interrupted then error("interrupted", 0) end end)
      print(pcall(tidepool.loop))
      is_interrupted = false
      tidepool.loop()
      print(table.concat(log, " "))
    ]]
    assert.same({ 0, "false\tinterrupted\na c d\n", "" }, { done.code, done.stdout, done.stderr })
  end)
end)

describe("Everything is given back", function()
  it("by the time the pool has been used and its Lua state is closed", function()
    local done = run [[
      local sentinel = newproxy(true)
      getmetatable(sentinel).__gc = function()
        io.stdout:write "closed\n"
      end
      kept = sentinel
      assert(give:map(tidepool.range(100)):list().n == 100)
    ]]
    assert.same({ 0, "closed\n", "" }, { done.code, done.stdout, done.stderr })
  end)
end)
