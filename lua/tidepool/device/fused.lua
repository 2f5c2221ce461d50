--- Maps of maps as one: g:map(f:map(xs)) as a map over xs whose kernel calls f and gives g what it
--- returns, so that what is between never goes through memory.
--
-- A map starts at once, and so does f's. But a device waits 100 us for what becomes of a map before
-- it launches something (tp_job_is_undecided). If g:map comes in this time, as in a line like the
-- one above, f's map is held back, and what follows decides whether it runs by itself after all.
--
-- It does when anybody could tell the difference: by a failure, which both functions must be unable
-- to have, since it has an index and an input of one map; by random numbers, which follow from the
-- map; by arrays that items write to; by options of a map or a function, which are about its
-- items; by captured values that have changed since f's map was started; by results of f that are
-- no plain reals, and would be converted between. Otherwise each operation is the same one on the
-- same number, in vectors of the same width, and gives the same bits.
--
-- Whoever asks for results of f's map, before those of g's are read, has it started again.

local core = require "tidepool.core"
local executors = require "tidepool.engine.executors"
local func = require "tidepool.func"
local gpu = require "tidepool.device.gpu"

local fused = {}

-- Options that say nothing about items.
local PLAIN = { gpu = true, precision = true, returns = true, name = true }

-- By g and f: a pair, { seen = how often they have met, fn = both as one, made = its translations
-- by the types of the inputs; false: there is none }.
local pairs_of = setmetatable({}, { __mode = "k" })

local function pair_of(g, f)
  local of_g = pairs_of[g] or setmetatable({}, { __mode = "k" })
  pairs_of[g] = of_g
  of_g[f] = of_g[f] or { seen = 0, made = {} }
  return of_g[f]
end

local function is_plain(f)
  for name in pairs(f.options) do
    if not PLAIN[name] then return false end
  end
  return gpu.runs_all(f) and f.options.gpu ~= executors.AUTO
end

--- The one device that runs both; nil when there are several, or two. `only`: the one that f's map
--- is bound to.
local function device_of(g, f, only)
  local of_f, of_g = gpu.match(f.options.gpu, f.name), gpu.match(g.options.gpu, g.name)
  local device = only and { number = only.number } or #of_f == 1 and of_f[1]
  return device and #of_g == 1 and of_g[1].number == device.number and of_g[1] or nil
end

-- How many functions of users' a composed one calls.
local members = setmetatable({}, { __mode = "k" })
local MEMBERS_MAX = 8

--- The Function that calls g with what f returns, under g's name.
local function compose(g, f)
  local parameters = {}
  for i = 1, debug.getinfo(f.raw, "u").nparams do parameters[i] = "a" .. i end
  local list = table.concat(parameters, ", ")
  local n = (members[f] or 1) + 1
  -- with a text unlike that of f: the translator takes functions of the same text and line for one
  local text = ("local f, g = ... return function(%s) return g(f(%s)) end -- %d"):format(list, list, n)
  local both = func.new(assert(loadstring(text))(f.raw, g.raw), g.name, g.options, nil, g.core)
  members[both] = n
  return both
end

--- Does f give one real number, which goes from launch to launch as it is?
local function gives_real(f, made)
  local real = f.options.precision == "single" and "float" or "double"
  return #made.outputs == 1 and made.outputs[1].kind == "num" and made.outputs[1].ctype == real
end

--- May what the translation of both gives be that of f's translation and g's?
local function is_same(both, made)
  for _, argument in ipairs(both.arguments) do
    if argument.kind == "key" or argument.is_written then return false end
  end
  return not both.can_fail and both.lanes == made.lanes
end

--- The Function that runs both where that is possible, and known to be worth compiling: g was not
--- compiled yet, or the two have met before.
local function find(g, own)
  local origin, made = own.origin, own.settings.unit.made
  local f = origin.fn
  if not (is_plain(g) and is_plain(f) and f.options.precision == g.options.precision and gives_real(f, made)) then return nil end
  local device = device_of(g, f, origin.device)
  if not device or members[f] == MEMBERS_MAX then return nil end
  local pair, key = pair_of(g, f), table.concat(origin.types, " ")
  pair.seen = pair.seen + 1
  if pair.seen == 1 and gpu.is_compiled(g) then return nil end
  pair.fn = pair.fn or compose(g, f)
  local both = pair.made[key]
  if both == nil or both and not both:is_current() then
    local fine, translated = pcall(gpu.translation, pair.fn, device, origin.types)
    both = fine and translated
    pair.made[key] = both
  end
  if not (both and is_same(both, made)) then return nil end
  gpu.kernel(pair.fn, origin.types, nil, nil, origin.device)
  local kernel = gpu.kernel(f, origin.types, nil, nil, origin.device)
  return kernel == own.settings.kernel and pair.fn or nil
end

--- The Function whose map over the inputs of `own`, a map whose results nobody has read, gives what
--- g's map over these results would; nil where there is none, or that map runs already. Else it is
--- held back, for the caller to close it.
---@param g tidepool.Function
---@param own table  Results, with their origin
---@return tidepool.Function?
function fused.open(g, own)
  if not own.has_all_inputs then return nil end
  core.job.hold_back(own.job, true)
  local fine, both = true, nil
  if not core.job.has_begun(own.job) then fine, both = pcall(find, g, own) end
  if fine and both then return both end
  core.job.hold_back(own.job, false)
  if not fine and core.loop.is_interrupt(both) then error(both, 0) end
  return nil
end

return fused
