-- falses.lua: `false` where other places give no boolean, as in `return false` beside `return { x
-- = x }`, or `local best = false`. It says that there is none, as nil does, and so is a flag
-- (optional.lua). Which of both stands for none (`absent` of a value: "false", "either"; nil: nil)
-- is known here, and wanted by `==` and type() alone.
--
-- What is given to a local or a result is noted, by a key of its own: L.falses[key] = { has_false,
-- has_boolean, has_other, is_none: false is none; false_too, nil_too: what stands for it }.

local builtins = require "tidepool.translate.builtins"
local callees = require "tidepool.translate.lower.callees"
local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local trees = require "tidepool.translate.trees"

local falses = {}

local called, static_of = callees.called, callees.static_of
local each_statement = trees.each_statement

---------------------------------------------------------------------------------------------------
-- Texts

local ARITHMETIC = { ["+"] = true, ["-"] = true, ["*"] = true, ["/"] = true, ["%"] = true, ["^"] = true, [".."] = true }

-- What the locals of a function are given: lists of expressions.
local function given_to(L, def)
    local given = L.given[def]
    if given then return given end
    given = {}
    L.given[def] = given
    each_statement(def.body, function(node)
        for i, target in ipairs(node.tag == "Local" and node.vars or node.tag == "Assign" and node.targets or {}) do
            local var = node.tag == "Local" and target or target.tag == "Name" and target.var
            if var and node.exprs[i] then
                given[var] = given[var] or {}
                table.insert(given[var], node.exprs[i])
            end
        end
    end)
    return given
end

-- Is the expression a "boolean" or something else ("other"), as far as its text says?
local function kind_of(L, fn, def, node, walking)
    node = trees.bare(node)
    local tag = node.tag
    if tag == "True" or tag == "False" or tag == "Unop" and node.op == "not" then return "boolean" end
    if tag == "Number" or tag == "String" or tag == "Table" or tag == "Unop" then return "other" end
    if tag == "Binop" then return ARITHMETIC[node.op] and "other" or "boolean" end
    if tag == "And" then return kind_of(L, fn, def, node.right, walking) end
    if tag == "Or" then
        local left, right = kind_of(L, fn, def, node.left, walking), kind_of(L, fn, def, node.right, walking)
        return left == right and left or (left == "other" or right == "other") and "other" or nil
    end
    if tag == "Call" then
        local value = static_of(fn, node.callee)
        return (value == setmetatable or builtins.find(value)) and "other" or nil
    end
    local var = tag == "Name" and node.var
    if not var or var.def ~= def or walking and walking[var] then return end
    walking = setmetatable({ [var] = true }, { __index = walking })
    local kind
    for _, each in ipairs(given_to(L, def)[var] or {}) do
        local this = kind_of(L, fn, def, each, walking)
        if this ~= "boolean" then return this end
        kind = this
    end
    return kind
end

--- Is a local given false, and something else than a boolean?
function falses.is_mixed(L, fn, def, var)
    local has_false, has_other = false, false
    for _, each in ipairs(var.assigned and given_to(L, def)[var] or {}) do
        has_false = has_false or each.tag == "False"
        has_other = has_other or kind_of(L, fn, def, each) == "other"
    end
    return has_false and has_other
end

--- Does a function give false in one place, and in another what may be no boolean?
function falses.gives(L, fn, def)
    if not def then return false end
    if L.gives_false[def] ~= nil then return L.gives_false[def] end
    local has_false, has_other = {}, {}
    each_statement(def.body, function(node)
        for i, each in ipairs(node.tag == "Return" and node.exprs or {}) do
            has_false[i] = has_false[i] or each.tag == "False"
            has_other[i] = has_other[i] or each.tag ~= "Nil" and kind_of(L, fn, def, each) ~= "boolean"
        end
    end)
    local gives = false
    for i in pairs(has_false) do gives = gives or has_false[i] and has_other[i] end
    if gives then -- one that calls itself stays a function
        trees.each_node(def.body, function(node) if select(2, called(L, fn, node)) == def then gives = false end end)
    end
    L.gives_false[def] = gives
    return gives
end

---------------------------------------------------------------------------------------------------
-- Values

local function absent_of(state)
    if not state or not state.false_too then return end
    return state.nil_too and "either" or "false"
end

--- What stands for none in the place with this key.
function falses.absent_of(L, key) return absent_of(L.falses[key]) end

--- Notes what a local or a result is given; gives the value that is stored there. `value` may be
--- nil.
function falses.given(L, key, value)
    local state = L.falses[key] or {}
    L.falses[key] = state
    local before, node = absent_of(state), value and value.node
    if node and node.tag == "False" then
        state.has_false = true
        if state.is_none then
            value = nodes.scalar(nodes.node_at(L, node, "Nil", {}))
            value.absent, state.false_too = "false", true
        end
    elseif not value or node and node.tag == "Nil" then
        state.nil_too = true
    else
        local is_open = value.flag or value.origin or value.may_be_nil
        if is_open and value.absent then state.false_too = true end
        if is_open and value.absent ~= "false" then state.nil_too = true end
        if value.t == "scalar" and nodes.is_boolean(node) then state.has_boolean = true end
        if value.t ~= "scalar" or nodes.is_number(node) or nodes.is_plain(node) then state.has_other = true end
    end
    if absent_of(state) ~= before then classes.note_change(L) end
    if state.has_false and state.has_other and not state.has_boolean then classes.learn(L, state, "is_none", true) end
    return value, state.is_none
end

--- The value that a local which is assigned to gets, where false may stand for none.
function falses.stored(L, var, value)
    local given, is_none = falses.given(L, var, value)
    if is_none and not L.nilable[var] then
        L.booleans[var] = nil
        classes.learn(L, L.nilable, var, true)
    end
    return given
end

--- What stands for none in what is one value or the other, of which both may be missing.
function falses.joined(a, b)
    if a == b then return a end
    return "either"
end

--- Whether a value that may be missing is `what`, "nil" or "false": a condition. `is_there`:
--- whether it is there.
function falses.is_none(L, at, what, is_there, value)
    if is_there.tag == "True" then return nodes.node_at(L, at, "False", {}) end
    local absent = value.absent or "nil"
    if absent == what then return nodes.node_at(L, at, "Unop", { op = "not", expr = is_there }) end
    if absent ~= "either" then return nodes.node_at(L, at, "False", {}) end
    nodes.refuse(L, at, "whether this is %s, which is nil in one place and false in another, a number or a table elsewhere; on a device these are "
        .. "one: ask `if not`", what)
end

--- Refuses a value of which it would have to be known elsewhere what stands for none.
function falses.refuse(L, at, value, name)
    if not value.absent then return end
    nodes.refuse(L, at, "what is false in one place and a number or a table elsewhere, for '%s', which calls itself; give it nil instead of false",
        name or "a function")
end

return falses
