-- walk.lua: walks the tree: calls the function for each expression and statement, by its tag.
--
-- The tables are filled by the files that know the tags: `expression` gives the kind, and whether
-- the value varies between lanes; `multiple`, for expressions that may have several values, the
-- list of them: { kind, varies, missing }; `statement` whether control can come out behind it.

local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local wide = require "tidepool.translate.wide"

local walk = {}

local static_of, truth_at, truth_of = statics.static_of, statics.truth_at, statics.truth_of
local note = types.note
local WIDE = wide.KINDS
local NUMERIC = types.NUMERIC

local expression, multiple, statement = {}, {}, {}
walk.expression, walk.multiple, walk.statement = expression, multiple, statement

local function expr(inst, node, flow)
    inst.flow = flow
    return note(inst, node, expression[node.tag](inst, node, flow))
end
walk.expr = expr

-- An expression of which only the truth is wanted. Gives whether it varies, and whether it is
-- always true (as any number is).
local function condition(inst, node, flow)
    if node.tag == "Paren" then return condition(inst, node.expr, flow) end
    if truth_at(inst, node, flow) == nil and (node.tag == "And" or node.tag == "Or") then
        local left = truth_of(inst, node.left)
        if left ~= nil then return condition(inst, node.right, flow) end
        local a = condition(inst, node.left, flow)
        flow.level = flow.level + (a and 1 or 0)
        local b = condition(inst, node.right, flow)
        flow.level = flow.level - (a and 1 or 0)
        note(inst, node, "bool", a or b)
        return a or b, false
    end
    local kind, varies = expr(inst, node, flow)
    return varies, NUMERIC[kind] or WIDE[kind] or false
end
walk.condition = condition

-- The values of an expression list, with all results of a call at its end: { node, kind, varies,
-- index }. `params`: the parameters that they are arguments for; functions and arrays may be passed
-- on unchanged.
function walk.values(inst, exprs, flow, params)
    local list = {}
    for i, node in ipairs(exprs) do
        local static = params and params[i] and not params[i].assigned and static_of(inst, node)
        if params and params[i] and not params[i].assigned and node.tag == "Function" then
            static = { nested = node.def, path = params[i].name, key = tostring(node.def), inst = inst }
        end
        local is_object = static and (static.nested or type(static.value) == "function" or type(static.value) == "table"
            or type(static.value) == "userdata" or type(static.value) == "cdata" and not wide.kind_of(static.value))
        if is_object then
            list[#list + 1] = { node = node, static = static }
        elseif node.tag == "Call" and i == #exprs then
            node.wants_value = true
            local results = multiple.Call(inst, node, flow)
            if inst.calls[node].never_returns then results = { { kind = "k", varies = false } } end
            for k, result in ipairs(results) do
                list[#list + 1] = { node = node, kind = result.kind, varies = result.varies, index = k, missing = result.missing }
            end
        else
            local kind, varies = expr(inst, node, flow)
            list[#list + 1] = { node = node, kind = kind, varies = varies }
        end
    end
    return list
end

function walk.block(inst, list, flow)
    for i, node in ipairs(list) do
        inst.flow, inst.block, inst.block_at = flow, list, i
        local falls = statement[node.tag](inst, node, flow)
        inst.ends[node] = not falls
        if not falls then return false end
    end
    return true
end

return walk
