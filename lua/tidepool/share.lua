--- Large constants: values that are encoded once, and decoded once by each worker that uses them.
-- See tidepool.share.

local check = require "tidepool.base.check"
local core = require "tidepool.core"

local share = {}

--- A value that is shared, called to have it: data().
---@class tidepool.Shared
---@overload fun(): any
local Shared = {}
share.Shared = Shared
core.add_class("tidepool.share.Shared", Shared, false)
Shared.__identity = "_identity" -- of the value

-- Shared values in this state. An object of ours holds its entry, { value }. In workers each
-- message brings new objects, so entries are found by the value's id there, and some entries that
-- no object holds are kept for the next message.
local KEPT = 16
local entry_of = setmetatable({}, { __mode = "k" })
local entries = setmetatable({}, { __mode = "v" })
local kept = { last = 0 }

local function keep(self, value)
  local entry, id = { value }, rawget(self, "_id")
  entries[id], entry_of[self] = entry, entry
  kept.last = kept.last % KEPT + 1
  kept[kept.last] = entry
  return entry
end

--- The entry for an object that came with a message.
local function find(self)
  local entry = entries[rawget(self, "_id")]
  if entry then
    entry_of[self] = entry
    return entry
  end
  local before = core.is_worker and core.random.set_aside()
  local value, why = core.value.unpack(rawget(self, "_packed"))
  if before then core.random.go_back(before, true) end
  if why then error("a shared value cannot be read here: " .. why, 0) end
  return keep(self, value)
end

--- Makes one: see tidepool.share.
---@return tidepool.Shared
function share.new(value, extra)
  check.no_more(extra, "tidepool.share", "a value")
  if value == nil then check.fail "tidepool.share: expected a value, got nil" end
  local packed, why = core.value.pack(value)
  if not packed then check.fail("tidepool.share: %s", why) end
  local id = core.unique()
  local self = setmetatable({ _id = id, _packed = packed, _identity = core.func.identity("value", value) or id }, Shared)
  entry_of[self] = { value }
  return self
end

--- The value: in the script the one that was shared, in each worker one copy, which all of its
-- inputs see.
---@return any
function Shared:__call(extra)
  check.no_more(extra, "a shared value", "no arguments")
  local entry = entry_of[self] or find(self)
  return entry[1]
end

function Shared:__index(key)
  check.fail("a shared value has no field '%s': call it for the value, as in data().%s", tostring(key), tostring(key))
end

function Shared:__newindex(key)
  check.fail("a shared value has no field '%s': it is a constant; make another one of a value that has it", tostring(key))
end

function Shared:__tostring()
  return ("tidepool.Shared: %.0f bytes"):format(core.value.bytes(rawget(self, "_packed")))
end

-- ---- what should be shared ----

local LARGE, OFTEN = 2 ^ 20, 8

local function said(bytes) return ("%.1f MB"):format(bytes / 1e6) end

-- Weak keys: Function -> how often it captured (or was passed) something large that was encoded
-- anew; true: that was reported.
local captured, passed = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- Counts one more; true, once, when that is often.
local function is_often(counts, f)
  if counts[f] == true then return false end
  counts[f] = (counts[f] or 0) + 1
  if counts[f] < OFTEN then return false end
  counts[f] = true
  return true
end

local function bytes_of(value)
  local packed = core.value.pack(value)
  return packed and core.value.bytes(packed) or 0
end

--- f was encoded for a map or a call, with everything that it captures, which is large.
function share.note_image(f, image)
  if not is_often(captured, f) then return end
  local names = {}
  for i = 1, math.huge do
    local name, value = debug.getupvalue(f.raw, i)
    if not name then break end
    if type(value) ~= "function" and bytes_of(value) >= LARGE then names[#names + 1] = name end
  end
  local name = names[1] or "value"
  local named = names[1] and (" ('%s')"):format(table.concat(names, "', '")) or ""
  core.io.warn("tidepool: " .. check.placed(("%s captures %s%s, encoded anew at each map and call: local shared = tidepool.share(%s), and "
    .. "shared() in the function, is encoded once\n"):format(f.name, said(core.value.bytes(image)), named, name)))
end

--- f was called in the pool with the same table as the time before.
function share.note_passed(f, value)
  if not is_often(passed, f) then return end
  local bytes = bytes_of(value)
  if bytes < LARGE then return end
  core.io.warn("tidepool: " .. check.placed(
    ("%s is passed the same %s again and again: tidepool.share(value), passed in its place, is encoded once\n"):format(f.name, said(bytes))))
end

return share
