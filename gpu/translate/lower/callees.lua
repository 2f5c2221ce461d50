-- callees.lua: which function a call in a text calls, found without evaluating anything.

local builtins = require "tidepool.translate.builtins"

local callees = {}

-- A name as it is written: a.b.c
local function path_of(node)
    if node.tag == "Name" then return node.name end
    if node.tag == "Index" and node.key.tag == "String" then return ("%s.%s"):format(path_of(node.object), node.key.value) end
    return "?"
end

-- The value of the host that a name, or a field of one, stands for in a function; and whether it is
-- known.
local function static_of(fn, node)
    if node.tag == "Paren" then return static_of(fn, node.expr) end
    if node.tag == "Name" then
        if node.var and not fn.outside[node.var.def] then return end
        local index = fn.source.upvalues[node.name]
        if index then
            local _, value = debug.getupvalue(fn.value, index)
            return value, true
        end
        return fn.env[node.name], true
    elseif node.tag == "Index" and (node.key.tag == "String" or node.key.tag == "Number") then
        local base, is_known = static_of(fn, node.object)
        if is_known and type(base) == "table" then return base[node.key.value], true end
    end
end

callees.static_of, callees.path_of = static_of, path_of

-- What is known about the text of the function that a call calls: fn, def; nil of calls of others,
-- and of what is not known before it runs.
function callees.called(L, fn, node)
    if node.tag ~= "Call" then return end
    local var = node.callee.tag == "Name" and node.callee.var
    if var and var.bound and not fn.outside[var.def] then return fn, var.bound end
    local value, is_known = static_of(fn, node.callee)
    if not is_known or type(value) ~= "function" or builtins.find(value) or debug.getinfo(value, "S").what ~= "Lua" then return end
    local is_found, callee = pcall(L.function_of, value, path_of(node.callee))
    if is_found then return callee, callee.def end
end

return callees
