--- concurrency_limit in maps inside mapped functions on a cluster (not stock: it is the program):
--- it counts over all machines.

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
    local path = support.temp_path()
    local done = own:run(([[
      local tidepool = require "tidepool"
      local app = tidepool.App "job"
      local path = %q
      local function work()
        local support = require "tests.support"
        support.note(path, "+")
        support.sleep(0.01)
        support.note(path, "-")
      end
      ]]):format(path) .. body, { seconds = 120 })
    return support.printed(done), support.most_at_once(path)
  end

  it("a limited function in items of another one runs on one worker at a time", function()
    local said, most = run [[
      local g = app:func { concurrency_limit = 1 } (function(x) work() return x end)
      local f = app:func(function(x) return g:map({ x, 1, 2 }):sum() end)
      local sum = 0
      for _, value in f:map(tidepool.range(16)) do sum = sum + value end
      print(sum)]]
    assert.same({ "184\n", 1 }, { said, most })
  end)

  it("a limit counts items of the script's maps and of maps in items together", function()
    local said, most = run [[
      local g = app:func { concurrency_limit = 2 } (function(x) work() return x end)
      local f = app:func(function(x) return g:map({ x, 1, 2 }):sum() end)
      local calls = {}
      for i = 1, 12 do calls[i] = g:spawn(i) end
      local sum = 0
      for _, value in f:map(tidepool.range(12)) do sum = sum + value end
      for i = 1, 12 do sum = sum + calls[i]:get() end
      print(sum)]]
    assert.equal("192\n", said)
    assert.is_true(most <= 2, most)
  end)

  it("an item that maps its own limited function gives up its permit meanwhile", function()
    local said, most = run [[
      local f
      f = app:func { concurrency_limit = 1, name = "f" } (function(x)
        if x > 2 then return f:map({ 1, 2 }):sum() + x end
        work()
        return x
      end)
      local sum = 0
      for _, value in f:map { 1, 3, 2, 4, 5 } do sum = sum + value end
      print(sum)]]
    assert.same({ "24\n", 1 }, { said, most })
  end)

  it("a worker that dies has no permit any more", function()
    local said = run [[
      local g = app:func { concurrency_limit = 1 } (function(x)
        if x == 3 and not require "tests.support".read_file(path .. ".died") then
          local ffi = require "ffi"
          ffi.cdef "int kill(int, int); int getppid(void);"
          require "tests.support".note(path .. ".died", "x")
          ffi.C.kill(ffi.C.getppid(), 9)
          require "tests.support".sleep(60)
        end
        return x
      end)
      local f = app:func(function(x) return g:map({ x, 1 }):sum() end)
      local sum = 0
      for _, value in f:map(tidepool.range(8)) do sum = sum + value end
      print(sum)]]
    assert.equal("44\n", said)
  end)

  it("a function's own timeout holds in items of another one, with permits and Queues of the script", function()
    local said, most = run [[
      local queue = tidepool.Queue()
      local late = app:func { timeout = 0.5 } (function() while true do end end)
      local g = app:func { timeout = 100, concurrency_limit = 1 } (function(x) work() queue:put(x) return x end)
      local f = app:func(function(x)
        local fine, why = pcall(late.remote, late)
        return why.kind .. g:remote(x)
      end)
      local sum = 0
      for i, value in f:map(tidepool.range(4)) do
        assert(value == "timeout" .. i)
        sum = sum + queue:get()
      end
      print(sum)]]
    assert.same({ "10\n", 1 }, { said, most })
  end)
end)
