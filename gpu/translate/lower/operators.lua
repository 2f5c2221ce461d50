-- operators.lua: evaluates operators, also those of metatables.

local calls = require "tidepool.translate.lower.calls"
local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local falses = require "tidepool.translate.lower.falses"
local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local presence = require "tidepool.translate.lower.presence"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"
local symbols = require "tidepool.translate.lower.symbols"
local texts = require "tidepool.translate.lower.texts"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local find, make_list = classes.find, classes.make_list
local all_of, is_number = nodes.all_of, nodes.is_number
local binop, fixed, hold, node_at, number, refuse = nodes.binop, nodes.fixed, nodes.hold, nodes.node_at, nodes.number, nodes.refuse
local scalar = nodes.scalar
local last_of = places.last_of
local lookup = scopes.lookup
local length_of_row, matrix_of, static_function = statics.length_of_row, statics.matrix_of, statics.static_function
local peek, truth_of = facts.peek, facts.truth_of
local expr, expression = walk.expr, walk.expression
local after, expr_scalar = expressions.after, expressions.expr_scalar
local inline = inlining.inline
local expr_list, meta_of = calls.expr_list, calls.meta_of
local text_of = texts.text_of

local FUNCTIONS = "'%s' of a function; on a device functions are only called, compare numbers or texts that say which one it is"

local METAMETHODS = { ["+"] = "__add", ["-"] = "__sub", ["*"] = "__mul", ["/"] = "__div", ["%"] = "__mod", ["^"] = "__pow", ["<"] = "__lt",
                      ["<="] = "__le" }

local equality_of_tables

-- Is the left operand a variable of the function itself? Lua leaves open when that is read; LuaJIT
-- reads it after the right operand, a call in which may have changed it.
local function is_read_last(L, node)
    if node.op == ".." then return false end
    local left = node.left
    left = trees.bare(left)
    local var = left.tag == "Name" and left.var
    if not var or not var.assigned or var.def ~= L.context.def then return false end
    local known = lookup(L, var)
    return known ~= nil and known.t == "variable"
end

local function negated(L, node, cond)
    if cond.tag == "True" or cond.tag == "False" then return node_at(L, node, cond.tag == "True" and "False" or "True", {}) end
    return node_at(L, node, "Unop", { op = "not", expr = cond })
end

-- `type(a) == "number"` where a may be nil; nil of others.
local function type_equality(L, node, call, name)
    local callee = call.tag == "Call" and #call.args == 1 and name.tag == "String" and peek(L, call.callee)
    if not callee or callee.t ~= "static" or callee.static.value ~= type then return end
    local is_there, value, lines = presence.of(L, call.args[1])
    if not is_there or lines then return end
    if name.value == "nil" then return falses.is_none(L, node, "nil", is_there, value) end
    if name.value == "boolean" and value.absent then return falses.is_none(L, node, "false", is_there, value) end
    if value.t ~= "scalar" then return name.value == "table" and is_there or node_at(L, node, "False", {}) end
    if is_number(value.node) then return name.value == "number" and is_there or node_at(L, node, "False", {}) end
    local made = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = { value.node } })
    return all_of(L, node, { is_there, binop(L, node, "==", made, name) })
end

-- Whether two values are equal of which one may be nil: a condition; nil of others.
local function equality(L, node)
    local left, right = node.left, node.right
    if left.tag == "Nil" or right.tag == "Nil" then
        local is_there, value, lines = presence.of(L, left.tag == "Nil" and right or left)
        return is_there and not lines and falses.is_none(L, node, "nil", is_there, value) or nil
    end
    local by_type = type_equality(L, node, left, right) or type_equality(L, node, right, left)
    if by_type then return by_type end
    local function may_be_nil(each)
        -- of a function that was given, what is called is known by now
        local known = each.tag == "Name" and each.var and lookup(L, each.var)
        if known and (known.absent or falses.absent_of(L, each.var)) then return true end
        return optional.is_optional(L, L.context.fn, L.context.def, each) or each.tag == "Call" and presence.is_optional_call(L, each)
    end
    if not may_be_nil(left) and not may_be_nil(right) then return end
    local values = expr_list(L, { left, right })
    for i, value in ipairs(values) do
        optional.demand(L, value)
        local other = i == 1 and right or left
        if value.absent and other.tag == "False" then
            return falses.is_none(L, node, "false", optional.is_there(L, node, value), value)
        end
        if choices.is_function(value) then refuse(L, node, FUNCTIONS, node.op) end
        if value.t ~= "scalar" then refuse(L, node, "'%s' of a table; compare its fields", node.op) end
        values[i] = nodes.hold_value(L, node, value)
    end
    local a, b = optional.is_there(L, left, values[1]), optional.is_there(L, right, values[2])
    local equal = symbols.equal(L, node, values[1].node, values[2].node) or binop(L, node, "==", values[1].node, values[2].node)
    if a.tag == "True" and b.tag == "True" then return equal end
    equal = all_of(L, node, { a, b, equal })
    if a.tag == "True" or b.tag == "True" then return equal end
    if values[1].absent or values[2].absent then
        refuse(L, node, "'%s' of two values that may be missing, of which one is false then; ask whether they are there first", node.op)
    end
    return node_at(L, node, "Or", { op = "or", left = equal, right = all_of(L, node, { negated(L, node, a), negated(L, node, b) }) })
