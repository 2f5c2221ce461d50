-- tidepool.int: products of integers, here and in mapped functions. The same code on devices is
-- tried in tests/device/gpu_int_spec.lua.

local bit = require "bit"
local tidepool = require "tidepool"

local int = tidepool.int
local LEAST = -0x7fffffffffffffffLL - 1

-- All pairs of these, and of others that follow from a seed.
local function each_pair(values, check)
  for _, a in ipairs(values) do
    for _, b in ipairs(values) do check(a, b) end
  end
end

describe("tidepool.int.mul32", function()
  it("is the product modulo 2^32, in the range of an int32", function()
    local values = { 0, 1, -1, 2, 3, 65535, 65536, 65537, -65536, 2 ^ 31 - 1, -2 ^ 31, 2 ^ 31, 2 ^ 32 - 1, 0xcc9e2d51, 0x1b873593, 0x9E3779B1 }
    for i = 1, 40 do values[#values + 1] = math.floor(tidepool.gpu.random(1, i) * 2 ^ 32) end
    each_pair(values, function(a, b)
      local exact = tonumber(bit.band((a + 0LL) * (b + 0LL), 0xffffffffLL))
      assert.equal(exact >= 2 ^ 31 and exact - 2 ^ 32 or exact, int.mul32(a, b))
    end)
  end)

  it("is exact where a product of doubles is not", function()
    assert.equal(1, int.mul32(2 ^ 31 - 1, 2 ^ 31 - 1))
    assert.not_equal(1, bit.tobit((2 ^ 31 - 1) * (2 ^ 31 - 1)))
  end)

  it("takes 64-bit integers, too, and gives a number", function()
    assert.equal(-3, int.mul32(0x1ffffffffLL, 3ULL))
    assert.equal("number", type(int.mul32(5LL, 3)))
  end)
end)

describe("tidepool.int.mul64hi", function()
  -- by 32-bit digits, from the lowest to the highest
  local function upper_half(a, b)
    local function digits(x) return { bit.band(x, 0xffffffffULL), bit.rshift(x, 32) } end
    local x, y, sums = digits(a), digits(b), { 0ULL, 0ULL, 0ULL, 0ULL }
    for i = 1, 2 do
      local carry = 0ULL
      for k = 1, 2 do
        local sum = x[i] * y[k] + sums[i + k - 1] + carry
        sums[i + k - 1], carry = bit.band(sum, 0xffffffffULL), bit.rshift(sum, 32)
      end
      sums[i + 2] = carry
    end
    return bit.bor(sums[3], bit.lshift(sums[4], 32))
  end

  it("is the upper half of the product of two uint64", function()
    local values = { 0ULL, 1ULL, 2ULL, 0xffffffffULL, 0x100000000ULL, 0x7fffffffffffffffULL, 0x8000000000000000ULL, 0xffffffffffffffffULL,
      0x9E3779B97F4A7C15ULL, 0xa0761d6478bd642fULL }
    for i = 1, 30 do values[#values + 1] = (0x9E3779B97F4A7C15ULL * i) ^ 3 end
    each_pair(values, function(a, b) assert.equal(tostring(upper_half(a, b)), tostring(int.mul64hi(a, b))) end)
    assert.equal("18446744073709551614ULL", tostring(int.mul64hi(0xffffffffffffffffULL, 0xffffffffffffffffULL)))
  end)

  it("takes int64 and numbers as arithmetic with an uint64 does", function()
    assert.equal("18446744073709551614ULL", tostring(int.mul64hi(-1LL, -1LL)))
    assert.equal("4611686018427387904ULL", tostring(int.mul64hi(LEAST, LEAST)))
    assert.equal("1ULL", tostring(int.mul64hi(2 ^ 63, 2)))
    assert.equal("0ULL", tostring(int.mul64hi(7, 9.9)))
  end)
end)

describe("tidepool.int", function()
  it("says which argument is wrong, at the caller's line", function()
    local function message(...)
      local _, why = pcall(...)
      return (why:gsub("^.-:%d+: ", ""))
    end
    assert.equal('tidepool.int.mul32: argument 1 must be a number or a 64-bit integer, got the string "7"', message(int.mul32, "7", 1))
    assert.equal("tidepool.int.mul64hi: argument 2 must be a number or a 64-bit integer, got nil", message(int.mul64hi, 1ULL))
    local _, why = pcall(function() int.mul32({}, 1) end)
    assert.matches("^[^:]*int_spec%.lua:%d+: ", why)
  end)

  it("is in mapped functions, captured or by its name, on threads and in processes", function()
    local mul32 = int.mul32
    for _, executor in ipairs { "threads", "processes" } do
      local app = tidepool.App()
      local f = app:func { executor = executor } (function(x)
        return mul32(x, 0x9E3779B1), tostring(require("tidepool").int.mul64hi(x, 0x9E3779B97F4A7C15ULL)), int.mul32 == require("tidepool").int.mul32
      end)
      local results = {}
      for _, a, b, same in f:map({ 3 }) do results = { a, b, same } end
      assert.same({ -626627309, "1ULL", true }, results)
    end
  end)

  it("has no other function", function()
    local ok, why = pcall(function() return tidepool.int.mul16(1, 2) end)
    assert.is_false(ok)
    assert.matches("tidepool%.int has no function 'mul16'", why)
  end)
end)

describe("a 64-bit integer", function()
  it("is a result of a function whose `returns` says so, in both kinds, with numbers beside it", function()
    for _, executor in ipairs { "inline", "threads", "processes" } do
      local f = tidepool.App():func { executor = executor, returns = { "int64", "uint64", "double" } } (function(x)
        return -5LL * x, x > 1 and 0xffffffffffffffffULL or 7, x
      end)
      local a, b, c = f:map({ 1, 2 }):array()
      assert.same({ "-5LL", "-10LL", "7ULL", "18446744073709551615ULL", "2" },
        { tostring(a[1]), tostring(a[2]), tostring(b[1]), tostring(b[2]), tostring(c[2]) })
    end
  end)

  it("is none of a function whose `returns` says double", function()
    local ok, why = pcall(function() return tidepool.App():func { returns = "double" } (function() return 1LL end):map({ 1 }):list() end)
    assert.is_false(ok)
    assert.matches('it returned a cdata<int64_t>, but returns = "double"', tostring(why))
  end)
end)
