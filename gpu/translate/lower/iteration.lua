-- iteration.lua: loops over tables: ipairs, pairs and next. A list is a loop over its indexes; what
-- else is known beforehand, a body for each of its keys.

local calls = require "tidepool.translate.lower.calls"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local holes = require "tidepool.translate.lower.holes"
local loops = require "tidepool.translate.lower.loops"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"
local symbols = require "tidepool.translate.lower.symbols"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local find, make_list = classes.find, classes.make_list
local emit, hold_value, name_of, new_local, node_at = nodes.emit, nodes.hold_value, nodes.name_of, nodes.new_local, nodes.node_at
local number, refuse, scalar = nodes.number, nodes.refuse, nodes.scalar
local last_of = places.last_of
local index_value = elements.index_value
local bind_table, close_scope, open_scope = scopes.bind_table, scopes.close_scope, scopes.open_scope
local derived, from_zero, is_list_of_tables = statics.derived, statics.from_zero, statics.is_list_of_tables
local matrix_of = statics.matrix_of
local peek = facts.peek
local block, expr, expression, statement = walk.block, walk.expr, walk.expression, walk.statement
local bind_counter, in_loop, numeric_loop = loops.bind_counter, loops.in_loop, loops.numeric_loop

-- Bodies of one loop, and of all loops of a function.
local BODIES_MAX, ALL_BODIES_MAX = 64, 1000

-- What a loop is over: the table, and whether only 1, 2, 3 of it.
local function iterated(L, node)
    local first = node.exprs[1]
    if first and first.tag == "Call" and #node.exprs == 1 and #first.args == 1 then
        local callee = peek(L, first.callee)
        local fn = callee and callee.t == "static" and callee.static.value
        if fn == ipairs or fn == pairs then return first.args[1], fn == ipairs end
    elseif #node.exprs == 2 or #node.exprs == 3 and node.exprs[3].tag == "Nil" then
        local callee = peek(L, first)
        if callee and callee.t == "static" and callee.static.value == next then return node.exprs[2], false end
    end
    refuse(L, node, "'for ... in'; of iterators ipairs, pairs and next are known on a device, use one of them or a numeric for")
end

-- Gives a local of the loop its value.
local function bind(L, node, var, value)
    value = hold_value(L, node, value, var.name)
    if not var.assigned or value.t ~= "scalar" then
        if var.assigned then refuse(L, node, "'%s', which is a table here, is assigned to in the loop; use another local", var.name) end
        return bind_table(L, node, L.scope, var, value)
    end
    local new, flag = new_local(L, var.name, node, true), optional.flag_of(L, node, var, value)
    L.ranges[var] = false
    emit(L, node_at(L, node, "Local", { vars = { new }, exprs = { symbols.stored(L, node, L.symbols, var, value.node, var.name) } }))
    L.scope.vars[var] = { t = "variable", var = new, of = var, flag = flag, may_be_nil = flag ~= nil, symbol = L.symbols[var] }
end

local function new_label(L, node)
    L.labels = L.labels + 1
    return ("end of %d %d"):format(node.line, L.labels)
end

