-- loops.lua: loops, and jumps: break and goto. Loops that lanes leave before others, and labels at
-- which they wait for the others, need a mask of their own.

local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.infer.walk"

local refuse = functions.refuse
local bake, static_of, truth_at = statics.bake, statics.static_of, statics.truth_at
local numeric, widen = types.numeric, types.widen
local copy_assigned, declare, enter_loop, masks, meet = flows.copy_assigned, flows.declare, flows.enter_loop, flows.masks, flows.meet
local block, condition, expr = walk.block, walk.condition, walk.expr

local statement = walk.statement

-- The body of a loop. Gives the flow at its end (nil when that is not reached) and at its breaks.
-- `finish` is called at the end of the body, still inside the loop.
local function loop_body(inst, node, flow, varies, finish)
    if varies then masks(inst, node) end
    inst.has_loops = true
    local level = flow.level + (inst.loop_varies[node] and 1 or 0)
    local loop = { node = node, level = level }
    inst.loops[#inst.loops + 1] = loop
    local inner = { assigned = copy_assigned(flow.assigned), level = level }
    if node.tag == "Fornum" then
        declare(inst, inner, node.var)
        inner.assigned[node.var] = true
    end
    local falls = block(inst, node.body, inner)
    if falls and finish then finish(inner) end
    inst.loops[#inst.loops] = nil
    return falls and inner.assigned or nil, loop.broken
end

statement["While"] = function(inst, node, flow)
    enter_loop(node, flow)
    local truth = truth_at(inst, node.cond, flow)
    if truth == false then return true end
    local varies = false
    -- Lanes that fail in the condition leave the loop.
    if truth == nil then
        inst.loops[#inst.loops + 1] = { node = node, level = flow.level + (inst.loop_varies[node] and 1 or 0) }
        varies = condition(inst, node.cond, { assigned = flow.assigned, level = inst.loops[#inst.loops].level })
        inst.loops[#inst.loops] = nil
    end
    local _, broken = loop_body(inst, node, flow, varies)
    if truth then
        flow.assigned = broken or flow.assigned
        return broken ~= nil
    end
    return true
end

statement["Repeat"] = function(inst, node, flow)
    enter_loop(node, flow)
    local truth, varies
    local at_end, broken = loop_body(inst, node, flow, false, function(inner)
        truth = truth_at(inst, node.cond, inner)
        if truth == nil then varies = condition(inst, node.cond, inner) end
    end)
    if varies then masks(inst, node) end
    if truth == false then at_end = nil end
    local out = meet(at_end, broken)
    flow.assigned = out or flow.assigned
    return out ~= nil
end

local function is_step(node)
    if not node then return true end
    local value = node.tag == "Number" and node.value
    if node.tag == "Unop" and node.op == "-" and node.expr.tag == "Number" then value = -node.expr.value end
    return value and value ~= 0 and value == math.floor(value) and math.abs(value) <= 2 ^ 20
end

-- The captured number that an expression is, and whether it is that with a minus; nil: it is none.
local function captured_number(inst, node)
    node = trees.bare(node)
    local is_negated = node.tag == "Unop" and node.op == "-"
    local static = static_of(inst, is_negated and trees.bare(node.expr) or node)
    if static and not static.nested and type(static.value) == "number" then return static, is_negated end
end

-- From here on numbers of the script's are no starts of loops that count with 32 bits.
local SMALL = 2 ^ 30

-- Is the start a captured number that is whole, small, and not -0 as of now? That becomes part of
-- the code, which is made again when it has changed.
local function starts_whole(inst, node)
    local static, is_negated = captured_number(inst, node)
    if not static then return false end
    local function is_whole(value)
        if type(value) ~= "number" then return false end
        if is_negated then value = -value end
        return value == math.floor(value) and math.abs(value) < SMALL and (value ~= 0 or 1 / value > 0)
    end
    if not is_whole(static.value) then return false end
    bake(inst, { path = static.path, key = ("%s%s is whole"):format(static.key, is_negated and " negated" or ""), value = true,
        read = function() return is_whole(static.read()) end })
    return true
end

function statement.Fornum(inst, node, flow)
    local start, start_varies = expr(inst, node.start, flow)
    local limit, limit_varies = expr(inst, node.limit, flow)
    local step, step_varies = "k", false
    if node.step then step, step_varies = expr(inst, node.step, flow) end
    for each, kind in pairs { [node.start] = start or false, [node.limit] = limit or false } do
        if kind then numeric(inst, each, kind, "'for'") end
    end
    numeric(inst, node.step or node, step, "'for'")
    -- With a whole start and a known whole step the counter is an integer: that is exact, since no
    -- loop makes more than 2^52 steps.
    local counter = "num"
    if (start == "k" or start == "int" or start == "long" or start == "num" and starts_whole(inst, node.start)) and not start_varies
        and is_step(node.step) then
        counter = "long"
    end
    local loop = { counter = counter, varies = start_varies or step_varies, limit_varies = limit_varies }
    inst.fornum[node] = loop
    inst.vars[node.var] = inst.vars[node.var] or { varies = false }
    widen(inst, node, node.var, counter, loop.varies)
    enter_loop(node, flow)
    loop_body(inst, node, flow, start_varies or limit_varies or step_varies)
    return true
end

function statement.Forin(inst, node)
    refuse(inst, node, "'for ... in'; there are no iterators on a device, use a numeric for")
end

-- The statements before a label. Lanes that jump to the label wait there for the others. Locals
-- declared in these statements can be seen behind the label.
function statement.Region(inst, node, flow)
    local outer, level = flow.outer_level, flow.level
    local region = { node = node, level = level + (inst.loop_varies[node] and 1 or 0), loops = #inst.loops }
    inst.labels[#inst.labels + 1] = region
    flow.level, flow.outer_level = region.level, outer or level
    local falls = block(inst, node.body, flow)
    flow.level, flow.outer_level = level, outer
    inst.labels[#inst.labels] = nil
    local out = meet(falls and flow.assigned or nil, region.gone)
    flow.assigned = out or flow.assigned
    return out ~= nil
end

function statement.Goto(inst, node, flow)
    local region
    for _, each in ipairs(inst.labels) do
        if each.node.name == node.name then region = each end
    end
    if not region then refuse(inst, node, "'goto %s' goes back; on a device a goto only goes forward, use while or repeat", node.name) end
    if flow.level > region.level then
        masks(inst, region.node)
        for i = region.loops + 1, #inst.loops do
            if flow.level > inst.loops[i].level then masks(inst, inst.loops[i].node) end
        end
    end
    region.node.is_used = true
    region.gone = meet(region.gone, copy_assigned(flow.assigned))
    return false
end

function statement.Break(inst, node, flow)
    local loop = inst.loops[#inst.loops]
    if not loop then refuse(inst, node, "'break' outside of a loop") end
    if flow.level > loop.level then masks(inst, loop.node) end
    loop.broken = meet(loop.broken, copy_assigned(flow.assigned))
    return false
end
