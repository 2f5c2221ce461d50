-- lifting.lua: functions that call themselves. They cannot be inlined, so they stay functions,
-- which infer.lua makes something else of (recursion.lua).
--
-- A table that such a function is given lies in its caller's storage: the function has formals
-- (Def.vars), locals that stand for those of the caller, and a call names these (Call.refs). So a
-- table keeps its identity, and one text of the function serves all calls. Tables of the functions
-- around it are reached in the same way. A table that it makes and returns is written to storage
-- that the caller has made. Functions, captured tables and texts among the arguments are part of
-- the function: there is a text of it for each of these.
--
-- What is known of the function (its `info`) is kept from one round to the next: which arguments
-- and results are tables, and what is done to them.
--
-- lifted_arguments.lua and lifted_results.lua have what becomes of arguments and results.

local arguments = require "tidepool.translate.lower.lifted_arguments"
local classes = require "tidepool.translate.lower.classes"
local falses = require "tidepool.translate.lower.falses"
local functions = require "tidepool.translate.lower.functions"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local results = require "tidepool.translate.lower.lifted_results"
local scopes = require "tidepool.translate.lower.scopes"
local trees = require "tidepool.translate.trees"
local walk = require "tidepool.translate.lower.walk"

local lifting = {}

local learn, note_change = classes.learn, classes.note_change
local emit, name_of, new_local, node_at = nodes.emit, nodes.name_of, nodes.new_local, nodes.node_at
local refuse, scalar = nodes.refuse, nodes.scalar
local note_mutation, object = places.note_mutation, places.object
local close_scope = scopes.close_scope
local each_node = trees.each_node

--- Notes that a local function calls itself, where its text says so.
function lifting.note(L, node)
    if node.var.assigned or L.recursive[node.def] then return end
    each_node(node.def.body, function(each)
        if each.tag == "Name" and each.var == node.var then L.recursive[node.def] = true end
    end)
end

--- Does the function call itself? Seen where it is called while it is inlined.
function lifting.calls_itself(L, def)
    local context = L.context
    while context and not L.recursive[def] do
        if context.def == def then learn(L, L.recursive, def, true) end
        context = context.caller
    end
    return L.recursive[def] or false
end

