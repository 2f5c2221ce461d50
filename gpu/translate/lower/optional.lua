-- optional.lua: results that some paths of a function give and others do not, which are nil there.
--
-- Such a result is a value with `flag`, a local that says whether it is there. It keeps the flag
-- where it is put into a local, returned or passed on (`carry`); it can be asked for
-- (presence.lua); and where the number itself is wanted, its absence is an error (`settle`) that
-- names both lines. Results have flags once somebody has asked for one of the function's
-- (L.optional, by the function's tree): until then what may be missing has `origin`, that tree. In
-- the same way an element that may not be there has its own node as `origin` (carried.Index).
--
-- The first half looks at texts only, and says which functions have to be inlined for this.

local callees = require "tidepool.translate.lower.callees"
local falses = require "tidepool.translate.lower.falses"
local nodes = require "tidepool.translate.lower.nodes"
local trees = require "tidepool.translate.trees"

local optional = {}

local called, static_of = callees.called, callees.static_of
local check, name_of, node_at = nodes.check, nodes.name_of, nodes.node_at
local each_node, each_statement = trees.each_node, trees.each_statement

---------------------------------------------------------------------------------------------------
-- Texts

local function has_break(list)
    local found = false
    each_statement(list, function(node) found = found or node.tag == "Break" end)
    return found
end

-- Can control come out behind the statements?
local function falls(list)
    local last = list[#list]
    if not last then return true end
    local tag = last.tag
    if tag == "Return" or tag == "Goto" or tag == "Break" then return false end
    if tag == "Do" then return falls(last.body) end
    if tag == "While" and last.cond.tag == "True" then return has_break(last.body) end
    if tag == "CallStat" then
        local callee = last.call.callee
        return not callee or (callee.static and callee.static.value or callee.name) ~= (callee.static and error or "error")
    end
    if tag ~= "If" or not last.orelse then return true end
    for _, clause in ipairs(last.clauses) do
        if falls(clause.body) then return true end
    end
    return falls(last.orelse)
end
optional.falls = falls

-- Which locals of a function may be nil: those that are declared without a value, and those that
-- get a result that may be missing (true), or an element that may not be there ("element").
local function locals_of(L, fn, def)
    local known = L.nil_locals[def]
    if known then return known end
    known = {}
    L.nil_locals[def] = known
    local function note(vars, exprs)
        local last = exprs[#exprs]
        local is_open = last and last.tag == "Call" and optional.misses(L, called(L, fn, last))
        for i, var in ipairs(vars) do
            local is_missing = not exprs[i] and (#exprs == 0 or is_open) or exprs[i] and optional.is_optional(L, fn, def, exprs[i])
            if var and is_missing and known[var] ~= true then known[var] = is_missing end
        end
    end
    each_statement(def.body, function(node)
        if node.tag == "Local" then
            note(node.vars, node.exprs)
            for _, var in ipairs(node.vars) do
                if falses.is_mixed(L, fn, def, var) then known[var] = true end
            end
        end
        if node.tag == "Assign" then
            local vars = {}
            for i, target in ipairs(node.targets) do vars[i] = target.tag == "Name" and target.var or false end
            note(vars, node.exprs)
        end
    end)
    return known
end

-- Is it a byte of a text that is known?
local function is_byte(fn, node)
    local of, index = node.object, node.args and node.args[1]
    if node.tag == "Call" then
        if static_of(fn, node.callee) ~= string.byte then return false end
        of, index = node.args[1], node.args[2]
    elseif node.tag ~= "Method" or node.name ~= "byte" then
        return false
    end
    of = trees.bare(of)
    return of ~= nil and index ~= nil and index.tag ~= "Number" and (of.tag == "String" or type((static_of(fn, of))) == "string"
        or of.tag == "Name" and not select(2, static_of(fn, of)))
end

-- Is it an element, with an index that is computed, of a captured list or of a table that the
-- function makes?
local function is_element(L, fn, node)
    if is_byte(fn, node) then return true end
    if node.tag ~= "Index" or node.key.tag == "String" then return false end
    local value, is_known = static_of(fn, node.object)
    if not is_known then return true end
    return node.key.tag ~= "Number" and type(value) == "table" and not L.infer.array_type(value)
end

-- May the expression be nil in some lanes: as a result or a local (true), or since it is an element
-- that may not be there ("element")?
function optional.is_optional(L, fn, def, node)
    node = trees.bare(node)
    if node.tag == "Nil" then return true end
    if node.tag == "Name" then return node.var ~= nil and locals_of(L, fn, node.var.def)[node.var] or false end
    if node.tag == "Or" then return optional.is_optional(L, fn, def, node.left) and optional.is_optional(L, fn, def, node.right) end
    if node.tag == "And" then return optional.is_optional(L, fn, def, node.left) end
    if is_element(L, fn, node) then return "element" end
    if node.tag ~= "Call" then return false end
    local callee, its_def = called(L, fn, node)
    return optional.misses(L, callee, its_def) or falses.gives(L, callee, its_def) or optional.lends(L, callee, its_def) and "element"
end

-- Does the function give a result, or a number, on some paths that others do not give?
function optional.misses(L, fn, def)
    if not def then return false end
    if L.misses[def] ~= nil then return L.misses[def] end
    L.misses[def], L.lends[def] = false, false
    local least, most, found = math.huge, 0, false
    each_statement(def.body, function(node)
        if node.tag ~= "Return" then return end
        local last = node.exprs[#node.exprs]
        if not last or last.tag ~= "Call" and last.tag ~= "Method" then least = math.min(least, #node.exprs) end
        most = math.max(most, #node.exprs)
        for _, each in ipairs(node.exprs) do
            local is_optional = optional.is_optional(L, fn, def, each)
            if is_optional == "element" then L.lends[def] = true else found = found or is_optional end
            if each.tag == "String" then L.gives_texts[def] = true end
        end
    end)
    if falls(def.body) then least = 0 end
    L.misses[def] = found or least < most
    return L.misses[def]
end

-- Does it give an element that may not be there? Such a function is inlined only where somebody
-- asks for the element (L.optional).
function optional.lends(L, fn, def)
    optional.misses(L, fn, def)
    return def ~= nil and L.lends[def] or false
end

-- Does it give them beside texts, such as the message of `return nil, "no root"`?
function optional.gives_texts(L, fn, def)
    return optional.misses(L, fn, def) and L.gives_texts[def] or false
end

-- The parameters of a function that it asks for, whether they are nil.
function optional.asked(L, fn, def)
    local asked = L.asked[def]
    if asked then return asked end
    asked = {}
    L.asked[def] = asked
    local function note(node)
        node = trees.bare(node)
        if node.tag == "Name" and node.var and node.var.def == def then asked[node.var] = true end
    end
    each_node(def.body, function(node)
        local tag = node.tag
        if tag == "And" or tag == "Or" then
            note(node.left)
            note(node.right)
        elseif tag == "Unop" and node.op == "not" then
            note(node.expr)
        elseif tag == "Binop" and (node.op == "==" or node.op == "~=") then
            note(node.left)
            note(node.right)
        elseif tag == "Call" then
            local callee, its_def = called(L, fn, node)
            for i, param in ipairs(its_def and its_def.params or {}) do
                if node.args[i] and optional.asked(L, callee, its_def)[param] then note(node.args[i]) end
            end
        elseif node.cond then
            note(node.cond)
        end
    end)
    return asked
end

-- Is what may be missing passed on by a call: to a function of the program, or to assert? `fixed`:
-- the host's value that is called.
function optional.is_passed(L, fn, def, node, fixed)
    if fixed == assert then
        local first = node.args[1]
        return first ~= nil and first.tag ~= "Nil" and optional.is_optional(L, fn, def, first) and true or false
    end
    local callee, its_def = called(L, fn, node)
    for i, arg in ipairs(callee and node.args or {}) do
        local is_optional = arg.tag ~= "Nil" and optional.is_optional(L, fn, def, arg)
        if is_optional == "element" then is_optional = optional.asked(L, callee, its_def)[its_def.params[i] or false] end
        if is_optional then return true end
    end
    return false
end

---------------------------------------------------------------------------------------------------
-- Values

-- What is known about whether a value is there, copied to another one that stands for it.
function optional.mark(to, from)
    to.flag, to.origin, to.why, to.is_sure = from.flag, from.origin, from.why, from.is_sure
    to.may_be_nil, to.of, to.text, to.several, to.is_element = from.may_be_nil, from.of, from.text, from.several, from.is_element
    to.absent = from.absent
    return to
end

-- The value, for which another node is written.
function optional.like(value, node)
    return optional.mark({ t = "scalar", node = node, class = value.class }, value)
end

-- The value itself, which is there.
function optional.stripped(value)
    if not value.flag and not value.origin and not value.may_be_nil then return value end
    local copy = {}
    for key, each in pairs(value) do copy[key] = each end
    copy.flag, copy.origin, copy.may_be_nil = nil, nil, nil
    return copy
end

-- Somebody asks for the value: from the next round on it has a flag.
function optional.demand(L, value)
    local function set(list, key)
        if key and not list[key] then
            list[key] = true
            L.changed = true
        end
    end
    set(L.optional, value.origin)
    if value.may_be_nil and not value.flag and not value.origin then set(L.nilable, value.of) end
end

-- Whether the value is there, a condition.
function optional.is_there(L, at, value)
    if not value.flag or L.present[value.flag] then return node_at(L, at, "True", {}) end
    return name_of(L, at, value.flag)
end

-- The value where it is wanted: it fails where there is none. `name`: what it is called.
function optional.settle(L, at, value, name)
    if value.several then
        nodes.refuse(L, at, "a result that is one of several texts; on a device there are no strings but those that are known beforehand")
    end
    if value.flag and not L.present[value.flag] then
        check(L, at, name_of(L, at, value.flag), { ("%s is %s%s"):format(name and "'" .. name .. "'" or "a result",
            value.absent == "false" and "false" or "nil", value.why and ": " .. value.why or "") })
    elseif value.is_sure and not value.flag then
        optional.demand(L, value) -- to fail where there is none
    end
    return optional.stripped(value)
end

local function is_nil(value) return not value or value.t == "scalar" and value.node.tag == "Nil" end

-- Notes that a local that is assigned to may be nil, if the value that it is given may be.
function optional.note_nilable(L, var, value)
    if is_nil(value) or not (value.flag or value.origin and (value.is_sure or L.nilable[var])) then return end
    optional.demand(L, value)
    if not L.nilable[var] then
        L.nilable[var] = true
        L.changed = true
    end
end

-- Gives a flag to a local that may be read before it has a value (Instance:learn_unset).
function optional.note_unset(L, var)
    if var.assigned and not L.nilable[var] and L.program:is_unset(L.context.fn.source.file, var) then
        L.nilable[var] = true
        L.changed = true
    end
end

-- The flag of a local that is assigned to, and begins with the value; nil when it needs none.
function optional.flag_of(L, at, var, value)
    optional.note_nilable(L, var, value)
    if not L.nilable[var] then return end
    local flag = nodes.new_local(L, "has " .. var.name, at, true)
    local given = is_nil(value) and node_at(L, at, "False", {}) or optional.is_there(L, at, value)
    nodes.emit(L, node_at(L, at, "Local", { vars = { flag }, exprs = { given } }))
    return flag
end

-- Takes down what is known where the condition, a node of the new tree, holds (or does not hold):
-- which results are there. It is forgotten at the end of the block, see `keeping`.
local function learn(L, cond, holds)
    local tag = cond.tag
    if tag == "Paren" then return learn(L, cond.expr, holds) end
    if tag == "Unop" and cond.op == "not" then return learn(L, cond.expr, not holds) end
    if tag == "Name" and holds and cond.var and cond.var.is_flag then L.present[cond.var] = true end
    if tag == "And" and holds or tag == "Or" and not holds then
        learn(L, cond.left, holds)
        learn(L, cond.right, holds)
    end
end
optional.learn = learn

-- Runs `write`, behind which is forgotten what was learnt in it, or from the condition before it.
function optional.keeping(L, write, cond, holds)
    local outer = L.present
    L.present = setmetatable({}, { __index = outer })
    if cond then learn(L, cond, holds) end
    local result = write()
    L.present = outer
    return result
end

---------------------------------------------------------------------------------------------------
-- Returns

local function plural(count) return ("%d value%s"):format(count, count == 1 and "" or "s") end

-- Notes what a return of a function that is inlined gives.
function optional.note_return(L, node, returns, values)
    local given = { line = node.line, n = #values, missing = {}, absent = {} }
    for i, value in ipairs(values) do
        local was_nil = value.t == "scalar" and value.node.tag == "Nil"
        given.missing[i] = was_nil and "nil" or (value.flag or value.origin or value.may_be_nil) and (value.is_sure and "passed" or "perhaps") or nil
        given.absent[i] = value.absent
        if L.optional[L.context.def] then optional.demand(L, value) end
    end
    returns.given[#returns.given + 1] = given
end

-- Why result i of a function may be missing, with both lines, and whether some path surely does not
-- give it; nil when every path does.
-- `last_line`: of the function, where control comes out behind its end.
local function why_missing(given, i, last_line)
    local with, without
    for _, each in ipairs(given) do
        if each.n >= i and each.missing[i] ~= "nil" then with = with or each end
        local is_worse = each.n < i or each.missing[i] == "nil" or each.missing[i] and not without
        if is_worse then without = each end
    end
    if not with or not without and not last_line then return end
    if not without then
        return ("a path through the function ends without a return (line %d); line %d returns %s"):format(last_line, with.line, plural(with.n)), true
    elseif without.n < i then
        return ("line %d returns %s, and line %d returns %s"):format(without.line, plural(without.n), with.line, plural(with.n)), true
    elseif without.missing[i] == "nil" then
        return ("line %d returns %s, and line %d returns a value"):format(without.line, without.absent[i] or "nil", with.line), true
    end
    return ("what line %d returns may be nil"):format(without.line), without.missing[i] == "passed"
end

-- What stands for result i where there is none (falses.lua).
local function absent_of(given, i, last_line)
    local absent, is_known = nil, last_line ~= nil
    for _, each in ipairs(given) do
        if each.n < i or each.missing[i] then
            absent = is_known and falses.joined(absent, each.absent[i]) or each.absent[i]
            is_known = true
        end
    end
    return absent
end

-- Gives the results of a function that was inlined what is known about whether they are there.
-- `last_line`: as in why_missing.
function optional.complete(L, def, returns, last_line)
    local is_optional, missing = L.optional[def], L.missing[def]
    for i = 1, returns.count do
        local value = returns.values[i]
        local why, is_sure = why_missing(returns.given, i, last_line)
        if why then
            value.origin, value.why, value.is_sure, value.may_be_nil = def, why, is_sure, true
            value.absent = absent_of(returns.given, i, last_line)
            if value.node and value.node.var then value.node.var.missing = why end
            if value.text then optional.demand(L, value) end
        end
        if why and is_optional and not (missing and missing[i]) then
            L.missing[def] = missing or {}
            missing = L.missing[def]
            missing[i] = true
            L.changed = true
        end
    end
end

return optional
