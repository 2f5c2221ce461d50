--- What a graphics card does: the parts of scripts/check-gpu, which runs each in a process of its
--- own, with a limit, and says what they are for.
---
---   tidepool bench/card.lua PART
---
--- $GPU is what `gpu = ...` takes; with $SMALL set, sizes are those of a processor that plays the
--- card; the part is to be over in $LIMIT_S seconds. Times are medians after one run that compiles;
--- shares, which have goals, are those of the fastest runs. $TIDEPOOL_PYTHON runs the peers. A
--- device without doubles computes in floats. The exit code is 1 when a result was wrong, or a
--- mistake was not told of; a goal that is not reached is only said.

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = ("%s/?.lua;%s/../tests/device/?.lua;"):format(here, here) .. package.path

local tidepool = require "tidepool"
local ffi = require "ffi"

local spec, is_small = os.getenv "GPU" or "gpu", os.getenv "SMALL" ~= nil
local card = tidepool.gpu.device(spec)
local real = card.fp64 and "double" or "float"
local app = tidepool.App("card", { gpu = spec, precision = not card.fp64 and "single" or nil })
local limit, started = tonumber(os.getenv "LIMIT_S" or 600), tidepool.now()
local floor, sqrt, sin, cos = math.floor, math.sqrt, math.sin, math.cos
local parts = {}

-- Small things
-- -----------------------------------------------------------------------------------------

local function size(large, small) return is_small and small or large end

--- The same for elements of which a part has `copies` arrays in the device's memory at once: fewer
--- where that is small.
local function room(large, small, copies)
  local n = floor(math.min(card.max_buffer, 0.6 * card.memory / copies) / ffi.sizeof(real))
  return math.min(size(large, small), n - n % 256)
end
local function say(...) print((...):format(select(2, ...))) end
local function device() return tidepool.gpu.device(spec) end

