-- statics.lua: tables and other values of the host, which are captured: their fields and elements.

local arrays = require "tidepool.translate.infer.arrays"
local ctypes = require "tidepool.translate.ctypes"
local nodes = require "tidepool.translate.lower.nodes"
local wide = require "tidepool.translate.wide"

local statics = {}

local binop, check, fixed, hold = nodes.binop, nodes.check, nodes.fixed, nodes.hold
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

-- A list of lists of numbers, or of booleans (`is_boolean`), row by row in `flat`; nil of others.
-- `from`, `row_from`: the first index of the list, and of its rows; `columns`: the length of all
-- rows, or, where they differ, for each of them: `starts`, how many elements are before it,
-- `lasts`, its last index, and `lengths`, what `#` gives.
local function matrix_of(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return end
    local form = { flat = {}, from = value[0] ~= nil and 0 or 1, rows = 0, starts = {}, lasts = {}, lengths = {} }
    local kind
    for i = form.from, #value do
        local row = value[i]
        if type(row) ~= "table" or debug.getmetatable(row) ~= nil then return end
        if next(row) ~= nil then
            local row_from = row[0] ~= nil and 0 or 1
            form.row_from = form.row_from or row_from
            if form.row_from ~= row_from then return end
        end
    end
    if not form.row_from then return end
    local flat, columns = form.flat, nil
    for i = form.from, #value do
        local row, before = value[i], #flat
        for j = form.row_from, next(row) ~= nil and #row or form.row_from - 1 do
            local each = row[j]
            kind = kind or type(each)
            if type(each) ~= kind or kind ~= "number" and kind ~= "boolean" then return end
            flat[#flat + 1] = kind == "number" and each or each and 1 or 0
        end
        local count = #flat - before
        if columns ~= false then columns = (columns or count) == count and count end
        form.rows = form.rows + 1
        form.starts[form.rows], form.lasts[form.rows], form.lengths[form.rows] = before, form.row_from + count - 1, #row
    end
    if not kind then return end
    form.is_boolean, form.columns = kind == "boolean", columns or nil
    return form
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

-- Something of a captured list of lists. Its form is part of the code, which is made again when it
-- has changed.
local function of_form(L, static, path, key, compute)
    local form = matrix_of(static.value)
    local function in_form(value)
        local now = matrix_of(value)
        local is_same = now and now.from == form.from and now.row_from == form.row_from and now.is_boolean == form.is_boolean
            and (now.columns ~= nil) == (form.columns ~= nil)
        return is_same and now or nil
    end
    L.program.baked[static.key .. " form"] = { path = static.path, value = true, read = function() return in_form(static.read()) ~= nil end }
    return derived(static, path, key, function(value) return compute(in_form(value)) end)
end

-- The same of a row of one whose rows are not as long as each other: `what` is "starts", "lasts" or
-- "lengths".
local function of_row(L, at, element, what)
    local static, from = element.static, matrix_of(element.static.value).from
    local list = of_form(L, static, ("#%s[...]"):format(static.path), what, function(now) return now[what] end)
    local index = from == 1 and element.index or binop(L, at, "+", element.index, number(L, at, 1))
    return node_at(L, at, "Index", { object = fixed(L, at, list), key = index })
end

-- The last index of a row.
local function last_of_row(L, at, element)
    if not matrix_of(element.static.value).columns then return of_row(L, at, element, "lasts") end
    return fixed(L, at, of_form(L, element.static, ("#%s[...]"):format(element.static.path), "columns", function(now) return now.lasts[1] end))
end

--- The length of a row of a captured list of lists.
function statics.length_of_row(L, at, element)
    if not matrix_of(element.static.value).columns then return of_row(L, at, element, "lengths") end
    return last_of_row(L, at, element)
end

--- An element of a captured list of lists, and whether it is there: a condition. `is_asked`: it may
--- be missing, which somebody else looks for.
function statics.cell_of_matrix(L, at, element, key, is_asked)
    local static, index = element.static, element.index
    local form = matrix_of(static.value)
    if not form then
        refuse(L, at, "'%s' is no list of lists of numbers, or of lists of booleans", static.path)
    end
    local function within(node, from, to, path)
        if node.tag == "Number" and node.value == from and form.columns then return end
        check(L, at, is_within(L, at, node, number(L, at, from), to), { "index ", (" of '%s' is out of range, or not a whole number"):format(path) },
            node)
    end
    local last_row = of_form(L, static, "#" .. static.path, "rows", function(now) return now.rows + now.from - 1 end)
    within(index, form.from, fixed(L, at, last_row), static.path)
    local last = last_of_row(L, at, element)
    if is_asked then
        last = hold(L, at, last, "last")
    else
        within(key, form.row_from, last, static.path .. "[...]")
    end
    local before
    if form.columns then
        local columns = fixed(L, at, of_form(L, static, ("#%s[...]"):format(static.path), "width", function(now) return now.columns end))
        before = binop(L, at, "*", binop(L, at, "-", index, number(L, at, form.from)), columns)
    else
        before = of_row(L, at, element, "starts")
    end
    local place = binop(L, at, "+", before, form.row_from == 1 and key or binop(L, at, "+", key, number(L, at, 1)))
    local flat = of_form(L, static, static.path, "flat", function(now) return now.flat end)
    local value = node_at(L, at, "Index", { object = fixed(L, at, flat), key = place })
    if form.is_boolean then value = binop(L, at, "~=", value, number(L, at, 0)) end
    return scalar(value), is_asked and is_within(L, at, key, number(L, at, form.row_from), last) or nil
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
