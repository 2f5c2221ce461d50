-- On a device (not stock: the same code runs there): what Lua's operators, functions, loops,
-- indices and stores make of special values is the same as in plain Lua. What needs a device says
-- "skipped: no OpenCL device" without one.

local root = debug.getinfo(1, "S").source:match "^@(.*)tests/" or "./"
package.path = root .. "tests/?.lua;" .. package.path
-- The binary has these modules inside; stock LuaJIT finds them in the tree.
package.loaders[#package.loaders + 1] = function(name)
    local file = name:match "^tidepool%.translate%.(%w+)$"
    return file and loadfile(("%sgpu/translate/%s.lua"):format(root, file)) or nil
end

require "tidepool" -- it brings what the translator needs
local ffi = require "ffi"
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending) -- a test that needs a device

-- Units in the last place between two doubles; NaN equals NaN, and 0 is not -0.
local function ulps(a, b)
    if a == 0 and b == 0 then return 1 / a == 1 / b and 0 or math.huge end
    return opencl.ulps(a, b)
end

local SPECIAL = { 0, -0.0, 1, -1, 0.5, -0.5, 1.5, -2.5, 2, 3, -7, 31, 32, 33, 127, 128, 255, 256, 1024, 1e-310, 5e-324, -5e-324, 2 ^ -1022, 0.1,
                  100.5, 32768, 65536, 2 ^ 31 - 1, 2 ^ 31, 2 ^ 31 + 5, -2 ^ 31, -2 ^ 31 - 1, -2 ^ 31 - 0.5, 2 ^ 31 - 0.5, 2 ^ 32 - 1, 2 ^ 32,
                  2 ^ 32 + 7, -2 ^ 32, 2 ^ 51 + 0.5, 2 ^ 52 + 1, 2 ^ 53, -2 ^ 53 - 2, 2 ^ 62, 2 ^ 63, -2 ^ 63, 2 ^ 64, 1e20, 1e300, -1e300,
                  1 / 0, -1 / 0, 0 / 0 }

