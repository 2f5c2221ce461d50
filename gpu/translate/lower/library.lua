-- library.lua: functions of Lua's library that take tables.

local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local holes = require "tidepool.translate.lower.holes"
local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local places = require "tidepool.translate.lower.places"
local ranges = require "tidepool.translate.lower.ranges"
local scopes = require "tidepool.translate.lower.scopes"
local symbols = require "tidepool.translate.lower.symbols"
local texts = require "tidepool.translate.lower.texts"
local walk = require "tidepool.translate.lower.walk"

local library = {}

local field_class, find, make_list, note_change = classes.field_class, classes.find, classes.make_list, classes.note_change
local aside, binop, check, emit, hold, if_statement = nodes.aside, nodes.binop, nodes.check, nodes.emit, nodes.hold, nodes.if_statement
local is_within, name_of, new_local, node_at, number = nodes.is_within, nodes.name_of, nodes.new_local, nodes.node_at, nodes.number
local refuse, scalar = nodes.refuse, nodes.scalar
local check_index, first_of, last_of, note_mutation = places.check_index, places.first_of, places.last_of, places.note_mutation
local object = places.object
local range_of = ranges.range_of
local room_index, value_of, write_var = places.room_index, places.value_of, places.write_var
local copy, index_value = elements.copy, elements.index_value
local inline, own_functions = inlining.inline, inlining.own_functions

function library.setmetatable(L, node, values)
    local target, meta = values[1], values[2]
    if not target or target.t ~= "object" or not meta or meta.t ~= "static" or type(meta.static.value) ~= "table" then
        refuse(L, node, "setmetatable of something else than a new table and a table that is captured")
    end
    local class = find(target.storage.class)
    if class.meta and class.meta.value ~= meta.static.value then
        refuse(L, node, "tables with different metatables in one place")
    end
    if not class.meta then
        class.meta = meta.static
        note_change(L)
    end
    L.program.baked[meta.static.key] = meta.static
    return { target }
end

-- How often a statement here can be run at most, for one time that the storage is made; or nil, and
-- the loop of which that is not known.
local function times_here(L, storage)
    local times, open = 1, nil
    for i = storage.loops + 1, #L.loops do
        local loop = L.loops[i]
        if not loop.times then return nil, loop end
        open = open or loop.is_open and loop
        times = times * loop.times
    end
    -- As often as a list is long of which that is not known: so many are hardly meant.
    if open and times > L.open_room then return nil, open end
    return times
end
library.times_here = times_here

-- Makes room for one more element, and gives its place.
local function append_place(L, at, place)
    local class = make_list(L, place.storage.class)
    if not class.grows then
        class.grows = true
        note_change(L)
    end
    local root = place.storage
    local times, loop = times_here(L, root.root)
    if times then
        root.appended = (root.appended or 0) + times
        classes.lengthen(L, class, "appended", root.appended, at.line)
    elseif loop.is_recursion then
        refuse(L, at, "'%s' grows in '%s', which calls itself, and how far is not known before it runs; give a bound, as in recursion_limit = 16",
            root.root.name, loop.is_recursion)
    else
        classes.open(L, class, loop.line)
    end
    local list = root.list
    if not list or list.is_fixed then return end
    local last = hold(L, at, binop(L, at, "+", last_of(L, at, place), number(L, at, 1)), "last")
    check(L, at, binop(L, at, "<", last, number(L, at, list.from + list.count)), places.no_room(place), not class.open and last)
    if list.there then holes.put(L, at, place, last) else write_var(L, at, list.last, place.at, last) end
    return object(list.element, hold(L, at, room_index(L, at, place, last), "at"))
end
library.append_place = append_place

