--- The options of functions and calls: one table each, from which checks, messages and
-- documentation come.
--
-- A row: name, type (a key of `types`), help; `alias_of` for other spellings; `needs` names a
-- capability (a field of tidepool.Executor) without which an executor cannot honour the option: it
-- is refused when no executor has it.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local executors = require "tidepool.engine.executors"
local ffi = require "ffi"

local options = {}

local function is_int64(value)
  return type(value) == "cdata" and (ffi.istype("int64_t", value) or ffi.istype("uint64_t", value))
end

local function is_integer(value, min)
  return type(value) == "number" and value >= min and value % 1 == 0 and value < math.huge
end

--- Element types of `returns`; array.lua is loaded when the option is used.
local function element_types(v)
  local array = require "tidepool.array"
  local list = type(v) == "string" and { v } or v
  if type(list) ~= "table" or #list == 0 or #list > abi.COLUMNS_MAX then return false end
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

--- The number of bytes that a size like "256M", or a number, means; nil when it is no size.
function options.size(v)
  if type(v) ~= "number" and type(v) ~= "string" then return nil end
  local number, unit = tostring(v):match "^(%d+%.?%d*)([kKMG]?)$"
  local bytes = number and math.floor(tonumber(number) * ({ [""] = 1, k = 2 ^ 10, K = 2 ^ 10, M = 2 ^ 20, G = 2 ^ 30 })[unit]) or 0
  return bytes >= 1 and bytes or nil
end

local retry_fields = {
  max = "integer", initial_delay = "seconds", backoff = "factor", max_delay = "seconds", jitter = "share", on = "function",
}

local journal_fields = {
  file = "string", name = "string", optional = "boolean",
  failed = { '"run" or "keep"', function(v) return v == "run" or v == "keep" end },
}

local halt_fields = {
  failures = "count", success = "count", now = "boolean",
  share = { "a number above 0 and below 1", function(v) return type(v) == "number" and v > 0 and v < 1 end },
}

local batched_fields = { max = "count", wait = "seconds", split = "boolean" }
local BATCH, WAIT_S, BATCH_MAX = 64, 0.005, 2 ^ 20

local types

local function names_in_order(names)
  table.sort(names)
  return table.concat(names, ", ")
end

