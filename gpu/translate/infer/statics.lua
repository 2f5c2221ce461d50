-- statics.lua: what is known of expressions when a function is translated: the host's value that
-- one stands for, whether it is nil, its type, its truth.

local constants = require "tidepool.translate.constants"
local arrays = require "tidepool.translate.infer.arrays"
local functions = require "tidepool.translate.infer.functions"
local trees = require "tidepool.translate.trees"
local wide = require "tidepool.translate.wide"

local statics = {}

local refuse, variable_of = functions.refuse, functions.variable_of
local WIDE = wide.KINDS

---@class tidepool.gpu.Static a value of the host that a name or `a.b` in the text stands for
---@field path string as written, for messages and names
---@field key string identifies where it is kept
---@field value any as of now
---@field read fun(): any as of the call
---@field nested tidepool.gpu.Def? instead of a value: a function written inside the translated one

-- Bakes a value into the program: a change of it is noticed (Program.baked).
local function bake(inst, static)
    inst.program.baked[static.key] = static
    return static
end
statics.bake = bake

local static_of

local function static_name(inst, node)
    local var = variable_of(inst, node)
    if var then
        local at = inst
        while at do
            local known = at.vars[var]
            if known then return known.static end
            at = at.outer
        end
        return
    end
    return functions.static_outside(inst.fn, node.name)
end

local function static_index(inst, node)
    local base = static_of(inst, node.object)
    if not base or base.nested then return end
    local key
    if node.key.tag == "String" or node.key.tag == "Number" then
        key = node.key.value
    else
        return
    end
    local is_array = arrays.array_type(base.value)
    if is_array and type(key) == "number" then return end
    if not arrays.has_fields(base.value) and not is_array then
        refuse(inst, node, "'%s' is a %s, which has no fields", base.path, type(base.value))
    end
    local path = type(key) == "string" and ("%s.%s"):format(base.path, key) or ("%s[%.14g]"):format(base.path, key)
    local function read() return base.read()[key] end
    local ok, value = pcall(read)
    if not ok then refuse(inst, node, "reading '%s' raises an error: %s", path, tostring(value)) end
    return { path = path, key = base.key .. "." .. tostring(key), value = value, read = read, base = base.value }
end

-- The host value that an expression stands for, or nil when it is computed.
function static_of(inst, node)
    if node.tag == "Paren" then return static_of(inst, node.expr) end
    if node.tag == "Fixed" then return node.static end
    if node.tag ~= "Name" and node.tag ~= "Index" then return end
    local static = inst.statics[node]
    if static == nil then
        static = (node.tag == "Name" and static_name or static_index)(inst, node) or false
        inst.statics[node] = static
    end
    return static or nil
end
statics.static_of = static_of

-- The captured array or list of whose elements an indexing is one, and the node of the index: of
-- `list[i].x` they are the list of the x, and i. nil when it is another one.
function statics.source_of(inst, node)
    local base = static_of(inst, node.object)
    if base then return base, node.key end
    local row, field = node.object, node.key
    row = trees.bare(row)
    local list = row.tag == "Index" and (field.tag == "String" or field.tag == "Number") and static_of(inst, row.object)
    if not list or list.nested or type(list.value) ~= "table" or arrays.array_type(list.value) then return end
    local made, key = inst.columns[node], field.value
    if not made then
        local function read() return arrays.column(list.read(), key) end
        made = { path = type(key) == "string" and ("%s[...].%s"):format(list.path, key) or ("%s[...][%.14g]"):format(list.path, key),
                 key = ("%s[].%s %s"):format(list.key, type(key), key), value = read(), read = read }
        inst.columns[node] = made
        if not made.value then
            refuse(inst, node, "not every element of '%s' is a plain table with a number '%s', or they do not count from 1 without holes", list.path,
                tostring(key))
        end
    end
    return made, row.key
end

-- What is known of a local where it is named: as in flow.assigned. inst.flow is where the walk is;
-- answers are stored in the instance.
function statics.state_of(inst, node)
    if not inst.is_settled then inst.states[node] = inst.flow.assigned[variable_of(inst, node)] end
    return inst.states[node]
end

local NEVER_NIL = { Number = true, Wide = true, True = true, False = true, String = true, Unop = true, Binop = true, Function = true, Table = true }