local insert_text = [[
return function(t, at, v)
  t[#t + 1] = v
  for i = #t - 1, at, -1 do t[i], t[i + 1] = t[i + 1], t[i] end
end]]
local insert = own_functions("table.insert", insert_text)

function library.insert(L, node, values)
    if #values < 2 or #values > 3 or values[1].t ~= "object" then
        refuse(L, node, "table.insert into something else than a local list; on a device captured tables are only read")
    end
    if values[3] then
        local at, place = values[2], values[1]
        if at.t ~= "scalar" then refuse(L, node, "table.insert at a position that is no number") end
        make_list(L, place.storage.class)
        if place.storage.list then
            local behind = binop(L, node, "+", last_of(L, node, place), number(L, node, 1))
            check(L, node, is_within(L, node, at.node, first_of(L, node, place), behind),
                { "position ", (" of table.insert is not in '%s', or is not a whole number"):format(place.storage.name) }, at.node)
        end
        local is_named = scopes.is_named(node.args[3], values[3])
        inline(L, node, insert, values)
        if values[3].t == "object" and not is_named then values[3].storage.root.is_alive = false end -- only its copy can be reached
        return {}
    end
    note_mutation(L, node, values[1])
    local place = append_place(L, node, values[1])
    if values[2].t ~= "scalar" then field_class(L, values[1].storage.class, "*").is_table = true end
    if place then
        copy(L, node, place, values[2])
        if scopes.is_named(node.args[2], values[2]) then places.note_copy(L, node, values[2], place) end
    end
    return {}
end

local function becomes_shorter(L, class)
    class = make_list(L, class)
    if not class.grows then
        class.grows = true
        note_change(L)
    end
end

-- Takes the element away: moves it to the end, where table.remove takes it.
local remove_text = [[
return function(t, at)
  for i = at, #t - 1 do t[i], t[i + 1] = t[i + 1], t[i] end
end]]
local move_to_end = own_functions("table.remove", remove_text)

function library.remove(L, node, values)
    if #values < 1 or #values > 2 or values[1].t ~= "object" then
        refuse(L, node, "table.remove from something else than a local list; on a device captured tables are only read")
    end
    local place, at = values[1], values[2]
    note_mutation(L, node, place)
    becomes_shorter(L, place.storage.class)
    local list = place.storage.list
    if not list or list.is_fixed then return { scalar(number(L, node, 1)) } end
    local first, last = first_of(L, node, place), hold(L, node, last_of(L, node, place), "last")
    local is_asked = L.optional[node]
    local flag, value
    local function take()
        if at then inline(L, node, move_to_end, values) end
        value = value_of(L, node, list.element, hold(L, node, room_index(L, node, place, last), "at"))
        if list.there then return holes.take(L, node, place, last) end
        write_var(L, node, list.last, place.at, binop(L, node, "-", last, number(L, node, 1)))
    end
    if not is_asked then
        check_index(L, node, place, at and at.node or last)
        take()
        if value.t == "scalar" then
            value = scalar(hold(L, node, value.node, "removed"))
        end
        value.origin, value.is_element = node, true
        return { value }
    end
    flag = new_local(L, "has an element", node)
    flag.is_flag = true
    local is_there = at and is_within(L, node, at.node, first, last) or binop(L, node, ">=", last, first)
    emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { is_there } }))
    local element = new_local(L, "removed", node, true)
    element.is_guarded = true
    local at_end = hold(L, node, room_index(L, node, place, last), "at")
    local _, lines = aside(L, function()
        take()
        if value.t == "scalar" then emit(L, node_at(L, node, "Assign", { targets = { name_of(L, node, element) }, exprs = { value.node } })) end
    end)
    if value.t == "scalar" then emit(L, node_at(L, node, "Local", { vars = { element }, exprs = {} })) end
    emit(L, if_statement(L, node, name_of(L, node, flag), lines))
    value = value.t == "scalar" and scalar(name_of(L, node, element), value.class) or object(list.element, at_end)
    value.flag, value.is_element, value.why = flag, true, ("'%s' had no such element"):format(place.storage.name)
    return { value }
end

