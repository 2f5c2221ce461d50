-- loops.lua: loops but those over tables, and how often they run.

local expressions = require "tidepool.translate.lower.expressions"
local facts = require "tidepool.translate.lower.facts"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local ranges = require "tidepool.translate.lower.ranges"
local scopes = require "tidepool.translate.lower.scopes"
local walk = require "tidepool.translate.lower.walk"

local full_range_of, range_of = ranges.full_range_of, ranges.range_of
local aside, emit, if_statement, new_local, node_at = nodes.aside, nodes.emit, nodes.if_statement, nodes.new_local, nodes.node_at
local close_scope, open_scope = scopes.close_scope, scopes.open_scope
local truth_of = facts.truth_of
local block, scoped, statement = walk.block, walk.scoped, walk.statement
local after, expr_scalar = expressions.after, expressions.expr_scalar

local loops = {}

local function in_loop(L, loop, body)
    L.loops[#L.loops + 1] = loop
    local _, list = aside(L, body)
    L.loops[#L.loops] = nil
    return list
end
loops.in_loop = in_loop

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

-- The range of a loop's counter, and how often it runs at most; nil where that is not known.
local function counted(from, to, by)
    if not from or not to then return end
    if not by or by[1] <= 0 and by[2] >= 0 then -- a step that may be any
        return { math.min(from[1], to[1]), math.max(from[2], to[2]), false }
    end
    local low, high = by[1] > 0 and from[1] or to[1], by[1] > 0 and to[2] or from[2]
    return { low, math.max(low, high), from[3] and by[3] or false },
        math.max(0, math.floor((high - low) / math.min(math.abs(by[1]), math.abs(by[2]))) + 1)
end

-- A numeric loop over what `body` writes with the counter. `label`: where `break` goes to, if not
-- behind the loop. Gives what is known of the loop.
local function numeric_loop(L, node, var, start, limit, step, body, label)
    local from, to, by = full_range_of(L, start), full_range_of(L, limit), { 1, 1, true }
    if step then by = full_range_of(L, step) end
    local new = new_local(L, var.name, node, var.assigned)
    local lengths = ranges.merged(ranges.lengths_of(start), ranges.lengths_of(limit))
    local loop = { line = node.line, is_unrolled = label ~= nil, label = label, is_open = ranges.is_open(lengths) }
    local counter
    counter, loop.times = counted(from, to, by)
    if not var.assigned then
        new.is_plain = true
        new.range, new.is_number, new.loop = counter, true, not counter and node.line or nil
        if lengths and counter then
            new.lengths, new.full = lengths, counter
            new.range = counted(range_of(L, start), range_of(L, limit), by) or counter
        end
    end
    local list = in_loop(L, loop, function()
        new.sequence, new.turn = not var.assigned and by and math.abs(by[1]) == 1 and by[1] == by[2] and "next" or nil, L.asides
        body(new)
    end)
    emit(L, node_at(L, node, "Fornum", { var = new, start = start, limit = limit, step = step, body = list, start_range = from, limit_range = to }))
    return loop
end

loops.numeric_loop = numeric_loop

-- Gives the counter its name in the body, which may assign to it.
local function bind_counter(L, node, var, new)
    local flag = var.assigned and optional.flag_of(L, node, var, nodes.scalar(nodes.name_of(L, node, new))) or nil
    L.scope.vars[var] = { t = "variable", var = new, of = var, flag = flag, may_be_nil = flag ~= nil }
end
loops.bind_counter = bind_counter

function statement.Fornum(L, node)
    local start = expr_scalar(L, node.start, "the start of a loop")
    local limit, step
    start, limit = after(L, node, start, function() return expr_scalar(L, node.limit, "the limit of a loop") end)
    if node.step then limit, step = after(L, node, limit, function() return expr_scalar(L, node.step, "the step of a loop") end) end
    numeric_loop(L, node, node.var, start, limit, step, function(new)
        open_scope(L)
        bind_counter(L, node, node.var, new)
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

return loops
