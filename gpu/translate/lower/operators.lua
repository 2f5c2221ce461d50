-- operators.lua: evaluates operators, also those of metatables.

local calls = require "tidepool.translate.lower.calls"
local classes = require "tidepool.translate.lower.classes"
local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"
local texts = require "tidepool.translate.lower.texts"
local walk = require "tidepool.translate.lower.walk"

local find, make_list = classes.find, classes.make_list
local binop, fixed, hold, node_at, number, refuse = nodes.binop, nodes.fixed, nodes.hold, nodes.node_at, nodes.number, nodes.refuse
local scalar = nodes.scalar
local last_of = places.last_of
local lookup = scopes.lookup
local derived, matrix_of, static_function = statics.derived, statics.matrix_of, statics.static_function
local truth_of = facts.truth_of
local expr, expression = walk.expr, walk.expression
local after, expr_scalar, presence = expressions.after, expressions.expr_scalar, expressions.presence
local inline = inlining.inline
local meta_of = calls.meta_of
local text_of = texts.text_of

local METAMETHODS = { ["+"] = "__add", ["-"] = "__sub", ["*"] = "__mul", ["/"] = "__div", ["%"] = "__mod", ["^"] = "__pow", ["<"] = "__lt",
                      ["<="] = "__le" }

-- Is the left operand a variable of the function itself? Lua leaves open when that is read; LuaJIT
-- reads it after the right operand, a call in which may have changed it.
local function is_read_last(L, node)
    if node.op == ".." then return false end
    local left = node.left
    while left.tag == "Paren" do left = left.expr end
    local var = left.tag == "Name" and left.var
    if not var or not var.assigned or var.def ~= L.context.def then return false end
    local known = lookup(L, var)
    return known ~= nil and known.t == "variable"
end

function expression.Binop(L, node)
    local truth = truth_of(L, node)
    if truth ~= nil then return scalar(node_at(L, node, truth and "True" or "False", {})) end
    if (node.op == "==" or node.op == "~=") and (node.left.tag == "Nil" or node.right.tag == "Nil") then
        local is_there, _, lines = presence(L, node.left.tag == "Nil" and node.right or node.left)
        if is_there and not lines then return scalar(node.op == "~=" and is_there or node_at(L, node, "Unop", { op = "not", expr = is_there })) end
    end
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
        if node.op == ".." then a, b = hold(L, node, a), hold(L, node, b) end -- a text, see is_stable
        return scalar(binop(L, node, node.op, a, b))
    end
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
        local text = text_of(value)
        if text then return texts.length(L, node, text) end
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
    return optional.settle(L, node, inline(L, node, static_function("__unm", handler), { value })[1])
end