-- Takes down what the function has of the functions around it: Def.names, where is_ref is what it
-- changes, or what lies in rooms. infer.lua passes these to it.
local function note_names(lift)
    local made, known = lift.made, {}
    local function add(node, var, is_ref)
        local owner = var and var.def
        while owner and owner ~= made do owner = owner.outer end
        if not var or owner then return end
        if not known[var] then
            known[var] = { tag = "Name", line = node.line, name = var.name, var = var }
            made.names[#made.names + 1] = known[var]
        end
        known[var].is_ref = known[var].is_ref or is_ref
    end
    each_node(made.body, function(each)
        add(each, each.var, each.tag == "Cell" or each.tag == "Put")
        for _, list in ipairs { each.tag == "Assign" and each.targets or {}, each.refs or {} } do
            for _, name in ipairs(list) do add(name, name.tag == "Name" and name.var, true) end
        end
    end)
    local has_refs = #made.vars > 0 or lift.calls_changing
    for _, name in ipairs(made.names) do has_refs = has_refs or name.is_ref end
    return has_refs or false
end

local LIFTED_MAX = 40 -- texts of one function

local KEPT = { "def", "out", "scope", "loops", "present", "context", "lift", "naming", "zero" }

-- Writes the function's body.
local function write(L, at, lift, callee, values)
    local def, info, made, outer = lift.def, lift.info, lift.made, {}
    for _, key in ipairs(KEPT) do outer[key] = L[key] end
    if optional.misses(L, callee.fn, def) then
        learn(L, L.optional, def, true)
        info.is_full = true
    end
    if #info.results == 0 then results.scan(L, info, def) end
    L.def, L.out, L.present, L.lift, L.naming, L.zero = made, {}, {}, lift, nil, false
    L.scope = { vars = {}, storages = {}, outer = callee.scope, back = L.scope, is_open = true }
    L.context = { fn = callee.fn, def = def, name = callee.name, lift = lift }
    for i in ipairs(def.params) do arguments.bind(L, at, lift, L.scope, i, values[i]) end
    -- A list of the functions around it grows by the depth. Where that does not suffice it fails.
    L.loops = { unpack(L.loops) }
    L.loops[#L.loops + 1] = { line = def.line, is_recursion = callee.name or "a function", times = L.program.recursion_limit }
    if info.is_full then results.open(L, at, lift) end
    L.context.serial, L.context.depth, lift.loops = L.serial, #L.loops, #L.loops
    local begin = L.out
    L.out = {}
    walk.block(L, def.body, true)
    local body = L.out
    for _, storage in ipairs(lift.mutated) do note_mutation(L, at, object(storage)) end
    if L.context.returns then body = results.close(L, at, lift, body) end
    close_scope(L)
    local list = made.prologue or {}
    made.prologue = nil
    for _, part in ipairs { begin, body } do
        for _, line in ipairs(part) do list[#list + 1] = line end
    end
    made.body = list
    for _, key in ipairs(KEPT) do L[key] = outer[key] end
    learn(L, info, "is_changing", note_names(lift))
end

-- The function as it is written in this round.
local function lift_of(L, at, callee, values, info)
    local def = callee.def
    local list = L.lifted[def] or {}
    L.lifted[def] = list
    -- Names around it, and around its arguments, may stand for something else than before.
    local version = scopes.version(callee.scope)
    for _, value in ipairs(values) do version = version + arguments.version(value) end
    for _, lift in ipairs(list) do
        local is_it = lift.info == info and lift.scope == callee.scope and lift.version == version
        for i in ipairs(def.params) do is_it = is_it and arguments.are_same(values[i], lift.values[i]) end
        if is_it then return lift end
    end
    if #list >= LIFTED_MAX then
        refuse(L, at, "'%s', which calls itself, with more than %d different functions or tables as arguments", callee.name or "a function",
            LIFTED_MAX)
    end
    local home = callee.home or L.root
    local made = { tag = "Def", line = def.line, last_line = def.last_line, first = def.first, last = def.last, params = {}, names = {}, vars = {},
                   outer = home, source = callee.fn.source }
    local var = { name = callee.name or "function", line = at.line, def = home, assigned = false, bound = made }
    local lift = { info = info, def = def, scope = callee.scope, values = values, made = made, var = var, name = callee.name, mutated = {},
                   overwritten = {}, at = at, version = version }
    list[#list + 1] = lift
    write(L, at, lift, callee, values)
    home.prologue = home.prologue or {}
    table.insert(home.prologue, node_at(L, at, "LocalFunction", { var = var, def = made }))
    return lift
end

lifting.give = results.give

--- Calls a function that calls itself; gives its results.
function lifting.call(L, at, callee, given)
    local def, values = callee.def, {}
    for i in ipairs(def.params) do
        local value = given[i] or scalar(node_at(L, at, "Nil", {}))
        falses.refuse(L, at, value, callee.name)
        -- texts, and what is there for certain
        if value.flag and L.present[value.flag] then value = optional.stripped(value) end
        if value.t == "static" and type(value.static.value) == "number" then value = scalar(nodes.fixed(L, at, value.static)) end
        values[i] = value
    end
    local info = arguments.info_of(L, at, callee, values)
    local lift = lift_of(L, at, callee, values, info)
    local args, refs, vars = {}, {}, {}
    for i in ipairs(def.params) do arguments.pass(L, at, lift, i, values[i], args, refs) end
    arguments.note_effects(L, at, lift, values)
    if info.is_changing and L.lift then L.lift.calls_changing = true end
    local list
    if info.is_full then
        list = results.values(L, at, lift, values, vars, refs)
    else
        list = {}
        for k = 1, math.max(functions.results_of(def), #info.results) do
            vars[k] = new_local(L, "t", at)
            list[k] = scalar(name_of(L, at, vars[k]))
        end
    end
    if #refs ~= #lift.made.vars then note_change(L) end
    local name = node_at(L, at, "Name", { name = lift.var.name, var = lift.var })
    local made = node_at(L, at, "Call", { callee = name, args = args, refs = refs, is_tail = at.is_tail })
    if #vars == 0 then
        emit(L, node_at(L, at, "CallStat", { call = made }))
    elseif #vars == 1 and not info.is_full and not info.is_changing then
        return { scalar(made) }
    else
        emit(L, node_at(L, at, "Local", { vars = vars, exprs = { made } }))
    end
    return list
end

return lifting
