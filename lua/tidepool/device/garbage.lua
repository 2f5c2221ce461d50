--- Buffers and arrays that nobody holds any more, but which Lua has not freed: they keep memory of
--- devices, of which Lua knows nothing. So the garbage collector is run when many buffers were
--- made, and after a device was short of memory.

local core = require "tidepool.core"

local garbage = {}

-- Bytes of buffers that were made since the last collection, by device number; and how large a
-- part of a device's memory may be garbage, which maps cannot have either.
local new_bytes, SHARE = {}, 1 / 8
local shortages = 0 -- what core.device.shortages() was at the last collection

--- Frees what nobody holds.
function garbage.collect()
  collectgarbage()
  collectgarbage() -- frees what finalizers of the first run held
  new_bytes, shortages = {}, core.device.shortages()
end

--- To be called before something is to have memory of a device.
function garbage.look()
  if core.device.shortages() ~= shortages then garbage.collect() end
end

--- To be called before a buffer of so many bytes is made.
---@param device table  of gpu.devices
---@param bytes integer
function garbage.pace(device, bytes)
  local before = new_bytes[device.number] or 0
  if before + bytes > device.memory * SHARE then garbage.collect() else garbage.look() end
  new_bytes[device.number] = (new_bytes[device.number] or 0) + bytes
end

return garbage
