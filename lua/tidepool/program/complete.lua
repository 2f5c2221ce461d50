--- Completion at the prompt: names, fields, methods, options.
--
-- No code of users is run for it: fields are read raw, along metatables' __index tables. What a
-- call of one of our functions would return is known from the function.

local app = require "tidepool.app"
local array = require "tidepool.array"
local call = require "tidepool.call"
local event = require "tidepool.event"
local failure = require "tidepool.failure"
local func = require "tidepool.func"
local options = require "tidepool.options"
local results = require "tidepool.results"
local task = require "tidepool.task"
local tidepool = require "tidepool"

local complete = {}

local SCANNED_MAX = 10000 -- files of a folder that are looked at

-- Locals, since the session must work whatever its user does to the globals.
local type, pairs, ipairs, next, rawget, tonumber, setmetatable = type, pairs, ipairs, next, rawget, tonumber, setmetatable
local getmetatable, table, string, package, os, require = debug.getmetatable, table, string, package, os, require

--- The names in a set, in their order.
function complete.sorted(set)
  local names = {}
  for name in pairs(set) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local sorted = complete.sorted

-- ---- fields ----

-- Fields of our objects that are meant for users.
local public = {
  [func.Function] = { name = true, options = true, raw = true },
  [app.App] = { functions = true, name = true },
  [call.Call] = {}, [event.Event] = {}, [task.Task] = {},
}

