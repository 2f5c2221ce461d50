-- arrays.lua: which values of the host are arrays on a device: typed arrays, plain lists of
-- numbers, and the numbers that a list of plain tables has at a key.

local wide = require "tidepool.translate.wide"

local arrays = {}

-- The kind of an array's elements, by their type.
local TYPES = {
    double = "num", float = "num", uint32 = "num", int32 = "int", int16 = "int", int8 = "int", uint16 = "int", uint8 = "int",
    int64 = "int64", uint64 = "uint64",
}
arrays.TYPES = TYPES

---What makes a captured value a typed array: ctype, n and data.
---@return string? ctype
function arrays.array_type(value)
    local kind = type(value)
    if kind ~= "table" and kind ~= "userdata" and kind ~= "cdata" then return end
    -- who asks an array for `data` may write to it; tests have arrays that have nothing else
    local ok, ctype, n, data = pcall(function() return value.ctype, value.n or #value, value.elements or value.data end)
    if ok and TYPES[ctype] and type(n) == "number" and data ~= nil then return ctype end
end

---Whether a value has fields that can be read: a table, or a userdata that is made of them, as
---buffers are.
function arrays.has_fields(value)
    local meta = type(value) == "userdata" and debug.getmetatable(value)
    return type(value) == "table" or type(meta) == "table" and rawget(meta, "__fields") == true
end

---Whether a value is a table that has no elements but its own: its metatable gives it no others.
function arrays.is_plain(value)
    local meta = type(value) == "table" and debug.getmetatable(value)
    return type(value) == "table" and (meta == nil or type(meta) == "table" and rawget(meta, "__index") == nil)
end

---Whether a value is a plain list of numbers: 1 to n, at least one, without holes. It may have
---fields beside them. Of 64-bit integers, all of one kind, too: then that is told.
---@return boolean
---@return "int64"|"uint64"|nil
function arrays.is_list(value)
    if not arrays.is_plain(value) then return false end
    local n, count, kind = #value, 0, wide.kind_of(value[1])
    for key, each in next, value do
        if type(key) == "number" then
            if (kind and wide.kind_of(each) or not kind and type(each) == "number") ~= (kind or true) then return false end
            if key < 1 or key > n or key ~= math.floor(key) then return false end
            count = count + 1
        end
    end
    return n > 0 and count == n, kind
end

---The element type of a plain list of numbers; nil when it is none.
function arrays.list_type(value)
    local is_list, kind = arrays.is_list(value)
    return is_list and (kind or "double") or nil
end

---The list of the numbers that the tables of a list have at this key, in their own right; nil where
---one has none. `from`: 0, where it counts from there.
function arrays.column(value, key, from)
    if not arrays.is_plain(value) then return end
    local list, count = {}, 0
    for at, each in next, value do
        if type(at) == "number" then
            if type(each) ~= "table" or type(rawget(each, key)) ~= "number" then return end
            list[at + (from == 0 and 1 or 0)], count = rawget(each, key), count + 1
        end
    end
    return arrays.is_list(list) and #list == count and list or nil
end

return arrays
