--- tidepool.int: products of integers that doubles do not hold: of 32 bits modulo 2^32, and the
--- upper half of one of 64 bits. The rest is LuaJIT's own: bit.*, and arithmetic of 64-bit integers
--- (1LL, 1ULL). Functions for devices may use these, too: see docs/devices.md.

local bit = require "bit"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"

local int = {}

local tobit, band, lshift, rshift = bit.tobit, bit.band, bit.lshift, bit.rshift
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"
local istype, cast, type = ffi.istype, ffi.cast, type
local LOW = 0xffffffffULL

--- Raises unless x is a number or a 64-bit integer, the argument of that number.
local function check_integer(x, method, which)
  if type(x) ~= "number" and not (type(x) == "cdata" and (istype(int64, x) or istype(uint64, x))) then
    check.fail("tidepool.int.%s: argument %d must be a number or a 64-bit integer, got %s", method, which, check.show(x))
  end
end

--- a * b modulo 2^32, in the range of an int32, as bit.* gives numbers: exact, where a * b of
-- doubles has lost the low bits. What is no int32 becomes one as in bit.tobit.
---@param a number|ffi.cdata*
---@param b number|ffi.cdata*
---@return integer
function int.mul32(a, b)
  check_integer(a, "mul32", 1)
  check_integer(b, "mul32", 2)
  a, b = tobit(a), tobit(b)
  -- both parts and their sum are less than 2^53
  return tobit(band(a, 0xffff) * b + lshift(tobit(rshift(a, 16) * b), 16))
end

--- The upper 64 bits of the product of two uint64, which has 128; a * b has the lower ones. Numbers
-- and int64 become uint64 as in arithmetic with one.
---@param a number|ffi.cdata*
---@param b number|ffi.cdata*
---@return ffi.cdata*  an uint64_t
function int.mul64hi(a, b)
  check_integer(a, "mul64hi", 1)
  check_integer(b, "mul64hi", 2)
  a, b = cast(uint64, a), cast(uint64, b)
  local a0, a1, b0, b1 = band(a, LOW), rshift(a, 32), band(b, LOW), rshift(b, 32)
  local low, middle = a0 * b0, a1 * b0
  local carry = rshift(low, 32) + band(middle, LOW) + a0 * b1 -- at most 2^64 - 1
  return a1 * b1 + rshift(middle, 32) + rshift(carry, 32)
end

core.add_builtins("tidepool.int", int) -- they travel by their names, by which devices know them, too

return setmetatable(int, { __index = function(_, key)
  check.fail("tidepool.int has no function %s; it has mul32 and mul64hi, and bit.* and arithmetic of 1LL do the rest", check.key(key))
end })
