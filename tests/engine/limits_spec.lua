--- concurrency_limit: global per function, over all its maps, spawns and callers.

local tidepool = require "tidepool"
local support = require "tests.support"

local note, sleep, wait_for = support.note, support.sleep, support.wait_for

local prelude = [[
  package.path = "./?.lua;" .. package.path
  local tidepool = require "tidepool"
  local support = require "tests.support"
  local note, sleep, wait_for = support.note, support.sleep, support.wait_for
  local app = tidepool.App "limits"
  local path = "DIR/notes"
  local function body(x)
    note(path, "+")
    sleep(0.002)
    note(path, "-")
    return x
  end
]]

describe("concurrency_limit", function()
  it("5 lets at most 5 of 100 inputs run at once on 8 workers", function()
    assert.equal("100\ttrue\n", support.output_of(prelude .. [[
      local f = app:func { concurrency_limit = 5 } (body)
      local n = f:map(tidepool.range(100)):list().n
      print(n, support.most_at_once(path) <= 5)
    ]], { workers = 8 }))
  end)

  it("5 lets 5 run at once on 8 workers", function()
    assert.equal("5\n", support.output_of(prelude .. [[
      local f = app:func { concurrency_limit = 5 } (function(x)
        note("DIR/here" .. x, "")
        for other = 1, 5 do wait_for("DIR/here" .. other) end
        return x
      end)
      print(f:map({ 1, 2, 3, 4, 5 }):list().n)
    ]], { workers = 8 }))
  end)

  it("is one limit for all maps, spawns and remote calls of the function", function()
    assert.equal("130\ttrue\n", support.output_of(prelude .. [[
      local f = app:func { concurrency_limit = 3 } (body)
      local a, b = f:spawn_map(tidepool.range(50)), f:map(tidepool.range(50))
      local calls = {}
      for i = 1, 29 do calls[i] = f:spawn(i) end
      local n = 1
      f:remote(0)
      for i = 1, 29 do n = n + (calls[i]:get() == i and 1 or 0) end
      n = n + a:list().n + b:list().n
      print(n, support.most_at_once(path) <= 3)
    ]], { workers = 8 }))
  end)

  it("is one limit for callers inside mapped functions too", function()
    assert.equal("80\ttrue\n", support.output_of(prelude .. [[
      local f = app:func { concurrency_limit = 2 } (body)
      local outer = app:func(function(x)
        local n = 0
        for _ in f:map(tidepool.range(10)) do n = n + 1 end
        return n
      end)
      local sum = 0
      for _, n in outer:map(tidepool.range(8)) do sum = sum + n end
      print(sum, support.most_at_once(path) <= 2)
    ]], { workers = 6 }))
  end)

  it("does not hold up other functions", function()
    local dir = support.temp_dir()
    local app = tidepool.App "limits"
    local blocked = app:func { concurrency_limit = 1 } (function() wait_for(dir .. "/go") end)
    if support.workers() < 2 then return end
    local a, b = blocked:spawn(), blocked:spawn()
    local free = app:func(function(x) return x end)
    assert.equal(3, free:map({ 1, 2, 3 }):list().n)
    note(dir .. "/go", "go")
    a:get()
    b:get()
  end)

  for _, name in ipairs { "max_containers", "max_workers" } do
    it("may be written " .. name, function()
      assert.equal("40\ttrue\n", support.output_of(prelude .. ([[
        local f = app:func { %s = 2 } (body)
        print(f:map(tidepool.range(40)):list().n, support.most_at_once(path) <= 2)
      ]]):format(name), { workers = 6 }))
    end)
  end

  it("may be larger than the pool, and then changes nothing", function()
    local f = tidepool.App("limits"):func { concurrency_limit = 1000 } (function(x) return x end)
    assert.equal(100, f:map(tidepool.range(100)):list().n)
  end)

  it("1 gives results in order and keeps its place through failures", function()
    local f = tidepool.App("limits"):func { concurrency_limit = 1 } (function(x)
      if x % 2 == 0 then error "even" end
      return x
    end)
    for _ = 1, 20 do
      local list = f:map(tidepool.range(10), { return_exceptions = true }):list()
      for i = 1, 10 do
        if i % 2 == 0 then assert.is_true(tidepool.is_failure(list[i])) else assert.equal(i, list[i]) end
      end
    end
    support.check_pool()
  end)

  it("1 is given back by cancelled and abandoned maps", function()
    local f = tidepool.App("limits"):func { concurrency_limit = 1 } (function(x)
      sleep(0.001)
      return x
    end)
    for i = 1, 30 do
      local results = f:map(tidepool.range(50))
      results:next()
      if i % 2 == 0 then results:cancel() end
    end
    assert.equal(3, f:map({ 1, 2, 3 }):list().n)
  end)

  it("of a handle made by with() is its own", function()
    local app = tidepool.App "limits"
    local path = support.temp_path()
    local f = app:func(function(x)
      note(path, "+")
      sleep(0.001)
      note(path, "-")
      return x
    end):with { concurrency_limit = 1 }
    assert.equal(20, f:map(tidepool.range(20)):list().n)
    assert.equal(1, support.most_at_once(path))
  end)

  it("counts an input that waits for a nested map of its own function as not running", function()
    assert.equal("8\ttrue\n", support.output_of(prelude .. [[
      local f
      f = app:func { concurrency_limit = 1 } (function(depth)
        if depth == 0 then return body(1) end
        local sum = 0
        for _, v in f:map { depth - 1, depth - 1 } do sum = sum + v end
        return sum
      end)
      print(f:remote(3), support.most_at_once(path) <= 1)
    ]], { workers = 4 }))
  end)
end)
