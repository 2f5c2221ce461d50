--- The queues by which this Lua state gives commands to devices that are driven by hand.
--
-- A state has one queue of each device, and more where somebody asks for them (device:queue()).
-- These have numbers, so that they may travel: each worker has its own one of that number.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local garbage = require "tidepool.device.garbage"

local queues = {}

--- Raises a Failure of kind "device", for something that a device could not do, with the caller's
--- position.
local function fail_device(format, ...)
  error(failure.new { kind = abi.kind.DEVICE, message = check.where() .. format:format(...) }, 0)
end

--- Returns `made`, the result of a function of core; when that is nil raises `why` in the name of
--- `who`.
function queues.must(who, made, why)
  if not made then fail_device("%s: %s", who, why) end
  return made
end

--- The same for a call that needs memory: if it fails, it is tried again after the garbage
--- collector has freed unused buffers; but not a launch that was started, which would run twice.
function queues.must_find_memory(who, call, ...)
  local made, why, was_started = call(...)
  if made or was_started then return queues.must(who, made, why) end
  garbage.collect()
  return queues.must(who, call(...))
end

local PATIENCE_S = 1 -- how long a map that was given up may take to end by itself
local NUMBERS_MAX = 32 -- queues of a device beside the first one

local open = {} -- by device number: queues of core, by their number

--- The queue of core for a device, or for a queue of it, which is opened when there is none.
---@param device tidepool.Device
---@return userdata
function queues.of(device)
  local of_device, number = open[device.number] or {}, device.queue_number or 0
  open[device.number] = of_device
  local queue = of_device[number]
  local is_lost = queue and core.queue.is_lost(queue) -- then its functions say so
  if core.device.is_stuck(device.number, is_lost and 0 or PATIENCE_S) then
    local is_free, why = core.device.free_up(device.number)
    if is_free then
      queue = not is_lost and queue
    elseif not is_lost then
      fail_device("%s", why)
    end
  end
  if not queue or core.queue.is_over(queue) then
    local why
    queue, why = core.queue.new(device.number)
    if not queue then fail_device("%s", why) end
    of_device[number] = queue
  end
  return queue
end

--- All queues of core that a device stands for: of a queue that one, else all that this state has
--- opened.
---@param device tidepool.Device
---@return userdata[]
function queues.all_of(device)
  local list = { queues.of(device) }
  for number, queue in pairs(not device.queue_number and open[device.number] or {}) do
    if number > 0 and not core.queue.is_over(queue) then list[#list + 1] = queue end
  end
  return list
end

local numbered = setmetatable({}, { __mode = "k" }) -- the Devices that this state gave a number

local function free_number(device)
  local is_used = {}
  for other in pairs(numbered) do
    if other.number == device.number then is_used[other.queue_number] = true end
  end
  for number = 1, NUMBERS_MAX do
    if not is_used[number] then return number end
  end
end

--- Makes a Device stand for a queue that no other one of this state stands for.
---@param device tidepool.Device
function queues.number(device)
  local number = free_number(device)
  if not number then
    garbage.collect()
    number = free_number(device)
  end
  if not number then check.fail("device:queue: %s has %d queues by now: use those, or let go of some", device.name, NUMBERS_MAX) end
  device.queue_number = number
  numbered[device] = true
end

return queues
