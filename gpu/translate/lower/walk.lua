-- walk.lua: walks the tree: calls the function for each expression and statement, by its tag.
--
-- The tables `expression`, `carried` and `statement` are filled by the files that know the tags.

local facts = require "tidepool.translate.lower.facts"
local optional = require "tidepool.translate.lower.optional"
local scopes = require "tidepool.translate.lower.scopes"

local walk = {}

local close_scope, open_scope = scopes.close_scope, scopes.open_scope
local truth_of = facts.truth_of

local expression, statement, carried = {}, {}, {}
walk.expression, walk.statement, walk.carried = expression, statement, carried

function walk.expr(L, node)
    return expression[node.tag](L, node)
end

-- Evaluates an expression whose value may be nil: unlike expr, which makes that an error, it gives
-- the value with its flag (optional.lua).
function walk.carry(L, node)
    return (carried[node.tag] or expression[node.tag])(L, node)
end

-- Is it an `if` of which it is known that a clause is run, and that this clause returns?
local function surely_returns(L, node)
    if node.tag ~= "If" then return false end
    for _, clause in ipairs(node.clauses) do
        local truth = truth_of(L, clause.cond)
        local last = clause.body[#clause.body]
        if truth then return last ~= nil and last.tag == "Return" end
        if truth == nil then return false end
    end
    local last = node.orelse and node.orelse[#node.orelse]
    return last ~= nil and last.tag == "Return"
end

-- Gives true where what is written surely ends the block: nothing behind it is run.
local function statements(L, list, is_tail)
    for i, node in ipairs(list) do
        local ends = node.tag == "Return" or node.tag == "Break" or node.tag == "Goto" or surely_returns(L, node)
        local has_ended = statement[node.tag](L, node, is_tail and (i == #list or ends))
        if ends or has_ended then return true end
    end
end

local function block(L, list, is_tail)
    return optional.keeping(L, function() return statements(L, list, is_tail) end)
end
walk.block = block

-- A block with a scope of its own.
function walk.scoped(L, list, is_tail)
    open_scope(L)
    local has_ended = block(L, list, is_tail)
    close_scope(L)
    return has_ended
end

return walk
