-- builtins.lua: the library functions that exist on a device, recognised by their identity, and the
-- C helpers that they need.
--
-- By identity and not by name: `local sin = math.sin` works, and a global `math` that somebody has
-- replaced is not mistaken for the real one.
--
-- Two bugs of PoCL 3.1 shape some of them: the vector forms of pow and fmod give wrong results
-- (pow(1e300, 3) is 0, fmod(100.5, 0.1) is 0.085). So pow is our own, and fmod is called lane by
-- lane. bit.* follows LuaJIT: a number becomes an int32 by adding 2^52 + 2^51 and taking the low
-- word; shifts use the low five bits of the count. Where LuaJIT's interpreter and compiler differ,
-- max and min of NaN follow the interpreter, and math.ceil(-0.5) is -0 as in compiled code and C.

local bit = require "bit"
local ffi = require "ffi"
local ctypes = require "tidepool.translate.ctypes"
local int = require "tidepool.int"
local random = require "tidepool.translate.random"
local wide = require "tidepool.translate.wide"

local builtins = {}

---@class tidepool.gpu.Builtin
---@field name string
---@field min integer arguments that it needs
---@field arg string type of its arguments: "num", "int" or "uint64"
---@field results string[] types of its results
---@field emit fun(need: fun(name: string): string, args: string[], single: boolean, kind: string?): string[] one C expression per result;
---   `need` asks for a helper of PRELUDE in the form at hand (scalar or vector) and gives its name;
---   `kind` is that of 64-bit integers
---@field takes_text boolean? its arguments stand between commas only; else they must be in one piece
---@field takes_wide boolean? its arguments may be 64-bit integers
---@field wide { counts: integer?, emit: function }? what it is where one of the first `counts` arguments (of all) is a 64-bit integer:
---   these all are then, others are an int, and so is the result; `emit` as above
---@field special string? handled by infer/library.lua and emit/calls.lua themselves
---@field refuse string? why it does not exist on a device, and what to do instead

local known = {}

local function add(fn, entry)
    if fn then known[fn] = entry end
end

-- A function of OpenCL C with the same meaning, which converts nothing to integers inside.
local function plain(fn, name, c)
    add(fn, { name = name, min = 1, arg = "num", results = { "num" }, takes_text = true, emit = function(_, args)
        return { ("%s(%s)"):format(c, args[1]) }
    end })
end

-- A function with a helper in PRELUDE.
local function helped(fn, name, helper, count, arg, result)
    add(fn, { name = name, min = count, arg = arg or "num", results = { result or "num" }, takes_text = true, emit = function(need, args)
        return { ("%s(%s)"):format(need(helper), table.concat(args, ", ", 1, count)) }
    end })
end

-- Takes any number of arguments, and joins them from left to right.
local function folded(fn, name, arg, join)
    add(fn, { name = name, min = 1, arg = arg, results = { arg }, emit = function(need, args)
        local all = args[1]
        for i = 2, #args do all = join(need, all, args[i]) end
        return { all }
    end })
end

