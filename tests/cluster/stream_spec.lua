--- Streams on a cluster when something dies (not stock: it is the program). What else they promise
--- is asked in tests/api/stream_spec.lua, which promises_spec.lua here runs on a cluster.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("On a cluster a generator", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  --- Starts a script that reads the values of two inputs, and notes in the file `path` that it has
  --- read one. Both wait behind their first value for the file `path`.go.
  local function start(options)
    local path = support.temp_path()
    local script = own:start(([[
      local path, support, tidepool = %q, require "tests.support", require "tidepool"
      local f = tidepool.App "job":func {} (function(x)
        coroutine.yield(x * 10 + 1)
        require "tests.support".wait_for(path .. ".go")
        for i = 2, 5 do coroutine.yield(x * 10 + i) end
      end)
      local got, message = {}, ""
      for i, v in f:flat_map({ 1, 2 }, %s) do
        got[#got + 1] = i .. ":" .. (tidepool.is_failure(v) and v.kind or v)
        if tidepool.is_failure(v) then message = v.message end
        if i == 1 then support.note(path, "has read") end
      end
      print(table.concat(got, " "))
      io.stderr:write(message)]]):format(path, options))
    support.eventually("it has read a value", function() return support.read_file(path) end)
    function script.go() support.note(path .. ".go", "go") end
    return script
  end

  it("keeps what was read when its worker is killed; what was not is run elsewhere", function()
    local first = own:worker(2)
    local script = start "{ return_exceptions = true, window = 4 }"
    own:kill(first, "KILL")
    script.go()
    own:worker(2)
    local said, status, errors = script.done()
    assert.same({ "1:11 1:crash 2:21 2:22 2:23 2:24 2:25\n", 0 }, { said, status }, errors)
    support.contains(errors, ", on " .. cluster.capture "uname -n":match "%S+" .. ", is gone, and some of its values were read")
  end)

  it("loses nothing, and gives nothing twice, when the server is killed and started again", function()
    own:worker(2)
    local script = start "{ window = 2 }"
    own:kill_server()
    script.go()
    own:up_again()
    local said, status, errors = script.done()
    assert.same({ "1:11 1:12 1:13 1:14 1:15 2:21 2:22 2:23 2:24 2:25\n", 0 }, { said, status }, errors)
  end)

  it("gives values that are too large for a message, also equal ones", function()
    own:worker(1)
    assert.equal("4\t1400008\n", support.printed(own:run [[
      local tidepool = require "tidepool"
      local f = tidepool.App "job":func {} (function()
        for _, n in ipairs { 700000, 700000, 4, 4 } do coroutine.yield(("x"):rep(n)) end
      end)
      local n, bytes = 0, 0
      for text in f:stream() do n, bytes = n + 1, bytes + #text end
      print(n, bytes)]]))
  end)
end)
