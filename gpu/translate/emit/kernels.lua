-- kernels.lua: writes the kernels around a program's function: one stores its results for each
-- element, one reduces groups.
--
-- Both load the inputs of an element, or of W elements in the lanes of vectors, and call the
-- function. The rules for that, which they share, come first.

local abi = require "tidepool.base.abi"
local calls = require "tidepool.translate.emit.calls"
local emitter = require "tidepool.translate.emit.emitter"
local watched = require "tidepool.translate.emit.watched"
local wide = require "tidepool.translate.wide"

local C_ELEMENT = emitter.C_ELEMENT
-- The variables of a grid's indexes, from 0.
local PLACES = { plane = "grid_z", row = "grid_y", column = "grid_x" }
local GROUP, LANES = abi.GROUP, abi.LANES

-- From so many elements per launch on (4 MiB of doubles), results are written past the processor's
-- caches.
local LARGE = 2 ^ 19

local kernels = {}

-- ---- a kernel's text ----

-- Writes one kernel. `width` is the suffix of vector types, "" in the scalar form.
local Kernel = {}
Kernel.__index = Kernel

local function new_kernel(unit, inputs, outputs)
    local simd = unit.lanes > 1
    return setmetatable({ unit = unit, root = unit.program.root, inputs = inputs, outputs = outputs, simd = simd,
        has_places = inputs[1] ~= nil and PLACES[inputs[1].ctype] ~= nil, is_deep = inputs[1] ~= nil and inputs[1].ctype == "plane",
        lanes = unit.lanes, width = simd and tostring(unit.lanes) or "", depth = 1, body = {} }, Kernel)
end