-- Sorts by insertion: lists here are short.
local sort_text = [[
return function(t, less)
  for i = 2, #t do
    local v, j = t[i], i - 1
    while j >= 1 and less(v, t[j]) do
      t[j + 1] = t[j]
      j = j - 1
    end
    t[j + 1] = v
  end
end, function(a, b) return a < b end]]

local sort, less = own_functions("table.sort", sort_text)

function library.sort(L, node, values)
    if not values[1] or values[1].t ~= "object" then refuse(L,
        node, "table.sort of a table from outside; on a device captured tables are only read") end
    inline(L, node, sort, { values[1], values[2] or less })
    return {}
end

-- A bound that has to be a known number; nil where it is not given.
local function bound(L, node, value, what)
    if not value or value.t == "scalar" and value.node.tag == "Nil" then return end
    local range = value.t == "scalar" and range_of(L, value.node)
    if not range or range[1] ~= range[2] or not range[3] then refuse(L, node, "%s with bounds that are not known before it runs", what) end
    return range[1]
end

local UNPACKED_MAX = 64

function library.unpack(L, node, values)
    local place, list = values[1], {}
    local from, to = bound(L, node, values[2], "unpack") or 1, bound(L, node, values[3], "unpack")
    if place and place.class and find(place.class).is_table and L.changed then
        return { scalar(number(L, node, 1)) } -- the next round will know the table
    end
    if not place or place.t == "scalar" or place.t == "function" then refuse(L, node, "unpack of something that is no table") end
    if not to and place.t == "object" then
        local class = find(place.storage.class)
        if class.grows or not class.count then
            refuse(L, node, "unpack of a list whose length is not known before it runs; give it bounds: unpack(t, 1, 3)")
        end
        to = class.count
    elseif not to then
        local static = place.static
        if type(static.value) ~= "table" or place.t ~= "static" then
            refuse(L, node, "unpack of a row; give it bounds: unpack(t, 1, 3)")
        end
        to = #static.value
        L.program.baked["#" .. static.key] = { path = "#" .. static.path, value = to, read = function() return #static.read() end }
    end
    if to - from >= UNPACKED_MAX then refuse(L, node, "unpack of more than %d elements", UNPACKED_MAX) end
    for i = from, to do list[#list + 1] = index_value(L, node, place, number(L, node, i)) end
    return list
end

-- The values of select are as they are, since nobody has asked for them: they may have flags.
function library.select(L, node, values)
    local which = values[1]
    if not which then refuse(L, node, "select without arguments") end
    local text = texts.text_of(which)
    if text and text.value == "#" then return { scalar(number(L, node, #values - 1)) } end
    local range = which.t == "scalar" and range_of(L, which.node)
    if not range then
        if which.t ~= "scalar" or text then refuse(L, node, "select with something else than a number or '#'") end
    elseif range[1] == range[2] then
        local from = range[1] < 0 and #values + math.ceil(range[1]) or math.floor(range[1])
        if from < 1 then refuse(L, node, "select with the index %g, which is out of range", range[1]) end
        local list = {}
        for i = from + 1, #values do list[#list + 1] = values[i] end
        return list
    end
    -- one of them, by an index that is computed: they are put into a list
    local items = {}
    for i = 2, #values do items[i - 1] = { value = { tag = "Given", line = node.line, value = values[i] } } end
    if #items == 0 then refuse(L, node, "select from nothing") end
    local made = L.selected[node] or {}
    L.selected[node] = made
    made[#items] = made[#items] or { tag = "Table", line = node.line }
    made[#items].items = items
    local key = hold(L, node, which.node, "index")
    local list = walk.expr(L, made[#items])
    return { index_value(L, node, list, key), is_cut = true }
end

local function text_of(L, node, values, name)
    return texts.text_of(values[1]) or refuse(L, node, "string.%s of something else than a text that is known beforehand", name)
end

-- What a function gives of texts and numbers that are known beforehand; nil where not all are.
local function known_text(L, node, fn, values)
    local given, count = {}, #values
    for i, value in ipairs(values) do
        local text, made = texts.text_of(value), value.t == "scalar" and value.node
        if text and made.tag == "Fixed" then L.program.baked[text.key] = text end
        if not text and not (made and made.tag == "Number") and not (made and made.tag == "Nil" and i > 1) then return end
        given[i] = text and text.value
        if not text then given[i] = made.value end
    end
    local fine, made = pcall(fn, unpack(given, 1, count))
    if not fine then refuse(L, node, "%s", made) end
    if made == nil then return { scalar(node_at(L, node, "Nil", {})) } end
    return { scalar(node_at(L, node, type(made) == "string" and "String" or "Number", { value = made })) }
end

-- A byte of a text as a text: s:sub(i, i); nil where both indexes are not the same.
local function char_of(L, node, values)
    local a, b = node.args[#node.args - 1], node.args[#node.args]
    if #values ~= 3 or not nodes.is_same(a, b) or not texts.text_of(values[1]) then return end
    local is_there, byte = texts.byte(L, node, texts.text_of(values[1]), { values[2] })
    local var = new_local(L, "char", node, true)
    emit(L, node_at(L, node, "Local", { vars = { var }, exprs = { number(L, node, symbols.id_of(L.ids, "")) } }))
    emit(L, if_statement(L, node, is_there, { node_at(L, node, "Assign", { targets = { name_of(L, node, var) }, exprs = { byte.node } }) }))
    return { scalar(symbols.wrap(L, node, name_of(L, node, var), true)) }
end

-- Several bytes of a text that is known, between bounds that are.
local function bytes_of(L, node, values)
    local text = text_of(L, node, values, "byte")
    local from, to = bound(L, node, values[2], "string.byte of several bytes"), bound(L, node, values[3], "string.byte of several bytes")
    if values[1].node.tag == "Fixed" then L.program.baked[text.key] = text end
    local list = { text.value:byte(from or 1, to) }
    for i, byte in ipairs(list) do list[i] = scalar(number(L, node, byte)) end
    return list
end

-- Functions of texts, by their names in `string`; as methods, too.
library.of_texts = {
    sub = function(L, node, values)
        return known_text(L, node, string.sub, values) or char_of(L, node, values)
            or refuse(L, node, "a part of a text; there are no strings on a device but those that are known beforehand, and s:sub(i, i) of them")
    end,
    byte = function(L, node, values)
        if #values == 3 then return bytes_of(L, node, values) end
        local _, byte = texts.byte(L, node, text_of(L, node, values, "byte"), { select(2, unpack(values)) })
        return { byte }
    end,
    len = function(L, node, values) return { texts.length(L, node, text_of(L, node, values, "len")) } end,
}

for _, name in ipairs { "upper", "lower", "rep", "reverse" } do
    library.of_texts[name] = function(L, node, values)
        return known_text(L, node, string[name], values) or refuse(L, node, "string.%s of something else than a text that is known beforehand", name)
    end
end

-- A text that is known, as a number; nil of other values.
function library.tonumber(L, node, values)
    local made = values[1] and values[1].t == "scalar" and #values == 1 and values[1].node
    if made and made.tag == "Symbol" and made.is_char then
        -- one byte, of which the digits are numbers
        local id = hold(L, node, made.node, "char")
        local flag = new_local(L, "has a number", node)
        flag.is_flag = true
        emit(L, node_at(L, node, "Local", { vars = { flag }, exprs = { is_within(L, node, id, number(L, node, 48), number(L, node, 57)) } }))
        local value = scalar(hold(L, node, binop(L, node, "-", id, number(L, node, 48)), "digit"))
        value.flag, value.is_element, value.why = flag, true, "the text is no number"
        return { value }
    end
    return values[1] and texts.text_of(values[1]) and known_text(L, node, tonumber, values)
end

library.functions = {
    [setmetatable] = library.setmetatable, [table.insert] = library.insert, [table.remove] = library.remove, [table.sort] = library.sort,
    [unpack] = library.unpack }
for name, fn in pairs(library.of_texts) do library.functions[string[name]] = fn end

return library
