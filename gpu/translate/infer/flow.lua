-- flow.lua: the state of the walk at a place of a function: which locals have a value there, and
-- which lanes get there.
--
-- flow.assigned: the locals that have a value here (true, or which number it is, see
-- constants.lua; "start": perhaps the one that they begin with, see wide.lua), or certainly none
-- ("nil");
-- flow.level: how many of the conditions and loops around this place differ between lanes;
-- flow.outer_level: the level of locals that are declared here and can be seen behind a label that
-- ends here; inst.loops: the loops around this place, outermost first; inst.labels: the labels that
-- a goto may jump to from here.

local constants = require "tidepool.translate.constants"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"

local flows = {}

local each_part = functions.each_part

function flows.declare(inst, flow, var)
    local known = inst.vars[var]
    if not known then
        known = { varies = false }
        inst.vars[var] = known
    end
    known.level = flow.outer_level or flow.level
    known.loops = #inst.loops
    return known
end

function flows.copy_assigned(assigned)
    local copy = {}
    for var, state in pairs(assigned) do copy[var] = state end
    return copy
end

-- What two paths have in common; nil stands for a path that does not reach this place.
function flows.meet(a, b)
    if not a or not b then return a or b end
    local both = {}
    for var, state in pairs(a) do
        local other = b[var]
        if other == state or other == "start" and state ~= "nil" then
            both[var] = other
        elseif other and state == "start" and other ~= "nil" then
            both[var] = state
        elseif other and other ~= "nil" and state ~= "nil" then both[var] = true end
    end
    return both
end

-- The locals that a statement assigns to.
local function assigned_in(node)
    if not node.assigns then
        node.assigns = {}
        local function visit(part)
            if part.tag == "Assign" then
                for _, target in ipairs(part.targets) do
                    if target.tag == "Name" and target.var then node.assigns[target.var] = true end
                end
            end
            for _, name in ipairs(part.tag == "Call" and part.refs or {}) do node.assigns[name.var] = true end
            each_part(part, visit)
        end
        visit(node)
    end
    return node.assigns
end

-- A local that is nil before a loop may have a value in the loop and after it, if the loop assigns
-- to it; one that is a known number may be another one.
function flows.enter_loop(node, flow)
    for var in pairs(assigned_in(node)) do
        local state = flow.assigned[var]
        if state == "nil" then flow.assigned[var] = nil elseif state and state ~= "start" then flow.assigned[var] = true end
    end
end

-- The state of a local that gets this value.
function flows.state_for(inst, flow, value)
    inst.flow = flow
    return (not value.index or value.index == 1) and constants.value(statics, inst, value.node, true) or true
end

-- Notes that the loop needs a mask of its own, since its lanes do not all leave it together.
local function masks(inst, node)
    if inst.simd and not inst.loop_varies[node] then
        inst.loop_varies[node] = true
        inst.changed = true
    end
end
flows.masks = masks

-- Lanes leave the function here. If these are not all of its lanes, the loops around go on without
-- them.
local function leaves(inst, flow, varies)
    if varies or flow.level > 0 then
        for _, loop in ipairs(inst.loops) do masks(inst, loop.node) end
    end
end
flows.leaves = leaves

function flows.fails(inst, flow, varies)
    inst.can_fail = true
    leaves(inst, flow, varies)
end

return flows
