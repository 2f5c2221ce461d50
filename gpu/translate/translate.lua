-- translate.lua: the translator's interface: makes of a Lua function OpenCL C and everything that
-- is needed to run it.
--
-- Nothing here calls OpenCL. The executor builds `source`, sets the kernel's arguments as
-- `arguments` lists them, and launches ceil(count / lanes) work items (more do no harm).

local infer = require "tidepool.translate.infer"
local emit = require "tidepool.translate.emit"
local wide = require "tidepool.translate.wide"

local translate = {}

---@class tidepool.gpu.Options
---@field name string? the function's name, for messages
---@field precision "double"|"single"|nil what numbers are on the device; double by default
---@field lanes 1|2|4|8|16|nil elements per work item; 1, the default, is the form for GPUs, 8 (single: 16) that for CPUs, which some updates of
---   elements cannot have
---@field inputs string[]? storage type of each input ("double", "float", "int32" ... "uint8", "bool"); by default one
---   real number for each parameter; or they are the indexes of a grid, which the kernel computes:
---   "row", "column", or "plane", "row", "column"
---@field returns string[]? storage type of each result, by default "double" ("float" in single precision), or "bool"
---@field recursion_limit integer? how deep functions may call themselves, where nothing else says when that ends
---@field distinct "range"|"grid"|nil what is known of the inputs: the first one differs each time, or all together do
---@field text_of? fun(chunkname: string): string|string[]? texts of chunks that the host kept
---@field reduce "sum"|"min"|"max"|function|nil the kernel gives what this makes of the first results of each 1,024 elements; all of
---   them whole: its `count` is that of such groups, and `failed` says whether an element of the
--   group failed

---@class tidepool.gpu.Argument one argument of the kernel
---@field kind "first"|"count"|"key"|"index"|"input"|"output"|"failed"|"details"|"number"|"array"|"length"
---   first, count: ulong, the first element and how many to do; key: ulong, half 1 and 2 of the
---   map's key for random numbers; index: ulong, that of the buffers' first element in the map, for
---   them; input, output: buffers, element i belongs to element i of the map; failed: a buffer of
---   uchar, 0 or the number of a failure; details: a buffer of `index` columns of reals, one behind
---   the other, of which those of elements that failed are written: the numbers of its message, but
---   for one that an output holds; number: real (double or float), or int64 or uint64; array:
---   buffer of at least one element; length: int, its number of elements
---@field ctype string type of the value or of the buffer's elements
---@field shape "rows"|"columns"|nil the value is that of the grid
---@field index integer? which input or output; how many columns of details
---@field name string? the captured value, as it is written in Lua
---@field is_written boolean? of an array: elements are assigned to
---@field is_list boolean? `read` gives a plain list, of which an array of `ctype` has to be made
---@field read (fun(): any)? for number, array and length: the value as of now; read it again for each call

---@class tidepool.gpu.Translation
---@field source string OpenCL C 1.2
---@field kernel string name of the kernel
---@field lanes integer elements per work item
---@field precision string
---@field arguments tidepool.gpu.Argument[] in the order of the kernel's arguments
---@field inputs { ctype: string, name: string }[]
---@field outputs { ctype: string }[]
---@field can_fail boolean whether there is a `failed` argument
---@field failures table[] by the numbers in `failed`
---@field detail_output integer? the output that holds, for an element that failed, the first number of its message; else `details` do
---@field needs_double boolean whether the device must have fp64
---@field is_reducer boolean made for `reduce`
---@field has_rows boolean its work items may lie in rows
---@field is_watched boolean it looks whether elements have changed since they were read (infer/dependences.lua)
---@field uses_distinct boolean what it is depends on the option `distinct`
---@field has_places boolean it computes its inputs, which are the indexes of a grid
local Translation = {}
Translation.__index = Translation

local LANES = { [1] = true, [2] = true, [4] = true, [8] = true, [16] = true }
local STORAGE = { double = true, float = true, int32 = true, int16 = true, int8 = true, uint32 = true, uint16 = true,
                  uint8 = true, int64 = true, uint64 = true, bool = true, plane = true, row = true, column = true }
