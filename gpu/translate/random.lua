-- random.lua: tidepool.gpu.random(seed, i [, draw]): random numbers without a state.
--
-- A device has no state that its elements could share, and a parallel map no order in which to draw
-- from one. So a draw is a function of its arguments: the same ones give the same number,
-- everywhere, bit for bit, in plain Lua and on a device in double precision (single precision gives
-- the leading 24 bits). The generator is Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel
-- random numbers: as easy as 1, 2, 3", 2011), which passes the usual batteries of tests: seed is
-- its key, i and draw are its counter, each with all the bits of its double.

local bit = require "bit"
local ffi = require "ffi"

local band, bxor, rshift, lshift = bit.band, bit.bxor, bit.rshift, bit.lshift
local LOW = 0xffffffffULL
local bits = ffi.new "union { double number; uint64_t word; }"

-- The bits of a number; 0 and -0 have the same.
local function word(number)
    bits.number = number + 0
    return bits.word + 0ULL
end

---A random number in [0, 1) with 53 random bits, uniform. Compiled by LuaJIT, and known to the
---translator.
---@param seed number any number; different seeds are unrelated
---@param i number any number, usually the element's index; the one that comes after i is unrelated
---@param draw number? counts the draws for one element; 0 when it is missing
---@return number
local function random(seed, i, draw)
    local key, low, high = word(seed), word(i), word(draw or 0)
    local k0, k1 = band(key, LOW), rshift(key, 32)
    local c0, c1, c2, c3 = band(low, LOW), rshift(low, 32), band(high, LOW), rshift(high, 32)
    for _ = 1, 10 do
        local p0, p1 = c0 * 0xd2511f53ULL, c2 * 0xcd9e8d57ULL
        c0, c1 = bxor(rshift(p1, 32), c1, k0), band(p1, LOW)
        c2, c3 = bxor(rshift(p0, 32), c3, k1), band(p0, LOW)
        k0, k1 = band(k0 + 0x9e3779b9ULL, LOW), band(k1 + 0xbb67ae85ULL, LOW)
    end
    return tonumber(bxor(lshift(c0, 21), rshift(c1, 11))) * 0x1p-53
end

return random
