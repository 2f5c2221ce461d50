-- lower.lua: takes tables apart before types are inferred. From a function that makes tables, or
-- takes elements that are tables from captured ones, it makes one that has numbers and booleans in
-- locals only, and rooms: private arrays of a size that is known.
--
-- The walk over the tree evaluates what is known now: which table an expression stands for, and
-- which function is called. A table is a tree of locals, its storage: one for each field, and for a
-- list a room, with the first and the last index that it has (lists have no holes). Functions that
-- are given tables, or make some, are put in the place of their calls, so that a table keeps its
-- identity there. A table that is stored into a variable, field or element is copied; where a copy
-- could be told from the table itself, since one of both is changed while the other lives on, that
-- is refused.
--
-- What a table needs (fields, the size of a list) is known when all of its uses were seen. So the
-- walk is repeated, with what the last one found in Classes, until nothing changes.
--
-- New nodes, for infer.lua: Room{var, size} declares an array of a local's elements; Cell{var,
-- index} reads one, and Put{var, index, value} writes one; their index counts from 0 and is
-- checked. Fixed{static} is a value of the host. `source` of a node: the text that it is in, where
-- that is not the function's own.

local builtins = require "tidepool.translate.builtins"
local parse = require "tidepool.translate.parse"

local lower = {}

local ROOM_MAX = 4096      -- elements of all lists of a function
local INLINED_MAX = 2000   -- calls that are put in place
local ROUNDS_MAX = 40

---------------------------------------------------------------------------------------------------
-- Classes: what is known of tables that must be laid out alike

local function new_class() return { fields = {}, order = {} } end

-- A class: is_table; fields by key, with those of a list's elements at "*"; order of the keys;
-- meta: the metatable, a Static. Of a list: has_list; from, to: the indexes that are written;
-- counted: elements that are written at indexes that nobody knows; appended: elements that are
-- added at its end; count: elements of its constructor; grows: not always as many.
local function find(class)
    while class.same do class = class.same end
    return class
end

local function note_change(L) L.changed = true end

