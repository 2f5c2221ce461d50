--- The options of functions and calls: one table each, from which checks, messages and documentation come.
--
-- A row: name, type (a key of `types`), help; `alias_of` for other spellings.

local check = require "tidepool.check"

local options = {}

local function is_integer(value, min)
  return type(value) == "number" and value >= min and value % 1 == 0 and value < math.huge
end

--- Element types of `returns`; array.lua is loaded when the option is used.
local function element_types(v)
  local array = require "tidepool.array"
  local list = type(v) == "string" and { v } or v
  if type(list) ~= "table" or #list == 0 or #list > 8 then return false end
  for _, name in ipairs(list) do
    if type(name) ~= "string" then return false end
    if not array.number(name) then
      local near = check.nearest(name, array.types)
      return false, nil, ("has no element type %q%s; there are %s"):format(name, near and (" (did you mean %q?)"):format(near) or "",
        table.concat(array.types, ", "))
    end
  end
  return true, list
end

local retry_fields = {
  max = "integer", initial_delay = "seconds", backoff = "factor", max_delay = "seconds", jitter = "share", on = "function",
}

--- Per type: what is allowed, in words, and the test. A test may give the value to use instead, and a more exact complaint.
local types
types = {
  ["string"] = { "a string that is not empty", function(v) return type(v) == "string" and v ~= "" end },
  ["boolean"] = { "true or false", function(v) return type(v) == "boolean" end },
  ["function"] = { "a function", function(v) return type(v) == "function" end },
  ["count"] = { "an integer of at least 1", function(v) return is_integer(v, 1) end },
  ["integer"] = { "an integer of at least 0", function(v) return is_integer(v, 0) end },
  ["seconds"] = { "a number of seconds, 0 or more", function(v) return type(v) == "number" and v >= 0 and v < math.huge end },
  ["factor"] = { "a number of at least 1", function(v) return type(v) == "number" and v >= 1 and v < math.huge end },
  ["share"] = { "a number from 0 to 1", function(v) return type(v) == "number" and v >= 0 and v <= 1 end },
  ["progress"] = { "true, false or a function", function(v) return type(v) == "boolean" or type(v) == "function" end },
  ["gpu"] = { 'true, or a device like "any", "gpu", "cpu", "nvidia", "H200", "nvidia:2", or a list of them',
    function(v) return require("tidepool.gpu").check_spec(v) end },
  ["with"] = { "a table of numbers and typed arrays, by the names of parameters", function(v)
      if type(v) ~= "table" then return false end
      for name, value in pairs(v) do
        if type(name) ~= "string" or not (type(value) == "number" or require("tidepool.array").type_of(value)) then
          return false, nil, ("has %s, which is not a number or typed array with a name"):format(check.show(name))
        end
      end
      return true
    end },
  ["precision"] = { '"double" or "single"', function(v) return v == "double" or v == "single" end },
  ["returns"] = { 'an element type like "double", or a list of them, one per return value (at most 8)', element_types },
  ["executor"] = { '"threads" or "inline"', function(v) return v == "threads" or v == "inline" end },
  ["retries"] = { "an integer of at least 0, or a table like { max = 3, initial_delay = 0.1, backoff = 2, max_delay = 1 }",
    function(v)
      if is_integer(v, 0) then return true, { max = v } end
      if type(v) ~= "table" then return false end
      for key, value in pairs(v) do
        local of = retry_fields[key]
        if not of then
          local names = {}
          for name in pairs(retry_fields) do names[#names + 1] = name end
          local near = check.nearest(tostring(key), names)
          return false, nil, ("has no field %s%s"):format(check.show(key), near and ("; did you mean %q?"):format(near) or "")
        elseif not types[of][2](value) then
          return false, nil, ("%s must be %s, got %s"):format(key, types[of][1], check.show(value))
        end
      end
      if not v.max then return false, nil, "needs a field max: how many further attempts" end
      return true, v
    end },
}

--- What a function may be told, on the decorator, in an app's defaults and in f:with.
options.of_functions = {
  { "name", "string", "what messages, statistics and `tidepool run FILE::NAME` call it; default: the variable it is assigned to" },
  { "concurrency_limit", "count", "at most so many of its items run at once, over all its maps and callers" },
  { "max_containers", alias_of = "concurrency_limit" },
  { "max_workers", alias_of = "concurrency_limit" },
  { "executor", "executor", "who runs it: worker threads (the default), or the caller itself, one item after the other" },
  { "gpu", "gpu", "runs it on an OpenCL device, or several: the first of those named that is there; with an executor: lends it that device" },
  { "kernel", "string", "OpenCL C in the place of a Lua function: a function of one element, or a whole __kernel" },
  { "with", "with", "values and arrays for parameters of `kernel`, by their names" },
  { "precision", "precision", "what numbers are on the device: doubles (the default), or floats" },
  { "retries", "retries", "how often an item that failed is tried again, and after which delays" },
  { "returns", "returns", "the element types of what it returns: results go straight into typed arrays" },
  { "window", "count", "inputs that are read ahead, queued, running or finished but not taken yet, together at most" },
}

--- What one map may be told, in its last argument.
options.of_calls = {
  { "return_exceptions", "boolean", "failures take their place among the results instead of being raised" },
  { "ordered", "boolean", "results in the order of the inputs (the default), or as they come" },
  { "order_outputs", alias_of = "ordered" },
  { "window", "count", "as the function's option" },
  { "progress", "progress", "false: not on the progress line; or a function that gets { done, total, failed, rate, ... } meanwhile and at the end" },
  { "on_error", "function", "on_error(failure) gives the value that takes a failure's place" },
}

--- What only for_each takes besides.
options.of_for_each = {
  { "ignore_exceptions", "boolean", "failures are counted, not raised" },
}
for _, row in ipairs(options.of_calls) do options.of_for_each[#options.of_for_each + 1] = row end

--- What tidepool.gather and tidepool.wait may be told.
options.of_gather = {
  { "return_exceptions", "boolean", "failures take their places among the values instead of being raised" },
}
options.of_wait = {
  { "n", "count", "how many to wait for; default: 1" },
  { "timeout", "seconds", "how long to wait at most" },
}

local later = "needs process workers, which this version does not have yet"
local no_cloud = "is about containers in a cloud; Tidepool runs on your own machines, with what is installed there"

--- Options that are refused with a reason instead of being unknown.
local refused = {
  timeout = later, memory = later, crash_retries = later,
  image = no_cloud, region = no_cloud, proxy = no_cloud, cloud = no_cloud, secrets = no_cloud, secret = no_cloud,
  mounts = no_cloud, volumes = no_cloud, network_file_systems = no_cloud, schedule = no_cloud, keep_warm = no_cloud,
  min_containers = no_cloud, buffer_containers = no_cloud, scaledown_window = no_cloud, container_idle_timeout = no_cloud,
}

local function row_of(rows, name)
  for _, row in ipairs(rows) do
    if row[1] == name then return row end
  end
end

local function names_of(rows)
  local names = {}
  for i, row in ipairs(rows) do names[i] = row[1] end
  return names
end

--- Checks given options against rows; gives a new table with aliases resolved. Raises usage errors that begin with `who` and
--- carry the user's position.
---@param who string  the function of ours that was called, for messages: "app:func"
---@param rows table  options.of_functions or options.of_calls
---@param given table
---@return table
function options.check(who, rows, given)
  local result, spelled = {}, {}
  for name, value in pairs(given) do
    local row = row_of(rows, name)
    if not row then
      if refused[name] then check.fail("%s: option '%s' %s", who, name, refused[name]) end
      local near = check.nearest(tostring(name), names_of(rows))
      check.fail("%s: unknown option %s%s", who, type(name) == "string" and "'" .. name .. "'" or check.show(name),
        near and (" (did you mean '%s'?)"):format(near) or "; there are: " .. table.concat(names_of(rows), ", "))
    end
    local real = row.alias_of and row_of(rows, row.alias_of) or row
    if name == "executor" and value == "processes" then check.fail("%s: option 'executor': \"processes\" %s", who, later) end
    local is_right, converted, complaint = types[real[2]][2](value)
    if not is_right then
      if complaint then check.fail("%s: option '%s' %s", who, name, complaint) end
      check.fail("%s: option '%s' must be %s, got %s", who, name, types[real[2]][1], check.show(value))
    end
    if result[real[1]] ~= nil then
      check.fail("%s: option '%s' is given twice ('%s' means the same)", who, real[1], name ~= real[1] and name or spelled[real])
    end
    spelled[real] = name
    if converted == nil then result[real[1]] = value else result[real[1]] = converted end
  end
  if result.kernel and result.executor then
    check.fail("%s: options 'kernel' and 'executor' exclude each other: OpenCL C runs on a device", who)
  end
  return result
end

--- `given` over `defaults`, both checked. Of `gpu` and `executor` alone the nearer one counts; both together, which say that the function drives the
-- device itself, stay so.
---@param defaults table
---@param given table
---@return table
function options.merge(defaults, given)
  local merged = {}
  for name, value in pairs(defaults) do merged[name] = value end
  local is_driver = defaults.gpu and defaults.executor
  if given.gpu and not is_driver then merged.executor = nil end
  if given.executor and not is_driver then merged.gpu = nil end
  for name, value in pairs(given) do merged[name] = value end
  return merged
end

--- Is this last argument of a call its options? A plain table whose keys are all strings, none of them `n`, and not empty: as an input it
--- would be an empty list.
function options.is_call_options(value)
  if type(value) ~= "table" or getmetatable(value) or next(value) == nil or value.n ~= nil then return false end
  for key in pairs(value) do
    if type(key) ~= "string" then return false end
  end
  return true
end

return options
