-- inlining.lua: inlines functions at their calls.

local choosers = require "tidepool.translate.lower.choosers"
local classes = require "tidepool.translate.lower.classes"
local defaults = require "tidepool.translate.lower.defaults"
local elements = require "tidepool.translate.lower.elements"
local falses = require "tidepool.translate.lower.falses"
local functions = require "tidepool.translate.lower.functions"
local holes = require "tidepool.translate.lower.holes"
local lifting = require "tidepool.translate.lower.lifting"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local parse = require "tidepool.translate.parse"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local symbols = require "tidepool.translate.lower.symbols"
local walk = require "tidepool.translate.lower.walk"

local inlining = {}

local emit, hold_value, name_of, new_local, node_at = nodes.emit, nodes.hold_value, nodes.name_of, nodes.new_local, nodes.node_at
local refuse, scalar = nodes.refuse, nodes.scalar
local bind_table, close_scope = scopes.bind_table, scopes.close_scope
local block = walk.block
local function_of = functions.function_of

local INLINED_MAX = 2000   -- calls that are inlined at most

-- A place of its own for a parameter that is given a table, and perhaps assigned another one.
local function own_place(L, at, scope, param, value)
    if not L.variables[param] then
        L.variables[param] = classes.new_class()
        classes.note_change(L)
    end
    L.variables[param].is_table = true
    local outer = L.scope
    scope.back, L.scope = outer, scope
    local flag = optional.flag_of(L, at, param, value)
    L.zero = flag ~= nil
    local place = places.object(places.new_storage(L, at, L.variables[param], param.name))
    L.zero = false
    elements.copy(L, at, place, value)
    if value.t == "object" then places.note_copy(L, at, value, place) end
    L.scope = outer
    place.flag, place.may_be_nil, place.of = flag, flag ~= nil, param
    return place
end

