--- More of what can go wrong in a cluster (not stock: it is the program): servers that are away or
-- slow, scripts that are killed and run again, results far larger than a message.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

-- Maps N inputs of MS milliseconds with OPTIONS. Notes in PATH that some are done, and its process
-- in PATH.pid.
local map = [[
  local ffi = require "ffi"
  ffi.cdef "int getpid(void);"
  require "tests.support".note("PATH.pid", ffi.C.getpid())
  local app = require "tidepool".App "job"
  local f = app:func { name = "f" } (function(x)
    local support = require "tests.support"
    support.sleep(MS / 1000)
    return x * 2, ("y"):rep(SIZE)
  end)
  local inputs = {}
  for i = 1, N do inputs[i] = i end
  local n = 0
  for i, value, text in f:map(inputs, { OPTIONS }) do
    n = n + 1
    assert(i == n and value == 2 * i and text == ("y"):rep(SIZE), "wrong")
    if n == 20 then require "tests.support".note("PATH", "begun") end
  end
  print(n)]]

describe("a map on a cluster", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own
  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  --- Starts the map; begun() waits until some of it is done.
  local function start(path, n, ms, options, size)
    local source = map:gsub("N do", n .. " do"):gsub("MS", ms):gsub("PATH", path):gsub("OPTIONS", options or ""):gsub("SIZE", size or 1)
    local script = own:start(source)
    function script.begun()
      support.eventually("the map has begun", function() return support.read_file(path) end)
    end
    function script.is_right()
      local said, status, errors = script.done()
      assert.same({ n .. "\n", 0 }, { said, status }, errors)
      return errors
    end
    return script
  end

  --- Signals the server.
  local function signal(name)
    os.execute(("kill -%s %s"):format(name, support.read_file(own.dir .. "/nats.pid"):match "%d+"))
  end

  it("goes on when the server was away for 3 s", function()
    own:worker(2)
    local script = start(support.temp_path(), 400, 10)
    script.begun()
    own:kill_server()
    support.sleep(3)
    own:up_again()
    script.is_right()
  end)

  it("goes on when the server has not answered for 6 s", function()
    own:worker(2)
    local script = start(support.temp_path(), 400, 10)
    script.begun()
    signal "STOP"
    support.sleep(6)
    signal "CONT"
    script.is_right()
  end)

  it("goes on when the server is ended and started again in an orderly way", function()
    own:worker(2)
    local script = start(support.temp_path(), 400, 10)
    script.begun()
    own:engine "down"
    own:up_again()
    script.is_right()
  end)

  it("that is killed with its server and a worker goes on with its journal", function()
    local path = support.temp_path()
    local options = ("journal = %q"):format(path .. ".db")
    local first = own:worker(1)
    own:worker(1)
    local script = start(path, 300, 10, options)
    script.begun()
    support.eventually("the journal has some", function()
      return io.popen(("%s journal %s.db 2>&1"):format(support.binary, path)):read "*a":find "\nf +%S+ +[1-9]"
    end)
    own:kill_server()
    own:kill(first, "KILL")
    os.execute("kill -KILL " .. support.read_file(path .. ".pid"))
    script.done()
    os.execute("rm -f " .. path .. ".pid " .. path)
    own:up_again()
    own:worker(1)
    local errors = start(path, 300, 10, options).is_right()
    support.contains(errors, "of 300 from")
  end)

  it("gets results of 50 MiB, though messages have 1 MiB", function()
    own:worker(2)
    local done = own:run [[
      local f = require "tidepool".App "job":func(function(x) return ("abc%d"):format(x):rep(13107200) end)
      for i, text in f:map { 1, 2, 3 } do assert(#text == 52428800 and text == ("abc%d"):format(i):rep(13107200)) end
      print "whole"]]
    assert.same({ "whole\n", "" }, { done.stdout, done.stderr })
  end)
end)
