-- scopes.lua: what each name stands for, and until where tables live.

local elements = require "tidepool.translate.lower.elements"
local falses = require "tidepool.translate.lower.falses"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local statics = require "tidepool.translate.lower.statics"
local symbols = require "tidepool.translate.lower.symbols"
local trees = require "tidepool.translate.trees"

local scopes = {}

local name_of, scalar = nodes.name_of, nodes.scalar
local new_storage, note_copy, object = places.new_storage, places.note_copy, places.object
local of_static = statics.of_static
local copy = elements.copy

-- What a name stands for in a scope, that of the walk if none is given.
local function lookup(L, var, scope)
    scope = scope or L.scope
    while scope do
        local known = scope.vars[var]
        if known then return known end
        scope = scope.outer
    end
end
scopes.lookup = lookup

---------------------------------------------------------------------------------------------------
-- Names of functions that are assigned to, as in `less = less or function(a, b) ... end`. Which
-- function such a name stands for is known where it is assigned: by what is run whenever the place
-- is run where the name was given its first value.

--- Is it a function, whose name can be given another one?
function scopes.is_function(value)
    if not value then return false end
    return value.t == "function" or value.t == "static" and type(value.static.value) == "function"
end

-- Notes that what the name stands for is known, as long as it is assigned to by such places only.
-- `is_nil`: it has no value yet. Not in a block with labels, of which jumps may leave out a part.
function scopes.note_known(L, scope, var, is_nil)
    if scope.has_labels then return end
    scope.known = scope.known or {}
    scope.known[var] = nodes.mark(L)
    scope.known[var].is_nil = is_nil
end

-- What is known of a name here; nil when nothing is.
local function known_of(L, var)
    local scope = L.scope
    while scope and not scope.vars[var] do scope = scope.outer end
    local known = scope and scope.known and scope.known[var]
    if not known or known.asides ~= L.asides then return end
    -- A function that calls itself is run at other times, too.
    local context = L.context
    while context and context ~= known.context do context = context.caller end
    if context then return known, scope end
end

--- Notes that a name of the scope stands for something else from here on.
function scopes.note_other(scope) scope.version = (scope.version or 0) + 1 end

--- A number that is another one once a name seen in the scope stands for something else.
function scopes.version(scope)
    local sum = 0
    while scope do
        sum = sum + (scope.version or 0)
        scope = scope.outer
    end
    return sum
end

--- Is the name surely nil here?
function scopes.is_surely_nil(L, var)
    local known = known_of(L, var)
    return known ~= nil and known.is_nil
end

--- Makes the name stand for another function from here on; false where that is not known.
function scopes.rebind(L, var, value)
    local known, scope = known_of(L, var)
    if not known or not nodes.is_surely_run(L, known) then return false end
    scopes.note_other(scope)
    scope.vars[var], known.is_nil = value, false
    return true
end

---------------------------------------------------------------------------------------------------
-- Names of tables, and of texts that are known, that are assigned to where it is surely run, as in
-- `self = self:copy()`. They are other names of these then: nothing is copied. Where it turns out
-- that some assignment may not be run (L.stays), the name is a place of its own.

--- May a name that is assigned to begin as another name of the value?
function scopes.is_renamable(L, var, value)
    if not var.assigned or L.stays[var] or not value or value.flag or value.origin or value.may_be_nil or L.scope.has_labels then return false end
    if value.t == "scalar" then
        local node = value.node
        return node.tag == "String" or node.tag == "Fixed" and type(node.static.value) == "string"
    end
    return value.t == "object" or value.t == "element" or value.t == "static" and type(value.static.value) == "table"
end

--- Does the name stand for such a value now?
function scopes.is_renamed(known)
    return (known.t == "object" or known.t == "element" or known.t == "scalar" or known.t == "static") and not known.of
        and not scopes.is_function(known)
end