-- The body once for each key. `items`: a list of { key = a scalar, value = a function that
-- evaluates the value }.
local function unrolled(L, node, items)
    if #items > BODIES_MAX then
        refuse(L, node, "a loop over a table of %d keys that are no list of numbers or tables; on a device it has at most %d", #items, BODIES_MAX)
    end
    L.bodies = L.bodies + #items
    if L.bodies > ALL_BODIES_MAX then refuse(L, node, "loops over tables with more than %d bodies", ALL_BODIES_MAX) end
    local label = new_label(L, node)
    local loop = { line = node.line, times = 1, is_unrolled = true, label = label }
    local list = in_loop(L, loop, function()
        for _, item in ipairs(items) do
            open_scope(L)
            local body = select(2, nodes.aside(L, function()
                bind(L, node, node.vars[1], item.key)
                if node.vars[2] then bind(L, node, node.vars[2], item.value()) end
                block(L, node.body)
            end))
            close_scope(L)
            emit(L, node_at(L, node, "Do", { body = body }))
        end
    end)
    emit(L, node_at(L, node, "Do", { body = loop.is_left and { node_at(L, node, "Region", { name = label, body = list }) } or list }))
end

-- Writes what ends a loop over a list of the function that gets shorter in it. One that gets longer
-- fails, since the loop's last turn is known before it.
local function follow_length(L, node, base, length, index)
    local last = last_of(L, node, base)
    table.insert(L.out, 1, nodes.if_statement(L, node, nodes.binop(L, node, ">", index, last), { node_at(L, node, "Break", {}) }))
    local has_grown = nodes.binop(L, node, ">", last, length)
    local is_last = nodes.binop(L, node, ">=", index, length)
    local failure = nodes.error_statement(L, node, { ("'%s' gets longer in a loop over it; on a device use while, and an index"):format(
        base.storage.name) })
    emit(L, nodes.if_statement(L, node, nodes.all_of(L, node, { is_last, has_grown }), { failure }))
end

-- A loop over the elements of a list that may have holes. `is_list`: up to the first of these.
local function over_holes(L, node, base, is_list, label)
    local list = base.storage.list
    local from, to = is_list and 1 or list.from, list.from + list.count - 1
    return numeric_loop(L, node, node.vars[1], number(L, node, from), number(L, node, to), nil, function(new)
        open_scope(L)
        bind_counter(L, node, node.vars[1], new)
        local key = name_of(L, node, new)
        local is_there = holes.has(L, node, base, key)
        local function body()
            if node.vars[2] then bind(L, node, node.vars[2], index_value(L, node, base, key)) end
            block(L, node.body)
        end
        if is_list then
            emit(L, nodes.if_statement(L, node, node_at(L, node, "Unop", { op = "not", expr = is_there }), { node_at(L, node, "Break", {}) }))
            body()
        else
            emit(L, nodes.if_statement(L, node, is_there, select(2, nodes.aside(L, body))))
        end
        close_scope(L)
    end, label)
end

-- A loop over the elements of a list, from 1. `label`: where `break` goes to, if not behind the
-- loop; `is_all`: with what is behind a hole, as pairs. Gives what is known of the loop.
local function over_list(L, node, base, given, label, is_all)
    local length
    if base.t == "object" then
        make_list(L, base.storage.class)
        if base.storage.list and base.storage.list.there then return over_holes(L, node, base, not is_all, label) end
        if not base.storage.list then length = number(L, node, 1) end
    end
    length = length or expression.Unop(L, { tag = "Unop", op = "#", line = node.line, expr = given }).node
    local list, changes = base.t == "object" and base.storage.list, base.storage and base.storage.changes
    return numeric_loop(L, node, node.vars[1], number(L, node, 1), length, nil, function(new)
        open_scope(L)
        bind_counter(L, node, node.vars[1], new)
        if node.vars[2] then bind(L, node, node.vars[2], index_value(L, node, base, name_of(L, node, new))) end
        block(L, node.body)
        close_scope(L)
        if list and not list.is_fixed and base.storage.changes ~= changes then follow_length(L, node, base, length, name_of(L, node, new)) end
    end, label)
end

-- Keys in an order that is the same in every process, as kept programs need it: numbers, then
-- names. That of next is not, and Lua leaves it open.
local function in_order(keys)
    table.sort(keys, function(a, b)
        if type(a) ~= type(b) then return type(a) == "number" end
        return a < b
    end)
    return keys
end

-- The constructor of a table that is made for the loop: its items one after the other.
local function over_items(L, node, given, is_list)
    local items, names, by_name, count, has_ended = {}, {}, {}, 0, false
    local function add(key, value)
        local is_nil = value.t == "scalar" and value.node.tag == "Nil"
        value = hold_value(L, node, value, "item")
        local made = { key = key and expr(L, key), value = function() return value end }
        if key then
            names[#names + 1], by_name[key.value] = not is_nil and key.value or nil, made
            return
        end
        count, has_ended = count + 1, has_ended or is_list and is_nil
        made.key = scalar(number(L, node, count))
        if not has_ended and not is_nil then items[#items + 1] = made end
    end
    for i, item in ipairs(given.items) do
        local key = item.key
        if key and (is_list or key.tag ~= "String" or by_name[key.value]) then
            refuse(L, node, "a loop over a table with other keys than 1, 2, 3%s", is_list and "" or " and names, each of them once")
        end
        if not key and i == #given.items and calls.is_open(item.value) then
            for _, value in ipairs(calls.all_values(L, item.value)) do add(nil, optional.settle(L, node, value)) end
        else
            add(key, expr(L, item.value))
        end
    end
    for _, name in ipairs(in_order(names)) do items[#items + 1] = by_name[name] end
    unrolled(L, node, items)
end

-- Is it a list of numbers or tables, which an index that is computed can read? `is_all`: for pairs,
-- which goes through it from 1 on only where there is nothing else.
local function is_plain_list(L, value, is_all)
    if value[0] ~= nil and is_all or not (L.infer.is_list(value) or from_zero(value) or is_list_of_tables(value)) then return false end
    local count = 0
    for _ in next, is_all and value or {} do count = count + 1 end
    return not is_all or count == #value
end

-- Does the loop read fields of the list's tables that only a body for each of them can: texts,
-- functions and booleans?
local function reads_others(node, value)
    local others, found = {}, false
    for _, each in ipairs(value) do
        for key, field in pairs(type(each) == "table" and each or {}) do
            if type(field) ~= "number" and type(field) ~= "table" then others[key] = true end
        end
    end
    trees.each_node(next(others) and node.body or {}, function(part)
        local of = (part.tag == "Index" or part.tag == "Method") and part.object
        local key = of and of.tag == "Name" and of.var and of.var == node.vars[2] and (part.name or part.key.value)
        found = found or key and others[key] or false
    end)
    return found
end

-- The keys of a captured table, or of its list only; what they are is part of the code. Keys that
-- are neither numbers nor names are told.
local function keys_of(L, static, is_list)
    local function keys(value)
        local list = {}
        if is_list then
            for i in ipairs(value) do list[i] = i end
            return list
        end
        for key in next, value do
            if type(key) ~= "string" and type(key) ~= "number" then return nil, type(key) end
            list[#list + 1] = key
        end
        return in_order(list)
    end
    local function text(value)
        local list = keys(value) or {}
        for i, key in ipairs(list) do list[i] = type(key) .. " " .. tostring(key) end
        return table.concat(list, "\n")
    end
    local all = derived(static, "the keys of " .. static.path, is_list and "list" or "keys", text)
    L.program.baked[all.key] = all
    return keys(static.value)
end

local function over_static(L, node, base, given, is_list)
    local static = base.static
    local value = static.value
    if L.infer.array_type(value) then
        if not is_list then refuse(L, node, "pairs of the typed array '%s'; use a numeric for", static.path) end
        return over_list(L, node, base, given)
    end
    if type(value) ~= "table" then refuse(L, node, "a loop over '%s', which is a %s", static.path, type(value)) end
    local is_plain = is_plain_list(L, value, not is_list) and not reads_others(node, value)
    if is_plain then
        if not is_list then
            local function check(now) return is_plain_list(L, now, true) end
            local form = derived(static, "the keys of " .. static.path, "in order", check)
            L.program.baked[form.key] = form
        end
        return over_list(L, node, base, given)
    end
    local items, keys, other = {}, keys_of(L, static, is_list)
    if not keys then refuse(L, node, "a loop over '%s', which has a %s as a key", static.path, other) end
    for i, key in ipairs(keys) do
        local kind = type(key)
        local at = node_at(L, node, kind == "string" and "String" or "Number", { value = key })
        items[i] = { key = scalar(at), value = function() return index_value(L, node, base, at) end }
    end
    unrolled(L, node, items)
end

-- A table of the function that has functions in it.
local function over_functions(L, node, base, is_list)
    local items, own = {}, base.storage.functions
    if not own[1] or not is_list then
        refuse(L, node, "pairs of '%s', which has functions in it; use ipairs of a list of functions", base.storage.name)
    end
    for i, value in ipairs(own) do items[i] = { key = scalar(number(L, node, i)), value = function() return value end } end
    unrolled(L, node, items)
end

-- A table of the function: its list, and then its fields.
local function over_object(L, node, base, given, is_list)
    local class = find(base.storage.class)
    local own = base.storage.functions
    if own then return over_functions(L, node, base, is_list) end
    local fields = {}
    for _, key in ipairs(not is_list and class.order or {}) do
        if type(key) == "string" then fields[#fields + 1] = key end
    end
    local items = {}
    for i, key in ipairs(in_order(fields)) do
        if not places.is_there(base, key) then
            refuse(L, node, "pairs of '%s', of which the field '%s' may not be there; give it all fields where it is made", base.storage.name, key)
        end
        local at = node_at(L, node, "String", { value = key })
        items[i] = { key = scalar(at), value = function() return index_value(L, node, base, at) end }
    end
    if not is_list and #fields > 0 and #fields == #class.order and not class.has_list then return unrolled(L, node, items) end
    if not is_list and class.has_list and class.from < 1 then holes.note(L, class) end
    if #fields == 0 then return over_list(L, node, base, given, nil, not is_list) end
    local label = new_label(L, node)
    local loop, lines = nodes.aside(L, function()
        local loop = over_list(L, node, base, given, label, true)
        unrolled(L, node, items)
        return loop
    end)
    emit(L, node_at(L, node, "Do", { body = loop.is_left and { node_at(L, node, "Region", { name = label, body = lines }) } or lines }))
end

-- A record of a captured list: all of them must have the keys of the first one.
local function over_record(L, node, base, given, is_list)
    local matrix = matrix_of(base.static.value)
    if not is_list and matrix and matrix.row_from == 0 then
        refuse(L, node, "pairs of an element of '%s', which counts from 0; use a numeric for", base.static.path)
    end
    if is_list or matrix then return over_list(L, node, base, given) end
    local function keys(value)
        local list = {}
        for key in next, value do list[#list + 1] = tostring(key) end
        table.sort(list)
        return table.concat(list, "\n")
    end
    local function common(value)
        local all
        for _, each in ipairs(value) do
            local its = keys(each)
            if all and all ~= its then return false end
            all = its
        end
        return all
    end
    local form = derived(base.static, "the keys of " .. base.static.path .. "[...]", "common keys", common)
    if not form.value then refuse(L, node, "pairs of an element of '%s', whose elements have different keys", base.static.path) end
    L.program.baked[form.key] = form
    local items = {}
    local names = {}
    for key in next, base.example.value do
        if type(key) ~= "string" then refuse(L, node, "pairs of an element of '%s'; use ipairs", base.static.path) end
        names[#names + 1] = key
    end
    for i, key in ipairs(in_order(names)) do
        local at = node_at(L, node, "String", { value = key })
        items[i] = { key = scalar(at), value = function() return index_value(L, node, base, at) end }
    end
    unrolled(L, node, items)
end

local function loop_over(L, node)
    local given, is_list = iterated(L, node)
    if #node.vars > 2 then refuse(L, node, "'for' with %d names; ipairs and pairs give two values", #node.vars) end
    given = trees.bare(given)
    if given.tag == "Table" and #given.items > 0 and given.items[#given.items].value.tag ~= "Vararg" then
        return over_items(L, node, given, is_list)
    end
    local base = expr(L, given)
    if given.tag ~= "Name" and given.tag ~= "Index" then given = { tag = "Given", line = given.line, value = base } end
    if base.t == "scalar" and base.class and L.changed then return end -- the next round will know the table
    if base.t == "static" then return over_static(L, node, base, given, is_list) end
    if base.t == "object" then return over_object(L, node, base, given, is_list) end
    if base.t == "element" then return over_record(L, node, base, given, is_list) end
    refuse(L, node, "a loop over something that is no table")
end

function statement.Forin(L, node) loop_over(L, node) end
