--- What happens on a cluster's workers is seen where the script runs (not stock: the program).

local cjson = require "cjson"
local devices = require "tests.support_device"
local reader = require "tests.trace_reader"
local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("What happens on a cluster's workers", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own, host

  before_each(function()
    own = cluster.up()
    host = cluster.capture "uname -n":match "%S+"
  end)
  after_each(function() own:down() end)

  --- Runs a script -> its trace, the data of its report, what it printed.
  local function run(source)
    local script = own:start([[local tidepool = require "tidepool"
      local app = tidepool.App "job"
    ]] .. source, nil, "--report DIR/r.html --trace DIR/t.json")
    local out, status, errors = script.done()
    assert.same({ "", 0 }, { errors, status })
    local data = support.read_file(script.dir .. "/r.html"):match '<script type="application/json" id="data">\n(.-)</script>'
    return reader.read(script.dir .. "/t.json"), cjson.decode(data), out
  end

  --- The name of the track of an event.
  local function track_of(trace, e)
    return trace:one({ name = "thread_name", pid = e.pid, tid = e.tid }).args.name
  end

  local on_pocl = devices.on_pocl(it, pending)
  on_pocl("is in the trace, the report and the times: compilers and devices", function()
    local caches = support.temp_dir()
    local gate = caches .. "/gate" -- the compiler waits until the progress has said that it is at work
    own:worker(1, nil, ("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl TIDEPOOL_OPENCL=%s FAULTS_BUILD_GATE=%s"):format(caches, caches,
      devices.faults(), gate))
    local trace, report, out = run(("local gate = %q\n"):format(gate) .. [[
      local f = app:func { gpu = "cpu", name = "polish" } (function(x) return math.sin(x) * math.exp(-x) + x ^ 1.5 end)
      local compiles = false
      local r = f:map(tidepool.range(5000), { times = true, progress = function(state)
        if state.is_compiling and not compiles then
          compiles = true
          io.open(gate, "w"):close()
        end
      end })
      r:sum()
      assert(compiles)
      for _, b in ipairs(r:times().builds) do
        assert(b.seconds > 0 and b.device == 0 and #b.name > 0)
        print(b.how, b.host)
      end]])
    assert.equal(("compiled\t%s\nlaunched\t%s\n"):format(host, host), out)
    local compile = trace:all({ cat = "build", name = "compile polish" })
    assert.equal(2, #compile)
    assert.equal("compiled, and kept", compile[1].args.how)
    assert.equal(("cluster %s: compiler"):format(host), track_of(trace, compile[1]))
    assert.equal(("cluster %s 1"):format(host), track_of(trace, compile[2]))
    local kernels, items = trace:all { cat = "device", name = "polish" }, 0
    for _, e in ipairs(kernels) do
      assert.matches(("^cluster %s %%d+: by the device's clock$"):format(host:gsub("%p", "%%%0")), track_of(trace, e))
      items = items + e.args.items
    end
    assert.equal(5000, items)
    local found
    for _, each in ipairs(report.findings) do found = each.kind == "compiling" and each or found end
    support.contains(found.text, "1 compiled, 0 read", "'polish'")
  end)

  it("is in the trace: spans, marks and maps of items, in the time of their item", function()
    own:worker(2)
    local trace, _, out = run [[
      local inner = app:func { name = "inner" } (function(x) tidepool.sleep(0.002) return x end)
      local f = app:func { name = "outer" } (function(x)
        tidepool.mark("seen", "by " .. x)
        return tidepool.span("step", function() return inner:map({ x, x }):sum() end)
      end)
      print(f:map({ 1, 2 }):sum())]]
    assert.equal("6\n", out)
    local marks = trace:all { cat = "event", name = "seen" }
    assert.equal(2, #marks)
    for _, e in ipairs(trace:all { cat = "span", name = "step" }) do
      assert.matches("^cluster .* %d$", track_of(trace, e))
    end
    assert.equal(2, #trace:all { cat = "span", name = "step" })
    assert.equal(2, #trace:all { cat = "map", ph = "b", name = "inner" })
  end)

  it("is counted where it is too much", function()
    own:worker(1)
    local trace, report = run [[
      local f = app:func(function(x)
        for i = 1, 600 do tidepool.mark("m" .. i % 10) end
        return x
      end)
      assert(f:map({ 1, 2 }):sum() == 3)]]
    local missing, there = 0, 0
    for _, e in ipairs(trace:all { cat = "event", name = "left out" }) do
      missing = missing + tonumber(e.args.what:match "^(%d+) events of it are missing")
    end
    for i = 0, 9 do there = there + #trace:all { cat = "event", name = "m" .. i } end
    assert.same({ true, true, 1200 }, { missing > 0, there > 0, missing + there })
    assert.equal(missing, report.lost)
  end)

  it("is no more in bytes than all workers together may tell, however many chunks there are", function()
    own:worker(2)
    -- 1,000 others are there: each may tell 1 KiB in 100 ms
    local beats = {}
    for i = 1, 1000 do beats[i] = cluster.publish(("tp1.d.hb.%04x%028x"):format(i, i), "0 0 other _TPW.x 30000 other") end
    local source = [[
      local f = app:func(function(x) for i = 1, 8 do tidepool.mark "m" end return x end)
      f:remote(0)
      print "begins"
      io.stdout:flush()
      while not io.open(GATE) do tidepool.sleep(0.02) end
      local n = 0
      for _ = 1, 300 do n = n + #f:map(tidepool.range(8)):list() end
      print(n)]]
    local gate = support.temp_path()
    local script = own:start("local tidepool = require 'tidepool'\nlocal app = tidepool.App 'job'\n" ..
      source:gsub("GATE", ("%q"):format(gate)), nil, "--report DIR/r.html --trace DIR/t.json")
    support.eventually("the script has begun", function() return (support.read_file(script.dir .. "/out") or ""):find "begins" end)
    own:speak("worker", table.concat(beats))
    support.sleep(0.5)
    local heard = support.temp_path()
    local listener = own:listen("coordinator", "tp1.d.r.*.happened", heard)
    local begun = support.now()
    support.write_file(gate, "")
    local out, status, errors = script.done()
    local seconds = support.now() - begun
    listener()
    assert.same({ "begins\n2400\n", 0, "" }, { out, status, errors })
    local bytes, messages = 0, 0
    for size in (support.read_file(heard) or ""):gmatch "MSG tp1%.d%.r%.%x+%.happened %d+ (%d+)" do
      bytes, messages = bytes + tonumber(size), messages + 1
    end
    assert.is_true(messages > 0)
    assert.is_true(bytes <= (seconds / 0.1 + 2) * 1024 + 64 * 1024, ("%d bytes in %d messages in %.1f s"):format(bytes, messages, seconds))
    local trace = reader.read(script.dir .. "/t.json")
    local missing, there = 0, #trace:all { cat = "event", name = "m" }
    for _, e in ipairs(trace:all { cat = "event", name = "left out" }) do
      missing = missing + tonumber(e.args.what:match "^(%d+) events of it are missing")
    end
    assert.equal(8 * 2401, missing + there)
  end)

  it("is over with the item that it is in, where its end is too much to tell", function()
    own:worker(1)
    local trace, report = run [[
      local inner = app:func { name = "inner" } (function(x) tidepool.sleep(0.0005) return x end)
      local f = app:func { name = "outer" } (function(x)
        for i = 1, 400 do inner:map({ i }):sum() end
        return x
      end)
      for i = 1, 4 do assert(f:map({ i }):sum() == i) end]]
    local ends, of = {}, {}
    for _, e in ipairs(trace:all { cat = "map", ph = "e", name = "inner" }) do ends[e.id] = e.ts end
    local items = trace:all { cat = "items", name = "outer #1" }
    assert.equal(4, #items)
    for _, e in ipairs(trace:all { cat = "map", ph = "b", name = "inner" }) do
      local is_inside = false
      for _, item in ipairs(items) do is_inside = is_inside or e.ts >= item.ts and ends[e.id] <= item.ts + item.dur + 0.001 end
      assert.is_true(is_inside, ("map %s: %.3f to %.3f"):format(e.id, e.ts, ends[e.id]))
    end
    for _, each in ipairs(report.functions) do of[each.name] = each end
    assert.is_true(report.lost > 0)
    assert.equal(4, of.outer.items)
    assert.is_true(of.outer.seconds <= report.seconds)
    assert.is_true(of.inner.items <= of.inner.maps, of.inner.items .. " of " .. of.inner.maps)
  end)
end)
