-- expressions.lua: literals, names, operators, `and` and `or`.

local arrays = require "tidepool.translate.infer.arrays"
local elements = require "tidepool.translate.infer.elements"
local functions = require "tidepool.translate.infer.functions"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local walk = require "tidepool.translate.infer.walk"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local refuse, variable_of = functions.refuse, functions.variable_of
local bake, static_of, truth_at = statics.bake, statics.static_of, statics.truth_at
local numeric, refuse_missing, shown = types.numeric, types.refuse_missing, types.shown
local condition, expr = walk.condition, walk.expr
local element = elements.element
local WIDE, MAYBE = wide.KINDS, wide.MAYBE
local NUMERIC = types.NUMERIC

local expression = walk.expression

function expression.Number(_, node)
    local v = node.value
    return (v == math.floor(v) and math.abs(v) < 2 ^ 31 and (v ~= 0 or 1 / v > 0)) and "k" or "num", false
end
expression.Nil = function() return "nil", false end
expression.True = function() return "bool", false end
expression.False = expression.True
expression.Paren = function(inst, node, flow) return expr(inst, node.expr, flow) end

function expression.String(inst, node)
    refuse(inst, node, "a string; there are no strings on a device, except as messages of error and assert")
end
function expression.Symbol(inst, node)
    refuse(inst, node, "a text that is one of several, used as something else; on a device such a text can only be compared, by == and ~=")
end
function expression.Wide(inst, node)
    if node.value == nil then refuse(inst, node, "the literal %s is an imaginary number, which does not exist on a device", node.text) end
    return wide.kind_of(node.value), false
end
function expression.Vararg(inst, node)
    refuse(inst, node, "'...'; there are no variable arguments on a device, name the parameters")
end
function expression.Table(inst, node)
    refuse(inst, node, "a table made inside the function; there is no memory to allocate on a device, use locals or "
        .. "capture a typed array (tidepool.array)")
end
function expression.Function(inst, node)
    refuse(inst, node, "a function as a value; give it a name with `local function` and call it")
end

-- A captured value used as an operand.
local function captured(inst, node, static)
    local value = static.value
    local kind = type(value)
    if static.nested or kind == "function" then
        refuse(inst, node, "the function '%s' as a value; functions can only be called", static.path)
    elseif kind == "number" then
        inst:capture("number", static)
        return "num", false
    elseif wide.kind_of(value) then
        inst:capture("number", static)
        return wide.kind_of(value), false
    elseif kind == "boolean" then
        bake(inst, static)
        return "bool", false
    elseif kind == "nil" then
        bake(inst, static)
        return "nil", false
    elseif arrays.array_type(value) then
        refuse(inst, node, "the array '%s' as a value; take an element, %s[i], or its length, #%s", static.path, static.path,
            static.path)
    elseif kind == "string" then
        refuse(inst, node, "'%s' is a string; there are no strings on a device", static.path)
    end
    refuse(inst, node, "'%s' is a %s; only numbers, booleans, functions and typed arrays can be captured", static.path, kind)
end

function expression.Name(inst, node, flow)
    local static = static_of(inst, node)
    if static then return captured(inst, node, static) end
    local var = variable_of(inst, node)
    local known = inst.vars[var]
    if not known then
        refuse(inst, node, "'%s' belongs to an enclosing function and is not visible here; pass it as an argument", var.name)
    end
    inst.states[node] = flow.assigned[var]
    if flow.assigned[var] == "nil" then return "nil", false end
    if not flow.assigned[var] then
        refuse_missing(inst, node, var)
        inst:learn_unset(node, var)
        refuse(inst, node, "'%s' may be read before it has a value, and nil does not exist on a device; "
            .. "give it a number where it is declared (line %d)", var.name, var.line)
    end
    if flow.assigned[var] == "start" then inst.starts[node] = var end
    return known.kind, known.varies
end

function expression.Fixed(inst, node) return captured(inst, node, node.static) end

function expression.Index(inst, node, flow)
    local static = static_of(inst, node)
    if static then return captured(inst, node, static) end
    return element(inst, node, flow)
end

local function is_small(node)
    return node.tag == "Number" and node.value == math.floor(node.value) and math.abs(node.value) <= 1024
end

local COMPARE = { ["<"] = true, [">"] = true, ["<="] = true, [">="] = true }

