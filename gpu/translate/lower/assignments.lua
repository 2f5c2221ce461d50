-- assignments.lua: locals, and assignments to them, to fields and to elements.

local calls = require "tidepool.translate.lower.calls"
local choices = require "tidepool.translate.lower.choices"
local choosers = require "tidepool.translate.lower.choosers"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local falses = require "tidepool.translate.lower.falses"
local holes = require "tidepool.translate.lower.holes"
local lifting = require "tidepool.translate.lower.lifting"
local library = require "tidepool.translate.lower.library"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local ranges = require "tidepool.translate.lower.ranges"
local scopes = require "tidepool.translate.lower.scopes"
local symbols = require "tidepool.translate.lower.symbols"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local extend, find, make_list, make_table, new_class = classes.extend, classes.find, classes.make_list, classes.make_table, classes.new_class
local note_change, note_variable = classes.note_change, classes.note_variable
local full_range_of, is_inside, is_rough, joined = ranges.full_range_of, ranges.is_inside, ranges.is_rough, ranges.joined
local lengths_of, open_loop, range_of = ranges.lengths_of, ranges.open_loop, ranges.range_of
local all_of, binop, emit, error_statement, fixed, hold = nodes.all_of, nodes.binop, nodes.emit, nodes.error_statement, nodes.fixed, nodes.hold
local hold_value, is_boolean, is_number, is_stable = nodes.hold_value, nodes.is_boolean, nodes.is_number, nodes.is_stable
local is_same, is_whole, name_of, new_local = nodes.is_same, nodes.is_whole, nodes.name_of, nodes.new_local
local node_at, number = nodes.node_at, nodes.number
local refuse, scalar = nodes.refuse, nodes.scalar
local ROOM_MAX, first_of, last_of, new_storage = places.ROOM_MAX, places.first_of, places.last_of, places.new_storage
local note_copy, note_mutation, object, room_index = places.note_copy, places.note_mutation, places.object, places.room_index
local copy, place_in = elements.copy, elements.place_in
local bind_table, lookup = scopes.bind_table, scopes.lookup
local peek = facts.peek
local expr, statement = walk.expr, walk.statement
local expr_scalar = expressions.expr_scalar
local append_place, times_here = library.append_place, library.times_here
local expr_list, mark_named = calls.expr_list, calls.mark_named

-- The class of a variable that is assigned tables.
local function variable_class(L, var)
    return L.variables[var]
end

local function widen_range(L, var, node)
    local known = L.ranges[var]
    local range = node and full_range_of(L, node) or false
    L.lengths[var] = ranges.merged(L.lengths[var], range and lengths_of(node) or nil)
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

-- Notes what a local that is assigned to is given.
local function note_kind(L, var, node)
    local kinds = L.kinds[var]
    if kinds and node.tag ~= "False" then classes.note_scalar(L, kinds, nodes.is_plain(node) and "has_number" or "has_others") end
end

