--- Specialised loops, which run a slice of columns of inputs and results, and what host/workers/vm
--- asks about such columns. A worker loads this with its first columns.

local abi = require "tidepool.base.abi"
local ffi = require "ffi"

local specialise = {}

local DOUBLE, FLOAT, INT64, UINT64, MIXED = abi.type.DOUBLE, abi.type.FLOAT, abi.type.INT64, abi.type.UINT64, abi.type.MIXED
local ABSENT = abi.scalar.ABSENT
local int64, uint64 = ffi.typeof "int64_t", ffi.typeof "uint64_t"

--- Is it a number, or a 64-bit integer? Columns of such integers take both.
local function is_integer(x)
  return type(x) == "number" or type(x) == "cdata" and (ffi.istype(int64, x) or ffi.istype(uint64, x))
end

local function is_number(x) return type(x) == "number" end

local function is_wide(number) return number == INT64 or number == UINT64 end

local function pointer_to(number)
  return number == MIXED and require "tidepool.engine.mixed".scalars or ffi.typeof(abi.c_types[number + 1] .. " *")
end

-- Characters of signatures: see host/codec/block.h.
local OWN, FOREIGN = abi.sign.OWN:byte(), abi.sign.FOREIGN:byte()

--- Reads a signature: the types of the inputs' columns, whether each lies in an array that others
--- may write, and the types of the results' columns.
local function read_signature(signature)
  local ins, are_foreign, outs = {}, {}, {}
  local list = ins
  for c = 1, #signature do
    local sign = signature:sub(c, c)
    if sign == abi.sign.KEPT or sign == abi.sign.DROPPED then
      list = outs
    else
      local code = sign:byte()
      local is_foreign = code >= FOREIGN
      if list == ins then are_foreign[#ins + 1] = is_foreign end
      list[#list + 1] = code - (is_foreign and FOREIGN or OWN)
    end
  end
  return ins, are_foreign, outs
end

-- The loop that runs a slice of columns. There is one for each function and signature, made from
-- text, so that LuaJIT compiles each by itself. ctl[cursor] says which item runs. `cursor` is
-- always 0, but the compiler does not know that: it must assume that the store may change ctl[1],
-- and so reads that flag again for each item (LuaJIT ignores volatile), and behind the store: see
-- tp_work.ctl.
local template = [[
local $NAME, select, type, cast, ctl_type, columns_type, text_type, in_types, out_types, band, bits, load, store, is_integer = ...
local held
local function hold(...)
  held = { n = select("#", ...), ... }
  return false
end
local function keep(i, $OUTS ...)
  local count = select("#", ...)
  if $FITS then
    local $RESULTS = ...
    $STORES
  end
  return hold(...)
end
local function loop(ctl, cursor, from, to, $COLUMNS)
  for i = from, to - 1 do
    ctl[cursor] = i
    if ctl[1] ~= 0 then return i end
    $LOADS
    $RUN
  end
  return to
end
return function(ctl, ins, in_text, outs, out_text, base, from, to)
  held = nil
  ins, outs = cast(columns_type, ins), cast(columns_type, outs)
  in_text, out_text = cast(text_type, in_text), cast(text_type, out_text)
  local next = loop(cast(ctl_type, ctl), 0, from, to, $CASTS)
  return next, held
end
]]

-- Does the template use this name? Searches the text itself, since a table of its words would have
-- to be made in each state before its first item.
local function is_in_loop(name)
  return template:find("%f[%w_]" .. name .. "%f[^%w_]") ~= nil
end

--- "x1, x2, x3" and the like.
local function each(n, format, separator)
  local parts = {}
  for c = 1, n do parts[c] = (format:gsub("#", tostring(c))) end
  return table.concat(parts, separator or ", ")
end

-- The text that stores an item's results: either all of them, or, when one does not fit, in a way
-- that does not count.
local function store_text(outs)
  if #outs == 0 then return "return true" end
  if outs[1] ~= MIXED then
    local checks = {}
    for c, number in ipairs(outs) do checks[c] = (is_wide(number) and "is_integer(r%d)" or 'type(r%d) == "number"'):format(c) end
    return ("if %s then %s return true end"):format(table.concat(checks, " and "), each(#outs, "o#[i] = r#", " "))
  end
  return each(#outs, [[
    if count < # then
      o#[i].kind = $ABSENT
    elseif not store(o#[i], out_text, r#) then
      held = { n = count, $RESULTS } -- not of `...`: see interpret.lua
      return false
    end]], " "):gsub("%$(%u+)", { RESULTS = each(#outs, "r#"), ABSENT = ABSENT }) .. " return true"
end

-- The text that loads a value of an item, by the type of its column. From arrays that others may
-- write, doubles are loaded after a look at their exponent (see bits.lua, whose functions and
-- numbers the text is given).
local function load_text(c, number, is_foreign)
  local text = "local x# = s#[i]"
  if number == MIXED then
    text = "local x# = load(s#[i], in_text)"
  elseif is_foreign and number == DOUBLE then
    local exponent = require "tidepool.base.bits".DOUBLE_EXPONENT
    text = ([[local x# if band(w#[2 * i + 1], %d) == %d then
      x# = bits.special_double(w#[2 * i + 1], w#[2 * i]) else x# = s#[i] end]]):format(exponent, exponent)
  elseif is_foreign and number == FLOAT then
    local exponent = require "tidepool.base.bits".FLOAT_EXPONENT
    text = ("local x# if band(w#[i], %d) == %d then x# = bits.special_float(w#[i]) else x# = s#[i] end"):format(exponent, exponent)
  end
  return (text:gsub("#", tostring(c)))
end

--- (function, its name, signature) -> specialised loop(ctl, columns of inputs, their text, columns
--- of results, their text, base, from, to) -> the next item; and the results { n = ... } of that
--- item if they were not what the signature says, or there was no room for them. The results of
--- item `base` go to the first element of their columns.
function specialise.make(fn, name, signature)
  -- Tracebacks name a function after the variable through which it is called.
  local is_usable = name:find "^[%a_][%w_]*$" and not is_in_loop(name) and not name:find "^[xiostwr]%d*$"
  if not is_usable or not loadstring("local " .. name) then name = "mapped" end
  local mixed = require "tidepool.engine.mixed"
  local ins, are_foreign, outs = read_signature(signature)
  local in_types, out_types, loads = {}, {}, {}
  for c, number in ipairs(ins) do
    in_types[c] = pointer_to(number)
    loads[c] = load_text(c, number, are_foreign[c])
  end
  for c, number in ipairs(outs) do out_types[c] = pointer_to(number) end
  local is_mixed = outs[1] == MIXED
  local call = ("%s(%s)"):format(name, each(#ins, "x#"))
  local text = template:gsub("%$(%u+)", {
    NAME = name,
    OUTS = each(#outs, "o#, ", "") .. (is_mixed and "out_text, " or ""),
    FITS = ("count %s %d"):format(is_mixed and "<=" or "==", #outs),
    RESULTS = #outs > 0 and each(#outs, "r#") or "_",
    STORES = store_text(outs),
    COLUMNS = each(#ins, "s#, w#, ", "") .. "in_text, " .. each(#outs, "o#, ", "") .. "out_text",
    LOADS = table.concat(loads, " "),
    RUN = #outs == 0 and call or ("if not keep(i, %s%s%s) then return i end"):format(each(#outs, "o#, ", ""),
      is_mixed and "out_text, " or "", call),
    CASTS = each(#ins, "cast(in_types[#], ins[# - 1]), cast(ctl_type, ins[# - 1]), ", "") .. "in_text, "
      .. each(#outs, "cast(out_types[#], outs[# - 1]) - base, ", "") .. "out_text",
  })
  local chunk = assert(loadstring(text, "=" .. abi.CHUNKS .. "specialised"))
  return chunk(fn, select, type, ffi.cast, ffi.typeof "int32_t *", ffi.typeof "void **", mixed.text, in_types, out_types,
    require "bit".band, require "tidepool.base.bits", mixed.load, mixed.store, is_integer)
end

--- (column, index from 0, whether signed) -> the 64-bit integer there, as cdata
function specialise.read_integer(column, at, is_signed)
  return ffi.cast(pointer_to(is_signed and INT64 or UINT64), column)[at]
end

--- (function, results { n = ... }, type numbers, count) -> { an error value }, which says why these
--- are not what `returns` promises. The function is over, so its beginning is the place.
function specialise.broken_promise(fn, held, numbers, count)
  numbers = ffi.cast("uint8_t *", numbers)
  local promised, given = {}, {}
  for c = 1, count do promised[c] = abi.types[numbers[c - 1] + 1] end
  for c = 1, held.n do given[c] = require "tidepool.base.check".kind(held[c]) end
  local place = require "tidepool.base.describe".place_of(fn)
  return { ("%sit returned %s, but returns = %s"):format(place, held.n == 0 and "nothing" or table.concat(given, ", "),
    count == 1 and ("%q"):format(promised[1]) or '{ "' .. table.concat(promised, '", "') .. '" }') }
end

--- (function, columns, type numbers, count, results...): stores the results of one item; returns
--- { an error value } when they are not what was promised.
function specialise.store(fn, columns, numbers, count, ...)
  local held = { n = select("#", ...), ... }
  local is_right = held.n == count
  columns, numbers = ffi.cast("void **", columns), ffi.cast("uint8_t *", numbers)
  for c = 1, count do is_right = is_right and (is_wide(numbers[c - 1]) and is_integer or is_number)(held[c]) end
  if not is_right then return specialise.broken_promise(fn, held, numbers, count) end
  for c = 1, count do ffi.cast(pointer_to(numbers[c - 1]), columns[c - 1])[0] = held[c] end
  return nil
end

return specialise
