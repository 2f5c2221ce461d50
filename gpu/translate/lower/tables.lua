-- tables.lua: evaluates a table's constructor: a new table, in storage of its own.

local calls = require "tidepool.translate.lower.calls"
local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local elements = require "tidepool.translate.lower.elements"
local facts = require "tidepool.translate.lower.facts"
local holes = require "tidepool.translate.lower.holes"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local places = require "tidepool.translate.lower.places"
local scopes = require "tidepool.translate.lower.scopes"
local walk = require "tidepool.translate.lower.walk"

local extend, field_class, find, new_class = classes.extend, classes.field_class, classes.find, classes.new_class
local note_change = classes.note_change
local hold_value, node_at, number, refuse = nodes.hold_value, nodes.node_at, nodes.number, nodes.refuse
local new_storage, note_copy, object, room_index = places.new_storage, places.note_copy, places.object, places.room_index
local write_var = places.write_var
local copy = elements.copy
local peek = facts.peek
local expr, expression = walk.expr, walk.expression

-- The class of the tables that a constructor makes. Of `{ ... }` there is one for each number of
-- values: so a list has the length that the call has given it.
local function class_of(L, node, count)
    local last = node.items[#node.items]
    local sites, key = L.sites, node
    if last and not last.key and calls.is_open(last.value) then
        L.open_sites[node] = L.open_sites[node] or {}
        sites, key = L.open_sites[node], count
    end
    if not sites[key] then
        sites[key] = new_class()
        sites[key].is_table = true
    end
    local class = find(sites[key])
    if not node.is_struct then class.is_lua = true end
    return class
end

-- A new table, in storage of its own.
function expression.Table(L, node)
    local name = L.naming
    L.naming = nil
    local at_index, given = 0, {}
    for i, item in ipairs(node.items) do
        local key = item.key
        if not key then
            if i == #node.items and calls.is_open(item.value) then
                for _, value in ipairs(calls.all_values(L, item.value)) do
                    at_index = at_index + 1
                    given[#given + 1] = { key = at_index, value = optional.settle(L, node, value) }
                end
            else
                at_index = at_index + 1
                given[#given + 1] = { key = at_index, value = expr(L, item.value), node = item.value }
            end
        else
            local constant = (key.tag == "String" or key.tag == "Number") and key.value
            if constant == false then
                local static = peek(L, key)
                constant = static and static.t == "scalar" and static.node.tag == "Fixed" and type(static.node.static.value) == "string"
                    and static.node.static.value
                if not constant then refuse(L, item.value, "a key that is computed, in a table's constructor; assign to the element behind it") end
                L.program.baked[static.node.static.key] = static.node.static
            end
            given[#given + 1] = { key = constant, value = expr(L, item.value), node = item.value }
        end
        local each = given[#given]
        if each then each.value = hold_value(L, node, each.value, "item") end
    end
    local class = class_of(L, node, at_index)
    if #given == at_index and at_index > 0 then
        if class.count and class.count ~= at_index and not class.grows then
            class.grows = true
            note_change(L)
        end
        class.count = class.count or at_index
    elseif at_index == 0 and not class.grows then
        class.grows = true
    end
    local storage = new_storage(L, node, class, name or "table")
    local place = object(storage)
    if storage.list and storage.list.there then
        local n, last = 0, 0
        for _, each in ipairs(given) do
            local is_nil = each.value.t == "scalar" and each.value.node.tag == "Nil"
            if type(each.key) == "number" and each.key >= 1 and not is_nil then n, last = n + 1, math.max(last, each.key) end
        end
        write_var(L, node, storage.list.n, nil, number(L, node, n))
        write_var(L, node, storage.list.last, nil, number(L, node, last))
    elseif storage.list and not storage.list.is_fixed then
        local low, high, count = at_index > 0 and 1 or math.huge, at_index > 0 and at_index or -math.huge, at_index
        for _, each in ipairs(given) do
            if type(each.key) == "number" and (each.key < 1 or each.key > at_index) then
                low, high, count = math.min(low, each.key), math.max(high, each.key), count + 1
            end
        end
        if count == 0 then low, high = 1, 0 end
        if count ~= high - low + 1 or low < 0 then holes.note(L, class) end
        write_var(L, node, storage.list.first, nil, number(L, node, low))
        write_var(L, node, storage.list.last, nil, number(L, node, high))
    end
    local made = {}
    for _, each in ipairs(given) do made[each.key] = each.value.t ~= "scalar" or each.value.node.tag ~= "Nil" or nil end
    classes.note_late(L, class, made)
    for _, each in ipairs(given) do
        if choices.is_function(each.value) then
            storage.functions = storage.functions or {}
            storage.functions[each.key] = each.value
            goto next_item
        end
        local is_nil = each.value.t == "scalar" and each.value.node.tag == "Nil"
        local field = field_class(L, class, each.key)
        if each.value.t ~= "scalar" and not field.is_table then
            field.is_table = true
            note_change(L)
        end
        if class.has_list and type(each.key) == "number" then extend(L, class, each.key, each.key) end
        if is_nil and type(each.key) == "number" then
            class.has_hole = true
            if class.has_list then holes.note(L, class) end
        end
        if not is_nil then
            local target
            if storage.list and type(each.key) == "number" then
                local list = storage.list
                if each.key >= list.from and each.key < list.from + list.count then
                    local at = room_index(L, node, place, number(L, node, each.key))
                    target = object(list.element, at)
                    if list.there then write_var(L, node, list.there, at, node_at(L, node, "True", {})) end
                end
            elseif storage.fields[each.key] then
                target = object(storage.fields[each.key])
            end
            if target then
                copy(L, node, target, each.value)
                if scopes.is_named(each.node, each.value) then note_copy(L, node, each.value, target) end
            end
        end
        ::next_item::
    end
    return place
end
