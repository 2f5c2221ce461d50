-- statements.lua: writes statements, and blocks of them.

local infer = require "tidepool.translate.infer"
local elements = require "tidepool.translate.emit.elements"
local emitter = require "tidepool.translate.emit.emitter"
local expressions = require "tidepool.translate.emit.expressions"
local runs = require "tidepool.translate.emit.runs"

local Emitter, C_ELEMENT, literal, bare = emitter.Emitter, emitter.C_ELEMENT, emitter.literal, emitter.bare
local places_of_lanes, place_of, shared_access = elements.places_of_lanes, elements.place_of, elements.shared_access
local compare = expressions.compare

local wide = require "tidepool.translate.wide"

local statement = {}

-- Does any statement from `from` on contain a loop or call, which may run without end when no lane
-- is on?
local function has_more_work(list, from)
    local function works(node)
        if type(node) ~= "table" then return false end
        local tag = node.tag
        if tag == "While" or tag == "Repeat" or tag == "Fornum" or tag == "Call" then return true end
        for key, child in pairs(node) do
            if key ~= "var" and key ~= "vars" and key ~= "static" and key ~= "source" and type(child) == "table" and works(child) then return true end
        end
        return false
    end
    for i = from, #list do
        if list[i].tag ~= "LocalFunction" and works(list[i]) then return true end
    end
    return false
end

