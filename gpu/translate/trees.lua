-- trees.lua: walks over the trees that parse.lua makes, and over those of lower.lua.

local trees = {}

-- Keys of nodes at which is no part of the text, but what the node refers to.
local APART = {
    var = true, vars = true, names = true, params = true, outer = true, assigns = true, static = true, source = true, update = true,
}

--- The expression that stands in parentheses, or without; nil for nil.
---@param node table?
---@return table?
function trees.bare(node)
    while node and node.tag == "Paren" do node = node.expr end
    return node
end

--- Calls visit(node) for the nodes of a tree, those of functions in it, too, but not for what is in
-- a node for which it gives true; always in the same order, so that the same function gives the
-- same text each time, as kept programs need it.
---@param tree table
---@param visit fun(node: table): boolean?
function trees.each_node(tree, visit)
    if visit(tree) or tree.tag == "Given" then return end -- which has a value that is no node
    local keys = {}
    for key, part in pairs(tree) do
        if type(part) == "table" and not APART[key] then keys[#keys + 1] = key end
    end
    table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
    for _, key in ipairs(keys) do trees.each_node(tree[key], visit) end
end

--- Calls visit(node, list, i) for each statement of a block, which is number i of that list, also
-- for those in it; not for those of functions in it.
---@param list table[]
---@param visit fun(node: table, list: table[], i: integer)
function trees.each_statement(list, visit)
    for i, node in ipairs(list) do
        visit(node, list, i)
        if node.body then trees.each_statement(node.body, visit) end
        if node.orelse then trees.each_statement(node.orelse, visit) end
        for _, clause in ipairs(node.clauses or {}) do trees.each_statement(clause.body, visit) end
    end
end

return trees