local PLACES = { plane = true, row = true, column = true }

local function check_options(options)
    local precision, lanes = options.precision or "double", options.lanes or 1
    if precision ~= "double" and precision ~= "single" then
        error(("translate: precision is '%s'; it can be \"double\" or \"single\""):format(tostring(precision)), 3)
    end
    if not LANES[lanes] then
        error(("translate: lanes is %s; it can be 1, 2, 4, 8 or 16"):format(tostring(lanes)), 3)
    end
    for _, list in ipairs { options.inputs or {}, options.returns or {} } do
        for i, ctype in ipairs(list) do
            if not STORAGE[ctype] then
                error(("translate: type %d is '%s'; it can be double, float, int8 to int64, uint8 to uint64 or bool")
                    :format(i, tostring(ctype)), 3)
            end
        end
    end
    return precision, lanes
end

-- Marks the instances that are called with the final types, from the root down; and those of
-- functions that call themselves which several calls call.
local function mark_used(program, inst)
    if inst.is_used then
        inst.is_called_often = program.modes[inst.text] ~= nil
        return
    end
    inst.is_used = true
    for _, made in pairs(inst.calls) do
        if made.callee then mark_used(program, made.callee) end
    end
end

local function output_types(root, real, returns, blame)
    local outputs = {}
    if returns and #returns ~= #root.results then
        blame(("it returns %d value%s, and %d types are given"):format(#root.results, #root.results == 1 and "" or "s", #returns))
    end
    for i, result in ipairs(root.results) do
        local is_wide = wide.KINDS[result.kind]
        local ctype = returns and returns[i] or ((result.kind == "bool" or is_wide) and result.kind or real)
        if is_wide and not wide.KINDS[ctype] then
            blame(("result %d is a 64-bit integer (%s), and its type is given as %s: give it as \"%s\", or write tonumber(...)"):format(i,
                result.kind, ctype, result.kind))
        end
        if (ctype == "bool") ~= (result.kind == "bool") then
            blame(("result %d is a %s, and its type is given as %s"):format(i, result.kind == "bool" and "boolean" or "number",
                ctype))
        end
        outputs[i] = { ctype = ctype, kind = result.kind }
    end
    return outputs
end

-- A function that reads a captured value again, and checks that the code still fits it.
local function checked_read(entry)
    local static, read = entry.static, entry.static.read
    if entry.kind == "number" then
        return function()
            local value = read()
            if (entry.ctype and wide.kind_of(value) or not entry.ctype and type(value)) ~= (entry.ctype or "number") then
                error(("'%s' is a %s now; it was a %s when the function was translated"):format(static.path, wide.kind_of(value) or type(value),
                    entry.ctype or "number"), 0)
            end
            return value
        end
    end
    if entry.is_list then
        return function()
            local value = read()
            local is_list, kind = infer.is_list(value)
            if not is_list or (kind or entry.ctype) ~= entry.ctype or not kind and wide.KINDS[entry.ctype] then
                error(("'%s' is no list of numbers without holes now; it was one when the function was translated"):format(static.path), 0)
            end
            return value
        end
    end
    return function()
        local value = read()
        local ctype = infer.array_type(value)
        if ctype ~= entry.ctype then
            error(("'%s' is %s now; it was an array of %s when the function was translated"):format(static.path,
                ctype and "an array of " .. ctype or "a " .. type(value), entry.ctype), 0)
        end
        return value
    end
end

-- The number of elements of a captured array or list.
local function length_of(entry, value)
    return not entry.is_list and value.n or #value
end

-- Are the inputs the indexes of a grid?
local function are_places(inputs) return inputs[1] ~= nil and PLACES[inputs[1].ctype] ~= nil end

local function arguments_of(inputs, outputs, program, real, columns)
    local list = { { kind = "first", ctype = "uint64" }, { kind = "count", ctype = "uint64" } }
    local has_places = are_places(inputs)
    if program.root.draws then
        for half = 1, 2 do list[#list + 1] = { kind = "key", index = half, ctype = "uint64" } end
    end
    if program.root.draws or has_places then list[#list + 1] = { kind = "index", ctype = "uint64" } end
    if has_places then
        for _, name in ipairs { "rows", "columns" } do list[#list + 1] = { kind = "length", ctype = "int64", shape = name } end
    end
    for i, input in ipairs(has_places and {} or inputs) do
        list[#list + 1] = { kind = "input", index = i, ctype = input.ctype, name = input.name }
    end
    for i, output in ipairs(outputs) do list[#list + 1] = { kind = "output", index = i, ctype = output.ctype } end
    if program.root.can_fail then list[#list + 1] = { kind = "failed", ctype = "uint8" } end
    if columns > 0 then list[#list + 1] = { kind = "details", index = columns, ctype = real } end
    for _, entry in ipairs(program.captures) do
        local name, read = entry.static.path, checked_read(entry)
        if entry.kind == "number" then
            list[#list + 1] = { kind = "number", ctype = entry.ctype or real, name = name, read = read }
        else
            list[#list + 1] = { kind = "array", ctype = entry.ctype, name = name, read = read, is_written = entry.is_written,
                               is_list = entry.is_list }
            list[#list + 1] = { kind = "length", ctype = "int32", name = name, read = function() return length_of(entry, read()) end }
        end
    end
    return list
end

---Whether the code is still that of the function: functions, booleans, strings and nil that it
---captured are part of it.
---@return boolean
---@return string? changed the captured value that is another one now
function Translation:is_current()
    for _, static in pairs(self.baked) do
        local ok, now = pcall(static.read)
        if not ok or now ~= static.value then return false, static.path end
    end
    return true
end

-- The message of a failure, with captured numbers as they are now. `plain` gives what is written
-- for a text, `computed` for the piece of a number that the device gives.
local function write_message(failure, plain, computed)
    local text = {}
    for i, piece in ipairs(failure.pieces or { failure.message }) do
        if type(piece) ~= "table" then
            text[i] = plain(piece)
        else
            text[i] = piece.static and plain(piece.format:format(piece.static.read())) or computed(piece)
        end
    end
    return table.concat(text)
end

local function itself(text) return text end
local function escaped(text) return (text:gsub("%%", "%%%%")) end

---The error of an element that failed.
---@param number integer from the `failed` buffer, not 0
---@param ... number those of its message: the element of output `detail_output`, if there is one, and of the columns of details
---@return string message as plain Lua would have it: with file and line where it has them
function Translation:describe(number, ...)
    local failure = self.failures[number]
    if not failure then return ("failed with an unknown status (%d)"):format(number) end
    if failure.kind ~= "index" then
        local numbers, d = { ... }, 0
        return write_message(failure, itself, function(piece)
            d = d + 1
            local value = numbers[d] or 0 / 0
            return piece.format:format(piece.is_boolean and tostring(value ~= 0) or value)
        end)
    end
    local detail = ...
    local static = failure.array.static
    local ok, array = pcall(static.read)
    local has_length = ok and (infer.array_type(array) or failure.array.is_list and infer.is_list(array))
    local n = has_length and length_of(failure.array, array)
    local bounds = n and (" (1 to %d)"):format(n) or ""
    local where = ("%s:%d: "):format(failure.file, failure.line)
    if not detail then return ("%sindex of '%s' is out of range%s, or not a whole number"):format(where, static.path, bounds) end
    local is_within = n and detail >= 1 and detail <= n
    local what = is_within and "not a whole number" or "out of range"
    return ("%sindex %.14g of '%s' is %s%s"):format(where, detail, static.path, what, bounds)
end

---The same for all failures, as formats that need no Lua to be used: see tp_device_failure in
---gpu/opencl/launch.h.
---@return { format: string, inside: string?, n: integer? }[]
function Translation:texts()
    local list = {}
    for number, failure in ipairs(self.failures) do
        if failure.kind == "index" then
            local static = failure.array.static
            local n = length_of(failure.array, static.read())
            local text = escaped(("%s:%d: "):format(failure.file, failure.line)) .. "index %.14g of " .. escaped(("'%s' is "):format(static.path))
            local bounds = (" (1 to %d)"):format(n)
            list[number] = { n = n, format = text .. "out of range" .. bounds, inside = text .. "not a whole number" .. bounds }
        else
            list[number] = { format = write_message(failure, escaped, function(piece)
                return piece.is_boolean and piece.format:gsub("s$", "b") or piece.format
            end) }
        end
    end
    return list
end

---Translates a Lua function.
---Raises a string: "file:line: gpu function 'name': construct; what to do instead".
---@param fn function
---@param options tidepool.gpu.Options?
---@return tidepool.gpu.Translation
function translate.translate(fn, options)
    if type(fn) ~= "function" then error(("translate: a function expected, got %s"):format(type(fn)), 2) end
    options = options or {}
    local precision, lanes = check_options(options)
    local real = precision == "single" and "float" or "double"
    local name = options.name
    local function analyse()
        return pcall(infer.program, fn, {
            name = name, lanes = lanes, real = real, inputs = options.inputs, text_of = options.text_of,
            combine = type(options.reduce) == "function" and options.reduce or nil, recursion_limit = options.recursion_limit,
            distinct = options.distinct,
        })
    end
    local ok, program = analyse()
    if not ok and type(program) == "table" and program.is_scalar then
        lanes = 1
        ok, program = analyse()
    end
    if not ok then error(type(program) == "table" and program.refusal or program, 0) end
    local root = program.root
    mark_used(program, root)
    if program.combiner then mark_used(program, program.combiner) end
    local outputs = output_types(root, real, options.returns, function(what)
        error(("%s:%d: gpu function%s: %s"):format(root.fn.source.file, root.def.line,
            name and (" '%s'"):format(name) or "", what), 0)
    end)
    local inputs, needs_double = {}, precision == "double"
    for i, input in ipairs(root.inputs) do
        inputs[i] = { index = i, name = input.var.name, ctype = options.inputs and options.inputs[i] or real }
        needs_double = needs_double or inputs[i].ctype == "double"
    end
    local details, detail_output = 0, nil
    for _, failure in ipairs(program.failures) do
        details = math.max(details, failure.kind == "index" and 1 or failure.pieces and #failure.pieces.numbers or 0)
    end
    for i, output in ipairs(outputs) do
        needs_double = needs_double or output.ctype == "double"
        if details > 0 and not detail_output and output.ctype == real then
            detail_output = i
            output.holds_detail = true
        end
    end
    local columns = options.reduce and 0 or details - (detail_output and 1 or 0)
    for _, entry in ipairs(program.captures) do needs_double = needs_double or entry.ctype == "double" end
    local kernel = "tidepool_" .. (name and name:gsub("[^%w]+", "_") or "map")
    if options.reduce then kernel = kernel .. "_" .. (program.combiner and "reduce" or options.reduce) end
    local text = emit.program(program, {
        lanes = lanes, precision = precision, kernel = kernel, inputs = inputs, outputs = outputs, needs_double = needs_double,
        reduce = options.reduce, details = details, columns = columns,
    })
    if options.reduce then
        outputs, lanes, detail_output = { { ctype = real, kind = "num" } }, lanes > 1 and emit.GROUP or emit.GROUP / emit.LANES, nil
    end
    return setmetatable({
        source = text, kernel = kernel, lanes = lanes, precision = precision, inputs = inputs, outputs = outputs,
        arguments = arguments_of(inputs, outputs, program, real, columns), can_fail = root.can_fail, failures = program.failures,
        baked = program.baked, detail_output = detail_output, needs_double = needs_double, is_reducer = options.reduce ~= nil,
        has_rows = not options.reduce, has_places = are_places(inputs),
        is_watched = program.watch ~= nil, uses_distinct = program.uses_distinct or false,
    }, Translation)
end

return translate
