--- Fuzzes the translator: makes Lua functions at random, runs each in plain Lua and on the first
-- OpenCL device, in both forms, over special values and others, and compares results to the bit and
-- failures by their text. A short run is part of the suite (tests/device/gpu_fuzz_spec.lua); by
-- hand, from this tree's root:
--
--     tidepool tests/fuzz/translate_fuzz.lua [first seed] [how many]
--
-- A function follows from its seed. Only operations whose results are the same bits everywhere are
-- used, so that any difference is a mistake. What is made is meant to be translated: a refusal
-- counts as one, too, but for that of a function which fails whatever its inputs are.

local fuzz = {}

local CHUNK = "=fuzz"
local DEPTH_MAX, STATEMENTS_MAX, NUMBERS_MAX = 3, 4, 6

-- The array that functions read by an index, and those of numbers and a boolean that they capture.
local ARRAY_N = 7

local CONSTANTS = { "0", "1", "2", "3", "-1", "0.5", "-2.5", "7", "255", "1e300", "2147483648", "4294967301", "0.1", "1e-310", "100.5", "-0.0" }
local BITS = { "band", "bor", "bxor", "lshift", "rshift", "arshift", "rol", "ror" }
local ONE = { "math.floor", "math.ceil", "math.abs", "math.sqrt", "bit.tobit", "bit.bnot", "bit.bswap" }
local TWO = { "math.max", "math.min", "math.fmod" }
local INTEGERS = {
  int64 = { "0LL", "1LL", "-1LL", "7LL", "63LL", "0x9E3779B97F4A7C15LL", "(-0x7fffffffffffffffLL - 1)", "0x100000001LL" },
  uint64 = { "0ULL", "1ULL", "3ULL", "255ULL", "0x9E3779B97F4A7C15ULL", "0x8000000000000401ULL", "0xffffffffffffffffULL" },
}

--- A source of numbers below n, which follows from the seed alone.
local function dice(seed)
  local state = (seed * 7919 + 12345) % 2147483647
  return function(n)
    state = state * 16807 % 2147483647
    return state % n
  end
end

local Maker = {}
Maker.__index = Maker

