-- examples/slow.lua without what its report found:
--
--   tidepool run examples/mended.lua --report mended.html
--
--
-- prints: readings: 600000, their mean: 0.500
-- prints: the best of 12 rounds: round 9
-- prints: primes below 1500000: 114155

local tidepool = require "tidepool"
local app = tidepool.App "mended"

--- The text of a page of readings, as some device might send it.
local function page(number)
  local random, lines = tidepool.random(number), {}
  for i = 1, 5000 do lines[i] = ("%d;%.6f"):format(i, random()) end
  return table.concat(lines, "\n")
end

local function parse(text)
  local readings = {}
  for value in text:gmatch ";([%d.]+)" do readings[#readings + 1] = tonumber(value) end
  return readings
end

-- Inputs were slow: now an input is what a page is made of, and the workers make and parse it.
local sum = app:func { name = "sum" } (function(number)
  local total = 0
  for _, x in ipairs(parse(page(number))) do total = total + x end
  return total
end)

local weights = {}
for i = 1, 60000 do weights[i] = { (i * 7919) % 1000 } end

-- Encoding took long: now `weights` goes to the workers once, and what has changed is an argument.
local shared = tidepool.share(weights)

local score = app:func { name = "score" } (function(first, changed)
  local total, fixed = 0, shared()
  for i = first, first + 99 do total = total + (changed[i] or fixed[i][1]) end
  return total
end)

local count_primes = app:func { name = "count_primes" } (function(from, to)
  local n = 0
  for x = math.max(from, 2), to do
    local is_prime = true
    for d = 2, math.floor(math.sqrt(x)) do
      if x % d == 0 then
        is_prime = false
        break
      end
    end
    if is_prime then n = n + 1 end
  end
  return n
end)

app:main(function()
  local total = sum:map(tidepool.range(120)):sum()
  print(("readings: %d, their mean: %.3f"):format(600000, total / 600000))

  local best, best_round, changed = 0, nil, {}
  for round = 1, 12 do
    local inputs = {}
    changed[round] = round == 9 and 99999 or 0
    for i = 1, 60 do inputs[i] = { (i - 1) * 1000 + 1, changed } end
    local most = score:starmap(inputs):sum()
    if most > best then best, best_round = most, round end
  end
  print(("the best of %d rounds: round %d"):format(12, best_round))

  local from, to = {}, {}
  for i = 1, 40 do from[i], to[i] = (i - 1) * 25000 + 1, i * 25000 end
  -- One long item came last: now it comes first.
  table.insert(from, 1, 1000001)
  table.insert(to, 1, 1500000)
  print("primes below 1500000: " .. count_primes:map(from, to):sum())
end)