-- Declares a local; `value` may be nil.
local function bind(L, at, var, value)
    if L.choosers[var] then return choosers.bind(L, at, L.scope, var, value) end
    if value and value.t ~= "scalar" and (not var.assigned or scopes.is_renamable(L, var, value)) then
        if var.assigned then scopes.note_known(L, L.scope, var, false) end
        return bind_table(L, at, L.scope, var, value)
    end
    if scopes.is_function(value) then
        L.scope.vars[var] = value
        return scopes.note_known(L, L.scope, var, false)
    end
    if var.assigned then value = falses.stored(L, var, value) end
    local class = variable_class(L, var)
    local is_nil = not value or value.t == "scalar" and value.node.tag == "Nil"
    optional.note_unset(L, var)
    local flag = var.assigned and optional.flag_of(L, at, var, value) or nil
    local may_be_nil = var.assigned and is_nil or flag ~= nil
    if var.assigned and is_nil then scopes.note_known(L, L.scope, var, true) end
    if value and value.t == "choice" then return choosers.note(L, var) end
    if value and value.t ~= "scalar" and not class then
        if value.t == "static" and type(value.static.value) ~= "table" then
            refuse(L, at, "'%s' is assigned to; a name has one array on a device", var.name)
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
    new.of, new.file = var, L.context.fn.source.file
    local node = value and value.node or nil
    if node and not var.assigned and nodes.is_missing(node) then
        L.scope.vars[var] = value
        return
    end
    if node and not var.assigned and (symbols.is_text(node) and node.tag ~= "Symbol" or nodes.is_text(node)) then
        L.scope.vars[var] = value
        return
    end
    local is_symbol = node ~= nil and node.tag == "Symbol" and (node.is_char and "char" or true)
    if var.assigned then
        node = node and symbols.stored(L, at, L.symbols, var, node, var.name)
        is_symbol = L.symbols[var]
    elseif is_symbol then
        node = node.node
    end
    new.is_boolean = L.booleans[var] or node ~= nil and is_boolean(node)
    if var.assigned then
        L.kinds[var] = L.kinds[var] or classes.new_class()
        new.class, new.is_set = L.kinds[var], not is_nil and not flag
        new.sequence = holes.walks(L, var) and "next" or nil
        if not is_nil then note_kind(L, var, node) end
    else
        new.is_plain = node ~= nil and nodes.is_plain(node)
    end
    if flag then
        L.scope.vars[var] = { t = "variable", var = new, of = var, flag = flag, may_be_nil = true, symbol = is_symbol }
        emit(L, node_at(L, at, "Local", { vars = { new },
            exprs = { not is_nil and node or L.booleans[var] and node_at(L, at, "False", {}) or number(L, at, 0) } }))
        return
    end
    if not var.assigned then
        if node and (node.tag == "Nil" or node.tag == "String" or node.tag == "True" or node.tag == "False" or node.tag == "Number"
            or value.text) then
            L.scope.vars[var] = value
            return
        end
        if node then ranges.bound(L, new, node) end
        new.is_number = node and is_number(node)
    else
        if node and node.tag ~= "Nil" then widen_range(L, var, node) end
        new.range, new.lengths = L.ranges[var] or nil, L.lengths[var]
    end
    L.scope.vars[var] = { t = "variable", var = new, of = var, class = not var.assigned and value and value.class or nil, may_be_nil = may_be_nil,
        flag = value and value.flag, absent = not var.assigned and value and value.absent or nil,
        origin = value and value.origin, why = value and value.why,
        is_sure = value and value.is_sure, symbol = is_symbol }
    emit(L, node_at(L, at, "Local", { vars = { new }, exprs = node and node.tag ~= "Nil" and { node } or {} }))
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
    lifting.note(L, node)
    L.scope.vars[node.var] = { t = "function", def = node.def, scope = L.scope, fn = L.context.fn, name = node.var.name, home = L.def }
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

-- Is the index a local that only gets greater?
local function grows(L, node)
    while node.tag == "Paren" or node.tag == "Binop" and node.op == "+" and node.right.tag == "Number" do node = node.expr or node.left end
    local var = node.tag == "Name" and node.var
    if not var or not var.assigned then return false end
    if L.growing[var] == nil then
        L.growing[var] = true
        trees.each_node(var.def.body, function(each)
            for i, target in ipairs(each.tag == "Assign" and each.targets or {}) do
                local value = each.exprs[i]
                local is_more = value and value.tag == "Binop" and value.op == "+" and value.left.var == var and value.right.tag == "Number"
                if target.var == var and not is_more then L.growing[var] = false end
            end
        end)
    end
    return L.growing[var]
end

