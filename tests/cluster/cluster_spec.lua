--- Clusters (not stock: workers and scripts are the program): the engine's command, what scripts
-- see of workers elsewhere, and what they are told when something is wrong.

local lfs = require "lfs"
local support = require "tests.support"
local cluster = require "tests.support_cluster"

local contains = support.contains

describe("tidepool engine", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end

  it("starts a server for one user, shows it, and ends it", function()
    local own = cluster.up()
    finally(function() own:down() end)
    contains(own:engine "up", "runs already", own.url, "tidepool worker --engine " .. own.url)
    local said, status = own:engine "status"
    contains(said, own.url, "0 workers")
    assert.equal(0, status)
    for _, name in ipairs { "nats.conf", "worker.token", "coordinator.token" } do
      assert.equal("rw-------", lfs.attributes(own.dir .. "/" .. name, "permissions"))
    end
    local worker, coordinator = own:engine "token", own:engine "token --coordinator"
    assert.is_truthy(worker:find "^tpw1%.%x+%.%x+\n$" and coordinator:find "^tpc1%.%x+%.%x+\n$")
    own:worker(3)
    contains(own:engine "status", "3 at once", "Tidepool")
    assert.equal(0, select(2, own:engine "down"))
    said, status = own:engine "status"
    assert.equal(1, status)
    contains(said, "No engine")
    own:up_again() -- with the same port and the same tokens
    local port = own.port % 1000 + 31000
    own:engine "down"
    contains(own:engine("up --monitor 127.0.0.1:" .. port), "The engine runs")
    own:engine "token --for one" -- which has the server read its configuration again
    local ask = [[timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%d; printf "GET /jsz?streams=1 HTTP/1.0\r\n\r\n" >&3; cat <&3']]
    contains(io.popen(ask:format(port)):read "*a", "200 OK")
    contains(own:engine "status", own.url)
    assert.equal(worker, (own:engine "token"))
  end)

  it("says what is wrong with a wrong use", function()
    local dir = support.temp_dir()
    local function engine(words)
      local pipe = io.popen(("%s engine %s --dir %s 2>&1; echo $?"):format(support.binary, words, dir))
      local text = pipe:read "*a"
      pipe:close()
      return text
    end
    contains(engine "", "what is it to do?", "\n2\n")
    contains(engine "fly", "up, status, token, gc or down, not fly", "\n2\n")
    contains(engine "up --listen example.org:4222", "ADDRESS:PORT", "not example.org:4222", "\n2\n")
    contains(engine "up --listen x", "ADDRESS:PORT, as 127.0.0.1:4222", "not x", "\n2\n")
    contains(engine "up --fast", "does not know --fast", "\n2\n")
    contains(engine "token", "there is no engine", "\n1\n")
    contains(engine "down", "no engine of", "\n1\n")
  end)
end)

describe("what a killed script has left", function()
  if not cluster.is_possible() then return end

  it("is removed by tidepool engine gc, and nothing of a script that runs", function()
    local own = cluster.up()
    finally(function() own:down() end)
    own:worker(2)
    local path = support.temp_path()
    own:start(([[
      local support, ffi = require "tests.support", require "ffi"
      ffi.cdef "int getpid(void);"
      local f = require "tidepool".App "job":func(function(x) if x == 1 then return 1 end while true do end end)
      for i in f:map { 1, 2 } do support.note(%q, ffi.C.getpid()) end]]):format(path))
    support.eventually("the map has begun", function() return support.read_file(path) end)
    contains(own:engine "gc", "Removed: 0 messages of 0 scripts", "1 script that runs")
    os.execute("kill -KILL " .. support.read_file(path))
    contains(own:engine "gc", "of 1 script that is gone, 1 consumer", "0 scripts that run")
    contains(own:engine "gc", "Removed: 0 messages", "0 scripts that run")
    assert.equal("4\n", own:run [[print(require "tidepool".App "job":func(function(x) return x end):remote(4))]].stdout)
    own:engine "down"
    contains(own:engine "gc", "no engine of")
  end)
end)

describe("a script on a cluster", function()
  if not cluster.is_possible() then return end
  local own

  setup(function()
    own = cluster.up()
    own:worker(2)
    own:worker(1)
  end)
  teardown(function() own:down() end)

  --- Runs a script that must succeed in silence; gives what it printed.
  local function output_of(source, options)
    local done = own:run('local tidepool = require "tidepool"\nlocal app = tidepool.App "job"\n' .. source, options)
    assert.same({ code = 0, stderr = "" }, { code = done.code or ("signal " .. tostring(done.signal)), stderr = done.stderr })
    return done.stdout
  end

  it("has its functions run by the workers when they name no executor, and by others when they do", function()
    assert.equal("1\tcluster\n2\tinline\n", output_of [[
      local function where(x) return x, tidepool.current().executor end
      print(app:func(where):remote(1))
      print(app:func({ executor = "inline" }, where):remote(2))]])
  end)

  it("gets large inputs, captured values and results, whole", function()
    assert.equal("ok\n", output_of [[
      local big, list = ("x"):rep(3e6), {}
      for i = 1, 2e5 do list[i] = i * 1.5 end
      local f = app:func(function(text) return #text + #big + list[2e5], (text .. big):sub(1, 2500000) end)
      for i, n, text in f:map { ("a"):rep(1e6), ("b"):rep(2e6), "c" } do
        local input = ({ ("a"):rep(1e6), ("b"):rep(2e6), "c" })[i]
        assert(n == #input + 3e6 + 3e5 and text == (input .. big):sub(1, 2500000))
      end
      print "ok"]])
  end)

  it("gives and gets typed arrays as copies", function()
    assert.equal("1\t10\t2\n55\t110\n6\n", output_of [[
      local xs = tidepool.array("double", 10)
      for i = 1, 10 do xs[i] = i end
      local f = app:func(function(a) a[2] = 20 return a, a[1] end)
      local copy, first = f:remote(xs)
      print(first, #copy, xs[2])
      local sum = app:func(function(a) local s = 0 for i = 1, #a do s = s + a[i] + xs[i] * 0 end return s end)
      local twice = app:func { returns = "double" } (function(x) return 2 * x end):map(xs):array()
      print(sum:remote(xs), sum:remote(twice))
      print(app:func(function() return xs[1] + xs[2] + xs[3] end):remote())]])
  end)

  it("sees what workers print, with their hosts where that is asked for", function()
    local source = [[app:func(function(x) print("line " .. x) io.stderr:write("words\n") return x end):map({ 1, 2, 3 }):list()]]
    local done = own:run('local app = require "tidepool".App "job"\n' .. source)
    assert.equal(0, done.code)
    for i = 1, 3 do contains(done.stdout, "line " .. i .. "\n") end
    contains(done.stderr, "words\nwords\nwords\n")
    local host = io.popen("uname -n"):read "*l"
    done = own:run('local app = require "tidepool".App "job"\n' .. source, { flags = { "--engine", own.url, "--log=tag" } })
    assert.is_truthy(done.stdout:find(host:gsub("%p", "%%%0") .. " w%d #1| line 1\n"), done.stdout)
  end)

  it("sends short work to a worker directly, beside the server's streams", function()
    local stored = ("SUB _TPC.spec.> 1\r\nPUB $JS.API.STREAM.INFO.TP1_d_W _TPC.spec.1 0\r\n\r\n")
    local function count() return tonumber(own:speak("coordinator", stored, "stream_info_response"):match '"last_seq":(%d+)') or 0 end
    local before = count()
    own:run [[
      local f = require "tidepool".App "job":func(function(x) return -x end)
      for i = 1, 400 do assert(f:remote(i) == -i) end]]
    local n = count() - before
    assert.is_true(n > 0 and n < 400, n)
  end)

  it("has workers show themselves less often when they are thousands", function()
    local seen = support.temp_path()
    local script = own:start(([[
      local app = require "tidepool".App "job"
      app:func(function() require "tests.support".wait_for(%q) end):remote()
      print "done"]]):format(seen))
    local shown = {}
    for i = 1, 4000 do shown[i] = cluster.publish(("tp1.d.hb.%032x"):format(i * 7919), "x 1 agent _TPW.x 1000 pretended") end
    local beat
    support.eventually("they are asked for that", function()
      own:speak("worker", table.concat(shown))
      beat = own:speak("coordinator", "SUB tp1.d.hb.* 1\r\n", " Tidepool"):match "\n%x+ %d+ %S+ %S+ (%d+) Tidepool"
      return beat and tonumber(beat) > 1000
    end, 60)
    assert.is_true(tonumber(beat) <= 2002, beat) -- in the measure in which they were seen at once
    support.note(seen, "yes")
    assert.equal("done\n", (script.done()))
  end)

  it("runs no more items at once than a limit says, over all workers", function()
    local path = support.temp_path()
    output_of(([[
      local f = app:func { concurrency_limit = 2 } (function(path)
        local support = require "tests.support"
        support.note(path, "+")
        support.sleep(0.01)
        support.note(path, "-")
      end)
      local inputs = {}
      for i = 1, 40 do inputs[i] = %q end
      f:for_each(inputs)]]):format(path), { setup = "cd " .. lfs.currentdir() })
    assert.equal(80, #support.notes(path))
    local most = support.most_at_once(path)
    assert.is_true(most >= 1 and most <= 2, tostring(most))
  end)

  --- A folder with these files, in which workers do not run.
  local function folder_with(files)
    local dir = support.temp_dir()
    lfs.mkdir(dir .. "/lib")
    for name, text in pairs(files) do support.write_file(dir .. "/" .. name, text) end
    return dir
  end

  it("brings its own modules along, as they are at the moment, also those that only a function requires", function()
    local dir = folder_with {
      ["lib/one.lua"] = 'local two = require "lib.two" return { twice = function(x) return two.add(x, x) end }',
      ["lib/two.lua"] = "return { add = function(a, b) return a + b end }",
      ["lib/late.lua"] = 'local one = require("lib.one")\nreturn function(x)\n  if not x then error "no x" end\n  return one.twice(x) + 1\nend',
    }
    local source = [[
      local one = require "lib.one"
      local function late(x) return require "lib.late" (x) end
      local twice, more = app:func(function(x) return one.twice(x) end), app:func(function(x) return late(x) end)
      print(twice:remote(4), more:remote(4))
      local _, why = pcall(more.remote, more)
      print((tostring(why):gsub("\n.*", "")))
      print(select("#", unpack(twice:map({ 1, 2, 3 }):list())))]]
    assert.equal("8\t9\n./lib/late.lua:3: no x\n3\n", output_of(source, { setup = "cd " .. dir }))
    support.write_file(dir .. "/lib/two.lua", "return { add = function(a, b) return a + b + 100 end }")
    assert.equal("108\t109\n./lib/late.lua:3: no x\n3\n", output_of(source, { setup = "cd " .. dir }))
  end)

  it("is told which module is missing on which host", function()
    local dir = folder_with {}
    -- the part before "-" does not count for the name of its C function
    assert(os.execute(("cp %s %s/own-lfs.so"):format(assert(package.searchpath("lfs", package.cpath)), dir)) == 0)
    local said = output_of([[
      package.cpath = "./?.so;" .. package.cpath
      local own = require "own-lfs"
      local captures, requires = app:func(function() return own.currentdir() end), app:func(function() return require "own-lfs" end)
      local none = app:func(function() return require "lib.none" end)
      for _, f in ipairs { captures, requires, none } do print(select(2, pcall(f.remote, f))) end
      print(app:func(function(x) return x end):remote(4))]], { setup = "cd " .. dir })
    local host = io.popen("uname -n"):read "*l"
    contains(said, ('module "own-lfs" is not to be found on %s: C modules, and what is installed, must be on the workers\' machines'):format(host),
      ("'own-lfs' is looked for on %s, where"):format(host), ("'lib.none' is looked for on %s, where"):format(host), "\n4\n")
  end)

  it("draws the random numbers, and has classes and reductions, as on this machine", function()
    local source = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "job"
      local roll = app:func(function(x) return x + math.random() + math.random(100) end)
      local nested = app:func(function(x) return roll:map({ x, x + 1 }):sum() end)
      local shake = app:func { batched = 4 } (function(xs) for i = 1, #xs do xs[i] = math.random() end return xs end)
      math.randomseed(42)
      local texts = {}
      for _, f in ipairs { roll, nested, shake } do
        for _, value in f:map(tidepool.range(20)) do texts[#texts + 1] = ("%.17g"):format(value) end
      end
      local again = app:func { retries = 2 } (function(x)
        local draw = math.random()
        if tidepool.current().attempt < 2 then error "again" end
        return draw
      end)
      for _, value in again:map { 1, 2, 3 } do texts[#texts + 1] = ("%.17g"):format(value) end
      local Model = app:cls {
        enter = function(self) self.entered = (self.entered or 0) + 1 end,
        predict = function(self, x) return x * self.factor + self.entered end,
      }
      local two, three = Model { factor = 2 }, Model { factor = 3 }
      texts[#texts + 1] = two.predict:map(tidepool.range(30)):sum() .. " " .. three.predict:remote(4)
      local use = app:func(function(x) return two.predict(x) + Model { factor = 5 }.predict(x) end)
      texts[#texts + 1] = use:map({ 1, 2 }):sum()
      local r = roll:map(tidepool.range(1000))
      texts[#texts + 1] = ("%.10g %.10g"):format(r:min(), app:func(function(x) return x, -x end):map(tidepool.range(50)):max())
      texts[#texts + 1] = ("%.10g"):format(roll:map(tidepool.range(100)):reduce(function(a, b) return a + b end, 0))
      print(table.concat(texts, "\n"))]]
    local there = own:run(source)
    assert.same({ "", 0 }, { there.stderr, there.code })
    assert.equal(support.output_of(source), there.stdout)
  end)

  it("keeps what it has in a journal, as on this machine", function()
    local journal = support.temp_path()
    local source = ('local f = app:func { name = "f" } (function(x) return x * 2 end) print(unpack(f:map({ 1, 2, 3 }, { journal = %q }):list()))')
      :format(journal)
    assert.equal("2\t4\t6\n", own:run('local app = require "tidepool".App "job"\n' .. source).stdout)
    local done = own:run('local app = require "tidepool".App "job"\n' .. source)
    assert.equal("2\t4\t6\n", done.stdout)
    contains(done.stderr, "3")
  end)

  it("ends at once what runs on workers when it fails or is over", function()
    local path = support.temp_path()
    local done = own:run(([[
      local app = require "tidepool".App "job"
      local f = app:func(function(x)
        if x == 1 then require "tests.support".wait_for(%q) error "no" end
        local file = io.open(%q, "w")
        file:close()
        while true do end
      end)
      print(select(2, pcall(function() return f:map({ 1, 2 }):list() end)))
      print(app:func(function(x) return x + 1 end):remote(1))]]):format(path, path), { setup = "cd " .. lfs.currentdir() })
    contains(done.stdout, "no", "\n2\n")
    -- all three slots are free again
    local dir = support.temp_dir()
    assert.equal("3\n", output_of(([[
      local support = require "tests.support"
      local meet = app:func(function(me)
        support.note("%s/" .. me, "here")
        for i = 1, 3 do support.wait_for("%s/" .. i) end
        return me
      end)
      print(#meet:map({ 1, 2, 3 }):list())]]):format(dir, dir), { setup = "cd " .. lfs.currentdir() }))
  end)
end)

describe("a script without what a cluster needs", function()
  local function said(flags, environment)
    local done = support.run_script([[
      local app = require "tidepool".App "job"
      print(select(2, pcall(function() return app:func { executor = "cluster" } (function(x) return x end):map({ 1 }):list() end)))
      print(app:func { executor = "inline" } (function(x) return x end):remote(3))]],
      { flags = flags, setup = "unset TIDEPOOL_ENGINE TIDEPOOL_TOKEN\nexport TIDEPOOL_ENGINE_DIR=/nowhere\n" .. (environment or "") })
    assert.same({ 0, "" }, { done.code, done.stderr })
    contains(done.stdout, "\n3\n")
    return done.stdout
  end
  local token = ("tpc1.%s.%s"):format(("0"):rep(64), ("1"):rep(64))

  it("is told what to do", function()
    contains(said {}, "needs an engine", "tidepool engine up", "--engine URL")
    contains(said { "--engine", "nats://127.0.0.1:9" }, "no token", "TIDEPOOL_TOKEN")
    contains(said({ "--engine", "nats://127.0.0.1:9" }, "export TIDEPOOL_TOKEN=" .. token), "no engine at nats://127.0.0.1:9")
    local function with(text) return said({ "--engine", "nats://127.0.0.1:9" }, "export TIDEPOOL_TOKEN=" .. text) end
    contains(with(token:gsub("tpc1", "tpw1")), "a worker's, and this needs a coordinator's")
    contains(with "secret", "none that `tidepool engine token` has shown")
  end)

  it("is told by the engine that its token is another's", function()
    if not cluster.is_possible() then return pending "nats-server is not installed" end
    local own = cluster.up()
    finally(function() own:down() end)
    contains(said({ "--engine", own.url }, "export TIDEPOOL_TOKEN=" .. token), "refuses the token")
  end)

  it("is told so as a worker, too", function()
    local function worker(words, environment)
      local pipe = io.popen(("env -u TIDEPOOL_ENGINE -u TIDEPOOL_TOKEN TIDEPOOL_ENGINE_DIR=/nowhere %s %s worker %s 2>&1; echo $?"):format(
        environment or "", support.binary, words))
      local text = pipe:read "*a"
      pipe:close()
      return text
    end
    contains(worker "", "--engine nats://HOST:4222", "\n2\n")
    contains(worker "--engine nats://127.0.0.1:9", "no token", "\n2\n")
    contains(worker "x", "does not know x", "\n2\n")
    contains(worker("--engine nats://127.0.0.1:9", "TIDEPOOL_TOKEN=" .. token), "a coordinator's, and this needs a worker's", "\n2\n")
    contains(worker("--engine nats://127.0.0.1:9", "TIDEPOOL_TOKEN=" .. token:gsub("tpc1", "tpw1")), "no engine at", "\n1\n")
  end)
end)

describe("A script on a cluster", function()
  if not cluster.is_possible() then return end

  it("keeps no functions that it has no more, nor do workers", function()
    local own = cluster.up()
    finally(function() own:down() end)
    local worker = own:worker(1)
    local said, status, errors = own:start(([[
      local tidepool, support, ffi = require "tidepool", require "tests.support", require "ffi"
      ffi.cdef "int malloc_trim(size_t);"
      local app = tidepool.App "job"
      local function call(n)
        for i = 1, n do assert(app:func { name = "f" } (function(x) return x + i end):remote(1) == 1 + i) end
        collectgarbage()
        collectgarbage()
        ffi.C.malloc_trim(0)
      end
      local function rss(pid) return tonumber(support.read_file("/proc/" .. pid .. "/status"):match "VmRSS:%%s*(%%d+)") / 1024 end
      call(support.times(900)) -- so many may be kept, in case they come again
      local here, there = rss "self", rss(%d)
      call(support.times(1500))
      if support.sanitized then return print "fine" end
      here, there = rss "self" - here, rss(%d) - there
      print(here < 5 and there < 4 and "fine" or ("%%g MiB more, %%g MiB more in the worker"):format(here, there))]])
      :format(worker.pid, worker.pid)).done()
    assert.same({ "fine\n", 0 }, { said, status }, errors)
  end)
end)
