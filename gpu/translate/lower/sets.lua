-- sets.lua: captured tables with whole numbers as keys, among which there are holes, and lists of
-- booleans: `primes[n]`, `walls[i]`. The device gets two lists, of what is there, and of the
-- values.

local nodes = require "tidepool.translate.lower.nodes"
local statics = require "tidepool.translate.lower.statics"

local sets = {}

local binop, fixed, node_at, number = nodes.binop, nodes.fixed, nodes.node_at, nodes.number
local derived = statics.derived

local SPAN_MAX = 4096 -- from the first key to the last one

--- What such a table is: { from, to, kind, there, values }, of which the last two are lists of
--- numbers; nil of other values.
function sets.form(value)
    if type(value) ~= "table" or debug.getmetatable(value) ~= nil then return end
    local from, to, kind = math.huge, -math.huge, nil
    for key, each in next, value do
        if type(key) == "number" then
            local its = type(each)
            if key ~= math.floor(key) or its ~= "number" and its ~= "boolean" or kind and kind ~= its then return end
            from, to, kind = math.min(from, key), math.max(to, key), its
        end
    end
    if not kind or to - from >= SPAN_MAX then return end
    local there, values = {}, {}
    for key = from, to do
        local each = value[key]
        there[#there + 1] = each ~= nil and 1 or 0
        values[#values + 1] = kind == "number" and (each or 0) or each and 1 or 0
    end
    return { from = from, to = to, kind = kind, there = there, values = values }
end

--- Whether a table of this form has an element, a condition, and the element.
function sets.element(L, at, static, key)
    local form = sets.form(static.value)
    local function bounds(now)
        local its = sets.form(now)
        return its and ("%s from %d to %d"):format(its.kind, its.from, its.to) or "none"
    end
    local baked = derived(static, static.path, "bounds", bounds)
    L.program.baked[baked.key] = baked
    local place = form.from == 1 and key or binop(L, at, "-", key, number(L, at, form.from - 1))
    local function list(name)
        local of = derived(static, static.path, name, function(now) return sets.form(now)[name] end)
        return node_at(L, at, "Index", { object = fixed(L, at, of), key = place })
    end
    local one = number(L, at, 1)
    local is_there = nodes.all_of(L, at, { nodes.is_within(L, at, key, number(L, at, form.from), number(L, at, form.to)),
        binop(L, at, "==", list "there", one) })
    local value = list "values"
    return is_there, nodes.scalar(form.kind == "boolean" and binop(L, at, "==", value, one) or value)
end

return sets
