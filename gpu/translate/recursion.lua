-- recursion.lua: functions that call themselves, directly or by way of others. A device has no
-- recursion, so each of them becomes something else, which is its mode:
--   * "known": arguments that are known when it is translated end it. Each call has a copy of the
--     function for its arguments, and these see each other's; so fbm(x, 5) is six functions.
--   * "loop": it calls itself in the place of returning only, which is a loop.
--   * "levels": the user has said how deep it goes at most (the option recursion_limit). Each
--     level is a copy of the function, which calls the next one however often it calls itself; the
--     last one fails. Calls in the place of returning are loops here, too.
-- The functions that call each other are a group, and have one mode. That a function calls itself
-- is seen when it is called while it is analysed; then the whole program is analysed again, with
-- the next mode of that order (`again`), since everything before has relied on the last one.

local functions = require "tidepool.translate.infer.functions"
local optional = require "tidepool.translate.lower.optional"
local trees = require "tidepool.translate.trees"

local recursion = {}

local refuse = functions.refuse
local each_node = trees.each_node

-- Calls that known arguments may make at most, one in the other, and functions that a program may
-- have then.
local KNOWN_DEEP, KNOWN_MANY = 100, 250

-- Ways through the calls of a program that a compiler may have to go: 2^24 take PoCL some 3 s; and
-- up to how many there are vectors.
local WAYS_MAX, WAYS_OF_VECTORS = 2 ^ 25, 256

-- Elements of lists that functions have that are in each other: in vectors of 8 doubles a MiB of a
-- thread's stack.
local ROOMS_MAX = 16384

---------------------------------------------------------------------------------------------------
-- Modes, by the function's text: program.modes is kept from one analysis to the next.

--- What names a function's text.
function recursion.text(fn, def) return ("%s %d"):format((def.source or fn.source).file, def.first) end

--- The mode of a function: { kind, group }; nil of one that does not call itself, as far as is
--- known.
function recursion.mode(program, fn, def)
    return program.modes[recursion.text(fn, def)]
end

local function again() error({ again = true }, 0) end

-- Is the callee of a call the function `def` itself?
local function calls_itself(fn, def, node)
    local callee = node.tag == "Call" and node.callee
    if not callee or callee.tag ~= "Name" then return false end
    if callee.var and not fn.outside[callee.var.def] then return callee.var.bound == def and not callee.var.assigned end
    return def == fn.def and functions.static_outside(fn, callee.name).value == fn.value
end

-- Is the statement `return f(...)` in the function f, with as many arguments as f has parameters,
-- and the tables that f was given? `vars`: f's formals, where it is in a copy of f.
local function is_jump(fn, def, node, vars)
    local call = node.tag == "Return" and #node.exprs == 1 and node.exprs[1]
    for i, name in ipairs(call and call.refs or {}) do
        if name.var ~= (vars or def.vars)[i] then return false end
    end
    return call and calls_itself(fn, def, call) and #call.args == #def.params
end

---------------------------------------------------------------------------------------------------
-- Loops

local function same_name(node, var)
    node = trees.bare(node)
    return node.tag == "Name" and node.var == var
end

-- A copy of the tree of a function, with locals of its own. What is outside of it stays the same.
local function copy_of(def)
    local copies = {}
    if def.outer then copies[def.outer] = def.outer end
    local function copy(part, key)
        if type(part) ~= "table" or key == "static" or key == "source" or key == "assigns" or key == "update" then
            return key ~= "assigns" and key ~= "update" and part or nil
        end
        if copies[part] then return copies[part] end
        if not part.tag and part.def and part.name then -- a local
            local owner = part.def
            while owner and owner ~= def do owner = owner.outer end
            if not owner then return part end
        end
        local made = {}
        copies[part] = made
        for name, each in pairs(part) do made[name] = copy(each, name) end
        return made
    end
    return copy(def)
end

