--- A device whose memory is short (not stock: the same code runs there).
--
-- Each in a process of its own, with a card that has room for so many bytes: tests/opencl/faults.c.

local assert = require "luassert"
local card = require "tests.support_card"
local devices = require "tests.support_device"

-- kinds: what uses memory, each with its check; all of it needs 16 bytes for each of the N elements
-- of an array, and some 100,000 bytes for launches.
local script = card.scripts(it, pending, [[
local N = 100000
local function check(a, by, plus)
  for i = 1, N, 7 do assert(a[i] == by * i + plus, i) end
end
local captured, xs, out = numbers(N), numbers(N, function(i) return 2 * i end), tidepool.array("double", N)
local f = app:func { name = "f" } (function(x) return x + captured[3] end)
local g = app:func { name = "g" } (function(x) return 2 * x end)
local h = app:func { name = "h" } (function(x) return 2 * x, x + 1 end)
local w = app:func { name = "w" } (function(x) out[x] = 3 * x return x end)
local device = tidepool.gpu.device()
local add = device:kernel "__kernel void add(__global double *a) { a[get_global_id(0)] += 1; }"
local kinds = {
  function() check(f:map(xs):array(), 2, 3) end,
  function() check(f:map(tidepool.range(N)):list(), 1, 3) end,
  function() check(g:map(f:map(xs)):array(), 4, 6) end,
  function()
    local a, b = h:map(xs):array()
    check(a, 4, 0)
    check(b, 2, 1)
  end,
  function()
    w:for_each(tidepool.range(N))
    check(out, 3, 0)
    out:fill(0)
  end,
  function()
    local b = device:buffer("double", N)
    b:fill(5)
    add(N, b)
    check(b:read(), 0, 6)
  end,
  function()
    local image = device:image("float", { columns = N / 200, rows = 100, channels = 4 })
    assert(image:read():sum() == 0)
  end,
  function() assert(g:map(f:map(xs):buffer()):sum() == 2 * N * (N + 1) + 6 * N) end,
  function() assert(f:map(tidepool.range(N)):sum() == N * (N + 1) / 2 + 3 * N) end,
}
]])

local function short(bytes, more)
  return ("FAULTS_CARD=1 FAULTS_MEMORY=%d FAULTS_ROOM=%d %s"):format(bytes, bytes, more or "")
end