-- The place that an assignment to an element writes to; nil when only the next round can know it.
-- Counts a new last (or first) element in the list's size.
-- `target`, `exprs`: the assignment as it is in the text.
local function place_to_write(L, at, base, key, target, exprs)
    local own = base.storage.functions
    if own and (key.tag ~= "String" and key.tag ~= "Number" or own[key.value]) then
        refuse(L, at, "an assignment to a function of '%s'; on a device a field has one function", base.storage.name)
    end
    note_mutation(L, at, base)
    local class = find(base.storage.class)
    local is_constant = key.tag == "String" or key.tag == "Number"
    if class.struct then return (place_in(L, at, base, key, true)) end -- it has the elements that it has
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
    local lengths = lengths_of(key)
    -- In a loop over itself a list does not get longer for that.
    local range = (ranges.has_class(lengths, class) and range_of or full_range_of)(L, key)
    local within = class.count and is_inside(full_range_of(L, key), 1, class.count)
    if not within then
        if not class.grows then
            class.grows = true
            note_change(L)
        end
        if not class.has_holes and (range and range[1] < 0 or not holes.is_next(L, base.storage, key, target, exprs)) then
            holes.note(L, class)
        end
        -- What a local that is assigned to may be bounds it roughly.
        local precise = range and (not is_rough(key) or class.has_holes and range[2] - range[1] < ROOM_MAX) and range
        if precise then
            if precise[2] - precise[1] > ROOM_MAX then
                L.refusal = L.refusal or { at, "an index of '%s' from %g to %g; a list has at most %d elements on a device", base.storage.name,
                    precise[1],
                    precise[2], ROOM_MAX }
            elseif ranges.is_open(lengths) and not ranges.has_class(lengths, class) then
                classes.open(L, class, at.line)
            else
                extend(L, class, math.min(1, math.floor(precise[1])), math.floor(precise[2]))
            end
        elseif class.has_holes then
            extend(L, class, 0, 0)
            L.opening = L.opening or { class, at.line }
        else
            -- Each write makes the list longer by one element at most.
            local times, loop = times_here(L, base.storage.root)
            if times then
                base.storage.counted = (base.storage.counted or 0) + times
                classes.lengthen(L, class, "counted", (class.count or 0) + base.storage.counted, at.line)
            elseif class.to < 1 and (open_loop(key) or target and grows(L, target.key)
                or not class.count and not class.counted and not class.appended) then
                -- unless something that is seen later in this round tells how long it gets
                if loop.is_recursion then
                    L.refusal = L.refusal or { at, "the size of '%s' is not known before it runs: nothing bounds this index in '%s', which "
                        .. "calls itself; fill it by a loop with a constant limit", base.storage.name, loop.is_recursion }
                else
                    L.opening = L.opening or { class, loop.line }
                end
            end
        end
    end
    if not list then return end
    if within and list.is_fixed then return object(list.element, hold(L, at, room_index(L, at, base, key), "at")) end
    if list.is_fixed then return end
    key = hold(L, at, key, "index")
    if list.there then
        holes.put(L, at, base, key)
        return object(list.element, hold(L, at, room_index(L, at, base, key), "at"))
    end
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
    }, orelse = { error_statement(L, at, { "index ", (" of '%s' would leave a hole, or is beyond its %d elements%s; "
        .. "on a device a list has neither"):format(base.storage.name, list.from + list.count - 1,
        class.open and (" (the loop of line %d has no constant limit)"):format(class.open) or "") }, key) } }))
    return object(list.element, hold(L, at, room_index(L, at, base, key), "at"))
end

-- An index that is the length of the same list plus one.
local function is_append(L, target, base)
    local key = target.key
    key = trees.bare(key)
    if key.tag ~= "Binop" or key.op ~= "+" or key.right.tag ~= "Number" or key.right.value ~= 1 then return false end
    if key.left.tag ~= "Unop" or key.left.op ~= "#" then return false end
    local list = peek(L, key.left.expr)
    return base.t == "object" and list ~= nil and list.t == "object" and list.storage == base.storage and list.at == base.at
end

local function is_last(L, target, base)
    local key = target.key
    key = trees.bare(key)
    local list = key.tag == "Unop" and key.op == "#" and peek(L, key.expr)
    return list and base.t == "object" and list.t == "object" and list.storage == base.storage and list.at == base.at
end

-- Gives a table that was made in this block a function: `function t.f() end`. What it is then, is
-- known wherever the table is.
local function store_function(L, at, target, value)
    local storage, key = target.base.storage, target.key and (target.key.tag == "String" or target.key.tag == "Number") and target.key.value
    local own = storage.functions or {}
    if not key or storage.home ~= L.scope or target.base.at or own[key] or find(storage.class).fields[key] then
        refuse(L, at, "a function that is put into '%s' here; on a device a field has one function, from where the table is made",
            storage.name)
    end
    storage.functions = own
    own[key] = value
end

