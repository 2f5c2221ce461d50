--- Maps of maps on a device: in one launch (lua/tidepool/device/fused.lua) and, with an option that
-- keeps them apart, in one each. By itself, not by bench/run.lua:
--
--     tidepool bench/fused.lua [doubles]
--
-- Both are measured in turns, so that other load meets both.

local tidepool = require "tidepool"

local best = tidepool.devices()[1]
if not best then return print "there is no device" end
local n = tonumber(arg and arg[1]) or 1e7
local app = tidepool.App("fused", { gpu = true })
local scale = app:func(function(x) return 2 * x + 1 end)
local shift = app:func(function(x) return x - 3 end)
local wave = app:func(function(x) return math.sin(x) * math.cos(x) end)
local root = app:func(function(x) return math.sqrt(x * x + 1) end)
local xs = tidepool.array("double", n)
for i = 1, n do xs[i] = i / 1000 end

local APART = { window = n } -- any option does

local function chain(functions, options)
  local last = xs
  for i = 1, #functions - 1 do
    if options then last = functions[i]:map(last, options) else last = functions[i]:map(last) end
  end
  return functions[#functions]:map(last)
end

local function seconds(run)
  collectgarbage()
  collectgarbage()
  local began = tidepool.now()
  run()
  return tidepool.now() - began
end

local function compare(what, read, ...)
  local functions = { ... }
  local function together() return read(chain(functions)) end
  local function apart() return read(chain(functions, APART)) end
  local one, many = math.huge, math.huge
  together() apart() together()
  for _ = 1, 9 do one, many = math.min(one, seconds(together)), math.min(many, seconds(apart)) end
  print(("%-44s %9.2f ms together %9.2f ms apart %6.2f x"):format(what, one * 1e3, many * 1e3, many / one))
end

local function to_array(results) return results:array() end
local function to_sum(results) return results:sum() end

print(("%s, %d doubles"):format(best.name, n))
compare("2x+1, x-3", to_array, scale, shift)
compare("2x+1, x-3, 2x+1", to_array, scale, shift, scale)
compare("2x+1, x-3, 2x+1, x-3", to_array, scale, shift, scale, shift)
compare("2x+1, x-3, their sum", to_sum, scale, shift)
compare("sin*cos, sqrt(xx+1)", to_array, wave, root)
