-- own.lua: which arrays that a program writes have elements of one input only: all that is written
-- there is numbered by an input, which differs from all others.
--
-- What numbers an element is known as a form: input * factor, and a number from `least` to `most`,
-- which it does not reach where over_least or below_most says so; without an input it is a number
-- alone. Inputs then have elements apart when most - least < factor, over all places that write to
-- the array.

local statics = require "tidepool.translate.infer.statics"
local trees = require "tidepool.translate.trees"

local own = {}

local bare, static_of = trees.bare, statics.static_of

local function constant(v) return { factor = 0, least = v, most = v } end

local function is_constant(form) return form.input == nil and form.least == form.most end

local function scaled(form, by)
    if by == 0 then return constant(0) end
    local least, most, over, below = form.least * by, form.most * by, form.over_least, form.below_most
    if by < 0 then least, most, over, below = most, least, below, over end
    return { input = form.input, factor = form.factor * by, least = least, most = most, over_least = over, below_most = below }
end

local function added(a, b)
    if a.input and b.input and a.input ~= b.input then return end
    return { input = a.input or b.input, factor = a.factor + b.factor, least = a.least + b.least, most = a.most + b.most,
             over_least = a.over_least or b.over_least, below_most = a.below_most or b.below_most }
end

local function is_same(a, b)
    return a and b and a.input == b.input and a.factor == b.factor and a.least == b.least and a.most == b.most
        and a.over_least == b.over_least and a.below_most == b.below_most
end

local form_of

-- A loop's variable is between its limits.
local function form_of_loop(walk, loop)
    local node, inst = loop.node, loop.inst
    local step = node.step and bare(node.step)
    if node.var.assigned or step and not (step.tag == "Number" and step.value > 0) then return end
    local first, last = form_of(walk, inst, node.start), form_of(walk, inst, node.limit)
    if not first or not last or first.input ~= last.input or first.factor ~= last.factor then return end
    return { input = first.input, factor = first.factor, least = first.least, most = math.max(first.least, last.most),
             over_least = first.over_least, below_most = last.most > first.least and last.below_most or nil }
end

-- The form of an expression; nil when it is not known.
function form_of(walk, inst, node)
    node = bare(node)
    if node.tag == "Number" then return constant(node.value) end
    local static = static_of(inst, node)
    if static then
        if static.nested or type(static.value) ~= "number" then return end
        walk.numbers[static.key] = static
        return constant(static.value)
    end
    local var = node.tag == "Name" and node.var
    if var then
        if walk.forms[var] ~= nil then return walk.forms[var] or nil end
        if walk.loops[var] then return form_of_loop(walk, walk.loops[var]) end
        local known = not var.assigned and inst.vars[var]
        return known and known.given and form_of(walk, inst, known.given) or nil
    end
    if node.tag == "Unop" and node.op == "-" then
        local of = form_of(walk, inst, node.expr)
        return of and scaled(of, -1)
    end
    if node.tag ~= "Binop" then return end
    local a, b = form_of(walk, inst, node.left), form_of(walk, inst, node.right)
    if node.op == "%" then
        local by = b and is_constant(b) and b.least
        return by and by > 0 and { factor = 0, least = 0, most = by, below_most = true } or nil
    end
    if not a or not b then return end
    if node.op == "+" then return added(a, b) end
    if node.op == "-" then return added(a, scaled(b, -1)) end
    if node.op ~= "*" then return end
    if is_constant(b) then return scaled(a, b.least) end
    return is_constant(a) and scaled(b, a.least) or nil
end

-- Finds the forms of parameters: those of the function, and those that are given the same
-- everywhere.
local function find_forms(walk)
    walk.forms = {}
    for i, var in ipairs(walk.program.root.def.params) do
        walk.forms[var] = not var.assigned and { input = i, factor = 1, least = 0, most = 0 } or false
    end
    for at = #walk.instances, 1, -1 do -- callers first
        local inst, given = walk.instances[at], {}
        for node, made in pairs(inst.calls) do
            for _, input in ipairs(made.inputs or {}) do
                if input.value then
                    local arg = node.args[input.value] -- nil: one more result of the last one
                    local form = arg and not input.var.assigned and form_of(walk, inst, arg) or false
                    if given[input.var] ~= nil and not is_same(given[input.var], form) then form = false end
                    given[input.var] = form
                end
            end
        end
        for var, form in pairs(given) do
            if walk.forms[var] == nil then walk.forms[var] = form elseif not is_same(walk.forms[var], form) then walk.forms[var] = false end
        end
    end
end

-- Which row and column of a matrix are written, as a text that is the same for the same inputs; nil
-- where others may write it, too.
local function matrix_place(walk, store, differ)
    local texts, inputs = {}, {}
    for i, arg in ipairs(store.target.key.args) do
        local form = form_of(walk, store.inst, arg)
        local is_one = form and form.input and form.factor ~= 0 and form.least == form.most
        texts[i] = is_one and ("%d * %.17g + %.17g"):format(form.input, form.factor, form.least) or "?"
        if is_one then inputs[form.input] = true end
    end
    for i = 1, differ do
        if not inputs[i] then return nil end
    end
    return table.concat(texts, ", ")
end

-- The least and the greatest index of a form, but for input * factor; indexes are whole, and so are
-- inputs.
local function bounds(form)
    local least, most = form.least, form.most
    if form.factor % 1 ~= 0 then return least, most end
    return form.over_least and math.floor(least) + 1 or math.ceil(least), form.below_most and math.ceil(most) - 1 or math.floor(most)
end

-- Have all that write to this array elements apart? `differ`: how many inputs, from the first on,
-- differ together.
local function is_apart(walk, stores, written, differ)
    local whole, place
    for _, store in ipairs(stores) do
        if store.entry ~= written then return false end -- by another name
        if store.target.key.tag == "Place" then
            local here = matrix_place(walk, store, differ)
            if not here or whole or place and place ~= here then return false end
            place = here
        else
            local form = form_of(walk, store.inst, store.target.key)
            if not form or form.input ~= 1 or differ > 1 or place or whole and whole.factor ~= form.factor then return false end
            local least, most = bounds(form)
            whole = whole or { factor = form.factor, least = least, most = most }
            whole.least, whole.most = math.min(whole.least, least), math.max(whole.most, most)
            -- a product may be rounded where floats have no more bits
            if walk.program.real == "float" and math.abs(form.factor) ~= 1 then return false end
        end
    end
    return not whole or whole.most - whole.least < math.abs(whole.factor)
end

---The written arrays, of which each element has one input only; and the captured numbers by which
---that is known.
---@param walk table of dependences.lua
---@param distinct "range"|"grid"
---@param stores_of fun(entry: table): table[] what writes to the memory of an array
---@return table<table, boolean>, table[]
function own.find(walk, distinct, stores_of)
    local differ = distinct == "range" and 1 or #walk.program.root.def.params
    walk.numbers = {}
    find_forms(walk)
    local found = {}
    for _, written in ipairs(walk.written) do found[written] = is_apart(walk, stores_of(written), written, differ) end
    return found, walk.numbers
end

return own