--- Seconds that a run takes: the median of `rounds`, after one that is not counted; and the
--- fastest.
local function time(run, rounds)
  local seconds = {}
  run()
  for i = 1, rounds or 5 do
    collectgarbage()
    collectgarbage()
    local began = tidepool.now()
    run()
    seconds[i] = tidepool.now() - began
  end
  table.sort(seconds)
  return seconds[math.ceil(#seconds / 2)], seconds[1]
end

--- A share as a text, with its goal, and whether that was reached.
local function with_goal(share, goal)
  local verdict = share > 1.1 and "more than can be: the machine was busy, measure again" or share >= goal and "reached" or "NOT REACHED"
  return ("%.2f (goal %g: %s)"):format(share, goal, verdict)
end

--- "right" where every step-th element is what plain Lua gives, or as near as `near` (0 for the
--- same; in floats, where the device has no doubles, `single`); else which is not.
local function verdict(got, want_of, step, near, single)
  near = card.fp64 and near or single
  jit.off(want_of)
  for i = 1, #got, step do
    local want = want_of(i)
    if not (math.abs(got[i] - want) <= near * math.max(1, math.abs(want))) then
      return ("WRONG: element %d is %.17g, should be %.17g"):format(i, got[i], want), false
    end
  end
  return "right", true
end

--- An array of n numbers that are not all the same.
local function numbers(n)
  local xs = tidepool.array(real, n)
  for i = 1, n do xs[i] = ((i - 1) % 1000) * 0.001 end
  return xs
end

--- The array in the device's memory.
local function resident(xs)
  local b = device():buffer(xs.ctype, #xs)
  b:write(xs)
  return b
end

--- Prints the milliseconds of what is ours, and then of each peer that runs here in what is left of
--- the time: what one prints.
local function beside_peers(what, n, seconds, more)
  say("%s: %.2f ms%s", what, seconds * 1e3, more or "")
  local peers, left = {}, math.max(1, floor(limit - (tidepool.now() - started) - 2))
  local done = tidepool.command { "timeout", "-k", "1", tostring(left), os.getenv "TIDEPOOL_PYTHON" or "python3", here .. "/peers/card.py", what,
    tostring(n), check = false }
  for name, ms in done.stdout:gmatch "(%S+) (%d%S*)" do peers[#peers + 1] = ("%s %.2f ms"):format(name, ms) end
  for trouble in done.stderr:gmatch "[^\n]+" do
    if trouble:find "^%a+: " and not trouble:find "ModuleNotFoundError" then peers[#peers + 1] = trouble end
  end
  if done.status == 124 then peers[#peers + 1] = ("no more in %d s"):format(left) end
  say("%s: peers: %s", what, #peers > 0 and table.concat(peers, ", ") or "none here")
end

--- What a run says in one line, and whether it ended as it should: `kind`, "no error", or that of
--- the failure.
local function try(what, kind, run)
  local fine, result = pcall(run)
  local is_failure = tidepool.is_failure(result)
  local text = tostring(is_failure and result.message or result):gsub("\n.*", "")
  local got = fine and "no error" or is_failure and result.kind or "error"
  say("%s: %s: %s%s", what, got, text, got ~= kind and (" (WRONG: expected %s)"):format(kind) or "")
  return got == kind
end

-- The parts
-- ----------------------------------------------------------------------------------------

--- Start to the first result: the second time with the program that was kept.
function parts.start()
  local began = tidepool.now()
  local f = app:func(function(x) return 2 * x + 1 end)
  local result = f:map({ 20 }):list()[1]
  local first = tidepool.now() - began
  say("first result after %.0f ms, a map of one number %.0f us, result %s", first * 1e3, time(function() f:map({ 3 }):list() end, 21) * 1e6,
    result == 41 and "right" or "WRONG")
  return result == 41
end

--- The sixty functions of tests/device/sixty.lua against plain Lua.
function parts.sixty()
  local sixty = require "sixty"
  if not card.fp64 then return say("left out: the card has no doubles, and floats are other numbers") end
  local count, tried, run, refused, wrong, failed = size(10000, 1000), 0, 0, 0, 0, 0
  for _, each in ipairs(sixty) do
    if tidepool.now() - started > 0.85 * limit then break end
    tried = tried + 1
    local lists, trouble = sixty.inputs(each.inputs, count), nil
    local arguments = { unpack(lists) }
    arguments[#arguments + 1] = { return_exceptions = true }
    jit.on()
    local fine, results = pcall(function()
      local all = {}
      for i, a, b, c, d in app:func { name = "f" } (each.fn):map(unpack(arguments)) do all[i] = { a, b, c, d } end
      return all
    end)
    jit.off() -- LuaJIT's compiler and its interpreter differ in max and min of NaN
    jit.flush()
    for i = 1, fine and count or 0 do
      local given = {}
      for k, list in ipairs(lists) do given[k] = list[i] end
      local plain, got = { pcall(each.fn, unpack(given)) }, results[i]
      local has_failed = tidepool.is_failure(got[1])
      local is_same = plain[1] ~= has_failed
      for k = 1, plain[1] and is_same and math.min(#plain - 1, 4) or 0 do
        local want, is = plain[k + 1], got[k]
        local is_number = type(want) == "number" and type(is) == "number"
        is_same = is_same and (want == is or is_number and (want ~= want and is ~= is
          or math.abs(want - is) <= 1e-9 * math.max(1, math.abs(want)) * (each.loose or 1)))
      end
      if not is_same and not trouble then
        trouble = ("f(%s) is %s, should be %s"):format(table.concat(given, ", "), tostring(got[1]), tostring(plain[2]))
      end
    end
    local is_refused = not fine and tostring(results):find "gpu function '[^\n]*there [ai][rs]e? no" ~= nil -- by the translator, on any device
    run, refused, wrong = run + (fine and 1 or 0), refused + (is_refused and 1 or 0), wrong + (trouble and 1 or 0)
    if trouble then say("WRONG %s: %s", each.name, trouble) end
    if is_refused then
      say("refused: %s: %s", each.name, (tostring(results):gsub("\n.*", "")))
    elseif not fine then
      failed = failed + 1
      say("FAILED %s: %s", each.name, failed < 3 and tostring(results) or tostring(results):gsub("\n.*", "")) -- at first with the compiler's log
    end
  end
  say("%d of %d functions run, %d refused, %d failed, %d wrong, %d inputs each, %.0f s with compiling%s", run, #sixty, refused, failed, wrong, count,
    tidepool.now() - started, tried < #sixty and (", %d had NO TIME LEFT"):format(#sixty - tried) or "")
  return wrong == 0 and failed == 0 and tried == #sixty
end

--- Maps over memory of the device, as a share of what a copy within it reaches.
function parts.band()
  local n = room(1e8, 4e6, 3)
  local from, to = resident(numbers(n)), device():buffer(real, n)
  local bytes = 2 * n * ffi.sizeof(real)
  local copy_kernel = device():kernel(
    "__kernel void c(__global const real *x, __global real *y) { size_t i = get_global_id(0); y[i] = x[i]; }", { defines = { real = real } })
  local copied = math.huge
  for _, group in ipairs { 64, 256 } do
    local _, fastest = time(function()
      copy_kernel({ floor(n / group) * group, local_size = { group } }, from, to)
      device():wait()
    end)
    copied = math.min(copied, fastest)
  end
  to = nil -- luacheck: ignore 311
  collectgarbage()
  local f = app:func(function(x) return 2 * x + 1 end)
  local result
  local mapped, fastest = time(function()
    result = nil
    result = f:map(from):buffer()
    device():wait()
  end)
  local text, is_right = verdict(result:read(), function(i) return 2 * ((i - 1) % 1000 * 0.001) + 1 end, 997, 0, 1e-6)
  say("resident 2x+1, %.0e %ss: %.2f ms, at best %.2f ms or %.0f GB/s, a copy kernel %.0f GB/s, %s; share %s", n, real, mapped * 1e3, fastest * 1e3,
    bytes / fastest / 1e9, bytes / copied / 1e9, text, with_goal(copied / fastest, 0.9))
  from, result = nil, nil -- luacheck: ignore 311
  collectgarbage()
  for _, mib in ipairs(is_small and { 1, 16 } or { 1, 16, 256 }) do
    if mib * 2 ^ 20 > card.max_buffer then break end
    local a, b = tidepool.array("int64", mib * 131072), device():buffer("int64", mib * 131072)
    local there, back = time(function() b:write(a) end), time(function() b:read(a) end)
    say("copies of %d MiB: to the device %.1f GB/s, back %.1f GB/s", mib, mib / 1024 / there, mib / 1024 / back)
  end
  return is_right
end

--- Host to host: a function of much arithmetic.
function parts.sincos()
  local n = room(1e7, 1e6, 4)
  local xs, f = numbers(n), function(x) return sin(x) * cos(x) + sqrt(x) end
  local g, t = app:func(f), tidepool.App():func { returns = "double" } (f)
  local there = resident(xs)
  local stays = time(function()
    g:map(there):buffer()
    device():wait()
  end)
  local threads = time(function() t:map(xs):array() end, 3)
  local result
  local seconds = time(function() result = g:map(xs):array() end)
  local text, is_right = verdict(result, function(i) return f(xs[i]) end, 997, 1e-14, 1e-5)
  beside_peers("sin*cos+sqrt", n, seconds,
    (" from the host and back, %.2f ms on the device, threads %.2f ms, %s"):format(stays * 1e3, threads * 1e3, text))
  return is_right
end

function parts.mandelbrot()
  local side, rounds = size(4096, 512), 256
  local function f(y, x)
    local cx, cy, a, b = x / side * 3 - 2.25, y / side * 3 - 1.5, 0, 0
    for n = 1, rounds do
      local aa, bb = a * a, b * b
      if aa + bb > 4 then return n end
      a, b = aa - bb + cx, 2 * a * b + cy
    end
    return 0
  end
  local pixels
  local g = app:func { returns = "int32" } (f)
  local seconds = time(function() pixels = g:map(tidepool.grid(side, side)):array() end)
  local wrong = 0
  for k = 1, side * side, 97 do
    if card.fp64 and pixels[k] ~= f(floor((k - 1) / side) + 1, (k - 1) % side + 1) then wrong = wrong + 1 end
  end
  local text = not card.fp64 and "pixels not compared: the card has no doubles" or wrong == 0 and "right" or ("%d pixels WRONG"):format(wrong)
  beside_peers("mandelbrot", side, seconds, (" (%d^2 x %d), %s"):format(side, rounds, text))
  return wrong == 0
end

function parts.nbody()
  local n = size(65536, 2048)
  local X, Y, Z, M = numbers(n), numbers(n), numbers(n), numbers(n)
  for i = 1, n do X[i], Y[i], Z[i], M[i] = sin(i), cos(i * 1.3), sin(i * 0.7), 1 / i end
  local function accelerate(i)
    local x, y, z, ax, ay, az = X[i], Y[i], Z[i], 0, 0, 0
    for j = 1, n do
      local dx, dy, dz = X[j] - x, Y[j] - y, Z[j] - z
      local d2 = dx * dx + dy * dy + dz * dz + 1e-9
      local s = M[j] / (d2 * sqrt(d2))
      ax, ay, az = ax + dx * s, ay + dy * s, az + dz * s
    end
    return ax, ay, az
  end
  local f, result = app:func(accelerate), nil
  local seconds = time(function() result = f:map(tidepool.range(n)):array() end, 3)
  -- sums of so many numbers of both signs, of which those of near bodies are large
  local text, is_right = verdict(result, function(i) return (accelerate(i)) end, floor(n / 16), 1e-9, 1e-2)
  beside_peers("n-body", n, seconds, (" (%d bodies, %.1f G interactions a second), %s"):format(n, n * n / seconds / 1e9, text))
  return is_right
end

function parts.product()
  local n = size(2048, 256)
  local a, b = tidepool.array(real, tidepool.grid(n, n)), tidepool.array(real, tidepool.grid(n, n))
  for k = 1, n * n do a[k], b[k] = k % 13, k % 7 end
  local f = app:func(function(y, x)
    local sum = 0
    for k = 1, n do sum = sum + a:at(y, k) * b:at(k, x) end
    return sum
  end)
  local product
  local seconds = time(function() product = f:map(tidepool.grid(n, n)):array() end, 3)
  local by_hand = device():kernel([[
    __kernel __attribute__((reqd_work_group_size(16, 16, 1)))
    void tiled(__global const real *A, __global const real *B, __global real *C, int n) {
      __local real a[16][16], b[16][16];
      int x = get_local_id(0), y = get_local_id(1), c = get_global_id(0), r = get_global_id(1);
      real s = 0;
      for (int t = 0; t < n; t += 16) {
        a[y][x] = A[r * n + t + x]; b[y][x] = B[(t + y) * n + c];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int k = 0; k < 16; k++) s += a[y][k] * b[k][x];
        barrier(CLK_LOCAL_MEM_FENCE);
      }
      C[r * n + c] = s;
    }]], { defines = { real = real } })
  local there_a, there_b, there_c = resident(a), resident(b), device():buffer(real, n * n)
  local tiled = time(function()
    by_hand({ n, n }, there_a, there_b, there_c, n)
    device():wait()
  end, 3)
  local theirs, wrong = there_c:read(), 0
  for k = 1, n * n do wrong = wrong + (theirs[k] ~= product[k] and 1 or 0) end
  beside_peers("product", n, seconds, (" (%d^2, %.0f GFLOP/s), tiled by hand %.2f ms, %d elements differ"):format(n, 2 * n ^ 3 / seconds / 1e9,
    tiled * 1e3, wrong))
  return wrong == 0
end

function parts.sum()
  local n = room(1e8, 4e6, 3)
  local xs, f, sum = tidepool.array(real, n, 0.5), app:func(function(x) return x end), nil
  local seconds = time(function() sum = f:map(xs):sum() end)
  local there = resident(xs)
  local stays = time(function() sum = there:sum() end)
  local is_right = math.abs(sum - n / 2) <= (card.fp64 and 0 or 1e-3 * n)
  beside_peers("sum", n, seconds, (" from the host, %.2f ms on the device (%.0f GB/s), %s"):format(stays * 1e3, ffi.sizeof(real) * n / stays / 1e9,
    is_right and "right" or "WRONG"))
  return is_right
end

--- Three maps, one after the other: arrays in between, then buffers.
function parts.chain()
  local n = room(1e7, 1e6, 5)
  local xs = numbers(n)
  local f, g, h = app:func(function(x) return x + 1 end), app:func(function(x) return 2 * x end), app:func(function(x) return x - 3 end)
  local count = os.getenv "FAULTS_COPIES" and ffi.load(os.getenv "TIDEPOOL_OPENCL").faults_moved
  local function arrays() xs[1] = 3; return h:map(g:map(f:map(xs):array()):array()):array() end
  local function buffers() xs[1] = 3; return h:map(g:map(f:map(xs):buffer()):buffer()):array() end
  local one = time(function() xs[1] = 3; f:map(xs):array() end)
  local through_arrays, through_buffers = time(arrays), time(buffers)
  local before, back = count and count(0) or 0, count and count(1) or 0
  local result = buffers()
  local text, is_right = verdict(result, function(i) return 2 * (xs[i] + 1) - 3 end, 997, 0, 1e-6)
  say("three maps of %.0e: one alone %.2f ms, with arrays in between %.2f ms, with buffers %.2f ms%s, %s", n, one * 1e3, through_arrays * 1e3,
    through_buffers * 1e3, count and (" (%.1f MiB there, %.1f back)"):format((count(0) - before) / 2 ^ 20, (count(1) - back) / 2 ^ 20) or "", text)
  return is_right
end

--- Copies in, computes and copies out at once: the larger of both over what the map takes.
function parts.overlap()
  local n, rounds = room(5e7, 1e6, 4), size(400, 40)
  local xs = numbers(n)
  local light = app:func(function(x) return 2 * x + 1 end)
  local function turn(x)
    for _ = 1, rounds do x = x * 1.0000001 + 1e-9 end
    return x
  end
  local heavy, there, result = app:func(turn), resident(xs), nil
  local _, copy = time(function() light:map(xs):array() end)
  local _, compute = time(function()
    heavy:map(there):buffer()
    device():wait()
  end)
  local _, both = time(function()
    result = nil
    result = heavy:map(xs):array()
  end)
  local text, is_right = verdict(result, function(i) return turn(xs[i]) end, 9973, 0, 1e-3)
  say("at best: copies in and out %.1f ms (%.1f GB/s), compute %.1f ms, a map of both %.1f ms, %s: overlap %s", copy * 1e3,
    2 * ffi.sizeof(real) * n / copy / 1e9, compute * 1e3, both * 1e3, text, with_goal(math.max(copy, compute) / both, 0.9))
  return is_right
end

--- Items that write into an array.
function parts.written()
  local length, items = room(2 ^ 23, 2 ^ 20, 2), size(1e6, 1e5)
  local out = tidepool.array(real, length)
  local f = app:func(function(x) out[x] = 2 * x end)
  local seconds = time(function() f:for_each(tidepool.range(items)) end)
  say("%.0e items that write into an array of %d MiB: %.2f ms, %s", items, length * ffi.sizeof(real) / 2 ^ 20, seconds * 1e3,
    out[items] == 2 * items and "right" or "WRONG")
  return out[items] == 2 * items
end

--- Mistakes, after which the device works.
function parts.mistakes()
  local d, few = device(), tidepool.array(real, 4)
  local each = math.min(d.max_buffer, size(4e9, 1e9))
  local count = is_small and 4 or floor(d.memory / each) + 2
  local right = {
    try("an index", "error", function() return app:func(function(i) return few[i] end):map({ 1, 5 }):list() end),
    try("a buffer that is too large", "device", function() return d:buffer(real, 1e12) end),
    try("all memory", count * each > d.memory and "device" or "no error", function()
      local list = {}
      for i = 1, count do list[i] = d:buffer("uint8", each) end
      return ("%d buffers of %.0f GB"):format(#list, each / 1e9)
    end),
    try("local memory", "device", function()
      d:kernel "__kernel void f(__global float *o, __local float *s) { o[0] = s[0]; }"(1, d:buffer("float", 1), { "float", 1e9 })
      d:wait()
    end),
    try("a map after that", "no error", function() return app:func(function(x) return x + 1 end):map({ 1 }):list()[1] end),
  }
  for _, is_right in ipairs(right) do
    if not is_right then return false end
  end
end

--- A map that never ends, interrupted from outside as by Ctrl-C, twice. (check-gpu's limit holds.)
function parts.endless()
  ffi.cdef "int getpid(void);"
  os.execute(("(sleep 4; kill -INT %d; sleep 3; kill -INT %d) 2>/dev/null &"):format(ffi.C.getpid(), ffi.C.getpid()))
  app:func(function(x)
    while x >= 0 do x = x * 1 end
    return x
  end):map({ 1 }):list()
end

-- The program
-- --------------------------------------------------------------------------------------

ffi.cdef "double faults_moved(int way);"
io.stdout:setvbuf "line"
local part = parts[arg[1]]
if not part then error("there is no part " .. tostring(arg[1]), 0) end
if part() == false then os.exit(1) end
