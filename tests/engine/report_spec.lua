--- --report (not stock: it belongs to the program): what the page has, and what it says bounds a
-- run.
-- How the page looks and behaves is for scripts/check-report, which needs a browser.

local assert = require "luassert"
local cjson = require "cjson"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

local head = [[
local tidepool = require "tidepool"
local app = tidepool.App "reported"
local ffi = require "ffi"
ffi.cdef "int usleep(unsigned);"
local function nap(ms) ffi.C.usleep(ms * 1000) end
]]

--- Runs a script with a report, which must say nothing; gives the data of its page, and the page.
local function report(source, options)
  options = options or {}
  local done = shell.run(("$T %s --report r.html -w %s job.lua"):format(options.words or "", options.workers or 2), { ["job.lua"] = head .. source })
  assert.equal(options.code or 0, done.code)
  if not options.stderr then assert.equal("", done.stderr) end
  local page = support.read_file(done.dir .. "/r.html")
  local data = page:match '<script type="application/json" id="data">\n(.-)</script>'
  return cjson.decode(data), page, done
end

local function by_name(data, name)
  for i, f in ipairs(data.functions) do
    if f.name == name then return f, i - 1 end
  end
  error("no function " .. name .. " in " .. cjson.encode(data.functions))
end

--- The boxes of items of that function.
local function boxes(data, name)
  local _, index = by_name(data, name)
  local list = {}
  for _, track in ipairs(data.tracks) do
    for _, b in ipairs(track.boxes) do
      if b[1] == 0 and b[2] == index then
        list[#list + 1] = { begun = b[3], seconds = b[4], lane = b[5], first = b[6], count = b[7], input = b[8], worker = track.name }
      end
    end
  end
  return list
end

--- The findings by their kinds, and their kinds as a text. Those of all runs whose workers are busy
--- are left out, unless they are asked for; so are those that explain little, as a busy machine
--- may cause them.
local function findings(data, with_workers)
  local kinds, list = {}, {}
  for _, f in ipairs(data.findings) do
    local is_clear = f.kind == "failures" or f.weight >= 0.1
    if f.kind == "workers" or f.kind == "cores" then is_clear = with_workers end
    if is_clear then
      kinds[f.kind] = f
      list[#list + 1] = f.kind
    end
  end
  table.sort(list)
  return kinds, table.concat(list, " ")
end

describe("A report", function()
  it("has the items, functions and workers of a run, of whatever executor", function()
    for _, executor in ipairs { "inline", "threads", "processes" } do
      local data = report(([[
        local f = app:func { name = "f", executor = %q } (function(x) nap(3) if x.n == 7 then error "seven" end return x.n end)
        local inputs = {}
        for i = 1, 20 do inputs[i] = { n = i, file = "part-" .. i } end
        f:map(inputs, { return_exceptions = true }):list()
        f:remote(inputs[1])
        tidepool.span("outside", nap, 2)]]):format(executor))
      local f = by_name(data, "f")
      assert.same({ 21, 21, 1, 0, 2, executor }, { f.items, f.inputs, f.failures, f.retries, f.maps, f.group })
      assert.same({ 21, 1, 0, 2, 0 }, { data.items, data.failures, data.retries, data.maps, data.lost })
      assert.is_true(f.seconds >= 21 * 0.003 and f.longest >= 0.003 and f.longest <= f.seconds)
      assert.is_true(data.sum >= 21 * 0.003 and data.active > 0 and data.active <= data.seconds)
      assert.is_true(data.utilisation > 0 and data.utilisation <= 1.001, data.utilisation)
      local n, in_bins, known = 0, 0, 0
      for _, b in ipairs(boxes(data, "f")) do
        n = n + b.count
        contains(b.worker, executor)
        if b.input then
          known = known + 1
          assert.is_true(b.input == ('{n = %d, file = "part-%d"}'):format(b.first, b.first) or
            b.input == ('{file = "part-%d", n = %d}'):format(b.first, b.first), b.input)
        end
      end
      assert.is_true(known >= 15, "only " .. known .. " inputs are known")
      for _, count in ipairs(f.bins) do in_bins = in_bins + count end
      assert.same({ 21, 21 }, { n, in_bins })
      assert.is_true(#data.slowest > 0 and #data.slowest <= 20)
      for i = 2, #data.slowest do assert.is_true(data.slowest[i].seconds <= data.slowest[i - 1].seconds) end
      local spans = 0
      for _, b in ipairs(data.tracks[1].boxes) do spans = spans + (b[1] == 1 and b[2] == "outside" and 1 or 0) end
      assert.same({ "script", 1 }, { data.tracks[1].name, spans })
      contains(findings(data).failures.text, "1 of 21 inputs failed", "seven")
      local failed = data.failed[1]
      assert.same({ 1, "f", 7, 1, "error", false }, { #data.failed, failed["function"], failed.index, failed.attempt, failed.kind, failed.retried })
      contains(failed.message, "job.lua:", "seven")
      contains(failed.traceback, "traceback", "job.lua:")
      contains(failed.worker, executor)
    end
  end)

  it("shows nested maps inside of their items, and counts their time once", function()
    local data = report [[
      local inner = app:func { name = "inner" } (function(x) nap(5) return x end)
      local outer = app:func { name = "outer" } (function(x) return inner:map({ x, x + 1 }):sum() end)
      assert(outer:map({ 1, 2, 3 }):sum() == 15)]]
    local inner, outer = by_name(data, "inner"), by_name(data, "outer")
    assert.same({ 6, 3 }, { inner.items, outer.items })
    assert.is_true(outer.self < outer.seconds)
    local inside = 0
    for _, b in ipairs(boxes(data, "inner")) do
      for _, o in ipairs(boxes(data, "outer")) do
        if o.worker == b.worker and b.lane > o.lane and b.begun >= o.begun - 1e-6 and b.begun + b.seconds <= o.begun + o.seconds + 1e-6 then
          inside = inside + 1
          break
        end
      end
    end
    assert.is_true(inside > 0)
  end)

  it("has items that wait beside each other, in lanes", function()
    local data = report [[
      local f = app:func { name = "f", concurrent_inputs = 4 } (function(x) tidepool.sleep(0.02) return x end)
      assert(f:map(tidepool.range(40)):sum() == 820)]]
    local lanes, n = {}, 0
    for _, b in ipairs(boxes(data, "f")) do
      lanes[b.lane] = true
      n = n + b.count
    end
    assert.equal(40, n)
    assert.is_true(lanes[0] and lanes[3])
    assert.is_true(data.utilisation <= 1.001)
  end)

  it("needs nothing but itself, and what users have written in it stays text", function()
    local data, page = report [[
      local f = app:func { name = "f" } (function(x) nap(3) if x == 2 then error "</script><script>alert(1)</script>" end return x end)
      f:map({ "</script><b>\255\n\"", 2, ("long"):rep(100) }, { return_exceptions = true }):list()]]
    assert.is_nil(page:gsub("http://www%.w3%.org/2000/svg", ""):find "https?://")
    assert.is_nil(page:find "alert%(1%)</script>")
    assert.is_nil(page:find("<link rel=\"stylesheet", 1, true))
    local scripts = 0
    for _ in page:gmatch "</script>" do scripts = scripts + 1 end
    assert.equal(2, scripts)
    contains(findings(data).failures.text, "</script><script>alert(1)</script>")
    local inputs = {}
    for _, b in ipairs(boxes(data, "f")) do inputs[b.first] = b.input end
    assert.equal('"</script><b>\239\191\189\\n\\""', inputs[1])
    contains(inputs[3], '"longlong', "...")
    assert.is_true(#inputs[3] <= 96)
  end)

  it("stays small, however much runs", function()
    local n = support.times(2000000)
    local data, page = report(([[
      local f = app:func { name = "f" } (function(x) return x end)
      local g = app:func { name = "g", executor = "inline" } (function(x) return x end)
      assert(f:map(tidepool.range(%d)):sum() > 0)
      for i = 1, 2000 do g:remote(i) end]]):format(n))
    assert.same({ n, 2000 }, { by_name(data, "f").items, by_name(data, "g").items })
    assert.is_true(#page < 3000000)
  end)

  it("is written beside a trace, also one of the script's own, and after os.exit and an error", function()
    local source = [[
      local f = app:func { name = "f" } (function(x) return x end)
      local function sum(n) assert(f:map(tidepool.range(n)):sum() > 0) end
      sum(10)]]
    local data, _, done = report(source .. "\nos.exit(3)", { words = "--trace t.json", code = 3 })
    assert.equal(10, by_name(data, "f").items)
    contains(support.read_file(done.dir .. "/t.json"), '"name":"f')
    data, _, done = report(source .. [[
      local trace = tidepool.trace "own.json"
      print(select(2, pcall(tidepool.trace, "other.json")))
      sum(20)
      assert(trace:stop())
      sum(30)
      trace = tidepool.trace "again.json"
      sum(40)]])
    contains(done.stdout, "own.json is being written")
    assert.equal(100, by_name(data, "f").items)
    for name, n in pairs { own = 20, again = 40 } do
      assert.equal(n, require "tests.trace_reader".read(done.dir .. "/" .. name .. ".json"):items "f")
    end
    data = report(source .. "\nerror 'oops'", { code = 1, stderr = "not looked at" })
    assert.equal(10, by_name(data, "f").items)
  end)

  it("is written by tidepool map, too", function()
    local done = shell.run("seq 30 | $T map job.lua::f --report r.html", { ["job.lua"] = head .. [[
      app:func { name = "f" } (function(x) return x + 1 end)]] })
    assert.same({ 0, "" }, { done.code, done.stderr })
    local data = support.read_file(done.dir .. "/r.html"):match '<script type="application/json" id="data">\n(.-)</script>'
    assert.equal(30, by_name(cjson.decode(data), "f").items)
  end)

  it("says what is wrong with its file", function()
    shell.check({ code = 2, stderr = "tidepool: --report needs a file, not nothing (try: tidepool --help)\n" }, "$T --report")
    shell.check({ code = 1, stderr = "tidepool: cannot start: cannot write the report a/b: No such file or directory\n" },
      "$T --report a/b -e 'print(1)'")
    local full = "tidepool: cannot write the report /dev/full: No space left on device (it ends there; the script goes on)\n"
    shell.check({ stdout = "1\n", stderr = full }, "$T --report /dev/full -e 'print(1)'")
  end)

  it("of a script without maps has no findings", function()
    local data = report "print(1)"
    assert.same({ 0, 0, 0 }, { #data.findings, #data.functions, data.items })
  end)
end)

--- Each of these programs has one cause for its time, which is ten times clearer than any other.
describe("A report says that", function()
  it("the inputs are slow", function()
    local data = report [[
      local f = app:func { name = "f" } (function(x) return x end)
      local i = 0
      f:map(function() i = i + 1 if i <= 30 then nap(10) return i end end):list()]]
    local found, kinds = findings(data, true)
    assert.equal("inputs", kinds)
    assert.equal("f", found.inputs["function"])
    assert.truthy(found.inputs.text:find "they came at %d+%S* a second, and the %d? ?workers? could run [%d,]+ a second", found.inputs.text)
  end)

  it("the reader is slow, with a full window or without", function()
    for _, window in ipairs { "4", "nil" } do
      local data = report(([[
        local f = app:func { name = "f" } (function(x) return x end)
        for i, x in f:map(tidepool.range(60), { window = %s }) do nap(10) end]]):format(window))
      local found, kinds = findings(data, true)
      assert.equal("reader", kinds)
      contains(found.reader.text, window == "4" and "The window is full" or "all inputs were done and the script still took results")
    end
  end)

  it("later results wait for an earlier one", function()
    local data = report [[
      local f = app:func { name = "f" } (function(x) nap(x == 1 and 1000 or 1) return x end)
      f:map(tidepool.range(40), { window = 4 }):list()]]
    local found, kinds = findings(data)
    assert.equal("order", kinds)
    contains(found.order.advice, "ordered = false")
  end)

  it("concurrency_limit holds it back", function()
    local data = report [[
      local f = app:func { name = "f", concurrency_limit = 1 } (function(x) nap(10) return x end)
      f:map(tidepool.range(30)):list()]]
    local found, kinds = findings(data)
    assert.equal("limit", kinds)
    contains(found.limit.text, "concurrency_limit = 1")
  end)

  it("one long item comes last, what the longest first would save, and where no order helps", function()
    local program = [[
      local f = app:func { name = "f" } (function(x) nap(x.ms) return 1 end)
      local inputs = {}
      for i = 1, 60 do inputs[i] = { ms = 10 } end
      inputs[%d] = { ms = 1500 }
      f:map(inputs):list()]]
    local found, kinds = findings(report(program:format(61)))
    assert.equal("tail", kinds)
    contains(found.tail.text, "input 61 ({ms = 1500}) took 1.", "With the longest first", "% less")
    found, kinds = findings(report((program:format(1):gsub("1, 60", "2, 20"))))
    assert.equal("tail", kinds)
    contains(found.tail.text, "input 1 ({ms = 1500})")
    contains(found.tail.advice, "no order")
  end)

  it("encoding takes long, and of which captured value", function()
    local data = report([[
      local big, small = {}, { 1, 2, 3 }
      for i = 1, 200000 do big[i] = { i } end
      local f = app:func { name = "f" } (function(x) return big[x][1] + small[1] end)
      for i = 1, 10 do
        big[i] = { i + 1 }
        f:map({ 1, 2 }):sum()
      end]], { stderr = "not looked at" })
    local found = findings(data)
    assert.truthy(found.encoding, cjson.encode(data.findings))
    contains(found.encoding.text, "it was done 10 times", "the captured value 'big'", "MiB")
  end)

  it("there are too few workers, or processors", function()
    local program = [[
      local f = app:func { name = "f" } (function(x) nap(5) return x end)
      f:map(tidepool.range(60 * %d)):list()]]
    local data = report(program:format(1), { workers = 1 })
    local found = findings(data, true)
    if data.processors > 1 then
      contains(found.workers.text, "Too few workers: the worker (threads)", data.processors .. " processors")
      contains(found.workers.advice, "--workers " .. data.processors)
    end
    data = report(program:format(data.processors), { workers = data.processors })
    found = findings(data, true)
    contains(found.cores.text, "Too few processors")
  end)

  it("inputs are tried again", function()
    local data = report [[
      local f = app:func { name = "f", retries = 1 } (function(x)
        nap(2)
        if tidepool.current().attempt == 1 then error "the first attempt" end
        return x
      end)
      f:map(tidepool.range(40)):list()]]
    local found, kinds = findings(data)
    assert.equal("retries", kinds)
    contains(found.retries.text, "40 of 80 attempts failed", "the first attempt")
  end)

  for _, executor in ipairs { "threads", "processes" } do
    it("a call blocks in a function with concurrent_inputs, in " .. executor, function()
      local data = report(([[
        local f = app:func { name = "f", concurrent_inputs = 8, executor = %q } (function(x) nap(50) return x end)
        f:map(tidepool.range(30)):list()]]):format(executor), { stderr = "not looked at" })
      local found, kinds = findings(data)
      assert.matches("blocking", kinds)
      contains(found.blocking.text, "A call blocks", "concurrent_inputs")
    end)
  end
end)

describe("The example that is slow", function()
  it("has three findings, which the mended one has not", function()
    local root = os.getenv "PWD"
    local function found_in(name)
      local done = shell.run(("$T run %s/examples/%s.lua --report r.html"):format(root, name))
      assert.equal(0, done.code)
      local data = support.read_file(done.dir .. "/r.html"):match '<script type="application/json" id="data">\n(.-)</script>'
      local found = {}
      for _, f in ipairs(cjson.decode(data).findings) do found[f.kind .. " " .. f["function"]] = f.text end
      return found, done.stdout
    end
    local slow, printed = found_in "slow"
    contains(slow["inputs sum"], "The inputs are slow")
    contains(slow["encoding score"], "'weights'")
    contains(slow["tail count_primes"], "input 41 (1000001, 1500000)", "With the longest first")
    local mended, printed_then = found_in "mended"
    assert.equal(printed, printed_then)
    assert.same({}, { mended["inputs sum"], mended["encoding score"] })
    assert.is_nil((mended["tail count_primes"] or ""):find "input 41 ")
  end)
end)
