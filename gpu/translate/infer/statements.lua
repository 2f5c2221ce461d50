-- statements.lua: calls as statements, blocks, conditions and return.

local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local references = require "tidepool.translate.infer.references"
local types = require "tidepool.translate.infer.types"
local updates = require "tidepool.translate.infer.updates"
local walk = require "tidepool.translate.infer.walk"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local refuse = functions.refuse
local truth_at = statics.truth_at
local join, note, shown, storable = types.join, types.note, types.shown, types.storable
local copy_assigned, leaves, meet = flows.copy_assigned, flows.leaves, flows.meet
local block, condition, expr, values = walk.block, walk.condition, walk.expr, walk.values
local as_assignment = updates.as_assignment
local WIDE = wide.KINDS

local multiple, statement = walk.multiple, walk.statement

function statement.CallStat(inst, node, flow)
    inst.assigns[node] = as_assignment(inst, node)
    if inst.assigns[node] then return statement.Assign(inst, inst.assigns[node], flow) end
    if node.call.tag == "Method" then expr(inst, node.call, flow) end
    multiple.Call(inst, node.call, flow)
    return not inst.calls[node.call].never_returns
end

function statement.Do(inst, node, flow)
    return block(inst, node.body, flow)
end

function statement.If(inst, node, flow)
    local level, out, falls = flow.level, nil, false
    local open = true -- can a later clause be reached?
    local function branch(body)
        local inner = { assigned = copy_assigned(flow.assigned), level = flow.level }
        if not body or block(inst, body, inner) then
            falls = true
            out = meet(out, inner.assigned)
        end
    end
    for _, clause in ipairs(node.clauses) do
        local truth = truth_at(inst, clause.cond, flow)
        if truth == nil then
            local varies = condition(inst, clause.cond, flow)
            note(inst, clause, "bool", varies)
            flow.level = flow.level + (varies and 1 or 0)
        end
        if truth ~= false then branch(clause.body) end
        if truth then
            open = false
            break
        end
    end
    if open then branch(node.orelse) end
    flow.level = level
    flow.assigned = out or flow.assigned
    return falls
end

statement["Return"] = function(inst, node, flow)
    local given = values(inst, node.exprs, flow)
    local only = #node.exprs == 1 and inst.calls[node.exprs[1]]
    if only and only.never_returns then return false end
    inst.returns = true
    local results = inst.results
    if not results then
        results = {}
        for i = 1, #given do results[i] = {} end
        results.line = node.line
        inst.results = results
    end
    local few, many = { n = #given, line = node.line }, { n = #results, line = results.line }
    if few.n > many.n then few, many = many, few end
    for i = few.n + 1, many.n do
        results[i] = results[i] or {}
        if results[i].missing then break end
        results[i].missing = ("this returns %d value%s, and line %d returns %d"):format(many.n, many.n == 1 and "" or "s", few.line, few.n)
        results[i].line = many.line
    end
    for i, value in ipairs(given) do
        if value.missing and not results[i].missing then results[i].missing, results[i].line = value.missing, node.line end
        if value.kind == "nil" and inst.called_at then
            results[i].missing, results[i].line = results[i].missing or ("line %d returns nil for it"):format(node.line), node.line
            value.kind = nil
        end
        storable(inst, value.node, value.kind, ("result %d"):format(i))
        local joined = join(results[i].kind, value.kind)
        if value.kind and not joined then
            local both = WIDE[value.kind] or WIDE[results[i].kind]
            refuse(inst, node, "result %d is a %s in one place and a %s in another%s", i, both and shown(results[i].kind) or "number",
                both and shown(value.kind) or "boolean", both and wide_rules.advice(results[i].kind, value.kind) or "")
        end
        if joined ~= results[i].kind then
            results[i].kind = joined
            inst.changed = true
        end
    end
    references.leave(inst, flow)
    leaves(inst, flow, false)
    return false
end
