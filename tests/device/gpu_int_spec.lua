-- On a device (not stock: the same code runs there): 64-bit integers, and the products of
-- tidepool.int, are bit for bit what LuaJIT makes of them. What needs a device says "skipped: no
-- OpenCL device" without one.

local root = debug.getinfo(1, "S").source:match "^@(.*)tests/" or "./"
package.path = root .. "tests/?.lua;" .. package.path

local tidepool = require "tidepool"
local bit = require "bit"
local ffi = require "ffi"
local devices = require "tests.support_device"
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)
local on_any = devices.on_device(it, pending)

local LEAST = -0x7fffffffffffffffLL - 1

-- Integers of both kinds, and numbers.
local INTEGERS = { 0LL, 1LL, -1LL, 2LL, -2LL, 3LL, -7LL, 10LL, 31LL, 33LL, 63LL, 64LL, 65LL, 255LL, 0x7fffffffLL, -0x80000000LL, 0x80000000LL,
    0xffffffffLL, 0x100000000LL, 0x20000000000001LL, 0x9E3779B97F4A7C15LL, 0x0123456789abcdefLL, 0xBF58476D1CE4E5B9LL, 0x7fffffffffffffffLL,
    0x8000000000000401LL, 0x8000000000000c00LL, LEAST, LEAST + 1 }
local NUMBERS = { 0, -0.0, 1, -1, 0.5, -0.5, 1.9, -2.5, 3, 64, 255, 2 ^ 31, -2 ^ 31, 2 ^ 32 + 5, 2 ^ 53, -2 ^ 53, 2 ^ 62, 2 ^ 63, -2 ^ 63,
    2 ^ 63 + 2048, 2 ^ 64, 2 ^ 65, 1e300, -1e300, 1 / 0, -1 / 0, 0 / 0 }

local function values_of(ctype)
    if ctype == "double" then return NUMBERS end
    local list = {}
    for i, each in ipairs(INTEGERS) do list[i] = ffi.cast(ctype .. "_t", each) end
    return list
end

local function shown(value)
    return type(value) == "number" and ("%.17g"):format(value) or tostring(value)
end

-- Integers of one kind with the same bits, or numbers with the same.
local function is_same(want, got)
    if type(want) == "boolean" then want = want and 1 or 0 end
    if type(want) == "cdata" then return type(got) == "cdata" and tostring(want) == tostring(got) end
    return want == got and (want ~= 0 or 1 / want == 1 / got) or want ~= want and got ~= got
end

