-- elements.lua: reads fields and elements, and copies tables.

local arrays = require "tidepool.translate.infer.arrays"
local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local ctypes = require "tidepool.translate.ctypes"
local nodes = require "tidepool.translate.lower.nodes"
local places = require "tidepool.translate.lower.places"
local sets = require "tidepool.translate.lower.sets"
local statics = require "tidepool.translate.lower.statics"
local symbols = require "tidepool.translate.lower.symbols"

local elements = {}

local extend, field_class, find, make_list, make_table = classes.extend, classes.field_class, classes.find, classes.make_list, classes.make_table
local note_change, note_variable, unify = classes.note_change, classes.note_variable, classes.unify
local emit, fixed, hold, name_of, new_local, node_at = nodes.emit, nodes.fixed, nodes.hold, nodes.name_of, nodes.new_local, nodes.node_at
local number, refuse, scalar = nodes.number, nodes.refuse, nodes.scalar
local check_index, first_of, last_of, object, room_index = places.check_index, places.first_of, places.last_of, places.object, places.room_index
local value_of, write_var = places.value_of, places.write_var
local cell_of_matrix, derived, of_static, static_element = statics.cell_of_matrix, statics.derived, statics.of_static, statics.static_element
local matrix_of, static_field = statics.matrix_of, statics.static_field

local copy, place_in

-- Fields of which one may be named by a text that is not known.
local FIELDS_MAX = 32

-- Copies a list with all the room that it has, in which there may be holes.
local function copy_room(L, at, to, from)
    local list, source = to.storage.list, from.storage.list
    if not source.there then return note_change(L) end
    write_var(L, at, list.last, to.at, places.read_var(L, at, source.last, from.at))
    write_var(L, at, list.n, to.at, places.read_var(L, at, source.n, from.at))
    local var = new_local(L, "i", at)
    var.range = { source.from, source.from + source.count - 1, true }
    local key = name_of(L, at, var)
    local _, body = nodes.aside(L, function()
        local is_there = node_at(L, at, "Cell", { var = source.there, index = room_index(L, at, from, key) })
        local target = room_index(L, at, to, key)
        emit(L, node_at(L, at, "Put", { var = list.there, index = target, value = is_there }))
        copy(L, at, object(list.element, target), value_of(L, at, source.element, room_index(L, at, from, key)))
    end)
    emit(L, node_at(L, at, "Fornum", { var = var, start = number(L, at, source.from), limit = number(L, at, source.from + source.count - 1),
        body = body, start_range = var.range, limit_range = var.range }))
end

-- Copies a list: its bounds and elements.
local function copy_list(L, at, to, from)
    local list = to.storage.list
    if list.there then return copy_room(L, at, to, from) end
    local first, last = hold(L, at, first_of(L, at, from)), hold(L, at, last_of(L, at, from))
    if not list.is_fixed then
        write_var(L, at, list.first, to.at, first)
        write_var(L, at, list.last, to.at, last)
    end
    local var, outer = new_local(L, "i", at), L.out
    local source = from.storage.list
    var.range = { source.from, source.from + source.count - 1, true }
    L.out = {}
    local key = name_of(L, at, var)
    copy(L, at, object(list.element, room_index(L, at, to, key)), value_of(L, at, source.element, room_index(L, at, from, key)))
    local body = L.out
    L.out = outer
    local range = { 0, list.from + list.count, true }
    emit(L, node_at(L, at, "Fornum", { var = var, start = first, limit = last, body = body, start_range = range, limit_range = range }))
end

