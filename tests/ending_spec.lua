--- How a script ends: promptly, with the right exit code, whatever still runs.

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
    assert.same({ 0, "end\n", "" }, { done.code, done.stdout, done.stderr })
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
    local failed = os.execute(("for n in $(seq 100); do timeout 20 %s %s/job.lua $n || exit 1; done </dev/null >%s/out 2>&1")
      :format(support.binary, dir, dir))
    assert.equal("", support.read_file(dir .. "/out"))
    assert.equal(0, failed)
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
