-- assignments.lua: what gives values to locals and elements: local, local function, assignments,
-- and what lower.lua makes of tables.

local arrays = require "tidepool.translate.infer.arrays"
local elements = require "tidepool.translate.infer.elements"
local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local updates = require "tidepool.translate.infer.updates"
local walk = require "tidepool.translate.infer.walk"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local is_within, refuse, variable_of = functions.is_within, functions.refuse, functions.variable_of
local static_of = statics.static_of
local check_given, numeric, storable, widen = types.check_given, types.numeric, types.storable, types.widen
local declare, state_for = flows.declare, flows.state_for
local expr, values = walk.expr, walk.values
local update_of = updates.update_of
local element = elements.element
local WIDE = wide.KINDS

local statement = walk.statement

-- Values that a local can only be another name for, since they do not exist on the device.
local function alias_of(inst, var, node)
    if var.assigned or not node then return end
    if node.tag == "Function" then return { nested = node.def, path = var.name, key = var.name, inst = inst } end
    local static = static_of(inst, node)
    if static and (static.nested or type(static.value) ~= "number" and not wide.kind_of(static.value)) then return static end
end

-- Is one of the values a call that never returns?
local function ends_in(inst, exprs)
    for _, node in ipairs(exprs) do
        if inst.calls[node] and inst.calls[node].never_returns then return true end
    end
    return false
end

function statement.Local(inst, node, flow)
    local aliases, exprs = {}, {}
    for i, var in ipairs(node.vars) do
        aliases[i] = alias_of(inst, var, node.exprs[i])
        if not aliases[i] and node.exprs[i] then exprs[#exprs + 1] = node.exprs[i] end
    end
    for i = #node.vars + 1, #node.exprs do exprs[#exprs + 1] = node.exprs[i] end
    local given, at = values(inst, exprs, flow), 0
    inst.lists[node] = exprs
    for i, var in ipairs(node.vars) do
        local known = declare(inst, flow, var)
        if aliases[i] then
            known.static = aliases[i]
        else
            at = at + 1
            local value = given[at]
            if value then check_given(inst, value) end
            known.given = node.exprs[i] and not (i == #node.exprs and #node.vars > i) and node.exprs[i] or nil
            if value and value.kind ~= "nil" then
                local is_start = var.assigned and wide_rules.is_start(value.node)
                widen(inst, node, var, storable(inst, node, value.kind, ("'%s'"):format(var.name)), value.varies, is_start)
                flow.assigned[var] = is_start and known.is_wide_later and "start" or state_for(inst, flow, value)
            else
                -- who reads a guarded local has asked for its flag before: lower/optional.lua
                flow.assigned[var] = var.is_guarded or "nil"
            end
        end
    end
    return not ends_in(inst, exprs)
end

function statement.LocalFunction(inst, node, flow)
    if node.var.assigned then refuse(inst, node, "'%s' is assigned to; a function has one body on a device", node.var.name) end
    declare(inst, flow, node.var).static = { nested = node.def, path = node.var.name, key = node.var.name, inst = inst }
    return true
end

function statement.Assign(inst, node, flow)
    for _, target in ipairs(node.targets) do
        local var = target.tag == "Name" and variable_of(inst, target)
        if target.tag == "Index" then
            local static = static_of(inst, target.object)
            if not static or static.nested or not arrays.array_type(static.value) or target.key.tag == "String" then
                refuse(inst, target, "assignment to an element or field of '%s'; GPU functions share no state but typed arrays, return the value",
                    static and static.path or "something computed")
            elseif #node.targets > 1 then
                refuse(inst, target, "an assignment of several values, one of them to '%s'; assign to elements one by one", static.path)
            end
        elseif not var or not inst.vars[var] or not is_within(var.def, inst.def) and not inst.vars[var].is_ref then
            refuse(inst, target, "assignment to '%s', which is not a local of this function; GPU functions share no state, "
                .. "return the value%s", target.name, var and "" or ", or declare it where it is only needed here: local " .. target.name)
        end
    end
    for _, value in ipairs(node.exprs) do
        if value.tag == "Function" then expr(inst, value, flow) end
    end
    local given = values(inst, node.exprs, flow)
    if node.targets[1].tag == "Index" then
        local value, name = given[1], ("an element of '%s'"):format(static_of(inst, node.targets[1].object).path)
        local kind = storable(inst, node, value and value.kind or (not value and "nil" or nil), name)
        if not WIDE[kind] then numeric(inst, node, kind, name) end
        element(inst, node.targets[1], flow, true)
        local update = update_of(inst, node.targets[1], node.exprs[1])
        -- What is the same for all lanes is done once, and the rest of an expression not lane by
        -- lane.
        if update and inst.program.lanes > 1 and not (inst.simd and update.is_simple) then error({ is_scalar = true }, 0) end
        inst.updates[node.targets[1]] = update
        inst.program.has_updates = inst.program.has_updates or update ~= nil
        return true
    end
    local states = {}
    for i, target in ipairs(node.targets) do
        local var, value = target.var, given[i]
        if value then check_given(inst, value) end
        -- A local that a loop sets to nil would be nil in the next iteration and after the loop,
        -- which is not followed.
        local is_nil = (not value or value.kind == "nil") and (inst.vars[var].loops == #inst.loops or ends_in(inst, node.exprs))
        if not is_nil then
            local kind = storable(inst, value and value.node or node, value and value.kind or (not value and "nil" or nil), ("'%s'"):format(var.name))
            widen(inst, node, var, kind, value.varies or (inst.simd and flow.level > inst.vars[var].level))
        end
        -- What the function has of its caller may be reached by another name, too.
        states[i] = is_nil and "nil" or inst.vars[var].is_ref and true or state_for(inst, flow, value)
    end
    for i, target in ipairs(node.targets) do flow.assigned[target.var] = states[i] end
    return not ends_in(inst, node.exprs)
end

-- A private array. Its lanes differ, as far as anybody knows.
function statement.Room(inst, node, flow)
    local known = declare(inst, flow, node.var)
    known.room = node.size
    if inst.simd then known.varies = true end
    flow.assigned[node.var] = true
    return true
end

function statement.Put(inst, node, flow)
    numeric(inst, node.index, (expr(inst, node.index, flow)), "an index")
    local name = ("an element of '%s'"):format(node.var.name)
    local kind = storable(inst, node.value, (expr(inst, node.value, flow)), name)
    if kind == "k" or kind == "long" then kind = "num" end
    widen(inst, node, node.var, kind, inst.simd)
    return true
end