-- The keys of a captured table, and what there is at each.
local function text_of_fields(value)
    local list = {}
    for key, each in next, value do list[#list + 1] = ("%s %s %s"):format(type(key), tostring(key), type(each)) end
    table.sort(list)
    return table.concat(list, "\n")
end

-- What a number becomes that is stored as a type of C.
local function stored_as(L, at, ctype, node, name)
    if nodes.is_boolean(node) or node.tag == "Nil" or symbols.is_text(node) then
        refuse(L, at, "'%s' is a number of C, and is given something else", name)
    end
    local fn = ctypes.conversions[ctype]
    if not fn then return node end
    return node_at(L, at, "Call", { callee = fixed(L, at, { path = ctype, key = "ctype " .. ctype, value = fn, read = function() return fn end }),
        args = { node } })
end

-- Refuses a field that a struct of C does not have; gives what its class has by that name.
local function of_struct(L, at, class, key, name)
    if not class.struct or class.fields[key] or type(key) == "number" and class.has_list then return end
    local index = class.meta and rawget(class.meta.value, "__index")
    if type(index) == "table" and index[key] ~= nil then
        local methods = { path = "the metatable of " .. name, key = class.meta.key, value = index, read = function() return index end }
        return of_static(L, at, static_field(methods, key))
    end
    refuse(L, at, "'%s' has no field '%s'", name, tostring(key))
end

local index_value

-- Copies a value to a place. Classes of both are made alike.
function copy(L, at, to, value)
    local storage = to.storage
    if value.t ~= "scalar" then
        storage.is_copy = true
        places.note_overwrite(L, storage)
        for _, alias in ipairs(not L.is_by_value and storage.aliases or {}) do
            if alias.scope.is_open and not L.copied[alias.var] then
                L.copied[alias.var] = true
                note_change(L)
            end
        end
    end
    if value.t == "object" then
        if value.storage.functions or storage.functions then
            refuse(L, at, "'%s', a table with functions, is copied to '%s'; on a device such a table stays where it was made",
                value.storage.name, storage.name)
        end
        unify(L, storage.class, value.storage.class)
        if not L.is_by_value then places.note_kept_copies(value, to) end
        if not storage.fields then return end -- the next round will know the fields
        for _, key in ipairs(find(storage.class).order) do
            local field, source = storage.fields[key], value.storage.fields[key]
            if field and source then copy(L, at, object(field, to.at), value_of(L, at, source, value.at)) end
        end
        if storage.list and value.storage.list then copy_list(L, at, to, value) end
    elseif value.t == "static" or value.t == "element" then
        local static = value.t == "static" and value.static or value.example
        if type(static.value) ~= "table" then refuse(L, at, "'%s' is a %s, which cannot be put into a table here", static.path,
            type(static.value)) end
        local keys = {}
        for key, each in pairs(static.value) do
            if type(key) == "string" or type(key) == "number" then
                if type(each) == "number" or type(each) == "boolean" or type(each) == "table" then keys[#keys + 1] = key end
            end
        end
        table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
        if value.t == "static" then
            local form = derived(static, "the keys of " .. static.path, "fields", text_of_fields)
            L.program.baked[form.key] = form
        end
        classes.note_late(L, storage.class, static.value)
        for _, key in ipairs(keys) do
            local field = field_class(L, storage.class, key)
            local target = storage.fields and storage.fields[key] and object(storage.fields[key], to.at)
            if storage.list and type(key) == "number" then
                extend(L, storage.class, key, key)
                if key >= storage.list.from and key < storage.list.from + storage.list.count then
                    target = object(storage.list.element, room_index(L, at, to, number(L, at, key)))
                end
            end
            if type(static.value[key]) == "table" then field.is_table = true end
            if target then copy(L, at, target, index_value(L, at, value, { tag = type(key) == "number" and "Number" or "String", value = key,
                line = at.line })) end
        end
        if storage.list and storage.list.there then
            refuse(L, at, "'%s' is put into '%s', a list that may have holes; on a device fill that by a loop", static.path, storage.name)
        elseif storage.list and not storage.list.is_fixed then
            write_var(L, at, storage.list.first, to.at, number(L, at, static.value[0] ~= nil and 0 or 1))
            write_var(L, at, storage.list.last, to.at, number(L, at, #static.value))
        end
    elseif value.t == "scalar" then
        if find(storage.class).is_table then
            if value.node.tag == "Nil" then return classes.note_scalar(L, storage.class, "has_nil") end
            refuse(L, at, "'%s' is a table in one place and a number in another", storage.name)
        end
        if value.node.tag == "Nil" then classes.note_scalar(L, storage.class, "has_nil") end
        classes.note_scalar(L, storage.class, nodes.is_boolean(value.node) and "is_boolean" or nodes.is_plain(value.node) and "has_number"
            or "has_others")
        local ctype = find(storage.class).ctype
        local node = ctype and stored_as(L, at, ctype, value.node, storage.name) or value.node
        write_var(L, at, storage.var, to.at, symbols.stored(L, at, find(storage.class), "is_symbol", node, storage.name))
    else
        refuse(L, at, "a function in a table; on a device call it by its name")
    end
end
elements.copy = copy

-- Which element of a table an expression is: its storage and index; nil in a round that does not
-- know it yet. `is_read`: it must be there.
function place_in(L, at, place, key, is_read)
    local storage = place.storage
    local constant = (key.tag == "String" or key.tag == "Number") and key.value
    local class = find(storage.class)
    if constant and not (class.has_list and type(constant) == "number") then
        if of_struct(L, at, class, constant, storage.name) then
            refuse(L, at, "an assignment to '%s', which is a method of '%s'", constant, storage.name)
        end
        field_class(L, class, constant)
        local field = storage.fields and storage.fields[constant]
        return field and object(field, place.at)
    end
    if key.tag == "String" then return end
    make_list(L, class)
    local list = storage.list
    if not list then return end
    key = hold(L, at, key, "index")
    if is_read then check_index(L, at, place, key) end
    return object(list.element, hold(L, at, room_index(L, at, place, key), "at")), key
end
elements.place_in = place_in

-- The field of a table whose name is a text that is not known: one of its numbers, or of its
-- functions; nil of other tables.
-- `is_asked`: it may not be there; then whether it is, a condition, comes second.
local function field_by_text(L, at, base, key, is_asked)
    local keys, cases, are_functions, texts = {}, {}, true, 0
    if base.t == "static" and type(base.static.value) == "table" then
        for name in next, base.static.value do
            if type(name) == "string" then keys[#keys + 1] = name end
        end
        table.sort(keys)
        local static = base.static
        local form = derived(static, "the keys of " .. static.path, "names", function(now)
            local list = {}
            for name in next, now do list[#list + 1] = tostring(name) end
            table.sort(list)
            return table.concat(list, "\n")
        end)
        L.program.baked[form.key] = form
    elseif base.t == "object" then
        for _, name in ipairs(find(base.storage.class).order) do
            if type(name) == "string" then keys[#keys + 1] = name end
        end
        for name in pairs(base.storage.functions or {}) do keys[#keys + 1] = name end
        table.sort(keys)
    end
    if #keys == 0 or #keys > FIELDS_MAX then return end
    key = hold(L, at, key.node, "which")
    local path = base.t == "static" and base.static.path or base.storage.name
    for i, name in ipairs(keys) do
        local value = index_value(L, at, base, { tag = "String", value = name, line = at.line })
        cases[i] = { key = symbols.id_of(L.ids, name), value = value }
        are_functions = are_functions and choices.is_function(value)
        if value.t == "scalar" and symbols.is_text(value.node) then texts = texts + 1 end
        if value.t ~= "scalar" and not choices.is_function(value) then return end
    end
    local is_there
    for _, case in ipairs(is_asked and cases or {}) do
        local cond = nodes.binop(L, at, "==", key, number(L, at, case.key))
        is_there = is_there and node_at(L, at, "Or", { op = "or", left = is_there, right = cond }) or cond
    end
    if are_functions then return { t = "choice", key = key, cases = cases, path = path, is_by_text = true }, is_there end
    local var, clauses = new_local(L, "field", at, true), {}
    var.is_guarded = true
    emit(L, node_at(L, at, "Local", { vars = { var }, exprs = {} }))
    if texts > 0 and texts < #cases then return end
    for i, case in ipairs(cases) do
        if case.value.t ~= "scalar" then return end
        case.value.node = symbols.number_of(L, at, case.value.node) or case.value.node
        clauses[i] = node_at(L, at, "Clause", { cond = nodes.binop(L, at, "==", key, number(L, at, case.key)),
            body = { node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { case.value.node } }) } })
    end
    local failure = not is_asked and { nodes.error_statement(L, at, { ("'%s' has no such field"):format(path) }) } or nil
    emit(L, node_at(L, at, "If", { clauses = clauses, orelse = failure }))
    local name = name_of(L, at, var)
    return scalar(texts > 0 and symbols.wrap(L, at, name) or name), is_there
end
elements.field_by_text = field_by_text

-- Writes a value to the field of a table of the function whose name is a text that is not known.
function elements.store_by_text(L, at, base, key, value)
    local id, clauses = hold(L, at, key.node, "which"), {}
    for _, name in ipairs(find(base.storage.class).order) do
        if type(name) == "string" then
            local _, body = nodes.aside(L, function()
                local place = place_in(L, at, base, { tag = "String", value = name, line = at.line }, false)
                if place then copy(L, at, place, value) end
            end)
            local cond = nodes.binop(L, at, "==", id, number(L, at, symbols.id_of(L.ids, name)))
            clauses[#clauses + 1] = node_at(L, at, "Clause", { cond = cond, body = body })
        end
    end
    if #clauses == 0 or #clauses > FIELDS_MAX then
        if L.changed then return end
        refuse(L, at, "an assignment to a field of '%s' whose name is not known; on a device a table has the fields that it is made with",
            base.storage.name)
    end
    local failure = nodes.error_statement(L, at, { ("'%s' has no such field; on a device a table has the fields that it is made with"):format(
        base.storage.name) })
    emit(L, node_at(L, at, "If", { clauses = clauses, orelse = { failure } }))
end

function index_value(L, at, base, key)
    if key.tag == "Symbol" then
        return (field_by_text(L, at, base, key)) or refuse(L, at, "a field whose name is not known, of something else than a table of some "
            .. "numbers, or of functions")
    end
    local constant = (key.tag == "String" or key.tag == "Number") and key.value
    if base.t == "static" then
        local static = base.static
        local is_array = L.infer.array_type(static.value)
        if constant ~= false and not (is_array and type(constant) == "number") then
            if not arrays.has_fields(static.value) and not is_array then
                refuse(L, at, "'%s' is a %s, which has no fields", static.path, type(static.value))
            end
            return of_static(L, at, static_field(static, constant))
        end
        if is_array or type(static.value) ~= "table" then return scalar(node_at(L, at, "Index", { object = fixed(L, at, static), key = key })) end
        if choices.count(static.value) then return choices.of_list(L, at, static, key) end
        if symbols.of_list(L.ids, static.value) then
            local list = derived(static, static.path, "texts", function(now) return symbols.of_list(L.ids, now) end)
            return scalar(symbols.wrap(L, at, node_at(L, at, "Index", { object = fixed(L, at, list), key = key })))
        end
        if not L.infer.is_list(static.value) and not statics.from_zero(static.value) and sets.form(static.value) then
            key = hold(L, at, key, "index")
            local is_there, value = sets.element(L, at, static, key)
            nodes.check(L, at, is_there, { "index ", (" of '%s' has no element"):format(static.path) }, key)
            return value
        end
        return static_element(L, at, static, key)
    elseif base.t == "element" then
        if constant == false then return (cell_of_matrix(L, at, base, key)) end
        local form = type(constant) == "number" and matrix_of(base.static.value)
        if form and (form.is_boolean or not form.columns and not arrays.column(base.static.value, constant, form.from)) then
            return (cell_of_matrix(L, at, base, number(L, at, constant)))
        end
        local example = type(base.example.value) == "table" and base.example.value[constant]
        if type(example) == "table" then
            local list = derived(base.static, ("%s[...].%s"):format(base.static.path, constant), "all " .. tostring(constant), function(value)
                local all = {}
                for i = value[0] ~= nil and 0 or 1, #value do all[i] = value[i][constant] end
                return all
            end)
            return { t = "element", static = list, index = base.index, example = { path = list.path .. "[...]", value = example } }
        elseif type(example) == "string" and symbols.of_list(L.ids, base.static.value, constant) then
            local list = derived(base.static, ("%s[...].%s"):format(base.static.path, constant), "texts " .. tostring(constant), function(now)
                return symbols.of_list(L.ids, now, constant)
            end)
            return scalar(symbols.wrap(L, at, node_at(L, at, "Index", { object = fixed(L, at, list), key = base.index })))
        end
        if type(base.static.value) == "table" and base.static.value[0] ~= nil then
            local list = derived(base.static, ("%s[...].%s"):format(base.static.path, tostring(constant)), "from zero " .. tostring(constant),
                function(now) return arrays.column(now, constant, 0) end)
            if list.value then
                list.shift = 1
                return scalar(node_at(L, at, "Index", { object = fixed(L, at, list),
                    key = nodes.binop(L, at, "+", base.index, number(L, at, 1)) }))
            end
        end
        return scalar(node_at(L, at, "Index", { object = node_at(L, at, "Index", { object = fixed(L, at, base.static), key = base.index }),
            key = key }))
    elseif base.t == "object" then
        local own = base.storage.functions
        if own and constant and own[constant] then return own[constant] end
        if own and constant == false and own[1] then
            local cases = {}
            for i, value in ipairs(own) do cases[i] = { key = i, value = value } end
            return { t = "choice", key = hold(L, at, key, "index"), cases = cases, path = base.storage.name }
        end
        local inherited = constant and of_struct(L, at, find(base.storage.class), constant, base.storage.name)
        if inherited then return inherited end
        local place = place_in(L, at, base, key, true)
        if not place then
            local known = find(base.storage.class)
            return scalar(number(L, at, 1), known.fields[known.has_list and key.tag ~= "String" and "*" or constant])
        end
        return value_of(L, at, place.storage, place.at)
    end
    note_variable(L, base)
    if base.class then -- an element that is a table, as is seen here
        make_table(L, base.class, key)
        return scalar(number(L, at, 1), find(base.class).fields[constant or "*"])
    end
    return scalar(node_at(L, at, "Index", { object = base.node or node_at(L, at, "Nil", {}), key = key }))
end
elements.index_value = index_value

return elements
