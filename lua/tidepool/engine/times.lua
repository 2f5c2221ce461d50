--- How the items of a map were run, for results:times(): typed arrays by their indexes.

local array = require "tidepool.array"
local core = require "tidepool.core"
local ffi = require "ffi"

local Times = {}
Times.__index = Times

local times = {}

-- The names of the arrays, and their element types.
local types = { queued = "double", started = "double", duration = "double", worker = "int32", attempts = "int32", device = "int32", lost = "int32" }
local UNKNOWN = 0 / 0
local AT_FIRST = 64 -- items that there is room for

--- Of no items yet. `is_far`: other machines run them, whose devices are not those of this one.
---@return table
function times.new(is_far)
  return setmetatable({ n = 0, room = 0, is_far = is_far, arrays = {}, made = {} }, Times)
end

--- Makes room for so many items. Those that have not been run have no times, a worker and attempts
--- of 0.
function Times:_grow(n)
  local room = math.max(n, 2 * self.room, AT_FIRST)
  for name, ctype in pairs(types) do
    local a, old = array.allocate(ctype, room, false), self.arrays[name]
    if old then ffi.copy(a.elements, old.elements, self.room * ffi.sizeof(array.c_name(ctype))) end
    local data, empty = a.elements, ctype == "double" and UNKNOWN or 0
    for k = self.room, room - 1 do data[k] = empty end
    self.arrays[name] = a
  end
  self.room = room
end

--- The place in tidepool.devices() of a device's number; 0: of none.
function Times:_place(number)
  return number > 0 and not self.is_far and require("tidepool.device.gpu").place(number) or 0
end

--- The n items from `first` on were run so, as core.job.ran gives it.
function Times:keep(first, n, queued, started, duration, worker, attempts, device, lost, compiled)
  if first + n - 1 > self.room then self:_grow(first + n - 1) end
  self.n = math.max(self.n, first + n - 1)
  if attempts == 0 then return end -- its result was known
  local arrays = self.arrays
  local queued_at, started_at, durations = arrays.queued.elements, arrays.started.elements, arrays.duration.elements
  local workers, tried, devices, losers = arrays.worker.elements, arrays.attempts.elements, arrays.device.elements, arrays.lost.elements
  device, lost = self:_place(device), self:_place(lost)
  for k = 0, n - 1 do
    local at = first + k - 1
    queued_at[at], started_at[at], durations[at] = queued, started + k * duration, duration
    workers[at], tried[at], devices[at], losers[at] = worker, attempts, device, lost
  end
  if compiled > 0 then self.made[#self.made + 1] = { device = device, seconds = compiled, how = "launched" } end
end

--- Programs were made inside of the job's items.
function Times:take_builds(job)
  local number, name, host, how, seconds = core.job.build(job)
  while number do
    self.made[#self.made + 1] = { device = self:_place(number), seconds = seconds, how = how, name = name, host = host ~= "" and host or nil }
    number, name, host, how, seconds = core.job.build(job)
  end
end

--- What results:times() gives. `builds`: what was made before the map's items ran, see gpu.builds.
---@param builds table[]?
---@return table
function Times:give(builds)
  local given = { builds = {} }
  for name, ctype in pairs(types) do
    given[name] = self.room > 0 and self.arrays[name]:slice(1, self.n):copy() or array.allocate(ctype, 0, false)
  end
  for _, list in ipairs { builds or {}, self.made } do
    for _, each in ipairs(list) do
      local name = each.name or each.device > 0 and require("tidepool.device.gpu").devices()[each.device].name or nil
      given.builds[#given.builds + 1] = { device = each.device, seconds = each.seconds, how = each.how, name = name, host = each.host }
    end
  end
  return given
end

return times
