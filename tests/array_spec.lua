-- Typed arrays (DESIGN section 3): numbers in memory that all workers share.

local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

--- The error of fn must have this line of this file in front, and all the texts.
local function mistake(fn, ...)
  local ok, err = pcall(fn)
  assert.is_false(ok)
  err = tostring(err)
  assert.matches("array_spec%.lua:%d+: ", err)
  for _, text in ipairs { ... } do assert.is_truthy(err:find(text, 1, true), err) end
end

describe("A typed array", function()
  it("is made of a count or of a list, for each element type", function()
    for _, ctype in ipairs { "double", "float", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" } do
      local zeros, numbers = tidepool.array(ctype, 3), tidepool.array(ctype, { 1, 2, 3 })
      assert.equal(3, #zeros)
      assert.equal(ctype, zeros.ctype)
      assert.equal(0, tonumber(zeros[3]))
      assert.equal(2, tonumber(numbers[2]))
      numbers[2] = 7
      assert.equal(7, tonumber(numbers[2]))
    end
    assert.equal(0, #tidepool.array("double", 0))
    assert.equal(0, #tidepool.array("double", {}))
  end)

  it("starts with zeros also where memory is used again", function()
    for _ = 1, 20 do
      local a = tidepool.array("double", 5000)
      for i = 1, 5000 do assert(a[i] == 0) end
      a:fill(7)
      a = nil -- luacheck: ignore
      collectgarbage()
    end
  end)

  it("checks its bounds", function()
    local a = tidepool.array("double", 10)
    mistake(function() return a[0] end, "array index 0 is out of range", "10 elements")
    mistake(function() return a[11] end, "array index 11")
    mistake(function() return a[-1] end, "array index -1")
    mistake(function() return a[0 / 0] end, "out of range")
    mistake(function() a[11] = 1 end, "array index 11")
    mistake(function() a.x = 1 end, "array index x")
    mistake(function() a[1] = "one" end, "array element 1 must be a number", "one")
    mistake(function() return a:slice(2, 11) end, "slice", "1 to 10")
    local one = tidepool.array("double", 1)
    mistake(function() return one[2] end, "1 element")
  end)

  it("has views in the same memory, copies in other, and is filled", function()
    local a = tidepool.array("int32", { 1, 2, 3, 4, 5 })
    local middle, copy = a:slice(2, 4), a:copy()
    assert.same({ 2, 3, 4, n = 3 }, middle:list())
    middle[1] = 20
    assert.equal(20, a[2])
    assert.equal(2, copy[2])
    assert.same({ 9, 9, 9, n = 3 }, middle:fill(9):list())
    assert.same({ 1, 9, 9, 9, 5, n = 5 }, a:list())
    assert.same({ 9, 5, n = 2 }, a:slice(4):list())
    assert.equal(0, #a:slice(3, 2))
    assert.equal(5, a.data[4])
    a = nil -- luacheck: ignore
    collectgarbage()
    assert.equal(9, middle[1]) -- a view keeps the memory
  end)

  it("goes when nobody holds it, for which the collector is run the less often the larger Lua's heap is", function()
    local function count_collections(run)
      local count, is_done = 0, false
      local function watch()
        local one = newproxy(true)
        getmetatable(one).__gc = function()
          count = count + 1
          if not is_done then watch() end
        end
      end
      collectgarbage()
      watch()
      run()
      is_done = true
      return count
    end
    local core = require "tidepool.core"
    local function drop_two_gigabytes()
      local before, most = core.array_bytes(), 0
      for _ = 1, 128 do
        tidepool.array("double", 2 ^ 21)
        most = math.max(most, core.array_bytes() - before)
      end
      return most
    end
    local few
    assert(count_collections(function() few = drop_two_gigabytes() end) >= 4)
    assert(few <= 2 ^ 29, few)
    local heap = {}
    for i = 1, 100 do heap[i] = ("x"):rep(1000000) .. i end
    local collections = count_collections(drop_two_gigabytes)
    assert(collections <= 4, collections)
    assert.equal(100, #heap)
  end)

  it("gives a NaN that is safe in Lua, whatever bits the memory has", function()
    local a = tidepool.array("double", 2)
    ffi.cast("uint64_t *", a.data)[0] = 0xfffc000000000000ULL
    assert.equal("number", type(a[1]))
    assert.is_true(a[1] ~= a[1])
    local app = tidepool.App "nan"
    local kind = app:func(function(x) return type(x), x ~= x end)
    for i, name, is_nan in kind:map(a) do
      assert.equal("number", name)
      assert.equal(i == 1, is_nan)
    end
    local same = app:func(function(x) return x end)
    local list = same:map(a):list()
    assert.is_true(list[1] ~= list[1])
  end)

  it("says what is wrong with its arguments", function()
    mistake(function() tidepool.array("duble", 3) end, "duble", 'did you mean "double"')
    mistake(function() tidepool.array("double", -1) end, "at least 0")
    mistake(function() tidepool.array("double", 1.5) end, "integer")
    mistake(function() tidepool.array("double", { 1, "x" }) end, "element 2", "not a number")
    mistake(function() tidepool.array("double") end, "tidepool.array")
    mistake(function() tidepool.array("double", 2 ^ 44) end, "not enough memory")
  end)

  it("is freed when nobody holds it", function()
    local output = support.output_of [[
      local tidepool = require "tidepool"
      for _ = 1, 300 do tidepool.array("double", 2 ^ 20):fill(1) end -- 2.4 GB in all
      print(tonumber(io.open "/proc/self/status":read "*a":match "VmHWM:%s*(%d+)") < 700 * 1024)
    ]]
    assert.equal(support.sanitized and output or "true\n", output)
  end)
end)

for _, executor in ipairs { "threads", "inline" } do
  describe("On " .. executor .. " typed arrays", function()
    local app = tidepool.App("arrays", { executor = executor })

    it("are inputs, also several at once, and beside lists and ranges", function()
      local a, b = tidepool.array("double", { 1, 2, 3 }), tidepool.array("int8", { 10, 20, 30, 40 })
      local sum = app:func(function(x, y) return x + (y or 0) end)
      assert.same({ 1, 2, 3, n = 3 }, sum:map(a):list())
      assert.same({ 11, 22, 33, n = 3 }, sum:map(a, b):list())
      assert.same({ 11, 21, 31, n = 3 }, sum:map(b, { 1, 1, 1 }):list())
      assert.same({ 11, 22, 33, 44, n = 4 }, sum:map(tidepool.range(4), b):list())
      assert.equal(0, sum:map(tidepool.array("double", 0)):list().n)
      local wide = tidepool.array("int64", { 1, 2 })
      assert.equal("2LL", tostring((app:func(function(x) return x end):map(wide):list()[2])))
    end)

    it("are what returns says, for several values of several types", function()
      local halves = app:func { returns = { "double", "int32" } } (function(x) return x / 2, x * 2 end)
      local half, double = halves:map(tidepool.range(1000)):array()
      assert.equal("double", half.ctype)
      assert.equal("int32", double.ctype)
      for i = 1, 1000 do assert(half[i] == i / 2 and double[i] == 2 * i) end
      for i, h, d in halves:map { 5, 6 } do assert.same({ (4 + i) / 2, 2 * (4 + i) }, { h, d }) end
      local list, other = halves:map({ 5, 6 }):list()
      assert.same({ 2.5, 3, n = 2 }, list)
      assert.same({ 10, 12, n = 2 }, other)
      local n = 0
      local unknown = halves:map(function() n = n + 1 return n <= 100 and n or nil end):array()
      assert.equal(100, #unknown)
      assert.equal(50, unknown[100])
    end)

    it("are made of other results with results:array()", function()
      local length = app:func(function(s) return #s end)
      local a = length:map({ "a", "bb", "ccc" }):array("uint8")
      assert.equal("uint8", a.ctype)
      assert.same({ 1, 2, 3, n = 3 }, a:list())
      local id = app:func(function(x) return x end)
      assert.equal(0, #id:map({}):array())
      mistake(function() id:map({ 1, "x" }):array() end, "result 2", "x")
      mistake(function() id:map({ 1 }):array("floaty") end, "floaty")
    end)

    it("keep the promise of returns, item by item", function()
      local f = app:func { name = "f", returns = "double" } (function(x)
        if x == 3 then return "three" elseif x == 5 then return elseif x == 7 then error "seven" end
        return x
      end)
      local got = {}
      for i, r in f:map(tidepool.array("double", { 1, 2, 3, 4, 5, 6, 7, 8 }), { return_exceptions = true }) do
        got[i] = tidepool.is_failure(r) and r.message or r
      end
      assert.matches('returned string, but returns = "double"', got[3])
      assert.matches('returned nothing, but returns = "double"', got[5])
      assert.matches("seven", got[7])
      got[3], got[5], got[7] = 0, 0, 0
      assert.same({ 1, 2, 0, 4, 0, 6, 0, 8 }, got)
      assert.same({ 1, 2, -1, n = 3 }, f:map({ 1, 2, 3 }, { on_error = function() return -1 end }):array():list())
      local fine, failure = pcall(function() f:map({ 1, 2, 3 }):array() end)
      assert.is_false(fine)
      assert.equal(3, failure.index)
      -- Inputs that are not numbers take the general way, to the same arrays.
      local size = app:func { returns = { "int32", "double" } } (function(s) return #s, s == "b" and "no" or 1 end)
      local lengths = size:map({ "a", "b", "ccc" }, { on_error = function() return 0 end }):array()
      assert.same({ 1, 0, 3, n = 3 }, lengths:list())
    end)

    it("travel by reference: as upvalues, arguments and results, whole and in part", function()
      local shared = tidepool.array("double", 100)
      local write = app:func(function(i) shared[i] = i * i end)
      write:for_each(tidepool.range(100))
      for i = 1, 100 do assert(shared[i] == i * i) end
      local back = app:func(function(a, i) a[1] = i return a, a:slice(2, 3) end)
      local whole, part = back:remote(shared:slice(11, 20), -5)
      assert.equal(10, #whole)
      assert.equal(-5, shared[11])
      whole[1] = -6
      assert.equal(-6, shared[11])
      assert.same({ 144, 169, n = 2 }, part:list())
      local made = app:func(function(n) return tidepool.array("int16", n):fill(n) end):remote(4)
      collectgarbage()
      assert.same({ 4, 4, 4, 4, n = 4 }, made:list())
    end)

    it("of a million elements go through many slices in order, with a window too", function()
      local n = support.times(1000000)
      local xs = tidepool.array("double", n)
      for i = 1, n do xs[i] = i end
      local square = app:func { returns = "double" } (function(x) return x * x end)
      local squares = square:map(xs):array()
      for i = 1, n do assert(squares[i] == i * i) end
      local at = 0
      for i, r in square:map(xs, { window = 1000 }) do
        at = at + 1
        assert(i == at and r == i * i)
        if i == 5000 then break end
      end
    end)
  end)
end
