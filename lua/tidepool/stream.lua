--- Random numbers by hand: tidepool.random(seed, i).

local bit = require "bit"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local ffi = require "ffi"
local random = require "tidepool.engine.random"

local stream = {}

local bxor, band, lshift, rshift = bit.bxor, bit.band, bit.lshift, bit.rshift
local step, fraction, shape = random.step, random.fraction, random.shape
local int64 = ffi.typeof "int64_t"

--- A stream of random numbers, of tidepool.random.
---@class tidepool.Random
---@overload fun(from: number?, to: number?): number
local Random = {}
Random.__index = Random
stream.Random = Random
core.add_class("tidepool.stream.Random", Random, false)

-- The state is four numbers, each with 32 bits of the two halves from the lowest on, so that a
-- stream can travel.
local function join(low, high)
  return bxor(lshift(int64(high), 32), band(int64(low), 0xffffffffLL))
end

local function low_of(half) return tonumber(ffi.cast("int32_t", half)) end
local function high_of(half) return tonumber(ffi.cast("int32_t", rshift(half, 32))) end

--- A stream of random numbers: see tidepool.random.
---@return tidepool.Random
function stream.new(seed, i)
  if type(seed) ~= "number" then check.fail("tidepool.random: expected a number as the seed, got %s", check.show(seed)) end
  if i == nil then i = 0 end
  if type(i) ~= "number" then check.fail("tidepool.random: expected a number for which of the seed's streams, got %s", check.show(i)) end
  return setmetatable({ core.random.stream(seed, i) }, Random)
end

local function draw_by_hand(self)
  local bits, a, b = step(join(self[1], self[2]), join(self[3], self[4]))
  self[1], self[2], self[3], self[4] = low_of(a), high_of(a), low_of(b), high_of(b)
  return fraction(bits)
end

--- The next number of the stream: in [0, 1), or a whole one from 1 to m, or from m to n.
---@param ... number  nothing, m, or m and n
---@return number
function Random:__call(...)
  local n, from, to = select("#", ...), ...
  return shape(draw_by_hand(self), n, from, to)
end

function Random:__tostring()
  return "tidepool.Random"
end

return stream
