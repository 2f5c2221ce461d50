--- Connections of a cluster that are cut, most of them in the middle of a message (not stock: the
-- program).

local support = require "tests.support"
local cluster = require "tests.support_cluster"

-- Passes bytes on between clients and the server. Of three connections it cuts one in the server's
-- first words, one in the client's, and one later, when so many bytes have passed, which differ
-- from one to the next. Writes to a file how many it has cut.
local PROXY = [[
  local uv = require "luv"
  local port, cuts_path, least = tonumber(arg[1]), arg[2], tonumber(arg[3])
  local server, n, cuts = uv.new_tcp(), 0, 0
  assert(server:bind("127.0.0.1", 0))
  server:listen(64, function()
    local near, far = uv.new_tcp(), uv.new_tcp()
    server:accept(near)
    n = n + 1
    local left, is_over = ({ least + n * 7919 % least, 50, 600 })[n % 3 + 1], false
    local function close()
      if is_over then return end
      is_over = true
      near:close()
      far:close()
    end
    local function pass(from, to)
      from:read_start(function(err, bytes)
        if is_over then return end
        if err or not bytes then return close() end
        if #bytes < left then
          left = left - #bytes
          return to:write(bytes)
        end
        from:read_stop()
        cuts = cuts + 1
        local file = io.open(cuts_path, "w")
        file:write(cuts)
        file:close()
        to:write(bytes:sub(1, left), close)
        left = 0
      end)
    end
    far:connect("127.0.0.1", port, function(err)
      if err then return close() end
      pass(near, far)
      pass(far, near)
    end)
  end)
  print(server:getsockname().port)
  io.stdout:flush()
  uv.run()
]]

describe("A cluster whose connections are cut", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end

  local own, pid, dir

  --- From now on workers and scripts reach the server by way of the proxy.
  local function cut(least)
    dir = support.temp_dir()
    support.write_file(dir .. "/proxy.lua", PROXY)
    pid = cluster.capture(("%s %s/proxy.lua %d %s/cuts %d >%s/port 2>&1 </dev/null & echo $!"):format(support.binary, dir, own.port, dir, least,
      dir)):match "%d+"
    support.eventually("the proxy listens", function() return (support.read_file(dir .. "/port") or ""):find "^%d+\n" end)
    own.url = own.url:match "^%l+" .. "://127.0.0.1:" .. support.read_file(dir .. "/port"):match "%d+"
    own:worker(2)
    own:worker(2)
  end

  local function has_cut(least) assert.is_true(tonumber(support.read_file(dir .. "/cuts")) >= least) end

  after_each(function()
    if pid then cluster.capture("kill -KILL " .. pid) end
    own:down()
  end)

  it("loses no result, gives none twice and blames no input", function()
    own = cluster.up()
    cut(150000)
    local out, status, errors = own:start([[
      local tidepool = require "tidepool"
      local f = tidepool.App("job"):func { name = "f" } (function(t) return { t.a, ("x"):rep(t.a % 300) } end)
      local function inputs()
        local i = 0
        return function() i = i + 1 if i <= 4000 then return { a = i } end end
      end
      local n = 0
      for i, r in f:map(inputs()) do
        n = n + 1
        assert(i == n and r[1] == n and r[2] == ("x"):rep(n % 300))
      end
      print(n)]]).done()
    assert.same({ "4000\n", 0 }, { out, status }, errors)
    has_cut(10)
  end)

  it("says so when nothing gets through, on both sides", function()
    own = cluster.up()
    local said = "the engine at nats://127.0.0.1:%d+ is lost again and again %(10 times, and no result has "
    cut(10000)
    local scripts = {}
    for i, lengths in ipairs { "150000, 1", "1, 150000" } do -- of the input, and of the result
      local path = support.temp_path()
      scripts[i] = own:start(([[
        require "tests.support".write_file(%q, io.open("/proc/self/stat"):read "n")
        local given, gives = %s
        local f = require "tidepool".App("job"):func { name = "f" } (function() return ("x"):rep(gives) end)
        f:remote(("x"):rep(given))]]):format(path, lengths))
      scripts[i].path = path
    end
    support.eventually("the script with the large input says so", function()
      return (support.read_file(scripts[1].dir .. "/err") or ""):find(said)
    end)
    support.eventually("a worker that has the large result says so", function()
      return own:said(own.workers[1]):find(said) or own:said(own.workers[2]):find(said)
    end)
    for _, script in ipairs(scripts) do
      cluster.capture("kill -KILL " .. support.read_file(script.path))
      script.done()
    end
  end)

  it("has large results, which go in pieces, too, over TLS", function()
    own = cluster.up "0.0.0.0"
    cut(1500000)
    local out, status, errors = own:start([[
      local tidepool = require "tidepool"
      local f = tidepool.App("job"):func { name = "f" } (function(x) return ("%08d"):format(x):rep(125000) end)
      local n = 0
      for i, r in f:map(tidepool.range(8)) do
        n = n + 1
        assert(i == n and r == ("%08d"):format(n):rep(125000))
      end
      print(n)]]).done()
    assert.same({ "8\n", 0 }, { out, status }, errors)
    has_cut(8)
  end)
end)