-- Writes a block. Gives whether control cannot leave it at its end. When a statement may have ended
-- all lanes, what follows is left out or put under a condition: a scalar loop in it might run
-- without end, since no lane is left that would end it.
function Emitter:block(list)
    local opened, ended = 0, false
    local region = self.regions[#self.regions]
    for i, node in ipairs(list) do
        local here = self:here()
        local kills = here.kills
        self:mark(node)
        self:begin_again(self.watch and self.watch.starts[node])
        statement[node.tag](self, node)
        if self.inst.ends[node] then
            ended = true
            break
        end
        if here.kills > kills and has_more_work(list, i + 1) then
            if #self.chain == 1 then
                self:line("if (!any(%s)) {", here.name)
                self.indent = self.indent + 1
                self:leave()
                self:close()
            elseif here.loop and here.loop == self.loops[#self.loops] then
                self:line("if (!any(%s)) break;", here.name)
            -- without braces, so that locals can be seen behind the label
            elseif region and region.index == #self.chain then
                self:line("if (!any(%s)) goto %s;", here.name, self:label(region))
            else
                self:open("if (any(%s)) {", here.name)
                opened = opened + 1
            end
        end
    end
    for _ = 1, opened do self:close() end
    return ended
end

function Emitter:label(region)
    region.label = region.label or self:temp "label_"
    return region.label
end

-- A local that is declared directly before a label can be seen behind it, also by lanes that jumped
-- there: so it belongs to the mask around the region.
function Emitter:declare(var)
    local region = self.regions[#self.regions]
    self.levels[var] = region and region.index == #self.chain and region.outer or #self.chain
    return self:name(var)
end

-- A local of the caller, which is a pointer here; gives the declaration of the parameter.
function Emitter:declare_reference(var)
    local known, name = self.inst.vars[var], self:name(var)
    self.levels[var] = 0 -- all lanes that the function is not run for keep what they have
    if not known.room then self.names[var] = ("(*%s)"):format(name) end
    return ("%s *%s"):format(self:type(known.kind, known.varies), name)
end

-- The pointer to a local, as a call passes it.
function Emitter:address(var)
    local known, name = self.inst.vars[var], self.names[var]
    if not name or not known.kind then return "0" end -- nothing is ever stored there
    if known.room then return name end
    return name:match "^%(%*(.*)%)$" or "&" .. name
end

function statement.Local(self, node)
    local given, at = self:values(self.inst.lists[node]), 0
    for _, var in ipairs(node.vars) do
        local known = self.inst.vars[var]
        if not known.static then
            at = at + 1
            local value = given[at]
            if known.kind == "long" and value and value.range and not known.varies and not var.assigned then
                local name = self:declare(var)
                self:line("int %s = %s;", name, bare(value.c))
                self.ranges[var] = { c = name, unpack(value.range) }
            elseif known.kind then
                local c = "0"
                if value and value.kind ~= "nil" then c = bare(self:as(value, known.kind, known.varies)) end
                self:line("%s %s = %s;", self:type(known.kind, known.varies), self:declare(var), c)
                if known.varies and value and value.run then runs.keep(self, var, value.run) end
            end
        end
    end
end

function statement.LocalFunction() end

-- Reads an element, and tries to replace it by what `evaluate` makes of it until no other work item
-- has changed it in between. `at`: the element's text; `update`: as infer/updates.lua has it.
local function try_until_done(self, at, update, ctype, evaluate)
    local was, c_type = self:temp "w", C_ELEMENT[ctype]
    local is_int = ({ int32 = true, int16 = true, int8 = true, uint16 = true, uint8 = true })[ctype]
    local kind = is_int and "int" or wide.KINDS[ctype] and ctype or "num"
    self:line("%s %s = %s;", c_type, was, at)
    local draws = self.inst.draws and not self.inst.simd and self:temp "d"
    if draws then self:line("const ulong %s[2] = { draws[0], draws[1] };", draws) end
    self:open("for (;;) {")
    if draws then self:line("draws[0] = %s[0]; draws[1] = %s[1];", draws, draws) end -- draws what it drew before, when it tries again
    local replaced = setmetatable({}, { __index = self.replaced })
    for node, given in pairs(update.given) do replaced[node] = { given = given } end
    for node in pairs(update.reads) do replaced[node] = { c = ("(%s)%s"):format(self:type(kind, false), was), kind = kind, varies = false } end
    local outer = self.replaced
    self.replaced = replaced
    local value = evaluate()
    self.replaced = outer
    local c = self.unit:stored(self:as(value, value.kind, false), value.kind == "k" and "num" or value.kind, ctype, 1)
    self.unit:helper("lua_swap_" .. c_type, 1)
    if not self.inst.watches then
        self:line("if (lua_swap_%s(&%s, &%s, %s)) break;", c_type, at, was, bare(c))
    else
        local had, new = self:temp "w", self:temp "w"
        self:line("%s %s = %s, %s = %s;", c_type, had, was, new, bare(c))
        self:open("if (lua_swap_%s(&%s, &%s, %s)) {", c_type, at, was, new)
        self:note_written(ctype, at, new, had)
        self:line("break;")
        self:close()
    end
    self:close()
end

-- Writes an update whose other operands can be evaluated before it: as a function of its own, which
-- is called with them for each lane.
local function simple_update(self, node, target, update, entry, array, length)
    local parameters, parts, replaced = {}, {}, {}
    local function hold(value)
        value = self:hold(value)
        if value.literal then return value end
        parts[#parts + 1] = value
        parameters[#parts] = ("%s v%d"):format(self:type(value.kind, false), #parts)
        return { c = "v" .. #parts, kind = value.kind, varies = false }
    end
    local function visit(part)
        if update.reads[part] or part.tag == "Number" then return end
        if not update.path[part] then
            local all = self:values { part }
            for i, value in ipairs(all) do all[i] = hold(value) end
            replaced[part] = setmetatable({ all = all }, { __index = all[1] })
            return
        end
        for _, child in ipairs(part.tag == "Call" and part.args or { update.given[part] or part.left or part.expr, part.right }) do visit(child) end
    end
    visit(node.exprs[1])
    local indent, outer = self.indent, self.replaced
    self.indent, self.replaced = 1, setmetatable(replaced, { __index = outer })
    local _, lines = self:aside(function()
        try_until_done(self, "*p", update, entry.ctype, function() return self:expr(node.exprs[1]) end)
    end)
    self.indent, self.replaced = indent, outer
    local name = self.unit:function_name("lua_update")
    table.insert(parameters, 1, ("__global %s *p"):format(C_ELEMENT[entry.ctype]))
    if self.inst.watches then parameters[#parameters + 1] = "lua_reads *reads" end
    table.insert(self.unit.functions, ("// %s, %s:%d\nstatic void %s(%s)\n{\n%s\n}\n"):format("an update", self.inst.fn.source.file, node.line, name,
        table.concat(parameters, ", "), table.concat(lines, "\n")))
    local function call(place, lane)
        local args = { ("&%s[%s]"):format(array, place) }
        for i, part in ipairs(parts) do args[i + 1] = part.c .. (part.varies and lane or "") end
        if self.inst.watches then args[#args + 1] = "reads" end
        return ("%s(%s);"):format(name, table.concat(args, ", "))
    end
    local index = self:expr(target.key)
    if not self.inst.simd then
        self:line("%s", call(place_of(self, target, index, length), ""))
        return
    end
    local at = places_of_lanes(self, target, { c = self:as(index, "num", true), kind = "num", varies = true }, length)
    local mask = self:mask()
    for k = 0, self.lanes - 1 do
        local lane = (".s%x"):format(k)
        self:line("%s%s", mask and ("if (%s%s) "):format(mask, lane) or "", call(at .. lane, lane))
    end
end

local function update_element(self, node, update)
    local target = node.targets[1]
    local entry = self.inst.captured["array" .. infer.static_of(self.inst, target.object).key]
    local array, length = self.unit:capture_name(entry)
    if update.is_simple then return simple_update(self, node, target, update, entry, array, length) end
    local place = place_of(self, target, self:expr(target.key), length)
    try_until_done(self, ("%s[%s]"):format(array, place), update, entry.ctype, function() return self:expr(node.exprs[1]) end)
end

local function store_element(self, node, value)
    local entry = self.inst.captured["array" .. infer.static_of(self.inst, node.object).key]
    local array, length = self.unit:capture_name(entry)
    if value.kind == "k" then value = { c = self:as(value, "num", false), kind = "num", varies = false } end
    value = self:hold(value)
    local index = self:expr(node.key)
    if not self.inst.simd then
        local at = place_of(self, node, index, length)
        local c = self.unit:stored(value.c, value.kind, entry.ctype, 1)
        if self.inst.watches then return self:store_watched(node, entry, ("%s[%s]"):format(array, at), c) end
        self:line("%s[%s] = %s;", array, at, c)
        return
    end
    index = { c = self:as(index, "num", true), kind = "num", varies = true }
    if self.unit:is_shared(entry, true) then
        local c = self.unit:stored(self:as(value, value.kind, true), value.kind, entry.ctype, self.lanes)
        local call, bad = shared_access(self, node, entry, index, c)
        self:line("%s;", call)
        self:kill(bad, 1, #self.chain)
        return
    end
    -- One lane after the other, so that the last one's value stays, as in Lua.
    local at, t = places_of_lanes(self, node, index, length), self:temp "t"
    local mask = self:mask()
    self:line("%s%d %s = %s;", C_ELEMENT[entry.ctype], self.lanes, t,
        self.unit:stored(self:as(value, value.kind, true), value.kind, entry.ctype, self.lanes))
    for k = 0, self.lanes - 1 do
        self:line("%s%s[%s.s%x] = %s.s%x;", mask and ("if (%s.s%x) "):format(mask, k) or "", array, at, k, t, k)
    end
end

function statement.Assign(self, node)
    local update = self.inst.updates[node.targets[1]]
    if update then return update_element(self, node, update) end
    local given = self:values(node.exprs)
    if node.targets[1].tag == "Index" then return store_element(self, node.targets[1], given[1]) end
    local texts = {}
    for i, target in ipairs(node.targets) do
        local known = self.inst.vars[target.var]
        if given[i] and given[i].kind ~= "nil" then texts[i] = self:as(given[i], known.kind, known.varies) end
        if texts[i] and #node.targets > 1 then
            local t = self:temp "t"
            self:line("%s %s = %s;", self:type(known.kind, known.varies), t, bare(texts[i]))
            texts[i] = t
        end
    end
    for i, target in ipairs(node.targets) do
        local var = target.var
        local known, name = self.inst.vars[var], self.names[var]
        if not texts[i] then -- luacheck: ignore 542
            -- the local is nil from here on, and not read
        elseif known.varies and #self.chain > self.levels[var] then
            self:line("%s = select(%s, %s, %s);", name, name, bare(texts[i]),
                self:mask_for(known.kind == "k" and "num" or known.kind, self:mask()))
        else
            self:line("%s = %s;", name, bare(texts[i]))
        end
    end
end

function statement.Room(self, node)
    local known = self.inst.vars[node.var]
    if not known.kind then return end
    self:line("%s %s[%d] = { 0 };", self:type(known.kind, known.varies), self:declare(node.var), node.size)
end

function statement.Put(self, node)
    local known, name = self.inst.vars[node.var], self.names[node.var]
    if not known.kind then return end -- of a list that stays empty
    local value = self:expr(node.value)
    local index = self:expr(node.index)
    local c = self:as(value, known.kind, known.varies)
    local mask = self:mask()
    if not index.varies then
        local cell = ("%s[%s]"):format(name, self:room_place(index, known.room))
        if mask and self.inst.simd then c = ("select(%s, %s, %s)"):format(cell, bare(c), self:mask_for(known.kind, mask)) end
        self:line("%s = %s;", cell, bare(c))
        return
    end
    local at, t = self:room_places(index, known.room), self:temp "t"
    self:line("%s %s = %s;", self:type(known.kind, true), t, bare(c))
    for k = 0, self.lanes - 1 do
        self:line("%s((%s *)%s)[%s.s%x * %d + %d] = %s.s%x;", mask and ("if (%s.s%x) "):format(mask, k) or "", self:lane_type(known.kind), name,
            at, k,
            self.lanes, k, t, k)
    end
end

function statement.CallStat(self, node)
    local assign = self.inst.assigns[node]
    if assign then return statement.Assign(self, assign) end
    self:call(node.call)
end

function statement.Do(self, node)
    self:open("{")
    self:block(node.body)
    self:close()
end

-- Writes the body of a clause whose condition is the same in all lanes.
local function branch(self, body)
    local here = self:here()
    here.branches = here.branches + 1
    self:block(body)
    here.branches = here.branches - 1
end

-- Writes the clauses from `first` on. `is_else`: they follow a clause whose "}" is not written yet.
local function clauses(self, node, first, is_else)
    local clause = node.clauses[first]
    local truth = clause and infer.truth_of(self.inst, clause.cond)
    if truth == false then return clauses(self, node, first + 1, is_else) end
    if is_else then
        -- "else if" where the condition needs no statements before it.
        if clause and truth == nil and not self.inst.varies[clause] then
            local cond, lines = self:aside(function() return self:condition(clause.cond) end)
            if #lines == 0 then
                self:close(("} else if (%s) {"):format(bare(cond.c)))
                self.indent = self.indent + 1
                branch(self, clause.body)
                return clauses(self, node, first + 1, true)
            end
        end
        if clause or node.orelse then
            self:close "} else {"
            self.indent = self.indent + 1
            clauses(self, node, first, false)
        end
        self:close()
        return
    end
    if not clause or truth then
        local body = clause and clause.body or node.orelse
        if body then self:block(body) end
        return
    end
    local cond = self:condition(clause.cond)
    if not self.inst.varies[clause] then
        self:open("if (%s) {", bare(cond.c))
        branch(self, clause.body)
        return clauses(self, node, first + 1, true)
    end
    local entry = self:push_mask(self:masked(self:as(cond, "bool", true)))
    self:open("if (any(%s)) {", entry.name)
    self:block(clause.body)
    self:close()
    self:pop_mask()
    if node.clauses[first + 1] or node.orelse then
        local other = self:push_mask(self:masked("~" .. entry.name))
        self:open("if (any(%s)) {", other.name)
        clauses(self, node, first + 1, false)
        self:close()
        self:pop_mask()
    end
end

function statement.If(self, node)
    clauses(self, node, 1, false)
end

-- Opens a mask for a loop whose lanes leave it at different times. Gives the loop.
function Emitter:open_loop(node)
    local loop = { node = node }
    self.loops[#self.loops + 1] = loop
    if self.inst.loop_varies[node] then
        loop.index = #self.chain + 1
        loop.entry = self:push_mask(self:mask() or ("(%s)(-1)"):format(self.mask_type), loop)
    end
    return loop
end

function Emitter:close_loop(loop)
    self:close()
    if loop.entry then self:pop_mask() end
    self.loops[#self.loops] = nil
end

-- Makes lanes leave the loop where `cond` holds (`negate`: where it does not).
local function leave_loop(self, loop, cond, negate)
    if loop.entry and cond.varies then
        self:line("%s &= %s%s;", loop.entry.name, negate and "" or "~", cond.c)
    elseif cond.c ~= (negate and "1" or "0") then
        self:line("if (%s%s) break;", negate and "!" or "", negate and cond.c or bare(cond.c))
    end
    if loop.entry then self:line("if (!any(%s)) break;", loop.entry.name) end
end

statement["While"] = function(self, node)
    if infer.truth_of(self.inst, node.cond) == false then return end
    local loop = self:open_loop(node)
    self:open("for (;;) {")
    self:begin_again(self.watch and self.watch.inner_starts[node])
    leave_loop(self, loop, self:condition(node.cond), true)
    self:block(node.body)
    self:close_loop(loop)
end

statement["Repeat"] = function(self, node)
    local loop = self:open_loop(node)
    self:open("for (;;) {")
    if not self:block(node.body) then
        leave_loop(self, loop, self:condition(node.cond), false)
    elseif loop.entry then
        -- C comes here although no lane does: lanes that left an inner loop by `return` ended it
        -- with a break.
        self:line("if (!any(%s)) break;", loop.entry.name)
    end
    self:close_loop(loop)
end

local function step_of(node)
    if not node then return 1 end
    if node.tag == "Number" then return node.value end
    if node.tag == "Unop" and node.op == "-" and node.expr.tag == "Number" then return -node.expr.value end
end

-- Puts a number of a loop's head into a variable before the loop.
local function loop_number(self, value, kind, letter)
    local c = self:as(value, kind, value.varies)
    if value.literal then return { c = c, kind = kind, varies = false, literal = kind == "long" and value.literal or nil } end
    if kind == "long" and value.range then return self:hold(value) end
    local t = self:temp(letter)
    self:line("%s %s = %s;", self:type(kind, value.varies), t, bare(c))
    return { c = t, kind = kind, varies = value.varies }
end

-- The range of a counter in the loop's body, when 32 bits suffice for it; is_unsigned: when they do
-- without a sign only.
local function counter_range(self, start, limit, step)
    local from, from_most = self:range_of(start)
    local to, to_most = self:range_of(limit)
    if not from or not to or not step then return false end
    local low, high = from, to_most
    if step < 0 then low, high = to, from_most end
    if low > high then low, high = math.min(low, high), math.max(low, high) end
    local last = step > 0 and math.max(to_most, from_most) + step or math.min(to, from) + step
    local is_unsigned = last >= 2 ^ 31 and step > 0 and from >= 0 and to >= 0
    if last < -2 ^ 31 or (last >= 2 ^ 31 and not is_unsigned) then return false end
    return { low, high, is_unsigned = is_unsigned }
end

function statement.Fornum(self, node)
    local var, how = node.var, self.inst.fornum[node]
    local step = step_of(node.step)
    local kind = how.counter
    self:open("{")
    local start = self:expr(node.start)
    local low, high
    if kind == "long" and not start.range and not start.literal and not start.varies then low, high = self:bounds(node.start, node.start_range) end
    if low then start = self:int(("(int)%s"):format(start.c), low, high) end
    if kind == "long" and start.range then
        start = self:hold(start)
    elseif not start.literal then
        start = self:hold { c = self:as(start, kind, start.varies), kind = kind, varies = start.varies }
    end
    local limit = self:expr(node.limit)
    low, high = nil, nil
    if kind == "long" and not limit.varies and not limit.range and not limit.literal then low, high = self:bounds(node.limit, node.limit_range) end
    if low and limit.kind == "num" then
        limit = self:int(("%s(%s)"):format(self:need(step > 0 and "lua_small_up" or "lua_small_down", false), bare(limit.c)), low - 1, high + 1)
    elseif low then
        limit = self:int(("(int)%s"):format(limit.c), low, high)
    elseif kind == "long" and not limit.varies and limit.kind == "num" then
        limit = { c = ("%s(%s)"):format(self:need(step > 0 and "lua_last_up" or "lua_last_down", false), bare(limit.c)),
                  kind = "long", varies = false }
    end
    limit = loop_number(self, limit, (kind == "long" and not limit.varies) and "long" or "num", "n")
    local by = literal(1)
    if node.step then
        by = self:expr(node.step)
        if kind == "num" then by = loop_number(self, by, "num", "d") end
    end
    local known = self.inst.vars[var]
    local varies = how.varies
    local loop = self:open_loop(node)
    self.levels[var] = #self.chain
    local name = self:name(var)
    local counter = var.assigned and self:temp "c" or name
    local going -- whether to go on, a value
    local index = { c = counter, kind = kind, varies = varies }
    local narrow = kind == "long" and not varies and not var.assigned and counter_range(self, start, limit, step)
    if narrow then
        index.range = narrow
        -- one that may go beyond an int behind its last step is a uint
        self.ranges[var] = { c = narrow.is_unsigned and ("(int)%s"):format(counter) or counter, unpack(narrow) }
    end
    -- As LuaJIT, which looks at the sign of the step: 0 counts up, -0 down, and NaN, whose sign is
    -- usually -, down.
    if narrow and narrow.is_unsigned then
        going = { c = ("(%s <= (uint)%s)"):format(counter, self:narrow(limit)), kind = "bool", varies = false }
    elseif step then
        going = compare(self, (step > 0 or 1 / step > 0) and "<=" or ">=", index, limit)
    else
        local up, down = compare(self, "<=", index, limit), compare(self, ">=", index, limit)
        local is_up = { c = ("%s(%s)"):format(self:need("lua_is_up", by.varies), bare(self:as(by, "num", by.varies))), kind = "bool",
                        varies = by.varies }
        if is_up.varies or up.varies then
            local c = self:as(is_up, "bool", true)
            going = { c = ("((%s & %s) | (~%s & %s))"):format(c, self:as(up, "bool", true), c, self:as(down, "bool", true)),
                      kind = "bool", varies = true }
        else
            going = { c = ("(%s ? %s : %s)"):format(is_up.c, up.c, down.c), kind = "bool", varies = false }
        end
    end
    local head = going.varies and "" or bare(going.c) .. (loop.entry and (" && any(%s)"):format(loop.entry.name) or "")
    self:open("for (%s %s = %s; %s; %s += %s) {", narrow and narrow.is_unsigned and "uint" or self:type_of(index), counter,
        bare(narrow and self:narrow(start) or self:as(start, kind, varies)), head, counter,
        narrow and self:narrow(by) or self:as(by, kind, false or by.varies))
    if going.varies then leave_loop(self, loop, going, true) end
    if var.assigned then
        self:line("%s %s = %s;", self:type(known.kind, known.varies), name, self:as(index, known.kind, known.varies))
    end
    self:block(node.body)
    self:close_loop(loop)
    self:close()
end

statement["Break"] = function(self)
    local loop = self.loops[#self.loops]
    if not loop.entry or self:here() == loop.entry then
        self:line("break;")
    else
        self:kill(self:here().name, loop.index, #self.chain - 1)
        self:end_branch()
    end
end

statement["Return"] = function(self, node)
    local results = self.inst.results
    local given = self:values(node.exprs)
    local only = #node.exprs == 1 and self.inst.calls[node.exprs[1]]
    if only and only.never_returns then return end
    local direct = #self.chain == 1 and (not self.inst.simd or self:here().full)
    for i, value in ipairs(given) do
        local kind = results[i].kind
        if value.kind == "nil" then value = { c = kind == "bool" and "0", literal = kind ~= "bool" and 0, kind = kind } end -- nobody asks for it
        local c = self:as(value, kind, self.inst.simd)
        local place = i == 1 and "r1" or "*r" .. i
        if i == 1 and direct then
            given[1].text = bare(c)
        elseif direct then
            self:line("%s = %s;", place, bare(c))
        else
            if i == 1 then self.uses_result = true end
            local mask = self:mask()
            self:line("%s = %s;", place, mask and ("select(%s, %s, %s)"):format(place, bare(c), self:mask_for(kind, mask))
                or bare(c))
        end
    end
    if direct and not given[1] then
        self:leave()
    elseif direct then
        self:line("return %s;", given[1].text)
    else
        self:exit_lanes()
    end
end

-- Writes the statements before a label. Where lanes jump there at different times, these have a
-- mask of their own, from which such lanes are cleared.
function statement.Region(self, node)
    local region = { node = node, index = #self.chain, outer = #self.chain }
    local above = self.regions[#self.regions]
    if above and above.index == region.index then region.outer = above.outer end
    if self.inst.loop_varies[node] then
        region.entry = self:push_mask(self:mask() or ("(%s)(-1)"):format(self.mask_type), nil)
        region.index = #self.chain
    end
    self.regions[#self.regions + 1] = region
    self:block(node.body)
    self.regions[#self.regions] = nil
    if region.entry then self:pop_mask() end
    if region.label then self.lines[#self.lines + 1] = region.label .. ":;" end
end

function statement.Goto(self, node)
    local region
    for _, each in ipairs(self.regions) do
        if each.node.name == node.name then region = each end
    end
    if not region.entry or self:here() == region.entry then
        self:line("goto %s;", self:label(region))
        return
    end
    local here = self:here()
    self:kill(here.name, region.index, #self.chain - 1)
    if here.loop and here.loop == self.loops[#self.loops] then self:line("break;") else self:end_branch() end
end
