--- gpu = "auto" beside threads alone and the device alone: five functions, and eight that were
--- chosen when the choosing was done, for kinds of work that those five lack; maps of 1,000 to 10
--- million doubles, from an array to arrays.
---
---   build/tidepool [--workers N] bench/auto.lua [NAME]
---   build/tidepool [--workers N] bench/auto.lua small
---   build/tidepool [--workers N] bench/auto.lua first
---
--- Each round runs the three in random order (who comes after whom matters: workers that have just
--- run something are awake); a row has the median of each in ms, the ratio of auto to the faster of
--- the other two, the same of the fastest of each (what else the machine does only adds to it), and
--- the share of the items that devices ran in the last round. The last line counts the rows above
--- 1.1. NAME: only functions with it in their names. All of it takes three minutes.
---
--- `small` makes maps of 1,000 and of 10,000 inputs of functions that are new, six seconds of each:
--- the medians of the first hundred, while auto does not know yet who is faster and nothing is
--- compiled, and of the last hundred.
---
--- `first` is what a script pays, from its first map to its last: some maps of `20 roots` in a
--- process of its own, with nothing compiled anywhere, and again with what is kept on disk then;
--- with what compiling takes, of the device and of auto, also after the last map (a script that
--- ends waits for what is being made). Medians of five processes each, in random order, in ms, and
--- the ratio of auto to the better one of the others.
---
--- Where the device is the processor, both are on the same cores, and auto can only choose. What a
--- card would do, which takes time but no processor, and has memory of its own, shows
---
---   cc -shared -fPIC -D_GNU_SOURCE -o card.so tests/opencl/faults.c -Wl,--no-as-needed \
---     -l:libOpenCL.so.1 -ldl
---   FAULTS_COPIES=1 FAULTS_SLOW=1500 FAULTS_SLOW_ALL=1 POCL_MAX_PTHREAD_COUNT=1 \
---     TIDEPOOL_OPENCL=$PWD/card.so build/tidepool --workers 1 bench/auto.lua roots

local tidepool = require "tidepool"

io.stdout:setvbuf "line"

local sin, cos, sqrt = math.sin, math.cos, math.sqrt
local band, bxor, rshift = bit.band, bit.bxor, bit.rshift
local SIZES, SECONDS, SMALL_SECONDS, ROUNDS_MAX, ROUNDS_MIN, LIMIT = { 1e3, 1e4, 1e5, 1e6, 1e7 }, 2, 6, 1001, 3, 1.1

local functions = {
  { "2x+1", function(x) return 2 * x + 1 end },
  { "sin*cos+sqrt", function(x) return sin(x) * cos(x) + sqrt(x) end },
  { "20 roots", function(x)
    for _ = 1, 20 do x = sqrt(x + 1) end
    return x
  end },
  { "escape", function(x)
    local a, b, n = 0, 0, 0
    while n < 40 do
      local aa, bb = a * a, b * b
      if aa + bb > 4 then return n end
      a, b, n = aa - bb + x - 1.2, 2 * a * b + 0.3, n + 1
    end
    return n
  end },
  { "powers", function(x) return x ^ 1.7 + (x + 1) ^ 0.3 end },
}

local chosen_later = {
  { "clamp", function(x) return math.min(math.max(x, 0.2), 0.8) end },
  { "polynomial", function(x)
    return ((((((0.1 * x - 0.7) * x + 1.3) * x - 2.1) * x + 0.4) * x - 0.9) * x + 3.3) * x - 1
  end },
  { "Kepler", function(x) -- an orbit's eccentric anomaly
    local e = x
    for _ = 1, 8 do e = e - (e - 0.6 * sin(e) - x) / (1 - 0.6 * cos(e)) end
    return e
  end },
  { "hash", function(x)
    local h = x * 1e6
    for _ = 1, 4 do
      h = bxor(h, rshift(h, 15))
      h = band(h * 2057, 0x7fffffff)
    end
    return h
  end, "int32" },
  { "is prime", function(x)
    local n = math.floor(x * 1000)
    if n < 2 then return 0 end
    for d = 2, 31 do
      if d * d > n then return 1 end
      if n % d == 0 then return 0 end
    end
    return 1
  end, "uint8" },
  { "tax", function(x)
    if x < 0.1 then return 0 end
    if x < 0.3 then return (x - 0.1) * 0.2 end
    if x < 0.6 then return 0.04 + (x - 0.3) * (0.2 + 0.3 * (x - 0.3)) end
    if x < 0.9 then return 0.127 + sqrt(x - 0.6) * 0.1 end
    return 0.42 * x
  end },
  { "Monte Carlo", function(x)
    local inside = 0
    for _ = 1, 8 do
      local a, b = math.random(), math.random()
      if a * a + b * b < x then inside = inside + 1 end
    end
    return inside / 8
  end },
  { "polar", function(x) return sqrt(x * x + 1), math.atan2(1, x), x / (1 + x) end, { "double", "double", "float" } },
}