-- Is an expression known to be nil (true), or known not to be (false)? nil when neither.
local function nil_of(inst, node)
    local tag = node.tag
    if tag == "Paren" then return nil_of(inst, node.expr) end
    if tag == "Nil" then return true end
    if NEVER_NIL[tag] then return false end
    if tag ~= "Name" and tag ~= "Index" and tag ~= "Fixed" then return end
    local static = static_of(inst, node)
    if static then
        if static.nested or static.value ~= nil then return false end
        bake(inst, static)
        return true
    end
    if tag == "Index" then return end -- reading it fails where there is no element
    local state = statics.state_of(inst, node)
    if state ~= nil then return state == "nil" end
end
statics.nil_of = nil_of

-- The result of type() for an expression without side effects; nil when it is not known.
local function type_of(inst, node)
    local tag = node.tag
    if tag == "Paren" then return type_of(inst, node.expr) end
    local is_nil = nil_of(inst, node)
    if is_nil then return "nil" end
    if tag == "Number" then return "number" end
    if tag == "Wide" then return "cdata" end
    if tag == "String" then return "string" end
    if tag == "True" or tag == "False" then return "boolean" end
    local static = static_of(inst, node)
    if static then
        if static.nested then return "function" end
        if type(static.value) ~= "number" then bake(inst, static) end
        return arrays.array_type(static.value) and "table" or type(static.value)
    end
    local known = tag == "Name" and is_nil == false and inst.vars[variable_of(inst, node)]
    if known and known.kind then return known.kind == "bool" and "boolean" or WIDE[known.kind] and "cdata" or "number" end
end

local function is_type_call(inst, node)
    if node.tag ~= "Call" or #node.args ~= 1 or node.callee.tag ~= "Name" and node.callee.tag ~= "Fixed" then return false end
    local static = static_of(inst, node.callee)
    return static ~= nil and static.value == type
end

-- The string that an expression is known to be; nil when it is not known.
local function string_of(inst, node)
    if node.tag == "String" then return node.value end
    local static = static_of(inst, node)
    if static and type(static.value) == "string" then return bake(inst, static).value end
end
statics.string_of = string_of

-- Are the sides of `==` known to be equal (true), or known to differ (false)? nil when neither.
local function equality_of(inst, node)
    local left, right = node.left, node.right
    if is_type_call(inst, right) then left, right = right, left end
    if is_type_call(inst, left) and right.tag == "String" then
        local name = type_of(inst, left.args[1])
        if name then return name == right.value end
        return
    end
    local text, other = string_of(inst, left), string_of(inst, right)
    if text and other then return text == other end
    local a, b = nil_of(inst, left), nil_of(inst, right)
    if a == nil or b == nil then return end
    if a and b then return true end
    if a or b then return false end
end

-- The truth of an expression, if it is known when the function is translated; otherwise nil.
local function truth_of(inst, node)
    local tag = node.tag
    if tag == "Binop" and (node.op == "==" or node.op == "~=") then
        local equal = equality_of(inst, node)
        if equal ~= nil then return equal == (node.op == "==") end
    end
    if tag == "Binop" then return constants.compare(statics, inst, node) end
    if tag == "True" or tag == "Number" or tag == "Wide" or tag == "String" then return true end
    if tag == "False" or tag == "Nil" then return false end
    if tag == "Paren" then return truth_of(inst, node.expr) end
    if tag == "Unop" and node.op == "not" then
        local truth = truth_of(inst, node.expr)
        if truth ~= nil then return not truth end
    elseif tag == "And" or tag == "Or" then
        local left, right = truth_of(inst, node.left), truth_of(inst, node.right)
        if left == (tag == "Or") then return left end
        if left ~= nil then return right end
        if inst.program.tracks and right == (tag == "Or") and constants.is_pure(node.left) then return right end
    else
        local static = static_of(inst, node)
        if static and not static.nested and (type(static.value) == "boolean" or static.value == nil) then
            bake(inst, static)
            return static.value == true
        elseif static and (type(static.value) == "number" or wide.kind_of(static.value)) then
            return true
        end
        if not static and tag == "Name" and nil_of(inst, node) then return false end
    end
end
statics.truth_of = truth_of

-- truth_of for the walk that finds types: at this point of the flow, where more may be known of
-- locals.
function statics.truth_at(inst, node, flow)
    inst.flow = flow
    return truth_of(inst, node)
end

return statics
