-- emit.lua: writes an analysed program as OpenCL C.
--
-- One emitter writes two forms. The scalar form (one lane) is what GPUs want: a work item for each
-- element, and plain control flow. The vector form has W elements in the lanes of double8 or
-- float16, and is what CPU devices want, several times as fast there. In it, what does not differ
-- between lanes stays scalar, conditions that differ become masks, and lanes that return, break or
-- fail are cleared from the masks around them. The scalar form is the special case in which nothing
-- differs. Functions in which nothing differs are scalar in either form.
--
-- emit/emitter.lua has text, values and masks; expressions.lua, elements.lua, calls.lua and
-- statements.lua write the parts of a function; runs.lua finds lanes that are neighbours; unit.lua
-- writes the functions; kernels.lua writes the kernel around them.
--
-- A reduction makes one number of each GROUP elements (TP_GROUP of host/codec/block.h): element i
-- of a group goes to lane i modulo LANES, in order; then the lanes are combined. The result is the
-- same on every device, and in lua/tidepool/engine/reduce.lua.

local abi = require "tidepool.base.abi"
local kernels = require "tidepool.translate.emit.kernels"
local Unit = require "tidepool.translate.emit.unit"
local watched = require "tidepool.translate.emit.watched"

local emit = { GROUP = abi.GROUP, LANES = abi.LANES }

-- Results that are too many for the caches are written past them, where the compiler can do that: a
-- store to a line that is not cached first reads the line, which is a third of the traffic of 2 * x
-- + 1.
local STORE_PAST_CACHES = [[
#ifdef __has_builtin
#if __has_builtin(__builtin_nontemporal_store)
#define store_past_caches(vector, to) __builtin_nontemporal_store(vector, to)
#endif
#endif
#ifndef store_past_caches
#define store_past_caches(vector, to) (*(to) = (vector))
#endif

]]

-- Functions that PoCL 3.1 computes lane by lane, or by a dozen instructions, as one or two of the
-- processor's, where the compiler (clang since 15) can do that. Their results are the same bits.
-- (bench/grid.lua: a product of two matrices by computed indexes takes a quarter of the time, a 5x5
-- blur two fifths.) Not the first two with LLVM 18 and 19, which end the process over some programs
-- with them under PoCL 6 ("Instruction Combining did not reach a fixpoint", pocl issue 1608).
local FAST = {
    { names = { "any", "all" }, text = [[
#ifdef __has_builtin
#if __has_builtin(__builtin_reduce_or) && __has_builtin(__builtin_reduce_and) && (__clang_major__ < 18 || __clang_major__ > 19)
#undef any
#undef all
#define any(mask) (__builtin_reduce_or((mask) < 0) != 0)
#define all(mask) (__builtin_reduce_and((mask) < 0) != 0)
#endif
#endif

]] },
    { names = { "floor", "ceil", "trunc" }, text = [[
#ifdef __has_builtin
#if __has_builtin(__builtin_elementwise_floor) && __has_builtin(__builtin_elementwise_ceil) && __has_builtin(__builtin_elementwise_trunc)
#undef floor
#undef ceil
#undef trunc
#define floor(x) __builtin_elementwise_floor(x)
#define ceil(x) __builtin_elementwise_ceil(x)
#define trunc(x) __builtin_elementwise_trunc(x)
#endif
#endif

]] },
}

-- By how much the indexes of a grid differ between lanes, in a row of it.
local STEPS = { plane = 0, row = 0, column = 1 }

---Writes a program.
---@param program table from infer.program
---@param options table lanes, precision, needs_double, kernel (its name), inputs and outputs (as in a Translation, also with reduce), reduce,
---   details (how many numbers of a failure the device gives at most), columns (of these, how many
--   the argument for them takes, since no output has room)
---@return string source
function emit.program(program, options)
    local single = options.precision == "single"
    local unit = setmetatable({
        program = program, lanes = options.lanes, single = single, real = single and "float" or "double",
        mask_type = (single and "int" or "long") .. options.lanes, helpers = {}, prelude = {}, functions = {},
        function_names = {}, function_count = {}, capture_names = {}, taken = {}, details = options.details,
        columns = options.columns, places = { [true] = {}, [false] = {} }, accesses = { [true] = {}, [false] = {} }, loads = {},
        rare_loads = {}, steps = {},
        starts = 0, -- see watched.lua
    }, Unit)
    for i, input in ipairs(options.inputs) do unit.steps[program.root.inputs[i].var] = STEPS[input.ctype] end
    for _, inst in ipairs(program.instances) do
        if inst.is_used then unit:count_places(inst) end
    end
    for _, inst in ipairs(program.instances) do
        if inst.is_used then unit:instance(inst) end
    end
    local kernel = options.reduce and kernels.reduce(unit, options.kernel, options.inputs, options.outputs, options.reduce)
        or kernels.map(unit, options.kernel, options.inputs, options.outputs)
    local parts = { "// Made by Tidepool from a Lua function.\n" }
    if options.needs_double then parts[#parts + 1] = "#pragma OPENCL EXTENSION cl_khr_fp64 : enable\n" end
    parts[#parts + 1] = "#pragma OPENCL FP_CONTRACT OFF\n\n"
    if options.lanes > 1 and not options.reduce then parts[#parts + 1] = STORE_PAST_CACHES end
    if program.watch then table.insert(unit.prelude, 1, watched.declaration(program.watch)) end
    local text = table.concat(unit.prelude, "\n") .. (#unit.prelude > 0 and "\n" or "") .. table.concat(unit.functions, "\n") .. "\n" .. kernel
    for _, fast in ipairs(options.lanes > 1 and FAST or {}) do
        local is_used = false
        for _, name in ipairs(fast.names) do is_used = is_used or text:find("%f[%w_]" .. name .. "%(") ~= nil end
        if is_used then parts[#parts + 1] = fast.text end
    end
    parts[#parts + 1] = text
    return table.concat(parts)
end

return emit
