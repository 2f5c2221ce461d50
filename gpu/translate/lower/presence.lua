-- presence.lua: asks of an expression whether it is there, and gives elements, fields and choices
-- that may not be there, as values with flags (optional.lua).

local callees = require "tidepool.translate.lower.callees"
local choosers = require "tidepool.translate.lower.choosers"
local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local falses = require "tidepool.translate.lower.falses"
local holes = require "tidepool.translate.lower.holes"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local sets = require "tidepool.translate.lower.sets"
local statics = require "tidepool.translate.lower.statics"
local symbols = require "tidepool.translate.lower.symbols"
local texts = require "tidepool.translate.lower.texts"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local presence = {}

local find = classes.find
local peek, truth_of = facts.peek, facts.truth_of
local aside, emit, fixed, hold = nodes.aside, nodes.emit, nodes.fixed, nodes.hold
local if_statement, is_number = nodes.if_statement, nodes.is_number
local name_of, new_local, node_at, number = nodes.name_of, nodes.new_local, nodes.node_at, nodes.number
local refuse, scalar = nodes.refuse, nodes.scalar
local room_index, value_of = places.room_index, places.value_of
local cell_of_matrix, derived, from_zero = statics.cell_of_matrix, statics.derived, statics.from_zero
local has_element, is_list_of_tables, matrix_of = statics.has_element, statics.is_list_of_tables, statics.matrix_of
local index_value = elements.index_value
local name_value = scopes.name_value
local text_of = texts.text_of
local carried, carry, expr = walk.carried, walk.carry, walk.expr

-- The scalar's node, of an expression that must be one. `what`: how a refusal calls it.
local function scalar_of(L, node, what)
    local value = expr(L, node)
    if value.t == "scalar" then return value.node end
    if value.t == "static" then return fixed(L, node, value.static) end
    refuse(L, node, "a %s as %s; on a device %s", value.t == "function" and "function" or "table", what or "a value",
        value.t == "function" and "functions are called by their name" or what == "an index" and "write m:at(row, column) for m[{ row, column }]"
        or "take its fields or elements")
end
presence.scalar_of = scalar_of

-- The text of which an expression is a byte, and the arguments behind it; nil of other expressions.
local function text_and_index(L, node)
    local of, args = node.object, node.args
    if node.tag == "Call" then
        local callee = peek(L, node.callee)
        if not callee or callee.t ~= "static" or callee.static.value ~= string.byte then return end
        of, args = node.args[1], { select(2, unpack(node.args)) }
    elseif node.tag ~= "Method" or node.name ~= "byte" then
        return
    end
    of = trees.bare(of)
    return of and text_of(of.tag == "String" and scalar(of) or peek(L, of)), args
end

-- Is it a call of a function that does not give its results on every path?
local function is_optional_call(L, node)
    local callee = peek(L, node.callee)
    local fn, def = callees.called(L, L.context.fn, node)
    if callee and callee.t == "function" then fn, def = callee.fn, callee.def end
    return optional.misses(L, fn, def) or falses.gives(L, fn, def) or optional.lends(L, fn, def)
end
presence.is_optional_call = is_optional_call

-- Is it `a or b` where both may be nil?
local function is_either(L, node)
    return node.tag == "Or" and optional.is_optional(L, L.context.fn, L.context.def, node)
end

-- The table that an expression stands for, of which an element may not be there; evaluated, if it
-- is an element itself. nil of others.
local function base_of(L, node)
    node = trees.bare(node)
    local known = peek(L, node)
    if known or node.tag ~= "Index" then return known and not known.flag and known or nil end
    local outer = base_of(L, node.object)
    local is_row = outer and (outer.t == "object" and outer.storage.list or outer.t == "static" and is_list_of_tables(outer.static.value))
    return is_row and expr(L, node) or nil
end

