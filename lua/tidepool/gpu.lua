--- Devices: which there are, and which of them `gpu = ...` means.

local check = require "tidepool.check"
local core = require "tidepool.core"

local gpu = { random = require "tidepool.gpu.random" }

local RANK = { gpu = 1, accelerator = 2, cpu = 3 }

-- Makers whose name is meant as a graphics card: a processor of theirs is none.
local MAKERS = { nvidia = "nvidia", amd = "advanced micro devices", intel = "intel", apple = "apple" }

local found, missing -- the devices once they have been listed, and why there are none

--- The devices, the best first: graphics cards with their own memory, others, accelerators, processors.
---@return table    list of { name, platform, vendor, type, compute_units, memory, fp64, version, driver, number = as the C side counts }
---@return string?  why there are none
function gpu.devices()
  if found then return found, missing end
  local devices
  devices, missing = core.devices()
  devices = devices or {}
  for i, d in ipairs(devices) do d.number = i end
  table.sort(devices, function(a, b)
    if a.type ~= b.type then return (RANK[a.type] or 4) < (RANK[b.type] or 4) end
    if a.unified ~= b.unified then return b.unified end
    if a.compute_units ~= b.compute_units then return a.compute_units > b.compute_units end
    return a.number < b.number
  end)
  found = devices
  return devices, missing
end

local function is_part(text, word)
  return text:lower():find(word, 1, true) ~= nil
end

local function matches(d, word)
  if word == "any" then return true end
  if RANK[word] then return d.type == word end
  if MAKERS[word] then
    return d.type ~= "cpu" and (is_part(d.vendor, word) or is_part(d.vendor, MAKERS[word]) or is_part(d.name, word))
  end
  return is_part(d.name, word) or is_part(d.platform, word)
end

--- The devices that one word of a `gpu` option means; nil when there are not so many.
local function match_word(devices, spec)
  local word, count = spec:lower():match "^(.-):(%d+)$"
  word, count = word or spec:lower(), tonumber(count or 1)
  local list = {}
  for _, d in ipairs(devices) do
    if #list < count and matches(d, word) then list[#list + 1] = d end
  end
  if #list == count then return list end
end

local function show_spec(spec)
  if type(spec) ~= "table" then return ("%q"):format(spec == true and "any" or spec) end
  local words = {}
  for i, word in ipairs(spec) do words[i] = ("%q"):format(word) end
  return "{ " .. table.concat(words, ", ") .. " }"
end

--- Checks a `gpu` option as it is written: gives it, or false and a complaint.
function gpu.check_spec(spec)
  if spec == true then return true end
  local words = type(spec) == "string" and { spec } or spec
  if type(words) ~= "table" or #words == 0 then return false end
  for i, word in ipairs(words) do
    if type(word) ~= "string" or word == "" then return false end
    local name, count = word:match "^(.*):(.*)$"
    if name and (name == "" or not count:find "^[1-9]%d?$") then
      return false, nil, ("has %q, in which a number of devices is expected behind the colon, as in \"nvidia:2\""):format(word)
    end
    if word == "threads" and (i < #words or i == 1) then
      return false, nil, 'may have "threads" only as the last of a list: what is done when no device is there'
    end
  end
  return true
end

--- The devices that a `gpu` option means; nil when there are none and it says "threads". Raises in the name of `who`, at the user's line.
---@param spec true|string|table
---@param who string
---@return table? list of devices
function gpu.match(spec, who)
  local devices, why = gpu.devices()
  for _, word in ipairs(spec == true and { "any" } or type(spec) == "string" and { spec } or spec) do
    if word == "threads" then return nil end
    local list = match_word(devices, word)
    if list then return list end
  end
  if #devices == 0 then check.fail("%s: gpu = %s: %s", who, show_spec(spec), why) end
  local lines = {}
  for i, d in ipairs(devices) do lines[i] = ("\n  %s (%s, %s)"):format(d.name, d.type, d.platform) end
  check.fail("%s: gpu = %s: no such device; there %s:%s", who, show_spec(spec), #devices == 1 and "is" or "are", table.concat(lines))
end

return gpu
