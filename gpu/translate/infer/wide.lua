-- wide.lua: what infer.lua asks about 64-bit integers: the kinds of calls, and what refusals
-- advise.

local wide = require "tidepool.translate.wide"

local rules = {}

local WIDE = wide.KINDS

---The kind of a call of bit.*, by its arguments' kinds; nil where none of those that count is a
---64-bit integer: the function is the one for 32 bits then.
---@param builtin tidepool.gpu.Builtin
---@param given { kind: string? }[]
---@return "int64"|"uint64"|nil
function rules.kind_of_call(builtin, given)
    local found
    for i = 1, builtin.wide.counts or #given do
        local kind = given[i].kind
        if WIDE[kind] then found = found and wide.joined(found, kind) or kind end
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