-- Runs the chunk's function in plain Lua, interpreted, and on the device in both forms, with inputs
-- of these types; `lists`: their values.
local function check(text, types, lists, options, ...)
    options = options or {}
    local fn = assert(loadstring(text, "=int"))(...)
    jit.off(fn, true)
    for _, lanes in ipairs(options.lanes or { 1, 8 }) do
        local t = translate(fn, { lanes = lanes, name = "f", inputs = types, returns = options.returns, precision = options.precision,
            text_of = function() return text end })
        local built, inputs = device:build(t), {}
        for i, ctype in ipairs(types) do inputs[i] = opencl.array(ctype, lists[i]) end
        local outputs = device:run(built, inputs)
        device:release(built)
        for i = 1, #lists[1] do
            local given = {}
            for k = 1, #types do given[k] = lists[k][i] end
            local want = { fn(unpack(given, 1, #types)) }
            for k, output in ipairs(t.outputs) do
                local stored = want[k]
                if options.returns then stored = ffi.new(("%s[1]"):format(output.ctype:gsub("int%d+", "%0_t")), stored)[0] end
                local got = outputs[k][i - 1]
                if not is_same(stored, got) then
                    for a = 1, #given do given[a] = shown(given[a]) end
                    error(("%s, lanes %d, f(%s): result %d is %s, should be %s"):format(text, lanes, table.concat(given, ", "), k, shown(got),
                        shown(stored)), 2)
                end
            end
        end
    end
end

-- All pairs of values.
local function pairs_of(a, b)
    local xs, ys = {}, {}
    for _, x in ipairs(values_of(a)) do
        for _, y in ipairs(values_of(b)) do xs[#xs + 1], ys[#ys + 1] = x, y end
    end
    return { xs, ys }
end

local PAIRS = { { "int64", "int64" }, { "uint64", "uint64" }, { "int64", "uint64" }, { "uint64", "int64" }, { "int64", "double" },
    { "double", "int64" }, { "uint64", "double" }, { "double", "uint64" } }

local function each_pair(expressions, options)
    for _, types in ipairs(PAIRS) do
        check("return function(a, b) return " .. table.concat(expressions, ", ") .. " end", types, pairs_of(unpack(types)), options)
    end
end

describe("a 64-bit integer on a device", function()
    on_device("is added, multiplied and divided as LuaJIT does, also with numbers", function()
        each_pair { "a + b", "a - b", "a * b", "a / b", "a % b", "a ^ b" }
    end)

    on_device("is compared as LuaJIT does, also with numbers", function()
        each_pair { "a == b", "a ~= b", "a < b", "a <= b", "a > b", "a >= b" }
    end)

    on_device("has LuaJIT's bits, also with numbers", function()
        each_pair { "bit.band(a, b)", "bit.bor(a, b, 5)", "bit.bxor(a, 3, b)" }
        each_pair { "bit.lshift(a, b)", "bit.rshift(a, b)", "bit.arshift(a, b)", "bit.rol(a, b)", "bit.ror(a, b)" }
    end)

    on_device("is negated, inverted, swapped and made a number of", function()
        for _, ctype in ipairs { "int64", "uint64" } do
            check([[return function(a)
                return -a, bit.bnot(a), bit.bswap(a), bit.tobit(a), tonumber(a), tonumber(a) * 0.5, not a, a and 1, a ~= nil, type(a) == "cdata"
            end]], { ctype }, { values_of(ctype) })
        end
    end)

    on_device("meets constants that the compiler knows", function()
        local is_vector = false -- each with one form only: a build takes a second
        for _, ctype in ipairs { "int64", "uint64" } do
            for _, c in ipairs { "0", "-1", "3", "0.5", "-2.5", "4294967297", "1e300", "0/0", "0LL", "-1LL", "7ULL", "0x9E3779B97F4A7C15ULL" } do
                is_vector = not is_vector
                check(("return function(a) return a + C, C - a, a * C, a / C, a % C, a ^ C, a < C, a == C, bit.bxor(a, C), bit.rol(a, C) end")
                    :gsub("C", function() return c end), { ctype }, { values_of(ctype) }, { lanes = { is_vector and 8 or 1 } })
            end
            is_vector = true
        end
    end)

    on_device("meets integers of bit.*, counters and lengths, which are numbers to LuaJIT", function()
        for _, ctype in ipairs { "int64", "uint64" } do
            check([[local list = ... return function(a, x)
                local h, n = a, bit.tobit(x)
                for i = -3, 3 do h = h * 3 + i end
                for i = -2, -1 do h = bit.bxor(h, i) end
                return h, a + n, bit.band(a, n), n < a, a / #list, -#list * a, bit.rol(a, n), bit.rol(n, a), bit.lshift(n, a)
            end]], { ctype, "double" }, pairs_of(ctype, "double"), nil, opencl.array("double", 7))
        end
    end)

    on_device("is made of numbers by int64_t(x), ffi.new and ffi.cast", function()
        local text = [[local ffi, int64_t = ... return function(x)
            return int64_t(x), ffi.new("uint64_t", x), ffi.cast("int64_t", x), ffi.cast("uint64_t", x), ffi.cast(int64_t, x), int64_t(),
                ffi.new("int64_t")
        end]]
        for _, ctype in ipairs { "double", "int64", "uint64" } do check(text, { ctype }, { values_of(ctype) }, nil, ffi, ffi.typeof "int64_t") end
    end)

    on_device("goes through locals, branches, loops and helpers", function()
        check([[
local function mix(h, v) return bit.bxor(h, v) * 0x100000001b3ULL end
local function both(a) return a + 1ULL, a % 10 end
return function(a, b)
    local h = 0xcbf29ce484222325ULL
    for i = 1, 5 do
        h = mix(h, i)
        if h > a then h = h - a elseif b > 3 then h = h + i end
    end
    local n = 0
    while a > 10ULL and n < 70 do
        a = a / 3
        n = n + 1
        if a % 7ULL == 3ULL then break end
    end
    local one, two = both(h)
    local c = b > 1 and a or h
    local d = (b > 1 and b < 3 and one or two)
    return h, a, n, one, two, c, d, (h > 5ULL and b or n)
end]], { "uint64", "double" }, pairs_of("uint64", "double"))
    end)

    on_device("lies in local lists and fields", function()
        check([[return function(a)
            local s = { a, a + 1ULL, 3ULL }
            local p = { x = a, y = 5ULL }
            for i = 1, 3 do
                s[i] = bit.bxor(s[i], bit.lshift(s[i % 3 + 1], 13))
                p.x = p.x * 3 + s[i]
            end
            return s[1], s[2] + s[3], p.x - p.y
        end]], { "uint64" }, { values_of "uint64" })
    end)

    on_device("is an element of arrays and lists, and a captured value", function()
        local text = [[local signed, unsigned, list, SEED, LEAST = ...
            return function(i) return signed[i], unsigned[i] + 1, list[i], list[2], #list, SEED * i, LEAST / i, tonumber(signed[i]) end]]
        local list = values_of "uint64"
        local is = {}
        for i = 1, #list do is[i] = i end
        check(text, { "double" }, { is }, nil, opencl.array("int64", INTEGERS), opencl.array("uint64", list), list, 0x9E3779B97F4A7C15ULL, LEAST)
    end)

    on_device("is stored into columns of integers as LuaJIT stores it", function()
        for _, ctype in ipairs { "int64", "uint64" } do
            check("return function(a) return a, a, a * 3 end", { ctype }, { values_of(ctype) }, { returns = { "int64", "uint64", "int64" } })
        end
        check("return function(x) return x, x end", { "double" }, { NUMBERS }, { returns = { "int64", "uint64" } })
    end)

    on_device("is the same in single precision", function()
        check([[return function(a, b) return a * b + 4294967297, a / b, a < b, bit.rshift(a, 7), (a > b and a or b) end]], { "uint64", "uint64" },
            pairs_of("uint64", "uint64"), { precision = "single", lanes = { 1, 16 } })
    end)
end)

-- Generators and hashes of numbers, as they are written for LuaJIT.
local HASHES = {
    splitmix64 = [[return function(x)
        local z = (x + 0ULL) * 0x9E3779B97F4A7C15ULL + 0x9E3779B97F4A7C15ULL
        z = bit.bxor(z, bit.rshift(z, 30)) * 0xBF58476D1CE4E5B9ULL
        z = bit.bxor(z, bit.rshift(z, 27)) * 0x94D049BB133111EBULL
        return bit.bxor(z, bit.rshift(z, 31))
    end]],
    ["xorshift64*"] = [[local bxor, lshift, rshift = bit.bxor, bit.lshift, bit.rshift
    return function(x)
        local s = x + 88172645463325252ULL
        for _ = 1, 8 do
            s = bxor(s, rshift(s, 12))
            s = bxor(s, lshift(s, 25))
            s = bxor(s, rshift(s, 27))
        end
        return tonumber(rshift(s * 0x2545F4914F6CDD1DULL, 11)) * 2 ^ -53
    end]],
    pcg32 = [[return function(x)
        local state, sum = x * 2 + 0x853c49e6748fea9bULL, 0
        for _ = 1, 6 do
            local old = state
            state = old * 6364136223846793005ULL + 1442695040888963407ULL
            local word = tonumber(bit.band(bit.rshift(bit.bxor(bit.rshift(old, 18), old), 27), 0xffffffffULL))
            sum = sum + bit.ror(word, tonumber(bit.rshift(old, 59)))
        end
        return sum
    end]],
    ["FNV-1a"] = [[return function(x)
        local h, left = 0xcbf29ce484222325ULL, math.abs(x)
        for _ = 1, 6 do
            h = bit.bxor(h, left % 256) * 0x100000001b3ULL
            left = math.floor(left / 256)
        end
        return h
    end]],
    wyhash = [[local mul64hi = require "tidepool".int.mul64hi
    local function mum(a, b) return bit.bxor(a * b, mul64hi(a, b)) end
    return function(x)
        local a = bit.bxor(0ULL + x, 0xa0761d6478bd642fULL)
        return mum(mum(a, 0xe7037ed1a0b428dbULL), bit.bxor(8ULL, 0x8ebc6af09cfe3d9dULL))
    end]],
    murmur3 = [[local mul32 = require "tidepool".int.mul32
    return function(x)
        local k = bit.rol(mul32(x, 0xcc9e2d51), 15)
        local h = bit.bxor(42, mul32(k, 0x1b873593))
        h = bit.tobit(mul32(bit.rol(h, 13), 5) + 0xe6546b64)
        h = mul32(bit.bxor(h, bit.rshift(h, 16)), 0x85ebca6b)
        h = mul32(bit.bxor(h, bit.rshift(h, 13)), 0xc2b2ae35)
        return bit.bxor(h, bit.rshift(h, 16))
    end]],
    LCG = [[return function(x)
        local s = x + 1LL
        for _ = 1, 10 do s = (s * 1103515245LL + 12345LL) % 2147483648LL end
        return tonumber(s) / 2147483648
    end]],
}

describe("a hash on a device", function()
    local xs = { 0, 1, 2, 3, 255, 65535, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 32 - 1, 2 ^ 40 + 77, 2 ^ 52 + 1 }
    for i = 1, 500 do xs[#xs + 1] = i * 7919 % 100003 * 2 ^ (i % 30) end
    for name, text in pairs(HASHES) do
        on_device(name .. " gives the same bits as in plain Lua", function() check(text, { "double" }, { xs }) end)
    end
end)

describe("tidepool.int on a device", function()
    on_device("mul32 is exact modulo 2^32", function()
        local text = [[local int = ... return function(a, b) return int.mul32(a, b), int.mul32(a - 1, b + 1), 2 * int.mul32(a, -3) end]]
        local xs, ys = {}, {}
        for _, x in ipairs(NUMBERS) do
            for _, y in ipairs(NUMBERS) do
                -- beyond 2^51 bit.tobit rounds
                if math.abs(x) < 2 ^ 51 and math.abs(y) < 2 ^ 51 then xs[#xs + 1], ys[#ys + 1] = x, y end
            end
        end
        check(text, { "double", "double" }, { xs, ys }, nil, tidepool.int)
        text = "local int = ... return function(a, b) return int.mul32(a, b) end"
        check(text, { "int64", "uint64" }, pairs_of("int64", "uint64"), nil, tidepool.int)
    end)

    on_device("mul64hi is the upper half", function()
        local text = "local int = ... return function(a, b) return int.mul64hi(a, b), int.mul64hi(a, 0xBF58476D1CE4E5B9ULL) end"
        for _, types in ipairs(PAIRS) do check(text, types, pairs_of(unpack(types)), nil, tidepool.int) end
    end)
end)

describe("what a device cannot do with 64-bit integers is refused:", function()
    local refused = {
        ["a library function of numbers"] = { "math.floor(x + 1LL)", "math.floor needs numbers, and this is a 64%-bit integer; write tonumber%(" },
        ["tostring"] = { "tostring(x + 1LL)", "tostring does not exist here" },
        ["an index"] = { "list[x + 1LL]", "an index needs numbers, and this is a 64%-bit integer; write tonumber" },
        ["a counter"] = { "(function() return 1 end)() for i = 1LL, 3 do end", "'for' needs numbers", is_block = true },
        ["another C type"] = { "ffi.cast('int32_t', x)", "ffi.cast of another type than int64_t and uint64_t" },
        ["an imaginary number"] = { "x + 1i", "the literal 1i is an imaginary number" },
        ["a number or an integer"] = { "(x > 1 and 1LL or 2)", "'or' gives a 64%-bit integer %(int64%) or a number here;.* tonumber%(%.%.%.%)" },
        ["both kinds"] = { "(x > 1 and 1LL or 2ULL)", "'or' gives a 64%-bit integer %(int64%) or a 64%-bit integer %(uint64%) here;.* ffi%.cast" },
        ["a number in a message"] = { "x > 1 and 1 or error('n is ' .. (x + 1LL))", "a number in a message needs numbers, and this is a 64" },
    }
    for name, case in pairs(refused) do
        it(name, function()
            local text = "local ffi, list = ... return function(x) return " .. case[1] .. " end"
            if case.is_block then text = "return function(x) for i = 1LL, 3 do x = x + 1 end return x end" end
            local fn = assert(loadstring(text, "=int"))(ffi, { 1, 2, 3 })
            local ok, why = pcall(translate, fn, { name = "f", text_of = function() return text end })
            assert.is_false(ok)
            assert.matches(case[2], why)
        end)
    end

    it("a variable of two kinds", function()
        local text = "return function(x) local h = 0.5 h = h * 31ULL + x return h end"
        local ok, why = pcall(translate, assert(loadstring(text, "=int"))(), { name = "f", text_of = function() return text end })
        assert.is_false(ok)
        assert.equal("int:1: gpu function 'f': 'h' is a 64-bit integer (uint64) here and a number elsewhere; a variable has one type on a device; "
            .. "write tonumber(...) of the integer, or begin with one: 0ULL in the place of 0", why)
    end)

    it("results of two kinds", function()
        local text = "return function(x) if x > 1 then return 1LL end return 2 end"
        local ok, why = pcall(translate, assert(loadstring(text, "=int"))(), { name = "f", text_of = function() return text end })
        assert.is_false(ok)
        assert.matches("result 1 is a 64%-bit integer %(int64%) in one place and a number in another", why)
    end)

    it("a type of results that is none of theirs", function()
        local text = "return function(x) return x + 1LL end"
        local fn = assert(loadstring(text, "=int"))()
        local ok, why = pcall(translate, fn, { name = "f", returns = { "double" }, text_of = function() return text end })
        assert.is_false(ok)
        assert.matches("result 1 is a 64%-bit integer %(int64%), and its type is given as double: give it as \"int64\", or write tonumber", why)
    end)
end)

describe("a map on a device", function()
    local app = tidepool.App()
    local SEED = 0x9E3779B97F4A7C15ULL

    -- What the maps of f on threads and on the device give.
    local function both(options, f, ...)
        local results = {}
        for i, gpu in ipairs { false, true } do
            local given = { gpu = gpu or nil }
            for name, value in pairs(options) do given[name] = value end
            local list = app:func(given)(f):map(...):list()
            for k = 1, list.n do list[k] = shown(list[k]) end
            results[i] = list
        end
        return unpack(results)
    end

    on_any("gives 64-bit integers as threads do", function()
        local xs = {}
        for i = 1, 3000 do xs[i] = i * 7919 % 100003 end
        for _, options in ipairs { {}, { returns = "uint64" }, { returns = "int64" } } do
            local threads, card = both(options, function(x) return bit.bxor(SEED * x, bit.rshift(SEED, 7)) end, xs)
            assert.same(threads, card)
        end
        local threads, card = both({ returns = { "int64", "uint64" } }, function(x) return x * -1.5, SEED end, xs)
        assert.same(threads, card)
    end)

    on_any("gives 64-bit integers beside booleans, one by one, and shared with threads", function()
        local xs = {}
        for i = 1, 20000 do xs[i] = i * 7919 % 100003 end
        local function hash(x) return SEED * x, x > 2, -1LL * x end
        for _, gpu in ipairs { true, "auto" } do
            local f = app:func { gpu = gpu } (hash)
            for i, a, b, c in f:map(xs) do
                local want, is_more, least = hash(xs[i])
                if not (is_same(want, a) and b == is_more and is_same(least, c)) then
                    error(("%s: %d: %s, %s, %s"):format(gpu, i, shown(a), tostring(b), shown(c)))
                end
            end
            local one = app:func { gpu = gpu } (function(x) return SEED * x end)
            for i, a in one:map(xs) do
                if not is_same(SEED * xs[i], a) then error(("%s: %d: %s"):format(gpu, i, shown(a))) end
            end
            assert.is_true(is_same(SEED * 5, one:remote(5)))
        end
    end)

    on_any("takes arrays of 64-bit integers", function()
        local a = tidepool.array("uint64", 2000)
        for i = 1, #a do a[i] = SEED * i end
        local threads, card = both({}, function(x) return bit.bxor(x, bit.rshift(x, 31)) * 3 end, a)
        assert.same(threads, card)
        threads, card = both({}, function(x, y) return tonumber(x % 1000) + y end, a, tidepool.array("double", 2000))
        assert.same(threads, card)
    end)

    on_any("adds 64-bit integers up as threads do", function()
        local xs = {}
        for i = 1, 3000 do xs[i] = i end
        for _, returns in ipairs { "int64", "uint64" } do
            local sums = {}
            for i, gpu in ipairs { false, true } do
                local f = app:func { gpu = gpu or nil, returns = returns } (function(x) return SEED * x end)
                sums[i] = { f:map(xs):sum(), f:map(xs):max() }
            end
            assert.same(sums[1], sums[2])
        end
        local function add(a, b) return a + b end
        local threads, card = app:func(function(x) return 3LL * x end), app:func { gpu = true } (function(x) return 3LL * x end)
        assert.equal("13504500LL", tostring(threads:map(xs):reduce(add, 0)))
        assert.equal("13504500LL", tostring(card:map(xs):reduce(add, 0)))
        threads, card = threads:with { returns = "int64" }, card:with { returns = "int64" }
        assert.equal("13504500LL", tostring(threads:map(xs):reduce(add, 0)))
        assert.equal("13504500LL", tostring(card:map(xs):reduce(add, 0)))
    end)

    on_any("reads a captured integer anew", function()
        local f = app:func { gpu = true } (function(x) return SEED + x end)
        local kept = SEED
        assert.equal(SEED + 1, f:map({ 1 }):list()[1])
        SEED = 5ULL
        assert.equal(6ULL, f:map({ 1 }):list()[1])
        SEED = 5LL
        local ok, why = pcall(function() return f:map({ 1 }):list() end)
        SEED = kept
        assert.is_false(ok)
        assert.matches("'SEED' is a int64 now; it was a uint64 when the function was translated", tostring(why))
    end)

    on_any("writes to arrays of 64-bit integers, also where several items do", function()
        local counts, kept = tidepool.array("int64", 4), tidepool.array("uint64", 100)
        local f = app:func { gpu = true } (function(i)
            counts[i % 4 + 1] = counts[i % 4 + 1] + 3LL
            kept[i] = SEED * i
        end)
        f:for_each(tidepool.range(1, 100))
        for k = 1, 4 do assert.equal(75LL, counts[k]) end
        for i = 1, 100 do assert.equal(SEED * i, kept[i]) end
    end)

    on_any("says how lists of 64-bit integers are given", function()
        local ok, why = pcall(function() return app:func { gpu = true } (function(x) return tonumber(x) end):map({ 1LL, 2LL }):list() end)
        assert.is_false(ok)
        local advice = "argument 1 is a 64%-bit integer: on a device such inputs lie in typed arrays, tidepool.array%(\"int64\", list%)"
        assert.matches(advice, tostring(why))
    end)
end)
