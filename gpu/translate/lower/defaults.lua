-- defaults.lua: parameters that a function assigns to only once, to give them a default: `mode =
-- mode or "fast"` among its statements. Where it is known what is given, the parameter stands for
-- that and then for its default, without a variable; so both may be texts, tables and functions.

local trees = require "tidepool.translate.trees"

local defaults = {}

-- The parameter that a statement gives its default; nil of other statements.
local function defaulted(def, node)
    local target, value = node.tag == "Assign" and #node.targets == 1 and node.targets[1], node.exprs and node.exprs[1]
    if not target or target.tag ~= "Name" or not target.var or value.tag ~= "Or" or #node.exprs ~= 1 then return end
    local left = value.left
    if left.tag ~= "Name" or left.var ~= target.var then return end
    for _, param in ipairs(def.params) do
        if param == target.var then return param end
    end
end

--- The parameters of a function that are assigned to in one such statement only: the statements, by
--- parameter.
function defaults.of(L, def)
    local known = L.defaults[def]
    if known then return known end
    known = {}
    L.defaults[def] = known
    for _, node in ipairs(def.body) do
        local param = defaulted(def, node)
        if param then known[param] = node end
    end
    trees.each_node(def.body, function(node)
        for _, target in ipairs(node.tag == "Assign" and node.targets or {}) do
            if target.var and known[target.var] and known[target.var] ~= node then known[target.var] = nil end
        end
    end)
    return known
end

return defaults
