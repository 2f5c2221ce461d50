-- lifted_arguments.lua: arguments of functions that call themselves (lifting.lua): what is known of
-- them, what stands for them in the function, what a call passes, and what it does to tables.

local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local holes = require "tidepool.translate.lower.holes"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local symbols = require "tidepool.translate.lower.symbols"

local arguments = {}

local find, learn, new_class, note_change, unify = classes.find, classes.learn, classes.new_class, classes.note_change, classes.unify
local emit, name_of, new_local, node_at = nodes.emit, nodes.name_of, nodes.new_local, nodes.node_at
local number, refuse = nodes.number, nodes.refuse
local new_storage, note_mutation, object = places.new_storage, places.note_mutation, places.object
local bind_table = scopes.bind_table

-- What a parameter is: "number", "table", "text" (one of several), "element" (of a captured list of
-- tables), "choice" (of functions) or "fixed", what the function has as a part of it; the last
-- three with what tells it from others.
local function role_of(L, at, callee, param, value)
    if value.t == "scalar" then
        if not symbols.is_text(value.node) then return "number" end
        if value.node.tag == "Symbol" or param.assigned then return "text" end
        local static = value.node.static
        if static then L.program.baked[static.key] = static end
        return "fixed", static and static.value or value.node.value
    end
    if value.t == "choice" then return "choice", choices.name_of_case(value) end
    if param.assigned then
        refuse(L, at, "'%s' assigns to its parameter '%s', which is given a table; use another local", callee.name, param.name)
    end
    if value.t == "object" then return "table" end
    if value.t == "element" then return "element", value.static.key end
    if value.t == "function" then return "fixed", tostring(value.def) end
    return "fixed", value.static.key .. tostring(value.static.value)
end

--- What scopes.version says of the functions that a value is.
function arguments.version(value)
    if value.t == "function" then return scopes.version(value.scope) end
    local sum = 0
    for _, case in ipairs(value.t == "choice" and value.cases or {}) do sum = sum + arguments.version(case.value) end
    return sum
end

--- Do two values with the same name have the same functions, in the same scopes?
function arguments.are_same(a, b)
    if a.t == "function" then return a.scope == b.scope end
    for i, case in ipairs(a.t == "choice" and a.cases or {}) do
        if not arguments.are_same(case.value, b.cases[i].value) then return false end
    end
    return true
end

local function is_nil(value) return value.t == "scalar" and value.node.tag == "Nil" end
arguments.is_nil = is_nil

