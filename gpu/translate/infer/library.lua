-- library.lua: calls of what is built in: error, assert, tonumber, math.random, makers of 64-bit
-- integers, and the functions of builtins.lua.

local flows = require "tidepool.translate.infer.flow"
local functions = require "tidepool.translate.infer.functions"
local messages = require "tidepool.translate.infer.messages"
local statics = require "tidepool.translate.infer.statics"
local types = require "tidepool.translate.infer.types"
local walk = require "tidepool.translate.infer.walk"
local wide_rules = require "tidepool.translate.infer.wide"
local wide = require "tidepool.translate.wide"

local library = {}

local refuse = functions.refuse
local bake, static_of, string_of = statics.bake, statics.static_of, statics.string_of
local check_given, numeric, storable = types.check_given, types.numeric, types.storable
local fails = flows.fails
local condition, expr, values = walk.condition, walk.expr, walk.values
local message_failure, place_in_text, place_of_error = messages.message_failure, messages.place_in_text, messages.place_of_error
local WIDE, MAYBE = wide.KINDS, wide.MAYBE

-- LuaJIT puts file and line before assert's message, Lua does not. The device does what the running
-- one does.
local ASSERT_TELLS_LINE = select(2, pcall(function() assert(false, "x") end)) ~= "x"

local function call_error(inst, node, flow)
    local text, level = node.args[1], node.args[2]
    if not text or text.tag == "Nil" then
        refuse(inst, node, "error without a message; give it a string")
    end
    if level and not (level.tag == "Number" and level.value >= 0 and level.value == math.floor(level.value)) then
        refuse(inst, level, "error at a level that is computed; write 0, 1 or 2")
    end
    local prefix = place_of_error(inst, node, level)
    local code, numbers = message_failure(inst, node, text, flow, "error", prefix)
    inst.calls[node] = { special = "error", code = code, numbers = numbers, never_returns = true }
    fails(inst, flow, false)
    return {}
end

local function call_assert(inst, node, flow)
    local cond = node.args[1]
    if not cond then refuse(inst, node, "assert needs an argument") end
    local kind, varies
    if node.wants_value then
        kind, varies = expr(inst, cond, flow)
        if kind == "nil" then storable(inst, cond, kind, "what assert gives") end
    else
        varies = condition(inst, cond, flow)
    end
    local prefix = ASSERT_TELLS_LINE and place_in_text(inst, node) or ""
    local text = node.args[2] or { tag = "String", line = node.line, value = "assertion failed!" }
    local code, numbers = message_failure(inst, node, text, flow, "assert", prefix)
    inst.calls[node] = { special = "assert", code = code, numbers = numbers }
    fails(inst, flow, varies)
    if not node.wants_value then return {} end
    local results = { { kind = MAYBE[kind] or kind, varies = varies } }
    if node.args[2] then
        results[2] = { kind = "num", varies = false, missing = "assert gives its message, too, where it is not in parentheses: (assert(...))" }
    end
    return results
end

local function call_tonumber(inst, node, flow)
    local arg = node.args[1]
    if #node.args ~= 1 then refuse(inst, node, "tonumber with a base; there are no strings on a device") end
    inst.calls[node] = { special = "tonumber" }
    local kind, varies = expr(inst, arg, flow)
    if WIDE[kind] then
        wide_rules.allow(inst, arg)
        return { { kind = "num", varies = varies } }
    end
    numeric(inst, arg, kind, "tonumber")
    return { { kind = kind, varies = varies } }
end

-- What makes a 64-bit integer: int64_t(x), where that is a ctype, ffi.new(type, x) and
-- ffi.cast(type, x). `kind`: of a ctype that is called.
local function call_wide(inst, node, flow, path, kind)
    local value = kind and node.args[1] or node.args[2]
    if not kind then
        local of, static = node.args[1], node.args[1] and static_of(inst, node.args[1])
        kind = of and wide.kind_of_type(string_of(inst, of) or static and static.value)
        if static and type(static.value) ~= "string" then bake(inst, static) end
        if not kind then refuse(inst, node, "%s of another type than int64_t and uint64_t; those are what numbers become on a device", path) end
    end
    local varies = false
    if value then
        local given
        given, varies = expr(inst, value, flow)
        wide_rules.allow(inst, value)
        if not WIDE[given] then numeric(inst, value, given, path) end
    end
    if #node.args > (value == node.args[1] and 1 or 2) then refuse(inst, node, "%s of more than one value", path) end
    inst.calls[node] = { special = "wide", kind = kind, value = value }
    return { { kind = kind, varies = varies } }
end
library.call_wide = call_wide

-- math.random. Each lane has a stream of its own, so what is drawn differs between lanes, and an
-- instance in which nothing differs cannot draw: see infer.program.
local function call_random(inst, node, flow)
    for _, value in ipairs(values(inst, node.args, flow)) do
        storable(inst, value.node, value.kind, "an argument of math.random")
        numeric(inst, value.node, value.kind, "math.random")
    end
    inst.calls[node] = { special = "random" }
    inst.draws = true
    inst.program.is_scalar_draw = inst.program.is_scalar_draw or not inst.simd
    return { { kind = "num", varies = inst.simd } }
end

local SPECIAL = { error = call_error, assert = call_assert, tonumber = call_tonumber, random = call_random, wide = call_wide }

function library.call_builtin(inst, node, flow, builtin, path)
    if builtin.refuse then refuse(inst, node, "%s does not exist here: %s", path, builtin.refuse) end
    local given, varies = not builtin.special and values(inst, node.args, flow) or node.args, false
    if #given < builtin.min then
        refuse(inst, node, "%s needs %d argument%s", path, builtin.min, builtin.min == 1 and "" or "s")
    end
    if builtin.special then return SPECIAL[builtin.special](inst, node, flow, path) end
    for _, value in ipairs(given) do
        check_given(inst, value)
        storable(inst, value.node, value.kind, "an argument of " .. path)
        if not (builtin.takes_wide and WIDE[value.kind]) then numeric(inst, value.node, value.kind, path) end
        varies = varies or value.varies
    end
    local kind_of_all = builtin.wide and wide_rules.kind_of_call(inst, builtin, given)
    inst.calls[node] = { builtin = builtin, varies = varies, wide = kind_of_all }
    local results = {}
    for i, kind in ipairs(builtin.results) do results[i] = { kind = kind_of_all or kind, varies = varies } end
    return results
end

return library
