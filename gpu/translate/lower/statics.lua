-- statics.lua: tables and other values of the host, which are captured: their fields and elements.

local arrays = require "tidepool.translate.infer.arrays"
local ctypes = require "tidepool.translate.ctypes"
local nodes = require "tidepool.translate.lower.nodes"
local wide = require "tidepool.translate.wide"

local statics = {}

local all_of, binop, check, fixed, hold, is_whole = nodes.all_of, nodes.binop, nodes.check, nodes.fixed, nodes.hold, nodes.is_whole
local is_within, node_at, number, refuse, scalar = nodes.is_within, nodes.node_at, nodes.number, nodes.refuse, nodes.scalar

-- The layout of a part of a struct or an array; nil of numbers.
local function part_of(layout, key)
    local part = layout.element
    for _, field in ipairs(layout.fields or {}) do
        if field.name == key then part = field.layout end
    end
    return part and not part.ctype and part or nil
end

function statics.static_field(static, key)
    local function read() return static.read()[key] end
    local path = type(key) == "string" and ("%s.%s"):format(static.path, key) or ("%s[%.14g]"):format(static.path, key)
    return { path = path, key = static.key .. "." .. tostring(key), value = static.value[key], read = read, base = static.value, field = key,
        layout = static.layout and part_of(static.layout, key) }
end

-- A captured struct or array of C, as the table that is read.
local function struct_of(L, static)
    local known = L.mirrors[static.key]
    if known == nil then
        local layout, is_type = ctypes.layout(static.value)
        known = layout and not is_type and statics.derived(static, static.path, "of C", function(now)
            local now_layout = ctypes.layout(now)
            return now_layout.id == layout.id and ctypes.table_of(now, layout)
        end) or false
        if known then known.layout = layout end
        L.mirrors[static.key] = known
    end
    return known or nil
end

function statics.of_static(L, at, static)
    local value = static.value
    if type(value) == "cdata" and not wide.kind_of(value) and not L.infer.array_type(value) then
        local struct = struct_of(L, static)
        if struct then return { t = "static", static = struct } end
    end
    if type(value) == "table" or type(value) == "userdata" or type(value) == "function" or type(value) == "cdata" and not wide.kind_of(value) then
        return { t = "static", static = static }
    end
    return scalar(fixed(L, at, static))
end

-- The numbers of a list of lists, row by row, as long as each other; nil when it is none.
-- `from`, `row_from`: the first index of the list, and of its rows.
local function matrix_of(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return end
    local from = value[0] ~= nil and 0 or 1
    local first = value[from]
    if type(first) ~= "table" then return end
    local row_from, flat, rows = first[0] ~= nil and 0 or 1, {}, 0
    local columns = #first - row_from + 1
    for i = from, #value do
        local row = value[i]
        if type(row) ~= "table" or debug.getmetatable(row) ~= nil or #row - row_from + 1 ~= columns
            or (row[0] ~= nil) ~= (row_from == 0) then return end
        for j = row_from, #row do
            if type(row[j]) ~= "number" then return end
            flat[#flat + 1] = row[j]
        end
        rows = rows + 1
    end
    return columns > 0 and { flat = flat, from = from, row_from = row_from, rows = rows, columns = columns } or nil
end
statics.matrix_of = matrix_of

-- Something of the host that is computed from a captured value, which must keep its form.
local function derived(static, path, key, compute)
    local function read()
        local ok, value = pcall(compute, static.read())
        return ok and value or nil
    end
    return { path = path, key = static.key .. " " .. key, value = read(), read = read }
end
statics.derived = derived

function statics.cell_of_matrix(L, at, element, key)
    local static, index = element.static, element.index
    local form = matrix_of(static.value)
    if not form then
        refuse(L, at, "'%s' is no list of lists of numbers that are as long as each other", static.path)
    end
    local function same_form(value)
        local now = matrix_of(value)
        return now and now.from == form.from and now.row_from == form.row_from and now
    end
    local flat = derived(static, static.path, "flat", function(value) return same_form(value).flat end)
    local rows = fixed(L, at, derived(static, "#" .. static.path, "rows", function(value) return same_form(value).rows + form.from - 1 end))
    local last = fixed(L, at, derived(static, ("#%s[...]"):format(static.path), "columns", function(value)
        return same_form(value).columns + form.row_from - 1
    end))
    local columns = fixed(L, at, derived(static, ("#%s[...]"):format(static.path), "width", function(value) return same_form(value).columns end))
    local function within(node, from, to, path)
        if node.tag == "Number" and node.value == from then return end
        check(L, at, all_of(L, at, { binop(L, at, ">=", node, number(L, at, from)), binop(L, at, "<=", node, to), is_whole(L, at, node) }),
            { "index ", (" of '%s' is out of range, or not a whole number"):format(path) }, node)
    end
    within(index, form.from, rows, static.path)
    within(key, form.row_from, last, static.path .. "[...]")
    local place = binop(L, at, "+", binop(L, at, "*", binop(L, at, "-", index, number(L, at, form.from)), columns),
        form.row_from == 1 and key or binop(L, at, "+", key, number(L, at, 1)))
    return scalar(node_at(L, at, "Index", { object = fixed(L, at, flat), key = place }))
end

-- A list of numbers from 0.
local function from_zero(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil or type(value[0]) ~= "number" then return end
    local list, count = {}, 0
    for i = 0, #value do
        if type(value[i]) ~= "number" then return end
        list[i + 1] = value[i]
    end
    for key in next, value do if type(key) == "number" then count = count + 1 end end
    return count == #list and list or nil
end
statics.from_zero = from_zero

local function is_list_of_tables(value)
    if not arrays.is_plain(value) then return false end
    return type(value[1]) == "table" or type(value[0]) == "table"
end
statics.is_list_of_tables = is_list_of_tables

function statics.static_element(L, at, static, key)
    local value = static.value
    if is_list_of_tables(value) then
        key = hold(L, at, key, "index")
        local first = value[1] or value[0]
        return { t = "element", static = static, index = key, example = { path = static.path .. "[...]", value = first,
            layout = static.layout and static.layout.element } }
    elseif from_zero(value) then
        local list = derived(static, static.path, "from zero", from_zero)
        list.shift = 1
        return scalar(node_at(L, at, "Index", { object = fixed(L, at, list), key = binop(L, at, "+", key, number(L, at, 1)) }))
    end
    return scalar(node_at(L, at, "Index", { object = fixed(L, at, static), key = key }))
end

-- Whether a captured list has an element: a condition, since it may be nil.
function statics.has_element(L, at, static, key)
    local value = static.value
    return is_within(L, at, key, number(L, at, value[0] ~= nil and 0 or 1), node_at(L, at, "Unop", { op = "#", expr = fixed(L, at, static) }))
end

function statics.static_function(path, fn)
    return { t = "static", static = { path = path, key = path .. tostring(fn), value = fn, read = function() return fn end } }
end

return statics
