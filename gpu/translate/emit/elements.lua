-- elements.lua: writes what reads elements of captured arrays, a[i], and of matrices, a:at(y, x),
-- and where what writes them finds them.

local infer = require "tidepool.translate.infer"
local emitter = require "tidepool.translate.emit.emitter"
local runs = require "tidepool.translate.emit.runs"
local trees = require "tidepool.translate.trees"

local number_text, bare = emitter.number_text, emitter.bare

local elements = {}

-- The positions, from 0, of lanes in an array; 0 in lanes that are off. Lanes whose index is not in
-- 1..length fail.
local function places_of_lanes(self, node, index, length)
    local i, bad, at = self:temp "i", self:temp "m", self:temp "k"
    self:line("%s %s = %s;", self:type("num", true), i, bare(self:as(index, "num", true)))
    self:line("%s %s = %s;", self.mask_type, bad,
        bare(self:masked(("~%s(%s, (%s)%s)"):format(self:need("lua_is_index", true), i, self.real, length))))
    self:open("if (any(%s)) {", bad)
    self:fail(("%d"):format(self.inst.codes[node]), bad, { i })
    self:close()
    self:line("int%d %s = select((int%d)(0), convert_int%d(%s - %s), %s);", self.lanes, at, self.lanes, self.lanes, i, number_text(1, self.single),
        self:mask_for("int", self:mask()))
    return at
end

-- The same for an index that is the same in all lanes: its position, an int, and, where all lanes
-- may have failed by now, a condition that it is valid. What is within the bounds fits, since an
-- array has fewer than 2^31 elements.
local function place_of(self, node, index, length)
    local i = self:temp "i"
    local check
    if index.kind == "num" then
        self:line("%s %s = %s;", self.real, i, bare(index.c))
        check = ("%s(%s, (%s)%s)"):format(self:need("lua_is_index", false), i, self.real, length)
        self:open("if (!%s) {", check)
        self:fail(("%d"):format(self.inst.codes[node]), nil, { i })
    else
        self:line("%s %s = %s;", index.range and "int" or "long", i, bare(index.range and index.c or self:as(index, "long", false)))
        check = ("%s >= 1 && %s <= %s"):format(i, i, length)
        self:open("if (%s < 1 || %s > %s) {", i, i, length)
        self:fail(("%d"):format(self.inst.codes[node]), nil, { ("(%s)%s"):format(self.real, i) })
    end
    self:close()
    return index.range and ("%s - 1"):format(i) or ("(int)%s - 1"):format(i), self.inst.simd and #self.chain > 1 and check or nil
end

-- Calls the function that reads or writes elements of all lanes, where many places share it; gives
-- the call's text. `value`: what is written.
local function shared_access(self, node, entry, index, value)
    local array, length = self.unit:capture_name(entry)
    local bad = self:temp "m"
    local name = self.unit:access(entry, self.inst.types[node], value ~= nil)
    local i = bare(self:as(index, "num", true))
    self:line("%s %s = %s;", self.mask_type, bad, self:mask() or "-1")
    self.uses_shared = true
    return ("%s(%s, %s, %s, %s&%s, %d, status, detail)"):format(name, array, length, i, value and bare(value) .. ", " or "", bad,
        self.inst.codes[node]), bad
end

