-- nodes.lua: makes the nodes of the new tree, and refuses what has none.
--
-- New nodes, for infer.lua: Room{var, size} declares an array of a local's elements; Cell{var,
-- index} reads one, and Put{var, index, value} writes one; their index counts from 0 and is
-- checked. Fixed{static} is a value of the host. `source` of a node: the text that it is in, where
-- that is not the function's own.

local builtins = require "tidepool.translate.builtins"
local classes = require "tidepool.translate.lower.classes"
local ranges = require "tidepool.translate.lower.ranges"
local trees = require "tidepool.translate.trees"

local nodes = {}

local is_rough, open_loop = ranges.is_rough, ranges.open_loop

-- The text and the line of a node, and the function that it is in. Of a node in a text of our own
-- (inlining.lua), as that of table.insert: of its call.
local function place_of(L, at)
    local context, source = L.context, at.source
    while context and context.fn.is_own do
        at, context, source = context.call, context.caller, nil
    end
    return source or context and context.fn.source or L.fn.source, at.line, context
end

function nodes.refuse(L, at, format, ...)
    local source, line, context = place_of(L, at)
    local name = context and context.name
    local inside = name and name ~= L.name and (" in '%s':"):format(name) or ""
    error({ refusal = ("%s:%d: gpu function%s:%s %s"):format(source.file, line, L.name and (" '%s'"):format(L.name) or "", inside,
        format:format(...)) }, 0)
end

--- Refuses it if nothing new is learnt in the rest of this round.
function nodes.refuse_later(L, at, ...)
    local _, refusal = pcall(nodes.refuse, L, at, ...)
    L.refusal = L.refusal or refusal
end

local function node_at(L, at, tag, fields)
    fields.tag, fields.line = tag, at.line
    fields.source = L.context.fn ~= L.fn and L.context.fn.source or at.source
    return fields
end
nodes.node_at = node_at