function Kernel:line(format, ...)
    self.body[#self.body + 1] = ("    "):rep(self.depth) .. format:format(...)
end

-- The C type of a value of this kind in all lanes.
function Kernel:type(kind)
    if kind == "bool" then return self.simd and self.unit.mask_type or "int" end
    return (kind == "int" and "int" or kind == "long" and "long" or wide.KINDS[kind] and "ulong" or self.unit.real) .. self.width
end

-- The parameters, in the order of arguments_of in translate.lua. `results`: the types of the
-- results that are stored.
function Kernel:parameters(results)
    local unit, root = self.unit, self.root
    local list = { "ulong first", "ulong count" }
    if root.draws then
        for _, parameter in ipairs { "ulong key_0", "ulong key_1" } do list[#list + 1] = parameter end
    end
    if root.draws or self.has_places then list[#list + 1] = "ulong index" end
    if self.has_places then
        for _, parameter in ipairs { "long rows", "long columns" } do list[#list + 1] = parameter end
    end
    for _, input in ipairs(self.has_places and {} or self.inputs) do
        list[#list + 1] = ("__global const %s *in_%d"):format(C_ELEMENT[input.ctype], input.index)
    end
    for i, c_type in ipairs(results) do list[#list + 1] = ("__global %s *out_%d"):format(c_type, i) end
    if root.can_fail then list[#list + 1] = "__global uchar *failed" end
    if unit.columns > 0 then list[#list + 1] = ("__global %s *details"):format(unit.real) end
    for _, entry in ipairs(unit.program.captures) do unit:capture_parameters(entry, list) end
    return table.concat(list, ",\n    ")
end

-- The argument for an input whose text is x: an element as it is stored, or the elements of all
-- lanes.
function Kernel:argument(input, x)
    local c_type, kind = C_ELEMENT[input.ctype], self.root.inputs[input.index].kind
    local target = self:type(kind)
    if kind == "bool" then
        return self.simd and ("convert_%s(%s != (uchar%d)(0))"):format(target, x, self.lanes) or ("(%s != 0)"):format(x)
    end
    return c_type .. self.width == target and x or ("convert_%s(%s)"):format(target, x)
end

-- Declares the variables for everything that the function returns besides its first result (y2..,
-- status and detail), and appends these, the captured values and the random streams to its
-- arguments. `at`: the element; `lanes_left`: as in Unit:open_draws.
function Kernel:add_arguments(args, at, lanes_left)
    local root = self.root
    for i = 2, #self.outputs do
        self:line("%s y%d = 0;", self:type(self.outputs[i].kind), i)
        args[#args + 1] = "&y" .. i
    end
    self.unit:pass_captures(root, args)
    if root.can_fail then
        self:line("long%s status = 0;", self.width)
        args[#args + 1] = "&status"
        if self.unit.details > 0 then
            self:line("%s", (self.unit:declare_details("detail", self:type "num")))
            args[#args + 1] = self.unit.details == 1 and "&detail" or "detail"
        end
    end
    if root.draws then
        self:line("%s", self.unit:open_draws(at, lanes_left))
        args[#args + 1] = "draws"
    end
    if root.watches then
        self:line("lua_reads reads = { 0 };")
        args[#args + 1] = "&reads"
    end
end

-- Writes a division of numbers that are not negative; with 32 bits where they have no more, since
-- one with 64 is a function of some hundred instructions on a card. It goes the same way in all
-- work items of all grids that are usual.
function Kernel:divide(a, b, quotient, rest)
    self:line("if (%s <= INT_MAX && %s <= INT_MAX) {", a, b)
    self:line("    %s = (uint)%s / (uint)%s;", quotient, a, b)
    self:line("    %s = (uint)%s %% (uint)%s;", rest, a, b)
    self:line("} else {")
    self:line("    %s = %s / %s;", quotient, a, b)
    self:line("    %s = %s %% %s;", rest, a, b)
    self:line("}")
end

-- Declares the indexes of the grid, from 0, that belong to the element (or elements) at `at`.
-- `lanes_left`: how many elements there are, where these may be fewer than lanes.
function Kernel:find_places(at, lanes_left)
    local places, lanes = self:type "long", {}
    for k = 0, self.lanes - 1 do lanes[k + 1] = k end
    local step = self.simd and ("(%s)(%s)"):format(places, table.concat(lanes, ", ")) or "0"
    if lanes_left then step = ("min(%s, (%s)(%s - 1))"):format(step, places, lanes_left) end
    self:line("long item = (long)(index + %s), item_row, item_x;", at)
    self:divide("item", "columns", "item_row", "item_x")
    self:line("%s grid_x = item_x + %s;", places, step)
    if self.is_deep then
        self:line("long item_y, item_z;")
        self:divide("item_row", "rows", "item_z", "item_y")
        self:line("%s grid_z = (%s)(item_z);", places, places)
    end
    self:line("%s grid_y = (%s)(%s);", places, places, self.is_deep and "item_y" or "item_row")
    if not self.simd then return end
    local function carry(from, size, to)
        self:line("for (%s over = %s >= %s; any(over); over = %s >= %s) {", places, from, size, from, size)
        self:line("    %s -= over & (%s)(%s);", from, places, size)
        self:line("    %s -= over; // a lane that is on is -1", to)
        self:line("}")
    end
    carry("grid_x", "columns", "grid_y")
    if self.is_deep then carry("grid_y", "rows", "grid_z") end
end

-- Writes the call of the function; its first result is y1.
function Kernel:call(args)
    local call = ("%s(%s);"):format(self.unit.function_names[self.root], table.concat(args, ", "))
    local first = self.outputs[1]
    self:line("%s", first and ("%s y1 = %s"):format(self:type(first.kind), call) or call)
    if self.root.watches then self:line("if (status < 0) status = -status %% %d;", watched.CODES) end
end

function Kernel:text(name, parameters)
    return ("#line 1 \"tidepool kernel\"\n__kernel void %s(%s)\n{\n%s\n}\n"):format(name, parameters,
        table.concat(self.body, "\n"))
end

-- ---- a result for each element ----

-- Declares `at`, where this work item's elements begin, and `lanes`, how many of its lanes have an
-- element.
local function find_elements(k)
    local id = "get_global_id(1) * get_global_size(0) + get_global_id(0)" -- see has_rows in gpu/opencl/launch.h
    k:line("ulong at = %s;", k.simd and ("(%s) * %d"):format(id, k.lanes) or id)
    k:line("if (at >= count) return;")
    if k.simd then
        k:line("// The last elements may be fewer than the lanes: the lanes behind them repeat the last one.")
        k:line("uint lanes = (uint)min(count - at, (ulong)%d);", k.lanes)
    end
    k:line("at += first;")
end

-- Loads input i into the C variable x<i>.
local function load(k, i, input)
    local c_type, lanes = C_ELEMENT[input.ctype], k.lanes
    if not k.simd then
        k:line("%s x%d = in_%d[at];", c_type, i, input.index)
        return
    end
    k:line("%s%d x%d;", c_type, lanes, i)
    k:line("if (lanes == %d) {", lanes)
    k:line("    x%d = vload%d(0, in_%d + at);", i, lanes, input.index)
    k:line("} else {")
    k:line("    %s some[%d];", c_type, lanes)
    k:line("    for (uint k = 0; k < %d; ++k) some[k] = in_%d[at + min(k, lanes - 1)];", lanes, input.index)
    k:line("    x%d = vload%d(0, some);", i, lanes)
    k:line("}")
end

-- The mask of the lanes that have an element. The others repeat the last element, and may store the
-- same result again, but must not repeat an update.
local function mask_of_elements(k)
    local numbers = {}
    for lane = 0, k.lanes - 1 do numbers[lane + 1] = lane end
    return ("(%s)(%s) < (%s)lanes"):format(k.unit.mask_type, table.concat(numbers, ", "), k.unit.single and "int" or "long")
end

-- Declares z<i>, result i as it is stored; or, where its element failed and it has room for that,
-- the first number of its message.
local function convert_result(k, i, output)
    local c = k.unit:stored("y" .. i, output.kind, output.ctype, k.lanes)
    k:line("%s%s z%d = %s;", C_ELEMENT[output.ctype], k.width, i, c)
    if not output.holds_detail then return end
    local detail = k.unit.details == 1 and "detail" or "detail[0]"
    if k.simd then
        local has_failed = output.ctype == "float" and ("convert_int%d(status != 0)"):format(k.lanes) or "status != 0"
        k:line("z%d = select(z%d, %s, %s);", i, i, detail, has_failed)
    else
        k:line("if (status) z%d = %s;", i, detail)
    end
end

-- Stores the value c, of that C type, in the buffer `target`. `is_result`: there may be more than
-- fits into the caches.
local function store(k, c, c_type, target, is_result)
    local lanes = k.lanes
    if not k.simd then
        k:line("%s[at] = %s;", target, c)
        return
    end
    if is_result then
        k:line("if (lanes == %d && is_large && (ulong)(%s + at) %% sizeof(%s%d) == 0) {", lanes, target, c_type, lanes)
        k:line("    store_past_caches(%s, (__global %s%d *)(%s + at));", c, c_type, lanes, target)
        k:line("} else if (lanes == %d) {", lanes)
    else
        k:line("if (lanes == %d) {", lanes)
    end
    k:line("    vstore%d(%s, 0, %s + at);", lanes, c, target)
    k:line("} else {")
    k:line("    %s some[%d];", c_type, lanes)
    k:line("    vstore%d(%s, 0, some);", lanes, c)
    k:line("    for (uint k = 0; k < lanes; ++k) %s[at + k] = some[k];", target)
    k:line("}")
end

local function store_all(k)
    if k.simd and #k.outputs > 0 then k:line("bool is_large = count >= %d;", LARGE) end
    for i, output in ipairs(k.outputs) do store(k, "z" .. i, C_ELEMENT[output.ctype], "out_" .. i, true) end
    if k.root.can_fail then
        store(k, k.simd and ("convert_uchar%d(status)"):format(k.lanes) or "(uchar)status", "uchar", "failed")
    end
    local details, columns = k.unit.details, k.unit.columns
    if columns > 0 then
        k:line(k.simd and "if (any(status != 0)) {" or "if (status) {")
        for column = 0, columns - 1 do
            local detail = details == 1 and "detail" or ("detail[%d]"):format(details - columns + column)
            store(k, detail, k.unit.real, column == 0 and "details" or ("(details + %d * (first + count))"):format(column))
        end
        k:line("}")
    end
end

-- The kernel that gives the function's results for each element.
---@return string
function kernels.map(unit, name, inputs, outputs)
    local k = new_kernel(unit, inputs, outputs)
    local results, args = {}, {}
    for i, output in ipairs(outputs) do results[i] = C_ELEMENT[output.ctype] end
    local parameters = k:parameters(results)
    find_elements(k)
    if k.has_places then k:find_places("at", k.simd and "lanes") end
    for i, input in ipairs(inputs) do
        if k.has_places then
            args[i] = PLACES[input.ctype] .. " + 1"
        else
            load(k, i, input)
            args[i] = k:argument(input, "x" .. i)
        end
    end
    k:add_arguments(args, "at", "lanes")
    if k.simd and unit.program.has_updates then table.insert(args, 1, mask_of_elements(k)) end
    k:call(args)
    for i, output in ipairs(outputs) do convert_result(k, i, output) end
    store_all(k)
    return k:text(name, parameters)
end

-- ---- a number for each group ----

local START = { sum = "0", min = "INFINITY", max = "(-INFINITY)" }
local COMBINE = { min = "lua_least", max = "lua_greatest" }

-- The text that reduces a and b to one, in all lanes.
local function combine(k, a, b)
    local unit, combiner = k.unit, k.unit.program.combiner
    if combiner then
        local args = { a, b }
        if k.simd and not calls.is_plain(combiner) then table.insert(args, 1, ("(%s)(-1)"):format(unit.mask_type)) end
        unit:pass_captures(combiner, args)
        return ("%s(%s)"):format(unit.function_names[combiner], table.concat(args, ", "))
    end
    if k.reduce == "sum" then return ("%s + %s"):format(a, b) end
    unit:helper(COMBINE[k.reduce], k.lanes)
    return ("%s%s(%s, %s)"):format(COMBINE[k.reduce], k.width, a, b)
end

-- Reduces the first result of the element (or elements) at `offset` into the variable `to`, inside
-- a loop. With `is_first` it becomes the variable's value, outside of one.
local function add_element(k, offset, to, is_first)
    local unit, first, args = k.unit, k.outputs[1], {}
    if k.has_places then k:find_places(offset) end
    for i, input in ipairs(k.inputs) do
        if k.has_places then
            args[i] = PLACES[input.ctype] .. " + 1"
        else
            args[i] = k:argument(input, k.simd and ("vload%d(0, in_%d + %s)"):format(k.lanes, input.index, offset)
                or ("in_%d[%s]"):format(input.index, offset))
        end
    end
    k:add_arguments(args, offset)
    k:call(args)
    if k.root.can_fail then
        k:line("if (%s) { bad = 1;%s }", k.simd and "any(status != 0)" or "status", is_first and "" or " break;")
    end
    local value = "y1"
    if first.ctype ~= unit.real then value = unit:stored(value, first.kind, first.ctype, k.lanes) end
    if first.ctype ~= unit.real or first.kind ~= "num" then value = ("convert_%s%s(%s)"):format(unit.real, k.width, value) end
    if is_first then
        k:line("%s = %s;", to, value)
    elseif unit.program.combiner then
        k:line("%s z = %s;", unit.real .. k.width, value)
        k:line("%s = %s;", to, combine(k, to, "z"))
    else
        k:line("%s = %s;", to, combine(k, to, value))
    end
end

-- The loop over a group's elements, from the first ones of `at` on, LANES at a time. `add(offset,
-- is_first)` writes what is done with those. A user's function begins with two elements, not with a
-- number of ours; those before the loop stand in front of it: with a condition inside, PoCL 6 and
-- LLVM 19 end the process ("Instruction Combining did not reach a fixpoint", pocl issue 1608).
local function add_group(k, depth, add)
    local begins = 0
    k.depth = depth
    if k.unit.program.combiner then
        begins = LANES
        k:line("{")
        k.depth = depth + 1
        add("at", true)
        k.depth = depth
        k:line("}")
    end
    k:line("for (ulong j = %d; j < %d%s; j += %d) {", begins, GROUP, begins > 0 and k.root.can_fail and " && !bad" or "", LANES)
    k.depth = depth + 1
    add("at + j", false)
    k.depth = depth
    k:line("}")
    k.depth = 1
end

-- The vector form: a work item has a whole group, whose lanes are in the vectors a1..; then these
-- are combined.
local function reduce_in_lanes(k)
    local unit, lanes = k.unit, k.lanes
    local parts = LANES / lanes
    k:line("ulong group = get_global_id(0);")
    k:line("if (group >= count) return;")
    k:line("ulong at = first + group * %d;", GROUP)
    k:line("int bad = 0;")
    for p = 1, parts do k:line("%s%d a%d = %s;", unit.real, lanes, p, START[k.reduce] or "0") end
    add_group(k, 1, function(offset, is_first)
        for p = 1, parts do
            if parts > 1 then k:line("{") end
            add_element(k, ("%s + %d"):format(offset, (p - 1) * lanes), "a" .. p, is_first)
            if parts > 1 then k:line("}") end
        end
    end)
    while parts > 1 do
        parts = parts / 2
        for p = 1, parts do k:line("a%d = %s;", p, combine(k, "a" .. p, "a" .. (p + parts))) end
    end
    local apart = lanes / 2
    while apart >= 1 do
        local order = {}
        for lane = 0, lanes - 1 do order[lane + 1] = ("%x"):format((lane + apart) % lanes) end
        k:line("a1 = %s;", combine(k, "a1", "a1.s" .. table.concat(order)))
        apart = apart / 2
    end
    k:line("out_1[group] = %s;", unit:stored("a1.s0", "num", unit.real, 1))
    if k.root.can_fail then k:line("failed[group] = bad;") end
end

-- The scalar form: LANES work items have a group, one lane each; then these are combined in local
-- memory.
local function reduce_in_items(k)
    local unit = k.unit
    k:line("ulong group = get_global_id(0) / %d;", LANES)
    k:line("uint lane = get_global_id(0) %% %d, here = get_local_id(0);", LANES)
    k:line("__local %s sums[%d];   // the largest work group", unit.real, abi.WORK_GROUP_MAX)
    k:line("__local int bads[%d];", abi.WORK_GROUP_MAX)
    k:line("%s a = %s;", unit.real, START[k.reduce] or "0")
    k:line("int bad = 0;")
    k:line("if (group < count) {")
    k:line("    ulong at = first + group * %d + lane;", GROUP)
    add_group(k, 2, function(offset, is_first) add_element(k, offset, "a", is_first) end)
    k:line("}")
    k:line("sums[here] = a;")
    k:line("bads[here] = bad;")
    k:line("for (uint apart = %d; apart > 0; apart /= 2) {", LANES / 2)
    k:line("    barrier(CLK_LOCAL_MEM_FENCE);")
    k:line("    if (lane < apart) {")
    k:line("        bads[here] |= bads[here + apart];")
    k:line("        if (!bads[here] && group < count) sums[here] = %s;", combine(k, "sums[here]", "sums[here + apart]"))
    k:line("    }")
    k:line("}")
    k:line("if (group < count && lane == 0) {")
    k:line("    out_1[group] = %s;", unit:stored("sums[here]", "num", unit.real, 1))
    if k.root.can_fail then k:line("    failed[group] = bads[here];") end
    k:line("}")
end

-- The kernel that reduces the first results of each group's elements to one number. `reduce`:
-- "sum", "min", "max"; any other value when the program has a combiner.
---@return string
function kernels.reduce(unit, name, inputs, outputs, reduce)
    local k = new_kernel(unit, inputs, outputs)
    k.reduce = reduce
    local parameters = k:parameters { unit.real }
    if k.simd then reduce_in_lanes(k) else reduce_in_items(k) end
    return k:text(name, parameters)
end

return kernels
