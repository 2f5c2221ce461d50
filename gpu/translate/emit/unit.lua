-- unit.lua: the text of a whole program: its functions, the helpers that they need, and what its
-- kernels (kernels.lua) share.

local builtins = require "tidepool.translate.builtins"
local calls = require "tidepool.translate.emit.calls"
local emitter = require "tidepool.translate.emit.emitter"
local infer = require "tidepool.translate.infer"
local wide = require "tidepool.translate.wide"
local wides = require "tidepool.translate.emit.wide"
require "tidepool.translate.emit.statements"

local Emitter, C_ELEMENT, identifier, bare = emitter.Emitter, emitter.C_ELEMENT, emitter.identifier, emitter.bare
local is_plain = calls.is_plain

require "tidepool.translate.emit.narrow"
require "tidepool.translate.emit.watched"

---@class tidepool.gpu.Unit the text of a whole program
local Unit = {}
Unit.__index = Unit

-- From so many uses on a helper of vectors is called: as many copies of it in one function take the
-- compiler longer than the calls will (bench/device_compile.lua).
local MANY_USES = 64

-- Adds a C helper to the text if it is not there yet.
function Unit:helper(name, lanes)
    local key = name .. lanes
    local known = self.helpers[key]
    if known then
        known.uses = known.uses + 1
        if known.uses == MANY_USES and lanes > 1 then
            self.prelude[known.at] = self.prelude[known.at]:gsub("^static inline ", "static __attribute__((noinline)) ")
        end
        return
    end
    known = { uses = 1 }
    self.helpers[key] = known
    local text, needs, needs_lanes = builtins.helper(name, lanes, self.single)
    if needs then self:helper(needs, needs_lanes) end
    known.at = #self.prelude + 1
    self.prelude[known.at] = text
end

-- The C name of a captured number or array, and of the array's length.
function Unit:capture_name(entry)
    local name = self.capture_names[entry]
    if not name then
        local base = (entry.kind == "array" and "array_" or "captured_") .. identifier(entry.static.path)
        name = base
        local count = 1
        while self.taken[name] do
            count = count + 1
            name = base .. "_" .. count
        end
        self.taken[name] = true
        self.capture_names[entry] = name
    end
    return name, entry.kind == "array" and "length_of_" .. name or nil
end

