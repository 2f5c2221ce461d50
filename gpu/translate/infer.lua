-- infer.lua: finds out types, lanes and captures in a function before any C is written.
--
-- A Program is one translation. It has instances, one for each function and the kinds of its
-- arguments: the function itself first, then its helper functions. For each instance a walk over
-- the tree is repeated until nothing changes; it finds
--   * types: "num" (double or float), "int" (int32, from bit.* and integer arrays), "long" (loop
--     counters, indexes of a grid), "int64" and "uint64" (see wide.lua), "bool", "nil"; "k" is a
--     whole literal, which becomes what it meets; "maybe" is a number or false, as `c and x` gives,
--     which only `or` and conditions can take ("maybe int64" and "maybe uint64" the same of those);
--   * what varies between the lanes of a vector. In the scalar form (one lane) nothing does;
--   * what is captured: numbers, typed arrays, and plain tables as lists of numbers become
--     arguments of the kernel, read anew at each call; functions, booleans and nil are baked in,
--     and remembered so that a change is noticed (Program.baked);
--   * that every local has a value, or is known to have none (nil), where it is read: parameters
--     that are given nothing are nil, and what is made of that (`k = k or 2`, `if not s then`) is
--     known here;
--   * what every path returns.
-- Code that a device cannot run is refused here, with the line, the construct, the reason and a way
-- out, so that emit.lua can write everything that has passed.
--
-- The walk is infer/walk.lua; infer/expressions.lua, elements.lua, calls.lua, library.lua,
-- messages.lua, assignments.lua, statements.lua and loops.lua say what each node is. They stand on
-- statics.lua (what is known when a function is translated), types.lua, flow.lua (the state of the
-- walk), arrays.lua, updates.lua, wide.lua and functions.lua (texts and refusals). program.lua has
-- programs and instances.

local arrays = require "tidepool.translate.infer.arrays"
local dependences = require "tidepool.translate.infer.dependences"
local functions = require "tidepool.translate.infer.functions"
local Program = require "tidepool.translate.infer.program"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local lower = require "tidepool.translate.lower"
local recursion = require "tidepool.translate.recursion"
require "tidepool.translate.infer.assignments"
require "tidepool.translate.infer.calls"
require "tidepool.translate.infer.expressions"
require "tidepool.translate.infer.loops"
require "tidepool.translate.infer.statements"

-- What others ask about programs and the values of the host.
local infer = {
    array_type = arrays.array_type, is_list = arrays.is_list, static_outside = functions.static_outside,
    source_of = statics.source_of, static_of = statics.static_of, truth_of = statics.truth_of,
}

local function_of, refuse = functions.function_of, functions.refuse
local NUMERIC = types.NUMERIC

-- Types that only inputs have: the indexes of a grid.
local PLACE_TYPES = { plane = "long", row = "long", column = "long" }

-- The function that reduces two results to one, as an instance like the root. It may not fail.
local function combiner(program, top, value, lanes)
    local fn = function_of(program, value, "reduce")
    local at = { program = program, fn = fn, inst = top }
    local def, inputs = fn.def, {}
    if #def.params ~= 2 or def.is_vararg then refuse(at, def, "the function of reduce takes 2 numbers, and this one does not") end
    for i, var in ipairs(def.params) do inputs[i] = { var = var, kind = "num", varies = lanes > 1 } end
    local inst = program:instance(at, def, {
        key = "combiner", fn = fn, def = def, name = "reduce", inputs = inputs, simd = lanes > 1, text = recursion.text(fn, def), written = def,
    })
    if #inst.results ~= 1 or not NUMERIC[inst.results[1].kind] then refuse(at, def, "the function of reduce returns one number") end
    if inst.can_fail then
        refuse(at, def, "the function of reduce cannot fail: error, assert and elements of arrays belong into the function that is mapped")
    end
    if inst.draws then
        refuse(at, def, "the function of reduce draws no random numbers; math.random belongs into the function that is mapped")
    end
    return inst
end

-- infer.program, once it is known which modes functions that call themselves have, and which locals
-- may be read before they have a value.
local function analyse(value, options, is_simd, modes, unset)
    local program = setmetatable({
        name = options.name, text_of = options.text_of, lanes = options.lanes, real = options.real, is_simd = is_simd or false,
        functions = {}, by_key = {}, stack = {}, instances = {}, modes = modes, unset = unset, tracks = next(modes) ~= nil,
        recursion_limit = options.recursion_limit,
        captures = {}, captured = {}, failures = {}, failure_codes = {}, baked = {},
    }, Program)
    local fn = function_of(program, value, options.name)
    local top = { program = program, fn = fn }
    if not fn.def.is_vararg or #(options.inputs or {}) > 0 then
        local def = lower.def(program, fn, options, infer, function(called, name, at)
            return function_of(program, called, name, at and { inst = top, at = at })
        end)
        fn = setmetatable({ def = def }, { __index = fn })
        top.fn = fn
    end
    local def = fn.def
    if def.is_vararg then refuse(top, def, "'...'; there are no variable arguments on a device, name the parameters") end
    local kinds = options.inputs or {}
    if #kinds > #def.params then
        refuse(top, def, "it takes %d argument%s and is given %d inputs", #def.params, #def.params == 1 and "" or "s", #kinds)
    end
    local inputs = {}
    for i, var in ipairs(def.params) do
        if options.inputs and not kinds[i] then break end
        local kind = kinds[i] == "bool" and "bool" or PLACE_TYPES[kinds[i]] or arrays.TYPES[kinds[i] or "double"]
        if not kind then refuse(top, def, "inputs of type %s; use double or int32", tostring(kinds[i])) end
        inputs[i] = { var = var, kind = kind, varies = options.lanes > 1 }
    end
    program.root = program:instance(top, def, {
        key = "root", fn = fn, def = def, name = options.name, inputs = inputs, simd = options.lanes > 1, text = recursion.text(fn, def),
        written = def,
    })
    for _, result in ipairs(program.root.results) do
        if result.missing then
            refuse(top, result, "%s; %s", result.missing, "a function returns the same number everywhere")
        end
    end
    local writes = false
    for _, entry in ipairs(program.captures) do writes = writes or entry.is_written end
    if #program.root.results == 0 and not writes then
        refuse(top, { line = def.last_line }, "it returns nothing and writes to no array: there is nothing that a device could give back")
    end
    -- A function that draws random numbers was analysed as one in which no lane differs: start
    -- again, with lanes in all functions.
    if options.lanes > 1 and program.is_scalar_draw and not is_simd then return infer.program(value, options, true) end
    if options.combine then program.combiner = combiner(program, top, options.combine, options.lanes) end
    recursion.judge(program, top)
    dependences.find(program, options.distinct)
    return program
end

---Analyses a function. Raises { refusal = message }, or { is_scalar = true } when it can be done in
---the scalar form only.
---@param value function
---@param options { name: string?, lanes: integer, real: "double"|"float", inputs: string[]?, text_of: function?, combine: function?,
---   recursion_limit: integer?, distinct: string? }
---@param is_simd boolean? all functions have lanes, also those in which nothing differs between them
---@return table program with .root, .combiner, .instances (callees first), .captures, .failures, .baked
function infer.program(value, options, is_simd)
    return recursion.settle(function(modes, unset) return analyse(value, options, is_simd, modes, unset) end)
end

return infer
