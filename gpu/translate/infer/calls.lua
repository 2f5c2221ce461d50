-- calls.lua: calls: which function is called, and the instance of it for these arguments.

local builtins = require "tidepool.translate.builtins"
local constants = require "tidepool.translate.constants"
local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local library = require "tidepool.translate.infer.library"
local messages = require "tidepool.translate.infer.messages"
local references = require "tidepool.translate.infer.references"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local walk = require "tidepool.translate.infer.walk"
local recursion = require "tidepool.translate.recursion"
local wide = require "tidepool.translate.wide"

local function_of, is_within, nested_captures = functions.function_of, functions.is_within, functions.nested_captures
local refuse, tells_caller = functions.refuse, functions.tells_caller
local bake, static_of = statics.bake, statics.static_of
local check_given, storable = types.check_given, types.storable
local fails = flows.fails
local expr, values = walk.expr, walk.values
local place_in_text = messages.place_in_text
local call_builtin, call_wide = library.call_builtin, library.call_wide
local NUMERIC = types.NUMERIC

local expression, multiple = walk.expression, walk.multiple

-- A call of a function that calls itself, beyond its last level.
local function call_too_deep(inst, node, flow, static)
    local limit = inst.program.recursion_limit
    local code = inst:failure("error", node, ("%s'%s' calls itself more than %d deep (recursion_limit = %d)"):format(place_in_text(inst, node),
        static.path, limit, limit))
    inst.calls[node] = { special = "error", code = code, numbers = {}, never_returns = true }
    fails(inst, flow, false)
    return {}
end

local function call_function(inst, node, flow, static)
    local program = inst.program
    local fn, def, outer
    if static.nested then
        fn, def, outer = static.inst.fn, static.nested, static.inst
    else
        fn = function_of(program, static.value, static.path, { inst = inst, at = node })
        def = fn.def
        bake(inst, static)
    end
    if def.is_vararg then refuse(inst, node, "'%s' takes variable arguments ('...'); name its parameters", static.path) end
    local mode, written = recursion.mode(program, fn, def), def
    def = recursion.form(program, fn, def)
    local given = values(inst, node.args, flow, def.params)
    for i = 1, def == written and 0 or #def.params do
        -- a loop cannot give a parameter its first value
        if not given[i] or given[i].kind == "nil" then def = written end
    end
    local level = recursion.level(program, inst, mode)
    if level > 0 and level == program.recursion_limit then return call_too_deep(inst, node, flow, static) end
    local inputs, key, simd = {}, { tostring(def), tostring(fn.value), tostring(outer), level > 0 and level or nil }, program.is_simd
    for i, value in ipairs(given) do
        local var = def.params[i]
        if value.static then
            key[#key + 1] = value.static.key .. tostring(value.static.value or value.static.nested)
            if value.static.value then bake(inst, value.static) end
            inputs[#inputs + 1] = { var = var, static = value.static }
        elseif var and value.kind == "nil" then
            check_given(inst, value)
            key[#key + 1] = "nil"
        elseif var then
            check_given(inst, value)
            local kind = storable(inst, value.node, value.kind, "an argument of " .. static.path)
            kind = kind == "k" and "num" or kind
            simd = simd or value.varies
            inst.flow = flow
            local constant = mode and mode.kind == "known" and NUMERIC[kind] and (not value.index or value.index == 1)
                and constants.value(statics, inst, value.node, true) or nil
            key[#key + 1] = (kind or "?") .. (value.varies and "*" or "") .. (constant and "=" .. constant or "")
            inputs[#inputs + 1] = { var = var, kind = kind, varies = value.varies, value = i, constant = constant }
        end
    end
    -- Locals of enclosing functions that nested functions read are passed to them, and to functions
    -- to which these are passed.
    local passed, without = {}, {}
    local function pass_captures(of)
        for _, name in ipairs(nested_captures(of.inst.fn, of.nested, {}, {})) do
            local var = name.var
            if name.is_ref and not passed[var] and not is_within(var.def, def) and inst.vars[var] then
                passed[var] = true
                references.add(inst, flow, inputs, key, var, name)
            elseif not passed[var] and not is_within(var.def, def) and inst.vars[var] and not inst.vars[var].static then
                passed[var] = true
                local kind, varies = expr(inst, name, flow)
                kind = kind == "k" and "num" or kind
                simd = simd or varies
                key[#key + 1] = var.name .. (kind or "?") .. (varies and "*" or "")
                if kind == "nil" then
                    without[#without + 1] = var
                else
                    inputs[#inputs + 1] = { var = var, kind = kind, varies = varies, name = name }
                end
            end
        end
    end
    local caller_place
    if tells_caller(fn, def) then
        caller_place = node.caller_place or not node.is_tail and place_in_text(inst, node) or not inst.called_at and "" or nil
        key[#key + 1] = "from " .. (caller_place or "?")
    end
    if static.nested then pass_captures(static) end
    for _, value in ipairs(given) do
        if value.static and value.static.nested then pass_captures(value.static) end
    end
    references.pass(inst, node, def, flow, inputs, key)
    if references.has(inputs) then simd = inst.simd end
    local callee = program:instance(inst, node, {
        key = table.concat(key, " "), fn = fn, def = def, name = static.path, inputs = inputs, simd = simd, outer = outer, without = without,
        caller_place = caller_place, text = recursion.text(fn, written), written = written, recursion_level = level,
    })
    inst.calls[node] = { callee = callee, inputs = inputs, never_returns = callee.never_returns }
    if callee.can_fail then fails(inst, flow, callee.simd) end
    references.take(inst, node, flow, inputs, callee)
    inst.draws = inst.draws or callee.draws
    for _, each in ipairs(callee.captures) do inst:capture(each.kind, each.static) end
    local results = {}
    for i, result in ipairs(callee.results or {}) do results[i] = { kind = result.kind, varies = callee.simd, missing = result.missing } end
    return results
end

-- Gives the list of a call's results.
function multiple.Call(inst, node, flow)
    local static = static_of(inst, node.callee)
    if not static then
        if node.callee.tag == "Function" or node.callee.tag == "Paren" then expr(inst, node.callee, flow) end
        refuse(inst, node, "a call of something that is computed; only functions with a name can be called")
    end
    if static.nested then return call_function(inst, node, flow, static) end
    local made_by_type = wide.kind_of_type(type(static.value) == "cdata" and static.value)
    if made_by_type then
        bake(inst, static)
        return call_wide(inst, node, flow, static.path, made_by_type)
    end
    if type(static.value) ~= "function" then
        refuse(inst, node, "a call of '%s', which is %s", static.path,
            static.value == nil and "nil" or "a " .. type(static.value))
    end
    local builtin = builtins.find(static.value)
    if builtin then
        bake(inst, static)
        return call_builtin(inst, node, flow, builtin, static.path)
    end
    if not debug.getinfo(static.value, "S").what:find "Lua" then
        refuse(inst, node, "a call of '%s', a C function that does not exist on a device; write it in Lua", static.path)
    end
    return call_function(inst, node, flow, static)
end

function expression.Call(inst, node, flow)
    node.wants_value = true
    local results = multiple.Call(inst, node, flow)
    if inst.calls[node].never_returns then return "k", false end
    if not results[1] then refuse(inst, node, "a call that returns nothing, used as a value") end
    if results[1].missing then
        refuse(inst, node, "the result of this call is used, and %s; %s", results[1].missing, types.ASK)
    end
    return results[1].kind, results[1].varies
end
