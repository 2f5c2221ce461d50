--- What is seen of devices: one that does not come back, and what was compiled, in results:times(),
--- the progress, the report and the trace (not stock: it is the program that writes these).

local assert = require "luassert"
local cjson = require "cjson"
local devices = require "tests.support_device"
local reader = require "tests.trace_reader"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local on_pocl = devices.on_pocl(it, pending)

--- The findings of a report, by their kinds.
local function findings(path)
  local data = support.read_file(path):match '<script type="application/json" id="data">\n(.-)</script>'
  local found = {}
  for _, each in ipairs(cjson.decode(data).findings) do found[each.kind] = each end
  return found
end

-- A device that stalls for ever in one of many maps, and what the script sees of it.
local STALL = [[
  local ffi = require "ffi"
  local tidepool = require "tidepool"
  ffi.cdef "void faults_stall(int ms, int blocks); int faults_stalled(void);"
  local faults = ffi.load(os.getenv "TIDEPOOL_OPENCL")
  local f = tidepool.App():func { gpu = "auto", name = "work" } (function(x)
    local s = x
    for i = 1, 50 do s = s * 0.5 + i end
    return s
  end)
  local seen
  local function map()
    seen = nil
    local results = f:map(tidepool.range(200000), { times = true, progress = function(state) seen = state.lost or seen end })
    results:sum()
    return results:times()
  end
  local began, times = tidepool.now(), nil
  repeat
    times = map()
    local ran = times.device:sum()
    assert(times.lost:max() == 0 and not seen)
  until ran > 0 or tidepool.now() - began > 120
  faults.faults_stall(0, 1)
  repeat times = map() until faults.faults_stalled() > 0 or tidepool.now() - began > 240
  local lost = 0
  for i = 1, 200000 do
    lost = lost + (times.lost[i] > 0 and 1 or 0)
    assert(times.lost[i] == 0 or times.lost[i] == 1 and times.device[i] == 0)
  end
  print(lost > 0, seen.inputs == lost, seen.device == tidepool.devices()[1].name)
]]

