-- expressions.lua: evaluates names, indexes, `and` and `or`.
--
-- A value is { t = "scalar", node }, a number or boolean; { t = "object" }, a table's place; { t =
-- "static" }, a value of the host; { t = "element" }, an element of a captured list that is a
-- table; or { t = "function" }.

local callees = require "tidepool.translate.lower.callees"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local ranges = require "tidepool.translate.lower.ranges"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"
local texts = require "tidepool.translate.lower.texts"
local walk = require "tidepool.translate.lower.walk"

local expressions = {}

local new_class = classes.new_class
local range_of = ranges.range_of
local all_of, aside, emit, fixed, hold = nodes.all_of, nodes.aside, nodes.emit, nodes.fixed, nodes.hold
local if_statement, is_boolean, is_number, is_stable = nodes.if_statement, nodes.is_boolean, nodes.is_number, nodes.is_stable
local is_within, name_of, new_local, node_at, number = nodes.is_within, nodes.name_of, nodes.new_local, nodes.node_at, nodes.number
local refuse, scalar = nodes.refuse, nodes.scalar
local first_of, last_of, new_storage, note_copy, object = places.first_of, places.last_of, places.new_storage, places.note_copy, places.object
local room_index, value_of = places.room_index, places.value_of
local cell_of_matrix, derived, from_zero, has_element = statics.cell_of_matrix, statics.derived, statics.from_zero, statics.has_element
local is_list_of_tables, matrix_of, static_element = statics.is_list_of_tables, statics.matrix_of, statics.static_element
local copy, index_value = elements.copy, elements.index_value
local name_value = scopes.name_value
local peek, truth_of = facts.peek, facts.truth_of
local text_of = texts.text_of
local carried, carry, expr, expression = walk.carried, walk.carry, walk.expr, walk.expression

local expr_scalar, logical

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
    while of and of.tag == "Paren" do of = of.expr end
    return of and text_of(of.tag == "String" and scalar(of) or peek(L, of)), args
end

-- Is it a call of a function that does not give its results on every path?
local function is_optional_call(L, node)
    local callee = peek(L, node.callee)
    if callee and callee.t == "function" then return optional.misses(L, callee.fn, callee.def) end
    return optional.misses(L, callees.called(L, L.context.fn, node))
end

-- Is it `a or b` where both may be nil?
local function is_either(L, node)
    return node.tag == "Or" and optional.is_optional(L, L.context.fn, L.context.def, node)
end

-- Of an expression that is an element of a list, or a byte of a text, with an index that is
-- computed: whether there is one, a condition, and its value, which has no meaning where there is
-- none. nil of others.
local function presence(L, node)
    while node.tag == "Paren" do node = node.expr end
    if node.tag == "Name" then
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
    local text, args = text_and_index(L, node)
    if text then
        local values = {}
        for i, arg in ipairs(args) do values[i] = scalar(hold(L, node, expr_scalar(L, arg, "an index"), "index")) end
        return texts.byte(L, node, text, values)
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
        local value, lines = aside(L, function() return cell_of_matrix(L, node, known, key) end)
        local last = derived(known.static, ("#%s[...]"):format(known.static.path), "columns", function(now)
            local again = matrix_of(now)
            return again.columns + again.row_from - 1
        end)
        return is_within(L, node, key, number(L, node, form.row_from), fixed(L, node, last)), value, lines
    end
end
expressions.presence = presence

-- The scalar's node, of an expression that must be one. Of a condition only the truth is wanted.
function expr_scalar(L, node, what)
    if what == "a condition" then
        local is_there, value, lines = presence(L, node)
        if is_there then
            for _, line in ipairs(lines or {}) do emit(L, line) end
            local is_truth_open = value.t == "scalar" and not value.text and not is_number(value.node) and not lines
            return is_truth_open and all_of(L, node, { is_there, value.node }) or is_there
        end
        if node.tag == "Paren" then return expr_scalar(L, node.expr, what) end
        if node.tag == "And" or node.tag == "Or" then return logical(L, node, true).node end
    end
    local value = expr(L, node)
    if value.t == "scalar" then return value.node end
    if value.t == "static" then return fixed(L, node, value.static) end
    refuse(L, node, "a %s as %s; on a device %s", value.t == "function" and "function" or "table", what or "a value",
        value.t == "function" and "functions are called by their name" or what == "an index" and "write m:at(row, column) for m[{ row, column }]"
        or "take its fields or elements")
