-- expressions.lua: evaluates names, indexes, `and` and `or`.
--
-- A value is { t = "scalar", node }, a number or boolean; { t = "object" }, a table's place; { t =
-- "static" }, a value of the host; { t = "element" }, an element of a captured list that is a
-- table; or { t = "function" }.

local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local presence = require "tidepool.translate.lower.presence"
local scopes = require "tidepool.translate.lower.scopes"
local symbols = require "tidepool.translate.lower.symbols"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local expressions = {}

local new_class = classes.new_class
local truth_of = facts.truth_of
local all_of, aside, emit, hold, if_statement = nodes.all_of, nodes.aside, nodes.emit, nodes.hold, nodes.if_statement
local is_boolean, is_number, is_stable, name_of = nodes.is_boolean, nodes.is_number, nodes.is_stable, nodes.name_of
local new_local, node_at, number, refuse = nodes.new_local, nodes.node_at, nodes.number, nodes.refuse
local scalar = nodes.scalar
local new_storage, note_copy, object = places.new_storage, places.note_copy, places.object
local copy, index_value = elements.copy, elements.index_value
local name_value = scopes.name_value
local expr, expression = walk.expr, walk.expression

local expr_scalar, logical

-- The scalar's node, of an expression that must be one. Of a condition only the truth is wanted.
function expr_scalar(L, node, what)
    if what == "a condition" then
        local is_there, value, lines = presence.of(L, node)
        if is_there then
            for _, line in ipairs(lines or {}) do emit(L, line) end
            local is_truth_open = value.t == "scalar" and not symbols.is_text(value.node) and not value.text and not is_number(value.node)
                and not lines
            return is_truth_open and all_of(L, node, { is_there, value.node }) or is_there
        end
        if node.tag == "Paren" then return expr_scalar(L, node.expr, what) end
        if node.tag == "And" or node.tag == "Or" then return logical(L, node, true).node end
    end
    local made = presence.scalar_of(L, node, what)
    return what == "a condition" and symbols.is_text(made) and node_at(L, node, "True", {}) or made
end
expressions.expr_scalar = expr_scalar

-- Evaluates `right` after `left`; what it changes must not change the left one.
function expressions.after(L, at, left, evaluate)
    local mark = #L.out
    local right = evaluate()
    if #L.out > mark and not is_stable(left) then
        left = nodes.hold_before(L, at, mark, left)
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

-- A value that was evaluated, in the place of its text.
function expression.Given(L, node) return optional.settle(L, node, node.value) end

function expression.Number(L, node) return scalar(number(L, node, node.value)) end
function expression.String(L, node) return scalar(node_at(L, node, "String", { value = node.value })) end
function expression.Nil(L, node) return scalar(node_at(L, node, "Nil", {})) end
function expression.True(L, node) return scalar(node_at(L, node, "True", {})) end
function expression.False(L, node) return scalar(node_at(L, node, "False", {})) end
function expression.Wide(L, node) return scalar(node_at(L, node, "Wide", { text = node.text, value = node.value })) end

function expression.Paren(L, node)
    local value = expr(L, node.expr)
    if value.t ~= "scalar" or value.node.tag == "Symbol" or is_stable(value.node) then return value end
    return scalar(node_at(L, node, "Paren", { expr = value.node }))
end

function expression.Name(L, node)
    return optional.settle(L, node, name_value(L, node), node.name)
end

function expression.Function(L, node)
    return { t = "function", def = node.def, scope = L.scope, fn = L.context.fn, name = L.context.name or "function", home = L.def }
end

function expression.Index(L, node)
    local updated = L.updated
    if updated and updated.context == L.context and nodes.is_same(node, updated.target) then
        updated.is_read = true
        return scalar(node_at(L, node, "Index", { object = nodes.fixed(L, node, updated.array), key = updated.key, is_late = true }))
    end
    local base = expr(L, node.object)
    return index_value(L, node, base, presence.key_of(L, node))
end

