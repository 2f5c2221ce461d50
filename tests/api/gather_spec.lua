--- gather, wait and as_completed, in the script, in tasks and in mapped functions, over calls,
-- tasks and maps.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains, failure_of, mistake = support.contains, support.failure_of, support.mistake
local note, wait_for = support.note, support.wait_for

local app = tidepool.App "gather"
local square = app:func(function(x) return x * x, "second" end)
local fails = app:func { name = "fails" } (function(message) error(message, 0) end)
local gate = app:func { name = "gate" } (function(path, value)
  wait_for(path)
  return value
end)

--- In the script itself, and in a task: the same must hold.
local places = {
  ["in the script"] = function(fn) return fn() end,
  ["in a task"] = function(fn) return tidepool.async(fn):get() end,
}

for place, run in pairs(places) do
  local function check(what, fn)
    it(what .. " " .. place, function()
      run(fn)
      assert.same({}, tidepool.loop())
      support.check_pool()
    end)
  end

  describe("gather", function()
    check("gives the first value of each, in their order", function()
      local path = support.temp_path()
      local a = gate:spawn(path, "late")
      local b = square:spawn(3)
      tidepool.async(function()
        tidepool.sleep(0)
        note(path, "open")
      end)
      assert.same({ "late", 9, "task" }, { tidepool.gather(a, b, tidepool.async(function() return "task" end)) })
      assert.equal("second", select(2, b:get()))
    end)

    check("of a list gives a list, with nils", function()
      local none = app:func(function() end)
      local list = tidepool.gather { square:spawn(2), none:spawn(), square:spawn(3), none:spawn() }
      assert.same({ n = 4, 4, nil, 9 }, list)
      assert.equal(4, select("#", tidepool.gather(square:spawn(2), none:spawn(), none:spawn(), none:spawn())))
    end)

    check("of nothing gives nothing", function()
      assert.same({ n = 0 }, tidepool.gather {})
      assert.equal(0, select("#", tidepool.gather()))
      assert.equal(0, select("#", tidepool.gather { return_exceptions = true }))
    end)

    check("takes what is done already, and the same call twice", function()
      local call = square:spawn(4)
      call:get()
      assert.same({ 16, 16, 16 }, { tidepool.gather(call, call, call) })
    end)

    check("gives a map's list", function()
      local a, b, c = tidepool.gather(square:map(tidepool.range(3)), square:spawn_map(tidepool.range(100), { window = 3 }), square:map {})
      assert.same({ 1, 4, 9, n = 3 }, a)
      assert.equal(10000, b[100])
      assert.equal(100, b.n)
      assert.equal(0, c.n)
    end)

    check("raises the first failure at once and cancels the rest", function()
      local path = support.temp_path()
      local a, b = gate:spawn(path, 1), fails:spawn "first"
      local ended
      local task = tidepool.async(function()
        local ok, failure = pcall(gate.remote, gate, path, 2)
        ended = not ok and failure.kind
        error(failure, 0)
      end)
      local results = gate:map({ path, path }, { 3, 4 })
      local failure = failure_of(tidepool.gather, a, task, results, b)
      assert.equal("first", failure.message)
      assert.equal("cancelled", failure_of(a.get, a).kind)
      assert.equal("cancelled", failure_of(results.next, results).kind)
      assert.equal("cancelled", failure_of(task.get, task).kind)
      assert.equal("cancelled", ended)
      note(path, "open")
    end)

    check("with return_exceptions puts failures in their places", function()
      local a, b, c, d, e = tidepool.gather(fails:spawn "a", square:spawn(2), tidepool.async(error, { code = 7 }),
        fails:map({ "map" }), square:map({ 1 }), { return_exceptions = true })
      assert.equal("a", a.message)
      assert.equal(4, b)
      assert.is_true(tidepool.is_failure(c))
      assert.equal(7, c.code)
      assert.equal("map", d.message)
      assert.same({ 1, n = 1 }, e)
    end)

    check("of what was cancelled raises that, or gives it", function()
      local path = support.temp_path()
      local call = gate:spawn(path, 1)
      call:cancel()
      assert.equal("cancelled", failure_of(tidepool.gather, call).kind)
      assert.equal("cancelled", tidepool.gather(call, { return_exceptions = true }).kind)
      note(path, "open")
    end)
  end)

  describe("wait", function()
    check("gives one that has finished, and the rest, in the order of the list", function()
      local path = support.temp_path()
      local calls = { gate:spawn(path, 1), square:spawn(2), gate:spawn(path, 3) }
      local finished, rest = tidepool.wait(calls)
      assert.same({ calls[2] }, finished)
      assert.same({ calls[1], calls[3] }, rest)
      note(path, "open")
      finished, rest = tidepool.wait(rest, { n = 2 })
      assert.same({ calls[1], calls[3] }, finished)
      assert.same({}, rest)
      assert.same({ 1, 3 }, { (calls[1]:get()), (calls[3]:get()) })
    end)

    check("gives up after the timeout", function()
      local path = support.temp_path()
      local calls = { gate:spawn(path, 1), gate:spawn(path, 2) }
      local finished, rest = tidepool.wait(calls, { n = 2, timeout = 0.001 })
      assert.same({ {}, calls }, { finished, rest })
      assert.equal(0, #tidepool.wait(calls, { timeout = 0 }))
      note(path, "open")
      assert.equal(2, #tidepool.wait(calls, { n = 2, timeout = 30 }))
    end)

    check("counts failures and the cancelled as finished, and raises nothing", function()
      local path = support.temp_path()
      local failed, cancelled = fails:spawn "x", gate:spawn(path, 1)
      cancelled:cancel()
      assert.equal(2, #tidepool.wait({ failed, cancelled }, { n = 2 }))
      assert.equal("x", failure_of(failed.get, failed).message)
      note(path, "open")
    end)

    check("does not wait at all for none, and refuses to wait for more than there are", function()
      assert.same({ {}, {} }, { tidepool.wait {} })
      assert.same({ {}, {} }, { tidepool.wait({}, { timeout = 1e6 }) })
      local fine, why = pcall(tidepool.wait, { square:spawn(1), square:spawn(2) }, { n = 5 })
      assert.is_false(fine)
      contains(why, "option 'n' is 5, but there are 2 to wait for")
    end)

    check("waits for maps: for their end, or until they are full", function()
      local path = support.temp_path()
      local endless = square:map(tidepool.range(1, 1 / 0), { window = 5 })
      local i = 0
      local iterated = square:map(function()
        i = i + 1
        if i <= 40 then return i end
      end)
      local failing = fails:map { "x", "y" }
      local waiting = gate:map({ path }, { 1 })
      local all = { endless, iterated, failing, square:map {}, waiting }
      local finished, rest = tidepool.wait(all, { n = 4 })
      assert.same({ endless, iterated, failing, all[4] }, finished)
      assert.same({ waiting }, rest)
      assert.equal(40, iterated:list().n)
      assert.equal(1, (endless:next()))
      note(path, "open")
      assert.equal(1, #tidepool.wait { waiting })
      endless:cancel()
    end)
  end)

  describe("as_completed", function()
    check("gives each once, as they finish", function()
      local path = support.temp_path()
      local order, turn = {}, 3
      local function in_turn(i)
        while turn ~= i do tidepool.sleep(0) end
        return i
      end
      local all = { gate:spawn(path, 4), tidepool.async(in_turn, 1), tidepool.async(in_turn, 2), tidepool.async(in_turn, 3) }
      for one in tidepool.as_completed(all) do
        order[#order + 1] = one:get()
        turn = turn % 3 + 1
        if #order == 3 then note(path, "open") end
      end
      assert.same({ 3, 1, 2, 4 }, order)
    end)

    check("takes more while it is gone through", function()
      local all = tidepool.as_completed { square:spawn(1) }
      local sum, n = 0, 0
      for call in all do
        sum, n = sum + call:get(), n + 1
        if n < 50 then all:add(square:spawn(n + 1)) end
        if n == 10 then all:add(tidepool.async(function() return 0 end)) end
      end
      assert.equal(51, n)
      assert.equal(50 * 51 * 101 / 6, sum)
      assert.is_nil(all())
    end)

    check("of nothing ends at once; what is added later is given", function()
      local all = tidepool.as_completed {}
      assert.is_nil(all())
      all:add(square:spawn(3))
      assert.equal(9, (all():get()))
      assert.matches("0 running, 0 to be taken", tostring(all))
    end)

    check("gives failures too, whose get raises", function()
      local n = 0
      for call in tidepool.as_completed { fails:spawn "x", fails:spawn "y" } do
        assert.equal("fails", failure_of(call.get, call).function_name)
        n = n + 1
      end
      assert.equal(2, n)
    end)

    check("may be left early, and dropped", function()
      local path = support.temp_path()
      local calls = { gate:spawn(path, 1), square:spawn(1), square:spawn(2) }
      local n = 0
      for call in tidepool.as_completed(calls) do
        n = n + call:get()
        if n > 0 then break end
      end
      note(path, "open")
      tidepool.gather(calls)
    end)

    check("goes over maps too", function()
      local path = support.temp_path()
      local late, early = gate:map({ path }, { 1 }), square:map(tidepool.range(10))
      local order = {}
      for results in tidepool.as_completed { late, early } do
        order[#order + 1] = results
        note(path, "open")
      end
      assert.equal(early, order[1])
      assert.equal(late, order[2])
    end)
  end)
end

describe("Waiting for several", function()
  it("may be shared by tasks: each one comes to one of them", function()
    local calls = {}
    for i = 1, 100 do calls[i] = square:spawn(i) end
    local all = tidepool.as_completed(calls)
    local n = 0
    local function take()
      for call in all do
        call:get()
        n = n + 1
        tidepool.sleep(0)
      end
    end
    tidepool.gather(tidepool.async(take), tidepool.async(take), tidepool.async(take))
    assert.equal(100, n)
  end)

  it("gives all also where LuaJIT has compiled it", function()
    for _ = 1, support.times(20) do -- which traces there are is a matter of chance
      assert.equal("ok\n", support.output_of [[
        local tidepool = require "tidepool"
        local f = tidepool.App "t":func { executor = "inline" } (function(x) return x end)
        for round = 1, 300 do
          local calls = {}
          for k = 1, round % 7 + 1 do calls[k] = f:spawn(k) end
          local values = tidepool.gather(calls, { return_exceptions = true })
          assert(values.n == #calls)
        end
        print "ok"
      ]])
    end
  end)

  it("of 2,000 calls gives all", function()
    local n, calls = support.times(2000), {}
    for i = 1, n do calls[i] = square:spawn(i) end
    local sum = 0
    for call in tidepool.as_completed(calls) do sum = sum + call:get() end
    assert.equal(n * (n + 1) * (2 * n + 1) / 6, sum)
    for i = 1, n do calls[i] = square:spawn(i) end
    assert.equal(n, tidepool.gather(calls).n)
  end)

  it("means the same on the inline executor", function()
    local inline, bad = square:with { executor = "inline" }, fails:with { executor = "inline" }
    for _, run in pairs(places) do
      run(function()
        assert.same({ 1, 4 }, { tidepool.gather(inline:spawn(1), square:spawn(2)) })
        assert.equal(2, #tidepool.wait({ inline:spawn(1), inline:spawn(2) }, { n = 2 }))
        assert.equal(1, #tidepool.wait { inline:map(tidepool.range(100)) })
        local n = 0
        for call in tidepool.as_completed { inline:spawn(1), square:spawn(2), inline:spawn(3) } do n = n + call:get() end
        assert.equal(14, n)
        assert.equal("x", failure_of(tidepool.gather, inline:spawn(1), bad:spawn "x").message)
      end)
    end
    assert.same({}, tidepool.loop())
  end)

  it("works in a mapped function, which runs what it waits for", function()
    for _, executor in ipairs { "threads", "inline" } do
      local outer = app:func { concurrency_limit = 1, executor = executor } (function(n)
        local calls = {}
        for i = 1, n do calls[i] = square:spawn(i) end
        local sum = 0
        for call in tidepool.as_completed(calls) do sum = sum + call:get() end
        local list = tidepool.gather { square:spawn(n), square:map(tidepool.range(n)) }
        local finished, rest = tidepool.wait({ square:spawn(1), square:spawn(2) }, { n = 2 })
        local ok, failure = pcall(tidepool.gather, square:spawn(1), fails:spawn "inner")
        return sum, list[1], list[2][n], #finished, #rest, ok, failure.message
      end)
      for i, sum, a, b, c, d, ok, message in outer:map { 1, 2, 3, 4 } do
        assert.same({ i * (i + 1) * (2 * i + 1) / 6, i * i, i * i, 2, 0, false, "inner" }, { sum, a, b, c, d, ok, message })
      end
    end
  end)

  it("does not deadlock nested deeper than the pool", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local level
      level = tidepool.App("t"):func { name = "level", concurrency_limit = 1 } (function(n)
        if n == 0 then return 1 end
        local a, b = tidepool.gather(level:spawn(n - 1), level:spawn(n - 1))
        for call in tidepool.as_completed { level:spawn(n - 1) } do a = a + call:get() end
        return a + b
      end)
      print((level:remote(5)))
    ]], { workers = 1 })
    assert.equal("243\n", output)
  end)

  -- 4,000 took 78 s once, then 8: whoever waited looked through all for each, or for some.
  it("of 20,000 calls in a mapped function on one worker takes no longer than they do", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local app = tidepool.App "t"
      for _, executor in ipairs { "threads", "inline" } do
        local f = app:func { executor = executor } (function(x) return x end)
        local all = app:func { executor = executor } (function(n)
          local calls = {}
          for i = 1, n do calls[i] = f:spawn(i) end
          local last = tidepool.gather(calls)[n]
          for i = 1, n do calls[i] = f:spawn(i) end
          local sum = 0
          for call in tidepool.as_completed(calls) do sum = sum + call:get() end
          assert(sum == n * (n + 1) / 2)
          return last
        end)
        io.write(all:remote(tonumber(arg[1])), " ")
      end
    ]], { workers = 1, args = { support.times(20000) }, seconds = 240 })
    assert.equal(("%d %d "):format(support.times(20000), support.times(20000)), output)
  end)

  it("left early in a mapped function does not disturb the next one", function()
    local left = app:func(function(x)
      local calls = { square:spawn(x), square:spawn(x + 1), square:spawn(x + 2) }
      for call in tidepool.as_completed(calls) do
        if x % 2 == 0 then return (call:get()) end
      end
      return (calls[1]:get())
    end)
    local outer = app:func(function(x) return (tidepool.gather(left:spawn(x), left:spawn(x), left:map { x, x, x })) end)
    local n = 0
    for i, v in outer:map(tidepool.range(200)) do
      n = n + 1
      assert.is_true(v == i * i or i % 2 == 0 and (v == (i + 1) ^ 2 or v == (i + 2) ^ 2))
    end
    assert.equal(200, n)
  end)

  it("goes on after waits that were cancelled", function()
    local path = support.temp_path()
    local call = gate:spawn(path, 1)
    for _ = 1, 100 do
      local task = tidepool.async(tidepool.wait, { call })
      task:cancel()
      pcall(task.get, task)
    end
    note(path, "open")
    assert.equal(1, (call:get()))
  end)
end)

describe("Mistakes with several calls", function()
  it("are one line at the user's place", function()
    local call = square:spawn(1)
    mistake(function() tidepool.gather(call, 7) end, "tidepool.gather: item 2 is 7", "f:spawn")
    mistake(function() tidepool.gather { call, "x" } end, 'tidepool.gather: item 2 is the string "x"')
    mistake(function() tidepool.gather(call, { return_exception = true }) end, "did you mean 'return_exceptions'")
    mistake(function() tidepool.gather(call, { return_exceptions = 1 }) end, "must be true or false")
    mistake(function() tidepool.gather(nil) end, "tidepool.gather: item 1 is nil")
    mistake(function() tidepool.wait(call) end, "tidepool.wait: expected a list of calls, got one alone: put it in { }")
    mistake(function() tidepool.wait() end, "tidepool.wait: expected a list of calls, got nil")
    mistake(function() tidepool.wait({ call }, { n = 0 }) end, "'n' must be an integer of at least 1")
    mistake(function() tidepool.wait({ call }, { timout = 1 }) end, "did you mean 'timeout'")
    mistake(function() tidepool.wait({ call }, 5) end, "tidepool.wait: expected a table of options, got 5")
    mistake(function() tidepool.as_completed(5) end, "tidepool.as_completed: expected a list of calls, got 5")
    mistake(function() tidepool.as_completed({}):add(5) end, "as_completed:add: item 1 is 5")
    mistake(function() tidepool.as_completed({}).add(5) end, "all:add(call)")
    contains(tostring(call), "tidepool.Call")
    call:get()
  end)
end)