-- Can it be asked of a table whether it has an element?
local function has_elements(L, base)
    if base.t == "object" then return base.storage.list ~= nil end
    local value = (base.t == "static" or base.t == "element") and base.static.value
    if base.t == "element" then return matrix_of(value) ~= nil end
    if not value then return false end
    return symbols.of_list(L.ids, value) ~= nil or choices.count(value) ~= nil or L.infer.is_list(value) or from_zero(value) ~= nil
        or is_list_of_tables(value) or sets.form(value) ~= nil
end

-- Is the value a boolean, as far as is known now?
local function may_be_false(value)
    return value.t == "scalar" and (nodes.is_boolean(value.node) or value.class ~= nil and find(value.class).is_boolean == true)
end

-- Where the value is that of `a or b`, a condition.
function presence.is_first(L, node, is_there, value)
    return may_be_false(value) and nodes.all_of(L, node, { is_there, value.node }) or is_there
end

-- Whether the table has an element with this index, a condition, and the element, which has no
-- meaning where there is none; the statements that it needs.
local function element_presence(L, node, base, key)
    if base.t == "object" then
        local element = base.storage.list.element
        return holes.has(L, node, base, key),
            value_of(L, node, element, hold(L, node, room_index(L, node, base, key), "at"))
    elseif base.t == "static" then
        local value = base.static.value
        if not L.infer.is_list(value) and not from_zero(value) and sets.form(value) then return sets.element(L, node, base.static, key) end
        return has_element(L, node, base.static, key), index_value(L, node, base, key)
    end
    local value, is_there = cell_of_matrix(L, node, base, key, true)
    return is_there, value
end

-- Whether next(t) gives a key: a condition; nil of other expressions.
local function of_next(L, node)
    local callee = node.tag == "Call" and #node.args == 1 and peek(L, node.callee)
    if not callee or callee.t ~= "static" or callee.static.value ~= next then return end
    local base = expr(L, node.args[1])
    if base.t == "object" then
        local class = find(base.storage.class)
        local open
        for _, key in ipairs(class.order) do
            if type(key) ~= "string" and not class.has_list or type(key) == "string" and places.is_there(base, key) then
                return node_at(L, node, "True", {})
            end
            open = open or type(key) == "string" and key
        end
        if open then
            refuse(L, node, "next of '%s', of which the field '%s' may not be there; give it all fields where it is made", base.storage.name, open)
        end
        if not base.storage.list then return node_at(L, node, "False", {}) end
        return holes.has_some(L, node, base)
    elseif base.t ~= "static" or type(base.static.value) ~= "table" then
        refuse(L, node, "next of something that is no table")
    end
    local state = derived(base.static, ("next(%s)"):format(base.static.path), "is there", function(now) return next(now) ~= nil and "yes" or "no" end)
    L.program.baked[state.key] = state
    return node_at(L, node, state.value == "yes" and "True" or "False", {})
end

-- The same for a field whose name is a text that is not known; nil of others.
local function named_presence(L, node, base)
    if node.key.tag == "Number" or base.t ~= "object" and (base.t ~= "static" or type(base.static.value) ~= "table") then return end
    local key, lines = aside(L, function() return scalar_of(L, node.key, "an index") end)
    if key.tag ~= "Symbol" then return end
    for _, line in ipairs(lines) do emit(L, line) end
    local value, is_there = elements.field_by_text(L, node, base, key, true)
    if value then return is_there, value end
end

