-- lower.lua: takes tables apart before types are inferred. From a function that makes tables, or
-- takes elements that are tables from captured ones, it makes one that has numbers and booleans in
-- locals only, and rooms: private arrays of a size that is known.
--
-- The walk over the tree evaluates what is known now: which table an expression stands for, and
-- which function is called. A table is a tree of locals, its storage: one for each field, and for a
-- list a room, with the first and the last index that it has (lists have no holes). Functions that
-- are given tables, or make some, are put in the place of their calls, so that a table keeps its
-- identity there. A table that is stored into a variable, field or element is copied; where a copy
-- could be told from the table itself, since one of both is changed while the other lives on, that
-- is refused.
--
-- What a table needs (fields, the size of a list) is known when all of its uses were seen. So the
-- walk is repeated until nothing changes; each round starts with what earlier rounds have found
-- about classes of tables (lower/classes.lua). What all files of the folder share is L, the state
-- of one walk.

local choosers = require "tidepool.translate.lower.choosers"
local classes = require "tidepool.translate.lower.classes"
local defaults = require "tidepool.translate.lower.defaults"
local functions = require "tidepool.translate.lower.functions"
local nodes = require "tidepool.translate.lower.nodes"
local scopes = require "tidepool.translate.lower.scopes"
local walk = require "tidepool.translate.lower.walk"
local wide = require "tidepool.translate.wide"
require "tidepool.translate.lower.assignments"
require "tidepool.translate.lower.iteration"
require "tidepool.translate.lower.loops"
require "tidepool.translate.lower.operators"
require "tidepool.translate.lower.statements"
require "tidepool.translate.lower.tables"

local lower = {}

local emit, name_of, new_local, node_at, refuse = nodes.emit, nodes.name_of, nodes.new_local, nodes.node_at, nodes.refuse
local scalar = nodes.scalar

local ROUNDS_MAX = 40
local OPEN_ROOM_MAX = 256 -- elements of a list of unknown length, see places.lua

-- One walk over the whole function.
local function round(L, fn, kinds)
    local def = fn.def
    local new = { tag = "Def", line = def.line, last_line = def.last_line, first = def.first, last = def.last, params = {}, is_method = def.is_method,
                  outer = def.outer, names = {} }
    L.root, L.lifted, L.lift, L.zero = new, {}, nil, false
    L.def, L.out, L.scope, L.loops, L.room, L.inlined, L.labels, L.serial, L.bodies = new, {}, nil, {}, 0, 0, 0, 0, 0
    L.asides = 0
    L.context, L.present = { fn = fn, def = def, name = L.name, serial = 0 }, {}
    scopes.open_scope(L)
    for i, param in ipairs(def.params) do
        local var = new_local(L, param.name, { line = param.line }, param.assigned)
        var.is_number = not param.assigned and kinds[i] ~= "bool" and (#kinds == 0 or kinds[i] ~= nil)
        var.is_boolean = kinds[i] == "bool"
        var.is_plain = var.is_number and not wide.KINDS[kinds[i]]
        new.params[i] = var
        local is_missing = #kinds > 0 and not kinds[i]
        local takes_default = is_missing and defaults.of(L, def)[param]
        if takes_default then L.defaulted[takes_default] = L.scope end
        if is_missing and (takes_default or not param.assigned) then
            L.scope.vars[param] = scalar({ tag = "Nil", line = param.line })
        else
            L.scope.vars[param] = { t = "variable", var = var, of = param, is_parameter = true }
            if param.assigned then L.ranges[param] = false end
            if L.nilable[param] then
                local flag = new_local(L, "has " .. param.name, def, true)
                emit(L, node_at(L, def, "Local", { vars = { flag }, exprs = { node_at(L, def, "True", {}) } }))
                L.scope.vars[param].flag = flag
            end
        end
    end
    if def.is_vararg then
        L.context.varargs = {}
        for i = #def.params + 1, #kinds do
            new.params[i] = new_local(L, "argument " .. i, { line = def.line })
            L.context.varargs[i - #def.params] = scalar(name_of(L, def, new.params[i]))
        end
    end
    walk.block(L, def.body, true)
    new.body = new.prologue or {}
    new.prologue = nil
    for _, line in ipairs(L.out) do table.insert(new.body, line) end
    return new
end

---Takes the tables in a function apart, where there are some; else gives its own tree. Raises {
---refusal = message }.
---@param program table of infer.lua: baked
---@param fn table of infer.lua
---@param options table name, inputs
---@param infer table array_type, is_list
---@param find_function fun(value: function, name: string?, at: table?): table
function lower.def(program, fn, options, infer, find_function)
    local L = {
        program = program, fn = fn, name = options.name, infer = infer, function_of = find_function,
        -- of tables and variables; kinds: what a variable that is assigned to is given, as in a
        -- class
        sites = {}, open_sites = {}, variables = {}, kinds = {}, ranges = {}, lengths = {}, widened = {}, growing = {}, walking = {},
        choices = {}, results = {}, copied = {}, booleans = {}, either = {},
        -- of what may be nil (optional.lua); takes_nil: variables that get elements
        nilable = {}, optional = {}, missing = {}, misses = {}, lends = {}, asked = {}, gives_texts = {}, nil_locals = {}, takes_nil = {},
        -- of what may be false, but is no boolean (falses.lua)
        falses = {}, false_results = {}, gives_false = {}, given = {},
        -- of texts that are numbers (symbols.lua), functions that are chosen (choices.lua),
        -- arguments (defaults.lua) and select
        ids = {}, symbols = {}, result_symbols = {}, dispatchers = {}, choosers = {}, result_functions = {},
        defaults = {}, defaulted = {}, selected = {},
        -- of functions that call themselves (lifting.lua)
        lifts = {}, recursive = {},
        -- of structs of C: the constructors that stand for them, the types that texts name, and
        -- captured ones as tables
        structs = {}, layouts = {}, mirrors = {},
        -- names that are no other names of tables (scopes.lua); the __index of captured metatables
        -- that functions set
        stays = {}, indexes = {},
    }
    function L.refuse_endless()
        L.is_endless = true
        refuse(L, fn.def, "a table that would have to be in tables of its own kind, such as a list of lists and of numbers; "
            .. "on a device what a name stands for has one form")
    end
    L.context = { fn = fn, name = options.name }
    L.open_room, L.value_of_chooser = OPEN_ROOM_MAX, choosers.value
    if not functions.touches(L, fn, fn.def) then return fn.def end
    for number = 1, ROUNDS_MAX do
        L.round, L.changed, L.refusal, L.opening, L.zero, L.result_mark, L.unifying = number, false, nil, nil, nil, nil, 0
        L.updated, L.is_by_value = nil, false
        local fine, new = pcall(round, L, fn, options.inputs or {})
        -- What is refused while something new was learnt may be accepted once that is known.
        if not L.changed and L.refusal and L.refusal.refusal then error(L.refusal, 0) end
        if not fine and not (type(new) == "table" and new.refusal and L.changed and not L.is_endless) then error(new, 0) end
        if not L.changed and L.opening then classes.open(L, unpack(L.opening)) end
        if not L.changed then
            if L.refusal then refuse(L, unpack(L.refusal)) end
            return new
        end
    end
    refuse(L, fn.def, "what its tables need does not settle; give the variables simpler roles")
end

return lower
