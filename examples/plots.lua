-- What comes out of a map, seen at once: a curve, a distribution, a picture. The logistic map
-- x = r * x * (1 - x) settles, doubles its period, and becomes chaos as r grows.
--
--   tidepool run examples/plots.lua [--width 600] [--height 400] [--out logistic.png]
--
-- test: --width 60 --height 40 --out /dev/null
-- prints: x after 1,000 steps and more, for r from 2.8 to 4:
-- prints: ... 2.8                                                        4
-- prints: how fast neighbours part, the Lyapunov exponent (chaos where it is above 0):
-- prints:  -4.608 ..  -4.166 ... 1
-- prints: ...
-- prints:  0.2509 ..  0.6926 ... 97
-- prints: how often x is where, for each r: /dev/null

local tidepool = require "tidepool"
local app = tidepool.App "plots"

local FROM, TO = 2.8, 4

--- x after so many steps.
local function step(r, x, n)
  for _ = 1, n do x = r * x * (1 - x) end
  return x
end

local settled = app:func(function(r, i) return step(r, 0.3, 1000 + i) end)

local exponent = app:func(function(r)
  local x, sum = step(r, 0.3, 100), 0
  for _ = 1, 2000 do
    x = r * x * (1 - x)
    sum = sum + math.log(math.max(math.abs(r * (1 - 2 * x)), 1e-12))
  end
  return sum / 2000
end)

app:main { args = {
  width = { 600, "values of r in the picture" },
  height = { 400, "values of x in it" },
  out = { "logistic.png", "the picture" },
} } (function(o)
  local rs = {}
  for i = 1, 400 do rs[i] = FROM + (TO - FROM) * (i - 1) / 399 end

  -- four values for each r: xs that do not rise are drawn as points
  local fours = {}
  for i = 1, 4 * #rs do fours[i] = rs[math.ceil(i / 4)] end
  print "x after 1,000 steps and more, for r from 2.8 to 4:"
  tidepool.plot(fours, settled:map(fours, tidepool.range(#fours)))

  print "how fast neighbours part, the Lyapunov exponent (chaos where it is above 0):"
  exponent:map(rs):histogram(12)

  -- all workers count in one matrix, a column for each r
  local counts = tidepool.array("int32", { rows = o.height, columns = o.width })
  local draw = app:func(function(column)
    local r = FROM + (TO - FROM) * (column - 0.5) / counts.columns
    local x = step(r, 0.3, 500)
    for _ = 1, 4 * counts.rows do
      x = r * x * (1 - x)
      local row = counts.rows - math.floor(x * counts.rows)
      counts[{ row, column }] = math.min(counts[{ row, column }] + 1, 40)
    end
  end)
  draw:for_each(tidepool.range(o.width))
  counts:image(o.out)
  print("how often x is where, for each r: " .. o.out)
end)