--- The median in ms of times in seconds.
local function median(times)
  times = { unpack(times) }
  table.sort(times)
  return times[math.ceil(#times / 2)] * 1e3
end

--- The three of a function: threads alone, the device alone, auto.
local function three(fn, returns)
  local app = tidepool.App()
  returns = returns or "double"
  return { app:func { returns = returns } (fn), app:func { gpu = "any", returns = returns } (fn),
    app:func { gpu = "auto", returns = returns } (fn) }
end

local function inputs(n)
  local xs = tidepool.array("double", n)
  for i = 1, n do xs[i] = i % 1000 * 0.001 end
  return xs
end

--- A map of each of the three, in random order. Adds to `took` what each took, in seconds.
local function add_round(took, runs, xs)
  local order = { 1, 2, 3 }
  for i = 3, 2, -1 do
    local j = math.random(i)
    order[i], order[j] = order[j], order[i]
  end
  for _, who in ipairs(order) do
    collectgarbage()
    local start = tidepool.now()
    runs[who]:map(xs):array()
    table.insert(took[who], tidepool.now() - start)
  end
end

--- The medians of the three in ms over the rounds from `first` to `last`, and the ratio of auto to
--- the faster of the other two.
local function compare(took, first, last)
  local threads, device, auto = unpack(took)
  threads, device, auto = median { unpack(threads, first, last) }, median { unpack(device, first, last) }, median { unpack(auto, first, last) }
  return { threads, device, auto, auto / math.min(threads, device) }
end

if arg[1] == "one" then
  local fn, xs = functions[3][2], inputs(tonumber(arg[3]))
  local f = tidepool.App():func { gpu = arg[2] ~= "threads" and arg[2] or nil, returns = "double" } (fn)
  for _ = 1, tonumber(arg[4]) do f:map(xs):array() end
  return
end

--- How long a process runs for so many maps of n inputs, in seconds.
local function process(who, n, maps, cache)
  local command = ("XDG_CACHE_HOME=%s POCL_CACHE_DIR=%s/pocl %s %s one %s %d %d"):format(cache, cache, arg[-1], arg[0], who, n, maps)
  local start = tidepool.now()
  assert(os.execute(command) == 0)
  return tidepool.now() - start
end

if arg[1] == "first" then
  local cache = os.tmpname()
  os.remove(cache)
  print(("%-8s %9s %6s %10s %10s %10s %7s"):format("on disk", "items", "maps", "threads", "device", "auto", "ratio"))
  for _, is_kept in ipairs { false, true } do
    for _, each in ipairs { { 1e5, 1 }, { 1e5, 30 }, { 1e5, 300 }, { 1e6, 30 }, { 1e6, 100 }, { 1e7, 1 } } do
      local took, words = { {}, {}, {} }, { "threads", "any", "auto" }
      if is_kept then process("any", 1000, 1, cache) end
      for _ = 1, 5 do
        for _, who in ipairs(({ { 1, 2, 3 }, { 2, 3, 1 }, { 3, 1, 2 } })[math.random(3)]) do
          if not is_kept then os.execute("rm -rf " .. cache) end
          table.insert(took[who], process(words[who], each[1], each[2], cache))
        end
      end
      os.execute("rm -rf " .. cache)
      local threads, device, auto = median(took[1]), median(took[2]), median(took[3])
      print(("%-8s %9d %6d %10.0f %10.0f %10.0f %7.2f"):format(is_kept and "yes" or "no", each[1], each[2], threads, device, auto,
        auto / math.min(threads, device)))
    end
  end
  return
end

if arg[1] == "small" then
  print(("%-14s %7s   the first 100: threads   device     auto   ratio   the last 100: threads   device     auto   ratio"):format("", "items"))
  for _, each in ipairs(functions) do
    for _, n in ipairs { 1e3, 1e4 } do
      local runs, xs, took, began = three(each[2]), inputs(n), { {}, {}, {} }, tidepool.now()
      repeat add_round(took, runs, xs) until #took[1] >= 200 and tidepool.now() - began > SMALL_SECONDS
      local first, last = compare(took, 1, 100), compare(took, #took[1] - 99, #took[1])
      print(("%-14s %7d %24.3f %8.3f %8.3f %7.2f %23.3f %8.3f %8.3f %7.2f"):format(each[1], n, first[1], first[2], first[3], first[4],
        last[1], last[2], last[3], last[4]))
    end
  end
  return
end

local rows, above, worst = 0, 0, 0

--- Prints the rows of one function.
local function measure(name, fn, returns)
  local runs = three(fn, returns)
  for k = #SIZES, 1, -1 do -- the largest first, so that all three know the function
    local n = SIZES[k]
    local xs, took = inputs(n), { {}, {}, {} }
    for warm = 1, 6 do runs[(warm - 1) % 3 + 1]:map(xs):array() end
    local began = tidepool.now()
    for rounds = 1, ROUNDS_MAX do
      if rounds > ROUNDS_MIN and tidepool.now() - began > SECONDS then break end
      add_round(took, runs, xs)
    end
    local medians, best = compare(took, 1, #took[1]), {}
    for who, times in ipairs(took) do best[who] = math.min(unpack(times)) end
    local results = runs[3]:map(xs, { times = true })
    results:array()
    local devices, there = results:times().device, 0
    for i = 1, n do there = there + (devices[i] > 0 and 1 or 0) end
    print(("%-14s %9d %9.3f %9.3f %9.3f %7.2f %8.2f %6.0f%%%s"):format(name, n, medians[1], medians[2], medians[3], medians[4],
      best[3] / math.min(best[1], best[2]), there / n * 100, medians[4] > LIMIT and "  above" or ""))
    rows, above, worst = rows + 1, above + (medians[4] > LIMIT and 1 or 0), math.max(worst, medians[4])
  end
end

for _, list in ipairs { functions, chosen_later } do
  print(("%-14s %9s %9s %9s %9s %7s %8s %7s"):format(list == functions and "" or "chosen later", "items", "threads", "device", "auto", "ratio",
    "fastest", "device"))
  for _, each in ipairs(list) do
    if each[1]:find(arg[1] or "", 1, true) then measure(unpack(each)) end
  end
end
print(("%d of %d rows are above %.1f; the worst is %.2f"):format(above, rows, LIMIT, worst))