-- An element of a captured array. The index is checked: an element (or lane) of the map whose index
-- is wrong fails.
function elements.element(self, node)
    local static, key = infer.source_of(self.inst, node)
    local entry = self.inst.captured["array" .. static.key]
    local array, length = self.unit:capture_name(entry)
    local kind = self.inst.types[node]
    local index = self:expr(key)
    local c_type = self:type(kind, false)
    local t = self:temp "t"
    if index.varies then
        local has_run = index.run and runs.may_step(self, index.run, 1)
        local to = ("%s %s"):format(self:type(kind, true), t)
        if has_run then
            local when = {}
            self:line("%s;", to)
            to = t
            local first = runs.begin(self, index.run, 1, when)
            self:open("if (%s && %s >= 1 && %s <= (long)%s - %d) {", table.concat(when, " && "), first, first, length, self.lanes - 1)
            self:line("%s = %s;", t, self.unit:load_run(entry, kind, ("(%s - 1)"):format(first), true))
            self:close "} else {"
            self.indent = self.indent + 1
        end
        if self.unit:is_shared(entry, false) then
            local call, bad = shared_access(self, node, entry, index)
            self:line("%s = %s;", to, call)
            self:kill(bad, 1, #self.chain)
        else
            local at = places_of_lanes(self, node, index, length)
            self:line("%s = %s(%s, %s);", to, self.unit:load(entry, kind, has_run), array, at)
        end
        if has_run then self:close() end
        return { c = t, kind = kind, varies = true }
    end
    local at, check = place_of(self, node, index, length)
    local read = ("(%s)%s"):format(c_type, self:read_watched(node, entry, ("%s[%s]"):format(array, at)))
    self:line("%s %s = %s;", c_type, t, check and ("%s ? %s : 0"):format(check, read) or read)
    return { c = t, kind = kind, varies = false }
end

-- C's type for positions in arrays, which have fewer than 2^31 elements. On cards those of 32 bits
-- are less work; on processors a position is an address, and 64 bits are none.
local function offset_type(self, varies)
    return (varies or self.lanes == 1) and "int" or "long"
end

-- What is known of one index of an element of a matrix, along a dimension of `size` elements: { k =
-- its position, from 0; inside = whether it is within the bounds; right = whether it is none that
-- fails, where `is_checked`; i = the index itself, of that kind; varies }. The position is always
-- within the bounds, whatever the index, so that reading there is safe.
local function measure(self, index, size, mode, is_checked)
    local varies, is_real = index.varies, index.kind == "num"
    local kind = is_real and "num" or "long"
    local one_lane, all_lanes = self:type(kind, false), self:type(kind, varies)
    local i, n, one = self:temp "i", self:temp "n", is_real and number_text(1, self.single) or "1"
    self:line("%s %s = %s;", all_lanes, i, bare(self:as(index, kind, varies)))
    self:line("%s %s = (%s)%s;", one_lane, n, one_lane, self.unit:capture_name(size))
    local made = { i = i, kind = kind, varies = varies, k = self:temp "k" }
    made.inside = (varies and "((%s >= %s) & (%s <= %s))" or "(%s >= %s && %s <= %s)"):format(i, one, i, n)
    if varies and self.single and not is_real then made.inside = ("convert_%s(%s)"):format(self.mask_type, made.inside) end
    if is_checked then
        made.right = mode and ("%s(%s)"):format(self:need("lua_is_whole", varies), i)
            or is_real and ("%s(%s, %s)"):format(self:need("lua_is_index", varies), i, n) or made.inside
    end
    if mode == "wrap" then i = ("%s(%s, %s)"):format(self:need(is_real and "lua_wrap" or "lua_wrap_long", varies), i, n) end
    local most, least = n, is_real and one or "1L"
    if varies then most, least = ("(%s)(%s)"):format(all_lanes, n), ("(%s)(%s)"):format(all_lanes, one) end
    local p = (is_real and "fmax(fmin(%s, %s), %s) - %s" or "max(min(%s, %s), %s) - %s"):format(i, most, least, one)
    if varies then
        self:line("int%d %s = convert_int%d(%s);", self.lanes, made.k, self.lanes, p)
    else
        self:line("%s %s = (%s)(%s);", offset_type(self, false), made.k, offset_type(self, false), p)
    end
    return made
end

-- The same for a parameter, which is measured once, where the function begins: `wrong` is the mask
-- of the lanes whose index is wrong, and `has_wrong` whether there is one. nil for other indexes.
local function measure_parameter(self, node, size, mode, is_checked)
    node = trees.bare(node)
    local var = node.tag == "Name" and not infer.static_of(self.inst, node) and node.var
    local known = var and self.inst.is_parameter[var] and not var.assigned and self.inst.vars[var]
    if not known or not known.varies or not self.names[var] or self.inst.states[node] == "nil" then return nil end
    self.measured[var] = self.measured[var] or {}
    local of = self.measured[var]
    local key = size.key .. (mode or "")
    of[key] = of[key] or self:at_start(function()
        local made = measure(self, self:expr(node), size, mode, is_checked)
        if is_checked then
            made.wrong, made.has_wrong = self:temp "m", self:temp "b"
            self:line("%s %s = ~%s;", self.mask_type, made.wrong, made.right)
            self:line("int %s = any(%s);", made.has_wrong, made.wrong)
        end
        return made
    end)
    return of[key]
end

-- Fails for the lanes whose index is wrong.
local function check_measured(self, made, code)
    local detail = self:as({ c = made.i, kind = made.kind, varies = made.varies }, "num", made.varies)
    if not made.varies then
        self:open("if (!%s) {", made.right)
        self:fail(("%d"):format(code), nil, { detail })
        self:close()
        return
    end
    if made.has_wrong then self:open("if (%s) {", made.has_wrong) end
    local bad = self:temp "m"
    self:line("%s %s = %s;", self.mask_type, bad, bare(self:masked(made.wrong or "~" .. made.right)))
    self:open("if (any(%s)) {", bad)
    self:fail(("%d"):format(code), bad, { detail })
    self:close()
    if made.has_wrong then self:close() end
end

-- The same for index i of an element of a matrix.
local function measure_at(self, place, i, index)
    local size, is_checked, mode = place.sizes[i], place.codes[i] ~= nil, place.modes[i]
    return measure_parameter(self, place.indexes[i], size, mode, is_checked) or measure(self, index, size, mode, is_checked)
end

-- The indexes of an element of a matrix.
local function indexes_of(self, place)
    local indexes = {}
    for i in ipairs(place.sizes) do indexes[i] = self:expr(place.indexes[i]) end
    return indexes
end

-- Where an element of a matrix lies: its position from 0, and for each index whether it is inside.
-- `known`: what is known of some of the indexes already.
local function position(self, place, indexes, varies, known)
    local integer = offset_type(self, varies)
    local at, inside, is_one = nil, {}, true
    for i, size in ipairs(place.sizes) do
        local made = known and known[i] or measure_at(self, place, i, indexes[i])
        if place.codes[i] then check_measured(self, made, place.codes[i]) end
        is_one = is_one and not made.varies
        local k = varies and not made.varies and ("(int)%s"):format(made.k) or made.k
        at = at and ("%s * (%s)%s + %s"):format(i > 2 and "(" .. at .. ")" or at, integer, self.unit:capture_name(size), k) or k
        inside[i] = varies and not made.varies and ("(%s)(%s ? -1 : 0)"):format(self.mask_type, made.inside) or made.inside
    end
    if varies and is_one then at = ("(int%d)(%s)"):format(self.lanes, at) end
    return at, inside
end

-- The index of the element that a:set(y, x, v) writes.
function elements.place(self, node)
    local place, varies = self.inst.places[node], self.inst.varies[node]
    local at = position(self, place, indexes_of(self, place), varies)
    local c = ("(convert_%s(%s) + %s)"):format(self:type("num", varies), at, number_text(1, self.single))
    return self:hold { c = c, kind = "num", varies = varies }
end

-- Declares t, writes the line that reads an element of a matrix into it where lanes are neighbours,
-- and opens the clause for where they are not; gives what is known of the indexes that all lanes
-- share. Nothing, and nil, where lanes cannot be neighbours.
local function read_run(self, place, indexes, kind, t)
    local steps, last = {}, #indexes
    for i, index in ipairs(indexes) do
        steps[i] = index.varies and (i == last and 1 or 0)
        if index.varies and not (index.run and runs.may_step(self, index.run, steps[i])) then return nil end
    end
    local known, at, when = {}, nil, {}
    for i, index in ipairs(indexes) do
        local size = ("(long)%s"):format(self.unit:capture_name(place.sizes[i]))
        local k
        if steps[i] then
            local first = runs.begin(self, index.run, steps[i], when)
            when[#when + 1] = ("%s >= 1 && %s <= %s%s"):format(first, first, size, steps[i] == 1 and (" - %d"):format(self.lanes - 1) or "")
            k = ("(%s - 1)"):format(first)
        else
            known[i] = measure_at(self, place, i, index)
            if place.codes[i] then when[#when + 1] = known[i].right end
            if place.modes[i] == "number" then when[#when + 1] = known[i].inside end
            k = known[i].k
        end
        at = at and ("%s * %s + %s"):format(i > 2 and "(" .. at .. ")" or at, size, k) or k
    end
    self:line("%s %s;", self:type(kind, true), t)
    self:open("if (%s) {", table.concat(when, " && "))
    local read = self.unit:load_run(place.array, place.kind, at, steps[last] == 1)
    self:line("%s = %s;", t, self:as({ c = read, kind = place.kind, varies = true }, kind, true))
    self:close "} else {"
    self.indent = self.indent + 1
    return known
end

-- An element of a matrix: a:at(y, x, border).
function elements.method(self, node)
    local place, varies = self.inst.places[node], self.inst.varies[node]
    local kind = self.inst.types[node]
    local indexes = indexes_of(self, place)
    local border = place.border and self:as(self:expr(place.border), kind, varies)
    local array, t = self.unit:capture_name(place.array), self:temp "t"
    if varies then
        local known = read_run(self, place, indexes, kind, t)
        local at, inside = position(self, place, indexes, true, known)
        local read = ("%s(%s, %s)"):format(self.unit:load(place.array, place.kind, known ~= nil), array, at)
        self:line("%s%s = %s;", known and "" or self:type(kind, true) .. " ", t, self:as({ c = read, kind = place.kind, varies = true }, kind, true))
        if border then self:line("%s = select(%s, %s, %s);", t, bare(border), t, self:mask_for(kind, table.concat(inside, " & "))) end
        if known then self:close() end
    else
        local at, inside = position(self, place, indexes, false)
        local is_inside = border and table.concat(inside, " && ")
        local read = ("(%s)%s"):format(self:type(kind, false), self:read_watched(node, place.array, ("%s[%s]"):format(array, at), is_inside))
        self:line("%s %s = %s;", self:type(kind, false), t, border and ("%s ? %s : %s"):format(is_inside, read, border) or read)
    end
    return { c = t, kind = kind, varies = varies }
end

elements.places_of_lanes, elements.place_of, elements.shared_access = places_of_lanes, place_of, shared_access

return elements
