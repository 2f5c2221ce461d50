--- --profile: where Lua time goes, in the script and all workers. (not stock: the program's option)

require "tidepool"
local flame = require "tidepool.program.flame"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains = support.contains

--- Three functions with the same loop. `work` tells how much CPU time its thread has spent in each.
local three = [[
local tidepool = require "tidepool"
local ffi = require "ffi"
ffi.cdef "typedef struct { long s, ns; } span; int clock_gettime(int, span *);"
local app = tidepool.App "three"
local sin = math.sin

local function cpu()
  local at = ffi.new "span"
  ffi.C.clock_gettime(3, at) -- CLOCK_THREAD_CPUTIME_ID
  return tonumber(at.s) + 1e-9 * tonumber(at.ns)
end

local function long(n)
  local s = 0
  for i = 1, n do s = s + sin(i) end
  return s
end

local function middle(n)
  local s = 0
  for i = 1, n do s = s + sin(i) end
  return s
end

local function short(n)
  local s = 0
  for i = 1, n do s = s + sin(i) end
  return s
end

local work = app:func(function(n)
  local a = cpu()
  long(6 * n)
  local b = cpu()
  middle(3 * n)
  local c = cpu()
  short(n)
  return b - a, c - b, cpu() - c
end)

local sums = { 0, 0, 0 }
local inputs = {}
for i = 1, 12 do inputs[i] = 1000000 end
for _, a, b, c in work:map(inputs) do sums[1], sums[2], sums[3] = sums[1] + a, sums[2] + b, sums[3] + c end
print(unpack(sums))
]]

--- The counts of a file of folded stacks, by their innermost function.
local function by_leaf(text)
  local counts, all = {}, 0
  for stack, count in text:gmatch "([^\n]+) (%d+)\n" do
    local leaf = stack:match "([^;]+)$"
    counts[leaf] = (counts[leaf] or 0) + count
    all = all + count
  end
  return counts, all
end


--- Runs a script with a profile; returns the file's text.
local function profiled(source, options, name)
  options = options or ""
  name = name or "p"
  local done = shell.run(("$T --workers 2 --profile %s %s job.lua"):format(name, options), { ["job.lua"] = source })
  assert.same({ code = 0, stderr = "" }, { code = done.code, stderr = done.stderr })
  return support.read_file(done.dir .. "/" .. name), done
end

describe("A profile", function()
  -- ThreadSanitizer keeps signals back until the thread calls libc, so compiled code has no samples
  local it = support.binary:find "tsan" and pending or it

  it("measures the shares of functions, in the compiled code of all workers at once", function()
    for _, executor in ipairs { "threads", "processes", "inline" } do
      local text, done = profiled(three, "--executor " .. executor)
      local counts, spent = by_leaf(text), { done.stdout:match "(%S+)%s+(%S+)%s+(%S+)" }
      local names = { "long (job.lua:13)", "middle (job.lua:19)", "short (job.lua:25)" }
      local all, counted = 0, 0
      for i, name in ipairs(names) do all, counted = all + spent[i], counted + (counts[name] or 0) end
      for i, name in ipairs(names) do
        local share, expected = 100 * (counts[name] or 0) / counted, 100 * spent[i] / all
        assert.is_true(math.abs(share - expected) < 5, ("%s on %s: %.1f %%, not %.1f %%\n%s"):format(name, executor, share, expected, text))
      end
      -- counts are milliseconds
      assert.is_true(counted > 700 * all and counted < 1300 * all, ("%s: %d ms of %.3f s\n%s"):format(executor, counted, all, text))
      contains(text, "workers;work (job.lua:31);long (job.lua:13) ")
    end
  end)

  it("sees functions that the compiler has put into their caller's loop", function()
    local counts, all = by_leaf(profiled [[
      local sin = math.sin
      local function large(x) return sin(x) + sin(x + 0.1) + sin(x + 0.2) + sin(x + 0.3) + sin(x + 0.4) + sin(x + 0.5) end
      local function small(x) return sin(x + 0.7) + sin(x + 0.8) end
      local s = 0
      for i = 1, 1e7 do s = s + large(i) + small(i) end]])
    assert.is_true((counts["large (job.lua:2)"] or 0) > all / 2 and (counts["small (job.lua:3)"] or 0) > all / 20)
  end)

  it("tells apart the script and the workers, and has our functions in one frame", function()
    local text = profiled [[
      local tidepool = require "tidepool"
      local app = tidepool.App "parts"
      local function spin(n) local s = 0 for i = 1, n do s = s + math.sin(i) end return s end
      local inner = app:func { name = "inner" } (function(n) local s = spin(n) return s end)
      local outer = app:func { name = "outer" } (function(n) local s = inner:map({ n, n }):sum() return s end)
      local tail = app:func { name = "tail" } (function(n) return spin(n) end)
      outer:map({ 1e7, 1e7 }):list()
      tail:map({ 1e7, 1e7 }):list()
      local list = {}
      for i = 1, 300000 do list[i] = i * 7919 % 300007 end
      table.sort(list, function(a, b) return a < b end)]]
    local stacks = {}
    for stack in text:gmatch "([^\n]+) %d+\n" do stacks[#stacks + 1] = stack end
    contains(text, "script;job.lua;[sort];job.lua:11 ", "workers;tail;spin (job.lua:3) ")
    assert.truthy(text:find("workers;outer (job.lua:5);tidepool;inner (job.lua:4);spin (job.lua:3) ", 1, true) or
      text:find("workers;inner (job.lua:4);spin (job.lua:3) ", 1, true), text)
    for _, stack in ipairs(stacks) do
      assert.falsy(stack:find("[tidepool]/", 1, true) or stack:find("tidepool;tidepool", 1, true), stack)
    end
  end)

  it("is a flame graph when its name ends in .svg or .html", function()
    local job = [[
      local function busy(n) local s = 0 for i = 1, n do s = s + math.sin(i) end return s end
      busy(2e7)]]
    local svg = profiled(job, "", "p.svg")
    assert.truthy(svg:find '^<svg class="flame" xmlns="http://www.w3.org/2000/svg"')
    assert.truthy(svg:find "<title>busy %(job.lua:1%): [%d.]+ m?s, [%d.]+ %%</title>", svg)
    local html = profiled(job, "", "p.html")
    assert.truthy(html:find "^<!DOCTYPE html>" and html:find("</svg>\n</body></html>\n", 1, true))
    contains(html, "busy (job.lua:1)")
  end)

  it("is written when the script fails, exits, or is interrupted, and of processes that are killed", function()
    local head = "local function busy(n) local s = 0 for i = 1, n do s = s + math.sin(i) end return s end\n"
    local function has(code, stderr, source, options)
      local done = shell.run("$T --quiet --workers 1 --profile p " .. (options or "") .. " job.lua", { ["job.lua"] = head .. source })
      assert.equal(code, done.code, done.stderr)
      if stderr then contains(done.stderr, stderr) end
      contains(support.read_file(done.dir .. "/p"), "busy (job.lua:1) ")
    end
    has(1, "job.lua:2: oops", "busy(2e7) error 'oops'")
    has(7, nil, "busy(2e7) os.exit(7)")
    has(7, nil, "busy(2e7) os.exit(7, true)")
    has(130, nil, "os.execute '(sleep 0.3; kill -INT $PPID) &' while true do busy(1e6) end")
    has(1, "input 1 ran for more than 2 s", [[
      local app = require "tidepool".App "stuck"
      local f = app:func { timeout = 2 } (function() while true do busy(1e6) end end)
      f:map({ 1 }):list()]])
  end)

  it("takes from worker processes what is a count of a stack, and nothing else", function()
    local text = profiled([[
      local tidepool = require "tidepool"
      local ffi = require "ffi"
      ffi.cdef "long write(int, const void *, size_t);"
      local f = tidepool.App "hostile":func { executor = "processes" } (function(text)
        local frame = ffi.new("struct { uint32_t kind, len; char bytes[?]; }", #text, 4, #text)
        ffi.copy(frame.bytes, text, #text)
        return tonumber(ffi.C.write(3, frame, 8 + #text)) == 8 + #text
      end)
      local long = ("x"):rep(40000)
      for _, fine in f:map { "workers;\1a.lua:1 7\n\n 8\nno count\nx \n9\nworkers;" .. long .. " 5\nx 99999999999999999999\nworkers;unended 4" } do
        assert(fine)
      end
      assert(f:remote "")]], "--executor threads")
    contains(text, "workers;a.lua:1 7\n", "(too many stacks to tell apart) 5\n")
    assert.falsy(text:find "no count" or text:find "999" or text:find "unended")
  end)

  it("is refused where its file cannot be written", function()
    shell.check({ code = 2, stderr = "tidepool: --profile needs a file, not nothing (try: tidepool --help)\n" }, "$T --profile")
    shell.check({ code = 1, stderr = "tidepool: cannot start: cannot write the profile a/b: No such file or directory\n" },
      "$T --profile a/b -e 'print(1)'")
    shell.check({ code = 0, stdout = "1\n", stderr = "tidepool: cannot write the profile /dev/full: No space left on device\n" },
      "$T --profile /dev/full -e 'print(1) local s = 0 for i = 1, 3e7 do s = s + math.sin(i) end'")
  end)
end)

describe("What is drawn of a profile", function()
  local lines = "workers;\1;pcall\1C;work\1F;\1a.lua:5 4\nscript;main\1a.lua:0;\1;pcall\1C;\1;f\1a.lua:3 10\n" ..
    "workers;\1;pcall\1C;\1;f\1a.lua:3;sort\1C;\1a.lua:9 5\nworkers;\1;g\1a.lua:3 2\nworkers;\1;\1 1\nworkers;\1a.lua:3 3\n"

  it("has a function under the name that it has most, ours once, and no frames without a name", function()
    assert.equal("script;a.lua;tidepool;f (a.lua:3) 10\nworkers;f (a.lua:3) 5\nworkers;f (a.lua:3);[sort];a.lua:9 5\n" ..
      "workers;tidepool 1\nworkers;work;a.lua:5 4\n", flame.render("p", lines, 0))
    assert.equal("(too many stacks to tell apart) 7\n", flame.render("p", "", 7))
    assert.equal("", flame.render("p", "", 0))
  end)

  it("is XML whatever files are called", function()
    local svg = flame.render("p.svg", 'script;a<b>&"c"\255\195\164\1<&>"\255.lua:3 10\n', 0)
    contains(svg, 'data-t="a&lt;b&gt;&amp;&quot;c&quot;?ä (&lt;&amp;&gt;&quot;?.lua:3)"')
    for name, rest in svg:gsub("<style>.-</style>", ""):gsub("<script>.-</script>", ""):gmatch "<(%a+)([^<>]*)" do
      assert.falsy(rest:gsub('"[^"]*"', ""):find '["&]', name .. rest)
    end
    assert.falsy(svg:match("<script>(.-)</script>"):find "[<&]")
    contains(flame.render("p.svg", "", 0), "</svg>")
  end)
end)