-- Functions that drivers compute by converting to integers can give anything for a NaN that the
-- compiler sees: PoCL 3.1 makes floor(0.0 / 0.0) 0. So these are never called with a NaN.
local GUARDED = { "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "log10", "floor", "ceil", "trunc" }
for _, name in ipairs(GUARDED) do
    if name ~= "log" and name ~= "trunc" then helped(math[name], "math." .. name, "lua_" .. name, 1) end
end
plain(math.sqrt, "math.sqrt", "sqrt")
plain(math.abs, "math.abs", "fabs")
helped(math.sin, "math.sin", "lua_sin", 1)
helped(math.cos, "math.cos", "lua_cos", 1)
helped(math.atan2, "math.atan2", "lua_atan2", 2)
helped(math.pow, "math.pow", "lua_pow", 2)
helped(math.fmod, "math.fmod", "lua_fmod", 2)
helped(math.ldexp, "math.ldexp", "lua_ldexp", 2)
helped(random, "tidepool.translate.random", "lua_random", 2)
known[random].emit = function(need, args, single)
    return { ("%s(%s, %s, %s)"):format(need "lua_random", args[1], args[2], args[3] or (single and "0.0f" or "0.0")) }
end

for _, name in ipairs { "max", "min" } do
    folded(math[name], "math." .. name, "num", function(need, a, b)
        return ("%s(%s, %s)"):format(need("lua_" .. name), a, b)
    end)
end

-- As LuaJIT, which multiplies by the reciprocal of the base's logarithm.
add(math.log, { name = "math.log", min = 1, arg = "num", results = { "num" }, emit = function(need, args, single)
    if not args[2] then return { ("%s(%s)"):format(need "lua_log", args[1]) } end
    return { ("(log2(%s) * (%s / log2(%s)))"):format(args[1], single and "1.0f" or "1.0", args[2]) }
end })

local function scaled(fn, name, factor)
    add(fn, { name = name, min = 1, arg = "num", results = { "num" }, emit = function(_, args, single)
        return { ("(%s * %s)"):format(args[1], factor .. (single and "f" or "")) }
    end })
end
scaled(math.deg, "math.deg", "57.29577951308232")
scaled(math.rad, "math.rad", "0.017453292519943295")

add(math.modf, { name = "math.modf", min = 1, arg = "num", results = { "num", "num" }, emit = function(need, args)
    return { ("%s(%s)"):format(need "lua_trunc", args[1]), ("%s(%s)"):format(need "lua_fraction", args[1]) }
end })
add(math.frexp, { name = "math.frexp", min = 1, arg = "num", results = { "num", "num" }, emit = function(need, args)
    return { ("%s(%s)"):format(need "lua_mantissa", args[1]), ("%s(%s)"):format(need "lua_exponent", args[1]) }
end })

for name, op in pairs { band = "&", bor = "|", bxor = "^" } do
    folded(bit[name], "bit." .. name, "int", function(_, a, b) return ("(%s %s %s)"):format(a, op, b) end)
    known[bit[name]].wide = { emit = known[bit[name]].emit }
end
-- Operators of OpenCL C on an int32, with a template for their text.
local function operator(name, count, template)
    add(bit[name], { name = "bit." .. name, min = count, arg = "int", results = { "int" }, emit = function(_, args)
        return { template:format(args[1], args[2]) }
    end })
end
operator("lshift", 2, "(%s << (%s & 31))")
operator("arshift", 2, "(%s >> (%s & 31))")
operator("rol", 2, "rotate(%s, %s)")
operator("ror", 2, "rotate(%s, -%s)")
operator("bnot", 1, "(~%s)")
operator("tobit", 1, "%s")
helped(bit.rshift, "bit.rshift", "lua_rshift", 2, "int", "int")
helped(bit.bswap, "bit.bswap", "lua_bswap", 1, "int", "int")
helped(int.mul32, "tidepool.int.mul32", "lua_mul32", 2, "int", "int")
helped(int.mul64hi, "tidepool.int.mul64hi", "lua_mul64hi", 2, "uint64", "uint64")

-- What numbers become that are stored into structs of C.
for name, fn in pairs(ctypes.conversions) do
    helped(fn, name, "lua_as_" .. name, 1, "num", (name == "float" or name == "uint32") and "num" or "int")
end

-- The same for 64-bit integers.
for _, name in ipairs { "lshift", "rshift", "arshift", "rol", "ror" } do
    known[bit[name]].wide = { counts = 1, emit = function(need, args)
        return { ("%s(%s, %s)"):format(need("lua_" .. name .. "64"), args[1], args[2]) }
    end }
end
known[bit.bnot].wide = { emit = known[bit.bnot].emit }
known[bit.bswap].wide = { emit = function(need, args) return { ("%s(%s)"):format(need "lua_bswap64", args[1]) } end }
for _, fn in ipairs { bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift, bit.arshift, bit.rol, bit.ror, bit.bnot, bit.bswap, bit.tobit,
                      int.mul32, int.mul64hi } do
    known[fn].takes_wide = true
end

-- The updates of elements that a:add, a:max and a:min are, where no operator has their meaning: an
-- int32 wraps around, and of 64-bit integers there is a greater one.
local function array_add() end
local extremes = {}
helped(array_add, "array:add", "lua_add_int", 2, "int", "int")
for _, name in ipairs { "max", "min" } do
    local fn = function() end
    extremes[name] = fn
    helped(fn, "array:" .. name, "lua_" .. name, 2)
    known[fn].takes_wide = true
    known[fn].wide = { emit = function(_, args, _, kind)
        if kind == "uint64" then return { ("%s(%s, %s)"):format(name, args[1], args[2]) } end
        return { ("as_ulong(%s(as_long(%s), as_long(%s)))"):format(name, args[1], args[2]) }
    end }
end

---The function that an update of an element calls; nil: it is a plus.
---@param method "add"|"max"|"min"
---@param ctype string the type of the elements
---@return function?
function builtins.updates(method, ctype)
    if method == "add" then return ctype == "int32" and array_add or nil end
    return (ctype == "int64" or ctype == "uint64") and extremes[method] or math[method]
end

add(error, { name = "error", min = 0, special = "error" })
add(assert, { name = "assert", min = 0, special = "assert" })
add(tonumber, { name = "tonumber", min = 0, special = "tonumber" })
add(math.random, { name = "math.random", min = 0, special = "random" })
add(ffi.new, { name = "ffi.new", min = 1, special = "wide" })
add(ffi.cast, { name = "ffi.cast", min = 2, special = "wide" })

local function refused(fn, name, why)
    add(fn, { name = name, refuse = why })
end
refused(math.randomseed, "math.randomseed",
        "each element has a stream of its own, from the script's seed; use math.random, or tidepool.gpu.random(seed, i)")
refused(require "tidepool".random, "tidepool.random", "each element has a stream of its own; use math.random, or tidepool.gpu.random(seed, i)")
refused(print, "print", "a device has no output; return the value")
refused(bit.tohex, "bit.tohex", "there are no strings on a device; return the number")
refused(pairs, "pairs", "there are no tables on a device; use a typed array and a numeric for")
refused(ipairs, "ipairs", "there are no tables on a device; use a typed array and a numeric for")
refused(tostring, "tostring", "there are no strings on a device; return the number")
refused(type, "type", "every value's type is known when the function is translated")
refused(pcall, "pcall", "an element that fails ends there; check the values first")
refused(require, "require", "call it outside and use the module's functions")
refused(select, "select", "there are no variable arguments on a device")
for library, why in pairs { string = "there are no strings on a device", table = "there are no tables on a device",
                            io = "a device has no files", os = "a device has no system below it",
                            coroutine = "there are no coroutines on a device" } do
    for name, fn in pairs(_G[library] or {}) do
        if type(fn) == "function" then refused(fn, library .. "." .. name, why .. "; do this outside of the function") end
    end
end

---What a function is on a device.
---@param fn function
---@return tidepool.gpu.Builtin?
function builtins.find(fn)
    return known[fn]
end

---------------------------------------------------------------------------------------------------
-- C helpers. $R is the real type, $I, $U, $L, $V are int, uint, long and ulong of the same width,
-- $S the suffix of names (empty for scalars, the number of lanes for vectors), $D a double of as
-- many lanes, #x a real literal.

-- Calls f lane by lane, for builtins whose vector form is missing or wrong. `needs`: a scalar
-- helper that it calls.
local function by_lane(result, parameters, call, needs)
    return function(form)
        local signature = ("static inline %s %%s(%s)"):format(result, parameters)
        if form.lanes == 1 then return signature, "return " .. call:gsub("@", "") .. ";", needs, 1 end
        local lanes = {}
        for k = 0, form.lanes - 1 do lanes[k + 1] = (call:gsub("@", (".s%x"):format(k))) end
        return signature, ("return (%s)(%s);"):format(result, table.concat(lanes, ",\n        ")), needs, 1
    end
end

local function simple(signature, body, needs)
    return function() return "static inline " .. signature, body, needs end
end

-- Each gives its signature, with %s for the name, and its body; perhaps also a helper that must
-- stand before it, and with how many lanes (its own if not given).
local PRELUDE = {
    lua_mod = simple("$R %s($R a, $R b)", "return a - lua_floor$S(a / b) * b;", "lua_floor"),
    lua_atan2 = simple("$R %s($R a, $R b)", "return (a == a) & (b == b) ? atan2(a, b) : a + b;"),
    lua_max = simple("$R %s($R a, $R b)", "return a > b ? a : b;"),
    lua_min = simple("$R %s($R a, $R b)", "return a < b ? a : b;"),
    -- For reductions: NaN wins over everything, and -0 is less than 0, so that the order does not
    -- matter.
    lua_least = function(form)
        return "static inline $R %s($R m, $R x)",
            ("return (x < m) | (x != x) | ((x == m) & (as_%s(x) < 0)) ? x : m;"):format(form.single and "$I" or "$L")
    end,
    lua_greatest = function(form)
        return "static inline $R %s($R m, $R x)",
            ("return (x > m) | (x != x) | ((x == m) & (as_%s(x) >= 0)) ? x : m;"):format(form.single and "$I" or "$L")
    end,
    -- What is missing from the rounded product p of a and b.
    lua_rest = simple("$R %s($R a, $R b, $R p)", [[
#ifdef __FMA__
    return fma(a, b, -p);
#else
    $R a1 = as_$R(as_$L(a) & -134217728L), a2 = a - a1, b1 = as_$R(as_$L(b) & -134217728L), b2 = b - b1;
    return ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2;
#endif]]),
    lua_fmod = by_lane("$R", "$R a, $R b", "(a@ == a@ && b@ == b@ ? fmod(a@, b@) : a@ + b@)"),
    -- As the processor's fscale: 2 to the power of infinity is infinity, and times 0 gives NaN.
    lua_ldexp = by_lane("$R", "$R a, $R b", "lua_scale(a@, b@)", "lua_scale"),
    lua_scale = simple("$R %s($R a, $R b)", [[
if (!isfinite(b)) return b != b ? b : a * (b > #0 ? INFINITY : #0);
    return isfinite(a) ? ldexp(a, (int)clamp(b, #-5000, #5000)) : a;]]),
    lua_fraction = simple("$R %s($R a)", "return copysign(isinf(a) ? ($R)(#0) : a - lua_trunc$S(a), a);", "lua_trunc"),
    lua_mantissa = by_lane("$R", "$R a", "lua_frexp_part(a@, 0)", "lua_frexp_part"),
    lua_exponent = by_lane("$R", "$R a", "lua_frexp_part(a@, 1)", "lua_frexp_part"),
    lua_add_int = simple("$I %s($I a, $I b)", "return as_$I(as_$U(a) + as_$U(b));"),
    lua_rshift = simple("$I %s($I a, $I b)", "return as_$I(as_$U(a) >> as_$U(b & 31));"),
    lua_bswap = simple("$I %s($I a)", [[
$U u = as_$U(a);
    return as_$I((u << 24) | ((u & 0xff00u) << 8) | ((u >> 8) & 0xff00u) | (u >> 24));]]),
    -- All NaNs become the one that LuaJIT knows: it would read other bit patterns through the FFI
    -- as its tagged values.
    lua_number = simple("$R %s($R a)", "return a == a ? a : ($R)(%%NAN%%);"),
    lua_frexp_part = simple("$R %s($R a, int want_exponent)", [[
int e = 0;
    $R m = isfinite(a) ? frexp(a, &e) : a;
    return want_exponent ? ($R)e : m;]]),
    -- Is a number the index of an element of n?
    lua_is_index = function(form)
        if form.lanes == 1 then return "static inline int %s($R i, $R n)", "return i >= #1 && i <= n && i == lua_floor(i);", "lua_floor" end
        return ("static inline %s %%s($R i, %s n)"):format(form.single and "$I" or "$L", form.single and "float" or "double"),
            "return (i >= #1) & (i <= n) & (i == lua_floor$S(i));", "lua_floor"
    end,
    lua_is_whole = function(form)
        if form.lanes == 1 then return "static inline int %s($R i)", "return i == lua_floor(i) && isfinite(i);", "lua_floor" end
        return ("static inline %s %%s($R i)"):format(form.single and "$I" or "$L"), "return (i == lua_floor$S(i)) & isfinite(i);", "lua_floor"
    end,
    lua_is_rounded = function(form)
        local truth = form.lanes == 1 and "int" or form.single and "$I" or "$L"
        return ("static inline %s %%s($R i)"):format(truth), "return i == lua_floor$S(i);", "lua_floor"
    end,
    -- The index, of 1 to n, that a whole number is when they begin again at the other side.
    lua_wrap = function(form)
        return ("static inline $R %%s($R i, %s n)"):format(form.single and "float" or "double"), "return lua_mod$S(i - #1, ($R)(n)) + #1;", "lua_mod"
    end,
    -- The same for integers; most are not further away than once around.
    lua_wrap_long = function(form)
        local is_outside = form.lanes == 1 and "i < 0 || i >= n" or "any((i < 0) | (i >= n))"
        return "static inline $L %s($L i, long n)", ([[
i -= 1;
    i = i < 0 ? i + n : i >= n ? i - n : i;
    if (%s) {
        i %%= ($L)(n);
        i = i < 0 ? i + n : i;
    }
    return i + 1;]]):format(is_outside)
    end,
    -- Integers as LuaJIT stores numbers into them on x86: what does not fit into an int32 is -2^31
    -- (int8 to uint16 get the low bits of that: 0), what does not fit into an int64 is -2^63; a
    -- uint32 is the low half of an int64.
    lua_to_int = simple("$I %s($R a)", "return convert_$I((a > #-2147483649) & (a < #2147483648) ? a : ($R)(#-2147483648));"),
    lua_to_long = simple("$L %s($R a)",
        "return convert_$L((a >= #-9223372036854775808) & (a < #9223372036854775808) ? a : ($R)(#-9223372036854775808));"),
    lua_to_uint = simple("$U %s($R a)", "return convert_$U(lua_to_long$S(a));", "lua_to_long"),
    lua_to_ulong = simple("$V %s($R a)",
        "return as_$V(lua_to_long$S((a > #-1) & (a < #9223372036854775808) ? a : a - #18446744073709551616));", "lua_to_long"),
    -- The same where the number is read again, from a struct of C.
    lua_as_float = function(form)
        return "static inline $R %s($R a)", ("return convert_$R(convert_float%s(a));"):format(form.lanes > 1 and form.lanes or "")
    end,
    lua_as_int32 = simple("$I %s($R a)", "return lua_to_int$S(a);", "lua_to_int"),
    lua_as_int16 = simple("$I %s($R a)", "return (lua_to_int$S(a) << 16) >> 16;", "lua_to_int"),
    lua_as_int8 = simple("$I %s($R a)", "return (lua_to_int$S(a) << 24) >> 24;", "lua_to_int"),
    lua_as_uint16 = simple("$I %s($R a)", "return lua_to_int$S(a) & 65535;", "lua_to_int"),
    lua_as_uint8 = simple("$I %s($R a)", "return lua_to_int$S(a) & 255;", "lua_to_int"),
    lua_as_uint32 = simple("$R %s($R a)", "return convert_$R(lua_to_uint$S(a));", "lua_to_uint"),
    -- Does a loop with this step go up?
    lua_is_up = function(form)
        if form.lanes == 1 then return "static inline int %s($R step)", "return step >= #0 && !signbit(step);" end
        return ("static inline %s %%s($R step)"):format(form.single and "$I" or "$L"), "return (step >= #0) & ~signbit(step);"
    end,
    -- The last value of a loop counter that steps up, or down: whole, and in the range that a
    -- double counts exactly. The conversion cuts towards 0; no floor here: LLVM before 23 compiles
    -- some pairs of PoCL's floors wrongly for AVX-512 (llvm-project issue 157929).
    lua_last_up = simple("long %s($R a)", [[
if (!(a > #-4503599627370496)) return -4503599627370497L;
    long whole = (long)fmin(a, #4503599627370496);
    return whole - (whole > a);]]),
    lua_last_down = simple("long %s($R a)", [[
if (!(a < #4503599627370496)) return 4503599627370497L;
    long whole = (long)fmax(a, #-4503599627370496);
    return whole + (whole < a);]]),
    -- The same of limits that are known to be small, or NaN: see emit/narrow.lua.
    lua_small_up = simple("int %s($R a)", [[
if (!(a >= #-1073741824)) return -1073741825;
    int whole = (int)fmin(a, #1073741824);
    return whole - (whole > a);]]),
    lua_small_down = simple("int %s($R a)", [[
if (!(a <= #1073741824)) return 1073741825;
    int whole = (int)fmax(a, #-1073741824);
    return whole + (whole < a);]]),
}

for name, make in pairs(wide.helpers) do PRELUDE[name] = make end

-- lua_swap_TYPE stores `next` if the element still has the bits of *was; otherwise *was becomes
-- what it has now.
local SWAP = [[
$BITS seen = $CMPXCHG((volatile __global $BITS *)p, as_$BITS(*was), as_$BITS(next));
    bool is_done = seen == as_$BITS(*was);
    *was = as_%s(seen);
    return is_done;]]
-- The same for an element that is a part of a 32-bit word.
local SWAP_PART = [[
volatile __global uint *word = (volatile __global uint *)((size_t)p & ~(size_t)3);
    uint at = ((size_t)p & 3) * 8, mask = %s << at, seen = *word;
    for (;;) {
        %s now = (%s)(seen >> at);
        if (now != *was) {
            *was = now;
            return false;
        }
        uint had = atomic_cmpxchg(word, seen, (seen & ~mask) | (((uint)next << at) & mask));
        if (had == seen) return true;
        seen = had;
    }]]
local WIDE_ATOMICS = [[
#ifndef cl_khr_int64_base_atomics
#error "this device cannot update elements of 64 bits: use an array of float, int32 or uint32"
#endif
#pragma OPENCL EXTENSION cl_khr_int64_base_atomics : enable
]]
for c, bits in pairs { double = 64, long = 64, ulong = 64, float = 32, int = 32, uint = 32, short = 16, ushort = 16, char = 8, uchar = 8 } do
    PRELUDE["lua_swap_" .. c] = function()
        local signature = ("%sstatic inline bool %%s(__global %s *p, %s *was, %s next)"):format(bits == 64 and WIDE_ATOMICS or "", c, c, c)
        if bits < 32 then return signature, SWAP_PART:format(bits == 8 and "0xffu" or "0xffffu", c, c) end
        return signature, (SWAP:format(c):gsub("%$BITS", bits == 64 and "long" or "int")
            :gsub("%$CMPXCHG", bits == 64 and "atom_cmpxchg" or "atomic_cmpxchg"))
    end
end

for _, name in ipairs(GUARDED) do
    PRELUDE["lua_" .. name] = simple("$R %s($R a)", ("return a == a ? %s(a) : a;"):format(name))
end

-- sin and cos of vectors. PoCL's take one element or a few at a time, and each reduces its argument
-- anew. Here both have the same text up to the last line, so that the compiler reduces the argument
-- once for the two. First a multiple of pi / 2 is subtracted, in parts whose products are exact;
-- then come the polynomials of fdlibm (doubles) and Cephes (floats). Within 2 ulp; large arguments
-- are left to the builtin.
local PARTS = {
    [false] = { two_by_pi = "0.63661977236758138243", magic = "6755399441055744.0", largest = "800000.0",
        pi = { "1.57079632673412561417", "6.07710050630396597660e-11", "2.02226624871116645580e-21", "8.47842766036889956997e-32" },
        sin = { "1.58969099521155010221e-10", "-2.50507602534068634195e-08", "2.75573137070700676789e-06", "-1.98412698298579493134e-04",
            "8.33333333332248946124e-03", "-1.66666666666666324348e-01" },
        cos = { "-1.13596475577881948265e-11", "2.08757232129817482790e-09", "-2.75573143513906633035e-07", "2.48015872894767294178e-05",
            "-1.38888888888741095749e-03", "4.16666666666666019037e-02" } },
    [true] = { two_by_pi = "0.636619772367581f", magic = "12582912.0f", largest = "2000.0f",
        pi = { "1.5703125f", "4.837512969970703125e-4f", "7.5497899548918822e-8f" },
        sin = { "-1.9515295891e-4f", "8.3321608736e-3f", "-1.6666654611e-1f" },
        cos = { "2.443315711809948e-5f", "-1.388731625493765e-3f", "4.166664568298827e-2f" } },
}

local function horner(list)
    local text = list[1]
    for i = 2, #list do text = ("(%s) * z + (%s)"):format(i > 2 and "(" .. text .. ")" or text, list[i]) end
    return text
end

-- `here`, `there`: the polynomials for even and odd quarters; `turned`: added to the quarter for
-- the sign.
local function sine(name, here, there, turned)
    return function(form)
        local signature = "static inline $R %s($R a)"
        if form.lanes == 1 then return signature, ("return a == a ? %s(a) : a;"):format(name) end
        local p, lines = PARTS[form.single], {}
        local bits = form.single and "$I" or "$L"
        local function line(format, ...) lines[#lines + 1] = format:format(...) end
        line("$R t = a * %s + %s, q = t - %s, x = a;", p.two_by_pi, p.magic, p.magic)
        for _, part in ipairs(p.pi) do line("x = x - q * %s;", part) end
        line("%s quarter = as_%s(t);", bits, bits)
        line("$R z = x * x, h = %s * z, w = %s - h;", form.single and "0.5f" or "0.5", form.single and "1.0f" or "1.0")
        line("$R s = select(x + x * z * (%s), x, x == 0); /* the sign of 0 */", horner(p.sin))
        line("$R c = w + (((%s - w) - h) + z * z * (%s));", form.single and "1.0f" or "1.0", horner(p.cos))
        line("$R y = select(%s, %s, (quarter & 1) == 1);", here, there)
        line("y = as_$R(as_%s(y) ^ (((quarter + %d) & 2) << %d));", bits, turned, form.single and 30 or 62)
        line("%s is_large = ~(fabs(a) < %s);", bits, p.largest)
        line("if (any(is_large)) y = select(y, %s(a), is_large);", name)
        line("return y;")
        return signature, table.concat(lines, "\n    ")
    end
end

PRELUDE.lua_sin = sine("sin", "s", "c", 0)
PRELUDE.lua_cos = sine("cos", "c", "s", 1)

-- pow of vectors: PoCL 3.1's is wrong, and its scalar one takes 80 ns. e ^ (b * log a), with a = m
-- * 2 ^ k and m around 1; log m is the series of 2 * atanh s, s = (m - 1) / (m + 1). The exponent
-- may be 745 and must be right to 2 ^ -54, so for doubles log a and its product with b are sums of
-- two doubles, the smaller one with _l. Within 2 ulp. Floats are computed as doubles, more simply.
-- The special cases are those of C, F.10.4.4.
local LOG = [[
    $V u = as_$V(m) + (0x4000000000000000UL - 0x3fe6a09e667f3bcdUL); /* the root of 1/2: 2 ^ 10 + k in its exponent */
    $D k = as_$D((u >> 52) | 0x4330000000000000UL) - 0x1.00000000004p52%s;
    m = as_$D(as_$V(m) - ((u >> 52) << 52) + 0x4000000000000000UL);
    $D f = m - 1.0, g = m + 1.0, r = 1.0 / g, s = f * r;]]
local SPECIAL = [[
    $L is_whole = rint(b) == b, is_odd = is_whole & (fabs(b) < #9007199254740992) & (rint(b * %%HALF%%) != b * %%HALF%%);
    v = as_$R(as_$L(v) ^ (as_$L(a) & is_odd & ($L)1 << %d));
    v = select(v, ($R)(NAN), ((a < #0) & (x < ($R)(INFINITY)) & ~is_whole) | (a != a) | (b != b));
    return select(v, ($R)(#1), (b == #0) | (a == #1) | ((a == #-1) & (fabs(b) == ($R)(INFINITY))));]]

--- 1/n + z * (1/(n + 2) + z * ...
local function atanh_series(from, to)
    local text = ("1.0 / %d.0"):format(to)
    for n = to - 2, from, -2 do text = ("(%s) * z + 1.0 / %d.0"):format(text, n) end
    return text
end

--- 1/n! + r * (1/(n + 1)! + r * ...
local function exp_series(from, to)
    local factorials = { [0] = 1 }
    for n = 1, to do factorials[n] = factorials[n - 1] * n end
    local text = ("1.0 / %.1f"):format(factorials[to])
    for n = to - 1, from, -1 do text = ("(%s) * r + 1.0 / %.1f"):format(text, factorials[n]) end
    return text
end

local POW = {
    [false] = "$R x = fabs(a);\n    $L is_tiny = x < 0x1p-1022;\n    $D m = select(x, x * 0x1p54, is_tiny);\n"
        .. LOG:format(" - select(($D)(0.0), ($D)(54.0), is_tiny)") .. [[

    $D p = s * g, s_l = ((f - p) - lua_rest$S(s, g, p) - s * (m - (g - 1.0))) * r;
    $D z = s * s, z_l = lua_rest$S(s, s, z) + 2.0 * s * s_l, third = 1.0 / 3.0;
    $D t = z * third, t_l = lua_rest$S(z, third, t) + z_l * third + z * 0x1.5555555555555p-56 + z * z * (]] .. atanh_series(5, 25) .. [[);
    $D w = t + t_l, w_l = t_l - (w - t), q = s * w, q_l = lua_rest$S(s, w, q) + s * w_l + s_l * w + s_l;
    $D h = s + q, h_l = (s - h) + q + q_l;
    $D big = k * 0x1.62e42fefa38p-1, l = big + 2.0 * h, back = l - big;
    $D l_l = (big - (l - back)) + (2.0 * h - back) + (k * 0x1.ef35793c7673p-45 + 2.0 * h_l);
    l = select(select(l, ($D)(-INFINITY), x == 0.0), x, x == ($D)(INFINITY));
    l_l = select(l_l, ($D)(0.0), (x == 0.0) | (x == ($D)(INFINITY)));
    $D e = b * l, e_l = lua_rest$S(b, l, e) + b * l_l;
    e_l = select(($D)(0.0), e_l, fabs(e) < 800.0);
    e = select(e, ($D)(800.0), e > 800.0);
    e = select(e, ($D)(-800.0), e < -800.0);
    $D magic = 6755399441055744.0, n = e * 1.4426950408889634 + magic - magic;
    $D left = e - n * 0x1.62e42fefa38p-1;
    r = left - n * 0x1.ef35793c7673p-45 + e_l;
    $D r_l = ((left - r) - n * 0x1.ef35793c7673p-45) + e_l;
    $D v = 1.0 + (r + (r_l + r * r * (]] .. exp_series(2, 13) .. [[)));
    /* times 2 ^ n, in two steps: it may have to be less than all normal numbers */
    $D half_n = n * 0.5 + magic, rest_n = n - (half_n - magic) + magic;
    v = v * as_$D((as_$V(half_n) << 52) + 0x3ff0000000000000UL) * as_$D((as_$V(rest_n) << 52) + 0x3ff0000000000000UL);
]] .. SPECIAL:format(63),
    [true] = "$R x = fabs(a);\n    $D m = convert_$D(x);\n" .. LOG:format "" .. [[

    $D z = s * s, l = k * 0.6931471805599453 + 2.0 * (s + s * z * (]] .. atanh_series(3, 15) .. [[));
    l = select(l, ($D)(-INFINITY), convert_$L(x == 0.0f));
    l = select(l, ($D)(INFINITY), convert_$L(x == ($R)(INFINITY)));
    $D e = convert_$D(b) * l, magic = 6755399441055744.0;
    e = select(e, ($D)(200.0), e > 200.0);
    e = select(e, ($D)(-200.0), e < -200.0);
    $D n = e * 1.4426950408889634 + magic;
    r = e - (n - magic) * 0.6931471805599453;
    $R v = convert_$R((]] .. exp_series(0, 9) .. [[) * as_$D((as_$V(n) << 52) + 0x3ff0000000000000UL));
]] .. SPECIAL:gsub("%$L", "$I"):format(31),
}

function PRELUDE.lua_pow(form)
    local signature = "static inline $R %s($R a, $R b)"
    if form.lanes == 1 then
        -- The special cases of C in which an argument is NaN but the result is not.
        return signature, "return (a == a && b == b) || a == #1 || b == #0 ? pow(a, b) : a + b;"
    end
    local text = POW[form.single]:gsub("%%+HALF%%+", form.single and "0.5f" or "0.5")
    if not form.single then return signature, text, "lua_rest" end
    local _, by_lanes = by_lane("$R", "", "pow(a@, b@)")(form)
    return signature, ("\n#ifdef cl_khr_fp64\n    %s\n#else\n    %s\n#endif"):format(text, by_lanes)
end

function PRELUDE.lua_tobit(form)
    return "static inline $I %s($R a)", form.single and "return convert_$I(convert_$L(rint(a)));"
        or "return convert_$I(as_$L(a + 6755399441055744.0));"
end

-- The bits of the number as a double; -0 counts as 0.
function PRELUDE.lua_bits(form)
    if not form.single then return "static inline $V %s($R a)", "return as_$V(a + 0.0);" end
    return "static inline $V %s($R a)", [[
$U u = as_$U(a + 0.0f), e = (u >> 23) & 255u;
    $V wide = convert_$V(e == 255u ? ($U)(2047u) : e + 896u);
    return (convert_$V(u >> 31) << 63) | (convert_$V((u << 1) != 0u ? ($U)(1u) : ($U)(0u))
        * ((wide << 52) | (convert_$V(u & 0x7fffffu) << 29)));]]
end

-- Draws from an element's stream for math.random: xoroshiro128++, as in
-- lua/tidepool/engine/random.lua. Lanes that are off keep their state.
function PRELUDE.lua_draw(form)
    local is_vector = form.lanes > 1
    local function store(at, value)
        return is_vector and ("select(s[%d], %s, mask)"):format(at, value) or value
    end
    return "static inline $R %s($V *s" .. (is_vector and ", $L mask)" or ")"), ([[
$V a = s[0], b = s[1], bits = rotate(a + b, ($V)(17)) + a;
    b ^= a;
    s[0] = FIRST;
    s[1] = SECOND;
    ]]):gsub("FIRST", store(0, "rotate(a, ($V)(49)) ^ b ^ (b << 21)")):gsub("SECOND", store(1, "rotate(b, ($V)(28))"))
        .. (form.single and "return convert_$R(bits >> 40) * 0x1p-24f;" or "return convert_$R(bits >> 11) * 0x1p-53;")
end

-- Sets the state of the stream of element i, as tp_key_of in host/engine/random.c does.
PRELUDE.lua_open_draws = simple("void %s($V *s, ulong key_0, ulong key_1, $V i)", [[
$V a = key_0 + i * 0x9e3779b97f4a7c15UL, b = key_1 ^ i * 0xd1342543de82ef95UL;
    a = (a ^ a >> 30) * 0xbf58476d1ce4e5b9UL;
    a = (a ^ a >> 27) * 0x94d049bb133111ebUL;
    b = (b ^ b >> 33) * 0xff51afd7ed558ccdUL;
    b = (b ^ b >> 33) * 0xc4ceb9fe1a85ec53UL;
    s[0] = a ^ a >> 31;
    s[1] = b ^ b >> 33;]])

-- Philox 4x32-10, as in random.lua.
function PRELUDE.lua_random(form)
    return "static inline $R %s($R seed, $R i, $R draw)", ([[
$V key = lua_bits$S(seed), low = lua_bits$S(i), high = lua_bits$S(draw);
    $U k0 = convert_$U(key & 0xffffffffUL), k1 = convert_$U(key >> 32);
    $U c0 = convert_$U(low & 0xffffffffUL), c1 = convert_$U(low >> 32);
    $U c2 = convert_$U(high & 0xffffffffUL), c3 = convert_$U(high >> 32);
    for (int round = 0; round < 10; ++round) {
        $U h0 = mul_hi(c0, ($U)(0xd2511f53u)), l0 = c0 * 0xd2511f53u;
        $U h1 = mul_hi(c2, ($U)(0xcd9e8d57u)), l1 = c2 * 0xcd9e8d57u;
        c0 = h1 ^ c1 ^ k0;
        c1 = l1;
        c2 = h0 ^ c3 ^ k1;
        c3 = l0;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    ]]) .. (form.single and "return convert_$R(c0 >> 8) * 0x1p-24f;"
        or "return convert_$R((convert_$V(c0) << 21) | convert_$V(c1 >> 11)) * 0x1p-53;"), "lua_bits"
end

---The text of a helper.
---@param name string a name in PRELUDE
---@param lanes integer 1 for the scalar form
---@param single boolean single precision
---@return string text
---@return string? needs another helper that has to stand before it
---@return integer? needs_lanes its form
function builtins.helper(name, lanes, single)
    local real = single and "float" or "double"
    local suffix = lanes > 1 and tostring(lanes) or ""
    local signature, body, needs, needs_lanes = PRELUDE[name] { lanes = lanes, single = single }
    local text = signature:format(name .. suffix) .. "\n{\n    " .. body .. "\n}\n"
    text = text:gsub("%%+NAN%%+", single and "as_float(0x7fc00000)" or "as_double(0x7ff8000000000000UL)")
        :gsub("#(%-?%d+)", single and "%1.0f" or "%1.0")
        :gsub("%$(%u)", { R = real .. suffix, I = "int" .. suffix, U = "uint" .. suffix, L = "long" .. suffix,
                          V = "ulong" .. suffix, D = "double" .. suffix, S = suffix })
    return text, needs, needs_lanes or lanes
end

return builtins