-- Of an expression that is an element of a list, or a byte of a text, with an index that is
-- computed: whether there is one, a condition, and its value, which has no meaning where there is
-- none. nil of others.
local function presence_of(L, node)
    node = trees.bare(node)
    if node.tag == "Name" then
        local known = node.var and scopes.lookup(L, node.var)
        if known and known.t == "chooser" then
            return choosers.is_there(L, node, known), { t = "choice" } -- of which only the truth is wanted
        end
        local value = name_value(L, node)
        if value.t == "element" then return has_element(L, node, value.static, value.index), value end
        -- a result, or a local that is declared without a value
        optional.demand(L, value)
        if value.flag or value.origin then return optional.is_there(L, node, value), optional.stripped(value) end
        return
    end
    if node.tag == "Call" and is_optional_call(L, node) or is_either(L, node) then
        local value = carry(L, node)
        optional.demand(L, value)
        local is_nil = value.t == "scalar" and value.node.tag == "Nil"
        return is_nil and node_at(L, node, "False", {}) or optional.is_there(L, node, value), optional.stripped(value)
    end
    local given = of_next(L, node)
    if given then return given, scalar(number(L, node, 1)) end
    local text, args = text_and_index(L, node)
    if text then
        local values = {}
        for i, arg in ipairs(args) do values[i] = scalar(hold(L, node, scalar_of(L, arg, "an index"), "index")) end
        return texts.byte(L, node, text, values)
    end
    if node.tag ~= "Index" or node.key.tag == "String" then return end
    local known = base_of(L, node.object)
    local is_row = known and known.t == "element" and node.key.tag == "Number" and matrix_of(known.static.value)
    if not known or node.key.tag == "Number" and known.t ~= "object" and not (is_row and not is_row.columns) then return end
    if not has_elements(L, known) then return named_presence(L, node, known) end
    return element_presence(L, node, known, hold(L, node, scalar_of(L, node.key, "an index"), "index"))
end
presence.of = presence_of

-- The key of an indexing: a text or a number that is known, or what is computed.
local function key_of(L, node)
    if node.key.tag == "String" or node.key.tag == "Number" then return node.key end
    local key = scalar_of(L, node.key, "an index")
    local is_constant = key.tag == "Fixed" and type(key.static.value) == "string"
    if is_constant then
        L.program.baked[key.static.key] = key.static
        key = node_at(L, node, "String", { value = key.static.value })
    end
    return key
end

presence.key_of = key_of

