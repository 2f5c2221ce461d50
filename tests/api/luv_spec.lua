--- luv on the same loop: timers, sockets and files go on while maps run and tasks wait.

local support = require "tests.support"

local contains, output_of = support.contains, support.output_of

local prelude = [[
  local uv = require "luv"
  local tidepool = require "tidepool"
  local app = tidepool.App "luv"
  local square = app:func(function(x) return x * x end)
  local slow = app:func(function(x) tidepool.sleep(0.01) return x end)

  --- Starts something of luv's that ends in a callback; the task waits for what it gives.
  local function await(start, ...)
    local thread, values = coroutine.running(), nil
    local n = select("#", ...)
    local arguments = { ... }
    arguments[n + 1] = function(...)
      values = { ... }
      coroutine.resume(thread)
    end
    assert(start(unpack(arguments, 1, n + 1)))
    while not values do coroutine.yield() end
    return unpack(values)
  end
]]

local function run(source, options)
  options = options or {}
  options.seconds = options.seconds or 30
  local done = support.run_script(prelude .. source, options)
  assert.is_false(done.timed_out, "the script did not end")
  return done
end

local function prints(expected, source, options)
  assert.equal(expected, output_of(prelude .. source, options))
end

describe("luv", function()
  it("runs an echo server and its clients while a map runs, neither starving the other", function()
    prints("map done\nechoed 50\n", [[
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(16, function(err)
        assert(not err, err)
        local peer = uv.new_tcp()
        server:accept(peer)
        peer:read_start(function(_, chunk)
          if chunk then peer:write(chunk) else peer:close() end
        end)
      end)
      local port = server:getsockname().port
      local map_is_done, echoed = false, 0

      -- Each echo needs items of the map to be taken between; the map needs an echo before it goes
      -- on.
      local function client()
        local socket = uv.new_tcp()
        await(socket.connect, socket, "127.0.0.1", port)
        local thread, received = coroutine.running(), nil
        socket:read_start(function(_, chunk)
          received = chunk
          coroutine.resume(thread)
        end)
        for i = 1, 10 do
          socket:write("line " .. i)
          while not received do coroutine.yield() end
          assert(received == "line " .. i)
          received = nil
          echoed = echoed + 1
          assert(square:remote(i) == i * i)
        end
        socket:close()
      end
      local clients = {}
      for i = 1, 5 do clients[i] = tidepool.async(client) end

      local n = 0
      for i, v in square:map(tidepool.range(1, 1 / 0)) do -- endless: ends only if the echoes go on meanwhile
        n = n + 1
        if echoed >= 25 and n >= 1000 then break end
      end
      map_is_done = true
      print "map done"
      tidepool.gather(clients)
      print("echoed " .. echoed)
      server:close()
    ]])
  end)

  it("timers go on while the script waits for a call, a map, a sleep and a gather", function()
    prints("true true true true\n", [[
      local ticks = 0
      local timer = uv.new_timer()
      timer:start(0, 1, function() ticks = ticks + 1 end)
      local function goes_on(wait)
        local before = ticks
        repeat wait() until ticks > before
        return "true"
      end
      print(table.concat({
        goes_on(function() slow:remote(1) end),
        goes_on(function() slow:map({ 1, 2, 3 }):list() end),
        goes_on(function() tidepool.sleep(0.002) end),
        goes_on(function() tidepool.gather(slow:spawn(1), slow:spawn(2)) end),
      }, " "))
      timer:close()
    ]])
  end)

  it("callbacks may call, map, sleep and gather: they are tasks", function()
    prints("timer\t49\t1,4,9\t16\n5 ticks meanwhile\n", [[
      local ticks = 0
      local ticking, timer = uv.new_timer(), uv.new_timer()
      ticking:start(0, 1, function() ticks = ticks + 1 end)
      timer:start(1, 0, function()
        local seven = square:remote(7)
        local list = square:map({ 1, 2, 3 }):list()
        local before = ticks
        while ticks < before + 5 do tidepool.sleep(0.001) end
        print("timer", seven, table.concat(list, ","), (tidepool.gather(square:spawn(4))))
        print "5 ticks meanwhile"
        ticking:close()
        timer:close()
      end)
      uv.run()
    ]])
  end)

  it("uv.run runs until no handle and no task is left", function()
    prints("tick 1\ntick 2\nfalse\ntask\nfalse\n", [[
      local timer, n = uv.new_timer(), 0
      timer:start(1, 1, function()
        n = n + 1
        print("tick " .. n)
        if n == 2 then timer:close() end
      end)
      print(uv.run())
      tidepool.async(function()
        slow:remote(1)
        tidepool.sleep(0.001)
        print "task"
      end)
      print(uv.run "default")
    ]])
  end)

  it("uv.run once and nowait, uv.stop, uv.loop_alive and uv.walk do what they do", function()
    prints("true true\n1\ntrue\nfalse\nuv_timer_t\nfalse\n", [[
      local timer, n = uv.new_timer(), 0
      assert(uv.loop_alive() == false)
      timer:start(1, 1, function() n = n + 1 end)
      print(tostring(uv.run "nowait") .. " " .. tostring(uv.loop_alive()))
      while n == 0 do uv.run "once" end
      timer:stop()
      print(n)
      timer:start(1, 1, function() uv.stop() end)
      print(uv.run())
      timer:stop()
      print(uv.run())
      uv.walk(function(handle)
        print((tostring(handle):match "^[%w_]+"))
        handle:close()
      end)
      print(uv.run())
    ]])
  end)

  it("a folder whose entries are kept does not matter at the end", function()
    prints("true\n", [[
      entries = require("luv").fs_scandir("DIR")
      print(entries ~= nil)
    ]])
  end)

  it("files can be read in tasks", function()
    prints("directory\tfile\nhello\n", [[
      tidepool.async(function()
        local _, dir = await(uv.fs_stat, "DIR")
        local _, file = await(uv.fs_stat, "DIR/hello")
        print(dir.type, file.type)
        local _, fd = await(uv.fs_open, "DIR/hello", "r", 0)
        local _, text = await(uv.fs_read, fd, 100, 0)
        await(uv.fs_close, fd)
        print(text)
      end):get()
    ]], { files = { hello = "hello" } })
  end)

  it("lines of a socket can be the inputs of a map whose answers they wait for", function()
    prints("1 4 9 16 25\n", [[
      local server, answers = uv.new_tcp(), {}
      server:bind("127.0.0.1", 0)
      server:listen(1, function()
        local peer, x = uv.new_tcp(), 1
        server:accept(peer)
        peer:write(tostring(x))
        peer:read_start(function(_, chunk) -- the next number goes out when the answer to the last has come
          answers[#answers + 1] = chunk
          x = x + 1
          if x > 5 then peer:close() else peer:write(tostring(x)) end
        end)
      end)
      tidepool.async(function()
        local socket = uv.new_tcp()
        await(socket.connect, socket, "127.0.0.1", server:getsockname().port)
        local function numbers()
          local err, chunk = await(socket.read_start, socket)
          socket:read_stop()
          return not err and chunk and tonumber(chunk) or nil
        end
        for _, v in square:map(numbers) do socket:write(tostring(v)) end
        socket:close()
      end):get()
      server:close()
      print(table.concat(answers, " "))
    ]])
  end)

  it("a call's on_done runs while only luv's handles are waited for", function()
    prints("called back\t9\n", [[
      local timer = uv.new_timer()
      timer:start(60000, 0, function() end)
      square:spawn(3):on_done(function(call)
        print("called back", (call:get()))
        timer:close()
      end)
      uv.run()
    ]])
  end)

  it("an error in a callback is shown at once; the others go on, and the exit code is 1", function()
    local done = run [[
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        timer:close()
        error "in the timer"
      end)
      uv.run()
      io.stderr:write "after\n"
      print(square:remote(3))
    ]]
    assert.equal(1, done.code)
    assert.equal("9\n", done.stdout)
    contains(done.stderr, "tidepool: error in a callback: ", "job.lua:", "in the timer", "stack traceback:", "1 callback failed: see above")
    assert.is_true(done.stderr:find "in the timer" < done.stderr:find "after")
  end)

  it("timers go on while many tasks have become able to go on", function()
    prints("true\n", [[
      local event, ticks = tidepool.event(), 0
      local timer = uv.new_timer()
      timer:start(1, 1, function() ticks = ticks + 1 end)
      local tasks, first, last = {}, nil, nil
      for i = 1, 50 do
        tasks[i] = tidepool.async(function()
          event:get()
          first = first or ticks
          local until_then = tidepool.now() + 0.001
          repeat until tidepool.now() > until_then
          last = ticks
        end)
      end
      event:set()
      tidepool.gather(tasks)
      timer:close()
      print(last > first)
    ]])
  end)

  it("a task's wait for a callback, by an event, ends when gather cancels it", function()
    prints("ohno\ncancelled\ntidied up\n", [[
      local server, socket = uv.new_tcp(), uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(1, function() end) -- never answers
      local waits = tidepool.async(function()
        local answered = tidepool.event()
        socket:connect("127.0.0.1", server:getsockname().port, function()
          socket:read_start(function(...) answered:set(...) end)
        end)
        local _, why = pcall(answered.get, answered)
        print(why.kind)
        socket:close()
        server:close()
        print "tidied up"
      end)
      local fails = tidepool.async(function()
        tidepool.sleep(0.01)
        print "ohno"
        error "ohno"
      end)
      pcall(tidepool.gather, waits, fails)
      tidepool.loop()
    ]])
  end)

  it("a wait that cannot yield inside a callback is an error that says so", function()
    local done = run [[
      local timer = uv.new_timer()
      timer:start(1, 0, function()
        timer:close()
        print(pcall(function() local s = ("x"):gsub("x", function() return (slow:remote(1)) end) return s end))
        print(coroutine.wrap(function() return (slow:remote(1)) end)())
        print(pcall(uv.run))
      end)
      uv.run()
      tidepool.async(function() print(pcall(uv.run)) end)
      print(pcall(uv.run, "never"))
    ]]
    assert.equal("", done.stderr)
    local lines = {}
    for line in done.stdout:gmatch "[^\n]+" do lines[#lines + 1] = line end
    contains(lines[1], "false", "job.lua:", "in a task nothing can wait inside gsub, a function in C")
    assert.equal("1", lines[2])
    contains(lines[3], "false", "job.lua:", "uv.run: the loop runs already")
    contains(lines[4], "false", "job.lua:", "uv.run: the loop runs already")
    contains(lines[5], "false", 'expected "default", "once" or "nowait"')
  end)

  it("may be required first, in a task, in a coroutine, or never", function()
    for _, require_it in ipairs { "require 'luv'", "tidepool.async(require, 'luv'):get()", "coroutine.wrap(function() require 'luv' end)()" } do
      local output = output_of([[
        local tidepool = require "tidepool"
        ]] .. require_it .. [[
        collectgarbage()
        collectgarbage()
        local uv = require "luv"
        local timer = uv.new_timer()
        timer:start(1, 0, function()
          print(tidepool.App("t"):func(function(x) return x end):remote(1))
          timer:close()
        end)
        uv.run()
      ]])
      assert.equal("1\n", output)
    end
  end)

  it("is not found where it is not", function()
    local done = run [[
      package.loaded.luv = nil
      package.cpath = "/nowhere/?.so"
      print(pcall(require, "luv"))
    ]]
    contains(done.stdout, "false", "module 'luv' not found", "/nowhere/luv.so")
  end)

  it("in a mapped function is a luv of its own", function()
    prints("true\ttick\n", [[
      local f = app:func(function()
        local luv = require "luv"
        local timer, text = luv.new_timer(), nil
        timer:start(1, 0, function()
          text = "tick"
          timer:close()
        end)
        luv.run()
        luv.loop_close()
        return text
      end)
      local timer = uv.new_timer()
      timer:start(1, 1, function() end)
      local text = f:remote()
      print(timer:is_active(), text)
      timer:close()
    ]])
  end)

  it("leaves nothing open at the end, whatever is still active", function()
    for name, source in pairs {
      ["an active timer"] = "uv.new_timer():start(1e6, 0, print)",
      ["a closing timer"] = "local t = uv.new_timer() t:start(1e6, 0, print) t:close()",
      ["a closing timer with a callback"] = "uv.new_timer():close(print)",
      ["a dropped timer"] = "uv.new_timer() collectgarbage() collectgarbage()",
      ["a server and a connection"] = [[
        local s = uv.new_tcp() s:bind("127.0.0.1", 0) s:listen(1, function() end)
        local c = uv.new_tcp() c:connect("127.0.0.1", s:getsockname().port, function() end)
        tidepool.sleep(0.01) c:read_start(print) c:write("x") ]],
      ["requests on their way"] = "for _ = 1, 20 do uv.fs_stat('/tmp', print) end",
      ["a timer after uv.run"] = "local t = uv.new_timer() t:start(1, 0, function() end) uv.run() t:start(1e6, 0, print)",
      ["a callback that waits"] = [[
        local t = uv.new_timer() t:start(1, 0, function() tidepool.sleep(0.05) io.stdout:write "" end) tidepool.sleep(0.01) ]],
      ["tasks that wait for it"] = [[
        local t = uv.new_timer() local task = tidepool.async(function() await(t.start, t, 1e6, 0) end) t:close() task:cancel() ]],
    } do
      local done = run(source .. "\nuv.stop() io.stderr:write(tidepool._VERSION and '' or 'x')")
      local expected = name == "tasks that wait for it" and 1 or 0
      assert.same({ name, expected, "" }, { name, done.code or -done.signal, done.stdout })
      if expected == 0 then assert.equal("", done.stderr) end
    end
  end)

  it("may be left by os.exit in a callback, also when the state is to be closed", function()
    for code, call in pairs { [3] = "os.exit(3)", [4] = "os.exit(4, true)" } do
      local done = run("local t = uv.new_timer() t:start(1, 0, function() " .. call .. " end) uv.run()")
      assert.same({ code, "" }, { done.code or -done.signal, done.stderr })
    end
  end)

  it("is ended by Ctrl-C while it runs", function()
    local done = run [[
      local server = uv.new_tcp()
      server:bind("127.0.0.1", 0)
      server:listen(1, function() end)
      os.execute("(sleep 0.1; kill -INT $PPID) </dev/null >/dev/null 2>&1 &")
      uv.run()
    ]]
    assert.same({ 2, "tidepool: interrupted\n" }, { done.signal, done.stderr })
  end)
end)

describe("A script's end, and tidepool.loop,", function()
  local function outcome(code)
    local done = support.run_script(code, { seconds = 240 })
    assert.is_false(done.timed_out, "the script did not end")
    return { done.code, done.stdout, done.stderr }
  end
  local server = [[
    local uv = require "luv"
    local listener = uv.new_tcp()
    listener:bind("127.0.0.1", 0)
    listener:listen(8, function()
      local peer = uv.new_tcp()
      listener:accept(peer)
      peer:read_start(function(_, data)
        if data then return io.write("got ", data) end
        peer:close()
        listener:close()
        print "closed"
      end)
    end)
    uv.new_timer():start(20, 0, function()
      local client = uv.new_tcp()
      client:connect("127.0.0.1", listener:getsockname().port, function()
        client:write("hello\n", function() client:shutdown(function() client:close() end) end)
      end)
    end)
  ]]

  it("wait for active handles, as uv.run would", function()
    assert.same({ 0, "got hello\nclosed\n", "" }, outcome(server))
    assert.same({ 0, "got hello\nclosed\nend\n", "" }, outcome("local tidepool = require 'tidepool'" .. server .. "tidepool.loop() print 'end'"))
  end)

  it("do not wait for those that are not active, or do not count, nor once uv.stop was called", function()
    assert.same({ 0, "end\n", "" }, outcome [[
      local uv = require "luv"
      local timer, idle = uv.new_timer(), uv.new_tcp()
      timer:start(1e6, 1e6, print)
      timer:unref()
      print "end"
    ]])
    assert.same({ 0, "3\n", "" }, outcome [[
      local uv, n = require "luv", 0
      uv.new_timer():start(1, 1, function()
        n = n + 1
        if n == 3 then print(n) uv.stop() end
      end)
    ]])
  end)

  it("leave handles to a script that has run the loop itself", function()
    assert.same({ 0, "end\n", "" }, outcome [[
      local uv = require "luv"
      uv.new_timer():start(1, 0, function() uv.stop() end)
      uv.new_timer():start(1e6, 0, print)
      uv.run()
      print "end"
    ]])
  end)
end)