local function field_class(L, class, key)
    class = find(class)
    if class.has_list and type(key) == "number" then key = "*" end
    local field = class.fields[key]
    if not field then
        field = new_class()
        class.fields[key] = field
        class.order[#class.order + 1] = key
        class.is_table = true
        note_change(L)
    end
    return find(field)
end

local unify

-- Makes the class that of a list: whole numbers are computed keys.
local function make_list(L, class)
    class = find(class)
    if class.has_list then return class end
    class.has_list, class.is_table, class.from, class.to = true, true, 1, 0
    note_change(L)
    local order = {}
    for _, key in ipairs(class.order) do
        if type(key) == "number" then
            local field = class.fields[key]
            class.fields[key] = nil
            class.from, class.to = math.min(class.from, key), math.max(class.to, key)
            if class.fields["*"] then unify(L, class.fields["*"], field) else class.fields["*"] = field end
        else
            order[#order + 1] = key
        end
    end
    class.order = order
    class.fields["*"] = class.fields["*"] or new_class()
    return class
end

function unify(L, a, b)
    a, b = find(a), find(b)
    if a == b then return a end
    note_change(L)
    if b.has_list then make_list(L, a) elseif a.has_list then make_list(L, b) end
    b.same = a
    a.is_table = a.is_table or b.is_table
    a.meta = a.meta or b.meta
    a.grows = a.grows or b.grows
    if a.count and b.count and a.count ~= b.count then a.grows = true end
    a.count = a.count or b.count
    if b.has_list then a.from, a.to = math.min(a.from, b.from), math.max(a.to, b.to) end
    if b.appended then a.appended = math.max(a.appended or 0, b.appended) end
    if b.counted then a.counted = math.max(a.counted or 0, b.counted) end
    for key, field in pairs(b.fields) do
        if a.fields[key] then
            unify(L, a.fields[key], field)
        else
            a.fields[key] = field
            if key ~= "*" then a.order[#a.order + 1] = key end
        end
    end
    return a
end

-- The class is that of a table, since it is indexed with this key.
function lower.make_table(L, class, key)
    class = find(class)
    if not class.is_table then
        class.is_table = true
        note_change(L)
    end
    if key.tag == "String" or key.tag == "Number" then field_class(L, class, key.value) else make_list(L, class) end
end

-- The variable is a table's, since it is indexed.
function lower.note_variable(L, value)
    local var = value.variable
    if not var then return end
    if not L.variables[var] then
        L.variables[var] = new_class()
        note_change(L)
    end
    value.class = L.variables[var]
end

local function extend(L, class, from, to)
    class = find(class)
    if from < class.from then class.from = from note_change(L) end
    if to > class.to then class.to = to note_change(L) end
end

---------------------------------------------------------------------------------------------------
-- Nodes

local function refuse(L, at, format, ...)
    local fn = at.source and { source = at.source } or L.context and L.context.fn or L.fn
    local name = L.context and L.context.name
    local inside = name and name ~= L.name and (" in '%s':"):format(name) or ""
    error({ refusal = ("%s:%d: gpu function%s:%s %s"):format((fn.source or at.source).file, at.line, L.name and (" '%s'"):format(L.name) or "",
        inside,
        format:format(...)) }, 0)
end

local function node_at(L, at, tag, fields)
    fields.tag, fields.line = tag, at.line
    fields.source = L.context.fn ~= L.fn and L.context.fn.source or at.source
    return fields
end

local function emit(L, node)
    L.out[#L.out + 1] = node
    return node
end

local function new_local(L, name, at, assigned)
    return { name = name, line = at.line, def = L.def, assigned = assigned or false }
end

local function name_of(L, at, var) return node_at(L, at, "Name", { name = var.name, var = var }) end
local function number(L, at, value)
    return node_at(L, at, "Number", { value = value })
end
local function binop(L, at, op, left, right) return node_at(L, at, "Binop", { op = op, left = left, right = right }) end
local function fixed(L, at, static) return node_at(L, at, "Fixed", { static = static, name = static.path }) end
local function library(L, at, path, fn)
    return fixed(L, at, { path = path, key = path, value = fn, read = function() return fn end })
end
local function all_of(L, at, list)
    local node = list[1]
    for i = 2, #list do node = node_at(L, at, "And", { op = "and", left = node, right = list[i] }) end
    return node
end
local function is_whole(L, at, node)
    return binop(L, at, "==", node, node_at(L, at, "Call", { callee = library(L, at, "math.floor", math.floor), args = { node } }))
end

-- Does the range of a variable that is assigned to bound the expression? Such a range holds, but is
-- wide.
local function is_rough(node)
    if node.tag == "Name" then return node.var ~= nil and (node.var.assigned or node.var.is_rough) or false end
    if node.tag == "Binop" then return is_rough(node.left) or (node.op ~= "%" and is_rough(node.right)) end
    if node.tag == "Unop" or node.tag == "Paren" then return is_rough(node.expr) end
    if node.tag == "Call" then
        for _, arg in ipairs(node.args) do if is_rough(arg) then return true end end
    end
    return false
end

-- The line of the loop with an unknown limit whose counter the expression is, plus or minus
-- something.
function lower.open_loop(node)
    if node.tag == "Name" then return node.var and node.var.loop end
    if node.tag == "Paren" then return lower.open_loop(node.expr) end
    if node.tag == "Binop" and (node.op == "+" or node.op == "-") then return lower.open_loop(node.left) or lower.open_loop(node.right) end
end

-- Is it the same whenever it is evaluated, and cheap?
local function is_stable(node)
    return node.tag == "Number" or node.tag == "Fixed" or node.tag == "Nil" or node.tag == "True" or node.tag == "False" or node.tag == "String"
        or (node.tag == "Name" and node.var and not node.var.assigned)
end

local function hold(L, at, node, name)
    if is_stable(node) then return node end
    local var = new_local(L, name or "t", at)
    var.range, var.is_rough, var.loop = lower.range(L, node), is_rough(node), lower.open_loop(node)
    emit(L, node_at(L, at, "Local", { vars = { var }, exprs = { node } }))
    return name_of(L, at, var)
end

-- The same for a value, if it is no table. `class`: of a place that may turn out to hold a table.
local function hold_value(L, at, value, name)
    if value.t ~= "scalar" then return value end
    return { t = "scalar", node = hold(L, at, value.node, name), class = value.class }
end

local function error_statement(L, at, text, detail)
    local message = node_at(L, at, "String", { value = ("%s:%d: %s"):format((at.source or L.context.fn.source).file, at.line, text[1]) })
    if detail then
        message = binop(L, at, "..", message, binop(L, at, "..", detail, node_at(L, at, "String", { value = text[2] })))
    end
    return node_at(L, at, "CallStat", { call = node_at(L, at, "Call", { callee = library(L, at, "error", error), args = { message, number(L, at,
        0) } }) })
end

-- Fails unless the condition holds.
local function check(L, at, condition, text, detail)
    emit(L, node_at(L, at, "If", { clauses = { node_at(L, at, "Clause", {
        cond = node_at(L, at, "Unop", { op = "not", expr = condition }), body = { error_statement(L, at, text, detail) } }) } }))
end

---------------------------------------------------------------------------------------------------
-- Ranges: the least and the greatest value of an expression, { lo, hi, is_whole }; nil when not
-- known

local function joined(a, b)
    return a and b and { math.min(a[1], b[1]), math.max(a[2], b[2]), a[3] and b[3] }
end

local function range_of_call(L, node)
    local static = node.callee.tag == "Fixed" and node.callee.static
    local value = static and static.value
    local a = node.args[1] and lower.range(L, node.args[1])
    local b = node.args[2] and lower.range(L, node.args[2])
    if value == math.floor then return a and { math.floor(a[1]), math.floor(a[2]), true } end
    if value == math.abs then return a and { 0, math.max(math.abs(a[1]), math.abs(a[2])), a[3] } end
    if value == math.min and #node.args == 2 then
        return a and b and { math.min(a[1], b[1]), math.min(a[2], b[2]), a[3] and b[3] }
    elseif value == math.max and #node.args == 2 then
        return a and b and { math.max(a[1], b[1]), math.max(a[2], b[2]), a[3] and b[3] }
    elseif value == require "bit".band and #node.args == 2 then
        local mask = b and b[1] == b[2] and b[1] or a and a[1] == a[2] and a[1]
        return mask and mask >= 0 and mask < 2 ^ 31 and { 0, mask, true } or nil
    end
end

---@return number[]?
function lower.range(L, node)
    local tag = node.tag
    if tag == "Number" then return { node.value, node.value, node.value == math.floor(node.value) } end
    if tag == "Paren" then return lower.range(L, node.expr) end
    if tag == "Name" then return node.var and node.var.range end
    if tag == "Fixed" then
        local value = node.static.value
        if type(value) ~= "number" or value ~= value or math.abs(value) > 2 ^ 31 then return end
        L.program.baked[node.static.key] = node.static
        return { value, value, value == math.floor(value) }
    end
    if tag == "Call" then return range_of_call(L, node) end
    if tag == "Unop" and node.op == "#" and node.expr.tag == "Fixed" and type(node.expr.static.value) == "table" then
        local static = node.expr.static
        local count = #static.value
        L.program.baked["#" .. static.key] = { path = "#" .. static.path, value = count, read = function() return #static.read() end }
        return { count, count, true }
    end
    if tag == "Unop" and node.op == "-" then
        local a = lower.range(L, node.expr)
        return a and { -a[2], -a[1], a[3] }
    elseif tag ~= "Binop" then
        return
    end
    local a, b, op = lower.range(L, node.left), lower.range(L, node.right), node.op
    if op == "%" then
        if not b or b[1] ~= b[2] or b[1] <= 0 then return end
        return a and a[3] and b[3] and { 0, b[1] - 1, true } or { 0, b[1], false }
    end
    if not a or not b then return end
    local whole = a[3] and b[3]
    if op == "+" then return { a[1] + b[1], a[2] + b[2], whole } end
    if op == "-" then return { a[1] - b[2], a[2] - b[1], whole } end
    if op == "*" or op == "/" then
        if op == "/" and (b[1] <= 0 and b[2] >= 0) then return end
        local list = op == "*" and { a[1] * b[1], a[1] * b[2], a[2] * b[1], a[2] * b[2] } or { a[1] / b[1], a[1] / b[2], a[2] / b[1], a[2] / b[2] }
        return { math.min(unpack(list)), math.max(unpack(list)), op == "*" and whole }
    end
end

---------------------------------------------------------------------------------------------------
-- Storage: a tree of locals as a class says. { class, var } for a number; with `fields` for a
-- table, and `list` = { from, to, element, count } for a list. `size`: of the room that it is, in
-- the elements of lists around it. A place is { t = "object", storage, at = index into its rooms }.

local function declare(L, at, name, size)
    local var = new_local(L, name, at, true)
    if size then
        L.room = L.room + size
        if L.room > ROOM_MAX then
            refuse(L, at, "'%s': the lists of this function would have more than %d elements; capture a typed array (tidepool.array)", name, ROOM_MAX)
        end
        emit(L, node_at(L, at, "Room", { var = var, size = size }))
    else
        emit(L, node_at(L, at, "Local", { vars = { var }, exprs = L.zero and { number(L, at, 0) } or {} }))
    end
    return var
end

local function new_storage(L, at, class, name, size, parent)
    class = find(class)
    local storage = { class = class, name = name, size = size, loops = #L.loops, at = at, is_alive = true, line = at.line }
    storage.parent, storage.root = parent, parent and parent.root or storage
    L.serial = L.serial + 1
    storage.serial = L.serial
    if not parent then L.scope.storages[#L.scope.storages + 1] = storage end
    if not class.is_table then
        storage.var = declare(L, at, name, size)
        return storage
    end
    storage.fields = {}
    for _, key in ipairs(class.order) do
        storage.fields[key] = new_storage(L, at, class.fields[key], type(key) == "number" and ("%s[%d]"):format(name, key) or name .. "."
            .. tostring(key),
            size, storage)
    end
    if class.has_list then
        local to = math.max(class.to >= 1 and class.to or class.counted or 0, class.count or 0)
        local count = math.max(1, to + (class.appended or 0) - class.from + 1)
        local list = { class = class, from = class.from, count = count, is_fixed = not class.grows and class.count ~= nil, length = class.count }
        storage.list = list
        if not list.is_fixed then
            list.first = declare(L, at, "first of " .. name, size)
            list.last = declare(L, at, "last of " .. name, size)
        end
        list.element = new_storage(L, at, class.fields["*"], name .. "[...]", (size or 1) * count, storage)
    end
    return storage
end

local function read_var(L, at, var, index)
    if index then return node_at(L, at, "Cell", { var = var, index = index }) end
    return name_of(L, at, var)
end

local function write_var(L, at, var, index, value)
    if index then
        emit(L, node_at(L, at, "Put", { var = var, index = index, value = value }))
    else
        emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { value } }))
    end
end

local function scalar(node, class) return { t = "scalar", node = node, class = class } end

local function object(storage, index)
    return { t = "object", storage = storage, at = index }
end

-- What a place holds: a table, or a number.
local function value_of(L, at, storage, index)
    if storage.fields then return object(storage, index) end
    return scalar(read_var(L, at, storage.var, index), storage.class)
end

-- The first and the last index of a list.
local function first_of(L, at, place)
    local list = place.storage.list
    return list.is_fixed and number(L, at, 1) or read_var(L, at, list.first, place.at)
end
local function last_of(L, at, place)
    local list = place.storage.list
    return list.is_fixed and number(L, at, list.length) or read_var(L, at, list.last, place.at)
end

-- The index into the rooms of a list's elements.
local function room_index(L, at, place, key)
    local list = place.storage.list
    local index = key.tag == "Number" and number(L, at, key.value - list.from) or list.from == 0 and key
        or binop(L, at, "-", key, number(L, at, list.from))
    if not place.at then return index end
    return binop(L, at, "+", binop(L, at, "*", place.at, number(L, at, list.count)), index)
end

local function is_inside(range, from, to)
    return range and range[3] and range[1] >= from and range[2] <= to
end

-- Refuses a change of a table of which there is a copy that would have to change, too.
local function note_mutation(L, at, place)
    local storage = place.storage
    while storage do
        storage.mutated = storage.mutated or at.line
        for _, other in ipairs(storage.copies or {}) do
            if other.is_target or other.storage.root.is_alive then
                refuse(L, at, "a change of '%s', which is also '%s' since line %d; on a device these are two tables, copy its fields into a new one",
                    storage.name, other.storage.name, other.line)
            end
        end
        storage = storage.parent
    end
end

-- Notes that the table was copied to a place, and can still be reached where it was.
local function note_copy(L, at, from, to)
    local source, target = from.storage, to.storage
    if source == target then return end
    local changed = source.root.loops < #L.loops and (source.mutated or target.root == target and target.mutated)
    if changed then
        refuse(L, at, "'%s' is put into '%s', and changed in line %d; on a device these are two tables, put a new one there", source.name,
            target.name, changed)
    end
    source.copies, target.copies = source.copies or {}, target.copies or {}
    table.insert(source.copies, { storage = target, line = at.line, is_target = true })
    table.insert(target.copies, { storage = source, line = at.line })
end

local copy

-- Copies a list: its bounds and elements.
local function copy_list(L, at, to, from)
    local list = to.storage.list
    local first, last = hold(L, at, first_of(L, at, from)), hold(L, at, last_of(L, at, from))
    if not list.is_fixed then
        write_var(L, at, list.first, to.at, first)
        write_var(L, at, list.last, to.at, last)
    end
    local var, outer = new_local(L, "i", at), L.out
    local source = from.storage.list
    local class = find(source.class)
    var.range = { class.from, class.to, true }
    L.out = {}
    local key = name_of(L, at, var)
    copy(L, at, object(list.element, room_index(L, at, to, key)), value_of(L, at, source.element, room_index(L, at, from, key)))
    local body = L.out
    L.out = outer
    emit(L, node_at(L, at, "Fornum", { var = var, start = first, limit = last, body = body }))
end

local function static_field(static, key)
    local function read() return static.read()[key] end
    local path = type(key) == "string" and ("%s.%s"):format(static.path, key) or ("%s[%.14g]"):format(static.path, key)
    return { path = path, key = static.key .. "." .. tostring(key), value = static.value[key], read = read, base = static.value }
end

local function of_static(L, at, static)
    local value = static.value
    if type(value) == "table" or type(value) == "userdata" or type(value) == "function" or type(value) == "cdata" then
        return { t = "static", static = static }
    end
    return scalar(fixed(L, at, static))
end

local index_value

-- Copies a value to a place. Classes of both are made alike.
function copy(L, at, to, value)
    local storage = to.storage
    if value.t ~= "scalar" then
        for _, alias in ipairs(storage.aliases or {}) do
            if alias.scope.is_open and not L.copied[alias.var] then
                L.copied[alias.var] = true
                note_change(L)
            end
        end
    end
    if value.t == "object" then
        unify(L, storage.class, value.storage.class)
        if not storage.fields then return end -- the next round knows
        for key, field in pairs(storage.fields) do
            local source = value.storage.fields[key]
            if source then copy(L, at, object(field, to.at), value_of(L, at, source, value.at)) end
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
        if storage.list and not storage.list.is_fixed then
            write_var(L, at, storage.list.first, to.at, number(L, at, static.value[0] ~= nil and 0 or 1))
            write_var(L, at, storage.list.last, to.at, number(L, at, #static.value))
        end
    elseif value.t == "scalar" then
        if find(storage.class).is_table then
            if value.node.tag == "Nil" then return end
            refuse(L, at, "'%s' is a table in one place and a number in another", storage.name)
        end
        write_var(L, at, storage.var, to.at, value.node)
    else
        refuse(L, at, "a function in a table; on a device call it by its name")
    end
end

---------------------------------------------------------------------------------------------------
-- Expressions

local expr, expr_scalar, expr_list, call_values, block, inline

local function lookup(L, var)
    local scope = L.scope
    while scope do
        local known = scope.vars[var]
        if known then return known end
        scope = scope.outer
    end
end

local function open_scope(L, outer)
    L.scope = { vars = {}, storages = {}, outer = outer or L.scope, back = L.scope, is_open = true }
end

local function close_scope(L)
    for _, storage in ipairs(L.scope.storages) do storage.is_alive = false end
    L.scope.is_open = false
    L.scope = L.scope.back
end

-- Lets a local, which nothing assigns to, stand for a table. Where the table's place gets another
-- one while the local lives (L.copied), the local is a copy.
local function bind_table(L, at, scope, var, value)
    if value.t == "object" and L.copied[var] then
        local storage = new_storage(L, at, value.storage.class, var.name)
        copy(L, at, object(storage), value)
        note_copy(L, at, value, object(storage))
        value = object(storage)
    elseif value.t == "object" then
        local storage = value.storage
        storage.aliases = storage.aliases or {}
        table.insert(storage.aliases, { var = var, scope = scope })
    end
    scope.vars[var] = value
end

local function name_value(L, node)
    local known = node.var and lookup(L, node.var)
    if not known then return of_static(L, node, L.infer.static_outside(L.context.fn, node.name)) end
    if known.t == "variable" then
        local value = scalar(name_of(L, node, known.var), known.class)
        value.variable = known.of.assigned and not known.is_parameter and known.of or nil
        return value
    end
    if known.t == "scalar" then return scalar(known.node, known.class) end
    return known
end

-- What an expression stands for, if that is known without evaluating anything.
local function peek(L, node)
    if node.tag == "Paren" then return peek(L, node.expr) end
    if node.tag == "Name" then return name_value(L, node) end
    if node.tag == "Nil" then return scalar(node) end
    if node.tag == "Index" and (node.key.tag == "String" or node.key.tag == "Number") then
        local base = peek(L, node.object)
        if base and base.t == "static" and type(base.static.value) == "table" then return of_static(L, node, static_field(base.static,
            node.key.value)) end
        if base and base.t == "object" then
            local field = base.storage.fields[node.key.value]
            if field and field.fields then return object(field, base.at) end
        end
    end
end

local NUMBERS = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

local function is_number(node)
    local tag = node.tag
    if tag == "Number" or tag == "Unop" and node.op == "-" or tag == "Binop" and NUMBERS[node.op] then return true end
    if tag == "Name" then return node.var and (node.var.is_number or node.var.range ~= nil) end
    if tag == "Fixed" then return type(node.static.value) == "number" end
    if tag == "Call" then return node.callee.static and builtins.find(node.callee.static.value) ~= nil end
    return false
end

-- The type() of what an expression stands for, where it is known.
local function type_of(L, node)
    local value = peek(L, node)
    if not value then return end
    if value.t == "object" or value.t == "element" then return "table" end
    if value.t == "function" then return "function" end
    if value.t == "static" then return type(value.static.value) end
    if value.node.tag == "Nil" then return "nil" end
    if value.node.tag == "Fixed" then
        L.program.baked[value.node.static.key] = value.node.static
        return type(value.node.static.value)
    end
    if is_number(value.node) then return "number" end
end

-- The string that an expression is known to be.
function lower.string_of(L, node)
    if node.tag == "String" then return node.value end
    local value = (node.tag == "Name" or node.tag == "Index") and peek(L, node)
    local static = value and value.t == "scalar" and value.node.tag == "Fixed" and value.node.static
    if not static or type(static.value) ~= "string" then return end
    L.program.baked[static.key] = static
    return static.value
end

local function truth_of(L, node)
    local tag = node.tag
    if tag == "Paren" then return truth_of(L, node.expr) end
    if tag == "True" or tag == "Number" or tag == "String" then return true end
    if tag == "False" or tag == "Nil" then return false end
    if tag == "Unop" and node.op == "not" then
        local truth = truth_of(L, node.expr)
        if truth ~= nil then return not truth end
    elseif tag == "And" or tag == "Or" then
        local left, right = truth_of(L, node.left), truth_of(L, node.right)
        if left == (tag == "Or") then return left end
        if left ~= nil then return right end
    elseif tag == "Binop" and (node.op == "==" or node.op == "~=") then
        local left, right = node.left, node.right
        local text, other = lower.string_of(L, left), lower.string_of(L, right)
        if text and other then return (text == other) == (node.op == "==") end
        if left.tag == "String" or left.tag == "Nil" then left, right = right, left end
        if right.tag == "String" and left.tag == "Call" and #left.args == 1 then
            local callee = peek(L, left.callee)
            if callee and callee.t == "static" and callee.static.value == type then
                local name = type_of(L, left.args[1])
                if name then return (name == right.value) == (node.op == "==") end
            end
        elseif right.tag == "Nil" then
            local name = type_of(L, left)
            local value = name == "table" and peek(L, left)
            if value and (value.t == "element" or value.may_be_nil) then return end
            if name == "table" or name == "function" or name == "nil" then return (name == "nil") == (node.op == "==") end
        end
    elseif tag == "Name" or tag == "Index" then
        local name = type_of(L, node)
        local value = name == "table" and peek(L, node)
        if value and (value.t == "element" or value.may_be_nil) then return end
        if name == "table" or name == "function" or name == "userdata" or name == "cdata" then return true end
        if name == "nil" then return false end
        if name == "boolean" then
            local static = peek(L, node).node.static
            return static and static.value
        end
    end
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

-- Something of the host that is computed from a captured value, which must keep its form.
local function derived(static, path, key, compute)
    local function read()
        local ok, value = pcall(compute, static.read())
        return ok and value or nil
    end
    return { path = path, key = static.key .. " " .. key, value = read(), read = read }
end

local function cell_of_matrix(L, at, element, key)
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

local function is_list_of_tables(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return false end
    return type(value[1]) == "table" or type(value[0]) == "table"
end

local function static_element(L, at, static, key)
    local value = static.value
    if is_list_of_tables(value) then
        key = hold(L, at, key, "index")
        local first = value[1] or value[0]
        return { t = "element", static = static, index = key, example = { path = static.path .. "[...]", value = first } }
    elseif from_zero(value) then
        local list = derived(static, static.path, "from zero", from_zero)
        list.shift = 1
        return scalar(node_at(L, at, "Index", { object = fixed(L, at, list), key = binop(L, at, "+", key, number(L, at, 1)) }))
    end
    return scalar(node_at(L, at, "Index", { object = fixed(L, at, static), key = key }))
end

-- Checks that a list has an element with this index; nothing when that is known.
local function check_index(L, at, place, key)
    local list = place.storage.list
    if list.is_fixed and is_inside(lower.range(L, key), 1, list.length) then return end
    check(L, at, all_of(L, at, { binop(L, at, ">=", key, first_of(L, at, place)), binop(L, at, "<=", key, last_of(L, at, place)), is_whole(L, at,
        key) }),
        { "index ", (" of '%s' has no element, or is not a whole number"):format(place.storage.name) }, key)
end

-- Which element of a table an expression is: its storage and index; nil in a round that does not
-- know it yet. `is_read`: it must be there.
local function place_in(L, at, place, key, is_read)
    local storage = place.storage
    local constant = (key.tag == "String" or key.tag == "Number") and key.value
    local class = find(storage.class)
    if constant and not (class.has_list and type(constant) == "number") then
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

function index_value(L, at, base, key)
    local constant = (key.tag == "String" or key.tag == "Number") and key.value
    if base.t == "static" then
        local static = base.static
        local is_array = L.infer.array_type(static.value)
        if constant ~= false and not (is_array and type(constant) == "number") then
            if type(static.value) ~= "table" and not is_array then
                refuse(L, at, "'%s' is a %s, which has no fields", static.path, type(static.value))
            end
            return of_static(L, at, static_field(static, constant))
        end
        if is_array or type(static.value) ~= "table" then return scalar(node_at(L, at, "Index", { object = fixed(L, at, static), key = key })) end
        return static_element(L, at, static, key)
    elseif base.t == "element" then
        if constant == false then return cell_of_matrix(L, at, base, key) end
        local example = type(base.example.value) == "table" and base.example.value[constant]
        if type(example) == "table" then
            local list = derived(base.static, ("%s[...].%s"):format(base.static.path, constant), "all " .. tostring(constant), function(value)
                local all = {}
                for i = 1, #value do all[i] = value[i][constant] end
                return all
            end)
            return { t = "element", static = list, index = base.index, example = { path = list.path .. "[...]", value = example } }
        end
        return scalar(node_at(L, at, "Index", { object = node_at(L, at, "Index", { object = fixed(L, at, base.static), key = base.index }),
            key = key }))
    elseif base.t == "object" then
        local place = place_in(L, at, base, key, true)
        if not place then
            local known = find(base.storage.class)
            return scalar(number(L, at, 1), known.fields[known.has_list and key.tag ~= "String" and "*" or constant])
        end
        return value_of(L, at, place.storage, place.at)
    end
    lower.note_variable(L, base)
    if base.class then -- an element that is a table, as is seen here
        lower.make_table(L, base.class, key)
        return scalar(number(L, at, 1), find(base.class).fields[constant or "*"])
    end
    return scalar(node_at(L, at, "Index", { object = base.node or node_at(L, at, "Nil", {}), key = key }))
end

-- Is the index one of an element that there is? A condition.
local function is_within(L, at, key, first, last)
    return all_of(L, at, { binop(L, at, ">=", key, first), binop(L, at, "<=", key, last), is_whole(L, at, key) })
end

-- Whether a captured list has an element: a condition, since it may be nil.
local function has_element(L, at, static, key)
    local value = static.value
    return is_within(L, at, key, number(L, at, value[0] ~= nil and 0 or 1), node_at(L, at, "Unop", { op = "#", expr = fixed(L, at, static) }))
end

-- Of an expression that is an element of a list, with an index that is computed: whether there is
-- one, a condition, and its value, which has no meaning where there is none. nil of others.
local function presence(L, node)
    while node.tag == "Paren" do node = node.expr end
    if node.tag == "Name" then
        local value = name_value(L, node)
        if value.t == "element" then return has_element(L, node, value.static, value.index), value end
        -- a local that is declared without a value
        local known = node.var and lookup(L, node.var)
        if known and known.flag then return name_of(L, node, known.flag), value end
        if known and known.may_be_nil and not L.nilable[node.var] then
            L.nilable[node.var] = true
            note_change(L)
        end
        return
    end
    if node.tag ~= "Index" or node.key.tag == "String" then return end
    local known = peek(L, node.object)
    if not known or node.key.tag == "Number" and known.t ~= "object" then return end
    if known.t == "object" and known.storage.list then
        local key = hold(L, node, expr_scalar(L, node.key, "an index"), "index")
        local element = known.storage.list.element
        return is_within(L, node, key, first_of(L, node, known), last_of(L, node, known)),
            value_of(L, node, element, hold(L, node, room_index(L, node, known, key), "at"))
    elseif known.t == "static" and (L.infer.is_list(known.static.value) or from_zero(known.static.value)
        or is_list_of_tables(known.static.value)) then
        local key = hold(L, node, expr_scalar(L, node.key, "an index"), "index")
        return has_element(L, node, known.static, key), static_element(L, node, known.static, key)
    elseif known.t == "element" and matrix_of(known.static.value) then
        local form = matrix_of(known.static.value)
        local key = hold(L, node, expr_scalar(L, node.key, "an index"), "index")
        local value, lines = lower.aside(L, function() return cell_of_matrix(L, node, known, key) end)
        local last = derived(known.static, ("#%s[...]"):format(known.static.path), "columns", function(now)
            local again = matrix_of(now)
            return again.columns + again.row_from - 1
        end)
        return is_within(L, node, key, number(L, node, form.row_from), fixed(L, node, last)), value, lines
    end
end

-- The scalar's node, of an expression that must be one. Of a condition only the truth is wanted.
function expr_scalar(L, node, what)
    if what == "a condition" then
        local is_there, value, lines = presence(L, node)
        if is_there then
            for _, line in ipairs(lines or {}) do emit(L, line) end
            return value.t == "scalar" and not is_number(value.node) and not lines and all_of(L, node, { is_there, value.node }) or is_there
        end
        if node.tag == "Paren" then return expr_scalar(L, node.expr, what) end
        if node.tag == "And" or node.tag == "Or" then return lower.logical(L, node, true).node end
    end
    local value = expr(L, node)
    if value.t == "scalar" then return value.node end
    if value.t == "static" then return fixed(L, node, value.static) end
    refuse(L, node, "a %s as %s; on a device %s", value.t == "function" and "function" or "table", what or "a value",
        value.t == "function" and "functions are called by their name" or "take its fields or elements")
end

-- Evaluates `right` after `left`; what it changes must not change the left one.
local function after(L, at, left, evaluate)
    local mark = #L.out
    local right = evaluate()
    if #L.out > mark and not is_stable(left) then
        local var = new_local(L, "t", at)
        var.range = lower.range(L, left)
        table.insert(L.out, mark + 1, node_at(L, at, "Local", { vars = { var }, exprs = { left } }))
        left = name_of(L, at, var)
    end
    return left, right
end

-- Runs `evaluate` with statements going into a list of their own; gives its result and the list.
local function aside(L, evaluate)
    local outer = L.out
    L.out = {}
    local result = evaluate()
    local list = L.out
    L.out = outer
    return result, list
end
lower.aside = aside

local function is_boolean(node)
    local tag = node.tag
    if tag == "Paren" then return is_boolean(node.expr) end
    if tag == "True" or tag == "False" or tag == "Unop" and node.op == "not" then return true end
    if tag == "Binop" then return not NUMBERS[node.op] and node.op ~= ".." end
    if tag == "And" or tag == "Or" then return is_boolean(node.left) and is_boolean(node.right) end
    return false
end

local function if_statement(L, at, cond, body, orelse)
    return node_at(L, at, "If", { clauses = { node_at(L, at, "Clause", { cond = cond, body = body }) }, orelse = orelse })
end

-- A local that gets one value or the other. `instead`: evaluates the other one again, for the case
-- that the first one is false.
local function chosen(L, at, cond, first, first_lines, second, second_lines, instead)
    local var = new_local(L, "value", at, true)
    local function set(lines, value)
        lines[#lines + 1] = node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { value } })
        return lines
    end
    emit(L, node_at(L, at, "Local", { vars = { var }, exprs = {} }))
    set(first_lines, first)
    if instead then
        local other, lines = aside(L, instead)
        first_lines[#first_lines + 1] = if_statement(L, at, node_at(L, at, "Unop", { op = "not", expr = name_of(L, at, var) }), set(lines, other))
    end
    emit(L, if_statement(L, at, cond, first_lines, set(second_lines, second)))
    return name_of(L, at, var)
end

-- One table or the other.
local function chosen_table(L, at, cond, first, first_lines, second, second_lines)
    local class = new_class()
    L.choices[at] = L.choices[at] or class
    class = L.choices[at]
    class.is_table = true
    local storage = new_storage(L, at, class, "t")
    local target = object(storage)
    local _, one = aside(L, function() copy(L, at, target, first) note_copy(L, at, first.storage and first or target, target) end)
    local _, two = aside(L, function() copy(L, at, target, second) note_copy(L, at, second.storage and second or target, target) end)
    for _, line in ipairs(one) do first_lines[#first_lines + 1] = line end
    for _, line in ipairs(two) do second_lines[#second_lines + 1] = line end
    emit(L, if_statement(L, at, cond, first_lines, second_lines))
    return target
end

local expression = {}

function expression.Number(L, node) return scalar(number(L, node, node.value)) end
function expression.String(L, node) return scalar(node_at(L, node, "String", { value = node.value })) end
function expression.Nil(L, node) return scalar(node_at(L, node, "Nil", {})) end
function expression.True(L, node) return scalar(node_at(L, node, "True", {})) end
function expression.False(L, node) return scalar(node_at(L, node, "False", {})) end
function expression.Wide(L, node) return scalar(node_at(L, node, "Wide", { text = node.text })) end
function expression.Vararg(L, node) refuse(L, node, "'...'; there are no variable arguments on a device, name the parameters") end
function expression.Paren(L, node)
    local value = expr(L, node.expr)
    if value.t ~= "scalar" or is_stable(value.node) then return value end
    return scalar(node_at(L, node, "Paren", { expr = value.node }))
end
function expression.Name(L, node)
    local known = node.var and lookup(L, node.var)
    if known and known.flag then
        check(L, node, name_of(L, node, known.flag), { ("'%s' is nil"):format(node.name) })
    end
    return name_value(L, node)
end
function expression.Function(L, node)
    return { t = "function", def = node.def, scope = L.scope, fn = L.context.fn, name = L.context.name or "function" }
end
function expression.Index(L, node)
    local base = expr(L, node.object)
    if node.key.tag == "String" or node.key.tag == "Number" then return index_value(L, node, base, node.key) end
    local key = expr_scalar(L, node.key, "an index")
    local is_constant = key.tag == "Fixed" and type(key.static.value) == "string"
    if is_constant then
        L.program.baked[key.static.key] = key.static
        key = node_at(L, node, "String", { value = key.static.value })
    end
    return index_value(L, node, base, key)
end

-- A new table, in storage of its own.
function expression.Table(L, node)
    local name = L.naming
    L.naming = nil
    local class = L.sites[node]
    if not class then
        class = new_class()
        class.is_table = true
        L.sites[node] = class
    end
    class = find(class)
    local at_index, given = 0, {}
    for i, item in ipairs(node.items) do
        local key = item.key
        if not key then
            if i == #node.items and (item.value.tag == "Call" or item.value.tag == "Method") then
                for _, value in ipairs(call_values(L, item.value)) do
                    at_index = at_index + 1
                    given[#given + 1] = { key = at_index, value = value }
                end
            else
                at_index = at_index + 1
                given[#given + 1] = { key = at_index, value = expr(L, item.value), node = item.value }
            end
        else
            local constant = (key.tag == "String" or key.tag == "Number") and key.value
            if constant == false then
                local static = peek(L, key)
                constant = static and static.t == "scalar" and static.node.tag == "Fixed" and type(static.node.static.value) == "string"
                    and static.node.static.value
                if not constant then refuse(L, item.value, "a key that is computed, in a table's constructor; assign to the element behind it") end
                L.program.baked[static.node.static.key] = static.node.static
            end
            given[#given + 1] = { key = constant, value = expr(L, item.value), node = item.value }
        end
        local each = given[#given]
        if each then each.value = hold_value(L, node, each.value, "item") end
    end
    if #given == at_index and at_index > 0 then
        if class.count and class.count ~= at_index and not class.grows then
            class.grows = true
            note_change(L)
        end
        class.count = class.count or at_index
    elseif at_index == 0 and not class.grows then
        class.grows = true
    end
    local storage = new_storage(L, node, class, name or "table")
    local place = object(storage)
    if storage.list and not storage.list.is_fixed then
        local low, high, count = at_index > 0 and 1 or math.huge, at_index > 0 and at_index or -math.huge, at_index
        for _, each in ipairs(given) do
            if type(each.key) == "number" and (each.key < 1 or each.key > at_index) then
                low, high, count = math.min(low, each.key), math.max(high, each.key), count + 1
            end
        end
        if count == 0 then low, high = 1, 0 end
        if count ~= high - low + 1 then refuse(L, node, "a list with holes; on a device its elements follow one another") end
        write_var(L, node, storage.list.first, nil, number(L, node, low))
        write_var(L, node, storage.list.last, nil, number(L, node, high))
    end
    for _, each in ipairs(given) do
        if each.value.t == "function" then refuse(L, node, "a function in a table; on a device call it by its name") end
        local is_nil = each.value.t == "scalar" and each.value.node.tag == "Nil"
        local field = field_class(L, class, each.key)
        if each.value.t ~= "scalar" and not field.is_table then
            field.is_table = true
            note_change(L)
        end
        if class.has_list and type(each.key) == "number" then extend(L, class, each.key, each.key) end
        if not is_nil then
            local target
            if storage.list and type(each.key) == "number" then
                local list = storage.list
                if each.key >= list.from and each.key < list.from + list.count then
                    target = object(list.element, room_index(L, node, place, number(L, node, each.key)))
                end
            elseif storage.fields[each.key] then
                target = object(storage.fields[each.key])
            end
            if target then
                copy(L, node, target, each.value)
                if each.value.t == "object" and each.node and (each.node.tag == "Name" or each.node.tag == "Index") then
                    note_copy(L, node, each.value, place)
                end
            end
        end
    end
    return place
end

local METAMETHODS = { ["+"] = "__add", ["-"] = "__sub", ["*"] = "__mul", ["/"] = "__div", ["%"] = "__mod", ["^"] = "__pow", ["<"] = "__lt",
                      ["<="] = "__le" }

-- The metatable of a table, a value of the host; nil when it has none.
local function meta_of(value)
    if value.t == "object" then
        local meta = find(value.storage.class).meta
        return meta and meta.value
    elseif value.t == "static" and type(value.static.value) == "table" then
        return debug.getmetatable(value.static.value)
    elseif value.t == "element" then
        return debug.getmetatable(value.example.value)
    end
end

local function static_function(path, fn)
    return { t = "static", static = { path = path, key = path .. tostring(fn), value = fn, read = function() return fn end } }
end

function expression.Binop(L, node)
    local truth = truth_of(L, node)
    if truth ~= nil then return scalar(node_at(L, node, truth and "True" or "False", {})) end
    if (node.op == "==" or node.op == "~=") and (node.left.tag == "Nil" or node.right.tag == "Nil") then
        local is_there, _, lines = presence(L, node.left.tag == "Nil" and node.right or node.left)
        if is_there and not lines then return scalar(node.op == "~=" and is_there or node_at(L, node, "Unop", { op = "not", expr = is_there })) end
    end
    local left = expr(L, node.left)
    local right
    if left.t == "scalar" then
        local kept
        kept, right = after(L, node, left.node, function() return expr(L, node.right) end)
        left = scalar(kept)
    else
        right = expr(L, node.right)
    end
    if left.t == "scalar" and right.t == "scalar" then return scalar(binop(L, node, node.op, left.node, right.node)) end
    local op, a, b = node.op, left, right
    if op == ">" or op == ">=" then op, a, b = op == ">" and "<" or "<=", right, left end
    local event = METAMETHODS[op]
    local one, other = meta_of(a), meta_of(b)
    local handler = event and (one and rawget(one, event) or other and rawget(other, event))
    if type(handler) ~= "function" then
        refuse(L, node, "'%s' of a table%s", node.op, event and (", whose metatable has no function '%s'"):format(event) or "; compare its fields")
    end
    return inline(L, node, static_function(event, handler), { a, b })[1]
end

function expression.Unop(L, node)
    if node.op == "#" then
        local value = expr(L, node.expr)
        if value.t == "object" then
            local class = find(value.storage.class)
            if class.has_list and value.storage.list then
                local list = value.storage.list
                if list.is_fixed then return scalar(number(L, node, list.length)) end
                local last = hold(L, node, last_of(L, node, value), "length")
                if last.var then last.var.range = { 0, class.to, true } end
                return scalar(last)
            end
            if class.grows then make_list(L, class) return scalar(number(L, node, 0)) end
            return scalar(number(L, node, class.count or 0))
        elseif value.t == "element" then
            local form = matrix_of(value.static.value)
            if not form then refuse(L, node, "'#' of an element of '%s', which are not as long as each other", value.static.path) end
            return scalar(fixed(L, node, derived(value.static, ("#%s[...]"):format(value.static.path), "columns", function(now)
                local again = matrix_of(now)
                return again.columns + again.row_from - 1
            end)))
        elseif value.t == "static" then
            return scalar(node_at(L, node, "Unop", { op = "#", expr = fixed(L, node, value.static) }))
        end
        return scalar(node_at(L, node, "Unop", { op = "#", expr = value.node }))
    end
    local truth = truth_of(L, node)
    if truth ~= nil then return scalar(node_at(L, node, truth and "True" or "False", {})) end
    if node.op == "not" then
        return scalar(node_at(L, node, "Unop", { op = "not", expr = expr_scalar(L, node.expr, "a condition") }))
    end
    local value = expr(L, node.expr)
    if value.t == "scalar" then return scalar(node_at(L, node, "Unop", { op = node.op, expr = value.node })) end
    local meta = node.op == "-" and meta_of(value)
    local handler = meta and rawget(meta, "__unm")
    if type(handler) ~= "function" then refuse(L, node, "'%s' of a table", node.op) end
    return inline(L, node, static_function("__unm", handler), { value })[1]
end

-- `c and x or y`, where x or y is a table or needs statements.
local function choice(L, node, left)
    local cond = expr_scalar(L, left.left, "a condition")
    local first, first_lines = aside(L, function()
        local is_there, element, lines = presence(L, left.right)
        if not is_there or element.t ~= "scalar" then return expr(L, left.right) end
        local other, other_lines = aside(L, function() return expr_scalar(L, node.right, "a value") end)
        return scalar((chosen(L, node, is_there, element.node, lines or {}, other, other_lines)))
    end)
    local second, second_lines = aside(L, function() return expr(L, node.right) end)
    if first.t ~= "scalar" or second.t ~= "scalar" then
        if first.t == "scalar" or second.t == "scalar" then refuse(L, node, "a table or a number; a value has one type on a device") end
        return chosen_table(L, node, cond, first, first_lines, second, second_lines)
    end
    if #first_lines == 0 and #second_lines == 0 then
        return scalar(node_at(L, node, "Or", { op = "or", left = node_at(L, node, "And", { op = "and", left = cond, right = first.node }),
            right = second.node }))
    end
    return scalar((chosen(L, node, cond, first.node, first_lines, second.node, second_lines, not is_number(first.node) and function()
        return expr_scalar(L, node.right, "a value")
    end)))
end

-- `a and b` or `a or b` whose value is wanted, where b needs statements.
local function second_value(L, node, left, right, lines)
    local var = new_local(L, "value", node, true)
    emit(L, node_at(L, node, "Local", { vars = { var }, exprs = { left } }))
    lines[#lines + 1] = node_at(L, node, "Assign", { targets = { name_of(L, node, var) }, exprs = { right } })
    local cond = name_of(L, node, var)
    emit(L, if_statement(L, node, node.tag == "And" and cond or node_at(L, node, "Unop", { op = "not", expr = cond }), lines))
    return scalar(name_of(L, node, var))
end

-- The same where only the truth is wanted.
local function second_truth(L, node, left, right, lines)
    if not is_boolean(right) then
        right = node_at(L, node, "Unop", { op = "not", expr = node_at(L, node, "Unop", { op = "not", expr = right }) })
    end
    if node.tag == "And" then return scalar((chosen(L, node, left, right, lines, node_at(L, node, "False", {}), {}))) end
    return scalar((chosen(L, node, left, node_at(L, node, "True", {}), {}, right, lines)))
end

-- `a and b` or `a or b`. `is_condition`: only the truth is wanted.
local function logical(L, node, is_condition)
    local op = node.tag == "And" and "and" or "or"
    local what = is_condition and "a condition" or "a value"
    local truth = truth_of(L, node.left)
    if truth ~= nil then
        local chosen_side = truth == (op == "and") and node.right or node.left
        return is_condition and scalar(expr_scalar(L, chosen_side, what)) or expr(L, chosen_side)
    end
    if op == "or" and not is_condition then
        local first = node.left
        while first.tag == "Paren" do first = first.expr end
        if first.tag == "And" and truth_of(L, first.left) == nil and not is_boolean(first) then return choice(L, node, first) end
        -- `list[i] or 0`: where there is an element, its value
        local is_there, element, element_lines = presence(L, node.left)
        if is_there and element.t == "scalar" then
            local other, other_lines = aside(L, function() return expr_scalar(L, node.right, "a value") end)
            if #other_lines == 0 and not element_lines then
                local either = node_at(L, node, "And", { op = "and", left = is_there, right = element.node })
                return scalar(node_at(L, node, "Or", { op = "or", left = either, right = other }))
            end
            return scalar((chosen(L, node, is_there, element.node, element_lines or {}, other, other_lines)))
        end
    end
    -- The left side of `and` is a value only where it is false.
    local left = expr_scalar(L, node.left, op == "and" and "a condition" or what)
    local right, lines = aside(L, function() return expr_scalar(L, node.right, what) end)
    if #lines > 0 then return (is_condition and second_truth or second_value)(L, node, left, right, lines) end
    return scalar(node_at(L, node, node.tag, { op = op, left = left, right = right }))
end
lower.logical = logical

function expression.And(L, node) return logical(L, node, false) end
function expression.Or(L, node) return logical(L, node, false) end

function expression.Call(L, node)
    local values = call_values(L, node)
    if not values[1] then refuse(L, node, "a call that returns nothing, used as a value") end
    return values[1]
end
expression.Method = expression.Call

function expr(L, node)
    return expression[node.tag](L, node)
end

---------------------------------------------------------------------------------------------------
-- Calls

-- A name as it is written: a.b.c
function lower.path_of(node)
    if node.tag == "Name" then return node.name end
    if node.tag == "Index" and node.key.tag == "String" then return ("%s.%s"):format(lower.path_of(node.object), node.key.value) end
    return "?"
end

-- Does the function have to be put in the place of its calls, since there are tables in it?
function lower.touches(L, fn, def, seen)
    seen = seen or {}
    if seen[def] then return false end
    seen[def] = true
    local function static_of(node)
        if node.tag == "Paren" then return static_of(node.expr) end
        if node.tag == "Name" then
            if node.var and not fn.outside[node.var.def] then return end
            local index = fn.source.upvalues[node.name]
            if index then
                local _, value = debug.getupvalue(fn.value, index)
                return value, true
            end
            return fn.env[node.name], true
        elseif node.tag == "Index" and (node.key.tag == "String" or node.key.tag == "Number") then
            local base, is_known = static_of(node.object)
            if is_known and type(base) == "table" then return base[node.key.value], true end
        end
    end
    local function visit(node)
        local tag = node.tag
        if tag == "Table" or tag == "Forin" then return true end
        if tag == "Method" and node.object.tag ~= "String" and node.object.tag ~= "Paren" then
            local value, is_known = static_of(node.object)
            if not is_known or type(value) == "table" and not L.infer.array_type(value) then return true end
        elseif tag == "Index" then
            local value, is_known = static_of(node.object)
            local is_computed = node.key.tag ~= "String" and node.key.tag ~= "Number"
            if is_known and is_computed and type(value) == "table" and not L.infer.array_type(value) and not L.infer.is_list(value)
                and (from_zero(value) or is_list_of_tables(value)) then
                return true
            end
        elseif tag == "Call" then
            local value, is_known = static_of(node.callee)
            if is_known and type(value) == "function" and not builtins.find(value) and debug.getinfo(value, "S").what == "Lua" then
                local is_found, callee = pcall(L.function_of, value, lower.path_of(node.callee))
                if is_found and lower.touches(L, callee, callee.def, seen) then return true end
            end
        end
        for key, child in pairs(node) do
            if type(child) == "table" and key ~= "var" and key ~= "vars" and key ~= "names" and key ~= "params" and key ~= "outer"
                and key ~= "assigns" then
                if visit(child) then return true end
            end
        end
        return false
    end
    return visit(def.body)
end

local function hold_values(L, at, values)
    for i, value in ipairs(values) do values[i] = hold_value(L, at, value) end
    return values
end

-- The values of an expression list, with all of the last call's. `names`: of what they are given
-- to.
function expr_list(L, exprs, names)
    local list, marks = {}, {}
    for i, node in ipairs(exprs) do
        if i == #exprs and (node.tag == "Call" or node.tag == "Method") then
            marks[#list + 1] = #L.out
            for _, value in ipairs(call_values(L, node)) do list[#list + 1] = value end
        else
            marks[i] = #L.out
            L.naming = node.tag == "Table" and names and names[i] and names[i].name or nil
            list[i] = expr(L, node)
        end
    end
    -- What was evaluated before statements of later ones is kept from them.
    local last = #L.out
    for i = #exprs, 1, -1 do
        local value = list[i]
        local mark = marks[i + 1]
        if mark and value and value.t == "scalar" and last > mark and not is_stable(value.node) then
            local var = new_local(L, "t", exprs[i])
            var.range = lower.range(L, value.node)
            table.insert(L.out, mark + 1, node_at(L, exprs[i], "Local", { vars = { var }, exprs = { value.node } }))
            list[i] = scalar(name_of(L, exprs[i], var), value.class)
            last = last + 1
        end
    end
    return list
end

local function nodes_of(L, at, values, fn)
    local nodes = {}
    for i, value in ipairs(values) do
        if value.t ~= "scalar" and (fn == error or fn == assert and i == 2) then
            refuse(L, at, "the message of %s must be a string that is known beforehand, with at most one number that is computed here",
                fn == error and "error" or "assert")
        end
        if value.t == "object" or value.t == "element" then refuse(L, at, "a table as an argument of a library function; pass its fields") end
        nodes[i] = value.t == "scalar" and value.node or value.t == "static" and fixed(L, at, value.static)
        if not nodes[i] then refuse(L, at, "a function as an argument of a library function") end
    end
    return nodes
end

local library_calls = {}

function library_calls.setmetatable(L, node, values)
    local target, meta = values[1], values[2]
    if not target or target.t ~= "object" or not meta or meta.t ~= "static" or type(meta.static.value) ~= "table" then
        refuse(L, node, "setmetatable of something else than a new table and a table that is captured")
    end
    local class = find(target.storage.class)
    if class.meta and class.meta.value ~= meta.static.value then
        refuse(L, node, "tables with different metatables in one place")
    end
    if not class.meta then
        class.meta = meta.static
        note_change(L)
    end
    L.program.baked[meta.static.key] = meta.static
    return { target }
end

-- How often a statement here can be run at most, for one time that the storage is made.
local function times_here(L, at, storage, is_optional)
    local times = 1
    for i = storage.loops + 1, #L.loops do
        local loop = L.loops[i]
        if not loop.times and is_optional then return end
        if not loop.times then
            refuse(L, at, "'%s' grows in the loop of line %d, whose number of turns is not known before it runs; give the loop a constant limit",
                storage.name, loop.line)
        end
        times = times * loop.times
    end
    return times
end

-- Makes room for one more element, and gives its place.
local function append_place(L, at, place)
    local class = make_list(L, place.storage.class)
    if not class.grows then
        class.grows = true
        note_change(L)
    end
    local root = place.storage
    root.appended = (root.appended or 0) + times_here(L, at, root.root)
    if root.appended > (class.appended or 0) then
        class.appended = root.appended
        note_change(L)
    end
    local list = root.list
    if not list or list.is_fixed then return end
    local last = hold(L, at, binop(L, at, "+", last_of(L, at, place), number(L, at, 1)), "last")
    check(L, at, binop(L, at, "<", last, number(L, at, list.from + list.count)), { "index ", (" of '%s' has no room there"):format(root.name) }, last)
    write_var(L, at, list.last, place.at, last)
    return object(list.element, hold(L, at, room_index(L, at, place, last), "at"))
end

function library_calls.insert(L, node, values)
    if #values ~= 2 or values[1].t ~= "object" then
        refuse(L, node, "table.insert in the middle, or into a table from outside; on a device elements are added at the end of a local list")
    end
    note_mutation(L, node, values[1])
    local place = append_place(L, node, values[1])
    if values[2].t ~= "scalar" then field_class(L, values[1].storage.class, "*").is_table = true end
    if place then copy(L, node, place, values[2]) end
    return {}
end

function library_calls.remove(L, node, values)
    if #values ~= 1 or values[1].t ~= "object" then refuse(L,
        node, "table.remove from the middle; on a device it takes the last element of a local list") end
    local place = values[1]
    note_mutation(L, node, place)
    local class = make_list(L, place.storage.class)
    if not class.grows then
        class.grows = true
        note_change(L)
    end
    local list = place.storage.list
    if not list or list.is_fixed then return { scalar(number(L, node, 1)) } end
    local last = hold(L, node, last_of(L, node, place), "last")
    check_index(L, node, place, last)
    local value = value_of(L, node, list.element, room_index(L, node, place, last))
    if value.t == "scalar" then value = scalar(hold(L, node, value.node, "removed")) end
    write_var(L, node, list.last, place.at, binop(L, node, "-", last, number(L, node, 1)))
    return { value }
end

-- Sorts by insertion: lists here are short.
local sort_text = [[
return function(t, less)
  for i = 2, #t do
    local v, j = t[i], i - 1
    while j >= 1 and less(v, t[j]) do
      t[j + 1] = t[j]
      j = j - 1
    end
    t[j + 1] = v
  end
end, function(a, b) return a < b end]]

-- The functions of a text of our own.
local function own_functions(name, text)
    local list, lines = {}, {}
    for line in text:gmatch "[^\n]*" do lines[#lines + 1] = line end
    for i, def in ipairs(parse.chunk(text)) do
        list[i] = { t = "function", name = name, def = def,
                    fn = { def = def, source = { file = name, lines = lines, upvalues = {} }, env = {}, outside = {} } }
    end
    return unpack(list)
end
local sort, less = own_functions("table.sort", sort_text)

function library_calls.sort(L, node, values)
    if not values[1] or values[1].t ~= "object" then refuse(L,
        node, "table.sort of a table from outside; on a device captured tables are only read") end
    inline(L, node, sort, { values[1], values[2] or less })
    return {}
end

function library_calls.unpack(L, node, values)
    local place = values[1]
    if #values ~= 1 or not place or place.t ~= "object" then refuse(L, node, "unpack of something else than a whole local table") end
    local class, list = find(place.storage.class), {}
    if class.grows or not class.count then refuse(L, node, "unpack of a list whose length is not known before it runs") end
    for i = 1, class.count do list[i] = index_value(L, node, place, number(L, node, i)) end
    return list
end

local LIBRARY = {
    [setmetatable] = "setmetatable", [table.insert] = "insert", [table.remove] = "remove", [table.sort] = "sort", [unpack] = "unpack",
}

-- The function of a static, and what is known about its text.
local function function_of(L, at, value)
    local fn = L.function_of(value.static.value, value.static.path, at)
    return { t = "function", def = fn.def, fn = fn, name = value.static.path, static = value.static }
end

-- Puts the function in the place of its call; gives its results.
function inline(L, at, callee, values)
    if callee.t == "static" then callee = function_of(L, at, callee) end
    if callee.static then L.program.baked[callee.static.key] = callee.static end
    local def = callee.def
    if def.is_vararg then refuse(L, at, "'%s' takes variable arguments ('...'); name its parameters", callee.name) end
    local context = L.context
    while context do
        if context.def == def then refuse(L, at, "'%s' calls itself; there is no recursion on a device, use a loop", callee.name) end
        context = context.caller
    end
    L.inlined = L.inlined + 1
    if L.inlined > INLINED_MAX then refuse(L, at, "more than %d calls of functions with tables", INLINED_MAX) end
    -- Parameters are made where the call is.
    local scope = { vars = {}, storages = {}, outer = callee.scope, is_open = true }
    local bound = scope.vars
    for i, param in ipairs(def.params) do
        local value = values[i] or scalar(node_at(L, at, "Nil", {}))
        if not param.assigned then
            if value.t == "scalar" then
                bound[param] = hold_value(L, at, value, param.name)
            else
                bind_table(L, at, scope, param, value)
            end
        elseif value.t == "scalar" then
            local var = new_local(L, param.name, at, true)
            emit(L, node_at(L, at, "Local", { vars = { var }, exprs = value.node.tag ~= "Nil" and { value.node } or {} }))
            bound[param] = { t = "variable", var = var, of = param, is_parameter = true }
        else
            refuse(L, at, "'%s' assigns to its parameter '%s', which is given a table; use another local", callee.name, param.name)
        end
    end
    local outer_context, outer_out = L.context, L.out
    L.context = { fn = callee.fn, def = def, name = callee.name, caller = outer_context, returns = { values = {} }, depth = #L.loops,
        serial = L.serial }
    scope.back = L.scope
    L.scope = scope
    local declared = {}
    L.context.declared = declared
    L.out = {}
    block(L, def.body, true)
    local body, returns = L.out, L.context.returns
    L.out, L.scope = outer_out, scope
    close_scope(L)
    L.context = outer_context
    for i, value in ipairs(returns.values) do
        if value.t == "result" then returns.values[i] = scalar(name_of(L, at, value.var)) end
    end
    for _, line in ipairs(declared) do emit(L, line) end
    if returns.label then
        emit(L, node_at(L, at, "Region", { name = returns.label, body = body }))
    else
        for _, line in ipairs(body) do emit(L, line) end
    end
    return returns.values
end

-- Which function is called, and the values before its arguments.
local function callee_of(L, node)
    if node.tag == "Call" then
        local callee = expr(L, node.callee)
        if callee.t == "static" and type(callee.static.value) == "table" then
            local meta = debug.getmetatable(callee.static.value)
            local handler = meta and rawget(meta, "__call")
            if type(handler) == "function" then return static_function(callee.static.path, handler), { callee } end
        end
        return callee, {}
    end
    local object_ = expr(L, node.object)
    local path = ("%s"):format(node.name)
    if object_.t == "static" and type(object_.static.value) == "table" then
        local method = object_.static.value[node.name]
        if method ~= nil then return of_static(L, node, static_field(object_.static, node.name)), { object_ } end
    end
    local meta = meta_of(object_)
    local index = meta and rawget(meta, "__index")
    local method = type(index) == "table" and index[node.name]
    if type(method) == "function" then
        return { t = "static", static = { path = path, key = tostring(index) .. "." .. path, value = method,
            read = function() return index[node.name] end } },
            { object_ }
    end
    if object_.t == "scalar" or object_.t == "static" then return nil, nil, object_ end
    refuse(L, node, "the method ':%s', which %s", node.name, meta and "its class has not" or "a table without a metatable has not")
end

-- The values of a call that gives `count` results: it is made once, and they are locals.
local function values_of_call(L, node, made, count)
    if count < 2 then return { scalar(made) } end
    local vars, list = {}, {}
    for i = 1, count do
        vars[i] = new_local(L, "t", node)
        list[i] = scalar(name_of(L, node, vars[i]))
    end
    emit(L, node_at(L, node, "Local", { vars = vars, exprs = { made } }))
    return list
end

function call_values(L, node)
    local callee, first, base = callee_of(L, node)
    if not callee then -- a method of a string or a typed array
        local args = nodes_of(L, node, expr_list(L, node.args))
        local target = base.t == "static" and fixed(L, node, base.static) or base.node
        return { scalar(node_at(L, node, "Method", { object = target, name = node.name, args = args })) }
    end
    if callee.t == "scalar" or callee.t == "static" and type(callee.static.value) ~= "function" then
        local static = callee.static or callee.node.static
        local value = static and static.value
        refuse(L, node, "a call of %s", static and ("'%s', which is %s"):format(static.path, value == nil and "nil" or "a " .. type(value))
            or "something that is computed; only functions with a name can be called")
    elseif callee.t ~= "function" and callee.t ~= "static" then
        refuse(L, node, "a call of a table")
    end
    local values = expr_list(L, node.args)
    for i, value in ipairs(values) do first[#first + 1] = value values[i] = nil end
    values = first
    local fn = callee.static and callee.static.value
    if callee.t == "static" and LIBRARY[fn] then return library_calls[LIBRARY[fn]](L, node, hold_values(L, node, values)) end
    local has_tables = callee.t == "function"
    for _, value in ipairs(values) do
        has_tables = has_tables or value.t == "object" or value.t == "element" or value.t == "function"
            or value.t == "static" and type(value.static.value) == "table" and not L.infer.array_type(value.static.value)
    end
    if callee.t == "static" then
        local builtin = builtins.find(fn)
        if builtin or debug.getinfo(fn, "S").what ~= "Lua" then
            local made = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = nodes_of(L, node, values, fn) })
            return values_of_call(L, node, made, builtin and builtin.results and #builtin.results or 1)
        end
        local about = L.function_of(fn, callee.static.path, node)
        if not has_tables and not lower.touches(L, about, about.def) then
            local made = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = nodes_of(L, node, values) })
            return values_of_call(L, node, made, lower.results_of(about.def))
        end
    end
    return inline(L, node, callee, values)
end

-- How many results a function returns everywhere; 1 when it differs.
function lower.results_of(def)
    local least
    local function visit(list)
        for _, node in ipairs(list) do
            if node.tag == "Return" then
                local last = node.exprs[#node.exprs]
                local count = (last and (last.tag == "Call" or last.tag == "Method")) and 1 or #node.exprs
                if last and last.tag == "Call" and #node.exprs > 1 then count = #node.exprs end
                least = math.min(least or count, count)
            end
            for key, child in pairs(node) do
                if type(child) == "table" and (key == "body" or key == "orelse") then visit(child) end
                if key == "clauses" then
                    for _, clause in ipairs(child) do visit(clause.body) end
                end
            end
        end
    end
    visit(def.body)
    return least or 0
end

---------------------------------------------------------------------------------------------------
-- Statements. `is_tail`: nothing of the function comes behind it.

local statement = {}

-- The class of a variable that is assigned tables.
local function variable_class(L, var)
    return L.variables[var]
end

local function widen_range(L, var, node)
    local known = L.ranges[var]
    local range = node and lower.range(L, node) or false
    if known == nil then
        L.ranges[var] = range
        note_change(L)
    elseif known then
        local wider = range and joined(known, range) or false
        if wider and wider[1] == known[1] and wider[2] == known[2] and wider[3] == known[3] then return end
        L.widened[var] = (L.widened[var] or 0) + 1
        if L.widened[var] > 6 then wider = false end
        L.ranges[var] = wider
        note_change(L)
    end
end

-- Declares a local with a value, which may be missing.
local function bind(L, at, var, value)
    if value and value.t ~= "scalar" and not var.assigned then return bind_table(L, at, L.scope, var, value) end
    local class = variable_class(L, var)
    local may_be_nil = var.assigned and (not value or value.t == "scalar" and value.node.tag == "Nil")
    local flag
    if may_be_nil and L.nilable[var] then
        flag = new_local(L, "has " .. var.name, at, true)
        emit(L, node_at(L, at, "Local", { vars = { flag }, exprs = { node_at(L, at, "False", {}) } }))
    end
    if value and value.t ~= "scalar" and not class then
        if value.t == "function" or value.t == "static" and type(value.static.value) ~= "table" then
            refuse(L, at, "'%s' is assigned to; a name has one function or array on a device", var.name)
        end
        class = new_class()
        class.is_table = true
        L.variables[var] = class
        note_change(L)
    end
    if class then
        L.zero = flag ~= nil
        local storage = new_storage(L, at, class, var.name)
        L.zero = false
        L.scope.vars[var] = { t = "object", storage = storage, flag = flag, may_be_nil = may_be_nil, of = var }
        if value and value.t ~= "scalar" then
            copy(L, at, L.scope.vars[var], value)
            if value.t == "object" and value.is_named then note_copy(L, at, value, L.scope.vars[var]) end
        end
        return
    end
    local new = new_local(L, var.name, at, var.assigned)
    local node = value and value.node or nil
    if flag then
        L.scope.vars[var] = { t = "variable", var = new, of = var, flag = flag, may_be_nil = true }
        emit(L, node_at(L, at, "Local", { vars = { new }, exprs = { L.booleans[var] and node_at(L, at, "False", {}) or number(L, at, 0) } }))
        return
    end
    if not var.assigned then
        if node and node.tag == "Nil" then
            L.scope.vars[var] = value
            return
        end
        new.range = node and lower.range(L, node)
        new.is_number = node and is_number(node)
    else
        if node and node.tag ~= "Nil" then widen_range(L, var, node) end
        new.range = L.ranges[var] or nil
    end
    L.scope.vars[var] = { t = "variable", var = new, of = var, class = not var.assigned and value and value.class or nil, may_be_nil = may_be_nil }
    emit(L, node_at(L, at, "Local", { vars = { new }, exprs = node and node.tag ~= "Nil" and { node } or {} }))
end

-- Marks tables that go on being reached by their own name.
local function mark_named(exprs, values)
    for i, node in ipairs(exprs) do
        while node.tag == "Paren" do node = node.expr end
        local value = values[i]
        if value and value.t == "object" and (node.tag == "Name" or node.tag == "Index") then
            values[i] = { t = "object", storage = value.storage, at = value.at, is_named = true }
        end
    end
    return values
end

function statement.Local(L, node)
    local values = mark_named(node.exprs, expr_list(L, node.exprs, node.vars))
    if #node.vars > 1 then
        for i, value in ipairs(values) do
            if value.t == "scalar" and not is_stable(value.node) then
                values[i] = hold_value(L, node, value, node.vars[i] and node.vars[i].name)
            end
        end
    end
    for i, var in ipairs(node.vars) do bind(L, node, var, values[i]) end
end

function statement.LocalFunction(L, node)
    L.scope.vars[node.var] = { t = "function", def = node.def, scope = L.scope, fn = L.context.fn, name = node.var.name }
end

local function is_same(a, b)
    while a.tag == "Paren" do a = a.expr end
    while b.tag == "Paren" do b = b.expr end
    if a.tag ~= b.tag then return false end
    if a.tag == "Name" then return a.var == b.var and a.name == b.name end
    if a.tag == "Number" or a.tag == "String" then return a.value == b.value end
    if a.tag == "Binop" then return a.op == b.op and is_same(a.left, b.left) and is_same(a.right, b.right) end
    return a.tag == "Index" and is_same(a.object, b.object) and is_same(a.key, b.key)
end

local function is_permutation(node)
    if #node.targets ~= #node.exprs then return false end
    for _, target in ipairs(node.targets) do
        local found = false
        for _, each in ipairs(node.exprs) do found = found or is_same(target, each) end
        if not found then return false end
    end
    return true
end

-- The place that an assignment to an element writes to; nil where the next round knows it. Makes
-- room for a new last (or first) element.
local function place_to_write(L, at, base, key)
    note_mutation(L, at, base)
    local class = find(base.storage.class)
    local is_constant = key.tag == "String" or key.tag == "Number"
    if is_constant and not (class.has_list and key.tag == "Number") then
        if key.tag == "Number" and class.grows and key.value == math.floor(key.value) and key.value >= 0 then
            -- an element of a list that is written one by one
            make_list(L, class)
        else
            return (place_in(L, at, base, key, false))
        end
    end
    class = make_list(L, class)
    local list = base.storage.list
    local range = lower.range(L, key)
    local within = class.count and is_inside(range, 1, class.count)
    if not within then
        if not class.grows then
            class.grows = true
            note_change(L)
        end
        local precise = range and not is_rough(key) and range
        if precise then
            if precise[1] < 0 then
                L.refusal = L.refusal or { at, "an index of '%s' that may be %g; lists on a device count from 0 or 1", base.storage.name, precise[1] }
            elseif precise[2] - precise[1] > ROOM_MAX then
                L.refusal = L.refusal or { at, "an index of '%s' from %g to %g; a list has at most %d elements on a device", base.storage.name,
                    precise[1],
                    precise[2], ROOM_MAX }
            else
                extend(L, class, math.min(1, math.floor(precise[1])), math.floor(precise[2]))
            end
        else
            local loop = lower.open_loop(key)
            if loop and class.to < 1 and not class.count then
                L.refusal = L.refusal or { at, "'%s' is filled by the loop of line %d, whose limit is not known before it runs; "
                    .. "give the loop a constant limit",
                    base.storage.name, loop }
            end
            -- Each write makes the list longer by one element at most.
            local times = times_here(L, at, base.storage.root, true)
            if times then
                base.storage.counted = (base.storage.counted or 0) + times
                local counted = (class.count or 0) + base.storage.counted
                if counted > (class.counted or 0) then
                    class.counted = counted
                    note_change(L)
                end
            elseif class.to < 1 and not class.counted and not class.appended and not class.count then
                L.refusal = L.refusal or { at, "the size of '%s' is not known before it runs: nothing bounds this index; "
                    .. "fill it by a loop with a constant limit", base.storage.name }
            end
        end
    end
    if not list then return end
    if within and list.is_fixed then return object(list.element, hold(L, at, room_index(L, at, base, key), "at")) end
    if list.is_fixed then return end
    key = hold(L, at, key, "index")
    local first, last = hold(L, at, first_of(L, at, base), "first"), hold(L, at, last_of(L, at, base), "last")
    local top = number(L, at, list.from + list.count - 1)
    local function clause(cond, var)
        return node_at(L, at, "Clause", { cond = cond, body = var and { base.at and node_at(L, at, "Put", { var = var, index = base.at, value = key })
            or node_at(L, at, "Assign", { targets = { name_of(L, at, var) }, exprs = { key } }) } or {} })
    end
    local one = number(L, at, 1)
    local is_empty = binop(L, at, "<", last, first)
    local begins = clause(all_of(L, at, { is_empty, is_whole(L, at, key), binop(L, at, ">=", key, number(L, at, list.from)), binop(L, at, "<=",
        key, top) }),
        list.first)
    begins.body[2] = clause(nil, list.last).body[1]
    emit(L, node_at(L, at, "If", { clauses = {
        clause(all_of(L, at, { binop(L, at, ">=", key, first), binop(L, at, "<=", key, last), is_whole(L, at, key) })),
        clause(all_of(L, at, { binop(L, at, "==", key, binop(L, at, "+", last, one)), binop(L, at, "<=", key, top),
            binop(L, at, ">=", last, first) }), list.last),
        begins,
        clause(all_of(L, at, { binop(L, at, "==", key, binop(L, at, "-", first, one)), binop(L, at, ">=", key, number(L, at, list.from)) }),
            list.first),
    }, orelse = { error_statement(L, at, { "index ", (" of '%s' would leave a hole, or is beyond its %d elements; "
        .. "on a device a list has neither"):format(
        base.storage.name, list.from + list.count - 1) }, key) } }))
    return object(list.element, hold(L, at, room_index(L, at, base, key), "at"))
end

-- An index that is the length of the same list plus one.
local function is_append(L, target, base)
    local key = target.key
    while key.tag == "Paren" do key = key.expr end
    if key.tag ~= "Binop" or key.op ~= "+" or key.right.tag ~= "Number" or key.right.value ~= 1 then return false end
    if key.left.tag ~= "Unop" or key.left.op ~= "#" then return false end
    local list = peek(L, key.left.expr)
    return base.t == "object" and list ~= nil and list.t == "object" and list.storage == base.storage and list.at == base.at
end

local function is_last(L, target, base)
    local key = target.key
    while key.tag == "Paren" do key = key.expr end
    local list = key.tag == "Unop" and key.op == "#" and peek(L, key.expr)
    return list and base.t == "object" and list.t == "object" and list.storage == base.storage and list.at == base.at
end

-- Assigns a value to a target whose table and index were evaluated.
local function store(L, at, target, value)
    if target.is_unknown then return end
    if target.variable then
        local known = target.variable
        local is_nil = value.t == "scalar" and value.node.tag == "Nil"
        if known.flag then
            local is_there = node_at(L, at, is_nil and "False" or "True", {})
            emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, known.flag) }, exprs = { is_there } }))
            if is_nil then return end
        end
        if known.may_be_nil and value.t == "scalar" and is_boolean(value.node) and not L.booleans[known.of] then
            L.booleans[known.of] = true
            note_change(L)
        end
        if known.t == "variable" then
            if value.t ~= "scalar" then
                if known.is_parameter then
                    refuse(L, at, "a table is assigned to the parameter '%s', which is a number; use another local", known.of.name)
                end
                if value.t == "function" or value.t == "static" and type(value.static.value) ~= "table" then
                    refuse(L, at, "'%s' is assigned to; a name has one function or array on a device", known.of.name)
                end
                L.variables[known.of] = L.variables[known.of] or new_class()
                L.variables[known.of].is_table = true
                note_change(L)
                return
            end
            if value.node.tag ~= "Nil" then widen_range(L, known.of, value.node) end
            emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, known.var) }, exprs = { value.node } }))
            return
        end
        copy(L, at, known, value)
        if value.t == "object" and value.is_named then note_copy(L, at, value, known) end
        return
    end
    if target.array then
        if value.t ~= "scalar" then refuse(L, at, "an element of '%s' that is no number", target.array.path) end
        emit(L, node_at(L, at, "Assign", { targets = { node_at(L, at, "Index", { object = fixed(L, at, target.array), key = target.key }) },
            exprs = { value.node } }))
        return
    end
    if target.is_last and value.t == "scalar" and value.node.tag == "Nil" then
        library_calls.remove(L, at, { target.base })
        return
    end
    local place
    if target.is_append then
        note_mutation(L, at, target.base)
        place = append_place(L, at, target.base)
    else
        place = place_to_write(L, at, target.base, target.key)
    end
    if value.t ~= "scalar" then
        local class = find(target.base.storage.class)
        local field = class.fields[target.key and class.has_list and target.key.tag ~= "String" and "*" or target.key and target.key.value or "*"]
        if field and not find(field).is_table then
            find(field).is_table = true
            note_change(L)
        end
    end
    if not place then return end
    copy(L, at, place, value)
    if value.t == "object" and value.is_named then note_copy(L, at, value, place) end
end

function statement.Assign(L, node)
    local targets = {}
    local swaps = is_permutation(node)
    for i, target in ipairs(node.targets) do
        if target.tag == "Name" then
            local known = target.var and lookup(L, target.var)
            if not known or known.t ~= "variable" and known.t ~= "object" then
                refuse(L, target, "assignment to '%s', which is not a local of this function; GPU functions share no state, return the value",
                    target.name)
            end
            targets[i] = { variable = known }
        else
            local base = expr(L, target.object)
            if base.t == "object" then
                local made = { base = base, is_append = is_append(L, target, base), is_last = is_last(L, target, base) }
                if not made.is_append and not made.is_last then
                    made.key = (target.key.tag == "String" or target.key.tag == "Number") and target.key
                        or hold(L, target, expr_scalar(L, target.key, "an index"), "index")
                elseif made.is_last then
                    made.key = hold(L, target, expr_scalar(L, target.key, "an index"), "index")
                end
                targets[i] = made
            elseif base.t == "static" and L.infer.array_type(base.static.value) and #node.targets == 1 and target.key.tag ~= "String" then
                targets[i] = { array = base.static, key = expr_scalar(L, target.key, "an index") }
            else
                lower.note_variable(L, base)
                if base.class then
                    lower.make_table(L, base.class, target.key)
                    targets[i] = { is_unknown = true }
                    goto next_target
                end
                refuse(L, target, "assignment to an element or field of '%s'; GPU functions share no state but typed arrays, return the value",
                    base.static and base.static.path or "something computed")
            end
        end
        ::next_target::
    end
    local values = expr_list(L, node.exprs, node.targets)
    if not swaps then mark_named(node.exprs, values) end
    if #targets > 1 then
        for i, value in ipairs(values) do
            if value.t == "scalar" then
                values[i] = hold_value(L, node, value)
            elseif value.t == "object" then
                local kept = object(new_storage(L, node, value.storage.class, "t"))
                copy(L, node, kept, value)
                values[i] = kept
            end
        end
    end
    -- The last one first, as LuaJIT does.
    for i = #targets, 1, -1 do store(L, node, targets[i], values[i] or scalar(node_at(L, node, "Nil", {}))) end
end

function statement.CallStat(L, node)
    local values = call_values(L, node.call)
    for _, value in ipairs(values) do
        local made = value.t == "scalar" and value.node
        if made and (made.tag == "Call" or made.tag == "Method") then emit(L, node_at(L, node, "CallStat", { call = made })) end
    end
end

local function scoped(L, list, is_tail)
    open_scope(L)
    block(L, list, is_tail)
    close_scope(L)
end

function statement.Do(L, node, is_tail)
    local _, body = aside(L, function() scoped(L, node.body, is_tail) end)
    emit(L, node_at(L, node, "Do", { body = body }))
end

local function clauses(L, node, first, is_tail)
    local clause = node.clauses[first]
    if not clause then
        if node.orelse then scoped(L, node.orelse, is_tail) end
        return
    end
    local truth = truth_of(L, clause.cond)
    if truth == false then return clauses(L, node, first + 1, is_tail) end
    if truth then return scoped(L, clause.body, is_tail) end
    local cond = expr_scalar(L, clause.cond, "a condition")
    local _, body = aside(L, function() scoped(L, clause.body, false) end)
    local has_more = node.clauses[first + 1] or node.orelse
    local _, orelse = aside(L, function() if has_more then clauses(L, node, first + 1, false) end end)
    emit(L, if_statement(L, clause, cond, body, has_more and orelse or nil))
end

statement["If"] = function(L, node, is_tail) clauses(L, node, 1, is_tail) end

local function in_loop(L, loop, body)
    L.loops[#L.loops + 1] = loop
    local _, list = aside(L, body)
    L.loops[#L.loops] = nil
    return list
end

statement["While"] = function(L, node)
    if truth_of(L, node.cond) == false then return end
    local cond
    local body = in_loop(L, { line = node.line }, function()
        local lines
        cond, lines = aside(L, function() return expr_scalar(L, node.cond, "a condition") end)
        if #lines > 0 then
            for _, line in ipairs(lines) do emit(L, line) end
            emit(L, if_statement(L, node, node_at(L, node, "Unop", { op = "not", expr = cond }), { node_at(L, node, "Break", {}) }))
            cond = node_at(L, node, "True", {})
        end
        scoped(L, node.body)
    end)
    emit(L, node_at(L, node, "While", { cond = cond, body = body }))
end

statement["Repeat"] = function(L, node)
    local cond
    local body = in_loop(L, { line = node.line }, function()
        open_scope(L)
        block(L, node.body)
        cond = expr_scalar(L, node.cond, "a condition")
        close_scope(L)
    end)
    emit(L, node_at(L, node, "Repeat", { body = body, cond = cond }))
end

-- A numeric loop over what `body` writes with the counter.
local function numeric_loop(L, node, var, start, limit, step, body)
    local from, to, by = lower.range(L, start), lower.range(L, limit), step and lower.range(L, step) or { 1, 1, true }
    local new, counter = new_local(L, var.name, node, var.assigned), nil
    local loop = { line = node.line }
    if from and to and by and (by[1] > 0 or by[2] < 0) then
        local low, high = by[1] > 0 and from[1] or to[1], by[1] > 0 and to[2] or from[2]
        counter = { low, math.max(low, high), from[3] and by[3] or false }
        loop.times = math.max(0, math.floor((high - low) / math.min(math.abs(by[1]), math.abs(by[2]))) + 1)
    end
    if not var.assigned then
        new.range, new.is_number, new.loop = counter, true, not counter and node.line or nil
    end
    local list = in_loop(L, loop, function() body(new) end)
    emit(L, node_at(L, node, "Fornum", { var = new, start = start, limit = limit, step = step, body = list }))
end

function statement.Fornum(L, node)
    local start = expr_scalar(L, node.start, "the start of a loop")
    local limit, step
    start, limit = after(L, node, start, function() return expr_scalar(L, node.limit, "the limit of a loop") end)
    if node.step then limit, step = after(L, node, limit, function() return expr_scalar(L, node.step, "the step of a loop") end) end
    numeric_loop(L, node, node.var, start, limit, step, function(new)
        open_scope(L)
        L.scope.vars[node.var] = { t = "variable", var = new, of = node.var }
        block(L, node.body)
        close_scope(L)
    end)
end

-- for i, v in ipairs(list)
function statement.Forin(L, node)
    local call = node.exprs[1]
    local callee = call and call.tag == "Call" and #node.exprs == 1 and peek(L, call.callee)
    if not callee or callee.t ~= "static" or callee.static.value ~= ipairs or #call.args ~= 1 or #node.vars > 2 then
        refuse(L, node, "'for ... in'; of iterators only ipairs is known on a device, use it or a numeric for")
    end
    for _, var in ipairs(node.vars) do
        if var.assigned then refuse(L, node, "'%s' is assigned to in the loop; use another local", var.name) end
    end
    local given = call.args[1]
    if given.tag == "Table" and #given.items > 0 then
        -- of a table that is made for the loop: its items one after the other
        local label, loop = ("end of %d"):format(node.line), { line = node.line, times = 1, is_unrolled = true }
        local list = in_loop(L, loop, function()
            for i, item in ipairs(given.items) do
                if item.key then refuse(L, node, "ipairs of a table with other keys than 1, 2, 3") end
                local value = expr(L, item.value)
                value = hold_value(L, node, value)
                open_scope(L)
                L.scope.vars[node.vars[1]] = scalar(number(L, node, i))
                if node.vars[2] then bind_table(L, node, L.scope, node.vars[2], value) end
                loop.label = label
                block(L, node.body)
                close_scope(L)
            end
        end)
        emit(L, node_at(L, node, "Do", { body = loop.is_left and { node_at(L, node, "Region", { name = label, body = list }) } or list }))
        return
    end
    local base = expr(L, given)
    local length
    if base.t == "object" then
        make_list(L, base.storage.class)
        if not base.storage.list then length = number(L, node, 1) end
    elseif base.t == "scalar" then
        refuse(L, node, "ipairs of a number")
    end
    if not length then
        length = expression.Unop(L, { tag = "Unop", op = "#", line = node.line, expr = given }).node
    end
    numeric_loop(L, node, node.vars[1], number(L, node, 1), length, nil, function(new)
        open_scope(L)
        L.scope.vars[node.vars[1]] = { t = "variable", var = new, of = node.vars[1] }
        if node.vars[2] then
            local value = index_value(L, node, base, name_of(L, node, new))
            value = hold_value(L, node, value, node.vars[2].name)
            bind_table(L, node, L.scope, node.vars[2], value)
        end
        block(L, node.body)
        close_scope(L)
    end)
end

function statement.Region(L, node)
    local _, body = aside(L, function() block(L, node.body) end)
    emit(L, node_at(L, node, "Region", { name = node.name, body = body }))
end

function statement.Goto(L, node) emit(L, node_at(L, node, "Goto", { name = node.name })) end

statement["Break"] = function(L, node)
    local loop = L.loops[#L.loops]
    if loop and loop.is_unrolled then
        loop.is_left = true
        emit(L, node_at(L, node, "Goto", { name = loop.label }))
        return
    end
    emit(L, node_at(L, node, "Break", {}))
end

statement["Return"] = function(L, node, is_tail)
    local context = L.context
    local values = mark_named(node.exprs, expr_list(L, node.exprs))
    local returns = context.returns
    -- Was the table made in this call, which ends here?
    local function is_own(value) return value.storage.root.serial > context.serial end
    if not returns then -- the whole function's
        local nodes = {}
        for i, value in ipairs(values) do
            if value.t ~= "scalar" then
                refuse(L, node, "result %d is a %s; on a device results are numbers and booleans, return its fields", i,
                    value.t == "function" and "function" or "table")
            end
            nodes[i] = value.node
        end
        emit(L, node_at(L, node, "Return", { exprs = nodes }))
        return
    end
    if is_tail and not returns.label then
        -- What is returned may be the callee's own, or its caller's: the names of the callee end
        -- here.
        for i, value in ipairs(values) do
            values[i] = hold_value(L, node, value, context.name)
            if value.is_named and is_own(value) then
                values[i] = object(value.storage, value.at)
            end
        end
        returns.values = values
        return
    end
    if not returns.label then
        L.labels = L.labels + 1
        returns.label = ("end of %s %d"):format(context.name or "function", L.labels)
    end
    for i, value in ipairs(values) do
        local known = returns.values[i]
        if not known then
            local key = context.def
            L.results[key] = L.results[key] or {}
            local _, lines = aside(L, function()
                if value.t == "scalar" and not L.results[key][i] then
                    local var = new_local(L, "result of " .. (context.name or "a function"), node, true)
                    emit(L, node_at(L, node, "Local", { vars = { var }, exprs = {} }))
                    known = { t = "result", var = var }
                elseif value.t == "function" then
                    refuse(L, node, "a function as a result; on a device functions are called by their name")
                else
                    L.results[key][i] = L.results[key][i] or new_class()
                    find(L.results[key][i]).is_table = true
                    local loops = L.loops
                    L.loops = {}
                    for k = 1, context.depth do L.loops[k] = loops[k] end
                    known = object(new_storage(L, node, L.results[key][i], context.name or "result"))
                    L.loops = loops
                end
            end)
            for _, line in ipairs(lines) do context.declared[#context.declared + 1] = line end
            returns.values[i] = known
        end
        if known.var and not known.storage then
            if value.t ~= "scalar" then refuse(L, node, "result %d of '%s' is a number in one place and a table in another", i, context.name
                or "the function") end
            emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, known.var) }, exprs = { value.node } }))
        else
            if value.t == "scalar" and value.node.tag ~= "Nil" then
                refuse(L, node, "result %d of '%s' is a table in one place and a number in another", i, context.name or "the function")
            end
            copy(L, node, known, value)
            if value.is_named and not is_own(value) then
                note_copy(L, node, value, known)
            end
        end
    end
    emit(L, node_at(L, node, "Goto", { name = returns.label }))
end

-- Is it an `if` of which is known that a clause is run that returns?
local function surely_returns(L, node)
    if node.tag ~= "If" then return false end
    for _, clause in ipairs(node.clauses) do
        local truth = truth_of(L, clause.cond)
        local last = clause.body[#clause.body]
        if truth then return last ~= nil and last.tag == "Return" end
        if truth == nil then return false end
    end
    local last = node.orelse and node.orelse[#node.orelse]
    return last ~= nil and last.tag == "Return"
end

function block(L, list, is_tail)
    for i, node in ipairs(list) do
        local ends = node.tag == "Return" or node.tag == "Break" or node.tag == "Goto" or surely_returns(L, node)
        statement[node.tag](L, node, is_tail and (i == #list or ends))
        if ends then break end
    end
end

---------------------------------------------------------------------------------------------------

-- One walk over the whole function.
local function round(L, fn, kinds)
    local def = fn.def
    local new = { tag = "Def", line = def.line, last_line = def.last_line, first = def.first, last = def.last, params = {}, is_method = def.is_method,
                  is_vararg = def.is_vararg, outer = def.outer, names = {} }
    L.def, L.out, L.scope, L.loops, L.room, L.inlined, L.labels, L.serial = new, {}, nil, {}, 0, 0, 0, 0
    L.context = { fn = fn, def = def, name = L.name, serial = 0 }
    open_scope(L)
    for i, param in ipairs(def.params) do
        local var = new_local(L, param.name, { line = param.line }, param.assigned)
        var.is_number = not param.assigned and kinds[i] ~= "bool" and (#kinds == 0 or kinds[i] ~= nil)
        new.params[i] = var
        if not param.assigned and #kinds > 0 and not kinds[i] then
            L.scope.vars[param] = scalar({ tag = "Nil", line = param.line })
        else
            L.scope.vars[param] = { t = "variable", var = var, of = param, is_parameter = true }
            if param.assigned then L.ranges[param] = false end
        end
    end
    block(L, def.body, true)
    new.body = L.out
    return new
end

---Takes the tables in a function apart, where there are some; else gives its own tree. Raises {
---refusal = message }.
---@param program table of infer.lua: baked
---@param fn table of infer.lua
---@param options table name, inputs
---@param infer table array_type, is_list
---@param find_function fun(value: function, name: string?, at: table?): table
function lower.def(program, fn, options, infer, find_function)
    local L = {
        program = program, fn = fn, name = options.name, infer = infer, sites = {}, variables = {}, ranges = {}, widened = {}, choices = {},
            results = {}, copied = {}, nilable = {},
        booleans = {},
        function_of = find_function,
    }
    L.context = { fn = fn, name = options.name }
    if not lower.touches(L, fn, fn.def) then return fn.def end
    for _ = 1, ROUNDS_MAX do
        L.changed, L.refusal = false, nil
        local new = round(L, fn, options.inputs or {})
        if not L.changed then
            if L.refusal then refuse(L, unpack(L.refusal)) end
            return new
        end
    end
    refuse(L, fn.def, "what its tables need does not settle; give the variables simpler roles")
end

return lower
