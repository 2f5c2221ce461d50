--- Maps of maps on a device in one launch: not stock luajit. They give what two maps give, to the
-- bit, and nobody can tell.
--
-- Whether two maps become one depends on how soon the second one comes, which under load may be too
-- late: so each spec is asked again and again until they have, at least once.

local devices = require "tests.support_device"
local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of = support.contains, support.failure_of
local on_device = devices.on_device(it, pending)

local APART = { window = 2 ^ 40 } -- maps with options stay apart
local N = 2003 -- more than the 1,024 for which a device waits for what becomes of a map
local TRIES = 2000

local special = { 0, -0.0, 1, -1, 0.5, 1e300, -1e300, 5e-324, 2 ^ 31, 2 ^ 53, 1 / 0, -1 / 0, 0 / 0, 100.5, 0.1 }

local function inputs(ctype)
  local a = tidepool.array(ctype or "double", N)
  for i = 1, N do a[i] = ctype and i % 100 or special[i] or (i - N / 2) * 1.37 end
  return a
end

--- Runs `run` until maps have become one in it `wanted` times; counts them, `n`, in each run.
local function until_fused(run, wanted)
  local fused = require "tidepool.device.fused"
  local open, n = fused.open, 0
  fused.open = function(...)
    local both = open(...)
    n = n + (both and 1 or 0)
    return both
  end
  local fine, why = pcall(function()
    for _ = 1, TRIES do
      n = 0
      run(function() return n end)
      if n >= (wanted or 1) then return end
    end
    error "they never became one"
  end)
  fused.open = open
  if not fine then error(why, 0) end
end

