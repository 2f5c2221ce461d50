-- structs.lua: structs and arrays of C that a function makes: by ffi.new, and by calls of types.
--
-- They are tables whose fields are known: the constructor of a table stands for the initialization.
-- Their class has `struct`, the layout (ctypes.lua), and the classes of their numbers have `ctype`:
-- what is stored there becomes a number of that type. Those that are captured are read as tables,
-- see statics.lua.

local classes = require "tidepool.translate.lower.classes"
local ctypes = require "tidepool.translate.ctypes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local ranges = require "tidepool.translate.lower.ranges"
local statics = require "tidepool.translate.lower.statics"
local texts = require "tidepool.translate.lower.texts"
local walk = require "tidepool.translate.lower.walk"

local ffi = require "ffi"

local structs = {}

local field_class, find, new_class = classes.field_class, classes.find, classes.new_class
local node_at, number, refuse, scalar = nodes.node_at, nodes.number, nodes.refuse, nodes.scalar

local ELEMENTS_MAX = 1024 -- of an array that a function makes

-- Notes the layout in a class, and in those of what it consists of. The last field of an array of
-- open length has `count` elements.
local function note_layout(L, class, layout, count)
    class = find(class)
    class.is_table, class.struct = true, class.struct or layout
    local meta = ctypes.metatable(layout)
    if meta then
        class.meta = class.meta or { path = "the metatable", key = "ctype " .. layout.id, value = meta, read = function() return meta end }
    end
    local function note(key, part)
        local field = field_class(L, class, key)
        if part.ctype then field.ctype = part.ctype else note_layout(L, field, part) end
    end
    for _, field in ipairs(layout.fields or {}) do note(field.name, field.layout) end
    for i = 0, layout.element and (layout.count or count) - 1 or -1 do note(i, layout.element) end
end

-- The constructor of a table for a layout: its numbers are at `given`, by their paths.
local function constructor(node, layout, count, given, path)
    if layout.ctype then
        given[path] = given[path] or { tag = "Given", line = node.line }
        return given[path]
    end
    local made = { tag = "Table", line = node.line, items = {}, is_struct = true }
    local function add(tag, key, part)
        made.items[#made.items + 1] = { key = { tag = tag, value = key, line = node.line },
            value = constructor(node, part, nil, given, path .. "." .. key) }
    end
    for _, field in ipairs(layout.fields or {}) do add("String", field.name, field.layout) end
    for i = 0, layout.element and (layout.count or count) - 1 or -1 do add("Number", i, layout.element) end
    return made
end

-- How many numbers a layout has.
local function size_of(layout, count)
    if layout.ctype then return 1 end
    local sum = 0
    for _, field in ipairs(layout.fields or {}) do sum = sum + size_of(field.layout) end
    return layout.element and (layout.count or count) * size_of(layout.element) or sum
end

-- The items of a table that initializes a struct or an array: those that it has.
local function item_of(L, node, value, key)
    if value.t == "static" then
        local item = rawget(value.static.value, key)
        return item ~= nil and statics.of_static(L, node, statics.static_field(value.static, key)) or nil
    end
    local class = find(value.storage.class)
    local is_number = type(key) == "number"
    if is_number and class.count and (class.has_list and (key < 1 or key > class.count)) then return end
    if not (is_number and class.has_list) and not class.fields[key] then return end
    return elements.index_value(L, node, value, { tag = is_number and "Number" or "String", value = key, line = node.line })
end

local give

