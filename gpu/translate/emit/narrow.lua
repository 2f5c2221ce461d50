-- narrow.lua: integers that are computed with 32 bits.
--
-- Those of kind "long" that lie in a range are: on a card an operation with 64 bits is two to four
-- instructions. Such a value's text is an int, and its `range` its least and greatest value;
-- Emitter:as makes a long of it.

local emitter = require "tidepool.translate.emit.emitter"

local Emitter, integer_text = emitter.Emitter, emitter.integer_text

-- The value's text as an int; nil when it may not fit.
function Emitter:narrow(value)
    if value.range then return value.c end
    local v = value.literal
    if v and v == math.floor(v) and math.abs(v) < 2 ^ 31 then return integer_text(v, false) end
end

-- The least and the greatest value of an integer.
function Emitter:range_of(value)
    if value.range then return unpack(value.range) end
    if self:narrow(value) then return value.literal, value.literal end
end

-- An integer with that text, which is an int.
function Emitter:int(c, low, high)
    return { c = c, kind = "long", varies = false, range = { low, high } }
end

-- C's type for a variable that has the value.
function Emitter:type_of(value)
    return value.range and "int" or self:type(value.kind, value.varies)
end