function expression.Binop(inst, node, flow)
    local op = node.op
    if op == ".." then refuse(inst, node, "'..'; there are no strings on a device, return numbers") end
    if truth_at(inst, node, flow) ~= nil then return "bool", false end
    local a, a_varies = expr(inst, node.left, flow)
    local b, b_varies = expr(inst, node.right, flow)
    local varies = a_varies or b_varies
    local is_comparison = COMPARE[op] or op == "==" or op == "~="
    wide_rules.allow_beside(inst, node.left, a, node.right, b, is_comparison)
    wide_rules.allow_beside(inst, node.right, b, node.left, a, is_comparison)
    if op == "==" or op == "~=" then
        if MAYBE[a] or MAYBE[b] then
            refuse(inst, node, "a comparison with a number or false; complete it: `condition and x or y`")
        end
        return "bool", varies
    end
    local what = COMPARE[op] and ("the comparison '%s'"):format(op) or ("'%s'"):format(op)
    if not WIDE[a] then numeric(inst, node.left, a, what) end
    if not WIDE[b] then numeric(inst, node.right, b, what) end
    if COMPARE[op] then return "bool", varies end
    if WIDE[a] or WIDE[b] then return wide.joined(a, b), varies end
    -- A loop counter, or an index of a grid, plus or minus another one or a small number stays an
    -- integer, which is exact, and cheap as an index.
    if (op == "+" or op == "-") and a == "long" and (b == "long" or is_small(node.right)) then return "long", varies end
    if op == "+" and b == "long" and is_small(node.left) then return "long", varies end
    return "num", varies
end

function expression.Unop(inst, node, flow)
    if node.op == "not" then
        return "bool", (condition(inst, node.expr, flow))
    elseif node.op == "#" then
        local static = static_of(inst, node.expr)
        local is_array = static and not static.nested and arrays.array_type(static.value)
        local value = static and not static.nested and static.value
        if value and not is_array and arrays.has_fields(value) and (arrays.is_plain(value) or type(value) == "userdata") then
            local function read()
                local now = static.read()
                return type(now) == type(value) and #now or nil
            end
            local length = { path = "#" .. static.path, key = "#" .. static.key, value = read(), read = read }
            inst.lengths[node] = length
            inst:capture("number", length)
            return "num", false
        elseif not is_array then
            refuse(inst, node, "'#'; only captured typed arrays and lists have a length")
        end
        inst:capture("array", static)
        return "long", false
    end
    local kind, varies = expr(inst, node.expr, flow)
    if WIDE[kind] then return kind, varies end
    numeric(inst, node.expr, kind, "'-'")
    local literal = node.expr.tag == "Number" and node.expr.value
    return (kind == "k" and literal and literal ~= 0) and "k" or "num", varies
end

-- The right operand of `and` or `or`, which only the lanes that need it evaluate.
local function lazily(inst, node, flow, left_varies)
    flow.level = flow.level + (left_varies and 1 or 0)
    local kind, varies = expr(inst, node, flow)
    flow.level = flow.level - (left_varies and 1 or 0)
    return kind, varies
end

function expression.And(inst, node, flow)
    local truth = truth_at(inst, node.left, flow)
    if truth ~= nil then return expr(inst, truth and node.right or node.left, flow) end
    local varies, always = condition(inst, node.left, flow)
    local kind, right_varies = lazily(inst, node.right, flow, varies)
    varies = varies or right_varies
    if always then return kind, varies end
    if kind == "nil" then refuse(inst, node, "'and' with nil gives false or nil; write a condition with `not`") end
    if kind == "bool" or kind == nil or MAYBE[kind] then return kind, varies end
    return wide.maybe(kind), varies
end

function expression.Or(inst, node, flow)
    local truth = truth_at(inst, node.left, flow)
    if truth ~= nil then return expr(inst, truth and node.left or node.right, flow) end
    local left, left_varies = expr(inst, node.left, flow)
    if NUMERIC[left] or WIDE[left] or truth_at(inst, node.right, flow) == false then return left, left_varies end
    local right, right_varies = lazily(inst, node.right, flow, left_varies)
    local varies = left_varies or right_varies
    if left == nil or right == nil then return right, varies end
    if left == "bool" and right == "bool" then return "bool", varies end
    if left == "nil" then return right, varies end
    if left == "maybe" and NUMERIC[right] then return "num", varies end
    if MAYBE[left] and (right == left or right == MAYBE[left]) then return right, varies end
    if MAYBE[left] and right ~= "bool" then
        local one, other = MAYBE[left], MAYBE[right] or right
        refuse(inst, node, "'or' gives a %s or a %s here; a value has one type on a device%s", shown(one), shown(other),
            wide_rules.advice(one, other))
    end
    refuse(inst, node, "'or' gives a boolean or a number here; a value has one type on a device, "
        .. "write `condition and x or y` with two numbers")
end