end

local COMPARE = {
    ["<"] = function(a, b) return a < b end, ["<="] = function(a, b) return a <= b end, [">"] = function(a, b) return a > b end,
    [">="] = function(a, b) return a >= b end, ["=="] = function(a, b) return a == b end, ["~="] = function(a, b) return a ~= b end,
}

-- What a comparison of two numbers that are known gives, such as `select("#", ...) == 0`.
local function compared(L, node, a, b)
    local compare = COMPARE[node.op]
    if not compare or a.tag ~= "Number" or b.tag ~= "Number" then return end
    return node_at(L, node, compare(a.value, b.value) and "True" or "False", {})
end

local ARITHMETIC = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

-- The operands of arithmetic: texts that are known, as "10" in `"10" + n`, are numbers there.
local function numbers_of(L, node, a, b)
    local function converted(each)
        if not ARITHMETIC[node.op] or not symbols.is_text(each) then return each end
        local text = text_of(scalar(each))
        local value = text and tonumber(text.value)
        if not value then refuse(L, node, "'%s' of a text that is no number known beforehand", node.op) end
        L.program.baked[text.key] = text
        return number(L, node, value)
    end
    return converted(a), converted(b)
end

-- Two texts that are known, as one; nil of others.
local function joined(L, node, a, b)
    local x, y = text_of(scalar(a)), text_of(scalar(b))
    if node.op ~= ".." or not x or not y then return end
    L.program.baked[x.key], L.program.baked[y.key] = x, y
    return node_at(L, node, "String", { value = x.value .. y.value })
end

-- Whether two values, one of them a table, are one; nil where that is not known.
local function is_one_table(L, a, b)
    if a.t == "scalar" or b.t == "scalar" then
        local other = a.t == "scalar" and a or b
        return not (other.flag or other.origin or other.may_be_nil) and (is_number(other.node) or nodes.is_boolean(other.node)
            or other.node.tag == "Nil" or symbols.is_text(other.node)) and false or nil
    end
    if a.t == "static" and b.t == "static" then
        L.program.baked[a.static.key], L.program.baked[b.static.key] = a.static, b.static
        return a.static.value == b.static.value
    end
    if a.t ~= "object" or b.t ~= "object" then return end
    if a.storage == b.storage and not a.at and not b.at then return true end
    -- a copy stands for the table that it is one of
    local function has_copies(storage)
        while storage do
            if storage.copies or storage.is_copy then return true end
            storage = storage.parent
        end
    end
    if a.storage.root ~= b.storage.root and not has_copies(a.storage) and not has_copies(b.storage) then return false end
end

-- `a == b` where one is a table: by __eq, which both have, or as one table.
function equality_of_tables(L, node, a, b)
    local one, other = meta_of(a), meta_of(b)
    local is_cdata = one and facts.type_of_value(L, a) == "cdata" or other and facts.type_of_value(L, b) == "cdata"
    local handler = one and rawget(one, "__eq")
    if is_cdata then handler = handler or other and rawget(other, "__eq") elseif not other or rawget(other, "__eq") ~= handler then handler = nil end
    local is_one = is_one_table(L, a, b)
    local equal
    if handler and (is_cdata or not is_one) and a.t ~= "scalar" and b.t ~= "scalar" then
        equal = optional.settle(L, node, inline(L, node, static_function("__eq", handler), { a, b })[1]).node
        if not nodes.is_boolean(equal) then refuse(L, node, "'__eq' that gives something else than a boolean") end
    elseif is_one == nil or is_cdata then
        refuse(L, node, "'%s' of two tables of which it is not known whether they are one; compare their fields", node.op)
    else
        equal = node_at(L, node, is_one and "True" or "False", {})
    end
    return scalar(node.op == "==" and equal or negated(L, node, equal))