end
expressions.expr_scalar = expr_scalar

-- Evaluates `right` after `left`; what it changes must not change the left one.
function expressions.after(L, at, left, evaluate)
    local mark = #L.out
    local right = evaluate()
    if #L.out > mark and not is_stable(left) then
        local var = new_local(L, "t", at)
        var.range = range_of(L, left)
        table.insert(L.out, mark + 1, node_at(L, at, "Local", { vars = { var }, exprs = { left } }))
        left = name_of(L, at, var)
    end
    return left, right
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

function expression.Number(L, node) return scalar(number(L, node, node.value)) end
function expression.String(L, node) return scalar(node_at(L, node, "String", { value = node.value })) end
function expression.Nil(L, node) return scalar(node_at(L, node, "Nil", {})) end
function expression.True(L, node) return scalar(node_at(L, node, "True", {})) end
function expression.False(L, node) return scalar(node_at(L, node, "False", {})) end
function expression.Wide(L, node) return scalar(node_at(L, node, "Wide", { text = node.text, value = node.value })) end
function expression.Vararg(L, node) refuse(L, node, "'...'; there are no variable arguments on a device, name the parameters") end

function expression.Paren(L, node)
    local value = expr(L, node.expr)
    if value.t ~= "scalar" or is_stable(value.node) then return value end
    return scalar(node_at(L, node, "Paren", { expr = value.node }))
end

function expression.Name(L, node)
    return optional.settle(L, node, name_value(L, node), node.name)
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

-- `c and x or y`, where x or y is a table or needs statements.
local function choice(L, node, left)
    local cond = expr_scalar(L, left.left, "a condition")
    local function evaluate_first()
        local is_there, element, lines = presence(L, left.right)
        if not is_there or element.t ~= "scalar" then return expr(L, left.right) end
        local other, other_lines = aside(L, function() return expr_scalar(L, node.right, "a value") end)
        return scalar((chosen(L, node, is_there, element.node, lines or {}, other, other_lines)))
    end
    local first, first_lines = aside(L, function() return optional.keeping(L, evaluate_first, cond, true) end)
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
function logical(L, node, is_condition)
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
    local right, lines = aside(L, function()
        return optional.keeping(L, function() return expr_scalar(L, node.right, what) end, left, op == "and")
    end)
    if #lines > 0 then return (is_condition and second_truth or second_value)(L, node, left, right, lines) end
    return scalar(node_at(L, node, node.tag, { op = op, left = left, right = right }))
end

-- `a or b` where both may be nil: a local with a flag.
function carried.Or(L, node)
    if truth_of(L, node.left) ~= nil or not is_either(L, node) then return expr(L, node) end
    local is_there, first = presence(L, node.left)
    if not is_there or first.t ~= "scalar" then return expr(L, node) end
    local var, flag = new_local(L, "value", node, true), new_local(L, "has a value", node, true)
    flag.is_flag, var.is_guarded = true, true
    local function give(value, has)
        local is_nil = value.node.tag == "Nil"
        if not is_nil then emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, var) }, exprs = { value.node } })) end
        emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, flag) }, exprs = { is_nil and node_at(L, node, "False", {}) or has } }))
    end
    emit(L, node_at(L, node, "Local", { vars = { var }, exprs = {} }))
    emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { node_at(L, node, "False", {}) } }))
    local _, one = aside(L, function() give(first, node_at(L, node, "True", {})) end)
    local other
    local _, two = aside(L, function()
        other = carry(L, node.right)
        optional.demand(L, other)
        if other.t ~= "scalar" then refuse(L, node, "a table or a number; a value has one type on a device") end
        give(other, optional.is_there(L, node, other))
    end)
    emit(L, if_statement(L, node, is_there, one, two))
    return { t = "scalar", node = name_of(L, node, var), flag = flag, why = other.why, may_be_nil = true, is_sure = true }
end

function expression.And(L, node) return logical(L, node, false) end
function expression.Or(L, node) return logical(L, node, false) end

return expressions
