-- retries.lua: where a function goes on when an element that it is about to write has changed since
-- it was read (dependences.lua): from the statement that has read it, if nothing between both would
-- be wrong when it is done once more. Else the input fails.
--
-- Both may be in different functions. Then it is the function that has calls of both, or one of
-- both and a call of the other one, that goes on; those in between return with a status below 0,
-- which has the number of this pair of places and that of the failure.

local trees = require "tidepool.translate.trees"

local retries = {}

local LOOPS = { While = true, Repeat = true, Fornum = true }

-- ---- where a function has what ----

-- Adds the statements of a list, with those that stand before a label of it as the others.
local function flatten(list, into)
    for _, node in ipairs(list) do
        if node.tag == "Region" then flatten(node.body, into) else into[#into + 1] = node end
    end
    return into
end

-- Where the parts of a function are: by nodes of expressions, and of elements that are written, the
-- way down to their statement, a list of { list =, at =, node = }.
local function places_of(inst)
    local places, lists = {}, {}
    local function flat(body)
        lists[body] = lists[body] or flatten(body, {})
        return lists[body]
    end
    local function note(node, way)
        trees.each_node(node, function(each) places[each] = places[each] or way end)
    end
    local function block(body, way)
        local list = flat(body)
        for at, node in ipairs(list) do
            local here = { unpack(way) }
            here[#here + 1] = { list = list, at = at, node = node }
            local assign = inst.assigns[node]
            if assign then
                places[assign.targets[1]] = here
                note(assign.targets[1], here)
                for _, each in ipairs(assign.exprs) do note(each, here) end
            elseif node.body or node.clauses then
                local cond = here
                if node.tag == "While" then -- it is looked at each time, before the body
                    cond = { unpack(here) }
                    cond[#cond + 1] = { list = flat(node.body), at = 0, node = node }
                end
                for _, each in ipairs { node.cond or false, node.start or false, node.limit or false, node.step or false } do
                    if each then note(each, cond) end
                end
                for _, clause in ipairs(node.clauses or {}) do
                    note(clause.cond, here)
                    block(clause.body, here)
                end
                if node.body then block(node.body, here) end
                if node.orelse then block(node.orelse, here) end
            elseif node.tag ~= "LocalFunction" then
                note(node, here)
            end
        end
    end
    block(inst.def.body, {})
    return places
end

-- ---- what may not be done again ----

local changes

-- Does a call do what would be wrong if it were done once more? Random numbers are drawn again.
local function call_changes(inst, node)
    local made = inst.calls[node]
    if not made then return false end
    for _, input in ipairs(made.inputs or {}) do
        if input.ref then return true end
    end
    return made.callee ~= nil and changes(made.callee)
end

function changes(inst)
    if inst.has_refs or next(inst.stores) then return true end
    for _, made in pairs(inst.calls) do
        if made.callee and changes(made.callee) then return true end
    end
    return false
end

-- Has a part of a function, but for `but`, such a call or assignment? `may`: { own = the locals and
-- rooms that are declared there, and so are filled again; assign(target): may this element be
-- assigned to again? }
local function has_effect(inst, tree, may, but)
    local found = false
    trees.each_node(tree, function(node)
        if node == but or found then return true end
        local last = node[#node]
        if type(last) == "table" and last.tag == "Return" then return true end -- nobody comes here from there
        local assign = inst.assigns[node] or node.tag == "Assign" and node.targets[1].tag == "Index" and node
        found = assign and not may.assign(assign.targets[1]) or node.tag == "Call" and call_changes(inst, node)
            or node.tag == "Put" and not may.own[node.var]
        return node.tag == "LocalFunction" or node.tag == "Function"
    end)
    return found
end

-- Is something done on the way from the beginning of list[from] to the place at the end of `way`,
-- whose statement is below list[to], number `depth` of the way? `site`: the call, or the element.
local function has_effect_before(inst, way, depth, from, site, may)
    local list, to = way[depth].list, way[depth].at
    for i = math.max(from, 1), to - 1 do
        if has_effect(inst, list[i], may) then return true end
    end
    local node = list[to]
    if depth == #way then
        local assign = inst.assigns[node] or node.tag == "Assign" and node or nil
        if assign and assign.targets[1] == site then return has_effect(inst, assign.exprs, may) or has_effect(inst, site, may) end
        if assign and assign.targets[1].tag == "Index" then
            return has_effect(inst, assign.exprs, may, site) or has_effect(inst, assign.targets, may, site)
        end
        return has_effect(inst, node.clauses and { node.clauses[1].cond } or node.body and {} or node, may, site)
    end
    if LOOPS[node.tag] then return true end
    for _, clause in ipairs(node.clauses or {}) do
        if has_effect(inst, clause.cond, may) then return true end
    end
    return has_effect_before(inst, way, depth + 1, 1, site, may)
end

-- ---- the statement to go on from ----

-- The locals that a list of statements declares.
local function declared_in(list, from, to)
    local own = {}
    for i = math.max(from, 1), to do
        trees.each_statement({ list[i] }, function(node)
            if node.var then own[node.var] = true end
            for _, var in ipairs(node.vars or {}) do own[var] = true end
        end)
    end
    return own
end

-- The other locals that it assigns to, which have to be what they were.
local function assigned_in(list, from, to, own)
    local vars = {}
    for i = math.max(from, 1), to do
        trees.each_statement({ list[i] }, function(node)
            for _, target in ipairs(node.tag == "Assign" and node.targets or {}) do
                if target.tag == "Name" and target.var and not own[target.var] then vars[target.var] = true end
            end
        end)
    end
    return vars
end

-- From where to go on, for what is read and what is written at the ends of these ways: the
-- statement, and whether it is the beginning of a loop's body; nil when that cannot be.
local function start_of(inst, read_way, way, site, may_assign)
    for depth = 1, #way do
        local read, written = read_way[depth], way[depth]
        if not read or read.list ~= written.list then return nil end
        local is_last = read.at ~= written.at or not way[depth + 1] or not read_way[depth + 1] or read_way[depth + 1].list ~= way[depth + 1].list
        if is_last then
            if read.at > written.at then return nil end
            local own = declared_in(written.list, read.at, written.at)
            if has_effect_before(inst, way, depth, read.at, site, { own = own, assign = may_assign }) then return nil end
            return read.at == 0 and read.node or written.list[read.at], read.at == 0, assigned_in(written.list, read.at, written.at, own)
        end
    end
end

-- ---- the plan ----

-- Is an element of that array read there in this function?
local function reads_itself(plan, inst, read)
    return plan.places[inst][read.node] ~= nil and plan.entries.read(inst, read.node) == read.entry
end

-- Is it read in a function, or in one that it calls?
local function has_within(plan, inst, read, seen)
    if reads_itself(plan, inst, read) then return true end
    seen = seen or {}
    if seen[inst] then return false end
    seen[inst] = true
    for _, made in pairs(inst.calls) do
        if made.callee and plan.places[made.callee] and has_within(plan, made.callee, read, seen) then return true end
    end
    return false
end

-- How far down two ways are the same, and which statement of that list the first one goes on in.
local function parting(a, b)
    for depth = 1, #a do
        if not b[depth] or a[depth].list ~= b[depth].list then return depth - 1, math.huge end
        if a[depth].at ~= b[depth].at then return depth, a[depth].at end
    end
    return #a, a[#a].at
end

-- The way to the first place in a function where an element is read, by itself or by a call, as
-- seen from the way to `site`; not that call, if the element is written in it, too.
local function way_to_read(plan, inst, read, site)
    local places = plan.places[inst]
    if reads_itself(plan, inst, read) then return places[read.node] end
    local first, first_depth, first_at
    for node, made in pairs(inst.calls) do
        local way = node ~= site and made.callee and places[node]
        if way and has_within(plan, made.callee, read) then
            local depth, at = parting(way, places[site])
            if not first or depth < first_depth or depth == first_depth and at < first_at then first, first_depth, first_at = way, depth, at end
        end
    end
    return first
end

-- Says for one function where it goes on when the element has changed, that it writes at `site`, or
-- in a function that it calls there; else for those that call it.
local function settle(plan, inst, site, read, number, may_assign, seen)
    seen[inst] = seen[inst] or {}
    if seen[inst][site] or inst.recursion_level > 0 then return end
    seen[inst][site] = true
    local way = plan.places[inst][site]
    local from = way_to_read(plan, inst, read, site)
    if from then
        local node, is_inner, vars = start_of(inst, from, way, site, may_assign)
        if not node then return end
        local starts = is_inner and plan.inner_starts or plan.starts
        starts[node] = starts[node] or { vars = {} }
        for var in pairs(vars) do starts[node].vars[var] = true end
        plan.goes[site] = plan.goes[site] or {}
        plan.goes[site][number] = starts[node]
        return
    end
    -- what was done before in this function would be done again, and that is not known of deeper
    -- levels of it
    if plan.calls_itself[inst.def] then return end
    for depth = 1, #way - 1 do
        if LOOPS[way[depth].node.tag] then return end
    end
    local may = { own = declared_in(inst.def.body, 1, #inst.def.body), assign = may_assign }
    if has_effect_before(inst, way, 1, 1, site, may) then return end
    for _, caller in ipairs(plan.instances) do
        for node, made in pairs(caller.calls) do
            if made.callee == inst and plan.places[caller][node] then
                settle(plan, caller, node, read, number, may_assign, seen)
            end
        end
    end
end

local function failure_of(store, read)
    local path = store.entry.static.path
    local where = read.line == store.line and "reads" or ("reads in line %d"):format(read.line)
    return store.inst:failure("message", store.node, ("%s:%d: another input changed the element of '%s' that this %s, before it was written here; "
        .. "update it in one statement, a[k] = a[k] + v, or by %s:add(k, v)"):format((store.node.source or store.inst.fn.source).file, store.line,
        path, where, path))
end

---Can a function go on, and no input fail, whatever an assignment of the plan has read?
---@param store table one of those that the plan was made of
function retries.has_ways(plan, store)
    for _, number in ipairs(store.numbers) do
        local found = false
        for _, goes in pairs(plan.goes) do found = found or goes[number] ~= nil end
        if not found then return false end
    end
    return true
end

---What becomes of a program's watched assignments.
---@param program table
---@param instances table[] those that are run
---@param stores table[] of dependences.lua, with their reads
---@param is_repeatable fun(target: table, entry: table): boolean may it be written again, where one of that array is watched?
---@param entries table read and written: the captured array of a node, in an instance
---@return table
function retries.plan(program, instances, stores, is_repeatable, entries)
    local plan = {
        program = program, instances = instances, entries = entries, places = {}, -- by instances
        calls_itself = {}, -- definitions of functions
        reads = {}, stores = {}, -- by nodes, and arrays
        all = {}, -- the reads
        starts = {}, inner_starts = {}, -- by statements, and those before the bodies of loops
        goes = {}, conflicts = 0, -- starts by the place where an element is written, and the pair; how many pairs there are
    }
    for _, inst in ipairs(instances) do
        plan.places[inst] = places_of(inst)
        if inst.recursion_level > 0 then plan.calls_itself[inst.def] = true end
    end
    local seen = {}
    for _, store in ipairs(stores) do
        store.codes, store.numbers = {}, {}
        local function may_assign(target) return is_repeatable(target, store.entry) end
        plan.stores[store.target] = plan.stores[store.target] or {}
        plan.stores[store.target][store.entry] = store
        for i, read in ipairs(store.reads) do
            store.codes[i], plan.conflicts = failure_of(store, read), plan.conflicts + 1
            store.numbers[i] = plan.conflicts
            if not seen[read] then
                seen[read], plan.reads[read.node] = true, plan.reads[read.node] or {}
                plan.reads[read.node][read.entry] = read
                plan.all[#plan.all + 1] = read
            end
            for _, inst in ipairs(instances) do
                if plan.places[inst][store.target] and entries.written(inst, store.target) == store.entry then
                    settle(plan, inst, store.target, read, plan.conflicts, may_assign, {})
                end
            end
        end
    end
    table.sort(plan.all, function(a, b) return a.number < b.number end)
    return plan
end

---Notes in the functions that are run which of them read or write elements of the plan, or have
---such a call.
function retries.mark(plan)
    for _, inst in ipairs(plan.instances) do -- callees first
        inst.watches = next(inst.stores) ~= nil
        for _, read in ipairs(plan.all) do inst.watches = inst.watches or plan.places[inst][read.node] ~= nil end
        for _, made in pairs(inst.calls) do inst.watches = inst.watches or made.callee ~= nil and made.callee.watches or false end
    end
end

return retries