-- The function as a loop: where it returned what it gives for other arguments, it goes on with
-- these. nil when it does not do that, or nothing else.
local function looped(fn, def)
    if def.looped ~= nil then return def.looped or nil end
    def.looped = false
    local jumps, ends = 0, optional.falls(def.body)
    each_node(def.body, function(node)
        local is_one = is_jump(fn, def, node)
        jumps = jumps + (is_one and 1 or 0)
        ends = ends or node.tag == "Return" and not is_one
    end)
    if jumps == 0 or not ends then return end
    local made, label = copy_of(def), ("again %d"):format(def.first)
    trees.each_statement(made.body, function(node, list, i)
        if not is_jump(fn, def, node, made.vars) then return end
        local targets, exprs, args = {}, {}, node.exprs[1].args
        for k, param in ipairs(made.params) do
            if not same_name(args[k], param) then
                param.assigned = true
                targets[#targets + 1] = { tag = "Name", line = node.line, name = param.name, var = param }
                exprs[#exprs + 1] = args[k]
            end
        end
        local jump = { { tag = "Goto", line = node.line, name = label } }
        if #targets > 0 then table.insert(jump, 1, { tag = "Assign", line = node.line, targets = targets, exprs = exprs }) end
        list[i] = { tag = "Do", line = node.line, body = jump }
    end)
    made.body[#made.body + 1] = { tag = "Return", line = def.last_line, exprs = {} }
    made.body = { { tag = "While", line = def.line, cond = { tag = "True", line = def.line },
        body = { { tag = "Region", line = def.line, name = label, body = made.body } } } }
    def.looped = made
    return made
end

-- Does the function call itself by such returns only?
local function is_only_loop(fn, def)
    local jumps, calls = 0, 0
    each_node(def.body, function(node)
        if is_jump(fn, def, node) then jumps = jumps + 1 end
        if calls_itself(fn, def, node) then calls = calls + 1 end
    end)
    return calls == jumps and looped(fn, def) ~= nil
end

--- The tree by which a function is analysed: as a loop, where it has this mode.
function recursion.form(program, fn, def)
    local mode = recursion.mode(program, fn, def)
    return mode and mode.kind ~= "known" and looped(fn, def) or def
end

---------------------------------------------------------------------------------------------------
-- While a program is analysed. program.stack: the instances that are being analysed, each called by
-- the one before.

-- The group's next mode.
local function advance(program, caller, at, mode, wanted)
    if mode.is_one and is_only_loop(wanted.fn, wanted.written) then
        mode.kind = "loop"
    elseif program.recursion_limit then
        mode.kind = "levels"
    else
        refuse(caller, at, "'%s' calls itself; there is no recursion on a device without a bound: give one, as in recursion_limit = 16, use a loop, "
            .. "or pass it a number that is known beforehand and ends it", wanted.name)
    end
    again()
end

-- The functions that are being analysed from `first` on call each other.
local function unite(program, first, wanted)
    local mode = { kind = "known", is_one = true }
    for i = first, #program.stack do
        local each = program.stack[i]
        local known = program.modes[each.text]
        if known and known.kind == "levels" then mode.kind = "levels" end
        if each.text ~= wanted.text then mode.is_one = false end
        if known then
            for key, other in pairs(program.modes) do
                if other == known then program.modes[key] = mode end
            end
        end
        program.modes[each.text] = mode
    end
    again()
end

--- Looks whether an instance may be made, or called: nothing calls what is still analysed.
---@param wanted table of infer/calls.lua: fn, text, written (its tree as it was written), key, name
function recursion.check(program, caller, at, wanted)
    local mode, deep = program.modes[wanted.text], 0
    for i, each in ipairs(program.stack) do
        local its_mode = program.modes[each.text]
        if each.text == wanted.text and (not mode or its_mode ~= mode) then return unite(program, i, wanted) end
        if mode and its_mode == mode then
            deep = deep + 1
            -- A group grows by the functions between two of its members.
            local last = program.stack[#program.stack]
            if program.modes[last.text] ~= mode then return unite(program, i, wanted) end
        end
        if mode and each.key == wanted.key then
            if mode.kind ~= "known" then
                refuse(caller, at, "'%s' calls itself with other arguments than before, some of which are missing; pass all of them", wanted.name)
            end
            return advance(program, caller, at, mode, wanted)
        end
    end
    if mode and mode.kind == "known" and (deep > KNOWN_DEEP or #program.instances > KNOWN_MANY) then
        return advance(program, caller, at, mode, wanted)
    end
end

--- How deep in its group a function would be that `caller` calls.
function recursion.level(program, caller, mode)
    if not mode or mode.kind ~= "levels" then return 0 end
    return program.modes[caller.text or ""] == mode and caller.recursion_level + 1 or 0
end

--- Looks at how often functions that call themselves are called, once a program is analysed.
--- Compilers of devices go into each call of each function that is called: PoCL does so to see what
--- vectors there are (lib/llvmopencl of its sources), and copies functions with larger ones than
--- the processor has. So a function that calls itself in two places, 30 levels deep, would be
--- compiled for hours; and beyond some ways the program has no vectors, which are not faster there.
--- Neither are they where levels share a table.
---@param top table of infer.lua: the function that is mapped
function recursion.judge(program, top)
    if not next(program.modes) then return end
    local ways, rooms, shares = {}, {}, false
    local function ways_of(inst)
        if ways[inst] then return ways[inst] end
        local count, own, below = 1, 0, 0
        for _, made in pairs(inst.calls) do
            if made.callee then
                count = count + ways_of(made.callee)
                below = math.max(below, rooms[made.callee])
            end
        end
        for _, known in pairs(inst.vars) do own = own + (not known.is_ref and known.room or 0) end
        ways[inst], rooms[inst] = count, own + below
        shares = shares or inst.has_refs and inst.recursion_level > 0
        return count
    end
    local all, most = ways_of(program.root), nil
    if all > WAYS_MAX then
        local calls = 0
        for inst in pairs(ways) do
            local here = 0
            for _, made in pairs(inst.calls) do
                if made.callee and program.modes[made.callee.text] then here = here + 1 end
            end
            if program.modes[inst.text] and here > calls then calls, most = here, inst end
        end
        refuse(top, most.def, "'%s' calls itself in %d places, so there are more than %d ways through it as deep as it may go, and "
            .. "compilers of devices go them all; call it in one place (in a loop over what differs), or give a smaller bound, as in "
            .. "recursion_limit = %d", most.name, calls, WAYS_MAX, math.floor(math.log(WAYS_MAX) / math.log(math.max(calls, 2))))
    end
    if rooms[program.root] > ROOMS_MAX then
        local function deepest(inst)
            for _, made in pairs(inst.calls) do
                if made.callee and program.modes[made.callee.text] then return made.callee end
                local found = made.callee and deepest(made.callee)
                if found then return found end
            end
        end
        local first = deepest(program.root)
        refuse(top, first.def, "the lists of '%s', as deep as it may call itself, have more than %d elements together; make them before, and pass "
            .. "them to it, or give a smaller bound (recursion_limit)", first.name, ROOMS_MAX)
    end
    if program.lanes > 1 and (shares or all > WAYS_OF_VECTORS) then error({ is_scalar = true }, 0) end
end

--- Runs `analyse` until it has found the modes of all functions that call themselves, and the
--- locals that may be read before they have a value (Instance:learn_unset).
---@param analyse fun(modes: table, unset: table): any
function recursion.settle(analyse)
    local modes, unset = {}, {}
    while true do
        local ok, result = pcall(analyse, modes, unset)
        if ok then return result end
        if type(result) ~= "table" or not result.again then error(result, 0) end
    end
end

return recursion
