-- holes.lua: lists of which elements may not be there: whose indexes are computed, as those of a
-- set (`seen[k] = true`) or of a sieve, or that begin below 0.
--
-- Such a list (class.has_holes) has beside its room another one, that says which elements are
-- there; `last`, the greatest index of these, or 0; and `n`, how many of them have an index from 1
-- on. It has a length if there is no hole among those: if n is last. A list is one of these when an
-- index that it is written at does not surely follow those before (`is_next`).

local classes = require "tidepool.translate.lower.classes"
local nodes = require "tidepool.translate.lower.nodes"
local places = require "tidepool.translate.lower.places"
local ranges = require "tidepool.translate.lower.ranges"
local trees = require "tidepool.translate.trees"

local holes = {}

local find = classes.find
local all_of, aside, binop, emit, if_statement = nodes.all_of, nodes.aside, nodes.binop, nodes.emit, nodes.if_statement
local node_at, number = nodes.node_at, nodes.number
local first_of, last_of, room_index, write_var = places.first_of, places.last_of, places.room_index, places.write_var

---------------------------------------------------------------------------------------------------
-- Which lists they are

--- Makes the class that of such a list.
function holes.note(L, class)
    class = classes.make_list(L, class)
    classes.learn(L, class, "has_holes", true)
    classes.learn(L, class, "grows", true)
end

--- Is the local only made greater, or less, by numbers that are known? Then it goes from one
--- element of a list to the next.
function holes.walks(L, var)
    local known = L.walking[var]
    if known ~= nil then return known end
    known = true
    trees.each_node(var.def.body, function(each)
        for i, target in ipairs(each.tag == "Assign" and each.targets or {}) do
            local value = each.exprs[i]
            local is_step = value and value.tag == "Binop" and (value.op == "+" or value.op == "-") and value.left.var == var
                and value.right.tag == "Number"
            if target.var == var and not is_step and not (value and value.tag == "Number") then known = false end
        end
    end)
    L.walking[var] = known
    return known
end

-- Does an assignment to this element surely read it, so that it is there?
local function reads(target, exprs)
    local found = false
    for _, tree in ipairs(exprs) do
        trees.each_node(tree, function(node)
            if node.tag == "And" or node.tag == "Or" or node.tag == "Function" then return true end
            found = found or node.tag == "Index" and nodes.is_same(node, target)
        end)
    end
    return found
end

--- Is an element with this index, as far as one can see, one that there is, or the next one?
--- `target`, `exprs`: the assignment in the text.
function holes.is_next(L, storage, key, target, exprs)
    if target and reads(target, exprs) then return true end
    local range, filled = ranges.range_of(L, key), storage.filled or find(storage.class).count or 0
    local is_known = range and not ranges.is_rough(key)
    storage.filled = math.max(filled, is_known and range[2] or math.huge)
    if key.tag ~= "Number" and not ranges.sequence_of(L, key) then return false end
    return not is_known or filled == 0 or range[1] <= filled + 1
end

---------------------------------------------------------------------------------------------------
-- What is done to them

local function top_of(L, at, list) return number(L, at, list.from + list.count - 1) end

-- Is the index, which is held, one of the room's?
local function is_inside(L, at, list, key) return nodes.is_within(L, at, key, number(L, at, list.from), top_of(L, at, list)) end

local function there(L, at, place, key)
    return node_at(L, at, "Cell", { var = place.storage.list.there, index = room_index(L, at, place, key) })
end

local function set_there(L, at, place, key, tag)
    emit(L, node_at(L, at, "Put", { var = place.storage.list.there, index = room_index(L, at, place, key), value = node_at(L, at, tag, {}) }))
end

-- Adds to the number of elements, if the index is one of those that count for a length.
local function count(L, at, place, key, by)
    local list = place.storage.list
    local n = places.read_var(L, at, list.n, place.at)
    local function add() write_var(L, at, list.n, place.at, binop(L, at, "+", n, number(L, at, by))) end
    if list.from >= 1 then return add() end
    local _, lines = aside(L, add)
    emit(L, if_statement(L, at, binop(L, at, ">=", key, number(L, at, 1)), lines))
end

--- Has the list an element with this index, which is held? A condition.
function holes.has(L, at, place, key)
    local list = place.storage.list
    if not list.there then return nodes.is_within(L, at, key, first_of(L, at, place), last_of(L, at, place)) end
    return all_of(L, at, { is_inside(L, at, list, key), there(L, at, place, key) })
end

--- Has it any?
function holes.has_some(L, at, place)
    local list = place.storage.list
    if not list.there then return binop(L, at, ">=", last_of(L, at, place), first_of(L, at, place)) end
    local cond = binop(L, at, ">", places.read_var(L, at, list.n, place.at), number(L, at, 0))
    for key = list.from, 0 do
        cond = node_at(L, at, "Or", { op = "or", left = cond, right = there(L, at, place, number(L, at, key)) })
    end
    return cond
end

--- Notes that an element with this index, which is held, is there from here on. Fails where there
--- is no room for it.
function holes.put(L, at, place, key)
    local storage = place.storage
    local list = storage.list
    local open = find(storage.class).open
    nodes.check(L, at, is_inside(L, at, list, key), { "index ", (" of '%s' is not one from %d to %d, for which it has room on a device%s"):format(
        storage.name, list.from, list.from + list.count - 1, open and "; nothing that is known beforehand bounds it more" or "") }, key)
    local _, lines = aside(L, function()
        set_there(L, at, place, key, "True")
        count(L, at, place, key, 1)
        local _, more = aside(L, function() write_var(L, at, list.last, place.at, key) end)
        emit(L, if_statement(L, at, binop(L, at, ">", key, places.read_var(L, at, list.last, place.at)), more))
    end)
    emit(L, if_statement(L, at, node_at(L, at, "Unop", { op = "not", expr = there(L, at, place, key) }), lines))
end

--- Takes the element with this index, which is held, away, if there is one.
function holes.take(L, at, place, key)
    local list = place.storage.list
    local _, lines = aside(L, function()
        set_there(L, at, place, key, "False")
        count(L, at, place, key, -1)
        -- the last one may be another one now
        local last = places.read_var(L, at, list.last, place.at)
        local is_free = all_of(L, at, { binop(L, at, ">=", last, number(L, at, 1)),
            node_at(L, at, "Unop", { op = "not", expr = there(L, at, place, last) }) })
        local _, less = aside(L, function() write_var(L, at, list.last, place.at, binop(L, at, "-", last, number(L, at, 1))) end)
        table.insert(less, 1, if_statement(L, at, node_at(L, at, "Unop", { op = "not", expr = is_free }), { node_at(L, at, "Break", {}) }))
        emit(L, node_at(L, at, "While", { cond = node_at(L, at, "True", {}), body = less }))
    end)
    emit(L, if_statement(L, at, holes.has(L, at, place, key), lines))
end

return holes
