-- library.lua: functions of Lua's library that take tables.

local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local inlining = require "tidepool.translate.lower.inlining"
local nodes = require "tidepool.translate.lower.nodes"
local places = require "tidepool.translate.lower.places"
local texts = require "tidepool.translate.lower.texts"

local library = {}

local field_class, find, make_list, note_change = classes.field_class, classes.find, classes.make_list, classes.note_change
local binop, check, hold, number, refuse, scalar = nodes.binop, nodes.check, nodes.hold, nodes.number, nodes.refuse, nodes.scalar
local check_index, last_of, note_mutation, object = places.check_index, places.last_of, places.note_mutation, places.object
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

-- How often a statement here can be run at most, for one time that the storage is made.
local function times_here(L, at, storage, is_optional)
    local times = 1
    for i = storage.loops + 1, #L.loops do
        local loop = L.loops[i]
        if not loop.times and is_optional then return end
        if not loop.times then
            refuse(L, at, "'%s' grows in the loop of line %d, whose number of turns is not known before it runs; give the loop a constant limit",
                storage.name, loop.line)
        end
        times = times * loop.times
    end
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
    root.appended = (root.appended or 0) + times_here(L, at, root.root)
    if root.appended > (class.appended or 0) then
        class.appended = root.appended
        note_change(L)
    end
    local list = root.list
    if not list or list.is_fixed then return end
    local last = hold(L, at, binop(L, at, "+", last_of(L, at, place), number(L, at, 1)), "last")
    check(L, at, binop(L, at, "<", last, number(L, at, list.from + list.count)), { "index ", (" of '%s' has no room there"):format(root.name) }, last)
    write_var(L, at, list.last, place.at, last)
    return object(list.element, hold(L, at, room_index(L, at, place, last), "at"))
end
library.append_place = append_place

function library.insert(L, node, values)
    if #values ~= 2 or values[1].t ~= "object" then
        refuse(L, node, "table.insert in the middle, or into a table from outside; on a device elements are added at the end of a local list")
    end
    note_mutation(L, node, values[1])
    local place = append_place(L, node, values[1])
    if values[2].t ~= "scalar" then field_class(L, values[1].storage.class, "*").is_table = true end
    if place then copy(L, node, place, values[2]) end
    return {}
end

function library.remove(L, node, values)
    if #values ~= 1 or values[1].t ~= "object" then refuse(L,
        node, "table.remove from the middle; on a device it takes the last element of a local list") end
    local place = values[1]
    note_mutation(L, node, place)
    local class = make_list(L, place.storage.class)
    if not class.grows then
        class.grows = true
        note_change(L)
    end
    local list = place.storage.list
    if not list or list.is_fixed then return { scalar(number(L, node, 1)) } end
    local last = hold(L, node, last_of(L, node, place), "last")
    check_index(L, node, place, last)
    local value = value_of(L, node, list.element, room_index(L, node, place, last))
    if value.t == "scalar" then value = scalar(hold(L, node, value.node, "removed")) end
    write_var(L, node, list.last, place.at, binop(L, node, "-", last, number(L, node, 1)))
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

function library.unpack(L, node, values)
    local place = values[1]
    if #values ~= 1 or not place or place.t ~= "object" then refuse(L, node, "unpack of something else than a whole local table") end
    local class, list = find(place.storage.class), {}
    if class.grows or not class.count then refuse(L, node, "unpack of a list whose length is not known before it runs") end
    for i = 1, class.count do list[i] = index_value(L, node, place, number(L, node, i)) end
    return list
end

local function text_of(L, node, values, name)
    return texts.text_of(values[1]) or refuse(L, node, "string.%s of something else than a text that is known beforehand", name)
end

-- Functions of texts, by their names in `string`; as methods, too.
library.of_texts = {
    byte = function(L, node, values)
        local _, byte = texts.byte(L, node, text_of(L, node, values, "byte"), { select(2, unpack(values)) })
        return { byte }
    end,
    len = function(L, node, values) return { texts.length(L, node, text_of(L, node, values, "len")) } end,
}

library.functions = {
    [setmetatable] = library.setmetatable, [table.insert] = library.insert, [table.remove] = library.remove, [table.sort] = library.sort,
    [unpack] = library.unpack, [string.byte] = library.of_texts.byte, [string.len] = library.of_texts.len,
}

return library