-- `c and x or y`, where x or y is a table or needs statements.
local function choice(L, node, left)
    local cond = expr_scalar(L, left.left, "a condition")
    local function evaluate_first()
        local is_there, element, lines = presence.of(L, left.right)
        if not is_there or element.t ~= "scalar" then return expr(L, left.right) end
        local other, other_lines = aside(L, function() return expr_scalar(L, node.right, "a value") end)
        local one, two, wrapped = symbols.alike(L, node, element.node, other)
        is_there = presence.is_first(L, node, is_there, element)
        return scalar(wrapped(chosen(L, node, is_there, one, lines or {}, two, other_lines)))
    end
    local first, first_lines = aside(L, function() return optional.keeping(L, evaluate_first, cond, true) end)
    local second, second_lines = aside(L, function() return expr(L, node.right) end)
    if choices.is_function(first) and choices.is_function(second) then
        return choices.either(L, node, cond, first, first_lines, second, second_lines)
    end
    if first.t ~= "scalar" or second.t ~= "scalar" then
        if first.t == "scalar" or second.t == "scalar" then refuse(L, node, "a table or a number; a value has one type on a device") end
        return chosen_table(L, node, cond, first, first_lines, second, second_lines)
    end
    local one, two, wrapped = symbols.alike(L, node, first.node, second.node)
    if #first_lines == 0 and #second_lines == 0 then
        return scalar(wrapped(node_at(L, node, "Or", { op = "or", left = node_at(L, node, "And", { op = "and", left = cond, right = one }),
            right = two })))
    end
    return scalar(wrapped(chosen(L, node, cond, one, first_lines, two, second_lines, not is_number(one) and function()
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

-- A table that may not be there, or else another one. Rows of one list are an index into it.
local function either_table(L, node, is_there, first, first_lines, second, second_lines)
    local index
    if first.t == "element" and second.t == "element" and second.static.key == first.static.key then
        index = second.index
    elseif first.t == "element" and second.t == "static" and second.static.base == first.static.value and type(second.static.field) == "number" then
        index = number(L, node, second.static.field)
    end
    if index then
        local key = chosen(L, node, is_there, first.index, first_lines, index, second_lines)
        return { t = "element", static = first.static, index = hold(L, node, key, "index"), example = first.example }
    end
    if first.t == "scalar" or second.t == "scalar" or choices.is_function(first) then
        refuse(L, node, "a table or something else; a value has one type on a device")
    end
    return chosen_table(L, node, is_there, first, first_lines, second, second_lines)
end

-- `(a or b) or c`, as `a or (b or c)`.
local function reassociated(L, node, first)
    local made = L.either[node]
    if not made then
        made = { tag = "Or", op = "or", line = node.line, left = first.left,
            right = { tag = "Or", op = "or", line = node.line, left = first.right, right = node.right } }
        L.either[node] = made
    end
    return made
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
        first = trees.bare(first)
        if first.tag == "Or" then return logical(L, reassociated(L, node, first), false) end
        if first.tag == "And" and truth_of(L, first.left) == nil and not is_boolean(first) then return choice(L, node, first) end
        -- `list[i] or 0`: where there is an element, its value
        local is_there, element, element_lines = presence.of(L, node.left)
        if is_there and element.t == "scalar" then
            local other, other_lines = aside(L, function() return expr_scalar(L, node.right, "a value") end)
            local one, two, wrapped = symbols.alike(L, node, element.node, other)
            if #other_lines == 0 and not element_lines then
                local either = node_at(L, node, "And", { op = "and", left = is_there, right = one })
                return scalar(wrapped(node_at(L, node, "Or", { op = "or", left = either, right = two })))
            end
            is_there = presence.is_first(L, node, is_there, element)
            return scalar(wrapped(chosen(L, node, is_there, one, element_lines or {}, two, other_lines)))
        elseif is_there then
            local other, other_lines = aside(L, function() return expr(L, node.right) end)
            return either_table(L, node, is_there, element, element_lines or {}, other, other_lines)
        end
    end
    -- The left side of `and` is a value only where it is false.
    local left = expr_scalar(L, node.left, op == "and" and "a condition" or what)
    if left.tag == "True" or left.tag == "False" then -- as it turns out now
        if (left.tag == "True") == (op == "or") then return scalar(left) end
        return is_condition and scalar(expr_scalar(L, node.right, what)) or expr(L, node.right)
    end
    local right, lines = aside(L, function()
        return optional.keeping(L, function() return expr_scalar(L, node.right, what) end, left, op == "and")
    end)
    if #lines > 0 then return (is_condition and second_truth or second_value)(L, node, left, right, lines) end
    return scalar(node_at(L, node, node.tag, { op = op, left = left, right = right }))
end

function expression.And(L, node) return logical(L, node, false) end
function expression.Or(L, node) return logical(L, node, false) end

return expressions
