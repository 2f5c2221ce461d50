--- Devices: which exist, which of them `gpu = ...` selects, and the kernels that they run in place
--- of Lua functions.
--
-- The programs of a Function are kept, so that a map only reads the captured values again and gives
-- its job a kernel (core.program.kernel).

local abi = require "tidepool.base.abi"
local array = require "tidepool.array"
local bit = require "bit"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local executors = require "tidepool.engine.executors"
local failure = require "tidepool.failure"
local garbage = require "tidepool.device.garbage"
local inputs = require "tidepool.engine.inputs"
local progress = require "tidepool.engine.progress"
local show = require "tidepool.base.show"

local band, rshift = bit.band, bit.rshift

local gpu = { random = require "tidepool.translate.random" }

-- The word for "no device": the executor of that name does the work instead.
local NO_DEVICE = executors.fallback.name
gpu.NO_DEVICE = NO_DEVICE

-- The word for "whoever is faster": worker threads and devices share each map.
local AUTO = executors.AUTO

local found -- the devices once there are some
local shared -- those of them that share maps with worker threads, see match_beside

--- The devices, the best first: graphics cards with their own memory, others, accelerators,
-- processors.
---@return table    list of { name, platform, vendor, type, compute_units, memory, fp64, version, driver, number = as the C side counts }
---@return string?  why there are none
function gpu.devices()
  if found then return found end
  local devices, missing = core.device.list()
  if not devices then return {}, missing end
  for i, d in ipairs(devices) do d.number = i end
  local ordered = {}
  for i, at in ipairs(core.device.order(devices)) do ordered[i] = devices[at] end
  found = ordered
  return ordered
end

--- The place in gpu.devices of the device with that number.
function gpu.place(number)
  for i, d in ipairs(gpu.devices()) do
    if d.number == number then return i end
  end
end

--- The devices that one word of a `gpu` option selects; nil, and how many there are, when there are
--- not enough.
local function match_word(devices, spec)
  local list, positions, wanted = {}, core.device.match(devices, spec)
  for i, at in ipairs(positions) do list[i] = devices[at] end
  return #list == wanted and list or nil, #list
end

local function show_spec(spec)
  if type(spec) ~= "table" then return ("%q"):format(spec == true and "any" or spec) end
  local words = {}
  for i, word in ipairs(spec) do words[i] = ("%q"):format(word) end
  return "{ " .. table.concat(words, ", ") .. " }"
end

