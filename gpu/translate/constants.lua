-- constants.lua: whole numbers that are known when a function is translated, as they are wanted to
-- see where recursion ends (recursion.lua): arguments, what is computed of them, and captured
-- numbers, which are baked in where they are used with those.
--
-- infer/flow.lua keeps them: the state of a local is its number. Only programs that have functions
-- which call themselves (program.tracks) have such states. `statics` is infer/statics.lua, which
-- needs this file, and is given to its functions therefore.

local bit = require "bit"

local constants = {}

-- Up to here whole numbers are exact in floats, too.
local LARGEST = 2 ^ 24

local PURE = {}
for _, fn in ipairs { math.floor, math.ceil, math.abs, math.max, math.min, bit.rshift, bit.lshift, bit.arshift, bit.band, bit.bor, bit.bxor } do
    PURE[fn] = true
end

local ARITHMETIC = {
    ["+"] = function(a, b) return a + b end,
    ["-"] = function(a, b) return a - b end,
    ["*"] = function(a, b) return a * b end,
    ["/"] = function(a, b) return a / b end,
    ["%"] = function(a, b) return a % b end,
    ["^"] = function(a, b) return a ^ b end,
}

local COMPARE = {
    ["<"] = function(a, b) return a < b end,
    ["<="] = function(a, b) return a <= b end,
    [">"] = function(a, b) return a > b end,
    [">="] = function(a, b) return a >= b end,
    ["=="] = function(a, b) return a == b end,
    ["~="] = function(a, b) return a ~= b end,
}

-- The number that an expression is. `uses`: gets the captured numbers that went into it, and
-- whether a local did.
local function evaluate(statics, inst, node, uses)
    local tag = node.tag
    if tag == "Paren" then return evaluate(statics, inst, node.expr, uses) end
    if tag == "Number" then return node.value end
    if tag == "Unop" and node.op == "-" then
        local value = evaluate(statics, inst, node.expr, uses)
        return value and -value
    elseif tag == "Binop" and ARITHMETIC[node.op] then
        local left = evaluate(statics, inst, node.left, uses)
        local right = left and evaluate(statics, inst, node.right, uses)
        return right and ARITHMETIC[node.op](left, right)
    elseif tag == "Or" then
        local is_right = statics.nil_of(inst, node.left) or statics.truth_of(inst, node.left) == false
        return evaluate(statics, inst, is_right and node.right or node.left, uses)
    elseif tag == "And" then
        return statics.truth_of(inst, node.left) and evaluate(statics, inst, node.right, uses) or nil
    elseif tag == "Call" then
        local callee = statics.static_of(inst, node.callee)
        if not callee or not PURE[callee.value] or #node.args == 0 then return end
        local args = {}
        for i, arg in ipairs(node.args) do
            args[i] = evaluate(statics, inst, arg, uses)
            if not args[i] then return end
        end
        return callee.value(unpack(args))
    elseif tag ~= "Name" and tag ~= "Index" and tag ~= "Fixed" then
        return
    end
    local static = statics.static_of(inst, node)
    if static then
        if static.nested or type(static.value) ~= "number" then return end
        uses[#uses + 1] = static
        return static.value
    end
    local state = tag == "Name" and statics.state_of(inst, node)
    if type(state) ~= "number" then return end
    uses.has_local = true
    return state
end

local function bake(inst, uses)
    for _, static in ipairs(uses) do inst.program.baked[static.key] = static end
end

--- The whole number that an expression is known to be; nil of others. `takes_captured`: also where
--- nothing but captured numbers go into it.
function constants.value(statics, inst, node, takes_captured)
    if not inst.program.tracks then return end
    local uses = {}
    local value = evaluate(statics, inst, node, uses)
    if not value or value ~= math.floor(value) or math.abs(value) > LARGEST or value == 0 and 1 / value < 0 then return end
    if #uses > 0 and not uses.has_local and not takes_captured then return end
    bake(inst, uses)
    inst.constants[node] = value -- so that the device has this number, and not what it would compute
    return value
end

--- Can an expression only give a value: does it call nothing, and not fail?
function constants.is_pure(node)
    local tag = node.tag
    if tag == "Name" or tag == "Number" or tag == "Nil" or tag == "True" or tag == "False" then return true end
    if tag == "Paren" or tag == "Unop" then return node.op ~= "#" and constants.is_pure(node.expr) end
    return (tag == "Binop" and node.op ~= ".." or tag == "And" or tag == "Or") and constants.is_pure(node.left) and constants.is_pure(node.right)
end

--- What a comparison gives, if it is known by what is known of locals.
function constants.compare(statics, inst, node)
    local compare = inst.program.tracks and COMPARE[node.op]
    if not compare then return end
    local uses = {}
    local left = evaluate(statics, inst, node.left, uses)
    local right = left and evaluate(statics, inst, node.right, uses)
    if not right or not uses.has_local then return end
    bake(inst, uses)
    return compare(left, right)
end

return constants
