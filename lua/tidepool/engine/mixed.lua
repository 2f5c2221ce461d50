--- Columns of scalars: numbers, strings, booleans and nil side by side (TP_MIXED in
-- host/codec/block.h), for loops that LuaJIT compiles.

local abi = require "tidepool.base.abi"
local ffi = require "ffi"

local copy, string_of = ffi.copy, ffi.string

local mixed = { scalars = ffi.typeof(abi.scalar_struct .. " *"), text = ffi.typeof(abi.text_struct .. " *") }

local kinds = abi.scalar
local ABSENT, NIL, FALSE, TRUE = kinds.ABSENT, kinds.NIL, kinds.FALSE, kinds.TRUE
local NUMBER, STRING, PINNED, SHARED = kinds.NUMBER, kinds.STRING, kinds.PINNED, kinds.SHARED
local LONGEST, LONGEST_PINNED = abi.TEXT_STRING_MAX, abi.STRING_MAX

--- Can a column of scalars hold x?
function mixed.fits(x)
  local kind = type(x)
  return kind == "number" or kind == "boolean" or kind == "nil" or (kind == "string" and #x <= LONGEST)
end

--- Is x a string that is pinned and not copied?
function mixed.is_pinned(x)
  return type(x) == "string" and #x > LONGEST and #x <= LONGEST_PINNED
end

--- The value of an element.
local function load(element, text)
  local kind = element.kind
  if kind == NUMBER then return element.number end
  if kind == STRING then return string_of(text.bytes + element.at, element.length) end
  if kind == TRUE then return true end
  if kind == FALSE then return false end
  if kind == PINNED then return string_of(element.pinned, element.pinned_length) end
  if kind == SHARED then -- see there
    local length = element.pinned_length
    return string_of(string_of(element.pinned, length), length)
  end
  return nil
end
mixed.load = load

--- Writes a value to an element; false when x is no scalar, or the text is full.
local function store(element, text, x)
  local kind = type(x)
  if kind == "number" then
    element.number = x
    element.kind = NUMBER
  elseif kind == "string" then
    local used, length = text.used, #x
    if length > LONGEST or used + length > text.capacity then return false end
    copy(text.bytes + used, x, length)
    text.used = used + length
    element.at = used
    element.length = length
    element.kind = STRING
  elseif x == nil then
    element.kind = NIL
  elseif x == true then
    element.kind = TRUE
  elseif x == false then
    element.kind = FALSE
  else
    return false
  end
  return true
end
mixed.store = store

--- Copies list[first..] into n elements, up to the first value that does not fit. Returns how many,
--- and whether all were numbers. Long strings are added to the list `pinned`, if there is one; it
--- must be kept alive.
function mixed.copy_in(list, first, n, elements, text, pinned)
  local numbers = 0
  for k = 0, n - 1 do
    local x = list[first + k]
    if type(x) == "number" then
      elements[k].number = x
      elements[k].kind = NUMBER
      numbers = numbers + 1
    elseif not store(elements[k], text, x) then
      if not (pinned and mixed.is_pinned(x)) then return k, numbers == k end
      pinned[#pinned + 1] = x
      elements[k].pinned = x
      elements[k].pinned_length = #x
      elements[k].kind = PINNED
    end
  end
  return n, numbers == n
end

--- Copies elements from..n-1 into list[first + from..]; absent ones are left as they are.
function mixed.copy_out(list, first, from, n, elements, text)
  for k = from, n - 1 do
    local x = load(elements[k], text)
    if x ~= nil then list[first + k] = x end
  end
end

--- The first of the elements from..n-1 that is not absent; n when all are.
function mixed.find(from, n, elements)
  for k = from, n - 1 do
    if elements[k].kind ~= ABSENT then return k end
  end
  return n
end

return mixed
