-- gpu_translate_spec.lua: Lua functions as OpenCL C. What needs a device says "skipped: no OpenCL
-- device" without one.

local root = debug.getinfo(1, "S").source:match "^@(.*)tests/" or "./"
package.path = root .. "tests/?.lua;" .. package.path
-- The binary has these modules inside; stock LuaJIT finds them in the tree.
package.loaders[#package.loaders + 1] = function(name)
    local file = name:match "^tidepool%.translate%.(%w+)$"
    return file and loadfile(("%sgpu/translate/%s.lua"):format(root, file)) or nil
end

local lua_assert = getfenv(0).assert   -- `assert` is busted's here
local ffi = require "ffi"
local bit = require "bit"
local opencl = require "support_opencl"
local tidepool = require "tidepool" -- first, as users do: it puts functions of its own into `math`, which the translator knows by what they are
local parse = require "tidepool.translate.parse"
local source = require "tidepool.translate.source"
local translate = require "tidepool.translate.translate".translate
local random = require "tidepool.translate.random"

local on_device, device = opencl.specs(it, pending) -- a test that needs a device

local ulps = opencl.ulps

local XS, YS = opencl.inputs()

local function compare(fn, exact, translation, options)
    local trouble = device:difference(fn, exact, translation, options)
    assert(not trouble, trouble)
end

local EXACT = setmetatable({}, { __index = function() return true end })

local function same(fn, exact)
    for _, lanes in ipairs { 1, 8 } do
        compare(fn, exact or EXACT, translate(fn, { lanes = lanes, name = "f" }))
    end
end

describe("parse", function()
    it("reads every Lua file of this tree and of busted", function()
        local count = 0
        for file in io.popen(("ls %sgpu/*/*.lua %stests/*/*.lua %slua/tidepool/*.lua %slua/tidepool/*/*.lua /usr/share/lua/5.1/*/*.lua 2>/dev/null")
            :format(root, root, root, root)):lines() do
            local handle = assert(io.open(file, "rb"))
            local text = handle:read "*a"
            handle:close()
            local plain, defs = loadstring(text), parse.chunk(text)
            assert.equal(plain ~= nil, defs ~= nil, file)
            count = count + 1
        end
        assert.is_true(count > 10)
    end)

    it("reads what is rare", function()
        local text = "#!/usr/bin/luajit\nlocal goto_ = 1 goto done ::done:: local s = [==[\na]]b]==] --[[ x\n]] local t "
            .. "= { 1, [2] = 3, a = 4; f 'x', g { 1 } ^ 2 } local n = 0x1p-3 + 0xAp1 + 1e-3 + .5 + 3. + 12LL + 2i s = 'a\\z\n  "
            .. "b\\x41\\u{20ac}\\065\\\n' local goto = 3 goto = 4 return function(...) return ..., a.b:c 'x' end"
        assert.is_truthy(loadstring((text:gsub("^#[^\n]*", ""))))
        local defs = assert(parse.chunk(text))
        assert.equal(1, #defs)
    end)

    it("says what is wrong and where", function()
        local defs, message, line = parse.chunk "local x = 1\nlocal y = )"
        assert.is_nil(defs)
        assert.equal(2, line)
        assert.matches("unexpected '%)'", message)
    end)
end)

describe("source", function()
    it("tells functions on one line apart by their bytecode", function()
        local a, b = 1, 2
        local f, g = function(x) return x + a end, function(x) return x + b end
        assert.is_true(source.find(f).def.first < source.find(g).def.first)
        f(1)
        g(1)
    end)

    it("finds functions in tables, methods, string chunks and compiled ones", function()
        local t = {}
        function t.f(x) return x end
        function t:g(x) return self, x end
        for _ = 1, 1000 do t.f(1) end
        assert.is_truthy(source.find(t.f))
        assert.is_truthy(source.find(t.g))
        assert.is_truthy(source.find(loadstring "local k = 3 return function(x)\n return x * k end" ()))
    end)

    it("uses the texts that the host kept", function()
        local text = "return function(x) return x + 1 end"
        local f = loadstring(text, "=stdin")()
        assert.is_truthy(source.find(f, function(name) return name == "=stdin" and text or nil end))
        local found, why = source.find(f)
        assert.is_nil(found)
        assert.matches("text of 'stdin' was not kept", why)
    end)

    it("refuses text that is not the code that runs", function()
        local f = loadstring("return function(x) return x + 1 end", "=gone")()
        local _, why = source.find(f, function() return "return function(x) return x + 2 end" end)
        assert.matches("is not the code that is loaded %(has the file changed%?%)", why)
        _, why = source.find(f, function() return "return function(x) return x +" end)
        assert.matches("is not the code that is loaded", why)
        assert.matches("C function", select(2, source.find(math.sin)))
        assert.matches("stripped", select(2, source.find(loadstring(string.dump(f, true)))))
        assert.matches("whole chunk", select(2, source.find(loadstring "return 1")))
    end)
end)

describe("translate: options and interface", function()
    it("gives names, types and order of the kernel's arguments", function()
        local scale, table_ = 2, opencl.array("int16", { 1, 2, 3 })
        local cfg = { deep = { offset = 5 } }
        local t = translate(function(x, y) return x * scale + table_[1] + cfg.deep.offset, x > y end,
            { name = "f", inputs = { "float", "int32" } })
        local kinds = {}
        for i, a in ipairs(t.arguments) do kinds[i] = a.kind .. ":" .. a.ctype .. (a.name and ":" .. a.name or "") end
        assert.same({ "first:uint64", "count:uint64", "input:float:x", "input:int32:y", "output:double", "output:bool",
                      "failed:uint8", "number:double:scale", "array:int16:table_", "length:int32:table_",
                      "number:double:cfg.deep.offset" }, kinds)
        assert.equal(2, t.arguments[8].read())
        scale = 3
        assert.equal(3, t.arguments[8].read())
        scale = "three"
        assert.has_error(t.arguments[8].read,
            "'scale' is a string now; it was a number when the function was translated")
        assert.equal(3, t.arguments[10].read())
        assert.is_true(t.needs_double)
    end)

    it("notices that a baked value has changed", function()
        local on, helper = true, function(v) return v end
        local t = translate(function(x) if on then return helper(x) end return 0 end)
        assert.is_true(t:is_current())
        on = false
        assert.same({ false, "on" }, { t:is_current() })
        on, helper = true, nil
        assert.same({ false, "helper" }, { t:is_current() })
        return helper
    end)

    it("shows the Lua lines, with #line for the compiler's messages", function()
        local t = translate(function(x)
            local y = x * 2
            return y + 1
        end)
        assert.matches("// %d+: local y = x %* 2\n#line %d+ \"[^\n]*gpu_translate_spec.lua\"\n    double y_ = x_ %* 2%.0;", t.source)
        assert.matches("FP_CONTRACT OFF", t.source)
    end)

    it("uses no double in single precision", function()
        local a = 0.1
        local t = translate(function(x) return math.sin(x) % a + 1 / 3, bit.band(x, 7), random(x, 1) end,
            { precision = "single", lanes = 16 })
        assert.is_nil(t.source:find "double")
        assert.is_false(t.needs_double)
    end)
end)

describe("translate: refusals", function()
    local env = {
        bit = bit, math = math, error = error, assert = assert, print = print, string = string, tonumber = tonumber,
        pairs = pairs, type = type, tostring = tostring, select = select,
        xs = opencl.array("double", { 1 }), wide = opencl.array("int64", { 1 }), list = { 1, 2 }, rows = { { 1, 2 }, { 3, 4 } }, names = { "a" },
        zero = { [0] = 1, 2, 3 }, bytes = ffi.new "uint8_t[3]", text = "t", cfn = ffi.sizeof,
        io = io, stream = require "tidepool".random, hyp = loadstring "local a, b = ... return a",
    }
    -- { body of function(x, y), line of the function's text, what the message says }
    local cases = {
        { "return 'a'", 1, "a string; there are no strings" },
        { "return x .. y", 1, "'%.%.'; there are no strings" },
        { "local t = 1\nreturn t, { x }", 2, "result 2 is a table" },
        { "return x:f()", 1, "method call ':f'" },
        { "for k, v in text:gmatch '.' do end return x", 1, "'for %.%.%. in'" },
        { "::again:: x = x + 1\nif x < 9 then goto again end return x", 2, "'goto again' goes back; on a device a goto only goes forward" },
        { "return 1i", 1, "the literal 1i is an imaginary number" },
        { "return 2i", 1, "the literal 2i" },
        { "count = x\nreturn x", 1, "assignment to 'count', which is not a local of this function; GPU functions share no state" },
        { "cfg.scale = x\nreturn x", 1, "assignment to an element or field of 'cfg'" },
        { "xs[1], x = x, 1\nreturn x", 1, "an assignment of several values, one of them to 'xs'" },
        { "xs[1] = x > 1\nreturn x", 1, "an element of 'xs' needs numbers, and this is a boolean" },
        { "return x + true", 1, "'%+' needs numbers, and this is a boolean" },
        { "return -(x > 1)", 1, "'%-' needs numbers" },
        { "return x < (y > 1)", 1, "the comparison '<' needs numbers" },
        { "local a = 1\na = x > 1\nreturn a", 2, "'a' is a boolean here and a number elsewhere" },
        { "local a\nif x > 1 then a = 2 end\nreturn a", 3, "'a' may be read before it has a value" },
        { "if x > 1 then return 1 end", 1, "a path through the function ends without a return" },
        { "if x > 1 then return 1 end\nreturn 1, 2", 2, "this returns 2 values, and line 1 returns 1" },
        { "if x > 1 then return 1 end\nreturn x > 2", 2, "result 1 is a number in one place and a boolean in another" },
        { "local a = x", 1, "it returns nothing and writes to no array" },
        { "return nil", 1, "result 1 would be nil" },
        { "return x > 1 and 2", 1, "would be a number or false; complete it" },
        { "return x > 1 or 2", 1, "'or' gives a boolean or a number" },
        { "math.randomseed(7) return x", 1, "math.randomseed does not exist here: each element has a stream of its own" },
        { "return stream(x, 1)()", 1, "a call of something that is computed" },
        { "local r = stream(x, 1) return x", 1, "stream does not exist here: each element has a stream of its own; use math.random" },
        { "return math.random(x > 1)", 1, "math.random needs numbers" },
        { "print(x)\nreturn x", 1, "print does not exist here: a device has no output" },
        { "return string.find('a', 'b')", 1, "string.find does not exist here" },
        { "return tostring(x)", 1, "tostring does not exist here" },
        { "io.write(x) return x", 1, "io.write does not exist here" },
        { "return cfn()", 1, "'cfn', a C function" },
        { "return missing(x)", 1, "a call of 'missing', which is nil" },
        { "return math.max(x, missing)", 1, "would be nil %(the global 'missing' is%), which does not exist" },
        { "return x * math.phi", 1, "'%*' needs numbers, and 'math.phi' is nil" },
        { "return -missing", 1, "'%-' needs numbers, and the global 'missing' is nil" },
        { "for i = 1, missing do x = x + i end return x", 1, "'for' needs numbers, and the global 'missing' is nil" },
        { "return missing + 1", 1, "'%+' needs numbers, and the global 'missing' is nil" },
        { "return text", 1, "'text' is a string" },
        { "return list", 1, "'list' is a table; only numbers, booleans, functions and typed arrays" },
        { "return rows[x]", 1, "result 1 is a table" },
        { "return names[x]", 1, "a text that is one of several, used as something else" },
        { "local s = x > 1 and 'a' or 'b'\nreturn s + 1", 2, "'%+' of a text that is no number known beforehand" },
        { "local s = 'a'\nif x > 1 then s = 2 end return s", 2, "'s' is a text in one place and a number in another" },
        { "return tostring(x) == '1' and x or y", 1, "a text that is made here; there are no strings on a device" },
        { "local function h(a, k) return a + k end\nreturn h(x)", 1, "the parameter 'k' of 'h' gets no value from the call in line 2" },
        { "return xs", 1, "the array 'xs' as a value" },
        { "return math.floor(wide[1])", 1, "math.floor needs numbers, and 'wide%[1%]' is a 64%-bit integer; write tonumber%(%.%.%.%)" },
        { "return x[1]", 1, "an index into a number" },
        { "return #x", 1, "'#'; only captured typed arrays" },
        { "return xs[x > 1]", 1, "an index needs numbers" },
        { "local f = function() return x end\nreturn f", 2, "result 1 is a function; .*, return what it gives" },
        { "return (function() return 1 end)()", 1, "a function as a value" },
        { "local function f(n) return f(n - 1) end\nreturn f(x)", 1, "'f' calls itself; there is no recursion" },
        { "error({ code = 1 })", 1, "the message of error is no text that a device has" },
        { "error('a' .. x .. y .. x .. y .. x .. y .. x .. y .. x)", 1, "the message of error has more than 8 numbers that are computed here" },
        { "error(('%c'):format(x))", 1, "the message of error has the conversion '%%c'" },
        { "error(('%a'):format(x))", 1, "the message of error has the conversion '%%a'" },
        { "error(('%d and %d'):format(x))", 1, "the message of error has no value for '%%d'" },
        { "error((x > 1 and 'a' or 'b') .. 'c')", 1, "the message of error is no text that a device has" },
        { "local b = x > 1 error('a' .. b)", 1, "a number in a message needs numbers, and 'b' is a boolean" },
        { "error('a\\0b')", 1, "the message of error has a byte 0" },
        { "local function h(a) if a > 0 then return a end end\nreturn h(x)", 2,
          "a path through the function ends without a return; line 1 returns 1 value" },
        { "local h\nfor i = 1, 3 do if x > i then h = i end end\nreturn h", 3, "'h' may be read before it has a value" },
        { "local h\nreturn h + x", 2, "'h' may be read before it has a value" },
        { "local h = 1\nfor i = 1, 3 do h = nil end return x", 2, "'h' would be nil" },
        { "error('a', x)", 1, "error at a level that is computed" },
        { "local function h(a) if a > 1 then error('a', 3) end return a end\nlocal y = h(x) return y", 1,
          "error at this level, of which the place is not known" },
        { "error()", 1, "error without a message" },
        { "return math.sin()", 1, "math.sin needs 1 argument" },
        { "return math.sin(x > 1)", 1, "math.sin needs numbers" },
        { "for i = 1, x > 1 do end return x", 1, "'for' needs numbers" },
        { "return math", 1, "'math' is a table" },
        { "return ...", 1, "variable arguments", "..." },
    }
    for _, case in ipairs(cases) do
        it(("names line and reason: %s"):format((case[1]:gsub("\n", " "))), function()
            local text = ("return function(%s) %s end"):format(case[4] or "x, y", case[1])
            local fn = assert(loadstring(text, "=user"))()
            setfenv(fn, env)
            local ok, message = pcall(translate, fn, { name = "main", text_of = function() return text end })
            assert.is_false(ok)
            assert.matches("^user:" .. case[2] .. ": gpu function 'main': " , message)
            assert.matches(case[3], message)
        end)
    end

    it("names the helper in which it is, with its line", function()
        local function helper(v)
            return v .. "x"
        end
        local ok, message = pcall(translate, function(x) return helper(x) end, { name = "main" })
        assert.is_false(ok)
        assert.matches("gpu_translate_spec.lua:%d+: gpu function 'main': in 'helper': '%.%.'", message)
    end)

    it("checks its options", function()
        local f = function(x) return x end
        assert.error_matches(function() translate(3) end, "a function expected, got number")
        assert.error_matches(function() translate(f, { lanes = 3 }) end, "lanes is 3")
        assert.error_matches(function() translate(f, { precision = "half" }) end, "precision is 'half'")
        assert.error_matches(function() translate(f, { inputs = { "int128" } }) end, "type 1 is 'int128'")
        assert.error_matches(function() translate(f, { inputs = { "double", "double" } }) end, "takes 1 argument and is given 2")
        assert.error_matches(function() translate(f, { returns = { "double", "double" } }) end, "returns 1 value, and 2 types")
        assert.error_matches(function() translate(f, { returns = { "bool" } }) end, "result 1 is a number")
        assert.error_matches(function() translate(math.sin) end, "C function")
    end)
end)

describe("random", function()
    it("is Philox 4x32-10, as its authors' known answer says", function()
        assert.equal((0x6627e8d5 * 2 ^ 21 + math.floor(0xe169c58d / 2 ^ 11)) / 2 ^ 53, random(0, 0, 0))
    end)

    it("is uniform and has unrelated neighbours", function()
        local n, sum, square, product, last = 100000, 0, 0, 0, 0.5
        for i = 1, n do
            local r = random(42, i)
            assert(r >= 0 and r < 1)
            sum, square, product, last = sum + r, square + r * r, product + r * last, r
        end
        assert.is_true(math.abs(sum / n - 1 / 2) < 0.005)
        assert.is_true(math.abs(square / n - 1 / 3) < 0.005)
        assert.is_true(math.abs(product / n - 1 / 4) < 0.005)
        assert.equal(random(1, 0), random(1, -0.0))
    end)

    on_device("gives the same bits on a device", function()
        same(function(x, y) return random(x, y), random(7, x, 3) end)
    end)
end)

describe("math.random", function()
    local function pick(n) return math.random(n) end
    local function pick_of_ten() return math.random(10) end
    local programs = {
        function() return math.random() end,
        function() return math.random() - math.random(), math.random(6), math.random(10, 20) end,
        function(x) return pick(x) + pick_of_ten() + math.random() end,
        function(x) if x > 0 then return math.random() end return -math.random() end,
        function(x) return (x > 1 and math.random()) or math.random(5) end,
        function()
            local n = 0
            while math.random() < 0.9 do n = n + pick_of_ten() end
            return n + math.random()
        end,
        function(x)
            local inside = 0
            for i = 1, math.abs(x) % 7 do
                local a, b = math.random(), math.random()
                if a * a + b * b < 1 then inside = inside + pick(i) elseif a > 0.9 then break end
            end
            return inside, math.random()
        end,
        function(x)
            if math.random() > 0.8 then error("unlucky") end
            return x + math.random()
        end,
    }

    -- PoCL 6 on LLVM 19 ends the process over some programs with vectors of two ("Instruction
    -- Combining did not reach a fixpoint", pocl issue 1608, mended in PoCL 7).
    local widths = { 1, 2, 8 }
    for _, d in ipairs(tidepool.devices()) do
        if d.driver:find "^6%." then widths = { 1, 4, 8, 16 } end
    end

    on_device("draws the same with one element at a time and with lanes, whatever the conditions", function()
        for number, fn in ipairs(programs) do
            local expected, expected_failed
            for _, lanes in ipairs(widths) do
                local built = device:build(translate(fn, { lanes = lanes, name = "f" }))
                local outputs, failed = device:run(built, { XS, YS })
                device:release(built)
                expected, expected_failed = expected or outputs, expected_failed or failed
                for i = 0, #XS - 1 do
                    local status = failed and failed[i] or 0
                    assert.equal(expected_failed and expected_failed[i] or 0, status)
                    for k = 1, status == 0 and #outputs or 0 do
                        local a, b = expected[k][i], outputs[k][i]
                        if a ~= b and (a == a or b == b) then error(("program %d, lanes %d, %d: %.17g, %.17g"):format(number, lanes, i, a, b)) end
                    end
                end
            end
        end
    end)

    it("belongs into the function that is mapped, not into that of reduce", function()
        local fine, why = pcall(translate, function(x) return x end, { reduce = function(a, b) return a + b * math.random() end })
        assert.is_false(fine)
        assert.matches("the function of reduce draws no random numbers", why)
    end)
end)

-- Captured by the functions below.
local scale, negative, sin = 2.5, false, math.sin
local cfg = { on = true, scale = 1.25, deep = { 3 } }
local doubles = opencl.array("double", { 1.5, -2, 3, 0, 1e9, -0.25, 7, 8 })
local floats = opencl.array("float", { 0.5, -1.25, 1e10 })
local bytes = opencl.array("uint8", { 0, 127, 128, 255 })
local shorts = opencl.array("int16", { -32768, 0, 32767 })
local words = opencl.array("uint32", { 0, 2 ^ 31, 2 ^ 32 - 1 })
local longs = opencl.array("int64", { 5, -7, 2 ^ 40 })

local function sorted(p, q) if p < q then return p, q end return q, p end
local function clamp(v, low, high) return v < low and low or v > high and high or v end
local function collatz(n)
    local steps = 0
    while n > 1 do
        if n % 2 == 0 then n = n / 2 else n = 3 * n + 1 end
        steps = steps + 1
        if steps > 200 then return -1 end
    end
    return steps
end
local function positive(v)
    if v < 0 then error("negative") end
    return v
end
local function apply(f, v) return f(v) end
local function pick(array, i) return array[i] end

describe("translate: results on the device", function()
    on_device("arithmetic, % and comparisons have the same bits", function()
        same(function(x, y) return x + y, x - y * 3, x / y, x % y, -x, y % -3, x % 0.1, x == y, x ~= y, x < y, x >= y end)
    end)

    on_device("^ is within 4 ulp", function()
        same(function(x, y) return x ^ y, x ^ 2, x ^ 3, x ^ 4, x ^ 0.5, x ^ -1, 2 ^ y end, {})
    end)

    on_device("library functions are within 4 ulp", function()
        same(function(x, y)
            return sin(x), math.cos(x), math.tan(x), math.asin(x), math.acos(x), math.atan(x), math.atan2(x, y), math.exp(x),
                math.log(x), math.log10(x), math.log(x, 2), math.sinh(x), math.cosh(x), math.tanh(x), math.pow(x, y)
        end, {})
        same(function(x, y)
            local whole, part = math.modf(x)
            local m, e = math.frexp(y)
            return math.floor(x), math.ceil(x), math.abs(x), math.sqrt(x), math.fmod(x, y), math.max(x, y), math.min(x, y, 3),
                math.deg(x), math.rad(x), whole, part, m, e, math.ldexp(y, 3), math.pi * x, math.huge
        end)
    end)

    on_device("bit operations have the same bits", function()
        same(function(x, y)
            return bit.band(x, y), bit.bor(x, 0xf0), bit.bxor(x, y, 3), bit.bnot(x), bit.tobit(x), bit.lshift(x, y),
                bit.rshift(x, 3), bit.arshift(x, y), bit.rol(x, y), bit.ror(x, 5), bit.bswap(y), bit.band(x, 0xffffffff) % 7
        end)
    end)

    on_device("and, or and not follow Lua: zero is true", function()
        same(function(x, y)
            local a = x > 0 and y or x
            local b = x > 0 and x < 5 and 1 or y > 3 and 2 or 3
            local c = x or y
            local both, either, neither = x > 0 and y > 0, x > 0 or y > 0, not (x > 0)
            return a, b, c, both, either, neither, (both == either) and 1 or 0, x and (y > 0) and 5 or 6, not 0 and 1 or 2
        end)
    end)

    on_device("what leaves a block under a condition of all lanes, in one of some lanes, leaves it", function()
        local four, no, list = 4, false, opencl.array("double", { 5, 6 })
        same(function(x, y)
            local n = y
            for _ = 1, 4 do
                if x <= n then
                    n = 0.5
                    if four > 3 then break end
                    n = list[math.floor(n)] -- fails where it is reached
                end
            end
            return n
        end)
        same(function(x, y)
            local n = y
            if x <= n then
                n = 0.5
                if four < 3 then n = 7 elseif no then n = 8 else if four == 4 then return n, x end end
                n = list[math.floor(n)]
            end
            return n, y
        end)
        same(function(x, y)
            local n, s = y, 0
            for k = 1, 3 do
                if x <= n then
                    n = n + 0.5
                    if four > 3 then
                        if k == 2 then goto continue end
                        if x < 1 then goto continue end
                    end
                    s = s + k
                    if four > 3 and k == 3 then return n, s end
                    s = s + 10
                end
                s = s + 100
                ::continue::
            end
            return n, s
        end)
    end)

    on_device("loops with break, return from the inside, and every kind of step", function()
        same(function(x, y)
            local total = 0
            for i = 10, 1, -3 do total = total + i * x end
            for v = 0.25, 2, 0.5 do total = total + v end
            for i = 1, y do
                if i > 20 then break end
                for k = i, 4 do
                    if k * x > 30 then return total, i, k end
                    if k > 3 and x < y then break end
                    total = total + 1
                end
            end
            local turns = 0
            for _ = x, y, (x < y) and 1.5 or -1.5 do
                turns = turns + 1
                if turns > 60 then break end
            end
            for i = 1, 3 do
                i = i * 2
                total = total + i
            end
            local n = 0
            repeat
                local next_ = n + 1
                n = next_
            until next_ > 5 or n > x
            while true do
                n = n + 1
                if n > 12 then break end
            end
            return total, n, turns
        end)
    end)

    on_device("limits that are huge, infinite or NaN", function()
        same(function(x, y)
            local up, down = 0, 0
            for i = 1, x do
                up = i
                if i >= 5 then break end
            end
            for i = 3, y, -1 do
                down = down + i
                if i < -4 then break end
            end
            return up, down
        end)
    end)

    on_device("locals: shadowing, swaps, several values, aliases", function()
        same(function(x, y)
            local a, b = x, y
            a, b = b, a
            local x = a + 1       -- luacheck: ignore
            do
                local x = x * 2   -- luacheck: ignore
                a = a + x
            end
            local low, high = sorted(x, y)
            local s, deep = math.floor, cfg.deep
            local double, float, int = low, high, s(x)   -- names that C knows
            return a, b, x, double, float, int, deep[1], (sorted(x, y)), sorted(y, x)
        end)
    end)

    on_device("helper functions, functions inside, functions as arguments", function()
        same(function(x, y)
            local k = y * 2
            local function inner(v)
                local function innermost() return v + k end
                return innermost() * scale
            end
            if x > 3 then k = k + 1 end
            return clamp(x, -1, 1), inner(x), apply(math.floor, x) + apply(inner, y), pick(doubles, 3),
                collatz(bit.band(x, 63)), collatz(7), clamp(scale, 0, 1)
        end)
    end)

    on_device("captured numbers are read again, booleans are baked in", function()
        local f = function(x)
            if negative then return -x end
            if cfg.on and not cfg.missing then return x * scale + cfg.scale end
            return "never looked at"
        end
        local t = translate(f, { name = "f", lanes = 8 })
        local built = device:build(t)
        scale = 3
        local outputs = device:run(built, { { 1, 2 } })
        assert.same({ 4.25, 7.25 }, { outputs[1][0], outputs[1][1] })
        scale = 2.5
        device:release(built)
    end)

    on_device("typed arrays of every kind", function()
        same(function(x)
            local i = bit.band(x, 1) + 1
            local total = 0
            for k = 1, #doubles do total = total + doubles[k] * k end
            for k = 1, #doubles - 1 do total = total + doubles[k + 1] end
            return total, doubles[i], floats[i + 1], bytes[i], bytes[4], shorts[i], words[i + 1], tonumber(longs[i]), #bytes
        end)
    end)

    on_device("an index out of range fails its element only, with index and line", function()
        for _, lanes in ipairs { 1, 8 } do
            local f = function(x) return doubles[x] + floats[2] end
            local t = translate(f, { name = "f", lanes = lanes })
            local built = device:build(t)
            local outputs, failed = device:run(built, { { 1, 0, 8, 9, 2.5, 0 / 0, -1e300, 1 / 0, 2, 3 } })
            local failures = {}
            for i = 0, 9 do failures[i + 1] = failed[i] ~= 0 end
            assert.same({ false, true, false, true, true, true, true, true, false, false }, failures)
            assert.equal(0.25, outputs[1][0])
            assert.equal(1.75, outputs[1][9])
            assert.matches("gpu_translate_spec.lua:%d+: index 9 of 'doubles' is out of range %(1 to 8%)",
                t:describe(failed[3], outputs[1][3]))
            assert.matches("index 2%.5 of 'doubles' is not a whole number %(1 to 8%)", t:describe(failed[4], outputs[1][4]))
            device:release(built)
        end
    end)

    on_device("error and assert fail their element with the message of plain Lua", function()
        local f = function(x, y)
            if x > 100 then error("too large") end
            if x == 3 then error("bare", 0) end
            lua_assert(x ~= 2, "two")
            lua_assert(y == y)
            local total = 0
            for i = 1, 4 do
                if i == 3 and x < -0.9 then error("in the loop") end
                total = total + positive(x + 2) + (x > 0 and doubles[bit.band(x, 15)] or 0)
            end
            return total
        end
        for _, lanes in ipairs { 1, 8 } do
            local t = translate(f, { name = "f", lanes = lanes })
            compare(f, EXACT, t)
            local built = device:build(t)
            local _, failed = device:run(built, { XS, YS })
            local seen = 0
            for i = 1, #XS do
                local ok, message = pcall(f, XS[i], YS[i])
                if not ok and not message:find "index" then
                    seen = seen + 1
                    assert.equal(message, t:describe(failed[i - 1]))
                end
            end
            assert.is_true(seen > 10)
            device:release(built)
        end
    end)

    on_device("lanes that are done do not keep a scalar loop running", function()
        local zero = 0
        same(function(x)
            if x == x or zero == 0 then return 1 end
            local n = 0
            while n ~= zero + 1 do n = n + zero end
            return n
        end)
        same(function(x)
            while x < 3 do
                repeat
                    repeat
                        if x > 1 then return 1 end
                        if cfg.on then return x end
                    until x == 0
                until x == 1
            end
            return 2
        end)
    end)

    on_device("parts of a map, and a rest that does not fill the lanes", function()
        for _, lanes in ipairs { 1, 2, 4, 8, 16 } do
            local t = translate(function(x) return x * 2 end, { lanes = lanes })
            local built = device:build(t)
            local xs = {}
            for i = 1, 50 do xs[i] = i end
            local outputs = device:run(built, { xs }, { first = 7, count = 30 })
            for i = 1, 50 do assert.equal((i > 7 and i <= 37) and 2 * i or 0, outputs[1][i - 1]) end
            device:release(built)
        end
    end)

    on_device("storage types of inputs and results", function()
        for _, lanes in ipairs { 1, 8 } do
            local t = translate(function(a, b, c) return a + b, a * 100, a - b, c end,
                { lanes = lanes, inputs = { "int8", "float", "bool" }, returns = { "float", "uint8", "int32", "bool" } })
            local built = device:build(t)
            local outputs = device:run(built, { { -5, 7, 100 }, { 0.5, 2.75, 1 }, { 1, 0, 7 } })
            for i, want in ipairs { { -4.5, 12, -5, 1 }, { 9.75, 188, 4, 0 }, { 101, 16, 99, 1 } } do
                assert.same(want, { outputs[1][i - 1], outputs[2][i - 1], outputs[3][i - 1], outputs[4][i - 1] })
            end
            device:release(built)
        end
    end)

    on_device("single precision, 16 lanes", function()
        local function f(x, y)
            local total = 0
            for i = 1, 5 do
                if x > i then total = total + math.sqrt(i) * y elseif y > 2 then break end
            end
            return total, bit.band(x, 7) + doubles[bit.band(y, 3) + 1], x > y
        end
        for _, lanes in ipairs { 1, 16 } do
            local t = translate(f, { lanes = lanes, precision = "single", name = "f" })
            local built = device:build(t)
            local xs, ys = {}, {}
            for i = 1, 40 do xs[i], ys[i] = i / 4 - 3, (i * 7) % 11 end
            local outputs = device:run(built, { xs, ys })
            for i = 1, 40 do
                local a, b, c = f(xs[i], ys[i])
                assert.is_true(math.abs(outputs[1][i - 1] - a) <= 1e-5 * math.abs(a))
                assert.equal(b, outputs[2][i - 1])
                assert.equal(c and 1 or 0, outputs[3][i - 1])
            end
            device:release(built)
        end
    end)

    on_device("NaN comes back in the one form that is safe in LuaJIT", function()
        for _, precision in ipairs { "double", "single" } do
            for _, lanes in ipairs { 1, 8 } do
                local t = translate(function(x) return math.log(x) end, { precision = precision, lanes = lanes })
                local built = device:build(t)
                local outputs = device:run(built, { { -1, -2, -3, -4, -5, -6, -7, -8, -9 } })
                for i = 0, 8 do
                    local high = ffi.cast("uint32_t *", outputs[1])[precision == "double" and 2 * i + 1 or i]
                    assert.equal(precision == "double" and 0x7ff80000 or 0x7fc00000, high)
                end
                device:release(built)
            end
        end
    end)

    on_device("sin and cos of all sizes are within 2 ulp, also near multiples of pi / 2", function()
        local xs = { 0, -0.0, 5e-324, 1 / 0, -1 / 0, 0 / 0, 800000, -800000 }
        for _, size in ipairs { 1e-9, 1e-3, 1, 4, 100, 1e4, 7e5, 1e6, 1e15, 1e300 } do
            for i = 1, 200 do
                local x = (random(5, i) - 0.5) * 2 * size
                if i % 2 == 0 and size >= 1 and size < 1e9 then
                    x = math.floor(x / (math.pi / 2)) * (math.pi / 2) * (1 + (random(6, i) - 0.5) * (i % 4) * 1e-13)
                end
                xs[#xs + 1] = x
            end
        end
        for _, lanes in ipairs { 4, 8, 16 } do
            local t = translate(function(x) return math.sin(x), math.cos(x), 1 / math.sin(x) end, { lanes = lanes })
            local built = device:build(t)
            local outputs = device:run(built, { xs })
            for i, x in ipairs(xs) do
                local off = math.max(ulps(math.sin(x), outputs[1][i - 1]), ulps(math.cos(x), outputs[2][i - 1]))
                assert.is_true(off <= 2, ("%.17g: %g ulp"):format(x, off))
                if x == 0 then assert.equal(1 / x, outputs[3][i - 1]) end
            end
            device:release(built)
        end
    end)

    on_device("^ of all sizes is within 2 ulp, with the special cases of C", function()
        local special = { 0, -0.0, 1, -1, 0.5, -0.5, 2, -2, 3, -3, 7, 1.5, -1.5, 1 / 3, 1 / 0, -1 / 0, 0 / 0, 1e300, -1e300, 5e-324, -5e-324,
            1e-310, -1e-310, 2 ^ 52 + 1, 2 ^ 53, -2 ^ 53 - 2, 709, 1024, -1074, -1075, 0.999999999999, 1.0000000000001 }
        local xs, ys = {}, {}
        local function add(x, y) xs[#xs + 1], ys[#ys + 1] = x, y end
        for _, x in ipairs(special) do
            for _, y in ipairs(special) do add(x, y) end
        end
        for i = 1, 600 do
            local u, v = random(7, i), random(8, i)
            add(u * 10, (v - 0.5) * 20)
            add(math.exp((u - 0.5) * 1400), (v - 0.5) * 2)
            add(1 + (u - 0.5) * 1e-3, (v - 0.5) * 1.4e6)
            add(0.7 + 0.8 * u, (v - 0.5) * 4000)
            add(u * 2 ^ -1022, v)
            add(-math.floor(u * 100), math.floor((v - 0.5) * 100))
        end
        local power = (function(x, y) return x ^ y end)
        for _, lanes in ipairs { 4, 8, 16 } do
            local t = translate(power, { lanes = lanes })
            local built = device:build(t)
            local outputs = device:run(built, { xs, ys })
            for i, x in ipairs(xs) do
                local want, got = x ^ ys[i], outputs[1][i - 1]
                local off = ulps(want, got)
                assert(off <= 2, ("%.17g ^ %.17g: %.17g instead of %.17g, %g ulp"):format(x, ys[i], got, want, off))
                if want == 0 then assert.equal(1 / want, 1 / got) end
            end
            device:release(built)
        end
        for _, lanes in ipairs { 4, 16 } do
            local t = translate(power, { lanes = lanes, precision = "single" })
            local built = device:build(t)
            local outputs = device:run(built, { xs, ys })
            for i = 1, #xs do
                local x, y = tonumber(ffi.cast("float", xs[i])), tonumber(ffi.cast("float", ys[i]))
                local want, got = tonumber(ffi.cast("float", x ^ y)), outputs[1][i - 1]
                local is_near = want == got or (want ~= want and got ~= got) or math.abs(want - got) <= math.abs(want) * 2 ^ -22 + 2 ^ -149
                assert(is_near, ("%.9g ^ %.9g in single precision: %.9g instead of %.9g"):format(x, y, got, want))
                if want == 0 and got == 0 then assert.equal(1 / want, 1 / got) end
            end
            device:release(built)
        end
    end)

    on_device("a mandelbrot set has the same pixels", function()
        same(function(x, y)
            local zx, zy = 0, 0
            for i = 1, 100 do
                zx, zy = zx * zx - zy * zy + x / 4, 2 * zx * zy + y / 4
                if zx * zx + zy * zy > 4 then return i end
            end
            return 0
        end)
    end)
end)

---------------------------------------------------------------------------------------------------
-- Random programs, typed by construction: functions of (x, y) that use each other, one main that
-- returns all their results.

-- Gives the text of a chunk that returns main when called with what it captures, which results must
-- have the same bits, and how many expressions and functions there are in it.
local function random_program(seed, functions)
    local state = seed % 2147483647 + 1
    local function rnd(n)
        state = (state * 16807) % 2147483647
        return math.floor(state / 2147483647 * n) + 1
    end
    for _ = 1, 5 do rnd(2) end
    local function pick_from(list) return list[rnd(#list)] end
    local expressions, names = 0, 0
    local out, helpers, indent, loops = {}, {}, 0, 0
    local nums, ints, bools
    local num, int, cond, block
    local function line(format, ...) out[#out + 1] = ("  "):rep(indent) .. format:format(...) end
    local function fresh(letter)
        names = names + 1
        return letter .. names
    end
    -- An expression of its own, as opposed to an operand.
    local function whole(make, depth)
        expressions = expressions + 1
        return make(depth)
    end

    local function literal()
        local k = rnd(6)
        if k <= 3 then return tostring(rnd(9) - 1) end
        if k == 4 then return ("%.3f"):format(rnd(1000) / 100) end
        if k == 5 then return ("(-%d)"):format(rnd(20)) end
        return pick_from { "1e10", "0x1p-3", "0.1", "1e-3", "2147483648" }
    end

    function int(depth)
        local k = depth <= 0 and rnd(2) or rnd(9)
        if k == 1 and #ints > 0 then return pick_from(ints) end
        if k <= 2 then return tostring(rnd(300) - 100) end
        if k <= 5 then return ("bit.%s(%s, %s)"):format(pick_from { "band", "bor", "bxor" }, num(depth - 1), int(depth - 1)) end
        if k == 6 then
            return ("bit.%s(%s, %s)"):format(pick_from { "lshift", "rshift", "arshift", "rol", "ror" }, int(depth - 1), int(0))
        end
        if k == 7 then return ("bit.%s(%s)"):format(pick_from { "bnot", "tobit", "bswap" }, num(depth - 1)) end
        return ("bit.band(%s, %d)"):format(num(depth - 1), pick_from { 7, 255, 65535 })
    end

    function num(depth)
        local k = depth <= 0 and rnd(4) or rnd(24)
        local d = depth - 1
        if k <= 3 then return pick_from(nums) end
        if k == 4 then return literal() end
        if k <= 11 then return ("(%s %s %s)"):format(num(d), pick_from { "+", "-", "*", "/", "+", "-", "*", "%" }, num(d)) end
        if k == 12 then return ("(- %s)"):format(num(d)) end
        -- LuaJIT's interpreter rounds -0.5 up to 0, its compiler and the device to -0; adding 0
        -- makes them agree.
        if k == 13 then return ("(%s(%s) + 0)"):format(pick_from { "math.floor", "math.ceil", "math.abs", "abs" }, num(d)) end
        if k == 14 then return ("math.%s(%s, %s)"):format(pick_from { "max", "min" }, num(d), num(d)) end
        if k == 15 then return ("math.sqrt(math.abs(%s))"):format(num(d)) end
        if k == 16 then return int(d) end
        if k == 17 then return ("(%s and %s or %s)"):format(cond(d), num(d), num(d)) end
        if k == 18 then return ("(%s and %s or %s and %s or %s)"):format(cond(d), num(d), cond(d), num(d), num(d)) end
        if k == 19 and #helpers > 0 then return ("%s(%s, %s)"):format(pick_from(helpers), num(d), num(d)) end
        if k == 20 then return ("xs[bit.band(%s, 7) + 1]"):format(num(d)) end
        if k == 21 then return ("is[1 + bit.band(%s, 3)]"):format(num(d)) end
        if k == 22 then return ("(%s or %s)"):format(num(d), num(d)) end
        if k == 23 then return ("math.fmod(%s, %s)"):format(num(d), num(d)) end
        return pick_from { "cfg.scale", "a", "cfg.deep[1]", "#xs", "(sorted(x, y))", "math.pi" }
    end

    function cond(depth)
        local k = depth <= 0 and 1 or rnd(10)
        local d = depth - 1
        if k <= 4 then return ("%s %s %s"):format(num(d), pick_from { "<", ">", "<=", ">=", "==", "~=" }, num(d)) end
        if k == 5 then return ("(%s and %s)"):format(cond(d), cond(d)) end
        if k == 6 then return ("(%s or %s)"):format(cond(d), cond(d)) end
        if k == 7 then return ("not (%s)"):format(cond(d)) end
        if k == 8 and #bools > 0 then return pick_from(bools) end
        if k == 9 then return pick_from { "yes", "no", "cfg.on", "true" } end
        return ("(%s) ~= (%s)"):format(cond(d), cond(d))
    end

    -- A block whose locals end with it; `counter` is the loop's.
    local function scope(depth, counter)
        local n, i, b = #nums, #ints, #bools
        nums[#nums + 1] = counter
        indent = indent + 1
        block(depth)
        indent = indent - 1
        while #nums > n do nums[#nums] = nil end
        while #ints > i do ints[#ints] = nil end
        while #bools > b do bools[#bools] = nil end
    end

    local function target()
        local list = {}
        for _, name in ipairs(nums) do
            if name:find "^v" then list[#list + 1] = name end
        end
        return list[1] and pick_from(list)
    end

    local function if_statement(depth)
        line("if %s then", whole(cond, 2))
        scope(depth)
        if rnd(3) == 1 then
            line("elseif %s then", whole(cond, 2))
            scope(depth)
        end
        if rnd(2) == 1 then
            line("else")
            scope(depth)
        end
        line("end")
    end

    local function for_statement(depth)
        local i, form = fresh "i", rnd(5)
        if form == 1 then
            line("for %s = 1, %d do", i, rnd(6))
        elseif form == 2 then
            line("for %s = %d, bit.band(%s, 7) do", i, rnd(4) - 2, whole(num, 2))
        elseif form == 3 then
            line("for %s = %d, %d, %d do", i, rnd(5) + 3, rnd(4) - 2, -rnd(3))
        elseif form == 4 then
            line("for %s = bit.band(%s, 3), bit.band(%s, 7), 0.5 do", i, whole(num, 1), whole(num, 1))
        else
            line("for %s = 0.5, 4 + bit.band(x, 1), (%s) and 1 or 0.75 do", i, whole(cond, 1))
        end
        loops = loops + 1
        scope(depth, i)
        loops = loops - 1
        line("end")
    end

    local function other_loop(depth)
        local n, is_while = fresh "n", rnd(2) == 1
        line("local %s = 0", n)
        line(is_while and ("while %s < %d and %s do"):format(n, rnd(7), whole(cond, 1)) or "repeat")
        line("  %s = %s + 1", n, n)
        loops = loops + 1
        scope(depth)
        loops = loops - 1
        line(is_while and "end" or ("until %s > %d or %s"):format(n, rnd(6), whole(cond, 1)))
        nums[#nums + 1] = n
    end

    local function one_statement(depth)
        local k = rnd(16)
        if k <= 3 then
            local v = fresh "v"
            line("local %s = %s", v, whole(num, 3))
            nums[#nums + 1] = v
        elseif k == 4 then
            local v = fresh "b"
            line("local %s = %s", v, whole(int, 2))
            ints[#ints + 1] = v
        elseif k == 5 then
            local v = fresh "c"
            line("local %s = (%s)", v, whole(cond, 2))
            bools[#bools + 1] = v
        elseif k <= 9 then
            local t, u = target(), target()
            if t and u ~= t and k == 9 then
                line("%s, %s = %s, %s", t, u, whole(num, 1), whole(num, 2))
            elseif t then
                line("%s = %s", t, whole(num, 3))
            end
        elseif k == 10 and #ints > 0 then
            line("%s = %s", pick_from(ints), whole(int, 2))
        elseif k <= 12 and depth > 0 then
            if_statement(depth - 1)
        elseif k == 13 and depth > 0 then
            for_statement(depth - 1)
        elseif k == 14 and depth > 0 then
            other_loop(depth - 1)
        elseif k == 15 and loops > 0 then
            line("if %s then break end", whole(cond, 2))
        elseif k == 16 and indent > 1 then
            line("if %s then return %s end", whole(cond, 2), whole(num, 2))
        end
    end

    function block(depth)
        for _ = 1, rnd(4) do one_statement(depth) end
    end

    local library = { "sin", "cos", "atan", "exp", "log", "tanh", "asin", "tan", "sinh", "cosh", "acos", "log10" }
    line("local a, yes, no, abs, cfg, xs, is, sorted = ...")
    local exact, calls = {}, {}
    for f = 1, functions do
        nums, ints, bools, exact[f] = { "x", "y" }, {}, {}, true
        line("local function f%d(x, y)", f)
        expressions = expressions + 1
        indent = 1
        local kind, form = rnd(3), rnd(4)
        if kind == 1 and form == 1 then      -- what is not exact stands alone, so that nothing can magnify its error
            line("return math.%s(%s)", pick_from(library), whole(num, 2))
            exact[f] = false
        elseif kind == 1 and form == 2 then
            line("return %s ^ %s", whole(num, 1), pick_from { "2", "3", "4", "0.5", "(-1)", num(1) })
            exact[f] = false
        elseif kind == 1 and form == 3 then
            line("return %s / math.%s(%s)", whole(num, 1), pick_from { "exp", "cos" }, whole(num, 1))
            exact[f] = false
        elseif kind == 1 then
            line("return %s", whole(num, 5))
        elseif kind == 2 then
            line("return %s and %s or %s", whole(cond, 3), whole(num, 3), whole(num, 3))
        else
            block(3)
            line("return %s", whole(num, 2))
        end
        indent = 0
        line("end")
        calls[f] = ("f%d(x, y)"):format(f)
        if exact[f] and #helpers < 4 then helpers[#helpers + 1] = "f" .. f end
    end
    line("return function(x, y) return %s end", table.concat(calls, ", "))
    return table.concat(out, "\n") .. "\n", exact, expressions
end

describe("random programs", function()
    -- TIDEPOOL_GPU_EXPRESSIONS: how many expressions and functions; TIDEPOOL_SEED: where to start.
    -- The device's compiler takes about 10 ms for each: 10000 of them are for an idle machine.
    local wanted = tonumber(os.getenv "TIDEPOOL_GPU_EXPRESSIONS") or 1000
    local seed = tonumber(os.getenv "TIDEPOOL_SEED") or 1

    local function check(first, count, functions, all_lanes, options)
        local expressions = 0
        local at = first
        while expressions < count do
            local text, exact, n = random_program(at, functions)
            local chunk = ("=seed%d"):format(at)
            local function text_of(name) return name == chunk and text or nil end
            local main = assert(loadstring(text, chunk))(7, true, false, math.abs, cfg, doubles,
                opencl.array("int16", { 1, -20, 300, -4000 }), sorted)
            for _, lanes in ipairs(all_lanes) do
                local ok, trouble = pcall(function()
                    compare(main, exact, translate(main, { lanes = lanes, text_of = text_of }), options)
                end)
                assert(ok, ok or ("seed %d: %s"):format(at, tostring(trouble)))
            end
            expressions = expressions + n
            at = at + 1
        end
        return at
    end

    it("have every construct in them, as many as there are by default", function()
        -- Library functions stand alone there, and have a test of their own above.
        local texts, expressions, at = {}, 0, 1
        while expressions < 1000 do
            local text, _, n = random_program(at, 40)
            texts[#texts + 1], expressions, at = text, expressions + n, at + 1
        end
        local all, missing = table.concat(texts), {}
        for construct in ([[ bit.band( bit.bor( bit.bxor( bit.lshift( bit.rshift( bit.arshift( bit.rol( bit.ror( bit.bnot( bit.tobit(
            bit.bswap( math.floor( math.ceil( math.abs( (abs( math.max( math.min( math.sqrt( math.fmod( math.pi cfg.scale cfg.deep[1]
            cfg.on #xs xs[bit is[1 (sorted( and or not if elseif else for while repeat until break return < > <= >= == ~= + - * / %
            ^ f1(x ]]):gmatch "%S+" do
            if not all:find(construct, 1, true) then missing[#missing + 1] = construct end
        end
        assert.same({}, missing)
    end)

    on_device("mean the same on the device", function()
        -- The device compiler's optimiser takes five times as long as everything else; it is asked
        -- in the next test.
        check(seed, wanted, 40, { 1, 8 }, "-cl-opt-disable")
    end)

    on_device("mean the same after the device compiler's optimiser", function()
        check(seed + 1000000, wanted / 10, 10, { 1, 8, 16 })
    end)
end)
