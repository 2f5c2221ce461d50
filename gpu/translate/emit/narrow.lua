-- narrow.lua: integers that are computed with 32 bits.
--
-- Those of kind "long" that lie in a range are: on a card an operation with 64 bits is two to four
-- instructions. Such a value's text is an int, and its `range` its least and greatest value;
-- Emitter:as makes a long of it.

local emitter = require "tidepool.translate.emit.emitter"
local infer = require "tidepool.translate.infer"
local trees = require "tidepool.translate.trees"

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

-- Up to here numbers of the script's are limits of loops with 32 bits: a loop that counts further
-- takes seconds by itself.
local SMALL = 2 ^ 30

local function is_small(value) return type(value) == "number" and math.abs(value) <= SMALL end

-- Is what stands for this number of the script's small as of now? That becomes part of the code,
-- which is made again when it has changed.
local function stays_small(self, static)
    if not is_small(static.value) then return false end
    self.unit.program.baked[static.key .. " is small"] = { path = static.path, value = true,
        read = function() return is_small(static.read()) end }
    return true
end

-- The least and the greatest value that a loop's start or limit can have as an integer, where more
-- is known than its text says: it is a captured number, or one with a minus, or the length of a
-- captured list, or lower.lua has bounded it. `range`: what that has found.
function Emitter:bounds(node, range)
    node = trees.bare(node)
    if node.tag == "Unop" and node.op == "-" then node = trees.bare(node.expr) end
    local length = node.tag == "Unop" and self.inst.lengths[node]
    local static = length or infer.static_of(self.inst, node)
    if static and not static.nested and type(static.value) == "number" then
        if stays_small(self, static) then return -SMALL, SMALL end
    elseif range and range[1] >= -SMALL and range[2] <= SMALL then
        return -SMALL, SMALL
    end
end

-- C's type for a variable that has the value.
function Emitter:type_of(value)
    return value.range and "int" or self:type(value.kind, value.varies)
end
