--- Gives the bytecode of a chunk back what LuaJIT's dump loses: the room that tables are made with;
-- and the same bytes each time: a dump has a template's keys in their table's order, a random one.
--
-- A constructor like { job = job, k = 0 } copies a template, which has a place for each key.
-- LuaJIT's bytecode writer leaves out those keys of a template whose value is not a constant, so
-- that a table made by loaded bytecode grows step by step as its fields are set: 1, 2, 4, ...
-- places. (Growing tables was a fifth of the instructions of a map of one input.) The reader takes
-- keys with nil as value; so they are put back here. (LuaJIT of Debian 13 writes some of them, not
-- the same ones each time: those are left out first.) Where there is no template, as for {} with
-- fields set later on, the instruction that makes the table gets the number of its places.
--
-- The format is that of lj_bcdump.h of LuaJIT 2.1; a dump of another one is given back as it is.

local bit = require "bit"
local vmdef = require "jit.vmdef"

local IS_BIG_ENDIAN, IS_STRIPPED = 1, 2
-- kinds of constants, and of keys and values of templates; from STRING on the length of a string
local CONSTANT = { CHILD = 0, TABLE = 1, COMPLEX = 4, STRING = 5 }
local VALUE = { NIL = 0, INTEGER = 3, NUMBER = 4, STRING = 5 }
local NIL = string.char(VALUE.NIL) -- a value of a template
-- how many keys are added to a template at most
local MOST = 32

local function opcode(name)
  return (vmdef.bcnames:find((name .. "      "):sub(1, 6), 1, true) - 1) / 6
end

local TDUP, TNEW, TSETS = opcode "TDUP", opcode "TNEW", opcode "TSETS"
-- instructions that write registers from their operand A on
local writes_from = { [opcode "KNIL"] = true, [opcode "VARG"] = true }
-- those that write A alone: the moves, operations and constants up to UGET, upvalues, globals, and
-- fields that are read
for _, range in ipairs { { "ISTC", "ISFC" }, { "MOV", "KPRI" }, { "UGET", "UGET" }, { "FNEW", "GGET" }, { "TGETV", "TGETR" } } do
  for op = opcode(range[1]), opcode(range[2]) do writes_from[op] = writes_from[op] or false end
end
for _, range in ipairs { { "CALLM", "ISNEXT" }, { "RETM", "JLOOP" } } do
  for op = opcode(range[1]), opcode(range[2]) do writes_from[op] = true end
end

