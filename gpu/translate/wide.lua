-- wide.lua: 64-bit integers, which are cdata in Lua: int64_t and uint64_t, as 1LL and 1ULL are.
--
-- Their kinds are "int64" and "uint64". Both are an ulong in C, since what C says of the overflow
-- of signed numbers is nothing, and that of LuaJIT goes round; what depends on the sign is a helper
-- or has as_long. The rules are those of LuaJIT's interpreter (lj_carith.c, lib_bit.c): where one
-- operand is an uint64 the result is one, otherwise an int64, and numbers are converted to that
-- first. Its compiled code differs in two places, which follow from the processor's instructions:
-- what becomes of negative numbers beside an uint64, and of uint64 beyond 2^63 in tonumber.

local bit = require "bit"
local ffi = require "ffi"

local wide = {}

local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

-- The kinds.
local KINDS = { int64 = true, uint64 = true }
wide.KINDS = KINDS

-- A number of a kind, or false: what `c and x` gives. "maybe" is that of a real number.
local MAYBE = { maybe = "num", ["maybe int64"] = "int64", ["maybe uint64"] = "uint64" }
wide.MAYBE = MAYBE

---The kind of `c and x` by that of x.
function wide.maybe(kind)
    return KINDS[kind] and "maybe " .. kind or "maybe"
end

-- The kind of a value, or of what a ctype makes (for LuaJIT a ctype is of its own type, too);
-- whether it is a ctype. The text is asked last: other cdata may have an __tostring of the user's.
local function look(value)
    if type(value) ~= "cdata" then return end
    local kind = ffi.istype(int64, value) and "int64" or ffi.istype(uint64, value) and "uint64" or nil
    return kind, kind and tostring(value):find "^ctype<" ~= nil
end

---The kind of a value of the host; nil when it is no 64-bit integer.
---@return "int64"|"uint64"|nil
function wide.kind_of(value)
    local kind, is_ctype = look(value)
    return not is_ctype and kind or nil
end

---The kind of the values of a C type, a ctype or its name; nil when it is none of ours.
---@return "int64"|"uint64"|nil
function wide.kind_of_type(ctype)
    if type(ctype) == "string" then
        local ok, found = pcall(ffi.typeof, ctype)
        ctype = ok and found or nil
    end
    local kind, is_ctype = look(ctype)
    return is_ctype and kind or nil
end

---The value of a literal like 0xffULL; nil when it is an imaginary one.
---@param text string
function wide.value_of(text)
    local chunk = text:find "^[%w%.]+$" and loadstring("return " .. text)
    local value = chunk and chunk()
    return wide.kind_of(value) and value or nil
end

---What a value of the host becomes in arithmetic with one of that kind.
---@param value number|ffi.cdata*
local function convert(value, kind)
    return ffi.cast(kind == "int64" and int64 or uint64, value)
end

---The C text of a constant.
---@param value number|ffi.cdata*
function wide.constant(value, kind)
    return ("0x%sUL"):format(bit.tohex(convert(value, kind)))
end

---The kind of what an operator makes of two operands, one of which at least is a 64-bit integer.
function wide.joined(a, b)
    return (a == "uint64" or b == "uint64") and "uint64" or "int64"
end

---------------------------------------------------------------------------------------------------
-- C helpers, for the table PRELUDE of builtins.lua, whose letters they use. $V is their type.

-- Calls f lane by lane.
local function by_lane(name)
    return function(form)
        local signature = "static inline $V %s($V a, $V b)"
        local lanes = {}
        for k = 0, form.lanes - 1 do lanes[k + 1] = ("%s(a.s%x, b.s%x)"):format(name, k, k) end
        return signature, ("return ($V)(%s);"):format(table.concat(lanes, ",\n        ")), name, 1
    end
end

-- Division by 0, and of the least int64 by -1, gives 2^63 (the bits of the least int64).
local BINARY = {
    lua_div_uint64 = "return b == 0 ? 0x8000000000000000UL : a / b;",
    lua_div_int64 = [[
if (b == 0 || (a == 0x8000000000000000UL && b == 0xffffffffffffffffUL)) return 0x8000000000000000UL;
    return as_ulong(as_long(a) / as_long(b));]],
    lua_mod_uint64 = "return b == 0 ? 0x8000000000000000UL : a % b;",
    lua_mod_int64 = [[
if (b == 0) return 0x8000000000000000UL;
    return b == 0xffffffffffffffffUL ? 0UL : as_ulong(as_long(a) % as_long(b));]],
    lua_pow_uint64 = [[
ulong y = 1;
    for (; b; b >>= 1, a *= a) y = b & 1 ? y * a : y;
    return y;]],
    lua_pow_int64 = [[
if (as_long(b) >= 0) return lua_pow_uint64(a, b);
    if (a == 0) return 0x7fffffffffffffffUL;
    return a == 1 ? 1UL : a != 0xffffffffffffffffUL ? 0UL : b & 1 ? a : 1UL;]],
}

-- Shifts take the low six bits of the count, which is an int.
local SHIFTS = {
    lua_lshift64 = "return a << (convert_$V(n) & 63);",
    lua_rshift64 = "return a >> (convert_$V(n) & 63);",
    lua_arshift64 = "return as_$V(as_$L(a) >> (convert_$L(n) & 63));",
    lua_rol64 = "return rotate(a, convert_$V(n) & 63);",
    lua_ror64 = "return rotate(a, (64 - (convert_$V(n) & 63)) & 63);",
}

wide.helpers = {
    lua_bswap64 = function()
        return "static inline $V %s($V a)", [[
a = (a << 32) | (a >> 32);
    a = ((a & 0x0000ffff0000ffffUL) << 16) | ((a >> 16) & 0x0000ffff0000ffffUL);
    return ((a & 0x00ff00ff00ff00ffUL) << 8) | ((a >> 8) & 0x00ff00ff00ff00ffUL);]]
    end,
    lua_mul32 = function() return "static inline $I %s($I a, $I b)", "return as_$I(as_$U(a) * as_$U(b));" end,
    lua_mul64hi = function() return "static inline $V %s($V a, $V b)", "return mul_hi(a, b);" end,
    -- An integer beside an uint64: as the double that it is in Lua.
    lua_long_to_ulong = function()
        return "static inline $V %s($L a)", "return as_$V(a < 0 ? ($L)(-0x7fffffffffffffffL - 1) : a);"
    end,
}

for name, body in pairs(BINARY) do
    local each_lane = by_lane(name)
    wide.helpers[name] = function(form)
        if form.lanes > 1 then return each_lane(form) end
        return "static inline $V %s($V a, $V b)", body, name == "lua_pow_int64" and "lua_pow_uint64" or nil, 1
    end
end
for name, body in pairs(SHIFTS) do
    wide.helpers[name] = function() return "static inline $V %s($V a, $I n)", body end
end

return wide