-- All pairs of special values.
local AS, BS = {}, {}
for _, a in ipairs(SPECIAL) do
    for _, b in ipairs(SPECIAL) do AS[#AS + 1], BS[#BS + 1] = a, b end
end

-- The inputs and results of a run, of the chunk `text`, which returns a function, on the device in
-- a form; `failed` are numbers of failures.
local function run(fn, lanes, inputs, options)
    options = options or {}
    local t = translate(fn, { lanes = lanes, name = "f", inputs = options.inputs, returns = options.returns,
        text_of = options.text_of, precision = options.precision })
    local built = device:build(t)
    local outputs, failed, details = device:run(built, inputs)
    device:release(built)
    return outputs, failed, t, details
end

local function load(text, ...)
    local fn = assert(loadstring(text, "=values"))(...)
    jit.off(fn) -- LuaJIT's compiler and interpreter differ in max and min of NaN
    return fn, function() return text end
end

-- Compares each expression of a and b with plain Lua, in both forms. `allowed(expression)` ulp may
-- lie between, or is_near says so.
local PER_FUNCTION = 30
local function compare(expressions, as, bs, is_near)
    local trouble = {}
    for from = 1, #expressions, PER_FUNCTION do
        local some = {}
        for i = from, math.min(from + PER_FUNCTION - 1, #expressions) do some[#some + 1] = "(" .. expressions[i] .. ")" end
        local fn, text_of = load("return function(a, b) return " .. table.concat(some, ",\n") .. " end")
        for _, lanes in ipairs { 1, 8 } do
            local outputs = run(fn, lanes, { as, bs }, { text_of = text_of })
            local is_wrong = {}
            for i = 1, #as do
                local plain = { fn(as[i], bs[i]) }
                for k, expression in ipairs(some) do
                    local want, got = plain[k], outputs[k][i - 1]
                    if type(want) == "boolean" then want = want and 1 or 0 end
                    if not is_near(want, got, expression) and not is_wrong[k] then
                        is_wrong[k] = true
                        trouble[#trouble + 1] = ("%s, lanes %d, a = %.17g, b = %.17g: %.17g, should be %.17g"):format(expression, lanes, as[i],
                            bs[i], got, want)
                    end
                end
            end
        end
    end
    assert(#trouble == 0, table.concat(trouble, "\n"))
end

local ONE = { "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "log10", "sqrt", "floor", "ceil", "abs", "deg",
              "rad", "modf", "frexp" }
local TWO = { "atan2", "pow", "fmod", "ldexp", "max", "min", "log" }
local BITS_ONE, BITS_TWO = { "bnot", "tobit", "bswap" }, { "band", "bor", "bxor", "lshift", "rshift", "arshift", "rol", "ror" }

describe("a library function on a device", function()
    on_device("takes compound arguments in every position, and stands in every place", function()
        local compound = { "a - b", "a + b", "-a", "a * b", "a / 2 - b", "a % 3", "a ^ 2 - b", "a > b and a or b", "-(a - b)", "math.abs(a) - 1",
            "bit.band(a, 7) - b", "-2", "a - b - 1" }
        local places = { "2 * CALL", "3 - CALL", "-CALL", "CALL ^ 2", "CALL % 3", "CALL - CALL", "1 / CALL", "CALL > 1 and 1 or 0", "math.rad(CALL)",
            "math.deg(-CALL)" }
        local list, turn = {}, 0
        local function next_of(of)
            turn = turn + 1
            return of[turn % #of + 1]
        end
        local function add_in_place(call)
            list[#list + 1] = (next_of(places):gsub("CALL", function() return call end))
        end
        for _, fn in ipairs(ONE) do
            for i, argument in ipairs(compound) do
                if fn == "deg" or fn == "rad" or i % 4 == turn % 4 then list[#list + 1] = ("math.%s(%s)"):format(fn, argument) end
            end
            add_in_place(("math.%s(%s)"):format(fn, next_of(compound)))
        end
        for name, of in pairs { math = TWO, bit = BITS_TWO } do
            for _, fn in ipairs(of) do
                for _ = 1, 3 do list[#list + 1] = ("%s.%s(%s, %s)"):format(name, fn, next_of(compound), next_of(compound)) end
                add_in_place(("%s.%s(%s, b - 1)"):format(name, fn, next_of(compound)))
            end
        end
        for _, fn in ipairs(BITS_ONE) do
            list[#list + 1] = ("bit.%s(%s)"):format(fn, next_of(compound))
            list[#list + 1] = ("3 - bit.%s(bit.bor(a, 1) - b)"):format(fn)
        end
        local as, bs = {}, {}
        for i = 1, 60 do as[i], bs[i] = (i * 37 % 101) / 10 - 5, (i * 53 % 97) / 10 - 4.5 end
        compare(list, as, bs, function(want, got)
            return want == got or (want ~= want and got ~= got) or math.abs(want - got) <= 1e-9 * math.max(1, math.abs(want))
        end)
    end)

    on_device("makes of special values what plain Lua does", function()
        local list = {}
        for _, fn in ipairs(ONE) do list[#list + 1] = ("math.%s(a)"):format(fn) end
        for _, fn in ipairs(TWO) do list[#list + 1] = ("math.%s(a, b)"):format(fn) end
        for _, fn in ipairs(BITS_ONE) do list[#list + 1] = ("bit.%s(a)"):format(fn) end
        for _, fn in ipairs(BITS_TWO) do list[#list + 1] = ("bit.%s(a, b)"):format(fn) end
        compare(list, AS, BS, function(want, got, expression)
            local off = ulps(want, got)
            return off == 0 or (off <= 4 and not expression:find "bit%.")
        end)
    end)

    -- Drivers' functions convert to integers inside; what that makes of a constant NaN is decided
    -- by a compiler that may take anything.
    on_device("makes of special values that the compiler knows what plain Lua does", function()
        local list = {}
        for i, c in ipairs { "0/0", "1/0", "-1/0", "1e300" } do
            for k, fn in ipairs(ONE) do
                if i == 1 or (i + k) % 3 == 0 then list[#list + 1] = ("math.%s(%s)"):format(fn, c) end
            end
            for _, op in ipairs { "%", "^" } do
                list[#list + 1] = ("(%s) %s 2"):format(c, op)
                list[#list + 1] = ("3 %s (%s)"):format(op, c)
            end
            list[#list + 1] = ("math.abs(math.floor(%s))"):format(c)
            list[#list + 1] = ("math.floor(a * (%s))"):format(c)
            list[#list + 1] = ("bit.bor(%s, 1)"):format(c)
            list[#list + 1] = ("math.fmod(%s, 2)"):format(c)
            list[#list + 1] = ("math.atan2(3, %s)"):format(c)
            list[#list + 1] = ("math.ldexp(%s, 0/0)"):format(c)
            list[#list + 1] = ("math.ldexp(3, %s)"):format(c)
        end
        compare(list, { 1, -2.5 }, { 1, 3 }, function(want, got, expression)
            return ulps(want, got) <= (expression:find "bit%." and 0 or 4)
        end)
    end)
end)

describe("a loop on a device", function()
    on_device("runs as often as in plain Lua, whatever its start, limit and step", function()
        local steps = { "0", "-0.0", "1", "-1", "0/0", "1/0", "-1/0", "0.5", "2^53", "1e300", "s", "-s", "s * 0", "z", "-z", "a - a", "b" }
        local values = { 0, -0.0, 1, -1, 3, 10, 2 ^ 31, -2 ^ 31, 2 ^ 53, -2 ^ 53, 1e300, 1 / 0, -1 / 0, 0 / 0, 0.5, 2 ^ 52 - 1, -2 ^ 52 }
        local as, bs = {}, {}
        for _, a in ipairs(values) do
            for _, b in ipairs(values) do as[#as + 1], bs[#bs + 1] = a, b end
        end
        local text = { "local s, z = ... local function count(n, i) if n > 3 then return true end return i ~= i end\nreturn function(a, b)\n" }
        local results = {}
        for k, step in ipairs(steps) do
            for j, range in ipairs { "a, b", "1, b", "a, 3", "3, 1", "1, 3" } do
                if j < 3 or k % 3 == j % 3 then
                    results[#results + 1] = ("n%d_%d"):format(k, j)
                    text[#text + 1] = ("local n%d_%d = 0\nfor i = %s, %s do n%d_%d = n%d_%d + 1 if count(n%d_%d, i) then break end end\n"):format(
                        k, j, range, step, k, j, k, j, k, j)
                end
            end
        end
        text[#text + 1] = "return " .. table.concat(results, ", ") .. " end"
        local fn, text_of = load(table.concat(text), 0.25, 0)
        for _, lanes in ipairs { 1, 8 } do
            local outputs = run(fn, lanes, { as, bs }, { text_of = text_of })
            for i = 1, #as do
                for k, want in ipairs { fn(as[i], bs[i]) } do
                    local got = outputs[k][i - 1]
                    assert(got == want, ("%s, lanes %d, a = %.17g, b = %.17g: %g rounds, should be %g"):format(results[k], lanes, as[i], bs[i],
                        got, want))
                end
            end
        end
    end)
end)

describe("an index on a device", function()
    local array = opencl.array("double", { 10, 20, 30 })

    on_device("that is none is a failure with its value, also one that the compiler knows", function()
        local places = { "a", "a * (0/0)", "0/0", "1/0", "1.5", "a / 2", "math.sqrt(-a)", "z / z", "0", "2^53", "1e300", "3", "2^32 + 1", "z + 2.5" }
        local values = { 1, 2, 3, 4, 2.5, 0, -1, 2 ^ 32 + 1, 1 / 0, 0 / 0, 1e300 }
        local as, ws, text = {}, {}, { "local A, z = ... return function(a, w)\n" }
        for w, place in ipairs(places) do
            text[#text + 1] = ("if w == %d then return RESULT end\n"):format(w):gsub("RESULT", function() return "A[" .. place .. "] END" end)
            for _, a in ipairs(values) do as[#as + 1], ws[#ws + 1] = a, w end
        end
        text = table.concat(text) .. "return A[a] END end"
        -- With a result that has room for the index, and without one.
        for _, result in ipairs { "", "> 1" } do
            local fn, text_of = load(text:gsub("END end", result .. " end"):gsub("END", result), array, 0)
            for _, lanes in ipairs { 1, 8 } do
                local outputs, failed, t, details = run(fn, lanes, { as, ws }, { text_of = text_of })
                assert.equal(result ~= "", details ~= nil)
                local detail = details or outputs[1]
                for i, a in ipairs(as) do
                    local fine, want = pcall(fn, a, ws[i])
                    local where = ("A[%s] %s, lanes %d, a = %.17g"):format(places[ws[i]], result, lanes, a)
                    assert(fine == (failed[i - 1] == 0), where)
                    if fine then
                        if type(want) == "boolean" then want = want and 1 or 0 end
                        assert.equal(want, outputs[1][i - 1], where)
                    else
                        local index = setfenv(loadstring("local a, z = ... return " .. places[ws[i]]), { math = math })(a, 0)
                        assert(detail[i - 1] == index or index ~= index, where)
                        assert.matches(index >= 1 and index <= 3 and "is not a whole number %(1 to 3%)" or "is out of range %(1 to 3%)",
                            t:describe(failed[i - 1], detail[i - 1]))
                    end
                end
            end
        end
    end)
end)

describe("an update of an element on a device", function()
    on_device("is done once by each element, also those of the last vector, in every way to write it", function()
        local values, types = {}, { "double", "float", "int32", "uint32", "int16", "uint8", "int64" }
        for i = 1, 61 do values[i] = i % 9 - 4 end
        local updates = { "A[k] = A[k] + x", "A[k] = 3 + x + A[k]", "A[k] = A[k] - x", "A[k] = -(x - A[k])", "A[k] = math.max(A[k], x)",
            "A[k] = bit.bxor(A[k], x)", "A[(k)] = (A[k] * 2 + x) % 7", "A[k] = x > A[k] and x or A[k]", "A[k] = twice(A[k]) + x",
            "if x > 2 then bump() end", "A[2 * k - k] = A[2 * k - k] + (x > 0 and 1 or 2)", "A[k] = A[B[k]] + A[k]" }
        for at, update in ipairs(updates) do
            for t, ctype in ipairs(types) do
                if t == at % 6 + 1 or (at == 1 and t > 2) then
                    local text = ("local A, B = ... local function twice(v) return v * 2 %% 5 end local function bump() A[1] = A[1] + 1 end "
                        .. "return function(x) local k = bit.band(x, 3) + 1 %s return x end"):format(update)
                    if ctype == "int64" then text = text:gsub("= A%[k%]", "= tonumber(A[k])") end
                    for _, lanes in ipairs { 1, 8 } do
                        local a, expected, places = opencl.array(ctype, 4), opencl.array(ctype, 4), opencl.array("int32", { 4, 4, 4, 4 })
                        local fn, text_of = load(text, a, places)
                        run(fn, lanes, { values }, { text_of = text_of })
                        local plain = load(text:gsub("A(%[.-%]) =", "A%1 ="), setmetatable({}, {
                            __index = function(_, k) return expected.data[k - 1] end,
                            __newindex = function(_, k, v) expected.data[k - 1] = v end,
                        }), places)
                        for _, x in ipairs(values) do plain(x) end
                        -- The order of elements is nobody's: what depends on it is left out.
                        if not update:find "%%" and not update:find "twice" and not update:find "B" then
                            for k = 0, 3 do assert.equal(expected.data[k], a.data[k], ("%s, %s, lanes %d"):format(update, ctype, lanes)) end
                        end
                    end
                end
            end
        end
    end)
end)

describe("a number that an integer cannot hold", function()
    on_device("becomes on a device what LuaJIT makes of it, in results and in elements", function()
        local types = { "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64" }
        local C = { int8 = "int8_t", uint8 = "uint8_t", int16 = "int16_t", uint16 = "uint16_t", int32 = "int32_t", uint32 = "uint32_t",
            int64 = "int64_t", uint64 = "uint64_t" }
        for _, lanes in ipairs { 1, 8 } do
            local arrays, texts = {}, {}
            for i, ctype in ipairs(types) do
                arrays[i], texts[i] = opencl.array(ctype, #SPECIAL), ("a%d[i] = x"):format(i)
            end
            local fn, text_of = load(("local a1, a2, a3, a4, a5, a6, a7, a8 = ... return function(x, i) %s return x, x, x, x, x, x end"):format(
                table.concat(texts, " ")), unpack(arrays))
            local places = {}
            for i = 1, #SPECIAL do places[i] = i end
            local outputs = run(fn, lanes, { SPECIAL, places }, { text_of = text_of, returns = { unpack(types, 1, 6) } })
            for k, ctype in ipairs(types) do
                local cell = ffi.new(C[ctype] .. "[1]")
                for i, x in ipairs(SPECIAL) do
                    cell[0] = x
                    local where = ("%s, lanes %d, %.17g"):format(ctype, lanes, x)
                    assert(cell[0] == arrays[k].data[i - 1], where .. ", as an element: " .. tostring(arrays[k].data[i - 1]))
                    assert(k > 6 or cell[0] == outputs[k][i - 1], where .. ", as a result")
                end
            end
        end
    end)
end)