describe("A device that does not come back", function()
  on_pocl("is in the times, the progress, the report and the trace", function()
    local done = shell.run(("TIDEPOOL_OPENCL=%s $T --trace t.json --report r.html job.lua"):format(devices.faults()), { ["job.lua"] = STALL })
    assert.equal("true\ttrue\ttrue\n", done.stdout, done.stderr)
    local n = done.stderr:match "^tidepool: work: [^\n]+ has not come back from (%d+) inputs?, which threads have run instead; [^\n]+\n$"
    assert.is_string(n, done.stderr)
    local found = findings(done.dir .. "/r.html").hanging
    assert.equal("work", found["function"])
    support.contains(found.text:gsub(",(%d%d%d)", "%1"), "A device hangs: ", (" has not come back from %s input"):format(n), "threads have run")
    local lost = reader.read(done.dir .. "/t.json"):all { cat = "event", name = "lost" }
    assert.equal(1, #lost)
    support.contains(lost[1].args.what, ("it has not come back from %s items"):format(n))
  end)

  on_pocl("is in the line on the terminal", function()
    local script = STALL:gsub("progress = function.-end }", "progress = nil }"):gsub("seen%.[^\n]*", "true)")
    local done = shell.run(("TIDEPOOL_OPENCL=%s $T --progress=json job.lua"):format(devices.faults()), { ["job.lua"] = script })
    assert.equal("true\ttrue\n", done.stdout, done.stderr)
    local n = tonumber(done.stderr:match "has not come back from (%d+) input")
    local shown = 0
    for count in done.stderr:gmatch '"lost":(%d+)' do shown = math.max(shown, tonumber(count)) end
    assert.equal(n, shown, done.stderr)
  end)
end)

describe("results:times().builds", function()
  on_pocl("has what was compiled for the map, or read, for which device and how long", function()
    local caches = support.temp_dir()
    local words = ("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl $T job.lua"):format(caches, caches)
    local function run()
      local done = shell.run(words, { ["job.lua"] = [[
        local tidepool = require "tidepool"
        local app = tidepool.App("compiled", { gpu = true })
        local polish = app:func { name = "polish" } (function(x) return math.sin(x) * math.exp(-x) + x ^ 1.5 end)
        local function builds(read)
          local results, hows = polish:map(tidepool.range(5000), { times = true }), {}
          read(results)
          local times = results:times()
          for _, b in ipairs(times.builds) do
            assert(b.seconds > 0 and b.device == 1)
            if b.how == "launched" then assert(b.seconds <= times.duration:sum()) end
            hows[#hows + 1] = b.how
            print(b.how)
          end
          return hows[#hows]
        end
        local function list(results) results:list() end
        local function sum(results) results:sum() end
        builds(list)
        print "-"
        builds(list)
        print "-"
        -- the device sums up where it is asked within 100 us: on a loaded machine not at once
        for _ = 1, 1000 do
          if builds(sum) == "launched" then break end
        end
        print "-"
        builds(sum)
        print "-"
        for _ = 1, 1 do
          local results = app:func { gpu = { "no such", "threads" } } (function(x) return x end):map({ 1 }, { times = true })
          results:list()
          assert(#results:times().builds == 0)
        end
      ]] })
      assert.same({ 0, "" }, { done.code, done.stderr })
      return done.stdout
    end
    assert.equal("compiled\nlaunched\n-\n-\ncompiled\nlaunched\n-\n-\n", run())
    assert.matches("^read\n.-%-\n%-\nread\n.-%-\n%-\n$", run())
  end)

  on_pocl("has what was compiled inside of items that wait beside those of a map without times", function()
    local caches = support.temp_dir()
    local done = shell.run(("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl $T -w 1 job.lua"):format(caches, caches), { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "beside"
      local polish = app:func { gpu = true } (function(x) return math.sin(x) + 5 end)
      local f = app:func { executor = "processes", concurrent_inputs = 2 } (function(queue, begun)
        begun:put(true)
        queue:get()
        return #polish:map(tidepool.range(20)):list()
      end)
      local begun, one, other = tidepool.Queue(), tidepool.Queue(), tidepool.Queue()
      local timed = f:map({ one }, { begun }, { times = true })
      begun:get()
      local plain = f:map({ other }, { begun })
      begun:get()
      one:put(true)
      timed:list()
      other:put(true)
      plain:list()
      print(timed:times().builds[1].how)
    ]] })
    -- (stderr says that compiling has kept the worker)
    assert.same({ 0, "compiled\n" }, { done.code, done.stdout }, done.stderr)
  end)

  on_pocl("has what was compiled inside of its items, on each executor, and of the maps around them", function()
    local caches = support.temp_dir()
    local done = shell.run(("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl $T job.lua"):format(caches, caches), { ["job.lua"] = [[
      local tidepool = require "tidepool"
      local app = tidepool.App "inside"
      local name = tidepool.devices()[1].name
      local own = { -- programs that are not the same
        threads = function(x) return math.sin(x) + 1 end,
        processes = function(x) return math.sin(x) + 2 end,
        inline = function(x) return math.sin(x) + 3 end,
      }
      for _, executor in ipairs { "threads", "processes", "inline" } do
        local polish = app:func { gpu = true, name = "polish" } (own[executor])
        local by_hand = app:func { executor = executor, gpu = true, name = "by_hand" } (function(x)
          return require "tidepool".gpu.device():kernel("__kernel void k(__global int *a) { a[0] = " .. x .. "; }") and x
        end)
        local inner = app:func { executor = executor, name = "inner" } (function(n) return #polish:map(tidepool.range(n)):list() end)
        local outer = app:func { executor = executor, name = "outer" } (function(n) return inner:map({ n }):sum() end)
        for _, f in ipairs(executor == "processes" and { outer, by_hand } or { outer }) do
          local results = f:map({ 20 }, { times = true })
          results:list()
          local hows = {}
          for _, b in ipairs(results:times().builds) do
            assert(b.device == 1 and b.seconds > 0 and b.name == name and not b.host)
            hows[#hows + 1] = b.how
          end
          print(executor, table.concat(hows, " "))
          assert(f:map({ 20 }):sum() == 20)
        end
      end
    ]] })
    assert.same({ 0, "" }, { done.code, done.stderr })
    local rows = {}
    for executor, hows in done.stdout:gmatch "(%a+)\t([^\n]*)\n" do rows[#rows + 1] = executor .. ": " .. hows:gsub(" ?launched", "") end
    assert.same({ "threads: compiled", "processes: compiled", "processes: compiled", "inline: compiled" }, rows, done.stdout)
  end)
end)
