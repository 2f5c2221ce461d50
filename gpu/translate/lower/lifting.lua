-- lifting.lua: functions inside of the function that call themselves. They cannot be inlined, so
-- they stay functions, which infer.lua makes something else of (recursion.lua). They take and give
-- no tables, and their results are there on every path.

local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local scopes = require "tidepool.translate.lower.scopes"
local walk = require "tidepool.translate.lower.walk"

local lifting = {}

local aside, emit, new_local, node_at, refuse = nodes.aside, nodes.emit, nodes.new_local, nodes.node_at, nodes.refuse
local close_scope, open_scope = scopes.close_scope, scopes.open_scope

-- Calls visit(node) for the nodes of a tree, those of functions in it, too.
local function each_node(tree, visit)
    visit(tree)
    for key, part in pairs(tree) do
        if type(part) == "table" and key ~= "var" and key ~= "vars" and key ~= "names" and key ~= "params" and key ~= "outer" and key ~= "assigns"
            and key ~= "static" and key ~= "source" then
            each_node(part, visit)
        end
    end
end

-- Does the function that the local is declared with call it, or one in it do so?
local function calls_itself(var, def)
    local found = false
    each_node(def.body, function(node) found = found or node.tag == "Name" and node.var == var end)
    return found
end

--- Writes a local function that calls itself; false when it is another one.
function lifting.declare(L, node)
    local def, fn = node.def, L.context.fn
    if node.var.assigned or not calls_itself(node.var, def) then return false end
    if optional.misses(L, fn, def) or def.is_vararg then return false end
    local var = new_local(L, node.var.name, node)
    local made = { tag = "Def", line = def.line, last_line = def.last_line, first = def.first, last = def.last, params = {}, names = {},
                   outer = L.def }
    var.bound = made
    L.scope.vars[node.var] = { t = "lifted", var = var, of = node.var, def = def }
    local outer_def, outer_loops, outer_context, outer_present = L.def, L.loops, L.context, L.present
    L.def, L.loops, L.present = made, {}, {}
    L.context = { fn = fn, def = def, name = node.var.name, serial = L.serial }
    local _, body = aside(L, function()
        open_scope(L)
        for i, param in ipairs(def.params) do
            made.params[i] = new_local(L, param.name, { line = param.line }, param.assigned)
            L.scope.vars[param] = { t = "variable", var = made.params[i], of = param, is_parameter = true }
            if param.assigned then L.ranges[param] = false end
        end
        walk.block(L, def.body, true)
        close_scope(L)
    end)
    L.def, L.loops, L.context, L.present = outer_def, outer_loops, outer_context, outer_present
    made.body = body
    -- What it takes from outside is passed to it (nested_captures in infer/functions.lua).
    each_node(body, function(each)
        local owner = each.var and each.var.def
        while owner and owner ~= made do owner = owner.outer end
        if owner or not each.var then return end
        if each.tag == "Cell" or each.tag == "Put" then
            refuse(L, each, "'%s' calls itself, and uses the list '%s' of the function around it; on a device such functions do not call themselves, "
                .. "use a loop", node.var.name, each.var.name)
        end
        made.names[#made.names + 1] = each
    end)
    emit(L, node_at(L, node, "LocalFunction", { var = var, def = made }))
    return true
end

--- The node of its call.
function lifting.call(L, node, callee, values)
    local args = {}
    for i, value in ipairs(values) do
        value = optional.settle(L, node, value)
        args[i] = value.t == "scalar" and value.node or value.t == "static" and nodes.fixed(L, node, value.static)
        if not args[i] then
            refuse(L, node, "'%s' calls itself, and is given a %s; on a device such functions take numbers", callee.of.name,
                (value.t == "function" or value.t == "lifted") and "function" or "table")
        end
    end
    local name = node_at(L, node, "Name", { name = callee.var.name, var = callee.var })
    return node_at(L, node, "Call", { callee = name, args = args, is_tail = node.is_tail })
end

return lifting
