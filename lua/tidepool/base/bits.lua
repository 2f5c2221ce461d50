--- Numbers that are read from memory which others may have written: a NaN must get LuaJIT's own bits first.
--
-- LuaJIT keeps all values in the bits of a double; NaNs other than its own are tagged values to it, and it takes what FFI loads as
-- it is (lj_cconv.c says so). Whether a number is finite is seen by its exponent, read as an integer, before it is loaded.

local bit = require "bit"

local bits = {}

local band = bit.band
local inf, nan = 1 / 0, 0 / 0

bits.DOUBLE_EXPONENT = 0x7ff00000 -- in the upper half
bits.FLOAT_EXPONENT = 0x7f800000

--- The double with these halves, of which the exponent is all ones: an infinity or a NaN.
function bits.special_double(high, low)
  if band(high, 0xfffff) ~= 0 or low ~= 0 then return nan end
  return high < 0 and -inf or inf
end

--- The same for a float.
function bits.special_float(word)
  if band(word, 0x7fffff) ~= 0 then return nan end
  return word < 0 and -inf or inf
end

return bits