end

function expression.Binop(L, node)
    local truth = truth_of(L, node)
    if truth ~= nil then return scalar(node_at(L, node, truth and "True" or "False", {})) end
    local equal = (node.op == "==" or node.op == "~=") and equality(L, node)
    if equal then return scalar(node.op == "==" and equal or negated(L, node, equal)) end
    local left, right
    if is_read_last(L, node) then right = expr(L, node.right) end
    left = expr(L, node.left)
    if left.t == "scalar" and not right then
        local kept
        kept, right = after(L, node, left.node, function() return expr(L, node.right) end)
        left = scalar(kept)
    else
        right = right or expr(L, node.right)
    end
    if left.t == "scalar" and right.t == "scalar" then
        local a, b = left.node, right.node
        if node.op == "==" or node.op == "~=" then
            local equal_texts = symbols.equal(L, node, a, b)
            if equal_texts then return scalar(node.op == "==" and equal_texts or negated(L, node, equal_texts)) end
        end
        a, b = numbers_of(L, node, a, b)
        local folded = compared(L, node, a, b)
        if folded then return scalar(folded) end
        local text = joined(L, node, a, b)
        if text then return scalar(text) end
        if node.op == ".." then a, b = hold(L, node, a), hold(L, node, b) end -- a text, see is_stable
        return scalar(binop(L, node, node.op, a, b))
    end
    if choices.is_function(left) or choices.is_function(right) then refuse(L, node, FUNCTIONS, node.op) end
    if node.op == "==" or node.op == "~=" then return equality_of_tables(L, node, left, right) end
    local op, a, b = node.op, left, right
    if op == ">" or op == ">=" then op, a, b = op == ">" and "<" or "<=", right, left end
    local event = METAMETHODS[op]
    local one, other = meta_of(a), meta_of(b)
    local handler = event and (one and rawget(one, event) or other and rawget(other, event))
    if type(handler) ~= "function" then
        refuse(L, node, "'%s' of a table%s", node.op, event and (", whose metatable has no function '%s'"):format(event) or "; compare its fields")
    end
    return optional.settle(L, node, inline(L, node, static_function(event, handler), { a, b })[1])
end

function expression.Unop(L, node)
    if node.op == "#" then
        local value = expr(L, node.expr)
        if value.t == "object" then
            local class = find(value.storage.class)
            if class.has_hole then refuse(L, node, "'#' of a list with nil in it; on a device its elements follow one another") end
            if class.has_list and value.storage.list then
                local list = value.storage.list
                if list.is_fixed then return scalar(number(L, node, list.length)) end
                local last = hold(L, node, last_of(L, node, value), "length")
                if last.var then
                    last.var.sequence = "fixed"
                    local top = list.from + list.count - 1
                    last.var.range = { 0, math.max(class.to, 0), true }
                    if top > class.to then last.var.full, last.var.lengths = { 0, top, true }, { class } end
                end
                return scalar(last)
            end
            if class.grows or places.is_open(class) then make_list(L, class) return scalar(number(L, node, 0)) end
            return scalar(number(L, node, class.count or 0))
        elseif value.t == "element" then
            if not matrix_of(value.static.value) then
                refuse(L, node, "'#' of an element of '%s', which is no list of lists of numbers, or of lists of booleans", value.static.path)
            end
            return scalar(length_of_row(L, node, value))
        elseif value.t == "static" then
            return scalar(node_at(L, node, "Unop", { op = "#", expr = fixed(L, node, value.static) }))
        end
        local text = text_of(value)
        if text then return texts.length(L, node, text) end
        return scalar(node_at(L, node, "Unop", { op = "#", expr = value.node }))
    end
    local truth = truth_of(L, node)
    if truth ~= nil then return scalar(node_at(L, node, truth and "True" or "False", {})) end
    if node.op == "not" then
        local cond = expr_scalar(L, node.expr, "a condition")
        if cond.tag == "True" or cond.tag == "False" then return scalar(node_at(L, node, cond.tag == "True" and "False" or "True", {})) end
        return scalar(node_at(L, node, "Unop", { op = "not", expr = cond }))
    end
    local value = expr(L, node.expr)
    if value.t == "scalar" then return scalar(node_at(L, node, "Unop", { op = node.op, expr = value.node })) end
    local meta = node.op == "-" and meta_of(value)
    local handler = meta and rawget(meta, "__unm")
    if type(handler) ~= "function" then refuse(L, node, "'%s' of a table", node.op) end
    return optional.settle(L, node, inline(L, node, static_function("__unm", handler), { value })[1])
end
