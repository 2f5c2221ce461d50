-- dependences.lua: which elements that a function writes depend on elements that it has read: by
-- what is assigned, or by whether it is assigned at all.
--
-- Where both may be one element, the assignment is an update that others may come between. One that
-- infer/updates.lua knows is atomic. Of the others the program remembers what was read and where
-- (its reads), and an assignment at the same place is done only if the element has not changed
-- since: else the function goes on from the statement that reads it (infer/retries.lua), or the
-- input fails. (An atomic update in whose value is an older element of the same array, too, stays
-- one where the function could not go on.) None is needed where each input has elements of its own,
-- and inputs are known to differ (infer/own.lua, options.distinct).
--
-- The dependences are found for locals, whatever the order of statements: too many of them cost
-- time, since it is the addresses that decide.

local arrays = require "tidepool.translate.infer.arrays"
local own = require "tidepool.translate.infer.own"
local retries = require "tidepool.translate.infer.retries"
local statics = require "tidepool.translate.infer.statics"
local trees = require "tidepool.translate.trees"

local dependences = {}

local bare, static_of = trees.bare, statics.static_of

-- ---- which arrays share memory ----

-- Where an array's elements lie: the first address, and the one behind the last.
local function span(array)
    local elements = array.elements or array.data
    if type(elements) ~= "cdata" then return end
    local ffi = require "ffi"
    return tonumber(ffi.cast("uintptr_t", elements + 0)), tonumber(ffi.cast("uintptr_t", elements + (array.n or #array)))
end

local function shares_memory(a, b)
    local first, behind = span(a)
    local other_first, other_behind = span(b)
    if not first or not other_first then return a == b end
    return first < other_behind and other_first < behind
end

-- Do two captured arrays share elements? That is part of the code then, unless they are the same
-- name.
local function overlap(walk, a, b)
    if a == b then return true end
    if a.is_list or b.is_list or a.ctype ~= b.ctype then return false end
    local key = a.static.key < b.static.key and a.static.key .. " with " .. b.static.key or b.static.key .. " with " .. a.static.key
    local known = walk.overlaps[key]
    if known == nil then
        local function read() return shares_memory(a.static.read(), b.static.read()) end
        known = read()
        walk.overlaps[key] = known
        local path = ("whether %s and %s share memory"):format(a.static.path, b.static.path)
        walk.program.baked[key] = { path = path, key = key, value = known, read = read }
    end
    return known
end

-- ---- sets of reads, which the elements of arrays that are written are read by ----

local function add_all(into, from)
    for read in pairs(from) do into[read] = true end
end

-- The same for what is kept, of which a change is noted.
local function put_all(walk, into, from)
    for read in pairs(from) do
        if not into[read] then
            into[read] = true
            walk.changed = true
        end
    end
end

local function set_of(sets, key)
    sets[key] = sets[key] or {}
    return sets[key]
end

-- The read that a node is, of an element that may be written; nil when it is none. In a function
-- that is called for several arrays it is one for each.
local function read_of(walk, inst, node, entry)
    local reads = set_of(walk.reads, node)
    local read = reads[entry]
    if read == nil then
        read = false
        for _, written in ipairs(walk.written) do
            if not read and overlap(walk, entry, written) then
                walk.count = walk.count + 1
                read = { node = node, entry = entry, number = walk.count, line = node.line, file = (node.source or inst.fn.source).file }
            end
        end
        reads[entry] = read
    end
    return read or nil
end

-- The captured array of which an expression reads an element; nil for others.
local function entry_of(inst, node)
    if node.tag == "Method" then return inst.places[node] and inst.places[node].array end
    if node.tag ~= "Index" or static_of(inst, node) then return end
    local base = statics.source_of(inst, node)
    return base and inst.captured["array" .. base.key]
end

-- The captured array of which an assignment writes an element.
local function entry_written(inst, target) return inst.captured["array" .. static_of(inst, target.object).key] end

local found_in

local function call_of(walk, inst, node, into, control)
    local made = inst.calls[node]
    if not made then return end
    local callee = made.callee
    if not callee then
        for _, arg in ipairs(node.args) do found_in(walk, inst, arg, into, control) end
        return
    end
    local given = {}
    for i, arg in ipairs(node.args) do
        given[i] = {}
        found_in(walk, inst, arg, given[i], control)
    end
    for _, input in ipairs(made.inputs) do
        local formal = set_of(walk.of_var, input.var)
        if input.ref then
            local callers = set_of(walk.of_var, input.ref.var)
            put_all(walk, callers, formal)
            put_all(walk, formal, callers)
            put_all(walk, callers, control)
        elseif input.name then
            put_all(walk, formal, set_of(walk.of_var, input.name.var))
        elseif input.value then
            put_all(walk, formal, given[math.min(input.value, #given)] or {})
        end
    end
    put_all(walk, set_of(walk.control, callee.def), control)
    add_all(into, set_of(walk.results, callee.def))
end

local CHILDREN = { "left", "right", "expr", "key", "object", "index" }

-- Adds the reads that an expression depends on. What is never evaluated has no type.
function found_in(walk, inst, node, into, control)
    node = bare(node)
    if node.tag ~= "Call" and inst.types[node] == nil then return end
    if node.tag == "Name" then
        if node.var then
            add_all(into, set_of(walk.of_var, node.var))
            if walk.is_counting and not walk.counted[inst.def] then walk.uses[node.var] = (walk.uses[node.var] or 0) + 1 end
        end
        return
    end
    if node.tag == "Call" then return call_of(walk, inst, node, into, control) end
    if node.tag == "Cell" then add_all(into, set_of(walk.of_var, node.var)) end
    if node.tag == "And" or node.tag == "Or" then -- the left side decides whether the right one is evaluated
        local left, both = {}, {}
        found_in(walk, inst, node.left, left, control)
        add_all(into, left)
        add_all(both, left)
        add_all(both, control)
        return found_in(walk, inst, node.right, into, both)
    end
    local entry = entry_of(inst, node)
    local read = entry and read_of(walk, inst, node, entry)
    if read then into[read] = true end
    for _, key in ipairs(CHILDREN) do
        if type(node[key]) == "table" then found_in(walk, inst, node[key], into, control) end
    end
    for _, arg in ipairs(node.args or {}) do found_in(walk, inst, arg, into, control) end
end

-- ---- statements ----

local statement, block = {}, nil

-- What decides on a statement in the place of the walk, and on these expressions too.
local function with(walk, inst, control, ...)
    local all = {}
    for read in pairs(control) do all[read] = true end
    for i = 1, select("#", ...) do
        local node = select(i, ...)
        if node then found_in(walk, inst, node, all, control) end
    end
    return all
end

local function give(walk, var, from, control)
    local set = set_of(walk.of_var, var)
    put_all(walk, set, from)
    put_all(walk, set, control)
end

-- Control may leave here, which decides on all that comes after.
local function leaves(walk, inst, control) put_all(walk, set_of(walk.control, inst.def), control) end

local function give_list(walk, inst, vars, exprs, control)
    local last = {}
    for i = 1, math.max(#vars, #exprs) do
        if exprs[i] then
            last = {}
            found_in(walk, inst, exprs[i], last, control)
        end
        if vars[i] then give(walk, vars[i], last, control) end
    end
end

function statement.Local(walk, inst, node, control) give_list(walk, inst, node.vars, node.exprs, control) end

function statement.Assign(walk, inst, node, control)
    local target = node.targets[1]
    if target.tag == "Index" then
        local value = {}
        found_in(walk, inst, node.exprs[1], value, control)
        local key = {}
        found_in(walk, inst, target.key, key, control)
        local entry = entry_written(inst, target)
        local stores = set_of(walk.stores, target)
        local store = stores[entry]
        if not store then
            walk.store_count = walk.store_count + 1
            store = { number = walk.store_count, node = node, target = target, line = node.line, inst = inst, value = {}, control = {}, key = {},
                entry = entry }
            stores[entry] = store
            walk.all_stores[walk.store_count] = store
        end
        put_all(walk, store.value, value)
        put_all(walk, store.control, control)
        put_all(walk, store.key, key)
        return
    end
    local vars = {}
    for i, each in ipairs(node.targets) do vars[i] = each.var end
    give_list(walk, inst, vars, node.exprs, control)
end

function statement.CallStat(walk, inst, node, control)
    if inst.assigns[node] then
        local assign = inst.assigns[node]
        -- a:add and its like are what they are wherever they stand
        return statement.Assign(walk, inst, assign, assign.ctype and {} or control)
    end
    local made = inst.calls[node.call]
    if made and (made.special == "error" or made.special == "assert") then
        leaves(walk, inst, made.special == "assert" and with(walk, inst, control, node.call.args[1]) or control)
    end
    if node.call.tag == "Call" then call_of(walk, inst, node.call, {}, control) end
end

function statement.Do(walk, inst, node, control) block(walk, inst, node.body, control) end
statement.Region = statement.Do

function statement.If(walk, inst, node, control)
    for _, clause in ipairs(node.clauses) do
        control = with(walk, inst, control, clause.cond)
        block(walk, inst, clause.body, control)
    end
    if node.orelse then block(walk, inst, node.orelse, control) end
end

statement["While"] = function(walk, inst, node, control) block(walk, inst, node.body, with(walk, inst, control, node.cond)) end
statement["Repeat"] = statement["While"]

function statement.Fornum(walk, inst, node, control)
    control = with(walk, inst, control, node.start, node.limit, node.step)
    give(walk, node.var, {}, control)
    walk.loops[node.var] = { node = node, inst = inst }
    block(walk, inst, node.body, control)
end

statement["Return"] = function(walk, inst, node, control)
    local results = set_of(walk.results, inst.def)
    for _, each in ipairs(node.exprs) do
        local one = {}
        found_in(walk, inst, each, one, control)
        put_all(walk, results, one)
    end
    put_all(walk, results, control)
    leaves(walk, inst, control)
end

function statement.Break(walk, inst, _, control) leaves(walk, inst, control) end
statement.Goto = statement.Break

function statement.Put(walk, inst, node, control) give(walk, node.var, with(walk, inst, control, node.value, node.index), control) end

function block(walk, inst, list, control)
    for _, node in ipairs(list) do
        if inst.ends[node] == nil then return end -- nobody comes here
        local visit = statement[node.tag]
        if visit then visit(walk, inst, node, with(walk, inst, control)) end
    end
end

local function walk_all(walk)
    for _, inst in ipairs(walk.instances) do
        local control = set_of(walk.control, inst.def)
        block(walk, inst, inst.def.body, control)
        walk.counted[inst.def] = walk.is_counting
    end
end

-- ---- what has to be looked at again ----

-- Those of the reads that may be of the same element as the assignment.
local function reads_of(walk, store, sets, known)
    local list, seen = {}, {}
    for _, set in ipairs(sets) do
        for read in pairs(set) do
            if not seen[read] and not known[read] and overlap(walk, read.entry, store.entry) then
                seen[read] = true
                list[#list + 1] = read
            end
        end
    end
    table.sort(list, function(a, b) return a.number < b.number end)
    return list
end

-- The reads that an atomic update does itself.
local function reads_in_update(walk, store, update)
    local known = {}
    for node in pairs(update.reads) do
        for _, read in pairs(walk.reads[node] or {}) do
            if read then known[read] = true end
        end
        local made = node.tag == "Call" and store.inst.calls[node]
        for read in pairs(made and made.callee and set_of(walk.results, made.callee.def) or {}) do known[read] = true end
    end
    return known
end

-- Is what the update replaces used elsewhere, too? Then that must be what was replaced.
local function is_used_elsewhere(walk, update)
    local given = {}
    for node in pairs(update.given) do given[node.var] = (given[node.var] or 0) + 1 end
    for var, count in pairs(given) do
        if (walk.uses[var] or 0) > count then return true end
    end
    return false
end

local function reached(inst, list, seen)
    if seen[inst] then return list end
    seen[inst] = true
    local callees = {}
    for _, made in pairs(inst.calls) do
        if made.callee then callees[made.callee] = true end
    end
    for _, each in ipairs(inst.program.instances) do
        if callees[each] then reached(each, list, seen) end
    end
    list[#list + 1] = inst
    return list
end

---Finds the updates of a program that are not known to be atomic: program.watch, as
---infer/retries.lua makes it; nil when there is none.
---@param program table
---@param distinct "range"|"grid"|nil of the inputs the first one differs each time, or all together do
function dependences.find(program, distinct)
    local walk = {
        program = program, instances = reached(program.root, {}, {}), written = {}, overlaps = {}, loops = {},
        reads = {}, count = 0, stores = {}, store_count = 0, all_stores = {}, -- by nodes and arrays, and how many there are
        of_var = {}, results = {}, control = {}, -- sets of reads, by locals and by functions
        uses = {}, counted = {}, -- how often locals are named
    }
    for _, entry in ipairs(program.captures) do
        if entry.is_written and arrays.array_type(entry.static.value) then walk.written[#walk.written + 1] = entry end
    end
    if #walk.written == 0 then return end
    repeat
        walk.changed = false
        walk_all(walk)
    until not walk.changed
    if walk.count == 0 then return end
    walk.is_counting = true
    walk_all(walk)
    local function stores_of(entry)
        local list = {}
        for _, store in ipairs(walk.all_stores) do
            if overlap(walk, store.entry, entry) then list[#list + 1] = store end
        end
        return list
    end
    local apart, numbers, watched = {}, {}, {}
    if distinct then apart, numbers = own.find(walk, distinct, stores_of) end
    for _, store in ipairs(walk.all_stores) do
        local update = store.inst.updates[store.target]
        local reads = reads_of(walk, store, { store.value, store.control }, update and reads_in_update(walk, store, update) or {})
        -- Then no count is lost, whatever else is in the value.
        store.is_atomic = update and #reads_of(walk, store, { store.control }, {}) == 0
        if update and #reads == 0 and is_used_elsewhere(walk, update) then
            store.is_atomic = false
            reads = nil
        end
        -- of an assignment that is watched, what it would replace by itself is, too
        if not reads or #reads > 0 then reads = reads_of(walk, store, { store.value, store.control }, {}) end
        if #reads > 0 and not store.node.ctype then
            if apart[store.entry] then
                program.uses_distinct = true
                for key, static in pairs(numbers) do program.baked[key] = static end
            else
                store.reads = reads
                watched[#watched + 1] = store
            end
        end
    end
    if #watched == 0 then return end
    table.sort(watched, function(a, b) return a.number < b.number end)
    -- What is written to the same place, whatever was read, may be written again.
    local function is_repeatable(target, watched_entry)
        local stores = walk.stores[target]
        for _, store in pairs(stores or {}) do
            local is_one = not store.reads and not store.inst.updates[target] and not store.node.ctype and next(store.key) == nil
                and next(store.control) == nil and not overlap(walk, store.entry, watched_entry)
            if not is_one then return false end
        end
        return stores ~= nil
    end
    local entries = { read = entry_of, written = entry_written }
    local plan = retries.plan(program, walk.instances, watched, is_repeatable, entries)
    local kept = {}
    for _, store in ipairs(watched) do
        if not store.is_atomic or retries.has_ways(plan, store) then kept[#kept + 1] = store else store.reads = nil end
    end
    if #kept == 0 then return end
    if program.lanes > 1 then error({ is_scalar = true }, 0) end
    for _, store in ipairs(kept) do
        for _, inst in ipairs(walk.instances) do
            if inst.updates[store.target] and entry_written(inst, store.target) == store.entry then inst.updates[store.target] = nil end
        end
    end
    if #kept < #watched then plan = retries.plan(program, walk.instances, kept, is_repeatable, entries) end
    retries.mark(plan)
    program.watch = plan
end

return dependences
