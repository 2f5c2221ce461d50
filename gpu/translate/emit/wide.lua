-- wide.lua: writes what is done with 64-bit integers: operators, comparisons, and how they are
-- stored. See translate/wide.lua.

local emitter = require "tidepool.translate.emit.emitter"
local wide = require "tidepool.translate.wide"

local wides = {}

local bare = emitter.bare

local HELPERS = { ["/"] = "lua_div_", ["%"] = "lua_mod_", ["^"] = "lua_pow_" }

-- The type of both operands, and their texts.
local function operands(self, a, b)
    local varies, kind = a.varies or b.varies, wide.joined(a.kind, b.kind)
    return kind, varies, self:as(a, kind, varies), self:as(b, kind, varies)
end

function wides.binop(self, op, a, b)
    local kind, varies, x, y = operands(self, a, b)
    local c
    if HELPERS[op] then
        c = ("%s(%s, %s)"):format(self:need(HELPERS[op] .. kind, varies), bare(x), bare(y))
    else
        c = ("(%s %s %s)"):format(x, op, y)
    end
    return { c = c, kind = kind, varies = varies }
end

-- `op`: the operator in C.
function wides.compare(self, op, a, b)
    local kind, varies, x, y = operands(self, a, b)
    if kind == "int64" and op ~= "==" and op ~= "!=" then
        local signed = self:type("long", varies)
        x, y = ("as_%s(%s)"):format(signed, bare(x)), ("as_%s(%s)"):format(signed, bare(y))
    end
    local c = ("(%s %s %s)"):format(x, op, y)
    if varies and self.single then c = ("convert_%s%s"):format(self.mask_type, c) end
    return { c = c, kind = "bool", varies = varies }
end

-- The text of one as an element of type `ctype`, in C `target`: as a cast does in C and in LuaJIT's
-- FFI. `suffix`: of vectors' types.
function wides.stored(c, kind, ctype, target, suffix)
    if ctype == "uint64" then return c end
    if ctype == "double" or ctype == "float" then
        return ("convert_%s(%s)"):format(target, kind == "int64" and ("as_long%s(%s)"):format(suffix, bare(c)) or bare(c))
    end
    if ctype == "int64" then return ("as_%s(%s)"):format(target, bare(c)) end
    if ctype:find "^u" then return ("convert_%s(%s)"):format(target, bare(c)) end
    return ("as_%s(convert_u%s(%s))"):format(target, target, bare(c))
end

return wides