-- Writes the function's body at its call; gives its results.
function inlining.inline(L, at, callee, values)
    if callee.t == "static" then callee = function_of(L, at, callee) end
    if callee.static then L.program.baked[callee.static.key] = callee.static end
    local def = callee.def
    if lifting.calls_itself(L, def) then
        if def.is_vararg then refuse(L, at, "'%s' takes variable arguments ('...') and calls itself; name its parameters", callee.name) end
        return lifting.call(L, at, callee, values)
    end
    L.inlined = L.inlined + 1
    if L.inlined > INLINED_MAX then refuse(L, at, "more than %d calls of functions with tables", INLINED_MAX) end
    -- Parameters become locals at the call.
    local scope = { vars = {}, storages = {}, outer = callee.scope, is_open = true }
    local bound = scope.vars
    for i, param in ipairs(def.params) do
        local value = values[i] or scalar(node_at(L, at, "Nil", {}))
        local is_known = value.t ~= "scalar" or value.node.tag == "Nil" or symbols.is_text(value.node) and value.node.tag ~= "Symbol"
        local takes_default = is_known and not value.flag and not value.origin and defaults.of(L, def)[param]
        if takes_default then L.defaulted[takes_default] = scope end
        if L.choosers[param] then
            choosers.bind(L, at, scope, param, value)
        elseif not param.assigned or takes_default then
            if value.t == "scalar" then
                bound[param] = hold_value(L, at, value, param.name)
            else
                bind_table(L, at, scope, param, value)
            end
            if param.assigned then scopes.note_known(L, scope, param, false) end
        elseif scopes.is_renamable(L, param, value) or value.t == "scalar" and value.node.tag == "Nil" and not value.flag
            and not value.origin and not value.may_be_nil and not L.stays[param] then
            if value.t == "scalar" then bound[param] = value else bind_table(L, at, scope, param, value) end
            scopes.note_known(L, scope, param, value.t == "scalar" and value.node.tag == "Nil")
        elseif value.t == "scalar" then
            value = falses.stored(L, param, value)
            optional.note_unset(L, param)
            local var, flag = new_local(L, param.name, at, true), optional.flag_of(L, at, param, value)
            var.sequence = holes.walks(L, param) and "next" or nil
            var.of, var.file = param, callee.fn.source.file
            local kinds = L.kinds[param] or classes.new_class()
            L.kinds[param] = kinds
            var.class, var.is_set = kinds, value.node.tag ~= "Nil" and not flag and not value.origin
            if value.node.tag ~= "Nil" then classes.note_scalar(L, kinds, nodes.is_plain(value.node) and "has_number" or "has_others") end
            local given = symbols.stored(L, at, L.symbols, param, value.node, param.name)
            if flag and given.tag == "Nil" then
                given = L.booleans[param] and node_at(L, at, "False", {}) or nodes.number(L, at, 0) -- nobody reads it
            end
            emit(L, node_at(L, at, "Local", { vars = { var }, exprs = given.tag ~= "Nil" and { given } or {} }))
            bound[param] = { t = "variable", var = var, symbol = L.symbols[param], of = param, is_parameter = true, flag = flag,
                may_be_nil = flag ~= nil or value.origin ~= nil or value.node.tag == "Nil" and L.symbols[param] }
            scopes.note_known(L, scope, param, value.node.tag == "Nil")
        elseif scopes.is_function(value) then
            bound[param] = value
            scopes.note_known(L, scope, param, false)
        elseif value.t == "object" or value.t == "element" or value.t == "static" and type(value.static.value) == "table" then
            bound[param] = own_place(L, at, scope, param, value)
        else
            refuse(L, at, "'%s' assigns to its parameter '%s' in one place of several, which is given '%s'; use another local", callee.name,
                param.name, value.static and value.static.path or "a function")
        end
    end
    local varargs = def.is_vararg and {} or nil
    for i = #def.params + 1, varargs and #values or 0 do
        varargs[i - #def.params] = hold_value(L, at, values[i], "...")
    end
    local outer_context, outer_out = L.context, L.out
    L.context = { fn = callee.fn, def = def, name = callee.name, caller = outer_context, call = at, returns = { values = {}, given = {}, count = 0 },
        depth = #L.loops, serial = L.serial, varargs = varargs, asides = L.asides, call_scope = L.scope }
    for _, known in pairs(scope.known or {}) do known.context = L.context end
    scope.back = L.scope
    L.scope = scope
    local declared = {}
    L.context.declared = declared
    L.out = {}
    block(L, def.body, true)
    local body, returns = L.out, L.context.returns
    L.out, L.scope = outer_out, scope
    close_scope(L)
    L.context = outer_context
    if returns.label then
        for i = 1, returns.count do
            local value = returns.values[i] or scalar(node_at(L, at, "Nil", {}))
            if value.t == "result" then
                local made = value.text and node_at(L, at, "String", { value = value.text }) or name_of(L, at, value.var)
                if value.symbol then made = symbols.wrap(L, at, made) end
                value = { t = "scalar", node = made, flag = value.flag, text = value.text, several = value.several }
            end
            returns.values[i] = value
        end
        optional.complete(L, def, returns, optional.falls(body) and def.last_line or nil)
    end
    for _, line in ipairs(declared) do emit(L, line) end
    if returns.label then
        emit(L, node_at(L, at, "Region", { name = returns.label, body = body }))
    else
        for _, line in ipairs(body) do emit(L, line) end
    end
    for i, value in ipairs(returns.values) do
        scopes.keep(L, value)
        if value.t == "chooser" then returns.values[i] = choosers.value(L, at, value) end
    end
    return returns.values
end

-- The functions of a text of our own.
function inlining.own_functions(name, text)
    local list, lines = {}, {}
    for line in text:gmatch "[^\n]*" do lines[#lines + 1] = line end
    for i, def in ipairs(parse.chunk(text)) do
        list[i] = { t = "function", name = name, def = def,
                    fn = { def = def, is_own = true, source = { file = name, lines = lines, upvalues = {} }, env = {}, outside = {} } }
    end
    return unpack(list)
end

return inlining
