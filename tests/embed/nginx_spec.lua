--- nginx (not stock): what waits in a request lets others go on. scripts/check-nginx tries a real
-- one, whose LuaJIT excludes Debian's; here a script plays its part: coroutines that ngx.sleep
-- yields from, and a coroutine library of its own.

local support = require "tests.support"

local NGINX = [[
  -- what lua-nginx-module does to the library, and its scheduler
  local library = coroutine
  local resume, create, yield, status = library.resume, library.create, library.yield, library.status
  local function foreign() error("nginx's own coroutine functions know only its requests", 0) end
  coroutine = { running = library.running, _resume = resume, _create = create, _yield = yield, _status = status, _wrap = library.wrap,
    resume = foreign, create = foreign, yield = foreign, status = foreign, wrap = foreign }
  package.loaded.coroutine = coroutine
  local phase, sleeps = "init_worker", 0
  ngx = {
    get_phase = function() return phase end,
    sleep = function(seconds)
      assert(type(seconds) == "number" and seconds >= 0.001, "a sleep of no time")
      sleeps = sleeps + 1
      yield()
    end,
  }
  local tidepool = require "tidepool"
  local app = tidepool.App "requests"

  --- Runs functions as requests, in turns, until all have ended.
  local function serve(requests)
    local threads = {}
    for i, fn in ipairs(requests) do threads[i] = create(fn) end
    phase = "content"
    local n
    repeat
      n = 0
      for _, thread in ipairs(threads) do
        if status(thread) ~= "dead" then
          n = n + 1
          local fine, why = resume(thread)
          if not fine then print(tostring(why)) end
        end
      end
    until n == 0
    phase = "log"
  end
]]

describe("in nginx", function()
  if support.sanitized then
    return it("nothing is tested under a sanitizer: the module is not built for it", function() end)
  end

  --- What stock luajit prints for this code, with nginx's part played.
  local function printed(code)
    local dir = support.temp_dir()
    local file = assert(io.open(dir .. "/requests.lua", "w"))
    file:write(("local DIR = %q\n"):format(dir), NGINX, code)
    file:close()
    local pipe = assert(io.popen(("LUA_CPATH='build/module/?.so;;' timeout 400 luajit %s/requests.lua 2>&1"):format(dir)))
    local text = pipe:read "*a"
    pipe:close()
    return text
  end

  it("maps, calls and sleeps of a request let others go on", function()
    assert.equal("ping\nfour\nfive\nslept\ntrue\n", printed [[
      local function gate(path, value)
        while not io.open(path) do tidepool.sleep(0.001) end
        return value
      end
      local await = app:func(gate)
      local said = {}
      serve {
        function() for _, r in await:map({ DIR .. "/a" }, tidepool.const "four") do print(r) end io.open(DIR .. "/b", "w"):close() end,
        function() print(await:remote(DIR .. "/b", "five")) io.open(DIR .. "/c", "w"):close() end,
        function() while not io.open(DIR .. "/c") do tidepool.sleep(0.001) end print "slept" end,
        function() print "ping" io.open(DIR .. "/a", "w"):close() end,
      }
      print(sleeps > 0)
    ]])
  end)

  it("two hundred requests that each map a hundred items get what is theirs", function()
    assert.equal("200\n", printed [[
      local f = app:func(function(x, k) return x * k end)
      local requests, right = {}, 0
      for k = 1, 200 do
        requests[k] = function()
          local sum, n = 0, 0
          for i, r in f:map(tidepool.range(100), tidepool.const(k)) do
            n = n + 1
            if r == i * k and i == n then sum = sum + r end
          end
          if sum == 5050 * k then right = right + 1 end
        end
      end
      serve(requests)
      print(right)
    ]])
  end)

  it("failures are raised in the request whose they are, and where no request can sleep a wait blocks", function()
    assert.equal("no 20\n42 0\n", printed [[
      local f = app:func(function(x) if x == 1 then error("no", 0) end return 10 * x end)
      local requests, got = {}, {}
      for k = 1, 2 do
        requests[k] = function()
          local fine, result = pcall(function() return f:map { k }:sum() end)
          got[k] = fine and result or result.message
        end
      end
      serve(requests)
      sleeps = 0
      print(got[1] .. " " .. got[2])
      print(app:func(function() return 42 end):remote() .. " " .. sleeps)
    ]])
  end)
end)
