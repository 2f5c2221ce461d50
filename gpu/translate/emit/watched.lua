-- watched.lua: writes reads and assignments of elements of which a program remembers what it has
-- read, so that no other work item comes between (infer/dependences.lua). In the scalar form only.
--
-- lua_reads has, for each place where such an element is read, the address and what was there, of
-- the last time; the address is 0 before that, and where it was found that it had changed. And when
-- that was: reads are counted.

local emitter = require "tidepool.translate.emit.emitter"

local Emitter, C_ELEMENT, bare = emitter.Emitter, emitter.C_ELEMENT, emitter.bare

local watched = {}

-- A status below 0 is a pair of places times this, and the number of a failure.
local CODES = 256
watched.CODES = CODES

-- The elements' bits, which tell 0 from -0, and are the same for NaN.
local BITS = { double = "as_long(%s)", float = "as_int(%s)" }

local function same(ctype, a, b)
    local bits = BITS[ctype] or "%s"
    return ("%s == %s"):format(bits:format(a), bits:format(b))
end

---The type of what is remembered.
---@param watch table of infer/retries.lua
---@return string
function watched.declaration(watch)
    local fields = {}
    for _, read in ipairs(watch.all) do
        fields[#fields + 1] = ("    size_t at_%d; ulong when_%d; %s was_%d; // %s, line %d"):format(read.number, read.number,
            C_ELEMENT[read.entry.ctype], read.number, (read.entry.static.path:gsub("[^%w_.]", " ")), read.line)
    end
    return ("typedef struct {\n    ulong count, oldest;\n%s\n} lua_reads;\n"):format(table.concat(fields, "\n"))
end

-- Reads an element; gives the text of its value. `condition`: when it is that element that is read.
function Emitter:read_watched(node, entry, element, condition)
    local reads = self.watch and self.watch.reads[node]
    local read = reads and reads[entry]
    if not read then return element end
    local was = self:temp "w"
    self:line("%s %s = %s;", C_ELEMENT[entry.ctype], was, element)
    local at = ("(size_t)&%s"):format(element)
    self:line("reads->at_%d = %s; reads->was_%d = %s; reads->when_%d = reads->count++;", read.number,
        condition and ("%s ? %s : 0"):format(condition, at) or at, read.number, was, read.number)
    return was
end

-- Remembers what the function itself has written to an element. `had`: what it was before, where
-- others may have come between.
function Emitter:note_written(ctype, element, new, had)
    for _, read in ipairs(self.watch.all) do
        if read.entry.ctype == ctype then
            self:line("if (reads->at_%d == (size_t)&%s%s) reads->was_%d = %s;", read.number, element,
                had and " && " .. same(ctype, ("reads->was_%d"):format(read.number), had) or "", read.number, new)
        end
    end
end

-- Where to go on in this function when read i of an assignment has changed.
local function start_of(self, store, i)
    return self.watch.goes[store.target] and self.watch.goes[store.target][store.numbers[i]]
end

-- Goes on from where an element was read that has changed, or fails.
local function go_on(self, store, i)
    local start = start_of(self, store, i)
    if start then return self:line("goto again_%d;", start.number) end
    self:line("*status = -%d;", store.numbers[i] * CODES + store.codes[i])
    self:leave()
end

