--- A server that may keep little (not stock: it is the program): work waits until there is room.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

local contains = support.contains

describe("a cluster whose server may keep 4 MB", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  setup(function()
    own = cluster.up()
    own:worker(2)
    own:run [[print(require "tidepool".App("job"):func(function(x) return x end):remote(1))]] -- makes the streams
    -- On a loaded machine this call may have been sent a second time. Until a worker is given that,
    -- after the time for an acknowledgement, it is at the server, and of another script.
    local ask = "SUB _TPC.spec.> 1\r\nPUB $JS.API.STREAM.INFO.TP1_d_W _TPC.spec.1 0\r\n\r\n"
    support.eventually("no work is left", function()
      return own:speak("coordinator", ask, "stream_info_response"):find('"messages":0,', 1, true)
    end)
    own:limit(4000000)
  end)
  teardown(function() own:down() end)

  --- Runs a script that has `f` and `text(i)`, a text of SIZE bytes like no other.
  local function run(size, body)
    return support.printed(own:run(([[
      local tidepool = require "tidepool"
      local app = tidepool.App "job"
      local function text(i) return ("%%07d"):format(i):rep(math.ceil(%d / 7)) end
      %s]]):format(size, body), { seconds = 120 }))
  end

  it("carries results of 24 MB", function()
    assert.equal("60\n", run(400000, [[
      local f = app:func(function(i) return text(i) end)
      local n = 0
      for i, value in f:map(tidepool.range(60)) do
        n = n + 1
        assert(i == n and value == text(i), "wrong")
      end
      print(n)]]))
  end)

  it("carries inputs of 24 MB, and equal ones", function()
    assert.equal("60\n", run(400000, [[
      local f = app:func(function(i, t) return t == text(i) and i or 0 end)
      local n = 0
      for i, value in f:starmap(coroutine.wrap(function()
        for i = 1, 60 do coroutine.yield { i - i % 2, text(i - i % 2) } end
      end)) do
        n = n + 1
        assert(i == n and value == i - i % 2, "wrong")
      end
      print(n)]]))
  end)

  it("carries what is too small to go in pieces", function()
    assert.equal("150\n", run(150000, [[
      local f = app:func(function(t) return t .. "!" end)
      local inputs = {}
      for i = 1, 150 do inputs[i] = text(i) end
      local n = 0
      for i, value in f:map(inputs) do
        n = n + 1
        assert(i == n and value == text(i) .. "!", "wrong")
      end
      print(n)]]))
  end)

  it("says what never fits, and goes on", function()
    local said = run(6000000, [[
      local f = app:func { name = "f" } (function(t) return #t end)
      local results = f:map({ "a", text(1), "b" }, { return_exceptions = true }):list()
      print(results[1], results[3], results[2].kind)
      print(results[2].message)]])
    contains(said, "1\t1\tresource\n", "has no room for 600", "bytes of work: its server has taken ", "max_file_store")
  end)

  --- Puts so many bytes of another script's at the server.
  local function fill(name, bytes)
    local lines = {}
    for i = 1, bytes / 100000 do lines[i] = cluster.publish(("tp1.d.b.%s.x.%d"):format(name, i), ("x"):rep(100000)) end
    own:speak("coordinator", table.concat(lines))
  end

  it("carries results for which there is no room", function()
    fill("most", 3800000)
    assert.equal("12\n", run(600000, [[
      local f = app:func(function(i) return text(i) end)
      local n = 0
      for i, value in f:map(tidepool.range(12)) do
        n = n + 1
        assert(i == n and value == text(i), "wrong")
      end
      print(n)]]))
  end)

  it("carries values of streams for which there is no room", function()
    assert.equal("12\n", run(600000, [[
      local f = app:func(function(n) for i = 1, n do coroutine.yield(text(i)) end end)
      local n = 0
      for value in f:stream(12) do
        n = n + 1
        assert(value == text(n), "wrong")
      end
      print(n)]]))
  end)

  it("says that it waits when others have all the room, and goes on when there is some", function()
    fill("rest", 400000)
    local script = own:start [[
      print(require "tidepool".App("job"):func(function(x) return 2 * x end):remote(4))]]
    support.eventually("it says so", function()
      return (support.read_file(script.dir .. "/err") or ""):find("is full, and not of this script's", 1, true)
    end)
    own:kill_server()
    own:up_again()
    local said, status = script.done()
    assert.same({ "8\n", 0 }, { said, status })
  end)

  it("is not used when it takes small messages only", function()
    own:limit(1e9, "max_payload: 100000\n")
    local done = own:run [[
      local f = require "tidepool".App("job"):func(function(x) return x end)
      print(select(2, pcall(f.remote, f, 1)))]]
    contains(done.stdout, "takes messages of at most 100000 bytes, and 1000000 are needed (max_payload in its configuration)")
  end)
end)
