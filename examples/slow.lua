-- Three common reasons why a parallel program is slow, in one script, and a report that names them:
--
--   tidepool run examples/slow.lua --report slow.html
--
-- examples/mended.lua gives the same figures without them.
--
-- prints: readings: 600000, their mean: 0.500
-- prints: the best of 12 rounds: round 9
-- prints: primes below 1500000: 114155

local tidepool = require "tidepool"
local app = tidepool.App "slow"

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

local sum = app:func { name = "sum" } (function(readings)
  local total = 0
  for _, x in ipairs(readings) do total = total + x end
  return total
end)

--- Reads the pages and parses them, one after the other, while the workers wait for inputs.
local function pages()
  local number = 0
  return function()
    number = number + 1
    if number <= 120 then return parse(page(number)) end
  end
end

local weights = {}
for i = 1, 60000 do weights[i] = { (i * 7919) % 1000 } end

-- The table `weights` goes to the workers again in each round, since it has changed.
local score = app:func { name = "score" } (function(first)
  local total = 0
  for i = first, first + 99 do total = total + weights[i][1] end
  return total
end)

-- The last input takes longest by far.
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
  local total = sum:map(pages()):sum()
  print(("readings: %d, their mean: %.3f"):format(600000, total / 600000))

  local best, best_round = 0, nil
  for round = 1, 12 do
    weights[round] = { round == 9 and 99999 or 0 }
    local most = score:map(tidepool.range(1, 59001, 1000)):sum()
    if most > best then best, best_round = most, round end
  end
  print(("the best of %d rounds: round %d"):format(12, best_round))

  local from, to = {}, {}
  for i = 1, 40 do from[i], to[i] = (i - 1) * 25000 + 1, i * 25000 end
  from[41], to[41] = 1000001, 1500000
  print("primes below 1500000: " .. count_primes:map(from, to):sum())
end)