local function uleb(n)
  local bytes = {}
  while n >= 128 do
    bytes[#bytes + 1] = string.char(n % 128 + 128)
    n = math.floor(n / 128)
  end
  bytes[#bytes + 1] = string.char(n)
  return table.concat(bytes)
end

--- Reads text from a position on; each method returns what it has read.
local Reader = {}
Reader.__index = Reader

function Reader:byte()
  self.at = self.at + 1
  return self.text:byte(self.at - 1)
end

function Reader:bytes(n)
  self.at = self.at + n
  return self.text:sub(self.at - n, self.at - 1)
end

function Reader:uleb()
  local n, factor = 0, 1
  while true do
    local b = self:byte()
    n = n + b % 128 * factor
    if b < 128 then return n end
    factor = factor * 128
  end
end

--- The bytes of a key or value of a template.
function Reader:value()
  local from, kind = self.at, self:uleb()
  if kind >= VALUE.STRING then self.at = self.at + kind - VALUE.STRING end
  if kind == VALUE.INTEGER or kind == VALUE.NUMBER then self:uleb() end
  if kind == VALUE.NUMBER then self:uleb() end
  return self.text:sub(from, self.at - 1)
end

--- A constant: { text = its bytes }, or { string = ... } too, or { array = count, values = bytes,
--- keys, pairs = bytes of the pairs } of a template.
function Reader:constant()
  local from, kind = self.at, self:uleb()
  local one = {}
  if kind >= CONSTANT.STRING then
    one.string = self:bytes(kind - CONSTANT.STRING)
  elseif kind == CONSTANT.TABLE then
    local n_array, n_hash = self:uleb(), self:uleb()
    local values = self.at
    for _ = 1, n_array do self:value() end
    one.array, one.values = n_array, self.text:sub(values, self.at - 1)
    one.keys, one.pairs, one.n = {}, {}, 0
    for _ = 1, n_hash do
      local key, value = self:value(), self:value()
      if value ~= NIL then
        one.n = one.n + 1
        one.keys[key], one.pairs[one.n] = true, key .. value
      end
    end
  elseif kind ~= CONSTANT.CHILD then
    for _ = 1, kind == CONSTANT.COMPLEX and 4 or 2 do self:uleb() end
  end
  one.text = self.text:sub(from, self.at - 1)
  return one
end

--- The keys that the code after pc sets in the table that is made in a register there.
local function keys_after(code, pc, register, constants)
  local keys, n = {}, 0
  for i = pc + 1, #code do
    local op, a, b = code[i].op, code[i].a, code[i].b
    local range = writes_from[op]
    if (range == false and a == register) or (range and a <= register) or n >= MOST then break end
    if (op == TDUP or op == TNEW) and a == register then break end
    if op == TSETS and b == register then
      local key = constants[#constants - code[i].c].string
      local encoded = uleb(#key + VALUE.STRING) .. key
      if not keys[encoded] then
        n = n + 1
        keys[encoded], keys[n] = true, encoded
      end
    end
  end
  return keys
end

local function complete(template, keys)
  for _, key in ipairs(keys) do
    if not template.keys[key] then
      template.n = template.n + 1
      template.keys[key], template.pairs[template.n] = true, key .. NIL
    end
  end
  table.sort(template.pairs)
  template.text = uleb(CONSTANT.TABLE) .. uleb(template.array) .. uleb(template.n) .. template.values .. table.concat(template.pairs)
end

--- The same function, in bytes.
local function rewrite(bytes, is_stripped)
  local from = setmetatable({ text = bytes, at = 1 }, Reader)
  local flags = from:bytes(4)
  local n_upvalues = flags:byte(4)
  local n_constants, n_numbers, n_code = from:uleb(), from:uleb(), from:uleb()
  local lines = ""
  if not is_stripped then
    local n_debug = from:uleb()
    local start = from.at
    if n_debug > 0 then
      from:uleb()
      from:uleb()
    end
    lines = uleb(n_debug) .. bytes:sub(start, from.at - 1)
  end
  local code, constants = {}, {}
  for i = 1, n_code do
    local op, a, c, b = from:bytes(4):byte(1, 4)
    code[i] = { op = op, a = a, b = b, c = c }
  end
  local upvalues = from:bytes(2 * n_upvalues)
  for i = 1, n_constants do constants[i] = from:constant() end
  local rest = from.text:sub(from.at)
  for pc, one in ipairs(code) do
    if one.op == TDUP then
      complete(constants[n_constants - (one.c + 256 * one.b)], keys_after(code, pc, one.a, constants))
    elseif one.op == TNEW then
      local n = #keys_after(code, pc, one.a, constants)
      local bits = bit.rshift(one.b, 3)
      while n > 0 and 2 ^ bits < n do bits = bits + 1 end
      one.b = bit.bor(bit.lshift(bits, 3), bit.band(one.b, 7))
    end
  end
  local parts = { flags, uleb(n_constants), uleb(n_numbers), uleb(n_code), lines }
  for _, one in ipairs(code) do parts[#parts + 1] = string.char(one.op, one.a, one.c, one.b) end
  parts[#parts + 1] = upvalues
  for _, one in ipairs(constants) do parts[#parts + 1] = one.text end
  parts[#parts + 1] = rest
  return table.concat(parts)
end

--- The bytecode of a chunk, from string.dump, with its templates completed.
return function(dump)
  if dump:sub(1, 4) ~= "\27LJ\2" then return dump end
  local from = setmetatable({ text = dump, at = 5 }, Reader)
  local flags = from:uleb()
  if bit.band(flags, IS_BIG_ENDIAN) ~= 0 then return dump end
  local is_stripped = bit.band(flags, IS_STRIPPED) ~= 0
  if not is_stripped then from:bytes(from:uleb()) end
  local parts = { dump:sub(1, from.at - 1) }
  while true do
    local length = from:uleb()
    if length == 0 then break end
    local one = rewrite(from:bytes(length), is_stripped)
    parts[#parts + 1] = uleb(#one) .. one
  end
  parts[#parts + 1] = "\0"
  return table.concat(parts)
end