--- What is known of the function with such arguments.
function arguments.info_of(L, at, callee, values)
    local def, roles, key = callee.def, {}, {}
    for i, param in ipairs(def.params) do
        local what
        roles[i], what = role_of(L, at, callee, param, values[i])
        key[#key + 1] = what and i .. " " .. what or nil
    end
    key = table.concat(key, ", ")
    local infos = L.lifts[def] or {}
    L.lifts[def] = infos
    local info = infos[key]
    if not info then
        info = { roles = {}, classes = {}, sizes = {}, may_be_nil = {}, mutates = {}, overwrites = {}, results = {}, gives = {}, is_full = false }
        infos[key] = info
        note_change(L)
    end
    for i, param in ipairs(def.params) do
        local value, known = values[i], info.roles[i]
        local is_flagged = known == "table" or known == "text" or roles[i] == "table" or roles[i] == "text"
        if is_flagged and (is_nil(value) and known and known ~= "nothing" or known == "nothing" and not is_nil(value)) then
            learn(L, info.may_be_nil, i, true)
            learn(L, info.roles, i, is_nil(value) and known or roles[i])
        elseif is_nil(value) then
            info.roles[i] = known or "nothing"
            if known == "number" and param.assigned then learn(L, info.may_be_nil, i, true) end
        elseif known and known ~= "nothing" and known ~= roles[i] then
            -- a local may turn out to be a table's, or a text's, in this round
            if roles[i] == "table" or roles[i] == "text" then learn(L, info.roles, i, roles[i]) end
            L.refusal = L.refusal or { at, "'%s' of '%s', which calls itself, is a %s in one place and a %s in another; a value has one type on a "
                .. "device", param.name, callee.name, known, roles[i] }
        elseif known ~= roles[i] then
            if known == "nothing" and param.assigned then info.may_be_nil[i] = true end
            learn(L, info.roles, i, roles[i])
        end
        if value.flag or value.origin or value.t == "object" and value.may_be_nil then
            optional.demand(L, value)
            learn(L, info.may_be_nil, i, true)
        end
        if value.t == "object" then
            local size = value.storage.size or false
            if info.sizes[i] == nil then info.sizes[i] = size end
            if info.sizes[i] ~= size then
                refuse(L, at, "'%s' of '%s', which calls itself, is an element of a list in one place, and not in another; give it a copy of its "
                    .. "fields, or the list and the index", param.name, callee.name)
            end
            info.classes[i] = info.classes[i] or new_class()
            unify(L, info.classes[i], value.storage.class)
        end
    end
    return info
end

-- The locals that a table consists of, in the order in which places.lua makes them.
local function locals_of(storage, list)
    list[#list + 1] = storage.var
    if not storage.fields then return list end
    for _, key in ipairs(find(storage.class).order) do
        if storage.fields[key] then locals_of(storage.fields[key], list) end
    end
    if storage.list then
        local last = storage.list.last
        list[#list + 1] = storage.list.first or storage.list.n
        list[#list + 1] = last
        list[#list + 1] = last and storage.list.there
        locals_of(storage.list.element, list)
    end
    return list
end
arguments.locals_of = locals_of

-- Storage in the place of the caller's.
local function new_formal(L, at, lift, class, name, size)
    L.formals = lift.made.vars
    local storage = new_storage(L, at, class, name, size)
    L.formals = nil
    return storage
end
arguments.new_formal = new_formal

--- Binds parameter i inside of the function.
function arguments.bind(L, at, lift, scope, i, value)
    local info, param, made = lift.info, lift.def.params[i], lift.made
    local role = info.roles[i]
    local function parameter(name, range)
        local var = new_local(L, name, { line = param.line })
        var.range = range
        made.params[#made.params + 1] = var
        return var
    end
    local flag = info.may_be_nil[i] and role ~= "nothing" and parameter("has " .. param.name) or nil
    if flag then flag.is_flag = true end
    local function known(to)
        if flag then to.flag, to.may_be_nil, to.is_sure, to.why = flag, true, true, "it is an argument" end
        return to
    end
    if role == "table" then
        local size = info.sizes[i] or nil
        local storage = new_formal(L, at, lift, info.classes[i], param.name, size)
        storage.formal = { lift = lift, index = i }
        local index = size and name_of(L, at, parameter("at of " .. param.name, { 0, size - 1, true }))
        bind_table(L, at, scope, param, known(object(storage, index)))
    elseif role == "element" then
        local index = parameter("index of " .. param.name)
        scope.vars[param] = known { t = "element", static = value.static, index = name_of(L, at, index), example = value.example }
    elseif role == "choice" then
        local which = parameter("which of " .. param.name)
        scope.vars[param] = known { t = "choice", key = name_of(L, at, which), cases = value.cases, path = value.path, is_by_text = value.is_by_text }
    elseif role == "fixed" then
        scope.vars[param] = value
    else
        local var = new_local(L, param.name, { line = param.line }, param.assigned)
        var.sequence = (not param.assigned or holes.walks(L, param)) and "next" or nil
        made.params[#made.params + 1] = var
        if param.assigned then L.ranges[param] = false end
        local own = flag
        if flag and param.assigned then -- which is assigned to with it
            own = new_local(L, "has " .. param.name, at, true)
            emit(L, node_at(L, at, "Local", { vars = { own }, exprs = { name_of(L, at, flag) } }))
        end
        if not flag and param.assigned and L.nilable[param] then -- it is there, and assigned nil
            own = new_local(L, "has " .. param.name, at, true)
            emit(L, node_at(L, at, "Local", { vars = { own }, exprs = { node_at(L, at, "True", {}) } }))
        end
        local symbol = role == "text" or param.assigned and L.symbols[param] or nil
        scope.vars[param] = known { t = "variable", var = var, of = param, is_parameter = true, class = value.class, symbol = symbol }
        scope.vars[param].flag, scope.vars[param].may_be_nil = own, own ~= nil or scope.vars[param].may_be_nil
    end
end

--- Appends what a call passes for parameter i.
function arguments.pass(L, at, lift, i, value, args, refs)
    local info, param = lift.info, lift.def.params[i]
    local role = info.roles[i]
    local nothing = is_nil(value) or role == "table" and value.t ~= "object" or (role == "element" or role == "choice") and value.t ~= role
    if role == "fixed" then return end
    if info.may_be_nil[i] and role ~= "nothing" then
        args[#args + 1] = nothing and node_at(L, at, "False", {}) or optional.is_there(L, at, value)
    end
    if role == "table" then
        if nothing then
            L.zero = true
            value = object(new_storage(L, at, info.classes[i], param.name, info.sizes[i] or nil), info.sizes[i] and number(L, at, 0) or nil)
            L.zero = false
        end
        for _, var in ipairs(locals_of(value.storage, {})) do refs[#refs + 1] = name_of(L, at, var) end
        if info.sizes[i] then args[#args + 1] = value.at or number(L, at, 0) end
    elseif role == "element" then
        args[#args + 1] = nothing and number(L, at, 1) or value.index
    elseif role == "choice" then
        args[#args + 1] = nothing and number(L, at, 0) or value.key
    elseif role == "text" then
        args[#args + 1] = nothing and number(L, at, 0) or param.assigned and symbols.stored(L, at, L.symbols, param, value.node, param.name)
            or symbols.number_of(L, at, value.node)
    else
        args[#args + 1] = nothing and info.may_be_nil[i] and number(L, at, 0) or value.node
    end
end

-- Makes copies of what the locals that are other names for parts of a table stand for: a function
-- puts other tables there.
local function note_aliases(L, storage)
    for _, alias in ipairs(storage.aliases or {}) do
        if alias.scope.is_open and not L.copied[alias.var] then
            L.copied[alias.var] = true
            note_change(L)
        end
    end
end

-- The parts of a table that these paths lead to.
local function parts_of(storage, paths)
    local list = {}
    for _, path in pairs(paths or {}) do
        local part = storage
        for _, key in ipairs(path) do
            part = part and (key == "*" and part.list and part.list.element or part.fields and part.fields[key])
        end
        if part then list[#list + 1] = part end
    end
    return list
end

--- What a call does to the tables that it passes, and to those of the functions around.
function arguments.note_effects(L, at, lift, values)
    local info = lift.info
    local function overwrite(storage)
        note_aliases(L, storage)
        places.note_overwrite(L, storage)
    end
    for i = 1, #lift.def.params do
        local storage = values[i].t == "object" and values[i].storage
        for _, part in ipairs(storage and parts_of(storage, info.mutates[i]) or {}) do note_mutation(L, at, object(part)) end
        for _, part in ipairs(storage and parts_of(storage, info.overwrites[i]) or {}) do overwrite(part) end
    end
    for _, storage in ipairs(lift.mutated) do note_mutation(L, at, object(storage)) end
    for _, storage in ipairs(lift.overwritten) do overwrite(storage) end
end

return arguments
