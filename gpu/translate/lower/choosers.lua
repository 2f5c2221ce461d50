-- choosers.lua: locals that are now one function and now another, or nil: `if fast then step =
-- euler else step = heun end`. On the device such a local is a number, that of the function among
-- those that the local is given anywhere, or 0; a call of it is one of a choice (choices.lua).
--
-- What a name stands for in a scope is then { t = "chooser", var, of, known }, where `known` is
-- kept from one round to the next: names of the functions, in order, and has_nil.

local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local scopes = require "tidepool.translate.lower.scopes"

local choosers = {}

local binop, emit, name_of, node_at, number = nodes.binop, nodes.emit, nodes.name_of, nodes.node_at, nodes.number
local refuse = nodes.refuse

--- From the next round on the local is one.
function choosers.note(L, var)
    if L.choosers[var] then return end
    classes.learn(L, L.choosers, var, { names = {}, by_name = {}, has_nil = false })
end

-- A function may use what can be seen where the local is declared: what is nearer to it ends
-- before.
local function check_scope(L, at, scope, var, value)
    for _, name in ipairs(value.t == "function" and value.def.names or {}) do
        local its = name.var
        if its and not value.fn.outside[its.def] and scopes.lookup(L, its, value.scope) and not scopes.lookup(L, its, scope) then
            refuse(L, at, "'%s' is given a function that uses '%s', which ends before '%s' does; declare '%s' where '%s' is declared",
                var.name, its.name, var.name, its.name, var.name)
        end
    end
end

-- The number of a function of the local.
local function id_of(L, at, chooser, value)
    local known, name = chooser.known, choices.name_of_case(value)
    check_scope(L, at, chooser.scope, chooser.of, value)
    local id = known.by_name[name]
    if not id then
        id = #known.names + 1
        known.names[id], known.by_name[name] = name, id
        classes.note_change(L)
    end
    chooser.values[id] = value
    if value.t == "static" then known[id] = value end -- the same in each round
    return id
end

-- Writes which function a value is.
local function write(L, at, chooser, value)
    local function set(id)
        emit(L, node_at(L, at, "Assign", { targets = { name_of(L, at, chooser.var) }, exprs = { number(L, at, id) } }))
    end
    if not value or value.t == "scalar" and value.node.tag == "Nil" then
        classes.learn(L, chooser.known, "has_nil", true)
        return set(0)
    end
    if value.flag or not choices.is_function(value) then
        refuse(L, at, "'%s' is a function in one place and something else in another; a variable has one type on a device", chooser.of.name)
    end
    if value.t ~= "choice" then return set(id_of(L, at, chooser, value)) end
    choices.check(L, at, value)
    for _, case in ipairs(value.cases) do
        local _, lines = nodes.aside(L, function() set(id_of(L, at, chooser, case.value)) end)
        emit(L, nodes.if_statement(L, at, binop(L, at, "==", value.key, number(L, at, case.key)), lines))
    end
end
choosers.write = write

--- Declares a local, or the result of a function, that is one of several functions.
function choosers.new(L, at, scope, var)
    local chooser = { t = "chooser", var = nodes.new_local(L, "which of " .. var.name, at, true), of = var, known = L.choosers[var], scope = scope,
                      values = {} }
    emit(L, node_at(L, at, "Local", { vars = { chooser.var }, exprs = { number(L, at, 0) } }))
    return chooser
end

--- Declares such a local in a scope; `value` may be nil.
function choosers.bind(L, at, scope, var, value)
    scope.vars[var] = choosers.new(L, at, scope, var)
    write(L, at, scope.vars[var], value)
end

--- The function that such a local is now, a choice.
function choosers.value(L, at, chooser)
    local known, cases = chooser.known, {}
    for id in ipairs(known.names) do
        local value = chooser.values[id] or known[id]
        if not value and not L.changed then
            refuse(L, at, "'%s' is called before the place where it is given one of its functions, in a loop; define that function before the loop",
                chooser.of.name)
        end
        cases[#cases + 1] = value and { key = id, value = value }
    end
    if #cases == 0 then
        if L.changed then return nodes.scalar(node_at(L, at, "Nil", {})) end
        refuse(L, at, "a call of '%s', which is nil", chooser.of.name)
    end
    return { t = "choice", key = nodes.hold(L, at, name_of(L, at, chooser.var), "which"), cases = cases, path = chooser.of.name,
             may_be_none = known.has_nil, is_chosen = true }
end

--- Whether such a local is a function now, a condition.
function choosers.is_there(L, at, chooser)
    return chooser.known.has_nil and binop(L, at, ">", name_of(L, at, chooser.var), number(L, at, 0)) or node_at(L, at, "True", {})
end

return choosers