-- Assigns to an element, unless it was read by what is assigned and has changed since.
function Emitter:store_watched(target, entry, element, value)
    local store, c_type = (self.watch.stores[target] or {})[entry], C_ELEMENT[entry.ctype]
    local new = self:temp "w"
    self:line("%s %s = %s;", c_type, new, bare(value))
    if not store then
        self:line("%s = %s;", element, new)
        return self:note_written(entry.ctype, element, new)
    end
    local was, is_held, is_done, at = self:temp "w", self:temp "b", self:temp "b", self:temp "p"
    self.unit:helper("lua_swap_" .. c_type, 1)
    self:line("size_t %s = (size_t)&%s;", at, element)
    self:line("%s %s = 0;", c_type, was)
    self:line("bool %s = false, %s = true;", is_held, is_done)
    for _, read in ipairs(store.reads) do
        local known = ("reads->was_%d"):format(read.number)
        self:open("if (reads->at_%d == %s) {", read.number, at)
        self:line("if (%s && !(%s)) %s = false;", is_held, same(entry.ctype, was, known), is_done)
        self:line("%s = %s;", was, known)
        self:line("%s = true;", is_held)
        self:close()
    end
    self:open("if (!%s) {", is_held)
    self:line("%s = %s;", element, new)
    self:close(("} else if (%s) {"):format(is_done))
    self.indent = self.indent + 1
    self:line("%s = lua_swap_%s(&%s, &%s, %s);", is_done, c_type, element, was, new)
    self:close()
    self:open("if (!%s) {", is_done)
    local first = self:temp "n"
    self:line("int %s = 0;", first)
    -- from the oldest one, since those behind are read again then; not from one of an earlier round
    -- of a loop, which would not be
    for i, read in ipairs(store.reads) do
        local start = start_of(self, store, i)
        self:open("if (reads->at_%d == %s) {", read.number, at)
        self:line("if (%s(!%s || reads->when_%d < reads->oldest)) {", start and ("reads->when_%d >= %s && "):format(read.number, start.since) or "",
            first, read.number)
        self:line("    %s = %d;", first, i)
        self:line("    reads->oldest = reads->when_%d;", read.number)
        self:line("}")
        self:line("reads->at_%d = 0;", read.number)
        self:close()
    end
    self:open("if (!%s) {", first)
    self:line("*status = %d;", store.codes[1])
    self:leave()
    self:close()
    for i in ipairs(store.reads) do
        self:open("if (%s == %d) {", first, i)
        go_on(self, store, i)
        self:close()
    end
    self:close()
    self:note_written(entry.ctype, element, new)
end

-- Goes on from where an element was read that has changed before the function that was called here
-- would have written it.
function Emitter:go_on_from_call(node)
    local goes, numbers = self.watch.goes[node] or {}, {}
    for number in pairs(goes) do numbers[#numbers + 1] = number end
    table.sort(numbers)
    for _, number in ipairs(numbers) do
        self:open("if (*status < 0 && -*status / %d == %d && reads->oldest >= %s) {", CODES, number, goes[number].since)
        self:line("*status = 0;")
        self:line("goto again_%d;", goes[number].number)
        self:close()
    end
end

-- Writes a place to go on from, with the locals that are assigned to behind it as they were, and
-- the random numbers. `start`: of infer/retries.lua; nil for none.
function Emitter:begin_again(start)
    if not start then return end
    if not start.number then -- in the order of the text, which is the same each time
        self.unit.starts = self.unit.starts + 1
        start.number = self.unit.starts
    end
    local vars = {}
    for var in pairs(start.vars) do
        local known = self.inst.vars[var]
        if known and known.kind and not known.static and self.names[var] then vars[#vars + 1] = var end
    end
    table.sort(vars, function(a, b) return self.names[a] < self.names[b] end)
    local kept = {}
    for i, var in ipairs(vars) do
        kept[i] = self:temp "o"
        self:line("%s %s = %s;", self:type(self.inst.vars[var].kind, false), kept[i], self.names[var])
    end
    local draws = self.inst.draws and self:temp "d"
    if draws then self:line("const ulong %s[2] = { draws[0], draws[1] };", draws) end
    start.since = self:temp "c"
    self:line("const ulong %s = reads->count;", start.since)
    self:line("again_%d:;", start.number)
    if draws then self:line("draws[0] = %s[0]; draws[1] = %s[1];", draws, draws) end
    for i, var in ipairs(vars) do self:line("%s = %s;", self.names[var], kept[i]) end
end

return watched