--- Makes the name stand for another value from here on; false where that is not known.
function scopes.rename(L, at, var, value)
    local known, scope = known_of(L, var)
    local is_function = scopes.is_function(value)
    if not known or known.context ~= L.context or not nodes.is_surely_run(L, known) then return false end
    if not is_function and (L.stays[var] or value.flag or value.origin or value.may_be_nil) then return false end
    if value.t == "choice" or value.t == "lifted" or value.t == "scalar" and value.node.tag == "Nil" then return false end
    scopes.note_other(scope)
    known.is_nil = false
    if value.t == "scalar" then value = nodes.hold_value(L, at, value, var.name) end
    if is_function or value.t == "scalar" then scope.vars[var] = value else scopes.bind_table(L, at, scope, var, value) end
    return true
end

--- The name is assigned something else than a function.
function scopes.forget_known(L, var)
    local scope = L.scope
    while scope and not scope.vars[var] do scope = scope.outer end
    if scope and scope.known then scope.known[var] = nil end
end

function scopes.open_scope(L, outer)
    L.scope = { vars = {}, storages = {}, outer = outer or L.scope, back = L.scope, is_open = true }
end

function scopes.close_scope(L)
    for _, storage in ipairs(L.scope.storages) do storage.is_alive = false end
    L.scope.is_open = false
    L.scope = L.scope.back
end

--- Can a table that an expression gives be reached by another name, too? `node`: the expression,
--- nil of a further result of a call.
function scopes.is_named(node, value)
    if value.t ~= "object" then return false end
    node = trees.bare(node)
    if value.is_named or node and (node.tag == "Name" or node.tag == "Index") then return true end
    local storage = value.storage
    while storage do
        for _, alias in ipairs(storage.aliases or {}) do
            if alias.scope.is_open then return true end
        end
        storage = storage.parent
    end
    return false
end

--- Lets the tables live on, until the scope of the walk ends, that a value of an ended scope is, or
--- that a function of such a scope can still reach.
function scopes.keep(L, value)
    local function revive(storage)
        if storage.is_alive then return end
        storage.is_alive = true
        table.insert(L.scope.storages, storage)
        for _, own in pairs(storage.functions or {}) do scopes.keep(L, own) end
    end
    if value.t == "object" then return revive(value.storage.root) end
    for _, case in ipairs(value.cases or {}) do scopes.keep(L, case.value) end
    for _, each in pairs(value.values or {}) do scopes.keep(L, each) end -- of a chooser
    local scope = value.t == "function" and value.scope
    while scope and not scope.is_open do
        for _, storage in ipairs(scope.storages) do revive(storage) end
        scope = scope.outer
    end
end

-- Makes a local that is never assigned another name for a table. If another table is copied to the
-- table's place while the local lives (L.copied), the local gets a copy.
function scopes.bind_table(L, at, scope, var, value)
    if value.t == "object" and L.copied[var] then
        local storage = new_storage(L, at, value.storage.class, var.name)
        copy(L, at, object(storage), value)
        note_copy(L, at, value, object(storage))
        value = optional.mark(object(storage), value)
    elseif value.t == "object" then
        local storage = value.storage
        storage.aliases = storage.aliases or {}
        table.insert(storage.aliases, { var = var, scope = scope })
    end
    scope.vars[var] = value
end

function scopes.name_value(L, node)
    local known = node.var and lookup(L, node.var)
    if not known then return of_static(L, node, L.infer.static_outside(L.context.fn, node.name)) end
    if known.t == "variable" then
        local name = name_of(L, node, known.var)
        local value = scalar(known.symbol and symbols.wrap(L, node, name, known.symbol == "char") or name, known.class)
        value.variable = known.of.assigned and not known.is_parameter and known.of or nil
        value.flag, value.origin, value.why, value.is_sure = known.flag, known.origin, known.why, known.is_sure
        value.may_be_nil, value.of = known.may_be_nil or L.takes_nil[known.of], known.of
        value.absent = known.absent or falses.absent_of(L, known.of)
        return value
    end
    if known.t == "scalar" then return optional.like(known, known.node) end
    if known.t == "chooser" then return L.value_of_chooser(L, node, known) end
    if known.of and known.flag then known.absent = falses.absent_of(L, known.of) end
    return known
end

return scopes
