--- What a worker's state has besides: print through the host, no os.exit, quiet finalizers; and what vm.c calls here.

local core = require "tidepool.core"

local worker = {}

-- The library proper is loaded when an item needs it: an idle worker stays small.
local function lazy(name)
  return function(...) return require "tidepool.describe"[name](...) end
end
local message_of, traceback_of = lazy "message", lazy "traceback"

print = core.print
local files = getmetatable(io.stdout).__index
files.write = core.writer(files.write)
io.write = core.writer(io.write, io.output) -- luacheck: globals io.write
os.execute = core.execute

--- os.exit is an error of the input that calls it: the host lives on.
function os.exit(code)
  local shown = code == nil and "" or tostring(code)
  error(("os.exit(%s) called in a worker"):format(shown), 2)
end

-- Stock LuaJIT throws a finalizer's error out of whatever code happens to run the collector (newproxy), or swallows it (ffi.gc).
-- Here it is one line on stderr per worker.
local has_warned = false
local function guard(finalizer)
  if type(finalizer) ~= "function" then return finalizer end
  return function(object)
    local fine, why = pcall(finalizer, object)
    if not fine and not has_warned then
      has_warned = true
      local _, _, _, index = core.current()
      core.warn(("tidepool: worker %d: error in a finalizer: %s\n"):format(index or 0, tostring(why)))
    end
  end
end

local new_proxy = newproxy
local watch_gc = {
  __newindex = function(meta, key, value) rawset(meta, key, key == "__gc" and guard(value) or value) end,
}
function newproxy(meta) -- luacheck: globals newproxy
  local proxy = new_proxy(meta)
  if meta == true then setmetatable(getmetatable(proxy), watch_gc) end
  return proxy
end

local ffi = require "ffi"
local ffi_gc = ffi.gc
function ffi.gc(object, finalizer) return ffi_gc(object, guard(finalizer)) end

--- (kind, error, attempt, worker) -> kind, message, value, traceback, attempts, worker: what a failure block says. The error is
--- { value, traceback } when the function raised it, a text when the host did.
function worker.describe(kind, raised, attempt, index)
  if type(raised) ~= "table" then return kind, tostring(raised), nil, nil, attempt, index end
  local value, traceback = require "tidepool.describe".value(raised[1]), raised[2]
  if type(value) == "string" and value:find "^tidepool/[%w_./]+:%d+: not enough memory$" then -- in code of ours
    return "memory", "not enough memory", nil, nil, attempt, index
  end
  -- What a device could not do for a function that drives it is not the function's error.
  local failure = package.loaded["tidepool.failure"]
  if failure and failure.is_failure(value) and rawget(value, "kind") == "device" and not rawget(value, "index") then
    kind, value = "device", rawget(value, "message")
  end
  return kind, message_of(value), value, traceback and traceback_of(traceback), attempt, index
end

--- (slice): waits for what its items have spawned and left.
function worker.finish_kept(slice)
  require "tidepool.loop".finish_kept(slice)
end

-- ---- columns ----

local c_types = { "double", "float", "int8_t", "uint8_t", "int16_t", "uint16_t", "int32_t", "uint32_t", "int64_t", "uint64_t" }

local MIXED = #c_types -- TP_MIXED

local function pointer_to(number)
  return number == MIXED and require "tidepool.mixed".scalars or ffi.typeof(c_types[number + 1] .. " *")
end

