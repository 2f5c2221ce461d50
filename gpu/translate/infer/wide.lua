-- wide.lua: what infer.lua asks about 64-bit integers: the kinds of calls, and what refusals
-- advise.

local functions = require "tidepool.translate.infer.functions"
local trees = require "tidepool.translate.trees"
local wide = require "tidepool.translate.wide"

local rules = {}

local WIDE = wide.KINDS

-- A local that begins with a whole number and gets 64-bit integers later is one of these from the
-- start. Where it may still be the number it is read only by what makes the same of both: by
-- operators whose other operand is such an integer, comparisons with whole literals, and what makes
-- a number or a 64-bit integer of it. Its state is "start" there (flow.lua); inst.starts has the
-- names that nothing of this kind has taken away.

---Is it a number with which a 64-bit integer may begin?
function rules.is_start(node)
    local v = node.tag == "Number" and node.value
    return v and v >= 0 and v == math.floor(v) and v <= 2 ^ 53 or false
end

---The name is read by what makes the same of a number and of a 64-bit integer.
function rules.allow(inst, node) inst.starts[trees.bare(node)] = nil end

---Two values meet, whose kinds are these.
function rules.allow_beside(inst, node, kind, other, other_kind, is_comparison)
    local is_one = WIDE[other_kind] and wide.joined(kind, other_kind) == other_kind and not inst.starts[trees.bare(other)]
    if is_one or is_comparison and rules.is_start(trees.bare(other)) then rules.allow(inst, node) end
end

---Refuses what is left of such names: where the first of them is.
function rules.check_starts(inst)
    local first
    for node in pairs(inst.starts) do
        if not first or node.line < first.line then first = node end
    end
    if not first then return end
    local kind = inst.vars[first.var].kind
    functions.refuse(inst, first, "'%s' may still be the number that it begins with here, and is a 64-bit integer (%s) elsewhere; a variable "
        .. "has one type on a device%s", first.var.name, kind, rules.advice(kind, "num"))
end

---The kind of a call of bit.*, by its arguments' kinds; nil where none of those that count is a
---64-bit integer: the function is the one for 32 bits then.
---@param builtin tidepool.gpu.Builtin
---@param given { kind: string?, node: table }[]
---@return "int64"|"uint64"|nil
function rules.kind_of_call(inst, builtin, given)
    local found
    for i = 1, builtin.wide.counts or #given do
        local kind = given[i].kind
        if WIDE[kind] then found = found and wide.joined(found, kind) or kind end
    end
    for i, value in ipairs(found and inst.starts and given or {}) do
        for k, other in ipairs(given) do
            if k ~= i and k <= (builtin.wide.counts or #given) then rules.allow_beside(inst, value.node, value.kind, other.node, other.kind) end
        end
    end
    return found
end

---How to write what was refused since these kinds do not go together.
function rules.advice(a, b)
    if WIDE[a] and WIDE[b] then return "; make both the same with ffi.cast(\"uint64_t\", x) or ffi.cast(\"int64_t\", x)" end
    if a == "bool" or b == "bool" then return "" end
    local kind = WIDE[a] and a or b
    return ("; write tonumber(...) of the integer, or begin with one: 0%s in the place of 0"):format(kind == "uint64" and "ULL" or "LL")
end

return rules
