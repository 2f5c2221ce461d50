--- What can go wrong in a cluster (not stock: it is the program): whatever dies, is restarted or
-- comes late, each input has its one result, right and in order.

local lfs = require "lfs"
local support = require "tests.support"
local cluster = require "tests.support_cluster"

local contains = support.contains

-- Maps N inputs, each of which takes MS milliseconds, notes in the file PATH that some of it is
-- done, and says what has failed. BODY is run by the inputs before that.
local map = [[
  local ffi = require "ffi"
  ffi.cdef "int getpid(void);"
  require "tests.support".note("PATH.pid", ffi.C.getpid())
  local tidepool = require "tidepool"
  local app = tidepool.App "job"
  local f = app:func { name = "f", crash_retries = 0 } (function(x)
    local support = require "tests.support"
    local ffi = require "ffi"
    if not pcall(ffi.typeof, "tidepool_faults") then
      ffi.cdef "typedef int tidepool_faults; int kill(int, int); int getpid(void); int getppid(void);"
    end
    BODY
    support.sleep(MS / 1000)
    return x * 2
  end)
  local inputs = {}
  for i = 1, N do inputs[i] = i end
  local n, failed = 0, {}
  for i, value in f:map(inputs, { return_exceptions = true }) do
    n = n + 1
    assert(i == n, "out of order")
    if type(value) == "number" then assert(value == 2 * i, "wrong") else failed[#failed + 1] = i .. ":" .. value.kind end
    if n == 20 then require "tests.support".note("PATH", "begun") end
  end
  print(n, table.concat(failed, " "))]]

describe("a map on a cluster", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own, forgetful

  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  --- Starts the map, on another cluster than `own` when one is given. `begun()` waits until some of
  --- it is done.
  local function start(n, ms, body, on)
    local path = support.temp_path()
    local source = map:gsub("N do", n .. " do"):gsub("MS", ms):gsub("PATH", path):gsub("BODY", body or "")
    local script = (on or own):start(source)
    function script.kill()
      os.execute("kill -KILL " .. support.read_file(path .. ".pid"))
    end
    function script.begun()
      support.eventually("the map has begun", function() return support.read_file(path) end)
    end
    return script
  end

  local function is_right(script, n, failed)
    local said, status, errors = script.done()
    assert.same({ n .. "\t" .. (failed or "") .. "\n", 0 }, { said, status }, errors)
    return errors
  end

  -- What a worker runs for a script that is dead. The last of these specs sees that it is
  -- forgotten, which takes most of a minute.
  setup(function()
    forgetful = cluster.up()
    forgetful:worker(1)
    local path = support.temp_path()
    local script = start(10, 1, ([[support.note(%q, "runs") while true do support.sleep(1) end]]):format(path), forgetful)
    support.eventually("it runs", function() return support.read_file(path) end)
    script.kill()
  end)
  teardown(function() forgetful:down() end)

  it("waits for workers, and says so, and uses those that come in the middle", function()
    local script = start(200, 5)
    support.eventually("it says that nobody is there", function()
      return (support.read_file(script.dir .. "/err") or ""):find("no worker is at " .. own.url, 1, true)
    end)
    own:worker(1)
    script.begun()
    own:worker(2)
    is_right(script, 200)
  end)

  it("loses only the input whose worker process dies", function()
    own:worker(2)
    is_right(start(100, 1, "if x == 33 or x == 66 then ffi.C.kill(ffi.C.getpid(), 9) end"), 100, "33:crash 66:crash")
  end)

  it("goes on when a worker is killed with all that it runs", function()
    local first = own:worker(2)
    own:worker(1)
    local script = start(400, 10)
    script.begun()
    own:kill(first, "KILL")
    is_right(script, 400)
  end)

  it("goes on when a worker leaves, which ends what it has begun", function()
    local first = own:worker(2)
    own:worker(1)
    local script = start(300, 10)
    script.begun()
    own:kill(first, "TERM")
    support.eventually("the worker has ended", function() return not own:is_alive(first) end)
    is_right(script, 300)
    contains(own:said(first), "leaves when what runs is over")
  end)

  it("takes the first result when a worker was only stopped, and comes back with a second one", function()
    local first = own:worker(1)
    own:worker(1)
    local script = start(60, 100)
    script.begun()
    own:kill(first, "STOP")
    support.sleep(6)
    own:kill(first, "CONT")
    is_right(script, 60)
  end)

  it("goes on when the server is killed and started again", function()
    own:worker(2)
    local script = start(400, 10)
    script.begun()
    own:kill_server()
    own:up_again()
    is_right(script, 400)
  end)

  it("goes on when the server is started again without its disk", function()
    own:worker(2)
    local script = start(400, 10)
    script.begun()
    own:kill_server()
    os.execute("rm -rf " .. own.dir .. "/streams")
    own:up_again()
    is_right(script, 400)
  end)

  it("blames the one input that kills its workers, after five of them", function()
    local is_over = false
    local function keep_workers()
      local alive = 0
      for _, worker in ipairs(own.workers) do
        if own:is_alive(worker) then alive = alive + 1 end
      end
      for _ = alive + 1, 2 do own:worker(1) end
    end
    keep_workers()
    local script = start(60, 1, "if x == 31 then ffi.C.kill(ffi.C.getppid(), 9) support.sleep(60) end")
    support.eventually("the map is over", function()
      keep_workers()
      is_over = (support.read_file(script.dir .. "/status") or ""):find "\n"
      return is_over
    end, 240)
    is_right(script, 60, "31:crash")
    -- some more died while nobody knew yet which of several inputs it was
    assert.is_true(#own.workers >= 7 and #own.workers <= 15, #own.workers)
  end)

  it("is forgotten by the workers when its script is killed", function()
    local done = forgetful:run [[print(require "tidepool".App("job"):func(function(x) return x end):remote(4))]]
    assert.equal("4\n", done.stdout)
  end)
end)

describe("a cluster's worker", function()
  if not cluster.is_possible() then return end
  local own

  setup(function() own = cluster.up() end)
  teardown(function() own:down() end)

  it("is refused by name when it is of another build", function()
    local other = support.temp_path()
    local text = support.read_file(support.binary)
    local version = require("tidepool")._VERSION:match "[%d.]+"
    local changed = version:sub(1, -2) .. (version:sub(-1) == "9" and "8" or "9")
    support.write_file(other, (text:gsub(version:gsub("%.", "%%."), changed)))
    os.execute("chmod +x " .. other)
    local worker = own:worker(1, other)
    local path = support.temp_path()
    local done = own:run(([[
      local f = require "tidepool".App("job"):func(function(x) require "tests.support".note(%q, "ran") return x end)
      print(select(2, pcall(f.remote, f, 1)))]]):format(path), { setup = "cd " .. lfs.currentdir() })
    contains(done.stdout, "no worker of the cluster is of this build (Tidepool " .. version,
      io.popen("uname -n"):read "*l" .. " is Tidepool " .. changed)
    assert.is_nil(support.read_file(path))
    own:kill(worker, "KILL")
  end)

  it("that can start no process gives its work back, and says why", function()
    local bad = {}
    for i, more in ipairs { 0, 6, 12, 15 } do -- so many descriptors it may open yet
      bad[i] = own:worker(2)
      local fds = 0
      for _ in lfs.dir(("/proc/%d/fd"):format(bad[i].pid)) do fds = fds + 1 end
      cluster.capture(("prlimit --pid %d --nofile=%d:%d"):format(bad[i].pid, fds - 2 + more, fds - 2 + more))
    end
    local script = own:start [[
      local f = require "tidepool".App("job"):func(function(x) return x * 2 end)
      print(unpack(f:map({ 1, 2, 3, 4 }):list()))]]
    support.eventually("one says so", function()
      for _, worker in ipairs(bad) do
        if own:said(worker):find "gives back: .*open files" then return true end
      end
    end)
    support.eventually("the script says so", function()
      return (support.read_file(script.dir .. "/err") or ""):find "cannot run its work: .*open files"
    end)
    local good = own:worker(1)
    local said, status, errors = script.done()
    assert.same({ "2\t4\t6\t8\n", 0 }, { said, status }, errors)
    for _, worker in ipairs(bad) do own:kill(worker, "KILL") end
    own:kill(good, "KILL")
  end)

  --- The build, as workers show it.
  local function build_of(worker)
    local said = own:speak("coordinator", "SUB tp1.d.hb.* 1\r\n", " Tidepool")
    return assert(said:match "tp1%.d%.hb%.%x+ 1 %d+\r?\n(%x+) ", said .. own:said(worker))
  end

  it("drops what was not signed by its coordinator, and goes on", function()
    local worker = own:worker(1)
    local source = [[print(require "tidepool".App("job"):func(function(x) return x end):remote(4))]]
    assert.equal("4\n", own:run(source).stdout) -- the streams are there now
    local session, build = ("ab"):rep(16), build_of(worker)
    local function send(number, bytes)
      own:speak("coordinator", cluster.publish(("tp1.d.w.%s.%s.%d.1"):format(build, session, number), bytes))
    end
    send(1, "rubbish")
    send(2, ("\0"):rep(2000))
    local key = own:engine "token":match "%.%x+%.(%x+)":gsub("%x%x", function(byte) return string.char(tonumber(byte, 16)) end)
    send(3, ("\0"):rep(64) .. "TPWORK1\0" .. key .. ("\0"):rep(2000))
    support.eventually("all three were dropped", function() return own:said(worker):find("3 so far", 1, true) end)
    contains(own:said(worker), "it is too short", "it is no work", "its signature is wrong")
    assert.equal("4\n", own:run(source).stdout)
    own:kill(worker, "KILL")
  end)

  it("cannot publish work, nor listen to others, nor do anything with streams", function()
    local said = own:speak("worker", table.concat {
      cluster.publish("tp1.d.w.x.y.1.1", "work"), cluster.publish("tp1.d.ctl.all", "hello"), "SUB tp1.d.r.> 1\r\n", "SUB _TPC.> 2\r\n",
      cluster.publish("$JS.API.STREAM.DELETE.TP1_d_W", ""), cluster.publish("$JS.API.STREAM.PURGE.TP1_d_R", "") })
    for _, subject in ipairs { "tp1.d.w.x.y.1.1", "tp1.d.ctl.all", "tp1.d.r.>", "_TPC.>", "$JS.API.STREAM.DELETE.TP1_d_W",
      "$JS.API.STREAM.PURGE.TP1_d_R" } do
      assert.is_truthy(said:find(("Permissions Violation for [SP]%%l+ to %q"):format((subject:gsub("%p", "%%%0")))), said)
    end
    contains(own:speak("coordinator", cluster.publish("$JS.API.STREAM.DELETE.TP1_d_W", "")), "Permissions Violation")
  end)

  --- Starts a script that maps one input, whose chunk the spec itself pulls, as a worker -> the
  -- script, its session.
  local function pull_work()
    local worker = own:worker(1)
    local build = build_of(worker)
    own:kill(worker, "KILL")
    local script = own:start [[
      print(select(2, pcall(function()
        return require "tidepool".App("job"):func({ name = "f", crash_retries = 0 }, function(x) return x end):map({ 1 }):list()[1]
      end)))]]
    local session
    local inbox = own:inbox "worker"
    local pull = ("SUB %s.spec.> 1\r\nPUB $JS.API.CONSUMER.MSG.NEXT.TP1_d_W.P_%s %s.spec.p 11\r\n{\"batch\":1}\r\n"):format(inbox, build, inbox)
    support.eventually("the work is there", function()
      session = own:speak("worker", pull, "^MSG tp1.d.w"):match "MSG tp1%.d%.w%.%x+%.(%x+)%.0%.1 "
      return session
    end)
    return script, session
  end

  --- An answer (tp_answer) to that chunk whose records are rubbish, from that run (below 256) of a
  -- worker.
  local function rubbish(run)
    return "\1\0\0\0\0\0\0\0\8\0\0\0\0\0\0\0" .. ("\0"):rep(56) .. "\1" .. ("\0"):rep(23) .. string.char(run) .. ("\0"):rep(31) .. ("\255"):rep(8)
  end

  it("is not believed when its result is rubbish", function()
    local script, session = pull_work()
    own:speak("worker", cluster.publish(("tp1.d.r.%s.0.0.1"):format(session), rubbish(1)))
    local said, status = script.done()
    assert.equal(0, status)
    contains(said, "a worker of the cluster cannot be used", "nonsense")
  end)

  it("may run work twice, and what one run has given is no part of what the other has", function()
    local script, session = pull_work()
    -- tp_early: chunk 0, from 0, sending 1, end 1, of the worker's first run
    local early = ("\0"):rep(16) .. "\1\0\0\0\1\0\0\0" .. ("\0"):rep(16) .. "\1" .. ("\0"):rep(7)
    own:speak("worker", cluster.publish(("tp1.d.r.%s.early"):format(session), early) ..
      cluster.publish(("tp1.d.r.%s.0.0.1"):format(session), rubbish(2)))
    own:worker(1)
    local said, status = script.done()
    assert.same({ "1\n", 0 }, { said, status })
  end)
end)