-- Assigns a value to a target whose table and index were evaluated.
local function store(L, at, target, value)
    if target.is_unknown or value.is_unknown then return end
    if target.variable and scopes.is_renamed(target.variable) then
        if scopes.rename(L, at, target.var, value) then return end
        classes.learn(L, L.stays, target.var, true)
        refuse(L, at, "'%s' is assigned to where that may not be run", target.var.name)
    end
    if target.variable and scopes.is_function(value) and scopes.rebind(L, target.var, value) then return end
    if target.variable then
        local known = target.variable
        if known.t == "chooser" then return choosers.write(L, at, known, value) end
        if scopes.is_function(known) or choices.is_function(value) then return choosers.note(L, known.of or target.var) end
        local is_table = known.is_parameter and value.t ~= "scalar"
        if is_table and scopes.rename(L, at, known.of, value) then return end
        scopes.forget_known(L, target.var)
        value = falses.stored(L, known.of, value)
        local is_nil = value.t == "scalar" and value.node.tag == "Nil"
        optional.note_nilable(L, known.of, value)
        if value.flag and not known.flag and not L.changed then value = optional.settle(L, at, value) end
        if value.origin and not L.takes_nil[known.of] then
            L.takes_nil[known.of] = true
            note_change(L)
        end
        local function note_flag() -- behind the value, which may be made of what the local was
            if not known.flag then return end
            local is_there = is_nil and node_at(L, at, "False", {}) or optional.is_there(L, at, value)
            emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, known.flag) }, exprs = { is_there } }))
        end
        if known.flag and is_nil then return note_flag() end
        if known.may_be_nil and value.t == "scalar" and is_boolean(value.node) and not L.booleans[known.of] then
            L.booleans[known.of] = true
            note_change(L)
        end
        if known.t == "variable" then
            if value.t ~= "scalar" then
                if known.is_parameter then
                    refuse(L, at, "a table is assigned to the parameter '%s', which is a number; use another local", known.of.name)
                end
                if value.t == "static" and type(value.static.value) ~= "table" then
                    refuse(L, at, "'%s' is assigned to; a name has one array on a device", known.of.name)
                end
                L.variables[known.of] = L.variables[known.of] or new_class()
                L.variables[known.of].is_table = true
                note_change(L)
                return
            end
            local node = symbols.stored(L, at, L.symbols, known.of, value.node, known.of.name)
            note_kind(L, known.of, node)
            if node.tag ~= "Nil" then widen_range(L, known.of, node) end
            emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, known.var) }, exprs = { node } }))
            return note_flag()
        end
        if is_nil and known.of then return classes.learn(L, L.nilable, known.of, true) end
        copy(L, at, known, value)
        note_flag()
        if value.t == "object" and value.is_named then note_copy(L, at, value.source or value, known) end
        return
    end
    local is_removed = target.is_last and value.t == "scalar" and value.node.tag == "Nil"
    value = optional.settle(L, at, value)
    if target.array then
        if value.t ~= "scalar" then refuse(L, at, "an element of '%s' that is no number", target.array.path) end
        emit(L, node_at(L, at, "Assign", { targets = { node_at(L, at, "Index", { object = fixed(L, at, target.array), key = target.key }) },
            exprs = { value.node } }))
        return
    end
    if not is_removed and value.t == "scalar" and value.node.tag == "Nil" and find(target.base.storage.class).has_list then
        holes.note(L, target.base.storage.class)
        note_mutation(L, at, target.base)
        local list = target.base.storage.list
        if list and list.there then holes.take(L, at, target.base, hold(L, at, target.key, "index")) end
        return
    end
    if is_removed then
        library.remove(L, at, { target.base })
        return
    end
    if choices.is_function(value) then return store_function(L, at, target, value) end
    if target.key and target.key.tag == "Symbol" and value.t == "scalar" then
        note_mutation(L, at, target.base)
        return elements.store_by_text(L, at, target.base, target.key, value)
    end
    local place
    if target.is_append then
        note_mutation(L, at, target.base)
        place = append_place(L, at, target.base)
    else
        place = place_to_write(L, at, target.base, target.key, target.target, at.exprs)
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
    if value.t ~= "scalar" and target.base and find(target.base.storage.class).struct then
        -- A struct in a struct, or in an array of C, gets the numbers: who has it sees them.
        note_mutation(L, at, place)
        L.is_by_value = true
        copy(L, at, place, value)
        L.is_by_value = false
        return
    end
    copy(L, at, place, value)
    if value.t == "object" and value.is_named then note_copy(L, at, value.source or value, place) end
end

-- A statement that gives a parameter its default, where it is known what is given.
local function assign_default(L, node, scope)
    local var = node.targets[1].var
    local value = expr_list(L, node.exprs)[1]
    scopes.note_other(scope)
    if value.t == "scalar" then
        scope.vars[var] = hold_value(L, node, value, var.name)
    else
        bind_table(L, node, scope, var, value)
    end
    scopes.note_known(L, scope, var, false)
end

