-- ctypes.lua: what types of C that the script has declared to the FFI consist of: structs, and
-- arrays, of numbers.
--
-- A layout is { ctype = "double" ... "uint8", size } for a number; { id, size, fields = { { name,
-- layout } } } for a struct; { id, size, element, count } for an array, whose size and count are
-- nil where the type leaves them open ("double[?]"). Types with pointers, unions, bit fields,
-- booleans or 64-bit integers in them have none. ffi.typeinfo tells it, whose numbers are those
-- of LuaJIT's lj_ctype.h.

local bit = require "bit"
local ffi = require "ffi"

local ctypes = {}

local NUMBER, STRUCT, ARRAY, TYPEDEF, ATTRIBUTE, FIELD = 0, 1, 3, 7, 8, 9
local BOOL, FLOAT, UNSIGNED = 0x08000000, 0x04000000, 0x00800000
local UNION, NO_ARRAY = 0x00800000, 0x0c000000 -- the last: of complex numbers and vectors
local REALS = { [8] = "double", [4] = "float" }
local INTEGERS = { [1] = "int8", [2] = "int16", [4] = "int32" }
local DEPTH_MAX = 8

local function has(info, flag) return bit.band(info, flag) ~= 0 end
local function kind_of(info) return bit.rshift(info, 28) end
local function type_in(info) return bit.band(info, 0xffff) end

local layout_of

-- A struct's fields are a list, each of which knows the next one.
local function fields_of(struct, depth)
    local fields, at = {}, struct.sib
    while at do
        local field = ffi.typeinfo(at)
        local layout = kind_of(field.info) == FIELD and field.name and layout_of(type_in(field.info), depth)
        if not layout then return end
        fields[#fields + 1] = { name = field.name, layout = layout }
        at = field.sib
    end
    return fields[1] and fields
end

function layout_of(id, depth)
    local known = ffi.typeinfo(id)
    while known and (kind_of(known.info) == TYPEDEF or kind_of(known.info) == ATTRIBUTE) do
        id = type_in(known.info)
        known = ffi.typeinfo(id)
    end
    if not known or depth > DEPTH_MAX then return end
    local info, size = known.info, known.size
    if kind_of(info) == NUMBER and not has(info, BOOL) then
        local name = (has(info, FLOAT) and REALS or INTEGERS)[size]
        return name and { ctype = has(info, UNSIGNED) and "u" .. name or name, size = size }
    elseif kind_of(info) == STRUCT and not has(info, UNION) then
        local fields = fields_of(known, depth + 1)
        return fields and { id = id, size = size, fields = fields }
    elseif kind_of(info) == ARRAY and not has(info, NO_ARRAY) then
        local element = layout_of(type_in(info), depth + 1)
        return element and element.size and { id = id, size = size, element = element, count = size and size / element.size }
    end
end

---The layout of a ctype, of its name, or of a value of such a type; nil of other values and types.
---@return table? layout of a struct or an array
---@return boolean? is_type it is a ctype or a name
function ctypes.layout(value)
    local is_name = type(value) == "string"
    if not is_name and type(value) ~= "cdata" then return end
    local ok, ctype = pcall(ffi.typeof, value)
    local layout = ok and layout_of(tonumber(ctype), 1)
    if not layout or layout.ctype then return end
    layout.type = ctype
    -- only a ctype, whose value is its number, is a number here
    return layout, is_name or tonumber(value) ~= nil
end

---A struct or an array as a table: of fields, or of elements from 0 on.
function ctypes.table_of(value, layout)
    if layout.ctype then return value end
    local made = {}
    for _, field in ipairs(layout.fields or {}) do made[field.name] = ctypes.table_of(value[field.name], field.layout) end
    if layout.element then
        local count = layout.count or ffi.sizeof(value) / layout.element.size
        for i = 0, count - 1 do made[i] = ctypes.table_of(value[i], layout.element) end
    end
    return made
end

local WRAPPERS_MAX = 4

-- What LuaJIT's own ffi.metatype has noted for a type: metatables lie in its environment, by the
-- negative numbers of the types. lua/tidepool/base/cdata.lua has wrapped it, and busted does; what
-- they call is an upvalue of them.
local function noted(fn, id, depth)
    if debug.getinfo(fn, "S").what == "C" then return rawget(debug.getfenv(fn), -id) end
    local i = 1
    local name, inner = debug.getupvalue(fn, i)
    while name and depth < WRAPPERS_MAX do
        local found = type(inner) == "function" and noted(inner, id, depth + 1)
        if found then return found end
        i = i + 1
        name, inner = debug.getupvalue(fn, i)
    end
end

---The metatable that ffi.metatype gave a type; nil when it has none.
---@param layout table
---@return table?
function ctypes.metatable(layout)
    local metatable = noted(ffi.metatype, layout.id, 1)
    return type(metatable) == "table" and metatable or nil
end

---What numbers become that are stored as a type, by its name: functions for builtins.lua, which
---are called on devices only. Doubles stay as they are.
ctypes.conversions = {}
for _, name in ipairs { "float", "int32", "int16", "int8", "uint32", "uint16", "uint8" } do
    local ctype = ffi.typeof(name == "float" and "float" or name .. "_t")
    ctypes.conversions[name] = function(x) return tonumber(ffi.cast(ctype, x)) end
end

return ctypes
