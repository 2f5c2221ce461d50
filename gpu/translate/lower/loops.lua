-- loops.lua: loops, and how often they run.

local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local nodes = require "tidepool.translate.lower.nodes"
local ranges = require "tidepool.translate.lower.ranges"
local scopes = require "tidepool.translate.lower.scopes"
local walk = require "tidepool.translate.lower.walk"

local make_list = classes.make_list
local range_of = ranges.range_of
local aside, emit, hold_value, if_statement, name_of = nodes.aside, nodes.emit, nodes.hold_value, nodes.if_statement, nodes.name_of
local new_local, node_at, number, refuse, scalar = nodes.new_local, nodes.node_at, nodes.number, nodes.refuse, nodes.scalar
local index_value = elements.index_value
local bind_table, close_scope, open_scope = scopes.bind_table, scopes.close_scope, scopes.open_scope
local peek, truth_of = facts.peek, facts.truth_of
local block, expr, expression, scoped, statement = walk.block, walk.expr, walk.expression, walk.scoped, walk.statement
local after, expr_scalar = expressions.after, expressions.expr_scalar

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
    local from, to, by = range_of(L, start), range_of(L, limit), step and range_of(L, step) or { 1, 1, true }
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

statement["Break"] = function(L, node)
    local loop = L.loops[#L.loops]
    if loop and loop.is_unrolled then
        loop.is_left = true
        emit(L, node_at(L, node, "Goto", { name = loop.label }))
        return
    end
    emit(L, node_at(L, node, "Break", {}))
end