-- A value with a flag, which says whether it is there. `lines`: the statements that it needs;
-- `path`: what has no such element.
local function flagged(L, node, is_there, value, lines, path)
    local flag = new_local(L, "has an element", node)
    flag.is_flag = true
    emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { is_there } }))
    if value.t == "scalar" then
        local var = new_local(L, "element", node, true)
        var.is_guarded = true
        emit(L, node_at(L, node, "Local", { vars = { var }, exprs = {} }))
        lines = lines or {}
        local id = symbols.number_of(L, node, value.node)
        lines[#lines + 1] = node_at(L, node, "Assign", { targets = { name_of(L, node, var) }, exprs = { id or value.node } })
        emit(L, if_statement(L, node, name_of(L, node, flag), lines))
        local name = name_of(L, node, var)
        value = scalar(id and symbols.wrap(L, node, name) or name, value.class)
    else
        value = optional.stripped(value)
    end
    local made = {}
    for key, each in pairs(value) do made[key] = each end
    made.flag, made.is_element, made.why = flag, true, ("'%s' has no such element"):format(path)
    return made
end

-- An element that may not be there: once somebody asks for it (L.optional, by its node), it is a
-- local with a flag.
function carried.Index(L, node)
    local base = expr(L, node.object)
    local key = key_of(L, node)
    local is_named = key.tag == "Symbol" and (base.t == "object" or base.t == "static")
    if key.tag == "String" or key.tag == "Number" and base.t ~= "object" or not is_named and not has_elements(L, base) then
        return index_value(L, node, base, key)
    end
    if not L.optional[node] then
        local value = optional.stripped(index_value(L, node, base, key))
        local copy_ = {}
        for name, each in pairs(value) do copy_[name] = each end
        copy_.origin, copy_.is_element = node, true
        return copy_
    end
    local is_there, value, lines
    if is_named then
        value, is_there = elements.field_by_text(L, node, base, key, true)
        if not value then return index_value(L, node, base, key) end
    else
        is_there, value, lines = element_presence(L, node, base, hold(L, node, key, "index"))
    end
    local is_boolean = may_be_false(value)
    local made = flagged(L, node, is_there, value, lines, base.storage and base.storage.name or base.static.path)
    if made.node and made.node.var then
        made.node.var.is_boolean = is_boolean
        made.node.var.is_number = not is_boolean and base.t ~= "object" and not is_named and not select(2, L.infer.is_list(base.static.value))
    end
    return made
end

-- Is it a byte of a text, which may not be there?
function presence.is_byte(L, node)
    local text, args = text_and_index(L, node)
    return text ~= nil and #args <= 1
end

-- Such a byte, once somebody asks for it: a local with a flag, too.
function presence.byte(L, node)
    local text, args = text_and_index(L, node)
    local values = {}
    for i, arg in ipairs(args) do values[i] = scalar(hold(L, node, scalar_of(L, arg, "an index"), "index")) end
    local is_there, value = texts.byte(L, node, text, values)
    return flagged(L, node, is_there, value, nil, text.path)
end

-- What a condition decides: a local with a flag. `one`, `other`: evaluate the value where it holds,
-- and where it does not (nil: there is none, and `absent` stands for it), and whether that is
-- there.
local function decided(L, node, cond, one, other, absent)
    local var, flag = new_local(L, "value", node, true), new_local(L, "has a value", node, true)
    flag.is_flag, var.is_guarded, var.is_number, var.is_boolean = true, true, true, true
    local why
    local is_known = not other
    local function give(evaluate)
        return select(2, aside(L, function()
            local value, has = evaluate()
            if value.t ~= "scalar" then refuse(L, node, "a table or a number; a value has one type on a device") end
            local is_nil = value.node.tag == "Nil"
            if is_nil or value.flag or value.origin or value.may_be_nil then
                absent, is_known = is_known and falses.joined(absent, value.absent) or value.absent, true
            end
            why = value.why or why
            if not is_nil and not is_number(value.node) then var.is_number = false end
            if not is_nil and not may_be_false(value) then var.is_boolean = false end
            local stored = symbols.stored(L, node, L.symbols, node, value.node, "a value")
            if not is_nil then emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, var) }, exprs = { stored } })) end
            emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, flag) }, exprs = { is_nil and node_at(L, node, "False", {}) or has } }))
        end))
    end
    emit(L, node_at(L, node, "Local", { vars = { var }, exprs = {} }))
    emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { node_at(L, node, "False", {}) } }))
    local first, second = give(one), other and give(other)
    emit(L, if_statement(L, node, cond, first, second))
    local name = name_of(L, node, var)
    return { t = "scalar", node = L.symbols[node] and symbols.wrap(L, node, name) or name, flag = flag, why = why, may_be_nil = true, is_sure = true,
        absent = absent }
end

-- A value that may be nil, and whether it is there.
local function carry_asked(L, node)
    local value = carry(L, node)
    optional.demand(L, value)
    return value, optional.is_there(L, node, value)
end

-- `a or b` where both may be nil.
function carried.Or(L, node)
    if truth_of(L, node.left) ~= nil or not is_either(L, node) then return expr(L, node) end
    local is_there, first, lines = presence_of(L, node.left)
    if not is_there or first.t ~= "scalar" then return expr(L, node) end
    return decided(L, node, presence.is_first(L, node, is_there, first), function()
        for _, line in ipairs(lines or {}) do emit(L, line) end
        return first, node_at(L, node, "True", {})
    end, function() return carry_asked(L, node.right) end)
end

-- `a and b` where a is a table or a number, or nil.
function carried.And(L, node)
    if truth_of(L, node.left) ~= nil or not optional.is_optional(L, L.context.fn, L.context.def, node.left) then return expr(L, node) end
    local is_there, first, lines = presence_of(L, node.left)
    if not is_there or lines or first.t == "scalar" and not is_number(first.node) then return expr(L, node) end
    return decided(L, node, is_there, function()
        local value, has
        optional.keeping(L, function() value, has = carry_asked(L, node.right) end, is_there, true)
        return value, has
    end, nil, first.absent)
end

return presence