-- Appends the arguments that a call of the instance passes for its captures, in the order of its
-- parameters.
function Unit:pass_captures(inst, args)
    for _, entry in ipairs(inst.captures) do
        local name, length = self:capture_name(entry)
        args[#args + 1] = name
        if length then args[#args + 1] = length end
    end
end

function Unit:capture_parameters(entry, list)
    local name, length = self:capture_name(entry)
    if entry.kind == "array" then
        list[#list + 1] = ("__global %s%s *%s"):format(entry.is_written and "" or "const ", C_ELEMENT[entry.ctype], name)
        list[#list + 1] = "int " .. length
    else
        list[#list + 1] = ("%s %s"):format(entry.ctype and "ulong" or self.real, name)
    end
end

-- From so many places on that read (or write) elements of one array in all lanes, they share a
-- function. PoCL compiles 30 ms at each place that has the code itself, and 3 ms at one that calls
-- it, which costs up to twice as much time when it runs.
local MANY = 12

-- Counts the places that read and write elements in all lanes.
function Unit:count_places(inst)
    for node in pairs(inst.simd and inst.codes or {}) do
        local is_written = inst.stores[node] ~= nil
        local static, key = nil, nil
        if node.tag == "Index" then static, key = infer.source_of(inst, node) end
        if static and (is_written or inst.varies[key]) then
            local entry = inst.captured["array" .. static.key]
            local counts = self.places[is_written]
            counts[entry] = (counts[entry] or 0) + 1
        end
    end
end

function Unit:is_shared(entry, is_written)
    return (self.places[is_written][entry] or 0) >= MANY
end

-- The type of an element of this kind in a lane.
function Unit:lane_type(kind)
    return kind == "int" and "int" or wide.KINDS[kind] and "ulong" or self.real
end

-- The text that reads as many elements of the array as there are lanes, from the position `at` on;
-- or, without `is_run`, the one there, for all lanes.
function Unit:load_run(entry, kind, at, is_run)
    local array, one = self:capture_name(entry), self:lane_type(kind)
    if is_run then return ("convert_%s%d(vload%d(0, %s + %s))"):format(one, self.lanes, self.lanes, array, at) end
    return ("(%s%d)((%s)%s[%s])"):format(one, self.lanes, one, array, at)
end

-- The name of the function that reads the elements of the array at the positions of all lanes,
-- which are within its bounds. Neighbours are read at once, and so is an element that all lanes
-- want. With `is_rare` it is one for places that read them otherwise where lanes are neighbours: it
-- is called, for the compiler's sake.
function Unit:load(entry, kind, is_rare)
    local names = is_rare and self.rare_loads or self.loads
    if names[entry] then return names[entry] end
    local lanes, element = self.lanes, C_ELEMENT[entry.ctype]
    local one = self:lane_type(kind)
    local order, read = {}, {}
    for k = 0, lanes - 1 do
        order[k + 1], read[k + 1] = k, ("(%s)array[at.s%x]"):format(one, k)
    end
    local name = self:function_name("lua_load_" .. identifier(entry.static.path))
    self.functions[#self.functions + 1] = table.concat({
        ("static %s%s%d %s(__global %s%s *array, int%d at)"):format(is_rare and "__attribute__((noinline, cold)) " or "", one, lanes, name,
            entry.is_written and "" or "const ", element, lanes),
        "{",
        ("    int%d apart = at - (int%d)(at.s0);"):format(lanes, lanes),
        ("    if (all(apart == (int%d)(%s))) return convert_%s%d(vload%d(0, array + at.s0));"):format(lanes, table.concat(order, ", "), one, lanes,
            lanes),
        ("    if (all(apart == 0)) return (%s%d)((%s)array[at.s0]);"):format(one, lanes, one),
        ("    return (%s%d)(%s);"):format(one, lanes, table.concat(read, ", ")),
        "}\n",
    }, "\n")
    names[entry] = name
    return name
end

-- The name of the function that reads (or writes) elements of the array in all lanes that its mask
-- has. It leaves in the mask the lanes whose index was wrong.
function Unit:access(entry, kind, is_written)
    local names = self.accesses[is_written]
    if names[entry] then return names[entry] end
    local lanes, real = self.lanes, self.real .. self.lanes
    local element = C_ELEMENT[entry.ctype]
    local result = self:lane_type(kind) .. lanes
    local name = self:function_name(("lua_%s_%s"):format(is_written and "write" or "read", identifier(entry.static.path)))
    self:helper("lua_is_index", lanes)
    local text = {
        ("static __attribute__((noinline)) %s %s(__global %s%s *array, int length, %s i, %s%s *mask, long code, long%d *status, %s *detail)")
            :format(is_written and "void" or result, name, entry.is_written and "" or "const ", element, real,
                is_written and ("%s%d value, "):format(element, lanes) or "", self.mask_type, lanes, real),
        "{",
        ("    %s bad = *mask & ~lua_is_index%d(i, (%s)length);"):format(self.mask_type, lanes, self.real),
        "    if (any(bad)) {",
        ("        *status = select(*status, (long%d)(code), %s);"):format(lanes, self.single and ("convert_long%d(bad)"):format(lanes) or "bad"),
        "        *detail = select(*detail, i, bad);",
        "    }",
        ("    %s good = *mask & ~bad;"):format(self.mask_type),
        ("    int%d at = select((int%d)(0), convert_int%d(i - %s), %s);"):format(lanes, lanes, lanes, self.single and "1.0f" or "1.0",
            self.single and "good" or ("convert_int%d(good)"):format(lanes)),
        "    *mask = bad;",
    }
    for k = 0, is_written and lanes - 1 or -1 do text[#text + 1] = ("    if (good.s%x) array[at.s%x] = value.s%x;"):format(k, k, k) end
    if not is_written then text[#text + 1] = ("    return %s(array, at);"):format(self:load(entry, kind)) end
    text[#text + 1] = "}\n"
    self.functions[#self.functions + 1] = table.concat(text, "\n")
    names[entry] = name
    return name
end

-- A name for a function that no other one has.
function Unit:function_name(name)
    self.function_count[name] = (self.function_count[name] or 0) + 1
    return name .. "_" .. self.function_count[name]
end

-- The declaration of a variable for the numbers of a failure, and the texts of these.
function Unit:declare_details(name, c_type)
    if self.details == 1 then return ("%s %s = 0;"):format(c_type, name), { name } end
    local zeros, texts = {}, {}
    for d = 1, self.details do
        zeros[d], texts[d] = ("(%s)(0)"):format(c_type), ("%s[%d]"):format(name, d - 1)
    end
    return ("%s %s[%d] = { %s };"):format(c_type, name, self.details, table.concat(zeros, ", ")), texts
end

-- Writes one instance as a function.
function Unit:instance(inst)
    local e = setmetatable({
        unit = self, inst = inst, watch = self.program.watch, lanes = self.lanes, real = self.real, single = self.single, mask_type = self.mask_type,
        lines = {}, indent = 1, temps = 0, used = {}, names = {}, ranges = {}, levels = {}, loops = {}, regions = {},
        chain = { { name = "m0", full = true, kills = 0, branches = 0 } }, prologue = {}, measured = {}, runs = {}, firsts = {},
    }, Emitter)
    self.function_names[inst] = self:function_name("lua_" .. (inst.name and identifier(inst.name) or "main"))
    local parameters = {}
    for _, input in ipairs(inst.inputs) do
        if input.ref then
            parameters[#parameters + 1] = e:declare_reference(input.var)
        elseif not input.static then
            local known = inst.vars[input.var]
            local c_name = e:declare(input.var)
            -- A parameter whose kind the body has widened gets its own variable.
            if known.kind ~= input.kind or known.varies ~= input.varies then
                parameters[#parameters + 1] = ("%s given_%s"):format(e:type(input.kind or "num", input.varies), c_name)
                local given = { c = "given_" .. c_name, kind = input.kind or "num", varies = input.varies }
                e:line("%s %s = %s;", e:type(known.kind, known.varies), c_name, e:as(given, known.kind or "num", known.varies))
            else
                parameters[#parameters + 1] = ("%s %s"):format(e:type(known.kind or "num", known.varies), c_name)
            end
        end
    end
    for _, param in ipairs(inst.def.params) do
        if not e.names[param] and inst.vars[param].kind then
            e:line("%s %s = 0;", e:type(inst.vars[param].kind, inst.vars[param].varies), e:declare(param))
        end
    end
    for i = 2, #inst.results do parameters[#parameters + 1] = ("%s *r%d"):format(e:type(inst.results[i].kind, inst.simd), i) end
    for _, entry in ipairs(inst.captures) do self:capture_parameters(entry, parameters) end
    if inst.can_fail then parameters[#parameters + 1] = inst.simd and ("long%d *status"):format(self.lanes) or "long *status" end
    if inst.can_fail and self.details > 0 then parameters[#parameters + 1] = e:type("num", inst.simd) .. " *detail" end
    if inst.draws then parameters[#parameters + 1] = ("ulong%s *draws"):format(inst.simd and self.lanes or "") end
    if inst.watches then parameters[#parameters + 1] = "lua_reads *reads" end
    local takes_mask = inst.simd and not is_plain(inst) and (inst ~= self.program.root or self.program.has_updates)
    if takes_mask then
        table.insert(parameters, 1, self.mask_type .. " m0")
        e.chain[1].full = false
    end
    local begin = #e.lines
    if not e:block(inst.def.body) and inst.results[1] then e:leave() end
    for i, line in ipairs(e.prologue) do table.insert(e.lines, begin + i, line) end
    if inst.simd and e.uses_result and e.lines[#e.lines] ~= "    return r1;" then e:line("return r1;") end
    local head = {}
    local result = inst.results[1] and e:type(inst.results[1].kind, inst.simd) or "void"
    -- noinline: PoCL would otherwise inline the function, and compile the copy at each call. Of
    -- functions that call themselves twice these would be 2^levels.
    local is_apart = e.uses_shared or inst.is_called_often
    head[1] = ("static %s%s %s(%s)\n{"):format(is_apart and "__attribute__((noinline)) " or "", result, self.function_names[inst],
        #parameters > 0 and table.concat(parameters, ", ") or "void")
    if e.uses_m0 and not takes_mask then head[#head + 1] = ("    %s m0 = -1;"):format(self.mask_type) end
    if e.uses_result then head[#head + 1] = ("    %s r1 = 0;"):format(result) end
    self.functions[#self.functions + 1] = ("// %s, %s:%d\n%s\n%s\n}\n"):format(inst.name or "the function",
        (inst.def.source or inst.fn.source).file, inst.def.line, table.concat(head, "\n"), table.concat(e.lines, "\n"))
end

-- Text that converts a value to the storage type of an output, as a cast in C (and in LuaJIT's FFI)
-- does.
function Unit:stored(c, kind, ctype, lanes)
    local suffix = lanes > 1 and tostring(lanes) or ""
    local target = C_ELEMENT[ctype] .. suffix
    if kind == "bool" then
        return lanes > 1 and ("convert_%s(%s & 1)"):format(target, c) or ("(uchar)(%s != 0)"):format(c)
    end
    if wide.KINDS[kind] then return wides.stored(c, kind, ctype, target, suffix) end
    if ctype == "double" or ctype == "float" then
        if kind ~= "num" then c = ("convert_%s%s(%s)"):format(self.real, suffix, c) end
        self:helper("lua_number", lanes)
        c = ("lua_number%s(%s)"):format(suffix, c)
        return ctype == self.real and c or ("convert_%s(%s)"):format(target, c)
    end
    -- A loop counter is converted as a number, so that values beyond an integer's range give the
    -- same.
    if kind == "long" then c = ("convert_%s%s(%s)"):format(self.real, suffix, c) end
    if kind ~= "int" then
        local helper = ctype == "uint32" and "lua_to_uint" or ctype == "int64" and "lua_to_long" or ctype == "uint64" and "lua_to_ulong"
            or "lua_to_int"
        self:helper(helper, lanes)
        c = ("%s%s(%s)"):format(helper, suffix, bare(c))
    end
    return ("convert_%s(%s)"):format(target, c)
end

-- Writes the declaration of the random stream of element `at` of the kernel's buffers; or those of
-- W elements, the last of which may be repeated.
function Unit:open_draws(at, lanes_left)
    local lanes = self.lanes
    self:helper("lua_open_draws", lanes)
    local index = ("index + %s"):format(at)
    if lanes > 1 then
        local places = {}
        for k = 0, lanes - 1 do places[k + 1] = ("%dUL"):format(k) end
        local place = ("(ulong%d)(%s)"):format(lanes, table.concat(places, ", "))
        if lanes_left then place = ("min(%s, (ulong%d)(%s - 1))"):format(place, lanes, lanes_left) end
        index = ("(ulong%d)(%s) + %s"):format(lanes, index, place)
    end
    local suffix = lanes > 1 and lanes or ""
    return ("ulong%s draws[2]; lua_open_draws%s(draws, key_0, key_1, %s);"):format(suffix, suffix, index)
end

return Unit