-- The loop that runs a slice of columns. One per function and signature, made from text, so that LuaJIT compiles each for itself.
-- ctl[cursor] tells which item runs; `cursor` is always 0, but unknown to the compiler, which then must assume that the store may change
-- ctl[1] and reads that flag anew for each item instead of once (LuaJIT ignores volatile).
local driver = [[
local $NAME, select, type, cast, ctl_type, columns_type, text_type, in_types, out_types, band, bits, load, store = ...
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
    if ctl[1] ~= 0 then return i end
    ctl[cursor] = i
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

-- Not a table of its words: a state would make it, and compile the loop that does, before its first item.
local function is_in_driver(name)
  return driver:find("%f[%w_]" .. name .. "%f[^%w_]") ~= nil
end

--- "x1, x2, x3" and the like.
local function each(n, format, separator)
  local parts = {}
  for c = 1, n do parts[c] = (format:gsub("#", tostring(c))) end
  return table.concat(parts, separator or ", ")
end

-- How the results of an item are stored, all of them or, when one does not fit, in a way that does not count.
local function store_text(outs)
  if #outs == 0 then return "return true" end
  if outs:byte(1) - ("0"):byte() ~= MIXED then
    return ("if %s then %s return true end"):format(each(#outs, 'type(r#) == "number"', " and "), each(#outs, "o#[i] = r#", " "))
  end
  return each(#outs, [[
    if count < # then
      o#[i].kind = 0
    elseif not store(o#[i], out_text, r#) then
      held = { n = count, $RESULTS } -- not of `...`: see interpret.lua
      return false
    end]], " "):gsub("%$RESULTS", each(#outs, "r#")) .. " return true"
end

-- How an item's value is loaded, by the character of its column in a signature: plainly, or, from arrays that others may write (bits.lua), with a
-- look at its exponent.
local function load_text(c, number, is_foreign)
  local text = "local x# = s#[i]"
  if number == MIXED then
    text = "local x# = load(s#[i], in_text)"
  elseif is_foreign and number == 0 then
    text = [[local x# if band(w#[2 * i + 1], 0x7ff00000) == 0x7ff00000 then
      x# = bits.special_double(w#[2 * i + 1], w#[2 * i]) else x# = s#[i] end]]
  elseif is_foreign and number == 1 then
    text = "local x# if band(w#[i], 0x7f800000) == 0x7f800000 then x# = bits.special_float(w#[i]) else x# = s#[i] end"
  end
  return (text:gsub("#", tostring(c)))
end

--- (function, its name, signature) -> driver(ctl, columns of inputs, their text, columns of results, their text, base, from, to) -> the next
--- item, and the results { n = ... } of that item if they were not what the signature says, or had no room. The signature is of vm.c: per input the
--- type of its column, as a digit in blocks of ours (":" for scalars) and as a letter from "a" in typed arrays; then ">" and the same per
--- result, or "-" when results are not kept. The results of item `base` go to the first element of their columns.
function worker.make_driver(fn, name, signature)
  -- Tracebacks call a function by the variable that it is called through.
  local is_usable = name:find "^[%a_][%w_]*$" and not is_in_driver(name) and not name:find "^[xiostwr]%d*$"
  if not is_usable or not loadstring("local " .. name) then name = "mapped" end
  local mixed = require "tidepool.mixed"
  local ins, outs = signature:match "^([%w:]+)[>-]([%d:]*)$"
  local in_types, out_types, loads = {}, {}, {}
  for c = 1, #ins do
    local is_foreign = ins:sub(c, c):find "%a" ~= nil
    local number = ins:byte(c) - (is_foreign and ("a"):byte() or ("0"):byte())
    in_types[c] = pointer_to(number)
    loads[c] = load_text(c, number, is_foreign)
  end
  for c = 1, #outs do out_types[c] = pointer_to(outs:byte(c) - ("0"):byte()) end
  local is_mixed = outs:sub(1, 1) == ":"
  local call = ("%s(%s)"):format(name, each(#ins, "x#"))
  local text = driver:gsub("%$(%u+)", {
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
  local chunk = assert(loadstring(text, "=tidepool/driver"))
  return chunk(fn, select, type, ffi.cast, ffi.typeof "int32_t *", ffi.typeof "void **", mixed.text, in_types, out_types,
    require "bit".band, require "tidepool.bits", mixed.load, mixed.store)
end

--- (column, index from 0, whether signed) -> the 64-bit integer there, as cdata
function worker.read_integer(column, at, is_signed)
  return ffi.cast(pointer_to(is_signed and 8 or 9), column)[at]
end

--- (results { n = ... }, type numbers, count) -> { the error value }: why these are not what `returns` says.
function worker.broken_promise(held, numbers, count)
  numbers = ffi.cast("uint8_t *", numbers)
  local promised, given = {}, {}
  for c = 1, count do promised[c] = require "tidepool.array".types[numbers[c - 1] + 1] end
  for c = 1, held.n do given[c] = held[c] == nil and "nil" or type(held[c]) end
  return { ("it returned %s, but returns = %s"):format(held.n == 0 and "nothing" or table.concat(given, ", "),
    count == 1 and ("%q"):format(promised[1]) or '{ "' .. table.concat(promised, '", "') .. '" }') }
end

--- (columns, type numbers, count, results...): stores the results of one item; gives { the error value } when they are not what was promised.
function worker.store(columns, numbers, count, ...)
  local held = { n = select("#", ...), ... }
  local is_right = held.n == count
  for c = 1, count do is_right = is_right and type(held[c]) == "number" end
  if not is_right then return worker.broken_promise(held, numbers, count) end
  columns, numbers = ffi.cast("void **", columns), ffi.cast("uint8_t *", numbers)
  for c = 1, count do ffi.cast(pointer_to(numbers[c - 1]), columns[c - 1])[0] = held[c] end
  return nil
end

return worker
