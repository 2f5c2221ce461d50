-- updates.lua: assignments to elements that depend on the element, which must be atomic: those of
-- a:add(i, v), and a[k] = a[k] + v.

local arrays = require "tidepool.translate.infer.arrays"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"

local updates = {}

local refuse = functions.refuse
local static_of = statics.static_of

-- The methods of typed arrays that are updates.
local UPDATES = { add = "+", max = "max", min = "min" }
updates.METHODS = UPDATES

-- For a call `a:add(i, v)`, `a:max(i, v)` or `a:min(i, v)` on a typed array, the assignment that
-- means the same, which is an update; nil for other calls.
function updates.as_update(inst, node)
    local method = node.call
    local static = method.tag == "Method" and UPDATES[method.name] and static_of(inst, method.object)
    if not static or static.nested or not arrays.array_type(static.value) then return end
    if #method.args ~= 2 then refuse(inst, node, "'%s:%s' without an index and a value", static.path, method.name) end
    if not method.update then
        local line, key, value = node.line, method.args[1], method.args[2]
        local function element() return { tag = "Index", line = line, object = method.object, key = key } end
        local made = { tag = "Binop", op = "+", line = line, left = element(), right = value }
        if method.name ~= "add" then
            local path, fn = "math." .. method.name, math[method.name]
            local fixed = { path = path, key = path, value = fn, read = function() return fn end }
            made = { tag = "Call", line = line, callee = { tag = "Fixed", line = line, static = fixed }, args = { element(), value } }
        end
        method.update = { tag = "Assign", line = line, targets = { element() }, exprs = { made } }
    end
    return method.update
end

-- Are two expressions of the function the same text, with the same variables?
local function is_same(inst, a, b)
    while a.tag == "Paren" do a = a.expr end
    while b.tag == "Paren" do b = b.expr end
    if a.tag ~= b.tag then return false end
    if a.tag == "Name" then return a.var == b.var and a.name == b.name end
    if a.tag == "Fixed" then return a.static.key == b.static.key end
    if a.tag == "Number" or a.tag == "String" then return a.value == b.value end
    if a.tag == "Wide" then return a.text == b.text end
    if a.tag == "Binop" then return a.op == b.op and is_same(inst, a.left, b.left) and is_same(inst, a.right, b.right) end
    if a.tag == "Unop" then return a.op == b.op and is_same(inst, a.expr, b.expr) end
    if a.tag == "Index" then return is_same(inst, a.object, b.object) and is_same(inst, a.key, b.key) end
    if a.tag ~= "Call" or #a.args ~= #b.args or not is_same(inst, a.callee, b.callee) then return false end
    for i, arg in ipairs(a.args) do
        if not is_same(inst, arg, b.args[i]) then return false end
    end
    return true
end

local ARITHMETIC = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

-- If the value assigned to an element depends on that element, as in `a[k] = a[k] + v`, describes
-- the update, which must be atomic; else nil. `reads`: the nodes that read the element; `path`: the
-- nodes that contain one; `is_simple`: those are only operators and library functions, so that
-- everything else can be evaluated before.
function updates.update_of(inst, target, value)
    local key = static_of(inst, target.object).key
    local update = { reads = {}, path = {}, is_simple = true }
    local function visit(node)
        local tag = node.tag
        if tag == "Index" and not static_of(inst, node) then
            local static = static_of(inst, node.object)
            if static and static.key == key and is_same(inst, node.key, target.key) then
                update.reads[node], update.path[node] = true, true
                return true
            end
        end
        local found = false
        local children = tag == "Call" and node.args or tag == "Index" and { node.key, node.object } or { node.left or node.expr, node.right }
        for _, child in ipairs(children) do found = visit(child) or found end
        if not found then return false end
        update.path[node] = true
        local made = tag == "Call" and inst.calls[node]
        local is_simple = tag == "Paren" or (tag == "Unop" and node.op == "-") or (tag == "Binop" and ARITHMETIC[node.op])
            or (made and ((made.builtin and not made.builtin.results[2]) or made.special == "tonumber" or made.special == "wide"))
        update.is_simple = update.is_simple and is_simple and true or false
        return true
    end
    return visit(value) and update or nil
end

return updates