-- `self.__index = self`: a captured metatable gets its methods, those that it has here.
local function classes_index(L, node, base)
    local value = expr_list(L, node.exprs)[1]
    local meta, index = base.static.value, value and value.t == "static" and value.static.value
    local known = type(meta) == "table" and (rawget(meta, "__index") or L.indexes[meta])
    if type(meta) ~= "table" or type(index) ~= "table" or known and known ~= index then
        refuse(L, node, "assignment to '__index' of '%s', other than that of the methods that it has; GPU functions share no state", base.static.path)
    end
    if not rawget(meta, "__index") then L.indexes[meta] = index end
end

-- Is an index made of names that are not assigned to, so that it is the same throughout the
-- statement?
local function is_constant_key(node)
    if node.tag == "Name" then return node.var ~= nil and not node.var.assigned end
    if node.tag == "Number" or node.tag == "String" then return true end
    if node.tag == "Paren" or node.tag == "Unop" then return is_constant_key(node.expr) end
    if node.tag == "Binop" then return is_constant_key(node.left) and is_constant_key(node.right) end
    return node.tag == "Index" and is_constant_key(node.object) and is_constant_key(node.key)
end

function statement.Assign(L, node)
    local known_scope = L.defaulted[node]
    if known_scope and known_scope.is_open then return assign_default(L, node, known_scope) end
    local targets = {}
    local swaps = is_permutation(node)
    for i, target in ipairs(node.targets) do
        if target.tag == "Name" then
            local known = target.var and lookup(L, target.var)
            local is_own = known and (known.t == "variable" or known.t == "object" or known.t == "chooser"
                or (scopes.is_function(known) or scopes.is_renamed(known)) and target.var.assigned)
            if not is_own then
                local advice = not target.var and "return the value, or declare it where it is only needed here: local " .. target.name
                    or "return the value"
                refuse(L, target, "assignment to '%s', which is not a local of this function; GPU functions share no state, %s", target.name, advice)
            end
            targets[i] = { variable = known, var = target.var }
        else
            local base = expr(L, target.object)
            if base.t == "object" then
                local made = { base = base, target = target, is_append = is_append(L, target, base), is_last = is_last(L, target, base) }
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
                if base.t == "static" and target.key.tag == "String" and target.key.value == "__index" and #node.targets == 1 then
                    return classes_index(L, node, base)
                end
                note_variable(L, base)
                if base.class then
                    make_table(L, base.class, target.key)
                    targets[i] = { is_unknown = true }
                    goto next_target
                end
                refuse(L, target, "assignment to an element or field of '%s'; GPU functions share no state but typed arrays, return the value",
                    base.static and base.static.path or "something computed")
            end
        end
        ::next_target::
    end
    local only, outer = targets[1], L.updated
    if only.array and is_constant_key(node.targets[1].key) then
        -- An update of the element, if it is in the value: with one key, which is evaluated before,
        -- and read when all else is known, so that nothing comes between.
        only.key = hold(L, node, only.key, "index")
        L.updated = { target = node.targets[1], array = only.array, key = only.key, context = L.context }
    end
    local mark, updated = #L.out, L.updated
    local values = expr_list(L, node.exprs, node.targets)
    L.updated = outer
    for i = mark + 1, updated ~= outer and updated.is_read and #L.out or 0 do
        trees.each_node(L.out[i], function(each)
            if each.tag == "Assign" and each.targets[1].tag == "Index" then
                refuse(L, node, "an update of '%s' by a function that changes something else; let it return what the change depends on, and do "
                    .. "that in a statement of its own", only.array.path)
            end
        end)
    end
    if not swaps then mark_named(node.exprs, values) end
    if #targets > 1 then
        for i, value in ipairs(values) do
            local known = targets[i] and targets[i].variable
            if value.t == "scalar" then
                values[i] = hold_value(L, node, value)
            elseif value.t == "object" and not (known and (scopes.is_renamed(known) or known.is_parameter)) then
                if targets[i] and targets[i].base and find(targets[i].base.storage.class).struct then
                    refuse(L, node, "an assignment of several values, of which one is a struct that is put into '%s'; assign one after the other",
                        targets[i].base.storage.name)
                end
                local kept = object(new_storage(L, node, value.storage.class, "t"))
                copy(L, node, kept, value)
                values[i] = optional.mark(kept, value)
                kept.is_named, kept.source = value.is_named, value
                if swaps then places.note_swap(L, node, value) end
            end
        end
    end
    -- The last one first, as LuaJIT does.
    for i = #targets, 1, -1 do store(L, node, targets[i], values[i] or scalar(node_at(L, node, "Nil", {}))) end
end