--- Checks a `gpu` option as it is written: returns true, and what it means where that is written
--- otherwise; or false, nil and a complaint.
function gpu.check_spec(spec)
  if spec == true then return true end
  if type(spec) == "string" and spec:lower() == AUTO then return true, AUTO end
  local words = type(spec) == "string" and { spec } or spec
  if type(words) ~= "table" or #words == 0 then return false end
  for i, word in ipairs(words) do
    if type(word) ~= "string" or word == "" then return false end
    local name, count = word:match "^(.*):(.*)$"
    if name and (name == "" or not count:find "^[1-9]%d?$") then
      return false, nil, ("has %q, in which a number of devices is expected behind the colon, as in \"nvidia:2\""):format(word)
    end
    if name and name:lower() == AUTO then
      return false, nil, ('has %q, and %q takes all devices that are there, not a number of them'):format(word, AUTO)
    end
    if word:lower() == AUTO then
      return false, nil, ('may have %q only alone, not in a list: it takes the devices that are there, and worker threads'):format(AUTO)
    end
    if word == NO_DEVICE and (i < #words or i == 1) then
      return false, nil, ("may have %q only as the last of a list: what is done when no device is there"):format(NO_DEVICE)
    end
  end
  return true
end

--- The devices that share maps with worker threads: those that are no processors, else the first
--- one that is; nil when there is none.
local function match_beside(devices)
  if shared or not devices[1] then return shared end
  local list = {}
  for _, d in ipairs(devices) do list[#list + 1] = d.type ~= "cpu" and d or nil end
  shared = #list > 0 and list or { devices[1] }
  return shared
end

--- The devices that a `gpu` option selects; nil when there are none and it ends with "threads",
--- or is "auto". Raises in the name of `who`, at the user's line.
---@param spec true|string|table
---@param who string
---@return table? list of devices
function gpu.match(spec, who)
  if type(spec) == "table" and spec.number then return { spec } end -- a buffer's own device
  local devices, why = gpu.devices()
  if spec == AUTO then return match_beside(devices) end
  local few = 0 -- how many there are, when more are asked for
  for _, word in ipairs(spec == true and { "any" } or type(spec) == "string" and { spec } or spec) do
    if word == NO_DEVICE then return nil end
    local list, n = match_word(devices, word)
    if list then return list end
    few = math.max(few, n)
  end
  if #devices == 0 then check.fail("%s: gpu = %s: %s", who, show_spec(spec), why) end
  local lines = {}
  for i, d in ipairs(devices) do lines[i] = ("\n  %s (%s, %s)"):format(d.name, d.type, d.platform) end
  check.fail("%s: gpu = %s: %s; there %s:%s", who, show_spec(spec), few > 0 and ("no such devices, only %d"):format(few) or "no such device",
    #devices == 1 and "is" or "are", table.concat(lines))
end

-- ---- devices by hand ----

local opened = {} -- by number

local function open_device(row)
  if not opened[row.number] then opened[row.number] = require("tidepool.device.device").new(row) end
  return opened[row.number]
end

gpu.open_device = open_device

local drivers = setmetatable({}, { __mode = "k" }) -- functions that drive devices, and their option `gpu`

--- Notes that f drives the devices of its option itself; for calls of f in this state.
function gpu.add_driver(f)
  drivers[f.raw] = f.options.gpu
end

--- The devices that the running function may drive: a list; nil when its option allows none to be
--- there and none is; false when no running function has the option.
local function leased()
  local level, info = 3, debug.getinfo(3, "f")
  while info do
    if drivers[info.func] then return gpu.match(drivers[info.func], "tidepool.gpu.device") end
    level = level + 1
    info = debug.getinfo(level, "f")
  end
  local worker, numbers = core.device.leased()
  if not worker then return false end
  local list = {}
  for _, d in ipairs(gpu.devices()) do
    for _, number in ipairs(numbers) do
      if d.number == number then list[#list + 1] = d end
    end
  end
  return #list > 0 and { list[(worker - 1) % #list + 1] } or nil
end

--- A device to drive by hand: with buffers and kernels of one's own. Without an argument, inside a
-- function that has gpu = ... and an executor, it is the device that is leased to the function: of
-- several, each worker has its own. Elsewhere it is the best one. With an argument it is what gpu =
-- ... would take. nil where that ends with "threads" and no device is there.
---@param which (true|string|table)?
---@return tidepool.Device?
function gpu.device(which, extra)
  check.no_more(extra, "tidepool.gpu.device", "a device, or a list of them")
  local list
  if which == nil then
    list = leased()
    if list == false then list = gpu.match(true, "tidepool.gpu.device") end
  else
    local is_right, meant, complaint = gpu.check_spec(which)
    if not is_right then
      check.fail("tidepool.gpu.device: %s", complaint or 'expected true, or a device like "any", "gpu", "H200", or a list of them, got ' ..
        check.show(which))
    end
    list = gpu.match(meant or which, "tidepool.gpu.device")
  end
  return list and open_device(list[1])
end

-- ---- kernels ----

local BUILD_OPTIONS = "-cl-std=CL1.2 -w"

-- What was compiled for each Function, by the types of its inputs.
local compiled = setmetatable({}, { __mode = "k" })

--- The number of a type of the translator's.
local function number_of(ctype)
  return array.number(ctype == "bool" and "uint8" or ctype)
end

local function numbers_of(list)
  local numbers = {}
  for i, each in ipairs(list) do numbers[i] = number_of(each.ctype) end
  return numbers
end

-- Stands for devices of other machines, which are known only there: kernels are in the form for
-- graphics cards, and compiled there.
local FAR = { number = "far", name = "a device of another machine", lanes_float = 1, lanes_double = 1, fp64 = true, is_far = true }

local COLUMNS_MAX, ARGUMENTS_MAX = abi.KERNEL_COLUMNS_MAX, abi.KERNEL_ARGUMENTS_MAX

--- Raises when a translation has more inputs, results or captured values than a kernel can take.
local function check_size(f, made)
  for what, list in pairs { inputs = made.inputs, results = made.outputs } do
    if #list > COLUMNS_MAX then
      check.fail("%s has %d %s; a function on a device has at most %d, more go into a typed array that it captures", f.name, #list, what, COLUMNS_MAX)
    end
  end
  if #made.arguments <= ARGUMENTS_MAX then return end
  local captured = 0
  for _, argument in ipairs(made.arguments) do captured = captured + ((argument.kind == "number" or argument.kind == "array") and 1 or 0) end
  check.fail("%s captures %d numbers and arrays, which is more than a kernel takes (%d, each array two, with the inputs and results); put numbers "
    .. "into one typed array", f.name, captured, ARGUMENTS_MAX)
end

--- The texts of chunks of that name that are in no file (texts.h), the last one first; nil when
--- there are none.
local function text_of(name)
  local list = {}
  for _, named in ipairs(debug.getregistry()["tidepool.texts"] or {}) do
    local texts = named[name] or {}
    for i = #texts, 1, -1 do list[#list + 1] = texts[i] end
  end
  return #list > 0 and list or nil
end

--- Where the Lua function f is written: "file:line".
local function line_of(f)
  local info = debug.getinfo(f.raw, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- See with_text.
local WRAPPER = "local fn = ... return function(a, b) return fn(a, b) end"

--- What is wrong with a function, told at the user's line where that would be the text above, or
--- where a function in C has none.
local function with_place(why)
  local of_ours = why:match '^%[string "local fn = %.%.%. return function[^\n]-"%]:%d+: (.*)'
  return (of_ours or why:find "^gpu function") and check.placed(of_ours or why) or why
end

local function translate(f, d, types, reduce, distinct)
  local precision = f.options.precision or "double"
  local fine, made = pcall(require("tidepool.translate.translate").translate, f.raw, {
    name = f.name ~= line_of(f) and f.name or nil, -- one without a name goes by its place
    precision = precision, lanes = precision == "single" and d.lanes_float or d.lanes_double, inputs = types,
    returns = f.options.returns, reduce = reduce, text_of = text_of, recursion_limit = f.options.recursion_limit, distinct = distinct,
  })
  if not fine then error(type(made) == "string" and with_place(made) or made, 0) end
  check_size(f, made)
  return made
end

--- Raises an error about a function's OpenCL C, with the line of its decorator and its name.
local function fail_kernel(f, why, ...)
  error(("%s%s: %s"):format(f.options.kernel.where, f.name, why:format(...)), 0)
end

--- The compiler's log as an error shows it, in which files and lines are the user's.
local function show_log(log)
  return (log or ""):gsub("%z", ""):gsub("%s+$", "")
end

--- core.program.new for a device, which may take seconds; a terminal shows it. What it took is
--- added to the unit's builds. Gives the program, or nil, a message and a log. A promise is made by
--- the device's thread, when that is due (core.program.promise).
local function build(f, unit, d, source, options, kernel, is_promise)
  if is_promise then return core.program.promise(d.number, source, options, kernel, f.name) end
  local text = show.plain(("%s: compiling for %s"):format(f.name, d.name), true)
  local program, how, seconds = progress.during(text, core.program.new, d.number, source, options, kernel, f.name)
  if not program then return nil, how, seconds end
  if how then unit.builds[#unit.builds + 1] = { device = gpu.place(d.number), how = how, seconds = seconds } end
  return program
end

--- Compiles a user's OpenCL C for these devices.
local function compile_kernel(f, devices)
  local given = f.options.kernel
  local made, why = require("tidepool.translate.kernel").read(given.text, given.with, given.file, given.line)
  if not made then fail_kernel(f, "%s", why) end
  local unit = { is_new = true, builds = {}, programs = {}, translations = {}, inputs = numbers_of(made.inputs),
    outputs = numbers_of(made.outputs), made = made, result_types = {}, booleans = {}, boolean_inputs = {}, is_foreign = true, source = made.source }
  for i, output in ipairs(made.outputs) do
    unit.result_types[i], unit.booleans[i] = output.ctype, output.ctype == "bool"
    unit.has_boolean = unit.has_boolean or unit.booleans[i]
  end
  for _, argument in ipairs(made.arguments) do
    if argument.name then
      local name, is_array = argument.name, argument.kind == "array"
      argument.read = function()
        local value = given.with[name]
        if is_array and array.type_of(value) ~= argument.ctype then
          error(("with.%s must be an array of %s"):format(name, argument.ctype), 0)
        elseif not is_array and type(value) ~= "number" then
          error(("with.%s must be a number"):format(name), 0)
        end
        return value
      end
    end
  end
  unit.options, unit.entry, unit.needs_double = BUILD_OPTIONS:gsub(" %-w", ""), made.kernel, made.needs_double
  for i, d in ipairs(devices) do
    if made.needs_double and not d.fp64 then fail_kernel(f, "%s has no doubles; use float", d.name) end
    if d.is_far then break end
    local program, message, log = build(f, unit, d, made.source, unit.options, made.kernel)
    if program then
      unit.programs[#unit.programs + 1] = { device = d.number, lanes = 1, program = program }
    elseif i == #devices and #unit.programs == 0 then
      fail_kernel(f, "%s\n%s", message, show_log(log))
    end
    unit.lacks_device = unit.lacks_device or not program and not log
  end
  return unit
end

--- Translates and builds f for these devices. nil and why when the devices cannot run it; raises
--- when f cannot be translated. `reduce`: compiles a reducer of its results, see gpu.reducer;
--- `is_promise`: its programs are only promised, see build; `distinct`: as the translator's option.
local function compile(f, devices, types, reduce, is_promise, distinct)
  if f.options.kernel then return compile_kernel(f, devices) end
  local by_lanes, unit = {}, { is_new = true, builds = {}, programs = {}, translations = {} }
  for i, d in ipairs(devices) do
    local lanes = f.options.precision == "single" and d.lanes_float or d.lanes_double
    local made = by_lanes[lanes]
    if not made then
      made = translate(f, d, types, reduce, distinct)
      by_lanes[lanes] = made
      unit.translations[#unit.translations + 1] = made
    end
    if made.needs_double and not d.fp64 then
      return nil, ('%s has no doubles; with precision = "single", and float arrays, it can run this function'):format(d.name)
    end
    if d.is_far then break end
    local program, why, log = build(f, unit, d, made.source, BUILD_OPTIONS, made.kernel, is_promise)
    if program then
      unit.programs[#unit.programs + 1] = { device = d.number, lanes = made.lanes, program = program }
    elseif i == #devices and #unit.programs == 0 then
      return nil, ("%s\n%s"):format(why, show_log(log))
    end
    unit.lacks_device = unit.lacks_device or not program and not log
  end
  local first = unit.translations[1]
  unit.made, unit.source = first, first.source
  unit.options, unit.entry, unit.needs_double = BUILD_OPTIONS, first.kernel, first.needs_double
  unit.inputs, unit.outputs = numbers_of(first.has_places and {} or first.inputs), numbers_of(first.outputs)
  unit.types, unit.has_places = types, first.has_places
  for _, argument in ipairs(first.arguments) do unit.is_writer = unit.is_writer or argument.is_written end
  for _, each in ipairs(unit.translations) do
    unit.is_watched, unit.uses_distinct = unit.is_watched or each.is_watched, unit.uses_distinct or each.uses_distinct
  end
  unit.result_types, unit.booleans, unit.boolean_inputs = {}, {}, {}
  for i, input in ipairs(first.inputs) do unit.boolean_inputs[i] = input.ctype == "bool" end
  for i, output in ipairs(first.outputs) do
    unit.booleans[i] = output.ctype == "bool"
    unit.result_types[i] = output.ctype
    unit.has_boolean = unit.has_boolean or unit.booleans[i]
  end
  return unit
end

--- Was one of the unit's programs on a device that has lost it?
local function is_over(unit)
  for _, one in ipairs(unit.programs) do
    if core.program.is_over(one.program) then return true end
  end
  return false
end

local function is_current(unit)
  for _, made in ipairs(unit.translations) do
    if not made:is_current() then return false end
  end
  return not unit.lacks_device and not is_over(unit)
end

local void_pointer = require("ffi").typeof "char *"
local GROUP = abi.GROUP

--- The current value of what a kernel's argument captures, or of the grid's shape; nil when it is
--- neither.
local function read(f, argument, shape)
  if argument.shape then return shape[argument.shape] end
  if not argument.read then return nil end
  local fine, value = pcall(argument.read)
  if not fine then check.fail("%s: %s", f.name, value) end
  return argument.is_list and array.new(argument.ctype, value) or value
end

--- One argument of a kernel as core.program.kernel takes it.
local function show_argument(argument, value)
  local one = { kind = abi.argument[argument.kind], type = number_of(argument.ctype), index = argument.index }
  if argument.kind ~= "array" then
    one.value = value
    if type(value) == "cdata" then -- a 64-bit integer, as its halves
      one.value, one.high = tonumber(band(value, 0xffffffffULL)), tonumber(rshift(value, 32))
    end
    return one
  end
  local cast = require("ffi").cast
  local _, start = core.array.memory(value.memory)
  one.memory, one.array, one.is_written = value.memory, value, argument.is_written
  one.offset = tonumber(cast(void_pointer, value.elements) - cast(void_pointer, start))
  one.bytes = math.max(value.length, 1) * require("ffi").sizeof(array.c_name(value.ctype))
  return one
end

--- The compiled form of f, or of its reducer, for these devices, compiled at its first use, or
--- promised; nil and why when the devices cannot run it.
local function unit_of(f, devices, types, reduce, only, is_promise, distinct)
  local units = compiled[f]
  if not units then
    units = { reducers = setmetatable({}, { __mode = "k" }) }
    compiled[f] = units
  end
  if reduce then
    units.reducers[reduce] = units.reducers[reduce] or {}
    units = units.reducers[reduce]
  end
  local any = (f.options.kernel and "" or table.concat(types or {}, " ")) .. (only and "@" .. only.number or "")
  local unit, why = units[any], nil
  if unit and is_current(unit) and not (distinct and unit.is_watched) then return unit end
  local key = distinct and any .. distinct or any
  unit = units[key]
  if not unit or not is_current(unit) then
    unit, why = compile(f, devices, types, reduce, is_promise, distinct)
    units[key] = unit
    if unit and not unit.uses_distinct then units[any] = unit end
  end
  return unit, why
end

--- What was built for the unit, and nobody has been told of: a list of { device = its place in
--- gpu.devices, how = "compiled" or "read", seconds }.
---@param unit table
---@return table[]
function gpu.builds(unit)
  local list = unit.builds
  for _, one in ipairs(unit.programs) do
    local how, seconds = core.program.built(one.program)
    if how then list[#list + 1] = { device = gpu.place(one.device), how = how, seconds = seconds } end
  end
  unit.builds = {}
  return list
end

--- Are the numbers the same? 0 and -0 are not.
local function is_identical(a, b)
  return a == b and (a ~= 0 or 1 / a == 1 / b)
end

--- The beginning of complaints about f's inputs: where f is written, and its name.
local function place_of(f)
  if f.options.kernel then return ("%s%s: "):format(f.options.kernel.where, f.name) end
  return check.placed(f.name .. ": ", line_of(f) .. ": ")
end

local POSITIONS_MAX = 2 ^ 31 - 1 -- elements of an array that is read by an index: translated code counts them with 32 bits

--- The unit's programs on those devices; all when none of them has one.
local function programs_on(unit, devices)
  local programs = {}
  for _, one in ipairs(unit.programs) do
    for _, d in ipairs(devices) do
      if d.number == one.device then programs[#programs + 1] = one end
    end
  end
  return programs[1] and #programs < #unit.programs and programs or unit.programs
end

--- Raises where a device with memory of its own would have two copies of elements that are written:
--- arrays of which one is a part of the other, or both of a third one.
local function check_copies(f, made, values, programs)
  local copies = false
  for _, one in ipairs(programs) do
    for _, d in ipairs(gpu.devices()) do copies = copies or d.number == one.device and not d.unified end
  end
  local spans = {}
  for i, argument in ipairs(copies and made.arguments or {}) do
    if argument.kind == "array" and not argument.is_list then
      local first = tonumber(require("ffi").cast("uintptr_t", values[i].elements))
      local one = { argument = argument, first = first, behind = first + values[i].length * require("ffi").sizeof(array.c_name(values[i].ctype)) }
      for _, other in ipairs(spans) do
        local is_same = one.first == other.first and one.behind == other.behind
        if not is_same and one.first < other.behind and other.first < one.behind and (argument.is_written or other.argument.is_written) then
          check.fail("%s: '%s' and '%s' share elements, which are written: on a device with memory of its own each would have a copy of them; "
            .. "capture the whole array, and number its elements", f.name, other.argument.name, argument.name)
        end
      end
      spans[#spans + 1] = one
    end
  end
end

--- A kernel of the unit with the captured values as they are now: the last kernel if they have not
--- changed. A kernel with arrays is not kept, since their elements may have changed. `shape`: the
--- grid whose places it computes; `usable`: the devices that may run it, all of the unit's when
--- nil.
local function open_kernel(f, unit, shape, usable)
  local programs = usable and programs_on(unit, usable) or unit.programs
  local made, values, has_arrays = unit.made, {}, false
  local is_same = unit.kernel ~= nil and programs == unit.programs
  for i, argument in ipairs(made.arguments) do
    values[i] = read(f, argument, shape)
    is_same = is_same and is_identical(values[i], unit.values[i])
    has_arrays = has_arrays or argument.kind == "array"
    if argument.kind == "array" and not unit.is_foreign and values[i].length > POSITIONS_MAX then
      check.fail("%s: the array '%s' has %d elements, and one that is captured has at most 2^31 - 1 on a device: capture a slice of it", f.name,
        argument.name, values[i].length)
    end
  end
  if is_same then return unit.kernel end
  if unit.is_writer and not unit.is_foreign then check_copies(f, made, values, programs) end
  local arguments = {}
  for i, argument in ipairs(made.arguments) do arguments[i] = show_argument(argument, values[i]) end
  local kernel = core.program.kernel {
    programs = programs, arguments = arguments, inputs = unit.inputs, outputs = unit.outputs, booleans = unit.booleans,
    boolean_inputs = unit.boolean_inputs,
    failures = unit.is_foreign and {} or made:texts(), detail = made.detail_output, is_foreign = unit.is_foreign,
    group = made.is_reducer and GROUP or 1, has_rows = made.has_rows, where = place_of(f),
  }
  if not has_arrays and programs == unit.programs then unit.kernel, unit.values = kernel, values end
  return kernel
end

--- Do devices, and nobody else, run the function?
---@param f tidepool.Function
function gpu.runs_all(f)
  local spec = f.options.gpu
  return spec ~= nil and not f.options.executor and not (type(spec) == "table" and spec[#spec] == NO_DEVICE)
end

--- Was the function compiled for some device?
---@param f tidepool.Function
function gpu.is_compiled(f)
  return compiled[f] ~= nil
end

--- The translation of f, a Lua function, for a device. Raises when there is none.
---@param f tidepool.Function
---@param device table  of gpu.devices
---@param types string[]  of the inputs
---@return tidepool.gpu.Translation
function gpu.translation(f, device, types)
  return translate(f, device, { unpack(types, 1, math.min(#types, debug.getinfo(f.raw, "u").nparams)) })
end

local PATIENCE_S = 1 -- how long abandoned work on a device may take to end by itself

--- Can a device be used, or be used beside abandoned work with which it is stuck? False, and a
--- message when that was tried (`waits`), when it cannot.
local function is_usable(f, device, waits)
  if not core.device.is_stuck(device.number, waits and PATIENCE_S or 0) then return true end
  if not waits then return false end
  local is_free, why = core.device.free_up(device.number)
  return is_free, not is_free and ("%s: %s"):format(f.name, why) or nil
end

--- Those of the devices that can be used; nil and a message when there is none. `waits`: abandoned
--- work may take a while to end, and the others are tried.
local function usable_of(f, devices, waits)
  if not devices[2] then -- nothing is made for one device, since maps may be short
    local is, complaint = is_usable(f, devices[1], waits)
    return is and devices or nil, complaint
  end
  local usable, hung, complaint = {}, {}, nil
  local function try(d)
    local is, why = is_usable(f, d, waits)
    if is then usable[#usable + 1] = d end
    complaint = complaint or why
  end
  for _, d in ipairs(devices) do
    -- one that ran nothing when it was tried last is tried again only in need
    if core.device.is_stuck(d.number, 0) then hung[#hung + 1] = d else try(d) end
  end
  for _, d in ipairs(usable[1] and {} or hung) do try(d) end
  if #usable == #devices then return devices end
  return usable[1] and usable or nil, complaint
end

local parameters = setmetatable({}, { __mode = "k" }) -- how many each Function has; false: it is OpenCL C

--- The types of the inputs, and how many parameters f has. As in Lua, arguments beyond the
--- parameters are dropped.
local function given_types(f, types)
  local wanted = parameters[f]
  if wanted == nil then
    wanted = not f.options.kernel and debug.getinfo(f.raw, "u").nparams
    parameters[f] = wanted
  end
  return types and wanted and #types > wanted and { unpack(types, 1, wanted) } or types, wanted
end

--- The element types for lists as inputs; nil when all parameters are numbers. Arguments have the
--- type of those of the first input.
local function types_of(f, source, wanted)
  local count = inputs.count_arguments(source, wanted)
  local real, types, is_special = f.options.precision == "single" and "float" or "double", {}, count ~= nil and count < wanted
  for i = 1, math.min(count or wanted, wanted) do
    local is_boolean = type(inputs.first_argument(source, i)) == "boolean"
    types[i], is_special = is_boolean and "bool" or real, is_special or is_boolean
  end
  return is_special and types or nil
end

--- What is known of inputs, as the translator's option `distinct`.
local function distinct_of(f, source, shape)
  if shape then return "grid" end
  local range = source and source.columns and source.columns[1] and source.columns[1].range
  if not range or range.every or range.from % 1 ~= 0 or range.step % 1 ~= 0 then return nil end
  local most = f.options.precision == "single" and 2 ^ 23 or 2 ^ 52 -- beyond which numbers become equal
  return math.max(math.abs(range.from), math.abs(range.from + range.n * range.step)) <= most and "range" or nil
end

--- What a job on devices runs; nil when f's option says that threads do it.
---@param f tidepool.Function
---@param types string[]?  the element types of the inputs, when they are typed arrays
---@param inputs_of table?  the source of the inputs, or as much of one as types_of needs; of typed arrays it does not matter
---@param shape tidepool.Grid?  the inputs are its places, which the kernel can compute: then the unit has_places
---@param only tidepool.Device?  the one of f's devices that is to run it
---@return userdata? kernel
---@return table? unit  { result_types, has_boolean, device: the first that runs it, may_fall_back: threads run the function when no device can }
function gpu.kernel(f, types, inputs_of, shape, only)
  local devices = gpu.match(f.options.gpu, f.name)
  if only then devices = { only } end
  if not devices and f.options.kernel then check.fail("%s: OpenCL C cannot run on threads, and no other device of its gpu = ... is there", f.name) end
  if not devices then return nil end
  local wanted
  types, wanted = given_types(f, types)
  local spec = f.options.gpu
  local may_fall_back = (spec == AUTO or type(spec) == "table" and spec[#spec] == NO_DEVICE) and not f.options.kernel and not only
  local has_places = shape and wanted and wanted > 0 and not may_fall_back -- threads would need them
  if has_places then
    types = shape.planes and { "plane", "row", "column" } or { "row", "column" }
    types = { unpack(types, 1, math.min(wanted, #types)) }
  end
  if wanted and not types then types = types_of(f, inputs_of, wanted) end
  local usable, complaint = usable_of(f, devices, spec ~= AUTO or not may_fall_back)
  if not usable and may_fall_back then return nil end
  if not usable then error(failure.new { kind = abi.kind.DEVICE, message = check.placed(complaint) }, 0) end
  garbage.look()
  -- threads run the function beside the devices: nobody waits for a compiler
  local is_promise = spec == AUTO and may_fall_back
  local distinct = not f.options.kernel and distinct_of(f, inputs_of, has_places and shape) or nil
  local unit, why = unit_of(f, devices, types, nil, only, is_promise, distinct)
  if not unit and may_fall_back then return nil end
  if not unit then check.fail("%s: %s", f.name, why) end
  unit.may_fall_back, unit.device = may_fall_back, devices[1]
  return open_kernel(f, unit, has_places and shape, usable), unit
end

--- What a job on devices of other machines (jobs.is_far) runs: an image for them, in the place of
--- gpu.kernel's kernel. The unit is for all of them; its `devices` are the words of f's option.
---@param f tidepool.Function
---@param types string[]?  as for gpu.kernel
---@param inputs_of table?
---@return userdata image
---@return table unit
function gpu.plan(f, types, inputs_of)
  local wanted
  types, wanted = given_types(f, types)
  if wanted and not types then types = types_of(f, inputs_of, wanted) end
  local unit, why = unit_of(f, { FAR }, types, nil, FAR)
  if not unit then check.fail("%s: %s", f.name, why) end
  local kernel = open_kernel(f, unit)
  if unit.plan and unit.planned == kernel then return unit.plan, unit end
  for _, argument in ipairs(unit.made.arguments) do
    if argument.is_written then
      check.fail("%s: it writes to the array '%s', which would stay on another machine: return the values instead", f.name, argument.name)
    end
    if argument.kind == "array" then core.buffer.bring_home(read(f, argument).memory) end
  end
  local spec = f.options.gpu
  unit.devices = (type(spec) == "table" and table.concat(spec, "\n") or spec == true and "any" or spec)
  unit.is_far, unit.planned = true, kernel
  unit.plan = core.program.plan(kernel, {
    devices = unit.devices, name = f.name, source = unit.source, options = unit.options, entry = unit.entry, needs_double = unit.needs_double,
  })
  return unit.plan, unit
end

-- Functions that devices cannot run beside threads, by the types of their inputs.
local refused = setmetatable({}, { __mode = "k" })

-- What is worth asking for: that many inputs of an unknown function; or a map that takes so long
-- on threads, since before that a device has hardly begun, of a function that they have run for so
-- long: as asking takes, which is most of all loading OpenCL. When something is compiled, the
-- engine says (beside.c).
local MANY, SOME_S, ASK_S, ASK_FIRST_S = 1e5, 1e-4, 5e-3, 3e-2

--- Has the function so much to do that devices are worth asking, and its translation worth the
--- time, if that was not done yet?
local function is_worth_it(f, total)
  if not total then return true end
  local mean, spent = core.func.mean(f.core)
  if mean <= 0 then return compiled[f] ~= nil or total >= MANY end
  local each = total * mean / core.workers()
  return each >= SOME_S and (compiled[f] ~= nil or spent / core.workers() + each >= (found and ASK_S or ASK_FIRST_S))
end

-- What opening a kernel of a function took the last two times, in seconds, without translating it;
-- and how much of the time of its maps since then it may take. Lists that the function captures are
-- copied for each, which takes longer than many maps do.
local opened_in = setmetatable({}, { __mode = "k" })
local CREDIT_PART = 25 -- as in beside.c

--- May opening a kernel take its time, since devices save more than that, or maps have paid for it?
local function is_paid_for(f, total)
  local cost = opened_in[f]
  if not (cost and total) then return true end
  local mean, _, there = core.func.mean(f.core)
  local each = total * mean / core.workers()
  cost.credit = cost.credit + each / CREDIT_PART
  local seconds = math.min(cost.last, cost.before)
  return seconds <= cost.credit or there > 0 and seconds + total * there < each
end

--- A kernel of the function was opened in so many seconds.
local function note_opened(f, seconds)
  local cost = opened_in[f] or { last = seconds }
  cost.last, cost.before, cost.credit = seconds, cost.last, 0
  opened_in[f] = cost
end

local has_begun = false -- to load OpenCL

--- Could none of the unit's programs be made, though their devices are there?
local function has_failed(unit)
  for _, one in ipairs(unit.programs) do
    if not core.program.has_failed(one.program) or core.program.is_over(one.program) then return false end
  end
  return true
end

--- Are the devices known? Else OpenCL is loaded beside what else is done, from now on if it
--- `begins`.
---@param begins boolean
---@return boolean
function gpu.are_known(begins)
  has_begun = has_begun or begins
  return found ~= nil or has_begun and core.device.begin()
end

--- What devices run of a map of f beside worker threads (gpu = "auto"), as gpu.kernel; nil when
--- only threads run it: since it has little to do, OpenCL is still loaded, no device is there, or
--- none can run the function. Then f:opencl() says why.
---@param f tidepool.Function
---@param types string[]?
---@param source table
---@return userdata? kernel
---@return table? unit
---@return boolean? may_join  it is worth asking again, when devices are known
function gpu.beside(f, types, source)
  local key = table.concat(types or { "numbers" }, " ")
  if refused[f] and refused[f][key] or not (is_worth_it(f, source.total) and is_paid_for(f, source.total)) then return nil end
  -- Nobody waits for OpenCL; and while a library is loaded nobody else can look up a function of
  -- one, as workers do when they start: so that is not begun with a function's first map, but in it
  -- (joiner in maps.lua).
  if not gpu.are_known(not source.total or core.func.mean(f.core) > 0) then return nil, nil, true end
  local began = core.loop.now()
  local fine, kernel, unit = pcall(gpu.kernel, f, types, source)
  if fine and unit and not unit.is_new then note_opened(f, core.loop.now() - began) end
  if not fine and core.loop.is_interrupt(kernel) then error(kernel, 0) end
  -- what items write would be in two memories
  if fine and not (unit and (unit.is_writer or has_failed(unit))) then return kernel, unit end
  refused[f] = refused[f] or {}
  refused[f][key] = true
end

local identity

--- The identity function. Its text is the name of its chunk, where the translator finds it.
---@return function
function gpu.identity()
  identity = identity or assert(loadstring "return function(x) return x end")()
  return identity
end

-- Function in C, like math.max -> a Lua function that calls it and whose text the translator can
-- read.
local wrapped = setmetatable({}, { __mode = "k" })

local function with_text(fn)
  if not require("tidepool.translate.builtins").find(fn) then return fn end
  wrapped[fn] = wrapped[fn] or assert(loadstring(WRAPPER))(fn)
  return wrapped[fn]
end

--- The kernel that reduces groups of the results of a map of f on its devices
--- (tp_kernels_set_reducer): by "sum", "min", "max", or a function of two numbers. nil when results
--- must come one by one. Raises when the function cannot run there.
---@param f tidepool.Function
---@param unit table  of gpu.kernel, of the map
---@param types string[]?  as for gpu.kernel
---@param reduce string|function
---@param total integer?  results, when that is known
---@param shape tidepool.Grid?  as for gpu.kernel
---@param only tidepool.Device?  as for gpu.kernel
---@return userdata?
function gpu.reducer(f, unit, types, reduce, total, shape, only)
  if type(reduce) == "function" and #unit.result_types > 1 then
    check.fail("results:reduce: %s gives %d results, and on a device the function of reduce takes two numbers; loop over the results instead",
      f.name, #unit.result_types)
  end
  if type(reduce) == "function" then reduce = with_text(reduce) end
  local is_few = total and total < GROUP
  local first = unit.result_types[1]
  local is_wide = first == "int64" or first == "uint64" -- of which LuaJIT's loops make doubles in their own way
  if f.options.kernel or unit.has_boolean or unit.is_writer or is_wide or (is_few and type(reduce) == "string") then return nil end
  local devices = only and { only } or gpu.match(f.options.gpu, f.name)
  types = types and not unit.has_places and { unpack(types, 1, #unit.inputs) } or unit.types
  -- too few to reduce on the device; but a function that cannot run there is still refused
  if is_few then
    translate(f, devices[1], types, reduce)
    return nil
  end
  local reducer, why = unit_of(f, devices, types, reduce, only)
  if not reducer then check.fail("%s: %s", f.name, why) end
  return open_kernel(f, reducer, shape), gpu.builds(reducer)
end

--- The OpenCL C of a function: for the device that it would run on, or, where there is none, in the
-- form for graphics cards.
---@param f tidepool.Function
---@return string
function gpu.source(f)
  if f.options.kernel then
    local given = f.options.kernel
    local made, why = require("tidepool.translate.kernel").read(given.text, given.with, given.file, given.line)
    if not made then fail_kernel(f, "%s", why) end
    return made.source
  end
  local fine, devices = pcall(gpu.match, f.options.gpu or true, f.name)
  return translate(f, fine and devices and devices[1] or { lanes_float = 1, lanes_double = 1 }).source
end

--- The value of the option `kernel`: its text, `with`, and where the text stands in the user's
--- file, so that the compiler's lines are the user's.
---@param text string
---@param with table?
---@param frame table  of check.frame
function gpu.kernel_option(text, with, frame, where)
  local path = frame.source:match "^@(.*)"
  local option = { text = text, with = with or {}, file = path or frame.short_src, where = where } -- short_src has no more than 60 characters
  local file = path and io.open(path, "rb")
  local whole = file and file:read "*a" or (not frame.source:find "^[@=]" and frame.source) or ""
  if file then file:close() end
  whole = whole:gsub("\r\n", "\n")
  local at, line, begin = #text > 0 and whole:find(text, 1, true), 1, 1
  while at do
    line = line + select(2, whole:sub(begin, at - 1):gsub("\n", ""))
    -- a file may have the same text several times: the caller's is the one nearest to its line
    if not option.line or math.abs(line - frame.currentline) < math.abs(option.line - frame.currentline) then option.line = line end
    begin, at = at, whole:find(text, at + 1, true)
  end
  if not option.line then option.file, option.line = "kernel", 1 end
  return option
end

return gpu
