-- updates.lua: assignments to elements that depend on the element, which must be atomic: those of
-- a:add(i, v), and a[k] = a[k] + v.

local builtins = require "tidepool.translate.builtins"
local arrays = require "tidepool.translate.infer.arrays"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local trees = require "tidepool.translate.trees"

local updates = {}

local refuse = functions.refuse
local static_of = statics.static_of

-- The methods of typed arrays that are updates.
local UPDATES = { add = true, max = true, min = true }
updates.METHODS = UPDATES

-- What the second argument of these methods becomes before anything is done with it, by the type of
-- the elements; its kind here.
local OPERANDS = { int32 = "int", uint32 = "num", int64 = "int64", uint64 = "uint64", float = "num" }
updates.OPERANDS = OPERANDS

-- a:set(row, column, v) as an assignment.
local function as_store(inst, node, path)
    local method, line = node.call, node.line
    if #method.args < 3 then refuse(inst, node, "'%s:set' without a row, a column and a value", path) end
    local place = { tag = "Place", line = line, object = method.object, args = {}, name = "set" }
    for i = 1, #method.args - 1 do place.args[i] = method.args[i] end
    return { tag = "Assign", line = line, targets = { { tag = "Index", line = line, object = method.object, key = place } },
        exprs = { method.args[#method.args] } }
end

-- For a call `a:add(i, v)`, `a:max(i, v)`, `a:min(i, v)` or `a:set(y, x, v)` on a typed array, the
-- assignment that means the same; nil for other calls.
function updates.as_assignment(inst, node)
    local method = node.call
    local static = method.tag == "Method" and (UPDATES[method.name] or method.name == "set") and static_of(inst, method.object)
    if not static or static.nested or not arrays.array_type(static.value) then return end
    if method.name == "set" then
        method.update = method.update or as_store(inst, node, static.path)
        return method.update
    end
    if #method.args ~= 2 then refuse(inst, node, "'%s:%s' without an index and a value", static.path, method.name) end
    local ctype = arrays.array_type(static.value)
    if not method.update or method.update.ctype ~= ctype then
        local line, key, value = node.line, method.args[1], method.args[2]
        local function element() return { tag = "Index", line = line, object = method.object, key = key } end
        if OPERANDS[ctype] then value = { tag = "Operand", line = line, expr = value, ctype = ctype, method = method.name } end
        local fn = builtins.updates(method.name, ctype)
        local made = { tag = "Binop", op = "+", line = line, left = element(), right = value }
        if fn then
            local path = "array:" .. method.name
            local fixed = { path = path, key = path .. ctype, value = fn, read = function() return fn end }
            made = { tag = "Call", line = line, callee = { tag = "Fixed", line = line, static = fixed }, args = { element(), value } }
        end
        method.update = { tag = "Assign", line = line, targets = { element() }, exprs = { made }, ctype = ctype }
    end
    return method.update
end

-- Does a function only compute: does it draw no random numbers, and change nothing?
local function is_pure(inst)
    if inst.draws or inst.has_refs or next(inst.stores) then return false end
    for _, made in pairs(inst.calls) do
        if made.special == "random" or made.callee and not is_pure(made.callee) then return false end
    end
    return true
end

-- Does it change what would be wrong if it were called a second time?
local function changes_anew(inst)
    if inst.has_refs or next(inst.updates) then return true end
    for _, made in pairs(inst.calls) do
        if made.callee and changes_anew(made.callee) then return true end
    end
    return false
end

-- What a local was given that nothing else is assigned to.
local function given_to(inst, node)
    local var = node.tag == "Name" and node.var
    local known = var and not var.assigned and inst.vars[var]
    return known and known.given
end

-- Have two expressions the same value, as far as that can be seen? `is_far`: one of them is what a
-- local was given, before; so nothing in it may have changed since.
local function is_same(inst, a, b, is_far)
    a, b = trees.bare(a), trees.bare(b)
    if a.tag == "Name" and b.tag == "Name" and a.var == b.var and a.name == b.name then
        return not is_far or not (a.var and a.var.assigned)
    end
    local given = given_to(inst, a)
    if given then return is_same(inst, given, b, true) end
    given = given_to(inst, b)
    if given then return is_same(inst, a, given, true) end
    if a.tag ~= b.tag then return false end
    if a.tag == "Fixed" then return a.static.key == b.static.key end
    if a.tag == "Number" or a.tag == "String" then return a.value == b.value end
    if a.tag == "Wide" then return a.text == b.text end
    if a.tag == "Binop" then
        if a.op ~= b.op then return false end
        if is_same(inst, a.left, b.left, is_far) and is_same(inst, a.right, b.right, is_far) then return true end
        return (a.op == "+" or a.op == "*") and is_same(inst, a.left, b.right, is_far) and is_same(inst, a.right, b.left, is_far)
    end
    if a.tag == "Unop" then return a.op == b.op and is_same(inst, a.expr, b.expr, is_far) end
    if a.tag == "Index" then return not is_far and is_same(inst, a.object, b.object) and is_same(inst, a.key, b.key) end
    if a.tag ~= "Call" or #a.args ~= #b.args or not is_same(inst, a.callee, b.callee, is_far) then return false end
    local made = inst.calls[a]
    if not made or made.special == "random" or made.callee and (is_far or not is_pure(made.callee)) then return false end
    for i, arg in ipairs(a.args) do
        if not is_same(inst, arg, b.args[i], is_far) then return false end
    end
    return true
end

-- Is an array the one that is written to? By another name it may be, and that is part of the code
-- then.
local function is_array(inst, static, target)
    if static.key == target.key then return true end
    if static.nested or arrays.array_type(static.value) ~= arrays.array_type(target.value) then return false end
    local function read() return static.read() == target.read() end
    return statics.bake(inst, { path = ("whether %s is %s"):format(static.path, target.path), key = static.key .. " is " .. target.key,
        value = read(), read = read }).value
end

-- Does a call only read the element: of `function(k) return a[k] end`?
local function reads_by_call(inst, node, target, array)
    local callee = inst.calls[node] and inst.calls[node].callee
    local body = callee and callee.def.body
    local read = body and #body == 1 and body[1].tag == "Return" and #body[1].exprs == 1 and trees.bare(body[1].exprs[1])
    if not read or read.tag ~= "Index" then return false end
    local static, key = static_of(callee, read.object), trees.bare(read.key)
    if not static or not is_array(inst, static, array) or key.tag ~= "Name" or not key.var or key.var.assigned then return false end
    for i, param in ipairs(callee.def.params) do
        if param == key.var then return node.args[i] ~= nil and is_same(inst, node.args[i], target.key) end
    end
    return false
end

-- What the local has since one of the statements directly before this one, which declare locals and
-- do nothing else, so that it may be computed again here.
local function given_just_before(inst, node)
    local given = given_to(inst, node)
    local list, at = inst.block, inst.block_at - 1
    while given and at > 0 and list[at].tag == "Local" do
        for _, value in ipairs(list[at].exprs) do
            trees.each_node(value, function(part)
                local made = part.tag == "Call" and inst.calls[part]
                if made and (made.special == "random" or made.callee and not is_pure(made.callee)) then given = nil end
            end)
        end
        for _, var in ipairs(list[at].vars) do
            if var == node.var then return given end
        end
        at = at - 1
    end
end

local ARITHMETIC = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true }

-- If the value assigned to an element depends on that element, as in `a[k] = a[k] + v`, describes
-- the update, which must be atomic; else nil. `reads`: the nodes that read the element; `path`: the
-- nodes that contain one; `given`: for names of locals that contain one, what they were given;
-- `is_simple`: the nodes of the path are only operators and library functions, so that everything
-- else can be evaluated before.
function updates.update_of(inst, target, value)
    local array = static_of(inst, target.object)
    local update = { reads = {}, path = {}, given = {}, is_simple = true }
    local again
    local function is_read(node, is_far)
        local is_at = node.tag == "Method" and node.name == "at" and target.key.tag == "Place" and #node.args == #target.key.args
        if is_at then
            local static = static_of(inst, node.object)
            if not static or not is_array(inst, static, array) then return false end
            for i, arg in ipairs(node.args) do
                if not is_same(inst, arg, target.key.args[i], is_far) then return false end
            end
            return true
        end
        if node.tag ~= "Index" or static_of(inst, node) then return false end
        local static = static_of(inst, node.object)
        return static and is_array(inst, static, array) and is_same(inst, node.key, target.key, is_far)
    end
    local function visit(node, is_far)
        local tag = node.tag
        if is_read(node, is_far) or tag == "Call" and not is_far and reads_by_call(inst, node, target, array) then
            update.reads[node], update.path[node] = true, true
            return true
        end
        local found, given = false, tag == "Name" and given_just_before(inst, node)
        if given and visit(given, true) then
            update.given[node], update.path[node] = given, true
            return true
        end
        local children = (tag == "Call" or tag == "Method") and node.args or tag == "Index" and { node.key, node.object }
            or { node.left or node.expr, node.right }
        for _, child in ipairs(children) do found = visit(child, is_far) or found end
        local made = tag == "Call" and inst.calls[node]
        if made and made.callee and changes_anew(made.callee) then again = node end
        if not found then return false end
        update.path[node] = true
        local is_plain_call = made and (made.builtin and not made.builtin.results[2] or made.special == "tonumber" or made.special == "wide")
        local is_simple = tag == "Paren" or tag == "Unop" and node.op == "-" or tag == "Binop" and ARITHMETIC[node.op] or is_plain_call
        update.is_simple = update.is_simple and is_simple and true or false
        return true
    end
    if not visit(value) then return end
    -- What is not simple is evaluated anew until nobody else has changed the element meanwhile.
    if again and not update.is_simple then
        functions.refuse(inst, again, "an update of '%s' by a function that changes something else, which might be done more than once; "
            .. "let it return what the change depends on, and do that in a statement of its own", array.path)
    end
    return update
end

return updates
