--- Elements of arrays that several workers change at once.

local support = require "tests.support"
local tidepool = require "tidepool"

local wide = { "int32", "uint32", "int64", "uint64", "float", "double" }

describe("An array's element", function()
  it("is changed by add, max, min and compare_and_swap, which give what it was", function()
    for _, name in ipairs(wide) do
      local a = tidepool.array(name, { 5, 7 })
      assert.equal(7, tonumber(a:add(2, 3)))
      assert.equal(10, tonumber(a[2]))
      assert.equal(10, tonumber(a:max(2, 20)))
      assert.equal(20, tonumber(a:max(2, 4)))
      assert.equal(20, tonumber(a:min(2, 4)))
      assert.equal(4, tonumber(a:min(2, 20)))
      assert.is_false(a:compare_and_swap(2, 5, 6))
      assert.is_true(a:compare_and_swap(2, 4, 6))
      assert.equal(6, tonumber(a[2]))
      assert.equal(5, tonumber(a[1]))
      local view = a:slice(2)
      view:add(1, 1)
      assert.equal(7, tonumber(a[2]))
      assert.same({ 5, 7 }, { tonumber(a:min()), tonumber(a:max()) })
    end
    local big = tidepool.array("int64", { 2 ^ 53 })
    big:add(1, 1)
    assert.equal("9007199254740993LL", tostring(big[1]))
    big:max(1, 9007199254740995LL)
    assert.equal("9007199254740995LL", tostring(big[1]))
    local top = tidepool.array("uint64", { 0xffffffffffffffffULL })
    top:max(1, 1)
    assert.equal("18446744073709551615ULL", tostring(top[1]))
    local small = tidepool.array("int32", { -5 })
    small:add(1, -6)
    small:min(1, -20)
    assert.equal(-20, small[1])
    local real = tidepool.array("double", { 0.5 })
    real:add(1, 0.25)
    assert.equal(0.75, real[1])
  end)

  it("that is a NaN is safe in Lua", function()
    local ffi = require "ffi"
    local a = tidepool.array("double", 2)
    ffi.cast("uint64_t *", a.data)[0] = 0xfffc000000000000ULL
    local before = a:add(1, 1)
    assert.equal("number", type(before))
    assert.is_true(before ~= before)
    for _ = 1, 200 do -- compiled
      before = a:max(2, 0 / 0)
      a:add(2, 1)
      assert(type(before) == "number")
    end
  end)

  it("loses nothing when all workers change it at once", function()
    for _, name in ipairs(wide) do
      local a = tidepool.array(name, 4)
      local app = tidepool.App "atomics"
      local n = support.times(40000)
      local change = app:func(function(i)
        a:add(1, 1)
        a:max(2, i)
        a:min(3, -i % 1000)
        repeat local seen = a[4] until a:compare_and_swap(4, seen, seen + 1)
      end)
      a[3] = 5000
      assert.same({ ok = n, failed = 0 }, change:for_each(tidepool.range(n)))
      assert.same({ n, n, 0, n }, { tonumber(a[1]), tonumber(a[2]), tonumber(a[3]), tonumber(a[4]) }, name)
    end
  end)

  it("says what is wrong", function()
    local a, bytes = tidepool.array("int32", 3), tidepool.array("uint8", 3)
    support.mistake(function() bytes:add(1, 1) end, "array:add: elements of type uint8 cannot be changed by several at once", "int32")
    support.mistake(function() a:add(4, 1) end, "array index 4 is out of range: the array has 3 elements")
    support.mistake(function() a:max(1.5, 1) end, "array index 1.5 is not a whole number")
    support.mistake(function() a:max(1) end, "array:max: expected a number, got nil")
    support.mistake(function() a:add(1, 0.5) end, "array:add: elements of type int32 take whole numbers, got 0.5")
    support.mistake(function() a:add(1, "x") end, "array:add: expected a number", "x")
    support.mistake(function() a:compare_and_swap(1, 2, {}) end, "array:compare_and_swap: expected a number, got a table")
    support.mistake(function() a:add(1, 2, 3) end, "array:add takes (index, value), but has got more: 3")
  end)
end)

if #tidepool.devices() > 0 then
  describe("On a device", function()
    local app = tidepool.App("atomics", { gpu = true })

    it("add, max and min change an element in one step, too", function()
      for _, name in ipairs { "double", "int32" } do
        local a = tidepool.array(name, 3)
        local n = 5000
        local change = app:func(function(i)
          a:add(1, 1)
          a:max(2, i)
          a:min(3, -i)
        end)
        assert.same({ ok = n, failed = 0 }, change:for_each(tidepool.range(n)))
        assert.same({ n, n, -n, n = 3 }, a:list())
      end
      local counts = tidepool.array("int32", 10)
      local count = app:func(function(i) counts:add(i % 10 + 1, i % 10 < 5 and 1 or 2) end)
      count:for_each(tidepool.range(10000))
      assert.same({ 1000, 1000, 1000, 1000, 1000, 2000, 2000, 2000, 2000, 2000, n = 10 }, counts:list())
    end)

    it("what they give is refused by name", function()
      local a = tidepool.array("int32", 3)
      local f = app:func(function(i) return a:add(1, i) end)
      support.contains(tostring(select(2, pcall(function() return f:map({ 1 }):list() end))),
        "what 'a:add' gives; on a device it is a statement that gives nothing")
      local g = app:func(function(i) a:add(i) end)
      support.contains(tostring(select(2, pcall(function() return g:map({ 1 }):list() end))), "'a:add' without an index and a value")
    end)
  end)
end
