--- Numbers that are read from memory in which others may write: NaNs are made LuaJIT's own first.
--
-- LuaJIT keeps all values in the bits of a double, and reads NaNs other than its own as tagged
-- values; the FFI loads doubles without checking (lj_cconv.c says so). So the exponent is read as
-- an integer first, and only finite numbers are loaded as doubles.

local bit = require "bit"

local bits = {}

local band = bit.band
local inf, nan = 1 / 0, 0 / 0

bits.DOUBLE_EXPONENT = 0x7ff00000 -- in the upper half
bits.FLOAT_EXPONENT = 0x7f800000

--- The double with these halves, whose exponent bits are all set: an infinity or NaN.
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
