-- references.lua: locals that a function has of its caller: it reads and assigns to them there, as
-- functions that call themselves do with tables (lower/lifting.lua).
--
-- Such a function has formals (Def.vars), for which a call names locals of its own (Call.refs); and
-- what it changes of the functions around it, which are names in Def.names with is_ref. Each is an
-- input of the instance with `ref`, the caller's name for it; in C it is a pointer. Both have one
-- type, so what the function assigns widens the caller's local. In vectors they differ between
-- lanes, and a function that has some is one of vectors exactly if its caller is.

local types = require "tidepool.translate.infer.types"

local references = {}

-- What two paths have in common, as in flow.lua; nil stands for a path that was not seen.
local function meet(a, b)
    if not a then return b end
    local both = {}
    for var, state in pairs(a) do
        if b[var] == state then both[var] = state end
    end
    return both
end

-- Appends an input for a local of the caller, and what tells the instance from others.
local function add(inst, flow, inputs, key, formal, name)
    local known, state = inst.vars[name.var], flow.assigned[name.var]
    if state == "start" then inst.starts[name] = name.var end -- the callee does not know it
    if inst.simd and not known.varies then known.varies, inst.changed = true, true end
    if state ~= "nil" then state = state and true or nil end
    local kind = known.kind ~= "k" and known.kind or "num"
    if not known.kind then kind = nil end
    for i, input in ipairs(inputs) do
        if input.ref and input.ref.var == name.var then -- the same by two names
            key[#key + 1] = "as " .. i
            input.state, state = input.state ~= "nil" and input.state or nil, state ~= "nil" and state or nil
        end
    end
    key[#key + 1] = ("&%s %s"):format(kind or "?", tostring(state))
    inputs[#inputs + 1] = { var = formal, ref = name, kind = kind, varies = inst.simd, room = known.room, state = state }
end

--- Appends the inputs for a call's refs.
function references.pass(inst, node, def, flow, inputs, key)
    for i, name in ipairs(node.refs or {}) do add(inst, flow, inputs, key, def.vars[i], name) end
end

--- The same for a name of a function around it.
references.add = add

--- Has it such inputs?
function references.has(inputs)
    for _, input in ipairs(inputs) do
        if input.ref then return true end
    end
    return false
end

--- The instance returns here.
function references.leave(inst, flow)
    local states = {}
    for _, input in ipairs(inst.inputs) do
        if input.ref then
            local state = flow.assigned[input.var]
            states[input.var] = state ~= "nil" and state ~= nil or state
        end
    end
    inst.outs = meet(inst.outs, states)
end

--- What the caller's locals are behind a call.
function references.take(inst, node, flow, inputs, callee)
    for _, input in ipairs(inputs) do
        if input.ref then
            local var = input.ref.var
            types.widen(inst, node, var, callee.vars[input.var].kind, inst.simd)
            flow.assigned[var] = input.room and true or callee.outs and callee.outs[input.var] or nil
        end
    end
end

return references
