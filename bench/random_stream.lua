--- The random numbers of neighbouring inputs as one stream of 32-bit words on standard output, for
-- batteries of statistical tests:
--
--   build/tidepool bench/random_stream.lua [--inputs N] [--draws D] [--bytes B] |
--     dieharder -a -g 200
--
-- (Debian's package dieharder; PractRand's `RNG_test stdin32` reads it, too.) The words are those
-- of maps over N inputs (100,000), each of which draws D numbers (8): the first draw of all inputs,
-- then the second of all, and so on, and then the next map. So what stands side by side are the
-- streams of neighbours, and what would show is that they, or maps one after the other, are not
-- independent. --draws 1 tests first draws only. Of a number's 53 bits the upper 32 are taken, and
-- the lower 32 of every other draw. Without --bytes it ends when its reader does.

local ffi = require "ffi"
local tidepool = require "tidepool"

local given = { inputs = 100000, draws = 8, bytes = math.huge }
for i = 1, #arg, 2 do
  local name = arg[i]:match "^%-%-(%l+)$"
  local value = tonumber(arg[i + 1])
  if not given[name] or not value or value < 1 then
    io.stderr:write("usage: tidepool bench/random_stream.lua [--inputs N] [--draws D] [--bytes B]\n")
    os.exit(2)
  end
  given[name] = value
end

local inputs, draws = given.inputs, given.draws
local words = tidepool.array("uint32", inputs * draws)

local draw = tidepool.App("random"):func(function(i)
  for d = 0, draws - 1 do
    local x = math.random() * 2 ^ 53
    words[d * inputs + i] = d % 2 == 0 and math.floor(x / 2 ^ 21) or x % 2 ^ 32
  end
end)

local left = given.bytes
while left > 0 do
  draw:for_each(tidepool.range(inputs))
  local n = math.min(left, 4 * inputs * draws)
  if not io.write(ffi.string(words.data, n)) then return end
  left = left - n
end
