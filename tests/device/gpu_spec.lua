--- Functions on OpenCL devices: what `gpu = ...` does to map, starmap, remote and their failures.
-- That they keep the promises of all executors is promises_spec.lua; what the translator makes of
-- Lua is gpu_translate_spec.lua.

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of, run = support.contains, support.failure_of, shell.run

local app = tidepool.App("gpu", { gpu = true })

local on_device = devices.on_device(it, pending)

--- n numbers from 1 on, as a typed array.
local function count_to(n, ctype)
  local a = tidepool.array(ctype or "double", n)
  for i = 1, n do a[i] = i end
  return a
end

local function near(expected, got)
  assert.is_true(math.abs(expected - got) <= 1e-13 * math.abs(expected), ("%.17g is not near %.17g"):format(got, expected))
end

describe("a Lua function on a device", function()
  local wave = app:func(function(x) return math.sin(x) * math.cos(x) + math.sqrt(x) end)

  on_device("gives what plain Lua gives, for lists", function()
    local list = wave:map({ 1, 2.5, 1e6, 0 }):list()
    assert.equal(4, list.n)
    for i, x in ipairs { 1, 2.5, 1e6, 0 } do near(wave(x), list[i]) end
  end)

  on_device("gives an array for an array, of many slices", function()
    local n = support.times(300000)
    local xs = count_to(n)
    local ys = wave:map(xs):array()
    assert.equal(n, #ys)
    assert.equal("double", ys.ctype)
    for i = 1, n, 997 do near(wave(i), ys[i]) end
    near(wave(n), ys[n])
  end)

  on_device("gives arrays that no cache holds, of elements of any size", function()
    local n = support.times(3000000) + 13
    local xs = count_to(n)
    local types = { "double", "float", "int8", "int32" }
    local f = app:func({ returns = types }, function(x) return 2 * x, x / 4, x % 100, x + 1 end)
    local wanted = {}
    for k, type in ipairs(types) do wanted[k] = tidepool.array(type, n) end
    local a, b, c, d = unpack(wanted)
    for i = 1, n do a[i], b[i], c[i], d[i] = 2 * i, i / 4, i % 100, i + 1 end
    for _ = 1, 5 do -- from the second time on it is known to be fast: its launches are large
      for k, got in ipairs { f:map(xs):array() } do
        local want = wanted[k]
        for i = 1, n do
          if got[i] ~= want[i] then error(("element %d of %s: %g, not %g"):format(i, types[k], got[i], want[i])) end
        end
      end
    end
  end)

  on_device("takes ranges, iterators and views", function()
    local twice = app:func(function(x) return 2 * x end)
    assert.same({ 2, 4, 6, n = 3 }, twice:map(tidepool.range(3)):list())
    local i = 0
    assert.same({ 2, 4, 6, n = 3 }, twice:map(function()
      i = i + 1
      return i <= 3 and i or nil
    end):list())
    assert.same({ 6, 8, n = 2 }, twice:map(count_to(9):slice(3, 4)):list())
  end)

  on_device("zips several inputs, and gives several results", function()
    local both = app:func(function(x, y) return x + y, x * y end)
    local sums, products = both:map({ 1, 2, 3 }, { 10, 20, 30 }):list()
    assert.same({ 11, 22, 33, n = 3 }, sums)
    assert.same({ 10, 40, 90, n = 3 }, products)
    sums, products = both:starmap({ { 1, 10 }, { 2, 20 }, { 3, 30, n = 2 } }):list()
    assert.same({ 11, 22, 33, n = 3 }, sums)
    assert.same({ 10, 40, 90, n = 3 }, products)
    local a, b = both:map(count_to(3), count_to(3)):array()
    assert.same({ 2, 4, 6, n = 3 }, a:list())
    assert.same({ 1, 4, 9, n = 3 }, b:list())
    assert.same({ 3, 2 }, { both:remote(1, 2) })
    assert.same({ 3, 2 }, { both:spawn(1, 2):get() })
  end)

  on_device("gives booleans as booleans", function()
    local is_large = app:func(function(x) return x > 2, x end)
    local truths, values = is_large:map({ 1, 2, 3 }):list()
    assert.same({ false, false, true, n = 3 }, truths)
    assert.same({ 1, 2, 3, n = 3 }, values)
    assert.same({ true, 9 }, { is_large:remote(9) })
    truths = is_large:map(count_to(3)):list()
    assert.same({ false, false, true, n = 3 }, truths)
  end)

  on_device("takes arrays of any element type, and gives those that `returns` names", function()
    local f = app:func({ returns = { "int32", "float" } }, function(x, y) return x + y, x / 4 end)
    local a, b = f:map(count_to(5, "uint8"), count_to(5, "float")):array()
    assert.equal("int32", a.ctype)
    assert.equal("float", b.ctype)
    assert.same({ 2, 4, 6, 8, 10, n = 5 }, a:list())
    assert.same({ 0.25, 0.5, 0.75, 1, 1.25, n = 5 }, b:list())
    local list = f:map({ 7 }, { 8 }):list()
    assert.same({ 15, n = 1 }, list)
  end)

  on_device("in single precision computes floats", function()
    local third = app:func({ precision = "single" }, function(x) return x / 3 end)
    local list = third:map({ 1, 2 }):list()
    assert.is_true(list[1] ~= 1 / 3 and math.abs(list[1] - 1 / 3) < 1e-7)
    assert.equal("float", third:map(count_to(2)):array().ctype)
  end)

  on_device("reads what it captures anew at each map: numbers, and elements of arrays", function()
    local factor, table_ = 2, tidepool.array("float", { 10, 20, 30 })
    local f = app:func(function(i) return factor * table_[i] end)
    assert.same({ 20, 60, n = 2 }, f:map({ 1, 3 }):list())
    factor, table_[3] = 3, 7
    assert.same({ 30, 21, n = 2 }, f:map({ 1, 3 }):list())
    table_ = tidepool.array("float", { 5 })
    assert.same({ 15, n = 1 }, f:map({ 1 }):list())
    local zero = 0
    local g = app:func(function(x) return x / zero end)
    for _, z in ipairs { 0, -0.0, 0, 2, 0 / 0, 2 } do
      zero = z
      local expected, got = 1 / z, g:map({ 1 }):list()[1]
      assert(got == expected or (got ~= got and expected ~= expected), got)
    end
  end)

  on_device("is translated again when a function that it calls is another one", function()
    local function inner(x) return x + 1 end
    local f = app:func(function(x) return inner(x) end)
    assert.same({ 2, n = 1 }, f:map({ 1 }):list())
    inner = function(x) return x + 100 end
    assert.same({ 101, n = 1 }, f:map({ 1 }):list())
  end)

  on_device("gives canonical NaNs", function()
    local f = app:func(function(x) return math.log(x), 0 * x end)
    for _, value in f:map({ -1, -2, 0 / 0 }) do assert.equal("number", type(value)) end
    local a = f:map(tidepool.array("double", { -1, 1 / 0 })):array()
    assert.equal("number", type(a[1]))
    assert.is_true(a[1] ~= a[1])
  end)

  on_device("runs from a mapped function too", function()
    local twice = app:func(function(x) return 2 * x end)
    local outer = tidepool.App("threads"):func(function(x)
      local sum = 0
      for _, y in twice:map { x, x + 1 } do sum = sum + y end
      return sum
    end)
    assert.same({ 6, 10, n = 2 }, outer:map({ 1, 2 }):list())
  end)

  on_device("goes on after a map that was left", function()
    local f = app:func(function(x) return x + 1 end)
    for i in f:map(tidepool.range(1, math.huge)) do
      if i == 5 then break end
    end
    f:map(count_to(1000)):cancel()
    assert.same({ 2, n = 1 }, f:map({ 1 }):list())
  end)

  on_device("runs for its effect only in vain, but counts", function()
    assert.same({ ok = 3, failed = 0 }, app:func(function(x) return x end):for_each({ 1, 2, 3 }))
  end)
end)

describe("an element that fails on a device", function()
  local marks
  local pick = app:func { name = "pick" } (function(i)
    if i < 0 then error("below zero") end
    return marks[i]
  end)
  before_each(function() marks = tidepool.array("double", { 5, 6, 7 }) end)

  on_device("has the message, the line and the index of plain Lua", function()
    local failure = failure_of(function()
      local list = pick:map({ 1, 2, -1, 3 }):list()
      return list
    end)
    assert.equal("error", failure.kind)
    assert.equal(3, failure.index)
    assert.matches("gpu_spec.lua:%d+: below zero$", failure.message)
    local _, plain = pcall(pick.raw, -1)
    assert.equal(plain, failure.message)
    assert.equal(failure.message, failure.value)
    assert.same({ 5, 6, n = 2 }, failure.results)
  end)

  on_device("names an index that is out of range, with the array and its bounds", function()
    contains(failure_of(pick.remote, pick, 4).message, "index 4 of 'marks' is out of range (1 to 3)")
    contains(failure_of(pick.remote, pick, 1.5).message, "index 1.5 of 'marks' is not a whole number (1 to 3)")
  end)

  on_device("leaves the others alone, also in arrays", function()
    local list = pick:map({ 1, -1, 2, 9, 3 }, { return_exceptions = true }):list()
    assert.same({ 5, 6, 7 }, { list[1], list[3], list[5] })
    contains(list[2].message, "below zero")
    contains(list[4].message, "index 9 of 'marks'")
    local got = {}
    for i, value in pick:map(tidepool.array("double", { 1, -1, 3 }), { on_error = function() return 0 end }) do got[i] = value end
    assert.same({ 5, 0, 7 }, got)
  end)

  on_device("may be one of many", function()
    local n = support.times(40000)
    local odd = app:func(function(x)
      if x % 2 == 1 then error("odd") end
      return x
    end)
    local results = odd:map(tidepool.range(n), { return_exceptions = true })
    local failed = 0
    for i, value in results do
      if tidepool.is_failure(value) then failed = failed + 1 else assert.equal(i, value) end
    end
    assert.equal(n / 2, failed)
    assert.equal(n / 2, odd:stats().failed)
  end)

  on_device("can be an input that is no number, or too few", function()
    local sum = app:func(function(x, y) return x + y end)
    local list = sum:starmap({ { 1, 2 }, { 1, "x" }, { 3 }, { true, 1 }, { 4, 5 } }, { return_exceptions = true }):list()
    assert.equal(3, list[1])
    assert.equal(9, list[5])
    contains(list[2].message, "gpu_spec.lua:", ": argument 2 is a string; a function on a device takes numbers")
    contains(list[3].message, "it takes 2 numbers, got 1")
    contains(list[4].message, "argument 1 is a boolean, and a number is expected")
    local choose = app:func(function(b, x) return b and x or 0 end)
    list = choose:map({ true, 1, "x", {}, false }, { 1, 2, 3, 4, 5 }, { return_exceptions = true }):list()
    assert.same({ 1, 0 }, { list[1], list[5] })
    for i, what in pairs { [2] = "a number", [3] = "a string", [4] = "a table" } do
      contains(list[i].message, ("argument 1 is %s, and that of the first input is a boolean"):format(what))
    end
    list = choose:map({ true, 1 }, { 1, 2 }, { return_exceptions = true }):list() -- in columns
    contains(list[2].message, "argument 1 is a number, and that of the first input is a boolean")
    for _, iterator in ipairs { function() return true end, coroutine.wrap(function() coroutine.yield(true) end) } do
      contains(tostring(failure_of(function() choose:map(iterator, { 1 }):list() end)), "argument 1 is a boolean, and a number is expected")
    end
    contains(select(2, pcall(sum.map, sum, { 1 })), "the parameter 'y' of 'sum' gets no value")
  end)
end)

describe("a function with many of them", function()
  local function many(n, pattern, join)
    local list = {}
    for i = 1, n do list[i] = pattern:gsub("#", i) end
    return table.concat(list, join)
  end

  on_device("takes as many inputs, and gives as many results, as on threads", function()
    local columns = {}
    for i = 1, 20 do columns[i] = { i, -i, 2 * i } end
    local f = app:func(assert(loadstring(("return function(%s) return %s end"):format(many(20, "a#", ", "), many(20, "a# + 1", ", "))))())
    local lists = { f:map(unpack(columns)):list() }
    for i = 1, 20 do assert.same({ i + 1, -i + 1, 2 * i + 1, n = 3 }, lists[i]) end
    local arrays = {}
    for i = 1, 9 do arrays[i] = tidepool.array("double", columns[i]) end
    local sum = app:func(assert(loadstring(("return function(%s) return %s end"):format(many(9, "a#", ", "), many(9, "a#", " + "))))())
    assert.same({ 45, -45, 90, n = 3 }, sum:map(unpack(arrays)):list())
    assert.equal(90, sum:map(unpack(arrays)):sum())
  end)

  on_device("says how many inputs there may be", function()
    local f = app:func { name = "wide" } (assert(loadstring(("return function(%s) return a1 end"):format(many(65, "a#", ", "))))())
    local lists = {}
    for i = 1, 65 do lists[i] = { i } end
    contains(select(2, pcall(f.map, f, unpack(lists))), "wide has 65 inputs; a function on a device has at most 64")
  end)

  on_device("refuses a captured array of more elements than it can count", function()
    local big = tidepool.array("uint8", 2 ^ 31) -- memory that nobody touches
    local f = app:func(function(x) return big[x] end)
    support.mistake(function() local r = f:map({ 1 }) return r end,
      "the array 'big' has 2147483648 elements, and one that is captured has at most 2^31 - 1 on a device: capture a slice of it")
    big = big:slice(1, 10)
    assert.equal(0, f:remote(1))
  end)

  on_device("captures many numbers and arrays", function()
    local numbers, arrays = {}, {}
    for i = 1, 80 do numbers["k" .. i] = i end
    for i = 1, 40 do arrays["k" .. i] = tidepool.array("double", { i, 2 * i }) end
    local f = app:func(assert(loadstring(("local n, a = ... return function(x) return x + %s + %s end"):format(many(80, "n.k#", " + "),
      many(40, "a.k#[x]", " + "))))(numbers, arrays))
    assert.same({ 1 + 3240 + 820, 2 + 3240 + 1640, n = 2 }, f:map({ 1, 2 }):list())
    for i = 1, 140 do arrays["k" .. i] = tidepool.array("double", 1) end
    local g = app:func { name = "greedy" } (assert(loadstring(("local a = ... return function(x) return %s end"):format(many(140, "#a.k#", " + ")
      :gsub("%d+a", "#a"))))(arrays))
    contains(select(2, pcall(g.map, g, { 1 })), "greedy captures 140 numbers and arrays, which is more than a kernel takes")
  end)

  on_device("drops inputs that are more than its parameters, as plain Lua does", function()
    local a, b = tidepool.array("double", { 1, 2 }), tidepool.array("float", { 3, 4 })
    local f = app:func(function(x) return x + 1 end)
    assert.same({ 2, 3, n = 2 }, f:map(a, b):list())
    assert.same({ 2, 3, n = 2 }, f:map({ 1, 2 }, { 3, 4 }):list())
    assert.equal(5, f:map(a, b):sum())
  end)
end)

describe("a function without results", function()
  on_device("writes to arrays, in for_each and in maps", function()
    local marks = tidepool.array("double", 50)
    local f = app:func(function(i)
      if i == 7 then return end
      marks[i] = 2 * i
    end)
    assert.same({ ok = 50, failed = 0 }, f:for_each(tidepool.range(50)))
    for i = 1, 50 do assert.equal(i == 7 and 0 or 2 * i, marks[i]) end
    marks:fill(0)
    assert.same({ n = 3 }, f:map({ 1, 2, 3 }):list())
    assert.same({ 2, 4, 6, 0 }, { marks[1], marks[2], marks[3], marks[4] })
    contains(failure_of(function() f:for_each({ 1, 51 }) end).message, "index 51 of 'marks' is out of range (1 to 50)")
    local idle = app:func { name = "idle" } (function(_) end)
    contains(select(2, pcall(idle.for_each, idle, { 1 })), "it returns nothing and writes to no array")
  end)
end)

describe("an array that is captured", function()
  on_device("is shared, read and write, as on threads", function()
    local counts, seen, small = tidepool.array("int32", 10), tidepool.array("double", 1000), tidepool.array("uint8", 16)
    local limit = 500
    local function mark(i)
      local place = i % 10 + 1
      if i <= limit then seen[i] = seen[i] + i / 2 end
      for k = 1, 3 do
        if i % 10 == k then small[k] = 7 * k end
      end
      if i >= 991 then counts[place] = i >= 995 and i or counts[place] + i end -- an element is one item's: others run beside it
      small[16] = limit > 0 and 200 or 0
      return seen[i]
    end
    for _, app_of in ipairs { app, tidepool.App("threads") } do
      counts:fill(0)
      seen:fill(1)
      small:fill(0)
      local results = app_of:func(mark):map(tidepool.range(1000)):list()
      for i = 1, 1000 do
        assert.equal(i <= 500 and 1 + i / 2 or 1, seen[i])
        assert.equal(seen[i], results[i])
      end
      assert.same({ 7, 14, 21, 0, 200 }, { small[1], small[2], small[3], small[4], small[16] })
      for i = 991, 1000 do assert.equal(i, counts[i % 10 + 1]) end
    end
  end)

  on_device("is written to by helpers, in loops and conditions, by the elements that come there", function()
    local marks = tidepool.array("float", 64)
    local function put(i, value)
      if value > 0 then marks[i] = value end
      return value
    end
    local f = app:func(function(i)
      local sum = 0
      for k = i, 60, 20 do
        sum = sum + (k % 2 == 0 and put(k, k / 4) or 1)
        if k > 30 then break end
      end
      return sum
    end)
    for i = 1, 20 do f(i) end
    local expected = marks:copy()
    assert.is_true(marks[2] == 0.5 and marks[1] == 0 and marks[42] > 0)
    marks:fill(0)
    f:map(tidepool.range(20)):list()
    assert.same(expected:list(), marks:list())
  end)

  on_device("is updated by many elements at a time, and none is lost", function()
    for _, ctype in ipairs { "int32", "float", "double", "uint8" } do
      local counts, sums, largest = tidepool.array(ctype, 7), tidepool.array("double", 3), tidepool.array("int32", 2)
      local function count_all() largest[2] = largest[2] + 1 end
      local f = app:func(function(i)
        counts[i % 7 + 1] = counts[i % 7 + 1] + 1
        if i % 3 == 0 then count_all() end
        sums[2] = 1 - (2 - sums[2] - i % 2)
        largest[1] = largest[1] < i and i or largest[1]
        return i
      end)
      local n = 10003
      f:map(tidepool.range(n)):list()
      for k = 1, 7 do
        local expected = math.floor((n + 7 - (k == 1 and 7 or k - 1)) / 7)
        assert.equal(ctype == "uint8" and expected % 256 or expected, counts[k])
      end
      assert.same({ 0, math.ceil(n / 2) - n, n, math.floor(n / 3) }, { sums[1], sums[2], largest[1], largest[2] })
    end
  end)

  on_device("names an index that is none also where no result is a number with room for it", function()
    local marks = tidepool.array("double", { 1, 2, 3 })
    for _, returns in ipairs { "int16", "bool" } do
      local f = returns == "bool" and app:func(function(i) return marks[i] > 1 end)
        or app:func { returns = "int16" } (function(i) return marks[i] end)
      contains(failure_of(function() f:map({ 1, 1.5 }):list() end).message, "index 1.5 of 'marks' is not a whole number (1 to 3)")
      contains(failure_of(function() f:map({ 1, 1 / 0 }):list() end).message, "index inf of 'marks' is out of range (1 to 3)")
    end
  end)

  on_device("fails the element that writes beside it, and no other", function()
    local marks = tidepool.array("double", 4)
    local f = app:func(function(i)
      marks[i] = i
      return i
    end)
    local list = f:map({ 1, 5, 2.5, 3, 0 / 0, 4 }, { return_exceptions = true }):list()
    assert.same({ 1, 3, 4 }, { list[1], list[4], list[6] })
    contains(list[2].message, "gpu_spec.lua:", "index 5 of 'marks' is out of range (1 to 4)")
    contains(list[3].message, "index 2.5 of 'marks' is not a whole number (1 to 4)")
    contains(list[5].message, "index nan of 'marks' is out of range (1 to 4)")
    assert.same({ 1, 0, 3, 4, n = 4 }, marks:list())
    assert.equal(8, f:map({ 1, 3, 4 }):sum())
  end)
end)

describe("the text of a function", function()
  it("is kept where it is in no file: on the command line, from standard input, at the prompt", function()
    local script = [[local f = require "tidepool".App():func { gpu = true } (function(x) return x * 3 end) print(f:opencl())]]
    local files = { ["job.lua"] = script, ["lines"] = ([[
      tidepool = require "tidepool"
      local scale = 3
      local f = tidepool.App():func { gpu = true } (function(x) return x * scale end)
      f:opencl()
      function other(x)
        return x * 5
      end
      tidepool.App():func { gpu = true } (other):opencl()
    ]]) }
    for _, command in ipairs { "$T -e \"$(cat job.lua)\" -e '" .. script:gsub("3", "4") .. "'", "$T - <job.lua", "$T <job.lua", "$T -i <lines" } do
      local done = run(command, files)
      assert.equal(0, done.code, done.stderr)
      contains(done.stdout, "__kernel void", command:find "-i" and "x * scale" or "x * 3")
    end
  end)
end)

describe("the OpenCL C of a function", function()
  it("is what its Lua was made to, with the lines as comments", function()
    local f = app:func(function(x)
      local y = x * 2 -- twice
      return y + 1
    end)
    contains(f:opencl(), "__kernel void tidepool_f(", "local y = x * 2 -- twice", "return y + 1")
  end)

  it("is the user's own where that was given", function()
    contains(app:func { kernel = "double f(double x) { return x; }" }:opencl(), "double f(double x) { return x; }", "__kernel void tidepool_f(")
  end)
end)

describe("a function in OpenCL C", function()
  on_device("of one element takes numbers and gives what it returns", function()
    local length = app:func { kernel = [[
      double square(double x) { return x * x; } // a helper
      double length_of(double x, double y) { return sqrt(square(x) + square(y)); }
    ]] }
    assert.equal("length", length.name)
    assert.same({ 5, 13, n = 2 }, length:map({ 3, 5 }, { 4, 12 }):list())
    assert.equal(5, length:remote(3, 4))
    assert.equal(5, length(3, 4))
    assert.same({ 5, n = 1 }, length:map(tidepool.array("float", { 3 }), tidepool.array("int16", { 4 })):array():list())
  end)

  on_device("may have more results, through pointers, and integer types", function()
    local divide = app:func { kernel = "int quotient(int a, int b, int *rest) { *rest = a % b; return a / b; }" }
    local quotients, rests = divide:map({ 7, 9 }, { 2, 5 }):list()
    assert.same({ 3, 1, n = 2 }, quotients)
    assert.same({ 1, 4, n = 2 }, rests)
    assert.same({ 3, 1 }, { divide:remote(7, 2) })
    assert.equal("int32", divide:map(tidepool.array("int32", { 7 }), tidepool.array("int32", { 2 })):array().ctype)
  end)

  on_device("takes numbers and arrays by name, as they are at each map", function()
    local with = { scale = 10, weights = tidepool.array("float", { 1, 2, 3 }) }
    local f = app:func { with = with, kernel = [[
      double weigh(int i, __global const float *weights, double scale) { return weights[i] * scale; }
    ]] }
    assert.same({ 10, 30, n = 2 }, f:map({ 0, 2 }):list())
    with.scale, with.weights = 2, tidepool.array("float", { 7 })
    assert.same({ 14, n = 1 }, f:map({ 0 }):list())
    with.weights = tidepool.array("double", { 7 })
    support.mistake(function() f:map({ 0 }) end, "with.weights must be an array of float")
  end)

  on_device("may be a whole kernel", function()
    local saxpy = app:func { with = { a = 2 }, kernel = [[
      __kernel void saxpy(__global const float *x, __global const float *y, __global float *out, float a, ulong n) {
        ulong i = get_global_id(0);
        if (i < n) out[i] = a * x[i] + y[i];
      }]] }
    assert.same({ 12, 24, n = 2 }, saxpy:map(tidepool.array("float", { 1, 2 }), tidepool.array("float", { 10, 20 })):array():list())
    assert.same({ 12, 24, n = 2 }, saxpy:map({ 1, 2 }, { 10, 20 }):list())
  end)

  on_device("may be a kernel as they are found: of any count, groups, constant arrays, helpers and macros", function()
    local f = app:func { with = { k = 3, t = tidepool.array("float", { 1, 2, 3 }) }, kernel = [[
      #define TWICE(a) ((a) * 2)
      __kernel void other(__global double *x, int n) { x[0] = n; } // not the last one
      typedef struct { double x, y; } pair; /* double f(double x) { */
      double product(pair p) { return p.x * p.y; }
      __attribute__((reqd_work_group_size(8, 1, 1)))
      __kernel void f(__global const double *restrict x, __global double *y, __global double *z, const double k, __constant float *t, const int n) {
        int i = get_global_id(0);
        if (i >= n) return;
        pair p = { x[i], k };
        y[i] = product(p);
        z[i] = TWICE(t[i % 3]) + get_local_size(0);
      }]] }
    local y, z = f:map({ 1, 2, 3, 4 }):list()
    assert.same({ 3, 6, 9, 12, n = 4 }, y)
    assert.same({ 10, 12, 14, 10, n = 4 }, z)
    local g = app:func { with = { t = tidepool.array("int32", { 10, 20 }) }, kernel = "int pick(int i, __constant int *t) { return t[i]; }" }
    assert.same({ 20, 10, n = 2 }, g:map({ 1, 0 }):list())
  end)

  on_device("that wants more local memory than the device has fails with kind device", function()
    local greedy = [[
      __kernel void f(__global const double *x, __global double *y, int n) {
        __local float all[1 << 24];
        all[get_local_id(0)] = x[0];
        barrier(CLK_LOCAL_MEM_FENCE);
        if (get_global_id(0) < n) y[get_global_id(0)] = all[0];
      }]]
    if not tidepool.devices()[1].driver:find "^[56]%." then
      local f = app:func { kernel = greedy }
      local failure = failure_of(f.remote, f, 1)
      assert.equal("device", failure.kind)
      contains(failure.message, "64 MiB of __local memory are over the device's ")
      return
    end
    -- PoCL 5 and 6 do not tell how much a kernel wants, and abort: it costs the input of a worker
    -- process.
    local f = app:func { executor = "processes" } (function(x)
      local device = tidepool.gpu.device()
      device:kernel(greedy)(1, device:buffer("double", { x }), device:buffer("double", 1), 1)
    end)
    local failure = failure_of(f.remote, f, 1)
    assert.equal("crash", failure.kind)
    contains(failure.stderr, "local memory")
  end)

  on_device("takes and gives integers of all widths, and booleans", function()
    local f = app:func { kernel = "uchar f(char a, uchar b, short c, ushort d) { return a + b + c + d; }" }
    assert.same({ 1, n = 1 }, f:map({ -1 }, { 3 }, { 5 }, { 250 }):list())
    local g = app:func { kernel = "long g(long a, ulong b) { return a + (long)b; }" }
    local sums = g:map(tidepool.array("int64", { 1, 2 ^ 53 }), tidepool.array("uint64", { 3, 1 })):array()
    assert.is_true(sums[1] == 4LL and sums[2] == 9007199254740993LL)
    local is_large = app:func { kernel = "bool h(int a) { return a > 2; }" }
    assert.same({ false, true, n = 2 }, is_large:map({ 1, 3 }):list())
  end)

  on_device("is reduced as on threads: reduce folds in order, any values", function()
    local twice = app:func { kernel = "double twice(double x) { return 2 * x; }" }
    local n = 5000
    assert.equal(n * (n + 1), twice:map(count_to(n)):sum())
    assert.equal(2 * n, twice:map(count_to(n)):max())
    assert.equal("2;4;6;", twice:map({ 1, 2, 3 }):reduce(function(text, x) return text .. x .. ";" end, ""))
  end)

  on_device("gives canonical NaNs, whatever it computes", function()
    local f = app:func { kernel = "double odd(double x) { return as_double(0xfffc000000000000UL + (ulong)x); }" }
    assert.equal("number", type(f:map({ 1 }):list()[1]))
    assert.equal("number", type(f:map(tidepool.array("double", { 1 })):array()[1]))
    assert.equal("number", type(f:remote(1)))
  end)

  on_device("that does not compile shows the compiler's log with the user's lines", function()
    local line = debug.getinfo(1, "l").currentline
    local f = app:func { kernel = [[
      double f(double x) {
        return unknown_name;
      }]] }
    local _, why = pcall(f.map, f, { 1 })
    contains(why, ("gpu_spec.lua:%d: f: "):format(line + 1), "compiling the program failed", ("gpu_spec.lua:%d:"):format(line + 3), "unknown_name")
  end)

  it("with a mistake says what is wrong", function()
    support.mistake(function() app:func({ kernel = "double f(double x) { return x; }" }, function() end) end, "a function is given twice")
    support.mistake(function() app:func { kernel = "double f(double x) { return x; }", precision = "single" } end, "option 'precision' is for Lua")
    support.mistake(function() app:func { with = { a = 1 } } end, "option 'with' goes with `kernel`")
    support.mistake(function() app:func { kernel = "x", with = { a = "b" } } end, "option 'with'", "not a number or typed array")
    local function complaint(text, with)
      local f = app:func { name = "f", kernel = text, with = with }
      local _, why = pcall(f.opencl, f)
      return why
    end
    contains(complaint "int x;", "there is no function in it")
    contains(complaint "void f(double x) { }", "f has no result")
    contains(complaint "double f(float4 x) { return x.x; }", "the parameter 'x' has the type 'float4'")
    contains(complaint "double f(__global const double *t) { return *t; }", "the array 't' has no value", "with = { t = ")
    contains(complaint("double f(double x) { return x; }", { y = 1 }), "f has no parameter 'y'")
    contains(complaint("double f(double x) { return x; }", { x = tidepool.array("double", 1) }), "'x' is a number, and `with` gives an array")
    contains(complaint "__kernel void f(__global double *out) { out[0] = 1; }", "it has no parameter `n`")
    contains(complaint "__kernel void f(__global double *out, double a, int n) { }", "the parameter 'a' has no value")
    contains(complaint "__kernel void f(__global double *out, char n) { }", "the parameter 'n' has no value")
    contains(complaint "__kernel void f(__global double *out, __constant double *t, int n) { }", "the array 't' has no value")
  end)
end)

describe("a mistake with a device", function()
  it("is a clear error where the option is written", function()
    support.mistake(function() app:func { gpu = 7 } end, "app:func: option 'gpu' must be true, or a device like", "got 7")
    support.mistake(function() app:func { gpu = {} } end, "option 'gpu' must be true")
    support.mistake(function() app:func { gpu = "nvidia:x" } end, [[option 'gpu' has "nvidia:x"]], "number of devices")
    support.mistake(function() app:func { gpu = "threads" } end, "only as the last of a list")
    support.mistake(function() app:func { precision = "half" } end, [[option 'precision' must be "double" or "single"]])
    support.mistake(function() app:func { kernel = "double f(double x) { return x; }", executor = "threads" } end,
      "options 'kernel' and 'executor' exclude each other")
  end)

  on_device("is an error of the call when no device is like that", function()
    local f = app:func({ gpu = "no such card" }, function(x) return x end)
    assert.equal(1, f(1))
    contains(select(2, pcall(function()
      local results = f:map { 1 }
      return results
    end)), "gpu_spec.lua:", 'f: gpu = "no such card": no such device; there', "\n  ")
  end)

  it("falls back to threads where that is said", function()
    local f = app:func({ gpu = { "no such card", "threads" } }, function(x) return "plain " .. x end)
    assert.same({ "plain 1", n = 1 }, f:map({ 1 }):list())
    assert.equal("plain 2", f:remote(2))
  end)

  on_device("that cannot be translated names the construct, its line and what to do", function()
    local f = app:func(function(x) return tostring(x) end)
    local line = debug.getinfo(1, "l").currentline - 1
    local _, why = pcall(f.map, f, { 1 })
    contains(why, ("gpu_spec.lua:%d: gpu function 'f': "):format(line), "tostring")
  end)

  it("without OpenCL is an error of the functions that need it, and of no others", function()
    local done = run([[TIDEPOOL_OPENCL=/none.so $T job.lua]], { ["job.lua"] = [[
      local app = require "tidepool".App()
      local f = app:func { gpu = true } (function(x) return x end)
      local g = app:func(function(x) return x + 1 end)
      print(g:remote(1), f(3))
      f:map { 1 }
    ]] })
    assert.equal("2\t3\n", done.stdout)
    assert.equal(1, done.code)
    contains(done.stderr, 'job.lua:5: f: gpu = "any": no OpenCL on this machine', "apt install")
  end)
end)