--- The tables in which a value's fields are found, without running any code of users.
local function field_tables(value)
  if array.type_of(value) then return { array.methods, { ctype = true, data = true, rows = true, columns = true } } end
  local found = {}
  local mt = getmetatable(value)
  local cls, gpu = package.loaded["tidepool.cls"], package.loaded["tidepool.device.gpu"]
  if gpu and value == gpu then return { { device = gpu.device, random = gpu.random } } end
  if cls and mt == cls.Instance then return { rawget(value, "_made_of").class.cores, rawget(value, "_made_of").parameters } end
  if cls and mt == cls.Class then return { { name = true } } end
  local device, images = package.loaded["tidepool.device.device"], package.loaded["tidepool.device.images"]
  if device and (mt == device.Buffer or mt == images.Image) then return { mt, mt.public } end
  if type(value) == "table" then found[1] = public[mt] or value end
  if func.is_function(value) then found = { { name = value.name, options = value.options, raw = value.raw }, func.methods } end
  if mt == app.App then found = { { name = value.name, functions = value.functions }, app.App } end
  if failure.is_failure(value) and type(rawget(value, "value")) == "table" then found[2] = rawget(value, "value") end
  for _ = 1, 10 do
    mt = getmetatable(value)
    value = type(mt) == "table" and rawget(mt, "__index")
    if type(value) ~= "table" then break end
    found[#found + 1] = value
  end
  return found
end

-- ---- the value before the name ----

local function instance(class) return setmetatable({}, class) end
local function instance_of(module, name) return instance(require(module)[name]) end
local some_results, some_function, some_array = results.handle(instance(results.Results)), instance(func.Function), array.new("double", 0)

-- What our functions return: a value of that kind, or a function that makes one.
local gives = {
  [func.methods.map] = some_results, [func.methods.starmap] = some_results, [func.methods.spawn_map] = some_results,
  [func.methods.spawn] = instance(call.Call), [func.methods.with] = some_function, [app.App.func] = some_function, [some_function] = some_function,
  [func.methods.stream] = function() return instance_of("tidepool.generator", "Stream") end,
  [func.methods.flat_map] = function() return instance_of("tidepool.generator", "Stream") end,
  [app.App.cls] = function() return instance_of("tidepool.cls", "Class") end,
  [tidepool.App] = instance(app.App), [tidepool.async] = instance(task.Task), [tidepool.event] = instance(event.Event),
  [tidepool.array] = some_array, [tidepool.load_array] = some_array, [results.methods.array] = some_array,
  [tidepool.as_completed] = function() return instance_of("tidepool.gather", "AsCompleted") end,
  [tidepool.Dict] = function() return instance_of("tidepool.store", "Dict") end,
  [tidepool.Queue] = function() return instance_of("tidepool.store", "Queue") end,
  [tidepool.trace] = function() return instance_of("tidepool.trace", "Trace") end,
}
for _, name in ipairs { "copy", "map", "plane", "reshape", "row", "slice" } do gives[array.methods[name]] = some_array end

--- What a call of a value returns; nil when that is not known.
local function result_of(value)
  local cls, gpu, device = package.loaded["tidepool.cls"], package.loaded["tidepool.device.gpu"], package.loaded["tidepool.device.device"]
  if cls and type(value) == "table" and getmetatable(value) == cls.Class then
    return setmetatable({ _made_of = { class = { cores = rawget(value, "cores") or {} }, parameters = {} } }, cls.Instance)
  end
  if gpu and value == gpu.device then return instance_of("tidepool.device.device", "Device") end
  if device and value == device.Device.queue then return instance(device.Device) end
  if device and value == device.Device.image then return instance_of("tidepool.device.images", "Image") end
  if device and value == device.Device.buffer then return instance(device.Buffer) end
  if device and (value == device.Device.kernel or value == device.Device.kernel_file) then return instance(device.Kernel) end
  local made = value ~= nil and gives[value]
  if type(made) == "function" then return made() end
  return made or nil
end

--- The field of a value; nil when there is none, or it cannot be known.
local function field(value, name)
  local cls = package.loaded["tidepool.cls"]
  if value == tidepool and name == "gpu" then return require "tidepool.device.gpu" end
  if value == tidepool and name == "int" then return require "tidepool.int" end
  for _, fields in ipairs(field_tables(value)) do
    local found = rawget(fields, name)
    if found ~= nil and cls and fields ~= value and getmetatable(value) == cls.Instance then
      return rawget(value, "_made_of").class.cores[name] and some_function or found
    elseif found ~= nil then
      return type(value) == "table" and public[getmetatable(value)] == fields and rawget(value, name) or found
    end
  end
end

--- The text with what stands in quotes blotted out, so that brackets there do not count.
local function blotted(text)
  local quote, at, out = nil, 1, {}
  while at <= #text do
    local c = text:sub(at, at)
    if quote and c == "\\" then
      out[#out + 1] = at < #text and "__" or "_"
      at = at + 1
    else
      out[#out + 1] = (not quote or c == quote) and c or "_"
      if c == quote then quote = nil elseif not quote and (c == '"' or c == "'") then quote = c end
    end
    at = at + 1
  end
  return table.concat(out)
end

--- The value at the end of the text: "a.b", "a[1]:map(xs)", "f:map { 1 }", '("text")'.
--- variable(name) gives the values of names.
local function value_at(text, variable)
  local steps, clean = {}, blotted(text)
  local root
  while true do
    local head, key = clean:match "^(.-)%[(%d+)%]$"
    if not head then head = clean:match "^(.-)%[(['\"])[^'\"]*%2%]$" end
    if head then
      steps[#steps + 1] = { index = tonumber(key) or text:sub(#head + 3, -3) }
    elseif clean:find "%b()$" then
      head = clean:match "^(.-)%b()$"
      if not head:find "[%w_%])}'\"]$" then
        local inside = text:sub(#head + 2, -2)
        if inside:find "^%s*[\"'].*[\"']%s*$" then root = string else root = value_at(inside, variable) end
        break
      end
      steps[#steps + 1] = { is_call = true }
    elseif clean:find "%b{}$" or clean:find "[%w_%])]%s*(['\"])[^'\"]*%1$" then
      head = clean:match "^(.-)%s*%b{}$" or clean:match "^(.-)%s*(['\"])[^'\"]*%2$"
      if not head:find "[%w_%])]$" then return nil end
      steps[#steps + 1] = { is_call = true }
    else
      local name
      head, name = clean:match "^(.-)[.:]([%a_][%w_]*)$"
      if not head or head == "" or head:find "[%s.]$" then
        name = clean:match "([%a_][%w_]*)$"
        root = name and variable(name)
        break
      end
      steps[#steps + 1] = { field = name }
    end
    clean, text = clean:sub(1, #head), text:sub(1, #head)
  end
  local value = root
  for i = #steps, 1, -1 do
    local step = steps[i]
    if value == nil then return nil end
    if step.is_call then value = result_of(value)
    elseif step.field then value = field(value, step.field)
    else value = type(value) == "table" and rawget(value, step.index) or nil end
  end
  return value
end

-- ---- names ----

local function add_matches(out, set, prefix, suffix)
  for name in next, set do
    if type(name) == "string" and name:find "^[%a_][%w_]*$" and name:sub(1, #prefix) == prefix and not (prefix == "" and name:find "^_") then
      out[name .. (suffix or "")] = true
    end
  end
end

local function add_options(out, rows, prefix, suffix)
  for _, row in ipairs(rows) do add_matches(out, { [row[1]] = true }, prefix, suffix) end
end

local option_rows = {
  func = options.of_functions, with = options.of_functions, App = options.of_functions, map = options.of_calls, starmap = options.of_calls,
  spawn_map = options.of_calls, flat_map = options.of_calls, for_each = options.of_for_each, lines = options.of_lines,
  kernel = options.of_kernels, kernel_file = options.of_kernels,
}

--- The options that can be written at the end of the text, if that is inside the last table of a
--- call that takes options.
local function options_at(text)
  local head, inside = text:match "^(.*){([^{}]*)$"
  if not head or not (inside:find "^%s*[%a_]*$" or inside:find ",%s*[%a_]*$") then return nil end
  for name in head:gmatch "[%.:]([%a_]+)%f[^%a_]%s*[%({%s]" do
    if option_rows[name] then head = name end
  end
  return option_rows[head] or option_rows[head:match "[%.:]([%a_]+)%s*%(?%s*$" or ""]
end

--- The beginning of a path at the end of the text, if that is in a string, or behind :load or
--- :save; nil where names of modules or options are expected.
local function path_at(text)
  local path = text:match "^%s*:load%s+(%S*)$" or text:match "^%s*:save%s+(%S*)$"
  if path then return path end
  local quote, at, begin = nil, 1, nil
  while at <= #text do
    local c = text:sub(at, at)
    if quote and c == "\\" then
      at = at + 1
    elseif c == quote then
      quote = nil
    elseif not quote and (c == '"' or c == "'") then
      quote, begin = c, at
    end
    at = at + 1
  end
  if not quote then return nil end
  local before = text:sub(1, begin - 1)
  if before:find "require%s*%(?%s*$" or before:find "help%s*%(?%s*$" then return nil end
  return text:sub(begin + 1)
end

--- Adds the files whose names begin so, folders with a slash behind them, hidden ones only when a
--- dot was typed.
local function add_paths(out, path)
  local uv = require "luv"
  local folder, name = path:match "^(.*/)([^/]*)$"
  if not folder then folder, name = "", path end
  local home = folder:find "^~/" and os.getenv "HOME"
  local scan = uv.fs_scandir(home and home .. folder:sub(2) or folder == "" and "." or folder)
  if not scan then return end
  for _ = 1, SCANNED_MAX do
    local entry, kind = uv.fs_scandir_next(scan)
    if not entry then return end
    if entry:sub(1, #name) == name and (name ~= "" or entry:sub(1, 1) ~= ".") then
      out[folder .. entry .. (kind == "directory" and "/" or "")] = true
    end
  end
end

--- Completes the end of a text: how many bytes of it are the beginning of a name, and the names
--- that begin so. variable(name) gives the value of a variable; `names` are sets (by key) of names
--- that may stand alone: variables, then keywords.
---@return integer length, table names
function complete.complete(text, variable, names)
  local found = {}
  local path = path_at(text)
  if path then
    add_paths(found, path)
    return #path, sorted(found)
  end
  local head, sep, prefix = text:match "^(.*)([.:])([%w_]*)$"
  if head and head:find "[%w_%])}\"']$" then
    local value = value_at(head, variable)
    for _, fields in ipairs(value ~= nil and field_tables(value) or {}) do
      for name, each in next, fields do
        if sep == "." or type(each) == "function" then add_matches(found, { [name] = true }, prefix) end
      end
    end
    return #prefix, sorted(found)
  end
  prefix = text:match "[%a_]?[%w_]*$"
  local rows = options_at(text)
  if rows then
    add_options(found, rows, prefix, " = ")
  elseif text:find "help%s*%(?%s*[\"'][%w_]*$" then
    add_options(found, options.of_functions, prefix)
    add_options(found, options.of_for_each, prefix)
  elseif text:find "require%s*%(?%s*[\"'][%w_]*$" then
    add_matches(found, package.loaded, prefix)
    add_matches(found, package.preload, prefix)
  else
    if text:find "^%s*:help%s+[%w_]*$" then
      add_options(found, options.of_functions, prefix)
      add_options(found, options.of_for_each, prefix)
    end
    for i, set in ipairs(names) do
      if i < #names or prefix ~= "" then add_matches(found, set, prefix) end
    end
  end
  return #prefix, sorted(found)
end

return complete