describe("A device whose memory is short", function()
  local ROUNDS = [[
    for round = 1, 4 do
      for i = 1, #kinds do kinds[(i * (2 * round - 1)) % #kinds + 1]() end
    end
  ]]
  script("has it for one map after the other, again and again", ROUNDS, short(1800000))
  script("has it where the driver finds out late", ROUNDS, short(1800000, "FAULTS_LATE=1"))

  local AT_ONCE = [[
    local by_hand = app:func { executor = "threads", concurrency_limit = 2 } (function(x)
      local d = tidepool.gpu.device()
      local b = d:buffer("double", 10000)
      b:fill(x)
      d:kernel "__kernel void add(__global double *a) { a[get_global_id(0)] += 1; }" (10000, b)
      return b:read()[10000]
    end)
    for round = 1, 4 do
      local hand = by_hand:map { 1, 2, 3, 4 }
      local one, two, both, many, wrote = f:map(xs), g:map(xs), h:map(xs), f:map(tidepool.range(N)), w:map(tidepool.range(N))
      local later = {} -- more than there is room for: they stay there, or come home
      for i = 1, 4 do later[i] = g:map(xs) end
      kinds[round]()
      check(one:array(), 2, 3)
      check(two:array(), 4, 0)
      check(both:array(), 4, 0)
      check(many:list(), 1, 3)
      check(wrote:list(), 1, 0)
      check(out, 3, 0)
      for i, v in ipairs(hand:list()) do assert(v == i + 1) end
      for i = 1, 4 do check(later[i]:array(), 4, 0) end
      out:fill(0)
    end
  ]]
  script("has it for many maps and buffers at once", AT_ONCE, short(2000000))
  script("has it for many at once where the driver finds out late", AT_ONCE, short(2000000, "FAULTS_LATE=1"))

  script("runs all maps, whichever allocation it is that fails", [[
    for n = 1, 40 do
      local kind = kinds[n % #kinds + 1]
      kinds[(n + 3) % #kinds + 1]() -- what is there before differs
      faults.faults_fail_buffer(n % 3 == 0 and n or math.ceil(n / 4))
      kind()
    end
    faults.faults_fail_buffer(0)
  ]], "FAULTS_CARD=1")

  script("says what was wanted, who has how much, and what to do", [[
    local HOW = ": let go of buffers and results that are not needed any more, map less at a time, or use a device with more memory"
    local SHORT = "CL_MEM_OBJECT_ALLOCATION_FAILURE (-4). Of the device's 1.1 MiB this program has "
    local kept = device:buffer("double", 60000)
    local why = fails(function() f:map(xs):array() end)
    assert(why:find(": no memory for an argument of a launch of 781 KiB: " .. SHORT, 1, true), why)
    assert(why:find(" for launches, 469 KiB for buffers" .. HOW, 1, true), why)
    why = fails(function() device:buffer("double", N) end)
    assert(why:find("device:buffer: ", 1, true) and why:find(": no memory for a buffer of 781 KiB: " .. SHORT, 1, true), why)
    assert(why:find("469 KiB for buffers" .. HOW, 1, true), why)
    kept = nil
    kinds[1]()
  ]], short(1200000))

  -- the copy of the buffer goes, though the buffer stays
  script("knows what a buffer has by now, when what it had comes home to make room", [[
    local n = 2 ^ 20
    local b = device:buffer("double", n)
    b:fill(1)
    for i in f:map(b, { window = 5000 }) do
      if i == 6000 then break end
    end
    local before = faults.faults_moved(1)
    local crowd = g:spawn_map(numbers(200000)) -- there is no room for it
    while faults.faults_moved(1) - before < 6 * n do tidepool.sleep(0.001) end -- three of four pieces
    add(n, b)
    for i, v in f:map(b, { window = n / 8 }) do
      while i == 1 and not crowd:done() do tidepool.sleep(0.01) end
      assert(v == 5, i)
    end
    assert(crowd:list()[7] == 14)
  ]], "FAULTS_CARD=1 FAULTS_MEMORY=1000000000 FAULTS_ROOM=9400000 FAULTS_LAZY=150000000")

  devices.on_pocl(it, pending)("has it beside a launch that hangs, whose inputs threads have run", function()
    local done = card.run([[
      local function work(x)
        local s = x
        for i = 1, 50 do s = s * 0.5 + i end
        return s
      end
      local spare = app:func { gpu = "auto", name = "spare" } (work)
      local f = app:func { name = "f" } (function(x) return x + 1 end)
      local xs, many = numbers(200000), numbers(1000000)
      f:map(xs):array()
      repeat
        local results = spare:map(xs, { times = true })
        results:list()
      until results:times().device:sum() > 0
      faults.faults_stall(0, 1)
      repeat spare:map(xs):list() until faults.faults_stalled() > 0
      local ys = f:map(many):array() -- in parts: there is not so much room
      for i = 1, #many do assert(ys[i] == i + 1) end
      faults.faults_go_on()
      print "right"
    ]], short(6000000))
    assert.equal("right\n", done.stdout)
    assert.matches("^tidepool: spare: [^\n]+ has not come back from %d+ inputs?, [^\n]+\n$", done.stderr)
  end)

  script("gives canonical NaNs where results have no room on the device", [[
    local odd = app:func { name = "odd", kernel = "double odd(double x) { return as_double(0xfffc000000000000UL + (ulong)x); }" }
    local results = odd:map(xs)
    while not results:done() do tidepool.sleep(0.01) end
    for _, v in results do assert(type(v) == "number") end
  ]], "FAULTS_CARD=1 FAULTS_MEMORY=1000000")

  script("is not asked again by each slice for what it has no room for", [[
    local list = {}
    for i = 1, 40000 do list[i] = i end
    for _ = 1, 40 do
      for i, v in ipairs(g:map(list):list()) do assert(v == 2 * i) end
    end
    assert(faults.faults_refused() < 600, faults.faults_refused())
  ]], "FAULTS_COPIES=1 FAULTS_ROOM=200000")
end)