function Maker:pick(list) return list[self.roll(#list) + 1] end

function Maker:line(format, ...)
  self.lines[#self.lines + 1] = ("  "):rep(self.level) .. format:format(...)
end

function Maker:new_name(prefix)
  self.n_names = self.n_names + 1
  return prefix .. self.n_names
end

--- A number, as an expression of at most that depth.
function Maker:number(depth)
  local what = depth == 0 and self.roll(3) or self.roll(18)
  if what == 0 then return self:pick(CONSTANTS) end
  if what > 15 then return ("tonumber(%s)"):format(self:integer(self:pick { "int64", "uint64" }, depth - 1)) end
  if what < 3 then return self:pick(self.numbers) end
  local a, b = self:number(depth - 1), self:number(depth - 1)
  if what < 8 then return ("(%s %s %s)"):format(a, self:pick { "+", "-", "*", "/", "%" }, b) end
  if what == 8 then return ("-(%s)"):format(a) end -- without them, -- would begin a comment
  if what == 9 then return ("%s(%s)"):format(self:pick(ONE), a) end
  if what == 10 then return ("%s(%s, %s)"):format(self:pick(TWO), a, b) end
  if what == 11 then return ("bit.%s(%s, %s)"):format(self:pick(BITS), a, b) end
  if what == 12 then return ("(%s and %s or %s)"):format(self:boolean(depth - 1), a, b) end
  if what == 13 then return ("list[%s]"):format(self:index(a)) end
  if what == 14 and #self.records > 0 then return ("%s.%s"):format(self:pick(self.records), self:pick { "a", "b" }) end
  if what == 15 and #self.helpers > 0 then return ("(%s(%s, %s))"):format(self:pick(self.helpers), a, b) end
  return self:pick(self.numbers)
end

--- A 64-bit integer of that kind.
function Maker:integer(kind, depth)
  local what = depth <= 0 and self.roll(2) or self.roll(12)
  if what == 0 or what == 1 and #self.integers[kind] == 0 then return self:pick(INTEGERS[kind]) end
  if what == 1 then return self:pick(self.integers[kind]) end
  local a = self:integer(kind, depth - 1)
  if what == 2 then return ("-(%s)"):format(a) end
  if what == 3 then return ("bit.%s(%s)"):format(self:pick { "bnot", "bswap" }, a) end
  if what == 4 then return ("bit.%s(%s, %s)"):format(self:pick { "lshift", "rshift", "arshift", "rol", "ror" }, a, self:number(depth - 1)) end
  if what == 5 then return ("(%s and %s or %s)"):format(self:boolean(depth - 1), a, self:integer(kind, depth - 1)) end
  -- beside a number, or an integer of which both together are of that kind
  local b = self.roll(2) == 0 and self:number(depth - 1) or self:integer(kind == "uint64" and self:pick { "int64", "uint64" } or kind, depth - 1)
  if self.roll(2) == 0 then a, b = b, a end
  if what < 8 then return ("bit.%s(%s, %s)"):format(self:pick { "band", "bor", "bxor" }, a, b) end
  return ("(%s %s %s)"):format(a, self:pick { "+", "-", "*", "/", "%", "^" }, b)
end

--- An index of the captured array, nearly always one that there is.
function Maker:index(a)
  if self.roll(12) == 0 then return a end
  return ("math.floor(math.abs(bit.tobit(%s))) %% %d + 1"):format(a, ARRAY_N)
end

function Maker:boolean(depth)
  local what = depth <= 0 and self.roll(2) or self.roll(8)
  if what == 0 and #self.booleans > 0 then return self:pick(self.booleans) end
  if what < 4 then
    return ("%s %s %s"):format(self:number(math.max(depth - 1, 0)), self:pick { "<", "<=", ">", ">=", "==", "~=" }, self:number(0))
  end
  if what == 4 then return ("not (%s)"):format(self:boolean(depth - 1)) end
  if what == 7 then
    local other = self:pick { "int64", "uint64", "number" }
    local b = other == "number" and self:number(depth - 1) or self:integer(other, depth - 1)
    return ("%s %s %s"):format(self:integer(self:pick { "int64", "uint64" }, depth - 1), self:pick { "<", "<=", ">", ">=", "==", "~=" }, b)
  end
  return ("((%s) %s (%s))"):format(self:boolean(depth - 1), self:pick { "and", "or" }, self:boolean(depth - 1))
end

--- Runs `body` in a block of its own: names that it declares are not seen behind it.
function Maker:inner(body)
  local kept = { numbers = self.numbers, booleans = self.booleans, assignable = self.assignable, records = self.records }
  local integers = self.integers
  for field, list in pairs(kept) do self[field] = { unpack(list) } end
  self.integers = { int64 = { unpack(integers.int64) }, uint64 = { unpack(integers.uint64) } }
  self.level, self.depth = self.level + 1, self.depth + 1
  body()
  self.level, self.depth = self.level - 1, self.depth - 1
  for field, list in pairs(kept) do self[field] = list end
  self.integers = integers
end

local statements = {}

function statements:number()
  local name = self:new_name "n"
  self:line("local %s = %s", name, self:number(3))
  table.insert(self.numbers, name)
  table.insert(self.assignable, name)
end

function statements:boolean()
  local name = self:new_name "b"
  self:line("local %s = %s", name, self:boolean(2))
  table.insert(self.booleans, name)
end

function statements:integer()
  local kind = self:pick { "int64", "uint64" }
  local known = self.integers[kind]
  if #known > 0 and (self.roll(2) == 0 or #known >= 3) then
    self:line("%s = %s", self:pick(known), self:integer(kind, 3))
    return
  end
  local name = self:new_name(kind == "int64" and "i" or "u")
  self:line("local %s = %s", name, self:integer(kind, 3))
  table.insert(known, name)
end

function statements:record()
  local name = self:new_name "r"
  self:line("local %s = { a = %s, b = %s }", name, self:number(2), self:number(1))
  table.insert(self.records, name)
end

function statements:field()
  if #self.records > 0 then self:line("%s.%s = %s", self:pick(self.records), self:pick { "a", "b" }, self:number(2)) end
end

function statements:assign()
  self:line("%s = %s", self:pick(self.assignable), self:number(3))
end

function statements:several()
  if #self.assignable < 2 then return end
  local a, b = self.assignable[1], self.assignable[#self.assignable]
  self:line("%s, %s = %s, %s", a, b, self:number(2), self:number(2))
end

statements["if"] = function(self)
  self:line("if %s then", self:boolean(2))
  self:inner(function() self:block() end)
  if self.roll(2) == 0 then
    self:line("elseif %s then", self:boolean(1))
    self:inner(function() self:block() end)
  end
  if self.roll(2) == 0 then
    self:line "else"
    self:inner(function() self:block() end)
  end
  self:line "end"
end

statements["for"] = function(self)
  local name = self:new_name "i"
  self:line("for %s = %s do", name, self:pick { "1, 3", "0, 4, 2", "3, 1, -1", "1, math.min(4, math.abs(x))", "y % 3, 3", "1, 0" })
  self:inner(function()
    table.insert(self.numbers, name)
    self.loops = self.loops + 1
    self:block()
    self.loops = self.loops - 1
  end)
  self:line "end"
end

statements["while"] = function(self)
  local name = self:new_name "k"
  self:line("local %s = 0", name)
  local is_while = self.roll(2) == 0
  self:line(is_while and ("while %s < 4 and %s do"):format(name, self:boolean(1)) or "repeat")
  self:inner(function()
    self:line("%s = %s + 1", name, name)
    table.insert(self.numbers, name)
    self.loops = self.loops + 1
    self:block()
    self.loops = self.loops - 1
  end)
  self:line(is_while and "end" or ("until %s >= 4 or %s"):format(name, self:boolean(1)))
end

statements["break"] = function(self)
  if self.loops > 0 then self:line("if %s then break end", self:boolean(1)) end
end

statements["return"] = function(self)
  self:line("if %s then return %s end", self:boolean(1), self.results())
end

-- Conversions of string.format that a device has.
local CONVERSIONS = { "%d", "%5d", "%-6d|", "%+.3d", "%i", "%x", "%#X", "%o", "%u", "%g", "%5.2f", "%.0f", "%e", "%G", "%010g", "% g", "%+g",
  "%s", "%8s", "%.3s", "%-9s|", "%q" }

--- A text with numbers: by "..", or by string.format.
function Maker:message()
  local parts = { [["wrong"]] }
  local n = 1 + self.roll(self.roll(4) == 0 and 8 or 3)
  if self.roll(2) == 0 then
    for k = 1, n do
      if self.roll(3) == 0 then parts[#parts + 1] = ("%q"):format(self:pick { ": ", " at 100% ", "%d", "" }) end
      local value = self:number(k < 4 and 1 or 0)
      parts[#parts + 1] = ("%s(%s)"):format(self.roll(3) == 0 and "tostring" or "", value)
    end
    return table.concat(parts, " .. ")
  end
  local format, values = { "wrong" }, {}
  for k = 1, n do
    format[k + 1] = self:pick(CONVERSIONS)
    values[k] = self:number(k < 4 and 1 or 0)
  end
  if self.roll(4) == 0 then
    format[#format + 1], values[#values + 1] = "%s 100%%", self:boolean(1)
    if n == 8 then table.remove(format, 2) table.remove(values, 1) end
  end
  return ("string.format(%q, %s)"):format(table.concat(format, " "), table.concat(values, ", "))
end

statements["error"] = function(self)
  local how = self.roll(6)
  if how == 0 then self:line('if %s then error("wrong: " .. %s) end', self:boolean(2), self:pick(self.numbers)) end
  if how == 1 then self:line("if %s then error(%s%s) end", self:boolean(2), self:message(), self:pick { "", "", ", 0", ", 1", ", 2" }) end
  if how == 2 then self:line("assert(%s, %s)", self:boolean(2), self:message()) end
end

local KINDS = {}
for kind in pairs(statements) do KINDS[#KINDS + 1] = kind end
table.sort(KINDS)

function Maker:block()
  for _ = 1, 1 + self.roll(STATEMENTS_MAX) do
    local kind = self:pick(KINDS)
    local nests = kind == "if" or kind == "for" or kind == "while"
    if nests and self.depth >= DEPTH_MAX or #self.numbers >= NUMBERS_MAX and (kind == "number" or kind == "record") then kind = "assign" end
    statements[kind](self)
  end
end

--- A function of x and y, whose results are `results()`.
function Maker:body(header, footer, results)
  local outer = self.results
  self.numbers, self.assignable, self.booleans, self.records = { "x", "y", "captured" }, { "x" }, { "flag" }, {}
  self.integers = { int64 = {}, uint64 = {} }
  self.results, self.loops, self.depth = results, 0, 0
  self:line(header)
  self:inner(function()
    self:block()
    self:block()
    self:line("return %s", results())
  end)
  self:line(footer)
  self.results = outer
end

--- The text of a chunk that is called with an array, a number and a boolean, and returns a function
--- of two numbers.
---@param seed integer
---@return string
function fuzz.make(seed)
  local self = setmetatable({ roll = dice(seed), lines = {}, level = 0, n_names = 0, helpers = {} }, Maker)
  self:line "local list, captured, flag = ..."
  for _ = 1, self.roll(3) do
    local name = self:new_name "h"
    self:body(("local function %s(x, y)"):format(name), "end", function() return self:number(2) end)
    table.insert(self.helpers, name)
  end
  self:body("return function(x, y)", "end", function()
    return ("%s, %s, %s"):format(self:number(2), self:number(1), self:boolean(1))
  end)
  return table.concat(self.lines, "\n")
end

local EXACT = setmetatable({}, { __index = function() return true end })

--- Tries the functions of `count` seeds from `first` on. Gives how many were translated, and a list
--- of what is wrong.
---@param device table  of tests/support_opencl.lua
---@return integer
---@return string[]
function fuzz.try(device, first, count)
  local opencl = require "tests.support_opencl"
  local translate = require "tidepool.translate.translate".translate
  local tried, wrong = 0, {}
  for seed = first, first + count - 1 do
    local text = fuzz.make(seed)
    local list = opencl.array("double", { 1, -2.5, 0 / 0, 1e300, 5, -0.0, 2 ^ 31 })
    local fn = assert(loadstring(text, CHUNK))(list, 1.75, seed % 2 == 0)
    for _, lanes in ipairs { 1, 8 } do
      local fine, made = pcall(translate, fn, { lanes = lanes, name = "f", text_of = function() return text end })
      local always_fails = not fine and made:find("it returns nothing", 1, true) -- which is refused
      local why = not fine and not always_fails and made or nil
      if fine then
        local ran, trouble = pcall(device.difference, device, fn, EXACT, made)
        tried, why = tried + 1, trouble
        if ran and not trouble then why = nil end
      end
      if why then wrong[#wrong + 1] = ("seed %d: %s\n%s"):format(seed, tostring(why), text) end
    end
  end
  return tried, wrong
end

if arg and arg[0] and arg[0]:find "translate_fuzz" then
  require "tidepool"
  local device, none = require("tests.support_opencl").open()
  assert(device, none)
  local first, count = tonumber(arg[1]) or 1, tonumber(arg[2]) or 100
  local tried, wrong = fuzz.try(device, first, count)
  for _, each in ipairs(wrong) do print(each .. "\n") end
  print(("%d translations ran, %d are wrong"):format(tried, #wrong))
  os.exit(#wrong == 0)
end

return fuzz