-- Gives the numbers of a struct or an array what a list of values says, as ffi.new does: one of an
-- array is for all of them, and what is not given is 0.
local function give_list(L, node, layout, count, given, path, list)
    for i, field in ipairs(layout.fields or {}) do give(L, node, field.layout, given, path .. "." .. field.name, list[i]) end
    local elements_ = layout.element and (layout.count or count) or #layout.fields
    if #list > elements_ then refuse(L, node, "%d initializers of a type of C with %d elements", #list, elements_) end
    for i = 0, layout.element and elements_ - 1 or -1 do
        give(L, node, layout.element, given, path .. "." .. i, #list == 1 and list[1] or list[i + 1])
    end
end

function give(L, node, layout, given, path, value, count)
    if layout.ctype then
        if value and value.t ~= "scalar" then refuse(L, node, "a table, or a struct, as the initializer of a number of C") end
        given[path].value = value or scalar(number(L, node, 0))
        return
    end
    if not value then return give_list(L, node, layout, count, given, path, {}) end
    if value.t == "scalar" then return give_list(L, node, layout, count, given, path, { value }) end
    if value.t == "static" and not value.static.layout and type(value.static.value) == "table" or value.t == "object" then
        local of = value.t == "object" and find(value.storage.class).struct
        if value.t == "object" and not of and find(value.storage.class).grows and layout.element then
            refuse(L, node, "a list whose length is not known beforehand as the initializer of an array of C")
        end
        local list, by_name = {}, false
        for i, field in ipairs(layout.fields or {}) do
            local item = item_of(L, node, value, field.name)
            by_name = by_name or item ~= nil
            if item then list[i] = item end
        end
        if by_name then
            for i, field in ipairs(layout.fields) do give(L, node, field.layout, given, path .. "." .. field.name, list[i]) end
            return
        end
        local at = item_of(L, node, value, 0) and 0 or 1
        repeat
            local item = item_of(L, node, value, at)
            list[#list + 1] = item
            at = at + 1
        until not item
        return give_list(L, node, layout, count, given, path, list)
    end
    refuse(L, node, "the initializer of a type of C is no number, and no table")
end

-- A new struct or array. `values`: what initializes it.
local function make(L, node, layout, count, values)
    if size_of(layout, count) > ELEMENTS_MAX then
        refuse(L, node, "a type of C with more than %d numbers, made on a device; capture a typed array (tidepool.array)", ELEMENTS_MAX)
    end
    local key = ("%d %d"):format(layout.id, count or 0)
    L.structs[node] = L.structs[node] or {}
    local made = L.structs[node][key]
    if not made then
        local given = {}
        made = { given = given, table = constructor(node, layout, count, given, "") }
        L.structs[node][key] = made
    end
    if not L.sites[made.table] then
        L.sites[made.table] = new_class()
        note_layout(L, L.sites[made.table], layout, count)
    end
    if #values == 1 then
        give(L, node, layout, made.given, "", values[1], count)
    else
        give_list(L, node, layout, count, made.given, "", values)
    end
    L.naming = L.naming or "struct"
    return walk.expr(L, made.table)
end

-- A number that is known beforehand; nil of others.
local function known_number(L, value)
    if not value or value.t ~= "scalar" then return end
    local static = value.node.tag == "Fixed" and value.node.static
    if static and type(static.value) == "number" then
        L.program.baked[static.key] = static
        return static.value
    end
    local range = ranges.range_of(L, value.node)
    return range and range[1] == range[2] and range[1] or nil
end

-- The layout that a text names, for the call that it is given to. A struct without a name is a new
-- type each time that LuaJIT reads it; here it is one for all rounds.
local function layout_of_text(L, node, text)
    local known = L.layouts[node] or {}
    L.layouts[node] = known
    known[text] = known[text] or ctypes.layout(text)
    return known[text]
end

-- The layout that a value names, or is one of; and the ctype.
local function layout_of(L, node, value)
    if not value then return end
    local text = texts.text_of(value)
    if text then
        L.program.baked[text.key or ""] = text.key and text or nil
        local layout = layout_of_text(L, node, text.value)
        return layout, layout and layout.type
    end
    if value.t == "object" then return find(value.storage.class).struct end
    if value.t == "static" and value.static.layout then return value.static.layout end
    if value.t == "static" then
        local layout, is_type = ctypes.layout(value.static.value)
        return is_type and layout or nil, value.static.value
    end
end

local function initialized(L, node, layout, values)
    if layout.element and not layout.count then
        local count = known_number(L, values[1])
        if not count or count < 0 or count ~= math.floor(count) then
            refuse(L, node, "an array of C whose length is not known before it runs; give it as a constant")
        end
        return make(L, node, layout, count, { select(2, unpack(values)) })
    end
    return make(L, node, layout, nil, values)
end

--- A call of a captured type; nil when it is no type of structs or arrays.
function structs.call(L, node, static, evaluate)
    local layout, is_type = ctypes.layout(static.value)
    if not layout or not is_type then return end
    local values = evaluate()
    L.program.baked[static.key] = static
    local meta = ctypes.metatable(layout)
    local new = meta and rawget(meta, "__new")
    if type(new) == "function" then
        return inlining.inline(L, node, statics.static_function(static.path, new), { { t = "static", static = static }, unpack(values) })
    end
    return { initialized(L, node, layout, values) }
end

local function boolean(L, node, truth) return { scalar(node_at(L, node, truth and "True" or "False", {})) } end

local library = {}

library[ffi.new] = function(L, node, values)
    local layout = layout_of(L, node, values[1])
    return layout and { initialized(L, node, layout, { select(2, unpack(values)) }) }
end

library[ffi.typeof] = function(L, node, values)
    local layout, ctype = layout_of(L, node, values[1])
    ctype = layout and (ctype or layout.type)
    if not ctype then return end
    return { { t = "static", static = { path = "ffi.typeof(...)", key = "ctype " .. layout.id, value = ctype, read = function() return ctype end } } }
end

library[ffi.istype] = function(L, node, values)
    local layout, value = layout_of(L, node, values[1]), values[2]
    if not layout or not value or value.flag or value.origin then return end
    if value.t == "scalar" then return nodes.is_plain(value.node) and boolean(L, node, false) or nil end
    local of = layout_of(L, node, value)
    return boolean(L, node, of ~= nil and facts.type_of_value(L, value) == "cdata" and of.id == layout.id)
end

library[ffi.sizeof] = function(L, node, values)
    local layout = layout_of(L, node, values[1])
    return layout and layout.size and { scalar(number(L, node, layout.size)) }
end

--- What a function of the FFI gives of types of structs and arrays; nil of others.
function structs.library(L, node, fn, values)
    local entry = library[fn]
    return entry and entry(L, node, values)
end

--- Is it a function for which such types matter?
function structs.knows(fn) return library[fn] ~= nil end

return structs
