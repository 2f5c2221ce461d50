--- Dicts and Queues on a cluster (not stock: it is the program): the script keeps them, and items
--- on all workers use them.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("On a cluster", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  setup(function()
    own = cluster.up()
    own:worker(2)
    own:worker(2)
  end)
  teardown(function() own:down() end)

  local function run(body)
    return support.printed(own:run([[
      local tidepool = require "tidepool"
      local app = tidepool.App "job"
      ]] .. body, { seconds = 120 }))
  end

  it("a Dict counts what items of all workers add", function()
    assert.equal("300\t45150\t300\n", run [[
      local d = tidepool.Dict()
      local f = app:func(function(x) d:add("n", 1) d:add("sum", x) d:put(x, { x, "text" }) return d:get("n") >= 1 end)
      for _, seen in f:map(tidepool.range(300)) do assert(seen) end
      local entries = 0
      for key, value in d:pairs() do
        if type(key) == "number" then
          entries = entries + 1
          assert(value[1] == key and value[2] == "text")
        end
      end
      print(d:get "n", d:get "sum", entries)]])
  end)

  it("a Queue brings each value to one item, also what the script puts while they wait", function()
    assert.equal("100\t5050\tclosed\n", run [[
      local q, results = tidepool.Queue(), tidepool.Queue()
      local take = app:func(function()
        local n = 0
        while true do
          local value = q:get()
          if value == nil then return n end
          results:put(value)
          n = n + 1
        end
      end)
      local calls = { take:spawn(), take:spawn() }
      for i = 1, 50 do q:put(i) end
      for i = 51, 100 do q:put(i) end
      q:close()
      local n = calls[1]:get() + calls[2]:get()
      local sum = 0
      for _ = 1, 100 do sum = sum + results:get() end
      print(n, sum, q:is_closed() and "closed")]])
  end)

  it("items that wait for a Queue let those run that fill it", function()
    assert.equal("820\n", run [[
      local q = tidepool.Queue()
      local take, put = app:func(function() return q:get() end), app:func(function(x) q:put(x) end)
      local takers, putters, sum = {}, {}, 0
      for i = 1, 40 do takers[i] = take:spawn() end
      for i = 1, 40 do putters[i] = put:spawn(i) end
      for i = 1, 40 do
        sum = sum + takers[i]:get()
        putters[i]:get()
      end
      print(sum)]])
  end)

  it("items make Dicts and Queues, and put them into others", function()
    assert.equal("7\tnil\t1\n", run [[
      local d = tidepool.Dict()
      app:func(function()
        local inner, q = tidepool.Dict(), tidepool.Queue { capacity = 1 }
        inner:put("x", 7)
        q:put "one"
        d:put("inner", inner)
        d:put("queue", q)
      end):remote()
      print(d:get "inner":get "x", d:get "inner":get "y", #d:get "queue")]])
  end)

  it("says what a value may not have, and what is too large", function()
    support.contains(run [[
      local d = tidepool.Dict()
      d:put("f", tidepool.array("double", { 1, 2 }))
      local f = app:func(function(what)
        if what == "get" then return d:get "f" end
        d:put("large", ("x"):rep(2000000))
      end)
      print(select(2, pcall(f.remote, f, "get")))
      print(select(2, pcall(f.remote, f, "put")))
      print(app:func(function() return #d end):remote())]], "may not have functions, classes or typed arrays in it",
      "too many for a Dict or Queue on a cluster", "\n1\n")
  end)

  it("a wait for ever is told, to items that have it and where all wait for each other", function()
    assert.equal("true\ttrue\t3\n", run [[
      local q, other = tidepool.Queue(), tidepool.Queue()
      local take = app:func(function(x)
        if x == 3 then return x end
        local fine, why = pcall((x == 1 and q or other).get, x == 1 and q or other)
        return not fine and why:find("this would wait for ever", 1, true) ~= nil
      end)
      print(unpack(take:map({ 1, 2, 3 }):list()))]])
  end)

  it("a wait is none for ever while an item can end it", function()
    assert.equal("1\n", run [[
      local q = tidepool.Queue()
      local take, put = app:func(function() return q:get() end), app:func(function(x) tidepool.sleep(4) q:put(x) end)
      local first, putter = take:spawn(), put:spawn(1)
      print(first:get())
      putter:get()]])
  end)

  it("is done with a Queue that nobody serves when the map is cancelled, or times out", function()
    assert.equal("timeout\t5\n", run [[
      local q = tidepool.Queue()
      local f = app:func { timeout = 1 } (function() return q:get() end)
      print(f:map({ 1 }, { return_exceptions = true }):list()[1].kind, app:func(function(x) return x end):remote(5))]])
  end)
  it("items are answered, too, by a script that its workers have taken for dead meanwhile", function()
    local asks, asked, go = support.temp_path(), support.temp_path(), support.temp_path()
    local stop = own:listen("coordinator", "tp1.d.r.*.ask", asks)
    local script = own:start(([[
      local tidepool, support = require "tidepool", require "tests.support"
      local d = tidepool.Dict()
      local f = tidepool.App("job"):func(function(x)
        support.sleep(0.02) -- so that all workers have some
        return d:add("n", x)
      end)
      f:map(tidepool.range(20)):list()
      support.note(%q, "yes")
      support.wait_for(%q)
      f:map(tidepool.range(20)):list()
      print(d:get "n")]]):format(asked, go), 60)
    support.eventually("all was asked", function() return support.read_file(asked) end)
    stop()
    own:speak("coordinator", cluster.publish("tp1.d.ctl." .. support.read_file(asks):match "tp1%.d%.r%.(%x+)%.ask", "over"))
    support.note(go, "yes")
    local said, status, errors = script.done()
    assert.same({ "420\n", 0 }, { said, status }, errors)
  end)

  it("what an item asks is done once, however late it is asked again", function()
    local asks, asked, go = support.temp_path(), support.temp_path(), support.temp_path()
    local stop = own:listen("coordinator", "tp1.d.r.*.ask", asks)
    local script = own:start(([[
      local tidepool = require "tidepool"
      local d = tidepool.Dict()
      print(tidepool.App("job"):func(function()
        local support = require "tests.support"
        d:add("n", 1)
        for _ = 1, 1200 do d:get "n" end
        support.note(%q, "yes")
        support.wait_for(%q)
        return d:get "n"
      end):remote())]]):format(asked, go))
    support.eventually("all was asked", function() return support.read_file(asked) end)
    stop()
    local first = support.read_file(asks)
    local subject, reply, size, at = first:match "MSG (%S+) 1 (%S+) (%d+)\r\n()"
    own:speak("worker", ("PUB %s %s %s\r\n%s\r\n"):format(subject, reply, size, first:sub(at, at + size - 1)))
    support.note(go, "yes")
    local said, status, errors = script.done()
    assert.same({ "1\n", 0 }, { said, status }, errors)
  end)
end)