local function emit(L, node)
    L.out[#L.out + 1] = node
    return node
end
nodes.emit = emit

local function new_local(L, name, at, assigned)
    return { name = name, line = at.line, def = L.def, assigned = assigned or false }
end
nodes.new_local = new_local

local function name_of(L, at, var) return node_at(L, at, "Name", { name = var.name, var = var }) end
nodes.name_of = name_of

local function number(L, at, value)
    return node_at(L, at, "Number", { value = value })
end
nodes.number = number

local function binop(L, at, op, left, right) return node_at(L, at, "Binop", { op = op, left = left, right = right }) end
nodes.binop = binop

local function fixed(L, at, static) return node_at(L, at, "Fixed", { static = static, name = static.path }) end
nodes.fixed = fixed

local function library(L, at, path, fn)
    return fixed(L, at, { path = path, key = path, value = fn, read = function() return fn end })
end

local function all_of(L, at, list)
    local node = list[1]
    for i = 2, #list do node = node_at(L, at, "And", { op = "and", left = node, right = list[i] }) end
    return node
end
nodes.all_of = all_of

local function is_whole(L, at, node)
    return binop(L, at, "==", node, node_at(L, at, "Call", { callee = library(L, at, "math.floor", math.floor), args = { node } }))
end
nodes.is_whole = is_whole

-- Is it a text that is made of numbers? Their values are held before it is made.
local function is_text(node)
    local fn = node.tag == "Call" and node.callee.static and node.callee.static.value
    return node.tag == "Binop" and node.op == ".." or node.tag == "Method" and node.name == "format" or fn == tostring or fn == string.format
end

nodes.is_text = is_text

--- Is it a result that some path does not give? It is read where it is wanted only, and nothing
--- changes it.
function nodes.is_missing(node) return node.tag == "Name" and node.var ~= nil and node.var.missing ~= nil end

-- Is it the same whenever it is evaluated, and cheap?
local is_stable

-- Is it the element that the statement updates (assignments.lua), with stable operands? It is read
-- when the statement is run, as one with what it becomes.
local function has_late(node)
    if node.is_late or node.tag == "Paren" or node.tag == "Unop" and node.op == "-" then return node.is_late or has_late(node.expr) end
    if node.tag ~= "Binop" then return false end
    return has_late(node.left) and (has_late(node.right) or is_stable(node.right)) or has_late(node.right) and is_stable(node.left)
end

function is_stable(node)
    if node.tag == "Symbol" then return is_stable(node.node) end
    if has_late(node) then return true end
    if is_text(node) then return true end
    return node.tag == "Number" or node.tag == "Wide" or node.tag == "Fixed"
        or node.tag == "Nil" or node.tag == "True" or node.tag == "False" or node.tag == "String"
        or (node.tag == "Name" and node.var and not node.var.assigned)
end
nodes.is_stable = is_stable

local NUMBERS = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

local function is_boolean(node)
    local tag = node.tag
    if tag == "Paren" then return is_boolean(node.expr) end
    if tag == "Name" then return node.var ~= nil and node.var.is_boolean == true end
    if tag == "True" or tag == "False" or tag == "Unop" and node.op == "not" then return true end
    if tag == "Fixed" then return type(node.static.value) == "boolean" end
    if tag == "Binop" then return not NUMBERS[node.op] and node.op ~= ".." end
    if tag == "And" or tag == "Or" then return is_boolean(node.left) and is_boolean(node.right) end
    return false
end
nodes.is_boolean = is_boolean

-- Is it surely a number, and no 64-bit integer?
local function is_plain(node)
    local tag = node.tag
    if tag == "Number" then return true end
    if tag == "Paren" or tag == "Unop" and node.op == "-" then return is_plain(node.expr) end
    if tag == "Binop" and NUMBERS[node.op] then return is_plain(node.left) and is_plain(node.right) end
    if tag == "Name" and node.var and node.var.class and classes.find(node.var.class).ctype then return true end
    if tag == "Cell" then return node.var.class ~= nil and (classes.find(node.var.class).ctype ~= nil or classes.is_plain(node.var.class)) end
    if tag == "Name" and node.var and node.var.class then return node.var.is_set == true and classes.is_plain(node.var.class) end
    if tag == "Name" then return node.var ~= nil and node.var.is_plain == true end
    if tag == "Fixed" then return type(node.static.value) == "number" end
    local fn = tag == "Call" and node.callee.static and node.callee.static.value
    if not fn then return false end
    for _, each in ipairs(node.args) do if not is_plain(each) then return false end end
    return fn ~= type and fn ~= tostring and builtins.find(fn) ~= nil
end
nodes.is_plain = is_plain

local hold

function hold(L, at, node, name)
    if is_stable(node) and not has_late(node) then return node end
    if node.tag == "Symbol" then return node_at(L, at, "Symbol", { node = hold(L, at, node.node, name), is_char = node.is_char }) end
    local var = new_local(L, name or "t", at)
    var.is_rough, var.loop = is_rough(node), open_loop(node)
    var.is_boolean, var.is_plain = is_boolean(node), is_plain(node)
    ranges.bound(L, var, node)
    emit(L, node_at(L, at, "Local", { vars = { var }, exprs = { node } }))
    return name_of(L, at, var)
end
nodes.hold = hold

-- The same, with the local before the statements behind `mark`.
function nodes.hold_before(L, at, mark, node)
    if node.tag == "Binop" and (has_late(node.left) or has_late(node.right)) then
        local function held(part) return is_stable(part) and part or nodes.hold_before(L, at, mark, part) end
        return binop(L, at, node.op, held(node.left), held(node.right))
    end
    local inner = node.tag == "Symbol" and node.node or node
    local var = new_local(L, "t", at)
    ranges.bound(L, var, inner)
    table.insert(L.out, mark + 1, node_at(L, at, "Local", { vars = { var }, exprs = { inner } }))
    local name = name_of(L, at, var)
    return inner == node and name or node_at(L, at, "Symbol", { node = name, is_char = node.is_char })
end

-- The same for a value, if it is no table. `class`: of a place that may turn out to hold a table.
function nodes.hold_value(L, at, value, name)
    if value.t ~= "scalar" then return value end
    local held = {}
    for key, each in pairs(value) do held[key] = each end
    held.node = hold(L, at, value.node, name)
    return held
end

local function error_statement(L, at, text, detail)
    local source, line = place_of(L, at)
    local message = node_at(L, at, "String", { value = ("%s:%d: %s"):format(source.file, line, text[1]) })
    if detail then
        message = binop(L, at, "..", message, binop(L, at, "..", detail, node_at(L, at, "String", { value = text[2] })))
    end
    return node_at(L, at, "CallStat", { call = node_at(L, at, "Call", { callee = library(L, at, "error", error), args = { message, number(L, at,
        0) } }) })
end
nodes.error_statement = error_statement

-- Fails unless the condition holds.
function nodes.check(L, at, condition, text, detail)
    emit(L, node_at(L, at, "If", { clauses = { node_at(L, at, "Clause", {
        cond = node_at(L, at, "Unop", { op = "not", expr = condition }), body = { error_statement(L, at, text, detail) } }) } }))
end

function nodes.scalar(node, class) return { t = "scalar", node = node, class = class } end

function nodes.is_number(node)
    local tag = node.tag
    if tag == "Number" or tag == "Unop" and node.op == "-" or tag == "Binop" and NUMBERS[node.op] then return true end
    if tag == "Name" then return node.var and (node.var.is_number or node.var.range ~= nil) end
    if tag == "Fixed" then return type(node.static.value) == "number" end
    if tag == "Call" then return node.callee.static and builtins.find(node.callee.static.value) ~= nil end
    return false
end

-- Is the index one of an element that there is? A condition.
function nodes.is_within(L, at, key, first, last)
    return all_of(L, at, { binop(L, at, ">=", key, first), binop(L, at, "<=", key, last), is_whole(L, at, key) })
end

-- Runs `evaluate` with statements going into a list of their own; gives its result and the list.
-- Whatever may run several times, or not at all, is written by this: L.asides says how many of them
-- are open.
function nodes.aside(L, evaluate)
    local outer = L.out
    L.out, L.asides = {}, L.asides + 1
    local result = evaluate()
    local list = L.out
    L.out, L.asides = outer, L.asides - 1
    return result, list
end

--- What is written here is surely run if what is written where `mark` was taken is: no condition,
--- loop or early return is between. `given`: how many returns the function here has had already.
function nodes.is_surely_run(L, mark, given)
    local context = L.context
    while context ~= mark.context do
        -- a function that calls itself has no caller here: it is run more often, or not at all
        if not context or context.returns and #context.returns.given > (given or 0) then return false end
        context, given = context.caller, nil
    end
    return L.asides == mark.asides
end

function nodes.mark(L) return { asides = L.asides, context = L.context } end

-- Are two expressions of a text the same, without calls in them?
local function is_same(a, b)
    a = trees.bare(a)
    b = trees.bare(b)
    if a.tag ~= b.tag then return false end
    if a.tag == "Name" then return a.var == b.var and a.name == b.name end
    if a.tag == "Number" or a.tag == "String" then return a.value == b.value end
    if a.tag == "Binop" then return a.op == b.op and is_same(a.left, b.left) and is_same(a.right, b.right) end
    if a.tag == "Unop" then return a.op == b.op and is_same(a.expr, b.expr) end
    return a.tag == "Index" and is_same(a.object, b.object) and is_same(a.key, b.key)
end
nodes.is_same = is_same

function nodes.if_statement(L, at, cond, body, orelse)
    return node_at(L, at, "If", { clauses = { node_at(L, at, "Clause", { cond = cond, body = body }) }, orelse = orelse })
end

return nodes
