-- facts.lua: what is known of an expression without evaluating anything: its type, its truth, the
-- table that it stands for.

local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"

local facts = {}

local is_boolean, is_plain, scalar = nodes.is_boolean, nodes.is_plain, nodes.scalar
local value_of = places.value_of
local of_static, static_field = statics.of_static, statics.static_field
local name_value = scopes.name_value

-- The table or host value that an expression stands for, if that is known without evaluating
-- anything.
local function peek(L, node)
    if node.tag == "Paren" then return peek(L, node.expr) end
    if node.tag == "Name" then return name_value(L, node) end
    if node.tag == "Nil" then return scalar(node) end
    if node.tag == "Given" then return node.value end
    if node.tag == "Index" and (node.key.tag == "String" or node.key.tag == "Number") then
        local base = peek(L, node.object)
        if base and base.t == "static" and type(base.static.value) == "table" then return of_static(L, node, static_field(base.static,
            node.key.value)) end
        if base and base.t == "object" then
            local field = base.storage.fields[node.key.value]
            if field and (field.fields or not base.at) then return value_of(L, node, field, base.at) end
        end
    end
end
facts.peek = peek

--- The type() of a value, where it is known.
function facts.type_of_value(L, value)
    if not value or value.flag or value.origin then return end
    local layout = value.t == "object" and classes.find(value.storage.class).struct or value.t == "element" and value.example.layout
        or value.t == "static" and value.static.layout
    if layout then return "cdata" end
    if value.t == "object" or value.t == "element" then return "table" end
    if value.t == "choice" then return end
    if value.t == "function" or value.t == "lifted" then return "function" end
    if value.t == "static" then
        local kind = statics.derived(value.static, value.static.path, "type", type)
        L.program.baked[kind.key] = kind
        return kind.value
    end
    if value.node.tag == "Nil" then return "nil" end
    if value.node.tag == "String" then return "string" end
    if value.node.tag == "Fixed" then
        L.program.baked[value.node.static.key] = value.node.static
        return type(value.node.static.value)
    end
    if value.node.tag == "Symbol" and not value.may_be_nil then return "string" end
    if is_plain(value.node) then return "number" end
    if is_boolean(value.node) then return "boolean" end
end

-- The type() of what an expression stands for, where it is known.
local function type_of(L, node)
    if node.tag == "Name" and node.var and scopes.is_surely_nil(L, node.var) then return "nil" end
    local varargs = node.tag == "Vararg" and L.context.varargs
    if varargs then return varargs[1] and facts.type_of_value(L, varargs[1]) or not varargs[1] and "nil" or nil end
    return facts.type_of_value(L, peek(L, node))
end

-- The string that an expression is known to be.
local function string_of(L, node)
    if node.tag == "String" then return node.value end
    if node.tag == "Paren" then return string_of(L, node.expr) end
    if node.tag == "Call" and #node.args == 1 then
        local callee = peek(L, node.callee)
        return callee and callee.t == "static" and callee.static.value == type and type_of(L, node.args[1]) or nil
    end
    local value = (node.tag == "Name" or node.tag == "Index") and peek(L, node)
    if value and value.t == "scalar" and value.node.tag == "String" and not value.flag and not value.several then return value.node.value end
    local static = value and value.t == "scalar" and value.node.tag == "Fixed" and value.node.static
    if not static or type(static.value) ~= "string" then return end
    L.program.baked[static.key] = static
    return static.value
end

-- Is `text` surely not the type() of what may be nil, since that would have another type?
local function is_no_type(L, node, text)
    local callee = node.tag == "Call" and #node.args == 1 and peek(L, node.callee)
    if not callee or callee.t ~= "static" or callee.static.value ~= type or text == "nil" then return false end
    local arg = node.args[1]
    local value = arg.tag == "Vararg" and L.context.varargs and L.context.varargs[1] or peek(L, arg)
    if not value or value.t ~= "scalar" or not (value.flag or value.origin) or value.absent then return false end
    local kind = is_plain(value.node) and "number" or is_boolean(value.node) and "boolean"
    return kind and kind ~= text or false
end

local function truth_of(L, node)
    local tag = node.tag
    if tag == "Paren" then return truth_of(L, node.expr) end
    if tag == "True" or tag == "Number" or tag == "String" then return true end
    if tag == "False" or tag == "Nil" then return false end
    if tag == "Unop" and node.op == "not" then
        local truth = truth_of(L, node.expr)
        if truth ~= nil then return not truth end
    elseif tag == "And" or tag == "Or" then
        local left, right = truth_of(L, node.left), truth_of(L, node.right)
        if left == (tag == "Or") then return left end
        if left ~= nil then return right end
    elseif tag == "Binop" and (node.op == "==" or node.op == "~=") then
        local left, right = node.left, node.right
        local text, other = string_of(L, left), string_of(L, right)
        if text and other then return (text == other) == (node.op == "==") end
        if other and is_no_type(L, left, other) or text and is_no_type(L, right, text) then return node.op == "~=" end
        if left.tag == "Nil" then left, right = right, left end
        if right.tag == "Nil" then
            local name = type_of(L, left)
            local value = name == "table" and peek(L, left)
            if value and (value.t == "element" or value.may_be_nil) then return end
            if name == "table" or name == "function" or name == "string" or name == "nil" then return (name == "nil") == (node.op == "==") end
        end
    elseif tag == "Name" or tag == "Index" then
        local name = type_of(L, node)
        local value = name == "table" and peek(L, node)
        if value and (value.t == "element" or value.may_be_nil) then return end
        if name and name ~= "nil" and name ~= "boolean" then return true end
        if name == "nil" then return false end
        if name == "boolean" then
            local known = peek(L, node).node
            if known.tag == "True" or known.tag == "False" then return known.tag == "True" end
            return known.static and known.static.value
        end
    end
end
facts.truth_of = truth_of

return facts