--- What is wrong with the fields of a table; `fields` has their types, by name or as in `types`.
--- nil when nothing is.
local function trouble_with(v, fields)
  for key, value in pairs(v) do
    local of = fields[key]
    if not of then
      local names = {}
      for name in pairs(fields) do names[#names + 1] = name end
      local near = check.nearest(tostring(key), names)
      return ("has no field %s%s"):format(check.key(key), near and (" (did you mean '%s'?)"):format(near) or "; there are: " .. names_in_order(names))
    end
    of = types[of] or of
    if not of[2](value) then return ("%s must be %s, got %s"):format(key, of[1], check.show(value)) end
  end
end

--- Per type: what is allowed, in words, and a test. The test may return the value to use instead,
--- or a more exact complaint.
types = {
  ["string"] = { "a string that is not empty", function(v) return type(v) == "string" and v ~= "" end },
  ["boolean"] = { "true or false", function(v) return type(v) == "boolean" end },
  ["function"] = { "a function", function(v) return type(v) == "function" end },
  ["count"] = { "an integer of at least 1", function(v) return is_integer(v, 1) end },
  ["places"] = { "an integer from 1 to 100000", function(v) return is_integer(v, 1) and v <= 1e5 end },
  ["levels"] = { "an integer from 1 to 128", function(v) return is_integer(v, 1) and v <= 128 end },
  ["integer"] = { "an integer of at least 0", function(v) return is_integer(v, 0) end },
  ["seconds"] = { "a number of seconds, 0 or more", function(v) return type(v) == "number" and v >= 0 end },
  ["factor"] = { "a number of at least 1", function(v) return type(v) == "number" and v >= 1 and v < math.huge end },
  ["share"] = { "a number from 0 to 1", function(v) return type(v) == "number" and v >= 0 and v <= 1 end },
  ["progress"] = { "true, false or a function", function(v) return type(v) == "boolean" or type(v) == "function" end },
  ["gpu"] = { 'true, or a device like "any", "gpu", "cpu", "nvidia", "H200", "nvidia:2", or a list of them, or "auto"',
    function(v) return require("tidepool.device.gpu").check_spec(v) end },
  ["with"] = { "a table of numbers and typed arrays, by the names of parameters", function(v)
      if type(v) ~= "table" then return false end
      for name, value in pairs(v) do
        if type(name) ~= "string" or not (type(value) == "number" or require("tidepool.array").type_of(value)) then
          return false, nil, ("has %s, which is not a number or typed array with a name"):format(check.show(name))
        end
      end
      return true
    end },
  ["defines"] = { 'a table like { N = 16, REAL = "float", ["MIN(a, b)"] = "((a) < (b) ? (a) : (b))" }', function(v)
      if type(v) ~= "table" then return false end
      for name, value in pairs(v) do
        if type(name) ~= "string" or not (name:find "^[%a_][%w_]*$" or name:find "^[%a_][%w_]*%b()$") then
          return false, nil, ("has %s, which is no name that C could define"):format(check.show(name))
        elseif type(value) ~= "number" and type(value) ~= "boolean" and not is_int64(value) and (type(value) ~= "string" or value:find "[\n%z]") then
          return false, nil, ("has %s = %s; a name stands for a number, a line of text, or true"):format(name, check.show(value))
        end
      end
      return true
    end },
  ["folders"] = { "the path of a folder, or a list of them", function(v)
      local list = type(v) == "string" and { v } or v
      if type(list) ~= "table" or #list == 0 then return false end
      for _, path in ipairs(list) do
        if type(path) ~= "string" or path == "" then return false end
        local file = io.open(path .. "/.")
        if not file then return false, nil, ("has %q, which is no folder that can be read"):format(path) end
        file:close()
      end
      return true, list
    end },
  ["flags"] = { 'a string of options of the compiler, like "-cl-fast-relaxed-math"', function(v)
      return type(v) == "string" and not v:find "[\n%z]"
    end },
  ["std"] = { 'a version of OpenCL C, like "CL1.2" or "CL3.0"', function(v) return type(v) == "string" and v:find "^CL%d%.%d$" ~= nil end },
  ["precision"] = { '"double" or "single"', function(v) return v == "double" or v == "single" end },
  ["returns"] = { 'an element type like "double", or a list of them, one per return value (at most ' ..
    abi.COLUMNS_MAX .. ")", element_types },
  ["executor"] = { executors.in_words(executors.that("runs_lua")), function(v)
      local one = executors.named(v)
      return one ~= nil and one.runs_lua
    end },
  ["memory"] = { 'a size like "256M", or a number of bytes', function(v)
      local bytes = options.size(v)
      return bytes ~= nil, bytes
    end },
  ["duration"] = { "a positive number of seconds", function(v) return type(v) == "number" and v > 0 and v < math.huge end },
  ["journal"] = { 'a path, or a table like { file = "run.db", name = "digits", failed = "keep", optional = true }, or false for none', function(v)
      if v == false then return true end
      if type(v) == "string" then return v ~= "" and not v:find "%z", { file = v } end
      if type(v) ~= "table" then return false end
      local wrong = trouble_with(v, journal_fields)
      if wrong then return false, nil, wrong end
      if not v.file then return false, nil, "needs a field file: where it is kept" end
      return true, v
    end },
  ["halt"] = { "a table like { failures = 3 }, { share = 0.1 } or { success = 1 }, perhaps with now = true", function(v)
      if type(v) ~= "table" then return false end
      local wrong = trouble_with(v, halt_fields)
      if wrong then return false, nil, wrong end
      if not (v.failures or v.share or v.success) then return false, nil, "needs a field failures, share or success" end
      return true, v
    end },
  ["batched"] = { "how many inputs a batch has at most, or a table like { max = 64, wait = 0.005, split = false }, or false", function(v)
      if v == false then return true end
      if type(v) == "number" then v = { max = v } end
      if type(v) ~= "table" then return false end
      local wrong = trouble_with(v, batched_fields)
      if wrong then return false, nil, wrong end
      local max, wait = v.max or BATCH, v.wait or WAIT_S
      if max > BATCH_MAX then return false, nil, ("max must be %d at most, got %s"):format(BATCH_MAX, check.show(max)) end
      return true, { max = max, wait = math.min(wait, 1e9), split = v.split ~= false }
    end },
  ["cache"] = { 'true, a path, or a table like { file = "results.db", size = "1G" }', function(v)
      if v == true then return true, {} end
      if v == false then return true end
      if type(v) == "string" then return v ~= "" and not v:find "%z", { file = v } end
      if type(v) ~= "table" then return false end
      local result = {}
      for key, value in pairs(v) do
        local of = types[key == "file" and "string" or key == "size" and "memory"]
        if not of then return false, nil, ("has no field '%s'; there are: file, size"):format(tostring(key)) end
        local is_right, converted = of[2](value)
        if not is_right then return false, nil, ("%s must be %s, got %s"):format(key, of[1], check.show(value)) end
        result[key] = converted or value
      end
      return true, result
    end },
  ["retries"] = { "an integer of at least 0, or a table like { max = 3, initial_delay = 0.1, backoff = 2, max_delay = 1 }",
    function(v)
      if is_integer(v, 0) then return true, { max = v } end
      if type(v) ~= "table" then return false end
      local wrong = trouble_with(v, retry_fields)
      if wrong then return false, nil, wrong end
      if not v.max then return false, nil, "needs a field max: how many further attempts" end
      for _, key in ipairs { "backoff", "max_delay", "jitter" } do
        if v[key] and not v.initial_delay then
          return false, nil, ("has a field %s, which goes with initial_delay: there is no delay without it"):format(key)
        end
      end
      return true, v
    end },
}

-- What a capability of executors means, for messages.
local abilities = {
  interleaves = "can run several inputs in one worker, as coroutines",
  kill = "can stop what runs by force", isolated = "survives the crash of an item", bounds_memory = "bounds the memory of an item",
}

local later = "needs an executor that %s (worker processes will), which this version does not have yet"
local no_cloud = "is about containers in a cloud; Tidepool runs on your own machines, with what is installed there"

local too_many = "is not of one function: `-w N`, TIDEPOOL_WORKERS or tidepool.workers(n) say how many workers there are, concurrency_limit how many "
  .. "of them one function may have"

--- Unknown options that are refused with a reason.
local refused = {
  workers = too_many, threads = too_many, jobs = too_many, n_jobs = too_many, num_workers = too_many,
  image = no_cloud, region = no_cloud, proxy = no_cloud, cloud = no_cloud, secrets = no_cloud, secret = no_cloud,
  mounts = no_cloud, volumes = no_cloud, network_file_systems = no_cloud, schedule = no_cloud, keep_warm = no_cloud,
  min_containers = no_cloud, buffer_containers = no_cloud, scaledown_window = no_cloud, container_idle_timeout = no_cloud,
}

--- The rows of options that some executor of this host can honour; the others are refused.
local function offered(rows)
  local list = {}
  for _, row in ipairs(rows) do
    if row.needs and not executors.that(row.needs)[1] then refused[row[1]] = later:format(abilities[row.needs]) else list[#list + 1] = row end
  end
  return list
end

--- Help of the option `executor`.
local function who_runs()
  local parts = {}
  for i, one in ipairs(executors.that "runs_lua") do
    parts[i] = ("%s%s"):format(one.summary, one == executors.fallback and " (the default)" or "")
  end
  local last = table.remove(parts)
  return "who runs it: " .. (#parts > 0 and table.concat(parts, ", ") .. ", or " or "") .. last
end

--- The options of functions: on the decorator, in an app's defaults, and in f:with.
options.of_functions = offered {
  { "name", "string", "what messages, statistics and `tidepool run FILE::NAME` call it; default: the variable it is assigned to" },
  { "concurrency_limit", "count", "at most so many of its items run at once, over all its maps and callers" },
  { "max_containers", alias_of = "concurrency_limit" },
  { "max_workers", alias_of = "concurrency_limit" },
  { "executor", "executor", who_runs() },
  { "gpu", "gpu", "runs it on an OpenCL device, or several: the first of those named that is there; \"auto\": there and on worker threads; "
    .. "with an executor: lends it that device, or, on a cluster, is a worker's" },
  { "kernel", "string", "OpenCL C in the place of a Lua function: a function of one element, or a whole __kernel" },
  { "with", "with", "values and arrays for parameters of `kernel`, by their names" },
  { "precision", "precision", "what numbers are on the device: doubles (the default), or floats" },
  { "recursion_limit", "levels", "how deep functions may call themselves on a device, where nothing else says when that ends" },
  { "retries", "retries", "how often an item that failed is tried again, and after which delays: n, or { max = n, initial_delay = seconds (0), "
    .. "backoff = by how much each further delay is longer (1), max_delay = seconds (no limit), jitter = share of a delay that is by chance (0), "
    .. "on = function(failure) end }; default: 0" },
  { "timeout", "duration", "how long an attempt may take: then it is stopped, and has failed", needs = "kill" },
  { "memory", "memory", "how much memory a worker may use: the item that asks for more fails", needs = "bounds_memory" },
  { "crash_retries", "integer", "how often an item whose worker has died is tried again; default: 1", needs = "isolated" },
  { "recycle", "count", "a worker is replaced after so many items", needs = "isolated" },
  { "max_inputs", alias_of = "recycle" },
  { "batched", "batched",
    "is called with lists, one per argument, of up to `max` inputs (64), single calls too, after `wait` seconds (0.005) of fewer; returns lists" },
  { "concurrent_inputs", "places", "a worker runs up to so many of its inputs at once, which wait beside each other as coroutines: "
    .. "tidepool.sleep, calls and maps, events, luv's sockets and timers; default: 1, one after the other", needs = "interleaves" },
  { "max_concurrent_inputs", alias_of = "concurrent_inputs" },
  { "yields", "boolean", "it gives its values while it runs, by coroutine.yield: f:stream and f:flat_map read them, other calls are refused" },
  { "returns", "returns", "the element types of what it returns: results go straight into typed arrays, converted as there: "
    .. "fractions are cut, an int8 of 300 is 44" },
  { "cache", "cache", "keeps results by function and input, for all scripts and runs: in the user's cache, or in a file" },
  { "window", "count", "inputs that are read ahead, queued, running or finished but not taken yet, together at most; default: 65536" },
}

--- The options of one map, in its last argument.
options.of_calls = {
  { "return_exceptions", "boolean", "failures take their place among the results instead of being raised" },
  { "ordered", "boolean", "results in the order of the inputs (the default), or as they come" },
  { "order_outputs", alias_of = "ordered" },
  { "window", "count", "as the function's option" },
  { "progress", "progress", "false: not on the progress line; or a function that gets { done, total, failed, rate, ... } meanwhile and at the end" },
  { "on_error", "function", "on_error(failure) gives the one value that takes a failure's place; not together with return_exceptions" },
  { "halt", "halt",
    "when the map gives up, { failures = n } or { share = 0.1 }, or has enough, { success = n }; now = true: what runs is stopped too" },
  { "times", "boolean", "keeps when each input was queued and run, for how long and by whom: results:times()" },
  { "journal", "journal", "a file in which results are kept, so that the same program, run again, does only what is missing" },
}

--- The options of for_each, which has no results whose times could be asked for.
options.of_for_each = {
  { "ignore_exceptions", "boolean", "failures are counted, not raised" },
}
for _, row in ipairs(options.of_calls) do
  if row[1] ~= "times" then options.of_for_each[#options.of_for_each + 1] = row end
end

--- The options of tidepool.lines.
options.of_lines = {
  { "separator", "string", "what ends a line; default: a line end" },
  { "columns", "string",
    'what separates the fields of a line, like ","; one may be in quotes, with line ends and doubled quotes in it, as CSV has it' },
  { "limit", "memory", "how long a line may be; default: 16M" },
}

--- The options of tidepool.gather and tidepool.wait.
options.of_gather = {
  { "return_exceptions", "boolean", "failures take their places among the values instead of being raised" },
}
options.of_wait = {
  { "n", "count", "how many to wait for; default: 1" },
  { "timeout", "seconds", "how long to wait at most" },
}

--- The options of device:kernel.
options.of_kernels = {
  { "name", "string", "which kernel of the source; default: the only one in it" },
  { "options", "flags", 'options of the compiler: "-cl-fast-relaxed-math"' },
  { "defines", "defines", "names that the source has as macros, and what they stand for: { N = 16 }" },
  { "include", "folders", "where files are looked for that the source includes: a folder, or several" },
  { "std", "std", 'the version of OpenCL C: "CL1.2" (the default), "CL3.0"' },
  { "file", "string", "what the compiler's messages call the source, whose first line is then 1" },
}

local function row_of(rows, name)
  for _, row in ipairs(rows) do
    if row[1] == name then return row end
  end
end

--- Is it the name of an option of functions?
function options.is_of_functions(name)
  return row_of(options.of_functions, name) ~= nil
end

local function names_of(rows)
  local names = {}
  for i, row in ipairs(rows) do names[i] = row[1] end
  return names
end

--- Does a function with these options drive its devices by hand: has it `gpu` and an executor of
--- this machine?
function options.drives(given)
  return given.gpu ~= nil and given.executor ~= nil and not executors.named(given.executor).far
end

--- Do devices of other machines run a function with these options? Where nobody has named the
--- executor, not if workers may do it ("auto", or a list that ends with "threads").
function options.is_on_far_devices(given)
  local spec = given.gpu
  if not spec or spec == executors.AUTO then return false end
  local executor = given.executor and executors.named(given.executor) or executors.default
  return executor.far and not (type(spec) == "table" and spec[#spec] == executors.fallback.name)
end

--- The capabilities that the given options need, and the names of those options.
local function needs_of(rows, given)
  local needs, names = {}, {}
  for _, row in ipairs(rows) do
    if row.needs and given[row[1]] ~= nil then
      needs[#needs + 1] = row.needs
      names[#names + 1] = row[1]
    end
  end
  return needs, names
end

local function has_all(executor, needs)
  for _, need in ipairs(needs) do
    if not executor[need] then return false end
  end
  return true
end

--- Raises when the executor (or the devices) that checked options choose cannot honour another of
--- the options.
local function check_needs(who, rows, given)
  local needs, names = needs_of(rows, given)
  local executor = not options.is_on_far_devices(given) and given.executor and executors.named(given.executor)
    or given.gpu and (given.gpu == executors.AUTO and executors.fallback or executors.of_kernels)
  for i, need in ipairs(needs) do
    if executor and not executor[need] then
      check.fail("%s: option '%s' needs an executor that %s: %s, not %s", who, names[i], abilities[need],
        executors.in_words(executors.that("runs_lua", need)), given.gpu and not given.executor and "a device" or ("%q"):format(executor.name))
    end
  end
  if not executors.that("runs_lua", unpack(needs))[1] then
    check.fail("%s: no executor can do what options '%s' need together", who, table.concat(names, "', '"))
  end
end

--- Raises when checked options contradict each other.
local function check_together(who, rows, result)
  local is_far = result.executor and executors.named(result.executor).far
  if result.kernel and result.executor and not is_far then
    check.fail("%s: options 'kernel' and 'executor' exclude each other: OpenCL C runs on a device", who)
  end
  if is_far and type(result.gpu) == "table" and result.gpu[#result.gpu] == executors.fallback.name then
    check.fail("%s: option 'gpu' may not end with %q beside executor = %q: whether a worker has such a device is known only later; name devices",
      who, executors.fallback.name, result.executor)
  end
  local of_devices = result.kernel and "kernel" or result.precision == "single" and "precision" or result.recursion_limit and "recursion_limit"
  if result.gpu == executors.AUTO and of_devices then
    check.fail("%s: option '%s' is for devices alone, and gpu = %q runs the function on threads, too: name a device, as in gpu = \"any\"", who,
      of_devices, executors.AUTO)
  end
  check_needs(who, rows, result)
end

--- Raises for an option of functions that is given to a call, and for one of calls that is given
--- to a function.
local function check_place(who, rows, name, value)
  if rows ~= options.of_functions and rows ~= options.of_calls and rows ~= options.of_for_each then return end
  local shown = ("{ %s = %s }"):format(tostring(name), check.source(value))
  if rows ~= options.of_functions and row_of(options.of_functions, name) then
    check.fail("%s: option '%s' is one of functions: app:func %s (fn), or f:with %s", who, name, shown, shown)
  elseif rows == options.of_functions and row_of(options.of_calls, name) then
    check.fail("%s: option '%s' is one of calls: f:map(inputs, %s)", who, name, shown)
  end
end

--- Checks given options against rows; gives a new table with aliases resolved. Raises usage errors
--- that begin with `who` and carry the user's position.
---@param who string  the function of ours that was called, for messages: "app:func"
---@param rows table  options.of_functions or options.of_calls
---@param given table
---@return table
function options.check(who, rows, given)
  local result, spelled = {}, {}
  for name, value in pairs(given) do
    local row = row_of(rows, name)
    if not row then
      if type(name) == "number" then
        check.fail("%s: options have names, as in { %s = ... }, but this table has element %s: %s", who, names_of(rows)[1], tostring(name),
          check.show(value))
      end
      if refused[name] then check.fail("%s: option '%s' %s", who, name, refused[name]) end
      check_place(who, rows, name, value)
      local near = check.nearest(tostring(name), names_of(rows))
      check.fail("%s: unknown option %s%s", who, check.key(name),
        near and (" (did you mean '%s'?)"):format(near) or "; there are: " .. table.concat(names_of(rows), ", "))
    end
    local real = row.alias_of and row_of(rows, row.alias_of) or row
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
  check_together(who, rows, result)
  return result
end

--- The executor for a function with these options: the named one; with `gpu`, the one that runs
--- kernels; else the default, or the first that has the capabilities that the options need.
---@param given table  checked options of a function
---@param has_no_device boolean?  its `gpu` says that workers do what no device can, and none can
---@return tidepool.Executor
function options.executor(given, has_no_device)
  if given.executor then return executors.named(given.executor) end
  if given.gpu then return (has_no_device or given.gpu == executors.AUTO) and executors.default or executors.of_kernels end
  local needs = needs_of(options.of_functions, given)
  return has_all(executors.default, needs) and executors.default or executors.that("runs_lua", unpack(needs))[1]
end

--- Raises for given options that mean nothing beside what the function has otherwise. An app's
--- defaults are for those of its functions that they mean something for.
local function check_use(who, given, merged)
  for _, name in ipairs { "precision", "recursion_limit" } do
    if given[name] ~= nil and not merged.gpu then
      check.fail("%s: option '%s' goes with `gpu`: it is about functions that are translated for a device", who, name)
    elseif given[name] ~= nil and options.drives(merged) then
      check.fail("%s: option '%s' is about functions that are translated for a device; with 'executor', too, this one drives it itself", who, name)
    end
  end
  for _, name in ipairs { "returns", "cache" } do
    if given[name] and merged.yields then
      check.fail("%s: option '%s' is about what a function returns, and with 'yields' that is dropped", who, name)
    end
  end
end

--- Merges `given` over `defaults`, both checked. If only one of `gpu` and `executor` is given it
--- replaces the other; both together, which mean that the function drives the device itself, are
--- kept, and so is an executor on other machines, whose devices the `gpu` is about then.
---@param who string  as in options.check
---@param defaults table
---@param given table
---@return table
function options.merge(who, defaults, given)
  local merged = {}
  for name, value in pairs(defaults) do merged[name] = value end
  local is_driver = defaults.gpu and defaults.executor
  local is_far = defaults.executor and executors.named(defaults.executor).far -- with devices of their own
  if given.gpu and not is_driver and not is_far then merged.executor = nil end
  if given.executor and not is_driver then merged.gpu = nil end
  for name, value in pairs(given) do merged[name] = value end
  check_together(who, options.of_functions, merged)
  check_use(who, given, merged)
  return merged
end

return options
