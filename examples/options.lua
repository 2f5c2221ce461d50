-- Prices of European options by Black and Scholes' formula, on a device: calls and puts of a
-- million options, checked against the same function in plain Lua, against the closed form with C's
-- erfc, and against put-call parity. Without a device, worker threads run the function.
--
--   tidepool run examples/options.lua [--n 1000000]
--
-- test: --n 20000
-- prints: 20000 options in ... s; plain Lua takes ... s
-- prints: largest difference to plain Lua: below 1e-11
-- prints: largest difference to the closed form, per spot and strike: below 7.5e-08
-- prints: largest breach of put-call parity: below 1e-11

local ffi = require "ffi"
local tidepool = require "tidepool"
local app = tidepool.App "options"

local rate, volatility = 0.02, 0.3

--- The cumulative normal distribution, by Abramowitz and Stegun's 26.2.17: good to 7.5e-8.
local function normal(x)
  local k = 1 / (1 + 0.2316419 * math.abs(x))
  local tail = math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    * k * (0.319381530 + k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978 + k * 1.330274429))))
  return x < 0 and tail or 1 - tail
end

local price = app:func { gpu = { "any", "threads" }, returns = { "double", "double" } } (function(spot, strike, years)
  local spread = volatility * math.sqrt(years)
  local d1 = (math.log(spot / strike) + (rate + 0.5 * volatility * volatility) * years) / spread
  local d2 = d1 - spread
  local paid = strike * math.exp(-rate * years)
  return spot * normal(d1) - paid * normal(d2), paid * normal(-d2) - spot * normal(-d1)
end)

ffi.cdef "double erfc(double x);"

--- A call's price by the closed form, with the normal distribution of C's library.
local function exact_call(spot, strike, years)
  local function exact_normal(x) return 0.5 * ffi.C.erfc(-x / math.sqrt(2)) end
  local spread = volatility * math.sqrt(years)
  local d1 = (math.log(spot / strike) + (rate + 0.5 * volatility * volatility) * years) / spread
  return spot * exact_normal(d1) - strike * math.exp(-rate * years) * exact_normal(d1 - spread)
end

app:main { args = { n = { 1000000, "how many options" } } } (function(args)
  local n = args.n
  local spots, strikes, years = tidepool.array("double", n), tidepool.array("double", n), tidepool.array("double", n)
  for i = 1, n do
    spots[i] = 5 + 25 * tidepool.gpu.random(1, i)
    strikes[i] = 1 + 99 * tidepool.gpu.random(2, i)
    years[i] = 0.25 + 9.75 * tidepool.gpu.random(3, i)
  end

  price:remote(1, 1, 1) -- compiles it, the first time on this machine
  local began = tidepool.now()
  local calls, puts = price:map(spots, strikes, years):array()
  local seconds = tidepool.now() - began

  began = tidepool.now()
  local difference, breach, from_exact = 0, 0, 0
  for i = 1, n do
    local call, put = price(spots[i], strikes[i], years[i])
    difference = math.max(difference, math.abs(call - calls[i]), math.abs(put - puts[i]))
    local parity = calls[i] - puts[i] - (spots[i] - strikes[i] * math.exp(-rate * years[i]))
    breach = math.max(breach, math.abs(parity))
    from_exact = math.max(from_exact, math.abs(exact_call(spots[i], strikes[i], years[i]) - calls[i]) / (spots[i] + strikes[i]))
  end
  print(("%d options in %.3f s; plain Lua takes %.3f s"):format(n, seconds, tidepool.now() - began))

  local function show(x, limit) return x < limit and ("below %.2g"):format(limit) or ("%.3g"):format(x) end
  print("largest difference to plain Lua: " .. show(difference, 1e-11))
  print("largest difference to the closed form, per spot and strike: " .. show(from_exact, 7.5e-8))
  print("largest breach of put-call parity: " .. show(breach, 1e-11))
end)
