-- types.lua: kinds of values: what two of them have in common, what becomes of a local's, and which
-- can be stored or used as numbers.

local functions = require "tidepool.translate.infer.functions"
local trees = require "tidepool.translate.trees"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local types = {}

local refuse, variable_of = functions.refuse, functions.variable_of
local WIDE, MAYBE = wide.KINDS, wide.MAYBE

-- The kinds that are numbers, but for 64-bit integers.
local NUMERIC = { num = true, int = true, long = true, k = true }
types.NUMERIC = NUMERIC

local function join(a, b)
    if a == nil or a == b then return b end
    if b == nil then return a end
    if a == "k" and NUMERIC[b] then return b end
    if b == "k" and NUMERIC[a] then return a end
    if NUMERIC[a] and NUMERIC[b] then return "num" end
end
types.join = join

function types.note(inst, node, kind, varies)
    if inst.types[node] ~= kind or inst.varies[node] ~= varies then
        inst.types[node], inst.varies[node] = kind, varies
        inst.changed = true
    end
    return kind, varies
end

-- What the text of a refusal calls a value of this kind.
local function shown(kind)
    return kind == "bool" and "boolean" or WIDE[kind] and "64-bit integer (" .. kind .. ")" or "number"
end
types.shown = shown

-- Widens a variable's kind by one more. `varies`: the value differs between lanes, or not all lanes
-- get it. `is_start`: it is the literal that the local begins with (infer/wide.lua).
function types.widen(inst, at, var, kind, varies, is_start)
    local known = inst.vars[var]
    if is_start and known.is_wide_later then kind = known.kind end
    if WIDE[kind] and known.has_start and not known.has_numbers and NUMERIC[known.kind] then
        known.kind, known.is_wide_later, inst.changed = kind, true, true
    end
    if is_start then known.has_start = true elseif kind and not WIDE[kind] then known.has_numbers = true end
    local joined = join(known.kind, kind)
    if kind and not joined then
        refuse(inst, at, "'%s' is a %s here and a %s elsewhere; a variable has one type on a device%s", var.name, shown(kind), shown(known.kind),
            (WIDE[kind] or WIDE[known.kind]) and wide_rules.advice(kind, known.kind) or "")
    end
    if joined ~= known.kind or (varies and not known.varies) then
        known.kind, known.varies = joined, known.varies or varies
        inst.changed = true
    end
end

-- What to do about a value that may be missing.
local ASK = "nil does not exist on a device, return a number everywhere, or ask whether there is one (`if r then`, `r or 0`)"
types.ASK = ASK

-- Refuses the use of a local that holds a result which is missing on some paths.
local function refuse_missing(inst, node, var)
    if var.missing then refuse(inst, node, "%s is used, and %s; %s", var.name, var.missing, ASK) end
end
types.refuse_missing = refuse_missing

-- Refuses the use of a result that some path of the function does not return.
function types.check_given(inst, value)
    if not value.missing then return end
    refuse(inst, value.node, "result %d of this call is used, and %s; %s", value.index or 1, value.missing, ASK)
end

-- Refuses the use of a parameter that was given no value.
local function refuse_nil_name(inst, node)
    node = trees.bare(node)
    local var = node.tag == "Name" and variable_of(inst, node)
    if not var or inst.states[node] ~= "nil" then return end
    refuse_missing(inst, node, var)
    if inst.is_parameter[var] then
        refuse(inst, node, "the parameter '%s' of '%s' gets no value%s: it would be nil, which does not exist on a device; pass a number", var.name,
            inst.name or "the function", inst.called_at and (" from the call in line %d"):format(inst.called_at) or ", since there are fewer inputs")
    end
    refuse(inst, node, "'%s' may be read before it has a value, and nil does not exist on a device; "
        .. "give it a number where it is declared (line %d)", var.name, var.line)
end

-- How the program calls a value: a name, and fields of it; nil: it is computed.
local function path_of(node)
    node = trees.bare(node)
    if node.tag == "Name" then return node.name end
    local path = node.tag == "Index" and path_of(node.object)
    local key = path and node.key
    if not key or key.tag ~= "String" and key.tag ~= "Number" then return nil end
    return key.tag == "String" and path .. "." .. key.value or ("%s[%.14g]"):format(path, key.value)
end

-- What a refusal calls this value.
local function named(inst, node)
    local path = path_of(node)
    if not path then return "this" end
    local is_global = node.tag == "Name" and not node.var and functions.static_outside(inst.fn, node.name).is_global
    return ("%s'%s'"):format(is_global and "the global " or "", path)
end

-- Checks a value that goes into a variable, a result or an argument; gives its kind.
function types.storable(inst, at, kind, what)
    if kind == "nil" then refuse_nil_name(inst, at) end
    if MAYBE[kind] then
        refuse(inst, at, "%s would be a number or false; complete it: `condition and x or y`", what)
    elseif kind == "nil" then
        local name = named(inst, at)
        refuse(inst, at, "%s would be nil%s, which does not exist on a device; use a number such as 0 or math.huge", what,
            name ~= "this" and (" (%s is)"):format(name) or "")
    end
    return kind
end

function types.numeric(inst, at, kind, what)
    if kind == "nil" then refuse_nil_name(inst, at) end
    if kind and not NUMERIC[kind] then
        refuse(inst, at, "%s needs numbers, and %s is %s", what, named(inst, at), kind == "bool" and "a boolean" or kind == "nil" and "nil"
            or WIDE[kind] and "a 64-bit integer; write tonumber(...)" or "a number or false")
    end
end

return types