--- Are the elements' bits the same?
local function assert_same_bits(expected, got)
  assert.equal(expected.ctype, got.ctype)
  assert.equal(#expected, #got)
  local size = ffi.sizeof(({ double = "double", float = "float", int32 = "int32_t" })[expected.ctype])
  for i = 0, #expected - 1 do
    if ffi.string(expected.data + i, size) ~= ffi.string(got.data + i, size) then
      error(("element %d: %.17g, not %.17g"):format(i + 1, got[i + 1], expected[i + 1]))
    end
  end
end

describe("A map of a map on a device", function()
  local kept = 3
  local function app_of(options)
    options.gpu = "cpu"
    return tidepool.App("fused", options)
  end

  for _, precision in ipairs { "double", "single" } do
    on_device("has the bits of two maps, in " .. precision .. " precision", function()
      local app = app_of { precision = precision }
      local functions = {
        app:func(function(x) if x > 3 then return x * kept + 1 end return math.sqrt(x) end),
        app:func(function(x) local s = math.sin(x) for i = 1, 3 do s = s * 0.3 + x / i end return s end),
        app:func(function(x) return x % 7 - math.floor(x) end),
      }
      local xs = inputs(precision == "single" and "float" or nil)
      for i, f in ipairs(functions) do
        local g, h = functions[i % #functions + 1], functions[(i + 1) % #functions + 1]
        local two, three = g:map(f:map(xs, APART)):array(), h:map(g:map(f:map(xs, APART):array()):array()):array()
        until_fused(function() assert_same_bits(two, g:map(f:map(xs)):array()) end)
        until_fused(function() assert_same_bits(three, h:map(g:map(f:map(xs))):array()) end, 2)
      end
    end)
  end

  on_device("may give and take other types, and several results", function()
    local app = app_of {}
    local f = app:func(function(a, b) return a * 0.75 + b end)
    local g = app:func { returns = { "int32", "double" } } (function(x) return x, x / 3 end)
    local more = app:func(function(x, y) return y and x + y or x + 0.5 end)
    local a, b = inputs "int32", inputs()
    local whole, part = g:map(f:map(a, b, APART)):array()
    until_fused(function()
      local one, other = g:map(f:map(a, b)):array()
      assert_same_bits(whole, one)
      assert_same_bits(part, other)
    end)
    local expected = more:map(f:map(a, b, APART)):array()
    until_fused(function() assert_same_bits(expected, more:map(f:map(a, b)):array()) end)
  end)

  on_device("is read like any other", function()
    local app = app_of {}
    local f, g = app:func(function(x) return x + 0.5 end), app:func(function(x) return 2 * x end)
    local xs = tidepool.array("double", N)
    for i = 1, N do xs[i] = i end
    local sum = N * (N + 1) + N
    local function check(list) for i = 1, N do assert(list[i] == 2 * i + 1, i) end end
    until_fused(function()
      check(g:map(f:map(xs)):list())
      assert.equal(sum, g:map(f:map(xs)):sum())
      assert.equal(2 * N + 1, g:map(f:map(xs)):max())
      assert.equal(sum, g:map(f:map(xs)):reduce(function(a, b) return a + b end, 0))
      assert.equal(sum, g:map(f:map(xs)):buffer():sum())
      local seen = {}
      for i, v in g:map(f:map(xs)) do seen[i] = v end
      check(seen)
      seen = nil
      tidepool.async(function() seen = g:map(f:map(xs)):array() end):get()
      check(seen)
      assert.equal("tidepool.Results of g", tostring(g:map(f:map(xs))):match "^[^:]*")
    end, 3)
  end)

  on_device("leaves the inner results to be read before its own are, and not after", function()
    local app = app_of {}
    local f, g = app:func(function(x) return x + 1 end), app:func(function(x) return 2 * x end)
    local xs = tidepool.array("double", N, 1)
    until_fused(function(n)
      local inner = f:map(xs)
      local outer = g:map(inner)
      if n() == 0 then return end
      assert.equal(2 * N, inner:array():sum())
      assert.equal(4 * N, outer:sum())
    end)
    until_fused(function(n)
      local inner = f:map(xs)
      local outer = g:map(inner)
      if n() == 0 then return end
      local count = 0
      for _, v in inner do count = count + v / 2 end
      assert.equal(N, count)
      assert.equal(4 * N, outer:sum())
    end)
    until_fused(function(n)
      local inner = f:map(xs)
      local outer = g:map(inner)
      if n() == 0 then return end
      local other = g:map(inner) -- f is started once more, for this one
      assert.equal(4 * N, outer:sum())
      assert.equal(4 * N, other:sum())
    end)
    until_fused(function()
      local inner = f:map(xs)
      assert.equal(4 * N, g:map(inner):sum())
      local _, why = pcall(function() inner:list() end)
      contains(why, "gpu_fused_spec.lua:", "results:list: these results have been read")
      _, why = pcall(function() for _ in inner do end end)
      contains(why, "gpu_fused_spec.lua:", "these results have been read")
    end)
  end)

  on_device("has captured values as they were when each map was started", function()
    local app, k = app_of {}, 1
    local f, g = app:func(function(x) return x + k end), app:func(function(x) return x * k end)
    local xs = tidepool.array("double", N, 1)
    until_fused(function()
      for _ = 1, 20 do
        k = 1
        assert.equal(2 * N, g:map(f:map(xs)):sum())
        local inner = f:map(xs)
        k = 10
        assert.equal(20 * N, g:map(inner):sum())
        assert.equal(110 * N, g:map(f:map(xs)):sum())
      end
    end)
  end)

  on_device("is two where items can fail: the failure is that of the one whose it is", function()
    local app = app_of {}
    local f = app:func { name = "f" } (function(x) if x == 1500 then error("in f") end return x + 1 end)
    local g = app:func { name = "g" } (function(x) if x == 1201 then error("in g") end return x * 2 end)
    local h = app:func { name = "h" } (function(x) return x * 2 end)
    local xs = tidepool.array("double", N)
    for i = 1, N do xs[i] = i end
    for _ = 1, 5 do
      local why = failure_of(function() h:map(f:map(xs)):list() end)
      contains(tostring(why), "in f", "f", "gpu_fused_spec.lua:")
      assert.same({ 1500, 1500, "f" }, { why.index, why.input[1], why.function_name })
      why = failure_of(function() g:map(h:map(f:map(tidepool.array("double", N, 599.5)))):list() end)
      assert.same({ 1, 1201, "g" }, { why.index, why.input[1], why.function_name })
      local list = g:map(h:map(xs), { return_exceptions = true }):list()
      assert.equal(4 * N, list[N])
    end
  end)

  on_device("is two where the map matters: random numbers, arrays that are written to, options", function()
    local app = app_of {}
    local counts = tidepool.array("int32", 1)
    local draw = app:func(function(x) return x + math.random() end)
    local count = app:func(function(x) counts[1] = counts[1] + 1 return x end)
    local whole = app:func { returns = "int32" } (function(x) return x / 2 end)
    local double = app:func(function(x) return 2 * x end)
    local limited = app:func { concurrency_limit = 1 } (function(x) return 2 * x end)
    local xs = tidepool.array("double", N, 3)
    for i = 1, 20 do
      assert.is_true(double:map(draw:map(xs)):mean() > 6.5)
      assert.equal(6 * N, double:map(count:map(xs)):sum())
      local inner = count:map(xs)
      local outer = double:map(inner)
      pcall(inner.array, inner) -- if the other one has not read it yet
      assert.equal(6 * N, outer:sum())
      assert.equal(2 * i * N, counts[1])
      assert.equal(2 * N, double:map(whole:map(xs)):sum())
      assert.equal(12 * N, limited:map(double:map(xs)):sum())
    end
  end)
end)
